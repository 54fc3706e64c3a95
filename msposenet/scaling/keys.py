"""How gradients are laid over keys, and keys over the servers of MXNet's KVStore."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

VALUE = 4  # bytes of a float32
COMPRESSION = 16  # values of 2 bits that fit where one float32 was
BUCKET = 2**19  # elements that GradientExchange puts into a key
BOUND = 1_000_000  # MXNET_KVSTORE_BIGARRAY_BOUND of MXNet 1.9.1


@dataclass(frozen=True)
class Exchange:
    """How gradients travel.

    bucket: elements of a key, 0 for a key an array; bound: elements from which a key is split over all servers;
    compression: 2-bit; overlap: pushes begin during the backward pass.
    """

    bucket: int = BUCKET
    bound: int = BOUND
    compression: bool = False
    overlap: bool = True

    def pushed(self, elements: int) -> int:
        """Bytes of a push."""
        return VALUE * (-(-elements // COMPRESSION) if self.compression else elements)


@dataclass(frozen=True)
class Key:
    """Consecutive arrays that travel together, from the network's array number `first` on."""

    number: int
    first: int
    arrays: int
    size: int  # elements
    parts: tuple[tuple[int, int], ...]  # server, elements


def plan_keys(sizes: Sequence[int], servers: int, exchange: Exchange) -> list[Key]:
    """The keys that arrays of `sizes` elements, in the network's order, travel as, and where each lives.

    Arrays are put together up to a bucket's size; one that is larger travels alone (GradientExchange).
    """
    groups: list[list[int]] = []
    filled = 0
    for i, size in enumerate(sizes):
        if not groups or filled + size > exchange.bucket:
            groups.append([])
            filled = 0
        groups[-1].append(i)
        filled += size
    keys = []
    for number, group in enumerate(groups):
        total = sum(sizes[i] for i in group)
        keys.append(Key(number, group[0], len(group), total, place(number, total, servers, exchange.bound)))
    return keys


def place(key: int, size: int, servers: int, bound: int = BOUND) -> tuple[tuple[int, int], ...]:
    """(server, elements) of each part of a key, as MXNet 1.9.1 lays it out (src/kvstore/kvstore_dist.h).

    Below the bound it lives on server (key * 9973) mod servers, else it is split evenly over all.
    """
    if size < bound:
        return (((key * 9973) % servers, size),)
    edges = [int(size / servers * i + 0.5) for i in range(servers + 1)]  # C's round() of what is not negative
    return tuple((server, edges[server + 1] - edges[server]) for server in range(servers))


def imbalance(keys: Sequence[Key], servers: int) -> float:
    """The most loaded server's elements, divided by the mean over all servers."""
    loads = [0] * servers
    for key in keys:
        for server, size in key.parts:
            loads[server] += size
    return max(loads) * servers / max(sum(loads), 1)
