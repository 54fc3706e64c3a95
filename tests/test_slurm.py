"""scripts/slurm.sbatch, run with small programs in the place of Slurm's: no Slurm is to be had in a test."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from people_set import tiny_config

from msposenet.launching.leash import kill_marked

PROJECT = Path(__file__).resolve().parents[1]
SRUN = """#!/bin/sh
echo "$*" >> "$SLURM_LOG"
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/sh
echo "scontrol $*" >> "$SLURM_LOG"
[ "$1" = requeue ] || echo 127.0.0.1
"""
# For the batch script: what a signal ends is gone when `kill` returns.
SLOW_KILL = 'kill() { builtin kill "$@"; local code=$?; sleep 0.5; return "$code"; }\n'
MSPOSENET = f'#!/bin/sh\nexec "{sys.executable}" -m msposenet "$@"\n'


class Batch:
    """A batch job in a folder, as on an allocation of one node; what it prints is in `output`."""

    def __init__(self, folder: Path, msposenet: str = MSPOSENET) -> None:
        self.folder = folder
        self._log = folder / "slurm.log"
        self._output = folder / "output.txt"
        bin_folder = folder / "bin"
        bin_folder.mkdir(exist_ok=True)
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("msposenet", msposenet)):
            (bin_folder / name).write_text(text)
            (bin_folder / name).chmod(0o755)
        (bin_folder / "slow_kill").write_text(SLOW_KILL)
        self._environment = {
            **os.environ,
            "BASH_ENV": str(bin_folder / "slow_kill"),
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "SLURM_LOG": str(self._log),
            "SLURM_JOB_ID": "42",
            "SLURM_JOB_NODELIST": "node[1-1]",
            "SLURM_CPUS_PER_TASK": "2",
            "OMP_NUM_THREADS": "1",
        }

    @contextlib.contextmanager
    def running(self, *words: str) -> Iterator[subprocess.Popen]:
        """The batch script; nothing that it started is left afterwards."""
        script = shutil.copy(PROJECT / "scripts" / "slurm.sbatch", self.folder / "spooled")  # Slurm runs a copy
        self._log.write_text("")
        streams = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
        with open(self._output, "wb") as output:
            command = ["bash", str(script), *words]
            job = subprocess.Popen(command, cwd=self.folder, env=self._environment, stdout=output, **streams)
        try:
            yield job
        finally:
            left = kill_marked(f"SLURM_LOG={self._log}", 10.0)
            job.wait(10)
        assert left == []

    def until(self, job: subprocess.Popen, condition: Callable[[], bool], seconds: float) -> None:
        ends = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < ends and job.poll() is None, self.output
            time.sleep(0.02)

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def log(self) -> list[str]:
        return self._log.read_text().splitlines()


@pytest.mark.thorough
def test_a_batch_job_trains_is_stopped_by_its_time_limit_and_goes_on_when_it_is_requeued(tmp_path):
    batch, config = Batch(tmp_path), tmp_path / "tiny.yaml"

    def write_config(epochs: int) -> None:
        config.write_text(tiny_config(train={"epochs": epochs, "lr_drops": [900], "checkpoint_steps": 1}).dump())

    last = tmp_path / "run" / "checkpoints" / "LAST"
    write_config(epochs=800)
    with batch.running(str(config), "--run", "run") as job:
        batch.until(job, last.exists, 120)
        job.send_signal(signal.SIGTERM)  # to the batch script alone, as --signal=B: does
        assert job.wait(120) == 143, batch.output
    assert "scontrol requeue 42" in batch.log
    wanted = "--overlap --nodes=1 --ntasks=1 --cpus-per-task=2 --cpu-bind=none --nodelist=127.0.0.1"
    assert any(line.startswith(wanted) for line in batch.log)
    assert not (tmp_path / "hosts.42").exists()

    done = int(last.read_text().split("_")[1])
    write_config(epochs=1 + done // 3)
    with batch.running(str(config), "--run", "run") as job:
        assert job.wait(180) == 0, batch.output
    assert f"resumed from step_{done:08d}" in batch.output and "[worker 0] wrote run" in batch.output
    assert "scontrol requeue 42" not in batch.log


@pytest.mark.parametrize(
    ("launcher", "limit", "code", "requeued"),
    [
        pytest.param("exit 143", False, 143, False, id="cancelled: Slurm told the agents and not the script"),
        pytest.param("trap 'exit 143' TERM", True, 143, True, id="stopped by the time limit"),
        pytest.param("trap 'exit 0' TERM", True, 0, False, id="done as the time limit came"),
        pytest.param("trap 'sleep 1; exit 75' TERM", True, 75, False, id="lost a peer after the time limit came"),
    ],
)
def test_only_what_the_time_limit_stopped_is_requeued(tmp_path, launcher, limit, code, requeued):
    batch = Batch(tmp_path, f"#!/bin/sh\n{launcher}\necho ready\nwhile :; do sleep 0.05; done\n")
    with batch.running("tiny.yaml") as job:
        if limit:
            batch.until(job, lambda: "ready" in batch.output, 20)
            job.send_signal(signal.SIGTERM)
        assert job.wait(20) == code, batch.output
    assert ("scontrol requeue 42" in batch.log) is requeued
    assert not (tmp_path / "hosts.42").exists()
