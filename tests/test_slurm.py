"""scripts/slurm.sbatch, run with small programs in the place of Slurm's: no Slurm is to be had in a test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from people_set import tiny_config

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


@pytest.fixture
def slurm(tmp_path) -> dict[str, str]:
    """An environment as in an allocation of one node."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    msposenet = f'#!/bin/sh\nexec "{sys.executable}" -m msposenet "$@"\n'
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("msposenet", msposenet)):
        (bin_folder / name).write_text(text)
        (bin_folder / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "SLURM_LOG": str(tmp_path / "slurm.log"),
        "SLURM_JOB_ID": "42",
        "SLURM_JOB_NODELIST": "node[1-1]",
        "SLURM_CPUS_PER_TASK": "2",
        "OMP_NUM_THREADS": "1",
    }


def start(folder: Path, environment: dict[str, str], epochs: int) -> subprocess.Popen:
    config = folder / "tiny.yaml"
    config.write_text(tiny_config(train={"epochs": epochs, "lr_drops": [900], "checkpoint_steps": 1}).dump())
    script = shutil.copy(PROJECT / "scripts" / "slurm.sbatch", folder / "spooled")  # Slurm runs a copy
    return subprocess.Popen(
        ["bash", str(script), str(config), "--run", "run"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_batch_job_trains_is_stopped_by_its_time_limit_and_goes_on_when_it_is_requeued(tmp_path, slurm):
    job = start(tmp_path, slurm, epochs=800)
    ends = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoints" / "LAST").exists():
        assert time.monotonic() < ends and job.poll() is None, job.communicate()[0]
        time.sleep(0.1)
    job.send_signal(signal.SIGTERM)  # to the batch script alone, as --signal=B: does
    output, _ = job.communicate(timeout=120)
    assert job.returncode == 143, output
    log = (tmp_path / "slurm.log").read_text()
    assert "scontrol requeue 42" in log
    assert "--overlap --nodes=1 --ntasks=1 --cpus-per-task=2 --cpu-bind=none --nodelist=127.0.0.1" in log
    assert not (tmp_path / "hosts.42").exists()

    done = int((tmp_path / "run" / "checkpoints" / "LAST").read_text().split("_")[1])
    job = start(tmp_path, slurm, epochs=1 + done // 3)
    output, _ = job.communicate(timeout=180)
    assert job.returncode == 0, output
    assert f"resumed from step_{done:08d}" in output and "[worker 0] wrote run" in output
    assert "scontrol requeue" not in (tmp_path / "slurm.log").read_text().split("requeue 42")[1]
