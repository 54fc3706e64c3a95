"""A network as a symbol with its values: what is left when the Python code that built it is taken away."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from msposenet.runtime import mx, without_known_warnings
from msposenet.symbols.nodes import VARIABLE, Node, Nodes

INPUT = "data"


@dataclass(frozen=True)
class Traced:
    """A symbol of one input, `data`, and its arguments and auxiliary states by name."""

    symbol: mx.sym.Symbol
    arrays: dict[str, np.ndarray]


def trace(block) -> Traced:
    """The symbol and a copy of the values of a Gluon block with one input; several outputs become a group.

    Variables are named as in the block's parameter files (`layer1.0.conv1.weight`), operators after the module that
    owns their weight (`layer1.0.conv1`), others by kind and number, so that a network always gives the same symbol.
    """
    output = block(mx.sym.var(INPUT))
    nodes = Nodes(mx.sym.Group(list(output)) if isinstance(output, (tuple, list)) else output)
    values = {parameter.name: (name, parameter) for name, parameter in block._collect_params_with_prefix().items()}
    # Without the sync, running statistics of a hybridized static_alloc net are read one step too early.
    mx.nd.waitall()
    arrays = {}
    counts: Counter = Counter()
    for node in nodes:
        if node.op != VARIABLE:
            node.name = _name(node, counts)
        elif node.name != INPUT:
            name, parameter = values[node.name]
            node.name = name
            arrays[name] = parameter.list_data()[0].asnumpy()
    return Traced(nodes.symbol(), arrays)


def _name(node: Node, counts: Counter) -> str:
    weights = [entry.node.name for entry in node.inputs[1:2] if entry.node.op == VARIABLE]
    stem = weights[0].rpartition(".")[0] if weights else ""
    stem = stem or node.op.lower().lstrip("_")
    counts[stem] += 1
    return stem if counts[stem] == 1 and weights else f"{stem}_{counts[stem]}"


def runner(traced: Traced, context: mx.Context | None = None):
    """A block that computes `traced` on `context`, its memory planned once for each shape of input.

    Called with an array it gives an array, or a list where the symbol has several outputs.
    """
    context = context or mx.cpu()
    with without_known_warnings():
        block = mx.gluon.SymbolBlock(traced.symbol, [mx.sym.var(INPUT)])
    for name, parameter in block.collect_params().items():
        array = traced.arrays[name]
        parameter._load_init(mx.nd.array(array, dtype=array.dtype), context)
    block.hybridize(static_alloc=True, static_shape=True)
    return block
