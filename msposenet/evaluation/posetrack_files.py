"""PoseTrack's files for scoring: one sequence a file, predictions in a file of the same name, as poseval has it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from msposenet.errors import DataError, ResultError
from msposenet.evaluation.checks import ImageId, read_json, short
from msposenet.evaluation.posetrack_forms import frames_17, frames_18, joint_names
from msposenet.evaluation.posetrack_frames import ANNOTATED, PREDICTED, People, Side, VideoFile, joint_columns
from msposenet.skeletons import POSETRACK_15


def annotation_files(path: Path | str) -> list[Path]:
    """The file `path`, or the JSON files of the folder `path` by name; DataError when there is none."""
    path = Path(path)
    if not path.is_dir():
        return [path]
    files = [path / name for name in sorted(_json_names(path, ANNOTATED))]
    if not files:
        raise DataError(f"{path}: no .json file in the folder; name the folder of the annotated sequences")
    return files


def read_annotations(path: Path | str) -> list[VideoFile]:
    """The annotated sequences in a file or folder; frames without id get their running number, from 1, over all files.

    Raises DataError naming file, frame and value for what cannot be scored.
    """
    files, number, seen = [], 0, set()
    for file in annotation_files(path):
        video = read_video(file, ANNOTATED)
        frames = []
        for frame in video.frames:
            number += 1
            frame = frame if video.by_id else replace(frame, id=number)
            if frame.id in seen:
                raise DataError(f"{file}: the image id {frame.id!r} occurs twice in the annotations; renumber them")
            seen.add(frame.id)
            frames.append(frame)
        if video.absent:
            raise DataError(f"{file}: its category names no {', '.join(video.absent)}; is it PoseTrack's form?")
        files.append(replace(video, frames=tuple(frames)))
    return files


def read_video(path: Path, side: Side) -> VideoFile:
    """One file of either form; raises the error of `side` naming file, frame and value."""
    content, source = read_json(path, side.error), str(path)
    if not isinstance(content, dict) or not {"annolist", "annotations"} & content.keys():
        raise side.error(
            f"{source}: expected PoseTrack's 'annolist' (17) or 'images' and 'annotations' (18), found {short(content)}"
        )
    if "annolist" in content:
        video = VideoFile(source, tuple(frames_17(content["annolist"], source, side)), by_id=False)
    else:
        names = joint_names(content, source, side)
        columns = joint_columns(names)
        absent = tuple(joint for joint, column in zip(POSETRACK_15.joints, columns) if column < 0)
        frames = frames_18(content, len(names), columns, source, side)
        video = VideoFile(source, tuple(frames), by_id=True, absent=absent)
    seen: set[str | None] = set()
    for frame in video.frames:
        if frame.name is not None and frame.name in seen:
            raise side.error(f"{source}: frame {frame.name!r} occurs twice; keep one")
        seen.add(frame.name)
    return video


def read_predictions(
    path: Path | str, videos: list[VideoFile], annotations: Path | str
) -> tuple[dict[ImageId, People], list[str]]:
    """The predicted people of each frame of `videos` (of `read_annotations` of `annotations`), and notes.

    Frames are matched by image id where both files have the 18 form, else by the name of the picture. Frames and files
    that the predictions lack are left out of the dict. Raises ResultError naming file, frame and value for predictions
    that cannot be scored, with the first five frames or files that are not annotated.
    """
    found: dict[ImageId, People] = {}
    without, absent = 0, set()
    for video, file in _paired(Path(path), videos, Path(annotations)):
        if file is None:
            without += 1
            continue
        predicted = read_video(file, PREDICTED)
        absent.update(predicted.absent)
        found.update(_matched(video, predicted))
    notes = [f"{without} of {len(videos)} sequences have no prediction file"] if without else []
    if absent:
        names = ", ".join(joint for joint in POSETRACK_15.joints if joint in absent)
        notes.append(f"the predictions have no {names}: never found")
    return found, notes


def _json_names(folder: Path, side: Side) -> set[str]:
    try:
        names = [file.name for file in folder.iterdir()]
    except OSError as reason:
        raise side.error(f"{folder}: the folder cannot be read ({reason.strerror}); see to its rights") from None
    return {name for name in names if name.endswith(".json") and not name.startswith(".")}


def _paired(path: Path, videos: list[VideoFile], annotations: Path) -> list[tuple[VideoFile, Path | None]]:
    if not path.is_dir():
        if len(videos) > 1:
            raise ResultError(f"{path}: is one file, but there are {len(videos)} sequences; name the folder of all")
        return [(videos[0], path)]
    names = {Path(video.source).name for video in videos}
    there = _json_names(path, PREDICTED)
    if not names & there:
        raise ResultError(f"{path}: no file is named as a sequence, such as {min(names)}; name each as its annotations")
    if annotations.is_dir() and there - names:
        shown = ", ".join(sorted(there - names)[:5])
        raise ResultError(f"{path}: {shown} ({len(there - names)} files) have no annotations of that name; remove them")
    return [(video, path / Path(video.source).name if Path(video.source).name in there else None) for video in videos]


def _matched(video: VideoFile, predicted: VideoFile) -> dict[ImageId, People]:
    key = "id" if video.by_id and predicted.by_id else "name"
    for side in (video, predicted):
        if any(getattr(frame, key) is None for frame in side.frames):
            raise ResultError(f"{side.source}: has images without 'file_name', by which the two forms are matched")
    id_of = {getattr(frame, key): frame.id for frame in video.frames}
    unknown = [getattr(frame, key) for frame in predicted.frames if getattr(frame, key) not in id_of]
    if unknown:
        raise ResultError(
            f"{predicted.source}: frames that are not annotated: {unknown[:5]} ({len(unknown)}); "
            f"the annotations are {video.source}"
        )
    return {id_of[getattr(frame, key)]: frame.people for frame in predicted.frames}
