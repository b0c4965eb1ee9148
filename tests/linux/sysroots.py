"""A folder that looks like the running system of a Raspberry Pi: for tests of everything that takes ``--sysroot``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import attrs

BOOT_ID = "6a1f5a3e-93d5-4b0e-8f0c-3f6a7b2c1d00"
NEW_BOOTLOADER = 1746713597  # 2025-05-08
PI4 = "Raspberry Pi 4 Model B Rev 1.4"


@attrs.frozen(kw_only=True)
class FakePartition:
    """A partition as sysfs shows it, and where it is mounted, if it is."""

    start: int  # bytes
    size: int  # bytes
    mounted_at: str | None = None
    writable: bool = True


def make_sysroot(
    tmp_path: Path,
    partition: int | bytes | None = 2,
    tryboot: int | bytes | None = 0,
    model: str | None = PI4,
    build: int | bytes | None = NEW_BOOTLOADER,
    boot_mode: int | bytes | None = 1,
    systemd: bool = True,
    vcio: bool = True,
    *,
    boot_id: str = BOOT_ID,
    disk: Path | None = None,
    disk_name: str = "mmcblk0",
    partitions: Mapping[int, FakePartition] | None = None,
) -> str:
    """Make ``tmp_path/sysroot``, of a Pi 4 that booted partition 2 of its card; returns its path.

    ``bytes`` instead of a number are written as they are (a malformed cell), ``None`` leaves the property out.
    ``disk`` becomes ``dev/<disk_name>`` by a link, so writes to it change that very file.
    """
    root = tmp_path / "sysroot"
    node = root / "proc/device-tree/chosen/bootloader"
    node.mkdir(parents=True)
    cells = {"partition": partition, "tryboot": tryboot, "boot-mode": boot_mode, "build-timestamp": build, "rsts": 0x20}
    for name, value in cells.items():
        if value is not None:
            (node / name).write_bytes(value if isinstance(value, bytes) else value.to_bytes(4, "big"))
    if model is not None:
        (root / "proc/device-tree/model").write_bytes(model.encode() + b"\0")
    (root / "proc/sys/kernel/random").mkdir(parents=True)
    (root / "proc/sys/kernel/random/boot_id").write_text(f"{boot_id}\n")
    (root / "proc/self").mkdir()
    (root / "proc/self/mountinfo").write_text("21 1 0:20 / /proc rw - proc proc rw\n")
    (root / "dev").mkdir()
    (root / "run").mkdir()
    if systemd:
        (root / "run/systemd/system").mkdir(parents=True)
    if vcio:
        (root / "dev/vcio").touch()
    if disk is not None:
        (root / "dev" / disk_name).symlink_to(os.path.abspath(disk))
    add_disk(root, disk_name, 179, partitions or {})
    return str(root)


def add_disk(root: str | Path, name: str, major: int, partitions: Mapping[int, FakePartition]) -> None:
    """Show one more disk in ``sys/class/block``, and the mounts of its partitions."""
    root = Path(root)
    base = root / "sys/class/block" / name
    (base / "queue").mkdir(parents=True)
    (base / "queue/logical_block_size").write_text("512\n")
    (base / "dev").write_text(f"{major}:0\n")
    for number, item in partitions.items():
        entry = base / (f"{name}p{number}" if name[-1].isdigit() else f"{name}{number}")
        entry.mkdir()
        (base.parent / entry.name).symlink_to(f"{name}/{entry.name}")  # sysfs lists disks and partitions flat
        facts = {
            "partition": number,
            "start": item.start // 512,
            "size": item.size // 512,
            "dev": f"{major}:{number}",
        }
        for key, value in facts.items():
            (entry / key).write_text(f"{value}\n")
        if item.mounted_at is not None:
            access = "rw" if item.writable else "ro"
            with (root / "proc/self/mountinfo").open("a") as file:
                file.write(
                    f"{40 + number} 21 {major}:{number} / {item.mounted_at} {access},noatime "
                    f"- vfat /dev/{entry.name} {access}\n"
                )
