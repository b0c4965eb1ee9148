"""``make crashlab``: every way to switch ``autoboot.txt``, under a real Linux vfat driver, at every power cut.

Each idiom of :mod:`tests.crashlab.idioms` runs in a guest on a disk of its own, whose writes the emulator records; one
guest for FAT16, one for FAT32.  Every state that a power cut could have left (:mod:`tests.crashlab.recording`) is read
by three readers (:mod:`tests.crashlab.judge`).  The table and the picture say how many are neither old nor new.

It fails if abboot's way has one such state, or if the ways that are known to have some show none.

Everything lands in ``.cache/crashlab/``; with ``--publish`` also in ``docs/explanation/``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

from tests.crashlab import guest
from tests.crashlab.draw import draw
from tests.crashlab.figures import VOLUMES, Count, Figures, Result, failures, new_after, says, table
from tests.crashlab.idioms import FILE, IDIOMS, NEW, OLD
from tests.crashlab.judge import ENVIRONMENT, Judge, Reading
from tests.crashlab.logwrites import read_log
from tests.crashlab.marks import SECTOR
from tests.crashlab.recording import Changes, NotRecorded, apply, recording
from tests.kernel.machine import GuestError

OUT = guest.CACHE / "crashlab"
DOCS = guest.ROOT / "docs" / "explanation"
PAGE, PICTURE, DATA = DOCS / "crash-safety.md", DOCS / "crash-states.svg", DOCS / "crash-states.json"
BEGIN, END = "<!-- make crashlab -->\n", "<!-- end -->\n"

MIB = 1 << 20
START = MIB
# Bytes, and what mkfs.vfat is told: the smallest volumes that are surely of their type.
MADE: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "FAT16": (16 * MIB, ("-F", "16", "-s", "4")),
    "FAT32": (36 * MIB, ("-F", "32", "-s", "1")),
}


def make_disk(volume: str, folder: Path) -> bytes:
    """An MBR and one FAT partition that holds the old file, made by sfdisk, mkfs.vfat and mcopy."""
    size, options = MADE[volume]
    partition, disk = folder / "partition", folder / "disk"
    _truncate(partition, size)
    _run("mkfs.vfat", "--invariant", *options, "-h", str(START // SECTOR), str(partition))
    _run("mcopy", "-i", str(partition), "-", f"::{FILE}", stdin=OLD)
    _truncate(disk, START + size + MIB)
    _run("sfdisk", "--quiet", str(disk), stdin=f"start={START // SECTOR}, size={size // SECTOR}, type=c\n".encode())
    content = bytearray(disk.read_bytes())
    content[START : START + size] = partition.read_bytes()
    return bytes(content)


def record(volume: str, options: str, watch_s: int, files: Mapping[str, bytes]) -> None:
    """Run every idiom on its own copy of the volume; the disks, before and after, and the logs stay in its folder."""
    folder = OUT / volume
    folder.mkdir(parents=True, exist_ok=True)
    disk = make_disk(volume, folder)
    (folder / "disk").write_bytes(disk)
    images = {name: folder / f"{name}.img" for name in IDIOMS}
    for image in images.values():
        _truncate(image, len(disk))
        with image.open("r+b") as file:
            for at in range(0, len(disk), MIB):
                if any(piece := disk[at : at + MIB]):
                    file.seek(at)
                    file.write(piece)
    logs = {name: folder / f"{name}.log" for name in IDIOMS}
    guest.run(images, logs, files=files, options=options, watch_s=watch_s, kept=folder / "guest")


def judge(volume: str, name: str) -> Result:
    """Of what was recorded.

    Raises:
        NotRecorded: the recording does not explain the disk as it is now, or the file is not the new one at the end.
    """
    folder = OUT / volume
    disk = (folder / "disk").read_bytes()
    with (folder / f"{name}.log").open("rb") as log:
        entries = list(read_log(log))
    replayed = bytearray(disk)
    apply(replayed, entries)
    if replayed != (folder / f"{name}.img").read_bytes():
        raise NotRecorded(f"{name} on {volume}: replaying the recording does not give the disk")
    recorded = recording(disk, entries, START, MADE[volume][0])

    with Judge(recorded.base, old=OLD, new=NEW, file=folder / f"{name}.judged") as verdict_of:
        if verdict_of(recorded.at("end")).forgiving is not Reading.NEW:
            raise NotRecorded(f"{name} on {volume}: it switched nothing")

        def count(states: Iterable[Changes]) -> Count:
            distinct = {tuple(sorted(state.items())): state for state in map(recorded.changed, states)}
            return Count.of(map(verdict_of, distinct.values()))

        return Result(
            sectors=recorded.writes,
            flushes=recorded.flushes,
            in_order=count(recorded.in_order()),
            any_order=count(recorded.any_order()),
            no_flushes=count(recorded.any_order(flushes=False)),
            returned=says(verdict_of(recorded.at("returned"))),
            returned_cached=says(verdict_of(recorded.at("returned", flushed=True))),
            new_after_s=new_after((seconds, verdict_of(state)) for seconds, state in recorded.ticks()),
        )


def publish(figures: Figures) -> None:
    """Into the documentation: the figures, their picture, and the table between its two marks."""
    DATA.write_text(json.dumps(figures.as_json(), indent=1) + "\n")
    PICTURE.write_text(draw(figures))
    PAGE.write_text(with_table(PAGE.read_text(), figures))


def with_table(page: str, figures: Figures) -> str:
    """The page with this table between the marks."""
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(figures)}\n{end}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="crashlab", description="Every way to switch, at every power cut.")
    parser.add_argument("--mount", default="defaults", help="the mount options, such as sync or flush")
    parser.add_argument("--watch", type=int, default=70, metavar="SECONDS", help="how long to record after the switch")
    parser.add_argument("--publish", action="store_true", help="also write docs/explanation/")
    arguments = parser.parse_args()

    began = time.monotonic()
    OUT.mkdir(parents=True, exist_ok=True)
    workers = min(len(VOLUMES), os.cpu_count() or 1)
    try:
        files = guest.userland()
        kernel = guest.kernel().release
        print(
            f"crashlab: Linux {kernel}, {len(IDIOMS)} ways on {' and '.join(VOLUMES)}, mounted with {arguments.mount}"
        )
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda volume: record(volume, arguments.mount, arguments.watch, files), VOLUMES))
        cases = [(volume, name) for name in IDIOMS for volume in VOLUMES]
        with ProcessPoolExecutor(workers) as pool:
            found = dict(zip(cases, pool.map(judge, *zip(*cases, strict=True)), strict=True))
    except (GuestError, NotRecorded) as error:
        print(f"crashlab: {error}", file=sys.stderr)
        return 1
    figures = Figures(
        kernel=kernel,
        mount=arguments.mount,
        watched_s=arguments.watch,
        results={name: {volume: found[volume, name] for volume in VOLUMES} for name in IDIOMS},
    )
    (OUT / "figures.json").write_text(json.dumps(figures.as_json(), indent=1) + "\n")
    (OUT / "picture.svg").write_text(draw(figures))
    (OUT / "table.md").write_text(table(figures))
    if arguments.publish:
        publish(figures)
    print(table(figures))
    problems = failures(figures)
    for problem in problems:
        print(f"crashlab: {problem}", file=sys.stderr)
    states = sum(result.no_flushes.states + result.any_order.states for result in found.values())
    verdict = "failed" if problems else "abboot's way has no bad state, the others have"
    print(f"crashlab: {verdict}; {states} states in {time.monotonic() - began:.0f} s; all of it in {OUT}")
    return 1 if problems else 0


def _truncate(path: Path, size: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    with path.open("wb") as file:
        file.truncate(size)


def _run(*command: str, stdin: bytes = b"") -> None:
    subprocess.run(command, input=stdin, env=ENVIRONMENT, capture_output=True, check=True)


if __name__ == "__main__":
    sys.exit(main())
