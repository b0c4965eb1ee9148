"""A FAT volume as the firmware of a Pi reads it: the second reader, written to disagree.

It shares no code with :mod:`abboot.fat` and is as lenient as a boot loader: it believes the first FAT, never looks at
the second, at FSInfo or at dirty marks, and takes a chain that breaks off for the end of the file.  So a state of the
card that only a forgiving reader would boot is seen as one, and the writer is judged by somebody who was not there when
it was written.  Never writes; every walk is bounded, whatever the volume says (G10).

How the firmware's own reader is built is not published.  This follows the FAT specification 1.03; the FAT type is
decided by the number of clusters, as a Pi's boot log shows ("type: 16 ... clusters 33241").  Where it is more forgiving
than a real one, the judgement errs on the side of "it would have booted that".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import attrs

from abboot.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MAX_DIRECTORY_SIZE: Final = 65536 * 32  # bytes
_MAX_DIRECTORIES_SIZE: Final = 4 * _MAX_DIRECTORY_SIZE  # all together
_MAX_DEPTH: Final = 32
_BLOCK: Final = 4096  # bytes of FAT per read
_DIRECTORY_BIT: Final = 0x10
_LABEL_BIT: Final = 0x08
_LONG_NAME_BITS: Final = 0x0F


class NotReadable(Exception):
    """The firmware sees no FAT volume here, or its medium failed."""


@attrs.frozen
class _Entry:
    names: tuple[str, ...]  # lower case; the one to show first, then the short one
    is_directory: bool
    cluster: int
    size: int


class FirmwareFat:
    """One volume through the eyes of the firmware, as it was when it was first looked at.

    Args:
        read: ``read(offset, length)`` of the partition.
        size: of the partition, in bytes; nothing is read outside.

    Raises:
        NotReadable: there is no FAT volume; from every method: ``read`` failed.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._source, self._size = read, size
        self._fat_blocks: dict[int, bytes] = {}
        self._directories: dict[int, tuple[_Entry, ...]] = {}
        self._directory_bytes = 0
        boot = self._read(0, 512)
        if len(boot) < 512 or boot[510:512] != b"\x55\xaa":
            raise NotReadable("no boot sector signature")
        sector, per_cluster, reserved, fats, root_entries, sectors16 = struct.unpack_from("<HBHBHH", boot, 11)
        fat_sectors16, sectors32, fat_sectors32 = struct.unpack_from("<H8xII", boot, 22)
        fat_sectors = fat_sectors16 or fat_sectors32
        legal = sector in (512, 1024, 2048, 4096) and per_cluster.bit_count() == 1 and reserved and fats and fat_sectors
        if not legal:
            raise NotReadable("the boot sector describes no FAT volume")
        root_sectors = -(-root_entries * 32 // sector)
        data_sector = reserved + fats * fat_sectors + root_sectors
        clusters = ((sectors16 or sectors32) - data_sector) // per_cluster
        if clusters < 1:
            raise NotReadable("the boot sector leaves no room for data")
        self._bits = 12 if clusters < 4085 else 16 if clusters < 65525 else 32
        self._cluster_size = sector * per_cluster
        self._end = min(clusters, size // self._cluster_size) + 2  # cluster numbers stay below this
        self._fat, self._data = reserved * sector, data_sector * sector
        self._root_dir = (self._data - root_sectors * sector, root_entries * 32)
        self._root_cluster = struct.unpack_from("<I", boot, 44)[0] if self._bits == 32 else 0

    def paths(self) -> frozenset[str]:
        """Every file that can be reached, in lower case; of a loop of directories one round."""
        found: set[str] = set()
        reached: set[int] = set()
        pending = [("", self._root_cluster, 0)]
        while pending and self._directory_bytes < _MAX_DIRECTORIES_SIZE:
            prefix, cluster, depth = pending.pop()
            for entry in self._entries(cluster):
                path = prefix + entry.names[0]
                if not entry.is_directory:
                    found.add(path)
                elif depth < _MAX_DEPTH and entry.cluster not in reached:
                    reached.add(entry.cluster)
                    pending.append((path + "/", entry.cluster, depth + 1))
        return frozenset(found)

    def read_file(self, path: str, limit: int) -> bytes | None:
        """The first ``limit`` bytes of a file, fewer where it or its chain ends before; ``None``: no such file.

        Of two entries that answer to a name the first one counts, as Linux and mtools have it.
        """
        *parents, last = path.lower().split("/")
        cluster = self._root_cluster
        for part in parents:
            below = next(
                (entry for entry in self._entries(cluster) if part in entry.names and entry.is_directory), None
            )
            if below is None:
                return None
            cluster = below.cluster
        found = next(
            (entry for entry in self._entries(cluster) if last in entry.names and not entry.is_directory), None
        )
        return None if found is None else self._chain(found.cluster, min(found.size, limit))

    def _entries(self, cluster: int) -> tuple[_Entry, ...]:
        """The directory at a cluster, decoded once; cluster 0 is the root, as in the ``..`` of its children."""
        entries = self._directories.get(cluster)
        if entries is None:
            at_root = self._bits != 32 and cluster == 0
            content = self._read(*self._root_dir) if at_root else self._chain(cluster, _MAX_DIRECTORY_SIZE)
            self._directory_bytes += len(content)
            entries = self._directories[cluster] = tuple(_decode(content, self._bits))
        return entries

    def _chain(self, cluster: int, size: int) -> bytes:
        """At most ``size`` bytes of the chain: no loop outlives that."""
        content = bytearray()
        while 2 <= cluster < self._end and len(content) < size:
            first = cluster
            while (following := self._next(cluster)) == cluster + 1 and (following - first) * self._cluster_size < size:
                cluster = following
            run = (cluster - first + 1) * self._cluster_size
            piece = self._read(self._data + (first - 2) * self._cluster_size, min(run, size - len(content)))
            if not piece:
                break
            content += piece
            cluster = following
        return bytes(content)

    def _next(self, cluster: int) -> int:
        """What the first FAT says follows; anything that is no cluster (free, bad, end, reserved) ends the chain."""
        position = cluster * self._bits // 8
        number, offset = divmod(position, _BLOCK)
        block = self._fat_blocks.get(number)
        if block is None:
            # Four more bytes, because an entry of FAT12 may cross the end of the block.
            block = self._fat_blocks[number] = self._read(self._fat + number * _BLOCK, _BLOCK + 4)
        value = int.from_bytes(block[offset : offset + max(2, self._bits // 8)], "little")
        if self._bits == 12:
            value = value >> 4 if cluster & 1 else value & 0xFFF
        value &= 0x0FFF_FFFF
        return value if 2 <= value < self._end else 0

    def _read(self, offset: int, length: int) -> bytes:
        length = min(length, self._size - offset)
        try:
            return self._source(offset, length) if offset >= 0 and length > 0 else b""
        except DeviceError as error:
            raise NotReadable(str(error)) from error


def _decode(content: bytes, bits: int) -> Iterator[_Entry]:
    long_parts: dict[int, bytes] = {}
    for offset in range(0, len(content) - 31, 32):
        raw = content[offset : offset + 32]
        attributes = raw[11]
        if raw[0] == 0:
            return
        if raw[0] == 0xE5:
            long_parts = {}
        elif attributes & 0x3F == _LONG_NAME_BITS:
            if raw[0] & 0x40:
                long_parts = {}
            long_parts[raw[0] & 0x1F] = raw[13:14] + raw[1:11] + raw[14:26] + raw[28:32]
        else:
            short, long_name = _short_name(raw), _long_name(long_parts, raw[:11])
            long_parts = {}
            if attributes & _LABEL_BIT or short in (".", ".."):
                continue
            cluster_high, cluster_low, size = *struct.unpack_from("<H", raw, 20), *struct.unpack_from("<HI", raw, 26)
            cluster = cluster_low | (cluster_high << 16 if bits == 32 else 0)
            names = (long_name, short) if long_name else (short,)
            yield _Entry(names, bool(attributes & _DIRECTORY_BIT), cluster, size)


def _short_name(raw: bytes) -> str:
    """Names are compared in lower case, so the flags for it (FAT specification: NTRes) change nothing here."""
    name = b"\xe5" + raw[1:11] if raw[0] == 5 else raw[:11]
    base, extension = (part.decode("cp437").rstrip(" ").lower() for part in (name[:8], name[8:]))
    return f"{base}.{extension}" if extension else base


def _long_name(parts: dict[int, bytes], short: bytes) -> str:
    """The long name in lower case, or ``""``: parts are missing, or they belong to another short name."""
    checksum = 0
    for byte in short:
        checksum = (((checksum & 1) << 7) + (checksum >> 1) + byte) & 0xFF
    whole = sorted(parts) == list(range(1, len(parts) + 1))
    if not whole or any(part[0] != checksum for part in parts.values()):
        return ""
    units = b"".join(parts[number][1:] for number in sorted(parts)).decode("utf-16-le", "replace")
    return units.partition("\0")[0].lower()
