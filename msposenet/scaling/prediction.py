"""A cluster's throughput predicted over its options, and the advice that follows from the figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from msposenet.scaling.keys import BOUND, Exchange
from msposenet.scaling.throughput import Cluster, Compute, Costs, Layer, Step, predict

GIGABIT = 1e9 / 8  # bytes/s
_SAME = 0.01  # steps that differ by less are called equal
_HELPS = 0.03  # an option that shortens a step by less is not worth its trouble


@dataclass(frozen=True)
class Machines:
    """What is predicted for: a worker on each machine, `samples` on each GPU, `flops` sustained operations a second."""

    workers: int = 4
    devices: int = 8
    samples: int = 18
    # ResNet-50, FP32, trains 330 pictures/s on a Titan RTX (Lambda, 2080 Ti benchmarks, 2019): x 4.1e9 x 2 x 3.
    flops: float = 8e12
    cores: int = 16

    def compute(self, layers: Sequence[Layer]) -> Compute:
        """A forward pass is two operations a multiply-add, the backward pass twice that."""
        forward = 2 * sum(layer.multiply_adds for layer in layers) * self.samples / self.flops
        return Compute(forward, 2 * forward, devices=self.devices)

    @property
    def global_batch(self) -> int:
        return self.workers * self.devices * self.samples


@dataclass(frozen=True)
class Row:
    """A prediction: gigabits of the links, servers beside each worker, options, and the step."""

    gigabits: float
    servers: int  # a worker
    exchange: Exchange
    step: Step
    samples_per_second: float

    @property
    def efficiency(self) -> float:
        """Samples a second over those of as many machines that exchange nothing."""
        return self.step.compute / self.step.seconds


class Scaling:
    """Predictions for one network on one kind of machines, each made once."""

    def __init__(self, layers: Sequence[Layer], machines: Machines, costs: Costs, delay: float = 50e-6) -> None:
        self._layers, self._machines, self._costs, self._delay = layers, machines, costs, delay
        self._compute = machines.compute(layers)
        self._known: dict[tuple[float, int, Exchange], Row] = {}

    def row(self, gigabits: float, servers: int, exchange: Exchange) -> Row:
        key = (gigabits, servers, exchange)
        if key not in self._known:
            machines = self._machines
            cluster = Cluster(
                machines.workers,
                machines.workers * servers,
                gigabits * GIGABIT,
                self._delay,
                machines.cores,
            )
            step = predict(self._layers, self._compute, cluster, self._costs, exchange)
            self._known[key] = Row(gigabits, servers, exchange, step, machines.global_batch / step.seconds)
        return self._known[key]

    def table(self, rates: Sequence[float], servers: Sequence[int]) -> Iterator[Row]:
        """Every rate with every number of servers, with and without overlapping and compression."""
        for gigabits in rates:
            for overlap in (True, False):
                for compression in (False, True):
                    for count in servers:
                        yield self.row(gigabits, count, Exchange(compression=compression, overlap=overlap))


def fewest_servers(rows: Sequence[Row]) -> Row:
    """The fewest servers whose step is as short as the shortest, as near as makes no difference."""
    shortest = min(row.step.seconds for row in rows)
    return min((row for row in rows if row.step.seconds <= shortest * (1 + _SAME)), key=lambda row: row.servers)


def advice(scaling: Scaling, gigabits: float, servers: Sequence[int], bounds: Sequence[int]) -> list[str]:
    """Sentences on servers, bound, compression, buckets and overlapping at one rate, each with its figures."""
    plain = Exchange()
    best = fewest_servers([scaling.row(gigabits, count, plain) for count in servers])
    bare = fewest_servers([scaling.row(gigabits, count, replace(plain, overlap=False)) for count in servers])
    count = max(best.servers, bare.servers)
    base, open_base = scaling.row(gigabits, count, plain), scaling.row(gigabits, count, replace(plain, overlap=False))
    one = scaling.row(gigabits, servers[0], replace(plain, overlap=False))
    fewest = scaling.row(gigabits, servers[0], plain)
    sentences = [
        f"{count} server{'s' if count > 1 else ''} a worker: {_ms(base)} a step overlapped, {_ms(open_base)} without; "
        f"with {servers[0]}: {_ms(fewest)}, {_ms(one)}"
    ]
    sentences.append(_bound(scaling, gigabits, count, bounds, plain))
    for name, change in (("compression", {"compression": True}), ("keys of one array each", {"bucket": 0})):
        other = scaling.row(gigabits, count, replace(plain, **change))
        other_open = scaling.row(gigabits, count, replace(plain, overlap=False, **change))
        sentences.append(_option(name, base, other) + f"; without overlapping {_ms(other_open)} for {_ms(open_base)}")
    hidden = open_base.step.seconds - base.step.seconds
    share = hidden / open_base.step.exposed if open_base.step.exposed else 0.0
    sentences.append(
        f"overlapping hides {hidden * 1e3:.0f} of {open_base.step.exposed * 1e3:.0f} ms of the exchange ({share:.0%}): "
        f"efficiency {base.efficiency:.1%} for {open_base.efficiency:.1%}"
    )
    return sentences


def _bound(scaling: Scaling, gigabits: float, count: int, bounds: Sequence[int], plain: Exchange) -> str:
    rows = [scaling.row(gigabits, count, replace(plain, bound=bound, overlap=False)) for bound in bounds]
    best = min(rows, key=lambda row: row.step.seconds)
    default = scaling.row(gigabits, count, replace(plain, bound=BOUND, overlap=False))
    figures = ", ".join(f"{row.exchange.bound:,}: {_ms(row)}" for row in rows)
    gain = 1 - best.step.seconds / default.step.seconds
    verdict = (
        f"set MXNET_KVSTORE_BIGARRAY_BOUND={best.exchange.bound} (a step without overlapping is {gain:.0%} shorter)"
        if gain > _HELPS
        else f"leave MXNET_KVSTORE_BIGARRAY_BOUND at {BOUND:,}"
    )
    return f"{verdict}; without overlapping {figures}"


def _option(name: str, base: Row, other: Row) -> str:
    gain = 1 - other.step.seconds / base.step.seconds
    verdict = "worth it" if gain > _HELPS else "harmful" if gain < -_HELPS else "of no use"
    return f"{name}: {verdict}, {_ms(other)} for {_ms(base)}"


def _ms(row: Row) -> str:
    return f"{row.step.seconds * 1e3:,.0f} ms"
