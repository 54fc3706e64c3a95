"""Training through `msposenet launch` across several hosts (tests/several_hosts.py), and what a cut link does to it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from jobs_on_hosts import PROJECT, environment, nothing_runs, running, write_hosts
from people_set import images_of, people_set
from several_hosts import Network, network

from msposenet.training.checkpoint import fingerprint, load_checkpoint

STEP_TIMEOUT = 20.0  # a step on a busy machine takes seconds
SILENCE = 32.0  # of the launcher: long enough for the training to have ended by itself
EPOCHS, BATCH = 3, 8
# At this rate the gradients of a step take over a second, so there is time to pull a plug amid a run.
SLOW_MBIT = 40


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with network(3) as made:
        yield made


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    annotations = people_set(20)
    source = {"annotations": str(annotations), "images": str(images_of(annotations))}
    content = {
        "data": {"train": source, "val": source, "input": [64, 64], "workers": 0, "skeleton": "coco17"},
        "model": {"name": "hrnet_w8_small"},
        "train": {
            "epochs": EPOCHS,
            "batch_size": BATCH,
            "lr_drops": [2],
            "log_every": 1,
            "validate_every": 0,
            "checkpoint_steps": 1,
            "step_timeout": STEP_TIMEOUT,
            "devices": ["cpu"],
        },
        "test": {"batch_size": BATCH},
    }
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def undisturbed(net, config, tmp_path_factory) -> tuple[Path, str]:
    """Run directory and output of a training on two hosts, one of them with the server."""
    folder = tmp_path_factory.mktemp("undisturbed")
    command = [
        sys.executable,
        "-m",
        "msposenet",
        "launch",
        "-n2",
        "-s1",
        "--max-restarts",
        "0",
        "-H",
        str(write_hosts(net, folder, 2)),
    ]
    command += ["--ssh", net.ssh_text, "--cwd", str(PROJECT), "--", "train", str(config), "--run", str(folder / "run")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    before = net.bytes_sent(1)
    said = subprocess.run(command, cwd=PROJECT, env=environment(), text=True, timeout=150, **pipes)
    assert said.returncode == 0, said.stdout
    weights = sum(array.nbytes for array in load_checkpoint(folder / "run" / "checkpoints").params.values())
    assert net.bytes_sent(1) - before > 0.9 * EPOCHS * weights  # its gradients went over the wire
    return folder / "run", said.stdout


@pytest.mark.thorough
def test_trains_across_two_hosts_to_its_end(net, undisturbed):
    run, said = undisturbed
    assert f"{net.addresses[0]}: scheduler" in said and f"{net.addresses[1]}: worker 1" in said
    assert "restart" not in said
    assert nothing_runs(net)
    assert load_checkpoint(run / "checkpoints").state["step"] > 2


@pytest.mark.thorough
def test_a_host_that_is_cut_off_ends_the_job_and_it_goes_on_when_the_host_is_back(net, config, undisturbed, tmp_path):
    run = tmp_path / "run"
    train = [sys.executable, "-m", "msposenet", "train", str(config), "--run", str(run)]
    for host in range(net.count):
        net.set_rate(host, SLOW_MBIT)
    # Two workers and three servers: the last host has a server only.
    with running(net, tmp_path, train, 3, workers=2, servers=3, silence=SILENCE) as job:
        job.until(lambda: list((run / "checkpoints").glob("step_*")), 120)
        before = trainings(net)
        assert len(before) == 6, job.said
        net.link_down(1)
        try:
            took = job.until(lambda: not before & trainings(net), STEP_TIMEOUT + 10)
            job.until(lambda: f"waiting for {net.addresses[1]}" in job.said, SILENCE + 20)
        finally:
            for host in range(net.count):
                net.set_rate(host, None)
            net.link_up(1)
        assert job.end(150) == 0, job.said
    print(f"{took:.1f} s after the cut no process of the training lived\n{job.said}")
    assert "restart 1 of 3" in job.said and "restart 2" not in job.said
    assert "resumed from step_" in job.said
    assert nothing_runs(net)
    assert fingerprint(load_checkpoint(run / "checkpoints")) == fingerprint(
        load_checkpoint(undisturbed[0] / "checkpoints")
    )


def trainings(net: Network) -> set[int]:
    """Processes of the training on all hosts."""
    texts = ((pid, text) for host in range(net.count) for pid, text in net.processes(host).items())
    return {pid for pid, text in texts if " msposenet train " in text}
