"""Single faults of a launched training and what was promised for each; every case works in a folder of its own."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
import time
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock

from job import TrainingJob, job_config, limit_files, write_config
from people_set import images_of, people_set

LOST = 75
_once = Lock()
_CHECKPOINT_TIME = 30.0  # seconds from SIGTERM to the end
_SMALL_FILE = 100_000  # bytes: the logs stay below, no checkpoint does


def config_in(folder: Path, data: dict | None = None, **train) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return write_config(folder / "tiny.yaml", job_config(data, **train))


def undisturbed() -> str:
    """The SHA-256 that a training gives when nothing happens to it."""
    with _once:
        return _undisturbed()


@cache
def _undisturbed() -> str:
    with TemporaryDirectory() as folder, TrainingJob(Path(folder), config_in(Path(folder))) as job:
        assert job.end() == 0, job.told
        assert job.restarts == 0 and set(job.codes().values()) == {0}, job.told
        assert job.left_behind() == []
        return job.fingerprint()


def final(job: TrainingJob, code: int, steps: list[int], **codes: int) -> None:
    """The job ended with a code that no restart mends, with these checkpoints, all valid, and nothing left of it."""
    assert job.end() == code, job.told
    assert job.restarts == 0, job.told
    assert job.left_behind() == []
    assert job.steps == steps, job.told
    for step in steps:
        job.fingerprint(step)
    left = {name.replace(" ", "_"): value for name, value in job.codes().items()}
    assert left == {**left, **codes}, job.told
    # Who hears of another's error before its own leaves as after any loss.
    assert code in left.values() and set(left.values()) <= {code, LOST}, job.told


def other_weights_on_a_worker(folder: Path) -> None:
    config = config_in(folder, checkpoint_steps=None, fingerprint_every=1)
    harm = {"victim": "worker 1", "moment": "step", "nth": 3, "act": "perturb", "array": 7}
    with TrainingJob(folder, config, harms=[harm]) as job:
        final(job, 3, [2], worker_0=3, worker_1=3, server_0=3, scheduler=3)
        found = re.search(r"at step 3 the weights of workers \[1\] are not worker 0's \(first in (\S+); 1 of", job.told)
        assert found, job.told
        assert found[1] == job.notes("perturbed")[0]["array"]


def nan_on_a_worker(folder: Path) -> None:
    harm = {"victim": "worker 1", "moment": "step", "nth": 3, "act": "nan"}
    with TrainingJob(folder, config_in(folder), harms=[harm]) as job:
        final(job, 3, [1, 2], worker_0=3, worker_1=3, server_0=3, scheduler=3)
        images = ", ".join(map(str, job.notes("nan")[0]["images"]))
        words = rf"training diverged at step 2 with learning rate 0\.0001: loss terms \[.*nan.*\]; image ids {images}; "
        for worker in ("worker 0", "worker 1"):
            assert re.search(rf"^\[{worker}\] error: .*{words}", job.told, re.MULTILINE), job.told


def a_rate_far_too_high(folder: Path) -> None:
    with TrainingJob(folder, config_in(folder), words=("--set", "train.base_lr=1e25")) as job:
        assert job.end() == 3, job.told
        assert job.restarts == 0 and job.left_behind() == [], job.told
        assert re.search(r"training diverged at step \d with learning rate 1e\+25: .*; image ids \d", job.told), (
            job.told
        )
        assert {job.codes()[f"worker {rank}"] for rank in range(2)} == {3}
        for step in job.steps:
            job.fingerprint(step)


def a_disk_that_is_full(folder: Path) -> None:
    with TrainingJob(folder, config_in(folder)) as job:
        job.wait_for("moment", who="worker 0", moment="step", nth=3)
        limit_files(job.pid("worker 0"), _SMALL_FILE)
        assert job.end() == 4, job.told
        assert job.restarts == 0 and job.left_behind() == [], job.told
        codes = job.codes()
        assert codes == {"worker 0": 4, "worker 1": 75, "server 0": 75, "scheduler": 75}, job.told
        assert job.steps[-1] in (2, 3), job.told  # the limit may have come after the third save
        for step in job.steps:
            job.fingerprint(step)
        assert not list((job.run / "checkpoints").glob(".tmp-*"))


def a_disk_that_refuses(folder: Path) -> None:
    run = Path("/proc/no-run-here")  # where root cannot write either
    with TrainingJob(folder, config_in(folder), run=run) as job:
        final(job, 4, [], worker_0=4)
        assert str(run) in job.told


def a_setting_that_does_not_fit(folder: Path) -> None:
    with TrainingJob(folder, config_in(folder), words=("--set", "train.batch_size=3")) as job:
        final(job, 2, [])
        assert "error: train.batch_size 3 does not divide among 2 workers; make it a multiple" in job.told, job.told
        assert not job.run.exists()


def a_setting_that_does_not_exist(folder: Path) -> None:
    with TrainingJob(folder, config_in(folder), words=("--set", "train.base_ls=1")) as job:
        final(job, 2, [])
        assert "base_ls" in job.told, job.told


def python_for(folder: Path, worker_1: str) -> tuple[str, Path]:
    """Options of a launch whose worker 1 is started by another line of shell, in which "$@" is its command."""
    python = folder / "python"
    lines = ["#!/bin/sh", f'set -- {sys.executable} "$@"', f'[ "$DMLC_WORKER_ID" = 1 ] && {worker_1}', 'exec "$@"']
    python.write_text("\n".join(lines) + "\n", encoding="utf-8")
    python.chmod(0o755)
    return ("--python", python)


def workers_with_other_settings(folder: Path) -> None:
    config = config_in(folder)
    options = python_for(folder, 'exec "$@" --set train.seed=5')
    with TrainingJob(folder, config, options=options) as job:
        final(job, 2, [])
        assert "worker 1 has another configuration than worker 0: train.seed 0 -> 5" in job.told, job.told
        assert not job.run.exists()


def workers_with_other_people(folder: Path) -> None:
    """The same configuration, whose relative paths lead elsewhere on the other "host"."""
    annotations = people_set(8)
    for name in ("here", "there"):
        place = folder / name
        place.mkdir(parents=True)
        (place / "images").symlink_to(images_of(annotations))
        content = json.loads(annotations.read_text(encoding="utf-8"))
        if name == "there":
            content["annotations"][0]["bbox"][0] += 1
        (place / "people.json").write_text(json.dumps(content), encoding="utf-8")
    config = config_in(folder, data={"train": {"annotations": "people.json", "images": "images"}})
    options = (*python_for(folder, f"cd {folder / 'there'}"), "--cwd", folder / "here")
    with TrainingJob(folder, config, options=options) as job:
        final(job, 2, [])
        sentence = "worker 1 has other people to train on than worker 0 (9 and 9 persons, the same number)"
        assert sentence in job.told, job.told
        assert not job.run.exists()


def a_stop_and_a_resumption(folder: Path) -> None:
    """SIGTERM to the launcher in the middle of a step; the checkpoint goes on to the undisturbed result."""
    config = config_in(folder)
    with TrainingJob(folder, config) as job:
        job.wait_for("moment", who="worker 1", moment="step", nth=2)
        asked = time.monotonic()
        job.process.send_signal(signal.SIGTERM)
        assert job.end() == 143, job.told
        assert time.monotonic() - asked < _CHECKPOINT_TIME
        assert job.codes() == {"worker 0": 143, "worker 1": 143, "server 0": 0, "scheduler": 0}, job.told
        assert job.left_behind() == []
        assert job.restarts == 0
        stopped = job.steps[-1]
        assert stopped in (2, 3), job.told
    with TrainingJob(folder / "resumed", config, run=job.run, words=("--resume",)) as resumed:
        assert resumed.end() == 0, resumed.told
        assert f"resumed from step_{stopped:08d}" in resumed.told, resumed.told
        assert resumed.fingerprint() == undisturbed()


def a_launcher_that_is_killed(folder: Path) -> None:
    with TrainingJob(folder, config_in(folder)) as job:
        job.wait_for("moment", who="worker 0", moment="step", nth=2)
        assert len(job.of_attempt(0)) == 6  # with a loader process each
        job.process.kill()
        assert job.left_behind(5.0) == []


def restarts_that_are_used_up(folder: Path) -> None:
    harms = [{"victim": f"worker {n}", "moment": "start", "act": "exit", "code": n} for n in range(2)]
    with TrainingJob(folder, config_in(folder), harms=harms, options=("--max-restarts", 1)) as job:
        assert job.end() == 75, job.told
        assert job.restarts == 1
        assert "gave up after 1 restart; the last time worker 1 left with code 1" in job.told
        assert job.left_behind() == []


def other_numbers_of_workers(folder: Path) -> None:
    """A run of 2 workers goes on with 1 and then with 2 again, and with 4."""
    config = config_in(folder)
    first = folder / "first"
    with TrainingJob(folder / "2", config, run=first, words=("--set", "train.epochs=1")) as job:
        assert job.end() == 0, job.told
    shutil.copytree(first, folder / "copy")
    for before, workers, run, epochs in ((2, 1, first, 2), (1, 2, first, 3), (2, 4, folder / "copy", 2)):
        words = ("--resume", "--set", f"train.epochs={epochs}")
        with TrainingJob(folder / f"{before}-{workers}", config, workers, run=run, words=words) as job:
            assert job.end() == 0, job.told
            assert f"{workers} workers of 1 devices go on where {before} of 1 were" in job.told, job.told
            assert job.steps[-1] == 2 * epochs
            assert job.left_behind() == []


CASES = {
    case.__name__: case
    for case in (
        other_weights_on_a_worker,
        nan_on_a_worker,
        a_rate_far_too_high,
        a_disk_that_is_full,
        a_disk_that_refuses,
        a_setting_that_does_not_fit,
        a_setting_that_does_not_exist,
        workers_with_other_settings,
        workers_with_other_people,
        a_stop_and_a_resumption,
        a_launcher_that_is_killed,
        restarts_that_are_used_up,
        other_numbers_of_workers,
    )
}
