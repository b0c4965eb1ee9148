"""Steps, and the plans made of them.  Pure: a plan says what would happen; ``manager`` makes it happen.

Rules:
    1. A plan holds at most one :class:`Switch`, the write of ``autoboot.txt`` (G3): one write decides.
    2. The journal speaks first: intent before the switch, done after it.
    3. Disarming is flag, then reboot argument, then journal, then ``[tryboot]``: cut anywhere, the slot is either still
       armed and says so, or it is reachable by no flag.
    4. A reboot is the last step or there is none.
    5. A second plan made right after the first is empty: every verb is idempotent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from abboot.core.autoboot import Autoboot
from abboot.core.journal import MAX_ATTEMPT, Clocks, Entry, SlotEntry, Trial, successor
from abboot.core.states import OPEN, Observation, Situation, SlotReading, outcome_of, slot_after
from abboot.core.value import Value
from abboot.core.words import Outcome, Slot, SlotState, Transition, TrialProgress
from abboot.errors import Damaged, Refused

TRYBOOT_ARGUMENT = "0 tryboot"  # the number first, then a space: both are required (drivers/firmware/raspberrypi.c)
SETTLE_SECONDS = 5.0  # G5: some cards lose what they acknowledged for seconds (H-47)


@attrs.frozen(eq=False, repr=False)
class Append(Value):
    """Write one journal entry, flush it and read it back."""

    entry: Entry


@attrs.frozen(eq=False, repr=False)
class SetFlag(Value):
    """Set or clear the firmware's one-shot flag, and read it back."""

    value: bool


@attrs.frozen(eq=False, repr=False)
class SetArgument(Value):
    """Leave the tryboot argument for the next reboot, whoever asks for it."""


@attrs.frozen(eq=False, repr=False)
class ClearArgument(Value):
    """Remove our pending reboot argument (H-12)."""


@attrs.frozen(eq=False, repr=False)
class Hide(Value):
    """Zero the boot sector of a slot numbered below the primary while ``autoboot.txt`` is written.

    A torn ``autoboot.txt`` means partition 2 to the firmware (H-15).  Without a boot sector the slot there is passed
    by, and the primary boots.
    """

    slot: Slot


@attrs.frozen(eq=False, repr=False)
class Show(Value):
    """Give a hidden slot its boot sector back."""

    slot: Slot


@attrs.frozen(eq=False, repr=False)
class Switch(Value):
    """G3: overwrite the one data sector of ``autoboot.txt``."""

    before: bytes
    after: bytes


@attrs.frozen(eq=False, repr=False)
class WriteSlot(Value):
    """Invalidate the slot, write the planned volume, read it back, validate it (G2)."""

    slot: Slot


@attrs.frozen(eq=False, repr=False)
class CheckFiles(Value):
    """Read every file of the slot from the medium and compare it with the manifest."""

    verb: str  # for the error: what cannot be done with the slot
    slot: Slot
    record_digest: str
    edited_is_fine: bool  # files that policy lists as edited by the running system are noted, not refused (G6)


@attrs.frozen(eq=False, repr=False)
class SaveJournal(Value):
    """Write the journal's blocks where the raw scan finds them, before the selector is rewritten as a whole."""

    entry: Entry


@attrs.frozen(eq=False, repr=False)
class RewriteSelector(Value):
    """Plan the selector volume as a whole and write it, its boot sector last: the one change not atomic (G3)."""

    autoboot: bytes
    entry: Entry


@attrs.frozen(eq=False, repr=False)
class Wait(Value):
    """Let the card settle."""

    seconds: float


@attrs.frozen(eq=False, repr=False)
class Reboot(Value):
    """The last step: ask for a reboot."""

    argument: str | None


Step = (
    Append
    | SetFlag
    | SetArgument
    | ClearArgument
    | Hide
    | Show
    | Switch
    | WriteSlot
    | CheckFiles
    | SaveJournal
    | RewriteSelector
    | Wait
    | Reboot
)


def _one_switch(_plan: Any, _attribute: Any, steps: tuple[Step, ...]) -> None:
    if sum(isinstance(step, Switch | RewriteSelector) for step in steps) > 1:
        raise ValueError("a plan holds at most one switch")
    if any(isinstance(step, Reboot) for step in steps[:-1]):
        raise ValueError("nothing comes after a reboot")


@attrs.frozen(eq=False, repr=False)
class Plan(Value):
    """Steps in order.  An empty plan means: it is so already."""

    steps: tuple[Step, ...] = attrs.field(default=(), validator=_one_switch)

    def __bool__(self) -> bool:
        return bool(self.steps)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Stamp(Value):
    """Who writes the entries of a plan, and when."""

    boot_id: str | None
    clocks: Clocks | None
    version: str


@attrs.define
class _Draft:
    """A plan in the making: keeps the newest entry, so that each one follows the one before."""

    observation: Observation
    stamp: Stamp
    newest: Entry | None
    steps: list[Step] = attrs.field(factory=list)
    switched_to: bytes | None = None

    def append(self, transition: Transition, **changes: Any) -> None:
        base = self.newest if self.newest is not None else _first_entry(self.observation)
        slots = changes.pop("slots", base.slots)
        entry = successor(
            base,
            transition,
            slots={slot: with_shape(self.observation.slots[slot], entry) for slot, entry in slots.items()},
            boot_id=self.stamp.boot_id,
            clocks=self.stamp.clocks,
            abboot_version=self.stamp.version,
            **{"autoboot_before": None, "autoboot_after": None, "note": "", **changes},
        )
        self.newest = entry
        self.steps.append(Append(entry))

    def slots_with(self, slot: Slot, **changes: Any) -> dict[Slot, SlotEntry]:
        base = self.newest if self.newest is not None else _first_entry(self.observation)
        return {**base.slots, slot: attrs.evolve(base.slots[slot], **changes)}

    def done(self) -> Plan:
        return Plan(tuple(self.steps))


def _first_entry(observation: Observation) -> Entry:
    """What a journal that lost everything starts from: nothing is known of the slots, nothing is invented."""
    if observation.autoboot is None:
        raise Damaged(
            "cannot write the journal: it holds no entry, and autoboot.txt is damaged too",
            "nothing says which slot is the primary: write autoboot.txt by hand, then run `abboot repair`",
        )
    primary = observation.layout.slot_of(observation.autoboot.primary)
    if primary is None:
        raise Damaged(
            f"cannot write the journal: autoboot.txt names partition {observation.autoboot.primary}, which is no slot",
            "correct boot_partition in autoboot.txt by hand",
        )
    return Entry(
        sequence=0,
        transition=Transition.EDITED,
        primary=primary,
        slots={slot: unknown_slot(observation.slots[slot]) for slot in Slot},
        trial=None,
        boot_id=None,
        autoboot_before=None,
        autoboot_after=None,
        clocks=None,
    )


def with_shape(reading: SlotReading, entry: SlotEntry) -> SlotEntry:
    """Hiding a slot takes its boot sector away: what it takes to give it back is in the journal first."""
    if entry.geometry is not None or reading.geometry is None:
        return entry
    return attrs.evolve(entry, volume_id=reading.volume_id, label=reading.label, geometry=reading.geometry)


def unknown_slot(reading: SlotReading) -> SlotEntry:
    """The journal's entry for a slot whose history is lost."""
    return SlotEntry(
        partition=reading.partition,
        state=SlotState.UNKNOWN if reading.readable else SlotState.EMPTY,
        record_digest=reading.record_digest,
        generation=reading.record.generation if reading.record else None,
        volume_id=reading.volume_id,
        label=reading.label,
        geometry=reading.geometry,
    )


def _primary(observation: Observation, situation: Situation) -> tuple[Slot, Autoboot, bytes]:
    if observation.autoboot is None or observation.autoboot_raw is None or situation.primary is None:
        raise Damaged(
            f"cannot change autoboot.txt: {observation.autoboot_problem or 'it names no slot of this disk'}",
            "run `abboot repair`",
        )
    return situation.primary, observation.autoboot, observation.autoboot_raw


def text_for(observation: Observation, *, primary: Slot, trial: Slot) -> bytes:
    """``autoboot.txt`` naming these two, as long as the file on the medium is now (adopted files keep their length)."""
    layout = observation.layout
    wanted = Autoboot(primary=layout.partition(primary).number, trial=layout.partition(trial).number)
    raw = observation.autoboot_raw
    return wanted.render(len(raw)) if raw and len(raw) >= len(wanted.render()) else wanted.render()


def slot_to_hide(situation: Situation, observation: Observation, primary: Slot) -> Slot | None:
    """The slot that a torn autoboot.txt would boot by mistake (H-15), if it can be taken out of the way (G4)."""
    below = Slot.A if primary is Slot.B else None
    if below is None or not observation.slots[below].readable or below in (situation.booted, situation.primary):
        return None
    if observation.booted_here and situation.booted is None:
        return None  # nobody can tell which slot is booted (H-07), so it may be this one (G4)
    return below


def _switch(draft: _Draft, situation: Situation, after: bytes, *, show: bool = True) -> None:
    """The write of autoboot.txt for anything but a commit."""
    observation = draft.observation
    primary, _autoboot, before = _primary(observation, situation)
    hidden = slot_to_hide(situation, observation, primary)
    if hidden is not None:
        # Right after a commit this is the old primary: a card that loses the switch falls back to it (G5, H-47).
        _settle(draft)
        draft.steps.append(Hide(hidden))
    draft.steps.append(Switch(before, after))
    if show:
        _show(draft, situation, hidden)


def _show(draft: _Draft, situation: Situation, hidden: Slot | None = None) -> None:
    """Give back the boot sector that this plan takes away, and one that a cut left away."""
    draft.steps += [
        Show(slot)
        for slot, reading in draft.observation.slots.items()
        if slot is hidden or (reading.hidden and slot is not situation.primary)
    ]


def _conclude(draft: _Draft, situation: Situation, attempts: int, *, reading_after: bytes | None) -> None:
    """Journal how the last trial ended, or that a person edited autoboot.txt, or the intent to point it home."""
    observation = draft.observation
    trial = situation.trial
    switch: dict[str, Any] = {}
    if reading_after is not None:
        switch = {"autoboot_before": observation.autoboot_raw, "autoboot_after": reading_after}
    rule = situation.outcome
    if rule is None and trial is not None and trial.progress in OPEN:
        rule = outcome_of(observation, trial)
    if rule is not None and trial is not None:
        assert draft.newest is not None  # a trial comes from an entry
        before = draft.newest.slots[trial.slot].state
        draft.append(
            Transition.DISARMED if rule.outcome is Outcome.DISARMED else Transition.CONCLUDED,
            primary=situation.primary,
            slots=draft.slots_with(trial.slot, state=slot_after(rule, trial, attempts, before)),
            trial=attrs.evolve(trial, progress=TrialProgress.ENDED, outcome=rule.outcome),
            repair_reboots=0,
            **switch,
        )
    elif draft.newest is None and observation.autoboot is not None:
        draft.append(Transition.REPAIRED, primary=situation.primary, note="the journal held no entry", **switch)
    elif situation.edited or (trial is not None and trial.progress in OPEN):
        # A person, or a card that lost a commit, made the slot on trial the primary: nobody committed it, and nobody
        # can leave it any more.
        over = trial is not None and trial.progress in OPEN
        ended = attrs.evolve(trial, progress=TrialProgress.ENDED, outcome=Outcome.DISARMED) if over and trial else trial
        draft.append(Transition.EDITED, primary=situation.primary, trial=ended, repair_reboots=0, **switch)
    elif switch:
        draft.append(Transition.DISARMED, repair_reboots=0, **switch)
    elif draft.newest is not None and draft.newest.repair_reboots:
        # The reboot that a repair asked for came back to the primary: the next damage may ask for one again (G7).
        draft.append(Transition.CONCLUDED, repair_reboots=0)


def _disarm(draft: _Draft, situation: Situation, attempts: int, *, show: bool = True) -> None:
    """Rule 3.  Leaves flag, argument and ``[tryboot]`` at rest, and the last trial with an outcome."""
    observation = draft.observation
    if observation.flag:
        draft.steps.append(SetFlag(False))
    if observation.pending_argument is not None and "tryboot" in observation.pending_argument:
        draft.steps.append(ClearArgument())
    primary, autoboot, _before = _primary(observation, situation)
    home = text_for(observation, primary=primary, trial=primary)
    away = autoboot.trial not in (None, autoboot.primary)
    _conclude(draft, situation, attempts, reading_after=home if away else None)
    if away:
        # Cut before this write: the journal says the trial is over, `[tryboot]` still names its slot, no flag is set.
        # The next confirm points it home; a stray `reboot "0 tryboot"` until then is FOREIGN and falls back.
        _switch(draft, situation, home, show=show)
    elif show:
        _show(draft, situation)


def plan_rest(observation: Observation, situation: Situation, stamp: Stamp, *, attempts: int) -> Plan:
    """What the first abboot of a boot of the primary does: note how the last trial ended, and disarm."""
    draft = _Draft(observation, stamp, observation.journal.newest)
    _disarm(draft, situation, attempts)
    return draft.done()


def plan_started(observation: Observation, situation: Situation, stamp: Stamp) -> Plan:
    """In a trial: stamp it ``started`` before anything else can fail, once."""
    trial = situation.trial
    if trial is None or trial.progress is not TrialProgress.ARMED:
        return Plan()
    draft = _Draft(observation, stamp, observation.journal.newest)
    draft.append(
        Transition.STARTED,
        trial=attrs.evolve(trial, progress=TrialProgress.STARTED, started_boot_id=stamp.boot_id),
    )
    return draft.done()


def plan_stage(
    observation: Observation,
    situation: Situation,
    stamp: Stamp,
    *,
    slot: Slot,
    attempts: int,
    record_digest: str,
    generation: int,
    volume_id: int,
    label: str,
    geometry: Mapping[str, Any],
    note: str = "",
) -> Plan:
    """Disarm, journal that the slot is being written, write it, journal that it is staged.

    Volume id, label and geometry go into the journal first: they outlive the zeroing.
    """
    draft = _Draft(observation, stamp, observation.journal.newest)
    _settle(draft)
    _disarm(draft, situation, attempts, show=False)
    known = {"volume_id": volume_id, "label": label, "geometry": dict(geometry)}
    draft.append(
        Transition.STAGING,
        slots=draft.slots_with(slot, state=SlotState.INCOMPLETE, record_digest=None, generation=None, **known),
        note=note,
    )
    draft.steps.append(WriteSlot(slot))
    draft.append(
        Transition.STAGED,
        slots=draft.slots_with(
            slot, state=SlotState.STAGED, record_digest=record_digest, generation=generation, **known
        ),
        note=note,
    )
    return draft.done()


def _settle(draft: _Draft) -> None:
    """G5: wait for what is left of the five seconds after a switch in which the old primary keeps its boot sector."""
    stamp = draft.stamp
    if stamp.clocks is None or any(isinstance(step, Wait) for step in draft.steps):
        return
    after = stamp.clocks
    for entry in reversed(draft.observation.journal.entries):
        # The intent counts as well: a commit that was killed after its switch left no other entry.  Then the switch
        # came before the entry that follows, or before now.
        switched = entry.transition in (Transition.COMMITTED, Transition.COMMITTING)
        if switched and entry.boot_id == stamp.boot_id and entry.clocks is not None:
            since = entry.clocks if entry.transition is Transition.COMMITTED else after
            wait = SETTLE_SECONDS - (stamp.clocks.boottime_s - since.boottime_s)
            if wait > 0:
                draft.steps.append(Wait(wait))
            return
        after = entry.clocks or after


def plan_trial(
    observation: Observation,
    situation: Situation,
    stamp: Stamp,
    *,
    slot: Slot,
    attempts: int,
    reboot: bool,
    reason: str = "",
) -> Plan:
    """Arm the slot, set the flag, reboot.

    The trial is journalled and read back before the flag is set (G7), and the flag is set last: cut anywhere before
    it, a cold boot and a warm one reach the primary.
    """
    draft = _Draft(observation, stamp, observation.journal.newest)
    primary, autoboot, _before = _primary(observation, situation)
    digest = observation.slots[slot].record_digest
    if digest is None or draft.newest is None:
        raise Refused(
            f"cannot try slot {slot}: {'the journal is gone' if draft.newest is None else 'it holds no record'}",
            "stage a tree first: `abboot stage TREE`",
        )
    if observation.flag:
        draft.steps.append(SetFlag(False))
    last = situation.trial
    if situation.outcome is not None or situation.edited:
        _conclude(draft, situation, attempts, reading_after=None)
    draft.steps.append(CheckFiles("try", slot, digest, edited_is_fine=draft.newest.slots[slot].state is SlotState.GOOD))
    attempt = 1
    if last is not None and (last.slot, last.record_digest) == (slot, digest) and not _starts_over(last, situation):
        attempt = min(last.attempt + 1, MAX_ATTEMPT)
    armed = text_for(observation, primary=primary, trial=slot)
    switch = autoboot.trial != observation.layout.partition(slot).number
    draft.append(
        Transition.ARMED,
        trial=Trial(
            slot=slot,
            record_digest=digest,
            attempt=attempt,
            armed_boot_id=stamp.boot_id,
            progress=TrialProgress.ARMED,
        ),
        repair_reboots=0,
        note=reason,
        **({"autoboot_before": observation.autoboot_raw, "autoboot_after": armed} if switch else {}),
    )
    if switch:
        _switch(draft, situation, armed)
    else:
        _show(draft, situation)
    draft.steps += _fire(reboot=reboot)
    return draft.done()


def _starts_over(trial: Trial, situation: Situation) -> bool:
    """A trial that was committed, or cancelled before its reboot, does not count as an attempt."""
    rule = situation.outcome
    outcome = trial.outcome or (rule.outcome if rule is not None else None)
    return outcome in (Outcome.COMMITTED, Outcome.DISARMED)


def _fire(*, reboot: bool) -> list[Step]:
    steps: list[Step] = [SetFlag(True), SetArgument()]
    if reboot:
        steps.append(Reboot(TRYBOOT_ARGUMENT))
    return steps


def plan_fire(observation: Observation, situation: Situation, stamp: Stamp, *, reboot: bool) -> Plan:
    """ARMED: set the flag if it is not set, and reboot.  An arm that was killed may have left the slot hidden.

    What is armed is checked again: the flag must not fire at anything else than what the journal names.
    """
    draft = _Draft(observation, stamp, observation.journal.newest)
    trial = situation.trial
    assert trial is not None
    assert draft.newest is not None
    _show(draft, situation)
    steps = _fire(reboot=reboot)
    if observation.flag:
        steps = steps[1:]
    if observation.pending_argument == TRYBOOT_ARGUMENT:
        steps = [step for step in steps if not isinstance(step, SetArgument)]
    draft.steps += steps
    if draft.steps:
        good = draft.newest.slots[trial.slot].state is SlotState.GOOD
        draft.steps.insert(0, CheckFiles("try", trial.slot, trial.record_digest, edited_is_fine=good))
    return draft.done()


def plan_commit(observation: Observation, situation: Situation, stamp: Stamp) -> Plan:
    """TRIAL: check the files, journal the intent, switch, journal that it is done."""
    trial, slot = situation.trial, situation.booted
    assert trial is not None
    assert slot is not None
    if trial.progress is TrialProgress.REVERTING:
        raise Refused(
            "cannot commit: this trial is being reverted",
            "reboot to return to the primary; `abboot trial --retry` tries the slot again",
        )
    _primary_slot, _autoboot, before = _primary(observation, situation)
    draft = _Draft(observation, stamp, observation.journal.newest)
    after = text_for(observation, primary=slot, trial=slot)
    draft.steps.append(CheckFiles("commit", slot, trial.record_digest, edited_is_fine=True))
    if observation.flag:
        draft.steps.append(SetFlag(False))
    draft.append(
        Transition.COMMITTING,
        # An arm is for one boot, and this was it, also where nobody stamped it `started`.
        trial=attrs.evolve(
            trial, progress=TrialProgress.COMMITTING, started_boot_id=trial.started_boot_id or stamp.boot_id
        ),
        autoboot_before=before,
        autoboot_after=after,
    )
    # G3: the commit point.  Before this write a cold boot reaches the old primary, after it this slot.  Both have
    # booted and passed, so that neither needs hiding from a torn sector.
    draft.steps.append(Switch(before, after))
    draft.append(
        Transition.COMMITTED,
        primary=slot,
        slots=draft.slots_with(slot, state=SlotState.GOOD),
        trial=attrs.evolve(trial, progress=TrialProgress.ENDED, outcome=Outcome.COMMITTED),
    )
    return draft.done()


def plan_disarm(observation: Observation, situation: Situation, stamp: Stamp, *, attempts: int) -> Plan:
    """ARMED: cancel before the reboot."""
    return plan_rest(observation, situation, stamp, attempts=attempts)


def plan_leave(observation: Observation, situation: Situation, stamp: Stamp, *, reason: str, reboot: bool) -> Plan:
    """TRIAL: journal that it is left, disarm, plain reboot into the primary.

    Only the journal entry can fail without stopping the rest: the reboot is what brings the primary back.
    """
    trial = situation.trial
    assert trial is not None
    draft = _Draft(observation, stamp, observation.journal.newest)
    home = None
    if observation.autoboot is not None and situation.primary is not None:
        text = text_for(observation, primary=situation.primary, trial=situation.primary)
        # A torn write here would boot partition 2.  If that is the slot on trial, it cannot be hidden, because it is
        # mounted and booted (G4): then `[tryboot]` keeps its name, no flag is set, and the next boot points it home.
        lower = observation.layout.partition(trial.slot).number < observation.layout.partition(situation.primary).number
        if not lower and observation.autoboot.trial not in (None, observation.autoboot.primary):
            home = text
    if trial.progress is not TrialProgress.REVERTING:
        draft.append(
            Transition.REVERTING,
            trial=attrs.evolve(trial, progress=TrialProgress.REVERTING, reason=reason),
            **({"autoboot_before": observation.autoboot_raw, "autoboot_after": home} if home is not None else {}),
        )
    if observation.flag:
        draft.steps.append(SetFlag(False))
    if observation.pending_argument is not None:
        draft.steps.append(ClearArgument())
    if home is not None and observation.autoboot_raw is not None:
        draft.steps.append(Switch(observation.autoboot_raw, home))
    if reboot:
        draft.steps.append(Reboot(None))
    return draft.done()


def plan_fall_back(observation: Observation, situation: Situation, stamp: Stamp, *, reason: str) -> Plan:
    """TRIAL: reboot and change nothing else, so that it is the firmware that has to return to the primary.

    The entry comes first and is read back (G7): were the flag not one-shot, the same slot would come again, and since
    its trial was an earlier boot, that is FOREIGN, where nothing reboots.
    """
    trial = situation.trial
    assert trial is not None
    draft = _Draft(observation, stamp, observation.journal.newest)
    draft.append(
        Transition.STARTED,
        trial=attrs.evolve(trial, progress=TrialProgress.STARTED, started_boot_id=stamp.boot_id, reason=reason),
    )
    draft.steps.append(Reboot(None))
    return draft.done()
