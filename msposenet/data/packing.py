"""Packing: the persons of a configuration's training sets as patches in shards, by worker processes.

A shard is finished when its `.part.npz` stands beside it; an interrupted packing finds these and writes only what is
missing. pack.json comes last: a folder that has it is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from msposenet.config import Config, SkeletonConfig
from msposenet.data.pack_form import (
    PEOPLE,
    PLACES,
    RECORDS,
    TABLE,
    UNFINISHED,
    Digest,
    PackTable,
    ShardEntry,
    Skipped,
    SourceEntry,
    arrays_bytes,
    file_digest,
    read_table,
    shard_file,
    table_bytes,
)
from msposenet.data.pack_shard import PART, Findings, Judge, PatchMaker, ShardPart, assign_shards
from msposenet.data.pack_workers import write_shards
from msposenet.data.patches import OVERSAMPLE, PatchSettings
from msposenet.data.records import MAX_BAD_FRACTION, MAX_BAD_ITEMS, SHOWN, Records
from msposenet.errors import ConfigError, DataError, ImageError, PoseError
from msposenet.progress import Reporter
from msposenet.storage import (
    TEMP_PREFIX,
    make_folder,
    probe_writable,
    remove_quietly,
    storage_error,
    write_bytes_atomic,
    write_chunks_atomic,
)

MAX_SHARDS = 4096

_PER_SHARD = 2000  # instances; the default number of shards is bounded, so shards of large sets hold more
_DEFAULT_SHARDS = (8, 256)
_TRIED = 24  # patches made to estimate the size of the pack


@dataclass(frozen=True)
class PackReport:
    """What a packing did. `kept` shards were found finished."""

    folder: Path
    table: PackTable
    kept: int
    repaired: int  # pictures that are damaged but whole

    @property
    def size(self) -> int:
        """Bytes of all shards."""
        return sum(shard.rec.size for shard in self.table.shards)

    def as_dict(self) -> dict[str, Any]:
        """The figures, for JSON."""
        skipped = self.table.skipped.model_dump(mode="json")
        return {
            "pack": str(self.folder),
            "instances": self.table.instances,
            "shards": len(self.table.shards),
            "shards_kept": self.kept,
            "bytes": self.size,
            "skipped": skipped,
            "repaired_pictures": self.repaired,
        }

    def lines(self) -> list[str]:
        """The report for people to read, the summary first."""
        table = self.table
        mean = self.size / max(1, table.instances) / 1e3
        lines = [
            f"{self.folder}: {table.instances:,} persons in {len(table.shards):,} shards, {self.size / 1e6:,.1f} MB, "
            f"{mean:.1f} KB a person" + (f"; {self.kept:,} shards were there already" if self.kept else "")
        ]
        skipped = table.skipped
        if skipped.persons:
            lines.append(f"  skipped as damaged: {skipped.persons:,} persons on {skipped.pictures:,} pictures:")
            lines += [f"    {reason}" for reason in skipped.first]
        if self.repaired:
            lines.append(f"  note: {self.repaired:,} pictures are damaged but whole, and were used")
        return lines


def write_pack(
    records: Records,
    config: Config,
    folder: Path,
    shards: int | None = None,
    quality: int = 95,
    oversample: float = OVERSAMPLE,
    workers: int = 2,
    reporter: Reporter | None = None,
) -> PackReport:
    """Pack `records`, which are data.train of `config`, into `folder`; goes on where an earlier call was interrupted.

    quality: of the JPEG, 0 for PNG. oversample: patch px kept for each px of the crop. workers 0 packs in this process.
    Raises ConfigError when the folder holds anything else, DataError for more damage than data.max_bad_fraction
    allows, StorageError, and LoaderError when a worker is lost.
    """
    reporter = reporter or Reporter(quiet=True)
    if not len(records):
        raise DataError("the training set holds no usable person; check its annotations and filters")
    settings = PatchSettings.of(config, quality, oversample)
    sources = tuple(SourceEntry.of(source) for source in config.data.train)
    _check_sources(records, sources)
    orders = assign_shards(records, shards or default_shards(len(records)))
    fingerprint = _fingerprint(records, settings, sources, len(orders))
    folder = make_folder(folder)
    judge = _judge(len(records), config.data.max_bad_fraction)
    with _locked(folder):
        if (folder / TABLE).exists():
            return _complete(folder, fingerprint)
        _start(folder, fingerprint)
        try:
            parts = _finished(folder, len(orders))
            kept = len(parts)
            if kept:
                reporter.say(f"{folder}: {kept:,} of {len(orders):,} shards are finished already")
            findings = _write(records, settings, folder, orders, parts, judge, workers, reporter)
            table = _finish(folder, records, orders, parts, findings, settings, sources, fingerprint)
        finally:
            _clear(folder, f"{TEMP_PREFIX}*")  # of a worker that was ended here, or killed earlier
    return PackReport(folder, table, kept, len(findings.repaired))


def _write(
    records: Records,
    settings: PatchSettings,
    folder: Path,
    orders: list[np.ndarray],
    parts: dict[int, ShardPart],
    judge: Judge,
    workers: int,
    reporter: Reporter,
) -> Findings:
    """Write the shards that `parts` lacks, put them there, and return what was found in all pictures."""
    findings = Findings()
    for part in parts.values():
        findings.add(part.findings)
    maker = PatchMaker(records, settings)
    missing = {number: order for number, order in enumerate(orders) if number not in parts}
    probe_writable(folder, _bytes_needed(maker, missing))
    done = {number: len(orders[number]) for number in parts}
    steps = write_shards(folder, missing, maker, judge, workers)  # forks before the progress bar has its thread
    with reporter.task("packing") as advance:
        for number, persons, part in steps:
            done[number] = persons
            advance(sum(done.values()), len(records))
            if part is not None:
                parts[number] = part
                findings.add(part.findings)
                judge(findings)
    return findings


def default_shards(instances: int) -> int:
    """Shards of about 2,000 instances, but neither few, for the shuffle's sake, nor more files than a process opens."""
    low, high = _DEFAULT_SHARDS
    return min(max(low, instances // _PER_SHARD), high)


def _check_sources(records: Records, sources: tuple[SourceEntry, ...]) -> None:
    packed, configured = [origin.name for origin in records.origins], [source.title for source in sources]
    if packed != configured:
        raise ConfigError(
            f"data.train names the sets {configured}, the records are of {packed}; pack what is configured"
        )


def _fingerprint(records: Records, settings: PatchSettings, sources: tuple[SourceEntry, ...], shards: int) -> str:
    """SHA-256 of all that decides what the pack holds, but for the pictures."""
    sha = hashlib.sha256(f"{settings!r} {sources!r} {SkeletonConfig.of(records.skeleton)!r} {shards}".encode())
    for name in RECORDS:
        column = getattr(records, name)
        sha.update(f"{name} {column.dtype} {column.shape}".encode())
        sha.update(column.tobytes())
    return sha.hexdigest()


def _judge(instances: int, max_bad_fraction: float) -> Judge:
    """As the loader judges: damaged pictures against persons, and never more than 100 at the default fraction."""
    limit = max_bad_fraction * instances
    if max_bad_fraction <= MAX_BAD_FRACTION:
        limit = min(limit, MAX_BAD_ITEMS)

    def judge(findings: Findings) -> None:
        if len(findings.damaged) > limit:
            shown = "; ".join(list(findings.damaged.values())[:SHOWN])
            raise DataError(
                f"{len(findings.damaged)} pictures of the {instances} persons cannot be read ({shown}); repair them, "
                "or raise data.max_bad_fraction to leave them out, and give the same command again"
            )

    return judge


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder for this process alone. Raises ConfigError when another has it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise storage_error(folder, "opened", error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{folder}: another process packs there; wait for it, or choose another folder") from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


def _clear(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        remove_quietly(path)


def _tidy(folder: Path) -> None:
    """Remove what only an unfinished pack needs."""
    _clear(folder, f"*.{PART}")
    remove_quietly(folder / UNFINISHED)


def _complete(folder: Path, fingerprint: str) -> PackReport:
    table = read_table(folder)
    if table.fingerprint != fingerprint:
        raise ConfigError(f"{folder}: holds a pack of other data or settings; choose another folder, or delete it")
    _tidy(folder)
    return PackReport(folder, table, len(table.shards), 0)


def _start(folder: Path, fingerprint: str) -> None:
    """See that the folder is empty, or holds the beginning of this very pack."""
    try:
        there = (folder / UNFINISHED).read_text("ascii", "replace")
    except FileNotFoundError:
        if any(not path.name.startswith(TEMP_PREFIX) for path in folder.iterdir()):
            raise ConfigError(f"{folder}: is not empty and holds no pack; choose another folder") from None
        write_bytes_atomic(folder / UNFINISHED, fingerprint.encode("ascii"))
        return
    except OSError as error:
        raise storage_error(folder / UNFINISHED, "read", error) from error
    if there != fingerprint:
        raise ConfigError(
            f"{folder}: holds the beginning of a pack of other data or settings; choose another folder, or delete it"
        )


def _finished(folder: Path, count: int) -> dict[int, ShardPart]:
    """The shards that were written whole. One that lacks persons is written again: their pictures may be repaired."""
    parts = {}
    for number in range(count):
        try:
            part = ShardPart.read(folder / shard_file(number, PART))
            found = [file_digest(folder / shard_file(number, kind)) for kind in ("rec", "idx")]
        except PoseError:
            continue
        if found == [part.rec, part.idx] and not part.findings.skipped:
            parts[number] = part
    return parts


def _bytes_needed(maker: PatchMaker, missing: dict[int, np.ndarray]) -> int:
    """Size that the missing shards will about have, by a few patches of each kind."""
    rows = np.concatenate([*missing.values(), np.zeros(0, np.int64)])
    sizes = []
    for row in rows[:: max(1, len(rows) // _TRIED)].tolist():
        with contextlib.suppress(ImageError):
            sizes.append(len(maker.make(row, lambda name, reason: None)[0]))
    columns = sum(getattr(maker.records, name).nbytes for name in RECORDS)
    return int(len(rows) * np.mean(sizes or [0]) * 1.1) + 3 * columns


def _finish(
    folder: Path,
    records: Records,
    orders: list[np.ndarray],
    parts: dict[int, ShardPart],
    findings: Findings,
    settings: PatchSettings,
    sources: tuple[SourceEntry, ...],
    fingerprint: str,
) -> PackTable:
    """Write people.npz, then pack.json, then remove what only an unfinished pack needs."""
    columns = {
        name: np.concatenate([parts[number].columns[name] for number in range(len(orders))])
        for name in ("rows", "sizes", *PLACES)
    }
    packed = records.select(columns["rows"])
    if not len(packed):
        raise DataError("no picture can be read, so the pack would be empty; repair them and pack again")
    sizes = records.image_sizes.copy()
    sizes[packed.image_index] = columns["sizes"]
    arrays = {name: getattr(packed, name) for name in RECORDS}
    arrays.update(image_sizes=sizes, **{name: columns[name] for name in PLACES})
    people = write_chunks_atomic(folder / PEOPLE, [arrays_bytes(arrays)])
    table = PackTable(
        fingerprint=fingerprint,
        settings=settings,
        skeleton=SkeletonConfig.of(records.skeleton),
        sources=sources,
        skipped=Skipped(
            persons=findings.skipped,
            pictures=len(findings.damaged),
            first=tuple(sorted(findings.damaged.values())[:SHOWN]),
        ),
        people=Digest.of(people),
        shards=tuple(
            ShardEntry(
                origin=int(records.origin_index[order[0]]),
                instances=len(parts[number].columns["rows"]),
                rec=Digest.of(parts[number].rec),
                idx=Digest.of(parts[number].idx),
            )
            for number, order in enumerate(orders)
        ),
    )
    write_bytes_atomic(folder / TABLE, table_bytes(table))
    _tidy(folder)
    return table
