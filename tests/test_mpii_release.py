"""MPII's .mat release, written as it is laid out: what the JSON form says, in all spellings, and errors for damage."""

from __future__ import annotations

import json
import math
import os
import re
import time

import numpy as np
import pytest
from fuzz import mutate
from matlab_files import EMPTY, matlab, points, release, struct_array
from shared_data import sample

from msposenet.data.formats.mpii import mpii_head_boxes, mpii_head_sizes, read_mpii
from msposenet.data.records import Tally
from msposenet.errors import DataError, PoseError

NAN, INF = math.nan, math.inf


def as_release(entries: list[dict]) -> list[tuple[str, int, list[dict]]]:
    """The pictures of the JSON form with the persons as the release has them."""
    pictures: dict[str, list[dict]] = {}
    for entry in entries:
        labelled = {joint: xy for joint, (xy, flag) in enumerate(zip(entry["joints"], entry["joints_vis"])) if flag}
        found = {
            "scale": entry["scale"],
            "objpos": {"x": np.uint16(entry["center"][0]), "y": np.uint16(entry["center"][1])},
            "annopoints": points(labelled, {joint: "1" for joint in labelled if joint not in (8, 9)}),
        }
        pictures.setdefault(entry["image"], []).append(found)
    return [(name, 1, people) for name, people in pictures.items()]


def test_release_and_json_say_the_same(tmp_path):
    folder = sample("mpii")
    path = tmp_path / "mpii_human_pose_v1_u12_1.mat"
    raw = json.loads((folder / "valid.json").read_text())
    path.write_bytes(matlab(release([("test.jpg", 0, [{"scale": 1.0, "objpos": {"x": 1, "y": 1}}]), *as_release(raw)])))
    records, report = read_mpii(path, folder / "images")
    expected, _ = read_mpii(folder / "valid.json", folder / "images")
    # Persons of one picture stand together in the release only.
    order = np.argsort(expected.image_index, kind="stable")
    np.testing.assert_array_equal(records.image_index, expected.image_index[order])
    np.testing.assert_array_equal(records.image_paths, expected.image_paths)
    np.testing.assert_array_equal(records.boxes, expected.boxes[order])
    np.testing.assert_array_equal(records.keypoints, expected.keypoints[order])
    # The picture of the test set is the first in the file, its person number 1.
    assert records.image_ids.tolist() == list(range(2, 122))
    assert records.annotation_ids.tolist() == list(range(2, 135))
    assert report.filtered == {"picture of the test set (img_train 0), no joints": Tally(1, ("test.jpg",))}


def person_of_release(**changes) -> dict:
    flags = {0: "0", 1: "1", 2: np.uint8(0), 3: np.uint8(1), 4: 0.0, 5: 1.0, 8: EMPTY}
    entry = {
        "x1": np.uint16(10), "y1": np.uint16(20), "x2": np.uint16(40), "y2": np.uint16(60),
        "annopoints": points({joint: (20.5 + joint, 30 + joint) for joint in (6, 7, 8, 9, 0, 1, 2, 3, 4, 5)}, flags),
        "scale": 1.5, "objpos": {"x": np.int16(100), "y": 80.0},
    }  # fmt: skip
    return {name: value for name, value in {**entry, **changes}.items() if value is not ...}


@pytest.fixture
def read(tmp_path):
    def read(data: bytes, name: str = "people.mat"):
        (tmp_path / name).write_bytes(data)
        return read_mpii(tmp_path / name, tmp_path / "images")

    return read


@pytest.fixture
def read_mat(read):
    def read_mat(*pictures, compressed=True):
        return read(matlab(release(pictures), compressed))

    return read_mat


@pytest.mark.parametrize("compressed", [False, True])
def test_visibility_in_all_its_spellings(read_mat, compressed):
    records, report = read_mat(("a.jpg", 1, [person_of_release()]), compressed=compressed)
    visibility = {0: 1, 1: 2, 2: 1, 3: 2, 4: 1, 5: 2, 6: 2, 7: 2, 8: 2, 9: 2}
    for joint in range(16):
        labelled = [19.5 + joint, 29 + joint, visibility.get(joint)] if joint in visibility else [0, 0, 0]
        assert records.keypoints[0, joint].tolist() == labelled
    np.testing.assert_allclose(records.boxes[0], [99 - 150, 79 + 22.5 - 150, 300, 300])
    assert not report.filtered and not report.dropped


def test_fields_and_structs_that_are_not_there(read_mat, tmp_path):
    sound = person_of_release()
    head = {8: (5.0, 6), 9: (7.0, 8)}
    records, report = read_mat(
        ("000.jpg", 0, [{"scale": 2.0, "objpos": {"x": 1.0, "y": 2.0}}, {"scale": 3.0}]),
        ("001.jpg", 1, None),
        ("002.jpg", 1, [sound, person_of_release(annopoints=EMPTY)]),
        ("003.jpg", 1, [{"x1": 1.0, "y1": 2.0, "x2": 3.0, "y2": 4.0}]),  # no field annopoints at all
        ("004.jpg", 1, [person_of_release(annopoints=points(head))]),  # no field is_visible
        ("005.jpg", 1, [person_of_release(objpos=EMPTY), person_of_release(scale=EMPTY), sound]),
        ("006.jpg", 0, None),
        ("007.jpg", 1, [person_of_release(objpos={"x": EMPTY, "y": 4.0}), person_of_release(scale=...)]),
        ("008.jpg", 1, [person_of_release(annopoints={"point": EMPTY})]),
        ("009.jpg", 1, [person_of_release(scale=0.0), person_of_release(objpos={"x": -1.0, "y": -1.0}), sound]),
    )
    assert report.filtered == {
        "picture of the test set (img_train 0), no joints": Tally(2, ("000.jpg", "006.jpg")),
        "no joints": Tally(3, ("number 4 (002.jpg)", "number 5 (003.jpg)", "number 12 (008.jpg)")),
        "no position (objpos, scale)": Tally(
            4, ("number 7 (005.jpg)", "number 8 (005.jpg)", "number 10 (007.jpg)", "number 11 (007.jpg)")
        ),
    }
    assert report.dropped == {
        "centre -1, or scale of 0 or less": Tally(2, ("number 13 (009.jpg)", "number 14 (009.jpg)"))
    }
    assert records.annotation_ids.tolist() == [3, 6, 9, 15]
    assert records.image_ids.tolist() == [2, 3, 4, 5, 6, 8, 9, 10]
    assert [os.path.basename(records.path(row)) for row in range(4)] == ["002.jpg", "004.jpg", "005.jpg", "009.jpg"]
    assert records.keypoints[1, 8:10].tolist() == [[4, 5, 2], [6, 7, 2]]
    boxes = mpii_head_boxes(tmp_path / "people.mat")
    assert len(boxes) == 15
    assert np.flatnonzero(np.isnan(boxes).any(axis=1)).tolist() == [0, 1]
    assert boxes[2].tolist() == [10, 20, 40, 60] and boxes[4].tolist() == [1, 2, 3, 4]
    sizes = mpii_head_sizes(tmp_path / "people.mat")
    np.testing.assert_allclose(sizes[records.annotation_ids - 1], 0.6 * 50)
    assert math.isnan(sizes[0])


def test_odd_point_lists(read_mat):
    twice = {"point": struct_array([{"x": x, "y": 2.0, "id": 3.0} for x in (5.0, 6.0)])}
    half = {"point": struct_array([{"x": 5.0, "y": EMPTY, "id": 3.0}, {"x": 5.0, "y": 2.0, "id": 4.0}])}
    records, report = read_mat(("a.jpg", 1, [person_of_release(annopoints=labels) for labels in (twice, half)]))
    assert records.keypoints[0, 3].tolist() == [5, 1, 2]
    assert records.keypoints[1, 3:5].tolist() == [[0, 0, 0], [4, 1, 2]]
    assert report.warnings["joint given more than once, the last one taken"] == Tally(1, ("number 1 (a.jpg)",))
    assert report.warnings["joint without id or coordinates, left out"] == Tally(1, ("number 2 (a.jpg)",))


def point(**changes) -> dict:
    return {"point": struct_array([{"x": 5.0, "y": 2.0, "id": 3.0, "is_visible": 1.0, **changes}])}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"annopoints": 7.0}, "'annopoints' is 7; a struct is wanted"),
        ({"annopoints": {"point": "x"}}, "'annopoints.point' is the text 'x'; a struct is wanted"),
        ({"annopoints": point(id=16.0)}, "'point.id' is 16; a joint from 0 to 15 is wanted"),
        ({"annopoints": point(id=1.5)}, "'point.id' is 1.5; a joint from 0 to 15 is wanted"),
        ({"annopoints": point(is_visible=2.0)}, "'point.is_visible' is 2; 0, 1 or nothing is wanted"),
        ({"annopoints": point(is_visible="y")}, "'point.is_visible' is the text 'y'; a number or nothing is wanted"),
        ({"annopoints": point(x=NAN)}, "'point.x' is nan; a number or nothing is wanted"),
        ({"annopoints": point(y=-INF)}, "'point.y' is -inf; a number or nothing is wanted"),
        ({"annopoints": point(y=np.ones((2, 2)))}, "'point.y' is 2 x 2 numbers; a number or nothing is wanted"),
        ({"annopoints": point(x=2e6)}, "joint 'left_hip' is at [1999999.0, 1.0]; pixels within 1,000,000"),
        ({"objpos": "here"}, "'objpos' is the text 'here'; a struct is wanted"),
        ({"objpos": {"x": NAN, "y": 1.0}}, "'objpos.x' is nan; a number or nothing is wanted"),
        ({"scale": INF}, "'scale' is inf; a number or nothing is wanted"),
        ({"scale": 1e9}, "centre [100.0, 80.0], scale 1e+09: a box within 1,000,000 px is wanted"),
    ],
)
def test_persons_of_the_release_that_are_refused(read_mat, changes, message):
    with pytest.raises(DataError, match=re.escape(f"people.mat: person number 2 (a.jpg): {message}")):
        read_mat(("a.jpg", 1, [person_of_release(), person_of_release(**changes)]))


SOUND = ("a.jpg", 1, [person_of_release()])


@pytest.mark.parametrize(
    "variables, message",
    [
        ({"joints": 1.0}, "no variable 'RELEASE'; found 'joints'"),
        ({"RELEASE": 1.0}, "'RELEASE' is 1; a struct with annolist and img_train is wanted"),
        ({"RELEASE": {"annolist": 1.0}}, "'RELEASE' is a struct of 'annolist'; a struct with annolist and img_train"),
        ({"RELEASE": {"annolist": "x", "img_train": 1.0}}, "'annolist' is the text 'x'; a struct array with image"),
        (
            {"RELEASE": {**release([SOUND])["RELEASE"], "img_train": np.ones((1, 3))}},
            "'img_train' is 1 x 3 numbers; a 0 or 1 is wanted for each of 1 pictures",
        ),
        (release([("a.jpg", 2, None)]), "'img_train' is 2; a 0 or 1 is wanted"),
        (release([("a.jpg", 0, None)]), "no picture with 'img_train' 1, which alone have joints"),
        (release([("a.jpg", 1, None)]), "no person with labelled keypoints to use"),
        (release([SOUND, (EMPTY, 1, None)]), "picture number 2: 'image.name' is empty; a file name is wanted"),
        (release([SOUND, ("../b.jpg", 1, None)]), "picture number 2: 'name' '../b.jpg' leads out of the images folder"),
    ],
)
def test_releases_that_are_refused(read, variables, message):
    with pytest.raises(DataError, match=re.escape(message)) as error:
        read(matlab(variables))
    assert "people.mat: " in str(error.value)


def test_form_is_told_by_content_and_damage_by_name(read):
    data = matlab(release([SOUND]))
    assert len(read(data, name="annotations")[0]) == 1
    with pytest.raises(DataError, match=r"cut off: .* bytes"):
        read(data[:-9], name="annotations")
    with pytest.raises(DataError, match="no MATLAB file of version 5"):
        read(b"<html>")
    with pytest.raises(DataError, match=r"people.mat: a MATLAB 7.3 \(HDF5\) file"):
        read(b"MATLAB 7.3 MAT-file".ljust(600))


@pytest.mark.parametrize("compressed", [False, True])
def test_only_our_errors_escape_from_damaged_releases(read, compressed):
    people = [person_of_release(), person_of_release(annopoints=EMPTY)]
    data = matlab(release([("a.jpg", 1, people), ("b.jpg", 0, None)]), compressed)
    rng, refused = np.random.default_rng(29), 0
    for _ in range(1000):
        damaged, start = mutate(data, rng), time.process_time()
        try:
            records, report = read(damaged)
            records.check()
            "\n".join(report.lines()).encode()
        except PoseError:
            refused += 1
        assert time.process_time() - start < 2
    assert 500 < refused < 1000
