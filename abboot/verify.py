"""Every file of a slot against its manifest, read from the medium."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import attrs

from abboot.core import record as records
from abboot.core.protocols import Disk, Volume
from abboot.core.record import Manifest, parse_manifest
from abboot.core.states import Observation
from abboot.core.tree import RESERVED_DIRECTORY
from abboot.core.value import Value
from abboot.core.words import Slot
from abboot.errors import Damaged, Refused
from abboot.fat.check import check_files
from abboot.progress import SILENT, Meter
from abboot.selector import open_for_reading


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Verification(Value):
    """How a slot differs from what was staged on it; each a sorted tuple of paths.

    ``changed`` counts files whose content differs.  A file whose name changed its case is missing and extra.
    """

    slot: Slot
    record_digest: str
    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not (self.missing or self.changed or self.extra)

    def summary(self, ignoring: Collection[str] = ()) -> str:
        """One phrase: ``1 file changed (kernel8.img), 2 missing (a, b)``."""
        parts = []
        for word, paths in (("changed", self.changed), ("missing", self.missing), ("extra", self.extra)):
            left = [path for path in paths if path not in ignoring]
            if left:
                shown = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
                parts.append(f"{len(left)} file{'s' * (len(left) != 1)} {word} ({shown})")
        return ", ".join(parts) or "nothing differs"


@contextmanager
def open_slot(disk: Disk, observation: Observation, slot: Slot) -> Iterator[Volume]:
    """The files of a slot, through its mount or raw; of a hidden one, with the boot sector that the journal keeps.

    Raises:
        Damaged: there is no volume to read.
    """
    reading, partition = observation.slots[slot], observation.layout.partition(slot)
    if not reading.hidden or reading.geometry is None:
        with open_for_reading(disk, partition) as volume:
            yield volume
        return
    from abboot.fat.geometry import Geometry
    from abboot.fat.read import FatVolume

    device = disk.open_partition(partition.number, partition.start, partition.size)
    try:
        device.forget_cache()
        yield FatVolume(device, boot_sector=Geometry.from_json(reading.geometry).boot_sector())
    finally:
        device.close()


def read_manifest(volume: Volume, name: str) -> tuple[bytes, Manifest]:
    """The manifest of a slot, as bytes and parsed; raises :class:`abboot.errors.Damaged`."""
    if volume.find(records.MANIFEST_PATH) is None:
        raise Damaged(f"cannot verify {name}: there is no {records.MANIFEST_PATH}", "stage a tree onto it")
    data = volume.read_file(records.MANIFEST_PATH, records.MANIFEST_MAX_SIZE)
    return data, parse_manifest(data)


def check_slot(
    disk: Disk,
    observation: Observation,
    slot: Slot,
    *,
    record_digest: str | None = None,
    progress: Meter = SILENT,
) -> Verification:
    """Read every file of ``slot`` and compare it with the manifest, and the manifest with the record.

    Args:
        disk: that holds the slot.
        observation: of it.
        slot: which one.
        record_digest: the record that must be there; ``None`` takes the one that is.
        progress: told about every piece that was read.

    Raises:
        Damaged: the slot has no volume, no record or no manifest that can be read.
        Refused: another record than ``record_digest`` is there.
    """
    reading = observation.slots[slot]
    name = f"slot {slot}"
    if reading.record is None or reading.record_digest is None:
        raise Damaged(
            f"cannot verify {name}: {reading.problem or 'it holds no record'}",
            "only what abboot or its image builder wrote can be verified; stage a tree onto it",
        )
    if record_digest is not None and reading.record_digest != record_digest:
        raise Refused(
            f"cannot use {name}: its record is {reading.record_digest[:12]}, expected {record_digest[:12]}",
            "somebody else wrote this slot; stage the tree again",
        )
    with open_slot(disk, observation, slot) as volume:
        data, manifest = read_manifest(volume, name)
        step = progress.begin("verifying", (path for path, _sha in manifest.entries))
        report = check_files(volume, dict(manifest.entries), step)
    own = f"{RESERVED_DIRECTORY}/"
    return Verification(
        slot=slot,
        record_digest=reading.record_digest,
        missing=report.missing,
        # A manifest that is not the one of the record proves nothing about the files.
        changed=(*report.changed, *((records.MANIFEST_PATH,) if _digest(data) != reading.record.tree_digest else ())),
        extra=tuple(path for path in report.extra if not path.lower().startswith(own)),
    )


def check_present(disk: Disk, observation: Observation, slot: Slot) -> str:
    """Why ``slot`` is not whole enough to be the only way back: empty if its boot sector, record and files are there.

    Contents are not read: a system that booted from it may have edited them.
    """
    reading = observation.slots[slot]
    if not reading.readable:
        return reading.problem or "it has no boot sector"
    if reading.record is None:
        return reading.problem or "it holds no record"
    try:
        with open_slot(disk, observation, slot) as volume:
            _data, manifest = read_manifest(volume, f"slot {slot}")
            present = {file.path.lower() for file in volume.files()}
    except Damaged as error:
        return error.message
    missing = [path for path, _sha in manifest.entries if path.lower() not in present]
    if not missing:
        return ""
    return f"{len(missing)} file{'s are' if len(missing) > 1 else ' is'} missing ({', '.join(missing[:3])})"


def _digest(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()
