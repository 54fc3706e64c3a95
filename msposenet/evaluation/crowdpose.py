"""CrowdPose's official scores: COCO's AP on 0.53 x the box for an area, and the AP of easy, medium and hard pictures.

The rules are those of xtcocotools 1.14.3 with `keypoints_crowd` (CrowdPose's own evaluation, kept up), computed as in
pycocotools' COCOeval: what differs is the area, that there are no medium and large people, and the split by crowdIndex.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from msposenet.errors import DataError
from msposenet.evaluation.arrays import check_boxes_named
from msposenet.evaluation.checks import ImageId, check_finite, number_table
from msposenet.evaluation.coco import SIZE_NOTES, Scores, chosen_images, result_columns, score_images
from msposenet.evaluation.ground_truth import read_ground_truth
from msposenet.evaluation.scores import MetricScores
from msposenet.skeletons import CROWDPOSE_14, Skeleton

AREA_OF_BOX = 0.53
FIGURES = ("AP", "AP50", "AP75", "AR", "AR50", "AR75")
# crowdIndex from, below. xtcocotools' example and CrowdPose's code agree on these; the paper's text says 0.1 and 0.8.
CLASSES = {"easy": (-np.inf, 0.2), "medium": (0.2, 0.8), "hard": (0.8, np.inf)}


@dataclass(frozen=True)
class CrowdPoseScores(MetricScores):
    """CrowdPose's nine figures, with the OKS they rest on."""

    overall: Scores | None = field(default=None, repr=False, compare=False)

    def oks_of_image(self, image_id: ImageId) -> np.ndarray:
        """OKS matrix (D, G) of an image: the at most 20 best results in falling score, all annotations in file order.

        Raises DataError for an image that was not evaluated.
        """
        return self.overall.oks_of_image(image_id)


def evaluate_crowdpose(
    ground_truth: Path | str | dict[str, Any],
    results: Path | str | list[dict[str, Any]],
    *,
    boxes: str,
    skeleton: Skeleton = CROWDPOSE_14,
    image_ids: Iterable[ImageId] | None = None,
) -> CrowdPoseScores:
    """CrowdPose scores, 0 to 1, of `results` (COCO results, list or file) against CrowdPose annotations.

    A person's area is 0.53 x width x height of the annotated box, whether or not the file says `area`; people without
    labelled joint are ignored; 20 results an image count. AP_easy, AP_medium and AP_hard are over the images with a
    `crowdIndex` below 0.2, from 0.2 and from 0.8, or -1 where nobody is annotated on any; the official program rounds
    them to four digits, they are not rounded here. `boxes` is "ground truth" or "detector FILE", with `image_ids` only
    these images count.

    Raises what `evaluate_coco` raises, and DataError naming the image for a crowdIndex that is missing or not a number
    from 0 up.
    """
    check_boxes_named(boxes)
    truth = read_ground_truth(ground_truth, skeleton, area_of_box=AREA_OF_BOX)
    images = chosen_images(truth, image_ids)
    crowd_index = _crowd_indices(truth.images, truth.source)
    columns = result_columns(results, truth, skeleton)

    overall = score_images(truth, columns, images, skeleton.sigma_array, boxes)
    values = {name: getattr(overall, name) for name in FIGURES}
    notes = [note for note in overall.notes if note not in SIZE_NOTES]
    for name, (start, end) in CLASSES.items():
        members = [image_id for image_id in images if start <= crowd_index[image_id] < end]
        if members == images:
            value = overall.AP
        elif members:
            value = score_images(truth, columns, members, skeleton.sigma_array, boxes).AP
        else:
            value = -1.0
        values[f"AP_{name}"] = value
        if value == -1:
            notes.append(f"AP_{name}: -1, nobody is annotated on the {len(members)} images of this class")
    return CrowdPoseScores(
        metric="CrowdPose AP",
        values=values,
        headline="AP",
        boxes=boxes,
        images=overall.images,
        people=overall.people,
        results=overall.results,
        unit="",
        notes=tuple(notes),
        overall=overall,
    )


def _crowd_indices(images: list[dict[str, Any]], source: str) -> dict[ImageId, float]:
    """crowdIndex of every image of a checked annotation file."""
    for entry in images:
        if "crowdIndex" not in entry:
            raise DataError(
                f"{source}: image {entry['id']!r} has no 'crowdIndex', which sorts it into easy, medium or hard; "
                "add it, or score the set with COCO's metric"
            )

    def place(row: int) -> str:
        return f"{source}: image {images[row]['id']!r}"

    table = number_table([[entry["crowdIndex"]] for entry in images], 1, place, "crowdIndex", DataError)
    check_finite(table, place, "crowdIndex", DataError)
    if (table < 0).any():
        row = int(np.argmax(table[:, 0] < 0))
        raise DataError(f"{place(row)} has the crowdIndex {table[row, 0]:g}; it must be 0 or more")
    return {entry["id"]: value for entry, value in zip(images, table[:, 0].tolist())}
