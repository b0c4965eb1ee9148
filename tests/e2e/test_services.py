"""Whole cycles under systemd on ext4, with the units as ``abboot install-units`` installs them.

Nobody types anything between the trial's power-on and its end: the early unit, boot-complete.target, the confirmation
and the deadline do it.  ``systemctl reboot`` hands the argument to the kernel.
"""

from __future__ import annotations

import pytest

from tests.e2e.bench import BOOT_S, VERB_S, Bench, EndKind
from tests.e2e.conftest import MakeBench
from tests.e2e.test_updates import outcome, stage, stage_outside, start_trial

pytestmark = pytest.mark.e2e

SERVICES = "--set-cmdline init=/sbin/services"


def test_the_units_commit_an_update_and_systemctl_reboots_into_the_next_one(bench: Bench) -> None:
    bench.boot()
    stage(bench, f"/overlays/v2 {SERVICES}")
    start_trial(bench)

    bench.boot()
    bench.type("until systemctl is-active --quiet abboot-confirm.service; do sleep 1; done", timeout_s=VERB_S)
    for unit in ("boot-complete.target", "application.service", "abboot-note-boot.service", "abboot-deadline.timer"):
        assert bench.type(f"systemctl is-active {unit}").strip() == "active"
    assert bench.autoboot() == {"all": "3", "tryboot": "3"}
    log = [entry["transition"] for entry in bench.abboot("log")["entries"]]
    assert log[-3:] == ["started", "committing", "committed"]
    # What is ordered must have been kept: a unit that systemd dropped to break a cycle is not seen otherwise (H-38).
    assert "ordering cycle" not in bench.type("journalctl -b --no-pager")
    early, complete = (
        int(bench.type(f"systemctl show --property ActiveEnterTimestampMonotonic --value {unit}"))
        for unit in ("abboot-note-boot.service", "boot-complete.target")
    )
    assert early < complete

    stage(bench, "/overlays/v3 --set-cmdline init=/sbin/console")
    start_trial(bench)  # through systemctl: abboot leaves the argument in /run/systemd/reboot-param
    assert bench.boot() == 2
    assert bench.abboot("status")["phase"] == "trial"


def test_a_trial_that_no_unit_confirms_is_ended_by_the_deadline(bench: Bench) -> None:
    words = {"init": "/sbin/services", "systemd.mask": "abboot-confirm.service", "deadline": "60"}
    stage_outside(bench, cmdline=words)
    bench.boot()
    start_trial(bench)

    end = bench.pi.switch_on().finish(timeout_s=BOOT_S)

    assert (end.kind, end.argument) == (EndKind.REBOOT, None)
    assert bench.boot() == 2
    assert outcome(bench) == ("reverted", "failed")
    assert bench.autoboot() == {"all": "2", "tryboot": "2"}


def test_forklifts_store_fits_the_booted_slot_before_anything_is_mounted_from_it(make_bench: MakeBench) -> None:
    """A trial that lost its power: the store says bundle 2, the slot that came back has the boot files of bundle 1."""
    words = "init=/sbin/services forklift=1 systemd.mask=abboot-confirm.service"
    bench = make_bench(append=words)
    bench.boot()
    assert bench.abboot("forklift rebind")["bundle"] == 1
    # What `forklift stage set-next 2` writes; the path unit sees it and stages.
    bench.type("cd /var/lib/forklift/stages && sed -i 's/next: 1/next: 2/' forklift-stage-store.yml && cd / && sync")
    bench.type('until abboot --json status | grep -q \'"state": "staged"\'; do sleep 2; done', timeout_s=2 * VERB_S)
    bench.type("systemctl stop abboot-forklift-store.path")
    start_trial(bench)

    assert bench.boot() == 3
    assert "next: 2" in bench.type("cat /run/overlays-saw")
    bench.type("sync")
    bench.cut()

    assert bench.boot() == 2
    assert "next: 1" in bench.type("cat /run/overlays-saw")
    assert bench.abboot("forklift reconcile")["action"] == "nothing"
