"""A real Linux kernel in an emulated machine: fetch it once, start it with disks, get what it printed.

The machine is QEMU's ``virt`` with one emulated arm64 CPU, Debian's cloud kernel and an initramfs with busybox: of what
runs anywhere, without KVM and without root, it is the fastest to boot (2 s).  Kernel, modules and busybox come out of
Debian packages that are only unpacked, so the host's architecture and its apt do not matter.

Rules: nothing is installed on the host; a guest ends within its time or is killed; its disks are the caller's files,
and it writes to them; what it says is kept in files.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs

HERE = Path(__file__).parent
SUITE = "trixie"
PACKAGES = ("linux-image-cloud-arm64", "busybox-static")


class GuestError(Exception):
    """The guest could not be made, did not come to its end, or its task failed."""


@attrs.frozen(kw_only=True)
class Kernel:
    """A kernel and what goes with it, unpacked."""

    image: Path
    modules: Mapping[str, Path]  # name -> .ko.xz
    busybox: Path

    @property
    def release(self) -> str:
        return self.image.name.removeprefix("vmlinuz-")


def fetch_kernel(folder: Path) -> Kernel:
    """The kernel in ``folder``; fetched from Debian if the folder is not there (40 MB are kept of it).

    Raises:
        GuestError: it cannot be fetched.
    """
    fetch_packages(folder, PACKAGES, _place)
    (image,) = folder.glob("vmlinuz-*")
    return Kernel(
        image=image,
        modules={path.name.removesuffix(".ko.xz").replace("-", "_"): path for path in folder.glob("modules/*.ko.xz")},
        busybox=folder / "busybox",
    )


def fetch_packages(folder: Path, packages: Sequence[str], place: Callable[[str], str]) -> None:
    """Unpack files of Debian's arm64 packages, and of what these depend on, into ``folder``, unless it is there.

    Args:
        place: where a regular file of the packages (``./usr/bin/python3``) goes in the folder; ``""``: nowhere.

    Raises:
        GuestError: they cannot be fetched; there is no folder then.
    """
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        _unpack(work, packages, place)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _unpack(folder: Path, packages: Sequence[str], place: Callable[[str], str]) -> None:
    log = folder / "log"
    command = ["mmdebstrap", "--mode=chrootless", "--skip=check/qemu,check/chrootless", "--variant=extract"]
    command += ["--format=tar", "--architectures=arm64", f"--include={','.join(packages)}", SUITE, "-"]
    # A session of its own, because a mmdebstrap that fails sends SIGHUP to its whole process group.
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, start_new_session=True) as process,
    ):
        broken = ""
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    path = folder / name if member.isfile() and (name := place(member.name)) else None
                    if path and (data := archive.extractfile(member)):
                        path.parent.mkdir(parents=True, exist_ok=True)
                        with path.open("wb") as file:
                            shutil.copyfileobj(data, file)
        except tarfile.TarError as error:
            broken = str(error)
    if process.returncode or broken:
        said = log.read_text(errors="replace")
        reasons = re.findall(r"^(?:E:|Err:).*", said, re.MULTILINE) or [broken, said[-2000:]]
        raise GuestError("\n".join([f"cannot fetch {', '.join(packages)} for the guest: mmdebstrap failed", *reasons]))
    log.unlink()


def _place(member: str) -> str:
    """Where a file of the packages goes; empty for one that nobody needs."""
    name = member.rpartition("/")[2]
    if re.fullmatch(r"\./boot/vmlinuz-[^/]+", member) or member == "./usr/bin/busybox":
        return name
    return f"modules/{name}" if re.fullmatch(r"\./usr/lib/modules/.*\.ko\.xz", member) else ""


def run_guest(
    kernel: Kernel,
    disks: Mapping[str, Path],
    *,
    task: Path,
    modules: Sequence[str],
    files: Mapping[str, bytes],
    kept: Path,
    timeout_s: float,
    recordings: Mapping[str, Path] | None = None,
) -> str:
    """Boot, run ``task``, power off; returns what the task printed.

    Args:
        disks: serial number (20 characters at most) to raw image.  The guest sees ``/dev/vda`` and so on, in this
            order, and finds the serial number in ``/sys/block/vda/serial``.
        task: a script for busybox's shell.
        modules: what it needs of the kernel; what these need comes along.
        files: more files for the guest, by their path from its root.
        kept: a folder for ``console.txt``, where the kernel writes, and ``task.txt``, what the task printed.
        timeout_s: the guest is killed after so many seconds.
        recordings: serial number to a file for what is written to that disk, and in which order: a log in the format of
            the kernel's dm-log-writes, which :mod:`tests.crashlab.logwrites` reads.  Begun anew.

    Raises:
        GuestError: the guest did not come to its end in time, or the task failed; with the last lines of both.
    """
    kept.mkdir(parents=True, exist_ok=True)
    console, printed = kept / "console.txt", kept / "task.txt"
    for file in (console, printed):
        file.write_bytes(b"")
    command = ["qemu-system-aarch64", "-M", "virt", "-accel", "tcg", "-cpu", "cortex-a53", "-smp", "1", "-m", "512"]
    command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", f"file:{console}"]
    # A port of its own for the task, because the emulated UART takes one character at a time: 0.1 MB/s.
    command += ["-device", "virtio-serial-pci", "-chardev", f"file,id=printed,path={printed}"]
    command += ["-device", "virtserialport,chardev=printed"]
    # panic=-1: a guest that panics ends at once.
    command += ["-kernel", str(kernel.image), "-append", "console=ttyAMA0 quiet loglevel=1 panic=-1"]
    for index, (serial, image) in enumerate(disks.items()):
        log = (recordings or {}).get(serial)
        if log is None:
            command += ["-drive", f"file={image},format=raw,if=none,id=disk{index}"]
        else:
            log.write_bytes(b"")
            for node in (
                f"driver=raw,node-name=image{index},file.driver=file,file.filename={image}",
                f"driver=file,node-name=log{index},filename={log}",
                f"driver=blklogwrites,node-name=disk{index},file=image{index},log=log{index},log-sector-size=512",
            ):
                command += ["-blockdev", node]
        command += ["-device", f"virtio-blk-pci,drive=disk{index},serial={serial}"]
    initramfs = kept / "initramfs"
    initramfs.write_bytes(_initramfs(kernel, task, modules, files))

    def failed(how: str) -> GuestError:
        last = [line for file in (printed, console) for line in _text(file).splitlines()[-20:]]
        return GuestError("\n".join([how, *last, f"all of it is in {kept}"]))

    try:
        ended = subprocess.run(
            [*command, "-initrd", str(initramfs)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise GuestError(f"cannot start the guest: no {command[0]} (Debian package qemu-system-arm)") from error
    except subprocess.TimeoutExpired as error:
        raise failed(f"the guest was killed after {timeout_s:.0f} s") from error
    if ended.returncode:
        raise failed(f"the emulator failed: {ended.stdout.decode(errors='replace')}")
    if "the task ended with 0\n" not in _text(console):
        raise failed("the guest did not come to its end, or its task failed")
    return _text(printed)


def _text(file: Path) -> str:
    # A terminal ends its lines with "\r\n".
    return file.read_bytes().replace(b"\r\n", b"\n").decode(errors="backslashreplace")


# --- the initramfs ---


def _initramfs(kernel: Kernel, task: Path, modules: Sequence[str], files: Mapping[str, bytes]) -> bytes:
    ordered = list(modules_in_order(kernel.modules, modules))
    content = {
        "init": (HERE / "init.sh").read_bytes(),
        "task": task.read_bytes(),
        "bin/busybox": kernel.busybox.read_bytes(),
        "modules/order": "".join(f"{name}\n" for name, _data in ordered).encode(),
        **{f"modules/{name}.ko": data for name, data in ordered},
        **files,
    }
    return cpio(content, folders=("dev", "mnt", "proc", "sys", "tmp"))


def modules_in_order(modules: Mapping[str, Path], wanted: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Each wanted module and what it needs, behind those that it depends on: it says so itself (modinfo's "depends").

    Without compression: the kernel may not know xz; busybox's insmod does not.

    Raises:
        GuestError: there is no such module.
    """
    seen: set[str] = set()

    def visit(name: str) -> Iterator[tuple[str, bytes]]:
        if name in seen:
            return
        seen.add(name)
        if name not in modules:
            raise GuestError(f"cannot make the guest: its kernel has no module {name}")
        data = modules[name].read_bytes()
        if modules[name].suffix == ".xz":
            data = lzma.decompress(data)
        found = re.search(rb"\0depends=([^\0]*)\0", data)
        for other in filter(None, found[1].decode().split(",") if found else ()):
            yield from visit(other.replace("-", "_"))
        yield name, data

    for module in wanted:
        yield from visit(module)


def cpio(files: Mapping[str, bytes], folders: Iterable[str]) -> bytes:
    """An archive in the "newc" format (Linux, Documentation/driver-api/early-userspace/buffer-format.rst)."""
    needed = {parent.as_posix() for path in files for parent in Path(path).parents} - {"."}
    entries = [(path, 0o040755, b"") for path in sorted({*folders, *needed})]
    entries += [(path, 0o100755, data) for path, data in files.items()]
    archive = bytearray()
    for number, (path, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        name = os.fsencode(path) + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        archive += b"070701" + b"".join(b"%08x" % field for field in fields) + name
        archive += bytes(-len(archive) % 4)
        archive += data
        archive += bytes(-len(archive) % 4)
    return bytes(archive)
