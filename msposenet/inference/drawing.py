"""People on a picture: limbs, joints, boxes; and a grid of crops with their heatmaps."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

from msposenet import geometry
from msposenet.data.images import read_image
from msposenet.data.records import Records
from msposenet.inference.topdown import TopDown
from msposenet.skeletons import Skeleton

_SHIFT = 4  # fractional bits of OpenCV's coordinates
_LEFT, _RIGHT, _MIDDLE = (60, 180, 75), (230, 90, 40), (70, 130, 230)  # RGB: the person's own left and right


def person_color(number: int) -> tuple[int, int, int]:
    """A colour (RGB) for person `number`; neighbours differ."""
    return tuple(int(255 * c) for c in colorsys.hsv_to_rgb((number * 0.381966) % 1, 0.75, 1.0))


def joint_colors(skeleton: Skeleton) -> list[tuple[int, int, int]]:
    """RGB of each joint: green on the person's left, orange on the right, blue in the middle."""
    left = {pair[0] for pair in skeleton.flip_pairs}
    right = {pair[1] for pair in skeleton.flip_pairs}
    return [_LEFT if joint in left else _RIGHT if joint in right else _MIDDLE for joint in skeleton.joints]


def draw_people(
    image: np.ndarray,
    keypoints: np.ndarray,
    skeleton: Skeleton,
    boxes: np.ndarray | None = None,
    threshold: float = 0.2,
) -> np.ndarray:
    """A copy of `image` (H, W, 3) RGB with people drawn on it.

    keypoints (P, K, 3) in image px with scores (or visibilities); joints scoring `threshold` or less are left out.
    boxes (P, 4) x, y, w, h. Thickness follows each person's size.
    """
    canvas = np.ascontiguousarray(image).copy()
    colors = joint_colors(skeleton)
    for number, pose in enumerate(keypoints):
        shown = (pose[:, 2] > threshold) & np.isfinite(pose).all(axis=1)
        extent = np.ptp(pose[shown, :2], axis=0).max() if shown.any() else 0
        thickness = int(np.clip(round(extent / 90), 1, 8))
        if boxes is not None:
            x, y, w, h = (round(float(value)) for value in boxes[number])
            cv2.rectangle(canvas, (x, y), (x + w, y + h), person_color(number), max(1, thickness // 2), cv2.LINE_AA)
        points = [(int(x), int(y)) for x, y in np.clip(pose[:, :2], -1e5, 1e5) * (1 << _SHIFT)]
        for a, b in skeleton.limb_index:
            if shown[a] and shown[b]:
                color = colors[a] if colors[a] == colors[b] else _MIDDLE
                cv2.line(canvas, points[a], points[b], color, thickness, cv2.LINE_AA, _SHIFT)
        for joint in np.flatnonzero(shown):
            radius = (thickness + 1) << _SHIFT
            cv2.circle(canvas, points[joint], radius, colors[joint], -1, cv2.LINE_AA, _SHIFT)
            cv2.circle(canvas, points[joint], radius, (255, 255, 255), 1, cv2.LINE_AA, _SHIFT)
    return canvas


def prediction_grid(engine: TopDown, records: Records, count: int, enlarge: float = geometry.ENLARGE) -> np.ndarray:
    """Crops of the first `count` persons with their poses, above their strongest heatmaps: one picture (RGB)."""
    count = min(count, len(records))
    centers, sizes = geometry.boxes_to_crops(records.boxes[:count], engine.codec.input_wh, enlarge)
    parts = [engine.crops(read_image(records.path(i)), centers[i : i + 1], sizes[i : i + 1]) for i in range(count)]
    crops = np.concatenate(parts)
    maps = engine.maps(crops)
    xy_heatmap, scores = engine.codec.decode(maps)
    codec = engine.codec
    xy = geometry.heatmap_to_crop(xy_heatmap, codec.input_wh, codec.heatmap_wh, codec.convention)
    poses = np.concatenate([xy, scores[..., None]], axis=2)
    tiles = []
    for crop, pose, of_person in zip(crops, poses, maps):
        strongest = np.clip(of_person[:: codec.maps_per_joint].max(axis=0), 0, 1)
        heat = cv2.resize((255 * strongest).astype(np.uint8), codec.input_wh, interpolation=cv2.INTER_NEAREST)
        heat = cv2.applyColorMap(heat, cv2.COLORMAP_JET)[..., ::-1]
        tiles.append(np.concatenate([draw_people(crop, pose[None], engine.skeleton), heat], axis=0))
    return np.concatenate(tiles, axis=1)
