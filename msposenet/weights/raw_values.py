"""Bytes of a weight file into NumPy arrays: the number types of PyTorch and safetensors files."""

from __future__ import annotations

import numpy as np

BFLOAT16 = "bfloat16"  # a type that NumPy has not: the upper half of a float32

# Under the name of PyTorch's type; little-endian.
NUMBER_TYPES = {
    "float32": "<f4", "float64": "<f8", "float16": "<f2", BFLOAT16: "<u2",
    "int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "i1", "uint8": "u1", "bool": "?",
}  # fmt: skip


def item_size(number_type: str) -> int:
    """Bytes of one value."""
    return np.dtype(NUMBER_TYPES[number_type]).itemsize


def values(raw: np.ndarray, number_type: str) -> np.ndarray:
    """The numbers in (N,) uint8 `raw`, sharing its memory; bfloat16 stays its uint16 bits, see `as_weights`."""
    return raw.view(NUMBER_TYPES[number_type])


def as_weights(array: np.ndarray, number_type: str) -> np.ndarray:
    """Floating-point numbers of any width as float32, everything else as it is."""
    if number_type == BFLOAT16:
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if number_type.startswith("float"):
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which the reader warns of
            return array.astype(np.float32, copy=False)
    return array
