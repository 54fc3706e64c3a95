"""Person patches: the part of a picture that any augmented crop of a person can show, small enough to be read fast."""

from __future__ import annotations

from typing import Annotated, NamedTuple, Optional

import cv2
import numpy as np
from pydantic import Field, ValidationError

from msposenet import geometry
from msposenet.config import Config, Count, Positive, Section
from msposenet.data.augmentation import half_body
from msposenet.errors import ConfigError
from msposenet.skeletons import Skeleton

OVERSAMPLE = 1.6  # 1 / 0.65: even where the augmentation enlarges most, the patch has a px for each px of the crop
LOSSLESS = 0  # quality that stores PNG

_STEPS = 4  # factors are multiples of 1 / 4
_MARGIN = 2  # patch px around a crop's corners that the interpolation may read
_ROUNDING = 1.0  # image px: centres and sizes are float32, the flip rounds the centre once more
# Cut on the grid of a picture that is a 4:2:0 JPEG, a patch loses half as much and takes a third fewer bytes.
_JPEG_GRID = 16


class PatchSettings(Section):
    """What patches depend on: a configuration that asks for no more than this can be trained from them."""

    input: tuple[Count, Count]  # height, width of the crop in px
    enlarge: Positive
    scale: Annotated[float, Field(ge=0, lt=1)]
    rotation: Annotated[float, Field(ge=0, le=180)]  # 0 where the configuration never rotates
    half_body_joints: Optional[Annotated[int, Field(ge=0)]] = None  # none where it never cuts half bodies
    oversample: Annotated[float, Field(ge=1, le=64)] = OVERSAMPLE  # patch px for each px of the crop, at least
    quality: Annotated[int, Field(ge=0, le=100)] = 95  # of the JPEG; 0: PNG

    @classmethod
    def of(cls, config: Config, quality: int = 95, oversample: float = OVERSAMPLE) -> PatchSettings:
        """What the patches of `config` need. Raises ConfigError."""
        augmentation = config.augmentation
        try:
            return cls(
                input=config.data.input,
                enlarge=config.data.enlarge,
                scale=augmentation.scale,
                rotation=augmentation.rotation if augmentation.rotation_probability > 0 else 0.0,
                half_body_joints=augmentation.half_body_joints if augmentation.half_body > 0 else None,
                oversample=oversample,
                quality=quality,
            )
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(f"{first['loc'][0]}: {first['msg']}, found {first['input']!r}") from None

    def refuse_beyond(self, asked: PatchSettings, name: str) -> None:
        """ConfigError where `asked` goes beyond the patches of the pack `name`: crops would have black corners."""
        (height, width), (asked_height, asked_width) = self.input, asked.input
        never, mine, theirs = 10**9, self.half_body_joints, asked.half_body_joints
        compared = [
            ("data.input", list(self.input), list(asked.input),
             height * asked_width == width * asked_height and asked_height <= height),
            ("data.enlarge", self.enlarge, asked.enlarge, asked.enlarge <= self.enlarge),
            ("augmentation.scale", self.scale, asked.scale, asked.scale <= self.scale),
            ("augmentation.rotation", self.rotation, asked.rotation, asked.rotation <= self.rotation),
            ("augmentation.half_body_joints (none: half_body is 0)", mine, theirs,
             (never if theirs is None else theirs) >= (never if mine is None else mine)),
        ]  # fmt: skip
        for key, packed, wanted, fits in compared:
            if not fits:
                raise ConfigError(
                    f"{name}: {key} is {wanted}, the pack was made for {packed}, which does not cover it; "
                    "make a pack for this configuration, or leave data.pack out"
                )


class Patch(NamedTuple):
    """Pixels (h, w, 3) uint8 RGB; each stands for `factor` x `factor` image px, the first beginning at `corner`.

    In the order of the arguments of `View.reduced`.
    """

    pixels: np.ndarray
    factor: float
    corner: tuple[int, int]  # x, y


class _Draw:
    """Stands in for the generator of `half_body`, whose only draw says which half comes first."""

    def __init__(self, value: float) -> None:
        self._value = value

    def standard_normal(self) -> float:
        return self._value


_EITHER_HALF = (_Draw(-np.inf), _Draw(np.inf))


def reach(
    center: np.ndarray, size: np.ndarray, keypoints: np.ndarray, skeleton: Skeleton, settings: PatchSettings
) -> np.ndarray:
    """Corners (4,) x0, y0, x1, y1 in image px of all that augmented crops of a person show.

    `center`, `size` (2,) in image px are those of the upright crop, `keypoints` (K, 3) the person's. Covers both pixel
    conventions, mirrored crops too: rotation and scale are as likely to either side.
    """
    height, width = settings.input
    crops = [(center, size)]
    if settings.half_body_joints is not None and (keypoints[:, 2] > 0).sum() > settings.half_body_joints:
        halves = (half_body(keypoints, skeleton.upper_mask, (width, height), draw) for draw in _EITHER_HALF)
        crops += [half for half in halves if half is not None]
    boxes = []
    for middle, extent in crops:
        half = _half_extent(np.asarray(extent, np.float64) * (1 + settings.scale), 2 * settings.rotation)
        boxes.append(np.concatenate([middle - half, middle + half]))
    corners = np.array(boxes, np.float64)
    return np.concatenate([corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)])


def _half_extent(size: np.ndarray, limit: float) -> np.ndarray:
    """Half the width and height (2,) of what a rectangle of `size` (2,) covers, turned by up to `limit` degrees."""
    w, h = size / 2
    limit = np.deg2rad(min(limit, 90.0))

    def furthest(along: float, across: float) -> float:
        angle = min(limit, np.arctan2(across, along))  # there the corner points straight along the axis
        return along * np.cos(angle) + across * np.sin(angle)

    return np.array([furthest(w, h), furthest(h, w)])


def reduction(size: np.ndarray, settings: PatchSettings) -> float:
    """Image px for each patch px of a person whose crop measures `size` (2,) image px: 1, 1.25, 1.5, ..."""
    px_per_crop_px = float(size[0]) / settings.input[1]
    return max(1.0, np.floor(_STEPS * px_per_crop_px / settings.oversample) / _STEPS)


def cut_patch(pixels: np.ndarray, corners: np.ndarray, factor: float) -> Patch:
    """The part of a picture (H, W, 3) within `corners` (4,) x0, y0, x1, y1 and what crops of it read around it."""
    image_wh = np.array(pixels.shape[1::-1])
    margin = _MARGIN * factor + _ROUNDING
    first = np.clip(np.floor(corners[:2] - margin), 0, image_wh - 1).astype(int)
    end = np.clip(np.ceil(corners[2:] + margin) + 1, first + 1, image_wh).astype(int)
    if factor == 1:
        first -= first % _JPEG_GRID
        part = pixels[first[1] : end[1], first[0] : end[0]]
    else:
        part = _reduced(pixels, first, end, factor)
    return Patch(part, float(factor), (int(first[0]), int(first[1])))


def _reduced(pixels: np.ndarray, first: np.ndarray, end: np.ndarray, factor: float) -> np.ndarray:
    """The px from `first` to before `end` (x, y), each `factor` x `factor` made one, the last ones completed."""
    block = round(_STEPS * factor)  # image px that become _STEPS patch px: a whole number of both
    blocks = -(-(end - first) // block)
    further = np.minimum(first + blocks * block, pixels.shape[1::-1])
    part = pixels[first[1] : further[1], first[0] : further[0]]
    missing = first + blocks * block - further
    part = cv2.copyMakeBorder(part, 0, int(missing[1]), 0, int(missing[0]), cv2.BORDER_REPLICATE)
    wide, high = (blocks * _STEPS).tolist()
    part = cv2.resize(part, (wide, high), interpolation=cv2.INTER_AREA)
    width, height = np.ceil((end - first) / factor).astype(int)
    return part[:height, :width]


def encode(pixels: np.ndarray, quality: int) -> bytes:
    """RGB (h, w, 3) as JPEG of `quality`, or as PNG when it is LOSSLESS."""
    # 4:2:0, as most pictures on disk: it decodes 1.4 times as fast as 4:4:4 and loses nothing of the brightness.
    options = [
        cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    ]  # fmt: skip
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".png", bgr)[1] if quality == LOSSLESS else cv2.imencode(".jpg", bgr, options)[1]
    return encoded.tobytes()


def crops_of(boxes: np.ndarray, settings: PatchSettings) -> tuple[np.ndarray, np.ndarray]:
    """Centres and sizes (N, 2) in image px of the upright crops of boxes (N, 4)."""
    return geometry.boxes_to_crops(boxes, (settings.input[1], settings.input[0]), settings.enlarge)
