"""The firmware's reader: right about volumes of dosfstools and mtools, forgiving about damage, independent of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abboot.errors import DeviceError
from abboot.simulator.firmware_fat import FirmwareFat, NotReadable
from tests.fat.mutate import (
    SEED_TREE,
    Crafted,
    PatchedDevice,
    long_entries,
    make_volume,
    seed_volume,
    short_entry,
)


def _firmware(image: bytes | bytearray, *patches: tuple[int, bytes]) -> FirmwareFat:
    device = PatchedDevice(image, patches)
    return FirmwareFat(device.read, device.size_bytes)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (1 << 20, ("-F", "12")),
        (24 << 20, ("-F", "16", "-s", "1", "-S", "4096")),
        (16 << 20, ("-F", "16", "-f", "1")),
        (40 << 20, ("-F", "32", "-s", "1", "--mbr=no")),
    ],
)
def test_every_file_reads_as_it_was_copied(tmp_path: Path, size: int, options: tuple[str, ...]) -> None:
    tree = SEED_TREE | {f"overlays/an-overlay-{n}.dtbo": bytes([n]) * (n * 97) for n in range(60)}
    make_volume(tmp_path / "image", tree, size, *options)
    volume = _firmware((tmp_path / "image").read_bytes())

    assert volume.paths() == {path.lower() for path in tree}
    assert {path: volume.read_file(path, 1 << 20) for path in tree} == tree


def test_names_are_found_in_any_case_by_long_name_and_alias() -> None:
    volume = _firmware(seed_volume(16))

    for name in ("config.txt", "CONFIG.TXT", "Config.Txt"):
        assert volume.read_file(name, 99) == SEED_TREE["config.txt"]
    for name in ("A Long Name, with spaces.DTB", "ALONGN~1.DTB"):
        assert volume.read_file(name, 9999) == SEED_TREE["a long name, with spaces.dtb"]


@pytest.mark.parametrize("path", ["", "nothing", "overlays", "config.txt/x", "nothing/x", "overlays/"])
def test_what_is_no_file_reads_as_none(path: str) -> None:
    assert _firmware(seed_volume(32)).read_file(path, 99) is None


def test_only_so_much_is_read_as_was_asked_for() -> None:
    volume = _firmware(seed_volume(12))

    assert volume.read_file("KERNEL8.IMG", 700) == SEED_TREE["KERNEL8.IMG"][:700]
    assert volume.read_file("KERNEL8.IMG", 0) == b""


def test_autoboot_txt_costs_a_few_reads() -> None:
    device = PatchedDevice(seed_volume(16))

    assert FirmwareFat(device.read, device.size_bytes).read_file("config.txt", 512) == SEED_TREE["config.txt"]
    assert device.reads <= 4


@pytest.mark.parametrize(
    ("at", "patch", "found"),
    [
        (0, bytes(512), "no boot sector signature"),
        (510, b"\0\0", "no boot sector signature"),
        (11, b"\0\0", "describes no FAT volume"),
        (13, b"\0", "describes no FAT volume"),
        (16, b"\0", "describes no FAT volume"),
        (14, b"\xff\xff", "no room for data"),
    ],
)
def test_what_has_no_fat_header_is_not_readable(at: int, patch: bytes, found: str) -> None:
    with pytest.raises(NotReadable, match=found):
        _firmware(seed_volume(16), (at, patch))


def test_an_empty_partition_is_not_readable() -> None:
    with pytest.raises(NotReadable):
        _firmware(b"")


def test_a_medium_that_fails_is_not_readable() -> None:
    def read(offset: int, length: int) -> bytes:
        if offset:
            raise DeviceError("cannot read mmcblk0p2: input/output error")
        return seed_volume(16)[:length]

    volume = FirmwareFat(read, len(seed_volume(16)))
    with pytest.raises(NotReadable, match="input/output error"):
        volume.paths()


def _three_clusters(fat_type: int) -> Crafted:
    crafted = Crafted(fat_type)
    crafted.chain(5, 6, 9)
    for cluster in (5, 6, 9):
        crafted.write(cluster, bytes([cluster]) * 512)
    crafted.root(short_entry(b"FILE       ", cluster=5, size=1500))
    return crafted


@pytest.mark.parametrize("fat_type", [12, 16, 32])
@pytest.mark.parametrize("following", [0, 1])
def test_a_chain_that_breaks_off_is_the_end_of_the_file(fat_type: int, following: int) -> None:
    crafted = _three_clusters(fat_type)

    assert len(_firmware(crafted.image).read_file("file", 9999) or b"") == 1500
    crafted.link(6, following)
    assert _firmware(crafted.image).read_file("file", 9999) == b"\5" * 512 + b"\6" * 512


def test_only_the_first_fat_is_believed() -> None:
    crafted = _three_clusters(16)
    whole = bytes(crafted.image)
    size = crafted.fat[1] - crafted.fat[0]
    zeroed = bytes(size)

    assert len(_firmware(whole, (crafted.fat[1], zeroed)).read_file("file", 9999) or b"") == 1500
    assert len(_firmware(whole, (crafted.fat[0], zeroed)).read_file("file", 9999) or b"") == 512


def test_of_two_equal_names_the_first_one_is_read() -> None:
    crafted = _three_clusters(16)
    crafted.root(
        short_entry(b"CONFIG  TXT", cluster=5, size=3),
        *long_entries("config.txt", b"CONFIG~1TXT"),
        short_entry(b"CONFIG~1TXT", cluster=9, size=3),
    )

    assert _firmware(crafted.image).read_file("config.txt", 99) == b"\5\5\5"


def test_a_long_name_of_another_entry_is_not_believed() -> None:
    crafted = Crafted()
    crafted.root(*long_entries("config.txt", b"CONFIG~1TXT"), short_entry(b"OTHER      "))

    assert _firmware(crafted.image).paths() == {"other"}


@given(st.integers(0, 8191), st.binary(min_size=1, max_size=64))
@settings(max_examples=80, deadline=None)
def test_bytes_at_random_places_never_raise_anything_else(sector: int, patch: bytes) -> None:
    image = seed_volume(12)
    try:
        volume = _firmware(image, (sector * 16 % len(image), patch))
        for path in volume.paths():
            assert len(volume.read_file(path, 5000) or b"") <= 5000
    except NotReadable:
        assert sector * 16 % len(image) < 512  # nothing behind the header makes a volume unreadable


def test_it_shares_no_code_with_the_reader_and_the_writer() -> None:
    code = "import sys, abboot.simulator.firmware_fat\nprint([m for m in sys.modules if 'fat' in m])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert output == "['abboot.simulator.firmware_fat']\n"
