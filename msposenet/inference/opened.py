"""An engine from what a user names, here or in several processes, with the settings that belong to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from msposenet.config import Config, TestConfig
from msposenet.devices import contexts
from msposenet.errors import ConfigError
from msposenet.inference.deployed import Deployed, is_deployment
from msposenet.inference.engine import Engine
from msposenet.inference.processes import Processes
from msposenet.inference.source import find_config, load_topdown


@dataclass(frozen=True)
class Opened:
    """An engine, the margin of its boxes, and how people are rescored and merged."""

    engine: Engine
    enlarge: float
    joint_score: float
    oks_nms: float


def open_engine(
    model: str | Path,
    weights: str | Path | None = None,
    device: str = "auto",
    flip: bool | None = None,
    batch_size: int | None = None,
    processes: int = 1,
    config: Config | None = None,
) -> Opened:
    """The engine of a run, an export folder, a configuration file or a zoo name; the last two with `weights`.

    flip and batch_size: the configuration's when left out; an export has the mirrored pass built in or not. processes:
    above 1, each computes on its share of the cores. Raises ConfigError or CheckpointError when it cannot be used.
    """
    context = contexts([device])[0]
    deployed = is_deployment(Path(model))
    if not deployed:
        config = config or find_config(model)
    test = TestConfig() if config is None else config.test
    if processes < 1:
        raise ConfigError(f"processes is {processes}; give 1 or more")
    if processes > 1:
        if context.device_type != "cpu":
            raise ConfigError(f"several processes share the CPU's cores; {context} wants one: leave processes out")
        several = Processes(model, weights, flip, batch_size, config, processes)
        return Opened(several, several.enlarge, test.joint_score, test.oks_nms)
    if deployed:
        graph = Deployed(Path(model), context, batch_size or test.batch_size)
        return Opened(graph, graph.deployment.enlarge, test.joint_score, test.oks_nms)
    engine, config = load_topdown(model, weights, context, flip, batch_size, config)
    return Opened(engine, config.data.enlarge, test.joint_score, test.oks_nms)
