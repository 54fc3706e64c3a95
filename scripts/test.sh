#!/usr/bin/env bash
# Runs the tests in two processes, from a fresh clone.
# scripts/test.sh [ARGUMENT...]: the arguments go to pytest, in the project folder; `-n 0` gives one process, as --pdb
# needs. PYTHON=/path/to/python chooses the interpreter.
set -euo pipefail
# shellcheck source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment cpu,dev
cd "$root"
# Two processes share the cores, so idle threads must not spin.
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
# A file stays in one process: what its tests share is made once.
exec "$venv/bin/python" -m pytest -n 2 --dist loadfile "$@"
