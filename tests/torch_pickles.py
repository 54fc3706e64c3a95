"""Files as torch.save writes them, made without PyTorch: whole ones, and pieces for those that must not be read."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def write_pth(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """A state dict of float32 arrays."""
    tensors, storages = {}, {}
    for index, (name, array) in enumerate(arrays.items()):
        array = np.ascontiguousarray(array, "<f4")
        values = storage(key=text(str(index)), count=number(array.size))
        tensors[name] = tensor(values, shape=array.shape, strides=[stride // 4 for stride in array.strides])
        storages[str(index)] = array.tobytes()
    path.write_bytes(archive(described(**tensors), storages))


# Pieces


def archive(
    description: bytes, storages: dict[str, bytes] | None = None, *, method=zipfile.ZIP_STORED, more=()
) -> bytes:
    """A zip as torch.save makes it around a pickle of one's own."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        made.writestr("net/data.pkl", description)
        for key, data in (storages or {}).items():
            made.writestr(f"net/data/{key}", data)
        for name, data in more:
            made.writestr(name, data)
    return buffer.getvalue()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(number(value) for value in values) + b"t"


def storage(kind: bytes = b"FloatStorage", key: bytes = text("0"), count: bytes = number(6)) -> bytes:
    return b"(" + text("storage") + b"ctorch\n" + kind + b"\n" + key + text("cpu") + count + b"tQ"


def tensor(values: bytes | None = None, offset: int = 0, shape=(2, 3), strides=(3, 1)) -> bytes:
    values = storage() if values is None else values
    arguments = values + number(offset) + numbers(*shape) + numbers(*strides) + b"\x89" + b"}"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def described(**tensors: bytes) -> bytes:
    return b"\x80\x02}(" + b"".join(text(name) + made for name, made in tensors.items()) + b"u."
