"""What is mounted where, from ``/proc/self/mountinfo``.

Rules: only this process's mount namespace is seen; another one's mounts are kept out by ``O_EXCL`` on the node (G9).
Source: proc(5), "/proc/pid/mountinfo"; octal escapes of space, tab, newline and backslash.
"""

from __future__ import annotations

import os
import re
import stat

import attrs

from abboot.core.protocols import Mount
from abboot.core.value import Value
from abboot.linux.sysroot import is_live, read_small, read_word, under

_MAX_BYTES = 16 * 1024 * 1024  # the kernel allows 100,000 mounts in a namespace (fs.mount-max)
_ESCAPE = re.compile(r"\\([0-7]{3})")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class MountEntry(Value):
    """One line of mountinfo, escapes undone."""

    device: str  # "179:2"
    root: str  # the folder of the volume that is mounted: "/" unless it is a bind mount of a part
    path: str
    file_system: str
    source: str  # "/dev/mmcblk0p2", as it was given to mount(2)
    writable: bool  # both the mount and the volume


def parse_mountinfo(text: str) -> tuple[MountEntry, ...]:
    """All entries in order, later ones on top; lines that are no entries are skipped."""
    entries = []
    for line in text.split("\n"):
        words = line.split(" ")
        # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
        try:
            dash = words.index("-", 6)
            file_system, source, super_options = words[dash + 1 : dash + 4]
        except ValueError:
            continue
        entries.append(
            MountEntry(
                device=words[2],
                root=_unescape(words[3]),
                path=_unescape(words[4]),
                file_system=file_system,
                source=_unescape(source),
                writable="rw" in words[5].split(",") and "rw" in super_options.split(","),
            )
        )
    return tuple(entries)


def read_mounts(sysroot: str = "/") -> tuple[MountEntry, ...]:
    """Every mount of this namespace; empty where there is no mountinfo."""
    content = read_small(under(sysroot, "proc/self/mountinfo"), _MAX_BYTES) or b""
    return parse_mountinfo(content.decode("utf-8", "surrogateescape"))


def mounts_of(node: str, sysroot: str = "/") -> tuple[Mount, ...]:
    """Where the volume of device node ``node`` is mounted, under any path; those it can be read through come first.

    With a ``sysroot``, the paths are below it.
    """
    number = _device_number(node, sysroot)
    name = os.path.basename(node)
    found = [
        entry
        for entry in read_mounts(sysroot)
        if (entry.device == number if number is not None else entry.source == f"/dev/{name}")
    ]
    mounts = [
        Mount(path=under(sysroot, entry.path), writable=entry.writable, whole=_is_whole(entry, sysroot))
        for entry in found
    ]
    return tuple(sorted(mounts, key=lambda mount: not mount.whole))


def _is_whole(entry: MountEntry, sysroot: str) -> bool:
    """Whether the mount's path shows the whole volume: no part of it, and not hidden below another mount."""
    if entry.root != "/":
        return False
    if not is_live(sysroot):
        return True
    try:
        shown = os.stat(entry.path).st_dev
    except OSError:
        return False
    return entry.device == f"{os.major(shown)}:{os.minor(shown)}"


def _device_number(node: str, sysroot: str) -> str | None:
    """``179:2``, from the node itself if it is one, else from sysfs."""
    try:
        found = os.stat(node)
    except OSError:
        found = None
    if found is not None and stat.S_ISBLK(found.st_mode):
        return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    return read_word(under(sysroot, f"sys/class/block/{os.path.basename(node)}/dev"))


def _unescape(word: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), word)
