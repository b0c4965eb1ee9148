"""Every verb that changes a card is cut somewhere, and every other one leaves the card as it is."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from abboot.cli.parser import make_parser
from abboot.cli.verbs import VERBS
from abboot.core.words import Slot
from abboot.errors import Refused
from abboot.manager import BootManager
from tests.cards import CardPi, new_pi, tree
from tests.cli.command import abboot, everything_in
from tests.crash.scenarios import CUT, SCENARIOS, UNCHANGING, Act, arm, beginning, does, garble, stage, trial

WHAT_TO_DO = (
    "tests/crash/scenarios.py has to know it: give it a Scenario in SCENARIOS (where it begins, what is cut, what a "
    "script would run afterwards) and name that in CUT; or, if it changes no card, put it into UNCHANGING"
)


def verbs() -> list[str]:
    """Every verb with its action, as ``image build``."""
    return list(_below(make_parser()))


def _below(parser: argparse.ArgumentParser, *names: str) -> Iterator[str]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield " ".join(names)
    for group in groups:
        for name, below in group.choices.items():
            yield from _below(below, *names, name)


def test_every_verb_is_cut_or_leaves_the_card_as_it_is() -> None:
    assert {verb.split()[0] for verb in verbs()} == set(VERBS)

    unknown = [verb for verb in verbs() if verb not in CUT and verb not in UNCHANGING]
    assert not unknown, f"`abboot {unknown[0]}` is cut nowhere: {WHAT_TO_DO}"
    assert not CUT.keys() & UNCHANGING.keys()
    assert CUT.keys() | UNCHANGING.keys() <= set(verbs()), "verbs that are no more"


def test_every_case_belongs_to_a_verb() -> None:
    assert set(itertools.chain.from_iterable(CUT.values())) == set(SCENARIOS), WHAT_TO_DO


SITUATIONS: dict[str, Act] = {
    "as it was built": lambda pi: None,
    "armed": does(stage("v2"), arm),
    "in a trial": does(stage("v2"), trial),
    "damaged": garble,
}
#: These need a whole autoboot.txt, or say with exit code 1 that something is wrong.
MAY_FAIL = {"verify", "doctor", "forklift status", "forklift rebind", "install-units", "image inspect", "simulate run"}


@pytest.mark.parametrize("verb", UNCHANGING)
def test_a_verb_that_is_not_cut_leaves_the_card_as_it_is(verb: str, tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text('[disk]\nid = "ab007e57"\n[selector]\nsize = "17 MiB"\n[slots]\nsize = "3 MiB"\n')
    for situation, act in SITUATIONS.items():
        place = tmp_path / situation
        place.mkdir()
        pi = new_pi()
        act(pi)
        card = pi.card.save(place / "card.img")
        pi.save(card)
        before = everything_in(place)[card.name]
        words = {"FOLDER": place / "folder", "SPEC": spec, "TREE": tree("v1"), "CARD": card, "NEW": place / "new.img"}
        words["FOLDER"].mkdir()

        ran = abboot("--sim", card, *verb.split(), *(words.get(word, word) for word in UNCHANGING[verb]))

        assert ran.code in ((0, 1) if verb in MAY_FAIL else (0,)), ran
        assert everything_in(place)[card.name] == before, f"`abboot {verb}` changes a card that is {situation}"


# -- the library ------------------------------------------------------------------------------------------------------

READS: dict[str, Callable[[BootManager], object]] = {
    "status": BootManager.status,
    "log": BootManager.log,
    "verify": lambda manager: manager.verify(Slot.A),
    "survey": BootManager.survey,
    "look": BootManager.look,
    "check_board": BootManager.check_board,
    "check_idle": lambda manager: manager.check_idle("try a slot"),
    "stage": lambda manager: manager.stage(tree("v2"), dry_run=True),
    "repair": lambda manager: manager.repair(dry_run=True),
}
MAKES = {"from_system", "open", "close"}  # or unmakes one
REBOOTS = {"reboot"}  # and writes nothing


def methods() -> dict[str, object]:
    """The public methods of a manager, with their code."""
    found = {name: getattr(value, "__func__", value) for name, value in vars(BootManager).items() if name[0] != "_"}
    return {name: value.__code__ for name, value in found.items() if hasattr(value, "__code__")}


def called(act: Act, pi: CardPi) -> set[object]:
    """The code that ran in it."""
    found: set[object] = set()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            found.add(frame.f_code)

    sys.setprofile(note)
    try:
        act(pi)
    finally:
        sys.setprofile(None)
    return found


def test_every_method_that_changes_a_card_is_cut() -> None:
    cut = set[object]()
    for name in {names[0] for names in CUT.values()} | {"leave an unhealthy b", "fall back from b"}:
        cut |= called(SCENARIOS[name].verb, beginning(name).again())

    unknown = [
        name for name, code in methods().items() if code not in cut and name not in READS.keys() | MAKES | REBOOTS
    ]
    assert not unknown, f"BootManager.{unknown[0]} is cut nowhere: {WHAT_TO_DO}; one that only reads goes into READS"


def test_a_reboot_of_an_adapter_writes_nothing_and_is_refused_where_it_would_be_another() -> None:
    pi = new_pi()
    before, boots = pi.card.digest(), pi.state.boot_count

    assert pi.manager().reboot(reason="told so").rebooting

    assert (pi.card.digest(), pi.state.boot_count) == (before, boots + 1)
    for act in (SITUATIONS["armed"], SITUATIONS["in a trial"]):
        act(pi := new_pi())
        with pytest.raises(Refused, match="cannot reboot"):
            pi.manager().reboot(reason="told so")


@pytest.mark.parametrize("name", READS)
def test_a_method_that_only_reads_writes_nothing(name: str) -> None:
    for situation, act in SITUATIONS.items():
        if situation == "damaged" and name in ("stage", "check_board"):
            continue  # refused
        if situation == "in a trial" and name == "stage":
            continue
        pi = new_pi()
        act(pi)
        before, state = pi.card.digest(), pi.state
        writes = pi.disk.record()

        READS[name](pi.manager())

        assert writes == []
        assert pi.card.digest() == before
        assert pi.state == state
