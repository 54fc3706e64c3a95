"""Decoding as array operations against loops over whole maps, where shortcuts could go wrong: borders, negatives."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from msposenet.benchmarks import decoding
from msposenet.benchmarks.peers.plain_decoding import plain_dark, plain_quarter
from msposenet.codecs import GaussianCodec, OffsetCodec, peaks
from msposenet.errors import ResultError
from msposenet.geometry import Convention

STANDARD, UNBIASED = Convention.STANDARD, Convention.UNBIASED


def bumps(
    rng: np.random.Generator, wh: tuple[int, int], sigma: float = 2.0, lowered: float = 0.0, dtype=np.float32
) -> np.ndarray:
    """Maps (6, 5, H, W) with one bump each, anywhere up to the corners, some of them empty or wholly negative."""
    width, height = wh
    centre = rng.uniform((-1, -1), (width, height), (6, 5, 2))
    centre[0] = [(0, 0), (width - 1, 0), (1, 1), (width - 2, height - 2), (2, height - 3)]
    dx = np.arange(width) - centre[..., None, None, 0]
    dy = np.arange(height)[:, None] - centre[..., None, None, 1]
    maps = np.exp(-(dx**2 + dy**2) / (2 * sigma**2)) * rng.uniform(0.5, 1, (6, 5, 1, 1)) - lowered
    maps += rng.normal(0, 0.003, maps.shape)
    maps[1, 0], maps[1, 1] = 0, -0.5
    return maps.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("wh", [(48, 64), (11, 7)])
def test_quarter_offset_is_that_of_the_loops(wh, dtype):
    maps = bumps(np.random.default_rng(0), wh, dtype=dtype)
    before = maps.copy()
    codec = GaussianCodec((4 * wh[0], 4 * wh[1]), wh, STANDARD)
    for given in (maps, np.asfortranarray(maps)):
        xy, score = codec.decode(given)
        wanted, values = plain_quarter(maps)
        np.testing.assert_array_equal(xy, wanted)
        np.testing.assert_array_equal(score, values[..., 0])
    np.testing.assert_array_equal(maps, before)
    assert {0.0, 0.25, 0.75} == set(np.unique(xy % 1))


@pytest.mark.parametrize(
    ("kernel", "sigma", "lowered"),
    [(3, 2, 0), (11, 2, 0), (17, 2, 0), (3, 0.8, 0.05), (11, 0.8, 0.06)],
)
def test_dark_is_that_of_the_loops_also_where_its_bound_counts(kernel, sigma, lowered):
    """`lowered` maps are negative beside the peak: there the bound below the logarithm makes the step."""
    maps = bumps(np.random.default_rng(1), (48, 64), sigma, lowered)
    with np.errstate(invalid="ignore"):  # the published program divides by the height of an empty map
        wanted, _ = plain_dark(maps, kernel)
    xy, _ = GaussianCodec((192, 256), (48, 64), STANDARD, decoder="dark", kernel=kernel).decode(maps)
    np.testing.assert_allclose(xy, wanted, rtol=0, atol=2e-3)
    assert (np.abs(xy - peaks.find_peaks(maps)[0]) > 0.05).mean() > 0.3
    blurred = peaks.blur(maps, kernel, cv2.BORDER_CONSTANT)
    peak, _ = peaks.find_peaks(maps)
    beside = peaks.values_at(blurred, peak[..., 0] + 2, peak[..., 1])[2:]
    assert (beside < 1e-10).any() == (lowered > 0)


def test_the_bound_counts_from_the_scaled_map():
    """A map so low that what is blurred is below the bound, and what is scaled back is not."""
    maps = bumps(np.random.default_rng(2), (48, 64)) * np.float32(4e-10)
    with np.errstate(invalid="ignore"):
        wanted, _ = plain_dark(maps, 11)
    xy, _ = GaussianCodec((192, 256), (48, 64), STANDARD, decoder="dark").decode(maps)
    np.testing.assert_allclose(xy, wanted, rtol=0, atol=2e-3)
    assert np.abs(xy - peaks.find_peaks(maps)[0]).max() > 0.1


@pytest.mark.parametrize("kernel", [3, 7, 11])
@pytest.mark.parametrize("wh", [(48, 64), (11, 7)])
def test_udp_is_that_of_whole_maps(kernel, wh):
    maps = bumps(np.random.default_rng(3), wh)
    xy, _ = GaussianCodec((4 * wh[0], 4 * wh[1]), wh, UNBIASED, decoder="udp", kernel=kernel).decode(maps)
    peak, _ = peaks.find_peaks(maps)
    for n, k in np.ndindex(6, 5):
        blurred = cv2.GaussianBlur(maps[n, k], (kernel, kernel), 0)
        log = np.pad(np.log(np.clip(blurred, 0.001, 50)), 1, mode="edge").astype(np.float64)
        x, y = peak[n, k].astype(int) + 1
        near = log[y - 1 : y + 2, x - 1 : x + 2]
        slope = 0.5 * np.array([near[1, 2] - near[1, 0], near[2, 1] - near[0, 1]])
        eps = np.finfo(np.float32).eps
        dxx, dyy = near[1, 2] - 2 * near[1, 1] + near[1, 0] + eps, near[2, 1] - 2 * near[1, 1] + near[0, 1] + eps
        dxy = 0.5 * (near[2, 2] - near[1, 2] - near[2, 1] + 2 * near[1, 1] - near[1, 0] - near[0, 1] + near[0, 0])
        step = -np.linalg.solve([[dxx, dxy], [dxy, dyy]], slope)
        np.testing.assert_allclose(xy[n, k] - peak[n, k], step, rtol=2e-3, atol=2e-3, err_msg=f"{n}, {k}")


@pytest.mark.parametrize("kernel", [1, 7, 15])
@pytest.mark.parametrize("reflect", [True, False])
@pytest.mark.parametrize("reach", [0, 2])
def test_blurring_around_a_cell_is_blurring_the_map(kernel, reflect, reach):
    maps = np.random.default_rng(4).normal(0, 1, (3, 8, 6)).astype(np.float32)
    which, y, x = (part.ravel() for part in np.indices(maps.shape))
    found = peaks.blurred_around(maps, which, np.stack([x, y], axis=1), reach, kernel, reflect=reflect)
    whole = peaks.blur(maps, kernel, cv2.BORDER_DEFAULT if reflect else cv2.BORDER_CONSTANT)
    padded = np.pad(whole, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    side = 2 * reach + 1
    wanted = [padded[m, row : row + side, column : column + side] for m, row, column in zip(which, y, x)]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kernel", [1, 5])
def test_offsets_are_read_at_the_peak_of_whole_blurred_maps(kernel):
    codec = OffsetCodec((64, 80), (16, 20), UNBIASED, radius_factor=0.2, kernel=kernel)
    maps = np.random.default_rng(5).normal(0, 0.5, (2, 9, 20, 16)).astype(np.float32)
    maps[1, 3] = -1
    xy, score = codec.decode(maps)
    classes = peaks.blur(maps[:, 0::3], 2 * kernel + 1) if kernel > 1 else maps[:, 0::3]
    for n, k in np.ndindex(2, 3):
        y, x = np.unravel_index(classes[n, k].argmax(), (20, 16))
        assert score[n, k] == classes[n, k, y, x]
        dx, dy = (peaks.blur(maps[n, 3 * k + 1 + axis], kernel)[y, x] * codec.radius for axis in (0, 1))
        wanted = (x + dx, y + dy) if score[n, k] > 0 else (0, 0)
        np.testing.assert_allclose(xy[n, k], wanted, atol=1e-4)
    assert (score > 0).tolist() == [[True] * 3, [True, False, True]]


def test_votes_are_counted_cell_by_cell():
    codec = OffsetCodec((32, 40), (8, 10), UNBIASED, radius_factor=0.3, kernel=1, decoder="vote")
    maps = np.random.default_rng(6).normal(0.1, 0.5, (1, 9, 10, 8)).astype(np.float32)
    # Joint 1 lies between the last two columns and rows, joint 2 beyond them.
    for joint, (to_x, to_y) in ((1, (6.6, 8.6)), (2, (7.5, 9.5))):
        maps[0, 3 * joint + 1] = (to_x - np.arange(8)) / codec.radius
        maps[0, 3 * joint + 2] = (to_y - np.arange(10)[:, None]) / codec.radius
    xy, score = codec.decode(maps)
    for joint in range(3):
        fused = np.zeros((12, 10))
        for y, x in np.ndindex(10, 8):
            weight, dx, dy = (float(value) for value in maps[0, 3 * joint : 3 * joint + 3, y, x])
            to_x, to_y = np.clip(x + codec.radius * dx, 0, 7), np.clip(y + codec.radius * dy, 0, 9)
            left, top = int(to_x), int(to_y)
            for cell_x, cell_y in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
                share = (1 - abs(to_x - cell_x)) * (1 - abs(to_y - cell_y))
                if share > 0:
                    fused[cell_y + 1, cell_x + 1] += max(weight, 0) * share
        y, x = np.unravel_index(fused.argmax(), fused.shape)
        near = fused[y - 1 : y + 2, x - 1 : x + 2]
        wanted = [x - 1 + (near[:, 2] - near[:, 0]).sum() / near.sum(), y - 1 + (near[2] - near[0]).sum() / near.sum()]
        np.testing.assert_allclose(xy[0, joint], wanted, atol=1e-5)
        assert score[0, joint] == pytest.approx(near.sum() / (np.pi * codec.radius**2), rel=1e-5)


def test_no_people_give_no_keypoints():
    for decoder in ("quarter", "dark", "udp", "argmax"):
        codec = GaussianCodec((192, 256), (48, 64), STANDARD, decoder=decoder)
        assert [part.shape for part in codec.decode(np.zeros((0, 17, 64, 48), np.float32))] == [(0, 17, 2), (0, 17)]
    for decoder in ("peak", "vote"):
        codec = OffsetCodec((192, 256), (48, 64), UNBIASED, decoder=decoder)
        assert [part.shape for part in codec.decode(np.zeros((0, 51, 64, 48), np.float32))] == [(0, 17, 2), (0, 17)]


def test_the_contenders_of_the_benchmark_agree():
    cases = decoding.contenders(batch=2, joints=3, height=64, width=48, seed=0)
    assert tuple(cases) == decoding.CASES
    for case, makers in cases.items():
        found = {name: make() for name, make in makers.items()}
        assert all(xy.shape == (2, 3, 2) for xy in found.values())
        assert decoding.check_alike(case, found) <= 1e-3
    assert set(cases["quarter"]) == set(cases["dark"]) == {decoding.OURS, decoding.LOOPS, decoding.GRAPH}
    found = {name: make() + 0.1 * (name == decoding.LOOPS) for name, make in cases["dark"].items()}
    with pytest.raises(ResultError, match=r"dark: plain loops puts a joint 0\.1 px"):
        decoding.check_alike("dark", found)
