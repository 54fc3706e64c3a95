"""Zip archives whose entries are stored as they are, which is how `torch.save` writes.

The list of entries at the archive's end is walked with every length held against the file's before anything is read,
so no header can ask for more memory than the file has bytes. Compressed entries are refused: PyTorch writes none, and
a few bytes of them can unpack into gigabytes.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO, NamedTuple

import numpy as np

from msposenet.errors import CheckpointError

_LARGEST_LIST = 32 << 20  # 300 times that of HRNet W48 with its optimizer
_END, _END_64, _WHERE_64, _LISTED, _LOCAL = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02", b"PK\x03\x04"
_ALL_ONES = 0xFFFFFFFF  # "see the 64-bit field"


class Entry(NamedTuple):
    """A member of the archive; `header` is where its own header stands in the file."""

    name: str
    method: int
    flags: int
    crc: int
    size: int
    header: int


class StoredZip:
    """The members of a zip archive by name; `path` is only named in errors."""

    def __init__(self, path, file: BinaryIO, size: int):
        self.path, self.file, self.size = path, file, size
        self.left = size  # bytes that may still be read: entries that overlap would be read more than once
        self.entries = self._walk()

    def place(self, name: str) -> tuple[int, int]:
        """Start and length of a member's bytes in the file, after their checksum was found right."""
        entry = self._entry(name)
        start = self._start(entry)
        crc = 0
        self.file.seek(start)
        for at in range(0, entry.size, 1 << 20):
            crc = zlib.crc32(self.file.read(min(1 << 20, entry.size - at)), crc)
        self._check(entry, crc)
        return start, entry.size

    def read(self, name: str) -> np.ndarray:
        """A member's bytes, checked, as (N,) uint8."""
        entry = self._entry(name)
        self.file.seek(self._start(entry))
        raw = np.empty(entry.size, np.uint8)
        if entry.size and self.file.readinto(memoryview(raw)) != entry.size:
            raise self._error("became shorter while it was read")
        self._check(entry, zlib.crc32(raw))
        return raw

    def _entry(self, name: str) -> Entry:
        entry = self.entries.get(name)
        if entry is None:
            raise self._error(f"has no entry {name!r:.80}, which its own list of tensors names")
        if entry.flags & 1 or entry.method != 0:
            kind = "encrypted" if entry.flags & 1 else f"compressed (method {entry.method})"
            raise self._error(f"its entry {name!r:.80} is {kind}, PyTorch stores plainly: unpack and pack it without")
        self.left -= entry.size
        if self.left < 0:
            raise self._error("its entries hold more bytes than the file, they overlap: it was made to do harm")
        return entry

    def _start(self, entry: Entry) -> int:
        head = self._bytes(entry.header, 30)
        if head[:4] != _LOCAL:
            raise self._error(f"the header of {entry.name!r:.80} is damaged")
        start = entry.header + 30 + sum(struct.unpack("<HH", head[26:30]))
        if start + entry.size > self.size:
            raise self._error(f"{entry.name!r:.80} needs {entry.size:,} bytes at byte {start:,}: the file is cut")
        return start

    def _check(self, entry: Entry, crc: int) -> None:
        if entry.crc not in (crc, 0):  # 0: saved with torch.serialization.set_crc32_options(False)
            raise self._error(f"is damaged: the checksum of {entry.name!r:.80} does not fit")

    def _walk(self) -> dict[str, Entry]:
        tail_at = max(self.size - (1 << 16) - 22, 0)
        tail = self._bytes(tail_at, self.size - tail_at)
        at = tail.rfind(_END)
        if at < 0 or len(tail) - at < 22:
            raise self._error("its end is missing: the file is cut")
        length, start = struct.unpack_from("<II", tail, at + 12)
        if _ALL_ONES in (length, start) and at >= 20 and tail[at - 20 : at - 16] == _WHERE_64:
            end = self._bytes(struct.unpack_from("<Q", tail, at - 12)[0], 56)
            if end[:4] != _END_64:
                raise self._error("the list of its entries is damaged")
            length, start = struct.unpack_from("<QQ", end, 40)
        if length > _LARGEST_LIST:
            raise self._error(f"the list of its entries has {length:,} bytes: it is damaged")
        return self._list(self._bytes(start, length))

    def _list(self, listed: bytes) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        at = 0
        while at < len(listed):
            if listed[at : at + 4] != _LISTED or at + 46 > len(listed):
                raise self._error("the list of its entries is damaged")
            flags, method, crc, packed, size = struct.unpack_from("<8xHH4xIII", listed, at)
            name_length, extra_length, comment_length, header = struct.unpack_from("<28xHHH8xI", listed, at)
            name = listed[at + 46 : at + 46 + name_length].decode("utf-8", errors="replace")
            extra = listed[at + 46 + name_length : at + 46 + name_length + extra_length]
            size, packed, header = _wide(extra, [size, packed, header])
            if name in entries or (method == 0 and size != packed):
                raise self._error(f"its entry {name!r:.80} is listed twice or with two lengths: it is damaged")
            entries[name] = Entry(name, method, flags, crc, size, header)
            at += 46 + name_length + extra_length + comment_length
        return entries

    def _bytes(self, start: int, count: int) -> bytes:
        if start + count > self.size:
            raise self._error(f"byte {start + count:,} is needed and it has {self.size:,}: the file is cut")
        self.file.seek(start)
        return self.file.read(count)

    def _error(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {reason}; fetch or save it again")


def _wide(extra: bytes, fields: list[int]) -> list[int]:
    """Length, packed length and place with those that are all ones taken from the entry's 64-bit field."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            wide = iter(struct.iter_unpack("<Q", extra[at + 4 : at + 4 + length // 8 * 8]))
            return [next(wide, (field,))[0] if field == _ALL_ONES else field for field in fields]
        at += 4 + length
    return fields
