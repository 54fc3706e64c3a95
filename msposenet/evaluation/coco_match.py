"""Poses matched with annotated people as COCOeval does it, for all images, thresholds and ranges of area at once.

COCOeval walks over images, ranges, thresholds, poses and people one by one. Here the only loop is the one whose steps
depend on each other: the poses of an image by falling score. The outcome is COCOeval's, to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from msposenet.evaluation.oks import oks_of_pairs

MAX_RESULTS = 20  # per image
THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREA_RANGES = np.array([[0, 1e5], [32, 96], [96, 1e5]]) ** 2  # px^2: all, medium, large


@dataclass(frozen=True)
class People:
    """Annotated people: `image` (A,) 0 to I - 1, rising; `keypoints` (A, K, 3), `areas` (A,) px^2, `boxes` (A, 4) in
    image px, `crowd` (A,) and `scored` (A,) bool."""

    image: np.ndarray
    keypoints: np.ndarray
    areas: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray
    scored: np.ndarray


@dataclass(frozen=True)
class Matches:
    """What became of the D best poses, image by image and in falling score within one.

    `rows` (D,) are those of the results, `scores` (D,); `matched` and `ignored` (D, T, R) bool for T thresholds and R
    ranges of area. `wanted` (R,) counts the people to be found. `oks` (P,) is that of all pairs of a pose and a person
    of one image, pose by pose, of the person `person` (P,); those of image i begin at `starts[i]` (I + 1,).
    """

    rows: np.ndarray
    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    wanted: np.ndarray
    oks: np.ndarray
    person: np.ndarray
    starts: np.ndarray


def match(
    people: People, images: int, image: np.ndarray, keypoints: np.ndarray, scores: np.ndarray, sigmas: np.ndarray
) -> Matches:
    """The results of `image` (N,), `keypoints` (N, K, 3) in image px and `scores` (N,) matched with `people`."""
    rows, rank = _best(image, scores, images)
    image, keypoints = image[rows], keypoints[rows]
    people_on = np.bincount(people.image, minlength=images)
    first_person = np.cumsum(people_on) - people_on
    pairs_of = people_on[image]
    pose = np.repeat(np.arange(len(rows)), pairs_of)
    first_pair = np.cumsum(pairs_of) - pairs_of
    person = np.arange(len(pose)) - first_pair[pose] + first_person[image[pose]]
    oks = oks_of_pairs(keypoints, people.keypoints, people.areas, people.boxes, sigmas, pose, person)

    people_ignored = ~people.scored[:, None] | _outside(people.areas)
    matched, ignored = _assign(rank, pose, person, oks, people_ignored, people.crowd)
    areas = np.ptp(keypoints[..., 0], axis=1) * np.ptp(keypoints[..., 1], axis=1)
    ignored |= ~matched & _outside(areas)[:, None, :]
    pairs_on = people_on * np.bincount(image, minlength=images)
    return Matches(
        rows=rows,
        scores=scores[rows],
        matched=matched,
        ignored=ignored,
        wanted=(~people_ignored).sum(axis=0),
        oks=oks,
        person=person,
        starts=np.concatenate([[0], np.cumsum(pairs_on)]),
    )


def _best(image: np.ndarray, scores: np.ndarray, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the best results of each image, and which of its image each is; of equal scores the earlier is better."""
    order = np.lexsort((-scores, image))
    counts = np.bincount(image, minlength=images)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = rank < MAX_RESULTS
    return order[kept], rank[kept]


def _outside(areas: np.ndarray) -> np.ndarray:
    return (areas[:, None] < AREA_RANGES[:, 0]) | (areas[:, None] > AREA_RANGES[:, 1])


def _assign(
    rank: np.ndarray,
    pose: np.ndarray,
    person: np.ndarray,
    oks: np.ndarray,
    people_ignored: np.ndarray,
    crowd: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Which poses (D, T, R) find somebody, and which of them somebody who is ignored.

    Each pose, in falling score, takes the person with the largest OKS that is free, the last of equals; somebody
    ignored only where nobody else is above the threshold. A crowd stays free.
    """
    shape = (len(rank), len(THRESHOLDS), len(AREA_RANGES))
    matched, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    taken = np.zeros((len(crowd), *shape[1:]), bool)
    pairs = np.flatnonzero(oks >= THRESHOLDS[0])  # no others ever match: a few per person
    pairs = pairs[np.lexsort((-pairs, -oks[pairs], pose[pairs]))]
    count = np.bincount(pose[pairs], minlength=len(rank))
    choice = np.arange(len(pairs)) - np.repeat(np.cumsum(count) - count, count)  # 0 is what the pose would like best
    # The pairs of one step are of different poses, and poses of one rank of different images: none meets another.
    order = np.lexsort((choice, rank[pose[pairs]]))
    pairs, choice, ranks = pairs[order], choice[order], rank[pose[pairs[order]]]
    starts = np.flatnonzero(np.diff(ranks, prepend=-1) | np.diff(choice, prepend=-1))
    steps: list[list[np.ndarray]] = []
    for step in np.split(pairs, starts[1:]) if len(pairs) else []:
        if not steps or rank[pose[step[0]]] != rank[pose[steps[-1][0][0]]]:
            steps.append([])
        steps[-1].append(step)
    for choices in steps:
        for among_ignored in (False, True):
            for step in choices:
                who, whom = pose[step], person[step]
                hit = (oks[step, None] >= THRESHOLDS)[..., None] & ~taken[whom] & ~matched[who]
                hit &= (people_ignored[whom] == among_ignored)[:, None, :]
                matched[who] |= hit
                taken[whom] |= hit & ~crowd[whom, None, None]
                if among_ignored:
                    ignored[who] |= hit
    return matched, ignored
