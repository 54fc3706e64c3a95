"""Traced networks: simplified, fused, quantised; the same results, or as near as eight bits come."""

from __future__ import annotations

import json

import numpy as np
import pytest

from msposenet.codecs import OffsetCodec
from msposenet.data.synthetic import render_scene
from msposenet.errors import ConfigError
from msposenet.geometry import Convention, boxes_to_crops, cut_crops
from msposenet.inference.batches import Batches, prepared
from msposenet.models.graphs import MapGraph
from msposenet.models.layers import conv_bn, convolution, sequential
from msposenet.models.zoo import get_model
from msposenet.runtime import mx
from msposenet.skeletons import COCO_17
from msposenet.symbols.fused import fuse, is_fused
from msposenet.symbols.nodes import Nodes
from msposenet.symbols.quantised import depthwise, layers, quantise
from msposenet.symbols.simplify import fold_batch_norm, merge_pointwise, simplify
from msposenet.symbols.traced import Traced, runner, trace
from msposenet.weights import get_arrays, set_arrays

CODEC = OffsetCodec((64, 96), (16, 24), Convention.UNBIASED, kernel=3)


def used(net, seed: int = 0):
    """`net` with batch-norm statistics as a training leaves them: none is 0 or 1."""
    net.initialize()
    rng = np.random.default_rng(seed)
    arrays = get_arrays(net)
    for name, array in arrays.items():
        if name.endswith("weight"):
            spread = np.sqrt(1 / np.prod(array.shape[1:]))
            arrays[name] = rng.normal(0, spread, array.shape).astype(np.float32)
        elif name.endswith(("gamma", "running_var")):
            arrays[name] = rng.uniform(0.5, 1.5, array.shape).astype(np.float32)
        elif name.endswith(("beta", "running_mean", "bias")):
            arrays[name] = rng.uniform(-0.1, 0.1, array.shape).astype(np.float32)
    set_arrays(net, arrays, "test")
    return net


@pytest.fixture(scope="module")
def cascade():
    return used(get_model("mshrnet_w8x2_small", 17))


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    scenes = [render_scene(7, index) for index in range(8)]
    parts = []
    for scene in scenes:
        centers, sizes = boxes_to_crops(scene.boxes[:1], CODEC.input_wh)
        parts.append(cut_crops(scene.image, centers, sizes, CODEC.input_wh, CODEC.convention))
    return np.concatenate(parts)[:8]


def run(traced: Traced, x) -> list[np.ndarray]:
    outputs = runner(traced)(x)
    return [output.asnumpy() for output in (outputs if isinstance(outputs, (list, tuple)) else [outputs])]


def operators(traced: Traced) -> list[str]:
    return [node.op for node in Nodes(traced.symbol) if node.op != "null"]


def assert_close(found: list[np.ndarray], wanted: list[np.ndarray], tolerance: float = 1e-5) -> None:
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted):
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


@pytest.mark.parametrize("change", [fold_batch_norm, merge_pointwise, simplify, fuse, lambda t: fuse(simplify(t))])
def test_every_form_gives_all_outputs_of_the_network(cascade, change):
    x = mx.nd.array(np.random.default_rng(1).standard_normal((2, 3, 64, 64)).astype(np.float32))
    assert_close(run(change(trace(cascade)), x), [output.asnumpy() for output in cascade(x)])


def test_simplifying_leaves_no_batch_norm_and_fewer_convolutions(cascade):
    traced = trace(cascade)
    simple = simplify(traced)
    assert "BatchNorm" in operators(traced) and "BatchNorm" not in operators(simple)
    assert operators(simple).count("Convolution") < operators(traced).count("Convolution")
    assert set(simple.symbol.list_inputs()) == {"data", *simple.arrays}


def test_names_are_those_of_the_parameter_files_and_always_the_same(cascade):
    traced = trace(cascade)
    assert set(traced.arrays) <= set(get_arrays(cascade))
    again = trace(used(get_model("mshrnet_w8x2_small", 17)))
    assert traced.symbol.tojson() == again.symbol.tojson()
    assert "layer1.0.conv1" in layers(traced) and layers(traced)[0] == "conv1"


@pytest.mark.parametrize("bias, fixed", [(True, False), (False, False), (False, True)])
def test_batch_norm_is_folded_into_convolutions_of_every_kind(bias, fixed):
    nn = mx.gluon.nn
    net = sequential(
        nn.Conv2D(6, 3, in_channels=4, use_bias=bias, groups=2),
        nn.BatchNorm(in_channels=6, scale=not fixed, epsilon=1e-3),
        nn.Conv2DTranspose(4, 4, strides=2, padding=1, in_channels=6, use_bias=bias),
        nn.BatchNorm(in_channels=4),
        nn.Activation("relu"),
    )
    used(net)
    x = mx.nd.array(np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32))
    folded = fold_batch_norm(trace(net))
    assert operators(folded) == ["Convolution", "Deconvolution", "Activation"]
    assert_close(run(folded, x), [net(x).asnumpy()])


def test_merged_convolutions_may_follow_each_other():
    class Twice(mx.gluon.HybridBlock):
        def __init__(self):
            super().__init__(prefix="")
            for name in ("a", "b", "c", "d"):
                setattr(self, name, convolution(4, 4, 1))

        def hybrid_forward(self, F, x):
            first = self.a(x) + self.b(x)
            return F.Activation(self.c(first) * self.d(first), act_type="relu")

    net = used(Twice())
    x = mx.nd.array(np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32))
    merged = merge_pointwise(trace(net))
    assert operators(merged).count("Convolution") == 2
    assert_close(run(merged, x), [net(x).asnumpy()])


def test_a_batch_norm_that_shares_its_input_stays():
    class Branching(mx.gluon.HybridBlock):
        def __init__(self):
            super().__init__(prefix="")
            self.body = conv_bn(3, 4, 3, relu=False)

        def hybrid_forward(self, F, x):
            inner = self.body[0](x)
            return self.body[1](inner) + inner

    net = used(Branching())
    x = mx.nd.array(np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32))
    folded = fold_batch_norm(trace(net))
    assert "BatchNorm" in operators(folded)
    assert_close(run(folded, x), [net(x).asnumpy()])


def test_what_is_fused_is_left_as_it_is(cascade):
    fused = prepared(trace(cascade), mx.cpu())
    assert is_fused(fused) and prepared(fused, mx.cpu()) is fused
    # A symbol taken apart and put together again keeps what is inside its operators.
    assert json.loads(Nodes(fused.symbol).symbol().tojson())["nodes"] == json.loads(fused.symbol.tojson())["nodes"]


@pytest.mark.parametrize("count, parts", [(0, 0), (1, 1), (2, 2), (3, 1), (4, 1), (6, 3), (8, 2)])
def test_any_number_of_crops_is_computed(cascade, crops, count, parts):
    graph = MapGraph(cascade, CODEC, COCO_17.flip_index, flip=True)
    found = Batches(trace(graph), mx.cpu(), 4)(crops[:count])
    assert len(found) == parts  # three of four are filled up, two are taken one by one
    if count:
        wanted = graph(mx.nd.array(crops[:count], dtype="uint8")).asnumpy()
        assert_close([np.concatenate(found)], [wanted])


def test_eight_bits_come_near_and_named_layers_stay_in_float(cascade, crops):
    traced = trace(MapGraph(cascade, CODEC, COCO_17.flip_index))
    (wanted,) = run(traced, mx.nd.array(crops, dtype="uint8"))
    heard = []
    eight = quantise(traced, [crops[:4], crops[4:]], advance=heard.append)
    assert heard == [4, 4]
    (found,) = run(eight, mx.nd.array(crops, dtype="uint8"))
    error = np.abs(found - wanted).mean() / np.abs(wanted).mean()
    assert 1e-4 < error < 0.2

    def float_layers(quantised: Traced) -> set[str]:
        nodes = json.loads(quantised.symbol.tojson())["nodes"]
        return {
            nodes[node["inputs"][1][0]]["name"].rpartition(".")[0]
            for node in nodes
            if node["op"] == "_sg_mkldnn_conv" and node.get("attrs", {}).get("quantized", "false") != "true"
        }

    assert float_layers(eight) == set()
    row = "stage3.0.fuse_layers.0"
    kept = quantise(traced, [crops], ["conv2", row, "cascade.0.final_layer"])
    assert float_layers(kept) == {"conv2", f"{row}.1.0", f"{row}.2.0", "cascade.0.final_layer"}


def test_what_cannot_be_quantised_is_said(cascade, crops):
    traced = trace(MapGraph(cascade, CODEC, COCO_17.flip_index))
    with pytest.raises(ConfigError, match=r"no layer 'stage3\.0\.fuse' .* did you mean stage3\.0\.fuse_layers"):
        quantise(traced, [crops], ["stage3.0.fuse"])
    with pytest.raises(ConfigError, match="no crops to calibrate on"):
        quantise(traced, [])


def test_depthwise_layers_are_found():
    net = sequential(convolution(4, 8, 3), mx.gluon.nn.Conv2D(8, 3, in_channels=8, groups=8, use_bias=False))
    used(net)
    assert depthwise(trace(net)) == ["1"]
