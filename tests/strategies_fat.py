"""Trees, shapes and judges for FAT volumes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import attrs
from hypothesis import strategies as st

from abboot.core.tree import problem_of_path
from abboot.core.words import FatType
from abboot.fat.geometry import Geometry
from abboot.fat.plan import Content, VolumePlan, plan_volume
from abboot.fat.read import FatVolume
from abboot.fat.volume import Held
from abboot.fat.write import WriteReport, compare, invalidate, validate, write_content
from tests.devices import FileDevice, MemoryDevice

Tree = dict[str, bytes]  # path -> content

MIB = 1 << 20


@attrs.frozen
class Shape:
    """A kind of volume that is small enough for many examples."""

    fat_type: FatType
    size: int
    sector_size: int = 512
    cluster_size: int | None = None

    def geometry(self, label: str = "SLOT-A") -> Geometry:
        return Geometry.choose(
            self.size,
            label=label,
            volume_id=0xABB0_07A5,
            sector_size=self.sector_size,
            fat_type=self.fat_type,
            cluster_size=self.cluster_size,
            align=4096,
        )


SHAPES = {
    "fat12": Shape(FatType.FAT12, 2 * MIB, cluster_size=1024),
    "fat16": Shape(FatType.FAT16, 4 * MIB),
    "fat16-4k-sectors": Shape(FatType.FAT16, 20 * MIB, sector_size=4096),
    "fat32": Shape(FatType.FAT32, 40 * MIB),
}

# Letters whose upper case all the judges agree on, and everything else that a name may legally have.
_ALPHABET = "abcdefgXYZ0123456789 .-_~+,;=[]!#$%&'()@^`{}éßÖжЯ漢語"
_names = st.one_of(
    st.sampled_from(
        ["config.txt", "CONFIG.BAK", "kernel8.img", "foo.dtb", "foo.dtbo", "FOO~1.DTB", "longer name.tar.gz", ".hidden"]
    ),
    st.text(_ALPHABET, min_size=1, max_size=12),
    st.text("ab~1.", min_size=1, max_size=12),
    st.text(_ALPHABET, min_size=70, max_size=80),
)
_paths = st.lists(_names, min_size=1, max_size=4).map("/".join)
_contents = st.one_of(
    st.just(b""),
    st.binary(min_size=1, max_size=40),
    st.builds(
        lambda seed, size: (seed * (size // len(seed) + 1))[:size],
        st.binary(min_size=1, max_size=7),
        st.integers(1, 20000),
    ),
)


def _without_collisions(tree: Tree) -> Tree:
    kept: Tree = {}
    spelled: dict[str, str] = {}
    for path, content in tree.items():
        parts = path.split("/")
        prefixes = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        folded = [prefix.upper().casefold() for prefix in prefixes]
        same = all(spelled.get(key, prefix) == prefix for key, prefix in zip(folded, prefixes, strict=True))
        files = {p.upper().casefold() for p in kept}
        if same and folded[-1] not in spelled and not files & set(folded[:-1]):
            spelled.update(zip(folded, prefixes, strict=True))
            kept[path] = content
    return kept


trees = st.dictionaries(_paths.filter(lambda path: not problem_of_path(path)), _contents, max_size=20).map(
    _without_collisions
)


def contents_of(tree: Mapping[str, bytes], *, at_cluster: Mapping[str, int] | None = None) -> list[Content]:
    """The tree as the planner wants it, each file in two chunks."""

    def chunks(data: bytes) -> Callable[[], Iterator[bytes]]:
        return lambda: iter((data[: len(data) // 2], data[len(data) // 2 :]))

    return [
        Content(path=path, size=len(data), chunks=chunks(data), at_cluster=(at_cluster or {}).get(path))
        for path, data in tree.items()
    ]


def stage(
    device: MemoryDevice | FileDevice, tree: Mapping[str, bytes], geometry: Geometry, held: Held | None = None
) -> tuple[VolumePlan, WriteReport]:
    """All epochs, but for the read-back in the middle."""
    plan = plan_volume(contents_of(tree), geometry, held)
    diff = compare(device, plan, held)
    report = WriteReport()
    if not diff.empty:
        report += invalidate(device, plan.geometry)
        report += write_content(device, plan, diff)
        report += validate(device, plan.geometry)
    return plan, report


def held_by(device: MemoryDevice | FileDevice) -> Held:
    return FatVolume(device).held()


def new_image(path: Path, size: int) -> FileDevice:
    """An image full of what somebody else left there, where it costs nothing: at the beginning."""
    path.write_bytes(b"\xaa" * min(size, MIB))
    os.truncate(path, size)
    return FileDevice(path)


# --- judges that share no code with us ---

_ENVIRONMENT = {**os.environ, "LC_ALL": "C.UTF-8"}


def run(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=_ENVIRONMENT, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def assert_clean(image: Path) -> None:
    """``fsck.vfat -n`` has nothing to say but its version and the totals."""
    lines = run("fsck.vfat", "-n", image).splitlines()
    assert len(lines) == 2, lines


def tree_by_mcopy(image: Path, target: Path) -> Tree:
    """The whole volume as mtools reads it."""
    target.mkdir()
    if "No files" not in run("mdir", "-a", "-i", image, "::"):
        run("mcopy", "-s", "-Q", "-n", "-i", image, "::*", target)
    return {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}
