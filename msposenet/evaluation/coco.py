"""COCO keypoint scores: pycocotools' COCOeval, with guards against the input that makes it give a wrong number.

COCOeval scores NaN keypoints, NaN areas and 50 numbers for 17 joints as AP 1.000, loses people whose annotation id is
0 or occurs twice, and dies on an empty result list. Here each of these is an error or a sentence in the notes; on
sound input the numbers are COCOeval's own.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from msposenet.errors import ConfigError, DataError, ResultError
from msposenet.evaluation.checks import ImageId, read_json
from msposenet.evaluation.ground_truth import GroundTruth, read_ground_truth
from msposenet.evaluation.results import check_results
from msposenet.skeletons import COCO_17, Skeleton

STAT_NAMES = ("AP", "AP50", "AP75", "AP_M", "AP_L", "AR", "AR50", "AR75", "AR_M", "AR_L")  # COCOeval's order
MAX_RESULTS = 20  # per image

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
    _oks: dict[ImageId, np.ndarray] = field(default_factory=dict, repr=False, compare=False)
    _annotation_ids: dict[ImageId, list[ImageId]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def main(self) -> tuple[str, float]:
        """Name and value of the figure that checkpoints are compared by."""
        return "AP", self.AP

    @property
    def figures(self) -> dict[str, float]:
        """What a training's log shows."""
        return {name: getattr(self, name) for name in ("AP", "AP50", "AP75", "AR")}

    def oks_of_image(self, image_id: ImageId) -> np.ndarray:
        """COCOeval's OKS matrix (D, G): the at most 20 best results in falling score, all annotations in file order."""
        return self._oks[self._known(image_id)]

    def annotation_ids(self, image_id: ImageId) -> list[ImageId]:
        """Annotation ids of the columns of `oks_of_image`, as they stand in the annotation file."""
        return self._annotation_ids[self._known(image_id)]

    def _known(self, image_id: ImageId) -> ImageId:
        if image_id not in self._oks:
            raise DataError(f"image {image_id!r} was not evaluated; {len(self._oks)} images were")
        return image_id

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
    records = read_json(results, ResultError) if from_file else results
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
    number = {image_id: position for position, image_id in enumerate(image_ids, start=1)}
    result_images, keypoints, scores = _only(columns, number)
    people_of: dict[ImageId, list[int]] = {image_id: [] for image_id in number}
    for row, image_id in enumerate(truth.image_of):
        if image_id in number:
            people_of[image_id].append(row)
    evaluator = _run(
        list(number.values()),
        _truth_records(truth, number),
        _result_records(result_images, keypoints, scores, number),
        sigmas,
    )
    oks = {image_id: _matrix(evaluator.ious[number[image_id], 1], len(people_of[image_id])) for image_id in number}
    stats = dict(zip(STAT_NAMES, map(float, evaluator.stats)))
    scored = truth.scored
    scored_of = {image_id: scored[rows] for image_id, rows in people_of.items() if scored[rows].any()}
    notes = list(truth.notes)
    if len(result_images) < len(columns[0]):
        notes.append(f"{len(columns[0]) - len(result_images)} results of images that were not asked for are left out")
    notes += _notes(stats, result_images, keypoints, {image: oks[image][:, kept] for image, kept in scored_of.items()})
    return Scores(
        **stats,
        boxes=boxes,
        images=len(number),
        people=int(sum(kept.sum() for kept in scored_of.values())),
        results=len(result_images),
        notes=tuple(notes),
        _oks=oks,
        _annotation_ids={image_id: [truth.annotation_ids[row] for row in rows] for image_id, rows in people_of.items()},
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


def _only(
    columns: tuple[list[ImageId], np.ndarray, np.ndarray], wanted: dict[ImageId, int]
) -> tuple[list[ImageId], np.ndarray, np.ndarray]:
    image_ids, keypoints, scores = columns
    rows = [row for row, image_id in enumerate(image_ids) if image_id in wanted]
    return [image_ids[row] for row in rows], keypoints[rows], scores[rows]


def _truth_records(truth: GroundTruth, number: dict[ImageId, int]) -> list[dict[str, Any]]:
    rows = [row for row, image_id in enumerate(truth.image_of) if image_id in number]
    # Numbered from 1: COCOeval writes the id of the matched person down and takes 0 for "no match".
    return [
        {
            "id": position,
            "image_id": number[truth.image_of[row]],
            "category_id": 1,
            "keypoints": truth.keypoints[row].ravel(),
            "area": float(truth.areas[row]),
            "bbox": truth.boxes[row].tolist(),
            "iscrowd": int(truth.crowd[row]),
            "num_keypoints": int(truth.num_keypoints[row]),
        }
        for position, row in enumerate(rows, start=1)
    ]


def _result_records(
    image_ids: list[ImageId], keypoints: np.ndarray, scores: np.ndarray, number: dict[ImageId, int]
) -> list[dict[str, Any]]:
    """What `COCO.loadRes` makes of results without `bbox`; it fails on an empty list."""
    areas = np.ptp(keypoints[..., :2], axis=1).prod(axis=1)
    return [
        {
            "id": position,
            "image_id": number[image_id],
            "category_id": 1,
            "keypoints": pose.ravel(),
            "area": float(area),
            "score": float(score),
        }
        for position, (image_id, pose, area, score) in enumerate(zip(image_ids, keypoints, areas, scores), start=1)
    ]


def _run(images: list[int], truth: list[dict[str, Any]], results: list[dict[str, Any]], sigmas: np.ndarray) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def index(annotations: list[dict[str, Any]]) -> COCO:
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image} for image in images],
            "categories": [{"id": 1, "name": "person"}],
            "annotations": annotations,
        }
        coco.createIndex()
        return coco

    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(index(truth), index(results), "keypoints")
        evaluator.params.kpt_oks_sigmas = sigmas
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def _matrix(oks: Any, people: int) -> np.ndarray:
    # COCOeval gives [] where either side is empty.
    return np.asarray(oks, np.float64).reshape(-1, people) if len(oks) else np.zeros((0, people))


def _notes(
    stats: dict[str, float],
    result_images: list[ImageId],
    keypoints: np.ndarray,
    scored_oks: dict[ImageId, np.ndarray],
) -> list[str]:
    """Sentences on these scores; `scored_oks` holds each image with scored people and their columns of the OKS."""
    notes = [sentence for name, sentence in _MINUS_ONE.items() if stats[name] == -1]
    if not result_images:
        return [*notes, "the result list is empty: nobody was found, or nothing was written"]
    missed = len(scored_oks.keys() - set(result_images))
    if missed:
        notes.append(f"{missed} of {len(scored_oks)} images with people have no result")
    poses = {(image_id, pose[:, :2].tobytes()) for image_id, pose in zip(result_images, keypoints)}
    repeated = len(result_images) - len(poses)
    if repeated:
        notes.append(f"{repeated} results repeat another pose of their image and count as false; run OKS-NMS first")
    beyond = sum(max(0, count - MAX_RESULTS) for count in Counter(result_images).values())
    if beyond:
        notes.append(f"{beyond} results beyond the best {MAX_RESULTS} of their image are not scored")
    if stats["AP"] == 0:
        best = max((float(matrix.max()) for matrix in scored_oks.values() if matrix.size), default=0.0)
        notes.append(
            f"AP is 0 although there are results; the best OKS is {best:.3g}, and below 0.5 nothing counts: "
            "were the weights loaded, are the keypoints in image px and in the order of the skeleton?"
        )
    return notes
