"""SHA-256 of many files: reading and hashing at once, and on two processors where there are two.

A processor hashes slower than most cards and every page cache read, so a stage that reads everything three times is
bound by it.  The files are dealt to two lanes of about equal size.  Each lane is hashed by one thread, while one piece
of it is read ahead.  Only one thread reads at a time: the devices and volumes below need not know about any of this.
"""

from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING, TypeVar

from abboot.fat.ahead import ahead, batches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Step = Callable[[int, int, str], None]

WORTH_TWO_LANES = 8 << 20  # bytes: below, a thread more is not felt

T = TypeVar("T")


def digest_files(
    files: Sequence[tuple[str, int]], chunks: Callable[[int], Iterable[bytes]], progress: Step | None = None
) -> list[str]:
    """SHA-256 (lower-case hexadecimal) of each file.

    Args:
        files: ``(path, size in bytes)``; the sizes are for the progress and for dealing only.
        chunks: the content of the file with this index, in pieces.
        progress: called in this thread, after pieces and once at the end, with the bytes of all files so far.  Where
            two files are in work at once, the path is the one that tells how many files are behind.

    Raises:
        BaseException: whatever ``chunks`` raises; nothing is read any more then.
    """
    total = sum(size for _path, size in files)
    digests = [hashlib.sha256() for _ in files]
    lanes = _deal([size for _path, size in files])
    done, behind = [0] * len(lanes), [0] * len(lanes)
    reading = threading.Lock()
    failed: list[BaseException] = []

    def hash_lane(number: int, report: Step | None) -> None:
        with ahead(_in_turn(batches(_pieces(lanes[number], files, chunks)), reading)) as read:
            for batch in read:
                for (place, index), chunk in batch:
                    digests[index].update(chunk)
                    done[number] += len(chunk)
                    behind[number] = place
                    if failed:
                        return
                    if report is not None:
                        path = files[index if len(lanes) == 1 else sum(behind)][0]
                        report(sum(done), total, path)

    def beside() -> None:
        try:
            hash_lane(1, None)
        except BaseException as reason:  # noqa: BLE001 - the caller gets it, whatever it is: a simulated power cut too
            failed.append(reason)

    thread = threading.Thread(target=beside, name="abboot-digest", daemon=True)
    try:
        if len(lanes) > 1:
            thread.start()
    except RuntimeError:  # no more threads for this process: then one after the other
        beside()
    try:
        hash_lane(0, progress)
    except BaseException as reason:
        failed.append(reason)
        raise
    finally:
        if thread.ident is not None:
            thread.join()
    if failed:
        raise failed[0]
    if progress is not None and len(lanes) > 1:
        progress(total, total, files[-1][0])
    return [digest.hexdigest() for digest in digests]


def _deal(sizes: Sequence[int]) -> list[list[int]]:
    """The indexes, in order, in one lane or in two of about equal size: the largest first, to whoever has less."""
    if len(os.sched_getaffinity(0)) < 2 or sum(sizes) < WORTH_TWO_LANES:
        return [list(range(len(sizes)))]
    lanes: tuple[list[int], list[int]] = ([], [])
    held = [0, 0]
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        lighter = 0 if held[0] <= held[1] else 1
        lanes[lighter].append(index)
        held[lighter] += sizes[index]
    return [sorted(lane) for lane in lanes if lane]


def _pieces(
    lane: Sequence[int], files: Sequence[tuple[str, int]], chunks: Callable[[int], Iterable[bytes]]
) -> Iterator[tuple[tuple[int, int], bytes]]:
    """What the files of a lane hold, with the place in the lane and the index of each piece's file."""
    for place, index in enumerate(lane):
        if not files[index][1]:
            yield (place, index), b""  # an empty file is a file too
        for chunk in filter(None, chunks(index)):
            yield (place, index), chunk


def _in_turn(items: Iterable[T], turn: threading.Lock) -> Iterator[T]:
    """The same items; each is made while ``turn`` is held."""
    source = iter(items)
    while True:
        with turn:
            try:
                item = next(source)
            except StopIteration:
                return
        yield item
