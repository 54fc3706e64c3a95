"""Drawing one synthetic person, and reading its keypoints off the picture.

Coordinates are image px with pixel (x, y)'s centre at (x, y). Beside the picture a label map is kept that says which
part of which figure is on top at each pixel; visibility flags and silhouette areas are read from it.
"""

from __future__ import annotations

import cv2
import numpy as np

from msposenet.data.synthetic_look import shade
from msposenet.data.synthetic_pose import FACE, coco_points
from msposenet.data.synthetic_shapes import PART, Figure, Shape, face_limits, face_normal_z
from msposenet.skeletons import COCO_17

# Label map values: 16 * figure number + part; figure 0 is the background.
PARTS_PER_FIGURE = 16

_FIXED_POINT_BITS = 8


def draw_shapes(image: np.ndarray, labels: np.ndarray, shapes: list[Shape], number: int) -> None:
    """Draw shapes into (H, W, 3) uint8 `image` and, as figure `number` (1-15), into (H, W) uint8 `labels`."""
    for shape in shapes:
        points = np.rint(shape.polygon * (1 << _FIXED_POINT_BITS)).astype(np.int32)
        cv2.fillConvexPoly(image, points, shape.colour, cv2.LINE_AA, _FIXED_POINT_BITS)
        if shape.outlined:
            edge = shade(shape.colour, 0.55)
            cv2.polylines(image, [points], True, edge, 1, cv2.LINE_AA, _FIXED_POINT_BITS)
        if shape.part is not None:
            value = number * PARTS_PER_FIGURE + shape.part
            cv2.fillConvexPoly(labels, points, value, cv2.LINE_8, _FIXED_POINT_BITS)


def figure_keypoints(figure: Figure, labels: np.ndarray, number: int) -> np.ndarray:
    """Keypoints (17, 3) of a drawn figure: x, y in image px and the COCO flag 0/1/2.

    2: the joint's own part is on top in `labels`; 1: covered by something, or a face point turned a little away;
    0 (then x = y = 0): outside the picture, or a face point turned far away.
    """
    points = coco_points(figure.body)
    xy_image = points[:, :2] * figure.height + figure.pelvis_xy_image
    height, width = labels.shape
    keypoints = np.zeros((COCO_17.num_joints, 3), np.float32)
    middle_z = {"shoulder": figure.body.points["chest"][2], "hip": figure.body.points["pelvis"][2]}
    for row, joint in enumerate(COCO_17.joints):
        x, y = xy_image[row]
        if not (0 <= x <= width - 1 and 0 <= y <= height - 1):
            continue
        parts, facing = _own_parts(joint), 1.0
        if joint in FACE:
            seen, labelled = face_limits(joint)
            facing = face_normal_z(figure.body, joint)
            if facing < labelled:
                continue
            facing -= seen
        elif joint.endswith(("shoulder", "hip")):
            # Turned sideways, the far shoulder lies behind the near one: only the arm's own cap may show it.
            near = points[row, 2] > middle_z[joint.split("_")[1]] - 0.05
            parts = parts if near else parts[1:]
        number_here, part_here = divmod(int(labels[int(y + 0.5), int(x + 0.5)]), PARTS_PER_FIGURE)
        on_top = number_here == number and part_here in parts
        keypoints[row] = x, y, 2 if on_top and facing > 0 else 1
    return keypoints


def _own_parts(joint: str) -> tuple[int, ...]:
    side, _, place = joint.partition("_")
    names = {
        "": ("head",),
        "eye": ("head",),
        "ear": (f"{side}_ear",),
        "shoulder": ("torso", f"{side}_upper_arm"),
        "elbow": (f"{side}_upper_arm", f"{side}_forearm"),
        "wrist": (f"{side}_forearm",),
        "hip": ("torso", f"{side}_thigh"),
        "knee": (f"{side}_thigh", f"{side}_shin"),
        "ankle": (f"{side}_shin",),
    }[place]
    return tuple(PART[name] for name in names)
