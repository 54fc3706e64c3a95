"""`msposenet launch -n 4 -- train CONFIG`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Optional

import typer


def launch(
    command: list[str] = typer.Argument(..., metavar="-- train CONFIG ...", help="The training to run."),
    workers: int = typer.Option(..., "-n", "--num-workers", min=1, help="Workers in all."),
    servers: Optional[int] = typer.Option(
        None, "-s", "--num-servers", min=1, help="Parameter servers in all; as many as workers when left out."
    ),
    hostfile: Optional[Path] = typer.Option(
        None,
        "-H",
        "--hostfile",
        help="Hosts, one a line: name, name:port or user@name, then slots=N and address=IP if wanted. Needs ssh.",
    ),
    max_restarts: int = typer.Option(3, min=0, help="How often a job that lost a process is started again."),
    grace: float = typer.Option(60.0, min=0, help="Seconds to write a checkpoint after SIGTERM."),
    host_wait: float = typer.Option(600.0, min=0, help="Seconds to wait for a lost host to come back."),
    gpus_per_worker: int = typer.Option(
        0, min=0, help="GPUs for each worker, by its place on its host; 0 shows every worker all of them."
    ),
    env: list[str] = typer.Option(
        [], "--env", metavar="NAME=VALUE", help="For every process; NAME alone takes the value it has here. Repeatable."
    ),
    cwd: Optional[Path] = typer.Option(None, help="Folder to run in, on every host; this one when left out."),
    python: str = typer.Option(sys.executable, help="Python interpreter on every host.", show_default=False),
    ssh: Optional[str] = typer.Option(
        None, help="Remote shell and its options; one with {host} in it, such as srun, is given the command as words."
    ),
) -> None:
    """Train with several processes, here or over ssh: watch them, restart after a loss, leave none behind.

    Exit codes: those of `train`; 75 also when the restarts are used up or a host does not come back.
    """
    from msposenet.errors import ConfigError
    from msposenet.launching.hosts import read_hosts
    from msposenet.launching.job import SSH, Job
    from msposenet.launching.output import prefixed
    from msposenet.launching.supervisor import supervise

    if command[0] != "train":
        raise ConfigError(
            f"launch -- {command[0]}: launch runs `train` only, since it goes on with --auto-resume after a loss; "
            "write launch [options] -- train CONFIG ..."
        )
    job = Job(
        argv=(python, "-m", "msposenet", *command),
        workers=workers,
        servers=workers if servers is None else servers,
        hosts=read_hosts(hostfile) if hostfile is not None else (),
        env=dict(_variable(text) for text in env),
        cwd=str(cwd or ""),
        python=python,
        ssh=ssh or SSH,
        gpus_per_worker=gpus_per_worker,
        max_restarts=max_restarts,
        grace=grace,
        host_wait=host_wait,
    )
    raise typer.Exit(supervise(job, prefixed(sys.stdout)))


def _variable(text: str) -> tuple[str, str]:
    from msposenet.errors import ConfigError

    name, given, value = text.partition("=")
    if not given and name not in os.environ:
        raise ConfigError(f"--env {text}: {name} is not set here; write NAME=VALUE")
    return name, value if given else os.environ[name]
