"""How long a synchronous step takes on many machines: a model of the parameter servers' work that runs none of it.

What is modelled, and what it rests on:
* Gradients become ready from the last layer to the first, in proportion to the layers' multiply-adds. They travel in
  keys (keys.py), each to its servers: loads come from the list of keys, not from an average.
* A server answers the pushes of a key once it has every worker's; only then does a worker ask for the sum.
* A process does one thing at a time (sending and receiving take turns): `message` seconds for a message at either end,
  so many seconds a byte. As many processes of a machine work at a time as it has cores; computing on a CPU is such
  work too.
* A host's link carries `rate` bytes a second each way at once, its connections taking turns; the switch has no limit
  of its own. Messages within a host do not use the link. Each way takes `delay` seconds; windows never limit TCP.
* 2-bit compression: a sixteenth of the pushed bytes, and the work of packing and unpacking them. Pulls stay whole.
* The next forward pass begins when every worker has every sum. All workers compute equally fast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from msposenet.scaling.keys import VALUE, Exchange, Key, imbalance, plan_keys
from msposenet.scaling.simulation import Action, Clock, Cores, Link, Process

_INSTANT = 1e-12  # seconds: what costs nothing takes no time, and has a share all the same


@dataclass(frozen=True)
class Layer:
    """A learnable array: its elements, and the multiply-adds of the layer it belongs to."""

    size: int
    multiply_adds: float = 0.0


@dataclass(frozen=True)
class Cluster:
    """Workers and servers, dealt round the hosts in turns as `msposenet launch` does.

    hosts: with workers; as many as there are workers when left out. apart: the servers have that many further hosts
    for themselves. rate: bytes/s each way of a host's link, None where everything runs on one machine without one.
    one_machine: the hosts are namespaces of a machine, whose cores they share.
    """

    workers: int
    servers: int
    rate: float | None = None
    delay: float = 0.0  # seconds, one way
    cores: int = 16  # of each host
    hosts: int | None = None
    apart: bool = False
    one_machine: bool = False
    efficiency: float = 0.94  # TCP payload of an Ethernet frame of 1500 bytes: 1448 of 1538


@dataclass(frozen=True)
class Costs:
    """What the exchange costs the processes, in seconds: a message, a byte, an array that is put into a bucket."""

    message: float  # at either end
    worker_byte: float  # of a push that is sent or a pull that arrives
    server_byte: float  # of a push that is added or a pull that is answered
    array: float = 0.0  # in and out again
    compress_byte: float = 0.5e-9  # of the whole gradient: packing at the worker, unpacking at the server


@dataclass(frozen=True)
class Compute:
    """A worker's own work in a step, in seconds; `update` is what follows the exchange.

    devices, device_rate: a worker with several GPUs first adds up their gradients and copies the sum to the host (and
    back), each at device_rate bytes/s; 0 devices: the gradients are in the host's memory. threads: cores that a
    worker computes on, for the seconds given if it has them to itself; 0 on GPUs.
    """

    forward: float
    backward: float
    update: float = 0.0
    devices: int = 0
    device_rate: float = 10e9  # PCIe 3.0 x16: 15.75 GB/s, of which copies reach 10 to 12
    threads: int = 0

    @property
    def seconds(self) -> float:
        return self.forward + self.backward + self.update

    @property
    def copies(self) -> int:
        return min(self.devices, 2)


@dataclass(frozen=True)
class Step:
    """A predicted step, in seconds.

    exchange: what the exchange takes by itself; exposed: by how much it lengthens the step. pushed, pulled: bytes of a
    worker. imbalance: the most loaded server's bytes over the mean.
    """

    seconds: float
    compute: float
    exchange: float
    exposed: float
    pushed: int
    pulled: int
    keys: int
    imbalance: float

    @property
    def share(self) -> float:
        """Share of the step in which a worker waits for the exchange."""
        return self.exposed / max(self.seconds, _INSTANT)


def predict(
    layers: Sequence[Layer], compute: Compute, cluster: Cluster, costs: Costs, exchange: Exchange | None = None
) -> Step:
    """One step of a job, simulated message by message. `layers`: the learnable arrays in the network's order."""
    exchange = exchange or Exchange()
    sizes = [layer.size for layer in layers]
    keys = plan_keys(sizes, cluster.servers, exchange)
    begin = compute.forward + compute.backward
    ready = ready_times(layers, keys, compute) if exchange.overlap else [begin] * len(keys)
    nothing = _Job(cluster, costs, exchange, compute).run([], [begin])
    alone = _Job(cluster, costs, exchange, compute).run(keys, [])
    seconds = _Job(cluster, costs, exchange, compute).run(keys, ready) + compute.update
    return Step(
        seconds=seconds,
        compute=nothing + compute.update,
        exchange=alone,
        exposed=seconds - nothing - compute.update,
        pushed=sum(exchange.pushed(size) for key in keys for _, size in key.parts),
        pulled=sum(sizes) * VALUE,
        keys=len(keys),
        imbalance=imbalance(keys, cluster.servers),
    )


def ready_times(layers: Sequence[Layer], keys: Sequence[Key], compute: Compute) -> list[float]:
    """Seconds after the step's begin at which each key's last gradient is there: that of its first layer."""
    total = sum(layer.multiply_adds for layer in layers)
    times, done = [0.0] * len(layers), 0.0
    for i in range(len(layers) - 1, -1, -1):
        done += layers[i].multiply_adds
        times[i] = compute.forward + compute.backward * (done / total if total else 1.0)
    return [times[key.first] for key in keys]


class _Job:
    """The processes and links of a job for one step."""

    def __init__(self, cluster: Cluster, costs: Costs, exchange: Exchange, compute: Compute) -> None:
        self.costs, self.exchange = costs, exchange
        self._compute, self._delay = compute, cluster.delay
        self._clock = clock = Clock()
        count = cluster.hosts or cluster.workers
        self.worker_hosts = [worker % count for worker in range(cluster.workers)]
        self.server_hosts = [server % count + (count if cluster.apart else 0) for server in range(cluster.servers)]
        hosts = 2 * count if cluster.apart else count
        together = Cores(clock, cluster.cores)
        single = cluster.one_machine or cluster.rate is None
        cores = [together if single else Cores(clock, cluster.cores) for _ in range(hosts)]
        self.workers = [Process(cores[host]) for host in self.worker_hosts]
        self.servers = [Process(cores[host]) for host in self.server_hosts]
        self._rate = None if cluster.rate is None else cluster.rate * cluster.efficiency
        links = hosts if self._rate else 0
        self._out = [Link(clock, self._rate or 1.0) for _ in range(links)]
        self._in = [Link(clock, self._rate or 1.0) for _ in range(links)]
        self._buses = [Link(clock, compute.device_rate) for _ in range(cluster.workers)]
        # A thread of the computation is a process of its own: it wants a core like any other.
        self._threads = [[Process(cores[host]) for _ in range(compute.threads)] for host in self.worker_hosts]
        self._pushes: dict[tuple[int, int], list[_Traffic]] = {}
        self._end = 0.0

    @property
    def links(self) -> list[Link]:
        return self._out + self._in

    def run(self, keys: Sequence[Key], ready: Sequence[float]) -> float:
        """Seconds until every worker has computed and has every key's sum.

        ready: when each key's gradient is there, or when the computation ends where there are no keys; empty: all are
        there and nothing is computed.
        """
        for worker in range(len(self.workers)):
            traffic = [_Traffic(self, key, worker) for key in keys]
            times = ready or [0.0] * len(keys)
            if not traffic:
                self._compute_pieces(worker, [(times[0], self._computed)])
                continue
            pieces = sorted(zip(times, traffic), key=lambda piece: piece[0])
            self._compute_pieces(worker, [(time, partial(self._from_devices, one)) for time, one in pieces])
        self._clock.run()
        return self._end

    def _compute_pieces(self, worker: int, pieces: Sequence[tuple[float, Action]]) -> None:
        """Each action when the computation has come to its time."""
        threads = self._threads[worker]
        if not threads:
            for time, action in pieces:
                self._clock.at(time, action)
            return
        before = 0.0
        for time, action in pieces:
            together = _Together(len(threads), action)
            for thread in threads:
                thread.do(time - before, together.one)
            before = time

    def _computed(self) -> None:
        self._end = max(self._end, self._clock.now)

    def _from_devices(self, traffic: _Traffic) -> None:
        moved = traffic.key.size * VALUE * self._compute.copies
        self._clock.at(self._buses[traffic.worker].receive(moved), traffic.push)

    def to_devices(self, traffic: _Traffic) -> None:
        moved = traffic.key.size * VALUE * self._compute.copies
        self._end = max(self._end, self._buses[traffic.worker].receive(moved))

    def work(self, process: Process, messages: int, seconds: float, then: Action, lane: object = None) -> None:
        process.do(messages * self.costs.message + seconds, then, lane)

    def send(self, source: int, target: int, size: int, lane: object, then: Action) -> None:
        """From host to host; `lane` names the connection. What stays on a host is paid for by its processes alone."""
        clock, delay = self._clock, self._delay
        if source == target or self._rate is None:
            then()
            return
        if not size:
            clock.at(clock.now + delay, then)  # a small message slips in between
            return

        def begins(end: float) -> None:
            # What is sent is received while it is sent: two free links take no longer than one.
            clock.at(clock.now + delay, lambda: clock.at(self._in[target].receive(size, end + delay), then))

        self._out[source].send(size, lane, begins)

    def meet(self, server: int, traffic: _Traffic) -> None:
        """A push is added; the last worker's releases the answers to all."""
        waiting = self._pushes.setdefault((traffic.key.number, server), [])
        waiting.append(traffic)
        if len(waiting) == len(self.workers):
            for one in waiting:
                self.send(self.server_hosts[server], one.home, 0, None, one.answered)


class _Together:
    """An action that waits for several threads."""

    def __init__(self, threads: int, action: Action) -> None:
        self._missing, self._action = threads, action

    def one(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            self._action()


class _Traffic:
    """One worker's push and pull of one key."""

    def __init__(self, job: _Job, key: Key, worker: int) -> None:
        self.key, self.worker, self.home = key, worker, job.worker_hosts[worker]
        self._job = job
        self._unanswered = self._awaited = len(key.parts)
        # Putting arrays together and taking them apart again.
        self._filing = key.arrays * job.costs.array / 2 if key.arrays > 1 else 0.0

    def push(self) -> None:
        job = self._job
        job.work(job.workers[self.worker], 0, self._filing, partial(self._each, self._push_part), "push")

    def answered(self) -> None:
        self._unanswered -= 1
        if self._unanswered == 0:
            self._each(self._pull_part)

    def _each(self, action: Callable[[int, int], None]) -> None:
        for server, size in self.key.parts:
            action(server, size)

    def _push_part(self, server: int, size: int) -> None:
        job, costs = self._job, self._job.costs
        moved, whole = job.exchange.pushed(size), size * VALUE
        packing = whole * costs.compress_byte if job.exchange.compression else 0.0
        # The server takes the push, and later answers it.
        added = partial(job.meet, server, self)
        arrived = partial(job.work, job.servers[server], 2, whole * costs.server_byte + packing, added)
        lane = ("push", self.worker, server)
        sent = partial(job.send, self.home, job.server_hosts[server], moved, lane, arrived)
        job.work(job.workers[self.worker], 1, moved * costs.worker_byte + packing, sent, "push")

    def _pull_part(self, server: int, size: int) -> None:
        job, costs = self._job, self._job.costs
        there, moved = job.server_hosts[server], size * VALUE
        arrived = partial(job.work, job.workers[self.worker], 1, moved * costs.worker_byte, self._part_arrived)
        answered = partial(job.send, there, self.home, moved, ("pull", self.worker, server), arrived)
        asked = partial(job.work, job.servers[server], 2, moved * costs.server_byte, answered)
        # The worker takes the push's answer, and asks for the sum.
        job.work(job.workers[self.worker], 2, 0.0, partial(job.send, self.home, there, 0, None, asked))

    def _part_arrived(self) -> None:
        self._awaited -= 1
        if self._awaited == 0:
            job = self._job
            job.work(job.workers[self.worker], 0, self._filing, partial(job.to_devices, self))
