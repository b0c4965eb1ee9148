#!/usr/bin/env bash
# Make .venv, with abboot installed from this checkout and what its tests need.
#
# Nothing happens, and no network is needed, while .venv was made in this folder for this very pyproject.toml.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/made-for
# The folder is part of the stamp because a virtual environment does not survive being moved.
wanted=$(pwd; cat pyproject.toml)
if [[ -e $stamp && $(<"$stamp") == "$wanted" ]] && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi

tools/packages.sh python
if ! python=$(tools/find-python.sh); then
    echo "venv: cannot find Python 3.11 or newer with venv and its headers (Debian: python3 python3-venv python3-dev)" >&2
    exit 1
fi
echo "venv: making .venv with $("$python" --version)"
"$python" -m venv --clear .venv
echo "venv: installing abboot and what its tests need"
# pyparted has no pyproject.toml; Debian 12's pip would build it the old way and say so.  Newer ones ignore the variable.
PIP_USE_PEP517=1 .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[image,test]'
# Last, so that a failed or cut installation is started again.
printf '%s\n' "$wanted" >"$stamp"
