"""Where the files of a tree come from: folders, volumes, and bytes made by abboot.

Rules:

* What is scanned is refused here if it is no plain file or folder; what FAT cannot hold is refused by
  :func:`abboot.core.tree.check_tree`.
* A file is read in chunks of 1 MiB, as often as it is asked for: once for its digest, once to be written.  One that is
  not what it was when it was scanned is an error, never a mixture (G10).
* FAT could hold empty folders, and nothing on a boot partition needs one: they are left out, and so is the ``abboot``
  directory of a slot that is read.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import attrs

from abboot.core.buildinfo import build_date
from abboot.core.record import Manifest
from abboot.core.tree import MAX_DEPTH, MAX_FILES, fold, is_reserved, shown
from abboot.core.value import Value
from abboot.errors import AbbootError, InvalidTree
from abboot.fat.digest import digest_files

if TYPE_CHECKING:
    from datetime import date

    from abboot.core.protocols import Volume

CHUNK_SIZE = 1024 * 1024  # bytes
_REMOVE = "remove it from the tree; nothing was written"
_COPY = "put a copy of the file in its place; nothing was written"

Progress = Callable[[int, int, str], None]
"""``progress(done_bytes, total_bytes, path)``"""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class SourceFile(Value):
    """One file of a tree to be.

    Args:
        path: where it goes: relative, ``/``-separated.
        size: in bytes.
        chunks: gives its content from the start, each time it is called; raises :class:`abboot.errors.AbbootError` if
            that is not ``size`` bytes any more.
        origin: where it comes from, for the record.
    """

    path: str
    size: int
    chunks: Callable[[], Iterator[bytes]] = attrs.field(eq=False, repr=False)
    origin: str


class MemoryFile(SourceFile):
    """A file that abboot makes itself."""

    __slots__ = ()

    def __init__(self, path: str, data: bytes, origin: str) -> None:
        super().__init__(path=path, size=len(data), chunks=lambda: iter((data,)), origin=origin)


@attrs.frozen(eq=False, repr=False)
class _Identity(Value):
    """What tells that a file is still the one that was scanned."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> _Identity:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class FolderSource:
    """A folder of this system.

    Args:
        folder: its path; it may be a symbolic link, nothing in it may.
        origin: what the record calls it; the path by default.
        may_be_empty: no file at all is an answer, and no error.
    """

    def __init__(
        self, folder: str | os.PathLike[str], origin: str | None = None, *, may_be_empty: bool = False
    ) -> None:
        self._folder = os.fspath(folder)
        self._may_be_empty = may_be_empty
        self._origin = self._folder if origin is None else origin

    def scan(self) -> tuple[SourceFile, ...]:
        """Every file, sorted by path.  Nothing is read yet.

        Raises:
            InvalidTree: it is no folder, holds no file, or holds something that is neither file nor folder.
            AbbootError: a folder in it cannot be listed.
        """
        try:
            is_folder = stat.S_ISDIR(os.stat(self._folder).st_mode)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise self._no_tree(_reason(error)) from error
        if not is_folder:
            raise self._no_tree("it is not a folder")
        files: list[SourceFile] = []
        for file in self._walk(self._folder, "", 1):
            files.append(file)
            if len(files) > MAX_FILES:
                raise self._no_tree(f"it has more than {MAX_FILES} files")
        if not files and not self._may_be_empty:
            raise self._no_tree("it has no file")
        return tuple(sorted(files, key=lambda file: file.path))

    def _no_tree(self, found: str) -> InvalidTree:
        return InvalidTree(
            f"cannot read the tree {shown(self._folder)}: {found}",
            "name the folder that holds the boot files: config.txt, the kernel and so on",
        )

    def _walk(self, folder: str, prefix: str, depth: int) -> Iterator[SourceFile]:
        if depth > MAX_DEPTH:
            raise InvalidTree(f"cannot read {shown(folder)}: it is more than {MAX_DEPTH} levels deep", _REMOVE)
        try:
            with os.scandir(folder) as entries:
                children = sorted(itertools.islice(entries, MAX_FILES + 1), key=lambda entry: entry.name)
        except OSError as error:
            raise AbbootError(f"cannot read {shown(folder)}: {_reason(error)}") from error
        for child in children:
            path = prefix + child.name
            try:
                child.name.encode()
            except UnicodeEncodeError as error:
                found = f"cannot read {shown(child.path)}: its name is not UTF-8"
                raise InvalidTree(found, "rename it; nothing was written") from error
            try:
                status = child.stat(follow_symlinks=False)
            except OSError as error:
                if error.errno == errno.ENOENT:  # it was there a moment ago
                    raise _changed(child.path) from error
                raise AbbootError(f"cannot read {shown(child.path)}: {_reason(error)}") from error
            if stat.S_ISDIR(status.st_mode):
                yield from self._walk(child.path, path + "/", depth + 1)
            elif stat.S_ISREG(status.st_mode):
                yield _file_on_disk(child.path, path, status, self._origin)
            else:
                found = f"cannot read {shown(child.path)}: {_what_it_is(child.path, path, status.st_mode)}"
                raise InvalidTree(found, _COPY if stat.S_ISLNK(status.st_mode) else _REMOVE)


class VolumeSource:
    """The tree of a slot: every file of its volume but those under ``abboot/``.

    Args:
        volume: read when it is scanned, and again by each file.
        origin: what the record calls it.
    """

    def __init__(self, volume: Volume, origin: str) -> None:
        self._volume = volume
        self._origin = origin

    def scan(self) -> tuple[SourceFile, ...]:
        """Every file, sorted by path.  Raises :class:`abboot.errors.Damaged` where the volume cannot be followed."""
        files = (self._file(info.path, info.size) for info in self._volume.files() if not is_reserved(info.path))
        return tuple(sorted(files, key=lambda file: file.path))

    def _file(self, path: str, size: int) -> SourceFile:
        return SourceFile(path=path, size=size, chunks=lambda: self._volume.chunks(path), origin=self._origin)


def merge(base: Sequence[SourceFile], overlays: Sequence[Sequence[SourceFile]]) -> tuple[SourceFile, ...]:
    """Lay ``overlays`` over ``base``, in order: of two files with one name on FAT the later one counts.

    A folder keeps the spelling of the layer that had it first, as it would on the volume.  Files of *one* layer never
    replace each other: two of them with one name on FAT stay, for :func:`abboot.core.tree.check_tree` to refuse.
    """
    merged: dict[str, list[SourceFile]] = {}
    folders: dict[str, str] = {}  # folded path -> as first spelled
    for layer in (base, *overlays):
        laid: dict[str, list[SourceFile]] = {}
        spelled: dict[str, str] = {}
        for file in layer:
            folder, slash, name = file.path.rpartition("/")
            path = _spelling(folder, folders) + slash + name
            laid.setdefault(fold(path), []).append(file if path == file.path else _at(file, path))
            for end in (at for at, char in enumerate(path) if char == "/"):
                spelled.setdefault(fold(path[:end]), path[:end])
        merged.update(laid)
        folders |= spelled
    return tuple(sorted((file for files in merged.values() for file in files), key=lambda file: file.path))


def digest_all(files: Iterable[SourceFile], progress: Progress | None = None) -> Manifest:
    """Read every file once and make the manifest of the tree.

    Raises:
        InvalidTree: there is no file, or a path that cannot be on FAT.
        AbbootError: a file cannot be read, or is not as long as it was when it was scanned.
    """
    files = tuple(files)
    named = [(file.path, file.size) for file in files]
    digests = digest_files(named, lambda index: _whole(files[index]), progress)
    entries = [(path, digest) for (path, _size), digest in zip(named, digests, strict=True)]
    try:
        return Manifest(entries=entries)
    except ValueError as error:
        raise InvalidTree(f"cannot list the tree: {error}") from error


def _whole(file: SourceFile) -> Iterator[bytes]:
    """What ``file`` holds, if it is as long as it was when it was scanned."""
    size = 0
    for chunk in file.chunks():
        size += len(chunk)
        if size > file.size:
            break  # a file that grows without end must not keep us here
        yield chunk
    if size != file.size:
        raise _changed(f"{file.path} of {file.origin}")


# -- files of this system -----------------------------------------------------------------------------------------


def _file_on_disk(on_disk: str, path: str, status: os.stat_result, origin: str) -> SourceFile:
    scanned = _Identity.of(status)
    return SourceFile(path=path, size=scanned.size, chunks=lambda: _chunks(on_disk, scanned), origin=origin)


def _chunks(path: str, scanned: _Identity) -> Iterator[bytes]:
    try:
        # O_NOFOLLOW, O_NONBLOCK: whoever swaps the file for a link or a fifo now gets an error, not our patience.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ENOTDIR):
            raise _changed(path) from error
        raise AbbootError(f"cannot read {shown(path)}: {_reason(error)}") from error
    try:
        if _Identity.of(os.fstat(descriptor)) != scanned:
            raise _changed(path)
        left = scanned.size
        while left > 0:
            chunk = os.read(descriptor, min(CHUNK_SIZE, left))
            if not chunk:
                raise _changed(path)
            left -= len(chunk)
            if left == 0 and _Identity.of(os.fstat(descriptor)) != scanned:
                raise _changed(path)
            yield chunk
    except OSError as error:
        raise AbbootError(f"cannot read {shown(path)}: {_reason(error)}") from error
    finally:
        os.close(descriptor)


def _changed(path: str) -> AbbootError:
    return AbbootError(
        f"cannot read {shown(path)}: it changed while it was being read", "try again when it is complete"
    )


def _reason(error: OSError | ValueError) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text[:1].lower() + text[1:]


def _what_it_is(on_disk: str, path: str, mode: int) -> str:
    if not stat.S_ISLNK(mode):
        kinds = {stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket", stat.S_IFBLK: "block device"}
        return f"it is a {kinds.get(stat.S_IFMT(mode), 'character device')}, not a file"
    try:
        target = os.readlink(on_disk)
    except OSError:
        return "it is a symbolic link; FAT has none"
    inside = os.path.normpath(os.path.join(os.path.dirname(path), target))
    outside = " out of the tree" if os.path.isabs(target) or inside.split("/")[0] == ".." else ""
    return f"it is a symbolic link{outside} (to {shown(target)}); FAT has none"


# -- layers -------------------------------------------------------------------------------------------------------


def _spelling(folder: str, folders: dict[str, str]) -> str:
    """``folder`` as earlier layers spell it, as far as they have it."""
    at = len(folder)
    while at > 0:
        if (known := folders.get(fold(folder[:at]))) is not None:
            return known + folder[at:]
        at = folder.rfind("/", 0, at)
    return folder


def _at(file: SourceFile, path: str) -> SourceFile:
    return SourceFile(path=path, size=file.size, chunks=file.chunks, origin=file.origin)


def firmware_builds(files: Iterable[SourceFile]) -> dict[str, date | None]:
    """The build dates of ``start4.elf`` and ``start.elf``, as far as they tell."""
    return {
        file.path.lower(): build_date(file.chunks())
        for file in files
        if file.path.lower() in ("start4.elf", "start.elf")
    }


def boot_texts(files: Iterable[SourceFile]) -> dict[str, str]:
    """What :func:`abboot.core.tree.warn_tree` looks into: ``config.txt`` and ``cmdline.txt``, up to 1 MiB of each."""
    return {
        file.path.lower(): next(iter(file.chunks()), b"").decode("utf-8", "replace")
        for file in files
        if file.path.lower() in ("config.txt", "cmdline.txt")
    }
