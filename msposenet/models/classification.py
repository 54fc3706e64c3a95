"""HRNet for ImageNet's classes (Wang et al., TPAMI 2020): where pose networks take their first weights from.

Attribute names are those of the published PyTorch checkpoints (hrnetv2_w*_imagenet_pretrained).
"""

from __future__ import annotations

from dataclasses import dataclass

from msposenet.models.checks import check_count
from msposenet.models.layers import Bottleneck, conv_bn, nn, sequential
from msposenet.models.trunk import HighResolutionTrunk, TrunkSpec

_PLANES = (32, 64, 128, 256)  # of the bottleneck behind each branch, which gives four times as many channels
_FEATURES = 2048


@dataclass(frozen=True)
class ClassificationSpec(TrunkSpec):
    """The trunk, whose last module keeps all four resolutions, and `num_classes`."""

    num_classes: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_classes", self.num_classes, 1, 1_000_000)


class HRNetClassifier(HighResolutionTrunk):
    """HRNet whose four resolutions are added up, from the highest downwards, and classified.

    Input (N, 3, H, W) normalised RGB, H and W multiples of 32; output a tuple of one (N, classes) array of logits.
    """

    head = None
    head_layer = "classifier"

    def __init__(self, spec: ClassificationSpec) -> None:
        super().__init__(spec, all_scales=True)
        self.spec = spec
        self.num_joints = None
        channels = [planes * Bottleneck.expansion for planes in _PLANES]
        self.incre_modules = sequential(
            *(sequential(Bottleneck(width, planes)) for width, planes in zip(spec.widths, _PLANES))
        )
        self.downsamp_modules = sequential(
            *(conv_bn(fine, coarse, 3, stride=2, bias=True) for fine, coarse in zip(channels, channels[1:]))
        )
        self.final_layer = conv_bn(channels[-1], _FEATURES, 1, bias=True)
        self.classifier = nn.Dense(spec.num_classes, in_units=_FEATURES)

    def hybrid_forward(self, F, x):
        maps, _, _ = super().hybrid_forward(F, x)
        total = self.incre_modules[0](maps[0])
        for i in range(1, len(maps)):
            total = self.incre_modules[i](maps[i]) + self.downsamp_modules[i - 1](total)
        pooled = F.Pooling(self.final_layer(total), global_pool=True, pool_type="avg")
        return (self.classifier(pooled),)
