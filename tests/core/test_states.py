"""Where a device stands and what may be done there: the three tables row by row, and what odd readings lead to."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abboot.core.autoboot import Autoboot
from abboot.core.journal import Entry, Journal, SlotEntry, Trial
from abboot.core.layout import Layout, discover
from abboot.core.partition_table import Partition, PartitionTable
from abboot.core.protocols import BootReport
from abboot.core.record import Record
from abboot.core.states import (
    OPEN,
    OUTCOMES,
    PERMITS,
    REFUSALS,
    Observation,
    OutcomeRule,
    Permit,
    SlotReading,
    Verb,
    classify,
    outcome_of,
    primary_of,
    slot_after,
)
from abboot.core.words import Outcome, Phase, Slot, SlotState, TableKind, Transition, TrialProgress

A, B = Slot.A, Slot.B
NUMBER = {A: 2, B: 3}
DIGEST = {A: "a" * 64, B: "b" * 64}
THIS_BOOT, EARLIER = "boot-2", "boot-1"


def layout() -> Layout:
    partitions = tuple(
        Partition(number=number, start=number << 20, size=1 << 20, type_id="0x0c") for number in (1, 2, 3)
    )
    return discover(PartitionTable(kind=TableKind.MBR, disk_id="1234abcd", partitions=partitions))


LAYOUT = layout()


def reading(slot: Slot, **changes: Any) -> SlotReading:
    record = Record(slot=slot, generation=1, abboot_version="1", label="", tree_digest="c" * 64)
    found = SlotReading(partition=NUMBER[slot], readable=True, record=record, record_digest=DIGEST[slot])
    return attrs.evolve(found, **changes)


def entry(*, primary: Slot = A, trial: Trial | None = None, b: SlotState = SlotState.STAGED, **changes: Any) -> Entry:
    slots = {
        A: SlotEntry(partition=2, state=SlotState.GOOD, record_digest=DIGEST[A], generation=1),
        B: SlotEntry(partition=3, state=b, record_digest=DIGEST[B], generation=2),
    }
    made = Entry(sequence=5, transition=Transition.STAGED, primary=primary, slots=slots, trial=trial, boot_id=EARLIER)
    return attrs.evolve(made, **changes)


def trial_of(slot: Slot = B, progress: TrialProgress = TrialProgress.ARMED, **changes: Any) -> Trial:
    made = Trial(
        slot=slot,
        record_digest=DIGEST[slot],
        armed_boot_id=EARLIER,
        progress=progress,
        outcome=Outcome.FELL_BACK if progress is TrialProgress.ENDED else None,
    )
    return attrs.evolve(made, **changes)


def observed(
    *,
    booted: int | None = 2,
    tryboot: bool | None = False,
    all_: int = 2,
    tryboot_section: int | None = None,
    newest: Entry | None = None,
    **changes: Any,
) -> Observation:
    text = Autoboot(primary=all_, trial=tryboot_section or all_)
    made = Observation(
        layout=LAYOUT,
        booted_here=True,
        report=BootReport(partition=booted, tryboot=tryboot),
        boot_id=THIS_BOOT,
        flag=False,
        autoboot_raw=text.render(),
        autoboot=text,
        journal=Journal(entries=() if newest is None else (newest,)),
        slots={slot: reading(slot) for slot in Slot},
    )
    return attrs.evolve(made, **changes)


SETTLED = observed(newest=entry())
ARMED = observed(tryboot_section=3, newest=entry(trial=trial_of(armed_boot_id=THIS_BOOT)))
TRIAL = observed(booted=3, tryboot=True, tryboot_section=3, newest=entry(trial=trial_of()))


# -- the tables -----------------------------------------------------------------------------------------------------


def test_every_phase_says_something_of_every_verb() -> None:
    assert set(PERMITS) == set(Phase)
    for phase, row in PERMITS.items():
        assert set(row) == set(Verb), phase


def test_every_refusal_has_its_reason_and_its_way_out_and_nothing_else_has() -> None:
    refused = {(phase, verb) for phase, row in PERMITS.items() for verb, p in row.items() if p is Permit.REFUSE}

    assert set(REFUSALS) == refused
    for why, hint in REFUSALS.values():
        assert why
        assert hint
        assert why == why.strip().removesuffix(".")


#: The table as the guarantees have it, written a second time and by hand.
TABLE = """
settled  do do - try
armed    disarm+do finish no disarm
trial    no no switch leave
foreign  no no no no
offline  do no no no
"""
SHORT = {
    "do": Permit.DO, "-": Permit.NOTHING, "try": Permit.TRY_OTHER, "disarm+do": Permit.DISARM_FIRST,
    "finish": Permit.FINISH, "no": Permit.REFUSE, "disarm": Permit.DISARM, "switch": Permit.SWITCH,
    "leave": Permit.LEAVE,
}  # fmt: skip


@pytest.mark.parametrize("row", TABLE.split("\n")[1:-1], ids=lambda row: row.split()[0])
def test_each_row_permits_what_the_guarantees_say(row: str) -> None:
    phase, *permits = row.split()

    assert [PERMITS[Phase(phase)][verb] for verb in (Verb.STAGE, Verb.TRIAL, Verb.COMMIT, Verb.REVERT)] == [
        SHORT[word] for word in permits
    ]


@pytest.mark.parametrize(
    ("progress", "all_", "tryboot", "armed_in", "outcome", "becomes"),
    [
        (TrialProgress.COMMITTING, 3, False, EARLIER, Outcome.COMMITTED, SlotState.GOOD),
        (TrialProgress.COMMITTING, 3, True, EARLIER, Outcome.COMMITTED, SlotState.GOOD),
        (TrialProgress.COMMITTING, 2, False, EARLIER, Outcome.PASSED_UNCOMMITTED, SlotState.STAGED),
        (TrialProgress.REVERTING, 2, False, EARLIER, Outcome.REVERTED, SlotState.FAILED),
        (TrialProgress.STARTED, 2, False, EARLIER, Outcome.FELL_BACK, SlotState.FAILED),
        (TrialProgress.STARTED, 2, True, EARLIER, Outcome.FELL_BACK, SlotState.FAILED),
        (TrialProgress.ARMED, 2, True, EARLIER, Outcome.UNBOOTABLE, SlotState.FAILED),
        (TrialProgress.ARMED, 2, False, EARLIER, Outcome.NOT_REACHED, SlotState.STAGED),
        (TrialProgress.ARMED, 2, False, THIS_BOOT, Outcome.DISARMED, SlotState.STAGED),
        (TrialProgress.ARMED, 2, True, THIS_BOOT, Outcome.DISARMED, SlotState.STAGED),
    ],
)
def test_how_a_trial_ended_follows_from_the_next_boot(
    progress: TrialProgress, all_: int, tryboot: bool, armed_in: str, outcome: Outcome, becomes: SlotState
) -> None:
    found = observed(
        booted=all_, all_=all_, tryboot=tryboot, newest=entry(trial=trial_of(progress=progress, armed_boot_id=armed_in))
    )

    situation = classify(found)

    assert situation.phase is Phase.SETTLED
    assert situation.outcome is not None
    assert (situation.outcome.outcome, situation.outcome.slot_becomes) == (outcome, becomes)
    assert situation.outcome.meaning


def test_every_row_of_the_outcomes_is_reached_by_something() -> None:
    reached: set[OutcomeRule | None] = set()
    for progress in OPEN:
        for all_ in (2, 3):
            for tryboot in (False, True):
                for armed_in in (EARLIER, THIS_BOOT):
                    trial = trial_of(progress=progress, armed_boot_id=armed_in)
                    reached.add(outcome_of(observed(all_=all_, tryboot=tryboot, newest=entry(trial=trial)), trial))

    assert reached - {None} == set(OUTCOMES)


def test_a_trial_slot_that_a_person_made_the_primary_has_no_outcome() -> None:
    for progress in OPEN - {TrialProgress.COMMITTING}:
        found = observed(booted=3, all_=3, newest=entry(trial=trial_of(progress=progress)))

        situation = classify(found)

        assert (situation.phase, situation.outcome, situation.edited) == (Phase.SETTLED, None, True)


def rule(outcome: Outcome) -> OutcomeRule:
    return next(row for row in OUTCOMES if row.outcome is outcome)


@pytest.mark.parametrize(
    ("outcome", "attempt", "attempts", "before", "after"),
    [
        (Outcome.NOT_REACHED, 1, 2, SlotState.STAGED, SlotState.STAGED),
        (Outcome.NOT_REACHED, 2, 2, SlotState.STAGED, SlotState.FAILED),
        (Outcome.NOT_REACHED, 1, 2, SlotState.GOOD, SlotState.GOOD),
        (Outcome.NOT_REACHED, 2, 2, SlotState.GOOD, SlotState.GOOD),
        (Outcome.PASSED_UNCOMMITTED, 5, 1, SlotState.STAGED, SlotState.STAGED),
        (Outcome.PASSED_UNCOMMITTED, 1, 1, SlotState.GOOD, SlotState.GOOD),
        (Outcome.DISARMED, 9, 1, SlotState.STAGED, SlotState.STAGED),
        (Outcome.DISARMED, 9, 1, SlotState.FAILED, SlotState.FAILED),
        (Outcome.DISARMED, 9, 1, SlotState.GOOD, SlotState.GOOD),
        (Outcome.REVERTED, 1, 5, SlotState.GOOD, SlotState.FAILED),
        (Outcome.FELL_BACK, 1, 5, SlotState.STAGED, SlotState.FAILED),
        (Outcome.UNBOOTABLE, 1, 5, SlotState.STAGED, SlotState.FAILED),
        (Outcome.COMMITTED, 1, 1, SlotState.STAGED, SlotState.GOOD),
    ],
)
def test_what_the_slot_becomes(
    outcome: Outcome, attempt: int, attempts: int, before: SlotState, after: SlotState
) -> None:
    assert slot_after(rule(outcome), trial_of(attempt=attempt), attempts, before) is after


# -- phases ---------------------------------------------------------------------------------------------------------


def test_the_primary_booted_and_nothing_armed_is_settled() -> None:
    situation = classify(SETTLED)

    assert (situation.phase, situation.booted, situation.primary, situation.inactive) == (Phase.SETTLED, A, A, B)
    assert situation.states == {A: SlotState.GOOD, B: SlotState.STAGED}
    assert situation.notes == ()
    assert situation.armed is situation.trial is situation.outcome is None


def test_armed_in_this_boot_and_named_by_tryboot_is_armed() -> None:
    situation = classify(ARMED)

    assert (situation.phase, situation.armed, situation.outcome) == (Phase.ARMED, B, None)


def test_the_armed_slot_booted_by_the_flag_is_a_trial_and_leaves_no_inactive_slot() -> None:
    situation = classify(TRIAL)

    assert (situation.phase, situation.booted, situation.primary) == (Phase.TRIAL, B, A)
    assert situation.inactive is None


@pytest.mark.parametrize("progress", sorted(OPEN))
def test_a_trial_stays_one_until_it_ended(progress: TrialProgress) -> None:
    trial = trial_of(progress=progress, started_boot_id=THIS_BOOT)

    assert classify(attrs.evolve(TRIAL, journal=Journal(entries=(entry(trial=trial),)))).phase is Phase.TRIAL


def test_an_image_is_offline_and_the_board_is_not_asked() -> None:
    situation = classify(attrs.evolve(TRIAL, booted_here=False))

    assert (situation.phase, situation.booted, situation.booted_partition) == (Phase.OFFLINE, None, None)
    assert situation.inactive is B


FOREIGN = {
    "no device tree node": attrs.evolve(SETTLED, report=None),
    "partition 0": attrs.evolve(SETTLED, report=BootReport(partition=0, tryboot=False)),
    "no partition told": attrs.evolve(SETTLED, report=BootReport()),
    "the selector": attrs.evolve(SETTLED, report=BootReport(partition=1, tryboot=False)),
    "a partition that does not exist": attrs.evolve(SETTLED, report=BootReport(partition=9, tryboot=False)),
    "nothing says which is primary": attrs.evolve(SETTLED, autoboot=None, journal=Journal()),
    "reboot 3": attrs.evolve(SETTLED, report=BootReport(partition=3, tryboot=False)),
    "a stray flag with nothing armed": attrs.evolve(SETTLED, report=BootReport(partition=3, tryboot=True)),
    "reboot 3 while armed": attrs.evolve(TRIAL, report=BootReport(partition=3, tryboot=False)),
    "nobody says whether the flag was set": attrs.evolve(TRIAL, report=BootReport(partition=3, tryboot=None)),
    "the journal is gone": attrs.evolve(TRIAL, journal=Journal()),
    "the journal is newer": attrs.evolve(TRIAL, journal=Journal(entries=TRIAL.journal.entries, newer=True)),
    "the trial is over": attrs.evolve(
        TRIAL, journal=Journal(entries=(entry(trial=trial_of(progress=TrialProgress.ENDED)),))
    ),
    "the other slot was armed": attrs.evolve(TRIAL, journal=Journal(entries=(entry(trial=trial_of(A)),))),
    "the second boot of an arm": attrs.evolve(
        TRIAL,
        journal=Journal(entries=(entry(trial=trial_of(progress=TrialProgress.STARTED, started_boot_id=EARLIER)),)),
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_cannot_be_explained_is_foreign_and_everything_is_refused(case: str) -> None:
    situation = classify(FOREIGN[case])

    assert situation.phase is Phase.FOREIGN
    assert situation.reason
    assert {situation.permit(verb) for verb in Verb} == {Permit.REFUSE}


NOT_ARMED = {
    "armed in an earlier boot": attrs.evolve(ARMED, journal=Journal(entries=(entry(trial=trial_of()),))),
    "[tryboot] names the primary": observed(newest=ARMED.journal.newest),
    "autoboot.txt is damaged": attrs.evolve(ARMED, autoboot=None, autoboot_raw=b"?"),
}


@pytest.mark.parametrize("case", NOT_ARMED)
def test_an_arm_that_does_not_stand_is_none(case: str) -> None:
    situation = classify(NOT_ARMED[case])

    assert situation.phase is Phase.SETTLED
    assert situation.armed is None
    assert situation.outcome is not None


# -- the primary, and what is odd -----------------------------------------------------------------------------------


def test_a_file_that_parses_wins_over_the_journal_and_is_noted() -> None:
    situation = classify(observed(booted=3, all_=3, newest=entry(primary=A)))

    assert (situation.primary, situation.edited) == (B, True)
    assert any("was edited" in note for note in situation.notes)


def test_our_own_switch_without_its_entry_is_not_an_edit() -> None:
    found = observed(booted=3, all_=3, newest=entry(trial=trial_of(progress=TrialProgress.COMMITTING)))

    assert not classify(found).edited


def test_of_a_damaged_file_the_journal_says_the_primary() -> None:
    found = observed(booted=3, newest=entry(primary=B), autoboot=None, autoboot_raw=b"", autoboot_problem="it is empty")

    assert primary_of(found) is B
    assert classify(found).phase is Phase.SETTLED
    assert any("it is empty" in note and "abboot repair" in note for note in classify(found).notes)


def test_a_cut_commit_with_a_damaged_file_leaves_the_old_primary() -> None:
    trial = trial_of(progress=TrialProgress.COMMITTING)
    found = observed(newest=entry(trial=trial), autoboot=None, autoboot_raw=b"?")

    assert primary_of(found) is A


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"flag": True}, "the tryboot flag is set although nothing is armed"),
        ({"pending_argument": "0 tryboot"}, "H-12"),
        ({"journal": Journal()}, "the journal is gone"),
        ({"journal": Journal(newer=True)}, "a newer abboot"),
        ({"report": BootReport(partition=2, tryboot=True)}, "no trial was armed"),
        ({"autoboot": Autoboot(primary=2, trial=3)}, "[tryboot] names partition 3 although nothing is armed"),
        ({"slots": {A: reading(A), B: reading(B, record_digest="d" * 64)}}, "somebody else wrote this slot"),
        ({"slots": {A: reading(A), B: reading(B, readable=False, hidden=True)}}, "its boot sector is away"),
        ({"slots": {A: reading(A), B: reading(B, problem="it has three FATs")}}, "slot b: it has three FATs"),
    ],
)
def test_what_is_odd_is_noted(changes: dict[str, Any], words: str) -> None:
    notes = classify(attrs.evolve(SETTLED, **changes)).notes

    assert [note for note in notes if words in note]


@pytest.mark.parametrize(
    ("known", "found", "state"),
    [
        (SlotState.STAGED, reading(B), SlotState.STAGED),
        (SlotState.GOOD, reading(B, readable=False, hidden=True), SlotState.GOOD),
        (SlotState.GOOD, reading(B, readable=False), SlotState.INCOMPLETE),
        (SlotState.STAGED, reading(B, record_digest="d" * 64), SlotState.UNKNOWN),
        (SlotState.STAGED, reading(B, record=None, record_digest=None), SlotState.UNKNOWN),
        (SlotState.INCOMPLETE, reading(B, readable=False), SlotState.INCOMPLETE),
        (SlotState.INCOMPLETE, reading(B), SlotState.UNKNOWN),
        (SlotState.EMPTY, reading(B, readable=False), SlotState.EMPTY),
        (SlotState.EMPTY, reading(B), SlotState.UNKNOWN),
        (SlotState.FAILED, reading(B), SlotState.FAILED),
        (None, reading(B), SlotState.UNKNOWN),
        (None, reading(B, readable=False), SlotState.EMPTY),
    ],
)
def test_a_slot_is_what_the_journal_says_where_the_medium_agrees(
    known: SlotState | None, found: SlotReading, state: SlotState
) -> None:
    journal = Journal() if known is None else Journal(entries=(entry(b=known),))

    assert classify(attrs.evolve(SETTLED, journal=journal, slots={A: reading(A), B: found})).states[B] is state


# -- everything that could be read ----------------------------------------------------------------------------------

_digests = st.sampled_from([*DIGEST.values(), "d" * 64])
_boots = st.sampled_from([THIS_BOOT, EARLIER, None])
_trials = st.builds(
    lambda progress, outcome, **fields: Trial(
        progress=progress, outcome=outcome if progress is TrialProgress.ENDED else None, **fields
    ),
    progress=st.sampled_from(TrialProgress),
    outcome=st.sampled_from(Outcome),
    slot=st.sampled_from(Slot),
    record_digest=_digests,
    armed_boot_id=_boots,
    started_boot_id=_boots,
)
_entries = st.builds(
    entry,
    primary=st.sampled_from(Slot),
    trial=st.none() | _trials,
    b=st.sampled_from(SlotState),
    transition=st.sampled_from(Transition),
)
_readings = {
    slot: st.builds(
        SlotReading,
        partition=st.just(NUMBER[slot]),
        readable=st.booleans(),
        hidden=st.booleans(),
        record_digest=st.none() | _digests,
        problem=st.sampled_from(["", "odd"]),
    )
    for slot in Slot
}
_numbers = st.integers(1, 5)
observations = st.builds(
    Observation,
    layout=st.just(LAYOUT),
    booted_here=st.booleans(),
    report=st.none()
    | st.builds(
        BootReport, partition=st.none() | st.integers(0, 5), tryboot=st.none() | st.booleans(), model=st.just("x")
    ),
    boot_id=st.just(THIS_BOOT),
    flag=st.none() | st.booleans(),
    pending_argument=st.sampled_from([None, "0 tryboot", "3"]),
    autoboot_raw=st.none() | st.binary(max_size=80),
    autoboot=st.none() | st.builds(Autoboot, primary=_numbers, trial=_numbers),
    journal=st.builds(Journal, entries=st.lists(_entries, max_size=2).map(tuple), newer=st.booleans()),
    slots=st.fixed_dictionaries(_readings),
)


@settings(max_examples=400)
@given(found=observations)
def test_whatever_was_read_there_is_a_phase_that_keeps_the_guarantees(found: Observation) -> None:
    situation = classify(found)

    assert situation.reason
    if situation.inactive is not None:
        assert situation.inactive not in (situation.booted, situation.primary)  # G4
    if situation.phase is Phase.TRIAL:  # G6
        assert found.report is not None
        assert found.report.tryboot is True
        assert situation.trial is not None
        assert situation.trial.slot is situation.booted is not situation.primary
        assert situation.trial.progress in OPEN
        assert not found.journal.newer
        assert situation.inactive is None
    if situation.phase in (Phase.SETTLED, Phase.ARMED):
        assert situation.booted is situation.primary is not None
    if situation.armed is not None:
        assert situation.phase is Phase.ARMED
        assert situation.armed is not situation.booted
    if situation.phase is Phase.FOREIGN:
        assert {situation.permit(verb) for verb in Verb} == {Permit.REFUSE}
    if not found.booted_here:
        assert situation.phase is Phase.OFFLINE
        assert situation.booted is None
