"""MPII's PCKh: the part of the labelled joints that lie within half a head size of their place.

Source: `evaluate` of HRNet's lib/dataset/mpii.py, after MPII's own Matlab toolkit. Its head size is 0.6 times the
diagonal of the annotated head box. What it prints as Mean@0.1 is taken at index 11 of the thresholds 0, 0.01, ...,
that is at 0.11, and so are the published figures of that name; here Mean@0.1 is at 0.1 and theirs is Mean@0.11.
"""

from __future__ import annotations

import numpy as np

from msposenet.errors import ConfigError, DataError, ResultError
from msposenet.evaluation.arrays import array_of, check_boxes_named, coordinates_where, mask_of, positive
from msposenet.evaluation.scores import MetricScores
from msposenet.skeletons import MPII_16, Skeleton

FIGURES = {
    "Head": ("head_top",),
    **{
        part.capitalize(): (f"left_{part}", f"right_{part}")
        for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    },
}
MEANS = {"Mean": 0.5, "Mean@0.1": 0.1, "Mean@0.11": 0.11}  # thresholds in head sizes
NOT_IN_MEAN = ("pelvis", "thorax")


def pckh(
    predicted: np.ndarray,
    truth: np.ndarray,
    labelled: np.ndarray,
    head_sizes: np.ndarray,
    threshold: float = 0.5,
    *,
    found: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Hits and labelled joints, both (K,) counts: a hit is at most `threshold` head sizes away.

    `predicted` and `truth` (N, K, 2) in px of one frame, `labelled` (N, K) bool, `head_sizes` (N,) px. People who are
    not `found` (N,) have no prediction and miss every labelled joint. The arrays are taken as they are.
    """
    distances = np.linalg.norm(np.asarray(predicted, np.float64) - np.asarray(truth, np.float64), axis=2)
    # Divided, as the reference does: a product could round a joint on the limit to the other side.
    hits = (distances / np.asarray(head_sizes, np.float64)[:, None] <= threshold) & labelled
    if found is not None:
        hits &= found[:, None]
    return hits.sum(axis=0), np.sum(labelled, axis=0)


def evaluate_mpii(
    predicted_xy: np.ndarray,
    truth_xy: np.ndarray,
    labelled: np.ndarray,
    head_sizes: np.ndarray,
    *,
    boxes: str,
    skeleton: Skeleton = MPII_16,
    predicted_joints: np.ndarray | None = None,
    found: np.ndarray | None = None,
    images: int | None = None,
) -> MetricScores:
    """PCKh@0.5 in percent, by part and over all joints but pelvis and thorax, and the mean at 0.1 and 0.11.

    `predicted_xy` and `truth_xy` (N, K, 2) in px, both 0-based or both 1-based, `labelled` (N, K) bool, `head_sizes`
    (N,) px. The figure of a part is the mean of left and right; the means count every labelled joint alike.
    `predicted_joints` (K,) bool are the joints that the model has: the others are left out, as are figures that no
    joint remains of, and the notes say so. People who are not `found` (N,) miss every joint. `images` is the number of
    pictures, one a person when left out.

    Raises ResultError for predictions and DataError for annotations of another shape, not finite or beyond 1e6 px,
    DataError for a head size that is not positive or when no joint remains, ConfigError for an empty `boxes`.
    """
    check_boxes_named(boxes)
    joints = skeleton.num_joints
    truth = array_of(truth_xy, (None, joints, 2), f"true joints of {skeleton.name}", DataError)
    people = len(truth)
    predicted = array_of(predicted_xy, (people, joints, 2), f"predicted joints of {skeleton.name}", ResultError)
    labelled = array_of(labelled, (people, joints), "labelled", DataError, bool)
    head_sizes = positive(array_of(head_sizes, (people,), "head sizes", DataError), "head sizes", DataError)
    has = mask_of(predicted_joints, joints, "predicted_joints", ConfigError)
    found = mask_of(found, people, "found", ResultError)
    scored = labelled & has
    truth = coordinates_where(scored, truth, "ground truth", skeleton, DataError)
    predicted = coordinates_where(scored & found[:, None], predicted, "prediction", skeleton, ResultError)
    values = _values(predicted, truth, scored, head_sizes, found, skeleton)
    return MetricScores(
        metric="MPII PCKh",
        values=values,
        headline="Mean",
        boxes=boxes,
        images=people if images is None else images,
        people=int(labelled.any(axis=1).sum()),
        results=int(found.sum()),
        notes=tuple(_notes(values, has, found, skeleton)),
    )


def _values(
    predicted: np.ndarray,
    truth: np.ndarray,
    scored: np.ndarray,
    head_sizes: np.ndarray,
    found: np.ndarray,
    skeleton: Skeleton,
) -> dict[str, float]:
    counts_at = {
        name: pckh(predicted, truth, scored, head_sizes, threshold, found=found) for name, threshold in MEANS.items()
    }
    hits, labelled = counts_at["Mean"]
    values = {}
    for figure, names in FIGURES.items():
        rows = [skeleton.joints.index(name) for name in names if name in skeleton.joints]
        rows = [row for row in rows if labelled[row]]
        if rows:
            values[figure] = float(100 * np.mean(hits[rows] / labelled[rows]))
    in_mean = [row for row, joint in enumerate(skeleton.joints) if joint not in NOT_IN_MEAN]
    total = labelled[in_mean].sum()
    if not total:
        raise DataError(
            f"no joint of {skeleton.name} but {' and '.join(NOT_IN_MEAN)} is labelled and predicted; "
            "is it the right annotation file?"
        )
    return {**values, **{name: float(100 * hits[in_mean].sum() / total) for name, (hits, _) in counts_at.items()}}


def _notes(values: dict[str, float], has: np.ndarray, found: np.ndarray, skeleton: Skeleton) -> list[str]:
    notes = []
    if not found.all():
        notes.append(f"{int((~found).sum())} of {len(found)} people have no prediction and miss every joint")
    if not has.all():
        missing = ", ".join(joint for joint, kept in zip(skeleton.joints, has) if not kept)
        notes.append(f"not predicted and left out of every figure: {missing}; published figures count all joints")
    absent = [figure for figure in FIGURES if figure not in values]
    if absent:
        notes.append(f"no figure for {', '.join(absent)}: no joint that is both labelled and predicted")
    notes.append("Mean@0.11 is what HRNet and MSPN print as Mean@0.1")
    return notes
