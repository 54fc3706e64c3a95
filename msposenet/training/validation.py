"""Validation during a training: all workers find poses, rank 0 scores them, writes them down and tells the others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from msposenet.config import Config
from msposenet.distributed.group import Group
from msposenet.errors import DataError
from msposenet.evaluation.results import write_results
from msposenet.inference.drawing import prediction_grid
from msposenet.inference.scoring import Scored, ValidationSet, overall, score_set
from msposenet.inference.topdown import TopDown
from msposenet.progress import Reporter
from msposenet.storage import file_name
from msposenet.training.runlog import NoLog, RunLog

_GRID = 4  # crops in the TensorBoard picture


class Validation:
    """The sets that a run is validated on; results go to the folder `results`."""

    def __init__(
        self,
        sets: list[ValidationSet],
        engine: TopDown,
        config: Config,
        results: Path,
        reporter: Reporter,
        group: Group,
    ) -> None:
        self._sets, self._engine, self._config = sets, engine, config
        self._results, self._reporter, self._group = results, reporter, group

    def __bool__(self) -> bool:
        return bool(self._sets)

    def score(self, log: RunLog | NoLog, epoch: int, step: int, between: Callable[[], None]) -> float:
        """The mean over the sets of each one's headline figure, on every worker.

        `between` is called between batches and may raise Terminated.
        """
        self._engine.refresh()  # the weights have changed since the last time
        scored = [
            score_set(self._engine, part, self._config, self._reporter, between, self._group) for part in self._sets
        ]
        found = [part for part in scored if part is not None]  # all of them on rank 0, none elsewhere
        for part, one in zip(self._sets, found):
            self._record(log, epoch, step, part, one)
        own = repr(overall(found)).encode("ascii") if found else None
        score = float(self._group.share(f"score of step {step}", own))
        if len(found) > 1:
            log.line(f"Epoch[{epoch + 1}] Validation mean of the {len(found)} headline figures: {score:.4f}")
            log.figures(step, validation=score)
        if found:
            with suppress(DataError):  # a damaged picture among the first four must not end a run
                first = self._sets[0].boxes.records
                grid = prediction_grid(self._engine, first, _GRID, self._config.data.enlarge)
                log.picture(step, "predictions", grid)
        self._engine.refresh()
        return score

    def _record(self, log: RunLog | NoLog, epoch: int, step: int, part: ValidationSet, scored: Scored) -> None:
        several = len(self._sets) > 1
        # A single set keeps the name of its file, which other programs look for.
        stem = file_name(part.title) if several else part.source.annotations.stem
        write_results(self._results / f"keypoints_{stem}.json", scored.results)
        figures = scored.scores.figures
        title = f"{part.title}: " if several else ""
        shown = " ".join(f"{name.replace(' ', '_')}={value:.4f}" for name, value in figures.items())
        log.line(f"Epoch[{epoch + 1}] Validation {title}{shown} boxes: {scored.scores.boxes}")
        prefix = f"{part.title}/" if several else ""
        log.figures(step, **{f"{prefix}{name}": value for name, value in figures.items()})
