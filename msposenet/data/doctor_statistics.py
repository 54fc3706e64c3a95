"""Figures of a set: its joints, sizes, doubles, and whether left and right are what they are called.

Left and right are judged by three numbers, none of which needs a picture:

* crossed: of two neighbouring pairs (hips and knees), in how many persons the left ones lie closer to the right ones
  than to each other's own side. Where a mapping swaps one of the pairs, the share becomes one minus itself.
* reversed: of the persons whose nose and both eyes are seen, so that they face the camera, in how many the left joint
  of a pair is on the picture's left. A swap of all sides shows here.
* facing: in how many persons the left shoulder is on the picture's right, as of someone who faces the camera. People
  do so in most pictures; this alone judges sets that label no face.

And by the height of paired joints: two that are each other's mirror image are equally high in the middle of many
persons. The bounds lie between what sound sets show and what the same sets show with one pair swapped; docs/data.md
gives both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from msposenet.data.records import Records
from msposenet.data.unify import JointMap
from msposenet.skeletons import Skeleton

MIN_PERSONS = 20  # fewer say nothing
MAX_CROSSED = 0.35
MAX_REVERSED = 0.2
MIN_FACING, MIN_FACING_PERSONS = 0.4, 100  # one video clip can show twenty backs
MAX_HEIGHT, MIN_HEIGHT_PERSONS = 0.06, 50  # of the box; wrists go up and down

_SIZE_EDGES = (0, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # px
_QUANTILES = (5, 50, 95)
# Neighbours that a skeleton need not join by a limb.
_MORE_LINKS = (
    (("left_shoulder", "right_shoulder"), ("left_hip", "right_hip")),
    (("left_eye", "right_eye"), ("left_shoulder", "right_shoulder")),
    (("left_ear", "right_ear"), ("left_shoulder", "right_shoulder")),
)
_FACE = ("nose", "left_eye", "right_eye")

Pair = tuple[str, str]


@dataclass(frozen=True)
class JointCount:
    """One joint of the skeleton among the persons of a set."""

    name: str
    taken_from: tuple[str, ...]  # the set's joints: one, two for their midpoint, none
    weight: float  # in the loss
    visible: int
    hidden: int
    outside: int  # labelled, but not on the picture: legal

    @property
    def labelled(self) -> int:
        return self.visible + self.hidden


def joint_counts(records: Records, found: JointMap, sizes: np.ndarray) -> list[JointCount]:
    """One entry a joint of `records`, which `found` unified; sizes (I, 2) of the pictures in px, 0 where not known."""
    visibility = records.keypoints[..., 2]
    outside = joints_outside(records, sizes)
    counts = []
    for place, name in enumerate(found.target.joints):
        ends = dict.fromkeys(found.source.joints[end] for end in found.pairs[place] if end >= 0)
        counts.append(
            JointCount(
                name,
                tuple(ends),
                float(records.joint_weights[0, place]),
                int((visibility[:, place] == 2).sum()),
                int((visibility[:, place] == 1).sum()),
                int(outside[:, place].sum()),
            )
        )
    return counts


def joints_outside(records: Records, sizes: np.ndarray) -> np.ndarray:
    """Mask (N, K) of labelled joints that lie on no pixel of their picture, of sizes (I, 2), 0 where not known."""
    size = sizes[records.image_index][:, None]
    xy = records.keypoints[..., :2]
    off = ((xy < -0.5) | (xy > size - 0.5)).any(axis=2)
    return off & (records.keypoints[..., 2] > 0) & (size[..., 0] > 0)


@dataclass(frozen=True)
class Histogram:
    """Counts of values from each edge up to, but without, the next; the last has no upper end."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values: np.ndarray, edges: tuple[float, ...]) -> Histogram:
        counts, _ = np.histogram(values, [*edges, np.inf])
        return cls(edges, tuple(counts.tolist()))


def person_sizes(records: Records) -> tuple[Histogram, dict[int, float]]:
    """Long sides of the boxes in px: their histogram and the 5th, 50th and 95th percentile."""
    sides = records.boxes[:, 2:].max(axis=1) if len(records) else np.zeros(0)
    quantiles = np.percentile(sides, _QUANTILES).tolist() if len(records) else [0.0] * len(_QUANTILES)
    return Histogram.of(sides, _SIZE_EDGES), dict(zip(_QUANTILES, quantiles))


def labelled_joints(records: Records) -> Histogram:
    """How many persons have 0, 1, ... K labelled joints."""
    labelled = (records.keypoints[..., 2] > 0).sum(axis=1)
    return Histogram.of(labelled, tuple(range(records.skeleton.num_joints + 1)))


def duplicate_persons(records: Records) -> list[tuple[int, int]]:
    """Pairs of annotation ids with the same box and the same joints on one picture: the first such, and another."""
    seen: dict[bytes, int] = {}
    pairs = []
    rows = (records.image_index, records.annotation_ids.tolist(), records.boxes, records.keypoints)
    for image, identity, box, keypoints in zip(*rows):
        content = image.tobytes() + box.tobytes() + keypoints.tobytes()
        first = seen.setdefault(hashlib.blake2b(content, digest_size=16).digest(), identity)
        if first != identity:
            pairs.append((first, identity))
    return pairs


@dataclass(frozen=True)
class SideCheck:
    """One number about left and right."""

    kind: str  # crossed, reversed, facing or height
    what: str  # the pair or pairs it is about
    persons: int  # that it could be measured on
    share: float  # of them; for `height` the median difference in box heights
    bound: float
    suspicious: bool

    def sentence(self) -> str:
        """What a suspicious number says, and what to do."""
        persons, bound = f"{self.persons:,} persons", f"(bound {self.bound:.0%})"
        picture_side = "is left the picture's left instead of the person's?"
        text = {
            "crossed": f"the left ones lie closer to the right ones in {self.share:.0%} of {persons} {bound}; one of "
            "the pairs is probably mapped or named the wrong way round",
            "reversed": f"exchanged in {self.share:.0%} of {persons} who face the camera {bound}; {picture_side}",
            "facing": f"only {self.share:.0%} of {persons} seem to face the camera {bound}; {picture_side}",
            "height": f"a mirror pair, but one is higher than the other by {abs(self.share):.0%} of the box in the "
            f"middle of {persons} {bound}; see the flip pairs",
        }
        return f"{self.what}: {text[self.kind]}"


def side_checks(records: Records) -> list[SideCheck]:
    """All numbers about left and right that can be measured on `records`, the crossings first."""
    keypoints, skeleton = records.keypoints, records.skeleton
    checks = [*_crossings(keypoints, skeleton), *_reversals(keypoints, skeleton), *_facing(keypoints, skeleton)]
    return [*checks, *_heights(keypoints, records.boxes, skeleton)]


def _crossings(keypoints: np.ndarray, skeleton: Skeleton) -> Iterator[SideCheck]:
    for one, other in _links(skeleton):
        (a, b, c, d), persons = _labelled(keypoints, skeleton, (*one, *other))
        if persons:
            crossed = _distance(a, c) + _distance(b, d) > _distance(a, d) + _distance(b, c)
            share = float(crossed.mean())
            what = f"{_part(one)} and {_part(other)}"
            yield _judged("crossed", what, persons, share, MAX_CROSSED, share > MAX_CROSSED)


def _links(skeleton: Skeleton) -> list[tuple[Pair, Pair]]:
    """Mirror pairs of which a limb joins the left ones, and some that are neighbours in every body."""
    pair_of = {joint: pair for pair in skeleton.flip_pairs for joint in pair}
    links = {}
    for a, b in skeleton.limbs:
        one, other = pair_of.get(a), pair_of.get(b)
        if one and other and one != other and one.index(a) == other.index(b):
            links[tuple(sorted((one, other)))] = (one, other)
    for one, other in _MORE_LINKS:
        if one in skeleton.flip_pairs and other in skeleton.flip_pairs:
            links.setdefault(tuple(sorted((one, other))), (one, other))
    return list(links.values())


def _reversals(keypoints: np.ndarray, skeleton: Skeleton) -> Iterator[SideCheck]:
    if not set(_FACE) <= set(skeleton.joints):
        return
    face = [skeleton.index(joint) for joint in _FACE]
    facing = keypoints[(keypoints[:, face, 2] == 2).all(axis=1)]
    for pair in skeleton.flip_pairs:
        if pair[0].partition("_")[2] in ("eye", "ear", "shoulder", "hip"):
            (left, right), persons = _labelled(facing, skeleton, pair)
            if persons:
                share = float((left[:, 0] < right[:, 0]).mean())
                yield _judged("reversed", _part(pair), persons, share, MAX_REVERSED, share > MAX_REVERSED)


def _facing(keypoints: np.ndarray, skeleton: Skeleton) -> Iterator[SideCheck]:
    pair = ("left_shoulder", "right_shoulder")
    if pair in skeleton.flip_pairs:
        (left, right), persons = _labelled(keypoints, skeleton, pair)
        if persons:
            share = float((left[:, 0] > right[:, 0]).mean())
            beyond = share < MIN_FACING and persons >= MIN_FACING_PERSONS
            yield _judged("facing", _part(pair), persons, share, MIN_FACING, beyond)


def _heights(keypoints: np.ndarray, boxes: np.ndarray, skeleton: Skeleton) -> Iterator[SideCheck]:
    for pair in skeleton.flip_pairs:
        places = [skeleton.index(joint) for joint in pair]
        both = (keypoints[:, places, 2] > 0).all(axis=1)
        if both.any():
            y = keypoints[both][:, places, 1]
            share = float(np.median((y[:, 0] - y[:, 1]) / boxes[both, 3]))
            persons = int(both.sum())
            beyond = abs(share) > MAX_HEIGHT and persons >= MIN_HEIGHT_PERSONS
            yield _judged("height", _part(pair), persons, share, MAX_HEIGHT, beyond)


def _judged(kind: str, what: str, persons: int, share: float, bound: float, beyond: bool) -> SideCheck:
    return SideCheck(kind, what, persons, share, bound, beyond and persons >= MIN_PERSONS)


def _labelled(keypoints: np.ndarray, skeleton: Skeleton, joints: tuple[str, ...]) -> tuple[list[np.ndarray], int]:
    """Places (M, 2) of each of `joints` in the M persons who have them all."""
    chosen = keypoints[:, [skeleton.index(joint) for joint in joints]]
    chosen = chosen[(chosen[..., 2] > 0).all(axis=1)]
    return [chosen[:, place, :2] for place in range(len(joints))], len(chosen)


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a - b, axis=1)


def _part(pair: Pair) -> str:
    """left_hip, right_hip -> hips; other names as they are."""
    left, right = pair
    if left.startswith("left_") and right.startswith("right_"):
        return left[len("left_") :] + "s"
    return f"{left}/{right}"
