"""PoseTrack annotations in both forms, one file a video."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from fuzz import mutate
from shared_data import golden, sample

from msposenet.data.formats.posetrack import read_posetrack
from msposenet.data.records import Tally
from msposenet.errors import DataError, PoseError
from msposenet.skeletons import POSETRACK_15, POSETRACK_17

NAN = math.nan
NAMES_18 = ["head_bottom" if joint == "neck" else joint for joint in POSETRACK_17.joints]
NOT_LABELLED = "on a frame that is marked as not labelled"
NO_BOX = "joints on a line or outside the picture, no box around them"
FROM_JOINTS = "no box, taken from the joints, 15% larger on each side"
NO_AREA = "no area, taken from the box (w x h)"


# PoseTrack18


def person(identity: int, image: int, **changes) -> dict:
    keypoints = [value for joint in range(17) for value in (20 + joint, 30 + 2 * joint, 1)]
    keypoints[9:15] = [0] * 6  # ears
    annotation = {
        "bbox_head": [20, 30, 6, 8], "keypoints": keypoints, "track_id": 0, "image_id": image,
        "bbox": [10, 20, 40, 50], "scores": [], "category_id": 1, "id": identity,
    }  # fmt: skip
    return {**annotation, **changes}


def video18(number: int = 1) -> dict:
    """Three frames, the middle one not labelled, with two persons on the first and one on the last; no image sizes."""
    start = 10_000_000_000 + 10_000 * number
    images = [
        {
            "has_no_densepose": True, "is_labeled": frame != 1, "file_name": f"images/val/{number:06d}/{frame:06d}.jpg",
            "nframes": 3, "frame_id": start + frame, "vid_id": f"{number:06d}", "id": start + frame,
            "ignore_regions_x": [[0, 5, 5]], "ignore_regions_y": [[0, 0, 5]],
        }
        for frame in range(3)
    ]  # fmt: skip
    people = [person(100 * (start + frame) + who, start + frame) for frame, who in ((0, 0), (0, 1), (2, 0))]
    return {"images": images, "annotations": people, "categories": [category()]}


def category(**changes) -> dict:
    return {"supercategory": "person", "id": 1, "name": "person", "keypoints": NAMES_18, "skeleton": [], **changes}


# PoseTrack17


def point(joint: int, x: float, y: float, **more) -> dict:
    return {"id": [joint], "x": [x], "y": [y], **more}


def rectangle(*points: dict) -> dict:
    head = {"x1": [20], "y1": [30], "x2": [26], "y2": [38]}
    return {**head, "track_id": [0], "annopoints": [{"point": list(points)}]}


def video17(number: int = 1) -> dict:
    """Three frames as in video18, with two persons on the first and one on the last."""
    people = [
        rectangle(*(point(joint, 20.5 + joint, 30 + 2 * joint, is_visible=[1]) for joint in range(15))),
        rectangle(point(14, 5, 6), point(12, 7, 26, is_visible=[0])),
        rectangle(point(0, 50, 90), point(5, 70, 80)),
    ]
    names = [f"images/val/{number:06d}/{frame:06d}.jpg" for frame in range(3)]
    frames = [
        {"image": [{"name": name}], "imgnum": [1], "is_labeled": [label], "annorect": persons}
        for name, label, persons in zip(names, (1, 0, 1), (people[:2], [], people[2:]))
    ]
    return {"annolist": frames}


@pytest.fixture
def read(tmp_path):
    """Reads one file, or several by name as a folder."""

    def read(content, skeleton=None, images="set"):
        if isinstance(content, dict) and any("." in name for name in content):
            path = tmp_path / "videos"
            path.mkdir(exist_ok=True)
            for name, root in content.items():
                (path / name).write_text(root if isinstance(root, str) else json.dumps(root))
        else:
            path = tmp_path / "video.json"
            path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return read_posetrack(path, tmp_path / images, skeleton)

    return read


# Real files


@pytest.mark.parametrize(
    "annotations, root",
    [
        ("posetrack18/annotations/val", "posetrack18"),
        ("posetrack18/annotations/val", "posetrack18/images"),
        ("posetrack18/annotations/test_posetrack18_val.json", "posetrack18"),
        ("posetrack18/annotations/test_posetrack18_val.json", "posetrack18/images"),
    ],
)
def test_every_labelled_joint_of_the_18_sample_is_there(annotations, root):
    path = sample(annotations)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    raw = [json.loads(file.read_bytes()) for file in files]
    records, report = read_posetrack(path, sample(root))
    assert records.skeleton is POSETRACK_17
    assert (report.images, report.instances, report.source) == (3, 14, "posetrack")
    assert all(os.path.isfile(records.path(row)) for row in range(14))
    people = {entry["id"]: entry for content in raw for entry in content["annotations"]}
    images = {entry["id"]: entry for content in raw for entry in content["images"]}
    assert sorted(people) == sorted(records.annotation_ids.tolist())
    labelled = 0
    for row, identity in enumerate(records.annotation_ids.tolist()):
        image = images[records.image_ids[records.image_index[row]]]
        assert image["id"] == people[identity]["image_id"] and records.path(row).endswith(image["file_name"])
        assert records.image_sizes[records.image_index[row]].tolist() == [1920, 1080]
        for joint, (x, y, visible) in zip(NAMES_18, zip(*[iter(people[identity]["keypoints"])] * 3)):
            place = records.keypoints[row, POSETRACK_17.index("neck" if joint == "head_bottom" else joint)]
            np.testing.assert_array_equal(place, np.float32([x, y, 2] if visible else [0, 0, 0]))
            labelled += visible
    assert labelled == (records.keypoints[..., 2] > 0).sum() == 182
    report.enforce()


def test_an_18_sample_by_hand():
    records, _ = read_posetrack(sample("posetrack18/annotations/val"), sample("posetrack18"))
    assert records.annotation_ids[0] == 1003418000000 and records.image_ids[0] == 10034180000
    assert records.keypoints[0, POSETRACK_17.index("nose")].tolist() == [621, 471, 2]
    assert records.keypoints[0, POSETRACK_17.index("left_ankle")].tolist() == [0, 0, 0]
    assert records.keypoints[0, POSETRACK_17.index("left_knee")].tolist() == [0, 0, 0]
    assert records.keypoints[0, POSETRACK_17.index("right_knee")].tolist() == [1416, 429, 2]
    np.testing.assert_allclose(records.keypoints[0, POSETRACK_17.index("neck")], [542.2835693, 599.2855835, 2])
    assert records.boxes[0].tolist() == [214.25, 15, 1357.5, 1064]


@pytest.mark.parametrize("name, frames, persons", [("", 18, 64), ("seq0.json", 9, 30), ("seq1.json", 9, 34)])
def test_every_point_of_the_17_golden_videos_is_there(name, frames, persons):
    path = golden("evaluation/posetrack/synthetic_gt") / name
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    raw = [frame for file in files for frame in json.loads(file.read_bytes())["annolist"]]
    records, report = read_posetrack(path, Path("root"))
    assert records.skeleton is POSETRACK_15
    assert (report.images, report.instances) == (frames, persons)
    assert records.image_ids.tolist() == list(range(1, frames + 1))
    assert records.annotation_ids.tolist() == list(range(1, persons + 1))
    assert not records.image_sizes.any()
    people = [(frame["image"][0]["name"], rect) for frame in raw for rect in frame["annorect"]]
    points = 0
    for row, (image, rect) in enumerate(people):
        assert records.path(row) == os.path.join("root", image)
        found = {p["id"][0]: (p["x"][0], p["y"][0]) for p in rect["annopoints"][0]["point"]}
        for joint in range(15):
            expected = (*found[joint], 2) if joint in found else (0, 0, 0)
            np.testing.assert_array_equal(records.keypoints[row, joint], np.float32(expected))
        low, high = np.min(list(found.values()), axis=0), np.max(list(found.values()), axis=0)
        margin = 0.15 * (high - low)
        np.testing.assert_allclose(records.boxes[row], [*(low - margin), *(1.3 * (high - low))], rtol=1e-6)
        points += len(found)
    assert points == (records.keypoints[..., 2] > 0).sum() > 300
    np.testing.assert_allclose(records.areas, records.boxes[:, 2:].prod(axis=1), rtol=1e-6)


def test_both_forms_of_a_set_agree(read):
    """What the 17 form says of its joints is where the 18 form has the joints of these names."""
    root = {"annolist": [{"image": [{"name": "images/a.jpg"}], "annorect": []}]}
    root["annolist"][0]["annorect"] = [rectangle(*(point(joint, 5 * joint + 1, 90 - joint) for joint in range(15)))]
    older, _ = read(root)
    keypoints = np.zeros((17, 3))
    for joint, name in enumerate(POSETRACK_15.joints):
        keypoints[POSETRACK_17.index(name)] = 5 * joint + 1, 90 - joint, 1
    newer, _ = read(
        {
            "images": [{"id": 1, "file_name": "images/a.jpg"}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "keypoints": keypoints.ravel().tolist()}],
            "categories": [category()],
        }
    )
    for joint in POSETRACK_15.joints:
        np.testing.assert_array_equal(
            older.keypoints[0, POSETRACK_15.index(joint)], newer.keypoints[0, POSETRACK_17.index(joint)]
        )
    np.testing.assert_allclose(older.boxes, newer.boxes)
    assert older.path(0) == newer.path(0)


# Columns


def test_columns_of_18(read, tmp_path):
    records, report = read({"b.json": video18(2), "a.json": video18(1), "._a.json": "no JSON", "note.txt": "nor this"})
    assert records.image_ids.tolist() == [10000010000, 10000010002, 10000020000, 10000020002]
    assert records.annotation_ids.tolist() == [
        1000001000000, 1000001000001, 1000001000200, 1000002000000, 1000002000001, 1000002000200,
    ]  # fmt: skip
    assert records.image_index.tolist() == [0, 0, 1, 2, 2, 3]
    assert records.path(5) == str(tmp_path / "set/images/val/000002/000002.jpg")
    assert not records.image_sizes.any()
    assert records.boxes.tolist() == [[10, 20, 40, 50]] * 6  # of unknown size: not clipped
    assert records.areas.tolist() == [2000] * 6
    assert records.keypoints[5, 16].tolist() == [36, 62, 2]
    assert set(records.keypoints[..., 2].ravel().tolist()) == {0, 2}
    assert report.lines() == [
        f"posetrack {tmp_path / 'videos'}: 4 images, 6 instances",
        "  left out: frame without labels: 2 (10000010001, 10000020001)",
        f"  note: {NO_AREA}: 6 (1000001000000, 1000001000001, 1000001000200, 1000002000000, 1000002000001, ...)",
    ]
    assert report.file == str(tmp_path / "videos")


def test_columns_of_17(read, tmp_path):
    records, report = read({"b.json": video17(2), "a.json": video17(1)})
    assert records.image_ids.tolist() == [1, 3, 4, 6]  # frames 2 and 5 are not labelled
    assert records.annotation_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert records.image_index.tolist() == [0, 0, 1, 2, 2, 3]
    assert records.path(3) == str(tmp_path / "set/images/val/000002/000000.jpg")
    assert records.keypoints[0, 3].tolist() == [23.5, 36, 2]
    assert records.keypoints[1, POSETRACK_15.index("neck")].tolist() == [7, 26, 1]  # not visible
    assert records.keypoints[1, POSETRACK_15.index("head_top")].tolist() == [5, 6, 2]  # not said
    assert (records.keypoints[1, :, 2] > 0).sum() == 2
    np.testing.assert_allclose(records.boxes[1], [5 - 0.3, 6 - 3, 2.6, 26])
    np.testing.assert_allclose(records.boxes[2], [47, 78.5, 26, 13])
    np.testing.assert_allclose(records.areas[2], 26 * 13)
    assert report.filtered == {"frame without labels": Tally(2, ("2", "5"))}
    assert set(report.warnings) == {FROM_JOINTS, NO_AREA}
    assert report.images == 4 and report.instances == 6


@pytest.mark.parametrize("content", [video18(), video17()])
@pytest.mark.parametrize(
    "images, folders, expected",
    [
        ("set", (), "set/images/val"),
        ("set", ("set/images",), "set/images/val"),
        ("set/images", (), "set/images/val"),
        ("set/images", ("set/images",), "set/images/val"),
        ("images", ("images/images",), "images/images/val"),  # a root called so
        ("set/frames", (), "set/frames/images/val"),
    ],
)
def test_root_and_folder_of_images(read, tmp_path, content, images, folders, expected):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    assert read(content, images=images)[0].path(0) == str(tmp_path / expected / "000001/000000.jpg")


def test_names_without_the_prefix_are_left_alone(read, tmp_path):
    root = video18()
    root["images"][0]["file_name"] = "val/1.jpg"
    assert read(root, images="images")[0].path(0) == str(tmp_path / "images/val/1.jpg")


def test_known_sizes_clip_boxes_of_18(read):
    root = video18()
    root["images"][0].update(width=45, height=60)
    del root["annotations"][1]["bbox"]
    records, report = read(root)
    assert records.image_sizes.tolist() == [[45, 60], [0, 0]]
    assert records.boxes[0].tolist() == [10, 20, 34, 39]
    low, high = np.array([20 - 0.15 * 16, 30 - 0.15 * 32]), np.array([36 + 0.15 * 16, 59])
    np.testing.assert_allclose(records.boxes[1], [*low, *(high - low)])  # cut once, not clipped again
    np.testing.assert_allclose(records.areas[1], (high - low).prod())
    assert records.boxes[2].tolist() == [10, 20, 40, 50]
    assert report.warnings["box reaches outside the image, clipped"].count == 1


@pytest.mark.parametrize("box", [..., [], [0, 0, 0, 0], [5, 5, 3, 0], [5, 5, -4, 8]])
def test_no_usable_box_in_18_is_taken_from_the_joints(read, box):
    root = video18()
    if box is ...:
        del root["annotations"][1]["bbox"]
    else:
        root["annotations"][1]["bbox"] = box
    records, report = read(root)
    np.testing.assert_allclose(records.boxes[1], [20 - 0.15 * 16, 30 - 0.15 * 32, 1.3 * 16, 1.3 * 32])
    np.testing.assert_allclose(records.areas[1], 1.3 * 16 * 1.3 * 32)
    assert report.warnings[FROM_JOINTS] == Tally(1, ("1000001000001",))
    assert not report.dropped


@pytest.mark.parametrize("flag, images", [(True, 2), (1, 2), (..., 2), (False, 1), (0, 1)])
def test_flags_of_18(read, flag, images):
    root = video18()
    if flag is ...:
        del root["images"][0]["is_labeled"]
    else:
        root["images"][0]["is_labeled"] = flag
    records, report = read(root)
    assert report.images == len(records.image_ids) == images
    assert (report.filtered.get(NOT_LABELLED) == Tally(2, ("1000001000000", "1000001000001"))) == (images == 1)
    assert records.image_ids[records.image_index[-1]] == 10000010002


def frame17(**changes) -> dict:
    """video17 with other entries in the first frame; those that are ... are taken out."""
    root = video17()
    frame = {**root["annolist"][0], **changes}
    root["annolist"][0] = {key: value for key, value in frame.items() if value is not ...}
    return root


@pytest.mark.parametrize(
    "changes, images, persons",
    [
        ({}, 2, 3),
        ({"is_labeled": ...}, 2, 3),
        ({"is_labeled": [True]}, 2, 3),
        ({"is_labeled": [0]}, 1, 1),
        ({"annorect": []}, 2, 1),  # labelled, nobody there
        ({"annorect": [], "is_labeled": ...}, 1, 1),
        ({"annorect": ...}, 1, 1),
        ({"annorect": ..., "is_labeled": ...}, 1, 1),
    ],
)
def test_flags_of_17(read, changes, images, persons):
    records, report = read(frame17(**changes))
    assert (report.images, report.instances) == (images, persons)
    assert len(records.image_ids) == images and records.image_ids[-1] == 3
    assert records.path(len(records) - 1).endswith("000002.jpg")
    assert (NOT_LABELLED in report.filtered) == (changes == {"is_labeled": [0]})
    # The number of a person is its place in the file.
    assert records.annotation_ids[-1] == (1 if "annorect" in changes else 3)


@pytest.mark.parametrize(
    "rect, reason",
    [
        ({"x1": [1]}, "no labelled keypoint"),
        ({"annopoints": []}, "no labelled keypoint"),
        ({"annopoints": [{}]}, "no labelled keypoint"),
        (rectangle(), "no labelled keypoint"),
        (rectangle(point(3, 0, 0, is_visible=[0]), point(4, 0, 0, is_visible=[0])), "no labelled keypoint"),
        (rectangle(point(3, 40, 50)), NO_BOX),
        (rectangle(point(3, 40, 50), point(5, 40, 70)), NO_BOX),
    ],
)
def test_persons_of_17_left_out(read, rect, reason):
    root = video17()
    root["annolist"][0]["annorect"].insert(0, rect)
    records, report = read(root)
    assert records.annotation_ids.tolist() == [2, 3, 4]
    assert report.filtered[reason] == Tally(1, ("1",))
    assert not report.dropped


def test_the_first_of_two_points_counts(read):
    root = video17()
    root["annolist"][0]["annorect"][1]["annopoints"][0]["point"].append(point(14, 77, 78))
    records, report = read(root)
    assert records.keypoints[1, 14].tolist() == [5, 6, 2]
    assert report.warnings["a joint given twice, the first taken"] == Tally(1, ("2",))


@pytest.mark.parametrize(
    "changes, group, reason",
    [
        ({"iscrowd": 1}, "filtered", "crowd"),
        ({"keypoints": [0] * 51}, "filtered", "no labelled keypoint"),
        ({"keypoints": [0] * 51, "bbox": []}, "filtered", "no labelled keypoint"),
        ({"keypoints": [9, 9, 1] + [0] * 48, "bbox": []}, "filtered", NO_BOX),
        ({"bbox": [1e9, 1, 5, 5]}, "dropped", "box beyond 1,000,000 px"),
        ({"bbox": [1, 1, 5, 1e300]}, "dropped", "box beyond 1,000,000 px"),
        ({"area": 0}, "dropped", "area of 0 or less"),
    ],
)
def test_persons_of_18_left_out(read, changes, group, reason):
    root = video18()
    root["annotations"][1].update(changes)
    records, report = read(root)
    assert records.annotation_ids.tolist() == [1000001000000, 1000001000200]
    found = {**report.filtered, **report.dropped}
    found.pop("frame without labels")
    assert found == {reason: Tally(1, ("1000001000001",))} and reason in getattr(report, group)


def test_videos_of_18_may_lack_joint_names_and_people(read):
    first, second = video18(1), video18(2)
    del first["categories"][0]["keypoints"]
    second["annotations"] = []
    records, report = read({"a.json": first, "b.json": second})
    assert records.skeleton is POSETRACK_17 and len(records) == 3 and report.images == 4
    assert "the file names no joints, taken in this order" in report.warnings


def test_joints_of_the_users_own_in_the_18_form(read):
    root = video18()
    root["categories"][0]["keypoints"] = ["left_paw", "right_paw", *(f"dot {number}" for number in range(15))]
    records, report = read(root)
    assert records.skeleton.flip_pairs == (("left_paw", "right_paw"),)
    assert report.warnings["no official OKS sigma, 0.05 assumed"].count == 17


# Bad input


def put(root: dict, *path_and_value) -> dict:
    """`root` with the entry at a path of keys replaced (deleted where the value is ...)."""
    *path, last, value = path_and_value
    root = copy.deepcopy(root)
    place = root
    for key in path:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return root


A = ("annotations", 1)


@pytest.mark.parametrize(
    "path_and_value, message",
    [
        (("images", ...), "no 'images'"),
        (("images", []), "'images' is empty"),
        (("annotations", ...), "no 'annotations'; found 'images', 'categories'"),
        (("categories", []), "0 categories"),
        (("images", 0, "id", "7"), "image number 1: 'id' is the text '7'"),
        (("images", 2, "id", 10000010000), "image 10000010000: a second image of this id"),
        (("images", 0, "file_name", ...), "image 10000010000: no 'file_name'"),
        (("images", 0, "file_name", "images/../../a.jpg"), "leads out of the images folder"),
        (("images", 0, "file_name", "/a.jpg"), "leads out of the images folder"),
        (("images", 0, "is_labeled", "yes"), "image 10000010000: 'is_labeled' is 'yes'; true or false is wanted"),
        (("images", 0, "is_labeled", 2), "image 10000010000: 'is_labeled' is 2; true or false is wanted"),
        (("images", 0, "is_labeled", [1]), "'is_labeled' is [1]"),
        (("images", 0, "width", 100), "image 10000010000: no 'height'"),
        (("images", 0, "height", NAN), "no 'width'"),
        ((*A, "id", 1000001000000), "annotation 1000001000000: a second annotation of this id"),
        ((*A, "id", ...), "annotation number 2: no 'id'"),
        ((*A, "image_id", 5), "annotation 1000001000001: unknown image_id 5"),
        ((*A, "category_id", 2), "annotation 1000001000001: unknown category_id 2"),
        ((*A, "keypoints", [1] * 50), "annotation 1000001000001: 'keypoints' has 50 numbers; 51 are wanted"),
        ((*A, "keypoints", []), "'keypoints' has 0 numbers; 51 are wanted"),
        ((*A, "keypoints", 3, NAN), "joint 'neck' is [nan, 32.0, 1.0]; pixels within 1,000,000 are wanted"),
        ((*A, "keypoints", 4, 1e7), "joint 'neck' is [21.0, 10000000.0, 1.0]; pixels within"),
        ((*A, "keypoints", 5, 3), "the third number must be 0, 1 or 2"),
        ((*A, "keypoints", 5, "1"), "'keypoints' holds the text '1'; numbers are wanted"),
        ((*A, "bbox", [1, 2, 3]), "annotation 1000001000001: 'bbox' has 3 numbers; 4 are wanted"),
        ((*A, "bbox", None), "'bbox' is an empty value None; a list is wanted"),
        ((*A, "bbox", [1, 2, NAN, 4]), "'bbox' is [1.0, 2.0, nan, 4.0]"),
        ((*A, "area", NAN), "'area' is nan"),
        ((*A, "iscrowd", "no"), "'iscrowd' is 'no'; 0 or 1 is wanted"),
        (("annotations", []), "no person with labelled keypoints to use"),
        (("annotations", 0, 7), "annotation number 1 is the number 7; an object is wanted"),
    ],
)
def test_refused_in_18(read, path_and_value, message):
    with pytest.raises(DataError, match=re.escape(message)) as error:
        read(put(video18(), *path_and_value))
    assert "video.json: " in str(error.value)


F = ("annolist", 0)
P = (*F, "annorect", 1, "annopoints", 0, "point", 1)
WHO = "person 2 on 'images/val/000001/000000.jpg'"


@pytest.mark.parametrize(
    "path_and_value, message",
    [
        (("annolist", {}), "'annolist' is an object; a list is wanted"),
        (("annolist", []), "'annolist' is empty"),
        ((*F, 3), "frame number 1 is the number 3; an object is wanted"),
        ((*F, "image", ...), "frame number 1: no 'image'"),
        ((*F, "image", []), "frame number 1: 'image' is []; a list of one is wanted"),
        ((*F, "image", [{}]), "frame number 1: no 'name'"),
        ((*F, "image", ["a.jpg"]), "frame number 1 is the text 'a.jpg'; an object is wanted"),
        ((*F, "image", 0, "name", 7), "frame number 1: 'name' is the number 7; a text is wanted"),
        ((*F, "image", 0, "name", "../a.jpg"), "frame number 1: 'name' '../a.jpg' leads out of the images folder"),
        ((*F, "image", 0, "name", "images//etc/a.jpg"), None),
        ((*F, "image", 0, "name", "images/val/000001/000002.jpg"), "frames whose picture another frame has"),
        ((*F, "is_labeled", 1), "frame number 1: 'is_labeled' is 1; a list of one is wanted"),
        ((*F, "is_labeled", [2]), "frame number 1: 'is_labeled' is 2; 0 or 1 is wanted"),
        ((*F, "is_labeled", ["1"]), "frame number 1: 'is_labeled' is '1'; 0 or 1 is wanted"),
        ((*F, "annorect", {}), "frame number 1: 'annorect' is {}; a list is wanted"),
        ((*F, "annorect", 1, []), f"{WHO} is a list []; an object is wanted"),
        ((*F, "annorect", 1, "annopoints", {}), f"{WHO}: 'annopoints' is {{}}; a list of one object"),
        ((*F, "annorect", 1, "annopoints", [1]), f"{WHO}: 'annopoints' is [1]; a list of one object"),
        ((*F, "annorect", 1, "annopoints", [{}, {}]), f"{WHO}: 'annopoints' is [{{}}, {{}}]; a list of one object"),
        ((*F, "annorect", 1, "annopoints", 0, "point", {}), f"{WHO}: 'point' is {{}}; a list is wanted"),
        ((*P, None), f"{WHO}, point 2 is an empty value None; an object is wanted"),
        ((*P, "id", ...), f"{WHO}, point 2: no 'id'"),
        ((*P, "id", 12), f"{WHO}, point 2: 'id' is the number 12; a list is wanted"),
        ((*P, "id", []), f"{WHO}, point 2: 'id' has 0 numbers; 1 are wanted"),
        ((*P, "id", [15]), f"{WHO}, point 2: 'id' is 15; 0 to 14 are wanted"),
        ((*P, "id", [-1]), f"{WHO}, point 2: 'id' is -1; 0 to 14 are wanted"),
        ((*P, "id", [1.5]), f"{WHO}, point 2: 'id' is 1.5; 0 to 14 are wanted"),
        ((*P, "id", [NAN]), f"{WHO}, point 2: 'id' is nan; 0 to 14 are wanted"),
        ((*P, "id", [True]), f"{WHO}, point 2: 'id' holds the truth value True; numbers are wanted"),
        ((*P, "x", ...), f"{WHO}, point 2: no 'x'"),
        ((*P, "x", [1, 2]), f"{WHO}, point 2: 'x' has 2 numbers; 1 are wanted"),
        ((*P, "x", [NAN]), f"{WHO}: joint 'neck' is at [nan, 26.0]; pixels within 1,000,000 are wanted"),
        ((*P, "y", [-2e6]), f"{WHO}: joint 'neck' is at [7.0, -2000000.0]; pixels within 1,000,000 are wanted"),
        ((*P, "y", [10**400]), f"{WHO}, point 2: 'y' holds a number of over 300 digits"),
        ((*P, "is_visible", [2]), f"{WHO}, point 2: 'is_visible' is 2; 0 or 1 is wanted"),
        ((*P, "is_visible", ["1"]), f"{WHO}, point 2: 'is_visible' holds the text '1'; numbers are wanted"),
        ((*P, "is_visible", []), None),
        ((*P, "is_visible", None), None),
    ],
)
def test_refused_in_17(read, path_and_value, message):
    root = put(video17(), *path_and_value)
    if message is None:
        assert len(read(root)[0]) == 3
        return
    with pytest.raises(DataError, match=re.escape(message)) as error:
        read(root)
    assert "video.json: " in str(error.value)


@pytest.mark.parametrize("content", [video18(), video17()])
def test_names_that_lead_out_once_the_prefix_is_gone(read, content):
    text = json.dumps(content).replace("images/val/000001/000000.jpg", "images//etc/passwd")
    with pytest.raises(DataError, match="leads out of the images folder"):
        read(text.encode(), images="images")


@pytest.mark.parametrize(
    "files, message",
    [
        ({"a.json": video18(1), "b.json": video17(2)}, "b.json: of PoseTrack17's form among files of PoseTrack18's"),
        ({"a.json": video17(1), "b.json": video18(2)}, "b.json: of PoseTrack18's form among files of PoseTrack17's"),
        (
            {"a.json": video18(1), "b.json": video18(1)},
            "b.json: image 10000010000: a second image of this id; ids must differ (the first is in ",
        ),
        (
            {"a.json": video18(1), "b.json": put(video18(2), "annotations", 0, "id", 1000001000001)},
            "b.json: annotation 1000001000001: a second annotation of this id; renumber the annotations (the first is ",
        ),
        (
            {"a.json": video18(1), "b.json": put(video18(2), "annotations", 0, "image_id", 10000010000)},
            "b.json: annotation 1000002000000: unknown image_id 10000010000",
        ),
        (
            {"a.json": video18(1), "b.json": put(video18(2), "categories", 0, "keypoints", NAMES_18[::-1])},
            "b.json: its 17 joints right_ankle, ",
        ),
        ({"a.json": video17(1), "b.json": video17(1)}, "3 frames whose picture another frame has, first "),
        ({"a.json": video17(1), "b.json": "{"}, "b.json: cut off"),
        ({"a.json": "", "b.json": video17(1)}, "a.json: empty"),
        ({"a.json": video18(1), "b.json": "[]"}, "b.json: a JSON list, not an object with images, annotations and"),
        ({"a.txt": ""}, "no .json file in this folder (found 'a.txt')"),
        ({".hidden.json": video17(1)}, "no .json file in this folder (found '.hidden.json')"),
    ],
)
def test_folders_that_are_refused(read, files, message):
    with pytest.raises(DataError, match=re.escape(message)):
        read(files)


def test_numbers_go_on_from_file_to_file(read):
    """Also in what errors call a person."""
    second = put(video17(2), *P, "id", [99])
    with pytest.raises(DataError, match=re.escape("b.json: person 5 on 'images/val/000002/000000.jpg', point 2: 'id'")):
        read({"a.json": video17(1), "b.json": second})


@pytest.mark.parametrize("data, message", [(b"", "empty"), (b"[]", "a JSON list"), (b"{}", "no 'categories'")])
def test_files_that_are_no_annotations(read, data, message):
    with pytest.raises(DataError, match=message):
        read(data)


def test_missing_file_and_empty_folder(tmp_path):
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'absent.json'}: missing file")):
        read_posetrack(tmp_path / "absent.json", tmp_path)
    with pytest.raises(DataError, match=r"no \.json file in this folder \(found nothing\)"):
        read_posetrack(tmp_path, tmp_path)


@pytest.mark.parametrize("content, skeleton", [(video17(), POSETRACK_17), (video18(), POSETRACK_15)])
def test_given_skeleton_must_agree(read, content, skeleton):
    with pytest.raises(DataError, match=f"joints of skeleton '{skeleton.name}'"):
        read(content, skeleton)
    own = POSETRACK_15 if skeleton is POSETRACK_17 else POSETRACK_17
    assert read(content, own)[0].skeleton is own


@pytest.mark.parametrize("content, seed", [(video18(), 31), (video17(), 37)])
def test_only_our_errors_escape_from_damaged_videos(read, content, seed):
    data, rng, refused, longest = json.dumps(content).encode(), np.random.default_rng(seed), 0, 0.0
    for _ in range(1000):
        damaged, start = mutate(data, rng), time.perf_counter()
        try:
            records, _ = read(damaged)
            records.check()
        except PoseError:
            refused += 1
        longest = max(longest, time.perf_counter() - start)
    assert 400 < refused < 950 and longest < 2
