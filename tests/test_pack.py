"""Packs: the persons of the public files, every one once, in an order that depends on seed and epoch alone."""

from __future__ import annotations

import fcntl
import json
import os
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from packs import SHARDS, content, copied_pack, shared_pack
from people_set import images_of, people_set, tiny_config
from runner import cli_runner

from msposenet.cli.pack import pack as pack_command
from msposenet.data.loader import TrainingLoader
from msposenet.data.merging import read_training
from msposenet.data.pack_shard import assign_shards
from msposenet.data.packed import open_pack, verify_pack
from msposenet.data.packing import default_shards, write_pack
from msposenet.data.patches import LOSSLESS
from msposenet.data.pictures import FilePictures
from msposenet.data.records import Origin, Records
from msposenet.data.samples import TrainingSamples, cut
from msposenet.data.training_set import training_samples
from msposenet.errors import ConfigError, DataError, PoseError
from msposenet.geometry import Convention
from msposenet.runtime import mx
from msposenet.skeletons import COCO_17

CONFIG = tiny_config()


def rows_in_files(packed: Records, records: Records) -> list[int]:
    """Row in the public files of each packed instance."""
    found = {number: row for row, number in enumerate(records.annotation_ids.tolist())}
    return [found[number] for number in packed.annotation_ids.tolist()]


def two_sets(tmp_path) -> dict:
    """Configured sets: the people, and a copy of them under another name."""
    copy = tmp_path / "copy.json"
    copy.write_bytes(people_set().read_bytes())
    images = str(images_of(people_set()))
    first = {"name": "first", "annotations": str(people_set()), "images": images}
    second = {"name": "second", "annotations": str(copy), "images": images, "weight": 0.5, "min_joints": 17}
    return {**CONFIG.data.model_dump(mode="json"), "train": [first, {**second, "joint_weights": {"nose": 0.25}}]}


# Packing


@settings(max_examples=100, deadline=None)
@given(
    instances=st.integers(1, 200), pictures=st.integers(1, 60), origins=st.integers(1, 4), shards=st.integers(1, 40),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_every_instance_is_in_exactly_one_shard(instances, pictures, origins, shards, seed):
    rng = np.random.default_rng(seed)
    origin_of_picture = rng.integers(origins, size=pictures)
    image_index = rng.integers(pictures, size=instances).astype(np.int32)
    records = Records(
        COCO_17, np.zeros(pictures, "S1"), np.arange(pictures), np.zeros((pictures, 2), np.int32), image_index,
        np.arange(instances), np.ones((instances, 4)), np.zeros((instances, 17, 3), np.float32),
        np.ones(instances, np.float32), np.ones(instances, np.float32),
        origin_of_picture[image_index].astype(np.uint8), tuple(Origin(str(i), (1.0,) * 17) for i in range(origins)),
    )  # fmt: skip
    found = assign_shards(records, shards)
    assert sorted(np.concatenate(found).tolist()) == list(range(instances))
    assert all(len(part) and len(set(records.origin_index[part])) == 1 for part in found)
    home = {}
    for number, part in enumerate(found):
        for picture in image_index[part].tolist():
            assert home.setdefault(picture, number) == number, "a picture is decoded for two shards"
    assert len(found) <= shards + origins
    for wanted, part in zip(found, assign_shards(records, shards)):
        np.testing.assert_array_equal(wanted, part)


def test_shards_are_even_and_the_persons_of_a_picture_apart():
    records = read_training(CONFIG)
    many = replace(
        records.select(np.repeat(np.arange(len(records)), 100)),
        image_paths=np.repeat(records.image_paths, 61),
        image_ids=np.arange(61 * len(records.image_ids)),
        image_sizes=np.repeat(records.image_sizes, 61, axis=0),
        image_index=np.repeat(np.arange(len(records) * 50), 2).astype(np.int32),  # two persons a picture
    )
    found = assign_shards(many, 20)
    assert len(found) == 20
    sizes = [len(part) for part in found]
    assert max(sizes) - min(sizes) <= 4
    beside = [np.mean(np.diff(many.image_index[part]) == 0) for part in found]
    assert np.mean(beside) < 0.03
    assert [default_shards(count) for count in (1, 57, 40_000, 600_000, 10**7)] == [8, 8, 20, 256, 256]


def test_a_pack_holds_what_the_files_hold(tmp_path):
    records = read_training(CONFIG)
    pack = open_pack(shared_pack(), CONFIG)
    rows = rows_in_files(pack.records, records)
    assert rows == np.concatenate(assign_shards(records, SHARDS)).tolist() and rows != sorted(rows)
    wanted = records.select(np.array(rows))
    for name in ("annotation_ids", "boxes", "keypoints", "areas", "box_scores", "origin_index", "image_sizes"):
        np.testing.assert_array_equal(getattr(pack.records, name), getattr(wanted, name))
    assert [pack.records.path(i) for i in range(len(rows))] == [records.path(row) for row in rows]
    assert pack.records.skeleton == records.skeleton and pack.records.origins == records.origins
    pack.records.check()
    assert len(pack.pictures.shards) == SHARDS and verify_pack(shared_pack()).instances == len(records)


def test_unknown_sizes_of_pictures_are_filled_in(tmp_path):
    records = read_training(CONFIG)
    unknown = replace(records, image_sizes=np.zeros_like(records.image_sizes))
    write_pack(unknown, CONFIG, tmp_path / "pack", workers=0)
    found = open_pack(tmp_path / "pack", CONFIG).records
    used = np.unique(found.image_index)
    np.testing.assert_array_equal(found.image_sizes[used], records.image_sizes[used])
    assert not np.delete(found.image_sizes, used, axis=0).any()


@pytest.mark.parametrize("convention", list(Convention))
def test_crops_from_a_pack_are_those_from_the_files(tmp_path, convention):
    """Stored without loss at full size, over epochs with every change of the augmentation."""
    config = tiny_config(
        data={"input": [96, 64]}, augmentation={"half_body": 0.5, "half_body_joints": 4, "scale": 0.35, "flip": 0.5}
    )
    records = read_training(config)
    write_pack(records, config, tmp_path / "pack", quality=LOSSLESS, oversample=64, workers=0)
    pack, files = open_pack(tmp_path / "pack", config), FilePictures(records)
    rows = rows_in_files(pack.records, records)
    for seed in (1, 2):
        plain = TrainingSamples(records, (64, 96), convention, config.augmentation, seed)
        for epoch in range(4):
            for index, row in enumerate(rows):
                width = files.open(row).size_wh[0]
                assert pack.pictures.open(index).size_wh == files.open(row).size_wh
                plan = plain.plan(epoch, row, 0, width)
                keypoints = records.keypoints[row].astype(np.float64)
                wanted, found = (
                    cut(pictures.open(at).view(1.0), width, keypoints, plan, COCO_17, (64, 96), convention)
                    for pictures, at in ((files, row), (pack.pictures, index))
                )
                if convention is Convention.UNBIASED:
                    np.testing.assert_array_equal(found[0], wanted[0])
                else:
                    # Its matrices are not rounded, so OpenCV's rounding of positions to 1/32 px can fall otherwise.
                    difference = np.abs(found[0].astype(int) - wanted[0])
                    assert difference.max() <= 8 and difference.mean() < 0.05
                np.testing.assert_array_equal(found[1], wanted[1])


def test_jpeg_patches_lose_little():
    config = tiny_config(data={"input": [64, 64]})
    records = read_training(config)
    pack, files = open_pack(shared_pack(), config), FilePictures(records)
    factors, errors = set(), []
    for index, row in enumerate(rows_in_files(pack.records, records)):
        view = pack.pictures.open(index).view(1.0)
        factors.add(view.factor)
        picture = files.open(row).view(1.0).pixels.astype(np.float32)
        if view.factor == 1:
            x, y = (int(value) for value in view.origin)
            height, width = view.pixels.shape[:2]
            errors.append(np.abs(picture[y : y + height, x : x + width] - view.pixels).mean())
    assert {1.0} < factors and max(factors) >= 1.5
    assert 0 < np.mean(errors) < 5


def test_the_number_of_workers_changes_no_byte(tmp_path):
    records = read_training(CONFIG)
    for workers in (1, 3):
        folder = tmp_path / str(workers)
        report = write_pack(records, CONFIG, folder, shards=SHARDS, workers=workers)
        assert content(folder) == content(shared_pack()) and report.kept == 0
    assert "29 persons in 5 shards" in report.lines()[0]


def test_a_complete_pack_is_left_alone(tmp_path):
    folder = copied_pack(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    (folder / "shard-00000.part.npz").write_bytes(b"left by a process killed at its very end")
    report = write_pack(read_training(CONFIG), CONFIG, folder, shards=SHARDS, workers=0)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert report.kept == SHARDS and "were there already" in report.lines()[0]


REFUSED = {
    "other settings": ({"quality": 90}, "holds a pack of other data or settings"),
    "other shards": ({"shards": SHARDS + 1}, "holds a pack of other data or settings"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_another_pack_is_never_overwritten(tmp_path, changes, message):
    folder = copied_pack(tmp_path)
    before = content(folder)
    with pytest.raises(ConfigError, match=message):
        write_pack(read_training(CONFIG), CONFIG, folder, **{"shards": SHARDS, "workers": 0, **changes})
    assert content(folder) == before


def test_other_folders_are_refused_and_left_alone(tmp_path):
    records = read_training(CONFIG)
    (tmp_path / ".tmp-mine").write_text("precious")
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(ConfigError, match="is not empty and holds no pack"):
        write_pack(records, CONFIG, tmp_path, workers=0)
    assert set(content(tmp_path)) == {".tmp-mine", "notes.txt"}
    unfinished = tmp_path / "pack"
    unfinished.mkdir()
    (unfinished / "unfinished.txt").write_text("of something else")
    with pytest.raises(ConfigError, match="holds the beginning of a pack of other data"):
        write_pack(records, CONFIG, unfinished, workers=0)
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        write_pack(records, CONFIG, tmp_path / "notes.txt", workers=0)


def test_two_processes_do_not_pack_into_one_folder(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(ConfigError, match="another process packs there"):
        write_pack(read_training(CONFIG), CONFIG, tmp_path, workers=0)
    os.close(descriptor)
    write_pack(read_training(CONFIG), CONFIG, tmp_path, workers=0)


def test_records_of_other_sets_are_refused(tmp_path):
    other = tiny_config(data={"train": {**two_sets(tmp_path)["train"][0]}})
    with pytest.raises(ConfigError, match=r"names the sets \['first'\], the records are of"):
        write_pack(read_training(CONFIG), other, tmp_path / "pack")
    with pytest.raises(DataError, match="no usable person"):
        write_pack(read_training(CONFIG).select(np.array([], int)), CONFIG, tmp_path / "pack")


# Reading


def test_mxnet_reads_the_shards():
    pack = open_pack(shared_pack(), CONFIG)
    for number, rows in enumerate(pack.pictures.shards):
        rec = shared_pack() / f"shard-{number:05d}.rec"
        reader = mx.recordio.MXIndexedRecordIO(str(rec.with_suffix(".idx")), str(rec), "r")
        assert reader.keys == list(range(len(rows)))
        for key in reversed(reader.keys):
            header, bgr = mx.recordio.unpack_img(reader.read_idx(key))
            row = rows[key]
            view = pack.pictures.open(row).view(1.0)
            assert header.id == pack.records.annotation_ids[row]
            np.testing.assert_array_equal(bgr[..., ::-1], view.pixels)
            box, joints = header.label[:4], header.label[4:].reshape(17, 3)
            wanted = pack.records.keypoints[row]
            labelled = wanted[:, 2] > 0
            np.testing.assert_allclose(box[:2] * view.factor + view.origin, pack.records.boxes[row][:2], atol=1e-3)
            np.testing.assert_allclose(box[2:] * view.factor, pack.records.boxes[row][2:], atol=1e-3)
            np.testing.assert_array_equal(joints[:, 2], wanted[:, 2])
            in_image = joints[labelled, :2] * view.factor + view.origin
            np.testing.assert_allclose(in_image, wanted[labelled, :2], atol=1e-3)
            assert not joints[~labelled].any()


def test_an_epoch_visits_every_shard_in_its_order():
    pack = open_pack(shared_pack(), CONFIG)
    order, again, other = pack.order(3), open_pack(shared_pack(), CONFIG).order(3), pack.order(4)
    orders = [order.of(epoch).tolist() for epoch in range(4)]
    for epoch in (3, 1, 0, 2):
        assert again.of(epoch).tolist() == orders[epoch]
        assert sorted(orders[epoch]) == list(range(len(pack.records)))
        for rows in pack.pictures.shards:
            read = [code for code in orders[epoch] if rows[0] <= code <= rows[-1]]
            start = read.index(rows[0])
            assert read[start:] + read[:start] == rows.tolist()
    assert len({tuple(codes) for codes in [*orders, other.of(0).tolist()]}) == 5


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers(workers):
    config = tiny_config(data={"pack": str(shared_pack())})
    with (
        TrainingLoader(training_samples(config), 4) as plain,
        TrainingLoader(training_samples(config), 4, workers) as forked,
    ):
        for epoch, first in ((0, 0), (1, 2)):
            batches = zip(plain.batches(epoch, first), forked.batches(epoch, first))
            steps = 0
            for wanted, found in batches:
                steps += 1
                for name in ("crops", "joints", "weights", "indices", "image_ids"):
                    np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
            assert steps == plain.steps - first and wanted.crops.any() and not plain.bad


def test_processes_forked_from_one_another_share_a_pack():
    """Both read through descriptors that the parent opened."""
    pack = open_pack(shared_pack(), CONFIG)
    wanted = [pack.pictures.open(row).view(1.0).pixels for row in range(len(pack.records))]
    child = os.fork()
    same = all((pack.pictures.open(row).view(1.0).pixels == wanted[row]).all() for row in range(len(wanted)))
    if child == 0:
        os._exit(0 if same else 1)
    assert same and os.waitpid(child, 0)[1] == 0


def test_few_files_stay_open(monkeypatch):
    monkeypatch.setattr("msposenet.data.packed._MAX_OPEN", 2)
    pack = open_pack(shared_pack(), CONFIG)
    before = len(os.listdir("/proc/self/fd"))
    for row in np.random.default_rng(0).permutation(len(pack.records)):
        assert pack.pictures.open(row).view(1.0).pixels.any()
        assert len(os.listdir("/proc/self/fd")) <= before + 2
    pack.pictures.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_weights_are_those_of_the_configuration_and_sets_are_kept_apart(tmp_path):
    data = two_sets(tmp_path)
    config = tiny_config(data=data)
    records = read_training(config)
    write_pack(records, config, tmp_path / "pack", shards=6, workers=0)
    said = []
    pack = open_pack(tmp_path / "pack", config, said.append)
    assert pack.records.origins == records.origins and "pack of first, second" in said[0]
    assert all(len(set(pack.records.origin_index[rows])) == 1 for rows in pack.pictures.shards)
    first, second = (int((pack.records.origin_index == origin).sum()) for origin in (0, 1))
    assert first == 29 and 0 < second < 29
    assert abs(len(pack.order(0)) - (first + 0.5 * second)) <= 3
    data["train"][0].update(weight=2.0, joint_weights={"left_hip": 0.5, "right_hip": 0.5})
    changed = open_pack(tmp_path / "pack", tiny_config(data=data)).records
    assert changed.origins[0].sampling == 2 and changed.joint_weights[0].tolist().count(0.5) == 2
    data["train"].reverse()
    assert open_pack(tmp_path / "pack", tiny_config(data=data)).records.origins == changed.origins


def test_the_pack_of_one_input_serves_a_smaller_one_and_no_other_skeleton(tmp_path):
    config = tiny_config(data={"input": [96, 96]})
    write_pack(read_training(config), config, tmp_path / "pack", workers=0)
    assert len(open_pack(tmp_path / "pack", CONFIG).records) == 29
    with pytest.raises(ConfigError, match=r"data\.input is \[96, 96\], the pack was made for \[64, 64\]"):
        open_pack(shared_pack(), config)
    with pytest.raises(ConfigError, match=r"data\.skeleton is 'lsp14' with joints .*, the pack was made for 'coco17'"):
        open_pack(shared_pack(), tiny_config(data={"skeleton": "lsp14"}))
    assert open_pack(shared_pack(), tiny_config(data={"skeleton": "auto"})).records.skeleton == COCO_17


def test_sets_other_than_packed_are_refused(tmp_path):
    data = two_sets(tmp_path)
    one = {"data": {"train": {**CONFIG.data.train[0].model_dump(mode="json")}}}
    write_pack(read_training(tiny_config(data=data)), tiny_config(data=data), tmp_path / "pack", workers=0)
    with pytest.raises(ConfigError, match=r"the pack holds \['first', 'second'\]"):
        open_pack(tmp_path / "pack", tiny_config(**one))
    for name, value, message in (
        ("min_joints", 3, "second: min_joints is 3, packed was 17"),
        ("boxes", "joints", "second: boxes is 'joints'"),
    ):
        changed = json.loads(json.dumps(data))
        changed["train"][1][name] = value
        with pytest.raises(ConfigError, match=message):
            open_pack(tmp_path / "pack", tiny_config(data=changed))
    annotations = tmp_path / "copy.json"
    annotations.write_bytes(annotations.read_bytes() + b" ")
    with pytest.raises(ConfigError, match=r"the SHA-256 of .*copy\.json is .*, packed was"):
        open_pack(tmp_path / "pack", tiny_config(data=data))
    annotations.unlink()
    said = []
    assert len(open_pack(tmp_path / "pack", tiny_config(data=data), said.append).records)
    assert "copy.json is not here, so it was not compared" in said[0]


def test_patches_are_smaller_than_pictures():
    """What a pack is for: on pictures that are larger than what a person needs."""
    large = cv2.imread(str(next(images_of(people_set()).iterdir()))).size
    pack = open_pack(shared_pack(), CONFIG)
    assert np.mean([pack.pictures.open(row).view(1.0).pixels.size for row in range(29)]) < 0.5 * large


# The command


def command(*arguments):
    app = typer.Typer()
    app.command()(pack_command)
    return cli_runner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_packs_verifies_and_goes_on(tmp_path):
    config, folder = tmp_path / "people.yaml", tmp_path / "pack"
    config.write_text(CONFIG.dump())
    done = command(config, folder, "--shards", SHARDS, "--workers", 1, "--json")
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert figures["instances"] == 29 and figures["shards"] == SHARDS and figures["shards_kept"] == 0
    assert figures["bytes"] == sum(path.stat().st_size for path in folder.glob("*.rec"))
    assert content(folder) == content(shared_pack())
    again = command(config, folder, "--shards", SHARDS, "--quiet")
    assert again.exit_code == 0 and "29 persons in 5 shards" in again.stdout and "there already" in again.stdout
    verified = command(folder, "--verify")
    assert verified.exit_code == 0 and "29 persons in 5 shards, every checksum fits" in verified.stdout
    changed = command(config, tmp_path / "other", "--set", "data.enlarge=1.1", "--quality", 0)
    assert changed.exit_code == 0
    settings = json.loads((tmp_path / "other" / "pack.json").read_text())["settings"]
    assert settings["enlarge"] == 1.1 and settings["quality"] == 0


MISTAKES = {
    "no folder": (["CONFIG"], "name the folder to write"),
    "two folders to verify": (["CONFIG", "OUT", "--verify"], "--verify reads one folder"),
    "no pack to verify": (["OUT", "--verify"], "no such file"),
    "too many shards": (["CONFIG", "OUT", "--shards", "5000"], "at most 4096"),
    "oversample under 1": (["CONFIG", "OUT", "--oversample", "0.5"], "oversample: .*found 0.5"),
    "no configuration": (["OUT", "OUT"], "cannot be read as a configuration"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_of_the_command(tmp_path, arguments, message):
    (tmp_path / "people.yaml").write_text(CONFIG.dump())
    places = {"CONFIG": tmp_path / "people.yaml", "OUT": tmp_path / "pack"}
    done = command(*(places.get(argument, argument) for argument in arguments))
    assert isinstance(done.exception, PoseError) and re.search(message, str(done.exception)), done.exception
    assert not places["OUT"].exists()
