"""One checkpoint: a folder of four files, written whole and flushed, read only when every byte is what it was.

Nothing is ever unpickled: weights and optimizer state are `.params` files, all else is JSON.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from msposenet.errors import CheckpointError
from msposenet.storage import (
    TEMP_PREFIX,
    FileDigest,
    open_input,
    remove_quietly,
    storage_error,
    sync_folder,
    write_synced,
)
from msposenet.weights.manifest import MANIFEST_NAME, Manifest, check_size, manifest_bytes, read_manifest
from msposenet.weights.params_file import params_chunks, read_params

MODEL, OPTIMIZER, STATE = "model.params", "optimizer.params", "state.json"
REPLACED_PREFIX = ".replaced-"
_NAME = re.compile(r"step_([0-9]{8,})")


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """A verified checkpoint: arrays by name, `state` as it was given to `save_checkpoint`."""

    path: Path
    step: int
    params: dict[str, np.ndarray]
    optimizer: dict[str, np.ndarray]
    state: dict[str, Any]


def folder_name(step: int) -> str:
    """12000 -> "step_00012000"."""
    return f"step_{step:08d}"


def step_of(name: str) -> int:
    """The inverse of `folder_name`."""
    return int(name[len("step_") :])


def is_folder_name(name: str) -> bool:
    """Whether `folder_name` gives this name for some step."""
    return _NAME.fullmatch(name) is not None and folder_name(step_of(name)) == name


def name_behind(name: str) -> str:
    """The checkpoint that a folder holds: its own name, or the one it had before it was replaced."""
    return name[len(REPLACED_PREFIX) :] if name.startswith(REPLACED_PREFIX) else name


def write_folder(
    root: Path,
    step: int,
    serial: int,
    params: Mapping[str, np.ndarray],
    optimizer: Mapping[str, np.ndarray],
    state_json: bytes,
) -> Path:
    """Write all four files to a temporary folder in `root`, flushed to the disk; returns its path.

    Raises StorageError when the disk refuses and leaves no folder then.
    """
    temp = root / f"{TEMP_PREFIX}{folder_name(step)}-{os.getpid()}-{secrets.token_hex(4)}"
    contents = {MODEL: params_chunks(params), OPTIMIZER: params_chunks(optimizer), STATE: [state_json]}
    try:
        temp.mkdir()
        digests = {name: write_synced(temp / name, chunks) for name, chunks in contents.items()}
        write_synced(temp / MANIFEST_NAME, [manifest_bytes(Manifest(step, serial, digests))])
        sync_folder(temp)
    except BaseException as error:
        remove_quietly(temp)
        if isinstance(error, OSError):
            raise storage_error(root / folder_name(step), "written", error) from error
        raise
    return temp


def read_folder(folder: Path) -> Checkpoint:
    """The checkpoint in a folder. Raises CheckpointError unless every file is what the manifest says."""
    manifest = read_manifest(folder)
    if manifest.step != step_of(name_behind(folder.name)):
        raise CheckpointError(
            f"{folder}: its manifest is of step {manifest.step}, the folder was renamed: name it back"
        )
    if set(manifest.files) != {MODEL, OPTIMIZER, STATE}:
        raise CheckpointError(f"{folder / MANIFEST_NAME}: lists {sorted(manifest.files)}: use another checkpoint")
    for name, digest in manifest.files.items():
        check_size(folder / name, digest)
    return Checkpoint(
        path=folder,
        step=manifest.step,
        params=read_params(folder / MODEL, sha256=manifest.files[MODEL].sha256),
        optimizer=read_params(folder / OPTIMIZER, sha256=manifest.files[OPTIMIZER].sha256),
        state=_read_state(folder / STATE, manifest.files[STATE]),
    )


def _read_state(path: Path, digest: FileDigest) -> dict[str, Any]:
    with open_input(path, CheckpointError) as file:
        data = file.read(digest.size)
    if hashlib.sha256(data).hexdigest() != digest.sha256:
        raise CheckpointError(f"{path}: is damaged: its SHA-256 is not the manifest's: use another checkpoint")
    try:
        state = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is no JSON ({error}): use another checkpoint") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: its root is no object: use another checkpoint")
    return state
