"""An exported model: deploy.json beside its graphs, run without the model code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from msposenet import geometry
from msposenet.config import SkeletonConfig
from msposenet.errors import CheckpointError
from msposenet.geometry import Convention
from msposenet.inference.batches import Batches
from msposenet.inference.onnx_batches import OnnxBatches
from msposenet.models.graphs import DEVIATION_RGB, MEAN_RGB
from msposenet.runtime import mx
from msposenet.storage import open_input
from msposenet.symbols.traced import INPUT, Traced
from msposenet.weights.params_file import read_params

DEPLOY = "deploy.json"
FORMAT = 2
_READABLE = (1, 2)  # 1 had symbols only, and neither preprocessing nor sha256


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Graph(_Part):
    """One exported graph in each form that was written; file names are relative to deploy.json."""

    output: str  # what the graph gives, in words
    symbol: Optional[str] = None  # MXNet, any device
    params: Optional[str] = None  # of `symbol` and `fused`
    fused: Optional[str] = None  # MXNet with oneDNN's fused operators: CPU only
    onnx: Optional[str] = None
    int8: Optional[str] = None  # MXNet with oneDNN's 8-bit operators: CPU only
    int8_params: Optional[str] = None

    def files(self) -> list[str]:
        names = (self.symbol, self.params, self.fused, self.onnx, self.int8, self.int8_params)
        return [name for name in names if name is not None]


class Preprocessing(_Part):
    """What the graphs do to a crop first: (value * scale - mean) / std, channel by channel."""

    inside: bool = True  # nothing of it is left to the caller
    colours: str = "RGB"
    layout: str = "NHWC"
    dtype: str = "uint8"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = MEAN_RGB
    std: tuple[float, float, float] = DEVIATION_RGB


class SetScores(_Part):
    """The headline figure of one validation set by both graphs, 0 to 1."""

    set: str
    boxes: str
    metric: str
    float_: float = Field(alias="float")
    int8: float


class Int8(_Part):
    """How the 8-bit graphs were made, and what was lost by it."""

    calibrated_on: str
    float_layers: tuple[str, ...]
    scores: tuple[SetScores, ...]


class Deployment(_Part):
    """Everything that a program needs to use the graphs; see docs/export.md."""

    format: int = FORMAT
    model: str
    input: tuple[int, int]  # height, width of a crop in px
    data: str = "data: (N, height, width, 3) uint8 RGB; normalisation is inside the graphs"
    preprocessing: Preprocessing = Preprocessing()
    convention: Convention
    enlarge: float  # margin of the box: its short side grown to the input's aspect, then both times this
    flip: bool  # the mirrored pass is inside the graphs
    skeleton: SkeletonConfig
    keypoints: Graph
    heatmaps: Graph
    int8: Optional[Int8] = None
    sha256: dict[str, str] = {}  # of each file


def is_deployment(path: Path) -> bool:
    """Whether `path` is a folder that `msposenet export` wrote."""
    return (path / DEPLOY).is_file()


class Deployed:
    """Runs the keypoint graph of an export folder; the same interface as TopDown.

    On the CPU the 8-bit graph runs where the folder has one (unless `int8` is False), else, and on GPUs, the float
    symbol; a folder without symbols runs its ONNX graph in onnxruntime on the CPU.
    """

    def __init__(self, folder: Path, context: mx.Context | None = None, batch_size: int = 8, int8: bool = True) -> None:
        self.deployment = read_deployment(folder)
        self.skeleton = self.deployment.skeleton.build()
        self.input_wh = (self.deployment.input[1], self.deployment.input[0])
        self.convention = self.deployment.convention
        self.batch_size = batch_size
        graph = self.deployment.keypoints
        context = context or mx.cpu()
        if graph.symbol is not None:
            # Batches fuses the plain symbol itself where that pays, so one file serves every device.
            files = graph.symbol, graph.params
            if int8 and graph.int8 is not None and context.device_type == "cpu":
                files = graph.int8, graph.int8_params
            traced = load_traced(folder, *files, (*self.deployment.input, 3), self.deployment.sha256)
            self._batches = Batches(traced, context, batch_size)
        else:
            check_sha256(folder / graph.onnx, self.deployment.sha256)
            self._batches = OnnxBatches(folder / graph.onnx, batch_size)

    def crops(self, image: np.ndarray, centers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Picture (H, W, 3), centres and sizes (N, 2) in image px -> crops (N, h, w, 3) uint8."""
        return geometry.cut_crops(image, centers, sizes, self.input_wh, self.convention)

    def keypoints(self, crops: np.ndarray, centers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Keypoints (N, K, 3), x, y in image px and score, of crops cut at `centers`, `sizes` (N, 2) in image px."""
        found = np.concatenate([np.zeros((0, self.skeleton.num_joints, 3), np.float32), *self._batches(crops)])
        # Crop px are a heatmap of the crop's own size.
        found[..., :2] = geometry.heatmap_to_image(found[..., :2], centers, sizes, self.input_wh, self.convention)
        return found


def load_traced(
    folder: Path, symbol_name: str, params_name: str, shape: tuple[int, ...], sha256: Mapping[str, str]
) -> Traced:
    """A symbol of an export folder with its values, both checked. Raises CheckpointError.

    shape: of one input, without the batch. sha256: of the files, where known.
    """
    path, params = folder / symbol_name, folder / params_name
    check_sha256(path, sha256)
    arrays = read_params(params, sha256=sha256.get(params_name))
    arrays = {name.split(":", 1)[-1]: array for name, array in arrays.items()}
    try:
        symbol = mx.sym.load(str(path))
        names = set(symbol.list_inputs()) - {INPUT}
        missing = sorted(names - set(arrays))
        if missing:
            raise ValueError(f"{len(missing)} of its {len(names)} parameters are missing, first {missing[0]!r}")
        symbol.infer_shape(**{INPUT: (1, *shape)}, **{name: arrays[name].shape for name in names})
    except (mx.MXNetError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a graph that fits {params_name} ({str(error).strip().splitlines()[-1]}); export again"
        ) from None
    return Traced(symbol, {name: arrays[name] for name in sorted(names)})


def check_sha256(path: Path, sha256: Mapping[str, str]) -> None:
    """Raises CheckpointError when a file is missing or not the one that was exported."""
    sha = hashlib.sha256()
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; export the model again")
    with open_input(path, CheckpointError) as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            sha.update(block)
    expected = sha256.get(path.name, sha.hexdigest())
    if sha.hexdigest() != expected:
        raise CheckpointError(
            f"{path}: is damaged or was changed: its SHA-256 is {sha.hexdigest()[:16]}..., {DEPLOY} says "
            f"{expected[:16]}...; export again"
        )


def read_deployment(folder: Path) -> Deployment:
    """The checked deploy.json of an export folder. Raises CheckpointError."""
    path = folder / DEPLOY
    with open_input(path, CheckpointError) as file:
        text = file.read()
    content = _json_object(path, text)
    if content.get("format") not in _READABLE:
        raise CheckpointError(
            f"{path}: format {content.get('format')!r:.20}, this version reads {' and '.join(map(str, _READABLE))}; "
            "export the model again"
        )
    try:
        deployment = Deployment.model_validate_json(text)
    except ValidationError as error:
        raise CheckpointError(f"{path}: not a deployment ({' '.join(str(error).split())[:300]})") from None
    for title, graph in (("keypoints", deployment.keypoints), ("heatmaps", deployment.heatmaps)):
        for name in graph.files():
            if Path(name).name != name:
                raise CheckpointError(f"{path}: {name!r} is not a file name beside it")
        if (graph.symbol is None or graph.params is None) and graph.onnx is None:
            raise CheckpointError(f"{path}: {title} names neither symbol and params nor onnx; export again")
    return deployment


def _json_object(path: Path, text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a deployment: no JSON ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a deployment: a {type(content).__name__} where an object is wanted")
    return content
