"""Anything may happen to a Pi in any order; the guarantees hold after every step of it.

The model beside it knows only which slots were built in or committed: everything else is asked of the firmware model
and of the bytes on the card.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import attrs
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from abboot.core.autoboot import Autoboot, parse_autoboot
from abboot.core.journal import BLOCK_SIZE, Journal, read_journal
from abboot.core.words import Phase, Slot, SlotState
from abboot.errors import AbbootError, Damaged
from abboot.simulator import PowerCut
from tests.cards import BOARDS, CONFIG, NUMBERS, CardDisk, CardPi, card, new_pi, scratch, tree
from tests.crash.medium import file_of
from tests.crash.scenarios import fall_back, overdue, overwrite_autoboot_sector, self_test, wipe_journal

SLOTS = {number: slot for slot, number in NUMBERS.items()}
FUTURE = "x_from_the_future"  # a field that only a newer abboot knows
_count = itertools.count()


class Check:
    """A health check that says what it was told to say."""

    name = "told"
    required = True
    timeout_s = 5.0

    def __init__(self, *, ok: bool) -> None:
        self.ok = ok

    def run(self) -> object:
        from abboot.core.health import CheckResult

        return CheckResult(name=self.name, ok=self.ok, required=True, detail="as told", duration_s=0.0)


def stage(version: str) -> Callable[[CardPi], object]:
    return lambda pi: pi.manager().stage(tree(version))


VERBS: dict[str, Callable[[CardPi], object]] = {
    "stage v2": stage("v2"),
    "stage v3": stage("v3"),
    "stage unbootable": stage("unbootable"),
    "stage hanging": stage("hanging"),
    "stage base": lambda pi: pi.manager().stage(None, base="booted", cmdline={"root": "LABEL=other"}),
    "trial": lambda pi: pi.manager().trial(),
    "retry": lambda pi: pi.manager().trial(retry=True),
    "arm": lambda pi: pi.manager().trial(reboot=False),
    "confirm": lambda pi: pi.manager().confirm(),
    "commit": lambda pi: pi.manager().commit(),
    "revert": lambda pi: pi.manager().revert(),
    "leave later": lambda pi: pi.manager().revert(reboot=False),
    "unhealthy": lambda pi: pi.manager().end_trial(healthy=False, reason="told so"),
    "overdue": overdue,
    "fall back": fall_back,
    "self-test": self_test,
    "repair": lambda pi: pi.manager().repair(),
}
MAY_COMMIT = {"confirm", "commit"}


@attrs.frozen(kw_only=True)
class Drawer:
    """A card that is in no board, and what the model knows of it."""

    path: Path
    good: frozenset[Slot]
    damaged: bool


class Life(RuleBasedStateMachine):
    """One card in one board; others lie beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.pi: CardPi
        self.good = {Slot.A, Slot.B}
        self.damaged = False  # autoboot.txt, by the world
        self.drawer: list[Drawer] = []

    @initialize(board=st.sampled_from(sorted(BOARDS)), primary=st.sampled_from(Slot))
    def switch_on(self, board: str, primary: Slot) -> None:
        self.pi = new_pi(board=board, primary=primary)
        self.drawer = [Drawer(path=card(primary.other), good=frozenset(Slot), damaged=False)]

    # -- what abboot is asked for -----------------------------------------------------------------------------------

    @rule(verb=st.sampled_from(sorted(VERBS)))
    def run(self, verb: str) -> None:
        self.act(verb, lambda: None)

    @rule(verb=st.sampled_from(sorted(VERBS)), writes=st.integers(0, 9))
    def run_until_the_power_goes(self, verb: str, writes: int) -> None:
        self.act(verb, self.pi.power_cut, writes)

    @rule(verb=st.sampled_from(sorted(VERBS)), writes=st.integers(0, 9))
    def run_until_it_is_killed(self, verb: str, writes: int) -> None:
        self.act(verb, self.pi.disk.power_on, writes)

    @rule(verb=st.sampled_from(sorted(VERBS)), writes=st.integers(0, 9))
    def run_until_the_watchdog_fires(self, verb: str, writes: int) -> None:
        self.act(verb, self.pi.watchdog_reset, writes)

    def act(self, verb: str, afterwards: Callable[[], object], writes: int | None = None) -> None:
        pi = self.pi
        if not pi.running:
            return
        before = pi.manager().status()
        slots = {slot: self.crc(slot) for slot in Slot}
        boots = pi.state.boot_count
        told = self.text()
        journal = self.journal()
        digest = pi.card.digest() if journal.newer else ""
        pi.cut_before_write(writes)
        try:
            VERBS[verb](pi)
        except AbbootError as error:
            note(f"{verb}: {error}")
            assert pi.state.boot_count == boots, "a refusal does not reboot"
            pi.cut_before_write(None)
        except PowerCut:
            afterwards()
        else:
            pi.cut_before_write(None)
        if journal.newer:
            assert pi.card.digest() == digest, "G8: a newer abboot's journal, and something was written"
        self.unknown_fields_survive(journal)
        # G4: neither what runs nor what a cold boot reaches is ever written.
        for slot in {before.booted, before.primary} - {None}:
            assert self.crc(slot) == slots[slot], f"{verb} wrote slot {slot}"
        if before.phase in (Phase.FOREIGN, Phase.OFFLINE) and verb != "repair":
            assert {slot: self.crc(slot) for slot in Slot} == slots
        # G6: nothing but a commit of a trial changes the primary; repair writes what the journal has.
        if told is not None and self.text() is not None and self.text().primary != told.primary:  # type: ignore[union-attr]
            assert before.phase is Phase.TRIAL
            assert verb in MAY_COMMIT
            assert self.text().primary == NUMBERS[before.booted]  # type: ignore[union-attr,index]
            self.good.add(before.booted)  # type: ignore[arg-type]
        if self.text() is not None:
            self.damaged = False
        self.good -= {
            slot for slot in Slot if slot not in (before.booted, before.primary) and self.crc(slot) != slots[slot]
        }
        if verb in ("confirm", "commit") and before.phase is not Phase.TRIAL and writes is None:
            assert pi.state.boot_count == boots, "G7: outside a trial neither reboots"

    def unknown_fields_survive(self, before: Journal) -> None:
        """G8: of what a newer abboot wrote into the newest entry."""
        after = self.journal()
        if before.newest is not None and after.newest is not None and after.newest.sequence > before.newest.sequence:
            for there, now in (
                (before.newest, after.newest),
                *((before.newest.slots[slot], after.newest.slots[slot]) for slot in Slot),
            ):
                assert there.unknown.get(FUTURE) == now.unknown.get(FUTURE), "G8: a field of a newer abboot is gone"

    @rule(healthy=st.booleans())
    def the_service_of_every_boot_runs(self, healthy: bool) -> None:
        """``confirm`` at boot, until nothing reboots any more: that must come soon (G7)."""
        pi = self.pi
        for _boot in range(4):
            if not pi.running:
                return
            boots = pi.state.boot_count
            trial = pi.manager().status().phase is Phase.TRIAL
            try:
                done = pi.manager().confirm([Check(ok=healthy)])
            except AbbootError as error:
                note(f"confirm: {error}")
                return
            if done.action == "committed":
                assert trial
                self.good.add(SLOTS[pi.boot.partition or 0])
            if pi.state.boot_count == boots:
                status = pi.manager().status()
                text = self.text()
                if status.phase is Phase.SETTLED and text is not None:
                    assert text.primary == text.trial, "at rest both sections name the primary"
                    assert status.flag is False
                    assert not any("boot sector is away" in line for line in status.notes)
                return
        raise AssertionError("it reboots again and again")

    # -- what the world does ----------------------------------------------------------------------------------------

    @rule(argument=st.sampled_from([None, None, "0 tryboot", "2", "3"]))
    def reboot(self, argument: str | None) -> None:
        self.pi.reboot(argument)

    @rule()
    def power_cut(self) -> None:
        self.pi.power_cut()

    @rule()
    def watchdog(self) -> None:
        self.pi.watchdog_reset()

    @rule(data=st.data())
    def somebody_edits_autoboot_txt(self, data: st.DataObject) -> None:
        """By hand, to a slot that works."""
        if self.good and self.text() is not None:
            slot = data.draw(st.sampled_from(sorted(self.good)))
            overwrite_autoboot_sector(self.pi, Autoboot(primary=NUMBERS[slot], trial=NUMBERS[slot]).render())

    @rule(seed=st.integers(0, 9))
    def the_card_garbles_autoboot_txt(self, seed: int) -> None:
        overwrite_autoboot_sector(self.pi, random.Random(seed).randbytes(64))
        self.damaged = True

    @rule(blocks=st.sampled_from([1, 2, 64]))
    def the_card_loses_the_newest_of_the_journal(self, blocks: int) -> None:
        wipe_journal(self.pi, blocks)

    @rule(follows=st.booleans(), word=st.booleans())
    def a_newer_abboot_was_here(self, follows: bool, word: bool) -> None:
        """It wrote an entry with fields, and perhaps a transition, that this one does not know.

        ``follows``: it says that this one can act on it all the same.
        """
        newest = self.journal().newest
        if newest is None:
            return
        content = json.loads(newest.encode().split(b"\n", 1)[1].rstrip(b"\0"))
        content[FUTURE] = {"since": newest.sequence}
        content["slots"]["a"][FUTURE] = [1, 2, 3]
        if word:
            content["transition"] = "teleported"
        text = json.dumps(content).encode() + b"\n"
        sequence = newest.sequence + 1
        start = b"ABBOOT-JOURNAL 2 %d %d %d " % (1 if follows else 2, sequence, len(text))
        new = start + hashlib.sha256(start + text).hexdigest().encode() + b"\n" + text
        ring = file_of(self.pi.card, "ABBOOT.JNL", 1 << 20) or b""
        old, place = newest.sequence % 64 * BLOCK_SIZE, sequence % 64 * BLOCK_SIZE
        at = self.pi.card.image.find(ring[old : old + BLOCK_SIZE], self.pi.card.place(1)[0]) - old + place
        self.pi.card.image[at : at + BLOCK_SIZE] = new.ljust(BLOCK_SIZE, b"\0")
        journal = self.journal()
        assert journal.newer is not follows
        assert not follows or journal.entries[-1].unknown[FUTURE] == content[FUTURE]

    @rule()
    def somebody_makes_a_backup(self) -> None:
        self.drawer.append(self.put_away())

    @rule(data=st.data(), board=st.sampled_from(sorted(BOARDS)))
    def another_card_is_put_in(self, data: st.DataObject, board: str) -> None:
        """Or a backup of this one, with the same ids; and into another board."""
        other = data.draw(st.sampled_from(self.drawer))
        self.drawer = [*(card for card in self.drawer if card is not other), self.put_away()][-3:]
        self.good, self.damaged = set(other.good), other.damaged
        self.pi = CardPi(CardDisk(other.path), BOARDS[board], CONFIG)

    def put_away(self) -> Drawer:
        path = self.pi.card.save(scratch() / f"drawer-{next(_count) % 40}.img")
        return Drawer(path=path, good=frozenset(self.good), damaged=self.damaged)

    # -- what holds after every step --------------------------------------------------------------------------------

    @invariant()
    def a_cold_boot_reaches_a_good_slot(self) -> None:
        if not hasattr(self, "pi") or self.damaged:
            return
        good = {NUMBERS[slot] for slot in self.good}
        for boot in self.pi.would_boot_cold():
            assert boot.partition in good, f"G1: {boot.why}"

    @invariant()
    def status_always_has_an_answer(self) -> None:
        if hasattr(self, "pi") and self.pi.running:
            json.dumps(self.pi.manager().status().to_json())

    @invariant()
    def nothing_points_at_a_slot_that_is_being_written(self) -> None:
        if not hasattr(self, "pi") or self.damaged or not self.pi.running:
            return
        text = self.text()
        status = self.pi.manager().status()
        for slot, at in status.slots.items():
            if at.state is SlotState.INCOMPLETE and text is not None:
                assert NUMBERS[slot] not in (text.primary, text.trial), f"G2: slot {slot} is {at.state}"

    # -- reading without abboot -------------------------------------------------------------------------------------

    def crc(self, slot: Slot | None) -> int:
        assert slot is not None
        return zlib.crc32(self.pi.card.bytes_of(NUMBERS[slot]))

    def text(self) -> Autoboot | None:
        with suppress(Damaged):
            return parse_autoboot(file_of(self.pi.card, "autoboot.txt", 600) or b"")
        return None

    def journal(self) -> Journal:
        return read_journal(file_of(self.pi.card, "ABBOOT.JNL", 1 << 20) or b"")


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
