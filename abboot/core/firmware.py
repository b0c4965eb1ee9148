"""What the Raspberry Pi's firmware does with a card: the model behind the simulator, ``status`` and the crash judge.

:func:`next_boot` answers "what boots after this reset", :func:`after_reset` "what is left of the flag after this kind
of reset".  Pure: a card is described by values, nothing is opened.

Rules:

* A fact has its source beside it.  ``RN4`` and ``RN5`` are the release notes of the bootloader in
  raspberrypi/rpi-eeprom (``firmware-2711`` and ``firmware-2712``), ``rpi-eeprom#738`` is an issue there,
  ``autoboot.adoc`` and other ``.adoc`` are files of raspberrypi/documentation, "measured" means on a Pi 4B revision 1.2
  with the bootloader of 2026-05-17 unless it says otherwise.
* What nobody documented is a member of :class:`Unknown`, and both answers are explored.  The answer that the sources
  make more likely comes first.  An unknown is a property of the firmware, so within one boot it has one answer.
* Content of ``config.txt`` is not seen, only file names: ``kernel=``, ``os_prefix=`` and ``boot_ramdisk=1`` are
  guessed from what lies on the partition.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Callable, Iterator
from datetime import date

import attrs

from abboot.core.autoboot import read_as_firmware
from abboot.core.value import Value
from abboot.core.words import TableKind

Tri = bool | None
"""``None``: unknown, so both answers are possible."""

NEWEST = date(2026, 6, 17)
"""Build date of the newest bootloader whose release notes this model was checked against."""

HALT_REQUEST = 63
"""``PM_RSTS`` 0x555, all six partition bits set, means power off (bcm2835_wdt.c)."""

LAST_WALKED = 8
"""The partition walk looks at partitions 1 to 8 (eeprom-bootloader.adoc, PARTITION_WALK)."""

_ALWAYS = date.min
_NEVER = date.max


class Family(enum.StrEnum):
    """Boards that share a boot chain."""

    PI0_3 = "pi0-3"  # ROM, bootcode.bin and start.elf on the card; no EEPROM
    PI4 = "pi4"  # EEPROM bootloader, then start4.elf from the card
    PI5 = "pi5"  # EEPROM bootloader, then the kernel


class Model(enum.StrEnum):
    """A board, by the word that ``--model`` takes."""

    PI_ZERO = "pi-zero"
    PI_ZERO_2 = "pi-zero-2"
    PI_2 = "pi2"
    PI_3 = "pi3"
    CM3 = "cm3"
    PI_4 = "pi4"
    PI_400 = "pi400"
    CM4 = "cm4"
    PI_5 = "pi5"
    PI_500 = "pi500"
    CM5 = "cm5"

    @property
    def family(self) -> Family:
        return _MODELS[self][0]

    @property
    def full_name(self) -> str:
        """As ``/proc/device-tree/model`` begins."""
        return _MODELS[self][1]


_MODELS = {
    Model.PI_ZERO_2: (Family.PI0_3, "Raspberry Pi Zero 2 W"),
    Model.PI_ZERO: (Family.PI0_3, "Raspberry Pi Zero"),
    Model.PI_2: (Family.PI0_3, "Raspberry Pi 2 Model B"),
    Model.PI_3: (Family.PI0_3, "Raspberry Pi 3 Model"),  # A+, B and B+ differ in nothing that is known here
    Model.CM3: (Family.PI0_3, "Raspberry Pi Compute Module 3"),
    Model.PI_4: (Family.PI4, "Raspberry Pi 4 Model B"),
    Model.PI_400: (Family.PI4, "Raspberry Pi 400"),
    Model.CM4: (Family.PI4, "Raspberry Pi Compute Module 4"),  # and 4S
    Model.PI_5: (Family.PI5, "Raspberry Pi 5 Model B"),
    Model.PI_500: (Family.PI5, "Raspberry Pi 500"),
    Model.CM5: (Family.PI5, "Raspberry Pi Compute Module 5"),
}


def identify_model(text: str) -> tuple[Model, str | None] | None:
    """The model and the revision from ``/proc/device-tree/model``, such as ``Raspberry Pi 4 Model B Rev 1.2``.

    ``None`` if it is no board that this model knows; a revision of ``None`` if the text names none.
    """
    revision = re.search(r" Rev ([0-9]{1,3}\.[0-9]{1,3})", text, re.ASCII)
    for model, (_family, name) in _MODELS.items():
        if text.startswith(name):
            return model, revision[1] if revision else None
    return None


class Kernel(enum.StrEnum):
    """Whose kernel handles the reboot."""

    DOWNSTREAM = "downstream"  # raspberrypi/linux: passes "0 tryboot" and partition numbers on
    MAINLINE = "mainline"  # passes nothing on, and has no /dev/vcio (rpi-eeprom#716, H-29)


class PartitionRule(enum.StrEnum):
    """When the EEPROM's ``PARTITION=`` counts (RN4 2022-02-04; rpi-eeprom#743)."""

    NEVER = "never"
    IF_ZERO = "if_zero"
    ONLY_ABOVE_31 = "only_above_31"
    IF_ZERO_OR_ABOVE_31 = "if_zero_or_above_31"

    @property
    def covers_zero(self) -> bool:
        return self in (PartitionRule.IF_ZERO, PartitionRule.IF_ZERO_OR_ABOVE_31)

    @property
    def covers_above_31(self) -> bool:
        return self in (PartitionRule.ONLY_ABOVE_31, PartitionRule.IF_ZERO_OR_ABOVE_31)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Eeprom(Value):
    """What the bootloader's own configuration says; ``None`` is that bootloader's default (eeprom-bootloader.adoc).

    Args:
        partition: ``PARTITION=``, the partition of lowest precedence; 0 for none.
        partition_walk: ``PARTITION_WALK=``.
        reboot_on_fatal_error: ``REBOOT_ON_FATAL_ERROR=``.
        write_protected: the flash cannot be written (matters on a Pi 4B 1.0 and 1.1 only: H-09).
    """

    partition: int = attrs.field(default=0, validator=[attrs.validators.ge(0), attrs.validators.lt(HALT_REQUEST)])
    partition_walk: bool | None = None
    reboot_on_fatal_error: bool | None = None
    write_protected: bool = False


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Board(Value):
    """A board and its bootloader.  The properties are what differs between versions, each with its source.

    Args:
        model: which board.
        bootloader: build date of the EEPROM, or of ``bootcode.bin`` on the Pi 0 to 3.
        revision: as in ``Rev 1.2``; ``None`` is a current one.  It matters on the Pi 4B, below 1.4.
        eeprom: the bootloader's configuration.
        secure_boot: ``SIGNED_BOOT=1``: only ``boot.img`` boots.
        kernel: whose kernel asks for the reset.
    """

    model: Model = attrs.field(default=Model.PI_4, converter=Model)
    bootloader: date = NEWEST
    revision: str | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.matches_re(r"[0-9]{1,3}\.[0-9]{1,3}"))
    )
    eeprom: Eeprom = Eeprom()
    secure_boot: bool = False
    kernel: Kernel = attrs.field(default=Kernel.DOWNSTREAM, converter=Kernel)

    @property
    def family(self) -> Family:
        return self.model.family

    def _since(self, *, pi4: date, pi5: date, pi0_3: date = _NEVER) -> bool:
        return self.bootloader >= {Family.PI0_3: pi0_3, Family.PI4: pi4, Family.PI5: pi5}[self.family]

    @property
    def tryboot_file(self) -> bool:
        """The one-shot flag exists (RN4 2020-10-28 and 2020-11-24, "Pi3 and earlier"; always on a Pi 5)."""
        return self._since(pi4=date(2020, 10, 28), pi5=_ALWAYS, pi0_3=date(2020, 11, 24))

    @property
    def ab_sections(self) -> Tri:
        """Sections and ``tryboot_a_b`` in ``autoboot.txt`` (RN4 2022-10-18).  H-01: without, the last value wins.

        For the Pi 0 to 3 the release is documented nowhere; firmware of "about 2022-10" has them.
        """
        if self.family is Family.PI0_3 and date(2022, 10, 1) <= self.bootloader < date(2023, 1, 1):
            return None
        return self._since(pi4=date(2022, 10, 18), pi5=_ALWAYS, pi0_3=date(2023, 1, 1))

    @property
    def autoboot_in_secure_boot(self) -> bool:
        """RN4 2022-10-18."""
        return self._since(pi4=date(2022, 10, 18), pi5=_ALWAYS)

    @property
    def tryboot_in_secure_boot(self) -> bool:
        """Secure boot's initialisation keeps the flag (RN4 2024-04-15, RN5 2024-04-17; rpi-eeprom#564)."""
        return self._since(pi4=date(2024, 4, 15), pi5=date(2024, 4, 17))

    @property
    def tryboot_works(self) -> Tri:
        """Whether a flag that was set survives the reset.

        Pi 0 to 3: documented for all, measured as lost on a BCM2837 (H-40).  Pi 4B 1.0 and 1.1 keep it in the EEPROM,
        which must not be write protected (bootflow-eeprom.adoc; H-09).  Pi 4B 1.2: one bench saw it work, another saw
        it lost (H-08).
        """
        if self.family is Family.PI0_3:
            return None
        if self._loses_sd_power_state:
            early = self.revision in ("1.0", "1.1")
            return not self.eeprom.write_protected if early else None
        return True

    @property
    def keeps_rsts(self) -> Tri:
        """Whether ``reboot N`` reaches the bootloader.

        A Pi 4B below 1.4 resets globally, because it cannot switch the SD card's power; a CM4 Lite may
        (rpi-eeprom#206, #279; linux#4527; H-08).
        """
        if self._loses_sd_power_state:
            return False
        return None if self.model is Model.CM4 else True

    @property
    def _loses_sd_power_state(self) -> bool:
        if self.model is not Model.PI_4 or self.revision is None:
            return False
        return tuple(int(part) for part in self.revision.split(".")) < (1, 4)

    @property
    def rsts_partition_ok(self) -> bool:
        """A requested partition is not cleared before use (RN5 2023-12-14; raspberrypi/firmware#1853)."""
        return self._since(pi4=_ALWAYS, pi5=date(2023, 12, 14), pi0_3=_ALWAYS)

    @property
    def bit10_bug(self) -> bool:
        """A watchdog reset may ask for partition 32 (raspberrypi/firmware#2000; H-21).

        On the Pi 0 to 3 the fix is inferred to be in any ``start.elf`` after 2025-09-15.
        """
        fixed = date(2025, 9, 15) if self.family is Family.PI0_3 else date(2025, 10, 8)
        return date(2025, 6, 20) <= self.bootloader < fixed

    @property
    def eeprom_partition_rule(self) -> PartitionRule:
        """RN4 2022-02-04, RN4 and RN5 2025-02-11, broken until 2025-08-27 (rpi-eeprom#743; H-22)."""
        if not self._since(pi4=date(2022, 2, 4), pi5=_ALWAYS):
            return PartitionRule.NEVER
        if self.bootloader < date(2025, 2, 11):
            return PartitionRule.IF_ZERO
        if self.bootloader < date(2025, 8, 27):
            return PartitionRule.ONLY_ABOVE_31
        return PartitionRule.IF_ZERO_OR_ABOVE_31

    @property
    def resolve_zero(self) -> Tri:
        """The default partition 0 is resolved to its number before it is handed on (RN4 2025-02-11; boot logs)."""
        return None if self.family is Family.PI0_3 else self._since(pi4=date(2025, 2, 11), pi5=date(2025, 2, 11))

    @property
    def dt_partition_zero_bug(self) -> bool:
        """The device tree always says partition 0 (RN5 2024-05-13; rpi-eeprom#575; H-07)."""
        return self.family is Family.PI5 and self.bootloader < date(2024, 5, 13)

    @property
    def walk_exists(self) -> bool:
        """RN4 2025-02-11, RN5 2025-01-27."""
        return self._since(pi4=date(2025, 2, 11), pi5=date(2025, 1, 27))

    @property
    def walk_enabled(self) -> bool:
        """On by default since 2025-08-13 (RN4, RN5).

        In secure boot it works since 2026-02-23 only (rpi-eeprom#808; H-33).
        """
        if self.secure_boot and not self._since(pi4=date(2026, 2, 23), pi5=date(2026, 2, 23)):
            return False
        default = self.bootloader >= date(2025, 8, 13)
        return self.walk_exists and (default if self.eeprom.partition_walk is None else self.eeprom.partition_walk)

    @property
    def walk_passes_missing_firmware(self) -> bool:
        """The walk survives ``config.txt`` without ``start4.elf`` (RN4 2025-08-20; rpi-eeprom#738)."""
        return self._since(pi4=date(2025, 8, 20), pi5=_ALWAYS)

    @property
    def failover_to_1(self) -> Tri:
        """One retry with partition 1 when the chosen one is not bootable (RN4 2022-10-18).

        From 2020-10-28 a number that does not exist failed over to partition 0; for the Pi 0 to 3 nothing is known.
        """
        if self.family is Family.PI0_3:
            return None
        if self._since(pi4=date(2022, 10, 18), pi5=_ALWAYS):
            return True
        return None if self.tryboot_file else False

    @property
    def fatal_reboots(self) -> bool:
        """The bootloader resets instead of waiting when nothing boots (RN4 and RN5 2026-04-14; H-49)."""
        if not self._since(pi4=date(2026, 4, 14), pi5=date(2026, 4, 14)):
            return False
        return self.eeprom.reboot_on_fatal_error is not False


def proves_ab_support(family: Family, build: date | None) -> Tri:
    """Whether a bootloader of this date honours ``[tryboot]`` and ``tryboot_a_b``; ``None`` where nothing proves it.

    The capability bits do not: a bootloader of 2021-04-29 has both tryboot bits set and ignores sections (H-01).
    """
    if family is Family.PI5:
        return True
    if build is None:
        return None
    supported = Board(model=Model.PI_4 if family is Family.PI4 else Model.PI_3, bootloader=build).ab_sections
    # H-40: on a Pi 0 to 3 even a new bootcode.bin proves nothing about the flag.
    return None if supported and family is Family.PI0_3 else supported


_MBR_FAT = frozenset({"0x0b", "0x0c", "0x0e"})
_MBR_FAT_UNPROVED = frozenset({"0x01", "0x04", "0x06"})
_GPT_BASIC_DATA = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
_GPT_ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"


def opens_type(board: Board, type_id: str) -> Tri:
    """Whether the boot chain looks for a FAT in a partition of this type.

    Args:
        board: the board.
        type_id: ``"0x0c"`` on an MBR, a GUID on a GPT.

    Sources: no list is published.  0x0b, 0x0c and 0x0e are seen working; 0xef since RN4 2020-05-26, and not by the ROM
    of a Pi 3 (raspberrypi/firmware#1711); basic data and ESP on a GPT since RN4 2020-05-26, an ESP with FAT16 reliably
    since 2022-01-25 (rpi-eeprom#359, #558); the ROM of the Pi 0 to 3 needs an MBR (documentation#1291).
    """
    folded = type_id.lower()
    if folded in _MBR_FAT:
        return True
    if folded in _MBR_FAT_UNPROVED:
        return None
    if folded == "0xef":
        return board._since(pi4=date(2020, 5, 26), pi5=_ALWAYS)
    if folded.upper() == _GPT_BASIC_DATA:
        return board._since(pi4=date(2020, 5, 26), pi5=_ALWAYS)
    if folded.upper() == _GPT_ESP and board.family is not Family.PI0_3:
        return True if board._since(pi4=date(2022, 1, 25), pi5=_ALWAYS) else None
    return False


@attrs.frozen(kw_only=True, eq=False, repr=False)
class PartitionView(Value):
    """What the firmware could see of one partition.

    Args:
        number: the firmware's number, from 1.
        readable: a FAT that the firmware can open: accepted type id (:func:`opens_type`) and a valid boot sector.
        fat_type: its type id promises a FAT, whether or not there is one now; false for Linux partitions.
        files: every file, as lower-case ``/``-separated paths: FAT compares names without case.
        startelf: build date of ``start4.elf`` (``start.elf`` on the Pi 0 to 3); unknown counts as new enough.
    """

    number: int = attrs.field(validator=attrs.validators.ge(1))
    readable: bool
    fat_type: bool = True
    files: frozenset[str] = frozenset()
    startelf: date | None = None

    def has(self, name: str) -> bool:
        return name in self.files


@attrs.frozen(kw_only=True, eq=False, repr=False)
class CardView(Value):
    """What the firmware could see of a card.

    Args:
        table: how it is partitioned.
        partitions: each number once, lowest first.
        autoboot: content of ``autoboot.txt`` on the first readable partition; ``None`` if there is no such file.
        in_disk_order: whether the partitions' numbers rise with their place on the disk (H-05).
    """

    table: TableKind = TableKind.MBR
    partitions: tuple[PartitionView, ...] = attrs.field()
    autoboot: bytes | None = None
    in_disk_order: bool = True

    @partitions.validator
    def _numbers_rise(self, _attribute: object, value: tuple[PartitionView, ...]) -> None:
        numbers = [view.number for view in value]
        if numbers != sorted(set(numbers)):
            raise ValueError(f"partitions come once each and lowest first, not {numbers}")

    def partition(self, number: int) -> PartitionView | None:
        return next((view for view in self.partitions if view.number == number), None)

    def linux_before(self, number: int) -> bool:
        return any(not view.fat_type and view.number < number for view in self.partitions)

    @property
    def readable(self) -> tuple[PartitionView, ...]:
        return tuple(view for view in self.partitions if view.readable)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Reset(Value):
    """What the bootloader finds after a reset.

    Args:
        tryboot: the one-shot flag.
        request: the partition in ``PM_RSTS``, 0 for none; 63 means power off.
    """

    tryboot: bool = False
    request: int = attrs.field(default=0, validator=[attrs.validators.ge(0), attrs.validators.le(HALT_REQUEST)])


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Boot(Value):
    """One thing that may happen.

    Args:
        partition: the partition that boots; ``None``: nothing does, the firmware waits, hangs or resets for ever.
        tryboot: what the device tree's ``tryboot`` will say.
        config: ``config.txt``, ``tryboot.txt``, ``boot.img`` or ``tryboot.img``; ``None``: the firmware's defaults.
        reported_partition: what the device tree's ``partition`` will say: 0 where an old bootloader does not tell.
        why: one sentence per decision, in order.
        certain: this is the only outcome.
    """

    partition: int | None
    tryboot: bool
    config: str | None
    reported_partition: int | None
    why: tuple[str, ...]
    certain: bool = False


def next_boot(board: Board, card: CardView, reset: Reset) -> tuple[Boot, ...]:
    """Every outcome that is consistent with what is known, the documented or most likely one first.

    At least one; two never agree in everything but ``why``.  Never raises.
    """
    outcomes: dict[object, Boot] = {}
    resets_itself = False

    @functools.cache
    def readings(tryboot: bool, sections: bool) -> tuple[tuple[tuple[int, bool], ...], tuple[str, ...]]:
        reading = read_as_firmware(card.autoboot, tryboot=tryboot, sections=sections)
        choices = ((reading.boot_partition, reading.tryboot_a_b), *reading.alternatives)
        return _worth_telling_apart(choices, card, tryboot), reading.doubts

    for result in _explore(lambda assumed: _PowerOn(board, card, assumed, readings).run(reset)):
        if isinstance(result, Boot):
            outcomes.setdefault(_identity(result), result)
        elif not resets_itself:
            # Explored apart, once: a second boot inside each of the first would multiply the work (G10).  So a second
            # boot may rest on another answer than the first, which only ever adds outcomes.
            resets_itself = True
            for boot in next_boot(board, card, Reset()):
                outcomes.setdefault(_identity(boot), attrs.evolve(boot, why=result.why + boot.why))
    return tuple(attrs.evolve(boot, certain=len(outcomes) == 1) for boot in outcomes.values())


def _worth_telling_apart(
    choices: tuple[tuple[int, bool], ...], card: CardView, tryboot: bool
) -> tuple[tuple[int, bool], ...]:
    """Without those that would end like one before them: a hostile file names hundreds of numbers (G10)."""
    distinct: dict[tuple[int, bool], tuple[int, bool]] = {}
    for number, a_b in choices:
        exists = number == 0 or card.partition(number) is not None
        distinct.setdefault((number if exists else -1, a_b and tryboot), (number, a_b))
    return tuple(distinct.values())


def _identity(boot: Boot) -> tuple[object, ...]:
    return boot.partition, boot.tryboot, boot.config, boot.reported_partition


class ResetKind(enum.StrEnum):
    """How a running system ends."""

    POWER_CUT = "power_cut"
    REBOOT = "reboot"
    WATCHDOG = "watchdog"
    PANIC = "panic"  # with panic=N; without it the board waits for ever


def after_reset(
    board: Board, kind: ResetKind, *, flag: bool, argument: str | None = None, request: int = 0
) -> tuple[Reset, ...]:
    """What the bootloader finds after a running system ended, the most likely first.

    Args:
        board: the board and whose kernel it ran.
        kind: how the system ended.
        flag: the one-shot flag as the mailbox had it.
        argument: of ``reboot(2)``, for :attr:`ResetKind.REBOOT`: ``"0 tryboot"`` or a partition number.
        request: the partition request that this boot itself began with; it stays in the register until a downstream
            kernel's restart handler overwrites it (bcm2835_wdt.c).

    Sources: bootflow-eeprom.adoc; raspberrypi.c and bcm2835_wdt.c of raspberrypi/linux; measured: a power cut after
    arming clears the flag, a plain reboot keeps it.
    """
    survives = _possible(board.tryboot_works)
    # The restart handler writes the request; without it, whatever the register held is found again.
    rewritten = (0,) if board.kernel is Kernel.DOWNSTREAM else (request,)
    flags: tuple[bool, ...]
    match kind:
        case ResetKind.POWER_CUT:
            return (Reset(),)
        case ResetKind.REBOOT:
            downstream = board.kernel is Kernel.DOWNSTREAM
            # The leading blank is required (raspberrypi.c: strstr(data, " tryboot"); H-31).
            flag = flag or (downstream and " tryboot" in (argument or ""))
            flags = survives if flag else (False,)
            requests = _requested(argument or "") if downstream else rewritten
        case ResetKind.WATCHDOG:
            flags = survives if flag else (False,)
            requests = (request, 32) if board.bit10_bug else (request,)
        case ResetKind.PANIC:
            # The reboot notifier does not run, so only a flag that is already set can persist; nobody tested it.
            flags = (True, False) if flag and board.tryboot_works is not False else (False,)
            requests = rewritten
    found = [
        Reset(tryboot=tryboot, request=number if kept else 0)
        for kept in _possible(board.keeps_rsts)
        for number in requests
        for tryboot in flags
    ]
    return tuple(dict.fromkeys(found))


def _possible(value: Tri) -> tuple[bool, ...]:
    return (True, False) if value is None else (value,)


def _requested(argument: str) -> tuple[int, ...]:
    """What bcm2835_wdt.c writes: newer ones the leading number, older ones the number only if it is the whole text."""
    match = re.match(r"\s*([0-9]{1,9})", argument, re.ASCII)
    if match is None or int(match[1]) >= HALT_REQUEST:
        return (0,)
    number = int(match[1])
    return (number,) if argument.strip() == match[1] else tuple(dict.fromkeys((number, 0)))


class Unknown(enum.Enum):
    """What no public source settles: a sentence, whether it is likelier true than false, and who left it open."""

    SECTIONS = ("this bootcode.bin knows sections in autoboot.txt", True, "no release is documented")
    DEFAULT_SKIPS = (
        "the default is the first partition that looks bootable, not the first FAT",
        True,
        "measured with the bootloader of 2026-05-17 only",
    )
    RESOLVE_ZERO = ("the default partition is reported by its number", True, "not documented for the Pi 0 to 3")
    HYBRID_MBR = ("the GPT has a hybrid MBR that the ROM can read", False, "documentation#1291")
    AUTOBOOT_AFTER_REQUEST = (
        "a requested partition that is not bootable makes autoboot.txt count again",
        False,
        "rpi-eeprom#818: `reboot 1` booted partition 2",
    )
    FAILOVER = (
        "a partition that is not bootable fails over to the default",
        True,
        "not documented for this bootloader",
    )
    FAILOVER_TO_DEFAULT = (
        "the failover takes the first partition that looks bootable, not partition 1",
        True,
        "release notes of 2020-10-28 and 2022-10-18 differ",
    )
    WALK_GOES_UP = (
        "the walk goes up from the chosen partition before it starts again at 1",
        True,
        "rpi-eeprom#818 and #738 show two orders",
    )
    WALK_KEEPS_TRYBOOT = ("the tryboot flag stays in force in the walk", True, "not documented")
    WALK_KEEPS_A_B = ("tryboot_a_b stays in force in the walk", True, "not documented")
    WALK_POISONED = (
        "start4.elf missing on one partition makes the whole walk fail",
        True,
        "rpi-eeprom#738, warm resets",
    )
    GPT_COUNTS_ALL = ("GPT partitions that are no FAT count as well", True, "rpi-eeprom#818")
    GPT_TRYBOOT = ("a trial works on a GPT", True, "rpi-eeprom#818, open")
    START_ELF_VARIANT = (
        "config.txt asks for the variant of start.elf that is there",
        True,
        "its content is not read here",
    )
    FIXUP_OPTIONAL = ("the firmware starts without its fixup file", True, "not documented")
    DEVICE_TREE_OPTIONAL = ("a partition without a device tree for this board boots", False, "eeprom-bootloader.adoc")
    RAMDISK = ("config.txt says boot_ramdisk=1", True, "its content is not read here")
    KERNEL_MISSING_STOPS = ("a missing kernel stops the bootloader", True, "whether the walk goes on is not documented")
    GPT_NUMBER_BREAKS = ("this start.elf cannot open a GPT partition by number", True, "rpi-eeprom#668")
    GPT_FIRST_ONLY = (
        "start.elf opens the first partition when Linux partitions come before",
        True,
        "firmware#1974, open",
    )
    UNORDERED_BREAKS = ("this start.elf cannot follow partitions out of disk order", True, "rpi-eeprom#705")
    OLD_START_ELF_A_B = ("this start.elf ignores tryboot_a_b", True, "rpi-eeprom#504")
    TRYBOOT_TXT_NEEDED = ("a missing tryboot.txt stops the firmware", True, "home-assistant/operating-system#3740")
    FATAL_KEEPS_REQUEST = ("the reset after a fatal error keeps the partition request", False, "RN4 2026-04-14")
    START_ELF_RESETS = ("the reset after a fatal error covers start.elf as well", False, "RN4 2026-04-14")

    @property
    def sentence(self) -> str:
        return self.value[0]

    @property
    def likely(self) -> bool:
        return self.value[1]

    @property
    def source(self) -> str:
        return self.value[2]


class _Assumptions:
    """One consistent set of answers; ``trail`` is (answer taken, answers there are), in the order of asking."""

    def __init__(self, prefix: list[int]) -> None:
        self._prefix = prefix
        self._known: dict[object, int] = {}
        self.trail: list[tuple[int, int]] = []

    def choose(self, question: object, answers: int) -> int:
        if question not in self._known:
            position = len(self.trail)
            taken = self._prefix[position] if position < len(self._prefix) else 0
            self.trail.append((taken, answers))
            self._known[question] = taken
        return self._known[question]


@attrs.frozen(kw_only=True, eq=False, repr=False)
class _Spent(Value):
    """The bootloader resets the board: another boot follows, without flag and request."""

    why: tuple[str, ...]


def _explore(run: Callable[[_Assumptions], Boot | _Spent]) -> Iterator[Boot | _Spent]:
    """Run once per consistent set of answers, all likely ones first, then changing the last questions first."""
    prefix: list[int] = []
    while True:
        assumed = _Assumptions(prefix)
        yield run(assumed)
        trail = assumed.trail
        while trail and trail[-1][0] + 1 == trail[-1][1]:
            trail.pop()
        if not trail:
            return
        prefix = [taken for taken, _answers in trail]
        prefix[-1] += 1


class _Failure(enum.Enum):
    NOT_BOOTABLE = enum.auto()  # the bootloader passes this partition by
    STOPPED = enum.auto()  # the bootloader has given up
    HUNG = enum.auto()  # start.elf was started and does not come up


@attrs.frozen(kw_only=True, eq=False, repr=False)
class _Mode(Value):
    """How a partition is to be booted."""

    tryboot: bool
    file_level: bool  # the flag wants tryboot.txt: there is no tryboot_a_b in force

    @property
    def config(self) -> str:
        return "tryboot.txt" if self.tryboot and self.file_level else "config.txt"

    @property
    def image(self) -> str:
        return "tryboot.img" if self.tryboot and self.file_level else "boot.img"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class _Firmware(Value):
    """File names of one family.  A Pi 5 needs none: its firmware is in the EEPROM."""

    start: str
    variants: tuple[str, ...]  # start_x=1, gpu_mem=16, start_debug=1
    fixup: str


_FIRMWARE = {
    Family.PI0_3: _Firmware(
        start="start.elf", variants=("start_x.elf", "start_cd.elf", "start_db.elf"), fixup="fixup.dat"
    ),
    Family.PI4: _Firmware(
        start="start4.elf", variants=("start4x.elf", "start4cd.elf", "start4db.elf"), fixup="fixup4.dat"
    ),
}
# Anything that could be a kernel under any name that kernel= would give it; never an initramfs or a ramdisk container.
_KERNEL = re.compile(r"(?!initr|boot\.img$|tryboot\.img$)(.*\.img|vmlinu[xz].*|image.*|.*\.efi|u-boot.*\.bin)")


_Readings = Callable[[bool, bool], tuple[tuple[tuple[int, bool], ...], tuple[str, ...]]]
"""(tryboot, sections) -> every plausible (boot_partition, tryboot_a_b), the likely one first, and the doubts."""


class _PowerOn:
    """One run of the boot chain under one set of assumptions, following the order of its own UART log."""

    def __init__(self, board: Board, card: CardView, assumed: _Assumptions, readings: _Readings) -> None:
        self.board = board
        self.card = card
        self.assumed = assumed
        self.readings = readings
        self.why: list[str] = []
        self.poisoned = False  # rpi-eeprom#738

    def run(self, reset: Reset) -> Boot | _Spent:
        result = self._attempt(reset)
        if isinstance(result, Boot):
            return result
        if reset.request == HALT_REQUEST:
            return self._nothing()
        resets = self.board.fatal_reboots and (result is not _Failure.HUNG or self._ask(Unknown.START_ELF_RESETS))
        if resets and reset != Reset() and not (reset.request and self._ask(Unknown.FATAL_KEEPS_REQUEST)):
            # The flag is one-shot: it was cleared before anything was started (bootflow-eeprom.adoc).
            self._note("nothing boots: the bootloader resets the board, and the flag is spent")
            return _Spent(why=tuple(self.why))
        self._note("nothing boots: the board resets and tries again, for ever" if resets else "nothing boots: it waits")
        return self._nothing()

    # -- the bootloader ---------------------------------------------------------------------------------------------

    def _attempt(self, reset: Reset) -> Boot | _Failure:
        board, tryboot, request = self.board, reset.tryboot, reset.request
        self._note(f"reset: the tryboot flag is {'set' if tryboot else 'clear'}")
        if request == HALT_REQUEST:
            self._note("reset: the request 63 means power off")
            return _Failure.STOPPED
        if request and not board.rsts_partition_ok:
            self._note(f"this bootloader loses the request for partition {request}")
            request = 0
        if tryboot and not board.tryboot_file:
            self._note("this bootloader does not know the tryboot flag")
            tryboot = False
        if tryboot and board.secure_boot and not board.tryboot_in_secure_boot:
            self._note("this bootloader loses the tryboot flag in secure boot")
            tryboot = False
        if not self.card.readable:
            self._note("no partition can be opened as FAT")
            return _Failure.NOT_BOOTABLE
        if board.family is Family.PI0_3 and not self._rom_finds_bootcode():
            return _Failure.STOPPED
        pi5_on_gpt = board.family is Family.PI5 and self.card.table is TableKind.GPT
        if tryboot and pi5_on_gpt and not self._ask(Unknown.GPT_TRYBOOT):
            self._note("GPT: no bootable partitions (H-06)")
            return _Failure.NOT_BOOTABLE

        from_file, file_level = self._read_autoboot(tryboot)
        selected = self._select(request, from_file)
        mode = _Mode(tryboot=tryboot, file_level=file_level)
        result = self._load_default(mode) if selected == 0 else self._load_number(selected, mode)
        # Measured: no walk and no failover when nothing was asked for.
        if result is not _Failure.NOT_BOOTABLE or selected == 0:
            return result
        if selected == request and from_file and self._ask(Unknown.AUTOBOOT_AFTER_REQUEST):
            selected = from_file
            result = self._load_number(selected, mode)
            if result is not _Failure.NOT_BOOTABLE:
                return result
        if board.walk_enabled:
            return self._walk(selected, mode)
        if self._known_or_ask(board.failover_to_1, Unknown.FAILOVER):
            return self._fail_over(mode)
        return _Failure.NOT_BOOTABLE

    def _rom_finds_bootcode(self) -> bool:
        # The one file of firmware that a selector must have on these boards (H-14, H-39).
        if self.card.table is TableKind.GPT and not self._ask(Unknown.HYBRID_MBR):
            self._note("the ROM reads no GPT")
            return False
        first = self.card.readable[0]
        if first.has("bootcode.bin"):
            return True
        self._note(f"partition {first.number}: the ROM finds no bootcode.bin")
        return False

    def _read_autoboot(self, tryboot: bool) -> tuple[int, bool]:
        """``boot_partition`` (0: none), and whether the flag wants ``tryboot.txt``."""
        if self.board.secure_boot and not self.board.autoboot_in_secure_boot:
            self._note("autoboot.txt is not read in secure boot by this bootloader")
            return 0, True
        if self.card.autoboot is None:
            self._note("autoboot.txt: not found")
            return 0, True
        sections = self._known_or_ask(self.board.ab_sections, Unknown.SECTIONS)
        choices, doubts = self.readings(tryboot, sections)
        number, a_b = choices[self.assumed.choose(("autoboot.txt", tryboot), len(choices))]
        if doubts:
            self._note(f"autoboot.txt: nothing documents {doubts[0]}")
        where = f"{'[tryboot]' if tryboot else '[all]'} " if sections else "no sections known, last "
        self._note(f"autoboot.txt: {where}boot_partition={number}" if number else "autoboot.txt: names no partition")
        return number, not a_b

    def _select(self, request: int, from_file: int) -> int:
        """The log line ``Select partition rsts R C(boot_partition) B EEPROM config E result X``."""
        rule, configured = self.board.eeprom_partition_rule, self.board.eeprom.partition
        if request > 31 and rule.covers_above_31 and configured:
            self._note(f"the EEPROM's PARTITION={configured} replaces the request for partition {request}")
            return configured
        if request:
            self._note(f"reset: partition {request} is requested, which wins over autoboot.txt")
            return request
        if from_file:
            return from_file
        if configured and rule.covers_zero:
            self._note(f"the EEPROM says PARTITION={configured}")
            return configured
        return 0

    def _load_default(self, mode: _Mode) -> Boot | _Failure:
        """Partition 0: the first FAT that looks bootable, which is decided by less than what booting takes."""
        readable = self.card.readable
        looking = next((view for view in readable if self._looks_bootable(view)), None)
        if looking is None:
            self._note("no partition looks bootable")
            return _Failure.NOT_BOOTABLE
        measured = self.board.resolve_zero is True
        if looking is not readable[0] and not measured and not self._ask(Unknown.DEFAULT_SKIPS):
            self._note(f"partition {readable[0].number}: the first FAT, not bootable")
            return _Failure.NOT_BOOTABLE
        resolved = self._known_or_ask(self.board.resolve_zero, Unknown.RESOLVE_ZERO)
        self._note(f"nothing is chosen: partition {looking.number} is the first that looks bootable")
        return self._load(looking, looking.number if resolved else 0, mode)

    def _looks_bootable(self, view: PartitionView) -> bool:
        """Measured on a Pi 4: any ``start*.elf`` will do, even when ``start4.elf`` is the missing one."""
        if view.has("boot.img"):
            return True
        if self.board.family is Family.PI5:
            return view.has("config.txt")
        return any(re.fullmatch(r"start[^/]*\.elf", name) for name in view.files)

    def _load_number(self, number: int, mode: _Mode) -> Boot | _Failure:
        view = self._open(number)
        if view is None:
            self._note(f"partition {number}: cannot be opened")
            return _Failure.NOT_BOOTABLE
        return self._load(view, number, mode)

    def _open(self, number: int) -> PartitionView | None:
        card = self.card
        if card.table is TableKind.MBR and number > 4:
            return None  # logical partitions are not for the bootloader (documentation#1659; H-18)
        view = card.partition(number)
        if card.table is TableKind.GPT and card.linux_before(number) and not self._ask(Unknown.GPT_COUNTS_ALL):
            typed = [other for other in card.partitions if other.fat_type]
            view = typed[number - 1] if number <= len(typed) else None
        return view if view is not None and view.readable else None

    def _walk(self, selected: int, mode: _Mode) -> Boot | _Failure:
        """``PARTITION_WALK``.  ``autoboot.txt`` is not read again (eeprom-bootloader.adoc)."""
        self._note(f"partition {selected} is not bootable: the walk looks for one that is (H-19)")
        mode = self._without_what_was_lost(mode)
        # Walked once round, without the chosen one: what failed a moment ago fails again.
        order = [number for number in range(1, LAST_WALKED + 1) if number != selected and self.card.partition(number)]
        both_sides = order and order[0] < selected < order[-1]
        if both_sides and self._ask(Unknown.WALK_GOES_UP):
            order.sort(key=lambda number: number < selected)
        for number in order:
            if self.poisoned:
                self._note(f"partition {number}: this bootloader fails on it after a missing start4.elf (H-20)")
                continue
            result = self._load_number(number, mode)
            if result is not _Failure.NOT_BOOTABLE:
                return result
        self._note("the walk finds nothing")
        return _Failure.NOT_BOOTABLE

    def _fail_over(self, mode: _Mode) -> Boot | _Failure:
        self._note("it is not bootable: one retry with the default partition")
        mode = self._without_what_was_lost(mode)
        if self._ask(Unknown.FAILOVER_TO_DEFAULT):
            return self._load_default(mode)
        return self._load_number(1, mode)

    def _without_what_was_lost(self, mode: _Mode) -> _Mode:
        if not mode.tryboot:
            return mode
        if not self._ask(Unknown.WALK_KEEPS_TRYBOOT):
            return _Mode(tryboot=False, file_level=False)
        return attrs.evolve(mode, file_level=mode.file_level or not self._ask(Unknown.WALK_KEEPS_A_B))

    # -- one partition ----------------------------------------------------------------------------------------------

    def _load(self, view: PartitionView, handed_on: int, mode: _Mode) -> Boot | _Failure:
        """``handed_on`` is the number that the bootloader passes to start.elf and to the device tree."""
        if self.board.secure_boot:
            return self._load_image(view, handed_on, mode)
        if self.board.family is Family.PI5:
            return self._load_pi5(view, handed_on, mode)
        return self._load_start_elf(view, handed_on, mode)

    def _load_image(self, view: PartitionView, handed_on: int, mode: _Mode) -> Boot | _Failure:
        """Everything is inside ``boot.img``, where ``tryboot_a_b`` is implicitly 1 (bootflow-eeprom.adoc)."""
        image = mode.image
        needed = (image, image.replace(".img", ".sig")) if self.board.secure_boot else (image,)
        for name in needed:
            if not view.has(name):
                return self._not_bootable(view, f"no {name}")
        return self._boots(view, handed_on, mode, image)

    def _load_pi5(self, view: PartitionView, handed_on: int, mode: _Mode) -> Boot | _Failure:
        """Bootable: ``config.txt``, which may be empty, "and a suitable device-tree" (eeprom-bootloader.adoc)."""
        if not view.has(mode.config):
            return self._not_bootable(view, f"no {mode.config}")
        if self._is_ramdisk(view, mode):
            return self._load_image(view, handed_on, mode)
        has_device_tree = any(re.fullmatch(r"(.*/)?bcm2712[^/]*\.dtb", name) for name in view.files)
        if not has_device_tree and not self._ask(Unknown.DEVICE_TREE_OPTIONAL):
            return self._not_bootable(view, "no bcm2712*.dtb")
        if not _has_kernel(view):
            self._note(f"partition {view.number}: no kernel")
            return _Failure.STOPPED if self._ask(Unknown.KERNEL_MISSING_STOPS) else _Failure.NOT_BOOTABLE
        return self._boots(view, handed_on, mode, mode.config)

    def _load_start_elf(self, view: PartitionView, handed_on: int, mode: _Mode) -> Boot | _Failure:
        """The bootloader loads ``start4.elf``; that opens the partition again, with its own code and its own limits."""
        firmware = _FIRMWARE[self.board.family]
        if not view.has(firmware.start):
            if self._is_ramdisk(view, mode):
                return self._load_image(view, handed_on, mode)
            variant = any(view.has(name) for name in firmware.variants)
            if not (variant and view.has(mode.config) and self._ask(Unknown.START_ELF_VARIANT)):
                broken_walk = self.board.walk_enabled and not self.board.walk_passes_missing_firmware
                if broken_walk and view.has("config.txt"):
                    self.poisoned = self._ask(Unknown.WALK_POISONED)
                return self._not_bootable(view, f"no {firmware.start}")
        elif not view.has(firmware.fixup) and not self._ask(Unknown.FIXUP_OPTIONAL):
            return self._not_bootable(view, f"no {firmware.fixup}")
        if (hang := self._start_elf_hangs(view, handed_on)) is not None:
            self._note(f"partition {view.number}: {hang}")
            return _Failure.HUNG

        config: str | None = mode.config
        if mode.tryboot and not mode.file_level and _older(view.startelf, date(2022, 10, 18)):
            # H-02: the EEPROM chose the partition, and start4.elf wants the other file all the same.
            config = "tryboot.txt" if self._ask(Unknown.OLD_START_ELF_A_B) else config
        if config == "tryboot.txt" and not view.has(config) and self._ask(Unknown.TRYBOOT_TXT_NEEDED):
            self._note(f"partition {view.number}: no tryboot.txt (H-13)")
            return _Failure.HUNG
        if not _has_kernel(view):
            self._note(f"partition {view.number}: {firmware.start} finds no kernel and blinks seven times for ever")
            return _Failure.HUNG
        return self._boots(view, handed_on, mode, config if config is not None and view.has(config) else None)

    def _start_elf_hangs(self, view: PartitionView, handed_on: int) -> str | None:
        """Why ``start.elf`` does not find its own partition again, if so."""
        built, card = view.startelf, self.card
        gpt = card.table is TableKind.GPT
        if gpt and handed_on and _older(built, date(2025, 1, 16)):
            # RN5 2025-01-22 ("Pi4 and older"); rpi-eeprom#654.  Even partition 1, when it is asked for by number.
            if view is not card.partitions[0] or self._ask(Unknown.GPT_NUMBER_BREAKS):
                return f"its start.elf of {built} opens only the first partition of a GPT (H-03)"
        elif gpt and handed_on and card.linux_before(view.number) and self._ask(Unknown.GPT_FIRST_ONLY):
            return "Linux partitions before it on a GPT, start.elf opens the first instead (H-04)"
        out_of_order = not gpt and not card.in_disk_order
        if out_of_order and _older(built, date(2025, 5, 10)) and self._ask(Unknown.UNORDERED_BREAKS):
            return f"its start.elf of {built} cannot follow partitions out of disk order (H-05)"
        return None

    def _is_ramdisk(self, view: PartitionView, mode: _Mode) -> bool:
        """``boot_ramdisk=1``: the Pi 0 to 3 know it since 2025-08-20 (RN4)."""
        knows = self.board._since(pi4=_ALWAYS, pi5=_ALWAYS, pi0_3=date(2025, 8, 20))
        return knows and view.has(mode.image) and view.has(mode.config) and self._ask(Unknown.RAMDISK)

    # -- results ----------------------------------------------------------------------------------------------------

    def _not_bootable(self, view: PartitionView, reason: str) -> _Failure:
        self._note(f"partition {view.number}: {reason}")
        return _Failure.NOT_BOOTABLE

    def _boots(self, view: PartitionView, handed_on: int, mode: _Mode, config: str | None) -> Boot:
        self._note(f"partition {view.number}: boots with {config or 'the default settings, no ' + mode.config}")
        return Boot(
            partition=view.number,
            tryboot=mode.tryboot,
            config=config,
            reported_partition=0 if self.board.dt_partition_zero_bug else handed_on,
            why=tuple(self.why),
        )

    def _nothing(self) -> Boot:
        return Boot(partition=None, tryboot=False, config=None, reported_partition=None, why=tuple(self.why))

    def _note(self, sentence: str) -> None:
        self.why.append(sentence)

    def _ask(self, unknown: Unknown) -> bool:
        new = len(self.assumed.trail)
        answer = unknown.likely if self.assumed.choose(unknown, 2) == 0 else not unknown.likely
        if len(self.assumed.trail) > new:
            self._note(f"assumed{'' if answer else ' not'}: {unknown.sentence} ({unknown.source})")
        return answer

    def _known_or_ask(self, known: Tri, unknown: Unknown) -> bool:
        return self._ask(unknown) if known is None else known


def _older(built: date | None, than: date) -> bool:
    """An unknown build date counts as new enough."""
    return built is not None and built < than


def _has_kernel(view: PartitionView) -> bool:
    return any(_KERNEL.fullmatch(name.rpartition("/")[2]) for name in view.files)
