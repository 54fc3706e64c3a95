"""One step of training, on one or several devices of one or several workers: forward, backward, exchange, update."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from msposenet.data.loader import Batch
from msposenet.distributed.group import Alone, Group
from msposenet.distributed.store import GradientExchange
from msposenet.errors import ConfigError, DivergedError
from msposenet.runtime import mx
from msposenet.training.optimizer import Adam, OptimizerState
from msposenet.training.synchronised import SynchronisedGraph

_ARRAYS = 100  # MXNet 1.9.1 aborts the process when an operator on many arrays is given more than about 200


class Stepper:
    """Splits a worker's part of a batch over `contexts`, sums gradients over all parts, updates with Adam.

    `graph` is a hybridized TrainingGraph whose network lives on all contexts; its loss terms are means over a batch,
    so the average over equal parts is the whole batch's. batch_size: global. kvstore: how gradients are summed
    (`choose_kvstore`), None for one device of one worker. With dist_async the servers update.

    With `synchronised`, batch normalisation sees the whole batch of this process's devices.

    `stopping` says after each step whether the job was asked to stop; synchronous workers agree on it.
    """

    def __init__(
        self,
        graph,
        parameters: Mapping[str, mx.gluon.Parameter],
        contexts: Sequence[mx.Context],
        batch_size: int,
        clip_norm: float | None = None,
        amp: bool = False,
        group: Group | None = None,
        kvstore: str | None = None,
        compression: float | None = None,
        synchronised: bool = False,
    ) -> None:
        group = group or Alone()
        parts = len(contexts) * group.size
        if batch_size % parts:
            among = f"{len(contexts)} devices" + (f" of each of {group.size} workers" if group.size > 1 else "")
            raise ConfigError(f"train.batch_size {batch_size} does not divide among {among}; make it a multiple")
        self._graph = graph
        self._synchronised = SynchronisedGraph(graph, contexts) if synchronised else None
        self._contexts = list(contexts)
        self._clip_norm = clip_norm
        self._group = group
        self._parts = parts
        learnable = {name: p for name, p in parameters.items() if p.grad_req != "null"}
        # Without a store: the sums come from `exchange`, which knows more ways and puts small arrays together.
        self._trainer = mx.gluon.Trainer(list(learnable.values()), Adam(), kvstore=None)
        self._amp = amp
        if amp:
            mx.contrib.amp.init_trainer(self._trainer)
        self.optimizer = OptimizerState(self._trainer, learnable)
        self.learnable = learnable
        self._parameters = list(learnable.values())
        self.exchange = None
        if kvstore is not None:
            self.exchange = GradientExchange(kvstore, self._parameters, group, compression)
        self.asynchronous = self.exchange is not None and self.exchange.asynchronous
        if self.asynchronous and amp:
            raise ConfigError("train.amp: servers of dist_async update in float32; use dist_device_sync")
        if self.asynchronous and clip_norm is not None and len(contexts) > 1:
            raise ConfigError(
                f"train.clip_norm: with dist_async the servers add up the gradients of a worker's {len(contexts)} "
                "devices, unclipped; give each worker one device, or use dist_device_sync"
            )
        self.stopping = False

    def __call__(self, batch: Batch, rate: float, step: int) -> np.ndarray:
        """Loss terms (T,) of the global batch (dist_async: of this worker's part), whose gradient moved the weights.

        Raises DivergedError, on every worker, at the step whose loss terms or gradient are not finite; the caller must
        not save then.
        """
        terms = self._forward_backward(batch)
        if self.asynchronous:
            return self._update_on_servers(terms, batch, rate, step)
        if self.exchange is not None:
            self.exchange.sum()
        means = np.mean([term.asnumpy() for term in terms], axis=0)
        means = self._agree(means, batch, rate, step)
        self._trainer.set_learning_rate(rate)
        if self._clip_norm is not None:
            if self._amp:
                mx.contrib.amp.unscale(self._trainer)
            self._clip(self._parts, step, rate, batch)
        # Asked for before the update and read after it: the update is queued while the gradient is still computed.
        finite = self._finite_gradient()
        self._trainer.update(self._parts)
        # The Trainer itself skips a float16 update that overflowed.
        if not self._amp and not finite.asscalar():
            raise self._gradient_diverged("the gradient is not finite", step, rate, batch)
        return means

    def close(self) -> None:
        """Leave the job's store, together with the other workers."""
        if self.exchange is not None:
            self.exchange.close()

    def _update_on_servers(self, terms, batch: Batch, rate: float, step: int) -> np.ndarray:
        if self._clip_norm is not None:
            self._clip(1, step, rate, batch)
        finite = self._finite_gradient()
        means = np.mean([term.asnumpy() for term in terms], axis=0)
        if not np.isfinite(means).all() or not finite.asscalar():
            # Looked at before anything is sent: the servers' weights are everybody's.
            raise DivergedError(_diverged(_not_finite(means), step, rate, batch.image_ids))
        self.exchange.update_on_servers()
        self.stopping = self._group.stop_requested
        return means

    def _agree(self, means: np.ndarray, batch: Batch, rate: float, step: int) -> np.ndarray:
        """The global batch's terms, and whether to stop; the workers also learn that all are at the same step."""
        own = {"terms": means.tolist(), "stop": self._group.stop_requested}
        if not np.isfinite(means).all():
            own["images"] = batch.image_ids.tolist()
        everybody = self._group.all(f"step {step}", own)
        self.stopping = any(worker["stop"] for worker in everybody)
        if len(everybody) > 1:
            means = np.mean([worker["terms"] for worker in everybody], axis=0)
        images = [image for worker in everybody for image in worker.get("images", [])]
        if images:
            raise DivergedError(_diverged(_not_finite(means), step, rate, images))
        return means

    def _finite_gradient(self) -> mx.nd.NDArray:
        """Whether the first layer's gradient is finite: what is not, anywhere above, has reached it on its way down.

        Looking at every parameter's would cost a tenth of a small network's step on a CPU. One that is not finite by
        itself shows in the next step's loss, and no checkpoint takes such weights.
        """
        return mx.nd.multi_all_finite(self._parameters[0].list_grad()[0], num_arrays=1)

    def _forward_backward(self, batch: Batch) -> list[mx.nd.NDArray]:
        terms, losses = [], []
        parts = [np.array_split(array, len(self._contexts)) for array in (batch.crops, batch.joints, batch.weights)]
        if self._synchronised is not None:
            return self._synchronised(list(zip(*parts)))
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
        return terms

    def _clip(self, parts: int, step: int, rate: float, batch: Batch) -> None:
        """Scale every device's gradient, a sum over `parts`, so that its average's norm is at most clip_norm."""
        squares = [mx.nd.multi_sum_sq(*part, num_arrays=len(part)) for part in self._gradient_parts()]
        norm = math.sqrt(float(mx.nd.concat(*squares, dim=0).sum().asscalar())) / parts
        if not math.isfinite(norm):
            if self._amp:
                return  # float16 overflowed: the Trainer skips this update and lowers its loss scale
            raise self._gradient_diverged("the gradient's norm is not finite", step, rate, batch)
        if norm > self._clip_norm:
            for parameter in self._parameters:
                for gradient in parameter.list_grad():
                    gradient *= self._clip_norm / norm

    def _gradient_diverged(self, what: str, step: int, rate: float, batch: Batch) -> DivergedError:
        """All workers see it in the sum and none whose part it was: the whole batch's pictures are named."""
        own = batch.image_ids.tolist()
        everybody = [own] if self.asynchronous else self._group.all(f"images of step {step}", own)
        return DivergedError(_diverged(what, step, rate, [image for part in everybody for image in part]))

    def _gradient_parts(self) -> list[list[mx.nd.NDArray]]:
        """The first device's gradients, in parts that MXNet's operators on many arrays can take."""
        gradients = [p.list_grad()[0] for p in self._parameters]
        return [gradients[i : i + _ARRAYS] for i in range(0, len(gradients), _ARRAYS)]


def _not_finite(terms: np.ndarray) -> str:
    if np.isfinite(terms).all():
        return "the gradient is not finite"
    return f"loss terms {[float(term) for term in terms]}"


def _diverged(what: str, step: int, rate: float, image_ids: Iterable[int]) -> str:
    images = ", ".join(str(image_id) for image_id in image_ids)
    return (
        f"training diverged at step {step} with learning rate {rate:g}: {what}; image ids {images}; the last "
        f"checkpoint is from before it. Lower train.base_lr, add train.warmup_steps or train.clip_norm"
    )
