"""The table of hazards: complete, each row with a way to see it or a reason, and nothing cited that is not in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from abboot.core.hazards import HAZARDS, Hazard
from abboot.doctor.probes import PROBES

ROOT = Path(__file__).resolve().parents[2]


def test_there_are_54_in_order() -> None:
    assert list(HAZARDS) == [f"H-{number:02}" for number in range(1, 55)]


@pytest.mark.parametrize("hazard", HAZARDS.values(), ids=list(HAZARDS))
def test_a_hazard_is_seen_by_a_probe_or_says_why_not(hazard: Hazard) -> None:
    assert bool(hazard.seen) is not bool(hazard.unseen)
    assert hazard.detectable is (hazard.id in PROBES)


@pytest.mark.parametrize("hazard", HAZARDS.values(), ids=list(HAZARDS))
def test_a_hazard_says_what_it_does_what_helps_and_who_says_so(hazard: Hazard) -> None:
    for text in (hazard.title, hazard.effect, hazard.seen or hazard.unseen, hazard.remedy, hazard.source):
        assert text == text.strip()
        assert text
        assert not text.endswith(".")


def test_every_number_that_the_code_cites_is_in_the_table() -> None:
    cited = {
        number for path in (ROOT / "abboot").rglob("*.py") for number in re.findall(r"H-\d\d", path.read_text("utf-8"))
    }

    assert cited - set(HAZARDS) == set()
