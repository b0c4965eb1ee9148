"""Does a volume hold exactly these files?  Every byte is read once, and nothing is kept.

Works on any :class:`abboot.core.protocols.Volume`: a FAT volume read from its device, or a mounted one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from abboot.core.value import Value
from abboot.fat.digest import digest_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from abboot.core.protocols import FileInfo, Volume
    from abboot.fat.digest import Step


@attrs.frozen(kw_only=True, eq=False, repr=False)
class CheckReport(Value):
    """Where a volume differs from what was expected; each a sorted tuple of paths."""

    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not (self.missing or self.changed or self.extra)


def check_files(volume: Volume, expected: Mapping[str, str], progress: Step | None = None) -> CheckReport:
    """Compare a volume with a manifest.

    A name whose case changed is one missing and one extra file: the firmware would still find it, but nobody wrote it.

    Args:
        volume: read once, in directory order; files that are not expected are not read.
        expected: SHA-256 (lower-case hexadecimal) by path.
        progress: called with ``(done_bytes, total_bytes, path)`` after each piece of at most 1 MiB, and once for an
            empty file.

    Raises:
        Damaged: a file or directory cannot be followed.
        DeviceError: the device could not be read.
    """
    present = {file.path: file for file in volume.files()}
    common = [file for path, file in present.items() if path in expected]
    changed = [path for path, digest in _digests(volume, common, progress) if digest != expected[path]]
    return CheckReport(
        missing=tuple(sorted(expected.keys() - present.keys())),
        changed=tuple(sorted(changed)),
        extra=tuple(sorted(present.keys() - expected.keys())),
    )


def digests(volume: Volume, progress: Step | None = None) -> dict[str, str]:
    """SHA-256 (lower-case hexadecimal) of every file, by path.  Arguments and errors as :func:`check_files`."""
    return dict(_digests(volume, volume.files(), progress))


def _digests(volume: Volume, files: Iterable[FileInfo], progress: Step | None) -> Iterator[tuple[str, str]]:
    files = list(files)
    named = [(file.path, file.size) for file in files]
    digests = digest_files(named, lambda index: volume.chunks(files[index].path), progress)
    return zip((file.path for file in files), digests, strict=True)
