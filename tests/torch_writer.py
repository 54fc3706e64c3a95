"""Writes `.pth` files as torch.save does (zip form), without PyTorch."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "float64": "DoubleStorage", "int64": "LongStorage"}


def write_pth(path: Path, arrays: Mapping[str, np.ndarray], wrapper: str = "") -> Path:
    """The arrays as tensors by name; `wrapper`: as a training checkpoint that holds them under this key."""
    values = [np.asarray(array) for array in arrays.values()]
    named = _mapping(_text(name) + _tensor(str(key), array) for key, (name, array) in enumerate(zip(arrays, values)))
    described = _mapping([_text("epoch") + b"K\x07", _text(wrapper) + named]) if wrapper else named
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + described + b".")
        archive.writestr("archive/byteorder", "little")
        for key, array in enumerate(values):
            archive.writestr(f"archive/data/{key}", np.ascontiguousarray(array).tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def _mapping(items) -> bytes:
    return b"}(" + b"".join(items) + b"u"


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _whole(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)


def _tuple(numbers) -> bytes:
    return b"(" + b"".join(map(_whole, numbers)) + b"t"


def _tensor(key: str, array: np.ndarray) -> bytes:
    storage = b"(" + _text("storage") + f"ctorch\n{_STORAGES[str(array.dtype)]}\n".encode()
    storage += _text(key) + _text("cpu") + _whole(array.size) + b"tQ"
    strides = [int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim)]
    arguments = storage + _whole(0) + _tuple(array.shape) + _tuple(strides) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"
