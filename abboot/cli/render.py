"""Text for people: colour on a terminal, plain in a pipe, the same words in both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

import attrs

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


@attrs.frozen
class Style:
    """How to draw: with colour or without, and how wide."""

    colour: bool = False
    width: int = 100

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


def style_for(stream: TextIO, environment: Mapping[str, str]) -> Style:
    """Colour if ``stream`` is a terminal and nobody asked for none (https://no-color.org)."""
    if not stream.isatty() or environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
        return Style()
    import shutil

    return Style(colour=True, width=shutil.get_terminal_size().columns)


def facts(style: Style, rows: Iterable[tuple[str, str]]) -> str:
    """``name  value`` lines, the names aligned; rows without a value are left out."""
    kept = [(name, value) for name, value in rows if value]
    width = max((len(name) for name, _ in kept), default=0)
    return "\n".join(f"{style.dim(name.ljust(width))}  {value}" for name, value in kept)


def table(style: Style, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns; a cell may hold colour."""
    plain = [list(head), *[[_uncoloured(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in plain) for column in range(len(head))]
    lines = ["  ".join(style.dim(name.ljust(width)) for name, width in zip(head, widths, strict=True)).rstrip()]
    for row in rows:
        cells = [cell + " " * (width - len(_uncoloured(cell))) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def size(count: int) -> str:
    """Bytes for people: ``71.5 MB``, ``12.3 kB``, ``512 B``."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def _uncoloured(text: str) -> str:
    import re

    return re.sub(r"\033\[[0-9;]*m", "", text)
