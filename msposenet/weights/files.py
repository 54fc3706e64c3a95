"""Weights from a `.params` file, a checkpoint folder or a run directory into a network."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from msposenet.errors import CheckpointError
from msposenet.weights.arrays import Filled, set_arrays
from msposenet.weights.importing import is_torch_file, load_foreign, read_named
from msposenet.weights.naming import CLASSIFICATION_HEAD, FOREIGN, layout_of, to_official
from msposenet.weights.params_file import read_params

_MODEL = "model.params"


def find_weights(path: Path) -> Path:
    """The `.params` file meant by `path`: itself, a checkpoint's, or the best (else the last) of a run."""
    if path.is_file():
        return path
    candidates = [path / _MODEL]
    for root in (path / "checkpoints", path):
        for pointer in ("BEST", "LAST"):
            if (root / pointer).is_file():
                name = os.path.basename((root / pointer).read_text(encoding="utf-8", errors="replace").strip())
                # While a step is saved again, a kill may leave its old folder under this other name.
                candidates += [root / name / _MODEL, root / f".replaced-{name}" / _MODEL]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise CheckpointError(f"{path}: holds no weights; name a .params file, a checkpoint or a run directory")


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Arrays by parameter name of `find_weights(path)`; `arg:` and `aux:` prefixes of exported files are taken off."""
    arrays = read_params(find_weights(path))
    return {name.split(":", 1)[-1]: array for name, array in arrays.items()}


def load_weights(net, path: Path, drop_head: bool = False) -> Filled:
    """Fill `net` from `path`, which may be another program's file too (see importing).

    Raises CheckpointError when the file is damaged or another model's.
    """
    file = find_weights(path)
    if is_torch_file(file):
        return load_foreign(net, read_named(file), str(file), drop_head)
    arrays = read_weights(file)
    starts_from_classes = drop_head and any(map(CLASSIFICATION_HEAD.holds, arrays))
    if layout_of(arrays).title in FOREIGN or starts_from_classes:
        return load_foreign(net, to_official(arrays, str(file)), str(file), drop_head)
    return set_arrays(net, arrays, str(file), drop_head)
