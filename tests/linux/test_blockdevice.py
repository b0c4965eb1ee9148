"""Disks and their partitions, on plain files and, where this machine lets us, on a loop device."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abboot.errors import Damaged, DeviceError, Locked
from abboot.linux.blockdevice import MAX_TRANSFER_BYTES, BlockDisk, FileWindow, ImageDisk, open_disk
from abboot.linux.mounted import MountedVolume
from abboot.linux.sysblock import partition_name
from tests.linux.sysroots import FakePartition, make_sysroot

MIB = 1024 * 1024
START, SIZE = 1 * MIB, 2 * MIB


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "card.img"
    path.write_bytes(os.urandom(4 * MIB))
    return path


@contextlib.contextmanager
def opened(disk: ImageDisk | BlockDisk) -> Iterator[ImageDisk | BlockDisk]:
    with contextlib.closing(disk):
        yield disk


def test_a_partition_of_an_image_is_its_range_of_the_file(image: Path) -> None:
    before = image.read_bytes()
    data = os.urandom(4096)

    with opened(ImageDisk(str(image))) as disk:
        part = disk.open_partition(2, START, SIZE, writable=True)
        read = part.read(513, 1000)
        part.write(512, data)
        part.flush()
        part.forget_cache()
        again = part.read(512, 4096)
        part.close()

    assert read == before[START + 513 : START + 1513]
    assert again == data
    assert image.read_bytes() == before[: START + 512] + data + before[START + 4608 :]
    assert part.name == f"{image} partition 2"
    assert (part.size_bytes, part.block_size_bytes) == (SIZE, 512)


@pytest.mark.parametrize(("offset", "length"), [(-512, 512), (SIZE, 512), (SIZE - 512, 1024), (0, SIZE + 512)])
def test_nothing_outside_of_a_partition_is_read_or_written(image: Path, offset: int, length: int) -> None:
    before = image.read_bytes()

    with (
        opened(ImageDisk(str(image))) as disk,
        contextlib.closing(disk.open_partition(2, START, SIZE, writable=True)) as part,
    ):
        with pytest.raises(ValueError, match=r"outside of .*/card\.img partition 2"):
            part.read(offset, length)
        with pytest.raises(ValueError, match=r"outside of .*/card\.img partition 2"):
            part.write(offset, bytes(length))

    assert image.read_bytes() == before


def test_a_write_that_is_not_in_whole_blocks_is_a_bug_of_the_caller(image: Path) -> None:
    with (
        opened(ImageDisk(str(image))) as disk,
        contextlib.closing(disk.open_partition(2, START, SIZE, writable=True)) as part,
    ):
        with pytest.raises(ValueError, match="whole blocks"):
            part.write(0, bytes(100))
        with pytest.raises(ValueError, match="whole blocks"):
            part.write(100, bytes(512))


def test_a_partition_that_was_not_opened_for_writing_cannot_be_written(image: Path) -> None:
    before = image.read_bytes()

    with (
        opened(ImageDisk(str(image))) as disk,
        contextlib.closing(disk.open_partition(2, START, SIZE)) as part,
        pytest.raises(DeviceError, match=r"cannot write .*/card\.img partition 2 at byte 0: bad file descriptor"),
    ):
        part.write(0, bytes(512))

    assert image.read_bytes() == before


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("read"), st.integers(0, 64 * 512), st.integers(0, 64 * 512)),
            st.tuples(st.just("write"), st.integers(0, 64), st.integers(0, 8)),
        ),
        max_size=12,
    )
)
def test_a_partition_behaves_like_an_array_of_bytes(steps: list[tuple[str, int, int]]) -> None:
    size, margin = 64 * 512, 512
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "card.img"
        model = bytearray(os.urandom(size + 2 * margin))
        path.write_bytes(model)
        with (
            opened(ImageDisk(str(path))) as disk,
            contextlib.closing(disk.open_partition(1, margin, size, writable=True)) as part,
        ):
            for index, (verb, where, amount) in enumerate(steps):
                offset, length = (where, amount) if verb == "read" else (where * 512, amount * 512)
                if offset + length > size:
                    with pytest.raises(ValueError):
                        part.read(offset, length)
                elif verb == "read":
                    assert part.read(offset, length) == model[margin + offset : margin + offset + length]
                else:
                    data = bytes([index + 1]) * length
                    part.write(offset, data)
                    model[margin + offset : margin + offset + length] = data

        assert path.read_bytes() == model


def test_a_truncated_image_is_named_with_its_sizes(image: Path) -> None:
    with (
        opened(ImageDisk(str(image))) as disk,
        pytest.raises(Damaged, match=r"cannot open .*/card\.img partition 3: .* 5242880, the image has 4194304 bytes"),
    ):
        disk.open_partition(3, 3 * MIB, 2 * MIB)


def test_an_image_that_is_cut_while_it_is_open_is_an_error_and_not_a_short_answer(image: Path) -> None:
    with opened(ImageDisk(str(image))) as disk, contextlib.closing(disk.open_partition(2, START, SIZE)) as part:
        os.truncate(image, START + 1024)

        with pytest.raises(DeviceError, match="ends before it"):
            part.read(512, 1024)


def test_an_image_that_was_replaced_meanwhile_is_not_written(image: Path) -> None:
    with opened(ImageDisk(str(image))) as disk:
        image.rename(image.with_suffix(".old"))
        image.write_bytes(bytes(4 * MIB))

        with pytest.raises(DeviceError, match="another file took its place"):
            disk.open_partition(2, START, SIZE, writable=True)

    assert image.read_bytes() == bytes(4 * MIB)


def test_a_sparse_image_keeps_its_length_and_its_holes(tmp_path: Path) -> None:
    path = tmp_path / "sparse.img"
    path.touch()
    os.truncate(path, 64 * MIB)

    with (
        opened(ImageDisk(str(path))) as disk,
        contextlib.closing(disk.open_partition(1, 32 * MIB, 32 * MIB, writable=True)) as part,
    ):
        part.write(32 * MIB - 512, b"\xaa" * 512)
        part.flush()

    assert path.stat().st_size == 64 * MIB
    assert path.stat().st_blocks * 512 < MIB


def test_a_large_write_is_split_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "big.img"
    path.touch()
    os.truncate(path, 12 * MIB)
    data = os.urandom(2 * MAX_TRANSFER_BYTES + 512)

    with (
        opened(ImageDisk(str(path))) as disk,
        contextlib.closing(disk.open_partition(1, MIB, 10 * MIB, writable=True)) as part,
    ):
        part.write(1024, data)

        assert part.read(1024, len(data)) == data

    assert path.read_bytes()[MIB + 1024 : MIB + 1024 + len(data)] == data


def test_a_full_disk_says_so() -> None:
    window = FileWindow(
        os.open("/dev/full", os.O_RDWR), name="card.img partition 2", start=0, size=4096, block_size=512, direct=False
    )

    with contextlib.closing(window), pytest.raises(DeviceError, match="no space left on device") as caught:
        window.write(0, bytes(512))

    assert "free some space" in caught.value.hint


def test_an_unreadable_sector_says_where() -> None:
    # Reading address 0 of this process is EIO: a real I/O error without a broken card.
    fd = os.open("/proc/self/mem", os.O_RDONLY)
    window = FileWindow(fd, name="/dev/mmcblk0p2", start=0, size=1 << 20, block_size=512, direct=False)

    with contextlib.closing(window), pytest.raises(DeviceError, match="/dev/mmcblk0p2 at byte 1024: input/output"):
        window.read(1024, 512)


def test_a_device_that_refuses_direct_access_is_used_buffered(image: Path) -> None:
    fd = os.open(image, os.O_RDWR)
    with contextlib.suppress(OSError):  # a file system without O_DIRECT refuses right here
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
    # Blocks of 16 bytes: no file system that has O_DIRECT takes those, so the kernel answers EINVAL.
    window = FileWindow(fd, name="odd", start=0, size=4 * MIB, block_size=16, direct=True)
    before = image.read_bytes()

    with contextlib.closing(window):
        window.write(16, b"x" * 32)

        assert window.read(7, 99) == (before[:16] + b"x" * 32 + before[48:])[7:106]
    assert image.read_bytes() == before[:16] + b"x" * 32 + before[48:]


@pytest.mark.parametrize("kind", ["folder", "fifo", "character device", "missing", "nul"])
def test_what_is_no_disk_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = str(tmp_path / "thing")
    if kind == "folder":
        os.mkdir(path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "character device":
        path = "/dev/zero"
    elif kind == "nul":
        path = "a\0b"

    with pytest.raises(DeviceError, match=r"^cannot open ") as caught:
        open_disk(path)

    assert "image file" in caught.value.hint


def test_a_second_abboot_is_kept_out_and_told_who_it_is(image: Path) -> None:
    # flock(1) is the other process, so the lock is judged by util-linux as well.
    other = subprocess.Popen(["flock", "-x", "-o", str(image), "sleep", "60"], start_new_session=True)
    try:
        _wait_until_locked(image)
        with opened(ImageDisk(str(image))) as disk, pytest.raises(Locked) as caught, disk.lock():
            pytest.fail("two hold the lock")
    finally:
        os.killpg(other.pid, signal.SIGKILL)
        other.wait()

    assert caught.value.message.startswith(f"cannot change {image}: another abboot holds it")
    assert "try again" in caught.value.hint
    with opened(ImageDisk(str(image))) as disk, disk.lock():  # the lock died with its holder
        pass


def test_a_lock_that_is_held_for_a_moment_is_waited_for(image: Path) -> None:
    other = subprocess.Popen(["flock", "-s", "-o", str(image), "sleep", "0.4"])
    try:
        _wait_until_locked(image)
        with opened(ImageDisk(str(image))) as disk, disk.lock():
            held = subprocess.run(["flock", "-n", str(image), "true"], check=False).returncode
    finally:
        other.wait()

    assert held == 1


def _wait_until_locked(path: Path) -> None:
    deadline = time.monotonic() + 10
    while subprocess.run(["flock", "-n", str(path), "true"], check=False).returncode == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_nested_lock_is_refused_and_leaves_the_first_one(image: Path) -> None:
    with opened(ImageDisk(str(image))) as disk, disk.lock():
        with pytest.raises(Locked, match=f"process {os.getpid()}"), disk.lock():
            pytest.fail("two hold the lock")
        assert subprocess.run(["flock", "-n", str(image), "true"], check=False).returncode == 1


@pytest.mark.parametrize(
    ("disk", "node"),
    [("mmcblk0", "mmcblk0p2"), ("nvme0n1", "nvme0n1p2"), ("loop0", "loop0p2"), ("sda", "sda2"), ("vdb", "vdb2")],
)
def test_partition_nodes_are_named_as_the_kernel_names_them(disk: str, node: str) -> None:
    assert partition_name(disk, 2) == node


def test_below_a_sysroot_a_device_is_the_file_that_stands_for_it(tmp_path: Path, image: Path) -> None:
    root = make_sysroot(tmp_path, disk=image, partitions={2: FakePartition(start=START, size=SIZE, mounted_at="/boot")})
    before = image.read_bytes()

    disk = open_disk("/dev/mmcblk0", root)
    with contextlib.closing(disk), contextlib.closing(disk.open_partition(2, START, SIZE, writable=True)) as part:
        part.write(0, b"\x11" * 512)

        assert [mount.path for mount in disk.mounts_of(2)] == [f"{root}/boot"]
        assert disk.mounts_of(1) == ()
    assert image.read_bytes() == before[:START] + b"\x11" * 512 + before[START + 512 :]


def test_below_a_sysroot_a_partition_may_be_a_file_of_its_own(tmp_path: Path, image: Path) -> None:
    root = make_sysroot(tmp_path, disk=image)
    own = Path(root, "dev/mmcblk0p2")
    own.write_bytes(bytes(SIZE))
    before = image.read_bytes()

    disk = open_disk("/dev/mmcblk0", root)
    with contextlib.closing(disk), contextlib.closing(disk.open_partition(2, START, SIZE, writable=True)) as part:
        part.write(512, b"\x22" * 512)

    assert own.read_bytes() == bytes(512) + b"\x22" * 512 + bytes(SIZE - 1024)
    assert image.read_bytes() == before


def test_a_table_that_the_kernel_does_not_share_is_not_believed(tmp_path: Path, image: Path) -> None:
    root = make_sysroot(tmp_path, disk=image, partitions={2: FakePartition(start=START, size=SIZE)})

    disk = open_disk("/dev/mmcblk0", root)
    with contextlib.closing(disk), pytest.raises(DeviceError, match=f"the kernel has {SIZE} bytes at {START}"):
        disk.open_partition(2, START + 512, SIZE, writable=True)


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A loop device with partitions 1 and 2, and its backing file."""
    backing = tmp_path / "loop.img"
    backing.touch()
    os.truncate(backing, 48 * MIB)
    table = "label: dos\nstart=2048,size=16384,type=c\nstart=18432,size=73728,type=c\n"
    if os.geteuid() != 0 or not shutil.which("losetup") or not shutil.which("partx"):
        pytest.skip("loop devices: need root, losetup and partx")
    subprocess.run(["sfdisk", "-q", str(backing)], input=table, text=True, check=True)
    made = subprocess.run(["losetup", "-f", "--show", str(backing)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"loop devices: {made.stderr.strip()}")
    device = made.stdout.strip()
    try:
        subprocess.run(["partx", "-u", device], capture_output=True, check=False)
        if not os.path.exists(f"{device}p2"):
            pytest.skip("loop devices: no partition nodes on this machine")
        yield device, backing
    finally:
        subprocess.run(["partx", "-d", device], capture_output=True, check=False)
        subprocess.run(["losetup", "-d", device], check=True)


P2_START, P2_SIZE = 18432 * 512, 73728 * 512


def test_a_partition_of_a_device_is_its_own_node(loop: tuple[str, Path]) -> None:
    device, backing = loop
    data = os.urandom(MAX_TRANSFER_BYTES + 4096)

    disk = open_disk(device)
    with contextlib.closing(disk), contextlib.closing(disk.open_partition(2, P2_START, P2_SIZE, writable=True)) as part:
        part.write(512, data)
        part.flush()
        read = part.read(513, len(data) - 1)

        assert part.name == f"{device}p2"
        assert isinstance(part, FileWindow)
        assert part.direct
        assert part.block_size_bytes == disk.block_size_bytes == 512
        assert disk.size_bytes == 48 * MIB
        assert disk.read(510, 2) == b"\x55\xaa"
        assert disk.mounts_of(2) == ()
    assert read == data[1:]
    assert backing.read_bytes()[P2_START + 512 : P2_START + 512 + len(data)] == data


def test_aligned_memory_is_written_as_it_lies(loop: tuple[str, Path]) -> None:
    device, backing = loop

    with (
        opened(BlockDisk(device)) as disk,
        contextlib.closing(disk.open_partition(2, P2_START, P2_SIZE, writable=True)) as part,
        mmap.mmap(-1, 8192) as memory,
    ):
        memory[:] = os.urandom(8192)
        expected = memory[512:]
        with memoryview(memory) as whole, whole[512:] as view:
            part.write(0, view)
        part.write(8192, expected[:512])  # bytes lie anywhere: they are copied into aligned memory
        part.flush()

        assert isinstance(part, FileWindow)
        assert part.direct
    assert backing.read_bytes()[P2_START : P2_START + 7680] == expected


def test_the_medium_is_read_and_not_the_cache(loop: tuple[str, Path]) -> None:
    device, backing = loop

    with opened(BlockDisk(device)) as disk, contextlib.closing(disk.open_partition(2, P2_START, P2_SIZE)) as part:
        with open(f"{device}p2", "rb") as cached:
            cached.read(4096)
        with open(backing, "r+b") as medium:
            medium.seek(P2_START)
            medium.write(b"\x77" * 512)
            medium.flush()
            os.fsync(medium.fileno())

        assert part.read(0, 512) == b"\x77" * 512


def test_a_mounted_slot_cannot_be_opened_for_writing(loop: tuple[str, Path], tmp_path: Path) -> None:
    device, _backing = loop
    place = tmp_path / "mount point"
    place.mkdir()
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mounts: no mkfs.ext4")
    subprocess.run(["mkfs.ext4", "-q", f"{device}p2"], check=True)
    if subprocess.run(["mount", f"{device}p2", str(place)], check=False, capture_output=True).returncode:
        pytest.skip("mounts: mount(8) is not allowed here")
    try:
        (place / "autoboot.txt").write_bytes(b"a" * 64)
        with opened(BlockDisk(device)) as disk:
            with pytest.raises(DeviceError, match=f"cannot open {device}p2 for writing: it is mounted or in use"):
                disk.open_partition(2, P2_START, P2_SIZE, writable=True)
            disk.open_partition(1, 2048 * 512, 16384 * 512, writable=True).close()
            disk.open_partition(2, P2_START, P2_SIZE).close()
            mounts = disk.mounts_of(2)
        MountedVolume(mounts[0].path).overwrite("AUTOBOOT.TXT", 0, b"b" * 64)

        assert [(mount.path, mount.writable, mount.whole) for mount in mounts] == [(str(place), True, True)]
        assert (place / "autoboot.txt").read_bytes() == b"b" * 64
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_partition_that_is_open_for_writing_is_kept_from_a_second_writer(loop: tuple[str, Path]) -> None:
    device, _backing = loop

    with opened(BlockDisk(device)) as disk:
        first = disk.open_partition(2, P2_START, P2_SIZE, writable=True)
        with pytest.raises(DeviceError, match="mounted or in use"):
            disk.open_partition(2, P2_START, P2_SIZE, writable=True)
        first.close()
        disk.open_partition(2, P2_START, P2_SIZE, writable=True).close()


def test_a_partition_is_not_taken_for_a_disk(loop: tuple[str, Path]) -> None:
    with pytest.raises(DeviceError, match="p1 as a disk: it is partition 1 of one"):
        open_disk(f"{loop[0]}p1")


def test_a_partition_without_a_node_is_an_error(loop: tuple[str, Path]) -> None:
    with opened(BlockDisk(loop[0])) as disk, pytest.raises(DeviceError, match="p7: no such file"):
        disk.open_partition(7, P2_START, P2_SIZE)


def test_a_link_to_a_disk_is_that_disk(loop: tuple[str, Path], tmp_path: Path) -> None:
    link = tmp_path / "by-id"
    link.symlink_to(loop[0])

    with opened(BlockDisk(str(link))) as disk, contextlib.closing(disk.open_partition(2, P2_START, P2_SIZE)) as part:
        assert part.name == f"{loop[0]}p2"
        with disk.lock():
            assert subprocess.run(["flock", "-n", loop[0], "true"], check=False).returncode == 1
