"""What is to run: the job, its processes and what each of them is told."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Optional

from msposenet.errors import ConfigError
from msposenet.launching.agent import OWN
from msposenet.launching.hosts import LOCAL, Host, place_workers

SSH = "ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=3"

# What somebody who tunes a job has exported counts on every host, as with MXNet's launch.py.
_PASSED_ON = ("DMLC_", "PS_", "MXNET_", "OMP_", "KMP_", "MSPOSENET_")
_NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Job:
    """A command that runs in every role, and how it is watched. Times are in seconds."""

    argv: Sequence[str]  # the whole command, the interpreter first
    workers: int
    servers: int
    hosts: Sequence[Host] = ()  # none: this machine, without ssh
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""  # on every host; the current directory when empty
    python: str = sys.executable  # runs the agents
    ssh: str = SSH  # with {host} in it: a command that takes the agent's words as they are, such as srun
    gpus_per_worker: int = 0  # 0: every worker sees every GPU
    resume_flag: str = "--auto-resume"  # added to the command when it is started again; empty: nothing is
    max_restarts: int = 3
    grace: float = 60.0  # to write a checkpoint after SIGTERM
    drain: float = 5.0  # for the others to leave by themselves when a process is lost
    settle: float = 10.0  # for servers and scheduler to leave when the workers are done
    silence: float = 20.0  # after which a host that says nothing is lost, and a host that hears nothing gives up
    connect_wait: float = 40.0  # for an agent to be ready
    host_wait: float = 600.0  # for lost hosts to come back
    retry_interval: float = 5.0  # between attempts to reach them
    first_pause: float = 1.0  # before the first restart; doubled for each further one up to 30

    def __post_init__(self) -> None:
        if not self.argv:
            raise ConfigError("a job needs a command")
        for name, least in (("workers", 1), ("servers", 1), ("max_restarts", 0), ("gpus_per_worker", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"a job with {name} = {getattr(self, name)}: give {least} or more")
        self._check_ssh()
        for name, value in self.env.items():
            if not _NAME.fullmatch(name) or "\0" in value:
                raise ConfigError(f"{name!r} cannot be the name of an environment variable with value {value!r}")
            if name in OWN or (name == "CUDA_VISIBLE_DEVICES" and self.gpus_per_worker):
                raise ConfigError(f"{name} is set for each process by the launcher: leave it out of the environment")

    def _check_ssh(self) -> None:
        try:
            words = shlex.split(self.ssh)
        except ValueError as error:
            raise ConfigError(f"ssh = {self.ssh!r} is no command: {error}") from None
        if not words:
            raise ConfigError("ssh is empty: give the command that reaches a host")
        for host in self.hosts if _places_host(words) else ():
            if host.user or host.port is not None:
                written = f"{host.destination}:{host.port}" if host.port is not None else host.destination
                raise ConfigError(
                    f"host {written}: a command with {{host}} in it is given the name alone, {host.name}; leave user "
                    "and port out of the host file and name them in the command if need be"
                )


@dataclass(frozen=True)
class Member:
    """A process of the job and its place. `slot` counts the workers of a host."""

    role: str
    number: int
    host: int
    slot: int = 0

    @property
    def name(self) -> str:
        return self.role if self.role == "scheduler" else f"{self.role} {self.number}"


def hosts_of(job: Job) -> Sequence[Host]:
    return job.hosts or (LOCAL,)


def members(job: Job) -> list[Member]:
    """The scheduler on the first host, servers on the hosts in turns, workers as `place_workers` says."""
    hosts = hosts_of(job)
    found = [Member("scheduler", 0, 0)]
    found += [Member("server", number, number % len(hosts)) for number in range(job.servers)]
    taken = [0] * len(hosts)
    for number, host in enumerate(place_workers(hosts, job.workers)):
        found.append(Member("worker", number, host, taken[host]))
        taken[host] += 1
    return found


def environment(job: Job, member: Member, mark: tuple[str, str], attempt: int, ports: Sequence[int]) -> dict[str, str]:
    """What `member` finds in its environment beside what its host has there. ports: scheduler, control channel."""
    hosts = hosts_of(job)
    env = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON) and name not in OWN}
    env["PYTHONUNBUFFERED"] = "1"
    env.update(job.env)
    env.update(
        {
            "DMLC_ROLE": member.role,
            "DMLC_PS_ROOT_URI": hosts[0].address,
            "DMLC_PS_ROOT_PORT": str(ports[0]),
            "DMLC_NUM_WORKER": str(job.workers),
            "DMLC_NUM_SERVER": str(job.servers),
            "DMLC_NODE_HOST": hosts[member.host].address,
            "MSPOSENET_CONTROL_PORT": str(ports[1]),
            "MSPOSENET_ATTEMPT": str(attempt),
            "MSPOSENET_SUPERVISED": "1",
            mark[0]: mark[1],
        }
    )
    if member.role == "worker":
        env["DMLC_TASK_ID"] = env["DMLC_WORKER_ID"] = str(member.number)
    elif member.role == "server":
        env["DMLC_TASK_ID"] = env["DMLC_SERVER_ID"] = str(member.number)
    return env


def threads(member: Member, cores: int, workers_here: int) -> int:
    """OMP threads: a host's physical cores shared by its workers; servers and scheduler mostly wait for the network."""
    return max(1, cores // workers_here) if member.role == "worker" else 1


def gpus(job: Job, member: Member) -> Optional[list[int]]:
    """First GPU and their number for a worker, no GPU for the others; None leaves a process what its host shows it."""
    if not job.gpus_per_worker:
        return None
    return [member.slot * job.gpus_per_worker, job.gpus_per_worker] if member.role == "worker" else [0, 0]


def command(job: Job, attempt: int) -> list[str]:
    """The command of an attempt: from the second on it goes on from the last checkpoint."""
    argv = list(job.argv)
    if attempt and job.resume_flag and not {job.resume_flag, "--resume"} & set(argv):
        argv.append(job.resume_flag)
    return argv


def agent_command(job: Job, host: Host) -> list[str]:
    """What this machine runs to have an agent on `host`."""
    # Needed before the agent can read what --env says.
    early = [f"{name}={job.env[name]}" for name in ("PYTHONPATH", "LD_LIBRARY_PATH") if name in job.env]
    agent = [*(["env", *early] if early else []), job.python, "-m", "msposenet.launching.agent"]
    if not job.hosts:
        return agent
    words = shlex.split(job.ssh)
    placed = _places_host(words)
    words = [word.replace("{host}", host.name) for word in words]
    # ssh joins its words with blanks for the shell of the other side; srun and its like start what they are given.
    if placed and PurePosixPath(words[0]).name != "ssh":
        return words + agent
    if not placed:
        words += ["-p", str(host.port)] if host.port is not None else []
        words.append(host.destination)
    return [*words, f"cd {shlex.quote(folder(job))} && exec {shlex.join(agent)}"]


def _places_host(words: Sequence[str]) -> bool:
    return any("{host}" in word for word in words)


def folder(job: Job) -> str:
    return os.path.abspath(job.cwd or os.getcwd())
