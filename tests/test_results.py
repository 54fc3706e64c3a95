"""Pose scores, suppression per image and result files."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from shared_data import load_golden

from msposenet.errors import ConfigError, ResultError
from msposenet.evaluation.results import (
    check_results,
    people_json,
    read_results,
    rescore,
    suppress,
    to_coco_results,
    write_results,
)
from msposenet.skeletons import COCO_17, LSP_14

SIGMAS = COCO_17.sigma_array


def three_poses() -> tuple[list[int], np.ndarray, np.ndarray, np.ndarray]:
    """Three far poses: image ids, keypoints, scores, boxes."""
    keypoints = np.zeros((3, 17, 3), np.float32)
    keypoints[..., :2] = np.arange(17)[:, None] + 100 * np.arange(3)[:, None, None]
    keypoints[..., 2] = 0.7
    return [7, 7, 9], keypoints, np.array([0.5, 0.75, 0.25], np.float32), np.array([[1.0, 2, 3, 4]] * 3)


def test_rescoring_and_suppression_are_the_reference():
    case = load_golden("decoding/rescoring.npz")
    areas, box_scores = case["center_scale_area_boxscore"][:, 4:].T
    scores = rescore(box_scores, case["keypoints"])
    kept = suppress(case["image_id"], case["keypoints"], scores, areas, sigmas=SIGMAS)
    assert case["image_id"][kept].tolist() == case["result_image_id"].tolist()
    np.testing.assert_allclose(scores[kept], case["result_score"], rtol=0, atol=1e-9)
    assert np.array_equal(case["keypoints"][kept], case["result_keypoints"])


@pytest.mark.parametrize(
    ("joint_scores", "expected"),
    [([0.9, 0.5, 0.2], 0.5 * 0.7), ([0.2, 0.1, -1.0], 0.0), ([0.9, 0.3, 0.3], 0.5 * 0.5)],
)
def test_pose_score_counts_joints_above_the_threshold_only(joint_scores, expected):
    keypoints = np.zeros((1, 3, 3))
    keypoints[0, :, 2] = joint_scores
    assert rescore([0.5], keypoints)[0] == pytest.approx(expected, abs=1e-12)
    assert rescore([0.5], keypoints, threshold=0.95)[0] == 0


def test_images_come_in_order_of_first_appearance_and_poses_by_falling_score():
    keypoints = np.zeros((5, 17, 3))
    keypoints[:, :, 0] = np.array([0, 1000, 0, 0, 2000])[:, None]
    rows = suppress(["b", "a", "b", "a", "a"], keypoints, [0.1, 0.2, 0.3, 0.4, 0.5], np.full(5, 100.0), sigmas=SIGMAS)
    assert rows.tolist() == [2, 4, 3, 1]
    soft = suppress(
        ["b", "a", "b", "a", "a"], keypoints, [0.1, 0.2, 0.3, 0.4, 0.5], np.full(5, 100.0), sigmas=SIGMAS, soft=True
    )
    assert soft.tolist() == [2, 0, 4, 3, 1]
    assert suppress([], keypoints[:0], [], [], sigmas=SIGMAS).tolist() == []


@pytest.mark.parametrize("column", [1, 2, 3])
def test_suppression_names_the_image_of_a_nan(column):
    arguments = [["first", "second"], np.zeros((2, 17, 3)), np.ones(2), np.ones(2)]
    arguments[column][1] = np.nan
    with pytest.raises(ResultError, match="second"):
        suppress(*arguments, sigmas=SIGMAS)
    with pytest.raises(ResultError, match="2 image ids but 1"):
        suppress(["first", "second"], *[values[:1] for values in arguments[1:]], sigmas=SIGMAS)


def test_results_are_plain_numbers_and_survive_the_file(tmp_path):
    image_ids, keypoints, scores, boxes = three_poses()
    results = to_coco_results(np.array(image_ids), keypoints, scores, boxes, category_id=1)
    assert [sorted(result) for result in results] == [["bbox", "category_id", "image_id", "keypoints", "score"]] * 3
    assert [type(value) for value in results[0].values()] == [int, int, list, float, list]
    assert {type(value) for value in results[0]["keypoints"] + results[0]["bbox"]} == {float}
    assert results[1]["keypoints"][:6] == [100.0, 100.0, float(np.float32(0.7)), 101.0, 101.0, float(np.float32(0.7))]
    assert (results[1]["image_id"], results[1]["score"], results[1]["bbox"]) == (7, 0.75, [1.0, 2.0, 3.0, 4.0])
    path = write_results(tmp_path / "new" / "keypoints.json", results)
    assert read_results(path, num_joints=17, image_ids=[7, 9], category_id=1) == results
    assert os.listdir(path.parent) == ["keypoints.json"]
    assert "bbox" not in to_coco_results(image_ids, keypoints, scores, None)[0]
    assert read_results(write_results(path, [])) == []


@pytest.mark.parametrize("column", [1, 2, 3])
def test_results_are_not_made_of_nan(column):
    arguments = list(three_poses())
    arguments[column] = arguments[column].copy()
    arguments[column][2] = np.inf
    with pytest.raises(ResultError, match=r"image 9: .* inf"):
        to_coco_results(*arguments)


def test_nothing_is_written_when_a_value_is_not_finite(tmp_path):
    results = to_coco_results(*three_poses())
    path = write_results(tmp_path / "keypoints.json", results)
    before = path.read_bytes()
    for value in (float("nan"), np.float32(1)):
        broken = [*results[:2], {**results[2], "score": value}]
        with pytest.raises(ResultError, match="image 9: score"):
            write_results(path, broken)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["keypoints.json"]


def test_a_path_that_can_be_no_file_is_refused_and_nothing_left(tmp_path):
    (tmp_path / "keypoints.json").mkdir()
    with pytest.raises(ConfigError, match=r"keypoints\.json: is a folder"):
        write_results(tmp_path / "keypoints.json", [])
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError):
        write_results(tmp_path / "file" / "keypoints.json", [])
    assert sorted(os.listdir(tmp_path)) == ["file", "keypoints.json"]


def changed(**values):
    return [*to_coco_results(*three_poses()), {**to_coco_results(*three_poses())[2], **values}]


def without(key):
    records = changed()
    del records[3][key]
    return records


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (changed(score=float("nan")), "result 3 of image 9: score holds nan"),
        (changed(keypoints=[float("inf")] * 51), "result 3 of image 9: keypoints holds inf"),
        (changed(keypoints=[1.0] * 50), "result 3 of image 9: keypoints must be 51 numbers, found 50"),
        (changed(keypoints=[1.0] * 45), "found 45"),
        (changed(keypoints=["left"] * 51), "must be plain numbers"),
        (changed(keypoints=[[1.0]] * 51), "must be plain numbers"),
        (changed(keypoints=None), "must be 51 numbers, found None"),
        (changed(keypoints=[10**400] * 51), "must be plain numbers"),
        (changed(keypoints=[2e6] * 51), "beyond 1e6"),
        (changed(score=None), "score"),
        (changed(image_id=11), "unknown images 11 \\(1 results\\)"),
        (changed(image_id=[9]), "must be a whole number or text"),
        (changed(category_id=2), "must have category 1, found categories 2"),
        (without("score"), "result 3 \\(image_id 9\\) has no 'score'"),
        (without("image_id"), "result 3 \\(no id\\) has no 'image_id'"),
        ([3], "result 0 must be an object, found 3"),
        ({"annotations": []}, "expected a list"),
    ],
)
def test_bad_results_are_refused_with_their_place(tmp_path, records, message):
    path = tmp_path / "keypoints.json"
    path.write_text(json.dumps(records))
    with pytest.raises(ResultError, match=message) as error:
        read_results(path, num_joints=17, image_ids=[7, 9], category_id=1)
    assert str(path) in str(error.value)


def test_first_five_unknown_images_are_listed():
    image_ids = list(range(20, 32))
    results = to_coco_results(image_ids, np.zeros((12, 17, 3)), np.ones(12), None)
    with pytest.raises(ResultError, match="unknown images 20, 21, 22, 23, 24 \\(12 results\\)"):
        check_results(results, 17, image_ids=[1])


def test_joint_count_is_taken_from_the_first_result_unless_given():
    results = to_coco_results([1, 2], np.zeros((2, 14, 3)), np.ones(2), None)
    assert check_results(results)[1].shape == (2, 14, 3)
    with pytest.raises(ResultError, match="must be 51 numbers, found 42"):
        check_results(results, 17)


@pytest.mark.parametrize("content", [b"", b"[{", b"<html>", b"\xff\xfe\x00", b"[" * 100_000, b"9" * 10_000])
def test_files_that_are_no_json_are_refused(tmp_path, content):
    path = tmp_path / "keypoints.json"
    path.write_bytes(content)
    with pytest.raises(ResultError, match=r"keypoints\.json"):
        read_results(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ResultError, match=r"absent\.json: no such file"):
        read_results(tmp_path / "absent.json")


def test_only_pose_errors_leave_a_damaged_file(tmp_path):
    rng = np.random.default_rng(5)
    whole = json.dumps(to_coco_results(*three_poses())).encode()
    path = tmp_path / "keypoints.json"
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(whole), rng.integers(1, 6)):
            damaged[position] = rng.choice(list(b'0e-.,:[]{}"nN'))
        path.write_bytes(damaged)
        try:
            read_results(path, num_joints=17, image_ids=[7, 9], category_id=1)
        except ResultError:
            refused += 1
    assert refused > 200


def test_people_of_a_picture_by_joint_name():
    _, keypoints, scores, boxes = three_poses()
    page = people_json("a.jpg", 640, 480, COCO_17, keypoints[1:2], scores[1:2], boxes[1:2])
    assert list(page) == ["image", "width", "height", "skeleton", "people"]
    assert (page["image"], page["width"], page["height"], page["skeleton"]) == ("a.jpg", 640, 480, "coco17")
    (person,) = page["people"]
    assert (person["bbox"], person["score"]) == ([1.0, 2.0, 3.0, 4.0], 0.75)
    assert list(person["keypoints"]) == list(COCO_17.joints)
    assert person["keypoints"]["left_eye"] == [101.0, 101.0, float(np.float32(0.7))]
    assert json.loads(json.dumps(page, allow_nan=False)) == page
    assert people_json("a.jpg", 640, 480, COCO_17, [], [], [])["people"] == []
    with pytest.raises(ResultError, match=r"a\.jpg: keypoints of skeleton lsp14 must be \(1, 14, 3\)"):
        people_json("a.jpg", 640, 480, LSP_14, keypoints[:1], scores[:1], boxes[:1])
