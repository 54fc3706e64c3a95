"""Boxes, crops and flips against the reference programs, and by lighting single pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from pictures import triangle_picture
from shared_data import load_golden

from msposenet import geometry
from msposenet.geometry import Convention
from msposenet.skeletons import COCO_17

CONVENTIONS = [Convention.STANDARD, Convention.UNBIASED]


@pytest.mark.parametrize("size", ["256x192", "384x288"])
def test_boxes_become_the_references_centres_and_sizes(size):
    g = load_golden("geometry/hrnet_geometry.npz")
    input_wh = tuple(int(v) for v in reversed(size.split("x")))
    center, wh = geometry.boxes_to_crops(g["boxes_xywh"], input_wh)
    np.testing.assert_allclose(center, g[f"unclipped_center_{size}"], rtol=1e-6)
    np.testing.assert_allclose(wh / 200, g[f"unclipped_scale_{size}"], rtol=1e-6)
    clipped, kept = geometry.clip_boxes(g["boxes_xywh"], g["image_wh"])
    np.testing.assert_array_equal(kept, g[f"clipped_kept_{size}"])
    center, wh = geometry.boxes_to_crops(clipped[kept], input_wh)
    np.testing.assert_allclose(center, g[f"clipped_center_{size}"], rtol=1e-6)
    np.testing.assert_allclose(wh / 200, g[f"clipped_scale_{size}"], rtol=1e-6)


def test_a_box_beyond_the_picture_is_not_kept():
    boxes = [[700, 10, 50, 50], [10, 500, 50, 50], [10, 10, 50, 50]]
    _, kept = geometry.clip_boxes(np.array(boxes), np.array([640, 480]))
    assert kept.tolist() == [False, False, True]


def test_standard_matrices_and_mapped_points():
    g = load_golden("geometry/hrnet_geometry.npz")
    for i in range(len(g["affine_center"])):
        matrix = geometry.crop_matrix(
            g["affine_center"][i],
            g["affine_scale"][i] * 200,
            g["affine_rot_deg"][i],
            g["affine_output_wh"][i],
            Convention.STANDARD,
        )
        np.testing.assert_allclose(matrix[:, :2], g["affine_matrix"][i][:, :2], rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(matrix[:, 2], g["affine_matrix"][i][:, 2], atol=2e-4)
        mapped = geometry.transform(matrix, g["affine_points"][i])
        np.testing.assert_allclose(mapped, g["affine_points_out"][i], atol=2e-4)
        back = geometry.transform(geometry.invert(matrix), g["affine_points"][i])
        np.testing.assert_allclose(back, g["affine_points_inverse_out"][i], atol=2e-4)


@pytest.mark.parametrize(
    ("file", "convention"),
    [("hrnet_crops", Convention.STANDARD), ("udp_geometry", Convention.UNBIASED)],
)
def test_crops_are_the_references_bit_for_bit(file, convention):
    g = load_golden(f"geometry/{file}.npz")
    picture = triangle_picture(*g["image_hw"], int(g["image_phase"]))
    for i in range(int(g["n"])):
        center, size = g[f"c{i}_center"], g[f"c{i}_scale"] * 200
        matrix = geometry.crop_matrix(center, size, float(g[f"c{i}_rot"]), g[f"c{i}_wh"], convention)
        np.testing.assert_allclose(matrix, g[f"c{i}_matrix"], rtol=1e-5, atol=2e-4)
        np.testing.assert_array_equal(geometry.warp(picture, matrix, g[f"c{i}_wh"]), g[f"c{i}_crop"])


def test_unbiased_joints_and_back_projection():
    g = load_golden("geometry/udp_geometry.npz")
    for i in range(int(g["n"])):
        center, size = g[f"c{i}_center"], g[f"c{i}_scale"] * 200
        matrix = geometry.crop_matrix(center, size, float(g[f"c{i}_rot"]), g[f"c{i}_wh"], Convention.UNBIASED)
        mapped = geometry.transform(matrix, g[f"c{i}_joints_in"][:, :2])
        np.testing.assert_allclose(mapped, g[f"c{i}_joints_out"][:, :2], atol=2e-4)
        back = geometry.heatmap_to_image(
            g[f"c{i}_heatmap_points"][None], center[None], size[None], g[f"c{i}_wh"] // 4, Convention.UNBIASED
        )
        np.testing.assert_allclose(back[0], g[f"c{i}_heatmap_points_in_image"], atol=2e-4)


def test_mirrored_keypoints():
    g = load_golden("geometry/hrnet_geometry.npz")
    keypoints = np.concatenate([g["flip_joints_in"][:, :2], g["flip_vis_in"][:, :1]], axis=1)
    mirrored = geometry.flip_keypoints(keypoints, int(g["flip_width"]), COCO_17.flip_index)
    np.testing.assert_allclose(mirrored[:, :2], g["flip_joints_out"][:, :2], atol=2e-4)
    np.testing.assert_array_equal(mirrored[:, 2], g["flip_vis_out"][:, 0])


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("rotation", [0.0, 37.0, -120.0])
@pytest.mark.parametrize("flip", [False, True])
def test_a_lit_pixel_and_its_joint_land_together(convention, rotation, flip):
    picture = np.zeros((240, 320, 3), np.uint8)
    xy_image = np.array([201.0, 87.0])
    # A blob rather than one pixel, so that its centre of mass survives the resampling.
    cv2.circle(picture, (201, 87), 6, (255, 255, 255), -1)
    keypoints = np.array([[*xy_image, 2.0]])
    center = np.array([180.0, 110.0])
    if flip:
        picture, keypoints = cv2.flip(picture, 1), geometry.flip_keypoints(keypoints, 320, np.array([0]))
        center[0] = 319 - center[0]
    matrix = geometry.crop_matrix(center, np.array([150.0, 200.0]), rotation, (192, 256), convention)
    crop = geometry.warp(picture, matrix, (192, 256))[..., 0].astype(float)
    y, x = np.mgrid[:256, :192]
    lit = np.array([(x * crop).sum(), (y * crop).sum()]) / crop.sum()
    np.testing.assert_allclose(geometry.transform(matrix, keypoints[0, :2]), lit, atol=0.05)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_image_to_heatmap_and_back_is_the_identity(convention):
    input_wh, heatmap_wh = (192, 256), (48, 64)
    center, size = np.array([[200.0, 150.0]]), np.array([[120.0, 160.0]])
    xy_image = np.array([[[171.3, 140.2], [212.9, 201.7]]])
    matrix = geometry.crop_matrix(center[0], size[0], 0.0, input_wh, convention)
    xy_crop = geometry.transform(matrix, xy_image[0])
    xy_heatmap = geometry.crop_to_heatmap(xy_crop, input_wh, heatmap_wh, convention)
    np.testing.assert_allclose(geometry.heatmap_to_crop(xy_heatmap, input_wh, heatmap_wh, convention), xy_crop)
    back = geometry.heatmap_to_image(xy_heatmap[None], center, size, heatmap_wh, convention)
    np.testing.assert_allclose(back, xy_image, atol=1e-4)


def test_mirrored_maps_meet_exactly_only_in_the_unbiased_convention():
    """The flip error of each convention, in heatmap px (stride 4): the table of UDP's section 3.2."""
    input_wh, heatmap_wh = (192, 256), (48, 64)
    xy_crop = np.array([77.0, 30.0])
    mirrored = np.array([192 - 1 - xy_crop[0], xy_crop[1]])
    errors = {}
    for convention in CONVENTIONS:
        there = geometry.crop_to_heatmap(mirrored, input_wh, heatmap_wh, convention)
        back = heatmap_wh[0] - 1 - there[0]
        errors[convention] = back - geometry.crop_to_heatmap(xy_crop, input_wh, heatmap_wh, convention)[0]
    assert errors[Convention.UNBIASED] == pytest.approx(0, abs=1e-12)
    assert errors[Convention.STANDARD] == pytest.approx(-0.75)


def test_flip_of_maps_shifts_and_negates():
    maps = np.zeros((1, 2, 1, 4), np.float32)
    maps[0, 0, 0, 0] = 1.0
    flipped = geometry.flip_heatmaps(maps, np.array([1, 0]))
    assert flipped[0, 1, 0].tolist() == [0, 0, 0, 1]
    shifted = geometry.flip_heatmaps(np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4), np.array([0]), shift=True)
    assert shifted.ravel().tolist() == [3, 3, 2, 1]
    offsets = np.arange(12, dtype=np.float32).reshape(1, 6, 1, 2)
    turned = geometry.flip_offset_maps(offsets, np.array([1, 0])).reshape(6, 2)
    assert turned[0].tolist() == [7, 6] and turned[1].tolist() == [-9, -8] and turned[2].tolist() == [11, 10]
