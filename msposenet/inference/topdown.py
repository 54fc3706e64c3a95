"""Top-down estimation: crops of people through the network, mirrored pass, decoding, back to the picture."""

from __future__ import annotations

import numpy as np

from msposenet import geometry
from msposenet.codecs import Codec
from msposenet.inference.batches import Batches
from msposenet.models.graphs import MapGraph
from msposenet.runtime import mx, without_known_warnings
from msposenet.skeletons import Skeleton
from msposenet.symbols.traced import trace


class TopDown:
    """A network with everything between a box and its keypoints.

    net: gives a tuple of outputs, the last is decoded. flip: average with the mirrored pass; shift: move the mirrored
    map by one pixel (HRNet's published numbers). batch_size: crops a pass. The weights are those of the first use;
    after `refresh` those of the next.
    """

    def __init__(
        self,
        net,
        codec: Codec,
        skeleton: Skeleton,
        context: mx.Context | None = None,
        flip: bool = True,
        shift: bool = False,
        batch_size: int = 32,
    ) -> None:
        self.codec = codec
        self.skeleton = skeleton
        self.input_wh, self.convention = codec.input_wh, codec.convention
        self.batch_size = batch_size
        self._context = context or mx.cpu()
        self._graph = MapGraph(net, codec, skeleton.flip_index, flip, shift)
        self._batches: Batches | None = None

    def refresh(self) -> None:
        """Compute with the network's present weights from now on, and hold no memory until then."""
        self._batches = None

    def crops(self, image: np.ndarray, centers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Picture (H, W, 3), centres and sizes (N, 2) in image px -> crops (N, h, w, 3) uint8."""
        return geometry.cut_crops(image, centers, sizes, self.input_wh, self.convention)

    def maps(self, crops: np.ndarray) -> np.ndarray:
        """Crops (N, h, w, 3) uint8 -> maps (N, C, h/4, w/4) that are decoded."""
        if self._batches is None:
            with without_known_warnings():
                self._batches = Batches(trace(self._graph), self._context, self.batch_size)
        parts = self._batches(crops)
        width, height = self.codec.heatmap_wh
        empty = (0, self.skeleton.num_joints * self.codec.maps_per_joint, height, width)
        return np.concatenate(parts) if parts else np.zeros(empty, np.float32)

    def keypoints(self, crops: np.ndarray, centers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Keypoints (N, K, 3), x, y in image px and score, of crops cut at `centers`, `sizes` (N, 2) in image px."""
        xy_heatmap, scores = self.codec.decode(self.maps(crops))
        xy = geometry.heatmap_to_image(xy_heatmap, centers, sizes, self.codec.heatmap_wh, self.codec.convention)
        return np.concatenate([xy, scores[..., None]], axis=2).astype(np.float32)
