"""AI Challenger keypoints (keypoint_train_annotations_*.json) in the challenge's own form, as Records.

Flags there: 1 visible, 2 hidden, 3 not labelled. Boxes are two corners, which some entries give in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypedDict

import msgspec
import numpy as np

from msposenet.data.formats.coco_people import repeated
from msposenet.data.formats.common import (
    DROPPED,
    FILTERED,
    MAX_COORDINATE,
    NOTED,
    Named,
    Pictures,
    clear_unlabelled,
    fixed_skeleton,
    keep,
    picture_paths,
    plain,
)
from msposenet.data.formats.document import CHUNK
from msposenet.data.formats.fields import Rows, load_json, no_collection, shown
from msposenet.data.records import Records, Report
from msposenet.errors import DataError
from msposenet.skeletons import AIC_14, Skeleton

_BOXES, _JOINTS = "human_annotations", "keypoint_annotations"
_NO_BOX, _NO_JOINTS = [0, 0, 0, 0], [0, 0, 3] * AIC_14.num_joints
_SUFFIXES = (".jpg", ".jpeg", ".png")


def read_aic(annotations: Path, images: Path, skeleton: Skeleton | None = None) -> tuple[Records, Report]:
    """Persons with labelled keypoints of the file `annotations`, whose pictures lie in the folder `images`.

    Ids count from 1: pictures as they stand in the file, persons in the order of `human_annotations`, those left out
    included. Picture sizes are not known, so boxes are not clipped. A person without box or joints, or with an empty
    box, is damage, which `Report.enforce` judges. Raises DataError naming file, person, value and remedy for everything
    that cannot be trusted.
    """
    file = str(annotations)
    skeleton = fixed_skeleton(file, AIC_14, skeleton)
    found = _columns(annotations, partial(_pictures, folder=images, skeleton=skeleton))
    count, corners = len(found.names), found.corners
    near, far = np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])
    boxes = np.concatenate([near, far - near], axis=1)
    image_index = np.repeat(np.arange(len(found.paths)), found.counts)
    columns = {
        "image_index": image_index,
        "annotation_ids": np.arange(1, count + 1),
        "boxes": boxes,
        "keypoints": found.keypoints,
        "areas": boxes[:, 2] * boxes[:, 3],
    }
    reasons = [
        (DROPPED, f"in {_JOINTS} but not in {_BOXES}", found.no_box),
        (DROPPED, f"in {_BOXES} but not in {_JOINTS}", found.no_joints),
        (FILTERED, "no labelled keypoint", ~(found.keypoints[..., 2] > 0).any(axis=1)),
        (DROPPED, "box without width or height", (boxes[:, 2:] <= 0).any(axis=1)),
        (NOTED, "no area, taken from the box (w x h)", np.ones(count, dtype=bool)),
        (NOTED, "unlabelled joint with coordinates, set to 0", found.odd),
        (NOTED, "swapped corners, put right", (corners[:, 2:] < corners[:, :2]).any(axis=1)),
    ]
    persons = Named(file, "person", lambda row: _label(found.names[row], found.pictures[image_index[row]]))
    numbers = np.arange(1, len(found.paths) + 1)
    pictures = Pictures(numbers, found.paths, np.zeros((len(numbers), 2)))
    records, report = keep("aic", persons, skeleton, pictures, columns, reasons)
    again = Named(file, "picture", lambda row: plain(found.pictures[row])).tally(repeated(found.paths))
    warnings = {"picture listed more than once": again} if again.count else {}
    return records, replace(report, warnings={**report.warnings, **warnings})


class _Found(NamedTuple):
    """I pictures and the N persons on them, each checked by itself."""

    pictures: np.ndarray  # (I,) object, image_id
    paths: np.ndarray  # (I,) bytes
    counts: np.ndarray  # (I,) persons
    names: np.ndarray  # (N,) object, "human1"
    corners: np.ndarray  # (N, 4) as in the file
    keypoints: np.ndarray  # (N, 14, 3) float32, flags as in COCO
    odd: np.ndarray  # (N,) bool: an unlabelled joint had coordinates
    no_box: np.ndarray  # (N,) bool
    no_joints: np.ndarray  # (N,) bool


class _Picture(TypedDict, total=False):
    image_id: str
    human_annotations: dict[str, list[float]]
    keypoint_annotations: dict[str, list[float]]


def _columns(annotations: Path, read: Callable[[Rows], _Found]) -> _Found:
    """What `read` makes of the file: of some thousand pictures at a time if nothing is wrong, else of all at once."""
    file = str(annotations)
    try:
        with no_collection():
            raws = msgspec.json.decode(Path(annotations).read_bytes(), type=list[msgspec.Raw])
            decode = msgspec.json.Decoder(_Picture).decode
            chunks = (raws[start : start + CHUNK] for start in range(0, len(raws), CHUNK))
            parts = [read(Rows(file, "picture", [decode(raw) for raw in chunk])) for chunk in chunks]
        if parts:
            return _Found(*map(np.concatenate, zip(*parts)))
    except (msgspec.MsgspecError, DataError, OSError, ValueError, RecursionError):
        pass  # told below, where every picture has its place in the file
    root = load_json(annotations)
    if not isinstance(root, list):
        raise DataError(
            f"{file}: a JSON {type(root).__name__}, not a list of pictures; is it in COCO's form (format: coco)?"
        )
    if not root:
        raise DataError(f"{file}: an empty list, no picture; is it the right file?")
    return read(Rows(file, "picture", root))


@dataclass(frozen=True)
class _People(Rows):
    """Persons, their `items` a box and joints each."""

    pictures: list[str]  # N, image_id
    names: list[str]  # N, "human1"

    def label(self, row: int) -> str:
        return _label(self.names[row], self.pictures[row])


def _label(human: str, picture: str) -> str:
    return f"{plain(human)} of {plain(picture)}"


def _pictures(rows: Rows, folder: Path, skeleton: Skeleton) -> _Found:
    identities = rows.strings("image_id")
    names = [name if name.lower().endswith(_SUFFIXES) else f"{name}.jpg" for name in identities]
    paths = picture_paths(rows, "image_id", names, folder)
    people, counts = _people(rows, identities)
    corners = people.vectors(_BOXES, 4)
    people.refuse(
        ~(np.abs(corners) <= MAX_COORDINATE).all(axis=1),
        lambda row: f"{_BOXES!r} is {corners[row].tolist()}; pixels within {MAX_COORDINATE:,.0f} are wanted",
    )
    keypoints, odd = _keypoints(people, skeleton)
    no_box, no_joints = (
        np.array([item[key] is absent for item in people.items], dtype=bool)
        for key, absent in ((_BOXES, _NO_BOX), (_JOINTS, _NO_JOINTS))
    )
    texts = np.array(identities, dtype=object), np.array(people.names, dtype=object)
    return _Found(texts[0], paths, counts, texts[1], corners, keypoints, odd, no_box, no_joints)


def _people(rows: Rows, identities: list[str]) -> tuple[_People, np.ndarray]:
    """The persons of all pictures, and how many are on each (I,)."""
    pictures, names, items, counts = [], [], [], []
    for picture, boxes, joints in zip(identities, _humans(rows, _BOXES), _humans(rows, _JOINTS)):
        humans = boxes if boxes.keys() == joints.keys() else {**boxes, **joints}
        counts.append(len(humans))
        for name in humans:
            pictures.append(picture)
            names.append(name)
            items.append({_BOXES: boxes.get(name, _NO_BOX), _JOINTS: joints.get(name, _NO_JOINTS)})
    return _People(rows.file, "person", items, pictures, names), np.array(counts, dtype=np.int64)


def _humans(rows: Rows, key: str) -> list[dict]:
    """What `key` says of the persons of each picture, by their names."""
    values = rows.values(key)
    if set(map(type, values)) - {dict}:
        row = next(row for row, value in enumerate(values) if type(value) is not dict)
        raise rows.fail(row, f"{key!r} is {shown(values[row])}; an object of human1, human2, ... is wanted")
    return values


def _keypoints(people: _People, skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (N, 14, 3) with flags as in COCO, and the mask (N,) of those whose unlabelled joints were changed."""
    keypoints = people.vectors(_JOINTS, 3 * skeleton.num_joints).reshape(len(people), skeleton.num_joints, 3)
    flags = keypoints[..., 2]
    strange = (flags != 1) & (flags != 2) & (flags != 3)

    def problem(row: int) -> str:
        joint = int(np.flatnonzero(strange[row])[0])
        found = keypoints[row, joint].tolist()
        return f"joint {skeleton.joints[joint]!r} is {found}; the third number must be 1, 2 or 3"

    people.refuse(strange.any(axis=1), problem)
    keypoints[..., 2] = 3 - flags
    odd = clear_unlabelled(people, skeleton, keypoints)
    return keypoints.astype(np.float32), odd
