"""Two short videos in PoseTrack's 17 form, what a tracker finds in them, and the same in the 18 form."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np

from msposenet.skeletons import POSETRACK_15, POSETRACK_17

NAMES_18 = ["head_bottom" if joint == "neck" else joint for joint in POSETRACK_17.joints]
FRAMES, PEOPLE = 4, 3
HEAD = (30.0, 40.0)  # a diagonal of 50: 30 px a head size, 15 px the limit


def video(number: int, rng: np.random.Generator, frames: int = FRAMES, people: int = PEOPLE) -> tuple[dict, dict]:
    """Annotations and predictions of one video; in frame 2 nobody is annotated, everybody lacks some joints."""
    truth, found = [], []
    places = rng.uniform(100, 900, (people, 15, 2))
    for frame in range(frames):
        image = [{"name": f"images/val/{number:06d}_video/{frame:06d}.jpg"}]
        annotated, predicted = [], []
        for person, xy in enumerate(places + rng.normal(0, 3, (people, 1, 2))):
            if frame != 2:
                points = [point(joint, xy[joint]) for joint in range(15) if rng.random() < 0.9]
                annotated.append({**head(xy[14]), "track_id": [person], "annopoints": [{"point": points}]})
            moved = xy + rng.normal(0, 8, (15, 2))
            points = [
                point(j, moved[j], score=[round(float(rng.random()), 6)]) for j in range(15) if rng.random() < 0.9
            ]
            track = person + 50 + (10 if rng.random() < 0.2 else 0)
            predicted.append({"track_id": [track], "annopoints": [{"point": points}]})
        truth.append({"image": image, "annorect": annotated})
        found.append({"image": image, "annorect": predicted})
    return {"annolist": truth}, {"annolist": found}


def point(joint: int, xy: np.ndarray, **more: list) -> dict:
    return {"id": [joint], "x": [round(float(xy[0]), 2)], "y": [round(float(xy[1]), 2)], **more}


def head(xy: np.ndarray) -> dict:
    x, y = float(xy[0]), float(xy[1])
    return {"x1": [x], "y1": [y], "x2": [x + HEAD[0]], "y2": [y + HEAD[1]]}


def scene(seed: int = 3) -> tuple[dict[str, dict], dict[str, dict]]:
    """File name to content, annotations and predictions."""
    rng = np.random.default_rng(seed)
    pairs = {f"00000{number}_video.json": video(number, rng) for number in (1, 2)}
    return {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}


def perfect(truth: dict[str, dict]) -> dict[str, dict]:
    """Predictions that repeat the annotations; frames without people included."""
    found = copy.deepcopy(truth)
    for content in found.values():
        for frame in content["annolist"]:
            for person in frame["annorect"]:
                for corner in ("x1", "y1", "x2", "y2"):
                    del person[corner]
                for entry in person["annopoints"][0]["point"]:
                    entry["score"] = [0.5]
    return found


def in_form_18(content: dict, first_id: int) -> dict:
    """The same in the 18 form: image ids from `first_id`, absent joints as zeros."""
    images, annotations = [], []
    for number, frame in enumerate(content["annolist"]):
        images.append({"id": first_id + number, "file_name": frame["image"][0]["name"], **regions_18(frame)})
        for person in frame["annorect"]:
            keypoints, scores = np.zeros((17, 3)), np.zeros(17)
            for entry in person["annopoints"][0]["point"]:
                joint = POSETRACK_17.index(POSETRACK_15.joints[entry["id"][0]])
                keypoints[joint] = entry["x"][0], entry["y"][0], 1
                scores[joint] = entry.get("score", [0])[0]
            record = {"id": len(annotations), "image_id": first_id + number, "track_id": person["track_id"][0]}
            if "x1" in person:
                (x1, y1, x2, y2) = (person[key][0] for key in ("x1", "y1", "x2", "y2"))
                record["bbox_head"] = [x1, y1, x2 - x1, y2 - y1]
            else:
                record["scores"] = scores.tolist()
            annotations.append({**record, "category_id": 1, "keypoints": keypoints.ravel().tolist()})
    category = {"id": 1, "name": "person", "keypoints": NAMES_18}
    return {"images": images, "categories": [category], "annotations": annotations}


def regions_18(frame: dict) -> dict:
    points = [region["point"] for region in frame.get("ignore_regions", [])]
    return {f"ignore_regions_{axis}": [[entry[axis][0] for entry in region] for region in points] for axis in "xy"}


def all_in_form_18(files: dict[str, dict]) -> dict[str, dict]:
    return {name: in_form_18(content, 1000 * (1 + row)) for row, (name, content) in enumerate(files.items())}


def written(folder: Path, files: dict[str, dict]) -> Path:
    """`files` written into the new folder `folder`."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def arrays(files: dict[str, dict]) -> tuple[list[int], np.ndarray, np.ndarray]:
    """17 form predictions as running numbers of frames, keypoints (M, 15, 3) and tracks (M,)."""
    numbers, poses, tracks, number = [], [], [], 0
    for content in files.values():
        for frame in content["annolist"]:
            number += 1
            for person in frame["annorect"]:
                pose = np.zeros((15, 3))
                for entry in person["annopoints"][0]["point"]:
                    pose[entry["id"][0]] = entry["x"][0], entry["y"][0], entry["score"][0]
                numbers.append(number)
                poses.append(pose)
                tracks.append(person["track_id"][0])
    return numbers, np.array(poses).reshape(-1, 15, 3), np.array(tracks, np.int64)
