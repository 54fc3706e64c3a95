"""A JSON annotation file of any size as columns: its long lists are decoded a few thousand items at a time.

msgspec finds where each item of a list begins and ends and decodes only the keys that are wanted, so that neither the
segmentations nor the whole of the file ever become Python objects. What it refuses (NaN, a byte order mark), and
whatever is wrong with an item, is read again whole by `load_json`: the outcome and the words are always that one's.
"""

from __future__ import annotations

import codecs
import mmap
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import msgspec
import numpy as np

from msposenet.data.formats.fields import Rows, load_json, no_collection, section
from msposenet.errors import DataError

CHUNK = 4096  # items that are Python objects at a time: more are not faster
_BLOCK = 16 << 20  # bytes read at a time
_REFUSALS = (msgspec.MsgspecError, DataError, UnicodeDecodeError, RecursionError)

Columns = TypeVar("Columns", bound=tuple)


class Document:
    """The root object of a JSON file, its `lists` described by the keys wanted of their items and the keys' types.

    `others` are the root's further keys of interest. Raises DataError when the file holds no JSON object.
    """

    def __init__(self, path: Path, lists: Mapping[str, Mapping[str, type]], others: tuple[str, ...] = ()) -> None:
        self.path, self.file = path, str(path)
        self._lists, self._others = lists, others
        self._bytes: mmap.mmap | None = None
        self._whole: dict | None = None
        self._parts = self._sliced()  # sections not asked for yet; None when only the whole file will do
        if self._parts is None:
            self._whole = self._object()

    @property
    def root(self) -> dict:
        """The whole content of the file."""
        if self._whole is None:
            self._parts = self._bytes = None  # first, to make room
            self._whole = self._object()
        return self._whole

    def __contains__(self, key: str) -> bool:
        return key in (self.root if self._parts is None else self._parts)

    def rows(self, key: str, kind: str) -> Rows:
        """The list `key` of the root object, one of the `others`."""
        root = self.root if self._parts is None else self._parts
        return Rows(self.file, kind, section(root, key, self.file))

    def columns(self, key: str, kind: str, read: Callable[[Rows], Columns]) -> Columns:
        """What `read` makes of the list `key`: a named tuple of arrays with one row an item, or with fewer.

        `read` looks at each item by itself; it is called with some of them, or with all. A list can be had once.
        """
        if self._parts is not None and key in self._parts:
            try:
                return self._by_chunks(key, kind, read)
            except _REFUSALS:
                pass  # told below, where every item has its place in the file and all its keys
        return read(Rows(self.file, kind, section(self.root, key, self.file)))

    def _by_chunks(self, key: str, kind: str, read: Callable[[Rows], Columns]) -> Columns:
        raws, keys = self._parts.pop(key), self._lists[key]
        decode = msgspec.json.Decoder(TypedDict(key, dict(keys), total=False)).decode
        floats = frozenset(name for name, form in keys.items() if form == list[float])
        parts = []
        with no_collection():
            for start in range(0, max(len(raws), 1), CHUNK):
                chunk = raws[start : start + CHUNK]
                parts.append(read(_Decoded(self.file, kind, [decode(raw) for raw in chunk], floats)))
                self._release(chunk)
        return type(parts[0])(*map(np.concatenate, zip(*parts)))

    def _release(self, raws: list[msgspec.Raw]) -> None:
        """Give back the memory of the file's bytes between the first and the last of these items."""
        if len(raws) > 1:
            start, end = (_address(raw) - _address(self._bytes) for raw in (raws[0], raws[-1]))
            first, beyond = -(-start // mmap.PAGESIZE), end // mmap.PAGESIZE
            if first < beyond:
                self._bytes.madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, (beyond - first) * mmap.PAGESIZE)

    def _sliced(self) -> dict[str, Any] | None:
        """The root object, the items of its lists not decoded yet; None when msgspec does not take it."""
        fields = [(name, list[msgspec.Raw]) for name in self._lists] + [(name, Any) for name in self._others]
        try:
            self._bytes = _read(self.path)
            with no_collection():
                return msgspec.structs.asdict(msgspec.json.decode(self._bytes, type=msgspec.defstruct("Root", fields)))
        except (*_REFUSALS, OSError, ValueError):
            self._bytes = None
            return None

    def _object(self) -> dict:
        root = load_json(self.path)
        if not isinstance(root, dict):
            keys = [*self._lists, *self._others]
            first = root[0] if isinstance(root, list) and root and isinstance(root[0], dict) else {}
            forms = {"joints_vis": "mpii", "keypoint_annotations": "aic"}
            form = next((form for key, form in forms.items() if key in first), None)
            hint = f"set the set's format: {form}" if form else "is it a result or detection file?"
            raise DataError(
                f"{self.file}: a JSON {type(root).__name__}, not an object with {', '.join(keys[:-1])} and {keys[-1]}; "
                f"{hint}"
            )
        return root


@dataclass(frozen=True)
class _Decoded(Rows):
    """Rows whose keys `floats` msgspec made lists of floats: their entries need no second look."""

    floats: frozenset[str]

    def where(self, chosen: np.ndarray) -> Rows:
        return replace(self, items=super().where(chosen).items)

    def _only_numbers(self, values: list[list], key: str) -> None:
        if key not in self.floats:
            super()._only_numbers(values, key)


def _address(content: object) -> int:
    return np.frombuffer(content, np.uint8).ctypes.data


def _read(path: Path) -> mmap.mmap:
    """The bytes of a UTF-8 file. ValueError when it is empty, UnicodeDecodeError when it is something else."""
    with open(path, "rb", buffering=0) as file:
        # Memory of its own, not the file mapped: one cut meanwhile would end the process with SIGBUS.
        content = mmap.mmap(-1, os.fstat(file.fileno()).st_size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        decoder = codecs.getincrementaldecoder("utf-8")()  # msgspec does not look at the text that it skips
        start = 0
        with memoryview(content) as view:
            while start < len(view):
                count = file.readinto(view[start : start + _BLOCK])
                if not count:
                    break
                decoder.decode(view[start : start + count], final=start + count == len(view))
                start += count
    return content
