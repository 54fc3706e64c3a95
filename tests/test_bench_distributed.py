"""`msposenet bench distributed` with real jobs on this machine: bytes, times, and what it says."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import typer
from runner import cli_runner

from msposenet.cli.bench_distributed import _launcher_lines, distributed
from msposenet.errors import ConfigError, PeerError
from msposenet.scaling import benchmark

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


@pytest.mark.slow
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
