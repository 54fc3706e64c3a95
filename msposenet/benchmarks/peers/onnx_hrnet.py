"""onnxruntime on the ONNX file that this package exports, on as many threads as the others."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import onnxruntime

from msposenet.benchmarks.network import read_network
from msposenet.benchmarks.ours import LastOutput
from msposenet.export.onnx_graph import to_onnx
from msposenet.symbols.simplify import simplify
from msposenet.symbols.traced import trace


def inference(data: str, **network) -> Callable[[], np.ndarray]:
    """A forward pass in onnxruntime; its threads wait for work as it ships, by spinning for a moment."""
    pictures = np.load(data)
    traced = simplify(trace(LastOutput(read_network(**network))))
    model = to_onnx(traced, pictures.shape[1:], "float32", ["maps"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(["maps"], {"data": pictures})[0]
