"""Small whole cards for tests: trees that a Pi 4 and a Pi 5 boot, images built once, and copies that cost nothing.

A :class:`CardDisk` is an image in memory, copy on write: a test may cut its power after every write and start again
from the same state a hundred times in a second.
"""

from __future__ import annotations

import functools
import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import attrs
import pytest

from abboot.config import Config
from abboot.core.firmware import Board, Boot, Eeprom, Model, ResetKind
from abboot.core.protocols import BlockDevice, Buffer, Mount
from abboot.core.words import FatType, Slot
from abboot.errors import Locked
from abboot.simulator import SimulatedPi

MIB = 1 << 20
NUMBERS: Mapping[Slot, int] = {Slot.A: 2, Slot.B: 3}
SELECTOR_SIZE = 17 * MIB  # about the least that a FAT16 with clusters of 4 KiB can have
SLOT_SIZE = 3 * MIB

#: Boards that decide differently: the walk on and off, start4.elf or not, the first bootloader after A/B support.
BOARDS: Mapping[str, Board] = {
    "pi4": Board(model=Model.PI_4),
    "pi4-no-walk": Board(model=Model.PI_4, eeprom=Eeprom(partition_walk=False)),
    "pi4-2022-12": Board(model=Model.PI_4, bootloader=date(2022, 12, 1)),
    "pi5": Board(model=Model.PI_5),
    "pi5-no-walk": Board(model=Model.PI_5, eeprom=Eeprom(partition_walk=False)),
}

#: No health checks, no waiting: what is not said in a test does not matter in it.
CONFIG = Config(health=attrs.evolve(Config().health, stable_for_s=0.0))


def _noise(seed: str, size: int) -> bytes:
    block = hashlib.sha256(seed.encode()).digest()
    return (block * (size // len(block) + 1))[:size]


def tree_files(version: str, *, kernel_size: int = 40_000) -> dict[str, bytes]:
    """A boot tree; two versions differ in kernel, initramfs size and command line and share the rest."""
    return {
        "config.txt": b"arm_64bit=1\nkernel=kernel8.img\nkernel_watchdog_timeout=60\n",
        "cmdline.txt": f"console=tty1 root=LABEL=root rootwait panic=10 version={version}\n".encode(),
        "start4.elf": _noise("start4", 9_000),
        "fixup4.dat": _noise("fixup4", 700),
        "kernel8.img": _noise(f"kernel {version}", kernel_size),
        "bcm2711-rpi-4-b.dtb": _noise("dtb4", 3_000),
        "bcm2712-rpi-5-b.dtb": _noise("dtb5", 3_100),
        "overlays/README": b"overlays\n",
        "overlays/disable-bt-with-a-long-name.dtbo": _noise("dtbo", 900),
        f"initramfs-{version}": _noise(f"initramfs {version}", 5_000),
    }


#: A tree that the firmware of no board boots: it passes it by.
UNBOOTABLE = {"readme.txt": b"no firmware here\n", "cmdline.txt": b"root=LABEL=root panic=10\n"}
#: A tree that the firmware starts and that never comes up: no kernel (start4.elf blinks, a Pi 5 stops).
HANGING = {name: data for name, data in tree_files("hanging").items() if not name.startswith(("kernel", "initr"))}


def write_tree(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@functools.cache
def tree(version: str) -> Path:
    """The folder with the tree of this version: ``v1``, ``v2``, ..., ``unbootable`` or ``hanging``."""
    files = {"unbootable": UNBOOTABLE, "hanging": HANGING}.get(version) or tree_files(version)
    return write_tree(scratch() / f"tree-{version}", files)


@functools.cache
def scratch() -> Path:
    place = "/dev/shm" if os.path.isdir("/dev/shm") else None
    _KEPT.append(tempfile.TemporaryDirectory(prefix="abboot-cards-", dir=place))
    return Path(_KEPT[-1].name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def make_card(path: Path, source: Path, primary: Slot = Slot.A, *, fat: FatType = FatType.FAT16) -> Path:
    """A small valid card, both slots filled from ``source``.  Skips the test where pyparted is not installed."""
    pytest.importorskip("parted", reason="pyparted is not installed (pip install 'abboot[image]')")
    from abboot.image import DiskSpec, ImageSpec, SelectorSpec, SlotsSpec, build

    spec = ImageSpec(
        disk=DiskSpec(id="ab007e57"),
        selector=SelectorSpec(size=SELECTOR_SIZE),
        # 65525 clusters of 512 bytes are the least that a FAT32 can have.
        slots=SlotsSpec(
            size=SLOT_SIZE if fat is not FatType.FAT32 else 34 * MIB, fat=fat, cluster=512, primary=primary
        ),
    )
    build(spec, path, tree=source)
    return path


@functools.cache
def card(primary: Slot = Slot.A, fat: FatType = FatType.FAT16) -> Path:
    """The card that every test starts from; never written to: copy it, or open it as a :class:`CardDisk`."""
    return make_card(scratch() / f"card-{primary}-{fat.name}.img", tree("v1"), primary, fat=fat)


class CardDisk:
    """An image in memory.  Writes never reach the file it came from."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self.image = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self.name = path.name
        self.size_bytes = len(self.image)
        self.block_size_bytes = 512
        self._locked = False

    def read(self, offset: int, length: int) -> bytes:
        return self.image[offset : offset + length]

    def open_partition(self, number: int, start: int, size: int, *, writable: bool = False) -> BlockDevice:
        return _Window(self, number, start, size, writable=writable)

    def mounts_of(self, number: int) -> tuple[Mount, ...]:
        return ()

    @contextmanager
    def lock(self) -> Iterator[None]:
        if self._locked:
            raise Locked(f"cannot lock {self.name}: another abboot has it")
        self._locked = True
        try:
            yield
        finally:
            self._locked = False

    def close(self) -> None: ...

    def bytes_of(self, number: int) -> bytes:
        start, size = self.place(number)
        return self.image[start : start + size]

    def place(self, number: int) -> tuple[int, int]:
        """Start and size of a partition in bytes, from the MBR itself."""
        row = self.image[446 + 16 * (number - 1) : 462 + 16 * (number - 1)]
        return int.from_bytes(row[8:12], "little") * 512, int.from_bytes(row[12:16], "little") * 512

    def digest(self) -> str:
        return hashlib.sha256(self.image).hexdigest()

    def save(self, path: Path) -> Path:
        """As a file, with holes where there are zeros: to start again from, or for mtools and fsck.vfat."""
        path.unlink(missing_ok=True)  # another card may still be the file of that name
        with path.open("wb") as file:
            for offset in range(0, self.size_bytes, 1 << 16):
                piece = self.image[offset : offset + (1 << 16)]
                if piece.count(0) != len(piece):
                    file.seek(offset)
                    file.write(piece)
            file.truncate(self.size_bytes)
        return path


class _Window:
    """A partition of a :class:`CardDisk`."""

    block_size_bytes = 512

    def __init__(self, disk: CardDisk, number: int, start: int, size: int, *, writable: bool) -> None:
        self.name = f"{disk.name} partition {number}"
        self.size_bytes = size
        self._disk, self._start, self._writable = disk, start, writable

    def read(self, offset: int, length: int) -> bytes:
        self._check(offset, length)
        return self._disk.image[self._start + offset : self._start + offset + length]

    def write(self, offset: int, data: Buffer) -> None:
        length = memoryview(data).nbytes
        self._check(offset, length)
        assert self._writable
        assert offset % 512 == length % 512 == 0
        self._disk.image[self._start + offset : self._start + offset + length] = bytes(data)

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise ValueError(f"{length} bytes at {offset} are outside of {self.name}")

    def flush(self) -> None: ...

    def forget_cache(self) -> None: ...

    def close(self) -> None: ...


class CardPi(SimulatedPi):
    """A simulated Pi with a card of its own in memory."""

    def __init__(self, card: CardDisk, board: Board, config: Config) -> None:
        self.card = card
        super().__init__(card, board=board, config=config)

    def would_boot_cold(self) -> tuple[Boot, ...]:
        """Every boot that switching it on could end in, with what nobody knows answered both ways."""
        return self.would_boot(ResetKind.POWER_CUT)


def new_pi(
    path: Path | None = None, *, board: Board | str = "pi4", config: Config = CONFIG, primary: Slot = Slot.A
) -> CardPi:
    """A Pi that was just switched on; by default with the card that every test starts from."""
    return CardPi(CardDisk(path or card(primary)), BOARDS[board] if isinstance(board, str) else board, config)
