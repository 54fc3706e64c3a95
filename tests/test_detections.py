"""Detector files: the published form read in file order, everything doubtful refused, coverage always said."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from fuzz import mutate
from shared_data import load_golden, sample

from msposenet.data.formats.coco import read_coco
from msposenet.data.formats.detections import detection_records, read_detections
from msposenet.data.records import Tally
from msposenet.errors import DataError, PoseError

NAN, INF = math.nan, math.inf
KNOWN = [3, 1, 2, 4, 3]


def box(image: int, score: float = 0.9, **changes) -> dict:
    return {"image_id": image, "category_id": 1, "bbox": [1.5, 2, 30, 40], "score": score, **changes}


@pytest.fixture
def read(tmp_path):
    def read(detections, **options):
        path = tmp_path / "boxes.json"
        path.write_bytes(detections if isinstance(detections, bytes) else json.dumps(detections).encode())
        return read_detections(path, KNOWN, **options)

    return read


def test_golden_boxes_in_file_order():
    expected = load_golden("end_to_end/hrnet_w32_coco_detections.npz")
    folder = sample("coco_sample")
    images, _ = read_coco(folder / "test_coco.json", folder / "images")
    detections = read_detections(folder / "test_coco_det_AP_H_56.json", images.image_ids)
    assert detections.coverage() == "4 of 4 images have boxes"
    np.testing.assert_array_equal(detections.image_ids, expected["box_image_id"])
    centers = detections.boxes[:, :2] + detections.boxes[:, 2:] / 2
    np.testing.assert_allclose(centers, expected["center"], rtol=1e-5)
    np.testing.assert_allclose(detections.scores, expected["box_score"], rtol=1e-6)

    backwards = replace(images, image_ids=images.image_ids[::-1], image_paths=images.image_paths[::-1])
    records = detection_records(detections, backwards)
    assert len(records) == 118
    np.testing.assert_array_equal(records.boxes, detections.boxes)
    np.testing.assert_array_equal(records.box_scores, detections.scores)
    np.testing.assert_array_equal(records.image_ids[records.image_index], detections.image_ids)
    assert not records.keypoints.any() and records.keypoints.shape == (118, 17, 3)
    assert records.path(0).endswith("000000000785.jpg")


def test_boxes_are_not_clipped(read):
    detections = read([box(1, bbox=[-20, -30, 900, 800]), box(2)])
    assert detections.boxes[0].tolist() == [-20, -30, 900, 800]
    folder = sample("coco_sample")
    images, _ = read_coco(folder / "test_coco.json", folder / "images")
    with pytest.raises(DataError, match="boxes for images that the annotations lack: 1, 2"):
        detection_records(detections, images)


def test_categories_scores_and_empty_boxes(read):
    detections = read(
        [
            box(1, 0.3), box(2, 0.8), box(99, category_id=44), box(3, 0.05), box(4, bbox=[1, 1, 0, 5]),
            box(4, bbox=[1, 1, 1e-60, -5]), box(2, 0.1, bbox=[5, 6, 7, 8]),
        ],
        min_score=0.1,
    )  # fmt: skip
    assert detections.image_ids.tolist() == [1, 2, 2]
    np.testing.assert_allclose(detections.scores, [0.3, 0.8, 0.1])
    assert detections.report.dropped == {"box without width or height": Tally(2, ("number 4", "number 5"))}
    assert detections.report.filtered == {"score below 0.1": Tally(1, ("number 3",))}
    assert detections.coverage() == "2 of 4 images have boxes"
    assert read([box(1, category_id=7), box(2, category_id=7), box(3)], category_id=7).image_ids.tolist() == [1, 2]


@pytest.mark.parametrize(
    "detections, message",
    [
        ([], "only 0 of 4 images have boxes; at least 50% are wanted"),
        ([box(1), box(1), box(1)], "only 1 of 4 images have boxes"),
        ([box(1), box(2, 0.2)], "only 1 of 4 images have boxes"),
        ({"annotations": []}, "a JSON dict, not a list of detections"),
        (b'[{"image_id": 1, "categ', "cut off"),
        ([box(1), 7], "detection number 2 is the number 7; an object is wanted"),
        ([box(1), box(2, category_id="1")], "detection number 2: 'category_id' is the text '1'"),
        ([box(1, category_id=3), box(2, category_id=4)], "no detection of category_id 1 among 2; found 3, 4"),
        ([box(1), box(9), box(8)], "detection number 2: image_id 9 is not among the 4 images; is the file of another"),
        ([box(n) for n in range(4, 30)], "(25 such: 25 (number 2, number 3, number 4, number 5, number 6, ...))"),
        ([box(1), box("2")], "detection number 2: 'image_id' is the text '2'; a whole number is wanted"),
        ([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}], "detection number 1: no 'score'"),
        ([{"image_id": 1, "category_id": 1, "score": 1}], "detection number 1: no 'bbox'"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 1}], "detection number 1: no 'category_id'"),
        ([box(1), box(2, NAN)], "detection number 2: 'score' is nan"),
        ([box(1), box(2, INF)], "detection number 2: 'score' is inf"),
        ([box(1), box(2, None)], "detection number 2: 'score' is an empty value None"),
        ([box(1), box(2, bbox=[1, 2, 3])], "detection number 2: 'bbox' has 3 numbers; 4 are wanted"),
        ([box(1), box(2, bbox=[1, 2, 3, NAN])], "detection number 2: 'bbox' is [1.0, 2.0, 3.0, nan]"),
        ([box(1), box(2, bbox=[-2e6, 2, 3, 4])], "detection number 2: 'bbox' is [-2000000.0, 2.0, 3.0, 4.0]; pixels"),
        ([box(1), box(2, bbox=[1, 2, 3, "4"])], "detection number 2: 'bbox' holds the text '4'"),
    ],
)
def test_refused(read, detections, message):
    with pytest.raises(DataError, match=re.escape(message)) as error:
        read(detections, min_score=0.5)
    assert "boxes.json: " in str(error.value)


def test_half_of_the_images_is_enough(read):
    assert read([box(1), box(4)]).coverage() == "2 of 4 images have boxes"


def test_only_our_errors_escape_from_damaged_detections(read):
    data, rng, refused = json.dumps([box(n % 4 + 1, 0.1 * n) for n in range(9)]).encode(), np.random.default_rng(31), 0
    for _ in range(300):
        try:
            detections = read(mutate(data, rng))
            assert np.isfinite(detections.boxes).all() and np.isfinite(detections.scores).all()
        except PoseError:
            refused += 1
    assert 100 < refused < 300
