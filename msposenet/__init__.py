"""Human-pose estimation on MXNet/Gluon after the Multi-Stage HRNet report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["People", "Predictor", "get_model", "list_models"]

if TYPE_CHECKING:
    from msposenet.inference.people import People
    from msposenet.inference.predictor import Predictor
    from msposenet.models.zoo import get_model, list_models

_HOME = {
    "People": "msposenet.inference.people",
    "Predictor": "msposenet.inference.predictor",
    "get_model": "msposenet.models.zoo",
    "list_models": "msposenet.models.zoo",
}


def __getattr__(name: str) -> Any:
    """Names are imported when first asked for: MXNet takes over a second to load, and `--help` needs none of it."""
    if name not in _HOME:
        raise AttributeError(f"module 'msposenet' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
