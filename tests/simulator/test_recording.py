"""Reading what QEMU's blklogwrites recorded; the format is written here by hand, from its documentation."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abboot.errors import AbbootError, Damaged
from abboot.simulator.recording import RecordedWrite, Recording

FLUSH, DISCARD = 1, 4


def head(entries: int = 0) -> bytes:
    return struct.pack("<QQQI", 0x6A736677736872, 1, entries, 512).ljust(512, b"\0")


def entry(sector: int, data: bytes, flags: int = 0, sectors: int | None = None) -> bytes:
    count = len(data) // 512 if sectors is None else sectors
    return struct.pack("<QQQQ", sector, count, flags, 0).ljust(512, b"\0") + data


def recording(path: Path, content: bytes) -> Recording:
    path.write_bytes(content)
    return Recording(path)


def test_writes_and_flushes_come_in_order(tmp_path: Path) -> None:
    one, two = b"1" * 512, b"2" * 1024
    content = head(3) + entry(8, one) + entry(0, b"", FLUSH) + entry(100, two, FLUSH)

    with recording(tmp_path / "log", content) as log:
        assert log.writes() == [
            RecordedWrite(8 * 512, one),
            RecordedWrite(0, None),
            RecordedWrite(0, None),  # the flush that the third one asks for
            RecordedWrite(100 * 512, two),
        ]
        assert log.count() == 2


def test_a_discard_is_no_write_and_has_no_data(tmp_path: Path) -> None:
    content = head() + entry(5, b"", DISCARD, sectors=64) + entry(8, b"1" * 512)

    with recording(tmp_path / "log", content) as log:
        assert log.writes() == [RecordedWrite(8 * 512, b"1" * 512)]


def test_a_growing_file_is_counted_as_far_as_it_is_whole(tmp_path: Path) -> None:
    whole = head() + entry(8, b"1" * 512) + entry(9, b"2" * 1024)
    path = tmp_path / "log"
    log = recording(path, b"")

    seen = []
    for length in range(0, len(whole) + 1, 256):
        path.write_bytes(whole[:length])
        seen.append(log.count())

    assert seen == sorted(seen)
    assert (seen[0], seen[5], seen[6], seen[-1]) == (0, 0, 1, 2)
    log.close()


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    with recording(tmp_path / "log", b"not a recording" * 100) as log, pytest.raises(Damaged, match="no recording"):
        log.writes()


@given(content=st.binary(max_size=4096))
def test_no_content_is_a_foreign_exception(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    try:
        with recording(path, head() + content) as log:
            assert log.count() == sum(write.data is not None for write in log.writes())
    except AbbootError:
        pass
