"""What a FAT volume holds now, as plain values: said by the reader, used by the planner to keep clusters.

No I/O.  An object that the reader returns is consistent: every chain is in range, long enough for its file, without
cycles, and no cluster belongs to two owners; else the reader raises :class:`abboot.errors.Damaged`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from abboot.core.value import Value

if TYPE_CHECKING:
    from abboot.fat.geometry import Geometry

# What the reader follows and the planner writes: bounds of our memory and time, not of the format (G10).
MAX_ENTRIES = 65536  # files and directories of one volume
MAX_DIRECTORY_SIZE = 65536 * 32  # bytes (FAT specification 6.2; Linux FAT_MAX_DIR_SIZE)
MAX_DIRECTORIES_SIZE = 4 * MAX_DIRECTORY_SIZE  # bytes, all directories together

Extents = tuple[tuple[int, int], ...]  # (first cluster, number of clusters), in file order


@attrs.frozen(kw_only=True, eq=False, repr=False)
class HeldFile(Value):
    """One regular file.  ``path`` is relative, ``/``-separated, as stored; ``size`` is in bytes.

    An empty file has no extents.  A chain that is longer than the size needs is given whole.
    """

    path: str
    size: int
    extents: Extents = ()


@attrs.frozen(kw_only=True, eq=False, repr=False)
class HeldDirectory(Value):
    """One directory; the root's path is ``""``.  The root of FAT12 and FAT16 lies outside the clusters: no extents."""

    path: str
    extents: Extents = ()


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Held(Value):
    """Everything that a volume holds."""

    geometry: Geometry
    files: tuple[HeldFile, ...] = ()
    directories: tuple[HeldDirectory, ...] = ()
