"""A planned volume onto its slot, in epochs, each closed by a flush (G2):

1. :func:`invalidate`: boot sector and backup are zero, read back.  No path of the firmware reaches the slot now.
2. :func:`write_content`: data, directories, both FATs, FSInfo.  A cut here leaves a slot without a boot sector.
3. The caller reads everything back from the medium, with the planned boot sector laid over it.
4. :func:`validate`: the boot sector, read back, then its backup.  Nothing else ever writes sector 0.

:func:`compare` says beforehand what differs, sector by sector: only that is written, and nothing if nothing does.
Memory: three buffers of 4 MiB, one being filled while another is written, and 2 MiB for what is compared with them.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING

import attrs

from abboot.core.tree import shown
from abboot.core.value import Value
from abboot.errors import AbbootError, VerificationFailed
from abboot.fat.ahead import BUFFERS, ahead

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from abboot.core.protocols import BlockDevice
    from abboot.fat.geometry import Geometry
    from abboot.fat.plan import VolumePlan
    from abboot.fat.volume import Extents, Held

BUFFER_SIZE = 4 << 20  # bytes: the largest write; an SD card's erase unit or a multiple of it
_COMPARE_SIZE = 1 << 20  # bytes per read
_PROGRESS_STEP = 1 << 20  # bytes between two calls

Progress = Callable[[int, int, str], None]  # bytes done, bytes in all, path
Range = tuple[int, int]  # (offset, length) in bytes


@attrs.frozen(kw_only=True, eq=False, repr=False)
class WriteReport(Value):
    """What went to the device; reports of several epochs add up."""

    bytes_written: int = 0
    write_calls: int = 0
    files_written: int = 0

    @property
    def changed(self) -> bool:
        return self.write_calls > 0

    def __add__(self, other: WriteReport) -> WriteReport:
        return WriteReport(
            bytes_written=self.bytes_written + other.bytes_written,
            write_calls=self.write_calls + other.write_calls,
            files_written=self.files_written + other.files_written,
        )


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Diff(Value):
    """What has to be written: sorted ranges that do not touch, without the boot sectors."""

    ranges: tuple[Range, ...]
    boot_sectors: tuple[Range, ...]  # those that are not on the medium as planned

    @property
    def empty(self) -> bool:
        """The slot holds exactly the plan: there is nothing to do, not even a flush."""
        return not self.ranges and not self.boot_sectors

    @property
    def bytes(self) -> int:
        """Bytes of content that will be written."""
        return sum(length for _, length in self.ranges)


def compare(device: BlockDevice, plan: VolumePlan, held: Held | None, progress: Progress | None = None) -> Diff:
    """Find what differs between the plan and the medium.  Reads; writes nothing.

    Only what ``held`` uses is read: in clusters that are free now lies nothing worth comparing with.

    Args:
        held: what a valid slot holds, as for the plan.  ``None``: the slot is not valid, everything that the plan uses
            is written, and neither medium nor sources are read.
        progress: called with the bytes that were compared, those that will be in all, and the path.

    Raises:
        AbbootError: the plan does not fit this device, or a source changed since it was planned.
    """
    geometry = plan.geometry
    if geometry.size > device.size_bytes or geometry.sector_size % device.block_size_bytes:
        raise AbbootError(
            f"cannot stage to {device.name}: a volume of {geometry.size} bytes in sectors of {geometry.sector_size} "
            f"planned, a device of {device.size_bytes} bytes in blocks of {device.block_size_bytes} found",
            "format the slot for this disk",
        )
    sector = geometry.sector_size
    boot_sectors = tuple((offset, sector) for offset in geometry.boot_sector_offsets)
    items = _items(plan)
    planned = _Ranges(place for item in items for place in item.ranges)
    if held is None:
        return Diff(ranges=planned.pairs, boot_sectors=boot_sectors)
    used = _used(held)
    differing = [free for place in planned.pairs for free in used.gaps(*place)]
    total, done = planned.length - sum(length for _, length in differing), 0
    with ahead(_blocks(item for item in items if used.touches(item.ranges))) as blocks:
        for offset, view, path in blocks:
            for run, run_length in used.clip(offset, len(view)):
                for start in range(run, run + run_length, _COMPARE_SIZE):
                    length = min(_COMPARE_SIZE, run + run_length - start)
                    wanted = bytes(view[start - offset : start - offset + length])  # bytes are compared by memcmp
                    differing += _differing(start, wanted, device.read(start, length), sector)
                done += run_length
            if progress:
                progress(done, total, path)
    return Diff(
        ranges=_Ranges(differing).pairs,
        boot_sectors=tuple(place for place in boot_sectors if device.read(*place) != plan.boot_sector),
    )


def invalidate(device: BlockDevice, geometry: Geometry) -> WriteReport:
    """Zero the boot sector and its backup, and read the zeros back (G2).  Idempotent.

    A cut between the two leaves a slot whose backup nobody reads: the firmware looks at the first sector only.

    Raises:
        VerificationFailed: the medium still holds a boot sector.
    """
    zeros = bytes(geometry.sector_size)
    for offset in geometry.boot_sector_offsets:
        device.write(offset, zeros)
    device.flush()
    device.forget_cache()
    for offset in geometry.boot_sector_offsets:
        if device.read(offset, len(zeros)) != zeros:
            raise VerificationFailed(
                f"cannot invalidate {device.name}: its boot sector at byte {offset} does not read back as zeros",
                "the medium does not keep what it is given; replace it",
            )
    count = len(geometry.boot_sector_offsets)
    return WriteReport(bytes_written=count * len(zeros), write_calls=count)


def write_content(device: BlockDevice, plan: VolumePlan, diff: Diff, progress: Progress | None = None) -> WriteReport:
    """Write what differs, but for the boot sectors, and flush.  The slot must have been invalidated.

    Raises:
        AbbootError: a source gives more or fewer bytes than planned.  The slot stays invalid.
    """
    total, done, reported, calls = diff.bytes, 0, 0, 0
    ranges = _Ranges(diff.ranges)
    items = [item for item in _items(plan) if ranges.touches(item.ranges)]
    with ahead(_blocks(items)) as blocks:
        for offset, view, path in blocks:
            for start, length in ranges.clip(offset, len(view)):
                # A cut here leaves a slot without a boot sector (G2).
                device.write(start, view[start - offset : start - offset + length])
                done += length
                calls += 1
            if progress and (done - reported >= _PROGRESS_STEP or (done == total and reported < total)):
                progress(done, total, path)
                reported = done
    device.flush()
    return WriteReport(bytes_written=done, write_calls=calls, files_written=sum(item.is_file for item in items))


def validate(device: BlockDevice, geometry: Geometry) -> WriteReport:
    """Write the boot sector, which makes the slot visible, and its backup behind it (G2).

    Raises:
        VerificationFailed: the boot sector does not read back as written; it has been zeroed again.
    """
    boot_sector = geometry.boot_sector()
    for offset in geometry.boot_sector_offsets:
        device.write(offset, boot_sector)
        # Before this flush the slot is invisible, after it whole: everything else was flushed and read back before.
        device.flush()
        device.forget_cache()
        if device.read(offset, len(boot_sector)) != boot_sector:
            invalidate(device, geometry)
            raise VerificationFailed(
                f"cannot validate {device.name}: its boot sector at byte {offset} does not read back as written",
                "the medium does not keep what it is given; replace it",
            )
    count = len(geometry.boot_sector_offsets)
    return WriteReport(bytes_written=count * len(boot_sector), write_calls=count)


# --- the plan as bytes on the device ---


@attrs.frozen(kw_only=True, eq=False, repr=False)
class _Item(Value):
    """Something that fills ranges of the device: ``size`` bytes from ``chunks``, zeros behind them."""

    path: str
    ranges: tuple[Range, ...]
    size: int
    chunks: Callable[[], Iterable[bytes]]
    is_file: bool = False


def _items(plan: VolumePlan) -> list[_Item]:
    """Everything but the boot sectors: clusters in the order of the medium, then root directory, FATs and FSInfo."""
    geometry = plan.geometry

    def places(extents: Extents) -> tuple[Range, ...]:
        return tuple((geometry.cluster_offset(start), count * geometry.cluster_size) for start, count in extents)

    def item(path: str, ranges: tuple[Range, ...], data: bytes) -> _Item:
        return _Item(path=path, ranges=ranges, size=len(data), chunks=lambda: (data,))

    def fixed(path: str, offset: int, data: bytes) -> _Item:
        return item(path, ((offset, len(data)),), data)

    clusters = [item(folder.path, places(folder.extents), folder.data) for folder in plan.directories if folder.extents]
    clusters += [
        _Item(
            path=file.content.path,
            ranges=places(file.extents),
            size=file.content.size,
            chunks=file.content.chunks,
            is_file=True,
        )
        for file in plan.files
        if file.extents
    ]
    clusters.sort(key=lambda item: item.ranges[0])
    roots = [
        fixed("root directory", geometry.root_dir_start, folder.data)
        for folder in plan.directories
        if not folder.extents
    ]
    fats = [fixed("FAT", geometry.fat_offset(copy), plan.fat) for copy in range(geometry.fat_count)]
    fsinfo = [fixed("FSInfo", offset, plan.fsinfo) for offset in geometry.fsinfo_offsets]
    return clusters + roots + fats + fsinfo


def _blocks(items: Iterable[_Item]) -> Iterator[tuple[int, memoryview, str]]:
    """The items as ``(offset, bytes, path)``, in as few and large pieces as possible.

    The bytes of a piece are good until as many others are made as there are buffers.
    """
    buffers = deque(memoryview(mmap.mmap(-1, BUFFER_SIZE)) for _ in range(BUFFERS))  # page aligned, for O_DIRECT
    start = fill = 0
    path = ""
    for item in items:
        source = _Source(item)
        for offset, length in item.ranges:
            if fill and offset != start + fill:
                yield start, buffers[0][:fill], path
                buffers.rotate()
                fill = 0
            if not fill:
                start = offset
            path = item.path
            rest = length
            while rest:
                count = min(rest, BUFFER_SIZE - fill)
                source.read_into(buffers[0][fill : fill + count])
                fill += count
                rest -= count
                if fill == BUFFER_SIZE:
                    yield start, buffers[0], path
                    buffers.rotate()
                    start += fill
                    fill = 0
        source.finish()
    if fill:
        yield start, buffers[0][:fill], path


class _Source:
    """The bytes of an item, in pieces of the length that is asked for."""

    def __init__(self, item: _Item) -> None:
        self._path = item.path
        self._chunks = iter(item.chunks())
        self._chunk = memoryview(b"")
        self._left = item.size

    def read_into(self, target: memoryview) -> None:
        """Fill ``target``; zeros behind the end."""
        filled = 0
        wanted = min(len(target), self._left)
        while filled < wanted:
            if not self._chunk:
                self._chunk = self._next()
                if not self._chunk:
                    raise self._changed(f"it ends {self._left - filled} bytes early")
            count = min(len(self._chunk), wanted - filled)
            target[filled : filled + count] = self._chunk[:count]
            self._chunk = self._chunk[count:]
            filled += count
        self._left -= filled
        if filled < len(target):
            target[filled:] = bytes(len(target) - filled)

    def finish(self) -> None:
        """Check that nothing is left over."""
        if self._chunk or self._next():
            raise self._changed("it is longer than it was")

    def _next(self) -> memoryview:
        """The next chunk that is not empty; an empty one at the end."""
        return memoryview(next((chunk for chunk in self._chunks if chunk), b""))

    def _changed(self, found: str) -> AbbootError:
        return AbbootError(
            f"cannot stage {shown(self._path)}: {found}, it changed while it was being staged",
            "stage again when nothing writes to the tree",
        )


# --- ranges ---


def _differing(offset: int, wanted: bytes, found: bytes, sector: int) -> Iterator[Range]:
    """The runs of sectors of ``wanted`` that are not in ``found``."""
    if wanted == found:
        return
    run = 0  # bytes
    for at in range(0, len(wanted), sector):
        if wanted[at : at + sector] != found[at : at + sector]:
            run += sector
        elif run:
            yield offset + at - run, run
            run = 0
    if run:
        yield offset + len(wanted) - run, run


class _Ranges:
    """Ranges that do not overlap, sorted, those that touch made one."""

    def __init__(self, ranges: Iterable[Range]) -> None:
        joined: list[Range] = []
        for offset, length in sorted(ranges):
            if joined and sum(joined[-1]) == offset:
                joined[-1] = (joined[-1][0], joined[-1][1] + length)
            else:
                joined.append((offset, length))
        self.pairs = tuple(joined)
        self._starts = [offset for offset, _ in joined]

    @property
    def length(self) -> int:
        return sum(length for _, length in self.pairs)

    def clip(self, offset: int, length: int) -> Iterator[Range]:
        """What of them lies inside ``[offset, offset + length)``."""
        first = max(0, bisect_right(self._starts, offset) - 1)
        for index in range(first, bisect_left(self._starts, offset + length)):
            low, high = max(self._starts[index], offset), min(sum(self.pairs[index]), offset + length)
            if low < high:
                yield low, high - low

    def gaps(self, offset: int, length: int) -> Iterator[Range]:
        """What of ``[offset, offset + length)`` lies in none of them."""
        at = offset
        for start, count in self.clip(offset, length):
            if at < start:
                yield at, start - at
            at = start + count
        if at < offset + length:
            yield at, offset + length - at

    def touches(self, places: Iterable[Range]) -> bool:
        return any(next(self.clip(*place), None) for place in places)


def _used(held: Held) -> _Ranges:
    """Where a volume has content, and everything before its clusters."""
    geometry = held.geometry
    extents = chain.from_iterable([*(folder.extents for folder in held.directories), *(f.extents for f in held.files)])
    clusters = [(geometry.cluster_offset(start), count * geometry.cluster_size) for start, count in extents]
    return _Ranges([(0, geometry.data_start), *clusters])
