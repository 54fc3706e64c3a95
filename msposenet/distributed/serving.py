"""The processes of a job that do not train: ps-lite's servers, which add up gradients, and its scheduler."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from msposenet.distributed.hub import Hub
from msposenet.distributed.leaving import die, leave
from msposenet.distributed.member import Member
from msposenet.distributed.roles import SCHEDULER, WORKER, Place
from msposenet.errors import Terminated

# The one command that MXNet hands to Python. Its own body for it is a pickled optimizer, which would run whatever is in
# it; ours is JSON.
SET_UPDATER = 0

_LINGER = 5.0  # seconds to leave in order once the workers have left
_TICK = 0.1

Updater = Callable[[int, Any, Any], None]


def serve(
    place: Place, timeout: float, start_timeout: float, make_updater: Callable[[dict], Updater] | None = None
) -> None:
    """Be the job's scheduler or one of its servers until the workers have finished.

    Leaves with exit code 75 when the job loses a process, 3 when it diverges. A SIGTERM makes the workers write a
    checkpoint and the job end; a second one ends this process, and so the job, at once. make_updater: for servers that
    update the weights themselves (dist_async), from the JSON that a worker sends.
    """
    # Taken by a thread that waits for it: the main one is inside MXNet, where Python runs no handler. Threads that are
    # there already, such as those of NumPy's OpenBLAS, may be given the signal: the C half of a handler rings in any.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    bell, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.detach())  # open until the process ends
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    jobs: list[Hub | Member] = []
    threading.Thread(target=_await_sigterm, args=(jobs, bell), daemon=True).start()
    job: Hub | Member
    if place.role == SCHEDULER:
        job = Hub(place, timeout, start_timeout, on_lost=leave)
    else:
        job = Member(place, timeout, start_timeout)
        job.phase("serving", float("inf"))
    jobs.append(job)
    threading.Thread(target=_leave_when_finished, args=(job,), daemon=True).start()
    try:
        _run(make_updater)
    except BaseException as error:
        die(error, job.fail)
    if isinstance(job, Hub):
        ends = time.monotonic() + timeout  # the hub itself ends the job over whoever is silent for so long
        while not job.quiet and time.monotonic() < ends:
            time.sleep(_TICK)
    job.close()


def _await_sigterm(jobs: list[Hub | Member], bell: socket.socket) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    _hear_sigterm(bell)
    if not jobs:
        leave("SIGTERM before the job began", Terminated.exit_code)
    jobs[0].ask_to_stop()
    _hear_sigterm(bell)
    leave("a second SIGTERM; left at once", Terminated.exit_code)


def _leave_when_finished(job: Hub | Member) -> None:
    """MXNet's loop ends with its workers', unless they left before they met it."""
    while not job.finished:
        time.sleep(_TICK)
    time.sleep(_LINGER)
    os._exit(0)


def _guarded(update: Updater) -> Updater:
    """MXNet only prints what its callbacks raise, and the weights would stand still."""

    def guarded(key: int, gradient: Any, weight: Any) -> None:
        try:
            update(key, gradient, weight)
        except Exception as error:
            leave(f"the server's update failed: {error!r}", 1)

    return guarded


def _hear_sigterm(bell: socket.socket) -> None:
    while bell.recv(1) != bytes([signal.SIGTERM]):
        continue


def _run(make_updater: Callable[[dict], Updater] | None) -> None:
    """MXNet's server loop. MXNet would begin it while it is imported, and then end the process."""
    role = os.environ["DMLC_ROLE"]
    os.environ["DMLC_ROLE"] = WORKER
    from msposenet.runtime import mx

    os.environ["DMLC_ROLE"] = role
    store = mx.kv.create("dist")

    def control(command: int, body: bytes | None, _: object) -> None:
        if command != SET_UPDATER or make_updater is None:
            leave(f"command {command} of a worker is unknown here; start all processes with the same msposenet", 2)
        try:
            store._set_updater(_guarded(make_updater(json.loads(body or b""))))
        except Exception as error:  # it would be lost in MXNet's thread, and every worker would wait for ever
            leave(f"the server's updater could not be made: {error!r}", 2)

    callback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(control)
    mx.base.check_call(mx.base._LIB.MXKVStoreRunServer(store.handle, callback, None))
    # The store is freed on leaving this function and not at exit: its last barrier belongs to what is watched.
