"""Each hazard that can be seen, planted in a card or a sysroot: it is found.  Without it, it is not."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

import attrs
import pytest

from abboot.config import DiskConfig
from abboot.config_file import parse_config
from abboot.core.hazards import HAZARDS, Severity
from abboot.core.partition_table import read_partition_table
from abboot.core.words import TableKind
from abboot.doctor import Report
from abboot.doctor.probes import PROBES
from tests import cards
from tests.doctor.bench import (
    BOOKWORM_START4,
    NEW,
    PI3,
    PI4,
    PI5,
    Bench,
    clean_files,
    evolve_health,
    found,
    start_elf,
    with_units,
)
from tests.linux.sysroots import FakePartition

pytestmark = [pytest.mark.needs("mcopy", "mkfs.vfat", "sgdisk")]

Plant = Callable[[Bench], None]


@attrs.frozen(kw_only=True)
class Case:
    """What is planted, what is said of it, and what else is true of such a device."""

    hazard: str
    plant: Plant
    says: str
    severity: Severity | None = None
    also: frozenset[str] = frozenset()
    table: TableKind = TableKind.MBR
    roots: int = 0


CASES: list[Case] = []


def case(
    hazard: str,
    says: str,
    *,
    severity: Severity | None = None,
    also: str = "",
    table: TableKind = TableKind.MBR,
    roots: int = 0,
) -> Callable[[Plant], Plant]:
    def add(plant: Plant) -> Plant:
        CASES.append(
            Case(
                hazard=hazard,
                plant=plant,
                says=says,
                severity=severity,
                also=frozenset(also.split()),
                table=table,
                roots=roots,
            )
        )
        return plant

    return add


# -- bootloader and firmware ------------------------------------------------------------------------------------------


@case("H-01", "the bootloader is of 2021-04-29")
def _(bench: Bench) -> None:
    bench.board(PI4, date(2021, 4, 29))


@case("H-02", "start4.elf of slot b is of 2022-08-26", also="H-50")
def _(bench: Bench) -> None:
    bench.put("b", "start4.elf", BOOKWORM_START4)


@case("H-02", "with a tryboot.txt beside it")
def _(bench: Bench) -> None:
    bench.put("both", "start4.elf", BOOKWORM_START4)
    bench.put("both", "tryboot.txt", b"")


@case("H-03", "the disk has a GPT, and start4.elf of slot a is of 2024-04-17", table=TableKind.GPT)
def _(bench: Bench) -> None:
    bench.put("both", "start4.elf", start_elf(date(2024, 4, 17)))


@case("H-04", "slot b is partition 4 of a GPT", table=TableKind.GPT, roots=1)
def _(bench: Bench) -> None:
    bench.run("sgdisk", "--transpose=3:4", str(bench.card))


@case("H-05", "partition 3 lies before partition 2, and start4.elf of slot a is of 2025-04-30")
def _(bench: Bench) -> None:
    bench.put("both", "start4.elf", start_elf(date(2025, 4, 30)))
    entries = bench.card.read_bytes()[446 + 16 : 446 + 48]
    bench.patch(446 + 16, entries[16:] + entries[:16])


@case("H-06", "reported to work, and reported not to", severity=Severity.SERIOUS, table=TableKind.GPT)
def _(bench: Bench) -> None:
    bench.board(PI5)


@case("H-06", "a GPT with slot b behind a partition that is not FAT", table=TableKind.GPT, roots=1)
def _(bench: Bench) -> None:
    bench.board(PI5)
    bench.run("sgdisk", "--transpose=3:4", str(bench.card))


@case("H-07", "the bootloader of this Pi 5 is of 2024-04-20")
def _(bench: Bench) -> None:
    bench.board(PI5, date(2024, 4, 20))


@case("H-08", "this is a Raspberry Pi 4 Model B Rev 1.2; rsts is 0x1000")
def _(bench: Bench) -> None:
    bench.board("Raspberry Pi 4 Model B Rev 1.2")
    bench.cell("rsts", 0x1000)


@case("H-08", "Rev 1.1")
def _(bench: Bench) -> None:
    bench.board("Raspberry Pi 4 Model B")
    bench.files["proc/cpuinfo"] = "Hardware\t: BCM2835\nRevision\t: c03111\nSerial\t\t: 1\n"


@case("H-08", "this Compute Module 4 runs from an SD card", severity=Severity.ADVICE)
def _(bench: Bench) -> None:
    bench.board("Raspberry Pi Compute Module 4 Rev 1.0")


@case("H-09", "Rev 1.1, and config.txt of slot a protects the EEPROM", also="H-08")
def _(bench: Bench) -> None:
    bench.board("Raspberry Pi 4 Model B Rev 1.1")
    bench.edit("a", "config.txt", lambda text: text + b"eeprom_write_protect=1\n")


@case("H-10", "recovery.bin on the selector, pieeprom.upd on the selector")
def _(bench: Bench) -> None:
    bench.board(PI4, date(2024, 4, 17))
    bench.edit("both", "config.txt", lambda text: text + b"eeprom_write_protect=1\n")
    bench.put("selector", "recovery.bin", b"x")
    bench.put("selector", "pieeprom.upd", b"x")


@case("H-11", "slot b: recovery.bin: an EEPROM update on a slot")
def _(bench: Bench) -> None:
    bench.put("b", "RECOVERY.BIN", b"x")


@case("H-20", "the bootloader is of 2025-05-08")
def _(bench: Bench) -> None:
    bench.board(PI4, date(2025, 5, 8))


@case("H-21", "the bootloader is of 2025-09-23")
def _(bench: Bench) -> None:
    bench.board(PI4, date(2025, 9, 23))


@case("H-21", "start4.elf of slot a is of 2025-08-01")
def _(bench: Bench) -> None:
    bench.put("a", "start4.elf", start_elf(date(2025, 8, 1)))


@case("H-21", "rsts is 0x1420")
def _(bench: Bench) -> None:
    bench.cell("rsts", 0x1420)


@case("H-22", "PARTITION=2")
def _(bench: Bench) -> None:
    bench.eeprom("PARTITION=2\nBOOT_WATCHDOG_TIMEOUT=60")


@case("H-23", "BOOT_WATCHDOG_PARTITION=3")
def _(bench: Bench) -> None:
    bench.eeprom("BOOT_WATCHDOG_TIMEOUT=60\nBOOT_WATCHDOG_PARTITION=3")


@case("H-23", "config.txt of slot b has kernel_watchdog_partition=2")
def _(bench: Bench) -> None:
    bench.edit("b", "config.txt", lambda text: text + b"kernel_watchdog_partition=2\n")


@case("H-27", "signed boot, a bootloader of 2026-05-26, and BOOT_WATCHDOG_TIMEOUT=60")
def _(bench: Bench) -> None:
    bench.board(PI5, date(2026, 5, 26))
    bench.cell("signed", 1)
    bench.put("both", "boot.img", b"x")
    bench.put("both", "boot.sig", b"x")


@case("H-32", "signed boot, and a bootloader of 2023-01-11", also="H-33")
def _(bench: Bench) -> None:
    bench.board(PI4, date(2023, 1, 11))
    bench.cell("signed", 0b1001)
    bench.put("both", "boot.img", b"x")
    bench.put("both", "boot.sig", b"x")


@case("H-33", "slot a has no boot.sig")
def _(bench: Bench) -> None:
    bench.cell("signed", 1)
    bench.put("both", "boot.img", b"x")
    bench.put("b", "boot.sig", b"x")


@case("H-39", "bootcode.bin on the selector is not the one of slot b", also="H-40 H-49")
def _(bench: Bench) -> None:
    bench.board(PI3, None)
    bench.put("selector", "bootcode.bin", b"old")
    bench.put("a", "bootcode.bin", b"old")
    bench.put("b", "bootcode.bin", b"new")


@case("H-40", "this is a Raspberry Pi 3 Model", also="H-49")
def _(bench: Bench) -> None:
    bench.board(PI3, None)


@case("H-44", "the bootloader of this Pi 5 is of 2023-12-14", also="H-07")
def _(bench: Bench) -> None:
    bench.board(PI5, date(2023, 12, 14))


@case("H-48", "slot a: recover4.elf: a Pi 4 tries it before start4.elf")
def _(bench: Bench) -> None:
    bench.put("a", "recover4.elf", b"x")


@case("H-49", "the bootloader is of 2025-11-05")
def _(bench: Bench) -> None:
    bench.board(PI4, date(2025, 11, 5))
    bench.eeprom("")


@case("H-49", "REBOOT_ON_FATAL_ERROR=0")
def _(bench: Bench) -> None:
    bench.eeprom("REBOOT_ON_FATAL_ERROR=0")


@case("H-50", "start4.elf of slot a is of 2024-04-17, that of slot b of 2026-09-23", also="H-03", table=TableKind.GPT)
def _(bench: Bench) -> None:
    bench.put("a", "start4.elf", start_elf(date(2024, 4, 17)))


# -- the disk ---------------------------------------------------------------------------------------------------------

WHOLE = b"[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=2\n"


def _autoboot(bench: Bench, text: bytes) -> None:
    bench.put("selector", "autoboot.txt", text)


@case("H-13", "the primary has no tryboot.txt")
def _(bench: Bench) -> None:
    _autoboot(bench, b"[all]\nboot_partition=2\n[tryboot]\nboot_partition=2\n")


@case("H-13", "the primary has a tryboot.txt", severity=Severity.SERIOUS)
def _(bench: Bench) -> None:
    _autoboot(bench, b"[all]\nboot_partition=2\n[tryboot]\nboot_partition=2\n")
    bench.put("a", "tryboot.txt", b"")


@case("H-14", "the selector (partition 1) has config.txt, start4.elf")
def _(bench: Bench) -> None:
    bench.put("selector", "config.txt", b"")
    bench.put("selector", "start4.elf", b"x")


@case("H-15", "there is no autoboot.txt")
def _(bench: Bench) -> None:
    bench.remove("selector", "autoboot.txt")


@case("H-15", "the firmware finds no boot_partition in autoboot.txt", also="H-13 H-16")
def _(bench: Bench) -> None:
    _autoboot(bench, b"?" * 64)


@case("H-16", "the lines of autoboot.txt end with CR LF")
def _(bench: Bench) -> None:
    _autoboot(bench, WHOLE.replace(b"\n", b"\r\n"))


@case("H-16", "line 1 of autoboot.txt is '[ALL]'", also="H-13 H-15")
def _(bench: Bench) -> None:
    _autoboot(bench, WHOLE.replace(b"[all]", b"[ALL]"))


@case("H-16", "autoboot.txt has 564 bytes")
def _(bench: Bench) -> None:
    _autoboot(bench, WHOLE + b"#" * 499 + b"\n")


@case("H-17", "line 4 of autoboot.txt: [all] comes after [tryboot]")
def _(bench: Bench) -> None:
    _autoboot(bench, b"\n[tryboot]\nboot_partition=2\n[all]\ntryboot_a_b=1\nboot_partition=2\n")


@case("H-17", "line 4 of autoboot.txt sets boot_partition a second time")
def _(bench: Bench) -> None:
    _autoboot(bench, b"[all]\ntryboot_a_b=1\nboot_partition=2\nboot_partition=2\n[tryboot]\nboot_partition=2\n")


@case("H-18", "[all] of autoboot.txt names partition 4, which does not exist")
def _(bench: Bench) -> None:
    _autoboot(bench, WHOLE.replace(b"=2", b"=4"))


@case("H-18", "[tryboot] of autoboot.txt names partition 3, which cannot be read")
def _(bench: Bench) -> None:
    _autoboot(bench, WHOLE[:-2] + b"3\n")
    bench.patch(bench.start("b"), bytes(512))


@case("H-18", "names partition 3, which holds no boot files", also="H-24")
def _(bench: Bench) -> None:
    _autoboot(bench, WHOLE[:-2] + b"3\n")
    for name in ("config.txt", "start4.elf", "start.elf"):
        bench.remove("b", name)


@case("H-19", "booted")
def _(bench: Bench) -> None:
    bench.settings["partition"] = 3


@case("H-19", "partition 4 is no slot, and has boot files", table=TableKind.GPT, roots=1)
def _(bench: Bench) -> None:
    bench.run("sgdisk", "--typecode=4:0700", str(bench.card))
    bench.config = attrs.evolve(bench.config, disk=DiskConfig(slot_a=2, slot_b=3))
    table = read_partition_table(cards.CardDisk(bench.card).read, bench.card.stat().st_size)
    third = table.get(4)
    assert third is not None
    bench.run("mkfs.vfat", "-F12", f"--offset={third.start // 512}", str(bench.card), str(third.size // 1024))
    bench.run("mcopy", "-i", f"{bench.card}@@{third.start}", __file__, "::config.txt")


@case("H-41", "the entries of the GPT begin at block 34, and the bootloader is of 2024-09-23", table=TableKind.GPT)
def _(bench: Bench) -> None:
    bench.board(PI4, date(2024, 9, 23))
    bench.run("sgdisk", "--move-main-table=34", str(bench.card))


@case("H-42", "partition 3 has the type 0xef, which a Raspberry Pi 3 Model does not open", also="H-40 H-49")
def _(bench: Bench) -> None:
    bench.board(PI3, None)
    bench.patch(446 + 32 + 4, b"\xef")


@case("H-42", "partition 2 has the type 0x06, which not every firmware opens", severity=Severity.ADVICE)
def _(bench: Bench) -> None:
    bench.patch(446 + 16 + 4, b"\x06")


@case("H-42", "partition 3 is exFAT")
def _(bench: Bench) -> None:
    bench.patch(bench.start("b"), b"\xeb\x76\x90EXFAT   " + bytes(501))


@case("H-43", "partition 3 is full")
def _(bench: Bench) -> None:
    bench.board(PI4, date(2023, 1, 11))
    bench.put("b", "fill.bin", bytes(bench.volume("b").free_clusters() * 512))


@case("H-45", "partition 2 was not unmounted cleanly")
def _(bench: Bench) -> None:
    bench.patch(bench.start("a") + 0x25, b"\x01")


@case("H-34", "slot b has root=PARTUUID=ab007e57-09, and this disk has no partition 9")
def _(bench: Bench) -> None:
    bench.edit("b", "cmdline.txt", lambda text: text.replace(b"LABEL=root", b"PARTUUID=ab007e57-09"))


@case("H-34", "slot b has root=PARTLABEL=root_a, which is root_a", table=TableKind.GPT, roots=2)
def _(bench: Bench) -> None:
    for slot, name in (("a", b"root_a"), ("b", b"root_a")):
        bench.edit(slot, "cmdline.txt", lambda text, name=name: text.replace(b"LABEL=root", b"PARTLABEL=" + name))


@case(
    "H-34",
    "both slots have root=/dev/mmcblk0p4, and partition 5 has the same size",
    severity=Severity.ADVICE,
    table=TableKind.GPT,
    roots=2,
)
def _(bench: Bench) -> None:
    bench.run("sgdisk", "--change-name=4:system", "--change-name=5:other", str(bench.card))
    bench.edit("both", "cmdline.txt", lambda text: text.replace(b"LABEL=root", b"/dev/mmcblk0p4"))


@case("H-34", "slot b (partition 3) is mounted on /boot/firmware, and slot a is booted", also="H-45")
def _(bench: Bench) -> None:
    _mount(bench, 3)


def _mount(bench: Bench, number: int) -> None:
    start, size = cards.CardDisk(bench.card).place(number)
    bench.mounts[number] = FakePartition(start=start, size=size, mounted_at="/boot/firmware")
    bench.after.append(lambda root: _write(root / "boot/firmware", clean_files()))


def _write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    cards.write_tree(folder, files)


@case("H-45", "partition 2 is mounted read-write on", severity=Severity.ADVICE)
def _(bench: Bench) -> None:
    _mount(bench, 2)


@case("H-35", "the command line of slot a has init=/usr/lib/raspberrypi-sys-mods/firstboot")
def _(bench: Bench) -> None:
    bench.edit("a", "cmdline.txt", lambda text: b"init=/usr/lib/raspberrypi-sys-mods/firstboot " + text)


@case("H-53", "/dev/sda has the same id ab007e57 as")
def _(bench: Bench) -> None:
    bench.disks["sda"] = bench.card.parent / "other.img"
    bench.disks["sda"].write_bytes(bench.card.read_bytes())


@case("H-53", "/dev/sda has volumes of the same name: ")
def _(bench: Bench) -> None:
    bench.disks["sda"] = bench.card.parent / "other.img"
    other = bytearray(bench.card.read_bytes())
    other[0x1B8:0x1BC] = b"\x01\x02\x03\x04"
    bench.disks["sda"].write_bytes(other)


# -- the running system -----------------------------------------------------------------------------------------------


@case("H-12", "nothing is armed, and the next reboot would carry '0 tryboot'")
def _(bench: Bench) -> None:
    bench.files["run/systemd/reboot-param"] = "0 tryboot\n"


@case("H-12", "would carry '3'", severity=Severity.SERIOUS)
def _(bench: Bench) -> None:
    bench.files["run/systemd/reboot-param"] = "3\n"


@case("H-12", "the firmware's tryboot flag is set")
def _(bench: Bench) -> None:
    bench.files["run/abboot/tryboot-flag"] = "1\n"


@case("H-31", "the next reboot would carry 'tryboot'", also="H-12")
def _(bench: Bench) -> None:
    bench.files["run/systemd/reboot-param"] = "tryboot\n"


@case("H-24", "slot b: cmdline.txt has no panic=10")
def _(bench: Bench) -> None:
    bench.edit("b", "cmdline.txt", lambda text: text.replace(b" panic=10", b""))


@case("H-24", "slot a: config.txt has no kernel_watchdog_timeout=120")
def _(bench: Bench) -> None:
    bench.edit("a", "config.txt", lambda text: text.replace(b"120", b"0"))


@case("H-25", "the script rpi_wd of raspberrypi-sys-mods is installed")
def _(bench: Bench) -> None:
    bench.edit("both", "cmdline.txt", lambda text: text.replace(b" watchdog_disarm=0", b""))
    bench.files["usr/share/initramfs-tools/scripts/init-top/rpi_wd"] = "echo -n 'V' > /dev/watchdog0\n"


@case("H-25", "slot b: cmdline.txt has no watchdog_disarm=0: initramfs8 of Raspberry Pi OS may switch off")
def _(bench: Bench) -> None:
    bench.edit("b", "cmdline.txt", lambda text: text.replace(b" watchdog_disarm=0", b""))
    bench.edit("b", "config.txt", lambda text: text + b"auto_initramfs=1\n")
    bench.put("b", "initramfs8", b"x")


@case("H-26", "RuntimeWatchdogSec is 60 s, and the kernel is 6.1.21-v8+", also="H-28")
def _(bench: Bench) -> None:
    bench.files["proc/sys/kernel/osrelease"] = "6.1.21-v8+\n"
    bench.files["etc/systemd/system.conf.d/99.conf"] = "[Manager]\n#RuntimeWatchdogSec=5\nRuntimeWatchdogSec = 1min\n"
    bench.files["sys/class/watchdog/watchdog0/state"] = "inactive\n"


@case("H-28", "bcm2711-rpi-4-b.dtb does not know early-watchdog", severity=Severity.ADVICE)
def _(bench: Bench) -> None:
    bench.put("a", "bcm2711-rpi-4-b.dtb", b"an older device tree")


@case("H-28", "nothing in the running system opened the watchdog", severity=Severity.SERIOUS)
def _(bench: Bench) -> None:
    bench.files["sys/class/watchdog/watchdog0/state"] = "inactive\n"


@case("H-29", "there is no /dev/vcio (kernel 6.12.47+rpt-rpi-v8)")
def _(bench: Bench) -> None:
    bench.settings["vcio"] = False
    bench.files["proc/kallsyms"] = "0000000000000000 T rpi_firmware_property\n" * 40_000


@case("H-29", "this kernel would pass the reboot argument on", severity=Severity.ADVICE)
def _(bench: Bench) -> None:
    bench.settings["vcio"] = False
    bench.files["proc/kallsyms"] = "0 t a\n" * 400_000 + "0 t rpi_firmware_notify_reboot\t[raspberrypi]\n"


@case("H-30", "/sbin/reboot is /bin/busybox, and systemd does not run", severity=Severity.ADVICE)
def _(bench: Bench) -> None:
    bench.settings["systemd"] = False
    bench.links["sbin/reboot"] = "/bin/busybox"


@case("H-30", "there is no /sbin/reboot, and systemd does not run", also="H-29")
def _(bench: Bench) -> None:
    bench.settings |= {"systemd": False, "vcio": False}
    bench.links["sbin/reboot"] = ""


@case("H-36", "/etc/kernel/postinst.d/z50-raspi-firmware write")
def _(bench: Bench) -> None:
    bench.files["etc/kernel/postinst.d/z50-raspi-firmware"] = '#!/bin/sh\ncp "${dtb}" /boot/firmware/\n'
    bench.files["etc/kernel/postinst.d/apt-auto-removal"] = "#!/bin/sh\n"


@case("H-47", "the supply voltage is too low right now")
def _(bench: Bench) -> None:
    bench.files["sys/devices/platform/soc/soc:firmware/get_throttled"] = "50005\n"


@case("H-52", "this board was booted from USB, and has 2 USB disks")
def _(bench: Bench) -> None:
    bench.settings |= {"boot_mode": 4, "disk_name": "sda"}
    bench.disks["sdb"] = bench.card.parent / "other.img"
    bench.disks["sdb"].write_bytes(bytes(1 << 20))
    start, size = cards.CardDisk(bench.card).place(2)
    bench.mounts[2] = FakePartition(start=start, size=size, mounted_at="/boot/firmware", writable=False)
    bench.after.append(lambda root: _write(root / "boot/firmware", clean_files()))


@case("H-54", "the configuration runs check-the-fan, which is not there")
def _(bench: Bench) -> None:
    config = parse_config('[[health.checks]]\nkind = "command"\nargv = ["check-the-fan", "--now"]\n')
    evolve_health(bench, checks=config.health.checks)


# -- the tests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planted", CASES, ids=[f"{item.hazard}: {item.says[:50]}" for item in CASES])
def test_what_is_planted_is_found_and_nothing_else(planted: Case, tmp_path: Path) -> None:
    bench = Bench(tmp_path, table=planted.table, roots=planted.roots)
    planted.plant(bench)

    report = bench.report()

    told = found(report, planted.hazard)
    assert [finding.found for finding in told if planted.says in finding.found] != [], report.findings
    assert {finding.id for finding in report.findings} == {planted.hazard} | planted.also
    worst = min(list(Severity).index(finding.severity) for finding in told)
    assert list(Severity)[worst] is (planted.severity or HAZARDS[planted.hazard].severity)


def test_every_probe_has_something_planted() -> None:
    # H-38 asks systemd, and H-46 and the like have no probe: nothing shows them.
    assert {item.hazard for item in CASES} | {"H-38"} == set(PROBES)


@functools.cache
def _clean(model: str) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        bench.board(model)
        with_units(bench)
        return bench.report()


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("hazard", [hazard for hazard in HAZARDS if hazard in PROBES])
def test_a_clean_pi_4_and_a_clean_pi_5_have_none_of_it(hazard: str) -> None:
    for model in (PI4, PI5):
        report = _clean(model)
        assert found(report, hazard) == ()
        assert hazard in report.clear, report.unseen.get(hazard)


def test_a_clean_board_is_told_what_brings_it_back() -> None:
    report = _clean(PI4)

    assert report.ok
    assert report.findings == ()
    assert [row for row in report.recovery if row.comes_back is not True] == []
    assert report.notes == ()


# The last day that is affected, and the first that is not; the sources are beside the dates in abboot.core.firmware.
BOUNDARIES = [
    ("H-01", PI4, date(2022, 10, 17), ""),
    ("H-07", PI5, date(2024, 5, 12), ""),
    ("H-20", PI4, date(2025, 8, 19), ""),
    ("H-21", PI4, date(2025, 10, 7), ""),
    ("H-27", PI5, date(2026, 6, 16), "signed"),
    ("H-32", PI4, date(2024, 4, 14), "signed"),
    ("H-32", PI5, date(2024, 4, 16), "signed"),
    ("H-33", PI5, date(2026, 2, 22), "signed"),
    ("H-44", PI5, date(2024, 1, 4), ""),
    ("H-49", PI4, date(2026, 4, 13), "no watchdog"),
]


@pytest.mark.parametrize(("hazard", "model", "last", "extra"), BOUNDARIES, ids=[f"{b[0]} {b[2]}" for b in BOUNDARIES])
def test_the_day_of_the_fix_is_the_first_without_it(
    hazard: str, model: str, last: date, extra: str, tmp_path: Path
) -> None:
    reports = []
    for number, built in enumerate((last, date.fromordinal(last.toordinal() + 1))):
        (tmp_path / str(number)).mkdir()
        bench = Bench(tmp_path / str(number))
        bench.board(model, built)
        if extra == "signed":
            bench.cell("signed", 1)
            for name in ("boot.img", "boot.sig"):
                bench.put("both", name, b"x")
        elif extra:
            bench.eeprom("")
        reports.append(bench.report())

    assert [bool(found(report, hazard)) for report in reports] == [True, False]
    assert hazard in reports[1].clear


def test_what_depends_on_an_unknown_date_is_unseen(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.board(PI4, None)

    report = bench.report()

    assert report.findings == ()
    assert report.unseen["H-01"] == "the bootloader does not tell its build date"


def test_firmware_without_a_date_counts_as_new_enough_with_a_note(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.put("b", "start4.elf", b"\x7fELF" + bytes(3000))

    report = bench.report()

    assert report.findings == ()
    assert report.notes == ("start4.elf of slot b does not tell when it was built: taken as new enough",)


def test_new_is_newer_than_every_boundary() -> None:
    assert all(last < NEW for _hazard, _model, last, _extra in BOUNDARIES)
