"""``abboot forklift``: what it prints, its JSON, and its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import abboot, everything_in, new_card, refused, said
from tests.forklift.device import CAN, PINS, SWAP, ForkliftStore, text


@pytest.fixture
def card(tmp_path: Path) -> Path:
    return new_card(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> ForkliftStore:
    """Bundle 1 is applied, and brings no boot files."""
    store = ForkliftStore(tmp_path / "stages")
    store.folder.mkdir()
    store.path.write_bytes(text(store.build({}), [1]))
    return store


def words(card: Path, store: ForkliftStore, *more: object) -> tuple[object, ...]:
    return ("--sim", card, "forklift", *more, "--store", store.folder)


def test_the_whole_life_of_a_bundle(card: Path, store: ForkliftStore) -> None:
    def run(*more: object) -> dict[str, object]:
        return said(*words(card, store, *more))

    fresh = run("status")
    assert (fresh["next"], fresh["current"], fresh["pending"]["need"]) == (1, 1, "rebind")
    assert fresh["slots"]["a"]["bundle"] is None
    bound = run("rebind")
    assert (bound["changed"], bound["slot"], bound["bundle"]) == (True, "a", 1)
    assert run("rebind")["changed"] is False

    store.plt_stage(CAN)
    assert run("status")["pending"] == {
        "need": "stage",
        "bundle": 2,
        "why": "bundle 2 has other boot files than slot a: stage it",
    }
    staged = run("stage")
    assert (staged["needed"], staged["changed"], staged["slot"], staged["bundle"]) == (True, True, "b", 2)
    assert run("stage")["bytes_written"] == 0
    shown = said("--sim", card, "status")["slots"]["b"]["record"]["forklift"]
    assert (shown["bundle"], shown["pallet"]) == (2, "github.com/example/pallet-boot")

    said("--sim", card, "trial", "--record", staged["record_digest"])
    assert run("reconcile") == {
        "schema": 1,
        "ok": True,
        "action": "nothing",
        "why": "the store fits the booted slot",
        "changed": False,
        "swap_removed": False,
        "booted": "b",
        "next": 2,
        "left_trial": False,
        "problems": [],
    }
    store.apply()
    assert run("rebind")["bundle"] == 2
    said("--sim", card, "confirm")
    settled = run("status")
    assert (settled["booted"], settled["history"], settled["names"]) == ("b", [1, 2], PINS)
    assert (settled["pending"]["need"], settled["last_trial"]["outcome"]) == ("nothing", "committed")

    store.plt_stage(CAN)
    again = run("stage", "next")
    assert (again["needed"], again["changed"], again["slot"]) == (False, False, None)


def test_early_boot_after_a_cut_is_told_to_people(card: Path, store: ForkliftStore) -> None:
    abboot(*words(card, store, "rebind"))
    store.plt_stage(CAN)
    abboot(*words(card, store, "stage"))
    (store.folder / SWAP).write_bytes(b"half")

    ran = abboot(*words(card, store, "reconcile"))

    assert (ran.code, ran.err) == (0, "")
    said_first, said_then = ran.out.splitlines()
    assert said_first.startswith("restored: bundle 2 has other boot files than the booted slot: next is bundle 1 again")
    assert said_first.endswith("boot-pending names the other")
    assert said_then == "the swap file of an interrupted write is removed"
    shown = abboot(*words(card, store, "status")).out
    assert "resume: the update to bundle 2 was interrupted" in shown
    assert "to do    forklift stage set-next boot-pending" in shown


def test_a_trial_whose_bundle_is_gone_is_left_at_early_boot(card: Path, store: ForkliftStore) -> None:
    said(*words(card, store, "rebind"))
    store.plt_stage(CAN)
    said(*words(card, store, "stage"))
    store.delete(2)
    said("--sim", card, "trial")

    done = said(*words(card, store, "reconcile"))

    assert (done["action"], done["left_trial"], done["boot"]["slot"]) == ("stuck", True, "a")
    assert said("--sim", card, "confirm")["outcome"] == "reverted"


@pytest.mark.parametrize("what", ["no card", "no store", "bad configuration"])
def test_early_boot_goes_on_whatever_is_wrong(tmp_path: Path, card: Path, store: ForkliftStore, what: str) -> None:
    config = tmp_path / "abboot.toml"
    config.write_text("[forklift\n" if what == "bad configuration" else "")
    if what == "no card":
        card = tmp_path / "none.img"
    if what == "no store":
        store = ForkliftStore(tmp_path / "nowhere")

    done = said("--config", config, *words(card, store, "reconcile"))
    ran = abboot("--config", config, *words(card, store, "reconcile"))

    assert (done["ok"], done["changed"]) == (False, False)
    assert done["problems"] or "nowhere" in done["why"]
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("stuck: cannot ")


def test_what_cannot_be_staged_is_refused_with_a_way_out(card: Path, store: ForkliftStore) -> None:
    assert "no bundle" in refused(*words(card, store, "stage", "nonsense"))["message"].replace(
        "none of that", "no bundle"
    )
    store.build({"a:b": b""})
    error = refused(*words(card, store, "stage", 2))
    assert (error["type"], "a:b" in error["message"]) == ("InvalidTree", True)
    store.path.write_bytes(b"")
    error = refused(*words(card, store, "stage"))
    assert (error["type"], "empty" in error["message"]) == ("StoreDamaged", True)


def test_reading_and_dry_runs_write_nothing(tmp_path: Path, card: Path, store: ForkliftStore) -> None:
    store.plt_stage(CAN)
    before = everything_in(tmp_path)

    for more in (("status",), ("stage", "--dry-run"), ("reconcile", "--dry-run")):
        said(*words(card, store, *more))

    assert everything_in(tmp_path) == before


def test_the_store_is_where_the_configuration_says_below_a_sysroot(tmp_path: Path, store: ForkliftStore) -> None:
    root = tmp_path / "root"
    place = root / "data" / "stages"
    place.parent.mkdir(parents=True)
    store.folder.rename(place)
    (root / "etc").mkdir()
    (root / "etc/abboot.toml").write_text('[forklift]\nstore = "/data/stages"\n')
    card = new_card(tmp_path, "other.img")

    found = said("--sysroot", root, "--disk", card, "forklift", "status")

    assert (found["folder"], found["next"], found["problem"]) == (str(place), 1, "")


def test_a_hostile_bundle_writes_no_order_to_a_terminal(card: Path, store: ForkliftStore) -> None:
    store.plt_stage(CAN)
    path = store.folder / "2" / "forklift-bundle.yml"
    path.write_bytes(path.read_bytes().replace(b"pallet-boot", b"\x1b[2Jpallet\x07"))

    out = abboot(*words(card, store, "stage")).out + abboot(*words(card, store, "status")).out

    assert "\x1b" not in out
    assert "\x07" not in out


@pytest.mark.parametrize("action", ["status", "stage", "rebind", "store-changed"])
def test_a_simulated_pi_never_gets_the_store_of_this_system(card: Path, action: str) -> None:
    assert "which stage store belongs to" in refused("--sim", card, "forklift", action)["message"]


def test_what_forklift_would_drop_is_told(card: Path, store: ForkliftStore) -> None:
    store.path.write_bytes(store.data + b"    weird: 3 # ours\n")

    printed = abboot(*words(card, store, "status")).out

    assert "staged.weird, line 6: # ours" in printed
