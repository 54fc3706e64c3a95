"""A model for use: graphs from crops to keypoints and to heatmaps in each form asked for, and deploy.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msposenet.codecs import Codec
from msposenet.config import SkeletonConfig
from msposenet.errors import ConfigError, ExportError
from msposenet.export.int8 import Int8Request, Int8Result, check_graphs, judge, quantised_graphs
from msposenet.export.parity import Parity, check_parity
from msposenet.export.staging import Files, check_request, staged
from msposenet.inference.deployed import DEPLOY, Deployment, Graph
from msposenet.models.graphs import BothGraphs, KeypointGraph, MapGraph
from msposenet.skeletons import Skeleton
from msposenet.storage import write_text_atomic


@dataclass(frozen=True)
class Exported:
    """How near each graph is to the network, and what 8 bits cost, where they were asked for."""

    parity: list[Parity]
    int8: Int8Result | None = None


_KEYPOINTS = "(N, K, 3) float32: x, y in crop px, score"
_HEATMAPS = "(N, C, height / 4, width / 4) float32 maps that are decoded"


def export_model(
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
    forms: Sequence[str] = ("symbol",),
    fused: bool = True,
    int8: Int8Request | None = None,
) -> Exported:
    """Write deploy.json and both graphs of `net` to `folder`; every file written is loaded again and compared.

    crops (N, h, w, 3) uint8, N at least 1: what the comparison is made on. forms: of FORMS; `fused` adds to `symbol`
    the one that only MXNet with oneDNN on the CPU runs. int8: add 8-bit graphs to `symbol`, which are not compared but
    scored beside the float ones. Everything is made beside an earlier export and takes its place
    at the end, so whatever fails or is killed leaves the earlier one.

    Raises ExportError when a graph differs from the network (parity.py has the limits) or 8 bits lose too much;
    ConfigError when the folder holds something else, a form is unknown, or the onnx packages are not there;
    StorageError when the disk refuses.
    """
    check_request(folder, forms)
    if int8 is not None:
        int8.check()
        if "symbol" not in forms:
            raise ConfigError("8-bit graphs are MXNet symbols: add the format symbol, or leave int8 out")
    if len(crops) == 0:
        raise ExportError("no crops to compare the exported graphs on; give a set with at least one readable person")
    arguments = (net, codec, skeleton.flip_index, flip, shift)
    height, width = codec.input_wh[1], codec.input_wh[0]
    with staged(folder) as staging:
        files = Files(staging, (height, width, 3), "uint8", forms, fused)
        entries = {
            "keypoints": {"output": _KEYPOINTS, **files.write("keypoints", KeypointGraph(*arguments))},
            "heatmaps": {"output": _HEATMAPS, **files.write("heatmaps", MapGraph(*arguments))},
        }
        if int8 is not None:
            graphs, origin, float_layers = quantised_graphs(BothGraphs(*arguments), int8)
            for name, traced in graphs.items():
                entries[name].update(files.write_int8(name, traced))
        deployment = Deployment(
            model=model,
            input=(height, width),
            convention=codec.convention,
            enlarge=enlarge,
            flip=flip,
            skeleton=SkeletonConfig.of(skeleton),
            **{name: Graph(**entry) for name, entry in entries.items()},
            sha256=files.sha256,
        )
        checks = check_parity(staging, deployment, MapGraph(*arguments), codec, crops)
        _describe(staging, deployment)
        judged = None
        if int8 is not None:
            check_graphs(staging, deployment, codec, crops)
            judged = judge(staging, int8, origin, float_layers)
            _describe(staging, deployment.model_copy(update={"int8": judged.about}))
    return Exported(checks, judged)


def _describe(folder: Path, deployment: Deployment) -> None:
    write_text_atomic(folder / DEPLOY, deployment.model_dump_json(indent=1, exclude_none=True, by_alias=True))
