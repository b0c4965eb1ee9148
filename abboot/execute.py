"""Doing what a plan says, step by step.  Decides nothing: every decision is in :mod:`abboot.core.plan`.

Every step either happened and was read back, or raises; the steps after it then do not happen.  What that leaves
behind is written at each kind of step in the plan, and the next run starts from there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs

from abboot.core import plan as steps
from abboot.core.journal import Clocks, Entry
from abboot.core.protocols import BlockDevice, Disk, Machine
from abboot.core.tree import fold
from abboot.core.words import Slot
from abboot.errors import AbbootError, DeviceError, Refused, VerificationFailed
from abboot.log import (
    AUTOBOOT_REPLACED,
    JOURNAL_APPENDED,
    REBOOT_REQUESTED,
    SLOT_HIDDEN,
    SLOT_SHOWN,
    SLOT_WRITTEN,
    STEP_FAILED,
    TRYBOOT_FLAG_SET,
    log,
)
from abboot.progress import SILENT, Meter
from abboot.selector import SelectorWriter, append_entry, open_for_writing, replace_autoboot
from abboot.verify import check_slot

if TYPE_CHECKING:
    from abboot.core.states import Observation
    from abboot.fat.geometry import Geometry
    from abboot.staging import Prepared


class Executor:
    """Executes plans on one disk and one board, under the lock of the caller."""

    def __init__(
        self,
        disk: Disk,
        machine: Machine | None,
        observation: Observation,
        *,
        edited_by_system: Collection[str] = (),
        mailbox: bool = True,
        argument: bool = True,
        prepared: Prepared | None = None,
        progress: Meter = SILENT,
    ) -> None:
        self._disk = disk
        self._machine = machine
        self._observation = observation
        self._edited = edited_by_system
        self._mailbox = mailbox
        self._argument = argument
        self._prepared = prepared
        self._progress = progress
        self._hidden: dict[Slot, Geometry] = {}
        self.bytes_written = 0  # to slot, selector and journal
        self.files_written = 0
        self.drift: tuple[str, ...] = ()  # files that the running system edited, found by CheckFiles

    def run(self, plan: steps.Plan, *, must_reboot: bool = False) -> None:
        """Execute ``plan``.

        Args:
            plan: what to do.
            must_reboot: a step that fails before the reboot is logged, and the reboot happens all the same: leaving a
                trial must work on a card that takes no more writes.
        """
        for step in plan.steps:
            try:
                self._do(step)
            except AbbootError as error:
                if not must_reboot or isinstance(step, steps.Reboot):
                    raise
                log.error(STEP_FAILED, step=type(step).__name__, error=error.message)

    def _do(self, step: steps.Step) -> None:
        match step:
            case steps.Append(entry):
                with self._selector() as writer:
                    self.bytes_written += append_entry(writer, self._timed(entry))
                log.info(JOURNAL_APPENDED, transition=str(entry.transition), sequence=entry.sequence)
            case steps.Switch(before, after):
                with self._selector() as writer:
                    self.bytes_written += replace_autoboot(writer, before, after)
                log.info(AUTOBOOT_REPLACED, before=before.decode("latin-1"), after=after.decode("latin-1"))
            case steps.SetFlag(value):
                self._set_flag(value)
            case steps.SetArgument():
                if self._argument:
                    self._board.rebooter.set_argument(steps.TRYBOOT_ARGUMENT)
            case steps.ClearArgument():
                self._board.rebooter.clear_argument()
            case steps.Hide(slot):
                self._hide(slot)
            case steps.Show(slot):
                self._show(slot)
            case steps.WriteSlot(slot):
                self._write_slot(slot)
            case steps.CheckFiles():
                self._check_files(step)
            case steps.SaveJournal(entry):
                from abboot.repair import save_journal

                self.bytes_written += save_journal(self._disk, self._observation, self._timed(entry))
            case steps.RewriteSelector(autoboot, entry):
                from abboot.repair import rewrite_selector

                self.bytes_written += rewrite_selector(self._disk, self._observation, autoboot, self._timed(entry))
            case steps.Wait(seconds):
                if self._machine is not None:
                    self._machine.clock.sleep(seconds)
            case steps.Reboot(argument):
                log.info(REBOOT_REQUESTED, argument=argument)
                self._board.rebooter.reboot(argument)

    def _timed(self, entry: Entry) -> Entry:
        """With the time of the write: the five seconds of G5 count from it, and checking the files took a while."""
        if self._machine is None or entry.clocks is None:
            return entry
        clock = self._machine.clock
        return attrs.evolve(entry, clocks=Clocks(realtime_s=clock.realtime_s(), boottime_s=clock.boottime_s()))

    @property
    def _board(self) -> Machine:
        if self._machine is None:
            raise Refused("cannot reboot: no board is running from this disk")
        return self._machine

    @contextmanager
    def _selector(self) -> Iterator[SelectorWriter]:
        with open_for_writing(self._disk, self._observation.layout.selector) as writer:
            yield writer

    @contextmanager
    def _slot_device(self, slot: Slot) -> Iterator[BlockDevice]:
        if self._prepared is not None and self._prepared.slot is slot:
            yield self._prepared.device
            return
        partition = self._observation.layout.partition(slot)
        device = self._disk.open_partition(partition.number, partition.start, partition.size, writable=True)
        try:
            yield device
        finally:
            device.close()

    def _set_flag(self, value: bool) -> None:
        if value and not self._mailbox:
            return  # the reboot argument alone is the channel, as configured
        mailbox = self._board.mailbox
        mailbox.set_tryboot_flag(value)
        found = mailbox.tryboot_flag()
        if found is not value:
            raise DeviceError(
                f"cannot {'set' if value else 'clear'} the tryboot flag: the firmware reads it back as {found}",
                "the firmware may be too old, or its EEPROM write-protected (H-09)",
            )
        log.info(TRYBOOT_FLAG_SET, value=value)

    def _hide(self, slot: Slot) -> None:
        """Cut after this: the slot has no boot sector, its geometry is in the journal, and the next run restores it."""
        from abboot.fat.geometry import Geometry
        from abboot.fat.write import invalidate

        with self._slot_device(slot) as device:
            geometry = Geometry.parse(device.read(0, device.block_size_bytes), device.size_bytes)
            self.bytes_written += invalidate(device, geometry).bytes_written
        self._hidden[slot] = geometry
        log.info(SLOT_HIDDEN, slot=str(slot))

    def _show(self, slot: Slot) -> None:
        from abboot.fat.geometry import Geometry
        from abboot.fat.write import validate

        shape = self._observation.slots[slot].geometry
        geometry = self._hidden.get(slot) or (Geometry.from_json(dict(shape)) if shape is not None else None)
        if geometry is None:
            return  # nobody knows what it was; only a new stage brings it back
        with self._slot_device(slot) as device:
            self.bytes_written += validate(device, geometry).bytes_written
        log.info(SLOT_SHOWN, slot=str(slot))

    def _write_slot(self, slot: Slot) -> None:
        prepared = self._prepared
        assert prepared is not None
        assert prepared.slot is slot
        report = prepared.write(self._progress)
        self.bytes_written += report.bytes_written
        self.files_written = report.files_written
        log.info(SLOT_WRITTEN, slot=str(slot), size_bytes=report.bytes_written, tree_digest=prepared.record.tree_digest)

    def _check_files(self, step: steps.CheckFiles) -> None:
        report = check_slot(
            self._disk, self._observation, step.slot, record_digest=step.record_digest, progress=self._progress
        )
        if report.ok:
            return
        edited = {fold(path) for path in self._edited}
        drift = {path for path in report.changed if step.edited_is_fine and fold(path) in edited}
        # What the system that booted from it added beside the tree was not staged: `verify` tells it, no obstacle.
        extra = report.extra if not step.edited_is_fine else ()
        if not report.missing and not extra and drift == set(report.changed):
            self.drift = tuple(sorted(drift))
            return
        raise VerificationFailed(
            f"cannot {step.verb} slot {step.slot}: {report.summary(ignoring=drift)}",
            "`abboot revert` returns to the primary"
            if step.verb == "commit"
            else "stage the tree again: `abboot stage TREE`",
        )
