"""HRNet without a head (Sun et al., CVPR 2019): stem, transitions and stages of parallel branches.

Attribute names are those of the published PyTorch checkpoints of poses, classes and HigherHRNet alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msposenet.errors import ConfigError
from msposenet.models.checks import check_count
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

STRIDE = 4  # of the highest resolution, in input px
_STEM_WIDTH = 64
_LAYER1_WIDTH = 256


@dataclass(frozen=True)
class TrunkSpec:
    """What the trunk is made of; the defaults are HRNet-W32's.

    width: channels C of the highest resolution; branches have C, 2C, 4C, 8C.
    modules: exchange modules in stage2, stage3, stage4.
    """

    width: int = 32
    modules: tuple[int, int, int] = (1, 4, 3)

    def __post_init__(self) -> None:
        check_count("HRNet width", self.width, 1, 1024)
        modules = self.modules
        if not (isinstance(modules, tuple) and len(modules) == 3 and all(type(m) is int and m >= 1 for m in modules)):
            raise ConfigError(f"HRNet modules are three counts of at least 1, found {modules!r}")

    @property
    def widths(self) -> tuple[int, int, int, int]:
        return (self.width, 2 * self.width, 4 * self.width, 8 * self.width)


class HighResolutionTrunk(HybridBlock):
    """Entry, transitions and stages.

    `entry`: what it is called with: the picture (`image`), a high-resolution map to be taken through a 1x1
    convolution and an own layer1 (`cross64`) or as it is (`hires`), or another trunk's `layer1`. `has_stage2`: with
    the two-branch stage2. `all_scales`: the last module keeps all four resolutions. `widen`: factor on the width of
    the last high-resolution map, and of the one that `hires` and `cross64` read.

    Called with its input and, in a cascade, the previous trunk's block outputs, which are added to its own. Returns
    the last module's maps, highest resolution first, layer1's output (None without an own one), and its block
    outputs: stage2's (or transition1's sum), then one entry a module of stage3 and stage4, each a list of maps.
    """

    def __init__(
        self,
        spec: TrunkSpec,
        entry: str = "image",
        has_stage2: bool = True,
        all_scales: bool = False,
        widen: int = 1,
    ) -> None:
        super().__init__(prefix="")
        widths = spec.widths
        self.hires = spec.width * widen
        self._entry = entry
        if entry == "image":
            self.conv1 = convolution(3, _STEM_WIDTH, 3, stride=2)
            self.bn1 = batch_norm(_STEM_WIDTH)
            self.conv2 = convolution(_STEM_WIDTH, _STEM_WIDTH, 3, stride=2)
            self.bn2 = batch_norm(_STEM_WIDTH)
        elif entry == "cross64":
            self.cross_conv = conv_bn(self.hires, _STEM_WIDTH, 1)
        if entry in ("image", "cross64"):
            blocks = [Bottleneck(_STEM_WIDTH if i == 0 else _LAYER1_WIDTH, _STEM_WIDTH) for i in range(4)]
            self.layer1 = sequential(*blocks)
        self.transition1 = _first_transition(self.hires if entry == "hires" else _LAYER1_WIDTH, widths[:2])
        self.stage2 = None
        if has_stage2:
            self.stage2 = _modules(widths[:2], spec.modules[0])
        self.transition2 = SparseList({2: sequential(conv_bn(widths[1], widths[2], 3, stride=2))})
        self.stage3 = _modules(widths[:3], spec.modules[1])
        self.transition3 = SparseList({3: sequential(conv_bn(widths[2], widths[3], 3, stride=2))})
        self.stage4 = _modules(widths, spec.modules[2], last_outputs=4 if all_scales else 1, widen=widen)

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
        return maps, layer1, delivered


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
