"""The long fuzz run: every target in a process of its own under atheris, then the lines that its corpus reaches.

    python -m tests.fuzz.run [--runs 1000000] [--minutes 60] [--folder .cache/fuzz] [TARGET...]
    python -m tests.fuzz.run --reproduce FILE TARGET

Prints one table.  Fails if there is a finding, or if a full run reaches fewer lines than its floor.  What was learnt
stays in the folder: the next run starts from its corpus, and an input that failed is under ``TARGET/findings``.

Limits of every input: 20 seconds (libFuzzer ends the process), 1 GiB of address space for the whole process (beyond it
Python raises ``MemoryError``, which is nobody's documented refusal).
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fuzz.targets import Target

RUNS = 1_000_000
TIMEOUT_S = 20
ADDRESS_SPACE = 1 << 30  # bytes
ROOT = Path(__file__).resolve().parents[2]
# libFuzzer's words for what the table says.
_STATS = {
    "number_of_executed_units": "runs",
    "average_exec_per_sec": "per_second",
    "peak_rss_mb": "peak_mib",
    "slowest_unit_time_sec": "slowest_s",
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fuzz everything that reads what a card says.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all of them by default")
    parser.add_argument("--runs", type=int, default=RUNS, help="executions per target (default: %(default)s)")
    parser.add_argument("--minutes", type=int, default=60, help="at most this long per target (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache/fuzz", help="for corpus and findings")
    parser.add_argument("--reproduce", type=Path, metavar="FILE", help="run one input and show what is wrong with it")
    # These two are what this script starts for each target.
    parser.add_argument("--child", choices=["fuzz", "cover"], help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child == "fuzz":
        _fuzz(arguments.targets[0], arguments.folder, arguments.runs, arguments.minutes)
    if arguments.child == "cover":
        return _cover(arguments.targets[0], arguments.folder)
    from tests.fuzz.targets import TARGETS

    unknown = [name for name in arguments.targets if name not in TARGETS]
    if unknown or (arguments.reproduce and len(arguments.targets) != 1):
        parser.error(f"no such target: {', '.join(unknown)}" if unknown else "--reproduce needs one target")
    if arguments.reproduce:
        TARGETS[arguments.targets[0]].run(arguments.reproduce.read_bytes())
        return 0
    missing = [name for name in ("atheris", "coverage") if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"{' and '.join(missing)} not installed: pip install 'abboot[fuzz]'")
    return _run_all([TARGETS[name] for name in arguments.targets or TARGETS], arguments)


def _run_all(targets: list[Target], arguments: argparse.Namespace) -> int:
    failures = []
    print("| target | executions | per second | corpus | lines reached | slowest input | peak memory |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for target in targets:
        folder = arguments.folder / target.name
        for name in ("corpus", "findings"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for seed in target.seeds():
            (folder / "corpus" / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
        options = ["--runs", str(arguments.runs), "--minutes", str(arguments.minutes), "--folder", str(folder)]
        fuzzed = _start("fuzz", target, options, folder / "log")
        stats = _stats((folder / "log").read_text("utf-8", "replace"))
        covered = _start("cover", target, options, folder / "lines.json")
        lines = json.loads((folder / "lines.json").read_text()) if covered == 0 else {"reached": 0, "lines": 1}
        part = lines["reached"] / lines["lines"]
        cells = [
            target.name,
            f"{stats['runs']:,}",
            f"{stats['per_second']:,}",
            f"{sum(1 for _ in (folder / 'corpus').iterdir()):,}",
            f"{part:.1%} of {lines['lines']}",
            f"{stats['slowest_s']} s",
            f"{stats['peak_mib']} MiB",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)
        if fuzzed != 0:
            failures.append(f"{target.name}: a finding in {folder / 'findings'}, the traceback in {folder / 'log'}")
        if part < target.floor and arguments.runs >= RUNS:
            failures.append(f"{target.name}: {part:.1%} of its lines reached, {target.floor:.0%} wanted")
        if covered == 0 and lines["missed"]:
            print(f"  {target.name} missed {', '.join(lines['missed'])}", file=sys.stderr)
    print(*failures, sep="\n")
    return 1 if failures else 0


def _start(child: str, target: Target, options: list[str], output: Path) -> int:
    command = [sys.executable, "-m", "tests.fuzz.run", "--child", child, *options, target.name]
    with output.open("wb") as file:
        errors = subprocess.STDOUT if child == "fuzz" else None
        return subprocess.run(command, cwd=ROOT, stdout=file, stderr=errors, check=False).returncode


def _stats(log: str) -> dict[str, int]:
    found = dict.fromkeys(_STATS.values(), 0)
    for line in log.splitlines():
        name, _, value = line.partition(":")[2].lstrip(":").partition(":")
        if line.startswith("stat::") and name in _STATS:
            found[_STATS[name]] = int(value)
    return found


def _fuzz(name: str, folder: Path, runs: int, minutes: int) -> None:
    """In a process of its own: libFuzzer never returns."""
    import atheris

    with atheris.instrument_imports(include=["abboot"]):
        from tests.fuzz.mutators import change_bytes
        from tests.fuzz.targets import TARGETS

    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    target = TARGETS[name]

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        random = Random(seed)

        def plain(piece: bytes) -> bytes:
            if random.random() < 0.5:
                return change_bytes(piece, random, target.tokens)
            return bytes(atheris.Mutate(piece, max(len(piece), 1) + 64))

        changed = data
        while changed == data or random.random() < 0.3:
            changed = target.mutate(changed, random, plain)
        return changed[:max_size]

    options = [
        f"-runs={runs}",
        f"-max_total_time={60 * minutes}",
        f"-timeout={TIMEOUT_S}",
        f"-max_len={target.max_size}",
        f"-artifact_prefix={folder / 'findings'}/",
        "-print_final_stats=1",
        str(folder / "corpus"),
    ]
    atheris.Setup([sys.argv[0], *options], target.run, custom_mutator=mutate)
    atheris.Fuzz()


def _cover(name: str, folder: Path) -> int:
    """Print which lines of a target's modules its corpus reaches, as JSON."""
    import coverage

    measured = coverage.Coverage(data_file=None, source=["abboot"], config_file=False)
    measured.start()
    from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    for path in sorted((folder / "corpus").iterdir()):
        target.run(path.read_bytes())
    measured.stop()
    result: dict[str, Any] = {"reached": 0, "lines": 0, "missed": []}
    for module in target.covers:
        source = sys.modules[module].__file__ or ""
        _, statements, _, missing, _ = measured.analysis2(source)
        counted = set(statements) - _lines_of(Path(source), target.not_counted)
        missed = sorted(counted & set(missing))
        result["lines"] += len(counted)
        result["reached"] += len(counted) - len(missed)
        result["missed"] += [f"{Path(source).name}:{line}" for line in missed]
    print(json.dumps(result))
    return 0


def _lines_of(source: Path, functions: frozenset[str]) -> set[int]:
    return {
        line
        for node in ast.walk(ast.parse(source.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name in functions
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


if __name__ == "__main__":
    sys.exit(main())
