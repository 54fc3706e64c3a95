"""Object keypoint similarity (OKS): how near two poses are, measured in the size of the person, as whole matrices.

OKS = mean over joints of exp(-d^2 / (2 s^2 k^2)) with d in px, s^2 the person's area in px^2 and k = 2 sigma per joint.
"""

from __future__ import annotations

import numpy as np

# Above this many joint pairs the matrix is made in slices: 1,000 poses against each other would hold 0.5 GB of arrays.
_PAIRS_AT_ONCE = 2_000_000
_NUMBERS_AT_ONCE = 50_000  # so that the arrays of one slice stay in the cache
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
    poses, people = np.divmod(np.arange(len(keypoints) * len(ground_truth)), max(1, len(ground_truth)))
    pairs = oks_of_pairs(keypoints, ground_truth, areas, boxes, sigmas, poses, people)
    return pairs.reshape(len(keypoints), len(ground_truth))


def oks_of_pairs(
    keypoints: np.ndarray,
    ground_truth: np.ndarray,
    areas: np.ndarray,
    boxes: np.ndarray,
    sigmas: np.ndarray,
    poses: np.ndarray,
    people: np.ndarray,
) -> np.ndarray:
    """`oks_to_ground_truth` of the pairs (P,) of row `poses` of `keypoints` and row `people` of `ground_truth` alone.

    To the last bit what pycocotools finds for each pair by itself: the same operations in the same order, and people
    with as many labelled joints together, since the order in which a sum adds depends on how many numbers it has.
    """
    pose_x, pose_y = (np.ascontiguousarray(keypoints[..., axis], np.float64) for axis in (0, 1))
    true_x, true_y = (np.ascontiguousarray(ground_truth[..., axis], np.float64) for axis in (0, 1))
    boxes, variances = np.asarray(boxes, np.float64), (2 * np.asarray(sigmas, np.float64)) ** 2
    low, high = boxes[:, :2] - boxes[:, 2:], boxes[:, :2] + boxes[:, 2:] * 2
    scales = np.asarray(areas, np.float64) + _EPSILON
    labelled = np.asarray(ground_truth)[..., 2] > 0
    counts = labelled.sum(axis=1)
    joints_first = np.argsort(
        ~labelled, axis=1, kind="stable"
    )  # of each person, the labelled ones in order, then the rest
    oks = np.empty(len(poses))
    count_of = counts[people]
    for count in np.unique(count_of).tolist():
        chosen = np.flatnonzero(count_of == count)
        step = max(1, _NUMBERS_AT_ONCE // max(1, count or len(variances)))
        for start in range(0, len(chosen), step):
            rows = chosen[start : start + step]
            pose, person = poses[rows], people[rows, None]
            if count:
                joint = joints_first[people[rows], :count]
                dx = pose_x[pose[:, None], joint] - true_x[person, joint]
                dy = pose_y[pose[:, None], joint] - true_y[person, joint]
                exponent = (dx**2 + dy**2) / variances[joint]
            else:
                dx, dy = (
                    np.maximum(0, low[person, axis] - at) + np.maximum(0, at - high[person, axis])
                    for axis, at in enumerate((pose_x[pose], pose_y[pose]))
                )
                exponent = (dx**2 + dy**2) / variances
            exponent = exponent / scales[person] / 2
            oks[rows] = np.exp(-exponent).sum(axis=1) / exponent.shape[1]
    return oks
