"""Official PyTorch names onto ours: modules carry the same names, so only batch norm's fields are renamed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from msposenet.errors import CheckpointError
from msposenet.runtime import mx
from msposenet.weights.arrays import Filled, set_arrays
from msposenet.weights.naming import official_name

__all__ = ["load_torch_state_dict", "official_name"]


def load_torch_state_dict(net, state_dict: Mapping[str, np.ndarray], strict: bool = True) -> Filled:
    """Fill `net` from arrays under official names (`num_batches_tracked` is ignored).

    The network is initialised first where it has no values yet. With `strict`, every array of the network must be
    given and every array given must be used, else CheckpointError; without, the rest keeps the network's values, and
    what was filled, left and unused is returned. An array of the right name and another shape is always an error.
    """
    parameters = net._collect_params_with_prefix()
    wanted = {official_name(name): name for name in parameters}
    given = {name: np.asarray(array) for name, array in state_dict.items() if not name.endswith("num_batches_tracked")}
    for parameter in parameters.values():
        if parameter._data is None:
            parameter.initialize(init=mx.init.Normal(0.001))
    ours = {wanted.get(name, name): array for name, array in given.items()}
    if strict:
        return set_arrays(net, ours, "state dict")
    unused = tuple(name for name in ours if name not in parameters)
    left = {name: parameters[name].list_data()[0].asnumpy() for name in parameters if name not in ours}
    fitting = {name: array for name, array in ours.items() if name in parameters}
    if not fitting:
        raise CheckpointError(
            f"state dict: none of its {len(given)} arrays fits the network; is this the file of another model?"
        )
    done = set_arrays(net, {**fitting, **left}, "state dict")
    return Filled(tuple(name for name in done.filled if name in fitting), tuple(left), unused)
