"""Where the device stands, and what each verb may do there.

Rules:
    1. Everything that decides a phase, an outcome or a permission is in this file, in one of three tables.
    2. Nothing here reads or writes: readings come in, a :class:`Situation` goes out.
    3. The tables are data: the documentation and the state diagram are generated from them.

Theory of operation.  Three things can be read after a boot: what the firmware did (the device tree), what it will do
next (``autoboot.txt``), and what abboot meant to do (the journal).  Where they agree, the phase is SETTLED, ARMED or
TRIAL.  Where they do not, it is FOREIGN, and abboot changes nothing but what :func:`abboot.BootManager.repair` may.
The device tree wins over the file, and a file that parses wins over the journal: the first two are what happens,
the third is what was intended.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import attrs

from abboot.core.autoboot import Autoboot
from abboot.core.journal import Entry, Journal, Trial
from abboot.core.layout import Layout
from abboot.core.protocols import BootReport
from abboot.core.record import Record
from abboot.core.value import Value
from abboot.core.words import Outcome, Phase, Slot, SlotState, Transition, TrialProgress


class Verb(enum.StrEnum):
    """The verbs that change which slot boots, or what is in it."""

    STAGE = "stage"
    TRIAL = "trial"
    COMMIT = "commit"
    REVERT = "revert"


class Permit(enum.StrEnum):
    """What a verb does in a phase."""

    DO = "do"
    DISARM_FIRST = "disarm first, then do"
    FINISH = "set the flag if it is not set, reboot"
    DISARM = "disarm"
    SWITCH = "make the booted slot the primary"
    LEAVE = "journal it, disarm, plain reboot"
    TRY_OTHER = "try the inactive slot if it is good"
    NOTHING = "nothing to do"
    REFUSE = "refuse"


PERMITS: Mapping[Phase, Mapping[Verb, Permit]] = {
    Phase.SETTLED: {
        Verb.STAGE: Permit.DO,
        Verb.TRIAL: Permit.DO,
        Verb.COMMIT: Permit.NOTHING,
        Verb.REVERT: Permit.TRY_OTHER,
    },
    Phase.ARMED: {
        Verb.STAGE: Permit.DISARM_FIRST,
        Verb.TRIAL: Permit.FINISH,
        Verb.COMMIT: Permit.REFUSE,
        Verb.REVERT: Permit.DISARM,
    },
    Phase.TRIAL: {
        Verb.STAGE: Permit.REFUSE,  # the other slot is the primary: the only way back
        Verb.TRIAL: Permit.REFUSE,
        Verb.COMMIT: Permit.SWITCH,
        Verb.REVERT: Permit.LEAVE,
    },
    Phase.FOREIGN: dict.fromkeys(Verb, Permit.REFUSE),
    Phase.OFFLINE: {
        Verb.STAGE: Permit.DO,
        Verb.TRIAL: Permit.REFUSE,
        Verb.COMMIT: Permit.REFUSE,
        Verb.REVERT: Permit.REFUSE,
    },
}

#: Why a verb is refused, and the way out.  One line for every REFUSE above.
REFUSALS: Mapping[tuple[Phase, Verb], tuple[str, str]] = {
    (Phase.ARMED, Verb.COMMIT): (
        "the phase is armed: the staged slot has not been booted yet",
        "run `abboot trial` to reboot into it, or `abboot revert` to disarm",
    ),
    (Phase.TRIAL, Verb.STAGE): (
        "a trial is running, so the other slot is the primary, the only way back",
        "end the trial first: `abboot confirm`, `abboot commit` or `abboot revert`",
    ),
    (Phase.TRIAL, Verb.TRIAL): (
        "a trial is running already",
        "end it first: `abboot confirm`, `abboot commit` or `abboot revert`",
    ),
    **{
        (Phase.FOREIGN, verb): (
            "the booted slot is neither the primary nor a trial that abboot armed",
            "`abboot status` says why; a plain reboot or `abboot repair` brings it back to the primary",
        )
        for verb in Verb
    },
    **{
        (Phase.OFFLINE, verb): (
            "this disk is not the one that this system booted from",
            "run it on the device itself, or with --sim for a simulated Pi",
        )
        for verb in (Verb.TRIAL, Verb.COMMIT, Verb.REVERT)
    },
}


#: The way out of FOREIGN where nobody can tell which slot is booted (H-07).
UNTOLD = "the firmware has to say which partition it booted: update the bootloader with `sudo rpi-eeprom-update -a`"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class OutcomeRule(Value):
    """One row of the table that says how the last trial ended.

    ``None`` in a condition means "whatever".  The first row that matches counts.
    """

    progress: TrialProgress
    switched: bool | None = None  # `[all]` names the trial slot
    tryboot: bool | None = None  # this boot ran with the flag
    same_boot: bool | None = None  # the arm was written in this very boot
    outcome: Outcome
    slot_becomes: SlotState
    meaning: str


#: How the last trial ended, seen from a boot of the primary.
OUTCOMES: tuple[OutcomeRule, ...] = (
    OutcomeRule(
        progress=TrialProgress.COMMITTING,
        switched=True,
        outcome=Outcome.COMMITTED,
        slot_becomes=SlotState.GOOD,
        meaning="it was healthy, and is the primary since",
    ),
    OutcomeRule(
        progress=TrialProgress.COMMITTING,
        switched=False,
        outcome=Outcome.PASSED_UNCOMMITTED,
        slot_becomes=SlotState.STAGED,
        meaning="it was healthy, and the power went before the switch: it may be tried again",
    ),
    OutcomeRule(
        progress=TrialProgress.REVERTING,
        outcome=Outcome.REVERTED,
        slot_becomes=SlotState.FAILED,
        meaning="it was left on request or by a failed health check",
    ),
    OutcomeRule(
        progress=TrialProgress.STARTED,
        outcome=Outcome.FELL_BACK,
        slot_becomes=SlotState.FAILED,
        meaning="it started, nobody confirmed it, and the next reset came back to the primary",
    ),
    OutcomeRule(
        progress=TrialProgress.ARMED,
        same_boot=True,
        outcome=Outcome.DISARMED,
        slot_becomes=SlotState.STAGED,
        meaning="it was cancelled, or cut short, before the reboot",
    ),
    OutcomeRule(
        progress=TrialProgress.ARMED,
        tryboot=True,
        outcome=Outcome.UNBOOTABLE,
        slot_becomes=SlotState.FAILED,
        meaning="the flag fired, and the firmware could not load the slot",
    ),
    OutcomeRule(
        progress=TrialProgress.ARMED,
        outcome=Outcome.NOT_REACHED,
        slot_becomes=SlotState.STAGED,  # while attempts remain: see `slot_after()`
        meaning="a power cut before it, or a kernel that never came up: nobody can tell which",
    ),
)

#: Trials that were not ended: somebody has to say how they ended, or end them.
OPEN = frozenset({TrialProgress.ARMED, TrialProgress.STARTED, TrialProgress.COMMITTING, TrialProgress.REVERTING})


@attrs.frozen(kw_only=True, eq=False, repr=False)
class SlotReading(Value):
    """What a slot holds now, as read from the medium or its mount."""

    partition: int
    readable: bool  # a FAT volume with a boot sector that the firmware accepts
    hidden: bool = False  # no boot sector, but the volume below it can be read with the one the journal keeps
    record: Record | None = None
    record_digest: str | None = None
    volume_id: int | None = None
    label: str | None = None
    geometry: Mapping[str, Any] | None = None  # of the volume, for the journal: it outlives a zeroed boot sector
    problem: str = ""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Observation(Value):
    """Everything that was read, nothing concluded."""

    layout: Layout
    booted_here: bool  # False: an image, or a disk that this kernel did not boot from
    report: BootReport | None = None
    boot_id: str | None = None
    flag: bool | None = None  # None: it cannot be read
    flag_problem: str = ""  # why, where it should be possible
    pending_argument: str | None = None
    autoboot_raw: bytes | None = None
    autoboot: Autoboot | None = None
    autoboot_problem: str = ""
    journal: Journal
    journal_problem: str = ""
    slots: Mapping[Slot, SlotReading]


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Situation(Value):
    """What follows from an :class:`Observation`."""

    phase: Phase
    reason: str  # why this phase, one sentence
    booted: Slot | None
    booted_partition: int | None
    primary: Slot | None
    armed: Slot | None
    trial: Trial | None  # the last one, as the journal has it
    outcome: OutcomeRule | None  # how it ended, where nobody noted that yet
    states: Mapping[Slot, SlotState]
    edited: bool  # a valid autoboot.txt says something else than the journal
    notes: tuple[str, ...]

    @property
    def inactive(self) -> Slot | None:
        """The slot that is neither booted nor primary; ``None`` in a trial, and where the primary is unknown."""
        taken = {self.booted, self.primary} - {None}
        if self.primary is None or len(taken) != 1:
            return None
        return self.primary.other

    def permit(self, verb: Verb) -> Permit:
        return PERMITS[self.phase][verb]


def primary_of(observation: Observation) -> Slot | None:
    """The slot that a cold boot reaches: ``[all]`` of a file that parses, else what the journal says."""
    if observation.autoboot is not None:
        return observation.layout.slot_of(observation.autoboot.primary)
    newest = observation.journal.newest
    if newest is None:
        return None
    # A cut inside the sector of a commit: the intent names the slot, but nobody can tell whether the firmware would
    # have reached it.  The journal's primary is the old one until the switch was seen (G1).
    return newest.primary


def classify(observation: Observation) -> Situation:
    """Say where the device stands.  Pure; never raises for odd content, it says FOREIGN and why."""
    newest = observation.journal.newest
    trial = newest.trial if newest else None
    primary = primary_of(observation)
    booted_partition = observation.report.partition if observation.report else None
    booted = observation.layout.slot_of(booted_partition) if booted_partition else None
    edited = _edited(observation, newest, primary)
    phase, reason = _phase(observation, trial, primary, booted)
    open_trial = trial if trial is not None and trial.progress in OPEN else None
    outcome = None
    if open_trial is not None and phase in (Phase.SETTLED,):
        outcome = outcome_of(observation, open_trial)
    return Situation(
        phase=phase,
        reason=reason,
        booted=booted if observation.booted_here else None,
        booted_partition=booted_partition if observation.booted_here else None,
        primary=primary,
        armed=open_trial.slot if open_trial and phase is Phase.ARMED else None,
        trial=trial,
        outcome=outcome,
        states=_slot_states(observation, newest),
        edited=edited,
        notes=_notes(observation, newest, primary, edited=edited, phase=phase),
    )


def _phase(
    observation: Observation, trial: Trial | None, primary: Slot | None, booted: Slot | None
) -> tuple[Phase, str]:
    if not observation.booted_here:
        return Phase.OFFLINE, "this disk is an image, or not the one this system booted from"
    report = observation.report
    if report is None:
        return Phase.FOREIGN, "the device tree has no chosen/bootloader node: nobody can tell which partition booted"
    if not report.partition:
        # H-07: a Pi 5 bootloader before 2024-05-13 always reports 0; 0 also means "default" on old ones.
        return Phase.FOREIGN, f"the firmware reports partition {report.partition}: nobody can tell which slot booted"
    if booted is None:
        return Phase.FOREIGN, f"partition {report.partition} booted, which is no slot of this disk"
    if primary is None:
        return Phase.FOREIGN, "neither autoboot.txt nor the journal says which slot is the primary"
    if booted is primary:
        if _arm_stands(observation, trial, primary):
            return Phase.ARMED, f"slot {trial.slot} is armed: the next reboot with the flag tries it" if trial else ""
        return Phase.SETTLED, f"the primary, slot {primary}, is booted"
    if trial is None or trial.progress not in OPEN or trial.slot is not booted:
        return Phase.FOREIGN, f"slot {booted} is booted, the primary is {primary}, and no trial of {booted} is open"
    if report.tryboot is not True:
        # `reboot 3`, a partition walk, a damaged selector: the right slot, but not by the flag (H-19, H-51).
        return Phase.FOREIGN, f"slot {booted} was armed, but it was not booted by the tryboot flag"
    if trial.started_boot_id not in (None, observation.boot_id):
        # An arm is for one boot.  Somebody set the flag again after the trial had come and gone.
        return Phase.FOREIGN, f"the trial of slot {booted} was an earlier boot; this one nobody armed"
    return Phase.TRIAL, f"slot {booted} is on trial; a reset without commit returns to slot {primary}"


def _arm_stands(observation: Observation, trial: Trial | None, primary: Slot) -> bool:
    """Another slot than the primary is armed, in this boot, and ``[tryboot]`` names it."""
    return (
        trial is not None
        and trial.slot is not primary
        and trial.progress is TrialProgress.ARMED
        and trial.armed_boot_id == observation.boot_id
        and observation.autoboot is not None
        and observation.layout.slot_of(observation.autoboot.trial) is trial.slot
    )


def outcome_of(observation: Observation, trial: Trial) -> OutcomeRule | None:
    """The row of :data:`OUTCOMES` for an open trial, seen from the primary; ``None`` if none fits."""
    facts: dict[str, bool | None] = {
        "switched": observation.autoboot is not None
        and observation.layout.slot_of(observation.autoboot.primary) is trial.slot,
        "tryboot": bool(observation.report and observation.report.tryboot),
        "same_boot": trial.armed_boot_id == observation.boot_id,
    }
    if facts["switched"] and trial.progress is not TrialProgress.COMMITTING:
        return None  # a person made it the primary: it neither failed nor was it committed
    for rule in OUTCOMES:
        if rule.progress is trial.progress and all(getattr(rule, k) in (None, v) for k, v in facts.items()):
            return rule
    return None


def slot_after(rule: OutcomeRule, trial: Trial, attempts: int, before: SlotState) -> SlotState:
    """What the trial's slot becomes.

    NOT_REACHED leaves it ``staged`` while attempts remain (G7: bounded, counted in the journal).  A slot that was only
    disarmed stays what it was, and a ``good`` one that was never reached, or passed, stays good.
    """
    if rule.outcome is Outcome.DISARMED:
        return before
    if rule.slot_becomes is SlotState.STAGED and before is SlotState.GOOD:
        return SlotState.GOOD  # it was committed once, and nothing shows that it is worse now
    if rule.outcome is Outcome.NOT_REACHED and trial.attempt >= attempts:
        return SlotState.FAILED
    return rule.slot_becomes


def _edited(observation: Observation, newest: Entry | None, primary: Slot | None) -> bool:
    """A valid autoboot.txt names another primary than the journal, and no commit of ours explains it."""
    if observation.autoboot is None or newest is None or primary is None:
        return False
    trial = newest.trial
    by_us = trial is not None and trial.progress is TrialProgress.COMMITTING and trial.slot is primary
    return primary is not newest.primary and not by_us


def _slot_states(observation: Observation, newest: Entry | None) -> dict[Slot, SlotState]:
    return {slot: _slot_state(observation.slots[slot], newest, slot) for slot in Slot}


def _slot_state(reading: SlotReading, newest: Entry | None, slot: Slot) -> SlotState:
    """What the journal says, where the medium agrees."""
    known = newest.slots[slot] if newest else None
    if known is None:
        return SlotState.UNKNOWN if reading.readable else SlotState.EMPTY
    if known.state in (SlotState.INCOMPLETE, SlotState.EMPTY):
        # A boot sector where there should be none: the cut fell between the last write of a stage and its entry, or
        # somebody else wrote the slot.  Only a new stage makes it ours.
        return known.state if not reading.readable else SlotState.UNKNOWN
    if not reading.readable and not reading.hidden:
        return SlotState.INCOMPLETE
    if known.record_digest != reading.record_digest:
        return SlotState.UNKNOWN
    return known.state


def _notes(
    observation: Observation, newest: Entry | None, primary: Slot | None, *, edited: bool, phase: Phase
) -> tuple[str, ...]:
    notes: list[str] = []
    if observation.autoboot is None:
        notes.append(f"autoboot.txt is damaged: {observation.autoboot_problem}; `abboot repair` rewrites it")
    elif primary is None:
        notes.append(f"autoboot.txt names partition {observation.autoboot.primary}, which is no slot of this disk")
    if observation.journal.newer:
        notes.append("the journal was written by a newer abboot that this one cannot follow")
    elif newest is None:
        why = observation.journal_problem or "it holds no entry"
        notes.append(f"the journal is gone ({why}): nothing is committed or retried; `abboot repair` starts a new one")
    if newest is not None and observation.journal_problem:
        notes.append(f"the journal's file is damaged ({observation.journal_problem}); `abboot repair` rewrites it")
    if edited and newest is not None:
        notes.append(f"autoboot.txt was edited: it names {primary}, the journal {newest.primary}; the file counts")
    open_trial = newest is not None and newest.trial is not None and newest.trial.progress in OPEN
    if (
        observation.autoboot is not None
        and not open_trial
        and observation.autoboot.trial not in (None, observation.autoboot.primary)
    ):
        notes.append(
            f"[tryboot] names partition {observation.autoboot.trial} although nothing is armed; "
            "the next `abboot confirm` points it back at the primary"
        )
    for slot, reading in observation.slots.items():
        known = newest.slots[slot] if newest else None
        if reading.problem:
            notes.append(f"slot {slot}: {reading.problem}")
        if (
            known is not None
            and reading.readable
            and known.record_digest is not None
            and known.record_digest != reading.record_digest
            and known.state is not SlotState.INCOMPLETE
        ):
            notes.append(f"slot {slot}: its record is not the one in the journal: somebody else wrote this slot")
        if reading.hidden:
            verb = "repair" if phase is Phase.OFFLINE else "confirm"
            notes.append(f"slot {slot}: its boot sector is away since an arm was cut; `abboot {verb}` restores it")
    if observation.flag_problem:
        notes.append(f"the tryboot flag cannot be read, so nothing can be armed: {observation.flag_problem}")
    odd = phase in (Phase.SETTLED, Phase.FOREIGN)
    if odd and observation.flag:
        notes.append("the tryboot flag is set although nothing is armed; `abboot confirm` clears it")
    if odd and "tryboot" in (observation.pending_argument or ""):
        notes.append("a reboot argument with tryboot is pending (H-12); `abboot confirm` removes it")
    fired = phase is Phase.SETTLED and observation.report is not None and bool(observation.report.tryboot)
    if fired and not open_trial and not any(_explains(entry, observation) for entry in observation.journal.entries):
        notes.append("this boot ran with the tryboot flag, but no trial was armed")
    return tuple(notes)


def _explains(entry: Entry, observation: Observation) -> bool:
    """The flag of this boot was that of a trial which ended in this boot."""
    explaining = (Transition.CONCLUDED, Transition.COMMITTED, Transition.EDITED)
    return entry.boot_id == observation.boot_id and entry.transition in explaining
