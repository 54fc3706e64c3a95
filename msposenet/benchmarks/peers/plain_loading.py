"""The plain recipe of a training sample, as public HRNet-style programs make it: the benchmark's baseline.

Kept for comparison alone, and kept as it is: whole picture to RGB, whole picture mirrored, three-point affine, float
normalisation and a Gaussian per joint in the loader. Training never uses it.
"""

from __future__ import annotations

import cv2
import numpy as np

from msposenet import geometry
from msposenet.config import AugmentationConfig
from msposenet.data.augmentation import CropPlan, augment
from msposenet.skeletons import Skeleton

_MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
_STD = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)


def plain_sample(
    path: str,
    center: np.ndarray,
    size: np.ndarray,
    keypoints: np.ndarray,
    skeleton: Skeleton,
    config: AugmentationConfig,
    input_wh: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Network input (3, h, w), heatmaps (K, h/4, w/4) and their weights (K, 1), float32, of one augmented person."""
    image = cv2.imread(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    joints = keypoints.astype(np.float64)
    plan = augment(CropPlan(center, size), joints, image.shape[1], skeleton, config, input_wh, rng)
    if plan.flip:
        image = image[:, ::-1, :].copy()
        joints = geometry.flip_keypoints(joints, image.shape[1], skeleton.flip_index)
    matrix = geometry.crop_matrix(plan.center, plan.size, plan.rotation, input_wh, geometry.Convention.STANDARD)
    crop = cv2.warpAffine(image, matrix, (int(input_wh[0]), int(input_wh[1])), flags=cv2.INTER_LINEAR)
    for joint in joints:
        if joint[2] > 0:
            joint[:2] = matrix @ np.array([joint[0], joint[1], 1.0])
    tensor = np.ascontiguousarray(crop.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)
    tensor = (tensor - _MEAN) / _STD
    heatmaps, weights = _gaussians(joints, input_wh, 2 / 64 * input_wh[1] / 4)
    return tensor, heatmaps, weights


def _gaussians(joints: np.ndarray, input_wh: tuple[int, int], sigma: float) -> tuple[np.ndarray, np.ndarray]:
    width, height = input_wh[0] // 4, input_wh[1] // 4
    heatmaps = np.zeros((len(joints), height, width), np.float32)
    weights = (joints[:, 2:] > 0).astype(np.float32)
    reach = int(sigma * 3)
    for number, (x, y, _) in enumerate(joints):
        centre = int(x / 4 + 0.5), int(y / 4 + 0.5)
        low = centre[0] - reach, centre[1] - reach
        high = centre[0] + reach + 1, centre[1] + reach + 1
        if low[0] >= width or low[1] >= height or high[0] < 0 or high[1] < 0:
            weights[number] = 0
            continue
        size = 2 * reach + 1
        grid = np.arange(0, size, 1, np.float32)
        patch = np.exp(-((grid - size // 2) ** 2 + (grid[:, None] - size // 2) ** 2) / (2 * sigma**2))
        if weights[number, 0] > 0.5:
            x0, x1 = max(0, low[0]), min(high[0], width)
            y0, y1 = max(0, low[1]), min(high[1], height)
            heatmaps[number, y0:y1, x0:x1] = patch[y0 - low[1] : y1 - low[1], x0 - low[0] : x1 - low[0]]
    return heatmaps, weights
