"""The shape of a volume, judged by mkfs.vfat, fsck.vfat and minfo."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abboot.core.words import FatType
from abboot.errors import AbbootError, Damaged
from abboot.fat.geometry import Geometry
from tests.strategies_fat import MIB, SHAPES, assert_clean, new_image, run, stage

pytestmark = pytest.mark.needs("mkfs.vfat", "fsck.vfat", "minfo")

MKFS = [
    (17 * MIB, "-F 12"),
    (17 * MIB, "-F 16 -s 1"),
    (90 * MIB + 77 * 512, "-F 16 -s 4 -n BOOT_A"),
    (90 * MIB, "-F 16 -f 1 -h 2048"),
    (40 * MIB + 77 * 512, "-F 32 -s 1 -i 1234abcd -n bootfs"),
    (140 * MIB, "-F 32 -s 2 -R 64 -b 12"),
    (140 * MIB, "-F 16 -S 4096 -s 1"),
    (300 * MIB, "-F 32 -S 4096 -s 1"),
    (17 * MIB, "-F 12 -S 2048 -s 4"),
]


def boot_sector_of_mkfs(image: Path, size: int, options: list[str]) -> bytes:
    new_image(image, size).close()
    run("mkfs.vfat", *options, image)
    with image.open("rb") as file:
        return file.read(4096)


def test_a_fat32_with_too_few_clusters_is_refused_because_readers_differ(tmp_path: Path) -> None:
    sector = boot_sector_of_mkfs(tmp_path / "image", 17 * MIB, ["-F", "32"])

    with pytest.raises(Damaged, match=r"\d+ clusters cannot be FAT32, readers would differ"):
        Geometry.parse(sector, 17 * MIB)


@pytest.mark.parametrize(("size", "command"), MKFS)
def test_a_volume_of_mkfs_is_read_as_fsck_reads_it(tmp_path: Path, size: int, command: str) -> None:
    image = tmp_path / "image"
    options = command.split()
    sector = boot_sector_of_mkfs(image, size, options)
    said = run("fsck.vfat", "-n", "-v", image)

    geometry = Geometry.parse(sector, size)

    assert int(re.search(r"(\d+) bytes per logical sector", said)[1]) == geometry.sector_size
    assert int(re.search(r"(\d+) bytes per cluster", said)[1]) == geometry.cluster_size
    assert int(re.search(r"First FAT starts at byte (\d+)", said)[1]) == geometry.fat_start
    assert int(re.search(r"Data area starts at byte (\d+)", said)[1]) == geometry.data_start
    assert int(re.search(r"(\d+) data clusters", said)[1]) == geometry.cluster_count
    assert int(re.search(r"(\d+) bytes per FAT", said)[1]) == geometry.fat_size
    assert int(re.search(r"(\d+) bit entries", said)[1]) == geometry.fat_type
    assert int(re.search(r"(\d+) sectors total", said)[1]) * geometry.sector_size == geometry.size
    if "-n" in options:
        assert geometry.label == options[options.index("-n") + 1]
    else:
        assert geometry.label == ""
    if "-i" in options:
        assert geometry.volume_id == 0x1234ABCD
    if "-b" in options:
        assert geometry.boot_sector_offsets == (0, 12 * 512)
    if "-f" in options:
        assert geometry.fat_count == 1


@pytest.mark.parametrize("name", SHAPES)
def test_the_backup_boot_sector_is_where_fsck_looks_for_it(tmp_path: Path, name: str) -> None:
    image = tmp_path / "image"
    geometry = SHAPES[name].geometry()
    device = new_image(image, geometry.size)
    stage(device, {}, geometry)
    assert_clean(image)

    for offset in geometry.boot_sector_offsets[1:]:
        device.write(offset, bytes(geometry.sector_size))
        assert (
            "backup" in subprocess.run(["fsck.vfat", "-n", image], capture_output=True, text=True, check=False).stdout
        )
    assert len(geometry.boot_sector_offsets) == (2 if geometry.fat_type is FatType.FAT32 else 1)
    device.close()


def test_minfo_reads_the_identity_of_our_boot_sector(tmp_path: Path) -> None:
    image = tmp_path / "image"
    geometry = Geometry.choose(256 * MIB, label="ABBOOT-A", volume_id=0xCAFE_0123)
    stage(new_image(image, geometry.size), {}, geometry)

    said = run("minfo", "-i", image)

    assert 'disk label="ABBOOT-A   "' in said
    assert "serial number: CAFE0123" in said
    assert 'disk type="FAT32   "' in said
    assert f"cluster size: {geometry.sectors_per_cluster} sectors" in said
    assert f"reserved (boot) sectors: {geometry.reserved_sectors}" in said


def test_slots_and_selectors_get_the_shapes_that_the_design_names() -> None:
    slot = Geometry.choose(256 * MIB, label="", volume_id=1)
    large = Geometry.choose(512 * MIB, label="", volume_id=1)
    four_k = Geometry.choose(256 * MIB, label="", volume_id=1, sector_size=4096)
    selector = Geometry.choose(32 * MIB, label="", volume_id=1, fat_type=FatType.FAT16, cluster_size=4096)

    assert (slot.fat_type, slot.cluster_size, slot.data_start % MIB) == (FatType.FAT32, 2048, 0)
    assert (large.fat_type, large.cluster_size, large.data_start % MIB) == (FatType.FAT32, 4096, 0)
    assert four_k.fat_type is FatType.FAT16  # FAT32 would have too few clusters
    assert (selector.fat_type, selector.cluster_size, selector.data_start % 4096) == (FatType.FAT16, 4096, 0)


@given(
    size=st.one_of(st.integers(40 << 10, 64 * MIB), st.integers(64 * MIB, 1 << 40)),
    sector_size=st.sampled_from([512, 1024, 2048, 4096]),
    fat_type=st.sampled_from([None, *FatType]),
    align=st.sampled_from([None, 4096, MIB]),
    cluster_size=st.sampled_from([None, 512, 4096, 32768]),
)
def test_a_chosen_geometry_lies_inside_and_keeps_away_from_the_type_limits(
    size: int, sector_size: int, fat_type: FatType | None, align: int | None, cluster_size: int | None
) -> None:
    try:
        geometry = Geometry.choose(
            size,
            label="A",
            volume_id=7,
            sector_size=sector_size,
            fat_type=fat_type,
            align=align,
            cluster_size=cluster_size,
        )
    except AbbootError:
        return  # no such volume; nothing else may be raised

    assert geometry.size <= size
    assert geometry.cluster_offset(geometry.last_cluster) + geometry.cluster_size <= geometry.size
    assert all(abs(geometry.cluster_count - limit) >= 16 for limit in (4085, 65525))
    assert geometry.data_start % (align or 4096) == 0
    assert fat_type in (None, geometry.fat_type)
    assert Geometry.parse(geometry.boot_sector(), size) == geometry


@pytest.mark.parametrize("size", [33 * MIB + n * 8192 for n in range(-2, 10, 2)])
def test_volumes_around_the_smallest_fat32_are_of_one_type_to_everybody(tmp_path: Path, size: int) -> None:
    image = tmp_path / "image"
    geometry = Geometry.choose(size, label="EDGE", volume_id=1)
    stage(new_image(image, size), {"a": b"x" * 700}, geometry)

    assert_clean(image)
    assert f"{geometry.fat_type:d} bit entries" in run("fsck.vfat", "-n", "-v", image)


@pytest.mark.parametrize("name", SHAPES)
def test_the_journal_gives_a_geometry_back(name: str) -> None:
    geometry = SHAPES[name].geometry()

    assert Geometry.from_json(json.loads(json.dumps(geometry.to_json()))) == geometry
    assert Geometry.from_json({**geometry.to_json(), "of a later version": [1]}) == geometry


@given(
    key=st.sampled_from([field.name for field in attrs.fields(Geometry)]),
    value=st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers())
    ),
)
def test_a_journal_with_nonsense_in_a_geometry_is_damaged_or_still_legal(key: str, value: object) -> None:
    try:
        geometry = Geometry.from_json({**SHAPES["fat32"].geometry().to_json(), key: value})
    except Damaged:
        return

    assert getattr(geometry, key) == value
    assert Geometry.parse(geometry.boot_sector(), geometry.size).cluster_count == geometry.cluster_count


@given(st.lists(st.tuples(st.integers(0, 89), st.integers(0, 255)), min_size=1, max_size=6), st.sampled_from([*SHAPES]))
def test_a_mutated_boot_sector_is_damaged_or_describes_a_volume_inside_its_window(
    mutations: list[tuple[int, int]], name: str
) -> None:
    original = SHAPES[name].geometry()
    sector = bytearray(original.boot_sector())
    for offset, value in mutations:
        sector[offset] = value
    try:
        geometry = Geometry.parse(bytes(sector), original.size)
    except Damaged:
        return  # nothing else may be raised

    assert geometry.data_start < geometry.size <= original.size
    assert geometry.cluster_offset(geometry.last_cluster) + geometry.cluster_size <= geometry.size
    assert max(geometry.boot_sector_offsets) < geometry.fat_start


@pytest.mark.parametrize(
    ("sector", "sentence"),
    [
        (bytes(512), "the boot sector is empty"),
        (b"\xff" * 512, "no boot sector signature"),
        (b"\xeb", "1 bytes of boot sector found"),
        (b"\0" * 510 + b"\x55\xaa", "not with a jump"),
        (b"\xeb" + bytes(509) + b"\x55\xaa", "sectors of 0 bytes"),
    ],
)
def test_what_is_no_boot_sector_is_damaged_and_says_why(sector: bytes, sentence: str) -> None:
    with pytest.raises(Damaged, match=sentence):
        Geometry.parse(sector, MIB)


def test_a_volume_that_says_it_is_larger_than_its_partition_is_damaged() -> None:
    geometry = SHAPES["fat16"].geometry()

    with pytest.raises(Damaged, match=f"it says {geometry.size} bytes, and there are {geometry.size - 1}"):
        Geometry.parse(geometry.boot_sector(), geometry.size - 1)


@pytest.mark.parametrize("label", ["TWELVE CHARS", "A.B", "tab\t", "ÄÖ", " A", "A ", "NO NAME"])
def test_a_label_that_fat_cannot_hold_is_refused(label: str) -> None:
    with pytest.raises(AbbootError, match="cannot format volume: label"):
        Geometry.choose(MIB, label=label, volume_id=1)
