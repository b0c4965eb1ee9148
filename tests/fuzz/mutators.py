"""How an input is changed: in the structure of its format, so that most of what comes out gets past the first check.

Every mutator takes the input, a seeded generator and a *plain* mutation of bytes, which is libFuzzer's in the long run
and :func:`change_bytes` in the short one.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from tests.fuzz.window import MAX_SECTORS, SECTOR, Sectors, pack, unpack

Plain = Callable[[bytes], bytes]
Mutator = Callable[[bytes, Random, Plain], bytes]

_NASTY = [
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    0x10,
    0x3F,
    0x40,
    0x7F,
    0x80,
    0xE5,
    0xEE,
    0xF0,
    0xF7,
    0xF8,
    0xFF,
    0x1FF,
    0x200,
    0x1000,
]
_NASTY += [0x7FFF, 0xFFF7, 0xFFF8, 0xFFFE, 0xFFFF, 0x10000, 0x0FFFFFF7, 0x0FFFFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF]
# Fields of a FAT boot sector, of directory entries, of an MBR and of a GPT header: where one wrong byte says the most.
_FIELDS = [11, 13, 14, 16, 17, 19, 21, 22, 32, 36, 40, 42, 44, 48, 50, 65, 66, 82, 446, 450, 454, 458, 466, 470, 474]
_FIELDS += [12, 24, 40, 48, 72, 80, 84, 88, 510]


def change_bytes(data: bytes, random: Random, tokens: Sequence[bytes] = ()) -> bytes:
    """One small change of a text or of a few bytes."""
    content = bytearray(data)
    at = random.randint(0, len(content))
    end = min(len(content), at + random.choice([1, 1, 2, 4, 8, 40]))
    match random.randrange(8):
        case 0 if at < len(content):
            content[at] ^= 1 << random.randrange(8)
        case 1:
            content[at:end] = random.randbytes(end - at)
        case 2:
            del content[at:end]
        case 3:
            content[at:at] = random.randbytes(random.choice([1, 2, 4, 100]))
        case 4:
            content[at:at] = content[random.randint(0, at) : at] * random.choice([1, 1, 2, 16])
        case 5 if tokens:
            content[at : at + random.choice([0, 0, 1, 4])] = random.choice(tokens)
        case 6:
            lines = bytes(content).split(b"\n")
            one, other = random.randrange(len(lines)), random.randrange(len(lines))
            lines[one], lines[other] = lines[other], random.choice(lines)
            return b"\n".join(lines)
        case _:
            _put_number(content, at, random)
    return bytes(content)


def _put_number(content: bytearray, at: int, random: Random) -> None:
    """A number that is often wrong, or one that is a little off, in place."""
    width = random.choice([1, 2, 2, 4, 4, 8])
    at = min(at, len(content) - width)
    if at < 0:
        return
    old = int.from_bytes(content[at : at + width], "little")
    new = random.choice(_NASTY) if random.random() < 0.6 else old + random.randint(-16, 16)
    content[at : at + width] = (new & (1 << 8 * width) - 1).to_bytes(width, "little")


def change_window(data: bytes, random: Random, plain: Plain) -> bytes:
    """One to six changes of an input of :mod:`tests.fuzz.window`: in its sectors, sometimes of their places."""
    size, sectors = unpack(data)
    for _ in range(random.choice([1, 1, 1, 2, 3, 6])):
        if not sectors:
            sectors = {0: bytes(SECTOR)}
        if random.random() < 0.12:
            size = _rearrange(size, sectors, random)
        else:
            number = random.choice(list(sectors))
            sectors[number] = _change_sector(sectors, number, random, plain)
    return pack(size, sectors)


def _rearrange(size: int, sectors: Sectors, random: Random) -> int:
    numbers = list(sectors)
    number = random.choice(numbers)
    match random.randrange(5):
        case 0:
            del sectors[number]
        case 1:
            sectors[random.choice(numbers)] = sectors[number]
        case 2:
            sectors[(number + random.randint(-4, 4)) % MAX_SECTORS] = sectors[number]
        case 3:
            sectors[random.randrange(max(1, size))] = sectors[number]
        case _:
            return max(0, min(MAX_SECTORS, size + random.choice([-64, -8, -2, -1, 1, 2, 64, -size // 2, size])))
    return size


def _change_sector(sectors: Sectors, number: int, random: Random, plain: Plain) -> bytes:
    content = bytearray(sectors[number])
    match random.randrange(8):
        case 0:
            # libFuzzer knows which comparisons failed; here it may say so.
            return plain(bytes(content))[:SECTOR].ljust(SECTOR, b"\0")
        case 1:
            content[random.randrange(random.choice([64, SECTOR]))] ^= 1 << random.randrange(8)
        case 2:
            _put_number(content, random.choice(_FIELDS), random)
        case 3:  # one directory entry, or 32 bytes of FAT or of a table, over another
            source = sectors[random.choice(list(sectors))]
            start, at = random.randrange(0, SECTOR, 32), random.randrange(0, SECTOR, 32)
            content[at : at + 32] = source[start : start + 32]
        case 4:  # a directory entry's attributes, cluster or size
            _put_number(content, random.randrange(0, SECTOR, 32) + random.choice([0, 11, 12, 13, 20, 26, 28]), random)
        case 5:  # a FAT entry that points to a place in use
            width = random.choice([2, 4])
            at = random.randrange(0, random.choice([64, SECTOR]), width)
            content[at : at + width] = struct.pack("<I", random.choice([random.randrange(2, 40), *_NASTY]))[:width]
        case 6:
            at = random.randrange(0, SECTOR, 32)
            content[at:at] = random.randbytes(32)
            del content[SECTOR:]
        case _:
            _put_number(content, random.randrange(SECTOR), random)
    return bytes(content)


def change_tail(change: Mutator, head: int) -> Mutator:
    """The same for an input whose first ``head`` bytes are knobs of the target."""

    def mutate(data: bytes, random: Random, plain: Plain) -> bytes:
        knobs, tail = bytearray(data[:head].ljust(head, b"\0")), data[head:]
        if random.random() < 0.15:
            knobs[random.randrange(head)] = random.choice([random.randrange(256), *range(8)])
            return bytes(knobs) + tail
        return bytes(knobs) + change(tail, random, plain)

    return mutate


def change_json(data: bytes, random: Random, plain: Plain) -> bytes:
    """Another value, key or nesting somewhere in a JSON text; bytes where it is none, and sometimes all the same."""
    if random.random() < 0.3:
        return plain(data)
    try:
        root = json.loads(data)
        places = list(_places(root))
        if not places:
            return plain(data)
        for _ in range(random.choice([1, 1, 2])):
            holder, key = random.choice(places)
            match random.randrange(6):
                case 0 if isinstance(holder, dict):
                    holder.pop(key, None)
                case 1 if isinstance(holder, dict):
                    holder[random.choice([*_KEYS, str(random.choice(places)[1])])] = _value(places, random)
                case 2:
                    holder[key] = [_value(places, random)] * random.randrange(4)
                case 3:
                    holder[key] = {str(random.choice(places)[1]): _value(places, random)}
                case _:
                    holder[key] = _value(places, random)
        return json.dumps(root, ensure_ascii=random.random() < 0.8, indent=random.choice([None, None, 1])).encode()
    except (ValueError, RecursionError, IndexError, KeyError):
        return plain(data)


_KEYS = ["", "format", "readable_from", "transition", "outcome", "x", "\x1b[2J", "__class__"]
_VALUES: list[Any] = [None, True, False, 0, 1, -1, 2, 255, 256, 512, 4096, 2**31, 2**32, 10**15, 10**15 + 1, 10**40]
_VALUES += [
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "a",
    "b",
    "c",
    "\0",
    "\x1b[31m",
    "é漢\U0001f600",
    "x" * 300,
]
_VALUES += [
    "0" * 64,
    "f" * 64,
    "F" * 64,
    "base64:",
    "base64:AAAA",
    "base64:%",
    "unknown",
    "later",
    [],
    {},
    [[]],
    {"a": {}},
]
_VALUES += ["armed", "started", "ended", "committed", "good", "staged", 12, 16, 32, 64, 65525, "overlays/x.dtbo"]


def _value(places: list[tuple[Any, Any]], random: Random) -> Any:
    """A nasty value, or one from elsewhere in the text; a copy, so that nothing contains itself."""
    if random.random() < 0.75:
        return random.choice(_VALUES)
    holder, key = random.choice(places)
    return json.loads(json.dumps(holder[key]))


def _places(value: Any, depth: int = 0) -> list[tuple[Any, Any]]:
    """Every ``(container, key)`` in a JSON value."""
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    found = [(value, key) for key, _ in items]
    for _, below in items if depth < 20 else []:
        found += _places(below, depth + 1)
    return found
