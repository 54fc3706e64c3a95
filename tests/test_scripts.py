"""The scripts of a fresh clone, run for real in copies of it where no Python, or only part of one, is to be found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pip
import pytest

PROJECT = Path(__file__).resolve().parents[1]
SCRIPTS = ("scripts/demo.sh", "scripts/test.sh", "scripts/environment.sh", ".ci/run")
COMMANDS = ("scripts/demo.sh", "scripts/test.sh", ".ci/run")
# What the scripts call besides Python; flock where there is one.
TOOLS = ("bash", "cat", "dirname", "env", "flock", "mkdir", "rm", "uname")
UP_TO_DATE = ".venv is up to date.\n"
NO_PYTHON = (
    "msposenet: no Python 3.9, 3.10, 3.11 or 3.12 on PATH; install one, or name one with PYTHON=/path/to/python.\n"
)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of what the scripts need, in a folder whose name has a space."""
    target = tmp_path / "a clone"
    for name in (*SCRIPTS, "setup.cfg", "pyproject.toml"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, target / name)
    return target


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for PATH that has the usual tools and no Python."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        if found is not None:
            (folder / name).symlink_to(found)
    return folder


@pytest.fixture
def made(clone: Path, tools: Path) -> Path:
    """A clone whose .venv is stamped as holding `cpu`, with a verb that prints its folder and arguments."""
    make_environment(clone / ".venv")
    verb = clone / ".venv/bin/msposenet"
    verb.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    verb.chmod(0o755)
    stamp(clone, tools, "cpu")
    return clone


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_can_read_it(script: str) -> None:
    done = subprocess.run(["bash", "-n", PROJECT / script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.access(PROJECT / script, os.X_OK) == (script in COMMANDS)


@pytest.mark.parametrize("script", COMMANDS)
def test_without_python_one_sentence_says_so(script: str, clone: Path, tools: Path) -> None:
    done = run(clone, tools, script)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", NO_PYTHON)
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize("version", ["2.7", "3.8", "3.13"])
def test_other_pythons_do_not_fit(version: str, clone: Path, tools: Path) -> None:
    older = python_that(tools, "python3", f"sys.version_info = ({version.replace('.', ', ')}, 0)")
    assert run(clone, tools, "scripts/demo.sh").stderr == NO_PYTHON
    named = run(clone, tools, "scripts/demo.sh", PYTHON=str(older))
    sentence = f"msposenet: PYTHON={older} is no Python 3.9, 3.10, 3.11 or 3.12 that runs; name one that is.\n"
    assert (named.returncode, named.stderr) == (2, sentence)


def test_a_python_without_venv_is_named_with_its_remedy(clone: Path, tools: Path) -> None:
    python_that(tools, "python3.11", "sys.modules['ensurepip'] = None")
    done = run(clone, tools, "scripts/test.sh")
    sentence = (
        "msposenet: python3.11 lacks its venv module; install it (Debian, Ubuntu: apt install python3.11-venv).\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", sentence)


def test_a_machine_that_mxnet_was_not_built_for_is_named(clone: Path, tools: Path) -> None:
    python_that(tools, "python3.11", "import platform; platform.machine = lambda: 'riscv64'")
    done = run(clone, tools, "scripts/demo.sh")
    assert done.returncode == 2
    assert done.stderr.startswith("msposenet: MXNet 1.9.1 has no build for this machine (")
    assert done.stderr.count("\n") == 1


def test_a_second_run_installs_nothing_and_keeps_folder_and_arguments(made: Path, tools: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = run(made, tools, "scripts/demo.sh", "--out", "two words", cwd=elsewhere)
    assert (done.returncode, done.stderr) == (0, UP_TO_DATE)
    assert done.stdout.splitlines() == [str(elsewhere), "demo", "--out", "two words"]


def test_the_tests_environment_serves_the_demo_but_not_the_reverse(made: Path, tools: Path) -> None:
    assert run(made, tools, "scripts/test.sh").stderr == NO_PYTHON
    stamp(made, tools, "cpu,dev")
    assert run(made, tools, "scripts/demo.sh").stderr == UP_TO_DATE


@pytest.mark.parametrize("change", ["setup.cfg", "pyproject.toml", "stamp gone", "interrupted", "broken", "moved"])
def test_an_environment_that_cannot_be_trusted_is_not_used(change: str, made: Path, tools: Path) -> None:
    """There is nothing to install it with here: that it is tried shows in the sentence about Python."""
    clone = made
    if change.endswith((".cfg", ".toml")):
        with open(made / change, "a", encoding="utf-8") as file:
            file.write("\n")
    elif change == "stamp gone":
        (made / ".venv/msposenet-stamp").unlink()
    elif change == "interrupted":
        (made / ".venv/msposenet-unfinished").touch()
    elif change == "broken":
        (made / ".venv/bin/python").unlink()
    else:
        clone = made.rename(made.with_name("moved"))
    done = run(clone, tools, "scripts/demo.sh")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", NO_PYTHON)


def test_an_interrupted_installation_is_started_afresh(clone: Path, tools: Path) -> None:
    """Where pip can fetch nothing: what was half there is gone, and the new attempt is not taken for a whole one."""
    half = make_environment(clone / ".venv", start=str(Path(pip.__file__).parents[1])) / "half a package"
    half.mkdir()
    (clone / ".venv/msposenet-unfinished").touch()
    done = run(clone, tools, "scripts/demo.sh", PYTHON=sys.executable)
    sentence = "msposenet: the installation failed (pip's reason is above); the next run starts it afresh."
    assert (done.returncode, done.stdout, done.stderr.splitlines()[-1]) == (2, "", sentence)
    assert not half.exists()
    assert (clone / ".venv/bin/python").exists()
    assert (clone / ".venv/msposenet-unfinished").exists()
    assert not (clone / ".venv/msposenet-stamp").exists()


def run(
    clone: Path, tools: Path, script: str, *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a script of the clone with nothing on PATH but `tools`, and nothing that pip could install from."""
    return subprocess.run(
        [clone / script, *arguments],
        cwd=cwd or tools,
        env={"PATH": str(tools), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def stamp(clone: Path, tools: Path, extras: str) -> None:
    """Marks the clone's .venv as holding `extras`, as a finished installation does."""
    line = 'set -eu; source "$0"; environment_stamp "$1" >"$stamp"'
    subprocess.run(
        [tools / "bash", "-c", line, clone / "scripts/environment.sh", extras], env={"PATH": str(tools)}, check=True
    )


def python_that(tools: Path, name: str, start: str) -> Path:
    """Puts on PATH, as `name`, a real Python that runs the line `start` first."""
    home = tools.parent / f"home of {name}"
    make_environment(home, start=f"import sys; {start}")
    command = tools / name
    command.write_text(f'#!/usr/bin/env bash\nexec "{home}/bin/python" "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    return command


def make_environment(home: Path, start: str = "") -> Path:
    """Makes an environment without pip, `start` its one .pth line; returns its folder of packages."""
    venv.create(home, symlinks=True)
    site_packages = home / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (site_packages / "start.pth").write_text(f"{start}\n", encoding="utf-8")
    return site_packages
