"""Crops on which an exported graph is compared with its network, or calibrated."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from msposenet import geometry
from msposenet.config import Config
from msposenet.data.merging import read_source, read_training
from msposenet.data.records import Records
from msposenet.data.samples import read_person_image
from msposenet.data.synthetic import render_scene
from msposenet.errors import ConfigError, DataError, ImageError, PoseError
from msposenet.geometry import Convention
from msposenet.progress import Reporter
from msposenet.skeletons import Skeleton

COUNT = 8
_SEED = 20_000


def parity_crops(config: Config, skeleton: Skeleton) -> tuple[np.ndarray, str]:
    """Up to 8 crops (N, h, w, 3) uint8 of validation persons, and what they are; of synthetic people without data."""
    for source in (*config.data.val, *config.data.train):
        if not source.annotations.exists():
            continue
        try:
            records = read_source(source, skeleton).records
        except PoseError:
            continue  # the check needs pictures of people; whose they are does not matter
        crops = _some(records, range(len(records)), config, COUNT)
        if len(crops):
            return crops, f"{len(crops)} crops of {source.annotations}"
    scenes = [render_scene(_SEED, index) for index in range(COUNT)]
    crops = np.concatenate([_cut(scene.image, scene.boxes[:1], config) for scene in scenes])
    return crops, f"{len(crops)} crops of synthetic people (none of the configuration's pictures can be read)"


def calibration_crops(config: Config, count: int, reporter: Reporter) -> tuple[np.ndarray, str]:
    """Up to `count` crops (N, h, w, 3) uint8 of the training set's people, drawn at random, and what they are.

    Always the same people. Pictures that cannot be read are passed over. Raises ConfigError without a training set,
    DataError when no picture of it can be read.
    """
    if not config.data.train:
        raise ConfigError("data.train is not set: 8-bit graphs are calibrated on crops of a training set; name one")
    records = read_training(config, reporter.say)
    order = np.random.default_rng(_SEED).permutation(len(records))
    with reporter.task("cutting calibration crops") as advance:
        crops = _some(records, order, config, count, lambda done: advance(done, min(count, len(records))))
    if not len(crops):
        raise DataError("none of the training set's pictures can be read; msposenet check-data says why")
    names = ", ".join(source.title for source in config.data.train)
    return crops, f"{len(crops)} crops of {names}"


def _some(records: Records, order: Iterable[int], config: Config, count: int, advance=lambda done: None) -> np.ndarray:
    """Crops of the first `count` people in `order` whose pictures can be read."""
    crops = [np.zeros((0, *config.data.input, 3), np.uint8)]
    for row in order:
        try:
            image = read_person_image(records, row)
        except ImageError:
            continue
        crops.append(_cut(image, records.boxes[row : row + 1], config))
        advance(len(crops) - 1)
        if len(crops) > count:
            break
    return np.concatenate(crops)


def _cut(image: np.ndarray, boxes: np.ndarray, config: Config) -> np.ndarray:
    input_wh = config.data.input_wh
    centers, sizes = geometry.boxes_to_crops(boxes, input_wh, config.data.enlarge)
    return geometry.cut_crops(image, centers, sizes, input_wh, Convention(config.codec.convention))
