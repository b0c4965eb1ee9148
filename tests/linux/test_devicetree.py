"""What the firmware reported, from good and from hostile device trees."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abboot.core.protocols import BootReport
from abboot.linux.devicetree import read_boot_report
from tests.linux.sysroots import NEW_BOOTLOADER, make_sysroot


def test_the_cells_are_read_as_the_firmware_writes_them(tmp_path: Path) -> None:
    root = make_sysroot(tmp_path, partition=3, tryboot=1)

    assert read_boot_report(root) == BootReport(
        partition=3,
        tryboot=True,
        boot_mode=1,
        rsts=0x20,
        build_timestamp=NEW_BOOTLOADER,
        model="Raspberry Pi 4 Model B Rev 1.4",
    )


def test_any_tryboot_that_is_not_zero_is_a_tryboot(tmp_path: Path) -> None:
    report = read_boot_report(make_sysroot(tmp_path, tryboot=b"\x01\x00\x00\x00"))

    assert report is not None
    assert report.tryboot is True


def test_a_board_without_the_node_has_no_report(tmp_path: Path) -> None:
    root = make_sysroot(tmp_path)
    shutil.rmtree(Path(root, "proc/device-tree/chosen/bootloader"))

    assert read_boot_report(root) is None
    assert read_boot_report(str(tmp_path / "nowhere")) is None


@pytest.mark.parametrize("cell", [b"", b"\0", b"\0\0\0", b"\0\0\0\2\0", b"2\n", bytes(4096)])
def test_a_cell_that_is_not_four_bytes_is_reported_as_missing(tmp_path: Path, cell: bytes) -> None:
    report = read_boot_report(make_sysroot(tmp_path, partition=cell, tryboot=cell))

    assert report is not None
    assert (report.partition, report.tryboot, report.boot_mode) == (None, None, 1)


@settings(max_examples=25, deadline=None)
@given(cell=st.binary(max_size=6), model=st.binary(max_size=300))
def test_no_device_tree_brings_anything_but_a_report(cell: bytes, model: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = make_sysroot(Path(folder), partition=cell)
        Path(root, "proc/device-tree/model").write_bytes(model)

        report = read_boot_report(root)

    assert report is not None
    assert report.partition == (int.from_bytes(cell, "big") if len(cell) == 4 else None)
    assert report.model is None or (report.model.isascii() and report.model.isprintable())


def test_a_fifo_a_folder_or_a_device_in_place_of_a_cell_is_not_waited_for(tmp_path: Path) -> None:
    root = make_sysroot(tmp_path, partition=None, tryboot=None, boot_mode=None)
    node = Path(root, "proc/device-tree/chosen/bootloader")
    os.mkfifo(node / "partition")
    (node / "tryboot").mkdir()
    (node / "boot-mode").symlink_to("/dev/zero")

    report = read_boot_report(root)

    assert report is not None
    assert (report.partition, report.tryboot, report.boot_mode) == (None, None, None)


def test_the_older_name_of_rsts_is_known(tmp_path: Path) -> None:
    root = make_sysroot(tmp_path)
    node = Path(root, "proc/device-tree/chosen/bootloader")
    (node / "rsts").unlink()
    (node / "pm_rsts").write_bytes(b"\0\0\x10\0")

    report = read_boot_report(root)

    assert report is not None
    assert report.rsts == 0x1000


def test_the_link_of_a_captured_system_does_not_lead_to_this_one(tmp_path: Path) -> None:
    root = Path(make_sysroot(tmp_path, partition=3))
    (root / "sys/firmware/devicetree").mkdir(parents=True)
    (root / "proc/device-tree").rename(root / "sys/firmware/devicetree/base")
    (root / "proc/device-tree").symlink_to("/sys/firmware/devicetree/base")

    report = read_boot_report(str(root))

    assert report is not None
    assert report.partition == 3
