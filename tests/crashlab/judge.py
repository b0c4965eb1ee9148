"""What readers make of a FAT partition after a power cut: does ``autoboot.txt`` say the old or the new, or neither?

Three judges, none of which is abboot's own reader or writer:

forgiving  :class:`abboot.simulator.firmware_fat.FirmwareFat`: it believes the directory entry and looks into the FAT
           only where a file has a second cluster.  Raspberry Pi's reader is not published; this is the best case.
mtools     ``mtype``, which follows the FAT and refuses a file whose first cluster is marked free.
repaired   mtools again, after ``fsck.vfat -a``, which most systems run when they boot.

For tests that replay recorded writes: the crashlab, and tests that boot whole systems.
"""

from __future__ import annotations

import enum
import os
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import attrs

from abboot.simulator.firmware_fat import FirmwareFat, NotReadable
from tests.crashlab.marks import SECTOR

FILE: Final = "autoboot.txt"
LIMIT: Final = 512  # bytes: the firmware reads no more
# Debian keeps fsck.vfat out of an ordinary user's PATH.
ENVIRONMENT: Final = {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin", "LC_ALL": "C", "MTOOLS_SKIP_CHECK": "1"}


# Bytes behind the FATs and FAT16's root folder, where FAT32 has its root folder and fsck.vfat may put an entry.
MARGIN: Final = 64 * 1024


class Reading(enum.StrEnum):
    OLD = enum.auto()
    NEW = enum.auto()
    EMPTY = enum.auto()
    UNREADABLE = enum.auto()  # an error, or no such file
    OTHER = enum.auto()

    @property
    def bad(self) -> bool:
        return self not in (Reading.OLD, Reading.NEW)


@attrs.frozen(kw_only=True)
class Verdict:
    """One state of the medium, as each judge reads it."""

    forgiving: Reading
    mtools: Reading
    repaired: Reading

    @property
    def bad(self) -> bool:
        return self.forgiving.bad or self.mtools.bad or self.repaired.bad


class Judge:
    """Judges states of one partition, all of which differ from ``base`` in few sectors.  Equal states are judged once.

    Args:
        base: the partition, without its disk.
        file: a path for the judges' copy of it; removed at the end.
    """

    def __init__(self, base: bytes, *, old: bytes, new: bytes, file: Path) -> None:
        self._base, self._old, self._new, self._file = base, old, new, file
        self._verdicts: dict[tuple[tuple[int, bytes], ...], Verdict] = {}
        self._metadata = base[: _data_start(base) + MARGIN]
        file.write_bytes(base)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.unlink()

    def __call__(self, changes: Mapping[int, bytes]) -> Verdict:
        """Of the partition with these sectors changed.

        Raises:
            RuntimeError: fsck.vfat could not do its work.
        """
        differing = tuple(sorted((at, data) for at, data in changes.items() if data != self._sector(at)))
        if differing not in self._verdicts:
            self._verdicts[differing] = self._judge(differing)
        return self._verdicts[differing]

    @property
    def distinct(self) -> int:
        """How many different states were judged."""
        return len(self._verdicts)

    def _sector(self, number: int) -> bytes:
        return self._base[number * SECTOR : (number + 1) * SECTOR]

    def _judge(self, differing: tuple[tuple[int, bytes], ...]) -> Verdict:
        with self._file.open("r+b") as file:
            for at, data in differing:
                file.seek(at * SECTOR)
                file.write(data)
        forgiving, mtools = self._forgiving(dict(differing)), self._mtools()
        # 1: it changed something, which is what it is for.
        checked = subprocess.run(
            ["fsck.vfat", "-a", str(self._file)], env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        if checked.returncode not in (0, 1):
            raise RuntimeError(f"fsck.vfat -a ended with {checked.returncode}: {checked.stdout}{checked.stderr}")
        verdict = Verdict(forgiving=forgiving, mtools=mtools, repaired=self._mtools())
        with self._file.open("r+b") as file:
            file.write(self._metadata)
            for at, _ in differing:
                file.seek(at * SECTOR)
                file.write(self._sector(at))
        return verdict

    def _forgiving(self, changes: Mapping[int, bytes]) -> Reading:
        def read(offset: int, length: int) -> bytes:
            first, last = offset // SECTOR, (offset + length - 1) // SECTOR
            found = b"".join(changes.get(at) or self._sector(at) for at in range(first, last + 1))
            return found[offset - first * SECTOR :][:length]

        try:
            return self._reading(FirmwareFat(read, len(self._base)).read_file(FILE, LIMIT))
        except NotReadable:
            return Reading.UNREADABLE

    def _mtools(self) -> Reading:
        read = subprocess.run(
            ["mtype", "-i", str(self._file), f"::{FILE}"], env=ENVIRONMENT, capture_output=True, check=False
        )
        # Of a broken chain it prints what it has, says so, and ends with 0.
        broken = read.returncode or b"Fat problem" in read.stderr
        return Reading.UNREADABLE if broken else self._reading(read.stdout)

    def _reading(self, content: bytes | None) -> Reading:
        if content is None:
            return Reading.UNREADABLE
        known = {self._old: Reading.OLD, self._new: Reading.NEW, b"": Reading.EMPTY}
        return known.get(content, Reading.OTHER)


def _data_start(volume: bytes) -> int:
    """Bytes in front of the first cluster: what fsck.vfat changes, but FAT32's root folder (FAT specification 1.03)."""
    sector, _, reserved, fats, root_entries = struct.unpack_from("<HBHBH", volume, 11)
    (short_size,), (long_size,) = struct.unpack_from("<H", volume, 22), struct.unpack_from("<I", volume, 36)
    return (reserved + fats * (short_size or long_size)) * sector + root_entries * 32
