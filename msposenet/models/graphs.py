"""What is put around a network so that little travels to the device: uint8 crops in, maps or keypoints out."""

from __future__ import annotations

import numpy as np

from msposenet import geometry
from msposenet.codecs import Codec
from msposenet.models.layers import HybridBlock

MEAN_RGB = (0.485, 0.456, 0.406)
DEVIATION_RGB = (0.229, 0.224, 0.225)


def normalise(F, crops):
    """Crops (N, H, W, 3) uint8 RGB -> (N, 3, H, W) float32: /255, minus ImageNet's mean, over its deviation."""
    x = F.transpose(F.cast(crops, dtype="float32"), axes=(0, 3, 1, 2)) * (1 / 255)
    planes = [
        (F.slice_axis(x, axis=1, begin=i, end=i + 1) - mean) * (1 / deviation)
        for i, (mean, deviation) in enumerate(zip(MEAN_RGB, DEVIATION_RGB))
    ]
    return F.concat(*planes, dim=1)


class MapGraph(HybridBlock):
    """uint8 crops (N, H, W, 3) -> maps (N, C, H/4, W/4) of the last output, averaged with the mirrored pass if `flip`.

    `flip_index` (K,) and `shift` say how the mirrored maps are turned back. Parameters keep the network's names.
    """

    def __init__(self, net, codec: Codec, flip_index: np.ndarray, flip: bool = False, shift: bool = False) -> None:
        super().__init__(prefix="")
        self.net = net
        self._codec = codec
        self._flip_index = np.asarray(flip_index)
        self._flip, self._shift = flip, shift

    def _collect_params_with_prefix(self, prefix: str = "") -> dict:
        return self.net._collect_params_with_prefix(prefix)

    def hybrid_forward(self, F, crops):
        x = normalise(F, crops)
        if not self._flip:
            return self.net(x)[-1]
        # One pass over both: the batch norm of a network in use has no memory of its batch, so this is exact.
        maps = self.net(F.concat(x, F.reverse(x, axis=3), dim=0))[-1]
        plain, mirrored = F.split(F.reshape(maps, shape=(-4, 2, -1, 0, 0, 0)), num_outputs=2, axis=0, squeeze_axis=True)
        return (plain + self._codec.flip_back_in_graph(F, mirrored, self._flip_index, self._shift)) * 0.5


class KeypointGraph(MapGraph):
    """uint8 crops (N, H, W, 3) -> keypoints (N, K, 3): x, y in crop px and score. The graph that is deployed."""

    def hybrid_forward(self, F, crops):
        return self._keypoints(F, super().hybrid_forward(F, crops))

    def _keypoints(self, F, maps):
        codec = self._codec
        found = codec.decode_in_graph(F, maps, len(self._flip_index))
        scale = geometry.heatmap_to_crop(np.ones(2), codec.input_wh, codec.heatmap_wh, codec.convention)
        columns = [F.slice_axis(found, axis=2, begin=i, end=i + 1) for i in range(3)]
        return F.concat(columns[0] * float(scale[0]), columns[1] * float(scale[1]), columns[2], dim=2)


class BothGraphs(KeypointGraph):
    """What `KeypointGraph` and `MapGraph` give, from one pass."""

    def hybrid_forward(self, F, crops):
        maps = MapGraph.hybrid_forward(self, F, crops)
        return self._keypoints(F, maps), maps
