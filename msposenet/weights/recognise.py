"""Which network a file's arrays belong to: family, width, modules, stages, joints and head, from names and shapes.

Takes official names (naming.to_official). What leaves no trace in arrays cannot be seen and is said in `notes`: whether
a cascade adds the maps of its stages (`aggregate`), and whether 3K maps are K joints of class, dx, dy or 3K joints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from msposenet.errors import CheckpointError, ConfigError
from msposenet.skeletons import SKELETONS
from msposenet.weights.naming import CLASSIFICATION_HEAD, LAYOUTS

KNOWN = (
    "HRNet pose (hrnet_wC), Multi-Stage HRNet (mshrnet_wCxS), HRNet ImageNet (hrnet_wC_cls, both published layouts), "
    "HigherHRNet (higherhrnet_wC) and MSPN (mspn_r50xS), each under the names of its own program; mmpose's HRNet and "
    "HigherHRNet; gluoncv's and timm's ImageNet HRNets; msposenet's own files"
)
# The zoo's families, and a trunk without a head of ours. The last two fill the trunk of any network of their width.
POSE, HIGHER, MSPN, CLASSIFICATION, BACKBONE = "hrnet", "higherhrnet", "mspn", "classification", "backbone"
TRANSFERABLE = (CLASSIFICATION, BACKBONE)

_MODULES = {(1, 4, 3): "", (1, 1, 1): "_small"}
_BLOCKS = 4  # residual blocks of a branch and of layer1
_LAYER1_WIDTH = 256
_RESNET_50 = (3, 4, 6, 3)
_MSPN_WIDTHS = {"planes": 64, "up_width": 256}
_IMAGENET = 1000


@dataclass(frozen=True)
class Recognised:
    """`model` is the zoo's name, `options` what its construction needs besides.

    layout: title of the naming; num_joints and head: None where the file has no keypoint head.
    """

    layout: str
    family: str
    model: str
    num_joints: int | None = None
    head: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def line(self) -> str:
        """ "hrnet_w32, 17 joints, heatmap head, official names"."""
        parts = [self.model]
        if self.num_joints is not None:
            parts.append(f"{self.num_joints} joints")
        if self.head is not None:
            parts.append(f"{self.head} head")
        if self.family == BACKBONE:
            parts.append("no keypoint head")
        parts += [f"{name}={value}" for name, value in self.options.items()]
        return ", ".join([*parts, f"{self.layout} names"])


def recognise(
    arrays: Mapping[str, np.ndarray], source: str, layout: str = LAYOUTS[-1].title, num_joints: int | None = None
) -> Recognised:
    """The network that the arrays (official names) belong to; `num_joints` decides where 3K maps leave a doubt.

    Raises CheckpointError naming `source` and what is missing or contradictory, ConfigError when `num_joints` is not
    what the head has.
    """
    shapes = {name: tuple(np.shape(array)) for name, array in arrays.items()}
    look = _Look(shapes, source)
    if look.any("stage0.downsample."):
        return _mspn(look, layout, num_joints)
    if not (look.any("stage2.0.branches.") and look.any("stage4.0.branches.")):
        shown = ", ".join(list(shapes)[:3])
        raise CheckpointError(f"{source}: its arrays ({shown}, ...) are of no known network; known: {KNOWN}")
    width, modules = look.width(), look.modules()
    stem = f"hrnet_w{width}"
    small = _MODULES.get(modules, "")
    options: dict[str, Any] = {} if modules in _MODULES else {"modules": modules}
    if look.any("final_layers."):
        joints, extra = _higher(look)
        _agree(joints, num_joints, source)
        return Recognised(layout, HIGHER, f"higher{stem}{small}", joints, "associative", {**options, **extra})
    if look.any("deconv_layers."):
        look.fail("deconv_layers.* without final_layers.*", "a head of transposed convolutions, which is not read")
    if look.any("incre_modules."):
        classes = look.shape("classifier.weight", dimensions=2)[0]
        options = options if classes == _IMAGENET else {**options, "num_classes": classes}
        return Recognised(layout, CLASSIFICATION, f"{stem}{small}_cls", None, None, options)
    if look.any("final_layer.") and not look.has("final_layer.weight"):
        look.fail("final_layer.* of several layers", "a head of several convolutions, which is not read")
    if look.has("final_layer.weight"):
        return _pose(look, layout, width, small, options, num_joints)
    theirs = any(CLASSIFICATION_HEAD.holds(name) for name in shapes)
    note = "the layout of the pose program's own ImageNet files" if theirs else "a network without any head"
    return Recognised(layout, BACKBONE, f"{stem}{small}", None, None, options, (f"{note}: the backbone is taken",))


class _Look:
    """Questions about names and shapes, answered or refused naming the file."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
        self.shapes, self.source = shapes, source

    def has(self, name: str) -> bool:
        return name in self.shapes

    def any(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.shapes)

    def fail(self, found: str, meaning: str) -> None:
        raise CheckpointError(f"{self.source}: {found}: {meaning}; known: {KNOWN}")

    def shape(self, name: str, dimensions: int = 4) -> tuple[int, ...]:
        """The shape of an array that must be there; all its sizes are at least 1."""
        shape = self.shapes.get(name)
        if shape is None:
            raise CheckpointError(f"{self.source}: {name} is missing: the file is incomplete, fetch or save it again")
        if len(shape) != dimensions or min(shape) < 1:
            raise CheckpointError(
                f"{self.source}: {name} has shape {shape}, it must have {dimensions} dimensions: the file is mixed up"
            )
        return shape

    def count(self, prefix: str) -> int:
        """How many of prefix.0, prefix.1, ... there are; CheckpointError for a gap."""
        pattern = re.compile(re.escape(prefix) + r"\.(\d{1,6})\.")
        found = sorted({int(match[1]) for match in map(pattern.match, self.shapes) if match})
        if found != list(range(len(found))):
            raise CheckpointError(
                f"{self.source}: of {prefix}.N it has N = {', '.join(map(str, found[:8]))}: arrays are missing, "
                "fetch or save it again"
            )
        return len(found)

    def width(self) -> int:
        """C, once stem, layer1 and the four branches are seen to be HRNet's."""
        if self.shape("conv1.weight") != (64, 3, 3, 3) or self.shape("conv2.weight") != (64, 64, 3, 3):
            self.fail(f"conv1 {self.shape('conv1.weight')}", "HRNet's stem is two 3x3 convolutions of 64 channels")
        if self.count("layer1") != _BLOCKS or self.shape("layer1.0.conv1.weight")[0] != 64:
            self.fail(
                f"layer1 of {self.count('layer1')} blocks with {self.shape('layer1.0.conv1.weight')[0]} channels",
                f"networks here have {_BLOCKS} blocks with 64 (the small ImageNet variants are not built)",
            )
        width = self.shape("stage4.0.branches.0.0.conv1.weight")[0]
        widths = tuple(self.shape(f"stage4.0.branches.{branch}.0.conv1.weight")[0] for branch in range(4))
        if widths != tuple(width * factor for factor in (1, 2, 4, 8)):
            self.fail(f"branches of {widths} channels", "HRNet's double from one to the next")
        return width

    def modules(self) -> tuple[int, int, int]:
        """Exchange modules of stage2, stage3, stage4, each of four blocks a branch."""
        modules = tuple(self.count(f"stage{stage}") for stage in (2, 3, 4))
        for stage, number in zip((2, 3, 4), modules):
            for module in range(number):
                if self.count(f"stage{stage}.{module}.branches") != stage:
                    self.fail(f"stage{stage}.{module} of another number of branches than {stage}", "no HRNet has that")
                for branch in range(stage):
                    blocks = self.count(f"stage{stage}.{module}.branches.{branch}")
                    if blocks != _BLOCKS:
                        self.fail(
                            f"stage{stage}.{module}.branches.{branch} of {blocks} blocks",
                            f"networks here have {_BLOCKS} (the small ImageNet variants are not built)",
                        )
        return modules


def _pose(
    look: _Look, layout: str, width: int, small: str, options: dict[str, Any], num_joints: int | None
) -> Recognised:
    stages = look.count("cascade") + 1
    if stages > 4:
        look.fail(f"a cascade of {stages} stages", "there are one to four")
    last = f"stage4.{look.count('stage4') - 1}.fuse_layers"
    wide = look.has(f"{last}.0.0.0.weight")
    maps, channels = look.shape("final_layer.weight")[:2]
    expected = width * (4 if wide else 1)
    if channels != expected:
        look.fail(f"final_layer reads {channels} channels", f"the last exchange gives {expected}")
    notes = []
    if wide:
        options = {**options, "wide_fuse": True}
    if stages > 1:
        options = {**options, **_cascade_options(look, width, expected, f"{last}.1.0.")}
        notes.append("whether the cascade adds its stages' maps leaves no trace: taken as aggregate=True")
    joints, head, doubt = _joints_and_head(maps, stages > 1, num_joints, look.source)
    name = f"mshrnet_w{width}x{stages}{small}" if stages > 1 or head == "offset" else f"hrnet_w{width}{small}"
    return Recognised(layout, POSE, name, joints, head, options, (*notes, *doubt))


def _cascade_options(look: _Look, width: int, hires: int, other_rows: str) -> dict[str, Any]:
    """entry, repeat_stage2 and keep_all_scales where they are not the defaults."""
    options: dict[str, Any] = {}
    if look.any("cascade.0.conv1."):
        options["entry"] = "image"
    elif look.any("cascade.0.cross_conv."):
        options["entry"] = "cross64"
    elif look.shape("cascade.0.transition1.1.0.0.weight")[1] == hires != _LAYER1_WIDTH:
        options["entry"] = "hires"
    if look.any("cascade.0.stage2."):
        options["repeat_stage2"] = True
    if look.any(other_rows):
        options["keep_all_scales"] = True
    return options


def _joints_and_head(maps: int, cascade: bool, wanted: int | None, source: str) -> tuple[int, str, tuple[str, ...]]:
    """K maps are heatmaps, 3K are class and offsets; which of them is seen by the joint counts of known skeletons."""
    if wanted is not None:
        for head, factor in (("heatmap", 1), ("offset", 3)):
            if maps == wanted * factor:
                return wanted, head, ()
        raise ConfigError(
            f"{source}: its head gives {maps} maps, which is neither {wanted} heatmaps nor 3 x {wanted} offset maps: "
            "leave the number of joints out, or give the file's own"
        )
    counts = {skeleton.num_joints for skeleton in SKELETONS.values()}
    if maps % 3:
        return maps, "heatmap", ()
    third = maps // 3
    offset = third in counts or (cascade and maps not in counts)
    joints, head = (third, "offset") if offset else (maps, "heatmap")
    return joints, head, (f"{maps} maps are {maps} heatmaps or class and offsets of {third} joints: taken as {head}",)


def _higher(look: _Look) -> tuple[int, dict[str, Any]]:
    """Joints, and the construction options that are not the defaults."""
    deconvolutions = look.count("deconv_layers")
    if look.count("final_layers") != deconvolutions + 1:
        look.fail(
            f"{look.count('final_layers')} final_layers and {deconvolutions} deconv_layers",
            "HigherHRNet has a head at each resolution, one more than it has transposed convolutions",
        )
    maps = [look.shape(f"final_layers.{i}.weight")[0] for i in range(deconvolutions + 1)]
    joints = maps[0] // 2
    if maps != [2 * joints] + [joints] * deconvolutions:
        look.fail(f"final_layers of {maps} maps", "read are K heatmaps and K tag maps first, K heatmaps after them")
    blocks = [look.count(f"deconv_layers.{i}") - 1 for i in range(deconvolutions)]
    options: dict[str, Any] = {} if deconvolutions == 1 else {"deconvolutions": deconvolutions}
    if blocks and blocks != [_BLOCKS] * deconvolutions:
        options["residual_blocks"] = blocks[0]
    return joints, options


def _mspn(look: _Look, layout: str, num_joints: int | None) -> Recognised:
    stages = len({name.split(".", 1)[0] for name in look.shapes if re.match(r"stage\d+\.", name)})
    for stage in range(stages):
        layers = tuple(look.count(f"stage{stage}.downsample.layer{layer}") for layer in range(1, 5))
        if layers != _RESNET_50:
            look.fail(f"stage{stage}.downsample of {layers} blocks", f"MSPN here is built on ResNet-50, {_RESNET_50}")
    if not 1 <= stages <= 4:
        look.fail(f"{stages} stages", "MSPN has one to four")
    joints = look.shape(f"stage{stages - 1}.upsample.up4.res_conv2.conv.weight")[0]
    _agree(joints, num_joints, look.source)
    widths = {
        "planes": look.shape("top.conv.conv.weight")[0],
        "up_width": look.shape("stage0.upsample.up1.u_skip.conv.weight")[0],
    }
    options = {name: width for name, width in widths.items() if width != _MSPN_WIDTHS[name]}
    return Recognised(layout, MSPN, f"mspn_r50x{stages}", joints, "heatmap", options)


def _agree(found: int, wanted: int | None, source: str) -> None:
    if wanted is not None and wanted != found:
        raise ConfigError(
            f"{source}: has {found} joints, {wanted} were asked for: leave the number out or give its own"
        )
