"""A whole device on a bench: a card, and the sysroot of the board that booted it, clean until something is planted."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path

import attrs
import pytest

from abboot.config import Config
from abboot.core.partition_table import read_partition_table
from abboot.core.words import FatType, TableKind
from abboot.doctor import Finding, Report, examine
from abboot.fat.read import FatVolume
from abboot.manager import BootManager
from tests import cards
from tests.linux.sysroots import PI4, FakePartition, add_disk, make_sysroot

PI5 = "Raspberry Pi 5 Model B Rev 1.0"
PI3 = "Raspberry Pi 3 Model B Plus Rev 1.3"
NEW = date(2026, 9, 23)
PARTITIONS = {"selector": 1, "a": 2, "b": 3}

#: As in start4.elf of Debian's raspi-firmware 1.20220830, with these two marks; the date is the second of them.
BOOKWORM_START4 = (
    b"VC_BUILD_ID_USER: dom\0\0\0VC_BUILD_ID_TIME: 14:03:16\0\0VC_BUILD_ID_VARIANT: start\0\0"
    b"VC_BUILD_ID_TIME: Aug 26 2022\0\0\0VC_BUILD_ID_BRANCH: bcm2711_2\0\0"
)


def start_elf(built: date) -> bytes:
    """Firmware of this day, in the form of real ones."""
    day = f"{built:%b} {built.day:2} {built.year}".encode()
    return bytes(5000) + BOOKWORM_START4.replace(b"Aug 26 2022", day) + bytes(5000)


def clean_files() -> dict[str, bytes]:
    """A tree that nothing is wrong with."""
    files = cards.tree_files("v1")
    for name in files:
        if name.endswith(".dtb"):
            files[name] += b"\0early-watchdog?\0"
    files["start4.elf"] = files["start.elf"] = start_elf(NEW)
    files["fixup.dat"] = files["fixup4.dat"]
    files["cmdline.txt"] = b"console=tty1 root=LABEL=root rootwait panic=10 watchdog_disarm=0\n"
    files["config.txt"] = b"arm_64bit=1\nkernel=kernel8.img\nkernel_watchdog_timeout=120\n"
    return files


@functools.cache
def clean_card(table: TableKind = TableKind.MBR, roots: int = 0) -> Path:
    pytest.importorskip("parted", reason="pyparted is not installed (pip install 'abboot[image]')")
    from abboot.image import DiskSpec, ImageSpec, PartitionSpec, SelectorSpec, SlotsSpec, build

    source = cards.write_tree(cards.scratch() / f"clean-tree-{table}", clean_files())
    spec = ImageSpec(
        disk=DiskSpec(table=table, id="ab007e57" if table is TableKind.MBR else "11111111-2222-3333-4444-ab007e57ab00"),
        selector=SelectorSpec(size=cards.SELECTOR_SIZE),
        slots=SlotsSpec(size=cards.SLOT_SIZE, fat=FatType.FAT16, cluster=512),
        partitions=tuple(PartitionSpec(label=f"root_{'ab'[number]}", size=1 << 20) for number in range(roots)),
    )
    path = cards.scratch() / f"clean-{table}-{roots}.img"
    build(spec, path, tree=source)
    return path


class Bench:
    """Plant what you want, then ask for the report."""

    def __init__(self, tmp_path: Path, *, table: TableKind = TableKind.MBR, roots: int = 0) -> None:
        self.path = tmp_path
        self.card = cards.CardDisk(clean_card(table, roots)).save(tmp_path / "card.img")
        self.settings: dict[str, object] = {"model": PI4, "build": _stamp(NEW), "partition": 2}
        self.config = Config()
        self.files: dict[str, bytes | str | None] = {}  # below the sysroot; None: no such file
        self.links: dict[str, str] = {}
        self.mounts: dict[int, FakePartition] = {}
        self.disks: dict[str, Path] = {}
        self.after: list[Callable[[Path], None]] = []

    # -- the board ----------------------------------------------------------------------------------------------

    def board(self, model: str = PI4, built: date | None = NEW, **more: object) -> None:
        self.settings |= {"model": model, "build": None if built is None else _stamp(built), **more}

    def eeprom(self, text: str) -> None:
        self.files["sys/bus/nvmem/devices/blconfig0/nvmem"] = f"[all]\nBOOT_UART=0\n{text}\n"

    def cell(self, name: str, value: int) -> None:
        self.files[f"proc/device-tree/chosen/bootloader/{name}"] = value.to_bytes(4, "big")

    # -- the card -----------------------------------------------------------------------------------------------

    def put(self, where: str, path: str, content: bytes | str) -> None:
        """A file onto the selector, a slot, or ``both``."""
        data = content if isinstance(content, bytes) else content.encode()
        source = self.path / "planted"
        source.write_bytes(data)
        for name in ("a", "b") if where == "both" else (where,):
            self._mtool(name, "mcopy", "-o", str(source), f"::{path}")

    def remove(self, where: str, path: str) -> None:
        self._mtool(where, "mdel", f"::{path}")

    def edit(self, where: str, path: str, change: Callable[[bytes], bytes]) -> None:
        for name in ("a", "b") if where == "both" else (where,):
            self.put(name, path, change(self.volume(name).read_file(path, 1 << 20)))

    def patch(self, offset: int, data: bytes) -> None:
        with self.card.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def place(self, where: str) -> tuple[int, int]:
        """Where a partition starts, and its size, in bytes."""
        disk = cards.CardDisk(self.card)
        found = read_partition_table(disk.read, disk.size_bytes).get(PARTITIONS[where])
        assert found is not None
        return found.start, found.size

    def start(self, where: str) -> int:
        return self.place(where)[0]

    def volume(self, where: str) -> FatVolume:
        return FatVolume(cards.CardDisk(self.card).open_partition(PARTITIONS[where], *self.place(where)))

    def run(self, *command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)

    def _mtool(self, where: str, tool: str, *words: str) -> None:
        self.run(tool, "-i", f"{self.card}@@{self.start(where)}", *words)

    # -- the answer ---------------------------------------------------------------------------------------------

    def sysroot(self) -> str:
        root = Path(make_sysroot(self.path, disk=self.card, partitions=self.mounts, **self.settings))  # type: ignore[arg-type]
        for name, image in self.disks.items():
            (root / "dev" / name).symlink_to(image)
            add_disk(root, name, 8, {})
        for path, content in (CLEAN_FILES | self.files).items():
            if content is None:
                continue
            place = root / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content if isinstance(content, bytes) else content.encode())
        for path, target in (CLEAN_LINKS | self.links).items():
            if not target:
                continue
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).symlink_to(target)
        for act in self.after:
            act(root)
        return str(root)

    def report(self) -> Report:
        root = self.sysroot()
        with BootManager.from_system(root, config=self.config) as manager:
            return examine(manager, sysroot=root)


CLEAN_FILES: Mapping[str, bytes | str | None] = {
    "proc/sys/kernel/osrelease": "6.12.47+rpt-rpi-v8\n",
    "etc/systemd/system.conf.d/50-watchdog.conf": "[Manager]\nRuntimeWatchdogSec=15s\n",
    "sys/class/watchdog/watchdog0/state": "active\n",
    "sys/class/block/mmcblk0/device/type": "SD\n",
    "sys/bus/nvmem/devices/blconfig0/nvmem": "[all]\nBOOT_UART=0\nBOOT_WATCHDOG_TIMEOUT=60\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "0\n",
    "usr/bin/systemctl": "",
}  # fmt: skip
CLEAN_LINKS: Mapping[str, str] = {"sbin/reboot": "../usr/bin/systemctl"}


def _stamp(built: date) -> int:
    return int(datetime(built.year, built.month, built.day, 12, tzinfo=UTC).timestamp())


def found(report: Report, hazard: str) -> tuple[Finding, ...]:
    return tuple(finding for finding in report.findings if finding.id == hazard)


def with_units(bench: Bench) -> None:
    """abboot's own units, and what systemd needs to look at them."""
    from abboot.units import install_units

    def install(root: Path) -> None:
        for path in ("usr/bin/abboot", "bin/sh", "bin/rm"):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text("#!/bin/sh\n")
            (root / path).chmod(0o755)
        for name in ("basic", "boot-complete", "multi-user", "shutdown", "sysinit", "default", "reboot"):
            unit = root / f"usr/lib/systemd/system/{name}.target"
            unit.parent.mkdir(parents=True, exist_ok=True)
            unit.write_text(f"[Unit]\nDescription={name}\n")
        install_units(str(root), verify=False)

    bench.after.append(install)


def evolve_health(bench: Bench, **changes: object) -> None:
    bench.config = attrs.evolve(bench.config, health=attrs.evolve(bench.config.health, **changes))
