"""PoseTrack17's form: a list of frames, with persons as lists of numbered points, and boxes of heads only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import numpy as np

from msposenet.data.formats.coco_people import People, repeated
from msposenet.data.formats.common import NOTED, Pictures, clear_unlabelled, fixed_skeleton
from msposenet.data.formats.document import Document
from msposenet.data.formats.fields import Rows, section, shown
from msposenet.data.formats.posetrack_frames import FrameFolder, labelled_people
from msposenet.data.records import Records, Report
from msposenet.errors import DataError
from msposenet.skeletons import POSETRACK_15, Skeleton


class _Video(NamedTuple):
    """Frames and people of one file."""

    paths: np.ndarray  # (I,) bytes
    labelled: np.ndarray  # (I,) bool
    frame: np.ndarray  # (N,) row of the frame
    keypoints: np.ndarray  # (N, 15, 3) float64, zeros where unlabelled
    twice: np.ndarray  # (N,) bool: a joint stands there twice


@dataclass(frozen=True)
class _NamedRows(Rows):
    """Rows that errors call by names made when they are needed."""

    name: Callable[[int], str]

    def label(self, row: int) -> str:
        return self.name(row)


def read_videos(
    file: str, videos: Iterable[Document], folder: FrameFolder, skeleton: Skeleton | None
) -> tuple[Records, Report]:
    """Records and report of the `videos` of the file or folder `file`; see `read_posetrack`."""
    skeleton = fixed_skeleton(file, POSETRACK_15, skeleton)
    parts, frames, persons = [], 0, 0
    for video in videos:
        if "annolist" not in video:
            raise DataError(f"{video.file}: of PoseTrack18's form among files of PoseTrack17's; keep them apart")
        part = _read_video(video, folder, skeleton, persons)
        frames, persons = frames + len(part.paths), persons + len(part.frame)
        parts.append(part._replace(frame=part.frame + (frames - len(part.paths))))
    merged = _Video(*map(np.concatenate, zip(*parts)))
    again = np.flatnonzero(repeated(merged.paths))
    if again.size:
        raise DataError(
            f"{file}: {again.size:,} frames whose picture another frame has, first "
            f"{shown(merged.paths[again[0]].decode(errors='replace'))}; is a video there twice?"
        )
    pictures = Pictures(np.arange(1, frames + 1), merged.paths, np.zeros((frames, 2), np.int32))
    everybody = np.ones(persons, dtype=bool)
    people = People(
        ids=np.arange(1, persons + 1),
        image_index=merged.frame,
        keypoints=merged.keypoints,
        odd=~everybody,
        boxes=np.zeros((persons, 4)),
        areas=np.zeros(persons),
        no_area=everybody,
        crowds=~everybody,
    )
    notes = [(NOTED, "a joint given twice, the first taken", merged.twice)]
    return labelled_people(file, skeleton, pictures, merged.labelled, people, notes)


def _read_video(video: Document, folder: FrameFolder, skeleton: Skeleton, before: int) -> _Video:
    """The content of a file; `before` persons are in the files before it."""
    frames = Rows(video.file, "frame", section(video.root, "annolist", video.file))
    if not len(frames):
        raise DataError(f"{video.file}: 'annolist' is empty; is it the right file?")
    pictures = Rows(video.file, "frame", _single(frames, "image", frames.values("image")))
    names = pictures.strings("name")
    persons = frames.values("annorect", [])
    frames.refuse(_no_lists(persons), lambda row: f"'annorect' is {shown(persons[row])}; a list is wanted")
    frame = np.repeat(np.arange(len(frames)), list(map(len, persons)))
    people = _NamedRows(
        video.file,
        "person",
        list(chain.from_iterable(persons)),
        lambda row: f"{before + row + 1} on {shown(names[frame[row]])}",
    )
    paths, labelled = folder.paths(pictures, "name", names), _labelled(frames, persons)
    return _Video(paths, labelled, frame, *_keypoints(people, skeleton))


def _single(rows: Rows, key: str, values: list) -> list:
    """The entries of lists of one."""
    odd = [type(value) is not list or len(value) != 1 for value in values]
    rows.refuse(np.array(odd, dtype=bool), lambda row: f"{key!r} is {shown(values[row])}; a list of one is wanted")
    return [value[0] for value in values]


def _no_lists(values: list) -> np.ndarray:
    """Mask (N,) of the values that are no lists."""
    return np.array([type(value) is not list for value in values], dtype=bool)


def _labelled(frames: Rows, persons: list[list]) -> np.ndarray:
    """Mask (I,) of the frames that are labelled; where they do not say so themselves, those with persons."""
    flags = [
        [bool(people)] if flag is None else flag for people, flag in zip(persons, frames.values("is_labeled", None))
    ]
    flags = _single(frames, "is_labeled", flags)
    odd = [type(flag) not in (int, bool) or flag not in (0, 1) for flag in flags]
    frames.refuse(np.array(odd, dtype=bool), lambda row: f"'is_labeled' is {shown(flags[row])}; 0 or 1 is wanted")
    without = np.array(["annorect" not in item for item in frames.items], dtype=bool)
    return np.array(flags, dtype=bool) & ~without


def _keypoints(people: Rows, skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (N, 15, 3), zeros where unlabelled, and the mask (N,) of those who have a joint twice."""
    points = _points(people)
    counts = list(map(len, points))
    owner, first = np.repeat(np.arange(len(people)), counts), np.cumsum([0, *counts])
    rows = _NamedRows(
        people.file,
        people.kind,
        list(chain.from_iterable(points)),
        lambda row: f"{people.label(owner[row])}, point {row - first[owner[row]] + 1}",
    )
    joint = rows.vectors("id", 1)[:, 0]
    last = skeleton.num_joints - 1
    rows.refuse(~np.isin(joint, range(last + 1)), lambda row: f"'id' is {joint[row]:g}; 0 to {last} are wanted")
    flags = [{"is_visible": [1] if flag in (None, []) else flag} for flag in rows.values("is_visible", None)]
    visible = replace(rows, items=flags).vectors("is_visible", 1)[:, 0]
    rows.refuse(~np.isin(visible, (0, 1)), lambda row: f"'is_visible' is {visible[row]:g}; 0 or 1 is wanted")
    found = np.stack([rows.vectors("x", 1)[:, 0], rows.vectors("y", 1)[:, 0], 1 + visible], axis=1)
    # As poseval's convert.py writes unlabelled joints.
    found[(found == (0, 0, 1)).all(axis=1)] = 0
    place = owner * skeleton.num_joints + joint.astype(np.int64)
    again = repeated(place)
    keypoints = np.zeros((len(people) * skeleton.num_joints, 3))
    keypoints[place[~again]] = found[~again]
    keypoints = keypoints.reshape(len(people), skeleton.num_joints, 3)
    clear_unlabelled(people, skeleton, keypoints)
    twice = np.zeros(len(people), dtype=bool)
    twice[owner[again]] = True
    return keypoints, twice


def _points(people: Rows) -> list[list]:
    """The points of each person; none where there is no list of them, or an empty one."""
    holders = people.values("annopoints", [])
    odd = [type(holder) is not list or len(holder) > 1 or {*map(type, holder)} - {dict} for holder in holders]
    people.refuse(
        np.array(list(map(bool, odd)), dtype=bool),
        lambda row: f"'annopoints' is {shown(holders[row])}; a list of one object with 'point' is wanted",
    )
    points = [holder[0].get("point", []) if holder else [] for holder in holders]
    people.refuse(_no_lists(points), lambda row: f"'point' is {shown(points[row])}; a list is wanted")
    return points
