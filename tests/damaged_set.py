"""A set on disk with every kind of damage that RELIABILITY's table of bad input knows, and what each is called."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from pathlib import Path
from typing import Callable

import cv2
from people_set import images_of, people_set


def bomb() -> bytes:
    """The start of a PNG of 30000 x 30000 px."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def _resized(path: Path) -> None:
    cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (100, 90)))


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


# what was done to a picture: how, the kind it is counted as, a part of the reason
PICTURES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "missing": (Path.unlink, "missing picture", "missing image"),
    "empty": (lambda path: path.write_bytes(b""), "not an image", "the file is empty"),
    "html": (lambda path: path.write_text("<html><body>404"), "not an image", "HTML"),
    "text": (lambda path: path.write_text("see the other folder"), "not an image", "the file is text"),
    "zeros": (lambda path: path.write_bytes(bytes(5000)), "not an image", "zeros"),
    "folder": (_as_folder, "not an image", "not a regular file"),
    "cut": (
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        "truncated picture",
        "truncated JPEG",
    ),
    "bomb": (lambda path: path.write_bytes(bomb()), "picture too large", "30000 x 30000"),
    "resized": (_resized, "picture of another size than annotated", "is 100 x 90 px, the annotations say"),
}


def _with_stray_bytes(path: Path) -> None:
    """Bytes between the last pixels and the end marker, as from changed bits: libjpeg notices, OpenCV is silent."""
    path.write_bytes(path.read_bytes()[:-2] + bytes(range(1, 60)) + b"\xff\xd9")


WHOLE = {  # accepted
    "no end marker": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "stray bytes": _with_stray_bytes,
    "grey": lambda path: cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)),
}


def copy_set(folder: Path, pictures: int = 24, seed: int = 7) -> Path:
    """A copy of people_set in `folder` to be damaged; its annotation file, the pictures in images/ beside it."""
    original = people_set(pictures, seed)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(images_of(original), folder / "images")
    return Path(shutil.copy(original, folder / "people.json"))


def damaged_set(folder: Path) -> tuple[Path, dict[str, Path]]:
    """The annotation file and, by the keys above, the pictures that something was done to."""
    annotations = copy_set(folder)
    content = json.loads(annotations.read_text())
    names = [image["file_name"] for image in content["images"]]
    done = {}
    for name, (what, change) in zip(names, [*((key, PICTURES[key][0]) for key in PICTURES), *WHOLE.items()]):
        done[what] = folder / "images" / name
        change(done[what])
    return annotations, done


def edit(annotations: Path, change: Callable[[dict], object]) -> None:
    """Rewrite an annotation file."""
    content = json.loads(annotations.read_text())
    change(content)
    annotations.write_text(json.dumps(content))


def source(annotations: Path, **more) -> dict:
    """The entry of a configuration for a set of `copy_set`."""
    return {"annotations": str(annotations), "images": str(annotations.parent / "images"), **more}


def config_file(folder: Path, train: object = (), val: object = (), **sections) -> Path:
    """A configuration file `folder`/config.yaml (JSON is YAML)."""
    content = {"data": {"train": train, "val": val, "input": [64, 64]}, **sections}
    path = folder / "config.yaml"
    path.write_text(json.dumps(content))
    return path
