"""Contenders as processes of their own, of which one at a time is awake."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from msposenet.benchmarks.race import Entry, Lost
from msposenet.cores import physical_cores
from msposenet.errors import ConfigError, ExportError
from msposenet.progress import Advance

LIMIT = 600.0  # seconds in which a contender must have answered
_TOLERANCE = 1e-3  # of the largest value
WAITING = ("passive", "active", "default")


@dataclass(frozen=True)
class Contender(Entry):
    """An entry that has a process: `make`, "module:function", called there with `options`, gives what is timed.

    That is a function without arguments that does the whole work and returns an array. environment: on top of
    `Settings.environment`. checked: how many of the first arrays are compared with the other contenders', 0: it gives
    none. tolerance: how far they may be apart, of the largest value; None: any.
    """

    make: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    tolerance: float | None = _TOLERANCE
    checked: int = 1


@dataclass(frozen=True)
class Settings:
    """How a race is run. turn: seconds that a contender computes before the next has its turn, at least once each.

    waiting: what idle OpenMP threads do: `passive` sleep, `active` spin, `default` as each library was built.
    """

    rounds: int = 15
    turn: float = 1.0
    threads: int = 0
    waiting: str = "default"
    limit: float = LIMIT

    def __post_init__(self) -> None:
        if self.waiting not in WAITING:
            raise ConfigError(f"--waiting {self.waiting}: choose one of {', '.join(WAITING)}")
        if not (np.isfinite(self.turn) and self.turn >= 0):
            raise ConfigError(f"--turn {self.turn}: give the seconds of a contender's turn, for example 1")

    @property
    def cores(self) -> int:
        """Threads of every contender: as asked, as OMP_NUM_THREADS says, or one for each physical core."""
        given = os.environ.get("OMP_NUM_THREADS", "")
        return self.threads or (int(given) if given.isdecimal() and int(given) else physical_cores())

    @property
    def environment(self) -> dict[str, str]:
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, str(self.cores))}
        environment.pop("OMP_WAIT_POLICY", None)
        if self.waiting != "default":
            environment["OMP_WAIT_POLICY"] = self.waiting.upper()
        return environment


class Process:
    """The process of a contender: frozen, with all its threads, unless it has been asked something."""

    def __init__(self, contender: Contender, settings: Settings) -> None:
        self.contender = contender
        self.processor = 0.0  # seconds that it has computed
        self._limit = settings.limit
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "msposenet.benchmarks.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**settings.environment, **contender.environment},
            start_new_session=True,  # Ctrl-C is for the parent, which ends its contenders
        )

    def make(self, output: Path | None) -> None:
        """Build the contender, and let it do its work; the arrays to be checked go to the file `output`."""
        contender = self.contender
        request = {"do": "make", "make": contender.make, "options": dict(contender.options)}
        steps = max(1, contender.checked)
        self._ask({**request, "steps": steps, "output": None if output is None else str(output)})

    def run(self, first: int, times: int) -> float:
        """Seconds of one of `times` iterations."""
        return self._ask({"do": "run", "times": times})["seconds"]

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(OSError):
                file.close()

    def _ask(self, request: dict) -> dict:
        """The answer; Lost when there is none."""
        try:
            self._signal("SIGCONT")
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            answer = json.loads(self._line())
            # Threads that wait by spinning would take the next contender's cores.
            self._signal("SIGSTOP")
        except (OSError, ValueError, EOFError):
            raise Lost(self._last_words()) from None
        self.processor = answer["processor"]
        if "not_measured" in answer:
            raise Lost(answer["not_measured"])
        return answer

    def _line(self) -> bytes:
        deadline, line = time.monotonic() + self._limit, b""
        while not line.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                self._process.kill()
                raise Lost(f"no answer for {self._limit:g} s")
            part = os.read(self._process.stdout.fileno(), 65536)
            if not part:
                raise EOFError
            line += part
        return line

    def _signal(self, name: str) -> None:
        if sys.platform == "linux":  # elsewhere a frozen process could outlive its parent
            os.kill(self._process.pid, getattr(signal, name))

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._errors.seek(0)
        lines = [line for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        code = self._process.returncode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return f"its process ended with {how}" + (f": {lines[-1].strip()[:300]}" if lines else "")


@dataclass(frozen=True)
class Check:
    """The largest difference of a contender's results from those of the one they are checked with."""

    name: str
    error: float
    tolerance: float | None
    unit: str = "of the largest value"


@dataclass
class Started:
    """Contenders that are ready to race, and why the others are not."""

    processes: dict[str, Process]
    lost: dict[str, str]
    checks: list[Check]


@contextmanager
def started(contenders: Sequence[Contender], settings: Settings, folder: Path, progress: Advance) -> Iterator[Started]:
    """Processes of the contenders, each made and warmed up, all killed at the end, come what may.

    The first contender that runs sets the arrays that the others must give. ExportError when one gives others: it
    would be timed at other work. `folder`: for the arrays.
    """
    processes: dict[str, Process] = {}
    lost: dict[str, str] = {}
    checks: list[Check] = []
    wanted: np.ndarray | None = None
    try:
        for number, contender in enumerate(contenders):
            process = processes[contender.name] = Process(contender, settings)
            output = folder / f"{number}.npy" if contender.checked else None
            try:
                process.make(output)
            except Lost as reason:
                lost[contender.name] = str(reason)
                processes.pop(contender.name).close()
            else:
                if output is not None:
                    found = np.load(output)
                    wanted = found if wanted is None else wanted
                    checks.append(_compare(contender, found, wanted))
            progress(number + 1, len(contenders))
        yield Started(processes, lost, checks)
    finally:
        for process in processes.values():
            process.close()


def _compare(contender: Contender, found: np.ndarray, wanted: np.ndarray) -> Check:
    if found.shape != wanted.shape:
        raise ExportError(f"{contender.name}: gives an array of {found.shape}, the others one of {wanted.shape}")
    error = float(np.abs(found.astype(np.float64) - wanted).max() / max(float(np.abs(wanted).max()), 1e-30))
    if contender.tolerance is not None and not error <= contender.tolerance:
        raise ExportError(
            f"{contender.name}: its results differ by {error:.1e} of the largest value, {contender.tolerance:g} is "
            "allowed; a contender that computes something else is not timed"
        )
    return Check(contender.name, error, contender.tolerance)
