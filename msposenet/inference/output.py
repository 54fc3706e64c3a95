"""What `predict` leaves beside a picture: the picture with its people, and their joints by name."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from msposenet.errors import StorageError
from msposenet.inference.people import People
from msposenet.storage import make_folder, write_bytes_atomic, write_json_atomic


def write_prediction(
    folder: Path, name: str, image: np.ndarray, people: People, threshold: float = 0.2
) -> tuple[Path, Path]:
    """Write NAME_pose.jpg and NAME.json for the picture `image` (H, W, 3) RGB to `folder`; returns both paths."""
    make_folder(folder)
    picture, data = folder / f"{name}_pose.jpg", folder / f"{name}.json"
    write_picture(picture, people.draw(image, threshold))
    write_json_atomic(data, people.to_json())
    return picture, data


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write a picture (H, W, 3) RGB in the format of the path's suffix, whole or not at all."""
    done, encoded = cv2.imencode(path.suffix, np.ascontiguousarray(image[..., ::-1]))
    if not done:
        raise StorageError(f"{path}: OpenCV cannot write {path.suffix} pictures; use .jpg or .png")
    write_bytes_atomic(path, encoded.tobytes())
