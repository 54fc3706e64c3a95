"""A small set of synthetic people on disk, drawn once a test session, and a configuration to train on it."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from msposenet.config import Config, build_config
from msposenet.data.formats.coco import read_coco
from msposenet.data.synthetic import SceneSpec, write_coco


@cache
def people_set(pictures: int = 24, seed: int = 7) -> Path:
    """The annotation file; the pictures lie in ../images."""
    folder = Path(tempfile.mkdtemp(prefix="msposenet-test-"))
    atexit.register(_remove, folder, os.getpid())
    return write_coco(folder, pictures, seed, SceneSpec(people=(1, 2)))


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked process leaves it to its parent
        shutil.rmtree(folder, ignore_errors=True)


def images_of(annotations: Path) -> Path:
    return annotations.parent.parent / "images"


def records_of(annotations: Path):
    return read_coco(annotations, images_of(annotations))[0]


def tiny_config(annotations: Path | None = None, **changes) -> Config:
    """A network of width 8 on 64 x 64 crops; `changes` are sections to merge."""
    annotations = annotations or people_set()
    source = {"annotations": str(annotations), "images": str(images_of(annotations))}
    content: dict = {
        "data": {"train": source, "val": source, "input": [64, 64], "workers": 0, "skeleton": "coco17"},
        "model": {"name": "mshrnet_w8x2_small"},
        "codec": {"radius_factor": 0.15, "kernel": 1},
        "train": {"epochs": 2, "batch_size": 8, "lr_drops": [1], "log_every": 2, "validate_every": 0},
        "test": {"batch_size": 8},
    }
    for section, values in changes.items():
        content[section] = {**content.get(section, {}), **values}
    return build_config(content, "test")
