"""What ``make crash`` looks at, and what it says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.crash.publish import BEGIN, END, PAGE, publish, section
from tests.crash.run import Done, Work, all_work, main, report, run, table
from tests.crash.scenarios import SCENARIOS


def test_every_scenario_is_looked_at_in_both_ways_beside_search_and_state_machine() -> None:
    work = all_work([], share=1.0, seed=3)

    for kind in ("states", "cuts"):
        assert {one.name for one in work if one.kind == kind} == set(SCENARIOS)
    depths = [one.arguments[1] for one in work if one.kind == "states"]
    assert all(depth.samples >= 100_000 and depth.torn is None and depth.strangers is None for depth in depths)
    seeds = [one.arguments[0] for one in work if one.kind == "life"]
    assert len(set(seeds)) == len(seeds) > 1
    assert {one.name for one in work if one.kind == "search"} == {"no fault", "one fault"}


def test_a_short_look_is_printed_as_a_table_and_kept_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("parted", reason="pyparted is not installed (pip install 'abboot[image]')")

    assert main(["--share", "0.001", "--jobs", "2", "--json", str(tmp_path / "crash.json"), "commit b"]) == 0

    found = json.loads((tmp_path / "crash.json").read_text())
    assert found["violations"] == 0
    (row,) = found["cases"]
    assert (row["case"], row["verb"]) == ("commit b", "commit")
    assert row["cuts"] == 3 * (row["writes"] + 1)
    assert found["total"]["states"] == row["states"] > 0
    printed = capsys.readouterr().out
    assert table(found) in printed
    assert f"| commit b | {row['writes']} |" in printed


def fails() -> dict[str, int]:
    raise AssertionError("G1: it boots the wrong slot")


def is_skipped() -> dict[str, int]:
    pytest.skip("mdel is not installed")


@pytest.mark.parametrize(("does", "says"), [(fails, "G1: it boots the wrong slot"), (is_skipped, "mdel")])
def test_what_is_violated_or_could_not_be_looked_at_is_counted(does: object, says: str) -> None:
    done = run(Work(kind="states", name="commit b", does=does, arguments=(), long=1.0))  # type: ignore[arg-type]

    assert says in done.problem
    found = report([done], seed=0, seconds=1.0)
    assert found["violations"] == 1
    assert "violations: 1" in table(found)


def test_the_figures_are_put_between_the_marks_of_the_page() -> None:
    work = Work(kind="search", name="no fault", does=fails, arguments=(), long=1.0)
    done = Done(work=work, numbers={"states": 17726, "actions": 661947, "depth": 12}, problem="", seconds=1.0)
    mutants = {"mutants": 3, "killed": 3, "guarantees": {"G1": 1, "G2": 2}}
    text = section(report([done], seed=0, seconds=60.0), mutants)

    assert "17,726 states, 661,947 actions, depth 12" in text
    assert "3 of 3 were noticed (1 of G1, 2 of G2)" in text
    once = publish(PAGE.read_text(encoding="utf-8"), text)
    assert once.count(text) == once.count(BEGIN) == once.count(END) == 1
    assert publish(once, text) == once
    with pytest.raises(ValueError, match="the page has no"):
        publish("another page", text)
