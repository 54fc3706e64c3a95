"""The benchmark of the reader runs, reads what it wrote, and needs little memory a person. Nothing is timed here."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from faults import PROJECT


def run(*options: str) -> str:
    command = [sys.executable, str(PROJECT / "scripts/bench_reader.py"), *options]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")
def test_memory_grows_slowly_with_the_number_of_people():
    """The benchmark itself compares what was read with what was written."""
    few, many = (json.loads(run("--instances", str(count), "--json")) for count in (4_000, 20_000))
    assert (many["instances"], many["images"], many["id_sum"]) == (20_000, 9_091, 20_000 * 20_001 // 2)
    # 2,000 bytes of which 840 are the file's; 5,600 where every number of the file becomes an object.
    assert (many["peak_bytes"] - few["peak_bytes"]) / 16_000 < 3_000
    assert many["column_bytes"] < 300 * 20_000


def test_the_figures_are_told_in_a_sentence():
    sentence = run("--instances", "100")
    assert sentence.startswith("100 instances on 45 images (0 MB) read in ") and "peak memory" in sentence
