"""A small discrete-event simulation: a clock, processes that share the cores of their machine, links between hosts."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from itertools import count

Action = Callable[[], None]
Job = tuple  # seconds, what follows


class Clock:
    """Actions in the order of their times; actions of the same time in the order in which they were given."""

    def __init__(self) -> None:
        self.now = 0.0
        self._waiting: list[tuple[float, int, Action]] = []
        self._number = count()

    def at(self, time: float, action: Action) -> None:
        heapq.heappush(self._waiting, (time, next(self._number), action))

    def run(self) -> float:
        """Until nothing is left to happen; the time of the last action."""
        while self._waiting:
            self.now, _, action = heapq.heappop(self._waiting)
            action()
        return self.now


class Cores:
    """The processors of one machine: that many of its processes work at a time, the others wait their turn."""

    def __init__(self, clock: Clock, number: int) -> None:
        self.clock = clock
        self._idle = number
        self._waiting: deque[Process] = deque()

    def want(self, process: Process) -> None:
        if self._idle:
            self._idle -= 1
            process.work()
        else:
            self._waiting.append(process)

    def give_back(self) -> None:
        self._idle += 1
        if self._waiting:
            self._idle -= 1
            self._waiting.popleft().work()


class Turns:
    """Lanes that are served in turns, each first come, first served."""

    def __init__(self) -> None:
        self._lanes: dict[object, deque[Job]] = {}

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def add(self, lane: object, job: Job) -> None:
        self._lanes.setdefault(lane, deque()).append(job)

    def next(self) -> Job:
        lane = next(iter(self._lanes))
        jobs = self._lanes.pop(lane)
        job = jobs.popleft()
        if jobs:
            self._lanes[lane] = jobs  # behind all others
        return job


class Process:
    """Does one job at a time, each on a core of its machine."""

    def __init__(self, cores: Cores) -> None:
        self._cores = cores
        self._jobs = Turns()
        self._active = False

    def do(self, seconds: float, then: Action, lane: object = None) -> None:
        self._jobs.add(lane, (seconds, then))
        if not self._active:
            self._active = True
            self._cores.want(self)

    def work(self) -> None:
        seconds, then = self._jobs.next()
        clock = self._cores.clock
        clock.at(clock.now + seconds, lambda: self._finish(then))

    def _finish(self, then: Action) -> None:
        then()
        self._active = bool(self._jobs)
        self._cores.give_back()
        if self._active:
            self._cores.want(self)


class Link:
    """One direction of a host's link; connections (lanes) take turns."""

    def __init__(self, clock: Clock, rate: float) -> None:
        self._clock, self._rate = clock, rate
        self._jobs = Turns()
        self._active = False
        self._free = 0.0

    def send(self, size: float, lane: object, begins: Callable[[float], None]) -> None:
        """`begins(end)` is called when the first of `size` bytes leaves; the last leaves at `end`."""
        seconds = size / self._rate
        clock = self._clock
        self._jobs.add(lane, (seconds, lambda: begins(clock.now + seconds)))
        if not self._active:
            self._next()

    def _next(self) -> None:
        self._active = bool(self._jobs)
        if not self._active:
            return
        seconds, begins = self._jobs.next()
        begins()
        self._clock.at(self._clock.now + seconds, self._next)

    def receive(self, size: float, earliest: float = 0.0) -> float:
        """When `size` bytes have come in that begin to arrive now; what came before goes first.

        The last of them is not there before `earliest`.
        """
        seconds = size / self._rate
        self._free = max(max(self._clock.now, self._free) + seconds, earliest)
        return self._free
