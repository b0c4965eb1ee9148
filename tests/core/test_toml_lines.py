"""Which line a key stands on; the judge is tomllib, which knows the keys, and the text, which has the lines."""

from __future__ import annotations

import time
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abboot.core.settings import toml_key, toml_value
from abboot.core.toml_lines import MAX_KEY_PARTS, MAX_SIZE, TomlError, key_lines, load_toml, nearest_line

EVERYTHING = '''\
# a comment with [brackets] and "quotes"
title = "x # not a comment"      # 2
"quoted key".dotted . 'more' = 1 # 3
numbers = [                      # 4
    1,   # a ] in a comment
    2, [3,
    4],                          # 7
]
text = """
[not.a.table]
key = 1 \\""" still inside
"""                              # 12
literal = \'\'\'C:\\path\\\'\'\'        # 13

[table . "sub"]                  # 15
when = 1979-05-27 07:32:00       # 16
inline = { a = 1, b.c = [ {d = 2} ] } # 17

[[array]]                        # 19
name = 'one'                     # 20
[array.inner]                    # 21
key = true
[[array]]                        # 23
[[array.deep]]                   # 24
[[array.deep]]                   # 25
"k\\u0065y" = 1                   # 26
'''


def test_every_key_of_a_text_with_everything_is_found() -> None:
    data, lines = load_toml(EVERYTHING)

    assert paths_of(data) <= lines.keys()
    assert lines["title",] == 2
    assert lines["quoted key", "dotted", "more"] == 3
    assert lines["numbers",] == 4
    assert lines["numbers", 0] == 5
    assert lines["numbers", 2, 1] == 7
    assert lines["text",] == 9
    assert lines["literal",] == 13
    assert lines["table", "sub"] == 15
    assert lines["table", "sub", "when"] == 16
    assert lines["table", "sub", "inline", "b", "c", 0, "d"] == 17
    assert lines["array", 0, "name"] == 20
    assert lines["array", 0, "inner", "key"] == 22
    assert lines["array", 1] == 23
    assert lines["array", 1, "deep", 1] == 25
    assert lines["array", 1, "deep", 1, "key"] == 26


def test_what_is_not_there_has_the_line_of_what_is_around_it() -> None:
    _, lines = load_toml("\n[health]\nstable_for = 1\n")

    assert nearest_line(lines, ("health", "deadline")) == 2
    assert nearest_line(lines, ("disk", "device")) == 0


def paths_of(value: Any, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = {path} if path else set()
    for key, each in items:
        found |= paths_of(each, (*path, key))
    return found


NO_SURROGATES = st.characters(exclude_categories=("Cs",))
KEYS = st.text(NO_SURROGATES, max_size=6)
SCALARS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.floats(),
    st.dates(),
    st.times(),
    st.text(NO_SURROGATES, max_size=8),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Tables and arrays of tables with unique names, their keys spread over lines, comments between."""
    lines: list[str] = []
    for name in draw(st.lists(KEYS, max_size=4, unique=True)):
        array = draw(st.booleans())
        for _ in range(draw(st.integers(1, 3)) if array else 1):
            lines.append(f"[[{toml_key(name)}]]" if array else f"[ {toml_key(name)} ]")
            for key, value in draw(st.dictionaries(KEYS, VALUES, max_size=4)).items():
                lines.extend(draw(st.lists(st.sampled_from(["", "# [x]", "  # a = '''"]), max_size=2)))
                lines.append(f"  {toml_key(key)} = {toml_value(value)}{draw(st.sampled_from(['', ' # ]', '  ']))}")
    return draw(st.sampled_from(["\n", "\r\n"])).join(lines)


@settings(max_examples=60)
@given(documents())
def test_the_line_of_a_key_is_a_line_with_that_key(text: str) -> None:
    data = tomllib.loads(text)
    lines = key_lines(text)
    numbered = text.split("\n")

    assert paths_of(data) == set(lines)
    for path, line in lines.items():
        keys = [part for part in path if isinstance(part, str)]
        assert toml_key(keys[-1]) in numbered[line - 1]


@settings(max_examples=60)
@given(documents())
def test_what_is_written_is_what_tomllib_reads(text: str) -> None:
    data = tomllib.loads(text)
    again = "\n".join(f"{toml_key(key)} = {toml_value(value)}" for key, value in data.items())

    assert repr(tomllib.loads(again)) == repr(data)  # repr: not a number is not equal to itself


@given(st.text(alphabet=st.sampled_from("[]{}=.,#'\"\\ab1-: \n\r\t\u00e9\ud800"), max_size=60))
def test_garbage_is_either_toml_or_a_toml_error(text: str) -> None:
    problem: TomlError | None = None
    try:
        data, lines = load_toml(text)
    except TomlError as error:
        problem = error

    if problem is None:
        assert paths_of(data) <= lines.keys()
    else:
        assert 0 <= problem.line <= text.count("\n") + 1
        assert "(at " not in str(problem)


HOSTILE = {
    "a dotted key without end": ".".join("a" * (MAX_SIZE // 2)) + "=1",
    "a quoted one": ".".join(['""'] * (MAX_SIZE // 3 - 2)) + "=1",
    "many long ones": (".".join("a" * (MAX_KEY_PARTS + 1)) + "=1\n") * (MAX_SIZE // 40),
    "open arrays": "a=" + "[" * 60000,
    "nested arrays": "a=" + "[" * 30000 + "]" * 30000,
    "nested tables": "a=" + "{a=" * 20000,
    "a huge integer": "a=" + "9" * 60000,
    "a long word": "a" * 60000,
    "many open strings": 'a="' * 20000,
    "too long": "#" * (MAX_SIZE + 1),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_text_is_refused_at_once(text: str) -> None:
    before_s = time.process_time()

    with pytest.raises(TomlError):
        load_toml(text)

    assert time.process_time() - before_s < 1


def test_a_large_text_of_the_worst_kind_that_is_allowed_is_read_in_bounded_time() -> None:
    key = ".".join("abcdefghijklmnop"[:MAX_KEY_PARTS])
    lines = [f"[x{n}]\n{key} = {{{key} = [[[1]]]}}\n" for n in range(MAX_SIZE // 100)]
    before_s = time.process_time()

    load_toml("".join(lines))

    assert time.process_time() - before_s < 5
