"""The shapes a synthetic person is drawn from: body, clothes, hair and face as filled convex polygons, far to near.

Coordinates are image px with pixel (x, y)'s centre at (x, y). Clothes are asymmetric in the same way on everybody, so
that left and right can be told apart from any view: the right sleeve and the right trouser leg are a darker shade of
their garment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Optional

import cv2
import numpy as np

from msposenet.data.synthetic_look import Colour, Look, shade
from msposenet.data.synthetic_pose import FACE, HEAD_RADII, SIDES, Body

_LIMB_PARTS = ("ear", "upper_arm", "forearm", "thigh", "shin")
_PART_NAMES = ("torso", "head", *(f"{side}_{part}" for part in _LIMB_PARTS for side in SIDES))
PART = {name: number for number, name in enumerate(_PART_NAMES, start=1)}

# cv2's anti-aliased fill reaches half a pixel beyond the polygon: disks are drawn that much smaller.
_BLEED = 0.5
_SMALLEST = 0.6  # px; a thinner shape would vanish
_ANGLES = np.linspace(0, 2 * np.pi, 16, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)

# Radii in body heights.
_RADIUS = {
    "shoulder": 0.041, "elbow": 0.033, "wrist": 0.024, "fingertip": 0.023, "hip": 0.062, "knee": 0.046, "ankle": 0.031,
    "toe": 0.026, "neck": 0.038, "chest": 0.055, "pelvis": 0.064, "ear": 0.025, "eye": 0.0175, "nose": 0.0155,
}  # fmt: skip

# A face point is drawn while its normal's z is above the first limit; below the second it is not labelled either.
_EYE_SEEN, _EYE_LABELLED = 0.10, -0.30
_NOSE_SEEN, _NOSE_LABELLED = -0.05, -0.45
_EAR_SEEN, _EAR_LABELLED = -1.0, -0.5
_EAR_IN_FRONT = -0.12  # an ear sticks out: turned this far away it is still drawn over the head


@dataclass(frozen=True)
class Figure:
    """A body in the picture: `height` px per body height, `pelvis_xy_image` where the body frame's origin lies."""

    body: Body
    look: Look
    height: float
    pelvis_xy_image: tuple[float, float]


class Shape(NamedTuple):
    """One filled convex polygon (M, 2) in image px; `part` None leaves the label map as it is."""

    polygon: np.ndarray
    colour: Colour
    part: Optional[int]
    outlined: bool = True


def figure_shapes(figure: Figure) -> list[Shape]:
    """The shapes of a figure, to be drawn in this order (far to near)."""
    return _Tailor(figure).shapes()


def shapes_extent(shapes: list[Shape]) -> np.ndarray:
    """(4,) x0, y0, x1, y1 of all shapes in image px: the first and last pixel centres they may reach."""
    points = np.concatenate([shape.polygon for shape in shapes])
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def face_normal_z(body: Body, point: str) -> float:
    """z of the head's unit normal at a face point: 1 towards the viewer, 0 at the outline, negative behind it."""
    normal = body.head @ (np.array(FACE[point]) / HEAD_RADII)
    return float(normal[2] / np.sqrt(normal @ normal))


def face_limits(joint: str) -> tuple[float, float]:
    """Least `face_normal_z` at which a nose, eye or ear can be seen, and at which it is labelled."""
    if joint == "nose":
        return _NOSE_SEEN, _NOSE_LABELLED
    return (_EYE_SEEN, _EYE_LABELLED) if joint.endswith("eye") else (_EAR_SEEN, _EAR_LABELLED)


def _hull(*polygons: np.ndarray) -> np.ndarray:
    return cv2.convexHull(np.concatenate(polygons).astype(np.float32))[:, 0].astype(np.float64)


class _Tailor:
    """Turns one figure into shapes; keeps what all parts need: projected points, colours and scale."""

    def __init__(self, figure: Figure) -> None:
        self.body, self.look, self.height = figure.body, figure.look, figure.height
        self.points = self.body.points
        self.xy = {name: point[:2] * figure.height + figure.pelvis_xy_image for name, point in self.body.points.items()}

    def shapes(self) -> list[Shape]:
        """All parts ordered by depth; the small offsets order parts that lie in one plane."""
        layers = [(self.points["chest"][2] * 0.5, self._torso()), (self.points["head"][2] + 0.03, self._head())]
        for side in SIDES:
            z = {
                name: self.points[f"{side}_{name}"][2]
                for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
            }
            layers.append(((z["shoulder"] + z["elbow"]) / 2 + 0.015, self._upper_arm(side)))
            layers.append(((z["elbow"] + z["wrist"]) / 2 + 0.02, self._forearm(side)))
            layers.append(((z["hip"] + z["knee"]) / 2 - 0.03, self._thigh(side)))
            layers.append(((z["knee"] + z["ankle"]) / 2 - 0.035, self._shin(side)))
        layers.sort(key=lambda layer: layer[0])
        return [shape for _, shapes in layers for shape in shapes]

    def _disk(self, centre: np.ndarray, radius: float) -> np.ndarray:
        """A disk at `centre` in image px; `radius` in body heights."""
        return centre + _CIRCLE * max(_SMALLEST, radius * self.height - _BLEED)

    def _thick(self, joint: str) -> float:
        """Radius of the body at a joint, in body heights."""
        return _RADIUS[joint.rpartition("_")[2]] * self.body.girth

    def _capsule(self, start: str, end: str, colour: Colour, part: str, outlined: bool = True) -> Shape:
        disks = [self._disk(self.xy[name], self._thick(name)) for name in (start, end)]
        return Shape(_hull(*disks), colour, PART[part], outlined)

    def _garment(self, colour: Colour, side: str) -> Colour:
        return shade(colour, 0.58) if side == "right" else colour

    def _upper_arm(self, side: str) -> list[Shape]:
        colour = self._garment(self.look.shirt, side)
        return [self._capsule(f"{side}_shoulder", f"{side}_elbow", colour, f"{side}_upper_arm")]

    def _forearm(self, side: str) -> list[Shape]:
        part = f"{side}_forearm"
        hand = self._capsule(f"{side}_wrist", f"{side}_fingertip", self.look.skin, part)
        sleeve = self._garment(self.look.shirt, side) if self.look.long_sleeves else self.look.skin
        return [hand, self._capsule(f"{side}_elbow", f"{side}_wrist", sleeve, part)]

    def _thigh(self, side: str) -> list[Shape]:
        colour = self._garment(self.look.trousers, side)
        return [self._capsule(f"{side}_hip", f"{side}_knee", colour, f"{side}_thigh")]

    def _shin(self, side: str) -> list[Shape]:
        part = f"{side}_shin"
        foot = self._capsule(f"{side}_ankle", f"{side}_toe", self.look.shoes, part)
        leg = self._garment(self.look.trousers, side) if self.look.long_trousers else self.look.skin
        return [foot, self._capsule(f"{side}_knee", f"{side}_ankle", leg, part)]

    def _torso(self) -> list[Shape]:
        xy, part = self.xy, PART["torso"]
        hips = [self._disk(xy[f"{side}_hip"], self._thick("pelvis")) for side in SIDES]
        waist = [self._disk(self._on_flank(side, 0.75), 0.92 * self._thick("pelvis")) for side in SIDES]
        shoulders = [self._disk(self._on_flank(side, 0.05), self._thick("chest")) for side in SIDES]
        shapes = [
            Shape(_hull(*hips), self.look.trousers, part),
            Shape(_hull(*waist, *shoulders), self.look.shirt, part),
        ]
        if self.look.stripes is not None:
            for down in (0.3, 0.5, 0.7):
                ends = [self._disk(self._on_flank(side, down), 0.018) for side in SIDES]
                shapes.append(Shape(_hull(*ends), self.look.stripes, None, False))
        return [*shapes, self._capsule("neck", "chest", self.look.skin, "torso", False)]

    def _on_flank(self, side: str, down: float) -> np.ndarray:
        """Image px on the line from the shoulder (`down` 0) to the hip (1) of one side."""
        return (1 - down) * self.xy[f"{side}_shoulder"] + down * self.xy[f"{side}_hip"]

    def _head(self) -> list[Shape]:
        look, part = self.look, PART["head"]
        bald = look.hairline >= 180
        to_picture = self.body.head[:2] * HEAD_RADII * self.height  # (2, 3): head frame in half axes -> image px
        outline = self.xy["head"] + _CIRCLE @ np.linalg.cholesky(to_picture @ to_picture.T).T
        shapes = [Shape(outline, look.skin if bald else look.hair, part)]
        if not bald:
            shapes += self._face(to_picture)
        if look.long_hair and not bald:
            width = HEAD_RADII[0]
            hair = _hull(self._disk(self.xy["head"], 1.05 * width), self._disk(self.xy["neck"], 0.8 * width))
            # It falls down the nape: behind the head from the front, over the head from the back.
            shapes.insert(0 if self.body.head[2, 2] > 0 else 1, Shape(hair, look.hair, part))
        for side in SIDES:
            centre, in_front = self.xy[f"{side}_ear"], face_normal_z(self.body, f"{side}_ear") > _EAR_IN_FRONT
            ear = Shape(self._disk(centre, _RADIUS["ear"]), shade(look.skin, 0.88), PART[f"{side}_ear"])
            shapes.insert(len(shapes) if in_front else 0, ear)
        return shapes + self._features()

    def _face(self, to_picture: np.ndarray) -> list[Shape]:
        """The skin inside the hairline: a circle on the head's ellipsoid, its hidden part moved onto the outline."""
        middle = np.array([0.0, 0.45, 1.0]) / np.hypot(0.45, 1.0)
        up = np.array([0.0, -middle[2], middle[1]])
        reach = np.radians(self.look.hairline)
        rim = np.cos(reach) * middle + np.sin(reach) * (_CIRCLE[:, :1] * (1.0, 0, 0) + _CIRCLE[:, 1:] * up)
        viewer = self.body.head[2] / HEAD_RADII
        viewer = viewer / np.sqrt(viewer @ viewer)
        if middle @ viewer < -0.15:  # seen from behind
            return []
        depth = rim @ viewer
        hidden = depth < 0
        on_outline = rim - depth[:, None] * viewer
        on_outline /= np.maximum(np.linalg.norm(on_outline, axis=1, keepdims=True), 1e-6)
        rim = np.where(hidden[:, None], on_outline, rim)
        return [Shape(_hull(self.xy["head"] + rim @ to_picture.T), self.look.skin, PART["head"], False)]

    def _features(self) -> list[Shape]:
        """Eyes, mouth and nose, as far as they are turned to the viewer."""
        shapes = []
        plane = self.body.head[:2, :2].T * self.height
        for side in SIDES:
            if face_normal_z(self.body, f"{side}_eye") > _EYE_SEEN:
                centre, radius = self.xy[f"{side}_eye"], _RADIUS["eye"]
                white = centre + (_CIRCLE * (1.35 * radius, radius)) @ plane
                shapes.append(Shape(white, (245, 245, 245), PART["head"], False))
                shapes.append(Shape(self._disk(centre, 0.72 * radius), self.look.pupil, PART["head"], False))
        if face_normal_z(self.body, "mouth") > _EYE_SEEN:
            mouth = self.xy["mouth"] + (_CIRCLE * (0.028, 0.008)) @ plane
            shapes.append(Shape(mouth, (150, 40, 45), None, False))
        if face_normal_z(self.body, "nose") > _NOSE_SEEN:
            nose = self._disk(self.xy["nose"], _RADIUS["nose"])
            shapes.append(Shape(nose, shade(self.look.skin, 0.75), PART["head"]))
        return shapes
