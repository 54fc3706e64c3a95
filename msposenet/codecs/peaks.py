"""Peaks of maps: the steps that several decoders share, each in NumPy and in the graph."""

from __future__ import annotations

import cv2
import numpy as np


def find_peaks(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest cell of (N, K, H, W) maps -> x, y (N, K, 2) in heatmap px and value (N, K).

    A map without a positive value has its peak at (0, 0), as in HRNet's program; its value is kept.
    """
    count, joints, height, width = maps.shape
    flat = maps.reshape(count * joints, height * width)
    cell = flat.argmax(axis=1)
    score = flat[np.arange(len(flat)), cell]
    cell *= score > 0
    y = cell // width
    xy = np.empty((len(flat), 2), np.float32)
    xy[:, 0], xy[:, 1] = cell - y * width, y
    return xy.reshape(count, joints, 2), score.reshape(count, joints)


def values_at(maps: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values (N, K) of (N, K, H, W) maps at whole cells x, y (N, K); the border is repeated outside."""
    count, joints, height, width = maps.shape
    n, k = np.ogrid[:count, :joints]
    return maps[n, k, np.clip(y, 0, height - 1).astype(int), np.clip(x, 0, width - 1).astype(int)]


def blur(maps: np.ndarray, kernel: int, border: int = cv2.BORDER_DEFAULT) -> np.ndarray:
    """Each of (..., H, W) maps under OpenCV's Gaussian of `kernel` px (its own sigma for that size)."""
    blurred = np.empty(maps.shape, maps.dtype)
    # Map by map OpenCV is as fast as on many maps side by side, whose copying costs what the longer rows save.
    for place in np.ndindex(*maps.shape[:-2]):
        cv2.GaussianBlur(maps[place], (kernel, kernel), 0, dst=blurred[place], borderType=border)
    return blurred


def blurred_around(
    maps: np.ndarray, which: np.ndarray, xy: np.ndarray, reach: int, kernel: int, *, reflect: bool
) -> np.ndarray:
    """`blur` of J cells `xy` (J, 2) and of those up to `reach` cells beside them, and of no others.

    `which` (J,) are rows of `maps` (M, H, W), whose border is reflected or zero. Returns (J, 2 reach + 1 rows,
    2 reach + 1 columns); outside the map the blurred border is repeated.
    """
    _, height, width = maps.shape
    margin = reach + kernel // 2
    offsets = np.arange(-margin, margin + 1)
    xs, ys = (xy[:, axis, None].astype(int) + offsets for axis in (0, 1))
    columns, rows = _at_border(xs, width, margin, reflect), _at_border(ys, height, margin, reflect)
    cells = (which[:, None] * height + rows)[:, :, None] * width + columns[:, None, :]
    patches = maps.reshape(-1).take(cells)
    if not reflect:
        outside = (((ys < 0) | (ys >= height))[:, :, None]) | (((xs < 0) | (xs >= width))[:, None, :])
        patches[outside] = 0
    taps = _taps(kernel, reach, patches.dtype)
    across = patches.reshape(-1, len(offsets)) @ taps
    across = across.reshape(len(which), len(offsets), taps.shape[1]).transpose(0, 2, 1)
    blurred = (across.reshape(-1, len(offsets)) @ taps).reshape(len(which), taps.shape[1], taps.shape[1])
    return _border_repeated(blurred.transpose(0, 2, 1), xy.astype(int), reach, height, width)


def _at_border(cells: np.ndarray, size: int, margin: int, reflect: bool) -> np.ndarray:
    # Whatever the index of a cell outside: where the border is zero its value is overwritten.
    inside = np.arange(size)
    return np.pad(inside, margin, mode="reflect" if reflect else "edge")[cells + margin]


def _taps(kernel: int, reach: int, dtype: np.dtype) -> np.ndarray:
    """The Gaussian at each of 2 reach + 1 places: columns of a matrix that blurs one axis of a patch."""
    weights = cv2.getGaussianKernel(kernel, 0).ravel()
    taps = np.zeros((2 * reach + kernel, 2 * reach + 1), dtype)
    for place in range(2 * reach + 1):
        taps[place : place + kernel, place] = weights
    return taps


def _border_repeated(blurred: np.ndarray, xy: np.ndarray, reach: int, height: int, width: int) -> np.ndarray:
    over = np.flatnonzero(((xy < reach) | (xy >= np.array([width, height]) - reach)).any(axis=1))
    if len(over):
        steps = np.arange(-reach, reach + 1)
        columns, rows = (
            np.clip(xy[over, axis, None] + steps, 0, size - 1) - xy[over, axis, None] + reach
            for axis, size in enumerate((width, height))
        )
        blurred[over] = blurred[over[:, None, None], rows[:, :, None], columns[:, None, :]]
    return blurred


def blur_in_graph(F, maps, channels: int, kernel: int, reflect: bool):
    """`blur` as two separable depthwise convolutions; the border is reflected or zero."""
    half = kernel // 2
    weights = cv2.getGaussianKernel(kernel, 0).ravel().tolist()
    if reflect:
        maps = F.pad(maps, mode="reflect", pad_width=(0, 0, 0, 0, half, half, half, half))
    else:
        maps = F.pad(maps, mode="constant", pad_width=(0, 0, 0, 0, half, half, half, half), constant_value=0)
    for shape in ((kernel, 1), (1, kernel)):
        taps = _constant(F, weights, (1, 1, *shape))
        taps = F.broadcast_to(taps, shape=(channels, 1, *shape))
        maps = F.Convolution(maps, taps, kernel=shape, num_filter=channels, num_group=channels, no_bias=True)
    return maps


def _constant(F, values: list[float], shape: tuple[int, ...]):
    """A constant built from scalars: a graph that carries it needs no parameter file entry."""
    pieces = [F.full((1,), value) for value in values]
    return F.reshape(F.concat(*pieces, dim=0), shape=shape)


def peaks_in_graph(F, maps, height: int, width: int):
    """`find_peaks` without the (0, 0) rule -> x, y and value (N, K), all float32."""
    flat = F.reshape(maps, shape=(0, 0, -1))
    cell = F.argmax(flat, axis=2)
    score = F.max(flat, axis=2)
    y = F.floor(cell / width)
    return cell - y * width, y, score


def pick_in_graph(F, maps, x, y, height: int, width: int):
    """Values (N, K) of maps (N, K, H, W) at whole cells x, y, the border repeated outside."""
    x = F.clip(x, 0, width - 1)
    y = F.clip(y, 0, height - 1)
    return F.pick(F.reshape(maps, shape=(0, 0, -1)), y * width + x, axis=2)
