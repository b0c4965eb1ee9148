"""The stage store's files, in the folder that holds the bundles: read with bounds, written durably.

Rules:

* Forklift writes ``forklift-stage-store-swap.yml`` and renames it over ``forklift-stage-store.yml``.  So does this, and
  it also syncs the file before the rename and the folder after it, which Forklift does not.
* To Forklift a swap file that is there means that somebody is writing: it refuses every write until it is gone.  This
  module refuses as well; removing one is its own call, for whoever knows that nobody is writing (early boot).
* No link is followed: a store that leads elsewhere is not read, and nothing is written behind it (G10).

Source: ``CommitState`` and ``List`` in ``internal/app/forklift/staging.go`` of Forklift 0.8.0
(github.com/forklift-run/forklift); read 2026-11.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import attrs

from abboot.errors import DeviceError, Refused
from abboot.forklift.store import MAX_INDEX, MAX_SIZE, StageStore, StoreDamaged
from abboot.linux.sysroot import device_error

STORE: Final = "forklift-stage-store.yml"
SWAP: Final = "forklift-stage-store-swap.yml"
ASIDE: Final = "abboot-damaged-store.yml"  # what was found in place of a store, before another one was written

_BUNDLE = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: a FIFO in place of the file must not keep us here.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@attrs.frozen(kw_only=True)
class StoreReading:
    """What was found.

    Attributes:
        data: the bytes of the store, at most one more than are ever parsed; ``None``: there is no readable file.
        store: what they say; ``None`` if there is nothing, or something that is no store.
        problem: why there is no ``store``; empty if there is one.
        swap: the bytes of a swap file that somebody left or is writing; ``None``: there is none.
    """

    data: bytes | None
    store: StageStore | None
    problem: str = ""
    swap: bytes | None = None


def read_store(folder: str) -> StoreReading:
    """Read the store in ``folder``.  Writes nothing; never raises for what is in the folder."""
    try:
        with _open_folder(folder) as directory:
            swap, _ = _read(directory, SWAP)
            data, problem = _read(directory, STORE)
    except DeviceError as error:
        return StoreReading(data=None, store=None, problem=error.message)
    if data is None:
        return StoreReading(data=None, store=None, problem=problem, swap=swap)
    try:
        return StoreReading(data=data, store=StageStore.parse(data), swap=swap)
    except StoreDamaged as error:
        return StoreReading(data=data, store=None, problem=error.message, swap=swap)


def write_store(folder: str, data: bytes, *, instead_of: bytes | None) -> bool:
    """Make ``data`` the store in ``folder``; returns whether it was something else before.

    A cut leaves the old store or the new one, whole, and perhaps a swap file.  After the return the new one is on the
    medium.  Its mode is 0644, as Forklift's.

    Args:
        folder: of the store.
        data: what it has to be.
        instead_of: what ``data`` was made from, :attr:`StoreReading.data`: what Forklift wrote since is not undone.

    Raises:
        StoreDamaged: ``data`` is no store; nothing was written.
        Refused: there is a swap file, or the store is not ``instead_of`` any more; nothing was written.
        DeviceError: the operating system refused; the store is the old one or the new one.
    """
    StageStore.parse(data)
    with _open_folder(folder) as directory:
        if _read(directory, STORE)[0] == data:
            # Whoever wrote these bytes, Forklift for one, may not have waited until they were on the medium.
            with _saying(f"write {folder}/{STORE}"):
                _sync(directory, STORE)
                os.fsync(directory)
            return False
        try:
            swap = os.open(SWAP, _CREATE, 0o644, dir_fd=directory)
        except FileExistsError:
            raise Refused(
                f"cannot write {folder}/{STORE}: {SWAP} is there, so a forklift is writing or was interrupted",
                f"if no forklift is running, remove {folder}/{SWAP}",
            ) from None
        except OSError as error:
            raise device_error("write", f"{folder}/{STORE}", error) from error
        with _saying(f"write {folder}/{STORE}"):
            try:
                # From here on the swap file keeps Forklift from writing.
                if _read(directory, STORE)[0] != instead_of:
                    os.close(swap)
                    os.unlink(SWAP, dir_fd=directory)
                    raise Refused(f"cannot write {folder}/{STORE}: somebody else just wrote it", "try again")
                _fill(swap, data)
                # A cut up to here leaves the old store and a swap file, from now on the new one.
                os.rename(SWAP, STORE, src_dir_fd=directory, dst_dir_fd=directory)
            except OSError:
                # Or Forklift could write nothing any more.  If the rename went wrong, the swap file is still ours.
                with suppress(OSError):
                    os.unlink(SWAP, dir_fd=directory)
                raise
            os.fsync(directory)
    return True


def set_aside(folder: str) -> None:
    """Give a damaged store a second name, ``abboot-damaged-store.yml``, for people; the one before it is gone.

    It is on the medium after the next :func:`write_store`.

    Raises:
        DeviceError: it cannot be done; the store is as it was.
    """
    with _open_folder(folder) as directory, _saying(f"keep {folder}/{STORE}"):
        with suppress(FileNotFoundError):
            os.unlink(ASIDE, dir_fd=directory)
        os.link(STORE, ASIDE, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)


def remove_stale_swap(folder: str) -> bool:
    """Remove a swap file that an interrupted write has left, durably; returns whether there was one.

    Only for a moment at which no forklift can be running: nothing tells a stale swap file from one in use.

    Raises:
        DeviceError: it cannot be removed.
    """
    if not os.path.lexists(os.path.join(folder, SWAP)):
        return False
    with _open_folder(folder) as directory, _saying(f"remove {folder}/{SWAP}"):
        os.unlink(SWAP, dir_fd=directory)
        os.fsync(directory)
    return True


def list_bundles(folder: str) -> tuple[int, ...]:
    """The numbers of the bundles in ``folder``, whole or not, in ascending order; none if there is no folder.

    As Forklift does, only folders count, not links to some; and only those that it would find again: ``7``, not ``07``.

    Raises:
        DeviceError: the folder cannot be read.
    """
    if not os.path.lexists(folder):
        return ()
    found = []
    with _open_folder(folder) as directory, _saying(f"list {folder}"), os.scandir(directory) as entries:
        for entry in entries:
            name = entry.name
            if _BUNDLE.fullmatch(name) and int(name) <= MAX_INDEX and entry.is_dir(follow_symlinks=False):
                found.append(int(name))
    return tuple(sorted(found))


@contextmanager
def _saying(action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        verb, _, place = action.partition(" ")
        raise device_error(verb, place, error) from error


@contextmanager
def _open_folder(folder: str) -> Iterator[int]:
    with _saying(f"open {folder}"):
        directory = os.open(folder, _FOLDER)
    try:
        yield directory
    finally:
        os.close(directory)


def _read(directory: int, name: str) -> tuple[bytes | None, str]:
    """The bytes of a regular file, at most one more than are ever parsed; or why there are none."""
    try:
        fd = os.open(name, _READ, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None, f"cannot read {name}: it is a link"
        return None, device_error("read", name, error).message
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None, f"cannot read {name}: it is no regular file"
        data = b""
        while len(data) <= MAX_SIZE and (piece := os.read(fd, MAX_SIZE + 1 - len(data))):
            data += piece
        return data, ""
    except OSError as error:
        return None, device_error("read", name, error).message
    finally:
        os.close(fd)


def _sync(directory: int, name: str) -> None:
    fd = os.open(name, _READ, dir_fd=directory)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _fill(fd: int, data: bytes) -> None:
    """Write the swap file and see it on the medium: the rename must not get there before the bytes."""
    try:
        os.fchmod(fd, 0o644)
        rest = data
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    finally:
        os.close(fd)
