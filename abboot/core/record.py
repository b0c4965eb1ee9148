"""The record and the manifest: what a slot says of its own content.  No I/O here.

Rules:

* The **manifest** lists every file of the tree with its SHA-256, in the format of ``sha256sum``, so that a person can
  check a slot without abboot: ``cd /boot/firmware && sha256sum -c abboot/manifest.sha256``.  The tree's digest is the
  SHA-256 of the manifest's bytes.
* The **record** holds slot and generation, so its digest names this very staging and no other one of the same tree.
  It holds no clock: the same tree, staged again in the same place, gives the same bytes.
* The digest of a record that is on a disk is that of its bytes *as found* (:func:`record_digest`), never of what this
  version would write.
* Fields of a newer abboot are kept (G8).  All input is hostile (G10).

The formats for people: ``docs/reference/formats/record.md``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from abboot.core.canonical import digest, dump_json, instance_of, integer, is_sha256, is_text, load_json
from abboot.core.tree import MAX_FILES, RESERVED_DIRECTORY, fold, is_reserved, problem_of_path, shown
from abboot.core.value import Value
from abboot.core.words import Slot
from abboot.errors import AbbootError, Damaged, InvalidTree, NewerFormat

MANIFEST_PATH = f"{RESERVED_DIRECTORY}/manifest.sha256"
RECORD_PATH = f"{RESERVED_DIRECTORY}/record.json"
STAGE_STORE_PATH = f"{RESERVED_DIRECTORY}/forklift-stage-store.yml"

RECORD_MAX_SIZE = 2048  # bytes
MANIFEST_MAX_SIZE = 4 * 1024 * 1024  # bytes
FORMAT = 1
READABLE_FROM = 1
MAX_GENERATION = 10**15

_PLAIN_TEXT = "write it without line ends and control characters"

# Written by every version, and never carried: they describe the writer.
_ENVELOPE = ("format", "readable_from")


def record_digest(data: bytes) -> str:
    """The digest of a record: SHA-256 of its bytes as found, in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _annotations(value: Any) -> dict[str, str]:
    """What people write: a bad one is an answer to them, not a bug of the caller."""
    for key, text in _mapping(value).items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise AbbootError(f"cannot record the annotation {shown(str(key))}: name and value must be text")
        if not key or not key.isprintable():
            found = f"cannot record the annotation {shown(key)!r}: its name must be one printable line"
            raise AbbootError(found, _PLAIN_TEXT)
        if not is_text(text):
            raise AbbootError(f"cannot record the annotation {shown(key)}: its value is not text")
    return dict(value)


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"an object was expected, found {type(value).__name__}")
    return dict(value)


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise TypeError("sources must be a list of texts")
    return tuple(value)


def _printable(_instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or not value.isprintable():
        found = f"cannot record the {attribute.name} {shown(str(value))}: it must be one printable line"
        raise AbbootError(found, _PLAIN_TEXT)


def _optional_mapping(value: Any) -> dict[str, Any] | None:
    return None if value is None else _mapping(value)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Record(Value):
    """What was staged on a slot.

    Args:
        slot: the slot that it was staged on; a record found on the other one was copied there by somebody else.
        generation: counts the stagings of this disk, from 1.
        abboot_version: the version that staged it.
        label: what a person calls it; one printable line.
        tree_digest: SHA-256 of the manifest's bytes.
        sources: what was taken from where, in the order it was laid; one line each.
        annotations: the caller's own names and values.
        forklift: Forklift's stage, for :mod:`abboot.forklift`; opaque here.
        unknown: the fields that a newer abboot wrote (G8).

    Raises:
        AbbootError: a label or an annotation that cannot be in a record: people choose these.
        ValueError, TypeError: any other value that cannot be.
    """

    slot: Slot = attrs.field(validator=instance_of(Slot))
    generation: int = attrs.field(validator=integer(1, MAX_GENERATION))
    abboot_version: str = attrs.field(validator=_printable)
    label: str = attrs.field(default="", validator=_printable)
    tree_digest: str = attrs.field(validator=digest)
    sources: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    annotations: Mapping[str, str] = attrs.field(factory=dict, converter=_annotations)
    forklift: Mapping[str, Any] | None = attrs.field(default=None, converter=_optional_mapping)
    unknown: Mapping[str, Any] = attrs.field(factory=dict, converter=_mapping)

    def render(self) -> bytes:
        """The bytes of ``record.json``: the same for the same record, at most 2048.

        Raises:
            AbbootError: it is larger, or holds something that is not JSON; the message says what takes the room.
        """
        known = attrs.asdict(self, recurse=False, filter=lambda attribute, _: attribute.name != "unknown")
        fields = {**self.unknown, **known, "format": FORMAT, "readable_from": READABLE_FROM}
        try:
            data = dump_json(fields, indent=1, ascii_only=False) + b"\n"
            sizes = {name: len(dump_json({name: value}, ascii_only=False)) for name, value in fields.items()}
        except ValueError as error:
            raise AbbootError(f"cannot record the stage: {shown(str(error))}") from error
        if len(data) > RECORD_MAX_SIZE:
            largest = max(sizes, key=lambda name: (sizes[name], name))
            raise AbbootError(
                f"cannot record the stage: {len(data)} bytes, at most {RECORD_MAX_SIZE} fit "
                f"({shown(largest)} takes {sizes[largest]})",
                f"shorten {shown(largest)}",
            )
        return data

    @property
    def digest(self) -> str:
        """The digest of this record as :meth:`render` writes it; raises like it."""
        return record_digest(self.render())


def parse_record(data: bytes) -> Record:
    """The record in ``data``.

    Raises:
        NewerFormat: a newer abboot wrote it, and says that this one cannot read it.
        Damaged: it is no record, or over 2048 bytes.
    """
    if len(data) > RECORD_MAX_SIZE:
        raise Damaged(f"cannot read {RECORD_PATH}: {len(data)} bytes found, a record has at most {RECORD_MAX_SIZE}")
    value = load_json(data, RECORD_PATH)
    for name in _ENVELOPE:
        if type(value.get(name)) is not int or not 1 <= value[name] < 10**9:
            raise Damaged(f"cannot read {RECORD_PATH}: it has no {name}")
    if value["readable_from"] > FORMAT:
        raise NewerFormat(
            f"cannot read {RECORD_PATH}: it needs record format {value['readable_from']}, this abboot knows {FORMAT}",
            "use the abboot that wrote it, or a newer one",
        )
    known = {field.name for field in attrs.fields(Record)} - {"unknown"}
    fields = {key: item for key, item in value.items() if key in known}
    unknown = {key: item for key, item in value.items() if key not in known and key not in _ENVELOPE}
    try:
        fields["slot"] = Slot(fields.get("slot", ""))
        return Record(unknown=unknown, **fields)
    except (AbbootError, ValueError, TypeError) as error:
        raise Damaged(f"cannot read {RECORD_PATH}: {shown(str(error))}") from error


def _sorted_entries(value: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((path, digest) for path, digest in value))


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Manifest(Value):
    """Every file of a tree and its SHA-256, sorted by path; not the files under ``abboot/``.

    Raises:
        ValueError: no file at all, a path that FAT cannot hold, two that are one name on FAT, or a wrong digest.
    """

    entries: tuple[tuple[str, str], ...] = attrs.field(converter=_sorted_entries)

    @entries.validator
    def _legal(self, _attribute: attrs.Attribute[Any], value: tuple[tuple[str, str], ...]) -> None:
        if not value:
            raise ValueError("it lists no file")
        if len(value) > MAX_FILES:
            raise ValueError(f"it lists {len(value)} files, at most {MAX_FILES} are accepted")
        seen: dict[str, str] = {}
        for path, sha256 in value:
            if problem := problem_of_path(path):
                raise ValueError(f"{shown(path)}: {problem}")
            if is_reserved(path):
                raise ValueError(f"{shown(path)}: {RESERVED_DIRECTORY}/ is not part of a tree")
            if not is_sha256(sha256):
                raise ValueError(f"{shown(path)}: its digest is not 64 lower-case hexadecimal digits")
            if (other := seen.setdefault(fold(path), path)) is not path:
                raise ValueError(f"{shown(path)} and {shown(other)} are the same name on FAT")

    def render(self) -> bytes:
        """The bytes of ``manifest.sha256``, as ``sha256sum`` prints them; raises InvalidTree over 4 MiB."""
        data = "".join(f"{sha256}  {path}\n" for path, sha256 in self.entries).encode()
        if len(data) > MANIFEST_MAX_SIZE:
            raise InvalidTree(
                f"cannot write {MANIFEST_PATH}: {len(data)} bytes, at most {MANIFEST_MAX_SIZE} are accepted",
                "the tree has too many files for a boot partition",
            )
        return data

    @property
    def digest(self) -> str:
        """The tree's digest."""
        return hashlib.sha256(self.render()).hexdigest()

    def as_dict(self) -> dict[str, str]:
        """Path to SHA-256."""
        return dict(self.entries)


def parse_manifest(data: bytes) -> Manifest:
    """The manifest in ``data``.  What it accepts is what :meth:`Manifest.render` writes, byte for byte.

    Raises:
        Damaged: anything else; the message names the line.
    """

    def damaged(reason: str) -> Damaged:
        return Damaged(f"cannot read {MANIFEST_PATH}: {reason}")

    if len(data) > MANIFEST_MAX_SIZE:
        raise damaged(f"{len(data)} bytes found, a manifest has at most {MANIFEST_MAX_SIZE}")
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError as error:
        raise damaged(f"byte {error.start} is not UTF-8") from error
    if lines.pop():
        raise damaged("its last line does not end: the file was cut")
    entries: list[tuple[str, str]] = []
    for number, line in enumerate(lines, 1):
        sha256, separator, path = line[:64], line[64:66], line[66:]
        if separator != "  " or not is_sha256(sha256):
            raise damaged(f"line {number} is not a digest, two spaces and a path")
        if entries and path <= entries[-1][0]:
            raise damaged(f"line {number} is out of order or twice there")
        entries.append((path, sha256))
    try:
        return Manifest(entries=entries)
    except ValueError as error:
        raise damaged(str(error)) from error
