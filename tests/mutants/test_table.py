"""The mutants follow the source: each edit still applies, and the test that is to notice is still there.

``make mutants`` runs them.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from tests.mutants.run import ROOT, Stale, mutated
from tests.mutants.table import MUTANTS, Edit, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_follows_the_source(mutant: Mutant) -> None:
    """Else correct its text in tests/mutants/table.py: it has to take away the same guard."""
    assert mutated(mutant, ROOT / "abboot")


def test_each_guarantee_that_a_crash_can_break_has_its_mutants() -> None:
    found = Counter(mutant.breaks for mutant in MUTANTS)

    assert all(found[f"G{number}"] >= 5 for number in range(1, 8)), found
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 90


def test_the_tests_that_are_to_notice_exist() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests/crash"]
    found = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    tests = [line.strip().removeprefix("tests/crash/") for line in found.stdout.splitlines() if "::" in line]

    missing = [
        mutant.expect
        for mutant in MUTANTS
        if not any(test == mutant.expect or test.startswith(f"{mutant.expect}[") for test in tests)
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("text that is nowhere", "", "0 times"),
        ("import", "export", "times"),
        ("def text_for(", "def text_for)", "cannot be compiled"),
        ("def text_for(", "def text_for(", "stays as it is"),
    ],
)
def test_a_mutant_that_does_not_follow_is_stale(old: str, new: str, says: str) -> None:
    mutant = Mutant("forged", "G1", "", "", (Edit("core/plan.py", old, new),))

    with pytest.raises(Stale, match=says):
        mutated(mutant, ROOT / "abboot")
