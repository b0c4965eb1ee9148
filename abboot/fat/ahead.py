"""Reading while something else is done: hashing, or writing to a slower medium.

A stage is three passes of "read, then do something with it".  In each of them one of the two waits for a device and the
other for the processor, so a thread reads one piece ahead.  Only that thread reads, and only the caller writes: what is
done to the medium, and in which order, is the same as without it (G2).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TypeVar

BUFFERS = 3  # with the caller, ready, being made
BATCH_SIZE = 1 << 20  # bytes: what a change of threads costs does not show then

T = TypeVar("T")
K = TypeVar("K")


@contextmanager
def ahead(items: Iterable[T]) -> Iterator[Iterator[T]]:
    """The same items; while the caller is busy with one, the next is ready and the one after it is being made.

    So ``BUFFERS`` in turns are enough for ``items`` that reuse memory.  What it raises is raised to the caller.  When
    the block is left nothing is read any more.
    """
    asked: SimpleQueue[None] = SimpleQueue()
    made: SimpleQueue[T | _End] = SimpleQueue()
    left = False

    def make() -> None:
        source = iter(items)
        while not left:
            made_now: T | _End
            try:
                made_now = next(source)
            except BaseException as reason:  # noqa: BLE001 - the caller gets it, whatever it is: a simulated power cut too
                made_now = _End(reason)
            asked.get()
            made.put(made_now)
            if isinstance(made_now, _End):
                return

    def taken() -> Iterator[T]:
        while True:
            asked.put(None)
            item = made.get()
            if not isinstance(item, _End):
                yield item
            elif isinstance(item.reason, StopIteration):
                return
            else:
                raise item.reason

    asked.put(None)  # one may lie ready: on a busy processor nobody then sleeps between two pieces
    thread = threading.Thread(target=make, name="abboot-ahead", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads for this process: then without
        yield iter(items)
        return
    try:
        yield taken()
    finally:
        left = True
        asked.put(None)
        thread.join()


class _End:
    """Nothing follows, for this reason."""

    def __init__(self, reason: BaseException) -> None:
        self.reason = reason


def batches(pieces: Iterable[tuple[K, bytes]]) -> Iterator[list[tuple[K, bytes]]]:
    """The same pieces, in lists of 1 MiB and more."""
    batch: list[tuple[K, bytes]] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece[1])
        if size >= BATCH_SIZE:
            yield batch
            batch, size = [], 0
    yield batch
