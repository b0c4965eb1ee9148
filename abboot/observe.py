"""Reading a disk and a board into an :class:`~abboot.core.states.Observation`.  Takes no lock, writes nothing (G9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from abboot.core import record as records
from abboot.core.journal import Entry
from abboot.core.layout import Configured, Layout, discover, find_selector, label_slot
from abboot.core.partition_table import Partition, PartitionTable, read_partition_table
from abboot.core.protocols import BootReport, Disk, Machine, Mount, Volume
from abboot.core.states import Observation, SlotReading
from abboot.core.words import Slot, SlotState
from abboot.errors import AbbootError, Damaged, DeviceError
from abboot.selector import SelectorReading, open_for_reading, read_selector, with_scanned_journal

_CMDLINE_LIMIT = 64 * 1024  # bytes; the kernel takes 2048 (COMMAND_LINE_SIZE, arch/arm64)

#: States in which the files of a slot may be whole, so that only its boot sector can be missing.
_WHOLE = frozenset({SlotState.GOOD, SlotState.STAGED, SlotState.FAILED, SlotState.UNKNOWN})


def observe(disk: Disk, machine: Machine | None, *, configured: Configured | None = None) -> Observation:
    """Read everything that :func:`abboot.core.states.classify` wants to know.

    Args:
        disk: the image or block device.
        machine: the board that booted from this disk; ``None`` for an image, or a disk that another system booted:
            then this kernel's device tree is never looked at.
        configured: partition numbers from the configuration.

    Raises:
        Damaged: the disk has no partition table that can be read.
        AbbootError: selector or slots cannot be told from it; the candidates are listed.
    """
    table = read_partition_table(disk.read, disk.size_bytes, disk.block_size_bytes, name=disk.name)
    selector_partition = find_selector(table, configured=configured, name=disk.name)
    selector = _read_selector(disk, selector_partition)
    named = selector.autoboot
    layout = discover(
        table,
        journal_slots=_journal_slots(selector.journal.newest),
        configured=configured,
        autoboot=() if named is None else (named.primary, named.trial),
        label_of=lambda partition: _label(disk, partition),
        name=disk.name,
    )
    problem = selector.autoboot_problem
    autoboot = selector.autoboot
    if autoboot is not None:
        wrong = _names_no_slot(layout, table, autoboot.primary, autoboot.trial)
        if wrong:
            autoboot, problem = None, wrong
    newest = selector.journal.newest
    flag, flag_problem = _flag(machine)
    report = machine.boot_report() if machine else None
    if report is not None and report.partition == 0:
        layout, report = _resolved(disk, layout, report)
    return Observation(
        layout=layout,
        booted_here=machine is not None,
        report=report,
        boot_id=machine.boot_id() if machine else None,
        flag=flag,
        flag_problem=flag_problem,
        pending_argument=machine.rebooter.pending_argument() if machine else None,
        autoboot_raw=selector.raw,
        autoboot=autoboot,
        autoboot_problem=problem,
        journal=selector.journal,
        journal_problem=selector.journal_problem,
        slots={slot: _read_slot(disk, layout.partition(slot), newest, slot) for slot in Slot},
    )


def _flag(machine: Machine | None) -> tuple[bool | None, str]:
    """The flag, or why it cannot be read.  What can be done without it goes on: a trial ends, and is noted."""
    if machine is None:
        return None, ""
    try:
        return machine.mailbox.tryboot_flag(), ""
    except DeviceError as error:
        return None, error.message


def _label(disk: Disk, partition: Partition) -> str:
    """The GPT name, or the volume label.  Of a mounted one too: whoever formatted it wrote that sector, no mount."""
    from abboot.fat.geometry import Geometry

    if label_slot(partition.name) is not None:
        return partition.name
    device = disk.open_partition(partition.number, partition.start, partition.size)
    try:
        return Geometry.parse(device.read(0, device.block_size_bytes), device.size_bytes).label
    except Damaged:
        return partition.name
    finally:
        device.close()


def _resolved(disk: Disk, layout: Layout, report: BootReport) -> tuple[Layout, BootReport]:
    """H-07: the slot that booted where an old firmware reports partition 0, if two witnesses agree on it.

    One is the command line that the firmware handed over: what only one slot's ``cmdline.txt`` says is in it.  The
    other is the slot that is mounted as the boot partition.  Each alone may be wrong: the file may have been edited
    since, and ``/etc/fstab`` may name the same partition whatever booted.
    """
    from abboot.core.cmdline import booted_cmdline

    mounted = [slot for slot in Slot if _is_boot_mount(disk.mounts_of(layout.partition(slot).number))]
    texts = {slot: _cmdline(disk, layout.partition(slot)) for slot in Slot}
    slot = booted_cmdline(report.bootargs or "", texts)
    if slot is None or mounted != [slot]:
        return layout, report
    number = layout.partition(slot).number
    note = (
        f"the firmware reports partition 0 (H-07); its command line and the mounted boot partition say {number}; "
        "update the bootloader: sudo rpi-eeprom-update -a"
    )
    return attrs.evolve(layout, notes=(*layout.notes, note)), attrs.evolve(report, partition=number)


def _is_boot_mount(mounts: tuple[Mount, ...]) -> bool:
    return any(mount.whole and mount.path.endswith(("/boot/firmware", "/boot")) for mount in mounts)


def _cmdline(disk: Disk, partition: Partition) -> str:
    from abboot.core.cmdline import CMDLINE_PATH

    try:
        with open_for_reading(disk, partition) as volume:
            return volume.read_file(CMDLINE_PATH, _CMDLINE_LIMIT).decode("utf-8", "replace")
    except AbbootError:
        return ""


def _names_no_slot(layout: Layout, table: PartitionTable, *numbers: int | None) -> str:
    for number in numbers:
        if number is not None and layout.slot_of(number) is None:
            what = "which is no slot" if table.get(number) else "which does not exist"
            slots = f"{layout.a.number} and {layout.b.number}"
            return f"it names partition {number}, {what} (the slots are {slots})"
    return ""


def _journal_slots(newest: Entry | None) -> tuple[int, int] | None:
    return (newest.slots[Slot.A].partition, newest.slots[Slot.B].partition) if newest else None


def _read_selector(disk: Disk, partition: Partition) -> SelectorReading:
    name = f"{disk.name} partition {partition.number}"
    try:
        with open_for_reading(disk, partition) as volume:
            found = read_selector(volume, name)
    except Damaged as error:
        found = SelectorReading(autoboot_problem=error.message, journal_problem=error.message)
    if found.journal.newer or found.journal.entries or disk.mounts_of(partition.number):
        return found
    device = disk.open_partition(partition.number, partition.start, partition.size)
    try:
        return with_scanned_journal(found, device)
    finally:
        device.close()


def _read_slot(disk: Disk, partition: Partition, newest: Entry | None, slot: Slot) -> SlotReading:
    reading = SlotReading(partition=partition.number, readable=False)
    try:
        with open_for_reading(disk, partition) as volume:
            return attrs.evolve(_read_record(volume, reading), readable=True, **_shape(volume))
    except Damaged as error:
        problem = error.message
    known = newest.slots[slot] if newest else None
    if known is None or known.state not in _WHOLE or known.geometry is None:
        # Nothing there, or a stage that was cut: the state says so, a problem would only repeat it.
        expected = known is not None and known.state in (SlotState.INCOMPLETE, SlotState.EMPTY)
        return reading if expected or _is_blank(disk, partition) else attrs.evolve(reading, problem=problem)
    return _read_hidden(disk, partition, known.geometry, reading)


def _read_hidden(disk: Disk, partition: Partition, geometry: Mapping[str, Any], reading: SlotReading) -> SlotReading:
    """A whole slot whose boot sector is away: a cut fell into the moment in which arming hides it."""
    from abboot.fat.geometry import Geometry
    from abboot.fat.read import FatVolume

    device = disk.open_partition(partition.number, partition.start, partition.size)
    try:
        volume = FatVolume(device, boot_sector=Geometry.from_json(geometry).boot_sector())
        return attrs.evolve(_read_record(volume, reading), hidden=True, geometry=dict(geometry))
    except Damaged as error:
        return attrs.evolve(reading, problem=error.message)
    finally:
        device.close()


def _read_record(volume: Volume, reading: SlotReading) -> SlotReading:
    try:
        if volume.find(records.RECORD_PATH) is None:
            return reading
        data = volume.read_file(records.RECORD_PATH, records.RECORD_MAX_SIZE)
    except AbbootError as error:
        return attrs.evolve(reading, problem=error.message)
    digest = records.record_digest(data)
    try:
        return attrs.evolve(reading, record=records.parse_record(data), record_digest=digest)
    except Damaged as error:
        return attrs.evolve(reading, record_digest=digest, problem=error.message)


def _shape(volume: Volume) -> dict[str, Any]:
    """Volume id, label and geometry, where the volume is read raw: they have to outlive a zeroed boot sector."""
    geometry = getattr(volume, "geometry", None)
    if geometry is None:
        return {}
    return {"volume_id": geometry.volume_id, "label": geometry.label, "geometry": geometry.to_json()}


def _is_blank(disk: Disk, partition: Partition) -> bool:
    device = disk.open_partition(partition.number, partition.start, partition.size)
    try:
        return not any(device.read(0, min(512, device.size_bytes)))
    finally:
        device.close()
