"""The same results from fewer operators: batch norm inside the convolutions, 1x1 convolutions of one input as one.

Plain operators come out, so the result runs on any device and can be exported. Only for networks in use: the batch
norms are those of inference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import numpy as np

from msposenet.symbols.nodes import VARIABLE, Entry, Node, Nodes, variable
from msposenet.symbols.traced import Traced

_TRUE = ("True", "1", "true")


def simplify(traced: Traced, alone: Collection[str] = ()) -> Traced:
    """`traced` with its batch norms folded and its pointwise convolutions merged, but for the layers `alone`."""
    return merge_pointwise(fold_batch_norm(traced), alone)


def fold_batch_norm(traced: Traced) -> Traced:
    """Every batch norm that is alone in reading a convolution becomes part of its weight and bias.

    With s = gamma / sqrt(variance + epsilon): weight * s and (bias - mean) * s + beta, computed in float64.
    """
    nodes, arrays = Nodes(traced.symbol), dict(traced.arrays)
    consumers = nodes.consumers()
    shared = {name for name, count in _variable_uses(nodes).items() if count > 1}
    changes: dict[Node, Entry] = {}
    for node in nodes:
        source = node.inputs[0].node if node.op == "BatchNorm" else None
        if source is None or source.op not in ("Convolution", "Deconvolution") or consumers[id(source)] != 1:
            continue
        computed = any(entry.node.op != VARIABLE for entry in (*source.inputs[1:], *node.inputs[1:]))
        if computed or node.attrs.get("axis", "1") != "1" or any(e.node.name in shared for e in source.inputs[1:]):
            continue
        changes[node] = Entry(_folded(source, node, arrays))
    nodes.replace(changes)
    return _with_used(nodes, arrays)


def _folded(convolution: Node, norm: Node, arrays: dict[str, np.ndarray]) -> Node:
    gamma, beta, mean, variance = (arrays[entry.node.name].astype(np.float64) for entry in norm.inputs[1:5])
    if norm.attrs.get("fix_gamma", "True") in _TRUE:
        gamma = np.ones_like(gamma)
    scale = gamma / np.sqrt(variance + float(norm.attrs.get("eps", "1e-3")))
    weight_name = convolution.inputs[1].node.name
    weight = arrays[weight_name]
    if convolution.op == "Deconvolution":  # (in, out / groups, h, w)
        groups = int(convolution.attrs.get("num_group", "1"))
        planes = weight.reshape(groups, -1, *weight.shape[1:]) * scale.reshape(groups, 1, -1, 1, 1)
        folded = planes.reshape(weight.shape)
    else:
        folded = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    bias = arrays[convolution.inputs[2].node.name] if len(convolution.inputs) > 2 else 0.0
    arrays[weight_name] = folded.astype(weight.dtype)
    bias_name = convolution.inputs[2].node.name if len(convolution.inputs) > 2 else f"{convolution.name}.bias"
    arrays[bias_name] = ((bias - mean) * scale + beta).astype(weight.dtype)
    inputs = [*convolution.inputs[:2], Entry(variable(bias_name))]
    return Node(convolution.op, convolution.name, {**convolution.attrs, "no_bias": "False"}, inputs)


def merge_pointwise(traced: Traced, alone: Collection[str] = ()) -> Traced:
    """1x1 convolutions that read one map become one with all their outputs, which are sliced apart again.

    Those an activation follows are left alone: a fused CPU graph computes that inside the convolution.
    """
    nodes, arrays = Nodes(traced.symbol), dict(traced.arrays)
    shared = {name for name, count in _variable_uses(nodes).items() if count > 1}
    activated = {id(node.inputs[0].node) for node in nodes if node.op == "Activation"}
    groups: dict[tuple, list[Node]] = defaultdict(list)
    for node in nodes:
        if _is_pointwise(node) and node.name not in alone and id(node) not in activated:
            if any(entry.node.op != VARIABLE or entry.node.name in shared for entry in node.inputs[1:]):
                continue
            source = node.inputs[0]
            groups[id(source.node), source.index, len(node.inputs)].append(node)
    changes: dict[Node, Entry] = {}
    for members in groups.values():
        if len(members) > 1:
            changes.update(_merged(members, arrays))
    nodes.replace(changes)
    return _with_used(nodes, arrays)


def _is_pointwise(node: Node) -> bool:
    attrs = node.attrs
    return (
        node.op == "Convolution"
        and attrs["kernel"] == "(1, 1)"
        and attrs.get("stride", "(1, 1)") in ("(1, 1)", "()")
        and attrs.get("pad", "(0, 0)") in ("(0, 0)", "()")
        and attrs.get("num_group", "1") == "1"
    )


def _merged(members: list[Node], arrays: dict[str, np.ndarray]) -> dict[Node, Entry]:
    first = members[0]
    name = f"{first.name}.merged"
    parts = ("weight", "bias")[: len(first.inputs) - 1]
    inputs = [first.inputs[0]]
    for position, part in enumerate(parts, start=1):
        arrays[f"{name}.{part}"] = np.concatenate([arrays[node.inputs[position].node.name] for node in members])
        inputs.append(Entry(variable(f"{name}.{part}")))
    widths = [int(node.attrs["num_filter"]) for node in members]
    together = Node("Convolution", name, {**first.attrs, "num_filter": str(sum(widths))}, inputs)
    ends = np.cumsum(widths)
    return {
        node: Entry(
            Node(
                "slice_axis",
                node.name,
                {"axis": "1", "begin": str(end - width), "end": str(end)},
                [Entry(together)],
            )
        )
        for node, width, end in zip(members, widths, ends)
    }


def _variable_uses(nodes: Nodes) -> dict[str, int]:
    uses: dict[str, int] = defaultdict(int)
    for node in nodes:
        for entry in node.inputs:
            if entry.node.op == VARIABLE:
                uses[entry.node.name] += 1
    return uses


def _with_used(nodes: Nodes, arrays: dict[str, np.ndarray]) -> Traced:
    symbol = nodes.symbol()
    names = set(symbol.list_inputs())
    return Traced(symbol, {name: array for name, array in arrays.items() if name in names})
