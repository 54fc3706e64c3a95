"""All values of a network as NumPy arrays by parameter name, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from msposenet.errors import CheckpointError
from msposenet.runtime import mx


@dataclass(frozen=True)
class Filled:
    """What a load did: names filled, names of the network left as they were, names of the source not used."""

    filled: tuple[str, ...]
    reinitialised: tuple[str, ...]
    unused: tuple[str, ...]

    def line(self) -> str:
        """ "re-initialised: final_layer.weight; loaded 1234 of 1238 arrays"."""
        total = len(self.filled) + len(self.reinitialised)
        text = f"loaded {len(self.filled)} of {total} arrays"
        if self.reinitialised:
            text = f"re-initialised: {', '.join(self.reinitialised)}; {text}"
        if self.unused:
            shown = ", ".join(self.unused[:5]) + (", ..." if len(self.unused) > 5 else "")
            text += f"; {len(self.unused)} in the file not used: {shown}"
        return text


def get_arrays(net) -> dict[str, np.ndarray]:
    """Every parameter and batch-norm statistic by name, as float32 NumPy copies of the first device's values."""
    # Without the sync, running statistics of a hybridized static_alloc net are read one step too early.
    mx.nd.waitall()
    return {name: parameter.list_data()[0].asnumpy() for name, parameter in net._collect_params_with_prefix().items()}


def set_arrays(net, arrays: Mapping[str, np.ndarray], source: str, drop_head: bool = False) -> Filled:
    """Copy `arrays` into the network's parameters of the same names, on every device it lives on.

    Missing, unknown or differently shaped arrays raise CheckpointError naming `source`, unless they belong to a head
    (`net.head_layer`) of another joint count and `drop_head` is set: those keep the network's own values.
    """
    head = getattr(net, "head_layer", "final_layer")
    parameters = net._collect_params_with_prefix()
    problems, filled, kept = [], [], []
    for name, parameter in parameters.items():
        array = arrays.get(name)
        if array is not None and tuple(array.shape) == tuple(parameter.shape):
            filled.append(name)
        elif drop_head and head in name.split("."):
            kept.append(name)
        elif array is None:
            problems.append(f"{name} is missing")
        else:
            problems.append(f"{name} has shape {tuple(array.shape)}, the network wants {tuple(parameter.shape)}")
    unused = tuple(name for name in arrays if name not in parameters)
    problems += [f"{name} is not in the network" for name in unused]
    if problems:
        heads = all(head in re.split(r"[. ]", problem) and "has shape" in problem for problem in problems)
        remedy = (
            "another joint count? name its run or data.skeleton; to fine-tune, --init-from drops the head"
            if heads
            else "is this the file of another model?"
        )
        raise CheckpointError(
            f"{source}: {len(problems)} arrays do not fit ({'; '.join(problems[:5])}"
            f"{'; ...' if len(problems) > 5 else ''}); {remedy}"
        )
    for name in filled:
        _assign(parameters[name], arrays[name])
    return Filled(tuple(filled), tuple(kept), ())


def _assign(parameter, array: np.ndarray) -> None:
    parameter.set_data(mx.nd.array(array, dtype=parameter.dtype))
