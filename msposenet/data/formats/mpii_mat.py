"""MPII's original release, mpii_human_pose_v1_u12_1.mat: one struct RELEASE with a list of pictures, `annolist`.

A person (`annorect`) has a head box x1, y1, x2, y2, a place `objpos` and `scale`, and `annopoints.point`: x, y, id of
the joint, `is_visible`. Fields are missing or empty where nothing was annotated, and whole structs with them;
`is_visible` is a number, a character, or empty, as for the two ends of the head. Only pictures with `img_train` 1
have joints.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from msposenet.data.formats.common import (
    DROPPED,
    FILTERED,
    MAX_COORDINATE,
    NOTED,
    Named,
    Pictures,
    Reason,
    clear_unlabelled,
    keep,
    picture_paths,
    plain,
)
from msposenet.data.formats.fields import Items
from msposenet.data.formats.matlab import EMPTY, NO_STRUCT, Struct, Value, described, is_empty, load_variable, scalars
from msposenet.data.records import Records, Report
from msposenet.errors import DataError
from msposenet.skeletons import Skeleton

NO_AREA = "no area, taken from the box (w x h)"
_UNIT = 200.0  # px a scale of 1 stands for
_LOWER = 15.0  # px times the scale, by which HRNet's loader moves the centre down
_CORNERS = ("x1", "y1", "x2", "y2")


def person_squares(items: Items, center: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[Reason]]:
    """Boxes (N, 4), areas (N,) and whom to drop, from the file's `center` (N, 2), px from 1, and `scale` (N,)."""
    side = _UNIT * scale[:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        middle = center + [0.0, _LOWER] * scale[:, None] - 1
        boxes = np.concatenate([middle - 0.5 * side, side, side], axis=1)
        usable = (np.abs(boxes) <= MAX_COORDINATE).all(axis=1)
    items.refuse(
        ~usable,
        lambda row: (
            f"centre {center[row].tolist()}, scale {scale[row]:g}: a box within {MAX_COORDINATE:,.0f} px is wanted; "
            "correct or delete the person"
        ),
    )
    nowhere = (center[:, 0] == -1) | (scale <= 0)
    return boxes, (side * side)[:, 0], [(DROPPED, "centre -1, or scale of 0 or less", nowhere)]


def read_release(annotations: Path, images: Path, skeleton: Skeleton) -> tuple[Records, Report]:
    """`read_mpii` for the .mat release."""
    file = str(annotations)
    release = _open(annotations)
    train = np.flatnonzero(release.train)
    if not train.size:
        raise DataError(f"{file}: no picture with 'img_train' 1, which alone have joints; is it the whole release?")
    image_index = np.repeat(np.arange(len(train)), release.counts[train])
    first = np.cumsum(release.counts) - release.counts
    number = np.concatenate([first[row] + np.arange(1, release.counts[row] + 1) for row in train])
    names = [release.names[row] for row in train]
    entries = Named(file, "picture", lambda row: f"number {train[row] + 1}")
    pictures = Pictures(train + 1, picture_paths(entries, "name", names, images), np.zeros((len(train), 2)))
    persons = Named(file, "person", lambda row: f"number {number[row]} ({plain(names[image_index[row]])})")

    people = [release.people[row] for row in train]
    keypoints, reasons = _keypoints(persons, people, skeleton)
    center = _centers(persons, people)
    scale = _numbers(persons, people, "scale")
    placed = ~np.isnan(center).any(axis=1) & ~np.isnan(scale)
    center = np.where(placed[:, None], center, 0)
    boxes, areas, damage = person_squares(persons, center, np.where(placed, scale, 0))
    columns = {
        "image_index": image_index,
        "annotation_ids": number,
        "boxes": boxes,
        "keypoints": keypoints,
        "areas": areas,
    }
    reasons = [*reasons, (FILTERED, "no position (objpos, scale)", ~placed), *damage, (NOTED, NO_AREA, placed)]
    records, report = keep("mpii", persons, skeleton, pictures, columns, reasons)
    others = Named(file, "picture", lambda row: plain(release.names[row])).tally(~release.train)
    filtered = {"picture of the test set (img_train 0), no joints": others} if others.count else {}
    return records, replace(report, filtered={**filtered, **report.filtered})


def read_head_boxes(annotations: Path) -> np.ndarray:
    """Head boxes (N, 4) x1, y1, x2, y2 of all persons in px from 1, NaN where there is none."""
    release = _open(annotations)
    persons = Named(str(annotations), "person", lambda row: f"number {row + 1}")
    return np.stack([_numbers(persons, release.people, corner) for corner in _CORNERS], axis=1)


class _Release(NamedTuple):
    names: list[str]  # I, of the picture files
    train: np.ndarray  # (I,) bool
    people: list[Struct]  # I, the persons of each picture
    counts: np.ndarray  # (I,)


def _open(annotations: Path) -> _Release:
    file = str(annotations)
    root = load_variable(annotations, "RELEASE")
    if not isinstance(root, Struct) or len(root) != 1 or not {"annolist", "img_train"} <= set(root.names):
        raise DataError(f"{file}: 'RELEASE' is {described(root)}; a struct with annolist and img_train is wanted")
    (pictures,), (train,) = root.column("annolist"), root.column("img_train")
    if not isinstance(pictures, Struct) or not len(pictures) or not {"image", "annorect"} <= set(pictures.names):
        raise DataError(
            f"{file}: 'annolist' is {described(pictures)}; a struct array with image and annorect is wanted"
        )
    count = len(pictures)
    if not isinstance(train, np.ndarray) or train.size != count or not np.isin(train, (0, 1)).all():
        raise DataError(f"{file}: 'img_train' is {described(train)}; a 0 or 1 is wanted for each of {count:,} pictures")
    items = Named(file, "picture", lambda row: f"number {row + 1}")
    names = []
    for row, image in enumerate(pictures.column("image")):
        name = image.column("name")[0] if isinstance(image, Struct) and len(image) == 1 else image
        if not isinstance(name, str):
            raise items.fail(row, f"'image.name' is {described(name)}; a file name is wanted")
        names.append(name)
    people = _structs(items, pictures.column("annorect"), "annorect")
    return _Release(names, train.ravel(order="F") == 1, people, np.array([len(rectangles) for rectangles in people]))


def _centers(persons: Items, people: list[Struct]) -> np.ndarray:
    """Centres (N, 2) in px from 1, NaN where there is none."""
    places = _structs(persons, (value for person in people for value in person.column("objpos")), "objpos")
    rows = [row for row, place in enumerate(places) if len(place) == 1]
    items = Named(persons.file, persons.kind, lambda row: persons.label(rows[row]))
    centers = np.full((len(places), 2), np.nan)
    for axis, name in enumerate("xy"):
        centers[rows, axis] = _numbers(items, [places[row] for row in rows], name, "objpos.")
    return centers


def _keypoints(persons: Items, people: list[Struct], skeleton: Skeleton) -> tuple[np.ndarray, list[Reason]]:
    """Keypoints (N, K, 3), and what is to be said of the persons."""
    labels = _structs(persons, (value for person in people for value in person.column("annopoints")), "annopoints")
    inner = (label.column("point")[0] if len(label) == 1 else EMPTY for label in labels)
    points = _structs(persons, inner, "annopoints.point")
    owner = np.repeat(np.arange(len(points)), [len(entries) for entries in points])
    items = Named(persons.file, persons.kind, lambda row: persons.label(owner[row]))
    x, y, joint, visible = (_numbers(items, points, name, "point.") for name in ("x", "y", "id", "is_visible"))
    items.refuse(
        ~(np.isnan(joint) | np.isin(joint, np.arange(skeleton.num_joints))),
        lambda row: f"'point.id' is {joint[row]:g}; a joint from 0 to {skeleton.num_joints - 1} is wanted",
    )
    items.refuse(
        ~(np.isnan(visible) | (visible == 0) | (visible == 1)),
        lambda row: f"'point.is_visible' is {visible[row]:g}; 0, 1 or nothing is wanted",
    )
    whole = ~np.isnan([x, y, joint]).any(axis=0)
    joint = np.where(whole, joint, 0).astype(np.int64)
    shape = len(points), skeleton.num_joints
    keypoints = np.zeros((*shape, 3))
    # What the file says nothing of is in sight: the two ends of the head have no flag.
    labels = np.stack([x - 1, y - 1, np.where(visible == 0, 1.0, 2.0)], axis=1)
    keypoints[owner[whole], joint[whole]] = labels[whole]
    clear_unlabelled(persons, skeleton, keypoints)
    times = np.bincount(owner[whole] * shape[1] + joint[whole], minlength=shape[0] * shape[1]).reshape(shape)
    return keypoints, [
        (FILTERED, "no joints", ~times.any(axis=1)),
        (NOTED, "joint given more than once, the last one taken", (times > 1).any(axis=1)),
        (NOTED, "joint without id or coordinates, left out", np.isin(np.arange(shape[0]), owner[~whole])),
    ]


def _structs(persons: Items, values: Iterable[Value], name: str) -> list[Struct]:
    """`values`, structs or nothing, as structs."""
    structs = []
    for row, value in enumerate(values):
        if not isinstance(value, Struct) and not is_empty(value):
            raise persons.fail(row, f"{name!r} is {described(value)}; a struct is wanted")
        structs.append(value if isinstance(value, Struct) else NO_STRUCT)
    return structs


def _numbers(items: Items, structs: Sequence[Struct], name: str, kind: str = "") -> np.ndarray:
    """The field `name` of all elements of `structs` as numbers (N,), NaN where there is none."""
    numbers, others = scalars(structs, name)
    for row, value in others.items():
        if isinstance(value, np.ndarray) and value.size == 1 and np.isfinite(value).all():
            numbers[row] = value.item()
        elif not is_empty(value):
            raise items.fail(row, f"'{kind}{name}' is {described(value)}; a number or nothing is wanted")
    return numbers
