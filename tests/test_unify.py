"""One keypoint set out of another: names, midpoints, mirrors, and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from other_forms import WRITERS, Drawn
from people_set import people_set

from msposenet.config import Source, build_config
from msposenet.data.merging import SourceRecords, merge, prepare, read_source, target_skeleton
from msposenet.data.records import Records, Report
from msposenet.data.unify import joint_map, unify
from msposenet.errors import ConfigError
from msposenet.geometry import clip_boxes, flip_keypoints, joint_boxes
from msposenet.skeletons import AIC_14, COCO_17, LSP_14, MPII_16, SKELETONS, UNION_21, Skeleton

WIDTH = 640


def records(skeleton: Skeleton, count: int = 6, seed: int = 0) -> Records:
    rng = np.random.default_rng(seed)
    keypoints = rng.uniform(10, 400, (count, skeleton.num_joints, 3)).astype(np.float32)
    keypoints[..., 2] = rng.integers(0, 3, (count, skeleton.num_joints))
    keypoints[:, 0, 2] = 2
    keypoints[..., :2] *= keypoints[..., 2:] > 0
    return Records(
        skeleton=skeleton,
        image_paths=np.array([b"a.jpg", b"b.jpg"]),
        image_ids=np.array([1, 2]),
        image_sizes=np.array([[WIDTH, 480]] * 2, np.int32),
        image_index=(np.arange(count) % 2).astype(np.int32),
        annotation_ids=np.arange(1, count + 1),
        boxes=np.tile([20.0, 30.0, 100.0, 200.0], (count, 1)),
        keypoints=keypoints,
        areas=np.full(count, 20000, np.float32),
        box_scores=np.ones(count, np.float32),
    )


skeletons = st.sampled_from(sorted(SKELETONS.values(), key=lambda skeleton: skeleton.name))
MIDPOINTS = {"pelvis": ("left_hip", "right_hip"), "thorax": ("left_shoulder", "right_shoulder"), "neck": None}


@settings(max_examples=60, deadline=None)
@given(source=skeletons, target=skeletons, seed=st.integers(0, 1000), midpoints=st.booleans())
def test_unify_then_mirror_is_mirror_then_unify(source, target, seed, midpoints):
    joints = {name: ends for name, ends in MIDPOINTS.items() if midpoints and name in target.joints}
    found = joint_map(source, target, joints, "set")
    people = records(source, seed=seed)
    one = flip_keypoints(unify(people, found).keypoints, WIDTH, target.flip_index)
    mirrored = replace(people, keypoints=flip_keypoints(people.keypoints, WIDTH, source.flip_index))
    np.testing.assert_allclose(one, unify(mirrored, found).keypoints, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(source=skeletons, seed=st.integers(0, 1000))
def test_every_set_comes_back_from_the_union(source, seed):
    found = joint_map(source, UNION_21, {}, "set")
    people = records(source, seed=seed)
    back, there = found.back(unify(people, found).keypoints)
    assert there.all() and not found.missing
    np.testing.assert_array_equal(back, people.keypoints)


def test_each_joint_lands_under_its_name():
    found = joint_map(MPII_16, COCO_17, {}, "mpii")
    people = records(MPII_16)
    unified = unify(people, found)
    for joint in COCO_17.joints:
        column = unified.keypoints[:, COCO_17.index(joint)]
        wanted = people.keypoints[:, MPII_16.index(joint)] if joint in MPII_16.joints else 0 * column
        np.testing.assert_array_equal(column, wanted)
    assert found.missing == ["pelvis", "thorax", "neck", "head_top"]
    _, there = found.back(unified.keypoints)
    assert [joint for joint, kept in zip(MPII_16.joints, there) if not kept] == found.missing


def test_a_midpoint_wants_both_ends():
    found = joint_map(COCO_17, UNION_21, {"pelvis": ("left_hip", "right_hip")}, "coco")
    people = records(COCO_17)
    left, right = COCO_17.index("left_hip"), COCO_17.index("right_hip")
    people.keypoints[0, [left, right]] = [[100, 200, 2], [140, 220, 1]]
    people.keypoints[1, [left, right]] = [[100, 200, 2], [0, 0, 0]]
    pelvis = unify(people, found).keypoints[:, UNION_21.index("pelvis")]
    assert pelvis[0].tolist() == [120, 210, 1] and pelvis[1].tolist() == [0, 0, 0]


GULL = Skeleton("gull", ("beak", "left_wing", "right_wing"), (("left_wing", "right_wing"),), (0.05,) * 3)

MISTAKES = {
    "unknown joint wanted": (COCO_17, UNION_21, {"tail": "nose"}, "joints names 'tail', which skeleton 'union21' has"),
    "unknown joint taken": (COCO_17, UNION_21, {"neck": "throat"}, "takes 'neck' from 'throat', which the set has not"),
    "nothing in common": (GULL, LSP_14, {}, "none of its joints (beak, left_wing, right_wing) is one of skeleton"),
    "one side only": (AIC_14, UNION_21, {"left_hip": None}, "'left_hip' is taken from no joint but its mirror image"),
    "crossed": (
        AIC_14, UNION_21, {"left_hip": "right_hip"},
        "'left_hip' is taken from 'right_hip' but its mirror image 'right_hip' from 'right_hip'",
    ),
    "a side in the middle": (
        COCO_17, UNION_21, {"pelvis": "left_hip"}, "'pelvis' is taken from 'left_hip' but its mirror image 'pelvis'",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("source", "target", "joints", "message"), MISTAKES.values(), ids=MISTAKES)
def test_maps_that_would_teach_the_wrong_joint_are_refused(source, target, joints, message):
    with pytest.raises(ConfigError) as caught:
        joint_map(source, target, joints, "set")
    assert message in str(caught.value) and str(caught.value).startswith("set: ")


def part(skeleton, target=UNION_21, **options):
    source = Source(annotations="a.json", images="images", name=skeleton.name, **options)
    people = records(skeleton)
    report = Report("set", "a.json", 2, len(people))
    return prepare(
        SourceRecords(source, people, report, report), joint_map(skeleton, target, source.joints, source.title)
    )


def test_names_are_matched_however_they_are_spelt():
    spelt = Skeleton("own", ("Nose", "Left Wrist", "right-wrist"), (("Left Wrist", "right-wrist"),), (0.05,) * 3)
    assert joint_map(spelt, UNION_21, {}, "own").found.sum() == 3


def test_names_without_sides_get_them_from_the_joints_they_are_mapped_to():
    spelt = Skeleton("own", ("tip", "hand_a", "hand_b"), (), (0.05,) * 3)
    wrists = {"left_wrist": "hand_a", "right_wrist": "hand_b"}
    assert joint_map(spelt, UNION_21, wrists, "own").found.sum() == 2
    with pytest.raises(ConfigError, match="teach the wrong side"):
        joint_map(spelt, UNION_21, {"left_wrist": "hand_a"}, "own")


def test_sets_of_the_same_joints_share_their_skeleton():
    own = Skeleton("own", ("tip", "left_hand", "right_hand"), (("left_hand", "right_hand"),), (0.05,) * 3)
    other = replace(own, joints=("left_hand", "right_hand", "tip"), limbs=(("tip", "left_hand"),))
    source, report = Source(annotations="a.json", images="i"), Report("set", "a.json", 2, 6)
    parts = [SourceRecords(source, records(skeleton), report, report) for skeleton in (own, other)]
    assert target_skeleton(build_config({}, "test"), parts) == own
    parts.append(SourceRecords(source, records(COCO_17), report, report))
    assert target_skeleton(build_config({}, "test"), parts) == UNION_21


def test_merged_records_keep_their_origin_pictures_and_weights():
    coco, _ = part(COCO_17)
    mpii, notes = part(MPII_16, weight=2.5, joint_weights={"left_hip": 0.5, "right_hip": 0.5})
    merged = merge([coco, mpii])
    merged.check()
    assert len(merged) == 12 and len(merged.image_paths) == 4
    assert merged.origin_index.tolist() == [0] * 6 + [1] * 6
    assert merged.image_index[6:].tolist() == [2, 3] * 3
    assert [origin.sampling for origin in merged.origins] == [1.0, 2.5]
    hips = [UNION_21.index("left_hip"), UNION_21.index("right_hip")]
    assert merged.joint_weights[1, hips].tolist() == [0.5, 0.5] and merged.joint_weights.sum() == 42 - 1
    assert any("never labelled there: nose" in note for note in notes)


def test_filters_leave_people_out_and_say_so():
    people = records(COCO_17)
    labelled = (people.keypoints[..., 2] > 0).sum(axis=1)
    kept, notes = part(COCO_17, min_joints=int(np.median(labelled)) + 1)
    assert len(kept) == (labelled > np.median(labelled)).sum() < 6 and "fewer than" in notes[-1]
    kept, notes = part(COCO_17, min_size=201)
    assert len(kept) == 0 and notes[-1].startswith("left out: under 201 px: 6 (1, 2,")
    assert len(part(COCO_17, min_size=200)[0]) == 6


def test_weights_of_one_side_are_refused():
    with pytest.raises(ConfigError, match="joint_weights differ between 'left_hip' and 'right_hip'"):
        part(COCO_17, joint_weights={"left_hip": 0.5})
    with pytest.raises(ConfigError, match="coco17: joint_weights names 'hip'; skeleton 'union21' has nose"):
        part(COCO_17, joint_weights={"hip": 0.5})


def test_boxes_around_joints():
    keypoints = np.zeros((2, 3, 3), np.float32)
    keypoints[0] = [[10, 20, 2], [110, 220, 1], [999, 999, 0]]
    boxes = joint_boxes(keypoints, np.array([[100, 300], [100, 300]]), 0.1)
    np.testing.assert_allclose(boxes, [[0, 0, 99, 240], [0, 0, 0, 0]])
    np.testing.assert_allclose(joint_boxes(keypoints, np.zeros((2, 2), int), 0.1)[0], [0, 0, 120, 240])


SETS = {
    "two of a name": ({"train": [{"annotations": "a.json", "images": "i"}] * 2}, "sets called ['coco:a', 'coco:a']"),
    "pictures backwards": (
        {"train": {"annotations": "a", "images": "i", "pictures": [9, 3]}}, "pictures runs from 9 to 3",
    ),
    "unknown format": ({"train": {"annotations": "a", "images": "i", "format": "coc"}}, "data.train.0.format"),
    "negative weight": ({"train": {"annotations": "a", "images": "i", "weight": -1}}, "data.train.0.weight"),
    "pack and sharing": ({"pack": "p", "share_decode": True}, "share_decode and reduced_decode are about"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "message"), SETS.values(), ids=SETS)
def test_mistakes_in_the_list_of_sets(data, message):
    with pytest.raises(ConfigError) as caught:
        build_config({"data": data}, "test")
    assert message in str(caught.value)


@pytest.mark.parametrize("seed", [5, 6, 7])
@pytest.mark.parametrize("form", WRITERS)
def test_people_written_in_another_form_come_back(form, seed, tmp_path):
    """Written, read, mapped onto the union: every joint is where and what it was drawn."""
    write, skeleton = WRITERS[form]
    drawn = Drawn(people_set(8, seed))
    name = {"lsp": "joints.mat", "posetrack": "val"}.get(form, "people.json")
    annotations = tmp_path / "annotations" / name
    write(drawn, annotations, tmp_path / "images")
    read = read_source(Source(format=form, annotations=annotations, images=tmp_path / "images"))
    assert read.records.skeleton == skeleton
    rows = range(len(drawn.rows)) if form != "lsp" else [drawn.rows.index(row) for row in sorted(set(drawn.rows))]
    wanted = drawn.of(skeleton)[list(rows)]
    assert len(read.records) == len(wanted)
    flags = read.records.keypoints[..., 2]
    np.testing.assert_array_equal(flags > 0, wanted[..., 2] > 0)
    if form in ("aic", "crowdpose"):  # the others do not tell hidden joints from visible ones
        np.testing.assert_array_equal(flags, wanted[..., 2])
    np.testing.assert_allclose(read.records.keypoints[..., :2], wanted[..., :2], atol=1e-3)
    union = unify(read.records, joint_map(skeleton, UNION_21, {}, form))
    for joint in COCO_17.joints:
        if joint in skeleton.joints:
            place = union.keypoints[:, UNION_21.index(joint), :2]
            np.testing.assert_allclose(place, wanted[:, skeleton.index(joint), :2], atol=1e-3, err_msg=joint)
    assert all(Path(read.records.path(row)).is_file() for row in range(len(read.records)))
    boxes, image = read.records.boxes, read.records.image_sizes[read.records.image_index]
    if form == "aic":  # sizes of pictures are not known, so boxes are as annotated
        np.testing.assert_allclose(boxes, drawn.boxes, atol=1e-9)
    elif form in ("crowdpose", "posetrack"):
        np.testing.assert_allclose(boxes, clip_boxes(drawn.boxes, image)[0], atol=1e-9)
    elif form == "mpii":  # a square of the longer side about the box's centre
        np.testing.assert_allclose(boxes[:, 2:], np.repeat(drawn.boxes[:, 2:].max(axis=1)[:, None], 2, axis=1))
        np.testing.assert_allclose(boxes[:, :2] + boxes[:, 2:] / 2, drawn.boxes[:, :2] + drawn.boxes[:, 2:] / 2)
    else:
        np.testing.assert_allclose(boxes, joint_boxes(wanted, image, 0.15), atol=1e-3)
