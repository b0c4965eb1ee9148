"""Hashing in two lanes: the same digests, one reader at a time, the same errors, and nothing left running."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abboot.fat.digest import WORTH_TWO_LANES, digest_files

PIECE = 1 << 20


class PowerCut(BaseException):
    """As the simulator's: no ordinary exception, so that nothing swallows it."""


def threads() -> int:
    return sum(thread.name.startswith("abboot-") for thread in threading.enumerate())


def content(index: int, size: int) -> Iterator[bytes]:
    for start in range(0, size, PIECE):
        yield bytes([index % 251]) * min(PIECE, size - start)


def named(sizes: list[int]) -> list[tuple[str, int]]:
    return [(f"file{index}", size) for index, size in enumerate(sizes)]


def wanted(sizes: list[int]) -> list[str]:
    return [hashlib.sha256(b"".join(content(index, size))).hexdigest() for index, size in enumerate(sizes)]


SIZES = [5 * PIECE + 3, 0, 1, WORTH_TWO_LANES, 17, 3 * PIECE, 0]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 6 * PIECE), max_size=6))
def test_every_file_has_its_own_digest(sizes: list[int]) -> None:
    assert digest_files(named(sizes), lambda index: content(index, sizes[index])) == wanted(sizes)


def test_two_lanes_never_read_at_once() -> None:
    busy = threading.Lock()
    readers = set()

    def alone(index: int) -> Iterator[bytes]:
        pieces = content(index, SIZES[index])
        while True:
            assert busy.acquire(blocking=False), "two threads read at once"
            readers.add(threading.get_ident())
            piece = next(pieces, None)
            busy.release()
            if piece is None:
                return
            yield piece

    assert digest_files(named(SIZES), alone) == wanted(SIZES)
    assert len(readers) == min(2, len(os.sched_getaffinity(0)))
    assert threads() == 0


@pytest.mark.parametrize("broken", range(len(SIZES)))
@pytest.mark.parametrize("error", [ValueError("gone"), PowerCut()])
def test_the_error_of_either_lane_reaches_the_caller(broken: int, error: BaseException) -> None:
    def failing(index: int) -> Iterator[bytes]:
        if index == broken:
            raise error
        return content(index, SIZES[index])

    with pytest.raises(type(error)) as caught:
        digest_files(named(SIZES), failing)

    assert caught.value is error
    assert threads() == 0


def test_progress_rises_to_the_end_and_stays_in_this_thread() -> None:
    calls: list[tuple[int, int, str]] = []
    callers = set()

    def progress(done: int, total: int, path: str) -> None:
        calls.append((done, total, path))
        callers.add(threading.get_ident())

    digest_files(named(SIZES), lambda index: content(index, SIZES[index]), progress)

    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)
    assert calls[-1] == (sum(SIZES), sum(SIZES), named(SIZES)[-1][0])
    assert callers == {threading.get_ident()}


def test_an_error_of_the_progress_stops_both_lanes() -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        digest_files(named(SIZES), lambda index: content(index, SIZES[index]), interrupted)
    assert threads() == 0
