"""Partition tables as data: MBR (with its logical partitions) and GPT.  No I/O here: bytes come from a callable.

Rules:
- Reading a table is ours, because libparted opens the disk read-write, probes sibling nodes and runs ``dmidecode``.
   Making one is libparted's: :mod:`abboot.disk`.
- Whatever the bytes say, there is an answer or :class:`~abboot.errors.Damaged`: every walk is bounded (G10).
- What does not concern the boot partitions (a broken chain of logical partitions, a damaged GPT copy) is a note, not an
  error.

Sources: UEFI specification 2.10 chapter 5 (GPT); Linux ``block/partitions/msdos.c`` (when a sector is a FAT boot sector
and not an MBR; numbering of logical partitions).
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Callable, Iterable

import attrs

from abboot.core.canonical import one_line
from abboot.core.value import Value
from abboot.core.words import TableKind
from abboot.errors import Damaged

Reader = Callable[[int, int], bytes]
"""``read(offset, length)`` gives exactly ``length`` bytes of the disk."""

SECTOR = 512
MAX_LOGICAL = 64  # logical partitions followed; Linux gives up after 100 links without data
MAX_ENTRY_ARRAY = 1 << 20  # bytes of a GPT entry array; the usual one has 16 KiB

_NAME_LIMIT = 36 * 12  # bytes of JSON that the 36 characters of a GPT partition name can take: none is cut off

_MBR_EXTENDED = frozenset({0x05, 0x0F, 0x85})
_EXTENDED_TYPE_IDS = frozenset(f"{type_id:#04x}" for type_id in _MBR_EXTENDED)
_MBR_PROTECTIVE = 0xEE
_GPT_SIGNATURE = b"EFI PART"
_GPT_UNUSED = bytes(16)
_WHOLE_DISK = "is this the whole disk or card image, and is it partitioned?"
_GPT_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")  # 92 bytes: UEFI specification table 5.5
_GPT_ENTRY = struct.Struct("<16s16sQQQ72s")  # 128 bytes: UEFI specification table 5.6

# What the firmware opens as FAT: by type id and nothing else.  0x0b, 0x0c, 0x0e are seen working; 0xef and the ESP need
# the EEPROM bootloader, not the ROM of a Pi 3 (firmware#1711); the others are FAT ids for which no list is published
# (H-42).
FAT_TYPE_IDS = frozenset(
    {
        "0x01",
        "0x04",
        "0x06",
        "0x0b",
        "0x0c",
        "0x0e",
        "0xef",
        "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7",  # basic data
        "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",  # EFI system partition
    }
)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Partition(Value):
    """One partition, by the firmware's number (from 1).

    ``start`` and ``size`` are bytes; ``type_id`` is ``"0x0c"`` on an MBR, an upper-case GUID on a GPT; ``name`` is the
    GPT partition name as one printable line, empty on an MBR.
    """

    number: int
    start: int
    size: int
    type_id: str
    name: str = ""

    @property
    def end(self) -> int:
        """The first byte behind the partition."""
        return self.start + self.size

    @property
    def is_fat(self) -> bool:
        """Whether the type id promises a FAT volume: the firmware does not look at others (H-42)."""
        return self.type_id in FAT_TYPE_IDS

    @property
    def is_extended(self) -> bool:
        """Whether this is the container of an MBR's logical partitions."""
        return self.type_id in _EXTENDED_TYPE_IDS


@attrs.frozen(kw_only=True, eq=False, repr=False)
class PartitionTable(Value):
    """What a disk's partition table says.

    ``disk_id`` is ``"1234abcd"`` (the MBR signature) or the lower-case disk GUID.  ``partitions`` are ordered by
    number; an extended partition is listed beside the logical ones inside it.  ``notes`` are sentences about
    what is odd but harmless.
    """

    kind: TableKind
    disk_id: str
    partitions: tuple[Partition, ...]
    notes: tuple[str, ...] = ()

    def get(self, number: int) -> Partition | None:
        """The partition with this number, if there is one."""
        return next((partition for partition in self.partitions if partition.number == number), None)


def read_partition_table(read: Reader, size: int, block_size: int = 512, *, name: str = "the disk") -> PartitionTable:
    """Read the partition table of a disk of ``size`` bytes with logical blocks of ``block_size`` bytes.

    A protective entry (0xee) in the MBR means GPT, also beside others (a hybrid MBR).  A GPT whose first header is
    damaged is read from its backup, with a note.

    Args:
        read: gives bytes of the disk; called only for ranges inside ``[0, size)``, for about 1 MiB in all.
        size: of the disk or image, in bytes.
        block_size: the unit of the block numbers in the table, in bytes.
        name: of the disk, for messages.

    Raises:
        Damaged: there is no table, or a partition lies outside the disk (a truncated image), or two overlap.
    """
    if size < 2 * block_size or block_size < SECTOR:
        raise Damaged(f"cannot read the partition table of {name}: it has only {size} bytes", _WHOLE_DISK)
    disk = _Source(read=read, size=size, block_size=block_size, name=name)
    first = read(0, SECTOR)
    if first[510:512] != b"\x55\xaa":
        raise disk.damaged(_describe_tableless(disk, first), _WHOLE_DISK)

    entries = _mbr_entries(first)
    used = [entry for entry in entries if entry.is_used]
    # Boot code of a FAT volume may sit where the entries are; `mkfs.vfat --mbr` writes an entry that starts at 0.
    is_table = all(entry.flag_is_valid for entry in entries) and any(entry.start > 0 for entry in used)
    if not is_table and _looks_like_fat(first):
        raise disk.damaged(
            "a FAT boot sector is where the partition table should be",
            "this is a single volume, not a disk: name the whole disk or card image",
        )
    for entry in entries:
        if not entry.flag_is_valid:
            found = f"no partition table found: entry {entry.number} has the boot flag {entry.flag:#04x}"
            raise disk.damaged(found, _WHOLE_DISK)
    if any(entry.type == _MBR_PROTECTIVE for entry in used):
        return _read_gpt(disk)
    return _read_mbr(disk, first, used)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class _Source(Value):
    read: Reader
    size: int
    block_size: int
    name: str

    def damaged(self, found: str, hint: str = "the table is damaged: copy or build the image again") -> Damaged:
        return Damaged(f"cannot read the partition table of {self.name}: {found}", hint)

    def check(self, partition: Partition, reserved: int) -> None:
        """Refuse a partition outside the disk, or over the table itself (``reserved`` bytes)."""
        if partition.end > self.size:
            raise self.damaged(
                f"partition {partition.number} ends at byte {partition.end}, but there are only {self.size} bytes",
                "the image is truncated: copy or build it again",
            )
        if partition.start < reserved:
            raise self.damaged(f"partition {partition.number} starts at byte {partition.start}, over the table itself")

    def check_overlaps(self, partitions: Iterable[Partition]) -> None:
        ordered = sorted(partitions, key=lambda partition: partition.start)
        for before, after in itertools.pairwise(ordered):
            if after.start < before.end:
                raise self.damaged(
                    f"partitions {before.number} and {after.number} overlap: "
                    f"{before.number} ends at byte {before.end}, {after.number} starts at byte {after.start}"
                )


def _describe_tableless(disk: _Source, first: bytes) -> str:
    if disk.read(disk.block_size, 8) == _GPT_SIGNATURE:
        return "a GPT header without its protective MBR, which no firmware finds"
    if not any(first):
        return "no partition table found: the first block is empty"
    return f"no partition table found: the first block ends in {first[510:512].hex()}, not 55aa"


def _looks_like_fat(sector: bytes) -> bool:
    """Whether a sector with 55AA is a FAT boot sector: the checks of Linux' ``fat_valid_media`` and a jump."""
    sector_size, sectors_per_cluster, reserved, fat_count = struct.unpack_from("<HBHB", sector, 11)
    return (
        sector[0] in (0xEB, 0xE9)
        and sector_size in (512, 1024, 2048, 4096)
        and sectors_per_cluster.bit_count() == 1
        and reserved > 0
        and fat_count in (1, 2)
        and (sector[21] >= 0xF8 or sector[21] == 0xF0)
    )


# -- MBR ---------------------------------------------------------------------------------------------------------------


@attrs.frozen(eq=False, repr=False)
class _MbrEntry(Value):
    number: int
    flag: int
    type: int
    start: int  # blocks
    count: int  # blocks

    @property
    def is_used(self) -> bool:
        return self.type != 0 and self.count != 0

    @property
    def flag_is_valid(self) -> bool:
        return self.flag in (0x00, 0x80)

    def partition(self, number: int, base: int, block_size: int) -> Partition:
        return Partition(
            number=number,
            start=(base + self.start) * block_size,
            size=self.count * block_size,
            type_id=f"{self.type:#04x}",
        )


def _mbr_entries(sector: bytes) -> tuple[_MbrEntry, ...]:
    # Cylinders, heads and sectors (3 bytes each) are skipped: no reader has trusted them for decades.
    rows = (struct.unpack_from("<B3xB3xII", sector, 446 + 16 * index) for index in range(4))
    return tuple(_MbrEntry(index, *row) for index, row in enumerate(rows, start=1))


def _read_mbr(disk: _Source, first: bytes, used: list[_MbrEntry]) -> PartitionTable:
    partitions = [entry.partition(entry.number, 0, disk.block_size) for entry in used]
    if not partitions:
        raise disk.damaged("the table is there, but it lists no partition")
    for partition in partitions:
        disk.check(partition, disk.block_size)
    disk.check_overlaps(partitions)
    notes: list[str] = []
    extended = [entry for entry in used if entry.type in _MBR_EXTENDED]
    if extended:
        container = partitions[used.index(extended[0])]
        partitions += _read_logical(disk, container, notes)
    return PartitionTable(
        kind=TableKind.MBR,
        disk_id=f"{struct.unpack_from('<I', first, 440)[0]:08x}",
        partitions=tuple(partitions),
        notes=tuple(notes),
    )


def _read_logical(disk: _Source, container: Partition, notes: list[str]) -> list[Partition]:
    """Follow the chain of extended boot records.

    The firmware boots none of these (documentation#1659), so a chain that breaks is a note, and what was found before
    the break counts.
    """
    base = container.start // disk.block_size
    found: list[Partition] = []
    seen: set[int] = set()
    link = 0  # blocks from the start of the container
    while len(seen) < MAX_LOGICAL:
        offset = container.start + link * disk.block_size
        if link in seen or offset + disk.block_size > container.end:
            where = "runs in a circle" if link in seen else f"leads outside partition {container.number}"
            notes.append(f"the chain of logical partitions {where}: those behind it are not listed")
            return found
        seen.add(link)
        sector = disk.read(offset, SECTOR)
        if sector[510:512] != b"\x55\xaa":
            notes.append(f"the chain of logical partitions breaks at byte {offset}: those behind it are not listed")
            return found
        used = [entry for entry in _mbr_entries(sector) if entry.is_used]
        for entry in used:
            if entry.type in _MBR_EXTENDED:
                continue
            partition = entry.partition(5 + len(found), base + link, disk.block_size)
            before = found[-1].end if found else container.start
            if partition.start < before or partition.end > container.end:
                notes.append(
                    f"logical partition {partition.number} lies outside partition {container.number} or over another: "
                    "it and those behind it are not listed"
                )
                return found
            found.append(partition)
        links = [entry.start for entry in used if entry.type in _MBR_EXTENDED]
        if not links:
            return found
        link = links[0]
    notes.append(f"more than {MAX_LOGICAL} logical partitions: the others are not listed")
    return found


# -- GPT ---------------------------------------------------------------------------------------------------------------


def _read_gpt(disk: _Source) -> PartitionTable:
    last = disk.size // disk.block_size - 1
    try:
        return _read_gpt_copy(disk, 1)
    except _BadCopy as error:
        primary = error
    try:
        table = _read_gpt_copy(disk, last)
    except _BadCopy as backup:
        raise disk.damaged(
            f"the protective MBR promises a GPT, but the header at block 1 is damaged ({primary}), "
            f"and so is the backup at block {last} ({backup})"
        ) from None
    note = f"the first GPT header is damaged ({primary}): this is the backup's table, which the firmware may not read"
    return attrs.evolve(table, notes=(note, *table.notes))


class _BadCopy(Exception):
    """One of the two copies of a GPT cannot be used; the text says why.  Never leaves this module."""


def _read_gpt_copy(disk: _Source, block: int) -> PartitionTable:
    raw = disk.read(block * disk.block_size, disk.block_size)
    (
        signature,
        _revision,
        header_size,
        header_crc,
        _reserved,
        my_block,
        _alternate,
        _first_usable,
        _last_usable,
        guid,
    ) = _GPT_HEADER.unpack_from(raw)[:10]
    array_block, count, entry_size, array_crc = _GPT_HEADER.unpack_from(raw)[10:]
    if signature != _GPT_SIGNATURE:
        raise _BadCopy("no EFI PART signature")
    if not _GPT_HEADER.size <= header_size <= disk.block_size:
        raise _BadCopy(f"header size {header_size}")
    if zlib.crc32(raw[:16] + bytes(4) + raw[20:header_size]) != header_crc:
        raise _BadCopy("checksum of the header")
    if my_block != block:
        raise _BadCopy(f"it says it is block {my_block}")
    if entry_size < _GPT_ENTRY.size or entry_size % 8 or not 0 < count * entry_size <= MAX_ENTRY_ARRAY:
        raise _BadCopy(f"{count} entries of {entry_size} bytes")
    start = array_block * disk.block_size
    if array_block < 2 or start + count * entry_size > disk.size:
        raise _BadCopy(f"its entries are at block {array_block}, outside the disk")
    array = disk.read(start, count * entry_size)
    if zlib.crc32(array) != array_crc:
        raise _BadCopy("checksum of the entries")

    partitions = []
    for number, offset in enumerate(range(0, len(array), entry_size), start=1):
        type_guid, _guid, first, last, _attributes, label = _GPT_ENTRY.unpack_from(array, offset)
        if type_guid == _GPT_UNUSED:
            continue
        if last < first:
            raise disk.damaged(f"partition {number} ends at block {last}, before it starts at block {first}")
        partitions.append(
            Partition(
                number=number,
                start=first * disk.block_size,
                size=(last - first + 1) * disk.block_size,
                type_id=format_guid(type_guid).upper(),
                name=one_line(label.decode("utf-16-le", "replace").split("\0", 1)[0], _NAME_LIMIT),
            )
        )
    if not partitions:
        raise disk.damaged("the table is there, but it lists no partition")
    for partition in partitions:
        disk.check(partition, 2 * disk.block_size)
    disk.check_overlaps(partitions)
    notes = []
    if block == 1 and array_block != 2:
        # rpi-eeprom#585: Windows moves the array; bootloaders before 2024-10-10 look for it at block 2 only.
        notes.append(
            f"the GPT entries are at block {array_block}, not 2: bootloaders before 2024-10-10 miss them (H-41)"
        )
    return PartitionTable(
        kind=TableKind.GPT, disk_id=format_guid(guid), partitions=tuple(partitions), notes=tuple(notes)
    )


def format_guid(raw: bytes) -> str:
    """The lower-case text of 16 GUID bytes as GPT stores them (the first three fields little-endian)."""
    first, second, third = struct.unpack_from("<IHH", raw)
    return f"{first:08x}-{second:04x}-{third:04x}-{raw[8:10].hex()}-{raw[10:16].hex()}"
