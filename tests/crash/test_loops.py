"""G7: whatever is done again at every boot, by a script or a service, comes to an end.

And G1 on bootloaders that do not know what ``[tryboot]`` is: they take every line of autoboot.txt (H-01).
"""

from __future__ import annotations

from contextlib import suppress
from datetime import date

import attrs
import pytest

from abboot.core.autoboot import Autoboot
from abboot.core.firmware import Board, Model
from abboot.core.health import CheckResult
from abboot.core.words import Phase, Slot, SlotState, Transition
from abboot.errors import AbbootError
from tests.cards import CONFIG, NUMBERS, CardPi, card, new_pi, tree
from tests.crash.scenarios import Act, arm, confirm, does, note, overwrite_autoboot_sector, stage, trial, wipe_journal

A, B = Slot.A, Slot.B


class Unhealthy:
    """The health check of a service that is down, in whatever slot."""

    name = "unhealthy"
    required = True
    timeout_s = 5.0

    def run(self) -> CheckResult:
        return CheckResult(name=self.name, ok=False, required=True, detail="down", duration_s=0.0)


def unhealthy(pi: CardPi) -> None:
    pi.manager().confirm([Unhealthy()])


def end_unhealthy(pi: CardPi) -> None:
    pi.manager().end_trial(healthy=False, reason="down")


def boots_until_it_rests(pi: CardPi, service: Act, at_most: int) -> int:
    """Run the service of every boot until a boot does not end in another one."""
    for count in range(at_most + 1):
        boots = pi.state.boot_count
        with suppress(AbbootError):
            service(pi)
        if pi.state.boot_count == boots:
            return count
    raise AssertionError(f"G7: more than {at_most} reboots")


def both_good(pi: CardPi) -> None:
    does(stage("v2"), trial, confirm)(pi)


HISTORIES: dict[str, Act] = {
    "built": lambda pi: None,
    "staged": stage("v2"),
    "committed": both_good,
    "armed": does(stage("v2"), arm),
    "booted by number": lambda pi: pi.reboot("3"),
    "fell back": does(stage("v2"), trial, note, lambda pi: pi.watchdog_reset()),
    "the journal is gone": does(stage("v2"), lambda pi: wipe_journal(pi, 64)),
}


@pytest.mark.parametrize("service", [unhealthy, end_unhealthy])
@pytest.mark.parametrize("history", HISTORIES)
def test_a_health_check_never_reboots_outside_of_a_trial(history: str, service: Act) -> None:
    pi = new_pi()
    HISTORIES[history](pi)
    slots = {slot: pi.card.bytes_of(NUMBERS[slot]) for slot in Slot}

    assert boots_until_it_rests(pi, service, 0) == 0

    assert {slot: pi.card.bytes_of(NUMBERS[slot]) for slot in Slot} == slots


def test_two_unhealthy_slots_do_not_chase_each_other() -> None:
    """A service that fails everywhere, and runs at every boot: the trial ends, the primary stays."""
    pi = new_pi()
    does(both_good, stage("v3"), trial)(pi)

    assert boots_until_it_rests(pi, unhealthy, 1) == 1

    assert pi.boot.partition == NUMBERS[B]
    assert pi.manager().status().phase is Phase.SETTLED


def test_a_trial_that_is_left_and_healthy_again_stays_left() -> None:
    """Killed between the journal entry and the reboot: nothing that runs later in this boot brings it back."""
    pi = new_pi()
    does(stage("v2"), trial)(pi)
    pi.manager().revert(reboot=False)

    assert boots_until_it_rests(pi, confirm, 1) == 1

    assert pi.boot.partition == NUMBERS[A]
    assert pi.manager().status().primary is A


def try_what_is_staged(pi: CardPi) -> None:
    """An updater: at every boot it notes the last trial, and tries what is staged."""
    manager = pi.manager()
    manager.note_boot()
    status = manager.status()
    if status.phase is Phase.SETTLED and status.slots[B].state is SlotState.STAGED:
        manager.trial()


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_slot_that_never_comes_up_is_not_tried_for_ever(attempts: int) -> None:
    """The attempts are bounded, and counted on the card: nobody can tell a hung kernel from a power cut before it."""
    config = attrs.evolve(CONFIG, trial=attrs.evolve(CONFIG.trial, attempts=attempts))
    pi = new_pi(config=config)
    pi.manager().stage(tree("hanging"))

    for _boot in range(attempts + 2):
        try_what_is_staged(pi)
        pi.power_cut()

    armed = [entry for entry in pi.manager().log() if entry.transition is Transition.ARMED]
    assert [entry.trial and entry.trial.attempt for entry in armed] == list(range(1, attempts + 1))
    assert pi.manager().status().phase is Phase.SETTLED


def never_confirmed(pi: CardPi) -> None:
    """It comes up, the updater runs in it, and then the watchdog resets it."""
    try_what_is_staged(pi)
    try_what_is_staged(pi)
    pi.watchdog_reset()


def found_unhealthy(pi: CardPi) -> None:
    try_what_is_staged(pi)
    unhealthy(pi)


FAILURES: dict[str, tuple[str, Act]] = {
    "never confirmed": ("v2", never_confirmed),
    "unhealthy": ("v2", found_unhealthy),
    "not bootable": ("unbootable", try_what_is_staged),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_slot_that_failed_is_not_tried_again_by_itself(failure: str) -> None:
    """Neither by an updater that tries what is staged, nor by one that always tries."""
    version, boot = FAILURES[failure]
    config = attrs.evolve(CONFIG, trial=attrs.evolve(CONFIG.trial, attempts=3))
    pi = new_pi(config=config)
    pi.manager().stage(tree(version))

    for _boot in range(3):
        boot(pi)
    assert pi.boot.partition == NUMBERS[A]
    with pytest.raises(AbbootError):
        pi.manager().trial()

    armed = [entry for entry in pi.manager().log() if entry.transition is Transition.ARMED]
    assert len(armed) == 1


def test_repair_does_not_follow_a_stray_flag() -> None:
    """Slot b was booted by number; flag, argument and ``[tryboot]`` all say b, and the primary is a."""
    for flag, argument in ((True, None), (False, "0 tryboot")):
        pi = new_pi()
        overwrite_autoboot_sector(pi, Autoboot(primary=NUMBERS[A], trial=NUMBERS[B]).render())
        pi.reboot("3")
        pi.change(flag=flag, argument=argument)

        pi.manager().repair()

        assert pi.boot.partition == NUMBERS[A], f"flag {flag}, argument {argument}"


def test_repair_at_every_boot_reboots_once() -> None:
    """The primary has lost its firmware: the partition walk boots the other slot, every time."""
    pi = new_pi()
    start, size = pi.card.place(NUMBERS[A])
    pi.card.image[start : start + size] = bytes(size)
    pi.power_cut()
    assert pi.boot.partition == NUMBERS[B]

    assert boots_until_it_rests(pi, lambda pi: pi.manager().repair(), 3) == 1


# -- bootloaders from before A/B support ------------------------------------------------------------------------------

OLD = {
    "pi4 before A/B": Board(model=Model.PI_4, bootloader=date(2021, 4, 29)),
    "pi4 of 2022-10": Board(model=Model.PI_4, bootloader=date(2022, 10, 1)),
}


@pytest.mark.parametrize("board", OLD)
def test_no_bootloader_reaches_a_slot_on_trial_by_a_cold_boot(board: str) -> None:
    """G1: where nothing proves that the flag is understood, nothing is armed."""
    pi = new_pi(card(A), board=OLD[board])
    stage("v2")(pi)

    with suppress(AbbootError):
        pi.manager().trial(reboot=False)

    for boot in pi.would_boot_cold():
        assert boot.partition in (NUMBERS[A], None), boot.why
