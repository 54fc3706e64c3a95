"""`python -m msposenet` is the command `msposenet`."""

from __future__ import annotations

from msposenet.cli.main import run

if __name__ == "__main__":
    run()
