"""What a guest of :class:`~abboot.simulator.emulator.EmulatedPi` wrote to its card, in order, with its flushes.

Rules: the file may still grow while it is read; what is not whole yet is not there.  A state of the card is the image
before the run with some of the writes applied; all of them give the image after it.
Source: Linux, Documentation/admin-guide/device-mapper/log-writes.rst; QEMU block/blklogwrites.c, which writes that
format with the sector size that it was told, here 512.
"""

from __future__ import annotations

import os
import struct
from typing import Final, Self

import attrs

from abboot.errors import Damaged
from abboot.linux.sysroot import device_error

_MAGIC: Final = 0x6A736677736872
_VERSION: Final = 1
_SUPER: Final = struct.Struct("<QQQI")
_ENTRY: Final = struct.Struct("<QQQQ")  # first sector, sectors, flags, bytes of data
_SECTOR: Final = 512
_FLUSH: Final = 1
_DISCARD: Final = 4
_MARK: Final = 8
_MAX_WRITE: Final = 64 << 20


@attrs.frozen
class RecordedWrite:
    """One write, or a flush where ``data`` is ``None``; a flush comes before the write that asks for it."""

    offset: int  # bytes from the beginning of the card
    data: bytes | None = attrs.field(repr=lambda data: "flush" if data is None else f"{len(data)} bytes")


class Recording:
    """The file that :meth:`EmulatedPi.switch_on` was told to record to.

    Raises:
        DeviceError: it cannot be opened; from every method: it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise device_error("open", self._path, error) from error
        self._position = _SECTOR
        self._count = 0

    def count(self) -> int:
        """How many writes there are by now, without flushes."""
        while (entry := self._entry(self._position)) is not None:
            _sector, sectors, flags, _length = entry
            self._count += sectors > 0 and not flags & (_DISCARD | _MARK)
            self._position = self._after(self._position, entry)
        return self._count

    def writes(self) -> list[RecordedWrite]:
        """Every write and flush, in order.

        Raises:
            Damaged: it is no such recording.
        """
        head = self._read(0, _SUPER.size)
        if head:
            magic, version, _entries, sector = _SUPER.unpack(head)
            # The head comes with the first flush: before it there are zeros.
            if (magic, version, sector) not in ((_MAGIC, _VERSION, _SECTOR), (0, 0, 0)):
                raise Damaged(f"cannot read {self._path}: it is no recording of writes in sectors of {_SECTOR} bytes")
        found: list[RecordedWrite] = []
        position = _SECTOR
        while (entry := self._entry(position)) is not None:
            sector, sectors, flags, _length = entry
            if flags & _FLUSH:
                found.append(RecordedWrite(0, None))
            if sectors and not flags & (_DISCARD | _MARK):
                data = self._read(position + _SECTOR, sectors * _SECTOR)
                found.append(RecordedWrite(sector * _SECTOR, data))
            position = self._after(position, entry)
        return found

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _entry(self, position: int) -> tuple[int, int, int, int] | None:
        """The entry at a position, if it is there with all its data."""
        head = self._read(position, _ENTRY.size)
        if len(head) < _ENTRY.size or head == bytes(_ENTRY.size):
            return None
        entry: tuple[int, int, int, int] = _ENTRY.unpack(head)
        if entry[1] * _SECTOR > _MAX_WRITE or entry[3] > _MAX_WRITE:
            raise Damaged(f"cannot read {self._path}: a write of {entry[1]} sectors at byte {position}")
        whole = self._after(position, entry) <= os.fstat(self._fd).st_size
        return entry if whole else None

    def _after(self, position: int, entry: tuple[int, int, int, int]) -> int:
        _sector, sectors, flags, length = entry
        data = length if flags & _MARK else 0 if flags & _DISCARD else sectors * _SECTOR
        return position + _SECTOR + -(-data // _SECTOR) * _SECTOR

    def _read(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise device_error("read", self._path, error) from error


__all__ = ["RecordedWrite", "Recording"]
