"""Folders of exports: made beside an earlier one, and put in its place whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from msposenet.errors import ConfigError
from msposenet.export.onnx_graph import to_onnx
from msposenet.inference.onnx_batches import require
from msposenet.runtime import mx
from msposenet.storage import (
    TEMP_PREFIX,
    make_folder,
    remove_quietly,
    storage_error,
    sync_folder,
    write_chunks_atomic,
)
from msposenet.symbols.fused import fuse
from msposenet.symbols.simplify import simplify
from msposenet.symbols.traced import Traced, trace
from msposenet.weights.params_file import params_chunks

FORMS = ("symbol", "onnx")
DESCRIPTIONS = ("deploy.json", "network.json")
_GRAPH = re.compile(r"(keypoints|heatmaps|network)(-[a-z0-9]+)*(-symbol\.json|-\d{4}\.params|\.onnx)")


def check_request(folder: Path, forms: Sequence[str]) -> None:
    """Refuse before the work what cannot end well.

    Raises ConfigError when the folder holds something else than an export, a form is unknown, or the packages for
    ONNX are not there.
    """
    for form in forms:
        if form not in FORMS:
            raise ConfigError(f"unknown format {form!r}; known: {', '.join(FORMS)}")
    if not forms:
        raise ConfigError(f"no format to export to; known: {', '.join(FORMS)}")
    if "onnx" in forms:
        require("onnx")
        require("onnxruntime")
    if folder.is_dir():
        foreign = sorted(path.name for path in folder.iterdir() if not _is_ours(path.name))
        if foreign:
            raise ConfigError(
                f"{folder}: is not empty and not an earlier export (it holds {foreign[0]}); choose another --out folder"
            )


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A temporary folder inside `folder`; when the block ends well its files take the place of an earlier export's.

    Whatever fails or is killed before leaves the earlier one. Raises StorageError when the disk refuses.
    """
    make_folder(folder)
    for path in folder.iterdir():
        if path.name.startswith(TEMP_PREFIX):  # of an export that was killed
            remove_quietly(path)
    staging = make_folder(folder / f"{TEMP_PREFIX}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield staging
        _publish(staging, folder)
    finally:
        remove_quietly(staging)


def _publish(staging: Path, folder: Path) -> None:
    """Without its description, which goes first and comes last, a folder is no export."""
    try:
        for name in DESCRIPTIONS:
            (folder / name).unlink(missing_ok=True)
        names = {path.name for path in staging.iterdir()}
        for path in folder.iterdir():
            if _GRAPH.fullmatch(path.name) and path.name not in names:
                path.unlink()
        for name in sorted(names, key=lambda name: (name in DESCRIPTIONS, name)):
            if name in DESCRIPTIONS:
                sync_folder(folder)
            os.replace(staging / name, folder / name)
        sync_folder(folder)
    except OSError as error:
        raise storage_error(folder, "written", error) from error


def _is_ours(name: str) -> bool:
    return name.startswith(TEMP_PREFIX) or name in DESCRIPTIONS or _GRAPH.fullmatch(name) is not None


class Files:
    """Writes graphs of inputs (N, *shape) in the forms asked for, and keeps their hashes."""

    def __init__(
        self, folder: Path, shape: tuple[int, int, int], dtype: str, forms: Sequence[str], fused: bool
    ) -> None:
        self._folder, self._shape, self._dtype, self._forms, self._fused = folder, shape, dtype, forms, fused
        self.sha256: dict[str, str] = {}

    def write(self, name: str, block, outputs: Sequence[str] | None = None) -> dict[str, str]:
        """Names of the files written for `block` by what they are: symbol, params, fused, onnx.

        outputs: names of its outputs in the ONNX graph; `name` when left out.
        """
        traced = simplify(trace(block))
        entry: dict[str, str] = {}
        if "symbol" in self._forms:
            entry.update(symbol=f"{name}-symbol.json", params=f"{name}-0000.params")
            self._put(entry["symbol"], [traced.symbol.tojson().encode()])
            self._put(entry["params"], params_chunks(_prefixed(traced)))
            if self._fused and mx.runtime.Features().is_enabled("MKLDNN"):
                entry["fused"] = f"{name}-fused-symbol.json"
                self._put(entry["fused"], [fuse(traced).symbol.tojson().encode()])
        if "onnx" in self._forms:
            entry["onnx"] = f"{name}.onnx"
            model = to_onnx(traced, self._shape, self._dtype, outputs or [name])
            self._put(entry["onnx"], [model.SerializeToString()])
        return entry

    def write_int8(self, name: str, traced: Traced) -> dict[str, str]:
        """The same for a graph that is quantised already: int8, int8_params."""
        entry = {"int8": f"{name}-int8-symbol.json", "int8_params": f"{name}-int8-0000.params"}
        self._put(entry["int8"], [traced.symbol.tojson().encode()])
        self._put(entry["int8_params"], params_chunks(_prefixed(traced)))
        return entry

    def _put(self, name: str, chunks) -> None:
        self.sha256[name] = write_chunks_atomic(self._folder / name, chunks).sha256


def _prefixed(traced: Traced) -> dict[str, np.ndarray]:
    """Names as `SymbolBlock.imports` and `load_checkpoint` want them: what kind of input each array is."""
    states = set(traced.symbol.list_auxiliary_states())
    return {f"{'aux' if name in states else 'arg'}:{name}": array for name, array in traced.arrays.items()}
