"""From decoded poses to result files: pose scores, suppression per image, COCO results and people of one picture.

A result file is COCO's: a list of {image_id, category_id, keypoints [x, y, score] * K in image px, score}, plus `bbox`
x, y, w, h, the box the pose was found in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from msposenet.errors import ResultError
from msposenet.evaluation.checks import (
    LARGEST_COORDINATE,
    ImageId,
    check_finite,
    check_ids,
    check_records,
    number_table,
    read_json,
    short,
)
from msposenet.evaluation.nms import oks_nms, soft_oks_nms
from msposenet.skeletons import Skeleton
from msposenet.storage import make_folder, write_bytes_atomic


class Result(TypedDict, total=False):
    """What scoring wants of a result, as `read_json` takes it."""

    image_id: Any
    category_id: Any
    keypoints: list[float]
    score: float


def rescore(box_scores: np.ndarray, keypoints: np.ndarray, threshold: float = 0.2) -> np.ndarray:
    """Pose scores (N,): box score times the mean of the pose's joint scores above `threshold`, 0 where none is.

    `box_scores` (N,), `keypoints` (N, K, 3). Source: `evaluate` of HRNet's lib/dataset/coco.py.
    """
    joint_scores = np.asarray(keypoints, np.float64)[..., 2]
    counted = joint_scores > threshold
    mean = np.where(counted, joint_scores, 0).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
    return np.asarray(box_scores, np.float64) * mean


def suppress(
    image_ids: Sequence[ImageId],
    keypoints: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    *,
    sigmas: np.ndarray,
    threshold: float = 0.9,
    visibility_threshold: float | None = None,
    soft: bool = False,
) -> np.ndarray:
    """Rows that survive OKS-NMS within their image: images in order of first appearance, falling score within one.

    `image_ids` (N,), `keypoints` (N, K, 3) in image px, `scores` (N,), `areas` (N,) px^2 (of the padded box from which
    the crop was cut, width x height), `sigmas` (K,). `soft` weakens and reorders instead of removing, at most 20 an
    image. Raises ResultError naming the image when a value is not finite or the lengths differ.
    Source: `evaluate` of HRNet's lib/dataset/coco.py.
    """
    keypoints = np.asarray(keypoints, np.float64)
    scores, areas = np.asarray(scores, np.float64), np.asarray(areas, np.float64)
    _check_lengths(image_ids, keypoints=keypoints, scores=scores, areas=areas)
    _check_finite_rows(image_ids, keypoints=keypoints, scores=scores, areas=areas)
    rows_of: dict[Any, list[int]] = {}
    for row, image_id in enumerate(image_ids):
        rows_of.setdefault(image_id, []).append(row)
    nms = soft_oks_nms if soft else oks_nms
    kept = [np.zeros(0, np.int64)]
    for listed in rows_of.values():
        rows = np.array(listed)
        kept.append(rows[nms(keypoints[rows], scores[rows], areas[rows], threshold, sigmas, visibility_threshold)])
    return np.concatenate(kept)


def to_coco_results(
    image_ids: Sequence[ImageId],
    keypoints: np.ndarray,
    scores: np.ndarray,
    boxes: np.ndarray | None,
    category_id: int = 1,
) -> list[dict[str, Any]]:
    """COCO results of `keypoints` (N, K, 3) in image px, `scores` (N,) and `boxes` (N, 4) x, y, w, h, as plain floats.

    Without `boxes` (None) the results carry no `bbox`. Raises ResultError naming the image when a value is not finite
    or the lengths differ.
    """
    columns = {"keypoints": np.asarray(keypoints, np.float64), "scores": np.asarray(scores, np.float64)}
    if boxes is not None:
        columns["boxes"] = np.asarray(boxes, np.float64)
    _check_lengths(image_ids, **columns)
    _check_finite_rows(image_ids, **columns)
    results = [
        {
            "image_id": int(image_id) if isinstance(image_id, Integral) else str(image_id),
            "category_id": int(category_id),
            "keypoints": pose.ravel().tolist(),
            "score": float(score),
        }
        for image_id, pose, score in zip(image_ids, columns["keypoints"], columns["scores"])
    ]
    for result, box in zip(results, columns.get("boxes", ())):
        result["bbox"] = box.tolist()
    return results


def people_json(
    image: str,
    width: int,
    height: int,
    skeleton: Skeleton,
    keypoints: np.ndarray,
    scores: np.ndarray,
    boxes: np.ndarray,
) -> dict[str, Any]:
    """The people of one picture, joints by name: what `predict` writes beside each picture.

    {"image": name, "width": px, "height": px, "skeleton": name of the set,
     "people": [{"bbox": [x, y, w, h], "score": s, "keypoints": {joint: [x, y, score], ...}}, ...]}
    `keypoints` (N, K, 3), `scores` (N,), `boxes` (N, 4), all in image px. Raises ResultError like `to_coco_results`.
    """
    keypoints = np.asarray(keypoints, np.float64)
    expected = (len(scores), skeleton.num_joints, 3)
    if len(scores) and keypoints.shape != expected:
        raise ResultError(f"{image}: keypoints of skeleton {skeleton.name} must be {expected}, found {keypoints.shape}")
    people = to_coco_results([image] * len(scores), keypoints, scores, boxes)
    return {
        "image": image,
        "width": int(width),
        "height": int(height),
        "skeleton": skeleton.name,
        "people": [
            {
                "bbox": person["bbox"],
                "score": person["score"],
                "keypoints": dict(zip(skeleton.joints, pose.tolist())),
            }
            for person, pose in zip(people, keypoints)
        ],
    }


def write_results(path: Path | str, results: list[dict[str, Any]]) -> Path:
    """Write `results` (of `to_coco_results`) to `path` whole or not at all; missing folders are made.

    Raises ResultError naming the image id when a value is not finite or no JSON value, StorageError when the disk
    refuses, ConfigError when `path` can be no file.
    """
    path = Path(path)
    try:
        text = json.dumps(results, allow_nan=False)
    except (TypeError, ValueError):
        raise ResultError(f"{path}: not written, {_first_unwritable(results)}") from None
    make_folder(path.parent)
    write_bytes_atomic(path, text.encode())
    return path


def read_results(
    path: Path | str,
    *,
    num_joints: int | None = None,
    image_ids: Iterable[ImageId] | None = None,
    category_id: int | None = None,
) -> list[dict[str, Any]]:
    """The results in file `path`, checked by `check_results`; ResultError says what is wrong with which of them."""
    records = read_json(path, ResultError)
    check_results(records, num_joints, source=str(path), image_ids=image_ids, category_id=category_id)
    return records


def check_results(
    records: Any,
    num_joints: int | None = None,
    *,
    source: str = "results",
    image_ids: Iterable[ImageId] | None = None,
    category_id: int | None = None,
) -> tuple[list[ImageId], np.ndarray, np.ndarray]:
    """Columns of a COCO result list: image ids (N,), keypoints (N, K, 3), scores (N,), both float64.

    K is `num_joints`, or that of the first result. `image_ids` are the images that exist and `category_id` the one
    category allowed, where given. Raises ResultError naming `source`, the image and the value for a wrong root or
    type, a missing key, another number of values, a value that is not finite, a coordinate beyond 1e6 px, an unknown
    image or another category (the first five are listed).
    """
    check_records(records, ("image_id", "category_id", "keypoints", "score"), source, "result", ResultError)

    def place(row: int) -> str:
        return f"{source}: result {row} of image {records[row]['image_id']!r}"

    ids = check_ids([record["image_id"] for record in records], place, ResultError)
    if image_ids is not None:
        known = set(image_ids)
        _reject([image_id for image_id in ids if image_id not in known], f"{source}: results name unknown images")
    if category_id is not None:
        other = [repr(record["category_id"]) for record in records if record["category_id"] != category_id]
        _reject(other, f"{source}: results must have category {category_id}, found categories")
    if num_joints is None:
        first = records[0]["keypoints"] if records else ()
        num_joints = len(first) // 3 if isinstance(first, (list, tuple, np.ndarray)) and np.ndim(first) else 0
    table = number_table([record["keypoints"] for record in records], 3 * num_joints, place, "keypoints", ResultError)
    scores = number_table([[record["score"]] for record in records], 1, place, "score", ResultError)[:, 0]
    for name, column in (("keypoints", table), ("score", scores[:, None])):
        check_finite(column, place, name, ResultError)
    keypoints = table.reshape(len(records), num_joints, 3)
    far = np.abs(keypoints[..., :2]).max(axis=(1, 2), initial=0) > LARGEST_COORDINATE
    if far.any():
        raise ResultError(f"{place(int(np.argmax(far)))} has a coordinate beyond 1e6 px; were the weights loaded?")
    return ids, keypoints, scores


def _reject(found: list[Any], message: str) -> None:
    if found:
        first = list(dict.fromkeys(found))[:5]
        raise ResultError(
            f"{message} {', '.join(map(str, first))} ({len(found)} results); is it the right annotation file?"
        )


def _check_lengths(image_ids: Sequence[ImageId], **columns: np.ndarray) -> None:
    for name, column in columns.items():
        if len(column) != len(image_ids):
            raise ResultError(f"{len(image_ids)} image ids but {len(column)} {name}; give one each")


def _check_finite_rows(image_ids: Sequence[ImageId], **columns: np.ndarray) -> None:
    for name, column in columns.items():
        rows = column.reshape(len(column), math.prod(column.shape[1:]))
        check_finite(rows, lambda row: f"image {image_ids[row]}", name, ResultError)


def _first_unwritable(results: list[dict[str, Any]]) -> str:
    for row, result in enumerate(results):
        for key, value in result.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError):
                return (
                    f"result {row} of image {result.get('image_id')}: {key} is {short(value)}, not finite plain numbers"
                )
    return "a value is no JSON value"
