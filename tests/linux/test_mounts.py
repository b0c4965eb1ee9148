"""What is mounted, and reading and switching through a mount."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abboot.core.protocols import FileInfo
from abboot.errors import Damaged, DeviceError
from abboot.linux.mounted import MountedVolume
from abboot.linux.mounts import MountEntry, mounts_of, parse_mountinfo, read_mounts
from tests.linux.sysroots import FakePartition, make_sysroot

LINE = "36 35 179:1 / /boot/firmware rw,noatime shared:1 master:2 - vfat /dev/mmcblk0p1 rw,fmask=0022"
ENTRY = MountEntry(
    device="179:1",
    root="/",
    path="/boot/firmware",
    file_system="vfat",
    source="/dev/mmcblk0p1",
    writable=True,
)


def test_a_line_of_mountinfo_is_read_whatever_optional_fields_it_has() -> None:
    without = LINE.replace(" shared:1 master:2", "")

    assert parse_mountinfo(f"{LINE}\n{without}\n") == (ENTRY, ENTRY)


@pytest.mark.parametrize("line", [LINE.replace(" rw,noatime", " ro,noatime"), LINE.replace(" rw,fmask", " ro,fmask")])
def test_a_mount_is_writable_only_if_the_volume_is_as_well(line: str) -> None:
    assert parse_mountinfo(line) == (attrs.evolve(ENTRY, writable=False),)


@given(path=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40))
def test_a_path_comes_back_as_it_was_mounted(path: str) -> None:
    # mangle() of the kernel's fs/proc_namespace.c: these four, as three octal digits.
    escaped = "/" + "".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in path)
    line = f"36 35 179:1 / {escaped} rw - vfat /dev/x rw"

    assert [entry.path for entry in parse_mountinfo(f"{LINE}\n{line}")] == ["/boot/firmware", "/" + path]


@given(text=st.one_of(st.text(max_size=200), st.text("0 -/:rw,\n\\8", max_size=200)))
def test_lines_that_are_no_mounts_are_skipped(text: str) -> None:
    assert ENTRY in parse_mountinfo(f"{text}\n{LINE}\n{text}")


def test_this_system_has_a_root() -> None:
    assert "/" in [entry.path for entry in read_mounts()]


def test_a_volume_is_found_under_every_path_and_the_whole_one_comes_first(tmp_path: Path) -> None:
    root = make_sysroot(tmp_path, partitions={1: FakePartition(start=0, size=512)})
    with Path(root, "proc/self/mountinfo").open("a") as file:
        file.write("50 21 179:1 /overlays /srv/over\\040lays ro - vfat /dev/mmcblk0p1 rw\n")
        file.write("51 21 179:1 / /boot/firmware ro - vfat /dev/root rw\n")
        file.write("52 21 179:2 / /mnt rw - vfat /dev/mmcblk0p2 rw\n")

    found = [(mount.path, mount.writable, mount.whole) for mount in mounts_of(f"{root}/dev/mmcblk0p1", root)]

    assert found == [(f"{root}/boot/firmware", False, True), (f"{root}/srv/over lays", False, False)]


def test_without_sysfs_a_mount_is_found_by_the_name_of_its_node(tmp_path: Path) -> None:
    root = make_sysroot(tmp_path)
    with Path(root, "proc/self/mountinfo").open("a") as file:
        file.write(LINE + "\n")

    assert [mount.path for mount in mounts_of(f"{root}/dev/mmcblk0p1", root)] == [f"{root}/boot/firmware"]
    assert mounts_of(f"{root}/dev/mmcblk0p11", root) == ()


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    place = tmp_path / "boot"
    (place / "overlays").mkdir(parents=True)
    (place / "autoboot.txt").write_bytes(b"[all]\n" + b"\n" * 58)
    (place / "Config.TXT").write_bytes(b"arm_64bit=1\n")
    (place / "overlays" / "README").write_bytes(b"x" * 3_000_000)
    (tmp_path / "secret").write_bytes(b"secret")
    (place / "link").symlink_to(tmp_path / "secret")
    (place / "away").symlink_to(tmp_path)
    os.mkfifo(place / "fifo")
    return place


def test_the_files_of_a_mounted_volume_are_listed_without_links_and_special_files(volume: Path) -> None:
    assert sorted(MountedVolume(str(volume)).files(), key=lambda info: info.path) == [
        FileInfo(path="Config.TXT", size=12),
        FileInfo(path="autoboot.txt", size=64),
        FileInfo(path="overlays/README", size=3_000_000),
    ]


def test_names_are_found_whatever_their_case(volume: Path) -> None:
    mounted = MountedVolume(str(volume))

    assert mounted.find("config.txt") == FileInfo(path="Config.TXT", size=12)
    assert mounted.find("OVERLAYS/readme") == FileInfo(path="overlays/README", size=3_000_000)
    assert mounted.read_file("CONFIG.txt", 12) == b"arm_64bit=1\n"
    assert b"".join(mounted.chunks("overlays/readme")) == b"x" * 3_000_000


@pytest.mark.parametrize(
    "path", ["link", "away/secret", "fifo", "overlays", "../secret", "", "/", ".", "config.txt/x", "overlays//README"]
)
def test_what_is_no_file_of_the_volume_is_not_found(volume: Path, path: str) -> None:
    mounted = MountedVolume(str(volume))

    assert mounted.find(path) is None
    with pytest.raises(Damaged, match="there is no such file"):
        mounted.read_file(path, 1000)
    with pytest.raises(Damaged, match="there is no such file"):
        mounted.overwrite(path, 0, b"x")


def test_a_file_over_the_limit_is_not_read_whole(volume: Path) -> None:
    with pytest.raises(Damaged, match="more than the 512 bytes allowed"):
        MountedVolume(str(volume)).read_file("overlays/README", 512)


def test_another_volume_below_the_mount_is_not_entered() -> None:
    # /proc is always another volume than /.
    mounted = MountedVolume("/")

    assert mounted.find("proc/version") is None


def test_a_missing_mount_point_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="no such file or directory"):
        MountedVolume(str(tmp_path / "nowhere"))


def test_the_switch_changes_its_bytes_and_nothing_else(volume: Path) -> None:
    file = volume / "autoboot.txt"
    before = file.stat()

    MountedVolume(str(volume)).overwrite("AUTOBOOT.TXT", 4, b"XY")

    after = file.stat()
    assert file.read_bytes() == b"[allXY" + b"\n" * 58
    assert (after.st_ino, after.st_size, after.st_blocks) == (before.st_ino, before.st_size, before.st_blocks)
    assert sorted(os.listdir(volume)) == ["Config.TXT", "autoboot.txt", "away", "fifo", "link", "overlays"]


@pytest.mark.parametrize(("offset", "length"), [(0, 65), (64, 1), (60, 5), (1 << 40, 1)])
def test_the_switch_never_changes_the_length(volume: Path, offset: int, length: int) -> None:
    before = (volume / "autoboot.txt").read_bytes()

    with pytest.raises(Damaged, match="it has 64 bytes"):
        MountedVolume(str(volume)).overwrite("autoboot.txt", offset, b"z" * length)

    assert (volume / "autoboot.txt").read_bytes() == before


def test_a_folder_that_is_too_deep_is_an_error_and_leaks_nothing(tmp_path: Path) -> None:
    deep = tmp_path / "boot" / "/".join(["d"] * 60)
    deep.mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(Damaged, match="more than 32 folders deep"):
        MountedVolume(str(tmp_path / "boot")).files()

    assert len(os.listdir("/proc/self/fd")) == before <= resource.getrlimit(resource.RLIMIT_NOFILE)[0]
