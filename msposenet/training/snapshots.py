"""Checkpoints of a training: what goes into one, and how a run takes it up again. Rank 0 writes, all take part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msposenet.config import TrainConfig
from msposenet.distributed.arrays import pack_arrays, unpack_arrays
from msposenet.distributed.group import Group
from msposenet.runtime import mx
from msposenet.training.checkpoint import save_checkpoint
from msposenet.training.statistics import Statistics
from msposenet.training.step import Stepper
from msposenet.training.together import Start, compare_weights
from msposenet.weights import get_arrays, set_arrays

_OWN = "statistics:"  # rank:device:name, among a checkpoint's optimizer arrays


@dataclass
class Progress:
    """How far a run is: what state.json says. `validated` is the step of the last validation.

    `best_score` is the largest mean over the validation sets of each one's headline figure.
    """

    step: int = 0
    best_score: float = -1.0
    best_step: int = -1
    validated: int = 0


class Snapshots:
    """The checkpoints of a run in the folder `root`, of which only rank 0's is used."""

    def __init__(
        self, root: Path, config: TrainConfig, net, stepper: Stepper, statistics: Statistics, group: Group
    ) -> None:
        self._root, self._config, self._net, self._stepper = root, config, net, stepper
        self._statistics, self._group = statistics, group

    @property
    def layout(self) -> list[int]:
        """Number of workers, devices of each: whose statistics a checkpoint holds."""
        return [self._group.size, len(self._statistics.devices)]

    def restore(self, start: Start) -> tuple[Progress, list[str]]:
        """Take up a start on every device; returns how far it was, and what the log should say."""
        set_arrays(self._net, start.params, start.name or "worker 0's weights")
        lines: list[str] = []
        progress = Progress()
        if start.name is not None:
            state = start.state
            # Called best_ap while there was one metric.
            best = state.get("best_score", state.get("best_ap", -1.0))
            progress = Progress(state["step"], best, state["best_step"], state["validated"])
            lines = self._restore_optimizer(start)
        self.compare(progress.step)
        return progress, lines

    def _restore_optimizer(self, start: Start) -> list[str]:
        arrays = dict(start.optimizer)
        statistics = {name: arrays.pop(name) for name in list(arrays) if name.startswith(_OWN)}
        lines = []
        if self._stepper.asynchronous:
            lines.append("dist_async: the servers' moments are in no checkpoint and start anew")
        else:
            self._stepper.optimizer.restore(arrays, start.state["updates"])
            if start.state["step"] and not start.state["updates"]:
                lines.append("the checkpoint, of a run with dist_async, has no moments: they start anew")
        before = start.state.get("layout", self.layout)
        own = f"{_OWN}{self._group.rank}:"
        if before != self.layout:
            lines.append(
                f"{self.layout[0]} workers of {self.layout[1]} devices go on where {before[0]} of {before[1]} were: "
                "batch-norm statistics begin at their average"
            )
        elif statistics:
            self._statistics.restore(
                {name[len(own) :]: statistics[name] for name in statistics if name.startswith(own)}
            )
        return lines

    def weights(self) -> dict[str, np.ndarray]:
        """What is learnt, by name, from the first device."""
        mx.nd.waitall()
        return {name: parameter.list_data()[0].asnumpy() for name, parameter in self._stepper.learnable.items()}

    def compare(self, step: int) -> None:
        """DivergedError, on every worker, unless all hold the same weights."""
        if self._group.size > 1:
            compare_weights(self._group, self.weights(), step)

    def averages(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Batch-norm statistics averaged over all devices of all workers; on rank 0 also each one's own, by name."""
        local = self._statistics.local()
        packed = self._group.gather("batch-norm statistics", pack_arrays(local))
        if packed is None:
            return unpack_arrays(self._group.share("averaged statistics", None)), {}
        parts = [unpack_arrays(part) for part in packed]
        average = self._statistics.average(parts)
        self._group.share("averaged statistics", pack_arrays(average))
        if self.layout == [1, 1]:
            return average, {}
        own = {f"{_OWN}{rank}:{name}": array for rank, part in enumerate(parts) for name, array in part.items()}
        return average, own

    def save(self, progress: Progress, best: bool = False) -> None:
        """Write a checkpoint, with averaged statistics; the workers' own, beside them, are what a run goes on with."""
        self._group.phase(f"saving after step {progress.step}")
        self.compare(progress.step)
        average, own = self.averages()
        if self._group.rank == 0:
            self._write(progress, best, average, own)
        # Nobody goes on before it is written: if it cannot be, the steps after it would be lost.
        self._group.all(f"saved step {progress.step}", None)

    def _write(
        self, progress: Progress, best: bool, average: dict[str, np.ndarray], own: dict[str, np.ndarray]
    ) -> None:
        optimizer = self._stepper.optimizer
        save_checkpoint(
            self._root,
            progress.step,
            params={**get_arrays(self._net), **average},
            optimizer={**optimizer.arrays(), **own},
            state={
                "step": progress.step,
                "updates": optimizer.updates,
                "best_score": progress.best_score,
                "best_step": progress.best_step,
                "validated": progress.validated,
                "layout": self.layout,
            },
            keep=self._config.keep,
            best=best,
        )
