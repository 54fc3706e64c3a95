"""Measuring the exchange of gradients with real jobs, fitting the model's costs, and comparing it with what it was not
fitted to."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import nnls

from msposenet.errors import PeerError
from msposenet.scaling.benchmark_worker import MARK, SERVED
from msposenet.scaling.keys import Exchange
from msposenet.scaling.throughput import Cluster, Compute, Costs, Layer, Step, predict

# (command, workers, servers, environment) -> the lines that the job's processes wrote.
Launch = Callable[[Sequence[str], int, int, Mapping[str, str]], "list[str]"]

SMALL = ((500, 1_000), (200, 16_000), (64, 128_000))  # keys, elements of each: what a message costs
LARGE = ((16, 500_000), (8, 2_000_000))  # what a byte costs
_START = Costs(20e-6, 0.5e-9, 0.5e-9)


@dataclass(frozen=True)
class Probe:
    """Keys of one size pushed and pulled by every worker at once.

    seconds: the median of the rounds. worked, served: processor seconds of a worker, and of all servers, in a round;
    other programs on the machine do not count in them.
    """

    workers: int
    servers: int
    keys: int
    elements: int
    compression: bool
    seconds: float
    lowest: float
    highest: float
    sent: float  # bytes, by the kernel's counters of all interfaces
    worked: float = 0.0
    served: float = 0.0
    busy: float = 0.0  # processor seconds that all programs of the machine used

    @property
    def foreign(self) -> float:
        """Share of the used processor time that went to programs other than the job, at most."""
        return max(0.0, 1 - (self.workers * self.worked + self.served) / self.busy) if self.busy else 0.0

    @property
    def expected(self) -> int:
        """Bytes of the gradients, pushed and pulled by all workers."""
        exchange = Exchange(0, compression=self.compression)
        return self.workers * self.keys * (exchange.pushed(self.elements) + 4 * self.elements)


@dataclass(frozen=True)
class Trained:
    """Steps of a network in a job; seconds of a step are medians over the rounds, which took turns."""

    workers: int
    servers: int
    part: str  # how the batch was chosen
    samples: int  # a worker
    whole: float  # with the exchange
    alone: float  # without it
    exchange: float  # the exchange by itself
    spread: tuple[float, float]  # lowest and highest of `whole`
    pushed: int  # bytes of a worker, from the keys
    pulled: int
    sent: float  # bytes of all workers and servers in an exchange, by the kernel's counters
    hosts: int
    sizes: tuple[int, ...]  # elements of the arrays
    machine: str
    compression: bool = False

    @property
    def exposed(self) -> float:
        """Seconds by which the exchange lengthens a step."""
        return max(self.whole - self.alone, 0.0)

    @property
    def samples_per_second(self) -> float:
        return self.workers * self.samples / self.whole


@dataclass(frozen=True)
class Comparison:
    """A measurement beside the model's figure; fitted: it is among those that the costs come from."""

    what: str
    measured: float  # seconds
    predicted: float
    fitted: bool

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def probe(
    launch: Launch,
    workers: int,
    servers: int,
    sets: Sequence[tuple[int, int]] = SMALL + LARGE,
    rounds: int = 7,
    compression: bool = False,
) -> list[Probe]:
    """Run a job that pushes and pulls `sets` of (keys, elements). Raises PeerError when it does not end well."""
    spec = {"kind": "probe", "sets": sets, "rounds": rounds, "compression": compression}
    # The servers' own threads gain nothing from more cores, and spinning ones take them from the others.
    found, lines = _measured(launch, spec, workers, servers, {"OMP_NUM_THREADS": "1"})
    served = [tuple(map(float, line[len(SERVED) :].split())) for line in lines if line.startswith(SERVED)]
    return [
        Probe(
            workers,
            servers,
            row["keys"],
            row["elements"],
            compression,
            statistics.median(row["seconds"]),
            min(row["seconds"]),
            max(row["seconds"]),
            min(row["sent"]),  # whatever else uses these interfaces only adds
            row["worked"],
            _served(served, *row["between"]) / rounds,
            row["busy"],
        )
        for row in found
    ]


def train(
    launch: Launch,
    config: Mapping[str, Any],
    workers: int,
    servers: int,
    parts: Mapping[str, int],
    rounds: int = 5,
    steps: int = 3,
    compression: float | None = None,
) -> list[Trained]:
    """Run a job that trains on crops in memory. parts: samples of a worker, by what they stand for."""
    spec = {
        "kind": "train",
        "config": config,
        "parts": parts,
        "rounds": rounds,
        "steps": steps,
        "compression": compression,
    }
    found, _ = _measured(launch, spec, workers, servers, {})
    results = []
    for part in parts:
        seconds = {name: statistics.median(values) for name, values in found[part]["seconds"].items()}
        whole = found[part]["seconds"]["whole"]
        results.append(
            Trained(
                workers,
                servers,
                part,
                found[part]["samples"],
                **seconds,
                spread=(min(whole), max(whole)),
                pushed=found["pushed"],
                pulled=found["pulled"],
                sent=min(found[part]["sent"]),
                hosts=found["hosts"],
                sizes=tuple(found["sizes"]),
                machine=found["machine"],
                compression=compression is not None,
            )
        )
    return results


def _measured(
    launch: Launch, spec: Mapping[str, Any], workers: int, servers: int, environment: Mapping[str, str]
) -> tuple[Any, list[str]]:
    command = [sys.executable, "-m", "msposenet.scaling.benchmark_worker", json.dumps(spec)]
    lines = launch(command, workers, servers, environment)
    for line in lines:
        if line.startswith(MARK):
            return json.loads(line[len(MARK) :]), lines
    errors = list(dict.fromkeys(line for line in lines if line.startswith("error: "))) or lines[-1:] or ["no output"]
    raise PeerError(f"the job of {workers} workers and {servers} servers brought no figures: {'; '.join(errors)}")


def _served(samples: Sequence[tuple[float, ...]], begin: float, end: float) -> float:
    """Processor seconds of all servers between two times, from (time, processor seconds) that each told in turn."""
    total, tracks = 0.0, []
    for time, worked in samples:
        # The servers' lines come mixed: a line belongs to the track that it continues most closely.
        fitting = [track for track in tracks if track[-1][0] < time and track[-1][1] <= worked]
        track = min(fitting, key=lambda one: worked - one[-1][1], default=None)
        if track is None:
            tracks.append([(time, worked)])
        else:
            track.append((time, worked))
    for track in tracks:
        times, values = zip(*track)
        total += float(np.interp(end, times, values) - np.interp(begin, times, values))
    return total


def fit_costs(probes: Sequence[Probe], cores: int, trained: Trained | None = None) -> Costs:
    """Costs from the probes' processor times; trained: a step from whose exchange that of an array is taken.

    A worker handles four messages a key and moves its bytes twice, the servers as much for every worker.
    """
    plain = [one for one in probes if not one.compression]
    packed = [one for one in probes if one.compression]
    rows, weights = [], []
    for one in plain:
        size = 8.0 * one.keys * one.elements  # bytes of the push and the pull
        rows.append(np.array([4.0 * one.keys, size, 0.0]) / one.worked)
        rows.append(np.array([4.0 * one.keys, 0.0, size]) * one.workers / one.served)
        weights += [1.0, 1.0]
    found, _ = nnls(np.stack(rows), np.array(weights))
    costs = replace(_START, **dict(zip(("message", "worker_byte", "server_byte"), map(float, found))))
    if packed:
        costs = replace(costs, compress_byte=_packing(costs, packed))
    if trained is not None:
        without = predict_exchange(trained, costs, cores)
        arrays = len(trained.sizes) * trained.workers / min(trained.workers, cores)
        costs = replace(costs, array=max(trained.exchange - without, 0.0) / arrays)
    return costs


def _packing(costs: Costs, probes: Sequence[Probe]) -> float:
    """Seconds a byte, of packing and of unpacking alike, beyond what the exchange of so many bytes costs."""
    spare = whole = 0.0
    for one in probes:
        size, moved = 4.0 * one.keys * one.elements, one.expected / one.workers
        spare += one.worked - 4 * one.keys * costs.message - moved * costs.worker_byte
        spare += one.served - one.workers * (4 * one.keys * costs.message + 2 * size * costs.server_byte)
        whole += (1 + one.workers) * size
    return max(spare, 0.0) / whole


def predict_probe(one: Probe, costs: Costs, cores: int) -> float:
    """Seconds of a probe on one machine of so many cores."""
    exchange = Exchange(bucket=0, compression=one.compression, overlap=False)
    layers = [Layer(one.elements)] * one.keys
    return predict(layers, Compute(0.0, 0.0), Cluster(one.workers, one.servers, cores=cores), costs, exchange).exchange


def predict_exchange(trained: Trained, costs: Costs, cores: int, cluster: Cluster | None = None) -> float:
    """Seconds of the exchange alone of a measured step."""
    layers = [Layer(size) for size in trained.sizes]
    return predict_step(trained, layers, costs, cores, cluster).exchange


def predict_step(
    trained: Trained,
    layers: Sequence[Layer],
    costs: Costs,
    cores: int,
    cluster: Cluster | None = None,
    threads: int = 0,
) -> Step:
    """A measured step, from its own time without the exchange, on `cluster` (else one machine of so many cores).

    threads: of a worker on a CPU; what they wait for each other in `alone` is taken out, as the model adds it again.
    """
    cluster = cluster or Cluster(trained.workers, trained.servers, cores=cores)
    wanted = max(threads, 0) * (trained.workers if cluster.rate is None or cluster.one_machine else 1)
    compute = trained.alone * min(1.0, cluster.cores / wanted) if wanted else trained.alone
    forward = compute / 3
    exchange = Exchange(compression=trained.compression)
    return predict(layers, Compute(forward, compute - forward, threads=threads), cluster, costs, exchange)


def compare_probes(probes: Sequence[Probe], costs: Costs, cores: int, fitted: bool) -> list[Comparison]:
    return [
        Comparison(
            f"{_place(one)}: {one.keys} keys of {one.elements * 4 / 1e6:g} MB{', 2-bit' if one.compression else ''}",
            one.seconds,
            predict_probe(one, costs, cores),
            fitted,
        )
        for one in probes
    ]


def compare_steps(
    trained: Sequence[Trained],
    layers: Sequence[Layer],
    costs: Costs,
    cores: int,
    threads: Callable[[int], int],
    fitted: Trained | None = None,
    cluster: Callable[[int, int], Cluster] | None = None,
) -> list[Comparison]:
    """The exchange alone and the whole step of each; `threads`: of a worker, by the number of workers."""
    rows = []
    for one in trained:
        where = cluster(one.workers, one.servers) if cluster else None
        step = predict_step(one, layers, costs, cores, where, threads(one.workers))
        what = f"{_place(one)}, {one.samples} samples a worker"
        rows.append(Comparison(f"{what}: exchange", one.exchange, step.exchange, one is fitted))
        rows.append(Comparison(f"{what}: step", one.whole, step.seconds, False))
    return rows


def _place(one: Probe | Trained) -> str:
    return f"{one.workers} workers, {one.servers} servers"
