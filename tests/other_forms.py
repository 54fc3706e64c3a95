"""Drawn people written in the forms of the other data sets, for readers, pages and merged configurations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import scipy.io
from people_set import images_of

from msposenet.data.unify import joint_map
from msposenet.skeletons import AIC_14, COCO_17, CROWDPOSE_14, LSP_14, MPII_16, POSETRACK_17, Skeleton

HEAD_SIZE = 20.0  # px, of everybody


class Drawn:
    """A COCO-form file of drawn people: `pictures` (file names), and for each person its picture's row, box, joints."""

    def __init__(self, annotations: Path) -> None:
        content = json.loads(annotations.read_text())
        self.folder = images_of(annotations)
        self.images = content["images"]
        self.pictures = [image["file_name"] for image in content["images"]]
        row = {image["id"]: place for place, image in enumerate(self.images)}
        people = [person for person in content["annotations"] if any(person["keypoints"][2::3])]
        self.rows = [row[person["image_id"]] for person in people]
        self.boxes = np.array([person["bbox"] for person in people])
        self.keypoints = np.array([person["keypoints"] for person in people], float).reshape(-1, 17, 3)

    def of(self, skeleton: Skeleton) -> np.ndarray:
        """Keypoints (N, K, 3); points that COCO has not are between those it has."""
        middle = ("left_shoulder", "right_shoulder")
        made = {"pelvis": ("left_hip", "right_hip"), "thorax": middle, "neck": middle, "head_top": "nose"}
        joints = {joint: ends for joint, ends in made.items() if joint in skeleton.joints}
        return joint_map(COCO_17, skeleton, joints, "drawn").keypoints(self.keypoints)

    def copy_pictures(self, folder: Path, names: list[str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for picture, name in zip(self.pictures, names or self.pictures):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.folder / picture, target)


def write_mpii(drawn: Drawn, annotations: Path, images: Path) -> None:
    """The JSON list of HRNet's programs, 1-based, and its head sizes beside it."""
    people = []
    for row, box, pose in zip(drawn.rows, drawn.boxes, drawn.of(MPII_16)):
        scale = float(box[2:].max()) / 200
        people.append(
            {
                "image": drawn.pictures[row],
                "center": (box[:2] + box[2:] / 2 - [0, 15 * scale] + 1).tolist(),
                "scale": scale,
                "joints": np.where(pose[:, 2:] > 0, pose[:, :2] + 1, 0).tolist(),
                "joints_vis": (pose[:, 2] > 0).astype(int).tolist(),
            }
        )
    drawn.copy_pictures(images)
    _dump(annotations, people)
    _dump(annotations.with_name(annotations.stem + "_head_sizes.json"), [HEAD_SIZE] * len(people))
    side = HEAD_SIZE / 0.6 / np.sqrt(2)  # of the head box: the size is 0.6 of its diagonal
    corners = np.broadcast_to(np.array([[0, 0], [side, side]])[..., None], (2, 2, len(people)))
    scipy.io.savemat(annotations.with_name(f"gt_{annotations.stem}.mat"), {"headboxes_src": corners})


def write_aic(drawn: Drawn, annotations: Path, images: Path) -> None:
    """AI Challenger's own list."""
    entries = [
        {"url": "", "image_id": Path(name).stem, "human_annotations": {}, "keypoint_annotations": {}}
        for name in drawn.pictures
    ]
    for row, box, pose in zip(drawn.rows, drawn.boxes, drawn.of(AIC_14)):
        name = f"human{len(entries[row]['human_annotations']) + 1}"
        x, y, w, h = box.tolist()
        entries[row]["human_annotations"][name] = [x, y, x + w, y + h]
        flags = 3 - pose[:, 2:]
        entries[row]["keypoint_annotations"][name] = np.concatenate([pose[:, :2], flags], axis=1).ravel().tolist()
    drawn.copy_pictures(images, [f"{Path(name).stem}.jpg" for name in drawn.pictures])
    _dump(annotations, entries)


def write_crowdpose(drawn: Drawn, annotations: Path, images: Path) -> None:
    """COCO's form with crowdIndex, without areas."""
    poses = drawn.of(CROWDPOSE_14)
    drawn.copy_pictures(images)
    names = ["head" if joint == "head_top" else joint for joint in CROWDPOSE_14.joints]
    _dump(
        annotations,
        {
            "images": [{**image, "crowdIndex": 0.1 + 0.4 * (row % 3)} for row, image in enumerate(drawn.images)],
            "categories": [{"id": 1, "name": "person", "keypoints": names}],
            "annotations": _annotations(drawn, poses),
        },
    )


def write_posetrack18(drawn: Drawn, annotations: Path, images: Path) -> None:
    """One file of a folder `annotations`; all pictures are frames of one video below images/val."""
    frames = [f"images/val/000001_drawn/{row:06d}.jpg" for row in range(len(drawn.pictures))]
    drawn.copy_pictures(images.parent, frames)
    people = _annotations(drawn, drawn.of(POSETRACK_17))
    for person in people:
        x, y, _, _ = person["bbox"]
        person.update(track_id=person["id"] % 9, bbox_head=[x, y, HEAD_SIZE, HEAD_SIZE])
        person["keypoints"] = np.minimum(np.array(person["keypoints"]).reshape(-1, 3), [1e9, 1e9, 1]).ravel().tolist()
    names = ["head_bottom" if joint == "neck" else joint for joint in POSETRACK_17.joints]
    content = {
        "images": [
            {**image, "file_name": name, "vid_id": "000001", "is_labeled": True, "frame_id": image["id"]}
            for image, name in zip(drawn.images, frames)
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": names}],
        "annotations": people,
    }
    _dump(annotations / "000001_drawn.json", content)


def write_lsp(drawn: Drawn, annotations: Path, images: Path) -> None:
    """joints.mat of LSP Extended: the first person of each picture."""
    first = [drawn.rows.index(row) for row in sorted(set(drawn.rows))]
    poses = drawn.of(LSP_14)[first]
    poses[..., 2] = poses[..., 2] > 0
    images.mkdir(parents=True, exist_ok=True)
    for number, person in enumerate(first, start=1):
        shutil.copy(drawn.folder / drawn.pictures[drawn.rows[person]], images / f"im{number:05d}.jpg")
    annotations.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(annotations, {"joints": poses.transpose(1, 2, 0)})


def _annotations(drawn: Drawn, poses: np.ndarray) -> list[dict]:
    return [
        {
            "id": number,
            "image_id": drawn.images[row]["id"],
            "category_id": 1,
            "iscrowd": 0,
            "bbox": box.tolist(),
            "keypoints": pose.ravel().tolist(),
            "num_keypoints": int((pose[:, 2] > 0).sum()),
        }
        for number, (row, box, pose) in enumerate(zip(drawn.rows, drawn.boxes, poses), start=1)
    ]


def _dump(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


WRITERS = {
    "mpii": (write_mpii, MPII_16),
    "aic": (write_aic, AIC_14),
    "crowdpose": (write_crowdpose, CROWDPOSE_14),
    "posetrack": (write_posetrack18, POSETRACK_17),
    "lsp": (write_lsp, LSP_14),
}
