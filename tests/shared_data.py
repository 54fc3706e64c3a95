"""Where tests find golden numbers and sample pictures: the folder `shared` beside the project, or MSPOSENET_SHARED."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

SHARED = Path(os.environ.get("MSPOSENET_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def golden(name: str) -> Path:
    """Path of a golden file; skips the test when the folder is absent."""
    return _existing(SHARED / "golden" / name)


def sample(name: str) -> Path:
    """Path of a sample data file or folder; skips the test when the folder is absent."""
    return _existing(SHARED / "data" / name)


def load_golden(name: str) -> dict[str, np.ndarray]:
    """All arrays of a golden .npz file."""
    with np.load(golden(name), allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def _existing(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"shared data absent: {path.relative_to(SHARED)}", allow_module_level=True)
    return path
