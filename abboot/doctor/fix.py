"""Adding the safety nets to a tree that is to be staged: ``panic=``, the kernel watchdog, and what keeps it armed.

Rules: a folder is changed, never a boot partition; a setting that is there and does something stays as it is; fixing
again changes nothing; each file is replaced in one step, and not through a link; no file is made that was not there:
in a folder that is laid over another tree it would take the place of the file below.

Sources: documentation, config_txt/boot.adoc (``kernel_watchdog_timeout``); RPi-Distro/raspberrypi-sys-mods#115
(``watchdog_disarm=0``); kernel.org, kernel-parameters (``panic``).
"""

from __future__ import annotations

import contextlib
import difflib
import os
import stat

import attrs

from abboot.core.cmdline import set_cmdline
from abboot.core.recovery import KERNEL_WATCHDOG_S, PANIC_S
from abboot.core.tree import cmdline_path, keeps_watchdog, panic_seconds, watchdog_seconds
from abboot.errors import AbbootError, Refused

_ADDED = "# added by abboot doctor: a kernel that hangs is reset, and the primary boots"
_HINT = (
    "the system of this tree has to open the watchdog, else it is reset {seconds} s after it booted: "
    "RuntimeWatchdogSec=15 in /etc/systemd/system.conf.d, which `abboot install-units` writes"
)
_TEXT_BYTES = 256 * 1024
_FAT = frozenset({"vfat", "msdos"})


@attrs.frozen(kw_only=True)
class Fixed:
    """What was changed in a tree.

    Args:
        tree: the folder.
        changed: paths in it.
        diff: in unified form.
        hints: what the tree alone cannot do.
    """

    tree: str
    changed: tuple[str, ...]
    diff: str
    hints: tuple[str, ...]


def fix_config(text: str) -> str:
    """``config.txt`` with a kernel watchdog, if it has none.  Idempotent."""
    if watchdog_seconds(text):
        return text
    setting = f"kernel_watchdog_timeout={KERNEL_WATCHDOG_S}"
    lines = text.splitlines(keepends=True)
    filtered, place = False, None
    for index, line in enumerate(lines):
        key, equals, _value = line.partition("=")
        if line.lstrip().startswith("["):
            filtered = line.strip() != "[all]"
        elif equals and key.strip() == "kernel_watchdog_timeout" and not filtered:
            place = index  # the last one counts
    if place is not None:
        end = lines[place][len(lines[place].rstrip("\r\n")) :]
        return "".join([*lines[:place], f"{setting}{end}", *lines[place + 1 :]])
    newline = "\r\n" if "\r\n" in text else "\n"
    gap = "" if not text or text.endswith("\n") else newline
    # [all], so that no filter above it (such as [pi4]) applies to the line (config_txt/conditional.adoc).
    return f"{text}{gap}{newline.join(['', '[all]', _ADDED, setting, ''])}"


def fix_cmdline(text: str) -> str:
    """A command line whose kernel resets after a panic, and whose initramfs leaves the watchdog armed.  Idempotent.

    Raises:
        AbbootError: it has an open quote.
    """
    wanted = {}
    if not panic_seconds(text):
        wanted["panic"] = str(PANIC_S)
    if not keeps_watchdog(text):
        wanted["watchdog_disarm"] = "0"
    return set_cmdline(text, wanted)


def fix_tree(folder: str, *, sysroot: str = "/") -> Fixed:
    """Add what is missing to the tree in ``folder``.  Idempotent.

    Raises:
        Refused: the folder lies on a FAT volume that is mounted: a slot that runs, or may be booted (G4).
        AbbootError: there is no such tree, or a file of it cannot be read or replaced; files before it are changed.
    """
    from abboot.doctor.gather import read_folder

    _refuse_mounted_fat(folder, sysroot)
    tree = read_folder(folder)
    config = next((path for path in tree.files if path.lower() == "config.txt"), None)
    cmdline = cmdline_path(tree.files, tree.config or "")
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    for path, fix in ((config, fix_config), (cmdline, fix_cmdline)):
        if path is not None:
            before[path] = _read(folder, path)
            after[path] = fix(before[path])
    if not after:
        raise Refused(
            f"cannot fix {folder}: it has neither a config.txt nor a cmdline.txt",
            "name the folder of a boot tree, as `abboot stage` takes it",
        )
    changed = [path for path in after if after[path] != before[path]]
    for path in changed:
        _replace(folder, path, after[path])
    hints = []
    if config is None:
        hints.append(
            "there is no config.txt, so kernel_watchdog_timeout=120 could not be added: where this folder is laid over "
            "another tree, put it into config.d/50-watchdog.txt"
        )
    else:
        hints.append(_HINT.format(seconds=watchdog_seconds(after[config])))
    if cmdline is None:
        hints.append("there is no cmdline.txt, so panic=10 could not be added")
    return Fixed(
        tree=folder,
        changed=tuple(changed),
        diff="".join(_diff(path, before[path], after[path]) for path in changed),
        hints=tuple(hints),
    )


def _diff(path: str, before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), f"a/{path}", f"b/{path}", lineterm="", n=1)
    return "".join(f"{line}\n" for line in lines)


def _refuse_mounted_fat(folder: str, sysroot: str) -> None:
    """A boot partition is FAT and mounted; a folder to be staged need be neither."""
    from abboot.linux.mounts import read_mounts

    place = os.path.realpath(folder)
    above = [
        entry for entry in read_mounts(sysroot) if place == entry.path or place.startswith(entry.path.rstrip("/") + "/")
    ]
    if above and (mount := max(above, key=lambda entry: len(entry.path))).file_system in _FAT:
        raise Refused(
            f"cannot fix {folder}: it lies on the FAT volume that is mounted on {mount.path}",
            "a running or bootable slot is never changed: copy the tree to a folder, fix that, and stage it",
        )


def _read(folder: str, path: str) -> str:
    place = os.path.join(folder, path)
    try:
        fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise AbbootError(f"cannot fix {place}: it is not a regular file")
            data = file.read(_TEXT_BYTES + 1)
    except OSError as error:
        raise _error(place, error) from error
    if len(data) > _TEXT_BYTES:
        raise AbbootError(f"cannot fix {place}: it has more than {_TEXT_BYTES} bytes")
    # Every byte comes back as it was.
    return data.decode("utf-8", "surrogateescape")


def _replace(folder: str, path: str, text: str) -> None:
    """In one step: cut before the rename, the file is as it was, and a ``.abboot-new`` lies beside it."""
    place = os.path.join(folder, path)
    temporary = f"{place}.abboot-new"
    try:
        mode = stat.S_IMODE(os.stat(place).st_mode) if os.path.exists(place) else 0o644
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with open(fd, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
            file.flush()
            os.fsync(fd)
        os.replace(temporary, place)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # it would be staged with the tree
        raise _error(place, error) from error


def _error(place: str, error: OSError) -> AbbootError:
    reason = error.strerror or str(error)
    return AbbootError(f"cannot fix {place}: {reason[:1].lower()}{reason[1:]}", "the tree has to be a writable folder")
