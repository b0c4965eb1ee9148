"""Names on FAT: which are the same, and how a directory entry spells them.

No I/O; which names are legal says :mod:`abboot.core.tree`.  Entries are written as Linux's vfat driver writes them by
default: a plain upper-case 8.3 name is only that; every other name is a long name with an upper-case alias, which ends
in ``~1`` as soon as it does not say the whole name.  No NT lower-case flags: old readers ignore
them.

Source: FAT specification 6 (directory entries) and 7 (long names); Linux fs/fat/namei_vfat.c.
"""

from __future__ import annotations

import struct
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

ENTRY_SIZE = 32  # bytes
ATTRIBUTE_VOLUME = 0x08
ATTRIBUTE_DIRECTORY = 0x10
ATTRIBUTE_ARCHIVE = 0x20

# Times are not content and a Pi has no clock: every entry is from the first day that FAT knows.
EPOCH_DATE = 0x0021  # 1980-01-01

_ENTRY = struct.Struct("<11sBBBHHHHHHHI")
_LONG_ENTRY = struct.Struct("<B10sBBB12sH4s")
_LONG_ATTRIBUTES = 0x0F
_UNITS_PER_ENTRY = 13
_SHORT_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'()-@^_`{}~")


def fold(name: str) -> str:
    """Two names or paths are the same to FAT if this is equal: upper case, character by character."""
    if name.isascii():
        return name.upper()
    return "".join(upper if len(upper := c.upper()) == 1 else c for c in name)


def aliases(names: Iterable[str]) -> dict[str, bytes]:
    """The 11 bytes of the short name of each, no two equal; ``names`` are all the names of one directory.

    A name that its alias says completely gets it first: ``foo~1.txt`` must not find another file's alias.
    """
    given: dict[str, bytes] = {}
    taken: set[bytes] = set()
    lossy: list[tuple[str, str, str]] = []
    for name in names:
        base, extension, complete = _basis(name)
        if complete:
            given[name] = alias = _join(base, extension)
            taken.add(alias)
        else:
            lossy.append((name, base, extension))
    numbers: dict[tuple[str, str], int] = {}
    for name, base, extension in lossy:
        number = numbers.get((base, extension), 0)
        while True:
            number += 1
            tail = f"~{number}"
            alias = _join(base[: 8 - len(tail)] + tail, extension)
            if alias not in taken:
                break
        numbers[base, extension] = number
        given[name] = alias
        taken.add(alias)
    return given


def entry_count(name: str, alias: bytes) -> int:
    """How many 32-byte entries the name takes in its directory."""
    if _is_plain(name, alias):
        return 1
    return 1 - (-len(name.encode("utf-16-le")) // 2 // _UNITS_PER_ENTRY)


def render(name: str, alias: bytes, attributes: int, cluster: int, size: int) -> bytes:
    """The directory entries of one file or directory, long name first."""
    short = short_entry(alias, attributes, cluster, size)
    if _is_plain(name, alias):
        return short
    checksum = 0
    for byte in alias:  # FAT specification 7.2
        checksum = ((checksum >> 1 | checksum << 7) + byte) & 0xFF
    text = name.encode("utf-16-le")
    step = 2 * _UNITS_PER_ENTRY
    if len(text) % step:
        text += b"\0\0"
        text += b"\xff" * (-len(text) % step)
    count = len(text) // step
    entries = []
    for index in range(count, 0, -1):
        units = text[(index - 1) * step : index * step]
        order = index | 0x40 if index == count else index
        entries.append(_LONG_ENTRY.pack(order, units[:10], _LONG_ATTRIBUTES, 0, checksum, units[10:22], 0, units[22:]))
    return b"".join([*entries, short])


def short_entry(alias: bytes, attributes: int, cluster: int, size: int) -> bytes:
    """One 8.3 entry; every time stamp is 1980-01-01 00:00:00."""
    return _ENTRY.pack(
        alias, attributes, 0, 0, 0, EPOCH_DATE, EPOCH_DATE, cluster >> 16, 0, EPOCH_DATE, cluster & 0xFFFF, size
    )


def _join(base: str, extension: str) -> bytes:
    return f"{base:8}{extension:3}".encode("ascii")


def _is_plain(name: str, alias: bytes) -> bool:
    """Whether the 8.3 entry alone gives the name back, case included."""
    text = alias.decode("ascii")
    return name == ".".join(filter(None, (text[:8].rstrip(), text[8:].rstrip())))


def _basis(name: str) -> tuple[str, str, bool]:
    """Base and extension of the alias before any ``~1``, and whether they say the whole name but for its case."""
    stem, dot, suffix = name.lstrip(".").rpartition(".")
    if not dot:
        stem, suffix = suffix, ""
    base, extension = _short_characters(stem, 8) or "_", _short_characters(suffix, 3)
    whole = f"{base}.{extension}" if extension else base
    return base, extension, whole == fold(name)


def _short_characters(text: str, count: int) -> str:
    """The first ``count`` characters that a short name keeps, or what stands for them."""
    upper = (fold(c) for c in text if c not in " .")
    return "".join(c if c in _SHORT_CHARACTERS else "_" for c in islice(upper, count))
