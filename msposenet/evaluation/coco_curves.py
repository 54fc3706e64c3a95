"""From matched poses to COCO's ten numbers: precision over recall, as `COCOeval.accumulate` and `summarize` do it."""

from __future__ import annotations

import numpy as np

from msposenet.evaluation.coco_match import AREA_RANGES, THRESHOLDS, Matches

RECALLS = np.linspace(0, 1, 101)
_AT_50, _AT_75 = 0, 5  # of THRESHOLDS


def ten_numbers(matches: Matches) -> np.ndarray:
    """AP, AP50, AP75, AP medium, AP large, and AR likewise (10,); -1 where nobody is to be found."""
    precision, recall = _curves(matches)
    figures = []
    for curves in (precision, recall):
        whole, medium, large = curves
        figures += [_mean(part) for part in (whole, whole[_AT_50], whole[_AT_75], medium, large)]
    return np.array(figures)


def _curves(matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """Precision (R, T, 101) at RECALLS and the largest recall (R, T), -1 for a range of area without people."""
    shape = (len(AREA_RANGES), len(THRESHOLDS))
    precision, recall = np.full((*shape, len(RECALLS)), -1.0), np.full(shape, -1.0)
    # Of equal scores the earlier image comes first.
    order = np.argsort(-matches.scores, kind="stable")
    counted = ~matches.ignored
    right, wrong = (
        np.ascontiguousarray(np.moveaxis(poses[order], 0, 2))
        for poses in (matches.matched & counted, ~matches.matched & counted)
    )
    for size in np.flatnonzero(matches.wanted):
        for threshold in range(len(THRESHOLDS)):
            true = np.cumsum(right[threshold, size], dtype=np.float64)
            false = np.cumsum(wrong[threshold, size], dtype=np.float64)
            recalls = true / matches.wanted[size]
            precisions = true / (false + true + np.spacing(1))
            highest_after = np.maximum.accumulate(precisions[::-1])[::-1]
            places = np.searchsorted(recalls, RECALLS, side="left")
            reached = places[places < len(recalls)]
            precision[size, threshold] = 0
            precision[size, threshold, : len(reached)] = highest_after[reached]
            recall[size, threshold] = recalls[-1] if len(recalls) else 0
    return precision, recall


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else -1.0
