#!/usr/bin/env bash
# Runs a command in the project's own Python environment, made on first use.
#
#   bash launch/local.sh CMD [ARG...]
#   bash launch/local.sh python -m latemask.main --config configs/demo.py \
#       --workdir runs/demo
#
# First use creates .venv at the repository root (Python 3.11 or newer; PYTHON
# names another interpreter) and installs requirements.txt; later uses install
# again only when that file has changed. CMD runs in the current directory.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv="$root/.venv"
stamp="$venv/requirements.sha256"

usage() { sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
fail() { echo "launch/local.sh: $*" >&2; exit 2; }

if [ $# -eq 0 ]; then usage >&2; exit 2; fi
case "$1" in -h|--help) usage; exit 0;; esac

wanted=$(sha256sum < "$root/requirements.txt")

install() {
  [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ] || return 0
  local python=${PYTHON:-python3}
  command -v "$python" > /dev/null ||
    fail "no $python on PATH; install Python 3.11 or newer, or set PYTHON"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old; set PYTHON to a 3.11 or newer"
  # A set-up that was cut off leaves an environment without pip: make it anew.
  if ! "$venv/bin/python" -m pip --version > /dev/null 2>&1; then
    echo "launch/local.sh: creating $venv" >&2
    "$python" -m venv --clear "$venv" ||
      fail "python -m venv failed; on Debian: apt-get install python3-venv"
  fi
  echo "launch/local.sh: installing requirements.txt (some minutes, once)" >&2
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    -r "$root/requirements.txt" >&2 ||
    fail "pip could not install requirements.txt (its message stands above)"
  echo "$wanted" > "$stamp"
}

# Two first uses at once must not build the same environment.
if command -v flock > /dev/null; then
  exec 9> "$root/.venv.lock"
  flock 9
  install
  exec 9>&-
else
  install
fi

# XLA on CPU allocates its temporaries anew each step. Large pages, and memory
# that is kept rather than mapped and cleared again each time (which glibc does
# in its first arena only), save 10 to 40 % of a step and most of its spread.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-$(printf %s \
  glibc.malloc.hugetlb=1: glibc.malloc.arena_max=1: \
  glibc.malloc.mmap_max=0: glibc.malloc.trim_threshold=1099511627776)}"
export VIRTUAL_ENV="$venv" PATH="$venv/bin:$PATH"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$@"
