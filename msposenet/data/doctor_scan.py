"""Many picture files looked at in full by forked processes: size, content hash, what is wrong with each.

A picture that ends the process decoding it is found too: its neighbours are read again one by one by a new process.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import tempfile
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Union

import cv2
import numpy as np

from msposenet.data.images import decode_image, encoded_size, read_bytes
from msposenet.errors import ImageError, LoaderError

_CHUNK = 16  # pictures ordered at once; so many, not all, are waiting in a pipe
_PARENT_CHECK = 2.0  # seconds between a process's looks at whether its parent still lives
_MAX_DEATHS = 50  # beyond it the machine is the reason, not the pictures
_DIGEST_BYTES = 16
_CORRUPT = "Corrupt JPEG data"  # libpng's warnings are about colour profiles that everybody has

Looked = tuple[int, int, bytes, str, str]  # width, height, hash of the file, error, repair; texts empty where none
_Outcome = Union[list[Looked], str]


@dataclass(frozen=True)
class Scan:
    """What P picture files are."""

    sizes: np.ndarray  # (P, 2) int32 width, height; 0 where unreadable
    digests: np.ndarray  # (P, 16) uint8, BLAKE2b of the file
    errors: dict[int, str] = field(default_factory=dict)  # by place: why the picture cannot be used
    repairs: dict[int, str] = field(default_factory=dict)  # by place: damaged, but its pixels are whole

    @classmethod
    def of(cls, count: int) -> Scan:
        return cls(np.zeros((count, 2), np.int32), np.zeros((count, _DIGEST_BYTES), np.uint8))

    def digest(self, place: int) -> bytes:
        """The hash of file number `place`; files of the same hash hold the same bytes."""
        return self.digests[place].tobytes()

    def _put(self, place: int, looked: Looked) -> None:
        width, height, digest, error, repair = looked
        self.digests[place] = np.frombuffer(digest, np.uint8)
        if error:
            self.errors[place] = error
            return
        self.sizes[place] = width, height
        if repair:
            self.repairs[place] = repair


def scan_pictures(paths: Sequence[bytes], workers: int, advance: Callable[[int, int], None]) -> Scan:
    """Every file of `paths` decoded in full by `workers` processes; the result does not depend on their number.

    `advance(done, total)` is called on the way. Raises LoaderError when processes die again and again.
    """
    found, total = Scan.of(len(paths)), len(paths)
    step = max(1, min(_CHUNK, -(-total // max(1, 4 * workers))))
    spans = deque((start, min(start + step, total)) for start in range(0, total, step))
    readers: list[_Reader] = []
    done = deaths = 0
    try:
        while spans or readers:
            while spans and len(readers) < max(1, workers):
                readers.append(_Reader(paths))
                readers[-1].order(spans.popleft())
            for reader in _answering(readers):
                (start, stop), outcome = reader.span, reader.outcome()
                if outcome is None:
                    readers.remove(reader)
                    deaths += 1
                    outcome = _after_death(reader, paths, spans, deaths)
                elif spans:
                    reader.order(spans.popleft())
                else:
                    readers.remove(reader)
                    reader.stop()
                if isinstance(outcome, str):
                    raise LoaderError(f"reading {os.fsdecode(paths[start])} and its neighbours failed: {outcome}")
                for place, looked in zip(range(start, stop), outcome):
                    found._put(place, looked)
                done += len(outcome)
                advance(done, total)
    finally:
        for reader in readers:
            reader.stop()
    return found


def _answering(readers: list[_Reader]) -> list[_Reader]:
    """Those that have an answer, or are dead; waits for one."""
    ready = wait([reader.pipe for reader in readers])
    return [reader for reader in readers if reader.pipe in ready]


def _after_death(reader: _Reader, paths: Sequence[bytes], spans: deque, deaths: int) -> list[Looked]:
    """What is known of a dead reader's pictures: nothing, so they come again one by one; one alone was the reason."""
    start, stop = reader.span
    if deaths > _MAX_DEATHS:
        raise LoaderError(
            f"{deaths} processes died while reading pictures, the last ({reader.how()}) on "
            f"{os.fsdecode(paths[start])}; out of memory? Give fewer --workers"
        )
    if stop - start == 1:
        error = f"damaged: the process that decoded it died ({reader.how()}); leave the picture out"
        return [(0, 0, bytes(_DIGEST_BYTES), error, "")]
    spans.extendleft((place, place + 1) for place in reversed(range(start, stop)))
    return []


def look(path: bytes) -> Looked:
    """One file, read and decoded whole; never raises for what a file can hold."""
    name, digest, repairs = os.fsdecode(path), bytes(_DIGEST_BYTES), []
    try:
        data = read_bytes(path)
        digest = hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()
        _, size = encoded_size(data, name)
        height, width = decode_image(data, name, on_warning=lambda _, reason: repairs.append(reason)).shape[:2]
    except ImageError as error:
        return 0, 0, digest, str(error).removeprefix(f"{name}: "), ""
    if size != (width, height):
        error = f"damaged: its header says {size[0]} x {size[1]} px, decoded it has {width} x {height}; copy it again"
        return 0, 0, digest, error, ""
    return width, height, digest, "", "; ".join(repairs)


def _look_and_listen(path: bytes, complaints: int) -> Looked:
    """Like `look`; what the decoder wrote to stderr, the file `complaints`, makes a sound picture a doubtful one.

    libjpeg has no other way to tell of bits that changed within a picture; most of them even it does not notice.
    """
    width, height, digest, error, repair = look(path)
    heard = os.pread(complaints, 10_000, 0).decode(errors="replace").splitlines()
    os.ftruncate(complaints, 0)
    os.lseek(complaints, 0, os.SEEK_SET)
    corrupt = [line for line in heard if line.startswith(_CORRUPT)]
    if corrupt and not error and not repair:
        repair = f"the decoder complains: {corrupt[0]}"
    return width, height, digest, error, repair


class _Reader:
    """One forked process and the pipe to it."""

    def __init__(self, paths: Sequence[bytes]) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.span = (0, 0)
        self._process = context.Process(target=_work, args=(theirs, paths, os.getpid()), daemon=True)
        # Held back until the process has its own ways with them: the parent's must not run there.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        try:
            try:
                self._process.start()
                theirs.close()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)  # raises what was held back
        except BaseException:
            self.stop()
            raise

    def order(self, span: tuple[int, int]) -> None:
        self.span = span
        try:
            self.pipe.send(span)
        except OSError:
            return  # dead: `outcome` will tell

    def outcome(self) -> _Outcome | None:
        """What was found, the traceback of a defect, or None when the process is dead."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            return None

    def how(self) -> str:
        code = self._process.exitcode
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"

    def stop(self) -> None:
        self.pipe.close()
        if self._process.pid is not None:
            self._process.kill()
            self._process.join()


def _work(pipe: Connection, paths: Sequence[bytes], parent: int) -> None:
    """A process's life: pictures on order until it is ended or the process `parent` is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # sent to the whole group, it is the parent's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what multiprocessing sends to processes left when it ends
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    cv2.setNumThreads(0)
    log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
    os.dup2(log.fileno(), 2)
    while True:
        # A sibling may hold a copy of the pipe's other end, so its closing is not always told.
        if not pipe.poll(_PARENT_CHECK):
            if os.getppid() != parent:
                os._exit(0)
            continue
        try:
            start, stop = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)
        try:
            outcome: _Outcome = [_look_and_listen(path, log.fileno()) for path in paths[start:stop]]
        except Exception:
            outcome = traceback.format_exc()
        try:
            pipe.send(outcome)
        except OSError:
            os._exit(0)
