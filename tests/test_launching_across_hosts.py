"""The launcher across several hosts (tests/several_hosts.py), with small scripts for processes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest
from jobs_on_hosts import SILENCE, nothing_runs, running
from several_hosts import Network, network

PATIENCE = 10.0  # silence of jobs that must not be lost a second time, however busy the machine is

# Workers find the scheduler at its address and the network knows them by their own.
MEET = """
import os, socket
scheduler = (os.environ["DMLC_PS_ROOT_URI"], int(os.environ["DMLC_PS_ROOT_PORT"]))
role = os.environ["DMLC_ROLE"]
if role == "scheduler":
    with socket.create_server(scheduler) as server:
        seen = sorted(server.accept()[1][0] for _ in range(int(os.environ["DMLC_NUM_WORKER"])))
    print("met", *seen)
elif role == "worker":
    for _ in range(200):
        try:
            socket.create_connection(scheduler).close()
            break
        except ConnectionRefusedError:
            __import__("time").sleep(0.05)
    print("I am", os.environ["DMLC_NODE_HOST"])
"""
STAY_ONCE = """
import os, time
print("here", flush=True)
if os.environ["MSPOSENET_ATTEMPT"] == "0":
    time.sleep(600)
elif os.environ["DMLC_ROLE"] != "worker":
    time.sleep(1)
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with network(3) as made:
        yield made


def script(text: str) -> list[str]:
    return [sys.executable, "-S", "-c", text]


def all_here(job) -> bool:
    return job.said.count("] here") == 6


def test_processes_run_on_their_hosts_and_reach_each_other(net, tmp_path):
    with running(net, tmp_path, script(MEET), 3, workers=3, servers=1) as job:
        assert job.end(30) == 0, job.said
    for number, address in enumerate(net.addresses):
        assert f"[worker {number}] I am {address}" in job.said
    assert f"[scheduler] met {' '.join(net.addresses)}" in job.said
    assert nothing_runs(net)


@pytest.mark.parametrize(
    "host",
    [
        pytest.param(0, id="of the scheduler"),
        pytest.param(2, id="of a worker and a server", marks=pytest.mark.thorough),
    ],
)
def test_a_host_that_is_cut_off_is_cleared_and_the_job_restarts_when_it_is_back(net, tmp_path, host):
    with running(net, tmp_path, script(STAY_ONCE), 3, workers=3, servers=2, settle=3.0, silence=PATIENCE) as job:
        job.until(lambda: all_here(job), 20)
        net.link_down(host)
        try:
            # The scripts do not notice: the agent of the cut host ends its own, the launcher those of the others.
            took = job.until(lambda: not any("sleep(600" in text for text in running_on(net)), PATIENCE + 10)
            assert took > PATIENCE / 2
            job.until(lambda: not net.processes(host), 5)
            job.until(lambda: f"waiting for {net.addresses[host]}" in job.said, 30)
        finally:
            net.link_up(host)
        assert job.end(30) == 0, job.said
    assert "restart 1 of 3" in job.said and "restart 2" not in job.said
    assert nothing_runs(net)


@pytest.mark.thorough
def test_a_host_that_stays_away_ends_the_job(net, tmp_path):
    with running(net, tmp_path, script(STAY_ONCE), 3, workers=3, servers=2, host_wait=3.0) as job:
        job.until(lambda: all_here(job), 20)
        net.link_down(1)
        try:
            assert job.end(60) == 75
            assert f"{net.addresses[1]} did not come back within 3 s" in job.said
            assert nothing_runs(net)
        finally:
            net.link_up(1)


def test_nothing_survives_a_killed_launcher_even_where_the_news_does_not_come(net, tmp_path):
    with running(net, tmp_path, script(STAY_ONCE), 3, workers=3, servers=2) as job:
        job.until(lambda: all_here(job), 20)
        net.link_down(2)
        try:
            job.process.kill()
            deadline = time.monotonic() + SILENCE + 10
            while not nothing_runs(net) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert nothing_runs(net), running_on(net)
        finally:
            net.link_up(2)


def running_on(net: Network) -> list[str]:
    return [text for host in range(net.count) for text in net.processes(host).values()]
