"""In the guest: run each idiom on a disk of its own, and mark in the recorded writes when it began and returned.

A mark is a sector of text in the gap before the partition, written past every cache, so that it stands in the recording
among the writes that the idiom made (:mod:`tests.crashlab.recording` finds it there):

    start     the partition is mounted, and everything that this wrote is on the medium
    returned  the idiom says that it is done
    tick      a second later, and another: what has the kernel written back by itself?
    end       unmounted

The kernel's timers for writing back are those of every Linux: 5 s and 30 s.  Nothing is judged here.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.crashlab.idioms import IDIOMS, Place
from tests.crashlab.marks import AT, mark


def leave(disk: str, text: str) -> None:
    fd = os.open(disk, os.O_WRONLY | os.O_DIRECT)
    try:
        # O_DIRECT wants memory that is aligned, and a mapping is.
        with mmap.mmap(-1, mmap.PAGESIZE) as buffer:
            sector = mark(text)
            buffer[: len(sector)] = sector
            with memoryview(buffer) as view:
                os.pwrite(fd, view[: len(sector)], AT)
    finally:
        os.close(fd)


def main(options: str, watch_s: int) -> None:
    places: dict[str, Place] = {}
    blocks = sorted(Path("/sys/block").glob("vd*"))
    for block in blocks:
        # Linux divides the memory for dirty pages among the disks, and writes back at once where a share is nothing.
        # A Pi has one disk, which gets all of it: so none goes without here.
        (block / "bdi" / "min_ratio").write_text(str(100 // (len(blocks) + 1)))
        disk = f"/dev/{block.name}"
        name = (block / "serial").read_text().strip()
        folder = Path("/mnt") / name
        places[name] = Place(disk=disk, partition=f"{disk}1", folder=folder)
        if IDIOMS[name].mounted:
            folder.mkdir(parents=True)
            subprocess.run(["mount", "-t", "vfat", "-o", options, f"{disk}1", folder], check=True)
    # A mount marks the volume dirty.  That is over before anything is measured.
    os.sync()
    for place in places.values():
        leave(place.disk, "start")

    returned: dict[str, float] = {}
    for name, place in places.items():
        IDIOMS[name].switch(place)
        leave(place.disk, "returned")
        returned[name] = time.monotonic()
        print(f"{name}: done", flush=True)
    last = time.monotonic() + watch_s
    while time.monotonic() < last:
        time.sleep(1)
        for name, place in places.items():
            leave(place.disk, f"tick {time.monotonic() - returned[name]:.1f}")
    for name, place in places.items():
        if IDIOMS[name].mounted:
            subprocess.run(["umount", place.folder], check=True)
        leave(place.disk, "end")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
