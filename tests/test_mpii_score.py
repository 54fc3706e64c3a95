"""MPII's PCKh against the reference's figures, and what must not change it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_data import golden, load_golden, sample

from msposenet.errors import ConfigError, DataError, ResultError
from msposenet.evaluation.mpii import FIGURES, evaluate_mpii, pckh
from msposenet.skeletons import LSP_14, MPII_16

QUIRK = {"Mean@0.1": "Mean@0.11"}  # the reference's name: ours


def against(expected, scores):
    return {name: scores.values[QUIRK.get(name, name)] - value for name, value in expected.items()}


def hourglass():
    """Predictions, truth, labelled joints and head sizes of the 2,958 validation people."""
    truth = load_golden("evaluation/mpii_gt.npz")
    corners = truth["headboxes_src"]
    return (
        load_golden("evaluation/mpii_pred_hg_s1_b1.npz")["preds_1based"],
        truth["pos_gt_src"].transpose(2, 0, 1),
        truth["jnt_missing"].T == 0,
        0.6 * np.linalg.norm(corners[1] - corners[0], axis=0),
    )


def test_the_reference_figures_of_the_validation_people():
    people = hourglass()
    scores = evaluate_mpii(*people, boxes="ground truth", images=2729)
    expected = json.loads(golden("evaluation/mpii_expected.json").read_text())["hg_s1_b1"]
    assert max(map(abs, against(expected, scores).values())) < 1e-9
    assert list(scores.values) == [*FIGURES, "Mean", "Mean@0.1", "Mean@0.11"]
    assert (scores.people, scores.images, scores.results, scores.unit) == (2958, 2729, 2958, "%")
    assert scores.main == ("Mean", scores.values["Mean"] / 100)
    # At 0.1 itself, joint by joint.
    predicted, truth, labelled, head_sizes = people
    near = [
        np.hypot(*(predicted[person, joint] - truth[person, joint])) <= 0.1 * head_sizes[person]
        for person, joint in np.argwhere(labelled)
        if MPII_16.joints[joint] not in ("pelvis", "thorax")
    ]
    assert scores.values["Mean@0.1"] == pytest.approx(100 * np.mean(near), abs=1e-9)
    assert scores.values["Mean@0.11"] - scores.values["Mean@0.1"] > 1


@pytest.mark.parametrize("variant", ["shift", "noshift", "noflip"])
def test_the_reference_figures_of_whole_test_runs(variant):
    run = load_golden("end_to_end/hrnet_w32_mpii.npz")
    people = json.loads(sample("mpii/valid.json").read_text())[:16]
    head_sizes = json.loads(sample("mpii/valid_head_sizes.json").read_text())[:16]
    scores = evaluate_mpii(
        run[f"{variant}_keypoints"][..., :2] + 1,
        [person["joints"] for person in people],
        [person["joints_vis"] for person in people],
        head_sizes,
        boxes="ground truth",
    )
    expected = dict(zip(run["pckh_names"].tolist(), run[f"{variant}_pckh"].tolist()))
    assert max(map(abs, against(expected, scores).values())) < 1e-9
    assert expected["Mean"] > 0.9


def figure(people=1, head_size=10.0):
    """People with every joint labelled, and their predictions, which are right: predicted, truth, labelled, sizes."""
    truth = np.arange(people * 32, dtype=np.float64).reshape(people, 16, 2) * 20
    return [truth.copy(), truth, np.ones((people, 16), bool), np.full(people, head_size)]


def moved(joint, pixels, person=0, **values):
    people = figure(**values)
    people[0][person, MPII_16.index(joint)] += (0, -pixels)
    return people


@pytest.mark.parametrize(
    ("people", "changed"),
    [
        (figure(), {}),
        (moved("left_knee", 5), {"Mean@0.1": 1, "Mean@0.11": 1}),
        (moved("left_knee", 5.1), {"Mean": 1, "Mean@0.1": 1, "Mean@0.11": 1, "Knee": 50}),
        (moved("left_knee", 5.1, head_size=11), {"Mean@0.1": 1, "Mean@0.11": 1}),
        (moved("left_knee", 1), {}),
        (moved("left_knee", 1.05), {"Mean@0.1": 1}),
        (moved("head_top", 99), {"Mean": 1, "Mean@0.1": 1, "Mean@0.11": 1, "Head": 100}),
        (moved("neck", 99), {"Mean": 1, "Mean@0.1": 1, "Mean@0.11": 1}),
        (moved("pelvis", 99), {}),
        (moved("thorax", 99), {}),
        (moved("left_wrist", 99, person=1, people=2), {"Mean": 0.5, "Mean@0.1": 0.5, "Mean@0.11": 0.5, "Wrist": 25}),
    ],
)
def test_which_joint_counts_in_which_figure(people, changed):
    """`changed`: what is missing from 100, for the means in joints of a person."""
    values = evaluate_mpii(*people, boxes="ground truth").values
    lost = {name: 100 - value for name, value in values.items() if value != 100}
    assert lost == pytest.approx({name: part * (100 / 14 if "Mean" in name else 1) for name, part in changed.items()})


def test_a_part_is_the_mean_of_its_sides_however_often_each_is_labelled():
    people = moved("left_hip", 99, people=4)
    people[2][1:, MPII_16.index("left_hip")] = False
    scores = evaluate_mpii(*people, boxes="ground truth")
    assert scores.values["Hip"] == 50
    assert scores.values["Mean"] == pytest.approx(100 * 52 / 53)


def test_hits_are_counted_by_joint():
    hits, labelled = pckh(*moved("left_hip", 6, people=3), found=np.array([True, True, False]))
    assert labelled.tolist() == [3] * 16
    assert hits.tolist() == [1 if joint == "left_hip" else 2 for joint in MPII_16.joints]


def test_people_without_prediction_miss_and_may_be_nan():
    predicted, *rest = figure(people=4)
    predicted[2] = np.nan
    scores = evaluate_mpii(predicted, *rest, boxes="ground truth", found=[True, True, False, True])
    assert set(scores.values.values()) == {75.0}
    assert (scores.people, scores.results) == (4, 3)
    assert "1 of 4 people have no prediction and miss every joint" in scores.notes


def test_joints_that_the_model_has_not_are_left_out_and_named():
    predicted, truth, labelled, head_sizes = figure()
    has = np.array([joint not in ("head_top", "left_wrist") for joint in MPII_16.joints])
    predicted[:, ~has] = np.nan
    scores = evaluate_mpii(predicted, truth, labelled, head_sizes, boxes="ground truth", predicted_joints=has)
    assert list(scores.values) == [name for name in (*FIGURES, "Mean", "Mean@0.1", "Mean@0.11") if name != "Head"]
    assert set(scores.values.values()) == {100.0}
    assert scores.notes[0].startswith("not predicted and left out of every figure: head_top, left_wrist;")
    assert scores.notes[1] == "no figure for Head: no joint that is both labelled and predicted"
    assert scores.notes[2] == "Mean@0.11 is what HRNet and MSPN print as Mean@0.1"


def test_unlabelled_joints_may_be_nan():
    predicted, truth, labelled, head_sizes = figure(people=2)
    truth[1], labelled[1], predicted[0, 3] = np.nan, False, np.nan
    labelled[0, 3] = False
    scores = evaluate_mpii(predicted, truth, labelled, head_sizes, boxes="ground truth")
    assert set(scores.values.values()) == {100.0}
    assert scores.people == 1


def spoilt(position, place, value):
    people = figure(people=2)
    people[position][place] = value
    return people


@pytest.mark.parametrize(
    ("people", "options", "error", "message"),
    [
        (figure(), {"boxes": " "}, ConfigError, "say whose boxes were used"),
        (spoilt(0, (1, 9), np.nan), {}, ResultError, r"prediction: head_top of person 1 is at \(nan, nan\)"),
        (spoilt(0, (1, 9, 1), -2e6), {}, ResultError, "head_top of person 1 .* within 1e6 px"),
        (spoilt(1, (0, 0, 0), np.inf), {}, DataError, r"ground truth: right_ankle of person 0 is at \(inf, 20\)"),
        (spoilt(3, 1, 0), {}, DataError, "head sizes: that of person 1 is 0; correct it"),
        (spoilt(3, 1, np.nan), {}, DataError, "head sizes: that of person 1 is nan"),
        (spoilt(2, slice(None), False), {}, DataError, "no joint of mpii16 but pelvis and thorax is labelled"),
        (figure(), {"skeleton": LSP_14}, DataError, r"true joints of lsp14 must have the shape \(any, 14, 2\)"),
        ([figure(2)[0], *figure()[1:]], {}, ResultError, r"must have the shape \(1, 16, 2\), found \(2, 16, 2\)"),
        ([*figure()[:3], [1.0, 2.0]], {}, DataError, r"head sizes must have the shape \(1,\), found \(2,\)"),
        ([*figure()[:3], ["small"]], {}, DataError, r"head sizes must be plain numbers, found \['small'\]"),
        (figure(), {"predicted_joints": [True] * 14}, ConfigError, r"predicted_joints must have the shape \(16,\)"),
        (figure(), {"found": [True] * 3}, ResultError, r"found must have the shape \(1,\)"),
    ],
)
def test_input_that_cannot_be_scored_is_refused_with_its_place(people, options, error, message):
    with pytest.raises(error, match=message):
        evaluate_mpii(*people, **{"boxes": "ground truth", **options})


@st.composite
def scenes(draw):
    """Some people with quarter pixels and eighths of head sizes, so that moving and doubling are exact."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    people = draw(st.integers(1, 6))
    truth = rng.integers(0, 4000, (people, 16, 2)) / 4
    predicted = truth + rng.integers(-60, 61, (people, 16, 2)) / 4
    labelled = rng.random((people, 16)) < draw(st.sampled_from([0.3, 0.9]))
    labelled[0, 0] = True
    return predicted, truth, labelled, rng.integers(40, 400, people) / 8


@settings(deadline=None)
@given(scenes())
def test_right_predictions_give_100(scene):
    _, truth, labelled, head_sizes = scene
    assert set(evaluate_mpii(truth, truth, labelled, head_sizes, boxes="gt").values.values()) == {100.0}


@settings(deadline=None)
@given(scenes(), st.integers(-1000, 1000), st.integers(-1000, 1000), st.sampled_from([0.25, 0.5, 2, 8]))
def test_moving_scaling_and_mirroring_the_picture_change_nothing(scene, right, down, zoom):
    predicted, truth, labelled, head_sizes = scene
    values = evaluate_mpii(*scene, boxes="gt").values
    shift = np.array([right, down])
    assert evaluate_mpii(predicted + shift, truth + shift, labelled, head_sizes, boxes="gt").values == values
    assert evaluate_mpii(predicted * zoom, truth * zoom, labelled, head_sizes * zoom, boxes="gt").values == values
    swap, mirror = MPII_16.flip_index, np.array([-1, 1])
    mirrored = [xy[:, swap] * mirror + (999, 0) for xy in (predicted, truth)]
    assert evaluate_mpii(*mirrored, labelled[:, swap], head_sizes, boxes="gt").values == pytest.approx(values)


@settings(deadline=None)
@given(scenes())
def test_a_wider_threshold_never_loses_a_hit(scene):
    values = evaluate_mpii(*scene, boxes="gt").values
    assert values["Mean@0.1"] <= values["Mean@0.11"] <= values["Mean"]
