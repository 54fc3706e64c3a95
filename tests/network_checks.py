"""What the tests of every network family check against the golden set, and of tiny networks without it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from documents import table
from rule_weights import rule_input
from shared_data import golden

from msposenet.models.initialise import initialise
from msposenet.models.summary import GIBI, Summary, work_of_parameters
from msposenet.models.zoo import get_model
from msposenet.runtime import mx
from msposenet.weights.official import official_name


def golden_input(g) -> mx.nd.NDArray:
    return mx.nd.array(rule_input(int(g["seed"]), tuple(g["shape"])))


def check_close(found: mx.nd.NDArray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found.asnumpy() - wanted).max() <= 1e-4 * np.abs(wanted).max()


@contextmanager
def record(blocks) -> Iterator[dict[str, np.ndarray]]:
    """What `blocks` give meanwhile, by name; the i-th of several outputs as name_i."""
    seen: dict[str, np.ndarray] = {}

    def keep(name):
        def hook(block, inputs, outputs):
            several = isinstance(outputs, (list, tuple))
            for i, output in enumerate(outputs if several else [outputs]):
                seen[f"{name}_{i}" if several else name] = output.asnumpy()

        return hook

    handles = [block.register_forward_hook(keep(name)) for name, block in blocks.items()]
    yield seen
    for handle in handles:
        handle.detach()


def check_activations(seen: dict[str, np.ndarray], g) -> None:
    """Every activation of the golden file against the recorded one."""
    names = [key[len("act_") : -len("_sample")] for key in g if key.startswith("act_") and key.endswith("_sample")]
    assert names
    for name in names:
        wanted = g[f"act_{name}_sample"]
        assert seen[name].shape == tuple(g[f"act_{name}_shape"]), name
        assert np.abs(seen[name].ravel()[::97] - wanted).max() <= 1e-4 * np.abs(wanted).max(), name


def check_names(net, file: str) -> None:
    """Official names, shapes and number of trainable values, complete both ways."""
    published = json.loads(golden(f"state_dicts/{file}.json").read_text())
    parameters = net._collect_params_with_prefix()
    ours = {official_name(key): list(parameter.shape) for key, parameter in parameters.items()}
    assert ours == {key: shape for key, shape in published["entries"].items() if "num_batches" not in key}
    trainable = [parameter for parameter in parameters.values() if parameter.grad_req != "null"]
    assert sum(int(np.prod(parameter.shape)) for parameter in trainable) == published["parameters"]


def check_documented(figures: Summary) -> None:
    """The multiply-adds that the page on models gives at the size that the network is published for."""
    rows = {row[0].strip("`"): row[1:] for row in table("docs/models.md", "network")}
    count = figures.multiply_adds
    size = " × ".join(str(side) for side in figures.input_hw)
    assert rows[figures.name] == [size, f"{count / 1e9:.2f}", f"{count / GIBI:.2f}"]


def check_hybridized(name: str, shapes: list[tuple[int, ...]], **options) -> None:
    """A small network gives outputs of `shapes` for 2 pictures of 64 x 96, and the same ones hybridized."""
    net = get_model(name, 3, **options)
    assert set(net.collect_params()) <= set(work_of_parameters(net, (64, 96)))
    initialise(net)
    x = mx.nd.random.normal(shape=(2, 3, 64, 96))
    plain = [output.asnumpy() for output in net(x)]
    assert [output.shape for output in plain] == shapes
    assert all(output.std() > 0 for output in plain)
    net.hybridize(static_alloc=True, static_shape=True)
    for wanted, found in zip(plain, net(x)):
        np.testing.assert_allclose(found.asnumpy(), wanted, rtol=1e-4, atol=1e-6)


def check_exported(name: str, folder, **options) -> None:
    """The graph, traced at one size, gives what the network gives at another."""
    net = get_model(name, 3, **options)
    initialise(net)
    net.hybridize()
    net(mx.nd.zeros((2, 3, 32, 64)))
    net.export(str(folder / "net"))
    graph = mx.gluon.SymbolBlock.imports(str(folder / "net-symbol.json"), ["data"], str(folder / "net-0000.params"))
    x = mx.nd.random.normal(shape=(1, 3, 64, 96))
    found = graph(x)
    wanted = net(x)
    found = found if isinstance(found, (list, tuple)) else [found]
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted):
        np.testing.assert_allclose(one.asnumpy(), other.asnumpy(), rtol=1e-5, atol=1e-6)


def shapes_of(net, input_hw: tuple[int, int]) -> list[tuple[int, ...]]:
    """Output shapes for one picture, from the graph alone."""
    _, shapes, _ = mx.sym.Group(list(net(mx.sym.var("data")))).infer_shape(data=(1, 3, *input_hw))
    return shapes
