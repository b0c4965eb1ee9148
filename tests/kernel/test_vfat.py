"""A real Linux vfat driver judges what abboot writes: built cards, restaged slots, slots that mkfs.vfat formatted.

All cards go into one guest (:mod:`tests.kernel.machine`); ``vfat.sh`` prints what the driver makes of them, and each
test asserts one thing about one card.  Its last changes through the driver are then judged here, by fsck.vfat, mtools
and abboot's own reader.  Run it with ``make vfat``; docs/how-to/check-with-a-real-kernel.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import pytest

from abboot import BootManager
from abboot.core.words import FatType, Slot, TableKind
from abboot.fat.geometry import Geometry
from abboot.fat.names import aliases
from abboot.fat.read import FatVolume
from abboot.image import DiskSpec, ImageSpec, SelectorSpec, SlotsSpec, build
from tests.cards import write_tree
from tests.devices import FileDevice
from tests.kernel.machine import fetch_kernel, run_guest
from tests.kernel.trees import tree

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
SELECTOR = 1
PARTITIONS: Mapping[Slot, int] = {Slot.A: 2, Slot.B: 3}
MODULES = ("virtio_blk", "vfat", "nls_cp437", "nls_ascii")  # Debian's defaults: codepage=437, iocharset=ascii, utf8
TIMEOUT_S = 300.0
SWITCHED = b"[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n"  # the 64 bytes of an armed slot b
OWN = ("manifest.sha256", "record.json")


@attrs.frozen(kw_only=True)
class Card:
    """How a card is made: slot a as it was built, slot b as several updates left it."""

    name: str
    table: TableKind = TableKind.MBR
    fat: FatType = FatType.FAT32
    cluster: int = 2048  # bytes
    slot_size: int = 136 * MIB  # 65525 clusters of 2 KiB are the least that a FAT32 can have
    mkfs: tuple[str, ...] = ()  # slot b is formatted by mkfs.vfat with these options
    updates: tuple[int, ...] = (2, 3)  # versions of the tree, staged onto slot b in this order


CARDS = (
    Card(name="fat32"),
    Card(name="fat16", fat=FatType.FAT16, cluster=4096, slot_size=24 * MIB),
    Card(name="fat12", fat=FatType.FAT12, cluster=4096, slot_size=12 * MIB),
    Card(name="gpt", table=TableKind.GPT, updates=(2,)),
    Card(name="mkfs-512", mkfs=("-F", "32", "-s", "1"), updates=(1, 2)),
    Card(name="mkfs-sector-4096", fat=FatType.FAT16, cluster=4096, slot_size=24 * MIB, mkfs=("-S", "4096", "-s", "1")),
)
BROKEN = Card(name="broken", fat=FatType.FAT16, cluster=4096, slot_size=24 * MIB, updates=(2,))
SLOTS = [pytest.param(card, slot, id=f"{card.name}-{slot}") for card in CARDS for slot in PARTITIONS]
VOLUMES = [
    pytest.param(card, number, id=f"{card.name}-{name}")
    for card in CARDS
    for number, name in ((1, "selector"), (2, "a"), (3, "b"))
]


@attrs.frozen(kw_only=True)
class Volume:
    """What abboot's own reader says of one partition."""

    sizes: Mapping[str, int]  # path -> bytes
    free_clusters: int
    dirty: bool
    autoboot_at: object  # the clusters of autoboot.txt, on a selector
    geometry: Geometry

    @classmethod
    def read(cls, file: Path) -> Volume:
        device = FileDevice(file)
        try:
            volume = FatVolume(device)
            sizes = {info.path: info.size for info in volume.files()}
            return cls(
                sizes=sizes,
                free_clusters=volume.free_clusters(),
                dirty=volume.dirty,
                autoboot_at=volume.extents("autoboot.txt") if "autoboot.txt" in sizes else None,
                geometry=volume.geometry,
            )
        finally:
            device.close()


@attrs.frozen(kw_only=True)
class Judged:
    """The cards after the guest, and what it printed about them."""

    folder: Path
    facts: Mapping[tuple[str, int, str], Sequence[str]]  # card, partition, fact -> lines
    before: Mapping[tuple[str, int], Volume]

    def fact(self, card: Card, number: int, name: str) -> Sequence[str]:
        return self.facts[card.name, number, name]

    def sizes(self, card: Card, number: int, fact: str) -> dict[str, int]:
        """A fact of lines ``SIZE NAME``; whatever else the guest printed there fails the test."""
        found = [re.fullmatch(r"(\d+) (?:\./)?(.*)", line) for line in self.fact(card, number, fact)]
        assert None not in found, self.fact(card, number, fact)
        return {match[2]: int(match[1]) for match in found if match}

    def image(self, card: Card) -> Path:
        return self.folder / f"{card.name}.img"

    def after(self, card: Card, number: int) -> Path:
        """The partition as the guest left it, as a file of its own."""
        file = self.folder / f"{card.name}-after-{number}.img"
        return file if file.exists() else extract(self.image(card), number, file)


# --- making the cards ---


def holds(card: Card, slot: Slot) -> dict[str, bytes]:
    """The tree that a slot was given last."""
    return tree(1 if slot is Slot.A else card.updates[-1])


def make(card: Card, folder: Path) -> Path:
    image = folder / f"{card.name}.img"
    spec = ImageSpec(
        disk=DiskSpec(table=card.table),
        selector=SelectorSpec(size=20 * MIB),
        slots=SlotsSpec(size=card.slot_size, fat=card.fat, cluster=card.cluster),
    )
    build(spec, image, tree=tree_folder(folder, 1))
    if card.mkfs:
        start, size = place(image, PARTITIONS[Slot.B])
        volume = folder / "mkfs.img"
        with volume.open("wb") as file:
            file.truncate(size)
        run("mkfs.vfat", *card.mkfs, "-n", "BY_MKFS", "-h", str(start // 512), str(volume))
        run("dd", f"if={volume}", f"of={image}", "bs=1M", "conv=notrunc", "oflag=seek_bytes", f"seek={start}")
        volume.unlink()
    for version in card.updates:
        with BootManager.open(image) as manager:
            staged = manager.stage(tree_folder(folder, version))
            assert (staged.slot, staged.changed) == (Slot.B, True)
    return image


def tree_folder(folder: Path, version: int) -> Path:
    path = folder / f"tree-{version}"
    return path if path.exists() else write_tree(path, tree(version))


def break_slots(image: Path) -> None:
    """Slot a: a hole in the chain of a file.  Slot b: marked as not unmounted, and one bit of a file is another."""
    holes, bits = {}, {}
    for slot, number in PARTITIONS.items():
        start, _ = place(image, number)
        device = FileDevice(extract(image, number, image.with_suffix(".part")))
        try:
            volume = FatVolume(device)
            (first, count), *_ = volume.extents("kernel8.img")
            geometry = volume.geometry
        finally:
            device.close()
        if slot is Slot.A:
            for copy in range(geometry.fat_count):
                holes[start + geometry.fat_offset(copy) + 2 * (first + count // 2)] = b"\0\0"
        else:
            bits[start + 37] = 1  # BS_Reserved1 of FAT16
            bits[start + geometry.cluster_offset(first) + 100] = 1
    with image.open("r+b") as file:
        for offset, data in holes.items():
            file.seek(offset)
            file.write(data)
        for offset, bit in bits.items():
            file.seek(offset)
            (byte,) = file.read(1)
            file.seek(offset)
            file.write(bytes([byte ^ bit]))


def place(image: Path, number: int) -> tuple[int, int]:
    """Start and size of a partition in bytes, by sfdisk."""
    table = json.loads(run("sfdisk", "--json", str(image)))["partitiontable"]
    row = table["partitions"][number - 1]
    return row["start"] * 512, row["size"] * 512


def extract(image: Path, number: int, file: Path) -> Path:
    start, size = place(image, number)
    how = ("bs=1M", "iflag=skip_bytes,count_bytes", "conv=sparse")
    run("dd", f"if={image}", f"of={file}", f"skip={start}", f"count={size}", *how)
    os.truncate(file, size)
    return file


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


# --- one guest for all of them ---


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judged]:
    kernel = fetch_kernel(ROOT / ".cache" / "kernel" / "debian-cloud-arm64")
    folder = tmp_path_factory.mktemp("cards")
    images = {card.name: make(card, folder) for card in (*CARDS, BROKEN)}
    break_slots(images[BROKEN.name])
    before = {}
    for card in CARDS:
        for number in (SELECTOR, *PARTITIONS.values()):
            before[card.name, number] = Volume.read(extract(images[card.name], number, folder / "before.img"))
    said = run_guest(
        kernel,
        images,
        task=Path(__file__).parent / "vfat.sh",
        modules=MODULES,
        files=dict(lists()),
        kept=ROOT / ".cache" / "kernel" / "vfat",
        timeout_s=TIMEOUT_S,
    )
    yield Judged(folder=folder, facts=facts_of(said), before=before)
    shutil.rmtree(folder)  # pytest keeps the folders of three runs, and these are big


def lists() -> Iterator[tuple[str, bytes]]:
    """What the guest looks up in each slot, and what it writes into ``autoboot.txt``."""
    for card in (*CARDS, BROKEN):
        yield f"lists/{card.name}/{SELECTOR}/autoboot", SWITCHED
        for slot, number in PARTITIONS.items():
            paths = sorted(holds(card, slot))
            for name, other in (("other-case", other_case), ("aliases", aliases_of(paths).get)):
                text = "".join(f"{other(path)}\n" for path in paths)
                yield f"lists/{card.name}/{number}/{name}", text.encode()


def other_case(path: str) -> str:
    """With Debian's iocharset=ascii, the driver folds the case of ASCII only."""
    return "".join(c.swapcase() if c.isascii() else c for c in path)


def aliases_of(paths: Sequence[str]) -> dict[str, str]:
    """The path of each file by 8.3 names alone, as the planner says that it named them."""
    names = defaultdict(set)
    for path in paths:
        parts = path.split("/")
        for depth, name in enumerate(parts):
            names["/".join(parts[:depth])].add(name)
        names[""].add("abboot")
    short = {
        (folder, name): ".".join(filter(None, (alias[:8].decode().rstrip(), alias[8:].decode().rstrip())))
        for folder, found in names.items()
        for name, alias in aliases(sorted(found)).items()
    }
    return {
        path: "/".join(short["/".join(parts[:depth]), name] for depth, name in enumerate(parts))
        for path in paths
        for parts in (path.split("/"),)
    }


def facts_of(said: str) -> dict[tuple[str, int, str], list[str]]:
    facts: dict[tuple[str, int, str], list[str]] = {}
    lines: list[str] = []  # what comes before the first fact is nobody's
    for line in said.splitlines():
        if match := re.fullmatch(r"@@ (\S+) (\d) (\S+)", line):
            lines = facts[match[1], int(match[2]), match[3]] = []
        else:
            lines.append(line)
    return facts


# --- what the driver reads ---


@pytest.mark.parametrize(("card", "number"), VOLUMES)
def test_the_volume_mounts_without_a_complaint(judged: Judged, card: Card, number: int) -> None:
    (mount,) = judged.fact(card, number, "mount")
    complaints = judged.fact(card, number, "complaints")

    assert " /mnt vfat ro," in mount
    assert "codepage=437,iocharset=ascii,shortname=mixed,utf8" in mount
    assert complaints == []


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_the_selector_holds_its_two_files(judged: Judged, card: Card) -> None:
    autoboot = "\n".join(judged.fact(card, SELECTOR, "autoboot"))
    in_capitals = "\n".join(judged.fact(card, SELECTOR, "autoboot-in-capitals"))
    sizes = judged.sizes(card, SELECTOR, "names")

    assert autoboot == "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=2"
    assert in_capitals == autoboot
    assert sizes.keys() == {"autoboot.txt", "ABBOOT.JNL"}
    assert sizes["autoboot.txt"] == 64


@pytest.mark.parametrize(("card", "slot"), SLOTS)
def test_names_and_sizes_are_those_of_the_tree_case_included(judged: Judged, card: Card, slot: Slot) -> None:
    files = holds(card, slot)
    found = judged.sizes(card, PARTITIONS[slot], "names")
    folders = {line.removeprefix("./") for line in judged.fact(card, PARTITIONS[slot], "folders")}

    own = {path for path in found if path.startswith("abboot/")}
    assert {path: size for path, size in found.items() if path not in own} == {p: len(d) for p, d in files.items()}
    assert own == {f"abboot/{name}" for name in OWN}
    parents = {parent.as_posix() for path in files for parent in Path(path).parents}
    assert folders == parents | {"abboot"}


@pytest.mark.parametrize(("card", "slot"), SLOTS)
def test_every_file_has_the_digest_of_the_manifest(judged: Judged, card: Card, slot: Slot) -> None:
    lines = judged.fact(card, PARTITIONS[slot], "sums")

    assert sorted(lines) == sorted(f"{path}: OK" for path in holds(card, slot))


@pytest.mark.parametrize(("card", "slot"), SLOTS)
def test_the_manifest_is_that_of_the_tree(judged: Judged, card: Card, slot: Slot) -> None:
    sums = dict(line.split("  ", 1)[::-1] for line in judged.fact(card, PARTITIONS[slot], "own-sums"))

    files = sorted(holds(card, slot).items())
    manifest = "".join(f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in files)
    assert sums["abboot/manifest.sha256"] == hashlib.sha256(manifest.encode()).hexdigest()


@pytest.mark.parametrize(("card", "slot"), SLOTS)
@pytest.mark.parametrize("how", ["other-case", "aliases"])
def test_every_file_is_found_by(judged: Judged, card: Card, slot: Slot, how: str) -> None:
    files = holds(card, slot)
    found = judged.sizes(card, PARTITIONS[slot], how)

    names = aliases_of(sorted(files)) if how == "aliases" else {path: other_case(path) for path in files}
    assert found == {names[path]: len(data) for path, data in files.items()}


@pytest.mark.parametrize(("card", "number"), VOLUMES)
def test_the_driver_counts_the_free_clusters_that_we_count(judged: Judged, card: Card, number: int) -> None:
    (counted,) = judged.fact(card, number, "free-counted")
    (believed,) = judged.fact(card, number, "free-believed")

    assert believed == counted  # FSInfo is right
    assert int(counted.split()[2]) == judged.before[card.name, number].free_clusters


@pytest.mark.parametrize(
    ("card", "sector_size", "cluster_size"),
    [
        pytest.param(card, sector_size, cluster_size, id=card.name)
        for card, sector_size, cluster_size in ((CARDS[4], 512, 512), (CARDS[5], 4096, 4096))
    ],
)
def test_a_volume_that_mkfs_made_keeps_its_shape(
    judged: Judged, card: Card, sector_size: int, cluster_size: int
) -> None:
    found = judged.before[card.name, PARTITIONS[Slot.B]].geometry

    assert (found.label, found.sector_size, found.cluster_size) == ("BY_MKFS", sector_size, cluster_size)


# --- what the driver writes ---


@pytest.mark.parametrize(("card", "number"), VOLUMES)
def test_the_driver_changes_the_volume_without_a_complaint(judged: Judged, card: Card, number: int) -> None:
    assert judged.fact(card, number, "change") == []
    assert judged.fact(card, number, "complaints-about-changes") == []


@pytest.mark.parametrize(("card", "number"), VOLUMES)
def test_the_volume_is_clean_after_the_unmount(judged: Judged, card: Card, number: int) -> None:
    file = judged.after(card, number)
    said = run("fsck.vfat", "-n", str(file)).splitlines()

    assert len(said) == 2, said  # its version, and how much is used
    assert not Volume.read(file).dirty


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_autoboot_is_overwritten_where_it_was(judged: Judged, card: Card) -> None:
    file = judged.after(card, SELECTOR)
    after = Volume.read(file)

    assert run("mtype", "-i", str(file), "::autoboot.txt").encode() == SWITCHED
    assert after.autoboot_at == judged.before[card.name, SELECTOR].autoboot_at
    assert after.free_clusters == judged.before[card.name, SELECTOR].free_clusters


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_our_reader_sees_what_the_driver_undid(judged: Judged, card: Card) -> None:
    before = judged.before[card.name, PARTITIONS[Slot.A]]
    after = Volume.read(judged.after(card, PARTITIONS[Slot.A]))
    with BootManager.open(judged.image(card)) as manager:
        verified = manager.verify(Slot.A)

    assert after.sizes == before.sizes
    # A folder that needed one more cluster for a while keeps it.
    assert before.free_clusters - after.free_clusters in (0, 1)
    assert verified.ok


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_our_reader_sees_what_the_driver_changed(judged: Judged, card: Card) -> None:
    expected = dict(judged.before[card.name, PARTITIONS[Slot.B]].sizes)
    after = Volume.read(judged.after(card, PARTITIONS[Slot.B])).sizes

    del expected["fixup4.dat"]
    expected["Start4.elf"] = expected.pop("start4.elf")
    expected["config.txt"] += len("the kernel was here\n")
    expected["A folder that the Kernel made/a file that the kernel wrote.bin"] = 70_000
    assert after == expected


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_slot_that_the_driver_changed_is_staged_again(judged: Judged, card: Card) -> None:
    changed = judged.after(card, PARTITIONS[Slot.B])  # before it is staged
    with BootManager.open(judged.image(card)) as manager:
        manager.stage(tree_folder(judged.folder, 1))
        verified = manager.verify(Slot.B)
    file = extract(judged.image(card), PARTITIONS[Slot.B], judged.folder / "again.img")

    assert verified.ok
    assert Volume.read(changed).sizes != Volume.read(file).sizes
    assert len(run("fsck.vfat", "-n", str(file)).splitlines()) == 2


# --- a judge that cannot say no is worth nothing ---


def test_a_hole_in_a_chain_is_seen(judged: Judged) -> None:
    sums = judged.fact(BROKEN, PARTITIONS[Slot.A], "sums")
    complaints = judged.fact(BROKEN, PARTITIONS[Slot.A], "complaints")

    assert "kernel8.img: FAILED" in sums
    assert any("FAT-fs" in line for line in complaints)


def test_a_flipped_bit_and_a_volume_that_was_not_unmounted_are_seen(judged: Judged) -> None:
    sums = judged.fact(BROKEN, PARTITIONS[Slot.B], "sums")
    # Only a mount that may write looks at the mark.
    complaints = judged.fact(BROKEN, PARTITIONS[Slot.B], "complaints-about-changes")

    assert [line for line in sums if not line.endswith(": OK") and "WARNING" not in line] == ["kernel8.img: FAILED"]
    assert any("not properly unmounted" in line for line in complaints)
