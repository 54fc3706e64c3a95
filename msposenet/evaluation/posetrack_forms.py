"""The two JSON forms of PoseTrack, 17 (annolist) and 18 (COCO-like), read into frames.

Both hold annotations and predictions alike. A joint that is not given is absent: in the 17 form it has no point, in the
18 form x, y and the third value are all 0, as in PoseTrack's own converter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np

from msposenet.evaluation.checks import (
    LARGEST_COORDINATE,
    ImageId,
    check_finite,
    check_id,
    check_records,
    number_table,
    short,
)
from msposenet.evaluation.posetrack_frames import ANNOTATED, JOINTS, OTHER_NAMES, PREDICTED, Frame, People, Side
from msposenet.skeletons import POSETRACK_15, POSETRACK_17


def frames_17(annolist: Any, source: str, side: Side) -> list[Frame]:
    check_records(annolist, ("image",), source, "frame", side.error)
    frames = []
    for row, entry in enumerate(annolist):
        place = f"{source}: frame {row}"
        images = _objects(entry["image"], place, "image", side)
        name = images[0].get("name") if len(images) == 1 else None
        if not isinstance(name, str):
            raise side.error(f"{place}: 'image' must be one object with a 'name', found {short(entry['image'])}")
        place = f"{source}: frame {name!r}"
        listed = _objects(entry.get("annorect", []), place, "annorect", side)
        regions = _objects(entry.get("ignore_regions", []), place, "ignore_regions", side)
        frames.append(
            Frame(
                id=None,
                name=name,
                people=_people_17(listed, place, side),
                listed=bool(listed),
                regions=tuple(
                    _region_17(region, f"{place}, ignore region {number}", side)
                    for number, region in enumerate(regions)
                ),
            )
        )
    return frames


def _people_17(listed: list[dict[str, Any]], place: str, side: Side) -> People:
    people, kept = People.empty(len(listed)), np.zeros(len(listed), bool)
    for row, entry in enumerate(listed):
        of_person = f"{place}, person {row}"
        sets = _objects(entry.get("annopoints", []), of_person, "annopoints", side)
        if "track_id" in entry:
            people.tracks[row] = _track(entry["track_id"], of_person, side)
        if not sets or "point" not in sets[0]:
            continue
        kept[row] = True
        for point in _objects(sets[0]["point"], of_person, "point", side):
            joint = _alone(point.get("id"))
            if not _whole(joint) or not 0 <= joint < JOINTS:
                raise side.error(f"{of_person}: a point's id must be 0 to {JOINTS - 1}, found {short(joint)}")
            if people.present[row, joint]:
                if side is PREDICTED:
                    raise side.error(f"{of_person}: joint {joint} is given twice; keep one")
                continue  # poseval takes the first
            of_joint = f"{of_person}, joint {joint}"
            people.xy_image[row, joint] = [_coordinate(point, axis, of_joint, side) for axis in "xy"]
            people.present[row, joint] = True
            if side is PREDICTED and "score" in point:
                people.scores[row, joint] = _number(point, "score", of_joint, side)
        if side is ANNOTATED and people.present[row].any():
            corners = [_coordinate(entry, key, f"{of_person}, head box", side) for key in ("x1", "y1", "x2", "y2")]
            people.head_sizes[row] = _head_size(corners[2] - corners[0], corners[3] - corners[1], of_person, side)
    return people.select(kept)


def _region_17(region: dict[str, Any], place: str, side: Side) -> np.ndarray:
    points = _objects(region.get("point", []), place, "point", side)
    return np.array([[_coordinate(point, axis, place, side) for axis in "xy"] for point in points]).reshape(-1, 2)


def joint_names(content: dict[str, Any], source: str, side: Side) -> list[str]:
    for key in ("images", "categories"):
        if key not in content:
            raise side.error(f"{source}: has no {key!r}; write it as PoseTrack18's annotations do")
    check_records(content["categories"], (), source, "category", side.error)
    names = None
    if len(content["categories"]) == 1:
        names = content["categories"][0].get("keypoints", list(POSETRACK_17.joints))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise side.error(f"{source}: 'categories' must be one, with the joints' names in 'keypoints'")
    if not set(POSETRACK_15.joints) & {OTHER_NAMES.get(name, name) for name in names}:
        raise side.error(f"{source}: its category names no joint of PoseTrack, found {short(names)}")
    return names


def frames_18(content: dict[str, Any], width: int, columns: np.ndarray, source: str, side: Side) -> list[Frame]:
    images, entries = content["images"], content["annotations"]
    check_records(images, ("id",), source, "image", side.error)
    check_records(entries, ("image_id", "keypoints"), source, "annotation", side.error)

    def place(row: int) -> str:
        return f"{source}: annotation {row} of image {short(entries[row]['image_id'])}"

    rows_of: dict[ImageId, list[int]] = {}
    for row, entry in enumerate(images):
        image_id = check_id(entry["id"], f"{source}: image {row}", side.error)
        if image_id in rows_of:
            raise side.error(f"{source}: frame {image_id!r} occurs twice; keep one")
        rows_of[image_id] = []
    for row, entry in enumerate(entries):
        image_id = check_id(entry["image_id"], place(row), side.error)
        if image_id not in rows_of:
            raise side.error(f"{place(row)}: the image is not among the images; add or correct it")
        rows_of[image_id].append(row)
    people = _people_18(entries, width, columns, place, side)
    frames = []
    for entry in images:
        name = entry.get("file_name")
        if name is not None and not isinstance(name, str):
            raise side.error(f"{source}: image {entry['id']!r}: file_name must be text, found {short(name)}")
        rows = np.array(rows_of[entry["id"]], np.int64)
        of_image = f"{source}: image {entry['id']!r}"
        video = check_id(entry["vid_id"], f"{of_image}, vid_id", side.error) if "vid_id" in entry else None
        regions = _regions_18(entry, of_image, side)
        frames.append(Frame(entry["id"], name, people.select(rows), bool(len(rows)), regions, video))
    return frames


def _people_18(
    entries: list[dict[str, Any]], width: int, columns: np.ndarray, place: Callable[[int], str], side: Side
) -> People:
    people = People.empty(len(entries))
    table = number_table([entry["keypoints"] for entry in entries], 3 * width, place, "keypoints", side.error)
    check_finite(table, place, "keypoints", side.error)
    known = np.flatnonzero(columns >= 0)
    keypoints = table.reshape(len(entries), width, 3)[:, columns[known]]
    far = np.abs(keypoints[..., :2]).max(axis=(1, 2), initial=0) > LARGEST_COORDINATE
    if far.any():
        raise side.error(f"{place(int(np.argmax(far)))} has a coordinate beyond 1e6 px; correct it")
    people.xy_image[:, known] = keypoints[..., :2]
    people.present[:, known] = keypoints.any(axis=2)
    for row, entry in enumerate(entries):
        if "track_id" in entry:
            people.tracks[row] = _track(entry["track_id"], place(row), side)
    if side is PREDICTED:
        # The annotations themselves have an empty list there.
        rows = [row for row, entry in enumerate(entries) if entry.get("scores", []) != []]
        listed = [entries[row]["scores"] for row in rows]
        scores = number_table(listed, width, lambda row: place(rows[row]), "scores", side.error)
        check_finite(scores, lambda row: place(rows[row]), "scores", side.error)
        people.scores[np.ix_(rows, known)] = scores[:, columns[known]]
        return people
    rows = np.flatnonzero(people.present.any(axis=1)).tolist()
    for row in rows:
        if "bbox_head" not in entries[row]:
            raise side.error(f"{place(row)} has joints but no 'bbox_head', by which they are measured; add it")
    heads = [entries[row]["bbox_head"] for row in rows]
    for row, box in zip(rows, number_table(heads, 4, lambda row: place(rows[row]), "bbox_head", side.error)):
        people.head_sizes[row] = _head_size(box[2], box[3], place(row), side)
    return people


def _regions_18(entry: dict[str, Any], place: str, side: Side) -> tuple[np.ndarray, ...]:
    across, down = (entry.get(f"ignore_regions_{axis}", []) for axis in "xy")
    if not isinstance(across, list) or not isinstance(down, list) or len(across) != len(down):
        raise side.error(f"{place}: ignore_regions_x and ignore_regions_y must be lists of one length")
    regions = []
    for number, (xs, ys) in enumerate(zip(across, down)):
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
            raise side.error(f"{place}: ignore region {number} must have as many x as y, as lists")
        polygon = number_table([xs, ys], len(xs), lambda row: place, f"ignore region {number}", side.error)
        if not (np.abs(polygon) <= LARGEST_COORDINATE).all():
            raise side.error(f"{place}: ignore region {number} must be finite and within 1e6 px")
        regions.append(polygon.T)
    return tuple(regions)


def _alone(value: Any) -> Any:
    """The value of a list of one, which is how the 17 form writes numbers."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _objects(value: Any, place: str, name: str, side: Side) -> list[dict[str, Any]]:
    listed = [value] if isinstance(value, dict) else value
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise side.error(f"{place}: {name!r} must be a list of objects, found {short(value)}")
    return listed


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _number(record: dict[str, Any], key: str, place: str, side: Side) -> float:
    value = _alone(record.get(key))
    try:
        number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise side.error(f"{place}: {key} must be a finite number, found {short(record.get(key))}")
    return number


def _coordinate(record: dict[str, Any], key: str, place: str, side: Side) -> float:
    value = _number(record, key, place, side)
    if abs(value) > LARGEST_COORDINATE:
        raise side.error(f"{place}: {key} is {value:g}, beyond 1e6 px; correct it")
    return value


def _track(value: Any, place: str, side: Side) -> int:
    track = _alone(value)
    if not _whole(track) or not 0 <= track <= side.max_track:
        raise side.error(f"{place}: track_id must be a whole number from 0 to {side.max_track}, found {short(track)}")
    return track


def _head_size(width: float, height: float, place: str, side: Side) -> float:
    size = 0.6 * math.hypot(width, height)
    if not 0 < size <= LARGEST_COORDINATE:
        raise side.error(f"{place}: the head box is {width:g} x {height:g} px; joints are measured by it: correct it")
    return size
