#!/usr/bin/env python3
"""How long does staging take?  abboot against ``mcopy -s`` and ``fsync``, which neither hashes nor verifies.

The tree of ``mktree.py`` goes into an empty 256 MiB FAT32 slot of an image file.  The contestants take turns: ``mcopy``
into a fresh volume of the same geometry; ``BootManager.stage`` in a process that is already running, up to the flush
of the content and to the end, that is with reading the whole slot back; and the whole command with its interpreter.
``abboot verify`` of that slot takes turns with ``sha256sum`` over the same files.  What abboot wrote is compared with
the tree through mtools afterwards: a fast stage that is wrong is no result.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import mktree

SLOT_B = 3  # the partition: on a new card `a` is the primary, so a stage goes to `b`
MCOPY = "mcopy -s, fsync"
FLUSHED, VERIFIED = "abboot, in process, flushed", "abboot, in process, read back"
COMMAND = "abboot stage, whole command"
SHA256SUM, VERIFY = "sha256sum", "abboot verify, whole command"


class TimedDisk:
    """A disk that notes what is written to the slot, and when; the disk itself does it."""

    def __init__(self, disk: Any) -> None:
        self._disk = disk
        self.writes: list[int] = []
        self.first_write = 0.0
        self.cache_dropped: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)

    def open_partition(self, number: int, start: int, size: int, *, writable: bool = False) -> Any:
        device = self._disk.open_partition(number, start, size, writable=writable)
        return _TimedDevice(self, device) if writable and number == SLOT_B else device


class _TimedDevice:
    def __init__(self, disk: TimedDisk, device: Any) -> None:
        self._disk, self._device = disk, device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def write(self, offset: int, data: Any) -> None:
        if not self._disk.writes:
            self._disk.first_write = time.perf_counter()
        self._device.write(offset, data)
        self._disk.writes.append(len(data))

    def forget_cache(self) -> None:
        self._disk.cache_dropped.append(time.perf_counter())
        self._device.forget_cache()


def in_process(card: str, tree: str, spare_card: str, small_tree: str) -> dict[str, Any]:
    """Stage and measure from inside; run in a process of its own, whose peak memory is then the stage's."""
    import abboot
    from abboot.linux.blockdevice import open_disk

    # A process that is already running has its modules loaded.
    abboot.BootManager.open(spare_card).stage(small_tree)
    disk = TimedDisk(open_disk(card))
    manager = abboot.BootManager(disk)
    begin = time.perf_counter()
    staged = manager.stage(tree)
    end = time.perf_counter()
    # VmHWM starts anew with exec; getrusage would also count the parent.
    status = Path("/proc/self/status").read_text()
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    return {
        # The cache is dropped when the slot was invalidated, when its content was flushed, and with each boot sector.
        "flushed_s": disk.cache_dropped[1] - begin,
        "verified_s": end - begin,
        "bytes_written": staged.bytes_written,
        "write_calls": len(disk.writes),
        "peak_bytes": peak_kib * 1024,
    }


def timed(action: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def mcopy(tree: Path, volume: Path) -> None:
    common.run("mcopy", "-s", "-Q", "-i", volume, *sorted(tree.iterdir()), "::/")
    with volume.open("rb+") as file:
        os.fsync(file.fileno())


def slot_of(card: Path) -> tuple[int, int]:
    """Offset and size of slot b in bytes, as sfdisk sees them."""
    table = json.loads(common.run("sfdisk", "--json", card))["partitiontable"]
    sector = table.get("sectorsize", 512)
    partition = table["partitions"][SLOT_B - 1]
    return partition["start"] * sector, partition["size"] * sector


def empty_slot(card: Path) -> None:
    """Nothing at all where slot b is: its geometry is in the journal."""
    offset, size = slot_of(card)
    with card.open("rb+") as file:
        file.seek(offset)
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))


def differences(tree: Path, card: Path, work: Path) -> list[str]:
    """The tree's files that mtools does not find, byte for byte, in slot b."""
    read_back = work / "read-back"
    read_back.mkdir()
    common.run("mcopy", "-s", "-n", "-Q", "-i", f"{card}@@{slot_of(card)[0]}", "::/*", read_back)
    names = [str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()]
    _, different, missing = filecmp.cmpfiles(tree, read_back, names, shallow=False)
    return sorted(different + missing)


def measure(rounds: int) -> dict[str, Any]:
    for command, package in (("mcopy", "mtools"), ("mkfs.vfat", "dosfstools"), ("sfdisk", "fdisk")):
        common.need(command, package)
    with common.scratch() as work:
        tree = mktree.make(work / "tree")
        files = sorted(path for path in tree.rglob("*") if path.is_file())
        total = sum(path.stat().st_size for path in files)
        pristine = common.build_card(work)
        empty_slot(pristine)
        empty = work / "empty.img"
        empty.touch()
        os.truncate(empty, 256 << 20)
        common.run("mkfs.vfat", "-F", "32", "-s", "4", empty)
        inside: list[dict[str, Any]] = []

        def fresh(image: Path) -> Path:
            copy = common.copy_sparse(image, work / f"run-{image.name}")
            os.sync()  # what earlier turns left behind is not this one's to write
            return copy

        def copy() -> float:
            volume = fresh(empty)
            return timed(lambda: mcopy(tree, volume))

        def library() -> float:
            spare = common.copy_sparse(pristine, work / "spare.img")
            command = (sys.executable, __file__, "--in-process", fresh(pristine), tree, spare, work / "before")
            inside.append(json.loads(common.run(*command)))
            return float(inside[-1]["flushed_s"])

        def whole_command() -> float:
            card = fresh(pristine)
            begin = time.perf_counter()
            result = json.loads(common.run(common.ABBOOT, "--json", "--disk", card, "stage", tree))
            seconds = time.perf_counter() - begin
            if not result["changed"] or result["bytes_written"] < total:
                sys.exit(f"benchmark: nothing was staged: {result}")
            return seconds

        seconds = common.take_turns({MCOPY: copy, FLUSHED: library, COMMAND: whole_command}, rounds)
        seconds[VERIFIED] = [run["verified_s"] for run in inside]
        card = work / f"run-{pristine.name}"
        wrong = differences(tree, card, work)
        if wrong:
            sys.exit(f"benchmark: {len(wrong)} staged files are not the tree's: {', '.join(wrong[:5])}")
        verify = {
            SHA256SUM: lambda: timed(lambda: common.run("sha256sum", *files)),
            VERIFY: lambda: timed(lambda: common.run(common.ABBOOT, "--json", "--disk", card, "verify", "b")),
        }
        order = (MCOPY, FLUSHED, VERIFIED, COMMAND)
        return {
            "schema": 2,
            "machine": common.machine(),
            "rounds": rounds,
            "files": len(files),
            "bytes_total": total,
            "stage": common.summary({name: seconds[name] for name in order}, against=MCOPY),
            "verify": common.summary(common.take_turns(verify, rounds), against=SHA256SUM),
            "bytes_written": inside[-1]["bytes_written"],
            "write_calls": inside[-1]["write_calls"],
            "peak_bytes": max(run["peak_bytes"] for run in inside),
        }


def report(result: dict[str, Any]) -> None:
    total = result["bytes_total"]
    titles = {
        "stage": f"Staging {result['files']} files, {total / common.MB:.1f} MB, into an empty 256 MiB FAT32 slot",
        "verify": "Verifying that slot",
    }
    for part, title in titles.items():
        rows = [[name, f"{f['median_s']:.3f}", f"{f['ratio']:.2f}"] for name, f in result[part].items()]
        common.print_table(f"{title} (median of {result['rounds']}, taking turns)", ["", "seconds", "ratio"], rows)
    print(
        f"abboot wrote {result['bytes_written'] / common.MB:.2f} MB ({result['bytes_written'] / total:.3f} times the "
        f"tree) in {result['write_calls']} calls; peak memory {result['peak_bytes'] / common.MB:.0f} MB\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    parser.add_argument("--in-process", nargs=4, help=argparse.SUPPRESS)
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
