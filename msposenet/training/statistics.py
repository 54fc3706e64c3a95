"""Running statistics of batch normalisation on the devices of all ranks, and their average.

Every device moves its own from its own part of each batch, so they drift apart. Checkpoints and validation use the
average; training goes on with each device's own, so that saving once more does not change a single bit of it.

Variances are averaged as they are. The total variance of pooled data would add the spread between the devices' means,
but here every device draws from the same shuffled samples: the running means estimate one number, and what parts them
is the noise of that estimate, no variance of the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from msposenet.errors import CheckpointError, PeerError
from msposenet.runtime import mx

_ENDINGS = ("running_mean", "running_var")


class Statistics:
    """The running means and variances of a network that lives on `devices`.

    In local values a name is `DEVICE_NUMBER:structural name`, the number being the place in `devices`; in averages it
    is the structural name, as in a weight file.
    """

    def __init__(self, net, devices: Sequence[mx.Context]) -> None:
        self.devices = list(devices)
        every = net._collect_params_with_prefix()
        self._parameters = {name: p for name, p in every.items() if name.endswith(_ENDINGS)}

    def local(self) -> dict[str, np.ndarray]:
        """Copies of this process's values, device by device."""
        # Without the sync they are read one step too early.
        mx.nd.waitall()
        return {name: array.asnumpy() for name, array in self._arrays().items()}

    def restore(self, local: Mapping[str, np.ndarray]) -> None:
        """Give every device its own values again. Raises CheckpointError when they are of another layout or network."""
        self._put(self._arrays(), local)

    def average(self, parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Mean over all devices of all ranks, `parts` being each rank's `local()`: the same bits wherever computed.

        Raises PeerError when a rank's values are of another network.
        """
        totals: dict[str, np.ndarray] = {}
        count = 0
        for rank, part in enumerate(parts):
            numbers = {name.partition(":")[0] for name in part}
            devices = sorted(int(number) for number in numbers if number.isdecimal())
            if set(part) != {f"{device}:{name}" for device in devices for name in self._parameters}:
                raise PeerError(f"rank {rank} has batch-norm statistics of another network; do all train one model?")
            for device in devices:
                count += 1
                for name, parameter in self._parameters.items():
                    array = part[f"{device}:{name}"]
                    if array.shape != parameter.shape:
                        raise PeerError(f"rank {rank}: {name} has shape {array.shape}, here it has {parameter.shape}")
                    totals[name] = totals.get(name, 0) + array.astype(np.float64)
        return {name: (total / count).astype(np.float32) for name, total in totals.items()}

    @contextmanager
    def averaged(self, values: Mapping[str, np.ndarray]) -> Iterator[None]:
        """Within, every device holds `values` (of `average`); afterwards, whatever happens, its own again."""
        own = self.local()
        everywhere = {f"{i}:{name}": array for i in range(len(self.devices)) for name, array in values.items()}
        try:
            self._put(self._arrays(), everywhere)
            yield
        finally:
            self._put(self._arrays(), own)

    def _arrays(self) -> dict[str, mx.nd.NDArray]:
        return {
            f"{number}:{name}": parameter.data(device)
            for number, device in enumerate(self.devices)
            for name, parameter in self._parameters.items()
        }

    @staticmethod
    def _put(arrays: Mapping[str, mx.nd.NDArray], values: Mapping[str, np.ndarray]) -> None:
        wrong = sorted(set(arrays) ^ set(values))
        wrong += [name for name in arrays if name in values and arrays[name].shape != values[name].shape]
        if wrong:
            raise CheckpointError(
                f"batch-norm statistics do not fit this network on these devices: {len(wrong)} names or shapes differ, "
                f"{wrong[0]} first; go on with as many devices as before, or from the averaged weights"
            )
        mx.nd.waitall()
        for name, array in arrays.items():
            array[:] = values[name]
        mx.nd.waitall()
