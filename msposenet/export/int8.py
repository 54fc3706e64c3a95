"""8-bit graphs of a model: calibrated on training crops, and scored against the float ones before they count."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Union

import numpy as np

from msposenet.codecs import Codec
from msposenet.config import Config
from msposenet.errors import ConfigError, ExportError
from msposenet.export.crops import calibration_crops
from msposenet.export.parity import compare
from msposenet.inference.batches import Batches
from msposenet.inference.deployed import Deployed, Deployment, Int8, SetScores, load_traced
from msposenet.inference.scoring import Scored, score_set, validation_sets
from msposenet.models.graphs import BothGraphs
from msposenet.progress import Reporter
from msposenet.runtime import mx
from msposenet.symbols.quantised import BATCH, depthwise, quantise
from msposenet.symbols.traced import Traced, trace

CALIBRATION = 500  # crops
MAX_DROP = 0.5  # points
_TIMED = 8  # crops, while timing
_ROUNDS = 7


@dataclass(frozen=True)
class Int8Request:
    """What 8-bit graphs are made and judged by.

    config: its data.train is calibrated on, its data.val scored, by its test settings. max_drop: in points (0.5 is 0.5
    AP) of any set's headline figure. keep_float: layers by name, or what their names begin with.
    """

    config: Config
    reporter: Reporter
    calibration: int = CALIBRATION
    max_drop: float = MAX_DROP
    keep_float: tuple[str, ...] = ()

    def of_model(self, model: Config) -> Int8Request:
        """The same with crops as the model of the configuration `model` wants them, from this one's sets."""
        data = model.data.model_copy(
            update={name: getattr(self.config.data, name) for name in ("train", "val", "max_bad_fraction")}
        )
        config = model.model_copy(update={"data": data, "test": self.config.test})
        return Int8Request(config, self.reporter, self.calibration, self.max_drop, self.keep_float)

    def check(self) -> None:
        """Raises ConfigError, before the work, where there is nothing to calibrate on or nothing to score."""
        for part, use in (("train", "calibrated on crops of a training set"), ("val", "scored on a validation set")):
            if not getattr(self.config.data, part):
                raise ConfigError(f"data.{part} is not set: 8-bit graphs are {use}; name one in the configuration")
        if not mx.runtime.Features().is_enabled("MKLDNN"):
            raise ConfigError("8-bit graphs need an MXNet with oneDNN (the CPU build has it)")


@dataclass(frozen=True)
class Int8Result:
    """What `deploy.json` keeps, and how many times as fast as the fused float graph the 8-bit one is here."""

    about: Int8
    speed: float

    def lines(self) -> list[str]:
        """The scores of both, set by set, with whose boxes they were got on, and the speed."""
        kept = f"; in float: {', '.join(self.about.float_layers)}" if self.about.float_layers else ""
        lines = [f"int8: calibrated on {self.about.calibrated_on}{kept}"]
        for part in self.about.scores:
            float_, int8 = 100 * part.float_, 100 * part.int8
            lines.append(
                f"int8: {part.set}: {part.metric} {float_:.2f} in float, {int8:.2f} in 8 bits ({int8 - float_:+.2f}), "
                f"boxes: {part.boxes}"
            )
        threads = f"batch {_TIMED}, median of {_ROUNDS} rounds by turns"
        return [*lines, f"int8: {self.speed:.2f} times as fast as the fused float graph here ({threads})"]


def quantised_graphs(both: BothGraphs, request: Int8Request) -> tuple[dict[str, Traced], str, tuple[str, ...]]:
    """The 8-bit keypoint and heatmap graphs, what they were calibrated on, and the layers left in float."""
    traced = trace(both)
    lossy = depthwise(traced)
    if lossy:
        request.reporter.warn(
            f"int8: {len(lossy)} layers have a channel a group ({lossy[0]}, ...): such networks lose several points; "
            f"--keep-float names layers to leave out"
        )
    crops, origin = calibration_crops(request.config, request.calibration, request.reporter)
    batches = [crops[start : start + BATCH] for start in range(0, len(crops), BATCH)]
    done = 0
    with request.reporter.task("calibrating") as advance:

        def batch_done(count: int) -> None:
            nonlocal done
            done += count
            advance(done, len(crops))

        quantised = quantise(traced, batches, request.keep_float, batch_done)
    graphs = {}
    for index, name in enumerate(("keypoints", "heatmaps")):
        symbol = quantised.symbol[index]
        names = set(symbol.list_inputs())
        graphs[name] = Traced(symbol, {key: array for key, array in quantised.arrays.items() if key in names})
    return graphs, origin, request.keep_float


def judge(folder: Path, request: Int8Request, origin: str, float_layers: tuple[str, ...]) -> Int8Result:
    """Score the float and the 8-bit graphs of the export in `folder` and time them.

    Raises ExportError where a figure falls by more than `max_drop`.
    """
    config, reporter = request.config, request.reporter
    engines = {name: Deployed(folder, mx.cpu(), config.test.batch_size, name == "int8") for name in ("float", "int8")}
    sets = validation_sets(config, engines["float"].skeleton, reporter.say)
    scores = []
    for part in sets:
        scored = {name: _score(engine, part, config, reporter) for name, engine in engines.items()}
        (metric, float_), (_, int8) = scored["float"].scores.main, scored["int8"].scores.main
        boxes = scored["float"].scores.boxes
        scores.append(SetScores(set=part.title, boxes=boxes, metric=metric, float=float_, int8=int8))
    about = Int8(calibrated_on=origin, float_layers=float_layers, scores=tuple(scores))
    result = Int8Result(about, _speed(folder))
    for part in scores:
        if part.float_ <= 0:
            reporter.warn(f"int8: {part.set}: the float graphs score {part.float_:g}: what 8 bits lose cannot be seen")
        drop = 100 * (part.float_ - part.int8)
        if not drop <= request.max_drop:  # said so that NaN is refused
            raise ExportError(
                f"8-bit graphs lose {drop:.2f} points {part.metric} on {part.set} ({100 * part.float_:.2f} to "
                f"{100 * part.int8:.2f}, boxes: {part.boxes}), more than {request.max_drop:g}: keep layers in float "
                "(--keep-float), calibrate on more crops, or allow more with --max-drop"
            )
    return result


def check_graphs(folder: Path, deployment: Deployment, codec: Codec, crops: np.ndarray) -> None:
    """Load both 8-bit graphs: keypoints must be what the heatmaps decode to. Raises ExportError."""
    found = {}
    for name in ("keypoints", "heatmaps"):
        graph = getattr(deployment, name)
        traced = load_traced(folder, graph.int8, graph.int8_params, crops.shape[1:], deployment.sha256)
        found[name] = np.concatenate(Batches(traced, mx.cpu(), len(crops))(crops))
    check = compare("int8", codec, found["heatmaps"], found["heatmaps"], found["keypoints"])
    if not check.holds:
        raise ExportError(f"the 8-bit keypoints are not what the 8-bit heatmaps decode to: {check.line()}")


def _score(engine: Deployed, part, config: Config, reporter: Reporter) -> Scored:
    found: Union[Scored, None] = score_set(engine, part, config, reporter)
    assert found is not None  # only the other workers of a job get None
    return found


def _speed(folder: Path) -> float:
    engines = [Deployed(folder, mx.cpu(), _TIMED, int8) for int8 in (False, True)]
    width, height = engines[0].input_wh
    crops = np.random.default_rng(0).integers(0, 256, (_TIMED, height, width, 3), dtype=np.uint8)
    centers = np.full((_TIMED, 2), 100.0)
    spent: list[list[float]] = [[], []]
    for _ in range(_ROUNDS + 1):
        for engine, times in zip(engines, spent):
            start = time.perf_counter()
            engine.keypoints(crops, centers, centers)
            times.append(time.perf_counter() - start)
    # The first round plans memory and lays weights out.
    float_, int8 = (np.median(times[1:]) for times in spent)
    return float(float_ / int8)
