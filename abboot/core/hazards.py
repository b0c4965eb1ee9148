"""What can go wrong with A/B boot on a Raspberry Pi, as a table.  No I/O here.

Rules:

* One row for each hazard, by the number that messages, comments and the documentation cite.  A number is never reused.
* A row says what the hazard does to a device, how ``abboot doctor`` sees it or why nobody can see it from there, what
  helps, and who says so.  :mod:`abboot.doctor` has the probes; ``docs/reference/hazards.md`` is made from this table.
* Sources are public: ``rpi-eeprom#N``, ``firmware#N``, ``linux#N``, ``documentation#N`` are issues and pull requests of
  github.com/raspberrypi; "release notes" are those of the bootloader in raspberrypi/rpi-eeprom; "measured" means on a
  Pi 4B revision 1.2 by somebody who published it.
"""

from __future__ import annotations

import enum

import attrs


class Severity(enum.StrEnum):
    """How bad it is, worst first."""

    CRITICAL = "critical"  # the device may not boot, or reboots for ever
    SERIOUS = "serious"  # the wrong slot boots, or something fails and nobody notices
    ADVICE = "advice"  # it works, with less safety than there could be


@attrs.frozen(kw_only=True)
class Hazard:
    """One row.

    Args:
        id: ``H-01``.
        severity: at its worst; a finding may be milder.
        title: the hazard in a few words.
        effect: what it does to a device.
        seen: how the doctor sees it; empty if it cannot.
        unseen: why it cannot be seen from the device or its disk; empty if it can.
        remedy: what helps.
        source: who says so.
    """

    id: str
    severity: Severity
    title: str
    effect: str
    seen: str = ""
    unseen: str = ""
    remedy: str
    source: str

    @property
    def detectable(self) -> bool:
        return bool(self.seen)


_CRITICAL, _SERIOUS, _ADVICE = Severity.CRITICAL, Severity.SERIOUS, Severity.ADVICE
_UPDATE = "update the bootloader: `sudo rpi-eeprom-update -a`, then reboot"

_ROWS = (
    Hazard(
        id="H-01",
        severity=_CRITICAL,
        title="the bootloader ignores sections of autoboot.txt",
        effect="a Pi 4 bootloader before 2022-10-18 takes the last boot_partition of the file: an armed slot is booted "
        "on every cold boot, never tried once",
        seen="the bootloader's build date in the device tree",
        remedy=_UPDATE + "; before that, no trial",
        source="release notes 2022-10-18; measured with the bootloader of 2021-04-29",
    ),
    Hazard(
        id="H-02",
        severity=_SERIOUS,
        title="old start4.elf in a slot",
        effect="start4.elf from before 2022-10 does not know tryboot_a_b: in a trial it wants tryboot.txt, whatever "
        "the bootloader knows",
        seen="the build date inside start4.elf (or start.elf) of each slot",
        remedy="put the same recent start*.elf and fixup*.dat into both slots",
        source="rpi-eeprom#504",
    ),
    Hazard(
        id="H-03",
        severity=_CRITICAL,
        title="GPT with an old start4.elf",
        effect="start4.elf from before 2025-01-16 opens only the first partition of a GPT: seven flashes, kernel not "
        "found",
        seen="the partition table, and the build date inside start4.elf of each slot",
        remedy="put firmware of 2025-04-30 or newer into every slot before the bootloader is updated, or use an MBR",
        source="rpi-eeprom#654, #668, #854",
    ),
    Hazard(
        id="H-04",
        severity=_CRITICAL,
        title="GPT with boot partitions behind Linux ones",
        effect="start4.elf opens the first partition instead of the slot",
        seen="the partition table: a slot with a partition before it that is not FAT",
        remedy="put the FAT partitions first, next to each other, or use an MBR",
        source="firmware#1974",
    ),
    Hazard(
        id="H-05",
        severity=_CRITICAL,
        title="MBR entries out of disk order",
        effect="start4.elf up to 2025-04-30 does not find a partition whose number and place disagree",
        seen="the partition table, and the build date inside start4.elf of each slot",
        remedy="order the entries by start sector, or put newer firmware into every slot",
        source="rpi-eeprom#705",
    ),
    Hazard(
        id="H-06",
        severity=_CRITICAL,
        title="Pi 5 and GPT: the trial finds no partition",
        effect='on some GPT layouts a reboot with "0 tryboot" ends in "GPT: No bootable partitions", and loops',
        seen="the model, and the partition table",
        remedy="use an MBR, or FAT partitions back to back at the front; test a trial before you rely on it: "
        "`abboot selftest`",
        source="rpi-eeprom#818",
    ),
    Hazard(
        id="H-07",
        severity=_SERIOUS,
        title="the bootloader does not say which partition it booted",
        effect="a Pi 5 bootloader before 2024-05-13 always reports partition 0, so nothing can be committed by it",
        seen="the model, and the bootloader's build date",
        remedy=_UPDATE,
        source="rpi-eeprom#575",
    ),
    Hazard(
        id="H-08",
        severity=_SERIOUS,
        title="the board forgets the requested partition",
        effect="a Pi 4B below revision 1.4 (and a CM4 Lite) resets everything on a reboot: `reboot N` and "
        "kernel_watchdog_partition do nothing, and one bench saw the tryboot flag lost too",
        seen="the model and its revision; on a CM4, an SD card as the booted disk",
        remedy="never rely on `reboot N`; prove that a trial works on this board: `abboot selftest`",
        source="rpi-eeprom#206, #279; linux#4527; measured",
    ),
    Hazard(
        id="H-09",
        severity=_CRITICAL,
        title="write-protected EEPROM on a Pi 4B 1.0 or 1.1",
        effect="these boards keep the tryboot flag in the EEPROM: write protected, a trial never happens",
        seen="the model and its revision; eeprom_write_protect=1 in config.txt of a slot",
        remedy="remove the write protection: eeprom_write_protect=0, and one bootloader update",
        source="documentation, bootflow-eeprom.adoc",
    ),
    Hazard(
        id="H-10",
        severity=_CRITICAL,
        title="bootloader update pending on a write-protected EEPROM",
        effect="bootloaders before 2024-09-05 try it again on every boot, or stop",
        seen="update files on a boot partition, eeprom_write_protect=1 in config.txt, the bootloader's build date",
        remedy="delete the update files, or remove the write protection",
        source="release notes 2024-09-05; rpi-eeprom#597",
    ),
    Hazard(
        id="H-11",
        severity=_CRITICAL,
        title="bootloader update files in a slot",
        effect="with recovery.bin or pieeprom.upd in a slot the board may not boot, or run the update again and again",
        seen="recovery.bin, pieeprom.upd, pieeprom.sig, vl805.bin or vl805.sig in a slot",
        remedy="delete them; have rpi-eeprom-update write to the first partition (BOOTFS= in "
        "/etc/default/rpi-eeprom-update), or mask rpi-eeprom-update.service",
        source="rpi-eeprom#499; release notes 2025-02-11",
    ),
    Hazard(
        id="H-12",
        severity=_CRITICAL,
        title="stale reboot argument or flag",
        effect="the next ordinary reboot of this boot is a trial that nobody asked for",
        seen="/run/systemd/reboot-param, and the flag in the firmware, while nothing is armed",
        remedy="disarm: `abboot confirm`; or delete /run/systemd/reboot-param",
        source="home-assistant/operating-system#3740, #3842",
    ),
    Hazard(
        id="H-13",
        severity=_CRITICAL,
        title="the flag is not for partitions",
        effect="without tryboot_a_b=1 the flag makes the firmware look for tryboot.txt; without that a Pi 5 hangs",
        seen="autoboot.txt, read as the firmware reads it; tryboot.txt in the primary",
        remedy="rewrite autoboot.txt: `abboot repair`",
        source="documentation, autoboot.adoc; home-assistant/operating-system#3740",
    ),
    Hazard(
        id="H-14",
        severity=_SERIOUS,
        title="firmware on the selector",
        effect="when autoboot.txt is broken the selector boots itself, or nothing does",
        seen="start*.elf, config.txt or a kernel on the selector",
        remedy="delete them from the selector; only bootcode.bin belongs there, for a Pi 0 to 3",
        source="measured with the bootloader of 2026-05-17",
    ),
    Hazard(
        id="H-15",
        severity=_SERIOUS,
        title="broken or missing autoboot.txt",
        effect="the firmware silently boots partition 2, also when slot b is committed",
        seen="autoboot.txt, compared with the journal's copy",
        remedy="restore it from the journal: `abboot repair`; never from the slot that happens to run",
        source="measured with the bootloader of 2026-05-17",
    ),
    Hazard(
        id="H-16",
        severity=_SERIOUS,
        title="autoboot.txt in a form that not every firmware reads",
        effect="more than 512 bytes, CR LF, a byte order mark, capitals, blanks, unknown sections or `include`: what "
        "the firmware makes of it is documented nowhere",
        seen="the bytes of autoboot.txt",
        remedy="rewrite it: `abboot repair`",
        source="documentation, autoboot.adoc and conditional.adoc",
    ),
    Hazard(
        id="H-17",
        severity=_SERIOUS,
        title="autoboot.txt with sections out of order, or keys twice",
        effect="the last assignment wins, so a trial or a cold boot goes to another slot than it seems",
        seen="the lines of autoboot.txt",
        remedy="rewrite it: `abboot repair`",
        source="measured (the last one wins)",
    ),
    Hazard(
        id="H-18",
        severity=_SERIOUS,
        title="boot_partition names no boot partition",
        effect="the firmware falls back to another partition, or stops",
        seen="the numbers in autoboot.txt against the partition table and what is on those partitions",
        remedy="correct it: `abboot repair`, or stage the slot again",
        source="release notes 2022-10-18; documentation#1659",
    ),
    Hazard(
        id="H-19",
        severity=_SERIOUS,
        title="the partition walk boots a third slot",
        effect="bootloaders since 2025-08-13 look for any partition that boots, and the system there thinks it is fine",
        seen="a bootable FAT partition that is no slot; a booted slot that is neither primary nor in trial",
        remedy="remove boot files from other partitions; PARTITION_WALK=0 if a failure shall stay a failure",
        source="release notes 2025-08-13; rpi-eeprom#738",
    ),
    Hazard(
        id="H-20",
        severity=_CRITICAL,
        title="the partition walk fails after a slot without start4.elf",
        effect='Pi 4 bootloaders of 2025-02-11 to 2025-08-19 say "Firmware not found" though the next partition boots',
        seen="the model, and the bootloader's build date",
        remedy=_UPDATE,
        source="rpi-eeprom#738",
    ),
    Hazard(
        id="H-21",
        severity=_SERIOUS,
        title="a watchdog reset asks for partition 32",
        effect="bootloaders and start4.elf of 2025-06-20 to 2025-10-07 may go past autoboot.txt after such a reset",
        seen="the bootloader's build date, the date inside start4.elf, bit 10 of rsts in the device tree",
        remedy="update the bootloader, and start4.elf in both slots",
        source="firmware#2000; release notes 2025-10-08",
    ),
    Hazard(
        id="H-22",
        severity=_SERIOUS,
        title="PARTITION= in the bootloader's configuration",
        effect="it overrides in different cases, depending on the bootloader's date",
        seen="the bootloader's configuration (blconfig)",
        remedy="remove it: `sudo -E rpi-eeprom-config --edit`",
        source="rpi-eeprom#743",
    ),
    Hazard(
        id="H-23",
        severity=_CRITICAL,
        title="a watchdog that names a partition",
        effect="BOOT_WATCHDOG_PARTITION or kernel_watchdog_partition sends the board past autoboot.txt after a reset, "
        "perhaps to the slot that just failed",
        seen="the bootloader's configuration; config.txt of each slot",
        remedy="do not set them, or only to a rescue partition that is never updated",
        source="documentation, eeprom-bootloader.adoc; measured",
    ),
    Hazard(
        id="H-24",
        severity=_ADVICE,
        title="a trial that hangs stays there",
        effect="a kernel that panics waits for ever without panic=N, one that hangs waits for ever without the "
        "firmware's kernel watchdog",
        seen="cmdline.txt and config.txt of each slot",
        remedy="panic=10 in cmdline.txt, kernel_watchdog_timeout=120 in config.txt: `abboot doctor --fix TREE`, then "
        "stage it",
        source="firmware#1651; measured",
    ),
    Hazard(
        id="H-25",
        severity=_ADVICE,
        title="the initramfs disarms the watchdog",
        effect="the initramfs of Raspberry Pi OS switches the firmware's kernel watchdog off again, so a system that "
        "never comes up is not reset",
        seen="Raspberry Pi OS's initramfs script or its initramfs, and no watchdog_disarm=0 in cmdline.txt",
        remedy="add watchdog_disarm=0 to cmdline.txt: `abboot doctor --fix TREE`; or a newer raspberrypi-sys-mods",
        source="RPi-Distro/raspberrypi-sys-mods#115",
    ),
    Hazard(
        id="H-26",
        severity=_ADVICE,
        title="RuntimeWatchdogSec is over what the hardware can",
        effect="with kernels before 6.8 more than 15 s is refused, and then there is no watchdog at all",
        seen="RuntimeWatchdogSec, the kernel's version, the state of watchdog0",
        remedy="RuntimeWatchdogSec=15, or a newer kernel",
        source="linux#5838; systemd/systemd#27427, #21949",
    ),
    Hazard(
        id="H-27",
        severity=_CRITICAL,
        title="the boot watchdog resets a healthy system",
        effect="on a Pi 5 with SIGNED_BOOT=1 bootloaders before 2026-06-17 do not stop BOOT_WATCHDOG when Linux starts",
        seen="the model, the signed bit, the bootloader's build date and its configuration",
        remedy=_UPDATE + "; or remove BOOT_WATCHDOG_TIMEOUT",
        source="firmware#2023; release notes 2026-06-17",
    ),
    Hazard(
        id="H-28",
        severity=_CRITICAL,
        title="nobody takes over the kernel watchdog",
        effect="a system that never opens the watchdog is reset kernel_watchdog_timeout seconds after every boot; one "
        "whose device tree does not know early-watchdog may not get it at all",
        seen="kernel_watchdog_timeout in config.txt, the device trees beside it, the state of watchdog0",
        remedy="RuntimeWatchdogSec=15 in /etc/systemd/system.conf.d, and device trees of 2025-07 or newer; or remove "
        "kernel_watchdog_timeout",
        source="firmware#1980; release notes 2025-07-17; linux#6961",
    ),
    Hazard(
        id="H-29",
        severity=_SERIOUS,
        title="this kernel cannot set the flag",
        effect="a mainline kernel has no /dev/vcio and does not pass the reboot argument on: no trial ever happens",
        seen="/dev/vcio and /dev/vcio_ab; rpi_firmware_notify_reboot in the kernel's symbols",
        remedy="use the Raspberry Pi kernel; until then trials are refused",
        source="rpi-eeprom#716; utils#52",
    ),
    Hazard(
        id="H-30",
        severity=_SERIOUS,
        title="this system's reboot drops the argument",
        effect="BusyBox, sysvinit, OpenRC and others ignore `0 tryboot`: the reboot is an ordinary one",
        seen="where /sbin/reboot leads, and whether systemd runs",
        remedy="set the flag through the mailbox (`trial.reboot` auto or mailbox)",
        source="BusyBox init/halt.c; sysvinit#22",
    ),
    Hazard(
        id="H-31",
        severity=_SERIOUS,
        title="a wrong reboot argument",
        effect='"tryboot" alone does nothing, "3 tryboot" may boot partition 3: the kernel wants "0 tryboot"',
        seen="/run/systemd/reboot-param, if somebody left one",
        remedy="let abboot arm the trial: it writes the argument itself",
        source="raspberrypi/linux drivers/firmware/raspberrypi.c; documentation#2698",
    ),
    Hazard(
        id="H-32",
        severity=_SERIOUS,
        title="secure boot loses the flag",
        effect="with SIGNED_BOOT=1 bootloaders before 2024-04-15 (Pi 5: 2024-04-17) forget it: no trial ever happens",
        seen="the signed bit, and the bootloader's build date",
        remedy=_UPDATE,
        source="rpi-eeprom#564",
    ),
    Hazard(
        id="H-33",
        severity=_SERIOUS,
        title="secure boot wants boot.img and boot.sig",
        effect="with SIGNED_BOOT=1 a slot without them does not boot, and bootloaders before 2026-02-23 do not walk on",
        seen="the signed bit, the bootloader's build date, the files of each slot",
        remedy="stage a tree with boot.img and boot.sig; update the bootloader",
        source="rpi-eeprom#808, #811, #812",
    ),
    Hazard(
        id="H-34",
        severity=_SERIOUS,
        title="a slot starts the other slot's system",
        effect="root= in cmdline.txt names the wrong root file system, or none; or /boot/firmware is the other slot",
        seen="root= of each slot against the partition table; what is mounted on /boot/firmware",
        remedy="set it when staging: `abboot stage --set-cmdline root=...`; mount the booted slot on /boot/firmware",
        source="documentation#3017; firmware#1940",
    ),
    Hazard(
        id="H-35",
        severity=_SERIOUS,
        title="a first-boot resize is pending",
        effect="it gives the disk a new id, so PARTUUIDs in both slots' cmdline.txt and in fstab name nothing",
        seen="resize, firstboot or init_resize in cmdline.txt of a slot",
        remedy="let it run before the disk is used for A/B, then refresh cmdline.txt and fstab of both slots",
        source="measured with Raspberry Pi OS",
    ),
    Hazard(
        id="H-36",
        severity=_SERIOUS,
        title="package hooks write into the running slot",
        effect="an ordinary upgrade changes kernel and firmware of the slot that was tested, with no trial",
        seen="scripts in /etc/kernel and /etc/initramfs that name /boot/firmware",
        remedy="hold kernel and firmware packages (`apt-mark hold`), and bring new ones by staging a slot",
        source="raspi-firmware's z50-raspi-firmware hooks",
    ),
    Hazard(
        id="H-37",
        severity=_SERIOUS,
        title="an updater overwrites the booted slot",
        effect="one that goes by [all] instead of by what is booted writes into the running system",
        unseen="it is a fault of another updater's code; abboot writes neither the booted slot nor the primary (G4)",
        remedy="let only abboot write the slots",
        source="documentation, autoboot.adoc",
    ),
    Hazard(
        id="H-38",
        severity=_SERIOUS,
        title="the health check was dropped from the boot",
        effect="systemd deletes a job that is in an ordering cycle, nothing turns red, and a trial is never confirmed",
        seen="`systemd-analyze verify`, this boot's journal, and whether abboot's units were started",
        remedy="remove the ordering cycle; keep abboot-deadline.timer enabled: it does not depend on the unit",
        source="systemd.unit(5); a published report from a Pi 5 fleet",
    ),
    Hazard(
        id="H-39",
        severity=_SERIOUS,
        title="bootcode.bin and start.elf of different releases",
        effect="a Pi 0 to 3 starts bootcode.bin from the selector and start.elf from the slot: they may not fit",
        seen="bootcode.bin on the selector against the one beside start.elf in each slot",
        remedy="the same release everywhere; update bootcode.bin on the selector by hand, last",
        source="raspberrypi/noobs#390; firmware#878",
    ),
    Hazard(
        id="H-40",
        severity=_SERIOUS,
        title="the flag may not survive a reset on a Pi 0 to 3",
        effect="documented to work on all models, measured as lost on a BCM2837: no trial ever happens",
        seen="the model",
        remedy="prove it on this very board (`abboot selftest`), then set trial.allow_unknown_bootloader",
        source="documentation, bootflow-eeprom.adoc; contradicted by a published measurement",
    ),
    Hazard(
        id="H-41",
        severity=_CRITICAL,
        title="GPT entries not at block 2",
        effect="bootloaders before 2024-10-10 do not find the partitions; Windows moves the entries",
        seen="the GPT header, and the bootloader's build date",
        remedy=_UPDATE + "; or write the table anew",
        source="rpi-eeprom#585",
    ),
    Hazard(
        id="H-42",
        severity=_SERIOUS,
        title="a volume that some firmware cannot read",
        effect="FAT12 selectors, exFAT, and partition types such as 0x07 or an ESP are not opened by every board",
        seen="type id and boot sector of the boot partitions",
        remedy="type 0x0c with FAT32 or FAT16: build the image with `abboot image build`",
        source="firmware#1711, #1738; rpi-eeprom#259, #521",
    ),
    Hazard(
        id="H-43",
        severity=_ADVICE,
        title="a full volume cannot be read",
        effect="bootloaders before 2024-01-18 fail on a FAT whose last cluster is used",
        seen="no free cluster on a boot partition, and the bootloader's build date",
        remedy="stage a smaller tree; abboot leaves the last cluster free",
        source="rpi-eeprom#521",
    ),
    Hazard(
        id="H-44",
        severity=_SERIOUS,
        title="Pi 5 misreads short file names",
        effect="bootloaders before 2024-01-05 take entries without a long name for something else",
        seen="the model, and the bootloader's build date",
        remedy=_UPDATE,
        source="rpi-eeprom#514",
    ),
    Hazard(
        id="H-45",
        severity=_SERIOUS,
        title="a boot partition was not unmounted cleanly",
        effect="a file system check on the next boot may rename or clear files of a slot",
        seen="the dirty mark of unmounted volumes; boot partitions that are mounted read-write",
        remedy="mount selector and slots read-only, or not at all; a slot can be staged again",
        source="rpi-eeprom#654 (boot log); FAT specification 4.1",
    ),
    Hazard(
        id="H-46",
        severity=_ADVICE,
        title="a reset does not say why",
        effect="the reset register cannot tell a watchdog from a reboot, and what the device tree says of a trial is "
        "gone after it",
        unseen="nothing to see: it is so on every board; abboot journals intent and outcome instead",
        remedy="keep the journal",
        source="linux#932, #1586",
    ),
    Hazard(
        id="H-47",
        severity=_SERIOUS,
        title="the card acknowledges early",
        effect="a power cut within 1.6 s of a completed write damages other blocks on some cards",
        seen="too low a supply voltage now, as the firmware reports it: how such a cut begins; no card tells that it "
        "acknowledges early",
        remedy="a better power supply; wait before you cut the power; industrial cards or eMMC",
        source="linux-mmc mailing list, 2010-09-15",
    ),
    Hazard(
        id="H-48",
        severity=_SERIOUS,
        title="rescue firmware in a slot",
        effect="a Pi 4 tries recovery.elf and recover4.elf before start4.elf",
        seen="their names in each slot",
        remedy="delete them",
        source="published boot logs",
    ),
    Hazard(
        id="H-49",
        severity=_ADVICE,
        title="a fatal firmware error waits for ever",
        effect="bootloaders before 2026-04-14 stop with a blink code instead of resetting",
        seen="the bootloader's build date and its configuration",
        remedy=_UPDATE + "; or set BOOT_WATCHDOG_TIMEOUT",
        source="release notes 2026-04-14",
    ),
    Hazard(
        id="H-50",
        severity=_ADVICE,
        title="going back leads to older firmware",
        effect="one slot's start4.elf knows A/B boot or GPT and the other's does not: going back may not come up",
        seen="the build dates inside start4.elf of both slots",
        remedy="put the same recent firmware into both slots; update the bootloader only after that",
        source="rpi-eeprom#668",
    ),
    Hazard(
        id="H-51",
        severity=_SERIOUS,
        title="tryboot in the device tree is trusted alone",
        effect="it is 1 also when the firmware fell back to the primary in the same boot",
        unseen="it is a fault of other software's code; abboot compares the booted partition too (G6)",
        remedy="ask abboot: `abboot status`",
        source="documentation, autoboot.adoc",
    ),
    Hazard(
        id="H-52",
        severity=_ADVICE,
        title="network boot, or several USB disks",
        effect="a network boot has no slots; walking over several USB disks runs into timeouts",
        seen="boot-mode in the device tree, and the number of USB disks",
        remedy="boot from SD, eMMC or NVMe, or with one USB disk",
        source="release notes 2025-02-11; rpi-eeprom#776",
    ),
    Hazard(
        id="H-53",
        severity=_ADVICE,
        title="another disk with the same identity",
        effect="whatever goes by label or PARTUUID may mount, or write, the wrong disk",
        seen="the disk ids and volume labels of all disks",
        remedy="remove the other disk, or give it a new id; abboot goes by the disk that the firmware booted",
        source="raspberrypi/rpi-image-gen, image-rota",
    ),
    Hazard(
        id="H-54",
        severity=_ADVICE,
        title="a tool that is not there",
        effect="a configured command that is missing fails in the trial, and every update is left",
        seen="the commands of the configuration, looked for in this system",
        remedy="install it, in the system of both slots, or correct the configuration",
        source="a published report from a Pi 5 fleet (BusyBox without `install`)",
    ),
)

HAZARDS: dict[str, Hazard] = {row.id: row for row in _ROWS}
"""Every hazard by its number, in order."""
