"""What a person sees: colours on a terminal only, lines that fit it, a bar while it takes long."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import subprocess
import termios
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abboot.cli.progress import ProgressBar
from abboot.cli.render import Style, facts, one_line, printable, table, wrapped
from abboot.progress import Progress
from tests import cards
from tests.cli.command import abboot, command, environment, new_card, said

COLOUR = re.compile(r"\033\[[0-9;]*m")


def on_a_terminal(*words: object, columns: int = 80, **variables: str) -> tuple[int, str]:
    """Run abboot with stdout and stderr on a terminal; exit code and everything that was drawn."""
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, columns))
    child = subprocess.Popen(command(*words), stdout=follower, stderr=follower, env=environment(**variables))
    os.close(follower)
    drawn = b""
    with contextlib.suppress(OSError):  # EIO: the other side is closed
        while piece := os.read(leader, 65536):
            drawn += piece
    os.close(leader)
    return child.wait(), drawn.decode().replace("\r\n", "\n")


@pytest.fixture(scope="module")
def worn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card with a long history and long words in it."""
    card = new_card(tmp_path_factory.mktemp("worn"))
    label = "the July update of all the sensors in the second hall"
    said("--sim", card, "stage", cards.tree("v2"), "--label", label)
    said("--sim", card, "trial")
    said("--sim", card, "revert", "--reason", "the fan is loud and the light does not blink " * 3)
    said("--sim", card, "confirm")
    said("--sim", card, "stage", cards.tree("unbootable"))
    said("--sim", card, "trial")
    return card


def test_a_terminal_has_colours(worn: Path) -> None:
    code, drawn = on_a_terminal("--sim", worn, "status")

    assert code == 0
    assert "\033[32mgood\033[0m" in drawn


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_can_be_without_colours(worn: Path, variables: dict[str, str]) -> None:
    _, drawn = on_a_terminal("--sim", worn, "status", **variables)

    assert "\033" not in drawn
    assert "booted, primary" in drawn


def test_a_pipe_has_neither_colours_nor_broken_lines(worn: Path) -> None:
    text = abboot("--sim", worn, "log").out + abboot("--sim", worn, "status").out

    assert "\033" not in text
    assert any(len(line) > 100 for line in text.splitlines())  # so that grep finds what belongs together


@pytest.mark.parametrize("verb", ["status", "log", "confirm", "stage", "simulate", "inspect", "help"])
def test_no_line_is_wider_than_the_terminal(worn: Path, tmp_path: Path, verb: str) -> None:
    copy = new_card(tmp_path)
    words: dict[str, tuple[object, ...]] = {
        "status": ("--sim", worn, "status"),
        "log": ("--sim", worn, "log"),
        "confirm": ("--sim", copy, "confirm"),
        "stage": ("--sim", copy, "stage", cards.tree("unbootable")),
        "simulate": ("simulate", "reboot", worn, "--tryboot", "--dry-run"),
        "inspect": ("image", "inspect", worn),
        "help": ("stage", "--help"),
    }

    code, drawn = on_a_terminal(*words[verb])

    assert code == 0
    lines = re.split("[\r\n]", COLOUR.sub("", drawn))
    long = [line for line in lines if len(line) > 80 and str(worn) not in line]
    assert long == []


def test_what_is_wrapped_keeps_every_word(worn: Path) -> None:
    _, drawn = on_a_terminal("--sim", worn, "log", columns=60, NO_COLOR="1")

    assert drawn.split() == abboot("--sim", worn, "log").out.split()


def test_verbose_is_for_people_on_a_terminal(tmp_path: Path) -> None:
    card = new_card(tmp_path)

    _, drawn = on_a_terminal("-v", "--sim", card, "stage", cards.tree("v2"), NO_COLOR="1")

    assert re.search(r"^\d\d:\d\d:\d\d \[info +\] slot\.written ", drawn, re.MULTILINE)


# -- the bar -----------------------------------------------------------------------------------------------------------


def a_progress(done: int, activity: str = "writing") -> Progress:
    return Progress(
        activity=activity,
        path="overlays/a-very-long-name-\033[2J-indeed.dtbo",
        bytes_done=done,
        bytes_total=71_500_000,
        files_done=done // 1_000_000,
        files_total=339,
        elapsed_s=done / 20_000_000,
    )


def draw(monkeypatch: pytest.MonkeyPatch, columns: int) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    with contextlib.redirect_stderr(io.StringIO()) as drawn:
        bar = ProgressBar()
        bar(a_progress(0))  # too early: a short verb draws nothing
        time.sleep(0.55)
        for done in (35_750_000, 71_500_000):
            bar(a_progress(done))
            bar(a_progress(done + 1))  # too soon
            time.sleep(0.11)
        bar.clear()
    return drawn.getvalue()


def test_the_bar_says_how_far_it_is_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    _, half, whole, blank, nothing = draw(monkeypatch, 100).split("\r")

    assert re.match(r"writing +\[######      \]   *35\.8 MB of 71\.5 MB +20\.0 MB/s +2 s left  35/339 overlays/", half)
    assert "\033" not in half
    assert "[############]" in whole
    assert (blank.strip(), len(blank), nothing) == ("", len(whole), "")


def test_the_bar_stays_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {len(line) for line in draw(monkeypatch, 60).split("\r")} <= {0, 59}


# -- the pieces --------------------------------------------------------------------------------------------------------


@given(st.text(st.characters(codec="utf-8")))
def test_nothing_that_is_printed_orders_a_terminal_about(text: str) -> None:
    shown = COLOUR.sub("", printable(text))

    assert not re.search(r"[\0-\x09\x0b-\x1f\x7f-\x9f]", shown)
    assert "\n" not in one_line(text)
    if text.isprintable():
        assert printable(text) == text


@given(st.lists(st.text("abc", min_size=1, max_size=12), max_size=30), st.integers(24, 60), st.booleans())
def test_wrapping_loses_nothing_and_keeps_to_the_width(words: list[str], width: int, colour: bool) -> None:
    style = Style(colour=colour, width=width)
    text = " ".join(style.paint(word, "red") for word in words)

    lines = wrapped(text, width)

    assert " ".join(lines) == text
    assert all(len(COLOUR.sub("", line)) <= width for line in lines)


def test_the_columns_of_a_table_stand_under_each_other_in_colour_too() -> None:
    style = Style(colour=True)

    drawn = COLOUR.sub("", table(style, ["x", "state", "end"], [["1", style.word("good"), "one"], ["22", "-", ""]]))

    assert drawn == "x   state  end\n1   good   one\n22  -"


def test_the_last_column_stands_below_where_there_is_no_room() -> None:
    drawn = table(Style(width=40), ["a", "b"], [["x" * 30, "some words that need more room than there is"]])

    assert drawn == "a" + " " * 31 + "b\n" + "x" * 30 + "\n      some words that need more room\n      than there is"


def test_facts_without_a_value_are_left_out() -> None:
    assert facts(Style(), [("disk", "card.img"), ("model", ""), ("a", "b")]) == "disk  card.img\na     b"
