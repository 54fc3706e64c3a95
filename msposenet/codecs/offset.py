"""Class disk and offset maps: three maps a joint, decoded at the disk's peak or by Hough voting.

The disk and its offsets are those of UDP-Pose (Huang et al., CVPR 2020, section 3.4); voting is G-RMI's fusion
(Papandreou et al., CVPR 2017, section 3.2), which the Multi-Stage HRNet report cites for its decoding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from msposenet import geometry
from msposenet.codecs import peaks
from msposenet.errors import ConfigError
from msposenet.geometry import Convention

DECODERS = ("peak", "vote")


@dataclass(frozen=True)
class OffsetCodec:
    """Joints as a disk of class 1 and, inside it, offsets to the joint in units of the disk's radius.

    Channels are interleaved: class, dx, dy of joint 0, then of joint 1, ... `radius_factor`: radius / map height
    (0.0546875 is 3.5 px of 64). decoder: `peak` reads the offset at the blurred class map's peak; `vote` lets every
    cell vote for the point its offset shows, with its class score as weight. `kernel` px blur the offset maps, twice
    as many and one the class map; 1 blurs nothing.
    """

    input_wh: tuple[int, int]
    heatmap_wh: tuple[int, int]
    convention: Convention
    radius_factor: float = 0.0546875
    decoder: str = "peak"
    kernel: int = 7

    maps_per_joint = 3

    def __post_init__(self) -> None:
        if self.decoder not in DECODERS:
            raise ConfigError(f"unknown decoder {self.decoder!r}; known: {', '.join(DECODERS)}")
        if not 0 < self.radius_factor < 1:
            raise ConfigError(
                f"radius_factor is a share of the map's height, between 0 and 1, found {self.radius_factor}"
            )
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ConfigError(f"the blur kernel must be odd, found {self.kernel}")

    @property
    def radius(self) -> float:
        """Of the disk, in heatmap px."""
        return self.radius_factor * self.heatmap_wh[1]

    def encode(self, xy_crop: np.ndarray, labelled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Joints (N, K, 2) in crop px, labelled (N, K) -> maps (N, 3K, H, W) and weights (N, K), 0 or 1."""
        width, height = self.heatmap_wh
        centre = geometry.crop_to_heatmap(xy_crop, self.input_wh, self.heatmap_wh, self.convention)
        weight = (labelled > 0).astype(np.float32)
        dx = ((centre[..., 0, None] - np.arange(width)) / self.radius)[..., None, :]
        dy = ((centre[..., 1, None] - np.arange(height)) / self.radius)[..., :, None]
        disk = (dx**2 + dy**2 <= 1) * weight[..., None, None]
        maps = np.stack([disk, dx * disk, dy * disk], axis=2).astype(np.float32)
        return maps.reshape(len(maps), -1, height, width), weight

    def targets(self, F, xy_crop, labelled):
        """`encode` in the graph: joints (N, K, 2) and labelled (N, K) on the device -> maps, weights."""
        weight = labelled > 0
        scale = self.convention.extent(self.heatmap_wh) / self.convention.extent(self.input_wh)
        offsets = []
        for axis, size in enumerate(self.heatmap_wh):
            centre = F.slice_axis(xy_crop, axis=2, begin=axis, end=axis + 1) * float(scale[axis])
            grid = F.reshape(F.arange(size), shape=(1, 1, size))
            offsets.append(F.broadcast_sub(centre, grid) * (1 / self.radius))
        dx, dy = F.expand_dims(offsets[0], axis=2), F.expand_dims(offsets[1], axis=3)
        disk = F.broadcast_add(F.square(dx), F.square(dy)) <= 1
        disk = F.broadcast_mul(disk, F.reshape(weight, shape=(0, 0, 1, 1)))
        maps = F.stack(disk, F.broadcast_mul(disk, dx), F.broadcast_mul(disk, dy), axis=2)
        return F.reshape(maps, shape=(0, -3, 0, 0)), weight

    def decode(self, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Maps (N, 3K, H, W) -> x, y (N, K, 2) in heatmap px and scores (N, K), the class peak after blurring.

        A joint whose class map has no positive value is put at (0, 0).
        """
        maps = np.ascontiguousarray(maps)
        classes = maps[:, 0::3]
        classes = peaks.blur(classes, 2 * self.kernel + 1) if self.kernel > 1 else np.ascontiguousarray(classes)
        if self.decoder == "vote":
            dx, dy = (
                peaks.blur(part, self.kernel) if self.kernel > 1 else part for part in (maps[:, 1::3], maps[:, 2::3])
            )
            return self._vote(classes, dx * self.radius, dy * self.radius)
        xy, score = peaks.find_peaks(classes)
        planes, xy_plane = maps.reshape(-1, *maps.shape[2:]), xy.reshape(-1, 2)
        found = np.flatnonzero(score.reshape(-1) > 0)
        at = xy_plane[found]
        for axis in (0, 1):
            # The class map is blurred whole, to find its peak; of the offsets only the cell at the peak.
            step = peaks.blurred_around(planes, 3 * found + 1 + axis, at, 0, self.kernel, reflect=True)[:, 0, 0]
            xy_plane[found, axis] += step * self.radius
        return xy, score

    def _vote(self, classes: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hough voting: cell j adds its class score, bilinearly, to the point that its offset shows.

        The fused map is divided by the disk's area, so a perfect joint scores 1 (the kernel's mass); the position is
        the centre of mass of the 3x3 cells around the fused map's peak, which undoes the bilinear spreading.
        """
        _, _, height, width = classes.shape
        planes = classes.reshape(-1, height, width)
        plane, row, column = voters = np.nonzero(planes > 0)
        weights = planes[voters].astype(np.float64)
        x = np.clip(column + dx.reshape(planes.shape)[voters], 0, width - 1)
        y = np.clip(row + dy.reshape(planes.shape)[voters], 0, height - 1)
        left, top = x.astype(int), y.astype(int)
        right_share, low_share = x - left, y - top
        cells = (plane * height + top) * width + left
        # A vote on the last column or row has no share beyond it.
        to_right, below = left < width - 1, (top < height - 1) * width
        fused = np.zeros(planes.size)
        for cell_x, share_x in ((0, 1 - right_share), (to_right, right_share)):
            for cell_y, share_y in ((0, 1 - low_share), (below, low_share)):
                fused += np.bincount(cells + cell_x + cell_y, share_x * share_y * weights, minlength=planes.size)
        fused = fused.reshape(classes.shape) / (np.pi * self.radius**2)
        xy, _ = peaks.find_peaks(fused)
        return _centre_of_mass(fused, xy)

    def decode_in_graph(self, F, maps, num_joints: int):
        """`decode` by `peak` in the graph -> (N, K, 3): x, y in heatmap px and score."""
        if self.decoder == "vote":
            raise ConfigError("Hough voting has no graph form; export with codec.decoder=peak")
        width, height = self.heatmap_wh
        planes = F.reshape(maps, shape=(0, -4, num_joints, 3, 0, 0))
        classes, dx, dy = (F.squeeze(F.slice_axis(planes, axis=2, begin=i, end=i + 1), axis=2) for i in range(3))
        if self.kernel > 1:
            classes = peaks.blur_in_graph(F, classes, num_joints, 2 * self.kernel + 1, reflect=True)
            dx = peaks.blur_in_graph(F, dx, num_joints, self.kernel, reflect=True)
            dy = peaks.blur_in_graph(F, dy, num_joints, self.kernel, reflect=True)
        x, y, score = peaks.peaks_in_graph(F, classes, height, width)
        positive = score > 0
        x, y = x * positive, y * positive
        step = positive * self.radius
        new_x = x + peaks.pick_in_graph(F, dx, x, y, height, width) * step
        new_y = y + peaks.pick_in_graph(F, dy, x, y, height, width) * step
        return F.stack(new_x, new_y, score, axis=2)

    def flip_back(self, maps: np.ndarray, flip_index: np.ndarray, shift: bool = False) -> np.ndarray:
        """Maps of the mirrored crop, turned back: pairs swapped, dx negated."""
        if shift:
            raise ConfigError("the one-pixel shift belongs to Gaussian heatmaps of the standard convention")
        return geometry.flip_offset_maps(maps, flip_index)

    def flip_back_in_graph(self, F, maps, flip_index: np.ndarray, shift: bool = False):
        """`flip_back` in the graph."""
        order = [(3 * int(k) + i, -1.0 if i == 1 else 1.0) for k in flip_index for i in range(3)]
        return F.reverse(
            F.concat(*[F.slice_axis(maps, axis=1, begin=c, end=c + 1) * sign for c, sign in order], dim=1), axis=3
        )


def _centre_of_mass(maps: np.ndarray, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre of mass and sum of the 3x3 cells around x, y (N, K, 2) in (N, K, H, W) maps."""
    padded = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)))
    moment_x = moment_y = mass = 0.0
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            value = peaks.values_at(padded, xy[..., 0] + 1 + dx, xy[..., 1] + 1 + dy)
            mass, moment_x, moment_y = mass + value, moment_x + value * dx, moment_y + value * dy
    safe = np.where(mass > 0, mass, 1.0)
    return xy + np.stack([moment_x / safe, moment_y / safe], axis=2), mass
