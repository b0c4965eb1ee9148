"""BootManager on simulated Pis: every verb in every phase, what it refuses, and that a refusal changes not one byte."""

from __future__ import annotations

import hashlib
import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

import attrs
import pytest

from abboot.config import Config
from abboot.core.autoboot import Autoboot, parse_autoboot
from abboot.core.firmware import Board, Eeprom, Kernel, Model
from abboot.core.health import CheckResult
from abboot.core.journal import decode
from abboot.core.protocols import BlockDevice, BootReport, Buffer, Clock, Mailbox, Mount, Rebooter
from abboot.core.states import PERMITS, Permit, Verb
from abboot.core.words import Outcome, Phase, Slot, SlotState
from abboot.errors import AbbootError, Damaged, DeviceError, InvalidTree, Locked, Refused, VerificationFailed
from abboot.manager import BY_ARGUMENT, BootManager
from abboot.progress import Progress
from abboot.simulator import PowerCut
from tests.cards import CONFIG, NUMBERS, CardDisk, CardPi, card, new_pi, tree, tree_files, write_tree
from tests.crash.scenarios import autoboot_offset, overwrite_autoboot_sector, wipe_journal

A, B = Slot.A, Slot.B
AT_REST = {A: Autoboot(primary=2, trial=2).render(), B: Autoboot(primary=3, trial=3).render()}


# -- Pis in every phase ---------------------------------------------------------------------------------------------


def settled(primary: Slot = A, **more: Any) -> CardPi:
    """Both slots good; the other one has been staged with v2."""
    pi = new_pi(primary=primary, **more)
    pi.manager().stage(tree("v2"))
    return pi


def armed(primary: Slot = A, **more: Any) -> CardPi:
    pi = settled(primary, **more)
    pi.manager().trial(reboot=False)
    return pi


def on_trial(primary: Slot = A, **more: Any) -> CardPi:
    pi = settled(primary, **more)
    pi.manager().trial()
    return pi


def committed(primary: Slot = A, **more: Any) -> CardPi:
    pi = on_trial(primary, **more)
    pi.manager().commit()
    return pi


def foreign(primary: Slot = A) -> CardPi:
    """`reboot 3`: the other slot runs, and nobody armed it."""
    pi = new_pi(primary=primary)
    pi.reboot(str(NUMBERS[primary.other]))
    return pi


def offline(pi: CardPi) -> BootManager:
    return BootManager(pi.card, None, CONFIG)


PHASES: dict[Phase, Callable[[], CardPi]] = {
    Phase.SETTLED: settled,
    Phase.ARMED: armed,
    Phase.TRIAL: on_trial,
    Phase.FOREIGN: foreign,
    Phase.OFFLINE: settled,
}
VERBS: dict[Verb, Callable[[BootManager], object]] = {
    Verb.STAGE: lambda manager: manager.stage(tree("v3")),
    Verb.TRIAL: lambda manager: manager.trial(),
    Verb.COMMIT: lambda manager: manager.commit(),
    Verb.REVERT: lambda manager: manager.revert(),
}


def manager_in(phase: Phase) -> tuple[CardPi, BootManager]:
    pi = PHASES[phase]()
    manager = offline(pi) if phase is Phase.OFFLINE else pi.manager()
    assert manager.status().phase is phase
    return pi, manager


def text(pi: CardPi) -> bytes:
    """autoboot.txt, from the bytes of the card."""
    at = autoboot_offset(pi)
    return bytes(pi.card.image[at : at + 64])


def state_of(pi: CardPi, slot: Slot) -> SlotState:
    return pi.manager().status().slots[slot].state


def transitions(pi: CardPi) -> list[str]:
    return [str(entry.transition) for entry in pi.manager().log()]


class Told:
    """A health check with a fixed answer."""

    name = "told"
    required = True
    timeout_s = 5.0

    def __init__(self, *, ok: bool) -> None:
        self.ok = ok

    def run(self) -> CheckResult:
        return CheckResult(name=self.name, ok=self.ok, required=True, detail="as told", duration_s=0.0)


REFUSED = [(p, v) for p, row in PERMITS.items() for v, permit in row.items() if permit is Permit.REFUSE]
ALLOWED = [(p, v) for p, row in PERMITS.items() for v, permit in row.items() if permit is not Permit.REFUSE]


@pytest.mark.parametrize(("phase", "verb"), REFUSED)
def test_a_refusal_says_why_and_changes_nothing(phase: Phase, verb: Verb) -> None:
    pi, manager = manager_in(phase)
    before, state = pi.card.digest(), pi.state

    with pytest.raises(Refused, match=f"^cannot {verb}: ") as refused:
        VERBS[verb](manager)

    assert refused.value.hint
    assert pi.card.digest() == before
    assert pi.state == state


@pytest.mark.parametrize(("phase", "verb"), [row for row in ALLOWED if row != (Phase.SETTLED, Verb.REVERT)])
def test_what_a_phase_permits_is_done(phase: Phase, verb: Verb) -> None:
    pi, manager = manager_in(phase)

    VERBS[verb](manager)

    after = pi.manager().status() if phase is not Phase.OFFLINE else manager.status()
    expected = {
        (Phase.SETTLED, Verb.STAGE): Phase.SETTLED,
        (Phase.SETTLED, Verb.TRIAL): Phase.TRIAL,
        (Phase.SETTLED, Verb.COMMIT): Phase.SETTLED,
        (Phase.ARMED, Verb.STAGE): Phase.SETTLED,
        (Phase.ARMED, Verb.TRIAL): Phase.TRIAL,
        (Phase.ARMED, Verb.REVERT): Phase.SETTLED,
        (Phase.TRIAL, Verb.COMMIT): Phase.SETTLED,
        (Phase.TRIAL, Verb.REVERT): Phase.SETTLED,
        (Phase.OFFLINE, Verb.STAGE): Phase.OFFLINE,
    }
    assert after.phase is expected[phase, verb]


@pytest.mark.parametrize("phase", [Phase.SETTLED, Phase.ARMED, Phase.TRIAL, Phase.FOREIGN])
def test_status_log_and_verify_write_nothing_and_take_no_lock(phase: Phase) -> None:
    pi, manager = manager_in(phase)
    before, writes = pi.card.digest(), pi.disk.writes

    with pi.card.lock():
        manager.status().to_json()
        manager.log()
        manager.verify()

    assert pi.card.digest() == before
    assert pi.disk.writes == writes


# -- stage ----------------------------------------------------------------------------------------------------------


def test_staging_the_same_tree_again_writes_not_one_byte() -> None:
    pi = settled()
    before = pi.card.digest()

    again = pi.manager().stage(tree("v2"))

    assert not again.changed
    assert again.bytes_written == again.files_written == 0
    assert pi.card.digest() == before


def test_a_stage_is_whole_and_named_by_its_digest() -> None:
    pi = new_pi()

    staged = pi.manager().stage(tree("v2"), annotations={"who": "me"}, label="second")

    status = pi.manager().status().slots[B]
    assert staged.changed
    assert staged.slot is B
    assert (status.state, status.record_digest, status.label) == (SlotState.STAGED, staged.record_digest, "second")
    assert status.record is not None
    assert dict(status.record.annotations) == {"who": "me"}
    assert staged.bytes_total == sum(map(len, tree_files("v2").values()))
    assert pi.manager().verify(B).ok


def test_another_annotation_is_another_staging_of_the_same_tree() -> None:
    pi = new_pi()
    first = pi.manager().stage(tree("v2"), annotations={"n": "1"})
    second = pi.manager().stage(tree("v2"), annotations={"n": "2"})

    assert first.tree_digest == second.tree_digest
    assert first.record_digest != second.record_digest
    assert second.bytes_written < first.bytes_written


def test_a_dry_run_tells_how_much_and_writes_nothing() -> None:
    pi = new_pi()
    before = pi.card.digest()

    dry = pi.manager().stage(tree("v2"), dry_run=True)

    assert dry.changed
    assert dry.bytes_written > 0
    assert pi.card.digest() == before
    assert transitions(pi) == ["built"]


def test_the_booted_tree_with_an_overlay_and_another_command_line(tmp_path: Path) -> None:
    overlay = write_tree(tmp_path / "over", {"overlays/new.dtbo": b"new", "config.txt": b"# other\n"})
    pi = new_pi()

    pi.manager().stage(None, base="booted", overlays=[overlay], cmdline={"root": "LABEL=other", "quiet": "1"})

    saved = pi.card.save(tmp_path / "card.img")
    assert mtype(saved, B, "overlays/new.dtbo") == b"new"
    assert mtype(saved, B, "config.txt") == b"# other\n"
    assert mtype(saved, B, "kernel8.img") == tree_files("v1")["kernel8.img"]
    words = mtype(saved, B, "cmdline.txt").split()
    assert b"root=LABEL=other" in words
    assert b"root=LABEL=root" not in words
    assert b"quiet=1" in words
    record = pi.manager().status().slots[B].record
    assert record is not None
    assert record.sources[0].startswith("slot a")


def test_progress_is_told_up_to_the_end() -> None:
    told: list[Progress] = []

    new_pi().manager().stage(tree("v2"), progress=told.append)

    last = {step.activity: step for step in told}
    assert {"reading", "writing", "verifying"} <= set(last)
    assert all(step.bytes_done == step.bytes_total for step in last.values())
    assert all(step.bytes_done <= step.bytes_total for step in told)


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({"con.txt": b"", "CON.TXT": b""}, InvalidTree),
        ({"kernel8.img": bytes(4 << 20)}, InvalidTree),
        ({"a/abboot": b"", "abboot/record.json": b"{}"}, InvalidTree),
    ],
)
def test_a_tree_that_cannot_be_leaves_the_card_as_it_was(
    files: dict[str, bytes], error: type[AbbootError], tmp_path: Path
) -> None:
    pi = settled()
    before = pi.card.digest()

    with pytest.raises(error, match=r"^cannot "):
        pi.manager().stage(write_tree(tmp_path / "bad", files))

    assert pi.card.digest() == before


def test_no_tree_at_all_is_refused_before_anything_is_written() -> None:
    pi = settled()
    before = pi.card.digest()

    with pytest.raises(AbbootError, match="no tree was given"):
        pi.manager().stage(None)

    assert pi.card.digest() == before


def test_a_mounted_slot_is_never_staged() -> None:
    class Mounted(CardDisk):
        def mounts_of(self, number: int) -> tuple[Mount, ...]:
            return (Mount(path="/nowhere", writable=False, whole=False),) if number == 3 else ()

    disk = Mounted(card())
    pi = CardPi(disk, Board(), CONFIG)

    with pytest.raises(Refused, match=r"mounted on /nowhere"):
        pi.manager().stage(tree("v2"))

    assert disk.digest() == CardDisk(card()).digest()


def test_a_primary_that_is_not_whole_is_no_way_back_so_nothing_is_staged(tmp_path: Path) -> None:
    pi = mtools(new_pi(), tmp_path, A, "mdel", "::kernel8.img")
    before = pi.card.digest()

    with pytest.raises(Refused, match=r"not whole: 1 file is missing \(kernel8.img\)"):
        pi.manager().stage(tree("v2"))

    assert pi.card.digest() == before


def test_a_command_line_that_the_primary_edited_is_no_obstacle(tmp_path: Path) -> None:
    pi = mcopy(new_pi(), tmp_path, A, "cmdline.txt", b"edited\n")

    assert pi.manager().stage(tree("v2")).changed


def test_a_stage_waits_five_seconds_after_a_commit() -> None:
    """G5: some cards lose what they acknowledged for seconds (H-47)."""
    pi = committed()

    first = pi.manager().stage(tree("v3"))
    second = pi.manager().stage(tree("v4"))

    assert first.duration_s >= 4.5
    assert second.duration_s < 4.5


def test_a_stage_waits_as_well_when_the_commit_was_killed_after_its_switch() -> None:
    pi = on_trial()
    writes = committing_writes()
    pi.cut_before_write(writes - 1)  # all but the entry that it is done
    with suppress(PowerCut):
        pi.manager().commit()
    pi.disk.power_on()
    assert text(pi) == AT_REST[B]

    assert pi.manager().stage(tree("v3")).duration_s >= 4.5


def committing_writes() -> int:
    pi = on_trial()
    record = pi.disk.record()
    pi.manager().commit()
    return sum(write.data is not None for write in record)


def test_staging_while_armed_disarms_first() -> None:
    pi = armed()

    pi.manager().stage(tree("v3"))

    assert text(pi) == AT_REST[A]
    assert pi.state.flag is False
    assert pi.state.argument is None
    assert transitions(pi)[-3:] == ["disarmed", "staging", "staged"]
    pi.reboot()
    assert pi.boot.partition == 2


@pytest.mark.parametrize("primary", Slot)
def test_staging_while_armed_what_the_slot_holds_already_disarms_and_writes_no_slot(primary: Slot) -> None:
    pi = armed(primary)
    slot = pi.card.bytes_of(NUMBERS[primary.other])
    dry = pi.manager().stage(tree("v2"), dry_run=True)
    assert pi.manager().status().phase is Phase.ARMED

    done = pi.manager().stage(tree("v2"))

    assert (done.changed, dry.changed) == (True, True)
    assert (done.files_written, dry.bytes_written) == (0, 0)
    assert done.bytes_written > 0, "the journal and autoboot.txt"
    assert pi.manager().status().phase is Phase.SETTLED
    assert text(pi) == AT_REST[primary]
    assert (pi.state.flag, pi.state.argument) == (False, None)
    assert pi.card.bytes_of(NUMBERS[primary.other]) == slot
    assert state_of(pi, primary.other) is SlotState.STAGED
    assert not pi.manager().stage(tree("v2")).changed


def test_staging_a_tree_again_that_failed_warns_and_writes_nothing() -> None:
    pi = settled()
    assert pi.manager().stage(tree("v2")).warnings == ()
    pi.manager().trial()
    pi.manager().revert()
    pi.manager().confirm()
    before = pi.card.digest()

    again = pi.manager().stage(tree("v2"))

    assert not again.changed
    assert again.warnings == ("this very tree was tried on slot b and failed: `abboot trial --retry` insists",)
    assert pi.card.digest() == before
    assert pi.manager().stage(tree("v3")).warnings == ()


def test_offline_the_slot_that_is_not_primary_is_staged() -> None:
    pi = committed()

    staged = offline(pi).stage(tree("v3"))

    assert staged.slot is A
    assert offline(pi).status().booted is None


class Worn(CardDisk):
    """A card that spoils one write to a partition, or refuses every one from then on."""

    def __init__(self, path: Path, number: int, *, refuses: bool = False, after: int = 0) -> None:
        super().__init__(path)
        self.number, self.refuses, self.left = number, refuses, after

    def open_partition(self, number: int, start: int, size: int, *, writable: bool = False) -> BlockDevice:
        device = super().open_partition(number, start, size, writable=writable)
        return _WornDevice(self, device) if number == self.number and writable else device


class _WornDevice:
    def __init__(self, disk: Worn, device: BlockDevice) -> None:
        self._disk, self._device = disk, device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def write(self, offset: int, data: Buffer) -> None:
        self._disk.left -= 1
        if self._disk.left < 0 and self._disk.refuses:
            raise DeviceError(f"cannot write {self._device.name}: input/output error")
        spoiled = bytearray(data)
        if self._disk.left == -1:
            spoiled[33] ^= 1  # in a file, a directory entry or a FAT: never in slack
        self._device.write(offset, spoiled)


@pytest.mark.parametrize("after", range(10))
def test_a_card_that_spoils_one_bit_is_found_out_and_the_slot_stays_invalid(after: int) -> None:
    disk = Worn(card(), 3, after=after)
    pi = CardPi(disk, Board(), CONFIG)

    with pytest.raises(VerificationFailed, match=r"^cannot (stage|validate|invalidate) "):
        pi.manager().stage(tree("v2"))

    assert disk.bytes_of(3)[510:512] != b"\x55\xaa"
    assert state_of(pi, B) is SlotState.INCOMPLETE
    with pytest.raises(Refused, match="it is incomplete"):
        pi.manager().trial()


def test_a_card_that_refuses_writes_leaves_the_slot_invalid() -> None:
    disk = Worn(card(), 3, after=2, refuses=True)
    pi = CardPi(disk, Board(), CONFIG)

    with pytest.raises(DeviceError, match="input/output error"):
        pi.manager().stage(tree("v2"))

    assert not any(disk.bytes_of(3)[:512])
    assert pi.power_cut().partition == 2


# -- trial ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("primary", Slot)
@pytest.mark.parametrize("model", [Model.PI_4, Model.PI_5])
def test_an_update_is_staged_tried_confirmed_and_survives_a_power_cut(primary: Slot, model: Model) -> None:
    pi = on_trial(primary, board=Board(model=model))
    assert pi.manager().status().phase is Phase.TRIAL

    done = pi.manager().confirm([Told(ok=True)])

    assert (done.verdict, done.action) == ("healthy", "committed")
    assert pi.power_cut().partition == NUMBERS[primary.other]
    assert text(pi) == AT_REST[primary.other]
    status = pi.manager().status()
    assert status.phase is Phase.SETTLED
    assert status.primary is primary.other
    assert status.last_trial is not None
    assert status.last_trial.outcome is Outcome.COMMITTED
    assert transitions(pi) == ["built", "staging", "staged", "armed", "started", "committing", "committed"]


def test_two_updates_in_a_row_use_one_slot_after_the_other() -> None:
    pi = committed()
    pi.power_cut()
    pi.manager().confirm()

    staged = pi.manager().stage(tree("v3"))
    pi.manager().trial(staged.record_digest)
    pi.manager().confirm()

    assert staged.slot is A
    assert pi.power_cut().partition == 2
    assert {slot: at.state for slot, at in pi.manager().status().slots.items()} == dict.fromkeys(Slot, SlotState.GOOD)


def test_another_staging_than_the_one_named_is_not_tried() -> None:
    pi = new_pi()
    first = pi.manager().stage(tree("v2"))
    second = pi.manager().stage(tree("v3"))
    before = pi.card.digest()

    with pytest.raises(Refused, match=first.record_digest[:12]):
        pi.manager().trial(first.record_digest)

    assert pi.card.digest() == before
    assert pi.manager().trial(second.record_digest).slot is B


def test_a_record_may_be_named_by_twelve_digits() -> None:
    pi = new_pi()
    digest = pi.manager().stage(tree("v2")).record_digest

    assert pi.manager().trial(digest[:12], reboot=False).changed
    assert not pi.manager().trial(digest[:13], reboot=False).changed, "armed already, and it is that one"


@pytest.mark.parametrize("phase", [Phase.SETTLED, Phase.ARMED])
@pytest.mark.parametrize("digits", [0, 1, 11])
def test_fewer_than_twelve_digits_name_no_record(digits: int, phase: Phase) -> None:
    """An empty variable of somebody's script is not "whatever is staged"."""
    pi, manager = manager_in(phase)
    digest = manager.status().slots[B].record_digest
    assert digest is not None
    before, state = pi.card.digest(), pi.state

    with pytest.raises(Refused, match=rf"^cannot try slot b: '{digest[:digits]}' names no record$") as refused:
        manager.trial(digest[:digits])

    assert "at least the first 12 digits" in refused.value.hint
    assert (pi.card.digest(), pi.state) == (before, state)


@pytest.mark.parametrize("other", [12, 64])
def test_digits_of_another_record_are_refused_while_it_is_armed(other: int) -> None:
    pi = armed()
    boots = pi.state.boot_count

    with pytest.raises(Refused, match=r"not ffffffffffff$"):
        pi.manager().trial("f" * other)

    assert pi.state.boot_count == boots


def test_one_flipped_bit_is_found_before_the_trial(tmp_path: Path) -> None:
    data = bytearray(tree_files("v2")["kernel8.img"])
    data[7] ^= 4
    pi = mcopy(settled(), tmp_path, B, "kernel8.img", bytes(data))
    before = pi.card.digest()

    with pytest.raises(VerificationFailed, match=r"1 file changed \(kernel8.img\)"):
        pi.manager().trial()

    assert pi.card.digest() == before
    assert pi.state.flag is False


def test_a_failed_slot_is_tried_again_on_request_only() -> None:
    pi = on_trial()
    pi.manager().note_boot()
    pi.watchdog_reset()

    assert pi.manager().confirm().outcome is Outcome.FELL_BACK
    with pytest.raises(Refused, match="it is failed"):
        pi.manager().trial()
    pi.manager().trial(retry=True)
    assert pi.manager().status().phase is Phase.TRIAL
    trial = pi.manager().status().last_trial
    assert trial is not None
    assert trial.attempt == 2


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_a_trial_that_nobody_saw_is_repeated_as_often_as_policy_says(attempts: int) -> None:
    config = attrs.evolve(CONFIG, trial=attrs.evolve(Config().trial, attempts=attempts))
    pi = settled(config=config)

    for attempt in range(1, attempts + 1):
        pi.manager().trial(reboot=False)
        pi.power_cut()
        assert pi.manager().confirm().outcome is Outcome.NOT_REACHED
        assert state_of(pi, B) is (SlotState.STAGED if attempt < attempts else SlotState.FAILED)

    with pytest.raises(Refused, match="it is failed"):
        pi.manager().trial()


def test_a_cancelled_trial_is_no_attempt() -> None:
    pi = settled()
    for _time in range(3):
        pi.manager().trial(reboot=False)
        pi.manager().revert()

    pi.manager().trial(reboot=False)

    trial = pi.manager().status().last_trial
    assert trial is not None
    assert trial.attempt == 1


def test_arming_twice_changes_nothing_the_second_time() -> None:
    pi = armed()
    before = pi.card.digest()

    again = pi.manager().trial(reboot=False)

    assert not again.changed
    assert pi.card.digest() == before
    assert pi.state.flag is True


@pytest.mark.needs("mcopy")
def test_what_was_armed_and_is_changed_since_is_not_fired(tmp_path: Path) -> None:
    pi = mcopy(armed(), tmp_path, B, "kernel8.img", b"another kernel")
    boots = pi.state.boot_count

    with pytest.raises(VerificationFailed, match=r"^cannot try slot b: 1 file changed \(kernel8.img\)$") as refused:
        pi.manager().trial()

    assert refused.value.hint == "stage the tree again: `abboot stage TREE`; the trial is disarmed"
    assert (pi.manager().status().phase, pi.state.boot_count) == (Phase.SETTLED, boots)
    assert (text(pi), pi.state.flag, pi.state.argument) == (AT_REST[A], False, None)


@pytest.mark.needs("mcopy")
@pytest.mark.parametrize("flag", [True, False])
def test_an_armed_slot_that_somebody_else_staged_is_not_fired(tmp_path: Path, *, flag: bool) -> None:
    """The record on the slot is whole, and not the one that the journal armed."""
    other = new_pi()
    other.manager().stage(tree("v2"), label="another staging of it")
    record = mtype(other.card.save(tmp_path / "other.img"), B, "abboot/record.json")
    pi = mcopy(armed(), tmp_path, B, "abboot/record.json", record)
    pi.change(flag=flag)
    boots = pi.state.boot_count

    with pytest.raises(Refused, match=r"^cannot use slot b: its record is ") as refused:
        pi.manager().trial()

    assert refused.value.hint.endswith("the trial is disarmed")
    assert (pi.manager().status().phase, pi.state.boot_count) == (Phase.SETTLED, boots)
    assert (text(pi), pi.state.flag, pi.state.argument) == (AT_REST[A], False, None)


def test_an_arm_without_reboot_fires_at_the_next_plain_reboot() -> None:
    pi = armed()

    pi.reboot()

    assert pi.boot.partition == 3
    assert pi.manager().status().phase is Phase.TRIAL


def test_an_unbootable_tree_is_told_from_one_that_was_never_reached() -> None:
    pi = new_pi()
    pi.manager().stage(tree("unbootable"))
    pi.manager().trial()

    assert pi.boot.partition == 2
    assert pi.manager().confirm().outcome is Outcome.UNBOOTABLE
    assert state_of(pi, B) is SlotState.FAILED


def test_a_tree_that_hangs_falls_back_with_the_next_power_cut() -> None:
    pi = new_pi()
    pi.manager().stage(tree("hanging"))
    pi.manager().trial()
    assert not pi.running
    with pytest.raises(Refused, match="nothing runs on this Pi"):
        pi.manager()

    assert pi.power_cut().partition == 2

    assert pi.manager().confirm().outcome is Outcome.NOT_REACHED


def test_while_a_is_armed_from_b_a_torn_autoboot_txt_finds_no_boot_sector_on_a() -> None:
    """H-15: the order of the writes is: journal, hide a, switch, show a; the flag comes after all of them."""
    pi = settled(B)
    record = pi.disk.record()

    pi.manager().trial(reboot=False)

    writes = [write for write in record if write.data is not None]
    boot_sector = pi.card.bytes_of(2)[:512]
    assert [(write.partition, write.data[:512] if write.partition == 2 else b"") for write in writes] == [  # type: ignore[index]
        (1, b""),  # the journal
        (2, bytes(512)),
        (1, b""),  # autoboot.txt
        (2, boot_sector),
    ]
    assert writes[2].data[:64] == Autoboot(primary=3, trial=2).render()  # type: ignore[index]
    for write, following in itertools.pairwise(record):
        assert (write.data is None) != (following.data is None), "each write is flushed before the next"


def test_while_b_is_armed_from_a_nothing_needs_hiding() -> None:
    pi = settled(A)
    record = pi.disk.record()

    pi.manager().trial(reboot=False)

    assert {write.partition for write in record} == {1}


# -- what proves that a trial is one boot only ----------------------------------------------------------------------


class Machine:
    """The board of a Pi, but for some of what it tells."""

    def __init__(self, pi: CardPi, *, flag_can_be_read: bool = True, **report: Any) -> None:
        self._machine = pi.manager()._machine
        assert self._machine is not None
        self._flag = flag_can_be_read
        self._report = report

    @property
    def mailbox(self) -> Mailbox:
        assert self._machine is not None
        return self._machine.mailbox if self._flag else self

    def tryboot_flag(self) -> bool | None:
        return None

    def set_tryboot_flag(self, value: bool) -> None:
        raise DeviceError("cannot open /dev/vcio: no such file")

    @property
    def rebooter(self) -> Rebooter:
        assert self._machine is not None
        return self._machine.rebooter

    @property
    def clock(self) -> Clock:
        assert self._machine is not None
        return self._machine.clock

    def boot_report(self) -> BootReport | None:
        assert self._machine is not None
        report = self._machine.boot_report()
        return None if report is None or "gone" in self._report else attrs.evolve(report, **self._report)

    def under_voltage(self) -> bool | None:
        assert self._machine is not None
        return self._machine.under_voltage()

    def boot_id(self) -> str:
        assert self._machine is not None
        return self._machine.boot_id()


def manager_with(pi: CardPi, config: Config = CONFIG, **report: Any) -> BootManager:
    return BootManager(pi.disk, Machine(pi, **report), config)


def test_a_bootloader_from_before_a_b_support_is_never_armed() -> None:
    """H-01: it takes the last line of autoboot.txt, so that it would cold-boot the armed slot."""
    pi = settled(board=Board(bootloader=date(2021, 4, 29)))
    before = pi.card.digest()

    with pytest.raises(Refused, match=r"2021-04-29 does not know A/B boot \(H-01\)"):
        pi.manager().trial()

    assert pi.card.digest() == before


def test_status_says_where_the_reboot_argument_alone_is_the_channel() -> None:
    by_argument = attrs.evolve(CONFIG, trial=attrs.evolve(Config().trial, reboot="argument"))

    assert [note for note in new_pi(config=by_argument).manager().status().notes if "alone" in note] == [BY_ARGUMENT]
    assert BY_ARGUMENT not in new_pi().manager().status().notes


def test_an_unknown_bootloader_needs_the_operators_word() -> None:
    pi = settled()
    allowed = attrs.evolve(CONFIG, trial=attrs.evolve(Config().trial, allow_unknown_bootloader=True))

    with pytest.raises(Refused, match="does not tell its date"):
        manager_with(pi, build_timestamp=None).trial()
    with pytest.raises(Refused, match="none that abboot knows"):
        manager_with(pi, model="Some Board").trial()

    assert manager_with(pi, allowed, build_timestamp=None).trial(reboot=False).changed


def test_a_kernel_without_the_mailbox_is_refused_unless_the_argument_is_the_channel() -> None:
    """H-29."""
    pi = settled()
    argument = attrs.evolve(CONFIG, trial=attrs.evolve(Config().trial, reboot="argument"))
    before = pi.card.digest()

    with pytest.raises(Refused, match=r"no /dev/vcio \(H-29\)"):
        manager_with(pi, flag_can_be_read=False).trial()
    assert pi.card.digest() == before

    manager_with(pi, argument, flag_can_be_read=False).trial()
    assert pi.boot.partition == 3
    assert pi.boot.tryboot


def test_a_simulated_mainline_kernel_has_no_mailbox() -> None:
    pi = settled(board=Board(kernel=Kernel.MAINLINE))

    assert pi.manager().status().flag is None
    with pytest.raises(Refused, match="H-29"):
        pi.manager().trial()


def test_a_flag_that_was_set_before_is_cleared_whatever_the_channel_is() -> None:
    argument = attrs.evolve(CONFIG, trial=attrs.evolve(Config().trial, reboot="argument"))
    pi = new_pi(config=argument)
    pi.change(flag=True)

    pi.manager().stage(tree("v2"))

    assert pi.state.flag is False


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        ({"gone": True}, "no chosen/bootloader node"),
        ({"partition": 0}, "reports partition 0"),
        ({"partition": None}, "reports partition None"),
        ({"partition": 1}, "partition 1 booted, which is no slot"),
        ({"partition": 7}, "partition 7 booted, which is no slot"),
    ],
)
def test_a_boot_that_cannot_be_told_is_foreign(report: dict[str, Any], reason: str) -> None:
    manager = manager_with(settled(), **report)

    status = manager.status()
    assert status.phase is Phase.FOREIGN
    assert reason in status.reason
    with pytest.raises(Refused):
        manager.trial()


@pytest.mark.parametrize(
    "verb", [*VERBS.values(), lambda manager: manager.confirm()], ids=[*map(str, VERBS), "confirm"]
)
@pytest.mark.parametrize("report", [{"gone": True}, {"partition": 0}])
def test_where_nobody_can_tell_the_booted_slot_a_newer_bootloader_is_the_way_out(
    report: dict[str, Any], verb: Callable[[BootManager], object]
) -> None:
    """H-07: neither a reboot nor a repair makes an old bootloader say more."""
    pi = settled()
    before = pi.card.digest()

    with pytest.raises(Refused) as untold:
        verb(manager_with(pi, **report))
    with pytest.raises(Refused) as told:
        verb(foreign().manager())

    assert "sudo rpi-eeprom-update -a" in untold.value.hint
    assert "abboot repair" not in untold.value.hint
    assert "abboot repair" in told.value.hint
    assert pi.card.digest() == before


def test_an_early_pi_5_bootloader_hides_the_partition() -> None:
    """H-07."""
    pi = new_pi(board=Board(model=Model.PI_5, bootloader=date(2024, 1, 15)))

    assert pi.manager().status().phase is Phase.FOREIGN


# -- commit ---------------------------------------------------------------------------------------------------------


def test_committing_twice_changes_nothing_the_second_time() -> None:
    pi = committed()
    before = pi.card.digest()

    again = pi.manager().commit()

    assert not again.changed
    assert pi.card.digest() == before


def test_a_changed_kernel_is_not_committed(tmp_path: Path) -> None:
    pi = mcopy(on_trial(), tmp_path, B, "kernel8.img", b"other kernel")
    before = pi.card.digest()

    with pytest.raises(VerificationFailed, match="changed"):
        pi.manager().commit()

    assert pi.card.digest() == before
    assert pi.power_cut().partition == 2


def test_a_missing_file_is_not_committed(tmp_path: Path) -> None:
    pi = mtools(on_trial(), tmp_path, B, "mdel", "::overlays/README")

    with pytest.raises(VerificationFailed, match=r"1 (file )?missing"):
        pi.manager().commit()


def test_a_command_line_that_the_system_edited_is_noted_and_committed(tmp_path: Path) -> None:
    pi = mcopy(on_trial(), tmp_path, B, "cmdline.txt", b"edited by the running system\n")

    done = pi.manager().commit()

    assert "cmdline.txt" in done.detail
    assert pi.power_cut().partition == 3


def test_a_slot_that_was_written_by_somebody_else_is_not_committed(tmp_path: Path) -> None:
    pi = mcopy(on_trial(), tmp_path, B, "abboot/record.json", b"{}")

    with pytest.raises(AbbootError):
        pi.manager().commit()

    assert text(pi) == Autoboot(primary=2, trial=3).render()


def test_a_trial_that_is_being_left_is_not_committed() -> None:
    pi = on_trial()
    pi.manager().revert(reboot=False)

    with pytest.raises(Refused, match="is being reverted"):
        pi.manager().commit()


def test_reboot_3_is_no_trial_even_while_b_is_armed() -> None:
    """H-51: the right slot, but not by the flag."""
    pi = armed()
    pi.change(flag=False)
    pi.reboot("3")

    assert pi.boot.partition == 3
    assert pi.manager().status().phase is Phase.FOREIGN
    with pytest.raises(Refused, match="not booted by the tryboot flag"):
        pi.manager().commit()


def test_the_second_boot_of_an_arm_is_no_trial() -> None:
    pi = on_trial()
    pi.manager().note_boot()
    pi.reboot("0 tryboot")

    status = pi.manager().status()
    assert pi.boot.partition == 3
    assert status.phase is Phase.FOREIGN
    assert "an earlier boot" in status.reason


@pytest.mark.parametrize("primary", Slot)
def test_a_stray_flag_after_a_failed_trial_boots_the_primary(primary: Slot) -> None:
    pi = on_trial(primary)
    pi.manager().note_boot()
    pi.watchdog_reset()
    pi.manager().confirm()

    pi.reboot("0 tryboot")

    assert pi.boot.partition == NUMBERS[primary]
    assert any("no trial was armed" in note for note in pi.manager().status().notes)
    with pytest.raises(Refused):
        pi.manager().trial()


def test_a_commit_that_the_card_lost_again_leaves_a_card_that_goes_on() -> None:
    """H-47, beyond the assumption: the old sector is back after the power cut, the journal says committed."""
    pi = committed()
    overwrite_autoboot_sector(pi, Autoboot(primary=2, trial=3).render())
    assert pi.power_cut().partition == 2

    pi.manager().confirm()

    assert pi.manager().status().phase is Phase.SETTLED
    assert text(pi) == AT_REST[A]
    assert state_of(pi, B) is SlotState.GOOD
    pi.manager().trial()
    assert pi.manager().confirm().action == "committed"


@pytest.mark.parametrize("way", ["reboot", "repair"])
def test_out_of_foreign_leads_a_plain_reboot_or_one_repair(way: str) -> None:
    pi = foreign()
    boots = pi.state.boot_count

    if way == "reboot":
        pi.reboot()
    else:
        assert pi.manager().repair().rebooting

    assert pi.state.boot_count == boots + 1
    pi.manager().confirm()
    assert pi.manager().status().phase is Phase.SETTLED
    assert text(pi) == AT_REST[A]


# -- revert ---------------------------------------------------------------------------------------------------------


def test_going_back_counts_an_outcome_that_nobody_noted_yet() -> None:
    """The flag fired and the firmware did not load the slot: it is good in the journal, and no way back."""
    pi = committed()
    pi.manager().revert(reboot=False)
    number, _size = NUMBERS[A], pi.card.place(NUMBERS[A])
    start = pi.card.place(number)[0]
    boot_sector = bytes(pi.card.image[start : start + 512])
    pi.card.image[start : start + 512] = bytes(512)
    pi.reboot()
    pi.card.image[start : start + 512] = boot_sector
    assert (pi.boot.partition, pi.boot.tryboot) == (3, True)
    assert state_of(pi, A) is SlotState.GOOD

    with pytest.raises(Refused, match="slot a is failed"):
        pi.manager().revert()


@pytest.mark.parametrize("primary", Slot)
def test_leaving_a_trial_boots_the_primary_and_tells_why(primary: Slot) -> None:
    pi = on_trial(primary)

    done = pi.manager().revert(reason="the antenna is off")

    assert done.rebooting
    assert pi.boot.partition == NUMBERS[primary]
    assert pi.manager().confirm().outcome is Outcome.REVERTED
    assert text(pi) == AT_REST[primary]
    assert state_of(pi, primary.other) is SlotState.FAILED
    trial = pi.manager().status().last_trial
    assert trial is not None
    assert trial.reason == "the antenna is off"


@pytest.mark.parametrize("primary", Slot)
def test_cancelling_an_arm_leaves_the_slot_staged(primary: Slot) -> None:
    pi = armed(primary)

    pi.manager().revert()

    assert text(pi) == AT_REST[primary]
    assert (pi.state.flag, pi.state.argument) == (False, None)
    assert state_of(pi, primary.other) is SlotState.STAGED
    assert pi.manager().verify(primary.other).ok
    pi.reboot()
    assert pi.boot.partition == NUMBERS[primary]


def test_going_back_after_a_commit_is_a_trial_too() -> None:
    pi = committed()

    pi.manager().revert()

    assert pi.manager().status().phase is Phase.TRIAL
    assert pi.boot.partition == 2
    assert pi.power_cut().partition == 3
    assert pi.manager().confirm().outcome is Outcome.NOT_REACHED
    assert state_of(pi, A) is SlotState.GOOD


@pytest.mark.parametrize("primary", Slot)
def test_power_cuts_while_going_back_leave_both_slots_good(primary: Slot) -> None:
    """However often: nothing shows that the slot is worse than when it was committed."""
    pi = committed(primary)
    for _cut in range(3):
        pi.manager().revert(reboot=False)
        pi.power_cut()
        assert pi.manager().confirm().outcome is Outcome.NOT_REACHED
        assert {state_of(pi, slot) for slot in Slot} == {SlotState.GOOD}

    pi.manager().revert()

    assert pi.boot.partition == NUMBERS[primary]
    assert pi.manager().confirm().action == "committed"


class Counted(CardDisk):
    """A card that tells how often it was locked; another abboot has it at one of these times."""

    def __init__(self, path: Path, *, busy_at: int = 0) -> None:
        super().__init__(path)
        self.locks, self.busy_at = 0, busy_at

    @contextmanager
    def lock(self) -> Iterator[None]:
        self.locks += 1
        if self.locks == self.busy_at:
            raise Locked(f"cannot lock {self.name}: another abboot has it")
        with super().lock():
            yield


def test_going_back_is_decided_and_armed_under_one_lock(tmp_path: Path) -> None:
    """Between two locks somebody could stage over the slot that was found good."""
    before = committed()
    disk = Counted(before.card.save(tmp_path / "card.img"))
    pi = CardPi(disk, Board(), CONFIG)

    pi.manager().revert(reason="the fan is loud")

    assert disk.locks == 1
    assert pi.manager().status().phase is Phase.TRIAL
    entry = pi.manager().log()[-1]
    assert (str(entry.transition), entry.note) == ("armed", "the fan is loud")


def test_there_is_no_going_back_to_a_slot_that_is_not_good() -> None:
    pi = settled()
    before = pi.card.digest()

    with pytest.raises(Refused, match="slot b is staged, and only a good one is gone back to"):
        pi.manager().revert()

    assert pi.card.digest() == before


def test_an_unhealthy_trial_is_left_and_health_code_does_nothing_elsewhere() -> None:
    """G7: two unhealthy slots and a check on every boot are no loop."""
    pi = on_trial()

    left = pi.manager().confirm([Told(ok=False)])

    assert (left.verdict, left.action) == ("unhealthy", "reverted")
    boots = pi.state.boot_count
    for _boot in range(3):
        assert pi.manager().confirm([Told(ok=False)]).verdict == "none"
        assert not pi.manager().end_trial(healthy=False).changed
    assert pi.state.boot_count == boots
    assert pi.boot.partition == 2


def test_health_code_never_goes_back_from_a_settled_system() -> None:
    pi = committed()
    boots = pi.state.boot_count

    assert not pi.manager().end_trial(healthy=False, reason="late").changed

    assert pi.state.boot_count == boots
    assert text(pi) == AT_REST[B]


def test_a_trial_is_left_even_when_the_card_takes_no_more_writes(tmp_path: Path) -> None:
    pi = on_trial()
    pi = dying(pi, tmp_path)

    done = pi.manager().revert()

    assert done.rebooting
    assert pi.boot.partition == 2


def dying(pi: CardPi, folder: Path, *, after: int = 0) -> CardPi:
    """The same Pi, with a card that takes no write to its selector any more."""
    return with_card(pi, Worn(pi.card.save(folder / "dying.img"), 1, refuses=True, after=after))


@pytest.mark.parametrize(("healthy", "after"), [(True, 0), (True, 1), (True, 2), (False, 0), (False, 1), (False, 2)])
def test_a_trial_on_a_card_that_takes_no_more_writes_is_left(tmp_path: Path, after: int, *, healthy: bool) -> None:
    """G11: it cannot be stamped as started, nor journalled as left; the reboot is requested all the same."""
    pi = dying(on_trial(), tmp_path, after=after)
    boots = pi.state.boot_count

    done = pi.manager().confirm([Told(ok=healthy)])

    assert done.verdict == ("healthy" if healthy else "unhealthy")
    assert done.action == "reverted"
    assert done.change is not None
    assert done.change.rebooting
    assert (pi.state.boot_count, pi.boot.partition, pi.boot.tryboot) == (boots + 1, 2, False)


def test_a_card_that_takes_no_more_writes_after_the_switch_has_committed_and_says_that_it_is_failing(
    tmp_path: Path,
) -> None:
    pi = dying(on_trial(), tmp_path, after=3)  # started, committing, the switch
    boots = pi.state.boot_count

    with pytest.raises(DeviceError, match="input/output error"):
        pi.manager().confirm([Told(ok=True)])

    assert pi.state.boot_count == boots
    assert pi.manager().status().primary is B
    assert pi.power_cut().partition == 3


def test_outside_a_trial_a_card_that_takes_no_writes_is_told_and_never_rebooted(tmp_path: Path) -> None:
    pi = on_trial()
    pi.manager().note_boot()
    pi.watchdog_reset()
    pi = dying(pi, tmp_path)
    boots = pi.state.boot_count

    with pytest.raises(DeviceError, match="input/output error"):
        pi.manager().confirm([Told(ok=False)])

    assert pi.state.boot_count == boots


def without_selector(pi: CardPi, _folder: Path) -> CardPi:
    start, _size = pi.card.place(1)
    pi.card.image[start : start + 512] = bytes(512)
    return pi


def with_garbled_autoboot_txt(pi: CardPi, _folder: Path) -> CardPi:
    overwrite_autoboot_sector(pi, b"?" * 64)
    return pi


UNCOMMITTABLE: dict[str, tuple[Callable[[CardPi, Path], CardPi], str]] = {
    "another kernel": (lambda pi, folder: mcopy(pi, folder, B, "kernel8.img", b"x"), r"1 file changed \(kernel8.img\)"),
    "a damaged autoboot.txt": (with_garbled_autoboot_txt, "autoboot.txt on partition 1 is damaged"),
    "no selector": (without_selector, "autoboot.txt on partition 1 is damaged"),
}


@pytest.mark.needs("mcopy")
@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize("what", UNCOMMITTABLE)
def test_a_healthy_trial_that_cannot_be_committed_is_left_and_says_why(
    what: str, tmp_path: Path, *, noted: bool
) -> None:
    """It would fall back at the next reset anyway, when nobody looks."""
    change, why = UNCOMMITTABLE[what]
    pi = on_trial()
    if noted:
        pi.manager().note_boot()
    pi = change(pi, tmp_path)
    assert pi.manager().status().phase is Phase.TRIAL
    boots = pi.state.boot_count

    done = pi.manager().confirm([Told(ok=True)])

    assert (done.verdict, done.action) == ("healthy", "reverted")
    assert done.change is not None
    assert done.change.rebooting
    assert done.change.slot is B
    assert re.search(why, done.change.detail)
    assert (pi.state.boot_count, pi.boot.partition) == (boots + 1, 2)
    assert pi.power_cut().partition == 2


@pytest.mark.needs("mcopy")
def test_why_a_healthy_trial_was_left_is_in_the_journal(tmp_path: Path) -> None:
    pi = mcopy(on_trial(), tmp_path, B, "kernel8.img", b"x")

    assert pi.manager().end_trial(healthy=True).rebooting

    assert pi.manager().confirm().outcome is Outcome.REVERTED
    trial = pi.manager().status().last_trial
    assert trial is not None
    assert trial.reason == "cannot commit slot b: 1 file changed (kernel8.img)"
    assert state_of(pi, B) is SlotState.FAILED


def test_a_trial_that_is_being_left_is_left_by_the_next_confirm_however_healthy_it_is() -> None:
    """`revert --no-reboot`, and nobody rebooted: the check is not even asked."""
    pi = on_trial()
    pi.manager().revert(reason="the antenna is off", reboot=False)
    assert pi.manager().status().phase is Phase.TRIAL
    assert pi.manager().status().next == "reboot: this trial is being left, and the primary boots next"

    done = pi.manager().confirm([Told(ok=True)])

    assert (done.verdict, done.action, done.summary, done.checks) == ("unhealthy", "reverted", "the antenna is off", ())
    assert pi.boot.partition == 2
    assert pi.manager().confirm().outcome is Outcome.REVERTED
    trial = pi.manager().status().last_trial
    assert trial is not None
    assert trial.reason == "the antenna is off"


@pytest.mark.parametrize("healthy", [True, False])
def test_a_trial_that_somebody_commits_during_the_checks_is_not_left(*, healthy: bool) -> None:
    class Operator(Told):
        def run(self) -> CheckResult:
            pi.manager().commit()
            return super().run()

    pi = on_trial()
    boots = pi.state.boot_count

    done = pi.manager().confirm([Operator(ok=healthy)])

    assert done.action == "nothing"
    assert pi.state.boot_count == boots
    assert text(pi) == AT_REST[B]


@pytest.mark.parametrize("busy_at", [1, 2])
def test_an_abboot_that_has_the_card_for_a_moment_ends_no_trial(tmp_path: Path, busy_at: int) -> None:
    """To the first lock that `confirm` takes, or the second: trying again is right, rebooting is not."""
    pi = on_trial()
    pi = with_card(pi, Counted(pi.card.save(tmp_path / "card.img"), busy_at=busy_at))
    boots = pi.state.boot_count

    with pytest.raises(Locked):
        pi.manager().confirm([Told(ok=True)])

    assert pi.state.boot_count == boots
    assert pi.manager().confirm([Told(ok=True)]).action == "committed"


# -- repair ---------------------------------------------------------------------------------------------------------


DAMAGES: dict[str, bytes | None] = {
    "empty": b"",
    "garbage": b"\xa5" * 64,
    "cr lf": AT_REST[B].replace(b"\n", b"\r\n"),
    "too long": AT_REST[B] + b"#" * 635 + b"\n",
    "missing": None,
    "a partition that is no slot": AT_REST[B].replace(b"=3", b"=7"),
    "the selector itself": AT_REST[B].replace(b"=3", b"=1"),
    "no line end": AT_REST[B][:-1],
}


@pytest.mark.needs("mcopy")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_autoboot_txt_is_rewritten_from_the_journal(damage: str, tmp_path: Path) -> None:
    """With b as primary: what the firmware makes of a damaged file is partition 2, the wrong one."""
    pi = committed()
    content = DAMAGES[damage]
    if content is None:
        pi = mtools(pi, tmp_path, None, "mdel", "::autoboot.txt")
    else:
        pi = mcopy(pi, tmp_path, None, "autoboot.txt", content)
    before = pi.card.digest()
    assert pi.manager().status().primary is B
    for verb in (Verb.STAGE, Verb.TRIAL):
        with pytest.raises(Damaged, match=r"autoboot.txt on partition 1 is damaged"):
            VERBS[verb](pi.manager())
    dry = pi.manager().repair(dry_run=True)
    assert pi.card.digest() == before

    done = pi.manager().repair()

    assert done.changed
    assert done.steps == dry.steps
    assert pi.power_cut().partition == 3
    pi.manager().confirm()
    status = pi.manager().status()
    assert (status.phase, status.primary, status.notes) == (Phase.SETTLED, B, ())
    saved = pi.card.save(tmp_path / "after.img")
    assert parse_autoboot(mtype(saved, None, "autoboot.txt")) == Autoboot(primary=3, trial=3)
    fsck(pi, tmp_path, 1)
    assert not pi.manager().repair().changed


@pytest.mark.parametrize("damage", ["garbage", "missing"])
def test_after_a_damaged_file_booted_the_wrong_slot_one_reboot_brings_it_home(damage: str, tmp_path: Path) -> None:
    pi = committed()
    if damage == "garbage":
        overwrite_autoboot_sector(pi, b"\xa5" * 64)
    else:
        pi = mtools(pi, tmp_path, None, "mdel", "::autoboot.txt")
    assert pi.power_cut().partition == 2
    assert pi.manager().status().phase is Phase.FOREIGN
    boots = pi.state.boot_count

    done = pi.manager().repair()

    assert done.rebooting
    assert pi.state.boot_count == boots + 1
    assert pi.boot.partition == 3
    assert pi.manager().status().phase is Phase.SETTLED
    pi.manager().confirm()
    assert pi.manager().log()[-1].repair_reboots == 0


def test_repair_reboots_once_and_not_a_second_time() -> None:
    """G7: here partition 3 boots whatever autoboot.txt says."""
    pi = foreign()
    pi.manager().repair()
    pi.reboot("3")
    boots = pi.state.boot_count

    again = pi.manager().repair()

    assert not again.rebooting
    assert not again.changed
    assert "not rebooting a second time" in again.steps[-1]
    assert pi.state.boot_count == boots


def test_the_next_time_repair_may_reboot_again_once_the_primary_was_seen() -> None:
    pi = foreign()
    pi.manager().repair()
    pi.manager().confirm()
    pi.reboot("3")

    assert pi.manager().repair().rebooting


def test_a_repair_does_not_follow_a_stray_flag() -> None:
    pi = armed()
    pi.change(flag=False)
    pi.reboot("3")
    pi.change(flag=True, argument="0 tryboot")

    pi.manager().repair()

    assert (pi.boot.partition, pi.boot.tryboot) == (2, False)


def test_a_repair_clears_the_flag_of_an_arm_that_nobody_remembers() -> None:
    pi = armed()
    wipe_journal(pi, 64)

    done = pi.manager().repair()

    assert done.steps[0] == "clear the tryboot flag"
    assert (pi.state.flag, pi.state.argument) == (False, None)


def test_a_lost_journal_is_started_again_and_invents_nothing() -> None:
    pi = settled()
    wipe_journal(pi, 64)
    status = pi.manager().status()
    assert status.phase is Phase.SETTLED
    assert {at.state for at in status.slots.values()} == {SlotState.UNKNOWN}
    assert any("the journal is gone" in note for note in status.notes)
    assert status.next == "start a new journal: abboot repair"
    with pytest.raises(Refused, match="it is unknown"):
        pi.manager().trial()

    assert pi.manager().repair().changed

    assert transitions(pi) == ["repaired"]
    assert {at.state for at in pi.manager().status().slots.values()} == {SlotState.UNKNOWN}
    assert pi.manager().stage(tree("v3")).changed
    pi.manager().trial()
    assert pi.manager().confirm().action == "committed"


@pytest.mark.needs("mdel")
def test_a_journal_whose_file_is_deleted_is_found_and_its_history_is_kept(tmp_path: Path) -> None:
    pi = mtools(settled(), tmp_path, None, "mdel", "::ABBOOT.JNL")
    status = pi.manager().status()
    assert status.slots[B].state is SlotState.STAGED
    assert status.next == "start a new journal: abboot repair"
    assert any("found by their magic" in note for note in status.notes)
    with pytest.raises(Damaged, match=r"there is no such file") as error:
        pi.manager().trial()
    assert "abboot repair" in error.value.hint

    pi.manager().repair()

    assert transitions(pi) == ["built", "staging", "staged", "repaired"]
    assert pi.manager().status().next == "try slot b: abboot trial"
    assert pi.manager().status().notes == ()
    fsck(pi, tmp_path, 1)
    pi.manager().trial()
    assert pi.manager().confirm().action == "committed"


def test_a_trial_whose_journal_is_gone_is_not_committed_and_falls_back() -> None:
    pi = on_trial()
    wipe_journal(pi, 64)

    with pytest.raises(Refused):
        pi.manager().commit()
    with pytest.raises(Refused):
        pi.manager().confirm([Told(ok=True)])

    assert pi.power_cut().partition == 2


def test_both_destroyed_is_told_and_left_to_a_person() -> None:
    pi = new_pi()
    wipe_journal(pi, 64)
    overwrite_autoboot_sector(pi, b"\0" * 64)
    before = pi.card.digest()

    with pytest.raises(Damaged, match="both lost") as error:
        pi.manager().repair()

    assert "by hand" in error.value.hint
    assert pi.card.digest() == before
    pi.manager().status().to_json()


@pytest.mark.needs("fsck.vfat")
def test_a_selector_without_a_file_system_is_written_again_from_its_journal(tmp_path: Path) -> None:
    pi = committed()
    start, _size = pi.card.place(1)
    pi.card.image[start : start + 64 * 1024] = bytes(64 * 1024)
    assert pi.manager().status().primary is B
    told = transitions(pi)

    pi.manager().repair()

    pi.power_cut()
    assert pi.boot.partition == 3
    assert transitions(pi)[: len(told)] == told
    fsck(pi, tmp_path, 1)


def test_a_healthy_card_needs_no_repair() -> None:
    pi = new_pi()
    before = pi.card.digest()

    done = pi.manager().repair()

    assert (done.changed, done.steps, done.rebooting) == (False, (), False)
    assert pi.card.digest() == before


def test_repair_gives_a_hidden_slot_its_boot_sector_back() -> None:
    pi = settled(B)
    pi.cut_before_write(2)  # after the journal and the zeroing
    with suppress(PowerCut):
        pi.manager().trial()
    pi.power_cut()
    assert not any(pi.card.bytes_of(2)[:512])

    done = pi.manager().repair()

    assert "give slot a its boot sector back" in done.steps
    assert pi.manager().verify(A).ok
    assert pi.manager().status().notes == ()


def test_an_autoboot_txt_edited_by_hand_wins_and_is_noted() -> None:
    pi = committed()
    overwrite_autoboot_sector(pi, AT_REST[A])
    assert pi.power_cut().partition == 2
    assert any("was edited" in note for note in pi.manager().status().notes)

    pi.manager().confirm()

    assert transitions(pi)[-1] == "edited"
    assert pi.manager().status().notes == ()
    assert pi.manager().status().primary is A


def test_a_person_who_makes_the_slot_on_trial_the_primary_did_not_make_it_fail() -> None:
    pi = on_trial()
    pi.manager().note_boot()
    overwrite_autoboot_sector(pi, AT_REST[B])
    pi.power_cut()

    pi.manager().confirm()

    status = pi.manager().status()
    assert status.phase is Phase.SETTLED
    assert status.primary is status.booted is B
    assert status.slots[B].state is SlotState.STAGED
    assert transitions(pi)[-1] == "edited"


def test_a_newer_journal_is_read_by_nobody_and_written_by_nobody() -> None:
    pi = new_pi()
    start, size = pi.card.place(1)
    at = pi.card.image.find(b"ABBOOT-JOURNAL 1 1 0 ", start, start + size)
    entry = decode(pi.card.image[at : at + 4096])
    body = entry.encode().rstrip(b"\0").split(b"\n", 1)[1]
    head = b"ABBOOT-JOURNAL 9 9 1 %d " % len(body)
    block = head + hashlib.sha256(head + body).hexdigest().encode() + b"\n" + body
    pi.card.image[at + 4096 : at + 8192] = block.ljust(4096, b"\0")
    before = pi.card.digest()

    for verb in (*VERBS.values(), lambda manager: manager.repair(), lambda manager: manager.confirm()):
        with pytest.raises(Refused, match="a newer abboot"):
            verb(pi.manager())

    assert pi.card.digest() == before
    assert any("newer abboot" in note for note in pi.manager().status().notes)


# -- verify ---------------------------------------------------------------------------------------------------------


@pytest.mark.needs("mcopy")
def test_verify_finds_what_is_changed_missing_extra_and_renamed(tmp_path: Path) -> None:
    data = bytearray(tree_files("v2")["start4.elf"])
    data[-1] ^= 128
    pi = mcopy(settled(), tmp_path, B, "start4.elf", bytes(data))
    pi = mcopy(pi, tmp_path, B, "extra.bin", b"x")
    pi = mtools(pi, tmp_path, B, "mdel", "::fixup4.dat")
    pi = mtools(pi, tmp_path, B, "mren", "::overlays/README", "::overlays/readme.txt")
    pi = mtools(pi, tmp_path, B, "mren", "::overlays/readme.txt", "::overlays/ReadMe")

    found = pi.manager().verify(B)

    assert not found.ok
    assert found.changed == ("start4.elf",)
    assert found.missing == ("fixup4.dat", "overlays/README")
    assert found.extra == ("extra.bin", "overlays/ReadMe")
    assert pi.manager().verify(A).ok


def test_verify_of_a_slot_without_record_says_so() -> None:
    pi = new_pi()
    start, _size = pi.card.place(3)
    pi.card.image[start : start + (64 << 10)] = bytes(64 << 10)

    with pytest.raises(Damaged, match="cannot verify slot b"):
        pi.manager().verify(B)


HOLD_THE_LOCK = """
import sys
from abboot.linux.blockdevice import open_disk
with open_disk(sys.argv[1]).lock():
    print("locked", flush=True)
    sys.stdin.read()
"""


# -- locks and mounts -----------------------------------------------------------------------------------------------


def test_a_second_process_that_changes_the_card_is_told_to_wait(tmp_path: Path) -> None:
    path = CardDisk(card()).save(tmp_path / "card.img")
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            HOLD_THE_LOCK,
            str(path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with BootManager.open(path) as manager:
            with pytest.raises(Locked):
                manager.stage(tree("v2"))
            assert manager.status().phase is Phase.OFFLINE
            holder.communicate(b"")
            assert manager.stage(tree("v2")).changed
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.needs("mcopy")
@pytest.mark.parametrize("writable", [True, False])
def test_a_mounted_selector_is_changed_through_its_mount_or_not_at_all(tmp_path: Path, *, writable: bool) -> None:
    """A folder stands for the mount: what is written must land in it, in place, and not behind it."""
    pi = settled()
    saved = pi.card.save(tmp_path / "card.img")
    mount = tmp_path / "mnt"
    mount.mkdir()
    subprocess.run(["mcopy", "-n", "-i", at(saved, 1), "::autoboot.txt", "::ABBOOT.JNL", str(mount)], check=True)
    inode = (mount / "autoboot.txt").stat().st_ino

    class Mounted(CardDisk):
        def mounts_of(self, number: int) -> tuple[Mount, ...]:
            return (Mount(path=str(mount), writable=writable),) if number == 1 else ()

    disk = Mounted(saved)
    there = CardPi(disk, Board(), CONFIG)
    before = disk.digest()

    if writable:
        there.manager().trial(reboot=False)
        assert (mount / "autoboot.txt").read_bytes() == Autoboot(primary=2, trial=3).render()
        assert (mount / "autoboot.txt").stat().st_ino == inode
        assert there.manager().status().phase is Phase.ARMED
    else:
        with pytest.raises(Refused, match="mounted read-only") as refused:
            there.manager().trial(reboot=False)
        assert "remount" in refused.value.hint
        assert (mount / "autoboot.txt").read_bytes() == AT_REST[A]
    assert disk.digest() == before, "nothing is written behind a mount"


def test_the_walk_that_reached_the_other_slot_is_foreign() -> None:
    """H-19: the primary lost its boot sector, and the walk found b, which nobody armed."""
    pi = settled(board=Board(eeprom=Eeprom(partition_walk=True)))
    start, _size = pi.card.place(2)
    pi.card.image[start : start + 512] = bytes(512)

    assert pi.power_cut().partition == 3
    assert pi.manager().status().phase is Phase.FOREIGN


# -- editing a card as a person would -------------------------------------------------------------------------------


def at(path: Path, number: int) -> str:
    return f"{path}@@{CardDisk(path).place(number)[0]}"


def with_card(pi: CardPi, disk: CardDisk) -> CardPi:
    """The same Pi in the same boot, with another card in it."""
    again = CardPi(disk, pi.board, CONFIG)
    again.change(**{field.name: getattr(pi.state, field.name) for field in attrs.fields(type(pi.state))})
    return again


def mtools(pi: CardPi, folder: Path, slot: Slot | None, *command: str) -> CardPi:
    """The same Pi, with a file on a slot (or the selector) changed by mtools behind abboot's back."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed (Debian package mtools)")
    path = pi.card.save(folder / "edited.img")
    where = at(path, NUMBERS[slot] if slot else 1)
    subprocess.run([command[0], "-i", where, *command[1:]], check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return with_card(pi, CardDisk(path))


def mcopy(pi: CardPi, folder: Path, slot: Slot | None, name: str, data: bytes) -> CardPi:
    (folder / "content").write_bytes(data)
    return mtools(pi, folder, slot, "mcopy", "-o", str(folder / "content"), f"::{name}")


def mtype(path: Path, slot: Slot | None, name: str) -> bytes:
    command: Sequence[str] = ["mtype", "-i", at(path, NUMBERS[slot] if slot else 1), f"::{name}"]
    return subprocess.run(command, check=True, capture_output=True).stdout


def fsck(pi: CardPi, folder: Path, number: int) -> None:
    path = folder / "volume.img"
    path.write_bytes(pi.card.bytes_of(number))
    done = subprocess.run(["fsck.vfat", "-n", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
