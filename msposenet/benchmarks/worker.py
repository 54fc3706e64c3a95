"""A contender's process: `python -m msposenet.benchmarks.worker PARENT`, told what to do by lines on its stdin.

Libraries that bring their own OpenMP, or read their settings when they are loaded, cannot race inside one process.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from msposenet.errors import PoseError
from msposenet.launching.leash import follow_parent


class NotMeasured(Exception):
    """A contender that cannot run here, and why: no failure of the benchmark."""


def main(parent: int) -> None:
    if sys.platform == "linux":
        follow_parent(parent)  # also while it is frozen, when it could not read that stdin has ended
    # What libraries print goes to stderr: stdout is for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    step: Callable[[], Any] | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "make":
                step = made(request["make"])(**request["options"])
                outputs = [step() for _ in range(request["steps"])]
                if request["output"] is not None:
                    np.save(Path(request["output"]), np.concatenate(outputs))
                answer = {}
            else:
                answer = {"seconds": timed(step, request["times"])}
        except (NotMeasured, PoseError) as reason:
            answer = {"not_measured": str(reason)}
        except ModuleNotFoundError as error:
            answer = {"not_measured": f"{error.name} is not installed"}
        answers.write(json.dumps({**answer, "processor": time.process_time()}) + "\n")
        answers.flush()


def made(place: str) -> Callable[..., Callable[[], Any]]:
    """The function at `place`, "module:function"."""
    module, _, function = place.partition(":")
    return getattr(importlib.import_module(module), function)


def timed(step: Callable[[], Any], times: int) -> float:
    """Seconds a step. What others have put into the caches while this process slept is driven out before, untimed."""
    if times > 1:
        step()
    begin = time.perf_counter()
    for _ in range(times):
        step()
    return (time.perf_counter() - begin) / times


if __name__ == "__main__":
    main(int(sys.argv[1]))
