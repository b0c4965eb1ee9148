"""A progress bar on a terminal; nothing in a pipe."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from abboot.cli.render import one_line, size
from abboot.cli.terminal import terminal_width

if TYPE_CHECKING:
    from abboot.progress import Progress

_BAR = 12  # characters: the whole line should be seen on a terminal of 80
_INTERVAL_S = 0.1
_PATIENCE_S = 0.5


class ProgressBar:
    """Draws ``writing    [#####     ]  42.0 MB of 71.5 MB  18.3 MB/s  1 s left  120/339 kernel8.img`` on stderr.

    Nothing is drawn in the first half second: what is over by then needs no bar.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._drawn = 0.0
        self._line = ""

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._began < _PATIENCE_S or now - self._drawn < _INTERVAL_S:
            return
        self._drawn = now
        done, total = progress.bytes_done, progress.bytes_total
        left = "" if progress.remaining_s is None else f"{progress.remaining_s:.0f} s left"
        filled = min(_BAR, _BAR * done // total) if total else _BAR
        parts = [
            f"{progress.activity:<9}  [{'#' * filled}{' ' * (_BAR - filled)}]",
            f"{size(done):>8} of {size(total)}",
            f"{size(int(progress.rate)):>8}/s",
            f"{left:>9}",
            f"{progress.files_done}/{progress.files_total} {one_line(progress.path)}",
        ]
        # The last column stays free: a terminal wraps after it.
        self._draw("  ".join(parts)[: terminal_width() - 1])

    def clear(self) -> None:
        if self._line:
            sys.stderr.write("\r" + " " * len(self._line) + "\r")
            sys.stderr.flush()
            self._line = ""

    def _draw(self, line: str) -> None:
        sys.stderr.write("\r" + line.ljust(len(self._line)))
        sys.stderr.flush()
        self._line = line


def progress_bar(*, wanted: bool) -> ProgressBar | None:
    """A bar, if stderr is a terminal and nobody asked for silence."""
    return ProgressBar() if wanted and sys.stderr.isatty() else None
