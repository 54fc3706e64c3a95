"""Suppression of double detections: greedy and soft by OKS, greedy by box overlap.

All return row indices (int64) in falling score; of equal scores the earlier row comes first. Non-finite input raises
ResultError: a comparison with NaN is false, so it would silently remove poses.
"""

from __future__ import annotations

import numpy as np

from msposenet.errors import ResultError
from msposenet.evaluation.oks import oks_between


def oks_nms(
    keypoints: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    threshold: float,
    sigmas: np.ndarray,
    visibility_threshold: float | None = None,
) -> np.ndarray:
    """Rows of `keypoints` (N, K, 3) that no better pose resembles: each drops the later ones with OKS > `threshold`.

    `scores` (N,), `areas` (N,) px^2, `sigmas` (K,); OKS by `oks_between`. Source: `oks_nms` of HRNet's lib/nms/nms.py.
    """
    _check_finite(keypoints=keypoints, scores=scores, areas=areas)
    oks = oks_between(keypoints, areas, keypoints, areas, sigmas, visibility_threshold)
    return _greedy(scores, lambda row, others: oks[row, others], threshold)


def soft_oks_nms(
    keypoints: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    threshold: float,
    sigmas: np.ndarray,
    visibility_threshold: float | None = None,
    max_kept: int = 20,
) -> np.ndarray:
    """At most `max_kept` rows: each pose taken multiplies the scores of the rest by exp(-OKS^2 / threshold).

    Arguments as in `oks_nms`; the order is that of the weakened scores. Source: `soft_oks_nms` of HRNet's
    lib/nms/nms.py.
    """
    _check_finite(keypoints=keypoints, scores=scores, areas=areas)
    decay = np.exp(-(oks_between(keypoints, areas, keypoints, areas, sigmas, visibility_threshold) ** 2) / threshold)
    left = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    left_scores = np.asarray(scores, np.float64)[left]
    kept = []
    while left.size and len(kept) < max_kept:
        best = int(np.argmax(left_scores))
        row = left[best]
        kept.append(row)
        left, left_scores = np.delete(left, best), np.delete(left_scores, best)
        left_scores = left_scores * decay[row, left]
    return np.array(kept, dtype=np.int64)


def box_nms(boxes_xyxy: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Rows of `boxes_xyxy` (N, 4) that no better box overlaps by more than `threshold` (intersection over union).

    Corners are pixels that belong to the box, so a side is x2 - x1 + 1. Source: `nms` of HRNet's lib/nms/nms.py, after
    py-faster-rcnn.
    """
    _check_finite(boxes=boxes_xyxy, scores=scores)
    corners = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    areas = (corners[:, 2:] - corners[:, :2] + 1).prod(axis=1)

    def overlap(row: int, others: np.ndarray) -> np.ndarray:
        low = np.maximum(corners[row, :2], corners[others, :2])
        high = np.minimum(corners[row, 2:], corners[others, 2:])
        shared = np.maximum(0, high - low + 1).prod(axis=1)
        return shared / (areas[row] + areas[others] - shared)

    return _greedy(scores, overlap, threshold)


def _greedy(scores, overlap, threshold: float) -> np.ndarray:
    left = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    kept = []
    while left.size:
        row, left = left[0], left[1:]
        kept.append(row)
        left = left[overlap(row, left) <= threshold]
    return np.array(kept, dtype=np.int64)


def _check_finite(**arrays: np.ndarray) -> None:
    for name, values in arrays.items():
        finite = np.isfinite(np.asarray(values, np.float64))
        if not finite.all():
            row = int(np.argwhere(~finite)[0][0])
            raise ResultError(f"row {row} of the {name} is not finite; find out which network output made it")
