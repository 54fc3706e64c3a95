"""`msposenet eval CONFIG|RUN`: the scores on each validation set."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer

from msposenet.cli.common import print_json
from msposenet.inline import compute_inline


def evaluate(
    model: str = typer.Argument(..., metavar="CONFIG|RUN", help="Run directory, or YAML file together with --weights."),
    weights: Optional[Path] = typer.Option(
        None, help="File of weights, checkpoint, run or published tag; a run's own best checkpoint when left out."
    ),
    boxes: Optional[str] = typer.Option(
        None, help="gt, or a detection file in COCO's result form; test.boxes of the configuration when left out."
    ),
    overrides: list[str] = typer.Option([], "--set", help="Change a value, for example test.flip=false. Repeatable."),
    device: str = typer.Option("auto", help="cpu, gpu:0 or auto."),
    processes: int = typer.Option(1, help="Processes that share the CPU's cores."),
    out: Optional[Path] = typer.Option(
        None, help="Write the result list (COCO form) to this file; with several sets a folder of one file each."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Score a model on the validation sets (data.val) of its configuration, each by its own metric."""
    compute_inline(device)
    from msposenet.errors import ConfigError
    from msposenet.evaluation.results import write_results
    from msposenet.inference.opened import open_engine
    from msposenet.inference.scoring import overall, score_sets
    from msposenet.inference.source import find_config
    from msposenet.progress import Reporter
    from msposenet.storage import file_name

    if boxes is not None:
        overrides = [*overrides, f"test.boxes={boxes}"]
    config = find_config(model, tuple(overrides))
    if not config.data.val:
        raise ConfigError(f"{model}: data.val is not set: name its annotations and images")
    engine = open_engine(model, weights, device, processes=processes, config=config).engine
    reporter = Reporter()
    scored = score_sets(engine, config, reporter)
    for part in scored if out is not None else ():
        target = out if len(scored) == 1 else out / f"keypoints_{file_name(part.title)}.json"
        write_results(target, part.results)
        reporter.say(f"wrote {target}")
    if as_json:
        sets = [
            {"set": part.title, "annotations": str(source.annotations), **part.scores.as_dict()}
            for part, source in zip(scored, config.data.val)
        ]
        print_json({"model": str(model), **(sets[0] if len(sets) == 1 else {"score": overall(scored), "sets": sets})})
        return
    for part in scored:
        if len(scored) > 1:
            typer.echo(f"== {part.title}")
        for line in part.scores.lines(config.model.name):
            typer.echo(line)
