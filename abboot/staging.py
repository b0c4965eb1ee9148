"""Preparing a stage: everything that can go wrong before the first destructive write goes wrong here.

Sources are read and hashed, names checked, the record made, the volume planned, and the slot compared with the plan.
Nothing is written.  :meth:`Prepared.write` then does the four epochs of G2: invalidate, content, read back, validate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from abboot.core import record as records
from abboot.core.protocols import BlockDevice
from abboot.core.record import Manifest, Record
from abboot.core.states import SlotReading
from abboot.core.tree import check_tree, warn_tree
from abboot.core.value import Value
from abboot.core.words import Slot
from abboot.errors import AbbootError, Damaged, VerificationFailed
from abboot.fat.check import check_files
from abboot.fat.geometry import Geometry
from abboot.fat.plan import Content, VolumePlan, plan_volume
from abboot.fat.read import FatVolume
from abboot.fat.write import Diff, WriteReport, compare, invalidate, validate, write_content
from abboot.progress import SILENT, Meter
from abboot.sources import MemoryFile, SourceFile, boot_texts, digest_all, firmware_builds

if TYPE_CHECKING:
    from abboot.fat.volume import Held


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Extra(Value):
    """What an adapter puts beside the tree.

    Args:
        forklift: ``Record.forklift``.
        files: path below ``abboot/`` to content.  The digest of each has to be in the record: it names this staging.
    """

    forklift: Mapping[str, Any] | None = None
    files: Mapping[str, bytes] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Prepared(Value):
    """A stage that is ready to be written onto ``device``."""

    slot: Slot
    device: BlockDevice
    record: Record
    record_data: bytes
    manifest: Manifest
    volume: VolumePlan
    diff: Diff
    files: tuple[SourceFile, ...]
    warnings: tuple[str, ...]
    before: Geometry | None = None  # of the volume that is there now
    extra: Extra = Extra()

    @property
    def record_digest(self) -> str:
        return records.record_digest(self.record_data)

    @property
    def changed(self) -> bool:
        return not self.diff.empty

    @property
    def bytes_total(self) -> int:
        """Of the tree, in bytes."""
        return sum(file.size for file in self.files)

    def write(self, progress: Meter = SILENT) -> WriteReport:
        """The four epochs (G2).  Returns what was written.

        Raises:
            VerificationFailed: what was read back differs; the slot has no boot sector then.
            DeviceError: a write, flush or read failed; likewise.
        """
        geometry = self.volume.geometry
        # Cut after this: the slot has no FAT for the firmware or for a partition walk, until the last epoch.
        written = WriteReport()
        if self.before is not None and self.before.boot_sector_offsets != geometry.boot_sector_offsets:
            written += invalidate(self.device, self.before)  # another format: its backup lies somewhere else
        written += invalidate(self.device, geometry)
        step = progress.begin("writing", _in_place(self.volume))
        written += write_content(self.device, self.volume, self.diff, step)
        self._read_back(progress)
        # Cut between the two copies of the boot sector: the slot is whole, and the journal still says incomplete.
        return written + validate(self.device, geometry)

    def _read_back(self, progress: Meter) -> None:
        """The whole slot from the medium, by another implementation than the one that wrote it."""
        self.device.forget_cache()
        expected = dict(self.manifest.entries)
        for path, data in self._own_files().items():
            expected[path] = records.record_digest(data)
        volume = FatVolume(self.device, boot_sector=self.volume.geometry.boot_sector())
        try:
            step = progress.begin("verifying", (file.path for file in volume.files()))
            report = check_files(volume, expected, step)
            volume.held()  # no chain of one file runs into another
        except Damaged as error:
            raise VerificationFailed(
                f"cannot stage slot {self.slot}: read back, the volume is damaged: {error.message}",
                "the card may be failing: replace it; the primary is untouched",
            ) from error
        if not report.ok:
            wrong = (*report.changed, *report.missing, *report.extra)
            raise VerificationFailed(
                f"cannot stage slot {self.slot}: {len(wrong)} files read back differ from what was written "
                f"({', '.join(wrong[:3])})",
                "the card may be failing, or the tree changed while it was staged; the primary is untouched",
            )
        # What no file leads to: the second FAT, free clusters, the counts.  Other readers go by them.
        plan, geometry = self.volume, self.volume.geometry
        tables = [(geometry.fat_offset(copy), plan.fat) for copy in range(geometry.fat_count)]
        tables += [(offset, plan.fsinfo) for offset in geometry.fsinfo_offsets]
        for offset, wanted in tables:
            if self.device.read(offset, len(wanted)) != wanted:
                raise VerificationFailed(
                    f"cannot stage slot {self.slot}: the table at byte {offset} reads back differently",
                    "the card may be failing: replace it; the primary is untouched",
                )

    def _own_files(self) -> dict[str, bytes]:
        return _own_files(self.manifest, self.record_data, self.extra)


def prepare(
    device: BlockDevice,
    slot: Slot,
    files: tuple[SourceFile, ...],
    *,
    geometry: Geometry,
    reading: SlotReading,
    keep: bool,
    generation: int,
    version: str,
    label: str = "",
    annotations: Mapping[str, str] | None = None,
    extra: Extra | None = None,
    sources: Sequence[str] = (),
    progress: Meter = SILENT,
) -> Prepared:
    """Read every source, plan the volume, compare it with the slot.

    Args:
        device: the slot's partition.
        slot: which one.
        files: the tree.
        geometry: of the volume; kept from what is there.
        reading: what the slot holds now.
        keep: the slot's record may stay if tree, label and annotations are those it names, so that staging the same
            tree again writes nothing.
        generation: for a new record.
        version: of abboot, for the record.
        label: free text for people.
        annotations: free keys for programs.
        extra: what an adapter puts beside the tree.
        sources: what was taken from where; shortened where the record has no room for it.
        progress: told about reading and comparing.

    Raises:
        InvalidTree: the tree cannot be put on this FAT volume.
        AbbootError: a source cannot be read.
    """
    check_tree([(file.path, file.size) for file in files], available=None)
    manifest = digest_all(files, progress.begin("reading", (file.path for file in files)))
    extra = extra or Extra()
    old = reading.record
    same = (
        keep
        and old is not None
        and (old.slot, old.tree_digest, old.label, dict(old.annotations), old.forklift)
        == (slot, manifest.digest, label, dict(annotations or {}), extra.forklift)
    )
    record = (
        old
        if same and old is not None
        else _record(
            sources,
            slot=slot,
            generation=generation,
            abboot_version=version,
            label=label,
            tree_digest=manifest.digest,
            annotations=dict(annotations or {}),
            forklift=extra.forklift,
        )
    )
    own = [MemoryFile(path, data, "abboot") for path, data in _own_files(manifest, record.render(), extra).items()]
    contents = [Content(path=file.path, size=file.size, chunks=file.chunks) for file in (*files, *own)]
    before = Geometry.from_json(dict(reading.geometry)) if reading.geometry is not None else None
    held = _held(device)
    if held is not None and held.geometry.sector_size != geometry.sector_size:
        held = None  # sectors of two sizes cannot be compared
    volume = plan_volume(contents, geometry, held)
    step = progress.begin("comparing", _in_place(volume))
    return Prepared(
        slot=slot,
        device=device,
        record=record,
        record_data=record.render(),
        manifest=manifest,
        volume=volume,
        diff=compare(device, volume, held, step),
        files=files,
        warnings=warn_tree({file.path: file.size for file in files}, boot_texts(files), firmware_builds(files)),
        before=before,
        extra=extra,
    )


def _own_files(manifest: Manifest, record_data: bytes, extra: Extra) -> dict[str, bytes]:
    return {records.MANIFEST_PATH: manifest.render(), records.RECORD_PATH: record_data, **extra.files}


def _record(sources: Sequence[str], **fields: Any) -> Record:
    """A record with as many of ``sources`` as there is room for: what was taken from where never stops a stage."""
    for kept in range(len(sources), -1, -1):
        left_out = len(sources) - kept
        lines = (*sources[:kept], *([f"and {left_out} more"] if left_out else []))
        record = Record(sources=lines, **fields)
        try:
            record.render()
        except AbbootError:
            continue
        return record
    return Record(**fields)  # that there is no room at all is said when it is rendered


def _in_place(volume: VolumePlan) -> list[str]:
    """The files in the order of their place on the medium."""
    return [path for _extents, path in sorted((file.extents, file.content.path) for file in volume.files)]


def _held(device: BlockDevice) -> Held | None:
    """What the slot holds, if it is a volume that can be trusted to say so."""
    try:
        return FatVolume(device).held()
    except Damaged:
        return None
