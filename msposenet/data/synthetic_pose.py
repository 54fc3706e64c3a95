"""Random plausible bodies by forward kinematics, in three dimensions.

The body frame has the pelvis as origin and the standing height as unit; x points to the picture's right, y down, z
towards the viewer, and the projection is orthographic: dropping z gives the picture. A body that faces the viewer
(yaw 0) has its left at positive x. Angles are in degrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, radians, sin
from typing import Optional

import numpy as np

from msposenet.skeletons import COCO_17

SIDES = ("left", "right")
_SIGN = {"left": 1.0, "right": -1.0}  # of x in a body that faces the viewer

HEAD_RADII = np.array([0.082, 0.106, 0.092])  # half axes of the head: sideways, up, front
# Face points in the head frame (x to the person's left, y down, z to the front), in half axes of the head.
FACE = {
    "nose": (0.0, 0.20, 1.12),
    "left_eye": (0.40, -0.10, 0.91),
    "right_eye": (-0.40, -0.10, 0.91),
    "left_ear": (1.05, 0.0, -0.05),
    "right_ear": (-1.05, 0.0, -0.05),
    "mouth": (0.0, 0.55, 0.83),
}

_DOWN = np.array([0.0, 1.0, 0.0])
_FRONT = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Body:
    """One posed body.

    `points` maps the 17 COCO joints and head, neck, pelvis, chest, mouth, {left,right}_{fingertip,toe} to (3,) arrays
    in the body frame. `head` is the (3, 3) rotation whose columns are the head's left, down and front. `girth`
    scales all thicknesses but the head's.
    """

    points: dict[str, np.ndarray]
    head: np.ndarray
    girth: float


def turn(pitch: float = 0.0, yaw: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Rotation (3, 3): first nod forward by `pitch`, then turn by `yaw` to the person's left, then tilt by `roll`.

    Positive roll is clockwise in the picture (y points down).
    """
    cp, sp, cy, sy = cos(radians(pitch)), sin(radians(pitch)), cos(radians(yaw)), sin(radians(yaw))
    cr, sr = cos(radians(roll)), sin(radians(roll))
    nod = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    spin = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    tilt = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return tilt @ spin @ nod


def random_body(rng: np.random.Generator, back_view: float = 0.12, profile_view: float = 0.1) -> Body:
    """A body in a random pose; `back_view` and `profile_view` are the shares seen from behind and from the side."""
    view, spread = rng.random(), rng.standard_normal()
    if view < back_view:
        yaw = 180 + np.clip(25 * spread, -45, 45)
    elif view < back_view + profile_view:
        yaw = np.copysign(rng.uniform(55, 95), spread)
    else:
        yaw = np.clip(22 * spread, -55, 55)
    tilted = rng.random() < 0.12
    roll = rng.uniform(-75, 75) if tilted else np.clip(8 * rng.standard_normal(), -20, 20)
    return pose_body(rng, turn(pitch=rng.uniform(-8, 12), yaw=yaw, roll=roll))


def pose_body(rng: np.random.Generator, trunk: Optional[np.ndarray] = None) -> Body:
    """A body with random proportions, spine, limbs and head whose hips are turned by the (3, 3) rotation `trunk`."""
    trunk = np.eye(3) if trunk is None else trunk
    leg, arm, broad, girth = rng.uniform((0.9, 0.92, 0.9, 0.85), (1.08, 1.08, 1.12, 1.3))
    lean = abs(rng.normal(0, 8)) if rng.random() < 0.8 else rng.uniform(10, 45)
    chest = turn(pitch=lean, yaw=np.clip(rng.normal(0, 10), -30, 30), roll=np.clip(rng.normal(0, 9), -28, 28))
    head = chest @ turn(
        pitch=rng.normal(2, 8) - 0.5 * lean,
        yaw=np.clip(rng.normal(0, 17), -50, 50),
        roll=np.clip(rng.normal(0, 9), -25, 25),
    )
    points = {"pelvis": np.zeros(3), "chest": chest @ (0, -0.29, 0)}
    points["neck"] = points["chest"] + chest @ (0, -0.035, 0)
    points["head"] = points["neck"] + head @ (0, -0.025 - 0.9 * HEAD_RADII[1], 0)
    for name, on_head in FACE.items():
        points[name] = points["head"] + head @ (HEAD_RADII * on_head)
    sitting = rng.random() < 0.12
    for side, sign in _SIGN.items():
        _pose_arm(points, rng, side, points["chest"] + chest @ (sign * 0.112 * broad, 0, 0), chest, arm)
        points[f"{side}_hip"] = np.array([sign * 0.066 * broad, 0, 0])
        _pose_leg(points, rng, side, leg, sitting)
    turned = np.stack(list(points.values())) @ trunk.T
    return Body(dict(zip(points, turned)), trunk @ head, girth)


def _pose_arm(
    points: dict[str, np.ndarray],
    rng: np.random.Generator,
    side: str,
    shoulder: np.ndarray,
    chest: np.ndarray,
    length: float,
) -> None:
    """Adds one arm to `points`: hanging or raised, bent at the elbow; `length` scales it."""
    sign = _SIGN[side]
    raised = rng.random() < 0.5
    lift = rng.uniform(25, 165) if raised else abs(rng.normal(12, 14))
    sweep = radians(rng.uniform(-25, 75))  # from sideways (0) to straight ahead (90)
    out, across = sin(radians(lift)) * cos(sweep), sin(radians(lift)) * sin(sweep)
    upper = np.array([sign * out, cos(radians(lift)), across])
    elbow = rng.uniform(0, 135) if rng.random() < 0.6 else abs(rng.normal(0, 18))
    towards = np.array([-sign * rng.normal(0.25, 0.8), -rng.normal(0.35, 0.8), 0.35 + abs(rng.normal(0, 0.7))])
    lower = bend(upper, towards, elbow)
    hand = bend(lower, rng.standard_normal(3), 15)
    shrug = 0.02 * max(0.0, -upper[1])  # a raised arm lifts its shoulder
    points[f"{side}_shoulder"] = shoulder - chest @ (0, shrug, 0)
    points[f"{side}_elbow"] = points[f"{side}_shoulder"] + chest @ upper * (0.165 * length)
    points[f"{side}_wrist"] = points[f"{side}_elbow"] + chest @ lower * (0.145 * length)
    points[f"{side}_fingertip"] = points[f"{side}_wrist"] + chest @ hand * 0.048


def _pose_leg(points: dict[str, np.ndarray], rng: np.random.Generator, side: str, length: float, sitting: bool) -> None:
    """Adds one leg to `points`, whose hip is there already; `length` scales it."""
    sign = _SIGN[side]
    spread = radians(np.clip(rng.normal(9, 14), -18, 60))
    flex = radians(rng.uniform(45, 85) if sitting else np.clip(rng.normal(6, 22), -25, 80))
    upper = np.array([sign * sin(spread) * cos(flex), cos(spread) * cos(flex), sin(flex)])
    knee = rng.uniform(40, 95) if sitting else abs(rng.normal(0, 30))
    lower = bend(upper, np.array([rng.normal(0, 0.35), 0, 0]) - _FRONT + 0.8 * sin(flex) * _DOWN, min(knee, 110))
    points[f"{side}_knee"] = points[f"{side}_hip"] + upper * (0.225 * length)
    points[f"{side}_ankle"] = points[f"{side}_knee"] + lower * (0.215 * length)
    toe = bend(lower, _FRONT + np.array([0.25 * sign, 0, 0]), 60)
    points[f"{side}_toe"] = points[f"{side}_ankle"] + toe * 0.062


def bend(direction: np.ndarray, towards: np.ndarray, angle: float) -> np.ndarray:
    """The unit vector `direction` (3,) rotated by `angle` degrees in the plane it spans with `towards`."""
    across = towards - (towards @ direction) * direction
    norm = np.sqrt(across @ across)
    if norm < 1e-6:  # parallel: the plane is undefined, so stay straight
        return direction
    return cos(radians(angle)) * direction + (sin(radians(angle)) / norm) * across


def coco_points(body: Body) -> np.ndarray:
    """The 17 COCO joints (17, 3) of the body, in the body frame."""
    return np.stack([body.points[joint] for joint in COCO_17.joints])
