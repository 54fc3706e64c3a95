"""The machine of a benchmark: processor, threads, versions, its measured peak, and how busy others kept it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from msposenet.benchmarks.processes import Contender
from msposenet.cores import physical_cores

_PACKAGES = ("mxnet", "mxnet-cu112", "numpy", "torch", "onnxruntime", "opencv-python", "pycocotools")
PEAK_SIZE = 2048
_HERE = __name__


def describe(threads: int) -> dict[str, Any]:
    """`cpu`, `cores`, `threads` used, `versions` by package (without those that are not installed), `date`."""
    return {
        "cpu": _cpu(),
        "cores": physical_cores(),
        "threads": threads,
        "versions": {"python": platform.python_version(), **_versions()},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


class Watch:
    """The processor time of the whole machine from now on, to tell how much of it others took."""

    def __init__(self) -> None:
        self._begin, self._own = _busy(), time.process_time()

    def others(self, contenders: float) -> float | None:
        """Share of the used processor time that went neither to this process nor to `contenders` (seconds).

        None where the machine does not tell.
        """
        end = _busy()
        if end is None or self._begin is None or end <= self._begin:
            return None
        own = time.process_time() - self._own + contenders
        return max(0.0, 1 - own / (end - self._begin))


def _busy() -> float | None:
    path = Path("/proc/stat")
    if not path.exists():
        return None
    user, nice, system, _, _, interrupts, soft = map(int, path.read_text(encoding="ascii").split()[1:8])
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")


def peaks(size: int = PEAK_SIZE) -> list[Contender]:
    """Products of two (size, size) float32 matrices by MXNet and by NumPy: the machine's peak is the faster one's."""
    common = {"options": {"size": size}, "operations": 2.0 * size**3, "peak": True, "checked": 0}
    return [
        Contender(f"sgemm {size}, MXNet", make=f"{_HERE}:mxnet_product", **common),
        Contender(f"sgemm {size}, NumPy", make=f"{_HERE}:numpy_product", **common),
    ]


def mxnet_product(size: int) -> Callable[[], None]:
    """In a contender's process: a product by MXNet's BLAS."""
    from msposenet.runtime import mx

    left, right = (mx.nd.array(matrix) for matrix in _matrices(size))
    out = mx.nd.zeros((size, size))

    def step() -> None:
        mx.nd.dot(left, right, out=out)
        out.wait_to_read()

    return step


def numpy_product(size: int) -> Callable[[], None]:
    """In a contender's process: a product by NumPy's OpenBLAS."""
    left, right = _matrices(size)
    out = np.empty((size, size), np.float32)

    def step() -> None:
        np.dot(left, right, out=out)

    return step


def _matrices(size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((size, size), np.float32), rng.standard_normal((size, size), np.float32)
