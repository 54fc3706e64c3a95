"""MATLAB files for tests, written by SciPy; MPII's release as it is laid out."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import scipy.io

EMPTY = np.zeros((0, 0))


def matlab(variables: dict, compressed: bool = True) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, variables, do_compression=compressed)
    return file.getvalue()


def struct_array(elements: Sequence[dict], fields: Sequence[str] | None = None) -> np.ndarray:
    """A 1 x N struct array; fields that an element lacks are empty in it, as MATLAB fills them."""
    fields = fields or list(dict.fromkeys(name for element in elements for name in element))
    array = np.empty((1, len(elements)), dtype=[(name, object) for name in fields])
    for place, element in enumerate(elements):
        for name in fields:
            array[name][0, place] = element.get(name, EMPTY)
    return array


def smallest(number: float) -> object:
    """As the release stores a coordinate: of 16 bits if it is a whole number."""
    return np.int16(number) if number == int(number) else float(number)


def points(joints: dict[int, tuple[float, float]], flags: dict[int, object] | None = None) -> dict:
    """`annopoints` with joints by id; without `flags` no point has the field is_visible."""
    entries = [{"x": float(x), "y": smallest(y), "id": np.uint8(joint)} for joint, (x, y) in joints.items()]
    if flags is not None:
        for entry in entries:
            entry["is_visible"] = flags.get(int(entry["id"]), EMPTY)
    return {"point": struct_array(entries)}


def release(pictures: Sequence[tuple[str, int, list[dict] | None]]) -> dict:
    """RELEASE from (file name, img_train, persons); None for a picture whose `annorect` is empty."""
    annolist = [
        {
            "image": {"name": name},
            "annorect": EMPTY if people is None else struct_array(people),
            "frame_sec": EMPTY,
            "vididx": EMPTY,
        }
        for name, _, people in pictures
    ]
    cells = np.empty((len(pictures), 1), dtype=object)
    cells[:, 0] = [np.zeros((0, 0)) for _ in pictures]
    return {
        "RELEASE": {
            "annolist": struct_array(annolist),
            "img_train": np.array([[train for _, train, _ in pictures]], np.uint8),
            "version": "12",
            "single_person": cells,
            "act": struct_array([{"cat_name": "sports", "act_name": "ski, jump", "act_id": 1} for _ in pictures]),
        }
    }
