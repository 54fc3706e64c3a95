"""MXNet's RecordIO form: records in a file one after another, and a text file that says where each begins.

The same bytes as dmlc's writer, so that `mx.recordio` reads them; written here again because loader workers need it and
MXNet takes over a second and 330 MB to import. A record is parts of `magic, flag << 29 | length, data, zeros up to 4`;
where the magic number occurs in the data at a multiple of 4, it is left out and a new part begins.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from msposenet.errors import DataError
from msposenet.storage import PathLike, open_input

MAGIC = struct.pack("<I", 0xCED7230A)
MAX_LENGTH = (1 << 29) - 1  # bytes of a part: what its length word holds

_PART = struct.Struct("<4sI")
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_HEADER = struct.Struct("<IfQQ")  # mx.recordio.IRHeader: number of labels, label, id, id2


def frame(payload: bytes) -> bytes:
    """The record that holds `payload`; DataError for one that is too long."""
    if len(payload) > MAX_LENGTH:
        raise DataError(f"a record of {len(payload):,} bytes; RecordIO holds at most {MAX_LENGTH:,}")
    parts, start, at = [], 0, _aligned_magic(payload, 0)
    while at >= 0:
        parts.append(_PART.pack(MAGIC, (_MIDDLE if start else _FIRST) << 29 | at - start) + payload[start:at])
        start = at + len(MAGIC)
        at = _aligned_magic(payload, start)
    parts.append(_PART.pack(MAGIC, (_LAST if start else _WHOLE) << 29 | len(payload) - start) + payload[start:])
    return b"".join(parts) + bytes(-len(payload) % 4)


def _aligned_magic(payload: bytes, start: int) -> int:
    at = payload.find(MAGIC, start)
    while at >= 0 and at % 4:
        at = payload.find(MAGIC, at + 1)
    return at


def unframe(data: bytes, name: str, start: int = 0) -> tuple[bytes, int]:
    """The payload of the record that begins at `start` of `data`, and where the next one begins.

    Raises DataError, which calls the data `name`, for bytes that are no record.
    """
    payload, at = [], start
    while True:
        if at + _PART.size > len(data):
            raise DataError(f"{name}: the record at byte {start:,} is cut off; make the file again")
        magic, word = _PART.unpack_from(data, at)
        flag, length = word >> 29, word & MAX_LENGTH
        if magic != MAGIC or flag not in ((_MIDDLE, _LAST) if payload else (_WHOLE, _FIRST)):
            raise DataError(f"{name}: no RecordIO record at byte {at:,}; make the file again")
        at += _PART.size
        end = at + length + -length % 4
        if end > len(data):
            raise DataError(f"{name}: the record at byte {start:,} is cut off; make the file again")
        payload.append(data[at : at + length])
        at = end
        if flag in (_WHOLE, _LAST):
            return MAGIC.join(payload), at


def read_records(path: PathLike) -> Iterator[tuple[int, bytes]]:
    """Offset and payload of every record of a .rec file, read whole. Raises DataError and StorageError."""
    with open_input(path, DataError) as file:
        data = file.read()
    at = 0
    while at < len(data):
        payload, end = unframe(data, str(path), at)
        yield at, payload
        at = end


def index_lines(offsets: np.ndarray) -> bytes:
    """Content of the .idx file of records at `offsets` (n,) bytes, whose keys are 0 to n - 1."""
    return "".join(f"{key}\t{offset}\n" for key, offset in enumerate(offsets.tolist())).encode("ascii")


def read_index(path: PathLike) -> dict[int, int]:
    """Keys and offsets of an .idx file. Raises DataError and StorageError."""
    with open_input(path, DataError) as file:
        lines = file.read().splitlines()
    try:
        return {int(key): int(offset) for key, offset in (line.split(b"\t") for line in lines)}
    except ValueError:
        raise DataError(f"{Path(path)}: is no RecordIO index (key, tab, offset a line); make it again") from None


def with_header(labels: np.ndarray, number: int, content: bytes) -> bytes:
    """`content` behind the header that `mx.recordio.unpack` reads: labels (n,) float32 and a 64-bit number."""
    labels = np.ascontiguousarray(labels, "<f4")
    return _HEADER.pack(labels.size, 0.0, number & 0xFFFFFFFFFFFFFFFF, 0) + labels.tobytes() + content


def without_header(payload: bytes, name: str) -> tuple[np.ndarray, int, bytes]:
    """Labels (n,) float32, number and content of a payload; DataError, which calls it `name`, when it is cut short."""
    try:
        count, label, number, _ = _HEADER.unpack_from(payload)
        end = _HEADER.size + 4 * count
        if len(payload) < end:
            raise struct.error
    except struct.error:
        raise DataError(f"{name}: the record's header is cut off; make the file again") from None
    labels = np.frombuffer(payload, "<f4", count, _HEADER.size) if count else np.array([label], np.float32)
    return labels, number, payload[end:]
