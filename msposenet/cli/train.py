"""`msposenet train CONFIG`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import typer


def train(
    config: Path = typer.Argument(..., help="YAML file, or a run directory to go on with (--resume)."),
    overrides: list[str] = typer.Option(
        [], "--set", help="Change a value, for example train.base_lr=1e-4. Repeatable."
    ),
    run: Optional[Path] = typer.Option(None, "--run", help="Run directory; runs/NAME-OF-CONFIG when left out."),
    resume: bool = typer.Option(False, "--resume", help="Go on from the last checkpoint of the run directory."),
    auto_resume: bool = typer.Option(
        False, "--auto-resume", help="Go on if the run directory holds a run, else start one."
    ),
    init_from: Optional[Path] = typer.Option(
        None,
        "--init-from",
        help="Start from these weights (file, run or published tag); a head for other joints starts anew.",
    ),
    quiet: bool = typer.Option(False, "--quiet", help="Print errors only; the run directory's log.txt has the rest."),
) -> None:
    """Train a network; figures, checkpoints and results go to the run directory.

    Started by `msposenet launch` or MXNet's launch.py, with the same command in every role, this is one process of a
    job.
    """
    from msposenet.config import load_config
    from msposenet.distributed.group import Group
    from msposenet.distributed.roles import find_place
    from msposenet.distributed.taking_part import take_part
    from msposenet.progress import Reporter
    from msposenet.training.run import CONFIG, is_run

    place = find_place()
    resumed = (resume or auto_resume) and is_run(config)
    settings = load_config(config / CONFIG if resumed else config, overrides)
    folder = run or (config if resumed else Path("runs") / config.stem)

    def work(group: Optional[Group] = None) -> None:
        from msposenet.training.loop import train as train_run

        reporter = Reporter(quiet or (group is not None and group.rank > 0))  # what rank 0 says is said for all
        train_run(settings, folder, resume, init_from, reporter, group, auto_resume)
        reporter.say(f"wrote {folder}")

    if place is None:
        work()
        return
    limits = settings.train
    take_part(place, limits.step_timeout, limits.start_timeout, work, _server_updater)


def _server_updater(settings: dict[str, Any]) -> Callable[[int, Any, Any], None]:
    from msposenet.training.optimizer import make_server_updater

    return make_server_updater(settings)
