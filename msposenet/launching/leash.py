"""What Linux offers against processes that outlive their job. Standard library only.

A parent-death signal reaches the child alone, never its children, and is lost with nobody to send it; a subreaper is
given the orphans of its descendants. An agent uses both, and the mark in the environment finds what both have missed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PROC = Path("/proc")
_PAUSE = 0.02  # seconds between two looks at processes that were killed


def adopt_orphans() -> None:
    """Descendants whose parent dies become children of this process, not of init."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def follow_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """This process is sent signal `number` when `parent`, which must have one thread, dies; ends it if dead already."""
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def load() -> None:
    """Load the C library now: between fork and exec it would be too late."""
    _libc()


def descendants(root: int) -> list[int]:
    """Process numbers of the children of `root`, their children and so on."""
    children: dict[int, list[int]] = {}
    for pid in _processes():
        with contextlib.suppress(OSError, IndexError, ValueError):
            # The name, in brackets, may itself hold blanks and brackets.
            fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
            children.setdefault(int(fields[1]), []).append(pid)
    found = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def marked(mark: str) -> list[int]:
    """Processes of this machine that were started with `mark`, a NAME=VALUE, in their environment."""
    wanted = mark.encode()
    found = []
    for pid in _processes():
        with contextlib.suppress(OSError):
            if wanted in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def kill_descendants(seconds: float) -> list[int]:
    """Kill and reap every descendant of this process; those that `seconds` later still live are returned.

    A process in an uninterruptible wait (a dead file server, a hung driver) cannot be killed by anybody.
    """

    def left() -> list[int]:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        return descendants(os.getpid())

    return _kill(left, seconds)


def kill_marked(mark: str, seconds: float) -> list[int]:
    """Kill every process that carries `mark`, a NAME=VALUE, in its environment; returns what `seconds` later lives."""
    return _kill(lambda: [pid for pid in marked(mark) if pid != os.getpid()], seconds)


def _kill(find: Callable[[], list[int]], seconds: float) -> list[int]:
    deadline = time.monotonic() + seconds
    while True:
        left = find()
        if not left or time.monotonic() > deadline:
            return left
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE)


def _processes() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]


_library: list[ctypes.CDLL] = []


def _libc() -> ctypes.CDLL:
    if not _library:
        _library.append(ctypes.CDLL(None, use_errno=True))
    return _library[0]


def _prctl(option: int, value: int) -> None:
    if _libc().prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0))):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}, {value}): {os.strerror(number)}")
