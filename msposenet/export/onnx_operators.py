"""MXNet's operators in ONNX's (opset 13), as far as this package's graphs use them.

Each translation gets the writer, the node and the ONNX names of its inputs, and returns the name of its output, or the
list of them. Comparisons and argmax give float32, as in MXNet.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import numpy as np

from msposenet.errors import ExportError
from msposenet.symbols.nodes import Entry, Node


def attribute(node: Node, name: str, default: Any = None) -> Any:
    """An attribute as Python's value: MXNet writes numbers, tuples, truth values and None as text."""
    text = node.attrs.get(name)
    if text is None:
        return default
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _unsupported(node: Node, what: str) -> ExportError:
    return ExportError(f"node {node.name}: {node.op} with {what} has no ONNX form here; export with --to symbol")


def _same(op: str, **attributes) -> Callable:
    """The ONNX operator of the same inputs."""
    return lambda writer, node, inputs: writer.node(op, inputs, node.name, **attributes)


def _with_scalar(op: str, reverse: bool = False) -> Callable:
    def translate(writer, node, inputs):
        pair = [inputs[0], writer.number(attribute(node, "scalar"))]
        return writer.node(op, pair[::-1] if reverse else pair, node.name)

    return translate


def _compared(op: str, scalar: bool, negate: bool = False) -> Callable:
    def translate(writer, node, inputs):
        pair = [inputs[0], writer.number(attribute(node, "scalar"))] if scalar else inputs
        truth = writer.node(op, pair)
        return writer.cast(writer.node("Not", [truth]) if negate else truth, "float32", node.name)

    return translate


def _window(node: Node) -> dict[str, list[int]]:
    kernel = attribute(node, "kernel")
    pad = attribute(node, "pad") or (0,) * len(kernel)
    return {
        "kernel_shape": list(kernel),
        "strides": list(attribute(node, "stride") or (1,) * len(kernel)),
        "pads": [*pad, *pad],
    }


def _convolution(writer, node, inputs):
    window = _window(node)
    dilations = list(attribute(node, "dilate") or (1,) * len(window["kernel_shape"]))
    return writer.node("Conv", inputs, node.name, group=attribute(node, "num_group", 1), dilations=dilations, **window)


def _deconvolution(writer, node, inputs):
    if attribute(node, "target_shape"):
        raise _unsupported(node, "target_shape")
    window = _window(node)
    count = len(window["kernel_shape"])
    return writer.node(
        "ConvTranspose",
        inputs,
        node.name,
        group=attribute(node, "num_group", 1),
        dilations=list(attribute(node, "dilate") or (1,) * count),
        output_padding=list(attribute(node, "adj") or (0,) * count),
        **window,
    )


def _batch_norm(writer, node, inputs):
    if attribute(node, "axis", 1) != 1:
        raise _unsupported(node, f"axis {attribute(node, 'axis')}")
    if attribute(node, "fix_gamma", True):
        channels = writer.shape(node.inputs[1])[0]
        inputs = [inputs[0], writer.constant(np.ones(channels, np.float32)), *inputs[2:]]
    return writer.node("BatchNormalization", inputs, node.name, epsilon=attribute(node, "eps", 1e-3))


_ACTIVATIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softrelu": "Softplus", "softsign": "Softsign"}


def _activation(writer, node, inputs):
    return writer.node(_ACTIVATIONS[attribute(node, "act_type")], inputs, node.name)


def _pooling(writer, node, inputs):
    kind = attribute(node, "pool_type", "max")
    if kind not in ("max", "avg"):
        raise _unsupported(node, f"pool_type {kind}")
    if attribute(node, "global_pool", False):
        return writer.node({"max": "GlobalMaxPool", "avg": "GlobalAveragePool"}[kind], inputs, node.name)
    convention = attribute(node, "pooling_convention", "valid")
    if convention not in ("valid", "full") or (kind == "avg" and convention == "full"):
        raise _unsupported(node, f"pooling_convention {convention}")
    attributes = {**_window(node), "ceil_mode": int(convention == "full")}
    if kind == "avg":
        attributes["count_include_pad"] = int(attribute(node, "count_include_pad", True))
    return writer.node({"max": "MaxPool", "avg": "AveragePool"}[kind], inputs, node.name, **attributes)


def _fully_connected(writer, node, inputs):
    x, *rest = inputs
    if not attribute(node, "flatten", True):
        raise _unsupported(node, "flatten=False")
    return writer.node("Gemm", [writer.node("Flatten", [x]), *rest], node.name, transB=1)


def _upsampling(writer, node, inputs):
    if attribute(node, "sample_type") != "nearest" or len(inputs) > 1:
        raise _unsupported(node, f"sample_type {attribute(node, 'sample_type')} of {len(inputs)} inputs")
    scale = float(attribute(node, "scale"))
    scales = writer.constant(np.array([1, 1, scale, scale], np.float32))
    return writer.node(
        "Resize",
        [inputs[0], "", scales],
        node.name,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def _bilinear_resize(writer, node, inputs):
    # The result's size is in the symbol's shapes, whatever the mode that named it. Given as sizes: a scale times the
    # old size may be rounded down to a pixel less.
    front = writer.node("Slice", [writer.node("Shape", inputs[:1]), writer.integers(0), writer.integers(2)])
    sizes = writer.node("Concat", [front, writer.integers(*writer.shape(Entry(node))[2:])], axis=0)
    aligned = attribute(node, "align_corners", True)
    return writer.node(
        "Resize",
        [inputs[0], "", "", sizes],
        node.name,
        mode="linear",
        coordinate_transformation_mode="align_corners" if aligned else "half_pixel",
    )


def _pad(writer, node, inputs):
    pairs = attribute(node, "pad_width")
    pads = writer.integers(*pairs[0::2], *pairs[1::2])
    mode = attribute(node, "mode")
    value = [writer.number(attribute(node, "constant_value", 0.0))] if mode == "constant" else []
    return writer.node("Pad", [inputs[0], pads, *value], node.name, mode=mode)


def _reshape(writer, node, inputs):
    """Any of MXNet's codes (0, -2, -3, -4): the shape that comes out is known up to the batch."""
    sizes = writer.shape(Entry(node))
    if sizes.count(None) > 1:
        raise _unsupported(node, f"a shape {sizes} of several unknown sizes")
    return writer.node("Reshape", [inputs[0], writer.integers(*(-1 if s is None else s for s in sizes))], node.name)


def _broadcast_to(writer, node, inputs):
    sizes = (1 if size is None else size for size in writer.shape(Entry(node)))
    return writer.node("Expand", [inputs[0], writer.integers(*sizes)], node.name)


def _slice(writer, x: str, axis: int, begin: int, end: int, step: int, name: str) -> str:
    return writer.node("Slice", [x, *(writer.integers(value) for value in (begin, end, axis, step))], name)


def _slice_axis(writer, node, inputs):
    end = attribute(node, "end")
    end = np.iinfo(np.int32).max if end is None else end
    return _slice(writer, inputs[0], attribute(node, "axis"), attribute(node, "begin"), end, 1, node.name)


def _reverse(writer, node, inputs):
    axes = attribute(node, "axis")
    x = inputs[0]
    for position, axis in enumerate([axes] if isinstance(axes, int) else axes):
        x = _slice(writer, x, axis, -1, -np.iinfo(np.int32).max, -1, f"{node.name}_{position}")
    return x


def _split(writer, node, inputs):
    axis, count = attribute(node, "axis", 1), attribute(node, "num_outputs")
    parts = inputs if count == 1 else writer.node("Split", inputs, node.name, count=count, axis=axis)
    if attribute(node, "squeeze_axis", False):
        parts = [writer.node("Squeeze", [part, writer.integers(axis)]) for part in parts]
    return parts


def _stack(writer, node, inputs):
    axis = attribute(node, "axis", 0)
    parts = [writer.node("Unsqueeze", [x, writer.integers(axis)]) for x in inputs]
    return writer.node("Concat", parts, node.name, axis=axis)


def _squeeze(writer, node, inputs):
    axes = attribute(node, "axis")
    if axes is None:
        raise _unsupported(node, "no axis")
    return writer.node("Squeeze", [inputs[0], writer.integers(*_tuple(axes))], node.name)


def _expand_dims(writer, node, inputs):
    return writer.node("Unsqueeze", [inputs[0], writer.integers(attribute(node, "axis"))], node.name)


def _tuple(value) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


def _axes(writer, node: Node) -> list[int]:
    axes = attribute(node, "axis")
    if attribute(node, "exclude", False):
        raise _unsupported(node, "exclude")
    count = len(writer.shape(node.inputs[0]))
    return list(range(count)) if axes in (None, ()) else [axis % count for axis in _tuple(axes)]


def _reduced(op: str) -> Callable:
    def translate(writer, node, inputs):
        axes, keep = _axes(writer, node), int(attribute(node, "keepdims", False))
        if op == "ReduceSum":  # the one whose axes are an input in opset 13
            return writer.node(op, [inputs[0], writer.integers(*axes)], node.name, keepdims=keep)
        return writer.node(op, inputs, node.name, axes=axes, keepdims=keep)

    return translate


def _argmax(writer, node, inputs):
    found = writer.node(
        "ArgMax", inputs, axis=attribute(node, "axis"), keepdims=int(attribute(node, "keepdims", False))
    )
    return writer.cast(found, "float32", node.name)


def _pick(writer, node, inputs):
    axis = attribute(node, "axis", -1)
    index = writer.node("Unsqueeze", [writer.cast(inputs[1], "int64"), writer.integers(axis)])
    picked = writer.node("GatherElements", [inputs[0], index], axis=axis)
    if attribute(node, "keepdims", False):
        return picked
    return writer.node("Squeeze", [picked, writer.integers(axis)], node.name)


def _clip(writer, node, inputs):
    bounds = [writer.number(attribute(node, name)) for name in ("a_min", "a_max")]
    return writer.node("Clip", [inputs[0], *bounds], node.name)


def _square(writer, node, inputs):
    return writer.node("Mul", [inputs[0], inputs[0]], node.name)


OPERATORS: dict[str, Callable] = {
    # network
    "Convolution": _convolution,
    "Deconvolution": _deconvolution,
    "BatchNorm": _batch_norm,
    "Activation": _activation,
    "relu": _same("Relu"),
    "sigmoid": _same("Sigmoid"),
    "Pooling": _pooling,
    "FullyConnected": _fully_connected,
    "UpSampling": _upsampling,
    "_contrib_BilinearResize2D": _bilinear_resize,
    "Dropout": lambda writer, node, inputs: inputs[0],
    "_copy": lambda writer, node, inputs: inputs[0],
    "BlockGrad": lambda writer, node, inputs: inputs[0],
    # element by element
    "elemwise_add": _same("Add"),
    "broadcast_add": _same("Add"),
    "add_n": _same("Sum"),
    "elemwise_sub": _same("Sub"),
    "broadcast_sub": _same("Sub"),
    "elemwise_mul": _same("Mul"),
    "broadcast_mul": _same("Mul"),
    "elemwise_div": _same("Div"),
    "broadcast_div": _same("Div"),
    "broadcast_maximum": _same("Max"),
    "broadcast_minimum": _same("Min"),
    "_plus_scalar": _with_scalar("Add"),
    "_minus_scalar": _with_scalar("Sub"),
    "_rminus_scalar": _with_scalar("Sub", reverse=True),
    "_mul_scalar": _with_scalar("Mul"),
    "_div_scalar": _with_scalar("Div"),
    "_rdiv_scalar": _with_scalar("Div", reverse=True),
    "_maximum_scalar": _with_scalar("Max"),
    "_minimum_scalar": _with_scalar("Min"),
    "_greater_scalar": _compared("Greater", scalar=True),
    "_greater_equal_scalar": _compared("GreaterOrEqual", scalar=True),
    "_lesser_scalar": _compared("Less", scalar=True),
    "_lesser_equal_scalar": _compared("LessOrEqual", scalar=True),
    "_equal_scalar": _compared("Equal", scalar=True),
    "_not_equal_scalar": _compared("Equal", scalar=True, negate=True),
    "broadcast_greater": _compared("Greater", scalar=False),
    "broadcast_lesser": _compared("Less", scalar=False),
    "abs": _same("Abs"),
    "clip": _clip,
    "exp": _same("Exp"),
    "floor": _same("Floor"),
    "log": _same("Log"),
    "negative": _same("Neg"),
    "sign": _same("Sign"),
    "sqrt": _same("Sqrt"),
    "square": _square,
    # shape and order
    "Cast": lambda writer, node, inputs: writer.cast(inputs[0], attribute(node, "dtype"), node.name),
    "Concat": lambda writer, node, inputs: writer.node("Concat", inputs, node.name, axis=attribute(node, "dim", 1)),
    "Flatten": _same("Flatten", axis=1),
    "Pad": _pad,
    "Reshape": _reshape,
    "SliceChannel": _split,
    "broadcast_to": _broadcast_to,
    "expand_dims": _expand_dims,
    "reverse": _reverse,
    "slice_axis": _slice_axis,
    "squeeze": _squeeze,
    "stack": _stack,
    "transpose": lambda writer, node, inputs: writer.node(
        "Transpose", inputs, node.name, perm=list(attribute(node, "axes"))
    ),
    # reductions and look-ups
    "argmax": _argmax,
    "max": _reduced("ReduceMax"),
    "mean": _reduced("ReduceMean"),
    "min": _reduced("ReduceMin"),
    "pick": _pick,
    "sum": _reduced("ReduceSum"),
    "softmax": lambda writer, node, inputs: writer.node("Softmax", inputs, node.name, axis=attribute(node, "axis", -1)),
}
