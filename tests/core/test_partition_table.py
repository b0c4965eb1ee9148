"""Partition tables are read as sfdisk and sgdisk see them, and nothing that the bytes say gets past a bound."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abboot.core.partition_table import Partition, PartitionTable, format_guid, read_partition_table
from abboot.core.words import TableKind
from abboot.errors import Damaged

MIB = 1 << 20
BASIC_DATA = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"


def read_bytes(image: bytes | bytearray, block_size: int = 512, *, size: int | None = None) -> PartitionTable:
    """Read a table from memory; reads outside the disk or beyond reason fail the test."""
    total = len(image) if size is None else size
    seen = 0

    def read(offset: int, length: int) -> bytes:
        nonlocal seen
        assert 0 <= offset <= offset + length <= total
        seen += length
        assert seen < 4 * MIB
        return bytes(image[offset : offset + length]).ljust(length, b"\0")

    return read_partition_table(read, total, block_size, name="card.img")


def read_file(path: Path) -> PartitionTable:
    with path.open("rb") as file:
        return read_partition_table(
            lambda offset, length: os.pread(file.fileno(), length, offset), path.stat().st_size, name=path.name
        )


def mbr(*entries: tuple[int, int, int, int], disk_id: int = 0x1234ABCD) -> bytearray:
    """An MBR from ``(flag, type, start, count)`` rows."""
    sector = bytearray(512)
    struct.pack_into("<I", sector, 440, disk_id)
    for index, (flag, type_id, start, count) in enumerate(entries):
        struct.pack_into("<B3xB3xII", sector, 446 + 16 * index, flag, type_id, start, count)
    sector[510:512] = b"\x55\xaa"
    return sector


def gpt(
    *partitions: tuple[int, int],
    blocks: int = 4096,
    block_size: int = 512,
    array_block: int = 2,
    entry_size: int = 128,
) -> bytearray:
    """A disk with a GPT and its backup; partitions are ``(first, last)`` blocks."""
    image = bytearray(blocks * block_size)
    image[:512] = mbr((0, 0xEE, 1, blocks - 1))
    array = bytearray(128 * entry_size)
    for index, (first, last) in enumerate(partitions):
        entry = bytes.fromhex("a2a0d0ebe5b9334487c068b6b72699c7") + bytes([index + 1]) * 16
        entry += struct.pack("<QQQ", first, last, 0) + f"part {index + 1}".encode("utf-16-le").ljust(72, b"\0")
        array[index * entry_size : index * entry_size + len(entry)] = entry
    array_blocks = -(-len(array) // block_size)
    for block, other, array_at in (
        (1, blocks - 1, array_block),
        (blocks - 1, 1, blocks - 1 - array_blocks),
    ):
        header = bytearray(block_size)
        struct.pack_into(
            "<8sIIIIQQQQ16sQIII", header, 0, b"EFI PART", 0x10000, 92, 0, 0, block, other, 34, blocks - 34,
            bytes(range(16)), array_at, 128, entry_size, zlib.crc32(array),
        )  # fmt: skip
        struct.pack_into("<I", header, 16, zlib.crc32(header[:92]))
        image[block * block_size : (block + 1) * block_size] = header
        image[array_at * block_size : array_at * block_size + len(array)] = array
    return image


def sfdisk(path: Path, script: str) -> None:
    subprocess.run(
        ["sfdisk", "--quiet", "--no-tell-kernel", str(path)], input=script, text=True, check=True, capture_output=True
    )


def judged(path: Path) -> dict[str, Any]:
    output = subprocess.run(["sfdisk", "-J", str(path)], check=True, capture_output=True, text=True).stdout
    table: dict[str, Any] = json.loads(output)["partitiontable"]
    return table


def as_sfdisk(table: PartitionTable) -> list[tuple[int, int, str]]:
    return [
        (part.start // 512, part.size // 512, part.type_id.removeprefix("0x0").removeprefix("0x"))
        for part in table.partitions
    ]


def judged_rows(path: Path) -> list[tuple[int, int, str]]:
    return [(row["start"], row["size"], row["type"]) for row in judged(path)["partitions"]]


class TestMbr:
    def test_numbers_offsets_types_and_id_are_read(self) -> None:
        table = read_bytes(mbr((0, 0x0E, 8, 8), (0x80, 0x0C, 16, 8), (0, 0, 0, 0), (0, 0x83, 24, 8)), size=32 * 512)

        assert table == PartitionTable(
            kind=TableKind.MBR,
            disk_id="1234abcd",
            partitions=(
                Partition(number=1, start=8 * 512, size=8 * 512, type_id="0x0e"),
                Partition(number=2, start=16 * 512, size=8 * 512, type_id="0x0c"),
                Partition(number=4, start=24 * 512, size=8 * 512, type_id="0x83"),
            ),
        )
        assert [part.is_fat for part in table.partitions] == [True, True, False]
        assert table.get(4) == table.partitions[2]
        assert table.get(3) is None

    def test_blocks_of_4096_bytes_count_in_4096_bytes(self) -> None:
        table = read_bytes(mbr((0, 0x0C, 8, 8)), block_size=4096, size=16 * 4096)

        assert (table.partitions[0].start, table.partitions[0].size) == (8 * 4096, 8 * 4096)

    @pytest.mark.parametrize("type_id", [0x01, 0x04, 0x06, 0x0B, 0x0C, 0x0E, 0xEF])
    def test_fat_type_ids_are_fat(self, type_id: int) -> None:
        assert read_bytes(mbr((0, type_id, 8, 8)), size=16 * 512).partitions[0].is_fat

    @pytest.mark.parametrize("type_id", [0x07, 0x82, 0x83, 0x05, 0x0F, 0xDA])
    def test_other_type_ids_are_not(self, type_id: int) -> None:
        assert not read_bytes(mbr((0, type_id, 8, 8)), size=16 * 512).partitions[0].is_fat

    @pytest.mark.needs("sfdisk")
    def test_logical_partitions_are_numbered_as_sfdisk_does(self, tmp_path: Path) -> None:
        card = tmp_path / "card.img"
        card.touch()
        os.truncate(card, 64 * MIB)
        sfdisk(
            card,
            "label: dos\nlabel-id: 0xfeedf00d\n"
            "start=2048, size=4096, type=e\nstart=8192, size=4096, type=c\nstart=16384, size=4096, type=c\n"
            "start=24576, size=65536, type=f\nstart=26624, size=4096, type=83\nstart=34816, size=4096, type=83\n"
            "start=45056, size=8192, type=c\n",
        )

        table = read_file(card)

        assert as_sfdisk(table) == judged_rows(card)
        assert [part.number for part in table.partitions] == [1, 2, 3, 4, 5, 6, 7]
        assert table.disk_id == "feedf00d"
        assert table.partitions[3].is_extended
        assert table.notes == ()

    def test_a_circle_of_logical_partitions_ends_with_a_note(self) -> None:
        image = bytearray(200 * 512)
        image[:512] = mbr((0, 0x0C, 8, 8), (0, 0x05, 100, 100))
        image[100 * 512 : 101 * 512] = mbr((0, 0x83, 1, 4), (0, 0x05, 50, 50))
        image[150 * 512 : 151 * 512] = mbr((0, 0x83, 1, 4), (0, 0x05, 0, 50))

        table = read_bytes(image)

        assert [part.number for part in table.partitions] == [1, 2, 5, 6]
        assert table.notes == ("the chain of logical partitions runs in a circle: those behind it are not listed",)

    def test_a_chain_without_end_is_cut_at_64(self) -> None:
        image = bytearray(2000 * 512)
        image[:512] = mbr((0, 0x0C, 8, 8), (0, 0x05, 100, 1900))
        for link in range(900):
            at = (100 + 2 * link) * 512
            image[at : at + 512] = mbr((0, 0x83, 1, 1), (0, 0x05, 2 * (link + 1), 2))

        table = read_bytes(image)

        assert len(table.partitions) == 2 + 64
        assert "more than 64 logical partitions" in table.notes[0]

    @pytest.mark.parametrize(
        ("link", "note"),
        [
            (mbr((0, 0x83, 1, 4), (0, 0x05, 5000, 50)), "leads outside partition 2"),
            (mbr((0, 0x83, 1, 4), (0, 0x05, 40, 50)), "breaks at byte 71680"),
            (mbr((0, 0x83, 1, 4000)), "logical partition 5 lies outside partition 2"),
        ],
    )
    def test_a_broken_chain_hides_no_boot_partition(self, link: bytes, note: str) -> None:
        image = bytearray(200 * 512)
        image[:512] = mbr((0, 0x0C, 8, 8), (0, 0x05, 100, 100))
        image[100 * 512 : 101 * 512] = link

        table = read_bytes(image)

        assert table.partitions[0].number == 1
        assert note in table.notes[0]


class TestNoTable:
    @pytest.mark.parametrize(
        ("image", "found"),
        [
            (bytes(MIB), "no partition table found: the first block is empty"),
            (b"x" * MIB, "no partition table found: the first block ends in 7878, not 55aa"),
            (b"", "it has only 0 bytes"),
            (bytes(1023), "it has only 1023 bytes"),
            (bytes(mbr()).ljust(MIB, b"\0"), "the table is there, but it lists no partition"),
            (bytes(mbr((0x37, 0x0C, 8, 8))).ljust(MIB, b"\0"), "entry 1 has the boot flag 0x37"),
        ],
    )
    def test_it_says_what_is_there_instead(self, image: bytes, found: str) -> None:
        with pytest.raises(Damaged) as error:
            read_bytes(image)

        assert str(error.value).startswith("cannot read the partition table of card.img: ")
        assert found in str(error.value)

    @pytest.mark.needs("mkfs.vfat")
    @pytest.mark.parametrize("options", [(), ("-F", "32"), ("-F", "12"), ("--mbr=yes",), ("-S", "4096")])
    def test_a_fat_volume_is_not_a_disk(self, tmp_path: Path, options: tuple[str, ...]) -> None:
        volume = tmp_path / "volume.img"
        subprocess.run(["mkfs.vfat", "-C", *options, str(volume), "65536"], check=True, capture_output=True)

        with pytest.raises(Damaged, match="a FAT boot sector is where the partition table should be"):
            read_file(volume)

    def test_a_gpt_without_its_protective_mbr_is_told(self) -> None:
        image = gpt((64, 127))
        image[:512] = bytes(512)

        with pytest.raises(Damaged, match="a GPT header without its protective MBR"):
            read_bytes(image)


class TestImpossiblePartitions:
    def test_a_truncated_image_names_both_sizes(self) -> None:
        with pytest.raises(Damaged) as error:
            read_bytes(mbr((0, 0x0C, 8, 8), (0, 0x0C, 16, 100)), size=64 * 512)

        assert str(error.value) == (
            "cannot read the partition table of card.img: "
            "partition 2 ends at byte 59392, but there are only 32768 bytes"
        )
        assert "truncated" in error.value.hint

    def test_a_truncated_gpt_image_names_both_sizes(self) -> None:
        with pytest.raises(Damaged, match="partition 2 ends at byte 1024000, but there are only 524288 bytes"):
            read_bytes(gpt((64, 127), (128, 1999))[: 1024 * 512])

    def test_overlapping_partitions_are_refused(self) -> None:
        with pytest.raises(Damaged, match="partitions 2 and 1 overlap: 2 ends at byte 9216, 1 starts at byte 8704"):
            read_bytes(mbr((0, 0x0C, 17, 8), (0, 0x0C, 8, 10)), size=64 * 512)

    def test_a_partition_over_the_table_is_refused(self) -> None:
        with pytest.raises(Damaged, match="partition 1 starts at byte 0, over the table itself"):
            read_bytes(mbr((0, 0x0C, 0, 8)), size=64 * 512)

    def test_a_gpt_partition_that_ends_before_it_starts_is_refused(self) -> None:
        with pytest.raises(Damaged, match="partition 1 ends at block 63, before it starts at block 64"):
            read_bytes(gpt((64, 63)))


class TestGpt:
    @pytest.mark.needs("sgdisk", "sfdisk")
    def test_it_is_read_as_sgdisk_writes_it(self, tmp_path: Path) -> None:
        card = tmp_path / "card.img"
        card.touch()
        os.truncate(card, 64 * MIB)
        subprocess.run(
            [
                "sgdisk", "-U", "01234567-89AB-4DEF-8123-456789ABCDEF", "-n", "1:2048:4095", "-t", "1:0700",
                "-n", "3:8192:16383", "-t", "3:ef00", "-c", "3:böot", "-n", "2:4096:8191", "-t", "2:8300", str(card),
            ],
            check=True,
            capture_output=True,
        )  # fmt: skip

        table = read_file(card)

        assert as_sfdisk(table) == judged_rows(card)
        assert table.kind is TableKind.GPT
        assert table.disk_id == "01234567-89ab-4def-8123-456789abcdef"
        assert [(part.number, part.type_id, part.name, part.is_fat) for part in table.partitions] == [
            (1, BASIC_DATA, "", True),
            (2, "0FC63DAF-8483-4772-8E79-3D69D8477DE4", "", False),
            (3, ESP, "böot", True),
        ]
        assert table.notes == ()

    @pytest.mark.parametrize("block_size", [512, 4096])
    @pytest.mark.parametrize("entry_size", [128, 256])
    def test_block_and_entry_sizes(self, block_size: int, entry_size: int) -> None:
        table = read_bytes(
            gpt((200, 299), (300, 399), blocks=1024, block_size=block_size, entry_size=entry_size), block_size
        )

        assert [(part.number, part.start, part.size) for part in table.partitions] == [
            (1, 200 * block_size, 100 * block_size),
            (2, 300 * block_size, 100 * block_size),
        ]
        assert table.partitions[1].name == "part 2"
        assert table.disk_id == format_guid(bytes(range(16))) == "03020100-0504-0706-0809-0a0b0c0d0e0f"

    def test_a_name_is_one_printable_line(self) -> None:
        image = gpt((64, 100))
        image[2 * 512 + 56 : 2 * 512 + 128] = "boot\x1b[2J\n\u202eé".encode("utf-16-le").ljust(72, b"\0")
        struct.pack_into("<I", image, 512 + 88, zlib.crc32(image[2 * 512 : 34 * 512]))
        struct.pack_into("<I", image, 512 + 16, 0)
        struct.pack_into("<I", image, 512 + 16, zlib.crc32(image[512 : 512 + 92]))

        assert [part.name for part in read_bytes(image).partitions] == ["boot [2J  é"]

    def test_a_hybrid_mbr_means_gpt(self) -> None:
        image = gpt((64, 127))
        image[:512] = mbr((0, 0x0C, 64, 64), (0, 0xEE, 1, 63))

        assert read_bytes(image).kind is TableKind.GPT

    def test_an_entry_array_elsewhere_is_found_and_noted(self) -> None:
        table = read_bytes(gpt((64, 127), array_block=1000))

        assert table.partitions[0].start == 64 * 512
        assert "entries are at block 1000, not 2" in table.notes[0]
        assert "H-41" in table.notes[0]

    @pytest.mark.parametrize(
        ("offset", "why"),
        [(512, "no EFI PART signature"), (512 + 60, "checksum of the header"), (1024 + 40, "checksum of the entries")],
    )
    def test_a_damaged_first_copy_gives_way_to_the_backup(self, offset: int, why: str) -> None:
        image = gpt((64, 127))
        whole = read_bytes(image)
        image[offset] ^= 0xFF

        table = read_bytes(image)

        assert attrs.evolve(table, notes=()) == whole
        assert table.notes[0].startswith(f"the first GPT header is damaged ({why})")

    def test_two_damaged_copies_are_one_error(self) -> None:
        image = gpt((64, 127))
        image[512 + 60] ^= 1
        image[-512 + 60] ^= 1

        with pytest.raises(Damaged, match=r"damaged \(checksum of the header\), and so is the backup at block 4095"):
            read_bytes(image)

    @pytest.mark.parametrize(
        ("field", "value"), [(72, 2**63), (80, 0xFFFFFFFF), (84, 8), (84, 0xFFFFFFFF), (80, 0), (12, 3), (12, 2**31)]
    )
    def test_nonsense_with_a_right_checksum_is_still_nonsense(self, field: int, value: int) -> None:
        image = gpt((64, 127))
        for at in (512, len(image) - 512):
            struct.pack_into("<Q" if field == 72 else "<I", image, at + field, value)
            size = struct.unpack_from("<I", image, at + 12)[0]
            image[at + 16 : at + 20] = bytes(4)
            struct.pack_into("<I", image, at + 16, zlib.crc32(image[at : at + min(size, 512)]))

        with pytest.raises(Damaged):
            read_bytes(image)


@st.composite
def _sfdisk_scripts(draw: st.DrawFn) -> str:
    """Up to four partitions in any order of numbers on the disk."""
    kind = draw(st.sampled_from(["dos", "gpt"]))
    types = ["e", "c", "83", "b", "6"] if kind == "dos" else [BASIC_DATA, ESP, "0FC63DAF-8483-4772-8E79-3D69D8477DE4"]
    cuts = sorted(draw(st.sets(st.integers(64, 4000), min_size=2, max_size=8)))
    spans = list(zip(cuts[::2], cuts[1::2], strict=False))
    rows = [
        f"{number}: start={first}, size={end - first}, type={draw(st.sampled_from(types))}"
        for number, (first, end) in enumerate(draw(st.permutations(spans)), start=1)
    ]
    return f"label: {kind}\n" + "\n".join(rows) + "\n"


@pytest.mark.needs("sfdisk")
@settings(max_examples=10)
@given(script=_sfdisk_scripts())
def test_any_table_of_sfdisk_is_read_as_sfdisk_reads_it(script: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    card = tmp_path_factory.mktemp("sfdisk") / "card.img"
    card.touch()
    os.truncate(card, 4 * MIB)
    sfdisk(card, script)

    table = read_file(card)

    assert as_sfdisk(table) == judged_rows(card)


_WHOLE_TABLES = [
    bytes(gpt((64, 127), (128, 255), blocks=512)),
    bytes(mbr((0, 0x0E, 8, 8), (0, 0x05, 100, 100))).ljust(100 * 512, b"\0")
    + bytes(mbr((0, 0x83, 1, 4), (0, 0x05, 50, 50))).ljust(100 * 512, b"\0"),
]


@given(
    image=st.sampled_from(_WHOLE_TABLES),
    edits=st.lists(st.tuples(st.integers(0, 2048), st.binary(min_size=1, max_size=8)), max_size=6),
    keep_checksum=st.booleans(),
    cut=st.integers(0, 200 * 512),
)
def test_hostile_tables_end_in_an_answer_or_damaged(
    image: bytes, edits: list[tuple[int, bytes]], keep_checksum: bool, cut: int
) -> None:
    hostile = bytearray(image)
    for offset, data in edits:
        hostile[offset : offset + len(data)] = data
    if keep_checksum and hostile[512:520] == b"EFI PART":  # so that the fields behind the checksum are reached
        hostile[512 + 16 : 512 + 20] = bytes(4)
        struct.pack_into("<I", hostile, 512 + 16, zlib.crc32(hostile[512 : 512 + 92]))
    hostile[510:512] = b"\x55\xaa"

    try:
        table = read_bytes(hostile[: len(hostile) - cut])
    except Damaged:
        return

    primaries = sorted((part for part in table.partitions if part.number <= 4), key=lambda part: part.start)
    assert all(0 < part.start < part.end <= len(hostile) - cut for part in table.partitions)
    assert all(one.end <= other.start for one, other in pairwise(primaries))


@given(st.binary(min_size=1024, max_size=4096))
def test_garbage_with_a_signature_is_never_a_foreign_exception(garbage: bytes) -> None:
    image = bytearray(garbage)
    image[510:512] = b"\x55\xaa"

    try:
        table = read_bytes(image)
    except Damaged:
        return
    assert all(part.end <= len(image) for part in table.partitions)
