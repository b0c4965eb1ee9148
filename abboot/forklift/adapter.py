"""Forklift beside abboot: what a wrapper around Forklift, and the units of an image, call.

The one rule: the booted slot decides the boot payload, and the store decides only among the bundles that have it.

Rules:

* A bundle with another boot payload than the booted slot goes onto the inactive slot (:meth:`Forklift.stage`), and is
  tried by a full reboot.  One with the same payload is Forklift's alone: soft reboots, and applying in place, work as
  they do without abboot.
* Which trial ran and how it ended is in abboot's journal and nowhere else.
* A slot that runs is never written (G4).  What changed since it was staged, a container-only update, is kept beside
  the store (:mod:`abboot.forklift.binding`).
* Forklift syncs nothing, so a bundle is synced and hashed before it is relied on.
* Nothing here needs a change in Forklift, nor its program.

Source: Forklift 0.8.0, https://github.com/forklift-run/forklift, ``internal/app/forklift/staging.go``.
"""

from __future__ import annotations

import enum
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import attrs

from abboot.core.canonical import one_line
from abboot.core.record import STAGE_STORE_PATH
from abboot.core.states import OUTCOMES, Permit, Verb, slot_after
from abboot.core.tree import fold, problem_of_path
from abboot.core.words import Outcome, Phase, Slot, SlotState
from abboot.errors import AbbootError, Refused
from abboot.forklift.binding import MAX_INDEX, Binding, from_record, read_binding, to_record, write_binding
from abboot.forklift.bundle import EMPTY_PAYLOAD, Bundle, exported, read_bundle
from abboot.forklift.reconcile import FAILED, PENDING, Action, Facts, decide, slot_name
from abboot.forklift.store import MAX_SIZE, StageStore, StoreDamaged
from abboot.forklift.store_file import (
    ASIDE,
    StoreReading,
    list_bundles,
    read_store,
    remove_stale_swap,
    set_aside,
    write_store,
)

if TYPE_CHECKING:
    from abboot.core.states import Observation, Situation
    from abboot.manager import BootManager
    from abboot.progress import Progress
    from abboot.staging import Extra

ADDED_PATH = "abboot/forklift-added.txt"
_ADDED_MAX = 1024 * 1024  # bytes
_LABEL_MAX = 120  # bytes of JSON


class Need(enum.StrEnum):
    """What the store's next bundle waits for."""

    NOTHING = "nothing"  # it is applied, and the booted slot is bound to it
    APPLY = "apply"  # Forklift applies it: `forklift stage apply`, or a soft reboot
    REBIND = "rebind"  # it is applied, and only the binding is older: `abboot forklift rebind`
    STAGE = "stage"  # its boot files are on no slot: `abboot forklift stage`
    TRIAL = "trial"  # it is on the inactive slot: `abboot trial`
    RETRY = "retry"  # it is on the inactive slot, and failed there: `abboot trial --retry`, on request only
    REBOOT = "reboot"  # it is armed: a full reboot tries it
    CONFIRM = "confirm"  # a trial is running, and has to end first: `abboot confirm`
    RESUME = "resume"  # an update was interrupted, and `boot-pending` names it: make it next again
    FAILED = "failed"  # Forklift could not apply it
    RECONCILE = "reconcile"  # the store does not fit the booted slot, or is damaged: `abboot forklift reconcile`


@attrs.frozen(kw_only=True)
class Pending:
    """What has to happen next, and to which bundle."""

    need: Need
    bundle: int | None
    why: str  # one sentence


@attrs.frozen(kw_only=True)
class TrialReport:
    """The last trial, if it was one of a bundle.  ``outcome`` is ``None`` while it is armed, or running."""

    slot: Slot
    bundle: int
    pallet: str
    version: str
    outcome: Outcome | None
    reason: str


@attrs.frozen(kw_only=True)
class BoundSlot:
    """What a slot runs with."""

    slot: Slot
    state: SlotState
    bundle: int | None  # None: it was never staged from a bundle, nor run with one
    pallet: str
    version: str
    payload: str | None
    rebound: bool  # by a container-only update, since it was staged
    present: bool  # that very bundle is in the store, and whole


@attrs.frozen(kw_only=True)
class ForkliftStatus:
    """The store, the slots, and what waits."""

    folder: str
    problem: str  # why the store cannot be read; empty if it can
    stale_swap: bool
    next: int | None
    next_failed: bool
    current: int | None
    history: tuple[int, ...]
    names: Mapping[str, int]
    unknown: tuple[str, ...]  # what Forklift would drop at its next write
    bundles: tuple[int, ...]
    booted: Slot | None
    primary: Slot | None
    slots: Mapping[Slot, BoundSlot]
    pending: Pending
    last_trial: TrialReport | None


@attrs.frozen(kw_only=True)
class StagedBundle:
    """What :meth:`Forklift.stage` did."""

    bundle: Bundle
    needed: bool  # False: the booted slot has this boot payload already, and nothing was staged
    changed: bool  # False: the slot held exactly this already, and nothing was written to it
    slot: Slot | None
    record_digest: str | None  # for `BootManager.trial()`
    bytes_total: int
    bytes_written: int
    duration_s: float
    warnings: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Rebound:
    """What :meth:`Forklift.rebind` did.  ``bundle``: what the booted slot is bound to now, if to anything."""

    changed: bool
    slot: Slot | None
    bundle: int | None
    why: str  # one sentence


@attrs.frozen(kw_only=True)
class Reconciliation:
    """What :meth:`Forklift.reconcile` did."""

    action: Action
    why: str  # one sentence
    changed: bool  # the store was written, or would be
    swap_removed: bool
    booted: Slot | None
    next: int | None  # of the store as it is now
    left_trial: bool  # the trial of a slot that has no bundle is left: the primary boots next
    problems: tuple[str, ...]  # what could not be read or done

    @property
    def ok(self) -> bool:
        """The store fits the booted slot."""
        return self.action is not Action.STUCK and not self.problems


class Forklift:
    """Forklift's stage store, and the slots of one disk.

    Args:
        manager: of the disk.
        store: the folder of the stage store; ``None`` for the configured one.
    """

    def __init__(self, manager: BootManager, store: str | os.PathLike[str] | None = None) -> None:
        self._manager = manager
        self._folder = os.fspath(store) if store is not None else manager.config.forklift.store
        self._exports = manager.config.forklift.exports
        self._read: dict[int, Bundle] = {}

    @property
    def folder(self) -> str:
        """The folder of the stage store."""
        return self._folder

    # -- reading ------------------------------------------------------------------------------------------------

    def bundle(self, index: int) -> Bundle:
        """One bundle of the store, read now.  Never raises for what is in it."""
        return read_bundle(self._folder, index, self._exports)

    def status(self) -> ForkliftStatus:
        """Store, bundles and slots as they are.  No lock, no write.

        Raises:
            Damaged: the disk has no partition table, or no selector and slots, to speak about.
        """
        self._read.clear()
        observation, situation = self._manager.survey()
        reading = read_store(self._folder)
        store = reading.store or StageStore()
        return ForkliftStatus(
            folder=self._folder,
            problem=reading.problem,
            stale_swap=reading.swap is not None,
            next=store.next,
            next_failed=store.next_failed,
            current=store.current,
            history=store.history,
            names=store.names,
            unknown=store.unknown,
            bundles=tuple(list_bundles(self._folder)),
            booted=situation.booted,
            primary=situation.primary,
            slots={slot: self._bound_slot(observation, situation, slot) for slot in Slot},
            pending=self._pending(observation, situation, reading),
            last_trial=_last_trial(observation, situation),
        )

    def pending(self) -> Pending:
        """What the next bundle waits for.  No lock, no write; raises like :meth:`status`."""
        self._read.clear()
        observation, situation = self._manager.survey()
        return self._pending(observation, situation, read_store(self._folder))

    def last_trial(self) -> TrialReport | None:
        """How the last trial of a bundle ended, by the journal; ``None`` if there was none, or nobody can tell.

        No lock, no write; raises like :meth:`status`.
        """
        return _last_trial(*self._manager.survey())

    # -- changing -----------------------------------------------------------------------------------------------

    def stage(
        self,
        bundle: int | str = "next",
        *,
        dry_run: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> StagedBundle:
        """Put the boot files of a bundle onto the inactive slot, over those of the booted one, if that needs it.

        The new tree is what the booted slot holds now, with what its user and its system changed, less the files that
        only its own bundle had brought, and with the files of this bundle over it.  The record names the bundle; beside
        it lies the stage store as it has to be when this slot boots.  The store itself gets two names, ``boot-slot-a``
        and ``boot-slot-b``, so that the bundles of both slots are not pruned; its ``next`` stays.

        Idempotent: staging the same again writes nothing.  On an error before the first write slots and store are as
        they were.

        Args:
            bundle: an index, a name, or ``next``, ``current``, ``rollback`` or ``pending``.
            dry_run: say what would be written; write nothing.
            progress: called with a :class:`abboot.progress.Progress` after every piece that was read or written.

        Raises:
            StoreDamaged, DeviceError: the store cannot be read.
            Refused: there is no such bundle, or the phase forbids staging.
            InvalidTree: its files cannot be put on this slot.
            AbbootError: the bundle is not whole, or could not be read or written.
        """
        from abboot.staging import Extra

        self._read.clear()
        store = self._store()
        index = bundle_index(store, bundle)
        if not dry_run:
            self._sync()
        found = self._bundle(index)
        if found.error is not None:
            raise found.error
        observation, situation = self._manager.survey()
        running = situation.booted or situation.primary
        bound = self._bound(observation, running)
        if found.payload in {each.payload for each in bound} if bound else found.payload == EMPTY_PAYLOAD:
            return _not_needed(found)
        may_stage = situation.permit(Verb.STAGE) is not Permit.REFUSE
        if running is not None and not bound and may_stage and not dry_run:
            bound = self._adopt(observation, running, store)
        dropped = self._added(observation, running)
        there = self._paths(observation, running, dropped)
        added = "".join(f"{path}\n" for path in found.files if fold(path) not in there).encode()
        folder, files = exported(self._folder, index, self._exports)

        def extra(slot: Slot) -> Extra:
            # All files are known now, and one that changes before it is read is an error: so this payload is theirs.
            if self.bundle(index) != found:
                raise AbbootError(
                    f"cannot stage bundle {index}: it changed while it was being read", "try again when it is complete"
                )
            pinned = _pinned(store, slot, index, bound, self._bundle)
            text = pinned.set_next(index).render()
            beside = {STAGE_STORE_PATH: text, **({ADDED_PATH: added} if added else {})}
            return Extra(forklift=to_record(found, text, added), files=beside)

        staged = self._manager.stage(
            None,
            base="booted",
            overlays=[folder] if files else [],
            drop=dropped,
            label=one_line(f"bundle {index}: {found.pallet} {found.version}".rstrip(), _LABEL_MAX),
            extra=extra,
            dry_run=dry_run,
            progress=progress,
        )
        warnings = [*staged.warnings, *self._left_over(bound, found, dropped)]
        if not dry_run:
            warnings += self._pin(staged.slot, index, bound)
        return StagedBundle(
            bundle=found,
            needed=True,
            changed=staged.changed,
            slot=staged.slot,
            record_digest=staged.record_digest,
            bytes_total=staged.bytes_total,
            bytes_written=staged.bytes_written,
            duration_s=staged.duration_s,
            warnings=tuple(warnings),
        )

    def rebind(self) -> Rebound:
        """After Forklift applied ``next``: note that the booted slot runs with this bundle and this store.

        In a trial too, before the commit.  Where there is nothing to note, it says why.  Idempotent; writes no slot.

        Raises:
            DeviceError: the bundle could not be synced, or the note not be written; the old one counts.
            Damaged: as of :meth:`status`.
        """
        self._read.clear()
        observation, situation = self._manager.survey()
        slot, reading = situation.booted, read_store(self._folder)
        bound = self._bound(observation, slot)
        before = bound[0].bundle if bound else None

        def nothing(why: str) -> Rebound:
            return Rebound(changed=False, slot=slot, bundle=before, why=why)

        store, digest = reading.store, _record_digest(observation, slot)
        if slot is None or digest is None:
            return nothing("nobody can tell which slot is booted" if slot is None else f"slot {slot} has no record")
        if store is None or reading.data is None:
            return nothing(reading.problem)
        if store.next is None:
            return nothing("no bundle is next")
        if store.next_failed or store.next != store.current:
            return nothing(f"bundle {store.next} {'could not be' if store.next_failed else 'is not yet'} applied")
        self._sync()
        found = self._bundle(store.next)
        if not found.whole or found.sha256 is None:
            return nothing(f"bundle {store.next} is not whole: {found.problem}")
        if bound and not bound[0].fits(found):
            return nothing(f"bundle {store.next} has other boot files than slot {slot}: stage it")
        payload = bound[0].payload if bound else self._payload_there(observation, slot, found)
        new = _binding_of(slot, digest, found, payload, reading.data)
        if bound and bound[0] == new:
            return nothing(f"slot {slot} is bound to bundle {store.next} already")
        return Rebound(
            changed=write_binding(self._folder, new),
            slot=slot,
            bundle=store.next,
            why=f"slot {slot} is bound to bundle {store.next}",
        )

    def reconcile(self, *, dry_run: bool = False) -> Reconciliation:
        """At early boot, before anything is mounted from the store: make the store fit the booted slot.

        Removes a swap file that a power cut left, so nothing of Forklift may be running.  Writes the store and nothing
        else; in a trial whose bundle is gone it ends the trial.  Never raises an AbbootError: what could not be done is
        in ``problems``, and the boot goes on.

        Args:
            dry_run: say what would be done; do nothing.
        """
        self._read.clear()
        problems: list[str] = []
        swap_removed = left = changed = False
        reading = read_store(self._folder)
        if reading.swap is not None:
            try:
                swap_removed = True if dry_run else remove_stale_swap(self._folder)
            except AbbootError as error:
                problems.append(error.message)
        action, why, slot = Action.STUCK, "", None
        try:
            observation, situation = self._manager.survey()
            slot = situation.booted
            if slot is None:
                raise Refused("cannot reconcile the store: nobody can tell which slot is booted")
            facts = self._facts(observation, situation, slot, reading)
            decision = decide(facts)
            action, why = decision.action, decision.why
            changed = decision.data is not None and decision.data != reading.data
            if decision.data is not None and not dry_run:
                if reading.store is None and (reading.data or b"").strip(b"\0"):
                    # Names and history of it are nowhere else, and what is damaged to us may be readable to people.
                    try:
                        set_aside(self._folder)
                        why = f"{why}; what was there is kept as {ASIDE}"
                    except AbbootError as error:
                        problems.append(error.message)
                changed = write_store(self._folder, decision.data, instead_of=reading.data)
            if action is Action.STUCK and facts.bound and situation.phase is Phase.TRIAL and not dry_run:
                # Containers and overlays of something else would run on boot files that are on trial.
                left = self._manager.end_trial(healthy=False, reason=one_line(why, _LABEL_MAX)).changed
        except AbbootError as error:
            problems.append(error.message)
            why = why or error.message
            action = Action.STUCK
        after = reading.store if dry_run else read_store(self._folder).store
        return Reconciliation(
            action=action,
            why=why,
            changed=changed,
            swap_removed=swap_removed,
            booted=slot,
            next=None if after is None else after.next,
            left_trial=left,
            problems=tuple(problems),
        )

    # -- pieces -------------------------------------------------------------------------------------------------

    def _bundle(self, index: int) -> Bundle:
        """Hashed once for each verb."""
        if index not in self._read:
            self._read[index] = self.bundle(index)
        return self._read[index]

    def _sync(self) -> None:
        from abboot.linux.filesystem import sync_filesystem

        sync_filesystem(self._folder)

    def _store(self) -> StageStore:
        reading = read_store(self._folder)
        if reading.store is not None:
            return reading.store
        if reading.data is not None:
            raise StoreDamaged(reading.problem, data=reading.data)
        raise AbbootError(reading.problem, "name the folder of Forklift's stage store: --store, or [forklift] store")

    def _facts(self, observation: Observation, situation: Situation, slot: Slot, reading: StoreReading) -> Facts:
        other = self._bound(observation, slot.other)
        return Facts(
            store=reading.store,
            problem=reading.problem,
            damaged=reading.store is None and reading.data is not None,
            bound=self._bound(observation, slot),
            other=other[0] if other else None,
            other_state=self._state_now(situation, slot.other),
            bundle=self._bundle,
        )

    def _bound(self, observation: Observation, slot: Slot | None) -> tuple[Binding, ...]:
        """What a slot is bound to, the newest first; empty where nobody can tell."""
        digest = _record_digest(observation, slot)
        if slot is None or digest is None:
            return ()
        kept = read_binding(self._folder, slot)
        record = observation.slots[slot].record
        fields = None if record is None else record.forklift
        own = from_record(slot, digest, fields, self._own_file(observation, slot, STAGE_STORE_PATH, MAX_SIZE))
        found = (kept if kept is not None and kept.record_digest == digest else None, own)
        return tuple(each for each in found if each is not None)

    def _own_file(self, observation: Observation, slot: Slot, path: str, limit: int) -> bytes:
        """A file below ``abboot/`` on a slot, through its mount or raw; nothing where there is none."""
        from abboot.verify import open_slot

        try:
            with open_slot(self._manager.disk, observation, slot) as volume:
                return volume.read_file(path, limit) if volume.find(path) is not None else b""
        except AbbootError:
            return b""

    def _added(self, observation: Observation, slot: Slot | None) -> tuple[str, ...]:
        """The files of a slot that only its bundle brought: they go with it."""
        record = None if slot is None else observation.slots[slot].record
        if slot is None or record is None or record.forklift is None:
            return ()
        data = self._own_file(observation, slot, ADDED_PATH, _ADDED_MAX)
        if _sha256([data]) != record.forklift.get("added_sha256"):
            return ()
        return tuple(path for path in data.decode("utf-8", "replace").split("\n") if not problem_of_path(path))

    def _paths(self, observation: Observation, slot: Slot | None, without: Iterable[str]) -> set[str]:
        """The names of the files of a slot, as FAT compares them."""
        from abboot.verify import open_slot

        if slot is None:
            return set()
        with open_slot(self._manager.disk, observation, slot) as volume:
            return {fold(file.path) for file in volume.files()} - set(map(fold, without))

    def _adopt(self, observation: Observation, slot: Slot, store: StageStore) -> tuple[Binding, ...]:
        """The first update of a slot that no bundle was staged on: note what it runs with, as the way back."""
        digest = _record_digest(observation, slot)
        if digest is None or store.current is None:
            return ()
        found = self._bundle(store.current)
        if not found.whole:
            return ()
        before = attrs.evolve(store, next=store.current, next_failed=False).render()
        binding = _binding_of(slot, digest, found, self._payload_there(observation, slot, found), before)
        write_binding(self._folder, binding)
        return (binding,)

    def _payload_there(self, observation: Observation, slot: Slot, bundle: Bundle) -> str | None:
        """The payload of a bundle, if all its files are on the slot; ``None`` if they are not.

        Files that the running system edits by itself need only be there.
        """
        from abboot.verify import open_slot

        edited = set(map(fold, self._manager.config.verify.edited_by_system))
        try:
            _folder, files = exported(self._folder, bundle.index, self._exports)
            with open_slot(self._manager.disk, observation, slot) as volume:
                for file in files:
                    if volume.find(file.path) is None:
                        return None
                    if fold(file.path) not in edited and _sha256(volume.chunks(file.path)) != _sha256(file.chunks()):
                        return None
        except AbbootError:
            return None
        return bundle.payload

    def _left_over(self, bound: tuple[Binding, ...], found: Bundle, dropped: Iterable[str]) -> list[str]:
        """Files that the bundle before had replaced, and that nobody kept the original of."""
        if not bound:
            return []
        before = self._bundle(bound[0].bundle)
        if not bound[0].is_of(before):
            return []
        gone = {fold(path) for path in (*found.files, *dropped)}
        return [
            f"{path} stays as bundle {before.index} left it: bundle {found.index} does not have it"
            for path in before.files
            if fold(path) not in gone
        ]

    def _pin(self, slot: Slot, index: int, bound: tuple[Binding, ...]) -> list[str]:
        """Name the bundles of both slots in the store as it is now, and say what could not be done."""
        reading = read_store(self._folder)
        if reading.store is None:
            return [reading.problem]
        if reading.swap is not None:
            return [f"bundle {index} is not named in the store: Forklift is writing it, or was interrupted"]
        after = _pinned(reading.store, slot, index, bound, self._bundle)
        if after == reading.store:
            return []
        try:
            write_store(self._folder, after.render(), instead_of=reading.data)
        except AbbootError as error:
            return [error.message]
        return []

    def _state_now(self, situation: Situation, slot: Slot) -> SlotState:
        """With the outcome of the last trial, where nobody noted it yet."""
        state, rule, trial = situation.states[slot], situation.outcome, situation.trial
        if rule is None or trial is None or trial.slot is not slot:
            return state
        return slot_after(rule, trial, self._manager.config.trial.attempts, state)

    def _bound_slot(self, observation: Observation, situation: Situation, slot: Slot) -> BoundSlot:
        bound = self._bound(observation, slot)
        newest = bound[0] if bound else None
        return BoundSlot(
            slot=slot,
            state=self._state_now(situation, slot),
            bundle=newest.bundle if newest else None,
            pallet=newest.pallet if newest else "",
            version=newest.version if newest else "",
            payload=newest.payload if newest else None,
            rebound=newest is not None and newest is not bound[-1] and newest.bundle != bound[-1].bundle,
            present=newest is not None and newest.is_of(self._bundle(newest.bundle)),
        )

    def _pending(self, observation: Observation, situation: Situation, reading: StoreReading) -> Pending:
        store, slot = reading.store, situation.booted or situation.primary
        index = None if store is None else store.next

        def pending(need: Need, why: str, bundle: int | None = index) -> Pending:
            return Pending(need=need, bundle=bundle, why=why)

        def broken(why: str) -> Pending:
            """Early boot may have something to make of it; else only another bundle helps."""
            helps = decide(self._facts(observation, situation, slot, reading)).data is not None if slot else False
            return pending(Need.RECONCILE if helps else Need.NOTHING, why)

        if reading.swap is not None:
            return pending(Need.RECONCILE, "a swap file was left: Forklift cannot write its store")
        if store is None:
            return broken(reading.problem)
        if slot is None:
            return pending(Need.NOTHING, "nobody can tell which slot is booted")
        bound, found = self._bound(observation, slot), None if index is None else self._bundle(index)
        is_here = found is not None and (
            any(each.fits(found) for each in bound)
            if bound
            else found.payload == EMPTY_PAYLOAD or index == store.current
        )
        if situation.phase is Phase.ARMED:
            there, armed = self._bound(observation, situation.armed), f"slot {situation.armed} is armed"
            if not there or (found is not None and there[-1].is_of(found)):
                return pending(Need.REBOOT, f"{armed}: a full reboot tries it")
            if found is None or not found.whole or is_here:
                tried = there[-1].bundle
                why = f"{armed}: a full reboot tries bundle {tried}, which is not next; `abboot revert` disarms it"
                return pending(Need.REBOOT, why, tried)
        if found is None:
            return broken("no bundle is next")
        if not found.whole:
            return broken(f"bundle {index} is not whole: {found.problem}")
        if not is_here:
            return self._elsewhere(observation, situation, slot, found)
        if store.next_failed:
            return pending(Need.FAILED, f"Forklift could not apply bundle {index}")
        if index != store.current:
            return pending(Need.APPLY, f"bundle {index} has the boot files of slot {slot}: Forklift applies it")
        if not bound or not bound[0].is_of(found):
            return pending(Need.REBIND, f"bundle {index} is applied, and slot {slot} is not yet bound to it")
        if situation.phase is Phase.TRIAL:
            return pending(Need.CONFIRM, f"bundle {index} is applied in the trial of slot {slot}")
        waiting = store.names.get(PENDING)
        if waiting not in (None, index) and self._bundle(waiting or 0).whole:
            return pending(Need.RESUME, f"the update to bundle {waiting} was interrupted", waiting)
        if bound[0].payload is None:  # it was applied before anybody put its boot files onto a slot
            return self._elsewhere(observation, situation, slot, found)
        return pending(Need.NOTHING, f"bundle {index} is applied on slot {slot}")

    def _elsewhere(self, observation: Observation, situation: Situation, slot: Slot, found: Bundle) -> Pending:
        """``next`` has other boot files than the booted slot."""
        index, other = found.index, slot.other
        if situation.phase is Phase.TRIAL:
            why = f"bundle {index} has other boot files than slot {slot}, whose trial has to end first"
            return Pending(need=Need.CONFIRM, bundle=index, why=why)
        there = self._bound(observation, other)
        state = self._state_now(situation, other)
        # The slot's own record counts: whatever else ran there, this is what it would boot with.
        if there and there[-1].is_of(found):
            if state is SlotState.STAGED:
                return Pending(need=Need.TRIAL, bundle=index, why=f"bundle {index} is on slot {other}: try it")
            if state is SlotState.FAILED:
                return Pending(need=Need.RETRY, bundle=index, why=f"bundle {index} failed on slot {other}")
        why = f"bundle {index} has other boot files than slot {slot}: stage it"
        return Pending(need=Need.STAGE, bundle=index, why=why)


def bundle_index(store: StageStore, bundle: int | str) -> int:
    """The index that an index, a name or one of Forklift's special names means.

    Raises:
        Refused: the store has none of that name.
    """
    special = {"next": store.next, "current": store.current, "rollback": store.rollback, "pending": store.pending}
    if isinstance(bundle, int):
        index: int | None = bundle
    elif bundle.isascii() and bundle.isdigit():
        index = int(bundle[:19])
    else:
        index = special[bundle] if bundle in special else store.names.get(bundle)
    if index is None or not 1 <= index <= MAX_INDEX:
        known = ", ".join([*special, *sorted(store.names)][:12])
        raise Refused(f"cannot find bundle {bundle}: the store has none of that name", f"known names: {known}")
    return index


def _pinned(
    store: StageStore, slot: Slot, index: int, bound: tuple[Binding, ...], bundle: Callable[[int], Bundle]
) -> StageStore:
    """``store`` with the names of both slots' bundles; what waited to be staged waits no more."""
    names = {name: at for name, at in store.names.items() if name not in (PENDING, FAILED) or at != index}
    names[slot_name(slot)] = index
    running = next((each for each in bound if each.is_of(bundle(each.bundle))), None)
    if running is not None:
        names[slot_name(running.slot)] = running.bundle
    return attrs.evolve(store, names=names)


def _not_needed(found: Bundle) -> StagedBundle:
    return StagedBundle(
        bundle=found,
        needed=False,
        changed=False,
        slot=None,
        record_digest=None,
        bytes_total=0,
        bytes_written=0,
        duration_s=0.0,
        warnings=(),
    )


def _binding_of(slot: Slot, digest: str, bundle: Bundle, payload: str | None, store: bytes) -> Binding:
    assert bundle.sha256 is not None
    return Binding(
        slot=slot,
        record_digest=digest,
        bundle=bundle.index,
        sha256=bundle.sha256,
        payload=payload,
        pallet=bundle.pallet,
        version=bundle.version,
        store=store,
    )


def _record_digest(observation: Observation, slot: Slot | None) -> str | None:
    """What names the staging of a slot: its record's digest, or what the journal keeps in place of one."""
    if slot is None:
        return None
    newest = observation.journal.newest
    return observation.slots[slot].record_digest or (newest.slots[slot].record_digest if newest else None)


def _last_trial(observation: Observation, situation: Situation) -> TrialReport | None:
    trial = situation.trial
    if trial is None:
        return None
    reading = observation.slots[trial.slot]
    fields = reading.record.forklift if reading.record is not None else None
    if fields is None or reading.record_digest != trial.record_digest:
        return None
    own = from_record(trial.slot, trial.record_digest, fields, b"")
    if own is None:
        return None
    rule = situation.outcome
    outcome = trial.outcome or (rule.outcome if rule is not None else None)
    meanings = {each.outcome: each.meaning for each in OUTCOMES}
    return TrialReport(
        slot=trial.slot,
        bundle=own.bundle,
        pallet=own.pallet,
        version=own.version,
        outcome=outcome,
        reason=trial.reason or (meanings.get(outcome, "") if outcome else ""),
    )


def _sha256(chunks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
