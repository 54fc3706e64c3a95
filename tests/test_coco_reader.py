"""COCO annotations: HRNet's choice of instances and boxes, and an error for whatever would be scored silently wrong."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import time
from dataclasses import replace

import numpy as np
import pytest
from fuzz import mutate
from shared_data import load_golden, sample

from msposenet.data.formats import READERS, document
from msposenet.data.formats.coco import read_coco
from msposenet.data.records import Report, Tally
from msposenet.errors import DataError, PoseError
from msposenet.skeletons import AIC_14, COCO_17, CROWDPOSE_14, MPII_16

NAN, INF = math.nan, math.inf


def person(identity: int, image: int = 1, **changes) -> dict:
    keypoints = [value for joint in range(17) for value in (20 + joint, 30 + 2 * joint, 1 + joint % 2)]
    annotation = {
        "id": identity, "image_id": image, "category_id": 1, "iscrowd": 0, "area": 600.0, "bbox": [10, 20, 40, 50],
        "keypoints": keypoints, "num_keypoints": 17, "segmentation": [],
    }  # fmt: skip
    return {**annotation, **changes}


def joint(place: int, *values) -> list:
    """Seventeen joints of which number `place` is `values`."""
    keypoints = person(0)["keypoints"]
    keypoints[3 * place : 3 * place + 3] = values
    return keypoints


def content() -> dict:
    """Two images of 100 x 80 with three sound persons, one of them id 0."""
    images = [{"id": number, "file_name": f"{number:03d}.jpg", "width": 100, "height": 80} for number in (7, 1)]
    category = {"id": 1, "name": "person", "keypoints": list(COCO_17.joints), "skeleton": [[16, 14]]}
    return {"images": images, "annotations": [person(5), person(0, 7), person(9)], "categories": [category]}


def put(root: dict, *path_and_value) -> dict:
    """`root` with the entry at a path of keys replaced (deleted where the value is ...)."""
    *path, last, value = path_and_value
    root = copy.deepcopy(root)
    place = root
    for key in path:
        place = place[key]
    if value is ...:
        del place[last]
    elif isinstance(place, list) and last == len(place):
        place.append(value)
    else:
        place[last] = value
    return root


@pytest.fixture
def read(tmp_path):
    def read(root, skeleton=None, **options):
        path = tmp_path / "people.json"
        path.write_bytes(root if isinstance(root, bytes) else json.dumps(root).encode())
        return read_coco(path, tmp_path / "images", skeleton, **options)

    return read


# Sound files


@pytest.mark.parametrize("split, persons, crowds", [("train2017", 57, 3), ("val2017", 46, 4)])
def test_sample_counts(split, persons, crowds):
    folder = sample("coco")
    records, report = READERS["coco"](folder / f"annotations/person_keypoints_{split}.json", folder / "images" / split)
    assert len(records) == report.instances == persons
    assert report.images == len(records.image_ids) == 50
    assert report.filtered["crowd"].count == crowds
    assert not report.dropped and not report.warnings
    assert records.skeleton is COCO_17
    assert all(os.path.isfile(records.path(instance)) for instance in range(len(records)))
    report.enforce()


def test_boxes_are_clipped_as_in_the_reference_programs():
    expected = load_golden("end_to_end/udp_offset_w32_coco.npz")
    folder = sample("coco_sample")
    records, _ = read_coco(folder / "test_coco.json", folder / "images")
    np.testing.assert_array_equal(records.image_ids[records.image_index], expected["box_image_id"])
    np.testing.assert_allclose(records.boxes, expected["clean_box_xywh"], atol=1e-4)


def test_columns(read, tmp_path):
    records, report = read(content())
    assert records.annotation_ids.tolist() == [5, 0, 9]
    assert records.image_index.tolist() == [1, 0, 1]
    assert records.image_sizes.tolist() == [[100, 80], [100, 80]]
    assert records.path(1) == str(tmp_path / "images" / "007.jpg")
    assert records.boxes[0].tolist() == [10, 20, 39, 49]
    assert records.areas.tolist() == [600] * 3 and records.box_scores.tolist() == [1] * 3
    np.testing.assert_array_equal(records.keypoints[2].ravel(), person(9)["keypoints"])
    assert report.lines() == [f"coco {tmp_path / 'people.json'}: 2 images, 3 instances"]


def test_select_keeps_the_image_table(read):
    records, _ = read(content())
    for chosen in (np.array([2, 1]), np.array([False, True, True])):
        part = records.select(chosen)
        assert sorted(part.annotation_ids.tolist()) == [0, 9]
        assert len(part) == 2 and len(part.image_ids) == 2
        assert part.path(int(np.flatnonzero(part.annotation_ids == 0)[0])).endswith("007.jpg")
        part.check()


@pytest.mark.parametrize(
    "box, clipped",
    [
        ([10, 20, 40, 50], [10, 20, 39, 49]),
        ([-5, -6, 40, 50], [0, 0, 39, 49]),  # moved, not cut: as HRNet does
        ([70, 60, 40, 50], [70, 60, 29, 19]),
        ([0, 0, 100, 80], [0, 0, 99, 79]),
        ([0.5, 0.25, 10.5, 8], [0.5, 0.25, 9.5, 7]),
        ([-1e9, -1e9, 3e9, 3e9], [0, 0, 99, 79]),
    ],
)
def test_clipping(read, box, clipped):
    records, report = read(put(content(), "annotations", 0, "bbox", box))
    assert records.boxes[0].tolist() == clipped
    outside = "box reaches outside the image, clipped" in report.warnings
    assert outside == (min(box[:2]) < -1 or box[0] + box[2] > 101 or box[1] + box[3] > 81)


@pytest.mark.parametrize(
    "changes, group, reason",
    [
        ({"iscrowd": 1}, "filtered", "crowd"),
        ({"iscrowd": True, "bbox": [0, 0, 0, 0]}, "filtered", "crowd"),
        ({"keypoints": [0] * 51}, "filtered", "no labelled keypoint"),
        ({"keypoints": [4, 5, 0] * 17}, "filtered", "no labelled keypoint"),
        ({"bbox": [10, 10, 0, 20]}, "dropped", "box without width or height"),
        ({"bbox": [10, 10, 20, -3]}, "dropped", "box without width or height"),
        ({"bbox": [100, 10, 20, 20]}, "dropped", "box outside the image"),
        ({"bbox": [-30, 10, 30, 20]}, "dropped", "box outside the image"),
        ({"bbox": [10, 80.5, 20, 20]}, "dropped", "box outside the image"),
        ({"bbox": [10, -9, 20, 9]}, "dropped", "box outside the image"),
        ({"bbox": [1e300, 1, 1e308, 1e308]}, "dropped", "box outside the image"),
        ({"bbox": [99, 10, 20, 20]}, "dropped", "box of less than a pixel within the image"),
        ({"bbox": [10, 10, 1, 20]}, "dropped", "box of less than a pixel within the image"),
        ({"area": 0}, "dropped", "area of 0 or less"),
        ({"area": -4.5}, "dropped", "area of 0 or less"),
    ],
)
def test_left_out(read, changes, group, reason):
    root = content()
    root["annotations"][1].update(changes)
    records, report = read(root)
    assert records.annotation_ids.tolist() == [5, 9]
    groups = {"filtered": report.filtered, "dropped": report.dropped}
    assert groups.pop(group) == {reason: Tally(1, ("0",))}
    assert not any(groups.values())
    assert any(reason in line for line in report.lines())


@pytest.mark.parametrize(
    "values, expected, noted",
    [
        ((0, 0, 0), (0, 0, 0), False),
        ((-1, -1, 0), (0, 0, 0), True),
        ((NAN, NAN, 0), (0, 0, 0), True),
        ((INF, 4, 0), (0, 0, 0), True),
        ((1e9, 4, 0), (0, 0, 0), True),
        ((-40, 500, 2), (-40, 500, 2), False),  # outside the image: legal
        ((1e6, 3.5, 1), (1e6, 3.5, 1), False),
    ],
)
def test_joints(read, values, expected, noted):
    records, report = read(put(content(), "annotations", 2, "keypoints", joint(6, *values)))
    assert records.keypoints[2, 6].tolist() == list(expected)
    assert np.isfinite(records.keypoints).all()
    assert (report.warnings == {"unlabelled joint with coordinates, set to 0": Tally(1, ("9",))}) == noted


def test_missing_area_and_iscrowd(read):
    root = put(put(content(), "annotations", 0, "area", ...), "annotations", 0, "iscrowd", ...)
    records, report = read(root)
    assert records.areas.tolist() == [40 * 50, 600, 600]
    assert report.warnings == {"no area, taken from the box (w x h)": Tally(1, ("5",))}


def test_other_categories_are_ignored(read):
    root = content()
    root["categories"].insert(0, {"id": 18, "name": "dog"})
    root["annotations"].insert(1, {"id": 5, "image_id": "?", "category_id": 18, "bbox": []})
    assert read(root)[0].annotation_ids.tolist() == [5, 0, 9]


def test_aic_and_crowdpose_in_coco_form():
    folder = sample("aic")
    records, report = read_coco(folder / "test_aic.json", folder / "images")
    assert records.skeleton is AIC_14 and len(records) == 9
    assert report.warnings["no area, taken from the box (w x h)"].count == 9
    folder = sample("crowdpose")
    paths = folder / "test_crowdpose.json", folder / "images"
    records, _ = read_coco(*paths, CROWDPOSE_14, aliases={"head": "head_top"})
    assert records.skeleton is CROWDPOSE_14 and len(records) == 4
    own = read_coco(*paths)[0].skeleton
    assert own.joints[12] == "head" and own.flip_pairs == CROWDPOSE_14.flip_pairs
    assert own.limbs == ()  # the file carries COCO's, which name joints 15 to 17


# Skeletons of the user's own


def with_joints(*names: str, **category) -> dict:
    root = content()
    root["categories"][0].update(keypoints=list(names), **category)
    for annotation in root["annotations"]:
        annotation["keypoints"] = annotation["keypoints"][: 3 * len(names)]
    return root


@pytest.mark.parametrize(
    "names, pairs",
    [
        (["nose", "left_paw", "right_paw"], [("left_paw", "right_paw")]),
        (["r_paw", "l_paw", "L_ear", "R_ear"], [("l_paw", "r_paw"), ("L_ear", "R_ear")]),
        (["Left Paw", "Right Paw"], [("Left Paw", "Right Paw")]),
        (["paw_right", "paw_left", "tail"], [("paw_left", "paw_right")]),
        (["paw.L", "paw.R"], [("paw.L", "paw.R")]),
        (["LPaw", "RPaw", "pawL", "pawR"], [("LPaw", "RPaw"), ("pawL", "pawR")]),
        (["leftPaw", "rightPaw", "EarLeft", "EarRight"], [("leftPaw", "rightPaw"), ("EarLeft", "EarRight")]),
        (["LANKLE", "RANKLE", "LIP"], [("LANKLE", "RANKLE")]),
        (["Level", "Root", "point_a", "leftover"], []),
    ],
)
def test_flip_pairs_from_names(read, names, pairs):
    records, report = read(with_joints(*names, skeleton=[[1, 2]]))
    skeleton = records.skeleton
    assert skeleton.joints == tuple(names)
    assert set(skeleton.flip_pairs) == set(pairs)
    assert skeleton.limbs == ((names[0], names[1]),)
    assert records.keypoints.shape == (3, len(names), 3)
    assert any("no left and right" in line for line in report.lines()) == (not pairs)


def test_sigmas_of_own_joints_are_said(read):
    records, report = read(with_joints("nose", "tail", "left_hip", "right_hip"))
    assert records.skeleton.sigmas == (0.026, 0.05, 0.107, 0.107)
    assert report.warnings["no official OKS sigma, 0.05 assumed"] == Tally(1, ("tail",))
    assert any("left_hip - right_hip" in line for line in report.lines())


@pytest.mark.parametrize(
    "names, message",
    [
        (["left_paw", "tail"], "'left_paw' name a side but have no partner"),
        (["paw_l", "tail"], "'paw_l' name a side but have no partner"),
        (["left_eye_l", "left_eye_r", "right_eye_l", "right_eye_r"], "is ambiguous"),
        (["tail", "tail"], "twice"),
        ([], "a list of joint names is wanted"),
        (["tail", 3], "a list of joint names is wanted"),
    ],
)
def test_skeletons_that_contradict_themselves(read, names, message):
    with pytest.raises(DataError, match=message):
        read(with_joints(*names))


def test_a_given_skeleton_is_for_files_of_its_names_or_of_none(read):
    assert read(content(), COCO_17)[0].skeleton is COCO_17
    assert read(content(), MPII_16)[0].skeleton is COCO_17
    renamed = replace(COCO_17, name="mine", sigmas=(0.1,) * 17)
    assert read(content(), renamed)[0].skeleton is renamed
    turned = put(content(), "categories", 0, "keypoints", [*COCO_17.joints[1:], "nose"])
    assert read(turned, COCO_17)[0].skeleton.joints == (*COCO_17.joints[1:], "nose")
    unnamed = put(content(), "categories", 0, "keypoints", ...)
    assert "the file names no joints, taken in this order" in read(unnamed, COCO_17)[1].warnings
    with pytest.raises(DataError, match="'keypoints' has 51 numbers; 48 are wanted"):
        read(unnamed, MPII_16)
    with pytest.raises(DataError, match="has no 'keypoints', the list of joint names"):
        read(unnamed)


# Files that are refused


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "empty"),
        (json.dumps(content()).encode()[:-200], "cut off"),
        (json.dumps(content()).encode()[:-1], "cut off"),
        (b"<html>", "not valid JSON: .* line 1"),
        (b'{"images": [} ]}', "not valid JSON: .* line 1"),
        (b"\x80garbage", "not readable as JSON"),
        (b"[" * 200000, "not readable as JSON|cut off"),
        (b"[]", "a JSON list, not an object with images"),
        (b"7", "a JSON int, not an object"),
        (b"{}", "no 'categories'; found nothing"),
    ],
)
def test_files_that_are_no_annotations(read, data, message):
    with pytest.raises(DataError, match=message) as error:
        read(data)
    assert "people.json" in str(error.value)


def test_missing_file(tmp_path):
    for path, message in ((tmp_path / "absent.json", "missing file"), (tmp_path, "cannot be read")):
        with pytest.raises(DataError, match=re.escape(f"{path}: {message}")):
            read_coco(path, tmp_path)


A = ("annotations", 1)  # the annotation of id 0


@pytest.mark.parametrize(
    "path_and_value, message",
    [
        (("images", ...), "no 'images'; found 'annotations', 'categories'"),
        (("annotations", {}), "'annotations' is an object; a list is wanted"),
        (("categories", []), "0 categories"),
        (("categories", 1, {"id": 2, "name": "person"}), "2 categories ('person', 'person'); one must be 'person'"),
        (("categories", 1, {"id": 1, "name": "dog"}), "category 1: a second category of this id"),
        (("categories", 0, "id", "1"), "category number 1: 'id' is the text '1'; a whole number is wanted"),
        ((*A, ...), None),
        ((*A, [1, 2]), "annotation number 2 is a list [1, 2]; an object is wanted"),
        ((*A, "id", ...), "annotation number 2: no 'id'; found 'image_id', 'category_id'"),
        ((*A, "image_id", ...), "annotation 0: no 'image_id'"),
        ((*A, "category_id", ...), "annotation 0: no 'category_id'"),
        ((*A, "keypoints", ...), "annotation 0: no 'keypoints'"),
        ((*A, "bbox", ...), "annotation 0: no 'bbox'"),
        ((*A, "id", 5), "annotation 5: a second annotation of this id"),
        ((*A, "id", "5"), "annotation number 2: 'id' is the text '5'"),
        ((*A, "id", True), "annotation number 2: 'id' is the truth value True"),
        ((*A, "id", 2.0), "'id' is the number 2.0; a whole number is wanted"),
        ((*A, "id", 10**30), "a 64-bit number is wanted"),
        ((*A, "image_id", 3), "annotation 0: unknown image_id 3"),
        ((*A, "image_id", None), "annotation 0: 'image_id' is an empty value None"),
        ((*A, "category_id", 2), "annotation 0: unknown category_id 2"),
        ((*A, "iscrowd", 2), "annotation 0: 'iscrowd' is 2; 0 or 1 is wanted"),
        ((*A, "iscrowd", "0"), "annotation 0: 'iscrowd' is '0'"),
        ((*A, "iscrowd", None), "annotation 0: 'iscrowd' is None"),
        ((*A, "keypoints", [1] * 50), "annotation 0: 'keypoints' has 50 numbers; 51 are wanted"),
        ((*A, "keypoints", [1] * 45), "annotation 0: 'keypoints' has 45 numbers; 51 are wanted"),
        ((*A, "keypoints", {}), "annotation 0: 'keypoints' is an object"),
        ((*A, "keypoints", joint(3, "4", 5, 2)), "annotation 0: 'keypoints' holds the text '4'; numbers are wanted"),
        ((*A, "keypoints", joint(3, None, 5, 0)), "'keypoints' holds an empty value None"),
        ((*A, "keypoints", joint(3, NAN, 5, 2)), "annotation 0: joint 'left_ear' is [nan, 5.0, 2.0]; pixels within"),
        ((*A, "keypoints", joint(3, 5, -INF, 1)), "annotation 0: joint 'left_ear' is [5.0, -inf, 1.0]"),
        (
            (*A, "keypoints", joint(3, 5, -1.1e6, 1)),
            "joint 'left_ear' is [5.0, -1100000.0, 1.0]; pixels within 1,000,000",
        ),
        ((*A, "keypoints", joint(3, 5, 10**400, 1)), "annotation 0: 'keypoints' holds a number of over 300 digits"),
        (
            (*A, "keypoints", joint(3, 5, 5, 3)),
            "joint 'left_ear' is [5.0, 5.0, 3.0]; the third number must be 0, 1 or 2",
        ),
        ((*A, "keypoints", joint(3, 5, 5, -1)), "annotation 0: joint 'left_ear' is [5.0, 5.0, -1.0]; the third"),
        ((*A, "keypoints", joint(3, 5, 5, 0.5)), "annotation 0: joint 'left_ear' is [5.0, 5.0, 0.5]; the third"),
        ((*A, "keypoints", joint(3, 5, 5, NAN)), "annotation 0: joint 'left_ear' is [5.0, 5.0, nan]; the third"),
        ((*A, "bbox", [1, 2, 3]), "annotation 0: 'bbox' has 3 numbers; 4 are wanted"),
        ((*A, "bbox", [1, 2, NAN, 4]), "annotation 0: 'bbox' is [1.0, 2.0, nan, 4.0]"),
        ((*A, "bbox", [1, INF, 3, 4]), "annotation 0: 'bbox' is [1.0, inf, 3.0, 4.0]"),
        ((*A, "bbox", [[1], 2, 3, 4]), "annotation 0: 'bbox' holds a list [1]"),
        ((*A, "area", NAN), "annotation 0: 'area' is nan"),
        ((*A, "area", 1e300), "annotation 0: 'area' is 1e+300"),
        ((*A, "area", 10**400), "annotation 0: 'area' holds a number of over 300 digits"),
        ((*A, "area", None), "annotation 0: 'area' is an empty value None; a number is wanted"),
        (("images", []), "'images' is empty"),
        (("images", 0, "id", 1), "image 1: a second image of this id"),
        (("images", 0, "file_name", ...), "image 7: no 'file_name'"),
        (("images", 0, "file_name", 7), "image 7: 'file_name' is the number 7; a text is wanted"),
        (("images", 0, "file_name", ""), "image 7: 'file_name' '' leads out of the images folder"),
        (("images", 0, "file_name", "/etc/passwd"), "image 7: 'file_name' '/etc/passwd' leads out"),
        (("images", 0, "file_name", "../../a.jpg"), "image 7: 'file_name' '../../a.jpg' leads out"),
        (("images", 0, "file_name", "a/../../b.jpg"), "leads out of the images folder"),
        (("images", 0, "file_name", "a\\..\\b.jpg"), "leads out of the images folder"),
        (("images", 0, "file_name", "a\0.jpg"), "leads out of the images folder"),
        (("images", 0, "file_name", "a" * 5000), "image 7: 'file_name' has 5,000 characters"),
        (("images", 0, "file_name", "\ud800.jpg"), "image 7: 'file_name' '\\ud800.jpg' is no valid text"),
        (("images", 0, "width", 0), "image 7: width x height is 0 x 80"),
        (("images", 0, "height", 80.5), "image 7: width x height is 100 x 80.5"),
        (("images", 0, "height", NAN), "image 7: width x height is 100 x nan"),
        (("images", 0, "width", "100"), "image 7: 'width' is the text '100'"),
    ],
)
def test_refused(read, path_and_value, message):
    root = put(content(), *path_and_value)
    if message is None:
        assert len(read(root)[0]) == 2
        return
    with pytest.raises(DataError, match=re.escape(message)) as error:
        read(root)
    assert "people.json: " in str(error.value)


def test_first_five_of_many_are_listed(read):
    root = content()
    root["annotations"] += [person(identity, 1000 + identity) for identity in range(100, 120)]
    with pytest.raises(
        DataError, match=r"annotation 100: unknown image_id 1100.*20 such: 20 \(100, 101, 102, 103, 104, ..."
    ):
        read(root)


def test_nobody_to_train_on_is_an_error(read):
    root = put(put(content(), "annotations", [person(3, iscrowd=1)]), "annotations", 1, person(4, bbox=[0, 0, 0, 0]))
    with pytest.raises(
        DataError, match=r"no person with labelled keypoints.*crowd: 1 \(3\).*without width or height: 1 \(4\)"
    ):
        read(root)


def test_file_name_may_lie_in_a_folder_and_hold_dots(read):
    records, _ = read(put(content(), "images", 0, "file_name", "sub/a..b/été.jpg"))
    assert records.path(1).endswith("images/sub/a..b/été.jpg")


# How much damage is too much


@pytest.mark.parametrize(
    "kept, damaged, fraction, refused",
    [
        (999, 1, 0.001, False),
        (998, 2, 0.001, True),
        (3, 1, 0.001, True),
        (3, 1, 0.25, False),
        (3, 1, 0.2, True),
        (10**6, 100, 0.001, False),
        (10**6, 101, 0.001, True),
        (10**6, 101, 0.002, False),
        (10**6, 3000, 0.002, True),
        (5, 0, 0.0, False),
    ],
)
def test_enforce(kept, damaged, fraction, refused):
    report = Report(
        "coco", "people.json", 9, kept,
        filtered={"crowd": Tally(5000)}, dropped={"box outside the image": Tally(damaged, ("7", "8"))},
    )  # fmt: skip
    if not refused:
        report.enforce(fraction)
        return
    with pytest.raises(
        DataError, match=r"people.json: .* damaged .*box outside the image: .*\(7, 8.*data.max_bad_fraction"
    ):
        report.enforce(fraction)


@pytest.mark.parametrize(
    "column, change, message",
    [
        ("boxes", lambda v: v.astype(np.float32), "boxes is float32"),
        ("boxes", lambda v: v[:, :3], r"boxes is float64 of shape \(3, 3\)"),
        ("areas", lambda v: v * np.float32(NAN), "areas is not finite in 3 instances, annotations 5, 0, 9"),
        ("keypoints", lambda v: v[:, :16], "keypoints is float32"),
        ("keypoints", lambda v: v * np.float32([1, 1, 0]), "an unlabelled joint has coordinates"),
        ("keypoints", lambda v: v + np.float32([0, 0, 2]), "a visibility is not 0, 1 or 2"),
        ("keypoints", lambda v: v + np.float32([INF, 0, 0]), "keypoints is not finite"),
        ("boxes", lambda v: v * [1, 1, -1, 1], "the box is empty"),
        ("image_index", lambda v: v + np.int32(1), "image_index is not in the image table in 2 instances"),
        ("image_index", lambda v: v - np.int32(1), "image_index is not in the image table in 1 instances"),
        ("image_paths", lambda v: v.astype(str), "image_paths is <U"),
        ("image_ids", lambda v: v[:1], "image_ids is int64"),
    ],
)
def test_check_finds_wrong_columns(read, column, change, message):
    records, _ = read(content())
    with pytest.raises(DataError, match=message):
        replace(records, **{column: change(getattr(records, column))}).check()


def test_only_our_errors_escape_from_damaged_annotations(read):
    data, rng, refused = json.dumps(content()).encode(), np.random.default_rng(23), 0
    for _ in range(300):
        try:
            records, _ = read(mutate(data, rng))
            records.check()
        except PoseError:
            refused += 1
    assert 100 < refused < 300


# Large files: decoded in parts, with the same outcome as when they are decoded whole


@pytest.fixture
def read_both(read, monkeypatch):
    """What a file gives in parts of two items and whole: the columns and the report, or the error's words."""

    def outcome(root):
        try:
            records, report = read(root)
        except DataError as error:
            return str(error)
        columns = {name: column for name, column in vars(records).items() if isinstance(column, np.ndarray)}
        return {name: (column.dtype, column.tolist()) for name, column in columns.items()}, records.skeleton, report

    def read_both(root):
        monkeypatch.setattr(document, "CHUNK", 2)
        parts = outcome(root)
        with monkeypatch.context() as patch:
            patch.setattr(document.Document, "_sliced", lambda self: None)
            return parts, outcome(root)

    return read_both


SAMPLES = [
    ("coco/annotations/person_keypoints_train2017.json", None),
    ("coco/annotations/person_keypoints_val2017.json", None),
    ("coco_sample/test_coco.json", None),
    ("aic/test_aic.json", None),
    ("crowdpose/test_crowdpose.json", CROWDPOSE_14),
]


@pytest.mark.parametrize("name, skeleton", SAMPLES)
def test_sound_files_are_never_decoded_whole(name, skeleton, tmp_path, monkeypatch):
    def whole(path):
        raise AssertionError(f"{path} was decoded whole")

    monkeypatch.setattr(document, "load_json", whole)
    options = {"aliases": {"head": "head_top"}} if skeleton else {}
    records, _ = read_coco(sample(name), tmp_path, skeleton, **options)
    columns = [value for name, value in vars(records).items() if name not in ("skeleton", "origins")]
    # Forked workers share the memory of plain arrays, not that of objects.
    assert all(type(column) is np.ndarray and column.dtype.kind in "Sfiu" for column in columns)


@pytest.mark.parametrize("name, skeleton", SAMPLES)
def test_samples_are_the_same_in_parts_and_whole(name, skeleton, read_both):
    parts, whole = read_both(sample(name).read_bytes())
    assert parts == whole and len(parts) == 3


ODD_NUMBERS = (
    "NaN",
    "Infinity",
    "1e999",
    "-1e999",
    "1" + "0" * 30,
    "1" + "0" * 400,
    "-0",
    "1E2",
    "1.5e-400",
    "true",
    "null",
)


@pytest.mark.parametrize("number", ODD_NUMBERS)
@pytest.mark.parametrize(
    "where",
    [
        '"keypoints": [@, 3, 0, ',  # of an unlabelled joint
        '"keypoints": [@, 3, 2, ',
        '"bbox": [@, 20, 40, 50]',
        '"area": @',
        '"iscrowd": @',
        '"id": @',
        '"image_id": @',
        '"category_id": @',
        '"num_keypoints": @',  # not wanted by the reader
    ],
)
def test_odd_numbers_are_the_same_in_parts_and_whole(where, number, read_both):
    text = json.dumps(content())
    key = where.split(":")[0]
    pattern = key + (r": \[\d+, \d+, \d+, " if 'keypoints": [' in where else r": (\[.*?\]|[\d.]+)")
    places = list(re.finditer(pattern, text))
    place = places[-2]  # of the second person of three
    damaged = text[: place.start()] + where.replace("@", number) + text[place.end() :]
    parts, whole = read_both(damaged.encode())
    assert parts == whole


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.decode().encode("utf-16"),
        lambda text: text.replace(b'"iscrowd"', b'"is\\u0063rowd"'),  # the same key
        lambda text: text.replace(b'"id": 9', b'"id": 5, "id": 9'),  # the last one counts
        lambda text: text.replace(b'"id": 9', b'"id": "5", "id": 9'),
        lambda text: text.replace(b'"id": 9', b'"id": 9, "id": "5"'),
        lambda text: text.replace(b'"area": 600.0', b'"bbox": null, "area": 600.0'),
        lambda text: text[:-1] + b', "annotations": []}',
        lambda text: text[:-1] + b', "images": null}',
        lambda text: text.replace(b'"segmentation": []', b'"segmentation": ' + b"[" * 5000 + b"]" * 5000),
        lambda text: text.replace(b'"segmentation": []', b'"segmentation": "\\ud800"'),
        lambda text: text.replace(b'"segmentation": []', b'"segmentation": "\xff"'),  # no UTF-8, in what is not wanted
        lambda text: text.replace(b'"segmentation": []', b'"segmentation": "\xc3\xa9"'),
        lambda text: text.replace(b'"segmentation": []', b'"segmentation": {"size": [80, 100], "counts": "aY1"}'),
        lambda text: text.replace(b'"segmentation": []', b'"segmentation": [01]'),
        lambda text: text.replace(b'"segmentation": []', b'"segmentation": [1,]'),
        lambda text: text.replace(b"001.jpg", "été.jpg".encode()),
        lambda text: text.replace(b"001.jpg", b"\xe9t\xe9.jpg"),
        lambda text: text.replace(b"001.jpg", b"\\ud800.jpg"),
        lambda text: text + b" \n\t",
        lambda text: text + b"\0",
        lambda text: text + text,
    ],
)
def test_odd_files_are_the_same_in_parts_and_whole(change, read_both):
    text = json.dumps(content()).encode()
    assert change(text) != text
    parts, whole = read_both(change(text))
    assert parts == whole


@pytest.mark.parametrize("section, problem", [("annotations", "a second annotation"), ("images", "a second image")])
def test_repetitions_far_apart_are_found(section, problem, read_both):
    """Further apart than the parts in which a file is decoded."""
    root = content()
    root["images"] += [{**root["images"][0], "id": number} for number in range(10, 20)]
    root["annotations"] += [person(number) for number in range(10, 20)]
    assert len(read_both(root)[0]) == 3
    root[section].append({**root[section][0]})
    parts, whole = read_both(root)
    assert parts == whole and problem in parts


def test_the_first_of_two_defects_is_told(read_both):
    """In the order of the checks, not of the annotations."""
    root = put(put(content(), "annotations", 0, "keypoints", []), "annotations", 2, "id", 5)
    parts, whole = read_both(root)
    assert parts == whole and "annotation 5: a second annotation of this id" in parts


def test_damage_is_the_same_in_parts_and_whole(read_both):
    data, rng, sound, longest = json.dumps(content()).encode(), np.random.default_rng(41), 0, 0.0
    for _ in range(1000):
        damaged, start = mutate(data, rng), time.perf_counter()
        parts, whole = read_both(damaged)
        longest = max(longest, time.perf_counter() - start)
        assert parts == whole
        sound += len(parts) == 3
    assert 50 < sound < 500 and longest < 2
