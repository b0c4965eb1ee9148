"""The runner: rounds, deadlines, and checks that misbehave."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from abboot import health
from abboot.health import CheckResult, CommandCheck, Progress, watch

if TYPE_CHECKING:
    from collections.abc import Callable


PACKAGE = Path(__file__).resolve().parents[2] / "abboot"


@attrs.define
class FakeClock:
    now_s: float = 1000.0
    sleeps: list[float] = attrs.field(factory=list)

    def realtime_s(self) -> float:
        return 0.0

    def boottime_s(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now_s += seconds


@attrs.define(kw_only=True)
class Scripted:
    """A foreign check: nothing of abboot in it but the result."""

    act: Callable[[int], Any]
    name: str = "scripted"
    required: bool = True
    timeout_s: float = 5.0
    retries: Any = 0
    runs: int = 0

    def run(self) -> CheckResult:
        self.runs += 1
        found: CheckResult = self.act(self.runs)
        return found


def answer(ok: bool, detail: str = "") -> CheckResult:
    return CheckResult(name="whatever", ok=ok, required=False, detail=detail, duration_s=0.0)


def test_no_check_at_all_is_healthy_and_says_so() -> None:
    report = watch([], stable_for=10, deadline=60, clock=FakeClock())

    assert report.healthy
    assert report.summary == "no health check is configured: the trial is taken as healthy"


def test_it_waits_until_the_checks_are_stable() -> None:
    clock, check = FakeClock(), Scripted(act=lambda run: answer(run >= 4))

    report = watch([check], stable_for=10, deadline=60, interval=1, clock=clock)

    assert report.healthy
    assert report.duration_s == 13  # three failing rounds, then ten seconds of passing ones
    assert check.runs == 14
    assert report.summary == "1 of 1 health checks passed, stable for 10s"


def test_one_flap_makes_it_start_again() -> None:
    report = watch(
        [Scripted(act=lambda run: answer(run != 6))], stable_for=10, deadline=60, interval=1, clock=FakeClock()
    )

    assert report.healthy
    assert report.duration_s == 16


def test_at_the_deadline_it_names_what_fails() -> None:
    clock = FakeClock()

    report = watch(
        [
            Scripted(act=lambda run: answer(True), name="good"),
            Scripted(act=lambda run: answer(False, "no"), name="web"),
        ],
        stable_for=5,
        deadline=timedelta(minutes=1),
        interval=7,
        clock=clock,
    )

    assert not report.healthy
    assert report.summary == "failing after 1min: web (no)"
    assert clock.now_s == 1060
    assert [result.ok for result in report.checks] == [True, False]


def test_a_wanted_check_is_only_reported() -> None:
    wanted = Scripted(act=lambda run: answer(False, "nobody listens"), name="mqtt", required=False)

    report = watch([wanted], deadline=60, clock=FakeClock())

    assert report.healthy
    assert report.summary == "0 of 1 health checks passed; wanted only: mqtt (nobody listens)"


def test_what_a_result_says_about_being_required_is_not_believed() -> None:
    report = watch([Scripted(act=lambda run: answer(False))], deadline=2, clock=FakeClock())

    assert report.checks[0].required
    assert not report.healthy


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda run: 1 // 0, "ZeroDivisionError"),
        (lambda run: sys.exit(0), "SystemExit"),
        (lambda run: None, "AttributeError"),
        (lambda run: attrs.evolve(answer(True), ok="yes"), ""),
        (lambda run: answer(False, "\x1b[2J" + "x" * 10_000_000), "?[2Jxxx"),
    ],
)
def test_a_check_that_breaks_has_failed_and_the_others_go_on(act: Callable[[int], Any], words: str) -> None:
    report = watch([Scripted(act=act), Scripted(act=lambda run: answer(True))], deadline=2, clock=FakeClock())

    assert [result.ok for result in report.checks] == [False, True]
    assert words in report.checks[0].detail
    assert len(report.checks[0].detail) <= 4096


def test_something_that_is_no_check_has_failed() -> None:
    report = watch([object()], deadline=2, clock=FakeClock())  # type: ignore[list-item]

    assert not report.healthy
    assert "not a check" in report.summary


def test_a_check_that_hangs_is_left_behind_and_gets_no_second_thread() -> None:
    release, started = threading.Event(), list[int]()

    def hang(run: int) -> CheckResult:
        started.append(run)
        release.wait(30)
        return answer(True)

    before_s = time.monotonic()
    try:
        report = watch(
            [Scripted(act=hang, name="stuck", timeout_s=0.05), Scripted(act=lambda run: answer(True))],
            deadline=5,
            interval=1,
            clock=FakeClock(),
        )
    finally:
        release.set()

    assert not report.healthy
    assert "stuck (still no answer" in report.summary
    assert started == [1]
    assert time.monotonic() - before_s < 5


def test_a_check_that_comes_back_late_counts_again() -> None:
    release = threading.Event()

    def slow_once(run: int) -> CheckResult:
        if run == 1:
            release.wait(30)
            return answer(False, "late answer of the first run")
        return answer(True)

    def let_go(progress: Progress) -> None:
        release.set()
        time.sleep(0.1)

    report = watch([Scripted(act=slow_once, timeout_s=0.05)], deadline=60, clock=FakeClock(), progress=let_go)

    assert report.healthy


def test_checks_run_side_by_side() -> None:
    together = threading.Barrier(3)  # passes only when three threads wait in it at once

    def meet(run: int) -> CheckResult:
        together.wait(5)
        return answer(True)

    report = watch([Scripted(act=meet, name=str(n)) for n in range(3)], deadline=2, clock=FakeClock())

    assert report.healthy


def test_a_program_that_runs_at_the_deadline_is_stopped_there() -> None:
    before_s = time.monotonic()

    report = watch([CommandCheck(name="sleep", argv=("sleep", "60"), timeout_s=60.0)], deadline=0.3)

    assert not report.healthy
    assert "killed" in report.summary
    assert time.monotonic() - before_s < 3


def test_a_hiccup_does_not_count_where_the_check_may_be_run_again() -> None:
    hiccup, steady = (
        Scripted(act=lambda run: answer(run >= 2), retries=1),
        Scripted(act=lambda run: answer(True), name="steady"),
    )

    report = watch([hiccup, steady], stable_for=3, deadline=9, interval=1, clock=FakeClock())

    assert report.healthy
    assert report.duration_s == 3  # no round failed
    assert hiccup.runs == steady.runs + 1


def test_a_failure_counts_when_every_retry_failed_too() -> None:
    check = Scripted(act=lambda run: answer(False, f"run {run}"), retries=2)

    report = watch([check], deadline=4)

    assert not report.healthy
    assert check.runs >= 3
    assert report.duration_s < 5.5


def test_a_check_that_hangs_is_not_waited_for_once_for_every_retry() -> None:
    release = threading.Event()
    check = Scripted(act=lambda run: release.wait(30), retries=50, timeout_s=0.1)
    before_s = time.monotonic()

    report = watch([check], deadline=0.5)
    release.set()

    assert not report.healthy
    assert time.monotonic() - before_s < 3
    assert check.runs == 1


@pytest.mark.parametrize("retries", [-1, 101, "many"])
def test_retries_that_cannot_be_are_a_failed_check(retries: Any) -> None:
    report = watch([Scripted(act=lambda run: answer(True), retries=retries)], deadline=0.5)

    assert not report.healthy
    assert "not a check" in report.summary


def test_a_built_in_check_is_retried_too(tmp_path: Path) -> None:
    script = f"test -e {tmp_path}/second || {{ touch {tmp_path}/second; exit 1; }}"

    report = watch([CommandCheck(name="flaky", argv=("sh", "-c", script), retries=1)], deadline=30)

    assert report.healthy
    assert report.duration_s >= 1  # a second between the runs


def test_progress_is_told_after_each_round() -> None:
    seen: list[Progress] = []

    watch([Scripted(act=lambda run: answer(True))], stable_for=2, deadline=9, clock=FakeClock(), progress=seen.append)

    assert [(each.elapsed_s, each.stable_s, each.remaining_s) for each in seen] == [(0, 0, 9), (1, 1, 8), (2, 2, 7)]
    assert seen[0].checks[0].ok


@pytest.mark.parametrize(("stable_for", "deadline"), [(60, 60), (-1, 5), (0, 0), (float("nan"), 5)])
def test_times_that_can_never_be_met_are_a_mistake_of_the_caller(stable_for: float, deadline: float) -> None:
    with pytest.raises(ValueError, match="stable_for"):
        watch([], stable_for=stable_for, deadline=deadline)


def test_the_package_stands_alone_and_loads_nothing_that_only_some_checks_need() -> None:
    # A health-check service of somebody else imports it; and status reads the configuration, which imports it too.
    unwanted = "abboot.manager", "abboot.cli", "abboot.linux", "http.client", "subprocess", "socket", "ssl"
    code = f"""
import sys, types
# The package abboot without its __init__, so that only what health itself asks for is loaded.
sys.modules["abboot"] = abboot = types.ModuleType("abboot")
abboot.__path__ = [{str(PACKAGE)!r}]
import abboot.health
print([name for name in {unwanted!r} if name in sys.modules])
"""

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"


def test_everything_public_is_there() -> None:
    assert all(hasattr(health, name) for name in health.__all__)
