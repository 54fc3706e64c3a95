"""symbol/params of a model: uint8 crops in, keypoints or heatmaps out, proved equal to the network before it counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msposenet.codecs import Codec
from msposenet.config import SkeletonConfig
from msposenet.errors import ConfigError, ExportError
from msposenet.inference.deployed import DEPLOY, Deployment, Graph, load_graph
from msposenet.models.graphs import KeypointGraph, MapGraph
from msposenet.runtime import mx, without_known_warnings
from msposenet.skeletons import Skeleton
from msposenet.storage import make_folder, write_bytes_atomic, write_text_atomic
from msposenet.weights.params_file import params_bytes

MAP_TOLERANCE = 1e-5  # of the largest value
PIXEL_TOLERANCE = 0.01  # px of the crop
_BATCHES = (1, 8)
_LEAST_SCORE = 0.05  # below, a joint is noise whose sub-pixel step hangs on the last bits of its map


@dataclass(frozen=True)
class Parity:
    """Largest differences between an exported graph and the network, at batch `batch`."""

    batch: int
    map_error: float  # of maps and scores, relative to the largest map value
    pixel_error: float  # px of the crop

    def line(self) -> str:
        maps, pixels = f"{self.map_error:.1e}", f"{self.pixel_error:.1e}"
        return f"batch {self.batch}: heatmaps and scores differ by {maps}, keypoints by {pixels} px"


def export_symbol(
    net,
    codec: Codec,
    skeleton: Skeleton,
    folder: Path,
    crops: np.ndarray,
    *,
    model: str,
    enlarge: float,
    flip: bool = True,
    shift: bool = False,
) -> list[Parity]:
    """Write deploy.json and both graphs of `net` to `folder`, then load them without the model code and compare.

    crops (N, h, w, 3) uint8, N at least 1: what the comparison is made on. Raises ExportError, and leaves no
    deploy.json behind, when heatmaps differ by more than 1e-5 of their largest value or keypoints by more than
    0.01 px; ConfigError when the folder holds something else.
    """
    if len(crops) == 0:
        raise ExportError("no crops to compare the exported graphs on; give a set with at least one readable person")
    if folder.exists() and any(folder.iterdir()) and not (folder / DEPLOY).is_file():
        raise ConfigError(f"{folder}: is not empty and not an earlier export; choose another --out folder")
    make_folder(folder)
    (folder / DEPLOY).unlink(missing_ok=True)
    arguments = (net, codec, skeleton.flip_index, flip, shift)
    graphs = {
        "keypoints": (KeypointGraph(*arguments), "(N, K, 3) float32: x, y in crop px, score"),
        "heatmaps": (MapGraph(*arguments), "(N, C, height / 4, width / 4) float32 maps that are decoded"),
    }
    entries = {name: _write(folder, name, graph, output) for name, (graph, output) in graphs.items()}
    deployment = Deployment(
        model=model,
        input=(codec.input_wh[1], codec.input_wh[0]),
        convention=codec.convention,
        enlarge=enlarge,
        flip=flip,
        skeleton=SkeletonConfig.of(skeleton),
        **entries,
    )
    original = MapGraph(*arguments)
    checks = [_compare(folder, deployment, original, codec, _batch(crops, size)) for size in _BATCHES]
    for check in checks:
        if not (check.map_error <= MAP_TOLERANCE and check.pixel_error <= PIXEL_TOLERANCE):
            raise ExportError(f"{folder}: the exported graph does not give the network's results: {check.line()}")
    write_text_atomic(folder / DEPLOY, deployment.model_dump_json(indent=1))
    return checks


def _write(folder: Path, name: str, graph: MapGraph, output: str) -> Graph:
    symbol = graph(mx.sym.var("data"))
    values = graph.collect_params()
    mx.nd.waitall()
    arrays = {f"arg:{key}": values[key].list_data()[0].asnumpy() for key in symbol.list_arguments() if key != "data"}
    arrays.update({f"aux:{key}": values[key].list_data()[0].asnumpy() for key in symbol.list_auxiliary_states()})
    entry = Graph(symbol=f"{name}-symbol.json", params=f"{name}-0000.params", output=output)
    write_text_atomic(folder / entry.symbol, symbol.tojson())
    write_bytes_atomic(folder / entry.params, params_bytes(arrays))
    return entry


def _batch(crops: np.ndarray, size: int) -> np.ndarray:
    return crops[np.arange(size) % len(crops)]


def _compare(folder: Path, deployment: Deployment, original, codec: Codec, crops: np.ndarray) -> Parity:
    context = mx.cpu()
    data = mx.nd.array(crops, dtype="uint8", ctx=context)
    with without_known_warnings():
        wanted = original(data).asnumpy()
    maps = load_graph(folder, deployment.heatmaps, context)(data).asnumpy()
    found = load_graph(folder, deployment.keypoints, context)(data).asnumpy()
    xy_heatmap, score = codec.decode(wanted)
    stride = np.asarray(codec.convention.extent(codec.input_wh) / codec.convention.extent(codec.heatmap_wh))
    least = _LEAST_SCORE if (score > _LEAST_SCORE).any() else 0.0
    difference = np.abs(found[..., :2] - xy_heatmap * stride) * (score > least)[..., None]
    wrong_score = float(np.abs(found[..., 2] - score).max())
    largest = max(float(np.abs(wanted).max()), 1e-12)
    return Parity(len(crops), max(float(np.abs(maps - wanted).max()), wrong_score) / largest, float(difference.max()))
