"""Ways out of a job that nothing can hold up: not a blocked MXNet call, not a pipe that nobody reads."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress

from msposenet.errors import PoseError

_TELLING = 1.0  # seconds for last words
_CRASH, _INTERRUPTED = 1, 130


def leave(why: str, code: int) -> None:
    """End this process now, with a sentence. MXNet's exit would wait for the others, so nothing is cleaned up."""
    _leave_after(lambda: _tell(f"error: {why}\n"), code)


def die(error: BaseException, tell_the_job: Callable[[str, int], None]) -> None:
    """End this process over `error`, after `tell_the_job(why, code)`, with the exit code that the error stands for."""
    code = _exit_code(error)
    tell_the_job(str(error) or repr(error), code)
    if isinstance(error, PoseError):
        text = f"error: {error}\n"
    elif isinstance(error, SystemExit):
        text = ""
    else:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))

    def last_words() -> None:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        _tell(text)

    _leave_after(last_words, code)


def leave_within(seconds: float) -> None:
    """Let the kernel end this process unless it has ended by itself: nobody watches what comes after the farewell."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(math.ceil(seconds))


def _leave_after(words: Callable[[], None], code: int) -> None:
    try:
        teller = threading.Thread(target=words, daemon=True)
        teller.start()
        teller.join(_TELLING)
    finally:
        os._exit(code)


def _tell(text: str) -> None:
    rest = text.encode(errors="backslashreplace")
    with suppress(OSError):  # nobody may be left to read it
        while rest:
            rest = rest[os.write(2, rest) :]


def _exit_code(error: BaseException) -> int:
    if isinstance(error, PoseError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return _INTERRUPTED
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return _CRASH
