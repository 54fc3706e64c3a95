"""`msposenet eval CONFIG|RUN`: COCO scores."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer

from msposenet.cli.common import print_json


def evaluate(
    model: str = typer.Argument(..., metavar="CONFIG|RUN", help="Run directory, or YAML file together with --weights."),
    weights: Optional[Path] = typer.Option(
        None, help=".params file, checkpoint or run; a run's own best checkpoint when left out."
    ),
    boxes: Optional[str] = typer.Option(
        None, help="gt, or a detection file in COCO's result form; test.boxes of the configuration when left out."
    ),
    overrides: list[str] = typer.Option([], "--set", help="Change a value, for example test.flip=false. Repeatable."),
    device: str = typer.Option("auto", help="cpu, gpu:0 or auto."),
    out: Optional[Path] = typer.Option(None, help="Write the result list (COCO form) to this file."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Score a model on the validation set (data.val) of its configuration."""
    from msposenet.devices import contexts
    from msposenet.errors import ConfigError
    from msposenet.evaluation.results import write_results
    from msposenet.inference.source import find_config, load_topdown
    from msposenet.inference.validate import score_source
    from msposenet.progress import Reporter

    if boxes is not None:
        overrides = [*overrides, f"test.boxes={boxes}"]
    config = find_config(model, tuple(overrides))
    if config.data.val is None:
        raise ConfigError(f"{model}: data.val is not set: name its annotations and images")
    engine, _ = load_topdown(model, weights, contexts([device])[0], config=config)
    reporter = Reporter()
    scores, results = score_source(engine, config, reporter)
    if out is not None:
        write_results(out, results)
        reporter.say(f"wrote {out}")
    if as_json:
        print_json({"model": str(model), "annotations": str(config.data.val.annotations), **scores.as_dict()})
        return
    for line in scores.lines(config.model.name):
        typer.echo(line)
