"""Half bodies and complete training samples with fixed draws, against the reference program."""

from __future__ import annotations

import numpy as np
import pytest
from pictures import triangle_picture
from shared_data import load_golden

from msposenet.codecs import GaussianCodec
from msposenet.config import AugmentationConfig
from msposenet.data.augmentation import CropPlan, augment, half_body
from msposenet.data.pictures import View
from msposenet.data.samples import cut
from msposenet.geometry import Convention
from msposenet.skeletons import COCO_17

INPUT = (192, 256)


class Scripted:
    """A generator that hands out given draws, and complains when asked for more."""

    def __init__(self, uniforms, normals) -> None:
        self._uniforms, self._normals = [float(u) for u in uniforms], [float(n) for n in normals]

    def random(self) -> float:
        return self._uniforms.pop(0)

    def standard_normal(self) -> float:
        return self._normals.pop(0)


def test_half_bodies():
    g = load_golden("geometry/hrnet_geometry.npz")
    for i, draw in enumerate(g["half_normal_draw"]):
        keypoints = np.concatenate([g["half_joints"][i][:, :2], g["half_vis"][i][:, :1]], axis=1)
        found = half_body(keypoints, COCO_17.upper_mask, INPUT, Scripted([], [draw]))
        assert (found is not None) == bool(g["half_defined"][i])
        if found is not None:
            np.testing.assert_allclose(found[0], g["half_center"][i], rtol=1e-6)
            np.testing.assert_allclose(found[1] / 200, g["half_scale"][i], rtol=1e-6)


@pytest.mark.parametrize("case", range(4))
def test_complete_training_samples(case):
    g = load_golden("geometry/hrnet_train_sample.npz")
    p = f"p{case}_"
    picture = triangle_picture(*g["image_hw"], int(g["image_phase"]))
    wh = tuple(int(v) for v in g[f"{p}input_wh"])
    keypoints = np.concatenate([g[f"{p}joints_in"][:, :2], g[f"{p}vis_in"][:, :1]], axis=1)
    half = [g[f"{p}draw_half_uniform"]] if (keypoints[:, 2] > 0).sum() > 8 else []
    rng = Scripted([*half, *g[f"{p}draw_uniforms"]], g[f"{p}draw_normals"])
    start = CropPlan(g[f"{p}center_in"], g[f"{p}scale_in"] * 200)
    plan = augment(start, keypoints, picture.shape[1], COCO_17, AugmentationConfig(), wh, rng)
    np.testing.assert_allclose(plan.center, g[f"{p}center"], rtol=1e-6)
    np.testing.assert_allclose(plan.size / 200, g[f"{p}scale"], rtol=1e-6)
    assert plan.rotation == pytest.approx(float(g[f"{p}rotation"]))
    crop, joints, labelled = cut(View(picture), picture.shape[1], keypoints, plan, COCO_17, wh, Convention.STANDARD)
    np.testing.assert_array_equal(crop, g[f"{p}crop"])
    np.testing.assert_allclose(joints, g[f"{p}joints"][:, :2] * labelled[:, None], atol=2e-4)
    codec = GaussianCodec(wh, (wh[0] // 4, wh[1] // 4), Convention.STANDARD, float(g[f"{p}sigma"]))
    target, weight = codec.encode(joints[None], labelled[None])
    np.testing.assert_allclose(target[0], g[f"{p}target"], atol=1e-5)
    np.testing.assert_array_equal(weight[0], g[f"{p}target_weight"][:, 0])


def test_ranges_of_the_random_changes():
    config = AugmentationConfig(half_body=0.0)
    keypoints = np.concatenate([np.random.default_rng(1).uniform(50, 150, (17, 2)), np.full((17, 1), 2.0)], axis=1)
    start = CropPlan(np.array([100.0, 100.0]), np.array([90.0, 120.0]))
    rng = np.random.default_rng(0)
    plans = [augment(start, keypoints, 200, COCO_17, config, INPUT, rng) for _ in range(2000)]
    zoom = np.array([plan.size[0] / 90 for plan in plans])
    rotation = np.array([plan.rotation for plan in plans])
    assert zoom.min() == pytest.approx(0.65) and zoom.max() == pytest.approx(1.35)
    assert abs(rotation).max() == 90.0 and (rotation != 0).mean() == pytest.approx(0.6, abs=0.04)
    assert np.mean([plan.flip for plan in plans]) == pytest.approx(0.5, abs=0.04)
    flipped = next(plan for plan in plans if plan.flip)
    assert flipped.center.tolist() == [99.0, 100.0]


def test_switched_off_it_changes_nothing():
    config = AugmentationConfig(half_body=0, scale=0, rotation=0, rotation_probability=0, flip=0)
    start = CropPlan(np.array([100.0, 100.0], np.float32), np.array([90.0, 120.0], np.float32))
    rng = np.random.default_rng(0)
    for _ in range(50):
        plan = augment(start, np.ones((17, 3)), 200, COCO_17, config, INPUT, rng)
        assert plan.rotation == 0 and not plan.flip and plan.size == pytest.approx([90.0, 120.0])


def test_an_unlabelled_joint_with_nan_does_not_reach_the_batch():
    keypoints = np.full((17, 3), np.nan)
    keypoints[:, 2] = 0
    keypoints[0] = [60, 60, 2]
    keypoints[:, :2] = np.nan_to_num(keypoints[:, :2])
    plan = CropPlan(np.array([60.0, 60.0]), np.array([90.0, 120.0]))
    view = View(np.zeros((120, 120, 3), np.uint8))
    _, joints, labelled = cut(view, 120, keypoints, plan, COCO_17, INPUT, Convention.UNBIASED)
    assert np.isfinite(joints).all() and not joints[1:].any() and labelled.sum() == 1
