"""Targets and decoding: NumPy and graph forms against the reference programs and against each other."""

from __future__ import annotations

import numpy as np
import pytest
from shared_data import load_golden

from msposenet import geometry
from msposenet.codecs import GaussianCodec, OffsetCodec
from msposenet.errors import ConfigError
from msposenet.geometry import Convention
from msposenet.runtime import mx
from msposenet.skeletons import COCO_17

STANDARD, UNBIASED = Convention.STANDARD, Convention.UNBIASED
INPUT, HEATMAP = (192, 256), (48, 64)


def in_numpy(codec, xy_crop, labelled):
    return codec.encode(xy_crop, labelled)


def in_graph(codec, xy_crop, labelled):
    targets, weights = codec.targets(mx.nd, mx.nd.array(xy_crop), mx.nd.array(labelled))
    return targets.asnumpy(), weights.asnumpy()


def decoded_in_numpy(codec, maps):
    return codec.decode(maps)


def decoded_in_graph(codec, maps):
    found = codec.decode_in_graph(mx.nd, mx.nd.array(maps), maps.shape[1] // codec.maps_per_joint).asnumpy()
    return found[..., :2], found[..., 2]


ENCODERS = pytest.mark.parametrize("encode", [in_numpy, in_graph])
DECODERS = pytest.mark.parametrize("decode", [decoded_in_numpy, decoded_in_graph])


def check_target(encode, codec, joints, visible, target, weight):
    maps, weights = encode(codec, joints[None, :, :2], visible[None])
    np.testing.assert_allclose(maps[0], target, atol=1e-5)
    np.testing.assert_array_equal(weights[0], weight)


@ENCODERS
@pytest.mark.parametrize("case", [0, 1, 2])
def test_rounded_gaussian(encode, case):
    g = load_golden("targets/hrnet_gaussian.npz")
    wh = tuple(int(v) for v in g[f"t{case}_input_wh"])
    codec = GaussianCodec(wh, (wh[0] // 4, wh[1] // 4), STANDARD, float(g[f"t{case}_sigma"]))
    # The reference multiplies weights of joints in here; ours enter with the loss.
    weight = (g[f"t{case}_weight"][:, 0] > 0).astype(np.float32)
    check_target(encode, codec, g[f"t{case}_joints"], g[f"t{case}_vis"][:, 0], g[f"t{case}_target"], weight)


@ENCODERS
@pytest.mark.parametrize("case", [0, 1])
@pytest.mark.parametrize("kind", ["udp_gaussian", "dark_gaussian", "udp_offset"])
def test_unbiased_dark_and_offset_targets(encode, case, kind):
    g = load_golden("targets/udp.npz")
    wh = tuple(int(v) for v in g[f"t{case}_input_wh"])
    heatmap, sigma = (wh[0] // 4, wh[1] // 4), float(g[f"t{case}_sigma"])
    codec = {
        "udp_gaussian": GaussianCodec(wh, heatmap, UNBIASED, sigma, "unrounded"),
        "dark_gaussian": GaussianCodec(wh, heatmap, STANDARD, sigma, "dark"),
        "udp_offset": OffsetCodec(wh, heatmap, UNBIASED, float(g[f"t{case}_radius_factor"])),
    }[kind]
    target, weight = g[f"t{case}_{kind}_target"], g[f"t{case}_{kind}_weight"][:, 0]
    check_target(encode, codec, g[f"t{case}_joints"], g[f"t{case}_vis"][:, 0], target, weight)


@ENCODERS
def test_a_gaussian_of_sigma_one_and_a_half_has_ten_cells(encode):
    """LSP's recipe: window mu - 5 .. mu + 4, weight 0 only when it is wholly off the 24 x 32 map."""
    codec = GaussianCodec((96, 128), (24, 32), STANDARD, 1.5)
    joints = np.array([[[40.0, 60.0], [-26.0, 60.0], [-22.0, 60.0], [116.0, 60.0], [113.0, 60.0]]])
    maps, weights = encode(codec, joints, np.ones((1, 5)))
    drawn = np.argwhere(maps[0, 0] > 0)
    assert drawn.min(axis=0).tolist() == [10, 5] and drawn.max(axis=0).tolist() == [19, 14]
    assert maps[0, 0, 15, 10] == 1.0
    assert weights[0].tolist() == [1, 0, 1, 0, 1]


@DECODERS
def test_quarter_offset(decode):
    d = load_golden("decoding/hrnet_decode.npz")
    codec = GaussianCodec(INPUT, HEATMAP, STANDARD)
    flipped = codec.flip_back(d["flipped_heatmaps"], COCO_17.flip_index)
    shifted = codec.flip_back(d["flipped_heatmaps"], COCO_17.flip_index, shift=True)
    np.testing.assert_array_equal(flipped.ravel()[::13], d["flip_back_sample_stride13"])
    for maps, wanted, score in (
        (d["heatmaps"], "final_xy", "max_value"),
        ((d["heatmaps"] + shifted) * 0.5, "average_shift_final_xy", "average_shift_max"),
        ((d["heatmaps"] + flipped) * 0.5, "average_noshift_final_xy", "average_noshift_max"),
    ):
        xy, scores = decode(codec, maps)
        found = geometry.heatmap_to_image(xy, d["center"], d["scale"] * 200, HEATMAP, STANDARD)
        np.testing.assert_allclose(found, d[wanted], atol=1e-3)
        np.testing.assert_allclose(scores, d[score][..., 0], atol=1e-6)


@DECODERS
def test_plain_argmax(decode):
    d = load_golden("decoding/hrnet_decode.npz")
    xy, _ = decode(GaussianCodec(INPUT, HEATMAP, STANDARD, decoder="argmax"), d["heatmaps"])
    np.testing.assert_array_equal(xy, d["argmax_xy"])


@DECODERS
@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("dark_kernel11", GaussianCodec(INPUT, HEATMAP, STANDARD, decoder="dark", kernel=11)),
        ("dark_kernel17", GaussianCodec(INPUT, HEATMAP, STANDARD, decoder="dark", kernel=17)),
        ("udp_gaussian_kernel3", GaussianCodec(INPUT, HEATMAP, UNBIASED, decoder="udp", kernel=3)),
        ("udp_gaussian_kernel7", GaussianCodec(INPUT, HEATMAP, UNBIASED, decoder="udp", kernel=7)),
        ("udp_gaussian_kernel11", GaussianCodec(INPUT, HEATMAP, UNBIASED, decoder="udp", kernel=11)),
        ("quarter_offset", GaussianCodec(INPUT, HEATMAP, STANDARD)),
        ("udp_offset_kernel7", OffsetCodec(INPUT, HEATMAP, UNBIASED, kernel=7)),
        ("udp_offset_kernel11", OffsetCodec(INPUT, HEATMAP, UNBIASED, kernel=11)),
    ],
)
def test_sub_pixel_decoding(decode, name, codec):
    d = load_golden("decoding/udp_dark_decode.npz")
    xy, scores = decode(codec, d["offset_maps" if isinstance(codec, OffsetCodec) else "heatmaps"])
    found = geometry.heatmap_to_image(xy, d["center"], d["scale"] * 200, HEATMAP, codec.convention)
    np.testing.assert_allclose(found, d[f"{name}_xy"], atol=1e-3)
    np.testing.assert_allclose(scores, d[f"{name}_score"][..., 0], atol=1e-5)


@pytest.mark.parametrize("shift", [False, True])
def test_maps_are_turned_back_alike_in_the_graph(shift):
    d = load_golden("decoding/udp_dark_decode.npz")
    gaussian, offset = GaussianCodec(INPUT, HEATMAP, UNBIASED), OffsetCodec(INPUT, HEATMAP, UNBIASED)
    for codec, key in ((gaussian, "heatmaps"), (offset, "offset_maps")):
        if shift and codec is offset:
            continue
        wanted = codec.flip_back(d[key], COCO_17.flip_index, shift)
        found = codec.flip_back_in_graph(mx.nd, mx.nd.array(d[key]), COCO_17.flip_index, shift).asnumpy()
        np.testing.assert_array_equal(found, wanted)
    back = gaussian.flip_back(d["heatmaps"], COCO_17.flip_index)
    np.testing.assert_array_equal(back.ravel()[::13], d["flip_back_gaussian_sample_stride13"])
    back = offset.flip_back(d["offset_maps"], COCO_17.flip_index)
    np.testing.assert_array_equal(back.ravel()[::13], d["flip_back_offset_sample_stride13"])


ROUND_TRIPS = {
    "argmax": (GaussianCodec(INPUT, HEATMAP, STANDARD, decoder="argmax"), 0.5),
    "quarter": (GaussianCodec(INPUT, HEATMAP, STANDARD, centre="unrounded"), 0.26),
    "dark": (GaussianCodec(INPUT, HEATMAP, UNBIASED, centre="dark", decoder="dark"), 0.01),
    "udp": (GaussianCodec(INPUT, HEATMAP, UNBIASED, centre="unrounded", decoder="udp"), 0.01),
    "offset": (OffsetCodec(INPUT, HEATMAP, UNBIASED, kernel=1), 1e-4),
    "vote": (OffsetCodec(INPUT, HEATMAP, UNBIASED, kernel=1, decoder="vote"), 1e-4),
}


@pytest.mark.parametrize(("codec", "tolerance"), ROUND_TRIPS.values(), ids=ROUND_TRIPS)
def test_encode_then_decode_returns_the_joints(codec, tolerance):
    rng = np.random.default_rng(5)
    xy_crop = rng.uniform((48, 48), (144, 208), (4, 17, 2))
    maps, weights = codec.encode(xy_crop, np.ones((4, 17)))
    assert weights.all()
    xy, score = codec.decode(maps)
    wanted = geometry.crop_to_heatmap(xy_crop, INPUT, HEATMAP, codec.convention)
    assert np.abs(xy - wanted).max() <= tolerance
    assert (score > 0.5).all()


def test_voting_gathers_a_torn_disk():
    """Where the class peak sits in noise, the votes of the whole disk still find the joint (G-RMI, section 3.2)."""
    rng = np.random.default_rng(0)
    xy_crop = rng.uniform((60, 60), (130, 190), (8, 17, 2))
    peak = OffsetCodec(INPUT, HEATMAP, UNBIASED, kernel=1)
    maps, _ = peak.encode(xy_crop, np.ones((8, 17)))
    maps[:, 0::3] += rng.normal(0, 0.1, maps[:, 0::3].shape)
    maps[:, 1::3] += rng.normal(0, 0.15, maps[:, 1::3].shape)
    maps[:, 2::3] += rng.normal(0, 0.15, maps[:, 2::3].shape)
    wanted = geometry.crop_to_heatmap(xy_crop, INPUT, HEATMAP, UNBIASED)
    vote = OffsetCodec(INPUT, HEATMAP, UNBIASED, kernel=1, decoder="vote")
    errors = [np.abs(codec.decode(maps)[0] - wanted).mean() for codec in (peak, vote)]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("codec", [codec for codec, _ in ROUND_TRIPS.values()], ids=ROUND_TRIPS)
def test_maps_without_a_positive_value_decode_to_the_origin(codec):
    for value in (-0.5, 0.0):
        maps = np.full((1, 2 * codec.maps_per_joint, 64, 48), value, np.float32)
        xy, score = codec.decode(maps)
        assert (score <= 0).all() and not xy.any()
        if getattr(codec, "decoder", "") != "vote":
            xy, score = decoded_in_graph(codec, maps)
            assert (score <= 0).all() and not xy.any()


@pytest.mark.parametrize("codec", [codec for codec, _ in ROUND_TRIPS.values()], ids=ROUND_TRIPS)
def test_unlabelled_joints_leave_empty_maps(codec):
    maps, weights = codec.encode(np.full((1, 3, 2), 100.0), np.array([[1, 0, 1]]))
    per_joint = np.abs(maps.reshape(1, 3, -1)).sum(axis=2)
    assert per_joint[0, 1] == 0 and weights[0].tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GaussianCodec(INPUT, HEATMAP, STANDARD, centre="middle"), "unknown Gaussian centre"),
        (lambda: GaussianCodec(INPUT, HEATMAP, STANDARD, decoder="peak"), "unknown decoder"),
        (lambda: GaussianCodec(INPUT, HEATMAP, STANDARD, kernel=4), "must be odd"),
        (lambda: GaussianCodec(INPUT, HEATMAP, STANDARD, sigma=0), "must be positive"),
        (lambda: OffsetCodec(INPUT, HEATMAP, UNBIASED, radius_factor=2), "radius_factor"),
        (lambda: OffsetCodec(INPUT, HEATMAP, UNBIASED, decoder="udp"), "unknown decoder"),
        (lambda: OffsetCodec(INPUT, HEATMAP, UNBIASED).flip_back(np.zeros((1, 3, 2, 2)), np.array([0]), True), "shift"),
    ],
)
def test_impossible_codecs_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
