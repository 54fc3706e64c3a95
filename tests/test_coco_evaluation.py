"""COCO scores on sound input: the reference's numbers, other skeletons, printed lines, from decoded poses on."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from coco_scene import NAN, PERFECT, TRUTH, pycocotools_ap, replaced, scene, shifted
from shared_data import golden, load_golden, sample

from msposenet.errors import ConfigError, DataError
from msposenet.evaluation.coco import STAT_NAMES, evaluate_coco
from msposenet.evaluation.oks import oks_to_ground_truth
from msposenet.evaluation.results import rescore, suppress, to_coco_results, write_results
from msposenet.skeletons import AIC_14, COCO_17, CROWDPOSE_14, LSP_14


def stats(scores) -> np.ndarray:
    return np.array([getattr(scores, name) for name in STAT_NAMES])


def test_synthetic_scores_are_the_reference_also_from_files_and_with_boxes():
    truth, results = golden("evaluation/coco_synthetic_gt.json"), golden("evaluation/coco_synthetic_pred.json")
    expected = json.loads(golden("evaluation/coco_synthetic_expected.json").read_text())["stats"]
    scores = evaluate_coco(truth, results, boxes="ground truth")
    assert list(expected) == list(STAT_NAMES)
    assert scores.as_dict() == {
        **{name: pytest.approx(value, abs=1e-9) for name, value in expected.items()},
        "boxes": "ground truth",
        "images": 14,
        "people": 22,
        "results": 69,
        "notes": list(scores.notes),
    }
    content, records = json.loads(truth.read_text()), json.loads(results.read_text())
    # pycocotools would measure a result by its box and move AP_M and AP_L.
    boxed = [{**record, "bbox": [0, 0, 1, 1]} for record in records]
    assert stats(evaluate_coco(content, boxed, boxes="detector f")).tolist() == stats(scores).tolist()


def test_image_names_may_be_text_and_ids_any_number():
    truth = json.loads(golden("evaluation/coco_synthetic_gt.json").read_text())
    results = json.loads(golden("evaluation/coco_synthetic_pred.json").read_text())
    expected = stats(evaluate_coco(truth, results, boxes="ground truth"))
    for record in (*truth["annotations"], *results):
        record["image_id"] = f"{record['image_id']}.jpg"
    for image in truth["images"]:
        image["id"] = f"{image['id']}.jpg"
    for number, person in enumerate(truth["annotations"]):
        person["id"] = 3 * (number - 7)
    scores = evaluate_coco(truth, results, boxes="ground truth")
    assert stats(scores).tolist() == expected.tolist()
    image_id = truth["annotations"][0]["image_id"]
    people = [person for person in truth["annotations"] if person["image_id"] == image_id]
    assert scores.annotation_ids(image_id) == [person["id"] for person in people]


def test_equal_scores_are_settled_by_image_id_as_in_pycocotools():
    half = replaced(PERFECT[:10] + shifted(PERFECT[10:]), (None, "score", 0.5))
    backwards = {**TRUTH, "images": TRUTH["images"][::-1]}
    expected = pycocotools_ap(backwards, half)
    scores = evaluate_coco(backwards, half, boxes="ground truth")
    assert abs(scores.AP - expected) < 1e-12
    # With the good poses in the later images the precision is lower all along.
    worst = replaced(shifted(PERFECT[:10]) + PERFECT[10:], (None, "score", 0.5))
    assert pycocotools_ap(backwards, worst) < expected - 0.1


def test_oks_of_every_image_is_our_matrix():
    truth = json.loads(golden("evaluation/coco_synthetic_gt.json").read_text())
    results = json.loads(golden("evaluation/coco_synthetic_pred.json").read_text())
    scores = evaluate_coco(truth, results, boxes="ground truth")
    seen = set()
    for image_id in [image["id"] for image in truth["images"]]:
        people = [person for person in truth["annotations"] if person["image_id"] == image_id]
        found = [pose for pose in results if pose["image_id"] == image_id]
        found = sorted(found, key=lambda pose: -pose["score"])[:20]
        oks = scores.oks_of_image(image_id)
        seen.add((min(len(found), 1), min(len(people), 1)))
        if not found or not people:
            assert oks.shape == (0, len(people))
            continue
        expected = oks_to_ground_truth(
            np.array([pose["keypoints"] for pose in found]).reshape(-1, 17, 3),
            np.array([person["keypoints"] for person in people], float).reshape(-1, 17, 3),
            np.array([person["area"] for person in people]),
            np.array([person["bbox"] for person in people]),
            COCO_17.sigma_array,
        )
        np.testing.assert_allclose(oks, expected, rtol=0, atol=1e-12)
    assert {(1, 1), (0, 1)} <= seen
    with pytest.raises(DataError, match="image 5 was not evaluated"):
        scores.oks_of_image(5)


@pytest.mark.parametrize("skeleton", [AIC_14, LSP_14])
def test_other_skeletons_use_their_own_sigmas(skeleton):
    truth, results = scene(skeleton.num_joints)
    moved = replaced(results, (None, "keypoints", lambda values: [value + 5 for value in values]))
    scores = evaluate_coco(truth, moved, boxes="ground truth", skeleton=skeleton)
    distance = 2 * 5.0**2
    expected = np.exp(-distance / (2 * 4320 * (2 * skeleton.sigma_array) ** 2)).mean()
    assert scores.oks_of_image(3)[0, 0] == pytest.approx(expected, abs=1e-9)
    doubled = evaluate_coco(truth, moved, boxes="g", skeleton=skeleton, sigmas=[2 * sigma for sigma in skeleton.sigmas])
    expected = np.exp(-distance / (2 * 4320 * (4 * skeleton.sigma_array) ** 2)).mean()
    assert doubled.oks_of_image(3)[0, 0] == pytest.approx(expected, abs=1e-9)
    with pytest.raises(DataError, match="annotation 1: keypoints of coco17 must be 51 numbers, found 42 values"):
        evaluate_coco(truth, results, boxes="ground truth")


@pytest.mark.parametrize("sigmas", [[0.1] * 16, [0.1] * 16 + [0.0], [0.1] * 16 + [NAN]])
def test_sigmas_that_do_not_fit_are_refused(sigmas):
    with pytest.raises(ConfigError, match="must be 17 positive numbers"):
        evaluate_coco(TRUTH, PERFECT, boxes="ground truth", sigmas=sigmas)


def test_only_the_images_asked_for_count():
    worse = PERFECT[:10] + shifted(PERFECT[10:])
    first = evaluate_coco(TRUTH, worse, boxes="ground truth", image_ids=range(1, 11))
    assert (first.AP, first.images, first.people, first.results) == (pytest.approx(1), 10, 10, 10)
    assert "10 results of images that were not asked for are left out" in first.notes
    assert evaluate_coco(TRUTH, worse, boxes="ground truth", image_ids=range(11, 21)).AP == 0
    with pytest.raises(DataError, match="images to evaluate that it does not list: \\[99\\]"):
        evaluate_coco(TRUTH, worse, boxes="ground truth", image_ids=[1, 99])


def test_printed_lines_are_pycocotools_under_the_heading_of_the_boxes(capsys):
    scores = evaluate_coco(TRUTH, PERFECT, boxes="detector boxes.json")
    assert capsys.readouterr().out == ""
    lines = scores.lines("hrnet_w32")
    assert lines[0] == "boxes: detector boxes.json"
    assert lines[1] == " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets= 20 ] = 1.000"
    assert lines[3] == " Average Precision  (AP) @[ IoU=0.75      | area=   all | maxDets= 20 ] = 1.000"
    assert lines[5] == " Average Precision  (AP) @[ IoU=0.50:0.95 | area= large | maxDets= 20 ] = -1.000"
    assert lines[9] == " Average Recall     (AR) @[ IoU=0.50:0.95 | area=medium | maxDets= 20 ] = 1.000"
    assert lines[11].startswith("| model | AP | AP50 |")
    assert lines[13].startswith("| hrnet_w32 | 1.000 | 1.000 | 1.000 | 1.000 | -1.000 | 1.000 |")
    assert lines[13].endswith("| detector boxes.json |")
    assert len({line.count("|") for line in lines[11:14]}) == 1
    with pytest.raises(ConfigError, match="whose boxes"):
        evaluate_coco(TRUTH, PERFECT, boxes=" ")


def test_ten_lines_are_what_pycocotools_prints():
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, results = golden("evaluation/coco_synthetic_gt.json"), golden("evaluation/coco_synthetic_pred.json")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        evaluator = COCOeval(coco, coco.loadRes(str(results)), "keypoints")
        evaluator.evaluate()
        evaluator.accumulate()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        evaluator.summarize()
    assert evaluate_coco(truth, results, boxes="ground truth").lines()[1:11] == printed.getvalue().splitlines()


def test_importing_the_evaluation_does_not_load_pycocotools_or_mxnet():
    code = (
        "import sys, msposenet.evaluation.coco\n"
        "assert not {'pycocotools', 'mxnet', 'matplotlib'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=Path(__file__).parents[1])


REAL_IMAGES = (785, 40083, 196141, 197388)


@pytest.mark.parametrize("variant", ["shift", "noshift", "noflip"])
def test_hrnet_from_decoded_poses_to_scores(variant, tmp_path):
    case = load_golden("end_to_end/hrnet_w32_coco_detections.npz")
    image_ids, keypoints, areas = case["box_image_id"], case[f"{variant}_keypoints"], case["area"]
    scores = rescore(case["box_score"], keypoints)
    np.testing.assert_allclose(scores, case[f"{variant}_pose_score"], rtol=1e-9)
    for threshold, key in ((0.9, ""), (0.7, "_oks_70"), (0.5, "_oks_50"), (0.3, "_oks_30")):
        kept = suppress(image_ids, keypoints, scores, areas, sigmas=COCO_17.sigma_array, threshold=threshold)
        assert kept.tolist() == case[f"{variant}_kept_index{key}"].tolist()

    kept = suppress(image_ids, keypoints, scores, areas, sigmas=COCO_17.sigma_array)
    boxes = np.concatenate([case["center"] - 100 * case["scale"], 200 * case["scale"]], axis=1)
    results = to_coco_results(image_ids[kept], keypoints[kept], scores[kept], boxes[kept])
    assert [result["image_id"] for result in results] == case[f"{variant}_result_image_id"].tolist()
    np.testing.assert_allclose([result["score"] for result in results], case[f"{variant}_result_score"], rtol=1e-9)
    assert np.array_equal([result["keypoints"] for result in results], case[f"{variant}_result_keypoints"])

    path = write_results(tmp_path / "keypoints.json", results)
    real = evaluate_coco(sample("coco_sample/test_coco.json"), path, boxes="detector test_coco_det_AP_H_56.json")
    np.testing.assert_allclose(stats(real), case[f"{variant}_stats"], rtol=0, atol=1e-9)
    invented_truth = golden("end_to_end/hrnet_w32_coco_detections_invented_annotations.json")
    invented = evaluate_coco(invented_truth, path, boxes="detector test_coco_det_AP_H_56.json")
    np.testing.assert_allclose(stats(invented), case[f"{variant}_invented_stats"], rtol=0, atol=1e-9)
    for image_id in REAL_IMAGES:
        assert real.annotation_ids(image_id) == case[f"oks_{image_id}_annotation_ids"].tolist()
        np.testing.assert_allclose(real.oks_of_image(image_id), case[f"{variant}_oks_{image_id}"], rtol=0, atol=1e-12)
        expected = case[f"{variant}_invented_oks_{image_id}"]
        np.testing.assert_allclose(invented.oks_of_image(image_id), expected, rtol=0, atol=1e-12)


def test_udp_from_decoded_poses_to_scores():
    case = load_golden("end_to_end/udp_offset_w32_coco.npz")
    image_ids, keypoints = case["box_image_id"], case["keypoints"]
    scores = rescore(case["box_score"], keypoints)
    np.testing.assert_allclose(scores, case["pose_score"], rtol=1e-6)
    kept = suppress(image_ids, keypoints, scores, case["area"], sigmas=COCO_17.sigma_array)
    assert kept.tolist() == case["kept_index"].tolist()
    results = to_coco_results(image_ids[kept], keypoints[kept], scores[kept], case["clean_box_xywh"][kept])
    assert [result["image_id"] for result in results] == case["result_image_id"].tolist()
    np.testing.assert_allclose([result["score"] for result in results], case["result_score"], rtol=1e-6)
    assert np.array_equal([result["keypoints"] for result in results], case["result_keypoints"])
    real = evaluate_coco(sample("coco_sample/test_coco.json"), results, boxes="ground truth")
    np.testing.assert_allclose(stats(real), case["stats"], rtol=0, atol=1e-9)
    for image_id in REAL_IMAGES:
        assert real.annotation_ids(image_id) == case[f"oks_{image_id}_annotation_ids"].tolist()
        np.testing.assert_allclose(real.oks_of_image(image_id), case[f"oks_{image_id}"], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("annotations", "skeleton", "people", "from_box"),
    [
        ("coco/annotations/person_keypoints_val2017.json", COCO_17, 46, False),
        ("aic/test_aic.json", AIC_14, 9, True),
        ("crowdpose/test_crowdpose.json", CROWDPOSE_14, 4, True),
    ],
)
def test_annotations_scored_against_themselves(annotations, skeleton, people, from_box):
    path = sample(annotations)
    truth = json.loads(path.read_text())
    labelled = [person for person in truth["annotations"] if person["num_keypoints"] and not person.get("iscrowd")]
    keypoints = np.array([person["keypoints"] for person in labelled]).reshape(len(labelled), -1, 3)
    results = to_coco_results([person["image_id"] for person in labelled], keypoints, np.ones(len(labelled)), None)
    scores = evaluate_coco(path, results, boxes="ground truth", skeleton=skeleton)
    assert (scores.AP, scores.AR, scores.people) == (pytest.approx(1), 1, people)
    assert any("area taken from the box" in note for note in scores.notes) == from_box
