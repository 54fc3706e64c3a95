"""Operators computed in the thread that asks for them: faster for a network in use on a CPU, wrong for training.

MXNet otherwise hands every operator to threads of its own. HRNet has hundreds of small ones, and on one picture the
handing over takes a quarter of the time. Which of the two it is can be chosen before MXNet loads, and not afterwards.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata

ENGINE = "MXNET_ENGINE_TYPE"
INLINE = "NaiveEngine"


def compute_inline(device: str) -> None:
    """Choose so for this process, where `device` (cpu, gpu:0, auto) is a CPU and nobody chose otherwise."""
    if "mxnet" not in sys.modules and (device == "cpu" or (device == "auto" and _is_cpu_build())):
        os.environ.setdefault(ENGINE, INLINE)


def _is_cpu_build() -> bool:
    try:
        metadata.version("mxnet")
    except metadata.PackageNotFoundError:
        return False  # mxnet-cu112: on a GPU, operators must queue up
    return True
