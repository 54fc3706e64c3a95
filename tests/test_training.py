"""Training runs: resume to the bit, devices, guards, faults and what is left on disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from people_set import people_set, tiny_config

from msposenet.config import build_config
from msposenet.errors import CheckpointError, ConfigError, DataError, DivergedError, StorageError
from msposenet.runtime import mx
from msposenet.skeletons import COCO_17
from msposenet.training.checkpoint import checkpoint_steps, fingerprint, load_checkpoint
from msposenet.training.loop import train
from msposenet.training.run import with_skeleton
from msposenet.weights.files import read_weights

EVERY_STEP = {"epochs": 2, "batch_size": 8, "lr_drops": [1], "log_every": 2, "validate_every": 0, "checkpoint_steps": 1}


def final(folder: Path):
    return load_checkpoint(folder / "checkpoints")


def signature(folder: Path) -> tuple[str, str]:
    """SHA-256 of weights with statistics, and of the optimizer's state."""
    last = final(folder)
    return fingerprint(last.params), fingerprint(last.optimizer)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of two epochs of three steps that keeps every checkpoint."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return train(tiny_config(train={**EVERY_STEP, "keep": 100}), folder)


def test_a_run_leaves_what_it_promises(whole):
    names = {path.name for path in whole.iterdir()}
    assert names == {"config.yaml", "log.txt", "metrics.jsonl", "tensorboard", "checkpoints", "results"}
    log = (whole / "log.txt").read_text()
    assert re.search(r"Epoch\[1\] Batch \[2\] Speed: [\d.]+ samples/sec loss=\S+ .* lr=0.001 data=\d+%", log)
    assert re.search(r"Epoch\[2\] Validation AP=\S+ .* boxes: ground truth", log)
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines]
    assert steps == sorted(steps)
    assert {"loss", "lr", "samples_per_second", "data_share", "class_stage1", "offset_stage2"} <= set(lines[0])
    assert lines[-1]["AP"] >= 0
    results = json.loads((whole / "results" / "keypoints_person_keypoints.json").read_text())
    assert len(results[0]["keypoints"]) == 51


def test_tensorboard_reads_what_was_written(whole):
    """In another process: mxboard and tensorboard cannot be imported into one."""
    code = (
        "import sys\n"
        "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n"
        "events = EventAccumulator(sys.argv[1]); events.Reload()\n"
        "print(sorted(events.Tags()['scalars']), events.Tags()['images'])\n"
    )
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    done = subprocess.run(
        [sys.executable, "-c", code, str(whole / "tensorboard")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "'AP'" in done.stdout and "'loss'" in done.stdout and "predictions" in done.stdout


@pytest.mark.parametrize(("split", "workers"), [(1, 0), (2, 2), (3, 0), (4, 2), (5, 1)])
def test_a_run_split_anywhere_ends_bit_for_bit_the_same(whole, tmp_path, split, workers):
    """Killed after checkpoint `split`, gone on with another number of loader workers."""
    steps = checkpoint_steps(whole / "checkpoints")
    assert steps == [1, 2, 3, 4, 5, 6]
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_bytes((whole / "config.yaml").read_bytes())
    (folder / "checkpoints").mkdir()
    name = f"step_{split:08d}"
    os.symlink(whole / "checkpoints" / name, folder / "checkpoints" / name)
    (folder / "checkpoints" / "LAST").write_text(name + "\n")
    config = tiny_config(train={**EVERY_STEP, "keep": 100}, data={"workers": workers})
    train(config, folder, resume=True)
    assert signature(folder) == signature(whole)


def test_a_killed_process_resumes_to_the_same_end(whole, tmp_path):
    """SIGKILL in the middle of a real run, then --resume from the command line."""
    config = tmp_path / "run.yaml"
    config.write_text(tiny_config(train={**EVERY_STEP, "keep": 100}).dump())
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "msposenet", "train", str(config), "--run", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while not (folder / "checkpoints" / "step_00000002" / "MANIFEST.json").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert final(folder).step < 6
    assert subprocess.run([*command, "--resume", "--quiet"]).returncode == 0
    assert signature(folder) == signature(whole)


def test_sigterm_saves_and_says_so(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(tiny_config(train={**EVERY_STEP, "epochs": 500, "lr_drops": [400]}).dump())
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "msposenet", "train", str(config), "--run", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while not (folder / "checkpoints" / "LAST").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "SIGTERM" in errors and "resume" in errors
    assert f"after step {final(folder).step}" in errors


def test_two_devices_resume_bit_for_bit_too(tmp_path):
    """Each device has its own moments and update counts; a resume must put back both."""
    settings = {**EVERY_STEP, "epochs": 1, "devices": ["cpu:0", "cpu:1"], "clip_norm": 0.5, "keep": 9}
    whole = train(tiny_config(train=settings), tmp_path / "whole")
    split = tmp_path / "split"
    shutil.copytree(whole, split)
    for step in (2, 3):
        shutil.rmtree(split / "checkpoints" / f"step_{step:08d}")
    (split / "checkpoints" / "LAST").write_text("step_00000001\n")
    train(tiny_config(train=settings), split, resume=True)
    assert "resumed from step_00000001" in (split / "log.txt").read_text()
    assert signature(split) == signature(whole)


def test_gradients_of_two_devices_average_exactly():
    """A loss without batch norm: the update from two halves equals the update from the whole batch."""
    from msposenet.data.loader import Slot
    from msposenet.training.step import Stepper

    class Dot(mx.gluon.HybridBlock):
        def __init__(self):
            super().__init__(prefix="")
            self.layer = mx.gluon.nn.Dense(1, in_units=2, use_bias=False)

        def hybrid_forward(self, F, crops, joints, labelled):
            return F.reshape(F.mean(F.square(self.layer(F.mean(joints, axis=1)) - 1)), shape=(1,))

    batch = Slot.allocate(8, (4, 4), 3)
    batch.joints[:] = np.random.default_rng(0).uniform(-1, 1, batch.joints.shape)
    ends = []
    for clip in (None, 1e-3):
        for devices in ([mx.cpu(0)], [mx.cpu(0), mx.cpu(1)]):
            net = Dot()
            net.initialize(mx.init.Constant(0.5), ctx=devices)
            store = "device" if len(devices) > 1 else None
            stepper = Stepper(net, net._collect_params_with_prefix(), devices, 8, clip_norm=clip, kvstore=store)
            for step in range(5):
                stepper(batch, 0.1, step)
            ends.append(net.layer.weight.list_data()[0].asnumpy())
            for copy in net.layer.weight.list_data():
                np.testing.assert_array_equal(copy.asnumpy(), ends[-1])
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(ends[2], ends[3], rtol=1e-5, atol=1e-7)


def test_divergence_stops_at_its_step_and_leaves_the_checkpoint(tmp_path):
    config = tiny_config(train={**EVERY_STEP, "base_lr": 1e25, "warmup_steps": 0})
    with pytest.raises(DivergedError) as caught:
        train(config, tmp_path / "run")
    message = str(caught.value)
    assert re.search(r"at step \d+ with learning rate 1e\+25: .*image ids \d+", message)
    assert caught.value.exit_code == 3
    step = int(re.search(r"at step (\d+)", message)[1])
    kept = checkpoint_steps(tmp_path / "run" / "checkpoints")
    assert all(saved <= step for saved in kept)
    if kept:
        assert all(np.isfinite(array).all() for array in final(tmp_path / "run").params.values())


def test_a_nan_in_the_batch_stops_before_the_weights_move(tmp_path, monkeypatch):
    from msposenet.data.samples import TrainingSamples

    make = TrainingSamples.make

    def poisoned(self, epoch, index, *arguments):
        crop, joints, labelled = make(self, epoch, index, *arguments)
        return crop, joints * np.nan if epoch == 1 else joints, np.ones_like(labelled)

    monkeypatch.setattr(TrainingSamples, "make", poisoned)
    with pytest.raises(DivergedError, match="at step 3 "):
        train(tiny_config(train=EVERY_STEP), tmp_path / "run")
    assert final(tmp_path / "run").step == 3


def test_a_gradient_that_is_not_finite_stops_at_its_step():
    """sqrt has a finite value and an infinite slope at 0."""
    from msposenet.data.loader import Slot
    from msposenet.training.step import Stepper

    class Root(mx.gluon.HybridBlock):
        def __init__(self):
            super().__init__(prefix="")
            self.layer = mx.gluon.nn.Dense(1, in_units=2, use_bias=False)

        def hybrid_forward(self, F, crops, joints, labelled):
            return F.reshape(F.sqrt(F.abs(F.mean(self.layer(F.mean(joints, axis=1))))), shape=(1,))

    batch = Slot.allocate(4, (4, 4), 3)
    batch.joints[:] = 1.0
    for clip in (None, 1.0):
        net = Root()
        net.initialize(mx.init.Zero())
        stepper = Stepper(net, net._collect_params_with_prefix(), [mx.cpu()], 4, clip_norm=clip)
        with pytest.raises(DivergedError, match=r"at step 0 .*gradient.*not finite"):
            stepper(batch, 0.1, 0)


def test_a_validation_that_fails_does_not_cost_the_epoch(tmp_path):
    """A picture of the validation set goes missing while the run trains."""
    annotations = people_set(12, 9)
    images = tmp_path / "images"
    shutil.copytree(annotations.parent.parent / "images", images)
    val = {"annotations": str(annotations), "images": str(images)}
    config = tiny_config(train={**EVERY_STEP, "epochs": 1, "checkpoint_steps": None})
    source = build_config({"data": {"val": val}}, "val").data.val
    config = config.model_copy(update={"data": config.data.model_copy(update={"val": source})})
    next(images.iterdir()).unlink()
    with pytest.raises(DataError, match="cannot be read"):
        train(config, tmp_path / "run")
    assert final(tmp_path / "run").step == 3
    shutil.copytree(annotations.parent.parent / "images", images, dirs_exist_ok=True)
    train(config, tmp_path / "run", resume=True)  # only the validation is left to do
    assert "Validation AP=" in (tmp_path / "run" / "log.txt").read_text()
    assert (tmp_path / "run" / "checkpoints" / "BEST").exists()


def test_a_run_killed_before_its_first_checkpoint_starts_over(tmp_path):
    folder = train(tiny_config(train={**EVERY_STEP, "epochs": 1}), tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").mkdir()
    train(tiny_config(train={**EVERY_STEP, "epochs": 1}), folder, resume=True)
    assert "starting at step 0" in (folder / "log.txt").read_text() and final(folder).step == 3


def test_a_run_lost_before_or_in_its_first_save_begins_once_more_from_the_same_weights(whole, tmp_path):
    """What a kill leaves at each of those moments, gone on with as a launcher or a queue does."""
    settings = tiny_config(train={**EVERY_STEP, "epochs": 1, "base_lr": 1e-9})
    for moment in ("before config.yaml", "before the first save", "in the first save"):
        folder = tmp_path / moment
        (folder / "checkpoints" / ".tmp-step_00000001-1-abc").mkdir(parents=True)
        if moment == "before config.yaml":
            shutil.rmtree(folder / "checkpoints")
            (folder / ".tmp-1-abc").write_bytes(b"")
        else:
            (folder / "config.yaml").write_text(with_skeleton(settings, COCO_17).dump())
        if moment == "before the first save":
            shutil.rmtree(folder / "checkpoints" / ".tmp-step_00000001-1-abc")
        train(settings, folder, init_from=whole, auto_resume=True)
        start, end = final(whole).params, final(folder).params
        moved = max(float(np.abs(end[name] - start[name]).max()) for name in start if "running" not in name)
        assert moved < 1e-6, moment
        assert "loaded" in (folder / "log.txt").read_text(), moment
    train(settings, folder, init_from=tmp_path / "not-there", auto_resume=True)  # it has its weights: not read


def test_stage_and_joint_weights_scale_their_terms(tmp_path):
    losses = []
    for weights in ({}, {"stage_weights": [2.0, 0.5]}, {"joint_weights": dict.fromkeys(COCO_17.joints, 2.0)}):
        folder = train(tiny_config(train={"epochs": 1, "log_every": 1}, loss=weights), tmp_path / str(len(losses)))
        losses.append(json.loads((folder / "metrics.jsonl").read_text().splitlines()[0]))
    plain, staged, jointed = losses
    assert staged["class_stage1"] == pytest.approx(2 * plain["class_stage1"], rel=1e-5)
    assert staged["offset_stage2"] == pytest.approx(0.5 * plain["offset_stage2"], rel=1e-5)
    assert jointed["class_stage1"] == pytest.approx(4 * plain["class_stage1"], rel=1e-5)
    with pytest.raises(ConfigError, match=r"stage_weights has 1 values; the network has 2 stages"):
        train(tiny_config(loss={"stage_weights": [1.0]}), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_run_directory_is_not_overwritten(whole, tmp_path):
    with pytest.raises(ConfigError, match="is not empty; add --resume"):
        train(tiny_config(), whole)
    with pytest.raises(ConfigError, match="no run to resume"):
        train(tiny_config(), tmp_path / "nothing", resume=True)


def test_a_resumed_run_is_the_same_experiment(whole):
    changed = tiny_config(train={**EVERY_STEP, "keep": 100}, model={"name": "mshrnet_w8x3_small"})
    with pytest.raises(ConfigError, match=r"cannot change model\.name mshrnet_w8x2_small -> mshrnet_w8x3_small"):
        train(changed, whole, resume=True)
    with pytest.raises(ConfigError, match=r"train\.batch_size 8 -> 4"):
        train(tiny_config(train={**EVERY_STEP, "keep": 100, "batch_size": 4}), whole, resume=True)


def test_figures_stay_monotonic_and_are_not_lost_on_resuming(tmp_path):
    folder = train(tiny_config(train={**EVERY_STEP, "epochs": 1, "log_every": 1}), tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": 1.0}\n{"step": 5, "lo')  # what a killed run wrote after its checkpoint
    train(tiny_config(train={**EVERY_STEP, "log_every": 1}), folder, resume=True)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = [line["step"] for line in lines if "lr" in line]
    assert trained == list(range(1, 7))


def test_damaged_checkpoints_are_passed_over(tmp_path):
    folder = train(tiny_config(train={**EVERY_STEP, "epochs": 1}), tmp_path / "run")
    newest = folder / "checkpoints" / "step_00000003" / "model.params"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    train(tiny_config(train=EVERY_STEP), folder, resume=True)
    log = (folder / "log.txt").read_text()
    assert "resumed from step_00000002" in log
    assert final(folder).step == 6


def test_storage_is_probed_before_training(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises((StorageError, ConfigError), match="file"):
        train(tiny_config(), blocked / "run")


def test_fine_tuning_drops_only_the_head(whole, tmp_path):
    """Three joints of one's own, from a file that names them: nothing but the head starts anew."""
    annotations = own_set(tmp_path)
    source = {"annotations": str(annotations), "images": str(people_set().parent.parent / "images")}
    config = build_config(
        {
            "data": {"train": source, "val": source, "input": [64, 64], "workers": 0},
            "model": {"name": "mshrnet_w8x2_small"},
            "codec": {"radius_factor": 0.15, "kernel": 1},
            "train": {"epochs": 1, "batch_size": 8, "lr_drops": [1]},
            "test": {"batch_size": 8},
        },
        "own",
    )
    folder = train(config, tmp_path / "own", init_from=whole)
    log = (folder / "log.txt").read_text()
    heads = "cascade.0.final_layer.weight"
    total = len(read_weights(whole))
    line = next(line for line in log.splitlines() if line.startswith("re-initialised"))
    assert heads in line and f"loaded {total - 4} of {total} arrays" in line
    assert final(folder).params["final_layer.weight"].shape[0] == 9
    assert "left_hand" in (folder / "config.yaml").read_text()
    results = json.loads(next((folder / "results").iterdir()).read_text())
    assert len(results[0]["keypoints"]) == 9


def own_set(folder: Path) -> Path:
    """The synthetic people's nose and wrists under names of one's own."""
    content = json.loads(people_set().read_text())
    content["categories"][0].update(keypoints=["tip", "left_hand", "right_hand"], skeleton=[[1, 2], [1, 3]])
    for annotation in content["annotations"]:
        keypoints = np.array(annotation["keypoints"]).reshape(17, 3)[[0, 9, 10]]
        annotation["keypoints"] = keypoints.ravel().tolist()
        annotation["num_keypoints"] = int((keypoints[:, 2] > 0).sum())
    path = folder / "own.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": {"train": None}}, ConfigError, "data.train is not set"),
        ({"train": {"devices": ["gpu:7"]}}, ConfigError, "gpu:7 is not there"),
        ({"train": {"devices": ["tpu"]}}, ConfigError, "unknown device 'tpu'"),
        ({"train": {"amp": True, "devices": ["cpu"]}}, ConfigError, "float16 needs GPUs"),
        ({"train": {"batch_size": 3, "devices": ["cpu:0", "cpu:1"]}}, ConfigError, "does not divide among 2 devices"),
    ],
)
def test_what_cannot_run_is_refused_at_once(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        train(tiny_config(**changes), tmp_path / "run")


def test_missing_weights_and_annotations_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="holds no weights"):
        train(tiny_config(), tmp_path / "a", init_from=tmp_path / "nothing")
    source = {"annotations": str(tmp_path / "none.json"), "images": str(tmp_path)}
    with pytest.raises(DataError, match=r"none\.json"):
        train(tiny_config(data={"train": source, "input": [64, 64]}), tmp_path / "b")


def test_a_resumed_run_keeps_its_training_sets_and_may_move_them(tmp_path):
    annotations = people_set(12, 9)
    config = tiny_config(annotations, train={"epochs": 1})
    folder = train(config, tmp_path / "run")
    weighted = tiny_config(annotations, train={"epochs": 2})
    section = config.data.train[0].model_copy(update={"weight": 2.0})
    weighted = weighted.model_copy(update={"data": weighted.data.model_copy(update={"train": (section,)})})
    with pytest.raises(ConfigError, match=r"cannot change data\.train\.0\.weight 1\.0 -> 2\.0"):
        train(weighted, folder, resume=True)
    moved = shutil.copytree(annotations.parent.parent, tmp_path / "moved") / "annotations" / annotations.name
    train(tiny_config(moved, train={"epochs": 2}), folder, resume=True)
    assert "changed on resuming: data.train.0.annotations" in (folder / "log.txt").read_text()


def test_a_checkpoint_from_before_there_were_several_metrics_is_resumed(tmp_path, monkeypatch):
    from msposenet.training import snapshots

    save = snapshots.save_checkpoint

    def save_as_then(*arguments, state, **options):
        then = {key.replace("best_score", "best_ap"): state[key] for key in state if key != "layout"}
        return save(*arguments, state=then, **options)

    monkeypatch.setattr(snapshots, "save_checkpoint", save_as_then)
    folder = train(tiny_config(train={"epochs": 1}), tmp_path / "run")
    monkeypatch.undo()
    train(tiny_config(train={"epochs": 2}), folder, resume=True)
    assert "resumed from" in (folder / "log.txt").read_text()
    assert "best_score" in final(folder).state
