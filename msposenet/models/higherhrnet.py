"""HigherHRNet (Cheng et al., CVPR 2020): all persons of a picture at once, by heatmaps at two resolutions and tags.

Attribute names are those of the published PyTorch checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

from msposenet.models.checks import check_count, check_joints
from msposenet.models.layers import BasicBlock, batch_norm, convolution, deconvolution, nn, sequential
from msposenet.models.trunk import STRIDE, HighResolutionTrunk, TrunkSpec


@dataclass(frozen=True)
class HigherHRNetSpec(TrunkSpec):
    """The trunk, then `deconvolutions` modules, each of which doubles the resolution and ends in `residual_blocks`.

    The published networks have one module of four blocks.
    """

    deconvolutions: int = 1
    residual_blocks: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("HigherHRNet deconvolutions", self.deconvolutions, 0, 3)
        check_count("HigherHRNet residual_blocks", self.residual_blocks, 0, 16)


class HigherHRNet(HighResolutionTrunk):
    """HRNet with a transposed convolution behind it and a head at each resolution.

    Input (N, 3, H, W) normalised RGB, H and W multiples of 32; output a tuple of (N, 2K, H/4, W/4), K heatmaps and
    then K tag maps, and (N, K, H/2, W/2), K heatmaps. Both are decoded: the heatmaps averaged, the tags from the first.
    """

    head = "associative"
    head_layer = "final_layers"

    def __init__(self, spec: HigherHRNetSpec, num_joints: int) -> None:
        check_joints(num_joints)
        super().__init__(spec)
        self.spec = spec
        self.num_joints = num_joints
        self.stride = STRIDE
        maps = [2 * num_joints] + [num_joints] * spec.deconvolutions
        self.final_layers = sequential(*(convolution(spec.width, count, 1, bias=True) for count in maps))
        # A module reads the features and the head's raw output, tags included.
        self.deconv_layers = sequential(
            *(_doubling(spec.width + count, spec.width, spec.residual_blocks) for count in maps[:-1])
        )

    def hybrid_forward(self, F, x):
        maps, _, _ = super().hybrid_forward(F, x)
        features = maps[0]
        outputs = [self.final_layers[0](features)]
        for i in range(self.spec.deconvolutions):
            features = self.deconv_layers[i](F.concat(features, outputs[-1], dim=1))
            outputs.append(self.final_layers[i + 1](features))
        return tuple(outputs)


def _doubling(channels_in: int, channels_out: int, blocks: int):
    """Twice the resolution: transposed convolution, batch norm, ReLU (0), then residual blocks (1, 2, ...)."""
    entry = sequential(deconvolution(channels_in, channels_out), batch_norm(channels_out), nn.Activation("relu"))
    return sequential(entry, *(sequential(BasicBlock(channels_out, channels_out)) for _ in range(blocks)))
