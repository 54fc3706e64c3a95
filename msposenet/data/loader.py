"""Batches for training, made by forked worker processes in shared memory.

A worker writes its batch straight into a slot that the trainer reads: no pickling of pictures. Batches come in order
and depend on (seed, epoch, step) alone, so the number of workers changes nothing but the speed. A worker that dies,
raises or hangs ends in a LoaderError that names the samples it was making.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

import cv2
import numpy as np

from msposenet.data.records import MAX_BAD_FRACTION, MAX_BAD_ITEMS
from msposenet.data.samples import BadItem, TrainingSamples
from msposenet.data.sampling import rank_share, steps_per_epoch
from msposenet.errors import DataError, LoaderError, PoseError

_BATCHES_PER_WORKER = 2  # one being made, one waiting
_PARENT_CHECK = 2.0  # seconds between a worker's looks at whether its parent still lives
_SHOWN = 5


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch; the arrays are valid until the next batch is asked for.

    crops (B, h, w, 3) uint8 RGB; joints (B, K, 2) float32 in crop px; weights (B, K) float32, 0 where unlabelled;
    indices (B,) int64 of the samples in the records; image_ids (B,) int64 of their pictures.
    """

    crops: np.ndarray
    joints: np.ndarray
    weights: np.ndarray
    indices: np.ndarray
    image_ids: np.ndarray


class Slot(Batch):
    """A batch in memory shared with the workers."""

    @classmethod
    def allocate(cls, size: int, input_wh: tuple[int, int], joints: int) -> Slot:
        shapes = [
            ((size, input_wh[1], input_wh[0], 3), np.uint8),
            ((size, joints, 2), np.float32),
            ((size, joints), np.float32),
            ((size,), np.int64),
            ((size,), np.int64),
        ]
        arrays = []
        for shape, dtype in shapes:
            memory = mmap.mmap(-1, max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize))
            arrays.append(np.frombuffer(memory, dtype=dtype, count=int(np.prod(shape))).reshape(shape))
        return cls(*arrays)


class TrainingLoader:
    """Endless supply of training batches; `batches(epoch, first_step)` iterates over the rest of an epoch.

    workers 0 makes samples in the calling process. Workers are forked once, here: build the loader before a GPU is
    touched. Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        samples: TrainingSamples,
        batch_size: int,
        workers: int = 0,
        rank: int = 0,
        ranks: int = 1,
        timeout: float = 120.0,
        max_bad_fraction: float = MAX_BAD_FRACTION,
    ) -> None:
        if len(samples) == 0:
            raise DataError("the training set holds no usable person; check its annotations and filters")
        self.samples = samples
        self.batch_size = batch_size
        self.rank, self.ranks = rank, ranks
        self.steps = steps_per_epoch(len(samples.order), batch_size)
        self.timeout = timeout
        self.waited = 0.0  # seconds spent waiting for data since it was last set to 0
        self.bad: dict[str, str] = {}  # path of every damaged picture met so far, with the reason
        self.repaired: dict[str, str] = {}  # and of those that were used all the same
        self._max_bad = max_bad_fraction * len(samples)
        if max_bad_fraction <= MAX_BAD_FRACTION:
            self._max_bad = min(self._max_bad, MAX_BAD_ITEMS)
        own = len(rank_share(np.arange(batch_size), rank, ranks))
        count = max(1, workers * _BATCHES_PER_WORKER)
        self._slots = [Slot.allocate(own, samples.input_wh, samples.skeleton.num_joints) for _ in range(count)]
        self._workers = [_Worker(samples, self._slots) for _ in range(workers)]

    def __enter__(self) -> TrainingLoader:
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.stop()
        self._workers = []

    def codes(self, epoch: int, step: int) -> np.ndarray:
        """Codes of the samples of this rank's part of a batch."""
        return rank_share(self.samples.order.batch(epoch, step, self.batch_size), self.rank, self.ranks)

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Batches of the steps `first_step` ... of an epoch, in order."""
        if not self._workers:
            for step in range(first_step, self.steps):
                start = time.perf_counter()
                self._note(_fill(self.samples, self._slots[0], epoch, self.codes(epoch, step)))
                self.waited += time.perf_counter() - start
                yield self._slots[0]
            return
        pending: deque[tuple[_Worker, int]] = deque()
        free = deque(range(len(self._slots)))
        ahead = iter(range(first_step, self.steps))

        def order_more() -> None:
            for step in ahead:
                worker = self._workers[step % len(self._workers)]
                slot = free.popleft()
                worker.order(slot, epoch, self.codes(epoch, step))
                pending.append((worker, slot))
                if not free:
                    return

        try:
            order_more()
            while pending:
                worker, slot = pending.popleft()
                start = time.perf_counter()
                self._note(worker.result(self.timeout))
                self.waited += time.perf_counter() - start
                yield self._slots[slot]
                free.append(slot)
                order_more()
        except PoseError:
            pending.clear()
            self.close()  # one worker is lost and the others' orders will not be fetched
            raise
        finally:
            for worker, _ in pending:  # an epoch left early: take what is still coming, so that the next starts clean
                worker.result(self.timeout)

    def _note(self, bad: list[BadItem]) -> None:
        for item in bad:
            (self.repaired if item.used else self.bad)[item.name] = item.reason
        if len(self.bad) > self._max_bad:
            shown = "; ".join(list(self.bad.values())[:_SHOWN])
            raise DataError(
                f"{len(self.bad)} of {len(self.samples)} samples have pictures that cannot be read ({shown}); repair "
                f"them, or raise data.max_bad_fraction to skip them"
            )


def _fill(samples: TrainingSamples, slot: Slot, epoch: int, codes: np.ndarray) -> list[BadItem]:
    bad: list[BadItem] = []
    for row, code in enumerate(codes):
        target = slot.crops[row]
        crop, joints, weights, used, met = samples.make_or_substitute(epoch, int(code), target)
        if crop is not target:  # made elsewhere after all
            target[:] = crop
        slot.joints[row], slot.weights[row], slot.indices[row] = joints, weights, used
        slot.image_ids[row] = samples.records.image_ids[samples.records.image_index[used]]
        bad += met
    return bad


class _Worker:
    """One forked process and the pipe to it."""

    def __init__(self, samples: TrainingSamples, slots: list[Slot]) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, samples, slots, os.getpid()), daemon=True)
        # Held back until the worker ignores it: a SIGTERM to the group must not find it half awake.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            self._process.start()
            theirs.close()
            self._in_flight: deque[np.ndarray] = deque()
        except BaseException:  # a child that nobody knows of, deaf to SIGTERM, would be waited for at exit for ever
            if self._process.pid is not None:
                self._process.kill()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def order(self, slot: int, epoch: int, codes: np.ndarray) -> None:
        self._in_flight.append(codes)
        try:
            self._pipe.send((slot, epoch, codes))
        except OSError:
            raise self._lost() from None

    def result(self, timeout: float) -> list[BadItem]:
        ready = wait([self._pipe, self._process.sentinel], timeout)
        if not ready:
            names = self._names()
            self._process.kill()
            raise LoaderError(
                f"loader worker {self._process.pid} made no batch in {timeout:g} s while on {names}; it was ended; "
                f"raise data.worker_timeout if the storage is that slow, and resume"
            )
        try:
            outcome = self._pipe.recv()
        except (EOFError, OSError):
            raise self._lost() from None
        if isinstance(outcome, PoseError):
            raise outcome
        if isinstance(outcome, str):
            raise LoaderError(f"loader worker failed on {self._names()}: {outcome}")
        self._in_flight.popleft()
        return outcome

    def stop(self) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.join()

    def _names(self) -> str:
        samples = [str(code) for code in self._in_flight[0]] if self._in_flight else ["nothing"]
        return f"samples {', '.join(samples[:_SHOWN])}{', ...' if len(samples) > _SHOWN else ''}"

    def _lost(self) -> LoaderError:
        self._process.join(1)
        code = self._process.exitcode
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return LoaderError(
            f"loader worker {self._process.pid} died ({how}) while on {self._names()}; out of memory? Resume to go on"
        )


def _work(pipe: Connection, samples: TrainingSamples, slots: list[Slot], parent: int) -> None:
    """A worker's life: batches on order until the pipe closes or the process `parent` is gone."""
    # Sent to the whole process group, both are the parent's to answer: it still needs batches to end its step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    cv2.setNumThreads(0)
    while True:
        # A sibling holds a copy of the pipe's other end, so its closing is not told; the parent's death is looked for.
        if not pipe.poll(_PARENT_CHECK):
            if os.getppid() != parent:
                os._exit(0)
            continue
        try:
            slot, epoch, codes = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)
        try:
            outcome: object = _fill(samples, slots[slot], epoch, codes)
        except PoseError as error:
            outcome = error
        except Exception:
            outcome = traceback.format_exc()
        pipe.send(outcome)
