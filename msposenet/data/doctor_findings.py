"""What checking the sets of a configuration found, for people and for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from msposenet.config import Source
from msposenet.data.doctor_statistics import JointCount, SideCheck, joints_outside, labelled_joints, person_sizes
from msposenet.data.merging import SourceRecords
from msposenet.data.records import Records
from msposenet.data.unify import JointMap
from msposenet.skeletons import Skeleton


@dataclass(frozen=True)
class Damage:
    """An item that training would have to leave out; `count` above 1 where a reader named only the first ones."""

    kind: str
    file: str
    item: str  # empty: the whole file
    reason: str
    count: int = 1


@dataclass(frozen=True)
class MappedSet:
    """One configured set as it was read and mapped, before its pictures are looked at. Refused: only `error`."""

    part: str  # train or val
    source: Source
    error: str = ""
    read: SourceRecords | None = None
    found: JointMap | None = None
    records: Records | None = None  # with the target's joints, filtered as training does
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.part}: {self.source.title}"

    @property
    def paths(self) -> list[bytes]:
        return [] if self.read is None else self.read.records.image_paths.tolist()


@dataclass(frozen=True)
class CheckedSet:
    """One configured set, and all that was found."""

    set: MappedSet
    damage: tuple[Damage, ...]
    warnings: tuple[str, ...]
    usable: np.ndarray  # (I,) pictures that can be read and are of the annotated size
    figures: dict[str, Any] = field(default_factory=dict)  # for JSON; empty where the annotations were refused
    lists: dict[str, Any] = field(default_factory=dict)  # for JSON, as long as there are items
    joints: tuple[JointCount, ...] = ()
    sides: tuple[SideCheck, ...] = ()

    @property
    def damaged(self) -> int:
        return sum(item.count for item in self.damage)

    def damage_kinds(self) -> dict[str, int]:
        """How many items of each kind, in order of appearance."""
        kinds: dict[str, int] = {}
        for item in self.damage:
            kinds[item.kind] = kinds.get(item.kind, 0) + item.count
        return kinds

    def as_dict(self, items: bool) -> dict[str, Any]:
        """For JSON; damaged items and the like one by one only on demand."""
        source = self.set.source
        return {
            "part": self.set.part,
            "name": source.title,
            "format": source.format,
            "annotations": str(source.annotations),
            "images": str(source.images),
            "damaged": self.damaged,
            "damage_kinds": self.damage_kinds(),
            "warnings": list(self.warnings),
            **self.figures,
            **({**self.lists, "damage": [asdict(item) for item in self.damage]} if items else {}),
        }


@dataclass(frozen=True)
class SharedPictures:
    """Pictures with persons that are in two sets, by their path or by their content."""

    first: str
    second: str
    leak: bool  # one trains, the other validates
    pairs: tuple[tuple[str, str], ...]  # paths

    def sentence(self) -> str:
        """The finding and what it means."""
        same_file = sum(one == other for one, other in self.pairs)
        how = f"{same_file:,} by path, {len(self.pairs) - same_file:,} as copies"
        text = (
            f"pictures with persons in both '{self.first}' and '{self.second}': {len(self.pairs):,} ({how}), such as "
        )
        text += self.pairs[0][1]
        return text + ("; scores on them say nothing about new pictures" if self.leak else "")


@dataclass(frozen=True)
class Diagnosis:
    """All that was found in a configuration."""

    skeleton: Skeleton | None  # of training; None when no annotation file could be read
    sets: tuple[CheckedSet, ...]
    shared: tuple[SharedPictures, ...]
    warnings: tuple[str, ...]  # about the sets together

    @property
    def damaged(self) -> int:
        return sum(checked.damaged for checked in self.sets)

    @property
    def warned(self) -> int:
        return len(self.warnings) + sum(len(checked.warnings) for checked in self.sets)

    def as_dict(self, items: bool) -> dict[str, Any]:
        """For JSON; damaged items, shared pictures and the like one by one only on demand."""
        shared = []
        for each in self.shared:
            shared.append({"first": each.first, "second": each.second, "leak": each.leak, "pictures": len(each.pairs)})
            if items:
                shared[-1]["pairs"] = [list(pair) for pair in each.pairs]
        skeleton = {"name": self.skeleton.name, "joints": list(self.skeleton.joints)} if self.skeleton else None
        return {
            "damaged": self.damaged,
            "warned": self.warned,
            "warnings": list(self.warnings),
            "skeleton": skeleton,
            "shared_pictures": shared,
            "sets": [checked.as_dict(items) for checked in self.sets],
        }


def figures_of(
    records: Records, sizes: np.ndarray, joints: Sequence[JointCount], sides: Sequence[SideCheck]
) -> dict[str, Any]:
    """Statistics for JSON of the persons that train; sizes (I, 2) of the pictures in px, 0 where not known."""
    persons = max(1, len(records))
    histogram, percentiles = person_sizes(records)
    labelled, outside = sum(joint.labelled for joint in joints), int(joints_outside(records, sizes).sum())
    return {
        "joints": [
            {**asdict(joint), "labelled": joint.labelled, "labelled_share": round(joint.labelled / persons, 4)}
            for joint in joints
        ],
        "joints_outside_picture": outside,
        "joints_outside_picture_share": round(outside / max(1, labelled), 6),
        "labelled_joints": list(labelled_joints(records).counts),
        "person_size_px": {
            **asdict(histogram),
            "percentiles": {str(at): round(value, 1) for at, value in percentiles.items()},
        },
        "sides": [{**asdict(check), "share": round(check.share, 4)} for check in sides],
    }
