"""The scheduler's end of the control channel: knows every process of the job, ends the job when one is lost.

MXNet waits for ever for a process that died. The hub holds a connection to each worker and server; one that closes
without a farewell, or is silent for too long, ends the job within moments: everybody is told why and leaves. Between
times the hub carries what workers agree upon (group.py). It is one small process for the whole job, beside ps-lite's
scheduler, and carries no gradients.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Optional

from msposenet.distributed import frames
from msposenet.distributed.roles import SERVER, WORKER, Place
from msposenet.errors import DivergedError, PeerError, Terminated

Lost = Callable[[str, int], None]

_BEAT = 1.0  # seconds between signs of life, in both directions
_TICK = 0.1
_HELLO_LIMIT = 10.0  # seconds a stranger has to say who it is
_FAREWELL = 1.0  # seconds to tell everybody why the job ends

_RETRY, _DIVERGED, _STOPPED = PeerError.exit_code, DivergedError.exit_code, Terminated.exit_code


def beat_interval(timeout: float) -> float:
    """Seconds between signs of life where `timeout` seconds of silence are a loss."""
    return min(_BEAT, timeout / 5)


@dataclass(eq=False)
class _Process:
    """A worker or server, as the hub knows it."""

    connection: socket.socket
    role: str
    number: Optional[int]
    host: str
    heard: float
    rank: Optional[int] = None
    phase: str = "starting"
    left: bool = False
    outbox: queue.Queue = field(default_factory=queue.Queue)
    asked: deque = field(default_factory=deque)  # collectives begun and not yet answered

    def hear(self) -> None:
        """A sign of life."""
        self.heard = time.monotonic()

    @property
    def title(self) -> str:
        number = self.rank if self.rank is not None else self.number
        name = self.role if number is None else f"{self.role} {number}"
        return f"{name} on {self.host}" if self.host else name


class Hub:
    """Listens on the control port until `close`. `on_lost(why, code)` is called once, from a thread, when a job ends.

    timeout: seconds of silence after which a process counts as lost. start_timeout: seconds in which all workers and
    servers must have come. Raises PeerError when the port is taken.
    """

    def __init__(self, place: Place, timeout: float, start_timeout: float, on_lost: Lost) -> None:
        self._place, self._timeout, self._on_lost = place, timeout, on_lost
        self._lock = threading.RLock()
        self._processes: list[_Process] = []
        self._complete = self._over = False
        self._ends = time.monotonic() + start_timeout
        self._start_timeout = start_timeout
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            # On every interface unless the job is on this machine alone: hosts may know this one by several addresses.
            local = place.address in ("127.0.0.1", "localhost")
            self._listener.bind(("127.0.0.1" if local else "", place.control_port))
        except OSError as error:
            self._listener.close()
            raise PeerError(
                f"the control channel cannot listen on port {place.control_port} ({error.strerror}); set "
                "MSPOSENET_CONTROL_PORT to a free one for every process of the job"
            ) from None
        self._listener.listen(256)
        for work in (self._accept, self._watch):
            threading.Thread(target=work, daemon=True).start()

    @property
    def finished(self) -> bool:
        """Whether all workers came and said farewell."""
        with self._lock:
            workers = self._workers()
            return self._complete and all(worker.left for worker in workers)

    @property
    def quiet(self) -> bool:
        """Whether every process said farewell."""
        with self._lock:
            return all(process.left for process in self._processes)

    def ask_to_stop(self) -> None:
        """Ask all workers to write a checkpoint and leave; a job that has not begun has nothing to write."""
        with self._lock:
            if self._complete:
                self._tell_all({"do": "stop"})
            else:
                self._fail_later("stopped before all its processes had come", _STOPPED)

    def fail(self, why: str, code: int = _RETRY) -> None:
        """End the job."""
        with self._lock:
            if self._over:
                return
            self._over = True
            self._tell_all({"do": "abort", "why": why, "code": code})
            for process in self._processes:
                process.outbox.put(None)
        ends = time.monotonic() + _FAREWELL
        while time.monotonic() < ends and any(not process.outbox.empty() for process in self._processes):
            time.sleep(0.01)
        self._on_lost(why, code)

    def close(self) -> None:
        """Stop listening; connections end with the process."""
        with self._lock:
            self._over = True
            self._listener.close()
            for process in self._processes:
                process.outbox.put(None)

    def _workers(self) -> list[_Process]:
        return [process for process in self._processes if process.role == WORKER]

    def _tell_all(self, message: dict[str, Any]) -> None:
        for process in self._processes:
            if not process.left:
                process.outbox.put((message, b""))

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._over:
                    return
                time.sleep(_TICK)  # out of descriptors, or a caller that hung up: others may still come
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            process = self._welcome(connection)
        except (frames.Broken, KeyError, TypeError, ValueError):
            connection.close()  # a stranger: port scanners and lost souls must not end a training
            return
        if process is None:
            return
        threading.Thread(target=_write, args=(process,), daemon=True).start()
        try:
            while not process.left:
                message, data = frames.receive(connection, heard=process.hear)
                with self._lock:
                    self._handle(process, message, data)
        except frames.Broken as error:
            with self._lock:
                if self._over or process.left:
                    return
                process.left = True
            self.fail(f"{process.title} is lost while in {process.phase!r} ({error})")
        except (KeyError, TypeError, ValueError) as error:
            self.fail(f"{process.title} sent a message that makes no sense ({error!r})")

    def _welcome(self, connection: socket.socket) -> Optional[_Process]:
        connection.settimeout(_HELLO_LIMIT)
        hello, _ = frames.receive(connection, most=0)
        connection.settimeout(None)
        place = self._place
        theirs = [hello["workers"], hello["servers"], hello["attempt"]]
        process = _Process(connection, str(hello["role"]), hello["number"], str(hello["host"]), time.monotonic())
        with self._lock:
            refusal = None
            if theirs != [place.workers, place.servers, place.attempt]:
                refusal = "this is another job, or another attempt at it"
            elif sum(known.role == process.role for known in self._processes) >= self._wanted(process.role):
                refusal = f"this job has its {self._wanted(process.role)} {process.role}s already"
            elif self._over:
                refusal = "this job is over"
            if refusal:
                frames.send(connection, {"do": "abort", "why": refusal, "code": _RETRY})
                connection.close()
                return None
            self._processes.append(process)
            if len(self._processes) == place.workers + place.servers:
                self._begin()
        return process

    def _wanted(self, role: str) -> int:
        return {WORKER: self._place.workers, SERVER: self._place.servers}.get(role, 0)

    def _begin(self) -> None:
        """All are here: number the workers, as the launcher does where it does, else by host and order of coming."""
        workers = self._workers()
        numbers = [worker.number for worker in workers]
        if sorted(str(number) for number in numbers) != sorted(str(rank) for rank in range(len(workers))):
            by_host = sorted(range(len(workers)), key=lambda at: (workers[at].host, at))
            numbers = [by_host.index(at) for at in range(len(workers))]
        for worker, rank in zip(workers, numbers):
            worker.rank = rank
        for process in self._processes:
            process.outbox.put(({"do": "welcome", "rank": process.rank}, b""))
        self._complete = True

    def _handle(self, process: _Process, message: dict[str, Any], data: bytes) -> None:
        kind = message["do"]
        if kind == "beat":
            process.phase = str(message["phase"])
        elif kind == "bye":
            process.left = True
            process.outbox.put(None)
            if any(worker.asked for worker in self._workers()):
                self._fail_later(f"{process.title} has left while others wait for it", _DIVERGED)
            if self.finished:
                self._tell_all({"do": "finished"})  # the servers: from here on nobody's leaving is a loss
        elif kind == "stop":
            self.ask_to_stop()
        elif kind == "fail":
            process.left = True
            code = message["code"]
            # A divergence is everybody's; other troubles are one process's own, and the others' work is whole.
            self._fail_later(f"{process.title}: {message['why']}", code if code == _DIVERGED else _RETRY)
        elif kind in ("all", "gather", "share"):
            process.asked.append((kind, str(message["what"]), message.get("value"), data))
            self._answer()
        else:
            raise ValueError(kind)

    def _answer(self) -> None:
        """Answer the oldest collective once every worker has asked for it."""
        workers = sorted(self._workers(), key=lambda worker: worker.rank or 0)
        while self._complete and all(worker.asked for worker in workers):
            asked = [worker.asked.popleft() for worker in workers]
            if len({(kind, what) for kind, what, _, _ in asked}) > 1:
                where = ", ".join(f"{worker.title} is at {what!r}" for worker, (_, what, _, _) in zip(workers, asked))
                self._fail_later(f"the workers went different ways: {where}", _DIVERGED)
                return
            kind = asked[0][0]
            if kind == "all":
                message = {"do": "values", "values": [value for _, _, value, _ in asked]}
                for worker in workers:
                    worker.outbox.put((message, b""))
            elif kind == "gather":
                for _, _, _, data in asked:
                    workers[0].outbox.put(({"do": "part"}, data))
            else:
                for worker in workers[1:]:
                    worker.outbox.put(({"do": "shared"}, asked[0][3]))

    def _fail_later(self, why: str, code: int) -> None:
        """End the job from a thread that holds the lock."""
        threading.Thread(target=self.fail, args=(why, code), daemon=True).start()

    def _watch(self) -> None:
        """Signs of life to everybody, and a look at who gives none."""
        told = 0.0
        while not self._over:
            time.sleep(_TICK)
            now = time.monotonic()
            with self._lock:
                here = [process for process in self._processes if not process.left]
                if now - told >= beat_interval(self._timeout):
                    told = now
                    self._tell_all({"do": "beat"})
                silent = [process for process in here if now - process.heard > self._timeout]
                missing = not self._complete and now > self._ends
            if silent:
                names = ", ".join(f"{process.title} (last in {process.phase!r})" for process in silent)
                self.fail(f"no sign of life for {self._timeout:g} s from {names}: stopped, swapped out or cut off")
            elif missing:
                came = ", ".join(process.title for process in here) or "nobody"
                wanted = f"{self._place.workers} workers and {self._place.servers} servers"
                self.fail(f"of {wanted} only {came} came in {self._start_timeout:g} s; see the others' output")


def _write(process: _Process) -> None:
    """Send what is in the outbox; a connection that breaks is told of by its reading side."""
    while True:
        item = process.outbox.get()
        if item is None:
            return
        try:
            frames.send(process.connection, *item)
        except frames.Broken:
            return
