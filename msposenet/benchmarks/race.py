"""Contenders by turns: every round each of them computes for a while, and the order moves on from round to round.

What a neighbour on the machine does in a round slows all contenders of the round, so ratios are taken within rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

Run = Callable[[int, int], float]  # (number of the first iteration, how many) -> seconds an iteration
_MOST = 10_000  # iterations a turn


class Lost(Exception):
    """A contender that cannot run, or no longer: why. The race goes on without it."""


@dataclass(frozen=True)
class Entry:
    """A contender as tables show it.

    ours: this package, as against a peer. operations: floating-point operations of an iteration, two a multiply-add; 0
    where nobody counts them. items: pictures, samples or persons of an iteration. peak: a measure of the machine.
    """

    name: str
    ours: bool = False
    operations: float = 0.0
    items: int = 1
    peak: bool = False


@dataclass
class Race:
    """seconds: of an iteration, one value a round, of each contender that came through; lost: why others did not."""

    seconds: dict[str, np.ndarray] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)

    def ratios(self, name: str, other: str) -> np.ndarray:
        """How many times as fast as `other` `name` was, in each round."""
        return self.seconds[other] / self.seconds[name]


def here(make: Callable[[int], object], clock: Callable[[], float] = time.perf_counter) -> Run:
    """A contender of this process: `make` is called with the number of the iteration."""

    def run(first: int, times: int) -> float:
        begin = clock()
        for number in range(first, first + times):
            make(number)
        return (clock() - begin) / times

    return run


def race(
    runs: Mapping[str, Run],
    rounds: int,
    turn: float = 1.0,
    times: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Race:
    """Each contender has a turn in every round, of `times` iterations or as many as take it `turn` seconds.

    Before, each runs once to warm up: files come into the page cache, memory is allocated, code is compiled.
    """
    result = Race()
    lengths: dict[str, int] = {}
    taken: dict[str, list[float]] = {}
    for name, run in runs.items():
        try:
            run(0, 1)
            lengths[name] = times or min(_MOST, max(1, round(turn / max(run(0, 1), 1e-9))))
            taken[name] = []
        except Lost as reason:
            result.lost[name] = str(reason)
    names = list(taken)
    for number in range(rounds):
        for place in range(len(names)):
            name = names[(place + number) % len(names)]
            if name not in result.lost:
                try:
                    taken[name].append(runs[name](number * lengths[name], lengths[name]))
                except Lost as reason:
                    result.lost[name] = str(reason)
            progress(number * len(names) + place + 1, rounds * len(names))
    result.seconds = {name: np.array(seconds) for name, seconds in taken.items() if name not in result.lost}
    return result
