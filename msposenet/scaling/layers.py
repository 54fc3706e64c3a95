"""A network's learnable arrays with the work of the layers they belong to, without running it."""

from __future__ import annotations

import json

import numpy as np

from msposenet.runtime import mx
from msposenet.scaling.throughput import Layer

_COUNTED = ("Convolution", "Deconvolution", "FullyConnected")


def layers_of(net, input_hw: tuple[int, int]) -> list[Layer]:
    """In the order in which GradientExchange meets them; multiply-adds of one picture (height, width) forward."""
    output = net(mx.sym.var("data"))
    graph = mx.sym.Group(list(output)) if isinstance(output, (tuple, list)) else output
    internals = graph.get_internals()
    _, shapes, _ = internals.infer_shape(data=(1, 3, *input_hw))
    shape_of = dict(zip(internals.list_outputs(), shapes))
    nodes = json.loads(graph.tojson())["nodes"]
    work: dict[str, float] = {}
    for node in nodes:
        if node["op"] not in _COUNTED:
            continue
        data, weight = (nodes[entry[0]] for entry in node["inputs"][:2])
        into = node["op"] == "Deconvolution"  # a transposed convolution's true cost: its weights x input positions
        name = f"{node['name']}_output" if not into else data["name"] + ("" if data["op"] == "null" else "_output")
        positions = 1 if node["op"] == "FullyConnected" else np.prod(shape_of[name][2:])
        work[weight["name"]] = float(np.prod(shape_of[weight["name"]]) * positions)
    reached = {node["name"] for node in nodes if node["op"] == "null"}
    return [
        Layer(int(np.prod(shape_of[p.name])), work.get(p.name, 0.0))
        for p in net._collect_params_with_prefix().values()
        if p.grad_req != "null" and p.name in reached
    ]
