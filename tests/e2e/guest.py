"""The guest: Debian's arm64 kernel, Python and abboot from its wheel, made into trees and a root file system, once.

Everything comes out of packages that are only unpacked (mmdebstrap, pip), so the host's architecture does not matter,
and nothing of the host is changed.  ``folder`` keeps what was fetched; what depends on abboot's sources is built again
when these changed.

Debian 12 is the guest whatever the host is: its Linux 6.1 boots on every QEMU's raspi3b.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import attrs

from abboot.core.words import Slot
from abboot.image import DiskSpec, ImageSpec, PartitionSpec, SelectorSpec, SlotsSpec, build
from abboot.units import install_units
from tests.forklift.device import USB, ForkliftStore
from tests.forklift.device import text as store_text
from tests.kernel.machine import GuestError, cpio, modules_in_order

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SUITE = "bookworm"
PYTHON = "3.11"  # Debian 12's
PACKAGES = ("linux-image-arm64", "python3", "busybox-static", "systemd", "kmod")
MIB = 1 << 20

# The controllers of both machines, the watchdog, which is what restarts a Pi, and the file systems.
MODULES = (
    "bcm2835_wdt", "bcm2835", "virtio_pci", "virtio_scsi", "sd_mod", "vfat", "nls_cp437", "nls_ascii", "nls_utf8",
    "crc32c_generic", "ext4",
)  # fmt: skip
# Units of Debian's that need a device manager, D-Bus or users, and what waits for a terminal.
MASKED = (
    "systemd-udevd.service", "systemd-udev-trigger.service", "systemd-hwdb-update.service", "systemd-logind.service",
    "dbus.service", "dbus.socket", "systemd-update-utmp.service", "systemd-random-seed.service", "getty.target",
    "systemd-modules-load.service", "systemd-networkd.service", "systemd-sysusers.service", "ldconfig.service",
)  # fmt: skip
ENABLED = {"multi-user.target.wants": "typed.service", "boot-complete.target.requires": "application.service"}
# What nobody in the guest reads.
_LEFT_OUT = re.compile(
    r"usr/(share/(doc|man|locale|perl|bug|lintian|i18n|info|zoneinfo|bash-completion|zsh)|lib/udev/hwdb|include)(/|\.|$)"
    r"|usr/lib/[^/]*/(perl|gconv|perl-base)/|usr/bin/(perl|localectl|gdb)"
    r"|usr/lib/python3\.\d+/(test|idlelib|tkinter|lib2to3|distutils|ensurepip|pydoc_data|turtledemo)/"
    r"|.*/__pycache__/"
)


@attrs.frozen(kw_only=True)
class Guest:
    """What cards are made of: the folder with ``tree`` and ``root.ext4``, and what came out of Debian."""

    folder: Path
    base: Path


def build_guest(folder: Path) -> Guest:
    """The guest in ``folder``; what is there already is kept.

    Raises:
        GuestError: the packages cannot be fetched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / f"base-{_digest([], f'{SUITE} {PACKAGES} {_LEFT_OUT.pattern}')}"
    _make_once(base, _fetch_base)
    sources = [HERE / "guest.py", ROOT / "pyproject.toml"]
    sources += [path for top in (ROOT / "abboot", HERE / "guest") for path in sorted(top.rglob("*"))]
    made = folder / f"guest-{_digest([path for path in sources if '__pycache__' not in path.parts], base.name)}"
    _make_once(made, lambda to: _assemble(base, to))
    return Guest(folder=made, base=base)


def _digest(paths: Iterable[Path], start: str = "") -> str:
    whole = hashlib.sha256(start.encode())
    for path in paths:
        if path.is_file():
            whole.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return whole.hexdigest()[:16]


def _make_once(folder: Path, make: Callable[[Path], None]) -> None:
    if folder.exists():
        return
    work = Path(tempfile.mkdtemp(prefix=f"making-{folder.name}.", dir=folder.parent))
    try:
        make(work)
        os.chmod(work, 0o755)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


# -- from Debian ------------------------------------------------------------------------------------------------------


def _fetch_base(folder: Path) -> None:
    log = folder / "log"
    command = ["mmdebstrap", "--mode=chrootless", "--skip=check/qemu,check/chrootless", "--variant=extract"]
    command += ["--format=tar", "--architectures=arm64", f"--include={','.join(PACKAGES)}", SUITE, "-"]
    # A session of its own, because a mmdebstrap that fails sends SIGHUP to its whole process group.
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, start_new_session=True) as process,
    ):
        broken = ""
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    if (name := _place(member.name)) is not None:
                        _extract(archive, member, folder / name)
        except tarfile.TarError as error:
            broken = str(error)
    if process.returncode or broken:
        said = log.read_text(errors="replace")
        reasons = re.findall(r"^(?:E:|Err:).*", said, re.MULTILINE) or [broken, said[-2000:]]
        raise GuestError("\n".join(["cannot fetch the guest: mmdebstrap failed", *reasons]))
    log.unlink()
    root = folder / "root"
    for name in ("bin", "sbin", "lib"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("dev", "proc", "sys", "run", "tmp", "mnt", "root", "boot", "busybox", "var/lib", "var/log"):
        (root / name).mkdir(parents=True, exist_ok=True)


def _place(member: str) -> str | None:
    """Where a file of the packages goes, merged into /usr; ``None`` for one that nobody needs."""
    name = member.removeprefix("./")
    last = name.rpartition("/")[2]
    if re.fullmatch(r"boot/vmlinuz-.*", name):
        return last
    if re.match(r"(usr/)?lib/modules/", name):
        return f"modules/{last}" if last.endswith((".ko", ".ko.xz")) else None
    if re.search(r"/broadcom/bcm2837-rpi-3-b\.dtb$", name):
        return last
    merged = re.sub(r"^(bin|sbin|lib)/", r"usr/\1/", name)
    wanted = re.match(r"(usr|etc)/.", merged) and not re.match(r"usr/lib/linux-image", merged)
    return f"root/{merged}" if wanted and not _LEFT_OUT.match(merged) else None


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    if member.isdir():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() or path.is_symlink():
        return
    if member.issym():
        path.symlink_to(member.linkname)
    elif member.islnk():
        shutil.copy(path.parents[path.parts.index("root")] / member.linkname, path)
    elif (data := archive.extractfile(member)) is not None:
        with path.open("wb") as file:
            shutil.copyfileobj(data, file)
        path.chmod(0o755 if member.mode & 0o111 else 0o644)


# -- with abboot ------------------------------------------------------------------------------------------------------


def _assemble(base: Path, folder: Path) -> None:
    (image,) = base.glob("vmlinuz-*")
    with image.open("rb") as source, gzip.GzipFile(folder / "kernel8.img", "wb", compresslevel=6, mtime=0) as target:
        shutil.copyfileobj(source, target)
    shutil.copy(base / "bcm2837-rpi-3-b.dtb", folder)
    (folder / "initramfs8").write_bytes(_initramfs(base))
    root = folder / "root"
    shutil.copytree(base / "root", root, symlinks=True)
    _install_abboot(root)
    shutil.copytree(HERE / "guest" / "root", root, symlinks=True, dirs_exist_ok=True)
    _install_units(root)
    # A Python that compiles while it starts takes seconds; only one of the same version writes what it reads.
    if sys.version_info[:2] == tuple(map(int, PYTHON.split("."))):
        places = [root / "usr/lib" / f"python{PYTHON}", root / "usr/lib/python3/dist-packages"]
        compile_all = [sys.executable, "-m", "compileall", "-q", "-j", "2", "--invalidation-mode", "unchecked-hash"]
        subprocess.run([*compile_all, "-s", root, "-p", "/", *places], check=False, stdout=subprocess.DEVNULL)
    _write_overlays(folder)
    shutil.copytree(folder / "overlays", root / "overlays")
    _write_tree(folder, folder / "tree")
    _make_file_system(root, folder / "root.ext4", ROOT_SIZE)
    shutil.rmtree(root)


def _install_units(root: Path) -> None:
    units = root / "etc" / "systemd" / "system"
    for unit in MASKED:
        (units / unit).symlink_to("/dev/null")
    for folder, unit in ENABLED.items():
        (units / folder).mkdir(exist_ok=True)
        (units / folder / unit).symlink_to(f"../{unit}")
    (units / "default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
    install_units(str(root), verify=False)
    forklift = root / "forklift"
    forklift.mkdir(exist_ok=True)
    install_units(str(forklift), sets=("device", "forklift"), verify=False)
    overlays = forklift / "etc" / "systemd" / "system" / "local-fs.target.wants"
    (overlays / "overlay-usr.service").symlink_to("/etc/systemd/system/overlay-usr.service")
    # Bundle 1 is applied and brings no boot files, bundle 2 has some.
    stages = root / "var" / "lib" / "forklift" / "stages"
    stages.mkdir(parents=True)
    store = ForkliftStore(stages)
    store.path.write_bytes(store_text(store.build({}), [1]))
    store.build(USB)


def _install_abboot(root: Path) -> None:
    """abboot as its users get it: its wheel, and from PyPI what the wheel depends on."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    packages = root / "usr/lib/python3/dist-packages"
    with tempfile.TemporaryDirectory() as built:
        subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", built, ROOT], check=True)
        (wheel,) = Path(built).glob("abboot-*.whl")
        install = [*pip, "install", "--root-user-action=ignore", "--no-compile", "--target", packages]
        foreign = ["--only-binary=:all:", f"--python-version={PYTHON}", "--platform=manylinux2014_aarch64"]
        subprocess.run([*install, *foreign, wheel], check=True)
    shutil.rmtree(packages / "bin", ignore_errors=True)
    script = root / "usr/bin/abboot"
    script.write_text("#!/usr/bin/python3\nimport sys\nfrom abboot.cli import main\nsys.exit(main())\n")
    script.chmod(0o755)


def _initramfs(base: Path) -> bytes:
    """It inserts the modules and starts what is on the root partition: what an initramfs of Debian does."""
    modules = {path.name.split(".")[0].replace("-", "_"): path for path in base.glob("modules/*.ko*")}
    ordered = list(modules_in_order(modules, MODULES))
    files = {
        "init": (HERE / "guest" / "initramfs.sh").read_bytes(),
        "bin/busybox": (base / "root/usr/bin/busybox").read_bytes(),
        "modules/order": "".join(f"{name}\n" for name, _ in ordered).encode(),
        **{f"modules/{name}.ko": data for name, data in ordered},
    }
    return gzip.compress(cpio(files, folders=("dev", "new", "proc", "sys")), 6, mtime=0)


# -- trees and cards --------------------------------------------------------------------------------------------------

CONFIG = """arm_64bit=1
kernel=kernel8.img
initramfs initramfs8 followkernel
device_tree=bcm2837-rpi-3-b.dtb
kernel_watchdog_timeout=60
"""
SELECTOR_SIZE, SLOT_SIZE, ROOT_SIZE = 17 * MIB, 24 * MIB, 170 * MIB
PAYLOAD_SIZE = 300_000  # bytes that differ between two versions, so that a stage can be cut somewhere
# What `stage --base booted` lays over the tree of the booted slot: /overlays/NAME in the guest.
OVERLAYS: Mapping[str, Mapping[str, bytes]] = {
    "v2": {"payload.bin": random.Random("v2").randbytes(PAYLOAD_SIZE)},
    "v3": {"payload.bin": random.Random("v3").randbytes(PAYLOAD_SIZE)},
    "hangs": {"kernel8.img": bytes.fromhex("00000014")},  # arm64: a branch to itself
}


def _write_tree(guest: Path, folder: Path) -> Path:
    """The boot tree of both slots: kernel and initramfs, and the firmware by its names, which QEMU does not run."""
    folder.mkdir()
    (folder / "config.txt").write_text(CONFIG)
    (folder / "cmdline.txt").write_text("quiet loglevel=1 oops=panic panic=1\n")
    (folder / "start4.elf").write_text("no firmware: QEMU starts the kernel itself\n")
    (folder / "fixup4.dat").write_text("none\n")
    (folder / "bcm2712-rpi-5-b.dtb").write_text("none\n")  # so that the model boots it on a Pi 5 as well
    (folder / "payload.bin").write_bytes(random.Random("v1").randbytes(PAYLOAD_SIZE))
    for name in ("kernel8.img", "initramfs8", "bcm2837-rpi-3-b.dtb"):
        os.link(guest / name, folder / name)
    return folder


def _write_overlays(folder: Path) -> None:
    for name, files in OVERLAYS.items():
        for path, data in files.items():
            place = folder / "overlays" / name / path
            place.parent.mkdir(parents=True)
            place.write_bytes(data)


def make_card(guest: Guest, primary: Slot = Slot.A) -> Path:
    """A card with the same tree on both slots; made once, never to be written to."""
    path = guest.folder / f"card-{primary}.img"
    if not path.exists():
        spec = ImageSpec(
            disk=DiskSpec(id="ab007e57"),
            selector=SelectorSpec(size=SELECTOR_SIZE),
            slots=SlotsSpec(size=SLOT_SIZE, primary=primary),
            partitions=(PartitionSpec(label="root", size=ROOT_SIZE, image=str(guest.folder / "root.ext4")),),
        )
        build(spec, path, tree=guest.folder / "tree")
    return path


def _make_file_system(folder: Path, image: Path, size: int) -> None:
    command = ["mke2fs", "-q", "-t", "ext4", "-L", "root", "-E", "root_owner=0:0", "-d", str(folder), str(image)]
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    subprocess.run(
        [*command, f"{size // 1024}k"], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment
    )


def _main(folder: Path) -> None:
    """For the Makefile: the guest is there when the tests begin, and what it replaces is gone."""
    guest = build_guest(folder)
    for old in folder.iterdir():
        if old.name.startswith(("base-", "guest-", "making-")) and old not in (guest.base, guest.folder):
            shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    _main(ROOT / ".cache" / "e2e")
