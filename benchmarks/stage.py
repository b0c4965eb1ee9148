#!/usr/bin/env python3
"""How long does staging take?  abboot against ``mcopy -s`` and ``fsync``, which neither hashes nor verifies.

The tree of ``mktree.py`` goes into a 256 MiB FAT32 slot that holds next to nothing.  Three contestants take turns:
``mcopy`` into a fresh volume of the same geometry, ``BootManager.stage`` in a process that is already running, and
the whole command with its interpreter.  abboot hashes, flushes and reads the whole slot back.  What it wrote is
compared with the tree through mtools afterwards: a fast stage that is wrong is no result.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import common
import mktree

SLOT_B = 3  # the partition: on a new card `a` is the primary, so a stage goes to `b`
MCOPY, LIBRARY, COMMAND = "mcopy -s, fsync", "abboot, in process", "abboot, whole command"


def in_process(card: str, tree: str) -> dict[str, Any]:
    """Stage once and measure from inside; run in a process of its own, whose peak memory is then the stage's."""
    import abboot

    manager = abboot.BootManager.open(card)
    begin = time.perf_counter()
    staged = manager.stage(tree)
    seconds = time.perf_counter() - begin
    # VmHWM starts anew with exec; getrusage would also count the parent.
    status = Path("/proc/self/status").read_text()
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    return {"seconds": seconds, "peak_bytes": peak_kib * 1024, "bytes_written": staged.bytes_written}


def mcopy(tree: Path, volume: Path) -> float:
    begin = time.perf_counter()
    common.run("mcopy", "-s", "-Q", "-i", volume, *sorted(tree.iterdir()), "::/")
    with volume.open("rb+") as file:
        os.fsync(file.fileno())
    return time.perf_counter() - begin


def differences(tree: Path, card: Path, work: Path) -> list[str]:
    """The tree's files that mtools does not find, byte for byte, in slot b."""
    table = json.loads(common.run("sfdisk", "--json", card))["partitiontable"]
    offset_bytes = table["partitions"][SLOT_B - 1]["start"] * table.get("sectorsize", 512)
    read_back = work / "read-back"
    read_back.mkdir()
    common.run("mcopy", "-s", "-n", "-Q", "-i", f"{card}@@{offset_bytes}", "::/*", read_back)
    names = [str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()]
    _, different, missing = filecmp.cmpfiles(tree, read_back, names, shallow=False)
    return sorted(different + missing)


def measure(rounds: int) -> dict[str, Any]:
    for command, package in (("mcopy", "mtools"), ("mkfs.vfat", "dosfstools"), ("sfdisk", "fdisk")):
        common.need(command, package)
    with common.scratch() as work:
        tree = mktree.make(work / "tree")
        sizes = [path.stat().st_size for path in tree.rglob("*") if path.is_file()]
        pristine = common.build_card(work)
        empty = work / "empty.img"
        empty.touch()
        os.truncate(empty, 256 << 20)
        common.run("mkfs.vfat", "-F", "32", "-s", "4", empty)
        inside: list[dict[str, Any]] = []

        def fresh(image: Path) -> Path:
            copy = common.copy_sparse(image, work / f"run-{image.name}")
            os.sync()  # what earlier turns left behind is not this one's to write
            return copy

        def library() -> float:
            inside.append(json.loads(common.run(sys.executable, __file__, "--in-process", fresh(pristine), tree)))
            return float(inside[-1]["seconds"])

        def whole_command() -> float:
            card = fresh(pristine)
            begin = time.perf_counter()
            result = json.loads(common.run(common.ABBOOT, "--json", "--disk", card, "stage", tree))
            seconds = time.perf_counter() - begin
            if not result["changed"] or result["bytes_written"] < sum(sizes):
                sys.exit(f"benchmark: nothing was staged: {result}")
            return seconds

        contestants = {MCOPY: lambda: mcopy(tree, fresh(empty)), LIBRARY: library, COMMAND: whole_command}
        results = common.summary(common.take_turns(contestants, rounds), against=MCOPY)
        wrong = differences(tree, work / f"run-{pristine.name}", work)
        if wrong:
            sys.exit(f"benchmark: {len(wrong)} staged files are not the tree's: {', '.join(wrong[:5])}")
        results[LIBRARY]["bytes_written"] = inside[-1]["bytes_written"]
        results[LIBRARY]["peak_bytes"] = max(run["peak_bytes"] for run in inside)
        return {"schema": 1, "rounds": rounds, "files": len(sizes), "bytes_total": sum(sizes), "results": results}


def report(result: dict[str, Any]) -> None:
    rows = []
    for name, figures in result["results"].items():
        written = figures.get("bytes_written")
        peak = figures.get("peak_bytes")
        rows.append(
            [
                name,
                f"{figures['median_s']:.3f}",
                f"{figures['ratio']:.2f}",
                f"{written / common.MB:.2f} MB ({written / result['bytes_total']:.3f}x)" if written else "",
                f"{peak / common.MB:.0f} MB" if peak else "",
            ]
        )
    title = (
        f"Staging {result['files']} files, {result['bytes_total'] / common.MB:.1f} MB, into an empty 256 MiB FAT32 slot"
        f" (median of {result['rounds']}, taking turns)"
    )
    common.print_table(title, ["", "seconds", "ratio", "written", "peak memory"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    parser.add_argument("--in-process", nargs=2, metavar=("CARD", "TREE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_process:
        print(json.dumps(in_process(*arguments.in_process)))
        return
    result = measure(arguments.rounds)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        report(result)


if __name__ == "__main__":
    main()
