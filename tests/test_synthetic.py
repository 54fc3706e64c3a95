"""Scenes and COCO sets of synthetic people: reproducible, in range, and told apart from other sets."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from msposenet.data.synthetic import SceneSpec, render_scene, write_coco
from msposenet.data.synthetic_pose import random_body
from msposenet.errors import ConfigError, DataError, PoseError
from msposenet.skeletons import COCO_17

COVERED = 1
SMALL = SceneSpec(width=(96, 112), height=(80, 96))


def row(joint: str) -> int:
    return COCO_17.index(joint)


# --- scenes ---------------------------------------------------------------------------------------------------------


def test_scenes_depend_on_seed_index_and_spec_alone():
    scene, again = render_scene(5, 3), render_scene(5, 3)
    for field in ("image", "keypoints", "boxes", "areas"):
        assert getattr(scene, field).tobytes() == getattr(again, field).tobytes()
    for other in (render_scene(6, 3), render_scene(5, 4), render_scene(5, 3, SMALL)):
        assert other.image.tobytes() != scene.image.tobytes()


@pytest.fixture(scope="module")
def scenes():
    return [render_scene(20, index) for index in range(250)]


def test_scenes_have_the_promised_shapes_and_ranges(scenes):
    spec = SceneSpec()
    counts = set()
    for scene in scenes:
        height, width, channels = scene.image.shape
        people = len(scene.areas)
        counts.add(people)
        assert scene.image.dtype == np.uint8 and scene.image.flags.c_contiguous and channels == 3
        assert spec.width[0] <= width <= spec.width[1] and spec.height[0] <= height <= spec.height[1]
        assert scene.keypoints.shape == (people, 17, 3) and scene.boxes.shape == (people, 4)
        assert {scene.keypoints.dtype, scene.boxes.dtype, scene.areas.dtype} == {np.dtype(np.float32)}
        assert set(np.unique(scene.keypoints[:, :, 2])) <= {0, 1, 2}
        assert (scene.keypoints[scene.keypoints[:, :, 2] == 0] == 0).all()
        assert (scene.boxes[:, :2] >= 0).all() and (scene.boxes[:, 2:] > 5).all()
        assert (scene.boxes[:, :2] + scene.boxes[:, 2:] <= np.array([width, height]) + 1e-3).all()
        assert (scene.areas > 0).all() and (scene.areas <= scene.boxes[:, 2] * scene.boxes[:, 3]).all()
    assert counts == {1, 2, 3}


def test_boxes_contain_every_labelled_joint_of_the_body(scenes):
    for scene in scenes:
        low, high = scene.boxes[:, None, :2], (scene.boxes[:, :2] + scene.boxes[:, 2:])[:, None]
        xy, labelled = scene.keypoints[:, :, :2], scene.keypoints[:, :, 2] > 0
        assert ((xy >= low - 1e-3) & (xy <= high + 1e-3)).all(axis=2)[labelled].all()


def test_people_are_varied(scenes):
    keypoints = np.concatenate([scene.keypoints for scene in scenes])
    flags = keypoints[:, :, 2]
    assert 0.05 < (flags[:, row("nose")] == 0).mean() < 0.30  # from behind, or cut off
    assert 0.03 < (flags == COVERED).mean() < 0.30
    rng = np.random.default_rng(0)
    points = [random_body(rng).points for _ in range(400)]
    raised = np.mean([p["left_wrist"][1] < p["left_shoulder"][1] for p in points])
    assert 0.1 < raised < 0.6
    spread = np.std([p["left_wrist"] - p["left_shoulder"] for p in points], axis=0)
    assert (spread > 0.08).all()  # body heights, in all three directions
    crossed = np.mean([p["left_ankle"][0] < p["right_ankle"][0] for p in points])
    assert 0.08 < crossed < 0.5


def test_an_occluder_hides_joints_and_silhouette_but_moves_nothing():
    free, covered = (
        [render_scene(9, index, SceneSpec(people=(1, 1), occluder=share)) for index in range(30)]
        for share in (0.0, 1.0)
    )
    hidden = 0
    for before, after in zip(free, covered):
        if len(after.areas) == 0:
            continue
        assert (before.boxes == after.boxes).all() and (before.keypoints[:, :, :2] == after.keypoints[:, :, :2]).all()
        assert (after.areas <= before.areas).all() and (after.keypoints[:, :, 2] <= before.keypoints[:, :, 2]).all()
        hidden += int((after.keypoints[:, :, 2] < before.keypoints[:, :, 2]).sum())
        if (after.keypoints[:, :, 2] != before.keypoints[:, :, 2]).any():
            assert (after.areas < before.areas).all()
    assert hidden > 20


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("width", (320, 256), "width"),
        ("height", (8, 240), "height"),
        ("people", (0, 3), "people"),
        ("people", (1, 15), "people"),
        ("figure_height", (0.0, 0.9), "figure_height"),
        ("figure_height", (0.5, float("nan")), "figure_height"),
        ("occluder", 1.5, "occluder"),
        ("back_view", -0.1, "back_view"),
        ("back_view", 0.95, "profile_view"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(field, value, words):
    with pytest.raises(ConfigError, match=words):
        SceneSpec(**{field: value})


@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (0, -1)])
def test_negative_numbers_are_refused(seed, index):
    with pytest.raises(ConfigError, match="negative"):
        render_scene(seed, index)


# --- COCO sets ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coco_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "set"
    calls: list[tuple[int, int]] = []
    annotations = write_coco(folder, 12, 4, SMALL, progress=lambda done, total: calls.append((done, total)))
    return folder, annotations, calls


def test_pycocotools_reads_the_set_and_scores_it_perfect(coco_set):
    _, annotations, calls = coco_set
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(annotations))
        people = coco.loadAnns(coco.getAnnIds())
        results = [
            {**{key: ann[key] for key in ("image_id", "category_id", "keypoints")}, "score": 1.0} for ann in people
        ]
        scores = COCOeval(coco, coco.loadRes(results), "keypoints")
        scores.evaluate()
        scores.accumulate()
        scores.summarize()
    assert scores.stats[0] == pytest.approx(1.0)
    assert calls == [(done, 12) for done in range(1, 13)]
    category = coco.loadCats([1])[0]
    assert category["name"] == "person" and tuple(category["keypoints"]) == COCO_17.joints
    assert (
        category["skeleton"][0] == [16, 14] and np.min(category["skeleton"]) == 1 and np.max(category["skeleton"]) == 17
    )


def test_the_file_says_what_the_scenes_hold(coco_set):
    folder, annotations, _ = coco_set
    document = json.loads(annotations.read_text())
    assert [image["id"] for image in document["images"]] == list(range(1, 13))
    assert [ann["id"] for ann in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))
    for image in document["images"]:
        scene = render_scene(4, image["id"] - 1, SMALL)
        people = [ann for ann in document["annotations"] if ann["image_id"] == image["id"]]
        assert image["file_name"] == f"{image['id']:012d}.jpg"
        picture = cv2.imread(str(folder / "images" / image["file_name"]))
        assert picture.shape == (image["height"], image["width"], 3) == scene.image.shape
        # RGB in memory, and the file decodes to the same colours (JPEG smooths their grain).
        assert picture[:, :, ::-1].mean(axis=(0, 1)) == pytest.approx(scene.image.mean(axis=(0, 1)), abs=2)
        assert len(people) == len(scene.areas)
        for ann, keypoints, box, area in zip(people, scene.keypoints, scene.boxes, scene.areas):
            assert np.array(ann["keypoints"]).reshape(17, 3) == pytest.approx(keypoints, abs=6e-4)
            assert ann["bbox"] == pytest.approx(box, abs=6e-4) and ann["area"] == area
            assert ann["num_keypoints"] == (keypoints[:, 2] > 0).sum()
            assert (ann["iscrowd"], ann["category_id"]) == (0, 1)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(coco_set, tmp_path):
    folder, _, _ = coco_set
    write_coco(tmp_path / "again", 12, 4, SMALL)
    write_coco(tmp_path / "other", 12, 5, SMALL)
    assert contents(tmp_path / "again") == contents(folder)
    other = contents(tmp_path / "other")
    assert all(other[name] != data for name, data in contents(folder).items())


def test_a_complete_set_is_left_alone_and_a_damaged_one_is_written_anew(tmp_path):
    folder = tmp_path / "set"
    annotations = write_coco(folder, 3, 1, SMALL)
    whole, calls = contents(folder), []
    picture = folder / "images" / "000000000002.jpg"
    picture.write_bytes(b"touched")
    assert write_coco(folder, 3, 1, SMALL, progress=lambda *call: calls.append(call)) == annotations
    assert picture.read_bytes() == b"touched" and not calls
    picture.unlink()
    write_coco(folder, 3, 1, SMALL)
    assert contents(folder) == whole
    # Interrupted while it was being written anew: all files are there, not all of them whole.
    record = json.loads((folder / "synthetic.json").read_text())
    (folder / "synthetic.json").write_text(json.dumps({**record, "complete": False}))
    picture.write_bytes(b"cut")
    write_coco(folder, 3, 1, SMALL)
    assert contents(folder) == whole


def test_an_interrupted_set_is_written_anew(tmp_path):
    class Interrupted(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        write_coco(tmp_path / "set", 3, 1, SMALL, progress=stop)
    write_coco(tmp_path / "set", 3, 1, SMALL)
    write_coco(tmp_path / "whole", 3, 1, SMALL)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("count", "seed", "spec", "words"),
    [
        (3, 2, SMALL, "seed 1 instead of 2"),
        (4, 1, SMALL, "num_images 3 instead of 4"),
        (3, 1, replace(SMALL, occluder=0.9), "spec"),
    ],
)
def test_a_folder_with_another_set_is_refused_and_left_as_it_was(tmp_path, count, seed, spec, words):
    write_coco(tmp_path, 3, 1, SMALL)
    before = contents(tmp_path)
    with pytest.raises(DataError, match=words) as caught:
        write_coco(tmp_path, count, seed, spec)
    assert "another folder" in str(caught.value) and str(tmp_path) in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("holiday.jpg", b"x"),
        ("synthetic.json", b""),
        ("synthetic.json", b"\xff\xfe{"),
        ("synthetic.json", b"[1]"),
        ("synthetic.json", b"[" * 100000),
        ("synthetic.json", b'{"seed": 1}'),
    ],
)
def test_a_folder_with_foreign_files_is_refused(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=name.split(".")[0]):
        write_coco(tmp_path, 1, 0, SMALL)
    assert contents(tmp_path) == {name: data}


@pytest.mark.parametrize(("count", "seed"), [(0, 1), (1, -1)])
def test_numbers_that_cannot_be_are_refused(tmp_path, count, seed):
    with pytest.raises(ConfigError, match="at least 1"):
        write_coco(tmp_path / "set", count, seed)


def test_a_path_through_a_file_is_a_pose_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PoseError, match="file"):
        write_coco(tmp_path / "file" / "set", 1, 0, SMALL)
