"""Score a network on a set: boxes of the annotations or of a detector, poses, OKS-NMS, result list, AP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msposenet import geometry
from msposenet.config import Config, TestConfig
from msposenet.data.formats import READERS
from msposenet.data.formats.detections import detection_records, read_detections
from msposenet.data.records import Records
from msposenet.data.samples import read_person_image
from msposenet.errors import DataError, ImageError
from msposenet.evaluation.coco import Scores, evaluate_coco
from msposenet.evaluation.ground_truth import read_ground_truth
from msposenet.evaluation.results import rescore, suppress, to_coco_results
from msposenet.inference.topdown import TopDown
from msposenet.progress import Reporter

_READERS = 2  # threads that read and cut while the network computes
_AHEAD = 8  # pictures


@dataclass(frozen=True)
class Boxes:
    """Whose boxes persons are looked for in: records, and how every printed score names them."""

    records: Records
    name: str
    category_id: int = 1  # of persons in the annotation file

    @classmethod
    def choose(cls, annotated: Records, config: Config, say: Callable[[str], None] = lambda line: None) -> Boxes:
        """The annotated boxes of data.val for `test.boxes: gt`, else those of the detection file that it names.

        Boxes wholly outside their picture are left out and counted. Raises DataError for a file that cannot be used.
        """
        category_id = read_ground_truth(config.data.val.annotations, annotated.skeleton).category_id
        if config.test.boxes == "gt":
            return cls(annotated, "ground truth", category_id)
        file, least = Path(config.test.boxes), config.test.min_box_score
        detections = read_detections(file, annotated.image_ids, category_id=category_id, min_score=least)
        for line in [*detections.report.lines(), detections.coverage()]:
            say(line)
        detections.report.enforce(config.data.max_bad_fraction)
        records = detection_records(detections, annotated)
        inside = geometry.touches_image(records.boxes, records.image_sizes[records.image_index])
        if not inside.all():
            say(f"  left out: {(~inside).sum()} boxes wholly outside their picture")
            records = records.select(inside)
        return cls(records, f"detector {config.test.boxes}", category_id)


@dataclass(frozen=True)
class Estimates:
    """Poses before scoring, one row a box: keypoints (N, K, 3) in image px, and what the boxes were."""

    records: Records
    keypoints: np.ndarray
    sizes: np.ndarray  # (N, 2) of the enlarged boxes, in image px
    bad: dict[str, str]  # pictures that could not be read, with the reason

    def results(self, config: TestConfig, category_id: int = 1) -> list[dict]:
        """COCO results after rescoring and OKS-NMS, pictures in order of first appearance, falling score within."""
        records = self.records
        image_ids = records.image_ids[records.image_index].tolist()
        scores = rescore(records.box_scores, self.keypoints, config.joint_score)
        areas = self.sizes.astype(np.float64).prod(axis=1)
        kept = suppress(
            image_ids, self.keypoints, scores, areas, sigmas=records.skeleton.sigma_array, threshold=config.oks_nms
        )
        return to_coco_results(
            [image_ids[i] for i in kept], self.keypoints[kept], scores[kept], records.boxes[kept], category_id
        )


def estimate(
    engine: TopDown,
    records: Records,
    enlarge: float = geometry.ENLARGE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Estimates:
    """Poses of all boxes of `records`. Pictures that cannot be read are left out and listed in `bad`."""
    centers, sizes = geometry.boxes_to_crops(records.boxes, engine.codec.input_wh, enlarge)
    bad: dict[str, str] = {}
    found: list[np.ndarray] = []
    rows_done: list[int] = []
    crops: list[np.ndarray] = []
    rows: list[int] = []

    def flush(count: int) -> None:
        part = rows[:count]
        found.append(engine.keypoints(np.stack(crops[:count]), centers[part], sizes[part]))
        rows_done.extend(part)
        del crops[:count], rows[:count]
        progress(len(rows_done), len(records))

    for picture_rows, outcome in _pictures(engine, records, centers, sizes):
        if isinstance(outcome, ImageError):
            bad[records.path(picture_rows[0])] = str(outcome)
            continue
        crops.extend(outcome)
        rows.extend(picture_rows)
        while len(rows) >= engine.batch_size:
            flush(engine.batch_size)
    if rows:
        flush(len(rows))
    order = np.argsort(np.array(rows_done, dtype=np.int64), kind="stable")
    kept = np.array(rows_done, dtype=np.int64)[order]
    keypoints = np.concatenate(found)[order] if found else np.zeros((0, engine.skeleton.num_joints, 3), np.float32)
    return Estimates(records.select(kept), keypoints, sizes[kept], bad)


def _pictures(engine: TopDown, records: Records, centers, sizes) -> Iterator[tuple[np.ndarray, object]]:
    """Rows and crops (or the ImageError) of each picture that has boxes, read ahead by threads."""
    by_picture = np.argsort(records.image_index, kind="stable")
    groups = np.split(by_picture, np.flatnonzero(np.diff(records.image_index[by_picture])) + 1)
    groups = [group for group in groups if len(group)]

    def work(rows: np.ndarray):
        try:
            image = read_person_image(records, rows[0])
        except ImageError as error:
            return error
        return engine.crops(image, centers[rows], sizes[rows])

    with ThreadPoolExecutor(_READERS) as pool:
        waiting: list[tuple[np.ndarray, Future]] = []
        for rows in groups:
            waiting.append((rows, pool.submit(work, rows)))
            if len(waiting) > _AHEAD:
                first, future = waiting.pop(0)
                yield first, future.result()
        for rows, future in waiting:
            yield rows, future.result()


def score(
    engine: TopDown,
    boxes: Boxes,
    config: Config,
    reporter: Reporter,
    between: Callable[[], None] = lambda: None,
) -> tuple[Scores, list[dict]]:
    """COCO scores of the network on data.val, its persons looked for in `boxes`; and its result list.

    `between` is called between batches and may raise to break off.

    Raises DataError when more than data.max_bad_fraction of the pictures cannot be read: their people would count as
    missed.
    """
    annotations = config.data.val.annotations
    skeleton = boxes.records.skeleton
    with reporter.task("estimating") as advance:

        def batch_done(done: int, total: int) -> None:
            advance(done, total)
            between()

        estimates = estimate(engine, boxes.records, config.data.enlarge, batch_done)
    pictures = len(np.unique(boxes.records.image_index))
    if len(estimates.bad) > config.data.max_bad_fraction * pictures:
        shown = "; ".join(list(estimates.bad.values())[:5])
        raise DataError(
            f"{len(estimates.bad)} of {pictures} pictures of {annotations} cannot be read ({shown}); repair them, or "
            f"raise data.max_bad_fraction to score without them"
        )
    for reason in estimates.bad.values():
        reporter.say(f"skipped: {reason}")
    results = estimates.results(config.test, boxes.category_id)
    return evaluate_coco(annotations, results, boxes=boxes.name, skeleton=skeleton), results


def score_source(engine: TopDown, config: Config, reporter: Reporter) -> tuple[Scores, list[dict]]:
    """`score` on data.val, read here."""
    source = config.data.val
    annotated, report = READERS[source.format](source.annotations, source.images, engine.skeleton)
    for line in report.lines():
        reporter.say(line)
    report.enforce(config.data.max_bad_fraction)
    return score(engine, Boxes.choose(annotated, config, reporter.say), config, reporter)
