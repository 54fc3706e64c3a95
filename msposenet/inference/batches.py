"""A traced graph that takes any number of crops, on one device, as fast as that device can."""

from __future__ import annotations

import numpy as np

from msposenet.runtime import mx, without_known_warnings
from msposenet.symbols.fused import fuse, is_fused
from msposenet.symbols.simplify import simplify
from msposenet.symbols.traced import Traced, runner

# From this share of a full batch on, a CPU fills it up with black faster than it computes one crop at a time.
_WORTH_FILLING = 0.7


class Batches:
    """Computes the first output of `traced` for crops (N, h, w, 3) uint8, in batches of `size` or one by one.

    Memory is planned for two shapes only, `size` crops and one: each holds the weights in the device's own layout.
    """

    def __init__(self, traced: Traced, context: mx.Context, size: int) -> None:
        self._traced = prepared(traced, context)
        self._context, self._size = context, size
        self._runners: dict[int, mx.gluon.SymbolBlock] = {}

    def __call__(self, crops: np.ndarray) -> list[np.ndarray]:
        """The outputs of all crops, in parts; none for no crops."""
        parts = []
        start = 0
        while start < len(crops):
            rest = len(crops) - start
            on_gpu = self._context.device_type == "gpu"  # where a full batch takes little more time than a crop
            size = self._size if rest >= _WORTH_FILLING * self._size or (on_gpu and rest > 1) else 1
            part = crops[start : start + size]
            parts.append(self._run(part, size)[: len(part)])
            start += size
        return parts

    def _run(self, part: np.ndarray, size: int) -> np.ndarray:
        if len(part) < size:
            part = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])
        if size not in self._runners:
            self._runners[size] = runner(self._traced, self._context)
        with without_known_warnings():
            return self._runners[size](mx.nd.array(part, ctx=self._context, dtype="uint8")).asnumpy()


def prepared(traced: Traced, context: mx.Context) -> Traced:
    """The graph as it is computed on `context`: simplified, and on the CPU fused, unless it is fused already."""
    if is_fused(traced):
        return traced
    simple = simplify(traced)
    in_float32 = all(array.dtype == np.float32 for array in simple.arrays.values())
    return fuse(simple) if context.device_type == "cpu" and in_float32 else simple
