"""A stage onto every kind of volume: what fsck.vfat, mtools and the firmware find there, and what is kept."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from abboot.core.states import SlotReading
from abboot.core.words import FatType, Phase, Slot
from abboot.errors import AbbootError
from abboot.fat.geometry import Geometry
from abboot.fat.read import FatVolume
from abboot.manager import BootManager
from abboot.progress import Meter, Progress
from abboot.simulator import SimulatedPi
from abboot.sources import FolderSource
from abboot.staging import Prepared, prepare
from tests.cards import CONFIG, CardDisk, card, tree_files, write_tree
from tests.devices import FileDevice, MemoryDevice, Write
from tests.strategies_fat import MIB, assert_clean, new_image, run, tree_by_mcopy

TREE = tree_files("v1") | {
    "overlays/vc4-kms-dsi-ili9881-7inch.dtbo": b"one",
    "overlays/vc4-kms-dsi-ili9881-5inch.dtbo": b"two",
    "Große Datei mit Umlauten.txt": b"long",
    "empty": b"",
}
BOOT = {"volume_id": 0xAB00_1234, "label": "BOOT_B"}


def read_geometry(device: FileDevice | MemoryDevice) -> Geometry:
    return Geometry.parse(device.read(0, device.block_size_bytes), device.size_bytes)


def prepared(
    device: FileDevice | MemoryDevice,
    tree: Path,
    geometry: Geometry,
    *,
    now: Prepared | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Prepared:
    """Ready to stage ``tree``; ``now`` is what the slot holds."""
    return prepare(
        device,
        Slot.B,
        FolderSource(tree).scan(),
        geometry=geometry,
        reading=SlotReading(
            partition=3,
            readable=now is not None,
            record=now.record if now else None,
            geometry=now.volume.geometry.to_json() if now else None,
        ),
        keep=now is not None,
        generation=1,
        version="1",
        progress=Meter(progress),
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "tree", TREE)


@attrs.frozen
class Kind:
    """A volume, and the type that it gets when nobody asks for one."""

    size: int
    sector: int
    fat: FatType
    cluster: int | None = None

    def __str__(self) -> str:
        return f"{self.fat.name}, {self.size // MIB} MiB, sectors of {self.sector}"


KINDS = [
    Kind(2 * MIB, 512, FatType.FAT12),
    Kind(32 * MIB, 512, FatType.FAT16),
    Kind(256 * MIB, 512, FatType.FAT32),
    Kind(8 * MIB, 4096, FatType.FAT12),
    Kind(256 * MIB, 4096, FatType.FAT16),  # FAT32 would have too few clusters
    Kind(1024 * MIB, 4096, FatType.FAT32),
]
ALL = pytest.mark.parametrize("kind", KINDS, ids=str)


@pytest.fixture
def staged(kind: Kind, tree: Path, tmp_path: Path) -> tuple[Path, Prepared]:
    """An image with the tree on it."""
    image = tmp_path / "slot.img"
    new_image(image, kind.size).close()
    device = FileDevice(image, kind.sector)
    done = prepared(device, tree, Geometry.choose(kind.size, sector_size=kind.sector, **BOOT))  # type: ignore[arg-type]
    done.write()
    device.close()
    return image, done


# -- every kind ---------------------------------------------------------------------------------------------------


@ALL
@pytest.mark.needs("fsck.vfat")
def test_fsck_has_nothing_to_say_and_counts_the_same_free_clusters(kind: Kind, staged: tuple[Path, Prepared]) -> None:
    image, done = staged

    assert done.volume.geometry.fat_type is kind.fat
    assert_clean(image)
    used, total = map(int, re.findall(r", (\d+)/(\d+) clusters", run("fsck.vfat", "-n", image))[0])
    assert total == done.volume.geometry.cluster_count
    assert done.volume.free_clusters == total - used


@ALL
@pytest.mark.needs("mcopy", "minfo")
def test_mtools_reads_every_file_back_and_agrees_on_the_shape(
    kind: Kind, staged: tuple[Path, Prepared], tmp_path: Path
) -> None:
    image, done = staged
    found = tree_by_mcopy(image, tmp_path / "back")

    assert {path: data for path, data in found.items() if not path.startswith("abboot/")} == TREE
    about = run("minfo", "-i", image, "::")
    assert f"sector size: {kind.sector} bytes" in about
    assert "serial number: AB001234" in about
    assert f'disk label="{BOOT["label"]:<11}"' in about
    if kind.fat is FatType.FAT32:
        assert f"free clusters={done.volume.free_clusters}\n" in about


@ALL
@pytest.mark.needs("mdir")
def test_names_and_times_are_what_others_make_of_them(kind: Kind, staged: tuple[Path, Prepared]) -> None:
    image, _ = staged
    root, overlays = run("mdir", "-a", "-i", image, "::"), run("mdir", "-a", "-i", image, "::overlays")

    assert re.search(r"^VC4-KM~1 DTB +3 +1980-01-01 +0:00 +vc4-kms-dsi-ili9881-5inch\.dtbo$", overlays, re.M)
    assert re.search(r"^VC4-KM~2 DTB +3 +1980-01-01 +0:00 +vc4-kms-dsi-ili9881-7inch\.dtbo$", overlays, re.M)
    assert re.search(r"Große Datei mit Umlauten\.txt$", root, re.M)
    assert re.search(r"^START4 +ELF +9000 +1980-01-01 +0:00 +start4\.elf$", root, re.M)  # no ~1: it says it all
    times = re.findall(r"\b\d{4}-\d\d-\d\d +\d+:\d\d\b", root + overlays)
    assert len(times) > len(TREE)
    assert {re.sub(" +", " ", time) for time in times} == {"1980-01-01 0:00"}


@ALL
def test_the_same_tree_again_writes_nothing(kind: Kind, staged: tuple[Path, Prepared], tree: Path) -> None:
    image, first = staged
    device = FileDevice(image, kind.sector)

    # The root directory of a FAT32 may lie elsewhere than a new volume has it: the shape that is there is kept.
    again = prepared(device, tree, read_geometry(device), now=first)

    assert not again.changed
    assert again.record_digest == first.record_digest


@ALL
def test_a_file_that_changed_costs_its_sectors_and_nothing_else_moves(
    kind: Kind, staged: tuple[Path, Prepared], tree: Path
) -> None:
    image, first = staged
    write_tree(tree, {"config.txt": b"arm_64bit=0\n"})
    device = FileDevice(image, kind.sector)

    again = prepared(device, tree, read_geometry(device), now=first)
    report = again.write()

    assert report.bytes_written <= 12 * max(1024, kind.sector)
    assert again.volume.extents("kernel8.img") == first.volume.extents("kernel8.img")
    assert FatVolume(device).read_file("config.txt", 100) == b"arm_64bit=0\n"


def test_a_fat32_on_256_mib_is_refused_where_sectors_have_4096_bytes() -> None:
    with pytest.raises(
        AbbootError, match=r"^cannot format volume: 268435456 bytes in sectors of 4096 cannot be FAT32$"
    ):
        Geometry.choose(256 * MIB, sector_size=4096, fat_type=FatType.FAT32, label="B", volume_id=1)


# -- another format -----------------------------------------------------------------------------------------------


def test_no_boot_sector_of_the_old_format_is_left_while_a_new_one_is_written(tree: Path) -> None:
    device = MemoryDevice(34 * MIB)
    old = Geometry.choose(34 * MIB, fat_type=FatType.FAT32, **BOOT)  # type: ignore[arg-type]
    first = prepared(device, tree, old)
    first.write()
    assert device.content[6 * 512 :][:3] == b"\xeb\x58\x90"  # the backup of a FAT32
    new = Geometry.choose(34 * MIB, fat_type=FatType.FAT16, **BOOT)  # type: ignore[arg-type]
    before, device.log = bytearray(device.content), []

    prepared(device, tree, new, now=first).write()

    # Every prefix of the writes: from the first to the last one there is nothing that looks like a boot sector (G2).
    *early, last = device.writes
    assert all(write.offset in (0, 6 * 512) and not any(write.data) for write in early[:2])
    assert not any(write.offset == 0 and any(write.data) for write in early)
    assert last == Write(0, new.boot_sector())
    for write in early[:2]:
        before[write.offset : write.offset + len(write.data)] = write.data
    assert not any(before[:512])
    assert not any(before[6 * 512 : 7 * 512])
    assert not any(device.content[6 * 512 : 7 * 512])
    assert {file.path for file in FatVolume(device).files()} > set(TREE)


def test_a_volume_with_sectors_that_the_disk_does_not_have_is_formatted_anew(tree: Path) -> None:
    device = MemoryDevice(16 * MIB, block_size=512)
    old = prepared(device, tree, Geometry.choose(16 * MIB, **BOOT))  # type: ignore[arg-type]
    old.write()
    copy = MemoryDevice(bytes(device.content), block_size=4096)  # as dd brings it onto another disk

    with pytest.raises(
        AbbootError, match=r"^cannot stage to memory: .* in sectors of 512 planned, .* in blocks of 4096 found$"
    ):
        prepared(copy, tree, old.volume.geometry, now=old)
    prepared(copy, tree, Geometry.choose(16 * MIB, sector_size=4096, **BOOT), now=old).write()  # type: ignore[arg-type]

    assert read_geometry(copy).sector_size == 4096
    assert FatVolume(copy).read_file("start4.elf", 10_000) == TREE["start4.elf"]


@pytest.fixture
def slot_b(tmp_path: Path) -> Callable[[], Path]:
    """Writes slot b of ``card.img`` to a file of its own."""

    def extract() -> Path:
        image = tmp_path / "slot-b.img"
        image.write_bytes(CardDisk(tmp_path / "card.img").bytes_of(3))
        return image

    return extract


@pytest.mark.parametrize(("old", "new"), [(16, 12), (16, 16), (16, 32), (32, 16), (32, 32)])
@pytest.mark.needs("fsck.vfat", "mcopy", "minfo")
def test_a_slot_of_another_format_keeps_its_name_and_boots(
    old: FatType, new: FatType, tmp_path: Path, slot_b: Callable[[], Path]
) -> None:
    old, new = FatType(old), FatType(new)
    path = Path(shutil.copyfile(card(fat=old), tmp_path / "card.img"))
    name = re.compile(r"(?:serial number:|disk label=).*")
    before = name.findall(run("minfo", "-i", slot_b(), "::"))
    tree = write_tree(tmp_path / "v2", tree_files("v2"))
    if (old, new) == (FatType.FAT16, FatType.FAT32):  # a slot of 3 MiB
        with (
            BootManager.open(path) as manager,
            pytest.raises(AbbootError, match=r"^cannot format volume: .* be FAT32$"),
        ):
            manager.stage(tree, fat_type=new)
        assert path.read_bytes() == card(fat=old).read_bytes()
        return

    with SimulatedPi.load(path, config=CONFIG) as pi:
        pi.manager().stage(tree, fat_type=new)
        again = pi.manager().stage(tree, fat_type=new)
        pi.manager().trial()
        assert pi.manager().status().phase is Phase.TRIAL
        assert pi.manager().commit().changed

    assert (again.changed, again.bytes_written) == (False, 0)
    assert f"FAT{int(new)}" in run("minfo", "-i", slot_b(), "::")
    assert name.findall(run("minfo", "-i", slot_b(), "::")) == before
    assert_clean(slot_b())
    found = tree_by_mcopy(slot_b(), tmp_path / "back")
    assert {path: data for path, data in found.items() if not path.startswith("abboot/")} == tree_files("v2")


def test_without_being_asked_a_slot_keeps_its_format(tmp_path: Path) -> None:
    path = Path(shutil.copyfile(card(fat=FatType.FAT16), tmp_path / "card.img"))
    with BootManager.open(path) as manager:
        manager.stage(write_tree(tmp_path / "v2", tree_files("v2")), fat_type=FatType.FAT12)
        manager.stage(write_tree(tmp_path / "v3", tree_files("v3")))

    assert read_geometry(MemoryDevice(CardDisk(path).bytes_of(3))).fat_type is FatType.FAT12


# -- progress -----------------------------------------------------------------------------------------------------


def test_every_part_of_a_stage_is_reported_to_its_end(tmp_path: Path) -> None:
    path = Path(shutil.copyfile(card(), tmp_path / "card.img"))
    seen: list[Progress] = []
    with BootManager.open(path) as manager:
        manager.stage(write_tree(tmp_path / "v2", tree_files("v2")), progress=seen.append)

    activities = list(dict.fromkeys(step.activity for step in seen))
    assert activities == ["reading", "comparing", "writing", "verifying"]
    for activity in activities:
        steps = [step for step in seen if step.activity == activity]
        assert [step.bytes_done for step in steps] == sorted(step.bytes_done for step in steps)
        assert [step.files_done for step in steps] == sorted(step.files_done for step in steps)
        assert steps[-1].bytes_done == steps[-1].bytes_total > 0
        assert steps[-1].files_done == steps[-1].files_total >= len(tree_files("v2"))
    assert {step.path for step in seen if step.activity == "reading"} == set(tree_files("v2"))


def test_a_verify_is_reported(tmp_path: Path) -> None:
    seen: list[Progress] = []
    with BootManager.open(card()) as manager:
        manager.verify(Slot.A, progress=seen.append)

    assert {step.activity for step in seen} == {"verifying"}
    assert seen[-1].files_done == seen[-1].files_total == len(tree_files("v1"))


def test_rate_and_remaining_time_follow_from_the_clock() -> None:
    now = [100.0]
    seen: list[Progress] = []
    step = Meter(seen.append, lambda: now[0]).begin("writing", ["a", "b", "c"])
    assert step is not None

    step(0, 60, "a")
    now[0] = 102.0
    step(20, 60, "b")
    step(25, 60, "FAT")
    step(60, 60, "c")

    assert (seen[0].rate, seen[0].remaining_s) == (0.0, None)
    assert (seen[1].rate, seen[1].remaining_s, seen[1].elapsed_s) == (10.0, 4.0, 2.0)
    assert [(at.files_done, at.files_total) for at in seen] == [(0, 3), (1, 3), (1, 3), (3, 3)]
    assert seen[3].remaining_s == 0.0


def test_without_a_listener_nothing_is_counted() -> None:
    assert Meter(None).begin("writing", iter("abc")) is None
