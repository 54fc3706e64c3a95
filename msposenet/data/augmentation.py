"""Random changes of a training crop as pure functions of (person, rng): HRNet's program, in its order.

Draws are taken from `rng` in a fixed order (half body, scale, rotation, flip), so a sample is reproduced by its rng.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from msposenet.config import AugmentationConfig
from msposenet.geometry import fix_aspect, resize
from msposenet.skeletons import Skeleton

_HALF_BODY_ENLARGE = 1.5
_UPPER_IF_NORMAL_BELOW = 0.5  # the reference compares a normal draw with 0.5: the upper half in 69 % of cases


@dataclass(frozen=True)
class CropPlan:
    """Where a crop is cut: centre (2,) and size (2,) in image px, rotation in degrees, mirrored first or not."""

    center: np.ndarray
    size: np.ndarray
    rotation: float = 0.0
    flip: bool = False


def augment(
    plan: CropPlan,
    keypoints: np.ndarray,
    image_width: int,
    skeleton: Skeleton,
    config: AugmentationConfig,
    input_wh: tuple[int, int],
    rng: np.random.Generator,
) -> CropPlan:
    """The plan of one augmented crop of the person with `keypoints` (K, 3) in image px.

    When it says `flip`, centre and keypoints are to be read in the mirrored picture; the centre already is.
    """
    labelled = keypoints[:, 2] > 0
    if labelled.sum() > config.half_body_joints and rng.random() < config.half_body:
        half = half_body(keypoints, skeleton.upper_mask, input_wh, rng)
        if half is not None:
            plan = replace(plan, center=half[0], size=half[1])
    zoom = min(max(1 + config.scale * rng.standard_normal(), 1 - config.scale), 1 + config.scale)
    rotation = 0.0
    if rng.random() <= config.rotation_probability:
        limit = 2 * config.rotation
        rotation = min(max(config.rotation * rng.standard_normal(), -limit), limit)
    plan = replace(plan, size=resize(plan.size, zoom), rotation=rotation)
    if rng.random() <= config.flip and config.flip > 0:
        mirrored = np.array([image_width - plan.center[0] - 1, plan.center[1]], dtype=np.float32)
        plan = replace(plan, center=mirrored, flip=True)
    return plan


def half_body(
    keypoints: np.ndarray, upper_mask: np.ndarray, input_wh: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray] | None:
    """Centre and size (image px) of a crop of the upper or lower body; None when too few joints are labelled."""
    labelled = keypoints[:, 2] > 0
    xy = keypoints[:, :2].astype(np.float32)  # the reference averages in float32
    upper, lower = xy[labelled & upper_mask], xy[labelled & ~upper_mask]
    if rng.standard_normal() < _UPPER_IF_NORMAL_BELOW and len(upper) > 2:
        chosen = upper
    else:
        chosen = lower if len(lower) > 2 else upper
    if len(chosen) < 2:
        return None
    extent = chosen.max(axis=0) - chosen.min(axis=0)
    if not extent.any():
        return None  # all in one point: no crop has that size
    return chosen.mean(axis=0), resize(fix_aspect(extent, input_wh), _HALF_BODY_ENLARGE)
