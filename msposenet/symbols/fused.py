"""oneDNN's fused operators: convolution, sum and ReLU in one pass over memory. CPU and float32 only."""

from __future__ import annotations

from dataclasses import replace

from msposenet.symbols.nodes import Nodes
from msposenet.symbols.traced import Traced

_FUSED = "_sg_"  # begins the names of oneDNN's operators


def fuse(traced: Traced) -> Traced:
    """`traced` with convolutions joined to the sums and activations that follow them; the same values."""
    # `optimize_for` does the same on a block, and fails on networks with several outputs of one module.
    return replace(traced, symbol=traced.symbol.get_backend_symbol("MKLDNN"))


def is_fused(traced: Traced) -> bool:
    """Whether `traced` holds fused operators already, in float or in 8 bits."""
    return any(node.op.startswith(_FUSED) for node in Nodes(traced.symbol))
