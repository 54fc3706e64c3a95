"""A model for use: graphs from crops to keypoints and to heatmaps in each form asked for, and deploy.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from msposenet.codecs import Codec
from msposenet.config import SkeletonConfig
from msposenet.errors import ExportError
from msposenet.export.parity import Parity, check_parity
from msposenet.export.staging import Files, check_request, staged
from msposenet.inference.deployed import DEPLOY, Deployment, Graph
from msposenet.models.graphs import KeypointGraph, MapGraph
from msposenet.skeletons import Skeleton
from msposenet.storage import write_text_atomic

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
) -> list[Parity]:
    """Write deploy.json and both graphs of `net` to `folder`; every file written is loaded again and compared.

    crops (N, h, w, 3) uint8, N at least 1: what the comparison is made on. forms: of FORMS; `fused` adds to `symbol`
    the one that only MXNet with oneDNN on the CPU runs. Everything is made beside an earlier export and takes its place
    at the end, so whatever fails or is killed leaves the earlier one.

    Raises ExportError when a graph differs from the network (parity.py has the limits); ConfigError when the folder
    holds something else, a form is unknown, or the onnx packages are not there; StorageError when the disk refuses.
    """
    check_request(folder, forms)
    if len(crops) == 0:
        raise ExportError("no crops to compare the exported graphs on; give a set with at least one readable person")
    arguments = (net, codec, skeleton.flip_index, flip, shift)
    height, width = codec.input_wh[1], codec.input_wh[0]
    with staged(folder) as staging:
        files = Files(staging, (height, width, 3), "uint8", forms, fused)
        deployment = Deployment(
            model=model,
            input=(height, width),
            convention=codec.convention,
            enlarge=enlarge,
            flip=flip,
            skeleton=SkeletonConfig.of(skeleton),
            keypoints=Graph(output=_KEYPOINTS, **files.write("keypoints", KeypointGraph(*arguments))),
            heatmaps=Graph(output=_HEATMAPS, **files.write("heatmaps", MapGraph(*arguments))),
            sha256=files.sha256,
        )
        checks = check_parity(staging, deployment, MapGraph(*arguments), codec, crops)
        write_text_atomic(staging / DEPLOY, deployment.model_dump_json(indent=1, exclude_none=True))
    return checks
