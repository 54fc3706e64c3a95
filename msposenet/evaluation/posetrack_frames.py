"""The frames of PoseTrack sequences with their people as columns, annotated and predicted alike.

The joints are always the 15 of skeletons.POSETRACK_15, poseval's own; ears are passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from msposenet.errors import DataError, PoseError, ResultError
from msposenet.evaluation.checks import ImageId
from msposenet.skeletons import POSETRACK_15

JOINTS = POSETRACK_15.num_joints
NO_TRACK = -1
NO_SCORE = -9999.0  # poseval's score for a joint without one: it ranks last
OTHER_NAMES = {"head_bottom": "neck"}


class Side(NamedTuple):
    """Which of the two a file is: what its faults raise, and the largest track id."""

    error: type[PoseError]
    max_track: int


ANNOTATED = Side(DataError, 2**53)
PREDICTED = Side(ResultError, 9999)  # poseval asserts it


@dataclass(frozen=True)
class People:
    """P people of one frame as columns.

    `xy_image` (P, 15, 2) px and `present` (P, 15) bool; `scores` (P, 15) of predictions; `head_sizes` (P,) px of
    annotations, 0.6 x the diagonal of the head box; `tracks` (P,) int64, NO_TRACK where the file has none.
    """

    xy_image: np.ndarray
    present: np.ndarray
    scores: np.ndarray
    head_sizes: np.ndarray
    tracks: np.ndarray

    @classmethod
    def empty(cls, number: int) -> People:
        """`number` people without joints, to be filled in."""
        return cls(
            np.zeros((number, JOINTS, 2)),
            np.zeros((number, JOINTS), bool),
            np.full((number, JOINTS), NO_SCORE),
            np.ones(number),
            np.full(number, NO_TRACK, np.int64),
        )

    def __len__(self) -> int:
        return len(self.xy_image)

    def select(self, rows: np.ndarray) -> People:
        """The people `rows`, indices or a mask."""
        columns = (self.xy_image, self.present, self.scores, self.head_sizes, self.tracks)
        return People(*(column[rows] for column in columns))


@dataclass(frozen=True)
class Frame:
    """One picture of a sequence. `name` is that of its file, None where an 18 file does not say it.

    `listed` is whether the file lists anybody, with joints or without: only such frames of an annotation are scored.
    `regions` are polygons (P, 2) in image px within which nothing counts; `video` is the 18 form's `vid_id`.
    """

    id: ImageId | None
    name: str | None
    people: People
    listed: bool
    regions: tuple[np.ndarray, ...] = ()
    video: ImageId | None = None


@dataclass(frozen=True)
class VideoFile:
    """The frames of one file, in its order. `by_id` is true for the 18 form, whose frames have an id."""

    source: str
    frames: tuple[Frame, ...]
    by_id: bool
    absent: tuple[str, ...] = ()  # joints that the form names but this file does not


def joint_columns(names: Sequence[str]) -> np.ndarray:
    """Position (15,) of each joint of POSETRACK_15 among `names`, -1 where it is missing."""
    known = [OTHER_NAMES.get(name, name) for name in names]
    return np.array([known.index(joint) if joint in known else -1 for joint in POSETRACK_15.joints])
