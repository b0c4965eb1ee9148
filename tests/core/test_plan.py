"""What a plan holds, and in which order: one switch, the journal first, the flag last, and nothing the second time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abboot.core.autoboot import Autoboot, parse_autoboot
from abboot.core.journal import Clocks, Entry, Journal
from abboot.core.plan import (
    SETTLE_SECONDS,
    TRYBOOT_ARGUMENT,
    Append,
    CheckFiles,
    ClearArgument,
    Hide,
    Plan,
    Reboot,
    SetArgument,
    SetFlag,
    Show,
    Stamp,
    Step,
    Switch,
    Wait,
    WriteSlot,
    plan_commit,
    plan_disarm,
    plan_fire,
    plan_leave,
    plan_rest,
    plan_stage,
    plan_started,
    plan_trial,
    slot_to_hide,
)
from abboot.core.protocols import BootReport
from abboot.core.states import Observation, classify
from abboot.core.words import Outcome, Phase, Slot, SlotState, Transition, TrialProgress
from abboot.errors import AbbootError, Damaged, Refused
from tests.core.test_states import (
    THIS_BOOT,
    A,
    B,
    entry,
    observations,
    observed,
    reading,
    trial_of,
)

GEOMETRY = {"sector_size": 512}
STAMP = Stamp(boot_id=THIS_BOOT, clocks=Clocks(realtime_s=1.0, boottime_s=100.0), version="1")


def mirrored(found: Observation) -> Observation:
    """The same with b as primary and a as the other."""
    other = {2: 3, 3: 2}
    text = found.autoboot
    swapped = None if text is None else Autoboot(primary=other[text.primary], trial=other[text.trial])
    newest = found.journal.newest
    assert newest is not None
    slots = {slot: attrs.evolve(newest.slots[slot.other], partition=newest.slots[slot].partition) for slot in Slot}
    trial = newest.trial and attrs.evolve(newest.trial, slot=newest.trial.slot.other)
    return attrs.evolve(
        found,
        autoboot=swapped,
        autoboot_raw=swapped.render() if swapped else found.autoboot_raw,
        report=found.report and attrs.evolve(found.report, partition=other[found.report.partition or 2]),
        journal=Journal(entries=(attrs.evolve(newest, primary=newest.primary.other, slots=slots, trial=trial),)),
        slots={slot: attrs.evolve(found.slots[slot.other], partition=found.slots[slot].partition) for slot in Slot},
    )


SETTLED = observed(newest=entry())
ARMED = observed(tryboot_section=3, newest=entry(trial=trial_of(armed_boot_id=THIS_BOOT)), flag=True)
ARMED = attrs.evolve(ARMED, pending_argument=TRYBOOT_ARGUMENT)
TRIAL = observed(booted=3, tryboot=True, tryboot_section=3, newest=entry(trial=trial_of()))
FELL_BACK = observed(tryboot_section=3, newest=entry(trial=trial_of(progress=TrialProgress.STARTED)))


def stage(found: Observation, stamp: Stamp = STAMP) -> Plan:
    slot = classify(found).inactive
    assert slot is not None
    return plan_stage(
        found, classify(found), stamp, slot=slot, attempts=1, record_digest="d" * 64, generation=3, volume_id=7,
        label="BOOT", geometry=GEOMETRY,
    )  # fmt: skip


def try_(found: Observation, *, reboot: bool = True) -> Plan:
    slot = classify(found).inactive
    assert slot is not None
    return plan_trial(found, classify(found), STAMP, slot=slot, attempts=1, reboot=reboot)


def rest(found: Observation) -> Plan:
    return plan_rest(found, classify(found), STAMP, attempts=1)


def disarm(found: Observation) -> Plan:
    return plan_disarm(found, classify(found), STAMP, attempts=1)


def commit(found: Observation) -> Plan:
    return plan_commit(found, classify(found), STAMP)


def leave(found: Observation) -> Plan:
    return plan_leave(found, classify(found), STAMP, reason="because", reboot=True)


def started(found: Observation) -> Plan:
    return plan_started(found, classify(found), STAMP)


def fire(found: Observation) -> Plan:
    return plan_fire(found, classify(found), STAMP, reboot=True)


def kinds(plan: Plan) -> list[str]:
    """The steps in words; of an entry its transition."""
    return [str(s.entry.transition) if isinstance(s, Append) else type(s).__name__ for s in plan.steps]


def switched(plan: Plan) -> Autoboot:
    (switch,) = (step for step in plan.steps if isinstance(step, Switch))
    return parse_autoboot(switch.after)


# -- the orders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "found", "expected"),
    [
        (stage, SETTLED, ["staging", "WriteSlot", "staged"]),
        (stage, ARMED, ["SetFlag", "ClearArgument", "disarmed", "Switch", "staging", "WriteSlot", "staged"]),
        (stage, FELL_BACK, ["concluded", "Switch", "staging", "WriteSlot", "staged"]),
        (try_, SETTLED, ["CheckFiles", "armed", "Switch", "SetFlag", "SetArgument", "Reboot"]),
        (fire, ARMED, ["CheckFiles", "Reboot"]),
        (disarm, ARMED, ["SetFlag", "ClearArgument", "disarmed", "Switch"]),
        (rest, FELL_BACK, ["concluded", "Switch"]),
        (rest, SETTLED, []),
        (started, TRIAL, ["started"]),
        (commit, TRIAL, ["CheckFiles", "committing", "Switch", "committed"]),
        (leave, TRIAL, ["reverting", "Switch", "Reboot"]),
    ],
)
def test_the_steps_come_in_this_order(
    plan: Callable[[Observation], Plan], found: Observation, expected: list[str]
) -> None:
    assert kinds(plan(found)) == expected


@pytest.mark.parametrize(
    ("plan", "found", "expected"),
    [
        # A torn autoboot.txt means partition 2 (H-15): a has no boot sector while it is written.
        (stage, ARMED, ["SetFlag", "ClearArgument", "disarmed", "Hide", "Switch", "staging", "WriteSlot", "staged"]),
        (try_, SETTLED, ["CheckFiles", "armed", "Hide", "Switch", "Show", "SetFlag", "SetArgument", "Reboot"]),
        (disarm, ARMED, ["SetFlag", "ClearArgument", "disarmed", "Hide", "Switch", "Show"]),
        (rest, FELL_BACK, ["concluded", "Hide", "Switch", "Show"]),
        # Both slots of a commit have passed: neither needs hiding.
        (commit, TRIAL, ["CheckFiles", "committing", "Switch", "committed"]),
        # Slot a runs (G4): it is not hidden, so autoboot.txt waits for the next boot.
        (leave, TRIAL, ["reverting", "Reboot"]),
    ],
)
def test_with_b_as_primary_a_is_hidden_while_autoboot_txt_is_written(
    plan: Callable[[Observation], Plan], found: Observation, expected: list[str]
) -> None:
    steps = plan(mirrored(found))

    assert kinds(steps) == expected
    assert {step.slot for step in steps.steps if isinstance(step, Hide | Show)} <= {A}


def test_what_the_switches_write() -> None:
    assert switched(try_(SETTLED)) == Autoboot(primary=2, trial=3)
    assert switched(commit(TRIAL)) == Autoboot(primary=3, trial=3)
    assert switched(disarm(ARMED)) == Autoboot(primary=2, trial=2)
    assert switched(leave(TRIAL)) == Autoboot(primary=2, trial=2)
    assert switched(rest(mirrored(FELL_BACK))) == Autoboot(primary=3, trial=3)


def test_an_adopted_file_keeps_its_length() -> None:
    text = Autoboot(primary=2, trial=2)
    found = attrs.evolve(SETTLED, autoboot_raw=text.render(200))

    (switch,) = (step for step in try_(found).steps if isinstance(step, Switch))

    assert len(switch.before) == len(switch.after) == 200


def test_intent_and_result_of_a_commit_are_told_apart() -> None:
    intent, done = (step.entry for step in commit(TRIAL).steps if isinstance(step, Append))

    assert (intent.primary, done.primary) == (A, B)
    assert intent.trial is not None
    assert done.trial is not None
    assert (intent.trial.progress, done.trial.outcome) == (TrialProgress.COMMITTING, Outcome.COMMITTED)
    assert (intent.slots[B].state, done.slots[B].state) == (SlotState.STAGED, SlotState.GOOD)
    assert intent.autoboot_after == Autoboot(primary=3, trial=3).render()


def test_volume_id_label_and_geometry_are_in_the_journal_before_the_slot_is_written() -> None:
    plan = stage(SETTLED)
    before = plan.steps[0]

    assert isinstance(before, Append)
    known = before.entry.slots[B]
    assert (known.state, known.record_digest) == (SlotState.INCOMPLETE, None)
    assert (known.volume_id, known.label, known.geometry) == (7, "BOOT", GEOMETRY)


def test_the_geometry_of_a_slot_is_in_the_journal_before_it_is_hidden() -> None:
    found = mirrored(SETTLED)
    found = attrs.evolve(
        found, slots={**found.slots, A: attrs.evolve(found.slots[A], geometry=GEOMETRY, volume_id=9, label="X")}
    )
    steps = try_(found).steps
    armed = next(step.entry for step in steps if isinstance(step, Append))

    assert armed.slots[A].geometry == GEOMETRY
    assert [type(step) for step in steps].index(Hide) > [type(step) for step in steps].index(Append)


# -- a hidden slot --------------------------------------------------------------------------------------------------


def with_hidden_a(found: Observation) -> Observation:
    return attrs.evolve(found, slots={**found.slots, A: reading(A, readable=False, hidden=True)})


@pytest.mark.parametrize(("plan", "found"), [(rest, SETTLED), (rest, FELL_BACK), (try_, SETTLED), (fire, ARMED)])
def test_a_slot_that_a_cut_left_hidden_is_shown_again(plan: Callable[[Observation], Plan], found: Observation) -> None:
    steps = kinds(plan(with_hidden_a(mirrored(found))))

    assert "Hide" not in steps
    assert "Show" in steps
    if "Switch" in steps:
        assert steps.index("Show") > steps.index("Switch")
    if "SetFlag" in steps:
        assert steps.index("Show") < steps.index("SetFlag")


def test_a_slot_that_is_to_be_written_is_not_shown_before() -> None:
    for found in (SETTLED, ARMED, FELL_BACK):
        assert "Show" not in kinds(stage(with_hidden_a(mirrored(found))))


# -- the flag and the argument --------------------------------------------------------------------------------------


def test_firing_does_what_is_not_done_yet() -> None:
    assert kinds(fire(attrs.evolve(ARMED, flag=False))) == ["CheckFiles", "SetFlag", "Reboot"]
    assert kinds(fire(attrs.evolve(ARMED, pending_argument=None))) == ["CheckFiles", "SetArgument", "Reboot"]
    assert not plan_fire(ARMED, classify(ARMED), STAMP, reboot=False)


def test_a_flag_that_nobody_can_read_is_not_cleared() -> None:
    assert "SetFlag" not in kinds(rest(attrs.evolve(FELL_BACK, flag=None)))


def test_a_foreign_argument_is_left_alone_by_disarming() -> None:
    assert "ClearArgument" not in kinds(rest(attrs.evolve(FELL_BACK, pending_argument="halt")))


def test_leaving_clears_the_flag_before_the_reboot() -> None:
    found = attrs.evolve(TRIAL, flag=True, pending_argument=TRYBOOT_ARGUMENT)

    assert kinds(leave(found)) == ["reverting", "SetFlag", "ClearArgument", "Switch", "Reboot"]
    assert leave(found).steps[-1] == Reboot(None)
    assert try_(SETTLED).steps[-1] == Reboot(TRYBOOT_ARGUMENT)


def test_leaving_with_a_damaged_file_still_reboots() -> None:
    found = attrs.evolve(TRIAL, autoboot=None, autoboot_raw=b"?")

    assert kinds(leave(found)) == ["reverting", "Reboot"]


# -- attempts and files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "attempt"),
    [
        (None, 1),
        (trial_of(progress=TrialProgress.ENDED, attempt=2), 3),
        (trial_of(progress=TrialProgress.ENDED, attempt=1000), 1000),
        (trial_of(progress=TrialProgress.ENDED, outcome=Outcome.COMMITTED, attempt=2), 1),
        (trial_of(progress=TrialProgress.ENDED, outcome=Outcome.DISARMED, attempt=2), 1),
        (trial_of(progress=TrialProgress.ENDED, record_digest="e" * 64, attempt=2), 1),
        (trial_of(A, progress=TrialProgress.ENDED, attempt=2), 1),
        (trial_of(progress=TrialProgress.ARMED, attempt=4), 5),
        (trial_of(progress=TrialProgress.ARMED, armed_boot_id=THIS_BOOT, attempt=4), 1),
    ],
)
def test_attempts_of_one_record_are_counted(last: Any, attempt: int) -> None:
    entries = [step.entry for step in try_(observed(newest=entry(trial=last))).steps if isinstance(step, Append)]

    assert entries[-1].trial is not None
    assert entries[-1].trial.attempt == attempt


def test_only_a_slot_that_ran_before_may_have_been_edited() -> None:
    staged = next(step for step in try_(SETTLED).steps if isinstance(step, CheckFiles))
    good = next(s for s in try_(observed(newest=entry(b=SlotState.GOOD))).steps if isinstance(s, CheckFiles))
    running = next(step for step in commit(TRIAL).steps if isinstance(step, CheckFiles))

    assert (staged.edited_is_fine, good.edited_is_fine, running.edited_is_fine) == (False, True, True)
    assert staged.record_digest == reading(B).record_digest


# -- the five seconds -----------------------------------------------------------------------------------------------


def written(transition: Transition, at_s: float) -> Entry:
    return entry(transition=transition, boot_id=THIS_BOOT, clocks=Clocks(realtime_s=0.0, boottime_s=at_s))


@pytest.mark.parametrize(("at_s", "wait_s"), [(100.0, 5.0), (97.0, 2.0), (95.0, 0.0), (10.0, 0.0)])
def test_a_stage_waits_for_what_is_left_of_five_seconds(at_s: float, wait_s: float) -> None:
    newest = written(Transition.COMMITTED, at_s)

    waits = [step.seconds for step in stage(observed(newest=newest)).steps if isinstance(step, Wait)]

    assert waits == ([wait_s] if wait_s else [])
    assert SETTLE_SECONDS == 5.0


@pytest.mark.parametrize(("later", "wait_s"), [([], 5.0), ([97.0], 2.0), ([97.0, 99.0], 2.0), ([95.0], 0.0)])
def test_a_switch_that_nobody_journalled_as_done_came_before_the_next_entry_or_now(
    later: list[float], wait_s: float
) -> None:
    """The intent was written before it: how long before, nobody knows."""
    entries = (written(Transition.COMMITTING, 10.0), *(written(Transition.CONCLUDED, at_s) for at_s in later))
    observation = attrs.evolve(observed(newest=entries[-1]), journal=Journal(entries=entries))

    waits = [step.seconds for step in stage(observation).steps if isinstance(step, Wait)]

    assert waits == ([wait_s] if wait_s else [])


def test_a_switch_of_an_earlier_boot_needs_no_waiting() -> None:
    newest = entry(transition=Transition.COMMITTED, boot_id="before", clocks=Clocks(realtime_s=0.0, boottime_s=99.0))

    assert not [step for step in stage(observed(newest=newest)).steps if isinstance(step, Wait)]


def test_hiding_the_old_primary_waits_as_a_stage_does() -> None:
    """A card that loses the commit falls back to it: without its boot sector some boards boot nothing then."""
    found = mirrored(observed(newest=written(Transition.COMMITTED, 97.0)))

    plan = [type(step) for step in try_(found).steps]

    assert plan.index(Wait) == plan.index(Hide) - 1
    assert Wait not in [type(step) for step in try_(observed(newest=written(Transition.COMMITTED, 97.0))).steps]


def test_one_wait_is_enough_for_a_stage_that_disarms() -> None:
    newest = entry(
        transition=Transition.COMMITTED,
        boot_id=THIS_BOOT,
        clocks=Clocks(realtime_s=0.0, boottime_s=100.0),
        trial=trial_of(armed_boot_id=THIS_BOOT),
    )
    found = mirrored(attrs.evolve(ARMED, journal=Journal(entries=(newest,))))

    waits = [step.seconds for step in stage(found).steps if isinstance(step, Wait)]

    assert waits == [5.0]


# -- lost and damaged -----------------------------------------------------------------------------------------------


def test_a_trial_needs_a_journal_and_a_record() -> None:
    with pytest.raises(Refused, match="the journal is gone"):
        try_(observed())
    with pytest.raises(Refused, match="it holds no record"):
        try_(attrs.evolve(SETTLED, slots={A: reading(A), B: reading(B, record=None, record_digest=None)}))


def test_a_damaged_file_is_changed_by_no_plan() -> None:
    damaged = attrs.evolve(SETTLED, autoboot=None, autoboot_raw=b"?", autoboot_problem="it is garbage")

    for plan in (stage, try_, rest):
        with pytest.raises(Damaged, match="it is garbage"):
            plan(damaged)


def test_a_lost_journal_begins_again_with_what_is_known() -> None:
    (step,) = rest(observed()).steps

    assert isinstance(step, Append)
    assert (step.entry.transition, step.entry.note) == (Transition.REPAIRED, "the journal held no entry")
    assert {known.state for known in step.entry.slots.values()} == {SlotState.UNKNOWN}


def test_an_edit_that_made_the_slot_on_trial_the_primary_ends_the_trial() -> None:
    found = observed(booted=3, all_=3, newest=entry(trial=trial_of(progress=TrialProgress.STARTED)))

    (step,) = rest(found).steps

    assert isinstance(step, Append)
    assert (step.entry.transition, step.entry.primary) == (Transition.EDITED, B)
    assert step.entry.trial is not None
    assert step.entry.trial.outcome is Outcome.DISARMED
    assert step.entry.slots[B].state is SlotState.STAGED


def test_the_counter_of_repairs_is_back_at_zero_once_the_primary_was_seen() -> None:
    (step,) = rest(observed(newest=entry(repair_reboots=1))).steps

    assert isinstance(step, Append)
    assert step.entry.repair_reboots == 0


def test_a_trial_that_is_being_left_cannot_be_committed() -> None:
    found = attrs.evolve(TRIAL, journal=Journal(entries=(entry(trial=trial_of(progress=TrialProgress.REVERTING)),)))

    with pytest.raises(Refused, match="being reverted"):
        commit(found)


# -- rules of every plan --------------------------------------------------------------------------------------------


def test_a_plan_with_two_switches_or_a_step_after_the_reboot_is_no_plan() -> None:
    switch = Switch(b"a", b"b")

    with pytest.raises(ValueError, match="at most one switch"):
        Plan((switch, SetFlag(True), switch))
    with pytest.raises(ValueError, match="nothing comes after a reboot"):
        Plan((Reboot(None), SetFlag(False)))


PLANS: dict[Callable[[Observation], Plan], frozenset[Phase]] = {
    stage: frozenset({Phase.SETTLED, Phase.ARMED, Phase.OFFLINE}),
    try_: frozenset({Phase.SETTLED}),
    rest: frozenset({Phase.SETTLED}),
    disarm: frozenset({Phase.ARMED}),
    fire: frozenset({Phase.ARMED}),
    started: frozenset({Phase.TRIAL}),
    commit: frozenset({Phase.TRIAL}),
    leave: frozenset({Phase.TRIAL}),
}


@settings(max_examples=400)
@given(found=observations, plan=st.sampled_from(list(PLANS)))
def test_every_plan_keeps_the_rules_whatever_was_read(found: Observation, plan: Callable[[Observation], Plan]) -> None:
    situation = classify(found)
    named = {found.autoboot.primary, found.autoboot.trial} if found.autoboot else set()
    if situation.phase not in PLANS[plan] or not named <= {2, 3}:
        return
    if plan in (stage, try_) and situation.inactive is None:
        return
    try:
        steps = plan(found).steps
    except AbbootError:
        return

    assert_rules(found, steps)


def assert_rules(found: Observation, steps: tuple[Step, ...]) -> None:
    situation = classify(found)
    at = {kind: [i for i, step in enumerate(steps) if isinstance(step, kind)] for kind in Step.__args__}  # type: ignore[attr-defined]
    # G4: neither the booted slot nor the primary is hidden or written.
    for kind in (Hide, WriteSlot):
        for index in at[kind]:
            assert steps[index].slot not in (situation.booted, situation.primary)  # type: ignore[union-attr]
    # The journal speaks before the switch, before the slot is written, and before the flag is set.
    for index in [*at[Switch], *at[WriteSlot]]:
        assert any(before < index for before in at[Append])
    setting = [index for index in at[SetFlag] if steps[index].value]  # type: ignore[union-attr]
    for index in setting:
        assert all(other < index for kind in (Append, Hide, Show, Switch, CheckFiles) for other in at[kind])
        assert all(clear < index for clear in at[SetFlag] if clear not in setting)
    # Disarming: the flag, then the argument, then `[tryboot]`.
    for index in at[SetFlag]:
        if index not in setting:
            assert all(index < other for other in [*at[ClearArgument], *at[Switch], *at[WriteSlot]])
    # What is hidden is hidden around the switch only, and shown again, unless it is about to be written.
    for index in at[Hide]:
        assert isinstance(steps[index + 1], Switch)
        assert at[Show] or at[WriteSlot]
    # Entries follow one another.
    numbers = [steps[index].entry.sequence for index in at[Append]]  # type: ignore[union-attr]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
    assert SetArgument() not in steps or setting or found.flag
    # Only a commit changes `[all]`, and only to the slot that runs as a trial.
    for index in at[Switch]:
        after = parse_autoboot(steps[index].after)  # type: ignore[union-attr]
        if found.autoboot is not None and after.primary != found.autoboot.primary:
            assert situation.phase is Phase.TRIAL
            assert after.primary == after.trial == found.layout.partition(situation.booted).number  # type: ignore[arg-type]


@pytest.mark.parametrize("found", [SETTLED, mirrored(SETTLED), FELL_BACK, mirrored(FELL_BACK), ARMED, mirrored(ARMED)])
def test_after_its_own_steps_a_plan_for_rest_is_empty(found: Observation) -> None:
    after = done(found, rest(found))

    assert classify(after).phase is Phase.SETTLED
    assert rest(after).steps == ()


def done(found: Observation, plan: Plan) -> Observation:
    """What would be read once the steps were done."""
    for step in plan.steps:
        match step:
            case Append(added):
                found = attrs.evolve(found, journal=Journal(entries=(*found.journal.entries, added)))
            case Switch(_, after):
                found = attrs.evolve(found, autoboot_raw=after, autoboot=parse_autoboot(after))
            case SetFlag(value):
                found = attrs.evolve(found, flag=value)
            case ClearArgument():
                found = attrs.evolve(found, pending_argument=None)
            case SetArgument():
                found = attrs.evolve(found, pending_argument=TRYBOOT_ARGUMENT)
            case Hide(slot):
                changed = attrs.evolve(found.slots[slot], readable=False, hidden=True)
                found = attrs.evolve(found, slots={**found.slots, slot: changed})
            case Show(slot):
                changed = attrs.evolve(found.slots[slot], readable=True, hidden=False)
                found = attrs.evolve(found, slots={**found.slots, slot: changed})
    return found


def test_after_arming_a_second_arm_is_empty_and_disarming_brings_everything_back() -> None:
    for begin in (SETTLED, mirrored(SETTLED)):
        after = done(begin, try_(begin, reboot=False))
        situation = classify(after)
        assert situation.phase is Phase.ARMED
        assert not plan_fire(after, situation, STAMP, reboot=False)

        back = done(after, disarm(after))

        assert classify(back).phase is Phase.SETTLED
        assert (back.flag, back.pending_argument, back.autoboot) == (False, None, begin.autoboot)
        assert classify(back).states == classify(begin).states


@pytest.mark.parametrize("begin", [TRIAL, mirrored(TRIAL)])
def test_a_commit_cut_after_any_step_ends_as_the_whole_one_does(begin: Observation) -> None:
    plan = commit(begin)
    whole = classify(done(begin, plan))
    for cut in range(len(plan.steps)):
        after = done(begin, Plan(plan.steps[:cut]))
        situation = classify(after)
        if situation.phase is Phase.TRIAL:
            again = done(after, commit(after))
        else:
            assert situation.outcome is not None
            assert situation.outcome.outcome is Outcome.COMMITTED
            again = done(after, rest(after))
        assert (classify(again).phase, classify(again).primary) == (whole.phase, whole.primary)
        assert classify(again).states == whole.states


def test_nothing_is_hidden_where_nobody_can_tell_what_is_booted() -> None:
    """G4: the slot below the primary may be the one that runs (H-07)."""
    found = mirrored(SETTLED)
    untold = attrs.evolve(found, report=BootReport(partition=0, tryboot=False))

    assert slot_to_hide(classify(found), found, B) is A
    assert slot_to_hide(classify(untold), untold, B) is None
    offline = attrs.evolve(untold, booted_here=False, report=None)
    assert slot_to_hide(classify(offline), offline, B) is A


def test_an_open_trial_of_what_is_the_primary_now_is_over() -> None:
    """A card that lost a commit, and a repair that took what the file says."""
    newest = entry(trial=trial_of(slot=A))

    appended = [step.entry for step in rest(observed(newest=newest)).steps if isinstance(step, Append)]

    assert [(one.trial.progress, one.trial.outcome) for one in appended if one.trial] == [
        (TrialProgress.ENDED, Outcome.DISARMED)
    ]


def test_a_commit_stamps_the_boot_that_was_the_trial() -> None:
    """Also where nobody did before: an arm is for one boot."""
    intent = next(step.entry for step in commit(TRIAL).steps if isinstance(step, Append))

    assert intent.trial is not None
    assert intent.trial.started_boot_id == THIS_BOOT
