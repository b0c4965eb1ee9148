"""Every byte of a volume, decided before the first is written: a pure function of tree, geometry and what is there.

Rules:

* The same input gives the same bytes: everything is sorted, every time stamp is 1980-01-01.
* On a new volume directories come first, then the files in path order, each in one piece, and a big one leaves room
  behind it to grow.
* On a used volume whatever keeps its path keeps its clusters: an unchanged file costs nothing, a grown one its growth.
* The last cluster is never used: bootloaders before 2024-01-18 cannot read such a volume (H-43, rpi-eeprom#521).

No I/O.  Source: FAT specification 4 (FAT), 5 (FSInfo), 6 (directories).
"""

from __future__ import annotations

import heapq
import struct
import sys
from array import array
from itertools import pairwise
from typing import TYPE_CHECKING

import attrs

from abboot.core.tree import MAX_FILE_SIZE, problem_of_path, shown
from abboot.core.value import Value
from abboot.core.words import FatType
from abboot.errors import InvalidTree
from abboot.fat import names
from abboot.fat.volume import MAX_DIRECTORIES_SIZE, MAX_DIRECTORY_SIZE, MAX_ENTRIES, Extents, Held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from abboot.fat.geometry import Geometry

MAX_FAT_SIZE = 64 << 20  # bytes of one FAT: bounds our memory, not the format (G10)
BIG_FILE = 1 << 20  # bytes: from here on a file gets room to grow
GROWTH_DIVISOR = 8  # a kernel grows by a few percent per release; an eighth lasts for years

_FSINFO = struct.Struct("<I480xIII12xI")
_END_OF_CHAIN = {FatType.FAT12: 0xFFF, FatType.FAT16: 0xFFFF, FatType.FAT32: 0x0FFFFFFF}


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Content(Value):
    """A file to be put on the volume.

    ``chunks`` is called once per pass and gives the ``size`` bytes in pieces of any length; each call starts again.
    ``at_cluster`` pins the file to clusters in one piece from there on (the journal of the selector).
    """

    path: str  # relative, "/"-separated
    size: int  # bytes
    chunks: Callable[[], Iterator[bytes]]
    at_cluster: int | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class PlannedFile(Value):
    """A file and its clusters; an empty file has none."""

    content: Content
    extents: Extents


@attrs.frozen(kw_only=True, eq=False, repr=False)
class PlannedDirectory(Value):
    """A directory, whole clusters of it; the fixed root of FAT12 and FAT16 has no clusters."""

    path: str  # "" is the root
    extents: Extents
    data: bytes


@attrs.frozen(kw_only=True, eq=False, repr=False)
class VolumePlan(Value):
    """What a volume will be.  ``fsinfo`` is one sector, empty where the volume has none."""

    geometry: Geometry
    directories: tuple[PlannedDirectory, ...]
    files: tuple[PlannedFile, ...]  # sorted by path
    fat: bytes
    fsinfo: bytes
    free_clusters: int

    @property
    def boot_sector(self) -> bytes:
        return self.geometry.boot_sector()

    def extents(self, path: str) -> Extents:
        """The clusters of one planned file; ``KeyError`` if there is none."""
        for file in self.files:
            if file.content.path == path:
                return file.extents
        raise KeyError(path)


def plan_volume(contents: Sequence[Content], geometry: Geometry, held: Held | None = None) -> VolumePlan:
    """Lay out ``contents`` on a volume.

    Args:
        held: what the volume holds now; ``None`` lays out an empty one.

    Raises:
        InvalidTree: a name that FAT cannot hold, two that differ only in case, or more than fits.
    """
    if geometry.fat_size > MAX_FAT_SIZE:
        raise InvalidTree(
            f"cannot plan the volume: a FAT of {geometry.fat_size} bytes found, abboot handles {MAX_FAT_SIZE}",
            "format it with larger clusters",
        )
    files = sorted(contents, key=lambda content: content.path)
    folders = _folders(files, geometry)
    fixed_root = geometry.fat_type is not FatType.FAT32

    needs: dict[str, int] = {}  # clusters, directories first: a trailing "/" tells them from files
    for folder in folders.values():
        in_clusters = bool(folder.path) or not fixed_root
        room = MAX_DIRECTORY_SIZE if in_clusters else geometry.root_dir_size
        if folder.size > room:
            raise InvalidTree(
                f"cannot put the tree on the volume: directory {folder.path or '/'} needs "
                f"{folder.size // names.ENTRY_SIZE} entries, {room // names.ENTRY_SIZE} fit",
                "use shorter names, or fewer files in that directory",
            )
        needs[folder.path + "/"] = max(1, _clusters(folder.size, geometry)) if in_clusters else 0
    for content in files:
        needs[content.path] = _clusters(content.size, geometry)
    extents = _allocate(needs, _pinned(files, geometry), geometry, held)

    if not fixed_root:
        geometry = attrs.evolve(geometry, root_cluster=extents["/"][0][0])
    table = _table(extents.values(), geometry)
    free = geometry.cluster_count - sum(count for chain in extents.values() for _, count in chain)
    return VolumePlan(
        geometry=geometry,
        directories=tuple(
            PlannedDirectory(path=folder.path, extents=extents[folder.path + "/"], data=folder.data(extents, geometry))
            for folder in folders.values()
        ),
        files=tuple(PlannedFile(content=content, extents=extents[content.path]) for content in files),
        fat=_fat_bytes(table, geometry),
        fsinfo=_fsinfo(free, table.index(0, 2), geometry) if geometry.fsinfo_offsets else b"",
        free_clusters=free,
    )


# --- directories ---


@attrs.define
class _Folder:
    """One directory on its way to bytes."""

    path: str
    files: dict[str, Content] = attrs.field(factory=dict)  # name -> content, in path order
    folders: dict[str, str] = attrs.field(factory=dict)  # name -> path
    aliases: dict[str, bytes] = attrs.field(factory=dict)
    size: int = 0  # bytes of its entries

    def finish(self, geometry: Geometry) -> None:
        """Once all names are known."""
        self.aliases = names.aliases(sorted([*self.files, *self.folders]))
        own = 2 if self.path else bool(geometry.label)
        self.size = names.ENTRY_SIZE * (own + sum(names.entry_count(*item) for item in self.aliases.items()))

    def data(self, extents: dict[str, Extents], geometry: Geometry) -> bytes:
        def start(key: str) -> int:
            return extents[key][0][0] if extents[key] else 0

        entries = []
        if self.path:
            parent = self.path.rpartition("/")[0]
            up = start(parent + "/") if parent else 0  # 0 is the root, also where it has a cluster (FAT spec 6.5)
            entries.append(names.short_entry(b".          ", names.ATTRIBUTE_DIRECTORY, start(self.path + "/"), 0))
            entries.append(names.short_entry(b"..         ", names.ATTRIBUTE_DIRECTORY, up, 0))
        elif geometry.label:
            entries.append(names.short_entry(geometry.label.ljust(11).encode("ascii"), names.ATTRIBUTE_VOLUME, 0, 0))
        for name, alias in sorted(self.aliases.items()):
            content = self.files.get(name)
            if content is None:
                key, attributes, size = self.folders[name] + "/", names.ATTRIBUTE_DIRECTORY, 0
            else:
                key, attributes, size = content.path, names.ATTRIBUTE_ARCHIVE, content.size
            entries.append(names.render(name, alias, attributes, start(key), size))
        data = b"".join(entries)
        clusters = sum(count for _, count in extents[self.path + "/"])
        return data.ljust(clusters * geometry.cluster_size or geometry.root_dir_size, b"\0")


def _folders(files: Sequence[Content], geometry: Geometry) -> dict[str, _Folder]:
    """Every directory by path, the root first, parents before children."""
    folders = {"": _Folder("")}
    seen: dict[str, str] = {}  # folded path -> the path that claims it

    def claim(path: str) -> None:
        other = seen.get(names.fold(path))
        if other is not None:
            raise InvalidTree(
                f"cannot put {shown(path)} on a FAT volume: {shown(other)} is there too, FAT cannot tell them apart",
                "remove or rename one of them",
            )
        seen[names.fold(path)] = path
        if len(seen) > MAX_ENTRIES:
            raise InvalidTree(f"cannot plan the volume: more than {MAX_ENTRIES} files and directories found")

    for content in files:
        problem = problem_of_path(content.path)
        if not problem and not 0 <= content.size <= MAX_FILE_SIZE:
            problem = f"a file on FAT has at most {MAX_FILE_SIZE} bytes, found {content.size}"
        if problem:
            raise InvalidTree(f"cannot put {shown(content.path)} on a FAT volume: {problem}")
        *parts, name = content.path.split("/")
        folder, path = folders[""], ""
        for part in parts:
            path = f"{path}/{part}" if path else part
            if part not in folder.folders:
                claim(path)
                folder.folders[part] = path
                folders[path] = _Folder(path)
            folder = folders[path]
        claim(content.path)
        folder.files[name] = content
    for folder in folders.values():
        folder.finish(geometry)
    total = sum(folder.size for folder in folders.values())
    if total > MAX_DIRECTORIES_SIZE:
        raise InvalidTree(
            f"cannot plan the volume: directories of {total} bytes needed, at most {MAX_DIRECTORIES_SIZE} are handled",
            "use shorter names, or fewer files",
        )
    return folders


# --- clusters ---


def _clusters(size: int, geometry: Geometry) -> int:
    return -(-size // geometry.cluster_size)


def _pinned(files: Iterable[Content], geometry: Geometry) -> dict[str, tuple[int, int]]:
    """Where pinned files go, checked."""
    pinned = {
        content.path: (content.at_cluster, _clusters(content.size, geometry))
        for content in files
        if content.at_cluster is not None and content.size
    }
    places = sorted((start, count, path) for path, (start, count) in pinned.items())
    for start, count, path in places:
        if start < 2 or start + count > geometry.last_cluster:
            raise InvalidTree(f"cannot put {path!r} at cluster {start}: {geometry.cluster_count} clusters found")
    for (start, count, path), (other, _, _) in pairwise(places):
        if start + count > other:
            raise InvalidTree(f"cannot put {path!r} at cluster {start}: it would run into cluster {other}")
    return pinned


def _allocate(
    needs: dict[str, int], pinned: dict[str, tuple[int, int]], geometry: Geometry, held: Held | None
) -> dict[str, Extents]:
    """Clusters for everything in ``needs``; what is held under the same path keeps as many of its own as it needs."""
    blocked = sorted([*pinned.values(), (geometry.last_cluster, 1)])
    before: dict[str, Extents] = {}
    if held is not None and _same_clusters(held.geometry, geometry):
        before = {names.fold(folder.path) + "/": folder.extents for folder in held.directories}
        before |= {names.fold(file.path): file.extents for file in held.files}
    got: dict[str, list[tuple[int, int]]] = {}
    for key, need in needs.items():
        got[key] = [pinned[key]] if key in pinned else _keep(before.get(names.fold(key), ()), need, blocked)

    # Free runs: what lies between everything that is placed.
    free: dict[int, int] = {}  # start -> count
    cursor = 2
    for start, count in sorted([*(extent for chain in got.values() for extent in chain), *blocked]):
        if start > cursor:
            free[cursor] = start - cursor
        cursor = max(cursor, start + count)

    missing = {key: need - sum(count for _, count in got[key]) for key, need in needs.items()}
    short = sum(missing.values()) - sum(free.values())
    if short > 0:
        there = (geometry.cluster_count - 1) * geometry.cluster_size
        raise InvalidTree(
            f"cannot put the tree on the volume: {there + short * geometry.cluster_size} bytes needed, {there} there",
            "remove files, or use larger slots",
        )
    for key, chain in got.items():  # grow in place first, before new files take that room
        if chain and missing[key]:
            end = sum(chain[-1])
            run = free.pop(end, 0)
            taken = min(run, missing[key])
            if run > taken:
                free[end + taken] = run - taken
            if taken:
                chain.append((end, taken))
                missing[key] -= taken

    # New files go to the largest run: the smaller ones are room behind files that may grow.  How much new big files
    # leave behind is cut to what the volume can spare, so that it never costs a tree its place.
    big = {
        key: need for key, need in needs.items() if missing[key] == need and need * geometry.cluster_size >= BIG_FILE
    }
    big_total = sum(big.values())
    spare = min(big_total // GROWTH_DIVISOR, sum(free.values()) - sum(missing.values()))
    runs = _Runs(free)
    for key, need in missing.items():
        got[key].extend(runs.take(need))
        if key in big:
            runs.skip(big[key] * spare // big_total)
    return {key: _merge(chain) for key, chain in got.items()}


def _same_clusters(one: Geometry, other: Geometry) -> bool:
    """Whether a cluster number means the same place on both."""
    return (one.data_start, one.cluster_size, one.cluster_count) == (
        other.data_start,
        other.cluster_size,
        other.cluster_count,
    )


def _keep(extents: Extents, need: int, blocked: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The beginning of a chain: ``need`` clusters at most, up to the first one that is blocked."""
    kept: list[tuple[int, int]] = []
    for start, length in extents:
        count = min(length, need)
        for barrier, size in blocked:
            if start < barrier + size and barrier < start + count:
                count = max(0, barrier - start)
        if count:
            kept.append((start, count))
        need -= count
        if count < length or not need:
            break
    return kept


def _merge(chain: Iterable[tuple[int, int]]) -> Extents:
    merged: list[tuple[int, int]] = []
    for start, count in chain:
        if merged and sum(merged[-1]) == start:
            merged[-1] = (merged[-1][0], merged[-1][1] + count)
        else:
            merged.append((start, count))
    return tuple(merged)


class _Runs:
    """Free runs, handed out from one until something does not fit into it, then from the largest."""

    def __init__(self, free: dict[int, int]) -> None:
        self._heap = [(-count, start) for start, count in free.items()]
        heapq.heapify(self._heap)
        self._start = self._count = 0

    def take(self, need: int) -> Iterator[tuple[int, int]]:
        """``need`` clusters, which are there, in as few pieces as possible."""
        while need:
            if need > self._count:
                if self._count:
                    heapq.heappush(self._heap, (-self._count, self._start))
                count, self._start = heapq.heappop(self._heap)
                self._count = -count
            taken = min(need, self._count)
            yield self._start, taken
            self.skip(taken)
            need -= taken

    def skip(self, count: int) -> None:
        """Leave up to ``count`` clusters unused."""
        count = min(count, self._count)
        self._start += count
        self._count -= count


# --- FAT and FSInfo ---


def _table(chains: Iterable[Extents], geometry: Geometry) -> array[int]:
    """The FAT as numbers: two reserved entries, then one per cluster."""
    end = _END_OF_CHAIN[geometry.fat_type]
    table = array("I", bytes(4 * (geometry.cluster_count + 2)))
    table[0] = end & ~0xFF | geometry.media  # FAT specification 4.2
    table[1] = end  # the two highest bits set: cleanly unmounted, no I/O errors
    for chain in chains:
        for start, count in chain:
            table[start : start + count] = array("I", range(start + 1, start + count + 1))
        for (start, count), (following, _) in pairwise(chain):
            table[start + count - 1] = following
        if chain:
            table[sum(chain[-1]) - 1] = end
    return table


def _fat_bytes(table: array[int], geometry: Geometry) -> bytes:
    """One copy of the FAT, zero behind its last cluster."""
    match geometry.fat_type:
        case FatType.FAT32:
            packed = _little_endian(table)
        case FatType.FAT16:
            packed = _little_endian(array("H", table))
        case FatType.FAT12:
            bits = array("I", table)
            if len(bits) % 2:
                bits.append(0)
            packed = b"".join(
                (low | high << 12).to_bytes(3, "little") for low, high in zip(bits[::2], bits[1::2], strict=True)
            )
    return packed[: geometry.fat_size].ljust(geometry.fat_size, b"\0")


def _little_endian(numbers: array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers = array(numbers.typecode, numbers)
        numbers.byteswap()
    return numbers.tobytes()


def _fsinfo(free: int, first_free: int, geometry: Geometry) -> bytes:
    """FAT specification 5: free count and where to look first."""
    return _FSINFO.pack(0x41615252, 0x61417272, free, first_free, 0xAA550000).ljust(geometry.sector_size, b"\0")
