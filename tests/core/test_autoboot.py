"""autoboot.txt: what abboot writes, what it believes, what the firmware makes of it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from abboot.core.autoboot import CANONICAL_SIZE, MAX_SIZE, Autoboot, parse_autoboot, read_as_firmware
from abboot.errors import Damaged

REST = b"[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=2\n"
ARMED = b"[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n"

numbers = st.integers(1, 62)
autoboots = st.builds(Autoboot, primary=numbers, trial=numbers)
# Text that is close to the real thing, so that the interesting lines are reached.
fragments = st.sampled_from(
    ["[all]", "[ALL]", "[tryboot]", "[none]", "[pi4]", "[", "boot_partition=2", "boot_partition=3", "boot_partition=0",
     "boot_partition=99", "boot_partition=abc", "boot_partition = 2", "BOOT_PARTITION=3", "tryboot_a_b=1",
     "tryboot_a_b=0", "# boot_partition=5", "", " ", "\t", "include other.txt", "\x00", "\ufeff", "x" * 99]
)  # fmt: skip
texts = st.lists(fragments, max_size=12).flatmap(
    lambda lines: st.sampled_from(["\n", "\r\n"]).map(lambda end: (end.join(lines) + end).encode())
)
hostile = st.one_of(st.binary(max_size=600), texts)


def test_the_canonical_file_is_these_64_bytes() -> None:
    assert Autoboot(primary=2, trial=2).render() == REST
    assert Autoboot(primary=2, trial=3).render() == ARMED
    assert len(REST) == CANONICAL_SIZE


def test_arming_changes_one_byte() -> None:
    assert [at for at, (old, new) in enumerate(zip(REST, ARMED, strict=True)) if old != new] == [62]


def test_a_two_digit_partition_makes_it_longer() -> None:
    assert len(Autoboot(primary=10, trial=2).render()) == 65
    assert len(Autoboot(primary=10, trial=11).render()) == 66


def test_padding_is_line_ends() -> None:
    assert Autoboot(primary=2, trial=2).render(512) == REST + b"\n" * 448


@pytest.mark.parametrize("size", [-1, 0, 63, 513])
def test_a_size_that_cannot_be_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="64 to 512"):
        Autoboot(primary=2, trial=2).render(size)


@pytest.mark.parametrize("number", [-1, 0, 63])
def test_a_number_that_the_firmware_cannot_be_told_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="1 to 62"):
        Autoboot(primary=number, trial=2)
    with pytest.raises(ValueError, match="1 to 62"):
        Autoboot(primary=2, trial=number)


@given(autoboots, st.integers(0, 446))
def test_what_is_written_is_read_back(autoboot: Autoboot, padding: int) -> None:
    data = autoboot.render(len(autoboot.render()) + padding)

    assert len(data) <= MAX_SIZE
    assert parse_autoboot(data) == autoboot


@given(autoboots)
def test_the_firmware_reads_what_is_written_without_a_doubt(autoboot: Autoboot) -> None:
    cold = read_as_firmware(autoboot.render(), tryboot=False)
    trial = read_as_firmware(autoboot.render(), tryboot=True)

    assert (cold.boot_partition, cold.tryboot_a_b, cold.doubts) == (autoboot.primary, True, ())
    assert (trial.boot_partition, trial.tryboot_a_b, trial.doubts) == (autoboot.trial, True, ())


def test_comments_and_blank_lines_are_accepted() -> None:
    text = b"# slot\n\n[all]\ntryboot_a_b=1\n# a comment = odd\nboot_partition=2\n\n[tryboot]\nboot_partition=3\n"

    assert parse_autoboot(text) == Autoboot(primary=2, trial=3)


def test_the_order_within_a_section_does_not_matter() -> None:
    text = b"[all]\nboot_partition=2\ntryboot_a_b=1\n[tryboot]\ntryboot_a_b=1\nboot_partition=3\n"

    assert parse_autoboot(text) == Autoboot(primary=2, trial=3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (ARMED.ljust(513, b"\n"), "513 bytes found, the firmware reads 512"),
        (b"\n" * 64, "no boot_partition under [all]"),
        (bytes(512), "byte 0x00 at offset 0"),
        (b"\xef\xbb\xbf" + ARMED, "byte order mark"),
        (ARMED.replace(b"\n", b"\r\n"), "CR LF"),
        (ARMED.replace(b"=2", b"=\t2"), "byte 0x09 at offset 35"),
        (ARMED.replace(b"2", "²".encode()), "byte 0xc2"),
        (ARMED[:-1], "no line end"),
        (ARMED.replace(b"[all]", b"[ALL]"), "line 1: section '[ALL]' is not lower case"),
        (ARMED.replace(b"[all]", b"[none]"), "line 1: section '[none]' is not [all] or [tryboot]"),
        (ARMED.replace(b"[all]", b"[all] "), "line 1: section '[all] ' is not [all]"),
        (ARMED.replace(b"boot_partition=2", b"Boot_Partition=2"), "'Boot_Partition' is not lower case"),
        (ARMED.replace(b"=2", b" = 2"), "has a space"),
        (ARMED.replace(b"=3", b"=3 "), "has a space"),
        (ARMED + b"include extra.txt\n", "'include extra.txt' has no '='"),
        (ARMED + b"kernel=u-boot.bin\n", "'kernel' is not boot_partition or tryboot_a_b"),
        (ARMED + b"boot_partition=3\n", "line 6 sets boot_partition a second time under [tryboot]"),
        (ARMED + b"[all]\nboot_partition=2\n", "line 6: [all] after [tryboot]"),
        (b"[all]\n" + ARMED, "line 2: a second [all]"),
        (ARMED + b"[tryboot]\n", "line 6: a second [tryboot]"),
        (b"[tryboot]\nboot_partition=3\n[all]\nboot_partition=2\n", "line 1: [tryboot] comes before [all]"),
        (b"boot_partition=2\n", "line 1: boot_partition comes before [all]"),
        (ARMED.replace(b"=3", b"=abc"), "boot_partition is 'abc', it must be a number from 1 to 62"),
        (ARMED.replace(b"=3", b"="), "boot_partition is ''"),
        (ARMED.replace(b"=3", b"=0"), "boot_partition is '0'"),
        (ARMED.replace(b"=3", b"=03"), "boot_partition is '03'"),
        (ARMED.replace(b"=3", b"=63"), "boot_partition is '63'"),
        (ARMED.replace(b"=3", b"==3"), "boot_partition is '=3'"),
        (ARMED.replace(b"tryboot_a_b=1\n", b""), "no tryboot_a_b=1 under [all]"),
        (ARMED.replace(b"a_b=1", b"a_b=0"), "tryboot_a_b is '0'"),
        (b"[all]\ntryboot_a_b=1\nboot_partition=2\n", "no boot_partition under [tryboot]"),
        (b"[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\n", "no boot_partition under [tryboot]"),
        (b"[all]\ntryboot_a_b=1\n[tryboot]\nboot_partition=2\n", "no boot_partition under [all]"),
        (b"#" + b"x" * 98 + b"\n" + ARMED, "line 1 has 99 characters, the firmware reads 98"),
        (b"y" * 90 + b"\n", "'yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy...' has no '='"),
    ],
)
def test_a_file_that_is_not_whole_or_not_unambiguous_is_damaged(data: bytes, reason: str) -> None:
    with pytest.raises(Damaged) as caught:
        parse_autoboot(data)

    assert reason in caught.value.message
    assert caught.value.message.startswith("cannot read autoboot.txt: ")
    assert "\n" not in caught.value.message
    assert caught.value.hint


@given(hostile)
@example(b"[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=\xb2\n")
def test_any_bytes_are_believed_or_damaged_and_believed_only_if_the_firmware_agrees(data: bytes) -> None:
    try:
        autoboot = parse_autoboot(data)
    except Damaged:
        return

    assert autoboot.render(None) != b""
    for tryboot, partition in ((False, autoboot.primary), (True, autoboot.trial)):
        reading = read_as_firmware(data, tryboot=tryboot)
        assert (reading.boot_partition, reading.tryboot_a_b, reading.doubts) == (partition, True, ())


@given(autoboots, st.integers(0, 511), st.integers(0, 255))
def test_a_flipped_byte_is_damaged_or_read_alike_by_us_and_by_the_firmware(
    autoboot: Autoboot, at: int, byte: int
) -> None:
    data = bytearray(autoboot.render())
    data[at % len(data)] = byte
    try:
        parsed = parse_autoboot(bytes(data))
    except Damaged:
        return

    assert read_as_firmware(bytes(data), tryboot=False).boot_partition == parsed.primary
    assert read_as_firmware(bytes(data), tryboot=True).boot_partition == parsed.trial


@given(st.one_of(st.none(), hostile), st.booleans(), st.booleans())
def test_the_firmware_reads_any_bytes(data: bytes | None, tryboot: bool, sections: bool) -> None:
    reading = read_as_firmware(data, tryboot=tryboot, sections=sections)

    assert reading.boot_partition >= 0
    assert bool(reading.doubts) >= bool(reading.alternatives)
    assert (reading.boot_partition, reading.tryboot_a_b) not in reading.alternatives
    assert len(reading.alternatives) <= 600


@pytest.mark.parametrize("data", [None, b"", bytes(512), b"\xff" * 512, b"\x8a\x01[all" * 100])
def test_a_missing_file_and_garbage_say_nothing_for_certain(data: bytes | None) -> None:
    reading = read_as_firmware(data, tryboot=True)

    assert (reading.boot_partition, reading.tryboot_a_b, reading.doubts) == (0, False, ())


def test_an_old_bootloader_takes_the_last_number_with_or_without_the_flag() -> None:
    # Measured on a Pi 4 with the bootloader of 2021-04-29.
    for tryboot in (False, True):
        reading = read_as_firmware(ARMED, tryboot=tryboot, sections=False)
        assert (reading.boot_partition, reading.tryboot_a_b) == (3, False)


def test_a_section_named_none_is_skipped() -> None:
    assert read_as_firmware(b"[none]\nboot_partition=5\n[all]\nboot_partition=2\n", tryboot=False).boot_partition == 2


def test_a_file_without_sections_is_read_by_every_firmware() -> None:
    reading = read_as_firmware(b"boot_partition=6\n", tryboot=False)

    assert (reading.boot_partition, reading.tryboot_a_b, reading.doubts) == (6, False, ())


@pytest.mark.parametrize(
    ("data", "doubt", "numbers"),
    [
        (ARMED.replace(b"\n", b"\r\n"), "CR LF", {0, 2, 3}),
        (ARMED.replace(b"[all]", b"[ALL]"), "section '[ALL]'", {0, 2, 3}),
        (ARMED.replace(b"=2", b" = 2"), "the line 'boot_partition = 2'", {0, 2, 3}),
        (ARMED.replace(b"=2", b"=2abc"), "'boot_partition=2abc'", {0, 2, 3}),
        (ARMED.replace(b"=2", b"=99"), "'boot_partition=99'", {0, 99, 3}),
        (b"\xef\xbb\xbfboot_partition=3\n", "the line", {0, 3}),
        (b"boot_partition=2\nboot_partition=3\n", "twice", {0, 2, 3}),
        (b"[\x1b]\nboot_partition=2\nboot_partition=3\n", "twice under [\\x1b]", {0, 2, 3}),
        (ARMED + b"[all]\nboot_partition=2\n", "[all] after [tryboot]", {0, 2, 3}),
        (ARMED.ljust(520, b"\n") + b"boot_partition=4\n", "537 bytes", {0, 2, 3, 4}),
    ],
)
def test_what_nobody_documented_is_a_doubt_with_every_plausible_reading(
    data: bytes, doubt: str, numbers: set[int]
) -> None:
    reading = read_as_firmware(data, tryboot=False)

    assert any(doubt in text for text in reading.doubts)
    assert all(text.isprintable() for text in reading.doubts)
    assert {reading.boot_partition} | {number for number, _ in reading.alternatives} == numbers
