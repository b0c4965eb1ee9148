"""The board that we run on: everything volatile about it, in one place."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from abboot.errors import DeviceError
from abboot.linux.clock import SystemClock
from abboot.linux.devicetree import read_boot_report
from abboot.linux.mailbox import KernelMailbox
from abboot.linux.reboot import SystemRebooter
from abboot.linux.sysroot import read_word, under
from abboot.linux.throttled import under_voltage

if TYPE_CHECKING:
    from abboot.core.protocols import BootReport, Clock, Mailbox, Rebooter

_BOOT_ID = "proc/sys/kernel/random/boot_id"
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class SystemMachine:
    """The :class:`~abboot.core.protocols.Machine` of the kernel whose interfaces are below ``sysroot``."""

    def __init__(self, sysroot: str = "/") -> None:
        self._sysroot = sysroot
        self._mailbox = KernelMailbox(sysroot)
        self._rebooter = SystemRebooter(sysroot)
        self._clock = SystemClock()

    @property
    def mailbox(self) -> Mailbox:
        return self._mailbox

    @property
    def rebooter(self) -> Rebooter:
        return self._rebooter

    @property
    def clock(self) -> Clock:
        return self._clock

    def boot_report(self) -> BootReport | None:
        """What the firmware told this kernel; ``None`` when it told nothing."""
        return read_boot_report(self._sysroot)

    def under_voltage(self) -> bool | None:
        """Whether the firmware sees too low a voltage now; ``None`` where nobody tells."""
        return under_voltage(self._sysroot)

    def boot_id(self) -> str:
        """The kernel's name of this boot, a lower-case UUID.

        Raises:
            DeviceError: the kernel does not tell; without it an arm of this boot cannot be told from an older one.
        """
        word = read_word(under(self._sysroot, _BOOT_ID), 64)
        if word is None or not _UUID.fullmatch(word):
            raise DeviceError(
                f"cannot read the boot id: {word!r} in {under(self._sysroot, _BOOT_ID)}", "mount proc on /proc"
            )
        return word
