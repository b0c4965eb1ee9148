"""The seams to hardware.  Each has two implementations: the kernel's in :mod:`abboot.linux`, the simulator's.

Sizes and offsets are bytes, times are seconds.  Nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import attrs

from abboot.core.value import Value

Buffer = bytes | bytearray | memoryview


class BlockDevice(Protocol):
    """One partition (or a whole disk) as a bounded range of bytes.

    A call outside ``[0, size_bytes)`` is a bug of the caller and raises ``ValueError`` before anything is touched.
    Writes are aligned to ``block_size_bytes`` in offset and length.  I/O errors are raised as
    :class:`abboot.errors.DeviceError`.
    """

    @property
    def name(self) -> str:
        """For messages: ``card.img partition 2`` or ``/dev/mmcblk0p2``."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def block_size_bytes(self) -> int:
        """The logical block: the unit that the medium is assumed to write whole or not at all."""

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes, at any alignment."""

    def write(self, offset: int, data: Buffer) -> None:
        """Write all of ``data``.  Durable only after :meth:`flush`."""

    def flush(self) -> None:
        """Return once everything written so far is on the medium, as far as the device tells the truth."""

    def forget_cache(self) -> None:
        """Drop cached content, so that the next read comes from the medium (G2, G5)."""

    def close(self) -> None: ...


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Mount(Value):
    """Where a partition is mounted in this system."""

    path: str
    writable: bool
    whole: bool = True  # False: a folder of it, or hidden below another mount; nothing can be read through it


class Disk(Protocol):
    """The block device or image file that holds selector and slots."""

    @property
    def name(self) -> str: ...

    @property
    def size_bytes(self) -> int: ...

    @property
    def block_size_bytes(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes:
        """For the partition table.  Partitions are read through :meth:`open_partition`."""

    def open_partition(self, number: int, start: int, size: int, *, writable: bool = False) -> BlockDevice:
        """Open partition ``number``, exclusively if ``writable``.

        On a block device this is the partition's own node (never the disk plus an offset: readers of the node would
        see stale pages), with ``O_EXCL`` when writable.

        Raises:
            DeviceError: no such node, or it is mounted or held by somebody else (when ``writable``).
        """

    def mounts_of(self, number: int) -> tuple[Mount, ...]:
        """Where partition ``number`` is mounted now; empty for image files."""

    def lock(self) -> AbstractContextManager[None]:
        """Exclusive among abboots; raises :class:`abboot.errors.Locked`."""

    def close(self) -> None: ...


@attrs.frozen(kw_only=True, eq=False, repr=False)
class BootReport(Value):
    """What the firmware told the running kernel in ``chosen/bootloader`` (device-tree.adoc, "Firmware parameters").

    ``None`` means that the property is missing or is not four bytes long.
    """

    partition: int | None = None
    tryboot: bool | None = None
    boot_mode: int | None = None  # BOOT_ORDER nibble: 1 SD/eMMC, 2 network, 4 USB, 6 NVMe
    rsts: int | None = None
    build_timestamp: int | None = None  # unix time of the EEPROM build
    capabilities: int | None = None
    model: str | None = None  # /proc/device-tree/model
    bootargs: str | None = None  # the kernel's command line, as the firmware made it


class Mailbox(Protocol):
    """The one-shot tryboot flag of the firmware."""

    def tryboot_flag(self) -> bool | None:
        """The flag as the firmware reports it; ``None`` where there is no way to ask (mainline kernel: H-29)."""

    def set_tryboot_flag(self, value: bool) -> None:
        """Set or clear it.  The caller reads it back.  Raises :class:`abboot.errors.DeviceError`."""


class Rebooter(Protocol):
    """How this system reboots, and what its next reboot would carry."""

    def pending_argument(self) -> str | None:
        """The argument the next ordinary reboot would hand to the kernel (``/run/systemd/reboot-param``: H-12)."""

    def set_argument(self, argument: str) -> None:
        """Leave ``argument`` for the next reboot, where the system has a place for it; else do nothing."""

    def clear_argument(self) -> None:
        """Remove a pending argument.  Idempotent."""

    def inhibitors(self) -> tuple[str, ...]:
        """Who asks for no reboot now, each as ``name: reason``; empty where nobody does or can."""

    def reboot(self, argument: str | None) -> None:
        """Ask for a reboot; returns once the request was accepted.  ``argument`` is ``"0 tryboot"`` or ``None``."""


class Clock(Protocol):
    """Time.  A Pi has none at early boot: sequence numbers order, clocks inform."""

    def realtime_s(self) -> float: ...

    def boottime_s(self) -> float:
        """Seconds since this boot, counting suspend."""

    def sleep(self, seconds: float) -> None: ...


class Machine(Protocol):
    """The running board: what its firmware reported, and its volatile state."""

    @property
    def mailbox(self) -> Mailbox: ...

    @property
    def rebooter(self) -> Rebooter: ...

    @property
    def clock(self) -> Clock: ...

    def boot_report(self) -> BootReport | None:
        """``None`` when there is no ``chosen/bootloader`` node: not a Pi, or booted past its firmware."""

    def under_voltage(self) -> bool | None:
        """Whether the supply voltage is too low to write (H-47); ``None`` where nobody tells."""

    def boot_id(self) -> str:
        """Names this boot (``/proc/sys/kernel/random/boot_id``)."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class FileInfo(Value):
    """One regular file of a volume."""

    path: str  # "overlays/README": relative, "/"-separated, as stored
    size: int


class Volume(Protocol):
    """A readable file tree: a FAT volume read from its device, or a mounted one read through its mount (G9).

    Names are looked up case-insensitively, as FAT does.
    """

    def files(self) -> tuple[FileInfo, ...]:
        """Every regular file, in directory order.  Raises :class:`abboot.errors.Damaged`."""

    def find(self, path: str) -> FileInfo | None: ...

    def chunks(self, path: str) -> Iterator[bytes]:
        """The content of one file.  Raises :class:`abboot.errors.Damaged` where it cannot be followed."""

    def read_file(self, path: str, limit: int) -> bytes:
        """The whole content; raises :class:`abboot.errors.Damaged` if there is none or it is over ``limit``."""
