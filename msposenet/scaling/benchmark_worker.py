"""What every process of a benchmark's job runs: `python -m msposenet.scaling.benchmark_worker JSON`.

Rank 0 prints one line of JSON behind MARK, servers print their processor time behind SERVED. {"kind": "probe"}: keys of
given sizes through a bare store. {"kind": "train"}: steps of a network on crops in memory, with the exchange of
gradients, without it, and the exchange alone.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from msposenet.distributed.group import Group

MARK, SERVED = "MEASURED ", "SERVED "
_SAMPLE = 0.05  # seconds between a server's lines
_TIMEOUT = _START_TIMEOUT = 300.0  # seconds
_RATE = 0.0  # of learning: every step computes the same


def main(argv: list[str]) -> None:
    from msposenet.distributed.roles import SERVER, find_place
    from msposenet.distributed.taking_part import take_part

    spec = json.loads(argv[0])
    place = find_place()
    assert place is not None, "a part of `msposenet bench distributed`, which starts it in every role of a job"
    if place.role == SERVER and spec["kind"] == "probe":
        threading.Thread(target=_tell_time, daemon=True).start()

    def work(group: Group) -> None:
        measured = {"probe": _probe, "train": _train}[spec["kind"]](spec, group)
        if group.rank == 0:
            sys.stdout.write(MARK + json.dumps(measured) + "\n")
            sys.stdout.flush()

    take_part(place, _TIMEOUT, _START_TIMEOUT, work)


def _tell_time() -> None:
    """A server answers no questions but MXNet's, so it says all the time how long it has worked."""
    while True:
        sys.stdout.write(f"{SERVED}{time.time():.4f} {time.process_time():.4f}\n")
        sys.stdout.flush()
        time.sleep(_SAMPLE)


def _probe(spec: Mapping[str, Any], group: Group) -> list[dict[str, Any]]:
    """spec["sets"]: pairs of a number of keys and their elements, each exchanged spec["rounds"] times."""
    from msposenet.runtime import mx

    store = mx.kv.create("dist_sync")
    if spec.get("compression"):
        store.set_gradient_compression({"type": "2bit", "threshold": 0.5})
    results, first = [], 0
    for count, elements in spec["sets"]:
        keys = range(first, first + count)
        first += count
        values = [mx.nd.ones((elements,)) for _ in keys]
        store.init(list(keys), [mx.nd.zeros((elements,)) for _ in keys])

        def exchange(keys=keys, values=values) -> None:
            for key, value in zip(keys, values):
                store.push(key, value, priority=-key)
                store.pull(key, value, priority=-key)

        _block(group, exchange, 1)  # allocates
        seconds, sent = [], []
        begin, worked, busy = time.time(), time.process_time(), _machine_busy()
        for _ in range(spec["rounds"]):
            before = _sent_bytes(group)
            seconds.append(_block(group, exchange, 1))
            sent.append(_sent_bytes(group) - before)
        worked = (time.process_time() - worked) / spec["rounds"]
        results.append(
            {
                "keys": count,
                "elements": elements,
                "seconds": seconds,
                "sent": sent,
                "between": [begin, time.time()],
                "busy": (_machine_busy() - busy) / spec["rounds"],
                "worked": sum(group.all("worked", worked)) / group.size,
            }
        )
    return results


def _train(spec: Mapping[str, Any], group: Group) -> dict[str, Any]:
    """spec: config, parts (samples a worker, by name), rounds, steps (in a block), compression."""
    from msposenet.config import build_config
    from msposenet.data.loader import Batch
    from msposenet.devices import contexts
    from msposenet.distributed.store import choose_kvstore
    from msposenet.models.build import build_codec, build_network
    from msposenet.models.initialise import initialise
    from msposenet.runtime import mx
    from msposenet.skeletons import COCO_17
    from msposenet.training.graph import TrainingGraph
    from msposenet.training.step import Stepper

    config = build_config(spec["config"], "benchmark")
    skeleton = config.fixed_skeleton() or COCO_17
    devices = contexts(config.train.devices)
    net = build_network(config, skeleton)
    initialise(net, config.model.initialisation, config.train.seed, devices)
    graph = TrainingGraph(net, build_codec(config), config.loss, skeleton, net.spec.stages)
    graph.hybridize(static_alloc=True, static_shape=True)
    reached = set(mx.sym.Group(list(net(mx.sym.var("data")))).list_inputs())
    used = {name: p for name, p in net._collect_params_with_prefix().items() if p.name in reached}
    kvstore = choose_kvstore(config.train.kvstore, devices, group)
    parts = len(devices) * group.size
    stepper = Stepper(graph, used, devices, parts, group=group, kvstore=kvstore, compression=spec.get("compression"))
    exchange = stepper.exchange
    rng = np.random.default_rng(group.rank)
    results: dict[str, Any] = {
        "sizes": [int(np.prod(p.shape)) for p in stepper.learnable.values()],
        "keys": exchange.sizes,
        "pushed": exchange.bytes_pushed,
        "pulled": exchange.bytes_pulled,
        "machine": _machine(mx.__version__),
        "hosts": len(set(group.all("hosts", _host()))),
    }
    for name, samples in spec["parts"].items():
        group.phase(f"measuring {samples} samples a worker", _TIMEOUT * 2)
        height, width = config.data.input
        joints = rng.uniform(0, (width, height), (samples, skeleton.num_joints, 2)).astype(np.float32)
        batch = Batch(
            rng.integers(0, 256, (samples, height, width, 3), dtype=np.uint8),
            joints,
            np.ones(joints.shape[:2], np.float32),
            np.arange(samples),
            np.arange(samples),
        )

        def step(store, batch=batch) -> None:
            stepper.exchange = store
            stepper(batch, _RATE, 0)

        def whole(step=step) -> None:
            step(exchange)

        def alone(step=step) -> None:
            step(None)

        for action in (whole, alone):
            _block(group, action, 2)  # the first one of a shape allocates
        seconds: dict[str, list[float]] = {"whole": [], "alone": [], "exchange": []}
        sent = []
        for _ in range(spec["rounds"]):
            seconds["alone"].append(_block(group, alone, spec["steps"]))
            seconds["whole"].append(_block(group, whole, spec["steps"]))
            before = _sent_bytes(group)
            seconds["exchange"].append(_block(group, exchange.sum, 1))
            sent.append(_sent_bytes(group) - before)
        results[name] = {"samples": samples, "seconds": seconds, "sent": sent}
    stepper.exchange = exchange
    stepper.close()
    return results


def _block(group: Group, action: Callable[[], None], times: int) -> float:
    """Seconds of one `action`, of which `times` follow each other; the slowest worker's, who all begin together."""
    from msposenet.runtime import mx

    mx.nd.waitall()
    group.all("begin", None)
    begin = time.perf_counter()
    for _ in range(times):
        action()
    mx.nd.waitall()
    return max(group.all("end", (time.perf_counter() - begin) / times))


def _sent_bytes(group: Group) -> int:
    """Bytes that the kernel has sent through all interfaces of all hosts with a worker; loopback's count once too."""
    found = dict(map(tuple, group.all("sent", [_host(), _interfaces()])))
    return sum(found.values())


def _interfaces() -> int:
    lines = Path("/proc/net/dev").read_text(encoding="ascii").splitlines()[2:]
    return sum(int(line.partition(":")[2].split()[8]) for line in lines)


def _machine_busy() -> float:
    """Processor seconds that all programs of this machine have used."""
    user, nice, system, _, _, interrupts, soft = map(int, Path("/proc/stat").read_text(encoding="ascii").split()[1:8])
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")


def _host() -> str:
    """Names the network this process sees: namespaces of a machine have counters of their own."""
    return f"{socket.gethostname()} {os.stat('/proc/self/ns/net').st_ino}"


def _machine(version: str) -> str:
    from msposenet.cores import physical_cores

    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return (
        f"{model}, {physical_cores()} cores, {os.environ.get('OMP_NUM_THREADS')} threads a worker, "
        f"MXNet {version}, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
