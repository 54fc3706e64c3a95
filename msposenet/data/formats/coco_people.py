"""Pictures and people of files of COCO's form as checked columns, and the records made of them.

Instances are chosen and boxes clipped as HRNet's COCO loader does (`lib/dataset/coco.py`,
`_load_coco_keypoint_annotation_kernal`); what pycocotools would score silently wrong is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from msposenet.data.formats.common import (
    DROPPED,
    FILTERED,
    MAX_COORDINATE,
    NOTED,
    Pictures,
    Reason,
    keep,
    picture_paths,
)
from msposenet.data.formats.fields import Items, Rows, shown
from msposenet.data.records import Records, Report
from msposenet.geometry import clip_boxes, touches_image
from msposenet.skeletons import Skeleton

MAX_AREA = 1e12  # px^2

# The keys wanted of images and annotations. Whatever holds other types than these is read, and refused, the slow way.
IMAGE = {"id": Any, "file_name": str, "width": Any, "height": Any}
ANNOTATION = {
    "id": Any, "image_id": Any, "category_id": Any, "iscrowd": Any, "area": Any,
    "bbox": list[float], "keypoints": list[float],
}  # fmt: skip


A_SECOND_IMAGE = "a second image of this id; ids must differ"
A_SECOND_PERSON = "a second annotation of this id; renumber the annotations"


class Images(NamedTuple):
    """Images, each checked by itself."""

    ids: np.ndarray  # (I,) int64
    paths: np.ndarray  # (I,) bytes
    sizes: np.ndarray  # (I, 2) int32 width, height; 0 where not known


class People(NamedTuple):
    """Annotations, each checked by itself."""

    ids: np.ndarray  # (N,) int64
    image_index: np.ndarray  # (N,) row of the image table
    keypoints: np.ndarray  # (N, K, 3), zeros where unlabelled; float32, of which a large set has many
    odd: np.ndarray  # (N,) bool: an unlabelled joint had coordinates
    boxes: np.ndarray  # (N, 4) float64 x, y, w, h as in the file; zeros where it has none
    areas: np.ndarray  # (N,) float64
    no_area: np.ndarray  # (N,) bool: the area is that of the box
    crowds: np.ndarray  # (N,) bool


class ImageRows:
    """Where in the image table, whose ids (I,) are given, the images of annotations are."""

    def __init__(self, ids: np.ndarray) -> None:
        self._order = np.argsort(ids)
        self._sorted = ids[self._order]

    def find(self, rows: Rows) -> np.ndarray:
        """Row of the image table (N,) of each annotation."""
        wanted = rows.integers("image_id")
        places = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        rows.refuse(
            self._sorted[places] != wanted,
            lambda row: f"unknown image_id {wanted[row]}; add the image to 'images' or drop the annotation",
        )
        return self._order[places]


def unique_ids(rows: Rows, problem: str) -> np.ndarray:
    """Ids (N,), which must differ."""
    ids = rows.integers("id")
    rows.refuse(repeated(ids), lambda row: problem)
    return ids


def image_columns(rows: Rows, folder: Path) -> Images:
    """Images whose files lie in `folder`."""
    ids = unique_ids(rows, A_SECOND_IMAGE)
    paths = picture_paths(rows, "file_name", rows.strings("file_name"), folder)
    return Images(ids, paths, image_sizes(rows))


def image_sizes(rows: Rows) -> np.ndarray:
    """Widths and heights (I, 2) int32."""
    sizes = np.stack([rows.numbers("width"), rows.numbers("height")], axis=1)
    rows.refuse(
        ~((sizes >= 1) & (sizes <= MAX_COORDINATE) & (sizes == np.floor(sizes))).all(axis=1),
        lambda row: f"width x height is {sizes[row, 0]:g} x {sizes[row, 1]:g}; whole numbers of pixels are wanted",
    )
    return sizes.astype(np.int32)


def people_columns(
    rows: Rows, skeleton: Skeleton, category: int, categories: np.ndarray, images: ImageRows, *, boxed: bool = True
) -> People:
    """The annotations of `category`, one of `categories`; only where `boxed` is False may one be without a box."""
    ids = rows.integers("category_id")
    rows.refuse(~np.isin(ids, categories), lambda row: f"unknown category_id {ids[row]}; add the category or drop it")
    if (ids != category).any():
        rows = rows.where(ids == category)
    ids, image_index = unique_ids(rows, A_SECOND_PERSON), images.find(rows)
    keypoints, odd = _keypoints(rows, skeleton)
    boxes = _boxes(rows, boxed)
    areas, no_area = _areas(rows, boxes)
    return People(ids, image_index, keypoints, odd, boxes, areas, no_area, _crowds(rows))


def _keypoints(rows: Rows, skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (N, K, 3) with zeros where unlabelled, and the mask (N,) of persons for whom that was a repair."""
    keypoints = rows.vectors("keypoints", 3 * skeleton.num_joints).reshape(len(rows), skeleton.num_joints, 3)
    visibility = keypoints[..., 2]
    strange = (visibility != 0) & (visibility != 1) & (visibility != 2)
    labelled = visibility > 0

    def problem(bad: np.ndarray, row: int) -> str:
        joint = int(np.flatnonzero(bad[row])[0])
        return f"joint {skeleton.joints[joint]!r} is {keypoints[row, joint].tolist()}"

    rows.refuse(strange.any(axis=1), lambda row: f"{problem(strange, row)}; the third number must be 0, 1 or 2")
    largest = np.maximum(np.abs(keypoints[..., 0]), np.abs(keypoints[..., 1]))
    far = labelled & ~(largest <= MAX_COORDINATE)
    rows.refuse(far.any(axis=1), lambda row: f"{problem(far, row)}; pixels within {MAX_COORDINATE:,.0f} are wanted")
    odd = ~labelled & (largest != 0)
    # Zero times NaN is NaN: a weight of zero would not keep such a joint out of the loss.
    keypoints[~labelled] = 0
    return keypoints.astype(np.float32), odd.any(axis=1)


def _boxes(rows: Rows, boxed: bool) -> np.ndarray:
    """Boxes (N, 4) as in the file; zeros where there is none, or an empty list."""
    given = np.array([boxed or item.get("bbox", []) != [] for item in rows.items], dtype=bool)
    rows = rows if given.all() else rows.where(given)
    found = rows.vectors("bbox", 4)
    rows.refuse(~np.isfinite(found).all(axis=1), lambda row: f"'bbox' is {found[row].tolist()}; correct or delete it")
    boxes = np.zeros((len(given), 4))
    boxes[given] = found
    return boxes


def _areas(rows: Rows, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas (N,) and the mask (N,) of those taken from the box for want of their own."""
    missing = np.array(["area" not in item for item in rows.items], dtype=bool)
    areas = rows.numbers("area", default=0)
    rows.refuse(~(np.abs(areas) <= MAX_AREA), lambda row: f"'area' is {areas[row]:g}; correct or delete it")
    return np.where(missing, box_areas(boxes), areas), missing


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Areas (N,) px^2 of boxes (N, 4) x, y, w, h."""
    with np.errstate(over="ignore"):
        return np.minimum(boxes[:, 2] * boxes[:, 3], MAX_AREA)


def _crowds(rows: Rows) -> np.ndarray:
    values = rows.values("iscrowd", 0)
    odd = [type(value) not in (int, bool) or value not in (0, 1) for value in values]
    rows.refuse(np.array(odd, dtype=bool), lambda row: f"'iscrowd' is {shown(values[row])}; 0 or 1 is wanted")
    return np.array(values, dtype=bool)


def repeated(values: np.ndarray) -> np.ndarray:
    """Mask (N,) of the values that stood before."""
    found = np.ones(len(values), dtype=bool)
    found[np.unique(values, return_index=True)[1]] = False
    return found


def keep_people(
    source: str,
    items: Items,
    skeleton: Skeleton,
    pictures: Pictures,
    people: People,
    reasons: Iterable[Reason] = (),
    cut: np.ndarray | None = None,
) -> tuple[Records, Report]:
    """Records and report of `people`, whom `items` names.

    Crowds and people without a labelled joint are left out, then the `reasons` apply, then unusable boxes are dropped
    as damage. Boxes are clipped to pictures of known size, except for those of the mask `cut` (N,), which are already.
    Raises DataError when nobody is left.
    """
    sizes = pictures.sizes[people.image_index]
    if cut is not None:
        sizes = np.where(cut[:, None], 0, sizes)
    boxes, damage = _clip(people.boxes, sizes)
    reasons = [
        (FILTERED, "crowd", people.crowds),
        (FILTERED, "no labelled keypoint", ~(people.keypoints[..., 2] > 0).any(axis=1)),
        *reasons,
        *((DROPPED, reason, bad) for reason, bad in damage.items()),
        (DROPPED, "area of 0 or less", people.areas <= 0),
        (NOTED, "no area, taken from the box (w x h)", people.no_area),
        (NOTED, "unlabelled joint with coordinates, set to 0", people.odd),
        (NOTED, "box reaches outside the image, clipped", _reaches_out(people.boxes, sizes)),
    ]
    columns = {
        "image_index": people.image_index,
        "annotation_ids": people.ids,
        "boxes": boxes,
        "keypoints": people.keypoints,
        "areas": people.areas,
    }
    return keep(source, items, skeleton, pictures, columns, reasons)


def _clip(xywh: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Boxes (N, 4) clipped to images of `sizes` (N, 2) where known, and the masks (N,) of the unusable ones by reason.

    As HRNet's loader, pixel centres included: a box that begins left of the image is moved, not cut, on that side.
    """
    known = (sizes > 0).all(axis=1)
    with np.errstate(over="ignore"):
        clipped, _ = clip_boxes(xywh, sizes)
        outside = known & ~touches_image(xywh, sizes)
    boxes = np.where(known[:, None], clipped, xywh)
    return boxes, {
        "box without width or height": (xywh[:, 2:] <= 0).any(axis=1),
        "box outside the image": outside,
        "box of less than a pixel within the image": (boxes[:, 2:] <= 0).any(axis=1),
        f"box beyond {MAX_COORDINATE:,.0f} px": (np.abs(boxes) > MAX_COORDINATE).any(axis=1),
    }


def _reaches_out(xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Mask (N,) of the boxes that reach more than a pixel out of an image of known size."""
    with np.errstate(over="ignore"):
        out = ((xywh[:, :2] < -1) | (xywh[:, :2] + xywh[:, 2:] > sizes + 1)).any(axis=1)
    return out & (sizes > 0).all(axis=1)
