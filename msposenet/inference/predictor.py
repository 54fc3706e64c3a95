"""`Predictor(model)(image, boxes=None)`: people of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Union

import numpy as np

from msposenet import geometry
from msposenet.data.images import read_image
from msposenet.devices import contexts
from msposenet.errors import DataError, ImageError
from msposenet.evaluation.nms import oks_nms
from msposenet.evaluation.results import rescore
from msposenet.inference.deployed import Deployed, is_deployment
from msposenet.inference.people import People
from msposenet.inference.source import load_topdown
from msposenet.inference.topdown import TopDown

Image = Union[np.ndarray, str, Path]

_BATCH = 8
_JOINT_SCORE = 0.2
_OKS_NMS = 0.9


class Predictor:
    """A model ready for pictures.

    model: a run directory, an export folder, a configuration file (with `weights`), a zoo name (with `weights`), or a
    TopDown engine. device: cpu, gpu:0 or auto. flip: average with the mirrored pass (an export has that built in or
    not). Raises ConfigError or CheckpointError when the model cannot be used.
    """

    def __init__(
        self,
        model: str | Path | TopDown,
        weights: str | Path | None = None,
        device: str = "auto",
        flip: bool = True,
    ) -> None:
        self._joint_score, self._oks_nms = _JOINT_SCORE, _OKS_NMS
        if isinstance(model, TopDown):
            self._engine = model
            self.enlarge = geometry.ENLARGE
        elif is_deployment(Path(model)):
            self._engine = Deployed(Path(model), contexts([device])[0], _BATCH)
            self.enlarge = self._engine.deployment.enlarge
        else:
            self._engine, config = load_topdown(model, weights, contexts([device])[0], flip=flip, batch_size=_BATCH)
            self.enlarge = config.data.enlarge
            self._joint_score, self._oks_nms = config.test.joint_score, config.test.oks_nms
        self.skeleton = self._engine.skeleton

    def __call__(self, image: Image, boxes: np.ndarray | Sequence | None = None, box_scores=None) -> People:
        """People in `image`, an array (H, W, 3) uint8 RGB or a path (EXIF orientation is honoured).

        boxes (P, 4) x, y, w, h in image px; without them the whole picture is one box. box_scores (P,) default to 1.
        People more alike than the run's test.oks_nms (OKS 0.9) are merged, best first; boxes wholly outside the
        picture find nobody. Raises ImageError and DataError.
        """
        name = "" if isinstance(image, np.ndarray) else str(image)
        pixels = _pixels(image)
        height, width = pixels.shape[:2]
        boxes = _box_array([[0, 0, width, height]] if boxes is None else boxes, name)
        scores = np.ones(len(boxes)) if box_scores is None else np.asarray(box_scores, dtype=np.float64)
        _check_boxes(boxes, scores, name)
        inside = geometry.touches_image(boxes, np.array([width, height]))
        boxes, scores = boxes[inside], scores[inside]
        centers, sizes = geometry.boxes_to_crops(boxes, self._engine.input_wh, self.enlarge)
        keypoints = self._engine.keypoints(self._engine.crops(pixels, centers, sizes), centers, sizes)
        person_scores = rescore(scores, keypoints, self._joint_score)
        areas = sizes.astype(np.float64).prod(axis=1)
        kept = oks_nms(keypoints.astype(np.float64), person_scores, areas, self._oks_nms, self.skeleton.sigma_array)
        return People(keypoints[kept], boxes[kept], person_scores[kept], self.skeleton, (width, height), name)


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
