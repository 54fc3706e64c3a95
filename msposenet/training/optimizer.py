"""Adam as published and as PyTorch computes it, with a state that is plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from msposenet.config import TrainConfig
from msposenet.errors import CheckpointError
from msposenet.runtime import mx
from msposenet.training.schedule import learning_rate

_MOMENTS = ("mean", "variance")


class Adam(mx.optimizer.Adam):
    """Adam (Kingma and Ba, 2015) with epsilon added after the bias correction.

    MXNet adds it before, which shrinks a first step on a gradient of 1e-9 from 9e-5 to 3e-6. Handing MXNet's kernel
    epsilon times the correction of the second moment gives exactly the published rule.
    """

    def update(self, index, weight, grad, state):
        step = self._index_update_count.get(index, self.begin_num_update) + 1
        published = self.epsilon
        self.epsilon = published * (1.0 - self.beta2**step) ** 0.5
        try:
            super().update(index, weight, grad, state)
        finally:
            self.epsilon = published


def make_server_updater(settings: Mapping[str, Any]) -> Callable[[int, Any, Any], None]:
    """What a server of an asynchronous job updates weights with, from a worker's JSON (`server_settings`).

    Every worker's push is an update. A global batch makes as many as there are workers, so each has that share of the
    rate, and the schedule counts in global batches. A resumed run's moments start anew, its schedule does not.
    """
    train = TrainConfig.model_validate(settings["train"])
    workers, devices = int(settings["workers"]), int(settings["devices"])
    first, steps = int(settings["step"]), int(settings["steps_per_epoch"])

    class Schedule:
        base_lr = train.base_lr

        def __call__(self, updates: int) -> float:
            return learning_rate(first + (updates - 1) // workers, steps, train) / workers

    return mx.optimizer.get_updater(Adam(lr_scheduler=Schedule(), rescale_grad=1 / devices))


def server_settings(train: TrainConfig, step: int, steps_per_epoch: int, workers: int, devices: int) -> dict[str, Any]:
    """The JSON from which `make_server_updater` makes the updater of a run that begins at `step`."""
    return {
        "train": train.model_dump(mode="json"),
        "step": step,
        "steps_per_epoch": steps_per_epoch,
        "workers": workers,
        "devices": devices,  # of each worker: their gradients arrive as a sum
    }


class OptimizerState:
    """Reads and writes the moments of a Trainer's Adam by parameter name, and its step count.

    MXNet pickles this state, and loading a pickle runs what is in it; arrays and a number cannot be run.
    `names`: the Trainer's parameters by structural name, in its order.
    """

    def __init__(self, trainer: mx.gluon.Trainer, names: Mapping[str, mx.gluon.Parameter]) -> None:
        self._trainer = trainer
        self._parameters = dict(names)

    def arrays(self) -> dict[str, np.ndarray]:
        """`mean:NAME` and `variance:NAME` of every parameter; empty before the first update."""
        mx.nd.waitall()
        states = self._trainer._updaters[0].states
        return {
            f"{kind}:{name}": array.asnumpy()
            for index, name in enumerate(self._parameters)
            if index in states
            for kind, array in zip(_MOMENTS, states[index])
        }

    @property
    def updates(self) -> int:
        """Updates made so far."""
        return self._trainer._optimizer.num_update

    def restore(self, arrays: Mapping[str, np.ndarray], updates: int) -> None:
        """Put `arrays` back on every device; CheckpointError when they are not this optimizer's."""
        expected = {f"{kind}:{name}": p.shape for name, p in self._parameters.items() for kind in _MOMENTS}
        found = {name: array.shape for name, array in arrays.items()}
        if found != (expected if updates else {}):
            odd = sorted(name for name in set(expected) | set(found) if expected.get(name) != found.get(name))[:5]
            raise CheckpointError(f"the optimizer's state does not fit the network: {', '.join(odd)}; another model?")
        optimizer = self._trainer._optimizer
        optimizer.num_update = optimizer.begin_num_update = updates
        if not updates:
            return
        for device, updater in enumerate(self._trainer._updaters):
            for index, (name, parameter) in enumerate(self._parameters.items()):
                weight = parameter.list_data()[device]
                updater.states[index] = tuple(
                    mx.nd.array(arrays[f"{kind}:{name}"], ctx=weight.context, dtype=weight.dtype) for kind in _MOMENTS
                )
                updater.states_synced[index] = True
                # Each device counts its own updates, under its device number.
                optimizer._set_current_context(weight.context.device_id)
                optimizer._index_update_count[index] = updates
