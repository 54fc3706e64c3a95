"""What can go wrong around a process: other disks, other rights, files made to harm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]

# Permission bits do not bind root, so a process of root becomes nobody first (pytest's own folders nobody may enter).
BECOME_NOBODY = "import os; os.getuid() or (os.setgroups([]), os.setgid(65534), os.setuid(65534))"


def run_python(code: str, *args, prefix: tuple = ()) -> subprocess.CompletedProcess:
    """Run code in another process, since limits, mounts and user ids cannot be given back."""
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{PROJECT / 'tests'}"}
    command = [*prefix, sys.executable, "-W", "ignore", "-c", code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def own_disk(folder: Path, options: str) -> tuple:
    """Prefix of a command that has a small disk of its own at `folder`; skips where the kernel forbids it."""
    script = f'mount -t tmpfs -o {options} tmpfs "{folder}" && exec "$@"'
    prefix = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh")
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets no user mount a file system")
    return prefix


class Hostile:
    """Unpickling this writes a file: code in a pickle runs."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return (Path.write_text, (self.target, "code ran"))
