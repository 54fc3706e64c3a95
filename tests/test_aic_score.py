"""AI Challenger's mAP against the organisers' figures, a plain loop of their rule, and damaged files."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
from fuzz import mutate
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_data import golden, sample

from msposenet.errors import ConfigError, DataError, PoseError, ResultError
from msposenet.evaluation.aic import evaluate_aic
from msposenet.evaluation.aic_files import evaluate_aic_files, to_aic_results
from msposenet.evaluation.results import write_results
from msposenet.skeletons import AIC_14

GT = "ground truth"


@pytest.mark.parametrize("predictions", ["aic_pred_500.json", "aic_pred_500_noisy.json"])
def test_the_organisers_figures(predictions):
    expected = json.loads(golden("evaluation/aic_expected.json").read_text())[predictions]
    scores = evaluate_aic_files(
        golden("evaluation/aic_gt_500.json"), golden(f"evaluation/{predictions}"), boxes="detector of the organisers"
    )
    assert scores.values["mAP"] == pytest.approx(expected["full"], abs=1e-9)
    assert f"the organisers' program prints {expected['printed']:.8f}" in scores.notes
    assert "3 of 500 images with people have no pose" in scores.notes
    assert (scores.images, scores.people, scores.results, scores.unit) == (500, 1378, 1369, "")
    assert scores.main == ("mAP", scores.values["mAP"])
    assert list(scores.values) == ["mAP", "AP50", "AP75"]
    assert scores.values["AP50"] >= scores.values["mAP"]


def test_the_organisers_figure_of_whole_numbers(tmp_path):
    """0.7488389 was printed by the organisers' program under Python 2.7; halves that are not rounded give 0.7516691."""
    found = json.loads(golden("evaluation/aic_pred_500_noisy.json").read_text())
    for entry in found:
        people = entry["keypoint_annotations"]
        entry["keypoint_annotations"] = {name: [round(value) for value in joints] for name, joints in people.items()}
    path = file_of(tmp_path, "whole.json", found)
    scores = evaluate_aic_files(golden("evaluation/aic_gt_500.json"), path, boxes="detector of the organisers")
    assert scores.values["mAP"] == pytest.approx(0.7488388969521045, abs=1e-9)


def test_annotations_as_predictions_are_perfect_on_the_real_sample(tmp_path):
    annotations = sample("aic/keypoint_annotations_native.json")
    scores = evaluate_aic_files(annotations, annotations, boxes=GT)
    assert scores.values == {"mAP": 1.0, "AP50": 1.0, "AP75": 1.0}
    assert (scores.images, scores.people, scores.results) == (3, 9, 9)


def pose(x=0.0, y=0.0, flag=2):
    """Joints 10 px apart in a row that begins at x, y."""
    return [[x + 10.0 * joint, float(y), flag] for joint in range(14)]


def person(x=0.0, y=0.0, image="a", box=(-50, -100, 300, 200), flag=2):
    return image, pose(x, y, flag), box


def found(x=0.0, y=0.0, image="a"):
    return image, pose(x, y)


def score(people, results, images=("a",), **options):
    columns = [list(column) for column in zip(*people)] or [[], np.zeros((0, 14, 3)), np.zeros((0, 4))]
    results = [list(column) for column in zip(*results)] or [[], np.zeros((0, 14, 3))]
    return evaluate_aic(*columns, *results, list(images), **{"boxes": GT, **options})


FAR = 9e5  # px: similarity 0
HALF_SEEN = [[*joint[:2], 2 if number < 2 else 1] for number, joint in enumerate(pose())]
HALF_RIGHT = [[0.0, 0.0, 1]] + [[FAR, 0.0, 1]] * 13


@pytest.mark.parametrize(
    ("people", "results", "images", "ap50"),
    [
        ([person()], [found()], "a", 1),
        ([person()], [found(FAR)], "a", 0),
        ([person()], [], "a", 0),
        ([person(), person(FAR, image="b")], [found()], "ab", 1 / 2),
        ([person()], [found(), found(FAR)], "a", 1 / 2),  # a pose too many counts as a person missed
        ([person(), person(FAR)], [found(), found(0.5)], "a", 1 / 2),
        ([person(), person()], [found()], "a", 1),  # one pose serves two people
        ([person(), person(image="b")], [found(), found(FAR), found(FAR), found(image="b")], "ab", 2 / 4),
        ([person()], [found(), found(image="b"), found(image="b")], "ab", 1 / 3),  # picture without people
        ([person()], [found(image="b")], "ab", 0),  # on another picture
        ([person(), person(flag=1)], [found()], "a", 1 / 2),  # hidden joints alone: never found
        ([("a", HALF_SEEN, (0, 0, 100, 100))], [("a", HALF_RIGHT)], "a", 0),  # 0.5 itself is not above 0.5
        ([("a", HALF_SEEN, (0, 0, 100, 100))], [("a", [*pose()[:2], *HALF_RIGHT[2:]])], "a", 1),  # hidden: not asked
    ],
)
def test_the_rule(people, results, images, ap50):
    assert score(people, results, images).values["AP50"] == pytest.approx(ap50)


def test_the_size_of_a_joint_is_two_sigmas_of_the_whole_box_and_one():
    """One visible joint that is off by d: OKS = exp(-d^2 / (2 (2 sigma)^2 (w h + 1)))."""
    sigma, joint = AIC_14.sigmas[7], 7
    flags = np.zeros(14)
    flags[joint] = 2
    truth = np.dstack([np.zeros((1, 14, 2)), flags[None]])
    for area in (0, 50 * 80):
        for threshold in (0.5, 0.75, 0.95):
            limit = 2 * sigma * math.sqrt(-2 * math.log(threshold) * (area + 1))
            for distance, hit in ((limit * 0.999, True), (limit * 1.001, False)):
                pose = np.zeros((1, 14, 2))
                pose[0, joint] = (distance * 0.6, -distance * 0.8)
                boxes = [[-7, -9, 50, 80 if area else 0]]
                values = evaluate_aic(["a"], truth, boxes, ["a"], pose, ["a"], boxes=GT).values
                passed = round((threshold - 0.5) / 0.05) + hit  # of the ten thresholds
                assert values["mAP"] == pytest.approx(passed / 10)
                assert values["AP75"] == (threshold > 0.75 or (threshold == 0.75 and hit))


def test_joints_that_the_model_has_not_are_left_out_and_the_figure_is_not_called_official():
    has = np.array([joint not in ("head_top", "neck") for joint in AIC_14.joints])
    half = np.array(pose())
    half[~has] = np.nan
    scores = score([person()], [("a", half)], predicted_joints=has)
    assert scores.values["mAP"] == 1
    assert scores.notes == ("not predicted and left out: head_top, neck; this is not the official figure",)
    assert score([person()], [("a", np.where(has[:, None], half, FAR))]).values["mAP"] == 0.8  # 12 of 14 asked for


def test_people_without_visible_joint_are_named():
    assert "1 people without a visible joint count as missed" in score([person(), person(flag=0)], [found()]).notes


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([person()], [found()]), {"boxes": ""}, ConfigError, "say whose boxes"),
        (([person()], [found(np.nan)]), {}, ResultError, r"prediction: right_shoulder of person 0 is at \(nan, 0\)"),
        (([person()], [found(), found(2e6)]), {}, ResultError, "right_shoulder of person 1 .* within 1e6 px"),
        (([person(np.inf)], [found()]), {}, DataError, r"ground truth: right_shoulder of person 0 is at \(inf, 0\)"),
        (([person(flag=3)], [found()]), {}, DataError, "right_shoulder of person 0 has the visibility 3; it"),
        (([person(flag=np.nan)], [found()]), {}, DataError, "has the visibility nan; it must be 0, 1 or 2"),
        (([person(box=(0, 0, -5, 5))], [found()]), {}, DataError, r"true box of person 0 is \[0.0, 0.0, -5.0, 5.0\]"),
        (([person(box=(0, 0, 5, np.nan))], [found()]), {}, DataError, "must be finite"),
        (([person(box=(0, 0, 5, 1e200))], [found()]), {}, DataError, "within 1e6 px"),
        (([person(image="c")], [found()]), {}, DataError, r"annotated people on images .* scored: \['c'\] \(1\)"),
        (([person()], [found(image="c")]), {}, ResultError, r"poses on images that are not scored: \['c'\]"),
        (([person()], [found()], "aa"), {}, ConfigError, r"given twice: \['a'\]"),
        (([], [], "ab"), {}, DataError, "nobody is annotated or found on the 2 pictures"),
        (([("a", pose()[:13], (0, 0, 5, 5))], [found()]), {}, DataError, r"shape \(any, 14, 3\), found \(1, 13, 3\)"),
        (([person()], [("a", pose()[:13])]), {}, ResultError, r"shape \(any, 14, any\), found \(1, 13, 3\)"),
        (([person()], [("a", [[0]] * 14)]), {}, ResultError, "must have x and y"),
        (([person()], [found()]), {"whole_numbers": [True, True]}, ResultError, r"whole_numbers .* \(1,\)"),
    ],
)
def test_arrays_that_cannot_be_scored_are_refused(arguments, options, error, message):
    with pytest.raises(error, match=message):
        score(*arguments, **options)


def test_image_ids_are_one_for_each():
    with pytest.raises(ResultError, match="1 poses but 2 image ids"):
        evaluate_aic(["a"], [pose()], [[0, 0, 9, 9]], ["a", "a"], [pose()], ["a"], boxes=GT)


# Files


def file_of(folder, name, content):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def native(people, boxes=True):
    """A native file of {image: {person: (keypoints, corners)}}."""
    return [
        {
            "image_id": image,
            **({"human_annotations": {name: corners for name, (_, corners) in humans.items()}} if boxes else {}),
            "keypoint_annotations": {name: keypoints for name, (keypoints, _) in humans.items()},
        }
        for image, humans in people.items()
    ]


def numbers(x=0, y=0, flag=1):
    return [value for joint in range(14) for value in (x + 20 * joint, y + 3 * joint, flag)]


PEOPLE = {
    "first": {"human1": (numbers(), [0, 0, 300, 60]), "human2": (numbers(40, 90), [20, 80, 330, 150])},
    "second": {"human1": (numbers(7, 8, 2), [0, 0, 290, 55])},
    "third": {},
}


def score_files(tmp_path, annotations, predictions):
    return evaluate_aic_files(
        file_of(tmp_path, "truth.json", annotations), file_of(tmp_path, "found.json", predictions), boxes=GT
    )


def test_flags_of_the_file(tmp_path):
    scores = score_files(tmp_path, native(PEOPLE), native(PEOPLE, boxes=False))
    assert scores.values["mAP"] == pytest.approx(2 / 3)  # nothing of the second picture's person is visible
    assert (scores.images, scores.people, scores.results) == (3, 3, 3)
    unlabelled = [*numbers(0, 0, 1)[:39], math.nan, -1, 3]
    people = {"first": {"human1": (unlabelled, [0, 0, 300, 60])}}
    assert score_files(tmp_path, native(people), native(PEOPLE, boxes=False)[:1]).values["mAP"] == pytest.approx(1 / 2)


def test_half_the_squared_distance_of_whole_numbers_is_rounded_up(tmp_path):
    """Python 2 divides -1 by 2 to -1: a joint off by 1 px is taken to be off by sqrt(2)."""
    area = 1200
    corners, keypoints = [0, 0, 40, 30], [0, 0, 1] + [0, 0, 3] * 13
    real, rounded = (math.exp(-half / (2 * AIC_14.sigmas[0]) ** 2 / (area + 1)) for half in (0.5, 1))
    assert rounded < 0.5 < real
    truth = native({"a": {"human1": (keypoints, corners)}})
    for offset, hits in ((1, 0), (1.0, 1)):
        result = native({"a": {"human1": ([offset, *keypoints[1:]], None)}}, boxes=False)
        scores = score_files(tmp_path, truth, result)
        assert scores.values["AP50"] == hits
        assert any("1 poses in whole numbers" in note for note in scores.notes) == (hits == 0)
    fractions = native({"a": {"human1": ([0.0, *keypoints[1:]], corners)}})
    whole = native({"a": {"human1": ([1, *keypoints[1:]], None)}}, boxes=False)
    assert score_files(tmp_path, fractions, whole).values["AP50"] == 1


@pytest.mark.parametrize("corners", [[300, 60, 0, 0], [300, 0, 0, 60], [0, 60, 300, 0]])
def test_swapped_corners_are_the_same_box(tmp_path, corners):
    people = {"first": {"human1": (numbers(), corners)}}
    right = {"first": {"human1": (numbers(), [0, 0, 300, 60])}}
    result = native({"first": {"human1": (numbers(3), None)}}, boxes=False)
    scores = score_files(tmp_path, native(people), result)
    plain = score_files(tmp_path, native(right), result)
    assert 0.2 < scores.values["mAP"] < 1
    assert scores.values == plain.values
    assert "1 boxes with swapped corners are taken the right way round" in scores.notes[-1]
    assert plain.notes == scores.notes[:-1]


def changed(**values):
    """The annotations of PEOPLE with keys of the first picture replaced, or left out for None."""
    content = native(PEOPLE)
    content[0].update(values)
    content[0] = {key: value for key, value in content[0].items() if value is not None}
    return content


TWO = {"human1": numbers(), "human2": numbers()}
BAD = {
    "a cut file": ('[{"image_id": "first"', "not whole JSON"),
    "an object": ({"first": 1}, "expected a list"),
    "no list of objects": ([3], "image 0 must be an object, found 3"),
    "no image id": (changed(image_id=None), "image 0 .* has no 'image_id'"),
    "no keypoints": (changed(keypoint_annotations=None), "has no 'keypoint_annotations'"),
    "a number as image id": (changed(image_id=7), "image 0: image_id must be text, found 7"),
    "a list as image id": (changed(image_id=[]), "must be a whole number or text"),
    "an image twice": (changed(image_id="second"), r"images that occur twice: \['second'\]"),
    "people in a list": (changed(keypoint_annotations=[]), "image 'first': keypoint_annotations must be an object"),
    "50 numbers": (changed(keypoint_annotations={**TWO, "human2": [1] * 50}), "'human2': .* 42 numbers, found 50"),
    "no numbers": (changed(keypoint_annotations={**TWO, "human1": None}), "'human1': .* 42 numbers, found None"),
    "text": (changed(keypoint_annotations={**TWO, "human1": ["1"] * 41 + ["x"]}), "must be plain numbers"),
    "NaN": (changed(keypoint_annotations={**TWO, "human1": [math.nan, *numbers()[1:]]}), "holds nan"),
    "far": (
        changed(keypoint_annotations={**TWO, "human1": [2e6, *numbers()[1:]]}),
        "human1': keypoint_annotations holds 2e\\+06; .* beyond 1e6 px",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("side", ["annotations", "predictions"])
def test_files_that_cannot_be_scored_are_refused_with_their_place(tmp_path, side, case):
    content, message = BAD[case]
    sides = {"annotations": native(PEOPLE), "predictions": native(PEOPLE, boxes=False), side: content}
    error = DataError if side == "annotations" else ResultError
    with pytest.raises(error, match=message) as raised:
        score_files(tmp_path, **sides)
    named = {"annotations": "truth.json", "predictions": "found.json"}[side]
    assert named in str(raised.value)


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        (changed(human_annotations=None), "has no 'human_annotations'"),
        (changed(human_annotations={"human1": [0, 0, 9, 9]}), "image 'first': 'human2' is in only one of"),
        (changed(human_annotations={"human1": [0, 0, 9], "human2": [0, 0, 9, 9]}), "must be 4 numbers, found 3"),
        (changed(human_annotations={"human1": [0, 0, 9, 9], "human2": [0, 0, math.inf, 9]}), "holds inf"),
        (changed(human_annotations={"human1": [0, 0, 9, 9], "human2": [0, 0, 1e300, 9]}), "human2': .* holds 1e\\+300"),
        (changed(keypoint_annotations={**TWO, "human2": numbers(flag=0)}), "right_shoulder has the flag 0"),
        (changed(keypoint_annotations={**TWO, "human2": numbers(flag=1.5)}), "right_shoulder has the flag 1.5"),
        (changed(keypoint_annotations={**TWO, "human2": numbers(flag=math.nan)}), "right_shoulder has the flag nan"),
    ],
)
def test_annotations_that_cannot_be_trusted_are_refused(tmp_path, annotations, message):
    with pytest.raises(DataError, match=message) as error:
        score_files(tmp_path, annotations, native(PEOPLE, boxes=False))
    assert "truth.json" in str(error.value)


def test_predictions_of_other_images_are_refused(tmp_path):
    others = native({f"{number}.jpg": {} for number in range(7)}, boxes=False)
    with pytest.raises(ResultError, match=r"does not hold: \['0.jpg', .* '4.jpg'\] \(7\).*without extension"):
        score_files(tmp_path, native(PEOPLE), others)


def test_missing_files_are_refused(tmp_path):
    truth = file_of(tmp_path, "truth.json", native(PEOPLE))
    with pytest.raises(DataError, match=r"absent\.json: no such file"):
        evaluate_aic_files(tmp_path / "absent.json", truth, boxes=GT)
    with pytest.raises(ResultError, match=r"absent\.json: no such file"):
        evaluate_aic_files(truth, tmp_path / "absent.json", boxes=GT)


def test_predictions_survive_the_file(tmp_path):
    rng = np.random.default_rng(4)
    truth = np.array([keypoints for humans in PEOPLE.values() for keypoints, _ in humans.values()]).reshape(3, 14, 3)
    poses = truth + rng.normal(0, 3, truth.shape)
    names = ["first", "first", "second"]
    results = to_aic_results(names, poses)
    assert [entry["image_id"] for entry in results] == ["first", "second"]
    assert list(results[0]["keypoint_annotations"]) == ["human1", "human2"]
    written = np.array(results[1]["keypoint_annotations"]["human1"]).reshape(14, 3)
    np.testing.assert_array_equal(written, np.hstack([poses[2, :, :2], np.ones((14, 1))]))
    annotations = file_of(tmp_path, "truth.json", native(PEOPLE))
    path = write_results(tmp_path / "found.json", results)
    corners = np.array([corners for humans in PEOPLE.values() for _, corners in humans.values()], float)
    truth[..., 2] = 3 - truth[..., 2]
    arrays = evaluate_aic(
        names, truth, np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]), names, poses, [*PEOPLE], boxes=GT
    )
    assert evaluate_aic_files(annotations, path, boxes=GT) == arrays
    assert 0 < arrays.values["mAP"] < 2 / 3
    assert to_aic_results([], np.zeros((0, 14, 3))) == []
    with pytest.raises(ResultError, match="right_elbow of person 1"):
        poses[1, 1] = np.inf
        to_aic_results(names, poses)


@pytest.mark.parametrize("damaged", ["truth.json", "found.json"])
def test_only_pose_errors_leave_a_damaged_file(tmp_path, damaged):
    rng = np.random.default_rng(11)
    paths = [
        file_of(tmp_path, "truth.json", native(PEOPLE)),
        file_of(tmp_path, "found.json", native(PEOPLE, boxes=False)),
    ]
    whole = (tmp_path / damaged).read_bytes()
    outcomes = {"scored": 0, "refused": 0}
    for _ in range(1000):
        (tmp_path / damaged).write_bytes(mutate(whole, rng))
        start = time.process_time()
        try:
            values = evaluate_aic_files(*paths, boxes=GT).values
        except PoseError:
            outcomes["refused"] += 1
        else:
            outcomes["scored"] += 1
            assert 0 <= values["mAP"] <= 1
        assert time.process_time() - start < 2
    assert min(outcomes.values()) > 100


# Properties


def plain_loop(scene):
    """The organisers' rule person by person, with Python's own integers for whole numbers."""
    people, results, images = scene
    best, total = [], 0
    for image in images:
        here = [entry for entry in people if entry[0] == image]
        poses = [entry[1] for entry in results if entry[0] == image]
        total += max(len(here), len(poses))
        for _, keypoints, (_, _, width, height) in here:
            visible = [number for number in range(14) if keypoints[number][2] == 2]
            similar = [0.0]
            for joints in poses:
                terms = [
                    math.exp(
                        -sum((keypoints[number][axis] - joints[number][axis]) ** 2 for axis in (0, 1))
                        / 2
                        / (2 * AIC_14.sigmas[number]) ** 2
                        / (width * height + 1)
                    )
                    for number in visible
                ]
                similar.append(sum(terms) / len(terms) if terms else 0.0)
            best.append(max(similar))
    precision = [sum(oks > 0.5 + 0.05 * step for oks in best) / total for step in range(10)]
    return {"mAP": sum(precision) / 10, "AP50": precision[0], "AP75": precision[5]}


@st.composite
def scenes(draw):
    """People and poses on three pictures, in quarter pixels, as `score` takes them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    people, results = [], []
    for _ in range(draw(st.integers(1, 6))):
        image = "abc"[rng.integers(3)]
        xy = rng.integers(0, 800, (14, 2)) / 4
        flags = rng.choice([0, 1, 2], (14, 1), p=[0.2, 0.2, 0.6])
        people.append((image, np.hstack([xy, flags]).tolist(), (*xy.min(0).tolist(), 100.0, 200.0)))
        for _ in range(rng.integers(3)):
            noisy = xy + rng.integers(-20, 21, (14, 2)) / 4
            results.append(("abc"[rng.integers(3)] if rng.random() < 0.2 else image, noisy.tolist()))
    return people, results, "abc"


@settings(deadline=None)
@given(scenes())
def test_a_plain_loop_gives_the_same(scene):
    assert score(*scene).values == pytest.approx(plain_loop(scene), abs=1e-12)


@settings(deadline=None)
@given(scenes())
def test_perfect_poses_of_people_who_are_seen_give_1(scene):
    seen = [entry for entry in scene[0] if any(joint[2] == 2 for joint in entry[1])]
    if seen:
        scores = score(seen, [entry[:2] for entry in seen], "abc")
        assert scores.values == {"mAP": 1.0, "AP50": 1.0, "AP75": 1.0}


@settings(deadline=None)
@given(scenes(), st.integers(-500, 500), st.integers(-500, 500), st.randoms())
def test_moving_mirroring_and_reordering_change_nothing(scene, right, down, random):
    people, results, images = scene
    values = score(*scene).values

    def changed(change):
        return (
            [(image, change(np.array(joints)), box) for image, joints, box in people],
            [(image, change(np.array(joints))) for image, joints in results],
            images,
        )

    assert score(*changed(lambda joints: joints + [right, down, 0][: joints.shape[1]])).values == values
    # Without an exchange of left and right: they have sigmas of their own here.
    assert score(*changed(lambda joints: joints * [-1, 1, 1][: joints.shape[1]])).values == values
    shuffled = [random.sample(entries, len(entries)) for entries in (people, results, images)]
    assert score(*shuffled).values == values
