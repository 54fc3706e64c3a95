"""What was found in one picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from msposenet.errors import ResultError
from msposenet.evaluation.results import people_json, to_coco_results
from msposenet.inference.drawing import draw_people
from msposenet.skeletons import Skeleton


@dataclass(frozen=True)
class People:
    """P people of one picture, best first.

    keypoints (P, K, 3): x, y in image px and score; boxes (P, 4): x, y, w, h in image px; scores (P,): the box's score
    times the mean score of its joints above 0.2; image_wh: width and height of the picture; name: what it was read
    from.
    """

    keypoints: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    skeleton: Skeleton
    image_wh: tuple[int, int]
    name: str = ""

    def __post_init__(self) -> None:
        count = len(self.scores)
        expected = {"keypoints": (count, self.skeleton.num_joints, 3), "boxes": (count, 4), "scores": (count,)}
        for field, shape in expected.items():
            if getattr(self, field).shape != shape:
                raise ResultError(f"people: {field} has shape {getattr(self, field).shape}, {shape} wanted")

    def __len__(self) -> int:
        return len(self.scores)

    def to_coco(self, image_id: int | str = 0, category_id: int = 1) -> list[dict]:
        """COCO results: image_id, category_id, keypoints[3K], score, bbox."""
        return to_coco_results([image_id] * len(self), self.keypoints, self.scores, self.boxes, category_id)

    def to_json(self) -> dict:
        """{image, width, height, skeleton, people: [{bbox, score, keypoints: {joint: [x, y, score]}}]}."""
        return people_json(self.name, *self.image_wh, self.skeleton, self.keypoints, self.scores, self.boxes)

    def draw(self, image: np.ndarray, threshold: float = 0.2, boxes: bool = True) -> np.ndarray:
        """A copy of the picture (H, W, 3) RGB with the people on it; joints scoring `threshold` or less left out."""
        return draw_people(image, self.keypoints, self.skeleton, self.boxes if boxes else None, threshold)
