"""A FAT volume as it is on its medium: list, find, read, and say which clusters hold what.  Never writes.

The rules:

* pyfatfs decodes boot sector fields, directory entries and long names, so that what abboot's own planner wrote is
  read back by other people's code.  Nothing else of it is used, and only here: its file system classes follow hostile
  chains without end and need ``fs`` and ``pkg_resources``; its codecs do neither.
* A volume is hostile until proven otherwise (G10): chains, directories, depth and names are bounded, and what is
  wrong ends in one :class:`~abboot.errors.Damaged` that names the device and the path.
* The FAT is read where a chain needs it, so that one small file of a 256 MiB volume costs a few sectors.
* A volume object is a snapshot: it remembers directories and FAT pages.  Open another one to see a change.

Memory is bounded whatever the volume says: 16 MiB of FAT pages; 8 MiB of directories, which decoded take 80 MB if they
are nothing but long names; chains in at most 262144 pieces (2 MiB for one, 46 MB for all in :meth:`FatVolume.held`);
and 2 MiB of content.

Source: Microsoft FAT specification 1.03 (sections cited below); the lower-case flags are Windows NT's, as Linux's
fs/fat/dir.c and mtools read them.
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import attrs

try:
    import pyfatfs  # noqa: F401
except ModuleNotFoundError:
    # The Debian package brings the few modules below, since Debian has none of pyfatfs.
    sys.path.append(os.path.join(os.path.dirname(os.path.dirname(__file__)), "_vendor"))

from pyfatfs import PyFATException
from pyfatfs.BootSectorHeader import FAT12BootSectorHeader, FAT32BootSectorHeader
from pyfatfs.EightDotThree import EightDotThree
from pyfatfs.FATDirectoryEntry import FATDirectoryEntry, FATLongDirectoryEntry

from abboot.core.protocols import BlockDevice, FileInfo
from abboot.core.value import Value
from abboot.core.words import FatType
from abboot.errors import Damaged
from abboot.fat.geometry import Geometry
from abboot.fat.names import fold
from abboot.fat.volume import MAX_DIRECTORIES_SIZE, MAX_DIRECTORY_SIZE, MAX_ENTRIES, Held, HeldDirectory, HeldFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from abboot.fat.volume import Extents

MAX_DEPTH: Final = 32  # directories below each other
MAX_PIECES: Final = 262144  # contiguous runs of clusters, per chain and in all of held()
CHUNK_SIZE: Final = 1 << 20  # bytes per read of content

_ENTRY_SIZE: Final = 32
_END_OF_DIRECTORY: Final = 0x00
_DELETED: Final = 0xE5
_STANDS_FOR_E5: Final = 0x05  # as first byte; FAT specification 6.1
_LOWER_CASE_BASE: Final = 0x08  # in NTRes
_LOWER_CASE_EXTENSION: Final = 0x10
_MAX_NAME_UNITS: Final = 255  # UTF-16 units; FAT specification 7
_MAX_NAME_PARTS: Final = 20
_NAME_FIELDS: Final = ("LDIR_Name1", "LDIR_Name2", "LDIR_Name3")
_SHORT = struct.Struct(FATDirectoryEntry.FAT_DIRECTORY_LAYOUT)
_LONG = struct.Struct(FATLongDirectoryEntry.FAT_LONG_DIRECTORY_LAYOUT)

_HINT: Final = "check it with `fsck.vfat -n`; a slot can be staged again"


class FatVolume:
    """The files of one FAT12, FAT16 or FAT32 volume; implements :class:`abboot.core.protocols.Volume`.

    Args:
        device: the partition.  Only read, and never outside ``geometry.size``.
        boot_sector: taken for the medium's first sector, which is not read then.  While a slot is being staged its own
            is zeroed, and everything behind it is checked with the planned one (G2).

    Raises:
        Damaged: there is no FAT volume, or its header does not fit the partition.
        DeviceError: from here and from every method: the device could not be read.
    """

    def __init__(self, device: BlockDevice, boot_sector: bytes | None = None) -> None:
        self._device = device
        if boot_sector is None:
            if device.size_bytes < 512:
                raise Damaged(f"cannot read the volume on {device.name}: {device.size_bytes} bytes are no FAT volume")
            boot_sector = device.read(0, 512)
        try:
            self._geometry = Geometry.parse(boot_sector, device.size_bytes)
        except Damaged as error:
            _, _, found = error.message.partition(": ")
            raise Damaged(f"cannot read the volume on {device.name}: {found or error.message}", error.hint) from error
        header = FAT32BootSectorHeader() if self._geometry.fat_type is FatType.FAT32 else FAT12BootSectorHeader()
        header.parse_header(boot_sector)
        # Linux and Windows note a mounted volume here; FAT32 drivers use the entry of cluster 1 as well.
        self._mounted_bit = bool(header["BS_Reserved1"] & 1)
        self._table = _Table(device, self._geometry)
        self._directories: dict[str, _Directory] = {}
        self._entries = 0
        self._directory_bytes = 0
        self._window = 0, b""  # content that was read last, and where
        self._next = 0  # the cluster behind what was asked for last

    @property
    def geometry(self) -> Geometry:
        return self._geometry

    @property
    def dirty(self) -> bool:
        """Whether the volume was not unmounted cleanly, by either mark that drivers leave (FAT specification 4.1)."""
        clean_bit = {FatType.FAT12: 0, FatType.FAT16: 0x8000, FatType.FAT32: 0x0800_0000}[self._geometry.fat_type]
        return self._mounted_bit or (self._table.entry(1) & clean_bit) != clean_bit

    def files(self) -> tuple[FileInfo, ...]:
        """Every regular file, in directory order.

        Raises:
            Damaged: a directory cannot be followed, is reached twice, or there is too much of it; or the files say that
                they hold more than the volume.
        """
        files = tuple(
            FileInfo(path=path, size=entry.size) for path, entry in self._walk() if entry and not entry.is_directory
        )
        # 65536 files of 4 GiB that share one chain would keep who reads them all busy for days (G10).
        total, room = sum(file.size for file in files), self._geometry.cluster_count * self._geometry.cluster_size
        if total > room:
            raise self._damaged("the volume", f"its files say that they have {total} bytes, it has room for {room}")
        return files

    def find(self, path: str) -> FileInfo | None:
        """The file that FAT would open for ``path``, by long name or alias in any case; ``None`` if there is none.

        Raises:
            Damaged: a directory on the way cannot be read, or two files answer to one name: readers differ on which
                one they take.
        """
        found = self._find(path)
        return FileInfo(path=found[0], size=found[1].size) if found else None

    def chunks(self, path: str) -> Iterator[bytes]:
        """The content of one file, in pieces of at most 1 MiB; its whole chain is checked before the first one.

        Raises:
            Damaged: there is no such file, or its chain leaves the volume, is shorter than the file or never ends.
        """
        stored, entry = self._existing(path)
        return self._read_runs(self._runs(stored, entry), entry.size, self._read_ahead)

    def read_file(self, path: str, limit: int) -> bytes:
        """The whole content of one file.

        Raises:
            Damaged: as :meth:`chunks`, or it is longer than ``limit`` bytes.
        """
        stored, entry = self._existing(path)
        if entry.size > limit:
            raise self._damaged(stored, f"{entry.size} bytes found, at most {limit} are read")
        return b"".join(self._read_runs(self._runs(stored, entry), entry.size, self._device.read))

    def extents(self, path: str) -> Extents:
        """Where a file lies: ``(first cluster, number of clusters)`` in file order.  Raises as :meth:`chunks`."""
        return _pairs(self._runs(*self._existing(path)))

    def held(self) -> Held:
        """Everything that occupies clusters, proven to be consistent.

        Raises:
            Damaged: as :meth:`files` and :meth:`chunks`, or two chains share a cluster, or two names of one directory
                are one to FAT.
        """
        files: list[HeldFile] = []
        directories: list[HeldDirectory] = []
        claims: list[tuple[int, int, str]] = []
        claimed, count = 0, self._geometry.cluster_count
        for path, entry in self._walk():
            if entry is None:
                directory = self._directories[path]
                extents = directory.extents
                directories.append(HeldDirectory(path=path, extents=extents))
                for name, entries in directory.by_name.items():
                    if len(entries) > 1:
                        raise self._damaged(path or "/", f"two of its entries are named {name!r}")
            elif entry.is_directory:
                continue  # it comes again, as a directory with its entries
            else:
                extents = _pairs(self._runs(path, entry))
                files.append(HeldFile(path=path, size=entry.size, extents=extents))
            claimed += sum(length for _, length in extents)
            if claimed > count:
                # Here and not at the end: a long chain that many files share is not followed for each of them (G10).
                raise self._damaged(path or "/", f"up to it {claimed} clusters are taken, the volume has {count}")
            claims.extend((first, length, path) for first, length in extents)
            if len(claims) > MAX_PIECES:
                raise self._damaged("the volume", f"its files lie in more than {MAX_PIECES} pieces")
        claims.sort()
        for (first, count, path), (other_first, _, other_path) in pairwise(claims):
            if first + count > other_first:
                raise self._damaged(other_path, f"it shares cluster {other_first} with {_shown(path)}")
        return Held(geometry=self._geometry, files=tuple(files), directories=tuple(directories))

    def free_clusters(self) -> int:
        """Clusters that the FAT says are free, counted; FSInfo is only a hint (FAT specification 5)."""
        return self._table.free()

    # Names to entries

    def _existing(self, path: str) -> tuple[str, _Entry]:
        found = self._find(path)
        if found is None:
            raise self._damaged(path, "there is no such file")
        return found

    def _find(self, path: str) -> tuple[str, _Entry] | None:
        *parents, last = path.split("/")
        if len(parents) > MAX_DEPTH:
            return None
        stored = ""
        directory = self._directory("", None)
        for part in parents:
            entry = self._lookup(directory, stored, part)
            if entry is None or not entry.is_directory:
                return None
            stored = _join(stored, entry.name)
            directory = self._directory(stored, entry)
        entry = self._lookup(directory, stored, last)
        if entry is None or entry.is_directory:
            return None
        return _join(stored, entry.name), entry

    def _lookup(self, directory: _Directory, path: str, name: str) -> _Entry | None:
        entries = directory.by_name.get(fold(name), [])
        if len(entries) > 1:
            raise self._damaged(_join(path, name), f"{len(entries)} entries of its directory answer to this name")
        return entries[0] if entries else None

    def _walk(self) -> Iterator[tuple[str, _Entry | None]]:
        """Every directory as ``(path, None)``, each followed by its entries; depth first, in directory order."""
        reached: set[int] = set()
        pending: list[tuple[str, _Entry | None, int]] = [("", None, 0)]
        while pending:
            path, origin, depth = pending.pop()
            directory = self._directory(path, origin)
            if directory.extents:
                first = directory.extents[0][0]
                if first in reached:
                    raise self._damaged(path, "this directory is reached twice")
                reached.add(first)
            yield path, None
            below = []
            for entry in directory.entries:
                below_path = _join(path, entry.name)
                yield below_path, entry
                if entry.is_directory:
                    if depth == MAX_DEPTH:
                        raise self._damaged(below_path, f"it is more than {MAX_DEPTH} directories deep")
                    below.append((below_path, entry, depth + 1))
            pending.extend(reversed(below))

    def _directory(self, path: str, origin: _Entry | None) -> _Directory:
        """The directory of ``origin`` (``None``: the root), from the medium once."""
        directory = self._directories.get(path)
        if directory is None:
            directory = self._directories[path] = self._read_directory(path, origin)
        return directory

    def _read_directory(self, path: str, origin: _Entry | None) -> _Directory:
        geometry = self._geometry
        if origin is None and geometry.fat_type is not FatType.FAT32:
            extents: Extents = ()
            content = self._device.read(geometry.root_dir_start, geometry.root_dir_size)
        else:
            runs = self._chain(path or "/", origin.cluster if origin else geometry.root_cluster)
            extents = _pairs(runs)
            size = sum(runs[1::2]) * geometry.cluster_size
            if size > MAX_DIRECTORY_SIZE:
                raise self._damaged(path or "/", f"a directory of {size} bytes found, {MAX_DIRECTORY_SIZE} at most")
            content = b"".join(self._read_runs(runs, size, self._device.read))
        # Together, because directories that share a long tail would repeat it.
        self._directory_bytes += len(content)
        if self._directory_bytes > MAX_DIRECTORIES_SIZE:
            raise self._damaged(path or "/", f"more than {MAX_DIRECTORIES_SIZE} bytes of directories found")
        entries = []
        for entry in _decode(content, wide_cluster=geometry.fat_type is FatType.FAT32):
            if problem := _name_problem(entry.name):
                raise self._damaged(path or "/", f"its entry {entry.name!r} {problem}")
            entries.append(entry)
        self._entries += len(entries)
        if self._entries > MAX_ENTRIES:
            raise self._damaged(path or "/", f"more than {MAX_ENTRIES} files and directories found")
        return _Directory(extents=extents, entries=tuple(entries))

    # Entries to bytes

    def _runs(self, path: str, entry: _Entry) -> array[int]:
        """The chain of a file.  It may be longer than the file (space set aside), never shorter."""
        if entry.cluster == 0 and entry.size == 0:
            return array("I")
        runs = self._chain(path, entry.cluster)
        held = sum(runs[1::2]) * self._geometry.cluster_size
        if entry.size > held:
            raise self._damaged(path, f"its size is {entry.size} bytes, its chain holds {held}")
        return runs

    def _chain(self, path: str, first: int) -> array[int]:
        try:
            return self._table.chain(first)
        except _BadChain as error:
            raise self._damaged(path, str(error)) from None

    def _read_runs(self, runs: array[int], size: int, read: Callable[[int, int], bytes]) -> Iterator[bytes]:
        cluster_size = self._geometry.cluster_size
        left = size
        for index in range(0, len(runs), 2):
            offset = self._geometry.cluster_offset(runs[index])
            in_run = min(left, runs[index + 1] * cluster_size)
            left -= in_run
            while in_run:
                length = min(in_run, CHUNK_SIZE)
                yield read(offset, length)
                offset += length
                in_run -= length

    def _read_ahead(self, offset: int, length: int) -> bytes:
        """From the medium, and with a file that lies behind the one before it the next megabyte.

        Hundreds of small files lie behind each other on a slot, and cards are slow per read, not only per byte.
        """
        start, window = self._window
        if not start <= offset <= offset + length <= start + len(window):
            if offset != self._next or length >= CHUNK_SIZE:
                start, window = offset, self._device.read(offset, length)
            else:
                start, window = offset, self._device.read(offset, min(CHUNK_SIZE, self._geometry.size - offset))
            self._window = start, window
        cluster_size = self._geometry.cluster_size
        self._next = offset + -(-length // cluster_size) * cluster_size
        return window[offset - start : offset - start + length]

    def _damaged(self, path: str, found: str) -> Damaged:
        return Damaged(f"cannot read {_shown(path)} on {self._device.name}: {found}", _HINT)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class _Entry(Value):
    name: str  # the long name; without one the short name, in the case that its flags say
    alias: str  # the short name
    is_directory: bool
    cluster: int
    size: int


@attrs.frozen(kw_only=True, eq=False, repr=False)
class _Directory(Value):
    extents: Extents
    entries: tuple[_Entry, ...]
    by_name: dict[str, list[_Entry]] = attrs.field(init=False)  # by folded name and folded alias

    @by_name.default
    def _index(self) -> dict[str, list[_Entry]]:
        index: dict[str, list[_Entry]] = {}
        for entry in self.entries:
            for name in {fold(entry.name), fold(entry.alias)}:
                index.setdefault(name, []).append(entry)
        return index


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def _shown(path: str) -> str:
    """A path for a message: it may come from a caller or from a hostile volume."""
    return path if path.isprintable() else repr(path)


def _pairs(runs: array[int]) -> Extents:
    return tuple(zip(runs[::2], runs[1::2], strict=True))


def _name_problem(name: str) -> str:
    """What makes a name dangerous to those who build paths or messages of it; empty if nothing does."""
    if name in {"", ".", ".."}:
        return "has no name of its own"
    bad = sorted({character for character in name if character < " " or character in "/\\\x7f"})
    return f"has {bad[0]!a} in its name, which FAT forbids" if bad else ""


def _decode(content: bytes, *, wide_cluster: bool) -> Iterator[_Entry]:
    """The files and directories among the 32-byte entries of one directory (FAT specification 6 and 7).

    Deleted entries, the volume label, ``.``, ``..`` and long names that belong to nothing are passed over; everything
    behind the first free entry is the remains of files that no longer exist.

    Args:
        content: the bytes of the directory.
        wide_cluster: whether the upper half of the cluster number counts; before FAT32 other systems kept other things
            there.
    """
    long_name = _LongName()
    for offset in range(0, len(content) - _ENTRY_SIZE + 1, _ENTRY_SIZE):
        raw = content[offset : offset + _ENTRY_SIZE]
        mark, attributes = raw[0], raw[11]
        if mark == _END_OF_DIRECTORY:
            return
        if mark == _DELETED:
            long_name.forget()
            continue
        if FATLongDirectoryEntry.is_lfn_entry(mark, attributes):
            long_name.add(raw)
            continue
        fields = _SHORT.unpack(raw)
        short = EightDotThree()
        short.set_byte_name(fields[0])
        name = long_name.take(short)
        entry = FATDirectoryEntry(short, *fields[1:])
        if entry.is_volume_id():
            continue
        alias = _short_name(raw, 0)
        if entry.is_directory() and alias in {".", ".."} and name is None:
            continue
        yield _Entry(
            name=name or _short_name(raw, entry.ntres),
            alias=alias,
            is_directory=entry.is_directory(),
            cluster=entry.get_cluster() if wide_cluster else entry.fstcluslo,
            size=entry.filesize,
        )


def _short_name(raw: bytes, flags: int) -> str:
    """``CONFIG  TXT`` as ``CONFIG.TXT``, or in lower case where Windows or mtools noted that in flags.

    Not the codec's: it takes more than spaces for padding, and a name that ends in a control character for another.
    """
    name = (b"\xe5" if raw[0] == _STANDS_FOR_E5 else raw[:1]) + raw[1:11]
    base, extension = (part.decode("ibm437").rstrip(" ") for part in (name[:8], name[8:]))
    if flags & _LOWER_CASE_BASE:
        base = base.lower()
    if flags & _LOWER_CASE_EXTENSION:
        extension = extension.lower()
    return f"{base}.{extension}" if extension else base


class _LongName:
    """Collects the parts of a long name, which come last part first, just before their short entry."""

    def __init__(self) -> None:
        self._parts: FATLongDirectoryEntry | None = None
        self._next = 0

    def forget(self) -> None:
        self._parts = None

    def add(self, raw: bytes) -> None:
        fields = _LONG.unpack(raw)
        number = fields[0] & ~FATLongDirectoryEntry.LAST_LONG_ENTRY
        if number != fields[0]:
            self._parts, self._next = FATLongDirectoryEntry(), number
        if self._parts is None or number != self._next or not 1 <= number <= _MAX_NAME_PARTS:
            self._parts = None
            return
        try:
            self._parts.add_lfn_entry(*fields)
        except PyFATException:
            self._parts = None
        self._next -= 1

    def take(self, short: EightDotThree) -> str | None:
        """The long name of the entry that follows; ``None`` if there is none, or not all of it, or it is another's."""
        parts, self._parts = self._parts, None
        if parts is None or self._next != 0:
            return None
        fields = list(parts.get_entries())
        checksum = short.checksum()
        if any(part["LDIR_Chksum"] != checksum for part in fields):
            return None
        try:
            name, _, _ = str(parts).partition("\0")
        except UnicodeDecodeError:
            return None
        units = name.encode("utf-16-le")
        # The codec drops padding wherever it begins; without a NUL before it, it is part of the name to Linux.
        raw = b"".join([part[field] for part in fields for field in _NAME_FIELDS])
        ended = raw[len(units) : len(units) + 2] in {b"", b"\0\0"}
        return name if ended and 0 < len(units) // 2 <= _MAX_NAME_UNITS else None


class _BadChain(Exception):
    """What is wrong with a chain; the volume knows whose it is."""


class _Table:
    """The FAT itself, read in pages where a chain needs them."""

    # A page holds whole entries also of FAT12, where two entries share three bytes.
    _ENTRIES_PER_PAGE: Final = 2048
    _MAX_PAGES: Final = 2048  # of at most 8 KiB each in memory
    _READ_AHEAD: Final = 32  # pages

    def __init__(self, device: BlockDevice, geometry: Geometry) -> None:
        self._device = device
        self._fat_type = geometry.fat_type
        self._start = geometry.fat_offset(0)  # Geometry refuses volumes whose copies are not mirrored
        self._end = geometry.cluster_count + 2  # entries; the FAT's last sector may hold more, of no cluster
        self._page_size = self._ENTRIES_PER_PAGE * int(geometry.fat_type) // 8
        self._pages: dict[int, array[int]] = {}
        self._ahead = 1
        # The least value that ends a chain; the one below it marks a bad cluster (FAT specification 4).
        self._end_mark = {FatType.FAT12: 0xFF8, FatType.FAT16: 0xFFF8, FatType.FAT32: 0x0FFF_FFF8}[geometry.fat_type]

    def entry(self, cluster: int) -> int:
        number, offset = divmod(cluster, self._ENTRIES_PER_PAGE)
        return self._page(number)[offset]

    def free(self) -> int:
        # Entries 0 and 1 belong to no cluster.
        pages = range(-(-self._end // self._ENTRIES_PER_PAGE))
        return sum(self._page(number).count(0) for number in pages) - self._page(0)[:2].count(0)

    def chain(self, first: int) -> array[int]:
        """The runs of the chain from ``first`` to its end mark, flat: first cluster, count, first cluster, count.

        Raises:
            _BadChain: it leaves the volume, meets a free or bad cluster, or never ends.
        """
        end, per_page = self._end, self._ENTRIES_PER_PAGE
        runs = array("I")
        if not 2 <= first < end:
            raise _BadChain(f"its chain begins at cluster {first}, the volume has clusters 2 to {end - 1}")
        run_start = cluster = first
        steps = 0
        while True:
            number, offset = divmod(cluster, per_page)
            page = self._page(number)
            entered = cluster
            cluster += 1
            # Within a run and a page: the usual case, so this loop does nothing else.
            last = min(end, entered - offset + len(page))
            while (following := page[offset]) == cluster and cluster < last:
                offset += 1
                cluster += 1
            steps += cluster - entered
            if steps > end:
                raise _BadChain("its chain of clusters is a loop")
            if following == cluster < end:
                continue  # the run goes on in the next page
            runs.append(run_start)
            runs.append(cluster - run_start)
            if following >= self._end_mark:
                return runs
            if not 2 <= following < end:
                raise _BadChain(
                    f"its chain goes from cluster {cluster - 1} to {following:#x}, the volume has 2 to {end - 1}"
                )
            if len(runs) >= 2 * MAX_PIECES:
                raise _BadChain(f"its chain is a loop, or in more than {MAX_PIECES} pieces")
            run_start = cluster = following

    def _page(self, number: int) -> array[int]:
        page = self._pages.get(number)
        if page is None:
            if len(self._pages) + self._READ_AHEAD > self._MAX_PAGES:
                self._pages.clear()
            # Who has just read the page before is following a long chain.
            self._ahead = min(2 * self._ahead, self._READ_AHEAD) if number - 1 in self._pages else 1
            self._load(number, self._ahead)
            page = self._pages[number]
        return page

    def _load(self, number: int, count: int) -> None:
        first = number * self._ENTRIES_PER_PAGE
        entries = min(count * self._ENTRIES_PER_PAGE, self._end - first)
        size = -(-entries * int(self._fat_type) // 8)
        raw = self._device.read(self._start + number * self._page_size, size)
        table = _unpack(raw, self._fat_type)[:entries]
        for index in range(0, entries, self._ENTRIES_PER_PAGE):
            page = table[index : index + self._ENTRIES_PER_PAGE]
            self._pages[number + index // self._ENTRIES_PER_PAGE] = page


def _unpack(raw: bytes, fat_type: FatType) -> array[int]:
    """FAT entries as numbers (FAT specification 4.1); the upper four bits of FAT32's are not part of them."""
    if fat_type is FatType.FAT12:
        raw += bytes(-len(raw) % 3)
        triples = (int.from_bytes(raw[offset : offset + 3], "little") for offset in range(0, len(raw), 3))
        return array("I", (half for triple in triples for half in (triple & 0xFFF, triple >> 12)))
    table = array("H" if fat_type is FatType.FAT16 else "I")
    table.frombytes(raw)
    if sys.byteorder == "big":
        table.byteswap()
    if fat_type is FatType.FAT32 and max(table) > 0x0FFF_FFFF:
        table = array("I", (entry & 0x0FFF_FFFF for entry in table))
    return table
