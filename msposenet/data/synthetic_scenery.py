"""What surrounds synthetic people: textured backgrounds, occluding objects, and the camera's own faults."""

from __future__ import annotations

import cv2
import numpy as np

_BITS = 6  # fixed-point bits of drawn coordinates


def random_background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: gradient, noise of several grain sizes, and random shapes and lines."""
    return _clutter(rng, _texture(rng, height, width), int(rng.integers(3, 15)))


def draw_occluder(
    rng: np.random.Generator, image: np.ndarray, labels: np.ndarray, box_xyxy: np.ndarray, label: int
) -> None:
    """Draw a textured plank or ellipse over part of the figure that fills `box_xyxy`; `label` marks it in `labels`.

    It covers at most about a third of the box.
    """
    x0, y0, x1, y1 = box_xyxy
    size = np.array([x1 - x0, y1 - y0])
    centre = np.array([x0, y0]) + size * rng.uniform(0.05, 0.95, 2)
    axes = size * rng.uniform(0.12, 0.28, 2)
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    if rng.random() < 0.5:
        outline = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    else:
        outline = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.9
    tilt = rng.uniform(-0.6, 0.6)
    turned = (outline * axes) @ np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]]) + centre
    points = _fixed(turned)
    mask = np.zeros_like(labels)
    cv2.fillConvexPoly(mask, points, 255, cv2.LINE_8, _BITS)
    texture = _texture(rng, *labels.shape)
    cv2.copyTo(_clutter(rng, texture, 3), mask, image)
    edge = tuple(int(value) for value in rng.integers(0, 256, 3))
    cv2.polylines(image, [points], True, edge, 1, cv2.LINE_AA, _BITS)
    cv2.fillConvexPoly(labels, points, label, cv2.LINE_8, _BITS)


def camera_faults(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """The image with random exposure and grain, and now and then a slight blur."""
    height, width = image.shape[:2]
    if rng.random() < 0.25:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 0.9))
    gain, grain = rng.uniform(0.8, 1.15), rng.uniform(0.01, 0.09)
    noise = np.frombuffer(rng.bytes(height * width * 3), np.uint8).reshape(height, width, 3)
    return cv2.addWeighted(image, gain, noise, grain, rng.uniform(-12, 12) - 127.5 * grain)


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth colour change plus noise of several grain sizes, each made small and enlarged."""
    corners = rng.uniform(20, 235, (2, 2, 3)).astype(np.float32)
    image = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)
    for cells in (5, 14, 44):
        strength = rng.uniform(0, 38)
        noise = rng.uniform(-strength, strength, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.convertScaleAbs(np.maximum(image, 0, out=image))


def _clutter(rng: np.random.Generator, image: np.ndarray, count: int) -> np.ndarray:
    """Draws `count` random shapes, some of a limb's form and colour, into the image and returns it."""
    height, width = image.shape[:2]
    for kind in rng.integers(0, 4, count):
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        centre = rng.uniform(0, (width, height))
        size = rng.uniform(0.03, 0.28) * height
        if kind == 0:  # limb-like bar
            end = centre + rng.normal(0, size, 2)
            thickness = int(rng.integers(1, 13))
            cv2.line(image, _pixel(centre), _pixel(end), colour, thickness, cv2.LINE_AA)
        elif kind == 1:
            axes = (int(size) + 1, int(size * rng.uniform(0.4, 1)) + 1)
            cv2.ellipse(image, _pixel(centre), axes, rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA)
        elif kind == 2:
            corners = centre + rng.normal(0, size, (4, 2))
            hull = cv2.convexHull(corners.astype(np.float32))[:, 0]
            cv2.fillConvexPoly(image, _fixed(hull), colour, cv2.LINE_AA, _BITS)
        else:
            thickness = int(rng.integers(1, 4))
            cv2.circle(image, _pixel(centre), int(size * 0.4) + 1, colour, thickness, cv2.LINE_AA)
    return image


def _pixel(xy: np.ndarray) -> tuple[int, int]:
    return int(xy[0]), int(xy[1])


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.rint(points * (1 << _BITS)).astype(np.int32)
