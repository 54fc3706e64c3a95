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
_LEAST = 1e-10  # DARK's bound below the logarithm
_BOUND = 1e-9  # what is above it blurred is above _LEAST scaled, with room for rounding


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
        maps = np.ascontiguousarray(maps)
        xy, score = peaks.find_peaks(maps)
        planes, xy_plane = maps.reshape(-1, *maps.shape[2:]), xy.reshape(-1, 2)
        if self.decoder == "quarter":
            _add_quarter(planes, xy_plane)
        elif self.decoder == "dark":
            _add_dark_step(planes, xy_plane, self.kernel)
        elif self.decoder == "udp":
            _add_udp_step(planes, xy_plane, self.kernel)
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


def _add_quarter(maps: np.ndarray, xy: np.ndarray) -> None:
    """Moves peaks `xy` (M, 2) of (M, H, W) maps a quarter pixel towards the higher neighbour, except at the border."""
    _, height, width = maps.shape
    x, y = xy[:, 0].astype(int), xy[:, 1].astype(int)
    inside = np.flatnonzero((x > 1) & (x < width - 1) & (y > 1) & (y < height - 1))
    flat, cells = maps.reshape(-1), (inside * height + y[inside]) * width + x[inside]
    for axis, step in enumerate((1, width)):
        xy[inside, axis] += 0.25 * np.sign(flat[cells + step] - flat[cells - step])


def _quarter_in_graph(F, maps, x, y, height: int, width: int):
    inside = (x > 1) * (x < width - 1) * (y > 1) * (y < height - 1) * 0.25
    pick = _picker(F, maps, x, y, height, width)
    return F.sign(pick(1, 0) - pick(-1, 0)) * inside, F.sign(pick(0, 1) - pick(0, -1)) * inside


def _picker(F, maps, x, y, height: int, width: int):
    return lambda dx, dy: peaks.pick_in_graph(F, maps, x + dx, y + dy, height, width)


def _add_dark_step(maps: np.ndarray, xy: np.ndarray, kernel: int) -> None:
    """Newton's step on the logarithm of the blurred map (DARK, equation 8); second differences two cells wide.

    Moves peaks `xy` (M, 2) of (M, H, W) maps. The reference blurs whole maps, scales each by the factor that its peak
    has lost, and takes the logarithm of what is above 1e-10. The step is made of differences of 13 logarithms around
    the peak, in which the factor cancels: it is enough to blur there. Only the bound of 1e-10 needs the factor. It is
    never below 1, as blurring raises no peak; so where all 13 blurred values are above the bound they are above it
    after scaling too, and the few other maps are blurred whole.
    """
    _, height, width = maps.shape
    inside = np.flatnonzero(((xy > 1) & (xy < np.array([width - 2, height - 2]))).all(axis=1))
    near = peaks.blurred_around(maps, inside, xy[inside], 2, kernel, reflect=False).astype(np.float64)
    bound = np.flatnonzero((near < _BOUND).any(axis=(1, 2)))
    if len(bound):
        near[bound] = _scaled_around(maps[inside[bound]], xy[inside[bound]].astype(int), kernel)
    logs = np.log(np.maximum(near, _LEAST))
    x, y = xy[inside, 0], xy[inside, 1]
    xy[inside] += _newton(np, lambda dx, dy: logs[:, 2 + dy, 2 + dx], x, y, height, width)


def _scaled_around(maps: np.ndarray, xy: np.ndarray, kernel: int) -> np.ndarray:
    """5 x 5 cells around `xy` (J, 2) of the reference's blurred and scaled maps, for (J, H, W) maps -> (J, 5, 5)."""
    blurred = peaks.blur(maps, kernel, border=cv2.BORDER_CONSTANT)
    blurred *= maps.max(axis=(1, 2), keepdims=True) / np.maximum(blurred.max(axis=(1, 2), keepdims=True), _TINY)
    steps, rows = np.arange(-2, 3), np.arange(len(maps))[:, None, None]
    return blurred[rows, (xy[:, 1, None] + steps)[:, :, None], (xy[:, 0, None] + steps)[:, None, :]]


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
    return np.stack(steps, axis=-1) if F is np else steps


def _dark_in_graph(F, maps, x, y, height: int, width: int, num_joints: int, kernel: int):
    blurred = peaks.blur_in_graph(F, maps, num_joints, kernel, reflect=False)
    highest = F.broadcast_maximum(F.max(blurred, axis=(2, 3), keepdims=True), F.full((1, 1, 1, 1), _TINY))
    ratio = F.max(maps, axis=(2, 3), keepdims=True) / highest
    logs = F.log(F.broadcast_maximum(F.broadcast_mul(blurred, ratio), F.full((1, 1, 1, 1), _LEAST)))
    return _newton(F, _picker(F, logs, x, y, height, width), x, y, height, width)


def _add_udp_step(maps: np.ndarray, xy: np.ndarray, kernel: int) -> None:
    """UDP's form of the step: clipped logarithm, differences one cell wide, the border repeated.

    Moves peaks `xy` (M, 2) of (M, H, W) maps; only the cells around them are blurred, the others play no part.
    """
    near = peaks.blurred_around(maps, np.arange(len(maps)), xy, 1, kernel, reflect=True)
    logs = np.log(np.clip(near, 0.001, 50))
    xy += np.stack(_udp_newton(lambda dx, dy: logs[:, 1 + dy, 1 + dx]), axis=-1)


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
