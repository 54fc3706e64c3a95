"""Network namespaces, their links and addresses through iproute2, and how whatever was made is removed again."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

DEADLINE = 20.0
SYSTEM_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))


def call(*words) -> str:
    """Run a command; its standard output, or an error that holds what it said."""
    result = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{shlex.join(map(str, words))}: {result.stderr.strip()}")
    return result.stdout


def succeeds(*words) -> bool:
    return subprocess.run(list(map(str, words)), capture_output=True).returncode == 0


def ip(*words) -> str:
    return call("ip", *words)


def pair(name: str, peer: str) -> list[str]:
    """Words after `ip` for a cable with two ends."""
    return ["link", "add", name, "type", "veth", "peer", "name", peer]


def bridge(name: str) -> list[str]:
    """Words after `ip` for a switch whose ports forward at once."""
    return ["link", "add", name, "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0"]


def quiet_ipv6(namespace: str | None, device: str = "all") -> None:
    """No IPv6, whose own messages would be counted among the bytes sent; where there is none anyway, good."""
    prefix = ["ip", "netns", "exec", namespace] if namespace else []
    succeeds(*prefix, "sh", "-c", f"echo 1 > /proc/sys/net/ipv6/conf/{device}/disable_ipv6")


def pids_in(namespace: str) -> list[int]:
    listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True).stdout
    return [int(word) for word in listed.split()]


def namespaces() -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    return [line.split()[0] for line in listed.splitlines() if line.strip()]


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Keep two runs on this machine from choosing the same addresses."""
    with open(Path(tempfile.gettempdir()) / "msposenet-several-hosts.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def free_subnet() -> ipaddress.IPv4Network:
    """A /24 that no route of this machine meets: in 10.64.0.0/10, else in the range for measurements (RFC 2544)."""
    routes = json.loads(ip("-json", "-4", "route", "show", "table", "all"))
    used = [ipaddress.ip_network(route["dst"], strict=False) for route in routes if route["dst"] != "default"]
    for area in ("10.64.0.0/10", "198.18.0.0/15"):
        subnets = list(ipaddress.ip_network(area).subnets(new_prefix=24))
        first = os.getpid() % len(subnets)
        for subnet in subnets[first:] + subnets[:first]:
            if not any(subnet.overlaps(route) for route in used):
                return subnet
    raise RuntimeError("no free addresses in 10.64.0.0/10 and 198.18.0.0/15")


def why_no_namespaces() -> str:
    """Why this machine cannot have several hosts, or an empty text."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are a thing of Linux"
    if os.geteuid() != 0:
        return "needs root"
    missing = [tool for tool in ("ip", "tc", "ssh", "ssh-keygen", "sshd") if not shutil.which(tool, path=SYSTEM_PATH)]
    if missing:
        return f"{', '.join(missing)} not found (Debian: iproute2, openssh-client, openssh-server)"
    with contextlib.suppress(OSError):
        if any(line.startswith("root:!") for line in Path("/etc/shadow").read_text().splitlines()):
            return "root's account is locked (`!` in /etc/shadow), so no sshd lets it in"
    trial = f"mh{os.getpid()}trial"
    steps = (
        "ip netns add {0}",
        "ip -n {0} link add one type veth peer name other",
        "ip -n {0} link add both type bridge",
        "tc -n {0} qdisc add dev one root tbf rate 1mbit burst 10k latency 9ms",
        "ip netns exec {0} true",
    )
    try:
        for step in steps:
            result = subprocess.run(step.format(trial).split(), capture_output=True, text=True)
            if result.returncode:
                return f"`{step.format(trial)}` fails: {' '.join(result.stderr.split()) or 'no message'}"
    finally:
        remove(trial)
    return ""


def remove(name: str) -> None:
    """Remove what is left of the network `name`: processes, namespaces, the link. Removing twice does no harm."""
    for pid in _clients_of(name):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    for namespace in namespaces():
        if namespace != name and not namespace.startswith(f"{name}-"):
            continue
        deadline = time.monotonic() + DEADLINE
        while (pids := pids_in(namespace)) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        succeeds("ip", "netns", "del", namespace)
    # It goes with the other end's namespace, but the kernel clears those up in its own time.
    succeeds("ip", "link", "del", name)


def _clients_of(name: str) -> list[int]:
    """This machine's ssh processes that use the network's key: with nobody at the other end they stay for hours."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if os.path.basename(words[0]) == b"ssh" and any(f"/{name}-".encode() in word for word in words):
                found.append(int(path.parent.name))
    return found


def remove_all(name: str, folder: str) -> None:
    remove(name)
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def caretaker(name: str, folder: Path) -> Iterator[None]:
    """A process that removes the network and its folder if this one ends without having done so."""
    code = "import sys; sys.stdin.read() or __import__('namespaces').remove_all(*sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", code, name, str(folder)],
        stdin=subprocess.PIPE,
        start_new_session=True,
        cwd=Path(__file__).resolve().parent,
    )
    try:
        yield
    finally:
        process.communicate(b"removed")
