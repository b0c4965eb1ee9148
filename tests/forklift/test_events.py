"""The handlers: what becomes of an update when units call them, and nobody types anything but Forklift's commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from abboot.core.words import Outcome, Slot, SlotState
from abboot.errors import Locked
from abboot.forklift import Action, Need
from abboot.forklift.events import FALLBACK_FILE, Events, Handled
from abboot.forklift.hooks import Hook, HookRun
from abboot.linux.shutdown import parse_jobs
from tests.cli.command import abboot, new_card, said
from tests.forklift.device import CAN, PINS, SWAP, USB, Device, ForkliftStore, text

A, B = Slot.A, Slot.B


class Image(Device):
    """A device with all of abboot's units for Forklift."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.memory = folder.parent / "run" / "forklift.json"
        self.hooks: list[tuple[str, int | None]] = []
        self.forks: list[Handled] = []
        self.early_boot()

    @property
    def events(self) -> Events:
        def note(event: str, bundle: int | None) -> tuple[HookRun, ...]:
            self.hooks.append((event, bundle))
            return (HookRun(hook=Hook(name="10-a", path="/hooks/10-a"), ran=True, failed=False),)

        return Events(self.pi.manager(), self.adapter(), memory=str(self.memory), hooks=note, sleep=lambda _: None)

    def early_boot(self) -> Action:
        """abboot-note-boot and abboot-forklift-reconcile."""
        self.pi.manager().note_boot()
        done = self.adapter().reconcile()
        if not done.left_trial:
            self.events.boot()
        return done.action

    def changes(self, files: dict[str, bytes]) -> Handled:
        """``forklift plt stage``, and the path unit."""
        self.forklift.plt_stage(files)
        return self.events.store_changed()

    def asks_for(self, index: int) -> Handled:
        """``forklift stage set-next``, and the path unit."""
        self.forklift.set_next(index)
        return self.events.store_changed()

    def applies(self, *, fails: bool = False) -> Handled:
        """forklift-apply.service."""
        self.forklift.apply(fails=fails)
        return self.events.apply_result("exit-code" if fails else "success")

    def restarts(self) -> Action:
        """``reboot``."""
        self.events.arm_on_reboot()
        self.pi.reboot()
        return self.early_boot()

    def loses_power(self) -> Action:
        self.pi.power_cut()
        return self.early_boot()

    @property
    def count(self) -> dict[str, object] | None:
        path = self.folder / FALLBACK_FILE
        return json.loads(path.read_text()) if path.exists() else None


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path / "stages")


@pytest.fixture
def updated(image: Image) -> Image:
    """Bundle 2 runs on slot b."""
    image.changes(CAN)
    image.restarts()
    image.applies()
    assert image.pi.manager().confirm().action == "committed"
    image.hooks.clear()
    return image


# -- the store changed ----------------------------------------------------------------------------------------------


def test_an_update_needs_nothing_but_staging_it_with_forklift_and_a_reboot(image: Image) -> None:
    prepared = image.changes(CAN)
    assert (prepared.changed, prepared.need, prepared.bundle) == (True, Need.TRIAL, 2)
    assert "needs a full reboot" in prepared.why

    assert image.restarts() is Action.NOTHING
    assert image.booted is B
    applied = image.applies()
    assert (applied.changed, applied.need) == (True, Need.CONFIRM)
    assert image.pi.manager().confirm().action == "committed"

    assert image.data == text(2, [1, 2], PINS)
    assert image.hooks == [("post-set-next", 2), ("post-apply", 2)]
    assert image.adapter().pending().need is Need.NOTHING


def test_the_event_that_abboots_own_names_raise_writes_nothing_and_runs_no_hook(image: Image) -> None:
    image.changes(CAN)
    before, data = image.slot_bytes(), image.data

    again = image.events.store_changed()

    assert (again.changed, again.hooks) == (False, ())
    assert (image.slot_bytes(), image.data) == (before, data)
    assert image.hooks == [("post-set-next", 2)]


def test_a_container_update_stages_nothing_and_is_bound_once_it_is_applied(image: Image) -> None:
    before = image.slot_bytes()
    waiting = image.changes({})
    assert (waiting.changed, waiting.need) == (False, Need.APPLY)

    image.forklift.apply()  # in place, by hand: only the store's file tells
    bound = image.events.store_changed()

    assert (bound.changed, bound.need) == (True, Need.NOTHING)
    assert image.slot_bytes() == before
    assert image.count is None


def test_a_store_that_forklift_is_writing_is_waited_for(image: Image) -> None:
    image.forklift.plt_stage(CAN)
    swap = image.folder / SWAP
    swap.write_bytes(b"half")
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            swap.unlink()

    events = Events(image.pi.manager(), image.adapter(), memory=str(image.memory), hooks=lambda *_: (), sleep=sleep)

    assert events.store_changed().need is Need.TRIAL
    assert len(waits) == 3


def test_a_swap_file_that_stays_is_not_waited_for_for_ever_and_is_left_to_early_boot(image: Image) -> None:
    image.forklift.plt_stage(CAN)
    (image.folder / SWAP).write_bytes(b"half")

    done = image.events.store_changed()

    assert (done.changed, done.need) == (False, Need.RECONCILE)
    assert (image.folder / SWAP).exists()


def test_a_bundle_that_fits_no_fat_is_told_of_and_the_hooks_still_run(image: Image) -> None:
    before = image.slot_bytes()

    done = image.changes({"a:b": b"", "config.d/1.txt": b"x"})

    # Such a bundle is not whole: early boot makes the old one next.
    assert (done.changed, done.need) == (False, Need.RECONCILE)
    assert "a:b" in done.why
    assert image.slot_bytes() == before
    assert image.hooks == [("post-set-next", 2)]
    assert image.restarts() is Action.RESTORED
    assert (image.booted, image.forklift.store.next) == (A, 1)


def test_a_bundle_that_is_too_big_for_the_slot_is_a_problem_and_changes_nothing(image: Image) -> None:
    before = image.slot_bytes()

    done = image.changes({"big": b"x" * 4_000_000})

    assert (done.changed, len(done.problems)) == (False, 1)
    assert image.slot_bytes() == before
    image.restarts()
    assert (image.booted, image.forklift.store.next, image.forklift.store.names["boot-pending"]) == (A, 1, 2)


def test_a_change_that_comes_while_it_stages_is_handled_as_well(image: Image) -> None:
    """The path unit tells of it only once more, or not at all."""
    image.forklift.plt_stage(CAN)
    adapter = image.adapter()
    calls: list[int] = []

    class Busy:
        """A user who stages another bundle while the first one is being written."""

        def __getattr__(self, name: str) -> object:
            return getattr(adapter, name)

        def stage(self) -> object:
            done = adapter.stage()
            if not calls:
                calls.append(image.forklift.plt_stage(USB))
            return done

    events = Events(image.pi.manager(), Busy(), memory=str(image.memory), hooks=lambda *_: ())  # type: ignore[arg-type]

    done = events.store_changed()

    assert (done.bundle, done.need) == (3, Need.TRIAL)
    image.restarts()
    assert (image.booted, image.forklift.store.next) == (B, 3)


# -- apply has ended ------------------------------------------------------------------------------------------------


def test_a_trial_in_which_applying_fails_is_left_at_once(image: Image) -> None:
    image.changes(CAN)
    image.restarts()

    done = image.applies(fails=True)

    assert (done.rebooting, image.booted) == (True, A)
    assert image.early_boot() is Action.RESTORED
    assert image.data == text(1, [1], {**PINS, "boot-failed": 2})
    assert image.hooks[-1] == ("apply-failed", 2)
    last = image.adapter().last_trial()
    assert last is not None
    assert (last.outcome, last.reason) == (Outcome.REVERTED, "forklift could not apply bundle 2 (exit-code)")


@pytest.mark.parametrize("is_noted", [True, False], ids=["noted by forklift", "not noted: it could not be loaded"])
def test_a_settled_system_reboots_once_to_fall_back(updated: Image, *, is_noted: bool) -> None:
    updated.changes(CAN)  # the same boot files: applied in place, or by a soft reboot
    boots = updated.pi.state.boot_count
    if is_noted:
        updated.forklift.apply(fails=True)

    done = updated.events.apply_result("exit-code")

    assert (done.rebooting, done.changed) == (True, True)
    assert updated.pi.state.boot_count == boots + 1
    assert updated.early_boot() is Action.FELL_BACK
    assert updated.data == text(2, [1, 2], {**PINS, "boot-failed": 3})
    assert updated.runs_with() == (2, 2)
    assert updated.count is not None
    assert updated.count["bundle"] == 3

    assert not updated.applies().rebooting
    assert updated.count is None


def test_where_the_fallback_fails_as_well_it_does_not_reboot_again(updated: Image) -> None:
    updated.changes(CAN)
    assert updated.applies(fails=True).rebooting
    updated.early_boot()

    again = updated.applies(fails=True)

    assert not again.rebooting
    assert "applied before" in again.why
    assert updated.data == text(2, [1, 2], {**PINS, "boot-failed": 3}, failed=True)


def test_it_reboots_once_for_a_bundle_even_if_early_boot_never_sets_the_store_right(updated: Image) -> None:
    """G7: with a root file system that came up read-only, say."""
    updated.changes(CAN)
    boots = updated.pi.state.boot_count
    assert updated.applies(fails=True).rebooting

    for _ in range(3):
        assert not updated.events.apply_result("exit-code").rebooting

    assert updated.pi.state.boot_count == boots + 1


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}" * 9999, b"\xff"])
def test_a_count_that_cannot_be_read_means_no_reboot(updated: Image, damage: bytes) -> None:
    (updated.folder / FALLBACK_FILE).write_bytes(damage)
    updated.changes(CAN)

    assert not updated.applies(fails=True).rebooting

    updated.forklift.apply()  # falls back by itself, in place
    updated.asks_for(2)
    updated.applies()
    assert updated.count is None


def test_a_count_that_cannot_be_written_means_no_reboot(updated: Image) -> None:
    (updated.folder / f"{FALLBACK_FILE}.new").mkdir()
    updated.changes(CAN)

    assert not updated.applies(fails=True).rebooting


def test_what_a_hook_made_next_after_a_failure_is_not_undone(updated: Image) -> None:
    updated.changes(CAN)

    def mends(event: str, bundle: int | None) -> tuple[HookRun, ...]:
        updated.forklift.set_next(2)
        return ()

    events = Events(updated.pi.manager(), updated.adapter(), memory=str(updated.memory), hooks=mends)
    done = events.apply_result("exit-code")  # bundle 3 could not even be loaded: nothing notes it

    assert (done.rebooting, updated.forklift.store.next, updated.forklift.store.next_failed) == (False, 2, False)
    assert "the store was changed since" in done.why


def test_a_disk_that_another_abboot_has_is_waited_for_and_the_reboot_still_comes(updated: Image) -> None:
    updated.changes(CAN)
    updated.forklift.apply(fails=True)
    lock = updated.pi.card.lock()
    lock.__enter__()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 5:
            lock.__exit__(None, None, None)

    hooks: list[str] = []

    def note(event: str, bundle: int | None) -> tuple[HookRun, ...]:
        hooks.append(event)
        return ()

    events = Events(updated.pi.manager(), updated.adapter(), memory=str(updated.memory), hooks=note, sleep=sleep)

    assert events.apply_result("exit-code").rebooting
    assert hooks == ["apply-failed"]


def test_a_disk_that_is_never_free_is_no_reboot_and_counts_as_none(updated: Image) -> None:
    updated.changes(CAN)
    updated.forklift.apply(fails=True)

    with updated.pi.card.lock(), pytest.raises(Locked):
        updated.events.apply_result("exit-code")

    assert updated.count is None
    assert updated.events.apply_result("exit-code").rebooting


def test_another_try_on_request_may_reboot_once_again(updated: Image) -> None:
    updated.changes(CAN)
    updated.applies(fails=True)
    updated.early_boot()
    updated.applies()

    updated.asks_for(updated.forklift.store.names["boot-failed"])

    assert updated.applies(fails=True).rebooting
    updated.early_boot()
    assert updated.data == text(2, [1, 2], {**PINS, "boot-failed": 3})


def test_the_first_bundle_of_all_that_fails_has_nothing_to_fall_back_to(image: Image) -> None:
    image.forklift.path.write_bytes(text(1))

    done = image.applies(fails=True)

    assert not done.rebooting
    assert "no bundle to fall back to" in done.why


def test_a_stale_swap_file_is_no_failure_of_the_bundle(updated: Image) -> None:
    """A success that Forklift cannot note ends with exit code 1 too."""
    updated.changes(CAN)
    before = updated.data
    (updated.folder / SWAP).write_bytes(before)

    done = updated.events.apply_result("exit-code")

    assert (done.rebooting, updated.data) == (False, before)
    assert "swap file" in done.why


@pytest.mark.parametrize("result", ["signal", "exec-condition"])
def test_an_apply_that_was_stopped_says_nothing_about_its_bundle(updated: Image, result: str) -> None:
    """A shutdown stops it too."""
    updated.changes(CAN)
    before = updated.data

    done = updated.events.apply_result(result)

    assert (done.changed, done.rebooting, updated.data) == (False, False, before)


def test_a_bundle_with_other_boot_files_that_fails_in_place_is_not_tried_by_the_reboot(updated: Image) -> None:
    updated.changes(USB)
    assert updated.adapter().pending().need is Need.TRIAL

    assert updated.applies(fails=True).rebooting
    updated.early_boot()

    assert (updated.booted, updated.forklift.store.next) == (B, 2)
    assert updated.forklift.store.names["boot-failed"] == 3
    assert not updated.events.arm_on_reboot().changed


# -- the system goes down -------------------------------------------------------------------------------------------


def test_only_a_bundle_that_waits_for_a_trial_is_armed(image: Image) -> None:
    assert not image.events.arm_on_reboot().changed
    image.changes({})
    assert not image.events.arm_on_reboot().changed
    assert image.pi.state.flag is False

    image.changes(CAN)
    armed = image.events.arm_on_reboot()

    assert (armed.changed, armed.need, image.pi.state.flag) == (True, Need.REBOOT, True)
    assert image.booted is A


def test_after_the_bundle_before_was_set_as_next_again_nothing_is_armed(image: Image) -> None:
    image.changes(CAN)
    image.asks_for(1)

    assert not image.events.arm_on_reboot().changed
    image.restarts()
    assert (image.booted, image.forklift.store.next) == (A, 1)


def test_a_failed_update_is_tried_again_only_if_somebody_asks_in_this_boot(image: Image) -> None:
    image.changes(CAN)
    image.restarts()
    image.applies(fails=True)
    image.early_boot()
    image.restarts()
    assert image.booted is A

    asked = image.asks_for(2)
    assert asked.need is Need.RETRY
    image.restarts()

    assert image.booted is B
    image.applies()
    image.pi.manager().confirm()
    assert image.data == text(2, [1, 2], PINS)


def test_a_failed_update_that_nobody_asked_for_is_not_tried_again(image: Image) -> None:
    """The store could not be set right: what runs on slot a is gone."""
    image.changes(CAN)
    image.restarts()
    image.forklift.path.write_bytes(text(2))  # somebody cleared the history
    (image.folder / "1" / "forklift-bundle.yml").unlink()
    image.pi.power_cut()
    assert image.early_boot() is Action.STUCK
    assert image.adapter().pending().need is Need.RETRY

    for _ in range(2):
        done = image.events.arm_on_reboot()
        assert not done.changed
        assert "nobody asked" in done.why
        image.restarts()

    assert image.adapter().status().slots[B].state is SlotState.FAILED


def test_the_reboot_that_falls_back_from_a_bundle_does_not_try_it(updated: Image) -> None:
    """The unit that arms is stopped by that reboot as well."""
    updated.changes(USB)
    assert updated.adapter().pending().need is Need.TRIAL
    updated.forklift.apply(fails=True)

    done = updated.events.arm_on_reboot()

    assert (done.changed, updated.pi.state.flag) == (False, False)
    assert "could not apply" in done.why


def test_an_argument_that_somebody_left_for_the_firmware_is_not_overwritten(image: Image) -> None:
    image.changes(CAN)
    image.pi.change(argument="3")

    done = image.events.arm_on_reboot()

    assert (done.changed, image.pi.state.argument, image.pi.state.flag) == (False, "3", False)


@pytest.mark.parametrize(
    ("jobs", "to"),
    [
        ("  12 reboot.target start waiting\n  13 docker.service stop running\n", "reboot"),
        ("12 soft-reboot.target start waiting\n", "soft-reboot"),
        ("12 poweroff.target start running\n", "poweroff"),
        ("12 kexec.target start waiting\n", "kexec"),
        ("12 halt.target start waiting\n", "halt"),
        ("12 reboot.target stop waiting\n", None),
        ("12 my-reboot.target start waiting\nreboot.target start\n", None),
        ("No jobs running.\n", None),
        ("", None),
    ],
)
def test_where_the_system_is_going_is_in_systemds_jobs(jobs: str, to: str | None) -> None:
    assert parse_jobs(jobs) == to


# -- the commands ---------------------------------------------------------------------------------------------------


def test_the_units_commands_carry_an_update(tmp_path: Path) -> None:
    store = ForkliftStore(tmp_path / "stages")
    store.folder.mkdir()
    store.path.write_bytes(text(store.build({}), [1]))
    sim, more = ("--sim", new_card(tmp_path), "forklift"), ("--store", store.folder)

    assert said(*sim, "apply-result", "success", *more)["changed"] is True
    store.plt_stage(CAN)
    changed = said(*sim, "store-changed", *more)
    assert (changed["need"], changed["changed"]) == ("trial", True)
    assert "to do: abboot trial" in abboot(*sim, "store-changed", *more).out
    armed = said(*sim, "arm-on-reboot", *more)
    assert (armed["need"], armed["changed"]) == ("reboot", True)
    assert said("simulate", "reboot", sim[1])["slot"] == "b"
    assert said(*sim, "reconcile", *more)["action"] == "nothing"
    store.apply(fails=True)
    failed = said(*sim, "apply-result", "exit-code", *more)
    assert (failed["rebooting"], failed["boot"]["slot"]) == (True, "a")
    assert said(*sim, "reconcile", *more)["action"] == "restored"
    assert store.data == text(1, [1], {**PINS, "boot-failed": 2})


def test_nothing_is_armed_while_this_system_is_not_rebooting(tmp_path: Path) -> None:
    """Without a disk: where it is going is asked first."""
    told = said("forklift", "arm-on-reboot", "--store", tmp_path)

    assert (told["need"], told["changed"], told["why"]) == (None, False, "the system is not rebooting")
