"""The life of an update, whole and cut at every step: what the stage store has to be after the next early boot.

Each test is one of nine sequences; the texts are those that Forklift itself wrote in them, with slots and firmware
simulated.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from abboot.core.words import Outcome, Slot, SlotState
from abboot.forklift import Action, Need
from abboot.forklift.store_file import ASIDE
from abboot.simulator import PowerCut
from tests.forklift.device import CAN, PINS, SWAP, USB, Device, text

A, B = Slot.A, Slot.B
NAMES = {"factory-reset": 1}
PINNED = {**NAMES, **PINS}


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path / "stages", NAMES)


@pytest.fixture
def updated(device: Device) -> Device:
    """Booted from b with bundle 2; slot a still holds what runs with bundle 1."""
    device.updates(CAN)
    return device


# -- 1: stage, and a trial that succeeds --------------------------------------------------------------------------


def test_an_update_that_succeeds_never_has_its_store_touched(device: Device) -> None:
    device.forklift.plt_stage(CAN)
    assert device.need() is Need.STAGE
    device.adapter().stage()
    assert device.data == text(2, [1], PINNED)
    assert device.need() is Need.TRIAL

    assert device.tries().action is Action.NOTHING
    assert (device.booted, device.data) == (B, text(2, [1], PINNED))
    assert device.need() is Need.APPLY
    device.commits()

    assert device.data == text(2, [1, 2], PINNED)
    assert device.cut().action is Action.NOTHING
    assert (device.booted, device.data) == (B, text(2, [1, 2], PINNED))
    assert device.need() is Need.NOTHING
    last = device.adapter().last_trial()
    assert last is not None
    assert (last.bundle, last.slot, last.outcome) == (2, B, Outcome.COMMITTED)


def test_a_cut_while_the_bundle_is_built_changes_nothing(device: Device) -> None:
    device.forklift.build(CAN, whole=False)

    assert device.cut().action is Action.NOTHING

    assert device.data == text(1, [1], NAMES)
    assert device.forklift.plt_stage(CAN) == 3


def test_a_cut_between_swap_file_and_rename_removes_the_swap_file(device: Device) -> None:
    device.forklift.build(CAN)
    (device.folder / SWAP).write_bytes(text(2, [1], NAMES))

    done = device.cut()

    assert (done.action, done.swap_removed) == (Action.NOTHING, True)
    assert device.data == text(1, [1], NAMES)
    assert not (device.folder / SWAP).exists()
    device.forklift.set_next(2)


@pytest.mark.parametrize("is_staged", [False, True])
def test_a_cut_before_the_trial_leaves_the_update_pending(device: Device, *, is_staged: bool) -> None:
    device.forklift.plt_stage(CAN)
    if is_staged:
        device.adapter().stage()

    assert device.cut().action is Action.RESTORED

    pins = PINNED if is_staged else {"boot-slot-a": 1, **NAMES}
    assert (device.booted, device.data) == (A, text(1, [1], {**pins, "boot-pending": 2}))
    assert device.need() is Need.RESUME
    device.forklift.set_next(2)
    device.adapter().stage()
    device.tries()
    device.commits()
    assert (device.booted, device.data) == (B, text(2, [1, 2], PINNED))


def test_a_cut_after_arming_leaves_the_update_failed(device: Device) -> None:
    device.forklift.plt_stage(CAN)
    device.adapter().stage()
    device.pi.manager().trial(reboot=False)
    assert device.need() is Need.REBOOT

    device.cut()

    assert (device.booted, device.data) == (A, text(1, [1], {**PINNED, "boot-failed": 2}))


@pytest.mark.parametrize("is_applied", [False, True])
def test_a_cut_during_the_trial_leaves_the_update_failed(device: Device, *, is_applied: bool) -> None:
    device.forklift.plt_stage(CAN)
    device.adapter().stage()
    device.tries()
    if is_applied:
        device.forklift.apply()
        device.adapter().rebind()

    assert device.cut().action is Action.RESTORED

    assert (device.booted, device.data) == (A, text(1, [1], {**PINNED, "boot-failed": 2}))
    assert device.need() is Need.NOTHING


def test_a_cut_between_the_verdict_and_the_switch_leaves_the_update_pending(device: Device) -> None:
    device.forklift.plt_stage(CAN)
    device.adapter().stage()
    device.tries()
    device.forklift.apply()
    device.adapter().rebind()
    device.pi.cut_before_write(1)  # the journal has the intent, autoboot.txt is the old one
    with pytest.raises(PowerCut):
        device.pi.manager().commit()

    device.cut()

    last = device.adapter().last_trial()
    assert last is not None
    assert last.outcome is Outcome.PASSED_UNCOMMITTED
    assert (device.booted, device.data) == (A, text(1, [1], {**PINNED, "boot-pending": 2}))


# -- 2 and 3: trials that fail --------------------------------------------------------------------------------------


def test_a_trial_that_hangs_falls_back_with_its_store(device: Device) -> None:
    device.forklift.plt_stage(CAN)
    device.adapter().stage()
    device.pi.manager().trial()
    device.pi.watchdog_reset()  # nothing of userspace ever ran

    device.boots()

    assert (device.booted, device.data) == (A, text(1, [1], {**PINNED, "boot-failed": 2}))
    device.forklift.apply()
    assert device.data == text(1, [1], {**PINNED, "boot-failed": 2})
    assert device.cut().action is Action.NOTHING


def test_a_trial_in_which_applying_fails_is_left_with_its_store(device: Device) -> None:
    device.forklift.plt_stage(CAN)
    device.adapter().stage()
    device.tries()
    device.forklift.apply(fails=True)
    assert device.data == text(2, [1], PINNED, failed=True)
    assert device.need() is Need.FAILED
    assert not device.adapter().rebind().changed

    device.pi.manager().revert(reason="forklift could not apply bundle 2")
    device.boots()

    assert (device.booted, device.data) == (A, text(1, [1], {**PINNED, "boot-failed": 2}))


def test_a_failed_update_is_tried_again_on_request_only(device: Device) -> None:
    test_a_trial_that_hangs_falls_back_with_its_store(device)

    device.forklift.set_next(device.forklift.store.names["boot-failed"])
    again = device.adapter().stage()

    assert (again.changed, device.need()) == (False, Need.RETRY)
    assert any("--retry" in warning for warning in again.warnings)
    device.tries(retry=True)
    device.commits()
    assert (device.booted, device.data) == (B, text(2, [1, 2], PINNED))


# -- 4 and 5: bundles with the boot files that the slot has -----------------------------------------------------------


def test_a_container_update_touches_no_slot_and_stays(device: Device) -> None:
    before = device.slot_bytes()
    device.forklift.plt_stage({})
    assert device.need() is Need.APPLY
    staged = device.adapter().stage()
    assert (staged.needed, staged.changed, staged.slot) == (False, False, None)
    device.forklift.apply()
    assert device.need() is Need.REBIND

    assert device.cut().action is Action.NOTHING  # before it was bound: the store decides
    assert device.data == text(2, [1, 2], NAMES)
    assert device.adapter().rebind().changed
    assert not device.adapter().rebind().changed
    assert device.need() is Need.NOTHING

    assert device.slot_bytes() == before


def test_a_container_update_outlives_a_failed_trial_of_the_next_one(device: Device) -> None:
    device.updates_containers({})
    device.forklift.plt_stage(CAN)
    device.adapter().stage()
    device.tries()

    device.cut()

    pins = {**NAMES, "boot-slot-a": 2, "boot-slot-b": 3}
    assert device.data == text(2, [1, 2], {**pins, "boot-failed": 3})


def test_a_container_update_that_nobody_bound_outlives_a_cut_of_the_next_one(device: Device) -> None:
    device.forklift.plt_stage({})
    device.forklift.apply()  # and no rebind: the cut came first
    device.forklift.plt_stage(CAN)

    device.cut()

    assert device.data == text(2, [1, 2], {**NAMES, "boot-slot-a": 2, "boot-pending": 3})


def test_a_trial_that_was_bound_does_not_cost_what_the_primary_is_bound_to(device: Device) -> None:
    device.updates_containers({})
    device.forklift.plt_stage(CAN)
    device.adapter().stage()
    device.tries()
    device.forklift.apply()
    device.adapter().rebind()
    device.forklift.path.write_bytes(b"")  # nothing of the store is left

    device.cut()

    assert (device.booted, device.data) == (A, text(2, [1, 2], NAMES))


def test_containers_and_overlays_agree_after_a_failed_apply(updated: Device) -> None:
    updated.forklift.plt_stage(CAN)
    updated.forklift.apply(fails=True)
    assert updated.data == text(3, [1, 2], PINNED, failed=True)
    assert updated.runs_with() == (3, 2)

    done = updated.cut()

    assert done.action is Action.FELL_BACK
    assert updated.data == text(2, [1, 2], {**PINNED, "boot-failed": 3})
    assert updated.runs_with() == (2, 2)
    assert updated.cut().action is Action.NOTHING


def test_a_bundle_that_was_applied_before_and_fails_now_is_left_to_forklift(updated: Device) -> None:
    updated.forklift.apply(fails=True)

    assert updated.cut().action is Action.NOTHING

    assert updated.data == text(2, [1, 2], PINNED, failed=True)
    updated.forklift.apply()
    assert updated.data == text(2, [1, 2], PINNED)


# -- 6: back by hand ------------------------------------------------------------------------------------------------


def test_the_bundle_before_is_set_as_next_by_hand(updated: Device) -> None:
    updated.forklift.set_next(1)
    assert updated.need() is Need.STAGE
    staged = updated.adapter().stage()
    assert (staged.slot, staged.changed) == (A, True)

    updated.tries()
    assert (updated.booted, updated.data) == (A, text(1, [1, 2], PINNED))
    updated.commits()

    assert updated.data == text(1, [1, 2, 1], PINNED)
    assert updated.cut().action is Action.NOTHING
    assert updated.booted is A


def test_going_back_by_hand_that_is_cut_is_pending_and_during_the_trial_failed(updated: Device) -> None:
    updated.forklift.set_next(1)
    updated.adapter().stage()

    updated.cut()
    assert (updated.booted, updated.data) == (B, text(2, [1, 2], {**PINNED, "boot-pending": 1}))
    updated.forklift.set_next(1)
    updated.adapter().stage()
    updated.tries()
    updated.cut()

    assert (updated.booted, updated.data) == (B, text(2, [1, 2], {**PINNED, "boot-failed": 1}))


def test_going_back_by_abboot_takes_the_store_along_and_leaves_nothing_pending(updated: Device) -> None:
    updated.pi.manager().revert()

    assert updated.boots().action is Action.RESTORED
    assert (updated.booted, updated.data) == (A, text(1, [1], PINNED))
    updated.commits()
    assert updated.cut().action is Action.NOTHING
    assert (updated.booted, updated.need()) == (A, Need.NOTHING)


def test_going_back_by_abboot_that_fails_takes_the_store_back(updated: Device) -> None:
    updated.pi.manager().revert()
    updated.boots()

    updated.cut()

    assert (updated.booted, updated.data) == (B, text(2, [1, 2], {**PINNED, "boot-failed": 1}))


# -- 7 and 8: applied in place, or rebooted without a trial -----------------------------------------------------------


def test_a_bundle_applied_in_place_is_kept_if_its_trial_succeeds(device: Device) -> None:
    device.forklift.plt_stage(CAN)
    device.adapter().stage()
    device.forklift.apply()
    assert not device.adapter().rebind().changed

    device.tries()
    assert device.data == text(2, [1, 2], PINNED)
    device.commits()

    assert (device.booted, device.data) == (B, text(2, [1, 2], PINNED))


def test_containers_go_back_if_the_trial_of_a_bundle_applied_in_place_fails(device: Device) -> None:
    device.forklift.plt_stage(CAN)
    device.adapter().stage()
    device.forklift.apply()
    device.tries()

    device.cut()

    assert (device.booted, device.data) == (A, text(1, [1], {**PINNED, "boot-failed": 2}))


def test_a_reboot_without_a_trial_leaves_the_update_pending(device: Device) -> None:
    device.forklift.plt_stage(CAN)
    device.adapter().stage()
    device.pi.reboot()

    device.boots()

    assert (device.booted, device.data) == (A, text(1, [1], {**PINNED, "boot-pending": 2}))


def test_a_trial_begun_by_abboot_alone_takes_the_pending_bundle_along(device: Device) -> None:
    test_a_reboot_without_a_trial_leaves_the_update_pending(device)

    device.tries()

    assert (device.booted, device.data) == (B, text(2, [1], PINNED))
    device.commits()
    assert (device.data, device.need()) == (text(2, [1, 2], PINNED), Need.NOTHING)


# -- 9: wedges ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage", [None, b"", b"\0" * 90, text(2, [1, 2], PINNED)[:40], b"staged: [\n", b"\xff\xfe\n"], ids=repr
)
def test_a_store_that_is_lost_becomes_the_slots_own_again(updated: Device, damage: bytes | None) -> None:
    if damage is None:
        updated.forklift.path.unlink()
    else:
        updated.forklift.path.write_bytes(damage)
    assert updated.need() is Need.RECONCILE

    assert updated.cut().action is Action.RESTORED

    assert updated.data == text(2, [1, 2], PINNED)
    assert updated.cut().action is Action.NOTHING


def test_a_damaged_store_without_any_bundle_for_the_slot_lets_forklift_go_on(updated: Device) -> None:
    updated.forklift.delete(2)
    updated.forklift.path.write_bytes(b"staged: [\n")

    assert updated.cut().action is Action.STUCK

    assert updated.data == text()
    assert updated.forklift.plt_stage(CAN) == 2  # the boot files of slot b
    updated.forklift.apply()
    assert updated.cut().action is Action.NOTHING


@pytest.mark.parametrize("is_bound", [True, False])
def test_what_was_in_place_of_a_store_is_kept_for_people(updated: Device, *, is_bound: bool) -> None:
    by_hand = text(2, [1, 2], {**PINNED, "mine": 2})[:-1]  # an editor that writes no last line end
    if not is_bound:
        updated.forklift.delete(2)
    updated.forklift.path.write_bytes(by_hand)

    done = updated.cut()

    assert (updated.folder / ASIDE).read_bytes() == by_hand
    assert done.why.endswith(f"kept as {ASIDE}")
    assert updated.data == (text(2, [1, 2], PINNED) if is_bound else text())


def test_nothing_is_kept_of_a_store_that_holds_nothing(updated: Device) -> None:
    updated.forklift.path.write_bytes(bytes(90))

    updated.cut()

    assert not (updated.folder / ASIDE).exists()


def test_a_store_is_healed_even_if_what_was_there_cannot_be_kept(updated: Device) -> None:
    (updated.folder / ASIDE).mkdir()
    updated.forklift.path.write_bytes(b"staged: [\n")

    done = updated.adapter().reconcile()

    assert ["cannot keep" in problem for problem in done.problems] == [True]
    assert updated.data == text(2, [1, 2], PINNED)


def test_an_unset_next_becomes_the_slots_own_again(updated: Device) -> None:
    updated.forklift.does(lambda store: store.unset_next())

    updated.cut()

    assert updated.data == text(2, [1, 2], PINNED)


@pytest.mark.parametrize("how", ["missing", "half built", "empty manifest"])
def test_a_next_bundle_that_is_not_whole_is_left_and_gets_no_name(updated: Device, how: str) -> None:
    updated.forklift.plt_stage(CAN)
    path = updated.folder / "3"
    if how == "missing":
        path.rename(updated.folder / "elsewhere")
    elif how == "half built":
        (path / "forklift-bundle.yml").unlink()
    else:
        (path / "forklift-bundle.yml").write_bytes(b"")
    assert updated.need() is Need.RECONCILE

    updated.cut()

    assert updated.data == text(2, [1, 2], PINNED)


def test_an_index_that_was_given_away_again_is_another_bundle(updated: Device) -> None:
    updated.forklift.delete(2)  # next silently becomes 1, which has other boot files
    assert updated.forklift.plt_stage(USB) == 2
    assert updated.data == text(2, [1], {**NAMES, "boot-slot-a": 1})

    done = updated.cut()

    assert done.action is Action.STUCK  # nothing with the boot files of slot b is left
    assert updated.data == text(2, [1], {**NAMES, "boot-slot-a": 1})
    assert updated.need() is Need.STAGE
    updated.adapter().stage()
    updated.tries()
    updated.commits()
    assert (updated.booted, updated.data) == (A, text(2, [1, 2], {**NAMES, "boot-slot-a": 2}))


def rebuilt(device: Device, files: dict[str, bytes]) -> None:
    """Bundle 2 deleted, changed and staged again: with uncommitted changes the pallet has the same version as before,
    and there are no checksums in ``forklift-bundle.yml``."""
    before = (device.folder / "2" / "forklift-bundle.yml").read_bytes()
    device.forklift.delete(2)
    assert device.forklift.plt_stage(files) == 2
    (device.folder / "2" / "forklift-bundle.yml").write_bytes(before)


def test_other_boot_files_under_the_same_index_and_manifest_are_another_bundle(device: Device) -> None:
    device.forklift.plt_stage(CAN)
    device.adapter().stage()
    rebuilt(device, USB)

    assert device.need() is Need.STAGE  # not a trial of the files that are on slot b
    assert device.adapter().stage().changed
    device.tries()
    device.commits()
    status = device.adapter().status()
    assert status.slots[B].payload == device.adapter().bundle(2).payload


def test_other_boot_files_under_the_same_index_and_manifest_do_not_fit_the_slot(updated: Device) -> None:
    rebuilt(updated, USB)

    assert updated.cut().action is Action.STUCK
    assert updated.need() is Need.STAGE


def test_another_bundle_under_the_same_index_is_bound_once_it_is_applied(device: Device) -> None:
    device.updates_containers({})
    device.forklift.delete(2)
    assert device.forklift.plt_stage({}) == 2
    device.forklift.apply()

    assert device.need() is Need.REBIND
    assert device.adapter().rebind().changed
    device.forklift.path.write_bytes(b"")
    assert device.cut().action is Action.RESTORED
    assert device.data == text(2, [1, 2], NAMES)


def test_a_trial_whose_bundle_is_gone_is_left(device: Device) -> None:
    device.forklift.plt_stage(CAN)
    device.adapter().stage()
    device.forklift.delete(2)
    device.pi.manager().trial()

    done = device.adapter().reconcile()

    assert (done.action, done.left_trial) == (Action.STUCK, True)
    assert device.boots().action is Action.NOTHING
    assert (device.booted, device.data) == (A, text(1, [1], {**NAMES, "boot-slot-a": 1}))
    assert device.adapter().status().slots[B].state is SlotState.FAILED
