"""The life of a job: reach the hosts, start, watch, and start again from the last checkpoint after a loss."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Optional

from msposenet.errors import ConfigError, PeerError, PoseError
from msposenet.launching import agent, leash
from msposenet.launching.attempt import RETRY, STOPPED, Attempt, Outcome, Stop
from msposenet.launching.job import Job, agent_command, hosts_of, members
from msposenet.launching.link import Event, Link, Pulse
from msposenet.launching.output import Out, Printer

_LONGEST_PAUSE = 30.0
_TOLD_EVERY = 30.0  # seconds between lines while hosts are waited for
_SSH_FAILED = 255  # what ssh leaves with when it is not the remote command that failed


def supervise(job: Job, out: Out) -> int:
    """Run `job` to its end and return the code to leave with: 0, 2, 3, 4, 75 or 143.

    `out(name, line)` is called from one thread of the launcher's own with every line of every process, and with those
    of the launcher itself under the name "launch". In the main thread, SIGTERM, SIGINT and SIGHUP end the job.
    Raises ConfigError for what no second try mends, PeerError when a host cannot be reached for the first start.
    """
    members(job)  # fails before anything is started
    with contextlib.ExitStack() as stack:
        printer = Printer(out)
        stack.callback(printer.close)
        supervisor = _Supervisor(job, printer)
        stack.enter_context(_signals(supervisor.stop, supervisor.events))
        stack.callback(supervisor.close)
        return supervisor.run()


class _Supervisor:
    def __init__(self, job: Job, printer: Printer) -> None:
        self.job = job
        self.stop = Stop()
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._printer = printer
        self._say = printer.say
        self._mark = uuid.uuid4().hex
        self._pulse = Pulse(job.silence)

    def run(self) -> int:
        job = self.job
        outcome = Outcome(RETRY)
        for attempt in range(job.max_restarts + 1):
            if attempt:
                pause = min(job.first_pause * 2 ** (attempt - 1), _LONGEST_PAUSE)
                self._say(f"restart {attempt} of {job.max_restarts} in {pause:g} s")
                self._sleep(pause)
                if self.stop.number:
                    return STOPPED
            found = self._reach(attempt)
            if self.stop.number:
                return STOPPED
            if found is None:
                return RETRY
            outcome = self._attempt(attempt, *found)
            if not outcome.retry:
                self._say(_last_words(outcome))
                return outcome.code
        self._say(f"gave up after {_times(job.max_restarts, 'restart')}; the last time {outcome.cause}")
        return RETRY

    def close(self) -> None:
        for link in self._pulse.links:
            link.cut("over")
        self._pulse.stop()
        if not self.job.hosts:
            # An agent killed together with its warden leaves the children of its processes to this.
            leash.kill_marked(f"{agent.MARK}={self._mark}", 5.0)

    def _attempt(self, number: int, links: list[Link], cores: list[int]) -> Outcome:
        attempt = Attempt(self.job, number, self._mark, links, cores, self.events, self.stop, self._say)
        try:
            return attempt.run()
        except (ConfigError, PeerError) as error:
            if self.stop.number:
                return Outcome(STOPPED)
            # What was fine before may only be late: a host that comes back has not mounted everything yet.
            if isinstance(error, ConfigError) and not number:
                raise
            self._say(str(error))
            return Outcome(RETRY, retry=True, cause=str(error))
        finally:
            self._pulse.links = []

    def _reach(self, attempt: int) -> Optional[tuple[list[Link], list[int]]]:
        """A ready agent on every host, and their cores; None when hosts do not come back or a signal came."""
        job = self.job
        hosts = hosts_of(job)
        links: list[Optional[Link]] = [None] * len(hosts)
        ready: dict[Link, Event] = {}
        start = told = time.monotonic()
        while True:
            for index, link in enumerate(links):
                if link is None:
                    links[index] = self._connect(index)
            patience = job.connect_wait
            if attempt:
                patience = min(patience, max(1.0, job.host_wait - (time.monotonic() - start)))
            self._await_ready(links, ready, patience)
            failed = [link for link in links if link not in ready]
            if not failed:
                self._pulse.links = links
                return links, [ready[link]["cores"] for link in links]
            if not attempt and not self.stop.number:
                self._part(links)
                raise _unreachable(failed[0])
            waited = time.monotonic() - start
            if self.stop.number or waited > job.host_wait:
                self._part(links)
                if not self.stop.number:
                    self._say(f"{failed[0].host} did not come back within {job.host_wait:g} s: {failed[0].why_gone}")
                return None
            if time.monotonic() - told >= _TOLD_EVERY or start == told:
                told = time.monotonic()
                self._say(f"waiting for {failed[0].host} ({waited:.0f} of {job.host_wait:g} s): {failed[0].why_gone}")
            self._part(failed)
            links = [link if link in ready else None for link in links]
            self._pulse.links = [link for link in links if link is not None]
            self._sleep(job.retry_interval)

    def _connect(self, index: int) -> Link:
        host = hosts_of(self.job)[index]
        command = agent_command(self.job, host)
        try:
            link = Link(host, command, self.events.put, self._printer.add)
        except OSError as error:
            raise ConfigError(f"{command[0]!r} cannot be started: {error}; --python and --ssh name others") from None
        link.send("hello", job=self._mark, silence=self.job.silence)
        self._pulse.links.append(link)
        return link

    def _await_ready(self, links: list[Link], ready: dict[Link, Event], patience: float) -> None:
        """Wait until each link is ready or gone; what is neither `patience` seconds later is given up."""
        waiting = [link for link in links if link not in ready]
        deadline = time.monotonic() + patience
        while waiting and not self.stop.number:
            try:
                event = self.events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                for link in waiting:
                    link.cut(f"host {link.host} does not answer (no agent within {patience:.0f} s)")
                return
            link = event.get("link")
            if event["is"] == "gone":
                ready.pop(link, None)
            elif event["is"] == "ready":
                if event["version"] != agent.VERSION:
                    raise ConfigError(
                        f"{link.host} runs another msposenet (launcher version {event['version']}, here "
                        f"{agent.VERSION}): install the same on every host"
                    )
                ready[link] = event
            elif event["is"] == "stopped":
                self.stop.ask(event["signal"])
            waiting = [other for other in waiting if other is not link]

    def _part(self, links: list[Optional[Link]]) -> None:
        for link in links:
            if link is not None:
                link.hang_up()
        for link in links:
            if link is not None and not link.join(1.0):
                link.cut("given up")

    def _sleep(self, seconds: float) -> None:
        """Sleep, but not on when a signal comes."""
        deadline = time.monotonic() + seconds
        while not self.stop.number and time.monotonic() < deadline:
            time.sleep(min(0.1, max(0.0, deadline - time.monotonic())))


def _unreachable(link: Link) -> PoseError:
    why = link.why_gone or f"host {link.host} does not answer"
    if link.code is None or link.code < 0 or link.code == _SSH_FAILED:
        return PeerError(f"{why}; every host must let you in by ssh without a question")
    return ConfigError(f"{why}; every host needs the same msposenet, Python (--python) and folder (--cwd)")


def _last_words(outcome: Outcome) -> str:
    if outcome.code == STOPPED:
        return "stopped; the same command with --auto-resume goes on"
    return f"{outcome.cause}: no restart would mend that" if outcome.cause else "all workers are done"


def _times(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


@contextlib.contextmanager
def _signals(stop: Stop, events: queue.SimpleQueue[Event]) -> Iterator[None]:
    """SIGTERM, SIGINT and SIGHUP ask the job to stop; one that is ignored already (nohup) stays so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: object) -> None:
        stop.ask(number)
        events.put({"is": "signal"})

    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    old = {number: signal.getsignal(number) for number in wanted}
    try:
        for number, handler in old.items():
            if number != signal.SIGHUP or handler is not signal.SIG_IGN:
                signal.signal(number, handle)
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
