"""MPII Human Pose as Records: the MSRA JSON form (train.json, valid.json, trainval.json) and the original .mat release.

A person's box is the square that HRNet's MPII loader starts from (`lib/dataset/mpii.py`, `_get_db`): 200 px times the
scale wide, its centre 15 px times the scale below the given one, counted from 0. The loader's factor 1.25 is left to
`data.enlarge`. The head sizes of PCKh are read here too: 0.6 of the head box's diagonal, as in the official score.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np

from msposenet.data.formats.common import (
    FILTERED,
    NOTED,
    Named,
    Pictures,
    clear_unlabelled,
    fixed_skeleton,
    keep,
    picture_paths,
)
from msposenet.data.formats.fields import Rows, listed, load_json, shown
from msposenet.data.formats.matlab import described, is_matlab, load_variable
from msposenet.data.formats.mpii_mat import NO_AREA, person_squares, read_head_boxes, read_release
from msposenet.data.records import Records, Report
from msposenet.errors import DataError
from msposenet.skeletons import MPII_16, Skeleton

HEAD_BIAS = 0.6  # of the head box's diagonal, the official score's SC_BIAS


def read_mpii(annotations: Path, images: Path, skeleton: Skeleton | None = None) -> tuple[Records, Report]:
    """Persons with labelled joints of the MSRA JSON or the .mat release `annotations`, pictures in the folder `images`.

    Ids count from 1: pictures in the order they first appear (in the .mat their place in `annolist`), persons as they
    stand in the file, those left out included. Joints are in px from 0; picture sizes are not known. A centre of -1 or
    a scale of 0 or less is damage, which `Report.enforce` judges. Raises DataError naming file, person, value and
    remedy for everything that cannot be trusted.
    """
    file = str(annotations)
    skeleton = fixed_skeleton(file, MPII_16, skeleton)
    if _is_mat(annotations):
        return read_release(annotations, images, skeleton)
    rows = _people(annotations)
    names = rows.strings("image")
    places: dict[str, int] = {}
    image_index = np.array([places.setdefault(name, len(places)) for name in names])
    first = np.unique(image_index, return_index=True)[1]
    pictures = Pictures(
        np.arange(1, len(places) + 1),
        picture_paths(Named(file, "person", lambda row: rows.label(first[row])), "image", list(places), images),
        np.zeros((len(places), 2)),
    )
    keypoints = _keypoints(rows, skeleton)
    unlabelled = ~(keypoints[..., 2] > 0).any(axis=1)
    boxes, areas, reasons = person_squares(rows, rows.vectors("center", 2), rows.numbers("scale"))
    columns = {
        "image_index": image_index,
        "annotation_ids": np.arange(1, len(rows) + 1),
        "boxes": boxes,
        "keypoints": keypoints,
        "areas": areas,
    }
    reasons = [(FILTERED, "no labelled keypoint", unlabelled), *reasons, (NOTED, NO_AREA, np.ones(len(rows), bool))]
    return keep("mpii", rows, skeleton, pictures, columns, reasons)


def mpii_head_boxes(annotations: Path) -> np.ndarray:
    """Head boxes (N, 4) x1, y1, x2, y2 of the .mat release in px from 1, NaN where there is none.

    Row n - 1 is the person whose annotation id is n in `read_mpii`. Raises DataError for the JSON form, which has none.
    """
    if not _is_mat(annotations):
        raise _no_heads(annotations)
    return read_head_boxes(annotations)


def mpii_head_sizes(annotations: Path, head_sizes: Path | None = None) -> np.ndarray:
    """Head sizes (N,) in px that PCKh divides by; entry n - 1 is the person of annotation id n in `read_mpii`.

    Taken from the file `head_sizes`: a JSON list of one number a person, or gt_valid.mat with `headboxes_src`; without
    it from the head boxes of the .mat release (NaN where there is none). Raises DataError when there are none, or
    another number than persons.
    """
    if head_sizes is None:
        boxes = mpii_head_boxes(annotations)
        return HEAD_BIAS * np.hypot(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    count = len(read_head_boxes(annotations) if _is_mat(annotations) else _people(annotations))
    sizes = _sizes_in_mat(head_sizes) if _is_mat(head_sizes) else _sizes_in_json(head_sizes)
    if len(sizes) != count:
        raise DataError(
            f"{head_sizes}: {len(sizes):,} head sizes for the {count:,} persons of {annotations}; give the file that "
            "belongs to it"
        )
    bad = np.flatnonzero(~(np.isfinite(sizes) & (sizes > 0)))
    if bad.size:
        raise DataError(
            f"{head_sizes}: the head size of person number {bad[0] + 1} is {sizes[bad[0]]:g} px ({bad.size:,} such); "
            "it must be more than 0"
        )
    return sizes


def _no_heads(annotations: Path) -> DataError:
    return DataError(
        f"{annotations}: the JSON form has no head boxes, by which PCKh is measured; name a file of head sizes "
        "(head_sizes: a JSON list of one number a person in px, or gt_valid.mat), or give the .mat release"
    )


def _sizes_in_json(path: Path) -> np.ndarray:
    values = load_json(path)
    if not isinstance(values, list):
        raise DataError(f"{path}: a JSON {type(values).__name__}; a list of one head size in px a person is wanted")
    return Rows(str(path), "person", [{"head size": value} for value in values]).numbers("head size")


def _sizes_in_mat(path: Path) -> np.ndarray:
    boxes = load_variable(path, "headboxes_src")
    if not isinstance(boxes, np.ndarray) or boxes.ndim != 3 or boxes.shape[:2] != (2, 2):
        raise DataError(f"{path}: 'headboxes_src' is {described(boxes)}; 2 x 2 x N numbers are wanted")
    return HEAD_BIAS * np.linalg.norm(boxes[1] - boxes[0], axis=0)


def _is_mat(path: Path) -> bool:
    """By its content, else by its name: a damaged .mat is not to be called damaged JSON."""
    try:
        with open(path, "rb") as file:
            return is_matlab(file.read(128)) or str(path).endswith(".mat")
    except (OSError, ValueError):
        return str(path).endswith(".mat")


def _people(annotations: Path) -> Rows:
    """The persons of the JSON form."""
    root = load_json(annotations)
    if not isinstance(root, list):
        raise DataError(
            f"{annotations}: a JSON {type(root).__name__}, not a list of persons; is it in COCO's form (format: coco)?"
        )
    rows = Rows(str(annotations), "person", root)
    if not root:
        raise DataError(f"{annotations}: an empty list, no person; is it the right file?")
    if not any("joints" in person or "joints_vis" in person for person in root):
        raise DataError(
            f"{annotations}: no person has 'joints' or 'joints_vis'; found {listed(root[0])}; the test set has no "
            "joints to train on or to score by: give train.json, valid.json or trainval.json"
        )
    return rows


def _keypoints(rows: Rows, skeleton: Skeleton) -> np.ndarray:
    """Keypoints (N, 16, 3); what stands for unlabelled joints is not looked at."""
    count = skeleton.num_joints
    for row, points in enumerate(rows.values("joints")):
        if not isinstance(points, list) or len(points) != count:
            found = f"a list of {len(points)}" if isinstance(points, list) else shown(points)
            raise rows.fail(row, f"'joints' is {found}; a list of {count} joints is wanted")
        for point in points:
            if type(point) is not list or len(point) != 2:
                raise rows.fail(row, f"'joints' holds {shown(point)}; [x, y] is wanted")
    flat = [{"joints": list(chain.from_iterable(points))} for points in rows.values("joints")]
    xy = Rows(rows.file, rows.kind, flat).vectors("joints", 2 * count).reshape(-1, count, 2)
    labelled = rows.vectors("joints_vis", count)
    rows.refuse(
        ~np.isin(labelled, (0, 1)).all(axis=1),
        lambda row: f"'joints_vis' is {labelled[row].tolist()}; 0 or 1 is wanted for each joint",
    )
    keypoints = np.concatenate([xy - 1, 2 * labelled[..., None]], axis=-1)
    clear_unlabelled(rows, skeleton, keypoints)
    return keypoints
