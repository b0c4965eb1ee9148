"""Every state that a recording of a real kernel's writes lets a power cut leave, and what is judged of each.

Two kinds of media (docs/explanation/crash-safety.md): one that keeps what it acknowledged, in order, so that a cut
leaves a beginning of the writes; and one with a cache, which between two flushes keeps any part of them.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs

from abboot.core.words import Slot
from abboot.simulator.recording import RecordedWrite
from tests.cards import BOARDS, CONFIG, CardDisk, CardPi
from tests.e2e.bench import PARTITIONS

Writes = Sequence[RecordedWrite]
AT_MOST = 12  # writes between two flushes of which every part is looked at


def apply(card: CardDisk, writes: Writes) -> None:
    for write in writes:
        if write.data is not None:
            card.image[write.offset : write.offset + len(write.data)] = write.data


@attrs.frozen
class State:
    """What a cut left: the card, and how it came about."""

    card: CardDisk
    what: str


def prefixes(base: Path, before: Writes, writes: Writes, *, samples: int) -> Iterator[State]:
    """Every beginning of ``writes``; of more than ``samples`` the first, the last and drawn ones between."""
    card = CardDisk(base)
    apply(card, before)
    content = [write for write in writes if write.data is not None]
    chosen = set(range(len(content) + 1))
    if len(chosen) > samples:
        ends = set(range(samples // 4)) | set(range(len(content) + 1 - samples // 4, len(content) + 1))
        chosen = ends | set(random.Random(len(content)).sample(sorted(chosen - ends), samples // 2))
    for number in range(len(content) + 1):
        if number in chosen:
            yield State(card, f"after {number} of {len(content)} writes")
        apply(card, content[number : number + 1])


def subsets(base: Path, before: Writes, writes: Writes, *, samples: int) -> Iterator[State]:
    """Everything before a flush, and any part of what came between it and the next one; equal states once."""
    card = CardDisk(base)
    apply(card, before)
    seen: set[bytes] = set()
    draw = random.Random(len(writes))
    for index, epoch in enumerate(epochs(writes)):
        old = [RecordedWrite(one.offset, card.image[one.offset : one.offset + len(one.data or b"")]) for one in epoch]
        for kept in _parts(epoch, samples, draw):
            apply(card, kept)
            name = _digest(card, epoch)
            if name not in seen:
                seen.add(name)
                yield State(card, f"{len(kept)} of {len(epoch)} writes of epoch {index}")
            apply(card, old[::-1])
        apply(card, epoch)
        seen.clear()


def epochs(writes: Writes) -> list[list[RecordedWrite]]:
    """The writes between two flushes."""
    found: list[list[RecordedWrite]] = [[]]
    for write in writes:
        if write.data is None:
            found.append([])
        else:
            found[-1].append(write)
    return [epoch for epoch in found if epoch]


def _parts(epoch: Writes, samples: int, draw: random.Random) -> Iterator[Writes]:
    if len(epoch) <= AT_MOST:
        for size in range(len(epoch) + 1):
            yield from itertools.combinations(epoch, size)
    else:
        yield from ([one for one in epoch if draw.random() < 0.5] for _ in range(samples))


def _digest(card: CardDisk, epoch: Writes) -> bytes:
    whole = hashlib.sha256()
    for one in epoch:
        whole.update(card.image[one.offset : one.offset + len(one.data or b"")])
    return whole.digest()


# -- the judges -------------------------------------------------------------------------------------------------------


def only_boots(card: CardDisk, slots: frozenset[Slot]) -> str | None:
    """G1: what a cold boot of any of the boards may reach besides these slots; ``None`` if nothing."""
    good = {PARTITIONS[slot] for slot in slots}
    for name, board in BOARDS.items():
        for boot in CardPi(card, board, CONFIG).would_boot_cold():
            if boot.partition not in good:
                return f"a {name} boots {boot.partition}: {'; '.join(boot.why)}"
    return None


def strictly_reads(card: CardDisk, folder: Path, texts: frozenset[bytes]) -> str | None:
    """What mtools, and mtools after ``fsck.vfat -a`` as a boot would run it, read instead of one of these texts."""
    volume = folder / "selector.fat"
    volume.write_bytes(card.bytes_of(1))
    for repaired in (False, True):
        if repaired:
            subprocess.run(["fsck.vfat", "-a", volume], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        read = subprocess.run(
            ["mtype", "-i", volume, "::autoboot.txt"], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if read.returncode or read.stdout not in texts:
            return f"{'repaired, ' * repaired}autoboot.txt reads {read.stdout!r} {read.stderr.decode().strip()}"
    return None


def bad_states(states: Iterator[State], judge: Callable[[CardDisk], str | None]) -> tuple[int, list[str]]:
    """How many states there were, and what is wrong with those that are not good."""
    count, bad = 0, []
    for state in states:
        count += 1
        if found := judge(state.card):
            bad.append(f"{state.what}: {found}")
    return count, bad
