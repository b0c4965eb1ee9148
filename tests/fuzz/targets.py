"""What is fuzzed, and what must hold whatever the input is (G10).

A target takes bytes and returns, or raises something: then that is a finding.  Each function of ours may raise what its
docstring says and nothing else; ``Refusal`` sentences are one printable line, because they end on a terminal; what is
accepted must be what it claims to be, and where there is a second implementation, it must agree.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from random import Random
from typing import Final, TypeVar

import attrs

from abboot.core.autoboot import MAX_SIZE, parse_autoboot, read_as_firmware
from abboot.core.journal import BLOCK_SIZE, BLOCKS, Entry, Journal, decode, read_journal, scan_raw, successor
from abboot.core.layout import Configured, discover, find_selector
from abboot.core.partition_table import read_partition_table
from abboot.core.record import parse_manifest, parse_record
from abboot.core.words import Slot, Transition
from abboot.errors import AbbootError, Damaged, InvalidTree
from abboot.fat.geometry import Geometry
from abboot.fat.plan import Content, plan_volume
from abboot.fat.read import FatVolume
from abboot.fat.volume import MAX_DIRECTORIES_SIZE, Held
from abboot.fat.write import compare, invalidate, validate, write_content
from abboot.forklift.store import StageStore, StoreDamaged
from abboot.manager import BootManager
from abboot.simulator.firmware_fat import FirmwareFat, NotReadable
from tests.fuzz import seeds
from tests.fuzz.mutators import Mutator, Plain, change_json, change_tail, change_window
from tests.fuzz.window import MAX_INPUT, SECTOR, Card, Window, unpack

T = TypeVar("T")
CONTENT_LIMIT: Final = 1 << 20  # bytes of one file that are read


@attrs.frozen(kw_only=True)
class Target:
    """One thing to fuzz.

    ``covers`` are the modules whose lines count, without the functions in ``not_counted``: they see no hostile byte.
    ``floor`` is the least part of these lines that a published run must reach; ``max_size`` of an input is in bytes.
    """

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], tuple[bytes, ...]]
    mutate: Mutator
    covers: tuple[str, ...]
    not_counted: frozenset[str] = frozenset()
    floor: float = 0.9
    tokens: tuple[bytes, ...] = ()
    max_size: int = MAX_INPUT
    short_runs: int = 1500


class _Refused(Exception):
    """What was tried ended as documented; the target is done with it."""


@contextmanager
def refusing(*allowed: type[AbbootError]) -> Iterator[None]:
    """Let what is documented end the step, if it is a sentence that may be shown to a person."""
    try:
        yield
    except allowed as error:
        message, hint = error.message, error.hint
        assert message.startswith("cannot "), message
        for text in (message, hint):
            assert text.isprintable(), f"not printable: {text!r}"
            assert len(text) < 2000, f"{len(text)} characters long: {text[:100]}..."
        raise _Refused from error


def one_in(share: int, data: bytes) -> bool:
    """Whether this input is to do the slow part as well: the same answer every time, so that a finding stays one."""
    return zlib.crc32(data) % share == 0


def attempt(call: Callable[[], T], *allowed: type[AbbootError]) -> T | None:
    """The result, or ``None`` if it was refused as documented."""
    with suppress(_Refused), refusing(*allowed):
        return call()
    return None


# --- FAT ---


def fat(data: bytes) -> None:
    """The reader of volumes: list, find, read, who holds which cluster."""
    device = Window(*unpack(data))
    try:
        _read_volume(device, slowly=one_in(4, data))
    finally:
        assert not device.strays, device.strays
        # A page of the FAT may be read again for each of few files; nothing grows faster than the device.
        assert device.bytes_read <= 8 * device.size_bytes + 4 * MAX_DIRECTORIES_SIZE + 64 * CONTENT_LIMIT
        assert device.reads < 100_000


def _read_volume(device: Window, *, slowly: bool) -> None:
    volume = attempt(lambda: FatVolume(device), Damaged)
    if volume is None:
        return
    geometry = volume.geometry
    if slowly:
        # What is understood can be written back, into a boot sector and into the journal.
        assert Geometry.parse(geometry.boot_sector(), device.size_bytes) == geometry
        assert Geometry.from_json(geometry.to_json()) == geometry
        assert volume.free_clusters() <= geometry.cluster_count
    assert volume.dirty in (True, False)
    files = attempt(volume.files, Damaged) or ()
    for file in files[: 4 if slowly else 1]:
        assert file.path
        assert {"", ".", ".."}.isdisjoint(file.path.split("/"))
        found = attempt(lambda path=file.path: volume.find(path.lower()), Damaged)
        content = attempt(lambda path=file.path: volume.read_file(path, CONTENT_LIMIT), Damaged)
        if content is not None:
            assert len(content) == file.size
            assert found in (None, file)  # none: two files answer to this spelling
            assert b"".join(volume.chunks(file.path)) == content
    held = attempt(volume.held, Damaged)
    if held is not None:
        _check_held(held)
    if held is not None and slowly:
        _compare_with_firmware(device, volume, held)


def _check_held(held: Held) -> None:
    geometry = held.geometry
    owners = [*held.files, *held.directories]
    claims = sorted(extent for owner in owners for extent in owner.extents)
    assert all(count > 0 and first >= 2 and first + count <= geometry.cluster_count + 2 for first, count in claims)
    assert all(first + count <= other for (first, count), (other, _) in pairwise(claims))
    for file in held.files:
        assert file.size <= sum(count for _, count in file.extents) * geometry.cluster_size


def _compare_with_firmware(device: Window, volume: FatVolume, held: Held) -> None:
    """What the strict reader calls consistent, the lenient one reads the same: they share no code."""
    firmware = FirmwareFat(device.read, device.size_bytes)
    for file in held.files[:4]:
        # Names that only one of the two ways to compare without case tells apart are no evidence.
        if file.size <= CONTENT_LIMIT and file.path.isascii():
            assert firmware.read_file(file.path, file.size) == volume.read_file(file.path, file.size), file.path


def firmware_fat(data: bytes) -> None:
    """The reader that stands for the firmware in the simulator and judges the writer."""
    device = Window(*unpack(data))
    try:
        volume = FirmwareFat(device.read, device.size_bytes)
        for path in sorted(volume.paths())[:4]:
            content = volume.read_file(path, CONTENT_LIMIT)
            assert content is None or len(content) <= CONTENT_LIMIT
            assert volume.read_file(path + "/below", CONTENT_LIMIT) is None
    except NotReadable:
        return
    finally:
        assert not device.strays, device.strays
        assert device.bytes_read <= 2 * device.size_bytes + 4 * MAX_DIRECTORIES_SIZE + 16 * CONTENT_LIMIT


def stage(data: bytes) -> None:
    """Staging onto a slot whose header lies: refused before the first write, or the slot is the tree after it."""
    which = data[0] % 3 if data else 0
    size, sectors = unpack(data[1:])
    device = Window(size, dict(sectors))
    try:
        _stage(device, which)
    finally:
        assert not device.strays, device.strays


def _stage(device: Window, which: int) -> None:
    volume = attempt(lambda: FatVolume(device), Damaged)
    if volume is None or volume.geometry.fat_size > 4 << 20:  # as slow as it is long, and nothing new
        return
    held = attempt(volume.held, Damaged)
    tree = seeds.tree_to_stage(which)
    contents = [
        Content(path=path, size=len(content), chunks=lambda content=content: iter((content,)))
        for path, content in tree.items()
    ]
    plan = attempt(lambda: plan_volume(contents, volume.geometry, held), InvalidTree)
    diff = plan and attempt(lambda: compare(device, plan, held), AbbootError)
    assert not device.writes
    if plan is None or diff is None:
        return
    # This medium keeps what it is given: nothing may be refused from here on.
    invalidate(device, plan.geometry)
    assert attempt(lambda: FatVolume(device), Damaged) is None
    write_content(device, plan, diff)
    validate(device, plan.geometry)
    firmware = FirmwareFat(device.read, device.size_bytes)
    for path, content in tree.items():
        assert firmware.read_file(path, len(content) + 1) == content, path
    volume = FatVolume(device)
    assert volume.free_clusters() == plan.free_clusters
    after = volume.held()
    assert {file.path for file in after.files} == tree.keys()
    _check_held(after)


def card(data: bytes) -> None:
    """A whole card, offline: status, both slots verified, the primary's tree staged onto the other slot, repair."""
    size, sectors = unpack(data)
    disk = Card(size, dict(sectors))
    manager = BootManager(disk)
    try:
        status = attempt(manager.status, AbbootError)
        if status is None:
            return
        assert all(text.isprintable() for text in (status.reason, status.next, *status.notes))
        for slot in Slot:
            attempt(lambda slot=slot: manager.verify(slot), Damaged)
        assert not disk.written()
        staged = attempt(lambda: manager.stage(None, base="booted", label="fuzz"), AbbootError)
        assert status.primary is None or status.slots[status.primary].partition not in disk.written()  # G4
        if staged is not None:
            assert manager.verify(staged.slot).ok
        else:
            selector = find_selector(read_partition_table(disk.read, disk.size_bytes))
            assert disk.written() <= {selector.number}, "a stage that was refused has written to a slot"
        if attempt(manager.repair, AbbootError) is not None:
            assert not manager.repair().changed
    finally:
        assert not disk.strays, disk.strays


# --- partition tables ---

_SIGN, _SIGN_BACKUP, _BLOCKS_OF_4096 = 1, 2, 4  # in the first knob


def partitions(data: bytes) -> None:
    """The partition table, and which partition is what."""
    knobs = data[: seeds.PARTITION_HEAD].ljust(seeds.PARTITION_HEAD, b"\0")
    size, sectors = unpack(data[seeds.PARTITION_HEAD :])
    block_size = 4096 if knobs[0] & _BLOCKS_OF_4096 else SECTOR
    disk = Window(size, sectors, block_size)
    if knobs[0] & _SIGN:
        sign_gpt(disk, block_size)
    if knobs[0] & _SIGN_BACKUP:
        sign_gpt(disk, disk.size_bytes - disk.size_bytes % block_size - block_size)
    disk.bytes_read = 0
    try:
        table = attempt(lambda: read_partition_table(disk.read, disk.size_bytes, block_size, name="card.img"), Damaged)
    finally:
        assert not disk.strays, disk.strays
        assert disk.bytes_read < 4 << 20
    if table is None:
        return
    primary = [part for part in table.partitions if not (table.kind == "mbr" and part.number > 4)]
    for part in table.partitions:
        assert part.size > 0
        assert 0 < part.start < part.end <= disk.size_bytes
        assert part.name.isprintable(), part.name
    for before, after in pairwise(sorted(primary, key=lambda part: part.start)):
        assert before.end <= after.start
    numbers = [part.number for part in table.partitions]
    assert len(set(numbers)) == len(numbers)
    assert all(note.isprintable() for note in table.notes)

    journal, configured = (knobs[1], knobs[2]), [number or None for number in knobs[3:6]]
    for journal_slots in (None, journal):
        for names in (None, Configured(selector=configured[0], slot_a=configured[1], slot_b=configured[2])):
            layout = attempt(
                lambda slots=journal_slots, names=names: discover(table, journal_slots=slots, configured=names),
                AbbootError,
            )
            if layout is None:
                continue
            roles = [layout.selector, layout.a, layout.b]
            assert len({part.number for part in roles}) == 3
            assert layout.a.number < layout.b.number
            assert all(part.is_fat and table.get(part.number) == part for part in roles)
            assert layout.partition(Slot.B) is layout.b
            assert layout.slot_of(layout.a.number) is Slot.A
            assert find_selector(table, configured=names) == layout.selector


def sign_gpt(disk: Window, offset: int) -> None:
    """Make the checksums of a GPT header right: otherwise no mutation gets past them."""
    if not 0 <= offset <= disk.size_bytes - SECTOR:
        return
    header = bytearray(disk.read(offset, SECTOR))
    header_size, array, count, entry_size = (
        *struct.unpack_from("<I", header, 12),
        *struct.unpack_from("<QII", header, 72),
    )
    length, start = count * entry_size, array * disk.block_size_bytes
    if length <= 1 << 17 and start + length <= disk.size_bytes:
        struct.pack_into("<I", header, 88, zlib.crc32(disk.read(start, length)))
    block = header + disk.read(offset, disk.block_size_bytes)[SECTOR:]
    struct.pack_into("<I", header, 16, zlib.crc32(block[:16] + bytes(4) + block[20:header_size]))
    disk.sectors[offset // SECTOR] = bytes(header)


# --- texts ---


def autoboot(data: bytes) -> None:
    """``autoboot.txt``: strictly, and as each generation of firmware reads it."""
    tryboot = one_in(2, data)
    readings = {sections: read_as_firmware(data, tryboot=tryboot, sections=sections) for sections in (True, False)}
    for reading in readings.values():
        assert 0 <= reading.boot_partition <= 9999
        assert bool(reading.alternatives) <= bool(reading.doubts)
        assert all(doubt.isprintable() and len(doubt) < 600 for doubt in reading.doubts)
        assert len(reading.alternatives) < 600
    parsed = attempt(lambda: parse_autoboot(data), Damaged)
    if parsed is None:
        return
    for size in (None, MAX_SIZE):
        assert parse_autoboot(parsed.render(size)) == parsed
    # What is accepted is read alike by everybody, and without a doubt.
    for sections, reading in readings.items():
        assert not reading.doubts
        assert reading.boot_partition == (parsed.trial if tryboot or not sections else parsed.primary)
        assert reading.tryboot_a_b == sections


def record(data: bytes) -> None:
    """``record.json`` and ``manifest.sha256``."""
    found = attempt(lambda: parse_record(data), Damaged)
    if found is not None:
        rendered = attempt(found.render, AbbootError)  # too large once it is written our way
        if rendered is not None:
            assert parse_record(rendered) == found
            assert len(found.digest) == 64
    manifest = attempt(lambda: parse_manifest(data), Damaged)
    if manifest is not None:
        assert manifest.render() == data
        assert len(manifest.digest) == 64
        assert len(manifest.as_dict()) == len(manifest.entries)


def journal(data: bytes) -> None:
    """The journal: one block, the ring, and the raw scan when the FAT is gone."""
    blocks = [block for block in _blocks(data) if len(block) == BLOCK_SIZE]
    for block in blocks[:1]:
        entry = attempt(lambda block=block: decode(block), Damaged)
        if entry is not None and one_in(2, data):
            _check_entry(entry)
    ring = b"".join(blocks)
    found = read_journal(ring)
    known = [entry.sequence for entry in found.entries]
    assert known == sorted(set(known))
    assert len(known) + found.torn <= found.blocks == len(blocks)
    assert found.newest is None if found.newer or not known else found.newest is found.entries[-1]
    if one_in(8, data):
        _scan(ring, found, [block.split(b" ", 4)[3:4] for block in blocks if any(block)])


def _blocks(data: bytes) -> list[bytes]:
    mode, content = data[:1], data[1:]
    if not mode or mode[0] % 3 == 0:
        return [content[at : at + BLOCK_SIZE] for at in range(0, len(content), BLOCK_SIZE)]
    make = _padded if mode[0] % 3 == 1 else _signed
    return [make(part) for part in content.split(seeds.END_OF_BLOCK)[: 2 * BLOCKS]]


def _padded(part: bytes) -> bytes:
    return part.ljust(BLOCK_SIZE, b"\0")[:BLOCK_SIZE]


def _signed(part: bytes) -> bytes:
    """Numbers, a line end and JSON, with length and checksum made right: otherwise no mutation gets past them."""
    numbers, _, text = part.partition(b"\n")
    start = b"ABBOOT-JOURNAL %s %d " % (numbers, len(text))
    return _padded(start + hashlib.sha256(start + text).hexdigest().encode() + b"\n" + text)


def _check_entry(entry: Entry) -> None:
    for text in (entry.note, entry.abboot_version, entry.boot_id or "", entry.trial.reason if entry.trial else ""):
        assert text.isprintable()
    block = attempt(entry.encode, AbbootError)
    if block is not None:
        assert len(block) == BLOCK_SIZE
        # Texts give way where there is no room for them; nothing else is lost.
        again = decode(block)
        assert attrs.evolve(again, note="", trial=None) == attrs.evolve(entry, note="", trial=None)
        assert (again.trial is None) == (entry.trial is None)
    following = attempt(lambda: successor(entry, Transition.DISARMED), AbbootError)
    assert following is None or following.sequence == entry.sequence + 1
    for slot in entry.slots.values():
        geometry = slot.geometry
        if geometry is not None:
            shape = attempt(lambda value=dict(geometry): Geometry.from_json(value), Damaged)
            assert shape is None or Geometry.from_json(shape.to_json()) == shape


def _scan(ring: bytes, whole: Journal, sequences: list[list[bytes]]) -> None:
    def read(offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= len(ring) + 1000
        return (ring + bytes(1000))[offset : offset + length]

    found = attempt(lambda: scan_raw(read, len(ring) + 1000), Damaged)
    if all(
        sequences.count(number) == 1 for number in sequences
    ):  # of two blocks with one number, which abboot never writes, either counts
        assert (found is None) == whole.newer
    if found is not None:
        assert len(found) <= BLOCKS
        assert found == sorted(found, key=lambda item: (item[1].sequence, item[0]))
        assert all(entry == decode(ring[offset : offset + BLOCK_SIZE]) for offset, entry in found)


def store(data: bytes) -> None:
    """Forklift's stage store, before and after what Forklift does to it."""
    found = attempt(lambda: StageStore.parse(data), StoreDamaged)
    if found is None:
        return
    assert all(text.isprintable() for text in found.unknown)
    for after in (found, found.applied(), found.staged(1), found.apply_failed(), found.del_bundle(1)):
        assert StageStore.parse(after.render()) == after


# --- the table ---

_WORDS = re.compile(rb'"[a-z0-9_]+":?')


def _tokens_of(texts: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The words of a format, as a dictionary for the fuzzer."""
    return tuple(sorted({word for text in texts for word in _WORDS.findall(text) if len(word) < 40}))


def _change_text(data: bytes, _random: Random, plain: Plain) -> bytes:
    return plain(data)


def _change_journal(data: bytes, random: Random, plain: Plain) -> bytes:
    """Blocks as a whole, or the numbers or the JSON of one; sometimes anything."""
    if data[:1] == b"\0" or random.random() < 0.1:
        return plain(data)
    parts = data[1:].split(seeds.END_OF_BLOCK)
    at = random.randrange(len(parts))
    numbers, _, text = parts[at].partition(b"\n")
    match random.randrange(8):
        case 0:
            parts[at : at + 1] = [] if len(parts) > 1 else [b""]
        case 1:
            parts.insert(random.randrange(len(parts)), parts[at])
        case 2:
            row = [random.choice([b"0", b"1", b"2", b"3", b"9", b"64", b"1000000000000000"]) for _ in range(3)]
            parts[at] = b" ".join(row) + b"\n" + text
        case 3:
            parts[at] = plain(parts[at])
        case _:
            parts[at] = numbers + b"\n" + change_json(text, random, plain)
    return data[:1] + seeds.END_OF_BLOCK.join(parts)


_MAKES_NEW_VOLUMES = frozenset({"choose", "_shape"})

TARGETS: Final = {
    target.name: target
    for target in (
        Target(
            name="fat",
            run=fat,
            seeds=seeds.volumes,
            mutate=change_window,
            covers=("abboot.fat.read", "abboot.fat.geometry"),
            not_counted=_MAKES_NEW_VOLUMES,
            short_runs=1200,
        ),
        Target(
            name="firmware-fat",
            run=firmware_fat,
            seeds=seeds.volumes,
            mutate=change_window,
            covers=("abboot.simulator.firmware_fat",),
        ),
        Target(
            name="stage",
            run=stage,
            seeds=lambda: tuple(bytes([which]) + volume for which, volume in enumerate(seeds.volumes())),
            mutate=change_tail(change_window, 1),
            covers=("abboot.fat.write", "abboot.fat.plan"),
            # The rest answers to trees, and to media that do not keep what they are given: neither varies here.
            floor=0.8,
            short_runs=200,
        ),
        Target(
            name="card",
            run=card,
            seeds=seeds.cards,
            mutate=change_window,
            covers=("abboot.observe", "abboot.verify", "abboot.staging"),
            # The parts have targets of their own; this one is about what happens between them.
            floor=0.7,
            short_runs=60,
        ),
        Target(
            name="partitions",
            run=partitions,
            seeds=seeds.disks,
            mutate=change_tail(change_window, seeds.PARTITION_HEAD),
            covers=("abboot.core.partition_table", "abboot.core.layout"),
        ),
        Target(
            name="autoboot",
            run=autoboot,
            seeds=seeds.autoboots,
            mutate=_change_text,
            covers=("abboot.core.autoboot",),
            max_size=800,  # the firmware reads 512
            tokens=(b"[all]\n", b"[tryboot]\n", b"boot_partition=", b"tryboot_a_b=1\n", b"\r\n", b"# ", b"2\n", b"62"),
        ),
        Target(
            name="record",
            run=record,
            seeds=seeds.records,
            mutate=change_json,
            covers=("abboot.core.record", "abboot.core.canonical"),
            max_size=4096,  # twice what is read
            tokens=_tokens_of(seeds.records()),
        ),
        Target(
            name="journal",
            run=journal,
            seeds=seeds.journals,
            mutate=_change_journal,
            covers=("abboot.core.journal",),
            max_size=4 * BLOCK_SIZE + 1,
            tokens=_tokens_of(seeds.journals()),
        ),
        Target(
            name="store",
            run=store,
            seeds=seeds.stores,
            mutate=_change_text,
            covers=("abboot.forklift.store", "abboot.forklift.yaml3"),
            # The names that Forklift refuses, and the order of numbers in names, do not vary here.
            floor=0.8,
            max_size=4096,
            tokens=(
                b"staged:",
                b"    next: ",
                b"history:",
                b"names:",
                b"- 1\n",
                b"? |-\n",
                b"!!binary ",
                b"&a ",
                b"<<",
            ),
        ),
    )
}
