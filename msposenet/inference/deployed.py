"""An exported model: deploy.json beside symbol and params, run without the model code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from msposenet import geometry
from msposenet.config import SkeletonConfig
from msposenet.errors import CheckpointError
from msposenet.geometry import Convention
from msposenet.runtime import mx, without_known_warnings
from msposenet.weights.params_file import read_params

DEPLOY = "deploy.json"
FORMAT = 1


class Graph(BaseModel):
    """One exported graph; file names are relative to deploy.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    symbol: str
    params: str
    output: str  # what the graph gives, in words


class Deployment(BaseModel):
    """Everything that a program needs to use the graphs; see docs/export.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    model: str
    input: tuple[int, int]  # height, width of a crop in px
    data: str = "data: (N, height, width, 3) uint8 RGB; normalisation is inside the graphs"
    convention: Convention
    enlarge: float  # margin of the box: its short side grown to the input's aspect, then both times this
    flip: bool  # the mirrored pass is inside the graphs
    skeleton: SkeletonConfig
    keypoints: Graph
    heatmaps: Graph


def is_deployment(path: Path) -> bool:
    """Whether `path` is a folder that `msposenet export` wrote."""
    return (path / DEPLOY).is_file()


class Deployed:
    """Runs the keypoint graph of an export folder; the same interface as TopDown."""

    def __init__(self, folder: Path, context: mx.Context | None = None, batch_size: int = 8) -> None:
        self.deployment = _read(folder / DEPLOY)
        self.skeleton = self.deployment.skeleton.build()
        self.input_wh = (self.deployment.input[1], self.deployment.input[0])
        self.convention = self.deployment.convention
        self.batch_size = batch_size
        self._context = context or mx.cpu()
        self._graph = load_graph(folder, self.deployment.keypoints, self._context)

    def crops(self, image: np.ndarray, centers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Picture (H, W, 3), centres and sizes (N, 2) in image px -> crops (N, h, w, 3) uint8."""
        return geometry.cut_crops(image, centers, sizes, self.input_wh, self.convention)

    def keypoints(self, crops: np.ndarray, centers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Keypoints (N, K, 3), x, y in image px and score, of crops cut at `centers`, `sizes` (N, 2) in image px."""
        parts = [np.zeros((0, self.skeleton.num_joints, 3), np.float32)]
        for start in range(0, len(crops), self.batch_size):
            part = mx.nd.array(crops[start : start + self.batch_size], ctx=self._context, dtype="uint8")
            parts.append(self._graph(part).asnumpy())
        found = np.concatenate(parts)
        # Crop px are a heatmap of the crop's own size.
        found[..., :2] = geometry.heatmap_to_image(found[..., :2], centers, sizes, self.input_wh, self.convention)
        return found


def load_graph(folder: Path, graph: Graph, context: mx.Context):
    """The graph as a SymbolBlock. The parameter file is checked before MXNet sees it."""
    symbol, params = folder / graph.symbol, folder / graph.params
    if not symbol.is_file():
        raise CheckpointError(f"{symbol}: missing; export the model again")
    read_params(params)
    try:
        with without_known_warnings():
            return mx.gluon.SymbolBlock.imports(str(symbol), ["data"], str(params), ctx=context)
    except (mx.MXNetError, ValueError, AssertionError, KeyError) as error:
        raise CheckpointError(f"{symbol}: not a graph that fits {params.name} ({str(error).splitlines()[0]})") from None


def _read(path: Path) -> Deployment:
    try:
        deployment = Deployment.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{path}: not a deployment ({' '.join(str(error).split())[:300]})") from None
    if deployment.format != FORMAT:
        raise CheckpointError(f"{path}: format {deployment.format}, this version reads {FORMAT}; export again")
    for graph in (deployment.keypoints, deployment.heatmaps):
        for name in (graph.symbol, graph.params):
            if Path(name).name != name:
                raise CheckpointError(f"{path}: {name!r} is not a file name beside it")
    return deployment
