"""YAML as Forklift's library writes it, byte for byte, and what that library takes a scalar for.  No I/O here.

Rules:

* Reading is PyYAML's work: its events, without any construction.  Anchors, aliases, tags (but ``!!binary``) and lists
  or mappings as keys are refused: Forklift writes none of them, and they are how a small text becomes a large one.
* Writing is ours, because no library for Python quotes as yaml.v3 does.  It is a translation of that part of its
  emitter that a text without anchors, comments and flow collections can reach.

Source: gopkg.in/yaml.v3 v3.0.1 (``resolve.go``, ``encode.go``, ``emitterc.go``, ``sorter.go``), which Forklift 0.8.0
is built with; read 2026-11.
"""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, Final

import attrs

INDENT: Final = 4  # of yaml.Marshal
MAX_DEPTH: Final = 32  # collections in collections
_SIMPLE_KEY_MAX: Final = 128  # bytes of a key that stands on one line with its value
_BINARY: Final = "tag:yaml.org,2002:binary"


class YamlError(ValueError):
    """What makes the text unreadable, with the number of the line."""


class Kind(Enum):
    """What a scalar is."""

    NULL = "null"
    BOOL = "truth value"
    INT = "whole number"
    FLOAT = "number"
    TIMESTAMP = "date"
    TEXT = "text"


@attrs.frozen
class Scalar:
    """One value.

    ``text`` is what it says; bytes that are no UTF-8 are in it as Python's ``surrogateescape`` has them.  ``plain``: it
    stands there without quotes, and is more than text.
    """

    text: str
    plain: bool = attrs.field(default=False, converter=bool)

    @property
    def kind(self) -> Kind:
        return resolve(self.text)[0] if self.plain else Kind.TEXT

    @property
    def value(self) -> int | bool | str | None:
        """What it is: a whole number, a truth value, nothing, or its text."""
        if self.plain:
            kind, value = resolve(self.text)
            if kind in (Kind.NULL, Kind.BOOL, Kind.INT):
                return value
        return self.text


@attrs.frozen
class List:
    items: tuple[Node, ...]


@attrs.frozen
class Block:
    """A mapping, in the order of the text."""

    entries: tuple[tuple[Scalar, Node], ...]


Node = Scalar | List | Block


@attrs.frozen(kw_only=True)
class Document:
    """``root`` is ``None`` if the text says nothing; ``comments`` are ``line N: # ...``."""

    root: Node | None
    comments: tuple[str, ...] = ()


# --- what a scalar without quotes is (resolve.go) ---

_CONSTANTS: Final[dict[str, tuple[Kind, bool | None]]] = {
    **dict.fromkeys(("true", "True", "TRUE"), (Kind.BOOL, True)),
    **dict.fromkeys(("false", "False", "FALSE"), (Kind.BOOL, False)),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), (Kind.NULL, None)),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), (Kind.FLOAT, None)),
    **dict.fromkeys([sign + word for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")], (Kind.FLOAT, None)),
}
# What YAML 1.1 calls a truth value.  yaml.v3 takes it for one where one is expected, and quotes it as a text.
OLD_BOOLS: Final = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "off", "Off", "OFF"), False),
}
_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?", re.ASCII)
_INT = re.compile(
    # Go's strconv.ParseInt with base 0, and what resolve.go tries after it: a sign behind the prefix.
    r"(?P<sign>[-+]?)(?:0[bB](?P<bin>[01]+)|0[oO](?P<oct>[0-7]+)|0[xX](?P<hex>[0-9a-fA-F]+)|(?P<old>0[0-7]*)"
    r"|(?P<dec>[1-9][0-9]*))|0b(?P<sign2>[-+])(?P<bin2>[01]+)|0o(?P<sign8>[-+])(?P<oct8>[0-7]+)",
    re.ASCII,
)
_BASES: Final = {"bin": 2, "oct": 8, "hex": 16, "old": 8, "dec": 10, "bin2": 2, "oct8": 8}
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_FRACTION = re.compile(r"\.[0-9]+(?:_[0-9]+)*(?:[eE][-+]?[0-9]+(?:_[0-9]+)*)?", re.ASCII)  # Go's strconv.ParseFloat
_TIMESTAMP = re.compile(
    r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})"
    r"(?:(?:([Tt])| +)([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})(?:[.,][0-9]+)?(?(4)(?:Z|[-+][0-9]{2}:[0-9]{2})))?",
    re.ASCII,
)
_MONTHS: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)  # days


def resolve(text: str) -> tuple[Kind, int | bool | None]:
    """What ``text`` is if nothing encloses it, and its value if that is a whole number or a truth value."""
    if text and text[0] not in "+-.~0123456789yYnNtTfFoO":
        return Kind.TEXT, None
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] == ".":
        return (Kind.FLOAT if _FRACTION.fullmatch(text) and _is_finite(text) else Kind.TEXT), None
    if text[0] in "+-0123456789":
        if _is_timestamp(text):
            return Kind.TIMESTAMP, None
        digits = text.replace("_", "")
        number = _integer(digits)
        if number is not None:
            return Kind.INT, number
        if _FLOAT.fullmatch(digits) and _is_finite(digits):
            return Kind.FLOAT, None
    return Kind.TEXT, None


def _integer(digits: str) -> int | None:
    found = _INT.fullmatch(digits)
    if found is None:
        return None
    name = found.lastgroup
    assert name is not None
    number, base = found[name], _BASES[name]
    if base == 10 and len(number) > 20:
        return None  # before Python refuses to count 4300 digits
    sign = found["sign"] or found["sign2"] or found["sign8"] or ""
    value = int(number, base) * (-1 if sign == "-" else 1)
    # Without a sign an unsigned number of 64 bits is tried as well.
    return value if -(2**63) <= value < (2**63 if sign else 2**64) else None


def _is_finite(number: str) -> bool:
    return abs(float(number)) != float("inf")


def _is_timestamp(text: str) -> bool:
    found = _TIMESTAMP.fullmatch(text)
    if found is None:
        return False
    year, month, day = (int(found[number]) for number in (1, 2, 3))
    hour, minute, second = (int(found[number] or 0) for number in (5, 6, 7))
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    days = _MONTHS[month - 1] - (month == 2 and not leap) if 1 <= month <= 12 else 0
    return 1 <= day <= days and hour < 24 and minute < 60 and second < 60


# --- reading ---


def read(text: str) -> Document:
    """The one document in ``text``.

    Raises:
        YamlError: it is no YAML, or has what Forklift never writes: an anchor, an alias, a tag, a list or a mapping as
            a key, more than one document, collections nested more than 32 deep.
    """
    import yaml

    try:
        return _Reader(text).document(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise YamlError(where + _printable(error.problem or error.context or "not YAML")) from error
    except yaml.YAMLError as error:
        raise YamlError(_printable(str(error).partition("\n")[0])) from error
    except YamlError:
        raise
    except (ValueError, OverflowError) as error:
        # Numbers in directives and escapes that PyYAML hands to int() and chr() as they are.
        raise YamlError("a number in it is out of range") from error


class _Reader:
    """Makes nodes of events, and notes where scalars stand: a ``#`` anywhere else begins a comment."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._scalars: list[tuple[int, int]] = []

    def document(self, events: Iterator[Any]) -> Document:
        from yaml import DocumentEndEvent, DocumentStartEvent, StreamEndEvent, StreamStartEvent

        root: Node | None = None
        documents = 0
        for event in events:
            match event:
                case StreamStartEvent() | DocumentEndEvent() | StreamEndEvent():
                    pass
                case DocumentStartEvent():
                    if event.version or event.tags:
                        raise _at(event, "a directive")
                    documents += 1
                    if documents > 1:
                        raise _at(event, "a second document begins")
                case _:
                    root = self._node(event, events, 0)
        if isinstance(root, Scalar) and root.kind is Kind.NULL:
            root = None
        return Document(root=root, comments=tuple(self._comments()))

    def _node(self, event: Any, events: Iterator[Any], depth: int) -> Node:
        from yaml import MappingEndEvent, MappingStartEvent, ScalarEvent, SequenceEndEvent, SequenceStartEvent

        if event.anchor is not None:
            raise _at(event, f"an anchor or an alias: {_printable(event.anchor)}")
        if event.tag is not None and not (isinstance(event, ScalarEvent) and event.tag == _BINARY):
            raise _at(event, f"a tag: {_printable(event.tag)}")
        if depth > MAX_DEPTH:
            raise _at(event, f"lists and mappings nested more than {MAX_DEPTH} deep")
        match event:
            case ScalarEvent():
                return self._scalar(event)
            case SequenceStartEvent():
                items = []
                while not isinstance(item := next(events), SequenceEndEvent):
                    items.append(self._node(item, events, depth + 1))
                return List(tuple(items))
            case MappingStartEvent():
                entries: dict[str, tuple[Scalar, Node]] = {}
                while not isinstance(start := next(events), MappingEndEvent):
                    key = self._node(start, events, depth + 1)
                    if not isinstance(key, Scalar):
                        raise _at(start, "a list or a mapping as a key")
                    if key.text == "<<":
                        raise _at(start, "a merge of mappings")
                    if key.text in entries:
                        raise _at(start, f"the key {_printable(key.text)!r} for the second time")
                    entries[key.text] = key, self._node(next(events), events, depth + 1)
                return Block(tuple(entries.values()))
            case _:
                raise _at(event, "something unexpected")

    def _scalar(self, event: Any) -> Scalar:
        self._scalars.append((event.start_mark.index, event.end_mark.index))
        text: str = event.value
        if event.tag == _BINARY:
            packed = text.replace("\n", "")
            try:
                data = base64.b64decode(packed, validate=True)
            except ValueError as error:
                raise _at(event, "binary data that is not base64") from error
            if base64.b64encode(data).decode() != packed:
                raise _at(event, "binary data that is not base64 as it should be")
            return Scalar(data.decode("utf-8", "surrogateescape"))
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise _at(event, "half a character")
        return Scalar(text, plain=event.style is None and resolve(text)[0] is not Kind.TEXT)

    def _comments(self) -> Iterator[str]:
        text = self._text
        outside: list[str] = []
        end = 0
        for first, last in self._scalars:
            outside += text[end:first], "x" * (last - first)
            end = last
        line, counted = 1, 0
        for comment in re.finditer(rf"#[^{_BREAKS}]*", "".join([*outside, text[end:]])):
            start = comment.start()
            if start == 0 or text[start - 1].isspace():
                line, counted = line + text.count("\n", counted, start), start
                yield f"line {line}: {_printable(comment[0])}"


def _at(event: Any, found: str) -> YamlError:
    return YamlError(f"line {event.start_mark.line + 1}: {found}")


def _printable(text: str) -> str:
    short = text if len(text) <= 80 else text[:77] + "..."
    return "".join(char if char.isprintable() else "?" for char in short)


# --- writing (encode.go, emitterc.go) ---


def write(root: Node) -> bytes:
    """``root`` as ``yaml.Marshal`` writes it; numbers and the like are written as they were found."""
    emitter = _Emitter()
    emitter.node(root, indent=-1, in_list=False)
    emitter.indent_to(0)
    return "".join(emitter.out).encode()


def problem_of_key(text: str) -> str:
    """Why yaml.v3 does not read back the key ``text`` that it has written; empty if it does."""
    if any("\ud800" <= char < "\udc80" or "\udcff" < char <= "\udfff" for char in text):
        return "is not text"
    if text == "<<":
        return "is taken for a merge when it is read back"
    spelling = _Spelling.of(Scalar(text))
    if spelling.style is _Style.LITERAL and spelling.text[0] in "\t" + _BREAKS:
        return "has more than one line and begins with white space, which is not read back"
    return ""


_BREAKS: Final = "\n\r\x85\u2028\u2029"
_SPECIAL = re.compile(r"[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd]")
_BESIDE_BREAK = re.compile(rf" [{_BREAKS}]|[{_BREAKS}] ")
_SPACE_BREAK = re.compile(rf" [{_BREAKS}]")
# What makes a scalar without quotes something else.
_INDICATOR = re.compile(
    rf"[#,\[\]{{}}&*!|>'\"%@`]|---|\.\.\.|[?-](?:[ \t]|\Z)|.*?(?::(?:[ \t]|\Z)|[ \t\0{_BREAKS}]#)", re.DOTALL
)
_ESCAPES: Final = {
    "\0": "0", "\a": "a", "\b": "b", "\t": "t", "\n": "n", "\v": "v", "\f": "f", "\r": "r", "\x1b": "e", '"': '"',
    "\\": "\\", "\x85": "N", "\xa0": "_", "\u2028": "L", "\u2029": "P",
}  # fmt: skip


class _Style(Enum):
    PLAIN = "plain"
    SINGLE = "single quotes"
    DOUBLE = "double quotes"
    LITERAL = "literal"


@attrs.frozen(kw_only=True)
class _Spelling:
    """A scalar as it is going to be written."""

    text: str
    style: _Style
    tag: str = ""
    simple: bool  # as a key it stands on one line with its value

    @classmethod
    def of(cls, scalar: Scalar) -> _Spelling:
        text, tag = scalar.text, ""
        try:
            text.encode()
        except UnicodeEncodeError:
            tag, text = "!!binary", _base64_lines(text.encode("utf-8", "surrogateescape"))
        if "\n" in text:
            style = _Style.LITERAL
        elif scalar.plain or tag or _is_text_to_everybody(text):
            style = _Style.PLAIN
        else:
            style = _Style.DOUBLE
        multiline = any(char in _BREAKS for char in text)
        special = bool(_SPECIAL.search(text))
        single_allowed = not (special or "\t" in text or _BESIDE_BREAK.search(text))
        at_an_edge = text[:1] + text[-1:]
        if style is _Style.PLAIN and (multiline or " " in at_an_edge or not single_allowed or _INDICATOR.match(text)):
            style = _Style.SINGLE
        if style is _Style.SINGLE and not single_allowed:
            style = _Style.DOUBLE
        if style is _Style.LITERAL and (special or text.endswith(" ") or _SPACE_BREAK.search(text)):
            style = _Style.DOUBLE
        simple = not multiline and len(tag) + len(text.encode()) <= _SIMPLE_KEY_MAX
        return cls(text=text, tag=tag, style=style, simple=simple)


def _is_text_to_everybody(text: str) -> bool:
    """No parser, old or new, takes it for anything but text."""
    return resolve(text)[0] is Kind.TEXT and text not in OLD_BOOLS and not _BASE_60.fullmatch(text)


def _base64_lines(data: bytes) -> str:
    """In lines of 70; one that is alone has no end."""
    packed = base64.b64encode(data).decode()
    lines = [packed[at : at + 70] for at in range(0, len(packed), 70)]
    return packed if len(packed) < 70 else "".join(line + "\n" for line in lines)


class _Emitter:
    """The state of yaml.v3's emitter: what decides where a line ends and where a space stands."""

    def __init__(self) -> None:
        self.out: list[str] = []
        self.column = 0
        self.whitespace = True  # nothing need be put before a value
        self.indention = True  # only white space and indicators so far in this line

    def node(self, node: Node, *, indent: int, in_list: bool) -> None:
        inner = _deeper(indent, in_list=in_list)
        match node:
            case Scalar():
                self.scalar(_Spelling.of(node), inner)
            case List(items=()):
                self.indicator("[")
                self.indicator("]", need_space=False)
            case Block(entries=()):
                self.indicator("{")
                self.indicator("}", need_space=False)
            case List():
                for item in node.items:
                    self.indent_to(inner)
                    self.indicator("-", keeps_indention=True)
                    self.node(item, indent=inner, in_list=True)
            case Block():
                for key, value in node.entries:
                    self.indent_to(inner)
                    self.key(_Spelling.of(key), inner)
                    self.node(value, indent=inner, in_list=False)

    def key(self, key: _Spelling, indent: int) -> None:
        inner = _deeper(indent, in_list=False)
        if key.simple:
            self.scalar(key, inner)
            self.indicator(":", need_space=False)
        else:
            self.indicator("?", keeps_indention=True)
            self.scalar(key, inner)
            self.indent_to(indent)
            self.indicator(":", keeps_indention=True)

    def scalar(self, scalar: _Spelling, indent: int) -> None:
        text = scalar.text
        if scalar.tag:
            self.indicator(scalar.tag)
        match scalar.style:
            case _Style.PLAIN:
                if text:
                    self.indicator(text)
                self.indention = False
            case _Style.SINGLE:
                self.indicator("'")
                self.lines(text.replace("'", "''"), indent, begun=True)
                self.indicator("'", need_space=False)
            case _Style.DOUBLE:
                # A byte order mark in front makes yaml.v3 escape everything.
                everything = text.startswith("\ufeff")
                escaped = (_escape(char) if everything or _needs_escape(char) else char for char in text)
                self.indicator('"' + "".join(escaped) + '"')
            case _Style.LITERAL:
                hint = str(INDENT) if text[0] in " " + _BREAKS else ""
                self.indicator("|" + hint + _chomping(text))
                self.whitespace = True
                self.lines(text, indent, begun=False)

    def lines(self, text: str, indent: int, *, begun: bool) -> None:
        for char in text:
            if char in _BREAKS:
                self.line_break(char)
                begun = False
            else:
                if not begun:
                    self.indent_to(indent)
                self.put(char)
                self.indention = False
                begun = True

    def put(self, text: str) -> None:
        self.out.append(text)
        self.column += len(text)

    def line_break(self, char: str = "\n") -> None:
        self.out.append(char)
        self.column = 0
        self.indention = True

    def indent_to(self, indent: int) -> None:
        if not self.indention or self.column > indent or (self.column == indent and not self.whitespace):
            self.line_break()
        self.put(" " * (indent - self.column))
        self.whitespace = True

    def indicator(self, text: str, *, need_space: bool = True, keeps_indention: bool = False) -> None:
        self.put(" " * (need_space and not self.whitespace) + text)
        self.whitespace = False
        self.indention = self.indention and keeps_indention


def _deeper(indent: int, *, in_list: bool) -> int:
    """The column of what is inside; the first level has none, and an item stands right behind its ``- ``."""
    if indent < 0:
        return 0
    return indent + 2 if in_list else INDENT * ((indent + INDENT) // INDENT)


def _chomping(text: str) -> str:
    """The hint that says how many line ends close a literal."""
    if text[-1] not in _BREAKS:
        return "-"
    return "+" if text[:-1] == "" or text[-2] in _BREAKS else ""


def _needs_escape(char: str) -> bool:
    return char in '"\\\t' or char in _BREAKS or bool(_SPECIAL.match(char))


def _escape(char: str) -> str:
    code = ord(char)
    if char in _ESCAPES:
        return "\\" + _ESCAPES[char]
    if code <= 0xFF:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"


# --- the order of keys (sorter.go) ---


def natural_order(names: Iterable[str]) -> list[str]:
    """Numbers in names count as numbers: a1, a2, a10.  Names that compare alike both ways keep their order."""
    return sorted(names, key=functools.cmp_to_key(_compare))


def _compare(a: str, b: str) -> int:
    return _less(b, a) - _less(a, b)


def _less(a: str, b: str) -> bool:
    a, b = _runes(a), _runes(b)
    at = next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    if at is None:
        return len(a) < len(b)
    x, y = a[at], b[at]
    if x.isalpha() and y.isalpha():
        return x < y
    if x.isalpha() or y.isalpha():
        return x.isalpha() if at and a[at - 1].isdecimal() else y.isalpha()
    # A zero counts only behind another digit.
    first = 0
    if "0" in (x, y):
        before = next((char for char in reversed(a[:at]) if char != "0"), "")
        first = int(before.isdecimal())
    (x_number, x_digits), (y_number, y_digits) = _number(a[at:], first), _number(b[at:], first)
    if x_number != y_number:
        return x_number < y_number
    return x_digits < y_digits if x_digits != y_digits else x < y


def _number(text: str, first: int) -> tuple[int, int]:
    """The digits in front of ``text`` behind ``first``, in the 64 bits that Go counts with, and how many they are."""
    value = first
    digits = 0
    for char in text:
        if not char.isdecimal():
            break
        value, digits = value * 10 + ord(char) - ord("0"), digits + 1
    return (value + 2**63) % 2**64 - 2**63, digits


def _runes(text: str) -> str:
    """As Go sees it: every byte that is no UTF-8 is the same sign."""
    return "".join("\ufffd" if "\udc80" <= char <= "\udcff" else char for char in text)
