"""The crashlab's pure parts, its judges, and the idioms on an ordinary folder; ``make crashlab`` runs all of it."""

from __future__ import annotations

import io
import itertools
import json
import struct
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.crashlab.draw import draw
from tests.crashlab.figures import VOLUMES, Count, Figures, Result, failures, new_after, says, table
from tests.crashlab.idioms import FILE, IDIOMS, NEW, OLD, Place
from tests.crashlab.judge import ENVIRONMENT, Judge, Reading, Verdict
from tests.crashlab.logwrites import MAGIC, BadLog, Entry, read_log
from tests.crashlab.marks import AT, SECTOR, mark
from tests.crashlab.recording import Changes, Flushed, Marked, NotRecorded, Recording, Step, Written, recording
from tests.crashlab.run import DATA, MADE, PAGE, PICTURE, START, make_disk, with_table

# -- the log ----------------------------------------------------------------------------------------------------------


def a_log(entries: Sequence[Entry], sector: int = 512) -> bytes:
    """As QEMU's blklogwrites writes it (block/blklogwrites.c)."""
    log = struct.pack("<QQQI", MAGIC, 1, len(entries), sector).ljust(sector, b"\0")
    for entry in entries:
        flags = entry.flush * 1 | entry.fua * 2 | bool(entry.discard) * 4
        head = struct.pack("<QQQQ", entry.offset // sector, (len(entry.data) + entry.discard) // sector, flags, 0)
        log += head.ljust(sector, b"\0") + entry.data
    return log


ENTRIES = (
    Entry(offset=512, data=b"a" * 1024),
    Entry(flush=True),
    Entry(offset=4096, data=b"b" * 512, flush=True, fua=True),
    Entry(offset=8192, discard=2048),
    Entry(offset=0, data=b"c" * 512),
)


def test_a_log_is_read_as_it_was_written() -> None:
    assert tuple(read_log(io.BytesIO(a_log(ENTRIES)))) == ENTRIES


def test_a_log_ends_where_nothing_was_written_whatever_its_super_block_says() -> None:
    log = a_log(ENTRIES[:2]) + bytes(100_000)

    assert tuple(read_log(io.BytesIO(log))) == ENTRIES[:2]


@pytest.mark.parametrize("log", [b"", bytes(512), a_log(ENTRIES, 512)[:-1], a_log([])[:20] + bytes(492)])
def test_what_is_no_log_or_breaks_off_in_a_write_is_refused(log: bytes) -> None:
    with pytest.raises(BadLog, match="cannot read the log"):
        list(read_log(io.BytesIO(log)))


@given(log=st.binary(max_size=4096), prefix=st.sampled_from([b"", a_log(ENTRIES), a_log([])]))
def test_garbage_is_a_log_or_a_bad_one(log: bytes, prefix: bytes) -> None:
    try:
        entries = list(read_log(io.BytesIO(prefix + log)))
    except BadLog:
        return
    assert sum(len(entry.data) for entry in entries) <= len(prefix + log)


# -- what a cut leaves ------------------------------------------------------------------------------------------------

BASE = b"".join(bytes([65 + number]) * SECTOR for number in range(4))


def write(sector: int, letter: str) -> Written:
    return Written(sector=sector, data=letter.encode() * SECTOR)


def letters(recorded: Recording, *, flushes: bool | None = None) -> set[str]:
    """The states as strings, one letter a sector; those in order without ``flushes``."""
    states = recorded.in_order() if flushes is None else recorded.any_order(flushes=flushes)
    return {
        "".join(chr((state.get(at) or BASE[at * SECTOR :])[0]) for at in range(len(BASE) // SECTOR)) for state in states
    }


def recorded(*steps: Step) -> Recording:
    return Recording(base=BASE, steps=steps)


def test_in_order_every_beginning_is_left() -> None:
    assert letters(recorded(write(0, "x"), write(1, "y"), write(0, "z"))) == {"ABCD", "xBCD", "xyCD", "zyCD"}


def test_between_two_flushes_any_part_is_left() -> None:
    found = letters(recorded(write(0, "x"), write(1, "y"), Flushed(), write(2, "z")), flushes=True)

    assert found == {"ABCD", "xBCD", "AyCD", "xyCD", "xyzD"}


def test_a_medium_without_flushes_may_keep_the_last_write_only() -> None:
    found = letters(recorded(write(0, "x"), Flushed(), write(1, "y")), flushes=False)

    assert found == {"ABCD", "xBCD", "AyCD", "xyCD"}


def test_what_was_written_long_before_is_there() -> None:
    pause = [Marked(text="tick", seconds=float(second)) for second in range(10, 17)]

    assert "AyCD" not in letters(recorded(write(0, "x"), *pause, write(1, "y")), flushes=False)
    assert "AyCD" in letters(recorded(write(0, "x"), *pause[:4], write(1, "y")), flushes=False)


STEPS = st.one_of(st.just(Flushed()), st.builds(write, st.integers(min_value=0, max_value=3), st.sampled_from("wxyz")))


@given(steps=st.lists(STEPS, max_size=7))
def test_any_order_is_what_every_subset_of_an_epoch_leaves(steps: list[Step]) -> None:
    """The product of versions beside the definition: keep any writes of one epoch, in their order, none after it."""
    base = recorded(*steps)
    epochs: list[list[Step]] = [[]]
    for step in steps:
        epochs[-1].append(step) if isinstance(step, Written) else epochs.append([])
    expected = {
        state_of(base, list(recorded(*itertools.chain(*epochs[:number], kept)).in_order())[-1])
        for number, epoch in enumerate(epochs)
        for size in range(len(epoch) + 1)
        for kept in itertools.combinations(epoch, size)
    }

    found = {state_of(base, state) for state in base.any_order()}
    assert found == expected
    assert {state_of(base, state) for state in base.in_order()} <= found


def state_of(base: Recording, state: Changes) -> tuple[tuple[int, bytes], ...]:
    return tuple(sorted(base.changed(state).items()))


# -- the recording ----------------------------------------------------------------------------------------------------


def entries_of(*texts: str | Entry) -> list[Entry]:
    return [Entry(offset=AT, data=mark(text)) if isinstance(text, str) else text for text in texts]


def at_partition(sector: int, letter: str, *, sectors: int = 1, flush: bool = False) -> Entry:
    return Entry(offset=START + sector * SECTOR, data=letter.encode() * SECTOR * sectors, flush=flush)


DISK = bytes(START) + BASE


def test_a_recording_begins_at_the_first_mark_and_tears_writes_into_sectors() -> None:
    entries = entries_of(
        at_partition(3, "m"), "start", at_partition(0, "x", sectors=2), Entry(flush=True), "returned", "tick 1.5", "end"
    )
    found = recording(DISK, entries, START, len(BASE))

    assert found.base == BASE[: 3 * SECTOR] + b"m" * SECTOR
    marks = (Marked(text="returned"), Marked(text="tick", seconds=1.5), Marked(text="end"))
    assert found.steps == (write(0, "x"), write(1, "x"), Flushed(), *marks)
    assert found.at("returned") == {0: b"x" * SECTOR, 1: b"x" * SECTOR}


def test_only_what_was_flushed_counts_on_a_device_with_a_cache() -> None:
    entries = entries_of("start", at_partition(0, "x"), Entry(flush=True), at_partition(1, "y"), "returned", "end")
    found = recording(DISK, entries, START, len(BASE))

    assert set(found.at("returned")) == {0, 1}
    assert set(found.at("returned", flushed=True)) == {0}


@pytest.mark.parametrize(
    "entries",
    [
        entries_of("start"),
        entries_of(at_partition(0, "x"), "end"),
        entries_of("start", Entry(offset=START - SECTOR, data=bytes(SECTOR)), "end"),
        entries_of("start", at_partition(3, "x", sectors=2), "end"),
        entries_of("start", Entry(offset=START, discard=SECTOR), "end"),
    ],
)
def test_a_recording_that_is_not_the_guests_is_refused(entries: list[Entry]) -> None:
    with pytest.raises(NotRecorded):
        recording(DISK, entries, START, len(BASE))


# -- the judges -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=VOLUMES)
def volume(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_disk(request.param, tmp_path_factory.mktemp("disk"))[START:][: MADE[request.param][0]]


@pytest.fixture
def judge(volume: bytes, tmp_path: Path) -> Iterator[Judge]:
    with Judge(volume, old=OLD, new=NEW, file=tmp_path / "volume") as judge:
        yield judge


def place_of(volume: bytes, content: bytes) -> int:
    """The sector that begins with this."""
    return next(at for at in range(len(volume) // SECTOR) if volume.startswith(content, at * SECTOR))


def all_say(reading: Reading) -> Verdict:
    return Verdict(forgiving=reading, mtools=reading, repaired=reading)


def test_the_old_and_the_new_file_are_told_apart(volume: bytes, judge: Judge) -> None:
    assert judge({}) == all_say(Reading.OLD)
    assert judge({place_of(volume, OLD): NEW.ljust(SECTOR, b"\0")}) == all_say(Reading.NEW)
    assert judge({place_of(volume, OLD): bytes(SECTOR)}) == all_say(Reading.OTHER)


def test_a_file_whose_cluster_is_marked_free_is_lost_at_the_next_fsck(volume: bytes, judge: Judge) -> None:
    """The state that fsync of the folder leaves behind a rename on vfat."""
    bytes_each = 4 if b"FAT32" in volume[:SECTOR] else 2
    (reserved,) = struct.unpack_from("<H", volume, 14)
    fat_sectors = struct.unpack_from("<H", volume, 22)[0] or struct.unpack_from("<I", volume, 36)[0]
    (cluster,) = struct.unpack_from("<H", volume, volume.index(b"AUTOBOOTTXT") + 26)
    fat = bytearray(volume[reserved * SECTOR :][:SECTOR])
    fat[cluster * bytes_each : (cluster + 1) * bytes_each] = bytes(bytes_each)

    verdict = judge({reserved: bytes(fat), reserved + fat_sectors: bytes(fat)})
    assert verdict == Verdict(forgiving=Reading.OLD, mtools=Reading.UNREADABLE, repaired=Reading.EMPTY)
    assert verdict.bad


def test_an_emptied_file_and_a_missing_one_are_bad(volume: bytes, judge: Judge) -> None:
    entry = volume.index(b"AUTOBOOTTXT")
    sector = bytearray(volume[entry // SECTOR * SECTOR :][:SECTOR])
    inside = entry % SECTOR
    sector[inside + 28 : inside + 32] = bytes(4)
    assert judge({entry // SECTOR: bytes(sector)}).forgiving is Reading.EMPTY
    sector[inside] = 0xE5
    assert judge({entry // SECTOR: bytes(sector)}) == all_say(Reading.UNREADABLE)


def test_the_judges_copy_is_whole_again_after_each_verdict(volume: bytes, judge: Judge, tmp_path: Path) -> None:
    (reserved,) = struct.unpack_from("<H", volume, 14)
    judge({reserved: bytes(SECTOR)})
    judge({place_of(volume, OLD): NEW.ljust(SECTOR, b"\0")})

    assert (tmp_path / "volume").read_bytes() == volume
    assert judge.distinct == 2


# -- the idioms -------------------------------------------------------------------------------------------------------


# The two others need a mounted partition.
ON_A_FOLDER = [n for n, idiom in IDIOMS.items() if idiom.mounted and n not in ("abboot-mounted", "rename-remount")]


@pytest.mark.parametrize("name", ON_A_FOLDER)
def test_an_idiom_switches(name: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(OLD)
    IDIOMS[name].switch(Place(folder=tmp_path))

    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert (tmp_path / FILE).read_bytes() == NEW


@pytest.mark.parametrize("name", ["block-edit", "mcopy"])
def test_an_idiom_switches_an_unmounted_volume(name: str, volume: bytes, tmp_path: Path) -> None:
    partition = tmp_path / "partition"
    partition.write_bytes(volume)
    IDIOMS[name].switch(Place(partition=str(partition)))

    read = subprocess.run(
        ["mtype", "-i", str(partition), f"::{FILE}"], env=ENVIRONMENT, capture_output=True, check=True
    )
    assert read.stdout == NEW


def test_the_names_fit_the_serial_number_of_a_disk() -> None:
    assert all(len(name) <= 20 for name in IDIOMS)


def test_a_commit_changes_one_byte() -> None:
    """So that a sector which is torn between two bytes is the old or the new one all the same."""
    assert len(OLD) == len(NEW)
    assert sum(old != new for old, new in zip(OLD, NEW, strict=True)) == 1


# -- the figures ------------------------------------------------------------------------------------------------------

GOOD = Count(states=4, bad=0, lost=0)
BAD = Count(states=10, bad=4, lost=1)


def a_result(count: Count, **changes: object) -> Result:
    done = Result(
        sectors=1,
        flushes=1,
        in_order=count,
        any_order=count,
        no_flushes=count,
        returned="new",
        returned_cached="new",
        new_after_s=0.0,
    )
    return attrs.evolve(done, **changes)


FIGURES = Figures(
    kernel="6.12.0-test",
    mount="defaults",
    watched_s=70,
    results={name: dict.fromkeys(VOLUMES, a_result(GOOD if idiom.in_place else BAD)) for name, idiom in IDIOMS.items()},
)


def with_result(name: str, volume: str, result: Result) -> Figures:
    return attrs.evolve(FIGURES, results={**FIGURES.results, name: {**FIGURES.results[name], volume: result}})


def test_the_gate_passes_where_only_the_others_have_bad_states() -> None:
    assert failures(FIGURES) == []


@pytest.mark.parametrize(
    "result",
    [
        a_result(GOOD, in_order=Count(states=4, bad=1, lost=0)),
        a_result(GOOD, any_order=Count(states=4, bad=1, lost=0)),
        a_result(GOOD, no_flushes=Count(states=4, bad=1, lost=1)),
        a_result(GOOD, returned="old"),
        a_result(GOOD, returned_cached="neither"),
    ],
)
def test_one_bad_state_of_ours_closes_the_gate(result: Result) -> None:
    (failure,) = failures(with_result("abboot-unmounted", "FAT16", result))

    assert failure.startswith("abboot-unmounted on FAT16: ")


def test_judges_that_find_nothing_close_the_gate() -> None:
    found = attrs.evolve(FIGURES, results=dict.fromkeys(IDIOMS, dict.fromkeys(VOLUMES, a_result(GOOD))))

    assert len(failures(found)) == sum(not idiom.in_place for idiom in IDIOMS.values())


def test_a_missing_result_closes_the_gate() -> None:
    assert failures(attrs.evolve(FIGURES, results={}))


def test_a_file_is_new_when_every_reader_says_so_for_good() -> None:
    old, new = all_say(Reading.OLD), all_say(Reading.NEW)
    half = Verdict(forgiving=Reading.NEW, mtools=Reading.UNREADABLE, repaired=Reading.EMPTY)

    assert (says(old), says(new), says(half), says(all_say(Reading.EMPTY))) == ("old", "new", "neither", "neither")
    assert new_after([(0, new), (1, new)]) == 0
    assert new_after([(0, old), (1, new), (2, half), (3, new), (4, new)]) == 3
    assert new_after([(0, old), (1, half)]) is None


def test_figures_survive_their_file() -> None:
    assert Figures.from_json(json.loads(json.dumps(FIGURES.as_json()))) == FIGURES


def test_the_table_has_a_row_for_every_idiom_and_all_rows_have_the_same_columns() -> None:
    rows = table(FIGURES).splitlines()

    assert {row.count("|") for row in rows} == {8}
    for idiom in IDIOMS.values():
        assert any(row.startswith(f"| {idiom.title} |") for row in rows)


def test_the_picture_is_well_formed_and_names_every_idiom() -> None:
    picture = draw(FIGURES)
    texts = {element.text for element in ET.fromstring(picture).iter() if element.tag.endswith("text")}

    assert {idiom.title for idiom in IDIOMS.values()} <= texts
    assert "4/10" in texts


def test_the_documentation_shows_the_figures_that_it_publishes() -> None:
    """``make crashlab CRASHLAB=--publish`` writes all three."""
    figures = Figures.from_json(json.loads(DATA.read_text()))

    assert failures(figures) == []
    assert draw(figures) == PICTURE.read_text()
    assert with_table(PAGE.read_text(), figures) == PAGE.read_text()
    assert table(figures) in PAGE.read_text()
