"""AI Challenger's own form: the people of the COCO form of the same pictures, and errors for what is damaged."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import time

import numpy as np
import pytest
from fuzz import mutate
from shared_data import sample

from msposenet.data.formats import aic
from msposenet.data.formats.aic import read_aic
from msposenet.data.formats.coco import read_coco
from msposenet.data.records import Tally
from msposenet.errors import DataError, PoseError
from msposenet.skeletons import AIC_14, COCO_17

NAN, INF = math.nan, math.inf
NO_AREA = "no area, taken from the box (w x h)"


def joints(**changes) -> list:
    """Fourteen joints with the flags 1, 2, 1, ...; `j3=(x, y, v)` gives the one of index 3."""
    entries = [[20 + joint, 30 + 2 * joint, 1 + joint % 2] for joint in range(14)]
    for name, entry in changes.items():
        entries[int(name[1:])] = list(entry)
    return [value for entry in entries for value in entry]


def picture(identity: str = "aa", humans: int = 1, **changes) -> dict:
    names = [f"human{number + 1}" for number in range(humans)]
    entry = {
        "url": "",
        "image_id": identity,
        "human_annotations": {name: [10, 20, 50, 70 + place] for place, name in enumerate(names)},
        "keypoint_annotations": {name: joints() for name in names},
    }
    return {**entry, **changes}


def content() -> list:
    return [picture("aa", 2), picture("bb"), picture("cc")]


@pytest.fixture
def read(tmp_path):
    def read(root, skeleton=None):
        path = tmp_path / "people.json"
        path.write_bytes(root if isinstance(root, bytes) else json.dumps(root).encode())
        return read_aic(path, tmp_path / "images", skeleton)

    return read


# Sound files


def test_sample_is_read_exactly():
    folder = sample("aic")
    records, report = read_aic(folder / "keypoint_annotations_native.json", folder / "images")
    raw = json.loads((folder / "keypoint_annotations_native.json").read_text())
    assert records.skeleton is AIC_14 and len(records) == report.instances == 9 and report.images == 3
    assert not report.filtered and not report.dropped and set(report.warnings) == {NO_AREA}
    row = 0
    for number, entry in enumerate(raw, start=1):
        for human, (x1, y1, x2, y2) in entry["human_annotations"].items():
            assert records.image_ids[records.image_index[row]] == number
            assert os.path.isfile(records.path(row)) and entry["image_id"] in records.path(row)
            assert records.boxes[row].tolist() == [x1, y1, x2 - x1, y2 - y1]
            expected = np.reshape(entry["keypoint_annotations"][human], (14, 3))
            expected[:, 2] = [{1: 2, 2: 1, 3: 0}[flag] for flag in expected[:, 2]]
            np.testing.assert_array_equal(records.keypoints[row], expected)
            row += 1
    assert records.annotation_ids.tolist() == list(range(1, 10))
    assert not records.image_sizes.any()


def test_people_are_those_of_the_coco_form():
    folder = sample("aic")
    records, _ = read_aic(folder / "keypoint_annotations_native.json", folder / "images")
    # Its joints are named in the file, so left and right are told by another hand than ours.
    expected, _ = read_coco(folder / "test_aic.json", folder / "images")
    order = [records.skeleton.index(joint) for joint in expected.skeleton.joints]
    np.testing.assert_array_equal(records.keypoints[:, order], expected.keypoints)
    np.testing.assert_array_equal(records.image_paths, expected.image_paths)
    np.testing.assert_array_equal(records.image_ids, expected.image_ids)
    np.testing.assert_array_equal(records.image_index, expected.image_index)
    # There the picture's size is known, and boxes are clipped as HRNet does: x + w - 1 is the last column. Here not.
    np.testing.assert_array_equal(records.boxes[:, :2], expected.boxes[:, :2])
    assert (records.boxes[:, 2:] - expected.boxes[:, 2:] == 1).all()
    np.testing.assert_array_equal(records.areas, expected.areas)


def test_columns(read, tmp_path):
    records, report = read(content())
    assert records.image_index.tolist() == [0, 0, 1, 2]
    assert records.image_ids.tolist() == [1, 2, 3] and records.annotation_ids.tolist() == [1, 2, 3, 4]
    assert records.path(2) == str(tmp_path / "images" / "bb.jpg")
    assert records.boxes[1].tolist() == [10, 20, 40, 51] and records.areas.tolist() == [2000, 2040, 2000, 2000]
    assert records.keypoints[0, :2].tolist() == [[20, 30, 2], [21, 32, 1]]
    assert report.lines() == [
        f"aic {tmp_path / 'people.json'}: 3 images, 4 instances",
        f"  note: {NO_AREA}: 4 (human1 of aa, human2 of aa, human1 of bb, human1 of cc)",
    ]


@pytest.mark.parametrize(
    "identity, file",
    [
        ("aa", "aa.jpg"),
        ("aa.jpg", "aa.jpg"),
        ("aa.PNG", "aa.PNG"),
        ("sub/a.b", "sub/a.b.jpg"),
        ("é", "é.jpg"),
        ("", ".jpg"),
    ],
)
def test_file_names(read, identity, file):
    records, _ = read([picture(identity)])
    assert records.path(0).endswith(os.path.join("images", file))


def test_persons_stand_in_the_order_of_the_boxes(read):
    entry = picture(humans=3)
    entry["human_annotations"] = {
        name: [0, 0, 5, 5 + place] for place, name in enumerate(("human2", "human3", "human1"))
    }
    for number in (1, 2, 3):
        entry["keypoint_annotations"][f"human{number}"] = joints(j0=(number, number, 1))
    records, _ = read([entry])
    assert records.keypoints[:, 0, 0].tolist() == [2, 3, 1] and records.boxes[:, 3].tolist() == [5, 6, 7]


@pytest.mark.parametrize("corners", [[50, 20, 10, 70], [10, 70, 50, 20], [50, 70, 10, 20]])
def test_swapped_corners_are_put_right(read, corners):
    records, report = read([picture(), picture("bb", human_annotations={"human1": corners})])
    assert records.boxes[1].tolist() == [10, 20, 40, 50]
    assert report.warnings["swapped corners, put right"] == Tally(1, ("human1 of bb",))


@pytest.mark.parametrize("entry", [(0, 0, 3), (-1, 5, 3), (NAN, INF, 3), (1e300, 0, 3)])
def test_unlabelled_joints(read, entry):
    records, report = read([picture(keypoint_annotations={"human1": joints(j6=entry)})])
    assert records.keypoints[0, 6].tolist() == [0, 0, 0]
    noted = "unlabelled joint with coordinates, set to 0" in report.warnings
    assert noted == (entry[:2] != (0, 0))


def test_picture_listed_twice_is_noted(read):
    records, report = read([picture("aa"), picture("bb"), picture("aa")])
    assert len(records) == 3 and records.image_ids.tolist() == [1, 2, 3]
    assert report.warnings["picture listed more than once"] == Tally(1, ("aa",))


@pytest.mark.parametrize(
    "changes, group, reason",
    [
        ({"keypoint_annotations": {"human1": [0, 0, 3] * 14}}, "filtered", "no labelled keypoint"),
        ({"keypoint_annotations": {}}, "dropped", "in human_annotations but not in keypoint_annotations"),
        ({"human_annotations": {}}, "dropped", "in keypoint_annotations but not in human_annotations"),
        ({"human_annotations": {"human1": [10, 20, 10, 70]}}, "dropped", "box without width or height"),
        ({"human_annotations": {"human1": [10, 20, 50, 20]}}, "dropped", "box without width or height"),
    ],
)  # fmt: skip
def test_left_out_and_skipped(read, changes, group, reason):
    records, report = read([picture("aa"), picture("bb", **changes), picture("cc")])
    assert getattr(report, group) == {reason: Tally(1, ("human1 of bb",))}
    assert records.annotation_ids.tolist() == [1, 3] and records.image_ids.tolist() == [1, 2, 3]


def test_persons_named_differently_are_two_damaged_ones(read):
    entry = picture("bb", keypoint_annotations={"human2": joints()})
    records, report = read([picture("aa"), entry, picture("cc")])
    assert report.damaged == 2 and records.annotation_ids.tolist() == [1, 4]


def test_pictures_without_people(read):
    records, _ = read([picture(humans=0), picture("bb")])
    assert len(records) == 1 and len(records.image_ids) == 2


def test_given_skeleton_must_agree(read):
    assert read(content(), AIC_14)[0].skeleton is AIC_14
    with pytest.raises(DataError, match=r"its 14 joints right_shoulder, .* are not the 17 joints of skeleton 'coco17'"):
        read(content(), COCO_17)


def test_pieces_make_the_whole(read, monkeypatch):
    """A file is decoded in pieces, but whole where msgspec does not take it."""
    root = [picture(f"{number:04d}", number % 4) for number in range(50)]
    root[7]["human_annotations"] = {"human1": [50, 20, 10, 70], "human2": [0, 0, 9, 9], "human9": [0, 0, 9, 9]}
    expected, report = read(root)
    odd = copy.deepcopy(root)
    odd[3]["url"] = NAN
    monkeypatch.setattr(aic, "CHUNK", 7)
    for other in (root, odd):
        records, found = read(other)
        assert found == report
        for name, column in vars(expected).items():
            if isinstance(column, np.ndarray):
                np.testing.assert_array_equal(getattr(records, name), column)


# Files that are refused


def broken(place: int = 1, **changes) -> list:
    root = content()
    root[place] = {key: value for key, value in {**root[place], **changes}.items() if value is not ...}
    return root


def points(**changes) -> dict:
    return {"keypoint_annotations": {"human1": joints(**changes)}}


@pytest.mark.parametrize(
    "root, message",
    [
        (b"", "empty"),
        (json.dumps(content()).encode()[:-9], "cut off"),
        (b"<html>", "not valid JSON"),
        (b"\x80[]", "not readable as JSON"),
        (b"[" * 200000, "people.json: "),
        ({"images": []}, "a JSON dict, not a list of pictures; is it in COCO's form (format: coco)?"),
        ([], "an empty list, no picture"),
        ([picture(), [1]], "picture number 2 is a list [1]; an object is wanted"),
        (broken(image_id=...), "picture number 2: no 'image_id'; found 'url', 'human_annotations'"),
        (broken(image_id=7), "picture number 2: 'image_id' is the number 7; a text is wanted"),
        (broken(image_id="../x"), "picture number 2: 'image_id' '../x.jpg' leads out of the images folder"),
        (broken(image_id="/x"), "picture number 2: 'image_id' '/x.jpg' leads out of the images folder"),
        (broken(image_id="a\0b"), "leads out of the images folder"),
        (broken(image_id="\ud800"), "picture number 2: 'image_id' '\\ud800.jpg' is no valid text"),
        (broken(image_id="a" * 3000), "picture number 2: 'image_id' has 3,004 characters"),
        (broken(human_annotations=...), "picture number 2: no 'human_annotations'; found"),
        (broken(keypoint_annotations=...), "picture number 2: no 'keypoint_annotations'; found"),
        (broken(human_annotations=[]), "picture number 2: 'human_annotations' is []; an object of human1"),
        (broken(keypoint_annotations=None), "picture number 2: 'keypoint_annotations' is None; an object of human1"),
        (broken(human_annotations={"human1": 5}), "person human1 of bb: 'human_annotations' is the number 5; a list"),
        (broken(human_annotations={"human1": [1, 2, 3]}), "person human1 of bb: 'human_annotations' has 3 numbers; 4"),
        (broken(human_annotations={"human1": [1, NAN, 3, 4]}), "'human_annotations' is [1.0, nan, 3.0, 4.0]; pixels"),
        (broken(human_annotations={"human1": [1, 2, INF, 4]}), "'human_annotations' is [1.0, 2.0, inf, 4.0]; pixels"),
        (broken(human_annotations={"human1": [1, 2, 2e6, 4]}), "pixels within 1,000,000 are wanted"),
        (broken(human_annotations={"human1": [1, "2", 3, 4]}), "'human_annotations' holds the text '2'; numbers"),
        (broken(human_annotations={"human1": [1, 10**400, 3, 4]}), "holds a number of over 300 digits"),
        (broken(keypoint_annotations={"human1": [1] * 41}), "'keypoint_annotations' has 41 numbers; 42 are wanted"),
        (broken(keypoint_annotations={"human1": [1] * 45}), "'keypoint_annotations' has 45 numbers; 42 are wanted"),
        (broken(**points(j3=(1, None, 2))), "person human1 of bb: 'keypoint_annotations' holds an empty value None"),
        (broken(**points(j3=(1, True, 2))), "'keypoint_annotations' holds the truth value True"),
        (broken(**points(j3=(1, 2, 0))), "joint 'left_shoulder' is [1.0, 2.0, 0.0]; the third number must be 1, 2 or"),
        (broken(**points(j3=(1, 2, 4))), "joint 'left_shoulder' is [1.0, 2.0, 4.0]; the third number must be"),
        (broken(**points(j3=(1, 2, 1.5))), "joint 'left_shoulder' is [1.0, 2.0, 1.5]; the third number must be"),
        (broken(**points(j3=(1, 2, NAN))), "joint 'left_shoulder' is [1.0, 2.0, nan]; the third number must be"),
        (broken(**points(j3=(NAN, 2, 1))), "person human1 of bb: joint 'left_shoulder' is at [nan, 2.0]; pixels"),
        (broken(**points(j3=(1, -INF, 2))), "joint 'left_shoulder' is at [1.0, -inf]"),
        (broken(**points(j3=(1.1e6, 2, 2))), "joint 'left_shoulder' is at [1100000.0, 2.0]"),
        ([picture(humans=0)], "no person with labelled keypoints to use; correct the file (aic "),
    ],
)  # fmt: skip
def test_refused(read, root, message):
    with pytest.raises(DataError, match=re.escape(message)) as error:
        read(root)
    assert "people.json: " in str(error.value)


def test_missing_file(tmp_path):
    for path, message in ((tmp_path / "absent.json", "missing file"), (tmp_path, "cannot be read")):
        with pytest.raises(DataError, match=re.escape(f"{path}: {message}")):
            read_aic(path, tmp_path)


def test_only_our_errors_escape_from_damaged_annotations(read):
    data, rng, refused = json.dumps(content()).encode(), np.random.default_rng(37), 0
    for _ in range(1000):
        damaged, start = mutate(data, rng), time.process_time()
        try:
            records, report = read(damaged)
            records.check()
            "\n".join(report.lines()).encode()
        except PoseError:
            refused += 1
        assert time.process_time() - start < 2
    assert 300 < refused < 1000
