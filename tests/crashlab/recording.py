"""What a power cut may leave of a recorded switch.  No I/O here.

A recording is the partition as it was at the mark "start", and then sectors that were written, in their order, flushes,
and the guest's other marks (:mod:`tests.crashlab.inside`).  A sector is written whole or not at all, and a write of
several may be torn between any two.  Two ways to lose power:

in order    the medium keeps the sectors in the order in which it got them: every beginning of the recording
any order   between two flushes it keeps what it likes: of every sector that was written there, any version

A pause ends an epoch as a flush does: no medium is supposed to sit for five seconds on what it has acknowledged.
Without that, what a kernel writes back half a minute later would count as in flight together.

With ``flushes=False`` only the pauses count.  That is the worst that an SD card could do: Linux sends a card no flushes
(measured with 6.1 and 6.12 on an emulated card).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from tests.crashlab.logwrites import Entry
from tests.crashlab.marks import SECTOR, text_of

PAUSE_S = 5.0

Changes = Mapping[int, bytes]
"""Sectors by their number in the partition, that are not as in :attr:`Recording.base`."""


class NotRecorded(Exception):
    """The recording is not what the guest should have left."""


@attrs.frozen(kw_only=True)
class Written:
    """One sector of the partition."""

    sector: int
    data: bytes


@attrs.frozen(kw_only=True)
class Flushed:
    """Everything before it is on the medium."""


@attrs.frozen(kw_only=True)
class Marked:
    """The guest said something: ``returned``, ``tick`` (so many seconds after it returned), ``end``."""

    text: str
    seconds: float = 0.0


Step = Written | Flushed | Marked


@attrs.frozen(kw_only=True)
class Recording:
    base: bytes
    steps: tuple[Step, ...]

    @property
    def writes(self) -> int:
        return sum(isinstance(step, Written) for step in self.steps)

    @property
    def flushes(self) -> int:
        return sum(isinstance(step, Flushed) for step in self.steps)

    def in_order(self) -> Iterator[Changes]:
        """Every beginning, the empty one first."""
        changes: dict[int, bytes] = {}
        yield {}
        for step in self.steps:
            if isinstance(step, Written):
                changes[step.sector] = step.data
                yield dict(changes)

    def any_order(self, *, flushes: bool = True) -> Iterator[Changes]:
        """Every choice of versions within every epoch; states may come twice."""
        before: dict[int, bytes] = {}
        for epoch in self.epochs(flushes=flushes):
            versions = {
                sector: list(dict.fromkeys([before.get(sector, self._base(sector)), *datas]))
                for sector, datas in epoch.items()
            }
            for chosen in itertools.product(*versions.values()):
                yield before | dict(zip(versions, chosen, strict=True))
            before |= {sector: datas[-1] for sector, datas in epoch.items()}

    def epochs(self, *, flushes: bool = True) -> Iterator[dict[int, list[bytes]]]:
        """What was written between two flushes or pauses: the versions of each sector, oldest first."""
        epoch: dict[int, list[bytes]] = {}
        quiet_since: float | None = None
        for step in self.steps:
            match step:
                case Written():
                    quiet_since = None
                    epoch.setdefault(step.sector, []).append(step.data)
                case Flushed() if flushes and epoch:
                    yield epoch
                    epoch = {}
                case Marked():
                    quiet_since = step.seconds if quiet_since is None else quiet_since
                    if epoch and step.seconds - quiet_since >= PAUSE_S:
                        yield epoch
                        epoch = {}
        yield epoch

    def at(self, mark: str, *, flushed: bool = False) -> Changes:
        """The medium when the guest left this mark; with ``flushed``, only what it had to have by then."""
        changes: dict[int, bytes] = {}
        kept: dict[int, bytes] = {}
        for step in self.steps:
            match step:
                case Written():
                    changes[step.sector] = step.data
                case Flushed():
                    kept = dict(changes)
                case Marked(text=text) if text == mark:
                    return kept if flushed else changes
        raise NotRecorded(f"there is no mark {mark!r}")

    def ticks(self) -> Iterator[tuple[float, Changes]]:
        """The medium when the idiom returned, and each time after that: seconds, state."""
        changes: dict[int, bytes] = {}
        for step in self.steps:
            match step:
                case Written():
                    changes[step.sector] = step.data
                case Marked(text="returned" | "tick"):
                    yield step.seconds, dict(changes)

    def changed(self, state: Changes) -> Changes:
        """The state without the sectors that are as they were."""
        return {sector: data for sector, data in state.items() if data != self._base(sector)}

    def _base(self, sector: int) -> bytes:
        return self.base[sector * SECTOR : (sector + 1) * SECTOR]


def apply(image: bytearray, entries: Iterable[Entry]) -> None:
    """Do what was recorded to the whole disk."""
    for entry in entries:
        image[entry.offset : entry.offset + len(entry.data)] = entry.data


def recording(disk: bytes, entries: Sequence[Entry], start: int, size: int) -> Recording:
    """Of the disk as it was made, and everything that was recorded; the partition is ``size`` bytes at ``start``.

    Raises:
        NotRecorded: a mark is missing, or something else than the partition was written.
    """
    image = bytearray(disk)
    base: bytes | None = None
    steps: list[Step] = []
    for entry in entries:
        if entry.flush and base is not None:
            steps.append(Flushed())
        text = text_of(entry.offset, entry.data)
        if text == "start":
            base = bytes(image[start : start + size])
        elif base is None:
            apply(image, [entry])
        elif text is not None:
            word, _, seconds = text.partition(" ")
            steps.append(Marked(text=word, seconds=float(seconds or 0)))
        elif entry.data and start <= entry.offset <= start + size - len(entry.data):
            steps += [
                Written(sector=(entry.offset - start + at) // SECTOR, data=entry.data[at : at + SECTOR])
                for at in range(0, len(entry.data), SECTOR)
            ]
        elif entry.data or entry.discard:
            raise NotRecorded(f"{len(entry.data) or entry.discard} bytes at {entry.offset} are not in the partition")
    if base is None or not any(step == Marked(text="end") for step in steps):
        raise NotRecorded("the guest's first or last mark is missing")
    return Recording(base=base, steps=tuple(steps))
