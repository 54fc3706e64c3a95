"""The figures of `check-data`: joints, sizes, and whether left and right are seen to be exchanged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from damaged_set import config_file, copy_set, source
from shared_data import sample

from msposenet.config import load_config
from msposenet.data.doctor import diagnose, read_sets
from msposenet.data.doctor_statistics import (
    Histogram,
    duplicate_persons,
    joints_outside,
    labelled_joints,
    person_sizes,
    side_checks,
)
from msposenet.data.records import Records
from msposenet.progress import Reporter
from msposenet.skeletons import COCO_17, UNION_21, Skeleton


def checked(folder: Path, entry: dict, **data):
    path = config_file(folder, [entry])
    config = load_config(path, [f"data.{key}={value}" for key, value in data.items()])
    return diagnose(config, 1, Reporter(quiet=True)).sets[0]


def suspicious(result) -> set[tuple[str, str]]:
    return {(check.kind, check.what) for check in result.sides if check.suspicious}


def swapped(*parts: str) -> dict[str, str]:
    """A mapping that takes the left joint from the right one and back; it mirrors well, so nothing refuses it."""
    return {f"{a}_{part}": f"{b}_{part}" for part in parts for a, b in (("left", "right"), ("right", "left"))}


def coco(split: str) -> dict:
    folder = sample("coco")
    annotations = folder / "annotations" / f"person_keypoints_{split}2017.json"
    return {"annotations": str(annotations), "images": str(folder / "images" / f"{split}2017")}


SOUND = {
    "coco train": lambda: coco("train"),
    "coco val": lambda: coco("val"),
    "coco sample": lambda: {
        "annotations": str(sample("coco_sample/test_coco.json")),
        "images": str(sample("coco_sample/images")),
    },
    "mpii": lambda: {
        "format": "mpii",
        "annotations": str(sample("mpii/valid.json")),
        "images": str(sample("mpii/images")),
    },
    "aic": lambda: {
        "format": "aic",
        "annotations": str(sample("aic/keypoint_annotations_native.json")),
        "images": str(sample("aic/images")),
    },
    "crowdpose": lambda: {
        "format": "crowdpose",
        "annotations": str(sample("crowdpose/test_crowdpose.json")),
        "images": str(sample("crowdpose/images")),
    },
    "posetrack": lambda: {
        "format": "posetrack",
        "annotations": str(sample("posetrack18/annotations/test_posetrack18_val.json")),
        "images": str(sample("posetrack18")),
    },
    "lsp": lambda: {
        "format": "lsp",
        "annotations": str(sample("lsp_extended/joints.mat")),
        "images": str(sample("lsp_extended/images")),
        "boxes": "joints",
        "pictures": [1, 300],
    },
}


@pytest.mark.parametrize("entry", SOUND.values(), ids=SOUND)
def test_real_sets_are_sound(entry, tmp_path):
    result = checked(tmp_path, entry())
    assert result.damage == () and suspicious(result) == set()
    assert result.figures["persons"] > 0


def test_drawn_people_are_sound(tmp_path):
    assert suspicious(checked(tmp_path, source(copy_set(tmp_path / "set")))) == set()


def test_swapped_shoulders_are_seen(tmp_path):
    result = checked(tmp_path, {**coco("train"), "joints": swapped("shoulder")})
    found = suspicious(result)
    assert ("crossed", "shoulders and hips") in found and ("reversed", "shoulders") in found
    assert all("shoulders" in what for _, what in found)
    [sentence] = [line for line in result.warnings if line.startswith("left and right: shoulders and hips")]
    assert "100% of 34 persons" in sentence and "wrong way round" in sentence


def test_all_sides_swapped_is_seen_by_the_faces(tmp_path):
    parts = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    found = suspicious(checked(tmp_path, {**coco("train"), "joints": swapped(*parts)}))
    assert {("reversed", "eyes"), ("reversed", "shoulders"), ("reversed", "hips")} <= found
    assert not any(kind == "crossed" for kind, _ in found), "all of it agrees with itself"


def test_all_sides_swapped_is_seen_without_faces(tmp_path):
    parts = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    path = config_file(tmp_path, [{**SOUND["mpii"](), "joints": swapped(*parts)}])
    _, [read] = read_sets(load_config(path), lambda line: None)
    assert [(check.kind, check.what) for check in side_checks(read.records) if check.suspicious] == [
        ("facing", "shoulders")
    ]


def records_of(keypoints: np.ndarray, skeleton: Skeleton = COCO_17, boxes=None) -> Records:
    """Persons on one picture of 100 x 80 px."""
    count = len(keypoints)
    return Records(
        skeleton=skeleton,
        image_paths=np.array([b"a.jpg"]),
        image_ids=np.array([1]),
        image_sizes=np.array([[100, 80]], np.int32),
        image_index=np.zeros(count, np.int32),
        annotation_ids=np.arange(1, count + 1),
        boxes=np.tile([0.0, 0.0, 50.0, 70.0], (count, 1)) if boxes is None else np.array(boxes, float),
        keypoints=np.asarray(keypoints, np.float32),
        areas=np.ones(count, np.float32),
        box_scores=np.ones(count, np.float32),
    )


BIRD = Skeleton(
    "bird",
    ("beak", "wing_1", "wing_2", "foot_1", "foot_2"),
    (("wing_1", "wing_2"), ("foot_1", "foot_2")),
    (0.1,) * 5,
    (("wing_1", "foot_1"), ("wing_2", "foot_2")),
)


def birds(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    base = np.array([[25, 5, 2], [10, 30, 2], [40, 30, 2], [18, 65, 2], [32, 65, 2]], float)
    keypoints = np.tile(base, (count, 1, 1))
    keypoints[..., :2] += rng.normal(0, 2, (count, 5, 2))
    return keypoints


def test_wrong_flip_pairs_of_an_own_skeleton_are_seen():
    assert not any(check.suspicious for check in side_checks(records_of(birds(60), BIRD)))
    wrong = replace(BIRD, flip_pairs=(("wing_1", "foot_2"), ("foot_1", "wing_2")), limbs=())
    found = [check for check in side_checks(records_of(birds(60), wrong)) if check.suspicious]
    assert [(check.kind, check.what) for check in found] == [("height", "wing_1/foot_2"), ("height", "foot_1/wing_2")]
    assert found[0].share == pytest.approx(-35 / 70, abs=0.02) and found[1].share == pytest.approx(35 / 70, abs=0.02)


def test_crossed_pairs_of_an_own_skeleton():
    keypoints = birds(60)
    keypoints[:45, 3:] = keypoints[:45, [4, 3]]
    [crossed] = [check for check in side_checks(records_of(keypoints, BIRD)) if check.kind == "crossed"]
    assert crossed.suspicious and crossed.share == 0.75 and crossed.persons == 60
    few = side_checks(records_of(keypoints[:19], BIRD))
    assert few[0].share == 1 and not any(check.suspicious for check in few), "nineteen persons give no verdict"


def test_joints_outside_the_picture():
    keypoints = np.zeros((1, 17, 3))
    keypoints[0, :6] = [[-0.4, 0, 2], [-0.6, 0, 2], [99.4, 79.4, 1], [99.6, 10, 1], [10, 80, 2], [1e5, 0, 0]]
    records = records_of(keypoints)
    outside = joints_outside(records, records.image_sizes)
    assert np.flatnonzero(outside[0]).tolist() == [1, 3, 4]
    assert not joints_outside(records, np.zeros((1, 2), np.int32)).any(), "size not known"


def test_sizes_and_counts():
    keypoints = np.zeros((3, 17, 3))
    keypoints[0, 0], keypoints[1, :17] = (1, 1, 2), (2, 2, 1)
    records = records_of(keypoints, boxes=[[0, 0, 15, 3], [0, 0, 10, 16], [0, 0, 2000, 5]])
    sizes, percentiles = person_sizes(records)
    assert sizes.counts[:2] == (1, 1) and sizes.counts[-1] == 1 and sum(sizes.counts) == 3
    assert percentiles[50] == 16
    assert [labelled_joints(records).counts[count] for count in (0, 1, 17)] == [1, 1, 1]
    assert Histogram.of(np.array([0, 1, 1, 9]), (0, 1, 5)).counts == (1, 2, 1)


def test_duplicates_agree_in_box_and_joints():
    keypoints = birds(4)
    keypoints[2] = keypoints[0]
    keypoints[3] = keypoints[1]
    boxes = [[0, 0, 50, 70], [0, 0, 50, 70], [0, 0, 50, 70], [0, 0, 50, 71]]
    assert duplicate_persons(records_of(keypoints, BIRD, boxes)) == [(1, 3)]


def test_counts_of_joints(tmp_path):
    entry = {**SOUND["aic"](), "joints": {"pelvis": ["left_hip", "right_hip"]}, "joint_weights": {"pelvis": 0.5}}
    result = checked(tmp_path, entry, skeleton="union21")
    joints = {joint.name: joint for joint in result.joints}
    neck = result.set.records.keypoints[:, UNION_21.index("neck"), 2]
    assert (joints["neck"].visible, joints["neck"].hidden) == ((neck == 2).sum(), (neck == 1).sum())
    assert joints["neck"].taken_from == ("neck",) and joints["pelvis"].taken_from == ("left_hip", "right_hip")
    assert joints["pelvis"].weight == 0.5 and joints["pelvis"].labelled > 0
    assert joints["nose"].taken_from == () and joints["nose"].labelled == 0
    assert sum(result.figures["labelled_joints"]) == result.figures["persons"] == 9
    total = sum(count * people for count, people in enumerate(result.figures["labelled_joints"]))
    assert total == sum(joint.labelled for joint in result.joints)
