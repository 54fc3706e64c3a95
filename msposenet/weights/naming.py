"""Names of published weight files -> the official ones of the network's own authors.

Everything downstream (recognising, filling) knows the official names alone. A layout is a row of `LAYOUTS`: how its
files are told apart, and what each of its names is called officially.

| layout | read from | differs from the official names by |
|---|---|---|
| official | HRNet's pose and classification programs, HigherHRNet, MSPN | - |
| mmpose | mmpose 0.x and 1.x: hrnet.py and the heads behind it | `backbone.`, `keypoint_head.` or `head.` in front |
| gluoncv | gluoncv 0.10.5: hrnet.py, saved by `save_parameters` | blocks, downward exchange, batch norm, head |
| msposenet | this program | batch norm's fields |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from msposenet.errors import CheckpointError

_GLUON_BATCH_NORM = {"gamma": "weight", "beta": "bias"}
_BODY = re.compile(r"\.body\.(\d+)\.")
_DOWNWARD = re.compile(r"(fuse_layers\.(\d+)\.(\d+))\.(\d+)\.")
_GLUONCV_MODULES = (("incre_blocks.", "incre_modules."), ("downsamp_blocks.", "downsamp_modules."))
_MMPOSE_PREFIXES = ("backbone.", "keypoint_head.", "head.")
_PREFIXED = re.compile(r"(conv|batchnorm)\d+_(weight|gamma)$")
_NO_NUMBERS_OF_THE_NETWORK = re.compile(r"(^|\.)num_batches_tracked$|^data_preprocessor\.")


@dataclass(frozen=True)
class Layout:
    """`belongs` looks at all names of a file; `rename` gives the official name of one."""

    title: str
    belongs: Callable[[Iterable[str]], bool]
    rename: Callable[[str], str]


@dataclass(frozen=True)
class Named:
    """Float32 arrays under official names, the title of their layout, and how many counters and such were left out."""

    layout: str
    arrays: dict[str, np.ndarray]
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def official_name(name: str) -> str:
    """The published checkpoints' name of our parameter: bn1.gamma -> bn1.weight."""
    module, dot, field = name.rpartition(".")
    return f"{module}{dot}{_GLUON_BATCH_NORM.get(field, field)}"


def from_mmpose(name: str) -> str:
    """backbone.conv1.weight -> conv1.weight; keypoint_head.final_layer.weight -> final_layer.weight."""
    for prefix in _MMPOSE_PREFIXES:
        if name.startswith(prefix):
            return name[len(prefix) :]
    return name


def from_gluoncv(name: str) -> str:
    """layer1.0.body.4.gamma -> layer1.0.bn2.weight; fuse_layers.2.0.3.weight -> fuse_layers.2.0.1.0.weight."""
    for theirs, official in _GLUONCV_MODULES:
        if name.startswith(theirs):
            name = official + name[len(theirs) :]
    return official_name(_DOWNWARD.sub(_nested, _BODY.sub(_layer_of_body, name)))


def _layer_of_body(match: re.Match) -> str:
    number, kind = divmod(int(match[1]), 3)  # convolution, batch norm, activation, over and over
    return f".{'conv' if kind == 0 else 'bn'}{number + 1}."


def _nested(match: re.Match) -> str:
    if int(match[3]) > int(match[2]):  # upward: one convolution and its batch norm in both layouts
        return match[0]
    step, place = divmod(int(match[4]), 3)
    return f"{match[1]}.{step}.{place}."


LAYOUTS = (
    Layout("mmpose", lambda names: any(name.startswith("backbone.") for name in names), from_mmpose),
    Layout("gluoncv", lambda names: any(_BODY.search(name) for name in names), from_gluoncv),
    Layout("msposenet", lambda names: any(name.endswith(".gamma") for name in names), official_name),
    Layout("official", lambda names: True, lambda name: name),
)

FOREIGN = ("mmpose", "gluoncv")  # told from our own names with certainty


def layout_of(names: Iterable[str]) -> Layout:
    """The row of `LAYOUTS` that the names of a file belong to."""
    return next(layout for layout in LAYOUTS if layout.belongs(names))


def to_official(arrays: Mapping[str, np.ndarray], source: str) -> Named:
    """The arrays under official names, as float32; batch counters and picture statistics are left out.

    Raises CheckpointError naming `source` when nothing is left, when names were made up by Gluon's counters, when two
    names mean one array, for arrays that are no numbers or not finite, and for negative variances.
    """
    if any(_PREFIXED.search(name) and "." not in name for name in arrays):
        raise CheckpointError(
            f"{source}: its names are counters ({next(iter(arrays))!r}) and say nothing of the network: load it where "
            "it was made and save it with net.save_parameters"
        )
    ignored = tuple(name for name in arrays if _NO_NUMBERS_OF_THE_NETWORK.search(name))
    kept = {name: array for name, array in arrays.items() if name not in set(ignored)}
    if not kept:
        raise CheckpointError(f"{source}: holds no weights of a network: is it the right file?")
    layout = layout_of(kept)
    official: dict[str, np.ndarray] = {}
    cast: dict[str, int] = {}
    for name, array in kept.items():
        renamed = layout.rename(name)
        if renamed in official:
            raise CheckpointError(f"{source}: {name!r} and another name both mean {renamed!r}: the file is mixed up")
        official[renamed] = _checked(np.asarray(array), name, source, cast)
    notes = tuple(f"{count} arrays of {kind} taken as float32" for kind, count in cast.items())
    return Named(layout.title, official, ignored, notes)


def _checked(array: np.ndarray, name: str, source: str, cast: dict[str, int]) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise CheckpointError(f"{source}: {name!r} holds {array.dtype}, not numbers: is it the file of a network?")
    if array.dtype != np.float32:
        cast[str(array.dtype)] = cast.get(str(array.dtype), 0) + 1
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    if not np.isfinite(array).all():
        count = int(np.count_nonzero(~np.isfinite(array)))
        raise CheckpointError(
            f"{source}: {name!r} holds {count:,} NaN or infinite values of {array.size:,}: the file is damaged or the "
            "training diverged; fetch it again or use an earlier one"
        )
    if name.endswith("running_var") and array.size and array.min() < 0:
        raise CheckpointError(
            f"{source}: {name!r} holds a variance of {array.min():.3g}: the file is damaged; fetch it again"
        )
    return array


@dataclass(frozen=True)
class Part:
    """A group of official names that a network may do without. `title` names it in reports."""

    title: str
    pattern: re.Pattern

    def holds(self, name: str) -> bool:
        return self.pattern.match(name) is not None


CLASSIFICATION_HEAD = Part(
    "ImageNet classification head",
    # `head.` and `fc.`: files of the pose program's own ImageNet training.
    re.compile(r"incre_modules\.|downsamp_modules\.|classifier\.|final_layer\.[01]\.|head\.|fc\."),
)
KEYPOINT_HEAD = Part("keypoint head", re.compile(r"(cascade\.\d+\.)?final_layer\.(weight|bias)$"))
HIGHER_RESOLUTION_HEAD = Part("higher-resolution head", re.compile(r"final_layers\.|deconv_layers\."))
MSPN_HEAD = Part("keypoint head", re.compile(r"stage\d+\.upsample\.up\d\.res_conv2\."))
HEADS = (CLASSIFICATION_HEAD, KEYPOINT_HEAD, HIGHER_RESOLUTION_HEAD, MSPN_HEAD)
# The highest resolution's row is what a wider last exchange changes, the other rows are what most networks leave out.
LAST_EXCHANGE = Part("last exchange, which is wider in the network", re.compile(r"stage4\.\d+\.fuse_layers\.0\."))
OTHER_RESOLUTIONS = Part("other resolutions of the last exchange", re.compile(r"stage4\.\d+\.fuse_layers\.[1-3]\."))


def part_of(name: str, parts: Iterable[Part]) -> Part | None:
    """The part that an official name belongs to, None for the rest of the network."""
    return next((part for part in parts if part.holds(name)), None)
