"""HRNet and Multi-Stage HRNet (Sun et al., CVPR 2019; Huang et al., Multi-Stage HRNet, 2019).

Attribute names are those of the published PyTorch pose checkpoints, so an import is a renaming. The first stage of a
cascade is a complete HRNet under those very names; later stages live below `cascade.0`, `cascade.1`, ...
"""

from __future__ import annotations

from dataclasses import dataclass

from msposenet.errors import ConfigError
from msposenet.models.checks import check_count, check_joints
from msposenet.models.layers import SparseList, convolution
from msposenet.models.trunk import STRIDE, HighResolutionTrunk, TrunkSpec

HEADS = {"heatmap": 1, "offset": 3}  # maps a joint
ENTRIES = ("layer1", "hires", "cross64", "image")
_WIDEN = 4


@dataclass(frozen=True)
class HRNetSpec(TrunkSpec):
    """What a (multi-stage) HRNet is made of; the defaults are HRNet's pose network.

    stages: networks in the cascade.
    entry: what a later stage reads: layer1's output (`layer1`), the previous stage's high-resolution map as it is
        (`hires`) or through a 1x1 convolution to 64 channels and an own layer1 (`cross64`), or the picture (`image`).
    repeat_stage2: later stages have a two-branch stage2 of their own.
    keep_all_scales: the last module of every stage but the last keeps all four resolutions.
    aggregate: a later stage adds the previous one's block outputs, map by map, at the same positions.
    wide_fuse: the last exchange of each stage is four times as wide (the first UDP-Pose release's head).
    """

    stages: int = 1
    entry: str = "layer1"
    repeat_stage2: bool = False
    keep_all_scales: bool = False
    aggregate: bool = True
    wide_fuse: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("HRNet stages", self.stages, 1, 4)
        if self.entry not in ENTRIES:
            raise ConfigError(f"unknown entry {self.entry!r} of a later stage; known: {', '.join(ENTRIES)}")
        for name in ("repeat_stage2", "keep_all_scales", "aggregate", "wide_fuse"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"HRNet option {name} is true or false, found {getattr(self, name)!r}")


class HighResolutionStage(HighResolutionTrunk):
    """One network of the cascade: a trunk and its head.

    Called as the trunk is; the head's output takes the place of the last module's maps in what it returns.
    """

    def __init__(self, spec: HRNetSpec, maps_out: int, entry: str, has_stage2: bool, all_scales: bool) -> None:
        super().__init__(spec, entry, has_stage2, all_scales, _WIDEN if spec.wide_fuse else 1)
        self.final_layer = convolution(self.hires, maps_out, 1, bias=True)

    def hybrid_forward(self, F, x, received=None):
        maps, layer1, delivered = super().hybrid_forward(F, x, received)
        return self.final_layer(maps[0]), layer1, delivered


class MultiStageHRNet(HighResolutionStage):
    """HRNet (one stage) or a cascade of up to four with plus aggregation.

    Input (N, 3, H, W) normalised RGB, H and W multiples of 32; output a tuple of one (N, maps, H/4, W/4) array a
    stage, the last of which is decoded. `head`: `heatmap` gives K maps, `offset` gives 3K: class, dx, dy a joint.
    """

    head_layer = "final_layer"

    def __init__(self, spec: HRNetSpec, num_joints: int, head: str) -> None:
        if head not in HEADS:
            raise ConfigError(f"unknown head {head!r}; known: {', '.join(HEADS)}")
        check_joints(num_joints)
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
