"""COCO keypoint annotations (person_keypoints_*.json, and any file of that form with its own joints) as Records.

Instances are chosen and boxes clipped as HRNet's COCO loader does (`lib/dataset/coco.py`,
`_load_coco_keypoint_annotation_kernal`); what pycocotools would score silently wrong is refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from msposenet.data.formats.coco_skeleton import category_skeleton
from msposenet.data.formats.fields import Rows, listed, load_json, section, shown
from msposenet.data.records import Records, Report
from msposenet.errors import DataError
from msposenet.geometry import clip_boxes, touches_image
from msposenet.skeletons import Skeleton

MAX_COORDINATE = 1e6  # px
MAX_AREA = 1e12  # px^2
MAX_NAME_BYTES = 1000
_NO_ALIASES = MappingProxyType({})


def read_coco(
    annotations: Path,
    images: Path,
    skeleton: Skeleton | None = None,
    *,
    aliases: Mapping[str, str] = _NO_ALIASES,
) -> tuple[Records, Report]:
    """Persons with labelled keypoints of the file `annotations`, whose pictures lie in the folder `images`.

    The skeleton is the file's own unless given; then names and order must agree, after renaming the file's joints by
    `aliases` (lower case, underscores). Crowds and persons without a labelled joint are left out; unusable boxes are
    skipped as damage, which `Report.enforce` judges. Boxes are clipped, which as in HRNet makes them 1 px smaller.
    Raises DataError naming file, annotation, value and remedy for everything that cannot be trusted. Whether the
    picture files exist is not asked here.
    """
    file = str(annotations)
    root = load_json(annotations)
    if not isinstance(root, dict):
        raise DataError(
            f"{file}: a JSON {type(root).__name__}, not an object with images, annotations and categories; is it a "
            "result or detection file?"
        )
    category, category_ids = _keypoint_category(Rows(file, "category", section(root, "categories", file)))
    skeleton, warnings = category_skeleton(category, file, skeleton, aliases)
    pictures = Rows(file, "image", section(root, "images", file))
    image_ids, image_paths, image_sizes = _image_table(pictures, images)
    rows = Rows(file, "annotation", section(root, "annotations", file))
    ids = rows.integers("category_id")
    rows.refuse(~np.isin(ids, category_ids), lambda row: f"unknown category_id {ids[row]}; add the category or drop it")
    rows = rows.where(ids == category["id"])

    annotation_ids = _unique_ids(rows)
    image_index = _rows_of_images(rows, image_ids)
    keypoints, odd = _keypoints(rows, skeleton)
    xywh = rows.vectors("bbox", 4)
    rows.refuse(~np.isfinite(xywh).all(axis=1), lambda row: f"'bbox' is {xywh[row].tolist()}; correct or delete it")
    areas, no_area = _areas(rows, xywh)
    boxes, box_problems = _clip(xywh, image_sizes[image_index])

    # Each reason counts only what the reasons before it left.
    usable = np.ones(len(rows), dtype=bool)
    filtered, dropped = {}, {}
    unlabelled = ~(keypoints[..., 2] > 0).any(axis=1)
    reasons = [(filtered, "crowd", _crowds(rows)), (filtered, "no labelled keypoint", unlabelled)]
    reasons += [(dropped, reason, bad) for reason, bad in box_problems.items()]
    reasons += [(dropped, "area of 0 or less", areas <= 0)]
    for tallies, reason, bad in reasons:
        if (usable & bad).any():
            tallies[reason] = rows.tally(usable & bad)
        usable &= ~bad
    repaired = {
        "no area, taken from the box (w x h)": no_area,
        "unlabelled joint with coordinates, set to 0": odd,
        "box reaches outside the image, clipped": _reaches_out(xywh, image_sizes[image_index]),
    }
    warnings.update(
        {reason: rows.tally(usable & found) for reason, found in repaired.items() if (usable & found).any()}
    )
    report = Report("coco", file, len(image_ids), int(usable.sum()), filtered, dropped, warnings)
    if not usable.any():
        found = "; ".join(line.strip() for line in report.lines())
        raise DataError(f"{file}: no person with labelled keypoints to use; correct the file ({found})")
    records = Records(
        skeleton=skeleton,
        image_paths=image_paths,
        image_ids=image_ids,
        image_sizes=image_sizes,
        image_index=image_index[usable].astype(np.int32),
        annotation_ids=annotation_ids[usable],
        boxes=boxes[usable].astype(np.float64),
        keypoints=keypoints[usable].astype(np.float32),
        areas=areas[usable].astype(np.float32),
        box_scores=np.ones(int(usable.sum()), np.float32),
    )
    records.check()
    return records, report


def _keypoint_category(rows: Rows) -> tuple[dict, np.ndarray]:
    """The category "person", or the only one there is; and all category ids."""
    ids, names = rows.integers("id"), rows.strings("name")
    rows.refuse(_repeated(ids), lambda row: "a second category of this id; ids must differ")
    chosen = [row for row, name in enumerate(names) if name == "person"] or list(range(len(rows)))
    if len(chosen) != 1:
        raise DataError(
            f"{rows.file}: {len(rows)} categories ({listed(names)}); one must be 'person', or there must be only one"
        )
    return rows.items[chosen[0]], ids


def _image_table(rows: Rows, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids (I,), paths (I,) and sizes (I, 2) of all images."""
    if not len(rows):
        raise DataError(f"{rows.file}: 'images' is empty; is it the right file?")
    ids = rows.integers("id")
    rows.refuse(_repeated(ids), lambda row: "a second image of this id; ids must differ")
    names = rows.strings("file_name")
    for row, name in enumerate(names):
        # The substring tests are quick; only names that contain one of them are looked at closely.
        if name[:1] in ("", "/", "\\") or ".." in name or "\0" in name or len(name) > MAX_NAME_BYTES // 4:
            _check_file_name(rows, row, name)
    root = os.path.join(os.fspath(folder), "")
    try:
        paths = np.array([os.fsencode(root + name) for name in names], dtype=np.bytes_)
    except UnicodeEncodeError as error:
        row = names.index(error.object[len(root) :])
        raise rows.fail(row, f"'file_name' {shown(names[row])} is no valid text; correct it") from None
    sizes = np.stack([rows.numbers("width"), rows.numbers("height")], axis=1)
    rows.refuse(
        ~((sizes >= 1) & (sizes <= MAX_COORDINATE) & (sizes == np.floor(sizes))).all(axis=1),
        lambda row: f"width x height is {sizes[row, 0]:g} x {sizes[row, 1]:g}; whole numbers of pixels are wanted",
    )
    return ids, paths, sizes.astype(np.int32)


def _check_file_name(rows: Rows, row: int, name: str) -> None:
    parts = name.replace("\\", "/").split("/")
    if not parts[0] or ".." in parts or "\0" in name:
        raise rows.fail(row, f"'file_name' {shown(name)} leads out of the images folder; give a path inside it")
    if len(name.encode(errors="replace")) > MAX_NAME_BYTES:
        raise rows.fail(row, f"'file_name' has {len(name):,} characters; at most {MAX_NAME_BYTES} bytes are read")


def _unique_ids(rows: Rows) -> np.ndarray:
    ids = rows.integers("id")
    rows.refuse(_repeated(ids), lambda row: "a second annotation of this id; renumber the annotations")
    return ids


def _repeated(ids: np.ndarray) -> np.ndarray:
    """Mask (N,) of the values that stood before."""
    repeated = np.ones(len(ids), dtype=bool)
    repeated[np.unique(ids, return_index=True)[1]] = False
    return repeated


def _rows_of_images(rows: Rows, image_ids: np.ndarray) -> np.ndarray:
    """Row of the image table (N,) of each annotation."""
    wanted = rows.integers("image_id")
    rows.refuse(
        ~np.isin(wanted, image_ids),
        lambda row: f"unknown image_id {wanted[row]}; add the image to 'images' or drop the annotation",
    )
    order = np.argsort(image_ids)
    return order[np.searchsorted(image_ids, wanted, sorter=order)]


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
    largest = np.abs(keypoints[..., :2]).max(axis=-1)
    far = labelled & ~(largest <= MAX_COORDINATE)
    rows.refuse(far.any(axis=1), lambda row: f"{problem(far, row)}; pixels within {MAX_COORDINATE:,.0f} are wanted")
    odd = ~labelled & (largest != 0)
    # Zero times NaN is NaN: a weight of zero would not keep such a joint out of the loss.
    keypoints[~labelled] = 0
    return keypoints, odd.any(axis=1)


def _areas(rows: Rows, xywh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas (N,) and the mask (N,) of those taken from the box for want of their own."""
    missing = np.array(["area" not in item for item in rows.items], dtype=bool)
    areas = rows.numbers("area", default=0)
    rows.refuse(~(np.abs(areas) <= MAX_AREA), lambda row: f"'area' is {areas[row]:g}; correct or delete it")
    with np.errstate(over="ignore"):
        from_boxes = np.minimum(xywh[:, 2] * xywh[:, 3], MAX_AREA)
    return np.where(missing, from_boxes, areas), missing


def _crowds(rows: Rows) -> np.ndarray:
    values = rows.values("iscrowd", 0)
    odd = [type(value) not in (int, bool) or value not in (0, 1) for value in values]
    rows.refuse(np.array(odd, dtype=bool), lambda row: f"'iscrowd' is {shown(values[row])}; 0 or 1 is wanted")
    return np.array(values, dtype=bool)


def _clip(xywh: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Boxes (N, 4) clipped to images of `sizes` (N, 2), and the masks (N,) of the unusable ones by reason.

    As HRNet's loader, pixel centres included: a box that begins left of the image is moved, not cut, on that side.
    """
    with np.errstate(over="ignore"):
        boxes, _ = clip_boxes(xywh, sizes)
        outside = ~touches_image(xywh, sizes)
    problems = {
        "box without width or height": (xywh[:, 2:] <= 0).any(axis=1),
        "box outside the image": outside,
        "box of less than a pixel within the image": (boxes[:, 2:] <= 0).any(axis=1),
    }
    return boxes, problems


def _reaches_out(xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Mask (N,) of the boxes that reach more than a pixel out of the image."""
    with np.errstate(over="ignore"):
        return ((xywh[:, :2] < -1) | (xywh[:, :2] + xywh[:, 2:] > sizes + 1)).any(axis=1)
