"""Guards for the arrays that a caller hands to a metric: every failure names the array, the item and the value."""

from __future__ import annotations

from typing import Any

import numpy as np

from msposenet.errors import ConfigError, PoseError
from msposenet.evaluation.checks import LARGEST_COORDINATE, short
from msposenet.skeletons import Skeleton


def array_of(
    values: Any, shape: tuple[int | None, ...], name: str, error: type[PoseError], dtype: type = np.float64
) -> np.ndarray:
    """`values` as an array of `shape`, where None is any length; `error` naming `name` and what was found."""
    try:
        array = np.asarray(values, dtype)
    except (TypeError, ValueError, OverflowError):
        raise error(f"{name} must be plain numbers, found {short(values)}") from None
    wanted = tuple(length if size is None else size for length, size in zip(array.shape, shape))
    if array.ndim != len(shape) or array.shape != wanted:
        axes = ", ".join("any" if size is None else str(size) for size in shape) + ("," if len(shape) == 1 else "")
        raise error(f"{name} must have the shape ({axes}), found {array.shape}; give one row a person")
    return array


def mask_of(values: Any, length: int, name: str, error: type[PoseError]) -> np.ndarray:
    """`values` as booleans (length,), all true where `values` is None."""
    return np.ones(length, bool) if values is None else array_of(values, (length,), name, error, bool)


def coordinates_where(
    counted: np.ndarray, xy: np.ndarray, name: str, skeleton: Skeleton, error: type[PoseError]
) -> np.ndarray:
    """`xy` (N, K, 2) with 0 where not `counted` (N, K), since such entries mean nothing and may be NaN.

    `error` naming person and joint where a counted coordinate is not finite or beyond 1e6 px.
    """
    sound = (np.abs(xy) <= LARGEST_COORDINATE).all(axis=2) | ~counted
    if not sound.all():
        person, joint = np.argwhere(~sound)[0]
        found = ", ".join(f"{value:g}" for value in xy[person, joint])
        raise error(
            f"{name}: {skeleton.joints[joint]} of person {person} is at ({found}); "
            "coordinates must be finite and within 1e6 px"
        )
    return np.where(counted[..., None], xy, 0)


def positive(values: np.ndarray, name: str, error: type[PoseError]) -> np.ndarray:
    """`values` (N,) as they are; `error` naming the first that is not a positive finite number."""
    sound = np.isfinite(values) & (values > 0)
    if not sound.all():
        person = int(np.argmin(sound))
        raise error(f"{name}: that of person {person} is {values[person]:g}; correct it or leave the person out")
    return values


def check_boxes_named(boxes: str) -> None:
    """ConfigError unless `boxes` says in whose boxes the poses were found."""
    if not isinstance(boxes, str) or not boxes.strip():
        raise ConfigError('say whose boxes were used: boxes="ground truth" or boxes="detector FILE"')
