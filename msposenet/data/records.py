"""Annotated people as columns, and the report of how they were read.

Columns rather than objects: 600,000 instances load in seconds, and forked workers share the arrays, where reading a
Python object would touch its reference count and copy the page.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from msposenet.errors import DataError
from msposenet.skeletons import Skeleton

MAX_BAD_FRACTION = 0.001
MAX_BAD_ITEMS = 100
SHOWN = 5  # names in a sentence
LISTED = 10_000  # names kept for a report

_COLUMNS = {
    # name: dtype, shape with "I" images, "N" instances, "K" joints
    "image_ids": (np.int64, ("I",)),
    "image_sizes": (np.int32, ("I", 2)),
    "image_index": (np.int32, ("N",)),
    "annotation_ids": (np.int64, ("N",)),
    "boxes": (np.float64, ("N", 4)),
    "keypoints": (np.float32, ("N", "K", 3)),
    "areas": (np.float32, ("N",)),
    "box_scores": (np.float32, ("N",)),
    "origin_index": (np.uint8, ("N",)),
}
_PER_INSTANCE = tuple(name for name, (_, shape) in _COLUMNS.items() if shape[0] == "N")


@dataclass(frozen=True)
class Origin:
    """One of the sets that records were merged from."""

    name: str
    joint_weights: tuple[float, ...]  # K, of the skeleton's joints in the loss, besides loss.joint_weights
    sampling: float = 1.0  # samples an epoch takes per instance


@dataclass(frozen=True)
class Records:
    """N instances on I images; all coordinates in px of the unrotated image.

    `image_index` is each instance's row of the image table, which also holds images without instances. An image size
    of 0 x 0 is not known: the annotations do not say it. An unlabelled joint is x = y = visibility = 0. `box_scores`
    are 1 for ground truth. `origins` are the sets the instances come from, one unless sets were merged.
    """

    skeleton: Skeleton
    image_paths: np.ndarray  # (I,) bytes, path on disk
    image_ids: np.ndarray  # (I,) int64
    image_sizes: np.ndarray  # (I, 2) int32 width, height; 0 where not known
    image_index: np.ndarray  # (N,) int32
    annotation_ids: np.ndarray  # (N,) int64
    boxes: np.ndarray  # (N, 4) float64 x, y, w, h: crops equal the reference's only unrounded
    keypoints: np.ndarray  # (N, K, 3) float32 x, y, visibility 0 unlabelled / 1 hidden / 2 visible
    areas: np.ndarray  # (N,) float32 px^2, of the segment where the source has one
    box_scores: np.ndarray  # (N,) float32
    origin_index: np.ndarray | None = None  # (N,) uint8, row of `origins`; zeros when left out
    origins: tuple[Origin, ...] = ()  # one with weights 1 when left out

    def __post_init__(self) -> None:
        if self.origin_index is None:
            object.__setattr__(self, "origin_index", np.zeros(len(self), np.uint8))
        if not self.origins:
            object.__setattr__(self, "origins", (Origin("", (1.0,) * self.skeleton.num_joints),))

    @cached_property
    def joint_weights(self) -> np.ndarray:
        """Weights (S, K) float32 of the joints of each origin in the loss."""
        return np.array([origin.joint_weights for origin in self.origins], np.float32)

    def __len__(self) -> int:
        return len(self.image_index)

    def path(self, instance: int) -> str:
        """Path of the picture that shows instance number `instance`."""
        return self.picture(self.image_index[instance])

    def picture(self, row: int) -> str:
        """Path of the picture in row `row` of the image table."""
        return os.fsdecode(bytes(self.image_paths[row]))

    def select(self, chosen: np.ndarray) -> Records:
        """The instances `chosen` (indices or a mask (N,)), with the whole image table."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in _PER_INSTANCE})

    def check(self) -> None:
        """Raise DataError on a column of wrong type or length, or with a value that no training survives."""
        sizes = {"I": len(self.image_paths), "N": len(self), "K": self.skeleton.num_joints}
        if self.image_paths.dtype.kind != "S" or self.image_paths.ndim != 1:
            raise DataError(f"records: image_paths is {_kind(self.image_paths)}; bytes of shape ({sizes['I']},) wanted")
        for name, (dtype, axes) in _COLUMNS.items():
            column, shape = getattr(self, name), tuple(sizes.get(axis, axis) for axis in axes)
            if column.dtype != dtype or column.shape != shape:
                raise DataError(f"records: {name} is {_kind(column)}; {np.dtype(dtype)} of shape {shape} wanted")
        for name in ("boxes", "keypoints", "areas", "box_scores"):
            self._refuse(~np.isfinite(getattr(self, name)), f"{name} is not finite")
        self._refuse(self.origin_index >= len(self.origins), "origin_index is not among the origins")
        self._refuse((self.image_index < 0) | (self.image_index >= sizes["I"]), "image_index is not in the image table")
        self._refuse((self.boxes[:, 2:] <= 0), "the box is empty")
        visibility = self.keypoints[..., 2]
        self._refuse(~np.isin(visibility, (0, 1, 2)), "a visibility is not 0, 1 or 2")
        self._refuse((visibility == 0) & self.keypoints[..., :2].any(axis=-1), "an unlabelled joint has coordinates")

    def _refuse(self, bad: np.ndarray, what: str) -> None:
        rows = np.flatnonzero(bad.reshape(len(self), -1).any(axis=1))
        if rows.size:
            shown = ", ".join(str(self.annotation_ids[row]) for row in rows[:SHOWN])
            raise DataError(f"records: {what} in {rows.size} instances, annotations {shown}; correct their source")


def _kind(column: np.ndarray) -> str:
    return f"{column.dtype} of shape {column.shape}"


@dataclass(frozen=True)
class Tally:
    """How many items something happened to, and the names of the first LISTED."""

    count: int
    first: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Iterable[object]) -> Tally:
        named = [str(name) for name in names]
        return cls(len(named), tuple(named[:LISTED]))

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.first[:SHOWN]) else ""
        return f"{self.count:,} ({', '.join(self.first[:SHOWN])}{more})" if self.first else f"{self.count:,}"


@dataclass(frozen=True)
class Report:
    """What a reader did with one annotation file. The keys of the three dicts are reasons."""

    source: str  # name of the format
    file: str
    images: int
    instances: int  # kept
    filtered: dict[str, Tally] = field(default_factory=dict)  # legal but not trained on: crowds, nobody labelled
    dropped: dict[str, Tally] = field(default_factory=dict)  # damaged
    warnings: dict[str, Tally] = field(default_factory=dict)  # repaired, or assumed

    @property
    def damaged(self) -> int:
        return sum(tally.count for tally in self.dropped.values())

    def lines(self) -> list[str]:
        """The report for people to read, one finding a line, the summary first."""
        groups = (("left out", self.filtered), ("skipped as damaged", self.dropped), ("note", self.warnings))
        return [f"{self.source} {self.file}: {self.images:,} images, {self.instances:,} instances"] + [
            f"  {group}: {reason}: {tally}" for group, tallies in groups for reason, tally in tallies.items()
        ]

    def enforce(self, max_bad_fraction: float = MAX_BAD_FRACTION, max_bad_items: int = MAX_BAD_ITEMS) -> None:
        """Raise DataError when too many instances were dropped as damaged.

        Too many is more than `max_bad_fraction` of those that were usable or damaged, or more than `max_bad_items`;
        whoever raises the fraction above MAX_BAD_FRACTION has looked at the damage, so then it alone counts.
        """
        fraction = self.damaged / max(1, self.instances + self.damaged)
        over_items = self.damaged > max_bad_items and max_bad_fraction <= MAX_BAD_FRACTION
        if fraction > max_bad_fraction or over_items:
            reasons = "; ".join(f"{reason}: {tally}" for reason, tally in self.dropped.items())
            raise DataError(
                f"{self.file}: {self.damaged:,} damaged instances ({fraction:.2%}): {reasons}; at most "
                f"{max_bad_fraction:.2%} and {max_bad_items} are skipped; correct the file, or raise "
                f"data.max_bad_fraction above {fraction:.4f}"
            )
