"""JSON from untrusted files as checked NumPy columns.

Whole columns are checked at once, an item alone only to say what is wrong with it: 600,000 instances take seconds.
"""

from __future__ import annotations

import gc
import json
import reprlib
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from msposenet.data.records import LISTED, SHOWN, Tally
from msposenet.errors import DataError

_REQUIRED = object()


def load_json(path: Path | str) -> Any:
    """Content of a JSON file, NaN and infinities included; DataError when it is missing, cut or no JSON."""
    try:
        with no_collection():
            return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: missing file; correct the path") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: {_defect(error)}: {error.msg} at line {error.lineno}, column {error.colno}; copy or export the "
            "file again"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); name a JSON file that may be read") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); copy or export the file again") from None


@contextmanager
def no_collection() -> Iterator[None]:
    """For parsing, which makes millions of objects and no garbage: the collector, walking them again and again,
    would double the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _defect(error: json.JSONDecodeError) -> str:
    start, end, rest = (
        error.doc[:100].lstrip(),
        error.doc[-100:].rstrip(),
        error.doc[error.pos : error.pos + 100].strip(),
    )
    if not end:
        return "empty"
    return "cut off" if start[:1] in "[{" and (not rest or end[-1] not in "]}") else "not valid JSON"


def shown(value: object) -> str:
    """`value` for an error message, shortened."""
    text = reprlib.repr(value)  # never writes a whole damaged list out
    return text if len(text) <= 80 else text[:77] + "..."


def listed(values: Iterable[object]) -> str:
    """The first five of `values` for an error message."""
    values = list(values)
    return ", ".join(shown(value) for value in values[:SHOWN]) + (", ..." if len(values) > SHOWN else "")


def section(root: dict, key: str, file: str) -> list:
    """The list `root[key]`; DataError when it is missing or no list."""
    if key not in root:
        raise DataError(f"{file}: no {key!r}; found {listed(root) or 'nothing'}; is it another kind of file?")
    if not isinstance(root[key], list):
        raise DataError(f"{file}: {key!r} is {_type_name(root[key])}; a list is wanted")
    return root[key]


@dataclass(frozen=True)
class Items:
    """Items of one kind in one file, as errors and reports name them."""

    file: str
    kind: str  # "annotation", "image": what errors call an item

    def label(self, row: int) -> str:
        """What to call an item."""
        raise NotImplementedError

    def fail(self, row: int, problem: str) -> DataError:
        """An error about one item, to be raised."""
        return DataError(f"{self.file}: {self.kind} {self.label(row)}: {problem}")

    def refuse(self, bad: np.ndarray, problem: Callable[[int], str]) -> None:
        """Raise about the first row of the mask `bad` (N,), naming the first five."""
        rows = np.flatnonzero(bad)
        if rows.size:
            also = f" ({rows.size:,} such: {self.tally(bad)})" if rows.size > 1 else ""
            raise self.fail(rows[0], problem(rows[0]) + also)

    def tally(self, chosen: np.ndarray) -> Tally:
        """Count and names of the rows of the mask `chosen` (N,)."""
        rows = np.flatnonzero(chosen)
        return Tally(int(rows.size), tuple(self.label(row) for row in rows[:LISTED]))


@dataclass(frozen=True)
class Numbered(Items):
    """Items of which only the ids are at hand."""

    ids: np.ndarray  # (N,)

    def label(self, row: int) -> str:
        return str(self.ids[row])


@dataclass(frozen=True)
class Rows(Items):
    """JSON objects of one kind, read column by column. Every method raises DataError naming file, item and value."""

    items: list[dict]

    def __post_init__(self) -> None:
        if set(map(type, self.items)) - {dict}:
            row = next(row for row, item in enumerate(self.items) if type(item) is not dict)
            found = f"{_type_name(self.items[row])} {shown(self.items[row])}"
            raise DataError(f"{self.file}: {self.kind} {self.label(row)} is {found}; an object is wanted")

    def __len__(self) -> int:
        return len(self.items)

    def label(self, row: int) -> str:
        """Its id, or its place in the list where it has none."""
        item = self.items[row]
        identity = item.get("id") if type(item) is dict else None
        return str(identity) if type(identity) is int and abs(identity) < 10**20 else f"number {row + 1}"

    def where(self, chosen: np.ndarray) -> Rows:
        """The rows of the mask `chosen` (N,)."""
        return Rows(self.file, self.kind, [self.items[row] for row in np.flatnonzero(chosen)])

    def values(self, key: str, default: object = _REQUIRED) -> list:
        """The values of `key`, unchecked; `default` where an item lacks it."""
        if default is not _REQUIRED:
            return [item.get(key, default) for item in self.items]
        try:
            return [item[key] for item in self.items]
        except KeyError:
            row = next(row for row, item in enumerate(self.items) if key not in item)
            found = f"found {listed(self.items[row]) or 'nothing'}"
            raise self.fail(row, f"no {key!r}; {found}; every {self.kind} needs it") from None

    def integers(self, key: str) -> np.ndarray:
        """Whole numbers (N,) int64."""
        values = self.values(key)
        self._only(values, {int}, key, "a whole number")
        try:
            return np.array(values, dtype=np.int64)
        except OverflowError:
            row = next(row for row, value in enumerate(values) if not -(2**63) <= value < 2**63)
            raise self.fail(row, f"{key!r} is {shown(values[row])}; a 64-bit number is wanted") from None

    def strings(self, key: str) -> list[str]:
        """Texts."""
        values = self.values(key)
        self._only(values, {str}, key, "a text")
        return values

    def numbers(self, key: str, default: object = _REQUIRED) -> np.ndarray:
        """Numbers (N,) float64; NaN and infinities pass."""
        values = self.values(key, default)
        self._only(values, {int, float}, key, "a number")
        try:
            return np.array(values, dtype=np.float64)
        except OverflowError:
            raise self._too_large([[value] for value in values], key) from None

    def vectors(self, key: str, length: int) -> np.ndarray:
        """Lists of `length` numbers as (N, length) float64; NaN and infinities pass."""
        values = self.values(key)
        self._only(values, {list}, key, "a list")
        if set(map(len, values)) - {length}:
            row = next(row for row, value in enumerate(values) if len(value) != length)
            raise self.fail(row, f"{key!r} has {len(values[row])} numbers; {length} are wanted")
        self._only_numbers(values, key)
        pack = struct.Struct(f"={length}d").pack  # six times as fast as np.fromiter
        try:
            packed = b"".join([pack(*value) for value in values])
        except struct.error:  # of whole numbers: all others have a float64
            raise self._too_large(values, key) from None
        return np.frombuffer(bytearray(packed)).reshape(-1, length)

    def _only_numbers(self, values: list[list], key: str) -> None:
        if set(map(type, chain.from_iterable(values))) - {int, float}:
            row = next(row for row, value in enumerate(values) if set(map(type, value)) - {int, float})
            other = next(entry for entry in values[row] if type(entry) not in (int, float))
            raise self.fail(row, f"{key!r} holds {_type_name(other)} {shown(other)}; numbers are wanted")

    def _only(self, values: list, types: set[type], key: str, wanted: str) -> None:
        if set(map(type, values)) - types:
            row = next(row for row, value in enumerate(values) if type(value) not in types)
            raise self.fail(row, f"{key!r} is {_type_name(values[row])} {shown(values[row])}; {wanted} is wanted")

    def _too_large(self, values: list[list], key: str) -> DataError:
        row = next(row for row, value in enumerate(values) if any(map(_is_too_large, value)))
        return self.fail(row, f"{key!r} holds a number of over 300 digits; correct it")


def _is_too_large(number: float) -> bool:
    return type(number) is int and abs(number) > 10**300


def _type_name(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "the text", bool: "the truth value", type(None): "an empty value"}
    return names.get(type(value), "the number")
