"""Poses for a whole set: annotated or detected boxes, crops through the network, OKS-NMS, result list."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msposenet import geometry
from msposenet.config import Config, Source, TestConfig
from msposenet.data.formats.detections import detection_records, read_detections
from msposenet.data.records import Records
from msposenet.data.samples import read_person_image
from msposenet.distributed.arrays import pack_arrays, unpack_arrays
from msposenet.distributed.group import Alone, Group
from msposenet.errors import ConfigError, ImageError, Terminated
from msposenet.evaluation.results import rescore, suppress, to_coco_results
from msposenet.inference.engine import Engine
from msposenet.skeletons import Skeleton

_READERS = 2  # threads that read and cut while the network computes
_AHEAD = 8  # pictures


@dataclass(frozen=True)
class Boxes:
    """Whose boxes persons are looked for in: records, how every printed score names them, one a person or not."""

    records: Records
    name: str
    annotated: bool = True

    @classmethod
    def choose(
        cls,
        annotated: Records,
        source: Source,
        config: Config,
        category_id: int = 1,
        say: Callable[[str], None] = lambda line: None,
    ) -> Boxes:
        """The annotated boxes of one set for `test.boxes: gt`, else those of a detection file.

        That file is `source.detections` for `test.boxes: detections`, else the one that test.boxes names. Boxes wholly
        outside their picture are left out and counted. Raises DataError for a file that cannot be used.
        """
        if config.test.boxes == "gt":
            return cls(annotated, "ground truth" if source.boxes == "file" else "around the annotated joints")
        if config.test.boxes == "detections":
            file = source.detections
        else:
            if len(config.data.val) > 1:
                raise ConfigError(
                    f"test.boxes names one file for {len(config.data.val)} sets; give each its `detections` and set "
                    "test.boxes: detections"
                )
            file = Path(config.test.boxes)
        detections = read_detections(
            file, annotated.image_ids, category_id=category_id, min_score=config.test.min_box_score
        )
        for line in [*detections.report.lines(), detections.coverage()]:
            say(line)
        detections.report.enforce(config.data.max_bad_fraction)
        records = detection_records(detections, annotated)
        sizes = records.image_sizes[records.image_index]
        inside = geometry.touches_image(records.boxes, np.where(sizes > 0, sizes, np.inf))
        if not inside.all():
            say(f"  left out: {(~inside).sum()} boxes wholly outside their picture")
            records = records.select(inside)
        return cls(records, f"detector {file}", annotated=False)


@dataclass(frozen=True)
class Estimates:
    """Poses before scoring, one row a box: keypoints (N, K, 3) in image px, and what the boxes were."""

    records: Records
    skeleton: Skeleton  # of the keypoints
    keypoints: np.ndarray
    sizes: np.ndarray  # (N, 2) of the enlarged boxes, in image px
    bad: dict[str, str]  # pictures that could not be read, with the reason

    def kept(self, config: TestConfig) -> tuple[np.ndarray, np.ndarray]:
        """Rows that survive OKS-NMS and their scores, pictures in order of first appearance, falling score within."""
        records = self.records
        image_ids = records.image_ids[records.image_index].tolist()
        scores = rescore(records.box_scores, self.keypoints, config.joint_score)
        areas = self.sizes.astype(np.float64).prod(axis=1)
        kept = suppress(
            image_ids, self.keypoints, scores, areas, sigmas=self.skeleton.sigma_array, threshold=config.oks_nms
        )
        return kept, scores[kept]

    def results(self, config: TestConfig, category_id: int = 1, keypoints: np.ndarray | None = None) -> list[dict]:
        """COCO results after rescoring and OKS-NMS; `keypoints` (N, J, 3) are listed in place of the network's."""
        keypoints = self.keypoints if keypoints is None else keypoints
        kept, scores = self.kept(config)
        image_ids = self.records.image_ids[self.records.image_index[kept]].tolist()
        return to_coco_results(image_ids, keypoints[kept], scores, self.records.boxes[kept], category_id)


def estimate(
    engine: Engine,
    records: Records,
    enlarge: float = geometry.ENLARGE,
    progress: Callable[[int, int], None] = lambda done, total: None,
    group: Group | None = None,
) -> Estimates | None:
    """Poses of all boxes of `records`. Pictures that cannot be read are left out and listed in `bad`.

    The workers of `group` share the pictures; rank 0 gets all poses, the others None. When `progress` raises
    Terminated on one of them, all raise it.
    """
    group = group or Alone()
    # Every so-manieth picture: the costly ones of a set often lie together.
    rows = np.flatnonzero(records.image_index % group.size == group.rank)
    stopped = None
    try:
        part = _estimate(engine, records, rows, enlarge, progress)
    except Terminated as asked:
        stopped, part = asked, _Part(rows[:0], np.zeros((0, engine.skeleton.num_joints, 3), np.float32), {})
    if any(group.all("poses found", stopped is not None)):
        raise stopped or Terminated("another process of the job got SIGTERM; resume to go on")
    part = _gather(group, part)
    if part is None:
        return None
    order = np.argsort(part.rows, kind="stable")
    kept = part.rows[order]
    _, sizes = geometry.boxes_to_crops(records.boxes[kept], engine.input_wh, enlarge)
    return Estimates(records.select(kept), engine.skeleton, part.keypoints[order], sizes, part.bad)


@dataclass(frozen=True)
class _Part:
    """Rows (n,) of the records, their keypoints (n, K, 3), and the pictures that could not be read."""

    rows: np.ndarray
    keypoints: np.ndarray
    bad: dict[str, str]


def _gather(group: Group, part: _Part) -> _Part | None:
    if group.size == 1:
        return part
    arrays = group.gather("poses", pack_arrays({"rows": part.rows, "keypoints": part.keypoints}))
    bad = group.gather("damaged pictures", json.dumps(part.bad).encode("ascii"))
    if arrays is None or bad is None:
        return None
    parts = [unpack_arrays(packed) for packed in arrays]
    return _Part(
        np.concatenate([found["rows"] for found in parts]),
        np.concatenate([found["keypoints"] for found in parts]),
        {name: reason for found in bad for name, reason in json.loads(found).items()},
    )


def _estimate(engine: Engine, records: Records, wanted: np.ndarray, enlarge: float, progress) -> _Part:
    centers, sizes = geometry.boxes_to_crops(records.boxes, engine.input_wh, enlarge)
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
        progress(len(rows_done), len(wanted))

    for picture_rows, outcome in _pictures(engine, records, wanted, centers, sizes):
        if isinstance(outcome, ImageError):
            bad[records.path(picture_rows[0])] = str(outcome)
            continue
        crops.extend(outcome)
        rows.extend(picture_rows)
        while len(rows) >= engine.batch_size:
            flush(engine.batch_size)
    if rows:
        flush(len(rows))
    keypoints = np.concatenate(found) if found else np.zeros((0, engine.skeleton.num_joints, 3), np.float32)
    return _Part(np.array(rows_done, dtype=np.int64), keypoints, bad)


def _pictures(engine: Engine, records: Records, wanted, centers, sizes) -> Iterator[tuple[np.ndarray, object]]:
    """Rows and crops (or the ImageError) of each picture that has boxes among the rows `wanted`, read by threads."""
    by_picture = wanted[np.argsort(records.image_index[wanted], kind="stable")]
    pictures = np.split(by_picture, np.flatnonzero(np.diff(records.image_index[by_picture])) + 1)
    pictures = [rows for rows in pictures if len(rows)]

    def work(rows: np.ndarray):
        try:
            image = read_person_image(records, rows[0])
        except ImageError as error:
            return error
        return engine.crops(image, centers[rows], sizes[rows])

    with ThreadPoolExecutor(_READERS) as pool:
        waiting: list[tuple[np.ndarray, Future]] = []
        for rows in pictures:
            waiting.append((rows, pool.submit(work, rows)))
            if len(waiting) > _AHEAD:
                first, future = waiting.pop(0)
                yield first, future.result()
        for rows, future in waiting:
            yield rows, future.result()
