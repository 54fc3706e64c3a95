"""Running statistics of several devices and ranks: their average, and training that does not notice it."""

from __future__ import annotations

import numpy as np
import pytest

from msposenet.distributed.arrays import pack_arrays, unpack_arrays
from msposenet.errors import CheckpointError, PeerError
from msposenet.models.layers import conv_bn, convolution, sequential
from msposenet.runtime import mx
from msposenet.training.statistics import Statistics
from msposenet.weights import get_arrays

DEVICES = [mx.cpu(0), mx.cpu(1)]
NAMES = ["0.1.running_mean", "0.1.running_var", "1.1.running_mean", "1.1.running_var"]


def small_net(width=6):
    net = sequential(conv_bn(3, 4, 3), conv_bn(4, width, 3), convolution(width, 2, 1))
    mx.random.seed(1)
    net.initialize(mx.init.Xavier(), ctx=DEVICES)
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def train(net, steps, between=lambda: None, seed=2):
    """Some steps on two devices; `between` is called after each."""
    # Statistics do not belong in a Trainer: its store would copy the first device's over the others'.
    learnt = [p for p in net.collect_params().values() if p.grad_req != "null"]
    trainer = mx.gluon.Trainer(learnt, "adam", kvstore="device", update_on_kvstore=False)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        x = [mx.nd.array(rng.normal(1, 2, (4, 3, 8, 8)), ctx=device) for device in DEVICES]
        with mx.autograd.record():
            losses = [(net(part) ** 2).mean() for part in x]
        mx.autograd.backward(losses)
        trainer.step(len(DEVICES))
        between()
    return net


@pytest.fixture
def trained():
    return train(small_net(), 3)


def test_every_devices_own_values_come_and_go_exactly(trained):
    statistics = Statistics(trained, DEVICES)
    own = statistics.local()
    assert sorted(own) == sorted(f"{device}:{name}" for device in (0, 1) for name in NAMES)
    assert not np.array_equal(own["0:0.1.running_mean"], own["1:0.1.running_mean"])  # they drifted apart
    for number, device in enumerate(DEVICES):
        values = trained._collect_params_with_prefix()["1.1.running_var"].data(device).asnumpy()
        assert np.array_equal(own[f"{number}:1.1.running_var"], values)
    train(trained, 2, seed=9)
    statistics.restore(own)
    again = statistics.local()
    assert all(np.array_equal(own[name], again[name]) for name in own)


def test_the_average_is_the_mean_over_all_devices_of_all_ranks(trained):
    statistics = Statistics(trained, DEVICES)
    ranks = [statistics.local()]
    for seed in (3, 4):
        train(trained, 1, seed=seed)
        ranks.append(unpack_arrays(pack_arrays(statistics.local())))
    average = statistics.average(ranks)
    assert sorted(average) == sorted(NAMES)
    for name in NAMES:
        wanted = np.mean([part[f"{i}:{name}"].astype(np.float64) for part in ranks for i in (0, 1)], axis=0)
        assert average[name].dtype == np.float32
        assert np.array_equal(average[name], wanted.astype(np.float32))
        assert not np.array_equal(average[name], ranks[0][f"0:{name}"])
    shuffled = [dict(reversed(part.items())) for part in ranks]
    again = statistics.average(shuffled)
    assert all(np.array_equal(average[name], again[name]) for name in average)


def test_the_average_of_one_device_is_that_device(trained):
    statistics = Statistics(trained, DEVICES[:1])
    own = statistics.local()
    average = statistics.average([own])
    assert all(np.array_equal(average[name], own[f"0:{name}"]) for name in NAMES)


def test_within_averaged_all_devices_hold_the_average_and_afterwards_their_own(trained):
    statistics = Statistics(trained, DEVICES)
    own = statistics.local()
    average = statistics.average([own])
    with statistics.averaged(average):
        within = statistics.local()
        arrays = get_arrays(trained)
    for name in NAMES:
        assert np.array_equal(within[f"0:{name}"], average[name])
        assert np.array_equal(within[f"1:{name}"], average[name])
        assert np.array_equal(arrays[name], average[name])
    after = statistics.local()
    assert all(np.array_equal(own[name], after[name]) for name in own)


def test_an_error_within_averaged_leaves_no_trace(trained):
    statistics = Statistics(trained, DEVICES)
    own = statistics.local()
    with pytest.raises(RuntimeError, match="full"), statistics.averaged(statistics.average([own])):
        raise RuntimeError("disk full")
    after = statistics.local()
    assert all(np.array_equal(own[name], after[name]) for name in own)


def test_averaging_after_every_step_changes_no_bit_of_training():
    undisturbed = train(small_net(), 6)
    disturbed = small_net()
    statistics = Statistics(disturbed, DEVICES)
    x = mx.nd.ones((2, 3, 8, 8), ctx=DEVICES[0])

    def validate():
        with statistics.averaged(statistics.average([statistics.local()])):
            disturbed(x).asnumpy()

    train(disturbed, 6, validate)
    wanted, found = Statistics(undisturbed, DEVICES).local(), statistics.local()
    assert all(np.array_equal(wanted[name], found[name]) for name in wanted)
    wanted, found = get_arrays(undisturbed), get_arrays(disturbed)
    assert all(np.array_equal(wanted[name], found[name]) for name in wanted)


def test_values_of_another_layout_are_refused(trained):
    statistics = Statistics(trained, DEVICES)
    own = statistics.local()
    first = {name: array for name, array in own.items() if name.startswith("0:")}
    with pytest.raises(CheckpointError, match=r"4 names or shapes differ, 1:0\.1\.running_mean first"):
        statistics.restore(first)
    wider = Statistics(small_net(width=7), DEVICES)
    with pytest.raises(CheckpointError, match=r"0:1\.1\.running_mean first"):
        wider.restore(own)
    with pytest.raises(PeerError, match=r"rank 1: 1\.1\.running_mean has shape \(6,\), here it has \(7,\)"):
        wider.average([wider.local(), own])
    for damaged in ({**own, "2:extra": own["0:0.1.running_mean"]}, {"x:y": own["0:0.1.running_mean"]}):
        with pytest.raises(PeerError, match="rank 1 has batch-norm statistics of another network"):
            statistics.average([own, damaged])
