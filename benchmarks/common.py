"""What the benchmarks share: a card to work on, taking turns, and a table.

Every figure is a ratio against something plain in the same run, because seconds of another machine say nothing.  The
contestants take turns within each round, so that a slow moment of the machine hits all of them.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ABBOOT = Path(sys.executable).with_name("abboot")
MB = 1_000_000


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder on the checkout's own file system: /tmp may be memory, which flatters everybody who must flush."""
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench.", dir=cache) as path:
        yield Path(path)


def machine() -> dict[str, str]:
    """What these figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in cpuinfo if line.startswith(("model name", "Model"))), "?")
    return {
        "processor": f"{os.cpu_count()} x {model}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def build_card(work: Path) -> Path:
    """The demo card, with next to nothing in its slots."""
    tree = work / "before"
    tree.mkdir()
    for name in ("config.txt", "cmdline.txt", "start4.elf", "fixup4.dat", "kernel8.img", "bcm2711-rpi-4-b.dtb"):
        (tree / name).write_text(f"{name} of the benchmark\n")
    card = work / "card.img"
    run(ABBOOT, "--json", "image", "build", ROOT / "images/demo.toml", "--tree", tree, "-o", card)
    return card


def run(*command: str | Path) -> str:
    """Run a command that must succeed; its standard output."""
    # Installed programs have their bytecode; a benchmark must not compile it anew in every run.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        sys.exit(f"benchmark: cannot run {command[0]}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def copy_sparse(source: Path, target: Path) -> Path:
    run("cp", "--sparse=always", "--reflink=never", source, target)
    return target


def take_turns(contestants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round by contestant; who begins changes from round to round."""
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            seconds[name].append(contestants[name]())
    return seconds


def summary(seconds: Mapping[str, Sequence[float]], against: str) -> dict[str, dict[str, Any]]:
    """Median and ratio by contestant."""
    base = statistics.median(seconds[against])
    return {
        name: {
            "seconds": [round(value, 4) for value in values],
            "median_s": round(statistics.median(values), 4),
            "ratio": round(statistics.median(values) / base, 2),
        }
        for name, values in seconds.items()
    }


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The first column to the left, the numbers to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    print(title)
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  " + "   ".join(cells).rstrip())
    print()


def need(command: str, package: str) -> None:
    if shutil.which(command) is None:
        sys.exit(f"benchmark: {command} is not installed (Debian package {package})")
