"""Text for people: colour on a terminal, plain in a pipe, the same words in both."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

import attrs

from abboot.cli.terminal import terminal_width
from abboot.core.value import Value

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}

#: What colour a word of a state, phase or outcome has.
_COLOURS = {
    "good": "green",
    "committed": "green",
    "settled": "green",
    "staged": "cyan",
    "armed": "yellow",
    "trial": "yellow",
    "offline": "blue",
    "failed": "red",
    "foreign": "red",
    "incomplete": "red",
    "fell_back": "red",
    "unbootable": "red",
    "reverted": "yellow",
    "not_reached": "yellow",
    "passed_uncommitted": "yellow",
    "unknown": "yellow",
    "empty": "dim",
}


#: What a terminal would take for an order: everything but text, line ends and our own colours.
_CONTROL = re.compile(r"\033(?!\[[0-9;]*m)|[\0-\t\v-\032\034-\037\177-\237]")
_COLOUR = re.compile(r"\033\[[0-9;]*m")
_LEAST_WIDTH = 24  # columns of text; on a narrower terminal the terminal wraps
_BELOW = "      "


@attrs.frozen(eq=False, repr=False)
class Style(Value):
    """How to draw: with colour or without, and how wide (``None``: lines as long as they are, for pipes)."""

    colour: bool = False
    width: int | None = None

    def paint(self, text: str, *names: str) -> str:
        if not self.colour or not text:
            return text
        return f"\033[{';'.join(_CODES[name] for name in names)}m{text}\033[0m"

    def word(self, value: object) -> str:
        """A state, phase or outcome, in its colour."""
        text = str(value)
        return self.paint(text, _COLOURS[text]) if text in _COLOURS else text

    def bold(self, text: str) -> str:
        return self.paint(text, "bold")

    def dim(self, text: str) -> str:
        return self.paint(text, "dim")

    def remark(self, kind: str, text: str) -> str:
        """``note: ...`` or ``warning: ...``."""
        return item(self, f"{self.paint(f'{kind}:', 'yellow')} ", text)


def style_for(stream: TextIO, environment: Mapping[str, str]) -> Style:
    """Lines fit a terminal; it has colour unless somebody asked for none (https://no-color.org)."""
    if not stream.isatty():
        return Style()
    plain = bool(environment.get("NO_COLOR")) or environment.get("TERM") == "dumb"
    return Style(colour=not plain, width=terminal_width())


def item(style: Style, head: str, text: str) -> str:
    """``head`` and ``text``; further lines of the text are indented to where it began."""
    indent = _width(head)
    lines = wrapped(text, style.width - indent if style.width is not None else None)
    return ("\n" + " " * indent).join([head + lines[0], *lines[1:]])


def facts(style: Style, rows: Iterable[tuple[str, str]]) -> str:
    """``name  value`` lines, the names aligned; rows without a value are left out."""
    kept = [(name, value) for name, value in rows if value]
    width = max((len(name) for name, _ in kept), default=0)
    return "\n".join(item(style, f"{style.dim(name.ljust(width))}  ", value) for name, value in kept)


def table(style: Style, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns; a cell may hold colour.  The last one is wrapped to the terminal, or below where there is no room."""
    widths = [max(_width(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = []
    for row in [[style.dim(name) for name in head], *rows]:
        cells = [cell + " " * (width - _width(cell)) for cell, width in zip(row[:-1], widths[:-1], strict=True)]
        start = "".join(f"{cell}  " for cell in cells)
        room = None if style.width is None else style.width - _width(start)
        if room is not None and room < _LEAST_WIDTH and _width(row[-1]) > room:
            lines += [start, item(style, _BELOW, row[-1])]
        else:
            lines.append(item(style, start, row[-1]))
    return "\n".join(line.rstrip() for line in "\n".join(lines).split("\n"))


def wrapped(text: str, width: int | None) -> list[str]:
    """Lines of at most ``width`` columns, broken at blanks; colours take none."""
    if width is None or width < _LEAST_WIDTH or _width(text) <= width:
        return [text]
    lines, line = [], ""
    for word in text.split(" "):
        if line and _width(line) + 1 + _width(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]


def printable(text: str) -> str:
    """``text`` without what a hostile name or label could do to a terminal."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def one_line(text: str) -> str:
    """``text`` on one line."""
    return printable(text.replace("\n", "\\n"))


def size(count: int) -> str:
    """Bytes for people: ``71.5 MB``, ``12.3 kB``, ``512 B``."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def _width(text: str) -> int:
    """Columns on a terminal, near enough: wide characters are rare in what we print."""
    return len(_COLOUR.sub("", text))
