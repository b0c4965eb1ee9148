"""The selector volume of a new disk, as a plan.

It is FAT16, never FAT12 (H-42: some firmware cannot read it), with clusters of 4096 bytes on a 4096-byte boundary: so
``autoboot.txt`` and each entry of the journal are alone in a block of any medium (G3).  The journal lies at the far
end, away from FAT, root directory and ``autoboot.txt``: what a card destroys around a torn write (H-47) is not both.
The very last cluster stays free (H-43: bootloaders before 2024-01-18 cannot read a volume whose last cluster is used).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from abboot.core.journal import FILE_NAME
from abboot.core.words import FatType
from abboot.fat.geometry import Geometry
from abboot.fat.plan import Content, VolumePlan, plan_volume

CLUSTER = 4096  # bytes


def plan_selector(
    size: int,
    sector_size: int,
    label: str,
    volume_id: int,
    autoboot: bytes,
    journal: bytes,
    extra: Sequence[Content] = (),
    *,
    hidden_sectors: int = 0,
) -> VolumePlan:
    """Plan a selector of ``size`` bytes from the bytes of its two files.

    Args:
        size: of the partition, in bytes.
        sector_size: logical block of the medium, in bytes.
        label: volume label.
        volume_id: volume id.
        autoboot: the whole ``autoboot.txt``.
        journal: the whole journal file; its length is what the ring will ever have.
        extra: files that somebody else needs here (``bootcode.bin`` of a Pi 3).
        hidden_sectors: sectors of the disk before the partition.

    Raises:
        AbbootError: no such FAT16 volume exists: about 17 MiB are the least.
        InvalidTree: the extra files do not fit.
    """
    geometry = Geometry.choose(
        size,
        label=label,
        volume_id=volume_id,
        sector_size=sector_size,
        fat_type=FatType.FAT16,
        cluster_size=CLUSTER,
        align=CLUSTER,
        hidden_sectors=hidden_sectors,
    )
    clusters = -(-len(journal) // CLUSTER)
    contents = [
        _content("autoboot.txt", autoboot),
        # It ends one cluster before the last one.
        _content(FILE_NAME, journal, at_cluster=geometry.last_cluster - clusters),
        *extra,
    ]
    return plan_volume(contents, geometry)


def _content(path: str, data: bytes, at_cluster: int | None = None) -> Content:
    def chunks() -> Iterator[bytes]:
        yield data

    return Content(path=path, size=len(data), chunks=chunks, at_cluster=at_cluster)
