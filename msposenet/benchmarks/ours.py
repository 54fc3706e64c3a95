"""This package's contenders, in processes of their own: the network in use, and a training step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from msposenet.benchmarks.network import read_network
from msposenet.config import build_config
from msposenet.data.loader import Batch
from msposenet.models.build import build_codec
from msposenet.models.layers import HybridBlock
from msposenet.runtime import mx
from msposenet.skeletons import COCO_17
from msposenet.symbols.fused import fuse
from msposenet.symbols.quantised import quantise
from msposenet.symbols.simplify import simplify
from msposenet.symbols.traced import runner, trace
from msposenet.training.graph import TrainingGraph
from msposenet.training.step import Stepper


class LastOutput(HybridBlock):
    """The output of a network that is decoded."""

    def __init__(self, net) -> None:
        super().__init__(prefix="")
        self.net = net

    def hybrid_forward(self, F, x):
        return self.net(x)[-1]


def hybridized(data: str, **network) -> Callable[[], np.ndarray]:
    """The Gluon network as it is, hybridized with static memory."""
    block = LastOutput(read_network(**network))
    block.hybridize(static_alloc=True, static_shape=True)
    return _forward(block, data)


def fused(data: str, **network) -> Callable[[], np.ndarray]:
    """The network as `Predictor` and `eval` run it on a CPU: simplified, and fused by oneDNN."""
    return _forward(runner(fuse(simplify(trace(LastOutput(read_network(**network)))))), data)


def int8(data: str, **network) -> Callable[[], np.ndarray]:
    """The same in 8 bits, calibrated on the pictures themselves: its time is the point here, not its maps."""
    return _forward(runner(quantise(trace(LastOutput(read_network(**network))), [np.load(data)])), data)


def _forward(block, data: str) -> Callable[[], np.ndarray]:
    crops = mx.nd.array(np.load(data))
    return lambda: block(crops).asnumpy()


def training(content: dict, batch: str, rate: float, **network) -> Callable[[], np.ndarray]:
    """A step of `msposenet train`: crops and joints in; normalisation, targets, loss, gradient, Adam."""
    config = build_config(content, "the benchmark")
    net = read_network(**network)
    graph = TrainingGraph(net, build_codec(config), config.loss, COCO_17, net.spec.stages)
    graph.hybridize(static_alloc=True, static_shape=True)
    with np.load(batch) as arrays:
        crops, joints, weights = arrays["crops"], arrays["joints"], arrays["weights"]
    numbers = np.arange(len(crops))
    samples = Batch(crops, joints, weights, numbers, numbers)
    reached = set(mx.sym.Group(list(net(mx.sym.var("data")))).list_inputs())
    used = {name: p for name, p in net._collect_params_with_prefix().items() if p.name in reached}
    stepper = Stepper(graph, used, [mx.cpu()], len(crops))

    def step() -> np.ndarray:
        loss = stepper(samples, rate, 0)
        mx.nd.waitall()  # the update is queued behind the loss
        return loss

    return step
