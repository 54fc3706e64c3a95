"""What a run writes about itself: log.txt, metrics.jsonl, TensorBoard events."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np

from msposenet.errors import StorageError
from msposenet.progress import Say
from msposenet.storage import write_text_atomic


class RunLog:
    """Lines and figures of a run, on disk and to `say`. `folder` must exist; resuming goes on behind `step`."""

    def __init__(self, folder: Path, say: Say, step: int = 0, tensorboard: bool = True) -> None:
        self._folder = folder
        self._say = say
        self._metrics = folder / "metrics.jsonl"
        self._forget_after(step)
        self._board = _board(folder / "tensorboard") if tensorboard else None

    def line(self, text: str) -> None:
        """A line for people."""
        self.record(text)
        self._say(text)

    def record(self, text: str) -> None:
        """A line for log.txt alone."""
        self._append(self._folder / "log.txt", text)

    def figures(self, step: int, **values: float) -> None:
        """Figures of a step, by name; NaN and infinity are left out, JSON has no word for them."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._append(self._metrics, json.dumps({"step": step, **finite}, allow_nan=False))
        if self._board is not None:
            for name, value in finite.items():
                # TensorBoard's alphabet is smaller than that of sets' and figures' names.
                self._board.add_scalar(re.sub(r"[^-/\w.]", "_", name), float(value), global_step=step)
            self._board.flush()

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture (H, W, 3) uint8 RGB for TensorBoard."""
        if self._board is not None:
            self._board.add_image(name, image.transpose(2, 0, 1).astype(np.float32) / 255, global_step=step)
            self._board.flush()

    def close(self) -> None:
        if self._board is not None:
            self._board.close()

    def _append(self, path: Path, text: str) -> None:
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error}); free space or choose another folder") from None

    def _forget_after(self, step: int) -> None:
        """Figures written after the checkpoint that a run resumes from would come twice: drop them."""
        if not self._metrics.exists():
            return
        kept = []
        for line in self._metrics.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue  # a line cut by a kill
        write_text_atomic(self._metrics, "".join(kept))


class NoLog:
    """The log of the workers that keep none: rank 0's is the run's."""

    def line(self, text: str) -> None: ...

    def record(self, text: str) -> None: ...

    def figures(self, step: int, **values: float) -> None: ...

    def picture(self, step: int, name: str, image: np.ndarray) -> None: ...

    def close(self) -> None: ...


def _board(folder: Path):
    import logging

    from mxboard import SummaryWriter

    logging.getLogger("mxboard").setLevel(logging.ERROR)
    return SummaryWriter(logdir=str(folder), flush_secs=10, verbose=False)
