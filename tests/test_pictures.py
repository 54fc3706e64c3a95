"""Where a sample's pixels come from changes nothing that is not meant to change."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from people_set import people_set, records_of
from shared_data import sample

from msposenet.config import AugmentationConfig, build_config
from msposenet.data.augmentation import CropPlan
from msposenet.data.formats.coco import read_coco
from msposenet.data.formats.mpii import read_mpii
from msposenet.data.images import read_image
from msposenet.data.loader import TrainingLoader
from msposenet.data.pictures import FilePictures, View
from msposenet.data.samples import TrainingSamples, cut
from msposenet.data.sampling import SampleOrder
from msposenet.data.training_set import training_samples
from msposenet.errors import ImageError
from msposenet.geometry import Convention
from msposenet.skeletons import COCO_17

WH = (64, 96)


def samples(records, convention=Convention.UNBIASED, order=None, **options):
    pictures = FilePictures(records, **options)
    return TrainingSamples(records, WH, convention, AugmentationConfig(), 3, pictures=pictures, order=order)


def equal(found, wanted):
    for a, b in zip(found, wanted):
        np.testing.assert_array_equal(a, b)


def test_persons_that_share_a_decoding_are_the_same():
    records = records_of(people_set())
    order = SampleOrder(3, records.origin_index, [1.0], records.image_index)
    plain, shared = samples(records), samples(records, order=order, keep=True)
    for code in order.of(0):
        equal(shared.make(0, int(code)), plain.make(0, int(code)))


def test_shared_decoding_reads_each_picture_once(monkeypatch):
    from msposenet.data import pictures

    records = records_of(people_set())
    decoded = []
    decode = pictures.decode_image
    monkeypatch.setattr(pictures, "decode_image", lambda *a, **k: decoded.append(a[1]) or decode(*a, **k))
    order = SampleOrder(3, records.origin_index, [1.0], records.image_index)
    with TrainingLoader(samples(records, order=order, keep=True), 4) as loader:
        list(loader.batches(0))
    assert len(decoded) == len(set(decoded)) < len(records)


@pytest.mark.parametrize("convention", Convention)
def test_a_crop_is_made_in_the_batch_itself(convention):
    made = samples(records_of(people_set()), convention)
    for index in range(8):
        slot = np.full((WH[1], WH[0], 3), 77, np.uint8)
        crop, _, _ = made.make(0, index, None, 0, slot)
        assert crop is slot
        equal([slot], made.make(0, index)[:1])


@pytest.mark.parametrize("convention", Convention)
def test_a_mirrored_sample_is_the_sample_of_the_mirrored_picture(convention):
    """Only a part of the picture is turned round; the crop must not know."""
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (90, 120, 3)).astype(np.uint8), (0, 0), 1.5)
    keypoints = np.concatenate([rng.uniform(0, 90, (17, 2)), np.full((17, 1), 2)], axis=1)
    for _ in range(60):
        center = rng.uniform(-20, 130, 2).astype(np.float32)
        size = (rng.uniform(20, 150) * np.array([2 / 3, 1])).astype(np.float32)
        plan = CropPlan(center, size, float(rng.uniform(-90, 90)), flip=True)
        found = cut(View(image), 120, keypoints, plan, COCO_17, WH, convention)
        mirrored = np.ascontiguousarray(image[:, ::-1])
        turned = keypoints[COCO_17.flip_index] * [-1, 1, 1] + [119, 0, 0]
        wanted = cut(View(mirrored), 120, turned, replace(plan, flip=False), COCO_17, WH, convention)
        equal(found, wanted)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("flip", [False, True])
def test_a_reduced_view_shows_the_same_places(factor, flip):
    image = cv2.GaussianBlur(np.random.default_rng(1).random((160, 240, 3)), (0, 0), 9)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    small = cv2.resize(image, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
    keypoints = np.tile([100.0, 60.0, 2.0], (17, 1))
    plan = CropPlan(np.array([120.0, 80.0]), np.array([60.0, 90.0]), 20.0, flip)
    full = cut(View(image), 240, keypoints, plan, COCO_17, WH, Convention.UNBIASED)
    reduced = cut(View.reduced(small, factor), 240, keypoints, plan, COCO_17, WH, Convention.UNBIASED)
    shifted = cut(View(small, (0.0, 0.0), factor), 240, keypoints, plan, COCO_17, WH, Convention.UNBIASED)
    np.testing.assert_array_equal(full[1], reduced[1])
    error, wrong = (np.abs(full[0].astype(int) - other[0]).mean() for other in (reduced, shifted))
    assert error < wrong / 2, (error, wrong)  # half a px aside is seen


def test_reduced_decoding_waits_until_two_px_meet():
    records, _ = read_coco(sample("coco/annotations/person_keypoints_val2017.json"), sample("coco/images/val2017"))
    picture = FilePictures(records, reduced=True).open(0)
    for ratio, factor in ((0.5, 1), (1.99, 1), (2.0, 2), (3.9, 2), (4.0, 4), (40.0, 8)):
        view = picture.view(ratio)
        assert view.factor == factor
        full = read_image(records.path(0))
        assert view.pixels.shape[:2] == tuple(-(-side // factor) for side in full.shape[:2])
        area = cv2.resize(full, view.pixels.shape[1::-1], interpolation=cv2.INTER_AREA)
        there, aside = (np.abs(view.pixels.astype(int) - other).mean() for other in (area, np.roll(area, 1, axis=1)))
        assert there < aside / 2


def test_a_kept_picture_gives_each_person_the_view_it_would_get_alone():
    records, _ = read_coco(sample("coco/annotations/person_keypoints_val2017.json"), sample("coco/images/val2017"))
    pictures = FilePictures(records, reduced=True, keep=True)
    assert [pictures.open(0).view(ratio).factor for ratio in (4.0, 9.0, 1.0, 4.0, 2.5)] == [4, 8, 1, 4, 2]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_shared_and_reduced_decoding_do_not_depend_on_the_workers(workers):
    """MPII's people are large and crowded: several reductions of one picture meet in a batch."""
    records, _ = read_mpii(sample("mpii/valid.json"), sample("mpii/images"))
    order = SampleOrder(3, records.origin_index, [1.0], records.image_index)
    made = samples(records, order=order, keep=True, reduced=True)
    alone = samples(records, order=order, reduced=True)
    with TrainingLoader(made, 8, workers) as loader:
        for step, batch in enumerate(loader.batches(0)):
            for row, code in enumerate(order.batch(0, step, 8)):
                np.testing.assert_array_equal(batch.crops[row], alone.make(0, int(code))[0])


def test_where_no_size_is_annotated_boxes_are_checked_against_the_picture():
    records = records_of(people_set())
    boxes = records.boxes.copy()
    boxes[0] = [5000, 10, 40, 40]
    unknown = replace(records, boxes=boxes, image_sizes=np.zeros_like(records.image_sizes))
    made = samples(unknown)
    with pytest.raises(ImageError, match=r"annotation \d+: the box .* lies outside the picture of"):
        made.make(0, 0)
    *_, used, bad = made.make_or_substitute(0, 0)
    assert used == 1 and "lies outside the picture" in bad[0].reason
    equal(made.make(0, 3), samples(records).make(0, 3))


def test_a_picture_of_another_size_than_annotated_is_refused():
    records = records_of(people_set())
    other = replace(records, image_sizes=records.image_sizes + 1)
    with pytest.raises(ImageError, match="the annotations say"):
        samples(other).make(0, 0)


def test_configuration_chooses_the_decoding():
    annotations = people_set()
    data = {"train": {"annotations": str(annotations), "images": str(annotations.parent.parent / "images")}}
    settings = build_config({"data": {**data, "share_decode": True, "reduced_decode": True}}, "test")
    made = training_samples(settings)
    pictures = made.records.image_index[made.order.of(0)]
    assert (np.diff(pictures) != 0).sum() + 1 == len(np.unique(pictures))
