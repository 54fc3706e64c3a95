"""MXNet's `.params` files, read and written with NumPy alone.

`mx.nd.load` believes what a file says: it allocates what the header asks for before it looks whether the file is that
long, and it loads flipped bits, NaN and trailing bytes in silence. Here the header is walked first, every length is
held against the length of the file, and only then is anything allocated.

The layout, little-endian (src/ndarray/ndarray.cc of MXNet 1.9.1, `NDArray::Save`):

    u64 0x112, u64 0
    u64 number of arrays, then for each
        u32 0xF993fac9 (version 2), i32 storage type (0 dense), i32 number of dimensions, i64 each dimension,
        i32 device type, i32 device number, i32 type flag, the values in C order
    u64 number of names, then for each: u64 length, UTF-8

Version 1 has no storage type; version 0 has neither magic nor storage type and 32-bit dimensions; version 3, written
under NumPy shape semantics, is version 2 with arrays of no dimension allowed.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from msposenet.errors import CheckpointError
from msposenet.storage import PathLike, open_input, write_chunks_atomic
from msposenet.weights.manifest import MANIFEST_NAME, read_manifest

_LIST_MAGIC = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_TYPE_FLAGS = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8", 7: "?"}
_FLAG_OF_TYPE = {np.dtype(name): flag for flag, name in _TYPE_FLAGS.items()}
_BFLOAT16_FLAG = 12
_SPARSE = {1: "row-sparse", 2: "compressed sparse rows"}
_DEVICE_TYPES = (1, 2, 3, 5)  # CPU, GPU, pinned, shared memory
_CPU = (1, 0)
_MAX_DIMENSIONS = 32  # NumPy's own limit
_MAX_ARRAYS = 100_000  # HRNet has 2,000; more than this is a header made to fill the memory

LOOKS_LIKE = (
    (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9", "PyTorch"),  # the magic number of torch.save before 1.6
    (b"\x80", "a Python pickle, which is never opened since opening one can run any code: save the arrays instead"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself with `git lfs pull`"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"\x89HDF", "an HDF5 file: save the arrays as .params instead"),
    (b"\x93NUMPY", "a single NumPy array: save the arrays as .params instead"),
    (b"{", "JSON, perhaps the symbol that belongs to the parameters: name the .params file"),
)


class _Entry(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int  # of the values, in bytes from the start of the file


def read_params(path: PathLike, *, sha256: str | None = None) -> dict[str, np.ndarray]:
    """The named arrays of a `.params` file, in the file's order, writable.

    The SHA-256 is checked before anything is parsed: against `sha256`, or else against a MANIFEST.json beside the file
    that lists it. Values that are not finite and bytes after the end give a warning each.

    Raises CheckpointError when the file is missing, damaged or something else than a `.params` file with names.
    """
    path = Path(path)
    sha256 = sha256 or _recorded_sha256(path)
    with open_input(path, CheckpointError) as file:
        if sha256 is not None:
            _check_sha256(path, file, sha256)
        names, entries = _walk(path, file)
        arrays = {name: _read_array(path, file, entry) for name, entry in zip(names, entries)}
    _warn_not_finite(path, arrays)
    return arrays


def write_params(path_or_buffer: PathLike | BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as `mx.nd.save` does, byte for byte; a path is replaced atomically.

    Raises CheckpointError for an array that the format cannot hold (no dimension, another type than float16/32/64,
    int8/32/64, uint8, bool), StorageError when the disk refuses.
    """
    if hasattr(path_or_buffer, "write"):
        for chunk in params_chunks(arrays):
            path_or_buffer.write(chunk)
    else:
        write_chunks_atomic(path_or_buffer, params_chunks(arrays))


def params_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of a `.params` file. Raises CheckpointError as `write_params`."""
    return b"".join(params_chunks(arrays))


def params_chunks(arrays: Mapping[str, np.ndarray]) -> Iterator[Any]:
    """The content of a `.params` file piece by piece, so that a large network is not held twice."""
    head = struct.pack("<QQQ", _LIST_MAGIC, 0, len(arrays))
    for name, array in arrays.items():
        flag = _type_flag(name, array)
        head += struct.pack(f"<IiI{array.ndim}q", _V2, 0, array.ndim, *array.shape) + struct.pack("<iii", *_CPU, flag)
        if array.size:
            yield head
            little = np.ascontiguousarray(array, dtype=_TYPE_FLAGS[flag])
            yield memoryview(little.reshape(-1).view(np.uint8))
            head = b""
    names = [name.encode("utf-8") for name in arrays]
    tail = b"".join(struct.pack("<Q", len(name)) + name for name in names)
    yield head + struct.pack("<Q", len(names)) + tail


def _type_flag(name: str, array: np.ndarray) -> int:
    flag = _FLAG_OF_TYPE.get(array.dtype.newbyteorder("<"))
    if flag is None:
        allowed = ", ".join(str(dtype) for dtype in _FLAG_OF_TYPE)
        raise CheckpointError(f"array {name!r} is of type {array.dtype}, a .params file holds {allowed}: convert it")
    if array.ndim == 0:  # MXNet takes "no dimensions" for "not there" and reads what follows out of step
        raise CheckpointError(f"array {name!r} has no dimension, which .params cannot hold: reshape it to (1,)")
    return flag


def _recorded_sha256(path: Path) -> str | None:
    """What MANIFEST.json in the file's folder says of it; None, with a warning if it cannot be read, when nothing."""
    if not (path.parent / MANIFEST_NAME).is_file():
        return None
    try:
        digest = read_manifest(path.parent).files.get(path.name)
    except CheckpointError as error:
        warnings.warn(f"{path}: read without verifying its content, since {error}", stacklevel=3)
        return None
    return digest.sha256 if digest else None


def _check_sha256(path: Path, file: BinaryIO, expected: str) -> None:
    sha = hashlib.sha256()
    for block in iter(lambda: file.read(1 << 20), b""):
        sha.update(block)
    file.seek(0)
    if sha.hexdigest() != expected.lower():
        raise CheckpointError(
            f"{path}: is damaged: its SHA-256 is {sha.hexdigest()[:16]}..., it must be {expected[:16]}...: "
            "use another checkpoint or fetch the file again"
        )


class _Cursor:
    """Reads forward through a header and never asks the file for more than it holds."""

    def __init__(self, path: Path, file: BinaryIO):
        self.path, self.file, self.at = path, file, 0
        self.size = file.seek(0, io.SEEK_END)
        file.seek(0)

    def take(self, count: int, item: str) -> bytes:
        self.demand(count, item)
        self.at += count
        return self.file.read(count)

    def skip(self, count: int, item: str) -> None:
        self.demand(count, item)
        self.at += count
        self.file.seek(self.at)

    def demand(self, count: int, item: str) -> None:
        if count > self.size - self.at:
            self.fail(
                f"{item} needs {count:,} bytes at byte {self.at:,} and {self.size - self.at:,} are left: the file is "
                "cut or its header damaged"
            )

    def unpack(self, layout: str, item: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self.take(struct.calcsize(layout), item))

    def fail(self, reason: str) -> NoReturn:
        raise CheckpointError(f"{self.path}: {reason}; fetch or save it again")


def _walk(path: Path, file: BinaryIO) -> tuple[list[str], list[_Entry]]:
    """Names and places of all arrays, every length held against the file's. Nothing large is allocated."""
    cursor = _Cursor(path, file)
    head = file.read(4096)
    file.seek(0)
    if len(head) < 8 or struct.unpack_from("<Q", head)[0] != _LIST_MAGIC:
        raise CheckpointError(f"{path}: {_what_it_looks_like(head, path)}")
    _, reserved, count = cursor.unpack("<QQQ", "the header")
    if reserved or count > min(_MAX_ARRAYS, cursor.size // 8):
        cursor.fail(f"its header says {count:,} arrays in {cursor.size:,} bytes: it is damaged")
    entries = [_walk_array(cursor, f"array {index + 1} of {count}") for index in range(count)]
    (names_count,) = cursor.unpack("<Q", "the number of names")
    if names_count != count:
        unnamed = ": it was saved as a list, save a dict of names" if names_count == 0 else ": it is damaged"
        cursor.fail(f"it holds {count} arrays and {names_count:,} names{unnamed}")
    names = [_walk_name(cursor, f"the name of array {index + 1}") for index in range(count)]
    if len(set(names)) < count:
        twice = Counter(names).most_common(1)[0][0]
        cursor.fail(f"the name {twice!r:.80} occurs twice")
    if cursor.at < cursor.size:
        warnings.warn(
            f"{path}: {cursor.size - cursor.at:,} bytes follow its end at byte {cursor.at:,}: two files were joined, "
            "or it is damaged",
            stacklevel=3,
        )
    return names, entries


def _walk_array(cursor: _Cursor, item: str) -> _Entry:
    (magic,) = cursor.unpack("<I", item)
    if magic in (_V1, _V2, _V3):
        storage = cursor.unpack("<i", item)[0] if magic != _V1 else 0
        if storage != 0:
            cursor.fail(f"{item} is of storage type {storage} ({_SPARSE.get(storage, 'unknown')}), only dense is read")
        dimensions, letter = cursor.unpack("<I", item)[0], "q"
    elif magic <= _MAX_DIMENSIONS:  # version 0 starts with the number of dimensions
        dimensions, letter = magic, "I"
    else:
        cursor.fail(f"{item} starts with 0x{magic:08x}, which no MXNet version writes: it is damaged")
    if dimensions > _MAX_DIMENSIONS:
        cursor.fail(f"{item} has {dimensions:,} dimensions: it is damaged")
    if dimensions == 0 and magic != _V3:
        cursor.fail(f"{item} is empty: the network was saved before it was initialised")
    shape = cursor.unpack(f"<{dimensions}{letter}", item)
    device, _, flag = cursor.unpack("<iii", item)
    if flag == _BFLOAT16_FLAG:
        cursor.fail(f"{item} is bfloat16, which NumPy has not: cast the network to float32")
    if device not in _DEVICE_TYPES or flag not in _TYPE_FLAGS:
        cursor.fail(f"{item} is of type {flag} on device type {device}, which MXNet has not: it is damaged")
    dtype = np.dtype(_TYPE_FLAGS[flag])
    # An array with a dimension 0 takes no bytes, and its other dimensions must be bounded all the same.
    if min(shape, default=0) < 0 or math.prod(max(size, 1) for size in shape) > cursor.size:
        cursor.fail(
            f"{item} has the shape {shape!r:.200} in a file of {cursor.size:,} bytes: the file is cut or damaged"
        )
    offset = cursor.at
    cursor.skip(math.prod(shape) * dtype.itemsize, f"{item}, shape {shape} {dtype},")
    return _Entry(shape, dtype, offset)


def _walk_name(cursor: _Cursor, item: str) -> str:
    (length,) = cursor.unpack("<Q", item)
    try:
        return cursor.take(length, item).decode("utf-8")
    except UnicodeDecodeError:
        cursor.fail(f"{item} is no UTF-8: it is damaged")


def _read_array(path: Path, file: BinaryIO, entry: _Entry) -> np.ndarray:
    array = np.empty(entry.shape, entry.dtype)
    if array.size:
        file.seek(entry.offset)
        raw = array.reshape(-1).view(np.uint8)
        if file.readinto(memoryview(raw)) != raw.nbytes:
            raise CheckpointError(f"{path}: became shorter while it was read; fetch or save it again")
        if entry.dtype == bool and raw.max() > 1:
            raise CheckpointError(f"{path}: a truth value is {raw.max()}, neither 0 nor 1; fetch or save it again")
    return array


def _warn_not_finite(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    bad = [name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if bad:
        count = int(np.count_nonzero(~np.isfinite(arrays[bad[0]])))
        others = f" and {len(bad) - 1} other arrays" if bad[1:] else ""
        warnings.warn(
            f"{path}: array {bad[0]!r} holds {count:,} NaN or infinite values of {arrays[bad[0]].size:,}{others}: the "
            "file is damaged or the training diverged",
            stacklevel=3,
        )


def _what_it_looks_like(head: bytes, path: Path) -> str:
    if not head:
        return "is empty (0 bytes): a download or a copy was broken off; fetch or save it again"
    convert = "looks like a PyTorch checkpoint, not an MXNet .params file: convert it with `msposenet import`"
    if head.startswith(b"PK\x03\x04"):
        if b"data.pkl" in head or b"/version" in head:
            return convert
        return "looks like a zip archive (perhaps NumPy .npz), not an MXNet .params file: save the arrays as .params"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "looks like an HTML page, not a .params file: the download was answered with a web page; fetch it again"
    for prefix, what in LOOKS_LIKE:
        if head.startswith(prefix):
            return convert if what == "PyTorch" else f"looks like {what}"
    return f"is no MXNet .params file (it starts with {head[:8].hex(' ')}, not 12 01 00 00 00 00 00 00): see the path"
