"""Progress of long work: a bar on a terminal, one line an interval elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Say = Callable[[str], None]
Advance = Callable[[int, int], None]

_LINE_INTERVAL = 30.0  # seconds between lines where there is no terminal


def silent(line: str) -> None:
    """A `Say` that keeps quiet."""


class Reporter:
    """Where a verb's sentences and progress go: stderr, so that stdout stays free for results."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._bar = None
        self.terminal = sys.stderr.isatty() and not quiet

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    def warn(self, line: str) -> None:
        """Print a line also when quiet: what must not go unseen."""
        quiet, self.quiet = self.quiet, False
        try:
            self.say(line)
        finally:
            self.quiet = quiet

    @contextmanager
    def task(self, label: str) -> Iterator[Advance]:
        """`advance(done, total)` while the work `label` goes on."""
        if self.quiet:
            yield lambda done, total: None
        elif self.terminal and self._bar is None:
            yield from self._rich(label)
        else:
            yield _lines(label, self.say)

    def _rich(self, label: str) -> Iterator[Advance]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            self._bar = bar
            row = bar.add_task(label, total=None)
            try:
                yield lambda done, total: bar.update(row, completed=done, total=total)
            finally:
                self._bar = None


def _lines(label: str, say: Say) -> Advance:
    start = last = time.monotonic()

    def advance(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _LINE_INTERVAL:
            last = now
            say(f"{label}: {done} of {total} ({now - start:.0f} s)")

    return advance
