"""A whole device in a folder: a card, and what the kernel of a Raspberry Pi shows of itself, boot after boot."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

from abboot.config import Config
from abboot.linux.sysroot import recorded_requests
from abboot.manager import BootManager
from tests.cards import CONFIG, CardDisk
from tests.cli.command import new_card
from tests.linux.sysroots import FakePartition, make_sysroot


class FakeBoard:
    """Below its root nothing is really done: a reboot is recorded there, and the test says what it came to."""

    def __init__(self, folder: Path, config: Config = CONFIG, **system: Any) -> None:
        self.card = new_card(folder)
        disk = CardDisk(self.card)
        partitions = {}
        for number in (1, 2, 3):
            start, size = disk.place(number)
            partitions[number] = FakePartition(start=start, size=size)
        self.root = Path(make_sysroot(folder, disk=self.card, partitions=partitions, **system))
        self.config = config

    def manager(self) -> BootManager:
        return BootManager.from_system(str(self.root), config=self.config)

    def boots(self, partition: int, *, tryboot: bool = False) -> None:
        """The reboot happens: the firmware starts this partition, with or without the flag."""
        node = self.root / "proc/device-tree/chosen/bootloader"
        (node / "partition").write_bytes(partition.to_bytes(4, "big"))
        (node / "tryboot").write_bytes(int(tryboot).to_bytes(4, "big"))
        (self.root / "proc/sys/kernel/random/boot_id").write_text(f"{uuid.uuid4()}\n")
        shutil.rmtree(self.root / "run")
        (self.root / "run/systemd/system").mkdir(parents=True)

    def mounts(self, partition: int, path: str = "/boot/firmware", *, writable: bool = True) -> None:
        """The partition is mounted from now on; its files are those of the card now."""
        place = self.root / path.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        start, _size = CardDisk(self.card).place(partition)
        copy = ["mcopy", "-s", "-n", "-i", f"{self.card}@@{start}", "::", str(place)]
        subprocess.run(copy, check=True, capture_output=True, stdin=subprocess.DEVNULL)
        access = "rw" if writable else "ro"
        with (self.root / "proc/self/mountinfo").open("a") as file:
            file.write(
                f"{60 + partition} 21 179:{partition} / {path} {access} - vfat /dev/mmcblk0p{partition} {access}\n"
            )

    @property
    def requests(self) -> list[str]:
        """What was asked of the kernel in this boot."""
        return [entry["request"] for entry in recorded_requests(str(self.root))]

    @property
    def argument(self) -> str | None:
        """What the next ordinary reboot would carry."""
        place = self.root / "run/systemd/reboot-param"
        return place.read_text().strip() if place.exists() else None

    def write(self, path: str, content: str | bytes) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())
