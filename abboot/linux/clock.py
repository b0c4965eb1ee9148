"""Time, as this kernel tells it.  Source: clock_gettime(2), CLOCK_BOOTTIME."""

from __future__ import annotations

import time


class SystemClock:
    """The kernel's clocks."""

    def realtime_s(self) -> float:
        """Unix time.  A Pi without a battery has none at early boot: it informs, it never orders."""
        return time.time()

    def boottime_s(self) -> float:
        """Seconds since this boot, counting suspend."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
