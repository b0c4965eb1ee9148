"""Preparing a stage: everything that can go wrong before the first destructive write goes wrong here.

Sources are read and hashed, names checked, the record made, the volume planned, and the slot compared with the plan.
Nothing is written.  :meth:`Prepared.write` then does the four epochs of G2: invalidate, content, read back, validate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from abboot.core import record as records
from abboot.core.protocols import BlockDevice
from abboot.core.record import Manifest, Record
from abboot.core.states import SlotReading
from abboot.core.tree import check_tree, warn_tree
from abboot.core.words import Slot
from abboot.errors import Damaged, VerificationFailed
from abboot.fat.check import check_files
from abboot.fat.geometry import Geometry
from abboot.fat.plan import Content, VolumePlan, plan_volume
from abboot.fat.read import FatVolume
from abboot.fat.write import Diff, WriteReport, compare, invalidate, validate, write_content
from abboot.sources import MemoryFile, SourceFile, boot_texts, digest_all

if TYPE_CHECKING:
    from abboot.fat.volume import Held

Progress = Callable[[int, int, str], None]


@attrs.frozen(kw_only=True)
class Prepared:
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

    def write(self, progress: Progress | None = None) -> WriteReport:
        """The four epochs (G2).  Returns what was written.

        Raises:
            VerificationFailed: what was read back differs; the slot has no boot sector then.
            DeviceError: a write, flush or read failed; likewise.
        """
        geometry = self.volume.geometry
        # Cut after this: the slot has no FAT for the firmware or for a partition walk, until the last epoch.
        written = invalidate(self.device, geometry)
        written += write_content(self.device, self.volume, self.diff, progress)
        self._read_back(progress)
        # Cut between the two copies of the boot sector: the slot is whole, and the journal still says incomplete.
        return written + validate(self.device, geometry)

    def _read_back(self, progress: Progress | None) -> None:
        """The whole slot from the medium, by another implementation than the one that wrote it."""
        self.device.forget_cache()
        expected = dict(self.manifest.entries)
        for path, data in self._own_files().items():
            expected[path] = records.record_digest(data)
        volume = FatVolume(self.device, boot_sector=self.volume.geometry.boot_sector())
        try:
            report = check_files(volume, expected, progress)
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

    def _own_files(self) -> dict[str, bytes]:
        return {records.MANIFEST_PATH: self.manifest.render(), records.RECORD_PATH: self.record_data}


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
    sources: Sequence[str] = (),
    progress: Progress | None = None,
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
        sources: what was taken from where.
        progress: called with ``(done_bytes, total_bytes, path)`` while the sources are hashed.

    Raises:
        InvalidTree: the tree cannot be put on this FAT volume.
        AbbootError: a source cannot be read.
    """
    check_tree([(file.path, file.size) for file in files], available=None)
    manifest = digest_all(files, progress)
    old = reading.record
    same = (
        keep
        and old is not None
        and (old.slot, old.tree_digest, old.label, dict(old.annotations))
        == (slot, manifest.digest, label, dict(annotations or {}))
    )
    record = (
        old
        if same and old is not None
        else Record(
            slot=slot,
            generation=generation,
            abboot_version=version,
            label=label,
            tree_digest=manifest.digest,
            sources=tuple(sources),
            annotations=dict(annotations or {}),
        )
    )
    own = [
        MemoryFile(records.MANIFEST_PATH, manifest.render(), "abboot"),
        MemoryFile(records.RECORD_PATH, record.render(), "abboot"),
    ]
    contents = [Content(path=file.path, size=file.size, chunks=file.chunks) for file in (*files, *own)]
    held = _held(device)
    volume = plan_volume(contents, geometry, held)
    return Prepared(
        slot=slot,
        device=device,
        record=record,
        record_data=record.render(),
        manifest=manifest,
        volume=volume,
        diff=compare(device, volume, held),
        files=files,
        warnings=warn_tree({file.path: file.size for file in files}, boot_texts(files)),
    )


def _held(device: BlockDevice) -> Held | None:
    """What the slot holds, if it is a volume that can be trusted to say so."""
    try:
        return FatVolume(device).held()
    except Damaged:
        return None
