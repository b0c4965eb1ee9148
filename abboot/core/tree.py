"""What of a file tree FAT can hold, and what of it looks as if it would not boot.  No I/O here.

A tree that cannot be put on a slot is refused before anything is written, with the path and the reason (G10).  A tree
that looks unbootable is only worth a warning: people boot stranger things than we know.

Sources: "FAT: General Overview of On-Disk Format" 1.03, section 7 (long names: 255 UTF-16 units; the characters that
no name may have; names are compared without case), and 4 (a file's size is 32 bits).  Linux's vfat driver refuses
the same characters and strips trailing dots (fs/fat/namei_vfat.c).
"""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING

import attrs

from abboot.core.canonical import is_text
from abboot.errors import InvalidTree

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

RESERVED_DIRECTORY = "abboot"  # at the top of a slot; ours
MAX_FILE_SIZE = 2**32 - 1  # bytes
MAX_NAME_UNITS = 255  # UTF-16 code units
MAX_DEPTH = 32  # directories and the file: what the reader of a slot follows
MAX_FILES = 32768  # what one FAT directory can hold; a boot tree has a few hundred

_ILLEGAL = re.compile(r'["*/:<>?\\|\x00-\x1f\x7f]')


def shown(text: str) -> str:
    """``text`` for a message: escaped unless every character can be printed, and never longer than a line."""
    if len(text) > 120:
        text = f"{text[:60]}…{text[-50:]}"
    return text if text.isprintable() else ascii(text)[1:-1]


def fold(path: str) -> str:
    """Two paths are one on FAT if this is equal.

    Upper case, as FAT compares.  Python maps a few more letters than the tables of Windows and Linux do (``ß`` to
    ``SS``): then a tree is refused that one of them could tell apart, never the other way round.
    """
    return path.upper()


def is_reserved(path: str) -> bool:
    """Whether ``path`` is abboot's own directory at the top of a slot, or below it, in any case."""
    return fold(path.partition("/")[0]) == fold(RESERVED_DIRECTORY)


def problem_of_path(path: str) -> str | None:
    """Why FAT cannot hold this relative, ``/``-separated path; ``None`` if it can."""
    if not path:
        return "it is empty"
    if path.startswith("/"):
        return "it is absolute"
    names = path.split("/")
    if len(names) > MAX_DEPTH:
        return f"it is {len(names)} levels deep, at most {MAX_DEPTH} are accepted"
    for name in names:
        if problem := _problem_of_name(name):
            return problem
    return None


def _problem_of_name(name: str) -> str | None:
    if not name:
        return "it has an empty name"
    if name in (".", ".."):
        return f"it has the name {name!r}"
    if found := _ILLEGAL.search(name):
        return f"FAT allows no {found[0]!a} in a name"
    if name[0] == " ":
        return "FAT allows no ' ' at the start of a name"  # readers ignore it: "a" and " a" would be one
    if name[-1] in ". ":
        return f"FAT allows no {name[-1]!r} at the end of a name"
    if not is_text(name):
        return "its name is not text"
    if (units := len(name.encode("utf-16-le")) // 2) > MAX_NAME_UNITS:
        return f"a name on FAT has at most {MAX_NAME_UNITS} UTF-16 units, found {units}"
    return None


def check_tree(files: Iterable[tuple[str, int]], *, available: int | None = None) -> None:
    """Check that a tree can be put on a FAT volume.

    Args:
        files: path and size in bytes of every file; the directories are those that the paths name.
        available: bytes that the slot offers.  This is the early answer; what clusters and directories take decides.

    Raises:
        InvalidTree: it cannot; the message names the first path in sorted order, and how many more there are.
    """
    listed: list[tuple[str, int]] = []
    for item in files:
        listed.append(item)
        if len(listed) > MAX_FILES:
            raise InvalidTree(f"cannot stage the tree: more than {MAX_FILES} files found")
    if not listed:
        raise InvalidTree("cannot stage the tree: it has no file")
    problems = list(_problems(sorted(listed)))
    if problems:
        path, reason = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InvalidTree(
            f"cannot stage {shown(path)}: {reason}{more}", "rename or remove it in the tree; nothing was written"
        )
    total = sum(size for _, size in listed)
    if available is not None and total > available:
        largest = max(listed, key=lambda item: item[1])
        raise InvalidTree(
            f"cannot stage the tree: it has {total} bytes in {len(listed)} files, the slot has room for {available} "
            f"(the largest is {shown(largest[0])} with {largest[1]})"
        )


def _problems(files: list[tuple[str, int]]) -> Iterable[tuple[str, str]]:
    spelled: dict[str, str] = {}  # folded path of a file or a directory -> as it was first spelled
    directories: set[str] = set()  # folded
    leaves: set[str] = set()  # folded
    for path, size in files:
        if problem := problem_of_path(path):
            yield path, problem
            continue
        if is_reserved(path):
            yield path, f"{RESERVED_DIRECTORY}/ at the top of a slot is abboot's own"
            continue
        if not 0 <= size <= MAX_FILE_SIZE:
            yield path, f"a file on FAT has at most {MAX_FILE_SIZE} bytes, found {size}"
            continue
        if problem := _collision(path, spelled, directories, leaves):
            yield path, problem


def _collision(path: str, spelled: dict[str, str], directories: set[str], leaves: set[str]) -> str | None:
    end = path.find("/")
    while end >= 0:
        parent, folded = path[:end], fold(path[:end])
        if folded in leaves:
            return f"{shown(spelled[folded])} is a file, and cannot be a directory too"
        if (other := spelled.setdefault(folded, parent)) != parent:
            return f"the directories {shown(other)} and {shown(parent)} have the same name on FAT"
        directories.add(folded)
        end = path.find("/", end + 1)
    folded = fold(path)
    if folded in directories:
        return f"{shown(spelled[folded])} is a directory, and cannot be a file too"
    if folded in leaves:
        return f"it and {shown(spelled[folded])} have the same name on FAT"
    spelled[folded] = path
    leaves.add(folded)
    return None


# -- what looks unbootable ----------------------------------------------------------------------------------------

_EEPROM_UPDATE = "an EEPROM update on a slot can keep the board from booting"
_RESCUE = "a Pi 4 tries it before start4.elf"
# What the firmware or the boot ROM acts on before the system that is to be tried, or instead of it.
_TRAPS: Mapping[str, tuple[str, str]] = {
    "recovery.bin": ("H-11", _EEPROM_UPDATE),
    "pieeprom.upd": ("H-11", _EEPROM_UPDATE),
    "pieeprom.sig": ("H-11", _EEPROM_UPDATE),
    "vl805.bin": ("H-11", _EEPROM_UPDATE),
    "vl805.sig": ("H-11", _EEPROM_UPDATE),
    "recovery.elf": ("H-48", _RESCUE),
    "recover4.elf": ("H-48", _RESCUE),
}
_FIXUP_OF = {"start4.elf": "fixup4.dat", "start.elf": "fixup.dat"}
_KERNEL = re.compile(r"kernel.*|vmlinu[xz].*|.*image.*", re.IGNORECASE)
_PI_5_DTB = re.compile(r"bcm2712[^/]*\.dtb", re.IGNORECASE)
# What `auto_initramfs=1` takes on Raspberry Pi OS (config_txt/boot.adoc).
_RASPIOS_INITRAMFS = re.compile(r"initramfs(_2712|[78]l?)?", re.IGNORECASE)
_PANIC = re.compile(r"(?:^|\s)panic=(-?[1-9]\d*)(?=\s|$)")
_KEEPS_WATCHDOG = re.compile(r"(?:^|\s)watchdog_disarm=0(?=\s|$)")
_LINE_MAX = 98  # characters of a config.txt line that the firmware reads (config_txt/what_is_config_txt.adoc)


FIRST_FOR_TRIALS = date(2022, 10, 18)
"""Build date of the first ``start4.elf`` that knows ``tryboot_a_b`` (rpi-eeprom#504)."""


@attrs.frozen
class Remark:
    """One thing about a tree; ``hazard`` is its number (:mod:`abboot.core.hazards`), empty for an ordinary mistake."""

    hazard: str
    text: str


def warn_tree(
    files: Mapping[str, int], texts: Mapping[str, str], builds: Mapping[str, date | None] | None = None
) -> tuple[str, ...]:
    """What :func:`look_at_tree` finds, one sentence each, with the number of the hazard."""
    return tuple(
        f"{remark.text} ({remark.hazard})" if remark.hazard else remark.text
        for remark in look_at_tree(files, texts, builds)
    )


def look_at_tree(
    files: Mapping[str, int], texts: Mapping[str, str], builds: Mapping[str, date | None] | None = None
) -> tuple[Remark, ...]:
    """What looks as if this tree would not boot, or would not come back from a hang (G11).

    For warnings, never for a refusal.  Plain settings are looked at: no filters, no included files.

    Args:
        files: path to size of every file of the tree.
        texts: the contents of ``config.txt`` and ``cmdline.txt`` under their lower-case paths, as far as they are
            known; nothing is said about a content that is not.
        builds: build dates of ``start4.elf`` and ``start.elf``; one that is not known counts as new enough.
    """
    names = {fold(path) for path in files}
    bases = [path.rpartition("/")[2] for path in files]

    remarks = [Remark(hazard, f"{path}: {why}") for path, (hazard, why) in _TRAPS.items() if fold(path) in names]
    remarks += [
        Remark("H-02", f"{name} is of {built}: before 2022-10-18 it wants tryboot.txt in a trial")
        for name, built in (builds or {}).items()
        if built is not None and built < FIRST_FOR_TRIALS
    ]
    if fold("boot.img") in names:
        return tuple(remarks)  # everything else is inside the ramdisk (config_txt/boot.adoc, boot_ramdisk)

    def warn(text: str, hazard: str = "") -> None:
        remarks.append(Remark(hazard, text))

    if fold("config.txt") not in names:
        warn("config.txt is missing: a Pi 5 does not boot without it")
    config = texts.get("config.txt", "")
    settings = config_settings(config)
    if any(len(line) > _LINE_MAX for line in config.splitlines()):
        warn(f"config.txt has a line over {_LINE_MAX} characters: the firmware reads no further")

    starts = [name for name in _FIXUP_OF if fold(name) in names]
    if not starts and not any(_PI_5_DTB.fullmatch(base) for base in bases):
        warn(
            "no firmware: found neither start4.elf (Pi 4), start.elf (Pi 3 and older) nor a bcm2712 device tree (Pi 5)"
        )
    for name in starts:
        if fold(_FIXUP_OF[name]) not in names:
            warn(f"{_FIXUP_OF[name]} is missing beside {name}")

    prefix = settings.get("os_prefix", "")
    kernel = settings.get("kernel")
    if kernel is not None and names.isdisjoint((fold(prefix + kernel), fold(kernel))):
        warn(f"config.txt names the kernel {shown(kernel)}, which is not there")
    elif kernel is None and not any(_KERNEL.fullmatch(base) for base in bases):
        warn("no kernel was found")

    name = settings.get("cmdline", "cmdline.txt")
    path = cmdline_path(files, config)
    cmdline = texts.get(path.lower()) if path is not None else None
    if path is None:
        warn(f"{shown(name)} is missing: the kernel does not learn its root file system")
    elif cmdline is not None and not panic_seconds(cmdline):
        warn(f"{shown(path)} has no panic=10: a trial that panics hangs until somebody pulls the plug", "H-24")
    if cmdline is not None and "\n" in cmdline.strip():
        warn(f"{shown(path or name)} has several lines: the kernel's words have to be on one line")
    watched = watchdog_seconds(config)
    if fold("config.txt") not in names or ("config.txt" in texts and not watched):
        warn(
            "config.txt has no kernel_watchdog_timeout=120: a trial whose kernel hangs stays until somebody pulls the "
            "plug",
            "H-24",
        )
    if watched and cmdline is not None and not keeps_watchdog(cmdline) and settings.get("auto_initramfs") == "1":
        initramfs = next((name for name in bases if _RASPIOS_INITRAMFS.fullmatch(name)), None)
        if initramfs is not None:
            assert path is not None
            warn(
                f"{shown(path)} has no watchdog_disarm=0: {initramfs} of Raspberry Pi OS may switch off the watchdog "
                "that the firmware started",
                "H-25",
            )
    return tuple(remarks)


def cmdline_path(files: Iterable[str], config: str) -> str | None:
    """The file of a tree that the firmware takes for the kernel's command line, as stored; ``None`` if it is not there.

    Source: config_txt/boot.adoc, ``cmdline`` and ``os_prefix``.
    """
    stored = {fold(path): path for path in files}
    settings = config_settings(config)
    name = settings.get("cmdline", "cmdline.txt")
    return stored.get(fold(settings.get("os_prefix", "") + name)) or stored.get(fold(name))


def panic_seconds(cmdline: str) -> int:
    """``panic=`` of a command line: seconds until a panicked kernel resets, negative for at once, 0 for never."""
    found = _PANIC.findall(_for_kernel(cmdline))
    return int(found[-1][:9]) if found else 0


def keeps_watchdog(cmdline: str) -> bool:
    """Whether ``watchdog_disarm=0`` keeps the initramfs of Raspberry Pi OS from disarming the watchdog (H-25)."""
    return _KEEPS_WATCHDOG.search(_for_kernel(cmdline)) is not None


def _for_kernel(cmdline: str) -> str:
    """Without further lines, which nobody promises to read, and without what is for init (see ``core.cmdline``)."""
    return re.split(r"\s--(?:\s|$)", cmdline.strip().partition("\n")[0], maxsplit=1)[0]


def watchdog_seconds(config: str) -> int:
    """``kernel_watchdog_timeout`` of a ``config.txt``; 0 where there is none, or no number."""
    value = config_settings(config).get("kernel_watchdog_timeout", "0")
    return int(value[:9]) if value.isascii() and value.isdigit() else 0


def config_settings(config: str) -> dict[str, str]:
    """``key=value`` lines of config.txt: of each key the last one that counts on every board.

    A key that stands only under filters, such as ``[pi4]``, has its last value there: it counts on some board.  What is
    under ``[none]`` counts on none.  Sources: config_txt/conditional.adoc; Ubuntu, "Edit the Raspberry Pi boot
    configuration": a later line overrides an earlier one of the same name.
    """
    everywhere: dict[str, str] = {}
    somewhere: dict[str, str] = {}
    settings: dict[str, str] | None = everywhere
    for line in config.splitlines():
        stripped = line.strip()
        if stripped.startswith("["):
            settings = {"[all]": everywhere, "[none]": None}.get(stripped, somewhere)
        key, equals, value = line.partition("=")
        if settings is not None and equals and not stripped.startswith(("#", "[")):
            settings[key.strip()] = value.strip()
    return {**somewhere, **everywhere}
