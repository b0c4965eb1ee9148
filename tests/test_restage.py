"""What reaches the medium when a slot is staged again: differences, and nothing else.  Counted at the device.

The shape is that of the demo card, in small: FAT32, sectors of 512 bytes, and the journal's real block size.  Counts
include slot, selector and journal.
"""

from __future__ import annotations

import functools
import random
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from abboot import BootManager, Staged
from abboot.core.protocols import BlockDevice, Buffer
from abboot.core.words import FatType, Slot
from abboot.fat.read import FatVolume
from tests.cards import MIB, NUMBERS, CardDisk, card, tree_files, write_tree

KIB = 1024
JOURNAL_AND_BOOT_SECTORS = 12 * KIB  # what any change may cost beside itself
CONFIG = b"arm_64bit=1\nkernel=kernel8.img\nkernel_watchdog_timeout=60\n" + b"# a comment that fills the file\n" * 40
KERNELS = {"kernel8.img": 2 * MIB + 12345, "initramfs8": 3 * MIB + 777}


def noise(seed: str, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


@functools.cache
def files_before() -> Mapping[str, bytes]:
    """Two big files, small ones behind and between them, and a config.txt of some sectors."""
    return {
        **tree_files("v2", kernel_size=100),
        **{name: noise(name, size) for name, size in KERNELS.items()},
        **{f"overlays/overlay-{number}.dtbo": noise(f"overlay {number}", 1000 + 37 * number) for number in range(80)},
        "start4x.elf": noise("start4x", MIB + 1),
        "overlays/README": noise("readme", 28_000),
        "config.txt": CONFIG,
    }


def files_with(**changed: bytes) -> dict[str, bytes]:
    return {**files_before(), **{name.replace("__", "/"): data for name, data in changed.items()}}


@attrs.define
class Medium:
    """What was written to which partition, in order; ``None`` is a flush."""

    events: list[tuple[int, int, bytes] | None] = attrs.field(factory=list)

    @property
    def writes(self) -> list[tuple[int, int, bytes]]:
        return [event for event in self.events if event is not None]

    @property
    def bytes(self) -> int:
        return sum(len(data) for _, _, data in self.writes)

    def of(self, slot: Slot) -> list[tuple[int, bytes]]:
        return [(offset, data) for number, offset, data in self.writes if number == NUMBERS[slot]]


class RecordingDisk(CardDisk):
    """A card in memory that remembers what is written to it, and how much is read from each partition."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.medium = Medium()
        self.bytes_read = dict.fromkeys((1, 2, 3), 0)

    def open_partition(self, number: int, start: int, size: int, *, writable: bool = False) -> BlockDevice:
        return _Recorded(self, number, super().open_partition(number, start, size, writable=writable))


class _Recorded:
    def __init__(self, disk: RecordingDisk, number: int, device: BlockDevice) -> None:
        self._disk, self._number, self._device = disk, number, device
        self.name, self.size_bytes, self.block_size_bytes = device.name, device.size_bytes, device.block_size_bytes

    def read(self, offset: int, length: int) -> bytes:
        self._disk.bytes_read[self._number] += length
        return self._device.read(offset, length)

    def write(self, offset: int, data: Buffer) -> None:
        self._device.write(offset, data)
        self._disk.medium.events.append((self._number, offset, bytes(data)))

    def flush(self) -> None:
        self._disk.medium.events.append(None)

    def forget_cache(self) -> None: ...

    def close(self) -> None:
        self._device.close()


@contextmanager
def disk_holding(files: Mapping[str, bytes]) -> Iterator[RecordingDisk]:
    """A card whose slot b was staged with ``files``."""
    disk = RecordingDisk(card(fat=FatType.FAT32))
    staged_onto(disk, files)
    disk.medium.events.clear()
    yield disk


def staged_onto(disk: RecordingDisk, files: Mapping[str, bytes]) -> Staged:
    with tempfile.TemporaryDirectory() as folder:
        return BootManager(disk).stage(write_tree(Path(folder), files))


def slot_b(disk: RecordingDisk) -> FatVolume:
    return FatVolume(disk.open_partition(3, *disk.place(3)))


def contents(disk: RecordingDisk) -> dict[str, bytes]:
    volume = slot_b(disk)
    files = {file.path: b"".join(volume.chunks(file.path)) for file in volume.files()}
    return {path: data for path, data in files.items() if not path.startswith("abboot/")}


def test_the_same_tree_again_writes_no_byte_and_needs_no_barrier() -> None:
    with disk_holding(files_before()) as disk:
        image = disk.digest()

        staged = staged_onto(disk, files_before())

        assert (staged.changed, staged.bytes_written, staged.files_written) == (False, 0, 0)
        assert disk.medium.events == []
        assert disk.digest() == image


@pytest.mark.parametrize(
    "config",
    [CONFIG + b"dtparam=audio=on\n", CONFIG.replace(b"=60", b"=99"), noise("config", len(CONFIG))],
    ids=["a line more", "a value changed", "all of it changed"],
)
def test_another_config_txt_costs_at_most_twelve_kib(config: bytes) -> None:
    with disk_holding(files_before()) as disk:
        staged = staged_onto(disk, files_with(**{"config.txt": config}))

        assert staged.bytes_written == disk.medium.bytes <= 12 * KIB
        assert contents(disk)["config.txt"] == config


@pytest.mark.parametrize("growth", [1.0, 1.05], ids=["the same size", "grown by 5 %"])
def test_new_kernels_cost_themselves_and_nothing_behind_them_moves(growth: float) -> None:
    new = {name: noise(f"new {name}", int(size * growth)) for name, size in KERNELS.items()}
    with disk_holding(files_before()) as disk:
        before = slot_b(disk)
        kept = {name: before.extents(name) for name in files_before() if name not in KERNELS}

        staged = staged_onto(disk, files_with(**new))

        changed = sum(len(data) for data in new.values())
        assert staged.bytes_written == disk.medium.bytes <= 1.05 * changed
        after = slot_b(disk)
        assert {name: after.extents(name) for name in kept} == kept
        assert {name: contents(disk)[name] for name in KERNELS} == new


def test_another_readme_costs_its_size_and_twelve_kib() -> None:
    readme = noise("other readme", 28_000)
    with disk_holding(files_before()) as disk:
        staged = staged_onto(disk, files_with(overlays__README=readme))

        assert staged.bytes_written == disk.medium.bytes <= len(readme) + JOURNAL_AND_BOOT_SECTORS
        assert contents(disk)["overlays/README"] == readme


def test_the_slot_is_invalid_before_the_first_changed_byte_and_valid_with_the_last() -> None:
    """G2: on the medium, so a flush stands between them."""
    with disk_holding(files_before()) as disk:
        _, size = disk.place(3)

        staged_onto(disk, files_with(**{"config.txt": noise("config", len(CONFIG))}))

        written = disk.medium.of(Slot.B)
        invalid, content, valid = written[:2], written[2:-2], written[-2:]
        boot, backup = invalid[0][0], invalid[1][0]
        assert (boot, backup) == (0, 6 * 512)
        assert all(data == bytes(512) for _, data in invalid)
        assert [offset for offset, _ in valid] == [boot, backup]
        assert valid[0][1][510:] == b"\x55\xaa"
        assert not any(offset < 512 or offset <= backup < offset + len(data) for offset, data in content)
        events = disk.medium.events
        slot_events = [index for index, event in enumerate(events) if event is not None and event[0] == 3]
        assert None in events[slot_events[1] : slot_events[2]]
        assert None in events[slot_events[-3] : slot_events[-2]]
        assert all(offset + len(data) <= size for offset, data in written)


def test_every_restage_comes_back_whole_and_clean(tmp_path: Path) -> None:
    steps = (
        files_with(**{"config.txt": CONFIG * 9}),
        files_with(**{name: noise(f"newer {name}", int(size * 1.05)) for name, size in KERNELS.items()}),
        {name: data for name, data in files_before().items() if not name.startswith("overlays/overlay-1")},
        files_before(),
    )
    with disk_holding(files_before()) as disk:
        for files in steps:
            staged_onto(disk, files)

            assert contents(disk) == files
            image = tmp_path / "slot.img"
            image.write_bytes(disk.bytes_of(3))
            subprocess.run(["fsck.vfat", "-n", image], check=True, capture_output=True)


def test_a_full_stage_writes_the_tree_once_and_little_else() -> None:
    disk = RecordingDisk(card(fat=FatType.FAT32))
    start, size = disk.place(3)
    disk.image[start : start + size] = bytes(size)

    staged = staged_onto(disk, files_before())

    sectors = [
        sector
        for offset, data in disk.medium.of(Slot.B)[2:-2]  # without the boot sectors
        for sector in range(offset // 512, (offset + len(data)) // 512)
    ]
    assert len(sectors) == len(set(sectors))
    geometry = slot_b(disk).geometry
    fat = range(geometry.fat_offset(0) // 512, geometry.fat_offset(geometry.fat_count) // 512)
    assert set(fat) <= set(sectors)
    payload = sum(len(data) for data in files_before().values())
    # Clusters of 512 bytes; a FAT of this volume is 0.26 MiB, twice, beside a tree of 6 MiB.
    assert staged.bytes_written == disk.medium.bytes <= 1.02 * payload + 2 * geometry.fat_size


def test_on_an_empty_volume_equal_fat_sectors_stay_and_its_free_clusters_are_not_read() -> None:
    """As `mkfs.vfat` leaves it: mostly free, with a FAT that is mostly zero already."""
    disk = RecordingDisk(card(fat=FatType.FAT32))
    start, size = disk.place(3)
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "empty.img")
        image.write_bytes(bytes(size))
        subprocess.run(["mkfs.vfat", "-F", "32", "-s", "1", image], check=True, capture_output=True)
        disk.image[start : start + size] = image.read_bytes()
        # Junk where no file is: nobody may mind, and nobody may read it before it is written over.
        empty = FatVolume(disk.open_partition(3, start, size))
        junk = start + empty.geometry.cluster_offset(3)
        disk.image[junk : start + size] = noise("junk", start + size - junk)
    disk.bytes_read[3] = 0

    dry = BootManager(disk).stage(write_tree(_scratch(), files_before()), dry_run=True)

    assert disk.bytes_read[3] <= empty.geometry.data_start + 64 * KIB
    staged = staged_onto(disk, files_before())
    assert contents(disk) == files_before()
    used = -(-staged.bytes_total // 512) * 4  # bytes of FAT entries that the tree needs, per copy
    payload = staged.bytes_total + 90 * 512  # half a sector each is lost behind the files
    assert dry.bytes_written <= payload + 2 * (used + 16 * KIB) + 64 * KIB
    assert 2 * empty.geometry.fat_size > 4 * used


@functools.cache
def _scratch() -> Path:
    _KEPT.append(tempfile.TemporaryDirectory())
    return Path(_KEPT[0].name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def test_a_journal_entry_writes_only_the_sectors_that_it_changes() -> None:
    with disk_holding(files_before()) as disk:
        staged_onto(disk, files_with(**{"config.txt": CONFIG + b"#\n"}))

        journal = [(offset, data) for number, offset, data in disk.medium.writes if number == 1]
        assert len(journal) == 2
        assert all(0 < len(data) < 4096 and len(data) % 512 == 0 for _, data in journal)
        assert all(data[-512:].strip(b"\0") for _, data in journal)
        log = BootManager(disk).log()
        assert [entry.sequence for entry in log] == sorted(entry.sequence for entry in log)
