"""The throughput model against what can be worked out by hand, and against MXNet's and the trainer's own plans."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from msposenet.distributed.group import Alone
from msposenet.models.summary import summarise
from msposenet.models.zoo import get_model
from msposenet.scaling import benchmark
from msposenet.scaling.keys import BOUND, BUCKET, Exchange, imbalance, place, plan_keys
from msposenet.scaling.layers import layers_of
from msposenet.scaling.prediction import GIGABIT, Machines, Scaling, advice, fewest_servers
from msposenet.scaling.throughput import Cluster, Compute, Costs, Layer, predict, ready_times

FREE = Costs(0.0, 0.0, 0.0, 0.0, 0.0)
NOTHING = Compute(0.0, 0.0)
WIRE = 1e9  # bytes/s
ALONE = Exchange(bucket=0, bound=10**9, overlap=False)  # a key an array, none of them split


def link(workers, servers, **options):
    return Cluster(workers, servers, WIRE, efficiency=1.0, **options)


# Keys and servers


@pytest.mark.parametrize(
    ("key", "size", "servers", "bound", "parts"),
    [
        (0, 10, 4, 100, ((0, 10),)),
        (3, 10, 4, 100, ((3, 10),)),  # 9973 mod 4 = 1
        (1, 10, 8, 100, ((5, 10),)),  # 9973 mod 8 = 5
        (3, 99, 8, 100, ((7, 99),)),
        (3, 100, 2, 100, ((0, 50), (1, 50))),
        (3, 101, 2, 100, ((0, 51), (1, 50))),  # round(50.5) = 51 in C
        (9, 1_327_104, 3, BOUND, ((0, 442_368), (1, 442_368), (2, 442_368))),
        (7, 5, 1, 100, ((0, 5),)),
    ],
)
def test_a_key_lives_where_mxnet_puts_it(key, size, servers, bound, parts):
    assert place(key, size, servers, bound) == parts


@pytest.mark.parametrize("name", ["hrnet_w16_small", "mshrnet_w16x2_small", "hrnet_w32"])
def test_keys_are_those_of_the_gradient_exchange(name):
    from msposenet.distributed.store import GradientExchange

    net = get_model(name)
    net.initialize()
    layers = layers_of(net, (64, 64))
    parameters = [p for p in net._collect_params_with_prefix().values() if p.grad_req != "null"]
    for parameter, layer in zip(parameters, layers):
        parameter.shape = tuple(size or 1 for size in parameter.shape)
        assert int(np.prod(parameter.shape)) == layer.size, parameter.name
    exchange = GradientExchange("device", parameters, Alone())
    assert [key.size for key in plan_keys([layer.size for layer in layers], 4, Exchange())] == exchange.sizes


@pytest.mark.parametrize(("name", "size"), [("mshrnet_w48x2", (384, 288)), ("hrnet_w16_small", (64, 64))])
def test_layers_hold_all_parameters_and_all_work(name, size):
    net = get_model(name)
    layers, summary = layers_of(net, size), summarise(net, name, size)
    assert sum(layer.size for layer in layers) == summary.params
    assert sum(layer.multiply_adds for layer in layers) == summary.multiply_adds


def test_every_element_has_one_place_and_loads_are_counted():
    sizes = [300, 5, 5, 2_000_000, 7, 900_000]
    keys = plan_keys(sizes, 3, Exchange(bucket=1000))
    assert [key.arrays for key in keys] == [3, 1, 1, 1]
    assert [key.first for key in keys] == [0, 3, 4, 5]
    assert sum(size for key in keys for _, size in key.parts) == sum(sizes)
    # Keys 0 and 3 on server 0 and a third of key 1: 9973 mod 3 = 1.
    assert imbalance(keys, 3) == pytest.approx((310 + 900_000 + 666_667) / (sum(sizes) / 3), rel=1e-5)


def test_gradients_become_ready_from_the_last_layer_to_the_first():
    layers = [Layer(10, 1.0), Layer(10, 2.0), Layer(10, 5.0), Layer(10, 0.0)]
    keys = plan_keys([10] * 4, 1, Exchange(bucket=20))
    assert ready_times(layers, keys, Compute(1.0, 8.0)) == [9.0, 6.0]


# What can be worked out by hand


def test_one_key_crosses_twice_and_waits_for_four_messages():
    step = predict([Layer(250_000)], NOTHING, link(1, 1, apart=True, delay=0.01), FREE, ALONE)
    assert step.seconds == pytest.approx(2 * 1e6 / WIRE + 4 * 0.01)
    assert (step.pushed, step.pulled) == (10**6, 10**6)


@pytest.mark.parametrize(
    ("cluster", "seconds"),
    [
        (link(4, 4), 1.5),  # beside the workers: three quarters of pushes and of pulls leave a host
        (link(2, 2), 1.0),
        (link(4, 8), 1.5),
        (link(4, 4, apart=True), 1.0),  # pushes and pulls cross each other
        (link(4, 2, apart=True), 2.0),
        (link(4, 1, apart=True), 4.0),
        (link(1, 1), 0.0),  # on one host
        (Cluster(4, 4, None), 0.0),
    ],
)
def test_many_keys_fill_the_busiest_link(cluster, seconds):
    step = predict([Layer(1_250_000)] * 200, NOTHING, cluster, FREE, ALONE)  # 1 GB
    assert step.seconds == pytest.approx(seconds, rel=0.06, abs=1e-9)


def test_a_server_adds_and_answers_one_after_the_other():
    costs = Costs(0.0, 0.0, 1e-9)
    cluster = Cluster(4, 1, None, cores=8)
    step = predict([Layer(250)] * 100, NOTHING, cluster, costs, ALONE)
    assert step.seconds == pytest.approx(100 * 1000 * 4 * 2 * 1e-9, rel=0.02)
    assert predict([Layer(250)] * 100, NOTHING, replace(cluster, servers=4), costs, ALONE).seconds < step.seconds / 3.5


def test_processes_share_their_machines_cores():
    costs = Costs(1e-6, 0.0, 0.0)
    layers = [Layer(1)] * 200
    one = predict(layers, NOTHING, Cluster(2, 2, None, cores=1), costs, ALONE).seconds
    # Eight ends of messages for each worker and key.
    assert one == pytest.approx(2 * 200 * 8e-6)
    assert predict(layers, NOTHING, Cluster(2, 2, None, cores=4), costs, ALONE).seconds == pytest.approx(
        one / 4, rel=0.1
    )
    apart = Cluster(2, 2, 1e15, cores=1, hosts=2)
    assert predict(layers, NOTHING, apart, costs, ALONE).seconds < 0.6 * one
    assert predict(layers, NOTHING, replace(apart, one_machine=True), costs, ALONE).seconds == pytest.approx(
        one, rel=0.01
    )


def test_small_keys_cost_messages_and_buckets_save_them():
    layers = [Layer(1000)] * 2000
    costs = Costs(10e-6, 0.0, 0.0, array=1e-6)
    apart, together = (predict(layers, NOTHING, link(1, 1), costs, Exchange(bucket=bucket)) for bucket in (0, BUCKET))
    assert (apart.keys, together.keys) == (2000, 4)
    assert apart.exchange == pytest.approx(2000 * 4 * 10e-6, rel=0.01)  # the busier end's four messages
    assert together.exchange < 0.05 * apart.exchange


def test_without_overlap_a_step_is_computing_and_then_exchanging():
    compute = Compute(0.2, 0.4, update=0.1)
    step = predict([Layer(250_000, 1.0)] * 40, compute, link(4, 4), FREE, ALONE)
    assert step.compute == pytest.approx(0.7)
    assert step.seconds == pytest.approx(0.7 + step.exchange)
    assert step.share == pytest.approx(step.exchange / step.seconds)


def test_overlap_hides_what_fits_under_the_backward_pass():
    compute = Compute(0.2, 0.4)
    layers = [Layer(250_000, 1.0)] * 40
    fast = predict(layers, compute, link(4, 4), FREE, replace(ALONE, overlap=True))
    assert fast.exposed == pytest.approx(2 * 4 * 0.75 * 1e6 / WIRE, rel=0.7)  # the last key's own time is left
    slow = predict(layers, compute, Cluster(4, 4, WIRE / 20, efficiency=1.0), FREE, replace(ALONE, overlap=True))
    assert slow.seconds == pytest.approx(0.2 + 0.01 + slow.exchange, rel=0.05)


def test_on_a_cpu_the_exchange_takes_the_cores_that_compute():
    costs = Costs(0.0, 1e-9, 1e-9)
    layers = [Layer(250_000, 1.0)] * 50
    compute = Compute(0.1, 0.2, threads=1)
    busy = predict(layers, compute, Cluster(1, 1, None, cores=1), costs, replace(ALONE, overlap=True))
    assert busy.seconds == pytest.approx(0.3 + 50 * 4e-3)
    spare = predict(layers, compute, Cluster(1, 1, None, cores=4), costs, replace(ALONE, overlap=True))
    assert spare.seconds < 0.32
    both = predict(
        layers, replace(compute, threads=2), Cluster(1, 1, None, cores=2), costs, replace(ALONE, overlap=True)
    )
    assert both.seconds > 0.38
    crowded = predict(layers, compute, Cluster(4, 4, None, cores=2), costs, replace(ALONE, overlap=True))
    assert crowded.compute == pytest.approx(0.6)


@pytest.mark.parametrize(("devices", "copies"), [(0, 0), (1, 1), (8, 2)])
def test_devices_add_up_and_copy_before_and_after(devices, copies):
    compute = Compute(0.0, 0.0, devices=devices, device_rate=1e9)
    step = predict([Layer(250_000)], compute, Cluster(1, 1, None), FREE, ALONE)
    assert step.seconds == pytest.approx(2 * copies * 1e-3)


def test_compression_sends_a_sixteenth_and_costs_work():
    layers = [Layer(256_000)] * 64
    packed = replace(ALONE, compression=True)
    plain, small = (predict(layers, NOTHING, link(4, 4), FREE, exchange) for exchange in (ALONE, packed))
    assert small.pushed * 16 == plain.pushed == plain.pulled == small.pulled
    assert small.seconds < 0.65 * plain.seconds
    dear = replace(FREE, compress_byte=10e-9)
    assert predict(layers, NOTHING, link(4, 4), dear, packed).seconds > plain.seconds


# Fitting and advising


def test_the_fit_finds_the_costs_that_made_the_measurements():
    true = Costs(30e-6, 0.8e-9, 0.3e-9, 0.0, 1.5e-9)
    probes = []
    for workers, servers, packed in [(1, 1, False), (2, 2, False), (1, 1, True)]:
        for keys, elements in benchmark.SMALL + benchmark.LARGE:
            size = 4 * keys * elements
            messages = 4 * keys * true.message
            packing = size * true.compress_byte * packed
            worked = messages + (size + (size / 16 if packed else size)) * true.worker_byte + packing
            served = workers * (messages + 2 * size * true.server_byte + packing)
            probes.append(benchmark.Probe(workers, servers, keys, elements, packed, 1, 1, 1, 0, worked, served))
    found = benchmark.fit_costs(probes, 2)
    for name in ("message", "worker_byte", "server_byte", "compress_byte"):
        assert getattr(found, name) == pytest.approx(getattr(true, name), rel=0.02), name


def test_servers_lines_are_told_apart():
    first = [(t / 10, 2.0 + 0.5 * t / 10) for t in range(50)]
    second = [(t / 10 + 0.03, 1.0 + 0.1 * t / 10) for t in range(50)]
    mixed = sorted(first + second)
    assert benchmark._served(mixed, 1.0, 3.0) == pytest.approx(2 * 0.6, rel=0.01)


def test_what_other_programs_use_is_told():
    one = benchmark.Probe(2, 1, 1, 1, False, 1.0, 1.0, 1.0, 0.0, worked=0.1, served=0.3, busy=2.0)
    assert one.foreign == pytest.approx(1 - 0.5 / 2)
    assert replace(one, busy=0.4).foreign == 0.0


NETWORK = [Layer(400_000, 1e9)] * 40  # 64 MB


def scaling(costs, **machines):
    return Scaling(NETWORK, Machines(**{"samples": 1, "devices": 1, "flops": 1e13, **machines}), costs)


def said(sentences, word):
    (found,) = [sentence for sentence in sentences if word in sentence.split(";")[0]]
    return found


@pytest.mark.parametrize(("costs", "verdict"), [(FREE, "worth it"), (replace(FREE, compress_byte=20e-9), "harmful")])
def test_compression_is_advised_where_it_helps(costs, verdict):
    found = said(advice(scaling(costs), 1.0, (1, 2), (BOUND,)), "compression")
    assert found.startswith(f"compression: {verdict}")


def test_compression_is_of_no_use_on_a_fast_link():
    assert said(advice(scaling(FREE), 1000.0, (1,), (BOUND,)), "compression").startswith("compression: of no use")


@pytest.mark.parametrize(("server_byte", "servers"), [(0.0, 1), (4e-9, 4)])
def test_servers_are_advised_until_they_stop_helping(server_byte, servers):
    costs = Costs(0.0, 0.0, server_byte)
    assert fewest_servers([scaling(costs).row(100.0, count, Exchange()) for count in (1, 2, 4)]).servers == servers
    assert advice(scaling(costs), 100.0, (1, 2, 4), (BOUND,))[0].startswith(f"{servers} server")


def test_a_lower_bound_is_advised_where_one_array_is_most_of_the_network():
    costs = Costs(1e-6, 0.0, 1e-9)
    one = Scaling([Layer(900_000, 1e9)], Machines(samples=1, devices=0, flops=1e15), costs)
    assert "BOUND=100000" in advice(one, 100.0, (1,), (100_000, BOUND))[1]
    assert "leave MXNET" in advice(scaling(costs), 100.0, (1,), (100_000, BOUND))[1]


def test_the_machines_default_is_the_reports_cluster():
    compute = Machines().compute([Layer(1, 61.47 * 2**30)])
    assert compute.forward == pytest.approx(2 * 61.47 * 2**30 * 18 / 8e12)
    assert compute.backward == pytest.approx(2 * compute.forward)
    assert Machines().global_batch == 576
    assert GIGABIT == 125e6
