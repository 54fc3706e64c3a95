"""Whether exported graphs give what their network gives, on pictures of people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msposenet.codecs import Codec
from msposenet.errors import ExportError
from msposenet.inference.deployed import Deployment, Graph, load_traced
from msposenet.inference.onnx_batches import OnnxBatches
from msposenet.models.graphs import MapGraph
from msposenet.runtime import mx, without_known_warnings
from msposenet.symbols.traced import runner

MAP_TOLERANCE = 1e-5  # of the largest value
PIXEL_TOLERANCE = 0.01  # px of the crop
ONNX_MAP_TOLERANCE = 1e-4
ONNX_PIXEL_TOLERANCE = 0.05
BATCHES = (1, 8)
_LEAST_SCORE = 0.05  # below, a joint is noise whose sub-pixel step hangs on the last bits of its map
_ROUNDING = 1e-6  # of the largest value: what float32 leaves open at the end of a deep network
_REACH = 10
_UNCLEAR = 0.15  # of the joints at most
_TINY = 1e-12

Run = Callable[[np.ndarray], list[np.ndarray]]


@dataclass(frozen=True)
class Parity:
    """Largest differences between the exported graphs of one form and the network, at batch `batch`."""

    form: str  # symbol, fused or onnx
    batch: int
    map_error: float  # of maps and scores (of a bare network: each output), relative to the largest value
    pixel_error: float | None  # px of the crop; None for a bare network
    map_tolerance: float = MAP_TOLERANCE
    pixel_tolerance: float = PIXEL_TOLERANCE
    unclear: int = 0  # joints further off than that, and no further than the last bits of their map move them

    @property
    def holds(self) -> bool:
        # Said so that NaN does not hold.
        pixels_hold = self.pixel_error is None or self.pixel_error <= self.pixel_tolerance
        return self.map_error <= self.map_tolerance and pixels_hold

    def line(self) -> str:
        where = f"{self.form}, batch {self.batch}: "
        if self.pixel_error is None:
            return where + f"outputs differ by {self.map_error:.1e} of the largest value"
        line = where + f"heatmaps and scores differ by {self.map_error:.1e}, keypoints by {self.pixel_error:.1e} px"
        return line + (f" ({self.unclear} that hang on the last bits of their map left out)" if self.unclear else "")


def check_parity(
    folder: Path, deployment: Deployment, original: MapGraph, codec: Codec, crops: np.ndarray
) -> list[Parity]:
    """Load every graph of `folder` without the model code and compare it with `original` on `crops`, batch 1 and 8.

    Raises ExportError at the first form that differs by more than its tolerance.
    """
    batches = [crops[np.arange(size) % len(crops)] for size in BATCHES]
    wanted = [_maps_of(original, batch) for batch in batches]
    checks = []
    for form in ("symbol", "fused", "onnx"):
        if getattr(deployment.keypoints, form) is None:
            continue
        # Both graphs of a form at a time, all batches: a graph of half a gigabyte is loaded once and let go.
        maps = _outputs(folder, deployment, deployment.heatmaps, form, batches)
        keypoints = _outputs(folder, deployment, deployment.keypoints, form, batches)
        checks += [_held(compare(form, codec, *values)) for values in zip(wanted, maps, keypoints)]
    return checks


def check_network(
    folder: Path, entry: Mapping[str, str], sha256: Mapping[str, str], net, inputs: np.ndarray
) -> list[Parity]:
    """The same for the files `entry` of a bare network, on `inputs` (N, 3, H, W): every output, each by its largest."""
    batches = [inputs[np.arange(size) % len(inputs)] for size in BATCHES]
    with without_known_warnings():
        wanted = [_arrays(net(mx.nd.array(batch))) for batch in batches]
    checks = []
    for form in ("symbol", "fused", "onnx"):
        if form in entry:
            run = _runner(folder, entry, form, inputs.shape[1:], sha256)
            checks += [_held(_compare_outputs(form, values, run(batch))) for values, batch in zip(wanted, batches)]
    return checks


def _held(check: Parity) -> Parity:
    if not check.holds:
        raise ExportError(f"the exported graphs do not give the network's results: {check.line()}")
    return check


def _compare_outputs(form: str, wanted: list[np.ndarray], found: list[np.ndarray]) -> Parity:
    if [array.shape for array in wanted] != [array.shape for array in found]:
        return Parity(form, len(wanted[0]), np.inf, None)
    errors = [float(np.abs(a - b).max()) / max(float(np.abs(a).max()), _TINY) for a, b in zip(wanted, found)]
    tolerance = ONNX_MAP_TOLERANCE if form == "onnx" else MAP_TOLERANCE
    return Parity(form, len(wanted[0]), float(np.max(errors)), None, tolerance)


def compare(form: str, codec: Codec, wanted: np.ndarray, maps: np.ndarray, keypoints: np.ndarray) -> Parity:
    """Exported `maps` and `keypoints` (N, K, 3), x, y in crop px and score, against the network's maps `wanted`."""
    onnx = form == "onnx"
    pixel_tolerance = ONNX_PIXEL_TOLERANCE if onnx else PIXEL_TOLERANCE
    scale = codec.convention.extent(codec.input_wh) / codec.convention.extent(codec.heatmap_wh)
    largest = max(float(np.abs(wanted).max()), _TINY)
    xy_heatmap, score = codec.decode(wanted)
    distance = np.abs(keypoints[..., :2] - xy_heatmap * scale).max(axis=2)
    # Of two equally high cells, or on a map so flat that a second-order step has no hold, maps that agree to the last
    # bits put a joint at different places. How far is seen by decoding such maps.
    rounding = np.random.default_rng(0).uniform(-_ROUNDING, _ROUNDING, wanted.shape).astype(np.float32) * largest
    moved = [np.abs(codec.decode(near)[0] - xy_heatmap) for near in (maps, wanted + rounding, wanted - rounding)]
    reach = _REACH * (np.max(moved, axis=0) * scale).max(axis=2)
    # Joints without a peak say little; where none has one, all are compared, since something must be.
    counted = next(mask for mask in (score > _LEAST_SCORE, score > 0, score == score) if mask.any())
    unclear = counted & (distance > pixel_tolerance) & (distance <= reach)
    if unclear.sum() > max(2, _UNCLEAR * counted.sum()):
        unclear[:] = False  # so many are no accident of rounding
    # np.max, unlike max, lets NaN through to be refused.
    wrong = float(np.max([np.abs(maps - wanted).max(), np.abs(keypoints[..., 2] - score).max()]))
    return Parity(
        form,
        len(wanted),
        wrong / largest,
        float(np.where(counted & ~unclear, distance, 0).max()),
        ONNX_MAP_TOLERANCE if onnx else MAP_TOLERANCE,
        pixel_tolerance,
        int(unclear.sum()),
    )


def _maps_of(original: MapGraph, crops: np.ndarray) -> np.ndarray:
    with without_known_warnings():
        return original(mx.nd.array(crops, dtype="uint8", ctx=mx.cpu())).asnumpy()


def _outputs(
    folder: Path, deployment: Deployment, graph: Graph, form: str, batches: list[np.ndarray]
) -> list[np.ndarray]:
    run = _runner(folder, graph.model_dump(), form, batches[0].shape[1:], deployment.sha256)
    return [run(batch)[0] for batch in batches]


def _runner(
    folder: Path, entry: Mapping[str, str], form: str, shape: tuple[int, ...], sha256: Mapping[str, str]
) -> Run:
    if form == "onnx":
        return OnnxBatches(folder / entry["onnx"], max(BATCHES)).run
    block = runner(load_traced(folder, entry[form], entry["params"], shape, sha256))

    def run(batch: np.ndarray) -> list[np.ndarray]:
        with without_known_warnings():
            return _arrays(block(mx.nd.array(batch, dtype=batch.dtype)))

    return run


def _arrays(outputs) -> list[np.ndarray]:
    return [array.asnumpy() for array in (outputs if isinstance(outputs, (list, tuple)) else [outputs])]
