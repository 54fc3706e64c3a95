"""Jobs of small Python scripts for the launcher's tests, and what is left of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from msposenet.launching.hosts import Host
from msposenet.launching.job import Job
from msposenet.launching.leash import marked
from msposenet.launching.supervisor import supervise

PROJECT = Path(__file__).resolve().parents[1]

# Every script starts with this: who it is, and `stay`, which ends for servers and scheduler when the workers are done,
# as in a real job.
PREAMBLE = """
import atexit, json, os, resource, signal, subprocess, sys, time
role = os.environ["DMLC_ROLE"]
number = int(os.environ.get("DMLC_TASK_ID", "0"))
attempt = int(os.environ["MSPOSENET_ATTEMPT"])
me = f"{role} {number}"
def done(worker):
    return os.path.join(os.environ["LAUNCHED_FOLDER"], f"{worker} of attempt {attempt}")
if role == "worker":
    atexit.register(lambda: open(done(number), "w").close())
def stay():
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.02)
        if role != "worker" and all(os.path.exists(done(i)) for i in range(int(os.environ["DMLC_NUM_WORKER"]))):
            return
"""

QUICK = {"first_pause": 0.05, "drain": 0.5, "retry_interval": 0.1}


@dataclass
class Ended:
    code: int
    lines: list[tuple[str, str]]
    mark: str

    def of(self, name: str) -> list[str]:
        return [line for who, line in self.lines if who == name]

    @property
    def told(self) -> str:
        return "\n".join(self.of("launch"))


def make_job(script: str, mark: str, folder: str, **options) -> Job:
    settings = {"workers": 2, "servers": 1, **QUICK, **options}
    # Through JSON, hosts come as lists.
    settings["hosts"] = [Host(*host) if isinstance(host, list) else host for host in settings.get("hosts", ())]
    env = {"LAUNCHED": mark, "LAUNCHED_FOLDER": folder, **settings.pop("env", {})}
    return Job(argv=(sys.executable, "-S", "-c", PREAMBLE + textwrap.dedent(script)), env=env, **settings)


def run_job(script: str, **options) -> Ended:
    """Run a job here to its end; nothing of it may be left."""
    mark = uuid.uuid4().hex
    lines: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        code = supervise(make_job(script, mark, folder, **options), lambda name, line: lines.append((name, line)))
    assert alive(mark) == []
    return Ended(code, lines, mark)


class Running:
    """A job in another process, whose lines are read as they come."""

    def __init__(self, script: str, **options) -> None:
        self.mark = uuid.uuid4().hex
        self._folder = tempfile.TemporaryDirectory()
        options = {"workers": 2, "servers": 1, **QUICK, **options}
        code = (
            "import json, sys; from launched import make_job; from msposenet.launching.output import prefixed; "
            "from msposenet.launching.supervisor import supervise; "
            "script, mark, folder, options = json.load(sys.stdin); "
            "sys.exit(supervise(make_job(script, mark, folder, **options), prefixed(sys.stdout)))"
        )
        environment = {**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{PROJECT / 'tests'}"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        # Under nohup the tests ignore SIGHUP, and what they start would inherit that.
        before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
        try:
            self.process = subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes)
        finally:
            signal.signal(signal.SIGHUP, before)
        self.process.stdin.write(json.dumps([script, self.mark, self._folder.name, options]))
        self.process.stdin.close()
        self.process.stdin = None
        self.lines: list[str] = []

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        for pid in marked(f"LAUNCHED={self.mark}"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._folder.cleanup()

    def until(self, text: str, times: int = 1) -> str:
        """Read on until a line with `text` came `times` times; returns that line."""
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            times -= text in line
            if not times:
                return self.lines[-1]
        raise AssertionError(f"no {text!r} in: " + "\n".join(self.lines))

    def end(self, seconds: float = 40.0) -> int:
        # Not `communicate`: it reads the pipe itself and loses what `until` has read ahead.
        late = threading.Timer(seconds, self.process.kill)
        late.start()
        try:
            self.lines += self.process.stdout.read().splitlines()
            self.process.wait()
        finally:
            late.cancel()
        assert gone(self.mark, 0.0) == []
        return self.process.returncode

    def agents(self) -> list[int]:
        """The warden and the agent that it started, of the only host."""
        (warden,) = children(self.process.pid)
        (agent,) = children(warden)
        return [warden, agent]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(mark: str) -> list[int]:
    return marked(f"LAUNCHED={mark}")


def come(mark: str, count: int, seconds: float = 10.0) -> list[int]:
    """The job's processes once there are `count`, or after that many seconds: children come a little later."""
    deadline = time.monotonic() + seconds
    while len(alive(mark)) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive(mark)


def gone(mark: str, seconds: float) -> list[int]:
    """What is left of a job after at most that many seconds."""
    deadline = time.monotonic() + seconds
    while alive(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive(mark)
