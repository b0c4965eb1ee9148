"""What a slot is bound to: on the slot itself, and beside the store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abboot.core.canonical import load_json
from abboot.core.words import Slot
from abboot.errors import DeviceError
from abboot.forklift.binding import Binding, from_record, read_binding, to_record, write_binding
from abboot.forklift.bundle import Bundle
from tests.forklift.device import text

DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
BINDINGS = st.builds(
    Binding,
    slot=st.sampled_from(Slot),
    record_digest=DIGESTS,
    bundle=st.integers(1, 2**53 - 1),
    sha256=DIGESTS,
    payload=st.none() | DIGESTS,
    pallet=st.text("abc/.-é ", max_size=20),
    version=st.text("v0123.", max_size=12),
    store=st.binary(max_size=80).map(lambda data: data.hex().encode()),
)
ONE = Binding(slot=Slot.A, record_digest="a" * 64, bundle=3, sha256="b" * 64, payload="c" * 64, store=text(3, [1, 3]))


@given(BINDINGS)
@settings(max_examples=50)
def test_what_is_written_is_read_back_and_written_once(tmp_path_factory: pytest.TempPathFactory, one: Binding) -> None:
    folder = str(tmp_path_factory.mktemp("store"))

    assert write_binding(folder, one) is True
    assert write_binding(folder, one) is False

    assert read_binding(folder, one.slot) == one
    assert read_binding(folder, one.slot.other) is None
    assert os.listdir(folder) == [f"abboot-slot-{one.slot}.json"]


def test_one_slots_file_never_costs_the_others(tmp_path: Path) -> None:
    other = attrs.evolve(ONE, slot=Slot.B, record_digest="d" * 64, bundle=4)
    write_binding(str(tmp_path), ONE)

    write_binding(str(tmp_path), other)

    assert (read_binding(str(tmp_path), Slot.A), read_binding(str(tmp_path), Slot.B)) == (ONE, other)


def test_what_a_cut_left_beside_it_is_no_obstacle_and_no_way_out(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / "abboot-slot-a.json.new").symlink_to(victim)

    write_binding(str(tmp_path), ONE)

    assert victim.read_bytes() == b"mine"
    assert read_binding(str(tmp_path), Slot.A) == ONE


KILLED_AT = """
import os, sys
from abboot.core.words import Slot
from abboot.forklift.binding import Binding, read_binding, write_binding
folder, left = sys.argv[1], int(sys.argv[2])
old = read_binding(folder, Slot.A)
def hook(event, args):
    global left
    if event in ("open", "os.remove", "os.rename") and folder in str(args[0]):
        left -= 1
        if left < 0:
            os._exit(9)
sys.addaudithook(hook)
write_binding(folder, Binding(slot=Slot.A, record_digest="e" * 64, bundle=9, sha256=old.sha256, payload=None))
"""


def test_a_process_that_is_killed_at_any_step_leaves_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    found = []
    for steps in range(12):
        write_binding(str(tmp_path), ONE)
        words = [sys.executable, "-c", KILLED_AT, str(tmp_path), str(steps)]
        ran = subprocess.run(words, check=False, cwd=Path(__file__).parents[2])
        kept = read_binding(str(tmp_path), Slot.A)
        assert kept is not None
        found.append(kept.bundle)
        if ran.returncode == 0:
            break
        assert ran.returncode == 9

    assert found == sorted(found)  # old ones, then new ones
    assert (found[0], found[-1]) == (ONE.bundle, 9)
    assert found.count(9) >= 2  # it was killed after the rename too


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceError):
        write_binding(str(tmp_path / "nowhere"), ONE)


@pytest.mark.parametrize(
    "change",
    [
        {"slot": "b"},
        {"record_digest": "x"},
        {"bundle": 0},
        {"bundle": "3"},
        {"sha256": None},
        {"payload": 7},
        {"store": None},
        {"readable_from": 2},
        {"readable_from": True},
    ],
    ids=repr,
)
def test_what_makes_no_sense_is_as_good_as_nothing(tmp_path: Path, change: dict[str, object]) -> None:
    write_binding(str(tmp_path), ONE)
    path = tmp_path / "abboot-slot-a.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}))

    assert read_binding(str(tmp_path), Slot.A) is None


def test_fields_of_a_newer_abboot_that_this_one_may_read_are_no_obstacle(tmp_path: Path) -> None:
    write_binding(str(tmp_path), ONE)
    path = tmp_path / "abboot-slot-a.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "format": 2, "more": [1]}))

    assert read_binding(str(tmp_path), Slot.A) == ONE


@given(st.binary(max_size=200), st.integers(0, 300))
@settings(max_examples=60)
def test_any_bytes_in_its_place_are_nothing(tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int) -> None:
    folder = tmp_path_factory.mktemp("store")
    write_binding(str(folder), ONE)
    path = folder / "abboot-slot-a.json"
    whole = path.read_bytes()

    path.write_bytes(whole[:at])
    assert read_binding(str(folder), Slot.A) is None
    path.write_bytes(data)
    assert read_binding(str(folder), Slot.A) is None


def test_a_record_covers_the_text_that_lies_beside_it() -> None:
    bundle = Bundle(index=3, sha256="b" * 64, payload="c" * 64, pallet="p", version="v1", clean=False)
    store = text(3, [1])
    fields = load_json(json.dumps(to_record(bundle, store, b"")).encode(), "a record")

    own = from_record(Slot.B, "d" * 64, fields, store)
    changed = from_record(Slot.B, "d" * 64, fields, text(3, [2]))

    assert own is not None
    assert (own.bundle, own.pallet, own.version, own.store) == (3, "p", "v1", store)
    assert changed == attrs.evolve(own, store=b"")
    assert from_record(Slot.B, "d" * 64, None, store) is None


@given(st.dictionaries(st.sampled_from([*to_record(Bundle(index=1), b"", b"")]), st.none() | st.integers() | st.text()))
@settings(max_examples=60)
def test_a_record_of_anything_else_is_bound_to_nothing(fields: dict[str, object]) -> None:
    found = from_record(Slot.A, "d" * 64, fields, b"")

    assert found is None or found.bundle == fields["bundle"]
