"""SHA-256 of many files, each piece hashed while the next is being read."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from abboot.fat.ahead import ahead, batches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Step = Callable[[int, int, str], None]


def digest_files(
    files: Sequence[tuple[str, int]], chunks: Callable[[int], Iterable[bytes]], progress: Step | None = None
) -> list[str]:
    """SHA-256 (lower-case hexadecimal) of each file.

    Args:
        files: ``(path, size in bytes)``; the sizes are for the progress only.
        chunks: the content of the file with this index, in pieces.
        progress: called with ``(done_bytes, total_bytes, path)`` after each piece, and once for an empty file.

    Raises:
        BaseException: whatever ``chunks`` raises; nothing is read any more then.
    """
    total = sum(size for _path, size in files)
    done = 0
    digests = [hashlib.sha256() for _ in files]
    with ahead(batches(_pieces(files, chunks))) as read:
        for batch in read:
            for index, chunk in batch:
                digests[index].update(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total, files[index][0])
    return [digest.hexdigest() for digest in digests]


def _pieces(files: Sequence[tuple[str, int]], chunks: Callable[[int], Iterable[bytes]]) -> Iterator[tuple[int, bytes]]:
    """What the files hold, each piece with the index of its file."""
    for index, (_path, size) in enumerate(files):
        if not size:
            yield index, b""  # an empty file is a file too
        for chunk in filter(None, chunks(index)):
            yield index, chunk
