"""The journal: the last transitions, one 4096-byte block each, written as a ring.  No I/O here.

Rules:

* An entry is a *complete snapshot*.  The newest valid one says everything; the others are history for people.
* A block is written whole or not at all (the assumption of the guarantees), and where it was not, its checksum says so:
  a torn block is never an entry, and the entry before it counts.
* The header line has the same form in every format, for ever: ``ABBOOT-JOURNAL <format> <readable_from> <sequence>
  <json length> <sha256>``.  So an abboot that is too old for an entry still sees that it is there, and acts on nothing
  older (G8).
* Sequence numbers order; clocks inform: a Pi has no clock at early boot.
* Fields that this version does not know are kept, and written again with the next entry (G8).

The format for people: ``docs/reference/formats/journal.md``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Any, TypeVar

import attrs

from abboot.core.canonical import digest, dump_json, instance_of, integer, load_json, one_line
from abboot.core.value import Value
from abboot.core.words import Outcome, Slot, SlotState, Transition, TrialProgress
from abboot.errors import AbbootError, Damaged, NewerFormat

FILE_NAME = "ABBOOT.JNL"
BLOCK_SIZE = 4096  # bytes
BLOCKS = 64  # what the image builder preallocates: 256 KiB
FORMAT = 1
READABLE_FROM = 1  # the oldest abboot format that can act on what we write
MAX_SEQUENCE = 10**15
MAX_ATTEMPT = 1000  # of one record

TEXT_MAX = 200  # bytes of JSON that a note and a reason may take
WORD_MAX = 64  # bytes of JSON that a label, a boot id and a version may take
_AUTOBOOT_MAX = 512  # bytes: what the firmware reads of autoboot.txt (config_txt/autoboot.adoc)
_MAGIC = b"ABBOOT-JOURNAL "
_HEADER = re.compile(
    rb"(?P<start>ABBOOT-JOURNAL (?P<format>[1-9]\d{0,8}) (?P<readable_from>[1-9]\d{0,8}) (?P<sequence>0|[1-9]\d{0,15}) "
    rb"(?P<length>[1-9]\d{0,3}) )(?P<sha256>[0-9a-f]{64})\n"
)
_SCAN_CHUNK = 1024 * 1024  # bytes
_UNSAFE = re.compile(r"[^\n -~]")  # in an autoboot.txt that is to be shown as text
_BASE64 = "base64:"

# G8: a word of a newer abboot is read as the one that leads to no action, and is written back as it was.
_STAND_INS: Mapping[str, StrEnum] = {
    "transition": Transition.UNKNOWN,
    "state": SlotState.UNKNOWN,
    # An ended trial is neither committed nor retried.
    "progress": TrialProgress.ENDED,
    "outcome": Outcome.NOT_REACHED,
}


def _line(value: Any, limit: int) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text was expected, found {type(value).__name__}")
    return one_line(value, limit)


def _word(value: Any) -> str:
    return _line(value, WORD_MAX)


def _optional_word(value: Any) -> str | None:
    return None if value is None else _line(value, WORD_MAX)


def _sentence(value: Any) -> str:
    return _line(value, TEXT_MAX)


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"an object was expected, found {type(value).__name__}")
    return dict(value)


def _both(value: Mapping[Slot, SlotEntry]) -> dict[Slot, SlotEntry]:
    return dict(value)


def _optional_mapping(value: Any) -> dict[str, Any] | None:
    return None if value is None else _mapping(value)


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not (math.isfinite(value) and abs(value) < 1e12):
        raise ValueError("a clock must be a finite number of seconds")
    return round(float(value), 3)


def _first_512(value: Any) -> bytes | None:
    return None if value is None else bytes(value[:_AUTOBOOT_MAX])


_optional_digest = attrs.validators.optional(digest)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class SlotEntry(Value):
    """What the journal knows about one slot.

    ``volume_id``, ``label`` and ``geometry`` (as :meth:`abboot.fat.geometry.Geometry.to_json` gives it; opaque here)
    outlive the zeroing of the slot's boot sector (G2).  ``record_digest`` names the staging that the slot holds.
    """

    partition: int = attrs.field(validator=integer(1, 255))
    state: SlotState = attrs.field(validator=instance_of(SlotState))
    record_digest: str | None = attrs.field(default=None, validator=_optional_digest)
    generation: int | None = attrs.field(default=None, validator=attrs.validators.optional(integer(0, MAX_SEQUENCE)))
    volume_id: int | None = attrs.field(default=None, validator=attrs.validators.optional(integer(0, 0xFFFFFFFF)))
    label: str | None = attrs.field(default=None, converter=_optional_word)
    geometry: Mapping[str, Any] | None = attrs.field(default=None, converter=_optional_mapping)
    unknown: Mapping[str, Any] = attrs.field(factory=dict, converter=_mapping)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Trial(Value):
    """The last trial: which record was armed, how far it got, how it ended.

    ``attempt`` counts from 1; ``armed_boot_id`` names the boot in which it was armed,
    ``started_boot_id`` the one that was the trial.  ``outcome`` is set exactly when
    ``progress`` is ``ENDED``; ``reason`` is one line for a person.
    """

    slot: Slot = attrs.field(validator=instance_of(Slot))
    record_digest: str = attrs.field(validator=digest)
    attempt: int = attrs.field(default=1, validator=integer(1, MAX_ATTEMPT))
    armed_boot_id: str | None = attrs.field(default=None, converter=_optional_word)
    started_boot_id: str | None = attrs.field(default=None, converter=_optional_word)
    progress: TrialProgress = attrs.field(default=TrialProgress.ARMED, validator=instance_of(TrialProgress))
    outcome: Outcome | None = attrs.field(default=None, validator=attrs.validators.optional(instance_of(Outcome)))
    reason: str = attrs.field(default="", converter=_sentence)
    unknown: Mapping[str, Any] = attrs.field(factory=dict, converter=_mapping)

    def __attrs_post_init__(self) -> None:
        if (self.outcome is not None) is not (self.progress is TrialProgress.ENDED):
            raise ValueError(f"a trial that is {self.progress} cannot have the outcome {self.outcome}")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Clocks(Value):
    """What the clocks said, in seconds, kept to the millisecond.  They inform; sequence numbers order."""

    realtime_s: float = attrs.field(converter=_seconds)
    boottime_s: float = attrs.field(converter=_seconds)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Entry(Value):
    """One block of the journal: a transition, and everything as it is with it.

    ``primary`` is what ``[all]`` names once the transition is done.  ``boot_id`` names the boot that wrote the entry.
    ``autoboot_before`` and ``autoboot_after`` hold at most 512 bytes, what the firmware reads.  ``repair_reboots``
    counts the reboots that ``repair`` asked for (G7).  ``unknown`` holds the fields that a newer abboot wrote (G8); for
    a word that this version does not know it holds the word, and the field is ``Transition.UNKNOWN``,
    ``SlotState.UNKNOWN``, or for a trial ``ENDED`` with ``NOT_REACHED``: nothing is done because of it.

    Texts are kept as one printable line of bounded length.
    """

    sequence: int = attrs.field(validator=integer(0, MAX_SEQUENCE))
    transition: Transition = attrs.field(validator=instance_of(Transition))
    primary: Slot = attrs.field(validator=instance_of(Slot))
    slots: Mapping[Slot, SlotEntry] = attrs.field(converter=_both)
    trial: Trial | None = attrs.field(default=None, validator=instance_of(Trial, type(None)))
    boot_id: str | None = attrs.field(default=None, converter=_optional_word)
    autoboot_before: bytes | None = attrs.field(default=None, converter=_first_512)
    autoboot_after: bytes | None = attrs.field(default=None, converter=_first_512)
    clocks: Clocks | None = attrs.field(default=None, validator=instance_of(Clocks, type(None)))
    note: str = attrs.field(default="", converter=_sentence)
    repair_reboots: int = attrs.field(default=0, validator=integer(0, MAX_SEQUENCE))
    abboot_version: str = attrs.field(default="", converter=_word)
    unknown: Mapping[str, Any] = attrs.field(factory=dict, converter=_mapping)

    @slots.validator
    def _both_slots(self, _attribute: attrs.Attribute[Any], value: Mapping[Slot, SlotEntry]) -> None:
        if set(value) != set(Slot) or not all(isinstance(slot, SlotEntry) for slot in value.values()):
            raise ValueError("an entry describes both slots")

    def encode(self) -> bytes:
        """The block: 4096 bytes.

        Note and reason give way to what decisions are made from.

        Raises:
            AbbootError: it does not fit even so, or a field that is only carried cannot be expressed as JSON.
        """
        block = self._block()
        if len(block) > BLOCK_SIZE:
            trial = None if self.trial is None else attrs.evolve(self.trial, reason="")
            block = attrs.evolve(self, note="", trial=trial)._block()
        if len(block) > BLOCK_SIZE:
            raise AbbootError(f"cannot write journal entry {self.sequence}: {len(block)} bytes, {BLOCK_SIZE} fit")
        return block.ljust(BLOCK_SIZE, b"\0")

    def _block(self) -> bytes:
        try:
            text = dump_json(_entry_to_json(self)) + b"\n"
        except ValueError as error:
            raise AbbootError(f"cannot write journal entry {self.sequence}: {error}") from error
        start = b"ABBOOT-JOURNAL %d %d %d %d " % (FORMAT, READABLE_FROM, self.sequence, len(text))
        return start + hashlib.sha256(start + text).hexdigest().encode() + b"\n" + text


def decode(block: bytes) -> Entry:
    """The entry in ``block``.

    Raises:
        NewerFormat: a newer abboot wrote it, and says that this one cannot act on it.
        Damaged: it is no entry, or was torn: a single wrong bit is enough.
    """
    header = _open(block)
    if header.readable_from > FORMAT:
        raise NewerFormat(
            f"cannot read journal entry {header.sequence}: it needs journal format {header.readable_from}, "
            f"this abboot knows {FORMAT}",
            "use the abboot that wrote it, or a newer one",
        )
    what = f"journal entry {header.sequence}"
    try:
        return _entry_from_json(header.sequence, load_json(header.text, what))
    except (ValueError, TypeError) as error:
        raise Damaged(f"cannot read {what}: {error}") from error


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Journal(Value):
    """The valid entries of a journal file, oldest first.

    ``torn`` counts the blocks that hold something and no valid entry: a cut write, or damage.  ``newer`` says that the
    last word belongs to a newer abboot that this one cannot follow; then :attr:`newest` is ``None``, because acting on
    anything older would undo what it did (G8), and nothing may be written.  ``blocks`` is the size of the ring.
    """

    entries: tuple[Entry, ...] = ()
    torn: int = 0
    newer: bool = False
    blocks: int = 0

    @property
    def newest(self) -> Entry | None:
        """The entry that counts; ``None`` if there is none, or if a newer abboot wrote the last one."""
        return None if self.newer or not self.entries else self.entries[-1]


def block_index(sequence: int, blocks: int) -> int:
    """The block of entry ``sequence`` in a ring of ``blocks``; of two or more, never that of the entry before it."""
    return sequence % blocks


def read_journal(data: bytes) -> Journal:
    """The journal in the content of its file.  Never raises: what is not an entry is skipped and counted.

    Of two blocks with one sequence number the one in its place counts; abboot never writes that.
    """
    found: dict[int, Entry | None] = {}
    torn = 0
    blocks = len(data) // BLOCK_SIZE
    for index in range(blocks):
        block = data[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE]
        if not block.strip(b"\0"):
            continue
        try:
            sequence, entry = _read(block)
        except Damaged:
            torn += 1
            continue
        if sequence not in found or index == block_index(sequence, blocks):
            found[sequence] = entry
    newest = max(found, default=None)
    return Journal(
        entries=tuple(entry for _, entry in sorted(found.items(), key=lambda item: item[0]) if entry is not None),
        torn=torn,
        newer=newest is not None and found[newest] is None,
        blocks=blocks,
    )


def scan_raw(read: Callable[[int, int], bytes], size: int) -> list[tuple[int, Entry]]:
    """Find entries without a FAT: by their magic, at offsets that are multiples of 4096.

    Args:
        read: ``read(offset, length)`` of the partition.
        size: of the partition, in bytes.

    Returns:
        ``(offset, entry)`` in sequence order: at most the 64 newest, so memory is bounded whatever the medium holds.

    Raises:
        NewerFormat: the newest entry was written by an abboot that this one cannot follow.
    """
    found: list[tuple[int, int, Entry | None]] = []
    for offset, block in _blocks_with_magic(read, size):
        try:
            sequence, entry = _read(block)
        except Damaged:
            continue
        found.append((sequence, offset, entry))
        if len(found) >= 2 * BLOCKS:
            found = sorted(found, key=lambda item: item[:2])[-BLOCKS:]
    found = sorted(found, key=lambda item: item[:2])[-BLOCKS:]
    if found and found[-1][2] is None:
        raise NewerFormat(
            f"cannot read the journal: entry {found[-1][0]} was written by a newer abboot",
            "use the abboot that wrote it, or a newer one",
        )
    return [(offset, entry) for _, offset, entry in found if entry is not None]


def successor(newest: Entry | None, transition: Transition, **changes: Any) -> Entry:
    """The entry that follows ``newest``: the next sequence number, the same state, and ``changes``.

    Everything that describes the device is carried, unknown fields included (G8).  What belongs to the old transition
    alone is not: ``note``, ``clocks``, ``boot_id``, ``autoboot_before``, ``autoboot_after``.  Without a ``newest``
    (entry 0) ``changes`` must name ``primary`` and ``slots``.
    """
    if newest is None:
        return Entry(**{"sequence": 0, "transition": transition, **changes})
    own: dict[str, Any] = {"note": "", "clocks": None, "boot_id": None, "autoboot_before": None, "autoboot_after": None}
    unknown = {key: value for key, value in newest.unknown.items() if key != "transition"}
    changes = {"sequence": newest.sequence + 1, "unknown": unknown, **own, **changes}
    try:
        return attrs.evolve(newest, transition=transition, **changes)
    except ValueError as error:
        if newest.sequence < MAX_SEQUENCE:
            raise
        raise AbbootError(f"cannot write the journal: entry {newest.sequence} is the last that it can count") from error


# -- blocks -------------------------------------------------------------------------------------------------------


@attrs.frozen(eq=False, repr=False)
class _Opened(Value):
    """A block whose checksum is right."""

    readable_from: int
    sequence: int
    text: bytes


def _open(block: bytes) -> _Opened:
    header = _HEADER.match(block)
    if len(block) != BLOCK_SIZE or header is None:
        raise Damaged("cannot read a journal block: it does not begin with a journal header")
    end = header.end() + int(header["length"])
    text = block[header.end() : end]
    # The padding counts as well: a block is exactly what was written, or torn.
    if end > BLOCK_SIZE or block[end:].strip(b"\0"):
        raise Damaged("cannot read a journal block: it does not end where its header says")
    if hashlib.sha256(header["start"] + text).hexdigest().encode() != header["sha256"]:
        raise Damaged("cannot read a journal block: its checksum is wrong, the write was cut or the medium is damaged")
    sequence, readable_from = int(header["sequence"]), int(header["readable_from"])
    if sequence > MAX_SEQUENCE or readable_from > int(header["format"]):
        raise Damaged("cannot read a journal block: its header contradicts itself")
    return _Opened(readable_from, sequence, text)


def _read(block: bytes) -> tuple[int, Entry | None]:
    """Sequence and entry; no entry where a newer abboot wrote it for newer ones only.  Raises Damaged."""
    opened = _open(block)
    return opened.sequence, None if opened.readable_from > FORMAT else decode(block)


def _blocks_with_magic(read: Callable[[int, int], bytes], size: int) -> Iterator[tuple[int, bytes]]:
    for start in range(0, size - size % BLOCK_SIZE, _SCAN_CHUNK):
        data = read(start, min(_SCAN_CHUNK, size - size % BLOCK_SIZE - start))
        at = data.find(_MAGIC)
        while at >= 0:
            if at % BLOCK_SIZE == 0:
                yield start + at, data[at : at + BLOCK_SIZE]
            at = data.find(_MAGIC, at + 1)


# -- fields -------------------------------------------------------------------------------------------------------


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    clocks = entry.clocks
    return _with_unknown(
        entry.unknown,
        {
            "transition": entry.transition,
            "primary": entry.primary,
            "slots": {str(slot): _slot_to_json(entry.slots[slot]) for slot in Slot},
            "trial": None if entry.trial is None else _trial_to_json(entry.trial),
            "boot_id": entry.boot_id,
            "autoboot_before": _autoboot_to_json(entry.autoboot_before),
            "autoboot_after": _autoboot_to_json(entry.autoboot_after),
            "clocks": clocks and {"realtime_ms": _ms(clocks.realtime_s), "boottime_ms": _ms(clocks.boottime_s)},
            "note": entry.note,
            "repair_reboots": entry.repair_reboots,
            "abboot_version": entry.abboot_version,
        },
    )


def _slot_to_json(slot: SlotEntry) -> dict[str, Any]:
    return _with_unknown(slot.unknown, attrs.asdict(slot, recurse=False, filter=_is_known))


def _trial_to_json(trial: Trial) -> dict[str, Any]:
    return _with_unknown(trial.unknown, attrs.asdict(trial, recurse=False, filter=_is_known))


def _is_known(attribute: attrs.Attribute[Any], _value: Any) -> bool:
    return attribute.name != "unknown"


def _with_unknown(unknown: Mapping[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Known fields over unknown ones, except for words that still are the stand-ins for a newer abboot's (G8)."""
    kept = [key for key in unknown if key in known and key in _STAND_INS]
    if kept and all(known[key] is _STAND_INS[key] for key in kept):
        known = {**known, **{key: unknown[key] for key in kept}}
    return {**unknown, **known}


def _entry_from_json(sequence: int, value: Mapping[str, Any]) -> Entry:
    fields, unknown = _split(value, Entry)
    fields["transition"] = _known_word(Transition, "transition", fields.get("transition"), unknown)
    fields["primary"] = Slot(fields.get("primary", ""))
    slots = _mapping(fields.get("slots"))
    fields["slots"] = {Slot(name): _slot_from_json(slot) for name, slot in slots.items()}
    if fields.get("trial") is not None:
        fields["trial"] = _trial_from_json(fields["trial"])
    for name in "autoboot_before", "autoboot_after":
        fields[name] = _autoboot_from_json(fields.get(name))
    if fields.get("clocks") is not None:
        clocks = _mapping(fields["clocks"])
        fields["clocks"] = Clocks(
            realtime_s=_from_ms(clocks.get("realtime_ms")), boottime_s=_from_ms(clocks.get("boottime_ms"))
        )
    return Entry(sequence=sequence, unknown=unknown, **fields)


def _slot_from_json(value: Any) -> SlotEntry:
    fields, unknown = _split(value, SlotEntry)
    fields["state"] = _known_word(SlotState, "state", fields.get("state"), unknown)
    return SlotEntry(unknown=unknown, **fields)


def _trial_from_json(value: Any) -> Trial:
    fields, unknown = _split(value, Trial)
    fields["slot"] = Slot(fields.get("slot", ""))
    words = fields.get("progress"), fields.get("outcome")
    if words[0] in list(TrialProgress) and words[1] in [None, *Outcome]:
        fields["progress"] = TrialProgress(words[0])
        fields["outcome"] = None if words[1] is None else Outcome(words[1])
    else:
        # Both at once: how far it got and how it ended only make sense together.
        for name, word in zip(("progress", "outcome"), words, strict=True):
            fields[name], unknown[name] = _STAND_INS[name], word
    return Trial(unknown=unknown, **fields)


def _split(value: Any, kind: type[attrs.AttrsInstance]) -> tuple[dict[str, Any], dict[str, Any]]:
    value = _mapping(value)
    known = {field.name for field in attrs.fields(kind)} - {"unknown", "sequence"}
    return (
        {key: item for key, item in value.items() if key in known},
        {key: item for key, item in value.items() if key not in known},
    )


_Kind = TypeVar("_Kind", bound=StrEnum)


def _known_word(kind: type[_Kind], name: str, value: Any, unknown: dict[str, Any]) -> StrEnum:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a word, found {type(value).__name__}")
    try:
        return kind(value)
    except ValueError:
        unknown[name] = value
        return _STAND_INS[name]


def _autoboot_to_json(data: bytes | None) -> str | None:
    """Text where it is text and stays short, so that ``strings`` on a dead card shows it; else base64."""
    if data is None:
        return None
    encoded = _BASE64 + base64.b64encode(data).decode()
    text = data.decode("latin-1")
    if _UNSAFE.search(text) or text.startswith(_BASE64) or len(json.dumps(text)) > 720:
        return encoded
    return text


def _autoboot_from_json(value: Any) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"text was expected, found {type(value).__name__}")
    try:
        if value.startswith(_BASE64):
            return base64.b64decode(value[len(_BASE64) :], validate=True)
        return value.encode("ascii")
    except (UnicodeEncodeError, binascii.Error) as error:
        raise ValueError("autoboot.txt is not stored as text or base64") from error


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _from_ms(value: Any) -> float:
    if type(value) is not int or abs(value) >= 10**15:
        raise ValueError("a clock must be a number of milliseconds")
    return value / 1000
