"""The bytes of ``autoboot.txt``, as data.  No I/O here.

Three things, kept apart:

* :class:`Autoboot` is what abboot writes: both sections, nothing else, at most one 512-byte sector.
* :func:`parse_autoboot` is what abboot believes: the strict subset that all generations of firmware read alike.
* :func:`read_as_firmware` is what the firmware makes of any bytes, with everything that nobody documented named.

Sources: documentation/asciidoc/computers/config_txt/autoboot.adoc and conditional.adoc; rpi-eeprom release notes of
2022-10-18 (sections, ``tryboot_a_b``); measurements on a Pi 4 with the bootloaders of 2021-04-29 and 2026-05-17.
"""

from __future__ import annotations

import re

import attrs

from abboot.core.tree import shown
from abboot.core.value import Value
from abboot.errors import Damaged

MAX_SIZE = 512
"""Bytes.  The firmware reads one sector and no more (autoboot.adoc)."""

CANONICAL_SIZE = 64
"""Bytes of the rendered file with one-digit partition numbers."""

MAX_PARTITION = 62
"""The reset register has six bits for a partition, and 63 in it means "halt" (bcm2835_wdt.c)."""

MAX_LINE = 98
"""Characters that the firmware's configuration parser reads of one line (config_txt documentation)."""

_ALL = "[all]"
_TRYBOOT = "[tryboot]"
_KEYS = ("boot_partition", "tryboot_a_b")
_NUMBER = re.compile(r"[1-9][0-9]?", re.ASCII)
# What a tolerant parser might still take for one of our keys: any case, blanks, a byte order mark in front.
_LENIENT_KEY = re.compile(r"\W{0,8}(boot_partition|tryboot_a_b)[ \t]*=[ \t]*([^\r\n]*)", re.ASCII | re.IGNORECASE)
_LENIENT_LIMIT = 4096  # bytes of an oversized file that are searched for numbers that a firmware could see


def _partition_number(_instance: object, attribute: attrs.Attribute[int], value: int) -> None:
    if not 1 <= value <= MAX_PARTITION:
        raise ValueError(f"{attribute.name} is a partition number from 1 to {MAX_PARTITION}, not {value}")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Autoboot(Value):
    """An ``autoboot.txt`` that says where a cold boot goes and where the tryboot flag goes.

    ``tryboot_a_b=1`` is not a choice: without it the flag makes the firmware look for ``tryboot.txt`` (H-13).

    Args:
        primary: ``boot_partition`` under ``[all]``, 1 to 62: the cold boot.
        trial: ``boot_partition`` under ``[tryboot]``, 1 to 62: one boot with the flag.  At rest it equals ``primary``,
            so that a stray flag changes nothing.
    """

    primary: int = attrs.field(validator=_partition_number)
    trial: int = attrs.field(validator=_partition_number)

    def render(self, size: int | None = None) -> bytes:
        """The file, exactly, padded with line ends up to ``size`` bytes (``None``: as long as it needs to be, 64 bytes
        with one-digit numbers).

        ``[all]`` comes first and ``[tryboot]`` last, because an old parser skips the headers and the last value wins.

        Raises:
            ValueError: ``size`` is too small, or over 512.
        """
        text = f"{_ALL}\ntryboot_a_b=1\nboot_partition={self.primary}\n{_TRYBOOT}\nboot_partition={self.trial}\n"
        size = len(text) if size is None else size
        if not len(text) <= size <= MAX_SIZE:
            raise ValueError(f"autoboot.txt needs {len(text)} to {MAX_SIZE} bytes, not {size}")
        return text.ljust(size, "\n").encode("ascii")


def parse_autoboot(data: bytes) -> Autoboot:
    """Read an ``autoboot.txt`` that is whole and that every generation of firmware reads the same way.

    Comment lines (``#`` first) and blank lines are accepted, everything else must be what :meth:`Autoboot.render`
    writes, in that order of sections.  ``parse_autoboot(a.render(n)) == a``.

    Raises:
        Damaged: with the one reason, and the line where there is one.
    """
    if not data:
        raise _damaged("the file is empty")
    if len(data) > MAX_SIZE:
        raise _damaged(f"{len(data)} bytes found, the firmware reads {MAX_SIZE}")
    if data.startswith(b"\xef\xbb\xbf"):
        raise _damaged("it begins with a byte order mark")
    for position, byte in enumerate(data):
        if byte == 0x0D:
            raise _damaged("its lines end with CR LF, the firmware's documentation knows LF only")
        if byte != 0x0A and not 0x20 <= byte <= 0x7E:
            raise _damaged(f"byte 0x{byte:02x} at offset {position} is not printable ASCII")
    if not data.endswith(b"\n"):
        raise _damaged("the last line has no line end, so it may have been cut off")

    values: dict[tuple[str, str], int] = {}
    section = ""
    for number, line in enumerate(data.decode("ascii").split("\n"), start=1):
        if len(line) > MAX_LINE:
            raise _damaged(f"line {number} has {len(line)} characters, the firmware reads {MAX_LINE}")
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            section = _next_section(number, line, section)
            continue
        key, value = _setting(number, line, section)
        if (section, key) in values:
            raise _damaged(f"line {number} sets {key} a second time under {section}")
        values[section, key] = value

    if (_ALL, "boot_partition") not in values:
        raise _damaged("there is no boot_partition under [all]")
    if (_ALL, "tryboot_a_b") not in values:
        raise _damaged("there is no tryboot_a_b=1 under [all], so the tryboot flag would look for tryboot.txt")
    if (_TRYBOOT, "boot_partition") not in values:
        raise _damaged("there is no boot_partition under [tryboot], so a trial would boot the primary")
    return Autoboot(primary=values[_ALL, "boot_partition"], trial=values[_TRYBOOT, "boot_partition"])


def _damaged(reason: str) -> Damaged:
    return Damaged(f"cannot read autoboot.txt: {reason}", "run `abboot repair`")


def _quote(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _next_section(number: int, line: str, section: str) -> str:
    if line not in (_ALL, _TRYBOOT):
        problem = "is not lower case" if line.lower() in (_ALL, _TRYBOOT) else "is not [all] or [tryboot]"
        raise _damaged(f"line {number}: section {_quote(line)} {problem}")
    if line == _ALL and section:
        raise _damaged(
            f"line {number}: [all] after {section}: it would win over [tryboot]"
            if section == _TRYBOOT
            else f"line {number}: a second [all]"
        )
    if line == _TRYBOOT and section != _ALL:
        raise _damaged(
            f"line {number}: a second [tryboot]" if section else f"line {number}: [tryboot] comes before [all]"
        )
    return line


def _setting(number: int, line: str, section: str) -> tuple[str, int]:
    key, equals, text = line.partition("=")
    if not equals:
        raise _damaged(f"line {number}: {_quote(line)} has no '='")
    if " " in line:
        raise _damaged(f"line {number}: {_quote(line)} has a space in it")
    if key not in _KEYS:
        problem = "is not lower case" if key.lower() in _KEYS else "is not boot_partition or tryboot_a_b"
        raise _damaged(f"line {number}: {_quote(key)} {problem}")
    if not section:
        raise _damaged(f"line {number}: {key} comes before [all]")
    if key == "tryboot_a_b":
        if text != "1":
            raise _damaged(f"line {number}: tryboot_a_b is {_quote(text)}, it must be 1")
        return key, 1
    if not _NUMBER.fullmatch(text) or int(text) > MAX_PARTITION:
        raise _damaged(
            f"line {number}: boot_partition is {_quote(text)}, it must be a number from 1 to {MAX_PARTITION}"
        )
    return key, int(text)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class FirmwareReading(Value):
    """What the firmware takes from an ``autoboot.txt``.

    Args:
        boot_partition: 0 when the file says nothing: the firmware then takes its default.
        tryboot_a_b: whether the flag selects a partition (true) or the file ``tryboot.txt`` (false).
        doubts: what about this text is documented nowhere; empty if the reading is certain.
        alternatives: with doubts, every other ``(boot_partition, tryboot_a_b)`` that a firmware could plausibly take.
    """

    boot_partition: int
    tryboot_a_b: bool
    doubts: tuple[str, ...] = ()
    alternatives: tuple[tuple[int, bool], ...] = ()


def read_as_firmware(data: bytes | None, *, tryboot: bool, sections: bool = True) -> FirmwareReading:
    """What the firmware makes of these bytes.  Never raises: nor does the firmware.

    A file that is missing, empty or garbage counts for nothing, so partition 0 (measured on a Pi 4, bootloader
    2026-05-17: 512 random bytes boot the first partition with firmware).  The last assignment wins.

    Args:
        data: the content, or ``None`` where there is no such file.
        tryboot: whether the one-shot flag is set, so that ``[tryboot]`` applies.
        sections: whether this bootloader knows sections and ``tryboot_a_b`` (rpi-eeprom 2022-10-18).  One that does not
            skips the headers and takes every line (measured, bootloader 2021-04-29: it always boots the last
            ``boot_partition=`` of the file, H-01).
    """
    if data is None:
        return FirmwareReading(boot_partition=0, tryboot_a_b=False)
    mentioned = [match for line in _lines(data[:_LENIENT_LIMIT]) if (match := _LENIENT_KEY.match(line))]
    if not mentioned:
        return FirmwareReading(boot_partition=0, tryboot_a_b=False)

    doubts: list[str] = []
    if len(data) > MAX_SIZE:
        doubts.append(f"{len(data)} bytes, the firmware reads {MAX_SIZE}")
    values, oddities = _assignments(data[:MAX_SIZE], tryboot=tryboot, sections=sections)
    doubts += oddities
    boot_partition = values.get("boot_partition", 0)
    tryboot_a_b = sections and values.get("tryboot_a_b", 0) != 0

    alternatives: set[tuple[int, bool]] = set()
    if doubts:
        # Whatever a firmware does with this text, it cannot take a number that is not in it.
        numbers = {0} | {_number(match[2]) for match in mentioned if match[1].lower() == "boot_partition"}
        flags = (True, False) if sections and any(m[1].lower() == "tryboot_a_b" for m in mentioned) else (False,)
        alternatives = {(number, flag) for number in numbers for flag in flags} - {(boot_partition, tryboot_a_b)}
    return FirmwareReading(
        boot_partition=boot_partition,
        tryboot_a_b=tryboot_a_b,
        doubts=tuple(dict.fromkeys(doubts)),
        alternatives=tuple(sorted(alternatives)),
    )


def _lines(data: bytes) -> list[str]:
    return data.decode("latin-1").split("\n")


def _assignments(data: bytes, *, tryboot: bool, sections: bool) -> tuple[dict[str, int], list[str]]:
    """The values that count, and what is odd about the text."""
    values: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    doubts: list[str] = []
    section, active = _ALL, True
    for raw in _lines(data):
        line = raw.rstrip("\r")
        match = _LENIENT_KEY.match(line)
        if line != raw and (match or line.startswith("[")):
            doubts.append("CR LF line ends")
        if sections and line.startswith("["):
            if line == _ALL and section == _TRYBOOT:
                doubts.append("[all] after [tryboot]")
            if line not in (_ALL, _TRYBOOT, "[none]"):
                doubts.append(f"section {_quote(line)}")
            section, active = line, line == _ALL or (line == _TRYBOOT and tryboot)
            continue
        if not match or line.startswith("#"):
            continue
        key, value = match[1].lower(), match[2]
        strict = f"{key}={value}"
        if line != strict or not re.fullmatch(r"[0-9]{1,2}", value, re.ASCII) or int(value) > MAX_PARTITION:
            doubts.append(f"the line {_quote(line)}")
        if sections and (section, key) in seen:  # without sections it is measured that the last one wins
            doubts.append(f"{key} twice under {shown(section)}")
        seen.add((section, key))
        if active and line.startswith(f"{key}="):
            values[key] = _number(value)
    return values, doubts


def _number(text: str) -> int:
    """As C's ``atoi`` would, for at most 4 digits: 0 when there is no number; nothing above 9999 is a partition."""
    digits = re.match(r"[0-9]{1,4}", text.strip(), re.ASCII)
    return int(digits[0]) if digits else 0
