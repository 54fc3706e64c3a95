"""Whole trainings under `msposenet launch`: real processes on this machine, one of which may be made to fail."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from people_set import people_set, tiny_config
from sabotage import NOTES, NOW, VARIABLE

import msposenet
from msposenet.config import Config
from msposenet.launching.leash import marked
from msposenet.training.checkpoint import checkpoint_steps, fingerprint, load_checkpoint

MARK = "TRAINING_JOB"
STEP_TIMEOUT = 20.0
PATIENCE = 240.0  # seconds: starting takes minutes on a machine that is busy otherwise
_POLL = 0.02


def job_config(data: dict[str, Any] | None = None, **train: Any) -> Config:
    """Two epochs of two steps; a checkpoint after each step, a validation after the last, a loader process each."""
    settings = {
        "epochs": 2,
        "batch_size": 4,
        "log_every": 1,
        "checkpoint_steps": 1,
        "keep": 50,
        "step_timeout": STEP_TIMEOUT,
        "start_timeout": 240.0,
    }
    return tiny_config(
        people_set(8),
        data={"workers": 1, **(data or {})},
        train={**settings, **train},
        test={"batch_size": 4, "flip": False},
    )


def write_config(path: Path, config: Config) -> Path:
    path.write_text(config.dump(), encoding="utf-8")
    return path


class TrainingJob:
    """A training that runs in a folder of its own (`folder`/run unless `run` says otherwise). Use as a context.

    harms: for each attempt what goes wrong in it (sabotage.py). options: of launch; words: of train. Nothing is left of
    it afterwards.
    """

    def __init__(
        self,
        folder: Path,
        config: Path,
        workers: int = 2,
        servers: int = 1,
        harms: list[dict[str, Any]] | tuple = (),
        options: tuple = (),
        words: tuple = (),
        run: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.run = folder, run or folder / "run"
        self.mark = uuid.uuid4().hex
        self._notes = folder / NOTES
        hook = folder / "hook"
        hook.mkdir(exist_ok=True)
        (hook / "sitecustomize.py").write_text("import sabotage\n\nsabotage.begin()\n", encoding="utf-8")
        package = os.path.dirname(os.path.dirname(os.path.abspath(msposenet.__file__)))
        paths = [str(hook), package, str(Path(__file__).resolve().parent)]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "OPENBLAS_NUM_THREADS": "2",  # NumPy then has threads of its own, which may be given a SIGTERM
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
            MARK: self.mark,
            VARIABLE: json.dumps({"folder": str(folder), "harms": list(harms)}),
            **(env or {}),
        }
        launch = [sys.executable, "-m", "msposenet", "launch", "-n", workers, "-s", servers, *options]
        train = ["--", "train", config, "--run", self.run, *words]
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            list(map(str, launch + train)),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> TrainingJob:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _read(self) -> None:
        with open(self.folder / "output.txt", "w", encoding="utf-8") as kept:
            for line in self.process.stdout:
                self.lines.append(line.rstrip("\n"))
                kept.write(line)
                kept.flush()

    @property
    def told(self) -> str:
        return "\n".join(self.lines)

    @property
    def restarts(self) -> int:
        return sum(line.startswith("[launch] restart ") for line in list(self.lines))

    def end(self, seconds: float = PATIENCE) -> int:
        """The job's exit code; its output is complete then."""
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code

    # what the processes noted

    def notes(self, what: str) -> list[dict[str, Any]]:
        if not self._notes.exists():
            return []
        lines = self._notes.read_text(encoding="utf-8").split("\n")[:-1]  # the last may be half written
        return [note for note in map(json.loads, lines) if note["what"] == what]

    def wait_for(self, what: str, seconds: float = PATIENCE, **values: Any) -> dict[str, Any] | None:
        """The first such note; None when the job, or the attempt that is asked for, ends without it."""
        ends = time.monotonic() + seconds
        while True:
            over = self.process.poll() is not None or self._has_ended(values.get("attempt"))
            for note in self.notes(what):
                if all(note.get(name) == value for name, value in values.items()):
                    return note
            if over:
                return None
            if time.monotonic() > ends:
                raise AssertionError(f"no {what} {values} within {seconds:g} s in:\n{self.told}")
            time.sleep(_POLL)

    def _has_ended(self, attempt: int | None) -> bool:
        return attempt is not None and any(note["attempt"] > attempt for note in self.notes("born"))

    def codes(self, attempt: int = 0) -> dict[str, int]:
        """How the processes of an attempt left, as far as the launcher heard of it."""
        return {note["name"]: note["code"] for note in self.notes("left") if note["attempt"] == attempt}

    # processes

    def alive(self) -> list[int]:
        """Every process of the job, the launcher and its agents too."""
        return marked(f"{MARK}={self.mark}")

    def of_attempt(self, attempt: int) -> list[int]:
        """Those that train or serve in an attempt, with their children."""
        return [pid for pid in self.alive() if _has(pid, f"MSPOSENET_ATTEMPT={attempt}")]

    def pid(self, who: str, attempt: int = 0, seconds: float = PATIENCE) -> int:
        note = self.wait_for("born", seconds, who=who, attempt=attempt)
        assert note is not None, self.told
        return note["pid"]

    def act_now(self, attempt: int = 0) -> None:
        """Let the victim of an attempt do what was planned, wherever it is."""
        (self.folder / f"{NOW}{attempt}").touch()

    def seconds_until_gone(self, since: float, limit: float, attempt: int = 0) -> float | None:
        """Seconds after `since` (time.time()) at which nothing of an attempt was left; None when `limit` passed."""
        waiting = self.of_attempt(attempt)
        while time.time() < since + limit:
            waiting = [pid for pid in waiting if _has(pid, f"{MARK}={self.mark}")]
            if not waiting:
                seconds = time.time() - since
                waiting = self.of_attempt(attempt)
                if not waiting:
                    return seconds
            time.sleep(_POLL)
        return None

    def left_behind(self, seconds: float = 5.0) -> list[int]:
        """What of the job is still there after at most that many seconds."""
        ends = time.monotonic() + seconds
        while self.alive() and time.monotonic() < ends:
            time.sleep(_POLL)
        return self.alive()

    # what it wrote

    @property
    def steps(self) -> list[int]:
        """Steps with a checkpoint."""
        return checkpoint_steps(self.run / "checkpoints")

    def fingerprint(self, which: str | int = "last") -> str:
        return fingerprint(load_checkpoint(self.run / "checkpoints", which, say=lambda line: None))


def limit_files(pid: int, size: int) -> None:
    """From now on the process may write no file beyond that many bytes, as on a disk that is full."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, size))


def _has(pid: int, text: str) -> bool:
    try:
        return text.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
