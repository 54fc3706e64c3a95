"""A runner of command lines that keeps stdout and stderr apart with every click there is."""

from __future__ import annotations

import inspect

from typer.testing import CliRunner


def cli_runner() -> CliRunner:
    # Up to click 8.1, which Python 3.9 has, both are mixed unless told not to; later the choice is gone.
    separate = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
    return CliRunner(**separate)
