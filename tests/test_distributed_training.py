"""Training by several processes: the same as by one, whatever their number, and clear words where it cannot be.

Real processes on this machine (tests/distributed_jobs.py), MXNet's own KVStore between them.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from distributed_jobs import ENVIRONMENT, TESTS, free_ports, start, start_job
from distributed_work import EPOCHS, REFUSED, Hostile
from hypothesis import given, settings
from hypothesis import strategies as st
from people_set import images_of, people_set, records_of, tiny_config

from msposenet.config import AugmentationConfig
from msposenet.data.loader import TrainingLoader
from msposenet.data.samples import TrainingSamples
from msposenet.errors import ConfigError
from msposenet.geometry import Convention
from msposenet.launching.leash import marked
from msposenet.training.checkpoint import checkpoint_steps, fingerprint, load_checkpoint
from msposenet.training.loop import train

# Largest difference of any weight. Adam divides a gradient by its own size, so one that is rounding and little else
# (1e-10 here) moves its weight by the whole learning rate in whatever direction: at a rate of 1e-3 the small HRNet's
# weights part by 5e-3 in seven steps even between one device and two of one process. At FROZEN_RATE the same
# steps part them by 1.2e-7 while they move by 6e-5 (fourteen: 4e-6, so the rate falls after seven). The
# moments are compared as well, since Adam hides a factor.
SAME = 1e-6
FROZEN_RATE = 1e-5
SAME_LOSS = 1e-6  # relative; the terms are means over the batch, summed in another order
ASIDE = ("Speed", "samples_per_second", "data_share")

LOCAL = {"epochs": 2, "batch_size": 8, "lr_drops": [1], "log_every": 1, "checkpoint_steps": 1, "keep": 100}
STAGE = 7  # steps of an epoch of 29 persons in batches of 4
FROZEN = {
    **LOCAL,
    "batch_size": 4,
    "checkpoint_steps": None,
    "lr_drops": [1],
    "batch_norm": "frozen",
    "base_lr": FROZEN_RATE,
}


def config_file(folder: Path, **changes) -> Path:
    """A configuration of the small network, without validation unless `changes` say so."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{uuid.uuid4().hex}.yaml"
    data = {"val": None, **changes.pop("data", {})}
    path.write_text(tiny_config(data=data, **changes).dump())
    return path


def checkpoint(run: Path, step: int | str = "last"):
    return load_checkpoint(run / "checkpoints", step)


def learnt(found) -> dict[str, np.ndarray]:
    """The weights of a checkpoint without the statistics of batch normalisation."""
    return {name: array for name, array in found.params.items() if "running_" not in name}


def distance(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> float:
    """Largest difference between arrays of the same names."""
    assert a.keys() == b.keys()
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


def figures(run: Path) -> list[dict]:
    """What metrics.jsonl tells of the training, without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ASIDE} for line in lines if "loss" in line]


def log_lines(run: Path) -> list[str]:
    """Which steps the log tells of; the figures themselves are compared in full precision."""
    return re.findall(r"^Epoch\[\d+\] Batch \[\d+\]", (run / "log.txt").read_text(), re.MULTILINE)


def assert_same_figures(found: list[dict], wanted: list[dict]) -> None:
    assert [line.keys() for line in found] == [line.keys() for line in wanted]
    for one, other in zip(found, wanted):
        assert one == pytest.approx(other, rel=SAME_LOSS), (one, other)


def assert_same_training(found, wanted, start) -> None:
    """Two checkpoints of a training without batch norm that began at `start` hold the same weights and moments."""
    assert distance(learnt(wanted), learnt(start)) > 50 * SAME
    assert distance(found.params, wanted.params) <= SAME
    for kind in ("mean:", "variance:"):
        names = [name for name in wanted.optimizer if name.startswith(kind)]
        ours, theirs = (np.concatenate([c.optimizer[n].ravel() for n in names]) for c in (found, wanted))
        assert np.linalg.norm(ours - theirs) <= 1e-3 * np.linalg.norm(theirs)


def shorten(run: Path, step: int) -> Path:
    """Take a finished run back to where it had just saved `step`."""
    checkpoints = run / "checkpoints"
    for later in checkpoint_steps(checkpoints):
        if later > step:
            shutil.rmtree(checkpoints / f"step_{later:08d}")
    (checkpoints / "LAST").write_text(f"step_{step:08d}\n")
    (checkpoints / "BEST").unlink(missing_ok=True)
    return run


# The same weights for any number of workers and devices.


@pytest.fixture(scope="module")
def small_alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    with start(["call", "distributed_work:train_small", folder, people_set()], folder) as job:
        job.ends_well()
    return dict(np.load(folder / "rank0.npz"))


@pytest.mark.parametrize(
    ("workers", "devices"), [(2, ["cpu:0"]), (4, ["cpu:0"]), (2, ["cpu:0", "cpu:1"])], ids=["2", "4", "2 of 2"]
)
def test_workers_train_a_network_without_batch_norm_as_one_does(small_alone, tmp_path, workers, devices):
    argv = ["call", "distributed_work:train_small", tmp_path, people_set(), *devices]
    with start_job(argv, tmp_path, workers) as job:
        job.ends_well()
    ranks = [dict(np.load(tmp_path / f"rank{rank}.npz")) for rank in range(workers)]
    moved = [name for name in small_alone if name.startswith("plain:0:")]
    # Clipping of some steps shows in the weights: it is not lost among what Adam makes of a gradient's size.
    assert max(np.abs(small_alone[n] - small_alone[n.replace("plain", "clipped")]).max() for n in moved) > 50 * SAME
    for kind in ("plain", "clipped"):
        wanted = {name: small_alone[f"{kind}:0:{name}"] for name in (n[len("plain:0:") :] for n in moved)}
        for found in ranks:
            for device in range(len(devices)):
                weights = {name: found[f"{kind}:{device}:{name}"] for name in wanted}
                assert distance(weights, wanted) <= SAME
                assert distance(weights, {name: ranks[0][f"{kind}:0:{name}"] for name in wanted}) == 0
            np.testing.assert_allclose(found[f"{kind}:terms"], small_alone[f"{kind}:terms"], rtol=SAME_LOSS)
        for what in ("indices", "images"):
            name = f"{kind}:{what}"
            assert small_alone[name].shape == (29 // 8 * EPOCHS, 8)
            np.testing.assert_array_equal(np.concatenate([f[name] for f in ranks], axis=1), small_alone[name])


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 200), ranks=st.integers(1, 8), per_rank=st.integers(1, 4), epoch=st.integers(0, 2))
def test_loaders_of_all_ranks_make_equally_many_steps_and_share_each_batch(count, ranks, per_rank, epoch):
    people = records_of(people_set())
    records = people.select(np.arange(count) % len(people))
    samples = TrainingSamples(records, (64, 64), Convention.UNBIASED, AugmentationConfig(), seed=1)
    alone = TrainingLoader(samples, ranks * per_rank)
    loaders = [TrainingLoader(samples, ranks * per_rank, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert {loader.steps for loader in loaders} == {alone.steps} == {max(1, count // (ranks * per_rank))}
    for step in range(alone.steps):
        parts = [loader.codes(epoch, step) for loader in loaders]
        assert {len(part) for part in parts} == {per_rank}
        np.testing.assert_array_equal(np.concatenate(parts), alone.codes(epoch, step))


@pytest.fixture(scope="module")
def local_run(tmp_path_factory):
    """Two workers of two devices, batch norm of their own, six steps."""
    folder = tmp_path_factory.mktemp("local")
    devices = ["cpu:0", "cpu:1"]
    config = config_file(folder, train={**LOCAL, "devices": devices, "fingerprint_every": 1})
    with start_job(["train", config, "--run", "run"], folder) as job:
        job.ends_well()
    return folder / "run", config


@pytest.fixture(scope="module")
def frozen_alone(local_run, tmp_path_factory):
    """Three epochs of one process, from the weights of `local_run`."""
    folder = tmp_path_factory.mktemp("frozen")
    config = config_file(folder, train={**FROZEN, "epochs": 3})
    with start(["train", config, "--run", "run", "--init-from", local_run[0]], folder) as job:
        job.ends_well()
    return folder / "run"


def test_two_workers_then_one_then_four_train_as_one_does(frozen_alone, local_run, tmp_path):
    """Of two workers only the first sees the run's folder and the weights to begin with."""
    folders = [tmp_path / name for name in "abcd"]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "weights").symlink_to(local_run[0])
    for epochs, workers in ((1, 2), (2, None), (3, 4)):
        config = config_file(tmp_path / "configs", train={**FROZEN, "epochs": epochs})
        argv = ["train", config, "--run", "run"]
        if workers:
            argv += ["--auto-resume", "--init-from", "weights"]
            job = start_job(argv, folders[:workers], workers, servers=workers // 2)
        else:
            job = start([*argv, "--resume"], folders[0])
        with job:
            job.ends_well()
        found = checkpoint(folders[0] / "run")
        assert found.state["step"] == epochs * STAGE
        wanted = checkpoint(frozen_alone, epochs * STAGE)
        assert_same_training(found, wanted, checkpoint(local_run[0]))
    assert [list(folder.iterdir()) for folder in folders[1:]] == [[], [], []]
    assert_same_figures(figures(folders[0] / "run"), figures(frozen_alone))
    assert log_lines(folders[0] / "run") == log_lines(frozen_alone) != []
    log = (folders[0] / "run" / "log.txt").read_text()
    assert log.count("loaded ") == 1 and log.count("resumed from") == 2
    assert "1 workers of 1 devices go on where 2 of 1 were" in log
    assert "4 workers of 1 devices go on where 1 of 1 were" in log


@pytest.mark.parametrize(
    ("kvstore", "workers", "devices"),
    [
        ("device", 0, 2),
        pytest.param("local", 0, 2, marks=pytest.mark.thorough),
        ("dist_device_sync", 2, 2),
        pytest.param("dist_sync", 4, 1, marks=pytest.mark.thorough),
    ],
    ids=str,
)
def test_devices_and_workers_train_as_one_does(frozen_alone, local_run, tmp_path, kvstore, workers, devices):
    options = {"devices": [f"cpu:{number}" for number in range(devices)], "kvstore": kvstore}
    config = config_file(tmp_path, train={**FROZEN, "epochs": 1, **options})
    argv = ["train", config, "--run", "run", "--init-from", local_run[0]]
    with start_job(argv, tmp_path, workers, servers=2) if workers else start(argv, tmp_path) as job:
        job.ends_well()
    assert_same_training(checkpoint(tmp_path / "run"), checkpoint(frozen_alone, STAGE), checkpoint(local_run[0]))
    assert_same_figures(figures(tmp_path / "run"), figures(frozen_alone)[:STAGE])
    assert log_lines(tmp_path / "run") == log_lines(frozen_alone)[:STAGE]
    assert f"{devices} devices, {kvstore}" in (tmp_path / "run" / "log.txt").read_text()


# Batch normalisation with statistics of each worker's and device's own.


def test_statistics_in_a_checkpoint_are_the_average_of_all_devices(local_run):
    found = checkpoint(local_run[0])
    own: dict[str, dict[str, np.ndarray]] = {}
    for key, array in found.optimizer.items():
        if key.startswith("statistics:"):
            place, name = key.rsplit(":", 1)
            own.setdefault(name, {})[place] = array
    assert own.keys() == {name for name in found.params if "running_" in name}
    for name, arrays in own.items():
        assert len(arrays) == 4  # two workers of two devices
        mean = np.mean(list(arrays.values()), axis=0, dtype=np.float64)
        np.testing.assert_allclose(found.params[name], mean, rtol=1e-6, atol=1e-9)
    spread = [np.ptp(list(arrays.values()), axis=0).max() for arrays in own.values()]
    assert np.median(spread) > 1e-3  # they do differ


def test_the_same_workers_resume_bit_for_bit(local_run, tmp_path):
    whole, config = local_run
    run = shorten(Path(shutil.copytree(whole, tmp_path / "run")), 4)
    with start_job(["train", config, "--run", run, "--resume"], tmp_path) as job:
        job.ends_well()
    for step in (5, 6):
        found, wanted = checkpoint(run, step), checkpoint(whole, step)
        assert found.state == wanted.state
        assert fingerprint(found.params) == fingerprint(wanted.params)
        assert fingerprint(found.optimizer) == fingerprint(wanted.optimizer)
    assert figures(run) == figures(whole)


# Validation.


@pytest.fixture(scope="module")
def damaged_images(tmp_path_factory):
    """The people's pictures, two of which cannot be read."""
    folder = tmp_path_factory.mktemp("images")
    for number, path in enumerate(sorted(images_of(people_set()).iterdir())):
        if number in (4, 11):
            (folder / path.name).write_text("no picture")
        else:
            (folder / path.name).symlink_to(path)
    return folder


def validating(folder: Path, images: Path, sets: tuple[str, ...] = ("a", "b")) -> Path:
    metrics = {"a": "coco"}
    source = {"annotations": str(people_set()), "images": str(images)}
    val = [{**source, "name": name, "metric": metrics.get(name, "pck")} for name in sets]
    train = {**LOCAL, "devices": ["cpu"]}
    return config_file(folder, data={"val": val, "max_bad_fraction": 0.2}, train=train)


@pytest.fixture(scope="module")
def validated_alone(local_run, damaged_images, tmp_path_factory):
    """The finished `local_run`, validated by one process."""
    folder = tmp_path_factory.mktemp("validated")
    run = shutil.copytree(local_run[0], folder / "run")
    with start(["train", validating(folder, damaged_images), "--run", run, "--resume"], folder) as job:
        job.ends_well()
    return run, job.processes["alone"].output


def scores(run: Path) -> list[str]:
    return [line for line in (run / "log.txt").read_text().splitlines() if " Validation " in line]


def assert_same_validation(run: Path, wanted: Path) -> None:
    assert len(scores(wanted)) == 3 and "PCK" in scores(wanted)[1]
    assert scores(run) == scores(wanted)
    for name in ("keypoints_a.json", "keypoints_b.json"):
        ours, theirs = (json.loads((folder / "results" / name).read_text()) for folder in (run, wanted))
        assert len(ours) == len(theirs) > 20
        for one, other in zip(ours, theirs):
            assert one.keys() == other.keys() and one["image_id"] == other["image_id"]
            np.testing.assert_allclose(one["keypoints"], other["keypoints"], rtol=0, atol=1e-4)
            assert one["score"] == pytest.approx(other["score"], rel=1e-4, abs=1e-7)
    state = checkpoint(run).state
    assert state["validated"] == 6 and state["best_score"] == pytest.approx(checkpoint(wanted).state["best_score"])


@pytest.mark.parametrize("workers", [2, pytest.param(4, marks=pytest.mark.thorough)])
def test_workers_validate_as_one_does(local_run, validated_alone, damaged_images, tmp_path, workers):
    run = shutil.copytree(local_run[0], tmp_path / "run")
    if workers == 2:
        stop_while_validating(run, damaged_images, tmp_path)
    with start_job(["train", validating(tmp_path, damaged_images), "--run", run, "--resume"], tmp_path, workers) as job:
        job.ends_well()
    assert_same_validation(run, validated_alone[0])
    said = [job.processes[f"worker {rank}"].output for rank in range(workers)]
    skipped = sorted(line for line in said[0].splitlines() if line.startswith("skipped"))
    assert skipped == sorted(line for line in validated_alone[1].splitlines() if line.startswith("skipped"))
    assert len(skipped) == 4  # two pictures in each of two sets
    assert not any("skipped" in text for text in said[1:])


def stop_while_validating(run: Path, images: Path, folder: Path) -> None:
    """A SIGTERM to one worker while all find poses."""
    config = validating(folder, images, tuple("abcdefghijkl"))
    with start_job(["train", config, "--run", run, "--resume"], folder) as job:
        job.until(lambda: "steps 6 to 6" in job.processes["worker 0"].output)
        job.processes["worker 1"].signal(signal.SIGTERM)
        codes = job.codes()
    assert {codes["worker 0"], codes["worker 1"]} == {143}, job.told()
    assert len(scores(run)) < 12 and checkpoint(run).state["validated"] == 0
    assert "resume to go on" in job.processes["worker 0"].output


# Other ways to exchange gradients.


def test_asynchronous_workers_learn_follow_the_schedule_and_resume(tmp_path):
    """The rate falls to nothing after four epochs of three steps: from there on the servers' weights stand still."""
    options = {"epochs": 6, "lr_drops": [4], "lr_factor": 1e-12, "checkpoint_steps": 3, "kvstore": "dist_async"}
    config = config_file(tmp_path, train={**LOCAL, **options})
    run = tmp_path / "run"
    with start_job(["train", config, "--run", run], tmp_path, servers=2) as job:
        job.ends_well()
    assert_stands_still_after(run, 12)
    losses = [line["loss"] for line in figures(run)]
    assert len(losses) == 18 and np.mean(losses[9:12]) < 0.9 * np.mean(losses[:3])
    # Resumed in the middle, the schedule counts on: at a server's own count nothing would stand still any more.
    shorten(run, 6)
    before = checkpoint(run)
    with start_job(["train", config, "--run", run, "--resume"], tmp_path, servers=2) as job:
        job.ends_well()
    assert distance(learnt(before), learnt(checkpoint(run, 6))) == 0
    assert_stands_still_after(run, 12)
    assert "moments are in no checkpoint and start anew" in (run / "log.txt").read_text()


def assert_stands_still_after(run: Path, step: int) -> None:
    at = {number: learnt(checkpoint(run, number)) for number in (step - 3, step, step + 3, step + 6)}
    assert distance(at[step - 3], at[step]) > 1e-4
    # A push that the rate of step `step` applies to is one that was counted after it.
    assert distance(at[step], at[step + 3]) < 1e-9 and distance(at[step], at[step + 6]) < 1e-9


def test_compressed_gradients_move_the_workers_alike(tmp_path):
    """Workers that differ anywhere would end at the next fingerprint. Nine steps say nothing of what is learnt."""
    options = {"epochs": 3, "lr_drops": [3], "fingerprint_every": 1, "compression": 1e-4}
    config = config_file(tmp_path, train={**LOCAL, **options})
    run = tmp_path / "run"
    with start_job(["train", config, "--run", run], tmp_path) as job:
        job.ends_well()
    assert len(figures(run)) == 9
    moved = [distance(learnt(checkpoint(run, step)), learnt(checkpoint(run, step + 1))) for step in range(1, 9)]
    assert min(moved) > 1e-4
    assert "0.4 MB pushed and 6.0 MB pulled a step" in (run / "log.txt").read_text()


# What cannot be.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kvstore": "nccl", "devices": ["cpu:0", "cpu:1"]}, r"nccl sums between GPUs, the devices are CPUs; set dev"),
        ({"kvstore": "dist_sync"}, r"dist_sync needs a job .*msposenet launch"),
        ({"kvstore": "dist_device_sync"}, r"dist_device_sync needs a job"),
        ({"kvstore": "dist_async"}, r"dist_async needs a job"),
        (
            {"kvstore": "device", "compression": 0.5, "devices": ["cpu:0", "cpu:1"]},
            r"compression .* is\s+device; leave",
        ),
        ({"compression": 0.5, "devices": ["cpu"]}, r"compression .* is\s+none, with one device; leave"),
        ({"kvstore": "local", "compression": 0.5, "devices": ["cpu:0", "cpu:1"]}, r"compression .* is\s+local; leave"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_one_process_is_refused_what_it_cannot_do(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        train(tiny_config(data={"val": None}, train=options), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_job_is_refused_what_it_cannot_do(tmp_path):
    """All of it before the servers are met, but for the last, which ends the job as a mistake does."""
    with start_job(["call", "distributed_work:be_refused", tmp_path, people_set()], tmp_path) as job:
        codes = job.codes()
    messages = [
        "train.kvstore device is for one process, this is a job of 2 workers; set one of dist_sync",
        "train.kvstore local is for one process, this is a job of 2 workers",
        "train.kvstore nccl is for one process, this is a job of 2 workers",
        "train.batch_size 7 does not divide among 2",
        "train.batch_size 6 does not divide among 2 devices of each of 2 workers; make it a multiple",
    ]
    assert len(messages) == len(REFUSED)
    for rank in range(2):
        for found, wanted in zip(json.loads((tmp_path / f"rank{rank}.json").read_text()), messages):
            assert found.startswith(wanted)
    assert not (tmp_path / "run").exists()
    workers = [codes.pop(f"worker {rank}") for rank in range(2)]
    assert 2 in workers and set(workers) <= {2, 75}, job.told()
    assert set(codes.values()) == {75}, job.told()
    said = job.processes[f"worker {workers.index(2)}"].output
    assert "error: train.compression is of use between workers only" in said and "train.kvstore is dist_async" in said


def test_servers_unpickle_nothing_and_a_store_of_another_size_is_refused(tmp_path):
    pickle.loads(pickle.dumps(Hostile(str(tmp_path / "sane")), 0))
    assert (tmp_path / "sane").is_dir()  # it would have done it
    with start_job(["call", "distributed_work:send_a_pickle", tmp_path], tmp_path) as job:
        codes = job.codes()
    assert not (tmp_path / "made").exists()
    assert codes.pop("server 0") == 2, job.told()
    assert set(codes.values()) == {75}, job.told()
    assert "the server's updater could not be made" in job.processes["server 0"].output
    for rank in range(2):
        said = (tmp_path / f"rank{rank}.txt").read_text()
        assert said == "train.kvstore dist_sync: MXNet counts 2 workers, the job has 1"


# MXNet's own launcher.


def test_mxnets_launch_py_trains_to_the_end_and_leaves_nothing(tmp_path):
    config = config_file(tmp_path, train={**LOCAL, "epochs": 1, "checkpoint_steps": None})
    mark = f"LAUNCHED={uuid.uuid4().hex}"
    environment = {**os.environ, **ENVIRONMENT, "MSPOSENET_CONTROL_PORT": str(free_ports(1)[0])}
    environment["PYTHONPATH"] = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(TESTS.parent)])
    environment["LAUNCHED"] = mark.partition("=")[2]
    command = ["-n", "2", "-s", "1", "--launcher", "local", sys.executable, "-m", "msposenet"]
    command += ["train", str(config), "--run", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(TESTS.parent / "scripts" / "mxnet_launch.py"), *command],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=90)
        deadline = time.monotonic() + 10
        while marked(mark) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert marked(mark) == [], said
    finally:
        process.kill()
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
    assert process.returncode == 0, said
    assert checkpoint(tmp_path / "run").state["step"] == 3
    assert "2 workers of 1 devices, dist_sync" in said
