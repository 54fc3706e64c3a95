"""Settings shared by all tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Before MXNet loads: idle OpenMP threads that spin slow every neighbour down, and two pytest workers share two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))
