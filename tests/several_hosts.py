"""Several hosts on one machine: network namespaces on a switch, an sshd in each, links that have a rate and a delay.

    with network(2, rate_mbit=100) as net:
        net.run(0, ["ping", "-c1", net.addresses[1]])
        subprocess.run([*net.ssh, net.addresses[0], "date"])     # from this machine itself
        net.link_down(1)

The switch is a bridge in a namespace of its own, so no firewall rule of the machine meets its frames; one link leads
from it to the machine itself (`net.own_address`). The hosts share files and process numbers, as machines with a network
file system share files; their interfaces, ports and connections are their own. Names hold this process's number.

Everything is removed when the block ends; if this process is killed instead, a second one (the caretaker) notices and
removes it. Only the folder /run/sshd stays, which every sshd of Debian wants and which others may be using.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import frame_relay
import pytest
from namespaces import (
    DEADLINE,
    SYSTEM_PATH,
    bridge,
    call,
    caretaker,
    free_subnet,
    ip,
    one_at_a_time,
    pair,
    pids_in,
    quiet_ipv6,
    remove,
    succeeds,
    why_no_namespaces,
)

BURST_SECONDS = 0.004  # with 1 ms a busy machine loses 5 % of 400 Mbit/s to late timers, with 4 ms 1 %
SMALLEST_BURST = 16_000  # bytes: ten frames
QUEUE_MS = 50  # how long a shaped link's queue may get before it drops, as in a switch
OWN_HOST = 254
SSHD_CONFIG = """\
ListenAddress {address}
HostKey {folder}/host_key
PidFile {folder}/sshd.pid
AuthorizedKeysFile {folder}/../identity.pub
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PrintMotd no
UseDNS no
MaxStartups 100
"""

_numbers = itertools.count(1)


class Network:
    """Hosts 0 ... count-1; made by `network`."""

    def __init__(self, name: str, folder: Path, count: int):
        self.name, self.folder, self.count = name, folder, count
        self.switch = f"{name}-switch"
        self.addresses: list[str] = []
        self.own_address = ""
        self._rates: list[float | None] = [None] * count
        self._delays: list[float] = [0.0] * count
        self._relays: dict[int, subprocess.Popen] = {}
        self._netem = False
        self._daemons: list[subprocess.Popen] = []

    # What a launcher is told.

    @property
    def ssh(self) -> list[str]:
        """The ssh command up to the host: this network's key, and only the host keys that it made are trusted."""
        return self.ssh_with()

    def ssh_with(self, **changes) -> list[str]:
        """The same with some of its options changed or added."""
        options = {
            "IdentityFile": self.folder / "identity",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.folder / "known_hosts",
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": 3,
            **changes,
        }
        return [
            "ssh",
            "-F",
            "/dev/null",
            *(word for key, value in options.items() for word in ("-o", f"{key}={value}")),
        ]

    @property
    def ssh_text(self) -> str:
        """The same as one text, for a shell or an option."""
        return shlex.join(self.ssh)

    @property
    def hostfile(self) -> Path:
        """A file with the hosts' addresses, one a line."""
        path = self.folder / "hosts"
        path.write_text("".join(f"{address}\n" for address in self.addresses))
        return path

    # What happens on a host.

    def inside(self, host: int) -> list[str]:
        """Words before a command that is to run on a host; the command keeps the process number."""
        return ["ip", "netns", "exec", self.namespace(host)]

    def run(self, host: int, command: list, **options) -> subprocess.CompletedProcess:
        """Run a command on a host to its end; its output is captured as text."""
        words = [*self.inside(host), *map(str, command)]
        return subprocess.run(words, **{"capture_output": True, "text": True, **options})

    def start(self, host: int, command: list, **options) -> subprocess.Popen:
        return subprocess.Popen([*self.inside(host), *map(str, command)], **options)

    def processes(self, host: int) -> dict[int, str]:
        """Process number -> command line of what runs on a host, without its sshd and that one's sessions."""
        found = {}
        for pid in pids_in(self.namespace(host)):
            with contextlib.suppress(OSError):
                if Path(os.readlink(f"/proc/{pid}/exe")).name.startswith("sshd"):
                    continue
                words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
                found[pid] = shlex.join(word.decode(errors="replace") for word in words)
        return found

    def bytes_sent(self, host: int) -> int:
        """Bytes that left a host since the start (a 64 KB segment counts its headers once: 4 % less than on a wire)."""
        return self._statistics(host)["tx"]["bytes"]

    def bytes_received(self, host: int) -> int:
        return self._statistics(host)["rx"]["bytes"]

    # What happens to a link.

    def link_down(self, host: int) -> None:
        """Pull the host's plug at the switch: both sides lose the carrier, nothing is told to anybody's connections."""
        ip("-n", self.switch, "link", "set", f"port{host}", "down")

    def link_up(self, host: int) -> None:
        ip("-n", self.switch, "link", "set", f"port{host}", "up")

    def set_rate(self, host: int, mbit: float | None) -> None:
        """Rate of the host's link, each way, in 10^6 bit/s of frames (95.6 % of them TCP payload); None: no limit."""
        self._rates[host] = mbit
        self._shape(host)

    def set_delay(self, host: int, milliseconds: float) -> None:
        """How long a frame takes through the host's link, each way; a round trip between two hosts pays both twice.

        With netem where the kernel has it; else the link is cut for some milliseconds the first time, while a relay
        is put between it and the switch. Skips the test where neither can be had.
        """
        self._delays[host] = milliseconds
        if self._netem:
            self._shape(host)
        elif host in self._relays:
            self._relays[host].stdin.write(f"{milliseconds}\n")
            self._relays[host].stdin.flush()
        elif milliseconds:
            self._insert_relay(host)

    # How it is made.

    def namespace(self, host: int) -> str:
        return f"{self.name}-host{host}"

    def _build(self) -> None:
        for namespace in (self.switch, *map(self.namespace, range(self.count))):
            ip("netns", "add", namespace)
            quiet_ipv6(namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
        ip("-n", self.switch, *bridge("switch0"))
        ip("-n", self.switch, "link", "set", "switch0", "up")
        with one_at_a_time():
            subnet = free_subnet()
            ip(*pair(self.name, "own0"), "netns", self.switch)
            quiet_ipv6(None, self.name)
            self.own_address = str(subnet[OWN_HOST])
            ip("addr", "add", f"{self.own_address}/24", "dev", self.name)
            ip("link", "set", self.name, "up")
        self._plug("own0", "switch0")
        for host in range(self.count):
            namespace, address = self.namespace(host), str(subnet[host + 1])
            ip("-n", namespace, *pair("eth0", f"port{host}"), "netns", self.switch)
            ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", namespace, "link", "set", "eth0", "up")
            self._plug(f"port{host}", "switch0")
            self.addresses.append(address)
        self._netem = succeeds("tc", "-n", self.switch, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")

    def _plug(self, port: str, into: str) -> None:
        ip("-n", self.switch, "link", "set", port, "master", into)
        ip("-n", self.switch, "link", "set", port, "up")

    def _start_sshds(self) -> None:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        program = shutil.which("sshd", path=SYSTEM_PATH)  # must be an absolute path: it starts itself anew
        _new_key(self.folder / "identity")
        logs = []
        for host, address in enumerate(self.addresses):
            folder = self.folder / f"host{host}"
            folder.mkdir()
            _new_key(folder / "host_key")
            (folder / "sshd_config").write_text(SSHD_CONFIG.format(address=address, folder=folder))
            with open(self.folder / "known_hosts", "a") as known:
                known.write(f"{address} {(folder / 'host_key.pub').read_text()}")
            logs.append(folder / "sshd.log")
            with open(logs[-1], "wb") as log:
                streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
                command = [program, "-D", "-e", "-f", folder / "sshd_config"]
                self._daemons.append(self.start(host, command, start_new_session=True, **streams))
        for daemon, log in zip(self._daemons, logs):
            _wait_until(lambda log=log: b"Server listening" in log.read_bytes(), daemon, log)

    def _statistics(self, host: int) -> dict:
        return json.loads(ip("-n", self.namespace(host), "-json", "-stats", "link", "show", "eth0"))[0]["stats64"]

    def _shape(self, host: int) -> None:
        """Give both ends of the host's link their queues: netem for the delay and, inside it, tbf for the rate."""
        rate, delay = self._rates[host], self._delays[host] if self._netem else 0
        for namespace, device in ((self.namespace(host), "eth0"), (self.switch, f"port{host}")):
            qdisc = ["tc", "-n", namespace, "qdisc"]
            succeeds(*qdisc, "del", "dev", device, "root")
            where = ["root"]
            if delay:
                call(
                    *qdisc,
                    "add",
                    "dev",
                    device,
                    *where,
                    "handle",
                    "1:",
                    "netem",
                    "delay",
                    f"{delay}ms",
                    "limit",
                    100_000,
                )
                where = ["parent", "1:1"]
            if rate:
                burst = int(max(SMALLEST_BURST, rate * 1e6 / 8 * BURST_SECONDS))
                tbf = ["tbf", "rate", f"{rate}mbit", "burst", burst, "latency", f"{QUEUE_MS}ms"]
                call(*qdisc, "add", "dev", device, *where, *tbf)

    def _insert_relay(self, host: int) -> None:
        """Between the host's port and the switch: port - small bridge - TAP - relay - TAP - switch."""
        try:
            os.close(os.open(frame_relay.TUN, os.O_RDWR))
        except OSError as error:
            pytest.skip(f"several hosts: no delay here: neither netem nor {frame_relay.TUN} ({error.strerror})")
        near, far, wire, log = f"near{host}", f"far{host}", f"wire{host}", self.folder / f"relay{host}.log"
        prefix = ["ip", "netns", "exec", self.switch, sys.executable, "-S", frame_relay.__file__]
        with open(log, "wb") as stderr:
            self._relays[host] = subprocess.Popen(
                [*prefix, near, far, str(self._delays[host])],
                stdin=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )
        devices = [("ip", "-n", self.switch, "link", "show", device) for device in (near, far)]
        _wait_until(lambda: all(succeeds(*words) for words in devices), self._relays[host], log)
        ip("-n", self.switch, *bridge(wire))
        ip("-n", self.switch, "link", "set", wire, "up")
        self._plug(near, wire)
        self._plug(far, "switch0")
        ip("-n", self.switch, "link", "set", f"port{host}", "master", wire)


@contextlib.contextmanager
def network(count: int, rate_mbit: float | None = None, delay_ms: float = 0.0) -> Iterator[Network]:
    """`count` hosts joined by a switch, with `rate_mbit` and `delay_ms` on each host's link, each way."""
    reason = why_no_namespaces()
    if reason:
        pytest.skip(f"several hosts: {reason}")
    name = f"mh{os.getpid()}n{next(_numbers)}"
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder, caretaker(name, folder):
        net = Network(name, Path(folder), count)
        try:
            net._build()
            for host in range(count):
                net.set_rate(host, rate_mbit)
                net.set_delay(host, delay_ms)
            net._start_sshds()
            yield net
        finally:
            remove(name)
            for child in (*net._daemons, *net._relays.values()):
                child.communicate(timeout=DEADLINE)


def _new_key(path: Path) -> None:
    call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", path)


def _wait_until(condition, process: subprocess.Popen, log: Path) -> None:
    """Wait for something that `process` is to bring about; an error with its log if it ends or takes too long."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{shlex.join(map(str, process.args))} did not come up: {log.read_text()}")
        time.sleep(0.01)
