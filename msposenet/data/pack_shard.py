"""One shard of a pack: which persons it holds, its files written, and what is known of it afterwards."""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

import numpy as np

from msposenet.data.images import OnWarning
from msposenet.data.pack_form import PLACES, arrays_bytes, read_arrays, shard_file
from msposenet.data.patches import PatchSettings, crops_of, cut_patch, encode, reach, reduction
from msposenet.data.pictures import FilePictures, View
from msposenet.data.recordio import frame, index_lines, with_header
from msposenet.data.records import Records
from msposenet.errors import DataError, ImageError
from msposenet.storage import (
    TEMP_PREFIX,
    FileDigest,
    open_input,
    storage_error,
    write_bytes_atomic,
    write_chunks_atomic,
)

PART = "part.npz"  # kind of the file that says that a shard is finished, until the pack is

_SEED = 0  # of the stored order; each epoch's order is drawn from it by the run's own seed
_IN_MEMORY = 1 << 28  # bytes of patches that wait in memory for their turn; more of them wait on the disk
_COLUMNS = {"rows": "<i8", **PLACES, "sizes": "<i4"}
_PAIRS = ("corners", "sizes")


def assign_shards(records: Records, count: int) -> list[np.ndarray]:
    """Rows of each of about `count` shards: all of one set, the persons of a picture together, pictures drawn by lot.

    Every instance is in exactly one shard and no shard is empty. The order within a shard is a permutation too.
    """
    shards = []
    for origin in range(len(records.origins)):
        rows = np.flatnonzero(records.origin_index == origin)
        if not len(rows):
            continue
        rng = np.random.default_rng([_SEED, origin])
        lot = rng.permutation(len(records.image_paths))[records.image_index[rows]]
        rows = rows[np.argsort(lot, kind="stable")]
        begins = np.flatnonzero(np.diff(np.sort(lot), prepend=-1))  # of the persons of each picture
        own = max(1, round(count * len(rows) / len(records)))
        wanted = np.arange(1, own) * len(rows) / own
        cuts = begins[np.minimum(np.searchsorted(begins, wanted), len(begins) - 1)]
        shards += [rng.permutation(part) for part in np.split(rows, np.unique(cuts[cuts > 0]))]
    return shards


@dataclass
class Findings:
    """Damaged pictures met, by path, with what is wrong; `repaired` ones were used. `skipped` persons are left out."""

    damaged: dict[str, str] = field(default_factory=dict)
    repaired: dict[str, str] = field(default_factory=dict)
    skipped: int = 0

    def add(self, other: Findings) -> None:
        """Count what `other` found too."""
        self.damaged.update(other.damaged)
        self.repaired.update(other.repaired)
        self.skipped += other.skipped


Judge = Callable[[Findings], None]  # raises DataError when the damage is too much


@dataclass(frozen=True)
class ShardPart:
    """A finished shard.

    columns, each (n, ...) in stored order: `rows` in the records that are packed, those of PLACES, and `sizes`, width
    and height of the pictures.
    """

    columns: dict[str, np.ndarray]
    rec: FileDigest
    idx: FileDigest
    findings: Findings

    def write(self, path: Path) -> None:
        """Write it to `path`: that is what makes a shard finished. Raises StorageError."""
        told = {"rec": self.rec._asdict(), "idx": self.idx._asdict(), "findings": asdict(self.findings)}
        notes = np.frombuffer(json.dumps(told).encode("ascii"), np.uint8)
        write_bytes_atomic(path, arrays_bytes({**self.columns, "notes": notes}))

    @classmethod
    def read(cls, path: Path) -> ShardPart:
        """Raises DataError for a damaged file and StorageError."""
        with open_input(path, DataError) as file:
            columns = read_arrays(file.read(), {**_COLUMNS, "notes": "|u1"}, path)
        try:
            told = json.loads(columns.pop("notes").tobytes())
            rec, idx = (FileDigest(**told[name]) for name in ("rec", "idx"))
            return cls(columns, rec, idx, Findings(**told["findings"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: is of another version ({error}); delete it") from None


class PatchMaker:
    """Makes the records of a pack's shards."""

    def __init__(self, records: Records, settings: PatchSettings) -> None:
        self.records, self.settings = records, settings
        self._pictures = FilePictures(records, keep=True)  # the persons of a picture come one after another
        self._centers, self._sizes = crops_of(records.boxes, settings)

    def make(self, row: int, on_warning: OnWarning) -> tuple[bytes, dict[str, Any]]:
        """The record of an instance and its columns, but for the offset. Raises ImageError."""
        records, settings = self.records, self.settings
        picture = self._pictures.open(row, on_warning)
        size, keypoints = self._sizes[row], records.keypoints[row]
        corners = reach(self._centers[row], size, keypoints, records.skeleton, settings)
        patch = cut_patch(picture.view(1.0).pixels, corners, reduction(size, settings))
        labels = _labels(records.boxes[row], keypoints, View.reduced(*patch))
        encoded = encode(patch.pixels, settings.quality)
        record = frame(with_header(labels, int(records.annotation_ids[row]), encoded))
        return record, {
            "rows": row,
            "lengths": len(record),
            "crcs": zlib.crc32(record),
            "corners": patch.corner,
            "factors": patch.factor,
            "sizes": picture.size_wh,
        }


def _labels(box: np.ndarray, keypoints: np.ndarray, view: View) -> np.ndarray:
    """Box x, y, w, h, then x, y, visibility of each joint, in patch px: for programs that read the shards alone."""
    box = np.concatenate([(box[:2] - view.origin) / view.factor, box[2:] / view.factor])
    moved = keypoints.copy()
    moved[:, :2] = (keypoints[:, :2] - view.origin) / view.factor * (keypoints[:, 2:] > 0)
    return np.concatenate([box, moved.ravel()]).astype(np.float32)


def write_shard(
    folder: Path,
    number: int,
    order: np.ndarray,
    maker: PatchMaker,
    judge: Judge,
    advance: Callable[[int], None] = lambda done: None,
) -> ShardPart:
    """Write the patches of the instances `order` (n,) as shard `number`; persons on damaged pictures are left out.

    Every picture is decoded once. `judge` raises when the damage is too much. `advance` is told how many persons are
    done. Raises StorageError.
    """
    findings = Findings()
    made: list[tuple[int, dict[str, Any]]] = []  # place in the order, and columns
    by_picture = np.argsort(maker.records.image_index[order], kind="stable").tolist()
    with _spool(folder) as spool:
        for done, place in enumerate(by_picture, 1):
            row = int(order[place])
            try:
                record, known = maker.make(row, findings.repaired.__setitem__)
            except ImageError as error:
                findings.damaged[maker.records.path(row)] = str(error)
                findings.skipped += 1
                judge(findings)
            else:
                made.append((place, {**known, "offsets": spool.tell()}))
                spool.write(record)
            advance(done)
        made.sort(key=itemgetter(0))
        columns = {name: np.array([known[name] for _, known in made], kind) for name, kind in _COLUMNS.items()}
        rec = write_chunks_atomic(folder / shard_file(number, "rec"), _in_turn(spool, columns))
    lengths = columns["lengths"].astype(np.int64)
    columns["offsets"] = np.cumsum(lengths) - lengths
    for name in _PAIRS:
        columns[name] = columns[name].reshape(-1, 2)
    idx = write_chunks_atomic(folder / shard_file(number, "idx"), [index_lines(columns["offsets"])])
    part = ShardPart(columns, rec, idx, findings)
    part.write(folder / shard_file(number, PART))
    return part


@contextmanager
def _spool(folder: Path) -> Iterator[IO[bytes]]:
    """A file without a name for patches that wait for their turn, in memory while they are few."""
    try:
        with tempfile.SpooledTemporaryFile(_IN_MEMORY, prefix=TEMP_PREFIX, dir=folder) as file:
            yield file
    except OSError as error:
        raise storage_error(folder, "written to", error) from error


def _in_turn(spool: IO[bytes], columns: dict[str, np.ndarray]) -> Iterator[bytes]:
    for offset, length in zip(columns["offsets"].tolist(), columns["lengths"].tolist()):
        spool.seek(offset)
        yield spool.read(length)
