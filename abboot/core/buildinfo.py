"""When a firmware file was built, read out of its bytes.  No I/O here.

Rules: a file in which nothing is found has no date, and whoever asks takes it for new enough, and says so.  Memory and
time are bounded: the bytes are searched piece by piece, and only the first 16 MiB.

Sources: what ``strings`` shows of real files.  ``start4.elf`` of Debian's raspi-firmware 1.20220830 holds
``VC_BUILD_ID_TIME: 14:03:16`` and ``VC_BUILD_ID_TIME: Aug 26 2022``; ``pieeprom-*.bin`` and ``recovery.bin`` of
raspberrypi/rpi-eeprom hold ``BUILD_TIMESTAMP=1666090664``, which rpi-eeprom-update reads the same way.
``bootcode.bin`` holds neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime

SEARCHED_BYTES = 16 * 1024 * 1024  # start4x.elf has 4 MiB, an EEPROM image 2 MiB
_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_MARK = re.compile(
    rb"VC_BUILD_ID_TIME: +(?P<month>[A-Z][a-z]{2}) {1,2}(?P<day>[0-9]{1,2}) (?P<year>[0-9]{4})(?![0-9])"
    rb"|BUILD_TIMESTAMP=(?P<stamp>[0-9]{9,10})(?![0-9])"
)
_LONGEST_MARK = 64  # bytes, and one more digit that would make it another number


def build_date(pieces: Iterable[bytes]) -> date | None:
    """The day (UTC) on which this firmware file was built; ``None`` if it does not tell.

    Args:
        pieces: the file's content, in order; no more of it is asked for than is needed.
    """
    kept, searched = b"", 0
    for piece in pieces:
        window = kept + piece[: SEARCHED_BYTES - searched]
        searched += len(piece)
        last = searched >= SEARCHED_BYTES
        # What begins in the tail may go on in the next piece: it is looked at again with it.
        found = _first(window, len(window) if last else len(window) - _LONGEST_MARK)
        if found is not None or last:
            return found
        kept = window[-_LONGEST_MARK:]
    return _first(kept, len(kept))


def _first(window: bytes, end: int) -> date | None:
    for match in _MARK.finditer(window):
        if match.start() >= end:
            return None
        if (found := _date(match)) is not None:
            return found
    return None


def _date(match: re.Match[bytes]) -> date | None:
    if match["stamp"] is not None:
        return datetime.fromtimestamp(int(match["stamp"]), UTC).date()
    if match["month"] not in _MONTHS:
        return None
    try:
        return date(int(match["year"]), _MONTHS.index(match["month"]) + 1, int(match["day"]))
    except ValueError:
        return None
