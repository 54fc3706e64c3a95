"""COCO keypoint annotations for scoring: read, checked, as columns.

Stricter than training: there a bad person is skipped and counted, here it would change the number that is reported.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from msposenet.errors import DataError
from msposenet.evaluation.checks import (
    LARGEST_COORDINATE,
    ImageId,
    check_finite,
    check_id,
    check_ids,
    check_records,
    number_table,
    read_json,
    short,
)
from msposenet.skeletons import Skeleton


class _Annotation(TypedDict, total=False):
    """What scoring wants of an annotation, as `read_json` takes it."""

    id: Any
    image_id: Any
    category_id: Any
    keypoints: list[float]
    bbox: list[float]
    area: Any
    iscrowd: Any
    num_keypoints: Any


class _File(TypedDict, total=False):
    images: Any
    annotations: list[_Annotation]
    categories: Any


@dataclass(frozen=True)
class GroundTruth:
    """Annotated people as columns: `keypoints` (A, K, 3), `areas` (A,) px^2, `boxes` (A, 4) x, y, w, h in image px.

    `image_ids` are the file's images in rising order, `image_of` the image of each person, `annotation_ids` the ids in
    the file. A person with `crowd` or with `num_keypoints` 0 is not scored. `images` are the file's entries on images,
    in its order.
    """

    source: str
    category_id: int
    image_ids: list[ImageId]
    image_of: list[ImageId]
    annotation_ids: list[ImageId]
    keypoints: np.ndarray
    areas: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray
    num_keypoints: np.ndarray
    notes: tuple[str, ...]
    images: list[dict[str, Any]] = field(default_factory=list, repr=False)

    @property
    def scored(self) -> np.ndarray:
        return ~self.crowd & (self.num_keypoints > 0)


def read_ground_truth(
    source: Path | str | dict[str, Any], skeleton: Skeleton, *, area_of_box: float | None = None
) -> GroundTruth:
    """The people in a COCO keypoint annotation file or its content, checked for scoring.

    Of several categories "person" is taken. Missing `iscrowd` is 0, missing `num_keypoints` the labelled joints,
    missing `area` width x height of the box; the latter and other surprises are sentences in `notes`. With
    `area_of_box` everybody's area is this share of width x height, whatever the file says. Raises DataError
    naming the file, the annotation and the value: a cut file, a missing key, an id that occurs twice, an image that is
    not listed, another number of values than 3 K, a value that is not finite, a negative area, a labelled joint
    beyond 1e6 px, the skeleton's joints in another order.
    """
    name = "ground truth" if isinstance(source, dict) else str(source)
    content = source if isinstance(source, dict) else read_json(source, DataError, _File)
    if not isinstance(content, dict):
        raise DataError(f"{name}: expected an object with images, annotations, categories; found {short(content)}")
    for key in ("images", "annotations", "categories"):
        if key not in content:
            raise DataError(f"{name}: has no {key!r}; is it a keypoint annotation file?")
    category_id = _category(content["categories"], skeleton, name)
    image_ids = _image_ids(content["images"], name)
    everything = content["annotations"]
    check_records(everything, ("id", "image_id", "category_id"), name, "annotation", DataError)
    _reject_repeated(
        check_ids([entry["id"] for entry in everything], lambda row: name, DataError), f"{name}: annotation ids"
    )
    annotations = [entry for entry in everything if entry["category_id"] == category_id]
    check_records(annotations, ("keypoints", "bbox"), name, "annotation", DataError)
    others = len(everything) - len(annotations)
    truth = _columns(annotations, category_id, image_ids, others, skeleton, name, area_of_box)
    return replace(truth, images=content["images"])


def _columns(
    annotations: list[dict[str, Any]],
    category_id: int,
    image_ids: list[ImageId],
    others: int,
    skeleton: Skeleton,
    source: str,
    area_of_box: float | None,
) -> GroundTruth:
    def place(row: int) -> str:
        return f"{source}: annotation {annotations[row]['id']!r}"

    def column(key: str, missing: Any) -> np.ndarray:
        values = [[entry.get(key, default)] for entry, default in zip(annotations, missing)]
        table = number_table(values, 1, place, key, DataError)
        check_finite(table, place, key, DataError)
        return table[:, 0]

    image_of = check_ids([entry["image_id"] for entry in annotations], place, DataError)
    listed = set(image_ids)
    for row, image_id in enumerate(image_of):
        if image_id not in listed:
            raise DataError(
                f"{place(row)} belongs to image {image_id!r}, which is not among the images; add or drop it"
            )

    boxes = number_table([entry["bbox"] for entry in annotations], 4, place, "bbox", DataError)
    check_finite(boxes, place, "bbox", DataError)
    rows = [entry["keypoints"] for entry in annotations]
    table = number_table(rows, 3 * skeleton.num_joints, place, f"keypoints of {skeleton.name}", DataError)
    keypoints = table.reshape(len(annotations), skeleton.num_joints, 3)
    check_finite(keypoints[..., 2], place, "visibility", DataError)
    labelled = keypoints[..., 2] > 0
    # Coordinates of an unlabelled joint mean nothing, and some files keep NaN there.
    keypoints[~labelled, :2] = 0
    check_finite(table, place, "keypoints", DataError)
    far = np.abs(keypoints[..., :2]).max(axis=(1, 2), initial=0) > LARGEST_COORDINATE
    if far.any():
        raise DataError(f"{place(int(np.argmax(far)))} has a labelled joint beyond 1e6 px; correct or drop it")

    box_areas = boxes[:, 2] * boxes[:, 3]
    areas = column("area", box_areas) if area_of_box is None else area_of_box * box_areas
    if (areas < 0).any():
        row = int(np.argmax(areas < 0))
        raise DataError(f"{place(row)} has the negative area {areas[row]:g}; correct area or bbox")
    counts = labelled.sum(axis=1)
    num_keypoints = column("num_keypoints", counts)
    crowd = column("iscrowd", np.zeros(len(annotations))) != 0
    from_box = sum("area" not in entry for entry in annotations) if area_of_box is None else 0
    contradicting = int((~crowd & ((num_keypoints > 0) != (counts > 0))).sum())
    notes = []
    if from_box:
        notes.append(
            f"area taken from the box (width x height) for {from_box} of {len(annotations)} people without 'area'; "
            "scores on segment areas are not comparable"
        )
    if contradicting:
        notes.append(
            f"{contradicting} people have a num_keypoints that contradicts their keypoints; it decides as usual"
        )
    if others:
        notes.append(f"{others} annotations of other categories than {category_id} are left out")
    return GroundTruth(
        source=source,
        category_id=category_id,
        image_ids=image_ids,
        image_of=image_of,
        annotation_ids=[entry["id"] for entry in annotations],
        keypoints=keypoints,
        areas=areas,
        boxes=boxes,
        crowd=crowd,
        num_keypoints=num_keypoints,
        notes=tuple(notes),
    )


def _category(categories: Any, skeleton: Skeleton, source: str) -> int:
    check_records(categories, ("id",), source, "category", DataError)
    named = [entry for entry in categories if entry.get("name") == "person"]
    candidates = categories if len(categories) == 1 else named
    if len(candidates) != 1:
        raise DataError(f"{source}: {len(categories)} categories, {len(named)} called 'person'; keep the one to score")
    joints = candidates[0].get("keypoints")
    if isinstance(joints, list):
        names = tuple(str(joint).lower().replace(" ", "_") for joint in joints)
        if names != skeleton.joints and sorted(names) == sorted(skeleton.joints):
            raise DataError(f"{source}: lists the joints of {skeleton.name} in another order: {', '.join(names)}")
    return check_id(candidates[0]["id"], f"{source}: category", DataError)


def _image_ids(images: Any, source: str) -> list[ImageId]:
    check_records(images, ("id",), source, "image", DataError)
    ids = check_ids([entry["id"] for entry in images], lambda row: f"{source}: image {row}", DataError)
    _reject_repeated(ids, f"{source}: image ids")
    return sorted(ids, key=lambda image_id: (isinstance(image_id, str), image_id))


def _reject_repeated(ids: list[ImageId], message: str) -> None:
    seen: set[ImageId] = set()
    repeated = [entry for entry in ids if entry in seen or seen.add(entry)]
    if repeated:
        raise DataError(f"{message} must differ, these occur twice: {list(dict.fromkeys(repeated))[:5]}; renumber them")
