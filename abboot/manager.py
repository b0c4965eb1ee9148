"""BootManager: observe, classify, plan, execute, under one lock.

Every verb that changes something does the same four things: it takes the disk's lock, reads everything, concludes where
the device stands, makes a plan, and executes it.  What may be done where is decided by the tables in
:mod:`abboot.core.states`; in which order, by :mod:`abboot.core.plan`.

Sources: the guarantees G1 to G11 (``docs/explanation/guarantees.md``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from abboot.config import Config, RebootChannel
from abboot.core.journal import Clocks, Entry
from abboot.core.layout import Configured, volume_id
from abboot.core.states import REFUSALS, UNTOLD, Observation, Permit, Situation, Verb, classify, slot_after
from abboot.core.words import TROUBLE, FatType, Outcome, Phase, Slot, SlotState, TrialProgress
from abboot.errors import AbbootError, Damaged, Locked, Refused
from abboot.log import REBOOT_INSISTED, log
from abboot.observe import observe
from abboot.version import VERSION

if TYPE_CHECKING:
    from abboot.core.health import CheckResult, HealthReport
    from abboot.core.journal import Trial
    from abboot.core.plan import Plan, Stamp
    from abboot.core.protocols import BlockDevice, Disk, Machine
    from abboot.evidence import Evidence
    from abboot.execute import Executor
    from abboot.gather import Gathered
    from abboot.progress import Meter, Progress
    from abboot.repair import Repair
    from abboot.results import Change, Confirmation, Staged
    from abboot.staging import Extra, Prepared
    from abboot.status import Status
    from abboot.verify import Verification

SHORTEST_DIGEST = 12  # hexadecimal digits that name a record; what `status` shows

#: A note of `status` where `trial.reboot = "argument"`.
BY_ARGUMENT = "a trial is asked for by the reboot argument alone (trial.reboot), which nobody can read back (H-29)"


class BootManager:
    """The two slots of one disk, and the selector between them.

    Args:
        disk: what to manage.
        machine: the board that booted from this disk; ``None`` for an image file, or for a disk that another system
            booted: the phase is OFFLINE then, and this kernel's device tree is never read for it.
        config: the operator's settings; ``None`` for the defaults.
        live: this process runs on that board, so that configured health checks say something about it.
        evidence: keep what tells why a trial failed below this root of a system; ``None`` keeps nothing.
    """

    def __init__(
        self,
        disk: Disk,
        machine: Machine | None = None,
        config: Config | None = None,
        *,
        live: bool = True,
        evidence: str | None = None,
    ) -> None:
        self._disk = disk
        self._live = live
        self._evidence_root = evidence
        self._machine = machine
        self._config = config or Config()

    @classmethod
    def from_system(cls, sysroot: str = "/", *, disk: str | None = None, config: Config | None = None) -> BootManager:
        """The system this runs on.

        Args:
            sysroot: read the kernel's interfaces below this folder.  With one other than ``/`` no ioctl, no reboot and
                no systemctl is ever issued: the request is recorded below it.
            disk: a block device or image; ``None`` for the disk that the firmware booted.
            config: the operator's settings.

        Raises:
            AbbootError: no disk was booted by this firmware, or several could have been.
        """
        from abboot.linux.blockdevice import open_disk
        from abboot.linux.discovery import booted_disk, is_booted_disk
        from abboot.linux.machine import SystemMachine
        from abboot.linux.sysroot import is_live

        if not os.path.isdir(sysroot):
            raise AbbootError(f"cannot read {sysroot}: there is no such folder", "--sysroot names the root of a system")
        config = config or Config()
        path = disk or config.disk.device or booted_disk(sysroot)
        if path is None:
            raise AbbootError(
                "cannot find the disk: the firmware does not say which one it booted",
                "this is no Raspberry Pi, or it booted past its firmware; name a disk or an image with --disk",
            )
        here = is_booted_disk(sysroot, path)
        machine = SystemMachine(sysroot) if here else None
        evidence = sysroot if here else None
        return cls(open_disk(path, sysroot), machine, config, live=is_live(sysroot), evidence=evidence)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, config: Config | None = None) -> BootManager:
        """An image file, or a disk that this system did not boot from: always OFFLINE.  No root, no mount.

        Raises:
            DeviceError: it cannot be opened.
        """
        from abboot.linux.blockdevice import open_disk

        return cls(open_disk(os.fspath(path)), None, config)

    @property
    def disk(self) -> Disk:
        return self._disk

    @property
    def machine(self) -> Machine | None:
        """The board that booted from this disk; ``None`` offline."""
        return self._machine

    @property
    def config(self) -> Config:
        return self._config

    def close(self) -> None:
        self._disk.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- reading ------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """Where the device stands.  No lock, no write (G9).

        Raises:
            Damaged: there is no partition table, or no selector and slots, to speak about.
        """
        from abboot.status import describe

        observation = self._observe()
        situation = classify(observation)
        # H-29: where nothing can be read back, nobody knows before the reboot whether there will be a trial.
        by_argument = self._machine is not None and self._config.trial.reboot is RebootChannel.ARGUMENT
        return describe(
            self._disk,
            observation,
            situation,
            notes=(BY_ARGUMENT,) if by_argument else (),
            evidence=self._evidence_of(situation.trial),
        )

    def survey(self) -> tuple[Observation, Situation]:
        """What :meth:`status` is made of, for adapters.  No lock, no write; raises like it."""
        observation = self._observe()
        return observation, classify(observation)

    def look(self) -> tuple[Observation, Situation]:
        """What was read, and what follows from it: for whoever needs more than :meth:`status`.  No lock, no write.

        Raises:
            AbbootError: as :meth:`status`.
        """
        observation = self._observe()
        return observation, classify(observation)

    def log(self) -> tuple[Entry, ...]:
        """The journal, newest last.  No lock, no write."""
        return self._observe().journal.entries

    def verify(self, slot: Slot | None = None, *, progress: Callable[[Progress], None] | None = None) -> Verification:
        """Read every file of a slot from the medium and compare it with the manifest.  No lock, no write.

        Args:
            slot: which one; ``None`` for the booted slot, or offline the primary.
            progress: called with a :class:`abboot.progress.Progress` after every piece that was read.

        Raises:
            Damaged: the slot has no volume, record or manifest that can be read.
        """
        from abboot.progress import Meter
        from abboot.verify import check_slot

        observation = self._observe()
        situation = classify(observation)
        chosen = slot or situation.booted or situation.primary
        if chosen is None:
            raise Damaged("cannot verify: nothing says which slot is meant", "name one: `abboot verify a`")
        return check_slot(self._disk, observation, chosen, progress=Meter(progress))

    # -- changing -----------------------------------------------------------------------------------------------

    def stage(
        self,
        tree: str | os.PathLike[str] | None,
        *,
        base: str = "none",
        overlays: Sequence[str | os.PathLike[str]] = (),
        drop: Sequence[str] = (),
        carry: Sequence[str] = (),
        cmdline: Mapping[str, str] | None = None,
        fat_type: FatType | None = None,
        annotations: Mapping[str, str] | None = None,
        label: str = "",
        extra: Callable[[Slot], Extra] | None = None,
        dry_run: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> Staged:
        """Write a tree and its record onto the inactive slot, and verify it.

        Idempotent: staging what the slot holds already writes nothing to it.  Until a trial of the new tree is
        committed there is exactly one good slot, so everything that can be checked is checked before the first write.

        Args:
            tree: a folder; with ``base="booted"`` it may be ``None``.
            base: ``"booted"`` starts from the booted slot's files (offline: the primary's), and lays ``tree`` and
                ``overlays`` over them; ``"none"`` takes ``tree`` as it is.
            overlays: folders laid over, in this order; later ones win.
            drop: files and folders of the booted slot that are left out of that base, as ``["config.d"]``.
            carry: files and folders of the booted slot that win over what ``tree`` and ``overlays`` have, as
                ``["user-data"]``: its user's files, whatever the base.
            cmdline: keys of ``cmdline.txt`` to set, as ``{"root": "PARTLABEL=root_b"}``.
            fat_type: format the slot anew with this type; its volume id and label stay.  ``None`` keeps what is there.
            annotations: free keys for programs, kept in the record.
            label: free text for people, kept in the record.
            extra: for adapters: what else goes into the record and beside it; called with the slot, under the lock,
                when all files are known and none was read yet.
            dry_run: say what would be written; write nothing.
            progress: called with a :class:`abboot.progress.Progress` after every piece that was read or written.

        Raises:
            Refused: the phase forbids it, or the primary is not whole.
            InvalidTree: the tree cannot be put on this slot.  Nothing was written.
            VerificationFailed: the medium gave back something else.  The slot has no boot sector (G2).
        """
        from abboot.core import plan as plans
        from abboot.gather import gather
        from abboot.progress import Meter
        from abboot.results import Staged

        clock = _clock(self._machine)
        began = clock()
        with self._changing() as (observation, situation):
            permit = self._permit(situation, Verb.STAGE)
            slot = self._target(situation, observation)
            self._check_way_back(observation, situation)
            meter = Meter(progress, clock)
            with (
                gather(
                    self._disk,
                    observation,
                    booted=situation.booted or situation.primary,
                    base=self._starts_from_booted(base),
                    folders=(*([tree] if tree is not None else []), *overlays),
                    drop=drop,
                    carry=carry,
                    cmdline=cmdline,
                ) as gathered,
                self._slot_device(observation, slot) as device,
            ):
                prepared = self._prepare(
                    device,
                    slot,
                    gathered,
                    observation,
                    situation,
                    label,
                    annotations,
                    extra(slot) if extra is not None else None,
                    fat_type,
                    meter,
                )
                written = files_written = 0
                attempts = self._config.trial.attempts
                disarm = permit is Permit.DISARM_FIRST
                if prepared.changed and not dry_run:
                    plan = plans.plan_stage(
                        observation,
                        situation,
                        self._stamp(),
                        slot=slot,
                        attempts=attempts,
                        record_digest=prepared.record_digest,
                        generation=prepared.record.generation,
                        volume_id=prepared.volume.geometry.volume_id,
                        label=prepared.volume.geometry.label,
                        geometry=prepared.volume.geometry.to_json(),
                        note=label,
                    )
                    executor = self._executor(observation, prepared=prepared, progress=meter)
                    executor.run(plan)
                    written, files_written = executor.bytes_written, executor.files_written
                elif disarm and not dry_run:
                    executor = self._executor(observation)
                    executor.run(plans.plan_rest(observation, situation, self._stamp(), attempts=attempts))
                    written = executor.bytes_written
        again: tuple[str, ...] = ()
        if not prepared.changed and situation.states[slot] is SlotState.FAILED:
            again = (f"this very tree was tried on slot {slot} and failed: `abboot trial --retry` insists",)
        return Staged(
            changed=prepared.changed or disarm,
            slot=slot,
            record_digest=prepared.record_digest,
            tree_digest=prepared.record.tree_digest,
            bytes_total=prepared.bytes_total,
            bytes_written=prepared.diff.bytes if dry_run else written,
            files_written=files_written,
            duration_s=round(clock() - began, 3),
            warnings=(*gathered.warnings, *prepared.warnings, *again),
        )

    def trial(
        self,
        record_digest: str | None = None,
        *,
        retry: bool = False,
        reboot: bool = True,
        force: bool = False,
        reason: str = "",
    ) -> Change:
        """Arm the staged slot, set the one-shot flag and read it back, reboot.

        Args:
            record_digest: what is to be tried (:attr:`Staged.record_digest`); re-checked under the lock, so that
                nobody else's staging is tried instead.  ``None`` takes what is staged.
            retry: try a slot again that failed before.
            reboot: ``False`` arms and sets the flag, and leaves the reboot to somebody else.
            force: reboot even if somebody is busy (an inhibitor lock, or the configured ``busy_hook``).
            reason: why, for the journal.

        Raises:
            Refused: the phase forbids it, the slot holds nothing to try, somebody is busy, or this bootloader, kernel
                or configuration cannot try it once.
            VerificationFailed: a file of the slot is not what was staged; an arm of it is undone.
            DeviceError: a write, the flag or the reboot failed; the arm is undone, as far as the card lets it.
        """
        with self._changing() as (observation, situation):
            permit = self._permit(situation, Verb.TRIAL)
            if permit is Permit.FINISH:
                return self._fire(observation, situation, record_digest, reboot=reboot, force=force)
            slot = situation.inactive
            if slot is None:
                raise Refused("cannot try a slot: there is no inactive one", "`abboot status` says why")
            self._check_tryable(situation, slot, retry=retry)
            self._check_digest(observation, slot, record_digest)
            return self._arm(observation, situation, slot, reboot=reboot, force=force, reason=reason)

    def check_board(self) -> None:
        """Whether a slot can be tried once on this board.  No lock, no write.

        Raises:
            Refused: this bootloader, kernel or configuration cannot.
        """
        observation = self._observe()
        self._check_bootloader(observation)
        self._check_channel(observation)

    def check_idle(self, what: str) -> None:
        """Whether a reboot is welcome now.  No lock, no write.

        Args:
            what: that cannot be done otherwise, for the message.

        Raises:
            Refused: somebody is busy (an inhibitor lock, or the configured ``busy_hook``).
        """
        if self._machine is None:
            return
        from abboot.gate import who_is_busy

        busy = who_is_busy(self._machine, self._config.trial, run_hook=self._live)
        if busy:
            raise Refused(
                f"cannot {what}: a reboot is unwelcome now: {busy}", "try again later, or insist with --force"
            )

    def fall_back(self, *, reason: str) -> Change:
        """Reboot out of a trial and change nothing but the journal: the firmware has to return to the primary.

        :meth:`revert` is how a trial is left; this is how it is proved that a trial ends by itself.  The reboot is
        asked for only after the entry was read back (G7).  It waits while somebody is busy, for ``busy_limit`` at most.

        Raises:
            Refused: no trial is running.
        """
        from abboot.core import plan as plans
        from abboot.results import Change

        self._wait_until_idle()
        with self._changing() as (observation, situation):
            if situation.phase is not Phase.TRIAL:
                raise Refused(f"cannot fall back: {situation.reason}", "`abboot status` says where things stand")
            self._executor(observation).run(plans.plan_fall_back(observation, situation, self._stamp(), reason=reason))
            return Change(
                changed=True,
                phase_before=situation.phase,
                phase_after=Phase.SETTLED,
                slot=situation.booted,
                rebooting=True,
                detail=reason,
            )

    def _arm(
        self,
        observation: Observation,
        situation: Situation,
        slot: Slot,
        *,
        reboot: bool,
        force: bool,
        reason: str = "",
    ) -> Change:
        from abboot.core import plan as plans

        self._check_bootloader(observation)
        self._check_channel(observation)
        if reboot and not force:
            self.check_idle(f"try slot {slot}")
        attempts = self._config.trial.attempts
        plan = plans.plan_trial(
            observation, situation, self._stamp(), slot=slot, attempts=attempts, reboot=reboot, reason=reason
        )
        self._run_or_disarm(observation, plan)
        return self._armed(observation, situation, slot, changed=True, reboot=reboot)

    def _fire(
        self, observation: Observation, situation: Situation, record_digest: str | None, *, reboot: bool, force: bool
    ) -> Change:
        from abboot.core import plan as plans

        slot = situation.armed
        assert slot is not None
        try:
            self._check_channel(observation)
            self._check_digest(observation, slot, record_digest)
            if reboot and not force:
                self.check_idle(f"try slot {slot}")
        except AbbootError as error:
            error.hint += f"; slot {slot} stays armed: `abboot revert` cancels that"
            raise
        plan = plans.plan_fire(observation, situation, self._stamp(), reboot=reboot)
        self._run_or_disarm(observation, plan)
        return self._armed(observation, situation, slot, changed=bool(plan), reboot=reboot)

    def _run_or_disarm(self, observation: Observation, plan: Plan) -> None:
        """Execute a plan that arms.  Where it fails, an ordinary reboot must not become the trial after all (H-12)."""
        try:
            self._executor(observation).run(plan)
        except AbbootError as error:
            undone = self._disarm_after_failure()
            if undone is not None:
                error.hint += f"{'; ' if error.hint else ''}{undone}"
            raise

    def _disarm_after_failure(self) -> str | None:
        """What became of the arm, for the hint; ``None`` where there was none to undo."""
        from abboot.core import plan as plans

        try:
            observation = self._observe()
            situation = classify(observation)
            pending = "tryboot" in (observation.pending_argument or "")
            if situation.phase is not Phase.ARMED and not observation.flag and not pending:
                return None
            plan = plans.plan_rest(observation, situation, self._stamp(), attempts=self._config.trial.attempts)
            self._executor(observation).run(plan)
        except AbbootError:
            return "it may still be armed: `abboot status` tells, `abboot revert` cancels it"
        return "the trial is disarmed"

    def _armed(
        self, observation: Observation, situation: Situation, slot: Slot, *, changed: bool, reboot: bool
    ) -> Change:
        from abboot.results import Change

        return Change(
            changed=changed,
            phase_before=situation.phase,
            phase_after=Phase.ARMED,
            slot=slot,
            rebooting=reboot,
            detail=f"slot {slot} (partition {observation.layout.partition(slot).number}) is armed for one boot",
        )

    def note_boot(self) -> tuple[Situation, Outcome | None]:
        """What the first abboot of a boot does: note how the last trial ended, disarm, stamp a running trial.

        Returns:
            Where the device stands afterwards, and the outcome that was noted now (``None`` if there was none).
        """
        from abboot.core import plan as plans

        with self._changing(allow_damaged_autoboot=True) as (observation, situation):
            if situation.phase is Phase.TRIAL:
                plan, outcome = plans.plan_started(observation, situation, self._stamp()), None
            elif situation.phase is Phase.SETTLED and observation.autoboot is not None:
                plan = plans.plan_rest(observation, situation, self._stamp(), attempts=self._config.trial.attempts)
                outcome = situation.outcome.outcome if situation.outcome else None
            else:
                return situation, None
            if plan:
                self._executor(observation).run(plan)
            return (classify(self._observe()) if plan else situation), outcome

    def confirm(
        self,
        checks: Sequence[Any] | None = None,
        *,
        progress: Callable[[Any], None] | None = None,
    ) -> Confirmation:
        """Note how the last trial ended; in a trial, run the health checks, then commit or leave.

        Meant to run on every boot.  Outside a trial it never reboots (G7).

        Args:
            checks: health checks; ``None`` for the configured ones.  With none at all the trial is taken as healthy,
                and the summary says so.
            progress: called after every round of checks.

        Raises:
            Refused: the phase is FOREIGN.
        """
        from abboot.results import Confirmation

        situation, outcome = self._note_boot_or_leave()
        if situation.phase is Phase.FOREIGN:
            hint = REFUSALS[Phase.FOREIGN, Verb.COMMIT][1] if situation.booted else UNTOLD
            raise Refused(f"cannot confirm: {situation.reason}", hint)
        if situation.phase is not Phase.TRIAL:
            self._keep_outcome(situation)
            return Confirmation(
                verdict="none",
                summary=situation.reason,
                checks=(),
                action="noted" if outcome else "nothing",
                outcome=outcome,
                change=None,
            )
        left = self._go_on_with_selftest()
        if left is not None:
            return Confirmation(
                verdict="none", summary=left.detail, checks=(), action="self_test", outcome=outcome, change=left
            )
        results: tuple[CheckResult, ...] = ()
        if situation.trial is not None and situation.trial.progress is TrialProgress.REVERTING:
            # It was left before, and the reboot did not come: no check brings it back.
            healthy, summary = False, situation.trial.reason or "this trial is being left"
        else:
            report = self._watch(checks, progress)
            healthy, summary, results = report.healthy, report.summary, report.checks
        change = self.end_trial(healthy=healthy, reason=summary, checks=results)
        ended = "reverted" if change.rebooting else "committed"
        return Confirmation(
            verdict="healthy" if healthy else "unhealthy",
            summary=summary,
            checks=results,
            action=ended if change.changed else "nothing",  # somebody else ended it during the checks
            outcome=outcome,
            change=change,
        )

    def _check_no_canary(self, observation: Observation, situation: Situation) -> None:
        """A canary is no update, whoever calls every boot a good one: its trial proves the way back."""
        from abboot.selftest import is_canary

        if situation.booted is not None and is_canary(observation.slots[situation.booted].record):
            raise Refused(
                f"cannot commit: slot {situation.booted} holds the canary of a self-test",
                "`abboot selftest` goes on with the test, `abboot revert` leaves it",
            )

    def _go_on_with_selftest(self) -> Change | None:
        from abboot import selftest

        return selftest.advance(self)

    def _note_boot_or_leave(self) -> tuple[Situation, Outcome | None]:
        """A trial on a card that takes no more writes cannot be stamped ``started``; it must still end (G11)."""
        try:
            return self.note_boot()
        except Locked:
            raise
        except AbbootError:
            situation = classify(self._observe())
            if situation.phase is not Phase.TRIAL:
                raise
            return situation, None

    def end_trial(
        self, *, healthy: bool, reason: str = "", checks: Sequence[CheckResult] = (), overdue: bool = False
    ) -> Change:
        """Commit the running trial, or leave it.  Outside a trial: nothing (G7).

        A trial that is healthy and cannot be committed (a changed file, a damaged selector, a card that takes no
        writes) is left as well: it would fall back at the next reset anyway, and then nobody would look.

        A commit waits while the supply voltage is too low (H-47), for the ``deadline`` of the health checks at most;
        leaving waits while somebody is busy, for ``busy_limit`` at most.

        Args:
            healthy: commit; else leave.
            reason: why, for the journal.
            checks: what the health checks found, kept as evidence of a trial that is left.
            overdue: nobody confirmed it in time: wait for nobody.
        """
        situation = classify(self._observe())
        if situation.phase is not Phase.TRIAL:
            return self._unchanged(situation, "no trial is running")
        if healthy and (left := self._go_on_with_selftest()) is not None:
            return left
        failure: AbbootError | None = None
        if healthy and not self._wait_for_power():
            limit = self._config.health.deadline_s
            reason = f"the supply voltage stayed too low to write for {limit:g} s (H-47)"
        elif healthy:
            try:
                return self._commit()  # which does nothing if the trial was committed meanwhile
            except Locked:
                raise
            except AbbootError as error:
                failure, reason = error, error.message
        self._keep_checks(situation.trial, reason, checks)
        if not overdue:
            self._wait_until_idle()
        with self._changing(allow_damaged_autoboot=True) as (observation, situation):
            if situation.phase is not Phase.TRIAL:
                if failure is not None:
                    raise failure  # after the switch: it is the primary, and the card did not take the entry
                return self._unchanged(situation, "no trial is running")
            return self._leave(observation, situation, reason=reason, reboot=True)

    def commit(self) -> Change:
        """Make the booted trial slot the primary: one sector write, durable and read back when this returns (G5).

        Raises:
            Refused: this is no trial, or not of this record (G6).
            VerificationFailed: a file of the booted slot is not what was staged; files that the running system edits
                by policy are noted instead.
        """
        if self._machine is not None and self._machine.under_voltage():
            raise Refused(
                "cannot commit: the supply voltage is too low to write now (H-47)",
                "use a better power supply or cable, and run `abboot commit` again",
            )
        return self._commit()

    def _commit(self) -> Change:
        from abboot.core import plan as plans
        from abboot.results import Change

        with self._changing() as (observation, situation):
            permit = self._permit(situation, Verb.COMMIT)
            if permit is Permit.NOTHING:
                return self._unchanged(situation, f"slot {situation.primary} is the primary already")
            self._check_no_canary(observation, situation)
            executor = self._executor(observation)
            executor.run(plans.plan_commit(observation, situation, self._stamp()))
            drift = f"; edited by the running system: {', '.join(executor.drift)}" if executor.drift else ""
            return Change(
                changed=True,
                phase_before=situation.phase,
                phase_after=Phase.SETTLED,
                slot=situation.booted,
                detail=f"slot {situation.booted} is the primary now{drift}",
            )

    def revert(self, *, reason: str = "requested by the operator", reboot: bool = True, force: bool = False) -> Change:
        """Cancel an arm, leave a trial, or go back after a commit.

        ARMED: disarm.  TRIAL: journal it, disarm, plain reboot into the primary; the reboot happens even if the journal
        cannot be written.  SETTLED: going back is a trial of the other slot, if that one is good.

        Args:
            reason: kept in the journal.
            reboot: ``False`` journals and disarms, or arms, and leaves the reboot to somebody else.
            force: reboot even if somebody is busy (an inhibitor lock, or the configured ``busy_hook``).

        Raises:
            Refused: there is nothing to go back to, or somebody is busy.
        """
        from abboot.core import plan as plans
        from abboot.results import Change

        with self._changing(allow_damaged_autoboot=True) as (observation, situation):
            permit = self._permit(situation, Verb.REVERT)
            if permit is Permit.LEAVE:
                if reboot and not force:
                    self.check_idle(f"leave the trial of slot {situation.booted}")
                self._keep_checks(situation.trial, reason, ())
                return self._leave(observation, situation, reason=reason, reboot=reboot)
            if permit is Permit.DISARM:
                plan = plans.plan_rest(observation, situation, self._stamp(), attempts=self._config.trial.attempts)
                self._executor(observation).run(plan)
                return Change(
                    changed=True,
                    phase_before=situation.phase,
                    phase_after=Phase.SETTLED,
                    slot=situation.armed,
                    detail=f"the trial of slot {situation.armed} is cancelled",
                )
            slot = situation.inactive
            state = self._state_now(situation, slot) if slot is not None else None
            if slot is None or state is not SlotState.GOOD:
                raise Refused(
                    f"cannot revert: slot {slot} is {state}, and only a good one is gone back to",
                    "nothing is armed and no trial is running; stage a tree and try it instead",
                )
            self._check_autoboot(observation)
            return self._arm(observation, situation, slot, reboot=reboot, force=force, reason=reason)

    def _leave(self, observation: Observation, situation: Situation, *, reason: str, reboot: bool) -> Change:
        from abboot.core import plan as plans
        from abboot.results import Change

        plan = plans.plan_leave(observation, situation, self._stamp(), reason=reason, reboot=reboot)
        self._executor(observation).run(plan, must_reboot=reboot)
        return Change(
            changed=bool(plan),
            phase_before=situation.phase,
            phase_after=Phase.SETTLED if reboot else situation.phase,
            slot=situation.booted,
            rebooting=reboot,
            detail=f"slot {situation.booted} is left, slot {situation.primary} boots next: {reason}",
        )

    def reboot(self, *, reason: str) -> Change:
        """A plain reboot of a settled system, for adapters: it changes nothing on the disk.

        It waits while somebody is busy, for ``busy_limit`` at most.  The caller has to know why this is no loop (G7).

        Args:
            reason: why, for the log.

        Raises:
            Refused: something is armed, a trial is running, or this is no board: the reboot would be another one.
            DeviceError: the system refused to reboot.
        """
        from abboot.log import REBOOT_REQUESTED
        from abboot.results import Change

        self._wait_until_idle()
        with self._changing(allow_damaged_autoboot=True) as (_, situation):
            if self._machine is None or situation.phase is not Phase.SETTLED:
                raise Refused(f"cannot reboot: {situation.reason}", "`abboot status` says where things stand")
            log.info(REBOOT_REQUESTED, reason=reason)
            self._machine.rebooter.reboot(None)
            return Change(
                changed=True,
                phase_before=situation.phase,
                phase_after=situation.phase,
                slot=situation.booted,
                rebooting=True,
                detail=reason,
            )

    def repair(self, *, dry_run: bool = False) -> Repair:
        """Rewrite a damaged ``autoboot.txt`` or journal from the other, restore a hidden slot.

        Never commits.  Where the wrong slot is booted it asks for one plain reboot, counted in the journal (G7).

        Raises:
            Damaged: neither file says which slot is the primary.
        """
        from abboot.repair import repair

        with self._changing(allow_damaged_autoboot=True) as (observation, situation):
            return repair(
                self._disk,
                observation,
                situation,
                self._stamp(),
                self._executor(observation),
                attempts=self._config.trial.attempts,
                dry_run=dry_run,
            )

    # -- pieces -------------------------------------------------------------------------------------------------

    def _observe(self) -> Observation:
        disk = self._config.disk
        return observe(
            self._disk,
            self._machine,
            configured=Configured(selector=disk.selector, slot_a=disk.slot_a, slot_b=disk.slot_b),
        )

    @contextmanager
    def _changing(self, *, allow_damaged_autoboot: bool = False) -> Iterator[tuple[Observation, Situation]]:
        """The lock, and what is read and concluded under it: from here to the accepted reboot (G9)."""
        with self._disk.lock():
            observation = self._observe()
            if observation.journal.newer:
                raise Refused(
                    f"cannot change {self._disk.name}: its journal was written by a newer abboot",
                    "use that abboot, or a newer one",
                )
            if not allow_damaged_autoboot:
                self._check_autoboot(observation)
            yield observation, classify(observation)

    def _check_autoboot(self, observation: Observation) -> None:
        if observation.autoboot is None:
            raise Damaged(
                f"cannot change {self._disk.name}: autoboot.txt on partition "
                f"{observation.layout.selector.number} is damaged: {observation.autoboot_problem}",
                "run `abboot repair`",
            )

    def _permit(self, situation: Situation, verb: Verb) -> Permit:
        permit = situation.permit(verb)
        if permit is Permit.REFUSE:
            why, hint = REFUSALS[situation.phase, verb]
            if situation.phase is Phase.FOREIGN:
                why = situation.reason
                hint = hint if situation.booted else UNTOLD
            raise Refused(f"cannot {verb}: {why}", hint)
        return permit

    def _unchanged(self, situation: Situation, detail: str) -> Change:
        from abboot.results import Change

        return Change(changed=False, phase_before=situation.phase, phase_after=situation.phase, detail=detail)

    def _target(self, situation: Situation, observation: Observation) -> Slot:
        """G4: never the booted slot, never the primary."""
        slot = situation.inactive
        if slot is None:
            raise Damaged(
                f"cannot stage: nothing says which slot of {self._disk.name} is the primary", "run `abboot repair`"
            )
        partition = observation.layout.partition(slot)
        mounts = self._disk.mounts_of(partition.number)
        if mounts:
            raise Refused(
                f"cannot stage: slot {slot} (partition {partition.number}) is mounted on {mounts[0].path}",
                f"umount {mounts[0].path}",
            )
        return slot

    def _check_way_back(self, observation: Observation, situation: Situation) -> None:
        """Until the next commit the primary is the only good slot: it has to be whole."""
        from abboot.verify import check_present

        primary = situation.primary
        assert primary is not None
        problem = check_present(self._disk, observation, primary)
        if problem:
            raise Refused(
                f"cannot stage: the primary, slot {primary}, is not whole: {problem}",
                "there would be no way back; restore the primary first",
            )

    def _starts_from_booted(self, base: str) -> bool:
        if base not in ("none", "booted"):
            raise AbbootError(f"cannot stage: base is {base!r}", "use 'booted' or 'none'")
        return base == "booted"

    @contextmanager
    def _slot_device(self, observation: Observation, slot: Slot) -> Iterator[BlockDevice]:
        partition = observation.layout.partition(slot)
        device = self._disk.open_partition(partition.number, partition.start, partition.size, writable=True)
        try:
            yield device
        finally:
            device.close()

    def _prepare(
        self,
        device: BlockDevice,
        slot: Slot,
        gathered: Gathered,
        observation: Observation,
        situation: Situation,
        label: str,
        annotations: Mapping[str, str] | None,
        extra: Extra | None,
        fat_type: FatType | None,
        progress: Meter,
    ) -> Prepared:
        from abboot.fat.geometry import Geometry
        from abboot.staging import prepare

        reading = observation.slots[slot]
        newest = observation.journal.newest
        known = newest.slots[slot] if newest else None
        shape = reading.geometry or (known.geometry if known else None)
        partition = observation.layout.partition(slot)
        before = Geometry.from_json(shape) if shape is not None else None
        if before is not None and fat_type is None:
            geometry = before
            if geometry.size > partition.size:
                raise Damaged(
                    f"cannot stage: the volume of slot {slot} says {geometry.size} bytes, "
                    f"its partition has {partition.size}",
                    "the partition table was changed; rebuild the image",
                )
        else:
            new_id = volume_id(observation.layout.table.disk_id, partition.number)
            geometry = Geometry.choose(
                partition.size,
                label=f"BOOT_{slot.upper()}" if before is None else before.label,
                volume_id=new_id if before is None else before.volume_id,
                sector_size=device.block_size_bytes,
                fat_type=fat_type,
                hidden_sectors=partition.start // device.block_size_bytes,
            )
        generations = [
            *(entry.generation or 0 for entry in (newest.slots.values() if newest else ())),
            *(r.record.generation for r in observation.slots.values() if r.record is not None),
        ]
        return prepare(
            device,
            slot,
            gathered.files,
            geometry=geometry,
            reading=reading,
            keep=situation.states[slot] in (SlotState.GOOD, SlotState.STAGED, SlotState.FAILED),
            generation=max(generations, default=0) + 1,
            version=VERSION,
            label=label,
            annotations=annotations,
            extra=extra,
            sources=gathered.sources,
            progress=progress,
        )

    def _state_now(self, situation: Situation, slot: Slot) -> SlotState:
        """With the outcome of the last trial, where nobody noted it yet."""
        state, rule, trial = situation.states[slot], situation.outcome, situation.trial
        if rule is None or trial is None or trial.slot is not slot:
            return state
        return slot_after(rule, trial, self._config.trial.attempts, state)

    def _check_tryable(self, situation: Situation, slot: Slot, *, retry: bool) -> None:
        state = self._state_now(situation, slot)
        if state in (SlotState.STAGED, SlotState.GOOD) or (state is SlotState.FAILED and retry):
            return
        hints = {
            SlotState.FAILED: "stage a better tree, or insist with `abboot trial --retry`",
            SlotState.INCOMPLETE: "a stage was cut short: run `abboot stage TREE` again",
        }
        raise Refused(
            f"cannot try slot {slot}: it is {state}", hints.get(state, "stage a tree first: `abboot stage TREE`")
        )

    def _check_digest(self, observation: Observation, slot: Slot, record_digest: str | None) -> None:
        found = observation.slots[slot].record_digest or ""
        if record_digest is None or (len(record_digest) >= SHORTEST_DIGEST and found.startswith(record_digest)):
            return
        if len(record_digest) < SHORTEST_DIGEST:
            raise Refused(
                f"cannot try slot {slot}: {record_digest!r} names no record",
                f"give at least the first {SHORTEST_DIGEST} digits of its digest, as `abboot status` shows them",
            )
        raise Refused(
            f"cannot try slot {slot}: it holds record {found[:12] or 'none'}, not {record_digest[:12]}",
            "somebody staged something else in the meantime; stage again",
        )

    def _check_bootloader(self, observation: Observation) -> None:
        """H-01: a bootloader from before A/B support takes every line of autoboot.txt: it cold-boots the armed slot."""
        from datetime import UTC, datetime

        from abboot.core.firmware import Family, identify_model, proves_ab_support

        report = observation.report
        found = identify_model(report.model) if report and report.model else None
        stamp = report.build_timestamp if report else None
        date = datetime.fromtimestamp(stamp, UTC).date() if stamp else None
        proved = proves_ab_support(found[0].family, date) if found else None
        if proved is False:
            raise Refused(
                f"cannot arm a trial: the bootloader of {date} does not know A/B boot (H-01)",
                "update it first: `sudo rpi-eeprom-update -a`, then reboot",
            )
        if proved is None and not self._config.trial.allow_unknown_bootloader:
            what = "the bootloader does not tell its date"
            if not found:
                what = "this board is none that abboot knows"
            elif found[0].family is Family.PI0_3:
                what = f"the tryboot flag was measured not to work on some boards like this {found[0].full_name} (H-40)"
            raise Refused(
                f"cannot arm a trial: {what}, so nothing proves that it can be tried once (H-01)",
                "if you know that it can, set `trial.allow_unknown_bootloader = true` in the configuration",
            )

    def _check_channel(self, observation: Observation) -> None:
        """H-29: on a mainline kernel nothing sets the flag."""
        if observation.flag_problem and self._config.trial.reboot is not RebootChannel.ARGUMENT:
            raise Refused(
                f"cannot arm a trial: the firmware's tryboot flag cannot be read: {observation.flag_problem}",
                "update the firmware: rpi-eeprom-update -a, and start*.elf on the boot partition",
            )
        if observation.flag is None and self._config.trial.reboot is not RebootChannel.ARGUMENT:
            raise Refused(
                "cannot arm a trial: there is no way to set the firmware's tryboot flag: no /dev/vcio (H-29)",
                "use the Raspberry Pi kernel; where the reboot argument is known to work, set `trial.reboot = "
                '"argument"` in the configuration',
            )

    def _wait_until_idle(self) -> None:
        """G11: a trial that is to be left is left, at the latest after ``busy_limit``."""
        if self._machine is None:
            return
        from abboot.gate import wait_until_idle

        busy = wait_until_idle(self._machine, self._config.trial, run_hook=self._live)
        if busy:
            log.error(REBOOT_INSISTED, busy=busy)

    def _wait_for_power(self) -> bool:
        if self._machine is None or not self._machine.under_voltage():
            return True
        from abboot.gate import wait_for_power

        return wait_for_power(self._machine, limit_s=self._config.health.deadline_s)

    @property
    def _evidence(self) -> Evidence | None:
        if self._evidence_root is None or not self._config.evidence.keep:
            return None
        from abboot.evidence import Evidence

        settings = self._config.evidence
        return Evidence(folder=settings.folder, keep=settings.keep, sysroot=self._evidence_root)

    def _evidence_of(self, trial: Trial | None) -> str | None:
        if trial is None or (trial.outcome is not None and trial.outcome not in TROUBLE):
            return None
        evidence = self._evidence
        return evidence.find(trial) if evidence is not None else None

    def _keep_checks(self, trial: Trial | None, reason: str, checks: Sequence[CheckResult]) -> None:
        evidence = self._evidence
        # A trial that is being left already, and whose reboot did not come, was told of when it was left.
        left = trial is not None and trial.progress is TrialProgress.REVERTING
        if evidence is not None and trial is not None and not left:
            evidence.keep_checks(trial, reason=reason, checks=checks)

    def _keep_outcome(self, situation: Situation) -> None:
        evidence, machine, trial = self._evidence, self._machine, situation.trial
        if evidence is not None and machine is not None and trial is not None and trial.outcome in TROUBLE:
            evidence.keep_outcome(trial, machine.boot_report())

    def _executor(self, observation: Observation, **stage: Any) -> Executor:
        from abboot.execute import Executor

        return Executor(
            self._disk,
            self._machine,
            observation,
            edited_by_system=self._config.verify.edited_by_system,
            mailbox=self._config.trial.reboot is not RebootChannel.ARGUMENT,
            argument=self._config.trial.reboot is not RebootChannel.MAILBOX,
            **stage,
        )

    def _stamp(self) -> Stamp:
        from abboot.core.plan import Stamp

        machine = self._machine
        clocks = None
        if machine is not None:
            clocks = Clocks(realtime_s=machine.clock.realtime_s(), boottime_s=machine.clock.boottime_s())
        return Stamp(boot_id=machine.boot_id() if machine else None, clocks=clocks, version=VERSION)

    def _watch(self, checks: Sequence[Any] | None, progress: Callable[[Any], None] | None) -> HealthReport:
        from abboot import health

        settings = self._config.health
        if checks is None and settings.checks and not self._live:
            # They would run commands and ask services of this system, about that one.
            raise Refused(
                "cannot confirm: the health checks cannot be run below a --sysroot",
                "end the trial with `abboot commit` or `abboot revert`",
            )
        return health.watch(
            health.build_checks(settings.checks) if checks is None else checks,
            stable_for=settings.stable_for_s,
            deadline=settings.deadline_s,
            interval=settings.interval_s,
            clock=self._machine.clock if self._machine else None,
            progress=progress,
        )


def _clock(machine: Machine | None) -> Callable[[], float]:
    if machine is not None:
        return machine.clock.boottime_s
    import time

    return time.monotonic


__all__ = ["BootManager"]
