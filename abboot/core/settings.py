"""One declaration per setting: key, type, default and help, from which everything else follows.  No I/O here.

Rules: a class of settings is a frozen attrs class whose fields are made by :func:`setting`.  Reading a file, writing
one, the reference page and the check on construction all use that one declaration.  A value that cannot be is refused
with a sentence that shows it; the key and the line are added by whoever knows them.  Source: TOML
1.0.0.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from abboot.core.value import Value

LONGEST_S = 24 * 3600.0  # no time in a configuration is longer than a day: a trial is minutes
MAX_TEXT = 4096  # characters
MAX_ITEMS = 256
SHOWN = 60  # characters of a wrong value in a message

_KEY = "abboot.key"
_TYPE = "abboot.type"
_HELP = "abboot.help"


class SettingError(ValueError):
    """The value of one setting cannot stand, by itself or beside another one.

    Attributes:
        key: the setting of the same table that is to blame; empty for the whole table.
    """

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


@attrs.frozen(kw_only=True, eq=False, repr=False)
class SettingType(Value):
    """How the value of a setting is read from TOML (raising :class:`SettingError`), written, and called."""

    words: str
    read: Callable[[Any], Any]
    write: Callable[[Any], str]


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Setting(Value):
    """One row of the table of settings."""

    key: str  # as written in the file
    field: str  # as named in Python
    type: SettingType
    default: Any  # attrs.NOTHING: must be given; None: not set
    help: str


def setting(kind: SettingType, about: str, *, key: str = "", default: Any = attrs.NOTHING) -> Any:
    """An attrs field that carries its row of the table and checks its value when an object is made."""
    converter = attrs.converters.optional(kind.read) if default is None else kind.read
    return attrs.field(default=default, converter=converter, metadata={_KEY: key, _TYPE: kind, _HELP: about})


def settings_of(owner: type) -> tuple[Setting, ...]:
    """The settings that a class declares, in the order of its source; other fields are passed over."""
    return tuple(
        Setting(
            key=field.metadata[_KEY] or field.name,
            field=field.name,
            type=field.metadata[_TYPE],
            default=field.default,
            help=field.metadata[_HELP],
        )
        for field in attrs.fields(owner)
        if _TYPE in field.metadata
    )


def shown(value: object) -> str:
    """A value for a message: on one line, and short however long it is."""
    text = (
        repr(value[:SHOWN]) if isinstance(value, str) else ascii(value) if isinstance(value, float) else _shape(value)
    )
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _shape(value: object) -> str:
    # str() of an integer of more than 4300 digits raises, and repr() of a deep nest of lists recurses.
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if abs(value) < 10**18 else "a huge integer"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return f"an array of {len(value)}"
    return str(value)


# -- TOML ------------------------------------------------------------------------------------------------------------

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def toml_text(value: str) -> str:
    """A basic string.  Control characters and DEL must be escaped, for the terminal's sake C1 is too.

    JSON would not do: its surrogate pairs are no TOML.
    """
    escaped = "".join(
        f"\\{c}" if c in '"\\' else f"\\u{ord(c):04X}" if ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 else c for c in value
    )
    return f'"{escaped}"'


def toml_key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else toml_text(key)


def toml_value(value: Any) -> str:
    """Any value that :mod:`tomllib` can return, on one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return toml_text(value)
        case int():
            return str(value)
        case float():
            return repr(value)  # inf and nan are TOML words too
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case Mapping():
            return "{" + ", ".join(f"{toml_key(k)} = {toml_value(v)}" for k, v in value.items()) + "}"
        case Sequence():
            return "[" + ", ".join(toml_value(item) for item in value) + "]"
    raise TypeError(f"{type(value).__name__} has no TOML form")


# -- types -----------------------------------------------------------------------------------------------------------

_UNITS_S = {"h": 3600.0, "min": 60.0, "s": 1.0, "ms": 0.001}  # the order in which writing tries them
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(ms|s|min|h)")
_UNITS_BYTES = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}
_SIZE = re.compile(r"([0-9]{1,9}) ?(KiB|MiB|GiB)")


def _seconds(text: str) -> float | None:
    found = _DURATION.fullmatch(text)
    if found is None:
        return None
    number, unit = found.groups()
    return float(number) / 1000 if unit == "ms" else float(number) * _UNITS_S[unit]


def duration(*, at_least_s: float = 0.0) -> SettingType:
    """Seconds as a float; in the file a number of seconds, or ``"10s"``, ``"5min"``, ``"1h"``, ``"500ms"``."""

    def read(value: object) -> float:
        seconds: float | None = None
        if isinstance(value, str):
            seconds = _seconds(value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LONGEST_S:
            seconds = float(value)  # nan fails the comparison, and no integer here overflows a float
        if seconds is None:
            raise SettingError(f'{shown(value)} is not a duration: write "10s", "5min", "1h" or a number of seconds')
        if not at_least_s <= seconds <= LONGEST_S:
            raise SettingError(
                f"{shown(value)} is not from {write_duration(at_least_s)} to {write_duration(LONGEST_S)}"
            )
        return seconds

    return SettingType(words="duration", read=read, write=lambda value: toml_value(_duration_value(value)))


def _duration_value(seconds: float) -> str | float:
    for unit, size in _UNITS_S.items():
        count = round(seconds / size)
        text = f"{count}{unit}"
        if count and _seconds(text) == seconds:
            return text
    # Zero has no best unit, and what no unit writes exactly stays a number: the file must give the same value back.
    return "0s" if seconds == 0 and math.copysign(1, seconds) > 0 else seconds


def write_duration(seconds: float) -> str:
    """For people: ``10s``, ``5min``, ``1h``, ``2.5s``; rounded where that is no loss to a reader."""
    if seconds < 1:
        return f"{seconds * 1000:.3g}ms" if seconds else "0s"
    value = _duration_value(round(seconds, 1))
    return value if isinstance(value, str) and not value.endswith("ms") else f"{seconds:.1f}s"


def integer(at_least: int, at_most: int) -> SettingType:
    words = f"integer from {at_least} to {at_most}"

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value <= at_most:
            raise SettingError(f"{shown(value)} is not an {words}")
        return value

    return SettingType(words=words, read=read, write=toml_value)


def _read_boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise SettingError(f"{shown(value)} is not true or false")
    return value


def _read_size(value: object) -> int:
    if isinstance(value, str) and (found := _SIZE.fullmatch(value)) is not None:
        return int(found[1]) * _UNITS_BYTES[found[2]]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 62:
        raise SettingError(f'{shown(value)} is not a size: write "64MiB", "1GiB" or a number of bytes')
    return value


def _write_size(size_bytes: int) -> str:
    for unit, size in _UNITS_BYTES.items():
        if size_bytes and size_bytes % size == 0 and size_bytes // size < 10**9:
            return toml_text(f"{size_bytes // size}{unit}")
    return str(size_bytes)


_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_IMPOSSIBLE = re.compile("[\x00\ud800-\udfff]")  # in an argument of a program, or in UTF-8


def _plain(value: object, what: str, refused: re.Pattern[str] = _CONTROLS) -> str:
    if not isinstance(value, str) or (not value and refused is _CONTROLS):
        raise SettingError(f"{shown(value)} is not {what}")
    if len(value) > MAX_TEXT:
        raise SettingError(f"{shown(value)}: {len(value)} characters, {MAX_TEXT} are possible")
    if bad := refused.search(value):
        raise SettingError(f"{shown(value)} holds the character U+{ord(bad[0]):04X}")
    return value


def _read_any_text(value: object) -> str:
    return _plain(value, "a text", _IMPOSSIBLE)


def _read_text(value: object) -> str:
    return _plain(value, "a text")


def _read_path(value: object) -> str:
    text = _plain(value, "a path")
    if not text.startswith("/"):
        raise SettingError(f"{shown(text)} is not an absolute path")
    return text


def _read_inner_path(value: object) -> str:
    text = _plain(value, "a path")
    if any(part in ("", ".", "..") for part in text.split("/")):
        raise SettingError(f'{shown(text)} is not a path inside the slot, such as "config.txt"')
    return text


def array_of(item: SettingType, *, at_least: int = 0) -> SettingType:
    """A tuple in Python; at most :data:`MAX_ITEMS`."""

    def read(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or not at_least <= len(value) <= MAX_ITEMS:
            raise SettingError(f"{shown(value)} is not an array of {at_least} to {MAX_ITEMS} values")
        return tuple(item.read(each) for each in value)

    words = f"array of {item.words}" + (", not empty" if at_least else "")
    return SettingType(words=words, read=read, write=lambda value: "[" + ", ".join(map(item.write, value)) + "]")


def choice(words: type[Any]) -> SettingType:
    """One of the values of a ``StrEnum``."""
    values = [str(each.value) for each in words]

    def read(value: object) -> Any:
        if not isinstance(value, str) or value not in values:
            raise SettingError(f"{shown(value)} is not one of {', '.join(values)}")
        return words(value)

    return SettingType(words=" or ".join(f'"{each}"' for each in values), read=read, write=lambda v: toml_text(str(v)))


BOOLEAN = SettingType(words="boolean", read=_read_boolean, write=toml_value)
SIZE = SettingType(words="size", read=_read_size, write=_write_size)
TEXT = SettingType(words="text", read=_read_text, write=toml_text)
PATH = SettingType(words="absolute path", read=_read_path, write=toml_text)
PATHS = array_of(PATH)
INNER_PATH = SettingType(words="path inside a slot", read=_read_inner_path, write=toml_text)
INNER_PATHS = array_of(INNER_PATH)
TEXTS = array_of(TEXT)
ANY_TEXT = SettingType(words="text", read=_read_any_text, write=toml_text)  # may be empty or have several lines
COMMAND = array_of(ANY_TEXT, at_least=1)
