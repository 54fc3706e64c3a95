"""What `torch.save` writes, read without PyTorch and without running anything that the file says.

Both forms are read (torch/serialization.py):

* since 1.6 a zip archive, entries stored as they are: `NAME/data.pkl` describes the tensors and `NAME/data/KEY` holds
  their values, `NAME/byteorder` says in which order of bytes;
* before, one file: pickles of a magic number, the protocol's version, the machine's properties, the description and
  the list of storages' keys, then for each key the number of values and the values.

The description is a pickle, which in Python can run any code. Here torch_pickle.py reads it, which knows a list of
names and refuses all others. Places, shapes and strides of a tensor are held against its values before it is made.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from typing import Any, BinaryIO

import numpy as np

from msposenet.errors import CheckpointError
from msposenet.storage import PathLike, open_input
from msposenet.weights.params_file import LOOKS_LIKE
from msposenet.weights.plain_pickle import Window, read_pickle
from msposenet.weights.raw_values import as_weights, item_size, values
from msposenet.weights.safetensors_file import is_safetensors, read_safetensors
from msposenet.weights.stored_zip import StoredZip
from msposenet.weights.torch_pickle import Array, Described, Tensor, Values, describe, refuse_name

_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_HEAD = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9"
_LEGACY_PROTOCOL = 1001
_MOST_COPIES = 4  # of a file's bytes that its tensors may take: half precision doubles, tensors may share values
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")
_WRAPPINGS = {"module.": "DataParallel", "1.": "a half-precision wrapper, network_to_half"}


class StateDict(dict):  # of str: np.ndarray
    """Arrays by name, in the file's order; `notes` are sentences on what was taken off or passed over."""

    notes: tuple[str, ...] = ()


def read_state_dict(path: PathLike) -> StateDict:
    """Arrays by name from a `.pth`, `.pt`, `.bin` or `.safetensors` file.

    Numbers in floating point of any width come as float32 (bfloat16 and float64 too, with their rounding), whole
    numbers and truth values as they are; a tensor of no dimension stays one. The values of a training checkpoint are
    the first nested mapping of tensors, `state_dict` if there is one; a `module.` before all names (DataParallel) is
    taken off. Both are said in `notes`. Only these values are read, not the optimizer's, so that the memory taken is
    about the size of the weights.

    Raises CheckpointError for a file that is damaged, that names something to be run or made, or that is no such file.
    """
    with open_input(path, CheckpointError) as file:
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(512)
        file.seek(0)
        if head.startswith(b"PK\x03\x04"):
            arrays = _read_zip(path, file, size)
        elif head.startswith(_LEGACY_HEAD):
            arrays = _read_legacy(path, file, size)
        elif is_safetensors(head, size):
            arrays = StateDict(read_safetensors(path, file, size))
        else:
            raise CheckpointError(f"{path}: {_what_it_looks_like(head)}")
    arrays = _without_wrapping(arrays)
    if not arrays:
        raise CheckpointError(f"{path}: holds no tensors; save the network's state_dict()")
    _warn_not_finite(path, arrays)
    return arrays


# The two forms


def _read_zip(path, file: BinaryIO, size: int) -> StateDict:
    archive = StoredZip(path, file, size)
    lists = [name for name in archive.entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(lists) != 1:
        raise CheckpointError(
            f"{path}: is a zip archive that torch.save did not write (perhaps NumPy's .npz): name a .pth file"
        )
    root = lists[0].split("/")[0]
    if f"{root}/constants.pkl" in archive.entries or any(name.startswith(f"{root}/code/") for name in archive.entries):
        raise CheckpointError(
            f"{path}: is a TorchScript archive (torch.jit.save), a program with its weights: save the weights alone, "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
        )
    order = bytes(archive.read(f"{root}/byteorder")) if f"{root}/byteorder" in archive.entries else b"little"
    if order not in (b"little", b"big"):
        raise CheckpointError(f"{path}: its byteorder is {order!r:.40}, neither little nor big; fetch or save it again")
    start, length = archive.place(lists[0])
    described = describe(path, Window(path, file, start, start + length))

    def raw_values(stored: Values) -> np.ndarray:
        raw = archive.read(f"{root}/data/{stored.key}")
        width = item_size(stored.number_type)
        if len(raw) < stored.count * width:
            raise CheckpointError(
                f"{path}: storage {stored.key!r:.80} has {len(raw):,} bytes, its tensors need "
                f"{stored.count * width:,}; fetch or save it again"
            )
        raw = raw[: stored.count * width]
        return raw.view(f"u{width}").byteswap().view(np.uint8) if order == b"big" and width > 1 else raw

    return _arrays(described, raw_values, size)


def _read_legacy(path, file: BinaryIO, size: int) -> StateDict:
    window = Window(path, file, 0, size)

    def plain(names: dict[str, Any]) -> Any:
        return read_pickle(window, names, refuse=lambda name: refuse_name(path, name))

    magic, protocol, machine = plain({}), plain({}), plain({})
    if magic != _MAGIC or protocol != _LEGACY_PROTOCOL or not isinstance(machine, dict):
        window.fail("its header is not PyTorch's")
    if machine.get("little_endian") is not True:
        raise CheckpointError(f"{path}: was written on a big-endian machine: load and save it again with PyTorch")
    described = describe(path, window)
    keys = plain({})
    if type(keys) is not list or not all(isinstance(key, str) for key in keys):
        window.fail("its list of storages is none")
    places = {}
    for key in keys:
        stored = described.sizes.get(key)
        if stored is None or key in places:
            window.fail(f"its storage {key!r:.40} belongs to no tensor or is there twice")
        if window.unpack("<q") != stored.count:
            window.fail(f"its storage {key!r:.40} is not as long as its tensors say")
        places[key] = window.at
        window.at += stored.count * item_size(stored.number_type)
        if window.at > size:
            window.fail(f"its storage {key!r:.40} ends at byte {window.at:,} of {size:,}")
        file.seek(window.at)
    if window.at < size:
        warnings.warn(f"{path}: {size - window.at:,} bytes follow its end at byte {window.at:,}", stacklevel=4)

    def raw_values(stored: Values) -> np.ndarray:
        if stored.key not in places:
            window.fail(f"its storage {stored.key!r:.40} is missing")
        file.seek(places[stored.key])
        raw = np.empty(stored.count * item_size(stored.number_type), np.uint8)
        if raw.size and file.readinto(memoryview(raw)) != raw.size:
            window.fail("became shorter while it was read")
        return raw

    return _arrays(described, raw_values, size)


# From the description to arrays


def _arrays(described: Described, raw_values, size: int) -> StateDict:
    """The chosen tensors; each storage is read once, and let go before the next."""
    named, notes = _weights_in(described)
    total = sum(math.prod(tensor.shape) * max(4, _width(tensor)) for tensor in named.values())
    if total > _MOST_COPIES * size + (1 << 20):
        raise CheckpointError(
            f"{described.path}: its tensors would take over {_MOST_COPIES} times the file's {size:,} bytes of memory: "
            "they repeat each other; save each with .clone()"
        )
    arrays = StateDict(dict.fromkeys(named))
    by_storage: dict[str, list[str]] = {}
    for name, tensor in named.items():
        if isinstance(tensor, Array):
            arrays[name] = as_weights(tensor.made(), tensor.number_type)
        else:
            by_storage.setdefault(tensor.values.key, []).append(name)
    for key, names in by_storage.items():
        raw = raw_values(described.sizes[key])
        for name in names:
            arrays[name] = _array(named[name], raw, alone=len(names) == 1)
    narrow = sorted({tensor.number_type for tensor in named.values()} & {"float16", "bfloat16", "float64"})
    arrays.notes = notes + tuple(f"tensors of {number_type} are taken as float32" for number_type in narrow)
    return arrays


def _width(tensor: Tensor | Array) -> int:
    return np.dtype(tensor.dtype).itemsize if isinstance(tensor, Array) else item_size(tensor.number_type)


def _array(tensor: Tensor, raw: np.ndarray, alone: bool) -> np.ndarray:
    """A tensor's numbers in C order; without a copy where it is all that its storage holds."""
    width = item_size(tensor.number_type)
    raw = raw[: len(raw) // width * width]
    if tensor.number_type == "bool" and raw.size and raw.max() > 1:
        raw = (raw != 0).view(np.uint8)
    numbers = values(raw, tensor.number_type)[tensor.values.start :]
    if 0 in tensor.shape:
        return as_weights(np.empty(tensor.shape, numbers.dtype), tensor.number_type)
    strides = [stride * width for stride in tensor.strides]
    seen = np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, strides)
    whole = alone and seen.size == numbers.size and seen.flags.c_contiguous
    return as_weights(seen if whole else seen.copy("C"), tensor.number_type)


def _weights_in(described: Described) -> tuple[dict[str, Tensor | Array], tuple[str, ...]]:
    """The mapping of tensors that is meant, and what to say of the choice."""
    found: list[tuple[tuple[str, ...], dict]] = []
    seen, waiting = set(), deque([((), described.root)])
    while waiting:
        place, mapping = waiting.popleft()
        if type(mapping) is not dict or id(mapping) in seen or len(place) > 3:
            continue
        seen.add(id(mapping))
        named = {key: value for key, value in mapping.items() if isinstance(key, str)}
        if any(isinstance(value, Tensor) or _is_array(value) for value in named.values()):
            found.append((place, named))
        waiting.extend(((*place, key), value) for key, value in named.items() if type(value) is dict)
    if isinstance(described.root, Tensor) or not found:
        held = "a single tensor" if isinstance(described.root, Tensor) else "no mapping of names to tensors"
        raise CheckpointError(f"{described.path}: holds {held}: save the network's state_dict()")

    def rank(candidate: tuple[tuple[str, ...], dict]) -> tuple[int, int]:
        place, named = candidate
        wrapper = place[-1] if place else ""
        tensors = sum(isinstance(value, (Tensor, Array)) for value in named.values())
        return _WRAPPERS.index(wrapper) if wrapper in _WRAPPERS else len(_WRAPPERS), -tensors

    place, named = min(found, key=rank)
    chosen = {name: value for name, value in named.items() if isinstance(value, Tensor) or _is_array(value)}
    notes = []
    if place:
        notes.append(f"a training checkpoint: its `{_spelled(place)}` was taken")
        others = [_spelled(other) for other, _ in found if other not in (place, ())]
        if others:
            notes.append(f"it has tensors under {', '.join(others[:5])} too, which were passed over")
    if len(chosen) < len(named):
        dropped = ", ".join(f"{name:.60}" for name in [name for name in named if name not in chosen][:5])
        notes.append(f"{len(named) - len(chosen)} entries beside the tensors are no tensors: {dropped}")
    return chosen, tuple(notes)


def _is_array(value: Any) -> bool:
    return isinstance(value, Array) and value.shape != ()  # a scalar is an epoch's score, not a weight


def _spelled(place: tuple[str, ...]) -> str:
    return ".".join(f"{key:.60}" for key in place)


def _without_wrapping(arrays: StateDict) -> StateDict:
    """Without what DataParallel and the half-precision wrapper of HigherHRNet's program put before all names."""
    while arrays:
        prefix = next((prefix for prefix in _WRAPPINGS if all(name.startswith(prefix) for name in arrays)), None)
        if prefix is None:
            break
        shorter = StateDict((name[len(prefix) :], array) for name, array in arrays.items())
        shorter.notes = (*arrays.notes, f"`{prefix}` ({_WRAPPINGS[prefix]}) was taken off all names")
        arrays = shorter
    return arrays


def _warn_not_finite(path, arrays: StateDict) -> None:
    bad = [name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if bad:
        others = f" and {len(bad) - 1} others" if bad[1:] else ""
        warnings.warn(f"{path}: tensor {bad[0]!r:.80}{others}: NaN or infinite values", stacklevel=3)


def _what_it_looks_like(head: bytes) -> str:
    if not head:
        return "is empty (0 bytes): a download or a copy was broken off; fetch it again"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "looks like an HTML page, not weights: the download was answered with a web page; fetch it again"
    if head.startswith(b"\x12\x01\0\0\0\0\0\0"):
        return "is an MXNet .params file, not PyTorch's: it is read as it is, with --weights or pretrained="
    if head[257:262] == b"ustar":
        return "is a tar archive: unpack it, or load and save it again with PyTorch if it is older than 0.2"
    for prefix, what in LOOKS_LIKE:
        if head.startswith(prefix):
            return f"looks like {what}"
    return f"is no file of torch.save (it starts with {head[:8].hex(' ')}): see the path"
