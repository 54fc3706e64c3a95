"""From estimated poses to each data set's own figures.

A metric takes a `scoring.ValidationSet`, its `validate.Estimates` and the configuration, and gives the scores and the
result list. Joints of the set that the network does not predict are left out of the figures, and a note says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from msposenet.config import Source
from msposenet.data.formats.mpii import mpii_head_sizes
from msposenet.errors import ConfigError, DataError
from msposenet.evaluation.aic import evaluate_aic
from msposenet.evaluation.aic_files import read_aic_truth
from msposenet.evaluation.coco import evaluate_coco
from msposenet.evaluation.crowdpose import evaluate_crowdpose
from msposenet.evaluation.ground_truth import read_ground_truth
from msposenet.evaluation.mpii import evaluate_mpii
from msposenet.evaluation.pck import evaluate_pck
from msposenet.evaluation.posetrack import evaluate_posetrack_poses
from msposenet.evaluation.results import rescore, to_coco_results
from msposenet.skeletons import Skeleton

SAME_FORM = ("coco", "crowdpose")  # annotation files in COCO's form, images and category by id


def _coco(validation, estimates, config):
    """COCO's AP: official on a file in COCO's form, else OKS-AP by the same rules on the people that were read."""
    source, native = validation.source, validation.native
    keypoints, there = validation.joints.back(estimates.keypoints)
    if source.format in SAME_FORM and there.all():
        truth = read_ground_truth(source.annotations, native.skeleton)
        results = estimates.results(config.test, truth.category_id, keypoints)
        ids = native.image_ids.tolist() if source.pictures else None
        scores = evaluate_coco(
            source.annotations, results, boxes=validation.boxes.name, skeleton=native.skeleton, image_ids=ids
        )
        return scores, results
    results = estimates.results(config.test, 1, keypoints)
    skeleton = sub_skeleton(native.skeleton, there)
    truth, notes = _people_as_coco(native, there, skeleton)
    restricted = [{**result, "keypoints": _only(result["keypoints"], there)} for result in results]
    scores = evaluate_coco(truth, restricted, boxes=validation.boxes.name, skeleton=skeleton)
    return replace(scores, notes=(*notes, *scores.notes)), results


def sub_skeleton(skeleton: Skeleton, there: np.ndarray) -> Skeleton:
    """The skeleton without the joints that are not `there` (J,)."""
    joints = tuple(joint for joint, kept in zip(skeleton.joints, there) if kept)

    def kept_pairs(pairs):
        return tuple(pair for pair in pairs if set(pair) <= set(joints))

    return Skeleton(
        skeleton.name,
        joints,
        kept_pairs(skeleton.flip_pairs),
        tuple(sigma for sigma, kept in zip(skeleton.sigmas, there) if kept),
        kept_pairs(skeleton.limbs),
        tuple(joint for joint in skeleton.upper if joint in joints),
    )


def absent_note(skeleton: Skeleton, there: np.ndarray) -> list[str]:
    """The sentence on joints of the set that the network has not."""
    absent = [joint for joint, found in zip(skeleton.joints, there) if not found]
    return [f"not predicted, left out of the figures: {', '.join(absent)}"] if absent else []


def _only(flat: list[float], there: np.ndarray) -> list[float]:
    return np.asarray(flat).reshape(-1, 3)[there].ravel().tolist()


def _people_as_coco(native, there: np.ndarray, skeleton: Skeleton) -> tuple[dict, list[str]]:
    """The people that were read as COCO annotations of the joints that are `there`."""
    notes = ["OKS-AP on the people that training would read: crowds and unlabelled people are not counted"]
    keypoints = native.keypoints[:, there].astype(np.float64)
    ids = native.image_ids[native.image_index].tolist()
    annotations = [
        {
            "id": row + 1,
            "image_id": ids[row],
            "category_id": 1,
            "iscrowd": 0,
            "bbox": native.boxes[row].tolist(),
            "area": float(native.areas[row]),
            "keypoints": keypoints[row].ravel().tolist(),
            "num_keypoints": int((keypoints[row, :, 2] > 0).sum()),
        }
        for row in range(len(native))
    ]
    category = {"id": 1, "name": "person", "keypoints": list(skeleton.joints)}
    images = [{"id": image_id} for image_id in native.image_ids.tolist()]
    truth = {"images": images, "categories": [category], "annotations": annotations}
    return truth, [*notes, *absent_note(native.skeleton, there)]


def _mpii(validation, estimates, config):
    """PCKh of each annotated person's pose, found in its own box."""
    native, sizes = validation.native, _head_sizes(validation)
    keypoints, there, found = _own_poses(validation, estimates)
    scores = evaluate_mpii(
        keypoints[..., :2].astype(np.float64),
        native.keypoints[..., :2].astype(np.float64),
        native.keypoints[..., 2] > 0,
        sizes,
        boxes=validation.boxes.name,
        predicted_joints=there,
        found=found,
        images=len(np.unique(native.image_index)),
    )
    return scores, _every_result(validation, estimates, config)


def _pck(validation, estimates, config):
    """PCK and OKS-AP of each annotated person's pose, found in its own box."""
    native = validation.native
    keypoints, there, found = _own_poses(validation, estimates)
    scores = evaluate_pck(
        keypoints,
        native.keypoints,
        native.boxes[:, 2:].prod(axis=1),
        native.image_ids[native.image_index],
        native.skeleton,
        rescore(np.ones(len(native)), keypoints, config.test.joint_score),
        boxes=validation.boxes.name,
        predicted_joints=there,
        found=found,
    )
    return scores, _every_result(validation, estimates, config)


def _aic(validation, estimates, config):
    """AI Challenger's mAP: its annotation file is read again, for the people whom training leaves out count here."""
    native = validation.native
    truth = read_aic_truth(validation.source.annotations)
    # Records number the pictures from 1 in the file's order.
    number = {name: place for place, name in enumerate(truth.images, start=1)}
    wanted = set(native.image_ids.tolist())
    of_person = np.array([number[name] for name in truth.image_of], dtype=np.int64)
    rows = np.flatnonzero(np.isin(of_person, list(wanted)))
    keypoints, there = validation.joints.back(estimates.keypoints)
    kept, _ = estimates.kept(config.test)
    scores = evaluate_aic(
        of_person[rows].tolist(),
        truth.keypoints[rows],
        truth.boxes[rows],
        estimates.records.image_ids[estimates.records.image_index[kept]].tolist(),
        keypoints[kept].astype(np.float64),
        sorted(wanted),
        boxes=validation.boxes.name,
        predicted_joints=there,
    )
    return replace(scores, notes=(*scores.notes, *truth.notes)), estimates.results(config.test, 1, keypoints)


def _crowdpose(validation, estimates, config):
    """CrowdPose's AP, easy, medium and hard; with all 14 joints only."""
    native, source = validation.native, validation.source
    keypoints, there = validation.joints.back(estimates.keypoints)
    if not there.all():
        scores, results = _coco(validation, estimates, config)
        note = "CrowdPose's own figures want all its joints; this is COCO's AP on those there are, areas of whole boxes"
        return replace(scores, notes=(note, *scores.notes)), results
    truth = read_ground_truth(source.annotations, native.skeleton)
    results = estimates.results(config.test, truth.category_id, keypoints)
    ids = native.image_ids.tolist() if source.pictures else None
    return evaluate_crowdpose(source.annotations, results, boxes=validation.boxes.name, image_ids=ids), results


def _posetrack(validation, estimates, config):
    """PoseTrack's AP of single frames; tracks are not made here."""
    native, source = validation.native, validation.source
    keypoints, there = validation.joints.back(estimates.keypoints)
    kept, _ = estimates.kept(config.test)
    ids = estimates.records.image_ids[estimates.records.image_index[kept]].tolist()
    scores = evaluate_posetrack_poses(
        source.annotations,
        ids,
        keypoints[kept].astype(np.float64),
        boxes=validation.boxes.name,
        skeleton=native.skeleton,
        predicted_joints=there,
        only=native.image_ids.tolist() if source.pictures else None,
    )
    return scores, estimates.results(config.test, 1, keypoints)


def _head_sizes(validation) -> np.ndarray:
    """Head sizes (N,) px of the set's people."""
    source, native = validation.source, validation.native
    sizes = mpii_head_sizes(source.annotations, source.head_sizes)[native.annotation_ids - 1]
    if np.isnan(sizes).any():
        person = native.annotation_ids[np.isnan(sizes)][0]
        raise DataError(
            f"{source.annotations}: person {person} has no head box, by which PCKh measures; set the set's metric: coco"
        )
    return sizes


def _own_poses(validation, estimates) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each annotated person's pose (N, J, 3), which joints (J,) there are, and who (N,) has one at all."""
    native = validation.native
    keypoints, there = validation.joints.back(estimates.keypoints)
    order = np.argsort(native.annotation_ids)
    rows = order[np.searchsorted(native.annotation_ids, estimates.records.annotation_ids, sorter=order)]
    poses = np.zeros((len(native), *keypoints.shape[1:]), keypoints.dtype)
    found = np.zeros(len(native), dtype=bool)
    poses[rows], found[rows] = keypoints, True
    return poses, there, found


def _every_result(validation, estimates, config) -> list[dict]:
    """One result a person, nobody suppressed: the metric asks for a pose of everybody."""
    keypoints, _ = validation.joints.back(estimates.keypoints)
    records = estimates.records
    scores = rescore(records.box_scores, keypoints, config.test.joint_score)
    image_ids = records.image_ids[records.image_index].tolist()
    return to_coco_results(image_ids, keypoints, scores, records.boxes)


@dataclass(frozen=True)
class Metric:
    """What scores a set, and whether it wants each person's own box."""

    score: Callable
    own_boxes: bool = False

    def check(self, name: str, validation) -> None:
        """Raise, before anything is computed, what would stop the scoring afterwards."""
        if self.own_boxes and not validation.boxes.annotated:
            raise ConfigError(
                f"{validation.title}: metric {name} compares each person with the pose found in its own box; set "
                "test.boxes: gt, or the set's metric: coco"
            )
        if name == "mpii":
            _head_sizes(validation)


METRICS = {
    "coco": Metric(_coco),
    "mpii": Metric(_mpii, own_boxes=True),
    "aic": Metric(_aic),
    "crowdpose": Metric(_crowdpose),
    "posetrack": Metric(_posetrack),
    "pck": Metric(_pck, own_boxes=True),
}
_OF_FORMAT = {"lsp": "pck"}


def metric_of(source: Source) -> str:
    """Name of the metric that scores the set."""
    return source.metric or _OF_FORMAT.get(source.format, source.format)
