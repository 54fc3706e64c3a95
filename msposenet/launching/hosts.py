"""The hosts of a job: reading a host file, and which process runs where."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from msposenet.errors import ConfigError

# A name that begins with a dash would be an option of ssh.
_WHERE = re.compile(r"(?:(?P<user>[A-Za-z0-9_][\w.-]*)@)?(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?::(?P<port>\d{1,5}))?")
_FORMS = "write NAME, NAME:PORT or USER@NAME, then if need be slots=N and address=IP"


@dataclass(frozen=True)
class Host:
    """A machine of the job. `address`: the IPv4 address at which the other hosts reach it."""

    name: str
    address: str
    user: str = ""
    port: Optional[int] = None  # of its sshd; as ssh is configured when left out
    slots: Optional[int] = None  # workers it takes; none: as many as its turns bring

    def __str__(self) -> str:
        return self.name if self.port is None else f"{self.name}:{self.port}"

    @property
    def destination(self) -> str:
        """As ssh wants it."""
        return f"{self.user}@{self.name}" if self.user else self.name


LOCAL = Host("this machine", "127.0.0.1")


def read_hosts(path: Path) -> tuple[Host, ...]:
    """The hosts of a file of lines `name`, `name:port`, `user@name`, each with `slots=N` and `address=IP` if wanted.

    What follows a # is a comment. A host named more than once has a slot for every time, as in the files of batch
    systems. Names are resolved here, to IPv4. Raises ConfigError naming file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a host file: {error}") from None
    hosts: dict[tuple[str, str, Optional[int]], Host] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        host = _parse(words, f"{path}, line {number}")
        key = (host.user, host.name, host.port)
        if key in hosts:
            first = hosts[key]
            host = dataclasses.replace(first, slots=(first.slots or 1) + (host.slots or 1))
        hosts[key] = host
    if not hosts:
        raise ConfigError(f"{path}: names no host; {_FORMS}")
    _check_reach(path, list(hosts.values()))
    return tuple(hosts.values())


def place_workers(hosts: Sequence[Host], workers: int) -> list[int]:
    """The host, as an index, of each worker: in turns, or with slots host after host, each filled before the next.

    Raises ConfigError when there are fewer slots than workers.
    """
    if all(host.slots is None for host in hosts):
        return [worker % len(hosts) for worker in range(workers)]
    places = [index for index, host in enumerate(hosts) for _ in range(1 if host.slots is None else host.slots)]
    if workers > len(places):
        raise ConfigError(
            f"{workers} workers, but the host file has {len(places)} slots; a host without slots= counts as one: "
            "raise slots= or give fewer workers"
        )
    return places[:workers]


def _parse(words: list[str], where: str) -> Host:
    match = _WHERE.fullmatch(words[0])
    if match is None:
        also = " (IPv6 is not supported)" if words[0].count(":") > 1 else ""
        raise ConfigError(f"{where}: {words[0]!r} is no host{also}; {_FORMS}")
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 0 < port < 65536:
        raise ConfigError(f"{where}: port {port} is not between 1 and 65535")
    slots = None
    address = ""
    for word in words[1:]:
        key, _, value = word.partition("=")
        if key == "slots" and value.isdecimal() and 0 < int(value) < 10000:
            slots = int(value)
        elif key == "address":
            address = _ipv4(value, where)
        else:
            raise ConfigError(f"{where}: {word!r} is not understood; {_FORMS}")
    return Host(match["name"], address or _resolve(match["name"], where), match["user"] or "", port, slots)


def _ipv4(text: str, where: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise ConfigError(f"{where}: address={text} is no IPv4 address such as 10.0.0.1") from None


def _resolve(name: str, where: str) -> str:
    try:
        return socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"{where}: no IPv4 address is known for {name!r} ({error}); if it is a name of your ssh configuration, "
            "add address=IP"
        ) from None


def _check_reach(path: Path, hosts: list[Host]) -> None:
    # Debian gives a machine's own name 127.0.1.1: the others would look for the scheduler on themselves.
    inward = [host for host in hosts if ipaddress.IPv4Address(host.address).is_loopback]
    if inward and len(inward) < len(hosts):
        raise ConfigError(
            f"{path}: {inward[0].name} is {inward[0].address} here, which no other host can reach; add "
            "address= with its address in the network"
        )
