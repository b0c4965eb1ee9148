"""One function for each hazard that can be seen: from :class:`~abboot.doctor.facts.Facts` to what was found.

Rules: pure functions.  A probe yields what it found; it yields nothing where everything needed was seen and is fine;
where something it needs was not told, :func:`known` ends it, and the hazard counts as not seen.  Sentences say the
values found.  Dates and their sources are in :mod:`abboot.core.firmware`, or beside the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import date
from typing import TypeVar

import attrs

from abboot.core.firmware import Board, Family
from abboot.core.hazards import Severity
from abboot.core.tree import look_at_tree, shown
from abboot.core.words import Phase, TableKind
from abboot.doctor.facts import Card, Facts, System, Tree

_T = TypeVar("_T")


@attrs.frozen(kw_only=True)
class Found:
    """Something a probe found; ``severity`` where it is milder than the hazard at its worst."""

    text: str
    severity: Severity | None = None
    remedy: str = ""


class Unseen(Exception):
    """A probe cannot tell; the message says why."""


Probe = Callable[[Facts], Iterator[Found]]
PROBES: dict[str, Probe] = {}


def probe(hazard: str) -> Callable[[Probe], Probe]:
    """Register the probe of a hazard; each has one."""

    def register(function: Probe) -> Probe:
        assert hazard not in PROBES, hazard
        PROBES[hazard] = function
        return function

    return register


def known(value: _T | None, why: str) -> _T:
    """``value``, which somebody told; else the probe ends here."""
    if value is None:
        raise Unseen(why or "it cannot be seen from here")
    return value


def system_of(facts: Facts) -> System:
    """The running system; unseen offline.  The functions below do the same for what they are named after."""
    return known(facts.system, "no running system was looked at")


def board_of(facts: Facts) -> Board:
    return known(system_of(facts).board, "the model of the board is not known")


def bootloader_of(facts: Facts) -> date:
    return known(system_of(facts).bootloader, "the bootloader does not tell its build date")


def card_of(facts: Facts) -> Card:
    return known(facts.card, "no disk was looked at")


def trees_of(facts: Facts) -> tuple[Tree, ...]:
    if not facts.trees:
        raise Unseen("no slot can be read")
    return facts.trees


def eeprom_of(facts: Facts) -> Mapping[str, str]:
    return known(system_of(facts).eeprom, "the bootloader's configuration cannot be read from here")


def is_signed(facts: Facts) -> bool:
    """Whether the board boots signed images only: bit 0 of ``chosen/bootloader/signed`` (device-tree.adoc)."""
    system = system_of(facts)
    if system.report is None:
        raise Unseen("the firmware told nothing about the bootloader")
    return bool((system.signed or 0) & 1)


def start_builds(facts: Facts) -> Iterator[tuple[Tree, str, date]]:
    """The build date of the start*.elf that matters on this board; unknown dates count as new enough."""
    system = facts.system
    family = system.board.family if system is not None and system.board is not None else None
    wanted = {Family.PI4: ("start4.elf",), Family.PI0_3: ("start.elf",), Family.PI5: ()}
    names = ("start4.elf", "start.elf") if family is None else wanted[family]
    for tree in trees_of(facts):
        for name in names:
            built = tree.builds.get(name)
            if built is not None:
                yield tree, name, built


def is_gpt(facts: Facts) -> bool:
    return known(card_of(facts).table, card_of(facts).problem).kind is TableKind.GPT


def is_pi5(facts: Facts) -> bool:
    return facts.system is not None and facts.system.board is not None and facts.system.board.family is Family.PI5


def remarks(facts: Facts, hazard: str) -> Iterator[Found]:
    """What ``stage`` warns about too: one implementation, in :mod:`abboot.core.tree` (G11)."""
    for tree in trees_of(facts):
        for remark in look_at_tree(tree.files, tree.texts):
            if remark.hazard == hazard:
                yield Found(text=f"{tree.name}: {remark.text}")


def some(names: list[str]) -> str:
    """The first few names, for a sentence."""
    listed = ", ".join(shown(name) for name in names[:3])
    return f"{listed} and {len(names) - 3} more" if len(names) > 3 else listed


def tree_of_trial(facts: Facts) -> Tree | None:
    """The tree that the next trial would boot, or the one that runs: whose settings decide what brings it back."""
    if facts.folder is not None or facts.card is None:
        return facts.folder
    card = facts.card
    for slot in (card.booted if card.phase is Phase.TRIAL else card.inactive, card.booted, card.primary):
        there = card.slot(slot) if slot is not None else None
        if there is not None and there.tree is not None:
            return there.tree
    return None
