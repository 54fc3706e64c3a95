"""Symbols as ONNX models: each operator gives MXNet's values, and the models are read by old runtimes at any batch."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from export_parts import CODECS, person_crops, small_network
from rule_weights import fill_by_rule

from msposenet.codecs import GaussianCodec
from msposenet.errors import ConfigError, ExportError
from msposenet.export import onnx_graph
from msposenet.export.folder import export_model
from msposenet.export.onnx_graph import to_onnx
from msposenet.export.onnx_operators import OPERATORS
from msposenet.geometry import Convention
from msposenet.inference.onnx_batches import OnnxBatches
from msposenet.models.graphs import KeypointGraph, MapGraph
from msposenet.models.zoo import get_model
from msposenet.runtime import mx
from msposenet.skeletons import COCO_17
from msposenet.symbols.nodes import Nodes
from msposenet.symbols.simplify import simplify
from msposenet.symbols.traced import Traced, runner, trace

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

F = mx.sym
SHAPE = (4, 6, 5)  # of the input without its batch


def weight(*shape):
    """A variable that gets random values of this shape."""
    name = f"weight_{'_'.join(map(str, shape))}_{len(_shapes)}"
    _shapes[name] = shape
    return F.var(name)


_shapes: dict[str, tuple[int, ...]] = {}
NORM = (weight(4), weight(4), weight(4), weight(4))

# By operator: symbols of x (N, 4, 6, 5), random values from -2 to 2 with halves among them.
CASES = {
    "Convolution": [
        lambda x: F.Convolution(x, weight(6, 4, 3, 3), weight(6), kernel=(3, 3), num_filter=6, pad=(1, 1)),
        lambda x: F.Convolution(
            x, weight(6, 2, 3, 1), kernel=(3, 1), num_filter=6, num_group=2, no_bias=True, stride=(2, 1), pad=(2, 0)
        ),
        lambda x: F.Convolution(x, weight(2, 4, 2, 2), kernel=(2, 2), num_filter=2, no_bias=True, dilate=(2, 3)),
    ],
    "Deconvolution": [
        lambda x: F.Deconvolution(
            x, weight(4, 3, 4, 4), kernel=(4, 4), num_filter=3, stride=(2, 2), pad=(1, 1), no_bias=True
        ),
        lambda x: F.Deconvolution(
            x, weight(4, 3, 3, 3), weight(6), kernel=(3, 3), num_filter=6, num_group=2, stride=(2, 2), adj=(1, 1),
            no_bias=False,
        ),
    ],
    "BatchNorm": [
        lambda x: F.BatchNorm(x, *NORM, fix_gamma=False, eps=1e-5),
        lambda x: F.BatchNorm(x, *NORM, fix_gamma=True),
    ],
    "Activation": [
        lambda x, kind=kind: F.Activation(x, act_type=kind)
        for kind in ("relu", "sigmoid", "tanh", "softrelu", "softsign")
    ],
    "relu": [F.relu],
    "sigmoid": [F.sigmoid],
    "Pooling": [
        lambda x: F.Pooling(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max"),
        lambda x: F.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type="max", pooling_convention="full"),
        lambda x: F.Pooling(x, kernel=(3, 3), stride=(1, 2), pad=(1, 1), pool_type="avg"),
        lambda x: F.Pooling(x, kernel=(3, 3), pad=(1, 1), pool_type="avg", count_include_pad=False),
        lambda x: F.Pooling(x, global_pool=True, pool_type="avg"),
        lambda x: F.Pooling(x, global_pool=True, pool_type="max"),
    ],
    "FullyConnected": [
        lambda x: F.FullyConnected(x, weight(3, 120), weight(3), num_hidden=3),
        lambda x: F.FullyConnected(x, weight(3, 120), num_hidden=3, no_bias=True),
    ],
    "UpSampling": [lambda x: F.UpSampling(x, scale=3, sample_type="nearest")],
    "_contrib_BilinearResize2D": [
        lambda x: F.contrib.BilinearResize2D(x, height=12, width=15),
        lambda x: F.contrib.BilinearResize2D(x, F.UpSampling(x, scale=2, sample_type="nearest"), mode="like"),
        lambda x: F.contrib.BilinearResize2D(x, scale_height=2, scale_width=2, mode="size"),
        lambda x: F.contrib.BilinearResize2D(x, height=7, width=11),
        lambda x: F.contrib.BilinearResize2D(x, height=12, width=10, align_corners=False),
    ],
    "Dropout": [lambda x: F.Dropout(x, p=0.5)],
    "_copy": [F.identity],
    "BlockGrad": [F.BlockGrad],
    "elemwise_add": [lambda x: x + F.square(x)],
    "broadcast_add": [lambda x: F.broadcast_add(x, weight(1, 4, 1, 5))],
    "add_n": [lambda x: F.add_n(x, F.square(x), F.abs(x))],
    "elemwise_sub": [lambda x: x - F.square(x)],
    "broadcast_sub": [lambda x: F.broadcast_sub(weight(1, 1, 6, 1), x)],
    "elemwise_mul": [lambda x: x * F.abs(x)],
    "broadcast_mul": [lambda x: F.broadcast_mul(x, weight(1, 4, 1, 1))],
    "elemwise_div": [lambda x: x / (F.square(x) + 1)],
    "broadcast_div": [lambda x: F.broadcast_div(x, F.abs(weight(1, 4, 1, 1)) + 1)],
    "broadcast_maximum": [lambda x: F.broadcast_maximum(x, F.full((1, 1, 1, 1), 0.25))],
    "broadcast_minimum": [lambda x: F.broadcast_minimum(x, F.full((1, 1, 1, 1), 0.25))],
    "_plus_scalar": [lambda x: x + 3],
    "_minus_scalar": [lambda x: x - 3],
    "_rminus_scalar": [lambda x: 3 - x],
    "_mul_scalar": [lambda x: x * -0.5],
    "_div_scalar": [lambda x: x / 7],
    "_rdiv_scalar": [lambda x: 2 / (F.square(x) + 1)],
    "_maximum_scalar": [lambda x: F.maximum(x, 0.5)],
    "_minimum_scalar": [lambda x: F.minimum(x, 0.5)],
    "_greater_scalar": [lambda x: x > 0.5],
    "_greater_equal_scalar": [lambda x: x >= 0.5],
    "_lesser_scalar": [lambda x: x < 0.5],
    "_lesser_equal_scalar": [lambda x: x <= 0.5],
    "_equal_scalar": [lambda x: x == 0.5],
    "_not_equal_scalar": [lambda x: x != 0.5],
    "broadcast_greater": [lambda x: F.broadcast_greater(x, F.full((1, 1, 1, 1), 0.5))],
    "broadcast_lesser": [lambda x: F.broadcast_lesser(x, F.full((1, 1, 1, 1), 0.5))],
    "abs": [F.abs],
    "clip": [lambda x: F.clip(x, -1, 0.25)],
    "exp": [F.exp],
    "floor": [F.floor],
    "log": [lambda x: F.log(F.abs(x) + 1)],
    "negative": [F.negative],
    "sign": [F.sign],
    "sqrt": [lambda x: F.sqrt(F.abs(x))],
    "square": [F.square],
    "Cast": [lambda x: F.cast(F.cast(x, dtype="int32"), dtype="float32")],
    "Concat": [lambda x: F.concat(x, F.square(x), dim=1), lambda x: F.concat(x, x * 2, dim=0)],
    "Flatten": [F.flatten],
    "Pad": [
        lambda x: F.pad(x, mode="reflect", pad_width=(0, 0, 0, 0, 2, 1, 3, 2)),
        lambda x: F.pad(x, mode="edge", pad_width=(0, 0, 0, 0, 2, 1, 3, 2)),
        lambda x: F.pad(x, mode="constant", pad_width=(0, 0, 0, 0, 2, 1, 3, 2), constant_value=0.5),
    ],
    "Reshape": [
        lambda x: F.reshape(x, shape=(0, 0, -1)),
        lambda x: F.reshape(x, shape=(0, -4, 2, 2, 0, 0)),
        lambda x: F.reshape(x, shape=(0, -3, 0)),
        lambda x: F.reshape(F.concat(x, x * 2, dim=0), shape=(-4, 2, -1, 0, 0, 0)),
    ],
    "SliceChannel": [
        lambda x: F.split(x, num_outputs=2, axis=1)[1],
        lambda x: F.split(x, num_outputs=6, axis=2, squeeze_axis=True)[2],
        lambda x: F.split(F.slice_axis(x, axis=1, begin=0, end=1), num_outputs=1, axis=1, squeeze_axis=True),
    ],
    "broadcast_to": [lambda x: F.broadcast_to(F.slice_axis(x, axis=1, begin=0, end=1), shape=(0, 3, 0, 0))],
    "expand_dims": [lambda x: F.expand_dims(x, axis=2)],
    "reverse": [lambda x: F.reverse(x, axis=3), lambda x: F.reverse(x, axis=(1, 2))],
    "slice_axis": [
        lambda x: F.slice_axis(x, axis=3, begin=1, end=-1),
        lambda x: F.slice_axis(x, axis=2, begin=-2, end=None),
    ],
    "squeeze": [lambda x: F.squeeze(F.slice_axis(x, axis=2, begin=1, end=2), axis=2)],
    "stack": [lambda x: F.stack(x, x * 2, axis=2)],
    "transpose": [lambda x: F.transpose(x, axes=(0, 2, 3, 1))],
    "argmax": [lambda x: F.argmax(F.floor(x), axis=2), lambda x: F.argmax(x, axis=1, keepdims=True)],
    "max": [lambda x: F.max(x, axis=(2, 3), keepdims=True), lambda x: F.max(x, axis=2)],
    "mean": [lambda x: F.mean(x, axis=(2, 3))],
    "min": [lambda x: F.min(x, axis=-1)],
    "pick": [
        lambda x: F.pick(x, F.argmax(x, axis=3), axis=3),
        lambda x: F.pick(x, F.argmax(x, axis=2), axis=2, keepdims=True),
    ],
    "sum": [lambda x: F.sum(x, axis=1, keepdims=True)],
    "softmax": [lambda x: F.softmax(x, axis=1)],
}  # fmt: skip


def values(shape, seed: int = 0) -> np.ndarray:
    """From -2 to 2, half of them multiples of 1/2, so that comparisons and argmax meet equal ones."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, shape)
    return np.where(rng.random(shape) < 0.5, np.round(x * 2) / 2, x).astype(np.float32)


def traced(symbol) -> Traced:
    names = [name for name in symbol.list_inputs() if name != "data"]
    arrays = {name: np.abs(values(_shapes[name], seed)) + 0.1 for seed, name in enumerate(names)}
    return Traced(symbol, arrays)


def run_onnx(model, x: np.ndarray, tmp_path) -> np.ndarray:
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return np.concatenate(OnnxBatches(path, len(x))(x))


def test_every_operator_is_tried():
    assert CASES.keys() == OPERATORS.keys()


@pytest.mark.parametrize("operator", CASES)
def test_an_operator_gives_mxnets_values(operator, tmp_path):
    for case in CASES[operator]:
        network = traced(case(F.var("data")))
        assert operator in {node.op for node in Nodes(network.symbol)}
        model = to_onnx(network, SHAPE, "float32", ["out"])
        for batch in (3, 1):
            x = values((batch, *SHAPE), seed=batch)
            wanted = runner(network)(mx.nd.array(x)).asnumpy()
            found = run_onnx(model, x, tmp_path)
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, atol=3e-6, rtol=3e-6)


UNSUPPORTED = {
    "no such operator": (lambda x: F.erf(x), "the operator erf has no ONNX form here"),
    "axis": (lambda x: F.BatchNorm(x, *NORM, axis=2), "BatchNorm with axis 2"),
    "target": (
        lambda x: F.Deconvolution(
            x, weight(4, 3, 2, 2), kernel=(2, 2), num_filter=3, stride=(2, 2), target_shape=(12, 10)
        ),
        "Deconvolution with target_shape",
    ),
    "pooling": (lambda x: F.Pooling(x, kernel=(2, 2), pool_type="sum"), "Pooling with pool_type sum"),
    "bilinear": (
        lambda x: F.UpSampling(x, weight(4, 1, 4, 4), scale=2, sample_type="bilinear", num_filter=4),
        "UpSampling with sample_type bilinear",
    ),
    "exclude": (lambda x: F.max(x, axis=1, exclude=True), "max with exclude"),
    "squeeze": (lambda x: F.squeeze(F.slice_axis(x, axis=1, begin=0, end=1)), "squeeze with no axis"),
}


@pytest.mark.parametrize(("case", "message"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_what_has_no_form_is_named(case, message):
    with pytest.raises(ExportError, match=f"^node .*: .*{message}.*--to symbol"):
        to_onnx(traced(case(F.var("data"))), SHAPE, "float32", ["out"])


def test_the_model_is_stamped_for_old_runtimes_and_takes_any_batch():
    codec = CODECS["udp"]
    graph = KeypointGraph(small_network(codec), codec, COCO_17.flip_index, True)
    model = to_onnx(trace(graph), (96, 64, 3), "uint8", ["keypoints"])
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 13)] and model.ir_version == 8
    (data,), (keypoints,) = model.graph.input, model.graph.output
    sizes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (data, keypoints)]
    assert sizes == [["N", 96, 64, 3], ["N", 17, 3]]
    assert (data.name, keypoints.name) == ("data", "keypoints")
    assert data.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    # The blur's weights are values, not a chain of operators.
    taps = [value for value in model.graph.initializer if tuple(value.dims) in ((17, 1, 5, 1), (17, 1, 1, 5))]
    assert len(taps) == 2


def test_several_outputs_are_named_in_order(tmp_path):
    x = F.var("data")
    model = to_onnx(Traced(F.Group([F.square(x), F.max(x, axis=1), x]), {}), SHAPE, "float32", ["a", "b", "c"])
    assert [output.name for output in model.graph.output] == ["a", "b", "c"]
    x = values((2, *SHAPE))
    np.testing.assert_allclose(run_onnx(model, x, tmp_path), x**2)


def test_nodes_of_one_name_are_kept_apart(tmp_path):
    x = F.var("data")
    network = Traced(F.exp(F.square(x, name="same") * 0.5, name="same"), {})
    x = values((2, *SHAPE))
    found = run_onnx(to_onnx(network, SHAPE, "float32", ["out"]), x, tmp_path)
    np.testing.assert_allclose(found, np.exp(x**2 * 0.5), rtol=1e-6)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_before_the_work(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    codec = CODECS["argmax"]
    with pytest.raises(ConfigError, match=rf"needs the package {package}: pip install 'msposenet\[onnx\]'"):
        export_model(
            small_network(codec), codec, COCO_17, tmp_path / "out", person_crops(codec), model="x", enlarge=1.25,
            forms=["onnx"],
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_model_past_protobufs_limit_is_refused(monkeypatch):
    monkeypatch.setattr(onnx_graph, "LARGEST", 1000)
    codec = CODECS["argmax"]
    graph = MapGraph(small_network(codec), codec, COCO_17.flip_index)
    with pytest.raises(ExportError, match="at most 1,000"):
        to_onnx(trace(graph), (96, 64, 3), "uint8", ["heatmaps"])


def test_batches_of_any_size_give_the_same(tmp_path):
    codec = CODECS["offset"]
    graph = MapGraph(small_network(codec), codec, COCO_17.flip_index, True)
    path = tmp_path / "model.onnx"
    path.write_bytes(to_onnx(trace(graph), (96, 64, 3), "uint8", ["heatmaps"]).SerializeToString())
    crops = np.random.default_rng(0).integers(0, 256, (5, 96, 64, 3), dtype=np.uint8)
    whole = np.concatenate(OnnxBatches(path, 8)(crops))
    parts = OnnxBatches(path, 2)(crops)
    assert [len(part) for part in parts] == [2, 2, 1]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)
    assert OnnxBatches(path, 2)(crops[:0]) == []


@pytest.mark.slow
def test_the_whole_hrnet_w32(tmp_path):
    """Full width and depth, on small crops; weights by the golden set's rule."""
    codec = GaussianCodec((64, 64), (16, 16), Convention.STANDARD)
    graph = MapGraph(fill_by_rule(get_model("hrnet_w32")), codec, COCO_17.flip_index)
    path = tmp_path / "heatmaps.onnx"
    path.write_bytes(to_onnx(simplify(trace(graph)), (64, 64, 3), "uint8", ["heatmaps"]).SerializeToString())
    crops = np.resize(person_crops(codec), (8, 64, 64, 3))
    session = OnnxBatches(path, 8)
    for batch in (1, 8):
        wanted = graph(mx.nd.array(crops[:batch], dtype="uint8")).asnumpy()
        np.testing.assert_allclose(session.run(crops[:batch])[0], wanted, atol=1e-5 * np.abs(wanted).max())
