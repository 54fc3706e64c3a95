"""Batch normalisation in training: frozen, and over several devices as if they were one."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from msposenet.codecs import GaussianCodec
from msposenet.config import LossConfig
from msposenet.errors import ConfigError
from msposenet.geometry import Convention
from msposenet.models.graphs import MapGraph
from msposenet.models.initialise import initialise
from msposenet.models.normalisation import batch_norms, set_batch_norm
from msposenet.models.zoo import get_model
from msposenet.runtime import mx
from msposenet.skeletons import COCO_17
from msposenet.training.graph import TrainingGraph
from msposenet.training.synchronised import SynchronisedGraph
from msposenet.weights import get_arrays

CODEC = GaussianCodec((64, 64), (16, 16), Convention.STANDARD, 1.0, "rounded", "quarter", 11)
BATCH = 12


def devices(count):
    return [mx.cpu(number) for number in range(count)]


def training(mode, count, steps, rate=1e-3):
    """The network after `steps` updates with plain gradient descent on one batch shared by `count` devices."""
    contexts = devices(count)
    net = get_model("hrnet_w16_small")
    initialise(net, seed=3, ctx=contexts)
    set_batch_norm(net, mode, contexts)
    graph = TrainingGraph(net, CODEC, LossConfig(), COCO_17, 1)
    graph.hybridize(static_alloc=True, static_shape=True)
    synchronised = SynchronisedGraph(graph, contexts) if mode == "sync" else None
    parameters = [p for p in net.collect_params().values() if p.grad_req != "null"]
    trainer = mx.gluon.Trainer(
        parameters, "sgd", {"learning_rate": rate, "rescale_grad": 1.0}, kvstore="device", update_on_kvstore=False
    )
    rng = np.random.default_rng(5)
    batch = (
        rng.integers(0, 256, (BATCH, 64, 64, 3), dtype=np.uint8),
        rng.uniform(0, 63, (BATCH, 17, 2)).astype(np.float32),
        np.ones((BATCH, 17), np.float32),
    )
    parts = list(zip(*(np.array_split(array, count) for array in batch)))
    losses = []
    for _ in range(steps):
        if synchronised:
            terms = synchronised(parts)
        else:
            with mx.autograd.record():
                inputs = [[mx.nd.array(a, ctx=c, dtype=a.dtype) for a in part] for c, part in zip(contexts, parts)]
                terms = [graph(*arrays) for arrays in inputs]
                sums = [term.sum() for term in terms]
            mx.autograd.backward(sums)
        losses.append(np.mean([term.asnumpy() for term in terms]))
        trainer.step(count)
    return net, losses


def own(net, device):
    """All values as they are on one device."""
    mx.nd.waitall()
    return {name: p.data(device).asnumpy() for name, p in net._collect_params_with_prefix().items()}


def furthest(found, wanted, names):
    """Largest difference of any array, relative to its largest value, and its name."""
    return max((float(np.abs(found[n] - wanted[n]).max() / max(np.abs(wanted[n]).max(), 1e-3)), n) for n in names)


@pytest.fixture(scope="module")
def whole_batch():
    return training("local", 1, steps=4)


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.thorough)])
def test_several_synchronised_devices_train_as_one_with_the_whole_batch(whole_batch, count):
    wanted, wanted_losses = whole_batch
    net, losses = training("sync", count, steps=4)
    assert losses == pytest.approx(wanted_losses, rel=1e-5)
    wanted = get_arrays(wanted)
    found = [own(net, device) for device in devices(count)]
    start = get_arrays(training("local", 1, steps=0)[0])
    # The order of the samples alone changes one device's weights by 7e-7 and its statistics by 9e-6.
    for running, tolerance in ((False, 2e-6), (True, 2e-5)):
        names = [name for name in wanted if ("running" in name) is running]
        assert furthest(found[0], wanted, names)[0] < tolerance, furthest(found[0], wanted, names)
        assert furthest(start, wanted, names)[0] > 1e-2
    for other in found[1:]:  # a rank's devices cannot drift apart
        assert all(np.array_equal(found[0][name], other[name]) for name in wanted)


def test_separate_statistics_are_far_from_the_whole_batchs(whole_batch):
    found, wanted = get_arrays(training("local", 2, steps=4)[0]), get_arrays(whole_batch[0])
    assert furthest(found, wanted, list(wanted))[0] > 1e-3


@pytest.mark.thorough
def test_synchronised_training_repeats_bit_for_bit():
    first, second = (get_arrays(training("sync", 2, steps=2)[0]) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_frozen_statistics_stand_still_while_scale_and_offset_train():
    start = get_arrays(training("local", 1, steps=0)[0])
    # Statistics at 0 and 1 let activations grow with depth: steps must be small.
    net, losses = training("frozen", 2, steps=2, rate=1e-7)
    for device in devices(2):
        after = own(net, device)
        assert all(np.array_equal(after[name], start[name]) for name in start if "running" in name)
    moved = {name.rpartition(".")[2] for name in start if not np.array_equal(after[name], start[name])}
    assert {"gamma", "beta", "weight"} <= moved
    assert np.isfinite(losses).all()


def test_frozen_training_normalises_as_inference_does():
    net = get_model("hrnet_w16_small")
    initialise(net, seed=3, ctx=mx.cpu())
    x = mx.nd.random.uniform(shape=(2, 3, 64, 64))
    wanted = net(x)[-1].asnumpy()
    set_batch_norm(net, "frozen", devices(1))
    with mx.autograd.record():
        frozen = net(x)[-1].asnumpy()
    set_batch_norm(net, "local", devices(1))
    with mx.autograd.record():
        local = net(x)[-1].asnumpy()
    np.testing.assert_allclose(frozen, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
    assert np.abs(local - wanted).max() > 0.1 * np.abs(wanted).max()


@pytest.mark.parametrize("mode", ["local", "sync", "frozen"])
def test_names_and_the_graph_in_use_are_the_same_in_every_mode(mode):
    plain, net = get_model("hrnet_w16_small"), get_model("hrnet_w16_small")
    set_batch_norm(net, mode, devices(2))
    assert list(net._collect_params_with_prefix()) == list(plain._collect_params_with_prefix())

    def operators(network):
        symbol = MapGraph(network, CODEC, COCO_17.flip_index, flip=True)(mx.sym.var("data"))
        attributes = symbol.attr_dict()
        ops = [name for name in symbol.get_internals().list_outputs() if "batchnorm" in name and "fwd" in name]
        return len(ops), [value.get("use_global_stats") for value in attributes.values()].count("True")

    assert operators(net) == operators(plain)
    assert operators(net)[0] > 50
    assert len(list(batch_norms(net))) == len(list(batch_norms(plain))) > 100


def test_synchronised_devices_never_wait_inside_an_operator():
    """MXNet's own SyncBatchNorm hangs here: its engine runs one operator at a time."""
    code = "import test_normalisation as t; print(t.training('sync', 2, steps=1)[1])"
    environment = {**os.environ, "MXNET_ENGINE_TYPE": "NaiveEngine", "OMP_NUM_THREADS": "1"}
    folder = os.path.dirname(__file__)
    path = os.pathsep.join([folder, os.path.dirname(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and done.stdout.startswith("["), done.stderr[-2000:]


@pytest.mark.parametrize(
    ("mode", "count", "amp", "said"),
    [
        ("sync", 1, False, ("sync", "cpu(0)", "train.devices", "local")),
        ("sync", 2, True, ("float32", "train.amp: false")),
        ("global", 2, False, ("'global'", "local, sync, frozen")),
    ],
)
def test_what_cannot_work_is_refused(mode, count, amp, said):
    with pytest.raises(ConfigError) as caught:
        set_batch_norm(get_model("hrnet_w16_small"), mode, devices(count), amp)
    message = str(caught.value)
    assert message.startswith("train.batch_norm: ")
    assert all(part in message for part in said), message
