"""Which samples come when, and where their randomness comes from: pure functions of (seed, epoch, index).

Neither the number of ranks, devices and loader workers nor where a run was resumed changes what is trained on.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from msposenet.errors import ConfigError


@lru_cache(maxsize=4)  # asked for at every step of an epoch
def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order (count,) in which an epoch visits the samples; not to be written to."""
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)
    order.setflags(write=False)
    return order


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator of all random choices of one sample in one epoch."""
    # The counter's top word separates the samples (and the order, at 0): their streams never meet.
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, index + 1]))


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Full global batches in an epoch; a set smaller than one batch still makes one, by repeating samples.

    The same on every rank, whatever the number of ranks: unequal step counts would hang a synchronous job.
    """
    return max(1, count // batch_size)


def global_batch(seed: int, epoch: int, step: int, count: int, batch_size: int) -> np.ndarray:
    """Sample indices (batch_size,) of step `step` of an epoch (counted from 0), over all ranks."""
    order = epoch_order(seed, epoch, count)
    return order[(step * batch_size + np.arange(batch_size)) % count]


def rank_share(batch: np.ndarray, rank: int, ranks: int) -> np.ndarray:
    """The contiguous part of a global batch that one of `ranks` works on."""
    if len(batch) % ranks:
        raise ConfigError(f"train.batch_size {len(batch)} does not divide among {ranks} ranks; make it a multiple")
    size = len(batch) // ranks
    return batch[rank * size : (rank + 1) * size]
