"""`msposenet demo`: train, score, predict and export a small two-stage network on synthetic people."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Optional

import typer

from msposenet.cli.common import print_json

TRAIN_SEED, HELD_OUT_SEED = 1, 2


def demo(
    out: Path = typer.Option(Path("msposenet-demo"), help="Folder for everything the demo writes."),
    persons: int = typer.Option(5000, help="Pictures' worth of training people, roughly two a picture.", min=20),
    epochs: int = typer.Option(6, help="Passes over them.", min=1),
    seed: int = typer.Option(0, help="Of the network's first weights and of the augmentation."),
    workers: Optional[int] = typer.Option(None, help="Processes that make samples; 1 when left out."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object at the end."),
) -> None:
    """A two-stage HRNet learns synthetic people on this machine's CPU, in minutes, and shows what it has learnt.

    Run again, it goes on where it stopped, or only scores, predicts and exports.
    """
    # Threads that spin between MXNet's many small operations make this network 1.2 times faster on two cores. Read
    # when MXNet loads, so it stands before every import that does.
    os.environ.setdefault("OMP_WAIT_POLICY", "ACTIVE")
    from msposenet.config import build_config
    from msposenet.data.images import read_image
    from msposenet.data.synthetic import SceneSpec, write_coco
    from msposenet.devices import contexts
    from msposenet.export.crops import parity_crops
    from msposenet.export.folder import export_model
    from msposenet.inference.output import write_prediction
    from msposenet.inference.predictor import Predictor
    from msposenet.inference.scoring import score_sets
    from msposenet.inference.source import load_network, load_topdown, skeleton_of
    from msposenet.models.build import build_codec
    from msposenet.progress import Reporter
    from msposenet.runtime import mx
    from msposenet.training.loop import train
    from msposenet.training.run import is_run

    start = time.monotonic()
    reporter = Reporter()
    reporter.say(f"1/5 drawing synthetic people (held out: seed {HELD_OUT_SEED}, never trained on)")
    # People somewhat easier to tell apart than the generator's own mixture: minutes on a CPU are not many.
    spec = SceneSpec(crowding=0.2, cut_off=0.1, occluder=0.15, profile_view=0.05)
    annotations = {}
    for part, seed_of_part, pictures in (("train", TRAIN_SEED, persons // 2), ("held_out", HELD_OUT_SEED, 150)):
        with reporter.task(f"drawing {part}") as advance:
            annotations[part] = write_coco(out / "data" / part, pictures, seed_of_part, spec, progress=advance)
    reporter.say("2/5 training a two-stage HRNet of width 16")
    config = build_config(_configuration(annotations, epochs, seed, 1 if workers is None else workers), "demo")
    run = train(config, out / "run", resume=is_run(out / "run"), reporter=reporter)

    reporter.say("3/5 scoring on the held-out people")
    engine, config = load_topdown(run, context=contexts()[0])
    scores = score_sets(engine, config, reporter)[0].scores
    for line in scores.lines(config.model.name):
        reporter.say(line)

    reporter.say("4/5 predicting on a held-out picture")
    picture, boxes = _held_out_picture(annotations["held_out"])
    people = Predictor(run)(picture, boxes)
    written = write_prediction(out / "prediction", picture.stem, read_image(picture), people)

    reporter.say("5/5 exporting")
    net = load_network(run, config, None, mx.cpu())
    skeleton = skeleton_of(config)
    crops, origin = parity_crops(config, skeleton)
    exported = export_model(
        net, build_codec(config), skeleton, out / "export", crops, model=config.model.name, enlarge=config.data.enlarge
    )
    for check in exported.parity:
        reporter.say(f"{origin}: {check.line()}")
    seconds = time.monotonic() - start
    if as_json:
        print_json({"seconds": seconds, "out": str(out), **scores.as_dict()})
        return
    typer.echo(f"AP {scores.AP:.3f} on {scores.people} held-out people, boxes: {scores.boxes}")
    typer.echo(f"{seconds / 60:.1f} minutes; written:")
    typer.echo(f"  pictures and annotations   {out / 'data'}")
    typer.echo(f"  log, figures, checkpoints  {run}")
    typer.echo(f"  a prediction to look at    {written[0]}")
    typer.echo(f"  deployable graphs          {out / 'export'}")


def _configuration(annotations: dict[str, Path], epochs: int, seed: int, workers: int) -> dict:
    sources = {
        part: {"annotations": str(path), "images": str(path.parent.parent / "images")}
        for part, path in annotations.items()
    }
    return {
        "data": {
            "train": sources["train"],
            "val": sources["held_out"],
            "skeleton": "coco17",
            "input": [96, 64],
            "enlarge": 1.1,  # the boxes are exact: a wider margin would only cost resolution
            "workers": workers,
        },
        "model": {"name": "mshrnet_w16x2_small"},
        # At a quarter of 96 px the published radius would be little more than one cell.
        "codec": {"radius_factor": 0.12, "kernel": 3},
        "augmentation": {"half_body": 0.0, "scale": 0.15, "rotation": 10.0},
        "train": {
            "epochs": epochs,
            "batch_size": 16,
            "base_lr": 2e-3,
            "lr_drops": [max(1, epochs - 2), max(1, epochs - 1)],
            "lr_factor": 0.25,
            "warmup_steps": 60,
            "validate_every": 0,
            "log_every": 60,
            "seed": seed,
        },
    }


def _held_out_picture(annotations: Path) -> tuple[Path, list]:
    """The first held-out picture with at least two people, and their boxes."""
    from msposenet.data.formats.coco import read_coco

    records, _ = read_coco(annotations, annotations.parent.parent / "images")
    index = records.image_index.tolist()
    first = next((i for i in index if index.count(i) >= 2), index[0])
    rows = [row for row, picture in enumerate(index) if picture == first]
    return Path(records.path(rows[0])), records.boxes[rows].tolist()
