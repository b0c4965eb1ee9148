"""Look into an image or a disk: partitions, volumes, slots, selector.  Read-only, takes no lock (G9).

Odd content is told, never raised: only a disk that cannot be opened, or has no partition table, is an error.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import attrs

from abboot.core.layout import Layout
from abboot.core.partition_table import Partition, read_partition_table
from abboot.core.protocols import Disk
from abboot.core.record import Record
from abboot.core.states import Observation
from abboot.core.words import FatType, Slot, SlotState, TableKind, Transition
from abboot.errors import AbbootError
from abboot.fat.read import FatVolume
from abboot.linux.blockdevice import open_disk
from abboot.observe import observe
from abboot.selector import open_for_reading


@attrs.frozen(kw_only=True)
class InspectedPartition:
    """One partition; sizes in bytes.

    The FAT fields are ``None`` where there is no FAT volume to read (``problem`` says why), or where it is mounted.
    """

    number: int
    type_id: str
    name: str
    start: int
    size: int
    role: str  # "selector", "slot a", "slot b" or ""
    fat_type: FatType | None = None
    label: str | None = None
    volume_id: int | None = None
    free_bytes: int | None = None
    problem: str = ""


@attrs.frozen(kw_only=True)
class InspectedSlot:
    """What a slot says of itself, and ``state`` as the journal has it."""

    partition: int
    label: str | None
    state: SlotState | None
    record: Record | None
    record_digest: str | None
    problem: str


@attrs.frozen(kw_only=True)
class InspectedJournal:
    """The journal in short."""

    entries: int
    torn: int
    newest: Transition | None
    newest_sequence: int | None
    problem: str


@attrs.frozen(kw_only=True)
class Inspection:
    """Everything that can be seen.

    ``slots`` is empty, and ``primary``, ``autoboot`` and ``journal`` are ``None``, where selector and slots cannot be
    told: ``notes`` says why.  ``autoboot`` is the text as it is, whether or not it can be read; ``autoboot_problem`` is
    empty where it can.
    """

    path: str
    size_bytes: int
    table: TableKind
    disk_id: str
    partitions: tuple[InspectedPartition, ...]
    primary: Slot | None
    slots: Mapping[Slot, InspectedSlot]
    autoboot: str | None
    autoboot_problem: str
    journal: InspectedJournal | None
    notes: tuple[str, ...]


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Look into a disk or image.

    Raises:
        Damaged: it has no partition table that can be read.
        DeviceError: it cannot be opened.
    """
    disk = open_disk(os.fspath(path))
    try:
        return _inspect(disk, os.fspath(path))
    finally:
        disk.close()


def _inspect(disk: Disk, path: str) -> Inspection:
    table = read_partition_table(disk.read, disk.size_bytes, disk.block_size_bytes, name=disk.name)
    notes = list(table.notes)
    seen: Observation | None = None
    try:
        seen = observe(disk, None)
        notes += seen.layout.notes
    except AbbootError as error:
        notes.append(error.message)
    partitions = tuple(_partition(disk, partition, seen.layout if seen else None) for partition in table.partitions)
    labels = {partition.number: partition.label for partition in partitions}
    newest = seen.journal.newest if seen else None
    primary = newest.primary if newest else None
    if seen and seen.autoboot:  # a file that can be read wins over the journal
        primary = seen.layout.slot_of(seen.autoboot.primary)
    return Inspection(
        path=path,
        size_bytes=disk.size_bytes,
        table=table.kind,
        disk_id=table.disk_id,
        partitions=partitions,
        primary=primary,
        slots={
            slot: InspectedSlot(
                partition=reading.partition,
                label=labels[reading.partition],
                state=newest.slots[slot].state if newest else None,
                record=reading.record,
                record_digest=reading.record_digest,
                problem=reading.problem,
            )
            for slot, reading in (seen.slots.items() if seen else ())
        },
        autoboot=seen.autoboot_raw.decode("ascii", "backslashreplace") if seen and seen.autoboot_raw else None,
        autoboot_problem=seen.autoboot_problem if seen else "",
        journal=_journal(seen) if seen else None,
        notes=tuple(notes),
    )


def _journal(seen: Observation) -> InspectedJournal:
    newest = seen.journal.newest
    return InspectedJournal(
        entries=len(seen.journal.entries),
        torn=seen.journal.torn,
        newest=newest.transition if newest else None,
        newest_sequence=newest.sequence if newest else None,
        problem=seen.journal_problem,
    )


def _partition(disk: Disk, partition: Partition, layout: Layout | None) -> InspectedPartition:
    row = InspectedPartition(
        number=partition.number,
        type_id=partition.type_id,
        name=partition.name,
        start=partition.start,
        size=partition.size,
        role=_role(layout, partition.number),
    )
    if not partition.is_fat:
        return row
    try:
        with open_for_reading(disk, partition) as volume:
            if not isinstance(volume, FatVolume):
                return row  # mounted: its shape cannot be seen from there, and nobody reads behind a mount (G9)
            shape = volume.geometry
            row = attrs.evolve(row, fat_type=shape.fat_type, label=shape.label, volume_id=shape.volume_id)
            return attrs.evolve(row, free_bytes=volume.free_clusters() * shape.cluster_size)
    except AbbootError as error:
        return attrs.evolve(row, problem=error.message)


def _role(layout: Layout | None, number: int) -> str:
    if layout is None:
        return ""
    if number == layout.selector.number:
        return "selector"
    slot = layout.slot_of(number)
    return f"slot {slot}" if slot else ""
