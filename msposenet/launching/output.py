"""Lines from many threads to one place, in order, without holding up whoever must not wait."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Optional, TextIO

Out = Callable[[str, str], None]  # name of the process ("worker 0", "scheduler", "launch"), a line

LAUNCH = "launch"

_FULL = 2000  # lines waiting, at which those who bring more wait too
_PATIENCE = 5.0  # seconds without a line taken, after which the rest is given up at the end
_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


class Printer:
    """A thread that hands lines to `out`. A terminal that is stopped (Ctrl-S) stops it, and nothing else."""

    def __init__(self, out: Out) -> None:
        self._out = out
        self._lines: deque[tuple[str, str]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._taken = 0
        self._error: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._work, name="launch output", daemon=True)
        self._thread.start()

    def say(self, line: str) -> None:
        """A line of the launcher itself; never waits."""
        with self._changed:
            self._lines.append((LAUNCH, line))
            self._changed.notify_all()

    def add(self, name: str, lines: Iterable[str]) -> None:
        """Lines of a process; waits while too many are on their way."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._lines) < _FULL or self._closing)
            self._lines.extend((name, line) for line in lines)
            self._changed.notify_all()

    def close(self) -> None:
        """Write out what is there; an error of `out` is raised here."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        before = -1
        while self._thread.is_alive() and before != self._taken:
            before = self._taken
            self._thread.join(_PATIENCE)
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._closing)
                batch = list(self._lines)
                self._lines.clear()
                self._changed.notify_all()
                if not batch:
                    return
            for name, line in batch:
                self._hand_out(name, line)
                self._taken += 1

    def _hand_out(self, name: str, line: str) -> None:
        if self._error is None:
            try:
                self._out(name, line)
            except BaseException as error:  # Not the job's fault: it goes on unheard, and `close` tells.
                self._error = error


def prefixed(stream: TextIO) -> Out:
    """An `Out` that writes `[worker 0] line`, coloured by process on a terminal; a closed stream is left alone."""
    coloured = stream.isatty() and "NO_COLOR" not in os.environ
    colours: dict[str, int] = {}
    encoding = getattr(stream, "encoding", None) or "utf-8"
    gone = False

    def out(name: str, line: str) -> None:
        nonlocal gone
        prefix = f"[{name}]"
        if coloured:
            colour = 1 if name == LAUNCH else colours.setdefault(name, _COLOURS[len(colours) % len(_COLOURS)])
            prefix = f"\033[{colour}m{prefix}\033[0m"
        if gone:
            return
        # A terminal or log that is not UTF-8 gets an escape for what it cannot show.
        text = f"{prefix} {line}\n".encode(encoding, "backslashreplace").decode(encoding)
        try:
            stream.write(text)
            stream.flush()
        except (OSError, ValueError):
            # The reader of the log left or its terminal was closed: no reason to end the training.
            gone = True

    return out
