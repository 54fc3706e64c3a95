"""Checkpoints: what is saved comes back bit for bit, and damage, kills and full disks never cost more than one save."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from faults import BECOME_NOBODY, PROJECT, Hostile, own_disk, run_python
from fuzz import mutate

from msposenet.errors import CheckpointError, ConfigError, DivergedError, PoseError
from msposenet.storage import FileDigest
from msposenet.training.checkpoint import (
    checkpoint_steps,
    fingerprint,
    load_checkpoint,
    mark_best,
    save_checkpoint,
)
from msposenet.weights.manifest import MANIFEST_NAME, Manifest, manifest_bytes, read_manifest
from msposenet.weights.params_file import read_params

FILES = ("model.params", "optimizer.params", "state.json", MANIFEST_NAME)
FUZZ_MUTATIONS = int(os.environ.get("MSPOSENET_FUZZ_MUTATIONS", "500"))


def content(step: int, values: int = 20, attempt: int = 0) -> dict:
    rng = np.random.default_rng([step, attempt])
    return {
        "params": {
            "conv.weight": rng.standard_normal((values, 2)).astype(np.float32),
            "bn.running_var": rng.uniform(0.5, 1.5, 3).astype(np.float32),
        },
        "optimizer": {"mean/conv.weight": rng.standard_normal((values, 2)), "updates": np.array([step], np.int64)},
        "state": {"step": step, "attempt": attempt, "epoch": 1.5, "best": None, "rng": {"state": 2**127 + step}},
    }


def save(root: Path, *steps: int, **options) -> Path:
    for step in steps:
        folder = save_checkpoint(root, step, **content(step), **options)
    return folder


def assert_is(checkpoint, step: int, attempt: int = 0, values: int = 20) -> None:
    expected = content(step, values, attempt)
    assert checkpoint.step == step and checkpoint.state == expected["state"]
    assert fingerprint(checkpoint.params) == fingerprint(expected["params"])
    assert fingerprint(checkpoint.optimizer) == fingerprint(expected["optimizer"])


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def flip(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


# What is saved comes back


def test_round_trip_and_layout(tmp_path):
    root = tmp_path / "run" / "checkpoints"
    folder = save(root, 12000)
    assert folder == root / "step_00012000" and names(root) == ["LAST", "step_00012000"]
    assert names(folder) == sorted(FILES)
    assert (root / "LAST").read_text() == "step_00012000\n"
    for which in ("last", 12000, np.int64(12000)):
        said: list[str] = []
        checkpoint = load_checkpoint(root, which, say=said.append)
        assert_is(checkpoint, 12000)
        assert checkpoint.path == folder and said == []
    assert checkpoint.optimizer["mean/conv.weight"].dtype == np.float64
    checkpoint.params["conv.weight"] += 1  # writable


def test_mxnet_reads_the_weights_of_a_checkpoint(tmp_path):
    from msposenet.runtime import mx

    loaded = mx.nd.load(str(save(tmp_path, 3) / "model.params"))
    for name, array in content(3)["params"].items():
        np.testing.assert_array_equal(loaded[name].asnumpy(), array)


def test_manifest_states_hash_and_size_of_each_file(tmp_path):
    folder = save(tmp_path, 5)
    manifest = read_manifest(folder)
    assert (manifest.step, manifest.serial) == (5, 1) and set(manifest.files) == set(FILES) - {MANIFEST_NAME}
    for name, digest in manifest.files.items():
        data = (folder / name).read_bytes()
        assert digest == (hashlib.sha256(data).hexdigest(), len(data))


def test_empty_optimizer_state(tmp_path):
    save_checkpoint(tmp_path, 1, params={"w": np.ones(2, np.float32)}, optimizer={}, state={})
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.optimizer == {} and checkpoint.state == {}


def test_steps_are_listed_and_other_names_are_not(tmp_path):
    assert checkpoint_steps(tmp_path / "absent") == []
    save(tmp_path, 9, 100, 123456789)
    for name in ("step_9", "step_000000007", "step_0000000x", "step_00000008.bak", "other", ".tmp-step_00000005"):
        (tmp_path / name).mkdir()
    (tmp_path / "step_00000055").write_text("a file")
    assert checkpoint_steps(tmp_path) == [9, 100, 123456789]


def test_fingerprint_sees_every_bit_and_nothing_else():
    base = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2)}
    reference = fingerprint(base)
    assert fingerprint({"b": base["b"], "a": np.asfortranarray(base["a"]).astype(">f4")}) == reference
    others = [
        {**base, "b": np.array([0.0, -0.0])},
        {**base, "b": np.zeros(2, np.int64)},
        {**base, "a": base["a"].reshape(3, 2)},
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"]},
        {**base, "empty": np.zeros(0)},
        {**base, "a": np.nextafter(base["a"], np.float32(9))},
    ]
    assert len({reference, *map(fingerprint, others)}) == len(others) + 1
    assert fingerprint({"s": np.float32(1).reshape(())}) != fingerprint({"s": np.ones(1, np.float32)})


def test_fingerprint_of_a_checkpoint_covers_weights_and_optimizer(tmp_path):
    save(tmp_path, 1)
    changed = content(1)
    changed["optimizer"]["updates"] = np.array([2], np.int64)
    save_checkpoint(tmp_path, 2, **changed)
    assert fingerprint(load_checkpoint(tmp_path, 1)) == fingerprint(load_checkpoint(tmp_path, 1))
    assert fingerprint(load_checkpoint(tmp_path, 1)) != fingerprint(load_checkpoint(tmp_path, 2))


# What is kept


@pytest.mark.parametrize(("keep", "left"), [(1, [6]), (2, [5, 6]), (3, [4, 5, 6]), (9, [1, 2, 3, 4, 5, 6])])
def test_keeps_the_last(tmp_path, keep, left):
    save(tmp_path, *range(1, 7), keep=keep)
    assert checkpoint_steps(tmp_path) == left
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_keeps_the_best(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2, best=True)
    save(tmp_path, 3, 4, 5, 6)
    assert checkpoint_steps(tmp_path) == [2, 4, 5, 6]
    assert_is(load_checkpoint(tmp_path, "best"), 2)
    mark_best(tmp_path, 5)
    save(tmp_path, 7, 8)
    assert checkpoint_steps(tmp_path) == [5, 6, 7, 8]
    assert_is(load_checkpoint(tmp_path, "best"), 5)


def test_going_back_keeps_the_new_saves_not_the_higher_steps(tmp_path):
    save(tmp_path, 5, 6, 7, 8, keep=4)
    assert load_checkpoint(tmp_path, 5).step == 5
    for step, left in ((6, [6, 7, 8]), (7, [6, 7, 8]), (4, [4, 6, 7])):
        save(tmp_path, step, keep=3)
        assert checkpoint_steps(tmp_path) == left
        assert load_checkpoint(tmp_path).step == step
    shutil.rmtree(tmp_path / "step_00000004")
    assert load_checkpoint(tmp_path, say=lambda line: None).step == 7


def test_last_written_by_hand_is_gone_back_to(tmp_path):
    save(tmp_path, 1, 2, 3)
    (tmp_path / "LAST").write_text("step_00000001")
    assert load_checkpoint(tmp_path).step == 1


def test_a_step_saved_again_is_the_new_one(tmp_path):
    save(tmp_path, 1, 2, best=True)
    for attempt in (1, 2):
        save_checkpoint(tmp_path, 2, **content(2, attempt=attempt))
        assert_is(load_checkpoint(tmp_path), 2, attempt)
        assert_is(load_checkpoint(tmp_path, "best"), 2, attempt)
        assert names(tmp_path) == ["BEST", "LAST", "step_00000001", "step_00000002"]


def test_what_nobody_can_read_is_not_deleted(tmp_path):
    save(tmp_path, 1, 2)
    (tmp_path / "step_00000001" / MANIFEST_NAME).unlink()
    save(tmp_path, 3, 4, 5, keep=2)
    assert checkpoint_steps(tmp_path) == [1, 4, 5]
    (tmp_path / "BEST").write_text("???")
    with pytest.warns(UserWarning, match="BEST: names no checkpoint, so none is deleted"):
        save(tmp_path, 6, keep=2)
    assert checkpoint_steps(tmp_path) == [1, 4, 5, 6]


def test_left_overs_are_removed_at_the_next_save(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".tmp-step_00000002-1-ab").mkdir()
    (tmp_path / ".tmp-step_00000002-1-ab" / "model.params").write_bytes(b"half")
    (tmp_path / ".tmp-1-ab").write_text("step_0")
    assert_is(load_checkpoint(tmp_path), 1)
    save(tmp_path, 2)
    assert names(tmp_path) == ["LAST", "step_00000001", "step_00000002"]


def test_an_exchange_cut_short_loses_nothing(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "step_00000001").rename(tmp_path / ".replaced-step_00000001")
    assert checkpoint_steps(tmp_path) == [1]
    assert_is(load_checkpoint(tmp_path, say=pytest.fail), 1)
    save(tmp_path, 2)
    assert names(tmp_path) == ["LAST", "step_00000001", "step_00000002"]
    assert_is(load_checkpoint(tmp_path, 1), 1)


# What is damaged


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_noticed_and_passed_over(tmp_path, name):
    save(tmp_path, 1, 2)
    path = tmp_path / "step_00000002" / name
    good = path.read_bytes()
    rng = np.random.default_rng(11)
    for at in range(len(good)):
        flip(path, at, int(rng.integers(8)))
        with pytest.raises(CheckpointError, match="step_00000002"):
            load_checkpoint(tmp_path, 2)
        path.write_bytes(good)
    flip(path, len(good) // 2)
    said: list[str] = []
    assert_is(load_checkpoint(tmp_path, say=said.append), 1)
    assert f"passed over: {path.parent}" in said[0] and "going on from step 1" in said[1] and len(said) == 2
    path.write_bytes(good)
    assert_is(load_checkpoint(tmp_path), 2)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "longer", "folder"])
def test_a_file_missing_or_of_another_length(tmp_path, name, damage):
    save(tmp_path, 1, 2)
    path = tmp_path / "step_00000002" / name
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"empty": b"", "cut": data[:-2], "longer": data + b"x"}[damage])
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(tmp_path, 2)
    assert_is(load_checkpoint(tmp_path, say=lambda line: None), 1)


def test_nan_bytes_are_damage(tmp_path):
    folder = save(tmp_path, 1)
    path = folder / "model.params"
    data = path.read_bytes()
    first = content(1)["params"]["conv.weight"].tobytes()[:4]
    path.write_bytes(data.replace(first, np.float32(np.nan).tobytes(), 1))
    assert len(path.read_bytes()) == len(data)
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_checkpoint(tmp_path, 1)
    with pytest.raises(CheckpointError, match="SHA-256"):
        read_params(path)  # `--weights step_.../model.params` is verified too


def test_files_of_two_checkpoints_do_not_mix(tmp_path):
    save(tmp_path, 1, 2)
    shutil.copy(tmp_path / "step_00000001" / "optimizer.params", tmp_path / "step_00000002" / "optimizer.params")
    with pytest.raises(CheckpointError, match=r"optimizer\.params: is damaged"):
        load_checkpoint(tmp_path, 2)
    (tmp_path / "step_00000001").rename(tmp_path / "step_00000007")
    with pytest.raises(CheckpointError, match="its manifest is of step 1"):
        load_checkpoint(tmp_path, 7)


@pytest.mark.parametrize("pointer", [None, b"", b"step_00000009\n", b"../../step_00000001", b"\xff\0", b"x" * 10_000])
def test_last_is_missing_or_names_nothing(tmp_path, pointer):
    save(tmp_path, 1, 2)
    (tmp_path / "LAST").unlink()
    if pointer is not None:
        (tmp_path / "LAST").write_bytes(pointer)
    said: list[str] = []
    assert_is(load_checkpoint(tmp_path, say=said.append), 2)
    assert "newest valid checkpoint, going on from step 2" in said[-1]
    assert len(said) == (1 if pointer is None else 2)


def test_last_names_a_deleted_checkpoint(tmp_path):
    save(tmp_path, 1, 2, 3)
    shutil.rmtree(tmp_path / "step_00000003")
    flip(tmp_path / "step_00000002" / "state.json", 3)
    said: list[str] = []
    assert_is(load_checkpoint(tmp_path, say=said.append), 1)
    assert "names step_00000003, which is gone" in said[0] and len(said) == 3


def test_when_none_is_valid_all_reasons_are_given(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_checkpoint(tmp_path / "absent")
    save(tmp_path, 1, 2)
    flip(tmp_path / "step_00000001" / "state.json", 3)
    flip(tmp_path / "step_00000002" / "model.params", 90)
    with pytest.raises(CheckpointError, match=r"none of 2 checkpoints is valid.*model\.params.*state\.json"):
        load_checkpoint(tmp_path, say=lambda line: None)


def test_best_and_a_step_are_loaded_or_refused(tmp_path):
    save(tmp_path, 1, 2)
    with pytest.raises(CheckpointError, match=r"BEST: names no checkpoint.*steps 1, 2"):
        load_checkpoint(tmp_path, "best")
    with pytest.raises(CheckpointError, match=r"step_00000003: no such checkpoint.*steps 1, 2"):
        load_checkpoint(tmp_path, 3)
    with pytest.raises(CheckpointError, match="step_00000003"):
        mark_best(tmp_path, 3)
    with pytest.raises(ConfigError, match="'newest'"):
        load_checkpoint(tmp_path, "newest")
    mark_best(tmp_path, 2)
    flip(tmp_path / "step_00000002" / "model.params", 90)
    with pytest.raises(CheckpointError, match=r"model\.params"):
        load_checkpoint(tmp_path, "best")


def test_a_manifest_of_a_later_version_is_refused_by_name(tmp_path):
    path = save(tmp_path, 1) / MANIFEST_NAME
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(CheckpointError, match="version 2"):
        load_checkpoint(tmp_path, 1)


@pytest.mark.parametrize("data", [b"[" * 60_000, b"9" * 60_000, b'{"a":' * 10_000, b"[]", b"null", b"\xff"])
def test_manifests_made_to_hurt(tmp_path, data):
    (save(tmp_path, 1) / MANIFEST_NAME).write_bytes(data)
    with pytest.raises(CheckpointError, match=MANIFEST_NAME):
        load_checkpoint(tmp_path, 1)


def test_a_manifest_is_not_read_without_end(tmp_path):
    path = save(tmp_path, 1) / MANIFEST_NAME
    path.write_bytes(path.read_bytes() + b" " * 70_000)
    with pytest.raises(CheckpointError, match="is over 65536 bytes"):
        load_checkpoint(tmp_path, 1)


def replace_with_fitting_manifest(folder: Path, name: str, data: bytes) -> None:
    manifest = read_manifest(folder)
    files = {**manifest.files, name: FileDigest(hashlib.sha256(data).hexdigest(), len(data))}
    (folder / name).write_bytes(data)
    (folder / MANIFEST_NAME).write_bytes(manifest_bytes(Manifest(manifest.step, manifest.serial, files)))


@pytest.mark.parametrize("name", FILES[:3])
def test_pickles_never_run_even_with_a_fitting_manifest(tmp_path, name):
    replace_with_fitting_manifest(save(tmp_path, 1), name, pickle.dumps(Hostile(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(tmp_path, 1)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("data", [b"[]", b"null", b"", b"{", b"\xff", b"[" * 100_000])
def test_a_state_that_is_no_object_even_with_a_fitting_manifest(tmp_path, data):
    replace_with_fitting_manifest(save(tmp_path, 1), "state.json", data)
    with pytest.raises(CheckpointError, match=r"state\.json: (is no JSON|its root is no object)"):
        load_checkpoint(tmp_path, 1)


def test_mutated_manifests_raise_only_pose_errors(tmp_path):
    folder = save(tmp_path, 1)
    path, reference = folder / MANIFEST_NAME, fingerprint(load_checkpoint(tmp_path, 1))
    good = path.read_bytes()
    rng = np.random.default_rng(2020)
    refused = 0
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for number in range(FUZZ_MUTATIONS):
            path.write_bytes(mutate(good, rng))
            try:
                checkpoint = load_checkpoint(tmp_path, 1)
            except PoseError:
                refused += 1
            except BaseException as error:
                raise AssertionError(f"mutation {number} of seed 2020 raises {error!r}") from error
            else:  # a mutation may undo itself, or change nothing that JSON sees
                assert fingerprint(checkpoint) == reference
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > 0.9 * FUZZ_MUTATIONS
    assert peak < 20e6


# What is not saved


@pytest.mark.parametrize("group", ["params", "optimizer"])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, group):
    save(tmp_path, 1)
    bad = content(2)
    bad[group]["broken"] = np.array([1, np.nan], np.float32)
    with pytest.raises(DivergedError, match=r"step 2 is not saved.*'broken'") as caught:
        save_checkpoint(tmp_path, 2, **bad)
    assert caught.value.exit_code == 3
    assert names(tmp_path) == ["LAST", "step_00000001"]


def test_bad_arguments_write_nothing(tmp_path):
    root = tmp_path / "checkpoints"
    with pytest.raises(PoseError, match=r"state\.json.*`loss\[1\]` = inf"):
        save_checkpoint(root, 1, **{**content(1), "state": {"loss": [1.0, float("inf")]}})
    with pytest.raises(ConfigError, match="keep 0"):
        save(root, 1, keep=0)
    with pytest.raises(ConfigError, match="step -1"):
        save_checkpoint(root, -1, params={}, optimizer={}, state={})
    assert not root.exists()
    with pytest.raises(CheckpointError, match="'scalar' has no dimension"):
        save_checkpoint(root, 1, params={"scalar": np.array(1.0)}, optimizer={}, state={})
    assert names(root) == []


SAVE_OR_EXIT = (
    "import sys\n"
    "from pathlib import Path\n"
    "import test_checkpoint as t\n"
    "root = Path(sys.argv[1])\n"
    "{before}\n"
    "try:\n    t.save_checkpoint(root, 4, **t.content(4, {values}))\n"
    "except t.PoseError as error:\n    print(error)\n    code = error.exit_code\n"
    "else:\n    code = 0\n"
    "{after}\n"
    "sys.exit(code)\n"
)


def test_a_file_size_limit_leaves_all_checkpoints_as_they_were(tmp_path):
    save(tmp_path, 1, 2, 3)
    before = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    run = run_python(SAVE_OR_EXIT.format(before=before, after="", values=20_000), tmp_path)
    assert run.returncode == 4 and "ulimit -f" in run.stdout, run.stderr
    # Deleting checkpoints would not have helped, so none was.
    assert names(tmp_path) == ["LAST", *(f"step_0000000{step}" for step in (1, 2, 3))]
    assert_is(load_checkpoint(tmp_path), 3)
    run = run_python(SAVE_OR_EXIT.format(before=before, after="", values=20), tmp_path)
    assert run.returncode == 0 and load_checkpoint(tmp_path).step == 4  # the limit alone was in the way


# The disk holds 1000 KB; a checkpoint of 10,000 pairs takes 240 KB, of 20,000 480 KB, of 40,000 960 KB.
FILL = "for step in (1, 2, 3): t.save_checkpoint(root, step, **t.content(step, 10_000), best=step == 1)"
REPORT = (
    "for step in t.checkpoint_steps(root):\n"
    "    t.assert_is(t.load_checkpoint(root, step), step, values={values} if step == 4 else 10_000)\n"
    "print('steps', t.checkpoint_steps(root), 'last', t.load_checkpoint(root).step, 'names', len(t.names(root)))\n"
)


def test_a_full_disk_costs_the_older_checkpoints_but_not_the_best(tmp_path):
    code = SAVE_OR_EXIT.format(before=FILL, after=REPORT.format(values=15_000), values=15_000)
    run = run_python(code, tmp_path, prefix=own_disk(tmp_path, "size=1000k"))
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout == "steps [1, 3, 4] last 4 names 5\n"


def test_a_disk_that_stays_full_is_a_storage_error(tmp_path):
    code = SAVE_OR_EXIT.format(before=FILL, after=REPORT.format(values=40_000), values=40_000)
    run = run_python(code, tmp_path, prefix=own_disk(tmp_path, "size=1000k"))
    assert run.returncode == 4 and "step_00000004: cannot be written (No space left" in run.stdout, run.stderr
    assert run.stdout.endswith("steps [1, 3] last 3 names 4\n")


def test_a_full_disk_keeps_the_newest_that_is_valid(tmp_path):
    damage = FILL + "\nt.flip(root / 'step_00000003' / 'model.params', 5000)\n(root / 'BEST').unlink()"
    report = "print('steps', t.checkpoint_steps(root), 'last', t.load_checkpoint(root, say=lambda line: None).step)"
    code = SAVE_OR_EXIT.format(before=damage, after=report, values=40_000)
    run = run_python(code, tmp_path, prefix=own_disk(tmp_path, "size=1000k"))
    assert run.returncode == 4 and run.stdout.endswith("steps [2, 3] last 2\n"), run.stdout + run.stderr


def test_a_full_disk_keeps_what_the_run_would_go_on_from(tmp_path):
    pointed = FILL + "\n(root / 'LAST').write_text('step_00000002')\n(root / 'BEST').unlink()"
    code = SAVE_OR_EXIT.format(before=pointed, after=REPORT.format(values=40_000), values=40_000)
    run = run_python(code, tmp_path, prefix=own_disk(tmp_path, "size=1000k"))
    assert run.returncode == 4 and run.stdout.endswith("steps [2, 3] last 2 names 3\n"), run.stdout + run.stderr


def test_a_read_only_disk_is_a_storage_error_and_can_be_read(tmp_path):
    prefix = own_disk(tmp_path, "size=1000k")
    before = FILL + "\nimport os; os.system(f'mount -o remount,ro {root}')"
    run = run_python(
        SAVE_OR_EXIT.format(before=before, after=REPORT.format(values=0), values=20), tmp_path, prefix=prefix
    )
    assert run.returncode == 4 and "mounted read-only" in run.stdout, run.stdout + run.stderr
    assert run.stdout.endswith("steps [1, 2, 3] last 3 names 5\n")


def test_a_folder_without_permission_is_a_storage_error():
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "checkpoints"
        save(root, 1)
        os.chmod(folder, 0o755)
        os.chmod(root, 0o555)
        run = run_python(SAVE_OR_EXIT.format(before=BECOME_NOBODY, after="", values=20), root)
        assert run.returncode == 4 and "no permission" in run.stdout, run.stdout + run.stderr
        assert names(root) == ["LAST", "step_00000001"]


def test_a_path_through_a_file_is_a_configuration_error(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(ConfigError, match="is a file, not a folder"):
        save(tmp_path / "run" / "checkpoints", 1)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_checkpoint(tmp_path / "run" / "checkpoints")


# What is killed


def soak(*options: str) -> dict:
    run = subprocess.run(
        [sys.executable, str(PROJECT / "scripts" / "soak_kill_checkpoint.py"), *options],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_fifty_kills_at_random_instants():
    report = soak("--kills", "50", "--seed", "1")
    assert report["verified"] == report["kills"] == 50 and report["failures"] == []
    assert report["amid_a_save"] > 10  # the kills did hit saves, not the pauses between them


def test_a_kill_at_each_system_call_of_a_save():
    report = soak("--every-call")
    assert report["kills_at_calls"] > 100 and report["failures"] == []
