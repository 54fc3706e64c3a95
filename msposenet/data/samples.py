"""From a record to what travels to the device: a uint8 crop, joints in crop px and their weights."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from msposenet import geometry
from msposenet.config import AugmentationConfig
from msposenet.data.augmentation import CropPlan, augment
from msposenet.data.images import OnWarning, read_image
from msposenet.data.records import Records
from msposenet.data.sampling import sample_rng
from msposenet.errors import ImageError
from msposenet.geometry import Convention
from msposenet.skeletons import Skeleton

_MAX_SUBSTITUTES = 100


def read_person_image(records: Records, index: int, on_warning: OnWarning | None = None) -> np.ndarray:
    """The picture (H, W, 3) RGB of instance `index`; ImageError also when it is not of the annotated size.

    A resized or rotated copy would be trained on with every joint in the wrong place. `on_warning(name, reason)` is
    told of damage that left the pixels whole.
    """
    image = read_image(records.path(index), on_warning=on_warning)
    width, height = records.image_sizes[records.image_index[index]]
    if image.shape[:2] != (height, width):
        raise ImageError(
            f"{records.path(index)}: is {image.shape[1]} x {image.shape[0]} px, the annotations say {width} x "
            f"{height}; use the pictures that were annotated"
        )
    return image


def cut(
    image: np.ndarray, keypoints: np.ndarray, plan: CropPlan, skeleton: Skeleton, input_wh, convention: Convention
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picture (H, W, 3) and keypoints (K, 3) in image px -> crop (h, w, 3), joints (K, 2) in crop px, labelled (K,).

    Unlabelled joints are put at (0, 0): whatever stood in the file never reaches a product with weight 0.
    """
    if plan.flip:
        keypoints = geometry.flip_keypoints(keypoints, image.shape[1], skeleton.flip_index)
        image = cv2.flip(image, 1)
    matrix = geometry.crop_matrix(plan.center, plan.size, plan.rotation, input_wh, convention)
    labelled = (keypoints[:, 2] > 0).astype(np.float32)
    joints = geometry.transform(matrix, keypoints[:, :2]) * labelled[:, None]
    return geometry.warp(image, matrix, input_wh), joints.astype(np.float32), labelled


@dataclass(frozen=True)
class BadItem:
    """A damaged picture, and what is wrong with it; `used` when its pixels are whole all the same."""

    name: str
    reason: str
    used: bool = False


class TrainingSamples:
    """Augmented samples of records; sample (epoch, index) depends on nothing but the seed.

    `config` None switches augmentation off.
    """

    def __init__(
        self,
        records: Records,
        input_wh: tuple[int, int],
        convention: Convention,
        config: AugmentationConfig | None,
        seed: int,
        enlarge: float = geometry.ENLARGE,
    ) -> None:
        self.records = records
        self.skeleton = records.skeleton
        self.input_wh = tuple(input_wh)
        self.convention = convention
        self.config = config
        self.seed = seed
        self.centers, self.sizes = geometry.boxes_to_crops(records.boxes, input_wh, enlarge)

    def __len__(self) -> int:
        return len(self.records)

    def make(
        self, epoch: int, index: int, on_warning: OnWarning | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Crop (h, w, 3) uint8, joints (K, 2) float32 in crop px, labelled (K,) float32. Raises ImageError."""
        image = read_person_image(self.records, index, on_warning)
        keypoints = self.records.keypoints[index].astype(np.float64)
        plan = CropPlan(self.centers[index], self.sizes[index])
        if self.config is not None:
            rng = sample_rng(self.seed, epoch, index)
            plan = augment(plan, keypoints, image.shape[1], self.skeleton, self.config, self.input_wh, rng)
        return cut(image, keypoints, plan, self.skeleton, self.input_wh, self.convention)

    def make_or_substitute(self, epoch: int, index: int):
        """Like `make`, but a damaged picture gives the next index's sample and the BadItems met on the way.

        The substitute is a function of the index too: what is trained on stays the same on every rank and resume.
        """
        bad: list[BadItem] = []

        def note(name: str, reason: str) -> None:
            bad.append(BadItem(name, reason, used=True))

        for candidate in range(index, index + _MAX_SUBSTITUTES):
            candidate %= len(self)
            try:
                return (*self.make(epoch, candidate, note), candidate, bad)
            except ImageError as error:
                bad.append(BadItem(self.records.path(candidate), str(error)))
        raise ImageError(f"{len(bad)} pictures in a row cannot be read, the last: {bad[-1].reason}")
