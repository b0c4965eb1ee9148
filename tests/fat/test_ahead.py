"""Reading ahead in a thread: the same items, the same errors, and nothing left running."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abboot.fat.ahead import BATCH_SIZE, BUFFERS, ahead, batches


class PowerCut(BaseException):
    """As the simulator's: no ordinary exception, so that nothing swallows it."""


def threads() -> int:
    return sum(thread.name == "abboot-ahead" for thread in threading.enumerate())


@given(st.lists(st.integers()))
def test_the_items_come_in_their_order(items: list[int]) -> None:
    with ahead(items) as found:
        assert list(found) == items
    assert threads() == 0


@pytest.mark.parametrize("error", [ValueError("a source"), PowerCut("a device")])
def test_what_the_items_raise_is_raised_to_the_caller_at_its_place(error: BaseException) -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise error

    seen: list[int] = []
    with pytest.raises(type(error)) as caught, ahead(items()) as found:
        seen.extend(found)

    assert caught.value is error
    assert seen == [1, 2]
    assert threads() == 0


def test_a_caller_that_fails_leaves_no_thread_and_reads_no_further() -> None:
    made: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            made.append(len(made))
            yield made[-1]

    with ahead(endless()) as found:
        assert next(found) == 0

    assert threads() == 0
    assert len(made) <= BUFFERS


def test_a_caller_that_takes_nothing_is_not_waited_for() -> None:
    with ahead([1, 2, 3]):
        pass

    assert threads() == 0


def test_never_more_items_exist_than_there_are_buffers() -> None:
    buffers = [bytearray(1) for _ in range(BUFFERS)]

    def reusing() -> Iterator[tuple[int, bytearray]]:
        for number in range(200):
            buffer = buffers[number % BUFFERS]
            buffer[0] = number
            yield number, buffer

    with ahead(reusing()) as found:
        for number, buffer in found:
            assert buffer[0] == number
            threading.Event().wait(0.0005)  # time for the thread to go too far, if it would
            assert buffer[0] == number


@given(st.lists(st.tuples(st.integers(), st.integers(0, 700_000).map(bytes)), max_size=8))
def test_batches_hold_every_piece_once_and_are_large(pieces: list[tuple[int, bytes]]) -> None:
    found = list(batches(pieces))

    assert [piece for batch in found for piece in batch] == pieces
    assert all(sum(len(data) for _, data in batch) >= BATCH_SIZE for batch in found[:-1])
