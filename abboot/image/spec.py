"""What an image shall be: read from TOML, or made in Python.

Rules: a specification that exists is legal by itself; whether a tree fits is for :func:`abboot.image.build`.  Unknown
keys are errors.  Paths in a file are relative to that file.  Every error names file, line and key.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from abboot.config_file import ConfigProblem, InvalidConfig, read_text
from abboot.core.settings import (
    BOOLEAN,
    SIZE,
    TEXT,
    SettingError,
    SettingType,
    array_of,
    choice,
    setting,
    settings_of,
    shown,
)
from abboot.core.toml_lines import KeyPath, TomlError, load_toml, nearest_line
from abboot.core.tree import shown as show_path
from abboot.core.words import FatType, Slot, TableKind
from abboot.disk import SECTOR, check_disk_id
from abboot.errors import ConfigError

# What mkfs.vfat and mlabel take without a warning; longer or lower-case labels differ between readers.
_LABEL_TEXT = re.compile(r"[A-Z0-9_-]{1,11}")


def _read_sectors(value: object) -> int:
    size: int = SIZE.read(value)
    if size == 0 or size % SECTOR:
        raise SettingError(f"{shown(value)} is not a positive multiple of {SECTOR} bytes")
    return size


def _read_id(value: object) -> str:
    text: str = TEXT.read(value)
    return text.lower()


def _read_cluster(value: object) -> int:
    size: int = SIZE.read(value)
    if size not in {512 << shift for shift in range(7)}:
        raise SettingError(f"{shown(value)} is not a cluster size: 512, 1KiB, 2KiB, 4KiB, 8KiB, 16KiB or 32KiB")
    return size


def _read_fat(value: object) -> FatType:
    if isinstance(value, bool) or not isinstance(value, int) or value not in tuple(FatType):
        raise SettingError(f"{shown(value)} is not 12, 16 or 32")
    return FatType(value)


def _read_label(value: object) -> str:
    if not isinstance(value, str) or not _LABEL_TEXT.fullmatch(value):
        raise SettingError(f"{shown(value)} is not a volume label: 1 to 11 capital letters, digits, '-' and '_'")
    return value


_SECTORS = SettingType(words="size", read=_read_sectors, write=SIZE.write)
_ID = SettingType(words="disk id", read=_read_id, write=TEXT.write)
_CLUSTER = SettingType(words="cluster size", read=_read_cluster, write=SIZE.write)
_FAT = SettingType(words="12, 16 or 32", read=_read_fat, write=lambda value: str(int(value)))
_LABEL = SettingType(words="volume label", read=_read_label, write=TEXT.write)


@attrs.frozen(kw_only=True)
class DiskSpec:
    """The disk as a whole."""

    table: TableKind = setting(choice(TableKind), "the partition table", default=TableKind.MBR)  # noqa: RUF009 - an attrs field
    id: str | None = setting(
        _ID, "the disk's id, for images that are the same every time; drawn at random when absent", default=None
    )

    def __attrs_post_init__(self) -> None:
        if self.id is not None:
            try:
                check_disk_id(self.table, self.id)
            except ValueError as error:
                raise SettingError(str(error), "id") from None


@attrs.frozen(kw_only=True)
class SelectorSpec:
    """The small FAT16 partition with ``autoboot.txt`` and the journal; about 17 MiB at least."""

    size: int = setting(_SECTORS, "its size", default=32 << 20)
    label: str = setting(_LABEL, "its volume label", default="BOOTSEL")
    bootcode: bool = setting(
        BOOLEAN,
        "copy `bootcode.bin` from the tree to it: a Pi Zero to 3 boots nothing without, later boards ignore it",
        default=False,
    )


@attrs.frozen(kw_only=True)
class SlotsSpec:
    """Both slots.  ``tree`` is the folder that both are filled from; :func:`abboot.image.build` can be told another."""

    size: int = setting(_SECTORS, "the size of each")
    fat: FatType | None = setting(_FAT, "the FAT type; by default what suits the size", default=None)  # noqa: RUF009 - an attrs field
    cluster: int | None = setting(_CLUSTER, "the cluster size; by default what suits size and type", default=None)
    tree: str | None = setting(TEXT, "the folder with the boot files, relative to this file", default=None)
    labels: tuple[str, str] = setting(array_of(_LABEL), "the volume labels of a and b", default=("BOOT_A", "BOOT_B"))
    primary: Slot = setting(choice(Slot), "the slot that a cold boot reaches", default=Slot.A)  # noqa: RUF009 - an attrs field

    def __attrs_post_init__(self) -> None:
        if len(self.labels) != 2 or self.labels[0] == self.labels[1]:
            raise SettingError("two different labels are needed, one for a and one for b", "labels")


@attrs.frozen(kw_only=True)
class PartitionSpec:
    """One Linux partition behind the slots, such as the root file system."""

    label: str = setting(TEXT, "its name on a GPT; an MBR has no names")
    size: int = setting(_SECTORS, "its size")
    image: str | None = setting(
        TEXT, "a file with its content, relative to this file; else it stays empty", default=None
    )

    def __attrs_post_init__(self) -> None:
        if len(self.label.encode("utf-16-le")) > 72:
            raise SettingError(f"{shown(self.label)} is longer than the 36 characters of a GPT name", "label")


@attrs.frozen(kw_only=True)
class ImageSpec:
    """A whole image: selector, slot a, slot b, then the others."""

    disk: DiskSpec = attrs.field(factory=DiskSpec)
    selector: SelectorSpec = attrs.field(factory=SelectorSpec)
    slots: SlotsSpec
    partitions: tuple[PartitionSpec, ...] = attrs.field(default=(), converter=tuple)


_TABLES: dict[str, type] = {"disk": DiskSpec, "selector": SelectorSpec, "slots": SlotsSpec}
_PATHS = {SlotsSpec: "tree", PartitionSpec: "image"}


def load_spec(path: str | os.PathLike[str]) -> ImageSpec:
    """Read a specification file.

    Raises:
        ConfigError: it cannot be read or is wrong, with the line.
    """
    name = os.fspath(path)
    return parse_spec(read_text(name), name, os.path.dirname(os.path.abspath(name)))


def parse_spec(text: str, name: str, folder: str = "") -> ImageSpec:
    """Like :func:`load_spec`, from a text.

    Args:
        text: TOML.
        name: of the file, for messages.
        folder: that relative paths in it start from.
    """
    try:
        document, lines = load_toml(text)
    except TomlError as error:
        raise InvalidConfig(name, [ConfigProblem(line=error.line, key="", message=str(error))]) from None
    return _Reader(name=name, folder=folder, lines=lines).image(document)


@attrs.frozen(kw_only=True)
class _Reader:
    name: str
    folder: str
    lines: Mapping[KeyPath, int]

    def image(self, document: Mapping[str, Any]) -> ImageSpec:
        self._refuse_unknown((), document, [*_TABLES, "partitions"])
        parts = {key: self._table((key,), document.get(key, {}), owner) for key, owner in _TABLES.items()}
        others = document.get("partitions", [])
        if not isinstance(others, list):
            raise self._error(("partitions",), "write [[partitions]], once for each")
        partitions = [self._table(("partitions", index), other, PartitionSpec) for index, other in enumerate(others)]
        return ImageSpec(**parts, partitions=partitions)

    def _table(self, path: KeyPath, table: object, owner: type) -> Any:
        if not isinstance(table, Mapping):
            raise self._error(path, f"{shown(table)} is not a table")
        settings = settings_of(owner)
        self._refuse_unknown(path, table, [row.key for row in settings])
        values: dict[str, Any] = {}
        for row in settings:
            if row.key in table:
                try:
                    values[row.field] = row.type.read(table[row.key])
                except SettingError as error:
                    raise self._error((*path, row.key), str(error)) from None
            elif row.default is attrs.NOTHING:
                raise self._error((*path, row.key), f"it is missing: {row.help}")
        holds_path = _PATHS.get(owner)
        if holds_path in values:
            values[holds_path] = os.path.join(self.folder, values[holds_path])
        try:
            return owner(**values)
        except SettingError as error:
            raise self._error((*path, error.key) if error.key else path, str(error)) from None

    def _refuse_unknown(self, path: KeyPath, table: Mapping[str, Any], known: Sequence[str]) -> None:
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                raise self._error((*path, key), "unknown key" + (f" (did you mean {near[0]!r}?)" if near else ""))

    def _error(self, path: KeyPath, found: str) -> ConfigError:
        line = nearest_line(self.lines, path)
        key = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
        where = f"line {line}: " if line else ""
        return ConfigError(f"cannot read {self.name}: {where}{show_path(key)}: {found}")
