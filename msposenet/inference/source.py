"""A network with its weights from what a user names: a run, a configuration file, or a zoo name."""

from __future__ import annotations

from pathlib import Path

from msposenet.config import Config, build_config, load_config, override
from msposenet.errors import ConfigError
from msposenet.inference.topdown import TopDown
from msposenet.models.build import build_codec, build_network, shifts, topdown_info
from msposenet.models.initialise import initialise
from msposenet.models.zoo import model_info
from msposenet.runtime import mx
from msposenet.skeletons import COCO_17, Skeleton
from msposenet.weights.cache import find_file
from msposenet.weights.files import load_weights

_CONFIG = "config.yaml"


def find_config(model: str | Path, overrides: tuple[str, ...] = ()) -> Config:
    """The configuration of a run directory, a YAML file, or a zoo name (in the convention that its weights want)."""
    path = Path(model)
    if (path / _CONFIG).is_file():
        return load_config(path / _CONFIG, overrides)
    if path.is_file():
        return load_config(path, overrides)
    if path.is_dir():
        raise ConfigError(f"{path}: neither a run (no {_CONFIG}) nor an export (no deploy.json)")
    try:
        info = model_info(str(model))
    except ConfigError as error:
        raise ConfigError(f"{model}: no such run, export, configuration file or model; {error}") from None
    content = {"model": {"name": info.name}, "codec": {"convention": topdown_info(info.name).convention}}
    return build_config(override(content, overrides), str(model))


def skeleton_of(config: Config) -> Skeleton:
    """The configured skeleton; COCO's where the configuration leaves it to a data file."""
    return config.fixed_skeleton() or COCO_17


def load_network(model: str | Path, config: Config, weights: str | Path | None, context: mx.Context):
    """The configured network filled from `weights`, or from the run `model` itself (its best, else last checkpoint).

    weights: a file, checkpoint, run, or a tag of docs/weights.md. Raises ConfigError when neither holds weights.
    """
    source = find_file(weights) if weights is not None else Path(model)
    if weights is None and not (source / _CONFIG).is_file():
        raise ConfigError(f"{model} is not a run, so it holds no weights; name them with --weights FILE")
    net = build_network(config, skeleton_of(config))
    initialise(net, ctx=context)
    load_weights(net, source)
    return net


def load_topdown(
    model: str | Path,
    weights: str | Path | None = None,
    context: mx.Context | None = None,
    flip: bool | None = None,
    batch_size: int | None = None,
    config: Config | None = None,
) -> tuple[TopDown, Config]:
    """A ready engine and the configuration it was built from, whose `flip` and `batch_size` are the defaults."""
    context = context or mx.cpu()
    config = config or find_config(model)
    net = load_network(model, config, weights, context)
    engine = TopDown(
        net,
        build_codec(config),
        skeleton_of(config),
        context,
        config.test.flip if flip is None else flip,
        shifts(config),
        batch_size or config.test.batch_size,
    )
    return engine, config
