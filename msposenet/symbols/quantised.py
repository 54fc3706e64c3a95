"""8-bit integer graphs for the CPU: calibrated on crops, chosen layers kept in float.

The range of a layer's output is the mean, over batches of 20 crops, of the smallest and of the largest value. With the
extremes of 500 crops 3.7 % of the joints of a trained HRNet of width 16 move by more than half a heatmap pixel, with
these 1.5 %: a few unusual crops would set the scale for all. Ranges that minimise the Kullback-Leibler divergence
(entropy calibration) go too far. They cut off the few large values, which in a heatmap network are the peaks, and cost
3.6 AP.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable

import numpy as np

from msposenet.errors import ConfigError
from msposenet.runtime import mx
from msposenet.symbols.nodes import VARIABLE, Node, Nodes
from msposenet.symbols.simplify import simplify
from msposenet.symbols.traced import INPUT, Traced, runner

BATCH = 20  # crops
_BACKEND = "MKLDNN_QUANTIZE"
# The few sums that no convolution takes in, in the exchange units: in 8 bits they double the error of the heatmaps and
# bring no speed.
_SUMS = ["elemwise_add"]
_CONVOLUTIONS = ("Convolution", "Deconvolution")


def quantise(
    traced: Traced,
    batches: Iterable[np.ndarray],
    keep_float: Collection[str] = (),
    advance: Callable[[int], None] = lambda crops: None,
) -> Traced:
    """`traced` (float32) with its convolutions in 8 bits, weights channel by channel, ranges from `batches`.

    batches: the network's inputs, uint8 crops (N, h, w, 3) for most, best BATCH at a time. keep_float: layers by the
    names of `layers`, or what they begin with (`stage4`). `advance` hears of each batch's crops. Raises ConfigError for
    a name that is no layer and when there are no crops.
    """
    kept = _chosen(traced, keep_float)
    simple = simplify(traced, alone=kept)
    base = simple.symbol.get_backend_symbol(_BACKEND)
    in_float = _left_in_float(base, {f"{name}.weight" for name in kept})
    arguments, auxiliary = _as_mxnet(simple, base)
    symbol, _, auxiliary, collector = mx.contrib.quantization.quantize_graph(
        base,
        arguments,
        auxiliary,
        excluded_sym_names=in_float,
        excluded_op_names=_SUMS,
        calib_mode="naive",
        quantized_dtype="auto",
        quantize_mode="smart",
        logger=None,
    )
    collector.min_max_dict = _ranges(base, simple, collector.include_layer, batches, advance)
    symbol, arguments, auxiliary = mx.contrib.quantization.calib_graph(
        symbol, arguments, auxiliary, collector, calib_mode="naive", quantized_dtype="auto", logger=None
    )
    # Once more: quantised convolutions take in the requantisation that follows them.
    symbol = symbol.get_backend_symbol(_BACKEND)
    names = set(symbol.list_inputs())
    arrays = {name: array.asnumpy() for name, array in {**arguments, **auxiliary}.items() if name in names}
    return Traced(symbol, arrays)


def layers(traced: Traced) -> list[str]:
    """Names of the layers that can be quantised, from the picture to the output."""
    return [node.name for node in Nodes(traced.symbol) if node.op in _CONVOLUTIONS and _has_values(node)]


def _has_values(node: Node) -> bool:
    """Whether a convolution is part of the network: a blur that belongs to the decoding has a computed kernel."""
    return node.inputs[1].node.op == VARIABLE


def depthwise(traced: Traced) -> list[str]:
    """Layers with a group a channel, which lose most in 8 bits."""
    convolutions = [node for node in Nodes(traced.symbol) if node.op == "Convolution" and _has_values(node)]
    return [node.name for node in convolutions if node.attrs.get("num_group", "1") == node.attrs["num_filter"] != "1"]


def _chosen(traced: Traced, wanted: Collection[str]) -> set[str]:
    known = layers(traced)
    chosen: set[str] = set()
    for name in wanted:
        found = [layer for layer in known if layer == name or layer.startswith(f"{name}.")]
        if not found:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
            raise ConfigError(f"no layer {name!r} to keep in float; did you mean {', '.join(near or known[:3])}?")
        chosen.update(found)
    return chosen


def _left_in_float(symbol: mx.sym.Symbol, weights: Collection[str]) -> list[str]:
    """The fused convolutions that read one of the variables `weights`, or a kernel that is computed."""
    convolutions = [node for node in Nodes(symbol) if node.op == "_sg_mkldnn_conv"]
    return [node.name for node in convolutions if not _has_values(node) or node.inputs[1].node.name in weights]


def _as_mxnet(traced: Traced, symbol: mx.sym.Symbol) -> tuple[dict[str, mx.nd.NDArray], dict[str, mx.nd.NDArray]]:
    arrays = {name: mx.nd.array(array, dtype=array.dtype) for name, array in traced.arrays.items()}
    auxiliary = set(symbol.list_auxiliary_states())
    return (
        {name: array for name, array in arrays.items() if name not in auxiliary},
        {name: array for name, array in arrays.items() if name in auxiliary},
    )


def _ranges(
    symbol: mx.sym.Symbol, traced: Traced, wanted: Collection[str], batches: Iterable[np.ndarray], advance
) -> dict[str, tuple[float, float]]:
    """Range of every output of `symbol` that is listed in `wanted`: means over the batches of its extremes."""
    internals = symbol.get_internals()
    names = [name for name in internals.list_outputs() if name in set(wanted)]
    outputs = mx.sym.Group([mx.sym.Group([mx.sym.min(internals[n]), mx.sym.max(internals[n])]) for n in names])
    needed = set(outputs.list_inputs()) - {INPUT}
    run = runner(Traced(outputs, {name: array for name, array in traced.arrays.items() if name in needed}))
    found = []
    for batch in batches:
        extremes = [value.asscalar() for value in run(mx.nd.array(batch, dtype=batch.dtype))]
        found.append(np.array(extremes, np.float64).reshape(-1, 2))
        advance(len(batch))
    if not found:
        raise ConfigError("no crops to calibrate on; give a training set with at least one readable person")
    return {name: (float(low), float(high)) for name, (low, high) in zip(names, np.mean(found, axis=0))}
