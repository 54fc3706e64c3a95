"""`msposenet check-data CONFIG`: what is wrong with the sets of a configuration."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Optional

import typer

from msposenet.cli.common import print_json


def check_data(
    config: Path = typer.Argument(..., help="YAML file."),
    overrides: list[str] = typer.Option(
        [], "--set", help="Change a value, for example data.skeleton=coco17. Repeatable."
    ),
    out: Optional[Path] = typer.Option(None, "--out", help="Folder of the report; check-data-NAME when left out."),
    workers: Optional[int] = typer.Option(
        None,
        "--workers",
        min=1,
        max=256,
        help="Processes that read pictures; as many as there are cores when left out.",
    ),
    samples: int = typer.Option(6, "--samples", min=0, max=1000, help="Sample persons drawn per set."),
    seed: int = typer.Option(0, "--seed", min=0, help="Of the choice of sample persons."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Look at every picture and annotation of data.train and data.val; write a page with sample persons.

    Exit code 1 when something is damaged, 0 when not. Nothing but the folder of the report is written to.
    """
    from msposenet.config import load_config
    from msposenet.data.doctor import diagnose
    from msposenet.progress import Reporter
    from msposenet.report.data_page import INDEX, open_folder, write_page

    settings = load_config(config, overrides)
    sets = len(settings.data.train) + len(settings.data.val)
    folder = open_folder(out or Path(f"check-data-{config.stem}"), samples * sets)
    reporter = Reporter()
    with _sigterm():
        diagnosis = diagnose(settings, workers or len(os.sched_getaffinity(0)), reporter)
        reporter.say("drawing sample persons")
        write_page(diagnosis, settings, str(config), folder, samples, seed)
    if as_json:
        report = str(folder / INDEX)
        print_json({"config": str(config), "report": report, **diagnosis.as_dict(items=False)})
    else:
        _show(diagnosis)
    reporter.say(f"wrote {folder / INDEX}")
    if diagnosis.damaged:
        raise typer.Exit(1)


def _show(diagnosis) -> None:
    from rich.console import Console

    from msposenet.report.data_sections import SHOWN_ITEMS
    from msposenet.report.data_tables import set_table
    from msposenet.report.escape import printable

    console = Console(highlight=False)

    def line(content: str) -> None:
        console.print(printable(content), markup=False, soft_wrap=True)

    for checked in diagnosis.sets:
        console.print(set_table(checked))
        for note in checked.figures.get("notes", ()):
            line(f"note: {note}")
        for warning in checked.warnings:
            line(f"warning: {warning}")
        for item in checked.damage[:SHOWN_ITEMS]:
            line(f"damaged: {item.file}: {item.item + ': ' if item.item else ''}{item.reason}")
        if len(checked.damage) > SHOWN_ITEMS:
            line(f"damaged: and {len(checked.damage) - SHOWN_ITEMS:,} more, all in the report")
        line("")
    for warning in diagnosis.warnings:
        line(f"warning: {warning}")
    for shared in diagnosis.shared:
        if not shared.leak:
            line(f"note: {shared.sentence()}")
    line(f"{diagnosis.damaged:,} damaged, {diagnosis.warned:,} warnings")


@contextmanager
def _sigterm() -> Iterator[None]:
    """Meanwhile SIGTERM unwinds like Ctrl-C, so that the processes which read pictures are ended."""
    from msposenet.errors import Terminated

    def stop(number: int, frame: object) -> None:
        raise Terminated("SIGTERM; the check was broken off, no report was written")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
