"""Looking into an image tells what is odd, raises only where there is no disk, and writes nothing."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from abboot.core.words import FatType, Slot, SlotState, TableKind, Transition
from abboot.errors import Damaged, DeviceError
from abboot.image import DiskSpec, ImageSpec, SelectorSpec, SlotsSpec, build, inspect

pytest.importorskip("parted", reason="pyparted is not installed (pip install 'abboot[image]')")

MIB = 1 << 20
SELECTOR, SLOT_A, SLOT_B = 4 * MIB, 24 * MIB, 40 * MIB  # where the partitions start


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    (folder / "tree").mkdir()
    (folder / "tree" / "config.txt").write_bytes(b"arm_64bit=1\n")
    spec = ImageSpec(
        disk=DiskSpec(id="1234abcd"),
        selector=SelectorSpec(size=20 * MIB),
        slots=SlotsSpec(size=16 * MIB, fat=FatType.FAT16, cluster=2048),
    )
    build(spec, folder / "card.img", tree=folder / "tree")
    return folder / "card.img"


@pytest.fixture
def card(built: Path, tmp_path: Path) -> Path:
    shutil.copyfile(built, tmp_path / "card.img")
    return tmp_path / "card.img"


@pytest.fixture
def unchanged(card: Path) -> Iterator[None]:
    yield
    assert card.stat().st_size == 56 * MIB


def overwrite(card: Path, offset: int, data: bytes) -> None:
    with card.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def digest(card: Path) -> str:
    with card.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_a_new_card_is_told_whole(card: Path) -> None:
    before = digest(card)

    found = inspect(card)

    assert digest(card) == before
    assert (found.table, found.disk_id, found.size_bytes) == (TableKind.MBR, "1234abcd", 56 * MIB)
    assert [(part.number, part.role, part.fat_type, part.label, part.start) for part in found.partitions] == [
        (1, "selector", FatType.FAT16, "BOOTSEL", SELECTOR),
        (2, "slot a", FatType.FAT16, "BOOT_A", SLOT_A),
        (3, "slot b", FatType.FAT16, "BOOT_B", SLOT_B),
    ]
    assert found.primary is Slot.A
    assert found.autoboot == "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=2\n"
    assert found.autoboot_problem == ""
    assert {slot: (there.partition, there.label, there.state) for slot, there in found.slots.items()} == {
        Slot.A: (2, "BOOT_A", SlotState.GOOD),
        Slot.B: (3, "BOOT_B", SlotState.GOOD),
    }
    assert all(there.record is not None and there.record.slot is slot for slot, there in found.slots.items())
    assert found.journal is not None
    assert (found.journal.entries, found.journal.newest, found.journal.newest_sequence) == (1, Transition.BUILT, 0)
    assert found.notes == ()


@pytest.mark.needs("minfo", "mdir")
def test_free_bytes_are_what_mtools_says(card: Path) -> None:
    for part in inspect(card).partitions:
        listed = subprocess.run(
            ["mdir", "-i", f"{card}@@{part.start}", "::"], check=True, capture_output=True, text=True
        ).stdout

        assert f"{part.free_bytes:,}".replace(",", " ") + " bytes free" in listed


def test_a_slot_without_boot_sector_is_told(card: Path) -> None:
    overwrite(card, SLOT_B, bytes(512))

    found = inspect(card)

    assert found.partitions[2].fat_type is None
    assert "the boot sector is empty" in found.partitions[2].problem
    assert found.slots[Slot.A].record is not None


def test_a_selector_without_fat_leaves_the_journal(card: Path) -> None:
    overwrite(card, SELECTOR, bytes(512))

    found = inspect(card)

    assert found.autoboot is None
    assert found.autoboot_problem
    assert found.journal is not None
    assert found.journal.newest is Transition.BUILT
    assert found.primary is Slot.A


@pytest.mark.needs("mcopy")
def test_an_autoboot_txt_that_cannot_be_read_is_shown_as_it_is(card: Path, tmp_path: Path) -> None:
    (tmp_path / "autoboot.txt").write_bytes(b"[all]\r\nboot_partition=\xff3\r\n")
    subprocess.run(
        ["mcopy", "-o", "-i", f"{card}@@{SELECTOR}", str(tmp_path / "autoboot.txt"), "::autoboot.txt"], check=True
    )

    found = inspect(card)

    assert found.autoboot == "[all]\r\nboot_partition=\\xff3\r\n"
    assert found.autoboot_problem
    assert found.primary is Slot.A  # what the journal says


def test_a_disk_with_one_fat_partition_is_told_in_a_note(card: Path) -> None:
    overwrite(card, 446 + 16, bytes(32))

    found = inspect(card)

    assert [part.label for part in found.partitions] == ["BOOTSEL"]
    assert found.slots == {}
    assert found.primary is None
    assert f"cannot find the slots on {card}: 1 FAT partition found (number 1)" in found.notes[-1]


def test_a_disk_without_table_is_an_error(card: Path) -> None:
    overwrite(card, 0, bytes(512))

    with pytest.raises(
        Damaged, match=rf"cannot read the partition table of {re.escape(str(card))}: no partition table found"
    ):
        inspect(card)


def test_a_truncated_image_is_an_error_with_both_sizes(card: Path) -> None:
    os.truncate(card, 30 * MIB)

    with pytest.raises(Damaged, match=f"partition 2 ends at byte {40 * MIB}, but there are only {30 * MIB} bytes"):
        inspect(card)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"none\.img"):
        inspect(tmp_path / "none.img")


@pytest.mark.usefixtures("unchanged")
def test_whatever_is_damaged_there_is_an_answer(card: Path) -> None:
    dice = random.Random(20261123)
    whole = card.read_bytes()
    answers, refused = 0, []
    for _ in range(60):
        for _ in range(dice.randint(1, 12)):
            place = dice.choice((446, SELECTOR, SELECTOR + 4096, SLOT_A, SLOT_A + 512 * 8, SLOT_B, 24 * MIB - 300_000))
            overwrite(card, place + dice.randrange(64 if place == 446 else 512), dice.randbytes(dice.randint(1, 4)))
        try:
            answers += len(inspect(card).partitions) > 0
        except Damaged as error:
            refused.append(error.message)
        overwrite(card, 0, whole[:512])
        for start in (SELECTOR, SLOT_A, SLOT_B):
            overwrite(card, start, whole[start : start + 64 * 1024])

    assert answers > 0
    assert all(message.startswith(f"cannot read the partition table of {card}: ") for message in refused)


def test_neither_looking_nor_importing_loads_pyparted(card: Path) -> None:
    script = "import sys, abboot.image\nabboot.image.inspect(sys.argv[1])\nprint('parted' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    run = subprocess.run(
        [sys.executable, "-c", script, str(card)], env=environment, capture_output=True, text=True, check=True
    )

    assert run.stdout == "False\n"
