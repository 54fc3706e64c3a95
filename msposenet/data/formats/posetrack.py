"""PoseTrack annotations as Records: PoseTrack18's COCO-like form here, PoseTrack17's in posetrack17.py."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from msposenet.data.formats import posetrack17
from msposenet.data.formats.coco import keypoint_category
from msposenet.data.formats.coco_people import (
    A_SECOND_IMAGE,
    A_SECOND_PERSON,
    ANNOTATION,
    IMAGE,
    ImageRows,
    People,
    image_sizes,
    people_columns,
    repeated,
    unique_ids,
)
from msposenet.data.formats.coco_skeleton import category_skeleton
from msposenet.data.formats.common import Pictures, fixed_skeleton
from msposenet.data.formats.document import Document
from msposenet.data.formats.fields import Rows, listed, shown
from msposenet.data.formats.posetrack_frames import FrameFolder, labelled_people
from msposenet.data.records import Records, Report
from msposenet.errors import DataError
from msposenet.skeletons import POSETRACK_17, Skeleton

ALIASES = MappingProxyType({"head_bottom": "neck"})
_LISTS = {"images": {**IMAGE, "is_labeled": Any}, "annotations": ANNOTATION}


def read_posetrack(annotations: Path, images: Path, skeleton: Skeleton | None = None) -> tuple[Records, Report]:
    """Persons with labelled keypoints on the labelled frames of videos of PoseTrack18 or PoseTrack17.

    `annotations` is one JSON file or a folder of them, one a video, read in the order of their names. `images` is the
    data set's root or its folder `images`: the names of frames begin with "images/", which is left out where the
    folder given is itself called so and holds no other folder of that name.

    Frames that are marked as not labelled are not in the image table; the report counts them. Every labelled joint
    counts as visible in PoseTrack18, which does not tell; in PoseTrack17 `is_visible` 0 is hidden. Where a person has
    no box (PoseTrack17 has boxes of heads only) or one without width or height, it is the labelled joints' extent,
    enlarged by 15 % on each side. Image sizes are 0 x 0, and boxes not clipped, where the file does not give them: as
    in both releases. Ids are PoseTrack18's own, which must differ between the videos; PoseTrack17's frames and persons
    are numbered from 1 through all files, whoever is left out included. Head boxes, tracks and regions to ignore are
    not part of the records. The joints of PoseTrack18 are those of `posetrack17`, or what else the file names, those
    of PoseTrack17 `posetrack15`; all videos must have the same, and those of `skeleton` if it is given.

    Raises DataError, as `read_coco` does, naming file, item, value and remedy for everything that cannot be trusted.
    """
    file, folder = str(annotations), FrameFolder(Path(images))
    videos = (Document(path, _LISTS, ("categories",)) for path in _files(annotations))
    first = next(videos)
    if "annolist" in first:
        return posetrack17.read_videos(file, chain([first], videos), folder, skeleton)
    return _read_videos(file, chain([first], videos), folder, skeleton)


def _files(annotations: Path) -> list[Path]:
    if not os.path.isdir(annotations):
        return [Path(annotations)]
    names = sorted(os.listdir(annotations))
    found = [name for name in names if name.endswith(".json") and not name.startswith(".")]
    if not found:
        raise DataError(
            f"{annotations}: no .json file in this folder (found {listed(names) or 'nothing'}); name the folder that "
            "holds a file for each video, or a file"
        )
    return [Path(annotations) / name for name in found]


class _Frames(NamedTuple):
    """Frames, each checked by itself."""

    ids: np.ndarray  # (I,) int64
    paths: np.ndarray  # (I,) bytes
    sizes: np.ndarray  # (I, 2) int32 width, height; 0 where not known
    labelled: np.ndarray  # (I,) bool


def _read_videos(
    file: str, videos: Iterable[Document], folder: FrameFolder, skeleton: Skeleton | None
) -> tuple[Records, Report]:
    files, frames, people, notes = [], [], [], {}
    for video in videos:
        if "annolist" in video:
            raise DataError(f"{video.file}: of PoseTrack17's form among files of PoseTrack18's; keep them apart")
        category, categories = keypoint_category(video.rows("categories", "category"))
        own, found = category_skeleton(category, video.file, skeleton or POSETRACK_17, ALIASES)
        skeleton, notes = fixed_skeleton(video.file, own, skeleton), {**found, **notes}
        part = video.columns("images", "image", partial(_frame_columns, folder=folder))
        if not len(part.ids):
            raise DataError(f"{video.file}: 'images' is empty; is it the right file?")
        there = sum(len(before.ids) for before in frames)
        read = partial(
            people_columns,
            skeleton=skeleton,
            category=category["id"],
            categories=categories,
            images=ImageRows(part.ids),
            boxed=False,
        )
        persons = video.columns("annotations", "annotation", read)
        files.append(video.file)
        frames.append(part)
        people.append(persons._replace(image_index=persons.image_index + there))
    _refuse_repeated(files, [part.ids for part in frames], "image", A_SECOND_IMAGE)
    _refuse_repeated(files, [part.ids for part in people], "annotation", A_SECOND_PERSON)
    *pictures, labelled = map(np.concatenate, zip(*frames))
    merged = People(*map(np.concatenate, zip(*people)))
    merged.keypoints[..., 2][merged.keypoints[..., 2] > 0] = 2
    records, report = labelled_people(file, skeleton, Pictures(*pictures), labelled, merged)
    return records, replace(report, warnings={**notes, **report.warnings})


def _frame_columns(rows: Rows, folder: FrameFolder) -> _Frames:
    ids = unique_ids(rows, A_SECOND_IMAGE)
    paths = folder.paths(rows, "file_name", rows.strings("file_name"))
    known = np.array(["width" in item or "height" in item for item in rows.items], dtype=bool)
    sizes = np.zeros((len(rows), 2), np.int32)
    if known.any():
        sizes[known] = image_sizes(rows.where(known))
    flags = rows.values("is_labeled", True)
    odd = [type(flag) not in (int, bool) or flag not in (0, 1) for flag in flags]
    rows.refuse(np.array(odd, dtype=bool), lambda row: f"'is_labeled' is {shown(flags[row])}; true or false is wanted")
    return _Frames(ids, paths, sizes, np.array(flags, dtype=bool))


def _refuse_repeated(files: list[str], ids: list[np.ndarray], kind: str, problem: str) -> None:
    """Raise about an id (N,) that stands in two files, or twice in one."""
    merged, place = np.concatenate(ids), np.repeat(np.arange(len(files)), [len(part) for part in ids])
    again = np.flatnonzero(repeated(merged))
    if again.size:
        here, before = (files[place[row]] for row in (again[0], np.flatnonzero(merged == merged[again[0]])[0]))
        where = "" if here == before else f" (the first is in {before})"
        raise DataError(f"{here}: {kind} {merged[again[0]]}: {problem}{where}")
