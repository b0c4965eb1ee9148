"""The guest of the crashlab: Debian's kernel with Python, mtools and abboot's own modules in an initramfs.

Built upon :mod:`tests.kernel.machine`.  Nothing but what the idioms need is taken of each package; abboot and the two
pure-Python libraries that its block layer needs come from this checkout's virtual environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import attr
import attrs
import pyfatfs

import abboot
from tests.kernel.machine import Kernel, fetch_kernel, fetch_packages, run_guest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".cache"
PACKAGES = ("python3", "mtools")
MODULES = ("virtio_blk", "vfat", "nls_cp437", "nls_ascii")  # Debian's defaults: codepage=437, iocharset=ascii, utf8
TIMEOUT_S = 300.0
LIB = "lib/aarch64-linux-gnu"

# What is taken of the packages (a regular expression of the path), and where it goes.  Links do not come along: a
# library goes to the name that programs ask for.
TAKEN = (
    (r"\./usr/bin/python3\.\d+", r"usr/bin/python3"),
    (r"\./usr/bin/mtools", r"usr/bin/mcopy"),
    (r"\./usr/lib/(python3\.\d+/(?!idlelib/|pydoc_data/|ensurepip/|lib-dynload/_test).*\.(?:py|so))", r"usr/lib/\1"),
    (r"\./usr/lib/aarch64-linux-gnu/(ld-linux-aarch64\.so\.1)", r"lib/\1"),
    (r"\./usr/lib/aarch64-linux-gnu/(libc|libm)\.so\.6", rf"{LIB}/\1.so.6"),
    (r"\./usr/lib/aarch64-linux-gnu/(lib(?:z|expat|ffi)\.so\.\d+)\.[\d.]+", rf"{LIB}/\1"),
    # mtools turns names into code page 850 with iconv.
    (r"\./usr/lib/aarch64-linux-gnu/(gconv/(?:IBM850\.so|gconv-modules.*))", r"usr/lib/aarch64-linux-gnu/\1"),
)


def kernel() -> Kernel:
    """Fetched once; the one of ``make vfat``."""
    return fetch_kernel(CACHE / "kernel" / "debian-cloud-arm64")


def userland() -> Mapping[str, bytes]:
    """The guest's files, by their path; what Debian has of them is fetched once."""
    folder = CACHE / "crashlab" / "userland"
    fetch_packages(folder, PACKAGES, _place)
    debian = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return debian | dict(_modules())


def _place(member: str) -> str:
    return next((match.expand(to) for taken, to in TAKEN if (match := re.fullmatch(taken, member))), "")


def _modules() -> Iterator[tuple[str, bytes]]:
    packages = [Path(str(module.__file__)).parent for module in (abboot, attr, attrs, pyfatfs)]
    for package in packages:
        for path in package.rglob("*.py"):
            yield f"lab/{package.name}/{path.relative_to(package).as_posix()}", path.read_bytes()
    for path in HERE.glob("*.py"):
        yield f"lab/tests/crashlab/{path.name}", path.read_bytes()


def run(
    images: Mapping[str, Path],
    logs: Mapping[str, Path],
    *,
    files: Mapping[str, bytes],
    options: str,
    watch_s: int,
    kept: Path,
) -> None:
    """Run every idiom that has an image: its name is the disk's serial number.

    Args:
        logs: where the recordings go.
        files: what :func:`userland` gave.
        options: of every mount, such as ``defaults``.
        watch_s: how many seconds the writes are still recorded after the last idiom has returned.
        kept: a folder for what the guest says.

    Raises:
        tests.kernel.machine.GuestError: it did not come to its end.
    """
    kept.mkdir(parents=True, exist_ok=True)
    task = kept / "task.sh"
    task.write_text(f"cd /lab\nexec python3 -m tests.crashlab.inside {options} {watch_s} 2>&1\n")
    run_guest(
        kernel(),
        images,
        task=task,
        modules=MODULES,
        files=files,
        kept=kept,
        timeout_s=TIMEOUT_S + 2 * watch_s,
        recordings=logs,
    )
