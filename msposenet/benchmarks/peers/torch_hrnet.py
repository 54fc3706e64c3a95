"""HRNet's pose network restated plainly in PyTorch, module for module as the published program runs it.

For comparison alone: eager, every path of an exchange enlarged to full size by its own Upsample, then summed. Names are
those of the published checkpoints. Sun et al., CVPR 2019, section 3.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from msposenet.benchmarks.network import read_weights
from msposenet.benchmarks.worker import NotMeasured
from msposenet.models.zoo import model_info

_STEM = 64
_LAYER1 = 256


def _conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)


def _conv_bn(channels_in: int, channels_out: int, kernel: int, stride: int = 1, relu: bool = True) -> nn.Sequential:
    tail = [nn.ReLU(inplace=True)] if relu else []
    return nn.Sequential(_conv(channels_in, channels_out, kernel, stride), nn.BatchNorm2d(channels_out), *tail)


class Basic(nn.Module):
    """Two 3x3 convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(width, width, 3), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + x)


class Neck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside the identity, or a 1x1 where the width changes."""

    def __init__(self, channels_in: int, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(channels_in, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.downsample = None if channels_in == 4 * width else _conv_bn(channels_in, 4 * width, 1, relu=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        beside = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + beside)


class Exchange(nn.Module):
    """Branches of four basic blocks, then each of `outputs` maps as the sum of what all branches send it."""

    def __init__(self, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(Basic(width) for _ in range(4))) for width in widths)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._path(widths, to, source) for source in range(len(widths))) for to in range(outputs)
        )
        self.relu = nn.ReLU(inplace=True)

    @staticmethod
    def _path(widths: Sequence[int], to: int, source: int) -> nn.Module | None:
        if source == to:
            return None
        if source > to:
            path = _conv_bn(widths[source], widths[to], 1, relu=False)
            return path.append(nn.Upsample(scale_factor=2 ** (source - to), mode="nearest"))
        between = [_conv_bn(widths[source], widths[source], 3, 2) for _ in range(to - source - 1)]
        return nn.Sequential(*between, _conv_bn(widths[source], widths[to], 3, 2, relu=False))

    def forward(self, maps):
        maps = [branch(x) for branch, x in zip(self.branches, maps)]
        sums = []
        for row in self.fuse_layers:
            parts = [x if path is None else path(x) for path, x in zip(row, maps)]
            total = parts[0]
            for part in parts[1:]:
                total = total + part
            sums.append(self.relu(total))
        return sums


class HRNet(nn.Module):
    """(N, 3, H, W) normalised RGB -> heatmaps (N, joints, H / 4, W / 4)."""

    def __init__(self, width: int, num_joints: int, modules: Sequence[int] = (1, 4, 3)) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.conv1, self.bn1 = _conv(3, _STEM, 3, 2), nn.BatchNorm2d(_STEM)
        self.conv2, self.bn2 = _conv(_STEM, _STEM, 3, 2), nn.BatchNorm2d(_STEM)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(Neck(_STEM, _STEM), *(Neck(_LAYER1, _STEM) for _ in range(3)))
        self.transition1 = nn.ModuleList(
            [_conv_bn(_LAYER1, widths[0], 3), nn.Sequential(_conv_bn(_LAYER1, widths[1], 3, 2))]
        )
        self.stage2 = self._stage(widths[:2], modules[0])
        self.transition2 = nn.ModuleList([None, None, nn.Sequential(_conv_bn(widths[1], widths[2], 3, 2))])
        self.stage3 = self._stage(widths[:3], modules[1])
        self.transition3 = nn.ModuleList([None, None, None, nn.Sequential(_conv_bn(widths[2], widths[3], 3, 2))])
        self.stage4 = self._stage(widths, modules[2], last=1)
        self.final_layer = nn.Conv2d(widths[0], num_joints, 1)

    @staticmethod
    def _stage(widths: Sequence[int], count: int, last: int | None = None) -> nn.Sequential:
        outputs = [len(widths)] * (count - 1) + [last or len(widths)]
        return nn.Sequential(*(Exchange(widths, number) for number in outputs))

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer1(self.relu(self.bn2(self.conv2(x))))
        maps = self.stage2([transition(x) for transition in self.transition1])
        maps = self.stage3([*maps, self.transition2[2](maps[-1])])
        maps = self.stage4([*maps, self.transition3[3](maps[-1])])
        return self.final_layer(maps[0])


def _network(name: str, num_joints: int, weights: str, channels_last: bool) -> HRNet:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    info = model_info(name)
    if (info.family, info.stages, info.head) != ("hrnet", 1, "heatmap"):
        raise NotMeasured(f"{name} has no restatement here; HRNet of one stage with heatmaps has")
    net = HRNet(info.width, num_joints, info.modules)
    # strict: a name that differs would leave a layer at its initial values.
    given = {key: torch.from_numpy(array) for key, array in read_weights(weights).items()}
    counters = {key: value for key, value in net.state_dict().items() if key.endswith("num_batches_tracked")}
    net.load_state_dict({**given, **counters})
    return net.to(memory_format=_format(channels_last))


def _format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def inference(data: str, channels_last: bool, **network) -> Callable[[], np.ndarray]:
    """A forward pass, eager, without the graph of gradients."""
    net = _network(**network, channels_last=channels_last).eval()
    pictures = torch.from_numpy(np.load(data)).to(memory_format=_format(channels_last))

    def step() -> np.ndarray:
        with torch.inference_mode():
            return net(pictures).contiguous().numpy()

    return step


def training(batch: str, rate: float, channels_last: bool, **network) -> Callable[[], np.ndarray]:
    """A step: forward, HRNet's loss, backward, Adam. Pictures are normalised and targets drawn before."""
    net = _network(**network, channels_last=channels_last).train()
    with np.load(batch) as arrays:
        pictures, targets, weights = (torch.from_numpy(arrays[key]) for key in ("pictures", "targets", "used"))
    pictures = pictures.to(memory_format=_format(channels_last))
    weights = weights[:, :, None, None]
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)

    def step() -> np.ndarray:
        loss = 0.5 * nn.functional.mse_loss(net(pictures) * weights, targets * weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach().reshape(1).numpy()

    return step
