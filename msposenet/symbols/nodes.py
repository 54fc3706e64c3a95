"""The nodes of a symbol, to be rewired, and a symbol from them again.

MXNet gives no way to change a symbol; its JSON form can be read and written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from msposenet.runtime import mx

VARIABLE = "null"


class Entry(NamedTuple):
    """One output of a node."""

    node: Node
    index: int = 0


@dataclass(eq=False)
class Node:
    """An operator, or a variable (op "null"), its attributes as MXNet writes them, and where its inputs come from."""

    op: str
    name: str
    attrs: dict[str, str] = field(default_factory=dict)
    inputs: list[Entry] = field(default_factory=list)
    subgraphs: list = field(default_factory=list)  # of a fused operator, as they are written


def variable(name: str) -> Node:
    return Node(VARIABLE, name)


class Nodes:
    """The nodes behind the outputs `heads` of a symbol."""

    def __init__(self, symbol: mx.sym.Symbol) -> None:
        content = json.loads(symbol.tojson())
        nodes: list[Node] = []
        for entry in content["nodes"]:
            inputs = [Entry(nodes[source[0]], source[1]) for source in entry["inputs"]]
            attrs = dict(entry.get("attrs", {}))
            nodes.append(Node(entry["op"], entry["name"], attrs, inputs, entry.get("subgraphs", [])))
        self.heads = [Entry(nodes[head[0]], head[1]) for head in content["heads"]]

    def __iter__(self) -> Iterator[Node]:
        """All nodes that the heads need, each after its inputs."""
        seen: set[int] = set()
        # Not recursive: a cascade of HRNets is deeper than Python's stack.
        stack = [(head.node, False) for head in reversed(self.heads)]
        while stack:
            node, complete = stack.pop()
            if complete:
                yield node
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend((entry.node, False) for entry in reversed(node.inputs))

    def consumers(self) -> Counter:
        """How often each node's outputs are read, by identity; the heads count as readers."""
        counts = Counter(id(entry.node) for node in self for entry in node.inputs)
        counts.update(id(head.node) for head in self.heads)
        return counts

    def replace(self, changes: dict[Node, Entry]) -> None:
        """Whoever reads the first output of a node in `changes` reads the entry it maps to from now on."""

        def now(entry: Entry) -> Entry:
            while entry.index == 0 and entry.node in changes:
                entry = changes[entry.node]
            return entry

        self.heads = [now(head) for head in self.heads]
        changed = True
        while changed:  # what takes a node's place may itself read a node that is replaced, and is only found then
            changed = False
            for node in list(self):
                inputs = [now(entry) for entry in node.inputs]
                if inputs != node.inputs:
                    node.inputs[:], changed = inputs, True

    def symbol(self) -> mx.sym.Symbol:
        nodes = list(self)
        number = {id(node): position for position, node in enumerate(nodes)}

        def written(entry: Entry) -> list[int]:
            return [number[id(entry.node)], entry.index, 0]

        content = {
            "nodes": [
                {
                    "op": node.op,
                    "name": node.name,
                    **({"attrs": node.attrs} if node.attrs else {}),
                    "inputs": [written(entry) for entry in node.inputs],
                    **({"subgraphs": node.subgraphs} if node.subgraphs else {}),
                }
                for node in nodes
            ],
            "arg_nodes": [position for position, node in enumerate(nodes) if node.op == VARIABLE],
            "heads": [written(head) for head in self.heads],
            "attrs": {"mxnet_version": ["int", 10901]},
        }
        return mx.sym.load_json(json.dumps(content))
