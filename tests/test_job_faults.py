"""Launched trainings lose processes, are stopped, diverge and run out of disk; real processes, all of them.

A choice that is quick enough for every day. scripts/soak_faults.py has the rest: each role dies in each way five times
and hangs, twenty undisturbed trainings agree, and every case of job_cases.py.
"""

from __future__ import annotations

import contextlib
import os
import signal

import pytest
from job import STEP_TIMEOUT, TrainingJob
from job_cases import CASES, config_in, undisturbed

QUICK = (
    "other_weights_on_a_worker",
    pytest.param("a_disk_that_is_full", marks=pytest.mark.thorough),
)
LIMIT = STEP_TIMEOUT + 10.0


def test_a_job_that_loses_a_worker_and_is_stopped_goes_on_to_the_undisturbed_result(tmp_path):
    """Worker 1 is killed in a save, the second attempt is stopped by SIGTERM, `--resume` ends the training."""
    config = config_in(tmp_path)
    with TrainingJob(tmp_path, config) as job:
        job.wait_for("moment", who="worker 1", moment="save", nth=2)
        first = job.of_attempt(0)
        with contextlib.suppress(ProcessLookupError):
            os.kill(job.pid("worker 1"), signal.SIGKILL)
        died = job.wait_for("left", name="worker 1")["time"]
        assert job.seconds_until_gone(died, LIMIT) is not None
        assert len(first) == 6  # with a loader process each
        job.wait_for("moment", who="worker 0", attempt=1, moment="step")
        assert job.codes() == {"worker 0": 75, "worker 1": -9, "server 0": 75, "scheduler": 75}, job.told
        job.process.send_signal(signal.SIGTERM)
        assert job.end(30) == 143, job.told
        assert job.codes(1) == {"worker 0": 143, "worker 1": 143, "server 0": 0, "scheduler": 0}, job.told
        assert job.restarts == 1
        assert job.left_behind() == []
    with TrainingJob(tmp_path / "resumed", config, run=job.run, words=("--resume",)) as resumed:
        assert resumed.end() == 0, resumed.told
        assert resumed.fingerprint() == undisturbed()


@pytest.mark.parametrize("case", QUICK)
def test_what_no_restart_mends(tmp_path, case):
    CASES[case](tmp_path)
