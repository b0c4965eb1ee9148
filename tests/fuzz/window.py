"""Volumes and disks of many megabytes as fuzz inputs of a few kilobytes: only the sectors that are not empty.

An input is the device's size in sectors (4 bytes), then for each sector its number (4 bytes) and its 512 bytes.
Everything else is zero.  So a FAT32, which has 34 MiB at least, is as small and as fast as a FAT12.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from abboot.core.protocols import Buffer, Mount

SECTOR = 512
MAX_INPUT = 64 << 10  # bytes
MAX_SECTORS = 1 << 17  # a device of 64 MiB: large enough for every FAT type, and zeros cost time too

_HEAD = struct.Struct("<I")
_RECORD = struct.Struct("<I512s")
_NOT_EMPTY = re.compile(rb"[^\0]")

Sectors = dict[int, bytes]


def pack(size: int, sectors: Mapping[int, bytes]) -> bytes:
    """The input for a device of ``size`` sectors."""
    return _HEAD.pack(size) + b"".join(_RECORD.pack(number, data) for number, data in sectors.items())


def pack_image(image: bytes | bytearray) -> bytes:
    """The input for an image; an assertion if it has more in it than an input may hold."""
    sectors: Sectors = {}
    position = 0
    while found := _NOT_EMPTY.search(image, position):
        number = found.start() // SECTOR
        sectors[number] = bytes(image[number * SECTOR : (number + 1) * SECTOR])
        position = (number + 1) * SECTOR
    data = pack(-(-len(image) // SECTOR), sectors)
    assert len(data) <= MAX_INPUT
    return data


def unpack(data: bytes) -> tuple[int, Sectors]:
    """Whatever the bytes are, a device: ``(size in sectors, its sectors that are not empty)``."""
    if len(data) < _HEAD.size:
        return 0, {}
    size = min(_HEAD.unpack_from(data)[0], MAX_SECTORS)
    body = data[_HEAD.size :]
    body += bytes(-len(body) % _RECORD.size)
    return size, dict(_RECORD.iter_unpack(body))


class Window:
    """The device of an input; implements :class:`abboot.core.protocols.BlockDevice`.

    ``strays`` lists every call that reached for something outside: it is refused, and so that nobody can swallow the
    refusal it is noted.  What is read, and how often, is counted: work is bounded by these, not by a clock.
    """

    name = "card.img partition 2"

    def __init__(self, size: int, sectors: Sectors, block_size: int = SECTOR, first: int = 0) -> None:
        self.size_bytes = size * SECTOR
        self.block_size_bytes = block_size
        self.sectors = sectors
        self._first = first  # the sector that offset 0 is in
        self.strays: list[str] = []
        self.reads = 0
        self.bytes_read = 0
        self.writes: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> bytes:
        self._check("read", offset, length)
        self.reads += 1
        self.bytes_read += length
        first, start = divmod(offset, SECTOR)
        first += self._first
        if start + length <= SECTOR:
            return self.sectors.get(first, _EMPTY)[start : start + length]
        content = bytearray(length)
        end = first + -(-(start + length) // SECTOR)
        few = end - first < len(self.sectors)
        for number in range(first, end) if few else [n for n in self.sectors if first <= n < end]:
            data = self.sectors.get(number)
            if data is not None:
                at = (number - self._first) * SECTOR - offset
                low, high = max(at, 0), min(at + SECTOR, length)
                content[low:high] = data[low - at : high - at]
        return bytes(content)

    def write(self, offset: int, data: Buffer) -> None:
        content = bytes(data)
        self._check("write", offset, len(content))
        if offset % self.block_size_bytes or len(content) % self.block_size_bytes:
            self.strays.append(f"write of {len(content)} bytes at {offset}, which is not aligned")
        self.writes.append((offset, len(content)))
        first = self._first + offset // SECTOR
        for number in range(len(content) // SECTOR):
            self.sectors[first + number] = content[number * SECTOR : (number + 1) * SECTOR]

    def _check(self, verb: str, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            self.strays.append(f"{verb} of {length} bytes at {offset} of {self.size_bytes}")
            raise ValueError(self.strays[-1])

    def flush(self) -> None: ...

    def forget_cache(self) -> None: ...

    def close(self) -> None: ...


class Card(Window):
    """A whole disk; implements :class:`abboot.core.protocols.Disk`.  ``partitions`` lists what was opened, and how."""

    name = "card.img"

    def __init__(self, size: int, sectors: Sectors) -> None:
        super().__init__(size, sectors)
        self.partitions: list[tuple[int, Window]] = []

    def open_partition(self, number: int, start: int, size: int, *, writable: bool = False) -> Window:
        self._check("partition", start, size)
        opened = Window(size // SECTOR, self.sectors, first=start // SECTOR)
        opened.strays = self.strays
        self.partitions.append((number, opened))
        return opened

    def written(self) -> set[int]:
        """The numbers of the partitions that were written to."""
        return {number for number, opened in self.partitions if opened.writes}

    def mounts_of(self, number: int) -> tuple[Mount, ...]:
        return ()

    def lock(self) -> AbstractContextManager[None]:
        return nullcontext()


_EMPTY = bytes(SECTOR)
