# shellcheck shell=bash
# What demo.sh and test.sh share: .venv in the project folder, holding the package (editable) and its dependencies.
# Sourced with `set -euo pipefail` in force. `prepare_environment EXTRAS` makes or brings up to date what is needed and
# leaves a stamp, so that the next run does nothing; all it says goes to stderr.

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
stamp=$venv/msposenet-stamp
unfinished=$venv/msposenet-unfinished

# An activated .venv must not be rebuilt with its own Python, nor foreign packages shadow the pinned ones.
PATH=:$PATH:
PATH=${PATH//":$venv/bin:"/:}
PATH=${PATH#:}
PATH=${PATH%:}
unset PYTHONPATH PYTHONHOME

fail() {
  printf 'msposenet: %s\n' "$1" >&2
  exit 2
}

# suitability COMMAND: one word, `fits` or what is in the way.
suitability() {
  local status=0
  "$1" -c '
import platform, sys
if not (3, 9) <= sys.version_info < (3, 13):
    sys.exit(3)
if (platform.system(), platform.machine()) not in (("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "x86_64")):
    sys.exit(4)
try:
    import ensurepip, venv
except ImportError:
    sys.exit(5)
' >/dev/null 2>&1 || status=$?
  case $status in
    0) echo fits ;;
    4) echo platform ;;
    5) echo no-venv ;;
    *) echo unfit ;;
  esac
}

# Prints the command of the first Python that can make the environment; PYTHON overrides the search.
choose_python() {
  local name without_venv='' names=(python3.11 python3.10 python3.9 python3.12 python3)
  if [[ -n ${PYTHON:-} ]]; then names=("$PYTHON"); fi
  for name in "${names[@]}"; do
    case $(suitability "$name") in
      fits)
        printf '%s\n' "$name"
        return
        ;;
      platform) fail "MXNet 1.9.1 has no build for this machine ($(uname -sm)); docs/install.md says which it has." ;;
      no-venv) without_venv=${without_venv:-$name} ;;
    esac
  done
  if [[ -n $without_venv ]]; then
    fail "$without_venv lacks its venv module; install it (Debian, Ubuntu: apt install ${without_venv##*/}-venv)."
  elif [[ -n ${PYTHON:-} ]]; then
    fail "PYTHON=$PYTHON is no Python 3.9, 3.10, 3.11 or 3.12 that runs; name one that is."
  fi
  fail "no Python 3.9, 3.10, 3.11 or 3.12 on PATH; install one, or name one with PYTHON=/path/to/python."
}

# Whether .venv runs, and on the Python asked for.
venv_fits() {
  local identity='import sys; print(sys.version, sys.base_prefix)'
  [[ $(suitability "$venv/bin/python") == fits ]] || return 1
  [[ -z ${PYTHON:-} || $("$PYTHON" -c "$identity" 2>&1) == "$("$venv/bin/python" -c "$identity")" ]]
}

# environment_stamp EXTRAS: one line that changes with whatever the installation depends on; the extras come last.
environment_stamp() {
  "$venv/bin/python" - "$root" "$1" <<'PYTHON'
import hashlib, pathlib, sys

root, extras = sys.argv[1:]
digest = hashlib.sha256(f"{root}\n{sys.version}\n".encode())
for name in ("setup.cfg", "pyproject.toml"):
    digest.update((pathlib.Path(root) / name).read_bytes())
print(digest.hexdigest(), extras)
PYTHON
}

# is_current EXTRAS: whether .venv holds at least these extras, as setup.cfg has them now.
is_current() {
  [[ -f $stamp && ! -e $unfinished ]] && venv_fits || return 1
  # A beginning is enough: what was made for cpu,dev serves for cpu.
  [[ $(<"$stamp") == "$(environment_stamp "$1")"* ]]
}

# An interrupted pip can leave half a package that it later takes for a whole one: such a .venv is built anew.
install() {
  local extras=$1 python
  if [[ -e $unfinished ]] || ! venv_fits || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(choose_python) || exit $?
    rm -rf "$venv"
    mkdir "$venv"
    : >"$unfinished"
    "$python" -m venv "$venv" >&2 || fail "$python could not make .venv (see above)."
  fi
  : >"$unfinished"
  rm -f "$stamp"
  echo "Installing msposenet[$extras] into .venv ($("$venv/bin/python" -V)); the first time fetches 200 to 300 MB." >&2
  (cd "$root" && "$venv/bin/python" -m pip install --no-input --disable-pip-version-check -e ".[$extras]") >&2 ||
    fail "the installation failed (pip's reason is above); the next run starts it afresh."
  environment_stamp "$extras" >"$stamp"
  rm -f "$unfinished"
}

# prepare_environment EXTRAS
prepare_environment() {
  exec 9<"$root/setup.cfg"
  # Two runs at once must not both install; where there is no flock (macOS), nobody waits.
  if command -v flock >/dev/null && ! flock -n 9; then
    echo "Another run is preparing .venv: waiting for it." >&2
    flock 9
  fi
  if is_current "$1"; then
    echo ".venv is up to date." >&2
  else
    install "$1"
  fi
  exec 9<&-
}
