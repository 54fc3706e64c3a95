"""A network by name, filled: from a file, a run, a checkpoint, or a tag of published weights."""

from __future__ import annotations

import os
import warnings
from typing import Any

from msposenet.errors import ConfigError
from msposenet.models.zoo import get_model, model_info
from msposenet.weights.cache import find_file
from msposenet.weights.files import find_weights
from msposenet.weights.importing import fill, read_named
from msposenet.weights.published import tags_for
from msposenet.weights.recognise import recognise

_JOINTS = 17  # of a new head when neither the caller nor the file says how many


def pretrained_model(
    name: str,
    source: str | os.PathLike | bool,
    num_joints: int | None = None,
    head: str | None = None,
    options: dict[str, Any] | None = None,
):
    """The network `name` with the weights of `source`, float32 on the CPU.

    source: path of a `.pth`, `.safetensors` or `.params` file, a run or a checkpoint; a tag of published.py, whose file
    is fetched once; or True for the only published file of that network. Joints, head and
    construction options that are not given are the file's. A head that the file does not have, or has for other joints,
    is initialised afresh, with a warning that names it: it wants training.

    Raises ConfigError for an unknown or ambiguous name, CheckpointError for a damaged file or another network's.
    """
    tag = _only_tag(name) if source is True else str(source)
    path = find_weights(find_file(tag))
    named = read_named(path)
    found = recognise(named.arrays, str(path), named.layout)
    maps = (found.num_joints or 0) * (3 if found.head == "offset" else 1)
    if found.family == "hrnet" and num_joints and maps in (num_joints, 3 * num_joints):
        # Maps may be joints or a third of them may; the caller knows.
        found = recognise(named.arrays, str(path), named.layout, num_joints)
    same_family = found.family == model_info(name).family
    built = dict(found.options) if same_family and found.model == name else {}
    net = get_model(
        name,
        num_joints or found.num_joints or _JOINTS,
        head or (found.head if same_family else None),
        **{**built, **(options or {})},
    )
    filled, _ = fill(net, named, found, str(path), drop_head=True)
    if filled.reinitialised:
        warnings.warn(f"{path}: {filled.line()}", stacklevel=3)
    return net


def _only_tag(name: str) -> str:
    tags = tags_for(name)
    if len(tags) == 1:
        return tags[0]
    if not tags:
        raise ConfigError(f"no weights are published for {name}: give pretrained= a file, or see docs/weights.md")
    raise ConfigError(
        f"several weights are published for {name}; choose one, pretrained={tags[0]!r}: {', '.join(tags)}"
    )
