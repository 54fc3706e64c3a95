"""Peaks of maps: the steps that several decoders share, each in NumPy and in the graph."""

from __future__ import annotations

import cv2
import numpy as np


def find_peaks(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest cell of (N, K, H, W) maps -> x, y (N, K, 2) in heatmap px and value (N, K).

    A map without a positive value has its peak at (0, 0), as in HRNet's program; its value is kept.
    """
    count, joints, height, width = maps.shape
    flat = maps.reshape(count, joints, height * width)
    cell = flat.argmax(axis=2)
    score = np.take_along_axis(flat, cell[..., None], axis=2)[..., 0]
    xy = np.stack([cell % width, cell // width], axis=2).astype(np.float32)
    return xy * (score > 0)[..., None], score


def values_at(maps: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values (N, K) of (N, K, H, W) maps at whole cells x, y (N, K); the border is repeated outside."""
    count, joints, height, width = maps.shape
    n, k = np.ogrid[:count, :joints]
    return maps[n, k, np.clip(y, 0, height - 1).astype(int), np.clip(x, 0, width - 1).astype(int)]


def blur(maps: np.ndarray, kernel: int, border: int = cv2.BORDER_DEFAULT) -> np.ndarray:
    """Each of (N, C, H, W) maps under OpenCV's Gaussian of `kernel` px (its own sigma for that size)."""
    blurred = np.empty_like(maps)
    for row, out in zip(maps.reshape(-1, *maps.shape[2:]), blurred.reshape(-1, *maps.shape[2:])):
        cv2.GaussianBlur(row, (kernel, kernel), 0, dst=out, borderType=border)
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
