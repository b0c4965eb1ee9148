"""A progress bar on a terminal; nothing in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from abboot.cli.render import size

_BAR = 24  # characters
_INTERVAL_S = 0.1


class ProgressBar:
    """Draws ``stage  [#####     ]  42.0 MB of 71.5 MB  18.3 MB/s  1 s left`` on one line of stderr.

    Nothing is drawn in the first half second: what is over by then needs no bar.
    """

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._began = time.monotonic()
        self._drawn = 0.0
        self._last = 0
        self._line = ""

    def __call__(self, done: int, total: int, path: str) -> None:
        now = time.monotonic()
        if done < self._last:  # the next pass over the files: reading back, after writing
            self._began = now
        self._last = done
        if now - self._began < 0.5 or now - self._drawn < _INTERVAL_S:
            return
        self._drawn = now
        rate = done / (now - self._began)
        left = (total - done) / rate if rate else 0.0
        filled = _BAR * done // total if total else _BAR
        line = (
            f"{self._verb}  [{'#' * filled}{' ' * (_BAR - filled)}]  {size(done)} of {size(total)}  "
            f"{size(int(rate))}/s  {left:.0f} s left  {path}"
        )
        self._draw(line[:100])

    def clear(self) -> None:
        if self._line:
            sys.stderr.write("\r" + " " * len(self._line) + "\r")
            sys.stderr.flush()
            self._line = ""

    def _draw(self, line: str) -> None:
        sys.stderr.write("\r" + line.ljust(len(self._line)))
        sys.stderr.flush()
        self._line = line


def progress_bar(verb: str, *, wanted: bool) -> ProgressBar | None:
    """A bar, if stderr is a terminal and nobody asked for silence."""
    return ProgressBar(verb) if wanted and sys.stderr.isatty() else None


Progress = Callable[[int, int, str], None]
