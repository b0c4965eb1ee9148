"""Repairing the selector: ``autoboot.txt`` from the journal, the journal from ``autoboot.txt``.

Rules:
    1. Nothing is committed: the primary is what the file says if it parses, else what the journal says.  Never the slot
       that happens to be booted: after a damaged file that is partition 2, whatever was committed (H-15).
    2. What can be done by overwriting one sector is done so.  Only a file that is missing or not whole in one sector
       costs the one change of the selector that is not atomic: the volume is planned and written as a whole, its boot
       sector last, and what a cut leaves is repaired by running this again.
    3. At most one plain reboot, counted in the journal (G7).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from abboot.core import journal as journal_format
from abboot.core.autoboot import MAX_SIZE, Autoboot
from abboot.core.journal import Entry, successor
from abboot.core.layout import volume_id
from abboot.core.plan import (
    Append,
    ClearArgument,
    Hide,
    Plan,
    RewriteSelector,
    SaveJournal,
    SetFlag,
    Show,
    Stamp,
    Step,
    Switch,
    plan_rest,
    slot_to_hide,
    unknown_slot,
    with_shape,
)
from abboot.core.plan import Reboot as RebootStep
from abboot.core.states import Observation, Situation
from abboot.core.words import Phase, Slot, SlotState, Transition
from abboot.errors import Damaged, Refused, VerificationFailed
from abboot.selector import AUTOBOOT, JOURNAL, open_for_reading

if TYPE_CHECKING:
    from abboot.core.protocols import BlockDevice, Disk
    from abboot.execute import Executor
    from abboot.fat.plan import Content, VolumePlan
    from abboot.fat.read import FatVolume

_OTHERS_LIMIT = 16 << 20  # bytes of one file that somebody else keeps on the selector


@attrs.frozen(kw_only=True)
class Repair:
    """What a repair did, or would do."""

    changed: bool
    steps: tuple[str, ...]  # a sentence each
    rebooting: bool = False


def repair(
    disk: Disk,
    observation: Observation,
    situation: Situation,
    stamp: Stamp,
    executor: Executor,
    *,
    attempts: int,
    dry_run: bool,
) -> Repair:
    """See :meth:`abboot.BootManager.repair`; the caller holds the lock."""
    primary = situation.primary
    if primary is None:
        raise Damaged(
            f"cannot repair {disk.name}: autoboot.txt ({observation.autoboot_problem}) and the journal "
            f"({observation.journal_problem or 'it names no slot'}) are both lost: "
            "nothing says which slot is the primary",
            "write autoboot.txt by hand: [all] tryboot_a_b=1 boot_partition=N [tryboot] boot_partition=N, a line each",
        )
    said: list[str] = []
    steps: list[Step] = []
    wanted = _wanted_text(observation, primary)
    needs_text = observation.autoboot is None
    # A journal that was found by its magic only is whole, and nowhere to write the next entry to.
    needs_journal = observation.journal.newest is None or bool(observation.journal_problem)
    damaged = needs_text or needs_journal
    entry = _entry(observation, situation, primary, stamp, wanted if needs_text else None)
    below = slot_to_hide(situation, observation, primary)
    reboot, refused = _reboot(observation, situation)
    if damaged or reboot:
        # What was armed is over, and nobody would know of it: the flag first, as in every disarming.
        pending = observation.pending_argument
        if observation.flag:
            said.append("clear the tryboot flag")
            steps.append(SetFlag(False))
        if pending is not None and (reboot or "tryboot" in pending):
            said.append(f"remove the pending reboot argument {pending!r}")
            steps.append(ClearArgument())
    rewrite = _must_rewrite(disk, observation, needs_text=needs_text, needs_journal=needs_journal)
    if rewrite:
        said.append(f"rewrite the selector (partition {observation.layout.selector.number}) as a whole: {rewrite}")
        text = wanted if needs_text or observation.autoboot_raw is None else observation.autoboot_raw
        steps.append(SaveJournal(entry))
        steps += _hidden(below, RewriteSelector(text, entry))
    elif damaged:
        steps.append(Append(entry))
        if needs_journal:
            said.append(f"start the journal again; primary {primary}, slots as they are found")
        if needs_text and observation.autoboot_raw is not None:
            number = observation.layout.partition(primary).number
            said.append(f"rewrite autoboot.txt: slot {primary} (partition {number})")
            steps += _hidden(below, Switch(observation.autoboot_raw, wanted))
    away = [slot for slot, reading in observation.slots.items() if reading.hidden and slot is not situation.booted]
    said += [f"give slot {slot} its boot sector back" for slot in away]
    if situation.phase is Phase.SETTLED and not damaged:
        at_rest = plan_rest(observation, situation, stamp, attempts=attempts)
        if any(not isinstance(step, Show) for step in at_rest.steps):
            said.append("note how the last trial or repair ended, and disarm")
        steps += at_rest.steps
    else:
        steps += [Show(slot) for slot in away]
    if refused:
        said.append(refused)
    if reboot:
        said.append(f"reboot once, without the flag, into slot {primary}")
        # G7: counted in an entry of its own, read back before the reboot and after everything else is repaired: a cut
        # before it counts nothing, a cut after it is a reset like the one that is wanted.
        counted = _counted(entry, stamp) if damaged else entry
        steps.append(Append(attrs.evolve(counted, repair_reboots=entry.repair_reboots + 1)))
        steps.append(RebootStep(None))
    if not dry_run:
        executor.run(Plan(tuple(steps)))
    return Repair(changed=said not in ([], [refused]), steps=tuple(said), rebooting=reboot and not dry_run)


def _hidden(below: Slot | None, step: Step) -> list[Step]:
    """A write of autoboot.txt that may tear: the slot that a torn file would boot is out of the way (H-15)."""
    return [step] if below is None else [Hide(below), step, Show(below)]


def _wanted_text(observation: Observation, primary: Slot) -> bytes:
    number = observation.layout.partition(primary).number
    wanted = Autoboot(primary=number, trial=number)
    raw = observation.autoboot_raw
    # An open trial is over: `[tryboot]` goes home.  A file of a length that works keeps it, padded with newlines.
    return wanted.render(len(raw)) if raw and len(wanted.render()) <= len(raw) <= MAX_SIZE else wanted.render()


def _entry(observation: Observation, situation: Situation, primary: Slot, stamp: Stamp, after: bytes | None) -> Entry:
    newest = observation.journal.newest
    texts = {"autoboot_before": observation.autoboot_raw, "autoboot_after": after} if after is not None else {}
    common: dict[str, Any] = {
        "boot_id": stamp.boot_id,
        "clocks": stamp.clocks,
        "abboot_version": stamp.version,
        "primary": primary,
        "note": observation.autoboot_problem or observation.journal_problem or situation.reason,
        **texts,
    }
    if newest is not None:
        shaped = {slot: with_shape(observation.slots[slot], known) for slot, known in newest.slots.items()}
        return successor(newest, Transition.REPAIRED, slots=shaped, **common)
    # A lost history is not invented: what is there is `unknown`, bootable perhaps, and never retried by itself.
    slots = {slot: unknown_slot(observation.slots[slot]) for slot in Slot}
    if slots[primary].state is not SlotState.UNKNOWN:
        slots[primary] = attrs.evolve(slots[primary], state=SlotState.UNKNOWN)
    return Entry(sequence=0, transition=Transition.REPAIRED, slots=slots, **common)


def _counted(entry: Entry, stamp: Stamp) -> Entry:
    return successor(
        entry,
        Transition.REPAIRED,
        boot_id=stamp.boot_id,
        clocks=stamp.clocks,
        note=entry.note,
    )


def _must_rewrite(disk: Disk, observation: Observation, *, needs_text: bool, needs_journal: bool) -> str:
    """Why overwriting a sector is not enough; empty if it is."""
    if not needs_text and not needs_journal:
        return ""
    partition = observation.layout.selector
    try:
        with open_for_reading(disk, partition) as volume:
            text, journal = volume.find(AUTOBOOT), volume.find(JOURNAL)
    except Damaged as error:
        return error.message
    if text is None:
        return f"there is no {AUTOBOOT}"
    if journal is None or journal.size < 2 * journal_format.BLOCK_SIZE:
        return f"there is no {JOURNAL}"
    if needs_text and not 64 <= text.size <= MAX_SIZE:
        return f"{AUTOBOOT} has {text.size} bytes, and 64 to {MAX_SIZE} can be overwritten in one sector"
    return ""


def save_journal(disk: Disk, observation: Observation, entry: Entry) -> int:
    """Write the ring with ``entry`` where the rewritten selector will have it.  Returns the bytes written.

    From here on the raw scan finds it, whatever else is lost: the primary, and what it takes to show a hidden slot.
    """
    with _planned(disk, observation, b"", entry) as (device, plan, journal):
        (start, _count), *_ = plan.extents(JOURNAL)
        at = plan.geometry.cluster_offset(start)
        device.write(at, journal)
        device.flush()
        device.forget_cache()
        if device.read(at, len(journal)) != journal:
            raise _lost(device)
        return len(journal)


def rewrite_selector(disk: Disk, observation: Observation, text: bytes, entry: Entry) -> int:
    """Plan the selector as a whole and write it, its boot sector last.  Returns the bytes written.

    Cut in it: the selector has no boot sector, and the firmware boots the first slot that it finds, which is the
    primary, since a slot below it is hidden.  The journal is found by its magic; the next repair goes on from there.
    """
    from abboot.fat.read import FatVolume
    from abboot.fat.write import compare, invalidate, validate, write_content

    with _planned(disk, observation, text, entry) as (device, plan, _journal):
        report = invalidate(device, plan.geometry)
        report += write_content(device, plan, compare(device, plan, None))
        device.forget_cache()
        # Every chain can be followed, and every sector that they use, and the tables, are as planned.
        if compare(device, plan, FatVolume(device, boot_sector=plan.boot_sector).held()).ranges:
            raise _lost(device)
        return (report + validate(device, plan.geometry)).bytes_written


def _lost(device: BlockDevice) -> VerificationFailed:
    return VerificationFailed(
        f"cannot repair {device.name}: the medium gives back something else than was written",
        "the card may be failing or write-protected: replace it",
    )


@contextmanager
def _planned(
    disk: Disk, observation: Observation, text: bytes, entry: Entry
) -> Iterator[tuple[BlockDevice, VolumePlan, bytes]]:
    """The selector's device, what it shall be, and the blocks of its journal.  Files of others on it stay."""
    from abboot.fat.read import FatVolume
    from abboot.image.selector import plan_selector

    partition = observation.layout.selector
    mounts = disk.mounts_of(partition.number)
    if mounts:
        raise Refused(
            f"cannot repair {disk.name}: the selector has to be rewritten, and is mounted on {mounts[0].path}",
            f"umount {mounts[0].path}",
        )
    entries = [*observation.journal.entries[-(journal_format.BLOCKS - 1) :], entry]
    ring = {journal_format.block_index(kept.sequence, journal_format.BLOCKS): kept.encode() for kept in entries}
    empty = bytes(journal_format.BLOCK_SIZE)
    journal = b"".join(ring.get(index, empty) for index in range(journal_format.BLOCKS))
    device = disk.open_partition(partition.number, partition.start, partition.size, writable=True)
    try:
        identity, label = volume_id(observation.layout.table.disk_id, partition.number), "BOOTSEL"
        extra: list[Content] = []
        try:
            old = FatVolume(device)
            identity, label = old.geometry.volume_id, old.geometry.label or label
            extra = _others(old)
        except Damaged:
            pass  # what cannot be read cannot be kept
        sector = device.block_size_bytes
        hidden = partition.start // sector
        plan = plan_selector(partition.size, sector, label, identity, text, journal, extra, hidden_sectors=hidden)
        yield device, plan, journal
    finally:
        device.close()


def _others(volume: FatVolume) -> list[Content]:
    """Files that somebody else keeps on the selector (bootcode.bin of a Pi 3): they stay."""
    return [
        _in_memory(file.path, volume.read_file(file.path, _OTHERS_LIMIT))
        for file in volume.files()
        if file.path.lower() not in (AUTOBOOT, JOURNAL.lower())
    ]


def _in_memory(path: str, data: bytes) -> Content:
    from abboot.fat.plan import Content

    return Content(path=path, size=len(data), chunks=lambda: iter((data,)))


def _reboot(observation: Observation, situation: Situation) -> tuple[bool, str]:
    """Whether the wrong slot is booted, and why it is not left all the same."""
    if situation.phase is not Phase.FOREIGN or situation.booted is None:
        return False, ""
    if _rebooted_before(observation):
        # G7: the last repair rebooted already and came back here.
        return False, (
            f"slot {situation.booted} is booted again after a repair that rebooted: not rebooting a second time; "
            "`abboot status` says what the firmware decides"
        )
    return True, ""


def _rebooted_before(observation: Observation) -> bool:
    """A repair counted a reboot, and not in this very boot: then that reboot never came."""
    counted = None
    for entry in reversed(observation.journal.entries):
        if entry.repair_reboots == 0:
            break
        counted = entry
    return counted is not None and counted.boot_id != observation.boot_id
