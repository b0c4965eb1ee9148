"""A volume read, and its one switched file written, through its mount (G9).

Rules
- While a volume is mounted, nothing is written to its device behind the mount: the file system would not see it, and
  may write its own older copy over it.
- The one change made here is :meth:`MountedVolume.overwrite`: same length, no truncation, then fsync of the file.  On
  vfat that leaves no state in which the file is neither old nor new; create-and-rename does (G3).
- Links are not followed, other mounts below the volume are not entered, and every walk is bounded (G10).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
from typing import TYPE_CHECKING

from abboot.core.protocols import FileInfo
from abboot.errors import Damaged, DeviceError, VerificationFailed
from abboot.linux.sysroot import device_error

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_CHUNK_BYTES = 1024 * 1024
_MAX_DEPTH = 32
_MAX_ENTRIES = 200_000  # more than fits a slot; a volume that claims more is not a boot volume
_ALIGNMENT_BYTES = 4096
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class MountedVolume:
    """The file tree below the mount point ``path``: a :class:`~abboot.core.protocols.Volume`.

    Raises:
        DeviceError: ``path`` is not a folder that can be read.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        fd = self._open_root()
        self._device = os.fstat(fd).st_dev
        os.close(fd)

    @property
    def name(self) -> str:
        """For messages: the mount point."""
        return self._path

    def files(self) -> tuple[FileInfo, ...]:
        """Every regular file, in directory order, a folder's content in the place of the folder.

        Raises:
            Damaged: too many entries, or too deep.
            DeviceError: a folder cannot be read.
        """
        fd = self._open_root()
        try:
            return tuple(self._walk(fd, "", 0, [_MAX_ENTRIES]))
        finally:
            os.close(fd)

    def find(self, path: str) -> FileInfo | None:
        """The regular file at ``path``, whatever its case; ``None`` if there is none."""
        opened = self._open(path, os.O_RDONLY)
        if opened is None:
            return None
        fd, stored = opened
        try:
            return FileInfo(path=stored, size=os.fstat(fd).st_size)
        finally:
            os.close(fd)

    def chunks(self, path: str) -> Generator[bytes, None, None]:
        """The content of one file, from the medium where the system lets go of its cached pages.

        Raises:
            Damaged: there is no such file.
            DeviceError: it cannot be read.
        """
        opened = self._open(path, os.O_RDONLY)
        if opened is None:
            raise Damaged(f"cannot read {self._full(path)}: there is no such file")
        fd, _stored = opened
        try:
            _forget(fd)
            while piece := os.read(fd, _CHUNK_BYTES):
                yield piece
        except OSError as error:
            raise device_error("read", self._full(path), error) from error
        finally:
            os.close(fd)

    def read_file(self, path: str, limit: int) -> bytes:
        """The whole content.

        Raises:
            Damaged: there is no such file, or it has more than ``limit`` bytes.
            DeviceError: it cannot be read.
        """
        content = bytearray()
        with contextlib.closing(self.chunks(path)) as pieces:
            for piece in pieces:
                content += piece
                if len(content) > limit:
                    raise Damaged(f"cannot read {self._full(path)}: it has more than the {limit} bytes allowed")
        return bytes(content)

    def overwrite(self, path: str, offset: int, data: bytes) -> None:
        """Replace bytes of a file in place, durably, and check that the medium has them.  The length stays (G3).

        Raises:
            Damaged: there is no such file, or the new bytes do not lie inside of it; nothing was written.
            DeviceError: it is mounted read-only, or the system failed; the file may be the old or the new one.
            VerificationFailed: something else than ``data`` came back.
        """
        if offset < 0:
            raise ValueError(f"offset {offset} is negative")
        opened = self._open(path, os.O_WRONLY)
        if opened is None:
            raise Damaged(f"cannot overwrite {self._full(path)}: there is no such file")
        fd, _stored = opened
        try:
            size = os.fstat(fd).st_size
            if offset + len(data) > size:
                raise Damaged(
                    f"cannot overwrite {self._full(path)}: {len(data)} bytes at offset {offset}, it has {size} bytes"
                )
            # G3: inside of one block this is the switch.  A cut before the fsync returns leaves the old or the new
            # bytes; after it, the new ones.
            written = os.pwrite(fd, data, offset)
            os.fsync(fd)
            if written != len(data):
                raise DeviceError(f"cannot write {self._full(path)}: only {written} of {len(data)} bytes written")
            _forget(fd)
        except OSError as error:
            raise device_error("write", self._full(path), error) from error
        finally:
            os.close(fd)
        self._check_medium(path, offset, data)

    def _check_medium(self, path: str, offset: int, data: bytes) -> None:
        opened = self._open(path, os.O_RDONLY)
        if opened is None:
            raise VerificationFailed(f"cannot read back {self._full(path)}: the file is gone")
        fd, _stored = opened
        skip = offset % _ALIGNMENT_BYTES
        whole = -(-(skip + len(data)) // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        try:
            with mmap.mmap(-1, max(whole, _ALIGNMENT_BYTES)) as buffer:
                count = _read_direct(fd, buffer, offset - skip)
                found = buffer[skip : min(count, skip + len(data))]
        except OSError as error:
            raise device_error("read back", self._full(path), error) from error
        finally:
            os.close(fd)
        if found != data:
            raise VerificationFailed(
                f"cannot verify {self._full(path)}: what came back is not what was written",
                "the medium is failing: replace it",
            )

    def _full(self, path: str) -> str:
        return os.path.join(self._path, path)

    def _open_root(self) -> int:
        try:
            return os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise device_error("read the volume mounted at", self._path, error) from error

    def _walk(self, folder: int, prefix: str, depth: int, budget: list[int]) -> Iterator[FileInfo]:
        """The files below an open folder; ``budget`` counts down what may still be met."""
        if depth > _MAX_DEPTH:
            raise Damaged(f"cannot list {self._full(prefix)}: more than {_MAX_DEPTH} folders deep")
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    budget[0] -= 1
                    if budget[0] < 0:
                        raise Damaged(f"cannot list {self._path}: more than {_MAX_ENTRIES} entries")
                    found = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(found.st_mode):
                        yield FileInfo(path=prefix + entry.name, size=found.st_size)
                    elif stat.S_ISDIR(found.st_mode) and found.st_dev == self._device:
                        below = os.open(entry.name, _FOLDER, dir_fd=folder)
                        try:
                            yield from self._walk(below, f"{prefix}{entry.name}/", depth + 1, budget)
                        finally:
                            os.close(below)
        except OSError as error:
            raise device_error("list", self._full(prefix), error) from error

    def _open(self, path: str, flags: int) -> tuple[int, str] | None:
        """An open file and its path as stored; ``None`` if there is no regular file, on this very volume, there."""
        folder = self._open_root()
        stored: list[str] = []
        parts = path.split("/")
        try:
            for index, part in enumerate(parts):
                name = _match(os.listdir(folder), part)
                if name is None:
                    return None
                stored.append(name)
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if index == len(parts) - 1:
                    if not stat.S_ISREG(found.st_mode):
                        return None
                    mode = flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                    return os.open(name, mode, dir_fd=folder), "/".join(stored)
                if not stat.S_ISDIR(found.st_mode) or found.st_dev != self._device:
                    return None
                below = os.open(name, _FOLDER, dir_fd=folder)
                os.close(folder)
                folder = below
        except OSError as error:
            if error.errno == errno.ENOENT:  # removed since it was listed
                return None
            hint = f"mount it writable: mount -o remount,rw {self._path}" if error.errno == errno.EROFS else ""
            raise device_error("open", self._full(path), error, hint) from error
        finally:
            os.close(folder)
        return None


def _match(names: list[str], wanted: str) -> str | None:
    """The stored name that FAT takes for ``wanted``: the same, or the same but for its case."""
    if wanted in names:
        return wanted
    return next((name for name in names if name.upper() == wanted.upper()), None)


def _forget(fd: int) -> None:
    """Let the next read come from the medium.  Advice that is refused costs only that certainty."""
    with contextlib.suppress(OSError):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _read_direct(fd: int, buffer: mmap.mmap, offset: int) -> int:
    """Read at ``offset`` past the page cache, or through it on a file system that has no O_DIRECT."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
        return os.preadv(fd, [buffer], offset)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)
    return os.preadv(fd, [buffer], offset)
