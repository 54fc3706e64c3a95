"""The configured sets as one: read, mapped onto one skeleton, filtered, weighed and joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from msposenet import geometry
from msposenet.config import Config, Source
from msposenet.data.formats import READERS
from msposenet.data.records import Origin, Records, Report, Tally
from msposenet.data.unify import JointMap, joint_map, unify
from msposenet.errors import ConfigError, DataError
from msposenet.skeletons import UNION_21, Skeleton

Say = Callable[[str], None]


@dataclass(frozen=True)
class SourceRecords:
    """One configured set as it was read, with its own joints.

    `report` is about what is used of it, `judged` about its whole file.
    """

    source: Source
    records: Records
    report: Report
    judged: Report


def read_source(source: Source, skeleton: Skeleton | None = None) -> SourceRecords:
    """The set as the file has it, only the `pictures` asked for. `skeleton` helps files that name no joints."""
    options = {"skeleton": skeleton} if source.format == "coco" else {}
    records, report = READERS[source.format](source.annotations, source.images, **options)
    judged = report
    records, filtered = _only_pictures(records, source)
    if source.boxes == "joints":
        records = _boxes_from_joints(records, source.box_margin)
    report = replace(
        report,
        source=source.title,
        images=len(records.image_ids),
        instances=len(records),
        filtered={**report.filtered, **filtered},
    )
    return SourceRecords(source, records, report, judged)


def read_all(sources: Sequence[Source], config: Config, part: str, say: Say) -> list[SourceRecords]:
    """All sets of `part` ("train" or "val"), reported and judged by data.max_bad_fraction."""
    if not sources:
        raise ConfigError(f"data.{part} is not set: name its format, annotations and images")
    found = []
    for source in sources:
        read = read_source(source, config.fixed_skeleton())
        for line in read.report.lines():
            say(line)
        read.judged.enforce(config.data.max_bad_fraction)
        if len(read.records) == 0:
            raise DataError(f"{source.annotations}: no usable person for data.{part}")
        found.append(read)
    return found


def target_skeleton(config: Config, read: Sequence[SourceRecords]) -> Skeleton:
    """The configured skeleton; where it is `auto` the sets' own if they share one, else the union of 21 points."""
    fixed = config.fixed_skeleton()
    if fixed is not None:
        return fixed
    own = read[0].records.skeleton
    alike = (part.records.skeleton for part in read)
    same = all(set(other.joints) == set(own.joints) and other.flip_pairs == own.flip_pairs for other in alike)
    return own if same else UNION_21


def read_training(config: Config, say: Say = lambda line: None) -> Records:
    """All of data.train with the joints of one skeleton; raises DataError and ConfigError."""
    read = read_all(config.data.train, config, "train", say)
    skeleton = target_skeleton(config, read)
    parts = []
    for part in read:
        found = joint_map(part.records.skeleton, skeleton, part.source.joints, part.source.title)
        records, notes = prepare(part, found)
        for line in notes:
            say(f"  {part.source.title}: {line}")
        if len(records) == 0:
            raise DataError(f"{part.source.title}: no person passes the filters; lower min_joints or min_size")
        parts.append(records)
    merged = merge(parts)
    if len(parts) > 1:
        say(f"merged: {len(merged.image_paths):,} images, {len(merged):,} instances, {skeleton.num_joints} joints")
    return merged


def prepare(part: SourceRecords, found: JointMap) -> tuple[Records, list[str]]:
    """One set, ready to be merged, and what a reader of the log should know of it."""
    source, notes = part.source, []
    if found.missing:
        notes.append(f"not in skeleton {found.target.name}, not used: {', '.join(found.missing)}")
    absent = [joint for joint, there in zip(found.target.joints, found.found) if not there]
    if absent:
        notes.append(f"never labelled there: {', '.join(absent)}")
    records = unify(part.records, found)
    few = (records.keypoints[..., 2] > 0).sum(axis=1) < source.min_joints
    small = ~few & (records.boxes[:, 2:].max(axis=1) < source.min_size)
    for what, left_out in ((f"fewer than {source.min_joints} joints", few), (f"under {source.min_size:g} px", small)):
        if left_out.any():
            notes.append(f"left out: {what}: {_tally(records, left_out)}")
    records = records.select(~few & ~small)
    origin = Origin(source.title, weights_of(source, found.target), source.weight)
    return replace(records, origins=(origin,)), notes


def weights_of(source: Source, skeleton: Skeleton) -> tuple[float, ...]:
    """Weights (K,) of the joints of `skeleton` in one set; ConfigError for unknown joints and unlike sides."""
    weights = np.ones(skeleton.num_joints)
    for joint, weight in source.joint_weights.items():
        if joint not in skeleton.joints:
            raise ConfigError(
                f"{source.title}: joint_weights names {joint!r}; skeleton {skeleton.name!r} has "
                f"{', '.join(skeleton.joints)}"
            )
        weights[skeleton.index(joint)] = weight
    odd = np.flatnonzero(weights != weights[skeleton.flip_index])
    if odd.size:
        left, right = (skeleton.joints[place] for place in (odd[0], skeleton.flip_index[odd[0]]))
        raise ConfigError(f"{source.title}: joint_weights differ between {left!r} and {right!r}; give both the same")
    return tuple(weights.tolist())


def merge(parts: Sequence[Records]) -> Records:
    """Records of one skeleton joined; image ids are those of their sets and may meet twice."""
    if len(parts) == 1:
        return parts[0]
    images = np.cumsum([0] + [len(part.image_ids) for part in parts])
    origins = np.cumsum([0] + [len(part.origins) for part in parts])
    if origins[-1] > np.iinfo(np.uint8).max:
        raise ConfigError(f"{origins[-1]} sets; at most {np.iinfo(np.uint8).max} can be merged")

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    plain = ("image_paths", "image_ids", "image_sizes", "annotation_ids", "boxes", "keypoints", "areas", "box_scores")
    merged = Records(
        skeleton=parts[0].skeleton,
        **{name: joined(name) for name in plain},
        image_index=np.concatenate([part.image_index + at for part, at in zip(parts, images)]).astype(np.int32),
        origin_index=np.concatenate([part.origin_index + at for part, at in zip(parts, origins)]).astype(np.uint8),
        origins=tuple(origin for part in parts for origin in part.origins),
    )
    merged.check()
    return merged


def _only_pictures(records: Records, source: Source) -> tuple[Records, dict[str, Tally]]:
    """The pictures from the first to the last one asked for; the others are not in the table any more."""
    if source.pictures is None:
        return records, {}
    first, last = source.pictures
    count = len(records.image_ids)
    if last > count:
        raise ConfigError(f"{source.title}: pictures {first} to {last} are asked for; {source.annotations} has {count}")
    wanted = slice(first - 1, last)
    inside = (records.image_index >= first - 1) & (records.image_index < last)
    chosen = records.select(inside)
    chosen = replace(
        chosen,
        image_index=(chosen.image_index - (first - 1)).astype(np.int32),
        image_paths=records.image_paths[wanted],
        image_ids=records.image_ids[wanted],
        image_sizes=records.image_sizes[wanted],
    )
    return chosen, {f"on other pictures than {first} to {last}": Tally(int((~inside).sum()))}


def _boxes_from_joints(records: Records, margin: float) -> Records:
    """Boxes around the labelled joints, larger by `margin` of their extent on each side, cut to the picture.

    Who has all joints on a line or point keeps the annotated box.
    """
    boxes = geometry.joint_boxes(records.keypoints, records.image_sizes[records.image_index], margin)
    empty = (boxes[:, 2:] <= 0).any(axis=1)
    return replace(records, boxes=np.where(empty[:, None], records.boxes, boxes))


def _tally(records: Records, chosen: np.ndarray) -> Tally:
    return Tally(int(chosen.sum()), tuple(str(i) for i in records.annotation_ids[chosen][:5]))
