#!/usr/bin/env bash
# Runs a command in the project's own Python environment, made on first use.
#
#   bash launch/local.sh CMD [ARG...]
#   bash launch/local.sh --python      says which interpreter it would take
#
# First use makes .venv at the repository root and installs requirements.txt;
# later uses install again only when that file has changed. CMD runs in the
# current directory. It takes python3 if that is Python 3.11, 3.12 or 3.13, else
# the newest of these: on PATH, pyenv's or uv's. PYTHON names another
# (python3.13, or a path): if .venv is there and of another version, that one
# gets an environment of its own, .venv-3.13.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
wanted=$(sha256sum < "$root/requirements.txt")
usage() { sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
fail() { echo "launch/local.sh: $*" >&2; exit 2; }

find_python() {  # Sets python, and version: 3.13.
  # The newest first; TensorFlow has nothing for 3.14 yet.
  local supported="3.13 3.12 3.11" names=("${PYTHON:-python3}")
  for version in ${PYTHON:-$supported}; do
    names+=("python${version#python}" \
      "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/${version#python}".*/bin/python \
      "${HOME:-}/.local/share/uv/python/cpython-${version#python}".*/bin/python)
  done
  for python in "${names[@]}"; do
    # Debian has a python3 that cannot make environments.
    version=$("$python" -c 'import ensurepip, sys
print("%d.%d" % sys.version_info[:2])' 2> /dev/null) || continue
    case " $supported " in *" $version "*) return;; esac
  done
  version=$("${names[0]}" --version 2> /dev/null) || version="not there"
  fail "${names[0]} is $version, and no Python ${supported// /, } was found;" \
    "install one (Debian: and its python3-venv), or set PYTHON to its path"
}

choose() {  # Sets venv.
  venv="$root/.venv"
  { [ -n "${PYTHON:-}" ] && [ -e "$venv/pyvenv.cfg" ]; } || return 0
  find_python
  grep -q "^version = $version\." "$venv/pyvenv.cfg" || venv="$venv-$version"
}

ready() { [ "$(cat "$venv/requirements.sha256" 2> /dev/null)" = "$wanted" ]; }

install() {
  # A set-up that was cut off leaves an environment without pip: make it anew.
  if ! "$venv/bin/python" -m pip --version > /dev/null 2>&1; then
    find_python
    echo "launch/local.sh: creating $venv with Python $version, $python" >&2
    "$python" -m venv --clear "$venv" || fail "python -m venv failed"
  fi
  echo "launch/local.sh: installing requirements.txt (some minutes, once)" >&2
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    -r "$root/requirements.txt" >&2 ||
    fail "pip could not install requirements.txt (its message stands above)"
  echo "$wanted" > "$venv/requirements.sha256"
}

case "${1:-}" in
  "") usage >&2; exit 2;;
  -h|--help) usage; exit 0;;
  --python) find_python; command -v "$python"; exit 0;;
esac
choose
if ! ready; then  # Two first uses at once must not build the same environment.
  exec 9> "$root/.venv.lock"
  ! command -v flock > /dev/null || flock 9
  choose
  ready || install
  exec 9>&-
fi

# XLA on CPU allocates its temporaries anew each step. Large pages, and memory
# that is kept rather than mapped and cleared again each time (which glibc does
# in its first arena only), save 10 to 40 % of a step and most of its spread.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-$(printf %s \
  glibc.malloc.hugetlb=1: glibc.malloc.arena_max=1: \
  glibc.malloc.mmap_max=0: glibc.malloc.trim_threshold=1099511627776)}"
# So that commands that are printed can be typed as they stand.
LATEMASK_LAUNCHER=$(printf 'bash %q' "${BASH_SOURCE[0]}")
export LATEMASK_LAUNCHER
export VIRTUAL_ENV="$venv" PATH="$venv/bin:$PATH"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$@"
