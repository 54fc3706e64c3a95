"""Shards written by forked processes, as many at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Optional

import cv2
import numpy as np

from msposenet.data.pack_shard import Judge, PatchMaker, ShardPart, write_shard
from msposenet.errors import LoaderError, PoseError

Step = tuple[int, int, Optional[ShardPart]]  # shard, persons of it done, the shard itself once it is finished

_PARENT_CHECK = 2.0  # seconds between an idle worker's looks at whether its parent still lives
_TELL_INTERVAL = 0.2  # seconds between a worker's words on how far it is


def write_shards(
    folder: Path, orders: Mapping[int, np.ndarray], maker: PatchMaker, judge: Judge, workers: int
) -> Iterator[Step]:
    """Write the shards `orders` (number -> rows in stored order); the iterator does it and tells of every step.

    workers 0 writes them in this process; else they are forked here, so that threads may be started before the first
    step. Raises what `write_shard` raises, and LoaderError when a worker is lost.
    """
    if workers == 0:
        return (
            (number, len(order), write_shard(folder, number, order, maker, judge)) for number, order in orders.items()
        )
    # The last is taken first: a large shard that is begun late would keep one worker busy when the others are done.
    waiting = sorted(orders, key=lambda number: len(orders[number]))
    crew = [_Worker(folder, orders, maker, judge) for _ in range(min(workers, len(waiting)))]
    return _steps(crew, waiting)


def _steps(crew: list[_Worker], waiting: list[int]) -> Iterator[Step]:
    try:
        for worker in crew:
            worker.begin(waiting.pop())
        busy = {worker.pipe: worker for worker in crew}
        while busy:
            for pipe in wait(list(busy)):
                worker = busy[pipe]
                step = worker.step()
                yield step
                if step[2] is None:
                    continue
                if waiting:
                    worker.begin(waiting.pop())
                else:
                    del busy[pipe]
    finally:
        for worker in crew:
            worker.stop()


class _Worker:
    def __init__(self, folder: Path, orders: Mapping[int, np.ndarray], maker: PatchMaker, judge: Judge) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        arguments = (theirs, folder, orders, maker, judge, os.getpid())
        self._process = context.Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._number = -1

    def begin(self, number: int) -> None:
        self._number = number
        try:
            self.pipe.send(number)
        except OSError:
            raise self._lost() from None

    def step(self) -> Step:
        try:
            told = self.pipe.recv()
        except (EOFError, OSError):
            raise self._lost() from None
        if isinstance(told, PoseError):
            raise told
        if isinstance(told, str):
            raise LoaderError(f"packing shard {self._number} failed: {told}")
        return (self._number, *told)

    def stop(self) -> None:
        self.pipe.close()
        self._process.kill()
        self._process.join()

    def _lost(self) -> LoaderError:
        self._process.join(1)
        code = self._process.exitcode
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return LoaderError(
            f"packing worker {self._process.pid} died ({how}) on shard {self._number}; out of memory? Give the same "
            "command again to go on, with fewer --workers if need be"
        )


def _work(
    pipe: Connection, folder: Path, orders: Mapping[int, np.ndarray], maker: PatchMaker, judge: Judge, parent: int
) -> None:
    """A worker's life: shards on order until its parent ends it, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    cv2.setNumThreads(0)
    told = time.monotonic()

    def advance(done: int) -> None:
        nonlocal told
        if os.getppid() != parent:
            os._exit(0)
        now = time.monotonic()
        if now - told > _TELL_INTERVAL:
            told = now
            pipe.send((done, None))

    while True:
        # A sibling holds a copy of the pipe's other end, so its closing is not told; the parent's death is looked for.
        if not pipe.poll(_PARENT_CHECK):
            if os.getppid() != parent:
                os._exit(0)
            continue
        try:
            number = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)
        try:
            outcome: object = (len(orders[number]), write_shard(folder, number, orders[number], maker, judge, advance))
        except PoseError as error:
            outcome = error
        except Exception:
            outcome = traceback.format_exc()
        pipe.send(outcome)
