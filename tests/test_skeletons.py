"""Skeleton tables, and what is refused when one is built."""

from __future__ import annotations

import numpy as np
import pytest

from msposenet.errors import ConfigError
from msposenet.skeletons import COCO_17, SKELETONS, Skeleton, get_skeleton

# 0-based flip pairs as the data sets publish them.
PUBLISHED_PAIRS = {
    "coco17": [(1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)],
    "mpii16": [(0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)],
    "aic14": [(0, 3), (1, 4), (2, 5), (6, 9), (7, 10), (8, 11)],
    "crowdpose14": [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)],
    "posetrack17": [(3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)],
    "posetrack15": [(0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9)],
    "lsp14": [(0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9)],
}


@pytest.mark.parametrize("name", SKELETONS)
def test_flip_index_is_its_own_inverse_and_exchanges_sides(name):
    skeleton = SKELETONS[name]
    flip = skeleton.flip_index
    np.testing.assert_array_equal(flip[flip], np.arange(skeleton.num_joints))
    for joint, partner in zip(skeleton.joints, np.array(skeleton.joints)[flip]):
        swapped = joint.replace("left_", "L_").replace("right_", "left_").replace("L_", "right_")
        assert partner == swapped


@pytest.mark.parametrize(("name", "pairs"), PUBLISHED_PAIRS.items())
def test_flip_pairs_are_the_published_ones(name, pairs):
    flip = SKELETONS[name].flip_index
    assert sorted((i, int(j)) for i, j in enumerate(flip) if i < j) == sorted(pairs)


def test_joint_counts_and_halves():
    counts = {name: skeleton.num_joints for name, skeleton in SKELETONS.items()}
    assert counts == {
        "coco17": 17, "mpii16": 16, "aic14": 14, "crowdpose14": 14, "posetrack15": 15, "posetrack17": 17,
        "lsp14": 14, "union21": 21,
    }  # fmt: skip
    assert np.flatnonzero(COCO_17.upper_mask).tolist() == list(range(11))
    assert np.flatnonzero(get_skeleton("mpii16").upper_mask).tolist() == list(range(7, 16))
    assert np.flatnonzero(get_skeleton("lsp14").upper_mask).tolist() == list(range(6, 14))


def test_the_union_begins_with_coco():
    union = get_skeleton("union21")
    assert union.joints[:17] == COCO_17.joints
    assert union.joints[17:] == ("head_top", "neck", "pelvis", "thorax")
    assert union.sigmas[:17] == COCO_17.sigmas


def test_coco_limbs_are_the_published_ones():
    published = [
        "15-13",
        "13-11",
        "16-14",
        "14-12",
        "11-12",
        "5-11",
        "6-12",
        "5-6",
        "5-7",
        "6-8",
        "7-9",
        "8-10",
        "1-2",
        "0-1",
        "0-2",
        "1-3",
        "2-4",
        "3-5",
        "4-6",
    ]
    assert [f"{a}-{b}" for a, b in COCO_17.limb_index] == published


BAD_TABLES = {
    "no joints": ({"joints": (), "sigmas": ()}, "has no joints"),
    "a name twice": ({"joints": ("nose", "nose", "left_eye")}, "names ['nose'] twice"),
    "too few sigmas": ({"sigmas": (0.1,)}, "3 joints but 1 sigmas"),
    "sigma zero": ({"sigmas": (0.1, 0.0, 0.1)}, "positive"),
    "sigma NaN": ({"sigmas": (0.1, float("nan"), 0.1)}, "positive"),
    "unknown joint in a pair": ({"flip_pairs": (("left_eye", "right_ear"),)}, "unknown joint 'right_ear'"),
    "joint in two pairs": (
        {"flip_pairs": (("left_eye", "right_eye"), ("left_eye", "nose"))},
        "'left_eye' is in two flip pairs",
    ),
    "joint paired with itself": ({"flip_pairs": (("nose", "nose"),)}, "two different joints"),
    "a side without a partner": ({"flip_pairs": ()}, "have a side but no flip pair"),
    "unknown limb": ({"limbs": (("nose", "tail"),)}, "unknown joints ['tail']"),
    "unknown upper joint": ({"upper": ("tail",)}, "unknown joints ['tail']"),
}


@pytest.mark.parametrize(("change", "message"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_table_that_contradicts_itself_is_refused(change, message):
    table = {
        "name": "face",
        "joints": ("nose", "left_eye", "right_eye"),
        "flip_pairs": (("left_eye", "right_eye"),),
        "sigmas": (0.026, 0.025, 0.025),
    }
    with pytest.raises(ConfigError) as caught:
        Skeleton(**{**table, **change})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ((("left_eye", "right_ear"), ("left_ear", "right_eye")), "different body parts"),
        ((("left_eye", "left_ear"), ("right_eye", "right_ear")), "joints of one side"),
    ],
)
def test_a_pair_across_parts_or_within_a_side_is_refused(pairs, message):
    joints = ("left_eye", "right_eye", "left_ear", "right_ear")
    with pytest.raises(ConfigError, match=message):
        Skeleton("face", joints, pairs, (0.1,) * 4)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="unknown skeleton 'coco18'"):
        get_skeleton("coco18")
    with pytest.raises(ConfigError, match="has no joint 'tail'"):
        COCO_17.index("tail")
