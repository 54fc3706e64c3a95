"""Jobs of training processes on this machine: scheduler, servers and workers, started with launch.py's variables.

Importing MXNet costs a process more than a tiny training does, so a process that has imported everything forks them:
real processes, each in a session of its own, without the seconds. It kills what is left of them when its owner ends.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msposenet.launching.agent import free_ports

TESTS = Path(__file__).resolve().parent
# One thread a process: sums in the same order everywhere, whatever the machine.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONDONTWRITEBYTECODE": "1"}
_LIMIT = 300.0  # seconds for a job
_FAREWELL = 10.0  # for the rest of a job once one process has ended badly


@dataclass
class Process:
    """One process: its output goes to the file `said`, its exit code to the file `ended`."""

    pid: int
    said: Path
    ended: Path

    @property
    def output(self) -> str:
        try:
            return self.said.read_text(errors="replace")
        except FileNotFoundError:  # it has only just been forked
            return ""

    @property
    def code(self) -> int | None:
        """None while it runs; negative: the signal that killed it."""
        return int(self.ended.read_text()) if self.ended.exists() else None

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)


@dataclass
class Job:
    """Processes by name: "worker 0", "server 0", "scheduler"; "alone" for one without a job."""

    processes: dict[str, Process] = field(default_factory=dict)

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def kill(self) -> None:
        for process in self.processes.values():
            if process.code is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def until(self, condition: Callable[[], object], seconds: float = _LIMIT) -> None:
        """Wait for `condition` while all processes live."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert all(process.code is None for process in self.processes.values()), self.told()
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.02)

    def codes(self, seconds: float = _LIMIT) -> dict[str, int]:
        """Everybody's exit code; an error, and nobody left, when somebody takes too long."""
        deadline = time.monotonic() + seconds
        while True:
            found = {name: process.code for name, process in self.processes.items()}
            if None not in found.values():
                return found
            if any(found.values()):
                deadline = min(deadline, time.monotonic() + _FAREWELL)
            while time.monotonic() < deadline and found == {n: p.code for n, p in self.processes.items()}:
                time.sleep(0.02)
            if time.monotonic() >= deadline:
                self.kill()
                raise AssertionError(f"still running: {[name for name in found if found[name] is None]}\n{self.told()}")

    def ends_well(self) -> Job:
        assert set(self.codes().values()) == {0}, self.told()
        return self

    def told(self) -> str:
        return "\n".join(f"--- {name}: {p.code}\n{p.output}" for name, p in self.processes.items())


class _Nursery:
    """The process that forks the others."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="msposenet-jobs-"))
        self._count = 0
        path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")]), str(TESTS.parent)])
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("DMLC_", "MSPOSENET_"))}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**clean, **ENVIRONMENT, "PYTHONPATH": path},
            start_new_session=True,
        )

    def start(self, argv: Sequence[str], folder: Path, env: Mapping[str, str]) -> Process:
        self._count += 1
        said, ended = (self._folder / f"{self._count}.{kind}" for kind in ("said", "ended"))
        order = {"argv": [str(word) for word in argv], "folder": str(folder), "env": dict(env)}
        order = json.dumps({**order, "said": str(said), "ended": str(ended)})
        self._process.stdin.write(order.encode("ascii") + b"\n")
        self._process.stdin.flush()
        assert select.select([self._process.stdout], [], [], _LIMIT)[0], "nothing was forked"
        return Process(int(self._process.stdout.readline()), said, ended)


@functools.cache
def _nursery() -> _Nursery:
    return _Nursery()


def start(argv: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> Job:
    """`msposenet ARGV` without a job, or a function: ["call", "module:function", argument, ...]."""
    return Job({"alone": _nursery().start(argv, folder, env or {})})


def start_job(
    argv: Sequence[str],
    folders: Path | Sequence[Path],
    workers: int = 2,
    servers: int = 1,
    env: Mapping[str, str] | None = None,
) -> Job:
    """The same command in every role. `folders`: where each worker runs; the others run in the first."""
    folders = [folders] * workers if isinstance(folders, Path) else list(folders)
    port, control = free_ports(2)
    shared = {
        "DMLC_PS_ROOT_URI": "127.0.0.1",
        "DMLC_PS_ROOT_PORT": str(port),
        "MSPOSENET_CONTROL_PORT": str(control),
        "DMLC_NODE_HOST": "127.0.0.1",
        "DMLC_NUM_WORKER": str(workers),
        "DMLC_NUM_SERVER": str(servers),
        **(env or {}),
    }
    places = [("scheduler", "scheduler", {}, folders[0])]
    places += [(f"server {i}", "server", {"DMLC_SERVER_ID": str(i)}, folders[0]) for i in range(servers)]
    places += [(f"worker {i}", "worker", {"DMLC_WORKER_ID": str(i)}, folders[i]) for i in range(workers)]
    job = Job()
    try:
        for name, role, own, folder in places:
            job.processes[name] = _nursery().start(argv, folder, {**shared, "DMLC_ROLE": role, **own})
    except BaseException:
        job.kill()
        raise
    return job


def _nurse() -> list[str]:
    """The nursery's life. Returns in a forked process, with what it is to do; ends the others with itself."""
    import msposenet.cli.main
    import msposenet.training.loop
    import msposenet.training.optimizer  # noqa: F401

    orders = b""
    running: dict[int, Path] = {}
    while True:
        ready, _, _ = select.select([0], [], [], 0.02)
        if ready:
            got = os.read(0, 1 << 16)
            if not got:
                break
            orders += got
        while b"\n" in orders:
            line, orders = orders.split(b"\n", 1)
            order = json.loads(line)
            pid = os.fork()
            if not pid:
                return _become(order)
            running[pid] = Path(order["ended"])
            os.write(1, f"{pid}\n".encode())
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                path = running.pop(pid)
                part = path.with_suffix(".part")
                part.write_text(str(os.waitstatus_to_exitcode(status)))
                part.replace(path)
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    os._exit(0)


def _become(order: dict) -> list[str]:
    """The forked process takes its own session, folder, variables and output."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(order["folder"])
    os.environ.update(order["env"])
    return order["argv"]


def _run(argv: list[str]) -> None:
    if argv[0] == "call":
        module, name = argv[1].split(":")
        getattr(importlib.import_module(module), name)(*argv[2:])
        return
    from msposenet.cli.main import run

    sys.argv = ["msposenet", *argv]
    run()


if __name__ == "__main__":
    _run(_nurse())
