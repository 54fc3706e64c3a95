"""Which process of a job this is: the variables of MXNet's launch.py (DMLC_*), read once and validated."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from msposenet.errors import ConfigError

WORKER, SERVER, SCHEDULER = "worker", "server", "scheduler"
_ROLES = (WORKER, SERVER, SCHEDULER)
_CONTROL_PORT = "MSPOSENET_CONTROL_PORT"
_ATTEMPT = "MSPOSENET_ATTEMPT"
_MOST = 10_000  # processes of a kind


@dataclass(frozen=True)
class Place:
    """A process's place in its job.

    number: what the launcher calls this worker, 0 ... workers - 1, or None where it does not say; ps-lite's own ranks
    change from start to start. address, port: the scheduler's. control_port: of the control channel, which the
    scheduler's process hosts. attempt: how many times the job was started before.
    """

    role: str
    number: int | None
    workers: int
    servers: int
    address: str
    port: int
    control_port: int
    host: str
    attempt: int = 0

    @property
    def title(self) -> str:
        """How messages name this process."""
        return self.role if self.role == SCHEDULER or self.number is None else f"{self.role} {self.number}"


def find_place(environ: Mapping[str, str] | None = None) -> Place | None:
    """This process's place, None where no job was launched; ConfigError naming the variable that does not fit."""
    environ = os.environ if environ is None else environ
    role = environ.get("DMLC_ROLE")
    if role is None:
        return None
    if role not in _ROLES:
        raise ConfigError(f"DMLC_ROLE is {role!r}: a launcher sets {', '.join(_ROLES)}; unset it to train alone")
    if not environ.get("DMLC_PS_ROOT_URI"):
        raise ConfigError("DMLC_PS_ROOT_URI is not set: a launcher sets it to the scheduler's address")
    workers = _number(environ, "DMLC_NUM_WORKER", 1, _MOST)
    servers = _number(environ, "DMLC_NUM_SERVER", 1, _MOST)
    port = _number(environ, "DMLC_PS_ROOT_PORT", 1, 65534)
    control = _number(environ, _CONTROL_PORT, 1, 65535) if environ.get(_CONTROL_PORT) else port + 1
    if control == port:
        raise ConfigError(f"{_CONTROL_PORT} is {control}, which is the scheduler's own port; choose another")
    return Place(
        role=role,
        number=_own_number(environ, role, workers),
        workers=workers,
        servers=servers,
        address=environ["DMLC_PS_ROOT_URI"],
        port=port,
        control_port=control,
        host=environ.get("DMLC_NODE_HOST", ""),
        attempt=_number(environ, _ATTEMPT, 0, _MOST) if environ.get(_ATTEMPT) else 0,
    )


def _own_number(environ: Mapping[str, str], role: str, workers: int) -> int | None:
    """launch.py's local form numbers workers and then servers in DMLC_TASK_ID, its ssh form numbers nobody."""
    for name in ("DMLC_SERVER_ID" if role == SERVER else "DMLC_WORKER_ID", "DMLC_TASK_ID"):
        if environ.get(name):
            number = _number(environ, name, 0, 2 * _MOST)
            if role == SERVER and name == "DMLC_TASK_ID":
                number = number - workers if number >= workers else number
            return None if role == WORKER and number >= workers else number
    return None


def _number(environ: Mapping[str, str], name: str, least: int, most: int) -> int:
    text = environ.get(name, "")
    if not text.isdecimal() or len(text) > 9 or not least <= int(text) <= most:
        raise ConfigError(f"{name} is {text[:80]!r}: a launcher sets it to a number from {least} to {most}")
    return int(text)
