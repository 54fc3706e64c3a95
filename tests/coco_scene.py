"""Twenty people in COCO form, ways to spoil them, and pycocotools without guards."""

from __future__ import annotations

import contextlib
import copy
import io

import numpy as np

NAN, INF = float("nan"), float("inf")


def scene(num_joints: int = 17, area: float = 4320.0) -> tuple[dict, list]:
    """20 images with one fully labelled person each, and results that repeat the annotations; scores fall."""
    rng = np.random.default_rng(0)
    annotations, results = [], []
    for image_id in range(1, 21):
        pose = np.full((num_joints, 3), 2.0)
        pose[:, :2] = rng.uniform([100, 100], [160, 220], (num_joints, 2)).round(1)
        common = {"image_id": image_id, "category_id": 1, "keypoints": pose.ravel().tolist()}
        person = {"id": image_id, "bbox": [100, 100, 60, 120], "area": area, "iscrowd": 0, "num_keypoints": num_joints}
        annotations.append({**common, **person})
        results.append({**common, "score": 1 - image_id / 40})
    images = [{"id": image_id, "width": 640, "height": 480} for image_id in range(1, 21)]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}, results


def pycocotools_ap(truth: dict, results: list) -> float:
    """AP of pycocotools without any guard."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()), np.errstate(invalid="ignore"):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "keypoints")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return float(evaluator.stats[0])


def shifted(results: list) -> list:
    moved = copy.deepcopy(results)
    for result in moved:
        result["keypoints"] = [value + 30 * (i % 3 != 2) for i, value in enumerate(result["keypoints"])]
    return moved


def replaced(records: list, *changes: tuple) -> list:
    """A copy of `records` with each (row or None for all, key, value or function) of `changes` set."""
    records = copy.deepcopy(records)
    for row, key, value in changes:
        for record in records if row is None else [records[row]]:
            record[key] = value(record[key]) if callable(value) else value
    return records


def lacking(records: list, key: str) -> list:
    return [{name: value for name, value in record.items() if name != key} for record in records]


TRUTH, PERFECT = scene()
PEOPLE = TRUTH["annotations"]


def with_people(annotations: list) -> dict:
    return {**TRUTH, "annotations": annotations}


def one_nan(values: list) -> list:
    return [NAN, *values[1:]]
