"""HRNet and Multi-Stage HRNet (Sun et al., CVPR 2019; Huang et al., Multi-Stage HRNet, 2019).

Attribute names are those of the published PyTorch pose checkpoints, so an import is a renaming. The first stage of a
cascade is a complete HRNet under those very names; later stages live below `cascade.0`, `cascade.1`, ...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msposenet.errors import ConfigError
from msposenet.models.layers import (
    Bottleneck,
    HighResolutionModule,
    HybridBlock,
    SparseList,
    batch_norm,
    conv_bn,
    convolution,
    sequential,
)

HEADS = {"heatmap": 1, "offset": 3}  # maps a joint
ENTRIES = ("layer1", "hires", "cross64", "image")
STRIDE = 4  # of the heatmaps, in input px
_STEM_WIDTH = 64
_LAYER1_WIDTH = 256
_WIDEN = 4


@dataclass(frozen=True)
class HRNetSpec:
    """What a (multi-stage) HRNet is made of; the defaults are HRNet's pose network.

    width: channels C of the highest resolution; branches have C, 2C, 4C, 8C.
    modules: exchange modules in stage2, stage3, stage4.
    stages: networks in the cascade.
    entry: what a later stage reads: layer1's output (`layer1`), the previous stage's high-resolution map as it is
        (`hires`) or through a 1x1 convolution to 64 channels and an own layer1 (`cross64`), or the picture (`image`).
    repeat_stage2: later stages have a two-branch stage2 of their own.
    keep_all_scales: the last module of every stage but the last keeps all four resolutions.
    aggregate: a later stage adds the previous one's block outputs, map by map, at the same positions.
    wide_fuse: the last exchange of each stage is four times as wide (the first UDP-Pose release's head).
    """

    width: int = 32
    modules: tuple[int, int, int] = (1, 4, 3)
    stages: int = 1
    entry: str = "layer1"
    repeat_stage2: bool = False
    keep_all_scales: bool = False
    aggregate: bool = True
    wide_fuse: bool = False

    def __post_init__(self) -> None:
        if not (isinstance(self.width, int) and 1 <= self.width <= 1024):
            raise ConfigError(f"HRNet width must be a whole number from 1 to 1024, found {self.width!r}")
        if not 1 <= self.stages <= 4:
            raise ConfigError(f"HRNet stages must be 1 to 4, found {self.stages!r}")
        if self.entry not in ENTRIES:
            raise ConfigError(f"unknown entry {self.entry!r} of a later stage; known: {', '.join(ENTRIES)}")
        modules = self.modules
        if not (isinstance(modules, tuple) and len(modules) == 3 and all(type(m) is int and m >= 1 for m in modules)):
            raise ConfigError(f"HRNet modules are three counts of at least 1, found {modules!r}")
        for name in ("repeat_stage2", "keep_all_scales", "aggregate", "wide_fuse"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"HRNet option {name} is true or false, found {getattr(self, name)!r}")

    @property
    def widths(self) -> tuple[int, int, int, int]:
        return (self.width, 2 * self.width, 4 * self.width, 8 * self.width)


class HighResolutionStage(HybridBlock):
    """One network of the cascade: entry, transitions, stages and head.

    Called with the stage's input and the previous stage's block outputs; returns the head's output, layer1's output
    (None without an own one) and this stage's block outputs: stage2's (or transition1's sum), then one entry a module
    of stage3 and stage4, each a list of maps, highest resolution first.
    """

    def __init__(self, spec: HRNetSpec, maps_out: int, entry: str, has_stage2: bool, all_scales: bool) -> None:
        super().__init__(prefix="")
        widths = spec.widths
        hires = spec.width * (_WIDEN if spec.wide_fuse else 1)
        self._entry = entry
        if entry == "image":
            self.conv1 = convolution(3, _STEM_WIDTH, 3, stride=2)
            self.bn1 = batch_norm(_STEM_WIDTH)
            self.conv2 = convolution(_STEM_WIDTH, _STEM_WIDTH, 3, stride=2)
            self.bn2 = batch_norm(_STEM_WIDTH)
        elif entry == "cross64":
            self.cross_conv = conv_bn(hires, _STEM_WIDTH, 1)
        if entry in ("image", "cross64"):
            blocks = [Bottleneck(_STEM_WIDTH if i == 0 else _LAYER1_WIDTH, _STEM_WIDTH) for i in range(4)]
            self.layer1 = sequential(*blocks)
        self.transition1 = _first_transition(hires if entry == "hires" else _LAYER1_WIDTH, widths[:2])
        self.stage2 = None
        if has_stage2:
            self.stage2 = _modules(widths[:2], spec.modules[0])
        self.transition2 = SparseList({2: sequential(conv_bn(widths[1], widths[2], 3, stride=2))})
        self.stage3 = _modules(widths[:3], spec.modules[1])
        self.transition3 = SparseList({3: sequential(conv_bn(widths[2], widths[3], 3, stride=2))})
        self.stage4 = _modules(
            widths, spec.modules[2], last_outputs=4 if all_scales else 1, widen=_WIDEN if spec.wide_fuse else 1
        )
        self.final_layer = convolution(hires, maps_out, 1, bias=True)

    def hybrid_forward(self, F, x, received=None):
        delivered = []

        def aggregate(maps):
            if received is not None:
                # zip stops at the shorter list: a single-scale last module delivers its high-resolution map alone.
                added = [own + other for own, other in zip(maps, received[len(delivered)])]
                maps = added + list(maps[len(added) :])
            delivered.append(maps)
            return maps

        layer1 = None
        if self._entry == "image":
            x = F.Activation(self.bn1(self.conv1(x)), act_type="relu")
            x = F.Activation(self.bn2(self.conv2(x)), act_type="relu")
        elif self._entry == "cross64":
            x = self.cross_conv(x)
        if self._entry in ("image", "cross64"):
            x = layer1 = self.layer1(x)
        maps = [x if self.transition1.get(i) is None else self.transition1.get(i)(x) for i in range(2)]
        if self.stage2 is not None:
            for module in self.stage2:
                maps = module(*maps)
        maps = aggregate(maps)
        maps = [*maps, self.transition2.get(2)(maps[-1])]
        for module in self.stage3:
            maps = aggregate(module(*maps))
        maps = [*maps, self.transition3.get(3)(maps[-1])]
        for module in self.stage4:
            maps = aggregate(module(*maps))
        return self.final_layer(maps[0]), layer1, delivered


def _first_transition(channels_in: int, widths: Sequence[int]) -> SparseList:
    blocks = {1: sequential(conv_bn(channels_in, widths[1], 3, stride=2))}
    if channels_in != widths[0]:
        blocks[0] = conv_bn(channels_in, widths[0], 3)
    return SparseList(blocks)


def _modules(widths: Sequence[int], count: int, last_outputs: int | None = None, widen: int = 1):
    """`count` modules over the branches `widths`; the last may build fewer outputs, the first of them wider."""
    every = len(widths)
    outputs = [every] * (count - 1) + [last_outputs or every]
    return sequential(
        *(
            HighResolutionModule(widths, number, widen=widen if i == count - 1 else 1)
            for i, number in enumerate(outputs)
        )
    )


class MultiStageHRNet(HighResolutionStage):
    """HRNet (one stage) or a cascade of up to four with plus aggregation.

    Input (N, 3, H, W) normalised RGB, H and W multiples of 32; output a tuple of one (N, maps, H/4, W/4) array a
    stage, the last of which is decoded. `head`: `heatmap` gives K maps, `offset` gives 3K: class, dx, dy a joint.
    """

    def __init__(self, spec: HRNetSpec, num_joints: int, head: str) -> None:
        if head not in HEADS:
            raise ConfigError(f"unknown head {head!r}; known: {', '.join(HEADS)}")
        if not 1 <= num_joints <= 1000:
            raise ConfigError(f"num_joints must be 1 to 1000, found {num_joints!r}")
        maps_out = num_joints * HEADS[head]
        all_scales = [spec.keep_all_scales and stage < spec.stages - 1 for stage in range(spec.stages)]
        super().__init__(spec, maps_out, "image", has_stage2=True, all_scales=all_scales[0])
        self.spec = spec
        self.num_joints = num_joints
        self.head = head
        self.stride = STRIDE
        self.cascade = SparseList(
            {
                stage - 1: HighResolutionStage(spec, maps_out, spec.entry, spec.repeat_stage2, all_scales[stage])
                for stage in range(1, spec.stages)
            }
        )

    def hybrid_forward(self, F, x):
        output, layer1, delivered = super().hybrid_forward(F, x)
        outputs = [output]
        for stage in range(self.spec.stages - 1):
            entry = {"image": x, "layer1": layer1}.get(self.spec.entry, delivered[-1][0])
            received = delivered if self.spec.aggregate else None
            output, _, delivered = self.cascade.get(stage)(entry, received)
            outputs.append(output)
        return tuple(outputs)
