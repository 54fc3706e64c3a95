"""`Predictor(model)(image, boxes=None)`: people of a picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Union

import numpy as np

from msposenet import geometry
from msposenet.config import TestConfig
from msposenet.data.images import read_image
from msposenet.errors import DataError, ImageError, PoseError
from msposenet.evaluation.nms import oks_nms
from msposenet.evaluation.results import rescore
from msposenet.inference.engine import Engine
from msposenet.inference.opened import Opened, open_engine
from msposenet.inference.people import People

Image = Union[np.ndarray, str, Path]

_BATCH = 8


@dataclass(frozen=True)
class _Asked:
    """A picture's boxes, and the crops that are cut around them."""

    name: str
    size_wh: tuple[int, int]
    boxes: np.ndarray
    scores: np.ndarray
    centers: np.ndarray
    sizes: np.ndarray
    crops: np.ndarray


class Predictor:
    """A model ready for pictures.

    model: a run directory, an export folder, a configuration file (with `weights`), a zoo name (with `weights`), or an
    engine such as TopDown. device: cpu, gpu:0 or auto. flip: average with the mirrored pass (an export has that built
    in or not). processes: above 1, that many share the CPU's cores, which `stream` makes use of. Raises ConfigError or
    CheckpointError when the model cannot be used.
    """

    def __init__(
        self,
        model: str | Path | Engine,
        weights: str | Path | None = None,
        device: str = "auto",
        flip: bool = True,
        processes: int = 1,
    ) -> None:
        if isinstance(model, (str, Path)):
            self._opened = open_engine(model, weights, device, flip, _BATCH, processes)
        else:
            test = TestConfig()
            self._opened = Opened(model, geometry.ENLARGE, test.joint_score, test.oks_nms)
        self._engine = self._opened.engine
        self.enlarge = self._opened.enlarge
        self.skeleton = self._engine.skeleton

    def __call__(self, image: Image, boxes: np.ndarray | Sequence | None = None, box_scores=None) -> People:
        """People in `image`, an array (H, W, 3) uint8 RGB or a path (EXIF orientation is honoured).

        boxes (P, 4) x, y, w, h in image px; without them the whole picture is one box. box_scores (P,) default to 1.
        People more alike than the run's test.oks_nms (OKS 0.9) are merged, best first; boxes wholly outside the
        picture find nobody. Raises ImageError and DataError.
        """
        asked = self._ask(image, boxes, box_scores)
        return self._people(asked, self._engine.keypoints(asked.crops, asked.centers, asked.sizes))

    def stream(self, pictures: Iterable[tuple[Image, np.ndarray | Sequence | None]]) -> Iterator[People]:
        """People of many pictures, each given with its boxes (or None), in their order.

        Crops of several pictures are computed together, so more of them a second. Raises as `__call__`.
        """
        waiting: list[_Asked] = []
        for image, boxes in pictures:
            try:
                waiting.append(self._ask(image, boxes))
            except PoseError:
                yield from self._together(waiting)  # what was good before it is not lost
                raise
            if sum(len(asked.crops) for asked in waiting) >= self._engine.batch_size:
                yield from self._together(waiting)
                waiting = []
        yield from self._together(waiting)

    def _together(self, waiting: list[_Asked]) -> Iterator[People]:
        if not waiting:
            return
        columns = ([getattr(asked, name) for asked in waiting] for name in ("crops", "centers", "sizes"))
        keypoints = self._engine.keypoints(*map(np.concatenate, columns))
        ends = np.cumsum([len(asked.crops) for asked in waiting])
        for asked, part in zip(waiting, np.split(keypoints, ends[:-1])):
            yield self._people(asked, part)

    def _ask(self, image: Image, boxes, box_scores=None) -> _Asked:
        name = "" if isinstance(image, np.ndarray) else str(image)
        pixels = _pixels(image)
        height, width = pixels.shape[:2]
        boxes = _box_array([[0, 0, width, height]] if boxes is None else boxes, name)
        scores = np.ones(len(boxes)) if box_scores is None else np.asarray(box_scores, dtype=np.float64)
        _check_boxes(boxes, scores, name)
        inside = geometry.touches_image(boxes, np.array([width, height]))
        boxes, scores = boxes[inside], scores[inside]
        centers, sizes = geometry.boxes_to_crops(boxes, self._engine.input_wh, self.enlarge)
        crops = self._engine.crops(pixels, centers, sizes)
        return _Asked(name, (width, height), boxes, scores, centers, sizes, crops)

    def _people(self, asked: _Asked, keypoints: np.ndarray) -> People:
        scores = rescore(asked.scores, keypoints, self._opened.joint_score)
        areas = asked.sizes.astype(np.float64).prod(axis=1)
        sigmas = self.skeleton.sigma_array
        kept = oks_nms(keypoints.astype(np.float64), scores, areas, self._opened.oks_nms, sigmas)
        return People(keypoints[kept], asked.boxes[kept], scores[kept], self.skeleton, asked.size_wh, asked.name)


def _pixels(image: Image) -> np.ndarray:
    if not isinstance(image, np.ndarray):
        return read_image(image, honour_exif=True)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ImageError(f"an image array must be (H, W, 3) uint8 RGB, found {image.dtype} {image.shape}")
    return np.ascontiguousarray(image)


def _box_array(boxes, name: str) -> np.ndarray:
    where = f"{name}: " if name else ""
    try:
        array = np.array(boxes, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{where}boxes are {str(boxes)[:80]}; rows of x, y, width, height wanted") from None
    if array.size == 0:
        return np.zeros((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        raise DataError(f"{where}boxes have shape {array.shape}; (P, 4), x, y, width, height, wanted: scores go apart")
    return array


def _check_boxes(boxes: np.ndarray, scores: np.ndarray, name: str) -> None:
    where = f"{name}: " if name else ""
    if scores.shape != (len(boxes),):
        raise DataError(f"{where}{len(boxes)} boxes but box_scores of shape {scores.shape}; give one a box")
    bad = ~np.isfinite(boxes).all(axis=1) | ~(boxes[:, 2:] > 0).all(axis=1) | ~np.isfinite(scores)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(f"{where}box {row} is {boxes[row].tolist()}; x, y, width, height with positive size wanted")
