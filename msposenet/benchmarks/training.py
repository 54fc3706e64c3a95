"""A training step, from the batch to the moved weights: this package and PyTorch, same weights, same batch."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from msposenet.benchmarks import machine
from msposenet.benchmarks.figures import Figures
from msposenet.benchmarks.inference import NUM_JOINTS, chosen, race_processes
from msposenet.benchmarks.network import Network, write_network
from msposenet.benchmarks.processes import Contender, Settings
from msposenet.config import build_config
from msposenet.models.build import build_codec, topdown_info
from msposenet.progress import Reporter

_OURS = "msposenet.benchmarks.ours"
_TORCH = "msposenet.benchmarks.peers.torch_hrnet"
_RATE = 1e-3
_CHECKED = 3  # steps whose losses must agree: the gradient and the update show from the second on
_PASSES = 3  # forward, gradient of the maps, gradient of the weights: as many multiply-adds each
_REFERENCES = ("PyTorch, channels-last", "PyTorch, contiguous", "msposenet")


def contenders(network: Network, batch: int, folder: Path) -> dict[str, Contender]:
    """All there is to compare, by the key that `--only` knows; each must give the first one's losses.

    Ours makes normalised pictures and targets from crops and joints in its step; PyTorch is handed them.
    """
    content = {
        "model": {"name": network.name},
        "data": {"input": list(network.input_hw)},
        "codec": {"convention": topdown_info(network.name).convention},
    }
    file = folder / f"batch_{batch}.npz"
    _write_batch(file, content, batch)
    options = {**network.options, "batch": str(file), "rate": _RATE}
    common = {
        "operations": 2.0 * _PASSES * network.multiply_adds * batch, "items": batch, "checked": _CHECKED
    }  # fmt: skip
    found = {
        "msposenet": Contender(
            "msposenet", make=f"{_OURS}:training", options={**options, "content": content}, ours=True, **common
        )
    }
    for key, name, last in (
        ("torch", "PyTorch, channels-last", True),
        ("torch_contiguous", "PyTorch, contiguous", False),
    ):
        peer = {**options, "channels_last": last}
        found[key] = Contender(name, make=f"{_TORCH}:training", options=peer, **common)
    return found


def _write_batch(file: Path, content: dict, size: int) -> None:
    from msposenet.models.graphs import DEVIATION_RGB, MEAN_RGB

    config = build_config(content, "the benchmark")
    height, width = config.data.input
    rng = np.random.default_rng(2)
    crops = rng.integers(0, 256, (size, height, width, 3), dtype=np.uint8)
    joints = rng.uniform(0, (width - 1, height - 1), (size, NUM_JOINTS, 2)).astype(np.float32)
    weights = np.ones((size, NUM_JOINTS), np.float32)
    targets, used = build_codec(config).encode(joints, weights)
    normalised = (crops.transpose(0, 3, 1, 2) / np.float32(255) - _planes(MEAN_RGB)) / _planes(DEVIATION_RGB)
    pictures = np.ascontiguousarray(normalised, np.float32)
    np.savez(file, crops=crops, joints=joints, weights=weights, pictures=pictures, targets=targets, used=used * weights)


def _planes(values: Sequence[float]) -> np.ndarray:
    return np.array(values, np.float32).reshape(3, 1, 1)


def training(
    model: str,
    input_hw: tuple[int, int],
    batches: Sequence[int],
    settings: Settings,
    only: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> Figures:
    """Race at each of `batches`, on crops of `input_hw` px. only: the contenders' keys; all when empty.

    Raises ConfigError for an unknown model or contender, ExportError for one with another loss.
    """
    topdown_info(model)  # before weights are drawn
    title = f"{model}, {input_hw[0]} x {input_hw[1]}, training steps with Adam, {settings.rounds} rounds by turns"
    figures = Figures("training", title, "samples", machine.describe(settings.cores))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = write_network(model, NUM_JOINTS, input_hw, folder / "weights.npz")
        for batch in batches:
            wanted = chosen(contenders(network, batch, folder), only)
            race_processes(figures, f"batch {batch}", wanted, _REFERENCES, settings, folder, reporter)
    return figures
