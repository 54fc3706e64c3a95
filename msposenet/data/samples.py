"""From a record to what travels to the device: a uint8 crop, joints in crop px and their weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from msposenet import geometry
from msposenet.config import AugmentationConfig
from msposenet.data.augmentation import CropPlan, augment
from msposenet.data.images import OnWarning
from msposenet.data.pictures import FilePictures, Pictures, View
from msposenet.data.records import Records
from msposenet.data.sampling import SampleOrder, sample_rng
from msposenet.errors import ImageError
from msposenet.geometry import Convention
from msposenet.skeletons import Skeleton

_MAX_SUBSTITUTES = 100
_MARGIN = 2  # view px around a crop's corners that the interpolation may read


def read_person_image(records: Records, index: int, on_warning: OnWarning | None = None) -> np.ndarray:
    """The picture (H, W, 3) RGB of instance `index`; ImageError also when it is not of the annotated size."""
    return FilePictures(records).open(index, on_warning).view(1.0).pixels


def cut(
    view: View,
    image_width: int,
    keypoints: np.ndarray,
    plan: CropPlan,
    skeleton: Skeleton,
    input_wh: tuple[int, int],
    convention: Convention,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """View of a picture and keypoints (K, 3) in image px -> crop (h, w, 3), joints (K, 2) in crop px, labelled (K,).

    Unlabelled joints are put at (0, 0): whatever stood in the file never reaches a product with weight 0. The crop is
    written into `out` (h, w, 3) if given.
    """
    matrix = geometry.crop_matrix(plan.center, plan.size, plan.rotation, input_wh, convention)
    if plan.flip:
        keypoints = geometry.flip_keypoints(keypoints, image_width, skeleton.flip_index)
        view = _mirrored(view, image_width, matrix, input_wh)
    labelled = (keypoints[:, 2] > 0).astype(np.float32)
    joints = geometry.transform(matrix, keypoints[:, :2]) * labelled[:, None]
    if view.factor == 1:
        crop = geometry.warp(view.pixels, matrix, input_wh, out, (int(view.origin[0]), int(view.origin[1])))
    else:
        crop = geometry.warp(view.pixels, _from_view(matrix, view), input_wh, out)
    return crop, joints.astype(np.float32), labelled


def _from_view(matrix: np.ndarray, view: View) -> np.ndarray:
    """The matrix (2, 3) view px -> crop px of one that takes image px."""
    linear = matrix[:, :2].astype(np.float64)
    return np.column_stack([linear * view.factor, linear @ np.asarray(view.origin) + matrix[:, 2]])


def _mirrored(view: View, image_width: int, matrix: np.ndarray, input_wh: tuple[int, int]) -> View:
    """The mirrored picture, as far as the crop that `matrix` cuts from it shows; the rest is not filled in.

    Turning all of it round costs ten times as much. Mirroring within the matrix would cost nothing, but OpenCV rounds
    positions to 1/32 px: the crops would no longer be those of the reference.
    """
    height, width = view.pixels.shape[:2]
    left = image_width - 1 - view.origin[0] - view.factor * (width - 1)
    mirrored = View(np.empty_like(view.pixels), (left, view.origin[1]), view.factor)
    (a, b, c), (d, e, f) = geometry.invert(_from_view(matrix, mirrored)).tolist()
    # Corners of the crop, widened by a px: x = a u + b v + c.
    us, vs = (-1, input_wh[0]), (-1, input_wh[1])
    x0, x1 = _span([a * u + b * v + c for u in us for v in vs], width)
    y0, y1 = _span([d * u + e * v + f for u in us for v in vs], height)
    cv2.flip(view.pixels[y0:y1, width - x1 : width - x0], 1, dst=mirrored.pixels[y0:y1, x0:x1])
    return mirrored


def _span(values: list[float], size: int) -> tuple[int, int]:
    """First px and end of what lies between `values`, with a margin, among `size` px: at least one."""
    first = min(max(math.floor(min(values)) - _MARGIN, 0), size - 1)
    return first, max(first + 1, min(math.ceil(max(values)) + _MARGIN, size))


@dataclass(frozen=True)
class BadItem:
    """A damaged picture, and what is wrong with it; `used` when its pixels are whole all the same."""

    name: str
    reason: str
    used: bool = False


class TrainingSamples:
    """Augmented samples of records; sample (epoch, code) depends on nothing but the seed.

    `config` None switches augmentation off. `pictures` are the records' files unless given; `order` visits every
    instance once an epoch unless given.
    """

    def __init__(
        self,
        records: Records,
        input_wh: tuple[int, int],
        convention: Convention,
        config: AugmentationConfig | None,
        seed: int,
        enlarge: float = geometry.ENLARGE,
        pictures: Pictures | None = None,
        order: SampleOrder | None = None,
    ) -> None:
        self.records = records
        self.skeleton = records.skeleton
        self.input_wh = tuple(input_wh)
        self.convention = convention
        self.config = config
        self.seed = seed
        self.centers, self.sizes = geometry.boxes_to_crops(records.boxes, input_wh, enlarge)
        self._pictures = pictures or FilePictures(records)
        sampling = [origin.sampling for origin in records.origins]
        self.order = order or SampleOrder(seed, records.origin_index, sampling)

    def __len__(self) -> int:
        """Instances; an epoch visits len(self.order)."""
        return len(self.records)

    def plan(self, epoch: int, index: int, occurrence: int, image_width: int) -> CropPlan:
        """Where sample (epoch, index, occurrence) is cut."""
        plan = CropPlan(self.centers[index], self.sizes[index])
        if self.config is None:
            return plan
        rng = sample_rng(self.seed, epoch, index, occurrence)
        keypoints = self.records.keypoints[index]
        return augment(plan, keypoints, image_width, self.skeleton, self.config, self.input_wh, rng)

    def make(
        self,
        epoch: int,
        index: int,
        on_warning: OnWarning | None = None,
        occurrence: int = 0,
        out: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Crop (h, w, 3) uint8, joints (K, 2) float32 in crop px, weights (K,) float32, 0 where unlabelled.

        Raises ImageError.
        """
        picture = self._pictures.open(index, on_warning)
        width = picture.size_wh[0]
        plan = self.plan(epoch, index, occurrence, width)
        view = picture.view(float(plan.size[0]) / self.input_wh[0])
        keypoints = self.records.keypoints[index].astype(np.float64)
        crop, joints, labelled = cut(view, width, keypoints, plan, self.skeleton, self.input_wh, self.convention, out)
        return crop, joints, labelled * self.records.joint_weights[self.records.origin_index[index]]

    def make_or_substitute(self, epoch: int, code: int, out: np.ndarray | None = None):
        """Like `make`, but a damaged picture gives the next index's sample and the BadItems met on the way.

        The substitute is a function of the index too: what is trained on stays the same on every rank and resume.
        """
        occurrence, index = divmod(code, len(self))
        bad: list[BadItem] = []

        def note(name: str, reason: str) -> None:
            bad.append(BadItem(name, reason, used=True))

        for candidate in range(index, index + _MAX_SUBSTITUTES):
            candidate %= len(self)
            try:
                return (*self.make(epoch, candidate, note, occurrence, out), candidate, bad)
            except ImageError as error:
                bad.append(BadItem(self.records.path(candidate), str(error)))
        raise ImageError(f"{len(bad)} pictures in a row cannot be read, the last: {bad[-1].reason}")
