"""Kill a process that saves checkpoints and see that every restart finds a verified one that lost at most one interval.

    python scripts/soak_kill_checkpoint.py --kills 200      SIGKILL at random instants, seeded
    python scripts/soak_kill_checkpoint.py --every-call     SIGKILL before each system call of a save, amid each write

The saving processes are forks of this one: real processes and a real SIGKILL, but no start-up time. Random kills hit
the long stretches of a save; the walk over its calls hits each of the short ones between them. The last line of the
output is JSON; the exit code is 1 when a restart failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Callable

import numpy as np

from msposenet.errors import CheckpointError
from msposenet.training.checkpoint import checkpoint_steps, fingerprint, load_checkpoint, save_checkpoint

FLOATS = 20_000  # of each of four arrays: 320 KB a checkpoint
FRESH_EVERY = 10  # kills until the folder starts empty again, so that first saves are hit too
SAVES_BEFORE_KILL = 4
CALLS = ("open", "write", "fsync", "replace", "rename", "unlink", "rmdir", "mkdir")


def content(step: int, attempt: int, floats: int) -> dict:
    """What is saved as a step; another `attempt` of the same step has other values."""
    rng = np.random.default_rng([step, attempt])
    arrays = [rng.standard_normal(floats).astype(np.float32) for _ in range(4)]
    return {
        "params": {"conv.weight": arrays[0], "bn.running_mean": arrays[1]},
        "optimizer": {"mean/conv.weight": arrays[2], "variance/conv.weight": arrays[3]},
        "state": {"step": step, "attempt": attempt},
    }


def problem_of(checkpoint, floats: int) -> str | None:
    """What is wrong with a loaded checkpoint, None when it is bit for bit what was saved."""
    expected = content(checkpoint.step, checkpoint.state["attempt"], floats)
    if checkpoint.state != expected["state"]:
        return f"state {checkpoint.state}"
    if fingerprint(checkpoint.params) != fingerprint(expected["params"]):
        return f"other parameters at step {checkpoint.step}"
    if fingerprint(checkpoint.optimizer) != fingerprint(expected["optimizer"]):
        return f"other optimizer state at step {checkpoint.step}"
    return None


def fork(work: Callable[[], None]) -> int:
    """Run `work` in a child process; returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException as error:
        os.write(2, f"the saving process failed: {error!r}\n".encode())
        os._exit(1)
    os._exit(0)


# SIGKILL at random instants


def save_for_ever(root: Path, step: int, pipe: int) -> None:
    """Save step after step, some twice, some as the best; each step is announced once it is saved."""
    while True:
        step += 1
        for attempt in range(2 if step % 3 == 0 else 1):
            save_checkpoint(root, step, **content(step, attempt, FLOATS), best=step % 5 == 0)
        os.write(pipe, struct.pack("<q", step))


def save_until_killed(root: Path, step: int, seconds: float) -> list[int]:
    """Let a process save for some seconds, kill it; returns the steps that it had announced as saved."""
    reader, writer = os.pipe()
    pid = fork(lambda: save_for_ever(root, step, writer))
    os.close(writer)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    with os.fdopen(reader, "rb") as pipe:
        announced = [value for (value,) in struct.iter_unpack("<q", pipe.read())]
    if not os.WIFSIGNALED(status):
        raise SystemExit("the saving process ended by itself")
    return announced


def random_kills(root: Path, kills: int, seed: int) -> dict:
    """Save, kill and load until `kills` restarts had something to load; counts what was found."""
    rng = np.random.default_rng(seed)
    counts = dict.fromkeys(("kills", "verified", "lost_the_save_under_way", "amid_a_save", "before_any_save"), 0)
    failures, saved, seconds_a_save, rounds = [], 0, 0.005, 0
    while counts["kills"] < kills:
        if rounds % FRESH_EVERY == 0:
            shutil.rmtree(root, ignore_errors=True)
            saved = 0
        rounds += 1
        seconds = rng.uniform(0, SAVES_BEFORE_KILL) * seconds_a_save
        announced = save_until_killed(root, saved, seconds)
        # The sleeps follow the speed of this disk, so that the kills spread over a few saves on any.
        seconds_a_save = 0.8 * seconds_a_save + 0.2 * seconds / max(len(announced), 0.5)
        saved = max([saved, *announced])
        said: list[str] = []
        try:
            checkpoint = load_checkpoint(root, say=said.append)
        except CheckpointError as error:
            if saved == 0:
                counts["before_any_save"] += 1
                continue
            failures.append(f"after step {saved}: {error}")
            break
        damaged = [line for line in said if line.startswith("passed over")]
        problem = problem_of(checkpoint, FLOATS) or (damaged[0] if damaged else None)
        if problem or not saved <= checkpoint.step <= saved + 1:
            failures.append(f"after step {saved}: loaded step {checkpoint.step}, {problem or 'content good'}")
        counts["kills"] += 1
        counts["verified"] += problem is None
        counts["lost_the_save_under_way"] += checkpoint.step == saved
        counts["amid_a_save"] += any(root.glob(".tmp-*")) or any(root.glob(".replaced-*"))
        saved = checkpoint.step
    return {**counts, "failures": failures}


# SIGKILL at every system call


def die_at_call(number: int) -> None:
    """Make the `number`-th of CALLS the last thing that this process does.

    Each call counts once and kills before it is made; a write counts once more and kills after half of its bytes.
    """
    done = 0

    def counting(name: str, real: Callable) -> Callable:
        def call(*args, **kwargs):
            nonlocal done
            if done == number:
                os.kill(os.getpid(), signal.SIGKILL)
            if name == "write" and done + 1 == number:
                real(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            done += 2 if name == "write" else 1
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, counting(name, getattr(os, name)))


def kill_at_every_call(root: Path) -> dict:
    """Kill at call 0, 1, 2 ... of saving step 3 again and then step 4 as the best, until nothing is left to kill."""
    before, killed = root / "before", root / "killed"
    for step in range(1, 4):
        save_checkpoint(before, step, **content(step, 0, 4), keep=2, best=step == 1)

    def saves(number: int) -> None:
        die_at_call(number)
        save_checkpoint(killed, 3, **content(3, 1, 4), keep=2)
        save_checkpoint(killed, 4, **content(4, 0, 4), keep=2, best=True)

    number, failures = 0, []
    while True:
        shutil.rmtree(killed, ignore_errors=True)
        shutil.copytree(before, killed)
        _, status = os.waitpid(fork(lambda number=number: saves(number)), 0)
        if not os.WIFSIGNALED(status):
            if status:
                failures.append(f"call {number}: the saving process failed")
            break
        # LAST always names a valid one, and whatever is called `step_...` is valid, also amid a deletion.
        expected = {"last": (3, 4), "best": (1, 4), **{step: (step,) for step in checkpoint_steps(killed)}}
        for which, steps in expected.items():
            try:
                checkpoint = load_checkpoint(killed, which, say=failures.append)
            except CheckpointError as error:
                failures.append(f"call {number}: {which}: {error}")
                continue
            problem = problem_of(checkpoint, 4)
            if problem or checkpoint.step not in steps:
                failures.append(f"call {number}: {which} is step {checkpoint.step}, {problem or 'content good'}")
        save_checkpoint(killed, 5, **content(5, 0, 4), keep=2)
        left = sorted(path.name for path in killed.iterdir() if path.name.startswith("."))
        if left or load_checkpoint(killed).step != 5:
            failures.append(f"call {number}: the save after it left {left}")
        number += 1
    return {"kills_at_calls": number, "failures": failures}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=0, help="kills at random instants")
    parser.add_argument("--every-call", action="store_true", help="kill at each system call of a save")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to save, to test that disk (default: the temporary folder)")
    options = parser.parse_args()
    warnings.simplefilter("error")
    started = time.monotonic()
    report: dict = {"seed": options.seed, "failures": []}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.kills:
            found = random_kills(Path(folder) / "random", options.kills, options.seed)
            report.update({**found, "failures": report["failures"] + found["failures"]})
        if options.every_call:
            found = kill_at_every_call(Path(folder) / "calls")
            report.update({**found, "failures": report["failures"] + found["failures"]})
    report["seconds"] = round(time.monotonic() - started, 1)
    print(json.dumps(report))
    return 1 if report["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
