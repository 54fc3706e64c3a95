"""Runs inside the processes of a launched training (`job.py` puts it there): notes what happens, and may do harm.

The package has no switches to make it fail, so a process of a job is made to fail from within, by wrapping some of its
functions after they were imported. Every process notes its birth and the moments that it comes to; the launcher notes
with which code each process left. SABOTAGE in the environment, a JSON object:

    folder    of notes.jsonl, and of now-N: a file that makes attempt N's victim act wherever it is
    harms     for each attempt from the first on, what happens in it:
        victim    who is to fail, such as "worker 1" or "scheduler"
        moment    start, serve, step, save or validation: where it fails, the `nth` time it comes there
        act       exception; exit, exit now with `code`; nan; perturb the learnable array number `array`
"""

from __future__ import annotations

import importlib.abc
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIABLE = "SABOTAGE"
NOTES, NOW = "notes.jsonl", "now-"
_POLL = 0.02

_counts: Counter = Counter()
_folder = Path()
_harm: dict[str, Any] = {}  # what this process is to do in this attempt; empty for most


def begin() -> None:
    """Called while the interpreter starts; a process without SABOTAGE, or none of a job, is left alone."""
    if VARIABLE not in os.environ:
        return
    global _folder
    plan = json.loads(os.environ[VARIABLE])
    _folder = Path(plan["folder"])
    sys.meta_path.insert(0, _Wrapping())
    if "DMLC_ROLE" not in os.environ:
        return
    note("born", pid=os.getpid())
    harms = plan.get("harms", [])
    if _attempt() < len(harms) and harms[_attempt()]["victim"] == _me():
        _harm.update(harms[_attempt()])
        threading.Thread(target=_await_now, daemon=True).start()


def note(what: str, **values: Any) -> None:
    """A line in the job's notes; several processes write it, each line in one piece."""
    line = json.dumps({"what": what, "who": _me(), "attempt": _attempt(), "time": time.time(), **values}) + "\n"
    with open(_folder / NOTES, "ab", buffering=0) as file:
        file.write(line.encode())


def _me() -> str:
    role = os.environ.get("DMLC_ROLE", "launcher")
    return f"{role} {os.environ['DMLC_TASK_ID']}" if role in ("worker", "server") else role


def _attempt() -> int:
    return int(os.environ.get("MSPOSENET_ATTEMPT", "0"))


def _await_now() -> None:
    while not (_folder / f"{NOW}{_attempt()}").exists():
        time.sleep(_POLL)
    _act()


def _at(moment: str) -> bool:
    """Note that the process came to a moment; whether it is the one to act at."""
    _counts[moment] += 1
    note("moment", moment=moment, nth=_counts[moment])
    return _harm.get("moment") == moment and _harm.get("nth", 1) == _counts[moment]


def _act() -> None:
    note("died", act=_harm["act"])
    if _harm["act"] == "exception":
        raise RuntimeError("sabotaged")
    if _harm["act"] == "exit":
        sys.exit(_harm["code"])
    if _harm["act"] == "exit now":  # as a library does that calls exit() while the main thread is inside MXNet
        os._exit(_harm["code"])


# what is wrapped, by module


def _wrap(owner: Any, name: str, moment: str) -> None:
    """Let the function `name` of a class or module begin with a moment."""
    real = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if _at(moment):
            _act()
        return real(*args, **kwargs)

    setattr(owner, name, wrapped)


def _in_loop(loop: Any) -> None:
    _wrap(loop, "training_samples", "start")
    _wrap(loop._Run, "_stop_if_asked", "validation")  # between two batches of a validation


def _in_snapshots(snapshots: Any) -> None:
    _wrap(snapshots.Snapshots, "averages", "save")  # in the middle of a save


def _in_serving(serving: Any) -> None:
    _wrap(serving, "_run", "serve")


def _in_step(step: Any) -> None:
    real = step.Stepper.__call__

    def wrapped(self: Any, batch: Any, *args: Any) -> Any:
        chosen = _at("step")
        if chosen and _harm["act"] == "nan":
            note("nan", images=batch.image_ids.tolist())
            batch.joints[...] = float("nan")
            batch.weights[...] = 1
        elif chosen and _harm["act"] != "perturb":
            _act()
        terms = real(self, batch, *args)
        if chosen and _harm["act"] == "perturb":
            name, parameter = list(self.learnable.items())[_harm["array"]]
            note("perturbed", array=name)
            array = parameter.list_data()[0]
            values = array.asnumpy()
            values.reshape(-1)[0] += 2.0**-20
            array[:] = values
        return terms

    step.Stepper.__call__ = wrapped


def _in_attempt(attempt: Any) -> None:
    real = attempt.Attempt._left

    def wrapped(self: Any, watched: Any) -> None:
        note("left", name=watched.name, code=watched.code, attempt=self._number)
        real(self, watched)

    attempt.Attempt._left = wrapped


_WRAPPED: dict[str, Callable[[Any], None]] = {
    "msposenet.training.loop": _in_loop,
    "msposenet.training.snapshots": _in_snapshots,
    "msposenet.training.step": _in_step,
    "msposenet.distributed.serving": _in_serving,
    "msposenet.launching.attempt": _in_attempt,
}


class _Wrapping(importlib.abc.MetaPathFinder):
    """Finds the modules of _WRAPPED as others do, and wraps what is in them once they are loaded."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name not in _WRAPPED:
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(spec for spec in found if spec is not None)
        load = spec.loader.exec_module

        def load_and_wrap(module: Any) -> None:
            load(module)
            _WRAPPED[name](module)

        spec.loader.exec_module = load_and_wrap
        return spec
