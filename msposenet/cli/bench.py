"""`msposenet bench ...`: side-by-side figures, contenders by turns in one run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Optional

import typer

from msposenet.cli.bench_distributed import distributed
from msposenet.cli.common import parse_size, print_json
from msposenet.errors import ConfigError

if TYPE_CHECKING:
    from msposenet.benchmarks.figures import Figures

bench = typer.Typer(no_args_is_help=True, help="Side-by-side figures.")

_JSON = typer.Option(False, "--json", help="Print one JSON object.")
_OUT = typer.Option(None, "--out", help="Write the JSON object to this file, too.")
_CHART = typer.Option(None, "--chart", help="Draw a bar for each contender in this PNG file.")
_ROUNDS = typer.Option(15, min=1, help="Rounds; contenders take turns within each, medians are printed.")
_TURN = typer.Option(1.0, min=0, help="Seconds that a contender's turn takes at least, if it is not one iteration.")
_THREADS = typer.Option(0, min=0, help="Threads of each contender; 0: as OMP_NUM_THREADS, else the physical cores.")
_WAITING = typer.Option(
    "default", help="What idle OpenMP threads do: passive (sleep), active (spin), default (as built)."
)
_ONLY = typer.Option("", help="Contenders with commas, for example fused,torch,onnxruntime; all when left out.")
_MODEL = typer.Option("hrnet_w32", help="The model.")
_INPUT = typer.Option("256x192", "--input", help="Height x width of the crops in px.")


@bench.callback()
def _bench() -> None:
    """Side-by-side figures, measured by turns in one run."""


bench.command("distributed")(distributed)


@bench.command("inference")
def inference(
    model: str = _MODEL,
    input_size: str = _INPUT,
    batch: str = typer.Option("1,8,32", help="Batch sizes with commas."),
    only: str = _ONLY,
    rounds: int = _ROUNDS,
    turn: float = _TURN,
    threads: int = _THREADS,
    waiting: str = _WAITING,
    chart: Optional[Path] = _CHART,
    out: Optional[Path] = _OUT,
    as_json: bool = _JSON,
) -> None:
    """The network in use on the CPU, against PyTorch and onnxruntime, as far as they are installed."""
    from msposenet.benchmarks.inference import inference as measure
    from msposenet.benchmarks.processes import Settings
    from msposenet.progress import Reporter

    _check_files(chart, out)
    settings = Settings(rounds, turn, threads, waiting)
    size, batches = parse_size(input_size), _numbers("--batch", batch)
    _show(measure(model, size, batches, settings, _words(only), Reporter()), chart, out, as_json)


@bench.command("training")
def training(
    model: str = _MODEL,
    input_size: str = _INPUT,
    batch: str = typer.Option("16", help="Batch sizes with commas."),
    only: str = _ONLY,
    rounds: int = _ROUNDS,
    turn: float = _TURN,
    threads: int = _THREADS,
    waiting: str = _WAITING,
    chart: Optional[Path] = _CHART,
    out: Optional[Path] = _OUT,
    as_json: bool = _JSON,
) -> None:
    """A training step on the CPU, from the batch to the moved weights, against PyTorch if it is installed."""
    from msposenet.benchmarks.processes import Settings
    from msposenet.benchmarks.training import training as measure
    from msposenet.progress import Reporter

    _check_files(chart, out)
    settings = Settings(rounds, turn, threads, waiting)
    size, batches = parse_size(input_size), _numbers("--batch", batch)
    _show(measure(model, size, batches, settings, _words(only), Reporter()), chart, out, as_json)


@bench.command("decode")
def decode(
    batch: int = typer.Option(32, min=1, max=4096, help="Persons that are decoded together."),
    joints: int = typer.Option(17, min=1, max=1000, help="Joints of a person."),
    heatmap: str = typer.Option("64x48", "--heatmap", help="Height x width of the maps in px."),
    rounds: int = _ROUNDS,
    turn: float = typer.Option(0.3, min=0, help="Seconds that a contender's turn takes at least."),
    chart: Optional[Path] = _CHART,
    out: Optional[Path] = _OUT,
    as_json: bool = _JSON,
) -> None:
    """Maps to keypoints: array operations on the batch, the published programs' loops, the graph."""
    from msposenet.benchmarks.one_process import decode as measure
    from msposenet.benchmarks.processes import Settings
    from msposenet.progress import Reporter

    _check_files(chart, out)
    size = _map_size(heatmap)
    _show(measure(batch, joints, size, Settings(rounds, turn), Reporter()), chart, out, as_json)


@bench.command("evaluation")
def evaluation(
    images: int = typer.Option(5_000, min=1, help="Images of the synthetic set; COCO val has 5,000."),
    results: int = typer.Option(100_000, min=1, help="Results that are scored."),
    rounds: int = typer.Option(5, min=1, help="Rounds; contenders take turns within each, medians are printed."),
    turn: float = _TURN,
    chart: Optional[Path] = _CHART,
    out: Optional[Path] = _OUT,
    as_json: bool = _JSON,
) -> None:
    """COCO's keypoint scores against pycocotools, which must give the same numbers."""
    from msposenet.benchmarks.one_process import evaluate
    from msposenet.benchmarks.processes import Settings
    from msposenet.progress import Reporter

    _check_files(chart, out)
    _show(evaluate(images, results, Settings(rounds, turn), Reporter()), chart, out, as_json)


@bench.command("loader")
def loader(
    config: Path = typer.Argument(..., metavar="CONFIG", help="Whose data.train, input and augmentation are measured."),
    overrides: list[str] = typer.Option([], "--set", help="Change a value, for example data.input=[384,288]."),
    samples: int = typer.Option(100, min=1, help="Samples a contender makes in a round."),
    rounds: int = typer.Option(10, min=1, help="Rounds; contenders take turns within each."),
    crowd: float = typer.Option(
        0.0, help="Persons a picture, by repeating the annotated ones with shifted boxes; COCO has 2.6."
    ),
    chart: Optional[Path] = _CHART,
    out: Optional[Path] = _OUT,
    as_json: bool = _JSON,
) -> None:
    """Samples a second of one core: plain recipe, floor, files, shared decoding, pack; and each stage's time."""
    from msposenet.benchmarks.one_process import load
    from msposenet.config import load_config
    from msposenet.progress import Reporter

    _check_files(chart, out)
    figures = load(load_config(config, overrides), samples, rounds, crowd, Reporter())
    _show(figures, chart, out, as_json)
    if not as_json:
        spent = figures.more["stages_ms"]
        typer.echo("stages of a sample from files: " + ", ".join(f"{name} {ms:.3f} ms" for name, ms in spent.items()))


def _show(figures: Figures, chart: Path | None, out: Path | None, as_json: bool) -> None:
    from msposenet.benchmarks.chart import write_chart
    from msposenet.benchmarks.figures import lines_of
    from msposenet.storage import write_json_atomic

    # Printed first: what took an hour to measure must not be lost to a full disk.
    if as_json:
        print_json(figures.as_dict())
    else:
        typer.echo("\n".join(lines_of(figures)))
    if out is not None:
        write_json_atomic(out, figures.as_dict())
    if chart is not None:
        write_chart(figures, chart)


def _check_files(chart: Path | None, out: Path | None) -> None:
    """Refuse before the race what would only fail after it."""
    if chart is not None and chart.suffix.lower() != ".png":
        raise ConfigError(f"--chart {chart}: give a name that ends with .png")
    for option, path in (("--chart", chart), ("--out", out)):
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"{option} {path}: the folder {path.parent} does not exist; make it, or choose another")


def _map_size(text: str) -> tuple[int, int]:
    parts = text.split("x")
    if len(parts) != 2 or not all(part.isdecimal() and 8 <= int(part) <= 1024 for part in parts):
        raise ConfigError(f"--heatmap {text!r}: write height x width from 8 to 1024 px, for example 64x48")
    return int(parts[0]), int(parts[1])


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(option: str, text: str) -> list[int]:
    parts = _words(text)
    if not parts or not all(part.isdecimal() and 0 < int(part) <= 4096 for part in parts):
        raise ConfigError(f"{option} {text!r}: write numbers from 1 to 4096 with commas, for example 1,8,32")
    return [int(part) for part in parts]
