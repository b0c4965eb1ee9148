"""What the emulator does before QEMU runs: config.txt, the copy of a card, the sentences about what is missing.

Cards that really boot are in ``tests/e2e``.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from abboot.core.firmware import Board, Model
from abboot.core.words import TableKind
from abboot.image import DiskSpec, ImageSpec, SelectorSpec, SlotsSpec, build
from abboot.simulator.emulator import EmulatedPi, EmulatorError, copy_card, read_config_txt
from tests import cards

PI4 = Board(model=Model.PI_4)
CONFIG = """
# a comment
arm_64bit=1
kernel=first.img
initramfs initrd.gz followkernel
[pi3]
kernel=for-a-pi-3.img
[tryboot]
os_prefix=new/
[none]
kernel=never.img
[0x12345678]
kernel=for-one-board.img
[all]
kernel = kernel8.img
"""


def test_the_last_setting_whose_filter_is_met_wins() -> None:
    found = read_config_txt(CONFIG, PI4, tryboot=False)

    assert found == {"arm_64bit": "1", "kernel": "kernel8.img", "initramfs": "initrd.gz"}


def test_the_filters_for_a_board_and_for_the_flag_are_met() -> None:
    text = CONFIG.replace("[all]", "")

    assert read_config_txt(text, Board(model=Model.PI_3), tryboot=True)["os_prefix"] == "new/"
    assert read_config_txt("[pi3]\nkernel=a\n[pi4]\nkernel=b\n", Board(model=Model.PI_3), tryboot=False) == {
        "kernel": "a"
    }


@pytest.mark.needs("sgdisk", "sfdisk")
@pytest.mark.parametrize("table", TableKind)
def test_a_copy_has_a_power_of_two_as_its_size_and_a_sound_table(tmp_path: Path, table: TableKind) -> None:
    pytest.importorskip("parted", reason="pyparted is not installed (pip install 'abboot[image]')")
    image, copy = tmp_path / "card.img", tmp_path / "copy.img"
    spec = ImageSpec(
        disk=DiskSpec(table=table), selector=SelectorSpec(size=cards.SELECTOR_SIZE), slots=SlotsSpec(size=3 << 20)
    )
    build(spec, image, tree=cards.tree("v1"))
    before = image.read_bytes()

    copy_card(image, copy)

    assert image.read_bytes() == before
    assert copy.stat().st_size == 32 << 20
    verified = subprocess.run(["sfdisk", "--verify", copy], capture_output=True, text=True, check=True)
    assert "No errors detected" in verified.stdout
    if table is TableKind.GPT:
        checked = subprocess.run(["sgdisk", "--verify", copy], capture_output=True, text=True, check=True)
        assert "No problems found" in checked.stdout
    with EmulatedPi(copy) as pi:
        assert pi.boot.partition == 2


def test_an_image_of_another_size_is_refused_with_the_way_out(tmp_path: Path) -> None:
    image = cards.card()

    with pytest.raises(EmulatorError, match="wants a power of two") as caught:
        EmulatedPi(image)
    assert "copy_card" in caught.value.hint


@pytest.mark.needs("qemu-system-aarch64", "fdtput")
def test_a_partition_without_a_device_tree_for_the_machine_is_named(tmp_path: Path) -> None:
    copy_card(cards.card(), tmp_path / "card.img")

    with EmulatedPi(tmp_path / "card.img") as pi, pytest.raises(EmulatorError, match="partition 2: it has no device"):
        pi.switch_on()
