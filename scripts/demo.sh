#!/usr/bin/env bash
# Trains, evaluates, predicts with and exports a small network on drawn people, on the CPU, from a fresh clone.
# scripts/demo.sh [ARGUMENT...]: the arguments go to `msposenet demo`. PYTHON=/path/to/python chooses the interpreter.
set -euo pipefail
# shellcheck source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment cpu
exec "$venv/bin/msposenet" demo "$@"
