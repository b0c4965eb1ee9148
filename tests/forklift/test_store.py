"""The stage store against what the real Forklift wrote, and against the YAML library that it is built with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from abboot.errors import Refused
from abboot.forklift import StageStore, StoreDamaged
from abboot.forklift.store import MAX_SIZE
from abboot.forklift.yaml3 import Block, List, Node, Scalar, natural_order, problem_of_key

GOLDEN = Path(__file__).resolve().parent / "golden"
DAMAGED = ("52-emptyfile-show-next.yml", "54-nul-show-next.yml", "55-torn-show-next.yml")
STORES = sorted(
    path.name for path in GOLDEN.glob("*.yml") if path.name not in DAMAGED and path.name != "bundle-manifest.yml"
)
VECTORS = [json.loads(line) for line in (GOLDEN / "yaml-v3.jsonl").read_text("ascii").splitlines()]
HEAD = b"forklift-version: v0.7.0\nstaged:\n"


def attempt(data: bytes) -> StageStore | StoreDamaged:
    try:
        return StageStore.parse(data)
    except StoreDamaged as error:
        return error


def golden(name: str) -> bytes:
    (path,) = GOLDEN.glob(f"{name}*.yml")
    return path.read_bytes()


def parsed(name: str) -> StageStore:
    return StageStore.parse(golden(name))


# --- the text ---


@pytest.mark.parametrize("name", STORES)
def test_what_forklift_wrote_is_written_again_byte_for_byte(name: str) -> None:
    data = (GOLDEN / name).read_bytes()

    store = StageStore.parse(data)

    assert store.render() == data
    assert store.unknown == ()


def test_there_are_stores_to_compare_with() -> None:
    assert len(STORES) > 20
    assert len(VECTORS) > 100


def test_the_values_of_a_store_are_those_that_pyyaml_reads() -> None:
    for name in STORES:
        theirs = yaml.safe_load((GOLDEN / name).read_bytes())
        ours = parsed(name.removesuffix(".yml"))

        staged = theirs["staged"]
        assert theirs["forklift-version"] == ours.forklift_version
        assert (staged.get("next"), staged.get("next-failed", False)) == (ours.next, ours.next_failed)
        assert (tuple(staged.get("history", ())), staged.get("names", {})) == (ours.history, dict(ours.names))


@pytest.mark.parametrize("vector", VECTORS)
def test_awkward_names_are_written_and_read_as_forklifts_library_does(vector: dict[str, object]) -> None:
    text = str(vector["text"]).encode()
    values = {key: value for key, value in vector.items() if key != "text"}

    assert StageStore(**values).render() == text  # type: ignore[arg-type]
    assert StageStore.parse(text) == StageStore(**values)  # type: ignore[arg-type]


NAMES = st.one_of(
    st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,20}", fullmatch=True),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.text("\n\t \r'\"#:-?,[]{}&*!|>%@`~=<0123456789.eExyno\u2028\x85\ufeff", max_size=8),
    st.binary(max_size=8).map(lambda data: data.decode("utf-8", "surrogateescape")),
).filter(lambda name: not problem_of_key(name))
INDEXES = st.integers(1, 2**63 - 1) | st.integers(1, 5)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PLAIN = st.sampled_from(["1", "2.5", "true", "null", "~", "2026-01-01", "0x1f", ".inf"])
KEYS = TEXTS.filter(
    lambda key: key not in ("<<", "staged", "forklift-version", "next", "next-failed", "history", "names")
)
KEYS = KEYS.filter(lambda key: not problem_of_key(key))
VALUES = TEXTS.filter(lambda text: not problem_of_key(text)).map(Scalar) | PLAIN.map(
    lambda text: Scalar(text, plain=True)
)


def nested(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    entries = st.dictionaries(KEYS, inner, max_size=3)
    return st.lists(inner, max_size=3).map(lambda items: List(tuple(items))) | entries.map(
        lambda found: Block(tuple((Scalar(key), node) for key, node in found.items()))
    )


EXTRAS = st.dictionaries(
    st.tuples(KEYS) | st.tuples(st.just("staged"), KEYS), st.recursive(VALUES, nested, max_leaves=5), max_size=2
)
STAGE_STORES = st.builds(
    StageStore,
    forklift_version=st.sampled_from(["v0.7.0", "", "1.0", "v0.8.0-alpha.6"]) | TEXTS.filter(str.isprintable),
    next=st.none() | INDEXES,
    next_failed=st.booleans(),
    history=st.lists(INDEXES, max_size=4),
    names=st.dictionaries(NAMES, INDEXES, max_size=4),
)


@given(STAGE_STORES, EXTRAS)
def test_every_store_is_read_back_as_it_was(store: StageStore, extra: dict[tuple[str, ...], Node]) -> None:
    store = attrs.evolve(store, extra=extra)

    again = StageStore.parse(store.render())

    assert again == store
    assert again.render() == store.render()


def test_numbers_in_names_count_as_numbers() -> None:
    assert natural_order(["a10", "a2", "b", "a1", "A3"]) == ["A3", "a1", "a2", "a10", "b"]


# --- what is no store ---


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (golden("52"), "it is empty"),
        (golden("54"), "its 5 bytes are all zero"),
        (golden("55"), "line 4"),
        (golden("04") + bytes(100), "end"),
        (HEAD + b"    next: 1", "its last line has no end"),
        (HEAD + b"    next: \xff\n", "not UTF-8"),
        (HEAD, "it has no `staged`"),
        (b"forklift-version: v0.7.0\n", "it has no `staged`"),
        (b"# nothing\n", "nothing, not a mapping"),
        (b"- 1\n", "a list, not a mapping"),
        (golden("bundle"), "it has no `staged`"),
        (HEAD + b"    next: one\n", "`staged.next`: the text 'one', not the number of a bundle"),
        (HEAD + b"    next: '1'\n", "`staged.next`: the text '1'"),
        (HEAD + b"    next: -1\n", "-1 is not the number of a bundle"),
        (HEAD + b"    next: 1.5\n", "`staged.next`: the number '1.5'"),
        (HEAD + b"    next: 9223372036854775808\n", "9223372036854775808 is not the number"),
        (HEAD + b"    next: 99999999999999999999999\n", "the number '99999999999999999999999'"),
        (HEAD + b"    next-failed: maybe\n", "`staged.next-failed`: the text 'maybe'"),
        (HEAD + b"    history: 1\n", "`staged.history`: the whole number '1', not a list"),
        (HEAD + b"    history: [1, ~]\n", "`staged.history`: the null '~'"),
        (HEAD + b"    history: [0]\n", "0 is not the number"),
        (HEAD + b"    names: [a]\n", "`staged.names`: a list, not a mapping"),
        (HEAD + b"    names: {a: b}\n", "`staged.names`: the text 'b'"),
        (HEAD + b"    names: {~: 1}\n", "a name is missing"),
        (HEAD + b"    names:\n        <<: 1\n", "a merge"),
        (HEAD + b"    names:\n        a: 1\n        'a': 2\n", "the key 'a' for the second time"),
        (HEAD + b"    next: 1\n    next: 2\n", "the key 'next' for the second time"),
        (HEAD + b"    next: &x 1\n    history: [*x]\n", "an anchor or an alias: x"),
        (HEAD + b"    next: !!int 1\n", "a tag"),
        (HEAD + b"    ? [a]\n    : 1\n", "a list or a mapping as a key"),
        (HEAD + b"    next: 1\n---\na: 1\n", "a second document"),
        (b"%YAML 1.2\n---\n" + HEAD + b"    next: 1\n", "a directive"),
        (HEAD + b'    names: {"\\UFFFFFFFF": 1}\n', "out of range"),
        (HEAD + b"    names:\n        !!binary '*': 1\n", "not base64"),
        (HEAD + b"    deep: " + b"[" * 40 + b"]" * 40 + b"\n", "nested more than 32 deep"),
        (b"\t\n", "line 1"),
        (b"#" * MAX_SIZE + b"\n", f"it has more than {MAX_SIZE} bytes"),
    ],
)
def test_what_is_no_store_is_damaged_and_its_bytes_are_kept(data: bytes, found: str) -> None:
    with pytest.raises(StoreDamaged) as raised:
        StageStore.parse(data)

    assert raised.value.data == data
    assert raised.value.message.startswith("cannot read the stage store: ")
    assert found in raised.value.message
    assert raised.value.message.isprintable()


@pytest.mark.parametrize("name", STORES)
def test_a_torn_store_is_damaged_or_says_less_and_never_something_else(name: str) -> None:
    data = (GOLDEN / name).read_bytes()
    whole = StageStore.parse(data)

    for length in range(len(data)):
        part = attempt(data[:length])
        if isinstance(part, StoreDamaged):
            assert part.data == data[:length]
            continue
        assert data[:length].endswith(b"\n")
        assert part.next in (None, whole.next)
        assert part.history == whole.history[: len(part.history)]
        assert part.names.items() <= whole.names.items()


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: (text + "\n").encode("utf-8", "replace")))
@example(b"%YAML 1." + b"9" * 5000 + b"\n--- a\n")
@example(b'"\\ud800"\n')
def test_bytes_of_any_kind_are_a_store_or_damaged(data: bytes) -> None:
    store = attempt(data)

    if isinstance(store, StoreDamaged):
        assert store.message.isprintable()
        assert len(store.message) < 500
    else:
        assert StageStore.parse(store.render()) == store


@pytest.mark.parametrize("bomb", [b"[" * 100_000, b"{" * 100_000, b"- " * 50_000, b"? " * 50_000, b"&a *a " * 20_000])
def test_what_would_grow_is_refused_before_it_does(bomb: bytes) -> None:
    with pytest.raises(StoreDamaged, match=r"nested more than 32 deep|an anchor"):
        StageStore.parse(HEAD + b"    x:\n        " + bomb + b"\n")


# --- what Forklift does not write, but reads ---


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        (b"---\nstaged: {next: 2, history: [1]}\nforklift-version: v0.7.0\n...\n", "30"),
        (b"\xef\xbb\xbf" + b"forklift-version: 'v0.7.0'\r\nstaged:\r\n  next: 0b1_0\r\n  history:\r\n  - 01\r\n", "30"),
        (HEAD + b"    next: 0x2\n    next-failed: no\n    history:\n    - 1\n    names:\n", "30"),
        (HEAD + b"    next: 2\n    next-failed: 'YES'\n    history: [1]\n    names: {factory-reset: 0o1}\n", "14"),
        (HEAD + b"    next: 0\n    history: [1]\n", "76"),
    ],
)
def test_a_store_written_by_hand_means_what_forklift_takes_it_for(text: bytes, same_as: str) -> None:
    assert StageStore.parse(text).render() == golden(same_as)


def test_unknown_keys_are_reported_and_outlive_every_transition() -> None:
    text = HEAD + (
        b"    next: 1\n    colour: red  # why not\n    nested:\n        - a: 1\n          b: ['yes', ~]\n# end\n"
        b"owner: pi\n"
    )
    store = StageStore.parse(text)

    after = store.applied().staged(2).with_name("x", 2).apply_failed().del_bundle(2).unset_next()

    assert store.unknown == ("owner", "staged.colour", "staged.nested", "line 4: # why not", "line 8: # end")
    assert after.render() == HEAD + (
        b'    history:\n        - 1\n    colour: red\n    nested:\n        - a: 1\n          b:\n            - "yes"\n'
        b"            - ~\nowner: pi\n"
    )
    assert yaml.safe_load(after.render())["staged"]["nested"] == yaml.safe_load(text)["staged"]["nested"]


def test_a_sign_in_a_name_is_no_comment() -> None:
    store = StageStore.parse(
        HEAD + b"    names:\n        'a #b': 1\n        ? |-\n            x\n            # y\n        : 2\n"
    )

    assert store.unknown == ()
    assert dict(store.names) == {"a #b": 1, "x\n# y": 2}


# --- what Forklift does to it ---

STEPS: list[tuple[str, Callable[[StageStore], StageStore], str]] = [
    ("00", lambda store: store.staged(1), "04"),
    ("04", lambda store: store.with_name("factory-reset", 1), "05"),
    ("05", lambda store: store.applied(), "06"),
    ("06", lambda store: store.applied(), "07"),
    ("07", lambda store: store.staged(2), "08"),
    ("08", lambda store: store.apply_failed(), "14"),
    ("14", lambda store: store.applied(), "17"),
    ("14", lambda store: store.apply_failed(), "14"),
    ("17", lambda store: store.set_next_result("pending"), "19"),
    ("19", lambda store: store.set_next_result("failure"), "14"),
    ("14", lambda store: store.set_next(2), "08"),
    ("06", lambda store: store.staged(2), "s1-1"),
    ("40", lambda store: store.del_bundle(2), "60"),
    ("60", lambda store: store.staged(2), "61"),
    ("61", lambda store: store.staged(3), "63"),
    ("63", lambda store: store.with_name("boot-slot-b", 3).set_next(1), "64"),
    ("61", lambda store: store.set_next(0), "76"),
    ("61", lambda store: store.unset_next(), "77"),
    ("s4-1", lambda store: store.with_name("boot-failed", 3).set_next(2), "s4-3"),
    ("s1-1", lambda store: store.applied().staged(3).apply_failed(), "s4-1"),
    ("s5", lambda store: store.without_name("boot-failed"), "06"),
]


@pytest.mark.parametrize(("before", "step", "after"), STEPS)
def test_a_step_leaves_what_the_real_forklift_left(
    before: str, step: Callable[[StageStore], StageStore], after: str
) -> None:
    assert step(parsed(before)).render() == golden(after)


def test_a_fallback_that_works_is_applied_again_and_again() -> None:
    failed = parsed("14")

    assert (failed.next, failed.current, failed.applies) == (2, 1, 1)
    assert failed.applied() == failed


def test_the_bundle_that_worked_before_is_tried_again_and_not_the_one_before_it() -> None:
    failed = StageStore(next=2, history=(1, 2)).apply_failed()

    assert failed == StageStore(next=2, next_failed=True, history=(1, 2))
    assert failed.applies == 2
    assert failed.applied() == StageStore(next=2, history=(1, 2))


def test_the_first_bundle_has_no_fallback() -> None:
    failed = StageStore(next=1).apply_failed()

    assert failed == StageStore(next=1, next_failed=True)
    assert failed.applies is None
    assert failed.applied() == failed


def test_without_a_next_bundle_nothing_is_noted() -> None:
    store = StageStore(history=(1,))

    for after in (
        store.applied(),
        store.apply_failed(),
        store.set_next_result("success"),
        store.set_next_result("failure"),
    ):
        assert after == store
    assert store.applies is None


def test_deleting_the_next_bundle_moves_next_to_the_newest_that_is_left() -> None:
    store = StageStore(next=2, next_failed=True, history=(1, 2, 1, 2), names={"a": 2, "b": 1})

    assert store.del_bundle(2) == StageStore(next=1, history=(1, 1), names={"b": 1})
    assert store.del_bundle(2).del_bundle(1) == StageStore()
    assert store.del_bundle(1) == StageStore(next=2, next_failed=True, history=(2, 2), names={"a": 2})


def test_what_forklift_computes_is_computed_alike() -> None:
    store = StageStore(next=3, history=(1, 2))

    assert (store.current, store.rollback, store.pending) == (2, 1, 3)
    assert (store.applied().current, store.applied().rollback, store.applied().pending) == (3, 2, None)
    assert (StageStore().current, StageStore().rollback, StageStore().pending) == (None, None, None)
    assert StageStore(history=(1,)).pending is None


@pytest.mark.parametrize(
    "name",
    [
        "next",
        "current",
        "rollback",
        "pending",
        "12",
        "+1",
        "-3",
        "007",
        "<<",
        "\nx",
        "\tx\ny",
        "9223372036854775807",
        "\ud800",
    ],
)
def test_names_that_forklift_refuses_or_could_not_read_back_are_refused(name: str) -> None:
    with pytest.raises(Refused, match="cannot name bundle 1"):
        StageStore().with_name(name, 1)


@pytest.mark.parametrize("name", ["", "1_0", "0x1", "1.0", "next ", "9223372036854775808", "1" * 5000])
def test_names_that_only_look_like_numbers_are_names(name: str) -> None:
    store = StageStore().with_name(name, 1)

    assert StageStore.parse(store.render()).names == {name: 1}
    assert store.without_name(name) == StageStore()


@pytest.mark.parametrize(
    "values", [{"next": 0}, {"next": True}, {"history": (1, -1)}, {"names": {"<<": 1}}, {"names": {"a": 2**63}}]
)
def test_a_store_that_forklift_could_not_have_is_not_made(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"the name|the number"):
        StageStore(**values)  # type: ignore[arg-type]


@given(
    STAGE_STORES,
    st.lists(st.tuples(st.sampled_from(["stage", "ok", "fail", "del", "unset", "pending"]), st.integers(1, 3))),
)
def test_no_step_leaves_what_cannot_be_read_back(store: StageStore, steps: list[tuple[str, int]]) -> None:
    for step, index in steps:
        match step:
            case "stage":
                store = store.staged(index)
                assert (store.applies, store.next_failed) == (index, False)
            case "ok":
                store = store.applied()
            case "fail":
                store = store.apply_failed()
                assert store.next_failed or store.next is None
            case "del":
                store = store.del_bundle(index)
                assert index not in (store.next, *store.history, *store.names.values())
            case "unset":
                store = store.unset_next()
                assert store.next is None
            case _:
                store = store.set_next_result("pending")
        assert StageStore.parse(store.render()) == store
