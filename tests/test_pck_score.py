"""PCK and OKS-AP of any skeleton: the scores of a trained reference, and what must not change them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import loadmat
from shared_data import golden, load_golden, sample

from msposenet.errors import ConfigError, DataError, ResultError
from msposenet.evaluation.pck import evaluate_pck, oks_ap, pck
from msposenet.evaluation.results import rescore
from msposenet.skeletons import COCO_17, LSP_14, MPII_16, Skeleton

GT = "ground truth"
PARTS = ["Head", "Neck", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle"]
VALIDATION = slice(2400, 2700)


def leeds():
    """x, y and visibility (2,700, 14, 3) of LSP Extended."""
    joints = loadmat(sample("lsp_extended/joints.mat"))["joints"].transpose(2, 0, 1).astype(np.float64)
    return np.dstack([joints[..., :2], np.where(joints[..., 2] == 1, 2, 0)])


def reference_boxes():
    return load_golden("lsp_reference/pred_val.npz")["bbox"]


def scored(poses, scores, **options):
    boxes = reference_boxes()
    return evaluate_pck(
        poses,
        leeds()[VALIDATION],
        boxes[:, 2] * boxes[:, 3],
        np.arange(2401, 2701),
        LSP_14,
        scores,
        boxes=GT,
        **options,
    )


def reference_poses():
    found = load_golden("lsp_reference/pred_val.npz")
    return np.dstack([found["preds"], found["maxvals"]]).astype(np.float64)


def test_the_scores_of_the_trained_reference():
    expected = json.loads(golden("lsp_reference/results_val.json").read_text())["val"]
    poses = reference_poses()
    scores = scored(poses, rescore(np.ones(300), poses))
    assert list(scores.values) == ["PCK@0.2", *PARTS, "OKS-AP", "AP50", "AP75", "mean OKS"]
    oks = expected["oks_ap"]
    for name, value in (
        ("PCK@0.2", expected["pck@0.2"]["mean_over_labelled_joints"]),
        ("Head", expected["pck@0.2"]["per_joint"]["head"]),
        ("Neck", expected["pck@0.2"]["per_joint"]["neck"]),
        ("OKS-AP", oks["AP"]),
        ("AP50", oks["AP50"]),
        ("AP75", oks["AP75"]),
        ("mean OKS", oks["mean_oks"]),
    ):
        assert scores.values[name] == pytest.approx(100 * value, abs=1e-9), name
    assert (scores.people, scores.images, scores.results, scores.unit) == (300, 300, 300, "%")
    left_out = 300 - expected["pck@0.2"]["persons"]
    assert scores.notes == (f"{left_out} of 300 people lack left_shoulder or right_hip and are not in PCK",)
    assert scores.main == ("PCK@0.2", scores.values["PCK@0.2"] / 100)


def test_the_reference_joint_by_joint():
    expected = json.loads(golden("lsp_reference/results_val.json").read_text())["val"]["pck@0.2"]
    truth = leeds()[VALIDATION]
    shoulder, hip = LSP_14.index("left_shoulder"), LSP_14.index("right_hip")
    kept = (truth[:, [shoulder, hip], 2] > 0).all(axis=1)
    torso = np.hypot(*(truth[:, shoulder, :2] - truth[:, hip, :2]).T)
    hits, labelled = pck(
        reference_poses()[kept, :, :2], truth[kept, :, :2], truth[kept, :, 2] > 0, torso[kept], threshold=0.2
    )
    assert (kept.sum(), labelled.sum()) == (expected["persons"], expected["labelled_joints"])
    short = {"left": "l", "right": "r", "head_top": "head", "neck": "neck"}
    names = ["_".join([short.get(joint.split("_")[0], ""), joint.split("_")[-1]]) for joint in LSP_14.joints[:12]]
    names += ["neck", "head"]
    assert dict(zip(names, hits / labelled)) == pytest.approx(expected["per_joint"], abs=1e-12)


def grown(boxes):
    """Centre (N, 2) and width (N,) of the boxes at 3:4, enlarged by a quarter."""
    return boxes[:, :2] + boxes[:, 2:] / 2, 1.25 * np.maximum(boxes[:, 2], 0.75 * boxes[:, 3])


def test_the_mean_pose_of_the_training_set_scores_as_published():
    joints = leeds()
    train = joints[:2400]
    boxes = np.zeros((2400, 4))
    for row, person in enumerate(train):
        with Image.open(sample(f"lsp_extended/images/im{row + 1:05d}.jpg")) as picture:
            limit = np.array(picture.size) - 1
        xy = person[person[:, 2] > 0, :2]
        low, high = xy.min(axis=0), xy.max(axis=0)
        margin = 0.15 * (high - low)
        low, high = np.maximum(low - margin, 0), np.minimum(high + margin, limit)
        boxes[row] = [*low, *(high - low)]
    centre, width = grown(boxes)
    labelled = train[..., 2:] > 0
    in_box = np.where(labelled, (train[..., :2] - centre[:, None]) / width[:, None, None], 0)
    mean_pose = in_box.sum(axis=0) / labelled.sum(axis=0)
    centre, width = grown(reference_boxes())
    poses = np.dstack([centre[:, None] + mean_pose * width[:, None, None], np.ones((300, 14))])
    values = scored(poses, np.ones(300)).values
    assert [round(values[name], digits) for name, digits in (("PCK@0.2", 2), ("OKS-AP", 2), ("mean OKS", 1))] == [
        5.09, 0.00, 17.0,
    ]  # fmt: skip


def test_true_heatmaps_decoded_score_as_published():
    """What a 24 x 32 map with whole pixels can give at best; a joint whose Gaussian is wholly outside goes to 0, 0."""
    centre, width = grown(reference_boxes())
    to_map = 24 / width[:, None, None]
    in_map = np.trunc((leeds()[VALIDATION, :, :2] - centre[:, None]) * to_map + (12, 16) + 0.5)
    outside = ((in_map < -4) | (in_map > np.array([23, 31]) + 5)).any(axis=2)
    peaks = np.where(outside[..., None], 0, np.clip(in_map, 0, (23, 31)))
    poses = np.dstack([centre[:, None] + (peaks - (12, 16)) / to_map, np.ones((300, 14))])
    values = scored(poses, np.ones(300)).values
    assert round(values["PCK@0.2"], 2) == 99.14
    assert round(values["OKS-AP"], 2) == 99.89
    assert round(values["mean OKS"], 1) == 97.9


# Hand-made people: the reference is 100 px long, so a joint may be off by 20 px.

SHOULDER, HIP, WRIST = (LSP_14.index(joint) for joint in ("left_shoulder", "right_hip", "left_wrist"))


def upright(people=1, skeleton=LSP_14, reference=("left_shoulder", "right_hip")):
    truth = np.dstack([np.zeros((people, skeleton.num_joints, 2)), np.full((people, skeleton.num_joints), 2.0)])
    truth[..., 0] = 1000 + 30 * np.arange(skeleton.num_joints)
    truth[..., 1] = 500 + 300 * np.arange(people)[:, None]
    for joint, xy in zip(reference, ((1000, 40), (1060, 120))):
        truth[:, skeleton.index(joint), :2] = np.array(xy) + np.arange(people)[:, None] * (0, 300)
    return truth


def found(truth, **moves):
    poses = truth.copy()
    poses[..., 2] = 0.9
    for joint, xy in moves.items():
        poses[0, LSP_14.index(joint), :2] += xy
    return poses


def score(truth, poses, skeleton=LSP_14, areas=None, images=None, scores=None, **options):
    people = len(truth)
    return evaluate_pck(
        poses,
        truth,
        np.full(people, 40000.0) if areas is None else areas,
        np.arange(people) if images is None else images,
        skeleton,
        np.ones(people) if scores is None else scores,
        **{"boxes": GT, **options},
    )


@pytest.mark.parametrize(
    ("moves", "options", "changed"),
    [
        ({}, {}, {}),
        ({"left_wrist": (12, -16)}, {}, {}),
        ({"left_wrist": (12.1, -16)}, {}, {"Wrist": 50, "PCK@0.2": 100 / 14}),
        ({"neck": (21, 0), "right_wrist": (0, -21)}, {}, {"Wrist": 50, "Neck": 100, "PCK@0.2": 200 / 14}),
        ({"neck": (49, 0)}, {"threshold": 0.5}, {}),
        ({"neck": (51, 0)}, {"threshold": 0.5}, {"Neck": 100, "PCK@0.5": 100 / 14}),
        # left knee (index 4) and neck (12) are 240 px apart
        ({"left_wrist": (47, 0)}, {"reference": ("left_knee", "neck")}, {}),
        ({"left_wrist": (49, 0)}, {"reference": ("left_knee", "neck")}, {"Wrist": 50, "PCK@0.2": 100 / 14}),
    ],
)
def test_which_joint_is_hit(moves, options, changed):
    truth = upright()
    values = score(truth, found(truth, **moves), **options).values
    lost = {
        name: 100 - value for name, value in values.items() if value != 100 and "O" not in name and "AP" not in name
    }
    assert lost == pytest.approx(changed)
    assert next(iter(values)) == f"PCK@{options.get('threshold', 0.2)}"


def test_people_without_the_reference_are_not_in_pck_but_in_oks():
    truth = upright(3)
    truth[1, HIP] = 0
    truth[2, WRIST] = 0
    poses = found(truth)
    poses[1, :, :2] += 9000
    scores = score(truth, poses)
    assert scores.values["PCK@0.2"] == 100
    assert scores.values["mean OKS"] == pytest.approx(200 / 3)
    assert scores.notes[0] == "1 of 3 people lack left_shoulder or right_hip and are not in PCK"
    poses[0, WRIST, 0] += 21
    assert score(truth, poses).values["PCK@0.2"] == pytest.approx(100 * 26 / 27)
    assert score(truth, poses).values["Wrist"] == pytest.approx(100 * 2 / 3)


def test_a_short_reference_has_no_lower_limit():
    truth = upright()
    truth[0, SHOULDER, :2] = truth[0, HIP, :2]
    assert score(truth, found(truth)).values["PCK@0.2"] == 100
    assert score(truth, found(truth, neck=(1, 0))).values["PCK@0.2"] == pytest.approx(100 * 13 / 14)


def test_the_similarity_is_that_of_0_53_of_the_box():
    """Only the wrist is labelled besides the reference: OKS = (2 + exp(-d^2 / (2 area (2 sigma)^2))) / 3."""
    truth = upright()
    truth[0, [row for row in range(14) if row not in (SHOULDER, HIP, WRIST)]] = 0
    area, distance = 10000.0, 12.0
    near = math.exp(-(distance**2) / (2 * 0.53 * area * (2 * LSP_14.sigmas[WRIST]) ** 2))
    oks = (2 + near) / 3
    assert 0.75 < oks < 0.95
    values = score(truth, found(truth, left_wrist=(0, distance)), areas=[area]).values
    assert values["mean OKS"] == pytest.approx(100 * oks)
    assert values["AP50"] == values["AP75"] == pytest.approx(100)
    passed = sum(oks >= 0.5 + 0.05 * step for step in range(10))
    assert values["OKS-AP"] == pytest.approx(10 * passed)


def test_ap_sorts_by_the_scores_given():
    truth = upright(2)
    poses = found(truth, neck=(9000, 9000), left_wrist=(9000, 9000), right_hip=(9000, 0), left_hip=(9000, 0),
                  left_knee=(9000, 0), head_top=(9000, 0), right_knee=(9000, 0))  # fmt: skip
    poses[0, :, :2] += 5000
    good_last, good_first = (score(truth, poses, scores=order).values for order in ([0.9, 0.1], [0.1, 0.9]))
    assert good_first["AP50"] == pytest.approx(100 * 51 / 101)
    assert good_last["AP50"] == pytest.approx(100 * 51 / 101 / 2)
    assert good_first["PCK@0.2"] == good_last["PCK@0.2"] == 50


def test_parts_go_by_the_flip_pairs_of_any_skeleton():
    skeleton = Skeleton(
        name="own",
        joints=("rwri", "tail_end", "lwri", "right_hip", "left_hip", "left_shoulder", "right_shoulder", "head"),
        flip_pairs=(("lwri", "rwri"), ("left_hip", "right_hip"), ("left_shoulder", "right_shoulder")),
        sigmas=(0.05,) * 8,
    )
    truth = upright(2, skeleton)
    poses = found(truth)
    poses[0, 2, 0] += 500
    poses[1, 1, 1] += 500
    values = score(truth, poses, skeleton).values
    assert list(values)[1:-4] == ["Shoulder", "Hip", "Lwri/rwri", "Tail end", "Head"]
    assert [values[name] for name in ("Lwri/rwri", "Tail end", "Hip", "Head")] == [75, 50, 100, 100]
    with pytest.raises(ConfigError, match="skeleton 'own' has no joint 'neck'"):
        score(truth, poses, skeleton, reference=("neck", "right_hip"))


@pytest.mark.parametrize(
    ("skeleton", "parts"),
    [
        (COCO_17, ["Nose", "Eye", "Ear", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle"]),
        (LSP_14, PARTS),
        (MPII_16, ["Head", "Neck", "Thorax", "Shoulder", "Elbow", "Wrist", "Pelvis", "Hip", "Knee", "Ankle"]),
    ],
)
def test_parts_from_head_to_foot(skeleton, parts):
    truth = upright(2, skeleton)
    scores = score(truth, found(truth), skeleton)
    values = scores.values
    assert scores.notes == ()
    assert list(values) == ["PCK@0.2", *parts, "OKS-AP", "AP50", "AP75", "mean OKS"]
    assert list(values.values()) == pytest.approx([100] * len(values))


def test_a_head_and_its_top_are_two_parts():
    skeleton = Skeleton("two", ("head", "head_top", "tail"), (), (0.05,) * 3)
    truth = upright(2, skeleton, ("head", "tail"))
    values = score(truth, found(truth), skeleton, reference=("head", "tail")).values
    assert list(values)[1:-4] == ["Head top", "Head", "Tail"]


def test_hits_are_counted_by_joint():
    truth = upright(3)
    poses = found(truth, neck=(30, 0))
    hits, labelled = pck(
        poses[..., :2], truth[..., :2], truth[..., 2] > 0, [100, 100, 100], found=np.array([True, True, False])
    )
    assert labelled.tolist() == [3] * 14
    assert hits.tolist() == [1 if joint == "neck" else 2 for joint in LSP_14.joints]


def test_people_without_pose_miss_and_may_be_nan():
    truth = upright(4)
    poses = found(truth)
    poses[3] = np.nan
    scores = score(truth, poses, found=[True, True, True, False], scores=[1, 1, 1, np.nan])
    assert (scores.values["PCK@0.2"], scores.values["mean OKS"], scores.results) == (75, 75, 3)
    assert scores.values["OKS-AP"] == pytest.approx(100 * 76 / 101)
    assert "1 of 4 people have no pose and miss every joint" in scores.notes
    nobody = score(truth, poses, found=[False] * 4)
    assert (nobody.values["PCK@0.2"], nobody.values["OKS-AP"], nobody.values["mean OKS"]) == (0, 0, 0)


def test_joints_that_the_model_has_not_are_left_out_but_measure():
    truth = upright(2)
    has = np.array([joint not in ("neck", "left_shoulder") for joint in LSP_14.joints])
    poses = found(truth)
    poses[:, ~has] = np.nan
    scores = score(truth, poses, predicted_joints=has)
    assert list(scores.values)[1:-4] == [part for part in PARTS if part != "Neck"]
    assert list(scores.values.values()) == pytest.approx([100] * 12)
    assert scores.notes[0].startswith("not predicted and left out of every figure: left_shoulder, neck;")
    assert scores.notes[1] == "no figure for Neck: no joint that is both labelled and predicted"


def test_people_without_joints_are_left_out_with_their_poses():
    truth = upright(3)
    poses = found(truth)
    truth[2, :, :2], truth[2, :, 2] = np.nan, 0
    scores = score(truth, poses, images=["a", "a", "a"], scores=[0.5, 0.6, 0.9])
    assert list(scores.values.values()) == pytest.approx([100] * 13)
    assert (scores.people, scores.images) == (2, 1)
    assert "1 people without a joint to score are left out with their poses" in scores.notes


def spoilt(position, place, value):
    truth = upright(2)
    people = [truth, found(truth)]
    people[position][place] = value
    return people


GOOD = [upright(2), found(upright(2))]


@pytest.mark.parametrize(
    ("people", "options", "error", "message"),
    [
        (GOOD, {"boxes": ""}, ConfigError, "say whose boxes were used"),
        (GOOD, {"threshold": 0}, ConfigError, "threshold of PCK must be positive, found 0"),
        (GOOD, {"threshold": np.nan}, ConfigError, "threshold of PCK must be positive, found nan"),
        (GOOD, {"reference": ("neck", "neck")}, ConfigError, r"two different joints, found \['neck', 'neck'\]"),
        (GOOD, {"reference": ("neck", "nose")}, ConfigError, "'lsp14' has no joint 'nose'"),
        (GOOD, {"areas": [1, 0]}, DataError, "box areas: that of person 1 is 0"),
        (GOOD, {"areas": [1, np.inf]}, DataError, "box areas: that of person 1 is inf"),
        (GOOD, {"areas": [1]}, DataError, r"box areas must have the shape \(2,\), found \(1,\)"),
        (GOOD, {"images": [1]}, DataError, "2 annotated people but 1 image ids"),
        (GOOD, {"scores": [1, np.nan]}, ResultError, "image 1: scores holds nan"),
        (GOOD, {"scores": [1]}, ResultError, r"scores must have the shape \(2,\)"),
        (GOOD, {"found": [True]}, ResultError, r"found must have the shape \(2,\)"),
        (GOOD, {"predicted_joints": [True]}, ConfigError, r"predicted_joints must have the shape \(14,\)"),
        (GOOD, {"skeleton": MPII_16}, DataError, r"true keypoints of mpii16 must have the shape \(any, 16, 3\)"),
        ([GOOD[0], GOOD[1][:1]], {}, ResultError, r"must have the shape \(2, 14, 3\), found \(1, 14, 3\)"),
        (spoilt(1, (1, 12, 0), np.nan), {}, ResultError, "prediction: neck of person 1 is at .nan"),
        (spoilt(1, (1, 12, 0), 1e7), {}, ResultError, "neck of person 1 .* within 1e6 px"),
        (spoilt(1, (1, 12, 2), np.nan), {}, ResultError, "image 1: keypoints holds nan"),
        (spoilt(0, (1, 12, 0), np.nan), {}, DataError, "ground truth: neck of person 1 is at .nan"),
        (spoilt(0, (1, 12, 2), np.nan), {}, DataError, "true keypoints: person 1: visibility holds nan"),
        (spoilt(0, (slice(None), HIP, 2), 0), {}, DataError, "nobody of 2 people has both left_shoulder and right_hip"),
    ],
)
def test_input_that_cannot_be_scored_is_refused_with_its_place(people, options, error, message):
    with pytest.raises(error, match=message):
        score(*people, **options)


def test_ap_of_arrays_takes_several_poses_a_picture_and_refuses_strange_ones():
    truth = upright(2)
    poses = found(truth)
    four = np.concatenate([poses, poses + np.array([9000, 0, 0])])
    arrays = [truth, [9e3, 9e3], [5, 5], four, [0.9, 0.8, 0.95, 0.1], [5] * 4]
    scores = oks_ap(*arrays, LSP_14, boxes=GT)
    assert (scores.people, scores.results, scores.images) == (2, 4, 1)
    assert abs(scores.AP - 2 / 3) < 1e-12  # behind a false pose
    for position, value, error, message in (
        (1, [9e3, -1], DataError, "areas: that of person 1 is -1"),
        (2, [5], DataError, "2 annotated people but 1 image ids"),
        (4, [1.0], ResultError, r"scores must have the shape \(4,\)"),
        (5, [5, 5, 6, 6], ResultError, r"unknown images 6 \(2 results\)"),
        (0, truth[:, :13], DataError, r"true keypoints of lsp14 must have the shape \(any, 14, 3\)"),
    ):
        with pytest.raises(error, match=message):
            oks_ap(*[value if row == position else array for row, array in enumerate(arrays)], LSP_14, boxes=GT)


@st.composite
def scenes(draw):
    """Truth, poses, areas, images and scores in quarter pixels, so that moving and doubling are exact."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    people = draw(st.integers(1, 5))
    xy = rng.integers(0, 2000, (people, 14, 2)) / 4
    truth = np.dstack([xy, rng.choice([0, 1, 2], (people, 14), p=[0.3, 0.2, 0.5])])
    truth[0, :, 2] = 2
    poses = np.dstack([xy + rng.integers(-200, 201, xy.shape) / 4, rng.random((people, 14))])
    return truth, poses, rng.integers(4000, 90000, people) / 4, rng.integers(0, 3, people), rng.random(people)


def values_of(scene, reference=("left_shoulder", "right_hip")):
    truth, poses, areas, images, scores = scene
    values = score(truth, poses, areas=areas, images=images, scores=scores, reference=reference).values
    return pytest.approx(values, abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(scenes())
def test_right_poses_give_100(scene):
    truth, _, areas, images, scores = scene
    assert values_of((truth, truth, areas, images, scores)) == dict.fromkeys(values_of(scene).expected, 100.0)


@settings(deadline=None, max_examples=50)
@given(scenes(), st.integers(-1000, 1000), st.integers(-1000, 1000), st.sampled_from([0.25, 0.5, 2, 8]))
def test_moving_scaling_and_mirroring_the_pictures_change_nothing(scene, right, down, zoom):
    truth, poses, areas, images, scores = scene
    values = values_of(scene).expected
    shift = np.array([right, down, 0])
    assert values_of((truth + shift, poses + shift, areas, images, scores)) == values
    scale = np.array([zoom, zoom, 1])
    assert values_of((truth * scale, poses * scale, areas * zoom**2, images, scores)) == values
    mirrored = [array[:, LSP_14.flip_index] * (-1, 1, 1) + (999, 0, 0) for array in (truth, poses)]
    assert values_of((*mirrored, areas, images, scores), ("right_shoulder", "left_hip")) == values
