"""Marks in a recording: a sector of text that the guest writes between its other writes.  No I/O here."""

from __future__ import annotations

SECTOR = 512  # bytes
AT = 100 * SECTOR  # in the gap between the MBR and the first partition, which nobody else uses
_MAGIC = b"CRASHLAB "


def mark(text: str) -> bytes:
    return (_MAGIC + text.encode("ascii") + b"\n").ljust(SECTOR, b"\0")


def text_of(offset: int, data: bytes) -> str | None:
    """What the mark says; ``None``: this write is none."""
    if offset != AT or not data.startswith(_MAGIC):
        return None
    return data[len(_MAGIC) :].partition(b"\n")[0].decode("ascii", "replace")
