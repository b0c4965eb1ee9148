"""Every card that a power cut may leave behind: a seeded part of what ``make crash`` looks at, and its judge."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs
import pytest

from abboot.core.words import FatType, Slot
from abboot.simulator.disk import Write
from tests.cards import CONFIG, NUMBERS, CardDisk, CardPi
from tests.crash.scenarios import SCENARIOS, beginning, boards
from tests.crash.states import (
    EXHAUSTIVE,
    QUICK,
    SECTOR,
    SELECTOR,
    SLOTS,
    TOOLS,
    Epoch,
    Judge,
    Kept,
    Strangers,
    Violation,
    applied,
    apply,
    cold_boots,
    data_of,
    epochs_of,
    judge,
    look,
    recorded,
    samples,
    subsets,
    torn,
    untold,
)

A, B = Slot.A, Slot.B


@pytest.mark.parametrize("name", SCENARIOS)
def test_whatever_the_medium_kept_a_good_slot_boots_and_the_next_run_ends_the_same(name: str) -> None:
    """G1 and G2 in every state; fsck.vfat and mtools see what the firmware sees; the log tells what happened."""
    figures = judge(name, QUICK)

    assert figures.writes >= figures.epochs > 0
    assert figures.distinct > figures.epochs
    assert figures.boots
    assert figures.recovered > figures.epochs


@pytest.mark.needs(*TOOLS)
def test_the_small_cases_are_shown_to_fsck_vfat_and_mtools() -> None:
    assert judge("try a", QUICK).strangers >= 8


def test_some_epochs_are_too_large_to_be_taken_apart_completely() -> None:
    """Otherwise nothing would be drawn, and a verb that writes more at a time than today would be the first to be."""
    sizes = {name: max(map(len, epochs_of(recorded(name)[0]))) for name in SCENARIOS if name.startswith("stage")}

    assert sizes["stage a, many small changes"] > EXHAUSTIVE
    assert sizes["stage b, growing"] > EXHAUSTIVE
    assert 1 < sizes["stage b"] <= EXHAUSTIVE


# -- the states -------------------------------------------------------------------------------------------------------


def epochs(name: str) -> list[tuple[Epoch, list[Write]]]:
    """Each epoch with a card of its own, and the writes before it."""
    found: list[tuple[Epoch, list[Write]]] = []
    done: list[Write] = []
    before = dict.fromkeys((SELECTOR, *SLOTS), 0)
    for index, writes in enumerate(epochs_of(recorded(name)[0])):
        epoch = Epoch(index, applied(name, done), writes, before, SCENARIOS[name].fat)
        found.append((epoch, list(done)))
        before = {partition: int(digest) for partition, digest in epoch.digests(epoch.whole).items()}
        done += writes
    return found


@pytest.mark.parametrize("name", ["restage", "stage b, growing"])
def test_two_states_have_one_digest_exactly_where_they_are_equal(name: str) -> None:
    contents: dict[tuple[int, ...], list[bytes]] = {}
    draw = random.Random(1)
    count = 0
    for epoch, done in epochs(name):
        found = [*subsets(epoch), *torn(epoch, QUICK, draw), *samples(epoch, QUICK, draw)]
        for kept in draw.sample(found, min(len(found), 25)):
            card = applied(name, [*done, *epoch.pieces(kept)])
            content = [card.bytes_of(number) for number in (SELECTOR, *SLOTS)]
            digests = epoch.digests(kept)
            assert contents.setdefault(tuple(digests[number] for number in (SELECTOR, *SLOTS)), content) == content
            count += 1

    different = {tuple(content) for content in contents.values()}
    assert len(different) == len(contents)
    assert len(contents) > 20


def test_writes_that_overlap_are_kept_in_their_order() -> None:
    card = CardDisk(beginning("try b").path)
    first = Write(partition=3, offset=64 * SECTOR, data=b"1" * 4 * SECTOR)
    second = Write(partition=3, offset=66 * SECTOR, data=b"2" * 4 * SECTOR)
    epoch = Epoch(0, card, [first, second], dict.fromkeys((1, 2, 3), 0), FatType.FAT16)

    def digest(kept: Kept) -> int:
        return epoch.digests(kept)[3]

    assert digest((0, 0)) == 0
    assert len({digest(kept) for kept in ((0, 0), (2, 0), (4, 0), (0, 4), (2, 4), (3, 1))}) == 6
    assert digest((2, 4)) == digest((3, 4)) == digest((4, 4))
    read, _size = epoch.reader((4, 1), 3)
    assert read(65 * SECTOR, 3 * SECTOR) == b"1" * SECTOR + b"2" * SECTOR + b"1" * SECTOR


def test_what_is_read_of_a_state_is_what_is_on_its_card() -> None:
    draw = random.Random(2)
    for epoch, done in epochs("stage b, growing"):
        found = [*subsets(epoch), *samples(epoch, QUICK, draw), *torn(epoch, QUICK, draw)]
        for kept in draw.sample(found, min(len(found), 3)):
            card = applied("stage b, growing", [*done, *epoch.pieces(kept)])
            for number in (SELECTOR, *SLOTS):
                read, size = epoch.reader(kept, number)
                assert read(0, size) == card.bytes_of(number)


def test_the_firmware_boots_what_it_boots_on_a_simulated_pi() -> None:
    """The judge boots each view of a card once; a Pi boots the card itself."""
    for name in ("try a", "confirm b", "repair the selector"):
        table = Judge(name, QUICK).table
        for epoch, done in epochs(name):
            for kept in subsets(epoch):
                card = applied(name, [*done, *epoch.pieces(kept)])
                partitions = {number: look(*epoch.reader(kept, number)) for number in (SELECTOR, *SLOTS)}
                reached = {(found.board, found.partition) for found in cold_boots(table, partitions)}
                expected = {
                    (board, boot.partition)
                    for board in boards()
                    for boot in CardPi(card, board, CONFIG).would_boot_cold()
                }
                assert reached == expected, f"{name}, epoch {epoch.index}, {kept}"


# -- the judge sees what is wrong -------------------------------------------------------------------------------------


class Forged(Judge):
    """The judge of a verb that does something else than it says."""

    def __init__(self, name: str, forge: Callable[[list[Write]], list[Write]]) -> None:
        super().__init__(name, attrs.evolve(QUICK, recoveries=0))
        self.writes = forge(self.writes)


def without_flushes(writes: list[Write]) -> list[Write]:
    return [write for write in writes if write.data is not None]


def without_the_zeros(writes: list[Write]) -> list[Write]:
    """The boot sector stays while the slot is written."""
    return [write for write in writes if write.data is None or write.offset or any(data_of(write))]


def boot_sector_first(writes: list[Write]) -> list[Write]:
    at = max(index for index, write in enumerate(writes) if write.data and write.partition == 3 and not write.offset)
    return [*writes[:4], writes[at], Write(partition=3, offset=0, data=None), *writes[4:at], *writes[at + 1 :]]


def backup_first(writes: list[Write]) -> list[Write]:
    ends = [index for index, write in enumerate(writes) if write.data and write.offset in (0, 6 * SECTOR)][-2:]
    found = list(writes)
    found[ends[0]], found[ends[1]] = found[ends[1]], found[ends[0]]
    return found


def a_switch(writes: list[Write]) -> list[Write]:
    """Nobody tried it, and it is the primary."""
    return [
        attrs.evolve(write, data=data_of(write).replace(b"boot_partition=2", b"boot_partition=3"))
        if write.data and write.data.startswith(b"[all]")
        else write
        for write in writes
    ]


def other_fat(writes: list[Write]) -> list[Write]:
    """The second FAT is not the first one: the firmware never looks there."""
    content = [write for write in writes if write.data and write.partition == 3 and write.offset]
    tables = [write for write in content if data_of(write).startswith(b"\xf8\xff")]
    return [attrs.evolve(w, data=data_of(w)[:64] + b"\x77" + data_of(w)[65:]) if w is tables[-1] else w for w in writes]


def other_kernel(writes: list[Write]) -> list[Write]:
    """A file is not what the manifest of the slot says."""
    longest = max((write for write in writes if write.data), key=lambda write: len(data_of(write)))
    return [attrs.evolve(w, data=b"\x77" + data_of(w)[1:]) if w is longest else w for w in writes]


FORGED: dict[str, tuple[str, str, Callable[[list[Write]], list[Write]]]] = {
    "nothing is flushed": ("restage", "G2: ", without_flushes),
    "the boot sector stays": ("restage", "G2: ", without_the_zeros),
    "the boot sector comes first": ("stage b", "G2: ", boot_sector_first),
    "the backup comes first": ("stage b, fat32", "G2: .* the backup", backup_first),
    "an untried slot is the primary": ("try b", "G1: ", a_switch),
}
FORGED_FOR_STRANGERS: dict[str, tuple[str, str, Callable[[list[Write]], list[Write]]]] = {
    "the second FAT is another one": ("stage b", "fsck.vfat: ", other_fat),
    "a file is another one": ("stage b", "sha256sum: ", other_kernel),
}


@pytest.mark.parametrize("forgery", FORGED)
def test_the_judge_sees_what_a_guarantee_forbids(forgery: str) -> None:
    name, says, forge = FORGED[forgery]

    with pytest.raises(Violation, match=says):
        Forged(name, forge).run()


@pytest.mark.needs(*TOOLS)
@pytest.mark.parametrize("forgery", FORGED_FOR_STRANGERS)
def test_fsck_vfat_and_mtools_see_what_the_firmware_does_not(forgery: str) -> None:
    name, says, forge = FORGED_FOR_STRANGERS[forgery]

    with pytest.raises(Violation, match=says):
        Forged(name, forge).run()


@pytest.mark.needs(*TOOLS)
def test_a_volume_that_the_firmware_does_not_see_must_not_be_seen_by_others() -> None:
    card = CardDisk(beginning("try b").path)
    unseen = look(lambda _offset, length: bytes(length), SECTOR)
    assert not unseen.readable

    assert "mdir does" in Strangers(card).judge(NUMBERS[A], [], unseen)
    assert (
        Strangers(card).judge(NUMBERS[A], [], look(*Epoch(0, card, [], {}, FatType.FAT16).reader((), NUMBERS[A]))) == ""
    )


def test_a_log_that_leaves_out_how_a_trial_ended_is_seen() -> None:
    pi = beginning("try b again").again()
    SCENARIOS["try b again"].goal(pi)
    log = pi.manager().log()
    ended = next(index for index, entry in enumerate(log) if entry.trial and entry.trial.outcome)

    assert untold((), log, on_trial=True) == ""
    assert "how the trial" in untold((), (*log[:ended], *log[ended + 1 :]), on_trial=True)
    assert "is gone" in untold(log, (*log[:ended], *log[ended + 1 :]), on_trial=True)
    assert "how the last trial ended" in untold((), log, on_trial=False)
    assert "the stage that was cut" in untold((), recorded("stage b")[1].manager().log()[:-1], on_trial=False)


def test_a_recovery_that_ends_elsewhere_is_seen() -> None:
    """The expectation is what the uncut verb leads to, so a verb that did something else at all is noticed."""
    forged = Judge("stage b", QUICK)
    other = beginning("stage b").again()
    apply(other.card, Write(partition=SELECTOR, offset=0, data=bytes(SECTOR)))
    forged._expect = lambda _board: {}  # type: ignore[method-assign]

    with pytest.raises(Violation, match="it ends"):
        forged.run()
