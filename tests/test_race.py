"""Contenders in processes of their own: they take turns, they are checked, they die without spoiling the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from msposenet.benchmarks.figures import rows_of
from msposenet.benchmarks.processes import Contender, Settings, started
from msposenet.benchmarks.race import Entry, Lost, Race, here, race
from msposenet.errors import ConfigError, ExportError

TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def racers_are_found(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{TESTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def silent(done: int, total: int) -> None:
    pass


def contender(make: str, name: str | None = None, **options) -> Contender:
    return Contender(name or make, make=f"racers:{make}", options=options)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def ticks(pid: int) -> int:
    """Processor time that the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


# Turns


def test_contenders_take_turns_and_the_order_moves_on():
    seen: list[tuple[str, int]] = []
    runs = {name: here(lambda number, name=name: seen.append((name, number))) for name in "abc"}
    result = race(runs, rounds=3, times=2)
    assert seen[:3] == [("a", 0), ("b", 0), ("c", 0)]  # warming up
    turns = [name for name, _ in seen[3::2]]
    assert turns == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert [number for name, number in seen[3:] if name == "a"] == [0, 1, 2, 3, 4, 5]
    assert all(seconds.shape == (3,) for seconds in result.seconds.values())


def test_a_turn_lasts_as_long_as_asked_for():
    counts = {"quick": 0, "slow": 0}

    def run(name: str, seconds: float):
        def turn(first: int, times: int) -> float:
            counts[name] += times
            return seconds

        return turn

    race({"quick": run("quick", 0.001), "slow": run("slow", 3.0)}, rounds=4, turn=0.1)
    assert counts == {"quick": 2 + 4 * 100, "slow": 2 + 4 * 1}


def test_one_that_is_lost_on_the_way_leaves_the_others_their_figures():
    def dies(first: int, times: int) -> float:
        if first:
            raise Lost("gone")
        return 1.0

    result = race({"a": lambda first, times: 2.0, "b": dies}, rounds=3, times=1)
    assert list(result.seconds) == ["a"] and result.lost == {"b": "gone"}


# Ratios


def test_ratios_are_taken_within_rounds():
    """A neighbour that slows two rounds tenfold moves the medians of the times, not of the ratios."""
    slowed = np.array([1, 1, 10, 10, 10])
    result = Race({"theirs": 2.0 * slowed, "ours": np.array([1.0, 1, 10, 10, 8])}, {"gone": "it died"})
    entries = [Entry("ours", True, operations=6e9, items=4), Entry("theirs", operations=6e9, items=4), Entry("gone")]
    ours, theirs, gone = rows_of("case", entries, result, ["gone", "theirs"])
    assert (ours.ratio, ours.ratio_quartiles, ours.reference) == (2.0, (2.0, 2.0), "theirs")
    assert ours.ratios == {"theirs": (2.0, 2.0, 2.0)}
    assert (ours.seconds_median, ours.quartiles) == (8.0, (1.0, 10.0))
    assert (ours.per_second, ours.gflops) == (0.5, 0.75)
    assert (theirs.kind, theirs.ratio, theirs.ratios) == ("peer", 1.0, {})
    assert (gone.not_measured, gone.seconds_median, gone.ratio) == ("it died", None, None)


def test_the_share_of_peak_is_that_of_the_faster_product():
    seconds = {"net": [2.0, 2.0, 4.0], "blas a": [4.0, 4.0, 8.0], "blas b": [8.0, 8.0, 8.0]}
    entries = [Entry("net", True, operations=3e9)]
    entries += [Entry(name, operations=8e9, peak=True) for name in ("blas a", "blas b")]
    result = Race({name: np.array(values) for name, values in seconds.items()})
    net, fastest, _ = rows_of("", entries, result, ["net"])
    assert net.share_of_peak == pytest.approx(0.75)  # 1.5 of 2 GFLOP/s
    assert (fastest.kind, fastest.share_of_peak, fastest.per_second, fastest.ratio) == ("peak", 1.0, None, None)
    assert rows_of("", entries[:1], result, ["net"])[0].share_of_peak is None


# Processes


def test_processes_race_and_their_ratio_is_that_of_their_work(tmp_path):
    wanted = [contender("sleeper", "slow", seconds=0.06), contender("sleeper", "quick", seconds=0.02)]
    with started(wanted, Settings(), tmp_path, silent) as ready:
        pids = [process._process.pid for process in ready.processes.values()]
        result = race({name: process.run for name, process in ready.processes.items()}, 3, turn=0.06)
    assert np.median(result.ratios("quick", "slow")) == pytest.approx(3, rel=0.5)
    assert [check.error for check in ready.checks] == [0, 0] and not ready.lost
    assert not any(map(alive, pids))


def test_those_that_cannot_run_say_why_and_spoil_nothing(tmp_path):
    wanted = [
        contender("uninstalled"), contender("clumsy"), contender("printer"), contender("mortal", steps=0),
        contender("mortal", "mortal later", steps=2), Contender("nowhere", make="racers:nobody"),
        contender("refusing"),
    ]  # fmt: skip
    with started(wanted, Settings(), tmp_path, silent) as ready:
        result = race({name: process.run for name, process in ready.processes.items()}, 2, times=1)
    lost = {**ready.lost, **result.lost}
    assert list(result.seconds) == ["printer"] and (result.seconds["printer"] > 0).all()
    assert lost["uninstalled"] == "no_such_library is not installed"
    assert lost["refusing"] == "needs the package onnx"
    assert lost["clumsy"] == "its process ended with exit code 1: ValueError: cannot be built"
    assert lost["mortal"] == lost["mortal later"] == "its process ended with signal 9"
    assert "nobody" in lost["nowhere"] and "AttributeError" in lost["nowhere"]


def test_other_results_are_not_timed(tmp_path):
    right, wrong = contender("sleeper", "right", seconds=0), contender("sleeper", "wrong", seconds=0, value=1.01)
    nothing = contender("sleeper", "nothing", seconds=0, value=float("nan"))
    for other, message in ((wrong, r"wrong: its results differ by 1\.0e-02"), (nothing, "nothing: .* differ by nan")):
        with pytest.raises(ExportError, match=message), started([right, other], Settings(), tmp_path, silent):
            pytest.fail("it would be timed")
    loose = Contender("loose", make="racers:sleeper", options={"seconds": 0, "value": 1.01}, tolerance=None)
    with started([right, loose], Settings(), tmp_path, silent) as ready:
        assert ready.checks[1].error == pytest.approx(0.01)


def test_one_that_hangs_is_given_up(tmp_path):
    wanted = [contender("sleeper", "hangs", seconds=60), contender("sleeper", "runs", seconds=0)]
    with started(wanted, Settings(limit=3), tmp_path, silent) as ready:
        assert ready.lost == {"hangs": "no answer for 3 s"} and list(ready.processes) == ["runs"]


@pytest.mark.skipif(sys.platform != "linux", reason="processes are frozen on Linux only")
def test_nothing_of_a_contender_runs_out_of_its_turn(tmp_path):
    wanted = [contender("spinner"), contender("sleeper", seconds=0)]
    with started(wanted, Settings(), tmp_path, silent) as ready:
        spinner = ready.processes["spinner"]
        before = ticks(spinner._process.pid)
        time.sleep(0.3)
        assert ticks(spinner._process.pid) == before
        spinner.run(0, 1)
        assert ticks(spinner._process.pid) > before


def test_threads_and_waiting_are_set(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert Settings().cores == 7 and Settings(threads=3).cores == 3
    assert Settings(waiting="active").environment["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "OMP_WAIT_POLICY" not in Settings(waiting="default").environment
    for key in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        assert Settings(threads=2).environment[key] == "2"
    own = Contender(
        "own", make="racers:environment", options={"name": "OMP_NUM_THREADS"}, environment={"OMP_NUM_THREADS": "5"}
    )
    with started([own], Settings(threads=2), tmp_path, silent):
        assert np.load(tmp_path / "0.npy") == [5]
    with pytest.raises(ConfigError, match="--waiting idle"):
        Settings(waiting="idle")
    with pytest.raises(ConfigError, match="--turn nan"):
        Settings(turn=float("nan"))


@pytest.mark.skipif(sys.platform != "linux", reason="the parent's death is told on Linux only")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_contender_outlives_the_benchmark(number, tmp_path):
    command = [sys.executable, str(TESTS / "racers.py"), str(tmp_path), "0.3"]
    # A shell starts what it puts into the background with SIGINT ignored, and what we start would inherit that.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2 and all(map(alive, pids))
        parent.send_signal(number)
        assert parent.wait(20) != 0
    finally:
        parent.kill()
        parent.stdout.close()
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, pids))
