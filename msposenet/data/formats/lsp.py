"""Leeds Sports Pose and its Extended training set: joints.mat and one picture a person, as Records.

`joints` is (14, 3, N) in the Extended set, whose third column says that a joint is visible (1) or not annotated (0),
and (3, 14, N) in the original one, which annotates every joint and marks the hidden ones with 1.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from msposenet import geometry
from msposenet.data.formats.common import (
    DROPPED,
    FILTERED,
    NOTED,
    Named,
    Pictures,
    clear_unlabelled,
    fixed_skeleton,
    keep,
    picture_paths,
)
from msposenet.data.formats.matlab import described, load_variable
from msposenet.data.images import encoded_size, read_bytes
from msposenet.data.records import Records, Report
from msposenet.errors import DataError, ImageError
from msposenet.skeletons import LSP_14, Skeleton

MARGIN = 0.15  # of the labelled joints' width and height, on each side of them
AREA = 0.53  # of the box, as in CrowdPose's score


def read_lsp(annotations: Path, images: Path, skeleton: Skeleton | None = None) -> tuple[Records, Report]:
    """The persons of joints.mat, the n-th in the picture im0000n.jpg (Extended) or im000n.jpg of the folder `images`.

    Joints are used as they stand, without counting from 0. The box is the labelled joints' extent with MARGIN around
    it, cut to the picture, whose header is read for its size. A person whose picture is missing or damaged is damage,
    which `Report.enforce` judges. Raises DataError naming file, person, value and remedy for everything that cannot be
    trusted.
    """
    file = str(annotations)
    skeleton = fixed_skeleton(file, LSP_14, skeleton)
    joints, extended = _joints(file, load_variable(annotations, "joints"))
    count = len(joints)
    names = [f"im{number:05d}.jpg" if extended else f"im{number:04d}.jpg" for number in range(1, count + 1)]
    persons = Named(file, "person", lambda row: names[row])
    flags = joints[..., 2]
    persons.refuse(
        ~np.isin(flags, (0, 1)).all(axis=1),
        lambda row: f"third numbers {flags[row].tolist()}; 0 or 1 is wanted for each joint",
    )
    joints[..., 2] = 2 * flags if extended else 2 - flags
    clear_unlabelled(persons, skeleton, joints)  # placeholders are usual there
    labelled = joints[..., 2] > 0
    paths = picture_paths(persons, "name", names, images)
    sizes, problems = _sizes(paths)
    boxes = geometry.joint_boxes(joints, sizes, MARGIN)
    numbers = np.arange(1, count + 1)
    columns = {
        "image_index": np.arange(count),
        "annotation_ids": numbers,
        "boxes": boxes,
        "keypoints": joints,
        "areas": AREA * boxes[:, 2] * boxes[:, 3],
    }
    everyone = np.ones(count, dtype=bool)
    reasons = [
        (FILTERED, "no labelled keypoint", ~labelled.any(axis=1)),
        *((DROPPED, reason, problems == reason) for reason in ("missing picture", "damaged picture")),
        (DROPPED, "box without width or height", (boxes[:, 2:] <= 0).any(axis=1)),
        (NOTED, f"no box, taken from the labelled joints with {MARGIN:.0%} around", everyone),
        (NOTED, f"no area, {AREA} of the box (w x h) taken", everyone),
    ]
    return keep("lsp", persons, skeleton, Pictures(numbers, paths, sizes), columns, reasons)


def _joints(file: str, joints: object) -> tuple[np.ndarray, bool]:
    """`joints` as (N, 14, 3), and whether it is the Extended set."""
    shape = joints.shape if isinstance(joints, np.ndarray) else ()
    if len(shape) == 2:  # MATLAB drops a third dimension of 1
        joints, shape = joints[..., None], (*shape, 1)
    for wanted, axes in (((LSP_14.num_joints, 3), (2, 0, 1)), ((3, LSP_14.num_joints), (2, 1, 0))):
        if len(shape) == 3 and shape[:2] == wanted and shape[2]:
            return np.ascontiguousarray(joints.transpose(axes)), wanted[1] == 3
    raise DataError(
        f"{file}: 'joints' is {described(joints)}; 14 x 3 x N (LSP Extended) or 3 x 14 x N (LSP) numbers are wanted"
    )


def _sizes(paths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sizes (N, 2) of the pictures, 0 where there is none to read, and what is wrong with each."""
    sizes, problems = np.zeros((len(paths), 2), np.int64), np.full(len(paths), "", dtype=object)
    for row, path in enumerate(paths.tolist()):
        try:
            sizes[row] = encoded_size(read_bytes(path), os.fsdecode(path))[1]
        except ImageError:
            problems[row] = "damaged picture" if os.path.exists(path) else "missing picture"
    return sizes, problems
