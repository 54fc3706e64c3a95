"""AI Challenger's own files: a list with one object a picture, people by name.

Annotations: {"image_id": name without extension, "human_annotations": {"human1": [x1, y1, x2, y2], ...},
"keypoint_annotations": {"human1": [x, y, flag] * 14, ...}} with flag 1 visible, 2 hidden, 3 unlabelled.
Predictions: the same without human_annotations; the third number is not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from msposenet.errors import DataError, PoseError, ResultError
from msposenet.evaluation.aic import evaluate_aic
from msposenet.evaluation.arrays import array_of, coordinates_where
from msposenet.evaluation.checks import (
    LARGEST_COORDINATE,
    ImageId,
    check_finite,
    check_id,
    check_records,
    number_table,
    read_json,
    short,
)
from msposenet.evaluation.scores import MetricScores
from msposenet.skeletons import AIC_14

JOINTS = AIC_14.num_joints
UNLABELLED = 3


def evaluate_aic_files(annotations: Path | str, predictions: Path | str, *, boxes: str) -> MetricScores:
    """`evaluate_aic` of two files in AI Challenger's own form; every picture of `annotations` is scored.

    A box whose corners are swapped has the size of the right one, which the notes say. Raises DataError for
    annotations and ResultError for predictions: no list, a missing key, an image id that occurs twice or is not
    annotated, a person without box, another number of values, a flag that is not 1, 2 or 3, a value that is not
    finite, a coordinate beyond 1e6 px; ConfigError for an empty `boxes`.
    """
    truth = read_aic_truth(annotations)
    found = _People(predictions, ("image_id", "keypoint_annotations"), ResultError)
    poses = found.table("keypoint_annotations", 3 * JOINTS)
    found.check_near(poses, "keypoint_annotations")
    annotated = set(truth.images)
    unknown = [image for image in found.images if image not in annotated]
    if unknown:
        raise ResultError(
            f"{predictions}: images that {annotations} does not hold: {unknown[:5]} ({len(unknown)}); ids are file "
            "names without extension; is it the right annotation file?"
        )
    scores = evaluate_aic(
        truth.image_of,
        truth.keypoints,
        truth.boxes,
        found.image_of,
        poses.reshape(-1, JOINTS, 3),
        truth.images,
        boxes=boxes,
        whole_numbers=found.whole_numbers() & truth.whole_numbers,
    )
    return replace(scores, notes=(*scores.notes, *truth.notes))


@dataclass(frozen=True)
class AicTruth:
    """The annotated people of a file in its order, as `evaluate_aic` takes them; joints that are not labelled are 0."""

    images: list[str]  # ids of all pictures
    image_of: list[str]  # of each person
    keypoints: np.ndarray  # (G, 14, 3) x, y, visibility in COCO's convention
    boxes: np.ndarray  # (G, 4) x, y, w, h, not clipped
    whole_numbers: bool
    notes: tuple[str, ...]


def read_aic_truth(annotations: Path | str) -> AicTruth:
    """The people of an annotation file in AI Challenger's own form, checked for scoring; raises DataError."""
    truth = _People(annotations, ("image_id", "human_annotations", "keypoint_annotations"), DataError)
    corners, keypoints = truth.table("human_annotations", 4), truth.table("keypoint_annotations", 3 * JOINTS)
    truth.check_near(corners, "human_annotations")
    keypoints = _visibility(keypoints.reshape(-1, JOINTS, 3), truth)
    sides = corners[:, 2:] - corners[:, :2]
    swapped = int((sides < 0).any(axis=1).sum())
    note = (
        f"{swapped} boxes with swapped corners are taken the right way round; the organisers' program finds a negative "
        "area where one axis is swapped and counts any pose as right"
    )
    return AicTruth(
        truth.images,
        truth.image_of,
        keypoints,
        np.concatenate([np.minimum(corners[:, :2], corners[:, 2:]), np.abs(sides)], axis=1),
        bool(truth.whole_numbers().all()),
        (note,) if swapped else (),
    )


def to_aic_results(image_names: Sequence[str], keypoints: np.ndarray) -> list[dict[str, Any]]:
    """AI Challenger's predictions of `keypoints` (P, 14, 2 or more) in image px, joints in the order of AIC_14.

    `image_names` (P,) are file names without extension; `write_results` writes the list to a file. The third number
    of every joint is 1. Raises ResultError for another shape and for values that are not finite.
    """
    poses = array_of(keypoints, (len(image_names), JOINTS, None), "keypoints", ResultError)[..., :2]
    poses = coordinates_where(np.ones(poses.shape[:2], bool), poses, "prediction", AIC_14, ResultError)
    flagged = np.concatenate([poses, np.ones((len(poses), JOINTS, 1))], axis=2)
    people: dict[str, dict[str, list[float]]] = {}
    for name, pose in zip(image_names, flagged.reshape(len(flagged), 3 * JOINTS).tolist()):
        on_image = people.setdefault(str(name), {})
        on_image[f"human{len(on_image) + 1}"] = pose
    return [{"image_id": name, "keypoint_annotations": poses} for name, poses in people.items()]


class _People:
    """The people of one file in its order: `images` (ids), and for each person its image and name."""

    def __init__(self, path: Path | str, keys: tuple[str, ...], error: type[PoseError]) -> None:
        self._path, self._error = path, error
        records = read_json(path, error)
        check_records(records, keys, str(path), "image", error)
        self.images = [self._image_id(record["image_id"], row) for row, record in enumerate(records)]
        row_of = {image: row for row, image in enumerate(self.images)}
        twice = [image for row, image in enumerate(self.images) if row_of[image] != row]
        if twice:
            raise error(f"{path}: images that occur twice: {twice[:5]} ({len(twice)}); keep one of each")
        self.image_of: list[ImageId] = []
        self._names: list[str] = []
        self._columns: dict[str, list[Any]] = {key: [] for key in keys[1:]}
        for image, record in zip(self.images, records):
            self._add(image, {key: record[key] for key in keys[1:]})

    def _image_id(self, value: Any, row: int) -> str:
        if not isinstance(check_id(value, f"{self._path}: image {row}", self._error), str):
            raise self._error(f"{self._path}: image {row}: image_id must be text, found {short(value)}")
        return value

    def _add(self, image: str, entries: dict[str, Any]) -> None:
        for key, people in entries.items():
            if not isinstance(people, dict):
                raise self._error(f"{self._path}: image {image!r}: {key} must be an object, found {short(people)}")
        names = list(entries["keypoint_annotations"])
        for key, people in entries.items():
            unmatched = sorted(set(people) ^ set(names))
            if unmatched:
                raise self._error(
                    f"{self._path}: image {image!r}: {short(unmatched[0])} is in only one of {' and '.join(entries)}; "
                    "every person needs both"
                )
            self._columns[key] += [people[name] for name in names]
        self.image_of += [image] * len(names)
        self._names += names

    def place(self, row: int) -> str:
        return f"{self._path}: image {self.image_of[row]!r}, {short(self._names[row])}"

    def table(self, key: str, width: int) -> np.ndarray:
        """The `width` numbers of every person under `key`, (N, width) float64."""
        return number_table(self._columns[key], width, self.place, key, self._error)

    def check_near(self, table: np.ndarray, key: str) -> None:
        """Raise unless every value of `table` (N, any) is finite and within 1e6 px."""
        check_finite(table, self.place, key, self._error)
        far = (np.abs(table) > LARGEST_COORDINATE).any(axis=1)
        if far.any():
            row = int(np.argmax(far))
            value = table[row][np.abs(table[row]) > LARGEST_COORDINATE][0]
            raise self._error(f"{self.place(row)}: {key} holds {value:g}; coordinates beyond 1e6 px cannot be right")

    def whole_numbers(self) -> np.ndarray:
        """True (N,) where all of a person's keypoints are written in whole numbers."""
        poses = self._columns["keypoint_annotations"]
        return np.array([all(isinstance(value, int) for value in pose) for pose in poses], bool)


def _visibility(keypoints: np.ndarray, truth: _People) -> np.ndarray:
    """`keypoints` (N, 14, 3) with COCO's flags in place of the file's, an unlabelled joint all zero."""
    sound = np.isin(keypoints[..., 2], (1, 2, UNLABELLED))
    if not sound.all():
        row, joint = np.argwhere(~sound)[0]
        raise DataError(
            f"{truth.place(row)}: {AIC_14.joints[joint]} has the flag {keypoints[row, joint, 2]:g}; "
            "it must be 1 visible, 2 hidden or 3 unlabelled"
        )
    keypoints = np.where(keypoints[..., 2:] == UNLABELLED, (0, 0, UNLABELLED), keypoints)
    truth.check_near(keypoints.reshape(len(keypoints), 3 * JOINTS), "keypoint_annotations")
    keypoints[..., 2] = UNLABELLED - keypoints[..., 2]
    return keypoints
