"""What a pack's folder holds: pack.json, people.npz, and shard-00000.rec with its .idx for each shard.

pack.json names SHA-256 and size of every other file and ends with the SHA-256 of itself; people.npz holds the columns
of the records, in the order in which the shards store them, and where each patch lies. Nothing in it can run code.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Optional, Union

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from msposenet.config import SkeletonConfig, Source
from msposenet.data.patches import PatchSettings
from msposenet.errors import ConfigError, DataError
from msposenet.storage import FileDigest, PathLike, open_input

TABLE, PEOPLE = "pack.json", "people.npz"
UNFINISHED = "unfinished.txt"  # stands in the folder until pack.json does, and holds its fingerprint
FORMAT, VERSION = "msposenet pack", 1
AGAIN = "make the pack again"

RECORDS = {
    "image_paths": "S", "image_ids": "<i8", "image_sizes": "<i4", "image_index": "<i4", "annotation_ids": "<i8",
    "boxes": "<f8", "keypoints": "<f4", "areas": "<f4", "box_scores": "<f4", "origin_index": "|u1",
}  # fmt: skip
# Of each instance: where its record begins in the shard and how many bytes it takes there, their CRC-32, and the
# patch's first px and image px for each of its px.
PLACES = {"offsets": "<i8", "lengths": "<i4", "crcs": "<u4", "corners": "<i4", "factors": "<f4"}

_LARGEST_TABLE = 1 << 24  # bytes; a shard takes about 400
_CHUNK = 1 << 22
_Natural = Annotated[int, Field(ge=0, lt=1 << 53)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Digest(_Entry):
    """What a file must be."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: _Natural

    @classmethod
    def of(cls, digest: FileDigest) -> Digest:
        return cls(**digest._asdict())


class ShardEntry(_Entry):
    """A shard: instances of one set, in stored order."""

    origin: Annotated[int, Field(ge=0, le=255)]
    instances: _Natural
    rec: Digest
    idx: Digest


class SourceEntry(_Entry):
    """A set as it was packed: its file, and what decides which persons and joints come out of it."""

    title: str
    annotations: str
    sha256: str  # of the annotation file, or of all files of the folder
    format: str
    pictures: Optional[tuple[int, int]]
    joints: dict[str, Union[str, tuple[str, str], None]]
    boxes: str
    box_margin: float
    min_joints: int
    min_size: float

    @classmethod
    def of(cls, source: Source) -> SourceEntry:
        """The entry of a configured set; raises DataError and StorageError when its annotations cannot be read."""
        same = ("title", "format", "pictures", "joints", "boxes", "box_margin", "min_joints", "min_size")
        return cls(
            annotations=str(source.annotations),
            sha256=annotations_digest(source.annotations),
            **{name: getattr(source, name) for name in same},
        )


class Skipped(_Entry):
    """Persons that the pack lacks because their pictures are damaged."""

    persons: _Natural
    pictures: _Natural
    first: tuple[str, ...]  # what is wrong with the first few pictures


class PackTable(_Entry):
    """The content of pack.json. `fingerprint` stands for all that decides what the pack holds."""

    fingerprint: str
    settings: PatchSettings
    skeleton: SkeletonConfig
    sources: tuple[SourceEntry, ...]
    skipped: Skipped
    people: Digest
    shards: tuple[ShardEntry, ...]

    @property
    def instances(self) -> int:
        return sum(shard.instances for shard in self.shards)


def shard_file(number: int, kind: str) -> str:
    """Name of a shard's file; kind is "rec" or "idx"."""
    return f"shard-{number:05d}.{kind}"


def annotations_digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all .json files in a folder."""
    if not path.is_dir():
        return file_digest(path).sha256
    sha = hashlib.sha256()
    for part in sorted(path.glob("**/*.json")):
        sha.update(f"{part.relative_to(path)}\0{file_digest(part).sha256}\n".encode(errors="surrogateescape"))
    return sha.hexdigest()


def file_digest(path: PathLike) -> FileDigest:
    """SHA-256 and size of a file. Raises DataError when there is none, StorageError when the disk fails."""
    sha, size = hashlib.sha256(), 0
    with open_input(path, DataError) as file:
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
            size += len(chunk)
    return FileDigest(sha.hexdigest(), size)


# pack.json


def table_bytes(table: PackTable) -> bytes:
    """The content of pack.json."""
    body = {"format": FORMAT, "version": VERSION, **table.model_dump(mode="json")}
    return (json.dumps({**body, "sha256": _digest_of(body)}) + "\n").encode("ascii")


def read_table(folder: PathLike) -> PackTable:
    """The table of the pack in `folder`. Raises DataError when it is missing, damaged or of a later version."""
    path = Path(folder) / TABLE
    if not path.exists() and (Path(folder) / UNFINISHED).exists():
        raise DataError(f"{folder}: the pack is not finished; give the command that began it again, and it goes on")
    with open_input(path, DataError) as file:
        data = file.read(_LARGEST_TABLE + 1)
    if len(data) > _LARGEST_TABLE:
        raise DataError(f"{path}: is over {_LARGEST_TABLE:,} bytes, which no pack's table is; {AGAIN}")
    try:
        body = json.loads(data.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is damaged (no JSON: {error}); {AGAIN}") from None
    if not isinstance(body, dict) or body.pop("format", None) != FORMAT:
        raise DataError(f"{path}: is not the table of a pack; name a folder that `msposenet pack` made")
    version = body.pop("version", None)
    if version != VERSION:
        raise DataError(f"{path}: is of version {version!r:.80}, read is version {VERSION}; {AGAIN}")
    claimed = body.pop("sha256", None)
    if claimed != _digest_of({"format": FORMAT, "version": VERSION, **body}):
        raise DataError(f"{path}: is damaged or was edited (its own SHA-256 does not fit); {AGAIN}")
    try:
        table = PackTable.model_validate_json(json.dumps(body))
        table.skeleton.build()
    except (ValidationError, ConfigError) as error:
        raise DataError(f"{path}: {_first_problem(error)}; {AGAIN}") from None
    return table


def _digest_of(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode("ascii")).hexdigest()


def _first_problem(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}, found {str(first.get('input'))[:80]!r}"


# Files of arrays


def arrays_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """An .npz file of plain arrays; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def read_arrays(data: bytes, columns: Mapping[str, str], path: PathLike) -> dict[str, np.ndarray]:
    """The arrays of an .npz file that must hold `columns`, names with the types wanted ("S": bytes of any length).

    The arrays share the memory of `data` and cannot be written to. Raises DataError, naming `path`, for anything else;
    no code in the file runs, and nothing larger than the file is allocated.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {entry.filename: entry for entry in archive.infolist()}
            if sorted(members) != sorted(f"{name}.npy" for name in columns):
                raise ValueError(f"holds {sorted(members)}")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in members.values()):
                raise ValueError("is compressed")
            return {name: _array(archive.read(f"{name}.npy"), kind) for name, kind in columns.items()}
    except Exception as error:  # zipfile and NumPy raise ten kinds for damaged bytes, down to SyntaxError
        raise DataError(f"{path}: is damaged ({type(error).__name__}: {error!s:.200}); {AGAIN}") from None


def _array(data: bytes, kind: str) -> np.ndarray:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"array of version {version}")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if (dtype.kind if kind == "S" else dtype.str) != kind or fortran:
        raise ValueError(f"array of {dtype}, {kind} wanted")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape)
