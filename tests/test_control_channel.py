"""The control channel between the processes of a job: ranks, collectives, and every way to lose a process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from msposenet.distributed.group import Alone
from msposenet.distributed.hub import Hub
from msposenet.distributed.member import Member
from msposenet.distributed.roles import Place, find_place
from msposenet.errors import ConfigError, PeerError

# Members end by an exception in their thread here; outside tests the process ends.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

LIMIT = 2.0  # seconds of silence; everything below must be over within it and some
SLACK = 4.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def place(role: str, number: int | None, workers: int, servers: int, port: int, **changes) -> Place:
    return Place(role, number, workers, servers, "127.0.0.1", 9, port, changes.pop("host", ""), **changes)


class Job:
    """A hub in this process and members in threads; `ends` collects what each was told when the job ended."""

    def __init__(self, workers: int = 2, servers: int = 1, limit: float = LIMIT, start: float = 5.0) -> None:
        self.port, self.workers, self.servers, self.limit, self.start = free_port(), workers, servers, limit, start
        self.ends: list[tuple[str, str, int]] = []
        self.over = threading.Event()
        self.hub = Hub(place("scheduler", None, workers, servers, self.port), limit, start, self._ended("hub"))

    def _ended(self, who: str):
        def on_lost(why: str, code: int) -> None:
            self.ends.append((who, why, code))
            self.over.set()
            if who != "hub":
                raise SystemExit  # ends the thread; a process would be gone

        return on_lost

    def member(self, role: str, number: int | None, **changes) -> Member:
        where = place(role, number, self.workers, self.servers, self.port, **changes)
        return Member(where, self.limit, self.start, self._ended(f"{role} {number}"))

    def all_members(self, numbers: list[int | None] | None = None, hosts: list[str] | None = None) -> list[Member]:
        """Servers and workers, joined at the same time; workers in the order of `numbers`."""
        numbers = list(range(self.workers)) if numbers is None else numbers
        hosts = hosts or [""] * self.workers
        with ThreadPoolExecutor() as pool:
            servers = [pool.submit(self.member, "server", i) for i in range(self.servers)]
            workers = []
            for number, host in zip(numbers, hosts):
                workers.append(pool.submit(self.member, "worker", number, host=host))
                time.sleep(0.05)  # in this order
            self.server_members = [server.result() for server in servers]
            return [worker.result() for worker in workers]


@contextlib.contextmanager
def job(**options) -> Iterator[Job]:
    here = Job(**options)
    try:
        yield here
    finally:
        here.hub.close()


def together(members: list[Member], call) -> list:
    with ThreadPoolExecutor(len(members)) as pool:
        return list(pool.map(call, members))


def test_workers_get_the_launchers_numbers_and_collectives_keep_their_order():
    with job(workers=4, servers=2) as here:
        members = here.all_members(numbers=[2, 0, 3, 1])
        assert [member.rank for member in members] == [2, 0, 3, 1]

        def talk(member: Member):
            seen = [member.all("name", {"rank": member.rank, "value": 0.1 * member.rank})]
            for turn in range(20):
                seen.append(member.gather("bytes", bytes([member.rank, turn]) * 1000))
            seen.append(member.share("blob", os.urandom(3 << 20) if member.rank == 0 else None))
            seen.append(member.all("end", member.rank))
            return seen

        told = together(members, talk)
        by_rank = {member.rank: seen for member, seen in zip(members, told)}
        for seen in told:
            assert [value["rank"] for value in seen[0]] == [0, 1, 2, 3]
            assert seen[0][3]["value"] == 0.1 * 3
            assert seen[-1] == [0, 1, 2, 3]
            assert seen[-2] == by_rank[0][-2] and len(seen[-2]) == 3 << 20
        for turn in range(20):
            assert by_rank[0][1 + turn] == [bytes([rank, turn]) * 1000 for rank in range(4)]
            assert all(by_rank[rank][1 + turn] is None for rank in (1, 2, 3))
        for member in [*members, *here.server_members]:
            member.close()
        time.sleep(0.3)
        assert here.hub.finished and here.hub.quiet and not here.ends


@pytest.mark.parametrize("numbers", [[None, None, None], [0, 0, 1], [5, 1, 2]])
def test_without_usable_numbers_workers_are_ranked_by_host_and_order_of_coming(numbers):
    with job(workers=3, servers=1) as here:
        members = here.all_members(numbers=numbers, hosts=["b", "a", "b"])
        assert [member.rank for member in members] == [1, 0, 2]


def test_different_calls_end_the_job_as_diverged():
    with job() as here:
        members = here.all_members()
        for member, what in zip(members, ("step 6", "step 5")):
            threading.Thread(target=member.all, args=(what, None), daemon=True).start()
        assert here.over.wait(SLACK)
        time.sleep(0.5)
        assert {code for _, _, code in here.ends} == {3}
        assert all("'step 6'" in why and "'step 5'" in why for _, why, _ in here.ends)
        assert len(here.ends) == 4  # the hub, two workers, the server


def test_a_failing_process_takes_the_others_along():
    for code, expected in ((2, 75), (4, 75), (3, 3)):
        with job() as here:
            members = here.all_members()
            members[1].fail("the disk is full", code)
            assert here.over.wait(SLACK)
            time.sleep(0.3)
            assert {end for _, _, end in here.ends} == {expected}
            assert sorted(who for who, _, _ in here.ends) == ["hub", "server 0", "worker 0"]
            assert all("worker 1" in why and "the disk is full" in why for _, why, _ in here.ends)


def test_a_sigterm_is_told_to_all_and_ends_a_job_that_has_not_begun():
    with job() as here:
        members = here.all_members()
        here.server_members[0].ask_to_stop()
        ends = time.monotonic() + SLACK
        while not all(member.stop_requested for member in members):
            assert time.monotonic() < ends
            time.sleep(0.01)
        assert not here.ends
    with job() as here:
        threading.Thread(target=here.member, args=("worker", 1), daemon=True).start()
        time.sleep(0.3)
        here.hub.ask_to_stop()
        assert here.over.wait(SLACK)
        time.sleep(0.3)
        assert {(who, code) for who, _, code in here.ends} == {("hub", 143), ("worker 1", 143)}


def test_no_progress_ends_the_job_and_waiting_for_others_is_no_stall(capfd):
    with job(limit=1.5) as here:
        members = here.all_members()
        members[0].phase("step 7")
        threading.Thread(target=members[0].all, args=("step 7", None), daemon=True).start()  # waits for worker 1
        members[1].phase("reading a slow disk", 9.0)
        time.sleep(2.5)
        assert not here.ends  # worker 0 waits legitimately, worker 1 has its own limit
        members[1].phase("step 7")
        assert here.over.wait(SLACK)
        time.sleep(0.5)
        assert {code for _, _, code in here.ends} == {75}
        assert all("worker 1" in why and "no progress for 1.5 s in 'step 7'" in why for _, why, _ in here.ends)
    assert "most recent call first" in capfd.readouterr().err


def test_strangers_and_other_jobs_are_turned_away():
    with job() as here:
        with socket.create_connection(("127.0.0.1", here.port)) as scanner:
            scanner.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with socket.create_connection(("127.0.0.1", here.port)) as scanner:
            scanner.sendall(b"\x00" * 3)
        refused: list[str] = []
        with pytest.raises(PeerError):  # a process would have ended at the refusal
            Member(place("worker", 0, 2, 1, here.port, attempt=1), LIMIT, 1.0, lambda why, code: refused.append(why))
        assert "another attempt" in refused[0]
        members = here.all_members()
        assert [member.rank for member in members] == [0, 1]
        assert together(members, lambda member: member.all("x", member.rank)) == [[0, 1], [0, 1]]
        assert not here.ends


def test_missing_processes_are_named():
    with job(start=1.0) as here:
        threading.Thread(target=here.member, args=("worker", 1), daemon=True).start()
        assert here.over.wait(SLACK)
        assert "only worker 1 on" in here.ends[0][1] and "2 workers and 1 servers" in here.ends[0][1]
    with pytest.raises(PeerError, match=r"no control channel at 127\.0\.0\.1:\d+ within 0\.5 s"):
        Member(place("worker", 0, 1, 1, free_port()), LIMIT, 0.5)


def test_a_taken_port_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PeerError, match=f"port {port}.*MSPOSENET_CONTROL_PORT"):
            Hub(place("scheduler", None, 1, 1, port), 1, 1, lambda why, code: None)


PROCESS = """
import json, os, sys, threading, time
from msposenet.distributed.leaving import leave
from msposenet.distributed.member import Member
from msposenet.distributed.hub import Hub
from msposenet.distributed.roles import Place
role, number, port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
place = Place(role, number, 2, 1, "127.0.0.1", 9, port, "")
if role == "scheduler":
    Hub(place, 2.0, 20.0, leave)
else:
    member = Member(place, 2.0, 20.0)
    if role == "worker":
        member.all("hello", None)
    if os.fork() == 0:  # a loader worker that holds whatever it inherited
        os.closerange(0, 3)
        time.sleep(20)
        os._exit(0)
print("ready", flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("victim", ["scheduler", "server", "worker"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_losing_any_process_ends_all_the_others(victim, how):
    port = free_port()
    roles = [("scheduler", 0), ("server", 0), ("worker", 0), ("worker", 1)]
    processes = {
        (role, number): subprocess.Popen(
            [sys.executable, "-c", PROCESS, role, str(number), str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for role, number in roles
    }
    try:
        for process in processes.values():
            assert process.stdout.readline() == "ready\n"
        dead = processes.pop((victim, 0))
        dead.send_signal(how)
        start = time.monotonic()
        for who, process in processes.items():
            assert process.wait(timeout=10) == 75, who
            words = {"scheduler": "scheduler", "server": "server 0", "worker": "worker 0"}[victim]
            error = process.stderr.read()
            assert words in error, error
        # A dead process is known at once, a stopped one after the limit of 2 s.
        assert time.monotonic() - start < (2.0 if how == signal.SIGKILL else 5.0)
    finally:
        for process in [*processes.values(), dead]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_leaving_is_not_held_up_by_a_pipe_that_is_closed_or_full():
    fill = "os.set_blocking(2, False)\nwhile True:\n try: os.write(2, bytes(4096))\n except BlockingIOError: break\n"
    for prepare in ("", f"{fill}os.set_blocking(2, True)\n"):
        code = f"import os\n{prepare}from msposenet.distributed.leaving import leave\nos.read(0, 1)\nleave('gone', 75)"
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        if not prepare:
            process.stderr.close()
        try:
            process.stdin.write(b"x")
            process.stdin.flush()
            assert process.wait(timeout=20) == 75
        finally:
            process.kill()
            process.wait()


def test_a_stopped_hub_is_noticed_while_a_member_is_stuck_sending():
    port = free_port()
    hub = (
        "import sys, time\nfrom msposenet.distributed.hub import Hub\nfrom msposenet.distributed.leaving import leave\n"
        "from msposenet.distributed.roles import Place\n"
        f"Hub(Place('scheduler', None, 1, 1, '127.0.0.1', 9, {port}, ''), 3.0, 20.0, leave)\n"
        "print('ready', flush=True)\ntime.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", hub], stdout=subprocess.PIPE)
    told, over = [], threading.Event()

    def on_lost(why: str, code: int) -> None:
        told.append((why, code))
        over.set()
        raise SystemExit

    try:
        process.stdout.readline()
        with ThreadPoolExecutor() as pool:
            server = pool.submit(Member, place("server", 0, 1, 1, port), 30.0, 20.0, lambda why, code: None)
            member = Member(place("worker", 0, 1, 1, port), 3.0, 20.0, on_lost)
            server.result()
        process.send_signal(signal.SIGSTOP)
        threading.Thread(target=member.gather, args=("statistics", bytes(256 << 20)), daemon=True).start()
        assert over.wait(20)
        assert "no sign of life for 3 s" in told[0][0] and told[0][1] == 75
    finally:
        process.kill()
        process.wait()


LAUNCHED = {
    "DMLC_ROLE": "worker",
    "DMLC_PS_ROOT_URI": "10.0.0.1",
    "DMLC_PS_ROOT_PORT": "9091",
    "DMLC_NUM_WORKER": "4",
    "DMLC_NUM_SERVER": "2",
}


def test_places_are_read_from_launch_pys_variables():
    assert find_place({}) is None
    assert find_place(LAUNCHED) == Place("worker", None, 4, 2, "10.0.0.1", 9091, 9092, "")
    numbered = find_place({**LAUNCHED, "DMLC_TASK_ID": "3", "DMLC_NODE_HOST": "10.0.0.7", "MSPOSENET_ATTEMPT": "2"})
    assert numbered == Place("worker", 3, 4, 2, "10.0.0.1", 9091, 9092, "10.0.0.7", 2)
    server = find_place({**LAUNCHED, "DMLC_ROLE": "server", "DMLC_TASK_ID": "5", "MSPOSENET_CONTROL_PORT": "77"})
    assert (server.number, server.control_port, server.title) == (1, 77, "server 1")
    assert find_place({**LAUNCHED, "DMLC_TASK_ID": "9", "DMLC_WORKER_ID": "2"}).number == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DMLC_ROLE", "boss"),
        ("DMLC_PS_ROOT_URI", ""),
        ("DMLC_PS_ROOT_PORT", "http"),
        ("DMLC_PS_ROOT_PORT", "70000"),
        ("DMLC_NUM_WORKER", "0"),
        ("DMLC_NUM_SERVER", "-1"),
        ("MSPOSENET_CONTROL_PORT", "9091"),
        ("DMLC_WORKER_ID", "x"),
    ],
)
def test_a_variable_that_does_not_fit_is_named(name, value):
    with pytest.raises(ConfigError, match=name):
        find_place({**LAUNCHED, name: value})


def test_alone_there_is_nothing_to_do():
    group = Alone()
    assert group.all("x", 1) == [1] and group.gather("x", b"1") == [b"1"] and group.share("x", b"1") == b"1"
    group.ask_to_stop()
    assert group.stop_requested and json.dumps(group.size) == "1"
