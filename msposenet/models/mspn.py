"""Multi-Stage Pose Network (Li et al., arXiv 1901.00148), as in the released PyTorch program.

Attribute names are those of its checkpoints. Unlike HRNet's, every convolution has a bias besides its batch norm.
"""

from __future__ import annotations

from dataclasses import dataclass

from msposenet.errors import ConfigError
from msposenet.models.checks import check_count, check_joints
from msposenet.models.layers import HybridBlock, batch_norm, convolution, sequential

STRIDE = 4  # of the heatmaps, in input px
BACKBONES = {"r50": (3, 4, 6, 3)}  # bottlenecks in layer1 to layer4
_EXPANSION = 4


@dataclass(frozen=True)
class MSPNSpec:
    """What an MSPN is made of; the defaults are the published four-stage network.

    stages: encoder-decoder networks in a row. backbone: the encoder, a name of BACKBONES.
    planes: width of the stem, of layer1's bottlenecks and of what a stage hands to the next one as its input.
    up_width: width of the decoder.
    """

    stages: int = 4
    backbone: str = "r50"
    planes: int = 64
    up_width: int = 256

    def __post_init__(self) -> None:
        check_count("MSPN stages", self.stages, 1, 4)
        if self.backbone not in BACKBONES:
            raise ConfigError(f"unknown MSPN backbone {self.backbone!r}; known: {', '.join(BACKBONES)}")
        check_count("MSPN planes", self.planes, 1, 1024)
        check_count("MSPN up_width", self.up_width, 1, 4096)

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """Channels of layer1 to layer4."""
        first = self.planes * _EXPANSION
        return (first, 2 * first, 4 * first, 8 * first)


class ConvBN(HybridBlock):
    """A convolution with a bias (`conv`), batch norm (`bn`) and, if asked for, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, relu: bool = True) -> None:
        super().__init__(prefix="")
        self.conv = convolution(channels_in, channels_out, kernel, stride, bias=True)
        self.bn = batch_norm(channels_out)
        self._relu = relu

    def hybrid_forward(self, F, x):
        out = self.bn(self.conv(x))
        return F.Activation(out, act_type="relu") if self._relu else out


class Bottleneck(HybridBlock):
    """1x1, 3x3 (with the stride), 1x1 convolutions and the residual sum."""

    def __init__(self, channels_in: int, planes: int, stride: int = 1) -> None:
        super().__init__(prefix="")
        channels_out = planes * _EXPANSION
        self.conv_bn_relu1 = ConvBN(channels_in, planes, 1)
        self.conv_bn_relu2 = ConvBN(planes, planes, 3, stride)
        self.conv_bn_relu3 = ConvBN(planes, channels_out, 1, relu=False)
        self.downsample = None
        if stride != 1 or channels_in != channels_out:
            self.downsample = ConvBN(channels_in, channels_out, 1, stride, relu=False)

    def hybrid_forward(self, F, x):
        out = self.conv_bn_relu3(self.conv_bn_relu2(self.conv_bn_relu1(x)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.Activation(out + shortcut, act_type="relu")


class Top(HybridBlock):
    """The stem, which all stages share: a quarter of the resolution."""

    def __init__(self, spec: MSPNSpec) -> None:
        super().__init__(prefix="")
        self.conv = ConvBN(3, spec.planes, 7, stride=2)

    def hybrid_forward(self, F, x):
        return F.Pooling(self.conv(x), kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max")


class Downsample(HybridBlock):
    """The encoder: outputs of layer1 to layer4, each plus what the previous stage hands over at its resolution."""

    def __init__(self, spec: MSPNSpec) -> None:
        super().__init__(prefix="")
        channels = spec.planes
        for i, blocks in enumerate(BACKBONES[spec.backbone]):
            planes = spec.planes * 2**i
            first = Bottleneck(channels, planes, stride=1 if i == 0 else 2)
            channels = spec.widths[i]
            setattr(
                self, f"layer{i + 1}", sequential(first, *(Bottleneck(channels, planes) for _ in range(blocks - 1)))
            )

    def hybrid_forward(self, F, x, received=None):
        maps = []
        for i, layer in enumerate((self.layer1, self.layer2, self.layer3, self.layer4)):
            x = layer(x)
            if received is not None:
                x = x + received[i]
            maps.append(x)
        return maps


class UpsampleUnit(HybridBlock):
    """One resolution of the decoder; `enlarge` is the factor from it to the heatmaps.

    `follows`: a coarser unit comes before it. `sends`: it hands a map to the next stage's encoder, at the highest
    resolution also the next stage's input (`cross_conv`).
    """

    def __init__(
        self, spec: MSPNSpec, channels_in: int, enlarge: int, num_joints: int, follows: bool, sends: bool
    ) -> None:
        super().__init__(prefix="")
        width = spec.up_width
        self._enlarge = enlarge
        self.u_skip = ConvBN(channels_in, width, 1, relu=False)
        self.up_conv = ConvBN(width, width, 1, relu=False) if follows else None
        self.skip1 = ConvBN(channels_in, channels_in, 1) if sends else None
        self.skip2 = ConvBN(width, channels_in, 1) if sends else None
        self.cross_conv = ConvBN(width, spec.planes, 1) if sends and enlarge == 1 else None
        self.res_conv1 = ConvBN(width, width, 1)
        self.res_conv2 = ConvBN(width, num_joints, 3, relu=False)

    def hybrid_forward(self, F, x, coarser=None):
        """The encoder's map and the coarser unit's -> this unit's map, its heatmaps, and what it sends (or None)."""
        out = self.u_skip(x)
        if self.up_conv is not None:
            out = out + self.up_conv(_resize(F, coarser, 2))
        out = F.Activation(out, act_type="relu")
        heatmaps = _resize(F, self.res_conv2(self.res_conv1(out)), self._enlarge)
        sent = None if self.skip1 is None else self.skip1(x) + self.skip2(out)
        cross = None if self.cross_conv is None else self.cross_conv(out)
        return out, heatmaps, sent, cross


class Upsample(HybridBlock):
    """The decoder: units up1 (coarsest) to up4."""

    def __init__(self, spec: MSPNSpec, num_joints: int, sends: bool) -> None:
        super().__init__(prefix="")
        for i, channels in enumerate(reversed(spec.widths)):
            unit = UpsampleUnit(spec, channels, 2 ** (3 - i), num_joints, follows=i > 0, sends=sends)
            setattr(self, f"up{i + 1}", unit)

    def hybrid_forward(self, F, maps):
        """The encoder's maps, finest first -> heatmaps, coarsest unit first; maps sent, finest first; cross map."""
        out = cross = None
        heatmaps, sent = [], []
        for unit, x in zip((self.up1, self.up2, self.up3, self.up4), reversed(maps)):
            out, maps_of_joints, sent_here, cross = unit(x) if out is None else unit(x, out)
            heatmaps.append(maps_of_joints)
            sent.insert(0, sent_here)
        return heatmaps, sent, cross


class Stage(HybridBlock):
    """One encoder and decoder: heatmaps, and what the next stage reads (Nones at the last): maps sent, cross map."""

    def __init__(self, spec: MSPNSpec, num_joints: int, sends: bool) -> None:
        super().__init__(prefix="")
        self.downsample = Downsample(spec)
        self.upsample = Upsample(spec, num_joints, sends)

    def hybrid_forward(self, F, x, received=None):
        return self.upsample(self.downsample(x, received))


class MSPN(HybridBlock):
    """Up to four stages in a row, each with heatmaps at four resolutions, enlarged to the finest.

    Input (N, 3, H, W) normalised BGR, H and W multiples of 32; output a tuple of stages x 4 arrays (N, K, H/4, W/4),
    stage by stage, the coarsest unit first. All are supervised, the last is decoded.
    """

    head = "heatmap"
    head_layer = "res_conv2"

    def __init__(self, spec: MSPNSpec, num_joints: int) -> None:
        check_joints(num_joints)
        super().__init__(prefix="")
        self.spec = spec
        self.num_joints = num_joints
        self.stride = STRIDE
        self.top = Top(spec)
        for i in range(spec.stages):
            setattr(self, f"stage{i}", Stage(spec, num_joints, sends=i < spec.stages - 1))

    def hybrid_forward(self, F, x):
        outputs, received, x = [], None, self.top(x)
        for i in range(self.spec.stages):
            heatmaps, received, x = getattr(self, f"stage{i}")(x, received)
            outputs += heatmaps
        return tuple(outputs)


def _resize(F, x, factor: int):
    """Bilinear, corners on corners. A factor, not a size, so that one graph serves inputs of any size."""
    if factor == 1:
        return x
    return F.contrib.BilinearResize2D(x, scale_height=factor, scale_width=factor, mode="size", align_corners=True)
