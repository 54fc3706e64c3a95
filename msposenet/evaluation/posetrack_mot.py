"""PoseTrack's tracking counts: CLEAR MOT of each joint by py-motmetrics, as poseval drives it.

What poseval does otherwise than one would expect, kept because its figures are the published ones:
* The last frame of each sequence is left out.
* A frame in which nobody is annotated or nobody is predicted counts as one missed and one false joint, no matter how
  many people the other side has.
* MOTP adds up the distances of all of motmetrics' events. Besides the matches these are the raw pairs within the
  threshold, so that most distances count at least twice; `matched_distance` is the sum over the matches alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from msposenet.evaluation.posetrack_frames import JOINTS
from msposenet.evaluation.posetrack_match import ComparedFrame


@dataclass(frozen=True)
class Counts:
    """Sums (15,) over sequences; `distance` and `matched_distance` in head sizes."""

    misses: np.ndarray
    switches: np.ndarray
    false_positives: np.ndarray
    objects: np.ndarray
    detections: np.ndarray
    distance: np.ndarray
    matched_distance: np.ndarray

    @classmethod
    def zero(cls) -> Counts:
        return cls(*(np.zeros(JOINTS) for _ in fields(cls)))


def count_tracks(sequences: Sequence[Sequence[ComparedFrame]]) -> Counts:
    """What motmetrics counts over `sequences`, each the compared frames of a video in time order.

    All people carry a track; predicted ones of a frame carry different ones.
    """
    import motmetrics

    counts = Counts.zero()
    for sequence in sequences:
        frames = sequence[:-1]
        if not frames:
            continue
        for joint in range(JOINTS):
            accumulator = motmetrics.MOTAccumulator(auto_id=True)
            for frame in frames:
                accumulator.update(*_of_joint(frame, joint))
            _add(counts, joint, accumulator.events)
    return counts


def _add(counts: Counts, joint: int, events: Any) -> None:
    """Count motmetrics' table of events as its own metrics are defined, without the tables that those make first."""
    kinds, distances = events["Type"].to_numpy(), events["D"].to_numpy()
    missed, switched, matched = (kinds == kind for kind in ("MISS", "SWITCH", "MATCH"))
    detected = matched | switched
    counts.misses[joint] += missed.sum()
    counts.switches[joint] += switched.sum()
    counts.false_positives[joint] += (kinds == "FP").sum()
    counts.objects[joint] += (missed | detected).sum()
    counts.detections[joint] += detected.sum()
    counts.distance[joint] += np.nansum(distances)
    counts.matched_distance[joint] += distances[detected].sum()


def _of_joint(frame: ComparedFrame, joint: int) -> tuple[list[int], list[int], np.ndarray]:
    """Tracks of the annotated and the predicted people that have the joint, distances (G, P), NaN where no match."""
    if not len(frame.truth) or not len(frame.predicted):
        return [0], [0], np.full((1, 1), np.nan)
    annotated, predicted = frame.truth.present[:, joint], frame.predicted.present[:, joint]
    distances = frame.distances[predicted][:, annotated, joint].T
    tracks = (frame.truth.tracks[annotated].tolist(), frame.predicted.tracks[predicted].tolist())
    return (*tracks, np.where(np.isfinite(distances), distances, np.nan))
