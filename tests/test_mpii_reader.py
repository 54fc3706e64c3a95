"""MPII: the box of HRNet's loader, the joints as annotated in both forms of the release, and an error for the rest."""

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
from matlab_files import EMPTY, matlab, points, release, struct_array
from shared_data import load_golden, sample

from msposenet.data.formats.mpii import mpii_head_boxes, mpii_head_sizes, read_mpii
from msposenet.data.records import Tally
from msposenet.errors import DataError, PoseError
from msposenet.geometry import boxes_to_crops
from msposenet.skeletons import COCO_17, MPII_16

NAN, INF = math.nan, math.inf
NO_AREA = "no area, taken from the box (w x h)"

# The data set's page: "0 - r ankle, 1 - r knee, 2 - r hip, 3 - l hip, ..."
PUBLISHED = [
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax", "neck",
    "head_top", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
]  # fmt: skip
SHORT = {
    "head": "head_top", "neck": "neck", "thor": "thorax", "pelv": "pelvis", "sho": "shoulder", "elb": "elbow",
    "wri": "wrist", "hip": "hip", "kne": "knee", "ank": "ankle",
}  # fmt: skip


def person(image: str = "a.jpg", **changes) -> dict:
    joints = [[20.0 + joint, 30.0 + 2 * joint] for joint in range(16)]
    entry = {"image": image, "center": [100.0, 80.0], "scale": 0.5, "joints": joints, "joints_vis": [1] * 16}
    return {**entry, **changes}


def content() -> list:
    return [person(), person("b.jpg"), person(scale=1.0)]


@pytest.fixture
def read(tmp_path):
    def read(root, skeleton=None, name="people.json"):
        path = tmp_path / name
        path.write_bytes(root if isinstance(root, bytes) else json.dumps(root).encode())
        return read_mpii(path, tmp_path / "images", skeleton)

    return read


# The JSON form


def test_sample_is_read_exactly():
    folder = sample("mpii")
    records, report = read_mpii(folder / "valid.json", folder / "images")
    raw = json.loads((folder / "valid.json").read_text())
    assert len(records) == report.instances == len(raw) == 133
    assert report.images == len(records.image_ids) == 120
    assert not report.filtered and not report.dropped and set(report.warnings) == {NO_AREA}
    assert records.skeleton is MPII_16 and list(MPII_16.joints) == PUBLISHED
    report.enforce()
    order = list(dict.fromkeys(entry["image"] for entry in raw))
    for row, entry in enumerate(raw):
        assert records.path(row) == str(folder / "images" / entry["image"])
        assert records.image_ids[records.image_index[row]] == 1 + order.index(entry["image"])
        for joint, (x, y), labelled in zip(PUBLISHED, entry["joints"], entry["joints_vis"]):
            found = records.keypoints[row, MPII_16.index(joint)]
            assert found.tolist() == ([x - 1, y - 1, 2] if labelled else [0, 0, 0])
    assert records.annotation_ids.tolist() == list(range(1, 134))
    assert not records.image_sizes.any()
    assert all(os.path.isfile(records.path(row)) for row in range(len(records)))


def test_joints_are_where_the_official_score_has_them():
    truth = load_golden("evaluation/mpii_gt.npz")
    folder = sample("mpii")
    records, _ = read_mpii(folder / "valid.json", folder / "images")
    sides = {"l": "left_", "r": "right_"}
    names = [
        SHORT[name] if name in SHORT else sides[name[0]] + SHORT[name[1:]]
        for name in (str(name) for name in truth["joint_names"].ravel())
    ]
    everyone, missing = truth["pos_gt_src"].transpose(2, 0, 1), truth["jnt_missing"].T
    order = [MPII_16.index(name) for name in names]
    found = 0  # the JSON has cut the ends of the head to whole px
    for joints in records.keypoints[:, order]:
        labelled = joints[:, 2] > 0
        far = np.abs(everyone[:, labelled] - 1 - joints[labelled, :2]).max(axis=(1, 2))
        found += bool(((far < 1) & (missing[:, labelled] == 0).all(axis=1)).any())
    assert found == len(records) - 2  # two of the sample's persons are not in that file


def test_crops_are_those_of_the_reference_program():
    expected = load_golden("end_to_end/hrnet_w32_mpii.npz")
    folder = sample("mpii")
    records, _ = read_mpii(folder / "valid.json", folder / "images")
    center, size = boxes_to_crops(records.boxes[:16], (256, 256), 1.25)
    np.testing.assert_allclose(center, expected["center"], rtol=1e-6)
    np.testing.assert_allclose(size / 200, expected["scale"], rtol=1e-6)


def test_columns(read, tmp_path):
    records, report = read(content())
    assert records.image_index.tolist() == [0, 1, 0]
    assert records.image_ids.tolist() == [1, 2] and records.annotation_ids.tolist() == [1, 2, 3]
    assert records.path(1) == str(tmp_path / "images" / "b.jpg")
    # 100 px wide about (100, 80 + 15 x 0.5), counted from 0
    np.testing.assert_allclose(records.boxes[0], [99 - 50, 86.5 - 50, 100, 100])
    np.testing.assert_allclose(records.boxes[2], [99 - 100, 94 - 100, 200, 200])
    assert records.areas.tolist() == [1e4, 1e4, 4e4]
    assert records.keypoints[0, 3].tolist() == [22, 35, 2]
    assert report.lines() == [
        f"mpii {tmp_path / 'people.json'}: 2 images, 3 instances",
        f"  note: {NO_AREA}: 3 (number 1, number 2, number 3)",
    ]


@pytest.mark.parametrize("placeholder", [[0.0, 0.0], [-1.0, -1.0], [NAN, INF], [700.0, 5.0], [1e300, -1e300]])
def test_joints_vis_alone_says_what_is_labelled(read, placeholder):
    entry = person()
    entry["joints"][4], entry["joints_vis"][4] = placeholder, 0
    entry["joints"][5] = [0.0, -1.0]  # labelled all the same
    records, report = read([entry])
    assert records.keypoints[0, 4].tolist() == [0, 0, 0] and records.keypoints[0, 5].tolist() == [-1, -2, 2]
    assert set(report.warnings) == {NO_AREA}


@pytest.mark.parametrize(
    "changes, group, reason",
    [
        ({"joints_vis": [0] * 16}, "filtered", "no labelled keypoint"),
        ({"center": [-1.0, -1.0]}, "dropped", "centre -1, or scale of 0 or less"),
        ({"scale": 0}, "dropped", "centre -1, or scale of 0 or less"),
        ({"scale": -1.0, "center": [-1, -1]}, "dropped", "centre -1, or scale of 0 or less"),
    ],
)
def test_left_out_and_skipped(read, changes, group, reason):
    records, report = read([person(), person("b.jpg", **changes), person()])
    assert getattr(report, group) == {reason: Tally(1, ("number 2",))}
    assert records.annotation_ids.tolist() == [1, 3] and len(records.image_ids) == 2


def test_the_same_person_twice_is_no_fault(read):
    records, report = read([person(), person()])
    assert len(records) == 2 and not report.dropped


def test_test_set_is_refused(read):
    root = [{key: entry[key] for key in ("image", "center", "scale")} for entry in content()]
    with pytest.raises(
        DataError, match=r"no person has 'joints' or 'joints_vis'; found 'image', 'center', 'scale'.*give train"
    ):
        read(root)


def test_given_skeleton_must_agree(read):
    assert read(content(), MPII_16)[0].skeleton is MPII_16
    with pytest.raises(DataError, match="are not the 17 joints of skeleton 'coco17'"):
        read(content(), COCO_17)


def changed(**changes) -> list:
    return [person(), person(**changes), person()]


def joints(place: int, value) -> list:
    entries = copy.deepcopy(person()["joints"])
    entries[place] = value
    return entries


@pytest.mark.parametrize(
    "root, message",
    [
        (b"", "empty"),
        (json.dumps(content()).encode()[:-9], "cut off"),
        (b"<html>", "not valid JSON"),
        ({"images": []}, "a JSON dict, not a list of persons; is it in COCO's form (format: coco)?"),
        ([], "an empty list, no person"),
        ([person(), 7], "person number 2 is the number 7; an object is wanted"),
        (changed(image=7), "person number 2: 'image' is the number 7; a text is wanted"),
        (changed(image="../a.jpg"), "person number 2: 'image' '../a.jpg' leads out of the images folder"),
        (changed(image="/etc/x"), "person number 2: 'image' '/etc/x' leads out of the images folder"),
        (changed(image="\ud800"), "person number 2: 'image' '\\ud800' is no valid text"),
        (changed(image="a" * 2000), "person number 2: 'image' has 2,000 characters"),
        (changed(center=[1, 2, 3]), "person number 2: 'center' has 3 numbers; 2 are wanted"),
        (changed(center=[NAN, 2]), "person number 2: centre [nan, 2.0], scale 0.5: a box within 1,000,000 px"),
        (changed(center=[1, INF]), "person number 2: centre [1.0, inf], scale 0.5"),
        (changed(center=None), "person number 2: 'center' is an empty value None; a list is wanted"),
        (changed(scale=NAN), "person number 2: centre [100.0, 80.0], scale nan"),
        (changed(scale=1e6), "person number 2: centre [100.0, 80.0], scale 1e+06"),
        (changed(scale="1"), "person number 2: 'scale' is the text '1'; a number is wanted"),
        (changed(scale=10**400), "person number 2: 'scale' holds a number of over 300 digits"),
        (changed(joints=joints(0, [1, 2])[:15]), "person number 2: 'joints' is a list of 15; a list of 16 joints"),
        (changed(joints={}), "person number 2: 'joints' is {}; a list of 16 joints is wanted"),
        (changed(joints=joints(3, [1, 2, 3])), "person number 2: 'joints' holds [1, 2, 3]; [x, y] is wanted"),
        (changed(joints=joints(3, 5)), "person number 2: 'joints' holds 5; [x, y] is wanted"),
        (changed(joints=joints(3, [1, "2"])), "person number 2: 'joints' holds the text '2'; numbers are wanted"),
        (changed(joints=joints(3, [1, NAN])), "person number 2: joint 'left_hip' is at [0.0, nan]; pixels within"),
        (changed(joints=joints(3, [-INF, 1])), "person number 2: joint 'left_hip' is at [-inf, 0.0]"),
        (changed(joints=joints(3, [2e6, 1])), "person number 2: joint 'left_hip' is at [1999999.0, 0.0]"),
        (changed(joints=joints(3, [10**400, 1])), "'joints' holds a number of over 300 digits"),
        (changed(joints_vis=[1] * 15), "person number 2: 'joints_vis' has 15 numbers; 16 are wanted"),
        (changed(joints_vis=[2] + [1] * 15), "person number 2: 'joints_vis' is [2.0, 1.0,"),
        (changed(joints_vis=[NAN] + [1] * 15), "person number 2: 'joints_vis' is [nan, 1.0,"),
        (changed(joints_vis=[True] + [1] * 15), "person number 2: 'joints_vis' holds the truth value True"),
        *((
            [person(), {key: value for key, value in person().items() if key != missing}],
            f"person number 2: no {missing!r}; found ",
        ) for missing in person()),
        ([person(scale=-1)], "no person with labelled keypoints to use; correct the file (mpii "),
    ],
)  # fmt: skip
def test_refused(read, root, message):
    with pytest.raises(DataError, match=re.escape(message)) as error:
        read(root)
    assert "people.json: " in str(error.value)


def test_missing_file(tmp_path):
    for name, message in (("absent.json", "missing file"), ("absent.mat", "missing file"), (".", "not readable")):
        with pytest.raises(DataError, match=message):
            read_mpii(tmp_path / name, tmp_path)


# The original release


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
def read_mat(tmp_path):
    def read_mat(*pictures, compressed=True):
        path = tmp_path / "people.mat"
        path.write_bytes(matlab(release(pictures), compressed))
        return read_mpii(path, tmp_path / "images")

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
        read(matlab(variables), name="people.mat")
    assert "people.mat: " in str(error.value)


def test_form_is_told_by_content_and_damage_by_name(read):
    data = matlab(release([SOUND]))
    assert len(read(data, name="annotations")[0]) == 1
    with pytest.raises(DataError, match=r"cut off: .* bytes"):
        read(data[:-9], name="annotations")
    with pytest.raises(DataError, match="no MATLAB file of version 5"):
        read(b"<html>", name="people.mat")
    with pytest.raises(DataError, match=r"people.mat: a MATLAB 7.3 \(HDF5\) file"):
        read(b"MATLAB 7.3 MAT-file".ljust(600), name="people.mat")


# Head sizes


def test_head_sizes_of_the_sample():
    folder = sample("mpii")
    sizes = mpii_head_sizes(folder / "valid.json", folder / "valid_head_sizes.json")
    assert sizes.tolist() == json.loads((folder / "valid_head_sizes.json").read_text())


def test_head_sizes_of_gt_valid(tmp_path):
    truth = load_golden("evaluation/mpii_gt.npz")
    path, annotations = tmp_path / "gt_valid.mat", tmp_path / "valid.json"
    path.write_bytes(matlab({"headboxes_src": truth["headboxes_src"], "dataset_joints": np.array(["a"], object)}))
    annotations.write_text(json.dumps([person()] * truth["headboxes_src"].shape[2]))
    sizes = mpii_head_sizes(annotations, path)
    assert len(sizes) == 2958
    one = truth["headboxes_src"][:, :, 7].astype(float)
    assert sizes[7] == pytest.approx(0.6 * math.hypot(one[1, 0] - one[0, 0], one[1, 1] - one[0, 1]))
    folder = sample("mpii")
    for size in mpii_head_sizes(folder / "valid.json", folder / "valid_head_sizes.json"):
        assert np.abs(sizes - size).min() < 1e-4


@pytest.mark.parametrize(
    "heads, message",
    [
        (None, "people.json: the JSON form has no head boxes, by which PCKh is measured; name a file of head sizes"),
        ([30.0, 40.0], r"heads: 2 head sizes for the 3 persons of .*people.json; give the file that belongs to it"),
        ([30.0, 40.0, 0.0], "heads: the head size of person number 3 is 0 px"),
        ([30.0, NAN, 50.0], "heads: the head size of person number 2 is nan px"),
        ([30.0, "4", 50.0], "heads: person number 2: 'head size' is the text '4'; a number is wanted"),
        ({"a": 1}, "heads: a JSON dict; a list of one head size in px a person is wanted"),
        (b"[1, 2", "heads: cut off"),
        (matlab({"other": 1.0}), "heads: no variable 'headboxes_src'; found 'other'"),
        (matlab({"headboxes_src": np.ones((2, 3))}), "heads: 'headboxes_src' is 2 x 3 numbers; 2 x 2 x N"),
        (matlab({"headboxes_src": np.ones((2, 2, 3))}), "heads: the head size of person number 1 is 0 px .3 such"),
    ],
    ids=range(10),
)
def test_head_sizes_that_are_refused(read, tmp_path, heads, message):
    read(content())
    path = None if heads is None else tmp_path / "heads"
    if path is not None:
        path.write_bytes(heads if isinstance(heads, bytes) else json.dumps(heads).encode())
    with pytest.raises(DataError, match=message):
        mpii_head_sizes(tmp_path / "people.json", path)


# Damage


@pytest.mark.parametrize("form", ["JSON", "mat", "compressed mat"])
def test_only_our_errors_escape_from_damaged_annotations(read, form):
    data = json.dumps(content()).encode()
    if form != "JSON":
        people = [person_of_release(), person_of_release(annopoints=EMPTY)]
        data = matlab(release([("a.jpg", 1, people), ("b.jpg", 0, None)]), form == "compressed mat")
    rng, refused = np.random.default_rng(29), 0
    for _ in range(1000):
        damaged, start = mutate(data, rng), time.process_time()
        try:
            records, report = read(damaged)
            records.check()
            report.lines()
        except PoseError:
            refused += 1
        assert time.process_time() - start < 2
    assert 100 < refused < 1000
