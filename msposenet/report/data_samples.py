"""Sample persons of a checked set: the picture as annotated, and crops of it as the network gets them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from msposenet.config import AugmentationConfig, Config
from msposenet.data.augmentation import CropPlan
from msposenet.data.doctor_findings import CheckedSet
from msposenet.data.pictures import FilePictures
from msposenet.data.records import Records
from msposenet.data.samples import TrainingSamples, read_person_image
from msposenet.errors import ImageError
from msposenet.geometry import Convention

_EACH = 2  # crops mirrored, and as many that are not
_EPOCHS = 60  # looked through for them
_REGION_WH = (420, 300)  # px
_MIRROR_ONLY = AugmentationConfig(half_body=0, scale=0, rotation=0, rotation_probability=0, flip=1)


@dataclass(frozen=True)
class Shot:
    """Pixels (h, w, 3) uint8 RGB with joints (K, 3) x, y, visibility and a box x, y, w, h, both in px of these."""

    pixels: np.ndarray
    joints: np.ndarray
    words: tuple[str, ...]  # what is seen
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class SamplePerson:
    """One person of a set: `shots[0]` as annotated, the others as crops."""

    annotation_id: int
    path: str
    shots: tuple[Shot, ...]


def sample_persons(checked: CheckedSet, config: Config, count: int, seed: int) -> Iterator[SamplePerson]:
    """Up to `count` persons on usable pictures, drawn by `seed`, spread over the set; the more joints the likelier."""
    records = checked.set.records
    if records is None:
        return
    makers = _makers(records, config, training=checked.set.part == "train")
    for index in _chosen(records, checked.usable, count, np.random.default_rng(seed)):
        try:
            pixels = read_person_image(records, index, lambda name, reason: None)
            crops = [shot for maker in makers for shot in maker.shots(index, pixels.shape[1])]
        except ImageError:  # the file changed since it was looked at, or the box misses the picture
            continue
        yield SamplePerson(
            int(records.annotation_ids[index]), records.path(index), (_region(records, index, pixels), *crops)
        )


def _chosen(records: Records, usable: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    labelled = (records.keypoints[..., 2] > 0).sum(axis=1)
    candidates = np.flatnonzero(usable[records.image_index] & (labelled > 0))
    parts = np.array_split(candidates, min(count, len(candidates))) if count and len(candidates) else []
    return [int(rng.choice(part, p=labelled[part] / labelled[part].sum())) for part in parts]


@dataclass(frozen=True)
class _Maker:
    """Makes crops of one kind."""

    samples: TrainingSamples
    mirrored: tuple[bool, ...]  # what is wanted, in this order

    def shots(self, index: int, image_width: int) -> list[Shot]:
        found: dict[bool, list[int]] = {kind: [] for kind in self.mirrored}
        for epoch in range(_EPOCHS):
            kind = self.samples.plan(epoch, index, 0, image_width).flip
            if len(found.get(kind, ())) < self.mirrored.count(kind):
                found[kind].append(epoch)
        return [self._shot(epoch, index, image_width) for epochs in found.values() for epoch in epochs]

    def _shot(self, epoch: int, index: int, image_width: int) -> Shot:
        samples = self.samples
        crop, xy_crop, weights = samples.make(epoch, index, lambda name, reason: None)
        plan = samples.plan(epoch, index, 0, image_width)
        order = samples.skeleton.flip_index if plan.flip else slice(None)
        visibility = samples.records.keypoints[index, order, 2] * (weights > 0)
        return Shot(crop, np.column_stack([xy_crop, visibility]), self._words(plan, index, image_width))

    def _words(self, plan: CropPlan, index: int, image_width: int) -> tuple[str, ...]:
        center, size = self.samples.centers[index], self.samples.sizes[index]
        x = image_width - 1 - plan.center[0] if plan.flip else plan.center[0]
        half = not np.allclose((x, plan.center[1]), center, atol=0.5)
        words = ["mirrored" if plan.flip else "not mirrored"]
        if self.samples.config not in (None, _MIRROR_ONLY):
            words += [
                f"{plan.rotation:+.0f}°".replace("-", "−").replace("+0", "0"),
                f"zoom {size[0] / plan.size[0]:.2f}",
            ]
        return (*words, *["half body"] * half)


def _makers(records: Records, config: Config, training: bool) -> list[_Maker]:
    """Crops as training gets them; of a validation set as it is scored: plain, and mirrored for the second pass."""
    convention, data = Convention(config.codec.convention), config.data
    if not training:  # a joint without weight is not trained, but it is scored
        records = replace(records, origins=(), origin_index=None)

    def samples(augmentation: AugmentationConfig | None) -> TrainingSamples:
        pictures = FilePictures(records, reduced=data.reduced_decode and training)
        seed = config.train.seed
        return TrainingSamples(records, data.input_wh, convention, augmentation, seed, data.enlarge, pictures)

    if training:
        return [_Maker(samples(config.augmentation), (False,) * _EACH + (True,) * _EACH)]
    return [_Maker(samples(None), (False,)), _Maker(samples(_MIRROR_ONLY), (True,))]


def _region(records: Records, index: int, pixels: np.ndarray) -> Shot:
    """The part of the picture around the person's box and joints."""
    height, width = pixels.shape[:2]
    box, keypoints = records.boxes[index], records.keypoints[index]
    margin = 0.15 * box[2:].max() + 4
    xy = keypoints[keypoints[:, 2] > 0, :2]
    near = np.minimum(box[:2], xy.min(axis=0)) - margin
    end = np.maximum(box[:2] + box[2:], xy.max(axis=0)) + margin
    x0, y0 = np.clip(np.floor(near), 0, (width - 1, height - 1)).astype(int)
    x1, y1 = np.clip(np.ceil(end), (x0 + 1, y0 + 1), (width, height)).astype(int)
    part = np.ascontiguousarray(pixels[y0:y1, x0:x1])
    scale = min(_REGION_WH[0] / part.shape[1], _REGION_WH[1] / part.shape[0])
    size = tuple(max(1, round(scale * side)) for side in (part.shape[1], part.shape[0]))
    part = cv2.resize(part, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    joints = keypoints.astype(np.float64)
    joints[:, :2] = (joints[:, :2] - (x0, y0) + 0.5) * scale - 0.5
    corner = ((box[:2] - (x0, y0) + 0.5) * scale - 0.5).tolist()
    words = ("as annotated", f"box {box[2]:.0f} x {box[3]:.0f} px")
    return Shot(part, joints, words, (*corner, *(box[2:] * scale).tolist()))
