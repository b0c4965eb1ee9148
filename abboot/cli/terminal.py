"""How wide the terminal is.  As ``shutil.get_terminal_size``, without what that imports: every command asks."""

from __future__ import annotations

import contextlib
import os
import sys

FALLBACK = 80  # columns


def terminal_width() -> int:
    """Columns: ``COLUMNS`` of the environment, else what the terminal of stdout says, else 80."""
    with contextlib.suppress(ValueError):
        if (columns := int(os.environ.get("COLUMNS", "0"))) > 0:
            return columns
    try:
        return os.get_terminal_size(sys.__stdout__.fileno() if sys.__stdout__ else 1).columns or FALLBACK
    except (AttributeError, ValueError, OSError):
        return FALLBACK
