"""`msposenet bench loader`: how fast samples are made on one core, against a plain recipe and the floor.

The other benchmarks of the verb are files of their own.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import typer

from msposenet.cli.bench_distributed import distributed
from msposenet.cli.common import print_json

bench = typer.Typer(no_args_is_help=True, help="Side-by-side figures.")


@bench.callback()
def _bench() -> None:
    """Side-by-side figures, measured by turns in one process."""


bench.command("distributed")(distributed)


@bench.command("loader")
def loader(
    config: Path = typer.Argument(..., metavar="CONFIG", help="Whose data.train, input and augmentation are measured."),
    overrides: list[str] = typer.Option([], "--set", help="Change a value, for example data.input=[384,288]."),
    samples: int = typer.Option(100, min=1, help="Samples a contender makes in a round."),
    rounds: int = typer.Option(10, min=1, help="Rounds; contenders take turns within each."),
    crowd: float = typer.Option(
        0.0, help="Persons a picture, by repeating the annotated ones with shifted boxes; COCO has 2.6."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Samples a second of one core: plain recipe, floor, files, shared decoding, pack; and each stage's time."""
    import cv2

    from msposenet.config import load_config
    from msposenet.data import benchmark
    from msposenet.data.merging import read_training
    from msposenet.progress import Reporter

    cv2.setNumThreads(0)
    reporter = Reporter()
    settings = load_config(config, overrides)
    people = benchmark.readable(read_training(settings, reporter.say), samples * rounds)
    records = benchmark.crowded(people, crowd)
    with tempfile.TemporaryDirectory() as folder:
        contenders = benchmark.contenders(records, settings, Path(folder), reporter)
        with reporter.task("racing") as advance:
            figures = benchmark.race(contenders, samples, rounds, advance)
    spent = benchmark.stages(benchmark.from_files(records, settings), samples)
    pictures = benchmark.pictures_of(records)
    what = (
        f"{len(records):,} persons on {pictures:,} pictures, crops of {settings.data.input[0]} x "
        f"{settings.data.input[1]}, one core's time, {rounds} rounds of {samples} samples by turns"
    )
    if as_json:
        rows = [{"name": f.name, "samples_per_second": f.samples_per_second, "ratio": f.ratio} for f in figures]
        print_json({"measured_on": what, "contenders": rows, "stages_ms": spent})
        return
    typer.echo(what)
    floor = next(figure.ratio for figure in figures if figure.name == benchmark.FLOOR)
    typer.echo("| contender | samples/s | against the plain recipe | against the floor |")
    typer.echo("|---|---|---|---|")
    for figure in figures:
        typer.echo(
            f"| {figure.name} | {figure.samples_per_second:.0f} | {figure.ratio:.2f} | {figure.ratio / floor:.0%} |"
        )
    typer.echo("stages of a sample from files: " + ", ".join(f"{name} {ms:.3f} ms" for name, ms in spent.items()))
