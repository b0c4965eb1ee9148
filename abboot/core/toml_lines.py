"""TOML with the line of each key, from text that nobody vouches for (G10).  No I/O here.

:mod:`tomllib` says the line of a syntax error, and forgets the lines of everything that it accepts; the scanner here
finds them again.  Rule: the scanner reads only what tomllib has accepted, so it judges nothing.  Source: TOML 1.0.0.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

KeyPath = tuple[str | int, ...]

MAX_SIZE = 64 * 1024  # characters
MAX_KEY_PARTS = 16  # of a dotted key

# tomllib needs quadratic time for a dotted key (16000 parts: minutes), and the paths below would need quadratic memory.
# Possessive, so that this search is linear.
_PART = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{MAX_KEY_PARTS}}}")
_WHERE = re.compile(r" ?\(at (?:line (?P<line>[0-9]+), column [0-9]+|end of document)\)$")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]*")


class TomlError(ValueError):
    """A text is not TOML.

    Attributes:
        line: where, from 1; 0 where no line is to blame.
    """

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def load_toml(text: str) -> tuple[dict[str, Any], Mapping[KeyPath, int]]:
    """The tables of a TOML text, and the lines from :func:`key_lines`.

    Raises:
        TomlError: it is not TOML, or longer or deeper than any file of ours.
    """
    import tomllib  # here: a system without a configuration file does not pay for it

    if len(text) > MAX_SIZE:
        raise TomlError(f"{len(text)} characters, {MAX_SIZE} are possible", 0)
    if found := _LONG_KEY.search(text):
        raise TomlError(f"a key of more than {MAX_KEY_PARTS} parts", text.count("\n", 0, found.start()) + 1)
    try:
        return tomllib.loads(text), key_lines(text)
    except RecursionError:
        raise TomlError("arrays or tables are nested too deeply", 0) from None
    except ValueError as error:  # also what int() says to more than 4300 digits
        message = str(error)
        where = _WHERE.search(message)
        if where is None:
            raise TomlError(_plain(message), 0) from None
        line = int(where["line"]) if where["line"] else text.count("\n") + 1
        raise TomlError(_plain(message[: where.start()]), line) from None


def _plain(message: str) -> str:
    return message[:1].lower() + message[1:]


def key_lines(text: str) -> Mapping[KeyPath, int]:
    """The line (from 1) of every table, key and array element.

    A path is what one would write to get there: ``("health", "checks", 0, "name")``.  A table that is named more than
    once has the line of its first mention.

    Args:
        text: what :func:`tomllib.loads` has accepted.
    """
    scanner = _Scanner(text=text)
    scanner.document()
    return scanner.lines


def nearest_line(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    """The line of ``path``, or of the nearest table around it that was written at all; 0 for none."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return 0


@attrs.define(kw_only=True)
class _Scanner:
    text: str
    at: int = 0
    line: int = 1
    lines: dict[KeyPath, int] = attrs.field(factory=dict)
    lengths: dict[KeyPath, int] = attrs.field(factory=dict)  # of the arrays of tables

    def document(self) -> None:
        table: KeyPath = ()
        while self._skip(_BLANK) < len(self.text):
            if self._take("[["):
                table = self._header(array=True)
            elif self._take("["):
                table = self._header(array=False)
            else:
                self._pair(table)

    def _header(self, *, array: bool) -> KeyPath:
        keys = self._keys()
        self._take("]]" if array else "]")
        path: KeyPath = ()
        for key in keys[:-1]:
            path = self._current((*path, key))
        path = (*path, keys[-1])
        self.lines.setdefault(path, self.line)
        if not array:
            return self._current(path)
        index = self.lengths.get(path, 0)
        self.lengths[path] = index + 1
        self.lines[(*path, index)] = self.line
        return (*path, index)

    def _current(self, path: KeyPath) -> KeyPath:
        """``[a.b]`` after ``[[a]]`` is a table of the newest ``a``."""
        self.lines.setdefault(path, self.line)
        return (*path, self.lengths[path] - 1) if path in self.lengths else path

    def _pair(self, table: KeyPath) -> None:
        path = table
        for key in self._keys():
            path = (*path, key)
            self.lines.setdefault(path, self.line)
        self._take("=")
        self._value(path)

    def _keys(self) -> list[str]:
        keys = [self._key()]
        while self._take("."):
            keys.append(self._key())
        return keys

    def _key(self) -> str:
        self._skip(_SPACE)
        if found := _STRING.match(self.text, self.at):
            self._advance(found.end())
            import tomllib

            key: str = tomllib.loads(f"key = {found[0]}")["key"]
            return key
        found = _BARE_KEY.match(self.text, self.at)
        if found is None:
            raise ValueError(f"no key on line {self.line}: not a text that tomllib accepts")
        self._advance(found.end())
        return found[0]

    def _value(self, path: KeyPath) -> None:
        self._skip(_BLANK)
        if found := _STRING.match(self.text, self.at):
            self._advance(found.end())
        elif self._take("["):
            index = 0
            while self._skip(_BLANK) < len(self.text) and not self._take("]"):
                self.lines[(*path, index)] = self.line
                self._value((*path, index))
                index += 1
                self._skip(_BLANK)
                self._take(",")
        elif self._take("{"):
            while self._skip(_BLANK) < len(self.text) and not self._take("}"):
                self._pair(path)
                self._skip(_BLANK)
                self._take(",")
        else:
            self._skip(_SCALAR)

    def _take(self, mark: str) -> bool:
        """Step over ``mark``, and blanks before it, if it is next."""
        start = self._skip(_SPACE)
        if not self.text.startswith(mark, start):
            return False
        self.at += len(mark)
        return True

    def _skip(self, pattern: re.Pattern[str]) -> int:
        found = pattern.match(self.text, self.at)
        self._advance(found.end() if found else self.at)
        return self.at

    def _advance(self, to: int) -> None:
        self.line += self.text.count("\n", self.at, to)
        self.at = to
