"""Reading a pack: its records, its pictures, its order of samples, and whether it is still what was written."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from msposenet.config import Config, Source
from msposenet.data.images import MAX_SIDE, OnWarning, decode_image
from msposenet.data.merging import weights_of
from msposenet.data.pack_form import (
    AGAIN,
    PEOPLE,
    PLACES,
    RECORDS,
    Digest,
    PackTable,
    SourceEntry,
    file_digest,
    read_arrays,
    read_table,
    shard_file,
)
from msposenet.data.patches import PatchSettings
from msposenet.data.pictures import View
from msposenet.data.recordio import unframe, without_header
from msposenet.data.records import SHOWN, Origin, Records, Tally
from msposenet.data.sampling import SampleOrder
from msposenet.errors import ConfigError, DataError, ImageError
from msposenet.progress import Say, silent
from msposenet.skeletons import Skeleton
from msposenet.storage import open_input

_MAX_OPEN = 256  # shard files that one process keeps open
_DECIDING = ("format", "pictures", "joints", "boxes", "box_margin", "min_joints", "min_size")


@dataclass(frozen=True)
class Pack:
    """An opened pack. Its instances are in stored order, shard after shard."""

    folder: Path
    table: PackTable
    records: Records
    pictures: PackedPictures

    def order(self, seed: int) -> SampleOrder:
        """The order of samples of a run with `seed`: at random over the shards, sequential within each."""
        sampling = [origin.sampling for origin in self.records.origins]
        return SampleOrder(seed, self.records.origin_index, sampling, shards=self.pictures.shards)


def open_pack(folder: Path, config: Config, say: Say = silent) -> Pack:
    """The pack in `folder`, to train as `config` says; `say` is told what it holds.

    The weights of sets and joints are the configuration's, and may differ from when it was packed. Raises DataError
    for a damaged pack, ConfigError naming the key for a configuration that it was not made for. The shards' content is
    not read here: see `verify_pack`; a damaged record is an ImageError when its turn comes.
    """
    folder = Path(folder)
    table, arrays = read_pack(folder)
    table.settings.refuse_beyond(PatchSettings.of(config), str(folder))
    skeleton = _skeleton(table, config, folder)
    sources = _match_sources(table, config, folder, say)
    records = replace(
        _records(table, arrays, folder),
        skeleton=skeleton,
        origins=tuple(Origin(source.title, weights_of(source, skeleton), source.weight) for source in sources),
    )
    skipped = table.skipped.persons
    say(
        f"{folder}: pack of {', '.join(source.title for source in sources)}: {len(records):,} instances in "
        f"{len(table.shards):,} shards" + (f"; {skipped:,} on damaged pictures were left out" if skipped else "")
    )
    return Pack(folder, table, records, PackedPictures(folder, table, records, arrays))


def read_pack(folder: Path) -> tuple[PackTable, dict[str, np.ndarray]]:
    """Table and columns of a pack whose files are all there with their sizes. Raises DataError and StorageError."""
    table = read_table(folder)
    for number, shard in enumerate(table.shards):
        for kind, digest in (("rec", shard.rec), ("idx", shard.idx)):
            path = folder / shard_file(number, kind)
            with open_input(path, DataError) as file:
                size = os.fstat(file.fileno()).st_size
            if size != digest.size:
                raise DataError(f"{path}: {size:,} bytes, it must be {digest.size:,}; copy the pack again or {AGAIN}")
    path = folder / PEOPLE
    with open_input(path, DataError) as file:
        data = file.read(table.people.size + 1)
    if hashlib.sha256(data).hexdigest() != table.people.sha256:
        raise DataError(f"{path}: is not what was packed (its SHA-256 differs); copy the pack again or {AGAIN}")
    arrays = read_arrays(data, {**RECORDS, **PLACES}, path)
    _check_columns(table, arrays, path)
    return table, arrays


def _records(table: PackTable, arrays: dict[str, np.ndarray], folder: Path) -> Records:
    records = Records(
        skeleton=table.skeleton.build(),
        **{name: arrays[name] for name in RECORDS},
        origins=tuple(Origin(source.title, (1.0,) * len(table.skeleton.joints)) for source in table.sources),
    )
    try:
        records.check()
    except DataError as error:
        raise DataError(f"{folder / PEOPLE}: {error}; {AGAIN}") from None
    return records


def _check_columns(table: PackTable, arrays: dict[str, np.ndarray], path: Path) -> None:
    """DataError where a column does not fit the table: then no index that is read leads out of a file."""
    count = table.instances
    if not count or not table.sources:
        raise DataError(f"{path}: the pack holds no person; {AGAIN}")
    for name in ("image_index", "origin_index", *PLACES):
        shape = (count, 2) if name == "corners" else (count,)
        if arrays[name].shape != shape:
            raise DataError(f"{path}: {name} is of shape {arrays[name].shape}, {shape} wanted; {AGAIN}")
    sizes, index = arrays["image_sizes"], arrays["image_index"]
    if sizes.ndim != 2 or sizes.shape[1] != 2 or ((index < 0) | (index >= len(sizes))).any():
        raise DataError(f"{path}: image_index leads out of the image table; {AGAIN}")
    sizes = sizes[index]
    shards = np.repeat(np.arange(len(table.shards)), [shard.instances for shard in table.shards])
    ends = np.array([shard.rec.size for shard in table.shards])[shards]
    origins = np.array([shard.origin for shard in table.shards])[shards]
    offsets, lengths, factors, corners = (arrays[name] for name in ("offsets", "lengths", "factors", "corners"))
    wrong = {
        "offsets": (offsets < 0) | (lengths <= 0) | (offsets > ends - lengths),
        "factors": ~((factors >= 1) & (factors <= MAX_SIDE)),  # NaN too
        "image_sizes": ((sizes < 1) | (sizes > MAX_SIDE)).any(axis=1),
        "corners": ((corners < 0) | (corners >= sizes)).any(axis=1),
        "origin_index": (arrays["origin_index"] != origins) | (origins >= len(table.sources)),
    }
    for name, bad in wrong.items():
        if bad.any():
            raise DataError(f"{path}: {name} of {bad.sum():,} instances do not fit, first {bad.argmax()}; {AGAIN}")


def _skeleton(table: PackTable, config: Config, folder: Path) -> Skeleton:
    packed, wanted = table.skeleton.build(), config.fixed_skeleton()
    if wanted is None:
        return packed
    for name in ("joints", "flip_pairs", "upper"):
        if getattr(wanted, name) != getattr(packed, name):
            raise ConfigError(
                f"{folder}: data.skeleton is {wanted.name!r} with {name} {list(getattr(wanted, name))}, the pack was "
                f"made for {packed.name!r} with {list(getattr(packed, name))}; make a pack for this configuration"
            )
    return wanted


def _match_sources(table: PackTable, config: Config, folder: Path, say: Say) -> list[Source]:
    """The configured sets in the pack's order; ConfigError where they are not those that were packed."""
    configured = {source.title: source for source in config.data.train}
    packed = [entry.title for entry in table.sources]
    if sorted(configured) != sorted(packed):
        raise ConfigError(
            f"{folder}: data.train names the sets {sorted(configured)}, the pack holds {sorted(packed)}; make a pack "
            "for this configuration, or configure the same sets"
        )
    for entry in table.sources:
        source = configured[entry.title]
        if not source.annotations.exists():
            say(f"{folder}: {source.annotations} is not here, so it was not compared with what was packed")
            found = entry
        else:
            found = SourceEntry.of(source)
        for name in (*_DECIDING, "sha256"):
            if getattr(found, name) != getattr(entry, name):
                key = f"the SHA-256 of {source.annotations}" if name == "sha256" else f"{entry.title}: {name}"
                raise ConfigError(
                    f"{folder}: {key} is {getattr(found, name)!r}, packed was {getattr(entry, name)!r}; make a pack "
                    "for this configuration, or leave data.pack out"
                )
    return [configured[title] for title in packed]


class PackedPictures:
    """The patches of a pack as pictures. Processes forked from one another may share it."""

    def __init__(self, folder: Path, table: PackTable, records: Records, arrays: dict[str, np.ndarray]) -> None:
        self._open: dict[int, int] = {}  # descriptors by shard
        self._folder, self._records = folder, records
        self._places = [arrays[name] for name in ("offsets", "lengths", "crcs", "corners", "factors")]
        counts = [shard.instances for shard in table.shards]
        self._ends = np.cumsum(counts)
        #: Rows (n,) of each shard in stored order.
        self.shards = np.split(np.arange(len(records)), self._ends[:-1])

    def open(self, index: int, on_warning: OnWarning | None = None) -> PackedPicture:
        """The picture of instance `index`, as far as its patch shows it. Raises ImageError."""
        offset, length, crc, corner, factor = (column[index] for column in self._places)
        shard = int(np.searchsorted(self._ends, index, side="right"))
        name = f"{self._folder / shard_file(shard, 'rec')}: instance {index}"
        try:
            record = os.pread(self._descriptor(shard), int(length), int(offset))
        except OSError as error:
            raise ImageError(f"{name}: cannot be read ({error.strerror}); see the disk") from error
        if len(record) != length or zlib.crc32(record) != crc:
            what = "cut off" if len(record) != length else "damaged (its CRC-32 does not fit)"
            raise ImageError(
                f"{name} (annotation {self._records.annotation_ids[index]} of {self._records.path(index)}): the record "
                f"is {what}; copy the pack again or {AGAIN}"
            )
        row = self._records.image_index[index]
        size_wh = tuple(self._records.image_sizes[row].tolist())
        return PackedPicture(record, name, size_wh, corner, float(factor))

    def close(self) -> None:
        """Close the shards; the next reading opens them again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        self.close()

    def _descriptor(self, shard: int) -> int:
        if shard not in self._open:
            if len(self._open) >= _MAX_OPEN:
                self.close()
            self._open[shard] = os.open(self._folder / shard_file(shard, "rec"), os.O_RDONLY)
        return self._open[shard]


class PackedPicture:
    """A picture of which only a person's patch is there. Outside it is black."""

    def __init__(self, record: bytes, name: str, size_wh: tuple[int, int], corner: np.ndarray, factor: float) -> None:
        self.size_wh = size_wh
        self._record, self._name, self._corner, self._factor = record, name, tuple(corner.tolist()), factor

    def view(self, px_per_crop_px: float) -> View:
        """The patch; it is as fine as it was packed."""
        try:
            _, _, encoded = without_header(unframe(self._record, self._name)[0], self._name)
        except ImageError:
            raise
        except DataError as error:
            raise ImageError(str(error)) from None
        return View.reduced(decode_image(encoded, self._name), self._factor, self._corner)


def verify_pack(folder: Path, advance: Callable[[int, int], None] = lambda done, total: None) -> PackTable:
    """Read all of the pack in `folder`; DataError names the files that are not what was written and their persons."""
    folder = Path(folder)
    table, arrays = read_pack(folder)
    records = _records(table, arrays, folder)
    pictures = PackedPictures(folder, table, records, arrays)
    damage = []
    for number, shard in enumerate(table.shards):
        for kind, digest in (("rec", shard.rec), ("idx", shard.idx)):
            path = folder / shard_file(number, kind)
            if Digest.of(file_digest(path)) == digest:
                continue
            lost = [row for row in pictures.shards[number].tolist() if kind == "rec" and _is_lost(pictures, row)]
            named = Tally.of(f"{row}: annotation {records.annotation_ids[row]} of {records.path(row)}" for row in lost)
            damage.append(f"{path}: its SHA-256 differs, instances damaged: {named}")
        advance(number + 1, len(table.shards))
    pictures.close()
    if damage:
        more = f"; and {len(damage) - SHOWN} more files" if len(damage) > SHOWN else ""
        raise DataError(f"{'; '.join(damage[:SHOWN])}{more}; copy the pack again or {AGAIN}")
    return table


def _is_lost(pictures: PackedPictures, row: int) -> bool:
    try:
        pictures.open(row)
    except ImageError:
        return True
    return False
