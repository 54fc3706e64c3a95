"""A network's learnable arrays with the work of the layers they belong to, without running it."""

from __future__ import annotations

import numpy as np

from msposenet.models.summary import work_of_parameters
from msposenet.scaling.throughput import Layer


def layers_of(net, input_hw: tuple[int, int]) -> list[Layer]:
    """In the order in which GradientExchange meets them; multiply-adds of one picture (height, width) forward."""
    work = work_of_parameters(net, input_hw)
    return [
        Layer(int(np.prod(p.shape)), float(work[p.name]))
        for p in net._collect_params_with_prefix().values()
        if p.grad_req != "null" and p.name in work
    ]
