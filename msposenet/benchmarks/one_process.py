"""Benchmarks whose contenders live in this process: decoding, evaluation, and the making of samples."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import cv2

from msposenet.benchmarks import decoding, evaluation, machine
from msposenet.benchmarks import loader as loading
from msposenet.benchmarks.figures import Figures, rows_of
from msposenet.benchmarks.processes import Check, Settings
from msposenet.benchmarks.race import Entry, Race, here, race
from msposenet.config import Config
from msposenet.data.merging import read_training
from msposenet.progress import Reporter

_SEED = 0
_APART = 1e-2  # image px that decoding.check_alike allows


def race_here(
    figures: Figures,
    case: str,
    entries: Sequence[Entry],
    makers: Mapping[str, Callable[[int], object]],
    references: Sequence[str],
    settings: Settings,
    reporter: Reporter,
    times: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Race:
    """Race `makers`, which are called with the iteration's number, and add a row for each of `entries`."""
    watch = machine.Watch()
    runs = {entry.name: here(makers[entry.name], clock) for entry in entries}
    with reporter.task(f"{figures.bench}, {case}" if case else figures.bench) as advance:
        result = race(runs, settings.rounds, settings.turn, times, advance)
    others = watch.others(0.0)
    if others is not None:
        figures.measured_on["others"] = max(others, figures.measured_on.get("others", 0.0))
    figures.rows += rows_of(case, entries, result, references)
    return result


def decode(
    batch: int, joints: int, heatmap_hw: tuple[int, int], settings: Settings, reporter: Reporter | None = None
) -> Figures:
    """Maps (batch, joints, height, width) to keypoints in image px, by each decoder: ours, plain loops, the graph.

    Raises ResultError when keypoints are more than 0.01 px apart.
    """
    reporter = reporter or Reporter(quiet=True)
    height, width = heatmap_hw
    cv2.setNumThreads(settings.cores)
    title = f"Decoding {batch} x {joints} maps of {height} x {width}, {settings.rounds} rounds by turns"
    figures = Figures("decode", title, "persons", machine.describe(settings.cores))
    references = (decoding.LOOPS, decoding.GRAPH, decoding.OURS)
    for case, contenders in decoding.contenders(batch, joints, height, width, _SEED).items():
        apart = decoding.check_alike(case, {name: contender() for name, contender in contenders.items()})
        entries = [Entry(name, name != decoding.LOOPS, items=batch) for name in contenders]
        makers = {name: _numbered(contender) for name, contender in contenders.items()}
        race_here(figures, case, entries, makers, references, settings, reporter)
        checks = [Check(name, 0.0 if name == decoding.OURS else apart, _APART, "px") for name in contenders]
        figures.checks += [{"case": case, **asdict(check)} for check in checks]
    return figures


def evaluate(images: int, results: int, settings: Settings, reporter: Reporter | None = None) -> Figures:
    """COCO scores of `results` synthetic results on `images` images: files and all, and from what was read.

    Raises ResultError when the scores are not the same numbers, to the last bit.
    """
    reporter = reporter or Reporter(quiet=True)
    title = f"COCO keypoint scores of {results:,} results on {images:,} images, {settings.rounds} rounds by turns"
    figures = Figures("evaluation", title, "results", machine.describe(1))
    with tempfile.TemporaryDirectory() as folder:
        reporter.say("writing a set, scoring it once with each")
        contenders = evaluation.contenders(Path(folder), images, results, _SEED)
        evaluation.check_identical({name: contender() for name, contender in contenders.items()})
        for case in (evaluation.WHOLE, evaluation.SCORING):
            names = (evaluation.OURS, evaluation.THEIRS)
            entries = [Entry(name, name == evaluation.OURS, items=results) for name in names]
            makers = {name: _numbered(contenders[f"{name}, {case}"]) for name in names}
            race_here(figures, case, entries, makers, [evaluation.THEIRS], settings, reporter)
            figures.checks += [{"case": case, **asdict(Check(name, 0.0, 0.0))} for name in names]
    return figures


def _numbered(contender: Callable[[], object]) -> Callable[[int], object]:
    return lambda number: contender()


def load(config: Config, samples: int, rounds: int, crowd: float = 0.0, reporter: Reporter | None = None) -> Figures:
    """Samples of data.train on one core, in processor time: plain recipe, floor, files, shared decoding, pack.

    crowd: persons a picture, by repeating those there are. Raises DataError when no picture can be read.
    """
    cv2.setNumThreads(0)
    reporter = reporter or Reporter(quiet=True)
    people = loading.readable(read_training(config, reporter.say), samples * rounds)
    records = loading.crowded(people, crowd)
    title = (
        f"{len(records):,} persons on {loading.pictures_of(records):,} pictures, crops of {config.data.input[0]} x "
        f"{config.data.input[1]}, one core's time, {rounds} rounds of {samples} samples by turns"
    )
    figures = Figures("loader", title, "samples", machine.describe(1))
    with tempfile.TemporaryDirectory() as folder:
        makers = loading.contenders(records, config, Path(folder), reporter)
        entries = [Entry(name, name not in (loading.BASELINE, loading.FLOOR)) for name in makers]
        race_here(
            figures, "", entries, makers, [loading.BASELINE], Settings(rounds), reporter, samples, time.process_time
        )
    figures.more["stages_ms"] = loading.stages(loading.from_files(records, config), samples)
    return figures
