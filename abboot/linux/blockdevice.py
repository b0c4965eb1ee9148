"""Disks and their partitions: an image file, or a block device of this kernel.

Rules
- A partition is a bounded range of bytes: every call is checked against its bounds before a byte is touched.
- An image file is never truncated, extended, mapped or punched: only ``pread`` and ``pwrite`` inside its partitions.
- A partition of a device is its own node, never the whole disk plus an offset: a reader with cached pages of the node
  would not see such writes.  Writing opens it with ``O_EXCL``, which a mounted node refuses, and which keeps others
  from mounting it meanwhile (G9).
- Devices are read and written with ``O_DIRECT`` where they have it: reading tells what the medium holds (G2, G5), and
  an IOPS-limited card keeps its speed with few large writes.  Where it is refused: buffered, with explicit flushes.
- No ioctl: the size comes from ``lseek``, the logical block size and the partitions from sysfs.

Sources: open(2), "O_DIRECT"; Linux Documentation/ABI/stable/sysfs-block; systemd, "Locking Block Device Access"
(https://systemd.io/BLOCK_DEVICE_LOCKING/) for the lock on the whole-disk node.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import time
from typing import TYPE_CHECKING

from abboot.errors import Damaged, DeviceError, Locked
from abboot.linux.mounts import mounts_of
from abboot.linux.sysblock import SysPartition, find_partition, logical_block_size, partition_name
from abboot.linux.sysroot import device_error, is_live, read_small, read_word, under

if TYPE_CHECKING:
    from collections.abc import Iterator

    from abboot.core.protocols import BlockDevice, Buffer, Disk, Mount

IMAGE_BLOCK_BYTES = 512  # an image does not say; 512 is what SD cards, eMMC and USB sticks have
MAX_TRANSFER_BYTES = 4 * 1024 * 1024  # one write call: large enough for full speed, small enough for progress
_LARGE_BYTES = 1024 * 1024  # from here on a buffered write is sent on its way at once
LOCK_PATIENCE_S = 1.0  # udev holds a whole-disk node shared while it probes it: well under a second
_LOCK_POLL_S = 0.05


def open_disk(path: str, sysroot: str = "/") -> Disk:
    """Open the disk or image at ``path`` for reading; nothing is locked, written or created.

    With a ``sysroot``, ``/dev/...`` means the node below it, and a plain file there stands for a device.

    Raises:
        DeviceError: there is no such file, it cannot be opened, or it is neither a disk nor an image file.
    """
    place = disk_path(path, sysroot)
    try:
        mode = os.stat(place).st_mode
    except (OSError, ValueError) as error:
        cause = error if isinstance(error, OSError) else OSError(errno.EINVAL, str(error))
        raise device_error("open", path, cause, "name a disk such as /dev/mmcblk0, or an image file") from error
    if stat.S_ISBLK(mode):
        return BlockDisk(place, sysroot)
    if not stat.S_ISREG(mode):
        raise DeviceError(
            f"cannot open {path}: it is neither a block device nor a file",
            "name a disk such as /dev/mmcblk0, or an image file",
        )
    if not is_live(sysroot) and os.path.dirname(os.path.abspath(place)) == os.path.abspath(under(sysroot, "dev")):
        return BlockDisk(place, sysroot)
    return ImageDisk(place)


def disk_path(path: str, sysroot: str) -> str:
    """Where the disk that a person calls ``path`` is: ``/dev/...`` is looked for below the sysroot.

    So that ``--sysroot`` together with ``--disk /dev/mmcblk0`` does not mean this system's card.
    """
    if is_live(sysroot) or not path.startswith("/dev/"):
        return path
    return under(sysroot, path)


class FileWindow:
    """The bytes ``[start, start + size)`` of an open file or device node, as a ``BlockDevice``.

    Owns ``fd``.  Not for use by several threads at once.
    """

    def __init__(self, fd: int, *, name: str, start: int, size: int, block_size: int, direct: bool) -> None:
        self._fd = fd
        self._name = name
        self._start = start
        self._size = size
        self._block = block_size
        self._direct = direct
        self._scratch: mmap.mmap | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def size_bytes(self) -> int:
        return self._size

    @property
    def block_size_bytes(self) -> int:
        return self._block

    @property
    def direct(self) -> bool:
        """Whether ``O_DIRECT`` is in use; becomes false when the device refuses it."""
        return self._direct

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes.

        Raises:
            ValueError: outside the window.
            DeviceError: the system could not read them, or the file ends before them.
        """
        self._check_bounds(offset, length)
        pieces = []
        end = offset + length
        while offset < end:
            piece = self._read_some(offset, end - offset)
            pieces.append(piece)
            offset += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def write(self, offset: int, data: Buffer) -> None:
        """Write all of ``data``, in calls of at most 4 MiB.

        Raises:
            ValueError: outside the window, or not aligned to the block size; nothing was written.
            DeviceError: the system could not write; any part of the range may hold the new bytes.
        """
        view = memoryview(data).cast("B")
        self._check_bounds(offset, len(view))
        if offset % self._block or len(view) % self._block:
            raise ValueError(f"{len(view)} bytes at offset {offset}: not in whole blocks of {self._block} bytes")
        done = 0
        while done < len(view):
            done += self._write_some(offset + done, view[done : done + MAX_TRANSFER_BYTES])
        if not self._direct and len(view) >= _LARGE_BYTES:
            # Linux starts to write back what is not needed (mm/fadvise.c).  Without it, it would keep everything until
            # the flush, and the medium would idle while the next piece is made.
            self._not_needed(offset, len(view))

    def flush(self) -> None:
        """Return once the medium holds what was written, as far as it tells the truth (G5).

        Raises:
            DeviceError: some write may be lost, and a second flush would not say so: nothing may be built on it.
        """
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise device_error("flush", self._name, error, "do not trust this medium: replace it") from error

    def forget_cache(self) -> None:
        """Drop cached pages, so that the next read is of the medium.  Flushes first: a dirty page cannot be dropped."""
        self.flush()
        # Advice that is refused costs the certainty of the read-back on a buffered device only, and no system
        # that we know refuses it for a file or a block device.
        self._not_needed(0, self._size)

    def close(self) -> None:
        """Idempotent.  Does not flush."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None

    def _not_needed(self, offset: int, length: int) -> None:
        """Advice: clean pages of the range are dropped, dirty ones sent to the medium."""
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._fd, self._start + offset, length, os.POSIX_FADV_DONTNEED)

    def _check_bounds(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self._size:
            raise ValueError(f"{length} bytes at offset {offset}: outside of {self._name} ({self._size} bytes)")

    def _read_some(self, offset: int, length: int) -> bytes:
        """At least one byte and at most ``length`` of what is at ``offset``."""
        skip = offset % self._block if self._direct else 0
        wanted = min(skip + length, MAX_TRANSFER_BYTES)
        place = self._start + offset - skip
        try:
            if not self._direct:
                content = os.pread(self._fd, wanted, place)
            else:
                # O_DIRECT wants whole blocks.  A window has whole blocks, so widening stays inside it.
                buffer = self._aligned_buffer()
                whole = -(-wanted // self._block) * self._block
                with memoryview(buffer)[:whole] as target:
                    count = os.preadv(self._fd, [target], place)
                    content = bytes(target[skip : min(count, wanted)])
        except OSError as error:
            if self._gave_up_direct(error):
                return self._read_some(offset, length)
            raise device_error("read", f"{self._name} at byte {offset}", error) from error
        if not content:
            raise DeviceError(
                f"cannot read {self._name} at byte {offset}: the file or device ends before it",
                "the image or device became shorter while it was in use",
            )
        return content

    def _write_some(self, offset: int, view: memoryview) -> int:
        try:
            if self._direct and _address(view) % self._block:
                buffer = self._aligned_buffer()
                buffer[: len(view)] = view
                with memoryview(buffer)[: len(view)] as source:
                    count = os.pwrite(self._fd, source, self._start + offset)
            else:
                count = os.pwrite(self._fd, view, self._start + offset)
        except OSError as error:
            if self._gave_up_direct(error):
                return self._write_some(offset, view)
            hint = "free some space where the image lies" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise device_error("write", f"{self._name} at byte {offset}", error, hint) from error
        if count == 0 or count % self._block:
            # Continuing in the middle of a block would rewrite one that may be torn: let the caller start over.
            raise DeviceError(f"cannot write {self._name} at byte {offset}: only {count} of {len(view)} bytes written")
        return count

    def _aligned_buffer(self) -> mmap.mmap:
        """Page-aligned memory, as O_DIRECT wants it: an anonymous mapping is; a ``bytearray`` is not."""
        if self._scratch is None:
            self._scratch = mmap.mmap(-1, MAX_TRANSFER_BYTES)
        return self._scratch

    def _gave_up_direct(self, error: OSError) -> bool:
        """EINVAL is how a file system or driver says that it has no O_DIRECT: go on buffered, once."""
        if not self._direct or error.errno != errno.EINVAL:
            return False
        self._direct = False
        fcntl.fcntl(self._fd, fcntl.F_SETFL, fcntl.fcntl(self._fd, fcntl.F_GETFL) & ~os.O_DIRECT)
        return True


class ImageDisk:
    """A whole-disk image in a plain file; its partitions are windows of it.

    Args:
        path: the image; it stays as long as it is.

    Raises:
        DeviceError: it cannot be opened, or is not a plain file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = _open(path, os.O_RDONLY)
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(self._fd)
            raise DeviceError(f"cannot open {path}: it is not a plain file")
        self._identity = (found.st_dev, found.st_ino)
        self._whole = FileWindow(
            self._fd, name=self.name, start=0, size=found.st_size, block_size=IMAGE_BLOCK_BYTES, direct=False
        )

    @property
    def name(self) -> str:
        return self._path

    @property
    def size_bytes(self) -> int:
        return self._whole.size_bytes

    @property
    def block_size_bytes(self) -> int:
        return IMAGE_BLOCK_BYTES

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes of the image."""
        return self._whole.read(offset, length)

    def open_partition(self, number: int, start: int, size: int, *, writable: bool = False) -> BlockDevice:
        """The window ``[start, start + size)`` of the image, under the name of partition ``number``.

        Raises:
            Damaged: the image ends before the partition does.
            DeviceError: it cannot be opened, for writing if ``writable``, or another file took its place.
        """
        name = f"{self.name} partition {number}"
        if start < 0 or size <= 0 or start + size > self.size_bytes:
            raise Damaged(
                f"cannot open {name}: it is bytes {start} to {start + size}, the image has {self.size_bytes} bytes",
                "the image is cut short, or its partition table is wrong: copy or build it again",
            )
        fd = self._open_same(os.O_RDWR if writable else os.O_RDONLY)
        return FileWindow(fd, name=name, start=start, size=size, block_size=IMAGE_BLOCK_BYTES, direct=False)

    def mounts_of(self, number: int) -> tuple[Mount, ...]:  # noqa: ARG002 - a file has no mounts
        """Always empty."""
        return ()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Exclusive among abboots on this image, by flock(2): it ends with the process, whatever kills it."""
        with _flock(self._open_same(os.O_RDONLY), self.name):
            yield

    def close(self) -> None:
        """Idempotent.  Partitions that were opened stay open."""
        self._whole.close()

    def _open_same(self, flags: int) -> int:
        fd = _open(self._path, flags)
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) != self._identity:
            os.close(fd)
            raise DeviceError(f"cannot open {self._path}: another file took its place", "run the command again")
        return fd


class BlockDisk:
    """A whole-disk node such as ``/dev/mmcblk0``; its partitions are nodes of their own.

    With a sysroot other than ``/`` the nodes may be plain files, and a partition without one is a window of the disk.

    Raises:
        DeviceError: it cannot be opened, or it is a partition.
    """

    def __init__(self, path: str, sysroot: str = "/") -> None:
        self._path = path
        self._sysroot = sysroot
        fd, direct = _open_direct(path, os.O_RDONLY)
        try:
            found = os.fstat(fd)
            self._is_device = stat.S_ISBLK(found.st_mode)
            self._sysname = _sysfs_name(path, found, sysroot)
            parent = read_word(under(sysroot, f"sys/class/block/{self._sysname}/partition"))
            if parent is not None:
                raise DeviceError(
                    f"cannot use {path} as a disk: it is partition {parent} of one",
                    "name the whole disk, such as /dev/mmcblk0",
                )
            self._block = self._logical_block_size()
            self._identity = _identity(found)
            size = os.lseek(fd, 0, os.SEEK_END)
        except OSError as error:
            os.close(fd)
            raise device_error("open", path, error) from error
        except BaseException:
            os.close(fd)
            raise
        self._whole = FileWindow(fd, name=path, start=0, size=size, block_size=self._block, direct=direct)

    @property
    def name(self) -> str:
        return self._path

    @property
    def size_bytes(self) -> int:
        return self._whole.size_bytes

    @property
    def block_size_bytes(self) -> int:
        return self._block

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes of the disk, from the medium."""
        return self._whole.read(offset, length)

    def open_partition(self, number: int, start: int, size: int, *, writable: bool = False) -> BlockDevice:
        """Partition ``number`` through its own node; exclusively if ``writable``.

        Raises:
            Damaged: the partition table says more than the disk has.
            DeviceError: no such node; the kernel sees another partition there; mounted or in use (if ``writable``).
        """
        if start < 0 or size <= 0 or start + size > self.size_bytes:
            raise Damaged(
                f"cannot open {self.name} partition {number}: it is bytes {start} to {start + size}, "
                f"the disk has {self.size_bytes} bytes",
                "the partition table is damaged, or was made for a larger disk",
            )
        known = find_partition(self._sysname, number, self._sysroot)
        if known is not None and not known.is_at(start, size):
            raise DeviceError(
                f"cannot open {self.name} partition {number}: the table says {size} bytes at {start}, "
                f"the kernel has {known.size_bytes} bytes at {known.start_bytes}",
                "the partition table was changed while the disk is in use: reboot, or run partprobe",
            )
        node = self._node(number, known)
        access = os.O_RDWR | os.O_EXCL if writable else os.O_RDONLY
        if not self._is_device and not os.path.exists(node):
            fd = self._open_same(access)
            return FileWindow(
                fd, name=f"{self.name} partition {number}", start=start, size=size, block_size=self._block, direct=False
            )
        fd, direct = _open_direct(node, access)
        try:
            found = os.fstat(fd)
            if known is not None and stat.S_ISBLK(found.st_mode) and known.device != _device_number(found):
                raise DeviceError(
                    f"cannot open {node}: it is device {_device_number(found)}, the kernel says {known.device}",
                    "the node in /dev is stale: run udevadm trigger, or reboot",
                )
            actual = os.lseek(fd, 0, os.SEEK_END)
            if actual < size:
                raise DeviceError(f"cannot open {node}: it has {actual} bytes, the table says {size}")
        except OSError as error:
            os.close(fd)
            raise device_error("open", node, error) from error
        except BaseException:
            os.close(fd)
            raise
        return FileWindow(fd, name=node, start=0, size=size, block_size=self._block, direct=direct)

    def mounts_of(self, number: int) -> tuple[Mount, ...]:
        """Where partition ``number`` is mounted in this mount namespace; others are kept out by ``O_EXCL``."""
        return mounts_of(self._node(number, find_partition(self._sysname, number, self._sysroot)), self._sysroot)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Exclusive among abboots on this disk; udev keeps its hands off a locked disk as well."""
        with _flock(self._open_same(os.O_RDONLY), self.name):
            yield

    def close(self) -> None:
        """Idempotent.  Partitions that were opened stay open."""
        self._whole.close()

    def _node(self, number: int, known: SysPartition | None) -> str:
        name = partition_name(self._sysname, number) if known is None else known.name
        return under(self._sysroot, f"dev/{name}")

    def _logical_block_size(self) -> int:
        size = logical_block_size(self._sysname, self._sysroot)
        if size is not None:
            return size
        if self._is_device:
            # Guessing 512 on a disk with 4096-byte blocks would make every switch a read-modify-write (G3).
            raise DeviceError(
                f"cannot use {self._path}: /sys does not tell its logical block size", "mount sysfs on /sys"
            )
        return IMAGE_BLOCK_BYTES

    def _open_same(self, flags: int) -> int:
        fd = _open(self._path, flags)
        if _identity(os.fstat(fd)) != self._identity:
            os.close(fd)
            raise DeviceError(f"cannot open {self._path}: another device took its place", "run the command again")
        return fd


def _open(path: str, flags: int) -> int:
    try:
        # O_NONBLOCK: somebody may have put a FIFO there since it was looked at; on files and disks it means nothing.
        return os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        hints = {errno.EACCES: "run as root, or check the file's permissions", errno.EROFS: "its place is read-only"}
        if error.errno == errno.EBUSY:
            raise DeviceError(
                f"cannot open {path} for writing: it is mounted or in use", "unmount it, or stop what uses it"
            ) from error
        raise device_error("open", path, error, hints.get(error.errno or 0, "")) from error


def _open_direct(path: str, flags: int) -> tuple[int, bool]:
    """Open a node with O_DIRECT if it is a device that has it; a plain file that stands for one is buffered."""
    fd = _open(path, flags)
    try:
        if not stat.S_ISBLK(os.fstat(fd).st_mode):
            return fd, False
        # Switched on afterwards instead of in open(2): O_EXCL then has been taken once, whatever the device answers.
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return fd, False
        os.close(fd)
        raise device_error("open", path, error) from error
    return fd, True


def _address(view: memoryview) -> int:
    """Where the bytes of ``view`` lie in memory; 1 (never aligned) for a read-only view, which cannot be asked."""
    if view.readonly:
        return 1
    import ctypes  # only writing needs it: `abboot status` does without

    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_rdev,) if stat.S_ISBLK(found.st_mode) else (found.st_dev, found.st_ino)


def _device_number(found: os.stat_result) -> str:
    return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"


def _sysfs_name(path: str, found: os.stat_result, sysroot: str) -> str:
    """The kernel's name of a disk: by its number where it has one (``path`` may be a link, or a node made by hand)."""
    if stat.S_ISBLK(found.st_mode):
        entry = os.path.realpath(under(sysroot, f"sys/dev/block/{_device_number(found)}"))
        if os.path.isdir(entry):
            return os.path.basename(entry)
        path = os.path.realpath(path)
    return os.path.basename(path)


@contextlib.contextmanager
def _flock(fd: int, name: str) -> Iterator[None]:
    try:
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):
                    raise device_error("lock", name, error) from error
                if time.monotonic() >= deadline:
                    holder = _lock_holder(fd)
                    raise Locked(
                        f"cannot change {name}: another abboot holds it{holder}", "try again when it is done"
                    ) from error
                time.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(fd)  # and with it the lock


def _lock_holder(fd: int) -> str:
    """`` (process 1234)``, or nothing where ``/proc/locks`` does not tell: another namespace, a stacked file system."""
    found = os.fstat(fd)
    key = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for line in (read_small("/proc/locks", 1 << 20) or b"").decode("ascii", "replace").splitlines():
        # "1: FLOCK  ADVISORY  WRITE 1234 fe:00:131 0 EOF"; a waiting one has "->" in front (proc(5)).
        words = line.split()
        if len(words) >= 6 and words[1] == "FLOCK" and words[5] == key and words[4] not in ("0", "-1"):
            return f" (process {words[4]})"
    return ""
