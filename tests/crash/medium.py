"""A card that remembers what was done to it and in which order, and that can be told to lie.

What a :class:`CardDisk` does at once happens here as on a real machine: a write may be acknowledged and never kept, and
then reads give it back from the host's cache until somebody forgets that cache and asks the medium.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from abboot.core.autoboot import Autoboot, parse_autoboot
from abboot.core.firmware import Board
from abboot.core.journal import Entry, read_journal
from abboot.core.protocols import Buffer
from abboot.core.words import Slot
from abboot.errors import Damaged
from abboot.simulator.firmware_fat import FirmwareFat, NotReadable
from tests.cards import BOARDS, CONFIG, NUMBERS, CardDisk, CardPi, _Window
from tests.crash.scenarios import SCENARIOS, Moment, beginning


@attrs.frozen(kw_only=True)
class Event:
    """Something that happened to the card or the board, and how the board stood then."""

    kind: str  # "write", "flush", "flag" or "reboot"
    at_s: float  # seconds since this boot
    flag: bool  # what a warm reset would do now
    argument: str | None
    partition: int = 0
    offset: int = 0
    data: bytes = b""
    changes: bool = False  # the medium held something else there
    text: Autoboot | None = None  # of autoboot.txt, when a flag is set
    newest: Entry | None = None  # of the journal, then


class Medium(CardDisk):
    """The card.  ``forgets``: the number of a write that it acknowledges and does not keep."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.pi: RecordedPi | None = None
        self.events: list[Event] = []
        self.forgets: int | None = None
        self.read_s = 0.0  # what every read takes
        self.cached: dict[tuple[int, int], bytes] = {}  # by partition and offset: what only the host believes

    def open_partition(self, number: int, start: int, size: int, *, writable: bool = False) -> _Cached:
        return _Cached(self, number, start, size, writable=writable)

    def note(self, kind: str, **more: Any) -> None:
        pi = self.pi
        if pi is not None:
            state = pi.state
            self.events.append(Event(kind=kind, at_s=pi.seconds(), flag=state.flag, argument=state.argument, **more))

    @property
    def writes(self) -> list[Event]:
        return [event for event in self.events if event.kind == "write"]


class _Cached(_Window):
    """A partition behind the host's cache."""

    def __init__(self, disk: Medium, number: int, start: int, size: int, *, writable: bool) -> None:
        super().__init__(disk, number, start, size, writable=writable)
        self._medium, self._number = disk, number

    def read(self, offset: int, length: int) -> bytes:
        if self._medium.pi is not None and self._medium.read_s:
            self._medium.pi.wait(self._medium.read_s)
        data = bytearray(super().read(offset, length))
        for (number, at), cached in self._medium.cached.items():
            low, high = max(at, offset), min(at + len(cached), offset + length)
            if number == self._number and low < high:
                data[low - offset : high - offset] = cached[low - at : high - at]
        return bytes(data)

    def write(self, offset: int, data: Buffer) -> None:
        kept = bytes(data)
        medium = self._medium
        lost = medium.forgets is not None and medium.forgets == len(medium.writes)
        changes = super().read(offset, len(kept)) != kept
        medium.note("write", partition=self._number, offset=offset, data=kept, changes=changes)
        if lost:
            medium.cached[self._number, offset] = kept
        else:
            medium.cached.pop((self._number, offset), None)
            super().write(offset, kept)

    def flush(self) -> None:
        self._medium.note("flush", partition=self._number)

    def forget_cache(self) -> None:
        for key in [key for key in self._medium.cached if key[0] == self._number]:
            del self._medium.cached[key]


class RecordedPi(CardPi):
    """A Pi with such a card.  ``stuck_flag``: the value that its tryboot flag keeps, whatever it is told."""

    def __init__(self, card: Medium, board: Board | None = None) -> None:
        self.medium = card
        self.stuck_flag: bool | None = None
        super().__init__(card, board or BOARDS["pi4"], CONFIG)

    @classmethod
    def at(cls, moment: Moment) -> RecordedPi:
        """Recording begins here."""
        pi = cls(Medium(moment.path))
        pi.change(**moment.state)
        pi.medium.pi = pi
        return pi

    def seconds(self) -> float:
        return self._board.boottime_s()

    def wait(self, seconds: float) -> None:
        self._board.sleep(seconds)

    def change(self, **changes: Any) -> None:
        if "flag" in changes and self.stuck_flag is not None:
            changes["flag"] = self.stuck_flag
        super().change(**changes)
        if changes.get("flag") is True:
            self.medium.note("flag", text=text_of(self.card), newest=newest_of(self.card))

    def reboot(self, argument: str | None = None) -> Any:
        self.medium.note("reboot")
        return super().reboot(argument)


def begin(name: str) -> RecordedPi:
    """The Pi of a scenario, about to run its verb."""
    return RecordedPi.at(beginning(name))


def recorded(name: str) -> tuple[list[Event], RecordedPi]:
    """What happened in the verb of a scenario that nobody cut, and the Pi afterwards."""
    pi = begin(name)
    SCENARIOS[name].verb(pi)
    return list(pi.medium.events), pi


# -- what is on a card, without abboot's own reader -------------------------------------------------------------------


def file_of(card: CardDisk, name: str, limit: int) -> bytes | None:
    """A file of the selector."""
    start, size = card.place(1)
    with suppress(NotReadable):
        return FirmwareFat(lambda at, length: card.image[start + at : start + at + length], size).read_file(name, limit)
    return None


def text_of(card: CardDisk) -> Autoboot | None:
    with suppress(Damaged):
        return parse_autoboot(file_of(card, "autoboot.txt", 600) or b"")
    return None


def newest_of(card: CardDisk) -> Entry | None:
    return read_journal(file_of(card, "ABBOOT.JNL", 1 << 20) or b"").newest


def visible(card: CardDisk, slot: Slot) -> bool:
    """Whether the firmware would take what is on the slot for a volume."""
    content = card.bytes_of(NUMBERS[slot])
    try:
        FirmwareFat(lambda offset, length: content[offset : offset + length], len(content))
    except NotReadable:
        return False
    return True
