"""The one place that imports MXNet: `from msposenet.runtime import mx`.

MXNet 1.9.1 is its last release, so what has moved under it since is put right here before it loads: NumPy's removed
scalar aliases (Python 3.12 needs NumPy 1.26), and, for mxnet-cu112, the CUDA 11 libraries, which the NVIDIA wheels
carry but no loader path names. Importing takes over a second: keep it out of anything that does not compute.
"""

from __future__ import annotations

import ctypes
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from msposenet.cores import physical_cores
from msposenet.inline import ENGINE, INLINE

_REMOVED_ALIASES = {"bool": bool, "int": int, "float": float, "object": object, "str": str, "complex": complex}

# In the order in which they must be loaded: each needs the ones before it.
_CUDA_LIBRARIES = (
    ("cuda_runtime", "libcudart.so.11.0"),
    ("cuda_nvrtc", "libnvrtc.so.11.2"),
    ("nvtx", "libnvToolsExt.so.1"),
    ("cublas", "libcublasLt.so.11"),
    ("cublas", "libcublas.so.11"),
    ("cudnn", "libcudnn.so.8"),
    ("cufft", "libcufft.so.10"),
    ("curand", "libcurand.so.10"),
    ("cusolver", "libcusolver.so.11"),
    ("nccl", "libnccl.so.2"),
)


def restore_numpy_aliases() -> None:
    """Give NumPy back the scalar aliases that MXNet 1.9.1 reads at import (np.bool and its like)."""
    for name, kind in _REMOVED_ALIASES.items():
        if name not in np.__dict__:
            setattr(np, name, kind)


def preload_cuda(site_packages: Path) -> list[str]:
    """Load the CUDA 11 libraries of the NVIDIA wheels under `site_packages`; returns the paths loaded."""
    loaded = []
    for package, library in _CUDA_LIBRARIES:
        path = site_packages / "nvidia" / package / "lib" / library
        if path.exists():
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            loaded.append(str(path))
    return loaded


def use_all_cores() -> None:
    """Let MXNet compute on every physical core this process may use, unless OMP_NUM_THREADS says otherwise.

    Left alone, MXNet 1.9.1 takes half of the logical cores, which halves it on machines without hyper-threads.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(physical_cores()))


restore_numpy_aliases()
use_all_cores()
preload_cuda(Path(sysconfig.get_path("purelib")))

import mxnet as mx  # noqa: E402

__all__ = ["mx", "without_known_warnings"]


def start_quietly() -> None:
    """Let MXNet announce the engine that `inline` chose where nobody reads it, instead of on stderr."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        mx.nd.waitall()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


if os.environ.get(ENGINE) == INLINE:
    start_quietly()


@contextmanager
def without_known_warnings() -> Iterator[None]:
    """Keep quiet about two things that are meant: heads that a graph leaves out, and inputs of any type."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is not used by any computation", category=UserWarning)
        warnings.filterwarnings("ignore", message="Cannot decide type", category=UserWarning)
        yield
