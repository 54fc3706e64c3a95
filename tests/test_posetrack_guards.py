"""PoseTrack files and poses that must not be scored, each with the error that says why."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from fuzz import mutate
from posetrack_scene import all_in_form_18, arrays, perfect, scene, written

from msposenet.errors import ConfigError, DataError, PoseError, ResultError
from msposenet.evaluation.posetrack import evaluate_posetrack, evaluate_posetrack_poses
from msposenet.skeletons import Skeleton

pytestmark = pytest.mark.filterwarnings("error")
TRUTH, FOUND = scene()
TRUTH_18, FOUND_18 = all_in_form_18(TRUTH), all_in_form_18(FOUND)
FIRST = "000001_video.json"
NAN = float("nan")


def spoiled(files, *path, value=None, remove=False):
    """A copy of `files` with the value at `path` in the first file set or removed."""
    files = copy.deepcopy(files)
    place = files[FIRST]
    for step in path[:-1]:
        place = place[step]
    if remove:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return files


def with_frame_twice(files, key, entries):
    return spoiled(files, key, value=[*files[FIRST][key], *entries])


RECT = ("annolist", 0, "annorect", 0)
POINT = (*RECT, "annopoints", 0, "point", 0)
PERSON = ("annotations", 0)

# What both sides refuse: (form 17 or 18, path, value, message).
EITHER = [
    (17, (*POINT, "x"), [NAN], "frame 'images/val/000001_video/000000.jpg', person 0, joint .*: x must be a finite"),
    (17, (*POINT, "y"), ["3"], "y must be a finite number, found \\['3'\\]"),
    (17, (*POINT, "y"), None, "y must be a finite number, found None"),
    (17, (*POINT, "x"), [1, 2], "x must be a finite number, found \\[1, 2\\]"),
    (17, (*POINT, "x"), [10**400], "x must be a finite number"),
    (17, (*POINT, "x"), [True], "x must be a finite number"),
    (17, (*POINT, "x"), [-2e6], "x is -2e\\+06, beyond 1e6 px"),
    (17, (*POINT, "id"), [15], "a point's id must be 0 to 14, found 15"),
    (17, (*POINT, "id"), [-1], "a point's id must be 0 to 14, found -1"),
    (17, (*POINT, "id"), [1.0], "a point's id must be 0 to 14, found 1.0"),
    (17, (*RECT, "track_id"), [-1], "track_id must be a whole number from 0"),
    (17, (*RECT, "track_id"), ["a"], "track_id must be a whole number from 0"),
    (17, (*RECT, "annopoints"), 3, "'annopoints' must be a list of objects, found 3"),
    (17, ("annolist", 0, "annorect"), [3], "'annorect' must be a list of objects"),
    (17, ("annolist", 0, "image"), [{"name": 3}], "frame 0: 'image' must be one object with a 'name'"),
    (17, ("annolist", 0, "image"), [], "frame 0: 'image' must be one object with a 'name'"),
    (17, ("annolist", 0), 3, "frame 0 must be an object, found 3"),
    (17, ("annolist",), {}, "expected a list, one frame each, found dict"),
    (17, ("annolist", 1, "image"), TRUTH[FIRST]["annolist"][0]["image"], "000000.jpg' occurs twice; keep one"),
    (18, (*PERSON, "keypoints"), [1.0] * 50, "annotation 0 of image 1000: keypoints must be 51 numbers, found 50"),
    (18, (*PERSON, "keypoints"), [NAN] * 51, "annotation 0 of image 1000: keypoints holds nan"),
    (18, (*PERSON, "keypoints"), [2e6] * 51, "annotation 0 of image 1000 has a coordinate beyond 1e6 px"),
    (18, (*PERSON, "image_id"), 9, "annotation 0 of image 9: the image is not among the images"),
    (18, (*PERSON, "image_id"), None, "the id None must be a whole number or text"),
    (18, (*PERSON, "track_id"), 1.5, "track_id must be a whole number from 0"),
    (18, ("images", 1, "id"), 1000, "frame 1000 occurs twice; keep one"),
    (18, ("images", 0, "file_name"), 3, "image 1000: file_name must be text, found 3"),
    (18, ("images", 0, "vid_id"), [1], "image 1000, vid_id: the id \\[1\\] must be a whole number or text"),
    (18, ("images",), 3, "expected a list, one image each, found int"),
    (18, ("categories",), [], "'categories' must be one, with the joints' names"),
    (18, ("categories", 0, "keypoints"), ["a"], "its category names no joint of PoseTrack, found \\['a'\\]"),
]


@pytest.mark.parametrize(("form", "path", "value", "message"), EITHER, ids=range(len(EITHER)))
@pytest.mark.parametrize("side", ["annotations", "predictions"])
def test_what_both_sides_refuse(tmp_path, side, form, path, value, message):
    truth, found = (TRUTH, FOUND) if form == 17 else (TRUTH_18, FOUND_18)
    if side == "annotations":
        truth = spoiled(truth, *path, value=value)
    else:
        found = spoiled(found, *path, value=value)
    truth, found = written(tmp_path / "truth", truth), written(tmp_path / "found", found)
    with pytest.raises(DataError if side == "annotations" else ResultError, match=message) as error:
        evaluate_posetrack(truth, found)
    assert str((truth if side == "annotations" else found) / FIRST) in str(error.value)


REGION = [{"point": [{"x": [0], "y": [0]}, {"x": [NAN], "y": [1]}, {"x": [3], "y": [3]}]}]


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (spoiled(TRUTH, *RECT, "x2", remove=True), "person 0, head box: x2 must be a finite number, found None"),
        (
            spoiled(spoiled(TRUTH, *RECT, "x2", value=TRUTH[FIRST]["annolist"][0]["annorect"][0]["x1"]), *RECT, "y1",
                    value=TRUTH[FIRST]["annolist"][0]["annorect"][0]["y2"]),
            "person 0: the head box is 0 x 0 px",
        ),
        (spoiled(TRUTH_18, *PERSON, "bbox_head", remove=True), "of image 1000 has joints but no 'bbox_head'"),
        (spoiled(TRUTH_18, *PERSON, "bbox_head", value=[1, 2, 0, 0]), "0 of image 1000: the head box is 0 x 0"),
        (spoiled(TRUTH_18, *PERSON, "bbox_head", value=[1, 2, 3, NAN]), "the head box is 3 x nan"),
        (spoiled(TRUTH_18, *PERSON, "bbox_head", value=[1, 2, 3]), "bbox_head must be 4 numbers, found 3 values"),
        (spoiled(TRUTH, *RECT, "track_id", remove=True), "frame 1 has people without track_id"),
        (spoiled(TRUTH, "annolist", 0, "ignore_regions", value=REGION), "ignore region 0: x must be a finite number"),
        (spoiled(TRUTH_18, "images", 0, "ignore_regions_x", value=[[1, 2, 3]]), "must be lists of one length"),
        (
            spoiled(spoiled(TRUTH_18, "images", 0, "ignore_regions_x", value=[[1, 2, 1e300]]), "images", 0,
                    "ignore_regions_y", value=[[1, 2, 3]]),
            "image 1000: ignore region 0 must be finite and within 1e6 px",
        ),
        (
            spoiled(spoiled(TRUTH_18, "images", 0, "ignore_regions_x", value=[[1, 2, 3]]), "images", 0,
                    "ignore_regions_y", value=[[1, 2]]),
            "image 1000: ignore region 0 must have as many x as y",
        ),
        (spoiled(TRUTH_18, "categories", 0, "keypoints", value=["nose"] * 17), "its category names no right_ankle"),
        (all_in_form_18({"a.json": TRUTH[FIRST]}) | {FIRST: TRUTH_18[FIRST]}, "the image id 1000 occurs twice"),
        ({FIRST: {"people": []}}, "expected PoseTrack's 'annolist'"),
        ({FIRST: []}, "expected PoseTrack's 'annolist'"),
        (
            {FIRST: {"annolist": [{**frame, "annorect": []} for frame in TRUTH[FIRST]["annolist"]]}},
            "no joint is annotated in the 0 frames",
        ),
        ({}, "no .json file in the folder"),
    ],
)  # fmt: skip
def test_annotations_that_cannot_be_trusted_are_refused(tmp_path, truth, message):
    folder = written(tmp_path / "truth", truth)
    found = written(tmp_path / "found", FOUND_18 if "images" in truth.get(FIRST, ()) else FOUND)
    with pytest.raises(DataError, match=message) as error:
        evaluate_posetrack(folder, found if len(truth) == 2 or not truth else found / FIRST)
    assert str(folder) in str(error.value)


def twice_in_a_frame(files):
    track = files[FIRST]["annolist"][0]["annorect"][0]["track_id"]
    return spoiled(files, "annolist", 0, "annorect", 1, "track_id", value=track)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (spoiled(FOUND, *POINT, "score", value=[NAN]), "joint .*: score must be a finite number"),
        (spoiled(FOUND_18, *PERSON, "scores", value=[NAN] * 17), "annotation 0 of image 1000: scores holds nan"),
        (spoiled(FOUND_18, *PERSON, "scores", value=[0.5] * 15), "scores must be 17 numbers, found 15 values"),
        (spoiled(FOUND, *POINT, "id", value=[2]), "joint 2 is given twice; keep one"),
        (
            spoiled(FOUND, *RECT, "track_id", value=[10000]),
            "track_id must be a whole number from 0 to 9999, found 10000",
        ),
        (spoiled(FOUND_18, *PERSON, "track_id", value=10000), "track_id must be a whole number from 0 to 9999"),
        (spoiled(FOUND, *RECT, "track_id", remove=True), "predictions of frame 1 of .* have people without track_id"),
        (twice_in_a_frame(FOUND), "predictions of frame 1 of .*: track 5. is given 2 times"),
        (spoiled(FOUND, "annolist", 1, "image", value=[{"name": "b.jpg"}]), r"not annotated: \['b.jpg'\] \(1\)"),
        (spoiled(FOUND_18, "images", 3, "file_name", remove=True), "has images without 'file_name'"),
        ({**FOUND, "c.json": FOUND[FIRST]}, r"found: c.json \(1 files\) have no annotations of that name"),
        ({"c.json": FOUND[FIRST]}, "no file is named as a sequence, such as 000001_video.json"),
    ],
)
def test_predictions_that_cannot_be_trusted_are_refused(tmp_path, found, message):
    truth = written(tmp_path / "truth", TRUTH)
    with pytest.raises(ResultError, match=message):
        evaluate_posetrack(truth, written(tmp_path / "found", found))


def test_absurd_numbers_are_no_warnings(tmp_path):
    truth = written(tmp_path / "truth", spoiled(TRUTH_18, *PERSON, "bbox_head", value=[1, 2, 1e-300, 0]))
    numbers = [1000 * (1 + (number - 1) // 4) + (number - 1) % 4 for number in NUMBERS]
    hostile = POSES.copy()
    hostile[:, 7] = np.inf
    has = np.arange(15) != 7
    scores = evaluate_posetrack_poses(
        truth, numbers, hostile, np.full(len(POSES), 1e300), boxes="none", predicted_joints=has
    )
    assert 5 < scores.values["AP Total"] < 95
    with pytest.raises(ResultError, match="right_elbow of pose 0 is"):
        evaluate_posetrack_poses(truth, numbers, hostile, np.zeros(len(POSES)), boxes="none")


def test_frames_of_the_18_form_go_by_id(tmp_path):
    truth = written(tmp_path / "truth", TRUTH_18)
    other = spoiled(FOUND_18, "images", 0, "id", value=77)
    for entry in other[FIRST]["annotations"]:
        entry["image_id"] = 77 if entry["image_id"] == 1000 else entry["image_id"]
    with pytest.raises(ResultError, match=r"frames that are not annotated: \[77\] \(1\)"):
        evaluate_posetrack(truth, written(tmp_path / "found", other))


def test_tracks_are_not_asked_for_without_tracking(tmp_path):
    truth, found = copy.deepcopy(TRUTH), copy.deepcopy(FOUND)
    with_tracks = evaluate_posetrack(written(tmp_path / "a", truth), written(tmp_path / "b", found), tracking=False)
    for files in (truth, found):
        for content in files.values():
            for frame in content["annolist"]:
                for person in frame["annorect"]:
                    del person["track_id"]
    without = evaluate_posetrack(written(tmp_path / "c", truth), written(tmp_path / "d", found), tracking=False)
    assert without.values == with_tracks.values


def test_an_annotated_joint_given_twice_counts_once_and_the_first(tmp_path):
    truth = copy.deepcopy(TRUTH)
    points = truth[FIRST]["annolist"][0]["annorect"][0]["annopoints"][0]["point"]
    points.append({**points[0], "x": [9999.0]})
    found = written(tmp_path / "found", perfect(TRUTH))
    assert set(evaluate_posetrack(written(tmp_path / "truth", truth), found).values.values()) == {100.0}


def test_people_without_points_are_nobody_in_the_17_form(tmp_path):
    truth, found = copy.deepcopy(TRUTH), copy.deepcopy(FOUND)
    for number, hollow in enumerate(([], [{}], {"other": 3})):
        truth[FIRST]["annolist"][number]["annorect"].append({"track_id": [70], "annopoints": hollow})
        found[FIRST]["annolist"][number]["annorect"].append({"track_id": [70]})
    before = evaluate_posetrack(written(tmp_path / "a", TRUTH), written(tmp_path / "b", FOUND), tracking=False)
    after = evaluate_posetrack(written(tmp_path / "c", truth), written(tmp_path / "d", found), tracking=False)
    # Frame 2 lists somebody now, so that its predictions are scored: all false.
    assert (before.images, after.images) == (6, 7)
    assert after.people == before.people
    assert after.results == before.results + 3
    assert after.per_joint["recall"] == before.per_joint["recall"]
    assert after.per_joint["precision"]["Total"] < before.per_joint["precision"]["Total"]


NUMBERS, POSES, TRACKS = arrays(FOUND)


def poses_with(row, joint, values):
    poses = POSES.copy()
    poses[row, joint] = values
    return poses


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keypoints": poses_with(0, 3, [NAN, 1, 1])}, r"frame 1: left_hip of pose 0 is \(nan, 1.0, 1.0\)"),
        ({"keypoints": poses_with(0, 3, [1, 1, NAN])}, r"frame 1: left_hip of pose 0 is \(1.0, 1.0, nan\)"),
        ({"keypoints": poses_with(0, 3, [1, -2e6, 1])}, "within 1e6 px"),
        ({"keypoints": POSES[:, :14]}, r"keypoints of posetrack15 must have the shape \(any, 15, 3\), found"),
        ({"keypoints": "many"}, "keypoints of posetrack15 must be plain numbers"),
        ({"image_ids": NUMBERS[1:]}, f"{len(NUMBERS)} poses but {len(NUMBERS) - 1} image ids"),
        ({"image_ids": [0, *NUMBERS[1:]]}, r"does not list: \[0\] \(1\); are they its image ids"),
        ({"image_ids": [None, *NUMBERS[1:]]}, "pose 0: the id None must be a whole number or text"),
        ({"scores": np.full(len(POSES), NAN)}, r"is \(.*nan\); x, y and score must be finite"),
        ({"scores": np.ones(3)}, "scores must have the shape"),
        ({"track_ids": TRACKS[1:]}, f"track_ids must be {len(TRACKS)} whole numbers"),
        ({"track_ids": TRACKS * 1.0}, "whole numbers, found float64"),
        ({"track_ids": TRACKS - 100}, "track_ids must be 0 to 9999, found -"),
        ({"track_ids": TRACKS + 9999}, "track_ids must be 0 to 9999, found 100"),
        ({"track_ids": TRACKS * 0}, "predictions of frame 1 of .*: track 0 is given 3 times"),
    ],
)
def test_poses_that_cannot_be_trusted_are_refused(tmp_path, options, message):
    truth = written(tmp_path / "truth", TRUTH)
    given = {"image_ids": NUMBERS, "keypoints": POSES, "boxes": "none", **options}
    with pytest.raises(ResultError, match=message):
        evaluate_posetrack_poses(truth, **given)


def test_what_else_is_refused(tmp_path):
    truth, found = written(tmp_path / "truth", TRUTH), written(tmp_path / "found", FOUND)
    with pytest.raises(ConfigError, match="say whose boxes"):
        evaluate_posetrack(truth, found, boxes="")
    with pytest.raises(ConfigError, match="skeleton tail predicts none of PoseTrack's joints"):
        evaluate_posetrack_poses(
            truth, [], np.zeros((0, 1, 3)), boxes="none", skeleton=Skeleton("tail", ("tail",), (), (0.1,))
        )
    with pytest.raises(DataError, match=r"do not list: \[99\]"):
        evaluate_posetrack(truth, found, image_ids=[1, 99])
    with pytest.raises(DataError, match="no joint is annotated in the 0 frames"):
        evaluate_posetrack(truth, found, image_ids=[3])
    with pytest.raises(ResultError, match="is one file, but there are 2 sequences"):
        evaluate_posetrack(truth, found / FIRST)
    with pytest.raises(ResultError, match=r"absent: no such file"):
        evaluate_posetrack(truth / FIRST, tmp_path / "absent")
    with pytest.raises(DataError, match=r"absent: no such file"):
        evaluate_posetrack(tmp_path / "absent", found)


@pytest.mark.parametrize("form", [17, 18])
@pytest.mark.parametrize("side", ["annotations", "predictions"])
def test_only_pose_errors_leave_damaged_files(tmp_path, form, side):
    sides = (
        {"annotations": TRUTH, "predictions": FOUND}
        if form == 17
        else {"annotations": TRUTH_18, "predictions": FOUND_18}
    )
    whole, paths = {}, {}
    for name, files in sides.items():
        content = copy.deepcopy(files[FIRST])
        if form == 17:
            content["annolist"] = content["annolist"][:2]
        else:
            content["images"] = content["images"][:2]
            content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] < 1002]
        whole[name], paths[name] = json.dumps(content).encode(), tmp_path / f"{name}.json"
        paths[name].write_bytes(whole[name])
    rng = np.random.default_rng(4)
    refused = 0
    for number in range(1000):
        paths[side].write_bytes(mutate(whole[side], rng))
        try:
            evaluate_posetrack(paths["annotations"], paths["predictions"], tracking=number % 20 == 0)
        except PoseError:
            refused += 1
    assert 200 < refused < 1000
