#!/usr/bin/env bash
# Print the Python that .venv is made with: the newest of 3.13, 3.12, 3.11 and python3 that can do it.  Exit 1 if none can.
#
# It must make virtual environments (Debian splits that off into python3-venv) and have its C headers (python3-dev),
# because pyparted is built from source.  A name that is found may still be a pyenv shim that only prints an error.
set -euo pipefail

able='
import os, sys, sysconfig
import ensurepip, venv
headers = os.path.join(sysconfig.get_paths()["include"], "Python.h")
sys.exit(not (sys.version_info >= (3, 11) and os.path.exists(headers)))
'
for name in python3.13 python3.12 python3.11 python3; do
    if command -v "$name" >/dev/null && "$name" -c "$able" 2>/dev/null; then
        command -v "$name"
        exit 0
    fi
done
exit 1
