"""Six data sets in one training, and each scored by its own metric, on real pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sample_sets import merged, sources

from msposenet.config import build_config
from msposenet.data.merging import read_source, read_training
from msposenet.data.training_set import training_samples
from msposenet.errors import ConfigError
from msposenet.skeletons import COCO_17, UNION_21
from msposenet.training.loop import train

HEADLINES = {
    "coco": "AP", "mpii": "Mean", "aic": "mAP", "aic as coco": "AP", "crowdpose": "AP", "posetrack": "AP Total",
    "lsp": "PCK@0.2",
}  # fmt: skip


def test_all_samples_are_merged_with_every_labelled_joint_under_its_name():
    config = build_config(merged(), "test")
    records = read_training(config)
    assert [origin.name for origin in records.origins] == list(sources())
    assert records.skeleton == UNION_21
    for number, source in enumerate(config.data.train):
        native = read_source(source).records
        here = records.select(records.origin_index == number)
        kept = (native.keypoints[..., 2] > 0).sum(axis=1) >= source.min_joints
        assert len(here) == kept.sum() > 0
        for joint in native.skeleton.joints:
            wanted = native.keypoints[kept, native.skeleton.index(joint)]
            np.testing.assert_array_equal(here.keypoints[:, UNION_21.index(joint)], wanted, err_msg=joint)
        assert all(path.startswith(str(source.images)) for path in {here.path(i) for i in range(len(here))})
    pelvis = records.keypoints[records.origin_index == len(HEADLINES) - 1, UNION_21.index("pelvis")]
    assert (pelvis[:, 2] > 0).any()


def test_weights_of_sets_and_joints_reach_the_batch():
    samples = training_samples(build_config(merged(augmentation={"flip": 0.0}), "test"))
    index, _ = samples.order.split(samples.order.of(0))
    origin = samples.records.origin_index
    counts = np.bincount(origin[index], minlength=7)
    people = np.bincount(origin, minlength=7)
    assert counts[2] == 4 * people[2] and counts[6] == people[6] // 2 and counts[1] == people[1]
    of_mpii = int(np.flatnonzero(origin == 1)[0])
    _, _, weights = samples.make(0, of_mpii)
    labelled = samples.records.keypoints[of_mpii, :, 2] > 0
    hips = [UNION_21.index("left_hip"), UNION_21.index("right_hip")]
    assert labelled[hips].all() and weights[hips].tolist() == [0.5, 0.5]
    others = np.delete(np.arange(21), hips)
    np.testing.assert_array_equal(weights[others], labelled[others].astype(np.float32))


@pytest.mark.slow
def test_a_training_on_all_of_them_is_scored_set_by_set(tmp_path):
    folder = train(build_config(merged(), "test"), tmp_path / "run")
    log = (folder / "log.txt").read_text()
    figures = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = {key: value for line in figures for key, value in line.items()}
    for name, headline in HEADLINES.items():
        assert f"Validation {name}: " in log and np.isfinite(last[f"{name}/{headline}"])
    assert "Validation mean of the 7 headline figures: " in log
    results = {path.name for path in (folder / "results").iterdir()}
    assert results == {f"keypoints_{name.replace(' ', '_')}.json" for name in HEADLINES}
    people = json.loads((folder / "results" / "keypoints_mpii.json").read_text())
    assert len(people) == 133 and len(people[0]["keypoints"]) == 48


@pytest.mark.slow
def test_a_network_of_fewer_joints_is_scored_on_those_it_has(tmp_path):
    content = merged(data={"skeleton": "coco17", "train": merged()["data"]["train"][:1]})
    content["data"]["val"] = [part for part in content["data"]["val"] if part["name"] != "lsp"]
    folder = train(build_config(content, "test"), tmp_path / "run")
    assert "Validation mpii: " in (folder / "log.txt").read_text()
    assert build_config(content, "test").fixed_skeleton() == COCO_17


def test_a_metric_that_wants_annotated_boxes_says_so(tmp_path):
    content = merged(test={"boxes": "detections"})
    content["data"]["val"] = content["data"]["val"][:2]
    with pytest.raises(ConfigError, match=r"coco: test\.boxes is detections, but the set names no `detections` file"):
        build_config(content, "test")
    content["test"]["boxes"] = "some.json"
    with pytest.raises(ConfigError, match=r"test\.boxes names one file for 2 sets"):
        train(build_config(content, "test"), tmp_path / "run")
