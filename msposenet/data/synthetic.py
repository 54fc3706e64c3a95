"""Synthetic people with exact joints: scenes as a pure function of a seed, and COCO data sets of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Callable, Optional

import cv2
import numpy as np

from msposenet.data.synthetic_figure import PARTS_PER_FIGURE, draw_shapes, figure_keypoints
from msposenet.data.synthetic_look import random_look
from msposenet.data.synthetic_pose import random_body
from msposenet.data.synthetic_scenery import camera_faults, draw_occluder, random_background
from msposenet.data.synthetic_shapes import Figure, Shape, figure_shapes, shapes_extent
from msposenet.errors import ConfigError, DataError
from msposenet.skeletons import COCO_17
from msposenet.storage import make_folder, storage_error, write_bytes_atomic, write_json_atomic

_GENERATOR = 1  # raise when the same seed no longer gives the same pictures
_RECORD = "synthetic.json"
_ANNOTATIONS = Path("annotations/person_keypoints.json")
_JPEG_QUALITY = 92
_OCCLUDER = 15  # figure number of everything that is no figure and may cover one
_LARGEST_CUT = 0.22  # share of a figure's extent that may lie beyond a border
_PLACES_TRIED = 6
_CLOSEST = 0.6  # largest common share of two people's boxes when they stand close
_LEAST_SEEN = 0.1  # a person of whom less than this share of the box is seen is not annotated


@dataclass(frozen=True)
class SceneSpec:
    """What scenes look like. Ranges are (smallest, largest), both included.

    `figure_height` is a person's standing height as a share of the picture's height. `crowding` is the probability
    that a further person stands close to an earlier one instead of where there is room; `cut_off` that a person may
    reach beyond the border; `occluder` that an object covers part of a person; `back_view` and `profile_view` the
    shares of people seen from behind and from the side. Raises ConfigError on a value that cannot be.
    """

    width: tuple[int, int] = (256, 320)
    height: tuple[int, int] = (192, 240)
    people: tuple[int, int] = (1, 3)
    figure_height: tuple[float, float] = (0.55, 0.95)
    crowding: float = 0.35
    cut_off: float = 0.2
    occluder: float = 0.25
    back_view: float = 0.12
    profile_view: float = 0.1

    def __post_init__(self) -> None:
        for name, least, most in (
            ("width", 32, 8192),
            ("height", 32, 8192),
            ("people", 1, _OCCLUDER - 1),
            ("figure_height", 0.05, 3.0),
        ):
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ConfigError(
                    f"SceneSpec.{name} is ({low}, {high}); give (smallest, largest) between {least} and {most}"
                )
        for name in ("crowding", "cut_off", "occluder", "back_view", "profile_view"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"SceneSpec.{name} is {getattr(self, name)}; give a probability between 0 and 1")
        if self.back_view + self.profile_view > 1:
            raise ConfigError("SceneSpec.back_view and profile_view add up to more than 1; lower one of them")


@dataclass(frozen=True)
class Scene:
    """One picture and its P people.

    `image` (H, W, 3) uint8 RGB. `keypoints` (P, 17, 3) float32 in COCO order: x, y in image px, flag 0 outside the
    picture or hidden by the head itself, 1 covered, 2 seen. `boxes` (P, 4) float32 x, y, w, h of the whole figure,
    covered parts included, clipped to the picture. `areas` (P,) float32: pixels of the visible silhouette.
    """

    image: np.ndarray
    keypoints: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray


def render_scene(seed: int, index: int, spec: SceneSpec = SceneSpec()) -> Scene:
    """Scene number `index` of the set `seed`: a pure function of its arguments. Raises ConfigError below 0."""
    if seed < 0 or index < 0:
        raise ConfigError(f"synthetic scene: seed {seed} and index {index} must not be negative")
    rng = np.random.default_rng([seed, index])
    height, width = int(rng.integers(*spec.height, endpoint=True)), int(rng.integers(*spec.width, endpoint=True))
    image = random_background(rng, height, width)
    labels = np.zeros((height, width), np.uint8)
    figures: list[Figure] = []
    extents: list[np.ndarray] = []
    for number in range(1, int(rng.integers(*spec.people, endpoint=True)) + 1):
        figure, shapes, extent = _place_figure(rng, spec, np.array([width, height]), extents)
        draw_shapes(image, labels, shapes, number)
        figures.append(figure)
        extents.append(extent)
    if rng.random() < spec.occluder:
        covered = extents[int(rng.integers(len(extents)))]
        draw_occluder(rng, image, labels, covered, _OCCLUDER * PARTS_PER_FIGURE)
    return _annotated(camera_faults(rng, image), labels, figures, extents)


def _place_figure(
    rng: np.random.Generator, spec: SceneSpec, size: np.ndarray, extents: list[np.ndarray]
) -> tuple[Figure, list[Shape], np.ndarray]:
    """A random figure with its shapes and its extent x0, y0, x1, y1 in image px, placed among the earlier extents."""
    height = rng.uniform(*spec.figure_height) * size[1]
    figure = Figure(random_body(rng, spec.back_view, spec.profile_view), random_look(rng), height, (0.0, 0.0))
    shapes = figure_shapes(figure)
    extent = shapes_extent(shapes)
    span = extent[2:] - extent[:2]
    reach = _LARGEST_CUT * span if rng.random() < spec.cut_off else np.zeros(2)
    corners = rng.uniform(-reach, np.maximum(size - 1 - span + reach, -reach), (_PLACES_TRIED, 2))
    covered = [_largest_overlap(corner, span, extents) for corner in corners]
    if rng.random() < spec.crowding:
        # Close together, yet never so much in one place that a box would not say which of two people it means.
        chosen = next((i for i, share in enumerate(covered) if share < _CLOSEST), int(np.argmin(covered)))
    else:
        chosen = int(np.argmin(covered))
    shift = corners[chosen] - extent[:2]
    placed = replace(figure, pelvis_xy_image=(float(shift[0]), float(shift[1])))
    moved = [shape._replace(polygon=shape.polygon + shift) for shape in shapes]
    return placed, moved, extent + np.tile(shift, 2)


def _largest_overlap(corner: np.ndarray, span: np.ndarray, extents: list[np.ndarray]) -> float:
    """Largest share of the smaller box that the box at `corner` has in common with one of `extents`."""
    shares = [0.0]
    for other in extents:
        common = np.minimum(corner + span, other[2:]) - np.maximum(corner, other[:2])
        if (common > 0).all():
            smaller = min(span[0] * span[1], (other[2] - other[0]) * (other[3] - other[1]))
            shares.append(float(common[0] * common[1] / smaller))
    return max(shares)


def _annotated(image: np.ndarray, labels: np.ndarray, figures: list[Figure], extents: list[np.ndarray]) -> Scene:
    height, width = labels.shape
    seen = np.bincount((labels // PARTS_PER_FIGURE).ravel(), minlength=_OCCLUDER + 1)
    keypoints, boxes, areas = [], [], []
    for number, (figure, extent) in enumerate(zip(figures, extents), start=1):
        x0, y0 = np.maximum(extent[:2], 0)
        x1, y1 = min(extent[2] + 1, width), min(extent[3] + 1, height)
        if seen[number] < _LEAST_SEEN * (x1 - x0) * (y1 - y0):
            continue
        keypoints.append(figure_keypoints(figure, labels, number))
        boxes.append((x0, y0, x1 - x0, y1 - y0))
        areas.append(seen[number])
    return Scene(
        image,
        np.array(keypoints, np.float32).reshape(-1, COCO_17.num_joints, 3),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(areas, np.float32),
    )


def write_coco(
    folder: Path,
    num_images: int,
    seed: int,
    spec: SceneSpec = SceneSpec(),
    progress: Optional[Callable[[int, int], None]] = None,
) -> Path:
    """Write scenes 0 to `num_images` - 1 of the set `seed` as a COCO data set; returns the annotation file.

    `folder` receives images/000000000001.jpg and on, and annotations/person_keypoints.json. The same arguments give
    the same bytes. A folder that already holds this very set is left as it is; an interrupted one is written anew.
    `progress` is called with (pictures done, pictures in all). Raises DataError when the folder holds anything else,
    ConfigError on a number that cannot be, StorageError when the disk refuses.
    """
    if num_images < 1 or seed < 0:
        raise ConfigError(f"synthetic set: {num_images} images of seed {seed}; give at least 1 image and a seed >= 0")
    folder = make_folder(folder)
    record = {"generator": _GENERATOR, "seed": seed, "num_images": num_images, "spec": asdict(spec), "complete": False}
    if _holds_set(folder, record):
        return folder / _ANNOTATIONS
    # Before the first picture: it tells an interrupted set, which may be written over, from anybody else's files.
    write_json_atomic(folder / _RECORD, record)
    make_folder(folder / "images")
    make_folder((folder / _ANNOTATIONS).parent)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(num_images):
        scene = render_scene(seed, index, spec)
        name = _picture_name(index)
        write_bytes_atomic(folder / "images" / name, _jpeg(scene.image))
        height, width = scene.image.shape[:2]
        images.append({"id": index + 1, "file_name": name, "width": width, "height": height})
        for person in zip(scene.keypoints, scene.boxes, scene.areas):
            annotations.append(_coco_annotation(len(annotations) + 1, index + 1, *person))
        if progress is not None:
            progress(index + 1, num_images)
    write_json_atomic(folder / _ANNOTATIONS, _coco_document(images, annotations))
    write_json_atomic(folder / _RECORD, {**record, "complete": True})
    return folder / _ANNOTATIONS


def _holds_set(folder: Path, record: dict[str, Any]) -> bool:
    """True when `folder` holds the complete set of `record`; DataError when it holds something else."""
    remedy = "choose another folder, or delete this one"
    path = folder / _RECORD
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        foreign = sorted(entry.name for entry in folder.iterdir())
        if foreign:
            raise DataError(
                f"{folder}: holds {foreign[0]!r} but no {_RECORD}, so it is no synthetic set; {remedy}"
            ) from None
        return False
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested beyond reason
        raise DataError(f"{path}: is not readable as JSON ({error}); {remedy}") from error
    except OSError as error:
        raise storage_error(path, "read", error) from error
    wanted = json.loads(json.dumps(record))  # as it reads after a round trip: tuples become lists
    complete = isinstance(found, dict) and found.pop("complete", None) is True
    wanted.pop("complete")
    if found != wanted:
        raise DataError(f"{path}: the folder holds another set, {_differences(found, wanted)}; {remedy}")
    files = [folder / _ANNOTATIONS] + [folder / "images" / _picture_name(i) for i in range(record["num_images"])]
    return complete and all(file.is_file() for file in files)


def _differences(found: Any, wanted: dict[str, Any]) -> str:
    if not isinstance(found, dict):
        return f"its root is {type(found).__name__} instead of an object"
    return (
        ", ".join(
            f"{key} {found.get(key)!r} instead of {value!r}" for key, value in wanted.items() if found.get(key) != value
        )
        or f"with unknown keys {sorted(set(found) - set(wanted))}"
    )


def _picture_name(index: int) -> str:
    return f"{index + 1:012d}.jpg"


def _jpeg(image: np.ndarray) -> bytes:
    done, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        raise RuntimeError(f"OpenCV could not encode a picture of shape {image.shape} as JPEG")
    return data.tobytes()


def _coco_annotation(
    number: int, image_id: int, keypoints: np.ndarray, box: np.ndarray, area: np.ndarray
) -> dict[str, Any]:
    flat: list[float] = []
    for x, y, flag in keypoints.tolist():
        flat += [round(x, 3), round(y, 3), int(flag)]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "bbox": [round(value, 3) for value in box.tolist()],
        "area": float(area),
        "iscrowd": 0,
        "keypoints": flat,
        "num_keypoints": int((keypoints[:, 2] > 0).sum()),
    }


def _coco_document(images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(COCO_17.joints),
        "skeleton": (COCO_17.limb_index + 1).tolist(),
    }
    info = {"description": "Synthetic people of msposenet"}
    return {"info": info, "licenses": [], "images": images, "annotations": annotations, "categories": [category]}
