"""Files that are either the old ones or the new ones, never something between.

A file is written beside its target, flushed to the disk and renamed over it; a rename is atomic, so a reader, a killed
process or a power cut finds a whole file. Without the flush of the file the rename may reach the disk before the
content does, and without the flush of the folder the rename itself may be lost. What the system refuses (full,
read-only, gone) becomes a StorageError that says what to do.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Union

from msposenet.errors import ConfigError, PoseError, StorageError

TEMP_PREFIX = ".tmp-"

PathLike = Union[str, "os.PathLike[str]"]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_STORAGE_REMEDIES = {
    errno.ENOSPC: "the disk is full: free space or choose another folder",
    errno.EDQUOT: "your disk quota is used up: free space or choose another folder",
    errno.EFBIG: "the file would exceed the allowed size: raise `ulimit -f` or choose another file system",
    errno.EROFS: "it is mounted read-only: choose another folder",
    errno.EACCES: "no permission: choose a folder that you may write to",
    errno.EPERM: "no permission: choose a folder that you may write to",
    errno.ENOENT: "its folder is missing: create it, or see who deleted it",
    errno.EIO: "the disk reports an error: see the system's log, choose another disk",
    errno.ESTALE: "the network file system lost it: mount it anew",
}
_NAME_REMEDIES = {
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another path",
    errno.EEXIST: "a file of that name exists where a folder is needed: choose another path",
    errno.EISDIR: "it is a folder: name a file",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.ELOOP: "its links go round in a circle: choose another path",
}


class FileDigest(NamedTuple):
    """What a file must be: SHA-256 in lower-case hex, size in bytes."""

    sha256: str
    size: int


def storage_error(path: PathLike, action: str, error: OSError) -> PoseError:
    """The error to raise for an OSError: StorageError, or ConfigError where the path itself can never work.

    `action` completes "cannot be ...", as in "written".
    """
    remedies, kind = (
        (_NAME_REMEDIES, ConfigError) if error.errno in _NAME_REMEDIES else (_STORAGE_REMEDIES, StorageError)
    )
    remedy = remedies.get(error.errno, "see that the disk is mounted and healthy")
    return kind(f"{os.fspath(path)}: cannot be {action} ({error.strerror or error}): {remedy}")


def is_disk_full(error: BaseException) -> bool:
    """Whether deleting something could make room: a full disk or quota stands behind this StorageError."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in _FULL


def sync_folder(folder: PathLike) -> None:
    """Flush the names in a folder (creations, renames, deletions) to the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot flush a folder; their renames are as safe as their server makes them.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def write_synced(path: PathLike, chunks: Iterable[Any]) -> FileDigest:
    """Write a new file from byte buffers, flush it to the disk and say what it must be. Not atomic. Raises OSError."""
    sha, size = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        for chunk in chunks:
            rest = memoryview(chunk)
            sha.update(rest)
            size += rest.nbytes
            while rest:  # one call writes at most 2 GiB, and less when the disk is about to be full
                rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return FileDigest(sha.hexdigest(), size)


def write_chunks_atomic(path: PathLike, chunks: Iterable[Any]) -> FileDigest:
    """Replace `path` by the concatenation of byte buffers, or leave it as it was.

    A symbolic link is written through. Raises StorageError when the disk refuses, ConfigError for a path that is not a
    file; no temporary file is left by either.
    """
    target = Path(os.path.realpath(path))
    temp = target.with_name(f"{TEMP_PREFIX}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        if target.exists() and not target.is_file():
            raise ConfigError(f"{path}: is a folder or a device: name a file")
        digest = write_synced(temp, chunks)
        os.replace(temp, target)
        sync_folder(target.parent)
    except BaseException as error:
        remove_quietly(temp)
        if isinstance(error, OSError):
            raise storage_error(path, "written", error) from error
        raise
    return digest


def write_bytes_atomic(path: PathLike, data: bytes) -> None:
    """Replace `path` by `data`, or leave it as it was. Raises as `write_chunks_atomic`."""
    write_chunks_atomic(path, [data])


def write_text_atomic(path: PathLike, text: str) -> None:
    """Replace `path` by `text` in UTF-8, or leave it as it was; what UTF-8 cannot hold is escaped with a backslash."""
    write_bytes_atomic(path, text.encode("utf-8", errors="backslashreplace"))


def write_json_atomic(path: PathLike, obj: Any) -> None:
    """Replace `path` by `obj` as JSON, or leave it as it was.

    Raises PoseError when `obj` holds NaN or an infinity (JSON has no word for them and readers differ), otherwise as
    `write_chunks_atomic`.
    """
    write_bytes_atomic(path, json_bytes(obj, path))


def json_bytes(obj: Any, path: PathLike) -> bytes:
    """JSON in ASCII with a newline; PoseError naming `path` and the item when a number is not finite."""
    try:
        return (json.dumps(obj, allow_nan=False) + "\n").encode("ascii")
    except ValueError as error:
        where = _first_not_finite(obj)
        if where is None:
            raise
        raise PoseError(
            f"{os.fspath(path)}: not written, since item {where} is not a finite number: JSON cannot hold it; "
            "find what made it, or leave it out"
        ) from error


def remove_quietly(path: PathLike) -> None:
    """Delete a file or a folder with all in it, as far as that works: for leftovers, which are tried again later."""
    shutil.rmtree(path, ignore_errors=True)
    try:
        os.unlink(path)
    except OSError:
        return


def file_name(title: str) -> str:
    """`title` as part of a file's name: letters, digits, dots and dashes stay, everything else becomes "_"."""
    return re.sub(r"[^\w.-]+", "_", title).strip(".") or "_"


def make_folder(folder: PathLike) -> Path:
    """The folder, created with its parents where missing. Raises StorageError or ConfigError."""
    folder = Path(folder)
    try:
        missing = [level for level in (folder, *folder.parents) if not level.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for level in missing:
            sync_folder(level.parent)
    except OSError as error:
        raise storage_error(folder, "created", error) from error
    return folder


def probe_writable(folder: PathLike, bytes_needed: int) -> None:
    """See, before the work starts, that files can be written to `folder` and that `bytes_needed` fit.

    Creates the folder and its parents. Raises StorageError (read-only, no permission, too little room) or ConfigError
    (the path runs through a file).
    """
    folder = make_folder(folder)
    probe = folder / f"{TEMP_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        write_synced(probe, [bytes(4096)])
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise storage_error(folder, "written to", error) from error
    finally:
        remove_quietly(probe)
    if free < bytes_needed:
        raise StorageError(
            f"{folder}: {free / 1e6:,.1f} MB are free, {bytes_needed / 1e6:,.1f} MB will be needed: free space, choose "
            "another folder or keep fewer checkpoints"
        )


@contextlib.contextmanager
def open_input(path: PathLike, kind: type[PoseError]) -> Iterator[BinaryIO]:
    """Open a file that a user named, for reading bytes.

    Raises `kind` when there is no such file, it may not be read or is no file, StorageError when the disk fails, also
    while the block reads on.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # opening a named pipe would wait for ever
            raise kind(f"{path}: is a folder or a device: name a file")
        with open(path, "rb") as file:
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise kind(f"{path}: no such file: see the path") from None
    except PermissionError as error:
        raise kind(f"{path}: may not be read: see its permissions") from error
    except OSError as error:
        if error.errno in _NAME_REMEDIES:
            raise kind(f"{path}: {_NAME_REMEDIES[error.errno]}") from error
        raise storage_error(path, "read", error) from error


def _first_not_finite(obj: Any, where: str = "") -> str | None:
    """Where in nested lists and dicts the first NaN or infinity stands, as in `epochs[3].loss`."""
    if isinstance(obj, float):
        return None if math.isfinite(obj) else f"`{where.lstrip('.')}` = {obj!r}"
    if isinstance(obj, dict):
        inner = ((f"{where}.{key}", value) for key, value in obj.items())
    elif isinstance(obj, (list, tuple)):
        inner = ((f"{where}[{index}]", value) for index, value in enumerate(obj))
    else:
        return None
    return next((found for path, value in inner if (found := _first_not_finite(value, path)) is not None), None)
