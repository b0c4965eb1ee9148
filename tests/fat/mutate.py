"""FAT volumes for tests: made by dosfstools and mtools, changed by hand, or broken by a seeded generator.

Shares no code with what it tests.  As a script it writes a corpus of broken volumes for other readers and fuzzers:

    python tests/fat/mutate.py DIRECTORY [COUNT [FAT_TYPE]]
"""

from __future__ import annotations

import functools
import os
import random
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

SECTOR = 512
END_OF_CHAIN = {12: 0xFFF, 16: 0xFFFF, 32: 0x0FFFFFFF}


def make_volume(path: Path, tree: Mapping[str, bytes], size: int, *mkfs_options: str) -> None:
    """``mkfs.vfat``, then the files by mtools, which stores ``config.txt`` as an upper-case name with flags."""
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.vfat", *mkfs_options, path], check=True, capture_output=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in tree.items():
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        if tree:
            mtools("mcopy", "-s", "-i", path, *sorted(Path(folder).iterdir()), "::/")


def mtools(*command: str | Path) -> str:
    environment = {**os.environ, "MTOOLS_SKIP_CHECK": "1", "LC_ALL": "C.UTF-8"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def short_entry(name: bytes, *, attributes: int = 0x20, flags: int = 0, cluster: int = 0, size: int = 0) -> bytes:
    """One 32-byte directory entry; ``name`` is 11 bytes as on the medium."""
    assert len(name) == 11
    return struct.pack("<11sBB7xH4xHI", name, attributes, flags, cluster >> 16, cluster & 0xFFFF, size)


def checksum(short_name: bytes) -> int:
    total = 0
    for byte in short_name:
        total = ((total << 7) | (total >> 1)) + byte & 0xFF
    return total


def long_entries(name: str, short_name: bytes) -> list[bytes]:
    """The entries of a long name, as they lie before the short one."""
    units = name.encode("utf-16-le", "surrogatepass")
    if len(units) % 26:
        units += b"\0\0"
    units += b"\xff" * (-len(units) % 26)
    parts = [units[at : at + 26] for at in range(0, len(units), 26)]
    entries = [
        struct.pack("<B10sBBB12sH4s", order, part[:10], 0x0F, 0, checksum(short_name), part[10:22], 0, part[22:])
        for order, part in enumerate(parts, 1)
    ]
    entries[-1] = bytes([len(parts) | 0x40]) + entries[-1][1:]
    return entries[::-1]


class Crafted:
    """An empty volume with one sector per cluster, to be filled entry by entry."""

    def __init__(self, fat_type: int = 16) -> None:
        self.fat_type = fat_type
        self.image = bytearray(_empty(fat_type))
        reserved, fats, self.root_entries = struct.unpack_from("<HBH", self.image, 14)
        sectors = struct.unpack_from("<H", self.image, 22)[0] or struct.unpack_from("<I", self.image, 36)[0]
        self.fat = [(reserved + copy * sectors) * SECTOR for copy in range(fats)]
        self.root_dir = (reserved + fats * sectors) * SECTOR
        self.data = self.root_dir + self.root_entries * 32

    def offset(self, cluster: int) -> int:
        return self.data + (cluster - 2) * SECTOR

    def link(self, cluster: int, following: int) -> None:
        for start in self.fat:
            position = start + cluster * self.fat_type // 8
            width = max(2, self.fat_type // 8)
            value = following
            if self.fat_type == 12:
                other = int.from_bytes(self.image[position : position + 2], "little")
                value = other & 0xF | following << 4 if cluster & 1 else other & 0xF000 | following
            self.image[position : position + width] = value.to_bytes(width, "little")

    def chain(self, *clusters: int) -> None:
        for cluster, following in zip(clusters, [*clusters[1:], END_OF_CHAIN[self.fat_type]], strict=True):
            self.link(cluster, following)

    def write(self, cluster: int, content: bytes) -> None:
        self.image[self.offset(cluster) : self.offset(cluster) + len(content)] = content

    def root(self, *entries: bytes) -> None:
        """Replace the root directory."""
        content = b"".join(entries)
        if self.fat_type == 32:
            self.write(2, content.ljust(SECTOR, b"\0"))
        else:
            self.image[self.root_dir : self.data] = content.ljust(self.root_entries * 32, b"\0")


@functools.cache
def _empty(fat_type: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "volume")
        sectors = {12: 2048, 16: 8192, 32: 68000}[fat_type]
        make_volume(path, {}, sectors * SECTOR, "-F", str(fat_type), "-s", "1", "-a")
        return path.read_bytes()


SEED_TREE = {
    "config.txt": b"arm_64bit=1\n",
    "KERNEL8.IMG": bytes(range(256)) * 9,
    "a long name, with spaces.dtb": b"long" * 300,
    "overlays/vc4-kms-v3d.dtbo": b"overlay" * 100,
    "overlays/README": b"read me\n" * 200,
    "overlays/deep/er/empty": b"",
}


@functools.cache
def seed_volume(fat_type: int) -> bytes:
    """A valid volume of the least size that its type allows, about."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "volume")
        size = {12: 64 << 10, 16: 2400 << 10, 32: 34 << 20}[fat_type]
        make_volume(path, SEED_TREE, size, "-F", str(fat_type), "-s", "1", "-a")
        return path.read_bytes()


Patch = tuple[int, bytes]


class PatchedDevice:
    """A volume with patches laid over it, not a copy of its 34 MiB.  Counts what is read, refuses what lies outside."""

    name = "card.img partition 2"
    block_size_bytes = SECTOR

    def __init__(self, image: bytes | bytearray, patches: Sequence[Patch] = ()) -> None:
        self._image = image
        self._patches = patches
        self.size_bytes = len(image)
        self.reads = 0
        self.bytes_read = 0

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise ValueError(f"{length} bytes at {offset} are outside of {self.size_bytes}")
        self.reads += 1
        self.bytes_read += length
        content = bytearray(self._image[offset : offset + length])
        for at, patch in self._patches:
            start, end = max(at, offset), min(at + len(patch), offset + length)
            if start < end:
                content[start - offset : end - offset] = patch[start - at : end - at]
        return bytes(content)


_NASTY = [0, 1, 2, 3, 4, 0x7F, 0x80, 0xE5, 0xF7, 0xF8, 0xFF, 0xFFF7, 0xFFFE, 0xFFFF, 0x0FFFFFF7, 0x0FFFFFFF, 0xFFFFFFFF]


@functools.cache
def _used_sectors(fat_type: int) -> list[int]:
    image = seed_volume(fat_type)
    empty = bytes(SECTOR)
    return [at for at in range(0, len(image), SECTOR) if image[at : at + SECTOR] != empty]


def mutation(fat_type: int, seed: int) -> list[Patch]:
    """What the mutation of this number changes in the seed volume: one to eight small patches where it is not empty."""
    random_ = random.Random(f"{fat_type}/{seed}")
    image = seed_volume(fat_type)
    patches: list[Patch] = []
    for _ in range(random_.randint(1, 8)):
        if random_.random() < 0.2:
            at = random_.choice([11, 13, 14, 16, 17, 19, 21, 22, 32, 36, 40, 42, 44, 48, 50, 65, 82])  # BPB fields
        else:
            # Half the patches go to the first bytes of a sector: FAT entries in use, first directory entries.
            at = random_.choice(_used_sectors(fat_type)) + random_.randrange(random_.choice([64, SECTOR]))
        width = random_.choice([1, 1, 2, 4])
        kind = random_.randrange(4)
        if kind == 0:
            patch = bytes([image[at] ^ 1 << random_.randrange(8)])
        elif kind == 1:
            patch = random_.randbytes(width)
        elif kind == 2:
            patch = (random_.choice(_NASTY) & (1 << 8 * width) - 1).to_bytes(width, "little")
        else:  # one directory entry, or 32 bytes of FAT, over another
            source = random_.choice(_used_sectors(fat_type)) + random_.randrange(0, SECTOR, 32)
            at -= at % 32
            patch = image[source : source + 32]
        patches.append((at, patch))
    return patches


def mutations(fat_type: int, count: int) -> Iterator[tuple[int, list[Patch]]]:
    for seed in range(count):
        yield seed, mutation(fat_type, seed)


def main(folder: str, count: str = "100", fat_type: str = "16") -> None:
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for seed, patches in mutations(int(fat_type), int(count)):
        image = bytearray(seed_volume(int(fat_type)))
        for at, patch in patches:
            image[at : at + len(patch)] = patch
        target.joinpath(f"fat{fat_type}-{seed:06}.img").write_bytes(image)


if __name__ == "__main__":
    main(*sys.argv[1:])
