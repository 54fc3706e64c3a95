"""Several hosts on one machine (tests/several_hosts.py): that they are what they claim to be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from faults import BECOME_NOBODY, run_python
from namespaces import namespaces
from several_hosts import Network, network
from tcp_rate import PAYLOAD_SHARE, payload_mbit

# Root as containers have it: prctl(PR_CAPBSET_DROP, CAP_SYS_ADMIN), which takes effect with the next program.
WITHOUT_RIGHTS = "import ctypes; ctypes.CDLL(None).prctl(24, 21, 0, 0, 0)"


@pytest.fixture(scope="module")
def net():
    with network(3) as made:
        yield made


def reaches(net: Network, source: int, target: int) -> bool:
    return net.run(source, ["ping", "-q", "-c1", "-W1", net.addresses[target]]).returncode == 0


def round_trip_ms(net: Network, source: int, target: int) -> float:
    """The shortest of many: other processes of the machine only add to it."""
    said = net.run(source, ["ping", "-q", "-c20", "-i0.03", net.addresses[target]], check=True).stdout
    return float(said.split("rtt min/avg/max/mdev = ")[1].split("/")[0])


def best_mbit(net: Network, source: int, target: int, wanted: float) -> float:
    """The fastest of up to four tries: other processes of the machine only take from it."""
    best = 0.0
    for _ in range(4):
        best = max(best, payload_mbit(net, source, target))
        if best > wanted:
            break
    return best


def shaped(net: Network, source: int, target: int, mbit: float) -> bool:
    """Whether a rate holds: hardly more than it comes through, but on a busy machine it may be much less."""
    payload = mbit * PAYLOAD_SHARE
    return 0.5 * payload <= best_mbit(net, source, target, 0.5 * payload) <= 1.15 * payload


def traces(name: str) -> list[str]:
    """Whatever carries the name of a network: namespaces, the link, processes, the folder."""
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True).stdout.splitlines()
    commands = [path for path in Path("/proc").glob("[0-9]*/cmdline") if name.encode() in read(path)]
    folders = [str(path) for path in Path(tempfile.gettempdir()).glob(f"{name}-*")]
    return [text for text in (*namespaces(), *links) if text.startswith(name)] + list(map(str, commands)) + folders


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # the process has just ended
        return b""


def test_every_host_lets_this_machine_in_through_ssh(net):
    for address in net.addresses:
        command = [*net.ssh, address, "cat; ip -brief -4 address show dev eth0"]
        said = subprocess.run(command, input="words\n", capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        words, own = said.stdout.splitlines()
        assert words == "words" and f"{address}/24" in own


def test_hosts_let_each_other_in(net):
    said = net.run(0, [*net.ssh, net.addresses[2], "echo $SSH_CONNECTION; exit 7"])
    assert said.returncode == 7
    assert said.stdout.split()[0] == net.addresses[0]


def test_ssh_trusts_no_other_host_and_no_other_key(net):
    cases = {
        "Host key verification failed": net.ssh_with(HostKeyAlias=net.addresses[1]),
        "Permission denied": net.ssh_with(IdentityFile=net.folder / "host0" / "host_key"),
    }
    for expected, command in cases.items():
        said = subprocess.run([*command, net.addresses[0], "true"], capture_output=True, text=True)
        assert said.returncode == 255 and expected in said.stderr


def test_hostfile_lists_the_hosts(net):
    assert net.hostfile.read_text().split() == net.addresses


def test_processes_are_told_apart_by_host(net):
    with net.start(1, ["sleep", "60"]) as sleeper:
        try:
            deadline = time.monotonic() + 5
            while net.processes(1) != {sleeper.pid: "sleep 60"} and time.monotonic() < deadline:
                time.sleep(0.01)
            assert net.processes(1) == {sleeper.pid: "sleep 60"}
            assert net.processes(0) == net.processes(2) == {}
        finally:
            sleeper.kill()


def test_a_link_that_is_down_carries_nothing_and_comes_back(net):
    assert reaches(net, 0, 1)
    net.link_down(1)
    assert not reaches(net, 0, 1) and not reaches(net, 1, 2)
    assert reaches(net, 0, 2)
    net.link_up(1)
    # The hosts asked for each other's addresses in vain meanwhile, and ask again after a pause.
    for source, target in ((0, 1), (1, 2)):
        assert any(reaches(net, source, target) for _ in range(10)), f"{source} -> {target}"


@pytest.mark.parametrize(
    "mbit", [pytest.param(20, marks=pytest.mark.thorough), 100, pytest.param(400, marks=pytest.mark.thorough)]
)
def test_a_rate_holds_both_ways(net, mbit):
    net.set_rate(0, mbit)
    try:
        sent, received = net.bytes_sent(0), net.bytes_received(0)
        for source, target in ((0, 1), (1, 0)):
            assert shaped(net, source, target, mbit), f"{source} -> {target}"
        for counted in (net.bytes_sent(0) - sent, net.bytes_received(0) - received):
            assert counted > 0.4 * mbit * 1e6 / 8
    finally:
        net.set_rate(0, None)
    if mbit <= 100:  # a busy machine may not come beyond the others
        assert best_mbit(net, 0, 1, 1.3 * mbit) > 1.3 * mbit  # no limit any more


def test_a_delay_holds_also_at_a_rate():
    with network(2, rate_mbit=100, delay_ms=5) as slow:
        assert 20 <= round_trip_ms(slow, 0, 1) <= 100
        assert shaped(slow, 0, 1, 100)
        slow.set_delay(1, 15)
        assert 40 <= round_trip_ms(slow, 1, 0) <= 200
        slow.link_down(1)
        assert not reaches(slow, 0, 1)
        slow.link_up(1)
        assert reaches(slow, 0, 1)


def test_networks_side_by_side_do_not_meet(net):
    with network(1) as other:
        assert other.addresses[0].rsplit(".", 1)[0] != net.addresses[0].rsplit(".", 1)[0]
        assert net.run(0, ["ping", "-q", "-c1", "-W1", other.addresses[0]]).returncode != 0


def test_nothing_is_left_after_a_failure():
    with pytest.raises(ZeroDivisionError), network(2, delay_ms=1) as made:
        made.start(0, ["sleep", "60"])
        client = subprocess.Popen([*made.ssh, made.addresses[1], "echo in; sleep 60"], stdout=subprocess.PIPE)
        assert client.stdout.readline() == b"in\n"
        made.link_down(1)
        assert len(traces(made.name)) > 6
        _ = 1 / 0
    client.communicate(timeout=5)
    assert client.returncode == -signal.SIGKILL
    assert traces(made.name) == []


def test_nothing_is_left_when_the_process_is_killed(net):
    code = (
        "import time; from several_hosts import network\n"
        "with network(2, delay_ms=1) as made:\n"
        "    made.start(0, ['sleep', '60'])\n"
        "    print(made.name, flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        name = process.stdout.readline().strip()
        assert len(traces(name)) > 6
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while traces(name) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert traces(name) == []


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (BECOME_NOBODY, "several hosts: needs root"),
        ("namespaces.SYSTEM_PATH = ''", "several hosts: ip, tc, ssh, ssh-keygen, sshd not found"),
        (WITHOUT_RIGHTS, "several hosts: `ip netns add"),
    ],
)
def test_skips_with_one_line_where_it_cannot_be(before, reason):
    code = (
        f"import os, pytest, namespaces, several_hosts\n{before}\n"
        "try:\n    with several_hosts.network(2): print('made')\n"
        "except pytest.skip.Exception as skip: print(skip)"
    )
    said = run_python(code)
    assert said.stdout.startswith(reason) and said.stdout.count("\n") == 1, said.stderr
