"""``config.d`` merged into ``config.txt``: a marked block, replaced as a whole, and nothing else touched."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from abboot.core.snippets import BEGIN, DOUBTFUL_SIZE, END, LINE_MAX, is_snippet, merge_snippets

CONFIG = b"# a Pi\narm_64bit=1\n[pi5]\nusb_max_current_enable=1\n"
SPI = ("config.d/10-spi.txt", b"dtparam=spi=on\ndtoverlay=mcp2515-can0,oscillator=16000000\n")
USB = ("config.d/20-usb.txt", b"[cm4]\ndtoverlay=dwc2,dr_mode=peripheral\n")


def settings(config: bytes) -> list[tuple[str, str]]:
    """A config.txt as the firmware goes through it: the filters in force, and the line.  An independent reader."""
    found, filters = [], ""
    for line in config.decode().split("\n"):
        line = line.removesuffix("\r")
        if line.startswith("["):
            filters = "" if line == "[all]" else filters + line
        elif line and not line.startswith("#"):
            found.append((filters, line))
    return found


# -- the block ----------------------------------------------------------------------------------------------------


def test_snippets_become_one_marked_block_at_the_end() -> None:
    merged = merge_snippets(CONFIG, [USB, SPI])

    assert merged.text == CONFIG + b"\n" + b"\n".join(
        [
            BEGIN,
            b"[all]",
            b"# config.d/10-spi.txt",
            b"dtparam=spi=on",
            b"dtoverlay=mcp2515-can0,oscillator=16000000",
            b"[all]",
            b"# config.d/20-usb.txt",
            b"[cm4]",
            b"dtoverlay=dwc2,dr_mode=peripheral",
            b"[all]",
            END,
            b"",
        ]
    )
    assert merged.warnings == ()


def test_no_filter_leaks_into_the_block_out_of_it_or_between_snippets() -> None:
    config = merge_snippets(b"[pi5]\nfive=1\n", [USB, ("config.d/30-last.txt", b"last=1\n[pi4]")]).text + b"own=1\n"

    assert settings(config) == [
        ("[pi5]", "five=1"),
        ("[cm4]", "dtoverlay=dwc2,dr_mode=peripheral"),
        ("", "last=1"),
        ("", "own=1"),
    ]


def test_the_order_is_that_of_the_names_without_regard_to_case() -> None:
    names = ["config.d/B.txt", "CONFIG.D/a.txt", "config.d/10.txt", "config.d/c.TXT", "config.d/9.txt"]
    merged = merge_snippets(b"", [(name, name[9:-4].encode()) for name in names])

    assert [line for _, line in settings(merged.text)] == ["10", "9", "a", "B", "c"]


def test_merging_again_replaces_the_block_where_it_is() -> None:
    once = merge_snippets(CONFIG, [SPI, USB]).text + b"own=1\n"

    changed = merge_snippets(once, [(SPI[0], b"dtparam=spi=off\n")]).text

    assert changed.startswith(CONFIG + b"\n" + BEGIN)
    assert changed.endswith(END + b"\nown=1\n")
    assert [line for _, line in settings(changed)][-2:] == ["dtparam=spi=off", "own=1"]
    assert b"dwc2" not in changed


def test_removing_every_snippet_gives_back_the_file_as_it_was() -> None:
    for config in (CONFIG, CONFIG.removesuffix(b"\n"), b"", b"\n", b"a=1\r\nb=2\r\n"):
        assert merge_snippets(merge_snippets(config, [SPI]).text, []).text == config


def test_a_line_added_below_the_block_never_joins_the_one_above_it() -> None:
    config = merge_snippets(b"last line has no newline", [SPI]).text + b"own=1"

    assert merge_snippets(config, []).text == b"last line has no newline\nown=1"


@pytest.mark.parametrize("empty", [b"", b"\n", b"\xef\xbb\xbf", b"  \r\n\r\n"])
def test_an_empty_snippet_takes_out_an_inherited_one(empty: bytes) -> None:
    assert merge_snippets(CONFIG, [(SPI[0], empty)]).text == CONFIG


def test_a_file_with_crlf_keeps_crlf_whatever_the_snippets_have() -> None:
    config = b"arm_64bit=1\r\n"
    merged = merge_snippets(config, [SPI, ("config.d/30.txt", b"a=1\r\nb=2\r\n")]).text

    assert merged.startswith(config + b"\r\n" + BEGIN + b"\r\n[all]\r\n")
    assert merged.count(b"\n") == merged.count(b"\r\n")
    assert merge_snippets(b"a=1\n", [("config.d/30.txt", b"a=1\r\nb=2\r\n")]).text.count(b"\r") == 0


def test_a_byte_order_mark_does_not_spoil_the_first_line() -> None:
    merged = merge_snippets(b"", [("config.d/a.txt", b"\xef\xbb\xbfdtparam=spi=on\n")])

    assert settings(merged.text) == [("", "dtparam=spi=on")]


def test_what_is_no_text_comes_through_byte_for_byte() -> None:
    config = b"\xff\xfe=1\n\x00\n"
    merged = merge_snippets(config, [("config.d/a.txt", b"caf\xe9=1\x00")]).text

    assert merged.startswith(config)
    assert b"\ncaf\xe9=1\x00\n[all]\n" in merged


# -- what an editor leaves behind ---------------------------------------------------------------------------------


def test_half_a_block_is_kept_as_text_and_reported() -> None:
    cut = BEGIN + b"\n[all]\nold=1\n"
    merged = merge_snippets(cut, [SPI])

    assert merged.text.startswith(cut)
    assert [line for _, line in settings(merged.text)][:2] == ["old=1", "dtparam=spi=on"]
    assert merged.warnings == (
        "config.txt line 1: it begins a block of config.d that does not end, what is below it is kept",
    )
    assert merge_snippets(merged.text, [SPI]) == merged


def test_an_end_without_a_beginning_is_kept_and_reported() -> None:
    merged = merge_snippets(b"a=1\n" + END, [])

    assert merged.text == b"a=1\n" + END
    assert merged.warnings == (
        "config.txt line 2: it ends a block of config.d that does not begin, what is above it is kept",
    )


def test_a_block_that_was_copied_becomes_one_again() -> None:
    block = merge_snippets(b"", [SPI]).text.removeprefix(b"\n")
    merged = merge_snippets(b"a=1\n" + block + b"b=2\n" + block + b"c=3\n", [SPI])

    assert merged.text == b"a=1\n" + block + b"b=2\nc=3\n"


def test_a_config_txt_taken_for_a_snippet_cannot_break_the_block() -> None:
    inner = merge_snippets(CONFIG, [SPI]).text
    merged = merge_snippets(CONFIG, [("config.d/copy.txt", inner)])

    assert merged.text.count(BEGIN) == merged.text.count(END) == 1
    assert merge_snippets(merged.text, [("config.d/copy.txt", inner)]) == merged


# -- limits of the firmware ---------------------------------------------------------------------------------------


def test_a_line_that_the_firmware_would_cut_is_named() -> None:
    fits, long, comment = b"x" * LINE_MAX, b"y" * (LINE_MAX + 1), b"#" * 200
    merged = merge_snippets(b"", [("config.d/long.txt", b"\n".join([fits, long, comment, b""]))])

    assert merged.warnings == ("config.d/long.txt line 2 has 99 characters: the firmware reads 98 of a line",)
    assert long in merged.text


def test_abboot_adds_no_line_that_is_too_long() -> None:
    merged = merge_snippets(b"", [(f"config.d/{'é' * 200}.txt", b"a=1")])

    assert max(map(len, merged.text.split(b"\n"))) <= LINE_MAX


def test_a_name_cannot_add_a_line() -> None:
    assert settings(merge_snippets(b"", [("config.d/x\nevil=1\n.txt", b"a=1")]).text) == [("", "a=1")]


def test_a_file_that_a_pi_5_may_not_load_is_worth_a_warning() -> None:
    config = b"#" * DOUBTFUL_SIZE

    assert merge_snippets(config, []).warnings == ()
    assert "a Pi 5 may not boot" in merge_snippets(config, [SPI]).warnings[0]


@pytest.mark.parametrize(
    ("path", "merged"),
    [
        ("config.d/10-spi.txt", True),
        ("CONFIG.D/10-SPI.TXT", True),
        ("config.d/10-spi.txt.bak", False),
        ("config.d/README", False),
        ("config.d/deeper/10-spi.txt", False),
        ("overlays/config.d/10-spi.txt", False),
        ("config.d", False),
        ("config.txt", False),
    ],
)
def test_only_text_files_directly_in_config_d_are_merged(path: str, merged: bool) -> None:
    assert is_snippet(path) is merged


# -- whatever people write ----------------------------------------------------------------------------------------

_lines = st.one_of(
    st.sampled_from([BEGIN, END, b"[all]", b"[pi4]", b"a=1", b"", b"# text", b" " + BEGIN + b" "]),
    st.binary(max_size=6).filter(lambda line: b"\n" not in line),
)
_texts = st.tuples(st.lists(_lines, max_size=8), st.sampled_from([b"\n", b"\r\n"])).map(lambda t: t[1].join(t[0]))
_snippets = st.dictionaries(
    st.sampled_from(["config.d/a.txt", "config.d/B.txt", "config.d/c.txt"]), _texts, max_size=3
).map(lambda found: list(found.items()))


@given(_texts, _snippets)
@example(b"\n".join([BEGIN, b"x", BEGIN, END, b"y", END]), [])
@example(b"\n".join([END, BEGIN, END, BEGIN]), [])
def test_merging_twice_is_merging_once(config: bytes, snippets: list[tuple[str, bytes]]) -> None:
    once = merge_snippets(config, snippets)

    assert merge_snippets(once.text, snippets).text == once.text


@given(_texts.filter(lambda text: BEGIN not in text), _snippets, _snippets)
@example(b"a=1\n\r", [SPI], [USB])
def test_what_is_outside_of_the_block_stays_byte_for_byte(
    config: bytes, first: list[tuple[str, bytes]], then: list[tuple[str, bytes]]
) -> None:
    merged = merge_snippets(merge_snippets(config, first).text, then).text

    assert merged.startswith(config)
    assert merge_snippets(merged, []).text == config
    assert merged == merge_snippets(config, then).text


@given(st.lists(st.sampled_from([b"a=1", b"b=2", b"[pi4]"]), max_size=5), _snippets)
def test_every_line_of_every_snippet_is_in_the_block_and_in_order(
    own: list[bytes], snippets: list[tuple[str, bytes]]
) -> None:
    merged = merge_snippets(b"\n".join(own), snippets).text.split(b"\n")
    wanted = [
        line.removesuffix(b"\r")
        for _, text in sorted(snippets, key=lambda item: item[0].upper())
        for line in text.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        if line.strip() not in (BEGIN, END, b"")
    ]
    rest = iter(merged)

    assert all(line in rest for line in wanted)
