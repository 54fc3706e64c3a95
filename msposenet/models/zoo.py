"""Networks by name: `get_model("mshrnet_w48x2", num_joints=17)`.

| name | network | head | pixel convention |
|---|---|---|---|
| hrnet_wC | HRNet of width C | heatmap | standard (that of its published weights) |
| mshrnet_wCxS | S HRNets of width C in a cascade | offset | unbiased |
| ..._small | one module in each of stage2, stage3, stage4: for CPU work | as above | as above |
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, fields, replace

from msposenet.errors import ConfigError

_NAMES = (
    "hrnet_w16_small", "hrnet_w18", "hrnet_w32", "hrnet_w48",
    "mshrnet_w16x2_small", "mshrnet_w18x2", "mshrnet_w32x1", "mshrnet_w32x2", "mshrnet_w48x1", "mshrnet_w48x2",
    "mshrnet_w48x3", "mshrnet_w48x4",
)  # fmt: skip
_PATTERN = re.compile(r"(?P<multi>ms)?hrnet_w(?P<width>\d{1,4})(x(?P<stages>[1-4]))?(?P<small>_small)?")


@dataclass(frozen=True)
class ModelInfo:
    """What a zoo name stands for; `convention` is the pixel convention its weights are made for."""

    name: str
    width: int
    stages: int
    modules: tuple[int, int, int]
    head: str
    convention: str


def list_models() -> list[str]:
    """Names shown by default; any other width (`hrnet_w24`) and one to four stages (`mshrnet_w24x3`) work too."""
    return list(_NAMES)


def model_info(name: str) -> ModelInfo:
    """What the name stands for; ConfigError with the nearest known names when it stands for nothing."""
    match = _PATTERN.fullmatch(name)
    if match is None or bool(match["multi"]) != bool(match["stages"]):
        near = difflib.get_close_matches(name, _NAMES, n=3) or list(_NAMES)
        raise ConfigError(f"unknown model {name!r}; did you mean {', '.join(near)}?")
    return ModelInfo(
        name=name,
        width=int(match["width"]),
        stages=int(match["stages"] or 1),
        modules=(1, 1, 1) if match["small"] else (1, 4, 3),
        head="offset" if match["multi"] else "heatmap",
        convention="unbiased" if match["multi"] else "standard",
    )


def get_model(name: str, num_joints: int = 17, head: str | None = None, **options):
    """The network `name`, uninitialised; it returns a tuple of all supervised outputs, the last one is decoded.

    `head`: `heatmap` (K maps) or `offset` (3K maps); by default the name's own. `options` are the construction
    options of `HRNetSpec` (entry, repeat_stage2, keep_all_scales, aggregate, wide_fuse, modules).
    """
    from msposenet.models.hrnet import HRNetSpec, MultiStageHRNet

    info = model_info(name)
    spec = HRNetSpec(width=info.width, stages=info.stages, modules=info.modules)
    known = {field.name for field in fields(HRNetSpec)} - {"width", "stages"}
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"{name} has no option {option!r}; {hint}known: {', '.join(sorted(known))}")
    if isinstance(options.get("modules"), list):
        options["modules"] = tuple(options["modules"])
    net = MultiStageHRNet(replace(spec, **options), num_joints, head or info.head)
    net.convention = info.convention
    return net
