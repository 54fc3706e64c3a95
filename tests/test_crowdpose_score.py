"""CrowdPose's scores: xtcocotools' numbers, the split by crowdIndex, and input that must not be scored."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from fuzz import mutate
from shared_data import golden

from msposenet.errors import ConfigError, DataError, PoseError, ResultError
from msposenet.evaluation.coco import evaluate_coco
from msposenet.evaluation.crowdpose import CLASSES, FIGURES, evaluate_crowdpose
from msposenet.skeletons import CROWDPOSE_14

pytestmark = pytest.mark.filterwarnings("error")
NAN = float("nan")


def official(name):
    return json.loads(golden(f"evaluation/crowdpose_{name}.json").read_text())


def scene(images=6, seed=5):
    """Annotations with one person a picture and results some pixels beside, one each; no shared data needed."""
    rng = np.random.default_rng(seed)
    annotations, results, listed = [], [], []
    for number in range(1, images + 1):
        xy = rng.uniform(50, 250, (14, 2))
        xy_found = xy + rng.normal(0, 2.5 * number, (14, 2))
        common = {"image_id": number, "category_id": 1}
        listed.append({"id": number, "crowdIndex": round(0.15 * number, 2)})
        annotations.append(
            {
                **common,
                "id": number,
                "iscrowd": 0,
                "num_keypoints": 14,
                "bbox": [50, 50, 200, 200],
                "keypoints": flat(xy),
            }
        )
        results.append({**common, "keypoints": flat(xy_found), "score": float(rng.random())})
    category = {"id": 1, "name": "person", "keypoints": list(CROWDPOSE_14.joints)}
    return {"images": listed, "categories": [category], "annotations": annotations}, results


def flat(xy):
    return np.insert(xy.round(2), 2, 2, axis=1).ravel().tolist()


def with_index(truth, *values):
    images = [{**image, "crowdIndex": value} for image, value in zip(truth["images"], values)]
    return {**truth, "images": images}


TRUTH, RESULTS = scene()


def test_the_official_numbers():
    expected = official("expected")
    scores = evaluate_crowdpose(
        golden("evaluation/crowdpose_gt.json"), golden("evaluation/crowdpose_pred.json"), boxes="detector"
    )
    assert list(scores.values) == list(expected["stats"])
    for name, value in expected["stats"].items():
        # xtcocotools rounds the three classes to four digits.
        found = round(scores.values[name], 4) if name not in FIGURES else scores.values[name]
        assert abs(found - value) < 1e-9, name
    for image in expected["oks_per_image"]:
        wanted = np.array(image["oks_detections_by_ground_truth"])
        np.testing.assert_allclose(scores.oks_of_image(image["image_id"]), wanted, rtol=0, atol=1e-9)
    assert (scores.images, scores.people, scores.results, scores.notes) == (4, 9, 15, ())
    assert scores.main == ("AP", scores.values["AP"])
    assert scores.lines("net")[-1].startswith("| net | 0.7877 | 0.9881 | 0.7314 | 0.8222 |")


@pytest.mark.parametrize(
    ("index", "name"),
    [(0.0, "easy"), (0.1999, "easy"), (0.2, "medium"), (0.7999, "medium"), (0.8, "hard"), (1.3, "hard")],
)
def test_the_limits_of_the_classes(index, name):
    scores = evaluate_crowdpose(with_index(TRUTH, *[index] * 6), RESULTS, boxes="gt")
    assert 0 < scores.values["AP"] == scores.values[f"AP_{name}"]
    others = [other for other in CLASSES if other != name]
    assert [scores.values[f"AP_{other}"] for other in others] == [-1, -1]
    assert scores.notes == tuple(
        f"AP_{other}: -1, nobody is annotated on the 0 images of this class" for other in others
    )


def test_a_class_is_the_score_of_its_images_alone():
    scores = evaluate_crowdpose(TRUTH, RESULTS, boxes="gt")
    members = {"easy": [1], "medium": [2, 3, 4, 5], "hard": [6]}
    for name, image_ids in members.items():
        alone = evaluate_crowdpose(TRUTH, RESULTS, boxes="gt", image_ids=image_ids)
        assert scores.values[f"AP_{name}"] == alone.values["AP"]
        assert alone.images == len(image_ids)
    assert scores.values["AP_easy"] > scores.values["AP_medium"] > scores.values["AP_hard"]


def test_the_area_is_a_share_of_the_box_whatever_the_file_says():
    truth = copy.deepcopy(TRUTH)
    for person in truth["annotations"]:
        person["area"] = 1.0
    assert (
        evaluate_crowdpose(truth, RESULTS, boxes="gt").values == evaluate_crowdpose(TRUTH, RESULTS, boxes="gt").values
    )
    for person in truth["annotations"]:
        person["area"] = 0.53 * 200 * 200
    by_coco = evaluate_coco(truth, RESULTS, boxes="gt", skeleton=CROWDPOSE_14)
    scores = evaluate_crowdpose(TRUTH, RESULTS, boxes="gt")
    assert {name: getattr(by_coco, name) for name in FIGURES} == {name: scores.values[name] for name in FIGURES}
    whole_box = evaluate_coco(TRUTH, RESULTS, boxes="gt", skeleton=CROWDPOSE_14)
    assert whole_box.AP > scores.values["AP"] > 0


def test_people_without_labelled_joint_do_not_count():
    hollow = {**TRUTH["annotations"][0], "id": 99, "bbox": [0, 0, 9, 9], "keypoints": [0] * 42, "num_keypoints": 0}
    truth = {**TRUTH, "annotations": [*TRUTH["annotations"], hollow]}
    scores = evaluate_crowdpose(truth, RESULTS, boxes="gt")
    assert scores.values == evaluate_crowdpose(TRUTH, RESULTS, boxes="gt").values
    assert scores.people == 6


def test_perfect_results_are_one_and_none_are_zero():
    perfect = [{**result, "keypoints": person["keypoints"]} for result, person in zip(RESULTS, TRUTH["annotations"])]
    assert set(evaluate_crowdpose(TRUTH, perfect, boxes="gt").values.values()) <= {1.0, 1 - 2**-52}
    nothing = evaluate_crowdpose(TRUTH, [], boxes="gt")
    assert set(nothing.values.values()) == {0.0}
    assert nothing.notes == ("the result list is empty: nobody was found, or nothing was written",)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, "image 3: crowdIndex must be plain numbers, found None|image 3: crowdIndex holds nan"),
        ("high", "image 3: crowdIndex must be plain numbers, found \\['high'\\]"),
        ([0.5], "image 3: crowdIndex must be plain numbers"),
        (NAN, "image 3: crowdIndex holds nan"),
        (float("inf"), "image 3: crowdIndex holds inf"),
        (-0.1, "image 3 has the crowdIndex -0.1"),
    ],
)
def test_a_crowd_index_that_is_none_is_refused(tmp_path, index, message):
    path = tmp_path / "crowdpose_test.json"
    path.write_text(json.dumps(with_index(TRUTH, 0, 0.5, index, 0, 0, 0)))
    with pytest.raises(DataError, match=message) as error:
        evaluate_crowdpose(path, RESULTS, boxes="gt")
    assert str(path) in str(error.value)


def test_a_missing_crowd_index_is_refused():
    truth = {**TRUTH, "images": [*TRUTH["images"][:4], {"id": 5}, TRUTH["images"][5]]}
    with pytest.raises(DataError, match="image 5 has no 'crowdIndex'"):
        evaluate_crowdpose(truth, RESULTS, boxes="gt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": [NAN] * 42}, "result 0 of image 1: keypoints holds nan"),
        ({"keypoints": [1.0] * 41}, "result 0 of image 1: keypoints must be 42 numbers, found 41 values"),
        ({"keypoints": [2e6] * 42}, "beyond 1e6 px"),
        ({"score": NAN}, "result 0 of image 1: score holds nan"),
        ({"image_id": 77}, "unknown images 77"),
        ({"category_id": 2}, "must have category 1"),
    ],
)
def test_results_that_cannot_be_trusted_are_refused(change, message):
    with pytest.raises(ResultError, match=message):
        evaluate_crowdpose(TRUTH, [{**RESULTS[0], **change}, *RESULTS[1:]], boxes="gt")


def test_boxes_must_be_named_and_images_known():
    with pytest.raises(ConfigError, match="say whose boxes"):
        evaluate_crowdpose(TRUTH, RESULTS, boxes=" ")
    with pytest.raises(DataError, match=r"does not list: \[9\]"):
        evaluate_crowdpose(TRUTH, RESULTS, boxes="gt", image_ids=[1, 9])
    with pytest.raises(DataError, match="image 9 was not evaluated"):
        evaluate_crowdpose(TRUTH, RESULTS, boxes="gt").oks_of_image(9)


@pytest.mark.parametrize("damaged", ["annotations", "results"])
def test_only_pose_errors_leave_damaged_files(tmp_path, damaged):
    truth, results = scene(images=1)
    whole = {"annotations": json.dumps(truth).encode(), "results": json.dumps(results).encode()}
    paths = {name: tmp_path / f"{name}.json" for name in whole}
    for name, content in whole.items():
        paths[name].write_bytes(content)
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(1000):
        paths[damaged].write_bytes(mutate(whole[damaged], rng))
        try:
            evaluate_crowdpose(paths["annotations"], paths["results"], boxes="gt")
        except PoseError:
            refused += 1
    assert 300 < refused < 1000
