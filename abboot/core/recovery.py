"""What brings a device back from each way in which a trial can fail: a table, for this board and configuration.

No I/O.  Rules: a row says yes only for what is configured and what the sources say works; where nobody told, it says
neither yes nor no, and why.

Sources: documentation/asciidoc/computers/config_txt/boot.adoc and raspberry-pi/eeprom-bootloader.adoc (the watchdogs);
release notes of the bootloader; raspberrypi/firmware#1651 (a corrupt kernel hangs); measured on a Pi 4B: a trial whose
initramfs hangs is reset by ``kernel_watchdog_timeout=60``, and the primary is up after 118 s.
"""

from __future__ import annotations

from datetime import date

import attrs

from abboot.core.firmware import Board, Family, Tri

PANIC_S = 10
KERNEL_WATCHDOG_S = 120  # more than the slowest healthy boot: a Pi 4B needs 38 s until ssh answers (measured)
RUNTIME_WATCHDOG_S = 15  # the hardware counts 15.99 s at most (bcm2835_wdt.c)


@attrs.frozen(kw_only=True)
class Nets:
    """The safety nets of a device; ``None``: nobody told.  0 seconds: switched off.

    Args:
        board: the board and its bootloader.
        boot_watchdog_s: ``BOOT_WATCHDOG_TIMEOUT`` of the bootloader's configuration.
        kernel_watchdog_s: ``kernel_watchdog_timeout`` in ``config.txt`` of the slot that is tried.
        initramfs_disarms: the initramfs switches that watchdog off (H-25).
        panic_s: ``panic=`` on its command line; negative: at once.
        runtime_watchdog_s: ``RuntimeWatchdogSec`` of the service manager.
        confirms: ``abboot confirm`` runs on every boot.
        deadline: an independent timer ends a trial that nobody confirmed (G11).
    """

    board: Board | None = None
    boot_watchdog_s: int | None = None
    kernel_watchdog_s: int | None = None
    initramfs_disarms: Tri = None
    panic_s: int | None = None
    runtime_watchdog_s: float | None = None
    confirms: Tri = None
    deadline: Tri = None


@attrs.frozen(kw_only=True)
class Recovery:
    """One row: a failure of the trial, whether something brings the device back by itself, and what."""

    failure: str
    comes_back: Tri
    by: str


def what_brings_it_back(nets: Nets) -> tuple[Recovery, ...]:
    """The table, in the order in which a trial passes through these stages."""
    return (
        _row("a file of the firmware is missing in the slot", _missing_file(nets)),
        _row("a file of the firmware is cut short, or config.txt is wrong", _firmware_stops(nets)),
        _row("the kernel is empty or corrupt", _kernel_watchdog(nets)),
        _row("the kernel panics (no root file system, a bad initramfs)", _panic(nets)),
        _row("the kernel hangs before userspace", _kernel_watchdog(nets)),
        _row("userspace never reaches the service manager", _kernel_watchdog(nets, until_opened=True)),
        _row("the service manager hangs later", _runtime_watchdog(nets)),
        _row("a health check fails", _confirm(nets)),
        _row("the health check never runs", _deadline(nets)),
        _row("the power is cut during the trial", (True, "the flag is used up: the next boot is the primary")),
        _row("the power is cut while autoboot.txt is written", (True, "it is one sector, and the journal has a copy")),
        _row("the power is cut after the commit", (True, "it was flushed and read back before anybody heard of it")),
    )


_Answer = tuple[Tri, str]


def _row(failure: str, answer: _Answer) -> Recovery:
    return Recovery(failure=failure, comes_back=answer[0], by=answer[1])


def _missing_file(nets: Nets) -> _Answer:
    board = nets.board
    if board is None:
        return None, "the board is not known"
    if board.walk_enabled and board.walk_passes_missing_firmware:
        return True, "the partition walk boots the next partition that is whole, in the same boot"
    sure, by = _firmware_stops(nets)
    if not sure and board.failover_to_1:
        # Nobody documents whether "partition 1" is the selector, which holds no firmware, or the default partition.
        return None, "the bootloader retries once with its default partition, which may be a slot"
    return sure, by


def _firmware_stops(nets: Nets) -> _Answer:
    board = nets.board
    if board is None:
        return None, "the board is not known"
    if board.family is Family.PI0_3:
        return False, "a person: this board has no watchdog before the kernel"
    since = date(2025, 7, 3) if board.family is Family.PI4 else date(2025, 6, 20)
    if nets.boot_watchdog_s and board.bootloader >= since:
        return True, f"BOOT_WATCHDOG_TIMEOUT={nets.boot_watchdog_s} of the bootloader"
    if board.fatal_reboots:
        return None, "the bootloader resets on a fatal error of its own; nobody says that start4.elf does"
    if nets.boot_watchdog_s is None:
        return None, "the bootloader's configuration cannot be read from here"
    return False, "a person; BOOT_WATCHDOG_TIMEOUT=60 in the bootloader's configuration would"


def _kernel_watchdog(nets: Nets, *, until_opened: bool = False) -> _Answer:
    seconds = nets.kernel_watchdog_s
    if seconds is None:
        return None, "config.txt of the slot is not known"
    if not seconds:
        return False, f"a person; kernel_watchdog_timeout={KERNEL_WATCHDOG_S} in config.txt would"
    if until_opened and nets.initramfs_disarms:
        return False, "a person: the initramfs disarms the watchdog; watchdog_disarm=0 in cmdline.txt would (H-25)"
    if until_opened and nets.initramfs_disarms is None:
        return None, f"kernel_watchdog_timeout={seconds}, unless the initramfs disarms it (H-25)"
    return True, f"kernel_watchdog_timeout={seconds} in config.txt"


def _panic(nets: Nets) -> _Answer:
    if nets.panic_s:
        return True, f"panic={nets.panic_s} in cmdline.txt"
    if nets.kernel_watchdog_s:
        return True, f"kernel_watchdog_timeout={nets.kernel_watchdog_s} in config.txt"
    if nets.panic_s is None:
        return None, "cmdline.txt of the slot is not known"
    return False, f"a person; panic={PANIC_S} in cmdline.txt would"


def _runtime_watchdog(nets: Nets) -> _Answer:
    seconds = nets.runtime_watchdog_s
    if seconds is None:
        return None, "the service manager's configuration is not known"
    if not seconds:
        return False, f"a person; RuntimeWatchdogSec={RUNTIME_WATCHDOG_S} in /etc/systemd/system.conf.d would"
    return True, f"RuntimeWatchdogSec={seconds:g}s"


def _confirm(nets: Nets) -> _Answer:
    if nets.confirms is None:
        return None, "nobody says whether abboot-confirm.service is enabled"
    if nets.confirms:
        return True, "abboot-confirm.service journals it and reboots into the primary"
    return False, "a person: abboot-confirm.service is not enabled (`abboot install-units`)"


def _deadline(nets: Nets) -> _Answer:
    if nets.deadline is None:
        return None, "nobody says whether abboot-deadline.timer is enabled"
    if nets.deadline:
        return True, "abboot-deadline.timer reboots a trial that nobody confirmed"
    return False, "a person: abboot-deadline.timer is not enabled (`abboot install-units`)"
