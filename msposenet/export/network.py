"""A bare network of any family: normalised pictures in, all its outputs out, and network.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from msposenet.errors import ExportError
from msposenet.export.parity import Parity, check_network
from msposenet.export.staging import Files, check_request, staged
from msposenet.models.graphs import DEVIATION_RGB, MEAN_RGB
from msposenet.runtime import mx, without_known_warnings
from msposenet.storage import write_json_atomic

NETWORK = "network.json"
FORMAT = 1


def export_network(
    net, folder: Path, crops: np.ndarray, *, model: str, forms: Sequence[str] = ("symbol",), fused: bool = True
) -> list[Parity]:
    """Write `net` itself to `folder`: float32 (N, 3, H, W) in, its outputs, `output0` and so on, out.

    crops (N, H, W, 3) uint8: the input's size, and what every file is compared on. Raises as `export_model`.
    """
    check_request(folder, forms)
    if len(crops) == 0:
        raise ExportError("no pictures to compare the exported network on; give at least one")
    inputs = _normalised(crops)
    with without_known_warnings():
        outputs = net(mx.nd.array(inputs[:1]))
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    names = [f"output{index}" for index in range(len(outputs))]
    with staged(folder) as staging:
        files = Files(staging, inputs.shape[1:], "float32", forms, fused)
        entry = files.write("network", net, names)
        checks = check_network(staging, entry, files.sha256, net, inputs)
        description = {
            "format": FORMAT,
            "model": model,
            "input": list(inputs.shape[2:]),
            "data": "data: (N, 3, height, width) float32 RGB: (value / 255 - mean) / std, which is left to the caller",
            "mean": MEAN_RGB,
            "std": DEVIATION_RGB,
            "outputs": [{"name": name, "shape": ["N", *output.shape[1:]]} for name, output in zip(names, outputs)],
            "network": entry,
            "sha256": files.sha256,
        }
        write_json_atomic(staging / NETWORK, description)
    return checks


def _normalised(crops: np.ndarray) -> np.ndarray:
    planes = (crops.astype(np.float32) / 255 - np.array(MEAN_RGB, np.float32)) / np.array(DEVIATION_RGB, np.float32)
    return np.ascontiguousarray(planes.transpose(0, 3, 1, 2))
