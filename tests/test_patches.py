"""Person patches: they hold all that an augmented crop can show, no more than that, and say where it lies."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from people_set import tiny_config

from msposenet import geometry
from msposenet.config import AugmentationConfig
from msposenet.data.augmentation import CropPlan, augment
from msposenet.data.images import decode_image
from msposenet.data.patches import PatchSettings, crops_of, cut_patch, encode, reach, reduction
from msposenet.data.pictures import View
from msposenet.data.samples import cut
from msposenet.errors import ConfigError
from msposenet.geometry import Convention
from msposenet.skeletons import COCO_17, LSP_14

NOISE = np.random.default_rng(1).integers(0, 256, (150, 190, 3), dtype=np.uint8)
OTHER = np.random.default_rng(2).integers(0, 256, NOISE.shape, dtype=np.uint8)
HEIGHT, WIDTH = NOISE.shape[:2]


def settings_of(config: AugmentationConfig, size: tuple[int, int] = (64, 48)) -> PatchSettings:
    return PatchSettings.of(tiny_config(augmentation=config.model_dump())).model_copy(update={"input": size})


class Extreme:
    """A generator whose draws are the largest either way, in an order drawn by lot."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def random(self) -> float:
        return float(self._rng.choice([1e-9, 1 - 1e-9]))

    def standard_normal(self) -> float:
        return float(self._rng.choice([-9.0, 9.0]))


corners = st.tuples(st.floats(-30, WIDTH - 2), st.floats(-30, HEIGHT - 2))
extents = st.tuples(st.floats(2, 150), st.floats(2, 150))


@settings(max_examples=60, deadline=None)
@given(
    corner=corners,
    extent=extents,
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.0, 0.15, 0.35, 0.9]),
    rotation=st.sampled_from([0.0, 5.0, 20.0, 45.0, 180.0]),
    half=st.sampled_from([0.0, 1.0]),
    skeleton=st.sampled_from([COCO_17, LSP_14]),
    wide=st.booleans(),
)
def test_no_augmented_crop_shows_anything_else(corner, extent, seed, scale, rotation, half, skeleton, wide):
    """Everything outside the patch is exchanged; every crop must stay the same, bit for bit."""
    x, y = corner
    w, h = np.maximum(extent, [1 - x, 1 - y])  # something of the box lies in the picture
    rng = np.random.default_rng(seed)
    keypoints = np.zeros((skeleton.num_joints, 3))
    keypoints[:, 0] = rng.uniform(x - 0.2 * w, x + 1.2 * w, len(keypoints))
    keypoints[:, 1] = rng.uniform(y - 0.2 * h, y + 1.2 * h, len(keypoints))
    keypoints[:, 2] = rng.integers(0, 3, len(keypoints))
    keypoints[:, :2] *= keypoints[:, 2:] > 0
    config = AugmentationConfig(scale=scale, rotation=rotation, half_body=half, half_body_joints=3, flip=0.5)
    size = (48, 64) if wide else (64, 48)
    patches = settings_of(config, size)
    centers, sizes = crops_of(np.array([[x, y, w, h]]), patches)
    patch = cut_patch(NOISE, reach(centers[0], sizes[0], keypoints, skeleton, patches), 1.0)
    left, top = patch.corner
    exchanged = OTHER.copy()
    exchanged[top : top + patch.pixels.shape[0], left : left + patch.pixels.shape[1]] = patch.pixels
    for number in range(24):
        draws = Extreme(rng) if number % 2 else rng
        plan = augment(CropPlan(centers[0], sizes[0]), keypoints, WIDTH, skeleton, config, size[::-1], draws)
        for convention in Convention:
            wanted, found = (
                cut(View(picture), WIDTH, keypoints, plan, skeleton, size[::-1], convention)[0]
                for picture in (NOISE, exchanged)
            )
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("rotation", [0.0, 10.0, 45.0])
@pytest.mark.parametrize("half", [0.0, 1.0])
def test_a_patch_is_no_larger_than_needed(rotation, half):
    config = AugmentationConfig(rotation=rotation, half_body=half, scale=0.3)
    patches = settings_of(config)
    rng = np.random.default_rng(3)
    keypoints = np.ones((17, 3))
    keypoints[:, :2] = rng.uniform([400, 380], [560, 700], (17, 2))
    centers, sizes = crops_of(np.array([[410.0, 400.0, 120.0, 240.0]]), patches)
    found = reach(centers[0], sizes[0], keypoints, COCO_17, patches)
    corners = np.array([[0, 0], [47, 0], [0, 63], [47, 63]], np.float64)
    seen = []
    for number in range(4000):
        plan = augment(CropPlan(centers[0], sizes[0]), keypoints, 1000, COCO_17, config, (48, 64), rng)
        if number % 2:  # the largest draw is rare
            plan = CropPlan(plan.center, plan.size * 1.3 / max(1.0, plan.size[0] / sizes[0][0]), plan.rotation)
        if not plan.flip:
            matrix = geometry.crop_matrix(plan.center, plan.size, plan.rotation, (48, 64), Convention.UNBIASED)
            seen.append(geometry.transform(geometry.invert(matrix), corners))
    points = np.concatenate(seen)
    wide = found[2:] - found[:2]
    assert (points.min(axis=0) - found[:2] < 0.05 * wide).all() and (found[2:] - points.max(axis=0) < 0.05 * wide).all()


@pytest.mark.parametrize("factor", [1.25, 1.5, 2.0, 3.25])
@pytest.mark.parametrize("corners", [(20.2, 31.4, 120.9, 97.3), (-50.0, -9.0, 61.5, 42.0), (77.0, 3.0, 900.0, 900.0)])
def test_a_reduced_patch_lies_where_it_says(factor, corners):
    """On a slope that says its own coordinates: 4 x in red, 4 y in green."""
    height, width = 63, 64
    slope = np.zeros((height, width, 3), np.uint8)
    slope[..., 0], slope[..., 1] = 4 * np.arange(width), 4 * np.arange(height)[:, None]
    wide = cv2.resize(slope, (width * 3, height * 3), interpolation=cv2.INTER_LINEAR)  # 4 / 3 a px
    view = View.reduced(*cut_patch(wide, np.array(corners), factor))
    v, u = np.mgrid[0 : view.pixels.shape[0], 0 : view.pixels.shape[1]]
    x, y = view.origin[0] + view.factor * u, view.origin[1] + view.factor * v
    inside = (x > 3) & (y > 3) & (x < 3 * width - 5) & (y < 3 * height - 5)
    assert inside.mean() > 0.5
    wanted = np.stack([(x - 1) * 4 / 3, (y - 1) * 4 / 3], axis=-1)
    np.testing.assert_allclose(view.pixels[..., :2][inside], wanted[inside], atol=1.0)
    far = np.array([x.max(), y.max()]) + factor / 2
    needed = np.minimum(np.array(corners[2:]) + 2 * factor, [3 * width - 0.5, 3 * height - 0.5])
    assert (far >= needed).all(), "the last px are missing"
    assert far[0] < 3 * width - 0.5 + factor and far[1] < 3 * height - 0.5 + factor, "px beyond the picture"


@pytest.mark.parametrize("factor", [1.25, 2.0, 5.75])
def test_the_last_px_at_the_edge_of_a_picture_are_not_darkened(factor):
    flat = np.full((61, 83, 3), 77, np.uint8)
    assert (cut_patch(flat, np.array([10.0, 10.0, 200.0, 200.0]), factor).pixels == 77).all()


def test_a_patch_of_full_size_begins_on_the_jpeg_grid():
    patch = cut_patch(NOISE, np.array([70.5, 55.0, 90.0, 80.0]), 1.0)
    assert patch.corner == (64, 48) and patch.factor == 1
    np.testing.assert_array_equal(patch.pixels, NOISE[48:84, 64:94])


REDUCTIONS = (
    (10, 1.6, 1),
    (48, 1, 1),
    (59, 1, 1),
    (60, 1, 1.25),
    (95.9, 1, 1.75),
    (96, 1, 2),
    (96, 1.6, 1.25),
    (480, 2, 5),
)


@pytest.mark.parametrize(("width", "oversample", "factor"), REDUCTIONS)
def test_large_persons_are_reduced(width, oversample, factor):
    patches = settings_of(AugmentationConfig()).model_copy(update={"oversample": oversample})
    assert reduction(np.array([width, width * 4 / 3], np.float32), patches) == factor
    assert factor == 1 or width / 48 / factor >= oversample


def test_colours_are_kept():
    flat = np.zeros((40, 48, 3), np.uint8)
    flat[..., 0], flat[..., 1], flat[..., 2] = 200, 120, 30
    assert np.abs(decode_image(encode(flat, 95), "x").astype(int) - flat).max() <= 2
    np.testing.assert_array_equal(decode_image(encode(NOISE[:, 5:70], 0), "x"), NOISE[:, 5:70])
    smooth = cv2.GaussianBlur(NOISE, (0, 0), 6)
    coarse, fine = encode(smooth, 50), encode(smooth, 95)
    errors = [np.abs(decode_image(data, "x") - smooth.astype(int)).mean() for data in (coarse, fine)]
    assert len(coarse) < len(fine) and errors[1] < errors[0]


PACKED = {"half_body": 0.3, "half_body_joints": 8, "scale": 0.3, "rotation": 30.0, "rotation_probability": 0.5}
COVERED = {
    "the same": ({}, {}),
    "less of everything": ({"scale": 0.1, "rotation": 5.0, "half_body_joints": 9}, {"enlarge": 1.1}),
    "no half bodies": ({"half_body": 0.0, "half_body_joints": 0}, {}),
    "never rotated": ({"rotation": 90.0, "rotation_probability": 0.0}, {}),
    "a smaller input of that aspect": ({}, {"input": [128, 96]}),
}
BEYOND = {
    "scale": ({"scale": 0.31}, {}, r"augmentation\.scale is 0\.31, the pack was made for 0\.3,"),
    "rotation": ({"rotation": 31.0}, {}, r"augmentation\.rotation is 31\.0, the pack was made for 30\.0"),
    "half bodies of fewer joints": (
        {"half_body_joints": 7},
        {},
        r"augmentation\.half_body_joints .* is 7, the pack was made for 8",
    ),
    "enlarge": ({}, {"enlarge": 1.3}, r"data\.enlarge is 1\.3, the pack was made for 1\.25"),
    "aspect": ({}, {"input": [256, 256]}, r"data\.input is \[256, 256\], the pack was made for \[256, 192\]"),
    "input": ({}, {"input": [512, 384]}, r"data\.input is \[512, 384\]"),
}


def asking(augmentation, data) -> PatchSettings:
    config = tiny_config(augmentation={**PACKED, **augmentation}, data={"input": [256, 192], **data})
    return PatchSettings.of(config)


@pytest.mark.parametrize(("augmentation", "data"), COVERED.values(), ids=COVERED)
def test_a_pack_covers_what_asks_for_less(augmentation, data):
    asking({}, {}).refuse_beyond(asking(augmentation, data), "here")


@pytest.mark.parametrize(("augmentation", "data", "message"), BEYOND.values(), ids=BEYOND)
def test_a_pack_refuses_what_asks_for_more(augmentation, data, message):
    with pytest.raises(ConfigError, match=f"here: {message}.*make a pack for this configuration"):
        asking({}, {}).refuse_beyond(asking(augmentation, data), "here")


def test_a_pack_without_half_bodies_refuses_them():
    with pytest.raises(ConfigError, match="is 8, the pack was made for None"):
        asking({"half_body": 0.0}, {}).refuse_beyond(asking({}, {}), "here")


@pytest.mark.parametrize(
    "changes", [{"quality": 101}, {"quality": -1}, {"oversample": 0.5}, {"oversample": float("nan")}]
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ConfigError, match=f"{next(iter(changes))}: .*found"):
        PatchSettings.of(tiny_config(), **changes)
