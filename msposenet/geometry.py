"""Boxes, crops and flips: the one place that knows a pixel convention.

`standard` (HRNet's programs) measures sizes in pixels: a crop of w pixels is w wide, a heatmap cell is a fixed number
of input pixels. `unbiased` (UDP, Huang et al., CVPR 2020) measures the intervals between pixel centres: w pixels
span w - 1. Flip, crop and resize agree exactly only in the second.

Frames: `image` is the picture, `crop` the network's input, `heatmap` its output; a pixel's centre has integer
coordinates. A person's crop is described by its `center` (x, y) and `size` (width, height) in image px.
"""

from __future__ import annotations

import math
from enum import Enum

import cv2
import numpy as np

ENLARGE = 1.25  # margin that HRNet gives every box
_REFERENCE_UNIT = np.float32(200)  # px; the reference programs keep a person's size in float32 multiples of it


class Convention(str, Enum):
    """How sizes are measured: STANDARD in pixels, UNBIASED in intervals between pixel centres."""

    STANDARD = "standard"
    UNBIASED = "unbiased"

    def extent(self, size_wh) -> np.ndarray:
        """Length (w, h) of `size_wh` pixels: themselves, or one less."""
        return np.asarray(size_wh, dtype=np.float64) - (1.0 if self is Convention.UNBIASED else 0.0)


def clip_boxes(boxes: np.ndarray, image_wh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) x, y, w, h cut to pictures of (N, 2) or (2,) width and height -> boxes, kept (N,).

    HRNet's rule: the far corner is x + w - 1, at most W - 1; a box is kept when nothing of it is turned inside out.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    image_wh = np.broadcast_to(np.asarray(image_wh, dtype=np.float64), (len(boxes), 2))
    near = np.maximum(boxes[:, :2], 0)
    far = np.minimum(image_wh - 1, near + np.maximum(boxes[:, 2:] - 1, 0))
    return np.concatenate([near, far - near], axis=1), (far >= near).all(axis=1)


def touches_image(boxes: np.ndarray, image_wh: np.ndarray) -> np.ndarray:
    """Which (N,) of the boxes (N, 4) x, y, w, h share anything with pictures of (N, 2) or (2,) width and height."""
    boxes, image_wh = np.asarray(boxes, dtype=np.float64), np.asarray(image_wh)
    return ((boxes[:, :2] < image_wh) & (boxes[:, :2] + boxes[:, 2:] > 0)).all(axis=1)


def joint_boxes(keypoints: np.ndarray, sizes: np.ndarray, margin: float) -> np.ndarray:
    """Boxes (N, 4) x, y, w, h around the labelled joints of (N, K, 3), larger by `margin` of their extent on each side.

    They are cut to pictures of (N, 2) width and height, where 0 means not known. Zeros where no joint is labelled;
    joints on a line or outside the picture give a box without width or height.
    """
    labelled = keypoints[..., 2:] > 0
    xy = keypoints[..., :2].astype(np.float64)
    near = np.where(labelled, xy, np.inf).min(axis=1)
    far = np.where(labelled, xy, -np.inf).max(axis=1)
    extent = np.maximum(far - near, 0)
    known = sizes > 0
    near = np.maximum(near - margin * extent, np.where(known, 0, -np.inf))
    far = np.minimum(far + margin * extent, np.where(known, sizes - 1, np.inf))
    found = labelled.any(axis=1)
    return np.concatenate([np.where(found, near, 0), np.where(found, far, 0) - np.where(found, near, 0)], axis=1)


def boxes_to_crops(boxes: np.ndarray, input_wh, enlarge: float = ENLARGE) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) x, y, w, h -> centres (N, 2) and sizes (N, 2) in image px, float32.

    The short side grows to the input's aspect, then both by `enlarge`. The reference's `scale` is size / 200.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    center = boxes[:, :2] + 0.5 * boxes[:, 2:]
    return center.astype(np.float32), resize(fix_aspect(boxes[:, 2:], input_wh), enlarge)


def resize(size: np.ndarray, factor: float) -> np.ndarray:
    """Sizes (..., 2) times `factor`, rounded as the reference programs round: their crops differ by a grey level here
    and there from those of the exact product."""
    return (np.asarray(size) / _REFERENCE_UNIT).astype(np.float32) * np.float32(factor) * _REFERENCE_UNIT


def fix_aspect(size: np.ndarray, input_wh) -> np.ndarray:
    """Sizes (..., 2) whose short side has grown to the aspect of `input_wh`."""
    size = np.array(size, dtype=np.float64)
    aspect = float(input_wh[0]) / float(input_wh[1])
    width, height = size[..., 0].copy(), size[..., 1].copy()
    size[..., 1] = np.where(width > aspect * height, width / aspect, height)
    size[..., 0] = np.where(width < aspect * height, height * aspect, width)
    return size


def crop_matrix(center, size, rotation: float, output_wh, convention: Convention) -> np.ndarray:
    """The (2, 3) matrix image -> crop of one person, rotated by `rotation` degrees about `center`.

    `standard` scales by the width alone and is solved from three float32 points, as the reference program does: a
    crop is equal to its, bit for bit, only if the matrix is. `unbiased` is UDP's closed form (equation 8).
    """
    if convention is Convention.UNBIASED:
        return _unbiased_matrix(center, size, rotation, output_wh)
    center = np.asarray(center, dtype=np.float64)
    output = np.asarray(output_wh, dtype=np.float64)
    angle = np.pi * rotation / 180
    up = np.array([0.0, size[0] * -0.5])
    up = np.array([up[0] * np.cos(angle) - up[1] * np.sin(angle), up[0] * np.sin(angle) + up[1] * np.cos(angle)])
    source = np.zeros((3, 2), dtype=np.float32)
    target = np.zeros((3, 2), dtype=np.float32)
    source[0], source[1] = center, center + up
    target[0], target[1] = output * 0.5, output * 0.5 + np.array([0.0, output[0] * -0.5])
    for points in (source, target):
        difference = points[0] - points[1]
        points[2] = points[1] + np.array([-difference[1], difference[0]], dtype=np.float32)
    return cv2.getAffineTransform(source, target)


def _unbiased_matrix(center, size, rotation: float, output_wh) -> np.ndarray:
    width, height = (float(side) for side in size)
    scale_x, scale_y = (output_wh[0] - 1.0) / width, (output_wh[1] - 1.0) / height
    angle = math.radians(rotation)
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = (float(value) for value in center)
    matrix = [
        [cos * scale_x, -sin * scale_x, scale_x * (-x * cos + y * sin + 0.5 * width)],
        [sin * scale_y, cos * scale_y, scale_y * (-x * sin - y * cos + 0.5 * height)],
    ]
    return np.array(matrix, dtype=np.float32)  # float32, as the reference's: crops agree bit for bit


def transform(matrix: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Points (..., 2) mapped by a (2, 3) matrix."""
    return np.asarray(xy) @ matrix[:, :2].T + matrix[:, 2]


def invert(matrix: np.ndarray) -> np.ndarray:
    """The (2, 3) matrix that undoes `matrix`."""
    return cv2.invertAffineTransform(np.asarray(matrix, dtype=np.float64))


def warp(
    image: np.ndarray, matrix: np.ndarray, output_wh, out: np.ndarray | None = None, corner: tuple[int, int] = (0, 0)
) -> np.ndarray:
    """The crop (h, w, 3) that `matrix` (image -> crop) cuts: bilinear, black outside; written into `out` if given.

    `image` may be the part of the picture that begins at px `corner`: the crop is the whole picture's, but for a grey
    level in a million where rounding decides.
    """
    size = (int(output_wh[0]), int(output_wh[1]))
    if corner == (0, 0):
        return cv2.warpAffine(image, matrix, size, dst=out, flags=cv2.INTER_LINEAR)
    back = invert(matrix)
    back[:, 2] -= corner
    return cv2.warpAffine(image, back, size, dst=out, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def cut_crops(image: np.ndarray, centers, sizes, output_wh, convention: Convention) -> np.ndarray:
    """Upright crops (N, h, w, 3) of one picture (H, W, 3) at `centers` with `sizes` (N, 2), in image px."""
    crops = np.zeros((len(centers), int(output_wh[1]), int(output_wh[0]), 3), np.uint8)
    for crop, center, size in zip(crops, centers, sizes):
        crop[:] = warp(image, crop_matrix(center, size, 0.0, output_wh, convention), output_wh)
    return crops


def crop_to_heatmap(xy_crop: np.ndarray, input_wh, heatmap_wh, convention: Convention) -> np.ndarray:
    """Points (..., 2) in crop px -> heatmap px."""
    return np.asarray(xy_crop) * (convention.extent(heatmap_wh) / convention.extent(input_wh))


def heatmap_to_crop(xy_heatmap: np.ndarray, input_wh, heatmap_wh, convention: Convention) -> np.ndarray:
    """Points (..., 2) in heatmap px -> crop px."""
    return np.asarray(xy_heatmap) * (convention.extent(input_wh) / convention.extent(heatmap_wh))


def heatmap_to_image(xy_heatmap: np.ndarray, center, size, heatmap_wh, convention: Convention) -> np.ndarray:
    """Points (N, K, 2) in heatmap px of upright crops with `center`, `size` (N, 2) -> image px."""
    center, size = np.asarray(center, dtype=np.float64), np.asarray(size, dtype=np.float64)
    heatmap_wh = np.asarray(heatmap_wh, dtype=np.float64)
    if convention is Convention.STANDARD:
        # The affine of the whole crop scales by the width alone and puts the centre at half the size.
        scale = np.repeat(size[:, :1] / heatmap_wh[0], 2, axis=1)
        corner = center - scale * heatmap_wh * 0.5
    else:
        scale = size / convention.extent(heatmap_wh)
        corner = center - size * 0.5
    return xy_heatmap * scale[:, None] + corner[:, None]


def flip_keypoints(keypoints: np.ndarray, width: int, flip_index: np.ndarray) -> np.ndarray:
    """Keypoints (..., K, 3) x, y, visibility of a picture `width` px wide -> those of its mirror image.

    Unlabelled joints (visibility 0) stay at the origin.
    """
    flipped = keypoints[..., flip_index, :].copy()
    flipped[..., 0] = width - 1 - flipped[..., 0]
    flipped[..., :2] *= flipped[..., 2:3] > 0
    return flipped


def flip_heatmaps(heatmaps: np.ndarray, flip_index: np.ndarray, shift: bool = False) -> np.ndarray:
    """Heatmaps (N, K, H, W) of mirrored crops -> of the crops themselves.

    `shift` moves them one pixel to the right (column 0 kept): in the standard convention the mirrored map comes back
    (stride - 1) / stride px too far left, and one pixel is what the published numbers correct by.
    """
    flipped = heatmaps[:, flip_index, :, ::-1].copy()
    if shift:
        flipped[..., 1:] = flipped[..., :-1].copy()
    return flipped


def flip_offset_maps(maps: np.ndarray, flip_index: np.ndarray) -> np.ndarray:
    """Offset-head maps (N, 3K, H, W) of mirrored crops -> of the crops: turned, pairs swapped, dx negated."""
    count, channels, height, width = maps.shape
    flipped = maps.reshape(count, channels // 3, 3, height, width)[:, flip_index, :, :, ::-1].copy()
    flipped[:, :, 1] *= -1
    return flipped.reshape(maps.shape)
