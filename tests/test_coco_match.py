"""Our matching and curves against pycocotools, bit for bit, on small random sets with everything that is unusual."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from msposenet.benchmarks.evaluation import check_identical, contenders
from msposenet.errors import ResultError
from msposenet.evaluation.coco import STAT_NAMES, evaluate_coco
from msposenet.evaluation.crowdpose import evaluate_crowdpose
from msposenet.skeletons import COCO_17, CROWDPOSE_14

KINDS = ("whole", "ignored", "crowd", "unlabelled")


def random_set(rng: np.random.Generator, joints: int = 17) -> tuple[dict, list]:
    """Some images with people or results or neither; equal scores, equal poses, areas at the edges of the ranges."""
    images = int(rng.integers(1, 7))
    annotations, results = [], []
    for image_id in rng.permutation(images).tolist():
        people = int(rng.choice([0, 1, 2, 5]))
        centre = rng.uniform(100, 140, (people, 1, 2))
        for person in range(people):
            kind = rng.choice(KINDS, p=[0.55, 0.15, 0.15, 0.15])
            pose = np.ones((joints, 3))
            pose[:, :2] = np.round(centre[person] + rng.uniform(0, 60, (joints, 2)))
            pose[:, 2] = rng.integers(0, 3, joints) if kind != "unlabelled" else 0
            pose[pose[:, 2] == 0] = 0
            if person and rng.uniform() < 0.3:
                pose = np.reshape(annotations[-1]["keypoints"], (joints, 3))  # two people with one OKS
            labelled = int((pose[:, 2] > 0).sum())
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "keypoints": pose.ravel().tolist(),
                    "area": float(rng.choice([0.0, 600, 32**2, 3000, 96**2, 9217, 2e4])),
                    "bbox": [*(centre[person, 0] + rng.uniform(-5, 5, 2)).tolist(), 60.0, 61.5],
                    "iscrowd": int(kind == "crowd"),
                    "num_keypoints": 0 if kind == "ignored" else labelled,
                }
            )
        for _ in range(int(rng.choice([0, 1, 6, 25]))):
            pose = np.ones((joints, 3))
            pose[:, :2] = rng.uniform(100, 200, (joints, 2))
            if people and rng.uniform() < 0.85:
                near = np.reshape(annotations[-1 - rng.integers(people)]["keypoints"], (joints, 3))
                pose[:, :2] = near[:, :2] + rng.normal(0, rng.choice([0, 1, 3, 8]), (joints, 2))
            score = round(float(rng.uniform()), 1)
            results.append({"image_id": image_id, "category_id": 1, "keypoints": pose.ravel().tolist(), "score": score})
    if not results:
        results.append({"image_id": 0, "category_id": 1, "keypoints": [1.5] * 3 * joints, "score": 0.5})
    content = {
        "images": [{"id": image_id, "crowdIndex": image_id / 6} for image_id in range(images)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }
    return content, results


def pycocotools_on(truth: dict, results: list, sigmas: np.ndarray):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, results = json.loads(json.dumps(truth)), json.loads(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(results), "keypoints")
        evaluator.params.kpt_oks_sigmas = sigmas
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def test_scores_and_oks_are_pycocotools_to_the_last_bit_on_random_sets(tmp_path):
    rng = np.random.default_rng(3)
    seen = set()
    for number in range(60):
        truth, results = random_set(rng)
        evaluator = pycocotools_on(truth, results, COCO_17.sigma_array)
        files = tmp_path / f"truth{number}.json", tmp_path / f"results{number}.json"
        for path, content in zip(files, (truth, results)):
            path.write_text(json.dumps(content))
        for sources in ((truth, results), files):
            scores = evaluate_coco(*sources, boxes="ground truth")
            assert [getattr(scores, name) for name in STAT_NAMES] == evaluator.stats.tolist(), number
        for image in truth["images"]:
            expected, found = evaluator.ious[image["id"], 1], scores.oks_of_image(image["id"])
            assert found.size == np.size(expected)
            assert np.array_equal(found.ravel(), np.ravel(expected))
            people = [person["id"] for person in truth["annotations"] if person["image_id"] == image["id"]]
            assert scores.annotation_ids(image["id"]) == people
        seen |= {name for name in STAT_NAMES if 0 < getattr(scores, name) < 1}
        seen |= {"beyond"} if any("beyond the best 20" in note for note in scores.notes) else set()
    assert seen == {*STAT_NAMES, "beyond"}


def test_crowdpose_is_pycocotools_on_its_own_areas():
    rng = np.random.default_rng(8)
    for _ in range(10):
        truth, results = random_set(rng, CROWDPOSE_14.num_joints)
        scores = evaluate_crowdpose(truth, results, boxes="ground truth")
        for person in truth["annotations"]:
            person["area"] = 0.53 * (person["bbox"][2] * person["bbox"][3])
        expected = pycocotools_on(truth, results, CROWDPOSE_14.sigma_array).stats
        found = [scores.values[name] for name in ("AP", "AP50", "AP75", "AR", "AR50", "AR75")]
        assert found == expected[[0, 1, 2, 5, 6, 7]].tolist()


@pytest.mark.parametrize(
    "text",
    [
        '[{"image_id": 1, "category_id": 1, "keypoints": [%s], "score": 1, "note": "\\ud800"}]',
        '\ufeff[{"image_id": 1, "category_id": 1.0, "keypoints": [%s], "score": 1}]',
        '[{"image_id": 1, "category_id": 1, "keypoints": [%s], "score": true, "bbox": [NaN, 1, 2, 3]}]',
        '[{"score": 3, "image_id": 1, "category_id": 1, "keypoints": [%s], "score": "1"}]',
    ],
)
def test_files_that_the_fast_reader_refuses_are_read_as_ever(tmp_path, text):
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "keypoints": [9, 8, 2] * 17, "area": 2000, "bbox": [0, 0, 9, 9]}
        ],
    }
    path = tmp_path / "results.json"
    path.write_text(text % ", ".join(["9, 8, 1"] * 17), "utf-8", "surrogatepass")
    scores = evaluate_coco(truth, path, boxes="ground truth")
    assert (scores.AP, scores.results) == (pytest.approx(1), 1)


def test_text_that_is_not_utf8_is_refused_also_where_nobody_looks(tmp_path):
    path = tmp_path / "results.json"
    path.write_bytes(b'[{"image_id": 1, "category_id": 1, "keypoints": [], "score": 1, "note": "\xff"}]')
    with pytest.raises(ResultError, match=r"results\.json: not whole JSON"):
        evaluate_coco({"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1}]}, path, boxes="ground truth")


def test_the_contenders_of_the_benchmark_agree(tmp_path: Path):
    runs = contenders(tmp_path, images=60, results=1200, seed=1)
    stats = {name: run() for name, run in runs.items()}
    assert len(stats) == 4 and all((values > 0).all() and (values <= 1).all() for values in stats.values())
    check_identical(stats)
    name = next(reversed(stats))
    stats[name] = stats[name] + 1e-15
    with pytest.raises(ResultError, match=f"AP is .* for {name}"):
        check_identical(stats)
