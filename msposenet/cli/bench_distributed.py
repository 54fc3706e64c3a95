"""`msposenet bench distributed`: the exchange of gradients measured here, and predicted for a cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional

import typer

from msposenet.cli.common import parse_size, print_json
from msposenet.errors import ConfigError, Terminated

_RATES = (10.0, 25.0, 100.0)
_SERVERS = (1, 2, 3, 4)  # a worker
_BOUNDS = (100_000, 1_000_000, 10_000_000)
_MODEL, _INPUT = "mshrnet_w48x2", (384, 288)
_BENCH_INPUT = "64x64"
_DISTURBED = 0.2  # share of the processor time that other programs use


def distributed(
    config: Optional[Path] = typer.Argument(
        None, metavar="[CONFIG]", help="Whose model, input and batch are measured."
    ),
    overrides: list[str] = typer.Option([], "--set", help="Change a value of CONFIG."),
    model: str = typer.Option("mshrnet_w16x2_small", help="Without CONFIG: the model that is measured."),
    input_size: str = typer.Option(_BENCH_INPUT, "--input", help="Without CONFIG: height x width of the crops in px."),
    batch: int = typer.Option(8, min=1, help="Without CONFIG: the global batch."),
    workers: str = typer.Option("1,2,4", help="Numbers of workers to measure."),
    servers: int = typer.Option(0, min=0, help="Servers of a job; 0: as many as workers."),
    steps: int = typer.Option(3, min=1, help="Steps that are timed together."),
    rounds: int = typer.Option(5, min=1, help="Times each figure is taken, by turns; medians are printed."),
    hosts: Optional[Path] = typer.Option(
        None, "-H", "--hostfile", help="Host file of `msposenet launch`; without it, this machine."
    ),
    ssh: Optional[str] = typer.Option(None, help="Command that reaches a host, as for `msposenet launch`."),
    rate: Optional[float] = typer.Option(None, help="With --hostfile: Gbit/s of a host's link, to predict the steps."),
    delay: float = typer.Option(0.0, min=0, help="With --rate: milliseconds one way."),
    one_machine: bool = typer.Option(False, help="With --rate: the hosts are namespaces of this machine."),
    predict_only: bool = typer.Option(False, "--predict-only", help="Measure no training, only what the model needs."),
    for_model: str = typer.Option(_MODEL, "--for-model", help="The model that the cluster trains, at 384x288."),
    machines: int = typer.Option(4, min=1, help="Machines of the cluster, each with a worker."),
    gpus: int = typer.Option(8, min=1, help="GPUs of a machine."),
    samples: int = typer.Option(18, min=1, help="Samples a GPU: 18 make a global batch of 576 on 4 x 8."),
    teraflops: float = typer.Option(8.0, min=0.001, help="Sustained on a GPU; a Titan RTX trains ResNet-50 at 8.1."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Samples a second of 1, 2, 4 workers, bytes and time of the exchange; a model held against them; 4 x 8 GPUs."""
    threads_given = "OMP_NUM_THREADS" in os.environ  # asked before MXNet is imported, which sets it
    from msposenet.config import build_config, load_config
    from msposenet.cores import physical_cores
    from msposenet.models.build import build_network
    from msposenet.models.zoo import get_model
    from msposenet.progress import Reporter
    from msposenet.scaling import benchmark
    from msposenet.scaling.layers import layers_of
    from msposenet.scaling.prediction import Machines, Scaling
    from msposenet.scaling.throughput import Cluster
    from msposenet.skeletons import COCO_17

    counts = _numbers(workers)
    if rate is not None and (hosts is None or rate <= 0):
        raise ConfigError(
            f"--rate {rate:g} is that of the links between the hosts of --hostfile, in Gbit/s above 0; give both"
        )
    if config is None:
        height, width = parse_size(input_size)
        content = {"model": {"name": model}, "data": {"input": [height, width]}, "train": {"batch_size": batch}}
        settings = build_config(content, "the command line")
    else:
        settings = load_config(config, overrides)
    total = settings.train.batch_size
    if any(total % count for count in counts):
        raise ConfigError(f"a global batch of {total} does not divide among {workers} workers; choose another")
    reporter = Reporter()
    local, launch = _launcher(None, None), _launcher(hosts, ssh)
    skeleton = settings.fixed_skeleton() or COCO_17
    layers = layers_of(build_network(settings, skeleton), settings.data.input)
    cores = physical_cores()
    if not threads_given:
        # To the launcher it would be the user's choice for all workers.
        os.environ.pop("OMP_NUM_THREADS", None)

    reporter.say("measuring what messages and bytes cost")
    fitted = benchmark.probe(local, 1, 1, rounds=rounds) + benchmark.probe(local, 2, 2, rounds=rounds)
    fitted += benchmark.probe(local, 1, 1, benchmark.LARGE, rounds, compression=True)
    others = benchmark.probe(local, 2, 1, rounds=rounds) + benchmark.probe(local, 4, 4, rounds=rounds)
    trained: list[benchmark.Trained] = []
    for count in [] if predict_only else counts:
        reporter.say(f"training with {count} worker{'s' if count > 1 else ''}")
        parts = {"same global batch": total // count, "same batch a worker": total}
        if count == 1:
            parts.popitem()
        content = settings.model_dump(mode="json")
        trained += benchmark.train(launch, content, count, servers or count, parts, rounds, steps)
    first = next((one for one in trained if one.workers == 1 and one.hosts == 1), None)
    costs = benchmark.fit_costs(fitted, cores, first)
    comparisons = benchmark.compare_probes(fitted, costs, cores, True)
    comparisons += benchmark.compare_probes(others, costs, cores, False)
    cluster = None
    if rate is not None:

        def cluster(workers: int, servers: int) -> Cluster:
            count = min(workers, len(_read_hosts(hosts)))
            return Cluster(workers, servers, rate * 1e9 / 8, delay / 1e3, cores, count, False, one_machine)

    if hosts is None or rate is not None:
        threads = _threads(settings.train.devices, cores, hosts)
        comparisons += benchmark.compare_steps(trained, layers, costs, cores, threads, first, cluster)

    reporter.say("predicting the cluster")
    target = Machines(machines, gpus, samples, teraflops * 1e12)
    scaling = Scaling(layers_of(get_model(for_model), _INPUT), target, costs)
    figures = {
        "measured_on": trained[0].machine if trained else f"{cores} cores",
        "foreign": max(one.foreign for one in fitted + others),
        "costs": asdict(costs),
        "steps": [_step(one) for one in trained],
        "comparisons": [{**asdict(one), "error": one.error} for one in comparisons],
        "cluster": {
            "model": for_model,
            "machines": machines,
            "gpus": gpus,
            "samples_a_gpu": samples,
            "teraflops": teraflops,
            "rows": [_row(row) for row in scaling.table(_RATES, _SERVERS)],
            "advice": {f"{gigabits:g}": _advice(scaling, gigabits) for gigabits in _RATES},
        },
    }
    if as_json:
        print_json(figures)
    else:
        _print(figures)


def _advice(scaling, gigabits: float) -> list[str]:
    from msposenet.scaling.prediction import advice

    return advice(scaling, gigabits, _SERVERS, _BOUNDS)


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"--workers {text!r}: write numbers above 0 with commas, for example 1,2,4")
    return [int(part) for part in parts]


def _read_hosts(path: Path) -> Sequence[Any]:
    from msposenet.launching.hosts import read_hosts

    return read_hosts(path)


def _launcher(hosts: Optional[Path], ssh: Optional[str]):
    """What `benchmark` runs its jobs with."""
    places = _read_hosts(hosts) if hosts else ()

    def launch(command: Sequence[str], workers: int, servers: int, environment: Mapping[str, str]) -> list[str]:
        return _launcher_lines(command, workers, servers, environment, places, ssh)

    return launch


def _launcher_lines(
    command: Sequence[str],
    workers: int,
    servers: int,
    environment: Mapping[str, str],
    hosts: Sequence[Any] = (),
    ssh: Optional[str] = None,
    python: str = sys.executable,
) -> list[str]:
    """The lines that all processes of a job wrote; it is started once. python: runs the agents.

    Raises Terminated when a signal ended it.
    """
    from msposenet.launching.attempt import STOPPED
    from msposenet.launching.job import SSH, Job
    from msposenet.launching.supervisor import supervise

    lines: list[str] = []
    job = Job(
        command,
        workers,
        servers,
        hosts=hosts,
        env=dict(environment),
        python=python,
        ssh=ssh or SSH,
        resume_flag="",
        max_restarts=0,
        grace=1.0,  # there is no checkpoint to wait for
    )
    if supervise(job, lambda name, line: lines.append(line)) == STOPPED:
        raise Terminated("stopped by a signal before all was measured")
    return lines


def _threads(devices: Sequence[str], cores: int, hosts: Optional[Path]):
    """Threads of a worker by the number of workers, as `msposenet launch` sets them; none where GPUs compute."""
    from msposenet.devices import contexts

    if any(device.device_type == "gpu" for device in contexts(devices)):
        return lambda workers: 0
    count = len(_read_hosts(hosts)) if hosts else 1
    return lambda workers: max(1, cores // -(-workers // count))


def _step(one) -> dict[str, Any]:
    return {
        "workers": one.workers,
        "servers": one.servers,
        "hosts": one.hosts,
        "batch": one.part,
        "samples_a_worker": one.samples,
        "samples_per_second": one.samples_per_second,
        "step": one.whole,
        "step_lowest": one.spread[0],
        "step_highest": one.spread[1],
        "compute": one.alone,
        "exchange": one.exchange,
        "not_hidden": one.exposed,
        "communication_share": one.exposed / one.whole,
        "bytes_pushed": one.pushed,
        "bytes_pulled": one.pulled,
        "bytes_counted": one.sent,
        "bytes_expected": one.workers * (one.pushed + one.pulled),
    }


def _row(row) -> dict[str, Any]:
    return {
        "gigabits": row.gigabits,
        "servers_a_worker": row.servers,
        "overlap": row.exchange.overlap,
        "compression": row.exchange.compression,
        "step": row.step.seconds,
        "exchange": row.step.exchange,
        "samples_per_second": row.samples_per_second,
        "efficiency": row.efficiency,
        "communication_share": row.step.share,
        "imbalance": row.step.imbalance,
    }


def _print(figures: Mapping[str, Any]) -> None:
    say = typer.echo
    say(f"measured on: {figures['measured_on']}; medians of rounds that took turns")
    if figures["foreign"] > _DISTURBED:
        say(
            f"Other programs used up to {figures['foreign']:.0%} of the processor time: the times measured are longer "
            "than this machine's own, the model's costs (processor time) hardly; repeat it when the machine is quiet."
        )
    if figures["steps"]:
        say("\n| workers, servers | batch | samples/s | step ms (range) | compute ms | exchange ms | not hidden ms "
            "| share | MB pushed, pulled a worker | counted / expected bytes |")  # fmt: skip
        say("|---|---|---|---|---|---|---|---|---|---|")
    for one in figures["steps"]:
        ms = {
            name: one[name] * 1e3
            for name in ("step", "step_lowest", "step_highest", "compute", "exchange", "not_hidden")
        }
        say(
            f"| {one['workers']}, {one['servers']} | {one['batch']}: {one['samples_a_worker']} "
            f"| {one['samples_per_second']:.1f} | {ms['step']:.0f} ({ms['step_lowest']:.0f}-{ms['step_highest']:.0f}) "
            f"| {ms['compute']:.0f} | {ms['exchange']:.0f} | {ms['not_hidden']:.0f} | {one['communication_share']:.0%} "
            f"| {one['bytes_pushed'] / 1e6:.1f}, {one['bytes_pulled'] / 1e6:.1f} "
            f"| {one['bytes_counted'] / one['bytes_expected']:.4f} |"
        )
    costs = figures["costs"]
    say(
        f"\nfitted: {costs['message'] * 1e6:.1f} us a message, {costs['worker_byte'] * 1e9:.2f} ns a byte at a worker, "
        f"{costs['server_byte'] * 1e9:.2f} at a server, {costs['compress_byte'] * 1e9:.2f} to pack or unpack, "
        f"{costs['array'] * 1e6:.1f} us an array"
    )
    say("\n| what | measured ms | model ms | error | |")
    say("|---|---|---|---|---|")
    for one in figures["comparisons"]:
        kind = "fitted" if one["fitted"] else "held out"
        say(
            f"| {one['what']} | {one['measured'] * 1e3:.1f} | {one['predicted'] * 1e3:.1f} "
            f"| {one['error']:+.0%} | {kind} |"
        )
    cluster = figures["cluster"]
    say(
        f"\n{cluster['model']} on {cluster['machines']} x {cluster['gpus']} GPUs, "
        f"{cluster['samples_a_gpu']} samples each, {cluster['teraflops']:g} TFLOP/s sustained, by the model"
    )
    say("| Gbit/s | servers a worker | overlap | 2-bit | step ms | exchange ms | samples/s | efficiency | share |")
    say("|---|---|---|---|---|---|---|---|---|")
    for row in cluster["rows"]:
        say(
            f"| {row['gigabits']:g} | {row['servers_a_worker']} | {'yes' if row['overlap'] else 'no'} "
            f"| {'yes' if row['compression'] else 'no'} | {row['step'] * 1e3:,.0f} | {row['exchange'] * 1e3:,.0f} "
            f"| {row['samples_per_second']:.0f} | {row['efficiency']:.1%} | {row['communication_share']:.1%} |"
        )
    for gigabits, sentences in cluster["advice"].items():
        say(f"\n{gigabits} Gbit/s")
        for sentence in sentences:
            say(f"* {sentence}")
