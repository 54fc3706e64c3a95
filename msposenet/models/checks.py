"""Construction options that networks share, checked in one place."""

from __future__ import annotations

from msposenet.errors import ConfigError


def check_count(name: str, value: object, lowest: int, highest: int) -> None:
    """ConfigError unless `value` is a whole number in the range."""
    if type(value) is not int or not lowest <= value <= highest:
        raise ConfigError(f"{name} must be a whole number from {lowest} to {highest}, found {value!r}")


def check_joints(num_joints: object) -> None:
    check_count("num_joints", num_joints, 1, 1000)
