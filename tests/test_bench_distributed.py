"""`msposenet bench distributed` with real jobs on this machine: bytes, times, and what it says."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time

import pytest
import typer
from runner import cli_runner

from msposenet.cli import bench_distributed
from msposenet.cli.bench_distributed import _launcher_lines, distributed
from msposenet.errors import ConfigError, PeerError, Terminated
from msposenet.scaling import benchmark
from msposenet.scaling.benchmark_worker import MARK, SERVED

TINY = {"model": {"name": "hrnet_w8_small"}, "data": {"input": [64, 64]}, "train": {"devices": ["cpu"]}}


@pytest.fixture
def network(tmp_path):
    """A launcher whose jobs have a network of their own, and the most that heads add to what they send.

    Where that is not allowed, other programs use the same loopback interface, and no limit holds.
    """
    script = tmp_path / "python"
    script.write_text(
        f'#!/bin/sh\nexec unshare --net sh -c \'ip link set lo up && exec "$0" "$@"\' {sys.executable} "$@"\n'
    )
    script.chmod(0o755)
    own = subprocess.run([script, "-c", ""], capture_output=True, check=False).returncode == 0
    python = str(script) if own else sys.executable
    return (lambda *job: _launcher_lines(*job, python=python)), 1.1 if own else math.inf


def test_probes_count_what_the_kernel_counts(network):
    launch, most = network
    (small, large) = benchmark.probe(launch, 2, 2, [(50, 1_000), (3, 500_000)], rounds=2)
    assert (large.workers, large.servers, large.keys) == (2, 2, 3)
    assert large.expected == 2 * 2 * 3 * 500_000 * 4
    assert 1.0 <= large.sent / large.expected < most
    assert 1.0 <= small.sent / small.expected < 1.2 * most
    assert 0 < large.lowest <= large.seconds <= large.highest
    assert large.worked > 0 and large.served > 0


@pytest.mark.thorough
def test_a_compressed_push_is_a_sixteenth_on_the_wire(network):
    launch, most = network
    (one,) = benchmark.probe(launch, 1, 1, [(4, 1_600_000)], rounds=2, compression=True)
    whole = 4 * 1_600_000 * 4
    assert one.expected == pytest.approx(whole * (1 + 1 / 16))
    assert 1.0 <= one.sent / one.expected < most


def test_a_network_is_trained_with_and_without_its_exchange(network):
    launch, most = network
    (one,) = benchmark.train(launch, TINY, 2, 1, {"same global batch": 2}, rounds=1, steps=1)
    assert one.pushed == one.pulled == 4 * sum(one.sizes)
    assert 1.0 <= one.sent / (2 * (one.pushed + one.pulled)) < most
    assert one.whole > 0 and one.alone > 0 and one.exchange > 0
    assert one.samples_per_second == pytest.approx(4 / one.whole)
    assert "MXNet 1.9.1" in one.machine and one.hosts == 1


def test_a_job_that_brings_no_figures_says_why():
    with pytest.raises(PeerError, match=r"brought no figures.*unknown model 'hrnet_w0x'"):
        benchmark.train(_launcher_lines, {"model": {"name": "hrnet_w0x"}}, 1, 1, {"all": 1})


def test_a_signal_ends_a_measurement_at_once():
    """There is no checkpoint to wait for."""
    script = f"""
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.environ["DMLC_ROLE"] == "worker":
    os.kill({os.getpid()}, signal.SIGTERM)
time.sleep(60)
"""
    begin = time.monotonic()
    with pytest.raises(Terminated):
        _launcher_lines([sys.executable, "-c", script], 1, 1, {})
    assert time.monotonic() - begin < 30


def run(*arguments):
    app = typer.Typer()
    app.command()(distributed)
    return cli_runner().invoke(app, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "1,x"], "--workers '1,x': write numbers"),
        (["--workers", "3", "--batch", "8"], "a global batch of 8 does not divide among 3 workers"),
        (["--rate", "10"], "--rate 10 is that of the links between the hosts of --hostfile"),
        (["--input", "60x64"], "multiples of 32"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(arguments, message):
    result = run(*arguments)
    assert isinstance(result.exception, ConfigError) and message in str(result.exception)


def made_up(command, workers, servers, environment):
    """The lines of a job whose messages cost 20 us, whose bytes half a nanosecond, and whose steps 100 ms."""
    spec = json.loads(command[-1])
    if spec["kind"] == "train":
        sizes = [1000] * 10
        seconds = {"whole": [0.1, 0.1], "alone": [0.08, 0.08], "exchange": [0.03, 0.03]}
        found = {
            name: {"samples": samples, "seconds": seconds, "sent": [1e5]} for name, samples in spec["parts"].items()
        }
        found.update(sizes=sizes, pushed=4 * sum(sizes), pulled=4 * sum(sizes), hosts=1, machine="made up")
        return [MARK + json.dumps(found)]
    found, served = [], 0.0
    for keys, elements in spec["sets"]:
        work = keys * (80e-6 + elements * 4e-9)
        row = {"keys": keys, "elements": elements, "seconds": [work * workers] * 2, "sent": [8 * keys * elements]}
        found.append({**row, "between": [served, served + 1], "busy": 4 * work, "worked": work})
        served += 1
    lines = [
        f"{SERVED}{time} {time * 0.05 * workers / servers}" for time in range(len(found) + 1) for _ in range(servers)
    ]
    return [*lines, MARK + json.dumps(found)]


def test_the_command_prints_what_jobs_brought(monkeypatch):
    """Jobs take a minute: here their lines are made up, in the next test they are not."""
    monkeypatch.setattr(bench_distributed, "_launcher", lambda hosts, ssh: made_up)
    options = ["--model", "hrnet_w8_small", "--batch", "2", "--workers", "1,2", "--for-model", "hrnet_w16_small"]
    result = run(*options)
    assert result.exit_code == 0, result.stderr
    row = "| 2, 2 | same batch a worker: 2 | 40.0 | 100 (100-100) | 80 | 30 | 20 | 20% |"
    cluster = "hrnet_w16_small on 4 x 8 GPUs, 18 samples each"
    for said in ("measured on: made up;", row, "| held out |", "| fitted |", cluster, "\n100 Gbit/s\n* "):
        assert said in result.stdout, said


@pytest.mark.slow
@pytest.mark.thorough
def test_the_command_measures_compares_and_predicts():
    options = ["--model", "hrnet_w8_small", "--batch", "2", "--workers", "1,2", "--rounds", "2", "--steps", "1"]
    result = run(*options, "--for-model", "hrnet_w16_small", "--json")
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert [(one["workers"], one["samples_a_worker"]) for one in figures["steps"]] == [(1, 2), (2, 1), (2, 2)]
    assert all(one["bytes_counted"] >= one["bytes_expected"] > 0 for one in figures["steps"])
    assert {one["fitted"] for one in figures["comparisons"]} == {True, False}
    assert figures["costs"]["message"] > 0 and figures["costs"]["server_byte"] > 0
    rows = figures["cluster"]["rows"]
    assert len(rows) == 3 * 4 * 2 * 2 and all(0 < row["efficiency"] <= 1 for row in rows)
    assert set(figures["cluster"]["advice"]) == {"10", "25", "100"}
