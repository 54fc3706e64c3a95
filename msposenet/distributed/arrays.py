"""Named arrays as bytes for the control channel, bit for bit and without pickle.

The layout: `MSPA`, the header's length and the CRC-32 of all that follows (u32 each, little-endian), the header (JSON,
for each array its name, NumPy type string and shape), then the values in C order, one array behind the other.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from msposenet.errors import PeerError

_MAGIC = b"MSPA"
_HEAD = struct.Struct("<4sII")
_NUMERIC = "biufc"
_MAX_DIMENSIONS = 32  # NumPy's own limit


def pack_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The arrays, of any numeric type and shape, in their order. TypeError for another type."""
    entries, buffers = [], []
    for name, array in arrays.items():
        if array.dtype.kind not in _NUMERIC:
            raise TypeError(f"{name}: arrays of type {array.dtype} are not numbers")
        entries.append([name, array.dtype.str, list(array.shape)])
        buffers.append(array.tobytes())
    header = json.dumps(entries).encode("ascii")
    check = zlib.crc32(header)
    for buffer in buffers:
        check = zlib.crc32(buffer, check)
    return b"".join([_HEAD.pack(_MAGIC, len(header), check), header, *buffers])


def unpack_arrays(data: bytes) -> dict[str, np.ndarray]:
    """What `pack_arrays` was given, writable. Raises PeerError for anything else."""
    if len(data) < _HEAD.size:
        _refuse(f"{len(data)} bytes are too few")
    magic, length, check = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        _refuse("they begin with something else")
    if zlib.crc32(memoryview(data)[_HEAD.size :]) != check:
        _refuse("the checksum is wrong")
    offset = _HEAD.size + length
    if offset > len(data):
        _refuse("the header is cut off")
    try:
        entries = json.loads(data[_HEAD.size : offset])
    except (ValueError, RecursionError):
        _refuse("the header is no JSON")
    arrays: dict[str, np.ndarray] = {}
    for entry in entries if isinstance(entries, list) else _refuse("the header is no list"):
        name, dtype, shape = _entry(entry)
        size = dtype.itemsize * math.prod(shape)
        if name in arrays:
            _refuse(f"{name!r} comes twice")
        if offset + size > len(data):
            _refuse(f"{name!r} is cut off")
        arrays[name] = np.frombuffer(data[offset : offset + size], dtype).reshape(shape).copy()
        offset += size
    if offset != len(data):
        _refuse(f"{len(data) - offset} bytes are left over")
    return arrays


def _entry(entry: Any) -> tuple[str, np.dtype, tuple[int, ...]]:
    if not (isinstance(entry, list) and len(entry) == 3 and isinstance(entry[0], str) and isinstance(entry[1], str)):
        _refuse("the header is of another form")
    name, kind, shape = entry
    try:
        dtype = np.dtype(kind)
    except (TypeError, ValueError, SyntaxError):
        _refuse(f"{name!r} is of unknown type {kind!r}")
    if dtype.kind not in _NUMERIC or dtype.str != kind:
        _refuse(f"{name!r} is of unknown type {kind!r}")
    if not (
        isinstance(shape, list) and len(shape) <= _MAX_DIMENSIONS and all(type(n) is int and n >= 0 for n in shape)
    ):
        _refuse(f"{name!r} has shape {shape!r}")
    # The product is NumPy's own limit, also when one side is 0.
    if max(shape, default=0) > 2**31 or math.prod(max(n, 1) for n in shape) * dtype.itemsize > 2**62:
        _refuse(f"{name!r} has shape {shape!r}")
    return name, dtype, tuple(shape)


def _refuse(why: str) -> NoReturn:
    raise PeerError(
        f"arrays from another process of the job are damaged: {why}; do all run the same version? Resume the run"
    )
