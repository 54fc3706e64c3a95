"""Initial values of a network that is trained from scratch."""

from __future__ import annotations

import re

from msposenet.errors import ConfigError
from msposenet.runtime import mx

_HEAD_DEVIATION = 0.001


class _HeNormalFanOut(mx.init.Initializer):
    """Normal with deviation sqrt(2 / (k*k*out)) (He et al., 2015), drawn from MXNet's seeded generator."""

    def _init_weight(self, name, arr):
        fan_out = arr.shape[0] * (arr.shape[2] * arr.shape[3] if len(arr.shape) == 4 else 1)
        mx.nd.random.normal(0, (2.0 / fan_out) ** 0.5, out=arr)


INITIALISERS = {
    "he": _HeNormalFanOut,  # HRNet's classification code; learns faster from nothing
    "normal": lambda: mx.init.Normal(0.001),  # HRNet's pose code, meant for copied ImageNet weights
}


def initialise(net, kind: str = "he", seed: int = 0, ctx=None) -> None:
    """Fill every parameter: convolutions by `kind`, heads N(0, 0.001), biases 0, batch norm 1 and 0.

    A head drawn as wide as the rest starts with a loss a thousand times too high, hence its own deviation. (A head
    that ends in batch norm, as MSPN's, is drawn like the rest.) Raises ConfigError for an unknown kind.
    """
    if kind not in INITIALISERS:
        raise ConfigError(f"unknown initialisation {kind!r}; known: {', '.join(INITIALISERS)}")
    mx.random.seed(seed)
    # Parameters are filled one by one in the order of their names, so the values depend on the seed alone.
    bare_head = re.compile(rf"(.+\.)?{net.head_layer}(\.\d+)?\.weight")
    for name, parameter in sorted(net._collect_params_with_prefix().items()):
        kind_of = mx.init.Normal(_HEAD_DEVIATION) if bare_head.fullmatch(name) else None
        parameter.initialize(init=kind_of, default_init=INITIALISERS[kind](), ctx=ctx, force_reinit=True)
