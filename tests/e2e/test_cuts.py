"""Power cuts with a real kernel between abboot and the card: before, during and after what an update writes.

A cut is SIGKILL for the emulator, at a write that is counted (:mod:`abboot.simulator.recording`).  ``make cuts`` draws
hundreds of them (:mod:`tests.e2e.test_many_cuts`).
"""

from __future__ import annotations

import pytest

from tests.e2e.bench import Bench
from tests.e2e.test_updates import stage_outside, start_trial

pytestmark = pytest.mark.e2e

NEVER = 1 << 30


@pytest.mark.parametrize("number", [1, 300, NEVER], ids=["before", "during", "after"])
def test_a_stage_that_is_cut_boots_the_primary_and_is_done_again(bench: Bench, number: int) -> None:
    log = bench.folder / "log"
    bench.boot(record=log)
    written = bench.cut_at_write(number, "abboot stage --base booted /overlays/v2", log)
    assert written >= 500 if number == NEVER else number <= written <= number + 50

    # Until everything is written and read back no path of the firmware can reach the slot (G2).
    assert bench.hidden("b") is (number == 300)
    assert bench.boot() == 2
    status = bench.abboot("status")
    # Where the journal says that a stage began and the slot is as it was, nobody knows any more what is on it.
    expected = {1: ("good", "unknown", "incomplete"), 300: ("incomplete",), NEVER: ("staged",)}
    assert status["slots"]["b"]["state"] in expected[number]
    again = bench.abboot("stage --base booted /overlays/v2")
    assert again["changed"] is (number != NEVER)
    bench.fsck("selector", "a", "b")


@pytest.mark.parametrize("number", [1, 3, NEVER], ids=["before", "during", "after"])
def test_an_arm_that_is_cut_boots_the_primary_and_can_be_tried(bench: Bench, number: int) -> None:
    stage_outside(bench)
    log = bench.folder / "log"
    bench.boot(record=log)
    bench.cut_at_write(number, "abboot trial --no-reboot", log)

    assert bench.boot() == 2
    bench.abboot("confirm")
    status = bench.abboot("status")
    assert (status["phase"], status["primary"]) == ("settled", "a")
    assert bench.autoboot() == {"all": "2", "tryboot": "2"}
    bench.fsck("selector", "a", "b")


@pytest.mark.parametrize("number", [1, 4, NEVER], ids=["before", "during", "after"])
def test_a_commit_that_is_cut_boots_a_good_slot_and_an_acknowledged_one_stays(bench: Bench, number: int) -> None:
    stage_outside(bench)
    bench.boot()
    start_trial(bench)
    log = bench.folder / "log"
    bench.boot(record=log)
    bench.cut_at_write(number, "abboot commit", log)
    acknowledged = "is the primary now" in bench.run.console
    assert acknowledged is (number == NEVER)

    committed = bench.autoboot()["all"] == "3"
    assert committed or not acknowledged
    assert bench.boot() == (3 if committed else 2)
    bench.abboot("confirm")
    status = bench.abboot("status")
    assert (status["phase"], status["primary"]) == ("settled", "b" if committed else "a")
    bench.fsck("selector", "a", "b")
