"""A card image is built in a plain file; sfdisk, fsck.vfat, mtools and sha256sum judge it, not our own readers."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import attrs
import pytest

from abboot.core.journal import BLOCK_SIZE, BLOCKS, read_journal
from abboot.core.words import FatType, Slot, SlotState, TableKind, Transition
from abboot.errors import AbbootError, ConfigError, Damaged, DeviceError, InvalidTree
from abboot.image import DiskSpec, ImageSpec, PartitionSpec, SelectorSpec, SlotsSpec, build, inspect
from abboot.progress import Progress

pytest.importorskip("parted", reason="pyparted is not installed (pip install 'abboot[image]')")

MIB = 1 << 20
GPT_ID = "01234567-89ab-4def-8123-456789abcdef"
SMALL = ImageSpec(
    disk=DiskSpec(id="1234abcd"),
    selector=SelectorSpec(size=20 * MIB),
    slots=SlotsSpec(size=20 * MIB, fat=FatType.FAT16, cluster=2048),
)
AUTOBOOT_A = b"[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=2\n"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    files = {
        "config.txt": b"arm_64bit=1\nkernel_watchdog_timeout=120\n",
        "cmdline.txt": b"console=serial0,115200 root=LABEL=root rootwait panic=10\n",
        "start4.elf": os.urandom(200_000),
        "fixup4.dat": os.urandom(5_000),
        "kernel8.img": os.urandom(2_000_000),
        "bcm2711-rpi-4-b.dtb": os.urandom(50_000),
        "overlays/README": b"overlays\n",
        "overlays/a-very-long-overlay-name-indeed.dtbo": os.urandom(900),
        "empty": b"",
    }
    for path, data in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def card(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("card") / "card.img"
    build(SMALL, path, tree=tree)
    return path


def extracted(card: Path, number: int, folder: Path) -> Path:
    """Partition ``number``, cut out where sfdisk says that it is."""
    output = subprocess.run(["sfdisk", "-J", str(card)], check=True, capture_output=True, text=True).stdout
    row = json.loads(output)["partitiontable"]["partitions"][number - 1]
    with card.open("rb") as file:
        file.seek(row["start"] * 512)
        (folder / f"p{number}.img").write_bytes(file.read(row["size"] * 512))
    return folder / f"p{number}.img"


def mtype(volume: Path, name: str) -> bytes:
    return subprocess.run(["mtype", "-i", str(volume), f"::{name}"], check=True, capture_output=True).stdout


def copied_out(volume: Path, folder: Path) -> Path:
    folder.mkdir()
    subprocess.run(["mcopy", "-s", "-n", "-i", str(volume), "::/", str(folder)], check=True, capture_output=True)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.needs("sfdisk")
def test_the_partition_table_is_sound(card: Path) -> None:
    verdict = subprocess.run(["sfdisk", "-V", str(card)], check=True, capture_output=True, text=True)
    table = json.loads(subprocess.run(["sfdisk", "-J", str(card)], check=True, capture_output=True).stdout)

    assert "No errors detected" in verdict.stdout
    assert table["partitiontable"]["id"] == "0x1234abcd"
    assert [
        (row["start"] * 512 // MIB, row["size"] * 512 // MIB, row["type"])
        for row in table["partitiontable"]["partitions"]
    ] == [(4, 20, "e"), (24, 20, "e"), (44, 20, "e")]


@pytest.mark.needs("sfdisk", "fsck.vfat")
@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_volume_passes_fsck(card: Path, tmp_path: Path, number: int) -> None:
    verdict = subprocess.run(
        ["fsck.vfat", "-n", str(extracted(card, number, tmp_path))], capture_output=True, text=True, check=False
    )

    assert verdict.returncode == 0, verdict.stdout
    assert len(verdict.stdout.splitlines()) == 2, verdict.stdout  # its name, and the count of files: no complaint


@pytest.mark.needs("mtype", "minfo")
def test_the_selector_holds_autoboot_and_the_first_entry(card: Path, tmp_path: Path) -> None:
    volume = extracted(card, 1, tmp_path)

    journal = read_journal(mtype(volume, "ABBOOT.JNL"))
    shape = subprocess.run(["minfo", "-i", str(volume), "::"], check=True, capture_output=True, text=True).stdout

    assert mtype(volume, "autoboot.txt") == AUTOBOOT_A
    assert len(AUTOBOOT_A) == 64
    assert (journal.blocks, journal.torn, len(journal.entries)) == (BLOCKS, 0, 1)
    entry = journal.entries[0]
    assert (entry.sequence, entry.transition, entry.primary) == (0, Transition.BUILT, Slot.A)
    assert {slot: (known.partition, known.state) for slot, known in entry.slots.items()} == {
        Slot.A: (2, SlotState.GOOD),
        Slot.B: (3, SlotState.GOOD),
    }
    assert entry.autoboot_after == AUTOBOOT_A
    assert "FAT16" in shape
    assert "cluster size: 8 sectors" in shape


@pytest.mark.needs("sfdisk")
def test_autoboot_and_journal_are_alone_in_4096_byte_blocks_far_apart(card: Path, tmp_path: Path) -> None:
    volume = extracted(card, 1, tmp_path).read_bytes()

    at = [offset for offset in range(0, len(volume), BLOCK_SIZE) if volume.startswith(AUTOBOOT_A, offset)]
    journal = [offset for offset in range(0, len(volume), BLOCK_SIZE) if volume.startswith(b"ABBOOT-JOURNAL ", offset)]

    assert len(at) == len(journal) == 1
    assert volume[at[0] + 64 : at[0] + BLOCK_SIZE] == bytes(BLOCK_SIZE - 64)
    assert journal[0] - at[0] > 4 * MIB
    end = journal[0] + BLOCKS * BLOCK_SIZE
    assert BLOCK_SIZE <= len(volume) - end < 3 * BLOCK_SIZE  # the last cluster stays free (H-43)


@pytest.mark.needs("mcopy", "sfdisk")
@pytest.mark.parametrize("number", [2, 3])
def test_a_slot_holds_the_tree_and_says_so_itself(card: Path, tree: Path, tmp_path: Path, number: int) -> None:
    folder = copied_out(extracted(card, number, tmp_path), tmp_path / "out")
    found = contents(folder)
    own = {path: found.pop(path) for path in list(found) if path.startswith("abboot/")}

    checked = subprocess.run(
        ["sha256sum", "--strict", "-c", "abboot/manifest.sha256"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    record = json.loads(own["abboot/record.json"])

    assert found == contents(tree)
    assert checked.stdout.count(": OK\n") == len(found)
    assert own.keys() == {"abboot/manifest.sha256", "abboot/record.json"}
    assert (record["slot"], record["generation"]) == ("a" if number == 2 else "b", 1)
    assert record["tree_digest"] == hashlib.sha256(own["abboot/manifest.sha256"]).hexdigest()


@pytest.mark.needs("mdir")
def test_mtools_reads_the_slots_inside_the_image(card: Path) -> None:
    listed = subprocess.run(["mdir", "-b", "-i", f"{card}@@24M", "::/"], check=True, capture_output=True, text=True)

    assert "::/kernel8.img" in listed.stdout
    assert "::/overlays/" in listed.stdout


def test_the_same_id_and_tree_give_the_same_bytes(card: Path, tree: Path, tmp_path: Path) -> None:
    again = tmp_path / "other-name.img"

    report = build(SMALL, again, tree=str(tree))

    assert again.read_bytes() == card.read_bytes()
    assert report.size_bytes == 64 * MIB == again.stat().st_size
    assert report.bytes_written < 12 * MIB
    assert again.stat().st_blocks * 512 < 12 * MIB  # sparse


def test_without_an_id_every_image_has_its_own(tree: Path, tmp_path: Path) -> None:
    spec = attrs.evolve(SMALL, disk=DiskSpec())

    one, other = (build(spec, tmp_path / name, tree=tree).table.disk_id for name in ("one.img", "other.img"))

    assert one != other
    volume_ids = [part.volume_id for name in ("one.img", "other.img") for part in inspect(tmp_path / name).partitions]
    assert len(set(volume_ids)) == 6


@pytest.mark.needs("sfdisk", "mtype", "fsck.vfat")
def test_gpt_fat32_and_slot_b_first(tree: Path, tmp_path: Path) -> None:
    spec = ImageSpec(
        disk=DiskSpec(table=TableKind.GPT, id=GPT_ID),
        selector=SelectorSpec(size=18 * MIB, label="SEL"),
        slots=SlotsSpec(size=40 * MIB, fat=FatType.FAT32, cluster=512, labels=("ONE", "TWO"), primary=Slot.B),
        partitions=[PartitionSpec(label="root", size=MIB)],
    )
    card = tmp_path / "card.img"

    report = build(spec, card, tree=tree)

    assert report.primary is Slot.B
    assert [part.name for part in report.table.partitions] == ["SEL", "ONE", "TWO", "root"]
    assert b"[all]\ntryboot_a_b=1\nboot_partition=3\n" in mtype(extracted(card, 1, tmp_path), "autoboot.txt")
    verdict = subprocess.run(
        ["fsck.vfat", "-n", "-v", str(extracted(card, 3, tmp_path))], capture_output=True, text=True, check=True
    )
    assert "32 bit entries" in verdict.stdout


@pytest.mark.needs("sfdisk")
def test_images_become_partitions_behind_the_slots(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "root.ext4"
    content = b"\0" * MIB + os.urandom(MIB) + b"\0" * MIB + b"tail"
    root.write_bytes(content)
    spec = attrs.evolve(
        SMALL,
        partitions=[
            PartitionSpec(label="empty", size=MIB),
            PartitionSpec(label="root", size=4 * MIB, image=str(root)),
        ],
    )
    card = tmp_path / "card.img"

    build(spec, card, tree=tree)

    assert extracted(card, 6, tmp_path).read_bytes() == content.ljust(4 * MIB, b"\0")  # 4 is the extended one
    assert extracted(card, 5, tmp_path).read_bytes() == bytes(MIB)


def test_the_report_says_what_was_built(tree: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []

    report = build(SMALL, tmp_path / "card.img", tree=tree, progress=seen.append)

    found = inspect(tmp_path / "card.img")
    assert report.files == 9
    assert {slot: built.record_digest for slot, built in report.slots.items()} == {
        slot: there.record_digest for slot, there in found.slots.items()
    }
    assert report.warnings == ()
    assert any(step.bytes_done == step.bytes_total for step in seen)


def test_a_tree_that_looks_unbootable_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "hello.txt").write_bytes(b"hello")

    report = build(SMALL, tmp_path / "card.img", tree=tmp_path / "tree")

    assert any("config.txt is missing" in warning for warning in report.warnings)


class TestRefusals:
    """Each leaves the old file as it was, and nothing beside it."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        folder = tmp_path / "place"
        folder.mkdir()
        (folder / "card.img").write_bytes(b"the old card")
        return folder / "card.img"

    @pytest.fixture(autouse=True)
    def _nothing_changed(self, place: Path) -> object:
        yield
        assert place.read_bytes() == b"the old card"
        assert os.listdir(place.parent) == ["card.img"]

    def test_no_tree(self, place: Path) -> None:
        with pytest.raises(ConfigError, match="cannot build the image: no tree is named"):
            build(SMALL, place)

    def test_a_tree_that_is_not_there(self, place: Path, tmp_path: Path) -> None:
        with pytest.raises(AbbootError, match="none"):
            build(SMALL, place, tree=tmp_path / "none")

    def test_a_tree_that_does_not_fit(self, place: Path, tmp_path: Path) -> None:
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree" / "big.img").touch()
        os.truncate(tmp_path / "tree" / "big.img", 21 * MIB)

        with pytest.raises(InvalidTree):
            build(SMALL, place, tree=tmp_path / "tree")

    def test_names_that_collide_on_fat(self, place: Path, tmp_path: Path) -> None:
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree" / "CON.TXT").touch()
        (tmp_path / "tree" / "con.txt").touch()

        with pytest.raises(InvalidTree, match=r"(?i)con\.txt"):
            build(SMALL, place, tree=tmp_path / "tree")

    def test_a_selector_that_cannot_be_fat16(self, place: Path, tree: Path) -> None:
        with pytest.raises(AbbootError, match="8388608 bytes in sectors of 512 cannot be FAT16"):
            build(attrs.evolve(SMALL, selector=SelectorSpec(size=8 * MIB)), place, tree=tree)

    def test_a_slot_that_cannot_have_that_fat(self, place: Path, tree: Path) -> None:
        spec = attrs.evolve(SMALL, slots=SlotsSpec(size=20 * MIB, fat=FatType.FAT32, cluster=4096))
        with pytest.raises(AbbootError, match="cannot be FAT32 with clusters of 4096 bytes"):
            build(spec, place, tree=tree)

    def test_a_partition_image_that_does_not_fit(self, place: Path, tree: Path, tmp_path: Path) -> None:
        (tmp_path / "root.img").write_bytes(bytes(MIB + 1))
        spec = attrs.evolve(SMALL, partitions=[PartitionSpec(label="root", size=MIB, image=str(tmp_path / "root.img"))])
        with pytest.raises(AbbootError, match="on partition 'root': it has 1048577 bytes, 1048576 fit"):
            build(spec, place, tree=tree)

    def test_a_partition_image_that_is_not_there(self, place: Path, tree: Path, tmp_path: Path) -> None:
        spec = attrs.evolve(SMALL, partitions=[PartitionSpec(label="root", size=MIB, image=str(tmp_path / "none"))])
        with pytest.raises(AbbootError, match=r"cannot read .*/none: no such file"):
            build(spec, place, tree=tree)

    def test_an_error_in_the_middle(self, place: Path, tree: Path) -> None:
        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build(SMALL, place, tree=tree, progress=stop)

    def test_more_than_an_mbr_can_address(self, place: Path, tree: Path) -> None:
        spec = attrs.evolve(SMALL, partitions=[PartitionSpec(label="root", size=3 << 40)])
        with pytest.raises((AbbootError, Damaged), match=r"cannot create the partition table of .*: libparted says: "):
            build(spec, place, tree=tree)


def test_a_place_that_is_no_file_is_refused(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(AbbootError, match="it exists and is not a plain file"):
        build(SMALL, tmp_path, tree=tree)
    with pytest.raises(AbbootError, match="there is no folder"):
        build(SMALL, tmp_path / "none" / "card.img", tree=tree)


def test_a_place_that_cannot_be_written_is_one_line(tree: Path) -> None:
    with pytest.raises(DeviceError, match=r"cannot create /proc/"):
        build(SMALL, "/proc/card.img", tree=tree)


def test_a_link_is_followed_not_replaced(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "real.img").write_bytes(b"old")
    (tmp_path / "link.img").symlink_to("real.img")

    build(SMALL, tmp_path / "link.img", tree=tree)

    assert (tmp_path / "link.img").is_symlink()
    assert (tmp_path / "real.img").stat().st_size == 64 * MIB


def test_bootcode_goes_to_the_selector_when_a_pi_3_is_to_boot_it(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "config.txt").write_text("arm_64bit=1\n")
    (tree / "bootcode.bin").write_bytes(b"bootcode" * 100)
    spec = ImageSpec(selector=SelectorSpec(size=18 * MIB, bootcode=True), slots=SlotsSpec(size=8 * MIB))
    out = tmp_path / "card.img"

    report = build(spec, out, tree=tree)

    start = report.table.partitions[0].start
    shown = subprocess.run(["mtype", "-i", f"{out}@@{start}", "::bootcode.bin"], check=True, capture_output=True)
    assert shown.stdout == b"bootcode" * 100


def test_bootcode_that_the_tree_lacks_is_refused(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "config.txt").write_text("arm_64bit=1\n")
    spec = ImageSpec(selector=SelectorSpec(size=18 * MIB, bootcode=True), slots=SlotsSpec(size=8 * MIB))

    with pytest.raises(ConfigError, match=r"the tree has no bootcode\.bin"):
        build(spec, tmp_path / "card.img", tree=tree)

    assert not (tmp_path / "card.img").exists()
