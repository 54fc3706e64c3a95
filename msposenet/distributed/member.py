"""A worker's or server's end of the control channel, and the watchdog over the process's own progress."""

from __future__ import annotations

import faulthandler
import os
import queue
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any, Optional

from msposenet.distributed import frames
from msposenet.distributed.hub import Lost, beat_interval
from msposenet.distributed.leaving import leave
from msposenet.distributed.roles import Place
from msposenet.errors import PeerError

_TICK = 0.1
_CONNECT_PAUSE = 0.2
_CONNECT_LIMIT = 10.0
_FAREWELL = 1.0  # seconds for a last message


class Member:
    """This process in its job; the `Group` of a worker.

    timeout: seconds without a sign of life from the hub, or without one from this process's own work, after which the
    job ends. `on_lost(why, code)` is called from a thread and must not return. Raises PeerError when the hub is not to
    be reached, or the other workers do not come, within start_timeout seconds.
    """

    def __init__(self, place: Place, timeout: float, start_timeout: float, on_lost: Lost = leave) -> None:
        self._place, self._timeout, self._on_lost = place, timeout, on_lost
        self._sending = threading.Lock()
        self._inbox: queue.Queue = queue.Queue()
        self._closing = False
        self._stop_asked = self._stop_sent = False
        self.stop_requested = False
        self.finished = False  # whether all workers said farewell
        self.launched = True
        self.size = place.workers
        self._heard = time.monotonic()
        self._phase, self._deadline = "starting", float("inf")
        self._connection = _connect(place, start_timeout)
        # A forked loader worker that kept the connection open would hide this process's death.
        os.register_at_fork(after_in_child=self._connection.close)
        hello = {"do": "hello", "role": place.role, "number": place.number, "host": place.host or socket.gethostname()}
        self._send({**hello, "workers": place.workers, "servers": place.servers, "attempt": place.attempt})
        for work in (self._listen, self._watch, self._beat):
            threading.Thread(target=work, daemon=True).start()
        try:
            welcome = self._inbox.get(timeout=start_timeout)[0]
        except queue.Empty:
            raise PeerError(f"the job's other processes did not come within {start_timeout:g} s") from None
        self.rank: int = welcome["rank"]
        self.phase("starting", start_timeout)

    def gather(self, what: str, data: bytes) -> Optional[list[bytes]]:
        self._send({"do": "gather", "what": what}, data)
        if self.rank:
            return None
        return [self._wait(what)[1] for _ in range(self.size)]

    def share(self, what: str, data: Optional[bytes]) -> bytes:
        if self.rank:
            self._send({"do": "share", "what": what})
            return self._wait(what)[1]
        assert data is not None
        self._send({"do": "share", "what": what}, data)
        return data

    def all(self, what: str, value: Any) -> list[Any]:
        self._send({"do": "all", "what": what, "value": value})
        return self._wait(what)[0]["values"]

    def phase(self, name: str, limit: Optional[float] = None) -> None:
        self._limit = self._timeout if limit is None else limit
        self._phase, self._deadline = name, time.monotonic() + self._limit

    def ask_to_stop(self) -> None:
        self._stop_asked = True  # sent by the thread that beats: a signal handler may not wait for the lock

    def fail(self, why: str, code: int) -> None:
        """Tell the job that this process ends, and why."""
        self._farewell({"do": "fail", "why": why, "code": code})

    def close(self) -> None:
        """Say farewell: from here on this process may end without ending the job."""
        self._farewell({"do": "bye"})

    def _farewell(self, message: dict[str, Any]) -> None:
        self._closing = True
        # Whoever sends now may be stuck for good; the connection's end tells the hub as well.
        if not self._sending.acquire(timeout=_FAREWELL):
            return
        with suppress(frames.Broken):
            frames.send(self._connection, message)

    def _wait(self, what: str) -> tuple[dict[str, Any], bytes]:
        """The hub's answer. Waiting has no limit of its own: whoever keeps the others waiting has one."""
        name, limit = self._phase, self._limit
        self._phase, self._deadline = f"waiting for the others at {what}", float("inf")
        answer = self._inbox.get()
        self.phase(name, limit)
        return answer

    def _send(self, message: dict[str, Any], data: bytes = b"") -> None:
        try:
            with self._sending:
                frames.send(self._connection, message, data)
        except frames.Broken as error:
            if not self._closing:
                self._lost(str(error))
            raise PeerError(f"the scheduler's process is lost ({error})") from None

    def _listen(self) -> None:
        try:
            while True:
                message, data = frames.receive(self._connection, heard=self._hear)
                kind = message.get("do")
                if kind == "stop":
                    self.stop_requested = True
                elif kind == "finished":
                    self._closing = self.finished = True
                elif kind == "abort":
                    if not self._closing:
                        self._on_lost(f"the job ends: {message['why']}", int(message["code"]))
                elif kind != "beat":
                    self._inbox.put((message, data))
        except frames.Broken as error:
            if not self._closing:
                self._lost(str(error))

    def _hear(self) -> None:
        self._heard = time.monotonic()

    def _lost(self, error: str) -> None:
        self._on_lost(
            f"the scheduler's process is lost ({error}); this process was in {self._phase!r}", PeerError.exit_code
        )

    def _watch(self) -> None:
        """Looks on and sends nothing: a send may be what is stuck."""
        while not self._closing:
            time.sleep(_TICK)
            now = time.monotonic()
            if now > self._deadline:
                self._stalled()
            if now - self._heard > self._timeout:
                self._lost(f"no sign of life for {self._timeout:g} s")

    def _beat(self) -> None:
        told = 0.0
        with suppress(PeerError):
            while not self._closing:
                time.sleep(_TICK)
                if self._stop_asked and not self._stop_sent:
                    self._stop_sent = True
                    self._send({"do": "stop"})
                if time.monotonic() - told >= beat_interval(self._timeout):
                    told = time.monotonic()
                    self._send({"do": "beat", "phase": self._phase})

    def _stalled(self) -> None:
        why = f"no progress for {self._limit:g} s in {self._phase!r}"
        self.fail(why, PeerError.exit_code)
        with suppress(Exception):
            faulthandler.dump_traceback(file=sys.__stderr__)  # where every thread stands
        self._on_lost(f"{self._place.title}: {why}", PeerError.exit_code)


def _connect(place: Place, start_timeout: float) -> socket.socket:
    ends = time.monotonic() + start_timeout
    while True:
        try:
            connection = socket.create_connection((place.address, place.control_port), timeout=_CONNECT_LIMIT)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(None)
            return connection
        except OSError as error:
            if time.monotonic() > ends:
                raise PeerError(
                    f"no control channel at {place.address}:{place.control_port} within {start_timeout:g} s ({error}); "
                    "start the scheduler with the same command as the workers, and let the hosts reach that port"
                ) from None
            time.sleep(_CONNECT_PAUSE)
