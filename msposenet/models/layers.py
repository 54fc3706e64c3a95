"""Building blocks of HRNet (Sun et al., CVPR 2019, section 3) under the names of the published checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msposenet.runtime import mx

nn = mx.gluon.nn
HybridBlock = mx.gluon.HybridBlock


def convolution(channels_in: int, channels_out: int, kernel: int, stride: int = 1, bias: bool = False) -> nn.Conv2D:
    """A convolution that keeps the size (up to its stride)."""
    return nn.Conv2D(channels_out, kernel, strides=stride, padding=kernel // 2, in_channels=channels_in, use_bias=bias)


def deconvolution(channels_in: int, channels_out: int) -> nn.Conv2DTranspose:
    """A 4x4 transposed convolution that doubles the size."""
    return nn.Conv2DTranspose(channels_out, 4, strides=2, padding=1, in_channels=channels_in, use_bias=False)


def batch_norm(channels: int) -> nn.BatchNorm:
    """Batch normalisation as PyTorch's default: epsilon 1e-5, the running average keeps 0.9."""
    return nn.BatchNorm(in_channels=channels, epsilon=1e-5, momentum=0.9)


def sequential(*blocks: HybridBlock) -> nn.HybridSequential:
    """Blocks in a row, named 0, 1, ... like torch.nn.Sequential."""
    row = nn.HybridSequential(prefix="")
    row.add(*blocks)
    return row


def conv_bn(
    channels_in: int, channels_out: int, kernel: int, stride: int = 1, relu: bool = True, bias: bool = False
) -> nn.HybridSequential:
    """Convolution (0), batch norm (1) and, if asked for, ReLU (2)."""
    tail = (nn.Activation("relu"),) if relu else ()
    return sequential(convolution(channels_in, channels_out, kernel, stride, bias), batch_norm(channels_out), *tail)


class SparseList(HybridBlock):
    """Blocks under integer names with gaps, as a torch ModuleList that holds None at some places."""

    def __init__(self, blocks: Mapping[int, HybridBlock]) -> None:
        super().__init__(prefix="")
        self._blocks = dict(blocks)
        for index, block in self._blocks.items():
            self.register_child(block, str(index))

    def get(self, index: int) -> HybridBlock | None:
        return self._blocks.get(index)


class BasicBlock(HybridBlock):
    """Two 3x3 convolutions and the residual sum."""

    expansion = 1

    def __init__(self, channels_in: int, planes: int) -> None:
        super().__init__(prefix="")
        if channels_in != planes:
            raise ValueError(f"BasicBlock keeps its width: {channels_in} in, {planes} out")
        self.conv1 = convolution(planes, planes, 3)
        self.bn1 = batch_norm(planes)
        self.conv2 = convolution(planes, planes, 3)
        self.bn2 = batch_norm(planes)

    def hybrid_forward(self, F, x):
        out = F.Activation(self.bn1(self.conv1(x)), act_type="relu")
        return F.Activation(self.bn2(self.conv2(out)) + x, act_type="relu")


class Bottleneck(HybridBlock):
    """1x1, 3x3, 1x1 convolutions (x4 wider at the end) and the residual sum."""

    expansion = 4

    def __init__(self, channels_in: int, planes: int) -> None:
        super().__init__(prefix="")
        channels_out = planes * self.expansion
        self.conv1 = convolution(channels_in, planes, 1)
        self.bn1 = batch_norm(planes)
        self.conv2 = convolution(planes, planes, 3)
        self.bn2 = batch_norm(planes)
        self.conv3 = convolution(planes, channels_out, 1)
        self.bn3 = batch_norm(channels_out)
        self.downsample = None
        if channels_in != channels_out:
            self.downsample = conv_bn(channels_in, channels_out, 1, relu=False)

    def hybrid_forward(self, F, x):
        out = F.Activation(self.bn1(self.conv1(x)), act_type="relu")
        out = F.Activation(self.bn2(self.conv2(out)), act_type="relu")
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.Activation(self.bn3(self.conv3(out)) + shortcut, act_type="relu")


class HighResolutionModule(HybridBlock):
    """Parallel branches of basic blocks and one exchange unit among them.

    `widths`: channels of each branch, highest resolution first. `num_outputs`: how many of the exchange's outputs
    are built. `widen`: factor on the width of output 0, whose own path then is a bare 1x1 convolution (FACTS A6).
    """

    def __init__(self, widths: Sequence[int], num_outputs: int, num_blocks: int = 4, widen: int = 1) -> None:
        super().__init__(prefix="")
        self.branches = SparseList(
            {i: sequential(*(BasicBlock(width, width) for _ in range(num_blocks))) for i, width in enumerate(widths)}
        )
        self._num_branches = len(widths)
        self._num_outputs = num_outputs
        self.fuse_layers = SparseList(
            {i: self._exchange_row(widths, i, widths[i] * (widen if i == 0 else 1)) for i in range(num_outputs)}
        )

    @staticmethod
    def _exchange_row(widths: Sequence[int], i: int, channels_out: int) -> SparseList:
        paths = {}
        for j, channels in enumerate(widths):
            if j > i:
                paths[j] = conv_bn(channels, channels_out, 1, relu=False)
            elif j == i and channels_out != channels:
                paths[j] = sequential(convolution(channels, channels_out, 1))
            elif j < i:
                steps = [conv_bn(channels, channels, 3, stride=2) for _ in range(i - j - 1)]
                paths[j] = sequential(*steps, conv_bn(channels, channels_out, 3, stride=2, relu=False))
        return SparseList(paths)

    def hybrid_forward(self, F, *maps):
        maps = [self.branches.get(i)(x) for i, x in enumerate(maps)]
        if self._num_branches == 1:
            return maps
        return [self._exchange(F, maps, i) for i in range(self._num_outputs)]

    def _exchange(self, F, maps, i):
        row = self.fuse_layers.get(i)
        total = maps[i] if row.get(i) is None else row.get(i)(maps[i])
        for j in range(i):
            total = total + row.get(j)(maps[j])
        # Nearest upsampling is linear, so the low-resolution terms are added up from the coarsest, doubling each time:
        # the same sum as enlarging each to full size, at a fraction of the memory traffic.
        lower = None
        for j in range(self._num_branches - 1, i, -1):
            term = row.get(j)(maps[j])
            lower = F.UpSampling(term if lower is None else term + lower, scale=2, sample_type="nearest")
        return F.Activation(total if lower is None else total + lower, act_type="relu")
