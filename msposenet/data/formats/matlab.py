"""Variables of MATLAB files of versions 5 to 7.2, read within bounds (MathWorks, "MAT-File Format").

SciPy's loader is not for files that may be damaged: a few flipped bits make it allocate gigabytes or end the process.
Here every read stays within the bytes of what contains it, structs are opened only when asked for, and what is neither
numbers nor text nor a struct stays unread. Nothing in a file is executed.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Union

import numpy as np

from msposenet.data.formats.fields import listed, shown
from msposenet.errors import DataError

MAX_FILE_BYTES = 1 << 28
MAX_VARIABLE_BYTES = 1 << 29  # unpacked
MAX_VALUES = 1 << 22  # of one array: what is packed may be large out of all proportion
EMPTY = np.zeros((0, 0))

_HDF5 = b"\x89HDF\r\n\x1a\n"
_HEADER = 128  # bytes
_CHUNK = 1 << 16  # packed bytes, which hold 1,032 times as many at most
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_UTF8 = 16
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", _UTF8: "utf-8", 17: "utf-16", 18: "utf-32"}
_STRUCT, _CHAR, _NUMERIC = 2, 4, range(6, 16)
_OTHERS = {1: "a cell array", 3: "an object", 5: "a sparse matrix", 16: "a function", 17: "an object"}
_COMPLEX = 0x800
_MAX_DIMENSIONS = 8


class Unread:
    """A value of a kind that no data set needs."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


def is_matlab(data: bytes) -> bool:
    """Whether a file that begins with `data` (128 bytes or more) is a MATLAB file of version 5 or later."""
    return data.startswith((b"MATLAB ", _HDF5)) or data[126:128] in (b"IM", b"MI")


def load_variable(path: Path | str, name: str) -> Value:
    """The variable `name` of the MATLAB file `path`; DataError for what is missing, damaged or of another version."""
    data = _read(path)
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if data.startswith(b"MATLAB 7.3") or _HDF5 in (data[:8], data[512:520]):
        raise DataError(
            f"{path}: a MATLAB 7.3 (HDF5) file, which is not read; in MATLAB load it and save(file, '-v7', variable)"
        )
    if order is None or struct.unpack_from(order + "H", data, 124)[0] >> 8 != 1:
        found = "empty" if not data else f"begins with {shown(data[:8])}"
        raise DataError(
            f"{path}: no MATLAB file of version 5 to 7.2 ({found}); copy it again, or save(file, '-v7', variable) "
            "in MATLAB"
        )
    names = []
    for kind, start, end in _elements(path, data, order):
        variable = _Source(path, data[start - 8 : end], order) if kind == _MATRIX else None
        if kind == _COMPRESSED:
            variable = _Source(path, _inflated(path, data[start:end], 512, whole=False), order)
        if variable is None:
            continue
        names.append(variable.name())
        if names[-1] == name:
            if kind == _COMPRESSED:
                variable = _Source(path, _inflated(path, data[start:end], MAX_VARIABLE_BYTES), order)
            return variable.matrix(0, len(variable.data))
    raise DataError(f"{path}: no variable {name!r}; found {listed(names) or 'nothing'}; is it another kind of file?")


def is_empty(value: Value) -> bool:
    """Whether `value` is an empty array, text or struct."""
    if isinstance(value, np.ndarray):
        return not value.size
    return isinstance(value, (str, Struct)) and not len(value)


def described(value: Value) -> str:
    """`value` for an error message."""
    if isinstance(value, str):
        return f"the text {shown(value)}"
    if isinstance(value, Unread):
        return value.kind
    if isinstance(value, Struct):
        return f"a struct of {listed(value.names) or 'no fields'}"
    if value.size == 1:
        return f"{value.item():g}"
    return f"{' x '.join(map(str, value.shape))} numbers" if value.size else "empty"


class Struct:
    """A MATLAB struct array: `len()` elements in MATLAB's order, of which every field is read when asked for."""

    def __init__(self, source: _Source, count: int, names: tuple[str, ...], start: int, end: int) -> None:
        self.names = names
        self.source, self._start, self._end = source, start, end
        self._count = count

    def __len__(self) -> int:
        return self._count

    def column(self, name: str) -> list[Value]:
        """The field `name` of all elements, EMPTY where there is none."""
        if name not in self.names:
            return [EMPTY] * self._count
        return [self.source.matrix(place, self._end) for place in self.places(name)]

    def places(self, name: str) -> list[int]:
        """Where the field `name` of each element begins, -1 where there is none."""
        if name not in self.names:
            return [-1] * self._count
        return self._places[self.names.index(name) :: len(self.names)]

    @cached_property
    def _places(self) -> list[int]:
        """Where the fields begin: those of the first element, those of the second, ..."""
        place, end, places = self._start, self._end, []
        for _ in range(self._count * len(self.names)):
            places.append(place)
            place = self.source.next_matrix(place, end)
        return places


Value = Union[np.ndarray, str, Struct, Unread]


def scalars(structs: Sequence[Struct], name: str) -> tuple[np.ndarray, dict[int, Value]]:
    """The field `name` of all elements of `structs`, of one variable, as numbers (N,), and by row what is no number.

    The numbers are NaN there. A single digit as text stands for its number.
    """
    places = np.array([place for entries in structs for place in entries.places(name)], dtype=np.int64)
    numbers, others = np.full(len(places), np.nan), dict.fromkeys(np.flatnonzero(places < 0).tolist(), EMPTY)
    found = np.flatnonzero(places >= 0)
    if found.size:
        source = next(entries.source for entries in structs if len(entries))
        numbers[found], plain = source.scalars(places[found])
        others.update((row, source.matrix(places[row], len(source.data))) for row in found[~plain].tolist())
    return numbers, others


class _Source:
    """The unpacked bytes of one variable. `end` is always where the containing element ends."""

    def __init__(self, path: Path | str, data: bytes | bytearray, order: str) -> None:
        self.path, self.data, self.order = path, data, order
        self._pair = struct.Struct(order + "II").unpack_from

    def damaged(self, place: int, problem: str) -> DataError:
        return DataError(f"{self.path}: damaged MATLAB file: {problem} at byte {place:,} of a variable; copy it again")

    def tag(self, place: int, end: int) -> tuple[int, int, int, int]:
        """Type, size, first byte of the contents and place of the next element."""
        if place + 8 > end:
            raise self.damaged(place, "the data end")
        kind, size = self._pair(self.data, place)
        if kind >> 16:  # up to four bytes stand in the tag itself
            kind, size, start, following = kind & 0xFFFF, kind >> 16, place + 4, place + 8
            end = min(end, following)
        else:
            start = place + 8
            following = start + size + -size % 8
        if start + size > end:
            raise self.damaged(place, f"an element of {size:,} bytes where {end - start:,} are left")
        return kind, size, start, following

    def next_matrix(self, place: int, end: int) -> int:
        """Where the element behind the array at `place` begins."""
        if place + 8 <= end:
            kind, size = self._pair(self.data, place)
            if kind == _MATRIX and place + 8 + size <= end:
                return place + 8 + size + -size % 8
        raise self.damaged(place, "no array that ends within its struct")

    def scalars(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers (N,) whose elements begin at `places`, and the mask (N,) of those that are one: `matrix` in bulk.

        Nearly all values of a struct are single numbers or characters, each in 56 bytes or a few more.
        """
        octets = np.frombuffer(self.data, np.uint8)
        words = np.frombuffer(self.data, self.order + "u4", len(self.data) // 4)
        at = [words.take(places // 4 + step, mode="clip") for step in range(14)]
        category, packed = at[4] & 0xFF, at[12] >> 16 > 0
        kind, size = np.where(packed, at[12] & 0xFFFF, at[12]), np.where(packed, at[12] >> 16, at[13])
        start = places + np.where(packed, 52, 56)
        plain = (places % 4 == 0) & np.isin(category, (_CHAR, *_NUMERIC)) & (at[4] & _COMPLEX == 0)
        for step, word in {0: _MATRIX, 2: _UINT32, 3: 8, 6: _INT32, 7: 8, 8: 1, 9: 1, 10: _INT8, 11: 0}.items():
            plain &= at[step] == word
        plain &= at[1].astype(np.int64) + 8 >= start - places + size
        numbers, sound = np.full(len(places), np.nan), np.zeros(len(places), dtype=bool)
        text = category == _CHAR
        plain &= text | (kind != _UTF8)
        for number, code in {**_NUMBERS, _UTF8: "u1"}.items():
            dtype = np.dtype(self.order + code)
            rows = np.flatnonzero(plain & (kind == number) & (size == dtype.itemsize))
            with np.errstate(invalid="ignore"):
                numbers[rows] = octets[start[rows, None] + np.arange(dtype.itemsize)].view(dtype)[:, 0]
            sound[rows] = True
        numbers[text] -= ord("0")
        sound &= ~text | np.isin(numbers, range(10))
        sound &= np.isfinite(numbers)
        return np.where(sound, numbers, np.nan), sound

    def header(self, place: int, end: int) -> tuple[int, bool, tuple[int, ...], str, int]:
        """Class, whether complex, dimensions and name of a matrix, and where its contents begin."""
        kind, size, start, following = self.tag(place, end)
        if kind != _UINT32 or size != 8:
            raise self.damaged(place, "no array flags")
        flags = self._pair(self.data, start)[0]
        kind, size, start, place = self.tag(following, end)
        if kind != _INT32 or size < 8 or size % 4:
            raise self.damaged(following, "no dimensions")
        shape = tuple(np.frombuffer(self.data, self.order + "i4", size // 4, start).tolist())
        if min(shape) < 0 or len(shape) > _MAX_DIMENSIONS:
            raise self.damaged(following, f"dimensions {listed(shape)}")
        kind, size, start, following = self.tag(place, end)
        if kind != _INT8:
            raise self.damaged(place, "no name")
        return flags & 0xFF, bool(flags & _COMPLEX), shape, self.data[start : start + size].decode("latin-1"), following

    def name(self) -> str:
        """The variable's name; the data may end behind it."""
        return self.header(8, len(self.data))[3]

    def matrix(self, place: int, end: int) -> Value:
        """The value whose element begins at `place`."""
        kind, size, start, _ = self.tag(place, end)
        if kind != _MATRIX:
            raise self.damaged(place, f"an element of type {kind} where an array is wanted")
        if not size:
            return EMPTY
        end = start + size
        category, has_imaginary, shape, _, place = self.header(start, end)
        if category != _STRUCT and not math.prod(shape):
            return EMPTY
        if category in _OTHERS or has_imaginary:
            return Unread(_OTHERS.get(category, "complex numbers"))
        if category == _STRUCT:
            return self._struct(shape, place, end)
        kind, size, start, _ = self.tag(place, end)
        if category == _CHAR and kind in _TEXTS:
            return self._text(kind, start, size)
        if category not in _NUMERIC or kind not in _NUMBERS:
            raise self.damaged(place, f"an array of class {category} with data of type {kind}")
        dtype = np.dtype(self.order + _NUMBERS[kind])
        if size != math.prod(shape) * dtype.itemsize or size > MAX_VALUES * dtype.itemsize:
            raise self.damaged(place, f"{size:,} bytes for {' x '.join(map(str, shape))} numbers")
        with np.errstate(invalid="ignore"):  # some NaNs ring a bell when they are converted
            numbers = np.frombuffer(self.data, dtype, size // dtype.itemsize, start).astype(np.float64)
        return numbers.reshape(shape, order="F")

    def _struct(self, shape: tuple[int, ...], place: int, end: int) -> Struct:
        kind, size, start, following = self.tag(place, end)
        length = struct.unpack_from(self.order + "i", self.data, start)[0] if kind == _INT32 and size == 4 else 0
        kind, size, start, after = self.tag(following, end)
        if length < 1 or kind != _INT8 or size % length:
            raise self.damaged(place, "no field names")
        text = self.data[start : start + size].decode("latin-1")
        names = tuple(text[first : first + length].split("\0")[0] for first in range(0, size, length))
        count = math.prod(shape)
        if count * len(names) > min(MAX_VALUES, (end - after) // 8) or (count > 1 and not names):
            raise self.damaged(place, f"a struct of {count} x {len(names)} values in {end - after} bytes")
        return Struct(self, count, names, after, end)

    def _text(self, kind: int, start: int, size: int) -> str:
        coding = _TEXTS[kind] + ({"<": "-le", ">": "-be"}[self.order] if kind in (4, 17, 18) else "")
        try:
            return self.data[start : start + size].decode(coding)
        except UnicodeDecodeError as error:
            raise self.damaged(start, f"text that is not {error.encoding}") from None


NO_STRUCT = Struct(_Source("", b"", "<"), 0, (), 0, 0)


def _read(path: Path | str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise DataError(f"{path}: missing file; correct the path") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as a MATLAB file ({error}); copy or export the file again") from None
    if len(data) > MAX_FILE_BYTES:
        raise DataError(f"{path}: over {MAX_FILE_BYTES:,} bytes; save the annotations alone, without pictures")
    return data


def _elements(path: Path | str, data: bytes, order: str) -> Iterator[tuple[int, int, int]]:
    """Type, first byte and end of what lies side by side in the file."""
    place = _HEADER
    while place < len(data):
        start = place + 8
        kind, size = struct.unpack_from(order + "II", data, place) if start <= len(data) else (0, 8)
        place = start + size
        if place > len(data):
            raise DataError(f"{path}: cut off: {len(data):,} bytes where {place:,} are announced; copy the file again")
        yield kind, start, place


def _inflated(path: Path | str, packed: bytes, limit: int, whole: bool = True) -> bytearray:
    """The first `limit` bytes of a compressed variable; if `whole`, DataError when there are more, or fewer."""
    unpacker, parts = zlib.decompressobj(), bytearray()
    try:
        for start in range(0, len(packed), _CHUNK):
            piece = packed[start : start + _CHUNK]
            while piece and len(parts) < limit:
                parts += unpacker.decompress(piece, limit - len(parts))
                piece = unpacker.unconsumed_tail
            if len(parts) == limit:
                break
    except zlib.error as error:
        raise DataError(f"{path}: damaged MATLAB file: {error}; copy it again") from None
    if whole and not unpacker.eof:
        problem = "cut off" if len(parts) < limit else f"over {limit:,} bytes when unpacked"
        raise DataError(f"{path}: damaged MATLAB file: a variable is {problem}; copy it again")
    return parts
