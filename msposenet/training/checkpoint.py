"""Checkpoints that survive kill -9, a full disk and flipped bits.

    checkpoints/
        step_00012000/      model.params  optimizer.params  state.json  MANIFEST.json
        LAST                "step_00012000": where to go on
        BEST                the same for the best model so far

How a save goes, and why a kill at any instant loses at most the save it interrupts:

1. The four files are written to a folder `.tmp-...`, each is flushed to the disk, then the folder is. A kill leaves
   a `.tmp-...`, which no reader looks at and the next save removes.
2. The folder is renamed to `step_...`. A rename is atomic, so whatever is called `step_...` is whole.
3. LAST is written to a temporary file and renamed over the old one. A kill before it leaves LAST at the checkpoint
   before: one interval is trained again.
4. Only now the oldest are deleted, each renamed to `.tmp-...` first: a kill amid the deletion leaves no half folder
   under a name that is read.

A step that is saved again cannot replace its folder in one rename. The old folder is moved to `.replaced-step_...`,
the new one takes its name, the old one is deleted. A kill between the two renames leaves the old folder as the step's
only one: loading takes it, and the next save gives it its name back.

"Newest" means saved last, not the highest step, since a run may go back to an older step and save from there; the
manifests count the saves. LAST goes before both, so that writing another step into it by hand goes back to that step.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, TypeVar

import numpy as np

from msposenet.errors import CheckpointError, ConfigError, DivergedError, PoseError, StorageError
from msposenet.storage import (
    TEMP_PREFIX,
    PathLike,
    is_disk_full,
    json_bytes,
    make_folder,
    open_input,
    remove_quietly,
    storage_error,
    sync_folder,
    write_text_atomic,
)
from msposenet.training.checkpoint_folder import (
    REPLACED_PREFIX,
    STATE,
    Checkpoint,
    folder_name,
    is_folder_name,
    name_behind,
    read_folder,
    step_of,
    write_folder,
)
from msposenet.weights.manifest import read_manifest

__all__ = ["Checkpoint", "checkpoint_steps", "fingerprint", "load_checkpoint", "mark_best", "save_checkpoint"]

_LAST, _BEST = "LAST", "BEST"

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


def save_checkpoint(
    root: PathLike,
    step: int,
    *,
    params: Mapping[str, np.ndarray],
    optimizer: Mapping[str, np.ndarray],
    state: dict[str, Any],
    keep: int = 3,
    best: bool = False,
) -> Path:
    """Write the checkpoint of a step, point LAST (and with `best` BEST) to it, delete all but the last `keep`.

    `params` and `optimizer` are arrays as `.params` holds them, `state` is anything JSON holds. One process per `root`
    saves. On a full disk the older checkpoints but the newest and the best are deleted and the save is tried once more.

    Raises DivergedError when an array is not finite, StorageError when the disk refuses; the checkpoints that were
    there stay valid, and no temporary folder is left.
    """
    root, step = Path(root), int(step)
    if keep < 1 or step < 0:
        raise ConfigError(f"{root}: step {step}, keep {keep}: steps count from 0, at least 1 checkpoint is kept")
    for group in (params, optimizer):
        _refuse_not_finite(root, step, group)
    state_json = json_bytes(state, root / folder_name(step) / STATE)
    make_folder(root)
    _tidy(root)
    serial = 1 + max((serial for serial, _ in _saved_order(root)), default=0)
    temp = _with_room(root, lambda: write_folder(root, step, serial, params, optimizer, state_json))
    folder = _swap_in(root, temp, folder_name(step))
    _with_room(root, lambda: write_text_atomic(root / _LAST, f"{folder.name}\n"))
    if best:
        _with_room(root, lambda: mark_best(root, step))
    _prune(root, keep)
    return folder


def mark_best(root: PathLike, step: int) -> None:
    """Point BEST to the checkpoint of a step, which then is never deleted. CheckpointError when it is missing."""
    folder = Path(root) / folder_name(step)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such checkpoint to call the best: save the step first")
    write_text_atomic(Path(root) / _BEST, f"{folder.name}\n")


def load_checkpoint(
    root: PathLike, which: str | int = "last", *, say: Callable[[str], None] = _LOG.warning
) -> Checkpoint:
    """The checkpoint that LAST or BEST names, or that of a step, verified against its manifest.

    "last" goes back, from what LAST names, to the newest valid one and tells `say` what it passed over and why; "best"
    and a step are loaded or refused. Raises CheckpointError when there is no valid one.
    """
    root = Path(root)
    if which == "last":
        return _load_last(root, say)
    if which == "best":
        name = _read_pointer(root, _BEST)
        if name is None:
            raise CheckpointError(f"{root / _BEST}: names no checkpoint as the best{_there_is(root)}")
    elif isinstance(which, (int, np.integer)):
        name = folder_name(int(which))
    else:
        raise ConfigError(f"{root}: no checkpoint is called {which!r}: say `last`, `best` or a step")
    folder = _folders(root).get(name)
    if folder is None:
        raise CheckpointError(f"{root / name}: no such checkpoint{_there_is(root)}")
    return read_folder(folder)


def checkpoint_steps(root: PathLike) -> list[int]:
    """The steps whose checkpoints are in `root`, rising; whether they are valid shows when they are loaded."""
    return sorted(step_of(name) for name in _folders(Path(root)))


def fingerprint(arrays: Checkpoint | Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names: equal exactly when all bits are.

    Of a checkpoint: its parameters and optimizer state, not its `state`.
    """
    if isinstance(arrays, Checkpoint):
        parts = (("params", arrays.params), ("optimizer", arrays.optimizer))
        arrays = {f"{part}/{name}": array for part, group in parts for name, array in group.items()}
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        header = json.dumps([name, little.dtype.str, array.shape]).encode("ascii")
        # The length before the header keeps a name from passing for the values of the array before it.
        sha.update(len(header).to_bytes(8, "little") + header)
        if little.size:
            sha.update(memoryview(little.reshape(-1).view(np.uint8)))
    return sha.hexdigest()


def _swap_in(root: Path, temp: Path, name: str) -> Path:
    """Give a complete folder its name, also when the name is taken; returns its path."""
    folder, replaced = root / name, root / f"{REPLACED_PREFIX}{name}"
    try:
        if folder.exists():
            os.rename(folder, replaced)
        os.rename(temp, folder)
        sync_folder(root)
    except OSError as error:
        if not folder.exists():
            with contextlib.suppress(OSError):  # where this fails too, the next save does it
                os.rename(replaced, folder)
        remove_quietly(temp)
        raise storage_error(folder, "written", error) from error
    _delete(root, replaced)
    return folder


def _with_room(root: Path, write: Callable[[], _T]) -> _T:
    """Run `write`; when the disk is full, delete what can be spared and run it once more."""
    try:
        return write()
    except StorageError as error:
        if not is_disk_full(error):
            raise
        warnings.warn(f"{error}; older checkpoints are deleted and the save is tried once more", stacklevel=3)
    _prune(root, keep=1, verify=True)
    return write()


def _prune(root: Path, keep: int, verify: bool = False) -> None:
    """Delete all checkpoints but the `keep` saved last, the best and what LAST names.

    A folder whose manifest cannot be read is left: nobody knows what it is. With `verify` only valid ones count.
    """
    spared = {pointer: _read_pointer(root, pointer) for pointer in (_LAST, _BEST)}
    for pointer, name in spared.items():
        if name is None and (root / pointer).exists():
            warnings.warn(f"{root / pointer}: names no checkpoint, so none is deleted: delete that file", stacklevel=3)
            return
    kept = 0
    for _, folder in _saved_order(root):
        if kept < keep:
            kept += not verify or _is_valid(folder)
        elif folder.name not in spared.values():
            _delete(root, folder)


def _is_valid(folder: Path) -> bool:
    try:
        read_folder(folder)
    except PoseError:
        return False
    return True


def _delete(root: Path, folder: Path) -> None:
    if not folder.exists():
        return
    doomed = root / f"{TEMP_PREFIX}deleted-{folder.name}-{secrets.token_hex(4)}"
    try:
        os.rename(folder, doomed)
    except OSError as error:
        # The new checkpoint is safe by now; a run does not end over an old one that cannot go.
        warnings.warn(f"{folder}: cannot be deleted ({error.strerror}), it stays", stacklevel=3)
    remove_quietly(doomed)


def _tidy(root: Path) -> None:
    """Remove what a killed save left, and finish the exchange that it began."""
    try:
        for path in list(root.iterdir()):
            if path.name.startswith(TEMP_PREFIX):
                remove_quietly(path)
        for name, folder in _folders(root).items():
            if folder.name != name:
                os.rename(folder, root / name)
            _delete(root, root / f"{REPLACED_PREFIX}{name}")
    except OSError as error:
        raise storage_error(root, "tidied", error) from error


def _load_last(root: Path, say: Callable[[str], None]) -> Checkpoint:
    folders = _folders(root)
    pointed = _read_pointer(root, _LAST)
    if pointed not in folders and (root / _LAST).exists():
        say(f"{root / _LAST}: names {'no checkpoint' if pointed is None else pointed + ', which is gone'}")
    newest_first = [folder for _, folder in _saved_order(root)]
    newest_first += [folder for folder in folders.values() if folder not in newest_first]
    refusals = []
    for folder in sorted(newest_first, key=lambda folder: folder != folders.get(pointed)):
        try:
            checkpoint = read_folder(folder)
        except PoseError as error:
            say(f"passed over: {error}")
            refusals.append(str(error))
            continue
        if name_behind(folder.name) != pointed:
            say(f"{folder}: is the newest valid checkpoint, going on from step {checkpoint.step}")
        return checkpoint
    if not refusals:
        raise CheckpointError(f"{root}: holds no checkpoint: see the path, or start a new run")
    raise CheckpointError(
        f"{root}: none of {len(refusals)} checkpoints is valid, start a new run or from other weights: "
        f"{'; '.join(refusals[:5])}{'; ...' if refusals[5:] else ''}"
    )


def _refuse_not_finite(root: Path, step: int, arrays: Mapping[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DivergedError(
                f"{root}: step {step} is not saved, since array {name!r} holds NaN or infinite values: resume from the "
                "last checkpoint with a lower learning rate"
            )


def _saved_order(root: Path) -> list[tuple[int, Path]]:
    """Serial numbers and folders of the checkpoints whose manifests can be read, the one saved last first."""
    found = []
    for folder in _folders(root).values():
        with contextlib.suppress(PoseError):
            found.append((read_manifest(folder).serial, folder))
    return sorted(found, reverse=True)


def _folders(root: Path) -> dict[str, Path]:
    """The folder of each checkpoint by name: `step_...`, or `.replaced-step_...` where only that is left."""
    try:
        present = {path.name for path in root.iterdir() if path.is_dir()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise storage_error(root, "listed", error) from error
    names = sorted({name for name in map(name_behind, present) if is_folder_name(name)}, key=step_of)
    return {name: root / (name if name in present else f"{REPLACED_PREFIX}{name}") for name in names}


def _read_pointer(root: Path, pointer: str) -> str | None:
    """The folder name that LAST or BEST holds; None when it is missing or holds something else."""
    try:
        with open_input(root / pointer, CheckpointError) as file:
            name = file.read(100).decode("ascii").strip()
    except (PoseError, UnicodeDecodeError):
        return None
    return name if is_folder_name(name) else None


def _there_is(root: Path) -> str:
    steps = checkpoint_steps(root)
    return f": there are the steps {', '.join(map(str, steps[-5:]))}" if steps else ": the folder holds none"
