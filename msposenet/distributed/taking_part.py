"""A process's life in a job, from finding its role to leaving without keeping anybody waiting."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from msposenet.distributed.group import Group
from msposenet.distributed.member import Member
from msposenet.distributed.roles import WORKER, Place
from msposenet.distributed.serving import serve
from msposenet.errors import PoseError, Terminated

_CRASH, _INTERRUPTED = 1, 130


def take_part(
    place: Place,
    timeout: float,
    start_timeout: float,
    work: Callable[[Group], Any],
    make_updater: Callable[[dict], Callable[[int, Any, Any], None]] | None = None,
) -> None:
    """Do this process's part of a job: a worker's is `work`, the others serve until the workers have finished.

    Returns after a clean end; raises Terminated after a SIGTERM was answered with a checkpoint. Whatever else ends
    `work` ends the whole job and this process at once: MXNet's exit would wait for ever for workers that wait for this
    one. Exit codes: the error's own here, 75 (3 for divergence) for the others.
    """
    if place.role != WORKER:
        serve(place, timeout, start_timeout, make_updater)
        return
    member = Member(place, timeout, start_timeout)
    # From here on, not only while training: the job is stopped in order, also by a process that still reads its data.
    signal.signal(signal.SIGTERM, lambda number, frame: member.ask_to_stop())
    try:
        work(member)
    except Terminated:
        member.close()
        raise
    except BaseException as error:  # SystemExit and KeyboardInterrupt are deaths to the job like any other
        code = _exit_code(error)
        if isinstance(error, PoseError):
            sys.stderr.write(f"error: {error}\n")
        elif not isinstance(error, SystemExit):
            traceback.print_exc()
        member.fail(str(error) or repr(error), code)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    member.close()


def _exit_code(error: BaseException) -> int:
    if isinstance(error, PoseError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return _INTERRUPTED
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return _CRASH
