"""How far a long operation is: what it tells its caller while it reads and writes.

What moves the bytes only counts them, as ``step(done_bytes, total_bytes, path)``; a :class:`Meter` makes a
:class:`Progress` of that, with files, time and rate, and hands it to the caller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import attrs

from abboot.core.value import Value

Step = Callable[[int, int, str], None]
"""``step(done_bytes, total_bytes, path)``"""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Progress(Value):
    """Where one activity is; each begins at nothing.  An operation has several, one after the other.

    Args:
        activity: ``"reading"`` the sources, ``"comparing"`` with what is there, ``"writing"``, ``"verifying"``.
        path: the file in work.
        bytes_done, bytes_total: of this activity.
        files_done, files_total: those that are behind, of all; what is unchanged and passed over counts as done.
        elapsed_s: since this activity began.
    """

    activity: str
    path: str
    bytes_done: int
    bytes_total: int
    files_done: int
    files_total: int
    elapsed_s: float

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.bytes_done / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def remaining_s(self) -> float | None:
        """Until this activity is over, if it goes on like this; ``None`` while nobody can tell."""
        return (self.bytes_total - self.bytes_done) / self.rate if self.rate else None


Callback = Callable[[Progress], None]


class Meter:
    """Counts for one caller; without a callback it costs nothing."""

    def __init__(self, callback: Callback | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._callback = callback
        self._clock = clock

    def begin(self, activity: str, paths: Iterable[str]) -> Step | None:
        """The next activity, over these files in this order; ``None`` where nobody listens."""
        callback = self._callback
        if callback is None:
            return None
        places = {path: index for index, path in enumerate(paths)}
        began = self._clock()
        files = 0

        def step(done: int, total: int, path: str) -> None:
            nonlocal files
            files = len(places) if done == total else max(files, places.get(path, files))
            callback(
                Progress(
                    activity=activity,
                    path=path,
                    bytes_done=done,
                    bytes_total=total,
                    files_done=files,
                    files_total=len(places),
                    elapsed_s=self._clock() - began,
                )
            )

        return step


SILENT = Meter(None)
