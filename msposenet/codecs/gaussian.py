"""Gaussian heatmaps: one map a joint, decoded with HRNet's quarter offset or by DARK's and UDP's second-order step."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from msposenet import geometry
from msposenet.codecs import peaks
from msposenet.errors import ConfigError
from msposenet.geometry import Convention

CENTRES = ("rounded", "unrounded", "dark")
DECODERS = ("quarter", "dark", "udp", "argmax")
_TINY = 1e-30  # an empty map has no height to scale back to


@dataclass(frozen=True)
class GaussianCodec:
    """Joints as Gaussians with peak 1.

    input_wh, heatmap_wh: sizes in px. sigma: in heatmap px. centre: `rounded` to a cell (HRNet) or `unrounded` (UDP),
    both drawn on a window of 3 sigma, or `dark`: unrounded on the whole map (Zhang et al., CVPR 2020).
    decoder: `quarter` (HRNet), `dark` (blur, logarithm, second-order step), `udp` (UDP's form of it), `argmax`.
    kernel: of the blur in `dark` and `udp`, in heatmap px, odd.
    """

    input_wh: tuple[int, int]
    heatmap_wh: tuple[int, int]
    convention: Convention
    sigma: float = 2.0
    centre: str = "rounded"
    decoder: str = "quarter"
    kernel: int = 11

    maps_per_joint = 1

    def __post_init__(self) -> None:
        if self.centre not in CENTRES:
            raise ConfigError(f"unknown Gaussian centre {self.centre!r}; known: {', '.join(CENTRES)}")
        if self.decoder not in DECODERS:
            raise ConfigError(f"unknown decoder {self.decoder!r}; known: {', '.join(DECODERS)}")
        if self.sigma <= 0:
            raise ConfigError(f"sigma must be positive, found {self.sigma}")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ConfigError(f"the blur kernel must be odd, found {self.kernel}")

    def encode(self, xy_crop: np.ndarray, labelled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Joints (N, K, 2) in crop px, labelled (N, K) -> heatmaps (N, K, H, W) and weights (N, K), 0 or 1.

        The weight of a joint is 0 when it is unlabelled or its window lies wholly off the map.
        """
        centre = geometry.crop_to_heatmap(xy_crop, self.input_wh, self.heatmap_wh, self.convention)
        low, high, centre = self._window(np, centre)
        weight = ((labelled > 0) & (low < np.array(self.heatmap_wh)).all(-1) & (high >= 0).all(-1)).astype(np.float32)
        maps = weight[..., None, None].astype(np.float64)
        for axis, size in enumerate(self.heatmap_wh):
            grid = np.arange(size)
            profile = np.exp(-((grid - centre[..., axis, None]) ** 2) / (2 * self.sigma**2))
            if self.centre != "dark":
                profile = profile * ((grid >= low[..., axis, None]) & (grid < high[..., axis, None]))
            maps = maps * (profile[..., None, :] if axis == 0 else profile[..., :, None])
        return maps.astype(np.float32), weight

    def _window(self, F, centre):
        """First and one past the last cell of the drawn window, and the Gaussian's centre, per axis in heatmap px."""
        reach = 3 * self.sigma
        if self.centre == "dark":
            return centre - reach, centre + reach + 1, centre
        cell = F.trunc(centre + 0.5)  # the reference's int(): towards zero
        return F.floor(cell - reach), F.floor(cell + reach + 1), cell if self.centre == "rounded" else centre

    def targets(self, F, xy_crop, labelled):
        """`encode` in the graph: joints (N, K, 2) and labelled (N, K) on the device -> heatmaps, weights."""
        weight = labelled > 0
        profiles = []
        scale = self.convention.extent(self.heatmap_wh) / self.convention.extent(self.input_wh)
        for axis, size in enumerate(self.heatmap_wh):
            centre = F.slice_axis(xy_crop, axis=2, begin=axis, end=axis + 1) * float(scale[axis])
            low, high, centre = self._window(F, centre)
            weight = weight * F.squeeze((low < size) * (high >= 0), axis=2)
            grid = F.reshape(F.arange(size), shape=(1, 1, size))
            profile = F.exp(F.square(F.broadcast_sub(grid, centre)) * (-0.5 / self.sigma**2))
            if self.centre != "dark":
                inside = F.broadcast_mul(F.broadcast_greater_equal(grid, low), F.broadcast_lesser(grid, high))
                profile = profile * inside
            profiles.append(profile)
        across = F.expand_dims(F.broadcast_mul(profiles[0], F.expand_dims(weight, axis=2)), axis=2)
        return F.broadcast_mul(F.expand_dims(profiles[1], axis=3), across), weight

    def decode(self, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Heatmaps (N, K, H, W) -> x, y (N, K, 2) in heatmap px and scores (N, K), the peak values."""
        xy, score = peaks.find_peaks(maps)
        if self.decoder == "quarter":
            xy = xy + _quarter_offset(maps, xy)
        elif self.decoder == "dark":
            xy = xy + _dark_step(maps, xy, self.kernel)
        elif self.decoder == "udp":
            xy = xy + _udp_step(maps, xy, self.kernel)
        return xy, score

    def decode_in_graph(self, F, maps, num_joints: int):
        """`decode` in the graph -> (N, K, 3): x, y in heatmap px and score."""
        width, height = self.heatmap_wh
        x, y, score = peaks.peaks_in_graph(F, maps, height, width)
        positive = score > 0
        x, y = x * positive, y * positive
        dx = dy = None
        if self.decoder == "quarter":
            dx, dy = _quarter_in_graph(F, maps, x, y, height, width)
        elif self.decoder in ("dark", "udp"):
            step = _dark_in_graph if self.decoder == "dark" else _udp_in_graph
            dx, dy = step(F, maps, x, y, height, width, num_joints, self.kernel)
        if dx is not None:
            x, y = x + dx, y + dy
        return F.stack(x, y, score, axis=2)

    def flip_back(self, maps: np.ndarray, flip_index: np.ndarray, shift: bool = False) -> np.ndarray:
        """Maps of the mirrored crop, turned back."""
        return geometry.flip_heatmaps(maps, flip_index, shift)

    def flip_back_in_graph(self, F, maps, flip_index: np.ndarray, shift: bool = False):
        """`flip_back` in the graph."""
        maps = F.reverse(
            F.concat(*[F.slice_axis(maps, axis=1, begin=k, end=k + 1) for k in map(int, flip_index)]), axis=3
        )
        if shift:
            maps = F.concat(
                F.slice_axis(maps, axis=3, begin=0, end=1), F.slice_axis(maps, axis=3, begin=0, end=-1), dim=3
            )
        return maps


def _quarter_offset(maps: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """A quarter pixel towards the higher neighbour, where the peak is not at the border (HRNet)."""
    height, width = maps.shape[2:]
    x, y = xy[..., 0], xy[..., 1]
    inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    dx = peaks.values_at(maps, x + 1, y) - peaks.values_at(maps, x - 1, y)
    dy = peaks.values_at(maps, x, y + 1) - peaks.values_at(maps, x, y - 1)
    return np.stack([np.sign(dx), np.sign(dy)], axis=2) * 0.25 * inside[..., None]


def _quarter_in_graph(F, maps, x, y, height: int, width: int):
    inside = (x > 1) * (x < width - 1) * (y > 1) * (y < height - 1) * 0.25
    pick = _picker(F, maps, x, y, height, width)
    return F.sign(pick(1, 0) - pick(-1, 0)) * inside, F.sign(pick(0, 1) - pick(0, -1)) * inside


def _picker(F, maps, x, y, height: int, width: int):
    return lambda dx, dy: peaks.pick_in_graph(F, maps, x + dx, y + dy, height, width)


def _dark_step(maps: np.ndarray, xy: np.ndarray, kernel: int) -> np.ndarray:
    """Newton's step on the logarithm of the blurred map (DARK, equation 8); second differences two cells wide."""
    blurred = peaks.blur(maps, kernel, border=cv2.BORDER_CONSTANT)
    # Blurring lowers the peak; the reference scales each map back to its old one before taking the logarithm.
    blurred *= maps.max(axis=(2, 3), keepdims=True) / np.maximum(blurred.max(axis=(2, 3), keepdims=True), _TINY)
    logs = np.log(np.maximum(blurred, 1e-10))
    x, y = xy[..., 0], xy[..., 1]
    at = lambda dx, dy: peaks.values_at(logs, x + dx, y + dy)  # noqa: E731
    return _newton(np, at, x, y, *maps.shape[2:])


def _newton(F, at, x, y, height: int, width: int):
    dx = 0.5 * (at(1, 0) - at(-1, 0))
    dy = 0.5 * (at(0, 1) - at(0, -1))
    dxx = 0.25 * (at(2, 0) - 2 * at(0, 0) + at(-2, 0))
    dyy = 0.25 * (at(0, 2) - 2 * at(0, 0) + at(0, -2))
    dxy = 0.25 * (at(1, 1) - at(-1, 1) - at(1, -1) + at(-1, -1))
    determinant = dxx * dyy - dxy * dxy
    inside = (x > 1) * (x < width - 2) * (y > 1) * (y < height - 2) * (determinant != 0)
    safe = determinant + (determinant == 0)
    steps = [-(dyy * dx - dxy * dy) / safe * inside, -(dxx * dy - dxy * dx) / safe * inside]
    return np.stack(steps, axis=2) if F is np else steps


def _dark_in_graph(F, maps, x, y, height: int, width: int, num_joints: int, kernel: int):
    blurred = peaks.blur_in_graph(F, maps, num_joints, kernel, reflect=False)
    highest = F.broadcast_maximum(F.max(blurred, axis=(2, 3), keepdims=True), F.full((1, 1, 1, 1), _TINY))
    ratio = F.max(maps, axis=(2, 3), keepdims=True) / highest
    logs = F.log(F.broadcast_maximum(F.broadcast_mul(blurred, ratio), F.full((1, 1, 1, 1), 1e-10)))
    return _newton(F, _picker(F, logs, x, y, height, width), x, y, height, width)


def _udp_step(maps: np.ndarray, xy: np.ndarray, kernel: int) -> np.ndarray:
    """UDP's form of the step: clipped logarithm, differences one cell wide, the border repeated."""
    logs = np.log(np.clip(peaks.blur(maps, kernel), 0.001, 50))
    x, y = xy[..., 0], xy[..., 1]
    at = lambda dx, dy: peaks.values_at(logs, x + dx, y + dy)  # noqa: E731
    return np.stack(_udp_newton(at), axis=2)


def _udp_newton(at):
    dx = 0.5 * (at(1, 0) - at(-1, 0))
    dy = 0.5 * (at(0, 1) - at(0, -1))
    # The reference inverts H + eps I, so that a flat map has no step rather than an infinite one.
    eps = float(np.finfo(np.float32).eps)
    dxx = at(1, 0) - 2 * at(0, 0) + at(-1, 0) + eps
    dyy = at(0, 1) - 2 * at(0, 0) + at(0, -1) + eps
    dxy = 0.5 * (at(1, 1) - at(1, 0) - at(0, 1) + 2 * at(0, 0) - at(-1, 0) - at(0, -1) + at(-1, -1))
    determinant = dxx * dyy - dxy * dxy
    return -(dyy * dx - dxy * dy) / determinant, -(dxx * dy - dxy * dx) / determinant


def _udp_in_graph(F, maps, x, y, height: int, width: int, num_joints: int, kernel: int):
    logs = F.log(F.clip(peaks.blur_in_graph(F, maps, num_joints, kernel, reflect=True), 0.001, 50))
    return _udp_newton(_picker(F, logs, x, y, height, width))
