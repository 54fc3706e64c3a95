"""One step of training on one or several devices: forward, backward, gradient clipping, update."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from msposenet.data.loader import Batch
from msposenet.errors import ConfigError, DivergedError
from msposenet.runtime import mx
from msposenet.training.optimizer import Adam, OptimizerState

_ARRAYS = 100  # MXNet 1.9.1 aborts the process when an operator on many arrays is given more than about 200


class Stepper:
    """Splits a batch over `contexts`, averages gradients, and updates with Adam.

    `graph` is a hybridized TrainingGraph whose network lives on all contexts; its loss terms are means over a batch,
    so the average over equal parts is the whole batch's.
    """

    def __init__(
        self,
        graph,
        parameters: Mapping[str, mx.gluon.Parameter],
        contexts: Sequence[mx.Context],
        batch_size: int,
        clip_norm: float | None = None,
        amp: bool = False,
    ) -> None:
        if batch_size % len(contexts):
            raise ConfigError(f"train.batch_size {batch_size} does not divide among {len(contexts)} devices")
        self._graph = graph
        self._contexts = list(contexts)
        self._clip_norm = clip_norm
        learnable = {name: p for name, p in parameters.items() if p.grad_req != "null"}
        self._trainer = mx.gluon.Trainer(
            list(learnable.values()),
            Adam(),
            kvstore="device" if len(contexts) > 1 else None,
            update_on_kvstore=False,  # else the state cannot be saved and the rate may not reach the store
        )
        self._amp = amp
        if amp:
            mx.contrib.amp.init_trainer(self._trainer)
        self.optimizer = OptimizerState(self._trainer, learnable)
        self._learnable = list(learnable.values())

    def __call__(self, batch: Batch, rate: float, step: int) -> np.ndarray:
        """Loss terms (T,) of the batch, after whose gradient the weights have moved.

        Raises DivergedError at the step whose loss terms or gradient are not finite; the caller must not save then.
        """
        terms = self._forward_backward(batch)
        _guard_finite(terms, step, rate, batch)
        self._trainer.set_learning_rate(rate)
        self._trainer.allreduce_grads()
        if self._clip_norm is not None:
            if self._amp:
                mx.contrib.amp.unscale(self._trainer)
            self._clip(step, rate, batch)
        # Asked for before the update and read after it: the update is queued while the gradient is still computed.
        finite = self._finite_gradient()
        self._trainer.update(len(self._contexts))
        # The Trainer itself skips a float16 update that overflowed.
        if not self._amp and not finite.asscalar():
            raise DivergedError(_diverged("the gradient is not finite", step, rate, batch))
        return terms

    def _finite_gradient(self) -> mx.nd.NDArray:
        """Whether the first layer's gradient is finite: what is not, anywhere above, has reached it on its way down.

        Looking at every parameter's would cost a tenth of a small network's step on a CPU. One that is not finite by
        itself shows in the next step's loss, and no checkpoint takes such weights.
        """
        return mx.nd.multi_all_finite(self._learnable[0].list_grad()[0], num_arrays=1)

    def _forward_backward(self, batch: Batch) -> np.ndarray:
        terms, losses = [], []
        parts = [np.array_split(array, len(self._contexts)) for array in (batch.crops, batch.joints, batch.weights)]
        with mx.autograd.record():
            for context, crops, joints, labelled in zip(self._contexts, *parts):
                arrays = (crops, joints, labelled)
                inputs = [mx.nd.array(array, ctx=context, dtype=array.dtype) for array in arrays]
                terms.append(self._graph(*inputs))
                losses.append(terms[-1].sum())
            if self._amp:
                with mx.contrib.amp.scale_loss(losses, self._trainer) as scaled:
                    mx.autograd.backward(scaled)
        if not self._amp:
            mx.autograd.backward(losses)
        return np.mean([term.asnumpy() for term in terms], axis=0)

    def _clip(self, step: int, rate: float, batch: Batch) -> None:
        """Scale every device's gradient so that the averaged gradient's norm is at most clip_norm."""
        squares = [mx.nd.multi_sum_sq(*part, num_arrays=len(part)) for part in self._gradient_parts()]
        norm = math.sqrt(float(mx.nd.concat(*squares, dim=0).sum().asscalar())) / len(self._contexts)
        if not math.isfinite(norm):
            if self._amp:
                return  # float16 overflowed: the Trainer skips this update and lowers its loss scale
            raise DivergedError(_diverged("the gradient's norm is not finite", step, rate, batch))
        if norm > self._clip_norm:
            for parameter in self._learnable:
                for gradient in parameter.list_grad():
                    gradient *= self._clip_norm / norm

    def _gradient_parts(self) -> list[list[mx.nd.NDArray]]:
        """The first device's gradients, in parts that MXNet's operators on many arrays can take."""
        gradients = [p.list_grad()[0] for p in self._learnable]
        return [gradients[i : i + _ARRAYS] for i in range(0, len(gradients), _ARRAYS)]


def _guard_finite(terms: np.ndarray, step: int, rate: float, batch: Batch) -> None:
    if not np.isfinite(terms).all():
        raise DivergedError(_diverged(f"loss terms {[float(term) for term in terms]}", step, rate, batch))


def _diverged(what: str, step: int, rate: float, batch: Batch) -> str:
    images = ", ".join(str(image_id) for image_id in batch.image_ids)
    return (
        f"training diverged at step {step} with learning rate {rate:g}: {what}; image ids {images}; the last "
        f"checkpoint is from before it. Lower train.base_lr, add train.warmup_steps or train.clip_norm"
    )
