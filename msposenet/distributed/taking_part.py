"""A process's life in a job, from finding its role to leaving without keeping anybody waiting."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from msposenet.distributed.group import Group
from msposenet.distributed.leaving import die, leave, leave_within
from msposenet.distributed.member import Member
from msposenet.distributed.roles import WORKER, Place
from msposenet.distributed.serving import serve
from msposenet.errors import Terminated


def take_part(
    place: Place,
    timeout: float,
    start_timeout: float,
    work: Callable[[Group], Any],
    make_updater: Callable[[dict], Callable[[int, Any, Any], None]] | None = None,
) -> None:
    """Do this process's part of a job: a worker's is `work`, the others serve until the workers have finished.

    Returns after a clean end; raises Terminated when `work` answered a SIGTERM. Whatever else ends `work` ends the
    whole job and this process at once: MXNet's exit would wait for ever for workers that wait for this one. Exit codes:
    the error's own here, 75 (3 for divergence) for the others. A process that has not left `timeout` seconds after its
    farewell is ended by the kernel.
    """
    if place.role != WORKER:
        serve(place, timeout, start_timeout, make_updater)
        leave_within(timeout)
        return
    signal.signal(signal.SIGTERM, lambda number, frame: leave("SIGTERM before the job began", Terminated.exit_code))
    member = Member(place, timeout, start_timeout)
    # From here on, not only while training: the job is stopped in order, also by a process that still reads its data.
    signal.signal(signal.SIGTERM, lambda number, frame: member.ask_to_stop())
    try:
        work(member)
    except Terminated:
        member.close()
        leave_within(timeout)
        raise
    except BaseException as error:  # SystemExit and KeyboardInterrupt are deaths to the job like any other
        die(error, member.fail)
    member.close()
    leave_within(timeout)
