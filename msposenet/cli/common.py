"""What several verbs share: printing figures, reading sizes."""

from __future__ import annotations

import json
import re
from typing import Any

import typer

from msposenet.errors import ConfigError

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


def parse_size(text: str) -> tuple[int, int]:
    """ "384x288" -> (384, 288): height and width in px."""
    match = _SIZE.fullmatch(text)
    if match is None or "0" in (match[1], match[2]):
        raise ConfigError(f"size {text!r}: write height x width in px, for example 384x288")
    height, width = int(match[1]), int(match[2])
    if height % 32 or width % 32:
        raise ConfigError(f"size {text!r}: height and width must be multiples of 32")
    return height, width


def print_json(figures: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    typer.echo(json.dumps(figures, allow_nan=False))
