"""Codec and network of a configuration: the one place where its defaults become choices."""

from __future__ import annotations

from msposenet.codecs import Codec, GaussianCodec, OffsetCodec
from msposenet.config import Config
from msposenet.errors import ConfigError
from msposenet.geometry import Convention
from msposenet.models.zoo import ModelInfo, get_model, model_info
from msposenet.skeletons import Skeleton

_STRIDE = 4  # of every network here, in input px; importing it from them would import MXNet
_SIGMA_PER_HEIGHT = 2 / 64  # HRNet: 2 px of a 64 px high map, 3 of 96
_GAUSSIAN_KERNEL = 11
_OFFSET_KERNEL = 7


def topdown_info(name: str) -> ModelInfo:
    """What the name stands for. Raises ConfigError for a family that is not trained and decoded."""
    info = model_info(name)
    if info.family != "hrnet":
        raise ConfigError(
            f"model {name}: networks of the {info.family} family can be built, filled with weights and exported, but "
            f"only hrnet_* and mshrnet_* are trained, evaluated and used to predict"
        )
    return info


def head_of(config: Config) -> str:
    """`heatmap` or `offset`: the configured head, else the model's own. Raises ConfigError as topdown_info does."""
    own = topdown_info(config.model.name).head
    return config.model.head or own


def build_codec(config: Config) -> Codec:
    """The codec that the configuration describes. Raises ConfigError for a decoder of the other head."""
    settings = config.codec
    convention = Convention(settings.convention)
    input_wh = config.data.input_wh
    heatmap_wh = (input_wh[0] // _STRIDE, input_wh[1] // _STRIDE)
    unbiased = convention is Convention.UNBIASED
    if head_of(config) == "offset":
        return OffsetCodec(
            input_wh,
            heatmap_wh,
            convention,
            radius_factor=settings.radius_factor,
            decoder=settings.decoder or "peak",
            kernel=settings.kernel or _OFFSET_KERNEL,
        )
    return GaussianCodec(
        input_wh,
        heatmap_wh,
        convention,
        sigma=settings.sigma or _SIGMA_PER_HEIGHT * heatmap_wh[1],
        centre=settings.centre or ("unrounded" if unbiased else "rounded"),
        decoder=settings.decoder or ("udp" if unbiased else "quarter"),
        kernel=settings.kernel or _GAUSSIAN_KERNEL,
    )


def shifts(config: Config) -> bool:
    """Whether the mirrored map is moved by one pixel before averaging."""
    gaussian = head_of(config) == "heatmap"
    if config.test.shift is not None:
        if config.test.shift and not gaussian:
            raise ConfigError("test.shift belongs to heatmaps; leave it out for the offset head")
        return config.test.shift
    return gaussian and Convention(config.codec.convention) is Convention.STANDARD


def build_network(config: Config, skeleton: Skeleton):
    """The configured network for the skeleton's joints, not yet initialised."""
    return get_model(config.model.name, skeleton.num_joints, head_of(config), **config.model.options)


def sanity_check(config: Config, skeleton: Skeleton) -> None:
    """Refuse early what would only fail, or silently do nothing, once training runs. Raises ConfigError."""
    build_codec(config)
    shifts(config)
    for joint in config.loss.joint_weights:
        skeleton.index(joint)
    if head_of(config) == "offset" and config.loss.heatmap != "mse":
        raise ConfigError("loss.heatmap: ohkm mines heatmaps; the offset head has none. Set model.head: heatmap")
    if config.loss.ohkm_top > skeleton.num_joints and config.loss.heatmap == "ohkm":
        raise ConfigError(f"loss.ohkm_top is {config.loss.ohkm_top}; the skeleton has {skeleton.num_joints} joints")
    if (
        config.augmentation.half_body > 0
        and not skeleton.upper
        and skeleton.num_joints > config.augmentation.half_body_joints
    ):
        raise ConfigError(
            f"augmentation.half_body needs the skeleton's upper body: name its joints among "
            f"{', '.join(skeleton.joints)} under data.skeleton.upper, or set augmentation.half_body: 0"
        )
