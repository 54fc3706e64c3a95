"""The processes of `check-data`: none is left behind, none that dies takes a picture with it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from damaged_set import config_file, copy_set, edit, source

from msposenet.data import doctor_scan
from msposenet.data.doctor_scan import scan_pictures
from msposenet.errors import LoaderError

COMMAND = [sys.executable, "-m", "msposenet", "check-data"]


def slow_set(folder: Path, pictures: int) -> Path:
    """A configuration whose pictures take a while."""
    annotations = copy_set(folder / "set", pictures=4)
    large = np.random.default_rng(0).integers(0, 255, (1000, 1000, 3), np.uint8)
    cv2.imwrite(str(folder / "large.jpg"), large)
    for number in range(pictures):
        (folder / "set" / "images" / f"{number}.jpg").symlink_to(folder / "large.jpg")

    def add(content):
        for number in range(pictures):
            image = {"id": 10_000 + number, "file_name": f"{number}.jpg", "width": 1000, "height": 1000}
            content["images"].append(image)

    edit(annotations, add)
    return config_file(folder, [source(annotations)])


def children(pid: int) -> set[int]:
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        found |= set(map(int, (task / "children").read_text().split()))
    return found


def gone(pids: set[int], within: float) -> bool:
    """Whether the processes end (a zombie has ended; whoever adopted it has not looked yet)."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        states = [Path(f"/proc/{pid}/stat") for pid in pids]
        if all(not path.exists() or path.read_text().rpartition(")")[2].split()[0] == "Z" for path in states):
            return True
        time.sleep(0.05)
    return False


@contextmanager
def started(config: Path, *arguments: str):
    """The running command in a group of its own and its reading processes, all of them at work."""
    process = subprocess.Popen(
        [*COMMAND, str(config), *arguments],
        cwd=config.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # In the background a shell tells the tests to ignore Ctrl-C, and they would pass it on.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    workers: set[int] = set()
    try:
        while len(workers) < int(arguments[1]) and process.poll() is None:
            workers = children(process.pid)
            time.sleep(0.01)
        yield process, workers
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
    ids=["Ctrl-C", "SIGTERM", "kill -9"],
)
def test_no_process_is_left_behind(number, code, tmp_path):
    with started(slow_set(tmp_path, 2000), "--workers", "3") as (process, workers):
        # A terminal sends Ctrl-C to the whole group.
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    assert len(workers) == 3 and gone(workers, 10)
    assert "Traceback" not in errors
    assert not (tmp_path / "check-data-config" / "report.json").exists()


def test_a_killed_process_costs_nothing(tmp_path):
    with started(slow_set(tmp_path, 40), "--workers", "2", "--samples", "0", "--json") as (process, workers):
        os.kill(min(workers), signal.SIGKILL)
        summary = json.loads(process.communicate(timeout=60)[0])
    assert process.returncode == 0 and summary["damaged"] == 0
    assert summary["sets"][0]["pictures"] == 44


def test_a_picture_that_kills_its_decoder_is_found(tmp_path, monkeypatch):
    """As a decoder's own fault would; the processes are forked, so they have the changed function."""
    paths = []
    for number in range(40):
        paths.append(os.fsencode(tmp_path / f"{number}.png"))
        cv2.imwrite(os.fsdecode(paths[-1]), np.full((4, 5, 3), number, np.uint8))
    sound = doctor_scan.look
    monkeypatch.setattr(
        doctor_scan, "look", lambda path: os.kill(os.getpid(), signal.SIGSYS) if path == paths[21] else sound(path)
    )
    seen = []
    scan = scan_pictures(paths, 2, lambda done, total: seen.append((done, total)))
    assert list(scan.errors) == [21] and "SIGSYS" in scan.errors[21]
    assert (np.delete(scan.sizes, 21, axis=0) == (5, 4)).all()
    assert len({scan.digest(place) for place in range(40)}) == 40
    assert seen == sorted(seen) and seen[-1] == (40, 40)


def test_a_signal_that_comes_while_a_process_starts(tmp_path, monkeypatch):
    process = multiprocessing.get_context("fork").Process
    start = process.start

    def interrupted(self):
        start(self)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(process, "start", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            scan_pictures([os.fsencode(tmp_path / "0.png")], 1, lambda done, total: None)
    finally:
        signal.signal(signal.SIGINT, before)
    assert multiprocessing.active_children() == []


def test_a_machine_that_kills_every_process_is_told_from_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor_scan, "look", lambda path: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(LoaderError, match=r"51 processes died .*SIGKILL.* --workers"):
        scan_pictures([os.fsencode(tmp_path / f"{number}.png") for number in range(200)], 2, lambda done, total: None)


def test_a_defect_of_ours_is_told_with_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor_scan, "look", lambda path: 1 / 0)
    with pytest.raises(LoaderError, match=r"(?s)0\.png and its neighbours.*ZeroDivisionError"):
        scan_pictures([os.fsencode(tmp_path / "0.png")], 1, lambda done, total: None)


def test_mxnet_is_not_loaded(tmp_path):
    """It takes seconds, and processes must not be forked beside its threads."""
    path = config_file(tmp_path, [source(copy_set(tmp_path / "set", pictures=4))])
    code = (
        "import sys; from pathlib import Path; from msposenet.cli.check_data import check_data; "
        "check_data(Path(sys.argv[1]), [], Path(sys.argv[2]), 1, 1, 0, True); assert 'mxnet' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "page")]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 0


def test_twenty_thousand_pictures_are_ordered_piece_by_piece(tmp_path):
    start = time.process_time()
    scan = scan_pictures([os.fsencode(tmp_path / f"{n}.jpg") for n in range(20_000)], 2, lambda done, total: None)
    assert len(scan.errors) == 20_000 and scan.errors[19_999].startswith("missing image")
    assert time.process_time() - start < 5
