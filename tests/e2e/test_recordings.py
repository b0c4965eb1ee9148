"""The crash judge on what Linux really wrote: abboot's verbs, and beside them what other projects do to autoboot.txt.

QEMU records every write and flush under the SD card of a raspi3b and under a SCSI disk; every state that a cut could
leave is made again and judged.  The idioms of others are expected to fail: a judge that cannot fail is worth nothing.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from abboot.core.journal import read_journal
from abboot.core.words import Slot
from abboot.simulator.firmware_fat import FirmwareFat
from abboot.simulator.recording import Recording
from tests.cards import CardDisk
from tests.e2e.bench import Bench, Machine
from tests.e2e.conftest import MakeBench
from tests.e2e.replay import Writes, apply, bad_states, only_boots, prefixes, strictly_reads, subsets
from tests.e2e.test_updates import stage

pytestmark = pytest.mark.e2e

A, B = frozenset({Slot.A}), frozenset({Slot.B})
SAMPLES = 120
NODES = {Machine.RASPI3B: "/dev/mmcblk0p", Machine.VIRT: "/dev/sda"}


def text(number: int) -> bytes:
    return b"[all]\ntryboot_a_b=1\nboot_partition=%d\n[tryboot]\nboot_partition=%d\n" % (number, number)


def take(path: Path) -> Writes:
    with Recording(path) as recording:
        return recording.writes()


def upto(writes: Writes, number: int) -> int:
    """The index behind the first ``number`` writes; flushes count for nothing."""
    seen = 0
    for index, write in enumerate(writes):
        if seen == number:
            return index
        seen += write.data is not None
    return len(writes)


def mark(path: Path) -> int:
    with Recording(path) as recording:
        return recording.count()


def assert_replays(base: Path, writes: Writes, image: Path) -> None:
    """The recording is all there was."""
    card = CardDisk(base)
    apply(card, writes)
    assert card.digest() == CardDisk(image).digest()


def sequence(card: CardDisk) -> int:
    """Of the newest journal entry."""
    content = card.bytes_of(1)
    read = FirmwareFat(lambda offset, length: content[offset : offset + length], len(content)).read_file
    newest = read_journal(read("ABBOOT.JNL", 1 << 20) or b"").newest
    assert newest is not None
    return newest.sequence


@pytest.mark.parametrize("machine", Machine)
def test_no_state_of_a_stage_an_arm_or_a_commit_boots_anything_but_a_good_slot(
    make_bench: MakeBench, machine: Machine
) -> None:
    bench = make_bench(machine=machine)
    base, log = bench.folder / "base.img", bench.folder / "log"
    shutil.copy(bench.image, base)
    bench.boot(record=log)
    stage(bench)
    staged = mark(log)
    bench.ends_with("abboot trial")
    writes = take(log)
    assert_replays(base, writes, bench.image)
    cut = upto(writes, staged)

    judge(base, (), writes[:cut], bench, "stage", A)
    judge(base, writes[:cut], writes[cut:], bench, "arm", A)

    shutil.copy(bench.image, base)
    bench.boot(record=log)
    if machine is Machine.VIRT:  # once through a mount, once through the node
        bench.type(f"mount -t vfat {NODES[machine]}1 /mnt")
    before = mark(log)
    bench.abboot("commit")
    acknowledged = mark(log)
    bench.cut()
    writes = take(log)
    first, last = upto(writes, before), upto(writes, acknowledged)
    judge(base, writes[:first], writes[first:last], bench, "commit", A | B)
    # G5: whatever is lost of what came later, what was acknowledged is there.
    judge(base, writes[:last], writes[last:], bench, "acknowledged", B)


def judge(base: Path, before: Writes, writes: Writes, bench: Bench, verb: str, slots: frozenset[Slot]) -> None:
    """No bad state; the journal never goes back."""
    start = CardDisk(base)
    apply(start, before)
    least = sequence(start)

    def look(card: CardDisk) -> str | None:
        found = sequence(card)
        return only_boots(card, slots) or (f"the newest entry is {found}" if found < least else None)

    kinds = {"prefixes": prefixes, "subsets": subsets}
    if bench.machine is Machine.RASPI3B:
        # Linux flushes no SD card: what is acknowledged counts as kept, and then a part of it is no state.
        kinds.pop("subsets")
    for name, states in kinds.items():
        count, bad = bad_states(states(base, before, writes, samples=SAMPLES), look)
        content = sum(write.data is not None for write in writes)
        bench.pi.say(f"[judge] {verb}: {content} writes, {count} states ({name}), {len(bad)} bad")
        assert bad == []


@pytest.mark.parametrize("machine", Machine)
def test_only_the_switch_in_place_has_no_bad_state(make_bench: MakeBench, machine: Machine) -> None:
    bench = make_bench(machine=machine)
    base, log = bench.folder / "base.img", bench.folder / "log"
    shutil.copy(bench.image, base)
    bench.boot(record=log)
    bench.type(f"mount -t vfat {NODES[machine]}1 /mnt")
    marks, number = {}, 2
    for idiom in ("in-place", "truncate", "rename", "rename-fsync"):
        start, old, number = mark(log), number, 5 - number
        bench.type(f"switch-like {idiom} {number}")
        returned = mark(log)
        bench.type("sync")
        marks[idiom] = (start, returned, mark(log), frozenset({text(old), text(number)}), text(number))
    bench.cut()
    writes = take(log)

    bad_count, lost = {}, {}
    for idiom, (start, returned, end, texts, new) in marks.items():
        first, middle, last = (upto(writes, count) for count in (start, returned, end))
        count, bad = bad_states(
            subsets(base, writes[:first], writes[first:last], samples=64),
            lambda card, texts=texts: strictly_reads(card, bench.folder, texts),
        )
        card = CardDisk(base)
        apply(card, writes[:middle])
        bad_count[idiom] = len(bad)
        lost[idiom] = strictly_reads(card, bench.folder, frozenset({new})) is not None
        bench.pi.say(
            f"[judge] {idiom}: {len(writes[first:last])} writes and flushes, {count} states, {len(bad)} bad; "
            f"when it returned, the medium said {'the old' if lost[idiom] else 'the new'}"
        )

    assert bad_count["in-place"] == 0
    assert not lost["in-place"]
    assert min(bad_count[idiom] for idiom in ("truncate", "rename", "rename-fsync")) > 0
    assert lost["rename-fsync"]  # success was reported, and the medium does not have it
