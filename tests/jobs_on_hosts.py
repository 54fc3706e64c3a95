"""Jobs of the launcher on the hosts of tests/several_hosts.py, watched from outside."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from several_hosts import Network

PROJECT = Path(__file__).resolve().parents[1]

# The command line of `msposenet launch` has the times that users need; tests want the others shorter, too.
_SUPERVISE = """
import json, sys
from pathlib import Path
from msposenet.launching.hosts import read_hosts
from msposenet.launching.job import Job
from msposenet.launching.supervisor import supervise
hosts, options, *argv = sys.argv[1:]
job = Job(argv=argv, hosts=read_hosts(Path(hosts)), **json.loads(options))
sys.exit(supervise(job, lambda name, line: print(f"[{name}] {line}", flush=True)))
"""
SILENCE = 4.0
_QUICK = {"silence": SILENCE, "retry_interval": 0.5, "first_pause": 0.1, "drain": 2.0, "connect_wait": 20.0}


class Job:
    """A launcher in a process of its own; what it prints is in `said`."""

    def __init__(self, process: subprocess.Popen, output: Path):
        self.process, self._output = process, output

    @property
    def said(self) -> str:
        return self._output.read_text()

    def until(self, condition, seconds: float) -> float:
        """Wait for something while the launcher lives; how long it took."""
        begin = time.monotonic()
        while not condition():
            assert self.process.poll() is None, f"the launcher left with {self.process.returncode}:\n{self.said}"
            assert time.monotonic() - begin < seconds, f"not within {seconds} s:\n{self.said}"
            time.sleep(0.05)
        return time.monotonic() - begin

    def end(self, seconds: float) -> int:
        """The launcher's exit code."""
        return self.process.wait(seconds)


def write_hosts(net: Network, folder: Path, count: int) -> Path:
    path = folder / "hosts"
    path.write_text("".join(f"{address}\n" for address in net.addresses[:count]))
    return path


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def running(net: Network, folder: Path, argv: list[str], count: int, **options) -> Iterator[Job]:
    """A job of `argv` on the first `count` hosts; `options` are those of msposenet.launching.job.Job."""
    settings = {"ssh": net.ssh_text, "cwd": str(PROJECT), **_QUICK, **options}
    output = folder / "said"
    command = [sys.executable, "-c", _SUPERVISE, str(write_hosts(net, folder, count)), json.dumps(settings), *argv]
    with open(output, "wb") as stream:
        process = subprocess.Popen(command, cwd=PROJECT, env=environment(), stdout=stream, stderr=stream)
    try:
        yield Job(process, output)
    finally:
        process.kill()
        process.wait()


def nothing_runs(net: Network) -> bool:
    return not any(net.processes(host) for host in range(net.count))
