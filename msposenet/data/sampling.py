"""Which samples come when, and where their randomness comes from: pure functions of (seed, epoch, index).

Neither the number of ranks, devices and loader workers nor where a run was resumed changes what is trained on.

A sample is named by a code: its index in the records, plus the number of records for each earlier occurrence in the
same epoch. Sets with a sampling weight above 1 are met several times an epoch, each time augmented differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from msposenet.errors import ConfigError

_PARTS = 2**32  # counters of the generators that draw an order's parts, apart from those of the samples


@lru_cache(maxsize=4)  # asked for at every step of an epoch
def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """A permutation (count,) of an epoch; not to be written to."""
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)
    order.setflags(write=False)
    return order


def sample_rng(seed: int, epoch: int, index: int, occurrence: int = 0) -> np.random.Generator:
    """The generator of all random choices of one sample in one epoch."""
    # The counter's top word separates the samples (and the order, at 0): their streams never meet.
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, occurrence, index + 1]))


class SampleOrder:
    """The codes of the samples that each epoch visits, in order; the same number every epoch.

    seed: of the run. origin_index (N,) and sampling (S,): each origin's instances are met `sampling` times an epoch on
    average; what an epoch leaves out, the next ones take first. image_index (N,): when given, instances of a picture
    follow each other. shards: when given, rows (n,) of each shard of a pack in stored order, all of one origin: rows
    of a shard then come in that order, from a place that changes with the epoch, shards drawn at random in between.
    """

    def __init__(
        self,
        seed: int,
        origin_index: np.ndarray,
        sampling: Sequence[float],
        image_index: np.ndarray | None = None,
        shards: Sequence[np.ndarray] | None = None,
    ) -> None:
        self.seed = seed
        self._instances = len(origin_index)
        self._image_index = image_index
        self._in_place = shards is not None
        self._plain = not self._in_place and all(weight == 1 for weight in sampling)
        rows = shards if self._in_place else [np.flatnonzero(origin_index == i) for i in range(len(sampling))]
        self._rows = [part for part in rows if len(part)]
        self._taken = [max(1, round(sampling[origin_index[part[0]]] * len(part))) for part in self._rows]
        self._last: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def __len__(self) -> int:
        return sum(self._taken)

    def split(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices in the records and occurrences of `codes`."""
        return codes % self._instances, codes // self._instances

    def of(self, epoch: int) -> np.ndarray:
        """Codes (len(self),) of an epoch; not to be written to."""
        if self._last[0] != epoch:
            codes = self._draw(epoch)
            codes.setflags(write=False)
            self._last = (epoch, codes)
        return self._last[1]

    def batch(self, epoch: int, step: int, batch_size: int) -> np.ndarray:
        """Codes (batch_size,) of step `step` of an epoch (counted from 0), over all ranks."""
        order = self.of(epoch)
        return order[(step * batch_size + np.arange(batch_size)) % len(order)]

    def _draw(self, epoch: int) -> np.ndarray:
        if self._plain:
            codes = np.array(epoch_order(self.seed, epoch, self._instances), dtype=np.int64)
        else:
            parts = [self._part(epoch, number) for number in range(len(self._rows))]
            order = epoch_order(self.seed, epoch, len(self))
            if self._in_place:
                return _interleave(parts, order)
            codes = np.concatenate(parts)[order]
        if self._image_index is not None:
            pictures = self._image_index[codes % self._instances]
            rank = np.random.Generator(np.random.Philox(key=[self.seed, epoch], counter=[0, _PARTS, 0, 0])).permutation(
                int(self._image_index.max()) + 1
            )
            codes = codes[np.argsort(rank[pictures], kind="stable")]
        return codes

    def _part(self, epoch: int, number: int) -> np.ndarray:
        """Codes of one origin, or of one shard, in an epoch."""
        rows, taken = self._rows[number], self._taken[number]
        if self._in_place:
            start = int(np.random.default_rng([self.seed, epoch, number]).integers(len(rows)))
            places = start + np.arange(taken)
            return rows[places % len(rows)] + np.arange(taken) // len(rows) * self._instances
        # A stream of permutations, one after another, of which each epoch takes the next stretch.
        first, last = epoch * taken, (epoch + 1) * taken
        pieces = []
        for cycle in range(first // len(rows), -(-last // len(rows))):
            order = np.random.default_rng([self.seed, cycle, number, 1]).permutation(rows)
            begin = cycle * len(rows)
            piece = order[max(0, first - begin) : max(0, last - begin)]
            pieces.append(piece + len(pieces) * self._instances)
        return np.concatenate(pieces)


def _interleave(parts: list[np.ndarray], order: np.ndarray) -> np.ndarray:
    """All of `parts`, each in its own order, drawn from at random as `order` (a permutation) says."""
    label = np.repeat(np.arange(len(parts)), [len(part) for part in parts])[order]
    codes = np.empty(len(order), np.int64)
    codes[np.argsort(label, kind="stable")] = np.concatenate(parts)
    return codes


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Full global batches in an epoch; a set smaller than one batch still makes one, by repeating samples.

    The same on every rank, whatever the number of ranks: unequal step counts would hang a synchronous job.
    """
    return max(1, count // batch_size)


def rank_share(batch: np.ndarray, rank: int, ranks: int) -> np.ndarray:
    """The contiguous part of a global batch that one of `ranks` works on."""
    if len(batch) % ranks:
        raise ConfigError(f"train.batch_size {len(batch)} does not divide among {ranks} workers; make it a multiple")
    size = len(batch) // ranks
    return batch[rank * size : (rank + 1) * size]
