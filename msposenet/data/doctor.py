"""What is wrong with the sets of a configuration: every annotation and every picture looked at, nothing changed.

Damage is what training would have to leave out: it is listed item by item. Warnings are what training would take, and
somebody should know of.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from msposenet import geometry
from msposenet.config import Config, Source
from msposenet.data.doctor_findings import CheckedSet, Damage, Diagnosis, MappedSet, SharedPictures, figures_of
from msposenet.data.doctor_scan import Scan, scan_pictures
from msposenet.data.doctor_statistics import SideCheck, duplicate_persons, joint_counts, side_checks
from msposenet.data.formats.detections import read_detections
from msposenet.data.formats.mpii import mpii_head_sizes
from msposenet.data.merging import prepare, read_source, target_skeleton
from msposenet.data.records import MAX_BAD_FRACTION, MAX_BAD_ITEMS, Records, Report
from msposenet.data.unify import joint_map
from msposenet.errors import ConfigError, DataError
from msposenet.evaluation.ground_truth import read_ground_truth
from msposenet.progress import Reporter
from msposenet.skeletons import Skeleton

REFUSED = "annotations refused"
BOX_OUTSIDE = "box outside the picture"
_PICTURE_REASONS = ("missing picture", "damaged picture")  # of readers that need the pictures' sizes
# What a picture's error says, and what such pictures are counted as; the first that fits.
_KINDS = (
    ("missing image", "missing picture"),
    ("not an image", "not an image"),
    ("truncated", "truncated picture"),
    ("the annotations say", "picture of another size than annotated"),
    ("at most", "picture too large"),
    ("over the limit", "picture too large"),
    ("unreadable", "unreadable picture"),
)


def diagnose(config: Config, workers: int, reporter: Reporter) -> Diagnosis:
    """Look at every set of data.train and data.val; pictures in `workers` processes.

    Damage is no error here. Raises ConfigError for a configuration that cannot be used, LoaderError when the reading
    processes die again and again.
    """
    skeleton, sets = read_sets(config, reporter.say)
    places: dict[bytes, int] = {}
    jobs = [np.array([places.setdefault(path, len(places)) for path in part.paths], np.int64) for part in sets]
    with reporter.task("pictures") as advance:
        scan = scan_pictures(list(places), workers, advance)
    checked = tuple(check_set(part, rows, scan, config) for part, rows in zip(sets, jobs))
    shared = tuple(shared_pictures(sets, jobs, scan))
    leaks = [each.sentence() for each in shared if each.leak]
    return Diagnosis(skeleton, checked, shared, (*leaks, *_training_would_stop(checked, config)))


def read_sets(config: Config, say: Callable[[str], None]) -> tuple[Skeleton | None, list[MappedSet]]:
    """Every set read and mapped onto the skeleton of training; one that cannot be read says why."""
    named = [("train", source) for source in config.data.train] + [("val", source) for source in config.data.val]
    if not named:
        raise ConfigError("neither data.train nor data.val is set: name a format, annotations and images")
    sets = []
    for part, source in named:
        say(f"reading {part}: {source.title}")
        try:
            sets.append(MappedSet(part, source, read=read_source(source, config.fixed_skeleton())))
        except DataError as error:
            sets.append(MappedSet(part, source, error=str(error).removeprefix(f"{source.annotations}: ")))
    readable = [each for each in sets if each.read is not None]
    if not readable:
        return config.fixed_skeleton(), sets
    training = [each.read for each in readable if each.part == "train"]
    skeleton = target_skeleton(config, training or [each.read for each in readable])
    return skeleton, [_mapped(each, skeleton) for each in sets]


def _mapped(part: MappedSet, skeleton: Skeleton) -> MappedSet:
    if part.read is None:
        return part
    found = joint_map(part.read.records.skeleton, skeleton, part.source.joints, part.source.title)
    read = part.read
    if part.part == "val":  # the filters are for training
        read = replace(read, source=part.source.model_copy(update={"min_joints": 0, "min_size": 0.0}))
    records, notes = prepare(read, found)
    return replace(part, found=found, records=records, notes=tuple(notes))


def check_set(part: MappedSet, rows: np.ndarray, scan: Scan, config: Config) -> CheckedSet:
    """Findings about one set, whose pictures are numbers `rows` (I,) of the scan."""
    if part.read is None or part.records is None or part.found is None:
        refused = Damage(REFUSED, str(part.source.annotations), "", part.error)
        return CheckedSet(part, (refused,), (), np.zeros(0, dtype=bool))
    read, report, records = part.read.records, part.read.report, part.records
    usable, bad_pictures = _pictures(read, rows, scan)
    misses, reaching_out = _boxes(read, scan.sizes[rows])
    sizes = np.where(usable[:, None], scan.sizes[rows], read.image_sizes)
    joints = tuple(joint_counts(records, part.found, sizes))
    sides = tuple(side_checks(records))
    lists = {
        "damaged_but_whole": [
            [read.picture(row), scan.repairs[place]] for row, place in enumerate(rows.tolist()) if place in scan.repairs
        ],
        "duplicate_persons": [list(pair) for pair in duplicate_persons(read)],
        "repeated_pictures": [list(pair) for pair in _repeated_pictures(read, rows, scan)],
    }
    figures = {
        "pictures": len(rows),
        "pictures_unusable": len(bad_pictures),
        "pictures_without_persons": len(rows) - len(np.unique(read.image_index)),
        "persons": len(records),
        "persons_on_unusable_pictures": int((~usable[records.image_index]).sum()),
        "boxes_reaching_out": reaching_out,
        "left_out": {reason: tally.count for reason, tally in report.filtered.items()},
        "assumed_or_repaired": {reason: tally.count for reason, tally in report.warnings.items()},
        "notes": list(part.notes),
        **{f"{name}_count": len(items) for name, items in lists.items()},
        **figures_of(records, sizes, joints, sides),
    }
    damage = (*_skipped(report), *bad_pictures, *misses, *_side_files(part.source, read))
    warnings = (*_warnings(lists, sides), *_refusals(part.read.judged, records, config))
    return CheckedSet(part, damage, warnings, usable, figures, lists, joints, sides)


def _side_files(source: Source, read: Records) -> Iterator[Damage]:
    """What is wrong with the files named beside the annotations, which nobody opens before the set is scored."""
    if source.detections is not None:
        try:
            coco = source.format in ("coco", "crowdpose")
            category = read_ground_truth(source.annotations, read.skeleton).category_id if coco else 1
            read_detections(source.detections, read.image_ids, category_id=category)
        except DataError as error:
            yield Damage(REFUSED, str(source.detections), "", str(error))
    if source.head_sizes is not None:
        try:
            mpii_head_sizes(source.annotations, source.head_sizes)
        except DataError as error:
            yield Damage(REFUSED, str(source.head_sizes), "", str(error))


def _skipped(report: Report) -> Iterator[Damage]:
    """What the reader left out as damaged, but for pictures, which say more themselves."""
    for reason, tally in report.dropped.items():
        if reason in _PICTURE_REASONS:
            continue
        for name in tally.first:
            yield Damage(reason, report.file, f"annotation {name}" if name.isdigit() else name, reason)
        rest = tally.count - len(tally.first)
        if rest:
            yield Damage(reason, report.file, f"{rest:,} more", reason, rest)


def _pictures(records: Records, rows: np.ndarray, scan: Scan) -> tuple[np.ndarray, list[Damage]]:
    """Which (I,) pictures can be used, and what is wrong with the others."""
    found, annotated = scan.sizes[rows], records.image_sizes
    readable = found[:, 0] > 0
    differs = readable & (annotated[:, 0] > 0) & (found != annotated).any(axis=1)
    damage = []
    for row in np.flatnonzero(~readable | differs).tolist():
        reason = scan.errors.get(int(rows[row]))
        if reason is None:
            (w, h), (width, height) = found[row].tolist(), annotated[row].tolist()
            reason = f"is {w} x {h} px, the annotations say {width} x {height}; use the pictures that were annotated"
        kind = next((kind for sign, kind in _KINDS if sign in reason), "damaged picture")
        damage.append(Damage(kind, records.picture(row), "", reason))
    return readable & ~differs, damage


def _boxes(records: Records, sizes: np.ndarray) -> tuple[list[Damage], int]:
    """Boxes outside pictures whose size the annotations do not say, and how many others reach out of theirs."""
    size = sizes[records.image_index]
    asked = (records.image_sizes[records.image_index, 0] == 0) & (size[:, 0] > 0)
    misses = asked & ~geometry.touches_image(records.boxes, size)
    near, far = records.boxes[:, :2], records.boxes[:, :2] + records.boxes[:, 2:]
    reaching_out = asked & ~misses & ((near < -1) | (far > size + 1)).any(axis=1)
    damage = []
    for person in np.flatnonzero(misses).tolist():
        width, height = size[person].tolist()
        box = records.boxes[person].round(2).tolist()
        reason = f"the box {box} lies outside the picture of {width} x {height} px; correct or delete the annotation"
        item = f"annotation {records.annotation_ids[person]}"
        damage.append(Damage(BOX_OUTSIDE, records.path(person), item, reason))
    return damage, int(reaching_out.sum())


def _warnings(lists: dict[str, list], sides: Sequence[SideCheck]) -> Iterator[str]:
    whole, twice, repeated = (lists[name] for name in ("damaged_but_whole", "duplicate_persons", "repeated_pictures"))
    if whole:
        path, reason = whole[0]
        yield f"pictures that are damaged but used: {len(whole):,}, such as {path}: {reason}"
    if twice:
        yield f"persons annotated twice, same box and joints: {len(twice):,}, such as annotation {twice[0][1]}"
    if repeated:
        yield f"pictures that are there twice: {len(repeated):,}, such as {repeated[0][0]} and {repeated[0][1]}"
    yield from (f"left and right: {check.sentence()}" for check in sides if check.suspicious)


def _refusals(report: Report, records: Records, config: Config) -> Iterator[str]:
    """Why training would not take the set."""
    if not len(records):
        yield "no person passes the filters; lower min_joints or min_size"
    try:
        report.enforce(config.data.max_bad_fraction)
    except DataError as error:
        yield f"training refuses the set: {error}"


def _repeated_pictures(records: Records, rows: np.ndarray, scan: Scan) -> Iterator[tuple[str, str]]:
    """Pictures of one set that have the bytes of an earlier one."""
    seen: dict[object, int] = {}
    for row, place in enumerate(rows.tolist()):
        first = seen.setdefault(_identity(scan, place), row)
        if first != row:
            yield records.picture(first), records.picture(row)


def _identity(scan: Scan, place: int) -> object:
    """Equal for files of equal content; a file that could not be read is only itself."""
    return place if place in scan.errors else scan.digest(place)


def shared_pictures(sets: Sequence[MappedSet], jobs: Sequence[np.ndarray], scan: Scan) -> Iterator[SharedPictures]:
    """Pictures with persons that two sets have in common, training and validation sets first."""
    tables = []
    for part, rows in zip(sets, jobs):
        shown = np.unique(part.read.records.image_index).tolist() if part.read else []
        tables.append({_identity(scan, int(rows[row])): part.read.records.picture(row) for row in shown})
    pairs = [(one, other) for one in range(len(sets)) for other in range(one + 1, len(sets))]
    for one, other in sorted(pairs, key=lambda pair: sets[pair[0]].part == sets[pair[1]].part):
        common = [identity for identity in tables[one] if identity in tables[other]]
        if common:
            names = tuple((tables[one][identity], tables[other][identity]) for identity in common)
            leak = sets[one].part != sets[other].part
            yield SharedPictures(sets[one].title, sets[other].title, leak, names)


def _training_would_stop(sets: Sequence[CheckedSet], config: Config) -> Iterator[str]:
    """The loader's rule for pictures that cannot be read."""
    training = [checked for checked in sets if checked.set.part == "train" and checked.set.records is not None]
    persons = sum(len(checked.set.records) for checked in training)
    bad = set()
    for checked in training:
        records = checked.set.records
        bad.update(records.path(person) for person in np.flatnonzero(~checked.usable[records.image_index]))
        bad.update(os.fspath(item.file) for item in checked.damage if item.kind == BOX_OUTSIDE)
    limit = config.data.max_bad_fraction * persons
    if config.data.max_bad_fraction <= MAX_BAD_FRACTION:
        limit = min(limit, MAX_BAD_ITEMS)
    if len(bad) > limit:
        yield (
            f"training would stop: {len(bad):,} pictures with persons cannot be used, at most {int(limit):,} are "
            f"skipped for {persons:,} persons; repair them, or raise data.max_bad_fraction"
        )
