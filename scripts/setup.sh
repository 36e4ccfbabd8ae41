#!/usr/bin/env bash
# Makes .venv what requirements.lock says: `make setup`. Safe to interrupt and to repeat, because
# the stamp that make looks at is written last.
#
# Usage: scripts/setup.sh STAMP
# Environment: PYTHON, the interpreter to build .venv with; found by itself when empty.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly stamp=$1
readonly venv=.venv
# TensorFlow has no wheels outside these (versions.yaml: python).
readonly supported="3.11 3.12 3.13"

fail() {
  printf 'error: %s\n  %s\n' "$1" "$2" >&2
  exit 1
}

version_of() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

is_supported() {
  case " $supported " in *" $1 "*) return 0 ;; *) return 1 ;; esac
}

# Sets `python`, or says what each interpreter that is here lacks.
find_python() {
  local candidate version rejected="" without_venv=""
  if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3 python3.13 python3.12 python3.11; fi
  for candidate in "$@"; do
    # A pyenv shim exists for versions that are not switched on: only running it tells.
    version=$(version_of "$candidate") || continue
    if ! is_supported "$version"; then
      rejected="$rejected $candidate is Python $version."
    elif ! "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
      without_venv=$version
    else
      python=$candidate
      return
    fi
  done
  if [ -n "$without_venv" ]; then
    fail "Python $without_venv is here, but its venv module is not." \
      "On Debian and Ubuntu: apt-get install python$without_venv-venv. Then run make again."
  fi
  fail "no Python of $supported found (looked for: $*).$rejected" \
    "Install one, or name it: make setup PYTHON=/path/to/python3.11"
}

# A copied or moved tree has a .venv whose editable install still points at the old place.
is_usable() {
  local version
  [ "$(cat $venv/.root 2>/dev/null)" = "$PWD" ] || return 1
  version=$(version_of $venv/bin/python) && is_supported "$version" || return 1
  [ -z "${PYTHON:-}" ] || [ "$version" = "$(version_of "$PYTHON")" ]
}

# pip draws bars on a terminal and is silent for minutes in a log: there, count packages.
show_progress() {
  if [ -t 1 ]; then
    cat
    return
  fi
  local line count=0 total
  total=$(grep -c '^[a-z0-9].*==' requirements.lock)
  while IFS= read -r line; do
    case $line in
      Collecting*)
        count=$((count + 1))
        if [ $((count % 20)) -eq 0 ]; then echo "    $count packages of at most $total"; fi
        ;;
      "Installing collected"*) echo "    unpacking" ;;
      *[Ee][Rr][Rr][Oo][Rr]*) printf '%s\n' "$line" ;;
    esac
  done
}

install_lock() {
  # An interrupted install must not pass for the lock it was on its way to.
  rm -f $venv/requirements.lock
  echo "==> installing the packages of requirements.lock (about 500 MB to download, once)"
  local bar=off
  if [ -t 1 ]; then bar=on; fi
  $venv/bin/python -m pip install --disable-pip-version-check --no-input --progress-bar "$bar" \
    --no-deps --only-binary=:all: --require-hashes -r requirements.lock | show_progress ||
    fail "the packages did not install (see above)." \
      "Check the connection to your package index, then run make again: it goes on where it stopped."
  cp requirements.lock $venv/requirements.lock
}

rm -f $venv/.installed-*
if ! is_usable; then
  find_python
  echo "==> creating $venv with $("$python" --version)"
  rm -rf $venv
  "$python" -m venv $venv || fail "$python could not create $venv." "Free disk space? Then run make again."
  printf '%s\n' "$PWD" >$venv/.root
fi
cmp -s requirements.lock $venv/requirements.lock || install_lock
# Build requirements come from the lock as well, hence no build isolation.
$venv/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
touch "$stamp"
echo "==> $venv is ready"
