"""Look at everything that the crash tests look at a seeded part of: what ``make crash`` does.

    python -m tests.crash.run [--jobs 2] [--seed 0] [--share 1.0] [--json FILE] [CASE...]

Prints a line for each piece of work when it is done, then one table.  Exits 1 if anything is violated, or if fsck.vfat
and mtools are not there to judge.  Between two runs with the same seed nothing is drawn otherwise.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import attrs

from tests.crash.scenarios import CUT, SCENARIOS
from tests.crash.states import FULL, TOOLS, Depth, judge

STATE_MACHINE_PARTS = 8
STATE_MACHINE_EXAMPLES = 60  # of each part
STATE_MACHINE_STEPS = 50
SEARCH_DEPTH = 20  # it ends by itself where nothing is new
SEARCH_DEPTH_WITH_A_FAULT = 6

Numbers = dict[str, Any]


@attrs.frozen(kw_only=True)
class Work:
    """One piece, and what it is called."""

    kind: str  # "states", "cuts", "search" or "life"
    name: str
    does: Callable[..., Numbers]
    arguments: tuple[Any, ...]
    long: float  # the longest are begun first


@attrs.frozen(kw_only=True)
class Done:
    work: Work
    numbers: Numbers
    problem: str
    seconds: float


def states(name: str, depth: Depth, seed: int) -> Numbers:
    """Every subset, every torn write, the drawn ones; and abboot going on from some of them."""
    return attrs.asdict(judge(name, depth, seed=seed))


def cuts(name: str) -> Numbers:
    """Before every write: the power goes, the board resets warm, or abboot is killed."""
    from tests.crash.test_every_cut import CUTS, cut_everywhere

    return {"cuts": sum(cut_everywhere(case, how) for case, how in CUTS if case == name)}


def search(faults: int, depth: int) -> Numbers:
    """The explicit-state search on the pure core."""
    from tests.crash.search import Search

    found = Search(faults=faults)
    for _depth in range(depth):
        if not found.deepen():
            break
    loops = found.loops()
    assert not found.violations, found.violations
    assert not loops, loops[0]
    return {"states": len(found.came), "actions": found.actions, "depth": sum(map(bool, found.counts)) - 1}


def life(seed: int, examples: int) -> Numbers:
    """The state machine, on the bytes of cards."""
    import hypothesis
    from hypothesis.stateful import run_state_machine_as_test

    from tests.crash.test_state_machine import Life

    lives = 0

    class Counted(Life):
        def __init__(self) -> None:
            nonlocal lives
            lives += 1
            super().__init__()

    hypothesis.seed(seed)(Counted)
    run_state_machine_as_test(
        Counted,
        settings=hypothesis.settings(
            max_examples=examples,
            stateful_step_count=STATE_MACHINE_STEPS,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
    return {"lives": lives, "steps": STATE_MACHINE_STEPS}


def all_work(names: Sequence[str], *, share: float, seed: int) -> list[Work]:
    """``share``: of what is drawn; what is looked at completely is so at any share."""
    depth = attrs.evolve(FULL, samples=int(FULL.samples * share), recoveries=max(5, int(FULL.recoveries * share)))
    found = []
    for name in SCENARIOS:
        if not names or any(part in name for part in names):
            # A stage writes many sectors at a time, and a FAT32 has many.
            length = 3.0 if "stage" in name else 1.0
            found.append(Work(kind="states", name=name, does=states, arguments=(name, depth, seed), long=length))
            found.append(Work(kind="cuts", name=name, does=cuts, arguments=(name,), long=length / 2))
    if not names:
        examples = max(1, int(STATE_MACHINE_EXAMPLES * share))
        for part in range(STATE_MACHINE_PARTS):
            name = f"part {part + 1}"
            found.append(Work(kind="life", name=name, does=life, arguments=(1000 * seed + part, examples), long=4.0))
        for name, faults, limit in (
            ("no fault", 0, SEARCH_DEPTH),
            ("one fault", 1, SEARCH_DEPTH_WITH_A_FAULT),
        ):
            found.append(Work(kind="search", name=name, does=search, arguments=(faults, limit), long=9.0))
    return sorted(found, key=lambda work: -work.long)


def run(work: Work) -> Done:
    began = time.monotonic()
    numbers: Numbers = {}
    problem = ""
    try:
        numbers = work.does(*work.arguments)
    except BaseException as error:  # noqa: BLE001 - pytest's outcomes are no Exceptions
        problem = "".join(traceback.format_exception_only(error)).strip()
        if not isinstance(error, AssertionError):
            problem = traceback.format_exc()
    return Done(work=work, numbers=numbers, problem=problem, seconds=time.monotonic() - began)


def report(done: Iterable[Done], *, seed: int, seconds: float) -> dict[str, Any]:
    """What the documentation publishes."""
    found = list(done)
    of = {kind: [one for one in found if one.work.kind == kind] for kind in ("states", "cuts", "search", "life")}
    verb_of = {name: verb for verb, names in CUT.items() for name in names}
    cases = []
    for one in of["states"]:
        cut = next((other.numbers.get("cuts", 0) for other in of["cuts"] if other.work.name == one.work.name), 0)
        row = {key: value for key, value in one.numbers.items() if key not in ("case", "seconds")}
        cases.append({"case": one.work.name, "verb": verb_of[one.work.name], **row, "cuts": cut})
    order = list(SCENARIOS)
    cases.sort(key=lambda row: order.index(row["case"]))
    columns = ("writes", "states", "distinct", "strangers", "recovered", "cuts")
    return {
        "seed": seed,
        "seconds": round(seconds),
        "violations": sum(bool(one.problem) for one in found),
        "cases": cases,
        "total": {column: sum(row.get(column, 0) for row in cases) for column in columns},
        "search": {one.work.name: one.numbers for one in of["search"]},
        "state_machine": {
            "lives": sum(one.numbers.get("lives", 0) for one in of["life"]),
            "steps_each": STATE_MACHINE_STEPS,
        },
    }


COLUMNS = {
    "case": "case",
    "writes": "writes",
    "largest": "in one epoch",
    "states": "states",
    "distinct": "distinct",
    "strangers": "fsck, mtools",
    "recovered": "gone on from",
    "cuts": "cuts",
}


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    rows = [*found["cases"], {"case": "**all**", **found["total"]}]
    lines = [f"| {' | '.join(COLUMNS.values())} |", f"|---|{'---:|' * (len(COLUMNS) - 1)}"]
    for row in rows:
        cells = [row.get(key, "") for key in COLUMNS]
        lines.append(f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else str(cell) for cell in cells)} |")
    for name, numbers in found["search"].items():
        if numbers:
            counted = f"{numbers['states']:,} states, {numbers['actions']:,} actions, depth {numbers['depth']}"
            lines += ["", f"search, {name}: {counted}"]
    machine = found["state_machine"]
    lines += ["", f"state machine: {machine['lives']:,} lives of up to {machine['steps_each']} steps"]
    lines += ["", f"violations: {found['violations']}; {found['seconds']} s, seed {found['seed']}"]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.run", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="CASE", help="only scenarios whose name contains this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at a time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default: %(default)s)")
    parser.add_argument("--share", type=float, default=1.0, help="of what is drawn, for a short look (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args(argv)
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        print(f"crash: {', '.join(missing)} not installed: Debian packages dosfstools, mtools", file=sys.stderr)
        return 1
    began = time.monotonic()
    work = all_work(options.names, share=options.share, seed=options.seed)
    if not work:
        parser.error("no scenario has such a name")
    done: list[Done] = []
    # A process of its own for each piece: what one keeps in memory is gone with it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context, max_tasks_per_child=1) as pool:
        for future in as_completed([pool.submit(run, one) for one in work]):
            one = future.result()
            done.append(one)
            said = one.problem or ", ".join(f"{value} {key}" for key, value in one.numbers.items() if key in _SHOWN)
            print(
                f"[{len(done)}/{len(work)}] {one.work.kind}, {one.work.name}: {said} ({one.seconds:.0f} s)", flush=True
            )
    found = report(done, seed=options.seed, seconds=time.monotonic() - began)
    print(f"\n{table(found)}")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 1 if found["violations"] else 0


_SHOWN = ("states", "distinct", "strangers", "recovered", "cuts", "actions", "lives")

if __name__ == "__main__":
    sys.exit(main())
