"""Settings shared by all tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# Before MXNet loads: idle OpenMP threads that spin slow every neighbour down, and two pytest workers share two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="run the further cases, too, of what other tests cover")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "thorough: a further case of what another test covers; runs with --thorough")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--thorough"):
        for item in items:
            if item.get_closest_marker("thorough"):
                item.add_marker(pytest.mark.skip(reason="a further case; --thorough runs it"))
