"""When a history of rounds counts as healthy."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st

from abboot.core.health import MAX_SUMMARY, CheckResult, History, Round, Verdict, printable, report, verdict


def result(ok: bool, *, name: str = "web", required: bool = True, detail: str = "") -> CheckResult:
    return CheckResult(name=name, ok=ok, required=required, detail=detail, duration_s=0.0)


def history_of(*rounds: tuple[float, float, bool]) -> History:
    history = History()
    for started_s, finished_s, ok in rounds:
        history = history.add(Round(started_s=started_s, finished_s=finished_s, results=(result(ok),)))
    return history


def judge(history: History, *, stable_for_s: float = 10, deadline_s: float = 100, now_s: float = 50) -> Verdict:
    return verdict(history, stable_for_s=stable_for_s, deadline_s=deadline_s, now_s=now_s)


def test_no_round_yet_is_waiting_and_at_the_deadline_unhealthy() -> None:
    assert judge(History()) is Verdict.WAITING
    assert judge(History(), now_s=100) is Verdict.UNHEALTHY


def test_one_passing_round_is_enough_when_no_stability_is_asked_for() -> None:
    assert judge(history_of((0, 1, True)), stable_for_s=0) is Verdict.HEALTHY
    assert judge(history_of((0, 1, False)), stable_for_s=0) is Verdict.WAITING


def test_stability_counts_from_the_end_of_the_first_passing_round_to_the_start_of_the_latest() -> None:
    assert judge(history_of((0, 4, True), (13.9, 15, True))) is Verdict.WAITING
    assert judge(history_of((0, 4, True), (14, 15, True))) is Verdict.HEALTHY


def test_one_slow_round_proves_no_stability() -> None:
    assert judge(history_of((0, 30, True))) is Verdict.WAITING


def test_one_failure_starts_the_count_again() -> None:
    history = history_of((0, 0, True), (9, 9, False), (10, 10, True), (19, 19, True))

    assert judge(history) is Verdict.WAITING
    assert judge(history.add(Round(started_s=20, finished_s=20, results=(result(True),)))) is Verdict.HEALTHY


def test_a_wanted_check_never_decides_and_is_named() -> None:
    results = (result(True), result(False, name="clock", required=False, detail="not synchronized"))
    history = History().add(Round(started_s=0, finished_s=0, results=results))

    assert judge(history, stable_for_s=0) is Verdict.HEALTHY
    told = report(history, healthy=True, stable_for_s=0, duration_s=0.0)
    assert told.summary == "1 of 2 health checks passed; wanted only: clock (not synchronized)"


def test_the_summary_names_what_fails_and_why_on_one_short_line() -> None:
    results = tuple(result(False, name=f"check {n}", detail="exit status 1\nnoise\nno disk\n") for n in range(60))
    history = History().add(Round(started_s=0, finished_s=0, results=results))

    summary = report(history, healthy=False, stable_for_s=0, duration_s=300.0).summary

    assert summary.startswith("failing after 5min: check 0 (exit status 1 no disk), check 1 (")
    assert len(summary) <= MAX_SUMMARY
    assert "\n" not in summary


def test_checks_that_pass_at_the_deadline_but_failed_before_are_blamed_by_name() -> None:
    history = history_of((0, 0, False), (9, 9, True))

    assert "not stable for 10s within 12s: failed last: web" in (
        report(history, healthy=False, stable_for_s=10, duration_s=12.0).summary
    )


def test_what_a_check_prints_cannot_steer_a_terminal() -> None:
    assert printable("\x1b[2Jgone\x00\r\nnext\u202e") == "?[2Jgone? \nnext?"


ROUNDS = st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5), st.booleans()), max_size=30)


@given(ROUNDS, st.floats(0, 20))
def test_healthy_means_no_failure_for_stable_for(steps: list[tuple[float, float, bool]], stable_for_s: float) -> None:
    history, rounds, now_s = History(), list[Round](), 0.0
    for pause_s, length_s, ok in steps:
        started_s, now_s = now_s + pause_s, now_s + pause_s + length_s
        rounds.append(Round(started_s=started_s, finished_s=now_s, results=(result(ok),)))
        history = history.add(rounds[-1])

    found = verdict(history, stable_for_s=stable_for_s, deadline_s=now_s + 1, now_s=now_s)

    # The definition, said the long way: some passing round, and none since that failed, and long enough between.
    last_failure = max((index for index, each in enumerate(rounds) if each.failing), default=-1)
    passing = rounds[last_failure + 1 :]
    stable = bool(passing) and max(0.0, passing[-1].started_s - passing[0].finished_s) >= stable_for_s
    assert found is (Verdict.HEALTHY if stable else Verdict.WAITING)
    assert attrs.asdict(history, recurse=False).keys() == {"passing_since_s", "latest", "latest_failing"}
