"""A pack of the synthetic people, made once for all tests."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

from people_set import tiny_config

from msposenet.data.merging import read_training
from msposenet.data.packing import write_pack

SHARDS = 5


@cache
def shared_pack() -> Path:
    """The pack's folder. Copy it before changing anything."""
    folder = Path(tempfile.mkdtemp(prefix="msposenet-test-")) / "pack"
    config = tiny_config()
    write_pack(read_training(config), config, folder, shards=SHARDS, workers=0)
    return folder


def copied_pack(folder: Path) -> Path:
    """A copy of it in `folder`."""
    return Path(shutil.copytree(shared_pack(), folder / "pack"))


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
