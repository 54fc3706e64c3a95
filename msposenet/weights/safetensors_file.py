"""safetensors files (github.com/huggingface/safetensors): u64 length of a JSON header, the header, the values."""

from __future__ import annotations

import json
import math
import struct
from typing import BinaryIO

import numpy as np

from msposenet.errors import CheckpointError
from msposenet.weights.raw_values import as_weights, item_size, values

_TYPES = {
    "F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_LONGEST_HEADER = 16 << 20


def is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file that starts so and is this long can be one."""
    return len(head) > 8 and head[8:9] == b"{" and 2 <= struct.unpack_from("<Q", head)[0] <= min(_LONGEST_HEADER, size)


def read_safetensors(path, file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    """Arrays by name, floating point as float32. Raises CheckpointError for anything but a whole, sound file."""
    try:
        (length,) = struct.unpack("<Q", file.read(8))
        entries = {key: entry for key, entry in json.loads(file.read(length)).items() if key != "__metadata__"}
        at, arrays = 0, dict.fromkeys(entries)
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            number_type, shape, (start, end) = _TYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
            if len(shape) > 32 or not all(
                type(number) is int and 0 <= number <= size for number in (*shape, start, end)
            ):
                raise ValueError(f"{name!r:.80} has a place or shape that is none")
            # They follow each other without a gap, so that no byte is read twice.
            if start != at or math.prod(shape) * item_size(number_type) != end - start or 8 + length + end > size:
                raise ValueError(f"{name!r:.80} does not fit its bytes {start:,}-{end:,}")
            at = end
            raw = np.fromfile(file, np.uint8, end - start)
            arrays[name] = as_weights(values(raw, number_type).reshape(shape), number_type)
    except (AttributeError, KeyError, LookupError, RecursionError, TypeError, ValueError, struct.error) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path}: is a damaged safetensors file ({reason:.200}): fetch it again") from error
    return arrays
