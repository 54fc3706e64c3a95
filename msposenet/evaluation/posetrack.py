"""PoseTrack's official scores: AP of each joint, and the tracking figures of the MOTA family.

The rules are those of poseval (commit 4258a15 with py-motmetrics 1.4.0): 15 joints; a distance is measured in head
sizes, 0.6 x the diagonal of the annotated head box, and a joint is found within 0.5 of them. Each pose goes to the
annotated person with the largest part of joints found, the best pose to each; every joint of the others is false. AP is
the area under the envelope of precision over recall when the joints are ranked by their own score. Frames that list
nobody are not scored, and joints in ignore regions count on neither side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from msposenet.errors import ConfigError, DataError, ResultError
from msposenet.evaluation.arrays import array_of, check_boxes_named, mask_of
from msposenet.evaluation.checks import LARGEST_COORDINATE, ImageId, check_id
from msposenet.evaluation.posetrack_files import read_annotations, read_predictions
from msposenet.evaluation.posetrack_frames import (
    JOINTS,
    NO_SCORE,
    NO_TRACK,
    PREDICTED,
    People,
    VideoFile,
    joint_columns,
)
from msposenet.evaluation.posetrack_match import ComparedFrame, average_precision, compare
from msposenet.evaluation.posetrack_mot import Counts, count_tracks
from msposenet.evaluation.scores import MetricScores
from msposenet.skeletons import POSETRACK_15, Skeleton

COLUMNS = {
    "Head": ("head_top", "neck", "nose"),
    **{
        name: (f"left_{part}", f"right_{part}")
        for name, part in (
            ("Shou", "shoulder"), ("Elb", "elbow"), ("Wri", "wrist"),
            ("Hip", "hip"), ("Knee", "knee"), ("Ankl", "ankle"),
        )
    },
    "Total": POSETRACK_15.joints,
}  # fmt: skip


@dataclass(frozen=True)
class PoseTrackScores(MetricScores):
    """PoseTrack's figures in percent. `per_joint` has them by joint, with their mean as "Total".

    Its tables are AP, precision and recall of the pose estimation, and with tracking MOTA, MOTP, PRE and REC as poseval
    names them, and MOTP of the matches alone. A joint that no figure exists for is left out of its table.
    """

    per_joint: dict[str, dict[str, float]] = field(default_factory=dict, repr=False)


def evaluate_posetrack(
    ground_truth: Path | str,
    predictions: Path | str,
    *,
    boxes: str = "those of the predictions",
    tracking: bool = True,
    image_ids: Iterable[ImageId] | None = None,
) -> PoseTrackScores:
    """PoseTrack scores of prediction files: a file, or a folder of files named as the sequences of `ground_truth`.

    Both sides in the 17 or the 18 form, not necessarily the same. In percent: "AP Head" to "AP Ankl" (means of left and
    right; Head of head top, neck and nose), "AP Total" (mean of the 15 joints), with `tracking` "MOTA Head" to "MOTA
    Total", and as means of the joints "MOTP Total", "Precision" and "Recall". With `image_ids` only these frames count
    (ids of the 18 form, running numbers from 1 over all files of the 17 form). Tracks run within a file, and within a
    `vid_id` where one file of the 18 form holds several.

    Raises DataError for annotations and ResultError for predictions that cannot be scored, naming file, frame and
    value: damage, values that are not finite, frames that are not annotated or given twice, with `tracking` people
    without track_id and a track twice in a frame.
    """
    check_boxes_named(boxes)
    videos = read_annotations(ground_truth)
    found, notes = read_predictions(predictions, videos, ground_truth)
    scored = _only(videos, image_ids)
    return _evaluate(scored, found, np.ones(JOINTS, bool), boxes, tracking, notes)


def evaluate_posetrack_poses(
    ground_truth: Path | str,
    image_ids: Sequence[ImageId] | np.ndarray,
    keypoints: np.ndarray,
    scores: np.ndarray | None = None,
    track_ids: Sequence[int] | np.ndarray | None = None,
    *,
    boxes: str,
    skeleton: Skeleton = POSETRACK_15,
    predicted_joints: np.ndarray | None = None,
    only: Iterable[ImageId] | None = None,
) -> PoseTrackScores:
    """PoseTrack scores of poses in memory, `image_ids` (M,) and `keypoints` (M, K, 3) x, y in image px, joint score.

    Frames go by image id in the 18 form, and by running number in the 17 form: from 1 over all files by name, frames
    without people counted too. The joints of `skeleton` are found by name; those that it lacks or that are not among
    `predicted_joints` (K,) are left out of the figures, and a note says so. A joint with x = y = score = 0 is not
    predicted. poseval ranks joints by the joint's score; `scores` (M,), where given, are multiplied into it. With
    `track_ids` (M,), 0 to 9999, the tracking figures are computed too. `only` these frames count, where given.

    Raises DataError for annotations, ResultError for arrays of another shape, values that are not finite, unknown
    frames and bad track ids, ConfigError for an empty `boxes` or a skeleton without any of the joints.
    """
    check_boxes_named(boxes)
    columns = joint_columns(skeleton.joints)
    has = (columns >= 0) & mask_of(predicted_joints, skeleton.num_joints, "predicted_joints", ConfigError)[columns]
    if not has.any():
        raise ConfigError(f"skeleton {skeleton.name} predicts none of PoseTrack's joints; use another metric")
    poses = array_of(keypoints, (None, skeleton.num_joints, 3), f"keypoints of {skeleton.name}", ResultError)
    present = poses[:, columns].any(axis=2) & has
    poses = np.where(present[..., None], poses[:, columns], 0)
    people = replace(People.empty(len(poses)), xy_image=poses[..., :2], present=present, scores=poses[..., 2])
    if len(image_ids) != len(poses):
        raise ResultError(f"{len(poses)} poses but {len(image_ids)} image ids; give one each")
    ids = [check_id(image_id, f"pose {row}", ResultError) for row, image_id in enumerate(image_ids)]
    if scores is not None:
        weights = array_of(scores, (len(poses),), "scores", ResultError)
        with np.errstate(invalid="ignore", over="ignore"):  # what comes of it is checked below
            people = replace(people, scores=people.scores * weights[:, None])
    if track_ids is not None:
        people = replace(people, tracks=_tracks(track_ids, len(poses)))
    _check_poses(people, ids)
    videos = read_annotations(ground_truth)
    known = {frame.id for video in videos for frame in video.frames}
    unknown = list(dict.fromkeys(image_id for image_id in ids if image_id not in known))
    if unknown:
        raise ResultError(
            f"poses on frames that {ground_truth} does not list: {unknown[:5]} ({len(unknown)}); "
            "are they its image ids (18 form) or running numbers from 1 (17 form)?"
        )
    rows_of: dict[ImageId, list[int]] = {}
    for row, image_id in enumerate(ids):
        rows_of.setdefault(image_id, []).append(row)
    found = {image_id: people.select(np.array(rows)) for image_id, rows in rows_of.items()}
    return _evaluate(_only(videos, only), found, has, boxes, track_ids is not None, [])


def _tracks(track_ids: Sequence[int] | np.ndarray, number: int) -> np.ndarray:
    tracks = np.asarray(track_ids)
    if tracks.shape != (number,) or (number and tracks.dtype.kind not in "iu"):
        raise ResultError(f"track_ids must be {number} whole numbers, found {tracks.dtype} of shape {tracks.shape}")
    if number and not 0 <= tracks.min() <= tracks.max() <= PREDICTED.max_track:
        worst = tracks.min() if tracks.min() < 0 else tracks.max()
        raise ResultError(f"track_ids must be 0 to {PREDICTED.max_track}, found {worst}; number the tracks anew")
    return tracks.astype(np.int64)


def _check_poses(people: People, ids: list[ImageId]) -> None:
    sound = (np.abs(people.xy_image) <= LARGEST_COORDINATE).all(axis=2) & np.isfinite(people.scores) | ~people.present
    if not sound.all():
        row, joint = np.argwhere(~sound)[0]
        found = (*people.xy_image[row, joint].tolist(), float(people.scores[row, joint]))
        raise ResultError(
            f"frame {ids[row]!r}: {POSETRACK_15.joints[joint]} of pose {row} is {found}; x, y and score must be finite "
            "and within 1e6 px; were the weights loaded?"
        )


def _only(videos: list[VideoFile], image_ids: Iterable[ImageId] | None) -> list[VideoFile]:
    if image_ids is None:
        return videos
    wanted = set(image_ids)
    unknown = list(wanted - {frame.id for video in videos for frame in video.frames})
    if unknown:
        raise DataError(f"frames to evaluate that the annotations do not list: {unknown[:5]} ({len(unknown)})")
    return [replace(video, frames=tuple(frame for frame in video.frames if frame.id in wanted)) for video in videos]


def _evaluate(
    videos: list[VideoFile],
    found: dict[ImageId, People],
    has: np.ndarray,
    boxes: str,
    tracking: bool,
    notes: list[str],
) -> PoseTrackScores:
    by_video: dict[tuple[str, ImageId | None], list[ComparedFrame]] = {}
    for video in videos:
        for frame in video.frames:
            if frame.listed:
                compared = compare(frame, found.get(frame.id, People.empty(0)), has)
                by_video.setdefault((video.source, frame.video), []).append(compared)
    sequences = list(by_video.values())
    frames = [frame for sequence in sequences for frame in sequence]
    figures, annotated = average_precision(frames)
    if not annotated.any():
        raise DataError(f"{videos[0].source}: no joint is annotated in the {len(frames)} frames to score")
    per_joint = {name: _table(row, annotated > 0) for name, row in zip(("AP", "precision", "recall"), 100 * figures)}
    values = {f"AP {column}": value for column, value in _columns(per_joint["AP"]).items()}
    notes = [*notes, *_notes(frames, annotated, has, right=bool(figures.any()))]
    if tracking:
        _check_tracks(videos, found)
        tables = _tracking(count_tracks(sequences))
        per_joint.update(tables)
        values.update({f"MOTA {column}": value for column, value in _columns(tables.get("MOTA", {})).items()})
        named = {"MOTP Total": "MOTP", "Precision": "PRE", "Recall": "REC"}
        values.update({name: tables[table]["Total"] for name, table in named.items() if table in tables})
        notes += _tracking_notes(sequences, bool(tables))
    return PoseTrackScores(
        metric="PoseTrack (poseval)",
        values=values,
        headline="AP Total",
        boxes=boxes,
        images=len(frames),
        people=int(sum(frame.truth.present.any(axis=1).sum() for frame in frames)),
        results=int(sum(frame.predicted.present.any(axis=1).sum() for frame in frames)),
        notes=tuple(notes),
        per_joint=per_joint,
    )


def _tracking(counts: Counts) -> dict[str, dict[str, float]]:
    """Tables of the tracking figures; none where no joint is annotated in a frame that counts."""
    counted = counts.objects > 0
    if not counted.any():
        return {}
    objects, detections = np.maximum(counts.objects, 1), np.maximum(counts.detections, 1)
    claimed = counts.detections + counts.false_positives
    errors = counts.misses + counts.switches + counts.false_positives
    found = counts.detections > 0
    return {
        "MOTA": _table(100 * (1 - errors / objects), counted),
        "MOTP": _table(np.where(found, 100 * (1 - counts.distance / detections), 0), counted),
        "MOTP of the matches": _table(np.where(found, 100 * (1 - counts.matched_distance / detections), 0), counted),
        "PRE": _table(100 * counts.detections / np.maximum(claimed, 1), counted & (claimed > 0)),
        "REC": _table(100 * counts.detections / objects, counted),
    }


def _table(figures: np.ndarray, counted: np.ndarray) -> dict[str, float]:
    """`figures` (15,) of the joints that are `counted`, by name, and their mean as "Total"; 0 for no joint."""
    table = {joint: float(value) for joint, value, there in zip(POSETRACK_15.joints, figures, counted) if there}
    return {**table, "Total": float(figures[counted].mean()) if counted.any() else 0.0}


def _columns(table: dict[str, float]) -> dict[str, float]:
    """The columns of poseval's tables; those that no joint is left of are left out."""
    members = {column: [table[joint] for joint in joints if joint in table] for column, joints in COLUMNS.items()}
    return {column: float(np.mean(values)) for column, values in members.items() if values}


def _check_tracks(videos: list[VideoFile], found: dict[ImageId, People]) -> None:
    for video in videos:
        for frame in video.frames:
            predicted = found.get(frame.id)
            if frame.listed and (frame.people.tracks == NO_TRACK).any():
                raise DataError(
                    f"{video.source}: frame {frame.id!r} has people without track_id; add it, or score without tracking"
                )
            if predicted is None:
                continue
            if (predicted.tracks == NO_TRACK).any():
                raise ResultError(
                    f"predictions of frame {frame.id!r} of {video.source} have people without track_id; add it, or "
                    "score without tracking"
                )
            tracks, times = np.unique(predicted.tracks, return_counts=True)
            if (times > 1).any():
                raise ResultError(
                    f"predictions of frame {frame.id!r} of {video.source}: track {tracks[times.argmax()]} is given "
                    f"{times.max()} times; one person has one pose in a frame"
                )


def _notes(frames: list[ComparedFrame], annotated: np.ndarray, has: np.ndarray, right: bool) -> list[str]:
    def named(joints: np.ndarray) -> str:
        return ", ".join(joint for joint, there in zip(POSETRACK_15.joints, joints) if there)

    notes = []
    if not has.all():
        notes.append(f"not predicted, left out of the figures: {named(~has)}; this is not the official figure")
    if (has & (annotated == 0)).any():
        notes.append(f"annotated nowhere, left out of the figures: {named(has & (annotated == 0))}")
    empty = sum(not len(frame.predicted) for frame in frames)
    if empty:
        notes.append(f"{empty} of {len(frames)} annotated frames have nobody predicted")
    unscored = sum(int((frame.predicted.present & (frame.predicted.scores == NO_SCORE)).sum()) for frame in frames)
    if unscored:
        notes.append(f"{unscored} predicted joints have no score and rank last")
    if not right and any(frame.predicted.present.any() for frame in frames):
        notes.append(
            "no predicted joint is within half a head size of its place: were the weights loaded, are the joints in "
            "image px?"
        )
    return notes


def _tracking_notes(sequences: list[list[ComparedFrame]], counted: bool) -> list[str]:
    if not counted:
        return ["no tracking figures: the last annotated frame of each sequence never counts, and none is left"]
    frames = [frame for sequence in sequences for frame in sequence[:-1]]
    empty = sum(not len(frame.truth) or not len(frame.predicted) for frame in frames)
    if not empty:
        return []
    return [
        f"tracking: {empty} of {len(frames)} frames lack people on one side and count as poseval has it, one miss "
        "and one false positive each joint"
    ]
