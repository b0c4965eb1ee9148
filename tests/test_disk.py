"""libparted makes the tables; sfdisk and sgdisk say whether they are sound."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abboot.core.words import FatType, TableKind
from abboot.disk import (
    ALIGNMENT,
    PartitionRequest,
    TableRequest,
    check_partition_table,
    create_partition_table,
)
from abboot.errors import AbbootError, Damaged, DeviceError

MIB = 1 << 20
IDS = {TableKind.MBR: "1234abcd", TableKind.GPT: "01234567-89ab-4def-8123-456789abcdef"}
BASIC_DATA, LINUX = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "0FC63DAF-8483-4772-8E79-3D69D8477DE4"


@pytest.fixture
def _pyparted() -> None:
    pytest.importorskip("parted", reason="pyparted is not installed (pip install 'abboot[image]')")


pyparted = pytest.mark.usefixtures("_pyparted")


def request_of(kind: TableKind, *linux_sizes: int) -> TableRequest:
    return TableRequest(
        kind=kind,
        disk_id=IDS[kind],
        partitions=(
            PartitionRequest(size=32 * MIB, fat=FatType.FAT16, name="BOOTSEL"),
            PartitionRequest(size=64 * MIB, fat=FatType.FAT32, name="BOOT_A"),
            PartitionRequest(size=64 * MIB, fat=FatType.FAT32, name="BOOT_B"),
            *(PartitionRequest(size=size, fat=None, name=f"data{index}") for index, size in enumerate(linux_sizes)),
        ),
    )


def make(path: Path, request: TableRequest) -> Path:
    path.touch()
    os.truncate(path, request.image_size)
    create_partition_table(path, request)
    return path


def judged(path: Path) -> dict[str, Any]:
    output = subprocess.run(["sfdisk", "-J", str(path)], check=True, capture_output=True, text=True).stdout
    table: dict[str, Any] = json.loads(output)["partitiontable"]
    return table


def assert_sound(path: Path) -> None:
    verdict = subprocess.run(["sfdisk", "-V", str(path)], check=True, capture_output=True, text=True)
    assert "No errors detected" in verdict.stdout
    assert verdict.stderr == ""


@pyparted
@pytest.mark.needs("sfdisk")
def test_an_mbr_is_as_asked_for(tmp_path: Path) -> None:
    card = make(tmp_path / "card.img", request_of(TableKind.MBR, 8 * MIB))

    table = judged(card)

    assert_sound(card)
    assert table["id"] == "0x1234abcd"
    assert [(row["start"] * 512 // MIB, row["size"] * 512 // MIB, row["type"]) for row in table["partitions"]] == [
        (4, 32, "e"),
        (36, 64, "c"),
        (100, 64, "c"),
        (164, 8, "83"),
    ]


@pyparted
@pytest.mark.needs("sfdisk", "sgdisk")
def test_a_gpt_is_as_asked_for(tmp_path: Path) -> None:
    card = make(tmp_path / "card.img", request_of(TableKind.GPT, 8 * MIB))

    table = judged(card)

    assert_sound(card)
    verdict = subprocess.run(["sgdisk", "-v", str(card)], check=True, capture_output=True, text=True).stdout
    assert "No problems found" in verdict
    assert table["id"] == IDS[TableKind.GPT].upper()
    assert [(row["name"], row["type"]) for row in table["partitions"]] == [
        ("BOOTSEL", BASIC_DATA),
        ("BOOT_A", BASIC_DATA),
        ("BOOT_B", BASIC_DATA),
        ("data0", LINUX),
    ]
    assert len({row["uuid"] for row in table["partitions"]}) == 4


@pyparted
@pytest.mark.needs("sfdisk")
def test_more_than_four_partitions_of_an_mbr_go_behind_an_extended_one(tmp_path: Path) -> None:
    card = make(tmp_path / "card.img", request_of(TableKind.MBR, 8 * MIB, 8 * MIB + 512))

    rows = judged(card)["partitions"]

    assert_sound(card)
    assert [(row["node"].removeprefix(str(card)), row["type"]) for row in rows] == [
        ("1", "e"), ("2", "c"), ("3", "c"), ("4", "f"), ("5", "83"), ("6", "83"),
    ]  # fmt: skip
    assert [row["size"] * 512 for row in rows[4:]] == [8 * MIB, 8 * MIB + 512]


@pyparted
@pytest.mark.parametrize("kind", TableKind)
def test_the_same_request_gives_the_same_bytes(tmp_path: Path, kind: TableKind) -> None:
    request = TableRequest(
        kind=kind,
        disk_id=IDS[kind],
        partitions=tuple(PartitionRequest(size=MIB, fat=fat) for fat in (*FatType, None, None)),
    )
    one = make(tmp_path / "one.img", request)
    other = make(tmp_path / "other.img", request)

    assert one.read_bytes() == other.read_bytes()


@pyparted
def test_what_is_in_the_partitions_stays(tmp_path: Path) -> None:
    request = request_of(TableKind.MBR)
    card = make(tmp_path / "card.img", request)
    with card.open("r+b") as file:
        file.seek(100 * MIB)
        file.write(b"content")

    create_partition_table(card, request)

    with card.open("rb") as file:
        file.seek(100 * MIB)
        assert file.read(7) == b"content"
    assert card.stat().st_size == request.image_size


@pyparted
@settings(max_examples=15)
@given(
    kind=st.sampled_from(TableKind),
    sizes=st.lists(
        st.tuples(st.integers(1, 40_000).map(lambda n: n * 512), st.sampled_from([*FatType, None])),
        min_size=1,
        max_size=7,
    ),
)
def test_any_request_is_made_and_libparted_sees_what_we_see(
    kind: TableKind, sizes: list[tuple[int, FatType | None]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    request = TableRequest(
        kind=kind,
        disk_id=IDS[kind],
        partitions=tuple(PartitionRequest(size=size, fat=fat, name="x") for size, fat in sizes),
    )
    card = make(tmp_path_factory.mktemp("disk") / "card.img", request)

    table = check_partition_table(card)

    assert table == request.plan()
    assert all(part.start % ALIGNMENT == 0 for part in table.partitions)
    assert [part.size for part in table.partitions if not part.is_extended] == [size for size, _ in sizes]


@pyparted
@pytest.mark.needs("sgdisk")
def test_check_refuses_what_libparted_refuses(tmp_path: Path) -> None:
    card = make(tmp_path / "card.img", request_of(TableKind.GPT))
    with card.open("r+b") as file:  # the backup header: our reader does not need it, libparted wants it whole
        file.seek(-512 + 24, os.SEEK_END)
        file.write(b"\xff" * 8)

    with pytest.raises(Damaged, match=r"cannot check the partition table of card\.img: libparted says: "):
        check_partition_table(card)


@pyparted
def test_an_image_that_is_too_small_is_refused(tmp_path: Path) -> None:
    card = tmp_path / "card.img"
    card.write_bytes(bytes(8 * MIB))

    with pytest.raises(AbbootError, match=r"cannot create the partition table of card\.img: libparted says: "):
        create_partition_table(card, request_of(TableKind.MBR))


@pyparted
def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"cannot open .*/none\.img: No such file or directory"):
        check_partition_table(tmp_path / "none.img")


def test_without_pyparted_the_hint_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "parted.py").write_text("raise ImportError('no libparted here')\n")
    script = (
        "from abboot.disk import *; from abboot.errors import AbbootError\n"
        "request = TableRequest(kind=TableKind.MBR, disk_id='1234abcd',"
        " partitions=(PartitionRequest(size=512, fat=None),))\n"
        "try: create_partition_table('card.img', request)\n"
        "except AbbootError as error: print(error, '|', error.hint)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}

    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)

    assert run.stdout == (
        "cannot create the partition table of card.img: pyparted is not installed | "
        "pip install 'abboot[image]' (needs gcc, pkg-config and libparted-dev), or apt install python3-parted\n"
    )


@pytest.mark.parametrize(
    ("kind", "disk_id"),
    [
        (TableKind.MBR, "1234ABCD"),
        (TableKind.MBR, "00000000"),
        (TableKind.MBR, "1234abc"),
        (TableKind.MBR, IDS[TableKind.GPT]),
        (TableKind.GPT, "1234abcd"),
    ],
)
def test_an_impossible_disk_id_makes_no_request(kind: TableKind, disk_id: str) -> None:
    with pytest.raises(ValueError, match="is not the id of a disk with"):
        TableRequest(kind=kind, disk_id=disk_id, partitions=())


@pytest.mark.parametrize("size", [0, -512, 511, 513])
def test_an_impossible_size_makes_no_request(size: int) -> None:
    with pytest.raises(ValueError, match=f"a partition cannot have {size} bytes"):
        PartitionRequest(size=size, fat=None)
