"""Build a whole A/B card image in a plain file.  No root, no mount, no loop device.

Rules:
- Everything is read and planned before the first byte is written: a tree that does not fit leaves no file behind.
- The image is built under a temporary name beside its place, read back, made durable, and then renamed into place:
  until the rename the old file is as it was, after it the new one is whole.
- The same specification, disk id and tree give the same bytes: no clock, and nothing random but the disk's id when none
  is given.
- The file is sparse: what no file system uses is a hole.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs

from abboot.core.autoboot import Autoboot
from abboot.core.journal import BLOCK_SIZE, BLOCKS, FILE_NAME, SlotEntry, successor
from abboot.core.layout import discover, volume_id
from abboot.core.partition_table import Partition, PartitionTable
from abboot.core.protocols import BlockDevice
from abboot.core.record import MANIFEST_PATH, RECORD_PATH, Manifest, Record, record_digest
from abboot.core.tree import check_tree, warn_tree
from abboot.core.words import FatType, Slot, SlotState, TableKind, Transition
from abboot.disk import SECTOR, PartitionRequest, TableRequest, check_partition_table, create_partition_table
from abboot.errors import AbbootError, ConfigError, VerificationFailed
from abboot.fat.check import check_files
from abboot.fat.geometry import Geometry
from abboot.fat.plan import Content, VolumePlan, plan_volume
from abboot.fat.read import FatVolume
from abboot.fat.write import compare, validate, write_content
from abboot.gather import with_snippets
from abboot.image.selector import plan_selector
from abboot.image.spec import ImageSpec, PartitionSpec
from abboot.linux.blockdevice import ImageDisk
from abboot.linux.sysroot import device_error
from abboot.progress import Meter, Progress
from abboot.sources import FolderSource, SourceFile, boot_texts, digest_all, firmware_builds
from abboot.version import VERSION

SELECTOR_PARTITION = 1
SLOT_PARTITIONS: Mapping[Slot, int] = {Slot.A: 2, Slot.B: 3}

_BOOTCODE = "bootcode.bin"
_BOOTCODE_MAX = 1 << 20  # bytes; the real one has 52 kB
_COPY_SIZE = 1 << 20  # bytes of a partition's content in memory at a time


@attrs.frozen(kw_only=True)
class BuiltSlot:
    """What a slot of a new image holds."""

    partition: int
    label: str
    record_digest: str


@attrs.frozen(kw_only=True)
class BuildReport:
    """What was built.  ``warnings`` are sentences about what looks unbootable in the tree."""

    path: str
    size_bytes: int
    bytes_written: int
    table: PartitionTable
    primary: Slot
    slots: Mapping[Slot, BuiltSlot]
    tree_digest: str
    files: int
    warnings: tuple[str, ...]
    duration_s: float


def build(
    spec: ImageSpec,
    out: str | os.PathLike[str],
    *,
    tree: str | os.PathLike[str] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> BuildReport:
    """Build an image and put it at ``out``, in place of what was there.

    Args:
        spec: what to build.
        out: a path in a folder that exists; not a device.
        tree: the folder to fill both slots from, instead of the one that the specification names.
        progress: called with a :class:`abboot.progress.Progress`, for each volume from its start.

    Raises:
        ConfigError: the specification names no tree, or partitions that cannot be.
        InvalidTree: the tree cannot be put on a slot.
        AbbootError: pyparted is missing, ``out`` is no place for an image, and the like.
        DeviceError: reading or writing failed.
        VerificationFailed: what was read back is not what was written.

    On any error ``out`` is as it was.
    """
    started = time.monotonic()
    folder = tree if tree is not None else spec.slots.tree
    if folder is None:
        raise ConfigError(
            "cannot build the image: no tree is named", "set `tree` in [slots], or name one for this build with --tree"
        )
    path = _check_place(out)
    blobs = [_Blob.open(part) for part in spec.partitions]
    files, warnings = with_snippets(FolderSource(os.fspath(folder)).scan())
    card = _plan_card(spec, files)
    with _replacing(path) as temporary:
        os.truncate(temporary, card.request.image_size)
        table = create_partition_table(temporary, card.request)
        discover(table, name=path)  # what we build must be found again without a journal
        written = _fill(temporary, card, table, blobs, Meter(progress))
        check_partition_table(temporary)
    return BuildReport(
        path=path,
        size_bytes=card.request.image_size,
        bytes_written=written,
        table=table,
        primary=spec.slots.primary,
        slots={
            slot: BuiltSlot(
                partition=SLOT_PARTITIONS[slot],
                label=card.volumes[SLOT_PARTITIONS[slot]].plan.geometry.label,
                record_digest=card.records[slot],
            )
            for slot in Slot
        },
        tree_digest=card.manifest.digest,
        files=len(card.manifest.entries),
        warnings=(*warnings, *card.warnings),
        duration_s=round(time.monotonic() - started, 3),
    )


# -- planning: nothing is written here ---------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class _Volume:
    """A planned volume, and the SHA-256 of every file that must be read back from it."""

    plan: VolumePlan
    expected: Mapping[str, str]


@attrs.frozen(kw_only=True)
class _Card:
    request: TableRequest
    volumes: Mapping[int, _Volume]  # by partition number
    records: Mapping[Slot, str]
    manifest: Manifest
    warnings: tuple[str, ...]


def _plan_card(spec: ImageSpec, files: Sequence[SourceFile]) -> _Card:
    check_tree([(file.path, file.size) for file in files])
    manifest = digest_all(files)
    disk_id = spec.disk.id or _draw_id(spec.disk.table)
    labels = dict(zip(Slot, spec.slots.labels, strict=True))
    shapes = {
        slot: Geometry.choose(
            spec.slots.size,
            label=labels[slot],
            volume_id=volume_id(disk_id, SLOT_PARTITIONS[slot]),
            fat_type=spec.slots.fat,
            cluster_size=spec.slots.cluster,
        )
        for slot in Slot
    }
    request = TableRequest(
        kind=spec.disk.table,
        disk_id=disk_id,
        partitions=(
            PartitionRequest(size=spec.selector.size, fat=FatType.FAT16, name=spec.selector.label),
            *(PartitionRequest(size=spec.slots.size, fat=shapes[slot].fat_type, name=labels[slot]) for slot in Slot),
            *(PartitionRequest(size=part.size, fat=None, name=part.label) for part in spec.partitions),
        ),
    )
    planned = {partition.number: partition for partition in request.plan().partitions}
    volumes: dict[int, _Volume] = {}
    records: dict[Slot, str] = {}
    for slot in Slot:
        number = SLOT_PARTITIONS[slot]
        shape = attrs.evolve(shapes[slot], hidden_sectors=planned[number].start // SECTOR)
        record = Record(slot=slot, generation=1, abboot_version=VERSION, tree_digest=manifest.digest).render()
        records[slot] = record_digest(record)
        volumes[number] = _plan_slot(shape, files, manifest, record)
    bootcode = _bootcode(files) if spec.selector.bootcode else None
    selector = planned[SELECTOR_PARTITION]
    volumes[SELECTOR_PARTITION] = _plan_selector(spec, disk_id, selector, volumes, records, bootcode)
    return _Card(
        request=request,
        volumes=volumes,
        records=records,
        manifest=manifest,
        warnings=warn_tree({file.path: file.size for file in files}, boot_texts(files), firmware_builds(files)),
    )


def _plan_slot(shape: Geometry, files: Sequence[SourceFile], manifest: Manifest, record: bytes) -> _Volume:
    own = {MANIFEST_PATH: manifest.render(), RECORD_PATH: record}
    contents = [Content(path=file.path, size=file.size, chunks=file.chunks) for file in files]
    contents += [_content(path, data) for path, data in own.items()]
    return _Volume(plan=plan_volume(contents, shape), expected={**manifest.as_dict(), **_digests(own)})


def _plan_selector(
    spec: ImageSpec,
    disk_id: str,
    partition: Partition,
    volumes: Mapping[int, _Volume],
    records: Mapping[Slot, str],
    bootcode: bytes | None,
) -> _Volume:
    number = SLOT_PARTITIONS[spec.slots.primary]
    autoboot = Autoboot(primary=number, trial=number).render()
    entry = successor(
        None,
        Transition.BUILT,
        primary=spec.slots.primary,
        slots={slot: _slot_entry(slot, volumes[SLOT_PARTITIONS[slot]].plan.geometry, records[slot]) for slot in Slot},
        autoboot_after=autoboot,
        abboot_version=VERSION,
    )
    journal = entry.encode().ljust(BLOCKS * BLOCK_SIZE, b"\0")
    own = {} if bootcode is None else {_BOOTCODE: bootcode}
    plan = plan_selector(
        partition.size,
        SECTOR,
        spec.selector.label,
        volume_id(disk_id, SELECTOR_PARTITION),
        autoboot,
        journal,
        [_content(path, data) for path, data in own.items()],
        hidden_sectors=partition.start // SECTOR,
    )
    return _Volume(plan=plan, expected=_digests({"autoboot.txt": autoboot, FILE_NAME: journal, **own}))


def _bootcode(files: Sequence[SourceFile]) -> bytes:
    """The second stage of the Pi Zero to 3, which their ROM looks for on the first partition only."""
    for file in files:
        if file.path.lower() == _BOOTCODE and file.size <= _BOOTCODE_MAX:
            return b"".join(file.chunks())
    raise ConfigError(
        f"cannot build the image: selector.bootcode is set, and the tree has no {_BOOTCODE}",
        "take it from the raspi-firmware package, or unset selector.bootcode if no Pi Zero to 3 boots this image",
    )


def _slot_entry(slot: Slot, shape: Geometry, digest: str) -> SlotEntry:
    return SlotEntry(
        partition=SLOT_PARTITIONS[slot],
        state=SlotState.GOOD,
        record_digest=digest,
        generation=1,
        volume_id=shape.volume_id,
        label=shape.label,
        geometry=shape.to_json(),
    )


def _content(path: str, data: bytes) -> Content:
    return Content(path=path, size=len(data), chunks=lambda: iter((data,)))


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}


def _draw_id(kind: TableKind) -> str:
    if kind is TableKind.GPT:
        return str(uuid.uuid4())
    return f"{secrets.randbelow(0xFFFFFFFF) + 1:08x}"


# -- writing -----------------------------------------------------------------------------------------------------------


def _fill(
    path: str,
    card: _Card,
    table: PartitionTable,
    blobs: Sequence[_Blob | None],
    progress: Meter,
) -> int:
    """Write every volume into the new image and read it back.  Returns bytes written."""
    written = 0
    disk = ImageDisk(path)
    try:
        for partition in table.partitions:
            if partition.number in card.volumes:
                with _opened(disk, partition) as device:
                    written += _write_volume(device, card.volumes[partition.number], progress)
        others = [partition for partition in table.partitions if not partition.is_fat and not partition.is_extended]
        for partition, blob in zip(others, blobs, strict=True):
            if blob is not None:
                with _opened(disk, partition) as device:
                    written += blob.copy_to(device)
    finally:
        disk.close()
    return written


def _write_volume(device: BlockDevice, volume: _Volume, progress: Meter) -> int:
    """The same order as a stage (G2), though nothing boots a temporary file: there is one way to write a volume."""
    step = progress.begin("writing", (file.content.path for file in volume.plan.files))
    report = write_content(device, volume.plan, compare(device, volume.plan, None), step)
    device.forget_cache()
    medium = FatVolume(device, volume.plan.boot_sector)
    found = check_files(medium, volume.expected)
    if not found.ok:
        wrong = ", ".join((*found.missing, *found.changed, *found.extra)[:5])
        raise VerificationFailed(f"cannot build {device.name}: {wrong} read back differently from what was written")
    medium.held()  # no chain of one file runs into another
    return (report + validate(device, volume.plan.geometry)).bytes_written


_BLOB_HINT = "`image` of [[partitions]] names a file with the content of that partition"


@attrs.frozen(kw_only=True)
class _Blob:
    """A file that becomes the content of a partition as it is."""

    path: str
    size: int

    @classmethod
    def open(cls, part: PartitionSpec) -> _Blob | None:
        """Look at the file before anything is written; ``None`` if the partition stays empty."""
        if part.image is None:
            return None
        try:
            found = os.stat(part.image)
        except OSError as error:
            raise device_error("read", part.image, error, _BLOB_HINT) from error
        if not stat.S_ISREG(found.st_mode):
            raise AbbootError(f"cannot read {part.image}: it is not a plain file", _BLOB_HINT)
        if found.st_size > part.size:
            raise AbbootError(
                f"cannot put {part.image} on partition {part.label!r}: it has {found.st_size} bytes, {part.size} fit",
                "make the partition larger: `size` in its [[partitions]] table",
            )
        return cls(path=part.image, size=found.st_size)

    def copy_to(self, device: BlockDevice) -> int:
        """Copy and compare; what is zero stays a hole.  Returns bytes written."""
        written = 0
        for offset, chunk in self._chunks():
            if chunk.count(0) != len(chunk):
                device.write(offset, chunk)
                written += len(chunk)
        device.flush()
        device.forget_cache()
        for offset, chunk in self._chunks():
            if device.read(offset, len(chunk)) != chunk:
                raise VerificationFailed(
                    f"cannot copy {self.path} to {device.name}: byte {offset} and on read back differently",
                    "the file may have changed meanwhile",
                )
        return written

    def _chunks(self) -> Iterator[tuple[int, bytes]]:
        """In whole sectors: the last one is filled up with zeros."""
        try:
            with open(self.path, "rb") as file:
                for offset in range(0, self.size, _COPY_SIZE):
                    wanted = min(_COPY_SIZE, self.size - offset)
                    chunk = file.read(wanted)
                    if len(chunk) != wanted:
                        raise AbbootError(f"cannot read {self.path}: it became shorter while it was being read")
                    yield offset, chunk.ljust(-(-wanted // SECTOR) * SECTOR, b"\0")
        except OSError as error:
            raise device_error("read", self.path, error) from error


@contextlib.contextmanager
def _opened(disk: ImageDisk, partition: Partition) -> Iterator[BlockDevice]:
    device = disk.open_partition(partition.number, partition.start, partition.size, writable=True)
    try:
        yield device
    finally:
        device.close()


# -- the file ----------------------------------------------------------------------------------------------------------


def _check_place(out: str | os.PathLike[str]) -> str:
    """The real path that the image will have; a symbolic link is followed, not replaced."""
    path = os.path.realpath(out)
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise AbbootError(f"cannot build {os.fspath(out)}: there is no folder {folder}", "create the folder first")
    if os.path.exists(path) and not os.path.isfile(path):
        raise AbbootError(
            f"cannot build {os.fspath(out)}: it exists and is not a plain file",
            "build into a file, then write that to the card",
        )
    return path


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[str]:
    """A new empty file beside ``path`` that takes its place, durably, if the block ends well, and goes if not."""
    # libparted opens every sibling named `<path>N` for writing: a name that nobody else has.
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{secrets.token_hex(4)}.part")
    try:
        os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    except OSError as error:
        raise device_error("create", temporary, error) from error
    try:
        yield temporary
        _sync(temporary)
        # Cut before this: the old file, and a leftover `.part`.  After it: the new one.
        os.replace(temporary, path)
        _sync(os.path.dirname(path))
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            hint = "free some space there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise device_error("build", path, error, hint) from error
        raise


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
