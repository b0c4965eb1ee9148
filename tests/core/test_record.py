"""Record and manifest: the same bytes for the same facts, sha256sum agrees, and hostile ones are refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from abboot.core.record import (
    MANIFEST_MAX_SIZE,
    MANIFEST_PATH,
    RECORD_MAX_SIZE,
    Manifest,
    Record,
    parse_manifest,
    parse_record,
    record_digest,
)
from abboot.core.tree import MAX_FILES, fold, is_reserved
from abboot.core.words import Slot
from abboot.errors import AbbootError, Damaged, InvalidTree, NewerFormat


def record(**changes: Any) -> Record:
    fields: dict[str, Any] = {
        "slot": Slot.B,
        "generation": 2,
        "abboot_version": "0.1.0",
        "label": "Küche",
        "tree_digest": "c" * 64,
        "sources": ("folder trees/new",),
        "annotations": {"build": "2026-11-23", "owner": "häufig"},
        "forklift": {"bundle": {"index": 2, "manifest_sha256": "d" * 64}},
    }
    return Record(**{**fields, **changes})


# -- record -------------------------------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), max_size=12)
lines = texts.filter(str.isprintable)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
records = st.builds(
    Record,
    slot=st.sampled_from(Slot),
    generation=st.integers(1, 10**15),
    abboot_version=lines,
    label=lines,
    tree_digest=st.binary(min_size=32, max_size=32).map(bytes.hex),
    sources=st.lists(texts, max_size=3).map(tuple),
    annotations=st.dictionaries(lines.filter(bool), texts, max_size=3),
    forklift=st.none() | st.dictionaries(texts, json_values, max_size=2),
    unknown=st.dictionaries(lines.map(lambda name: "x-" + name), json_values, max_size=2),
)


@given(records)
def test_a_record_comes_back_as_it_was_written(written: Record) -> None:
    data = written.render()

    assert len(data) <= RECORD_MAX_SIZE
    assert parse_record(data) == written
    assert parse_record(data).render() == data


def test_a_record_is_json_that_a_person_can_read() -> None:
    text = record().render().decode()

    assert json.loads(text)["annotations"] == {"build": "2026-11-23", "owner": "häufig"}
    assert '\n "label": "Küche",\n' in text
    assert text.endswith("}\n")


def test_the_digest_names_slot_and_generation_and_not_only_the_tree() -> None:
    digests = {
        change.digest for change in (record(), record(slot=Slot.A), record(generation=3), record(tree_digest="e" * 64))
    }

    assert len(digests) == 4


def test_the_digest_of_a_record_that_is_found_is_that_of_its_bytes() -> None:
    data = json.dumps(json.loads(record().render())).encode()

    assert parse_record(data) == record()
    assert record_digest(data) == hashlib.sha256(data).hexdigest() != record().digest


def test_the_order_of_annotations_does_not_matter() -> None:
    assert record(annotations={"a": "1", "b": "2"}).render() == record(annotations={"b": "2", "a": "1"}).render()


def test_a_record_that_is_too_large_says_what_takes_the_room() -> None:
    with pytest.raises(AbbootError, match=r"^cannot record the stage: \d+ bytes, at most 2048 fit \(annotations takes"):
        record(annotations={"notes": "x" * 2000}).render()


@pytest.mark.parametrize("size", [RECORD_MAX_SIZE - 1, RECORD_MAX_SIZE])
def test_a_record_up_to_2048_bytes_fits(size: int) -> None:
    empty = len(record(annotations={"notes": ""}).render())

    data = record(annotations={"notes": "x" * (size - empty)}).render()

    assert len(data) == size
    assert parse_record(data).annotations["notes"].startswith("x")


@pytest.mark.parametrize(
    "changes",
    [
        {"label": "two\nlines"},
        {"label": "\x1b[2J"},
        {"annotations": {"": "x"}},
        {"annotations": {"a\nb": "x"}},
        {"annotations": {"a": 1}},
        {"annotations": {"a": "\udce9"}},
    ],
)
def test_what_a_person_chose_wrongly_is_answered_in_a_sentence(changes: dict[str, Any]) -> None:
    with pytest.raises(AbbootError, match=r"^cannot record the ") as caught:
        record(**changes)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "changes",
    [
        {"slot": "b"},
        {"generation": 0},
        {"generation": True},
        {"tree_digest": "x"},
        {"sources": "text"},
        {"forklift": []},
    ],
)
def test_a_record_that_is_not_legal_does_not_exist(changes: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        record(**changes)


def test_a_source_that_is_no_text_is_refused_before_anything_is_written() -> None:
    with pytest.raises(AbbootError, match=r"^cannot record the stage: "):
        record(sources=("folder caf\udce9",)).render()


def test_fields_of_a_newer_abboot_survive_a_rewrite() -> None:
    fields = {**json.loads(record().render()), "format": 7, "colour": ["red"]}

    read = parse_record(json.dumps(fields).encode())

    assert json.loads(attrs.evolve(read, label="new").render())["colour"] == ["red"]


def test_a_record_for_newer_abboots_only_is_refused_as_such() -> None:
    with pytest.raises(NewerFormat, match=r"^cannot read abboot/record.json: it needs record format 9"):
        parse_record(b'{"format": 9, "readable_from": 9}')


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\0" * 2048,
        b"[" * 2000,
        b'{"format":1,"readable_from":true}',
        b'{"format":1,"readable_from":1}',
        b'{"format":1,"readable_from":0}',
        b'{"format":1,"format":1,"readable_from":1}',
        b'{"format":1,"readable_from":1e999}',
        b"\xef\xbb\xbf{}",
        b" " * 2049,
        record().render()[:-3],
        record().render().replace(b'"b"', b'"c"'),
        record().render().replace(b'"generation": 2', b'"generation": -2'),
        record().render().replace(b'"K', b'"\\u001b[2JK'),
    ],
)
def test_what_is_no_record_is_damaged(data: bytes) -> None:
    with pytest.raises(Damaged, match=r"^cannot read abboot/record.json: ") as caught:
        parse_record(data)
    assert caught.value.message.isprintable()


@given(st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()))
def test_garbage_is_damaged_and_nothing_else(data: bytes) -> None:
    with pytest.raises(Damaged):
        parse_record(data)


FIELDS = sorted(json.loads(record().render()))


@given(st.sampled_from(FIELDS), json_values)
def test_a_field_of_the_wrong_kind_is_damaged_or_means_something(name: str, value: object) -> None:
    data = json.dumps({**json.loads(record().render()), name: value}).encode()

    try:
        found = parse_record(data)
    except Damaged:
        return
    assert parse_record(found.render()) == found


# -- manifest -----------------------------------------------------------------------------------------------------

ONE, TWO = "1" * 64, "2" * 64
names = st.text(
    st.characters(codec="utf-8", exclude_characters='"*/:<>?\\|\x7f', min_codepoint=32), min_size=1, max_size=8
)
paths = st.lists(names.filter(lambda name: name[-1] not in ". " and name[0] != " "), min_size=1, max_size=3).map(
    "/".join
)
paths = paths.filter(lambda path: not is_reserved(path))


@given(st.dictionaries(paths, st.binary(min_size=32, max_size=32).map(bytes.hex), min_size=1, max_size=8))
def test_a_manifest_comes_back_as_it_was_written(files: dict[str, str]) -> None:
    assume(len({fold(path) for path in files}) == len(files))
    manifest = Manifest(entries=files.items())
    data = manifest.render()

    assert parse_manifest(data) == manifest
    assert parse_manifest(data).as_dict() == files
    assert manifest.digest == hashlib.sha256(data).hexdigest()


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum (coreutils) is not installed")
@settings(max_examples=10, deadline=None)
@given(
    st.dictionaries(paths.filter(lambda path: len(path.encode()) < 200), st.binary(max_size=20), min_size=1, max_size=5)
)
def test_sha256sum_checks_a_manifest(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    assume("-" not in files)  # sha256sum takes it for its standard input
    folder = tmp_path_factory.mktemp("slot")
    try:
        manifest = Manifest(entries=[(path, hashlib.sha256(data).hexdigest()) for path, data in files.items()])
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
    except (ValueError, OSError):  # one path is the folder of another
        return
    (folder / "abboot").mkdir()
    (folder / MANIFEST_PATH).write_bytes(manifest.render())

    assert _sha256sum(folder) == 0
    (folder / manifest.entries[0][0]).write_bytes(b"changed, and longer than any")
    assert _sha256sum(folder) == 1


def _sha256sum(folder: Path) -> int:
    command = ["sha256sum", "--check", "--strict", "--quiet", MANIFEST_PATH]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode


def test_a_manifest_is_sorted_whatever_order_it_was_made_in() -> None:
    assert Manifest(entries=[("b", TWO), ("a", ONE)]).render() == f"{ONE}  a\n{TWO}  b\n".encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it lists no file"),
        (f"{ONE}  a".encode(), "its last line does not end"),
        (f"{ONE}  a\n\n".encode(), "line 2 is not a digest"),
        (f"{ONE} *a\n".encode(), "line 1 is not a digest"),
        (f"{ONE.replace('1', 'A')}  a\n".encode(), "line 1 is not a digest"),
        (f"{ONE[:-1]}  a\n".encode(), "line 1 is not a digest"),
        (f"\\{ONE}  a\\nb\n".encode(), "line 1 is not a digest"),
        (f"{ONE}  a\r\n".encode(), "FAT allows no '\\r'"),
        (f"{ONE}  b\n{TWO}  a\n".encode(), "line 2 is out of order"),
        (f"{ONE}  a\n{TWO}  a\n".encode(), "line 2 is out of order or twice there"),
        (f"{ONE}  A\n{TWO}  a\n".encode(), "a and A are the same name on FAT"),
        (f"{ONE}  /etc/passwd\n".encode(), "it is absolute"),
        (f"{ONE}  ../etc/passwd\n".encode(), "it has the name '..'"),
        (f"{ONE}  \n".encode(), "it is empty"),
        (f"{ONE}  ABBOOT/record.json\n".encode(), "is not part of a tree"),
        (f"{ONE}  caf\xe9\n".encode("latin-1"), "is not UTF-8"),
        (b"\0" * 512, "its last line does not end"),
        (b"x" * (MANIFEST_MAX_SIZE + 1), "a manifest has at most"),
    ],
)
def test_what_is_no_manifest_is_damaged(data: bytes, reason: str) -> None:
    with pytest.raises(Damaged, match=r"^cannot read abboot/manifest.sha256: ") as caught:
        parse_manifest(data)
    assert reason in caught.value.message
    assert caught.value.message.isprintable()


@given(st.binary(max_size=300))
def test_a_garbage_manifest_is_damaged(data: bytes) -> None:
    with pytest.raises(Damaged):
        parse_manifest(data)


def test_a_manifest_of_too_many_files_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        Manifest(entries=[(f"f{n}", ONE) for n in range(MAX_FILES + 1)])


def test_a_manifest_over_4_mib_is_refused() -> None:
    manifest = Manifest(entries=[(f"{n:05}" + "n" * 200, ONE) for n in range(16000)])

    with pytest.raises(InvalidTree, match="at most 4194304"):
        manifest.render()
