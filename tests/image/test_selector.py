"""The selector as planned: alone in their blocks, far apart, and readable by everybody."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abboot.core.words import FatType
from abboot.errors import AbbootError, InvalidTree
from abboot.fat.plan import Content, VolumePlan
from abboot.fat.write import compare, validate, write_content
from abboot.image.selector import CLUSTER, plan_selector
from tests.devices import MemoryDevice

MIB = 1 << 20
AUTOBOOT = b"[all]\n".ljust(64, b"\n")
JOURNAL = b"ABBOOT-JOURNAL ".ljust(64 * 4096, b"\0")


def written(plan: VolumePlan, sector_size: int) -> bytes:
    device = MemoryDevice(plan.geometry.size, sector_size)
    write_content(device, plan, compare(device, plan, None))
    validate(device, plan.geometry)
    return bytes(device.content)


def planned(size: int, sector_size: int = 512, extra: tuple[Content, ...] = ()) -> VolumePlan:
    return plan_selector(size, sector_size, "BOOTSEL", 0x12345678, AUTOBOOT, JOURNAL, extra)


@settings(max_examples=50)
@given(st.integers(18 * MIB // 4096, 200 * MIB // 4096), st.sampled_from([512, 4096]))
def test_every_size_keeps_the_two_files_apart_and_the_last_cluster_free(blocks: int, sector_size: int) -> None:
    plan = planned(blocks * 4096, sector_size)

    geometry = plan.geometry
    (autoboot,), (journal,) = plan.extents("autoboot.txt"), plan.extents("ABBOOT.JNL")
    assert geometry.fat_type is FatType.FAT16
    assert geometry.cluster_size == CLUSTER == 4096
    assert geometry.data_start % 4096 == 0
    assert autoboot[1] == 1
    assert journal == (geometry.last_cluster - 64, 64)
    distance = geometry.cluster_offset(journal[0]) - geometry.cluster_offset(autoboot[0])
    assert distance >= 4 * MIB


@pytest.mark.needs("fsck.vfat", "mtype")
@pytest.mark.parametrize("sector_size", [512, 4096])
def test_fsck_and_mtools_read_it(tmp_path: Path, sector_size: int) -> None:
    extra = Content(path="bootcode.bin", size=5000, chunks=lambda: iter((b"x" * 5000,)))
    volume = tmp_path / "selector.img"
    volume.write_bytes(written(planned(20 * MIB, sector_size, (extra,)), sector_size))

    verdict = subprocess.run(["fsck.vfat", "-n", str(volume)], capture_output=True, text=True, check=False)

    assert verdict.returncode == 0, verdict.stdout
    assert len(verdict.stdout.splitlines()) == 2, verdict.stdout  # its name, and the count of files: no complaint
    for name, data in (("autoboot.txt", AUTOBOOT), ("ABBOOT.JNL", JOURNAL), ("bootcode.bin", b"x" * 5000)):
        shown = subprocess.run(["mtype", "-i", str(volume), f"::{name}"], capture_output=True, check=True)
        assert shown.stdout == data


def test_a_size_that_cannot_be_fat16_is_refused() -> None:
    with pytest.raises(AbbootError, match="16777216 bytes in sectors of 512 cannot be FAT16"):
        planned(16 * MIB)


def test_extra_files_that_do_not_fit_are_refused() -> None:
    extra = Content(path="bootcode.bin", size=30 * MIB, chunks=lambda: iter(()))

    with pytest.raises(InvalidTree):
        planned(20 * MIB, extra=(extra,))
