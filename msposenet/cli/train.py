"""`msposenet train CONFIG`."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer


def train(
    config: Path = typer.Argument(..., help="YAML file, or a run directory to go on with (--resume)."),
    overrides: list[str] = typer.Option(
        [], "--set", help="Change a value, for example train.base_lr=1e-4. Repeatable."
    ),
    run: Optional[Path] = typer.Option(None, "--run", help="Run directory; runs/NAME-OF-CONFIG when left out."),
    resume: bool = typer.Option(False, "--resume", help="Go on from the last checkpoint of the run directory."),
    init_from: Optional[Path] = typer.Option(
        None, "--init-from", help="Start from these weights; a head for other joints starts anew."
    ),
    quiet: bool = typer.Option(False, "--quiet", help="Print errors only; the run directory's log.txt has the rest."),
) -> None:
    """Train a network; figures, checkpoints and results go to the run directory."""
    from msposenet.config import load_config
    from msposenet.progress import Reporter
    from msposenet.training.loop import train as train_run
    from msposenet.training.run import CONFIG, is_run

    resumed = resume and is_run(config)
    settings = load_config(config / CONFIG if resumed else config, overrides)
    folder = run or (config if resumed else Path("runs") / config.stem)
    reporter = Reporter(quiet)
    train_run(settings, folder, resume, init_from, reporter)
    reporter.say(f"wrote {folder}")
