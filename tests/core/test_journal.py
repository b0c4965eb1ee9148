"""The journal: what is written comes back, what is torn never does, and nothing read is believed too much."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from typing import Any

import attrs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from abboot.core.journal import (
    BLOCK_SIZE,
    BLOCKS,
    FORMAT,
    MAX_SEQUENCE,
    TEXT_MAX,
    Clocks,
    Entry,
    Journal,
    SlotEntry,
    Trial,
    block_index,
    decode,
    read_journal,
    scan_raw,
    successor,
)
from abboot.core.words import Outcome, Slot, SlotState, Transition, TrialProgress
from abboot.errors import AbbootError, Damaged, NewerFormat

AUTOBOOT = b"[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n"
GEOMETRY = {
    "fat_type": 32,
    "sector_size": 512,
    "sectors_per_cluster": 4,
    "reserved_sectors": 32,
    "total_sectors": 524288,
    "label": "BOOT_B",
}


def entry(sequence: int = 7, **changes: Any) -> Entry:
    fields: dict[str, Any] = {
        "sequence": sequence,
        "transition": Transition.ARMED,
        "primary": Slot.A,
        "slots": {
            Slot.A: SlotEntry(partition=2, state=SlotState.GOOD, record_digest="a" * 64, generation=1),
            Slot.B: SlotEntry(
                partition=3,
                state=SlotState.STAGED,
                record_digest="b" * 64,
                generation=2,
                volume_id=0x1234ABCD,
                label="BOOT_B",
                geometry=GEOMETRY,
            ),
        },
        "trial": Trial(slot=Slot.B, record_digest="b" * 64, armed_boot_id="5d7b"),
        "boot_id": "5d7b",
        "autoboot_before": AUTOBOOT,
        "autoboot_after": AUTOBOOT.replace(b"3", b"2"),
        "clocks": Clocks(realtime_s=1763935394.25, boottime_s=12.5),
        "abboot_version": "0.1.0",
    }
    return Entry(**{**fields, **changes})


def foreign_block(text: bytes, *, sequence: int = 7, format_: int = FORMAT, readable_from: int = FORMAT) -> bytes:
    """A block as another implementation would write it: from the documented format, not with our encoder."""
    start = f"ABBOOT-JOURNAL {format_} {readable_from} {sequence} {len(text)} ".encode()
    return (start + hashlib.sha256(start + text).hexdigest().encode() + b"\n" + text).ljust(BLOCK_SIZE, b"\0")


def fields_of(block: bytes) -> dict[str, Any]:
    return json.loads(block.split(b"\n", 1)[1].rstrip(b"\0"))


# -- strategies ---------------------------------------------------------------------------------------------------

hexes = st.binary(min_size=32, max_size=32).map(bytes.hex)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
unknowns = st.dictionaries(st.text(max_size=6).map(lambda name: "x-" + name), json_values, max_size=2)
slot_entries = st.builds(
    SlotEntry,
    partition=st.integers(1, 62),
    state=st.sampled_from(SlotState),
    record_digest=st.none() | hexes,
    generation=st.none() | st.integers(0, 10**9),
    volume_id=st.none() | st.integers(0, 2**32 - 1),
    label=st.none() | st.text(max_size=11),
    geometry=st.none() | st.just(GEOMETRY),
    unknown=unknowns,
)


@st.composite
def trials(draw: st.DrawFn) -> Trial:
    progress = draw(st.sampled_from(TrialProgress))
    return Trial(
        slot=draw(st.sampled_from(Slot)),
        record_digest=draw(hexes),
        attempt=draw(st.integers(1, 5)),
        armed_boot_id=draw(st.none() | st.uuids().map(str)),
        progress=progress,
        outcome=draw(st.sampled_from(Outcome)) if progress is TrialProgress.ENDED else None,
        reason=draw(st.text(max_size=60)),
        unknown=draw(unknowns),
    )


entries = st.builds(
    Entry,
    sequence=st.integers(0, MAX_SEQUENCE),
    transition=st.sampled_from(Transition),
    primary=st.sampled_from(Slot),
    slots=st.fixed_dictionaries(dict.fromkeys(Slot, slot_entries)),
    trial=st.none() | trials(),
    boot_id=st.none() | st.uuids().map(str),
    autoboot_before=st.none() | st.just(AUTOBOOT) | st.binary(max_size=600),
    autoboot_after=st.none() | st.just(AUTOBOOT) | st.binary(max_size=600),
    clocks=st.none()
    | st.builds(Clocks, realtime_s=st.floats(0, 1e11), boottime_s=st.floats(0, 1e9) | st.integers(0, 10**9)),
    note=st.text(max_size=60),
    repair_reboots=st.integers(0, 5),
    abboot_version=st.text(max_size=20),
    unknown=unknowns,
)


# -- one entry ----------------------------------------------------------------------------------------------------


@given(entries)
def test_an_entry_comes_back_as_it_was_written(written: Entry) -> None:
    block = written.encode()

    assert len(block) == BLOCK_SIZE
    assert decode(block) == written
    assert decode(block).encode() == block


def test_a_person_can_read_an_entry_with_strings() -> None:
    if shutil.which("strings") is None:
        pytest.skip("strings (binutils) is not installed")
    printed = subprocess.run(["strings"], input=entry().encode(), capture_output=True, check=True).stdout.decode()

    assert printed.startswith("ABBOOT-JOURNAL 1 1 7 ")
    assert '"primary":"a"' in printed
    assert "boot_partition=3" in printed


def test_the_block_is_what_the_documentation_says() -> None:
    block = entry().encode()
    header, rest = block.split(b"\n", 1)
    magic, format_, readable_from, sequence, length, checksum = header.split(b" ")
    text = rest[: int(length)]

    assert (magic, format_, readable_from, sequence) == (b"ABBOOT-JOURNAL", b"1", b"1", b"7")
    assert text.endswith(b"}\n")
    assert rest[int(length) :].strip(b"\0") == b""
    assert hashlib.sha256(header[:-64] + text).hexdigest().encode() == checksum
    assert json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")).encode() + b"\n" == text


def test_the_largest_entry_of_this_version_fits() -> None:
    long_text = "\N{ROCKET}" * 300
    largest_slot = {"record_digest": "f" * 64, "generation": MAX_SEQUENCE, "volume_id": 2**32 - 1, "label": long_text}
    geometry = {f"sectors_per_something_{n:02}": 2**32 - 1 for n in range(12)}
    assert len(json.dumps(geometry)) > 450
    largest = entry(
        MAX_SEQUENCE,
        transition=Transition.COMMITTING,
        slots={
            slot: SlotEntry(partition=62, state=SlotState.INCOMPLETE, geometry=geometry, **largest_slot)
            for slot in Slot
        },
        trial=Trial(
            slot=Slot.B,
            record_digest="f" * 64,
            attempt=1000,
            armed_boot_id=long_text,
            progress=TrialProgress.ENDED,
            outcome=Outcome.PASSED_UNCOMMITTED,
            reason=long_text,
        ),
        boot_id=long_text,
        autoboot_before=b'"' * 512,
        autoboot_after=b"\n" * 512,
        clocks=Clocks(realtime_s=999_999_999_999, boottime_s=999_999_999_999),
        note=long_text,
        repair_reboots=MAX_SEQUENCE,
        abboot_version=long_text,
    )

    assert decode(largest.encode()) == largest


def test_a_note_gives_way_to_what_decisions_are_made_from() -> None:
    room = BLOCK_SIZE - len(entry(unknown={"x": ""}).encode().rstrip(b"\0"))
    crowded = entry(note="n" * TEXT_MAX, unknown={"x": "u" * (room - TEXT_MAX // 2)})

    written = decode(crowded.encode())

    assert written == attrs.evolve(crowded, note="")


def test_an_entry_that_cannot_fit_is_refused_by_name() -> None:
    with pytest.raises(AbbootError, match=r"^cannot write journal entry 7: 5"):
        entry(unknown={"x": "u" * 4000}).encode()


def test_an_unknown_field_that_is_not_json_is_refused() -> None:
    with pytest.raises(AbbootError, match=r"^cannot write journal entry 7: "):
        entry(unknown={"x": float("nan")}).encode()


def test_what_a_disk_says_cannot_control_a_terminal() -> None:
    fields = fields_of(entry().encode())
    fields["note"] = "\x1b[2Jgone\nsecond line"
    fields["trial"]["reason"] = "\x9b31m\u202e"

    found = decode(foreign_block(json.dumps(fields).encode()))

    assert found.note == " [2Jgone second line"
    assert found.trial is not None
    assert found.trial.reason.isprintable()


def test_an_autoboot_txt_that_is_no_text_is_kept_byte_for_byte() -> None:
    for data in (b"\xff\xfe[all]\r\n", bytes(range(256)) * 2, b"base64:W2FsbF0=", b""):
        assert decode(entry(autoboot_before=data).encode()).autoboot_before == data


def test_of_a_long_autoboot_txt_the_part_is_kept_that_the_firmware_reads() -> None:
    assert decode(entry(autoboot_before=b"#" * 700).encode()).autoboot_before == b"#" * 512


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (SlotEntry, {"partition": 0, "state": SlotState.GOOD}),
        (SlotEntry, {"partition": True, "state": SlotState.GOOD}),
        (SlotEntry, {"partition": 2, "state": "good"}),
        (SlotEntry, {"partition": 2, "state": SlotState.GOOD, "record_digest": "A" * 64}),
        (SlotEntry, {"partition": 2, "state": SlotState.GOOD, "volume_id": 2**32}),
        (Trial, {"slot": Slot.A, "record_digest": "a" * 64, "attempt": 0}),
        (Trial, {"slot": Slot.A, "record_digest": "a" * 64, "outcome": Outcome.COMMITTED}),
        (Trial, {"slot": Slot.A, "record_digest": "a" * 64, "progress": TrialProgress.ENDED}),
        (Clocks, {"realtime_s": float("nan"), "boottime_s": 0}),
        (Entry, {"sequence": 0, "transition": Transition.BUILT, "primary": Slot.A, "slots": {}}),
    ],
)
def test_a_value_that_is_not_legal_does_not_exist(kind: type, fields: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        kind(**fields)


# -- other versions (G8) ------------------------------------------------------------------------------------------


def test_fields_of_a_newer_abboot_survive_a_rewrite() -> None:
    fields = fields_of(entry().encode())
    fields["colour"] = "red"
    fields["slots"]["b"]["signed_by"] = ["somebody", 1]
    fields["trial"]["deadline_s"] = 600
    read = decode(foreign_block(json.dumps(fields).encode(), format_=FORMAT + 4))

    rewritten = fields_of(successor(read, Transition.STARTED).encode())

    assert rewritten["colour"] == "red"
    assert rewritten["slots"]["b"]["signed_by"] == ["somebody", 1]
    assert rewritten["trial"]["deadline_s"] == 600


def test_words_of_a_newer_abboot_lead_to_no_action_and_survive() -> None:
    fields = fields_of(entry().encode())
    fields["transition"] = "teleporting"
    fields["slots"]["b"]["state"] = "quarantined"
    fields["trial"]["progress"] = "probing"

    read = decode(foreign_block(json.dumps(fields).encode(), format_=FORMAT + 1))

    assert read.transition is Transition.UNKNOWN
    assert read.slots[Slot.B].state is SlotState.UNKNOWN
    assert read.trial is not None
    assert (read.trial.progress, read.trial.outcome) == (TrialProgress.ENDED, Outcome.NOT_REACHED)
    assert fields_of(read.encode()) == fields


def test_a_word_of_a_newer_abboot_goes_when_it_is_replaced() -> None:
    fields = fields_of(entry().encode())
    fields["transition"] = "teleporting"
    fields["slots"]["b"]["state"] = "quarantined"
    fields["trial"].update(progress="ended", outcome="evaporated")
    read = decode(foreign_block(json.dumps(fields).encode()))
    assert read.trial is not None

    rewritten = fields_of(
        successor(
            read,
            Transition.CONCLUDED,
            slots={**read.slots, Slot.B: attrs.evolve(read.slots[Slot.B], state=SlotState.FAILED)},
            trial=attrs.evolve(read.trial, outcome=Outcome.FELL_BACK),
        ).encode()
    )

    assert successor(read, Transition.CONCLUDED).unknown == {}
    assert rewritten["transition"] == "concluded"
    assert rewritten["slots"]["b"]["state"] == "failed"
    assert (rewritten["trial"]["progress"], rewritten["trial"]["outcome"]) == ("ended", "fell_back")


def test_an_entry_for_newer_abboots_only_is_seen_and_refused() -> None:
    with pytest.raises(NewerFormat, match=r"^cannot read journal entry 7: it needs journal format 9"):
        decode(foreign_block(b"no json at all", format_=9, readable_from=9))


def test_nothing_older_counts_while_a_newer_abboot_had_the_last_word() -> None:
    newer = foreign_block(b"{}", sequence=8, format_=9, readable_from=9)

    journal = read_journal(entry(7).encode() + newer)

    assert journal.newer
    assert journal.newest is None
    assert [found.sequence for found in journal.entries] == [7]


def test_an_old_entry_of_a_newer_abboot_does_not_matter() -> None:
    newer = foreign_block(b"{}", sequence=6, format_=9, readable_from=9)

    journal = read_journal(newer + entry(7).encode())

    assert not journal.newer
    assert journal.newest == entry(7)


# -- torn and hostile blocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["a longer entry", "a shorter entry", "zeros", "garbage"])
def test_a_write_torn_at_any_byte_leaves_the_new_entry_the_old_one_or_none(over: str) -> None:
    new = entry(71, note="new").encode()
    old = {
        "a longer entry": entry(7, note="old " * 40).encode(),
        "a shorter entry": entry(7, trial=None, autoboot_before=None).encode(),
        "zeros": bytes(BLOCK_SIZE),
        "garbage": b"\xa5" * BLOCK_SIZE,
    }[over]

    seen = set()
    for cut in range(BLOCK_SIZE + 1):
        block = new[:cut] + old[cut:]
        try:
            decode(block)
        except Damaged:
            seen.add("torn")
        else:
            assert block in (old, new)
            seen.add("whole")

    assert seen == {"whole", "torn"}


@given(st.integers(0, BLOCK_SIZE * 8 - 1))
def test_one_flipped_bit_anywhere_is_found(bit: int) -> None:
    block = bytearray(entry().encode())
    block[bit // 8] ^= 1 << bit % 8

    with pytest.raises(Damaged):
        decode(bytes(block))


@given(st.binary(max_size=BLOCK_SIZE) | st.binary(max_size=200).map(lambda tail: b"ABBOOT-JOURNAL 1 1 7 " + tail))
def test_garbage_is_no_entry(garbage: bytes) -> None:
    with pytest.raises(Damaged):
        decode(garbage.ljust(BLOCK_SIZE, b"\0"))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"[" * 3000,
        b'{"a":' * 500,
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"a":1,"a":2}',
        b'{"a":' + b"9" * 3500 + b"}",
        b'{"a":"\\ud800"}',
        b"\xff\xfe",
    ],
)
def test_a_right_checksum_over_wrong_json_is_damaged(text: bytes) -> None:
    with pytest.raises(Damaged, match=r"^cannot read journal entry 7" if text else r"^cannot read a journal block"):
        decode(foreign_block(text))


def field_paths(value: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, dict):
        return []
    return [found for key in value for found in [(*path, key), *field_paths(value[key], (*path, key))]]


PATHS = field_paths(fields_of(entry().encode()))


@given(st.sampled_from(PATHS), json_values | st.just([]) | st.just({}) | st.integers(10**20, 10**30))
def test_a_field_of_the_wrong_kind_is_damaged_or_means_something(path: tuple[str, ...], value: object) -> None:
    fields = fields_of(entry().encode())
    inner = fields
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value

    try:
        found = decode(foreign_block(json.dumps(fields).encode()))
    except Damaged:
        return
    assert decode(found.encode()) == found


@pytest.mark.parametrize(
    "path", [("primary",), ("slots",), ("slots", "a"), ("slots", "a", "partition"), ("trial", "record_digest")]
)
def test_a_field_that_decisions_need_must_be_there(path: tuple[str, ...]) -> None:
    fields = fields_of(entry().encode())
    inner = fields
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]

    with pytest.raises(Damaged, match=r"^cannot read journal entry 7: "):
        decode(foreign_block(json.dumps(fields).encode()))


@pytest.mark.parametrize("header", [{"sequence": MAX_SEQUENCE + 1}, {"readable_from": 2}])
def test_a_header_that_contradicts_itself_is_damaged(header: dict[str, int]) -> None:
    text = entry().encode().split(b"\n", 1)[1].rstrip(b"\0")

    with pytest.raises(Damaged, match="contradicts") as caught:
        decode(foreign_block(text, **header))
    assert not isinstance(caught.value, NewerFormat)


# -- the ring -----------------------------------------------------------------------------------------------------


def ring(sequences: range, blocks: int = BLOCKS) -> bytearray:
    data = bytearray(blocks * BLOCK_SIZE)
    for sequence in sequences:
        at = block_index(sequence, blocks) * BLOCK_SIZE
        data[at : at + BLOCK_SIZE] = entry(sequence).encode()
    return data


@settings(max_examples=25)
@given(st.integers(1, 3000), st.integers(2, 70))
def test_the_newest_entry_is_found_wherever_the_ring_is(written: int, blocks: int) -> None:
    journal = read_journal(bytes(ring(range(max(0, written - 80), written), blocks)))

    kept = min(written, blocks, 80)
    assert [found.sequence for found in journal.entries] == list(range(written - kept, written))
    assert journal.newest == entry(written - 1)
    assert (journal.torn, journal.blocks) == (0, blocks)


@settings(max_examples=25)
@given(st.integers(1, 200), st.integers(1, BLOCK_SIZE - 1))
def test_a_torn_entry_is_skipped(written: int, cut: int) -> None:
    data = ring(range(written))
    at = block_index(written, BLOCKS) * BLOCK_SIZE
    new = entry(written, note="the cut came while this was written").encode()
    old = bytes(data[at : at + BLOCK_SIZE])
    data[at : at + cut] = new[:cut]
    assume(data[at : at + BLOCK_SIZE] not in (old, new))

    journal = read_journal(bytes(data))

    assert journal.newest == entry(written - 1)
    assert journal.torn == 1


@given(st.binary(max_size=3 * BLOCK_SIZE))
def test_garbage_has_no_entries_and_raises_nothing(garbage: bytes) -> None:
    blocks = len(garbage) // BLOCK_SIZE

    assert read_journal(garbage) == Journal(
        torn=sum(bool(garbage[n * BLOCK_SIZE : (n + 1) * BLOCK_SIZE].strip(b"\0")) for n in range(blocks)),
        blocks=blocks,
    )


def test_of_two_entries_with_one_number_the_one_in_its_place_counts() -> None:
    here, elsewhere = entry(1, note="here").encode(), entry(1, note="elsewhere").encode()

    for order in (elsewhere + here, bytes(BLOCK_SIZE) + here + elsewhere):
        newest = read_journal(order).newest
        assert newest is not None
        assert newest.note == "here"


# -- the raw scan -------------------------------------------------------------------------------------------------


def reader(data: bytes, reads: list[tuple[int, int]]) -> Any:
    def read(offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= len(data)
        reads.append((offset, length))
        return data[offset : offset + length]

    return read


@settings(max_examples=10)
@given(st.integers(0, 700), st.integers(0, BLOCK_SIZE - 1))
def test_a_journal_is_found_without_a_fat(at_block: int, rest: int) -> None:
    journal = bytes(ring(range(60, 130)))
    data = b"ABBOOT-JOURNAL " + bytes(at_block * BLOCK_SIZE + BLOCK_SIZE - 15) + journal + bytes(rest)
    reads: list[tuple[int, int]] = []

    found = scan_raw(reader(data, reads), len(data))

    assert [entry_.sequence for _, entry_ in found] == list(range(66, 130))
    assert all(decode(data[offset : offset + BLOCK_SIZE]) == entry_ for offset, entry_ in found)
    assert max(length for _, length in reads) <= 1024 * 1024
    assert sum(length for _, length in reads) <= len(data)


def test_a_medium_full_of_entries_gives_the_newest_64_only() -> None:
    data = b"".join(entry(sequence).encode() for sequence in range(400, 0, -1))

    found = scan_raw(reader(data, []), len(data))

    assert [entry_.sequence for _, entry_ in found] == list(range(337, 401))


def test_what_lies_between_two_blocks_is_no_entry() -> None:
    data = bytes(512) + entry().encode() + bytes(BLOCK_SIZE - 512)

    assert scan_raw(reader(data, []), len(data)) == []


def test_a_raw_scan_does_not_hand_out_what_a_newer_abboot_has_replaced() -> None:
    data = entry(7).encode() + foreign_block(b"{}", sequence=8, format_=9, readable_from=9)

    with pytest.raises(NewerFormat, match="entry 8"):
        scan_raw(reader(data, []), len(data))


# -- the next entry -----------------------------------------------------------------------------------------------


def test_the_next_entry_carries_the_state_and_not_the_old_transition() -> None:
    before = entry(note="armed by hand", repair_reboots=1)

    after = successor(before, Transition.STARTED, boot_id="another")

    assert (after.sequence, after.transition, after.boot_id) == (8, Transition.STARTED, "another")
    assert (after.primary, after.slots, after.trial, after.repair_reboots) == (
        before.primary,
        before.slots,
        before.trial,
        1,
    )
    assert (after.note, after.clocks, after.autoboot_before, after.autoboot_after) == ("", None, None, None)


def test_the_first_entry_has_number_0() -> None:
    first = successor(None, Transition.BUILT, primary=Slot.A, slots=entry().slots)

    assert first.sequence == 0
    assert block_index(first.sequence, BLOCKS) == 0


def test_a_disk_that_claims_the_last_number_is_told_so() -> None:
    with pytest.raises(AbbootError, match="is the last that it can count"):
        successor(entry(MAX_SEQUENCE), Transition.STARTED)
