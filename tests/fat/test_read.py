"""FatVolume reads what dosfstools and mtools write, and what a specification page full of corner cases allows."""

from __future__ import annotations

import hashlib
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abboot.core.protocols import FileInfo
from abboot.errors import Damaged
from abboot.fat.check import CheckReport, check_files, digests
from abboot.fat.read import FatVolume
from tests.fat.mutate import (
    SEED_TREE,
    Crafted,
    PatchedDevice,
    long_entries,
    make_volume,
    mtools,
    seed_volume,
    short_entry,
)

MIB = 1 << 20


def _tree() -> dict[str, bytes]:
    random_ = random.Random(7)
    tree = {
        "config.txt": b"arm_64bit=1\n",
        "CMDLINE.TXT": b"root=/dev/mmcblk0p5\n",
        "Kernel8.img": random_.randbytes(700_001),
        "issue.TXT": b"x",
        "VERSION.txt": b"y",
        "no_extension": b"",
        "two.dots.dtb": random_.randbytes(8192),
        "größer als 8.3 €.dtbo": random_.randbytes(5000),
        "n" * 251 + ".bin": b"the longest name there is",
        "overlays/deep/er/and/deeper/README": random_.randbytes(100),
    }
    tree |= {f"overlays/an-overlay-{n}.dtbo": random_.randbytes(random_.randrange(4000)) for n in range(90)}
    return tree


TREE = _tree()

VOLUMES = {
    "fat12": (4 * MIB, "-F", "12"),
    "fat12-one-fat": (2 * MIB, "-F", "12", "-f", "1"),
    "fat16": (16 * MIB, "-F", "16", "-s", "4"),
    "fat16-mbr-no": (16 * MIB, "-F", "16", "--mbr=no", "-R", "8"),
    "fat16-4096": (24 * MIB, "-F", "16", "-S", "4096", "-s", "1"),
    "fat32-512": (40 * MIB, "-F", "32", "-s", "1"),
    "fat32-4k": (264 * MIB, "-F", "32", "-s", "8"),
    "fat32-1024": (68 * MIB, "-F", "32", "-S", "1024", "-s", "1"),
}


class _FileDevice(PatchedDevice):
    """The sparse file is read where it is needed, not as a whole."""

    def __init__(self, path: Path) -> None:
        super().__init__(b"")
        self._path = path
        self.size_bytes = path.stat().st_size

    def read(self, offset: int, length: int) -> bytes:
        if offset + length > self.size_bytes:
            raise ValueError("outside")
        self.reads += 1
        self.bytes_read += length
        with self._path.open("rb") as file:
            file.seek(offset)
            return file.read(length)


@pytest.fixture(scope="module", params=VOLUMES)
def volume_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    size, *options = VOLUMES[request.param]
    path = tmp_path_factory.mktemp("volumes") / f"{request.param}.img"
    make_volume(path, TREE, size, *options)
    mtools("mdel", "-i", path, "::/CMDLINE.TXT", "::/overlays/an-overlay-4*")
    return path


@pytest.fixture(scope="module")
def remaining() -> dict[str, bytes]:
    gone = re.compile(r"CMDLINE.TXT|overlays/an-overlay-4")
    return {path: content for path, content in TREE.items() if not gone.match(path)}


def _open(path: Path) -> FatVolume:
    return FatVolume(_FileDevice(path))


def test_every_file_reads_as_it_was_copied_and_deleted_ones_stay_gone(
    volume_path: Path, remaining: dict[str, bytes]
) -> None:
    volume = _open(volume_path)

    assert {file.path: file.size for file in volume.files()} == {
        path: len(content) for path, content in remaining.items()
    }
    assert digests(volume) == {path: hashlib.sha256(content).hexdigest() for path, content in remaining.items()}


def test_names_are_found_in_any_case_and_shown_as_stored(volume_path: Path) -> None:
    volume = _open(volume_path)

    assert volume.find("CONFIG.TXT") == FileInfo(path="config.txt", size=12)
    assert volume.find("Overlays/DEEP/er/and/deeper/readme") == FileInfo(
        path="overlays/deep/er/and/deeper/README", size=100
    )
    assert volume.find("GRÖSSER ALS 8.3 €.DTBO") is None
    assert volume.find("GRÖßER ALS 8.3 €.DTBO") == FileInfo(path="größer als 8.3 €.dtbo", size=5000)


@pytest.mark.parametrize(
    "path",
    ["", "/", "overlays", "overlays/", "config.txt/x", "nothing", "overlays/../config.txt", "./config.txt", "x/" * 99],
)
def test_what_is_no_file_is_not_found(path: str) -> None:
    volume = FatVolume(PatchedDevice(seed_volume(16)))

    assert volume.find(path) is None
    with pytest.raises(Damaged, match="there is no such file"):
        volume.read_file(path, 100)


def test_an_alias_finds_its_file() -> None:
    volume = FatVolume(PatchedDevice(seed_volume(16)))

    assert volume.find("alongn~1.dtb") == FileInfo(path="a long name, with spaces.dtb", size=1200)


def test_extents_are_those_that_mtools_shows(volume_path: Path) -> None:
    volume = _open(volume_path)

    for path in ["Kernel8.img", "config.txt", "overlays/an-overlay-7.dtbo", "no_extension"]:
        shown = re.findall(r"<(\d+)(?:-(\d+))?>", mtools("mshowfat", "-i", volume_path, f"::/{path}"))
        assert volume.extents(path) == tuple((int(first), int(last or first) - int(first) + 1) for first, last in shown)


def test_free_clusters_are_those_that_fsck_leaves_unused(volume_path: Path) -> None:
    volume = _open(volume_path)

    report = subprocess.run(["fsck.vfat", "-n", volume_path], capture_output=True, text=True, check=True).stdout
    match = re.search(r"(\d+)/(\d+) clusters", report)
    assert match
    assert volume.free_clusters() == int(match[2]) - int(match[1])
    assert volume.geometry.cluster_count == int(match[2])


def test_held_accounts_for_every_used_cluster(volume_path: Path, remaining: dict[str, bytes]) -> None:
    volume = _open(volume_path)
    held = volume.held()

    used = sum(count for item in (*held.files, *held.directories) for _, count in item.extents)
    assert used == volume.geometry.cluster_count - volume.free_clusters()
    assert {file.path: file.size for file in held.files} == {path: len(data) for path, data in remaining.items()}
    assert {directory.path for directory in held.directories} == {
        "", "overlays", "overlays/deep", "overlays/deep/er", "overlays/deep/er/and", "overlays/deep/er/and/deeper"
    }  # fmt: skip


def test_one_small_file_of_a_large_volume_costs_a_few_sectors(tmp_path: Path) -> None:
    path = tmp_path / "slot.img"
    make_volume(path, {"config.txt": b"x" * 900}, 256 * MIB, "-F", "32", "-s", "1")
    device = _FileDevice(path)

    assert FatVolume(device).read_file("config.txt", 4096) == b"x" * 900
    assert device.reads <= 5
    assert device.bytes_read <= 16384


def test_files_that_lie_behind_each_other_are_read_together(tmp_path: Path) -> None:
    files = {f"overlay{number:03}.dtb": bytes([number]) * (500 + 11 * number) for number in range(200)}
    path = tmp_path / "slot.img"
    make_volume(path, files, 40 * MIB, "-F", "32", "-s", "1")
    device = _FileDevice(path)
    volume = FatVolume(device)
    volume.held()
    device.reads = device.bytes_read = 0

    assert {file.path: b"".join(volume.chunks(file.path)) for file in volume.files()} == files
    assert device.reads <= 10
    assert device.bytes_read <= sum(map(len, files.values())) + 3 * MIB


def test_reading_ahead_stays_inside_of_the_volume() -> None:
    crafted = Crafted()
    device = PatchedDevice(crafted.image)
    first = FatVolume(device).geometry.last_cluster - 3
    for cluster in range(first, first + 4):
        crafted.chain(cluster)
        crafted.write(cluster, bytes([cluster & 0xFF]) * 512)
    crafted.root(*(short_entry(b"FILE%d      " % n, cluster=first + n, size=512) for n in range(4)))
    volume = FatVolume(device)

    for n in range(4):
        assert b"".join(volume.chunks(f"FILE{n}")) == bytes([first + n & 0xFF]) * 512


def test_a_fragmented_file_is_read_in_chain_order() -> None:
    crafted = Crafted()
    chain = [9, 4, 5, 6, 20, 3]
    crafted.chain(*chain)
    for number, cluster in enumerate(chain):
        crafted.write(cluster, bytes([number]) * 512)
    crafted.root(short_entry(b"FILE       ", cluster=9, size=2700))
    volume = FatVolume(PatchedDevice(crafted.image))

    assert volume.read_file("FILE", 2700) == b"".join(bytes([number]) * 512 for number in range(6))[:2700]
    assert volume.extents("file") == ((9, 1), (4, 3), (20, 1), (3, 1))
    assert [len(chunk) for chunk in volume.chunks("file")] == [512, 1536, 512, 140]


@given(st.sampled_from([12, 16, 32]), st.data())
@settings(max_examples=60, deadline=None)
def test_any_chain_is_followed_in_its_order(fat_type: int, data: st.DataObject) -> None:
    starts = data.draw(st.lists(st.integers(1, 38), min_size=1, max_size=12, unique=True))
    runs = [(50 * start, data.draw(st.integers(1, 49))) for start in starts]  # never adjacent
    crafted = Crafted(fat_type)
    crafted.chain(*(cluster for first, count in runs for cluster in range(first, first + count)))
    crafted.root(short_entry(b"FILE       ", cluster=runs[0][0], size=1))
    volume = FatVolume(PatchedDevice(crafted.image))

    assert volume.extents("FILE") == tuple(runs)
    root_clusters = 1 if fat_type == 32 else 0
    used = sum(count for _, count in runs) + root_clusters
    assert volume.free_clusters() == volume.geometry.cluster_count - used


@pytest.mark.parametrize("fat_type", [12, 16, 32])
def test_a_run_across_pages_of_the_fat_stays_one_extent(fat_type: int) -> None:
    crafted = Crafted(fat_type)
    last = {12: 1900, 16: 7000, 32: 60000}[fat_type]
    crafted.chain(*range(5, last + 1))
    crafted.root(short_entry(b"FILE       ", cluster=5, size=(last - 4) * 512))
    volume = FatVolume(PatchedDevice(crafted.image))

    assert volume.extents("FILE") == ((5, last - 4),)
    assert [len(chunk) for chunk in volume.chunks("FILE")][:-1] == [MIB] * ((last - 4) * 512 // MIB)


def test_reading_stops_at_the_limit() -> None:
    volume = FatVolume(PatchedDevice(seed_volume(16)))

    assert volume.read_file("config.txt", 12) == SEED_TREE["config.txt"]
    with pytest.raises(Damaged, match=r"cannot read config.txt on card.img partition 2: 12 bytes found, at most 11"):
        volume.read_file("config.txt", 11)


def test_a_boot_sector_from_memory_replaces_the_zeroed_one() -> None:
    image = seed_volume(32)
    zeroed = PatchedDevice(image, [(0, bytes(512))])

    with pytest.raises(Damaged, match=r"cannot read the volume on card.img partition 2: the boot sector is empty"):
        FatVolume(zeroed)
    assert FatVolume(zeroed, boot_sector=image[:512]).read_file("config.txt", 99) == SEED_TREE["config.txt"]


@pytest.mark.parametrize(
    ("fat_type", "patch", "dirty"),
    [
        (12, (0x25, b"\0"), False),
        (12, (0x25, b"\1"), True),
        (16, (0x25, b"\1"), True),
        (16, None, True),
        (32, (0x41, b"\0"), False),
        (32, (0x41, b"\1"), True),
        (32, None, True),
    ],
)
def test_either_mark_of_an_unclean_unmount_is_seen(fat_type: int, patch: tuple[int, bytes] | None, dirty: bool) -> None:
    crafted = Crafted(fat_type)
    if patch is None:  # the second mark: a bit in the entry of cluster 1
        crafted.link(1, {16: 0x7FFF, 32: 0x07FFFFFF}[fat_type])

    assert FatVolume(PatchedDevice(crafted.image, [patch] if patch else [])).dirty is dirty


def _names(*entries: bytes) -> list[str]:
    crafted = Crafted()
    crafted.root(*entries)
    return [file.path for file in FatVolume(PatchedDevice(crafted.image)).files()]


@pytest.mark.parametrize(
    ("raw", "flags", "name"),
    [
        (b"CONFIG  TXT", 0x00, "CONFIG.TXT"),
        (b"CONFIG  TXT", 0x08, "config.TXT"),
        (b"CONFIG  TXT", 0x10, "CONFIG.txt"),
        (b"CONFIG  TXT", 0x18, "config.txt"),
        (b"README     ", 0x18, "readme"),
        (b"A B C   D E", 0x00, "A B C.D E"),
        (b"\x05BC     TXT", 0x00, "\u03c3BC.TXT"),
        (b"PADDED\xff\xffTX\xff", 0x00, "PADDED\xa0\xa0.TX\xa0"),
        (b"\x8eRGER   TXT", 0x08, "ärger.TXT"),
    ],
)
def test_short_names_are_shown_in_the_case_of_their_flags(raw: bytes, flags: int, name: str) -> None:
    assert _names(short_entry(raw, flags=flags)) == [name]


SHORT = b"LONGNA~1TXT"
LONG = long_entries("long name with three entries.txt", SHORT)


def test_a_long_name_wins_over_the_short_one_and_its_flags() -> None:
    assert _names(*LONG, short_entry(SHORT, flags=0x18)) == ["long name with three entries.txt"]


def test_a_long_name_before_a_kanji_mark_has_the_checksum_of_the_stored_bytes() -> None:
    raw = b"\x05AME~1  TXT"

    assert _names(*long_entries("a long name.txt", raw), short_entry(raw)) == ["a long name.txt"]


@pytest.mark.parametrize(
    "entries",
    [
        LONG[1:],
        LONG[:-1],
        [LONG[0], LONG[2], LONG[1]],
        [*LONG, b"\xe5" + bytes(31)],
        [*LONG, short_entry(b"LABEL      ", attributes=0x08)],
        long_entries("long name with three entries.txt", b"OTHER   TXT"),
        long_entries("\ud800 lone surrogate", SHORT),
        long_entries("x" * 256, SHORT),
        long_entries("padding without its NUL" + "\uffff" * 3, SHORT),
        [LONG[0], LONG[1], LONG[1], LONG[2]],
        [bytes([0x40]) + LONG[2][1:]],
        [LONG[0][:26] + b"\1\0" + LONG[0][28:], *LONG[1:]],
    ],
    ids=[
        "no-first", "no-last", "disordered", "deleted", "label-between", "checksum", "surrogate", "too-long", "no-nul",
        "twice", "number-0", "with-cluster",
    ],
)  # fmt: skip
def test_a_long_name_that_is_not_whole_is_ignored(entries: list[bytes]) -> None:
    assert _names(*entries, short_entry(SHORT)) == ["LONGNA~1.TXT"]


def test_the_end_mark_hides_what_was_deleted_behind_it() -> None:
    assert _names(short_entry(b"FIRST      "), bytes(32), short_entry(b"ZOMBIE     ")) == ["FIRST"]


def test_two_files_that_answer_to_one_name_are_not_guessed_between() -> None:
    crafted = Crafted()
    crafted.root(short_entry(b"CONFIG  TXT", flags=0x18), short_entry(b"CONFIG  TXT"), short_entry(b"OTHER      "))
    volume = FatVolume(PatchedDevice(crafted.image))

    assert volume.find("other") == FileInfo(path="OTHER", size=0)
    with pytest.raises(Damaged, match="2 entries of its directory answer to this name"):
        volume.find("config.txt")
    with pytest.raises(Damaged, match=r"two of its entries are named 'CONFIG.TXT'"):
        volume.held()


def test_an_alias_that_is_another_files_name_is_not_guessed_between() -> None:
    crafted = Crafted()  # as pyfatfs writes foo.dtbo and foo.dtb
    crafted.root(
        *long_entries("foo.dtbo", b"FOO     DTB"), short_entry(b"FOO     DTB"),
        *long_entries("foo.dtb", b"FOO~1   DTB"), short_entry(b"FOO~1   DTB"),
    )  # fmt: skip
    volume = FatVolume(PatchedDevice(crafted.image))

    assert volume.find("foo.dtbo") == FileInfo(path="foo.dtbo", size=0)
    with pytest.raises(Damaged, match="answer to this name"):
        volume.find("foo.dtb")


LEGAL = st.characters(exclude_categories=("Cs", "Cc"), exclude_characters='/\\"*:<>?|\uffff')


@given(st.lists(st.text(LEGAL, min_size=1, max_size=120), min_size=1, max_size=8), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_any_legal_long_names_are_read_back(names: list[str], random_: random.Random) -> None:
    entries: list[bytes] = []
    wanted = []
    for number, name in enumerate(names):
        raw = f"N{number:07}TXT".encode()
        if name in {".", ".."} or len(name.encode("utf-16-le")) > 510:
            name = "replaced"
        entries += [b"\xe5" + random_.randbytes(31) for _ in range(random_.randrange(3))]
        entries += [*long_entries(name, raw), short_entry(raw)]
        wanted.append(name)

    assert _names(*entries) == wanted


def test_a_check_finds_one_flipped_bit_a_missing_an_extra_and_a_renamed_file() -> None:
    image = seed_volume(16)
    at = image.index(SEED_TREE["overlays/README"][:64]) + 5
    device = PatchedDevice(image, [(at, bytes([image[at] ^ 4]))])
    expected = {path: hashlib.sha256(content).hexdigest() for path, content in SEED_TREE.items()}

    assert check_files(FatVolume(PatchedDevice(image)), expected) == CheckReport()
    assert check_files(FatVolume(device), expected) == CheckReport(changed=("overlays/README",))
    expected["start4.elf"] = "0" * 64
    expected["Config.txt"] = expected.pop("config.txt")
    assert check_files(FatVolume(PatchedDevice(image)), expected) == CheckReport(
        missing=("Config.txt", "start4.elf"), extra=("config.txt",)
    )


def test_progress_ends_with_every_byte_done() -> None:
    calls: list[tuple[int, int, str]] = []
    digests(FatVolume(PatchedDevice(seed_volume(32))), lambda *call: calls.append(call))

    total = sum(len(content) for content in SEED_TREE.values())
    assert {path for _, _, path in calls} == set(SEED_TREE)
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)
    assert calls[-1][:2] == (total, total)


def test_only_the_codecs_of_pyfatfs_are_imported() -> None:
    code = (
        "import sys, abboot.fat.read\n"
        "unwanted = {'fs', 'pkg_resources', 'six', 'pyfatfs.PyFat', 'pyfatfs.PyFatFS', 'pyfatfs.FatIO'}\n"
        "print(sorted(unwanted & set(sys.modules)), 'pyfatfs' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "[] True\n"
