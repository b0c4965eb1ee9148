#!/usr/bin/env python3
"""Does a stage run at the speed of the card?  abboot against ``dd oflag=direct`` of as many bytes, taking turns.

The card is a loop device throttled to 20 MB/s, and then to 300 write requests per second as well (``card.py``; needs
root).  abboot is measured in a process that is already running: from the call, which first reads and hashes every
source, and from its first write to the slot, both to the flush of the content.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import common
import mktree
from card import Card, Unavailable, attached, throttled
from stage import SLOT_B, TimedDisk, empty_slot, timed

ROUNDS = 3
DD, FROM_WRITE, FROM_CALL = "dd oflag=direct bs=4M", "abboot, from its first write", "abboot, from the call"
CARDS = {"20 MB/s": (20_000_000, 0), "20 MB/s, 300 requests/s": (20_000_000, 300)}


def stage(card: Card, tree: Path) -> tuple[float, float, int]:
    """Seconds from the call and from the first write to the flush, and the bytes written to the slot."""
    import abboot
    from abboot.linux.blockdevice import open_disk

    disk = TimedDisk(open_disk(card.node))
    with abboot.BootManager(disk) as manager:
        begin = time.perf_counter()
        manager.stage(tree)
    flushed = disk.cache_dropped[1]
    return flushed - begin, flushed - disk.first_write, sum(disk.writes)


def dd(card: Card, source: Path, size_bytes: int) -> float:
    os.truncate(source, size_bytes)
    return timed(lambda: common.run("dd", f"if={source}", f"of={card.slot}", "bs=4M", "oflag=direct", "conv=fsync"))


def main() -> None:
    with common.scratch() as work:
        tree = mktree.make(work / "tree")
        pristine = common.build_card(work)
        empty_slot(pristine)
        source = work / "bytes"
        source.write_bytes(os.urandom(96 << 20))
        for name, (bytes_per_s, requests_per_s) in CARDS.items():
            seconds: dict[str, list[float]] = {DD: [], FROM_WRITE: [], FROM_CALL: []}
            for _ in range(ROUNDS):
                image = common.copy_sparse(pristine, work / "run.img")
                try:
                    with attached(image, SLOT_B) as card, throttled(card, bytes_per_s, requests_per_s):
                        from_call, from_write, size_bytes = stage(card, tree)
                        seconds[DD].append(dd(card, source, size_bytes))
                except Unavailable as error:
                    print(f"left out: a card of {name}: {error}")
                    return
                seconds[FROM_WRITE].append(from_write)
                seconds[FROM_CALL].append(from_call)
            base = statistics.median(seconds[DD])
            rows = [
                [who, f"{statistics.median(values):.2f}", f"{statistics.median(values) / base:.3f}"]
                for who, values in seconds.items()
            ]
            title = f"{size_bytes / common.MB:.1f} MB to a card of {name}, flushed (median of {ROUNDS}, taking turns)"
            common.print_table(title, ["", "seconds", "ratio"], rows)


if __name__ == "__main__":
    main()
