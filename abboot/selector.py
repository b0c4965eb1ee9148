"""The selector partition: ``autoboot.txt`` and the journal, read and written.

Two ways to reach it, and no third (G9): through its mount where it is mounted, on its own node where it is not.

What is written, and how:
    ``autoboot.txt``  one aligned write of the one logical block that holds it, flushed, read back from the medium (G3).
                      Never create-and-rename: on vfat that is neither atomic nor durable.
    ``ABBOOT.JNL``    one 4096-byte block an entry, in a ring, flushed and read back.

Both files are overwritten in place and never change their length, so neither the FAT nor a directory is touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import attrs

from abboot.core import autoboot as autoboot_txt
from abboot.core import journal as journal_format
from abboot.core.autoboot import Autoboot, parse_autoboot
from abboot.core.journal import Entry, Journal, read_journal
from abboot.core.partition_table import Partition
from abboot.core.protocols import BlockDevice, Disk, Mount, Volume
from abboot.core.value import Value
from abboot.errors import Damaged, NewerFormat, Refused, VerificationFailed

AUTOBOOT = "autoboot.txt"
JOURNAL = journal_format.FILE_NAME
_JOURNAL_LIMIT = 16 << 20  # bytes; a bound for hostile volumes, sixty times the size that we make


@attrs.frozen(kw_only=True, eq=False, repr=False)
class SelectorReading(Value):
    """What the selector holds: raw bytes where there are any, meanings where they have one, problems where not."""

    raw: bytes | None = None
    autoboot: Autoboot | None = None
    autoboot_problem: str = ""
    journal: Journal = attrs.field(factory=Journal)
    journal_problem: str = ""


class SelectorWriter(Protocol):
    """The selector, opened for changing."""

    def overwrite(self, path: str, offset: int, data: bytes) -> int:
        """Overwrite in place, flush, read back from the medium; ``path`` keeps its length and its clusters.

        Returns:
            The bytes that were written; through a mount, those that were given to the file system.
        """

    def size_of(self, path: str) -> int:
        """Raises :class:`abboot.errors.Damaged` if there is no such file, or it cannot be overwritten in place."""


def read_selector(volume: Volume, name: str) -> SelectorReading:
    """Read both files.  Damage becomes a ``problem``; only an I/O error raises (:class:`abboot.errors.DeviceError`)."""
    raw: bytes | None = None
    parsed: Autoboot | None = None
    problem = ""
    try:
        found = volume.find(AUTOBOOT)
        if found is None:
            problem = f"there is no {AUTOBOOT} on {name}"
        else:
            # More than the firmware reads, so that an over-long file is told by its true size.
            raw = volume.read_file(AUTOBOOT, 1 << 20)
            parsed = parse_autoboot(raw)
    except Damaged as error:
        problem = error.message.removeprefix("cannot read autoboot.txt: ")
    journal, journal_problem = Journal(), ""
    try:
        if volume.find(JOURNAL) is None:
            journal_problem = f"there is no {JOURNAL} on {name}"
        else:
            journal = read_journal(volume.read_file(JOURNAL, _JOURNAL_LIMIT))
            if journal.newest is None:
                journal_problem = f"no entry of {JOURNAL} can be read"
    except Damaged as error:
        journal_problem = error.message
    return SelectorReading(
        raw=raw, autoboot=parsed, autoboot_problem=problem, journal=journal, journal_problem=journal_problem
    )


def with_scanned_journal(found: SelectorReading, device: BlockDevice) -> SelectorReading:
    """What the raw scan finds of a journal whose file, or whole file system, is gone: it is whole all the same.

    ``journal_problem`` stays: there is nowhere to write the next entry to before a repair.
    """
    try:
        entries = journal_format.scan_raw(device.read, device.size_bytes)
    except NewerFormat as error:
        return attrs.evolve(found, journal=Journal(newer=True), journal_problem=error.message)
    if not entries:
        return found
    return attrs.evolve(
        found,
        journal=Journal(entries=tuple(entry for _offset, entry in entries)),
        journal_problem=f"{found.journal_problem}; its entries were found by their magic",
    )


class RawSelector:
    """The selector on its own node, unmounted: sectors overwritten where the FAT says the files are."""

    def __init__(self, device: BlockDevice) -> None:
        from abboot.fat.read import FatVolume

        self._device = device
        self._volume = FatVolume(device)

    def size_of(self, path: str) -> int:
        return self._start_and_size(path)[1]

    def overwrite(self, path: str, offset: int, data: bytes) -> int:
        start, size = self._start_and_size(path)
        if offset + len(data) > size:
            raise ValueError(f"{path} has {size} bytes")
        block = self._device.block_size_bytes
        first = (start + offset) // block * block
        end = -(-(start + offset + len(data)) // block) * block
        # The rest of the block is written back as it was: beyond the file's end it is nobody's.
        before = self._device.read(first, end - first)
        after = bytearray(before)
        after[start + offset - first : start + offset - first + len(data)] = data
        differing = [at for at in range(0, len(after), block) if before[at : at + block] != after[at : at + block]]
        written = after[differing[0] : differing[-1] + block] if differing else b""
        if differing:
            # G3: one write, of autoboot.txt one logical block.  Before it the old content, after it the new one; of a
            # journal entry, where it is longer, a torn one that no reader takes for an entry.
            self._device.write(first + differing[0], bytes(written))
        self._device.flush()
        self._device.forget_cache()
        if self._device.read(first, end - first) != after:
            raise VerificationFailed(
                f"cannot write {path} on {self._device.name}: the medium gives back something else",
                "the card may be failing or write-protected: replace it",
            )
        return len(written)

    def _start_and_size(self, path: str) -> tuple[int, int]:
        found = self._volume.find(path)
        if found is None:
            raise Damaged(f"cannot write {path} on {self._device.name}: there is no such file", "run `abboot repair`")
        extents = self._volume.extents(path)
        cluster = self._volume.geometry.cluster_size
        run = sum(count for _start, count in extents) * cluster
        if len(extents) != 1 or run < found.size or found.size == 0:
            raise Damaged(
                f"cannot write {path} on {self._device.name}: its {found.size} bytes lie in {len(extents)} pieces",
                "run `abboot repair`",
            )
        start = self._volume.geometry.cluster_offset(extents[0][0])
        if path.lower() == AUTOBOOT and found.size > autoboot_txt.MAX_SIZE:
            raise Damaged(
                f"cannot write {path} on {self._device.name}: it has {found.size} bytes, the firmware reads "
                f"{autoboot_txt.MAX_SIZE}",
                "run `abboot repair`",
            )
        return start, found.size


class MountedSelector:
    """The selector through its read-write mount: same-length overwrite, fsync, read back."""

    def __init__(self, path: str) -> None:
        from abboot.linux.mounted import MountedVolume

        self._volume = MountedVolume(path)

    def size_of(self, path: str) -> int:
        found = self._volume.find(path)
        if found is None:
            raise Damaged(f"cannot write {path}: there is no such file", "run `abboot repair`")
        return found.size

    def overwrite(self, path: str, offset: int, data: bytes) -> int:
        self._volume.overwrite(path, offset, data)
        return len(data)


@contextmanager
def open_for_reading(disk: Disk, partition: Partition) -> Iterator[Volume]:
    """The volume of a partition, through its mount if it has one, else from its node.

    Raises:
        Damaged: there is no FAT volume that can be read.
    """
    mounts = _whole_mounts(disk, partition)
    if mounts:
        from abboot.linux.mounted import MountedVolume

        yield MountedVolume(mounts[0].path)
        return
    from abboot.fat.read import FatVolume

    device = disk.open_partition(partition.number, partition.start, partition.size)
    try:
        yield FatVolume(device)
    finally:
        device.close()


def _whole_mounts(disk: Disk, partition: Partition) -> tuple[Mount, ...]:
    """The mounts through which all of the volume can be seen.

    Raises:
        Refused: it is mounted, but every mount hides something (a bind mount of a folder, or one mounted over).
    """
    mounts = disk.mounts_of(partition.number)
    whole = tuple(mount for mount in mounts if mount.whole)
    if mounts and not whole:
        raise Refused(
            f"cannot read partition {partition.number} of {disk.name}: it is mounted on {mounts[0].path}, "
            "which does not show all of it",
            "mount it as a whole, or not at all",
        )
    return whole


@contextmanager
def open_for_writing(disk: Disk, partition: Partition) -> Iterator[SelectorWriter]:
    """The selector, to be changed.

    Raises:
        Refused: it is mounted read-only; abboot remounts nothing (G3).
    """
    mounts = _whole_mounts(disk, partition)
    if mounts:
        writable = [mount for mount in mounts if mount.writable]
        if not writable:
            raise Refused(
                f"cannot change the selector: it is mounted read-only on {mounts[0].path}",
                f"run `umount {mounts[0].path}` or `mount -o remount,rw {mounts[0].path}` first",
            )
        yield MountedSelector(writable[0].path)
        return
    device = disk.open_partition(partition.number, partition.start, partition.size, writable=True)
    try:
        yield RawSelector(device)
    finally:
        device.close()


def replace_autoboot(writer: SelectorWriter, before: bytes, after: bytes) -> int:
    """G3: the switch.  ``before`` is what the caller decided upon, so that nothing is switched unseen.

    Returns:
        The bytes that were written.

    Raises:
        Refused: the file is of another length than ``after``: it has to be adopted first.
        VerificationFailed: the medium gave back something else.
    """
    size = writer.size_of(AUTOBOOT)
    if size != len(before) or size != len(after):
        raise Refused(
            f"cannot switch: autoboot.txt has {size} bytes, {len(after)} are needed",
            "run `abboot repair`, which rewrites it once in full",
        )
    return writer.overwrite(AUTOBOOT, 0, after)


def append_entry(writer: SelectorWriter, entry: Entry) -> int:
    """Write one journal entry into its block of the ring, never that of the entry before it.

    A cut leaves the block old, new or torn: a torn one is skipped by every reader, and the entry before it counts.

    Returns:
        The bytes that were written: what is in that block already, such as the zeros behind an entry, is not.

    Raises:
        Damaged: the journal's file is too small to be a ring.
    """
    size = writer.size_of(JOURNAL)
    blocks = size // journal_format.BLOCK_SIZE
    if blocks < 2:
        raise Damaged(f"cannot write the journal: {JOURNAL} has {size} bytes", "run `abboot repair`")
    block = journal_format.block_index(entry.sequence, blocks)
    return writer.overwrite(JOURNAL, block * journal_format.BLOCK_SIZE, entry.encode())
