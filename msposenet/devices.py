"""Where a network runs: device names of the configuration as MXNet contexts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from msposenet.errors import ConfigError
from msposenet.runtime import mx

_PATTERN = re.compile(r"(cpu|gpu)(?::(\d{1,3}))?")


def contexts(names: Sequence[str] = ("auto",)) -> list[mx.Context]:
    """Contexts of names such as cpu, gpu:0, gpu:1; `auto` stands for all GPUs, or the CPU where there is none.

    Several CPU contexts (cpu:0, cpu:1) share the processor; they serve to try the multi-device path without a GPU.
    Raises ConfigError for other names and for GPUs that are not there.
    """
    available = mx.context.num_gpus()
    if list(names) == ["auto"]:
        return [mx.gpu(i) for i in range(available)] or [mx.cpu()]
    found = []
    for name in names:
        match = _PATTERN.fullmatch(name)
        if match is None:
            raise ConfigError(f"unknown device {name!r}; write cpu, gpu:0, gpu:1, ... or auto")
        kind, number = match[1], int(match[2] or 0)
        if kind == "gpu" and number >= available:
            raise ConfigError(f"device {name} is not there: MXNet sees {available} GPUs; use cpu or auto")
        found.append(mx.Context(kind, number))
    if not found or len(set(found)) < len(found):
        raise ConfigError(f"devices must be named once each, found {list(names)}")
    return found
