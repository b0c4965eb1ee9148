"""Every card that a power cut may leave behind, and what has to be true of each: the judge of the crash tests.

A verb is recorded once, write by write and flush by flush.  Between two flushes (an *epoch*) a medium may keep what it
likes: any of the writes in any order, and of a large one any number of its sectors.  So a state of the card is how many
sectors it kept of each write of one epoch, with everything before that epoch whole.

Rules:
    1. Nothing of abboot judges a state.  :class:`FirmwareFat` reads it, the firmware model boots it, ``fsck.vfat`` and
       mtools look at it; abboot only runs afterwards, as it would at the next boot.
    2. Equal states are judged once.  Each partition has a digest that is the XOR of those of its changed sectors, so
       the digest of a state costs one XOR for each write, however large the card is.
    3. The firmware decides from what is visible on each partition, so each distinct partition is read once, and each
       distinct combination of what is visible is booted once, on every board.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from abboot.core.firmware import Board, CardView, PartitionView, ResetKind, after_reset, next_boot, opens_type
from abboot.core.journal import Entry, Trial, read_journal
from abboot.core.partition_table import PartitionTable, read_partition_table
from abboot.core.states import OPEN
from abboot.core.words import FatType, Outcome, Phase, Slot, SlotState, Transition
from abboot.simulator.disk import Write
from abboot.simulator.firmware_fat import FirmwareFat, NotReadable
from tests.cards import BOARDS, CONFIG, NUMBERS, CardDisk, CardPi, scratch
from tests.crash.scenarios import SCENARIOS, beginning, where

SECTOR = 512
EXHAUSTIVE = 12  # writes: an epoch of at most so many is taken apart completely
Kept = tuple[int, ...]  # of each write of an epoch, how many of its sectors are on the medium
SELECTOR = 1
SLOTS: Mapping[int, Slot] = {number: slot for slot, number in NUMBERS.items()}
TOOLS = ("fsck.vfat", "mtype", "mdir", "mcopy", "sha256sum")
_BACKUP = 6  # the sector of a FAT32's second boot sector (FAT specification 1.03, BPB_BkBootSec)
_DIGEST_BITS = 96


@attrs.frozen(kw_only=True)
class Depth:
    """How much is looked at."""

    samples: int  # drawn for each epoch, with torn writes among them, besides every subset of a small one
    torn: int | None  # boundaries of each write at which it may tear; None: all
    strangers: int | None  # distinct partitions of each epoch that fsck.vfat and mtools see; None: all but of samples
    recoveries: int  # states of each epoch from which abboot goes on
    boards: tuple[str, ...]  # on which it goes on; what a cold boot reaches is asked of all


QUICK = Depth(samples=200, torn=4, strangers=4, recoveries=4, boards=("pi4", "pi4-2022-12"))  # `make test`
FULL = Depth(samples=100_000, torn=None, strangers=None, recoveries=150, boards=tuple(BOARDS))  # `make crash`


@attrs.define(kw_only=True)
class Figures:
    """What was looked at: a row of the table that `make crash` prints."""

    case: str
    writes: int = 0
    epochs: int = 0
    largest: int = 0  # writes of the largest epoch
    states: int = 0  # that a medium may leave
    distinct: int = 0
    boots: int = 0  # asked of the firmware model
    strangers: int = 0  # distinct partitions judged by fsck.vfat and mtools
    recovered: int = 0  # states from which abboot went on
    seconds: float = 0.0


class Violation(AssertionError):
    """A state that a guarantee forbids."""


def demand(condition: object, sentence: str) -> None:
    if not condition:
        raise Violation(sentence)


def data_of(write: Write) -> bytes:
    assert write.data is not None
    return write.data


def recorded(name: str) -> tuple[list[Write], CardPi]:
    """The writes and flushes of the verb that is not cut, and the Pi afterwards."""
    pi = beginning(name).again()
    writes = pi.disk.record()
    SCENARIOS[name].verb(pi)
    return list(writes), pi


def applied(name: str, writes: Sequence[Write]) -> CardDisk:
    """The card of a scenario with exactly these writes."""
    card = CardDisk(beginning(name).path)
    for write in writes:
        apply(card, write)
    return card


def apply(card: CardDisk, write: Write) -> None:
    data = data_of(write)
    at = card.place(write.partition)[0] + write.offset
    card.image[at : at + len(data)] = data


# -- states -----------------------------------------------------------------------------------------------------------


@functools.cache
def _sector_digest(partition: int, number: int, content: bytes) -> int:
    name = b"%d %d " % (partition, number)
    return int.from_bytes(hashlib.blake2b(name + content, digest_size=_DIGEST_BITS // 8).digest(), "little")


class Digest(int):
    """Of a partition, relative to another state of it: 0 is equal.  Its boot sectors are counted by themselves."""

    @property
    def content(self) -> int:
        """Everything but the boot sector and its backup."""
        return self & ((1 << _DIGEST_BITS) - 1)


class Epoch:
    """The writes between two flushes, over the card as it was before them.

    ``card`` is the same object in all epochs of a recording: ask for the next one when this one is judged.
    """

    def __init__(self, index: int, card: CardDisk, writes: list[Write], before: dict[int, int], fat: FatType) -> None:
        self.index, self.card, self.writes, self.before = index, card, writes, before
        self._boot_sectors = (0, _BACKUP) if fat is FatType.FAT32 else (0,)
        self.whole: Kept = tuple(len(data_of(write)) // SECTOR for write in writes)
        self._steps: list[list[int]] = []  # of each write, the digest of its first n sectors
        for write in writes:
            steps = [0]
            for number, old, new in self._sectors(write):
                steps.append(steps[-1] ^ self._change(write.partition, number, old, new))
            self._steps.append(steps)
        places = sorted((write.partition, write.offset, write.offset + len(data_of(write))) for write in writes)
        self._disjoint = all(a[0] != b[0] or a[2] <= b[1] for a, b in itertools.pairwise(places))

    def _sectors(self, write: Write) -> Iterator[tuple[int, bytes, bytes]]:
        data = data_of(write)
        start = self.card.place(write.partition)[0] + write.offset
        for at in range(0, len(data), SECTOR):
            old = bytes(self.card.image[start + at : start + at + SECTOR])
            yield (write.offset + at) // SECTOR, old, data[at : at + SECTOR]

    def _change(self, partition: int, number: int, old: bytes, new: bytes) -> int:
        if old == new:
            return 0
        change = _sector_digest(partition, number, old) ^ _sector_digest(partition, number, new)
        return change << _DIGEST_BITS if partition in SLOTS and number in self._boot_sectors else change

    def digests(self, kept: Kept) -> dict[int, Digest]:
        """Of each partition, relative to the beginning of the recording."""
        found = dict(self.before)
        if self._disjoint:
            for write, steps, count in zip(self.writes, self._steps, kept, strict=True):
                found[write.partition] ^= steps[count]
        else:
            sectors: dict[tuple[int, int], tuple[bytes, bytes]] = {}
            for write, count in zip(self.writes, kept, strict=True):
                for number, old, new in itertools.islice(self._sectors(write), count):
                    sectors[write.partition, number] = (old, new)
            for (partition, number), (old, new) in sectors.items():
                found[partition] ^= self._change(partition, number, old, new)
        return {partition: Digest(digest) for partition, digest in found.items()}

    def pieces(self, kept: Kept) -> list[Write]:
        """What was kept."""
        return [
            Write(partition=write.partition, offset=write.offset, data=data_of(write)[: count * SECTOR])
            for write, count in zip(self.writes, kept, strict=True)
            if count
        ]

    def reader(self, kept: Kept, partition: int) -> tuple[Callable[[int, int], bytes], int]:
        """How to read the partition in this state, without a copy of it; and its size."""
        start, size = self.card.place(partition)
        image = self.card.image
        pieces = [(piece.offset, data_of(piece)) for piece in self.pieces(kept) if piece.partition == partition]

        def read(offset: int, length: int) -> bytes:
            data = bytearray(image[start + offset : start + min(offset + length, size)])
            for at, new in pieces:
                low, high = max(at, offset), min(at + len(new), offset + len(data))
                if low < high:
                    data[low - offset : high - offset] = new[low - at : high - at]
            return bytes(data)

        return read, size

    def card_of(self, name: str, done: Sequence[Write], kept: Kept) -> CardDisk:
        """The whole card in this state, to be changed as one likes."""
        return applied(name, [*done, *self.pieces(kept)])


def epochs_of(writes: Sequence[Write]) -> list[list[Write]]:
    """The writes between two flushes; what is behind the last one as well."""
    found: list[list[Write]] = [[]]
    for write in writes:
        if write.data is None:
            found.append([])
        else:
            found[-1].append(write)
    return [epoch for epoch in found if epoch]


def subsets(epoch: Epoch) -> Iterator[Kept]:
    """Whole writes only: every subset of a small epoch, of a larger one every beginning."""
    whole = epoch.whole
    if len(whole) <= EXHAUSTIVE:
        yield from itertools.product(*((0, count) for count in whole))
    else:
        for number in range(len(whole) + 1):
            yield whole[:number] + (0,) * (len(whole) - number)


def torn(epoch: Epoch, depth: Depth, draw: random.Random) -> Iterator[Kept]:
    """One write torn at a boundary of its sectors: the last one, or one that was late."""
    whole = epoch.whole
    for index, count in enumerate(whole):
        boundaries: Sequence[int] = range(1, count)
        if depth.torn is not None and len(boundaries) > depth.torn:
            boundaries = sorted({1, count - 1, *draw.sample(boundaries, depth.torn - 2)})
        for at in boundaries:
            yield whole[:index] + (at,) + (0,) * (len(whole) - index - 1)
            if len(whole) > 1:
                yield (*whole[:index], at, *whole[index + 1 :])


def samples(epoch: Epoch, depth: Depth, draw: random.Random) -> Iterator[Kept]:
    """Any writes in part or as a whole."""
    if len(epoch.whole) < 2:
        return  # every subset and every tear of a single write is among the others
    for _ in range(depth.samples):
        yield tuple(
            0 if luck < 0.4 else count if luck < 0.8 else draw.randrange(count + 1)
            for luck, count in ((draw.random(), count) for count in epoch.whole)
        )


# -- what the firmware makes of a state -------------------------------------------------------------------------------


@attrs.frozen
class Seen:
    """A partition as the firmware sees it."""

    readable: bool
    paths: frozenset[str] = frozenset()
    autoboot: bytes | None = None


def look(read: Callable[[int, int], bytes], size: int) -> Seen:
    try:
        fat = FirmwareFat(read, size)
        return Seen(readable=True, paths=fat.paths(), autoboot=fat.read_file("autoboot.txt", 4096))
    except NotReadable:
        return Seen(readable=False)


@attrs.frozen
class Reached:
    """A partition that a cold boot may reach, and why."""

    partition: int | None
    board: Board
    why: tuple[str, ...]


def cold_boots(table: PartitionTable, partitions: Mapping[int, Seen]) -> list[Reached]:
    """On every board, with what nobody knows answered both ways."""
    found = []
    starts = [partition.start for partition in table.partitions]
    for board in BOARDS.values():
        views, autoboot = [], None
        for partition in table.partitions:
            seen = partitions[partition.number]
            readable = partition.is_fat and opens_type(board, partition.type_id) is not False and seen.readable
            files = seen.paths if readable else frozenset()
            if readable and not any(view.readable for view in views):
                autoboot = seen.autoboot
            views.append(PartitionView(number=partition.number, readable=readable, files=files))
        card = CardView(
            table=table.kind, partitions=tuple(views), autoboot=autoboot, in_disk_order=starts == sorted(starts)
        )
        for reset in after_reset(board, ResetKind.POWER_CUT, flag=False, argument=None, request=0):
            found += [Reached(boot.partition, board, boot.why) for boot in next_boot(board, card, reset)]
    return found


# -- the judge --------------------------------------------------------------------------------------------------------


class Judge:
    """All states of one scenario."""

    def __init__(self, name: str, depth: Depth, *, seed: int = 0) -> None:
        self.name, self.scenario, self.depth, self.seed = name, SCENARIOS[name], depth, seed
        self.figures = Figures(case=name)
        self.card = CardDisk(beginning(name).path)
        self.table = read_partition_table(self.card.read, self.card.size_bytes, 512, name=name)
        self.writes, last = recorded(name)
        self.last = last.card
        self._seen: dict[tuple[int, Digest], Seen] = {}
        self._boots: dict[tuple[Seen, ...], list[Reached]] = {}
        self._judged: set[tuple[Digest, ...]] = set()
        self._whole: dict[int, set[int]] = {}  # of each slot, the digests of contents that may be visible
        self._strangers = Strangers(self.card) if all(shutil.which(tool) for tool in TOOLS) else None
        self._expected: dict[Board, dict[str, object]] = {}
        self._contents = {self._content(card, slot) for card in (self.card, self.last) for slot in Slot}

    def run(self) -> Figures:
        """Raises :class:`Violation`."""
        began = time.monotonic()
        epochs = epochs_of(self.writes)
        self._find_whole(epochs)
        draw = random.Random(f"{self.name} {self.seed}")
        before, done = {partition.number: 0 for partition in self.table.partitions}, []
        for index, writes in enumerate(epochs):
            epoch = Epoch(index, self.card, writes, before, self.scenario.fat)
            found = self._judge_all(epoch, draw)
            for number, kept in enumerate(_some(found, self.depth.recoveries, draw)):
                self._recover(epoch, done, kept, number)
            before = {partition: int(digest) for partition, digest in epoch.digests(epoch.whole).items()}
            for write in writes:
                apply(self.card, write)
                if self._strangers is not None:
                    self._strangers.keep(write)
            done += writes
        self.figures.writes, self.figures.epochs = len(done), len(epochs)
        self.figures.largest = max(map(len, epochs))
        self.figures.seconds = time.monotonic() - began
        return self.figures

    def _content(self, card: CardDisk, slot: Slot) -> bytes:
        """Names everything of a slot but its boot sectors."""
        content = bytearray(card.bytes_of(NUMBERS[slot]))
        for sector in (0, _BACKUP) if self.scenario.fat is FatType.FAT32 else (0,):
            content[sector * SECTOR : (sector + 1) * SECTOR] = bytes(SECTOR)
        return hashlib.blake2b(content).digest()

    def _find_whole(self, epochs: list[list[Write]]) -> None:
        """What a slot held, if the firmware saw it, and what it holds in the end."""
        card = CardDisk(beginning(self.name).path)
        digests = {partition.number: 0 for partition in self.table.partitions}
        for number in SLOTS:
            read, size = Epoch(0, card, [], digests, self.scenario.fat).reader((), number)
            self._whole[number] = {0} if look(read, size).readable else set()
        for index, writes in enumerate(epochs):
            epoch = Epoch(index, card, writes, digests, self.scenario.fat)
            digests = {partition: int(digest) for partition, digest in epoch.digests(epoch.whole).items()}
            for write in writes:
                apply(card, write)
        for number in SLOTS:
            self._whole[number].add(Digest(digests[number]).content)

    def _judge_all(self, epoch: Epoch, draw: random.Random) -> list[Kept]:
        """The states that were not judged before."""
        found: list[Kept] = []
        small = itertools.chain(subsets(epoch), torn(epoch, self.depth, draw))
        for number, kept in enumerate(itertools.chain(small, [None], samples(epoch, self.depth, draw))):
            if kept is None:  # the small ones end here
                self._show_strangers(epoch, _some(found, self.depth.strangers, draw))
                continue
            self.figures.states += 1
            digests = epoch.digests(kept)
            key = tuple(digests.values())
            if key not in self._judged:
                self._judged.add(key)
                found.append(kept)
                self._judge(epoch, kept, digests, in_order=number == 0)
        self.figures.distinct += len(found)
        return found

    def _when(self, epoch: Epoch, kept: Kept) -> str:
        return f"{self.name}, epoch {epoch.index}, {kept} of {epoch.whole} sectors"

    def _look(self, epoch: Epoch, kept: Kept, partition: int, digest: Digest) -> Seen:
        seen = self._seen.get((partition, digest))
        if seen is None:
            seen = self._seen[partition, digest] = look(*epoch.reader(kept, partition))
        return seen

    def _judge(self, epoch: Epoch, kept: Kept, digests: Mapping[int, Digest], *, in_order: bool) -> None:
        partitions = {number: self._look(epoch, kept, number, digest) for number, digest in digests.items()}
        self._judge_slots(epoch, kept, digests, partitions)
        key = tuple(partitions.values())
        boots = self._boots.get(key)
        if boots is None:
            boots = self._boots[key] = cold_boots(self.table, partitions)
            self.figures.boots += len(boots)
        good = {NUMBERS[slot] for slot in self.scenario.may_boot}
        for boot in boots:
            if boot.partition is None and self.scenario.damaged and not boot.board.resolve_zero:
                continue  # it may wait at the selector; nobody measured it
            demand(
                boot.partition in good,
                f"G1: {self._when(epoch, kept)}, on a {boot.board.model} of {boot.board.bootloader}: "
                f"a cold boot reaches {boot.partition}: {boot.why}",
            )

    def _judge_slots(
        self, epoch: Epoch, kept: Kept, digests: Mapping[int, Digest], partitions: Mapping[int, Seen]
    ) -> None:
        for number, slot in SLOTS.items():
            visible = partitions[number].readable
            whole = digests[number].content in self._whole[number]
            demand(
                whole or not visible,
                f"G2: {self._when(epoch, kept)}: slot {slot} is half written and the firmware sees it",
            )
            if self.scenario.fat is FatType.FAT32 and not visible:
                # It goes with the boot sector, and comes after it: no reader that takes it instead sees more.
                read, _size = epoch.reader(kept, number)
                backup = any(read(_BACKUP * SECTOR, SECTOR))
                demand(whole or not backup, f"G2: {self._when(epoch, kept)}: the backup of slot {slot} is there")
                first = Digest(digests[number]).content == 0
                demand(
                    first or not backup,
                    f"G2: {self._when(epoch, kept)}: the backup of slot {slot} came before its boot sector",
                )

    # -- fsck.vfat and mtools -----------------------------------------------------------------------------------------

    def _show_strangers(self, epoch: Epoch, states: Sequence[Kept]) -> None:
        if self._strangers is None:
            return
        for kept in states:
            for number, digest in epoch.digests(kept).items():
                if self._strangers.is_new(number, digest):
                    seen = self._look(epoch, kept, number, digest)
                    pieces = [piece for piece in epoch.pieces(kept) if piece.partition == number]
                    problem = self._strangers.judge(number, pieces, seen)
                    demand(not problem, f"{self._when(epoch, kept)}: partition {number}: {problem}")
                    self.figures.strangers += 1

    # -- the next run of abboot ---------------------------------------------------------------------------------------

    def _expect(self, board: Board) -> dict[str, object]:
        """Where the same steps lead from the verb that was not cut."""
        if board not in self._expected:
            pi = CardPi(_again(self.last), board, CONFIG)
            self.scenario.goal(pi)
            self._expected[board] = where(pi)
        return self._expected[board]

    def _recover(self, epoch: Epoch, done: Sequence[Write], kept: Kept, number: int) -> None:
        board = BOARDS[self.depth.boards[number % len(self.depth.boards)]]
        when = f"{self._when(epoch, kept)}, on a {board.model} of {board.bootloader}"
        pi = CardPi(epoch.card_of(self.name, done, kept), board, CONFIG)
        if not pi.running:
            demand(self.scenario.damaged and not board.resolve_zero, f"{when}: nothing boots")
            return
        before = journal_of(pi.card)
        status = pi.manager().status()
        json.dumps(status.to_json())
        if not self.scenario.damaged:
            demand(status.phase is not Phase.FOREIGN, f"{when}: {status.reason}")
            demand(pi.manager().verify().ok, f"{when}: what runs is not what was written")
            pi.manager().note_boot()  # what every boot does first
            for slot in Slot:
                # What it took for a hidden slot may have been a half written one.
                shown = look(*_reader(pi.card, NUMBERS[slot])).readable
                demand(
                    not shown or self._content(pi.card, slot) in self._contents,
                    f"G2: {when}: afterwards slot {slot} is half written and the firmware sees it",
                )
        self.scenario.goal(pi)
        demand(where(pi) == self._expect(board), f"{when}: it ends {where(pi)}, expected {self._expect(board)}")
        on_trial = pi.manager().status().phase is Phase.TRIAL
        problem = untold(before, pi.manager().log(), on_trial=on_trial, damaged=self.scenario.damaged)
        demand(not problem, f"{when}: the log does not say what happened: {problem}")
        pi.power_cut()
        demand(pi.running, f"{when}: after the recovery nothing boots")
        self.figures.recovered += 1


def _some(states: list[Kept], at_most: int | None, draw: random.Random) -> list[Kept]:
    """The first, the last, and drawn ones between them."""
    if at_most is None or len(states) <= at_most:
        return list(states)
    if at_most < 3:
        return states[:at_most]
    return [states[0], *draw.sample(states[1:-1], at_most - 2), states[-1]]


def _again(card: CardDisk) -> CardDisk:
    path = card.save(Path(tempfile.mkdtemp(prefix="again-", dir=scratch()), "card.img"))
    found = CardDisk(path)
    path.unlink()
    return found


def _reader(card: CardDisk, number: int) -> tuple[Callable[[int, int], bytes], int]:
    start, size = card.place(number)
    return (lambda at, length: bytes(card.image[start + at : start + at + length])), size


def journal_of(card: CardDisk) -> tuple[Entry, ...]:
    """The entries that the firmware's reader finds; none where it finds no journal."""
    try:
        fat = FirmwareFat(*_reader(card, SELECTOR))
        return read_journal(fat.read_file("ABBOOT.JNL", 1 << 20) or b"").entries
    except NotReadable:
        return ()


def untold(before: Sequence[Entry], log: Sequence[Entry], *, on_trial: bool, damaged: bool = False) -> str:
    """What somebody who reads the log would not learn of what happened; empty if it is all there."""
    entries = {entry.sequence: entry for entry in log}
    for entry in before:
        if entry.sequence >= log[0].sequence and entries.get(entry.sequence) != entry:
            return f"entry {entry.sequence}, {entry.transition}, is gone"
    for older, newer in itertools.pairwise(log):
        if _is_open(older.trial) and not _is_same(older.trial, newer.trial):
            return f"how the trial of entry {older.sequence} ended"
        # That somebody edited autoboot.txt would be a lie.
        explained = newer.transition is Transition.COMMITTED or damaged
        if newer.transition is Transition.CONCLUDED and newer.trial is not None:
            explained = newer.trial.outcome is Outcome.COMMITTED
        if older.primary is not newer.primary and not explained:
            return f"why the primary changed in entry {newer.sequence}, {newer.transition}"
    newest = log[-1]
    if SlotState.INCOMPLETE in {known.state for known in newest.slots.values()}:
        return "what became of the stage that was cut"
    return "how the last trial ended" if _is_open(newest.trial) and not on_trial else ""


def _is_open(trial: Trial | None) -> bool:
    return trial is not None and trial.progress in OPEN


def _is_same(one: Trial | None, other: Trial | None) -> bool:
    names = ("slot", "record_digest", "attempt", "armed_boot_id")
    return all(getattr(one, name, None) == getattr(other, name, None) for name in names)


class Strangers:
    """``fsck.vfat -n`` and mtools look at the partitions of a card; the firmware's reader must agree with them.

    Each partition is a file that follows the recording, and each state is written over it and taken back again.
    """

    def __init__(self, card: CardDisk) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="strangers-", dir=scratch()))
        self._judged: set[tuple[int, Digest]] = set()
        self._paths: dict[int, Path] = {}
        self._known: dict[int, set[str]] = {}  # complaints about the card as it was at the beginning
        self._card = card
        for number in (SELECTOR, *SLOTS):
            self._paths[number] = self._folder / f"{number}.img"
            _write_sparse(self._paths[number], card.bytes_of(number))

    def is_new(self, number: int, digest: Digest) -> bool:
        key = (number, digest)
        if key in self._judged:
            return False
        self._judged.add(key)
        return True

    def keep(self, write: Write) -> None:
        with self._paths[write.partition].open("r+b") as file:
            file.seek(write.offset)
            file.write(data_of(write))

    def judge(self, number: int, pieces: Sequence[Write], seen: Seen) -> str:
        """What is wrong with a partition; empty if nothing is."""
        path = self._paths[number]
        if number not in self._known:
            self._known[number] = set()
            self._known[number] = self._complaints(path)
        for piece in pieces:
            self.keep(piece)
        try:
            return self._differences(number, path, seen)
        finally:
            start = self._card.place(number)[0]
            for piece in pieces:
                length = len(data_of(piece))
                old = bytes(self._card.image[start + piece.offset : start + piece.offset + length])
                self.keep(attrs.evolve(piece, data=old))

    def _differences(self, number: int, path: Path, seen: Seen) -> str:
        listing = _run("mdir", "-/", "-b", "-i", str(path), "::")
        if not seen.readable:
            if listing.returncode == 0:
                return "the firmware sees no volume there, and mdir does"
            return "" if _run("fsck.vfat", "-n", str(path)).returncode else "fsck.vfat takes it for a volume"
        complaints = self._complaints(path) - self._known[number]
        if complaints:
            return f"fsck.vfat: {'; '.join(sorted(complaints))}"
        names = listing.stdout.decode().splitlines()
        paths = {line.removeprefix("::/").lower() for line in names if line and not line.endswith("/")}
        if listing.returncode or paths != seen.paths:
            return f"mdir lists {sorted(paths ^ seen.paths)} otherwise than the firmware"
        if number == SELECTOR:
            text = _run("mtype", "-i", str(path), "::autoboot.txt")
            return (
                "" if (text.stdout if text.returncode == 0 else None) == seen.autoboot else "mtype reads another text"
            )
        return self._wrong_files(path)

    def _complaints(self, path: Path) -> set[str]:
        """Without the summary.  A FAT32 whose boot sector is back and whose backup is not: it is the next write."""
        ran = _run("fsck.vfat", "-n", str(path))
        text = ran.stdout.decode(errors="replace")
        text = re.sub(r"There are differences between boot sector and its backup\..*?Not automatically fixing this\.\n",
                      "", text, flags=re.DOTALL)  # fmt: skip
        lines = {line.strip() for line in text.splitlines()}
        return {
            line
            for line in lines
            if line and not line.startswith(("fsck.fat", "Leaving filesystem unchanged", str(path)))
        }

    def _wrong_files(self, path: Path) -> str:
        """mtools copies a visible slot, sha256sum checks it."""
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            copied = _run("mcopy", "-s", "-n", "-i", str(path), "::", name)
            if copied.returncode:
                return f"mcopy: {copied.stdout.decode(errors='replace').strip()}"
            checked = _run("sha256sum", "--quiet", "-c", "abboot/manifest.sha256", cwd=name)
        return "" if checked.returncode == 0 else f"sha256sum: {checked.stdout.decode(errors='replace').strip()}"


def _write_sparse(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        for at in range(0, len(content), 1 << 16):
            piece = content[at : at + (1 << 16)]
            if piece.count(0) != len(piece):
                file.seek(at)
                file.write(piece)
        file.truncate(len(content))


def _run(*command: str, cwd: str | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        cwd=cwd,
        timeout=60,
        env={**os.environ, "LC_ALL": "C"},
    )


def judge(name: str, depth: Depth, *, seed: int = 0) -> Figures:
    """All states of a scenario; raises :class:`Violation`."""
    return Judge(name, depth, seed=seed).run()
