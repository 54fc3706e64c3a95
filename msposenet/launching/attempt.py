"""One start of a job: all of its processes from the first to the last."""

from __future__ import annotations

import queue
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Optional

from msposenet.errors import ConfigError, PeerError
from msposenet.launching.agent import MARK
from msposenet.launching.job import Job, Member, command, environment, folder, gpus, members, threads
from msposenet.launching.link import Event, Link

FINAL = (2, 3, 4)  # bad input, diverged, storage: starting again would end in the same way
RETRY = 75
STOPPED = 143

_START_TIME = 60.0  # seconds for the agents to start all processes
_END_TIME = 5.0  # seconds that servers and scheduler get after SIGTERM once the workers are done
_KILL_TIME = 10.0  # seconds that killed processes and their agents get to be gone


class Stop:
    """Whether somebody wants the job to end, and how fast; set by signal handlers and agents."""

    def __init__(self) -> None:
        self.number: Optional[int] = None
        self.at_once = False
        self._interrupted: Optional[float] = None

    def ask(self, number: int, now: Optional[float] = None) -> None:
        """A second SIGINT kills. One that comes with the first (from a wrapper that hands it on) is the same one.

        now: time.monotonic() of the signal.
        """
        now = time.monotonic() if now is None else now
        if number == signal.SIGINT:
            self.at_once = self.at_once or (self._interrupted is not None and now - self._interrupted > 0.5)
            self._interrupted = now if self._interrupted is None else self._interrupted
        self.number = self.number or number


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: the code the job would leave with, whether to start again, and the first cause."""

    code: int
    retry: bool = False
    cause: str = ""


@dataclass
class _Watched:
    member: Member
    link: Link
    pid: int = 0
    code: Optional[int] = None  # as in agent.py; RETRY for one whose host was lost

    @property
    def name(self) -> str:
        return self.member.name


class Attempt:
    """Start, watch and end the processes of `job` through `links`: a ready agent each, in the order of the hosts."""

    def __init__(
        self,
        job: Job,
        number: int,
        mark: str,
        links: Sequence[Link],
        cores: Sequence[int],
        events: queue.SimpleQueue[Event],
        stop: Stop,
        say: Callable[[str], None],
    ) -> None:
        self._job, self._number, self._mark = job, number, mark
        self._links, self._cores, self._events = links, cores, events
        self._stop, self._say = stop, say
        self._watched = {member.name: _Watched(member, links[member.host]) for member in members(job)}
        self._started = 0.0
        self._next: Optional[Callable[[], None]] = None  # what happens when the deadline is over
        self._deadline = 0.0
        self._cause: Optional[tuple[int, str]] = None
        self._done = False  # the workers are
        self._stopping = False
        self._killed = False

    def run(self) -> Outcome:
        """Raises ConfigError when a process cannot be started at all, PeerError when a host is lost before that."""
        try:
            self._start()
            self._watch()
        finally:
            self._leave()
        return self._outcome()

    # starting

    def _start(self) -> None:
        self._links[0].send("ports", count=2)
        ports = self._expect("ports", 1)[0]["ports"]
        workers_on = [0] * len(self._links)
        for watched in self._watched.values():
            workers_on[watched.member.host] += watched.member.role == "worker"
        for name, watched in self._watched.items():
            member = watched.member
            omp = threads(member, self._cores[member.host], workers_on[member.host])
            watched.link.send(
                "start",
                name=name,
                argv=command(self._job, self._number),
                env=environment(self._job, member, (MARK, self._mark), self._number, ports),
                defaults={"OMP_NUM_THREADS": str(omp)},
                cwd=folder(self._job),
                gpus=gpus(self._job, member),
            )
        for event in self._expect("started", len(self._watched)):
            self._watched[event["name"]].pid = event["pid"]
        self._started = time.monotonic()
        for link in self._links:
            here = [f"{w.name} (pid {w.pid})" for w in self._watched.values() if w.link is link]
            self._say(f"{link.host}: {', '.join(here) or 'nothing to run'}")

    def _expect(self, kind: str, count: int) -> list[Event]:
        """Wait for `count` answers of a kind. Exits that come meanwhile are kept for later."""
        found: list[Event] = []
        later: list[Event] = []
        deadline = time.monotonic() + _START_TIME
        while len(found) < count:
            event = self._event(deadline)
            if event is None:
                raise PeerError(f"the agents did not start the processes within {_START_TIME:g} s")
            if event["is"] == kind:
                found.append(event)
            elif event["is"] == "failed":
                raise ConfigError(f"{event['name']} cannot be started on {event['link'].host}: {event['why']}")
            elif event["is"] == "gone":
                raise PeerError(event["link"].why_gone)
            else:
                later.append(event)
        for event in later:
            self._events.put(event)
        return found

    def _event(self, deadline: float) -> Optional[Event]:
        while True:
            try:
                event = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return None
            if event.get("link") in (None, *self._links):
                return event

    # watching

    def _watch(self) -> None:
        while self._running():
            if self._stop.number and not self._stopping:
                self._begin_stop()
            if self._stop.at_once and not self._killed:
                self._kill("killing everything at once")
            event = self._event(self._deadline if self._next else time.monotonic() + 3600)
            if event is not None:
                self._take(event)
            elif self._next:
                action, self._next = self._next, None
                action()

    def _running(self) -> list[_Watched]:
        return [watched for watched in self._watched.values() if watched.code is None]

    def _take(self, event: Event) -> None:
        if event["is"] == "exit":
            watched = self._watched[event["name"]]
            watched.code = event["code"]
            self._left(watched)
        elif event["is"] == "stopped":
            self._say(f"somebody sent {_signal(event['signal'])} to the agent of {event['link'].host}")
            self._stop.ask(event["signal"])
        elif event["is"] == "gone":
            self._lost_host(event["link"])

    def _left(self, watched: _Watched) -> None:
        if self._killed:
            return
        workers = [other for other in self._watched.values() if other.member.role == "worker"]
        if all(worker.code == 0 for worker in workers):
            if not self._done:
                self._done = True
                self._after(self._job.settle, self._end_servers)
            elif watched.code != 0 and self._next == self._end_servers:
                self._say(f"{watched.name} {_how(watched.code)}, after the workers were done")
        elif watched.code != 0:
            self._lose(watched.code, f"{watched.name} {_how(watched.code)}", watched)
        elif watched.member.role != "worker" and self._next is None:
            # It may have heard of the end before the last worker is out of its interpreter.
            cause = f"{watched.name} left while workers were running"
            self._after(self._job.settle, lambda: self._lose(RETRY, cause, watched))

    def _lost_host(self, link: Link) -> None:
        for watched in self._running():
            if watched.link is link:
                watched.code = RETRY
        if not self._killed:
            self._lose(RETRY, link.why_gone or f"host {link.host} is lost")

    def _lose(self, code: int, cause: str, watched: Optional[_Watched] = None) -> None:
        """A process is lost, and with it the attempt; the others get some time to leave by themselves."""
        if self._done and code not in FINAL:
            self._say(f"{cause}, after the workers were done")
            return
        told = f"{cause} after {time.monotonic() - self._started:.0f} s ({time.strftime('%H:%M:%S')})"
        if watched is not None and len(self._links) > 1:
            told += f" on {watched.link.host}"
        if code != RETRY or self._cause is None:
            self._say(told)
        self._cause = _first(self._cause, (code, cause))
        if self._stopping or self._next == self._kill_rest:
            return
        # Where one was told to stop, another may be writing the checkpoint.
        self._after(self._job.grace if code == STOPPED else self._job.drain, self._kill_rest)

    def _begin_stop(self) -> None:
        self._stopping = True
        asked = f"{_signal(self._stop.number)}: asking every process to stop"
        self._say(f"{asked}; they have {self._job.grace:g} s for a checkpoint")
        self._tell(signal.SIGTERM)
        if not self._killed:
            self._after(self._job.grace, self._kill_rest)

    def _end_servers(self) -> None:
        self._say(f"the workers are done; ending {_names(self._running())}")
        self._tell(signal.SIGTERM)
        self._after(min(_END_TIME, self._job.grace), self._kill_rest)

    def _kill_rest(self) -> None:
        self._kill(f"killing {_names(self._running())}")

    def _kill(self, told: str) -> None:
        self._say(told)
        self._killed = True
        for link in self._links:
            link.send("kill")
        self._after(_KILL_TIME, self._give_up)

    def _give_up(self) -> None:
        for watched in self._running():
            self._say(f"{watched.link.host} does not confirm the end of {watched.name} (pid {watched.pid})")
            watched.code = RETRY

    def _tell(self, number: int) -> None:
        for link in self._links:
            link.send("signal", number=int(number))

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self._deadline = time.monotonic() + seconds
        self._next = action

    # ending

    def _leave(self) -> None:
        for link in self._links:
            link.hang_up()
        deadline = time.monotonic() + _KILL_TIME
        for link in self._links:
            if not link.join(max(0.0, deadline - time.monotonic())):
                link.cut(f"host {link.host} does not answer")
                self._say(link.why_gone)
                link.join(1)

    def _outcome(self) -> Outcome:
        workers = [watched for watched in self._watched.values() if watched.member.role == "worker"]
        final = [watched for watched in self._watched.values() if watched.code in FINAL]
        if self._cause and self._cause[0] in FINAL:
            return Outcome(self._cause[0], cause=self._cause[1])
        if final:
            return Outcome(final[0].code, cause=f"{final[0].name} {_how(final[0].code)}")
        if all(worker.code == 0 for worker in workers):
            return Outcome(0)
        if self._stopping:
            return Outcome(STOPPED)
        return Outcome(RETRY, retry=True, cause=self._cause[1] if self._cause else "")


def _first(known: Optional[tuple[int, str]], new: tuple[int, str]) -> tuple[int, str]:
    """The cause of a loss: what cannot be mended before all else, a survivor's 75 last, then who came first."""

    def rank(cause: tuple[int, str]) -> int:
        return 0 if cause[0] in FINAL else 2 if cause[0] == RETRY else 1

    return new if known is None or rank(new) < rank(known) else known


def _how(code: int) -> str:
    if code < 0:
        return f"was ended by {_signal(-code)}"
    meaning = {2: "bad input", 3: "diverged", 4: "storage", RETRY: "a peer was lost", STOPPED: "stopped"}.get(code)
    return f"left with code {code}" + (f" ({meaning})" if meaning else "")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _names(watched: Sequence[_Watched]) -> str:
    return ", ".join(one.name for one in watched) or "what is left"
