"""What is cut in the crash tests: every verb that changes something, from where it starts to where it must end."""

from __future__ import annotations

import functools
import itertools
import shutil
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from abboot.core.firmware import Board
from abboot.core.words import FatType, Phase, Slot, SlotState
from abboot.manager import BootManager
from abboot.simulator import PowerCut
from tests.cards import BOARDS, CONFIG, CardDisk, CardPi, card, new_pi, scratch, tree, tree_files, write_tree

if TYPE_CHECKING:
    from abboot.forklift.events import Events

A, B = Slot.A, Slot.B
_count = itertools.count()


@attrs.frozen(kw_only=True)
class Moment:
    """A Pi in the middle of something, to start again from as often as one likes."""

    path: Path
    state: Mapping[str, object]

    @classmethod
    def of(cls, pi: CardPi) -> Moment:
        path = pi.card.save(scratch() / f"moment-{next(_count)}.img")
        return cls(
            path=path, state={field.name: getattr(pi.state, field.name) for field in attrs.fields(type(pi.state))}
        )

    def again(self) -> CardPi:
        pi = CardPi(CardDisk(self.path), BOARDS["pi4"], CONFIG)
        pi.change(**self.state)
        return pi


Act = Callable[[CardPi], object]


@attrs.frozen(kw_only=True)
class Scenario:
    """One verb in one situation.

    Args:
        begin: brings a fresh Pi there.
        primary: of the card that it begins with.
        verb: what is cut.
        goal: what an operator's script would run afterwards, from wherever the cut left the Pi.
        may_boot: the slots that a cold boot may reach at any moment of it (G1).
        may_try: the slot that a warm reboot may reach, by the flag only.
        damaged: autoboot.txt is damaged when it begins, or is gone for a while: a bootloader may wait at it.
    """

    begin: Act
    verb: Act
    goal: Act
    may_boot: frozenset[Slot]
    may_try: Slot | None = None
    damaged: bool = False
    primary: Slot = A
    fat: FatType = FatType.FAT16


# -- acts ---------------------------------------------------------------------------------------------------------


def nothing(pi: CardPi) -> None: ...


def stage(version: str) -> Act:
    return lambda pi: pi.manager().stage(tree(version))


@functools.cache
def _many(version: str, count: int) -> Path:
    """A tree of many small files, every other one of which is another one in another version."""
    overlays = {
        f"overlays/overlay-{number:02}.dtbo": f"{number} {version if number % 2 else ''}".encode().ljust(700)
        for number in range(count)
    }
    return write_tree(scratch() / f"tree-many-{version}-{count}", {**tree_files("v2"), **overlays})


def stage_many(version: str, count: int = 40) -> Act:
    return lambda pi: pi.manager().stage(_many(version, count))


def stage_in_a_reader(version: str) -> Act:
    """The card is in another computer."""
    return lambda pi: BootManager(pi.disk, None, CONFIG).stage(tree(version))


def arm(pi: CardPi) -> None:
    pi.manager().trial(reboot=False)


def trial(pi: CardPi) -> None:
    pi.manager().trial()


def retry(pi: CardPi) -> None:
    pi.manager().trial(retry=True)


def confirm(pi: CardPi) -> None:
    pi.manager().confirm()


def note(pi: CardPi) -> None:
    pi.manager().note_boot()


def commit(pi: CardPi) -> None:
    pi.manager().commit()


def unhealthy(pi: CardPi) -> None:
    pi.manager().end_trial(healthy=False, reason="a service is down")


def overdue(pi: CardPi) -> None:
    """What ``abboot deadline`` does."""
    pi.manager().end_trial(healthy=False, reason="nobody confirmed it", overdue=True)


def fall_back(pi: CardPi) -> None:
    pi.manager().fall_back(reason="to see it come back")


def self_test(pi: CardPi) -> None:
    from abboot.selftest import run_selftest

    run_selftest(pi.manager(), again=True, replace=True)


@functools.cache
def _bundles(gone: bool = False) -> Path:
    """A stage store whose bundle 2 is next and brings boot files; ``gone``: it is not there any more."""
    from tests.forklift.device import CAN, ForkliftStore, text

    folder = scratch() / f"stages-{'gone' if gone else 'whole'}"
    folder.mkdir()
    store = ForkliftStore(folder)
    store.build({})
    if not gone:
        store.build(CAN)
    store.path.write_bytes(text(2, [1]))
    return folder


def stage_bundle(pi: CardPi) -> None:
    from abboot.forklift import Forklift

    Forklift(pi.manager(), _bundles()).stage()


def reconcile_without_the_bundle(pi: CardPi) -> None:
    from abboot.forklift import Forklift

    Forklift(pi.manager(), _bundles(gone=True)).reconcile()


def _events(pi: CardPi) -> Events:
    from abboot.forklift import Forklift
    from abboot.forklift.events import Events

    manager = pi.manager()
    memory = str(scratch() / "forklift.json")
    return Events(manager, Forklift(manager, _bundles()), memory=memory, hooks=lambda *_: ())


def apply_fails(pi: CardPi) -> None:
    _events(pi).apply_result("exit-code")


def arm_at_the_reboot(pi: CardPi) -> None:
    _events(pi).arm_on_reboot()
    pi.reboot()


def revert(pi: CardPi) -> None:
    pi.manager().revert()


def repair(pi: CardPi) -> None:
    pi.manager().repair()


def cut(pi: CardPi) -> None:
    pi.power_cut()


def watchdog(pi: CardPi) -> None:
    pi.watchdog_reset()


def garble(pi: CardPi) -> None:
    """Sixty-four bytes of garbage where autoboot.txt was."""
    overwrite_autoboot(pi, b"?" * 64)


def lose_the_file(pi: CardPi) -> None:
    """autoboot.txt is no longer in the root directory: only a rewritten selector brings it back."""
    start, _size = pi.card.place(1)
    at = pi.card.image.find(b"AUTOBOOTTXT", start)
    pi.card.image[at : at + 1] = b"\xe5"


def delete_the_journal(pi: CardPi) -> None:
    """As ``rm ABBOOT.JNL`` does: its entries are still on the medium, and only their magic finds them."""
    if shutil.which("mdel") is None:
        pytest.skip("mdel is not installed (Debian package mtools)")
    start, size = pi.card.place(1)
    path = scratch() / "selector.img"
    path.write_bytes(pi.card.bytes_of(1))
    subprocess.run(["mdel", "-i", str(path), "::ABBOOT.JNL"], check=True, stdin=subprocess.DEVNULL)
    pi.card.image[start : start + size] = path.read_bytes()


def lose_the_last_newline(pi: CardPi) -> None:
    """63 bytes: every firmware reads them as before, and they cannot be overwritten by 64."""
    start, _size = pi.card.place(1)
    at = pi.card.image.find(b"AUTOBOOTTXT", start)
    pi.card.image[at + 28 : at + 32] = (63).to_bytes(4, "little")


def move_the_last_newline(pi: CardPi) -> None:
    """64 bytes that every firmware reads as before, and that abboot takes for cut off."""
    at = autoboot_offset(pi)
    text = pi.card.image[at : at + 63]
    overwrite_autoboot(pi, text.replace(b"[tryboot]", b"\n[tryboot]"))


def overwrite_autoboot(pi: CardPi, data: bytes) -> None:
    at = autoboot_offset(pi)
    pi.card.image[at : at + len(data)] = data


def autoboot_offset(pi: CardPi) -> int:
    at = pi.card.image.find(b"[all]\ntryboot_a_b=1\n", pi.card.place(1)[0])
    assert at > 0
    return at


def overwrite_autoboot_sector(pi: CardPi, data: bytes) -> None:
    """Whatever is in it now: the file of a fresh card is in the first cluster of the selector."""
    at = autoboot_offset(new_pi(card(A)))
    pi.card.image[at : at + len(data)] = data


def wipe_journal(pi: CardPi, blocks: int) -> None:
    """The newest entries are gone, as far as there are so many."""
    start, size = pi.card.place(1)
    found = []
    at = pi.card.image.find(b"ABBOOT-JOURNAL ", start, start + size)
    while at >= 0:
        if at % 512 == 0:
            found.append((int(pi.card.image[at : at + 80].split()[3]), at))
        at = pi.card.image.find(b"ABBOOT-JOURNAL ", at + 1, start + size)
    for _sequence, at in sorted(found)[-blocks:]:
        pi.card.image[at : at + 4096] = bytes(4096)


def wrap(pi: CardPi) -> None:
    """The journal was once around its ring."""
    manager = pi.manager()
    while manager.log()[-1].sequence < 66:
        manager.trial(reboot=False)
        manager.revert()


def does(*acts: Act) -> Act:
    def act(pi: CardPi) -> None:
        for one in acts:
            one(pi)

    return act


# -- goals: what a script that knows nothing of the cut would do ------------------------------------------------------


def rests(pi: CardPi, state: SlotState | None = None) -> None:
    """Settled, with nothing armed and no slot hidden; and the slot that does not run is in this state."""
    status = pi.manager().status()
    assert status.phase in (Phase.SETTLED, Phase.OFFLINE), status.reason
    assert not status.flag
    assert not any("boot sector is away" in note for note in status.notes), status.notes
    if state is not None and status.primary is not None:
        assert status.slots[status.primary.other].state is state


def staged(version: str) -> Act:
    return does(leave_trial, confirm, stage(version), lambda pi: rests(pi, SlotState.STAGED))


def leave_trial(pi: CardPi) -> None:
    if pi.manager().status().phase is Phase.TRIAL:
        pi.manager().revert()


def on_trial(pi: CardPi) -> None:
    if pi.manager().status().phase is not Phase.TRIAL:
        confirm(pi)
        retry(pi)
    assert pi.manager().status().phase is Phase.TRIAL


def committed(slot: Slot) -> Act:
    def act(pi: CardPi) -> None:
        if pi.manager().status().primary is not slot:
            on_trial(pi)
        confirm(pi)
        rests(pi)
        assert pi.manager().status().primary is slot
        assert pi.manager().status().slots[slot].state is SlotState.GOOD

    return act


def at_rest(pi: CardPi) -> None:
    leave_trial(pi)
    if pi.manager().status().phase is Phase.ARMED:
        revert(pi)
    confirm(pi)
    rests(pi)


def self_tested(pi: CardPi) -> None:
    from abboot.selftest import State, report

    for _boot in range(5):
        confirm(pi)
        if report(pi.manager()).state is State.PASSED:
            return confirm(pi)
        if pi.manager().status().phase is Phase.SETTLED and report(pi.manager()).state is not State.RUNNING:
            self_test(pi)
    raise AssertionError(f"the self-test is {report(pi.manager()).state} after five boots")


def staged_many(version: str, count: int = 40) -> Act:
    return does(leave_trial, confirm, stage_many(version, count), lambda pi: rests(pi, SlotState.STAGED))


def repaired(pi: CardPi) -> None:
    repair(pi)
    if pi.manager().status().booted is None:
        pi.reboot()  # nobody can tell which slot runs (H-07), so no repair asks for it; any reboot will do
    confirm(pi)
    rests(pi)


SCENARIOS: Mapping[str, Scenario] = {
    "stage b": Scenario(begin=nothing, verb=stage("v2"), goal=staged("v2"), may_boot=frozenset({A})),
    "stage a": Scenario(begin=nothing, verb=stage("v2"), goal=staged("v2"), may_boot=frozenset({B}), primary=B),
    "stage b, fat32": Scenario(
        begin=nothing, verb=stage("v2"), goal=staged("v2"), may_boot=frozenset({A}), fat=FatType.FAT32
    ),
    "restage": Scenario(begin=stage("v2"), verb=stage("v3"), goal=staged("v3"), may_boot=frozenset({A})),
    "stage b while it is armed": Scenario(
        begin=does(stage("v2"), arm), verb=stage("v3"), goal=staged("v3"), may_boot=frozenset({A}), may_try=B
    ),
    "stage a while it is armed": Scenario(
        begin=does(stage("v2"), arm),
        verb=stage("v3"),
        goal=staged("v3"),
        may_boot=frozenset({B}),
        may_try=A,
        primary=B,
    ),
    "stage after b fell back": Scenario(
        begin=does(stage("v2"), trial, note, watchdog),
        verb=stage("v3"),
        goal=staged("v3"),
        may_boot=frozenset({A}),
    ),
    "stage b, growing": Scenario(
        begin=stage_many("v1", 6), verb=stage_many("v2", 60), goal=staged_many("v2", 60), may_boot=frozenset({A})
    ),
    "stage a, many small changes": Scenario(
        begin=stage_many("v1"), verb=stage_many("v2"), goal=staged_many("v2"), may_boot=frozenset({B}), primary=B
    ),
    "stage b in a card reader": Scenario(
        begin=nothing, verb=stage_in_a_reader("v2"), goal=staged("v2"), may_boot=frozenset({A})
    ),
    "try b": Scenario(begin=stage("v2"), verb=trial, goal=on_trial, may_boot=frozenset({A}), may_try=B),
    "try a": Scenario(begin=stage("v2"), verb=trial, goal=on_trial, may_boot=frozenset({B}), may_try=A, primary=B),
    "try b again": Scenario(
        begin=does(stage("v2"), trial, cut), verb=retry, goal=on_trial, may_boot=frozenset({A}), may_try=B
    ),
    "try a again": Scenario(
        begin=does(stage("v2"), trial, cut), verb=retry, goal=on_trial, may_boot=frozenset({B}), may_try=A, primary=B
    ),
    "confirm b": Scenario(
        begin=does(stage("v2"), trial), verb=confirm, goal=committed(B), may_boot=frozenset({A, B}), may_try=B
    ),
    "confirm a": Scenario(
        begin=does(stage("v2"), trial), verb=confirm, goal=committed(A), may_boot=frozenset({A, B}), primary=B
    ),
    "commit b": Scenario(
        begin=does(stage("v2"), trial, note), verb=commit, goal=committed(B), may_boot=frozenset({A, B}), may_try=B
    ),
    "note that b started": Scenario(begin=does(stage("v2"), trial), verb=note, goal=at_rest, may_boot=frozenset({A})),
    "leave an unhealthy b": Scenario(
        begin=does(stage("v2"), trial, note), verb=unhealthy, goal=at_rest, may_boot=frozenset({A})
    ),
    "leave an overdue b": Scenario(
        begin=does(stage("v2"), trial, note), verb=overdue, goal=at_rest, may_boot=frozenset({A})
    ),
    "fall back from b": Scenario(
        begin=does(stage("v2"), trial, note), verb=fall_back, goal=at_rest, may_boot=frozenset({A})
    ),
    "stage a bundle of Forklift's": Scenario(
        begin=nothing, verb=stage_bundle, goal=does(leave_trial, confirm, stage_bundle), may_boot=frozenset({A})
    ),
    "leave b, whose bundle is gone, at early boot": Scenario(
        begin=does(stage_bundle, trial), verb=reconcile_without_the_bundle, goal=at_rest, may_boot=frozenset({A})
    ),
    "leave b, whose bundle cannot be applied": Scenario(
        begin=does(stage_bundle, trial), verb=apply_fails, goal=at_rest, may_boot=frozenset({A})
    ),
    "arm a bundle of Forklift's at a reboot": Scenario(
        begin=stage_bundle, verb=arm_at_the_reboot, goal=on_trial, may_boot=frozenset({A}), may_try=B
    ),
    "test the board": Scenario(begin=nothing, verb=self_test, goal=self_tested, may_boot=frozenset({A}), may_try=B),
    "disarm b": Scenario(begin=does(stage("v2"), arm), verb=revert, goal=at_rest, may_boot=frozenset({A}), may_try=B),
    "disarm a": Scenario(
        begin=does(stage("v2"), arm), verb=revert, goal=at_rest, may_boot=frozenset({B}), may_try=A, primary=B
    ),
    "leave b": Scenario(begin=does(stage("v2"), trial), verb=revert, goal=at_rest, may_boot=frozenset({A})),
    "leave a": Scenario(begin=does(stage("v2"), trial), verb=revert, goal=at_rest, may_boot=frozenset({B}), primary=B),
    "go back from b": Scenario(
        begin=does(stage("v2"), trial, confirm), verb=revert, goal=on_trial, may_boot=frozenset({B}), may_try=A
    ),
    "note that b fell back": Scenario(
        begin=does(stage("v2"), trial, note, watchdog),
        verb=confirm,
        goal=at_rest,
        may_boot=frozenset({A}),
    ),
    "note that a fell back": Scenario(
        begin=does(stage("v2"), trial, note, watchdog),
        verb=confirm,
        goal=at_rest,
        may_boot=frozenset({B}),
        primary=B,
    ),
    "note that a could not be loaded": Scenario(
        begin=does(stage("unbootable"), trial), verb=confirm, goal=at_rest, may_boot=frozenset({B}), primary=B
    ),
    "repair autoboot.txt": Scenario(
        begin=garble, verb=repair, goal=repaired, may_boot=frozenset({A, B}), primary=B, damaged=True
    ),
    "repair the selector": Scenario(
        begin=lose_the_file, verb=repair, goal=repaired, may_boot=frozenset({A, B}), primary=B, damaged=True
    ),
    # What the firmware still reads as it should, while slot a below the primary was never tried.
    "repair the journal beside an untried a": Scenario(
        begin=does(stage("v2"), delete_the_journal),
        verb=repair,
        goal=repaired,
        may_boot=frozenset({B}),
        primary=B,
        damaged=True,
    ),
    "repair 63 bytes beside an untried a": Scenario(
        begin=does(stage("v2"), lose_the_last_newline),
        verb=repair,
        goal=repaired,
        may_boot=frozenset({B}),
        primary=B,
        damaged=True,
    ),
    "repair one sector beside an untried a": Scenario(
        begin=does(stage("v2"), move_the_last_newline),
        verb=repair,
        goal=repaired,
        may_boot=frozenset({B}),
        primary=B,
        damaged=True,
    ),
    "arm after the journal wrapped": Scenario(
        begin=does(stage("v2"), wrap), verb=trial, goal=on_trial, may_boot=frozenset({A}), may_try=B
    ),
}

#: Every verb of the command line that changes a card, by its full name, and the cases in which it is cut.  A verb that
#: is neither here nor in `UNCHANGING` fails ``test_registration.py``: give it a scenario above and name it here.
CUT: Mapping[str, tuple[str, ...]] = {
    "stage": (
        *("stage b", "stage a", "stage b, fat32", "restage", "stage b, growing", "stage a, many small changes"),
        *("stage b while it is armed", "stage a while it is armed", "stage after b fell back"),
        "stage b in a card reader",
    ),
    "trial": ("try b", "try a", "try b again", "try a again", "arm after the journal wrapped"),
    "confirm": (
        *("confirm b", "confirm a", "note that b fell back", "note that a fell back"),
        *("note that a could not be loaded", "leave an unhealthy b", "fall back from b"),
    ),
    "commit": ("commit b",),
    "revert": ("disarm b", "disarm a", "leave b", "leave a", "go back from b"),
    "repair": (
        *("repair autoboot.txt", "repair the selector", "repair the journal beside an untried a"),
        *("repair 63 bytes beside an untried a", "repair one sector beside an untried a"),
    ),
    "note-boot": ("note that b started",),
    "deadline": ("leave an overdue b",),
    "selftest": ("test the board",),
    "forklift stage": ("stage a bundle of Forklift's",),
    "forklift reconcile": ("leave b, whose bundle is gone, at early boot",),
    "forklift store-changed": ("stage a bundle of Forklift's",),  # the same call
    "forklift apply-result": ("leave b, whose bundle cannot be applied",),
    "forklift arm-on-reboot": ("arm a bundle of Forklift's at a reboot",),
}

#: Every other verb, and words to run it with: it leaves the card as it is, which is tried out.
UNCHANGING: Mapping[str, tuple[str, ...]] = {
    "status": (),
    "verify": (),
    "log": (),
    "doctor": (),
    "install-units": ("--root", "FOLDER"),
    "image build": ("SPEC", "--tree", "TREE", "-o", "NEW"),
    "image inspect": ("CARD",),
    "simulate boot": ("CARD", "--dry-run"),
    "simulate reboot": ("CARD",),
    "simulate power-cut": ("CARD",),
    "simulate run": ("CARD",),  # of a copy, and only of a card with a kernel for its machine
    "forklift status": ("--store", "FOLDER"),
    "forklift rebind": ("--store", "FOLDER"),
    "forklift run-hooks": ("post-apply", "--store", "FOLDER"),
    "config check": (),
    "config show": (),
}


@functools.cache
def beginning(name: str) -> Moment:
    scenario = SCENARIOS[name]
    pi = new_pi(card(scenario.primary, scenario.fat))
    scenario.begin(pi)
    return Moment.of(pi)


def run_cut(pi: CardPi, verb: Act, writes: int) -> None:
    """Run a verb until its power is cut before this write."""
    pi.cut_before_write(writes)
    with suppress(PowerCut):
        verb(pi)


def where(pi: CardPi) -> dict[str, object]:
    """What two runs must agree in that end the same: nothing that counts or tells the time."""
    status = pi.manager().status()
    return {
        "phase": status.phase,
        "booted": status.booted,
        "primary": status.primary,
        "flag": status.flag,
        "trees": {slot: at.record.tree_digest if at.record else None for slot, at in status.slots.items()},
        "notes": [note for note in status.notes if "this boot ran with the tryboot flag" not in note],
    }


def boards() -> tuple[Board, ...]:
    return tuple(BOARDS.values())
