"""What the COCO evaluation does with input of which pycocotools makes a wrong number or a traceback."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from coco_scene import (
    INF,
    NAN,
    PEOPLE,
    PERFECT,
    TRUTH,
    lacking,
    one_nan,
    pycocotools_ap,
    replaced,
    shifted,
    with_people,
)

from msposenet.errors import DataError, PoseError, ResultError
from msposenet.evaluation.coco import evaluate_coco
from msposenet.evaluation.results import suppress, to_coco_results
from msposenet.skeletons import COCO_17

# What pycocotools makes of it (a score or the error it dies of), and what comes out here (a score or our error).
PYCOCOTOOLS_TABLE = {
    "perfect": (TRUTH, PERFECT, 1.0, 1.0),
    "shifted 30 px": (TRUTH, shifted(PERFECT), 0.0, 0.0),
    "all NaN": (
        TRUTH,
        replaced(PERFECT, (None, "keypoints", [NAN] * 51)),
        1.0,
        (ResultError, "result 0 of image 1: keypoints holds nan"),
    ),
    "shifted and one NaN": (
        TRUTH,
        replaced(shifted(PERFECT), (None, "keypoints", one_nan)),
        1.0,
        (ResultError, "keypoints holds nan"),
    ),
    "inf": (
        TRUTH,
        replaced(PERFECT, (None, "keypoints", [INF] * 51)),
        0.0,
        (ResultError, "image 1: keypoints holds inf"),
    ),
    "NaN scores": (TRUTH, replaced(PERFECT, (None, "score", NAN)), 1.0, (ResultError, "image 1: score holds nan")),
    "annotation area NaN and shifted": (
        with_people(replaced(PEOPLE, (None, "area", NAN))),
        shifted(PERFECT),
        1.0,
        (DataError, "annotation 1: area holds nan"),
    ),
    "50 values": (
        TRUTH,
        replaced(PERFECT, (None, "keypoints", lambda values: values[:50])),
        1.0,
        (ResultError, "image 1: keypoints must be 51 numbers, found 50 values"),
    ),
    "50 values in the annotation": (
        with_people(replaced(PEOPLE, (4, "keypoints", lambda values: values[:50]))),
        PERFECT,
        IndexError,
        (DataError, "annotation 5: keypoints of coco17 must be 51 numbers, found 50 values"),
    ),
    "54 values in the annotation": (
        with_people(replaced(PEOPLE, (4, "keypoints", lambda values: values + values[:3]))),
        PERFECT,
        ValueError,
        (DataError, "annotation 5: keypoints of coco17 must be 51 numbers, found 54 values"),
    ),
    "every result twice": (TRUTH, PERFECT + PERFECT, 0.5663, 0.5663),
    "annotation id twice": (
        with_people(replaced(PEOPLE, (0, "id", 20))),
        PERFECT,
        0.8936,
        (DataError, r"annotation ids must differ, these occur twice: \[20\]"),
    ),
    "annotation id 0": (with_people(replaced(PEOPLE, (0, "id", 0))), PERFECT, 0.8936, 1.0),
    "no score": (TRUTH, lacking(PERFECT, "score"), KeyError, (ResultError, r"result 0 \(image_id 1\) has no 'score'")),
    "no iscrowd": (with_people(lacking(PEOPLE, "iscrowd")), PERFECT, KeyError, 1.0),
    "no num_keypoints": (with_people(lacking(PEOPLE, "num_keypoints")), PERFECT, KeyError, 1.0),
    "no area": (with_people(lacking(PEOPLE, "area")), PERFECT, KeyError, 1.0),
    "empty list": (TRUTH, [], IndexError, 0.0),
    "unknown image": (
        TRUTH,
        replaced(PERFECT, (3, "image_id", 99)),
        AssertionError,
        (ResultError, r"unknown images 99 \(1 results\)"),
    ),
    "wrong category": (
        TRUTH,
        replaced(PERFECT, (None, "category_id", 0)),
        0.0,
        (ResultError, r"must have category 1, found categories 0 \(20 results\)"),
    ),
}


@pytest.mark.parametrize("case", PYCOCOTOOLS_TABLE)
def test_guards_where_pycocotools_is_wrong(case):
    truth, results, raw, guarded = PYCOCOTOOLS_TABLE[case]
    if isinstance(raw, float):
        assert pycocotools_ap(truth, results) == pytest.approx(raw, abs=5e-5)
    else:
        with pytest.raises(raw):
            pycocotools_ap(truth, results)
    before = copy.deepcopy((truth, results))
    if isinstance(guarded, float):
        scores = evaluate_coco(truth, results, boxes="ground truth")
        assert abs(scores.AP - guarded) < 5e-5
        assert (truth, results) == before, "the caller's records were changed"
    else:
        error, message = guarded
        with pytest.raises(error, match=message):
            evaluate_coco(truth, results, boxes="ground truth")


@pytest.mark.parametrize(
    ("truth", "results", "note"),
    [
        (TRUTH, [], "the result list is empty"),
        (TRUTH, PERFECT + PERFECT, "20 results repeat another pose of their image"),
        (TRUTH, PERFECT[:15], "5 of 20 images with people have no result"),
        (TRUTH, PERFECT + 25 * PERFECT[:1], "6 results beyond the best 20 of their image"),
        (TRUTH, shifted(PERFECT), "AP is 0 although there are results; the best OKS is 0."),
        (
            with_people(replaced(PEOPLE, (0, "image_id", 2), (0, "keypoints", [0] * 51), (0, "num_keypoints", 0))),
            shifted(PERFECT),
            "AP is 0 although there are results; the best OKS is 0.",  # 1 with the unlabelled person, who is not scored
        ),
        (TRUTH, PERFECT, "AP_L and AR_L: -1, no large people"),
        (with_people(replaced(PEOPLE, (None, "area", 1e4))), PERFECT, "AP_M and AR_M: -1, no medium people"),
        (with_people([]), PERFECT, "AP and AR: -1, no annotated people"),
        (with_people(lacking(PEOPLE, "area")), PERFECT, "area taken from the box (width x height) for 20 of 20 people"),
        (
            with_people(replaced(PEOPLE, (2, "num_keypoints", 0))),
            PERFECT,
            "1 people have a num_keypoints that contradicts",
        ),
        (
            {
                **with_people(replaced(PEOPLE, (2, "category_id", 3))),
                "categories": [{"id": 3, "name": "dog"}, {"id": 1, "name": "person"}],
            },
            PERFECT,
            "1 annotations of other categories than 1 are left out",
        ),
    ],
)
def test_notes_say_what_would_surprise(truth, results, note):
    scores = evaluate_coco(truth, results, boxes="ground truth")
    assert any(sentence.startswith(note) for sentence in scores.notes), scores.notes
    assert any(line.startswith(f"note: {note}") for line in scores.lines())


def test_sound_scores_carry_only_the_note_on_sizes():
    annotations = replaced(PEOPLE, (0, "area", 1e4))
    assert evaluate_coco(with_people(annotations), PERFECT, boxes="ground truth").notes == ()


def test_missing_area_is_width_times_height():
    with_box_area = with_people(replaced(PEOPLE, (None, "area", 60.0 * 120.0)))
    moved = replaced(PERFECT, (None, "keypoints", lambda values: [value + 4 for value in values]))
    without_area = evaluate_coco(with_people(lacking(PEOPLE, "area")), moved, boxes="ground truth")
    assert without_area.AP == evaluate_coco(with_box_area, moved, boxes="ground truth").AP
    assert 0 < evaluate_coco(TRUTH, moved, boxes="ground truth").AP < without_area.AP < 1


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (with_people(replaced(PEOPLE, (6, "keypoints", one_nan))), "annotation 7: keypoints holds nan"),
        (with_people(replaced(PEOPLE, (6, "keypoints", [1.0, 1.0, NAN] * 17))), "annotation 7: visibility holds nan"),
        (
            with_people(replaced(PEOPLE, (6, "keypoints", [2e6, 1.0, 2] * 17))),
            "annotation 7 has a labelled joint beyond",
        ),
        (with_people(replaced(PEOPLE, (6, "bbox", [0, 0, INF, 1]))), "annotation 7: bbox holds inf"),
        (with_people(replaced(PEOPLE, (6, "bbox", [0, 0, 1]))), "annotation 7: bbox must be 4 numbers, found 3"),
        (with_people(replaced(PEOPLE, (6, "area", -1))), "annotation 7 has the negative area -1"),
        (with_people(replaced(PEOPLE, (6, "area", "big"))), "annotation 7: area must be plain numbers"),
        (with_people(replaced(PEOPLE, (6, "image_id", 99))), "annotation 7 belongs to image 99"),
        (with_people(replaced(PEOPLE, (6, "image_id", [1]))), "must be a whole number or text"),
        (with_people(lacking(PEOPLE, "id")), "annotation 0 \\(image_id 1\\) has no 'id'"),
        (with_people(lacking(PEOPLE, "bbox")), "annotation 0 \\(id 1, image_id 1\\) has no 'bbox'"),
        (with_people(lacking(PEOPLE, "keypoints")), "annotation 0 \\(id 1, image_id 1\\) has no 'keypoints'"),
        ({**TRUTH, "images": TRUTH["images"] * 2}, "image ids must differ, these occur twice: \\[1, 2, 3, 4, 5\\]"),
        ({**TRUTH, "images": {}}, "expected a list, one image each, found dict"),
        ({"images": [], "annotations": []}, "has no 'categories'"),
        ({**TRUTH, "categories": [{"id": 1, "name": "a"}, {"id": 2}]}, "2 categories, 0 called 'person'"),
        (
            {**TRUTH, "categories": [{"id": 1, "keypoints": [*COCO_17.joints[1:], "Nose"]}]},
            "lists the joints of coco17 in another order",
        ),
    ],
)
def test_annotations_that_cannot_be_trusted_are_refused(tmp_path, truth, message):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(truth))
    with pytest.raises(DataError, match=message) as error:
        evaluate_coco(path, PERFECT, boxes="ground truth")
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b'{"images": [', b"<html>"])
def test_files_that_are_no_annotations_are_refused(tmp_path, content):
    path = tmp_path / "annotations.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"annotations\.json"):
        evaluate_coco(path, PERFECT, boxes="ground truth")
    with pytest.raises(DataError, match=r"absent\.json: no such file"):
        evaluate_coco(tmp_path / "absent.json", PERFECT, boxes="ground truth")


def test_only_pose_errors_leave_damaged_annotations(tmp_path):
    rng = np.random.default_rng(11)
    whole = json.dumps({**TRUTH, "images": TRUTH["images"][:3], "annotations": PEOPLE[:3]}).encode()
    path = tmp_path / "annotations.json"
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(whole), rng.integers(1, 5)):
            damaged[position] = rng.choice(list(b'0e-.,:[]{}"nN'))
        path.write_bytes(damaged)
        try:
            evaluate_coco(path, PERFECT[:3], boxes="ground truth")
        except PoseError:
            refused += 1
    assert 150 < refused < 300


def test_nan_in_an_unlabelled_joint_changes_nothing():
    people = replaced(PEOPLE, (0, "keypoints", lambda values: [0.0, 0.0, 0, *values[3:]]))
    hollow = replaced(people, (0, "keypoints", lambda values: [NAN, NAN, *values[2:]]))
    moved = replaced(PERFECT, (None, "keypoints", lambda values: [value + 3 for value in values]))
    expected = evaluate_coco(with_people(people), moved, boxes="ground truth")
    found = evaluate_coco(with_people(hollow), moved, boxes="ground truth")
    assert found.as_dict() == expected.as_dict()
    assert 0 < found.AP < 1


def test_duplicates_that_suppression_removes_cost_nothing():
    twice = PERFECT + PERFECT
    keypoints = np.array([result["keypoints"] for result in twice]).reshape(-1, 17, 3)
    pose_scores = np.array([result["score"] for result in twice])
    ids = [result["image_id"] for result in twice]
    kept = suppress(ids, keypoints, pose_scores, np.full(40, 7200.0), sigmas=COCO_17.sigma_array)
    results = to_coco_results([ids[row] for row in kept], keypoints[kept], pose_scores[kept], None)
    assert len(results) == 20
    scores = evaluate_coco(TRUTH, results, boxes="ground truth")
    assert scores.AP > 1 - 1e-12
