"""Reading what the doctor looks at: the disk, or a folder.  Takes no lock, writes nothing (G9).

Rules:

* Once, and then nobody reads again: the probes are pure.
* What cannot be read becomes a ``problem`` or ``None``; only a disk that is no disk at all raises.
* Everything read is bounded (G10).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from abboot.core.autoboot import read_as_firmware
from abboot.core.buildinfo import build_date
from abboot.core.partition_table import Partition, PartitionTable, read_partition_table
from abboot.core.tree import cmdline_path, is_reserved
from abboot.core.words import Slot, TableKind
from abboot.doctor.facts import BootPartition, Card, Tree
from abboot.errors import AbbootError, Damaged

if TYPE_CHECKING:
    from abboot.core.protocols import Disk, Volume
    from abboot.manager import BootManager
    from abboot.sources import SourceFile

_T = TypeVar("_T")

_TEXT_BYTES = 256 * 1024  # of config.txt and cmdline.txt
_DTB_BYTES = 1024 * 1024
_BOOTCODE_BYTES = 1024 * 1024
_MAX_DTBS = 64
_MAX_PARTITIONS = 16  # boot partitions that are read
_DTB = re.compile(r"bcm27\d\d[^/]*\.dtb", re.IGNORECASE)


# -- trees ------------------------------------------------------------------------------------------------------------


def read_tree(
    name: str, files: Mapping[str, int], read: Callable[[str, int], bytes], pieces: Callable[[str], Iterable[bytes]]
) -> Tree:
    """The tree ``files``.

    Args:
        name: for sentences.
        files: path to size.
        read: ``read(path, limit)`` gives a whole file.
        pieces: a file's content, piece by piece.
    """
    stored = {path.lower(): path for path in files}

    def text(path: str | None) -> str | None:
        if path is None:
            return None
        found = _try(partial(read, path, _TEXT_BYTES))
        return None if found is None else found.decode("utf-8", "replace")

    config = text(stored.get("config.txt"))
    builds: dict[str, date | None] = {
        wanted: _try(partial(_built, pieces, stored[wanted]))
        for wanted in ("start4.elf", "start.elf")
        if wanted in stored
    }
    blind = []
    for path in sorted(path for path in files if _DTB.fullmatch(path))[:_MAX_DTBS]:
        data = _try(partial(read, path, _DTB_BYTES))
        # A device tree that can get the property has its name in it, as part of the parameter `watchdog` (linux#6961).
        if data is not None and b"early-watchdog" not in data:
            blind.append(path)
    bootcode = stored.get("bootcode.bin")
    data = None if bootcode is None else _try(partial(read, bootcode, _BOOTCODE_BYTES))
    return Tree(
        name=name,
        files=files,
        config=config,
        cmdline=text(cmdline_path(files, config or "")),
        builds=builds,
        blind_device_trees=tuple(blind),
        bootcode=None if data is None else hashlib.sha256(data).hexdigest(),
    )


def _built(pieces: Callable[[str], Iterable[bytes]], path: str) -> date | None:
    return build_date(pieces(path))


def read_folder(path: str) -> Tree:
    """A folder that is to be staged.

    Raises:
        InvalidTree: it is no folder, or holds something that cannot be in a tree.
    """
    from abboot.sources import FolderSource

    files = {file.path: file for file in FolderSource(path).scan() if not is_reserved(file.path)}
    sizes = {name: file.size for name, file in files.items()}
    return read_tree(
        "the tree", sizes, lambda name, limit: _whole(files[name], limit), lambda name: files[name].chunks()
    )


def _whole(file: SourceFile, limit: int) -> bytes:
    if file.size > limit:
        raise Damaged(f"cannot read {file.path}: {file.size} bytes found, at most {limit} are read")
    return b"".join(file.chunks())


def _try(read: Callable[[], _T]) -> _T | None:
    try:
        return read()
    except AbbootError:
        return None


# -- the disk ---------------------------------------------------------------------------------------------------------


def read_card(manager: BootManager) -> Card:
    """The disk of ``manager``.  What is wrong with it is in the result."""
    disk = manager.disk
    try:
        table = read_partition_table(disk.read, disk.size_bytes, disk.block_size_bytes, name=disk.name)
    except AbbootError as error:
        return Card(name=disk.name, problem=error.message)
    card = Card(name=disk.name, table=table, gpt_entries_lba=_gpt_entries(disk, table))
    try:
        observation, situation = manager.look()
    except AbbootError as error:
        numbers = {partition.number: f"partition {partition.number}" for partition in table.partitions}
        return attrs.evolve(card, partitions=_partitions(disk, table, numbers, set()), problem=error.message)
    layout = observation.layout
    slots = {slot: layout.partition(slot).number for slot in Slot}
    names = {layout.selector.number: "the selector", **{number: f"slot {slot}" for slot, number in slots.items()}}
    named = {read_as_firmware(observation.autoboot_raw, tryboot=tryboot).boot_partition for tryboot in (False, True)}
    return attrs.evolve(
        card,
        selector=layout.selector.number,
        slots=slots,
        partitions=_partitions(disk, table, names, named),
        autoboot=observation.autoboot_raw,
        autoboot_problem=observation.autoboot_problem,
        phase=situation.phase,
        reason=situation.reason,
        booted=situation.booted,
        primary=situation.primary,
        inactive=situation.inactive,
    )


def _gpt_entries(disk: Disk, table: PartitionTable) -> int | None:
    """``PartitionEntryLBA`` of the GPT header (UEFI specification, table 5.5)."""
    if table.kind is not TableKind.GPT:
        return None
    header = _try(lambda: disk.read(disk.block_size_bytes, 92))
    return int.from_bytes(header[72:80], "little") if header is not None and header[:8] == b"EFI PART" else None


def _partitions(
    disk: Disk, table: PartitionTable, names: Mapping[int, str], named: set[int]
) -> tuple[BootPartition, ...]:
    wanted = [item for item in table.partitions if item.is_fat or item.number in named or item.number in names]
    wanted.sort(key=lambda item: item.number not in names)  # a table may have 128: ours first
    return tuple(
        _partition(disk, item, names.get(item.number, f"partition {item.number}"))
        for item in wanted[:_MAX_PARTITIONS]
        if not item.is_extended
    )


def _partition(disk: Disk, partition: Partition, name: str) -> BootPartition:
    from abboot.selector import open_for_reading

    found = BootPartition(partition=partition)
    mounts = disk.mounts_of(partition.number)
    if mounts:
        found = attrs.evolve(found, mounted_at=mounts[0].path, writable=any(mount.writable for mount in mounts))
    try:
        with open_for_reading(disk, partition) as volume:
            tree = _tree_of(volume, name)
            return attrs.evolve(found, tree=tree, **_shape(volume, found.mounted_at))
    except AbbootError as error:
        return attrs.evolve(found, exfat=_is_exfat(disk, partition), problem=error.message)


def _tree_of(volume: Volume, name: str) -> Tree:
    files = {file.path: file.size for file in volume.files() if not is_reserved(file.path)}
    return read_tree(name, files, volume.read_file, volume.chunks)


def _shape(volume: Volume, mounted_at: str) -> dict[str, Any]:
    from abboot.fat.read import FatVolume

    if isinstance(volume, FatVolume):
        geometry = volume.geometry
        return {
            "label": geometry.label,
            "fat": geometry.fat_type,
            "dirty": volume.dirty,
            "free_clusters": volume.free_clusters(),
        }
    try:
        return {"free_clusters": os.statvfs(mounted_at).f_bfree}
    except OSError:
        return {}


def _is_exfat(disk: Disk, partition: Partition) -> bool:
    device = None
    try:
        device = disk.open_partition(partition.number, partition.start, partition.size)
        return device.size_bytes >= 512 and device.read(3, 8) == b"EXFAT   "
    except AbbootError:
        return False
    finally:
        if device is not None:
            device.close()
