"""Pictures that tests share."""

from __future__ import annotations

import numpy as np


def _triangle(n: np.ndarray, period: int) -> np.ndarray:
    n = np.mod(n, 2 * period)
    return np.abs(n - period) * 255 // period


def triangle_picture(height: int, width: int, phase: int = 0) -> np.ndarray:
    """The golden set's test picture (height, width, 3) uint8: integer triangle waves."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    planes = [
        (_triangle(x + 2 * y + phase, 45 + 5 * c) + _triangle(3 * x - y + 1000 + 7 * phase, 60 + 9 * c)) // 2
        for c in range(3)
    ]
    return np.stack(planes, axis=2).astype(np.uint8)
