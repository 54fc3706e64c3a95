"""Person boxes from a detector's result file, in the form in which COCO's detections are published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msposenet.data.formats.fields import Rows, listed, load_json
from msposenet.data.records import Records, Report
from msposenet.errors import DataError

MIN_COVERAGE = 0.5
MAX_VALUE = 1e6  # px, and of a score


@dataclass(frozen=True)
class Detections:
    """D boxes in file order; boxes in px of the image, not clipped to it."""

    image_ids: np.ndarray  # (D,) int64
    boxes: np.ndarray  # (D, 4) float64 x, y, w, h
    scores: np.ndarray  # (D,) float32
    known_images: int  # how many images the boxes are for
    report: Report

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def covered_images(self) -> int:
        return int(np.unique(self.image_ids).size)

    def coverage(self) -> str:
        """The sentence that every score from these boxes is printed with."""
        return f"{self.covered_images} of {self.known_images} images have boxes"


def read_detections(
    path: Path, known_image_ids: np.ndarray, *, category_id: int = 1, min_score: float = 0.0
) -> Detections:
    """Boxes of `category_id` with at least `min_score` from a list of {image_id, category_id, bbox, score}.

    `known_image_ids` are the images to be evaluated. Raises DataError when the file cannot be trusted, names other
    images, or covers fewer than half of them: people missed by the file would lower the score without a word.
    """
    file = str(path)
    root = load_json(path)
    if not isinstance(root, list):
        raise DataError(f"{file}: a JSON {type(root).__name__}, not a list of detections; is it an annotation file?")
    rows = Rows(file, "detection", root)
    category_ids = rows.integers("category_id")
    rows = rows.where(category_ids == category_id)
    if root and not len(rows):
        raise DataError(
            f"{file}: no detection of category_id {category_id} among {len(root):,}; "
            f"found {listed(np.unique(category_ids).tolist())}; name the category of persons"
        )
    known = np.unique(known_image_ids)
    image_ids = rows.integers("image_id")
    rows.refuse(
        ~np.isin(image_ids, known),
        lambda row: f"image_id {image_ids[row]} is not among the {known.size:,} images; is the file of another split?",
    )
    boxes, scores = rows.vectors("bbox", 4), rows.numbers("score")
    rows.refuse(
        ~(np.abs(boxes) <= MAX_VALUE).all(axis=1),
        lambda row: f"'bbox' is {boxes[row].tolist()}; pixels within {MAX_VALUE:,.0f} are wanted",
    )
    rows.refuse(~(np.abs(scores) <= MAX_VALUE), lambda row: f"'score' is {scores[row]}; correct or delete it")

    empty, low = (boxes[:, 2:] <= 0).any(axis=1), scores < min_score
    keep = ~empty & ~low
    report = Report(
        source="detections",
        file=file,
        images=int(np.unique(image_ids[keep]).size),
        instances=int(keep.sum()),
        filtered={f"score below {min_score:g}": rows.tally(low)} if low.any() else {},
        dropped={"box without width or height": rows.tally(empty & ~low)} if (empty & ~low).any() else {},
    )
    detections = Detections(image_ids[keep], boxes[keep], scores[keep].astype(np.float32), int(known.size), report)
    if detections.covered_images < MIN_COVERAGE * detections.known_images:
        raise DataError(
            f"{file}: only {detections.coverage()}; at least {MIN_COVERAGE:.0%} are wanted: give the detector's file "
            "of these images, or lower the least score"
        )
    return detections


def detection_records(detections: Detections, images: Records) -> Records:
    """The boxes as instances without keypoints on the image table of `images`; ids count from 1 in file order.

    Boxes stay as the detector gave them: HRNet clips those of the ground truth only. Raises DataError when a box is
    for an image that the table lacks.
    """
    order = np.argsort(images.image_ids)
    place = np.searchsorted(images.image_ids, detections.image_ids, sorter=order)
    index = order[np.minimum(place, len(order) - 1)]
    unknown = images.image_ids[index] != detections.image_ids
    if unknown.any():
        raise DataError(
            f"{detections.report.file}: boxes for images that the annotations lack: "
            f"{listed(detections.image_ids[unknown].tolist())}; give the annotations of the detector's images"
        )
    records = Records(
        skeleton=images.skeleton,
        image_paths=images.image_paths,
        image_ids=images.image_ids,
        image_sizes=images.image_sizes,
        image_index=index.astype(np.int32),
        annotation_ids=np.arange(1, len(detections) + 1, dtype=np.int64),
        boxes=detections.boxes,
        keypoints=np.zeros((len(detections), images.skeleton.num_joints, 3), np.float32),
        areas=detections.boxes[:, 2:].prod(axis=1).astype(np.float32),
        box_scores=detections.scores,
    )
    records.check()
    return records
