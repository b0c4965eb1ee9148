"""Partition tables of image files, made and cross-checked with libparted.

Rules:
- The only module that imports pyparted, and only inside functions: it is the extra ``abboot[image]``
  (GPL-2.0-or-later), and a device that runs ``abboot status`` needs none of it.  Reading a table is
  :mod:`abboot.core.partition_table`.
- Image files only.  libparted opens read-write, tries every ``<path>N`` sibling node and runs ``udevadm``: nothing to
  do to a device.
- The same request gives the same bytes.  libparted 3.5 draws the ids of disk and partitions at random and cannot set
  them, so they are written over afterwards: 4 bytes at offset 440 of an MBR, GUIDs and checksums in both copies of a
  GPT.
- libparted makes, our reader judges: what was asked for and what is read back must be equal.
"""

from __future__ import annotations

import os
import re
import struct
import uuid
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from abboot.core.partition_table import Partition, PartitionTable, read_partition_table
from abboot.core.words import FatType, TableKind
from abboot.errors import AbbootError, Damaged, DeviceError

if TYPE_CHECKING:
    from collections.abc import Iterator

SECTOR = 512
ALIGNMENT = 4 << 20  # SD cards erase in units of up to 4 MiB; the boot partitions of Raspberry Pi OS start there too
_GPT_TAIL = 1 << 20  # room behind the last partition for the backup GPT: 33 sectors, rounded up

_BASIC_DATA = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
_LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"

# 0x0c and 0x0e are the LBA variants.  FAT12 has none of its own; the firmware goes by the number of clusters anyway.
_TYPE_IDS: dict[TableKind, dict[FatType | None, str]] = {
    TableKind.MBR: {FatType.FAT12: "0x0e", FatType.FAT16: "0x0e", FatType.FAT32: "0x0c", None: "0x83"},
    TableKind.GPT: {FatType.FAT12: _BASIC_DATA, FatType.FAT16: _BASIC_DATA, FatType.FAT32: _BASIC_DATA, None: _LINUX},
}
# libparted 3.5 cannot be given a type id: it takes it from a file system type and the LBA flag.
_LIBPARTED_FORMATS = {"0x0e": "fat16", "0x0c": "fat32", "0x83": "ext4", _BASIC_DATA: "fat32", _LINUX: "ext4"}
_LIBPARTED_TABLES = {TableKind.MBR: "msdos", TableKind.GPT: "gpt"}
_EXTENDED = "0x0f"

_DISK_ID = {
    TableKind.MBR: (re.compile(r"(?!0{8})[0-9a-f]{8}"), "eight hexadecimal digits, not all zero"),
    TableKind.GPT: (re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}"), "a GUID"),
}


@attrs.frozen(kw_only=True)
class PartitionRequest:
    """One partition to make: ``size`` in bytes, what it will hold (``None``: a Linux file system), and its GPT name."""

    size: int = attrs.field()
    fat: FatType | None
    name: str = ""

    @size.validator
    def _check_size(self, _attribute: object, size: int) -> None:
        if size <= 0 or size % SECTOR:
            raise ValueError(f"a partition cannot have {size} bytes: a positive multiple of {SECTOR} is needed")


@attrs.frozen(kw_only=True)
class TableRequest:
    """A whole partition table, in disk order.  ``disk_id`` is ``"1234abcd"`` (MBR) or a GUID (GPT), in lower case."""

    kind: TableKind
    disk_id: str
    partitions: tuple[PartitionRequest, ...]

    def __attrs_post_init__(self) -> None:
        check_disk_id(self.kind, self.disk_id)

    def plan(self) -> PartitionTable:
        """The table as it will be: every partition starts at a multiple of 4 MiB.

        On an MBR with more than four partitions the fourth is an extended one that holds the rest from number 5, which
        the firmware does not boot (documentation#1659): boot partitions come first.
        """
        is_mbr = self.kind is TableKind.MBR
        primaries = 3 if is_mbr and len(self.partitions) > 4 else len(self.partitions)
        planned: list[Partition] = []
        end = 0
        for index, request in enumerate(self.partitions):
            number = index + 1
            start = _align(max(end, 1))
            if index >= primaries:
                number = index + 2
                start = _align(end + 1) if index > primaries else start + ALIGNMENT  # its boot record sits before it
            end = start + request.size
            planned.append(
                Partition(
                    number=number,
                    start=start,
                    size=request.size,
                    type_id=_TYPE_IDS[self.kind][request.fat],
                    name="" if is_mbr else request.name,
                )
            )
        if primaries < len(planned):
            start = planned[primaries].start - ALIGNMENT
            planned.insert(primaries, Partition(number=4, start=start, size=end - start, type_id=_EXTENDED))
        return PartitionTable(kind=self.kind, disk_id=self.disk_id, partitions=tuple(planned))

    @property
    def image_size(self) -> int:
        """Bytes that an image needs to hold this table: nothing is behind the last partition but a GPT's backup."""
        end = max(partition.end for partition in self.plan().partitions)
        return end if self.kind is TableKind.MBR else end + _GPT_TAIL


def check_disk_id(kind: TableKind, disk_id: str) -> None:
    """Raises :class:`ValueError` if this cannot be the id of a disk with such a table."""
    pattern, wanted = _DISK_ID[kind]
    if not pattern.fullmatch(disk_id):
        raise ValueError(f"{disk_id!r} is not the id of a disk with {kind.upper()}: {wanted}")


def create_partition_table(path: str | os.PathLike[str], request: TableRequest) -> PartitionTable:
    """Write a new partition table to an image file of at least ``request.image_size`` bytes.

    What was in the partitions stays; the old table is gone, also when this fails.

    Returns:
        The table as read back, equal to ``request.plan()``.

    Raises:
        AbbootError: pyparted is missing, or libparted cannot make such a table.
        DeviceError: the file cannot be written.
        Damaged: what was read back is not what was asked for.
    """
    name = os.path.basename(os.fspath(path))
    planned = request.plan()
    with _libparted("create", path, AbbootError) as (parted, device):
        disk = parted.freshDisk(device, _LIBPARTED_TABLES[request.kind])
        for partition in planned.partitions:
            geometry = parted.Geometry(device=device, start=partition.start // SECTOR, length=partition.size // SECTOR)
            made = _make_partition(parted, disk, partition, geometry)
            disk.addPartition(partition=made, constraint=parted.Constraint(exactGeom=geometry))
        disk.commitToDevice()
    with _open(path) as descriptor:
        _set_ids[request.kind](descriptor, request.disk_id)
        os.fsync(descriptor)
        found = _read(descriptor, name)
    if found != planned:
        raise Damaged(f"cannot create the partition table of {name}: {found} was read back, not {planned}")
    return found


def check_partition_table(path: str | os.PathLike[str]) -> PartitionTable:
    """Read the table of an image file twice, with our reader and with libparted, and compare.

    Nothing is written, but libparted opens the file read-write: not for devices.

    Raises:
        Damaged: there is no table, libparted does not accept it, or the two see different partitions.
        AbbootError: pyparted is missing.
    """
    name = os.path.basename(os.fspath(path))
    with _open(path, os.O_RDONLY) as descriptor:
        ours = _read(descriptor, name)
    with _libparted("check", path, Damaged) as (parted, device):
        disk = parted.newDisk(device)
        kind = disk.type
        theirs = {
            partition.number: (partition.geometry.start * SECTOR, partition.geometry.length * SECTOR)
            for partition in disk.partitions
        }
    expected = {partition.number: (partition.start, partition.size) for partition in ours.partitions}
    if kind != _LIBPARTED_TABLES[ours.kind] or theirs != expected:
        raise Damaged(
            f"cannot check the partition table of {name}: we see {ours.kind} with {expected}, "
            f"libparted {kind} with {theirs}"
        )
    return ours


def _make_partition(parted: Any, disk: Any, partition: Partition, geometry: Any) -> Any:
    if partition.type_id == _EXTENDED:
        made = parted.Partition(disk=disk, type=parted.PARTITION_EXTENDED, geometry=geometry)
    else:
        kind = parted.PARTITION_LOGICAL if disk.type == "msdos" and partition.number > 4 else parted.PARTITION_NORMAL
        fs = parted.FileSystem(type=_LIBPARTED_FORMATS[partition.type_id], geometry=geometry)
        made = parted.Partition(disk=disk, type=kind, fs=fs, geometry=geometry)
    if partition.type_id in ("0x0c", "0x0e", _EXTENDED):
        made.setFlag(parted.PARTITION_LBA)
    if partition.name:
        made.set_name(partition.name)
    return made


# -- ids ---------------------------------------------------------------------------------------------------------------


def _set_mbr_id(descriptor: int, disk_id: str) -> None:
    os.pwrite(descriptor, struct.pack("<I", int(disk_id, 16)), 440)


def _set_gpt_ids(descriptor: int, disk_id: str) -> None:
    """Give the disk this GUID, and every partition one that follows from it (UEFI specification 2.10, 5.3.2, 5.3.3)."""
    guid = uuid.UUID(disk_id)
    last = os.fstat(descriptor).st_size // SECTOR - 1
    for block in (1, last):
        header = bytearray(os.pread(descriptor, SECTOR, block * SECTOR))
        array_block, count, entry_size = struct.unpack_from("<QII", header, 72)
        array = bytearray(os.pread(descriptor, count * entry_size, array_block * SECTOR))
        for number, offset in enumerate(range(0, len(array), entry_size), start=1):
            if any(array[offset : offset + 16]):
                array[offset + 16 : offset + 32] = uuid.uuid5(guid, f"partition {number}").bytes_le
        header[56:72] = guid.bytes_le
        header[88:92] = struct.pack("<I", zlib.crc32(array))
        header[16:20] = bytes(4)
        header[16:20] = struct.pack("<I", zlib.crc32(header[: struct.unpack_from("<I", header, 12)[0]]))
        os.pwrite(descriptor, array, array_block * SECTOR)
        os.pwrite(descriptor, header, block * SECTOR)


_set_ids = {TableKind.MBR: _set_mbr_id, TableKind.GPT: _set_gpt_ids}


# -- the file and libparted --------------------------------------------------------------------------------------------


def _align(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _read(descriptor: int, name: str) -> PartitionTable:
    return read_partition_table(
        lambda offset, length: os.pread(descriptor, length, offset), os.fstat(descriptor).st_size, name=name
    )


@contextmanager
def _open(path: str | os.PathLike[str], flags: int = os.O_RDWR) -> Iterator[int]:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DeviceError(f"cannot open {os.fspath(path)}: {error.strerror}") from error


@contextmanager
def _libparted(verb: str, path: str | os.PathLike[str], failure: type[AbbootError]) -> Iterator[tuple[Any, Any]]:
    """libparted's device for an image file; its errors are ours, and its cache forgets the file afterwards."""
    try:
        import _ped
        import parted
    except ImportError as error:
        raise AbbootError(
            f"cannot {verb} the partition table of {os.fspath(path)}: pyparted is not installed",
            "pip install 'abboot[image]' (needs gcc, pkg-config and libparted-dev), or apt install python3-parted",
        ) from error
    problems = (
        _ped.PartedException,
        _ped.DeviceException,
        _ped.DiskException,
        _ped.IOException,
        _ped.PartitionException,
        _ped.GeometryException,
        _ped.CreateException,
        _ped.ConstraintException,
    )
    name = os.path.basename(os.fspath(path))
    device = None
    try:
        device = parted.getDevice(os.path.abspath(path))
        yield parted, device
    except problems as error:
        raise failure(f"cannot {verb} the partition table of {name}: libparted says: {_one_line(error)}") from error
    finally:
        if device is not None:
            device.removeFromCache()  # else a file that grew keeps its old length


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
