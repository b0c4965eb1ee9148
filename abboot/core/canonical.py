"""Canonical JSON: one byte sequence per value, and a strict way back from hostile bytes.

The journal and the record are built on it.  Rules: sorted keys, no NaN, no duplicate keys, no lone surrogates, a
bounded size; whatever is wrong with the text is :class:`abboot.errors.Damaged`, never a foreign exception (G10).
No I/O here.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, NoReturn

from abboot.errors import Damaged

if TYPE_CHECKING:
    from collections.abc import Mapping

    import attrs

_SURROGATE = re.compile("[\ud800-\udfff]")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def dump_json(value: Mapping[str, Any], *, indent: int | None = None, ascii_only: bool = True) -> bytes:
    """The bytes of ``value``.

    Raises:
        ValueError: it cannot be expressed: NaN, a key that is not a string, a lone surrogate, nesting without end.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    try:
        text = json.dumps(
            value, sort_keys=True, allow_nan=False, ensure_ascii=ascii_only, indent=indent, separators=separators
        )
        return text.encode()
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def load_json(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in ``data``.  Raises :class:`abboot.errors.Damaged`, which begins ``cannot read <what>:``.

    The size of ``data`` is the caller's to bound.
    """

    def refuse(reason: str) -> NoReturn:
        raise Damaged(f"cannot read {what}: {reason}")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            refuse("it has a key twice")
        return found

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            refuse("it has a number that is too large")
        return value

    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=pairs,
            parse_float=number,
            parse_constant=lambda name: refuse(f"{name} is not a number"),
        )
        # "\ud800" is legal JSON and illegal text: it could neither be written again nor printed.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # UnicodeError and JSONDecodeError are ValueErrors
        raise Damaged(f"cannot read {what}: it is not JSON ({type(error).__name__})") from error
    if not isinstance(value, dict):
        refuse(f"it is not a JSON object but {type(value).__name__}")
    return value


def is_sha256(text: object) -> bool:
    """Whether ``text`` is 64 lower-case hexadecimal digits."""
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def is_text(text: str) -> bool:
    """Whether ``text`` can be written as UTF-8: no lone surrogates, which is what Python makes of foreign bytes."""
    return text.isascii() or _SURROGATE.search(text) is None


def one_line(text: str, limit: int) -> str:
    """``text`` as one printable line whose JSON is at most ``limit`` bytes: control characters become spaces.

    What a disk says ends up on somebody's terminal: no escape sequence gets there through us (G10).
    """
    clean = "".join(char if char.isprintable() else " " for char in text[:limit])
    while len(json.dumps(clean)) - 2 > limit:
        excess = len(json.dumps(clean)) - 2 - limit
        clean = clean[: -max(1, excess // 12)]  # no character takes more than 12 bytes: "\ud83d\ude00"
    return clean


# -- validators for attrs: a value that exists is legal -----------------------------------------------------------


def integer(low: int, high: int) -> Any:
    """An ``int``, and no ``bool``, in ``[low, high]``."""

    def check(_instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{attribute.name} must be a number from {low} to {high}, found {_short(value)}")

    return check


def digest(_instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    """A SHA-256 in lower-case hexadecimal."""
    if not is_sha256(value):
        raise ValueError(f"{attribute.name} must be 64 lower-case hexadecimal digits, found {_short(value)}")


def instance_of(*kinds: type) -> Any:
    """One of these types."""

    def check(_instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, kinds):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise TypeError(f"{attribute.name} must be {names}, found {_short(value)}")

    return check


def _short(value: object) -> str:
    if isinstance(value, int | float | None):
        return repr(value)[:40] if not isinstance(value, int) or abs(value) < 10**30 else "a huge number"
    return f"{value[:80]!r}" if isinstance(value, str) else type(value).__name__
