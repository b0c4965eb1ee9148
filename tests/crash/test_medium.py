"""What a medium may do with what it was given: keep any part of it until a flush, or acknowledge it and lose it.

Here the order of things is judged, where ``test_states`` judges what boots: what is on the medium when the flag is
set, when a slot is written, and when somebody is told that it is done.
"""

from __future__ import annotations

import pytest

from abboot.core.words import Phase, Slot, Transition
from abboot.errors import AbbootError, DeviceError
from tests.cards import BOARDS, CONFIG, NUMBERS, CardDisk, CardPi, new_pi
from tests.crash.medium import (
    Medium,
    RecordedPi,
    begin,
    newest_of,
    recorded,
    text_of,
)
from tests.crash.scenarios import (
    SCENARIOS,
    Act,
    Moment,
    arm,
    beginning,
    confirm,
    does,
    revert,
    run_cut,
    stage,
    trial,
)
from tests.crash.test_every_cut import assert_only_good_slots_boot

A, B = Slot.A, Slot.B
SLOTS = {number: slot for slot, number in NUMBERS.items()}


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_is_promised_is_flushed(name: str) -> None:
    """G5: whoever hears that it is done, or is rebooted, finds it on the medium."""
    events, _pi = recorded(name)
    waiting: set[int] = set()
    for event in events:
        if event.kind == "write":
            waiting.add(event.partition)
        elif event.kind == "flush":
            waiting.discard(event.partition)
        else:
            assert not waiting, f"{event.kind} while partitions {waiting} are not flushed"
    assert not waiting, f"done while partitions {waiting} are not flushed"


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_flag_is_set_when_everything_else_is_done(name: str) -> None:
    """G7: the arm is on the medium first, so that the boot which the flag causes finds what caused it."""
    for event in recorded(name)[0]:
        if event.kind != "flag":
            continue
        assert event.newest is not None
        assert event.newest.transition is Transition.ARMED
        assert event.newest.trial is not None
        assert event.text is not None
        assert event.text.trial == NUMBERS[event.newest.trial.slot] != event.text.primary
        assert event.newest.trial.record_digest == event.newest.slots[event.newest.trial.slot].record_digest


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_slot_is_touched_while_a_warm_reset_would_try_it(name: str) -> None:
    """G2: disarming is flag, then argument, then ``[tryboot]``, and only then is anything done to a slot."""
    first = CardDisk(beginning(name).path)
    text = text_of(first)
    for event in recorded(name)[0]:
        if event.kind != "write":
            continue
        if event.partition == 1:
            at = first.place(1)[0] + event.offset
            first.image[at : at + len(event.data)] = event.data
            text = text_of(first)
            continue
        assert not event.flag, "the flag is set"
        assert "tryboot" not in (event.argument or ""), "the next reboot has the tryboot argument"
        if event.offset >= 32 * 512:
            assert text is not None
            assert event.partition not in (text.primary, text.trial), "autoboot.txt names it"


# -- a card that acknowledges what it does not keep -------------------------------------------------------------------

LIED_TO = [
    "stage b", "stage a", "stage b, fat32", "restage", "stage b while it is armed", "stage a while it is armed",
    "try b", "try a", "disarm b", "disarm a", "go back from b", "note that a fell back", "repair autoboot.txt",
    "repair the selector",
]  # fmt: skip


def commit(pi: CardPi) -> None:
    pi.manager().commit()


@pytest.mark.parametrize("name", [*LIED_TO, "confirm b", "confirm a"])
def test_a_write_that_the_card_forgot_is_noticed(name: str) -> None:
    """G5: everything is read back from the medium, not from the host's cache, before it counts."""
    verb: Act = commit if name.startswith("confirm") else SCENARIOS[name].verb
    usual = begin(name)
    verb(usual)
    writes = usual.medium.writes
    assert writes

    for number, write in enumerate(writes):
        if not write.changes:
            continue
        pi = begin(name)
        pi.medium.forgets = number
        when = f"{name}: the card forgot write {number}, of {len(write.data)} bytes to partition {write.partition}"
        primary = text_of(pi.card)
        noticed = False
        try:
            verb(pi)
        except AbbootError:
            noticed = True

        assert noticed, f"G5: {when}, and nobody noticed"
        assert not any(event.kind in ("flag", "reboot") for event in pi.medium.events), when
        if primary is not None and not name.startswith("confirm"):
            found = text_of(pi.card)
            assert found is not None, when
            assert found.primary == primary.primary, when
        assert_only_good_slots_boot(pi.card, SCENARIOS[name], when)


def test_a_trial_is_left_on_a_card_that_keeps_nothing() -> None:
    """Ending a trial needs the reboot only: the journal may fail (G11)."""
    pi = begin("leave b")
    pi.medium.forgets = 0

    pi.manager().revert()

    assert pi.boot.partition == NUMBERS[A]
    assert newest_of(pi.card) == newest_of(CardDisk(beginning("leave b").path))


def test_leaving_a_trial_of_the_lower_slot_does_not_write_autoboot_txt() -> None:
    """The slot that a torn file would boot is the one that is left, and runs: it cannot be hidden (H-15, G4)."""
    events, pi = recorded("leave a")

    assert pi.boot.partition == NUMBERS[B]
    assert text_of(pi.card) == text_of(CardDisk(beginning("leave a").path))
    assert not [event for event in events if event.kind == "write" and event.data.startswith(b"[all]")]


# -- a flag that does not do what it is told --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stage b while it is armed", "stage a while it is armed", "disarm b", "disarm a"])
def test_a_flag_that_cannot_be_cleared_stops_everything_that_would_follow(name: str) -> None:
    pi = begin(name)
    pi.stuck_flag = True

    with pytest.raises(DeviceError, match="flag"):
        SCENARIOS[name].verb(pi)

    assert not [event for event in pi.medium.writes if event.partition != 1], "a slot was written"


@pytest.mark.parametrize("name", ["try b", "try a"])
def test_nothing_reboots_when_the_flag_does_not_stick(name: str) -> None:
    pi = begin(name)
    pi.stuck_flag = False
    boots = pi.state.boot_count

    with pytest.raises(DeviceError, match="flag"):
        SCENARIOS[name].verb(pi)

    assert pi.state.boot_count == boots


# -- a card that loses for seconds what it acknowledged (H-47) --------------------------------------------------------


def killed_behind_the_switch(pi: CardPi) -> None:
    """abboot is killed when ``[all]`` names the new slot, and before the journal says so."""
    before = text_of(pi.card)
    for number in range(2, 9):
        run_cut(pi, commit, number)
        pi.disk.power_on()
        if text_of(pi.card) != before:
            return
    raise AssertionError("there was no switch")


@pytest.mark.parametrize("next_verb", [stage("v3"), revert])
@pytest.mark.parametrize("ended", [commit, killed_behind_the_switch, does(killed_behind_the_switch, confirm)])
def test_nothing_touches_the_old_primary_within_five_seconds_of_the_switch(ended: Act, next_verb: Act) -> None:
    """G5: a card that loses the switch boots the old primary, which must be there."""
    pi = RecordedPi(Medium(new_pi().card.save(beginning("stage b").path.with_suffix(".five.img"))))
    does(stage("v2"), trial)(pi)
    pi.medium.pi = pi
    pi.medium.read_s = 0.02  # the time of the switch is not that of its plan: the files are checked in between
    ended(pi)
    pi.medium.read_s = 0.0
    next_verb(pi)

    switched = None
    for event in pi.medium.writes:
        if event.partition == 1 and b"[all]" in event.data[:64]:
            switched = event.at_s
        if event.partition == NUMBERS[A]:
            assert switched is not None
            assert event.at_s - switched >= 4.99, "G5"
            break
    else:
        raise AssertionError("it was not touched at all")


@pytest.mark.parametrize("next_verb", [stage("v3"), revert])
def test_staging_or_going_back_right_after_a_commit_that_the_card_then_loses(next_verb: Act) -> None:
    """Within the five seconds the card forgets the switch, and keeps everything that came after it."""
    trying = new_pi()
    does(stage("v2"), trial)(trying)
    moment = Moment.of(trying)
    pi = RecordedPi.at(moment)
    does(commit, next_verb)(pi)
    writes = pi.medium.writes
    switch = next(index for index, write in enumerate(writes) if write.data.startswith(b"[all]"))
    soon = [write for write in writes[switch + 1 :] if write.at_s - writes[switch].at_s < 4.99]
    assert soon
    assert len(writes) > switch + 1 + len(soon), "the rest waited"

    for count in range(len(soon) + 1):
        card = CardDisk(moment.path)
        for write in (*writes[:switch], *soon[:count]):
            at = card.place(write.partition)[0] + write.offset
            card.image[at : at + len(write.data)] = write.data
        after = CardPi(card, BOARDS["pi4"], CONFIG)
        assert {boot.partition for boot in after.would_boot_cold()} == {NUMBERS[A]}
        confirm(after)
        assert after.manager().status().phase is Phase.SETTLED
        assert after.manager().status().primary is A
        assert after.manager().verify(A).ok


def test_an_arm_is_recorded_as_one() -> None:
    """The recorder itself: without the events that it judges by, every test above passes."""
    pi = begin("try b")
    arm(pi)

    kinds = [event.kind for event in pi.medium.events]
    assert kinds.count("flag") == 1
    assert kinds.index("flag") == len(kinds) - 1
    assert {"write", "flush"} <= set(kinds)
