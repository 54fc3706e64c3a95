"""OKS matrices and suppression against the reference programs' numbers, and by properties that need no reference."""

from __future__ import annotations

import json

import numpy as np
import pytest
from shared_data import golden, load_golden

from msposenet.errors import ResultError
from msposenet.evaluation.nms import box_nms, oks_nms, soft_oks_nms
from msposenet.evaluation.oks import oks_between, oks_to_ground_truth
from msposenet.skeletons import COCO_17, CROWDPOSE_14

SIGMAS = COCO_17.sigma_array


@pytest.fixture(scope="module")
def poses() -> dict[str, np.ndarray]:
    return load_golden("decoding/oks_nms.npz")


@pytest.mark.parametrize(
    ("key", "sigmas_key", "visibility_threshold"),
    [
        ("oks_matrix", None, None),
        ("oks_matrix_visibility_threshold_0_2", None, 0.2),
        ("oks_matrix_custom_sigmas", "custom_sigmas", None),
    ],
)
def test_matrix_of_predictions_is_the_reference(poses, key, sigmas_key, visibility_threshold):
    keypoints, areas = poses["keypoints"], poses["area"]
    sigmas = poses[sigmas_key] if sigmas_key else SIGMAS
    oks = oks_between(keypoints, areas, keypoints, areas, sigmas, visibility_threshold)
    np.testing.assert_allclose(oks, poses[key], rtol=0, atol=1e-12)


def test_matrix_made_in_slices_is_the_same(poses, monkeypatch):
    keypoints, areas = poses["keypoints"], poses["area"]
    monkeypatch.setattr("msposenet.evaluation.oks._PAIRS_AT_ONCE", 24 * 17 * 5)
    oks = oks_between(keypoints, areas, keypoints[:7], areas[:7], SIGMAS)
    np.testing.assert_allclose(oks, poses["oks_matrix"][:, :7], rtol=0, atol=1e-12)


def test_one_joint_moved_by_a_known_distance():
    still = np.zeros((1, 17, 3))
    moved = still.copy()
    moved[0, 3, :2] = 3.0, 4.0
    expected = (16 + np.exp(-25 / (2 * 150.0 * (2 * 0.035) ** 2))) / 17
    assert oks_between(still, [100.0], moved, [200.0], SIGMAS)[0, 0] == pytest.approx(expected, abs=1e-12)
    seen = still.copy()
    seen[..., 2] = 2
    box = np.array([[0.0, 0.0, 10.0, 10.0]])
    assert oks_to_ground_truth(moved, seen, [150.0], box, SIGMAS)[0, 0] == pytest.approx(expected, abs=1e-12)


def test_visibility_of_the_second_pose_alone_decides():
    first, second = np.zeros((1, 17, 3)), np.zeros((1, 17, 3))
    second[0, 0, :2] = 1000
    first[0, :, 2] = 0.9
    second[0, 1:, 2] = 0.9
    assert oks_between(first, [1e4], second, [1e4], SIGMAS, 0.2)[0, 0] == 1
    assert oks_between(second, [1e4], first, [1e4], SIGMAS, 0.2)[0, 0] == pytest.approx(16 / 17)
    second[..., 2] = 0
    assert oks_between(first, [1e4], second, [1e4], SIGMAS, 0.2)[0, 0] == 0


def test_crowdpose_matrix_is_the_official_one():
    truth = json.loads(golden("evaluation/crowdpose_gt.json").read_text())["annotations"]
    results = json.loads(golden("evaluation/crowdpose_pred.json").read_text())
    expected = json.loads(golden("evaluation/crowdpose_expected.json").read_text())["oks_per_image"]
    assert expected
    for image in expected:
        people = [person for person in truth if person["image_id"] == image["image_id"]]
        found = [pose for pose in results if pose["image_id"] == image["image_id"]]
        found = sorted(found, key=lambda pose: -pose["score"])[: len(image["oks_detections_by_ground_truth"])]
        boxes = np.array([person["bbox"] for person in people])
        oks = oks_to_ground_truth(
            np.array([pose["keypoints"] for pose in found]).reshape(-1, 14, 3),
            np.array([person["keypoints"] for person in people]).reshape(-1, 14, 3),
            0.53 * boxes[:, 2] * boxes[:, 3],
            boxes,
            CROWDPOSE_14.sigma_array,
        )
        np.testing.assert_allclose(oks, image["oks_detections_by_ground_truth"], rtol=0, atol=1e-9)


def test_person_without_labels_is_measured_by_the_doubled_box():
    box, area = np.array([[100.0, 100.0, 50.0, 80.0]]), [4000.0]
    unlabelled = np.zeros((1, 17, 3))
    unlabelled[..., :2] = np.nan  # what stands in an unlabelled joint must not matter
    inside = np.zeros((3, 17, 3))
    inside[0, :, :2] = 51, 259  # the box reaches from (50, 20) to (200, 260)
    inside[1, :, :2] = 199, 21
    inside[2, :, :2] = 199, 270
    oks = oks_to_ground_truth(inside, unlabelled, area, box, SIGMAS)[:, 0]
    assert oks[:2].tolist() == [1, 1]
    assert oks[2] == pytest.approx(np.exp(-(10**2) / (2 * 4000 * (2 * SIGMAS) ** 2)).mean(), abs=1e-12)


@pytest.mark.parametrize("percent", [50, 70, 90])
def test_oks_nms_keeps_the_reference_rows(poses, percent):
    kept = oks_nms(poses["keypoints"], poses["score"], poses["area"], percent / 100, SIGMAS)
    assert kept.tolist() == poses[f"oks_nms_keep_{percent}"].tolist()


@pytest.mark.parametrize("percent", [50, 90])
def test_soft_oks_nms_keeps_the_reference_rows(poses, percent):
    kept = soft_oks_nms(poses["keypoints"], poses["score"], poses["area"], percent / 100, SIGMAS)
    assert kept.tolist() == poses[f"soft_oks_nms_keep_{percent}"].tolist()
    few = soft_oks_nms(poses["keypoints"], poses["score"], poses["area"], percent / 100, SIGMAS, max_kept=3)
    assert few.tolist() == kept[:3].tolist()


@pytest.mark.parametrize("percent", [30, 50, 70])
def test_box_nms_keeps_the_reference_rows(poses, percent):
    boxes = poses["boxes_x1y1x2y2score"]
    kept = box_nms(boxes[:, :4], boxes[:, 4], percent / 100)
    assert kept.tolist() == poses[f"box_nms_keep_{percent}"].tolist()


def test_box_nms_counts_both_end_pixels():
    boxes = np.array([[0, 0, 9, 9], [5, 0, 14, 9]])  # 10 px wide, 5 px shared: 50 of 150
    scores = np.array([0.9, 0.8])
    assert box_nms(boxes, scores, 1 / 3 + 1e-9).tolist() == [0, 1]
    assert box_nms(boxes, scores, 1 / 3 - 1e-9).tolist() == [0]


def test_equal_scores_keep_the_earlier_row_and_nothing_gives_nothing():
    keypoints, scores, areas = np.zeros((30, 17, 3)), np.ones(30), np.full(30, 100.0)
    assert oks_nms(keypoints, scores, areas, 0.9, SIGMAS).tolist() == [0]
    boxes = np.tile([0.0, 0.0, 5.0, 5.0], (30, 1))
    assert box_nms(boxes, scores, 0.5).tolist() == [0]
    apart = boxes + 10 * np.arange(30)[:, None]
    assert box_nms(apart, scores, 0.5).tolist() == list(range(30))
    for nms in (oks_nms, soft_oks_nms):
        assert nms(keypoints[:0], scores[:0], areas[:0], 0.9, SIGMAS).tolist() == []
    assert box_nms(boxes[:0], scores[:0], 0.5).tolist() == []


@pytest.mark.parametrize("column", ["keypoints", "scores", "areas"])
@pytest.mark.parametrize("nms", [oks_nms, soft_oks_nms])
def test_nan_is_refused_with_its_row(nms, column):
    columns = {"keypoints": np.zeros((3, 17, 3)), "scores": np.ones(3), "areas": np.ones(3)}
    columns[column][1] = np.nan
    with pytest.raises(ResultError, match=f"row 1 of the {column}"):
        nms(columns["keypoints"], columns["scores"], columns["areas"], 0.9, SIGMAS)


def test_nan_box_is_refused():
    with pytest.raises(ResultError, match="row 1 of the boxes"):
        box_nms(np.array([[0, 0, 5, 5], [0, np.inf, 5, 5]]), np.ones(2), 0.5)
