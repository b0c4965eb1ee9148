"""Which disk the firmware booted.

Rules: never by label or PARTUUID, which a second card with the same image shares (H-53).  The firmware's own word
(``boot-mode``) says the kind of disk; what is mounted decides between two of the same kind; if that does not decide
either, nothing is guessed.
Source: Raspberry Pi documentation, BOOT_ORDER: 1 SD or eMMC, 2 network, 3 rpiboot, 4 USB mass storage, 5 USB on the
compute module's own port, 6 NVMe, 7 HTTP.
"""

from __future__ import annotations

import os
import re
import stat

from abboot.errors import DeviceError
from abboot.linux.blockdevice import disk_path
from abboot.linux.devicetree import read_boot_report
from abboot.linux.mounts import read_mounts
from abboot.linux.sysblock import disk_names, partitions_of
from abboot.linux.sysroot import is_live, under

_DISK_OF_MODE = {
    1: re.compile(r"mmcblk\d+"),
    4: re.compile(r"sd[a-z]+"),
    5: re.compile(r"sd[a-z]+"),
    6: re.compile(r"nvme\d+n\d+"),
}
_ANY_DISK = re.compile(r"mmcblk\d+|sd[a-z]+|nvme\d+n\d+")
# In the order in which they tell: the root may well lie on another disk than the boot partitions.
_BOOT_MOUNTS = ("/boot/firmware", "/boot", "/")


def booted_disk(sysroot: str = "/") -> str | None:
    """The node of the disk that the firmware booted; ``None`` if that was none of ours, or nobody says.

    ``None`` also for a network, HTTP or rpiboot boot, and where there is no ``chosen/bootloader`` node.

    Raises:
        DeviceError: several disks could be it; they are listed.
    """
    report = read_boot_report(sysroot)
    if report is None:
        return None
    mounted = _mounted_disks(sysroot)
    if report.boot_mode is None:  # a Pi 3, or an old bootloader: only the mounts can tell
        return under(sysroot, f"dev/{mounted[0]}") if mounted else None
    kind = _DISK_OF_MODE.get(report.boot_mode)
    if kind is None:
        return None
    candidates = [name for name in _disks(sysroot) if kind.fullmatch(name)]
    decided = [name for name in mounted if name in candidates][:1] or candidates
    if len(decided) > 1:
        raise DeviceError(
            f"cannot tell the booted disk: boot-mode is {report.boot_mode}, and there are {', '.join(decided)}",
            "name it with --disk; see which one holds the boot partitions: lsblk -f",
        )
    return under(sysroot, f"dev/{decided[0]}") if decided else None


def is_booted_disk(sysroot: str, path: str) -> bool:
    """Whether the disk at ``path`` is the one that the firmware booted.  An image file never is.

    Below a sysroot other than ``/`` a plain file in its ``dev`` stands for a device.

    Raises:
        DeviceError: as :func:`booted_disk`.
    """
    try:
        found = os.stat(disk_path(path, sysroot))
    except (OSError, ValueError):
        return False
    if is_live(sysroot) and not stat.S_ISBLK(found.st_mode):
        return False
    booted = booted_disk(sysroot)
    if booted is None and read_boot_report(sysroot) is None:
        # Nobody says what was booted; but what this system runs from is no stranger's disk (G4).
        mounted = _mounted_disks(sysroot)
        booted = under(sysroot, f"dev/{mounted[0]}") if mounted else None
    if booted is None:
        return False
    try:
        other = os.stat(booted)
    except OSError:
        return False
    if stat.S_ISBLK(found.st_mode) and stat.S_ISBLK(other.st_mode):
        return found.st_rdev == other.st_rdev
    return os.path.samestat(found, other)


def _disks(sysroot: str) -> list[str]:
    """Every disk that could boot a Pi, as sysfs or, in a bare sysroot, ``dev`` names it."""
    names = set(disk_names(sysroot))
    if not names:
        try:
            names = set(os.listdir(under(sysroot, "dev")))
        except OSError:
            return []
    return sorted(name for name in names if _ANY_DISK.fullmatch(name))


def _mounted_disks(sysroot: str) -> list[str]:
    """The disks of the boot partition and of the root, the more telling first; none for what is on no partition."""
    disk_of = {
        key: disk
        for disk in _disks(sysroot)
        for partition in partitions_of(disk, sysroot)
        for key in (partition.device, f"/dev/{partition.name}")
        if key is not None
    }
    top = {entry.path: entry for entry in read_mounts(sysroot)}  # of several on one path, the last is on top
    found = []
    for path in _BOOT_MOUNTS:
        entry = top.get(path)
        disk = (disk_of.get(entry.device) or disk_of.get(entry.source)) if entry is not None else None
        if disk is not None and disk not in found:
            found.append(disk)
    return found
