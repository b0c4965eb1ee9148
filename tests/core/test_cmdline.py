"""The kernel command line: words as the kernel sees them, one of each key that is set, everything else untouched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abboot.core.cmdline import booted_cmdline, set_cmdline, split_cmdline
from abboot.core.words import Slot
from abboot.errors import AbbootError

TRIXIE = "console=serial0,115200 console=tty1 root=PARTUUID=1234abcd-02 rootfstype=ext4 fsck.repair=yes rootwait\n"


def test_a_key_that_is_there_is_replaced_where_it_is() -> None:
    assert set_cmdline(TRIXIE, {"root": "PARTLABEL=root_b"}) == TRIXIE.replace(
        "PARTUUID=1234abcd-02", "PARTLABEL=root_b"
    )


def test_a_new_key_is_added_at_the_end() -> None:
    assert set_cmdline("quiet", {"panic": "10"}) == "quiet panic=10\n"
    assert set_cmdline("", {"panic": "10"}) == "panic=10\n"


def test_only_whole_keys_are_replaced() -> None:
    text = "root=/dev/a rootfstype=ext4 systemd.root=x ro"

    assert set_cmdline(text, {"root": "/dev/b"}) == "root=/dev/b rootfstype=ext4 systemd.root=x ro\n"


def test_further_words_of_the_key_are_dropped_since_the_last_one_would_win() -> None:
    assert set_cmdline("a root=1 b root=2 root c", {"root": "3"}) == "a root=3 b c\n"


def test_a_dash_and_an_underscore_are_one_character_in_a_key() -> None:
    text = "cfg80211.ieee80211-regdom=DE quiet"

    assert set_cmdline(text, {"cfg80211.ieee80211_regdom": "FR"}) == "cfg80211.ieee80211_regdom=FR quiet\n"


def test_quoted_blanks_do_not_end_a_word() -> None:
    text = 'dyndbg="file a +p; file b +p" "init=/bin/sh -c" root=x'

    assert split_cmdline(text) == ['dyndbg="file a +p; file b +p"', '"init=/bin/sh -c"', "root=x"]
    assert set_cmdline(text, {"init": "/sbin/init", "dyndbg": "none"}) == "dyndbg=none init=/sbin/init root=x\n"


def test_a_value_with_blanks_is_quoted() -> None:
    once = set_cmdline("quiet", {"dyndbg": "file a +p"})

    assert once == 'quiet dyndbg="file a +p"\n'
    assert set_cmdline(once, {"dyndbg": "file b +p"}) == 'quiet dyndbg="file b +p"\n'


def test_what_is_meant_for_init_is_left_alone() -> None:
    assert set_cmdline("quiet -- root=init", {"root": "x", "panic": "1"}) == "quiet root=x panic=1 -- root=init\n"


def test_what_is_set_already_changes_nothing_not_even_a_blank() -> None:
    text = "  quiet\troot=x   panic=10"

    assert set_cmdline(text, {"root": "x", "panic": "10"}) == text


def test_several_lines_become_the_one_that_the_kernel_gets() -> None:
    assert set_cmdline("quiet\r\nroot=x\n", {"panic": "1"}) == "quiet root=x panic=1\n"


def test_bytes_that_are_no_utf_8_come_through() -> None:
    text = b"name=caf\xe9 quiet".decode("utf-8", "surrogateescape")

    assert set_cmdline(text, {"panic": "1"}).encode("utf-8", "surrogateescape") == b"name=caf\xe9 quiet panic=1\n"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("", "x", "^cannot set '' in cmdline.txt: it is no key$"),
        ("--", "x", "^cannot set '--' in cmdline.txt: it is no key$"),
        ("a b", "x", "^cannot set a b in cmdline.txt: its key holds ' '$"),
        ("a=b", "x", "its key holds '='"),
        ('a"', "x", "its key holds '\"'"),
        ("a", 'x"', "^cannot set a in cmdline.txt: its value holds '\"'$"),
        ("a", "x\ny", r"its value holds '\\n'"),
        ("a", "x\x00", r"its value holds '\\x00'"),
        ("a", "\udce9", r"its value holds '\\udce9'"),
        ("a\x1b[31m", "x", r"^cannot set a\\x1b\[31m in cmdline.txt: its key holds '\\x1b'$"),
    ],
)
def test_what_is_no_word_of_a_command_line_is_refused(key: str, value: str, words: str) -> None:
    with pytest.raises(AbbootError, match=words):
        set_cmdline(TRIXIE, {key: value})


def test_a_quote_that_stays_open_would_swallow_what_is_set() -> None:
    with pytest.raises(
        AbbootError, match=r"^cannot set root in cmdline\.txt: it has a double quote that is not closed$"
    ):
        set_cmdline('quiet name="x', {"root": "y"})
    assert set_cmdline('quiet name="x', {}) == 'quiet name="x'


_keys = st.sampled_from(["root", "panic", "console", "a-b", "a_b", "systemd.x"])
_values = st.text(alphabet="ab1/= ,.:é", max_size=6)
_texts = st.lists(st.one_of(_keys, st.sampled_from(['"', " ", "=", "--", "x", "\n", '"a b"', " quiet "])), max_size=12)


@given(_texts.map("".join).filter(lambda text: text.count('"') % 2 == 0), st.dictionaries(_keys, _values, max_size=3))
def test_setting_twice_is_setting_once(text: str, values: dict[str, str]) -> None:
    once = set_cmdline(text, values)

    assert set_cmdline(once, values) == once


@given(st.lists(st.sampled_from(["quiet", "root=x", "panic=1", 'a="b c"', "a_b=2"])), st.dictionaries(_keys, _values))
def test_every_other_word_stays_and_every_set_one_is_there_once(words: list[str], values: dict[str, str]) -> None:
    def key(word: str) -> str:
        return word.partition("=")[0].replace("-", "_")

    kernel = split_cmdline(set_cmdline(" ".join(words), values))
    wanted = {key(name): value for name, value in values.items()}

    assert [word for word in kernel if key(word) not in wanted] == [word for word in words if key(word) not in wanted]
    for name, value in wanted.items():
        assert [word.partition("=")[2].strip('"') for word in kernel if key(word) == name] == [value]


ROOT_A, ROOT_B = TRIXIE.replace("1234abcd-02", "1234abcd-05"), TRIXIE.replace("1234abcd-02", "1234abcd-06")


def given_by_firmware(text: str) -> str:
    """As on a Pi 4: words of its own around, and the name of the serial port replaced."""
    return f"coherent_pool=1M snd_bcm2835.enable_hdmi=0 {text.strip().replace('serial0', 'ttyS0')} vc_mem.mem_size=1"


@pytest.mark.parametrize(("text", "slot"), [(ROOT_A, Slot.A), (ROOT_B, Slot.B)])
def test_the_words_that_only_one_slot_has_tell_which_one_booted(text: str, slot: Slot) -> None:
    assert booted_cmdline(given_by_firmware(text), {Slot.A: ROOT_A, Slot.B: ROOT_B}) is slot


@pytest.mark.parametrize(
    ("bootargs", "a", "b"),
    [
        (given_by_firmware(TRIXIE), TRIXIE, TRIXIE),  # no difference
        ("root=/dev/mmcblk0p5 quiet", "root=/dev/mmcblk0p5 quiet", ""),  # b cannot be read
        (given_by_firmware(TRIXIE), ROOT_A, ROOT_B),  # neither
        (f"{given_by_firmware(ROOT_A)} root=PARTUUID=1234abcd-06", ROOT_A, ROOT_B),  # both
        ("", ROOT_A, ROOT_B),
        (given_by_firmware(TRIXIE), TRIXIE, f"quiet {TRIXIE}"),  # only that a word of b is missing
    ],
)
def test_what_does_not_tell_is_not_guessed(bootargs: str, a: str, b: str) -> None:
    assert booted_cmdline(bootargs, {Slot.A: a, Slot.B: b}) is None


@given(bootargs=st.text(max_size=60), a=st.text(max_size=40), b=st.text(max_size=40))
def test_any_texts_name_at_most_one_slot_and_both_orders_agree(bootargs: str, a: str, b: str) -> None:
    found = booted_cmdline(bootargs, {Slot.A: a, Slot.B: b})
    swapped = booted_cmdline(bootargs, {Slot.A: b, Slot.B: a})

    assert swapped is (None if found is None else found.other)
