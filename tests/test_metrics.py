"""Every set's metric gets the right joints of the right people: annotations taken for predictions are perfect."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sample_sets import sources

from msposenet.config import build_config
from msposenet.data.unify import unify
from msposenet.errors import ConfigError, PoseError
from msposenet.inference.metrics import METRICS, metric_of
from msposenet.inference.scoring import validation_sets
from msposenet.inference.validate import Estimates
from msposenet.skeletons import COCO_17, UNION_21, get_skeleton


def validation(name: str, skeleton=UNION_21, **changes):
    section = {**sources()[name], **changes}
    for key in ("weight", "joints", "joint_weights"):
        section.pop(key, None)
    config = build_config({"data": {"val": section, "skeleton": skeleton.name}, "test": {"oks_nms": 1.0}}, "test")
    (found,) = validation_sets(config, skeleton, lambda line: None)
    return found, config


def perfect(part, swap: bool = False) -> Estimates:
    """Annotations as a network of the target skeleton would have found them, all joints sure."""
    keypoints = unify(part.native, part.joints).keypoints.copy()
    # What is annotated nowhere is predicted somewhere else, as a network would.
    keypoints[keypoints[..., 2] == 0] = [9e4, 9e4, 0.0]
    keypoints[..., 2] = np.where(keypoints[..., 0] < 9e4, 0.9, 0.3)
    if swap:
        skeleton = part.joints.target
        ends = [skeleton.index("left_knee"), skeleton.index("right_knee")]
        keypoints[:, ends] = keypoints[:, ends[::-1]]
    native = part.native
    return Estimates(native, part.joints.target, keypoints, native.boxes[:, 2:] * 1.25, {})


CASES = [
    (name, metric, skeleton)
    for name, metric in [
        ("coco", None), ("mpii", None), ("aic", None), ("crowdpose", None), ("lsp", None), ("aic as coco", None),
        ("mpii", "coco"), ("aic", "coco"), ("lsp", "coco"), ("posetrack", "coco"), ("coco", "pck"), ("mpii", "pck"),
    ]
    for skeleton in ("union21", "coco17")
]  # fmt: skip


@pytest.mark.parametrize(("name", "metric", "skeleton"), CASES)
def test_annotations_are_their_own_perfect_predictions(name, metric, skeleton):
    part, config = validation(name, get_skeleton(skeleton), metric=metric)
    score = METRICS[metric_of(part.source)].score
    scores, results = score(part, perfect(part), config)
    assert scores.main[1] == pytest.approx(1.0)
    worse, _ = score(part, perfect(part, swap=True), config)
    assert worse.main[1] < 1.0
    assert len(results) == len(part.native)
    there = part.joints.back(np.zeros((1, part.joints.target.num_joints, 3)))[1]
    assert there.all() or any("left out" in note for note in scores.notes)


def test_posetrack_finds_its_annotations_again():
    part, config = validation("posetrack")
    scores, _ = METRICS["posetrack"].score(part, perfect(part), config)
    worse, _ = METRICS["posetrack"].score(part, perfect(part, swap=True), config)
    assert scores.values["AP Knee"] == pytest.approx(100.0) and scores.values["AP Total"] > 99
    assert worse.values["AP Knee"] < 50 and worse.values["AP Wri"] == scores.values["AP Wri"]


def test_a_person_without_a_pose_counts_as_missed():
    part, config = validation("mpii")
    everybody = perfect(part)
    half = np.arange(len(part.native)) % 2 == 0
    chosen = {"keypoints": everybody.keypoints[half], "sizes": everybody.sizes[half]}
    some = replace(everybody, records=part.native.select(half), **chosen)
    scores, _ = METRICS["mpii"].score(part, some, config)
    assert 0.3 < scores.main[1] < 0.7 and scores.results == half.sum()


REFUSED = {
    "form": ("aic as coco", {"metric": "aic"}, "metric aic scores sets of format aic, this one is coco"),
    "head sizes": ("mpii", {"head_sizes": None}, "head"),
    "two forms": ("lsp", {"metric": "posetrack"}, "metric posetrack scores sets of format posetrack, this one is lsp"),
}


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_metric_lacks_is_said_before_anything_is_computed(name, changes, message):
    with pytest.raises(PoseError, match=message):
        validation(name, COCO_17, **changes)


def test_metrics_of_each_persons_own_box_refuse_a_detectors():
    part, _ = validation("mpii")
    detected = replace(part, boxes=replace(part.boxes, annotated=False))
    with pytest.raises(ConfigError, match="metric mpii compares each person"):
        METRICS["mpii"].check("mpii", detected)
