"""Hashing while reading: the digests, the errors, the progress, and nothing left running."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abboot.fat.digest import digest_files

PIECE = 1 << 20
SIZES = [2 * PIECE + 3, 0, 1, 17, 3 * PIECE, 0]


class PowerCut(BaseException):
    """As the simulator's: no ordinary exception, so that nothing swallows it."""


def threads() -> int:
    return sum(thread.name.startswith("abboot-") for thread in threading.enumerate())


def content(index: int, size: int) -> Iterator[bytes]:
    for start in range(0, size, PIECE):
        yield bytes([index % 251]) * min(PIECE, size - start)


def named(sizes: list[int]) -> list[tuple[str, int]]:
    return [(f"file{index}", size) for index, size in enumerate(sizes)]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3 * PIECE), max_size=6))
def test_every_file_has_its_own_digest(sizes: list[int]) -> None:
    wanted = [hashlib.sha256(b"".join(content(index, size))).hexdigest() for index, size in enumerate(sizes)]

    assert digest_files(named(sizes), lambda index: content(index, sizes[index])) == wanted


@pytest.mark.parametrize("broken", range(len(SIZES)))
@pytest.mark.parametrize("error", [ValueError("gone"), PowerCut()])
def test_an_error_of_a_source_reaches_the_caller(broken: int, error: BaseException) -> None:
    def failing(index: int) -> Iterator[bytes]:
        if index == broken:
            raise error
        return content(index, SIZES[index])

    with pytest.raises(type(error)) as caught:
        digest_files(named(SIZES), failing)

    assert caught.value is error
    assert threads() == 0


def test_progress_rises_to_the_end_and_names_every_file() -> None:
    calls: list[tuple[int, int, str]] = []

    digest_files(named(SIZES), lambda index: content(index, SIZES[index]), lambda *call: calls.append(call))

    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)
    assert calls[-1][:2] == (sum(SIZES), sum(SIZES))
    assert list(dict.fromkeys(path for _, _, path in calls)) == [path for path, _ in named(SIZES)]


def test_an_error_of_the_progress_stops_the_reading() -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        digest_files(named(SIZES), lambda index: content(index, SIZES[index]), interrupted)
    assert threads() == 0
