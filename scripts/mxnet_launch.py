#!/usr/bin/env python3
"""MXNet's own launch.py, on Pythons that no longer have the Thread.isAlive it calls. Takes the same options."""

from __future__ import annotations

import importlib.util
import runpy
import sys
import threading
from pathlib import Path


def main() -> None:
    found = importlib.util.find_spec("mxnet")  # not imported: under DMLC_ROLE that would begin to serve
    launcher = Path(found.origin).parent / "tools" / "launch.py" if found and found.origin else None
    if launcher is None or not launcher.is_file():
        sys.exit("mxnet_launch: no mxnet with tools/launch.py is installed here; use `msposenet launch`")
    threading.Thread.isAlive = threading.Thread.is_alive  # removed in Python 3.9
    sys.argv[0] = str(launcher)
    runpy.run_path(str(launcher), run_name="__main__")


if __name__ == "__main__":
    main()
