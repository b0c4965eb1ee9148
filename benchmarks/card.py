"""A card of a Raspberry Pi in small: a loop device with partitions, as fast as a card, that counts what it is given.

Needs root.  The bandwidth is limited by the kernel's block I/O controller, version 2 (``io.max``) or 1
(``blkio.throttle``), whichever this machine has.  What is counted comes from the kernel as well
(``/sys/block/loopN/stat``), so it is the same for everybody, however they write.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECTOR = 512  # bytes; the unit of /sys/block/*/stat, whatever the device's own is
WRITES_COMPLETED, SECTORS_WRITTEN = 4, 6  # fields of it: Documentation/block/stat.rst
_GROUP = "abboot-bench"


class Unavailable(Exception):
    """This machine has no such card; the message says what is missing."""


class Card:
    """An attached image.  ``node`` is the disk, ``slot`` the partition to be written."""

    def __init__(self, node: str, slot: str) -> None:
        self.node = node
        self.slot = slot
        self._name = Path(node).name

    @property
    def number(self) -> str:
        return Path(f"/sys/block/{self._name}/dev").read_text().strip()

    def counters(self) -> tuple[int, int]:
        """Write requests and bytes that the device completed so far."""
        fields = Path(f"/sys/block/{self._name}/stat").read_text().split()
        return int(fields[WRITES_COMPLETED]), int(fields[SECTORS_WRITTEN]) * SECTOR

    def flush(self) -> None:
        """What writers left in the page cache goes to the device."""
        for node in (self.slot, self.node):
            descriptor = os.open(node, os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@contextmanager
def attached(image: Path, partition: int) -> Iterator[Card]:
    """The image as a device, with a node for each partition.  Raises :class:`Unavailable`."""
    if os.geteuid() != 0:
        raise Unavailable("a loop device needs root: run `sudo make bench`")
    try:
        made = subprocess.run(["losetup", "-f", "--show", str(image)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Unavailable("losetup is not installed (Debian package mount)") from None
    if made.returncode:
        raise Unavailable(f"no loop device: {made.stderr.strip()}")
    node = made.stdout.strip()
    try:
        subprocess.run(["partx", "-u", node], capture_output=True, check=False)
        slot = f"{node}p{partition}"
        if not Path(slot).exists():
            raise Unavailable(f"the kernel made no node for {slot}")
        yield Card(node, slot)
    finally:
        subprocess.run(["partx", "-d", node], capture_output=True, check=False)
        subprocess.run(["losetup", "-d", node], check=True)


@contextmanager
def throttled(card: Card, bytes_per_s: int, requests_per_s: int = 0) -> Iterator[None]:
    """While in the block, processes started by this one write no faster.  Raises :class:`Unavailable`."""
    if (two := Path("/sys/fs/cgroup/cgroup.controllers")).exists() and "io" in two.read_text().split():
        with _version_2(card, bytes_per_s, requests_per_s):
            yield
        return
    own = next((line for line in Path("/proc/self/cgroup").read_text().splitlines() if ":blkio:" in line), None)
    if own is None:
        raise Unavailable("no block I/O controller: the kernel has neither io.max nor blkio.throttle")
    folder = Path("/sys/fs/cgroup/blkio") / own.rpartition(":")[2].lstrip("/")
    limits = {"write_bps": bytes_per_s, "write_iops": requests_per_s}
    try:
        for name, limit in limits.items():
            (folder / f"blkio.throttle.{name}_device").write_text(f"{card.number} {limit}")
    except OSError as error:
        raise Unavailable(f"the block I/O controller refuses: {error}") from None
    try:
        yield
    finally:
        for name in limits:
            (folder / f"blkio.throttle.{name}_device").write_text(f"{card.number} 0")


@contextmanager
def _version_2(card: Card, bytes_per_s: int, requests_per_s: int) -> Iterator[None]:
    root = Path("/sys/fs/cgroup")
    group = root / _GROUP
    home = root / Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip().lstrip("/")
    limit = f"{card.number} wbps={bytes_per_s} wiops={requests_per_s or 'max'}"
    try:
        (root / "cgroup.subtree_control").write_text("+io")
        group.mkdir(exist_ok=True)
        (group / "io.max").write_text(limit)
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError as error:
        raise Unavailable(f"the block I/O controller refuses: {error}") from None
    try:
        yield
    finally:
        (home / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()
