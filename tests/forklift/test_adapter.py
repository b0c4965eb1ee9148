"""Staging bundles, binding slots, and what a wrapper around Forklift is told."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

import abboot
from abboot.core.record import STAGE_STORE_PATH
from abboot.core.words import Outcome, Slot, SlotState
from abboot.errors import AbbootError, Damaged, InvalidTree, Refused
from abboot.fat.read import FatVolume
from abboot.forklift import Action, Forklift, Need, Pending, StoreDamaged
from abboot.manager import BootManager
from tests.cards import CONFIG, tree_files
from tests.forklift.device import CAN, PINS, SWAP, USB, Device, manifest, text

A, B = Slot.A, Slot.B
NUMBERS = {A: 2, B: 3}


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path / "stages")


def files_of(device: Device, slot: Slot) -> dict[str, bytes]:
    """Every file of a slot."""
    start, size = device.pi.card.place(NUMBERS[slot])
    volume = FatVolume(device.pi.card.open_partition(NUMBERS[slot], start, size))
    return {info.path: volume.read_file(info.path, 1 << 20) for info in volume.files()}


def tree_of(device: Device, slot: Slot) -> dict[str, bytes]:
    return {path: data for path, data in files_of(device, slot).items() if not path.startswith("abboot/")}


def edit(device: Device, old: bytes, new: bytes) -> None:
    """As the running system edits a file of the booted slot, in place."""
    start, size = device.pi.card.place(2)
    at = device.pi.card.image.find(old, start, start + size)
    assert at > 0
    device.pi.card.image[at : at + len(new)] = new


# -- what is staged -------------------------------------------------------------------------------------------------


def test_the_new_tree_is_the_booted_slot_with_the_bundle_over_it_and_its_snippets_merged(device: Device) -> None:
    edit(device, b"version=v1", b"regdom=DE ")
    device.forklift.plt_stage({**CAN, "start4.elf": b"newer"})

    device.adapter().stage()

    tree, base = tree_of(device, B), tree_files("v1")
    assert tree.keys() == base.keys() | CAN.keys()
    assert tree["start4.elf"] == b"newer"
    assert tree["overlays/can.dtbo"] == CAN["overlays/can.dtbo"]
    assert b"regdom=DE" in tree["cmdline.txt"]
    assert tree["config.txt"].startswith(base["config.txt"])
    assert CAN["config.d/50-can.txt"] in tree["config.txt"]
    same = base.keys() - {"start4.elf", "cmdline.txt", "config.txt"}
    assert {path: tree[path] for path in same} == {path: base[path] for path in same}


def test_what_a_bundle_brought_goes_with_it_and_what_was_there_before_stays(device: Device) -> None:
    device.updates({**CAN, "start4.elf": b"newer"})

    device.forklift.plt_stage(USB)
    staged = device.adapter().stage()

    tree = tree_of(device, staged.slot or A)
    assert tree.keys() == tree_files("v1").keys() | USB.keys()
    assert USB["config.d/50-usb.txt"] in tree["config.txt"]
    assert b"spi" not in tree["config.txt"]
    assert tree["start4.elf"] == b"newer"
    assert staged.warnings.count("start4.elf stays as bundle 2 left it: bundle 3 does not have it") == 1


def test_a_bundle_without_boot_files_takes_away_those_of_the_one_before(device: Device) -> None:
    device.updates(CAN)

    device.forklift.plt_stage({})
    staged = device.adapter().stage()

    assert (staged.needed, staged.changed, staged.slot) == (True, True, A)
    assert tree_of(device, A) == tree_files("v1")


def test_a_file_of_an_earlier_bundle_that_the_next_one_has_too_still_goes_later(device: Device) -> None:
    device.updates(CAN)
    device.updates({**CAN, **USB})

    device.forklift.plt_stage({})
    device.adapter().stage()

    assert tree_of(device, B) == tree_files("v1")


def test_the_record_and_the_text_beside_it_name_the_bundle(device: Device) -> None:
    device.forklift.plt_stage(CAN)

    staged = device.adapter().stage()

    data = (device.folder / "2" / "forklift-bundle.yml").read_bytes()
    shown = device.pi.manager().status().slots[B]
    assert shown.record is not None
    assert shown.label.startswith("bundle 2: github.com/example/pallet-boot v2026.")
    assert shown.record.forklift is not None
    fields = dict(shown.record.forklift)
    assert (fields["bundle"], fields["pallet"], fields["clean"]) == (2, "github.com/example/pallet-boot", True)
    assert fields["sha256"] == hashlib.sha256(data).hexdigest()
    assert fields["payload"] == staged.bundle.payload
    beside = files_of(device, B)
    assert beside[STAGE_STORE_PATH] == text(2, [1], PINS) == device.data
    assert beside["abboot/forklift-added.txt"].split() == [b"config.d/50-can.txt", b"overlays/can.dtbo"]
    assert device.pi.manager().verify(B).ok


def test_staging_the_same_again_writes_nothing_at_all(device: Device) -> None:
    device.forklift.plt_stage(CAN)
    first = device.adapter().stage()
    before, card = device.data, device.pi.card.digest()

    again = device.adapter().stage()

    assert (first.changed, again.changed, again.bytes_written) == (True, False, 0)
    assert again.record_digest == first.record_digest
    assert (device.data, device.pi.card.digest()) == (before, card)


def test_another_text_for_the_slot_is_another_staging_of_a_few_blocks(device: Device) -> None:
    device.forklift.plt_stage(CAN)
    first = device.adapter().stage()
    device.forklift.does(lambda store: store.with_name("mine", 1))

    again = device.adapter().stage()

    assert again.changed
    assert again.record_digest != first.record_digest
    assert again.bytes_written < 100_000
    assert files_of(device, B)[STAGE_STORE_PATH] == text(2, [1], {**PINS, "mine": 1})


def test_a_dry_run_writes_nothing_anywhere(device: Device) -> None:
    device.forklift.plt_stage(CAN)
    before, card = device.data, device.pi.card.digest()

    staged = device.adapter().stage(dry_run=True)

    assert (staged.changed, staged.slot, staged.bytes_written > 0) == (True, B, True)
    assert (device.data, device.pi.card.digest()) == (before, card)


@pytest.mark.parametrize("word", [2, "2", "next", "pending", "canbus"])
def test_a_bundle_has_an_index_and_names(device: Device, word: int | str) -> None:
    device.forklift.plt_stage(CAN)
    device.forklift.does(lambda store: store.with_name("canbus", 2))

    assert device.adapter().stage(word).bundle.index == 2


@pytest.mark.parametrize("word", [7, "nonsense", "rollback", "0", "9" * 30])
def test_a_bundle_that_is_not_there_is_said_to_be(device: Device, word: int | str) -> None:
    device.forklift.plt_stage(CAN)

    with pytest.raises(AbbootError, match="bundle"):
        device.adapter().stage(word)


@pytest.mark.parametrize(
    "files",
    [{"a/x": b"1", "A/X": b"2"}, {"abboot/record.json": b"{}"}, {"KERNEL8.IMG/x": b"1"}, {"huge": b"x" * (4 << 20)}],
    ids=["two names that are one", "a name of abboot", "a folder over a file", "more than fits"],
)
def test_what_cannot_be_on_the_slot_is_refused_before_anything_is_written(
    device: Device, files: Mapping[str, bytes]
) -> None:
    device.forklift.plt_stage(files)
    before, card = device.data, device.pi.card.digest()

    with pytest.raises(InvalidTree):
        device.adapter().stage()

    assert (device.data, device.pi.card.digest()) == (before, card)


def test_an_index_that_no_record_can_name_is_refused(device: Device) -> None:
    for index in (2**53, 2**63):
        device.forklift.build(CAN, index=index)
        with pytest.raises(Refused, match="the store has none of that name"):
            device.adapter().stage(str(index))


def test_another_bundle_is_staged_in_place_of_the_one_that_is_armed(device: Device) -> None:
    device.forklift.plt_stage(CAN)
    device.adapter().stage()
    device.pi.manager().trial(reboot=False)
    assert device.need() is Need.REBOOT

    device.forklift.plt_stage(USB)
    assert device.need() is Need.STAGE
    assert device.adapter().stage().changed
    assert device.adapter().pending() == Pending(need=Need.TRIAL, bundle=3, why="bundle 3 is on slot b: try it")


def test_an_armed_bundle_that_is_no_longer_next_is_told_of(device: Device) -> None:
    device.forklift.plt_stage(CAN)
    device.adapter().stage()
    device.pi.manager().trial(reboot=False)
    device.forklift.set_next(1)

    waits = device.adapter().pending()

    assert (waits.need, waits.bundle) == (Need.REBOOT, 2)
    assert "bundle 2, which is not next; `abboot revert` disarms it" in waits.why
    device.pi.manager().revert()
    assert device.need() is Need.NOTHING


def test_a_bundle_that_is_not_whole_is_refused(device: Device) -> None:
    device.forklift.build(CAN, whole=False)

    with pytest.raises(AbbootError, match="never finished"):
        device.adapter().stage(2)


def test_a_damaged_store_is_refused_with_its_bytes(device: Device) -> None:
    device.forklift.path.write_bytes(b"\0" * 50)

    with pytest.raises(StoreDamaged) as caught:
        device.adapter().stage()

    assert caught.value.data == b"\0" * 50


def test_a_folder_without_a_store_is_no_bug(device: Device, tmp_path: Path) -> None:
    forklift = Forklift(device.pi.manager(), tmp_path / "nowhere")

    with pytest.raises(AbbootError, match="nowhere"):
        forklift.stage()

    assert forklift.status().problem
    assert forklift.rebind().changed is False
    assert forklift.reconcile().action is Action.STUCK


def test_nothing_is_staged_during_a_trial(device: Device) -> None:
    device.forklift.plt_stage(CAN)
    device.adapter().stage()
    device.tries()
    device.forklift.plt_stage(USB)
    assert device.need() is Need.CONFIRM

    with pytest.raises(Refused, match="trial"):
        device.adapter().stage()


def test_the_longest_names_still_fit_a_record(device: Device) -> None:
    index = device.forklift.plt_stage(CAN)
    path = device.folder / str(index) / "forklift-bundle.yml"
    path.write_bytes(manifest(3).replace(b"github.com", b"g\xc3\xa4" * 400).replace(b"v2026", b"v\xe2\x82\xac" * 400))

    staged = device.adapter().stage()

    assert staged.changed
    assert len(files_of(device, B)["abboot/record.json"]) <= 2048


def test_where_early_boot_can_do_nothing_it_is_not_asked_for(device: Device) -> None:
    device.forklift.delete(1)

    pending = device.adapter().pending()

    assert (pending.need, pending.bundle, pending.why) == (Need.NOTHING, None, "no bundle is next")
    assert device.adapter().reconcile().action is Action.STUCK


def test_forklifts_half_written_store_is_left_alone(device: Device) -> None:
    device.forklift.plt_stage(CAN)
    (device.folder / SWAP).write_bytes(b"half")
    before = device.data

    staged = device.adapter().stage()

    assert staged.changed
    assert any("not named" in warning for warning in staged.warnings)
    assert device.data == before
    assert (device.folder / SWAP).read_bytes() == b"half"


def test_an_image_file_is_staged_onto_the_slot_that_is_not_primary(device: Device, tmp_path: Path) -> None:
    device.forklift.plt_stage(CAN)
    image = device.pi.card.save(tmp_path / "card.img")

    with BootManager.open(image, config=CONFIG) as manager:
        staged = Forklift(manager, device.folder).stage()
        need = Forklift(manager, device.folder).pending().need

    assert (staged.slot, staged.changed, need) == (B, True, Need.TRIAL)


# -- slots that nobody staged a bundle on -----------------------------------------------------------------------------


def test_the_first_update_of_an_old_image_notes_the_way_back(device: Device) -> None:
    (device.folder / "abboot-slot-a.json").unlink()
    device.forklift.plt_stage(CAN)
    device.adapter().stage()

    device.cut()

    assert device.data == text(1, [1], {**PINS, "boot-pending": 2})


def test_boot_files_that_the_image_came_with_count_as_the_bundles(device: Device) -> None:
    base = tree_files("v1")
    device.forklift.build({"start4.elf": base["start4.elf"], "config.txt": b"edited since\n"})
    device.forklift.set_next(2)
    device.forklift.apply()
    (device.folder / "abboot-slot-a.json").unlink()

    assert device.adapter().rebind().changed

    device.forklift.plt_stage({"start4.elf": base["start4.elf"], "config.txt": b"edited since\n"})
    assert device.need() is Need.APPLY  # the same boot files: nothing has to be staged


def test_boot_files_that_the_image_did_not_come_with_have_to_be_staged(device: Device) -> None:
    device.forklift.build(CAN)
    device.forklift.set_next(2)
    device.forklift.apply()
    (device.folder / "abboot-slot-a.json").unlink()
    device.adapter().rebind()

    assert device.adapter().status().slots[A].payload is None
    assert device.need() is Need.STAGE
    assert device.adapter().stage().needed
    assert device.need() is Need.TRIAL
    device.tries()
    assert device.cut().action is Action.NOTHING
    assert device.need() is Need.RETRY  # it runs, but not with its boot files: they failed

    device.tries(retry=True)
    device.commits()

    assert device.adapter().status().slots[B].payload == device.adapter().bundle(2).payload


def test_a_tree_staged_without_forklift_runs_with_any_bundle(device: Device, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "note.txt").write_bytes(b"by hand\n")
    device.pi.manager().stage(tmp_path / "more", base="booted")
    device.tries()

    assert device.adapter().reconcile().action is Action.NOTHING
    device.forklift.path.write_bytes(b"")
    done = device.adapter().reconcile()

    assert (done.action, done.left_trial) == (Action.STUCK, False)  # this trial is not about a bundle


# -- binding --------------------------------------------------------------------------------------------------------


def test_what_was_kept_for_a_slot_counts_for_that_staging_only(device: Device) -> None:
    device.updates_containers({})
    assert device.adapter().status().slots[A].bundle == 2
    device.updates(CAN)
    device.updates(USB)  # onto slot a: what was kept for it is worthless now

    status = device.adapter().status()

    assert {slot: bound.bundle for slot, bound in status.slots.items()} == {A: 4, B: 3}
    assert [bound.rebound for bound in status.slots.values()] == [False, False]
    device.updates_containers({**USB})
    assert device.adapter().status().slots[A].rebound


def test_a_kept_file_that_is_lost_leaves_the_slots_own_copy(device: Device) -> None:
    device.updates(CAN)
    device.updates_containers(CAN)
    (device.folder / "abboot-slot-b.json").unlink()
    device.forklift.path.unlink()

    device.cut()

    assert device.data == text(2, [1], PINS)


@pytest.mark.parametrize("how", ["next unset", "not applied", "failed", "not whole", "other boot files", "no store"])
def test_there_is_nothing_to_bind_where_nothing_was_applied(device: Device, how: str) -> None:
    index = device.forklift.plt_stage(CAN if how == "other boot files" else {})
    if how in ("not whole", "other boot files"):
        device.forklift.apply()
    match how:
        case "next unset":
            device.forklift.does(lambda store: store.unset_next())
        case "failed":
            device.forklift.apply(fails=True)
        case "not whole":
            (device.folder / str(index) / "forklift-bundle.yml").unlink()
        case "no store":
            device.forklift.path.unlink()

    done = device.adapter().rebind()

    assert (done.changed, done.slot, done.bundle) == (False, A, 1)
    assert done.why


# -- early boot -----------------------------------------------------------------------------------------------------


def test_a_dry_run_of_early_boot_says_what_it_would_do(device: Device) -> None:
    device.forklift.plt_stage(CAN)
    (device.folder / SWAP).write_bytes(b"half")
    before = device.data

    done = device.adapter().reconcile(dry_run=True)

    assert (done.action, done.changed, done.swap_removed, done.next) == (Action.RESTORED, True, True, 2)
    assert device.data == before
    assert (device.folder / SWAP).exists()


def test_early_boot_writes_neither_slot_nor_selector(device: Device) -> None:
    device.forklift.plt_stage(CAN)
    device.adapter().stage()
    card = device.pi.card.digest()

    assert device.adapter().reconcile().action is Action.RESTORED

    assert device.pi.card.digest() == card


@pytest.mark.parametrize("what", ["autoboot.txt", "journal", "selector", "the other slot", "partition table"])
def test_early_boot_survives_a_card_that_is_damaged(device: Device, what: str) -> None:
    device.forklift.plt_stage(CAN)
    device.adapter().stage()
    (device.folder / SWAP).write_bytes(b"half")
    image = device.pi.card.image
    start, size = device.pi.card.place({"the other slot": 3}.get(what, 1))
    match what:
        case "autoboot.txt":
            at = image.find(b"[all]\ntryboot", start)
            image[at : at + 64] = b"?" * 64
        case "journal":
            at = image.find(b"ABBOOT-JOURNAL", start)
            image[at : start + size] = bytes(start + size - at)
        case "partition table":
            image[:512] = bytes(512)
        case _:
            image[start : start + size] = b"\xaa" * size

    done = device.adapter().reconcile()

    assert done.swap_removed
    assert not (device.folder / SWAP).exists()
    if what == "partition table":
        assert (done.action, done.ok, done.changed) == (Action.STUCK, False, False)
        assert done.problems
    else:
        assert device.forklift.store.next == 1


def test_a_slot_that_nobody_can_tell_leaves_the_store_as_it_is(device: Device) -> None:
    device.forklift.plt_stage(CAN)
    manager = BootManager(device.pi.disk, None, CONFIG)  # no board: nothing says what is booted
    before = device.data

    done = Forklift(manager, device.folder).reconcile()

    assert (done.ok, done.booted, device.data) == (False, None, before)


# -- what a wrapper is told -------------------------------------------------------------------------------------------


def test_the_last_trial_is_told_by_bundle(device: Device) -> None:
    assert device.adapter().last_trial() is None
    device.forklift.plt_stage(CAN)
    device.adapter().stage()
    device.tries()
    running = device.adapter().last_trial()
    device.pi.manager().revert(reason="the fan is loud")
    device.boots()

    ended = device.adapter().last_trial()

    assert running is not None
    assert ended is not None
    assert (running.bundle, running.outcome) == (2, None)
    assert (ended.bundle, ended.pallet, ended.outcome, ended.reason) == (
        2,
        "github.com/example/pallet-boot",
        Outcome.REVERTED,
        "the fan is loud",
    )
    assert device.adapter().status().slots[B].state is SlotState.FAILED


def test_a_trial_of_no_bundle_is_none_of_forklifts(device: Device, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "note.txt").write_bytes(b"by hand\n")
    device.pi.manager().stage(tmp_path / "more", base="booted")
    device.tries()

    assert device.adapter().last_trial() is None


def test_the_public_names_are_there_and_cost_nothing_before_they_are_used() -> None:
    for name in abboot.forklift.__all__:
        assert getattr(abboot.forklift, name) is not None
    assert issubclass(abboot.forklift.StoreDamaged, Damaged)
