"""Atomic writing: the old file or the new one, an error with a remedy, nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
from pathlib import Path

import pytest
from faults import BECOME_NOBODY, own_disk, run_python

from msposenet.errors import ConfigError, PoseError, StorageError
from msposenet.storage import (
    is_disk_full,
    make_folder,
    probe_writable,
    storage_error,
    write_bytes_atomic,
    write_chunks_atomic,
    write_json_atomic,
    write_text_atomic,
)


def test_writes_what_was_given(tmp_path):
    write_bytes_atomic(tmp_path / "bytes", b"\0\1\2")
    assert (tmp_path / "bytes").read_bytes() == b"\0\1\2"
    write_text_atomic(tmp_path / "text", "Größe 尺寸 \udcff")
    assert (tmp_path / "text").read_text(encoding="utf-8") == "Größe 尺寸 \\udcff"
    write_json_atomic(tmp_path / "json", {"a": [1, 2.5, None, "ß"]})
    assert json.loads((tmp_path / "json").read_text(encoding="ascii")) == {"a": [1, 2.5, None, "ß"]}
    digest = write_chunks_atomic(tmp_path / "chunks", [b"ab", memoryview(b"c"), b""])
    assert (tmp_path / "chunks").read_bytes() == b"abc"
    assert digest == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        3,
    )  # SHA-256 of "abc", FIPS 180-2


def test_replaces_whole_files_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "file"
    for data in (b"a long first content", b"short"):
        write_bytes_atomic(path, data)
        assert path.read_bytes() == data
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_new_file_has_the_rights_of_any_new_file(tmp_path):
    write_bytes_atomic(tmp_path / "ours", b"")
    (tmp_path / "plain").write_bytes(b"")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "big_disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "big_disk" / "file")
    write_bytes_atomic(tmp_path / "link", b"data")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "big_disk" / "file").read_bytes() == b"data"


def test_an_exception_amid_the_content_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def chunks():
        yield b"new, but"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_chunks_atomic(path, chunks())
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_flushes_the_content_before_the_rename_and_the_folder_after(tmp_path, monkeypatch):
    calls, files = [], {}

    def record(name):
        real = getattr(os, name)

        def call(*args, **kwargs):
            result = real(*args, **kwargs)
            if name == "open":
                files[result] = Path(args[0]).name
            calls.append((name, files.get(args[0], args[0] if isinstance(args[0], int) else Path(args[0]).name)))
            return result

        monkeypatch.setattr(os, name, call)

    for name in ("open", "write", "fsync", "replace"):
        record(name)
    write_bytes_atomic(tmp_path / "file", b"data")
    temp = calls[0][1]
    wanted = [("open", temp), ("write", temp), ("fsync", temp), ("replace", temp), ("open", tmp_path.name)]
    assert calls == [*wanted, ("fsync", tmp_path.name)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_names_the_number_that_it_cannot_hold(tmp_path, value):
    path = tmp_path / "results.json"
    path.write_text("old")
    with pytest.raises(PoseError, match=r"results.json: .*`people\[1\]\.keypoints\[2\]` = (nan|inf)"):
        write_json_atomic(path, {"n": 1.0, "people": [{"keypoints": (0.0,)}, {"keypoints": (0.0, 1.0, value)}]})
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_paths_that_can_never_work_are_configuration_errors(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for path in ("file/below", "folder", "n" * 300):
        with pytest.raises(ConfigError):
            write_bytes_atomic(tmp_path / path, b"data")
    with pytest.raises(ConfigError, match="a folder or a device"):
        write_bytes_atomic(tmp_path / "pipe", b"data")
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    with pytest.raises(StorageError, match="its folder is missing"):
        write_bytes_atomic(tmp_path / "absent" / "file", b"data")


def test_errors_of_the_disk_say_what_to_do():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    error = storage_error("run/LAST", "written", full)
    assert str(error) == (
        "run/LAST: cannot be written (No space left on device): the disk is full: free space or choose another folder"
    )
    assert isinstance(error, StorageError) and error.exit_code == 4
    for code, makes_room in ((errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EROFS, False), (errno.EFBIG, False)):
        with pytest.raises(StorageError) as caught:
            raise storage_error("x", "written", OSError(code, "")) from OSError(code, "")
        assert is_disk_full(caught.value) is makes_room
    assert not is_disk_full(StorageError("no cause"))


def test_a_file_size_limit_keeps_the_old_file(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    code = (
        "import resource, sys\n"
        "from msposenet.errors import StorageError\n"
        "from msposenet.storage import write_bytes_atomic\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    write_bytes_atomic(sys.argv[1], bytes(5000))\n"
        "except StorageError as error:\n    print(error)\n    sys.exit(error.exit_code)\n"
    )
    run = run_python(code, tmp_path / "file")
    assert run.returncode == 4 and "ulimit -f" in run.stdout
    assert (tmp_path / "file").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


PROBE = (
    "import sys\n"
    "from msposenet.errors import PoseError\n"
    "from msposenet.storage import probe_writable\n"
    "{before}\n"
    "try:\n    probe_writable(sys.argv[1], int(sys.argv[2]))\n"
    "except PoseError as error:\n    print(error)\n    sys.exit(error.exit_code)\n"
)


def test_probe_creates_missing_parents_and_leaves_nothing(tmp_path):
    probe_writable(tmp_path / "runs" / "first" / "checkpoints", 1_000_000)
    assert list((tmp_path / "runs" / "first" / "checkpoints").iterdir()) == []


def test_probe_refuses_a_path_through_a_file(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ConfigError, match=r"runs/first: cannot be created .*is a file, not a folder"):
        probe_writable(tmp_path / "runs" / "first", 0)
    with pytest.raises(ConfigError, match="exists where a folder is needed"):
        make_folder(tmp_path / "runs")


def test_probe_refuses_too_little_room(tmp_path):
    with pytest.raises(StorageError, match=r"MB are free, 1,000,000,000,000\.0 MB will be needed: free space"):
        probe_writable(tmp_path, 10**18)
    assert list(tmp_path.iterdir()) == []


def test_probe_measures_the_disk_that_the_folder_is_on(tmp_path):
    prefix = own_disk(tmp_path, "size=2m")
    assert run_python(PROBE.format(before=""), tmp_path / "run", 1_500_000, prefix=prefix).returncode == 0
    run = run_python(PROBE.format(before=""), tmp_path / "run", 3_000_000, prefix=prefix)
    assert run.returncode == 4 and "3.0 MB will be needed" in run.stdout


def test_probe_refuses_a_read_only_disk(tmp_path):
    run = run_python(PROBE.format(before=""), tmp_path / "run", 1, prefix=own_disk(tmp_path, "ro"))
    assert run.returncode == 4 and "mounted read-only" in run.stdout
    run = run_python(PROBE.format(before=""), tmp_path, 1, prefix=own_disk(tmp_path, "ro"))
    assert run.returncode == 4 and "mounted read-only" in run.stdout


def test_probe_refuses_a_folder_without_permission():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        for path in (folder, Path(folder) / "run"):
            run = run_python(PROBE.format(before=BECOME_NOBODY), path, 1)
            assert run.returncode == 4 and "no permission" in run.stdout, run.stdout + run.stderr
