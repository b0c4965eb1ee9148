"""Which slot runs where an old firmware does not say, and which partitions are slots where there are many."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import attrs
import pytest

from abboot.config import DiskConfig
from abboot.core.words import Phase, Slot
from abboot.errors import AbbootError, Refused
from abboot.manager import BootManager
from tests.cards import CONFIG, SELECTOR_SIZE, SLOT_SIZE, CardDisk, tree
from tests.crash.scenarios import wipe_journal
from tests.device.board import FakeBoard
from tests.device.test_trials import Told

EARLY_PI5 = {"model": "Raspberry Pi 5 Model B Rev 1.0", "build": 1709683200}  # 2024-03-06: partition is always 0
pytestmark = pytest.mark.needs("mcopy")


def firmware_gave(version: str) -> str:
    """What is in chosen/bootargs after cmdline.txt of this tree."""
    return f"reboot=w coherent_pool=1M console=ttyAMA10,115200 root=LABEL=root rootwait panic=10 version={version}\0"


def booted(folder: Path, *, version: str, mounted: int | None, tryboot: bool = True) -> FakeBoard:
    """A Pi 5 with an early bootloader; v1 is on slot a, v2 on slot b, which was armed."""
    board = FakeBoard(folder, **EARLY_PI5)
    board.manager().stage(tree("v2"))
    board.manager().trial()
    board.boots(0, tryboot=tryboot)
    board.write("proc/device-tree/chosen/bootargs", firmware_gave(version))
    if mounted is not None:
        board.mounts(mounted)
    return board


def test_two_witnesses_tell_the_trial_slot_and_it_can_be_committed(tmp_path: Path) -> None:
    board = booted(tmp_path, version="v2", mounted=3)
    status = board.manager().status()

    assert (status.phase, status.booted, status.booted_partition) == (Phase.TRIAL, Slot.B, 3)
    assert any("reports partition 0 (H-07)" in note and "say 3" in note for note in status.notes)
    assert board.manager().confirm([Told(ok=True)]).action == "committed"


def test_two_witnesses_tell_the_primary(tmp_path: Path) -> None:
    board = booted(tmp_path, version="v1", mounted=2, tryboot=False)

    status = board.manager().status()

    assert (status.phase, status.booted) == (Phase.SETTLED, Slot.A)


@pytest.mark.parametrize(
    ("version", "mounted"),
    [
        ("v2", None),  # the command line alone: the file may have been edited since
        ("v3", 3),  # the mount alone: fstab may name the same partition whatever booted
        ("v1", 3),
        ("v2", 2),
    ],
)
def test_one_witness_is_not_enough(tmp_path: Path, version: str, mounted: int | None) -> None:
    """G4, G6: a wrong guess would stage over the booted slot, or commit one that never ran."""
    board = booted(tmp_path, version=version, mounted=mounted)
    before = board.card.read_bytes()

    assert board.manager().status().phase is Phase.FOREIGN
    for verb in (lambda manager: manager.commit(), lambda manager: manager.stage(tree("v3"))):
        with pytest.raises(Refused, match="partition 0"):
            verb(board.manager())

    assert board.card.read_bytes() == before


def test_both_slots_mounted_as_boot_partitions_tell_nothing(tmp_path: Path) -> None:
    board = booted(tmp_path, version="v2", mounted=3)
    board.mounts(2, "/boot")

    assert board.manager().status().phase is Phase.FOREIGN


def test_a_partition_that_the_firmware_does_tell_is_believed(tmp_path: Path) -> None:
    board = booted(tmp_path, version="v1", mounted=2)
    board.boots(3, tryboot=True)
    board.write("proc/device-tree/chosen/bootargs", firmware_gave("v1"))

    assert board.manager().status().booted is Slot.B


# -- many FAT partitions ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card with a fourth FAT partition, behind the slots, and no journal left."""
    pytest.importorskip("parted", reason="pyparted is not installed (pip install 'abboot[image]')")
    from abboot.image import DiskSpec, ImageSpec, PartitionSpec, SelectorSpec, SlotsSpec, build
    from tests.cards import new_pi

    path = tmp_path_factory.mktemp("four") / "four.img"
    spec = ImageSpec(
        disk=DiskSpec(id="ab007e57"),
        selector=SelectorSpec(size=SELECTOR_SIZE),
        slots=SlotsSpec(size=SLOT_SIZE, cluster=512),
        partitions=(PartitionSpec(label="data", size=SLOT_SIZE),),
    )
    build(spec, path, tree=tree("v1"))
    data = bytearray(path.read_bytes())
    data[446 + 16 * 3 + 4] = 0x0C
    path.write_bytes(data)
    pi = new_pi(path)
    wipe_journal(pi, 99)
    pi.card.save(path)
    return path


def labelled(card: Path, folder: Path, labels: dict[int, str]) -> Path:
    copy = folder / "card.img"
    shutil.copyfile(card, copy)
    for number, label in labels.items():
        start, _size = CardDisk(copy).place(number)
        subprocess.run(["mlabel", "-i", f"{copy}@@{start}", f"::{label}"], check=True, capture_output=True)
    return copy


def slots_of(card: Path) -> tuple[int, int]:
    with BootManager.open(card) as manager:
        slots = manager.status().slots
    return slots[Slot.A].partition, slots[Slot.B].partition


def test_the_volume_labels_tell_the_slots(four: Path) -> None:
    assert slots_of(four) == (2, 3)


@pytest.mark.needs("mlabel")
def test_without_such_labels_the_candidates_are_listed(four: Path, tmp_path: Path) -> None:
    card = labelled(four, tmp_path, {2: "ONE", 3: "TWO"})

    with pytest.raises(AbbootError, match=r"4 FAT partitions found .* the labels are 2 'ONE', 3 'TWO', 4$") as refused:
        slots_of(card)

    assert "slot_a" in refused.value.hint


@pytest.mark.needs("mlabel")
def test_labels_that_leave_the_primary_out_are_refused(four: Path, tmp_path: Path) -> None:
    """G4: the firmware boots 2, which then nobody would guard."""
    data = bytearray(four.read_bytes())
    (start, size), (fourth, _size) = CardDisk(four).place(3), CardDisk(four).place(4)
    data[fourth : fourth + size] = data[start : start + size]
    copied = tmp_path / "copied.img"
    copied.write_bytes(data)
    card = labelled(copied, tmp_path, {2: "OLD", 3: "BOOT_A", 4: "BOOT_B"})

    with pytest.raises(AbbootError, match=r"autoboot.txt names 2, the labels are 2 'OLD', 3 'BOOT_A', 4 'BOOT_B'"):
        slots_of(card)


def test_the_configuration_tells_them_too(four: Path) -> None:
    config = attrs.evolve(CONFIG, disk=DiskConfig(slot_a=2, slot_b=4))
    with BootManager.open(four, config=config) as manager:
        assert {slot: info.partition for slot, info in manager.status().slots.items()} == {Slot.A: 2, Slot.B: 4}
