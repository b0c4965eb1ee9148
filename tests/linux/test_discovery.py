"""Which disk the firmware booted: never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from abboot.errors import DeviceError
from abboot.linux.discovery import booted_disk, is_booted_disk
from tests.linux.sysroots import FakePartition, add_disk, make_sysroot

PART = FakePartition(start=1 << 20, size=1 << 20)


def mounted(path: str) -> dict[int, FakePartition]:
    return {2: FakePartition(start=1 << 20, size=1 << 20, mounted_at=path)}


@pytest.mark.parametrize(
    ("mode", "disk"), [(1, "mmcblk0"), (4, "sda"), (5, "sda"), (6, "nvme0n1"), (2, None), (3, None), (7, None)]
)
def test_the_firmware_says_the_kind_of_disk(tmp_path: Path, mode: int, disk: str | None) -> None:
    root = make_sysroot(tmp_path, boot_mode=mode, partitions={1: PART})
    add_disk(root, "sda", 8, {1: PART})
    add_disk(root, "nvme0n1", 259, {1: PART})
    add_disk(root, "mmcblk0boot0", 179, {})

    assert booted_disk(root) == (None if disk is None else f"{root}/dev/{disk}")


def test_of_two_disks_of_that_kind_the_mounted_one_is_it(tmp_path: Path) -> None:
    root = make_sysroot(tmp_path, boot_mode=4)
    add_disk(root, "sda", 8, {1: PART})
    add_disk(root, "sdb", 9, mounted("/boot/firmware"))

    assert booted_disk(root) == f"{root}/dev/sdb"


def test_a_boot_partition_tells_more_than_the_root(tmp_path: Path) -> None:
    root = make_sysroot(tmp_path, boot_mode=4)
    add_disk(root, "sda", 8, mounted("/"))
    add_disk(root, "sdb", 9, mounted("/boot/firmware"))

    assert booted_disk(root) == f"{root}/dev/sdb"


def test_a_second_card_with_the_same_layout_mounted_by_its_label_changes_nothing(tmp_path: Path) -> None:
    root = make_sysroot(tmp_path, boot_mode=1, partitions={2: PART})
    add_disk(root, "sda", 8, mounted("/boot/firmware"))

    assert booted_disk(root) == f"{root}/dev/mmcblk0"


def test_two_that_nothing_tells_apart_are_listed(tmp_path: Path) -> None:
    root = make_sysroot(tmp_path, boot_mode=4)
    add_disk(root, "sda", 8, {1: PART})
    add_disk(root, "sdb", 9, {1: PART})

    with pytest.raises(
        DeviceError, match="cannot tell the booted disk: boot-mode is 4, and there are sda, sdb"
    ) as caught:
        booted_disk(root)

    assert "--disk" in caught.value.hint


def test_without_a_boot_mode_the_mounts_tell(tmp_path: Path) -> None:
    root = make_sysroot(tmp_path, boot_mode=None, partitions={1: PART})
    nobody = booted_disk(root)
    add_disk(root, "sda", 8, mounted("/"))

    assert (nobody, booted_disk(root)) == (None, f"{root}/dev/sda")


def test_a_machine_that_is_no_pi_booted_no_disk_of_ours(tmp_path: Path) -> None:
    root = make_sysroot(tmp_path, partitions={1: PART})
    Path(root, "proc/device-tree/chosen/bootloader").rename(tmp_path / "gone")

    assert booted_disk(root) is None


def test_the_kind_of_disk_that_is_not_there_is_no_disk(tmp_path: Path) -> None:
    assert booted_disk(make_sysroot(tmp_path, boot_mode=6, partitions={1: PART})) is None


def test_below_a_sysroot_the_file_that_stands_for_the_device_is_the_booted_disk(tmp_path: Path) -> None:
    card, other = tmp_path / "card.img", tmp_path / "other.img"
    card.write_bytes(bytes(512))
    other.write_bytes(bytes(512))
    root = make_sysroot(tmp_path, disk=card)

    assert is_booted_disk(root, "/dev/mmcblk0")
    assert is_booted_disk(root, str(card))
    assert not is_booted_disk(root, str(other))
    assert not is_booted_disk(root, str(tmp_path / "missing.img"))
    assert not is_booted_disk(root, "/dev/sda")


@pytest.mark.parametrize("path", ["/", "/boot", "/boot/firmware"])
def test_where_the_firmware_says_nothing_the_disk_that_is_mounted_is_the_booted_one(tmp_path: Path, path: str) -> None:
    """Not to be found by itself, but no stranger's disk either when somebody names it."""
    card, other = tmp_path / "card.img", tmp_path / "other.img"
    card.write_bytes(bytes(512))
    other.write_bytes(bytes(512))
    root = make_sysroot(tmp_path, disk=card, partitions=mounted(path))
    add_disk(root, "sda", 8, mounted("/mnt/stick"))
    Path(root, "dev/sda").symlink_to(other)
    Path(root, "proc/device-tree/chosen/bootloader").rename(tmp_path / "gone")

    assert booted_disk(root) is None
    assert is_booted_disk(root, "/dev/mmcblk0")
    assert is_booted_disk(root, str(card))
    assert not is_booted_disk(root, "/dev/sda")
    assert not is_booted_disk(root, str(other))


def test_where_neither_firmware_nor_mounts_say_it_no_disk_is_the_booted_one(tmp_path: Path) -> None:
    root = make_sysroot(tmp_path, disk=tmp_path / "card.img", partitions={1: PART})
    (tmp_path / "card.img").write_bytes(bytes(512))
    Path(root, "proc/device-tree/chosen/bootloader").rename(tmp_path / "gone")

    assert not is_booted_disk(root, "/dev/mmcblk0")


def test_on_a_real_system_an_image_file_is_never_the_booted_disk(tmp_path: Path) -> None:
    card = tmp_path / "card.img"
    card.write_bytes(bytes(512))

    assert not is_booted_disk("/", str(card))
