#!/usr/bin/env python3
"""How long does ``abboot status`` take to start, and what does it import?

Against ``python -c pass`` and ``import attrs``, taking turns; also in processor time, which a busy machine disturbs
less.  A health check or RAUC calls abboot many times a minute on a Pi Zero, so what is not needed must not be loaded:
the run fails if pyparted, ``fs`` or ``pkg_resources`` was.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import common

NEVER = ("parted", "_ped", "fs", "pkg_resources", "setuptools")
PYTHON, ATTRS, STATUS = "python -c pass", "python -c 'import attrs'", "abboot status --json"
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

        processor: dict[str, list[float]] = {PYTHON: [], ATTRS: [], STATUS: []}

        def timed(name: str, *command: Any) -> float:
            begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            common.run(*command)
            taken, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
            processor[name].append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
            return taken

        contestants = {
            PYTHON: lambda: timed(PYTHON, sys.executable, "-c", "pass"),
            ATTRS: lambda: timed(ATTRS, sys.executable, "-c", "import attrs"),
            STATUS: lambda: timed(STATUS, common.ABBOOT, "--disk", card, "--json", "status"),
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
        "processor_s": {name: round(min(values), 3) for name, values in processor.items()},
        "modules": len(modules),
        "slowest_us": dict(modules[:15]),
    }


def report(result: dict[str, Any]) -> None:
    rows = [
        [
            name,
            f"{figures['median_s'] * 1000:.0f}",
            f"{figures['ratio']:.2f}",
            f"{result['processor_s'][name] * 1000:.0f}",
        ]
        for name, figures in result["results"].items()
    ]
    title = f"Start-up (median of {result['rounds']}, taking turns; processor time: the least)"
    common.print_table(title, ["", "ms", "ratio", "processor ms"], rows)
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
