"""Published weights on this machine: `~/.mxnet/models`, as MXNet and gluoncv use it, with every hash checked.

    fetch("hrnet_w32_coco_256x192_mmpose")  ->  ~/.mxnet/models/td-hm_hrnet-w32_8xb64-210e_coco-256x192-81c58e40_....pth

A file is where its publisher puts it, unless the user says otherwise: MSPOSENET_MIRROR=URL stands for a folder that
holds all files under their published names, and `urls.yaml` in the cache's folder says it file by file:

    hrnet_w32_coco_256x192: {url: "https://example.org/pose_hrnet_w32_256x192.pth", sha256: 0123456789abcdef}
    hrnet_w48_coco_256x192: "file:///FOLDER/pose_hrnet_w48_256x192.pth"
"""

from __future__ import annotations

import hashlib
import http.client
import os
import secrets
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import yaml

from msposenet.errors import CheckpointError, ConfigError
from msposenet.progress import Advance, Reporter
from msposenet.storage import (
    TEMP_PREFIX,
    make_folder,
    open_input,
    remove_quietly,
    storage_error,
    sync_folder,
    write_synced,
)
from msposenet.weights.published import Published, find_published

MIRROR_VARIABLE = "MSPOSENET_MIRROR"
URLS_NAME = "urls.yaml"

_TIMEOUT = 60.0  # seconds without a byte
_BLOCK = 1 << 20
_LARGEST = 4 << 30  # the largest published file has 0.5 GB
_SCHEMES = ("http", "https", "file")
_HTML = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")


class _Origin(NamedTuple):
    url: str
    sha256: str | None


def cache_folder() -> Path:
    """Where weights are kept: `models` in MXNET_HOME, by default ~/.mxnet. It need not exist."""
    home = os.environ.get("MXNET_HOME") or Path("~/.mxnet").expanduser()
    return Path(home) / "models"


def fetch(tag: str, reporter: Reporter | None = None) -> Path:
    """The published file of a tag in the cache, downloaded if it is not there. Its hash is checked in both cases.

    Raises ConfigError for an unknown tag or a wrong urls.yaml; CheckpointError for a file that is another than the
    published one, for a page that hands the file out through a browser only, and when the download fails; StorageError
    when the disk refuses.
    """
    row = find_published(tag)
    origin = _origin(row)
    sha256 = (origin.sha256 if origin else None) or row.sha256
    path = cache_folder() / row.file
    if path.exists():
        _check(path, path, sha256, row.sha1, f"delete it and ask for {tag} again")
        return path
    if origin is None:
        raise CheckpointError(
            f"{tag}: {row.file} is handed out through a browser only: get it from {row.source} and save it as {path}, "
            f"or name a mirror of yours in {path.with_name(URLS_NAME)}"
        )
    _download(row, origin, path, sha256, reporter or Reporter())
    return path


def find_file(name: str | os.PathLike, reporter: Reporter | None = None) -> Path:
    """The file, run or checkpoint folder of that path, or else the published file of that tag. Raises as `fetch`."""
    path = Path(name)
    is_path = path.exists() or path.suffix or len(path.parts) > 1
    return path if is_path else fetch(str(name), reporter)


# From where


def _origin(row: Published) -> _Origin | None:
    """The user's own place for a file, before the publisher's."""
    entry = _user_urls().get(row.tag)
    if entry is not None:
        return entry
    mirror = os.environ.get(MIRROR_VARIABLE)
    if mirror:
        return _Origin(_checked_url(f"{mirror.rstrip('/')}/{urllib.parse.quote(row.file)}", MIRROR_VARIABLE), None)
    return _Origin(row.url, None) if row.url else None


def _user_urls() -> dict[str, _Origin]:
    path = cache_folder() / URLS_NAME
    if not path.exists():
        return {}
    with open_input(path, ConfigError) as file:
        text = file.read(_BLOCK)
    try:
        content = yaml.safe_load(text.decode("utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is no YAML ({type(error).__name__}): correct it") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: is no mapping of tags to URLs")
    return {find_published(str(tag)).tag: _entry(path, tag, entry) for tag, entry in content.items()}


def _entry(path: Path, tag: str, entry: object) -> _Origin:
    url, sha256 = (entry.get("url"), entry.get("sha256")) if isinstance(entry, dict) else (entry, None)
    if isinstance(entry, dict) and set(entry) - {"url", "sha256"}:
        raise ConfigError(f"{path}: {tag} has more than `url` and `sha256`")
    if sha256 is not None and not (isinstance(sha256, str) and 8 <= len(sha256) <= 64 and _is_hex(sha256)):
        raise ConfigError(f"{path}: the sha256 of {tag} is {sha256!r:.80}: write 8 to 64 hexadecimal digits in quotes")
    return _Origin(_checked_url(url, f"{path}: {tag}"), sha256)


def _is_hex(text: str) -> bool:
    return set(text.lower()) <= set("0123456789abcdef")


def _checked_url(url: object, item: str) -> str:
    if not isinstance(url, str) or urllib.parse.urlsplit(url).scheme not in _SCHEMES:
        raise ConfigError(f"{item}: {url!r:.200} is no URL; write one that begins with {', '.join(_SCHEMES)}")
    return url


# Over the network


def _download(row: Published, origin: _Origin, path: Path, sha256: str | None, reporter: Reporter) -> None:
    temp = make_folder(path.parent) / f"{TEMP_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    unpacked = temp.with_name(f"{temp.name}-inner")
    reporter.say(f"{row.tag}: {origin.url} -> {path}")
    try:
        with reporter.task(f"{row.file}, MB") as advance:
            _write(temp, _body(origin.url, advance))
        if urllib.parse.urlsplit(origin.url).path.endswith(".zip") and not row.file.endswith(".zip"):
            _write(unpacked, _member(temp, row.file, origin.url))
            _move(unpacked, temp)
        _check(temp, origin.url, sha256, row.sha1, "fetch it from another place")
        if not (sha256 or row.sha1):
            with open_input(temp, CheckpointError) as file:
                reporter.warn(
                    f"{row.file}: no hash is published to check it by; its SHA-256 is {_digest(file, 'sha256')}"
                )
        _move(temp, path)
    finally:
        remove_quietly(temp)
        remove_quietly(unpacked)


def _body(url: str, advance: Advance) -> Iterator[bytes]:
    """What a server sends, block by block; whatever goes wrong becomes CheckpointError."""
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "msposenet"})
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            said = answer.headers.get("Content-Length", "")
            total = int(said) if said.isascii() and said.isdigit() else None
            done = 0
            for block in iter(lambda: answer.read(_BLOCK), b""):
                if done == 0 and block.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_HTML):
                    raise CheckpointError(
                        f"{url}: the server answers with a web page, perhaps to log in: fetch it with a browser"
                    )
                done += len(block)
                if done > _LARGEST:
                    raise CheckpointError(f"{url}: has over {_LARGEST:,} bytes, no published file has: see the URL")
                yield block
                advance(done >> 20, (total or done) >> 20)
    except urllib.error.HTTPError as error:
        raise CheckpointError(
            f"{url}: the server answers {error.code} {error.reason}: see whether the file has moved, or name another "
            f"place in {MIRROR_VARIABLE} or {URLS_NAME}"
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError, time-outs and TLS are OSErrors
        reason = getattr(error, "reason", None) or error
        raise CheckpointError(f"{url}: cannot be fetched ({reason}): see the network, or try again later") from error
    if done == 0 or (total is not None and done != total):
        raise CheckpointError(f"{url}: {done:,} of {total or 0:,} bytes came before the connection was cut: try again")


def _member(archive: Path, name: str, url: str) -> Iterator[bytes]:
    """The one member of a zip archive that is wanted: gluoncv hands out its files so."""
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(name) as member:
            done = 0
            for block in iter(lambda: member.read(_BLOCK), b""):
                done += len(block)
                if done > _LARGEST:
                    raise CheckpointError(f"{url}: {name} unpacks to over {_LARGEST:,} bytes: see the URL")
                yield block
    except (zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{url}: is no zip archive with {name} in it ({error}): see the URL") from error


def _write(path: Path, blocks: Iterator[bytes]) -> None:
    try:
        write_synced(path, blocks)
    except OSError as error:
        raise storage_error(path, "written", error) from error


def _move(temp: Path, path: Path) -> None:
    try:
        os.replace(temp, path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, "written", error) from error


def _check(path: Path, named: object, sha256: str | None, sha1: str | None, remedy: str) -> None:
    """CheckpointError unless the file's hashes begin with those published."""
    for kind, wanted in (("sha256", sha256), ("sha1", sha1)):
        if wanted is None:
            continue
        with open_input(path, CheckpointError) as file:
            found = _digest(file, kind)
        if not found.startswith(wanted.lower()):
            raise CheckpointError(
                f"{named}: is not the published file: its {kind.upper()} is {found[:16]}..., it must begin with "
                f"{wanted[:16]}; {remedy}"
            )


def _digest(file: BinaryIO, kind: str) -> str:
    digest = hashlib.new(kind)
    for block in iter(lambda: file.read(_BLOCK), b""):
        digest.update(block)
    return digest.hexdigest()
