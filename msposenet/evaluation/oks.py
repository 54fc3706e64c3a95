"""Object keypoint similarity (OKS): how near two poses are, measured in the size of the person, as whole matrices.

OKS = mean over joints of exp(-d^2 / (2 s^2 k^2)) with d in px, s^2 the person's area in px^2 and k = 2 sigma per joint.
"""

from __future__ import annotations

import numpy as np

# Above this many joint pairs the matrix is made in slices: 1,000 poses against each other would hold 0.5 GB of arrays.
_PAIRS_AT_ONCE = 2_000_000
_EPSILON = np.spacing(1)


def oks_between(
    first: np.ndarray,
    first_areas: np.ndarray,
    second: np.ndarray,
    second_areas: np.ndarray,
    sigmas: np.ndarray,
    visibility_threshold: float | None = None,
) -> np.ndarray:
    """OKS of predictions with predictions, as OKS-NMS wants it.

    `first` (N, K, 3) and `second` (M, K, 3) are x, y in image px and score; the areas (N,) and (M,) are px^2, and the
    average of the two poses' areas counts. `sigmas` (K,). Every joint counts; with `visibility_threshold` only those
    whose score in the SECOND pose is above it: the reference means both poses but writes `a and b` between two lists,
    which is b. A pair without such a joint has OKS 0. Returns (N, M) float64.
    Source: `oks_iou` of HRNet's lib/nms/nms.py.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    mean_areas = (np.asarray(first_areas, np.float64)[:, None] + np.asarray(second_areas, np.float64)[None, :]) / 2
    variances = (2 * np.asarray(sigmas, np.float64)) ** 2
    counted = np.ones(second.shape[:2], bool) if visibility_threshold is None else second[..., 2] > visibility_threshold
    joints = counted.sum(axis=1)
    matrix = np.empty(mean_areas.shape)
    step = max(1, _PAIRS_AT_ONCE // max(1, second.shape[0] * second.shape[1]))
    for start in range(0, len(first), step):
        rows = slice(start, start + step)
        squared = ((first[rows, None, :, :2] - second[None, :, :, :2]) ** 2).sum(axis=-1)
        similarity = np.exp(-squared / variances / (mean_areas[rows, :, None] + _EPSILON) / 2)
        matrix[rows] = np.where(counted, similarity, 0).sum(axis=-1) / np.maximum(joints, 1)
    return matrix


def oks_to_ground_truth(
    keypoints: np.ndarray,
    ground_truth: np.ndarray,
    areas: np.ndarray,
    boxes: np.ndarray,
    sigmas: np.ndarray,
) -> np.ndarray:
    """OKS of predictions (D, K, 3) with annotated people (G, K, 3) of `areas` (G,) px^2 and `boxes` (G, 4) x, y, w, h.

    Only joints with visibility > 0 count. For a person without any, the distance is that to the box doubled on every
    side (x - w to x + 2w), so a prediction inside it has OKS 1 and can be matched to the region. Returns (D, G).
    Source: `COCOeval.computeOks` of pycocotools.
    """
    xy = np.asarray(keypoints, np.float64)[:, None, :, :2]
    truth = np.asarray(ground_truth, np.float64)
    boxes = np.asarray(boxes, np.float64)
    low = (boxes[:, :2] - boxes[:, 2:])[:, None, :]
    high = (boxes[:, :2] + 2 * boxes[:, 2:])[:, None, :]
    labelled = truth[..., 2] > 0
    without_joints = ~labelled.any(axis=1)
    outside = np.maximum(0, low - xy) + np.maximum(0, xy - high)
    distance = np.where(without_joints[:, None, None], outside, xy - truth[..., :2])
    variances = (2 * np.asarray(sigmas, np.float64)) ** 2
    scaled = (distance**2).sum(axis=-1) / variances / (np.asarray(areas, np.float64)[:, None] + _EPSILON) / 2
    counted = labelled | without_joints[:, None]
    return np.where(counted, np.exp(-scaled), 0).sum(axis=-1) / counted.sum(axis=1)
