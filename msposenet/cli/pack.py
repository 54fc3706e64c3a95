"""`msposenet pack CONFIG OUT`: the persons of data.train as patches in RecordIO shards, and `pack PACK --verify`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Optional

import typer

from msposenet.cli.common import print_json


def pack(
    config: Path = typer.Argument(..., metavar="CONFIG", help="YAML file; with --verify the folder of a pack."),
    out: Optional[Path] = typer.Argument(None, metavar="OUT", help="Folder of the pack, new or of one interrupted."),
    overrides: list[str] = typer.Option([], "--set", help="Change a value, for example data.enlarge=1.1. Repeatable."),
    shards: Optional[int] = typer.Option(None, help="Files to spread over; one for 2,000 persons, 8 to 256.", min=1),
    quality: int = typer.Option(95, help="Of the JPEG patches; 0 stores PNG, without loss.", min=0, max=100),
    oversample: float = typer.Option(1.6, help="Patch px kept for each px of the crop; larger persons are reduced."),
    workers: Optional[int] = typer.Option(None, help="Processes; data.workers when left out.", min=0, max=256),
    verify: bool = typer.Option(False, "--verify", help="Read the whole pack CONFIG and compare every checksum."),
    quiet: bool = typer.Option(False, "--quiet", help="Print errors only."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Pack the training sets (data.train) for fast reading; `data.pack` then names the folder.

    Interrupted, the same command goes on. The patches are large enough for the configured augmentation.
    """
    from msposenet.config import load_config
    from msposenet.data.merging import read_training
    from msposenet.data.packed import verify_pack
    from msposenet.data.packing import MAX_SHARDS, write_pack
    from msposenet.errors import ConfigError
    from msposenet.progress import Reporter

    reporter = Reporter(quiet)
    start = time.monotonic()
    if verify:
        if out is not None:
            raise ConfigError(f"--verify reads one folder, {config} and {out} were given")
        with reporter.task("verifying") as advance:
            table = verify_pack(config, advance)
        figures = {"pack": str(config), "instances": table.instances, "shards": len(table.shards)}
        lines = [f"{config}: {table.instances:,} persons in {len(table.shards):,} shards, every checksum fits"]
    else:
        if out is None:
            raise ConfigError("name the folder to write: msposenet pack CONFIG OUT")
        if shards is not None and shards > MAX_SHARDS:
            raise ConfigError(f"--shards {shards}: at most {MAX_SHARDS}")
        settings = load_config(config, overrides)
        records = read_training(settings, reporter.say)
        workers = settings.data.workers if workers is None else workers
        report = write_pack(records, settings, out, shards, quality, oversample, workers, reporter)
        figures, lines = report.as_dict(), report.lines()
    if as_json:
        print_json({**figures, "seconds": time.monotonic() - start})
        return
    for line in lines:
        typer.echo(line)
