#!/usr/bin/env python3
"""How long does ``abboot status`` take to start, and what does it import?

Against ``python -c pass``, taking turns.  A health check or RAUC calls abboot many times a minute on a Pi Zero, so
what is not needed must not be loaded: the run fails if pyparted, ``fs`` or ``pkg_resources`` was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import common

NEVER = ("parted", "_ped", "fs", "pkg_resources", "setuptools")
PYTHON, STATUS = "python -c pass", "abboot status --json"
# What the installed command does, under -X importtime.
ENTRY = "import sys; from abboot.cli import main; sys.exit(main())"


def imports(card: str) -> list[tuple[str, int]]:
    """Modules in the order of their own import time, microseconds."""
    command = [sys.executable, "-X", "importtime", "-c", ENTRY, "--disk", card, "--json", "status"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    modules = []
    for line in done.stderr.splitlines():
        if line.startswith("import time:") and "self [us]" not in line:
            own, _, name = line.removeprefix("import time:").split("|")
            modules.append((name.strip(), int(own)))
    return sorted(modules, key=lambda module: -module[1])


def measure(rounds: int) -> dict[str, Any]:
    with common.scratch() as work:
        card = common.build_card(work)

        def timed(*command: Any) -> float:
            begin = time.perf_counter()
            common.run(*command)
            return time.perf_counter() - begin

        contestants = {
            PYTHON: lambda: timed(sys.executable, "-c", "pass"),
            STATUS: lambda: timed(common.ABBOOT, "--disk", card, "--json", "status"),
        }
        results = common.summary(common.take_turns(contestants, rounds), against=PYTHON)
        modules = imports(str(card))
    loaded = sorted({name.partition(".")[0] for name, _ in modules} & set(NEVER))
    if loaded:
        sys.exit(f"benchmark: abboot status must not import {', '.join(loaded)}")
    return {
        "schema": 1,
        "rounds": rounds,
        "results": results,
        "modules": len(modules),
        "slowest_us": dict(modules[:15]),
    }


def report(result: dict[str, Any]) -> None:
    rows = [
        [name, f"{figures['median_s'] * 1000:.0f}", f"{figures['ratio']:.2f}"]
        for name, figures in result["results"].items()
    ]
    common.print_table(f"Start-up (median of {result['rounds']}, taking turns)", ["", "ms", "ratio"], rows)
    slowest = [[name, f"{own_us / 1000:.1f}"] for name, own_us in result["slowest_us"].items()]
    common.print_table(f"{result['modules']} modules imported; the slowest by themselves", ["", "ms"], slowest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    arguments = parser.parse_args()
    result = measure(arguments.rounds)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        report(result)


if __name__ == "__main__":
    main()
