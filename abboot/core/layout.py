"""Which partition is what: the selector and the two slots.  No I/O here.

Rules, in this order:
- The selector is the configured partition, or else the FAT-typed one with the lowest number: the firmware opens
  it first.
- The slots are what the configuration says, else what the journal says, else the only two other FAT-typed partitions.
- Where there are more of those: the two that ``autoboot.txt`` names, or the two whose labels say so (``boot_a`` and
  ``boot_b``), and what the one says must not contradict the other.  Anything else is refused, with the candidates.
- Labels tell partitions of one disk apart, never one disk from another: a second one may carry the same (H-53).
- A configuration that cannot be right is an error; a journal that cannot be right is ignored with a note, since the
  table changed after it was written and the firmware goes by the table.
- Slot ``a`` has the lower number.

Source: documentation ``computers/config_txt/autoboot.adoc`` (boot_partition of an MBR is 1 to 4); documentation#1659
(logical partitions do not boot).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import attrs

from abboot.core.value import Value
from abboot.core.words import Slot, TableKind
from abboot.errors import AbbootError

if TYPE_CHECKING:
    from abboot.core.partition_table import Partition, PartitionTable

# 62: the reboot register of the chip has six bits for the partition, and 63 means "halt" (bcm2835_wdt.c).
LAST_BOOTABLE = {TableKind.MBR: 4, TableKind.GPT: 62}

# What images call their slots: rpi-image-gen, RAUC's and Mender's examples, HAOS, and people.
_SLOT_LABEL = re.compile(r"(?:boot|bootfs|bootslot|firmware|fw)[ _.-]?([ab])")

_HINT = "name them in the configuration: [disk] slot_a = ..., slot_b = ..."


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Configured(Value):
    """Partition numbers that a configuration names; ``None`` where it says nothing."""

    selector: int | None = None
    slot_a: int | None = None
    slot_b: int | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Layout(Value):
    """Selector and slots of a disk; ``notes`` are sentences about what was ignored to find them."""

    table: PartitionTable
    selector: Partition
    a: Partition
    b: Partition
    notes: tuple[str, ...] = ()

    def partition(self, slot: Slot) -> Partition:
        """The partition of a slot."""
        return {Slot.A: self.a, Slot.B: self.b}[slot]

    def slot_of(self, number: int | None) -> Slot | None:
        """The slot that lives on this partition number, if one does."""
        return next((slot for slot in Slot if self.partition(slot).number == number), None)


def volume_id(disk_id: str, number: int) -> int:
    """Of a FAT volume that abboot formats: different for each partition of each disk, the same when built again."""
    return int.from_bytes(hashlib.sha256(f"{disk_id}/{number}".encode()).digest()[:4], "little")


def discover(
    table: PartitionTable,
    *,
    journal_slots: tuple[int, int] | None = None,
    configured: Configured | None = None,
    autoboot: Iterable[int | None] = (),
    label_of: Callable[[Partition], str] = lambda partition: partition.name,
    name: str = "the disk",
) -> Layout:
    """Find selector and slots.

    Args:
        table: of the disk.
        journal_slots: the partition numbers of ``a`` and ``b`` that the journal on the selector names.
        configured: what a configuration names; it wins over the journal.
        autoboot: the partition numbers that ``autoboot.txt`` names, if it can be read.
        label_of: what a partition is called, by its GPT name or its volume label; asked where nothing else tells.
        name: of the disk, for messages.

    Raises:
        AbbootError: there is no selector, the slots cannot be told, or the configuration names impossible ones.
    """
    configured = configured or Configured()
    selector = _selector(table, configured, name)
    notes: tuple[str, ...] = ()
    others = [partition for partition in _bootable(table) if partition.number != selector.number]

    if configured.slot_a is not None or configured.slot_b is not None:
        if configured.slot_a is None or configured.slot_b is None:
            raise AbbootError(
                f"cannot find the slots on {name}: the configuration names only one of slot_a and slot_b", _HINT
            )
        numbers = (configured.slot_a, configured.slot_b)
        problem = _impossible(table, selector, numbers)
        if problem:
            raise AbbootError(f"cannot use the configured slots on {name}: {problem}", _HINT)
    else:
        if journal_slots is not None:
            problem = _impossible(table, selector, journal_slots)
            if problem:
                notes = (f"the slots that the journal names are ignored: {problem}",)
                journal_slots = None
        if journal_slots is not None:
            numbers = journal_slots
        elif len(others) == 2:
            numbers = (others[0].number, others[1].number)
        elif len(others) > 2:
            numbers = _told(table, selector, others, {number for number in autoboot if number}, label_of, name)
        else:
            raise AbbootError(
                f"cannot find the slots on {name}: {_count(table, selector, others)}", _count_hint(others)
            )
    by_number = {partition.number: partition for partition in table.partitions}
    return Layout(table=table, selector=selector, a=by_number[numbers[0]], b=by_number[numbers[1]], notes=notes)


def find_selector(table: PartitionTable, *, configured: Configured | None = None, name: str = "the disk") -> Partition:
    """The selector alone: its journal must be read before :func:`discover` can be asked for the slots.

    Raises:
        AbbootError: no FAT-typed partition, or the configured one is not there.
    """
    return _selector(table, configured or Configured(), name)


def _selector(table: PartitionTable, configured: Configured, name: str) -> Partition:
    candidates = _bootable(table)
    if configured.selector is None:
        if not candidates:
            types = ", ".join(f"{partition.number}: {partition.type_id}" for partition in table.partitions)
            raise AbbootError(f"cannot find the selector on {name}: no partition has a FAT type ({types})")
        return candidates[0]
    problem = _unfit(table, configured.selector)
    if problem:
        raise AbbootError(
            f"cannot use the configured selector on {name}: {problem}",
            "correct selector under [disk] in the configuration",
        )
    return next(partition for partition in candidates if partition.number == configured.selector)


def _bootable(table: PartitionTable) -> list[Partition]:
    """FAT-typed partitions with a number that the firmware can be told, lowest first."""
    return [
        partition
        for partition in table.partitions
        if partition.is_fat and 1 <= partition.number <= LAST_BOOTABLE[table.kind]
    ]


def _unfit(table: PartitionTable, number: int) -> str:
    """Why this partition cannot be selector or slot; empty if it can."""
    partition = table.get(number)
    if partition is None:
        return f"there is no partition {number}"
    if number > LAST_BOOTABLE[table.kind]:
        last = LAST_BOOTABLE[table.kind]
        return f"the firmware boots partitions 1 to {last} of a disk with {table.kind.upper()}, not {number}"
    if not partition.is_fat:
        return f"partition {number} has the type {partition.type_id}, which is not FAT"
    return ""


def _impossible(table: PartitionTable, selector: Partition, numbers: tuple[int, int]) -> str:
    """Why these cannot be slots ``a`` and ``b``; empty if they can."""
    for number in numbers:
        problem = _unfit(table, number)
        if problem:
            return problem
        if number == selector.number:
            return f"partition {number} is the selector"
    if numbers[0] >= numbers[1]:
        return f"slot a is the one with the lower number, but a is {numbers[0]} and b is {numbers[1]}"
    return ""


def label_slot(label: str) -> Slot | None:
    """The slot that a label names: ``boot_a``, ``FIRMWARE_A``, ``BOOTFS A`` and the like are slot ``a``."""
    found = _SLOT_LABEL.fullmatch(label.strip().lower())
    return Slot(found[1]) if found else None


def _told(
    table: PartitionTable,
    selector: Partition,
    others: list[Partition],
    named: set[int],
    label_of: Callable[[Partition], str],
    name: str,
) -> tuple[int, int]:
    """The two of several that ``autoboot.txt`` or their labels make the slots.

    The firmware goes by ``autoboot.txt``: slots of which it boots none would leave the one that it boots unguarded
    (G4).
    """
    labels = {partition.number: label_of(partition) for partition in others}
    labelled = [[number for number, label in labels.items() if label_slot(label) is slot] for slot in (Slot.A, Slot.B)]
    pair = {*labelled[0], *labelled[1]} if [len(each) for each in labelled] == [1, 1] else set()
    if pair and named <= pair:
        return min(pair), max(pair)
    if not pair and len(named) == 2 and named <= set(labels):
        return min(named), max(named)
    told = ", ".join(f"{number} {label!r}" if label else str(number) for number, label in labels.items())
    says = f"autoboot.txt names {' and '.join(map(str, sorted(named)))}" if named else "autoboot.txt names none"
    raise AbbootError(
        f"cannot find the slots on {name}: {_count(table, selector, others)}; {says}, the labels are {told}", _HINT
    )


def _count(table: PartitionTable, selector: Partition, others: list[Partition]) -> str:
    total = len(others) + 1
    numbers = ", ".join(str(partition.number) for partition in sorted([selector, *others], key=lambda one: one.number))
    found = f"{total} FAT partition{'s' if total > 1 else ''} found (number{'s' if total > 1 else ''} {numbers})"
    wanted = "a selector and two slots are needed"
    logical = [partition.number for partition in table.partitions if partition.is_fat and partition not in others]
    beyond = [number for number in logical if number > LAST_BOOTABLE[table.kind]]
    return f"{found}, {wanted}" + (f"; the firmware does not boot {', '.join(map(str, beyond))}" if beyond else "")


def _count_hint(others: list[Partition]) -> str:
    if len(others) > 2:
        return _HINT
    return "this is not an A/B disk: build one with `abboot image build`"
