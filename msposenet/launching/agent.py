"""One on every host of a job: starts, watches, signals and kills the processes there. Standard library only.

`PYTHON -m msposenet.launching.agent`: JSON lines on stdin are the supervisor's orders, those on stdout the answers.

    {"do": "hello", "job": ID, "silence": S}       -> {"is": "ready", "pid", "host", "version", "cores"}
    {"do": "ports", "count": N}                    -> {"is": "ports", "ports": [...]}
    {"do": "start", "name", "argv", "env", "defaults", "cwd", "gpus"}  -> {"is": "started", "name", "pid"}
                                                   or {"is": "failed", "name", "why"}
    {"do": "signal", "number": N}                  to every process, not to their children
    {"do": "kill"}                                 everything, children too
    {"do": "ping"}                                 -> {"is": "pong"}
    on its own: {"is": "lines", "name", "lines"}, {"is": "exit", "name", "code"} (-9: ended by signal 9),
                {"is": "stopped", "signal": N} when somebody signals the agent itself

When stdin ends, or is silent for S seconds, the supervisor or the network is gone, and so is the reason for everything
that runs here: it is killed at once. Two processes share that duty, the agent and the warden that started it, each a
subreaper: whichever of them is killed, the other ends what is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import time
import traceback
from typing import Any, Optional

from msposenet.cores import physical_cores
from msposenet.launching import leash
from msposenet.launching.lines import LineSplitter

VERSION = 1
MARK = "MSPOSENET_JOB"  # carries the job's id in the environment of each of its processes

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TICK = 1.0  # seconds between looks at the clock when nothing happens
_CHUNK = 1 << 16
_FULL = 1 << 20  # bytes waiting for a slow supervisor at which output is no longer read: its writers wait in turn
_KILL_TIME = 5.0  # seconds that killed processes get to be gone
# Below where Linux hands out ports by itself, so that no connection of somebody else takes one in between.
_PORTS = range(20000, 32000)

# What a job says of each process: none of it may come from the environment that the agent was started in.
OWN = (
    "DMLC_ROLE",
    "DMLC_PS_ROOT_URI",
    "DMLC_PS_ROOT_PORT",
    "DMLC_NUM_WORKER",
    "DMLC_NUM_SERVER",
    "DMLC_NODE_HOST",
    "DMLC_TASK_ID",
    "DMLC_WORKER_ID",
    "DMLC_SERVER_ID",
    "MSPOSENET_CONTROL_PORT",
    "MSPOSENET_ATTEMPT",
    "MSPOSENET_SUPERVISED",
    MARK,
)


class _Process:
    def __init__(self, name: str, popen: subprocess.Popen) -> None:
        self.name = name
        self.pid = popen.pid
        self.popen = popen
        self.pipe = popen.stdout.fileno()
        self.splitter = LineSplitter()


class Agent:
    """One loop, one thread: a parent-death signal is bound to the thread that started the child."""

    def __init__(self, warden: int) -> None:
        self._warden = warden
        self._pid = os.getpid()
        self._running: dict[int, _Process] = {}
        self._orders = b""
        self._answers = bytearray()
        self._writing = False
        self._paused = False
        self._over = False
        self._heard = time.monotonic()
        self._silence = 60.0  # until the supervisor says
        self._mark = ""
        self._selector = selectors.PollSelector()

    def run(self) -> None:
        """Serve until the supervisor is gone, then leave nothing behind."""
        leash.adopt_orphans()
        bell, wake = socket.socketpair()
        bell.setblocking(False)
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(number, lambda number, frame: None)
        for number in _STOP_SIGNALS:
            signal.signal(number, lambda number, frame: self._say({"is": "stopped", "signal": number}))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
        leash.follow_parent(self._warden, signal.SIGUSR1)
        os.set_blocking(0, False)
        os.set_blocking(1, False)
        self._selector.register(0, selectors.EVENT_READ, self._read_orders)
        self._selector.register(bell, selectors.EVENT_READ, lambda: _empty(bell))
        while not self._over and os.getppid() == self._warden:
            self._wait()
        self._kill_all()

    def _wait(self) -> None:
        wanted = bool(self._answers)
        if wanted != self._writing:
            self._writing = wanted
            if wanted:
                self._selector.register(1, selectors.EVENT_WRITE, self._write_answers)
            else:
                self._selector.unregister(1)
        if len(self._answers) > _FULL and not self._paused:
            self._listen(False)
        elif len(self._answers) <= _FULL // 2 and self._paused:
            self._listen(True)
        for key, _ in self._selector.select(_TICK):
            key.data()
        self._collect_exits()
        # Only after what had come was read: after a pause of the whole machine the pings are there, unread.
        if time.monotonic() - self._heard > self._silence:
            self._over = True

    def _listen(self, on: bool) -> None:
        self._paused = not on
        for process in self._running.values():
            if on:
                self._selector.register(process.pipe, selectors.EVENT_READ, lambda process=process: self._read(process))
            else:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(process.pipe)

    # the supervisor

    def _read_orders(self) -> None:
        try:
            data = os.read(0, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._over = True
            return
        self._heard = time.monotonic()
        *lines, self._orders = (self._orders + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            getattr(self, "_do_" + order.pop("do"))(**order)

    def _write_answers(self) -> None:
        try:
            written = os.write(1, self._answers[:_CHUNK])
        except BlockingIOError:
            return
        except OSError:
            self._over = True
            return
        del self._answers[:written]

    def _say(self, answer: dict[str, Any]) -> None:
        self._answers += json.dumps(answer).encode() + b"\n"

    def _do_hello(self, job: str, silence: float) -> None:
        self._silence = silence
        self._mark = f"{MARK}={job}"
        # An agent that was killed together with its warden may have left processes of an earlier attempt.
        leash.kill_marked(self._mark, _KILL_TIME)
        ready = {"is": "ready", "pid": self._pid, "host": socket.gethostname()}
        self._say({**ready, "version": VERSION, "cores": physical_cores()})

    def _do_ping(self) -> None:
        self._say({"is": "pong"})

    def _do_ports(self, count: int) -> None:
        self._say({"is": "ports", "ports": free_ports(count)})

    def _do_signal(self, number: int) -> None:
        # Not to the group: loader workers that died of it would keep their parent from writing a checkpoint.
        for pid in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _do_kill(self) -> None:
        for pid in self._running:
            _kill_group(pid)

    def _do_start(
        self,
        name: str,
        argv: list[str],
        env: dict[str, str],
        defaults: dict[str, str],
        cwd: str,
        gpus: Optional[list[int]],
    ) -> None:
        inherited = {key: value for key, value in os.environ.items() if key not in OWN}
        environment = {**defaults, **inherited, **env}
        try:
            if gpus is not None:
                environment["CUDA_VISIBLE_DEVICES"] = _devices(os.environ.get("CUDA_VISIBLE_DEVICES"), *gpus)
            if not os.path.isdir(cwd):
                raise ValueError(f"there is no folder {cwd}; --cwd names another")
            popen = subprocess.Popen(
                argv,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: leash.follow_parent(self._pid),
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._say({"is": "failed", "name": name, "why": str(error)})
            return
        process = _Process(name, popen)
        os.set_blocking(process.pipe, False)
        self._running[process.pid] = process
        if not self._paused:
            self._selector.register(process.pipe, selectors.EVENT_READ, lambda: self._read(process))
        self._say({"is": "started", "name": name, "pid": process.pid})

    # the processes

    def _read(self, process: _Process) -> bool:
        """Whether there may be more."""
        try:
            data = os.read(process.pipe, _CHUNK)
        except BlockingIOError:
            return False
        lines = process.splitter.feed(data) if data else process.splitter.end()
        if lines:
            self._say({"is": "lines", "name": process.name, "lines": lines})
        if not data:
            with contextlib.suppress(KeyError):
                self._selector.unregister(process.pipe)
        return bool(data)

    def _collect_exits(self) -> None:
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            process = self._running.pop(found.si_pid, None)
            if process is not None:
                # Before it is reaped, while the number of its group cannot belong to anybody else.
                _kill_group(process.pid)
            code = os.waitstatus_to_exitcode(os.waitpid(found.si_pid, 0)[1])
            if process is not None:
                self._farewell(process, code)

    def _farewell(self, process: _Process, code: int) -> None:
        process.popen.returncode = code
        most = 32  # a descendant outside the group may write for ever
        while most and self._read(process):
            most -= 1
        with contextlib.suppress(KeyError):
            self._selector.unregister(process.pipe)
        process.popen.stdout.close()
        lines = process.splitter.end()
        if lines:
            self._say({"is": "lines", "name": process.name, "lines": lines})
        self._say({"is": "exit", "name": process.name, "code": code})

    def _kill_all(self) -> None:
        self._do_kill()
        leash.kill_descendants(_KILL_TIME)


def free_ports(count: int) -> list[int]:
    """`count` TCP ports that nobody listens on now, IPv4."""
    found: list[int] = []
    candidates = list(_PORTS)
    random.SystemRandom().shuffle(candidates)
    for port in candidates:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"no {count} free ports between {_PORTS.start} and {_PORTS.stop}")


def _devices(visible: Optional[str], first: int, count: int) -> str:
    """The GPUs `first` ... of those this host lets the job see."""
    if visible is None:
        return ",".join(map(str, range(first, first + count)))
    listed = [device for device in visible.split(",") if device.strip()]
    if count and first + count > len(listed):
        raise ValueError(f"GPUs {first} to {first + count - 1} are wanted, CUDA_VISIBLE_DEVICES here is {visible!r}")
    return ",".join(listed[first : first + count])


def _empty(bell: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        bell.recv(4096)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def main() -> None:
    """Fork the agent, then wait for its end and see to it that nothing outlives it."""
    leash.load()
    leash.adopt_orphans()
    warden = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    agent = os.fork()
    if not agent:
        try:
            Agent(warden).run()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def pass_on(number: int, frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(agent, number)

    for number in _STOP_SIGNALS:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    _, status = os.waitpid(agent, 0)
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    leash.kill_descendants(_KILL_TIME)
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
