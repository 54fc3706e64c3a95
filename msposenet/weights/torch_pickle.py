"""What the pickle of a PyTorch file may name, and what is made of it: descriptions of tensors, never objects.

The names are those that state dicts and training checkpoints of PyTorch 0.4 to 2 use (torch/_utils.py,
torch/_weights_only_unpickler.py). None of them is imported or called: each stands for a function here that checks its
arguments. Whatever else a file names ends the reading.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from msposenet.errors import CheckpointError
from msposenet.weights.plain_pickle import Call, Window, put_items, read_pickle
from msposenet.weights.raw_values import NUMBER_TYPES, item_size

_MOST_DIMENSIONS = 32
_STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip
_TORCH_TYPES = ("float", "double", "half", "long", "int", "short", *NUMBER_TYPES)


class _Storage(str):
    """A type of storage, by the name of its numbers."""


@dataclass(frozen=True)
class Values:
    """A storage that a tensor looks into: `count` numbers from the `start`-th of those under `key`."""

    key: str
    number_type: str
    count: int
    start: int = 0


@dataclass(frozen=True)
class Tensor:
    values: Values
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def number_type(self) -> str:
        return self.values.number_type


@dataclass
class Array:
    """A NumPy array or scalar in a checkpoint: checked, and made only if it is asked for as a weight."""

    dtype: str = "<f8"
    shape: tuple[int, ...] = ()
    raw: bytes = b""
    transposed: bool = False

    @property
    def number_type(self) -> str:
        return np.dtype(self.dtype).name

    def made(self) -> np.ndarray:
        """The array itself, writable and in C order."""
        plain = np.frombuffer(self.raw, self.dtype)
        return plain.reshape(self.shape, order="F" if self.transposed else "C").copy("C")


@dataclass
class _Dtype:
    name: str


@dataclass
class Described:
    """What a file's pickle says: `root`, and the storages in it by key."""

    path: Any
    names: dict[str, Any] = field(default_factory=dict)
    root: Any = None
    sizes: dict[str, Values] = field(default_factory=dict)


def describe(path, window: Window) -> Described:
    """What the pickle at the window's place says. Raises CheckpointError for names not admitted and for damage."""
    described = Described(path)
    budget = [window.end - window.at]

    def persistent(identity: Any) -> Values:
        if type(identity) is not tuple or not identity or not isinstance(identity[0], str):
            raise ValueError
        if identity[0] == "module":
            refuse_name(path, "torch.nn.Module")
        part, whole = _values(*identity)
        known = described.sizes.setdefault(whole.key, whole)
        if known.count * item_size(known.number_type) != whole.count * item_size(whole.number_type):
            raise ValueError
        return part

    def pay(count: int) -> None:
        """Copies are made of what a pickle may name again and again, for two bytes each time."""
        budget[0] -= count
        if budget[0] < 0:
            window.fail("it copies the same values over and over")

    def ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
        pay(len(pairs))
        items: dict[Any, Any] = {}
        for key, value in pairs.items() if isinstance(pairs, dict) else pairs:
            put_items(items, [key, value])
        return items

    def encode(text: str, encoding: str = "utf-8") -> bytes:
        pay(len(text))
        if encoding not in ("latin1", "latin-1", "ascii", "utf-8"):
            raise ValueError
        return text.encode(encoding)

    described.names = {
        "torch._utils._rebuild_tensor": Call("tensor", _tensor),
        "torch._utils._rebuild_tensor_v2": Call("tensor", _tensor),
        "torch._utils._rebuild_parameter": Call("parameter", lambda tensor, *_: tensor),
        "torch.Size": Call("size", lambda size=(): size if type(size) is tuple else tuple(size[:_MOST_DIMENSIONS])),
        "torch.device": Call("device", lambda *_: None),
        "collections.OrderedDict": Call("dict", ordered_dict),
        "collections.Counter": Call("dict", ordered_dict),
        "_codecs.encode": Call("bytes", encode),
        "numpy.dtype": Call("dtype", lambda name, *_: _Dtype(name)),
        "numpy.ndarray": None,  # an argument of _reconstruct, which makes nothing yet
        **{f"torch.{name}": None for name in _TORCH_TYPES},
        **{f"torch.{name}": _Storage(number_type) for name, number_type in _STORAGES.items()},
        **{f"{builtins}.set": Call("set", lambda values=(): values) for builtins in ("builtins", "__builtin__")},
    }
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        described.names[f"{core}.scalar"] = Call("scalar", _scalar)
        described.names[f"{core}._reconstruct"] = Call("array", lambda *_: Array())
    described.root = read_pickle(
        window, described.names, refuse=lambda name: refuse_name(path, name), persistent=persistent, build=_build
    )
    return described


def refuse_name(path, name: str) -> NoReturn:
    """CheckpointError naming what a file wants made."""
    raise CheckpointError(
        f"{path}: names {name!r:.120}, which is neither a tensor nor a plain value: making it could run code, so it is "
        "refused. If you trust the file, save its weights alone with PyTorch: "
        "torch.save(torch.load(FILE, weights_only=False)['state_dict'], 'weights.pth'), for a whole network its "
        ".state_dict()"
    )


def _values(kind: str, storage: Any, key: Any, location: Any, count: Any, view: Any = None) -> tuple[Values, Values]:
    """The part that is looked into, and the whole: before 0.4 a storage could be a part of another."""
    whole = _stored(kind, storage, key, count)
    if view is None:
        return whole, whole
    _, start, length = view
    if not _are_counts(start, length) or start + length > count:
        raise ValueError
    return Values(whole.key, whole.number_type, length, start), whole


def _stored(kind: str, storage: Any, key: Any, count: Any) -> Values:
    if kind != "storage" or not isinstance(storage, _Storage) or not isinstance(key, str) or not _are_counts(count):
        raise ValueError
    return Values(key, str(storage), count)


def _tensor(stored: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if not isinstance(stored, Values) or not (type(shape) is tuple and type(strides) is tuple):
        raise ValueError
    if not _are_counts(offset, *shape, *strides) or len(shape) != len(strides) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError
    if 0 in shape:
        if math.prod(max(length, 1) for length in shape) > 1 << 40:
            raise ValueError
    elif offset + sum((length - 1) * stride for length, stride in zip(shape, strides)) >= stored.count:
        raise ValueError
    return Tensor(stored, offset, shape, strides)


def _are_counts(*numbers: Any) -> bool:
    return all(type(number) is int and 0 <= number < 1 << 62 for number in numbers)


def _scalar(dtype: Any, raw: Any = b"") -> Array:
    array = Array()
    _set_array(array, dtype, (), raw, False)
    return array


def _build(made: Any, state: Any) -> None:
    """State of an object: what NumPy's types and arrays need; attributes of dicts and parameters mean nothing here."""
    if isinstance(made, _Dtype):
        if state[1] not in ("<", "|", "=") or any(part is not None for part in state[2:5]):
            raise ValueError
    elif isinstance(made, Array):
        _, shape, dtype, transposed, raw = state
        _set_array(made, dtype, shape, raw, transposed)
    elif not isinstance(made, (dict, Tensor)):
        raise TypeError


def _set_array(array: Array, dtype: Any, shape: Any, raw: Any, transposed: Any) -> None:
    if not isinstance(dtype, _Dtype) or not isinstance(dtype.name, str):
        raise ValueError
    if re.fullmatch("[fiub][0-9]{1,2}", dtype.name) is None:
        return  # text or objects: they are no weights, whatever is in them
    if type(shape) is not tuple or not _are_counts(*shape) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError
    if not isinstance(raw, bytes) or math.prod(shape) * np.dtype(dtype.name).itemsize != len(raw):
        raise ValueError
    array.dtype, array.shape, array.raw, array.transposed = dtype.name, shape, raw, bool(transposed)
