"""Parameters and multiply-adds of a network, counted on its symbol without running it."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from msposenet.runtime import mx

GIBI = 1024**3


@dataclass(frozen=True)
class Summary:
    """`params`: learnable values. `multiply_adds`: of convolutions, transposed convolutions and dense layers."""

    name: str
    input_hw: tuple[int, int]
    params: int
    multiply_adds: int

    def as_dict(self) -> dict:
        return {
            "name": self.name,
            "input": list(self.input_hw),
            "params": self.params,
            "multiply_adds": self.multiply_adds,
        }


def summarise(net, name: str, input_hw: tuple[int, int]) -> Summary:
    """Counts for one picture of `input_hw` = (height, width) pixels.

    A transposed convolution is counted at its true cost: weights x input positions (not x output positions).
    """
    total = sum(work_of_parameters(net, input_hw).values())
    params = sum(
        int(np.prod(parameter.shape)) for parameter in net.collect_params().values() if parameter.grad_req != "null"
    )
    return Summary(name=name, input_hw=tuple(input_hw), params=params, multiply_adds=total)


def work_of_parameters(net, input_hw: tuple[int, int]) -> dict[str, int]:
    """Multiply-adds of one picture by the name of every parameter in use; 0 for those that multiply nothing."""
    output = net(mx.sym.var("data"))
    graph = mx.sym.Group(list(output)) if isinstance(output, (tuple, list)) else output
    internals = graph.get_internals()
    _, shapes, _ = internals.infer_shape(data=(1, 3, *input_hw))
    shape_of = dict(zip(internals.list_outputs(), shapes))
    nodes = json.loads(graph.tojson())["nodes"]

    def shape(entry) -> tuple[int, ...]:
        node = nodes[entry[0]]
        return shape_of[node["name"] if node["op"] == "null" else f"{node['name']}_output"]

    work = {node["name"]: 0 for node in nodes if node["op"] == "null"}
    for node in nodes:
        if node["op"] not in ("Convolution", "Deconvolution", "FullyConnected"):
            continue
        data, weight = shape(node["inputs"][0]), shape(node["inputs"][1])
        # A transposed convolution's true cost is over input positions.
        positions = data if node["op"] == "Deconvolution" else shape_of[f"{node['name']}_output"]
        each = 1 if node["op"] == "FullyConnected" else int(np.prod(positions[2:]))
        work[nodes[node["inputs"][1][0]]["name"]] += int(np.prod(weight)) * each
    return work
