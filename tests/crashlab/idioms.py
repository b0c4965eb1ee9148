"""Ways to switch ``autoboot.txt`` on a FAT partition: abboot's own, and the ones that other projects use.

Each idiom is written anew here, as the sequence of system calls that its project makes; only abboot's two rows run
abboot's own code.  What a project does around it is not imitated.  Which project does what, with the source and its
date, is in docs/explanation/crash-safety.md.

This module runs inside the guest of :mod:`tests.crashlab.inside`, where nothing but Python, busybox, mcopy and abboot
is there, and is imported on the host for its table.  On the host an idiom may run on any folder.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs

from abboot.core.autoboot import Autoboot

# A commit of slot b: what a cold boot reaches is the other partition afterwards.
OLD = Autoboot(primary=2, trial=3).render()
NEW = Autoboot(primary=3, trial=3).render()

FILE = "autoboot.txt"
BLOCK = 128 * 1024  # bytes
RENAME_EXCHANGE = 2  # linux/fs.h
AT_FDCWD = -100  # linux/fcntl.h


@attrs.frozen(kw_only=True)
class Place:
    """Where an idiom is to switch: a disk with one FAT partition, which is mounted on ``folder`` or not at all."""

    disk: str = ""
    partition: str = ""
    folder: Path = Path("/nowhere")

    @property
    def file(self) -> Path:
        return self.folder / FILE

    @property
    def new(self) -> Path:
        return self.folder / f"{FILE}.new"


@attrs.frozen(kw_only=True)
class Idiom:
    """One way to switch.

    Args:
        title: what it does, for the table.
        group: what it has in common with others.
        switch: does it, and returns when its project would say that it is done.
        mounted: it goes through a mounted file system.
    """

    title: str
    group: str
    switch: Callable[[Place], None]
    mounted: bool = True

    @property
    def in_place(self) -> bool:
        """It changes one sector of the file and nothing else, so that no cut may leave anything but old or new."""
        return self.group == IN_PLACE


def _write(path: Path, flags: int, *, sync: bool) -> None:
    fd = os.open(path, os.O_WRONLY | flags, 0o644)
    try:
        os.write(fd, NEW)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_new(place: Place, *, sync: bool) -> None:
    _write(place.new, os.O_CREAT | os.O_TRUNC, sync=sync)


def _rename(place: Place) -> None:
    place.new.rename(place.file)


def _libc(function: str, *arguments: int | bytes) -> None:
    if ctypes.CDLL(None, use_errno=True)[function](*arguments):
        error = ctypes.get_errno()
        raise OSError(error, f"{function}: {os.strerror(error)}")


# -- one sector, in place ---------------------------------------------------------------------------------------------


def abboot(place: Place) -> None:
    """The very functions that ``abboot commit`` calls, on the mount or on the partition's own node."""
    from abboot.core.partition_table import Partition
    from abboot.linux.blockdevice import open_disk
    from abboot.selector import open_for_writing, replace_autoboot

    block = Path("/sys/class/block") / Path(place.partition).name
    start, size = (int((block / name).read_text()) * 512 for name in ("start", "size"))
    disk = open_disk(place.disk)
    partition = Partition(number=1, start=start, size=size, type_id="0x0c")
    with open_for_writing(disk, partition) as selector:
        replace_autoboot(selector, OLD, NEW)


def overwrite(place: Place) -> None:
    """In a shell: ``dd of=autoboot.txt conv=notrunc,fsync``."""
    _write(place.file, 0, sync=True)


def block_edit(place: Place) -> None:
    """Edit the unmounted file system in memory, write back the whole 128 KiB around the change."""
    fd = os.open(place.partition, os.O_RDWR)
    try:
        at = 0
        while OLD not in (block := os.pread(fd, BLOCK, at)):
            at += len(block)
        os.pwrite(fd, block.replace(OLD, NEW), at)
        os.fsync(fd)
    finally:
        os.close(fd)


# -- the same file, written anew --------------------------------------------------------------------------------------


def truncate(place: Place) -> None:
    """In a shell: ``echo ... > autoboot.txt``; in Python ``open(path, "w")``."""
    _write(place.file, os.O_TRUNC, sync=False)


def truncate_fsync(place: Place) -> None:
    _write(place.file, os.O_TRUNC, sync=True)


def mcopy(place: Place) -> None:
    """mtools itself, on the unmounted partition."""
    env = {**os.environ, "MTOOLS_SKIP_CHECK": "1"}
    subprocess.run(["mcopy", "-o", "-i", place.partition, "-", f"::{FILE}"], input=NEW, env=env, check=True)


# -- another file, renamed over it ------------------------------------------------------------------------------------


def sed_mv(place: Place) -> None:
    script = f"sed s/boot_partition=2/boot_partition=3/ {FILE} > {FILE}.new && mv {FILE}.new {FILE}"
    subprocess.run(["sh", "-c", script], cwd=place.folder, check=True)


def sed_mv_sync(place: Place) -> None:
    """A global ``sync``, as far as this file system is concerned: the other idioms' disks stay out of it."""
    sed_mv(place)
    _libc("syncfs", fd := os.open(place.folder, os.O_RDONLY))
    os.close(fd)


def fsync_rename(place: Place) -> None:
    _write_new(place, sync=True)
    _rename(place)


def fsync_rename_fsync_folder(place: Place) -> None:
    fsync_rename(place)
    _sync(place.folder)


def fsync_rename_remount(place: Place) -> None:
    fsync_rename(place)
    subprocess.run(["mount", "-o", "remount,ro", place.partition, place.folder], check=True)


def fsync_exchange_unlink(place: Place) -> None:
    _write_new(place, sync=True)
    _libc("renameat2", AT_FDCWD, bytes(place.new), AT_FDCWD, bytes(place.file), RENAME_EXCHANGE)
    place.new.unlink()


def rename_fsync_everything(place: Place) -> None:
    """The best that we could make of a rename: the file is flushed once more under its new name."""
    fd = os.open(place.new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.write(fd, NEW)
        os.fsync(fd)
        _rename(place)
        os.fsync(fd)
    finally:
        os.close(fd)
    _sync(place.folder)


IN_PLACE, ANEW, RENAMED = "one sector, in place", "the same file, written anew", "a new file, renamed"

# A name has at most 20 characters: it is the serial number of a disk.
IDIOMS: Mapping[str, Idiom] = {
    "abboot-mounted": Idiom(title="abboot, mounted", group=IN_PLACE, switch=abboot),
    "abboot-unmounted": Idiom(title="abboot, not mounted", group=IN_PLACE, switch=abboot, mounted=False),
    "overwrite": Idiom(title="overwrite, fsync", group=IN_PLACE, switch=overwrite),
    "block-edit": Idiom(title="edit unmounted, write 128 KiB", group=IN_PLACE, switch=block_edit, mounted=False),
    "mcopy": Idiom(title="mcopy -o", group=ANEW, switch=mcopy, mounted=False),
    "truncate": Idiom(title="truncate, write", group=ANEW, switch=truncate),
    "truncate-fsync": Idiom(title="truncate, write, fsync", group=ANEW, switch=truncate_fsync),
    "sed-mv": Idiom(title="sed > new, mv", group=RENAMED, switch=sed_mv),
    "sed-mv-sync": Idiom(title="sed > new, mv, sync", group=RENAMED, switch=sed_mv_sync),
    "rename": Idiom(title="write, fsync, rename", group=RENAMED, switch=fsync_rename),
    "rename-remount": Idiom(title="write, fsync, rename, remount ro", group=RENAMED, switch=fsync_rename_remount),
    "rename-folder": Idiom(title="write, fsync, rename, fsync(dir)", group=RENAMED, switch=fsync_rename_fsync_folder),
    "exchange": Idiom(title="write, fsync, exchange, unlink", group=RENAMED, switch=fsync_exchange_unlink),
    "rename-everything": Idiom(
        title="write, fsync, rename, fsync, fsync(dir)", group=RENAMED, switch=rename_fsync_everything
    ),
}
