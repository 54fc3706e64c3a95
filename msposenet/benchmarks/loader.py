"""How fast samples are made, stage by stage, against the plain recipe and against what cannot be saved.

One process, one core, the contenders by turns on the same persons, in processor time with the files in the page cache:
a neighbour on the machine slows all of them alike, so the ratios hold where the figures do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from msposenet import geometry
from msposenet.benchmarks.peers.plain_loading import plain_sample
from msposenet.codecs import GaussianCodec
from msposenet.config import AugmentationConfig, Config
from msposenet.data.images import decode_image, encoded_size, read_bytes
from msposenet.data.packed import open_pack
from msposenet.data.packing import write_pack
from msposenet.data.pictures import FilePictures, View
from msposenet.data.records import Records
from msposenet.data.samples import TrainingSamples, cut
from msposenet.data.sampling import SampleOrder, sample_rng
from msposenet.errors import ConfigError, DataError, ImageError
from msposenet.geometry import Convention
from msposenet.progress import Reporter

BASELINE, FLOOR = "plain recipe", "floor: one decode, one warp"


def from_samples(samples: TrainingSamples) -> Callable[[int], None]:
    """A contender that makes the samples of epoch 0 in their order, each into the same batch slot."""
    order = samples.order.of(0)
    slot = np.zeros((samples.input_wh[1], samples.input_wh[0], 3), np.uint8)

    def make(number: int) -> None:
        samples.make_or_substitute(0, int(order[number % len(order)]), slot)

    return make


def baseline(records: Records, input_wh: tuple[int, int], config: AugmentationConfig, enlarge: float):
    """A contender: the plain recipe on the persons of epoch 0."""
    centers, sizes = geometry.boxes_to_crops(records.boxes, input_wh, enlarge)
    order = SampleOrder(0, records.origin_index, [1.0] * len(records.origins)).of(0)

    def make(number: int) -> None:
        index = int(order[number % len(order)])
        plain_sample(
            records.path(index), centers[index], sizes[index], records.keypoints[index], records.skeleton,
            config, input_wh, sample_rng(0, 0, index),
        )  # fmt: skip

    return make


def floor(records: Records, input_wh: tuple[int, int], enlarge: float):
    """A contender that only decodes the picture and warps the upright box: nothing of it can be left out."""
    centers, sizes = geometry.boxes_to_crops(records.boxes, input_wh, enlarge)
    order = SampleOrder(0, records.origin_index, [1.0] * len(records.origins)).of(0)

    def make(number: int) -> None:
        index = int(order[number % len(order)])
        matrix = geometry.crop_matrix(centers[index], sizes[index], 0.0, input_wh, Convention.STANDARD)
        image = cv2.imread(records.path(index), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        geometry.warp(image, matrix, input_wh)

    return make


def from_files(records: Records, config: Config, reduced: bool = False, together: bool = False) -> TrainingSamples:
    """The loader's samples from the picture files, as data.reduced_decode and data.share_decode would have them."""
    order = SampleOrder(
        0,
        records.origin_index,
        [1.0] * len(records.origins),
        image_index=records.image_index if together else None,
    )
    pictures = FilePictures(records, reduced=reduced, keep=together)
    convention = Convention(config.codec.convention)
    return TrainingSamples(
        records, config.data.input_wh, convention, config.augmentation, 0, config.data.enlarge, pictures, order
    )


def contenders(records: Records, config: Config, folder: Path, reporter: Reporter) -> dict[str, Callable[[int], None]]:
    """All there is to compare, the baseline first; a pack of the records is made in `folder`."""
    data = config.data
    write_pack(records, config, folder / "pack", reporter=reporter)
    pack = open_pack(folder / "pack", config)
    packed = TrainingSamples(
        pack.records,
        data.input_wh,
        Convention(config.codec.convention),
        config.augmentation,
        0,
        data.enlarge,
        pack.pictures,
        pack.order(0),
    )
    return {
        BASELINE: baseline(records, data.input_wh, config.augmentation, data.enlarge),
        FLOOR: floor(records, data.input_wh, data.enlarge),
        "files": from_samples(from_files(records, config)),
        "files, reduced_decode": from_samples(from_files(records, config, reduced=True)),
        "files, share_decode": from_samples(from_files(records, config, together=True)),
        "files, share_decode and reduced_decode": from_samples(from_files(records, config, True, True)),
        "pack": from_samples(packed),
    }


def pictures_of(records: Records) -> int:
    """Pictures that have persons."""
    return len(np.unique(records.image_index))


STAGES = ("read", "header", "decode", "plan", "mirror and warp", "hand-over", "targets if made here")


def stages(samples: TrainingSamples, count: int) -> dict[str, float]:
    """Milliseconds a sample of each stage of the loader, over `count` samples read from their files.

    Crops are made in the slot that the trainer reads, so "hand-over" is the copy of joints and weights into theirs.
    Targets are made on the device, by the training graph; the last stage is what outer products would take here.
    """
    records, spent = samples.records, np.zeros(len(STAGES))
    order = samples.order.of(0)
    width, height = samples.input_wh
    slot, joints_slot = np.zeros((height, width, 3), np.uint8), np.zeros((samples.skeleton.num_joints, 2), np.float32)
    weights_slot = np.zeros(samples.skeleton.num_joints, np.float32)
    codec = GaussianCodec(samples.input_wh, (width // 4, height // 4), samples.convention, sigma=height / 128)
    clock = time.process_time
    for number in range(count):
        index = int(samples.order.split(order[number % len(order)])[0])
        keypoints = records.keypoints[index].astype(np.float64)
        start = clock()
        data = read_bytes(records.path(index))
        read = clock()
        kind, size_wh = encoded_size(data, "")
        header = clock()
        pixels = decode_image(data, "", kind=kind)
        decoded = clock()
        plan = samples.plan(0, index, 0, size_wh[0])
        planned = clock()
        _, joints, labelled = cut(
            View(pixels), size_wh[0], keypoints, plan, samples.skeleton, samples.input_wh, samples.convention, slot
        )
        warped = clock()
        joints_slot[:], weights_slot[:] = joints, labelled
        handed = clock()
        codec.encode(joints[None], labelled[None])
        spent += np.diff([start, read, header, decoded, planned, warped, handed, clock()])
    return dict(zip(STAGES, (1000 * spent / count).tolist()))


def readable(records: Records, most: int) -> Records:
    """Some `most` persons, all there are on pictures from all over the set that can be read; their files are cached."""
    pictures = np.unique(records.image_index)
    chosen, persons, opener = [], 0, FilePictures(records)
    counts = np.bincount(records.image_index, minlength=len(records.image_paths))
    for picture in np.random.default_rng(0).permutation(pictures):
        index = int(np.argmax(records.image_index == picture))
        try:
            opener.open(index).view(1.0)
        except ImageError:
            continue
        chosen.append(picture)
        persons += counts[picture]
        if persons >= most:
            break
    if not chosen:
        raise DataError("none of the pictures can be read; see msposenet check-data")
    return records.select(np.isin(records.image_index, chosen))


def crowded(records: Records, persons: float) -> Records:
    """Records with `persons` instances a picture on average, by repeating those there are with shifted boxes.

    For small samples of data sets that have more people a picture than the sample has.
    """
    pictures = np.unique(records.image_index)
    if not np.isfinite(persons) or persons < 0:
        raise ConfigError(f"--crowd is {persons}; give the persons a picture, for example 2.6")
    wanted = round(persons * len(pictures))
    if wanted <= len(records):
        return records
    repeats = np.arange(wanted) % len(records)
    chosen = records.select(repeats)
    copy = np.arange(wanted) // len(records)
    boxes = chosen.boxes.copy()
    boxes[:, :2] += copy[:, None] * 0.05 * boxes[:, 2:]
    return replace(chosen, boxes=boxes, annotation_ids=np.arange(1, wanted + 1, dtype=np.int64))
