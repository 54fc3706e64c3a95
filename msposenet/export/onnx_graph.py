"""A traced network as an ONNX model that takes any batch: opset 13, IR version 8, so that old runtimes read it.

Written here operator by operator: `mxnet.onnx.export_model` lacks those of decoding (pick, sign, not_equal, ...),
stamps the newest opset that the installed onnx knows, and loses the shapes of a graph whose batch is dynamic.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from msposenet.errors import ExportError
from msposenet.inference.onnx_batches import require
from msposenet.runtime import mx
from msposenet.symbols.nodes import VARIABLE, Entry, Node, Nodes
from msposenet.symbols.traced import INPUT, Traced

OPSET = 13
IR_VERSION = 8
LARGEST = 2**31 - 2**20  # bytes of values; protobuf holds less than 2 GiB
BATCH = "N"  # the name of the first dimension
_TWO_BATCHES = (2, 3)


def to_onnx(traced: Traced, shape: tuple[int, ...], dtype: str, outputs: Sequence[str]):
    """`traced` as an onnx.ModelProto; its input is `data` (N, *shape) of type `dtype`.

    outputs: names for the graph's outputs, in order. Raises ExportError for an operator that has no translation here
    and ConfigError without the onnx package.
    """
    from msposenet.export.onnx_operators import OPERATORS

    onnx = require("onnx")
    nodes = _with_unique_names(traced.symbol)
    writer = Writer(onnx, traced.arrays, _shapes(nodes, traced.arrays, shape))
    depending = _depending(nodes)
    for entry, value in _constants(nodes, depending, traced.arrays).items():
        writer.names[entry] = writer.constant(value, entry.node.name)
    for node in nodes:
        if node.op == VARIABLE or node not in depending:
            continue
        if node.op not in OPERATORS:
            raise ExportError(
                f"node {node.name}: the operator {node.op} has no ONNX form here; export with --to symbol, "
                "or add it to msposenet/export/onnx_operators.py"
            )
        made = OPERATORS[node.op](writer, node, [writer.name(source) for source in node.inputs])
        for index, name in enumerate([made] if isinstance(made, str) else made):
            writer.names[Entry(node, index)] = name
    for head, name in zip(nodes.heads, outputs):
        writer.node("Identity", [writer.name(head)], name)
    return writer.model(
        (BATCH, *shape), dtype, [(name, writer.shape(head)) for name, head in zip(outputs, nodes.heads)]
    )


class Writer:
    """What the translations of operators write to: ONNX nodes, and constants as initialisers."""

    def __init__(self, onnx, arrays: dict[str, np.ndarray], shapes: dict[Entry, tuple[int | None, ...]]) -> None:
        self.names: dict[Entry, str] = {}
        self.arrays = arrays
        self._onnx = onnx
        self._shapes = shapes
        self._nodes: list = []
        self._initialisers: dict[str, np.ndarray] = {}

    def shape(self, entry: Entry) -> tuple[int | None, ...]:
        """Of one output of a node; None for a dimension that grows with the batch."""
        return self._shapes[entry]

    def name(self, entry: Entry) -> str:
        """The ONNX value that holds an entry; a parameter becomes an initialiser when it is first read."""
        node = entry.node
        if entry not in self.names:
            self.names[entry] = node.name if node.name == INPUT else self.constant(self.arrays[node.name], node.name)
        return self.names[entry]

    def constant(self, array: np.ndarray, name: str | None = None) -> str:
        """An initialiser; without a name equal ones are written once."""
        array = np.ascontiguousarray(array)
        name = name or f"constant_{array.dtype}_{array.shape}_{array.tobytes().hex()}".replace(" ", "")
        self._initialisers[name] = array
        return name

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def number(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def node(self, op: str, inputs: Sequence[str], name: str = "", count: int = 1, **attributes) -> str | list[str]:
        """Write a node and return the name of its output, or the names of its `count` outputs."""
        name = name or f"{op}_{len(self._nodes)}"
        outputs = [name] if count == 1 else [f"{name}_{index}" for index in range(count)]
        self._nodes.append(self._onnx.helper.make_node(op, list(inputs), outputs, name=name, **attributes))
        return name if count == 1 else outputs

    def cast(self, x: str, dtype: str, name: str = "") -> str:
        return self.node("Cast", [x], name, to=self._type(dtype))

    def model(self, shape: tuple, dtype: str, outputs: list[tuple[str, tuple]]):
        """The checked model. Raises ExportError when it is too large for one file."""
        helper = self._onnx.helper
        size = sum(array.nbytes for array in self._initialisers.values())
        if size > LARGEST:
            raise ExportError(
                f"its values take {size:,} bytes, and one ONNX file holds at most {LARGEST:,}; export with --to symbol"
            )
        graph = helper.make_graph(
            self._nodes,
            "msposenet",
            [helper.make_tensor_value_info(INPUT, self._type(dtype), shape)],
            [
                helper.make_tensor_value_info(
                    name, self._type("float32"), [BATCH if size is None else size for size in sizes]
                )
                for name, sizes in outputs
            ],
            [self._onnx.numpy_helper.from_array(array, name) for name, array in self._initialisers.items()],
        )
        model = helper.make_model(graph, producer_name="msposenet", opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = IR_VERSION
        self._onnx.checker.check_model(model, full_check=True)
        return model

    def _type(self, dtype: str) -> int:
        return self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _with_unique_names(symbol: mx.sym.Symbol) -> Nodes:
    nodes, seen = Nodes(symbol), set()
    for position, node in enumerate(nodes):
        if node.name in seen:
            node.name = f"{node.name}_{position}"
        seen.add(node.name)
    return nodes


def _shapes(nodes: Nodes, arrays: dict[str, np.ndarray], shape: tuple[int, ...]) -> dict[Entry, tuple[int | None, ...]]:
    """Shape of every value; what differs between two batch sizes is None."""
    internals = nodes.symbol().get_internals()
    known = {name: array.shape for name, array in arrays.items()}
    found = [internals.infer_shape(**known, **{INPUT: (batch, *shape)})[1] for batch in _TWO_BATCHES]
    merged = [tuple(a if a == b else None for a, b in zip(*pair)) for pair in zip(*found)]
    by_name = dict(zip(internals.list_outputs(), merged))
    shapes = {}
    for node in nodes:
        if node.op == VARIABLE:
            shapes[Entry(node)] = by_name[node.name]
        elif f"{node.name}_output" in by_name:
            shapes[Entry(node)] = by_name[f"{node.name}_output"]
        else:
            numbered = (f"{node.name}_output{index}" for index in itertools.count())
            found = itertools.takewhile(by_name.__contains__, numbered)
            shapes.update((Entry(node, index), by_name[name]) for index, name in enumerate(found))
    return shapes


def _depending(nodes: Nodes) -> set[Node]:
    """The nodes that the input reaches."""
    reached: set[Node] = set()
    for node in nodes:
        if node.name == INPUT or any(entry.node in reached for entry in node.inputs):
            reached.add(node)
    return reached


def _constants(nodes: Nodes, depending: set[Node], arrays: dict[str, np.ndarray]) -> dict[Entry, np.ndarray]:
    """Values that operators read and that other operators make without the input, as a blur's weights."""
    values: dict[Entry, mx.nd.NDArray] = {}
    for node in nodes:
        if node in depending or node.op == VARIABLE:
            continue
        function = getattr(mx.nd, node.op, None) or getattr(mx.nd._internal, node.op)
        inputs = [values[entry] if entry in values else mx.nd.array(arrays[entry.node.name]) for entry in node.inputs]
        values[Entry(node)] = function(*inputs, **node.attrs)
    read = {entry for node in nodes if node in depending for entry in node.inputs}
    return {entry: value.asnumpy() for entry, value in values.items() if entry in read}
