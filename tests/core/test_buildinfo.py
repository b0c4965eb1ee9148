"""Build dates out of firmware files: from the marks that real files hold, wherever a piece ends."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abboot.core.buildinfo import SEARCHED_BYTES, build_date

# Cut out of real files: start4.elf of Debian's raspi-firmware 1.20220830+ds-1 (offset 1676860), and
# firmware-2711/old/beta/pieeprom-2022-10-18.bin of raspberrypi/rpi-eeprom (offset 40596).
START4 = bytes.fromhex(
    "e0bf4000021f00605a000100" + b"VC_BUILD_ID_USER: dom\0\0\0".hex() + b"VC_BUILD_ID_TIME: 14:03:16\0\0".hex()
) + (
    b"VC_BUILD_ID_VARIANT: start\0\0VC_BUILD_ID_TIME: Aug 26 2022\0\0\0VC_BUILD_ID_BRANCH: bcm2711_2\0\0\0"
    b"VC_BUILD_ID_VERSION: 102f1e848393c2112206fadffaaf86db04e98326 (clean)\0"
)
PIEEPROM = b"\xff\xff\0\0BUILD_TIMESTAMP=1666090664\n\0\0\xff"


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def test_the_date_of_start4_elf_is_read_from_the_mark_that_is_no_clock() -> None:
    assert build_date([START4]) == date(2022, 8, 26)


def test_a_day_of_one_digit_is_read() -> None:
    assert build_date([b"VC_BUILD_ID_TIME: May  8 2026\0"]) == date(2026, 5, 8)


def test_the_date_of_an_eeprom_image_is_its_time_stamp() -> None:
    assert build_date([PIEEPROM]) == date(2022, 10, 18)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x7fELF" + bytes(100),
        b"VC_BUILD_ID_TIME: 14:03:16\0",
        b"VC_BUILD_ID_TIME: Foo 26 2022\0",
        b"VC_BUILD_ID_TIME: Feb 30 2022\0",
        b"VC_BUILD_ID_TIME: Aug 26 20223\0",
        b"VC_BUILD_ID_TIME: ",
        b"BUILD_TIMESTAMP=",
        b"BUILD_TIMESTAMP=%d\0",
        b"BUILD_TIMESTAMP=16660906641666090664",
    ],
)
def test_what_is_no_date_is_none(data: bytes) -> None:
    assert build_date([data]) is None


def test_a_wrong_mark_does_not_hide_the_right_one_behind_it() -> None:
    assert build_date([b"VC_BUILD_ID_TIME: Feb 30 2022\0", START4]) == date(2022, 8, 26)


@given(before=st.binary(max_size=200), size=st.integers(1, 300), mark=st.sampled_from([START4, PIEEPROM]))
def test_the_date_is_found_wherever_the_pieces_end(before: bytes, size: int, mark: bytes) -> None:
    assert build_date(pieces(before + mark + bytes(100), size)) == build_date([mark])


@given(st.lists(st.binary(max_size=40)))
def test_any_bytes_have_a_date_or_none(chunks: list[bytes]) -> None:
    assert build_date(chunks) == build_date([b"".join(chunks)])


def test_no_more_is_read_than_the_bound() -> None:
    asked = 0

    def endless() -> Iterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield bytes(1 << 20)

    assert build_date(endless()) is None
    assert asked == SEARCHED_BYTES >> 20


def test_nothing_behind_the_date_is_read() -> None:
    source = iter([START4 + bytes(64), b"more"])

    assert build_date(source) == date(2022, 8, 26)
    assert list(source) == [b"more"]
