"""An ONNX graph run by onnxruntime on the CPU: for exports that hold no MXNet symbol."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import numpy as np

from msposenet.cores import physical_cores
from msposenet.errors import CheckpointError, ConfigError

_FAILURES = (
    "EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile", "NotImplemented",
    "RuntimeException",
)  # fmt: skip


def require(name: str):
    """The module `onnx` or `onnxruntime`; ConfigError says what to install when it is not there."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"ONNX needs the package {name}: pip install 'msposenet[onnx]' ({error})") from None


class OnnxBatches:
    """Computes the outputs of an ONNX file for crops (N, h, w, 3) uint8, `size` at a time; the same use as Batches.

    Raises ConfigError without onnxruntime, CheckpointError when the file is missing or no model.
    """

    def __init__(self, path: Path, size: int) -> None:
        runtime = require("onnxruntime")
        options = runtime.SessionOptions()
        # Left alone, onnxruntime starts a thread a core of the machine, whatever this process may use of it.
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or physical_cores())
        options.log_severity_level = 3
        failures = tuple(getattr(runtime.capi.onnxruntime_pybind11_state, name) for name in _FAILURES)
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except failures as error:
            raise CheckpointError(
                f"{path}: not an ONNX model that onnxruntime {runtime.__version__} reads "
                f"({str(error).splitlines()[0]}); export again"
            ) from None
        self._input = self._session.get_inputs()[0].name
        self._size = size

    def __call__(self, crops: np.ndarray) -> list[np.ndarray]:
        """The first outputs of all crops, in parts; none for no crops."""
        return [self.run(crops[start : start + self._size])[0] for start in range(0, len(crops), self._size)]

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """All outputs of one batch of any size."""
        return self._session.run(None, {self._input: x})
