"""Gradients over devices and machines, through MXNet's KVStore.

Many of a network's arrays are small, and each key of a store costs its messages: 0.07 ms and more, measured, whatever
its size. Arrays are therefore put together, in the network's order, into buckets of 2 MB, one key each; one that is
larger travels alone. Everything is queued behind the backward pass: a bucket leaves when its last gradient is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np

from msposenet.distributed.group import Group
from msposenet.distributed.serving import SET_UPDATER
from msposenet.errors import ConfigError
from msposenet.runtime import mx

COMPRESSING = ("dist_sync", "dist_device_sync")
DISTRIBUTED = (*COMPRESSING, "dist_async")
_BUCKET = 2**19  # elements: 2 MB of float32, below MXNet's bound for splitting an array over servers


def choose_kvstore(
    kind: str, devices: Sequence[mx.Context], group: Group, compression: Optional[float] = None
) -> Optional[str]:
    """The store for train.kvstore `kind`, None where there is nothing to sum; ConfigError where it cannot be had.

    compression: threshold of 2-bit gradient compression, if it is wanted.
    """
    chosen = _choose(kind, devices, group)
    if compression is not None and chosen not in COMPRESSING:
        raise ConfigError(
            f"train.compression is of use between workers only ({', '.join(COMPRESSING)}), train.kvstore is "
            f"{chosen or 'none, with one device'}; leave it out"
        )
    return chosen


def _choose(kind: str, devices: Sequence[mx.Context], group: Group) -> Optional[str]:
    on_gpus = all(device.device_type == "gpu" for device in devices)
    if group.launched:
        if kind == "auto":
            return "dist_device_sync" if on_gpus else "dist_sync"
        if kind not in DISTRIBUTED:
            raise ConfigError(
                f"train.kvstore {kind} is for one process, this is a job of {group.size} workers; set one of "
                f"{', '.join(DISTRIBUTED)}, or auto"
            )
        return kind
    if kind in DISTRIBUTED:
        raise ConfigError(
            f"train.kvstore {kind} needs a job (no DMLC_ROLE is set); start it with `msposenet launch -n WORKERS -- "
            "train ...` or MXNet's launch.py, or set device"
        )
    if kind == "nccl" and not on_gpus:
        raise ConfigError("train.kvstore nccl sums between GPUs, the devices are CPUs; set device")
    return None if len(devices) == 1 else "device" if kind == "auto" else kind


class _Bucket:
    """Gradients that travel under one key; per device the arrays, their places in a flat one, and the flat one."""

    def __init__(self, parameters: Sequence[mx.gluon.Parameter]) -> None:
        self.parameters = parameters
        per_device = list(zip(*[parameter.list_grad() for parameter in parameters]))
        self.size = sum(int(np.prod(parameter.shape)) for parameter in parameters)
        if len(parameters) == 1:
            self.flat = [gradients[0] for gradients in per_device]
            self._copies = []
            return
        self.flat = [mx.nd.zeros((self.size,), ctx=grads[0].context, dtype=grads[0].dtype) for grads in per_device]
        ends = np.cumsum([int(np.prod(parameter.shape)) for parameter in parameters]).tolist()
        # Copies into views cost a fifth of MXNet's concat, which moves 0.3 GB/s on a CPU.
        self._copies = [
            (gradient, flat[end - gradient.size : end].reshape(gradient.shape))
            for gradients, flat in zip(per_device, self.flat)
            for gradient, end in zip(gradients, ends)
        ]

    def fill(self) -> None:
        for gradient, place in self._copies:
            gradient.copyto(place)

    def empty(self) -> None:
        for gradient, place in self._copies:
            place.copyto(gradient)


class GradientExchange:
    """Sums the gradients of `parameters` over all devices of all workers.

    kind: device, local or nccl over the devices of one process; dist_sync, dist_device_sync or dist_async over a job's
    workers, as `choose_kvstore` gives it. compression: threshold of 2-bit gradient compression, or None. Raises
    ConfigError for what MXNet cannot do. Sums are not divided here: that happens once, in the update.
    """

    def __init__(
        self,
        kind: str,
        parameters: Sequence[mx.gluon.Parameter],
        group: Group,
        compression: Optional[float] = None,
    ) -> None:
        self.kind = kind
        self.asynchronous = kind == "dist_async"
        self._store = _create(kind, group)
        # Servers of an asynchronous job hold the weights themselves, under a key each.
        self._buckets = [_Bucket([p]) for p in parameters] if self.asynchronous else _buckets(parameters)
        self._compressed = compression is not None
        if compression is not None:
            self._compress(compression)
        if not self.asynchronous:
            self._store.init(self.keys, [mx.nd.zeros_like(bucket.flat[0]) for bucket in self._buckets])

    @property
    def keys(self) -> list[int]:
        """Consecutive, so that MXNet spreads them evenly over the servers."""
        return list(range(len(self._buckets)))

    @property
    def sizes(self) -> list[int]:
        """Elements under each key."""
        return [bucket.size for bucket in self._buckets]

    @property
    def bytes_pushed(self) -> int:
        """Bytes that a worker sends to the servers in a step, without the messages' heads."""
        if self.kind not in DISTRIBUTED:
            return 0
        # 2-bit: sixteen values in each 32-bit word.
        return sum(4 * -(-size // 16) if self._compressed else 4 * size for size in self.sizes)

    @property
    def bytes_pulled(self) -> int:
        """Bytes that a worker receives in a step, without the messages' heads."""
        return 4 * sum(self.sizes) if self.kind in DISTRIBUTED else 0

    def sum(self) -> None:
        """Queue the exchange: when it is through, every device holds the sums in its gradients."""
        for key, bucket in zip(self.keys, self._buckets):
            bucket.fill()
            # A push followed by a pull, since compression does not know the two in one. The first layers' sums are
            # needed first.
            self._store.push(key, bucket.flat, priority=-key)
            self._store.pull(key, bucket.flat, priority=-key)
            bucket.empty()

    def start_servers(self, updater: Mapping[str, Any]) -> None:
        """dist_async: the servers take the weights as they are here and update them as `updater` (JSON) says."""
        self._store.init(self.keys, [bucket.parameters[0].list_data()[0] for bucket in self._buckets])
        if self._store.rank == 0:
            # MXNet's set_optimizer would send a pickle.
            self._store._send_command_to_servers(SET_UPDATER, json.dumps(dict(updater)))
        self._store._barrier()

    def update_on_servers(self) -> None:
        """dist_async: queue that the servers update with this worker's gradients, and that their weights come back."""
        for key, bucket in zip(self.keys, self._buckets):
            self._store.push(key, bucket.flat, priority=-key)
            self._store.pull(key, bucket.parameters[0].list_data(), priority=-key)

    def fetch(self) -> None:
        """dist_async: wait for the servers' weights as they are now."""
        for key, bucket in zip(self.keys, self._buckets):
            self._store.pull(key, bucket.parameters[0].list_data(), priority=-key)
        mx.nd.waitall()

    def close(self) -> None:
        """Leave the store. In a job this waits for all workers, and then the servers end."""
        mx.nd.waitall()
        self._store = None  # the last reference: MXNet's farewell is in its destructor

    def _compress(self, threshold: float) -> None:
        if any(flat.dtype != np.float32 for bucket in self._buckets for flat in bucket.flat):
            raise ConfigError("train.compression takes float32 gradients; set train.amp: false or leave it out")
        self._store.set_gradient_compression({"type": "2bit", "threshold": threshold})


def _create(kind: str, group: Group) -> mx.kv.KVStore:
    try:
        store = mx.kv.create(kind)
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ConfigError(
            f"train.kvstore: this MXNet cannot make {kind!r} ({reason}); nccl needs a GPU build"
        ) from None
    if kind in DISTRIBUTED and store.num_workers != group.size:
        # A store without its launcher quietly believes to be alone.
        raise ConfigError(f"train.kvstore {kind}: MXNet counts {store.num_workers} workers, the job has {group.size}")
    return store


def _buckets(parameters: Sequence[mx.gluon.Parameter]) -> list[_Bucket]:
    buckets: list[_Bucket] = []
    waiting: list[mx.gluon.Parameter] = []
    filled = 0
    for parameter in parameters:
        size = int(np.prod(parameter.shape))
        if waiting and (filled + size > _BUCKET or parameter.dtype != waiting[0].dtype):
            buckets.append(_Bucket(waiting))
            waiting, filled = [], 0
        waiting.append(parameter)
        filled += size
    if waiting:
        buckets.append(_Bucket(waiting))
    return buckets
