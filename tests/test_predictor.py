"""Pictures in, people out: from a run, an export, a zoo name."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from people_set import images_of, people_set, records_of, tiny_config

from msposenet import People, Predictor
from msposenet.data.images import read_image
from msposenet.errors import CheckpointError, ConfigError, DataError, ImageError, ResultError
from msposenet.inference.output import write_prediction
from msposenet.inference.source import find_config
from msposenet.inference.validate import estimate
from msposenet.skeletons import COCO_17
from msposenet.training.loop import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tiny_config(train={"epochs": 1}), tmp_path_factory.mktemp("predictor") / "run")


@pytest.fixture(scope="module")
def predictor(run):
    return Predictor(run)


@pytest.fixture(scope="module")
def picture():
    return sorted(images_of(people_set()).iterdir())[0]


def test_without_boxes_the_picture_is_one_box(predictor, picture):
    people = predictor(picture)
    height, width = cv2.imread(str(picture)).shape[:2]
    assert len(people) == 1 and people.image_wh == (width, height)
    assert people.boxes.tolist() == [[0, 0, width, height]]
    assert people.keypoints.shape == (1, 17, 3) and people.skeleton.joints == COCO_17.joints


def test_arrays_and_paths_give_the_same(predictor, picture):
    boxes = [[10, 10, 80, 120], [60, 20, 70, 100]]
    by_path, by_array = predictor(str(picture), boxes), predictor(read_image(picture), np.array(boxes))
    np.testing.assert_array_equal(by_path.keypoints, by_array.keypoints)
    assert by_path.name == str(picture) and by_array.name == ""


def test_it_finds_what_validation_finds(run, predictor):
    """The same engine behind both: the poses of an annotated picture's boxes are equal."""
    records = records_of(people_set())
    wanted = estimate(predictor._engine, records).keypoints
    first = records.image_index == records.image_index[0]
    people = predictor(records.path(0), records.boxes[first])
    found = {tuple(box): pose for box, pose in zip(people.boxes.tolist(), people.keypoints)}
    for box, pose in zip(records.boxes[first].tolist(), wanted[first]):
        if tuple(box) in found:
            np.testing.assert_allclose(found[tuple(box)], pose, atol=1e-3)
    assert len(found) >= 1


def test_best_first_and_alike_people_are_merged(predictor, picture):
    boxes = [[10, 10, 80, 120], [10, 10, 80, 120], [60, 20, 70, 100]]
    people = predictor(picture, boxes, box_scores=[0.3, 0.9, 0.5])
    assert len(people) <= 2
    assert people.scores.tolist() == sorted(people.scores.tolist(), reverse=True)


def test_the_exif_orientation_is_honoured(predictor, picture, tmp_path):
    from PIL import Image

    turned = Image.open(picture)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    plain, rotated = predictor(picture), predictor(tmp_path / "turned.jpg")
    assert rotated.image_wh == plain.image_wh[::-1]


@pytest.mark.parametrize("size", [(1, 1), (20, 20), (3000, 40)])
def test_pictures_of_any_size(predictor, size):
    people = predictor(np.zeros((*size, 3), np.uint8))
    assert np.isfinite(people.keypoints).all()


BLACK = np.zeros((9, 9, 3), np.uint8)
BAD_CALLS = {
    "float pixels": (lambda p: p(np.zeros((9, 9, 3))), ImageError, "uint8 RGB, found float64"),
    "grey pixels": (lambda p: p(np.zeros((9, 9), np.uint8)), ImageError, r"\(H, W, 3\)"),
    "no pixels": (lambda p: p(np.zeros((0, 9, 3), np.uint8)), ImageError, r"\(0, 9, 3\)"),
    "missing file": (lambda p: p("nowhere.jpg"), ImageError, r"nowhere\.jpg"),
    "empty box": (lambda p: p(np.zeros((9, 9, 3), np.uint8), [[0, 0, 0, 5]]), DataError, "box 0 is"),
    "NaN box": (lambda p: p(np.zeros((9, 9, 3), np.uint8), [[0, 0, np.nan, 5]]), DataError, "box 0 is"),
    "a score in the box": (lambda p: p(BLACK, [[0, 0, 5, 5, 0.9]] * 4), DataError, r"shape \(4, 5\)"),
    "a flat box": (lambda p: p(BLACK, [0, 0, 5, 5]), DataError, r"shape \(4,\)"),
    "ragged boxes": (lambda p: p(BLACK, [[0, 0, 5, 5], [1]]), DataError, "rows of x, y, width, height"),
    "text": (lambda p: p(BLACK, "gt"), DataError, "rows of x, y, width, height|shape"),
    "scores": (lambda p: p(np.zeros((9, 9, 3), np.uint8), [[0, 0, 5, 5]], [1, 2]), DataError, "1 boxes but"),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_pictures_and_boxes_are_named(predictor, call, error, message):
    with pytest.raises(error, match=message):
        call(predictor)


def test_no_boxes_give_no_people(predictor, picture):
    people = predictor(picture, np.zeros((0, 4)))
    assert len(people) == 0 and people.to_coco() == [] and people.to_json()["people"] == []


def test_a_box_wholly_outside_the_picture_finds_nobody(predictor, picture):
    people = predictor(picture, [[-500, 10, 50, 50], [10, 10, 80, 120], [5000, 10, 50, 50]])
    assert people.boxes.tolist() == [[10, 10, 80, 120]]


def test_overrides_reach_a_zoo_name():
    config = find_config("hrnet_w32", ("data.input=[384, 288]", "codec.decoder=dark"))
    assert config.data.input_wh == (288, 384) and config.codec.decoder == "dark"
    assert config.codec.convention == "standard" and config.model.name == "hrnet_w32"
    with pytest.raises(ConfigError, match=r"unknown key 'codec\.nonsense'"):
        find_config("hrnet_w32", ("codec.nonsense=1",))


def test_models_that_cannot_be_used_are_named(tmp_path, run):
    with pytest.raises(ConfigError, match="did you mean"):
        Predictor("hrnet_33")
    with pytest.raises(ConfigError, match="holds no weights; name them with --weights"):
        Predictor("hrnet_w32")
    with pytest.raises(ConfigError, match="neither a run"):
        Predictor(tmp_path)
    weights = next((run / "checkpoints").glob("step_*")) / "model.params"
    with pytest.raises(CheckpointError, match="do not fit"):
        Predictor("hrnet_w8_small", weights)
    for content, message in ((b"", "empty"), (b"<html>", "HTML"), (b"PK\x03\x04", "its end is missing")):
        path = tmp_path / "bad.params"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            Predictor("hrnet_w8_small", path)


def test_forms_of_the_result(predictor, picture, tmp_path):
    image = read_image(picture)
    people = predictor(picture, [[10, 10, 80, 120]])
    record = people.to_coco(image_id=7)[0]
    assert record["image_id"] == 7 and len(record["keypoints"]) == 51 and record["bbox"] == [10, 10, 80, 120]
    drawn, data = write_prediction(tmp_path, "found", image, people, threshold=-1.0)
    content = json.loads(data.read_text())
    assert content["width"] == image.shape[1] and set(content["people"][0]["keypoints"]) == set(COCO_17.joints)
    assert cv2.imread(str(drawn)).shape == image.shape
    assert (people.draw(image, threshold=-1.0) != image).any()
    with pytest.raises(ResultError, match="keypoints has shape"):
        People(np.zeros((1, 3, 3)), np.zeros((1, 4)), np.zeros(1), COCO_17, (9, 9))


def test_drawing_puts_joints_where_they_are():
    pose = np.zeros((1, 17, 3))
    pose[0, 0] = (30.0, 20.0, 1.0)
    people = People(pose, np.array([[1.0, 1.0, 50.0, 40.0]]), np.ones(1), COCO_17, (64, 48))
    drawn = people.draw(np.zeros((48, 64, 3), np.uint8), boxes=False).astype(int).sum(axis=2)
    y, x = np.nonzero(drawn)
    assert abs(x.mean() - 30) < 0.6 and abs(y.mean() - 20) < 0.6 and len(x) < 60
    assert people.draw(np.zeros((48, 64, 3), np.uint8))[1, 10].any()
