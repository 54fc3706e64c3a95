"""Weights of other programs into networks: read, named, recognised, filled, and looked at once at work."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from msposenet.errors import CheckpointError, ConfigError
from msposenet.models.graphs import normalise
from msposenet.models.initialise import initialise
from msposenet.models.zoo import get_model, model_info
from msposenet.runtime import mx
from msposenet.storage import PathLike, open_input
from msposenet.weights.arrays import Filled, get_arrays, set_arrays
from msposenet.weights.naming import (
    HEADS,
    LAST_EXCHANGE,
    OTHER_RESOLUTIONS,
    Named,
    Part,
    official_name,
    part_of,
    to_official,
)
from msposenet.weights.params_file import read_params
from msposenet.weights.recognise import BACKBONE, CLASSIFICATION, MSPN, POSE, TRANSFERABLE, Recognised, recognise
from msposenet.weights.torch_file import read_state_dict

_PARAMS_START = b"\x12\x01\x00\x00\x00\x00\x00\x00"
_TORCH_STARTS = (b"PK\x03\x04", b"\x80")
_STAGE = re.compile(r"cascade\.\d+\.")
_SHOWN = 4  # names of a list
_JOINTS = 17  # of a new head when nobody says how many


@dataclass(frozen=True)
class Dropped:
    """Arrays of the file that the network has no use for, with the reason."""

    title: str
    names: tuple[str, ...]

    def line(self) -> str:
        """ "dropped 24 arrays of the ImageNet classification head (classifier.*, incre_modules.*)"."""
        groups = sorted({name.split(".", 1)[0] for name in self.names})
        return f"dropped {len(self.names)} arrays of the {self.title} ({', '.join(f'{group}.*' for group in groups)})"


@dataclass(frozen=True)
class Imported:
    """A filled network, what its file was recognised as, and what became of every array.

    `model`, `head` and `options` are what `net` was built from; `recognised` speaks of the file.
    """

    net: Any
    model: str
    head: str | None
    options: dict[str, Any]
    recognised: Recognised
    filled: Filled
    dropped: tuple[Dropped, ...]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The report, line by line."""
        total = len(self.filled.filled) + len(self.filled.reinitialised)
        lines = [
            f"recognised: {self.recognised.line()}",
            f"filled {len(self.filled.filled)} of {total} arrays of {self.model}",
        ]
        if self.filled.reinitialised:
            lines.append(f"re-initialised: {_shortened(self.filled.reinitialised)}")
        return [*lines, *(dropped.line() for dropped in self.dropped), *(f"note: {note}" for note in self.notes)]


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= _SHOWN else f"{', '.join(names[:_SHOWN])}, ... ({len(names)} arrays)"


def import_weights(path: PathLike, model: str | None = None, num_joints: int | None = None) -> Imported:
    """The network of a PyTorch, gluoncv or msposenet file, filled.

    `model` names another network that the file may fill in part: an ImageNet network fills the trunk of any network of
    its width and modules, whose head is then initialised afresh for `num_joints` (17 when not given). For a file with
    a keypoint head both only confirm what is recognised.

    Every array of the file is used or reported as dropped. Raises CheckpointError for a damaged or unknown file and for
    arrays left over or missing, ConfigError where `model` or `num_joints` contradicts the file.
    """
    source = str(path)
    named = read_named(path)
    found = recognise(named.arrays, source, named.layout, num_joints)
    name = model or found.model
    _agree(found, name, source)
    keeps = found.family not in TRANSFERABLE or (found.family == CLASSIFICATION and name == found.model)
    options = dict(found.options)
    if not keeps:
        options.pop("num_classes", None)
    head = found.head if found.family == POSE else None
    joints = found.num_joints or num_joints or _JOINTS
    net = get_model(name, joints, head, **options)
    filled, dropped = fill(net, named, found, source)
    notes = [*named.notes, *found.notes]
    if named.ignored:
        notes.append(f"left out {len(named.ignored)} arrays that no network computes with ({named.ignored[0]}, ...)")
    if found.num_joints is None and filled.reinitialised:
        notes.append(f"the file has no keypoint head: that of {joints} joints is new and wants training")
    return Imported(net, name, head or getattr(net, "head", None), options, found, filled, dropped, tuple(notes))


def read_named(path: PathLike) -> Named:
    """The arrays of a `.pth`, `.safetensors` or `.params` file under official names. Raises CheckpointError."""
    if not is_torch_file(path):
        return to_official({name.split(":", 1)[-1]: array for name, array in read_params(path).items()}, str(path))
    state = read_state_dict(path)
    named = to_official(state, str(path))
    return replace(named, notes=(*state.notes, *named.notes))


def is_torch_file(path: PathLike) -> bool:
    """Whether a file is PyTorch's, by its first bytes; by its name where they tell nothing (a damaged file)."""
    with open_input(path, CheckpointError) as file:
        start = file.read(8)
    if start.startswith(_TORCH_STARTS):
        return True
    return start != _PARAMS_START and Path(path).suffix.lower() != ".params"


def fill(
    net, named: Named, found: Recognised, source: str, drop_head: bool = False
) -> tuple[Filled, tuple[Dropped, ...]]:
    """Fill a network from official arrays; what was filled, kept and unused, and why unused.

    A network without values yet is initialised, on the CPU, where it keeps any. An ImageNet file or a trunk leaves the
    network's head as it is, and fills the later stages of a cascade as it fills the first. With `drop_head` a head of
    another joint count stays as it is, too. Any other array that is missing, left over or of another shape raises
    CheckpointError.
    """
    parameters = net._collect_params_with_prefix()
    classifier_stays = found.family == CLASSIFICATION and net.family == CLASSIFICATION
    transfer = found.family in TRANSFERABLE and not classifier_stays
    optional = (*HEADS, LAST_EXCHANGE) if transfer else HEADS if drop_head else ()
    ours: dict[str, np.ndarray] = {}
    kept, problems, used = [], [], set()
    for name, parameter in parameters.items():
        official = official_name(name)
        giver = _STAGE.sub("", official) if transfer else official
        array = named.arrays.get(giver)
        if array is not None and array.shape == tuple(parameter.shape):
            ours[name] = array
            used.add(giver)
        elif part_of(official, optional) or (transfer and giver != official):
            kept.append(name)
        elif array is None:
            problems.append(f"{official} is missing")
        else:
            used.add(giver)  # it is named already
            problems.append(f"{official} has shape {array.shape}, the network wants {tuple(parameter.shape)}")
    left = {name: part_of(name, (*optional, OTHER_RESOLUTIONS)) for name in named.arrays if name not in used}
    problems += [f"{name} is not in the network" for name, part in left.items() if part is None]
    if problems:
        raise CheckpointError(
            f"{source}: recognised as {found.line()}, but {len(problems)} arrays do not fit the network "
            f"({'; '.join(problems[:5])}{'; ...' if len(problems) > 5 else ''}); {_remedy(problems)}"
        )
    fresh = any(parameter._data is None for parameter in parameters.values())
    if fresh and not kept:
        for name, array in ours.items():  # as load_parameters does: nothing is drawn only to be replaced
            parameters[name]._load_init(mx.nd.array(array), mx.cpu())
    else:
        if fresh:
            initialise(net)
        current = get_arrays(net) if kept else {}
        set_arrays(net, {**ours, **{name: current[name] for name in kept}}, source)
    return Filled(tuple(ours), tuple(kept), tuple(left)), _grouped(left)


def _remedy(problems: list[str]) -> str:
    if all(part_of(problem.split()[0], HEADS) and "has shape" in problem for problem in problems):
        return "another joint count? name its run or data.skeleton; to fine-tune, --init-from drops the head"
    return "is this the file of another model, or incomplete?"


def _grouped(left: Mapping[str, Part]) -> tuple[Dropped, ...]:
    groups: dict[str, list[str]] = {}
    for name, part in left.items():
        groups.setdefault(part.title, []).append(name)
    return tuple(Dropped(title, tuple(names)) for title, names in groups.items())


def load_foreign(net, named: Named, source: str, drop_head: bool = False) -> Filled:
    """Fill an initialised network from another program's arrays, as load_weights does from our own.

    A file without a keypoint head is taken with `drop_head` alone: what predicts must have been trained to.
    """
    found = recognise(named.arrays, source, named.layout)
    if found.family in TRANSFERABLE and net.family != CLASSIFICATION and not drop_head:
        raise CheckpointError(
            f"{source}: holds {found.line()}, which finds no keypoints yet: train a network from it with --init-from"
        )
    filled, _ = fill(net, named, found, source, drop_head)
    return filled


def _agree(found: Recognised, model: str, source: str) -> None:
    """ConfigError unless the file can fill the network of that name."""
    wanted, own = model_info(model), model_info(found.model)
    same_trunk = (wanted.width, wanted.modules) == (own.width, own.modules)
    if found.family in TRANSFERABLE:
        fits = wanted.family != MSPN and same_trunk and (wanted.family != CLASSIFICATION or found.family != BACKBONE)
    else:
        fits = wanted.family == own.family and wanted.stages == own.stages and same_trunk
    if not fits:
        raise ConfigError(
            f"{source}: holds {found.line()}; the model asked for is {model}: leave it out, or name the file's own"
        )


@dataclass(frozen=True)
class ForwardCheck:
    """What a network gave for drawn people: smallest and largest peak of a map, or logit of a class."""

    what: str
    people: int
    low: float
    high: float

    def line(self) -> str:
        """ "forward check: heatmaps of 2 drawn people finite, peaks 0.03 to 0.91"."""
        kind = "peaks" if self.what == "heatmaps" else "values"
        return (
            f"forward check: {self.what} of {self.people} drawn people finite, {kind} {self.low:.2g} to {self.high:.2g}"
        )


def check_forward(net, crops: np.ndarray, source: str) -> ForwardCheck:
    """Run the network once on crops (N, H, W, 3) uint8 RGB.

    Raises CheckpointError naming `source` when an output is not finite or the same everywhere.
    """
    outputs = [output.asnumpy() for output in net(normalise(mx.nd, mx.nd.array(crops, dtype="uint8")))]
    for number, output in enumerate(outputs, start=1):
        finite = np.isfinite(output).all()
        if not finite or np.ptp(output) == 0:
            raise CheckpointError(
                f"{source}: output {number} of {len(outputs)} is {'the same everywhere' if finite else 'not finite'} "
                "on drawn people: the weights are damaged, or of another network with the same shapes"
            )
    decoded = outputs[0] if getattr(net, "head", None) == "associative" else outputs[-1]
    if decoded.ndim == 2:
        return ForwardCheck("logits", len(crops), float(decoded.min()), float(decoded.max()))
    step = 3 if getattr(net, "head", None) == "offset" else 1
    peaks = decoded[:, : net.num_joints * step : step].max(axis=(2, 3))
    return ForwardCheck("heatmaps", len(crops), float(peaks.min()), float(peaks.max()))
