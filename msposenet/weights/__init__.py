"""Weights from elsewhere: official names, arrays in and out of a network, safe `.params` files.

Names are imported when first asked for: reading a `.params` file needs no MXNet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from msposenet.weights.arrays import get_arrays, set_arrays
    from msposenet.weights.importing import import_weights
    from msposenet.weights.official import load_torch_state_dict

__all__ = ["get_arrays", "import_weights", "load_torch_state_dict", "set_arrays"]

_HOME = {
    "get_arrays": "arrays",
    "set_arrays": "arrays",
    "import_weights": "importing",
    "load_torch_state_dict": "official",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'msposenet.weights' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"msposenet.weights.{_HOME[name]}"), name)
