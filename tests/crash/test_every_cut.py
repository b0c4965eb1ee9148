"""Every verb, cut before every one of its writes: the firmware model boots what is left, and abboot goes on from there.

Three things may happen at the cut.  The power goes (the flag is lost), the board resets warm (the flag survives), or
abboot alone is killed (the system stays).  What a medium may keep of what was not yet flushed is in ``test_states``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from abboot.core.words import Phase, Slot, SlotState
from abboot.simulator.disk import Write
from tests.cards import CONFIG, NUMBERS, CardDisk, CardPi
from tests.crash.scenarios import (
    SCENARIOS,
    Scenario,
    autoboot_offset,
    beginning,
    boards,
    run_cut,
    where,
)
from tests.crash.states import applied, recorded

RESETS = {
    "power cut": lambda pi: pi.power_cut(),
    "warm reset": lambda pi: pi.reboot(),
    "killed": lambda pi: pi.disk.power_on(),
}


def assert_only_good_slots_boot(card: CardDisk, scenario: Scenario, when: str, *, damaged: bool = False) -> None:
    """G1, on every board, and for every answer that nobody knows."""
    good: set[int | None] = {NUMBERS[slot] for slot in scenario.may_boot}
    for board in boards():
        # Without a partition to boot, a bootloader from before 2025-02 may wait at the selector; nobody measured it.
        waits = {None} if (damaged or scenario.damaged) and not board.resolve_zero else set()
        for boot in CardPi(card, board, CONFIG).would_boot_cold():
            assert boot.partition in good | waits, f"{when}, on a {board.model} of {board.bootloader}: {boot.why}"


# Volumes of 34 MiB take their time, and what the reset keeps does not depend on the kind of FAT.
CUTS = [(name, how) for name in SCENARIOS for how in RESETS if how == "power cut" or "fat32" not in name]


@pytest.mark.parametrize(("name", "how"), CUTS)
def test_wherever_it_is_cut_a_good_slot_boots_and_the_next_run_ends_the_same(name: str, how: str) -> None:
    # Of many writes of content in a row one is like another; `make crash` cuts before each of them.
    assert cut_everywhere(name, how, at_most=12 if how == "power cut" else 9)


def cut_everywhere(name: str, how: str, *, at_most: int | None = None) -> int:
    """Cut a verb before each of its writes, or ``at_most`` of them; how often it was cut."""
    scenario = SCENARIOS[name]
    writes, whole = recorded(name)
    scenario.goal(whole)
    expected = where(whole)
    count = sum(write.data is not None for write in writes)
    numbers: Sequence[int] = range(count + 1)
    if at_most is not None and count > at_most:
        numbers = sorted({0, 1, 2, 3, *random.Random(count).sample(numbers, at_most - 8), *numbers[-4:]})
    for number in numbers:
        when = f"{name}: {how} before write {number}"
        pi = beginning(name).again()
        run_cut(pi, scenario.verb, number)
        assert_only_good_slots_boot(pi.card, scenario, when)

        RESETS[how](pi)

        assert pi.running, when
        assert_a_good_one_booted(pi, scenario, how, when)
        assert pi.manager().verify().ok, when
        scenario.goal(pi)
        assert where(pi) == expected, when
        pi.power_cut()
        assert pi.running, when
    return len(numbers)


def assert_a_good_one_booted(pi: CardPi, scenario: Scenario, how: str, when: str) -> None:
    status = pi.manager().status()
    good = {NUMBERS[slot] for slot in scenario.may_boot}
    if how == "warm reset" and pi.boot.tryboot and scenario.may_try is not None:
        good.add(NUMBERS[scenario.may_try])
    if how != "killed":
        assert pi.boot.partition in good, f"{when}: {pi.boot.why}"
    # Of a damaged file the firmware makes partition 2, whatever was the primary (H-15); `repair` knows the way back.
    assert scenario.damaged or status.phase is not Phase.FOREIGN, f"{when}: {status.reason}"


TORN = {
    "zeros": bytes(512),
    "ones": b"\xff" * 512,
    "noise": random.Random(3).randbytes(512),
    "more noise": random.Random(4).randbytes(512),
}


def switches(name: str) -> list[tuple[int, Write]]:
    """The writes of autoboot.txt among the writes of a verb."""
    pi = beginning(name).again()
    at = autoboot_offset(pi) - pi.card.place(1)[0]
    content = [write for write in recorded(name)[0] if write.data is not None]
    return [(index, write) for index, write in enumerate(content) if write.partition == 1 and write.offset == at]


WITH_SWITCH = [
    "try b", "try a", "stage b while it is armed", "stage a while it is armed", "disarm b", "disarm a",
    "note that b fell back", "note that a fell back", "go back from b", "leave b", "confirm b", "confirm a",
]  # fmt: skip


@pytest.mark.parametrize("garbage", TORN)
@pytest.mark.parametrize("name", WITH_SWITCH)
def test_a_torn_autoboot_txt_boots_a_good_slot_all_the_same(name: str, garbage: str) -> None:
    """Beyond the assumption: the sector holds neither the old nor the new bytes, so the firmware takes partition 2."""
    scenario = SCENARIOS[name]
    found = switches(name)
    assert found
    content = [write for write in recorded(name)[0] if write.data is not None]
    for index, switch in found:
        torn = Write(partition=1, offset=switch.offset, data=TORN[garbage])
        card = applied(name, [*content[:index], torn])
        assert_only_good_slots_boot(card, scenario, f"{name}: a torn autoboot.txt", damaged=True)


@pytest.mark.parametrize("name", ["try b", "try a", "disarm a", "note that a fell back", "confirm b"])
def test_repair_brings_a_torn_autoboot_txt_back_without_a_human(name: str) -> None:
    scenario = SCENARIOS[name]
    index, switch = switches(name)[0]
    content = [write for write in recorded(name)[0] if write.data is not None]
    torn = Write(partition=1, offset=switch.offset, data=TORN["noise"])
    pi = CardPi(applied(name, [*content[:index], torn]), boards()[0], CONFIG)

    pi.manager().repair()
    scenario.goal(pi)

    whole = recorded(name)[1]
    scenario.goal(whole)
    assert where(pi) == where(whole)


BESIDE_AN_UNTRIED_A = [name for name in SCENARIOS if name.endswith("beside an untried a")]


@pytest.mark.parametrize("name", BESIDE_AN_UNTRIED_A)
def test_a_cold_boot_before_and_after_that_repair_reaches_b(name: str) -> None:
    """What is repaired there is no damage to the firmware: a repair must not make it worse than it was."""
    whole = recorded(name)[1]

    for pi in (beginning(name).again(), whole):
        assert {boot.partition for boot in pi.would_boot_cold()} == {3}
        assert pi.manager().status().slots[Slot.A].state is SlotState.STAGED
    assert not whole.manager().repair().changed
    assert whole.manager().verify(Slot.A).ok


def test_only_the_one_that_fits_is_repaired_in_one_sector() -> None:
    """The two others have to write the selector as a whole: the journal first, then without its boot sector."""
    assert len(BESIDE_AN_UNTRIED_A) == 3
    for name in BESIDE_AN_UNTRIED_A:
        at_selector = [write for write in recorded(name)[0] if write.data is not None and write.partition == 1]
        boot_sectors = [index for index, write in enumerate(at_selector) if write.offset == 0]
        assert bool(boot_sectors) is (name != "repair one sector beside an untried a")
        if boot_sectors:
            assert b"ABBOOT-JOURNAL " in (at_selector[0].data or b"")
            assert boot_sectors == [1, len(at_selector) - 1]


@pytest.mark.parametrize("garbage", ["zeros", "noise"])
@pytest.mark.parametrize("name", BESIDE_AN_UNTRIED_A)
def test_a_torn_sector_of_a_repair_never_boots_the_untried_slot(name: str, garbage: str) -> None:
    """Beyond the assumption, and once more for the repair that comes after it."""
    scenario = SCENARIOS[name]
    writes, whole = recorded(name)
    scenario.goal(whole)
    content = [write for write in writes if write.data is not None]
    for index, write in enumerate(content):
        for sector in torn_sectors(write):
            torn = Write(partition=write.partition, offset=write.offset + sector * 512, data=TORN[garbage])
            card = applied(name, [*content[:index], torn])
            when = f"{name}: {garbage} in sector {sector} of write {index}"
            assert_only_good_slots_boot(card, scenario, when)
            if sector == 0:
                pi = CardPi(card, boards()[0], CONFIG)
                scenario.goal(pi)
                assert where(pi) == where(whole), when


def torn_sectors(write: Write) -> list[int]:
    """The sectors of a write, or the first, the last and some of them where there are many."""
    assert write.data is not None
    count = len(write.data) // 512
    return [*range(count)] if count <= 8 else [0, 1, 7, 8, count // 2, count - 1]


def test_the_log_tells_of_every_cut_of_a_stage() -> None:
    """A cut stage is in the journal, and so is what the next run made of it."""
    for number in range(2, 8):
        pi = beginning("stage b").again()
        run_cut(pi, SCENARIOS["stage b"].verb, number)
        pi.power_cut()

        told = [str(entry.transition) for entry in pi.manager().log()]
        assert told == ["built", "staging"]
        SCENARIOS["stage b"].goal(pi)
        assert [str(entry.transition) for entry in pi.manager().log()] == ["built", "staging", "staging", "staged"]


def test_every_scenario_writes_something_and_the_ring_was_once_around() -> None:
    for name in SCENARIOS:
        assert [write for write in recorded(name)[0] if write.data is not None], name
    log = recorded("arm after the journal wrapped")[1].manager().log()
    assert len(log) == 64
    assert log[0].sequence > 0


def test_slots_are_where_the_scenarios_think_they_are() -> None:
    pi = beginning("stage b").again()

    assert {slot: at.partition for slot, at in pi.manager().status().slots.items()} == {Slot.A: 2, Slot.B: 3}
