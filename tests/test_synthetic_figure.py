"""Synthetic figures: labels that coincide with what is drawn, visibility flags, left and right."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from msposenet.data.synthetic_figure import PARTS_PER_FIGURE, draw_shapes, figure_keypoints
from msposenet.data.synthetic_look import random_look, shade
from msposenet.data.synthetic_pose import bend, pose_body, turn
from msposenet.data.synthetic_shapes import PART, Figure, figure_shapes, shapes_extent
from msposenet.skeletons import COCO_17

SEEN, COVERED, ABSENT = 2, 1, 0
FACE_ROWS = [COCO_17.index(joint) for joint in ("nose", "left_eye", "right_eye")]


def row(joint: str) -> int:
    return COCO_17.index(joint)


def make_figure(seed: int = 0, yaw: float = 0.0) -> Figure:
    """A random figure in the middle of a 240 x 200 picture, its hips turned by `yaw` degrees."""
    rng = np.random.default_rng(seed)
    figure = Figure(pose_body(rng, turn(yaw=yaw)), random_look(rng), 140.0, (0.0, 0.0))
    x0, y0, x1, y1 = shapes_extent(figure_shapes(figure))
    return moved(figure, (100 - (x0 + x1) / 2 + rng.random(), 120 - (y0 + y1) / 2 + rng.random()))


def draw(shapes, number: int = 1) -> tuple[np.ndarray, np.ndarray]:
    image, labels = np.full((240, 200, 3), 128, np.uint8), np.zeros((240, 200), np.uint8)
    draw_shapes(image, labels, shapes, number)
    return image, labels


def centroid(weights: np.ndarray) -> np.ndarray:
    """x, y of the centre of mass, pixel (x, y)'s centre being at (x, y)."""
    y, x = np.indices(weights.shape)
    return np.array([(weights * x).sum(), (weights * y).sum()]) / weights.sum()


def plain_figure(yaw: float = 0.0) -> Figure:
    """Arms and legs spread and the head upright, so that nothing covers anything; `yaw` turns the whole person."""
    flat = {
        "head": (0, -0.45), "neck": (0, -0.33), "chest": (0, -0.3), "pelvis": (0, 0), "mouth": (0, -0.4),
        "shoulder": (0.11, -0.3), "elbow": (0.25, -0.3), "wrist": (0.38, -0.3), "fingertip": (0.43, -0.3),
        "hip": (0.07, 0), "knee": (0.14, 0.22), "ankle": (0.2, 0.44), "toe": (0.24, 0.48),
    }  # fmt: skip
    whole = turn(yaw=yaw)
    body = pose_body(np.random.default_rng(0))
    upright = {}
    for name, point in body.points.items():
        side, _, place = name.rpartition("_")
        if place in flat:
            x, y = flat[place]
            upright[name] = whole @ ((-x if side == "right" else x), y, 0.0)
        else:  # the face, moved from where that random head was to the upright one
            from_head = body.head.T @ (point - body.points["head"])
            upright[name] = whole @ (np.array([0, -0.45, 0]) + from_head)
    look = replace(random_look(np.random.default_rng(1)), hairline=70.0, long_hair=False, long_sleeves=True)
    return Figure(replace(body, points=upright, head=whole, girth=1.0), look, 150.0, (100.3, 120.6))


def moved(figure: Figure, shift: tuple[float, float]) -> Figure:
    x, y = figure.pelvis_xy_image
    return replace(figure, pelvis_xy_image=(x + shift[0], y + shift[1]))


def drawn_centroid(shapes) -> np.ndarray:
    """Centroid of what the shapes change on a plain background."""
    return centroid(np.abs(draw(shapes)[0].astype(float) - 128).sum(axis=2))


# --- what is labelled is what is drawn ------------------------------------------------------------------------------


@pytest.mark.parametrize("yaw", [-35, 0, 35])
@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.5, 0.5), (0.25, 0.75), (0.9, 0.1)])
def test_eye_label_is_the_centre_of_the_drawn_pupil(yaw, offset):
    figure = moved(plain_figure(yaw), offset)
    pictures = []
    for colour in ((0, 0, 0), (240, 240, 240)):
        image, labels = draw(figure_shapes(replace(figure, look=replace(figure.look, pupil=colour))))
        pictures.append(image.astype(float))
    pupils = np.abs(pictures[1] - pictures[0]).sum(axis=2)
    keypoints = figure_keypoints(figure, labels, 1)
    split = (keypoints[row("left_eye"), 0] + keypoints[row("right_eye"), 0]) / 2
    in_left_half = np.arange(pupils.shape[1])[None, :] > split  # the person's left: it faces the viewer
    for joint, half in (("left_eye", in_left_half), ("right_eye", ~in_left_half)):
        assert keypoints[row(joint), 2] == SEEN
        assert centroid(pupils * half) == pytest.approx(keypoints[row(joint), :2], abs=0.1)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("joint", "part", "gathered"),
    [
        ("wrist", "forearm", ("elbow", "fingertip")),
        ("elbow", "upper_arm", ("shoulder",)),
        ("knee", "thigh", ("hip",)),
        ("ankle", "shin", ("knee", "toe")),
        ("ear", "ear", ()),
    ],
)
def test_joint_label_is_the_centre_of_its_drawn_disk(side, joint, part, gathered):
    # With the limb's other points gathered in the joint, what is left of the limb is the joint's own disk (or disks).
    outlined_errors = []
    for seed in range(30):
        figure = make_figure(seed)
        points = dict(figure.body.points)
        for name in gathered:
            points[f"{side}_{name}"] = points[f"{side}_{joint}"]
        figure = replace(figure, body=replace(figure.body, points=points))
        whole = draw(figure_shapes(figure))[1]
        expected = figure_keypoints(figure, whole, 1)[row(f"{side}_{joint}")]
        if expected[2] == ABSENT:  # an ear turned away
            continue
        disks = [shape for shape in figure_shapes(figure) if shape.part == PART[f"{side}_{part}"]]
        bare = [shape._replace(outlined=False) for shape in disks]
        assert drawn_centroid(bare) == pytest.approx(expected[:2], abs=0.1)
        outlined_errors.append(drawn_centroid(disks) - expected[:2])
    assert len(outlined_errors) > 15
    assert np.mean(outlined_errors, axis=0) == pytest.approx([0, 0], abs=0.04)


def test_nose_label_is_the_centre_of_the_drawn_nose():
    for seed in range(10):
        figure = make_figure(seed)
        nose = [shape for shape in figure_shapes(figure) if shape.colour == shade(figure.look.skin, 0.75)]
        expected = figure_keypoints(figure, draw(figure_shapes(figure))[1], 1)[row("nose")]
        assert len(nose) == 1
        assert drawn_centroid([nose[0]._replace(outlined=False)]) == pytest.approx(expected[:2], abs=0.1)


def test_extent_bounds_the_silhouette_within_a_pixel():
    for seed in range(10):
        shapes = figure_shapes(make_figure(seed, yaw=30 * seed))
        y, x = np.nonzero(draw(shapes)[1])
        assert shapes_extent(shapes) == pytest.approx([x.min(), y.min(), x.max(), y.max()], abs=1.0)


# --- flags ----------------------------------------------------------------------------------------------------------


def test_everything_is_seen_of_a_spread_figure_that_faces_the_viewer():
    figure = plain_figure()
    keypoints = figure_keypoints(figure, draw(figure_shapes(figure))[1], 1)
    assert (keypoints[:, 2] == SEEN).all()


def test_a_face_seen_from_behind_is_not_labelled():
    figure = plain_figure(yaw=180)
    keypoints = figure_keypoints(figure, draw(figure_shapes(figure))[1], 1)
    assert (keypoints[FACE_ROWS] == 0).all()
    body_rows = np.setdiff1d(np.arange(17), FACE_ROWS)
    assert (keypoints[body_rows, 2] == SEEN).all()


def test_a_face_turned_to_its_left_hides_the_far_side():
    figure = plain_figure(yaw=60)
    flags = figure_keypoints(figure, draw(figure_shapes(figure))[1], 1)[:, 2]
    assert flags[row("nose")] == flags[row("right_eye")] == flags[row("right_ear")] == SEEN
    assert flags[row("left_eye")] == COVERED
    assert flags[row("left_ear")] == ABSENT


def test_of_a_body_seen_from_the_side_the_far_shoulder_and_hip_are_hidden():
    figure = plain_figure(yaw=80)
    points = dict(figure.body.points)
    for side in ("left", "right"):  # arms up, out of the way
        for count, joint in enumerate(("elbow", "wrist", "fingertip"), start=1):
            points[f"{side}_{joint}"] = points[f"{side}_shoulder"] - (0, 0.14 * count, 0)
    figure = replace(figure, body=replace(figure.body, points=points))
    flags = figure_keypoints(figure, draw(figure_shapes(figure))[1], 1)[:, 2]
    # The torso alone on top tells them apart too: it is the near side of it that is seen.
    torso_on_top = np.full((240, 200), PARTS_PER_FIGURE + PART["torso"], np.uint8)
    behind_torso = figure_keypoints(figure, torso_on_top, 1)[:, 2]
    for joint in ("shoulder", "hip"):
        assert (behind_torso[row(f"right_{joint}")], behind_torso[row(f"left_{joint}")]) == (SEEN, COVERED)
        assert (flags[row(f"right_{joint}")], flags[row(f"left_{joint}")]) == (SEEN, COVERED)


def test_what_another_figure_covers_is_flagged_hidden():
    figure = plain_figure()
    labels = draw(figure_shapes(figure))[1]
    x, y = figure_keypoints(figure, labels, 1)[row("left_wrist"), :2]
    cv2.circle(labels, (round(float(x)), round(float(y))), 5, 2 * PARTS_PER_FIGURE + PART["left_forearm"], -1)
    flags = figure_keypoints(figure, labels, 1)[:, 2]
    assert flags[row("left_wrist")] == COVERED
    assert (np.delete(flags, row("left_wrist")) == SEEN).all()


def test_what_the_own_arm_covers_is_flagged_hidden():
    figure = plain_figure()
    points = dict(figure.body.points)
    # The left forearm comes forward and lies across the right hip.
    points["left_wrist"] = points["right_hip"] + (0, 0, 0.2)
    points["left_elbow"] = points["left_wrist"] + (0.13, -0.05, 0)
    figure = replace(figure, body=replace(figure.body, points=points))
    flags = figure_keypoints(figure, draw(figure_shapes(figure))[1], 1)[:, 2]
    assert flags[row("right_hip")] == COVERED
    assert flags[row("left_wrist")] == SEEN


@pytest.mark.parametrize(
    ("shift", "joints"), [((-101.0, 0.0), ["right_wrist", "right_ankle"]), ((0.0, 80.0), ["left_ankle", "right_ankle"])]
)
def test_joints_outside_the_picture_are_not_labelled(shift, joints):
    figure = moved(plain_figure(), shift)
    keypoints = figure_keypoints(figure, draw(figure_shapes(figure))[1], 1)
    for joint in joints:
        assert tuple(keypoints[row(joint)]) == (0, 0, ABSENT)
    assert keypoints[row("left_shoulder"), 2] == SEEN


# --- left and right -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("yaw", "sign"), [(0, 1), (180, -1)])
def test_left_is_on_the_pictures_right_exactly_when_the_person_faces_it(yaw, sign):
    keypoints = figure_keypoints(plain_figure(yaw), np.zeros((240, 200), np.uint8), 1)
    for left, right in COCO_17.flip_pairs:
        if keypoints[row(left), 2] > 0:
            assert sign * (keypoints[row(left), 0] - keypoints[row(right), 0]) > 3, (left, right)


@pytest.mark.parametrize("yaw", [0, 180])
def test_right_sleeve_and_leg_are_the_darker_ones_from_both_views(yaw):
    figure = plain_figure(yaw)
    image, labels = draw(figure_shapes(figure))
    keypoints = figure_keypoints(figure, labels, 1)

    def brightness(a: str, b: str) -> float:
        x, y = ((keypoints[row(a), :2] + keypoints[row(b), :2]) / 2 + 0.5).astype(int)
        return float(image[y, x].sum())

    for near, far in (("shoulder", "elbow"), ("hip", "knee")):
        left, right = (brightness(f"{side}_{near}", f"{side}_{far}") for side in ("left", "right"))
        assert right < 0.7 * left


def test_turning_a_body_to_its_left_moves_its_front_to_the_pictures_right():
    assert turn(yaw=90) @ (0, 0, 1) == pytest.approx([1, 0, 0])
    assert turn(pitch=30) @ (0, -1, 0) == pytest.approx([0, -np.cos(np.pi / 6), 0.5])  # nodding brings the crown nearer
    assert turn(roll=90) @ (1, 0, 0) == pytest.approx([0, 1, 0])  # clockwise, y pointing down
    assert bend(np.array([0.0, 1, 0]), np.array([0.0, 5, 2]), 90) == pytest.approx([0, 0, 1])
