"""COCO keypoint scores of a set as large as COCO val: our evaluation against pycocotools, whole and scoring alone."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from msposenet.errors import ResultError
from msposenet.evaluation.coco import STAT_NAMES, Scores, chosen_images, evaluate_coco, result_columns, score_images
from msposenet.evaluation.ground_truth import read_ground_truth
from msposenet.evaluation.results import write_results
from msposenet.skeletons import COCO_17
from msposenet.storage import make_folder, write_json_atomic

BOXES = "ground truth"
OURS, THEIRS = "msposenet", "pycocotools"
WHOLE, SCORING = "files and scores", "scores"

# Of COCO's val2017: 11,004 people on 2,693 of 5,000 images; 227 are crowds, 4,425 others have no labelled joint.
_PEOPLE_AN_IMAGE = 11_004 / 5_000
_IMAGES_WITH_PEOPLE = 2_693 / 5_000
_CROWDS = 227 / 11_004
_UNLABELLED = 4_425 / 11_004
_OUTLINE = 20  # points of a segmentation

# A standing person in shares of its box: x, y of COCO's 17 joints.
_STANDING = np.array(
    [
        [.50, .08], [.54, .06], [.46, .06], [.58, .08], [.42, .08], [.68, .22], [.32, .22], [.78, .38], [.22, .38],
        [.80, .52], [.20, .52], [.62, .52], [.38, .52], [.64, .74], [.36, .74], [.64, .95], [.36, .95],
    ]
)  # fmt: skip


def contenders(folder: Path, images: int, results: int, seed: int) -> dict[str, Callable[[], np.ndarray]]:
    """Each makes the ten scores (10,) of STAT_NAMES of one synthetic set, whose two files are written to `folder`.

    "..., files and scores" read the files, check what they check and score; "..., scores" begin with what was read.
    """
    truth_file, result_file = write_set(folder, images, results, seed)
    truth = read_ground_truth(truth_file, COCO_17)
    columns = result_columns(result_file, truth, COCO_17)
    theirs = _silent(_load, truth_file, result_file)

    def ours_whole() -> np.ndarray:
        return _stats(evaluate_coco(truth_file, result_file, boxes=BOXES))

    def ours_scores() -> np.ndarray:
        return _stats(score_images(truth, columns, chosen_images(truth, None), COCO_17.sigma_array, BOXES))

    return {
        f"{OURS}, {WHOLE}": ours_whole,
        f"{THEIRS}, {WHOLE}": lambda: _silent(lambda: _score(*_load(truth_file, result_file))),
        f"{OURS}, {SCORING}": ours_scores,
        f"{THEIRS}, {SCORING}": partial(_silent, _score, *theirs),
    }


def check_identical(stats: dict[str, np.ndarray]) -> None:
    """ResultError unless all contenders of `contenders` gave the same ten numbers, to the last bit."""
    (first, expected), *others = stats.items()
    for name, found in others:
        if not np.array_equal(found, expected):
            place = int(np.argmax(found != expected))
            raise ResultError(
                f"{STAT_NAMES[place]} is {expected[place]!r} for {first} and {found[place]!r} for {name}; "
                "their speeds are not comparable"
            )


def write_set(folder: Path, images: int, results: int, seed: int) -> tuple[Path, Path]:
    """An annotation file of `images` images, people as in COCO's val2017, and a file of `results` results.

    Every image gets as many results: a pose near each person, worse ones of them, and others of nobody.
    """
    rng = np.random.default_rng(seed)
    people = max(1, round(images * _PEOPLE_AN_IMAGE))
    inhabited = np.sort(rng.choice(images, max(1, round(images * _IMAGES_WITH_PEOPLE)), replace=False))
    image_of = np.sort(rng.choice(inhabited, people))
    boxes, keypoints, crowd = _people(rng, people)
    make_folder(folder)
    truth_file = Path(folder) / "annotations.json"
    write_json_atomic(truth_file, _annotations(rng, images, image_of, boxes, keypoints, crowd))
    found_on, poses, scores = _found(rng, images, results, image_of, boxes)
    records = [
        {"image_id": int(image) + 1, "category_id": 1, "keypoints": pose, "score": score}
        for image, pose, score in zip(found_on, poses.reshape(results, -1).tolist(), scores.tolist())
    ]
    return truth_file, write_results(Path(folder) / "results.json", records)


def _poses(rng: np.random.Generator, boxes: np.ndarray, noise: float) -> np.ndarray:
    """Poses (N, 17, 2) in image px that stand in `boxes` (N, 4), with `noise` in shares of the box."""
    shares = _STANDING + rng.normal(0, noise, (len(boxes), *_STANDING.shape))
    return boxes[:, None, :2] + shares * boxes[:, None, 2:]


def _people(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    heights = np.clip(rng.lognormal(4.6, 0.8, count), 12, 470)
    sizes = np.stack([heights * rng.uniform(0.35, 0.7, count), heights], axis=1)
    boxes = np.concatenate([rng.uniform(0, 1, (count, 2)) * np.maximum([640, 480] - sizes, 1), sizes], axis=1).round(2)
    crowd = rng.uniform(size=count) < _CROWDS
    hidden = (rng.uniform(size=count) < _UNLABELLED) | crowd
    keypoints = np.zeros((count, 17, 3))
    keypoints[..., :2] = np.floor(_poses(rng, boxes, 0.04))
    keypoints[..., 2] = rng.choice([0, 1, 2], (count, 17), p=[0.3, 0.1, 0.6]) * ~hidden[:, None]
    keypoints[keypoints[..., 2] == 0] = 0
    return boxes, keypoints, crowd


def _annotations(
    rng: np.random.Generator,
    images: int,
    image_of: np.ndarray,
    boxes: np.ndarray,
    keypoints: np.ndarray,
    crowd: np.ndarray,
) -> dict[str, Any]:
    count = len(boxes)
    areas = (boxes[:, 2:].prod(axis=1) * rng.uniform(0.4, 0.7, count)).round(4)
    outlines = (boxes[:, None, :2] + rng.uniform(0, 1, (count, _OUTLINE, 2)) * boxes[:, None, 2:]).round(2)
    people = [
        {
            "segmentation": [outline.ravel().tolist()],
            "num_keypoints": int((pose[:, 2] > 0).sum()),
            "area": float(area),
            "iscrowd": int(many),
            "keypoints": pose.ravel().astype(int).tolist(),
            "image_id": int(image) + 1,
            "bbox": box.tolist(),
            "category_id": 1,
            "id": 183_000 + row,
        }
        for row, (image, box, pose, area, many, outline) in enumerate(
            zip(image_of, boxes, keypoints, areas, crowd, outlines)
        )
    ]
    return {
        "images": [
            {"id": image + 1, "file_name": f"{image + 1:012d}.jpg", "width": 640, "height": 480}
            for image in range(images)
        ],
        "annotations": people,
        "categories": [{"id": 1, "name": "person", "supercategory": "person", "keypoints": list(COCO_17.joints)}],
    }


def _found(
    rng: np.random.Generator, images: int, results: int, image_of: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (N,), poses (N, 17, 3) in image px and scores (N,) of N results."""
    found_on = np.arange(results) % images
    visit = np.arange(results) // images  # of the image
    first, end = (np.searchsorted(image_of, found_on, side=side) for side in ("left", "right"))
    people_on = end - first
    near = (visit < 2 * people_on) & (people_on > 0)
    again = near & (visit >= people_on)
    around, _, _ = _people(rng, results)
    around[near] = boxes[(first + visit % np.maximum(people_on, 1))[near]]
    noise = np.where(again, 0.12, 0.02) * rng.lognormal(0, 0.6, results)
    poses = np.empty((results, 17, 3), np.float32)  # as networks give them: long numbers in the file
    poses[..., :2] = _poses(rng, around, noise[:, None, None])
    poses[..., 2] = rng.uniform(0.05, 0.95, (results, 17))
    scores = np.where(near & ~again, rng.beta(5, 2, results), rng.beta(2, 5, results)).astype(np.float32)
    order = rng.permutation(results)
    return found_on[order], poses[order].astype(np.float64), scores[order].astype(np.float64)


def _stats(scores: Scores) -> np.ndarray:
    return np.array([getattr(scores, name) for name in STAT_NAMES])


def _load(truth_file: Path, result_file: Path) -> tuple[Any, Any]:
    from pycocotools.coco import COCO

    truth = COCO(str(truth_file))
    return truth, truth.loadRes(str(result_file))


def _score(truth: Any, results: Any) -> np.ndarray:
    from pycocotools.cocoeval import COCOeval

    evaluator = COCOeval(truth, results, "keypoints")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator.stats


def _silent(work: Callable[..., Any], *arguments: Any) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        return work(*arguments)
