"""MPII, JSON form: the box of HRNet's loader, joints as annotated, head sizes, and errors for what is damaged."""

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
from matlab_files import matlab
from shared_data import load_golden, sample

from msposenet.data.formats.mpii import mpii_head_sizes, read_mpii
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
    for name, message in (("absent.json", "missing file"), ("absent.mat", "missing file"), (".", "cannot be read")):
        with pytest.raises(DataError, match=message):
            read_mpii(tmp_path / name, tmp_path)


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


def test_only_our_errors_escape_from_damaged_annotations(read):
    data, rng, refused = json.dumps(content()).encode(), np.random.default_rng(29), 0
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
