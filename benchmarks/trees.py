"""The five updates of a boot partition that people make, as folders."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import mktree

KERNELS = tuple(mktree.KERNELS)
README = "overlays/README"
GROWTH = 1.05  # new kernels and initramfs are rarely smaller

# name -> what it is; the first one goes onto an empty slot, the others onto a slot that holds the first.
UPDATES = {
    "full": "the whole tree onto an empty slot",
    "identical": "the same tree again",
    "config.txt": "one line more in config.txt",
    "kernels": "other kernels and initramfs, 5 % larger",
    "README": "another overlays/README",
}


def make_all(folder: Path) -> dict[str, Path]:
    """A tree for each update."""
    base = mktree.make(folder / "tree")
    trees = {"full": base, "identical": base}
    for name in list(UPDATES)[2:]:
        trees[name] = Path(shutil.copytree(base, folder / f"tree-{name}"))
    with (trees["config.txt"] / "config.txt").open("ab") as file:
        file.write(b"dtparam=audio=on\n")
    for kernel, size_bytes in mktree.KERNELS.items():
        (trees["kernels"] / kernel).write_bytes(random.Random(kernel).randbytes(int(size_bytes * GROWTH)))
    (trees["README"] / README).write_bytes(random.Random(README).randbytes(mktree.SMALL[README]))
    return trees


def files_of(tree: Path) -> dict[str, int]:
    """Path and size of every file."""
    return {str(path.relative_to(tree)): path.stat().st_size for path in sorted(tree.rglob("*")) if path.is_file()}


def changed_bytes(old: Path, new: Path) -> int:
    """The size of the files that differ: nobody who writes whole files writes less."""
    return sum(size for path, size in files_of(new).items() if (old / path).read_bytes() != (new / path).read_bytes())
