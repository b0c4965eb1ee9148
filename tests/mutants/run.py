"""Take every guard of the guarantees away once, and demand that a crash test notices.

    python -m tests.mutants.run [--jobs 2] [--json FILE] [NAME...]

Copies abboot and its tests to a temporary folder for each mutant of :mod:`tests.mutants.table`, edits the copy, and
runs ``tests/crash`` there: first the test that is expected to notice, then, if it does not, all of them.  Prints one
table.
Exits 1 if a mutant survives, is stale (its text is not exactly once in the source), is no program any more, or if the
source as it is fails its own crash tests, for then nothing is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs

from tests.mutants.table import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
FIRST_TIMEOUT_S = 600  # the expected test: it takes seconds on an idle machine
REST_TIMEOUT_S = 3600  # all crash tests
# What a mutant fails with that is no program any more: that shows nothing about the guard.
_NO_PROGRAM = re.compile(r"\b(NameError|UnboundLocalError|SyntaxError|ImportError|ModuleNotFoundError)\b")
_FAILED = re.compile(r"^(?:FAILED|ERROR) tests/crash/(?P<test>.+?)(?: - (?P<error>.*))?$", re.MULTILINE)


class Stale(Exception):
    """The source has moved on from under a mutant."""


@attrs.frozen(kw_only=True)
class Verdict:
    """What became of a mutant."""

    mutant: Mutant
    killed_by: str = ""  # the test
    problem: str = ""  # why it counts as a failure
    seconds: float = 0.0


def mutated(mutant: Mutant, package: Path) -> dict[str, str]:
    """The edited files of a mutant, by their path below ``package``.

    Raises:
        Stale: text that is to be edited is not in its file exactly once, or what comes of it cannot be compiled.
    """
    sources: dict[str, str] = {}
    for edit in mutant.edits:
        source = sources.get(edit.file) or (package / edit.file).read_text(encoding="utf-8")
        found = source.count(edit.old)
        if found != 1:
            raise Stale(f"{edit.file} holds {edit.old.strip().splitlines()[0]!r} {found} times")
        sources[edit.file] = source.replace(edit.old, edit.new)
    for file, source in sources.items():
        try:
            compile(source, file, "exec")
        except SyntaxError as error:
            raise Stale(f"{file} cannot be compiled: {error}") from error
        if source == (package / file).read_text(encoding="utf-8"):
            raise Stale(f"{file} stays as it is")
    return sources


def copy_to(folder: Path, sources: dict[str, str]) -> None:
    """abboot with some files replaced, and what its crash tests need."""
    leave_out = shutil.ignore_patterns("__pycache__", "mutants", "fuzz", "kernel", "vectors")
    for name in ("abboot", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=leave_out)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for file, source in sources.items():
        (folder / "abboot" / file).write_text(source, encoding="utf-8")


def run_tests(folder: Path, tests: Sequence[str], timeout_s: float) -> tuple[str, str]:
    """The first test that fails, and why; ``""`` for none.

    Raises:
        RuntimeError: pytest could not run them at all, or took too long.
    """
    options = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    # Wide, so that the line of a failure says what it failed with.
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "500"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"it runs longer than {timeout_s:.0f} s") from error
    if done.returncode == 0:
        return "", ""
    failed = _FAILED.search(done.stdout)
    if done.returncode != 1 or failed is None:
        raise RuntimeError(f"pytest ends with {done.returncode}: {(done.stdout + done.stderr).strip()[-300:]}")
    return failed["test"], failed["error"] or ""


def judge(mutant: Mutant) -> Verdict:
    """Run the crash tests on one mutant."""
    began = time.monotonic()
    killed_by = problem = ""
    try:
        sources = mutated(mutant, ROOT / "abboot")
        with tempfile.TemporaryDirectory(prefix="abboot-mutant-") as name:
            folder = Path(name)
            copy_to(folder, sources)
            killed_by, error = run_tests(folder, [f"tests/crash/{mutant.expect}"], FIRST_TIMEOUT_S)
            if not killed_by:
                killed_by, error = run_tests(folder, ["tests/crash"], REST_TIMEOUT_S)
        if not killed_by:
            problem = "survives"
        elif _NO_PROGRAM.search(error):
            problem = f"is no program: {error}"
    except (Stale, RuntimeError) as error:
        problem = f"stale: {error}" if isinstance(error, Stale) else str(error)
    return Verdict(mutant=mutant, killed_by=killed_by, problem=problem, seconds=time.monotonic() - began)


def check_unmutated() -> str:
    """Why the source as it is fails the tests that are to judge it; empty if it does not."""
    with tempfile.TemporaryDirectory(prefix="abboot-mutant-") as name:
        folder = Path(name)
        copy_to(folder, {})
        tests = sorted({f"tests/crash/{mutant.expect}" for mutant in MUTANTS})
        try:
            failed, error = run_tests(folder, tests, REST_TIMEOUT_S)
        except RuntimeError as problem:
            return str(problem)
    return f"{failed}: {error}" if failed else ""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Take every guard away once; a crash test has to notice.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only mutants whose name contains this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at a time (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args(argv)
    chosen = [mutant for mutant in MUTANTS if not arguments.names or any(n in mutant.name for n in arguments.names)]
    if not chosen:
        parser.error("no mutant has such a name")
    began = time.monotonic()
    problem = check_unmutated()
    if problem:
        print(f"mutants: the source as it is fails: {problem}", file=sys.stderr)
        return 1
    print("| breaks | mutant | killed by | seconds |")
    print("|---|---|---|---|", flush=True)
    failures = 0
    verdicts: list[Verdict] = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for verdict in pool.map(judge, chosen):
            failures += bool(verdict.problem)
            verdicts.append(verdict)
            outcome = f"**{verdict.problem}**" if verdict.problem else verdict.killed_by.replace("|", "\\|")
            print(
                f"| {verdict.mutant.breaks} | {verdict.mutant.name} | {outcome} | {verdict.seconds:.1f} |", flush=True
            )
    killed, minutes = len(chosen) - failures, (time.monotonic() - began) / 60
    print(f"\n{len(chosen)} mutants, {killed} killed by a crash test; {minutes:.0f} minutes", flush=True)
    if arguments.json is not None:
        found = {
            "mutants": len(chosen),
            "killed": killed,
            "guarantees": dict(sorted(Counter(mutant.breaks for mutant in chosen).items())),
            "killed_by": {verdict.mutant.name: verdict.killed_by for verdict in verdicts},
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
