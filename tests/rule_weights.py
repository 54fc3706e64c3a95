"""Networks filled with the golden set's deterministic weights: values follow from the official name and shape."""

from __future__ import annotations

import zlib

import numpy as np

from msposenet.runtime import mx
from msposenet.weights import load_torch_state_dict
from msposenet.weights.official import official_name

_DAMPED = (
    ".bn2.weight", ".bn3.weight", ".conv_bn_relu3.bn.weight", ".skip1.bn.weight", ".skip2.bn.weight",
    ".up_conv.bn.weight", ".cross_conv.bn.weight",
)  # fmt: skip


def rule_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The golden README's section 2."""
    rng = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF)
    if len(shape) >= 2:
        value = rng.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
    elif name.endswith((".running_var", ".weight")):
        value = rng.uniform(0.5, 1.5, shape)
        if name.endswith(".weight") and ("fuse_layers" in name or name.endswith(_DAMPED)):
            value = value * 0.15
    else:
        value = rng.uniform(-0.1, 0.1, shape)
    return value.astype(np.float32)


def fill_by_rule(net):
    """Fill every parameter of `net` by the rule and return it."""
    shapes = {official_name(name): p.shape for name, p in net._collect_params_with_prefix().items()}
    net.initialize(mx.init.Zero())  # else the loader draws values first, for longer than the rest takes
    load_torch_state_dict(net, {name: rule_tensor(name, shape) for name, shape in shapes.items()})
    return net


def rule_input(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
