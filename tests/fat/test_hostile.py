"""A volume that lies ends in one ``Damaged``: no other exception, no loop, no read outside, no pile of memory (G10)."""

from __future__ import annotations

import contextlib
import struct
import time
import tracemalloc
from itertools import pairwise

import pytest

from abboot.errors import Damaged
from abboot.fat.read import FatVolume
from abboot.fat.volume import MAX_DIRECTORIES_SIZE
from abboot.simulator.firmware_fat import FirmwareFat, NotReadable
from tests.fat.mutate import (
    SEED_TREE,
    Crafted,
    Patch,
    PatchedDevice,
    long_entries,
    mutations,
    seed_volume,
    short_entry,
)


def _read_everything(device: PatchedDevice) -> dict[str, bytes] | Damaged:
    """By path, if the volume is consistent; else what it says."""
    try:
        volume = FatVolume(device)
        assert volume.free_clusters() <= volume.geometry.cluster_count
        assert volume.dirty in (True, False)
        for file in volume.files()[:20]:
            with contextlib.suppress(Damaged):
                assert sum(len(chunk) for chunk in volume.chunks(file.path)) == file.size
        return {file.path: volume.read_file(file.path, file.size) for file in volume.held().files}
    except Damaged as error:
        return error


def _as_the_firmware_reads(device: PatchedDevice) -> FirmwareFat | None:
    try:
        volume = FirmwareFat(device.read, device.size_bytes)
        for path in sorted(volume.paths())[:20]:
            volume.read_file(path, device.size_bytes)
    except NotReadable:
        return None
    return volume


@pytest.mark.parametrize(("fat_type", "count"), [(12, 500), (16, 400), (32, 250)])
def test_a_mutated_volume_is_read_or_refused(fat_type: int, count: int) -> None:
    image = seed_volume(fat_type)
    verdicts = {"whole": 0, "damaged": 0}
    for seed, patches in mutations(fat_type, count):
        device = PatchedDevice(image, patches)
        started = time.process_time()
        content = _read_everything(device)
        firmware = _as_the_firmware_reads(device)

        assert time.process_time() - started < 2, seed
        assert device.bytes_read < 4 * len(image) + 4 * MAX_DIRECTORIES_SIZE, seed
        if isinstance(content, Damaged):
            verdicts["damaged"] += 1
            assert content.message.startswith("cannot read ")
            assert device.name in content.message
            assert content.message.isprintable()
            continue
        verdicts["whole"] += 1
        # What the strict reader calls consistent, the lenient one reads the same: they share no code.
        for path, data in content.items():
            assert firmware is not None, seed
            assert firmware.read_file(path, len(data)) == data, (seed, path)

    # The corpus is worth something: it reaches both ends.
    assert min(verdicts.values()) > count // 10


@pytest.mark.parametrize("fat_type", [12, 16, 32])
def test_the_seed_of_the_corpus_is_whole(fat_type: int) -> None:
    device = PatchedDevice(seed_volume(fat_type))

    assert _read_everything(device) == SEED_TREE
    firmware = _as_the_firmware_reads(device)
    assert firmware is not None
    assert firmware.paths() == {path.lower() for path in SEED_TREE}


def _one_file(crafted: Crafted, size: int, cluster: int = 5) -> PatchedDevice:
    crafted.root(short_entry(b"FILE       ", cluster=cluster, size=size))
    return PatchedDevice(crafted.image)


@pytest.mark.parametrize("fat_type", [12, 16, 32])
@pytest.mark.parametrize("loop", [[5, 5], [5, 6, 7, 5], [5, 9, 7, 9], [5, 6, 7, 6]])
def test_a_chain_that_is_a_loop_ends(fat_type: int, loop: list[int]) -> None:
    crafted = Crafted(fat_type)
    for cluster, following in pairwise(loop):
        crafted.link(cluster, following)
    device = _one_file(crafted, 1000)

    for method in ("chunks", "extents"):
        with pytest.raises(
            Damaged, match=r"cannot read FILE on card.img partition 2: its chain of clusters is a loop$"
        ):
            getattr(FatVolume(device), method)("FILE")
    with pytest.raises(Damaged, match="loop"):
        FatVolume(device).held()
    firmware = _as_the_firmware_reads(device)
    assert firmware is not None
    assert len(firmware.read_file("file", 9999) or b"") == 1000


@pytest.mark.parametrize("fat_type", [12, 16, 32])
@pytest.mark.parametrize("following", [0, 1, 60000, 0xFFF0, "bad"])
def test_a_chain_that_leaves_the_volume_is_refused(fat_type: int, following: int | str) -> None:
    crafted = Crafted(fat_type)
    bad = {12: 0xFF7, 16: 0xFFF7, 32: 0x0FFFFFF7}[fat_type]
    value = bad if following == "bad" else int(following) & (0xFFF if fat_type == 12 else 0xFFFF)
    if fat_type == 32 and value > 1 and following != "bad":
        value += 0x10000
    crafted.link(5, 6)
    crafted.link(6, value)
    device = _one_file(crafted, 2000)

    with pytest.raises(Damaged, match=rf"its chain goes from cluster 6 to {value:#x}"):
        FatVolume(device).read_file("FILE", 2000)
    firmware = _as_the_firmware_reads(device)
    assert firmware is not None
    assert len(firmware.read_file("file", 9999) or b"") == 1024


@pytest.mark.parametrize("cluster", [0, 1, 9000, 0xFFFF])
def test_a_file_that_begins_outside_the_volume_is_refused(cluster: int) -> None:
    device = _one_file(Crafted(), 100, cluster)

    with pytest.raises(Damaged, match=rf"its chain begins at cluster {cluster}, the volume has clusters 2 to"):
        FatVolume(device).read_file("FILE", 2000)


def test_the_upper_half_of_a_cluster_number_counts_on_fat32_only() -> None:
    for fat_type, readable in ((16, True), (32, False)):
        crafted = Crafted(fat_type)
        crafted.chain(5)
        device = _one_file(crafted, 100, 5 + (0x1234 << 16))
        if readable:
            assert FatVolume(device).read_file("FILE", 100) == bytes(100)
        else:
            with pytest.raises(Damaged, match="its chain begins at cluster"):
                FatVolume(device).read_file("FILE", 100)


def test_a_file_longer_than_its_chain_is_refused() -> None:
    crafted = Crafted()
    crafted.chain(5, 6)

    with pytest.raises(Damaged, match="its size is 4294967295 bytes, its chain holds 1024"):
        FatVolume(_one_file(crafted, 0xFFFFFFFF)).chunks("FILE")


def test_a_chain_longer_than_its_file_is_space_set_aside() -> None:
    crafted = Crafted()
    crafted.chain(5, 6, 7)
    volume = FatVolume(_one_file(crafted, 0))

    assert volume.read_file("FILE", 10) == b""
    assert volume.held().files[0].extents == ((5, 3),)


def test_two_files_that_share_a_cluster_are_refused_by_the_whole_volume_check() -> None:
    crafted = Crafted()
    crafted.chain(5, 6, 7)
    crafted.link(9, 6)
    crafted.root(
        short_entry(b"ONE        ", cluster=5, size=1536),
        short_entry(b"TWO        ", cluster=9, size=1536),
    )
    volume = FatVolume(PatchedDevice(crafted.image))

    assert len(volume.read_file("TWO", 2000)) == 1536
    with pytest.raises(Damaged, match="it shares cluster 6 with"):
        volume.held()


def test_a_long_chain_that_many_files_share_is_not_followed_for_each_of_them() -> None:
    crafted = Crafted()
    crafted.chain(*range(5, 7005))
    crafted.root(*(short_entry(b"F%07d   " % n, cluster=5, size=512) for n in range(500)))

    with pytest.raises(Damaged, match=r"cannot read F0000001 on .*: up to it 14000 clusters are taken, the volume has"):
        FatVolume(PatchedDevice(crafted.image)).held()


def test_files_that_say_more_than_the_volume_holds_are_not_all_read() -> None:
    crafted = Crafted()
    crafted.chain(5)
    crafted.root(*(short_entry(b"F%07d   " % n, cluster=5, size=0xFFFFFFFF) for n in range(500)))
    volume = FatVolume(PatchedDevice(crafted.image))

    with pytest.raises(Damaged, match=r"its files say that they have 2147483647500 bytes, it has room for 4\d{6}$"):
        volume.files()
    assert volume.find("F0000007") is not None


def test_a_file_that_lies_on_a_directory_is_refused_by_the_whole_volume_check() -> None:
    crafted = Crafted(32)
    crafted.root(short_entry(b"FILE       ", cluster=2, size=100))

    with pytest.raises(Damaged, match="it shares cluster 2 with"):
        FatVolume(PatchedDevice(crafted.image)).held()


@pytest.mark.parametrize("fat_type", [12, 16, 32])
def test_a_directory_that_contains_itself_is_refused(fat_type: int) -> None:
    crafted = Crafted(fat_type)
    crafted.chain(5)
    crafted.root(short_entry(b"LOOP       ", attributes=0x10, cluster=5))
    crafted.write(5, short_entry(b"LOOP       ", attributes=0x10, cluster=5) + short_entry(b"FILE       "))
    device = PatchedDevice(crafted.image)

    with pytest.raises(Damaged, match=r"cannot read LOOP/LOOP on .*: this directory is reached twice"):
        FatVolume(device).files()
    assert FatVolume(device).find("loop/" * 20 + "file") is not None
    assert FatVolume(device).find("loop/" * 40 + "file") is None
    firmware = _as_the_firmware_reads(device)
    assert firmware is not None
    assert firmware.paths() == {"loop/file"}


def test_a_root_directory_that_is_a_loop_is_refused() -> None:
    crafted = Crafted(32)
    crafted.link(2, 2)
    device = PatchedDevice(crafted.image)

    for question in (FatVolume.files, FatVolume.held, lambda volume: volume.find("x")):
        with pytest.raises(Damaged, match=r"cannot read / on card.img partition 2: its chain of clusters is a loop$"):
            question(FatVolume(device))
    assert _as_the_firmware_reads(device) is not None


@pytest.mark.parametrize("cluster", [0, 1, 60000])
def test_a_directory_outside_the_volume_is_refused(cluster: int) -> None:
    crafted = Crafted()
    crafted.root(short_entry(b"DIR        ", attributes=0x10, cluster=cluster))

    with pytest.raises(Damaged, match=rf"cannot read DIR on .*: its chain begins at cluster {cluster}"):
        FatVolume(PatchedDevice(crafted.image)).files()


def test_directories_deeper_than_32_are_refused() -> None:
    crafted = Crafted()
    crafted.root(short_entry(b"D          ", attributes=0x10, cluster=5))
    for cluster in range(5, 60):
        crafted.chain(cluster)
        crafted.write(cluster, short_entry(b"D          ", attributes=0x10, cluster=cluster + 1))

    with pytest.raises(Damaged, match="it is more than 32 directories deep"):
        FatVolume(PatchedDevice(crafted.image)).files()


def test_a_directory_of_more_than_65536_entries_is_refused() -> None:
    crafted = Crafted()
    crafted.chain(*range(5, 5 + 4097))
    crafted.root(short_entry(b"DIR        ", attributes=0x10, cluster=5))

    with pytest.raises(Damaged, match="a directory of 2097664 bytes found, 2097152 at most"):
        FatVolume(PatchedDevice(crafted.image)).files()


def test_directories_that_share_one_long_tail_cost_bounded_work() -> None:
    crafted = Crafted()
    tail = range(1000, 4900)
    crafted.chain(*tail)
    crafted.root(*(short_entry(b"D%07d   " % n, attributes=0x10, cluster=100 + n) for n in range(200)))
    for n in range(200):
        crafted.link(100 + n, tail[0])
        crafted.write(100 + n, b"\xe5" * 512)
    for cluster in tail:
        crafted.write(cluster, b"\xe5" * 512)
    device = PatchedDevice(crafted.image)

    with pytest.raises(Damaged, match="bytes of directories found"):
        FatVolume(device).files()
    assert device.bytes_read < 2 * MAX_DIRECTORIES_SIZE
    device = PatchedDevice(crafted.image)
    assert _as_the_firmware_reads(device) is not None
    assert device.bytes_read < 2 * MAX_DIRECTORIES_SIZE


@pytest.mark.parametrize("name", ["a/b", "a\\b", "..", ".", "line\nbreak", "esc\x1b[2J", "del\x7f"])
def test_a_name_that_would_mislead_is_refused_and_not_printed_raw(name: str) -> None:
    crafted = Crafted()
    crafted.root(*long_entries(name, b"SHORT      "), short_entry(b"SHORT      "))

    with pytest.raises(Damaged, match=r"cannot read / on card.img partition 2: its entry '.*' has ") as caught:
        FatVolume(PatchedDevice(crafted.image)).files()
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "raw", [b"           ", b"A/B        ", b"A\0B        ", b"..      X/ ", b".          ", b"A       TX\x1f"]
)
def test_a_short_name_that_would_mislead_is_refused(raw: bytes) -> None:
    crafted = Crafted()
    crafted.root(short_entry(raw))

    with pytest.raises(Damaged, match="its entry"):
        FatVolume(PatchedDevice(crafted.image)).files()


def test_a_directory_of_nothing_but_long_name_parts_is_empty() -> None:
    crafted = Crafted()
    crafted.root(*(bytes([n % 255 + 1]) + b"\xff" * 10 + b"\x0f" + b"\xff" * 20 for n in range(512) if n % 255 != 0xE4))
    device = PatchedDevice(crafted.image)

    assert FatVolume(device).files() == ()
    firmware = _as_the_firmware_reads(device)
    assert firmware is not None
    assert firmware.paths() == frozenset()


HEADER_LIES: dict[str, tuple[int, list[Patch]]] = {
    "255 FATs": (16, [(16, b"\xff")]),
    "no FAT": (16, [(16, b"\0")]),
    "huge reserved": (16, [(14, b"\xff\xff")]),
    "nothing reserved": (16, [(14, b"\0\0")]),
    "sectors of 0 bytes": (16, [(11, b"\0\0")]),
    "sectors of 65535 bytes": (16, [(11, b"\xff\xff")]),
    "clusters of 0 sectors": (16, [(13, b"\0")]),
    "clusters of 3 sectors": (16, [(13, b"\3")]),
    "more sectors than there are": (16, [(19, b"\xff\xff")]),
    "four billion sectors": (32, [(32, b"\xff\xff\xff\xff")]),
    "no sectors": (32, [(32, b"\0\0\0\0")]),
    "a FAT of one sector": (16, [(22, b"\1\0")]),
    "a FAT of four billion sectors": (32, [(36, b"\xff\xff\xff\xff")]),
    "65535 root entries": (16, [(17, b"\xff\xff")]),
    "root entries on FAT32": (32, [(17, b"\0\2")]),
    "root cluster 0": (32, [(44, b"\0\0\0\0")]),
    "root cluster far outside": (32, [(44, b"\xff\xff\xff\x0f")]),
    "no signature": (16, [(510, b"\0\0")]),
    "nothing": (32, [(0, bytes(512))]),
    "0xff": (12, [(0, b"\xff" * 512)]),
}


@pytest.mark.parametrize("lie", HEADER_LIES)
def test_a_header_that_lies_is_refused(lie: str) -> None:
    fat_type, patches = HEADER_LIES[lie]
    device = PatchedDevice(seed_volume(fat_type), patches)

    with pytest.raises(Damaged, match=r"cannot read the volume on card.img partition 2: "):
        FatVolume(device)
    assert device.bytes_read == 512
    _as_the_firmware_reads(device)


@pytest.mark.parametrize("length", [0, 1, 511, 512, 4096])
def test_a_partition_that_is_cut_short_is_refused(length: int) -> None:
    device = PatchedDevice(seed_volume(16)[:length])

    with pytest.raises(Damaged, match=r"cannot read the volume on card.img partition 2: "):
        FatVolume(device)
    _as_the_firmware_reads(device)


def test_memory_stays_bounded_however_fragmented_the_volume_is() -> None:
    crafted = Crafted(32)
    evens = range(4, 66000, 2)
    crafted.chain(*evens)
    device = _one_file(crafted, len(evens) * 512, 4)
    tracemalloc.start()
    try:
        volume = FatVolume(device)
        assert len(volume.held().files[0].extents) == len(evens)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 16 << 20


def test_a_fat32_entry_with_its_reserved_bits_set_is_the_same_entry() -> None:
    crafted = Crafted(32)
    crafted.chain(5, 6)
    device = _one_file(crafted, 1000)
    free = FatVolume(device).free_clusters()
    for cluster in (5, 6, 7):  # the last one is free
        at = crafted.fat[0] + 4 * cluster
        (entry,) = struct.unpack_from("<I", crafted.image, at)
        struct.pack_into("<I", crafted.image, at, entry | 0xF0000000)

    volume = FatVolume(device)
    assert volume.extents("FILE") == ((5, 2),)
    assert volume.free_clusters() == free
