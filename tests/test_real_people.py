"""configs/coco_overfit_cpu.yaml, cut short: real pictures, their flips, crops, targets and decoding fit together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shared_data import sample

from msposenet.config import load_config
from msposenet.training.loop import train

CONFIG = Path(__file__).parents[1] / "configs" / "coco_overfit_cpu.yaml"


@pytest.mark.slow
def test_a_small_network_begins_to_know_real_people_by_heart(tmp_path):
    """44 of its 350 epochs, on smaller crops; a mirror that does not exchange the sides fails it."""
    annotations = sample("coco/annotations/person_keypoints_train2017.json")
    images = sample("coco/images/train2017")
    paths = [
        f"data.{part}.{key}={value}"
        for part in ("train", "val")
        for key, value in (("annotations", annotations), ("images", images))
    ]
    shorter = [
        "data.input=[96,64]",
        "train.epochs=44",
        "train.lr_drops=[37]",
        "train.validate_every=0",
        "train.warmup_steps=10",
    ]
    folder = train(load_config(CONFIG, [*paths, *shorter]), tmp_path / "run")
    figures = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert figures[-1]["AP"] >= 0.15
    losses = [line["loss"] for line in figures if "loss" in line]
    assert losses[-1] < 0.4 * losses[0]
