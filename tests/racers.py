"""Contenders for tests of the race: what `msposenet.benchmarks.worker` makes and times in processes of their own."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from msposenet.errors import ConfigError


def sleeper(seconds: float, value: float = 1.0) -> Callable[[], np.ndarray]:
    """Takes `seconds` a step and gives `value`."""

    def step() -> np.ndarray:
        time.sleep(seconds)
        return np.full(3, value)

    return step


def printer() -> Callable[[], np.ndarray]:
    """Prints where answers are written."""
    os.write(1, b"from C\n")

    def step() -> np.ndarray:
        print('{"seconds": 0}', flush=True)
        return np.ones(3)

    return step


def uninstalled() -> Callable[[], np.ndarray]:
    import no_such_library

    return no_such_library.step


def clumsy() -> Callable[[], np.ndarray]:
    raise ValueError("cannot be built")


def refusing() -> Callable[[], np.ndarray]:
    raise ConfigError("needs the package onnx")


def mortal(steps: int) -> Callable[[], np.ndarray]:
    """Is killed in step `steps`."""
    left = iter(range(steps))

    def step() -> np.ndarray:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.ones(3)

    return step


def spinner() -> Callable[[], np.ndarray]:
    """Has a thread that computes for ever, as OpenMP's active waiting."""

    def spin() -> None:
        while True:
            pass

    threading.Thread(target=spin, daemon=True).start()
    return sleeper(0.1)


def environment(name: str) -> Callable[[], np.ndarray]:
    """Gives the number that the variable holds."""
    return lambda: np.array([float(os.environ[name])])


if __name__ == "__main__":  # a race that hangs, for a test that kills it: FOLDER, DURATION of a step
    from msposenet.benchmarks.processes import Contender, Settings, started
    from msposenet.benchmarks.race import race

    contenders = [
        Contender(name, make="racers:sleeper", options={"seconds": seconds})
        for name, seconds in (("quick", 0.0), ("slow", float(sys.argv[2])))
    ]
    with started(contenders, Settings(), Path(sys.argv[1]), lambda done, total: None) as ready:
        print(*(process._process.pid for process in ready.processes.values()), flush=True)
        race({name: process.run for name, process in ready.processes.items()}, 1000)
