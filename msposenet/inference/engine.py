"""What finds keypoints in crops: a network, an export, or several processes that hold one."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from msposenet.geometry import Convention
from msposenet.skeletons import Skeleton


class Engine(Protocol):
    """Crops of people in, keypoints out. `batch_size`: crops that are worth collecting for one call."""

    skeleton: Skeleton
    input_wh: tuple[int, int]  # of a crop, in px
    convention: Convention
    batch_size: int

    def crops(self, image: np.ndarray, centers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Picture (H, W, 3), centres and sizes (N, 2) in image px -> crops (N, h, w, 3) uint8."""

    def keypoints(self, crops: np.ndarray, centers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Keypoints (N, K, 3), x, y in image px and score, of crops cut at `centers`, `sizes` (N, 2) in image px."""
