"""What brings a trial back: yes only for what is configured and known to work."""

from __future__ import annotations

from datetime import date

import attrs
import pytest

from abboot.core.firmware import Board, Eeprom, Model
from abboot.core.recovery import Nets, Recovery, what_brings_it_back

ALL_NETS = Nets(
    board=Board(model=Model.PI_4),
    boot_watchdog_s=60,
    kernel_watchdog_s=120,
    initramfs_disarms=False,
    panic_s=10,
    runtime_watchdog_s=15.0,
    confirms=True,
    deadline=True,
)
NO_NETS = Nets(
    board=Board(model=Model.PI_4, bootloader=date(2022, 12, 1)),
    boot_watchdog_s=0,
    kernel_watchdog_s=0,
    initramfs_disarms=False,
    panic_s=0,
    runtime_watchdog_s=0.0,
    confirms=False,
    deadline=False,
)


def rows(nets: Nets) -> dict[str, Recovery]:
    return {row.failure: row for row in what_brings_it_back(nets)}


def row(nets: Nets, start: str) -> Recovery:
    (found,) = [found for failure, found in rows(nets).items() if failure.startswith(start)]
    return found


def test_with_every_net_everything_comes_back() -> None:
    assert {found.comes_back for found in what_brings_it_back(ALL_NETS)} == {True}


def test_without_nets_only_what_needs_none_comes_back() -> None:
    back = [found.failure for found in what_brings_it_back(NO_NETS) if found.comes_back]

    assert back == [
        "the power is cut during the trial",
        "the power is cut while autoboot.txt is written",
        "the power is cut after the commit",
    ]
    assert all("a person" in found.by for found in what_brings_it_back(NO_NETS) if found.comes_back is False)


def test_what_nobody_told_is_neither_yes_nor_no() -> None:
    told = what_brings_it_back(Nets())

    assert {found.comes_back for found in told[:-3]} == {None}


@pytest.mark.parametrize(
    ("change", "failure", "comes_back"),
    [
        ({"panic_s": 0}, "the kernel panics", True),  # the kernel watchdog does
        ({"panic_s": 0, "kernel_watchdog_s": 0}, "the kernel panics", False),
        ({"kernel_watchdog_s": 0}, "the kernel panics", True),
        ({"panic_s": -1, "kernel_watchdog_s": 0}, "the kernel panics", True),
        ({"kernel_watchdog_s": 0}, "the kernel hangs", False),
        ({"initramfs_disarms": True}, "the kernel hangs", True),
        ({"initramfs_disarms": True}, "userspace never", False),
        ({"initramfs_disarms": None}, "userspace never", None),
        ({"runtime_watchdog_s": 0.0}, "the service manager hangs", False),
        ({"confirms": False}, "a health check fails", False),
        ({"deadline": False}, "the health check never", False),
        ({"boot_watchdog_s": 0}, "a file of the firmware is cut", None),  # REBOOT_ON_FATAL_ERROR: perhaps
    ],
)
def test_a_net_that_is_missing_is_missed(change: dict[str, object], failure: str, comes_back: bool | None) -> None:
    assert row(attrs.evolve(ALL_NETS, **change), failure).comes_back is comes_back  # type: ignore[arg-type]


def test_the_boot_watchdog_counts_only_for_a_bootloader_that_has_it() -> None:
    nets = attrs.evolve(ALL_NETS, board=Board(model=Model.PI_4, bootloader=date(2025, 5, 8)))

    assert row(nets, "a file of the firmware is cut").comes_back is False
    assert row(ALL_NETS, "a file of the firmware is cut").by == "BOOT_WATCHDOG_TIMEOUT=60 of the bootloader"


def test_a_missing_file_needs_the_partition_walk() -> None:
    assert "partition walk" in row(ALL_NETS, "a file of the firmware is missing").by
    without = Board(model=Model.PI_4, eeprom=Eeprom(partition_walk=False, reboot_on_fatal_error=False))

    assert (
        row(attrs.evolve(ALL_NETS, board=without, boot_watchdog_s=0), "a file of the firmware is m").comes_back is None
    )


def test_a_pi_3_has_no_watchdog_before_the_kernel() -> None:
    nets = attrs.evolve(ALL_NETS, board=Board(model=Model.PI_3))

    assert row(nets, "a file of the firmware is cut").comes_back is False
