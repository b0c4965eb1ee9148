"""Disks and partitions as the kernel sees them, from ``/sys/class/block``.

Rules: nothing is opened but files of sysfs; a name that the kernel would not give is ignored.
Source: Linux Documentation/ABI/stable/sysfs-block (``partition``, ``start``, ``size``: sectors of 512 bytes whatever
the disk has; ``queue/logical_block_size``).
"""

from __future__ import annotations

import os

import attrs

from abboot.core.value import Value
from abboot.linux.sysroot import read_number, read_word, under

_SYSFS_SECTOR_BYTES = 512
_MAX_DISKS = 4096


@attrs.frozen(kw_only=True, eq=False, repr=False)
class SysPartition(Value):
    """One partition that the kernel knows.  Fields are ``None`` where sysfs does not say."""

    disk: str  # "mmcblk0"
    name: str  # "mmcblk0p2"
    number: int
    device: str | None  # "179:2"
    start_bytes: int | None
    size_bytes: int | None

    def is_at(self, start: int, size: int) -> bool:
        """Whether it is the partition ``[start, start + size)`` of the disk, as far as sysfs says."""
        return self.start_bytes in (None, start) and self.size_bytes in (None, size)


def disk_names(sysroot: str) -> tuple[str, ...]:
    """The names of all whole disks, sorted."""
    base = under(sysroot, "sys/class/block")
    names = _entries(base)
    return tuple(name for name in names if not os.path.exists(os.path.join(base, name, "partition")))


def partitions_of(disk: str, sysroot: str) -> tuple[SysPartition, ...]:
    """The partitions of ``disk`` that the kernel knows, by number."""
    base = under(sysroot, f"sys/class/block/{disk}")
    found = []
    for name in _entries(base):
        number = read_number(os.path.join(base, name, "partition"))
        if number is None:
            continue
        start = read_number(os.path.join(base, name, "start"))
        size = read_number(os.path.join(base, name, "size"))
        found.append(
            SysPartition(
                disk=disk,
                name=name,
                number=number,
                device=read_word(os.path.join(base, name, "dev")),
                start_bytes=None if start is None else start * _SYSFS_SECTOR_BYTES,
                size_bytes=None if size is None else size * _SYSFS_SECTOR_BYTES,
            )
        )
    return tuple(sorted(found, key=lambda partition: partition.number))


def find_partition(disk: str, number: int, sysroot: str) -> SysPartition | None:
    """Partition ``number`` of ``disk``; ``None`` if the kernel knows none."""
    return next((item for item in partitions_of(disk, sysroot) if item.number == number), None)


def partition_name(disk: str, number: int) -> str:
    """The kernel's name of a partition: a ``p`` between two digits (``mmcblk0p2``, ``nvme0n1p2``, but ``sda2``)."""
    return f"{disk}p{number}" if disk[-1:].isdigit() else f"{disk}{number}"


def logical_block_size(disk: str, sysroot: str) -> int | None:
    """Bytes; ``None`` if sysfs does not say, or says what no disk has."""
    size = read_number(under(sysroot, f"sys/class/block/{disk}/queue/logical_block_size"))
    return size if size is not None and 512 <= size <= 65536 and size & (size - 1) == 0 else None


def _entries(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))[:_MAX_DISKS]
    except OSError:
        return []
