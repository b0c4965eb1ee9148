"""A recording of what was written to a block device, in the format of the kernel's dm-log-writes.

QEMU's ``blklogwrites`` driver and the ``dm-log-writes`` target write it; this reads it, and decides nothing.  For
whoever replays writes: the crashlab (:mod:`tests.crashlab.recording`), and tests that boot whole systems.

The log is in sectors of the size that its first one states (512 here).  Little-endian:

    super block  u64 magic 0x6a736677736872, u64 version 1, u64 entries, u32 sector size
    entry        u64 sector, u64 sectors, u64 flags, u64 length of a mark's data; one sector, then the sectors written

Flags: 1 flush, 2 FUA, 4 discard (no data follows), 8 mark.

The super block's count is not believed: an emulator that was killed has not brought it up to date.  An entry that is
all zero, or the end of the file, ends the log; so begin with an empty file.

Sources: Linux, drivers/md/dm-log-writes.c and Documentation/admin-guide/device-mapper/log-writes.rst; QEMU,
block/blklogwrites.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, Final

import attrs

MAGIC: Final = 0x6A736677736872
_SUPER: Final = struct.Struct("<QQQI")
_ENTRY: Final = struct.Struct("<QQQQ")
_FLUSH, _FUA, _DISCARD, _MARK = 1, 2, 4, 8


class BadLog(Exception):
    """This is no log, or it breaks off in an entry."""


@attrs.frozen(kw_only=True)
class Entry:
    """What the device was asked for: a write of ``data`` at ``offset`` (bytes), or a flush, or both.

    A flush is over before the write of the same entry.  A discard has no data; its ``length`` says how much.
    """

    offset: int = 0
    data: bytes = b""
    flush: bool = False
    fua: bool = False
    discard: int = 0  # bytes


def read_log(log: BinaryIO) -> Iterator[Entry]:
    """Every entry, in order.

    Raises:
        BadLog: what was read before it is right.
    """
    head = log.read(512)
    if len(head) < 512:
        raise BadLog(f"cannot read the log: it has {len(head)} bytes")
    magic, version, _entries, sector_size = _SUPER.unpack_from(head)
    if magic != MAGIC or version != 1:
        raise BadLog(f"cannot read the log: its magic is {magic:#x} and its version {version}")
    if sector_size not in (512, 4096):
        raise BadLog(f"cannot read the log: its sectors have {sector_size} bytes")
    log.seek(sector_size)
    while len(head := log.read(sector_size)) == sector_size:
        sector, sectors, flags, mark_length = _ENTRY.unpack_from(head)
        if not any((sector, sectors, flags, mark_length)):
            return
        offset, length = sector * sector_size, sectors * sector_size
        if flags & _MARK:
            continue
        if flags & _DISCARD:
            yield Entry(offset=offset, discard=length)
            continue
        data = log.read(length)
        if len(data) < length:
            raise BadLog(f"cannot read the log: it breaks off in a write of {length} bytes at {offset}")
        yield Entry(offset=offset, data=data, flush=bool(flags & _FLUSH), fua=bool(flags & _FUA))
