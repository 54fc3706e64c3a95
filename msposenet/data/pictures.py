"""Where a person's pixels come from: the public picture files, read whole, reduced, or once for all its persons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from msposenet import geometry
from msposenet.data.images import OnWarning, decode_image, encoded_size, read_bytes
from msposenet.data.records import Records
from msposenet.errors import ImageError

_LARGEST_REDUCTION = 8  # what libjpeg decodes by itself


@dataclass(frozen=True)
class View:
    """Pixels (h, w, 3) uint8 RGB that show a picture, or a part of it, perhaps reduced.

    The centre of view px (u, v) is the picture's point `origin` + `factor` * (u, v).
    """

    pixels: np.ndarray
    origin: tuple[float, float] = (0.0, 0.0)
    factor: float = 1.0

    @classmethod
    def reduced(cls, pixels: np.ndarray, factor: int, corner: tuple[int, int] = (0, 0)) -> View:
        """Of which each px stands for `factor` x `factor` px of the picture, the first beginning at px `corner`."""
        shift = (factor - 1) / 2
        return cls(pixels, (corner[0] + shift, corner[1] + shift), float(factor))


class Picture(Protocol):
    """An opened picture: its size is known, its pixels need not be decoded yet."""

    size_wh: tuple[int, int]

    def view(self, px_per_crop_px: float) -> View:
        """The pixels, of which `px_per_crop_px` meet in one px of the crop."""


class Pictures(Protocol):
    """Opens the picture of an instance; ImageError for what cannot be used."""

    def open(self, index: int, on_warning: OnWarning | None = None) -> Picture: ...


class FilePictures:
    """The picture files of records.

    reduced: a JPEG of which two px or more meet in one px of the crop is decoded at a half, a quarter or an eighth,
    which is faster and smoother; pixels then differ from those of the reference programs. keep: the last picture's
    pixels are kept for the next instance on it.
    """

    def __init__(self, records: Records, reduced: bool = False, keep: bool = False) -> None:
        self._records, self._reduced, self._keep = records, reduced, keep
        self._last: tuple[int, _FilePicture] | None = None

    def open(self, index: int, on_warning: OnWarning | None = None) -> Picture:
        row = self._records.image_index[index]
        if self._last is None or self._last[0] != row:
            picture = _FilePicture(self._records.picture(row), self._reduced, self._keep, on_warning)
            self._last = (row, picture) if self._keep else None
        else:
            picture = self._last[1]
        width, height = self._records.image_sizes[row].tolist()
        if not width:
            _check_box(self._records, index, picture.size_wh)
        elif (width, height) != picture.size_wh:
            # A resized or rotated copy would be trained on with every joint in the wrong place.
            raise ImageError(
                f"{self._records.picture(row)}: is {picture.size_wh[0]} x {picture.size_wh[1]} px, the annotations say "
                f"{width} x {height}; use the pictures that were annotated"
            )
        return picture


class _FilePicture:
    def __init__(self, path: str, reduced: bool, keep: bool, on_warning: OnWarning | None) -> None:
        self._path, self._on_warning, self._keep = path, on_warning, keep
        self._data = read_bytes(path)
        self._kind, self.size_wh = encoded_size(self._data, path)
        self._reduced = reduced and self._kind == "JPEG"
        self._views: dict[int, View] = {}

    def view(self, px_per_crop_px: float) -> View:
        reduction = 1
        while self._reduced and 2 * reduction <= min(px_per_crop_px, _LARGEST_REDUCTION):
            reduction *= 2
        # Only what was asked for: a finer view made for somebody else would make the sample depend on who came before.
        if reduction in self._views:
            return self._views[reduction]
        pixels = decode_image(self._data, self._path, on_warning=self._on_warning, reduction=reduction, kind=self._kind)
        view = View.reduced(pixels, reduction)
        if self._keep:
            self._views[reduction] = view
        return view


def _check_box(records: Records, index: int, size_wh: tuple[int, int]) -> None:
    """Where the annotations say no size, only now a box can be seen to miss its picture."""
    box = records.boxes[index]
    if not geometry.touches_image(box[None], np.array([size_wh]))[0]:
        raise ImageError(
            f"{records.path(index)}: annotation {records.annotation_ids[index]}: the box {box.tolist()} lies outside "
            f"the picture of {size_wh[0]} x {size_wh[1]} px; correct or delete the annotation"
        )
