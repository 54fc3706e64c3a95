"""Batch normalisation over all devices of a process: the training graph of every device in one executor.

MXNet's own contrib.SyncBatchNorm makes the devices wait for each other inside the operator. That hangs for ever as
soon as two devices come to two layers in different order (parallel branches; more than a device has engine threads),
as they share workspace (CPU contexts) or as the engine runs one operator at a time; and it adds the devices up in the
order they arrive, so that three or more do not give the same bits twice. Here the sums are edges of the graph: nothing
waits inside an operator and the order is fixed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from msposenet.runtime import mx

_INPUTS = ("crops", "joints", "weights")
_EPSILON = 1e-5  # the least that cuDNN takes
_ARRAYS = 40  # statistics a call: MXNet 1.9.1 aborts when an operator is given more than about 200 arrays

Edge = list  # node number, output number, version: the form of MXNet's symbol files


class SynchronisedGraph:
    """Forward and backward pass of a TrainingGraph on several devices, normalised over the whole batch.

    graph: its network lives on all `contexts`. Afterwards gradients are in the parameters' own arrays and the running
    statistics have moved by the whole batch's mean and (biased) variance, on all devices alike.
    """

    def __init__(self, graph, contexts: Sequence[mx.Context]) -> None:
        self._contexts = list(contexts)
        self._parameters = {p.name: p for p in graph.collect_params().values()}
        traced = graph(*[mx.sym.var(name) for name in _INPUTS])
        builder = _Builder(json.loads(traced.tojson()), len(contexts))
        self._symbol = mx.sym.load_json(builder.symbol())
        self._statistics = builder.statistics
        self._constants = builder.constants
        self._executor: Any = None
        self._shapes: list[tuple[int, ...]] = []

    def __call__(self, parts: Sequence[Sequence[np.ndarray]]) -> list[mx.nd.NDArray]:
        """`parts`: crops, joints, weights of each device, parts of one size. Loss terms (T,) of each device."""
        self._bind(parts)
        for device, part in enumerate(parts):
            for name, array in zip(_INPUTS, part):
                self._executor.arg_dict[_named(name, device)][:] = array
        outputs = self._executor.forward(is_train=True)
        self._executor.backward()
        # The Trainer asks whether a gradient is new; autograd would have said so.
        for name in self._executor.grad_dict:
            parameter, device = self._split(name)
            if parameter is not None and parameter.grad_req != "null":
                parameter.list_data()[device]._fresh_grad = True
        count = len(self._contexts)
        self._move_statistics(outputs[2 * count :])
        return outputs[:count]

    def _bind(self, parts: Sequence[Sequence[np.ndarray]]) -> None:
        shapes = [array.shape for part in parts for array in part]
        if self._executor is not None and shapes == self._shapes:
            return
        arguments, gradients, requests = {}, {}, {}
        for name in self._symbol.list_arguments():
            parameter, device = self._split(name)
            if parameter is None:
                array = parts[device][_INPUTS.index(name.rpartition("@")[0])]
                arguments[name] = mx.nd.empty(array.shape, self._contexts[device], dtype=array.dtype)
                requests[name] = "null"
                continue
            arguments[name] = parameter.list_data()[device]
            requests[name] = parameter.grad_req
            if parameter.grad_req != "null":
                gradients[name] = parameter.list_grad()[device]
        inputs = {name: array.shape for name, array in arguments.items()}
        sizes = dict(zip(self._symbol.list_auxiliary_states(), self._symbol.infer_shape(**inputs)[2]))
        states = {}
        for zero, one in self._constants:
            context = self._contexts[self._split(zero)[1]]
            states[zero] = mx.nd.zeros(sizes[zero], context)
            states[one] = mx.nd.full(sizes[one], 1 - _EPSILON, context)
        os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")  # a line on stderr about a backend for inference
        groups = {_group(device): context for device, context in enumerate(self._contexts)}
        self._executor = self._symbol.bind(self._contexts[0], arguments, gradients, requests, states, group2ctx=groups)
        self._shapes = shapes

    def _split(self, name: str) -> tuple[Any, int]:
        stem, _, device = name.rpartition("@")
        return self._parameters.get(stem), int(device)

    def _move_statistics(self, vectors: Sequence[mx.nd.NDArray]) -> None:
        """Running = momentum * running + (1 - momentum) * batch, for many arrays in one call."""
        for device, context in enumerate(self._contexts):
            for number, vector in enumerate(vectors):
                part = self._statistics[number * _ARRAYS : (number + 1) * _ARRAYS]
                running = [self._parameters[name].list_data()[device] for name, _ in part]
                ends = np.cumsum([array.shape[0] for array in running]).tolist()
                moved = vector.as_in_context(context)  # one copy for all of them
                batch = [moved[start:end] for start, end in zip([0, *ends], ends)]
                # SGD's w - rate * (g + decay * w) is that very sum for rate = momentum - 1 and decay = -1.
                mx.nd.multi_sgd_update(
                    *[array for pair in zip(running, batch) for array in pair],
                    lrs=[momentum - 1 for _, momentum in part],
                    wds=[-1.0] * len(part),
                    num_weights=len(part),
                    out=running,
                )


def _named(name: str, device: int) -> str:
    return f"{name}@{device}"


def _group(device: int) -> str:
    return f"device{device}"


class _Builder:
    """Copies a traced graph once a device, node by node, and puts sums over the devices in place of BatchNorm."""

    def __init__(self, traced: dict[str, Any], count: int) -> None:
        self._count = count
        self._nodes: list[dict[str, Any]] = []
        self.statistics: list[tuple[str, float]] = []  # name and momentum of what the last heads move
        self.constants: list[tuple[str, str]] = []  # names of the 0 and 1 of each scaling
        batch: list[Edge] = []  # mean and variance of each layer
        nodes = traced["nodes"]
        running = {i for node in nodes if node["op"] == "BatchNorm" for i, *_ in node["inputs"][3:5]}
        placed: list[list[int]] = []  # for each traced node, its copies
        for number, node in enumerate(nodes):
            if number in running:
                placed.append([])
                continue
            if node["op"] == "BatchNorm":
                placed.append(self._batch_norm(node, nodes, placed, batch))
                continue
            placed.append([self._copy(node, device, placed) for device in range(count)])
        (head,) = traced["heads"]
        terms = [[placed[head[0]][device], head[1], 0] for device in range(count)]
        shown = [self._add("BlockGrad", device, [terms[device]]) for device in range(count)]
        sums = [self._add("sum", device, [terms[device]]) for device in range(count)]
        losses = [self._add("make_loss", device, [edge]) for device, edge in enumerate(sums)]
        chunks = [batch[start : start + _ARRAYS] for start in range(0, len(batch), _ARRAYS)]
        moving = [self._add("Concat", 0, chunk, dim="0", num_args=str(len(chunk))) for chunk in chunks]
        self._heads = [*shown, *losses, *moving]

    def symbol(self) -> str:
        """The graph as MXNet's JSON: loss terms of each device, losses, then means and variances, chained."""
        variables = [number for number, node in enumerate(self._nodes) if node["op"] == "null"]
        rows = list(range(len(self._nodes) + 1))
        return json.dumps(
            {
                "nodes": self._nodes,
                "arg_nodes": variables,
                "node_row_ptr": rows,
                "heads": self._heads,
                "attrs": {"mxnet_version": ["int", 10901]},
            }
        )

    def _copy(self, node: dict[str, Any], device: int, placed: list[list[int]]) -> int:
        inputs = [[placed[i][device], output, 0] for i, output, *_ in node["inputs"]]
        attributes = {**node.get("attrs", {}), "__ctx_group__": _group(device)}
        self._nodes.append(
            {"op": node["op"], "name": _named(node["name"], device), "attrs": attributes, "inputs": inputs}
        )
        return len(self._nodes) - 1

    def _add(self, op: str, device: int, inputs: Sequence[Edge], **attributes: str) -> Edge:
        attributes["__ctx_group__"] = _group(device)
        number = len(self._nodes)
        name = _named(f"synchronised{number}", device)
        self._nodes.append({"op": op, "name": name, "attrs": attributes, "inputs": list(inputs)})
        return [number, 0, 0]

    def _batch_norm(
        self, node: dict[str, Any], nodes: list[dict[str, Any]], placed: list[list[int]], batch: list[Edge]
    ) -> list[int]:
        """y = (x - M) * gamma / sqrt(V + eps) + beta with M and V over all devices, from operators that are fast.

        Broadcasts have slow gradients on a CPU. So the scaling is a BatchNorm whose statistics stand at 0 and 1; M is
        subtracted as a constant, and its gradient takes the way through the offset. V's through M is zero.
        """
        settings = node["attrs"]
        devices = range(self._count)
        x, gamma, beta = ([[placed[i][d], output, 0] for d in devices] for i, output, *_ in node["inputs"][:3])
        mean = self._over_devices(x)
        fixed = self._add("BlockGrad", 0, [mean])
        slack = self._add("elemwise_sub", 0, [mean, fixed])  # zero, with the gradient of the mean
        centred = []
        for d in devices:
            wide = self._add("broadcast_like", d, [fixed, x[d]])
            centred.append(self._add("elemwise_sub", d, [x[d], wide]))
        variance = self._over_devices([self._add("square", d, [centred[d]]) for d in devices])
        self.statistics += [(nodes[i]["name"], float(settings["momentum"])) for i, *_ in node["inputs"][3:5]]
        flat_mean, flat_variance = (self._add("Reshape", 0, [edge], shape="(-1,)") for edge in (fixed, variance))
        batch += [flat_mean, self._add("BlockGrad", 0, [flat_variance])]
        shifted = self._add("_plus_scalar", 0, [flat_variance], scalar=settings["eps"])
        inverse = self._add("rsqrt", 0, [shifted])
        slack = self._add("Reshape", 0, [slack], shape="(-1,)")
        outputs = []
        for d in devices:
            scale = self._add("elemwise_mul", d, [gamma[d], inverse])
            offset = self._add("elemwise_sub", d, [beta[d], self._add("elemwise_mul", d, [scale, slack])])
            constants = [self._add("null", d, [])[0] for _ in range(2)]
            self.constants.append(tuple(self._nodes[number]["name"] for number in constants))
            inputs = [centred[d], scale, offset, *([number, 0, 0] for number in constants)]
            affine = self._add("BatchNorm", d, inputs, eps=str(_EPSILON), fix_gamma="False", use_global_stats="True")
            outputs.append(affine[0])
        return outputs

    def _over_devices(self, maps: Sequence[Edge]) -> Edge:
        """Mean (1, C, 1, 1) of maps (N, C, H, W) over samples and places of all devices, on the first."""
        means = []
        for d, edge in enumerate(maps):
            # A product with 1/HW is several times as fast on a CPU as `mean` or `Pooling` with their gradients.
            rows = self._add("Reshape", d, [edge], shape="(-3, -3)")
            first = self._add("slice_axis", d, [rows], axis="0", begin="0", end="1")
            share = self._add("softmax", d, [self._add("zeros_like", d, [first])])
            planes = self._add("Reshape", d, [edge], shape="(0, 0, -1)")
            means_of = self._add("FullyConnected", d, [planes, share], num_hidden="1", no_bias="True", flatten="False")
            wide = self._add("expand_dims", d, [means_of], axis="3")
            means.append(self._add("mean", d, [wide], axis="(0,)", keepdims="True"))
        total = self._add("add_n", 0, means, num_args=str(self._count))
        return self._add("_mul_scalar", 0, [total], scalar=repr(1 / self._count))
