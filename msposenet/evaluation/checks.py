"""Guards for JSON that somebody else wrote: every failure is the error class asked for, with place and value."""

from __future__ import annotations

import array
import contextlib
import gc
import json
import reprlib
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Union

import msgspec
import numpy as np

from msposenet.errors import PoseError
from msposenet.storage import open_input

ImageId = Union[int, str]

LARGEST_COORDINATE = 1e6  # px; nothing a camera makes comes near it


def read_json(path: Path | str, error: type[PoseError], form: Any = Any) -> Any:
    """Content of the JSON file `path`; raises `error` naming it when it is missing, unreadable or not whole JSON.

    `form` is the type expected, of dicts with the keys wanted (TypedDict): of a file of that form only these are read,
    many times faster. Any other file is read whole.
    """
    with open_input(path, error) as file:
        content = file.read()
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError), _no_collection():
        if form is not Any:
            if not content.isascii():
                content.decode()  # msgspec does not look at the text that it skips
            return msgspec.json.decode(content, type=form)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as reason:
        raise error(f"{path}: not whole JSON ({reason}); fetch or write the file again") from None


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """For parsing, which makes objects and no garbage: the collector would walk them again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def check_records(records: Any, keys: Sequence[str], source: str, what: str, error: type[PoseError]) -> None:
    """`error` unless `records` is a list of objects that all have `keys`; `what` names one of them."""
    if not isinstance(records, list):
        raise error(f"{source}: expected a list, one {what} each, found {type(records).__name__}")
    for row, record in enumerate(records):
        if not isinstance(record, dict):
            raise error(f"{source}: {what} {row} must be an object, found {short(record)}")
        for key in keys:
            if key not in record:
                names = ", ".join(f"{name} {short(record[name])}" for name in ("id", "image_id") if name in record)
                raise error(f"{source}: {what} {row} ({names or 'no id'}) has no {key!r}; add it")


def check_id(value: Any, place: str, error: type[PoseError]) -> ImageId:
    """`value` as an id: a whole number or text; `error` otherwise."""
    if isinstance(value, str):
        return value
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    raise error(f"{place}: the id {short(value)} must be a whole number or text")


def check_ids(values: list[Any], place: Callable[[int], str], error: type[PoseError]) -> list[ImageId]:
    """`check_id` of each of `values`; `place` names a row."""
    if set(map(type, values)) <= {int, str}:
        return values
    return [check_id(value, place(row), error) for row, value in enumerate(values)]


def number_table(
    rows: list[Any], width: int, place: Callable[[int], str], name: str, error: type[PoseError]
) -> np.ndarray:
    """`rows` of `width` numbers each as (N, width) float64; `error` with `place(row)` for another length or type."""
    for row, values in enumerate(rows):
        listed = isinstance(values, (list, tuple)) or (isinstance(values, np.ndarray) and values.ndim == 1)
        if not listed or len(values) != width:
            found = f"{len(values)} values" if listed else short(values)
            raise error(f"{place(row)}: {name} must be {width} numbers, found {found}")
    if all(type(values) is list for values in rows):
        flat = array.array("d")
        with contextlib.suppress(TypeError, OverflowError):  # told below
            for values in rows:
                flat.fromlist(values)  # half the time of np.array
            return np.array(flat).reshape(len(rows), width)
    try:
        table = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        table = None
    if table is not None and (not rows or table.shape == (len(rows), width)):
        return table.reshape(len(rows), width)
    for row, values in enumerate(rows):
        try:
            sound = np.array(values, dtype=np.float64).shape == (width,)
        except (TypeError, ValueError, OverflowError):
            sound = False
        if not sound:
            raise error(f"{place(row)}: {name} must be plain numbers, found {short(values)}")
    raise error(f"{place(0)}: {name} must be plain numbers")


def check_finite(table: np.ndarray, place: Callable[[int], str], name: str, error: type[PoseError]) -> None:
    """`error` naming the first row of `table` (N, any) with NaN or infinity."""
    sound = np.isfinite(table).all(axis=1)
    if not sound.all():
        row = int(np.argmin(sound))
        value = table[row][~np.isfinite(table[row])][0]
        raise error(f"{place(row)}: {name} holds {value}; every value must be finite")


def short(value: Any) -> str:
    """`value` as an error message shows it: cut in length and depth, since a damaged file may hold anything."""
    return reprlib.repr(value)
