"""CrowdPose annotations: COCO's form with other joints, without areas."""

from __future__ import annotations

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

from msposenet.data.formats.crowdpose import read_crowdpose
from msposenet.data.records import Tally
from msposenet.errors import DataError, PoseError
from msposenet.skeletons import AIC_14, COCO_17, CROWDPOSE_14

RELEASED = [*CROWDPOSE_14.joints[:12], "head", "neck"]


def person(identity: int, image: int = 100, **changes) -> dict:
    keypoints = [value for joint in range(14) for value in (20 + joint, 30 + 2 * joint, joint % 3)]
    keypoints = [0 if keypoints[place // 3 * 3 + 2] == 0 else value for place, value in enumerate(keypoints)]
    annotation = {
        "num_keypoints": 9, "iscrowd": 0, "keypoints": keypoints, "image_id": image, "bbox": [10.5, 20, 40, 50],
        "category_id": 1, "id": identity,
    }  # fmt: skip
    return {**annotation, **changes}


def content(names: list[str] = RELEASED) -> dict:
    """Two images with two persons."""
    images = [
        {"file_name": f"{number}.jpg", "id": number, "height": 80, "width": 100, "crowdIndex": 0.33}
        for number in (100, 101)
    ]
    category = {"id": 1, "name": "person", "keypoints": names, "skeleton": [[16, 14], [14, 12]]}
    return {"categories": [category], "images": images, "annotations": [person(7), person(8, 101)]}


@pytest.fixture
def read(tmp_path):
    def read(root, skeleton=None):
        path = tmp_path / "people.json"
        path.write_bytes(root if isinstance(root, bytes) else json.dumps(root).encode())
        return read_crowdpose(path, tmp_path / "images", skeleton)

    return read


def test_columns(read, tmp_path):
    records, report = read(content())
    assert records.skeleton is CROWDPOSE_14
    assert records.annotation_ids.tolist() == [7, 8] and records.image_ids.tolist() == [100, 101]
    assert records.path(1) == str(tmp_path / "images" / "101.jpg")
    assert records.boxes[0].tolist() == [10.5, 20, 39, 49] and records.areas.tolist() == [2000, 2000]
    np.testing.assert_array_equal(records.keypoints[0].ravel(), person(7)["keypoints"])
    assert report.source == "crowdpose"
    assert report.warnings == {"no area, taken from the box (w x h)": Tally(2, ("7", "8"))}


@pytest.mark.parametrize(
    "name, images, persons",
    [
        (sample("crowdpose") / "test_crowdpose.json", 2, 4),
        (golden("evaluation/crowdpose_gt.json"), 4, 9),
    ],
)
def test_every_labelled_joint_of_real_files_is_there(name: Path, images: int, persons: int):
    raw = json.loads(name.read_bytes())
    records, report = read_crowdpose(name, sample("crowdpose") / "images")
    assert (report.images, report.instances) == (images, persons)
    names = ["head_top" if joint == "head" else joint for joint in raw["categories"][0]["keypoints"]]
    people = {annotation["id"]: annotation for annotation in raw["annotations"] if any(annotation["keypoints"][2::3])}
    assert sorted(people) == sorted(records.annotation_ids.tolist())
    labelled = 0
    for row, identity in enumerate(records.annotation_ids.tolist()):
        assert records.image_ids[records.image_index[row]] == people[identity]["image_id"]
        triples = zip(*[iter(people[identity]["keypoints"])] * 3)
        for joint, (x, y, visible) in zip(names, triples):
            place = records.keypoints[row, CROWDPOSE_14.index(joint)]
            assert place.tolist() == ([x, y, visible] if visible else [0, 0, 0])
            labelled += visible > 0
    assert labelled == (records.keypoints[..., 2] > 0).sum() > 30
    report.enforce()


def test_a_sample_by_hand():
    folder = sample("crowdpose")
    records, report = read_crowdpose(folder / "test_crowdpose.json", folder / "images")
    row = records.annotation_ids.tolist().index(123803)
    assert records.keypoints[row, CROWDPOSE_14.index("head_top")].tolist() == [256, 27, 1]
    assert records.keypoints[row, CROWDPOSE_14.index("right_elbow")].tolist() == [278, 158, 2]
    np.testing.assert_allclose(records.boxes[row], [106.01, 13.43, 272.15, 351.42])
    assert report.filtered == {"no labelled keypoint": Tally(1, ("131039",))}
    assert all(os.path.isfile(records.path(row)) for row in range(len(records)))


@pytest.mark.parametrize("head", ["head", "top_head", "head_top", "Head", "Top Head"])
def test_names_of_the_head(read, head):
    names = [*RELEASED[:12], head, "neck"]
    assert read(content(names))[0].skeleton is CROWDPOSE_14
    assert read(content(names), CROWDPOSE_14)[0].skeleton is CROWDPOSE_14


def test_images_need_no_crowd_index(read):
    root = content()
    del root["images"][0]["crowdIndex"]
    assert len(read(root)[0]) == 2


A = ("annotations", 1)


@pytest.mark.parametrize(
    "place, value, message",
    [
        (("categories", 0, "keypoints"), [*RELEASED[1::-1], *RELEASED[2:]], "are not the 14 joints of skeleton"),
        (("categories", 0, "keypoints"), list(AIC_14.joints), "are not the 14 joints of skeleton 'crowdpose14'"),
        (("images",), [], "'images' is empty"),
        (("images", 0, "file_name"), "../1.jpg", "image 100: 'file_name' '../1.jpg' leads out of the images folder"),
        (("images", 0, "width"), 0, "image 100: width x height is 0 x 80"),
        (("images", 1, "id"), 100, "image 100: a second image of this id"),
        ((*A, "id"), 7, "annotation 7: a second annotation of this id"),
        ((*A, "image_id"), 5, "annotation 8: unknown image_id 5"),
        ((*A, "category_id"), 2, "annotation 8: unknown category_id 2"),
        ((*A, "keypoints"), [0] * 51, "annotation 8: 'keypoints' has 51 numbers; 42 are wanted"),
        ((*A, "keypoints", 3), math.nan, "joint 'right_shoulder' is [nan, 32.0, 1.0]; pixels within"),
        ((*A, "keypoints", 4), 2e6, "joint 'right_shoulder' is [21.0, 2000000.0, 1.0]; pixels within"),
        ((*A, "keypoints", 5), 3, "the third number must be 0, 1 or 2"),
        ((*A, "bbox"), [1, 2, math.inf, 4], "annotation 8: 'bbox' is [1.0, 2.0, inf, 4.0]"),
        ((*A, "bbox"), None, "annotation 8: 'bbox' is an empty value None"),
        ((*A,), [], "annotation number 2 is a list []; an object is wanted"),
    ],
)
def test_refused(read, place, value, message):
    root = content()
    entry = root
    for key in place[:-1]:
        entry = entry[key]
    entry[place[-1]] = value
    with pytest.raises(DataError, match=re.escape(message)) as error:
        read(root)
    assert "people.json: " in str(error.value)


def test_another_skeleton_must_agree(read):
    with pytest.raises(DataError, match=r"its 14 joints .* are not the 17 joints of skeleton 'coco17'"):
        read(content(), COCO_17)


@pytest.mark.parametrize(
    "changes, group, reason",
    [
        ({"iscrowd": 1}, "filtered", "crowd"),
        ({"keypoints": [0] * 42}, "filtered", "no labelled keypoint"),
        ({"bbox": [1, 2, 0, 4]}, "dropped", "box without width or height"),
        ({"bbox": [101, 2, 5, 4]}, "dropped", "box outside the image"),
    ],
)
def test_left_out(read, changes, group, reason):
    root = content()
    root["annotations"][1].update(changes)
    records, report = read(root)
    assert records.annotation_ids.tolist() == [7]
    assert getattr(report, group) == {reason: Tally(1, ("8",))}


def test_only_our_errors_escape_from_damaged_annotations(read):
    data, rng, refused, longest = json.dumps(content()).encode(), np.random.default_rng(29), 0, 0.0
    for _ in range(1000):
        damaged, start = mutate(data, rng), time.perf_counter()
        try:
            records, _ = read(damaged)
            records.check()
        except PoseError:
            refused += 1
        longest = max(longest, time.perf_counter() - start)
    assert 500 < refused < 950 and longest < 2
