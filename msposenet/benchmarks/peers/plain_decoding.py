"""Heatmap decoding as the published programs write it, joint by joint in Python: what our decoders are timed against.

Our own words for the recipe of HRNet's `lib/core/inference.py` and DARK's (standard convention), the loops over
pictures and joints kept: each map copied, blurred and scaled by itself, the Hessian inverted by `np.linalg.inv`, each
joint taken back to the picture by an affine map of its own.
"""

from __future__ import annotations

import math

import cv2
import numpy as np


def plain_peaks(heatmaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Peaks of (N, K, H, W) heatmaps -> x, y (N, K, 2) in heatmap px (0 without a positive value), values (N, K, 1)."""
    count, joints, _, width = heatmaps.shape
    flat = heatmaps.reshape((count, joints, -1))
    cells = np.argmax(flat, 2).reshape((count, joints, 1))
    values = np.amax(flat, 2).reshape((count, joints, 1))
    coords = np.tile(cells, (1, 1, 2)).astype(np.float32)
    coords[:, :, 0] = coords[:, :, 0] % width
    coords[:, :, 1] = np.floor(coords[:, :, 1] / width)
    positive = np.tile(np.greater(values, 0.0), (1, 1, 2)).astype(np.float32)
    return coords * positive, values


def plain_quarter(heatmaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """HRNet: a quarter pixel from the peak towards the higher neighbour -> x, y (N, K, 2), values (N, K, 1)."""
    coords, values = plain_peaks(heatmaps)
    height, width = heatmaps.shape[2], heatmaps.shape[3]
    for n in range(coords.shape[0]):
        for k in range(coords.shape[1]):
            heatmap = heatmaps[n][k]
            px = math.floor(coords[n][k][0] + 0.5)
            py = math.floor(coords[n][k][1] + 0.5)
            if 1 < px < width - 1 and 1 < py < height - 1:
                slope = np.array([heatmap[py][px + 1] - heatmap[py][px - 1], heatmap[py + 1][px] - heatmap[py - 1][px]])
                coords[n][k] += np.sign(slope) * 0.25
    return coords, values


def plain_dark(heatmaps: np.ndarray, kernel: int) -> tuple[np.ndarray, np.ndarray]:
    """DARK: each map blurred and logarithmised, a Newton step per joint -> x, y (N, K, 2), values (N, K, 1)."""
    coords, values = plain_peaks(heatmaps)
    logs = np.log(np.maximum(_blurred(heatmaps.copy(), kernel), 1e-10))
    for n in range(coords.shape[0]):
        for k in range(coords.shape[1]):
            coords[n, k] = _newton_step(logs[n][k], coords[n][k])
    return coords, values


def _blurred(heatmaps: np.ndarray, kernel: int) -> np.ndarray:
    border = (kernel - 1) // 2
    count, joints, height, width = heatmaps.shape
    for n in range(count):
        for k in range(joints):
            highest = np.max(heatmaps[n, k])
            padded = np.zeros((height + 2 * border, width + 2 * border))
            padded[border : border + height, border : border + width] = heatmaps[n, k].copy()
            padded = cv2.GaussianBlur(padded, (kernel, kernel), 0)
            heatmaps[n, k] = padded[border : border + height, border : border + width].copy()
            heatmaps[n, k] *= highest / np.max(heatmaps[n, k])
    return heatmaps


def _newton_step(log: np.ndarray, coord: np.ndarray) -> np.ndarray:
    height, width = log.shape
    px, py = int(coord[0]), int(coord[1])
    if 1 < px < width - 2 and 1 < py < height - 2:
        dx = 0.5 * (log[py][px + 1] - log[py][px - 1])
        dy = 0.5 * (log[py + 1][px] - log[py - 1][px])
        dxx = 0.25 * (log[py][px + 2] - 2 * log[py][px] + log[py][px - 2])
        dxy = 0.25 * (log[py + 1][px + 1] - log[py - 1][px + 1] - log[py + 1][px - 1] + log[py - 1][px - 1])
        dyy = 0.25 * (log[py + 2][px] - 2 * log[py][px] + log[py - 2][px])
        if dxx * dyy - dxy**2 != 0:
            slope = np.array([[dx], [dy]])
            curvature = np.array([[dxx, dxy], [dxy, dyy]])
            coord = coord + np.squeeze(-np.linalg.inv(curvature) @ slope, axis=1)
    return coord


def plain_to_image(
    coords: np.ndarray, centers: np.ndarray, sizes: np.ndarray, heatmap_wh: tuple[int, int]
) -> np.ndarray:
    """Points (N, K, 2) in heatmap px of crops with `centers`, `sizes` (N, 2) -> image px, float32 as in HRNet."""
    points = coords.copy()
    for n in range(coords.shape[0]):
        points[n] = _picture_points(coords[n], centers[n], sizes[n], heatmap_wh)
    return points


def _picture_points(coords: np.ndarray, center: np.ndarray, size: np.ndarray, heatmap_wh: tuple[int, int]):
    points = np.zeros(coords.shape)
    matrix = _back(center, size, 0.0, heatmap_wh)
    for k in range(coords.shape[0]):
        points[k, 0:2] = _mapped(coords[k, 0:2], matrix)
    return points


def _mapped(point: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    homogeneous = np.array([point[0], point[1], 1.0]).T
    return np.dot(matrix, homogeneous)[:2]


def _back(center: np.ndarray, size: np.ndarray, degrees: float, heatmap_wh: tuple[int, int]) -> np.ndarray:
    """The affine map (2, 3) from a heatmap to the picture, through three points: centre, above it, beside that."""
    width, height = heatmap_wh
    upwards = _turned([0, size[0] * -0.5], np.pi * degrees / 180)
    in_picture = np.zeros((3, 2), dtype=np.float32)
    in_heatmap = np.zeros((3, 2), dtype=np.float32)
    in_picture[0, :] = center
    in_picture[1, :] = center + upwards
    in_heatmap[0, :] = [width * 0.5, height * 0.5]
    in_heatmap[1, :] = np.array([width * 0.5, height * 0.5]) + np.array([0, width * -0.5], np.float32)
    in_picture[2:, :] = _beside(in_picture[0, :], in_picture[1, :])
    in_heatmap[2:, :] = _beside(in_heatmap[0, :], in_heatmap[1, :])
    return cv2.getAffineTransform(np.float32(in_heatmap), np.float32(in_picture))


def _turned(point: list[float], angle: float) -> list[float]:
    sine, cosine = np.sin(angle), np.cos(angle)
    return [point[0] * cosine - point[1] * sine, point[0] * sine + point[1] * cosine]


def _beside(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    across = first - second
    return second + np.array([-across[1], across[0]], dtype=np.float32)
