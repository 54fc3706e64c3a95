"""Which predicted joints are right, by poseval's rules, and the average precision that follows."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from msposenet.evaluation.posetrack_frames import JOINTS, Frame, People

THRESHOLD = 0.5  # head sizes


class ComparedFrame(NamedTuple):
    """One frame's people and `distances` (P, G, 15) of prediction to annotation in head sizes, inf where no match."""

    truth: People
    predicted: People
    distances: np.ndarray


def compare(frame: Frame, predicted: People, has: np.ndarray) -> ComparedFrame:
    """An annotated frame with its `predicted` people; only the joints that `has` (15,) says count on either side."""
    truth, predicted = (_counting(people, frame, has) for people in (frame.people, predicted))
    apart = np.linalg.norm(predicted.xy_image[:, None] - truth.xy_image[None], axis=-1)
    with np.errstate(over="ignore"):
        distances = apart / truth.head_sizes[None, :, None]
    matching = (distances <= THRESHOLD) & predicted.present[:, None] & truth.present[None]
    return ComparedFrame(truth, predicted, np.where(matching, distances, np.inf))


def _counting(people: People, frame: Frame, has: np.ndarray) -> People:
    """The people without the joints in ignore regions; whom a region leaves no joint is not there."""
    present = people.present & has
    for polygon in frame.regions:
        present &= ~_inside(people.xy_image, polygon)
    counted = replace(people, present=present)
    return counted.select(present.any(axis=1)) if frame.regions else counted


def _inside(xy_image: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Whether points (..., 2) lie within `polygon` (P, 2), by the even-odd rule; its border is outside."""
    x, y = xy_image[..., 0], xy_image[..., 1]
    inside, border = np.zeros(x.shape, bool), np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0)):
        side = (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)
        crosses = (y0 > y) != (y1 > y)
        # Left of the edge where it rises, right of it where it falls: the ray to larger x meets it.
        inside ^= crosses & ((side > 0) == (y1 > y0))
        within = (x >= min(x0, x1)) & (x <= max(x0, x1)) & (y >= min(y0, y1)) & (y <= max(y0, y1))
        border |= (side == 0) & within
    return inside & ~border


def found_joints(frame: ComparedFrame) -> np.ndarray:
    """Which joints (P, 15) of the predicted people are found on the annotated person that each is assigned to."""
    matching = np.isfinite(frame.distances)
    right = np.zeros(frame.predicted.present.shape, bool)
    if not len(frame.truth) or not len(right):
        return right
    part = matching.sum(axis=2) / np.maximum(frame.truth.present.sum(axis=1), 1)
    best = np.zeros_like(part)
    rows, favourite = np.arange(len(right)), part.argmax(axis=1)
    best[rows, favourite] = part[rows, favourite]
    for person in np.flatnonzero(best.any(axis=0)):
        pose = best[:, person].argmax()
        right[pose] = matching[pose, person]
    return right


def average_precision(frames: list[ComparedFrame]) -> tuple[np.ndarray, np.ndarray]:
    """AP, final precision and final recall (3, 15) of each joint, 0 to 1, and the annotated joints (15,)."""
    annotated = sum((frame.truth.present.sum(axis=0) for frame in frames), np.zeros(JOINTS, np.int64))
    present = np.concatenate([np.zeros((0, JOINTS), bool), *(frame.predicted.present for frame in frames)])
    scores = np.concatenate([np.zeros((0, JOINTS)), *(frame.predicted.scores for frame in frames)])
    right = np.concatenate([np.zeros((0, JOINTS), bool), *(found_joints(frame) for frame in frames)])
    figures = np.zeros((3, JOINTS))
    for joint in np.flatnonzero(annotated):
        rows = present[:, joint]
        # Of equal scores the later comes first, as in poseval on short lists; on long ones its order is not defined.
        order = np.argsort(scores[rows, joint], kind="stable")[::-1]
        figures[:, joint] = _ranked(right[rows, joint][order], int(annotated[joint]))
    return figures, annotated


def _ranked(right: np.ndarray, annotated: int) -> tuple[float, float, float]:
    """Area under the envelope of precision over recall, final precision and recall, of ranked joints (R,)."""
    if not len(right):
        return 0.0, 0.0, 0.0
    hits = np.cumsum(right)
    recall, precision = hits / annotated, hits / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0) * envelope).sum()), float(precision[-1]), float(recall[-1])
