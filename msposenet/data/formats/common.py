"""What readers of several formats share: names of persons and pictures, joints cleared, who stays and who does not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msposenet.data.formats.fields import Items, shown
from msposenet.data.records import Records, Report
from msposenet.errors import DataError
from msposenet.skeletons import Skeleton

MAX_COORDINATE = 1e6  # px
MAX_NAME_BYTES = 1000
SHOWN_LETTERS = 60

FILTERED, DROPPED, NOTED = "filtered", "dropped", "noted"
Reason = tuple[str, str, np.ndarray]  # one of the three above, the reason, mask (N,) of the persons


@dataclass(frozen=True)
class Named(Items):
    """Items that errors and reports call by names made when they are needed."""

    name: Callable[[int], str]

    def label(self, row: int) -> str:
        return self.name(row)


def plain(text: str) -> str:
    """The beginning of a name from a file, fit to be printed."""
    return text[:SHOWN_LETTERS] if text.isprintable() else repr(text[:SHOWN_LETTERS])


@dataclass(frozen=True)
class Pictures:
    """The image table: ids (I,), paths (I,) and sizes (I, 2), zeros where not known."""

    ids: np.ndarray
    paths: np.ndarray
    sizes: np.ndarray


def picture_paths(items: Items, key: str, names: Sequence[str], folder: Path) -> np.ndarray:
    """Paths (I,) as bytes of the pictures `names` in `folder`; DataError for a name that leads out of it."""
    root = os.path.join(os.fspath(folder), "")
    for row, name in enumerate(names):
        # The substring tests are quick; only names that contain one of them are looked at closely.
        if name[:1] in ("", "/", "\\") or ".." in name or "\0" in name or len(name) > MAX_NAME_BYTES // 4:
            _check_name(items, row, key, name)
    try:
        return np.array([os.fsencode(root + name) for name in names], dtype=np.bytes_)
    except UnicodeEncodeError as error:
        row = names.index(error.object[len(root) :])
        raise items.fail(row, f"{key!r} {shown(names[row])} is no valid text; correct it") from None


def _check_name(items: Items, row: int, key: str, name: str) -> None:
    parts = name.replace("\\", "/").split("/")
    if not parts[0] or ".." in parts or "\0" in name:
        raise items.fail(row, f"{key!r} {shown(name)} leads out of the images folder; give a path inside it")
    if len(name.encode(errors="replace")) > MAX_NAME_BYTES:
        raise items.fail(row, f"{key!r} has {len(name):,} characters; at most {MAX_NAME_BYTES} bytes are read")


def fixed_skeleton(file: str, own: Skeleton, wanted: Skeleton | None) -> Skeleton:
    """`own`, or `wanted` if its joints are the same; DataError if they are not."""
    if wanted is not None and wanted.joints != own.joints:
        raise DataError(
            f"{file}: its {own.num_joints} joints {', '.join(own.joints)} are not the {wanted.num_joints} joints of "
            f"skeleton {wanted.name!r}: {', '.join(wanted.joints)}; choose another skeleton or leave it to the file"
        )
    return wanted or own


def clear_unlabelled(items: Items, skeleton: Skeleton, keypoints: np.ndarray) -> np.ndarray:
    """Set unlabelled joints of `keypoints` (N, K, 3) to 0 -> mask (N,) of the persons for whom that was a change.

    DataError for a labelled joint that is not finite or absurdly far away.
    """
    labelled = keypoints[..., 2] > 0
    largest = np.maximum(np.abs(keypoints[..., 0]), np.abs(keypoints[..., 1]))
    far = labelled & ~(largest <= MAX_COORDINATE)

    def problem(row: int) -> str:
        joint = int(np.flatnonzero(far[row])[0])
        place = keypoints[row, joint, :2].tolist()
        return f"joint {skeleton.joints[joint]!r} is at {place}; pixels within {MAX_COORDINATE:,.0f} are wanted"

    items.refuse(far.any(axis=1), problem)
    odd = ~labelled & (largest != 0)
    # Zero times NaN is NaN: a weight of zero would not keep such a joint out of the loss.
    keypoints[~labelled] = 0
    return odd.any(axis=1)


def keep(
    source: str,
    items: Items,
    skeleton: Skeleton,
    pictures: Pictures,
    columns: dict[str, np.ndarray],
    reasons: Iterable[Reason],
) -> tuple[Records, Report]:
    """Records of the persons that no reason filters or drops, and the report.

    `columns` are image_index, annotation_ids, boxes, keypoints and areas of all persons. Each reason counts only the
    persons whom the reasons before it left. Raises DataError when nobody is left.
    """
    usable = np.ones(len(columns["boxes"]), dtype=bool)
    tallies: dict[str, dict] = {FILTERED: {}, DROPPED: {}, NOTED: {}}
    # Notes last: they are about persons who stay.
    for group, reason, mask in sorted(reasons, key=lambda entry: entry[0] == NOTED):
        if (usable & mask).any():
            tallies[group][reason] = items.tally(usable & mask)
        if group != NOTED:
            usable &= ~mask
    report = Report(source, items.file, len(pictures.ids), int(usable.sum()), *tallies.values())
    if not usable.any():
        found = "; ".join(line.strip() for line in report.lines())
        raise DataError(f"{items.file}: no person with labelled keypoints to use; correct the file ({found})")
    records = Records(
        skeleton=skeleton,
        image_paths=pictures.paths,
        image_ids=pictures.ids.astype(np.int64),
        image_sizes=pictures.sizes.astype(np.int32),
        image_index=columns["image_index"][usable].astype(np.int32),
        annotation_ids=columns["annotation_ids"][usable].astype(np.int64),
        boxes=columns["boxes"][usable].astype(np.float64),
        keypoints=columns["keypoints"][usable].astype(np.float32),
        areas=columns["areas"][usable].astype(np.float32),
        box_scores=np.ones(int(usable.sum()), np.float32),
    )
    records.check()
    return records, report
