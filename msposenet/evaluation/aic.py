"""AI Challenger's own mAP, the rule of the organisers' keypoint_eval.py, which differs from COCO's AP in every step.

Only joints labelled visible count, the area is that of the whole box plus 1, each annotated person takes the largest
OKS of the picture's poses without matching one to one, scores of poses play no role, and the figure is the mean over
ten thresholds of people above it divided by the larger of annotated people and poses, added up over the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from msposenet.errors import ConfigError, DataError, ResultError
from msposenet.evaluation.arrays import array_of, check_boxes_named, coordinates_where, mask_of
from msposenet.evaluation.checks import LARGEST_COORDINATE, ImageId, check_id
from msposenet.evaluation.scores import MetricScores
from msposenet.skeletons import AIC_14

THRESHOLDS = np.linspace(0.5, 0.95, 10)
VISIBLE = 2  # COCO's flag; 1 in AI Challenger's files


def evaluate_aic(
    truth_images: Sequence[ImageId] | np.ndarray,
    truth_keypoints: np.ndarray,
    truth_boxes: np.ndarray,
    result_images: Sequence[ImageId] | np.ndarray,
    result_keypoints: np.ndarray,
    images: Sequence[ImageId] | np.ndarray,
    *,
    boxes: str,
    predicted_joints: np.ndarray | None = None,
    whole_numbers: np.ndarray | None = None,
) -> MetricScores:
    """mAP, AP50 and AP75, 0 to 1, of P poses against G annotated people on the pictures `images` (ids, each once).

    `truth_images` (G,) and `result_images` (P,) say on which picture each is; `truth_keypoints` (G, 14, 3) x, y,
    visibility in COCO's convention (2 visible), `truth_boxes` (G, 4) x, y, w, h as annotated, not clipped to the
    picture; `result_keypoints` (P, 14, 2 or more). All in image px, joints in the order of AIC_14.
    `predicted_joints` (14,) bool are the joints that the model has; without the others the figure is not the official
    one, and a note says so. `whole_numbers` (P,) bool marks poses that a file gives in whole numbers: the organisers'
    program runs under Python 2, whose division rounds half their squared distances up.

    Raises DataError for annotations and ResultError for poses of another shape, not finite, beyond 1e6 px or of a
    picture that is not among `images`; DataError for a negative box and when there is nobody; ConfigError for an
    empty `boxes` or a picture given twice.
    """
    check_boxes_named(boxes)
    has = mask_of(predicted_joints, AIC_14.num_joints, "predicted_joints", ConfigError)
    truth = array_of(truth_keypoints, (None, AIC_14.num_joints, 3), "true keypoints", DataError)
    known = np.isin(truth[..., 2], (0, 1, VISIBLE))
    if not known.all():
        row, joint = np.argwhere(~known)[0]
        raise DataError(
            f"true keypoints: {AIC_14.joints[joint]} of person {row} has the visibility {truth[row, joint, 2]:g}; "
            "it must be 0, 1 or 2 (visible), 3 minus the flag of AI Challenger's files"
        )
    counted = (truth[..., 2] == VISIBLE) & has
    truth_xy = coordinates_where(counted, truth[..., :2], "ground truth", AIC_14, DataError)
    areas = _areas(array_of(truth_boxes, (len(truth), 4), "true boxes", DataError))
    poses = array_of(result_keypoints, (None, AIC_14.num_joints, None), "predicted keypoints", ResultError)
    if poses.shape[2] < 2:
        raise ResultError(f"predicted keypoints must have x and y, found the shape {poses.shape}")
    every = np.broadcast_to(has, poses.shape[:2])
    poses = coordinates_where(every, poses[..., :2], "prediction", AIC_14, ResultError)
    whole = np.zeros(len(poses), bool)
    if whole_numbers is not None:
        whole = mask_of(whole_numbers, len(poses), "whole_numbers", ResultError)
    row_of = _numbered(images)
    truth_row = _rows(truth_images, len(truth), row_of, "annotated people", DataError)
    result_row = _rows(result_images, len(poses), row_of, "poses", ResultError)

    best = _best_oks(truth_xy, counted, areas, truth_row, poses, whole, result_row)
    people_on, poses_on = (np.bincount(rows, minlength=len(row_of)) for rows in (truth_row, result_row))
    total = int(np.maximum(people_on, poses_on).sum())
    if not total:
        raise DataError(f"nobody is annotated or found on the {len(row_of)} pictures; are they the right ones?")
    precision = np.array([(best > threshold).sum() / total for threshold in THRESHOLDS])
    return MetricScores(
        metric="AI Challenger mAP",
        values={"mAP": float(precision.mean()), "AP50": float(precision[0]), "AP75": float(precision[5])},
        headline="mAP",
        boxes=boxes,
        images=len(row_of),
        people=len(truth),
        results=len(poses),
        unit="",
        notes=tuple(_notes(float(precision.mean()), has, counted, people_on, poses_on, whole)),
    )


def _areas(boxes: np.ndarray) -> np.ndarray:
    sound = (np.abs(boxes) <= LARGEST_COORDINATE).all(axis=1) & (boxes[:, 2:] >= 0).all(axis=1)
    if not sound.all():
        row = int(np.argmin(sound))
        raise DataError(
            f"true box of person {row} is {boxes[row].tolist()}; x, y, w, h must be finite and within 1e6 px, "
            "w and h not negative"
        )
    # Single precision is the reference's, and the 1 keeps a person without area from dividing by 0.
    return (boxes[:, 2] * boxes[:, 3]).astype(np.float32).astype(np.float64) + 1


def _numbered(images: Sequence[ImageId] | np.ndarray) -> dict[ImageId, int]:
    ids = [check_id(image, "images", ConfigError) for image in images]
    row_of = {image: row for row, image in enumerate(ids)}
    if len(row_of) < len(ids):
        twice = [image for row, image in enumerate(ids) if row_of[image] != row]
        raise ConfigError(f"images to score that are given twice: {twice[:5]}; give each once")
    return row_of


def _rows(
    image_of: Sequence[ImageId] | np.ndarray,
    length: int,
    row_of: dict[ImageId, int],
    what: str,
    error: type[DataError | ResultError],
) -> np.ndarray:
    if len(image_of) != length:
        raise error(f"{length} {what} but {len(image_of)} image ids; give one each")
    ids = [check_id(image, what, error) for image in image_of]
    unknown = list(dict.fromkeys(image for image in ids if image not in row_of))
    if unknown:
        raise error(f"{what} on images that are not scored: {unknown[:5]} ({len(unknown)}); leave them out")
    return np.array([row_of[image] for image in ids], np.int64)


def _best_oks(
    truth_xy: np.ndarray,
    counted: np.ndarray,
    areas: np.ndarray,
    truth_row: np.ndarray,
    poses: np.ndarray,
    whole: np.ndarray,
    result_row: np.ndarray,
) -> np.ndarray:
    """The largest OKS (G,) of each annotated person with a pose of its picture; 0 without visible joint or pose."""
    order = np.argsort(result_row, kind="stable")
    start, end = (np.searchsorted(result_row[order], truth_row, side=side) for side in ("left", "right"))
    deltas = 2 * AIC_14.sigma_array
    best = np.zeros(len(truth_xy))
    for person in np.flatnonzero((end > start) & counted.any(axis=1)):
        rows, joints = order[start[person] : end[person]], counted[person]
        half = ((truth_xy[person, joints] - poses[rows][:, joints]) ** 2).sum(axis=2) / 2
        half = np.where(whole[rows, None], np.ceil(half), half)
        best[person] = np.exp(-half / deltas[joints] ** 2 / areas[person]).mean(axis=1).max()
    return best


def _notes(
    score: float, has: np.ndarray, counted: np.ndarray, people_on: np.ndarray, poses_on: np.ndarray, whole: np.ndarray
) -> list[str]:
    notes = []
    if has.all():
        notes.append(f"the organisers' program prints {score:.8f}")
    else:
        missing = ", ".join(joint for joint, kept in zip(AIC_14.joints, has) if not kept)
        notes.append(f"not predicted and left out: {missing}; this is not the official figure")
    unseen = int((~counted.any(axis=1)).sum())
    if unseen:
        notes.append(f"{unseen} people without a visible joint count as missed")
    without = int(((poses_on == 0) & (people_on > 0)).sum())
    if without:
        notes.append(f"{without} of {int((people_on > 0).sum())} images with people have no pose")
    if whole.any():
        notes.append(
            f"{int(whole.sum())} poses in whole numbers: half their squared distances is rounded up, as the "
            "organisers' program does"
        )
    return notes
