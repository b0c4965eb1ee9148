"""Trees whose names are legal on FAT and hard to get right, in three versions.

Every file has a size of its own, so that whoever finds a wrong file under a name is seen by the size alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

BIG = 1_100_000  # bytes: from 1 MiB on a file is given room to grow
LONGEST = "the-longest-name-that-fat-can-hold-" + "x" * 216 + ".txt"  # 255 characters

# What a name can do: each line of the table is a kind.
NAMES = (
    *("README", "A", "B.C", "UPPER8CH.TXT", "lower8ch.txt", "Mixed.Txt", "NOEXTENS", "x.y"),
    *("foo.dtb", "foo.dtbo", "foo.dtb2", "foobarbaz1.dtb", "foobarbaz2.dtb", "foobarbaz3.dtb", "foobarbaz3.dtbo"),
    *("foobar~1.dtb", "FOOBAR~2.DTB", "foo~1.dtb", "LONGNA~1.TXT", "longname of a file.txt", "longname~1.txt"),
    *("two words", "three words here.txt", "a space.b c", "dots.in.the.name.txt", ".hidden", "..two", "a..b"),
    *("plus+comma,semi;eq=.txt", "brackets[1].txt", "$&#@!%^()-_'`{}~.txt", "$&#@!%.()-", "100%.txt", "tilde~"),
    *("con", "aux.dtb", "nul.txt", "COM1", "lpt1.dtbo"),
    *("größe.txt", "Ärger", "naïve café.txt", "å", "Ångström.dtb", "σίσυφος.txt", "Привет, мир.txt", "起動.txt"),
    *("日本語の長いファイル名.dtbo", "emoji 🍓.txt", "🍓🍓🍓🍓🍓🍓🍓.img", "e\u0301 combining.txt", "åååå.txt"),
    *("thirteen-char", "twelve-chars", "fourteen-chars", "exactly-26-characters-long", "n" * 200, LONGEST),
    *("1", "12345678", "123456789", "12345678.123", "12345678.1234", "1.12", "kernel8.img.bak", "-", "_", "~"),
)  # fmt: skip


def tree(version: int) -> dict[str, bytes]:
    """Version 1, or what an update makes of it: grown, shrunk, renamed, gone, new."""
    sizes = dict(_sizes(version))
    return {path: _noise(f"{path} {_revision(path, version)}", size) for path, size in sizes.items()}


def _sizes(version: int) -> Iterator[tuple[str, int]]:
    yield "config.txt", 1001
    yield "cmdline.txt", 1002
    yield "start4.elf", 190_001
    yield "fixup4.dat", 5_001
    yield "bcm2711-rpi-4-b.dtb", 50_001
    # A kernel that grows over its room, then shrinks to next to nothing; an initramfs that does the opposite.
    yield "kernel8.img", {1: BIG, 2: BIG + 300_000, 3: 7_001}[version]
    yield f"initramfs-{version}", {1: 300_003, 2: 10_003, 3: BIG + 3}[version]
    yield "empty", 0
    yield "folder/empty too", 0
    for number, name in enumerate(NAMES):
        if version == 1 or number % 5:  # every fifth goes
            yield f"{_place(number, version)}/{name}", 2_000 + 7 * number
    # A folder of 300 files, then of 500, then of 20; with names that take one, two and three entries.
    for number in range({1: 300, 2: 500, 3: 20}[version]):
        name = ("D{0:07}", "overlay-{0}.dtbo", "an-overlay-with-a-long-name-{0}.dtbo")[number % 3].format(number)
        yield f"overlays/{name}", 1 + number
    for depth in range(1, 12):
        yield (
            "/".join(["deep"] + [f"Level number {level}" for level in range(depth)]) + "/at the bottom.txt",
            3000 + depth,
        )
    # The same names in other cases, and a file that becomes a folder, and back.
    yield {1: "renamed.txt", 2: "Renamed.TXT", 3: "RENAMED.TXT"}[version], 4001
    yield {1: "Case/Of/Folders", 2: "case/of/folders", 3: "CASE/OF/FOLDERS"}[version] + "/file", 4002
    yield {1: "changing", 2: "changing/now a folder", 3: "changing"}[version], 4003


def _place(number: int, version: int) -> str:
    """Names lie in a few folders: a FAT16's root has room for 512 entries."""
    return "folder" if number % 2 else f"Names of version {min(version, 2)}"


def _revision(path: str, version: int) -> int:
    """Of some files the content changes with the version, of others not."""
    return version if len(path) % 3 == 0 else 1


def _noise(seed: str, size: int) -> bytes:
    block = hashlib.shake_128(seed.encode()).digest(4096)
    return (block * (size // len(block) + 1))[:size]
