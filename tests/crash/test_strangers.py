"""G1, G4 and G6 when something else than abboot acts: another writer of a slot, another way to boot it, another mount.

The judge asks what ``[all]`` names, what a reboot would reach, and the bytes of the slots; never abboot's own status.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path

import attrs
import pytest

from abboot.core.autoboot import Autoboot
from abboot.core.firmware import Board, Model, ResetKind
from abboot.core.protocols import Mount
from abboot.core.words import Slot
from abboot.errors import AbbootError
from abboot.fat.read import FatVolume
from tests.cards import BOARDS, CONFIG, NUMBERS, CardDisk, CardPi, card, new_pi, scratch, tree, tree_files
from tests.crash.medium import text_of, visible
from tests.crash.scenarios import (
    Act,
    Moment,
    arm,
    confirm,
    cut,
    does,
    note,
    overwrite_autoboot_sector,
    revert,
    run_cut,
    stage,
    trial,
    watchdog,
    wipe_journal,
)

A, B = Slot.A, Slot.B


def commit(pi: CardPi) -> None:
    pi.manager().commit()


def reboot(argument: str | None) -> Act:
    return lambda pi: pi.reboot(argument)


def leave_later(pi: CardPi) -> None:
    pi.manager().revert(reboot=False)


def try_to(verb: Act) -> Act:
    """The verb, where a refusal is as good as anything."""

    def act(pi: CardPi) -> None:
        with suppress(AbbootError):
            verb(pi)

    return act


# -- somebody else wrote the slot -------------------------------------------------------------------------------------


def place_of(pi: CardPi, slot: Slot, data: bytes) -> int:
    start, size = pi.card.place(NUMBERS[slot])
    at = pi.card.image.find(data, start, start + size)
    assert at > 0
    return at


def wrong_kernel(pi: CardPi, slot: Slot) -> None:
    pi.card.image[place_of(pi, slot, tree_files("v2")["kernel8.img"][:64])] ^= 1


def wrong_kernel_and_manifest(pi: CardPi, slot: Slot) -> None:
    """Whoever changes a file and the manifest with it has not changed the record."""
    kernel = bytearray(tree_files("v2")["kernel8.img"])
    old = hashlib.sha256(kernel).hexdigest().encode()
    at = place_of(pi, slot, old)
    wrong_kernel(pi, slot)
    kernel[0] ^= 1
    pi.card.image[at : at + 64] = hashlib.sha256(kernel).hexdigest().encode()


def missing_file(pi: CardPi, slot: Slot) -> None:
    at = place_of(pi, slot, b"FIXUP4  DAT")
    pi.card.image[at] = 0xE5


def another_staging(pi: CardPi, slot: Slot) -> None:
    """A whole tree, with its own record, that nobody armed: a stage of the same slot on another card."""
    other = new_pi(card(slot.other))
    other.manager().stage(tree("v3"))
    start, size = pi.card.place(NUMBERS[slot])
    pi.card.image[start : start + size] = other.card.bytes_of(NUMBERS[slot])


STRANGERS: dict[str, Callable[[CardPi, Slot], None]] = {
    "a wrong kernel": wrong_kernel,
    "a wrong kernel and a manifest that knows it": wrong_kernel_and_manifest,
    "a missing file": missing_file,
    "another staging": another_staging,
}


def edited_config(pi: CardPi, slot: Slot) -> None:
    pi.card.image[place_of(pi, slot, tree_files("v2")["config.txt"])] ^= 1


#: Of a slot that was never booted, not even what a running system may edit.
UNTRIED = {**STRANGERS, "an edited config.txt": edited_config}


@pytest.mark.parametrize("primary", Slot)
@pytest.mark.parametrize("stranger", UNTRIED)
def test_what_somebody_else_wrote_is_never_tried(stranger: str, primary: Slot) -> None:
    """G6: checked before anything points at it, so that even a flag that somebody else sets does not reach it."""
    pi = new_pi(card(primary))
    stage("v2")(pi)
    UNTRIED[stranger](pi, primary.other)
    boots, before = pi.state.boot_count, pi.card.digest()

    with pytest.raises(AbbootError):
        pi.manager().trial()

    assert pi.card.digest() == before
    assert pi.state.boot_count == boots
    assert not pi.state.flag
    for boot in pi.would_boot(ResetKind.REBOOT, argument="0 tryboot"):
        assert boot.partition == NUMBERS[primary]


@pytest.mark.parametrize("stranger", STRANGERS)
def test_what_somebody_else_wrote_over_an_armed_slot_is_not_fired_at(stranger: str) -> None:
    pi = new_pi()
    does(stage("v2"), arm)(pi)
    pi.change(flag=False, argument=None)  # killed before it set them
    STRANGERS[stranger](pi, B)
    boots = pi.state.boot_count

    with pytest.raises(AbbootError):
        pi.manager().trial()

    assert (pi.state.boot_count, pi.state.flag, pi.state.argument) == (boots, False, None)


@pytest.mark.parametrize("primary", Slot)
@pytest.mark.parametrize("stranger", STRANGERS)
def test_what_somebody_else_wrote_is_never_committed(stranger: str, primary: Slot) -> None:
    """G6: a trial of it runs, because the slot was changed after the arm; a cold boot never reaches it."""
    pi = new_pi(card(primary))
    does(stage("v2"), arm)(pi)
    STRANGERS[stranger](pi, primary.other)
    pi.reboot()
    assert pi.boot.partition == NUMBERS[primary.other]
    before = text_of(pi.card)

    try_to(commit)(pi)
    assert text_of(pi.card) == before
    confirm(pi)

    assert pi.boot.partition == NUMBERS[primary]
    found = text_of(pi.card)
    assert found is not None
    assert found.primary == NUMBERS[primary]


@pytest.mark.parametrize("name", ["config.txt", "cmdline.txt"])
def test_what_the_running_system_edits_by_policy_is_committed_all_the_same(name: str) -> None:
    """The other side of it: without this, a commit that always refuses would pass the tests above."""
    pi = new_pi()
    does(stage("v2"), trial)(pi)
    pi.card.image[place_of(pi, B, tree_files("v2")[name])] ^= 1

    commit(pi)

    assert pi.power_cut().partition == NUMBERS[B]


# -- another way to boot the slot -------------------------------------------------------------------------------------


def set_flag(pi: CardPi) -> None:
    pi.change(flag=True)


def point_tryboot_at_b(pi: CardPi) -> None:
    overwrite_autoboot_sector(pi, Autoboot(primary=NUMBERS[A], trial=NUMBERS[B]).render())


def forget_the_journal(pi: CardPi) -> None:
    wipe_journal(pi, 64)


def forget_the_arm(pi: CardPi) -> None:
    wipe_journal(pi, 1)


#: Slot b runs, slot a is the primary, and nothing proves that this very boot is the trial that was armed.
NO_TRIALS: dict[str, Act] = {
    "booted by number": reboot("3"),
    "booted by number, staged": does(stage("v2"), reboot("3")),
    "armed, and booted by number": does(stage("v2"), arm, lambda pi: pi.change(flag=False), reboot("3")),
    "armed by hand": does(stage("v2"), point_tryboot_at_b, reboot("0 tryboot")),
    "armed by hand, never staged": does(point_tryboot_at_b, reboot("0 tryboot")),
    "the journal is gone": does(stage("v2"), trial, forget_the_journal),
    "the arm is gone from the journal": does(stage("v2"), trial, forget_the_arm),
    "the flag again after it fell back": does(stage("v2"), trial, note, watchdog, reboot("0 tryboot")),
    "the flag again after it fell back and was noted": does(
        stage("v2"), trial, note, watchdog, confirm, point_tryboot_at_b, reboot("0 tryboot")
    ),
    "the flag again after it was left": does(stage("v2"), trial, revert, point_tryboot_at_b, reboot("0 tryboot")),
    "the flag again after it was disarmed": does(stage("v2"), arm, revert, point_tryboot_at_b, reboot("0 tryboot")),
    "the flag again after the power was cut in it": does(stage("v2"), trial, note, cut, reboot("0 tryboot")),
    "it is being left": does(stage("v2"), trial, leave_later),
}


@pytest.mark.parametrize("way", NO_TRIALS)
def test_only_the_trial_that_was_armed_is_committed(way: str) -> None:
    pi = new_pi()
    NO_TRIALS[way](pi)
    assert pi.boot.partition == NUMBERS[B]
    for verb in (note, commit, lambda pi: pi.manager().end_trial(healthy=True), confirm):
        try_to(verb)(pi)

        found = text_of(pi.card)
        assert found is not None
        assert found.primary == NUMBERS[A], f"G6: {way}"
    for boot in pi.would_boot_cold():
        assert boot.partition == NUMBERS[A]


def test_nothing_is_committed_before_it_was_booted() -> None:
    pi = new_pi()
    does(stage("v2"), arm)(pi)

    for verb in (note, commit, lambda pi: pi.manager().end_trial(healthy=True), confirm):
        try_to(verb)(pi)

        found = text_of(pi.card)
        assert found is not None
        assert found.primary == NUMBERS[A]


def test_nothing_is_committed_when_another_slot_than_the_armed_one_runs() -> None:
    """Slot b is armed; a person makes it the primary and boots slot a with the flag."""
    pi = new_pi()
    does(stage("v2"), arm)(pi)
    overwrite_autoboot_sector(pi, Autoboot(primary=NUMBERS[B], trial=NUMBERS[A]).render())
    pi.reboot()
    assert (pi.boot.partition, pi.boot.tryboot) == (NUMBERS[A], True)

    for verb in (note, commit, lambda pi: pi.manager().end_trial(healthy=True), confirm):
        try_to(verb)(pi)

        found = text_of(pi.card)
        assert found is not None
        assert found.primary == NUMBERS[B]


@pytest.mark.parametrize("number", [4, 5])
def test_a_commit_whose_sector_tore_is_no_commit(number: int) -> None:
    """Nobody can tell whether the firmware would have reached the slot: the primary stays what it was (G1)."""
    pi = new_pi()
    does(stage("v2"), trial, note)(pi)
    before = text_of(pi.card)
    run_cut(pi, commit, 2)  # the intent, and then the switch
    overwrite_autoboot_sector(pi, bytes(64))
    pi.power_cut()

    pi.manager().repair()

    assert before is not None
    found = text_of(pi.card)
    assert found is not None
    assert found.primary == before.primary


@pytest.mark.parametrize("way", NO_TRIALS)
def test_nothing_is_staged_or_tried_from_a_slot_that_is_not_the_primary(way: str) -> None:
    """G4: there are two slots, one is running, and the other is what a cold boot reaches."""
    pi = new_pi()
    NO_TRIALS[way](pi)
    before = {slot: pi.card.bytes_of(NUMBERS[slot]) for slot in Slot}
    boots = pi.state.boot_count

    for verb in (stage("v3"), arm, trial):
        try_to(verb)(pi)

        assert {slot: pi.card.bytes_of(NUMBERS[slot]) for slot in Slot} == before
    assert (pi.state.boot_count, pi.state.flag) == (boots, False)


@pytest.mark.parametrize("primary", Slot)
@pytest.mark.parametrize("verb", [stage("v3"), arm, trial, revert, commit, confirm])
def test_a_trial_writes_neither_the_slot_it_runs_from_nor_the_primary(verb: Act, primary: Slot) -> None:
    """G4, in a trial and after every cut of what ends it."""
    begin = new_pi(card(primary))
    does(stage("v2"), trial)(begin)
    moment = Moment.of(begin)
    slots = {slot: begin.card.bytes_of(NUMBERS[slot]) for slot in Slot}
    for number in range(9):
        pi = moment.again()
        try_to(lambda pi, number=number: run_cut(pi, verb, number))(pi)

        assert {slot: pi.card.bytes_of(NUMBERS[slot]) for slot in Slot} == slots


def booted_by_mistake(pi: CardPi) -> None:
    """What a damaged file boots is partition 2, whatever is the primary (H-15)."""
    overwrite_autoboot_sector(pi, bytes(64))
    pi.power_cut()


#: H-07: a Pi 5 from before 2024-05-13 reports partition 0, whatever it booted.
SILENT = Board(model=Model.PI_5, bootloader=date(2024, 1, 1))
MISTAKES = {"booted by mistake": BOARDS["pi4"], "nobody can tell": SILENT}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_repair_writes_no_slot_that_may_be_running(mistake: str) -> None:
    """G4: slot a runs, and is below the primary; it is not hidden for a moment."""
    begin = new_pi(card(B), board=MISTAKES[mistake])
    booted_by_mistake(begin)
    assert begin.boot.partition == NUMBERS[A]
    moment = Moment.of(begin)
    before = begin.card.bytes_of(NUMBERS[A])
    for number in range(9):
        pi = CardPi(CardDisk(moment.path), MISTAKES[mistake], CONFIG)
        pi.change(**moment.state)
        try_to(lambda pi, number=number: run_cut(pi, lambda pi: pi.manager().repair(), number))(pi)

        assert pi.card.bytes_of(NUMBERS[A]) == before, f"G4: cut before write {number}"
    found = text_of(pi.card)
    assert found is not None
    assert found.primary == NUMBERS[B]


@pytest.mark.parametrize("lost", ["a file", "its record", "its boot sector"])
def test_nothing_is_staged_while_the_primary_is_not_whole(lost: str) -> None:
    """From the first write of a stage to the next commit the primary is the only slot that boots."""
    pi = new_pi()
    start, _size = pi.card.place(NUMBERS[A])
    at = {
        "a file": lambda: place_of(pi, A, b"FIXUP4  DAT"),
        "its record": lambda: place_of(pi, A, b"RECORD  JSO") if b"RECORD  JSO" in pi.card.bytes_of(2) else -1,
        "its boot sector": lambda: start,
    }[lost]()
    if at < 0:
        at = place_of(pi, A, b"RECORD~1JSO")
    pi.card.image[at] = 0xE5
    if lost == "its boot sector":
        pi.card.image[start : start + 512] = bytes(512)
    before = pi.card.bytes_of(NUMBERS[B])

    with pytest.raises(AbbootError):
        pi.manager().stage(tree("v2"))

    assert pi.card.bytes_of(NUMBERS[B]) == before


# -- a slot that only the journal can bring back ----------------------------------------------------------------------


def without_geometry(pi: CardPi) -> None:
    """A journal that lost everything and started again while slot a was mounted: it does not know its geometry."""
    from abboot.core.journal import Entry, read_journal

    start, size = pi.card.place(1)
    at = pi.card.image.find(b"ABBOOT-JOURNAL ", start, start + size)
    entries = read_journal(bytes(pi.card.image[at : at + 64 * 4096])).entries
    for entry in entries:
        slots = {slot: attrs.evolve(known, geometry=None) for slot, known in entry.slots.items()}
        place = at + entry.sequence % 64 * 4096
        changed: Entry = attrs.evolve(entry, slots=slots)
        pi.card.image[place : place + 4096] = changed.encode()


def test_a_hidden_slot_comes_back_although_the_journal_did_not_know_its_geometry() -> None:
    """What it takes to show a slot is journalled before it is hidden."""
    begin = new_pi(card(B))
    does(stage("v2"), without_geometry)(begin)
    moment = Moment.of(begin)
    for number in range(12):
        pi = moment.again()
        run_cut(pi, trial, number)
        pi.power_cut()
        confirm(pi)

        assert visible(pi.card, A), f"cut before write {number}"


# -- mounts -----------------------------------------------------------------------------------------------------------


class MountedCard(CardDisk):
    """A card some of whose partitions are mounted; what is below the mount is what was on them."""

    mounts: dict[int, Mount]

    def __init__(self, moment: Moment) -> None:
        super().__init__(moment.path)
        self.mounts = {}

    def mount(self, number: int, *, writable: bool) -> None:
        folder = Path(tempfile.mkdtemp(prefix="mounted-", dir=scratch()))
        start, size = self.place(number)
        volume = FatVolume(self.open_partition(number, start, size))
        for file in volume.files():
            path = folder / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(volume.read_file(file.path, 1 << 20))
        self.mounts[number] = Mount(path=str(folder), writable=writable, whole=True)

    def mounts_of(self, number: int) -> tuple[Mount, ...]:
        return (self.mounts[number],) if number in self.mounts else ()


def contents(mount: Mount) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(mount.path).iterdir()}


MOUNTED_VERBS: dict[str, tuple[Act, Act]] = {
    "stage": (stage("v2"), stage("v3")),
    "stage while armed": (does(stage("v2"), arm), stage("v3")),
    "arm": (stage("v2"), arm),
    "trial": (stage("v2"), trial),
    "disarm": (does(stage("v2"), arm), revert),
    "commit": (does(stage("v2"), trial), commit),
}


@pytest.mark.parametrize("name", MOUNTED_VERBS)
def test_a_selector_that_is_mounted_read_only_is_not_written(name: str) -> None:
    """G3: refused, with a hint; nothing is remounted, and nothing is written behind the mount (G9)."""
    before, verb = MOUNTED_VERBS[name]
    begin = new_pi()
    before(begin)
    moment = Moment.of(begin)
    mounted = MountedCard(moment)
    mounted.mount(1, writable=False)
    pi = CardPi(mounted, BOARDS["pi4"], CONFIG)
    pi.change(**moment.state)
    digest = mounted.digest()
    files = contents(mounted.mounts[1])
    boots = pi.state.boot_count

    with pytest.raises(AbbootError, match="mounted read-only"):
        verb(pi)

    assert mounted.digest() == digest
    assert pi.state.boot_count == boots
    assert contents(mounted.mounts[1]) == files


def test_a_slot_that_is_mounted_is_not_written() -> None:
    """G4, G9: somebody looks at it, or runs from it."""
    begin = new_pi()
    stage("v2")(begin)
    mounted = MountedCard(Moment.of(begin))
    mounted.mount(NUMBERS[B], writable=True)
    pi = CardPi(mounted, BOARDS["pi4"], CONFIG)
    digest = mounted.digest()

    with pytest.raises(AbbootError, match="mounted on"):
        pi.manager().stage(tree("v3"))

    assert mounted.digest() == digest
