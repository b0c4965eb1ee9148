"""The shape of a FAT volume: where boot sectors, FATs, root directory and clusters lie.

No I/O.  A :class:`Geometry` that exists is legal: everything lies inside the volume, the FAT holds every cluster, and
no two readers can disagree on the FAT type.  It is read from a boot sector, chosen for a size, or taken from the
journal, which keeps it while a slot has no boot sector (G2).

Source: Microsoft "FAT: General Overview of On-Disk Format" 1.03, called *the FAT specification* below; what Linux,
dosfstools and mtools accept where the specification leaves room.
"""

from __future__ import annotations

import struct
from typing import Any

import attrs

from abboot.core.value import Value
from abboot.core.words import FatType
from abboot.errors import AbbootError, Damaged

SECTOR_SIZES = (512, 1024, 2048, 4096)  # bytes
SIGNATURE = b"\x55\xaa"
SIGNATURE_OFFSET = 510  # for every sector size (FAT specification 3.1)
NO_LABEL = "NO NAME"

# FAT specification 3.5: the number of clusters decides the type and nothing else.
FAT16_FROM = 4085
FAT32_FROM = 65525
FAT32_BELOW = 0x0FFFFFF7 - 2
# "Many FAT drivers are off by 1, 2, 8, 10 or 16" (FAT specification 3.5): our own volumes keep away (pyfatfs is one).
TYPE_LIMIT_MARGIN = 16

_LABEL_FORBIDDEN = frozenset('"*+,./:;<=>?[\\]|')
_COMMON_BPB = struct.Struct("<3s8sHBHBHHBHHHII")  # 36 bytes
_FAT32_BPB = struct.Struct("<IHHIHH12x")  # 28 bytes
_EXTENDED = struct.Struct("<BBBI11s8s")  # 26 bytes
_EXTENDED_SIGNATURE = 0x29
_OEM_NAME = b"MSWIN4.1"  # the one that the most readers accept (FAT specification 3.1)
_HALT = b"\xf4\xeb\xfd"  # hlt; jmp to it: nobody boots this on a PC


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Geometry(Value):
    """The shape of one FAT volume, and its identity (volume id and label).

    Sectors are counted in ``sector_size``; offsets and sizes in properties are bytes from the start of the volume.

    Raises:
        Damaged: the values contradict each other or the FAT specification.
    """

    fat_type: FatType
    sector_size: int  # bytes
    sectors_per_cluster: int
    reserved_sectors: int
    fat_count: int
    root_entries: int  # 0 for FAT32
    total_sectors: int
    sectors_per_fat: int
    volume_id: int
    label: str  # "" is none
    hidden_sectors: int = 0  # sectors before the volume on its disk; nobody who matters reads it
    media: int = 0xF8
    sectors_per_track: int = 63
    heads: int = 255
    root_cluster: int = 2  # FAT32
    fsinfo_sector: int = 1  # FAT32; 0 is none
    backup_sector: int = 6  # FAT32; 0 is none

    def __attrs_post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise Damaged(f"cannot use FAT geometry: {problem}")

    @property
    def cluster_size(self) -> int:
        return self.sectors_per_cluster * self.sector_size

    @property
    def boot_sector_offsets(self) -> tuple[int, ...]:
        """The boot sector, then its backup if there is one: both are zero while the slot is invalid (G2)."""
        if self.fat_type is FatType.FAT32 and self.backup_sector:
            return (0, self.backup_sector * self.sector_size)
        return (0,)

    @property
    def fsinfo_offsets(self) -> tuple[int, ...]:
        """FSInfo, then its copy behind the backup boot sector; empty for FAT12 and FAT16."""
        if self.fat_type is not FatType.FAT32 or not self.fsinfo_sector:
            return ()
        sectors = [self.fsinfo_sector]
        copy = self.backup_sector + 1
        if self.backup_sector and copy < self.reserved_sectors and copy != self.fsinfo_sector:
            sectors.append(copy)
        return tuple(sector * self.sector_size for sector in sectors)

    @property
    def fat_start(self) -> int:
        return self.reserved_sectors * self.sector_size

    @property
    def fat_size(self) -> int:
        """Bytes of one copy of the FAT."""
        return self.sectors_per_fat * self.sector_size

    def fat_offset(self, copy: int) -> int:
        """Where copy 0 or 1 of the FAT starts."""
        return self.fat_start + copy * self.fat_size

    @property
    def root_dir_start(self) -> int:
        """Where the fixed root directory of FAT12 and FAT16 starts; on FAT32 the root cluster's offset."""
        if self.fat_type is FatType.FAT32:
            return self.cluster_offset(self.root_cluster)
        return self.fat_offset(self.fat_count)

    @property
    def root_dir_size(self) -> int:
        """Bytes of the fixed root directory; 0 on FAT32, where it is a chain of clusters."""
        return self.root_entries * 32

    @property
    def data_start(self) -> int:
        return self.fat_offset(self.fat_count) + self.root_dir_size

    @property
    def cluster_count(self) -> int:
        return (self.size - self.data_start) // self.cluster_size

    @property
    def last_cluster(self) -> int:
        """The highest cluster number; the lowest is 2."""
        return self.cluster_count + 1

    def cluster_offset(self, cluster: int) -> int:
        return self.data_start + (cluster - 2) * self.cluster_size

    @property
    def size(self) -> int:
        """Bytes of the volume; the partition may be larger."""
        return self.total_sectors * self.sector_size

    @classmethod
    def choose(
        cls,
        size: int,
        *,
        label: str,
        volume_id: int,
        sector_size: int = 512,
        fat_type: FatType | None = None,
        cluster_size: int | None = None,
        align: int | None = None,
        hidden_sectors: int = 0,
    ) -> Geometry:
        """The geometry of a new volume of ``size`` bytes.

        Left to itself: FAT32 where it has enough clusters, else FAT16, else FAT12; clusters of 4 KiB, smaller where
        the type needs more of them, larger from 8 GiB on.  512-byte clusters cost four times the FAT.

        Args:
            align: the data area starts at a multiple of this many bytes; by default 1 MiB from 64 MiB on, else 4 KiB.

        Raises:
            AbbootError: no FAT volume of that size, type and cluster size exists, or the label is not a FAT label.
        """
        label_problem = _label_problem(label)
        if label_problem:
            raise AbbootError(
                f"cannot format volume: label {label!r}: {label_problem}", "use up to 11 letters, digits, '-' or '_'"
            )
        if align is None:
            align = 1 << 20 if size >= 64 << 20 else 4096
        preferred = next((4096 << n for n in range(3) if size < 8 << (30 + n)), 32768)
        sizes = [preferred >> n for n in range(8)] + [preferred << n for n in range(1, 6)]
        for kind in (fat_type,) if fat_type else (FatType.FAT32, FatType.FAT16, FatType.FAT12):
            for candidate in (cluster_size,) if cluster_size else sizes:
                if candidate < sector_size or candidate > 32768:
                    continue  # 64 KiB clusters are beyond the FAT specification
                shape = _shape(size // sector_size, kind, sector_size, candidate, align)
                if shape is None:
                    continue
                return cls(fat_type=kind, label=label, volume_id=volume_id, hidden_sectors=hidden_sectors, **shape)
        wanted = f"FAT{int(fat_type)}" if fat_type else "FAT"
        clusters = f" with clusters of {cluster_size} bytes" if cluster_size else ""
        raise AbbootError(
            f"cannot format volume: {size} bytes in sectors of {sector_size} cannot be {wanted}{clusters}",
            "choose another partition size, cluster size or FAT type",
        )

    @classmethod
    def parse(cls, boot_sector: bytes, size: int) -> Geometry:
        """Read a boot sector as mkfs.vfat, mtools, Windows and pyfatfs write it.

        Args:
            boot_sector: at least its first 512 bytes.
            size: bytes that there are; the volume must lie inside.

        Raises:
            Damaged: this is no FAT volume, or one whose header contradicts itself.
        """
        if len(boot_sector) < SIGNATURE_OFFSET + 2:
            raise Damaged(f"cannot read FAT volume: {len(boot_sector)} bytes of boot sector found")
        if boot_sector[SIGNATURE_OFFSET : SIGNATURE_OFFSET + 2] != SIGNATURE:
            what = "the boot sector is empty" if not any(boot_sector[:512]) else "no boot sector signature 55 aa"
            raise Damaged(f"cannot read FAT volume: {what}", "it was never formatted, or a stage was cut short")
        if boot_sector[0] not in (0xEB, 0xE9):
            raise Damaged(f"cannot read FAT volume: the boot sector starts with {boot_sector[0]:#04x}, not with a jump")
        (
            _jump, _oem, sector_size, per_cluster, reserved, fat_count, root_entries, total16, media, fat_size16,
            track, heads, hidden, total32,
        ) = _COMMON_BPB.unpack_from(boot_sector)  # fmt: skip
        fat32: dict[str, int] = {}
        sectors_per_fat = fat_size16
        extended_at = _COMMON_BPB.size
        if not fat_size16:
            sectors_per_fat, flags, version, root_cluster, fsinfo, backup = _FAT32_BPB.unpack_from(boot_sector, 36)
            extended_at += _FAT32_BPB.size
            if flags & 0x80:
                raise Damaged(f"cannot read FAT volume: FAT mirroring is off (BPB_ExtFlags {flags:#06x})")
            if version:
                raise Damaged(f"cannot read FAT volume: FAT32 version {version:#06x}, only 0 is known")
            fat32 = {
                "root_cluster": root_cluster,
                "fsinfo_sector": 0 if fsinfo == 0xFFFF else fsinfo,  # 0xffff: none, as Windows says it
                "backup_sector": 0 if backup == 0xFFFF else backup,
            }
        volume_id, label = 0, ""
        _drive, _flags, extended_signature, found_id, raw_label, _name = _EXTENDED.unpack_from(boot_sector, extended_at)
        if extended_signature == _EXTENDED_SIGNATURE:
            volume_id = found_id
            label = _parse_label(raw_label)
        total = total16 or total32
        if per_cluster == 0 or sector_size not in SECTOR_SIZES:
            raise Damaged(f"cannot read FAT volume: {per_cluster} sectors per cluster, sectors of {sector_size} bytes")
        if total * sector_size > size:
            raise Damaged(
                f"cannot read FAT volume: it says {total * sector_size} bytes, and there are {size}",
                "the partition was made smaller, or the image is cut short",
            )
        data = reserved + fat_count * sectors_per_fat + root_entries * 32 // sector_size
        try:
            return cls(
                fat_type=FatType.FAT32 if not fat_size16 else _type_of((total - data) // per_cluster),
                sector_size=sector_size,
                sectors_per_cluster=per_cluster,
                reserved_sectors=reserved,
                fat_count=fat_count,
                root_entries=root_entries,
                total_sectors=total,
                sectors_per_fat=sectors_per_fat,
                volume_id=volume_id,
                label=label,
                hidden_sectors=hidden,
                media=media,
                # pyfatfs writes zeros here, and mtools then refuses the volume: not kept.
                sectors_per_track=track or 63,
                heads=heads or 255,
                **fat32,
            )
        except Damaged as error:
            raise Damaged(
                error.message.replace("cannot use FAT geometry", "cannot read FAT volume"),
                "if it should be a FAT volume, check it with fsck.vfat",
            ) from None

    def boot_sector(self) -> bytes:
        """The boot sector, ``sector_size`` bytes: the last write of a stage, and byte for byte its backup (G2)."""
        is_fat32 = self.fat_type is FatType.FAT32
        short_total = not is_fat32 and self.total_sectors < 0x10000
        sector = bytearray(self.sector_size)
        code_at = _COMMON_BPB.size + _EXTENDED.size + (_FAT32_BPB.size if is_fat32 else 0)
        _COMMON_BPB.pack_into(
            sector,
            0,
            bytes((0xEB, code_at - 2, 0x90)),
            _OEM_NAME,
            self.sector_size,
            self.sectors_per_cluster,
            self.reserved_sectors,
            self.fat_count,
            self.root_entries,
            self.total_sectors if short_total else 0,
            self.media,
            0 if is_fat32 else self.sectors_per_fat,
            self.sectors_per_track,
            self.heads,
            self.hidden_sectors,
            0 if short_total else self.total_sectors,
        )
        extended_at = _COMMON_BPB.size
        if is_fat32:
            _FAT32_BPB.pack_into(
                sector,
                extended_at,
                self.sectors_per_fat,
                0,
                0,
                self.root_cluster,
                self.fsinfo_sector,
                self.backup_sector,
            )
            extended_at += _FAT32_BPB.size
        _EXTENDED.pack_into(
            sector,
            extended_at,
            0x80,
            0,
            _EXTENDED_SIGNATURE,
            self.volume_id,
            (self.label or NO_LABEL).ljust(11).encode("ascii"),
            f"FAT{int(self.fat_type)}".ljust(8).encode("ascii"),
        )
        sector[code_at : code_at + len(_HALT)] = _HALT
        sector[SIGNATURE_OFFSET : SIGNATURE_OFFSET + 2] = SIGNATURE
        return bytes(sector)

    def to_json(self) -> dict[str, Any]:
        """For the journal."""
        return {**attrs.asdict(self), "fat_type": int(self.fat_type)}

    @classmethod
    def from_json(cls, value: object) -> Geometry:
        """The inverse of :meth:`to_json`; unknown keys are ignored (G8).

        Raises:
            Damaged: something is missing, of the wrong type, or contradicts the rest.
        """
        if not isinstance(value, dict):
            raise Damaged(f"cannot read FAT geometry: {type(value).__name__} found, not an object")
        fields: dict[str, Any] = {}
        for field in attrs.fields(cls):
            if field.name not in value:
                if field.default is attrs.NOTHING:
                    raise Damaged(f"cannot read FAT geometry: no {field.name}")
                continue
            found = value[field.name]
            wanted = str if field.name == "label" else int
            if type(found) is not wanted:
                raise Damaged(f"cannot read FAT geometry: {field.name} is {found!r:.40}")
            fields[field.name] = found
        if fields["fat_type"] not in tuple(FatType):
            raise Damaged(f"cannot read FAT geometry: fat_type is {fields['fat_type']}")
        fields["fat_type"] = FatType(fields["fat_type"])
        return cls(**fields)


def _type_of(cluster_count: int) -> FatType:
    """FAT specification 3.5."""
    if cluster_count < FAT16_FROM:
        return FatType.FAT12
    return FatType.FAT16 if cluster_count < FAT32_FROM else FatType.FAT32


def _shape(total: int, kind: FatType, sector_size: int, cluster_size: int, align: int) -> dict[str, int] | None:
    """The sector counts of a new volume of ``total`` sectors; ``None`` if its cluster count does not fit ``kind``."""
    per_cluster = cluster_size // sector_size
    root_entries = 0 if kind is FatType.FAT32 else 512
    root = root_entries * 32 // sector_size
    align_sectors = max(1, align // sector_size)

    def fat_sectors(clusters: int) -> int:
        return -(-(((clusters + 2) * kind + 7) // 8) // sector_size)

    reserved = 32 if kind is FatType.FAT32 else 1
    per_fat = fat_sectors(max(0, total - reserved - root) // per_cluster)  # too many clusters: an upper bound
    data = -(-(reserved + 2 * per_fat + root) // align_sectors) * align_sectors
    clusters = (total - data) // per_cluster
    low = {
        FatType.FAT12: 1,
        FatType.FAT16: FAT16_FROM + TYPE_LIMIT_MARGIN,
        FatType.FAT32: FAT32_FROM + TYPE_LIMIT_MARGIN,
    }
    high = {
        FatType.FAT12: FAT16_FROM - TYPE_LIMIT_MARGIN,
        FatType.FAT16: FAT32_FROM - TYPE_LIMIT_MARGIN,
        FatType.FAT32: FAT32_BELOW,
    }
    if not low[kind] < clusters < high[kind] or total >= 1 << 32:
        return None
    per_fat = fat_sectors(clusters)
    return {
        "sector_size": sector_size,
        "sectors_per_cluster": per_cluster,
        "reserved_sectors": data - root - 2 * per_fat,  # takes up what the alignment leaves over
        "fat_count": 2,
        "root_entries": root_entries,
        "total_sectors": total,
        "sectors_per_fat": per_fat,
    }


def _label_problem(label: str) -> str:
    """Why this is no volume label; empty if it is one (FAT specification 6.4: a short name without its dot)."""
    if len(label) > 11:
        return f"{len(label)} characters found, at most 11 fit"
    if label != label.strip(" ") or label == NO_LABEL:
        return "it would not come back as written"
    if any(not " " <= c <= "~" or c in _LABEL_FORBIDDEN for c in label):
        return "a character that no volume label may have"
    return ""


def _parse_label(raw: bytes) -> str:
    """The label of a boot sector; one that could not be written back is dropped: no Pi boots by its label."""
    label = raw.decode("latin-1").rstrip(" \0")
    return "" if _label_problem(label) else label


def _problem(g: Geometry) -> str:
    """What is wrong with it; empty if nothing is.  In this order, so that nothing divides by zero."""
    is_fat32 = g.fat_type is FatType.FAT32
    u16, u32 = range(0x10000), range(1 << 32)
    if g.sector_size not in SECTOR_SIZES:
        return f"sectors of {g.sector_size} bytes"
    if g.sectors_per_cluster not in (1, 2, 4, 8, 16, 32, 64, 128):
        return f"{g.sectors_per_cluster} sectors per cluster"
    if g.reserved_sectors < 1 or g.reserved_sectors not in u16:
        return f"{g.reserved_sectors} reserved sectors"
    if g.fat_count not in (1, 2):
        return f"{g.fat_count} FATs"
    if g.root_entries not in u16 or (g.root_entries == 0) != is_fat32 or g.root_entries * 32 % g.sector_size:
        return f"{g.root_entries} root directory entries on FAT{int(g.fat_type)}"
    if g.total_sectors not in u32 or g.sectors_per_fat < 1 or g.sectors_per_fat not in (u32 if is_fat32 else u16):
        return f"{g.total_sectors} sectors, {g.sectors_per_fat} of them per FAT"
    if g.media != 0xF0 and g.media not in range(0xF8, 0x100):
        return f"media byte {g.media:#x}"
    if g.volume_id not in u32 or g.hidden_sectors not in u32:
        return f"volume id {g.volume_id:#x}, {g.hidden_sectors} hidden sectors"
    if g.sectors_per_track not in u16 or g.heads not in u16:
        return f"{g.heads} heads, {g.sectors_per_track} sectors per track"
    if _label_problem(g.label):
        return f"label {g.label!r:.40}"
    if g.data_start + g.cluster_size > g.size:
        return f"the FATs end at byte {g.data_start}, the volume at {g.size}"
    if _type_of(g.cluster_count) is not g.fat_type or g.cluster_count >= FAT32_BELOW:
        return f"{g.cluster_count} clusters cannot be FAT{int(g.fat_type)}, readers would differ"
    if (g.cluster_count + 2) * g.fat_type > g.fat_size * 8:
        return f"a FAT of {g.fat_size} bytes is too small for {g.cluster_count} clusters"
    if is_fat32:
        special = [s for s in (g.fsinfo_sector, g.backup_sector) if s]
        if len(set(special)) != len(special) or any(s not in range(1, g.reserved_sectors) for s in special):
            return f"FSInfo in sector {g.fsinfo_sector}, backup in {g.backup_sector}, {g.reserved_sectors} reserved"
        if g.root_cluster not in range(2, g.cluster_count + 2):
            return f"root directory in cluster {g.root_cluster} of {g.cluster_count}"
    return ""
