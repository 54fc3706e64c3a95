"""`msposenet predict IMAGE...`: annotated pictures and JSON."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Optional

import numpy as np
import typer

from msposenet.inline import compute_inline

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def predict(
    images: list[Path] = typer.Argument(..., metavar="IMAGE...", help="Pictures, or folders of pictures."),
    model: str = typer.Option(..., help="Run directory, export folder, YAML file or model name (with --weights)."),
    weights: Optional[Path] = typer.Option(None, help="File of weights, checkpoint, run or published tag."),
    box: list[str] = typer.Option([], help="A person's box x,y,width,height in px; repeatable, for a single picture."),
    out: Path = typer.Option(Path("predictions"), help="Folder for NAME_pose.jpg and NAME.json."),
    threshold: float = typer.Option(0.2, help="Joints scoring this or less are not drawn."),
    flip: bool = typer.Option(True, help="Average with the mirrored picture."),
    device: str = typer.Option("auto", help="cpu, gpu:0 or auto."),
    processes: int = typer.Option(1, help="Processes that share the CPU's cores, for many pictures."),
) -> None:
    """Find people's keypoints: without --box the whole picture is one person's box."""
    compute_inline(device)
    from msposenet import Predictor
    from msposenet.data.images import read_image
    from msposenet.errors import ConfigError, ImageError
    from msposenet.inference.output import write_prediction
    from msposenet.progress import Reporter

    paths = _pictures(images)
    boxes = [_box(text) for text in box] or None
    if boxes and len(paths) > 1:
        raise ConfigError(f"--box is for a single picture, {len(paths)} were given")
    predictor = Predictor(model, weights, device, flip, processes)
    reporter = Reporter()
    failed: list[str] = []
    names = _names(paths)
    shown: list[tuple[Path, np.ndarray]] = []  # read, and not yet written

    def pictures():
        for path in paths:
            try:
                image = read_image(path, honour_exif=True)
            except ImageError as error:
                failed.append(str(error))
                reporter.say(f"skipped: {error}")
                continue
            shown.append((path, image))
            yield image, boxes

    with reporter.task("predicting") as advance:
        for done, people in enumerate(predictor.stream(pictures()), start=1):
            path, image = shown.pop(0)
            picture, data = write_prediction(out, names[path], image, replace(people, name=str(path)), threshold)
            reporter.say(f"{path}: {len(people)} people, best score {_best(people):.3f} -> {picture}, {data}")
            advance(done + len(failed), len(paths))
    if failed:
        raise ImageError(f"{len(failed)} of {len(paths)} pictures could not be read: {'; '.join(failed[:5])}")


def _names(paths: list[Path]) -> dict[Path, str]:
    """A name for each picture's results: its stem, numbered from the second picture of that stem on."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        name, number = path.stem, 1
        while name in taken:
            number += 1
            name = f"{path.stem}-{number}"
        taken.add(name)
        names.setdefault(path, name)
    return names


def _best(people) -> float:
    return float(people.scores[0]) if len(people) else 0.0


def _pictures(images: list[Path]) -> list[Path]:
    from msposenet.errors import ConfigError

    paths: list[Path] = []
    for image in images:
        if image.is_dir():
            found = sorted(path for path in image.iterdir() if path.suffix.lower() in _SUFFIXES)
            if not found:
                raise ConfigError(f"{image}: no pictures in this folder ({', '.join(_SUFFIXES)})")
            paths += found
        else:
            paths.append(image)
    return paths


def _box(text: str) -> list[float]:
    from msposenet.errors import ConfigError

    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 4:
        raise ConfigError(f"--box {text}: write x,y,width,height in px, for example 10,20,100,200")
    return values
