"""Networks by name: `get_model("mshrnet_w48x2", num_joints=17)`.

| name | family | network | head | pixel convention |
|---|---|---|---|---|
| hrnet_wC | hrnet | HRNet of width C | heatmap | standard (that of its published weights) |
| mshrnet_wCxS | hrnet | S HRNets of width C in a cascade | offset | unbiased |
| mspn_r50xS | mspn | MSPN of S stages on ResNet-50 | heatmap | |
| higherhrnet_wC | higherhrnet | HigherHRNet of width C | associative (heatmaps and tags) | |
| hrnet_wC_cls | classification | HRNet of width C for ImageNet's classes | | |
| ..._small, hrnet_wC_small_cls | | the same, one module in each of stage2, stage3, stage4: for CPU work | | |

The hrnet family is trained, evaluated and predicts; of the others there is the network.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, fields

from msposenet.errors import ConfigError

_NAMES = (
    "hrnet_w16_small", "hrnet_w18", "hrnet_w32", "hrnet_w48",
    "mshrnet_w16x2_small", "mshrnet_w18x2", "mshrnet_w32x1", "mshrnet_w32x2", "mshrnet_w48x1", "mshrnet_w48x2",
    "mshrnet_w48x3", "mshrnet_w48x4",
    "mspn_r50x1", "mspn_r50x2", "mspn_r50x3", "mspn_r50x4",
    "higherhrnet_w32", "higherhrnet_w40", "higherhrnet_w48",
    "hrnet_w18_cls", "hrnet_w32_cls", "hrnet_w48_cls",
)  # fmt: skip

_WIDTH = r"w(?P<width>\d{1,4})"
_STAGES = r"x(?P<stages>[1-4])"
_SMALL = r"(?P<small>_small)?"

# Pattern, family, head, convention.
_KINDS = (
    (rf"hrnet_{_WIDTH}{_SMALL}", "hrnet", "heatmap", "standard"),
    (rf"mshrnet_{_WIDTH}{_STAGES}{_SMALL}", "hrnet", "offset", "unbiased"),
    (rf"mspn_(?P<backbone>r50){_STAGES}", "mspn", "heatmap", None),
    (rf"higherhrnet_{_WIDTH}{_SMALL}", "higherhrnet", "associative", None),
    (rf"hrnet_{_WIDTH}{_SMALL}_cls", "classification", None, None),
)


@dataclass(frozen=True)
class ModelInfo:
    """What a zoo name stands for; None where something does not apply to its family.

    `family`: `hrnet`, `mspn`, `higherhrnet` or `classification`. `convention` is the pixel convention its weights are
    made for.
    """

    name: str
    family: str
    head: str | None = None
    convention: str | None = None
    width: int | None = None
    stages: int | None = None
    modules: tuple[int, int, int] | None = None
    backbone: str | None = None


def list_models() -> list[str]:
    """Names shown by default; other widths (`hrnet_w24`) and one to four stages (`mshrnet_w24x3`) work too."""
    return list(_NAMES)


def model_info(name: str) -> ModelInfo:
    """What the name stands for; ConfigError with the nearest known names when it stands for nothing."""
    for pattern, family, head, convention in _KINDS:
        match = re.fullmatch(pattern, name)
        if match is None:
            continue
        part = match.groupdict()
        modules = (1, 1, 1) if part.get("small") else (1, 4, 3)
        return ModelInfo(
            name=name,
            family=family,
            head=head,
            convention=convention,
            width=int(part["width"]) if "width" in part else None,
            stages=int(part.get("stages", 1)) if family in ("hrnet", "mspn") else None,
            modules=modules if "width" in part else None,
            backbone=part.get("backbone"),
        )
    near = difflib.get_close_matches(name, _NAMES, n=3) or list(_NAMES)
    raise ConfigError(f"unknown model {name!r}; did you mean {', '.join(near)}?")


def get_model(
    name: str,
    num_joints: int | None = None,
    head: str | None = None,
    pretrained: str | os.PathLike | bool = False,
    **options,
):
    """The network `name`, uninitialised; it returns a tuple of all supervised outputs, the last one is decoded.

    num_joints: 17 by default. With `pretrained`, a weight file, run, checkpoint or tag of published weights (True for
    the only published ones), the network is filled, and joints, head and options are the file's by default
    (weights/pretrained.py).

    `head`: `heatmap` (K maps) or `offset` (3K maps) in the hrnet family, by default the name's own; other families
    have no choice. A classification network takes `num_classes` among its options and makes no use of `num_joints`.
    `options` are the construction options of the family: those of HRNetSpec (entry, repeat_stage2, keep_all_scales,
    aggregate, wide_fuse, modules), MSPNSpec, HigherHRNetSpec or ClassificationSpec. Raises ConfigError naming what
    does not exist or cannot be built.
    """
    if pretrained:
        from msposenet.weights.pretrained import pretrained_model

        return pretrained_model(name, pretrained, num_joints, head, options)
    num_joints = 17 if num_joints is None else num_joints
    info = model_info(name)
    if info.family != "hrnet" and head not in (None, info.head):
        raise ConfigError(f"{name} has no choice of head; leave out head {head!r}")
    specification, build = _FAMILIES[info.family]()
    fixed = {"width", "stages", "backbone"}
    known = {field.name for field in fields(specification)} - fixed
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"{name} has no option {option!r}; {hint}known: {', '.join(sorted(known))}")
    if isinstance(options.get("modules"), list):
        options["modules"] = tuple(options["modules"])
    named = {key: getattr(info, key) for key in (*fixed, "modules") if getattr(info, key) is not None}
    net = build(specification(**{**named, **options}), num_joints, head or info.head)
    net.family, net.convention = info.family, info.convention
    return net


# Each imports its network when first asked for: names alone need no MXNet.


def _hrnet():
    from msposenet.models.hrnet import HRNetSpec, MultiStageHRNet

    return HRNetSpec, MultiStageHRNet


def _mspn():
    from msposenet.models.mspn import MSPN, MSPNSpec

    return MSPNSpec, lambda spec, num_joints, head: MSPN(spec, num_joints)


def _higherhrnet():
    from msposenet.models.higherhrnet import HigherHRNet, HigherHRNetSpec

    return HigherHRNetSpec, lambda spec, num_joints, head: HigherHRNet(spec, num_joints)


def _classification():
    from msposenet.models.classification import ClassificationSpec, HRNetClassifier

    return ClassificationSpec, lambda spec, num_joints, head: HRNetClassifier(spec)


_FAMILIES = {"hrnet": _hrnet, "mspn": _mspn, "higherhrnet": _higherhrnet, "classification": _classification}
