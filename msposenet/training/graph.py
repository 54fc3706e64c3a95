"""The training graph: crops and joints in, loss terms out. Normalisation and targets are made on the device."""

from __future__ import annotations

from collections.abc import Sequence

from msposenet import losses
from msposenet.codecs import Codec, OffsetCodec
from msposenet.config import LossConfig
from msposenet.errors import ConfigError
from msposenet.models.graphs import normalise
from msposenet.models.layers import HybridBlock
from msposenet.skeletons import Skeleton


def loss_names(codec: Codec, num_outputs: int) -> list[str]:
    """Names of the terms that `TrainingGraph` returns, in its order."""
    terms = ("class", "offset") if isinstance(codec, OffsetCodec) else ("heatmap",)
    return [f"{term}_stage{stage + 1}" for stage in range(num_outputs) for term in terms]


class TrainingGraph(HybridBlock):
    """crops (N, H, W, 3) uint8, joints (N, K, 2) in crop px, weights (N, K) -> weighted loss terms (T,).

    The loss is the terms' sum; `loss_names` tells them apart. Joint weights, the batch's and the configured ones,
    multiply predictions and targets before squaring, as in HRNet's program.
    """

    def __init__(self, net, codec: Codec, config: LossConfig, skeleton: Skeleton, num_outputs: int) -> None:
        super().__init__(prefix="")
        self.net = net
        self._codec = codec
        self._config = config
        self._joint_weights = _joint_weights(config, skeleton)
        self._stage_weights = _stage_weights(config.stage_weights, num_outputs)

    def hybrid_forward(self, F, crops, joints, weights):
        outputs = self.net(normalise(F, crops))
        target, used = self._codec.targets(F, joints, weights)
        weight = used * weights
        if any(value != 1 for value in self._joint_weights):
            columns = [F.full((1, 1), value) for value in self._joint_weights]
            weight = F.broadcast_mul(weight, F.concat(*columns, dim=1))
        # Targets are constants of the step: nothing flows back into them.
        target, weight = F.BlockGrad(target), F.BlockGrad(weight)
        terms = []
        for output, stage_weight in zip(outputs, self._stage_weights):
            terms += [term * stage_weight for term in self._terms(F, output, target, weight)]
        return F.concat(*[F.reshape(term, shape=(1,)) for term in terms], dim=0)

    def _terms(self, F, output, target, weight) -> Sequence:
        config = self._config
        if isinstance(self._codec, OffsetCodec):
            return losses.offset_loss(F, output, target, weight, config.offset, config.offset_weight)
        if config.heatmap == "ohkm":
            return (losses.heatmap_ohkm(F, output, target, weight, config.ohkm_top),)
        return (losses.heatmap_mse(F, output, target, weight),)


def _joint_weights(config: LossConfig, skeleton: Skeleton) -> list[float]:
    for joint in config.joint_weights:
        skeleton.index(joint)
    return [config.joint_weights.get(joint, 1.0) for joint in skeleton.joints]


def _stage_weights(weights: Sequence[float] | None, num_outputs: int) -> list[float]:
    if weights is None:
        return [1.0] * num_outputs
    if len(weights) != num_outputs:
        raise ConfigError(f"loss.stage_weights has {len(weights)} values; the network has {num_outputs} stages")
    return list(weights)
