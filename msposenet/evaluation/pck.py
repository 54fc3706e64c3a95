"""PCK and OKS-AP of any skeleton: how Leeds Sports Pose is scored, and a user's own set.

PCK@0.2: a joint is hit within 0.2 times a length of the person's own annotation, here from left shoulder to right hip.
OKS-AP: COCO's, with an area from the box where the set has no segments.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from msposenet.errors import ConfigError, DataError, ResultError
from msposenet.evaluation.arrays import array_of, check_boxes_named, coordinates_where, mask_of, positive
from msposenet.evaluation.checks import ImageId, check_finite
from msposenet.evaluation.coco import SIZE_NOTES, Scores, evaluate_coco
from msposenet.evaluation.oks import oks_to_ground_truth
from msposenet.evaluation.results import to_coco_results
from msposenet.evaluation.scores import MetricScores
from msposenet.skeletons import Skeleton

BOX_TO_AREA = 0.53  # of a person's box that the person fills, as CrowdPose's evaluator has it
_TOP_TO_TOE = ("head_top", "nose", "eye", "ear", "neck", "thorax", "shoulder", "elbow", "wrist", "pelvis", "hip",
               "knee", "ankle")  # fmt: skip


def pck(
    predicted: np.ndarray,
    truth: np.ndarray,
    labelled: np.ndarray,
    lengths: np.ndarray,
    threshold: float = 0.2,
    *,
    found: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Hits and labelled joints, both (K,) counts: a hit is at most `threshold` times the person's length away.

    `predicted` and `truth` (N, K, 2) in px of one frame, `labelled` (N, K) bool, `lengths` (N,) px, however short.
    People who are not `found` (N,) have no prediction and miss every labelled joint. The arrays are taken as they are.
    """
    distances = np.linalg.norm(np.asarray(predicted, np.float64) - np.asarray(truth, np.float64), axis=2)
    hits = (distances <= threshold * np.asarray(lengths, np.float64)[:, None]) & labelled
    if found is not None:
        hits &= found[:, None]
    return hits.sum(axis=0), np.sum(labelled, axis=0)


def oks_ap(
    truth: np.ndarray,
    areas: np.ndarray,
    image_ids: Sequence[ImageId] | np.ndarray,
    predicted: np.ndarray,
    scores: np.ndarray,
    predicted_image_ids: Sequence[ImageId] | np.ndarray,
    skeleton: Skeleton,
    *,
    boxes: str,
) -> Scores:
    """COCO's keypoint scores of arrays, by `evaluate_coco`.

    `truth` (N, K, 3) x, y, visibility with `areas` (N,) px^2 on the images `image_ids` (N,); `predicted` (P, K, 3)
    x, y, score with `scores` (P,) on `predicted_image_ids` (P,), in image px. The pictures are those of the annotated
    people. A person without labelled joint is not scored, and poses of such people count as false: leave them out.
    Raises DataError, ResultError and ConfigError like `evaluate_coco`, and for arrays of another shape.
    """
    truth = array_of(truth, (None, skeleton.num_joints, 3), f"true keypoints of {skeleton.name}", DataError)
    areas = positive(array_of(areas, (len(truth),), "areas", DataError), "areas", DataError)
    if len(image_ids) != len(truth):
        raise DataError(f"{len(truth)} annotated people but {len(image_ids)} image ids; give one each")
    predicted = array_of(predicted, (None, skeleton.num_joints, 3), "predicted keypoints", ResultError)
    scores = array_of(scores, (len(predicted),), "scores", ResultError)
    ids = [image.item() if isinstance(image, np.generic) else image for image in image_ids]
    content = {
        "images": [{"id": image} for image in dict.fromkeys(ids)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            # The box matters only for people without labelled joints, who are not scored.
            {"id": row, "image_id": image, "category_id": 1, "keypoints": pose.ravel(), "area": area, "bbox": [0] * 4}
            for row, (image, pose, area) in enumerate(zip(ids, truth, areas.tolist()), start=1)
        ],
    }
    results = to_coco_results(predicted_image_ids, predicted, scores, None)
    return evaluate_coco(content, results, boxes=boxes, skeleton=skeleton)


def evaluate_pck(
    predicted: np.ndarray,
    truth: np.ndarray,
    box_areas: np.ndarray,
    image_ids: Sequence[ImageId] | np.ndarray,
    skeleton: Skeleton,
    scores: np.ndarray,
    *,
    boxes: str,
    reference: tuple[str, str] = ("left_shoulder", "right_hip"),
    threshold: float = 0.2,
    predicted_joints: np.ndarray | None = None,
    found: np.ndarray | None = None,
) -> MetricScores:
    """PCK over all joints and by part, OKS-AP, AP50, AP75 and the mean OKS, in percent, of one pose a person.

    `predicted` (N, K, 3) x, y, score is the pose found for the person `truth` (N, K, 3) x, y, visibility, in image px;
    `box_areas` (N,) px^2 of the annotated boxes, of which OKS takes 0.53; `image_ids` (N,); `scores` (N,) of the
    poses. PCK allows `threshold` times the annotated distance of the two joints `reference`, and leaves people out
    where one of these is unlabelled; its figures pool hits and labelled joints of both sides. The mean OKS is that of
    each person with its own pose. `predicted_joints` (K,) bool are the joints that the model has: the others are left
    out, and the notes say so. People who are not `found` (N,) have no pose: missed joints, OKS 0.

    Raises ResultError for poses and DataError for annotations of another shape, not finite or beyond 1e6 px, DataError
    for areas that are not positive or when nobody can be scored, ConfigError for an empty `boxes`, a threshold that is
    not positive or reference joints that the skeleton does not have.
    """
    check_boxes_named(boxes)
    if not (np.isfinite(threshold) and threshold > 0):
        raise ConfigError(f"the threshold of PCK must be positive, found {threshold}; 0.2 is usual")
    ends = [skeleton.index(joint) for joint in reference]
    if len(set(ends)) != 2:
        raise ConfigError(f"the reference of PCK must be two different joints, found {list(reference)}")
    joints = skeleton.num_joints
    truth = array_of(truth, (None, joints, 3), f"true keypoints of {skeleton.name}", DataError)
    people = len(truth)
    predicted = array_of(predicted, (people, joints, 3), f"predicted keypoints of {skeleton.name}", ResultError)
    areas = BOX_TO_AREA * positive(array_of(box_areas, (people,), "box areas", DataError), "box areas", DataError)
    scores = array_of(scores, (people,), "scores", ResultError)
    has = mask_of(predicted_joints, joints, "predicted_joints", ConfigError)
    found = mask_of(found, people, "found", ResultError)
    if len(image_ids) != people:
        raise DataError(f"{people} annotated people but {len(image_ids)} image ids; give one each")
    check_finite(truth[..., 2], lambda row: f"true keypoints: person {row}", "visibility", DataError)
    labelled = truth[..., 2] > 0
    truth_xy = coordinates_where(labelled, truth[..., :2], "ground truth", skeleton, DataError)
    wanted = np.broadcast_to(found[:, None] & has, labelled.shape)
    predicted_xy = coordinates_where(wanted, predicted[..., :2], "prediction", skeleton, ResultError)

    scored = labelled & has
    somebody = scored.any(axis=1)
    measured = labelled[:, ends].all(axis=1)
    lengths = np.linalg.norm(truth_xy[:, ends[0]] - truth_xy[:, ends[1]], axis=1)
    hits, counts = pck(predicted_xy, truth_xy, scored & measured[:, None], lengths, threshold, found=found)
    if not counts.any():
        raise DataError(
            f"nobody of {people} people has both {' and '.join(reference)} and a joint to score labelled; "
            "choose another reference"
        )
    parts = _parts(skeleton)
    values = {f"PCK@{threshold:g}": float(100 * hits.sum() / counts.sum())}
    for part, rows in parts.items():
        if counts[rows].any():
            values[part] = float(100 * hits[rows].sum() / counts[rows].sum())

    truth = np.dstack([truth_xy, np.where(scored, truth[..., 2], 0)])
    poses = np.dstack([predicted_xy, np.where(wanted, predicted[..., 2], 0)])
    kept = somebody & found
    ids = np.asarray(image_ids)
    coco = oks_ap(
        truth[somebody], areas[somebody], ids[somebody], poses[kept], scores[kept], ids[kept], skeleton, boxes=boxes
    )
    own_oks = _own_oks(poses, truth, areas, np.flatnonzero(kept), skeleton)
    values.update({"OKS-AP": 100 * coco.AP, "AP50": 100 * coco.AP50, "AP75": 100 * coco.AP75})
    values["mean OKS"] = float(100 * own_oks.sum() / somebody.sum())

    notes = _notes(parts, values, has, found, measured, reference, skeleton)
    if not somebody.all():
        notes.append(f"{int((~somebody).sum())} people without a joint to score are left out with their poses")
    notes += [note for note in coco.notes if note not in SIZE_NOTES]
    return MetricScores(
        metric=f"PCK@{threshold:g} and OKS-AP of {skeleton.name}",
        values=values,
        headline=f"PCK@{threshold:g}",
        boxes=boxes,
        images=len(set(ids.tolist())),
        people=int(somebody.sum()),
        results=int(found.sum()),
        notes=tuple(notes),
    )


def _parts(skeleton: Skeleton) -> dict[str, list[int]]:
    """Joints of each part, left and right together, from head to foot; parts of other names follow as they come."""
    partner = {right: left for left, right in skeleton.flip_pairs}
    rows_of: dict[str, list[int]] = {}
    for row, joint in enumerate(skeleton.joints):
        rows_of.setdefault(partner.get(joint, joint), []).append(row)
    sided = dict(skeleton.flip_pairs)
    named: dict[str, list[int]] = {}
    for joint, rows in rows_of.items():
        named.setdefault(_part(joint, sided.get(joint)), []).extend(rows)
    order = [part for part in _TOP_TO_TOE if part in named] + [part for part in named if part not in _TOP_TO_TOE]
    titles = {part: part.replace("_", " ").capitalize() for part in order}
    if "head" not in named:
        titles["head_top"] = "Head"
    return {titles[part]: named[part] for part in order}


def _part(joint: str, partner: str | None) -> str:
    """The name that a left joint shares with its partner: wrist for left_wrist, lwri/rwri for lwri."""
    if partner is None:
        return joint
    side, _, part = joint.partition("_")
    return part if side == "left" and part else f"{joint}/{partner}"


def _own_oks(
    poses: np.ndarray, truth: np.ndarray, areas: np.ndarray, rows: np.ndarray, skeleton: Skeleton
) -> np.ndarray:
    """OKS of each of the people `rows` with its own pose; one by one, since all with all would be a square matrix."""
    no_box = np.zeros((1, 4))
    oks = [
        oks_to_ground_truth(poses[[row]], truth[[row]], areas[[row]], no_box, skeleton.sigma_array)[0, 0]
        for row in rows
    ]
    return np.array(oks, np.float64)


def _notes(
    parts: dict[str, list[int]],
    values: dict[str, float],
    has: np.ndarray,
    found: np.ndarray,
    measured: np.ndarray,
    reference: tuple[str, str],
    skeleton: Skeleton,
) -> list[str]:
    notes = []
    if not measured.all():
        notes.append(
            f"{int((~measured).sum())} of {len(measured)} people lack {' or '.join(reference)} and are not in PCK"
        )
    if not found.all():
        notes.append(f"{int((~found).sum())} of {len(found)} people have no pose and miss every joint")
    if not has.all():
        missing = ", ".join(joint for joint, kept in zip(skeleton.joints, has) if not kept)
        notes.append(f"not predicted and left out of every figure: {missing}; published figures count all joints")
    absent = [part for part in parts if part not in values]
    if absent:
        notes.append(f"no figure for {', '.join(absent)}: no joint that is both labelled and predicted")
    return notes
