"""`--set section.key=value`: nested mappings changed by texts, before they are validated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from msposenet.errors import ConfigError


def override(content: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Nested mappings changed by texts such as "train.base_lr=1e-4"; ConfigError for one that is none."""
    for text in overrides:
        content = _override(content, text)
    return content


def _override(content: dict, text: str) -> dict:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {text}: write section.key=value, for example train.base_lr=1e-4")
    try:
        parsed = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"--set {text}: the value is not YAML") from None
    if isinstance(parsed, str):
        parsed = _number(parsed)
    content = dict(content)
    section = content
    *parents, last = key.split(".")
    for parent, following in zip(parents, [*parents[1:], last]):
        child = _entry(section, parent, text)
        if isinstance(child, dict) and child and following == "0" and "0" not in child:
            child = [child]  # one set, written without the list
        elif isinstance(child, list) and len(child) == 1 and isinstance(child[0], dict) and following != "0":
            child = child[0]  # the only one needs no number
        if child is not None and not isinstance(child, (dict, list)):
            raise ConfigError(f"--set {text}: {parent} is a value, not a section")
        copied = list(child) if isinstance(child, list) else dict(child or {})
        section[_key(section, parent)] = copied
        section = copied
    _entry(section, last, text)
    section[_key(section, last)] = parsed
    return content


def _key(section: dict | list, name: str) -> str | int:
    return int(name) if isinstance(section, list) else name


def _entry(section: dict | list, name: str, text: str) -> Any:
    """What `name` holds: a key of a section, a number from 0 in a list."""
    if isinstance(section, dict):
        return section.get(name)
    if not (name.isascii() and name.isdigit()) or int(name) >= len(section):
        raise ConfigError(
            f"--set {text}: {name!r} stands where a list has {len(section)} entries; give its number, from 0"
        )
    return section[int(name)]


def _number(text: str) -> str | float:
    """YAML 1.1 reads 1e-4 as text; people mean the number."""
    try:
        return float(text)
    except ValueError:
        return text
