"""How batch normalisation takes its statistics in training: train.batch_norm.

`local`: each device normalises with its own part of the batch. `frozen`: with the running statistics, which then stay
as they are; scale and offset go on training. `sync`: with the whole batch of all devices of the process.

Only training differs. A graph that is traced outside `mx.autograd.record()` (inference, export, summary) holds the
ordinary operator in every mode, and parameters keep their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msposenet.errors import ConfigError
from msposenet.runtime import mx

MODES = ("local", "sync", "frozen")


class FrozenBatchNorm(mx.gluon.nn.BatchNorm):
    """Batch normalisation that neither uses nor moves its statistics with the batch it is trained on."""

    def hybrid_forward(self, F, x, gamma, beta, running_mean, running_var):
        if not mx.autograd.is_training():
            return super().hybrid_forward(F, x, gamma, beta, running_mean, running_var)
        kwargs = {**self._kwargs, "use_global_stats": True}
        return F.BatchNorm(x, gamma, beta, running_mean, running_var, name="fwd", **kwargs)


def batch_norms(block) -> Iterator[mx.gluon.nn.BatchNorm]:
    """Every batch normalisation below `block`, in the order of construction."""
    if isinstance(block, mx.gluon.nn.BatchNorm):
        yield block
    for child in block._children.values():
        yield from batch_norms(child)


def set_batch_norm(net, mode: str, devices: Sequence[mx.Context], amp: bool = False) -> None:
    """Let the network train as `mode` says; called before anything that holds it is traced.

    `sync` changes nothing here: see training.synchronised.SynchronisedGraph, which takes the place of the training
    graph. Raises ConfigError naming train.batch_norm for an unknown mode and for what cannot be synchronised.
    """
    if mode not in MODES:
        raise ConfigError(f"train.batch_norm: {mode!r} is unknown; known: {', '.join(MODES)}")
    if mode == "sync" and len(devices) < 2:
        raise ConfigError(
            f"train.batch_norm: sync shares statistics among the devices of one process, and this one has "
            f"{len(devices)} ({', '.join(map(str, devices))}); name several in train.devices, or set local"
        )
    if mode == "sync" and amp:
        raise ConfigError(
            "train.batch_norm: sync computes in float32; set train.amp: false, or train.batch_norm: local"
        )
    for block in batch_norms(net):
        # The class alone: a block put in its place would have other names.
        block.__class__ = FrozenBatchNorm if mode == "frozen" else mx.gluon.nn.BatchNorm
        block._clear_cached_op()
