#!/usr/bin/env bash
# Set up a checkout: system packages (Debian, root) and a virtual environment.
# Usage: tools/setup.sh VENV, or tools/setup.sh --system for the packages alone
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1

# A viewer under Xvfb needs these on a bare Debian 12.
packages="xvfb xauth libgl1 libegl1 libfontconfig1 libdbus-1-3 libglib2.0-0
 libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 libxcb-shape0"

say() { printf '== %s\n' "$*"; }

if command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; then
  missing=""
  for name in $packages; do
    dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' ||
      missing="$missing $name"
  done
  if [ -n "$missing" ] && [ "$(id -u)" = 0 ]; then
    say "system packages:$missing"
    apt-get update -qq
    # shellcheck disable=SC2086  # a list
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
  elif [ -n "$missing" ]; then
    say "missing for the GUI and its tests; run: sudo apt-get install --no-install-recommends$missing"
  fi
elif [ "$(uname)" = Linux ] && ! command -v Xvfb >/dev/null; then
  say "missing for the GUI tests: Xvfb, libEGL, libGL and the xcb libraries that Qt needs"
fi

[ "$venv" = --system ] && exit

if [ ! -x "$venv/bin/python" ]; then
  python=""
  for name in ${PYTHON:-} python3.11 python3.12 python3.13 python3; do
    if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      python=$name
      break
    fi
  done
  if [ -z "$python" ]; then
    echo "Python 3.11 or newer with its venv module was not found; install it or set PYTHON." >&2
    exit 2
  fi
  say "virtual environment in $venv ($("$python" --version))"
  "$python" -m venv "$venv"
fi

pip="$venv/bin/python -m pip install -qq --disable-pip-version-check"
say "python packages; the first time takes some minutes"
# torch first and pinned: a looser range may bring gigabytes of another build.
$pip "torch==2.13.0"
$pip -e ".[dev]"
say "ready"
