"""What the doctor looks at, as plain values: gathered once by :mod:`abboot.doctor.gather`, judged by the probes.

Rules: ``None`` always means that nobody told, never "no"; a probe then says that it could not see.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import attrs

from abboot.core.firmware import Board, Tri
from abboot.core.partition_table import Partition, PartitionTable
from abboot.core.protocols import BootReport
from abboot.core.words import FatType, Phase, Slot


@attrs.frozen(kw_only=True)
class Tree:
    """The files of one boot partition, or of a folder that is to become one.

    Args:
        name: for sentences: ``slot a``, or ``the tree`` for a folder.
        files: path as stored to size in bytes.
        config: ``config.txt``; ``None`` if there is none, or it cannot be read.
        cmdline: the command line that ``config.txt`` names; likewise.
        builds: build dates of those of ``start4.elf`` and ``start.elf`` that are there; ``None`` if one does not tell.
        blind_device_trees: device trees that do not know ``early-watchdog``.
        bootcode: SHA-256 of ``bootcode.bin``.
    """

    name: str
    files: Mapping[str, int]
    config: str | None = None
    cmdline: str | None = None
    builds: Mapping[str, date | None] = attrs.field(factory=dict)
    blind_device_trees: tuple[str, ...] = ()
    bootcode: str | None = None

    @property
    def texts(self) -> dict[str, str]:
        """For :func:`abboot.core.tree.look_at_tree`."""
        from abboot.core.tree import cmdline_path

        found = {} if self.config is None else {"config.txt": self.config}
        path = cmdline_path(self.files, self.config or "")
        return found if path is None or self.cmdline is None else {**found, path.lower(): self.cmdline}

    def has(self, name: str) -> bool:
        """Whether there is a file of this path, in any case."""
        return any(path.lower() == name for path in self.files)

    @property
    def looks_bootable(self) -> bool:
        """Whether a firmware would take it for a boot partition: by less than what booting takes."""
        names = {path.lower() for path in self.files}
        return bool(names & {"config.txt", "boot.img"}) or any(
            name.startswith("start") and name.endswith(".elf") for name in names
        )


@attrs.frozen(kw_only=True)
class BootPartition:
    """One partition that the firmware may look at.

    Args:
        partition: its row of the table.
        tree: what is on it; ``None`` if it holds no FAT volume that can be read.
        label: of the volume.
        fat: its type; ``None`` where it is read through a mount, which does not tell.
        exfat: an exFAT boot sector, which no firmware opens.
        dirty: it was not unmounted cleanly; ``None`` while it is mounted.
        free_clusters: counted, or as the mounted file system says.
        mounted_at: where, if it is; ``writable``: read-write.
        problem: why it cannot be read.
    """

    partition: Partition
    tree: Tree | None = None
    label: str = ""
    fat: FatType | None = None
    exfat: bool = False
    dirty: Tri = None
    free_clusters: int | None = None
    mounted_at: str = ""
    writable: bool = False
    problem: str = ""


@attrs.frozen(kw_only=True)
class Card:
    """The disk.

    Args:
        name: for messages.
        table: its partition table; ``None`` with ``problem``.
        gpt_entries_lba: the block where the GPT's entries begin.
        selector: partition number; ``None`` if it cannot be told.
        slots: partition numbers.
        partitions: those with a FAT type, or a number that ``autoboot.txt`` names.
        autoboot: the bytes of ``autoboot.txt``; ``None`` if there is none.
        autoboot_problem: why it is not what it should be; empty if it is.
        phase: where the device stands, in :class:`abboot.core.words.Phase`, with ``reason``.
        problem: why selector and slots cannot be told.
    """

    name: str
    table: PartitionTable | None = None
    gpt_entries_lba: int | None = None
    selector: int | None = None
    slots: Mapping[Slot, int] = attrs.field(factory=dict)
    partitions: tuple[BootPartition, ...] = ()
    autoboot: bytes | None = None
    autoboot_problem: str = ""
    phase: Phase | None = None
    reason: str = ""
    booted: Slot | None = None
    primary: Slot | None = None
    inactive: Slot | None = None
    problem: str = ""

    def partition(self, number: int | None) -> BootPartition | None:
        return next((found for found in self.partitions if found.partition.number == number), None)

    def slot(self, slot: Slot) -> BootPartition | None:
        return self.partition(self.slots.get(slot))


@attrs.frozen(kw_only=True)
class OtherDisk:
    """Another disk of this system: what could make somebody mistake it for the booted one."""

    name: str
    disk_id: str
    labels: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Watchdog:
    """``/sys/class/watchdog/watchdog0``."""

    state: str | None = None  # "active": a program has it open


@attrs.frozen(kw_only=True)
class System:
    """The board, and the system that runs on it.

    Args:
        board: model, revision, bootloader and its configuration; ``None`` if the model is none that we know.
        bootloader: its build date; ``None`` if it does not tell (``board`` then has a guess).
        report: the device tree's ``chosen/bootloader``.
        signed: ``chosen/bootloader/signed``, as it is.
        flag: the one-shot flag; ``None``: there is no way to ask.
        argument: what the next reboot would carry.
        eeprom: the bootloader's configuration, ``KEY`` to value; ``None`` if it cannot be read.
        kernel: as ``uname -r``.
        mailbox: there is a device to set the flag with.
        notifier: the kernel passes ``0 tryboot`` on.
        reboot_program: where ``/sbin/reboot`` leads; empty if there is none.
        systemd: it is what runs as PID 1.
        runtime_watchdog_s: ``RuntimeWatchdogSec``; 0: off.
        watchdog: the hardware watchdog; ``None`` if there is none.
        disarms: Raspberry Pi OS's initramfs script that disarms the watchdog is installed.
        hooks: package scripts that write to the boot partition.
        booted_from_sd: the booted disk is an SD card (eMMC: false).
        other_disks: those that hold a partition table.
        usb_disks: how many.
        boot_mounts: mount point to device, of ``/boot/firmware`` and ``/boot``.
        booted_nodes: number of each partition of the booted disk to its device.
        units: abboot's units that are installed; ``enabled``: those that are started on every boot.
        unit_problems: what systemd says of them; ``None``: it was not asked.
        missing_tools: configured commands that are not there.
        under_voltage: too low a supply voltage, now.
    """

    board: Board | None = None
    bootloader: date | None = None
    report: BootReport | None = None
    signed: int | None = None
    flag: bool | None = None
    argument: str | None = None
    eeprom: Mapping[str, str] | None = None
    kernel: str | None = None
    mailbox: Tri = None
    notifier: Tri = None
    reboot_program: str | None = None
    systemd: Tri = None
    runtime_watchdog_s: float | None = None
    watchdog: Watchdog | None = None
    disarms: Tri = None
    hooks: tuple[str, ...] | None = None
    booted_from_sd: Tri = None
    other_disks: tuple[OtherDisk, ...] | None = None
    usb_disks: int | None = None
    boot_mounts: Mapping[str, str] | None = None
    booted_nodes: Mapping[int, str] = attrs.field(factory=dict)
    units: tuple[str, ...] | None = None
    enabled: frozenset[str] | None = None
    unit_problems: tuple[str, ...] | None = None
    missing_tools: tuple[str, ...] | None = None
    under_voltage: Tri = None


@attrs.frozen(kw_only=True)
class Facts:
    """Everything.  ``system`` is ``None`` for an image and for another system's disk; ``card`` where only ``folder``,
    a tree that is to be staged, is looked at."""

    card: Card | None = None
    system: System | None = None
    folder: Tree | None = None

    @property
    def trees(self) -> tuple[Tree, ...]:
        """What may be booted: both slots, or the folder."""
        if self.folder is not None:
            return (self.folder,)
        if self.card is None:
            return ()
        found = [self.card.slot(slot) for slot in Slot]
        return tuple(each.tree for each in found if each is not None and each.tree is not None)
