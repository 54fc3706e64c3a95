"""MANIFEST.json: what each file of a folder must be, so that damage is found before it is trained on.

A flipped bit in a weight file still loads as a number. The manifest names SHA-256 and size of every file beside it and
ends with the SHA-256 of itself, so that a flipped bit in the manifest is found too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from msposenet.errors import CheckpointError
from msposenet.storage import FileDigest, PathLike, open_input

MANIFEST_NAME = "MANIFEST.json"
FORMAT = "msposenet checkpoint"
VERSION = 1
_LARGEST = 1 << 16  # bytes; three files take about 600

_HEX = frozenset("0123456789abcdef")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """`step` is the training step, `serial` counts the saves of a run (a run may go back to an older step)."""

    step: int
    serial: int
    files: dict[str, FileDigest]


def manifest_bytes(manifest: Manifest) -> bytes:
    """The content of MANIFEST.json."""
    body = {
        "format": FORMAT,
        "version": VERSION,
        "step": manifest.step,
        "serial": manifest.serial,
        "files": {name: digest._asdict() for name, digest in manifest.files.items()},
    }
    return (json.dumps({**body, "sha256": _digest_of(body)}, indent=1) + "\n").encode("ascii")


def read_manifest(folder: PathLike) -> Manifest:
    """The manifest of a folder. Raises CheckpointError when it is missing, damaged or of a later version.

    Raises StorageError when the disk fails while it is read.
    """
    path = Path(folder) / MANIFEST_NAME
    body = _load(path)
    if body.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is not a manifest of msposenet (`format` is {body.get('format')!r:.80})")
    if body.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: is of version {body.get('version')!r:.80}, read is version {VERSION}: use a later msposenet"
        )
    if body.pop("sha256", None) != _digest_of(body):
        raise CheckpointError(f"{path}: is damaged (its own SHA-256 does not fit): use another checkpoint")
    files = body.get("files")
    if not (_is_count(body.get("step")) and _is_count(body.get("serial")) and isinstance(files, dict)):
        raise CheckpointError(
            f"{path}: `step`, `serial` or `files` is missing or not of its type: use another checkpoint"
        )
    return Manifest(body["step"], body["serial"], {name: _file_digest(path, name, files[name]) for name in files})


def check_size(path: Path, digest: FileDigest) -> None:
    """CheckpointError unless the file is there and as long as the manifest says."""
    with open_input(path, CheckpointError) as file:
        size = os.fstat(file.fileno()).st_size
    if size != digest.size:
        raise CheckpointError(f"{path}: is damaged: {size:,} bytes, it must be {digest.size:,}: use another checkpoint")


def _load(path: Path) -> dict[str, Any]:
    try:
        with open_input(path, CheckpointError) as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise CheckpointError(f"{path}: is over {_LARGEST} bytes, no manifest is: use another checkpoint")
        body = json.loads(data.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is damaged (no JSON: {error}): use another checkpoint") from error
    if not isinstance(body, dict):
        raise CheckpointError(f"{path}: is damaged (its root is no object): use another checkpoint")
    return body


def _digest_of(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode("ascii")).hexdigest()


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _file_digest(path: Path, name: str, entry: Any) -> FileDigest:
    sha256, size = (entry.get("sha256"), entry.get("size")) if isinstance(entry, dict) else (None, None)
    if not (isinstance(sha256, str) and len(sha256) == 64 and set(sha256) <= _HEX and _is_count(size)):
        raise CheckpointError(f"{path}: the entry of {name!r:.80} has no SHA-256 and size: use another checkpoint")
    return FileDigest(sha256, size)
