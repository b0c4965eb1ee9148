"""Canonical JSON: one text per value, and nothing but Damaged for what is none."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abboot.core.canonical import dump_json, is_sha256, is_text, load_json, one_line
from abboot.errors import Damaged

texts = st.text(st.characters(codec="utf-8"), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(texts, values, max_size=4), st.booleans(), st.sampled_from([None, 1]))
def test_the_order_of_keys_does_not_matter(value: dict[str, object], ascii_only: bool, indent: int | None) -> None:
    data = dump_json(value, ascii_only=ascii_only, indent=indent)

    assert load_json(data, "it") == value == json.loads(data)
    assert dump_json(dict(reversed(value.items())), ascii_only=ascii_only, indent=indent) == data
    assert data.isascii() or not ascii_only


@pytest.mark.parametrize("value", [{"a": float("nan")}, {"a": float("inf")}, {"a": b""}, {"a": {1, 2}}, {(1,): 1}])
def test_what_json_cannot_say_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        dump_json(value)


def test_nesting_without_end_is_refused() -> None:
    endless: dict[str, object] = {}
    endless["again"] = endless

    with pytest.raises(ValueError):
        dump_json(endless)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a":1,"a":1}', "it has a key twice"),
        (b'{"b":{"a":1,"a":2}}', "it has a key twice"),
        (b'{"a":1e999}', "a number that is too large"),
        (b'{"a":-1e999}', "a number that is too large"),
        (b'{"a":NaN}', "NaN is not a number"),
        (b'{"a":-Infinity}', "-Infinity is not a number"),
        (b'{"a":"\\ud800"}', "it is not JSON"),
        (b'{"\\udfff":1}', "it is not JSON"),
        (b'{"a":' + b"9" * 5000 + b"}", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b"\xff", "it is not JSON"),
        (b"\xef\xbb\xbf{}", "it is not JSON"),
        (b"", "it is not JSON"),
        (b"[1]", "it is not a JSON object but list"),
        (b"null", "it is not a JSON object but NoneType"),
    ],
)
def test_what_is_no_object_is_damaged(data: bytes, reason: str) -> None:
    with pytest.raises(Damaged, match=r"^cannot read the file: ") as caught:
        load_json(data, "the file")
    assert reason in caught.value.message


@given(st.text(), st.sampled_from([10, 200]))
def test_a_long_text_is_cut_at_its_size_in_json(text: str, limit: int) -> None:
    line = one_line(text, limit)

    assert len(json.dumps(line)) - 2 <= limit
    assert line.isprintable()
    assert one_line(line, limit) == line
    assert line == "".join(c if c.isprintable() else " " for c in text)[: len(line)]


@pytest.mark.parametrize("text", ["x" * 500, "\N{ROCKET}" * 500, '"' * 500])
def test_a_text_is_not_cut_shorter_than_it_must_be(text: str) -> None:
    assert 200 - 12 < len(json.dumps(one_line(text, 200))) - 2 <= 200


@given(st.text())
def test_text_is_what_can_be_encoded(text: str) -> None:
    assert is_text(text) is (text.encode("utf-8", "surrogatepass").decode("utf-8", "replace") == text)


@pytest.mark.parametrize("found", ["A" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n", b"a" * 64, None, 0])
def test_only_64_lower_case_digits_are_a_digest(found: object) -> None:
    assert not is_sha256(found)
    assert is_sha256("0123456789abcdef" * 4)
