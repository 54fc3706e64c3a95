"""COCO keypoint scores: pycocotools' own numbers, with guards against the input that makes it give a wrong one.

COCOeval scores NaN keypoints, NaN areas and 50 numbers for 17 joints as AP 1.000, loses people whose annotation id is
0 or occurs twice, and dies on an empty result list. Here each of these is an error or a sentence in the notes; on
sound input the numbers are COCOeval's to the last bit, from operations on whole arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from msposenet.errors import ConfigError, DataError, ResultError
from msposenet.evaluation.checks import ImageId, read_json
from msposenet.evaluation.coco_curves import ten_numbers
from msposenet.evaluation.coco_match import MAX_RESULTS, Matches, People, match
from msposenet.evaluation.ground_truth import GroundTruth, read_ground_truth
from msposenet.evaluation.results import Result, check_results
from msposenet.skeletons import COCO_17, Skeleton

STAT_NAMES = ("AP", "AP50", "AP75", "AP_M", "AP_L", "AR", "AR50", "AR75", "AR_M", "AR_L")  # COCOeval's order

_LINE = " {:<18} {} @[ IoU={:<9} | area={:>6s} | maxDets={:>3d} ] = {:0.3f}"  # COCOeval.summarize
_SIZES = {"M": "medium", "L": "large"}
_MINUS_ONE = {
    "AP": "AP and AR: -1, no annotated people",
    "AP_M": "AP_M and AR_M: -1, no medium people (area 32^2 to 96^2 px)",
    "AP_L": "AP_L and AR_L: -1, no large people (area above 96^2 px)",
}
SIZE_NOTES = (_MINUS_ONE["AP_M"], _MINUS_ONE["AP_L"])  # for metrics that do not tell sizes apart


@dataclass(frozen=True)
class Scores:
    """COCO keypoint scores, 0 to 1, or -1 where no person of that size is annotated.

    `boxes` says whose boxes the poses were found in; `people` counts the annotated people that are scored (no crowds,
    at least one labelled joint); `notes` are sentences on what would surprise a reader of the numbers.
    """

    AP: float
    AP50: float
    AP75: float
    AP_M: float
    AP_L: float
    AR: float
    AR50: float
    AR75: float
    AR_M: float
    AR_L: float
    boxes: str
    images: int
    people: int
    results: int
    notes: tuple[str, ...] = ()
    _images: dict[ImageId, int] = field(default_factory=dict, repr=False, compare=False)  # id -> number
    _people: People | None = field(default=None, repr=False, compare=False)
    _people_ids: list[ImageId] = field(default_factory=list, repr=False, compare=False)
    _matches: Matches | None = field(default=None, repr=False, compare=False)

    @property
    def main(self) -> tuple[str, float]:
        """Name and value of the figure that checkpoints are compared by."""
        return "AP", self.AP

    @property
    def figures(self) -> dict[str, float]:
        """What a training's log shows."""
        return {name: getattr(self, name) for name in ("AP", "AP50", "AP75", "AR")}

    def oks_of_image(self, image_id: ImageId) -> np.ndarray:
        """COCOeval's OKS matrix (D, G): the at most 20 best results in falling score, all annotations in file order.

        (0, G) where nobody was found or annotated.
        """
        image, people = self._known(image_id), len(self.annotation_ids(image_id))
        oks = self._matches.oks[slice(*self._matches.starts[image : image + 2])]
        return oks.reshape(-1, people) if people else np.zeros((0, 0))

    def annotation_ids(self, image_id: ImageId) -> list[ImageId]:
        """Annotation ids of the columns of `oks_of_image`, as they stand in the annotation file."""
        image = self._known(image_id)
        return self._people_ids[slice(*np.searchsorted(self._people.image, [image, image + 1]))]

    def _known(self, image_id: ImageId) -> int:
        if image_id not in self._images:
            raise DataError(f"image {image_id!r} was not evaluated; {len(self._images)} images were")
        return self._images[image_id]

    def as_dict(self) -> dict[str, Any]:
        """The scores under their standard names with `boxes`, the counts and the notes: what `eval --json` prints."""
        counts = {name: getattr(self, name) for name in ("boxes", "images", "people", "results")}
        return {**{name: getattr(self, name) for name in STAT_NAMES}, **counts, "notes": list(self.notes)}

    def lines(self, name: str = "") -> list[str]:
        """The heading "boxes: ...", pycocotools' ten lines, a markdown table of one row (`name` first), the notes."""
        lines = [f"boxes: {self.boxes}"]
        for stat in STAT_NAMES:
            title, kind = ("Average Precision", "(AP)") if stat.startswith("AP") else ("Average Recall", "(AR)")
            threshold = f"0.{stat[2:]}" if stat[2:].isdigit() else "0.50:0.95"
            size = _SIZES.get(stat[-1], "all")
            lines.append(_LINE.format(title, kind, threshold, size, MAX_RESULTS, getattr(self, stat)))
        lines.append(f"| model | {' | '.join(STAT_NAMES)} | boxes |")
        lines.append("|" + "---|" * (len(STAT_NAMES) + 2))
        figures = " | ".join(f"{getattr(self, stat):.3f}" for stat in STAT_NAMES)
        lines.append(f"| {name} | {figures} | {self.boxes} |")
        return lines + [f"note: {note}" for note in self.notes]


def evaluate_coco(
    ground_truth: Path | str | dict[str, Any],
    results: Path | str | list[dict[str, Any]],
    *,
    boxes: str,
    skeleton: Skeleton = COCO_17,
    sigmas: Sequence[float] | None = None,
    image_ids: Iterable[ImageId] | None = None,
) -> Scores:
    """COCO keypoint scores of `results` (COCO results, list or file) against `ground_truth` (COCO annotations).

    `boxes` is "ground truth" or "detector FILE". `sigmas` (K,) replace the skeleton's. With `image_ids` only these
    images count, results for other images of the annotation file are left out. The area of a result, by which COCOeval
    sorts false poses into medium and large, is always that around its keypoints, whether or not it carries `bbox`.

    Raises DataError for annotations and ResultError for results that cannot be trusted, with the id and the value;
    ConfigError for sigmas that do not fit.
    """
    if not boxes.strip():
        raise ConfigError('say whose boxes were used: boxes="ground truth" or boxes="detector FILE"')
    sigma_array = _sigmas(skeleton, sigmas)
    truth = read_ground_truth(ground_truth, skeleton)
    columns = result_columns(results, truth, skeleton)
    return score_images(truth, columns, chosen_images(truth, image_ids), sigma_array, boxes)


def result_columns(
    results: Path | str | list[dict[str, Any]], truth: GroundTruth, skeleton: Skeleton
) -> tuple[list[ImageId], np.ndarray, np.ndarray]:
    """`check_results` on the content of a result list or file, with the images and the category of `truth`."""
    from_file = isinstance(results, (str, Path))
    source = str(results) if from_file else "results"
    records = read_json(results, ResultError, list[Result]) if from_file else results
    return check_results(
        records, skeleton.num_joints, source=source, image_ids=truth.image_ids, category_id=truth.category_id
    )


def score_images(
    truth: GroundTruth,
    columns: tuple[list[ImageId], np.ndarray, np.ndarray],
    image_ids: list[ImageId],
    sigmas: np.ndarray,
    boxes: str,
) -> Scores:
    """COCOeval's scores of the results in `columns` (of `result_columns`) on the images `image_ids` of `truth`."""
    # COCOeval settles equal scores of two images by the order of their ids.
    number = {image_id: position for position, image_id in enumerate(image_ids)}
    rows, people = _people(truth, number)
    found_on = np.array([number.get(image_id, -1) for image_id in columns[0]], np.int64)
    asked = np.flatnonzero(found_on >= 0)
    found_on, keypoints, scores = found_on[asked], columns[1][asked], columns[2][asked]
    matches = match(people, len(number), found_on, keypoints, scores, sigmas)
    stats = dict(zip(STAT_NAMES, ten_numbers(matches).tolist()))
    notes = list(truth.notes)
    if len(asked) < len(columns[0]):
        notes.append(f"{len(columns[0]) - len(asked)} results of images that were not asked for are left out")
    notes += _notes(stats, found_on, keypoints, people, matches)
    return Scores(
        **stats,
        boxes=boxes,
        images=len(number),
        people=int(people.scored.sum()),
        results=len(asked),
        notes=tuple(notes),
        _images=number,
        _people=people,
        _people_ids=[truth.annotation_ids[row] for row in rows.tolist()],
        _matches=matches,
    )


def _sigmas(skeleton: Skeleton, sigmas: Sequence[float] | None) -> np.ndarray:
    chosen = skeleton.sigma_array if sigmas is None else np.asarray(sigmas, np.float64)
    if chosen.shape != (skeleton.num_joints,) or not (np.isfinite(chosen) & (chosen > 0)).all():
        raise ConfigError(
            f"sigmas for {skeleton.name} must be {skeleton.num_joints} positive numbers, found {chosen.tolist()}"
        )
    return chosen


def chosen_images(truth: GroundTruth, image_ids: Iterable[ImageId] | None) -> list[ImageId]:
    """The images of `truth` that are among `image_ids`, all for None; DataError for ids that it does not list."""
    if image_ids is None:
        return truth.image_ids
    wanted, listed = set(image_ids), set(truth.image_ids)
    unknown = [image_id for image_id in wanted if image_id not in listed]
    if unknown:
        raise DataError(f"{truth.source}: images to evaluate that it does not list: {unknown[:5]} ({len(unknown)})")
    return [image_id for image_id in truth.image_ids if image_id in wanted]


def _people(truth: GroundTruth, number: dict[ImageId, int]) -> tuple[np.ndarray, People]:
    """The annotated people of the images in `number`, image by image, and their rows in `truth`."""
    image = np.array([number.get(image_id, -1) for image_id in truth.image_of], np.int64)
    rows = np.argsort(image, kind="stable")
    rows = rows[image[rows] >= 0]
    return rows, People(
        image=image[rows],
        keypoints=truth.keypoints[rows],
        areas=truth.areas[rows],
        boxes=truth.boxes[rows],
        crowd=truth.crowd[rows],
        scored=truth.scored[rows],
    )


def _notes(
    stats: dict[str, float], found_on: np.ndarray, keypoints: np.ndarray, people: People, matches: Matches
) -> list[str]:
    """Sentences on these scores of the results on images `found_on` (N,) with `keypoints` (N, K, 3)."""
    notes = [sentence for name, sentence in _MINUS_ONE.items() if stats[name] == -1]
    if not len(found_on):
        return [*notes, "the result list is empty: nobody was found, or nothing was written"]
    inhabited = np.unique(people.image[people.scored])
    results_on = np.bincount(found_on, minlength=len(matches.starts) - 1)
    missed = int((results_on[inhabited] == 0).sum())
    if missed:
        notes.append(f"{missed} of {len(inhabited)} images with people have no result")
    repeated = _repeated(found_on, keypoints[..., :2])
    if repeated:
        notes.append(f"{repeated} results repeat another pose of their image and count as false; run OKS-NMS first")
    beyond = int(np.maximum(results_on - MAX_RESULTS, 0).sum())
    if beyond:
        notes.append(f"{beyond} results beyond the best {MAX_RESULTS} of their image are not scored")
    if stats["AP"] == 0:
        best = float(matches.oks[people.scored[matches.person]].max(initial=0))
        notes.append(
            f"AP is 0 although there are results; the best OKS is {best:.3g}, and below 0.5 nothing counts: "
            "were the weights loaded, are the keypoints in image px and in the order of the skeleton?"
        )
    return notes


def _repeated(found_on: np.ndarray, xy: np.ndarray) -> int:
    """How many poses `xy` (N, K, 2) are those of another result of the same image."""
    sums = xy.sum(axis=(1, 2))
    order = np.lexsort((sums, found_on))
    # Only poses of one sum can be the same one; there are few.
    beside = (np.diff(found_on[order]) == 0) & (np.diff(sums[order]) == 0)
    rows = order[np.r_[beside, False] | np.r_[False, beside]]
    return len(rows) - len({(image, pose.tobytes()) for image, pose in zip(found_on[rows].tolist(), xy[rows])})
