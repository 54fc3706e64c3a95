"""One network for all contenders: made-up weights under the published checkpoints' names, in a file that all read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msposenet.models.zoo import get_model

# Scales of what is added to an identity: undamped, values would double with every block.
_DAMPED = (".bn2.weight", ".bn3.weight")
_DAMPING = 0.25


@dataclass(frozen=True)
class Network:
    """A model with its weights in the file `weights`; `multiply_adds` of one picture of `input_hw` px."""

    name: str
    num_joints: int
    input_hw: tuple[int, int]
    weights: Path
    multiply_adds: int

    @property
    def options(self) -> dict:
        """For a contender's function: what it builds the network from."""
        return {"name": self.name, "num_joints": self.num_joints, "weights": str(self.weights)}


def write_network(name: str, num_joints: int, input_hw: tuple[int, int], weights: Path) -> Network:
    """Weights of the model `name` to the file `weights`. ConfigError for a name that is none."""
    from msposenet.models.summary import summarise
    from msposenet.weights.official import official_name

    net = get_model(name, num_joints)
    shapes = {official_name(key): value.shape for key, value in net._collect_params_with_prefix().items()}
    np.savez(weights, **made_up(shapes, np.random.default_rng(0)))
    return Network(name, num_joints, input_hw, weights, summarise(net, name, input_hw).multiply_adds)


def read_network(name: str, num_joints: int, weights: str):
    """In a contender's process: the network of `Network.options`, with its weights."""
    from msposenet.weights.official import load_torch_state_dict

    net = get_model(name, num_joints)
    load_torch_state_dict(net, read_weights(weights))
    return net


def read_weights(weights: str) -> dict[str, np.ndarray]:
    """The arrays of the file under their official names."""
    with np.load(weights) as arrays:
        return dict(arrays)


def made_up(shapes: dict[str, tuple[int, ...]], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights with which every layer matters to the output and none makes it overflow, by official name.

    Batch norms have statistics of their own, so that folding one wrongly shows.
    """
    arrays = {}
    for name, shape in shapes.items():
        if len(shape) >= 2:
            values = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith((".weight", ".running_var")):
            values = rng.uniform(0.5, 1.5, shape)
            if name.endswith(".weight") and (name.endswith(_DAMPED) or "fuse_layers" in name):
                values = values * _DAMPING
        else:
            values = rng.uniform(-0.5, 0.5, shape)
        arrays[name] = values.astype(np.float32)
    return arrays
