"""What the tests of exports share: codecs, a network of few operators, crops of people."""

from __future__ import annotations

import numpy as np

from msposenet.codecs import GaussianCodec, OffsetCodec
from msposenet.data.synthetic import render_scene
from msposenet.geometry import Convention, boxes_to_crops, cut_crops
from msposenet.models.initialise import initialise
from msposenet.models.layers import HybridBlock, batch_norm, convolution
from msposenet.models.zoo import get_model
from msposenet.weights import get_arrays, set_arrays

INPUT, HEATMAP = (64, 96), (16, 24)
STANDARD, UNBIASED = Convention.STANDARD, Convention.UNBIASED

CODECS = {
    "offset": OffsetCodec(INPUT, HEATMAP, UNBIASED, radius_factor=0.12, kernel=3),
    "offset plain": OffsetCodec(INPUT, HEATMAP, UNBIASED, radius_factor=0.12, kernel=1),
    "quarter": GaussianCodec(INPUT, HEATMAP, STANDARD),
    "udp": GaussianCodec(INPUT, HEATMAP, UNBIASED, centre="unrounded", decoder="udp", kernel=5),
    "dark": GaussianCodec(INPUT, HEATMAP, UNBIASED, centre="dark", decoder="dark", kernel=5),
    "argmax": GaussianCodec(INPUT, HEATMAP, STANDARD, decoder="argmax"),
}


class TwoConvolutions(HybridBlock):
    """Maps a quarter as large as the input, of one convolution with batch norm and another one."""

    def __init__(self, maps: int) -> None:
        super().__init__(prefix="")
        self.conv = convolution(3, 8, 3, stride=2)
        self.bn = batch_norm(8)
        self.final_layer = convolution(8, maps, 3, stride=2, bias=True)

    def hybrid_forward(self, F, x):
        return (self.final_layer(F.Activation(self.bn(self.conv(x)), act_type="relu")),)


def small_network(codec, seed: int = 2) -> TwoConvolutions:
    """For what does not depend on the network: its maps have distinct peaks and its batch norm is no identity."""
    net = TwoConvolutions(17 * codec.maps_per_joint)
    net.initialize()
    rng = np.random.default_rng(seed)
    arrays = get_arrays(net)
    set_arrays(net, {name: _drawn(rng, name, array) for name, array in arrays.items()}, "test")
    return net


def _drawn(rng: np.random.Generator, name: str, array: np.ndarray) -> np.ndarray:
    if name.endswith(("gamma", "running_var")) or name == "bn.weight":
        return rng.uniform(0.5, 1.5, array.shape).astype(np.float32)
    return (rng.standard_normal(array.shape) * 0.2).astype(np.float32)


def two_stages(codec):
    """A two-stage HRNet whose maps are about as large as trained ones, with distinct peaks."""
    net = get_model("mshrnet_w8x2_small", 17, "offset" if codec.maps_per_joint == 3 else "heatmap")
    initialise(net, seed=2)
    arrays = get_arrays(net)
    for name in ("final_layer.weight", "cascade.0.final_layer.weight"):
        arrays[name] = arrays[name] * 0.1
    set_arrays(net, arrays, "test")
    return net


def person_crops(codec) -> np.ndarray:
    parts = []
    for index in range(4):
        scene = render_scene(3, index)
        centers, sizes = boxes_to_crops(scene.boxes, codec.input_wh)
        parts.append(cut_crops(scene.image, centers, sizes, codec.input_wh, codec.convention))
    return np.concatenate(parts)
