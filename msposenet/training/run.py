"""A run's directory: config.yaml, log.txt, metrics.jsonl, tensorboard/, checkpoints/, results/."""

from __future__ import annotations

from pathlib import Path

import yaml

from msposenet.config import Config, SkeletonConfig, load_config
from msposenet.errors import ConfigError
from msposenet.skeletons import Skeleton
from msposenet.storage import TEMP_PREFIX, probe_writable, write_text_atomic

CONFIG, CHECKPOINTS, RESULTS = "config.yaml", "checkpoints", "results"

# What a resumed run must share with the one it goes on with: anything else would silently be another experiment.
_FIXED = ("model", "codec", "loss", "augmentation", "data.skeleton", "data.input", "data.enlarge")
_FIXED_ORDER = ("data.pack", "data.share_decode", "data.reduced_decode")
# What of a training set may change: where its files are, what it is called, how it would be scored.
_FREE_OF_SOURCE = ("annotations", "images", "name", "detections", "head_sizes", "metric")
_FIXED_TRAIN = ("train.batch_size", "train.seed", "train.amp", "train.batch_norm")


def is_run(path: Path) -> bool:
    """Whether `path` is a run's directory."""
    return (path / CONFIG).is_file()


def with_skeleton(config: Config, skeleton: Skeleton) -> Config:
    """The configuration with its skeleton written out, so that a run can be used without its data."""
    explicit = SkeletonConfig.of(skeleton)
    return config.model_copy(update={"data": config.data.model_copy(update={"skeleton": explicit})})


def open_run(folder: Path, config: Config, resume: bool, bytes_needed: int) -> list[str]:
    """Make the directory, or check that `config` may go on in it; returns what differs from before.

    Raises ConfigError for a non-empty directory without `resume`, or for a change that would make a resumed run
    another experiment; StorageError when the disk is read-only or too small for `bytes_needed`.
    """
    found: list[str] = []
    if resume:
        if not is_run(folder):
            raise ConfigError(f"{folder}: no run to resume (no {CONFIG}); leave --resume out to start one")
        found = differences(load_config(folder / CONFIG), config)
        fixed = [line for line in found if _is_fixed(line)]
        if fixed:
            raise ConfigError(f"{folder}: a resumed run cannot change {'; '.join(fixed)}; start a new run")
    elif folder.exists() and (not folder.is_dir() or _is_used(folder)):
        raise ConfigError(f"{folder}: is not empty; add --resume to go on with it, or choose another --run directory")
    probe_writable(folder, bytes_needed)
    write_text_atomic(folder / CONFIG, config.dump())  # first of all: with it, whatever is killed now can be resumed
    (folder / RESULTS).mkdir(exist_ok=True)
    (folder / CHECKPOINTS).mkdir(exist_ok=True)
    return found


def _is_used(folder: Path) -> bool:
    return any(not path.name.startswith(TEMP_PREFIX) for path in folder.iterdir())


def _is_fixed(difference: str) -> bool:
    key = difference.split(" ")[0]
    if key.startswith("data.train"):
        return key.rsplit(".", 1)[-1] not in _FREE_OF_SOURCE
    return key.startswith((*_FIXED, *_FIXED_ORDER, *_FIXED_TRAIN))


def differences(before: Config, after: Config) -> list[str]:
    """What differs, as "key before -> after"."""
    old, new = _flat(yaml.safe_load(before.dump())), _flat(yaml.safe_load(after.dump()))
    return [f"{key} {old.get(key)} -> {new.get(key)}" for key in new | old if old.get(key) != new.get(key)]


def _flat(section: dict, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in section.items():
        name = f"{prefix}{key}"
        if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
            value = {str(number): entry for number, entry in enumerate(value)}
        flat.update(_flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value})
    return flat
