"""The supervisor's end of an agent: orders out, answers in, and a pulse that finds out when the other side is gone."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Optional

from msposenet.launching.hosts import Host

Event = dict[str, Any]  # an answer of an agent (agent.py), or {"is": "gone"}; "link" is where it came from
Post = Callable[[Event], None]
AddLines = Callable[[str, Iterable[str]], None]

_PULSE = 1.0  # seconds between pings
_KEPT = 5  # lines of a remote shell that are kept to explain a failure


class Link:
    """A child process that runs an agent, here or through a remote shell.

    Its events go to `post`, the lines of the processes to `lines`; after {"is": "gone"} none follows, and `why_gone`
    says what happened.
    """

    def __init__(self, host: Host, command: Sequence[str], post: Post, lines: AddLines) -> None:
        self.host = host
        self.why_gone: Optional[str] = None
        self.code: Optional[int] = None
        self._post = post
        self._lines = lines
        self._words: deque[str] = deque(maxlen=_KEPT)
        self._reading = True
        self._met = False  # the agent has said something
        self._heard = time.monotonic()
        self._writing = threading.Lock()
        # A session of its own: Ctrl-C is the supervisor's to answer, and reaches nobody else.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
        self._listener = threading.Thread(target=self._listen, name=f"agent of {host}", daemon=True)
        self._complaints = threading.Thread(target=self._overhear, name=f"stderr of {host}", daemon=True)
        self._complaints.start()
        self._listener.start()

    def send(self, do: str, **rest: Any) -> None:
        """An order. One that cannot be delivered any more is dropped: {"is": "gone"} is on its way."""
        with self._writing:
            self._write({"do": do, **rest})

    def ping(self) -> None:
        """Never waits: a full pipe has something newer in it than this."""
        if self._writing.acquire(blocking=False):
            try:
                if not self._process.stdin.closed and select.select([], [self._process.stdin], [], 0)[1]:
                    self._write({"do": "ping"})
            finally:
                self._writing.release()

    def check(self, silence: float) -> None:
        """Give the host up when it said nothing for `silence` seconds; before its first word, somebody else waits."""
        if self._met and self._reading and self.code is None and time.monotonic() - self._heard > silence:
            self.cut(f"host {self.host} does not answer (no word for {silence:g} s)")

    def forgive(self) -> None:
        """Start counting the silence anew: it was this process that did not run."""
        self._heard = time.monotonic()

    def cut(self, why: str) -> None:
        """End the connection without a word; the agent, if it lives, notices."""
        self.why_gone = self.why_gone or why
        # With what it started: a wrapper's ssh would hold on to our end of its pipes.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def hang_up(self) -> None:
        """Close the agent's stdin: it kills what is left there and goes."""
        with self._writing, contextlib.suppress(OSError):
            self._process.stdin.close()

    def join(self, seconds: float) -> bool:
        """Wait for the agent to be gone; False when it is not."""
        self._listener.join(seconds)
        return not self._listener.is_alive()

    def _write(self, order: dict[str, Any]) -> None:
        data = memoryview(json.dumps(order).encode() + b"\n")
        try:
            while data:
                data = data[self._process.stdin.write(data) :]
        except (OSError, ValueError):
            pass

    def _listen(self) -> None:
        rest = b""
        while True:
            try:
                data = self._process.stdout.read(1 << 16)
            except OSError:
                data = b""
            if not data:
                break
            self._heard = time.monotonic()
            self._reading = False
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                self._take(line)
            self._heard = time.monotonic()
            self._reading = True
        self._leave()

    def _take(self, line: bytes) -> None:
        try:
            answer = json.loads(line)
            kind = answer["is"]
        except (ValueError, TypeError, KeyError):
            # A remote shell may greet before the agent speaks.
            self._words.append(line.decode("utf-8", "replace").strip())
            return
        self._met = True
        if kind == "lines":
            self._lines(answer["name"], answer["lines"])
        elif kind != "pong":
            self._post({**answer, "link": self})

    def _overhear(self) -> None:
        with self._process.stderr as stream:
            for line in stream:
                self._words.append(line.decode("utf-8", "replace").strip())

    def _leave(self) -> None:
        try:
            self.code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.cut("it closed its output without leaving")
            self.code = self._process.wait()
        self._complaints.join(1)
        self._process.stdout.close()
        self.hang_up()
        said = "; ".join(word for word in self._words if word)
        how = f"exit code {self.code}" if self.code >= 0 else f"signal {-self.code}"
        self.why_gone = self.why_gone or f"the agent of {self.host} is gone ({how}{': ' + said if said else ''})"
        self._post({"is": "gone", "link": self})


class Pulse:
    """Pings the agents of `links` from a thread of its own, and gives up those that are silent."""

    def __init__(self, silence: float) -> None:
        self.links: list[Link] = []
        self._silence = silence
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="launch pulse", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        last = time.monotonic()
        interval = min(_PULSE, self._silence / 5)
        while not self._over.wait(interval):
            late = time.monotonic() - last > 3 * interval
            last = time.monotonic()
            for link in list(self.links):
                if late:
                    link.forgive()
                link.ping()
                link.check(self._silence)
