"""Run health checks side by side until they are stable, or the deadline.  The verdict itself is in ``core.health``.

Rules: a check that raises, hangs or answers nonsense has failed, and the others go on; one that has retries is run
again, within its round, before that counts; at most one thread per check is alive, however long one hangs; nothing
here reboots, commits or writes (G7).

Limit: a thread cannot be killed.  A foreign check that never returns keeps its (daemon) thread until the process ends,
and counts as failing until it returns.
"""

from __future__ import annotations

import queue
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import attrs

from abboot.core.check_spec import MAX_RETRIES
from abboot.core.health import (
    NO_CHECKS,
    CheckResult,
    HealthReport,
    History,
    Round,
    Verdict,
    printable,
    report,
    verdict,
)
from abboot.core.settings import LONGEST_S, write_duration
from abboot.health.checks import BuiltinCheck, Check, UnavailableCheck, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from abboot.core.protocols import Clock

GRACE_S = 1.0  # for a check that keeps its own time-out to say so itself, with what it has seen
RETRY_PAUSE_S = 1.0
MAX_DETAIL = 4096  # characters

DEFAULT_DEADLINE_S = 300.0
DEFAULT_INTERVAL_S = 1.0


@attrs.frozen(kw_only=True)
class Progress:
    """Where a watch is, after each round."""

    checks: tuple[CheckResult, ...]  # of the round that just ended, in the order given
    elapsed_s: float
    stable_s: float  # for how long everything required is known to have passed
    remaining_s: float  # until the deadline


class SystemClock:
    """The kernel's clock that counts suspend and that nobody can set."""

    def realtime_s(self) -> float:
        return time.time()

    def boottime_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def watch(
    checks: Iterable[Check],
    *,
    stable_for: timedelta | float = 0.0,
    deadline: timedelta | float = DEFAULT_DEADLINE_S,
    interval: timedelta | float = DEFAULT_INTERVAL_S,
    clock: Clock | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> HealthReport:
    """Run ``checks`` in rounds until all required ones have passed for ``stable_for``, or until ``deadline``.

    Durations are a ``timedelta`` or seconds.  Every round runs all checks at once and starts ``interval`` after the
    one before ended.  A check that fails and has ``retries`` is run again in the same round, a second later each time.
    With no check at all the answer is healthy, and the summary says why.

    Args:
        stable_for: how long every round must pass; 0: one passing round is enough.
        deadline: counted from this call.  A check that runs at the deadline is stopped there; the call returns at
            most a second later.
        clock: for tests; time-outs and retries of checks are always real time.
        progress: called after every round, in this thread.

    Returns:
        The report; ``checks`` is the last round.  No exception of a check reaches the caller.

    Raises:
        ValueError: ``deadline`` does not leave room for ``stable_for``, or a duration is negative.
    """
    stable_for_s, length_s, interval_s = _seconds(stable_for), _seconds(deadline), _seconds(interval)
    if min(stable_for_s, interval_s) < 0 or not stable_for_s < length_s:
        raise ValueError(f"stable_for {stable_for_s} s must be 0 or more, and less than the deadline of {length_s} s")
    clock = SystemClock() if clock is None else clock
    started_s = clock.boottime_s()
    deadline_s = started_s + length_s
    runners = [_Runner.of(check) for check in checks]
    if not runners:
        return HealthReport(healthy=True, checks=(), summary=NO_CHECKS, duration_s=0.0)

    history = History()
    while True:
        history = history.add(_round(runners, clock, deadline_s))
        now_s = clock.boottime_s()
        conclusion = verdict(history, stable_for_s=stable_for_s, deadline_s=deadline_s, now_s=now_s)
        if progress is not None:
            progress(_progress(history, started_s, deadline_s, now_s))
        if conclusion is Verdict.WAITING:
            clock.sleep(max(0.0, min(interval_s, deadline_s - now_s)))
            now_s = clock.boottime_s()
            conclusion = verdict(history, stable_for_s=stable_for_s, deadline_s=deadline_s, now_s=now_s)
        if conclusion is not Verdict.WAITING:
            healthy = conclusion is Verdict.HEALTHY
            return report(history, healthy=healthy, stable_for_s=stable_for_s, duration_s=now_s - started_s)


def _seconds(value: timedelta | float) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def _progress(history: History, started_s: float, deadline_s: float, now_s: float) -> Progress:
    return Progress(
        checks=history.latest.results if history.latest is not None else (),
        elapsed_s=now_s - started_s,
        stable_s=history.stable_s,
        remaining_s=max(0.0, deadline_s - now_s),
    )


def _round(runners: list[_Runner], clock: Clock, deadline_s: float) -> Round:
    started_s = clock.boottime_s()
    left_s = max(0.0, deadline_s - started_s)
    running = [runner.start(left_s) for runner in runners]
    results = tuple(one.result() for one in running)
    return Round(started_s=started_s, finished_s=clock.boottime_s(), results=results)


@attrs.define(kw_only=True)
class _Runner:
    """One check, and its thread as long as that has not come back."""

    check: Check
    name: str
    required: bool
    timeout_s: float
    retries: int = 0
    thread: threading.Thread | None = None

    @classmethod
    def of(cls, check: Check) -> _Runner:
        """Asks a foreign check what it is only once, and only here."""
        try:
            timeout_s = float(check.timeout_s)
            if not 0 < timeout_s <= LONGEST_S:
                raise ValueError(f"its time-out of {timeout_s} s is not between 0 and {LONGEST_S} s")
            retries = int(getattr(check, "retries", 0))
            if not 0 <= retries <= MAX_RETRIES:
                raise ValueError(f"{retries} retries are not from 0 to {MAX_RETRIES}")
            return cls(
                check=check,
                name=printable(str(check.name)),
                required=bool(check.required),
                timeout_s=timeout_s,
                retries=retries,
            )
        except Exception as error:  # noqa: BLE001 - somebody else's code
            broken = UnavailableCheck(name=type(check).__name__, reason=f"not a check: {describe(error)}")
            return cls(check=broken, name=broken.name, required=True, timeout_s=broken.timeout_s)

    def start(self, left_s: float) -> _Running:
        now_s = time.monotonic()
        running = _Running(runner=self, started_s=now_s, end_s=now_s + left_s, answers=queue.SimpleQueue())
        if self.thread is not None and self.thread.is_alive():
            running.answers.put((running.failed("still no answer to the run before"), True))
            return running
        self.thread = threading.Thread(target=running.run, name=f"abboot check {self.name}", daemon=True)
        try:
            self.thread.start()
        except RuntimeError as error:  # no more threads
            self.thread = None
            running.answers.put((running.failed(describe(error)), True))
        return running


@attrs.frozen(kw_only=True)
class _Running:
    """One check in one round; an answer that comes too late goes into this queue, where nobody looks any more."""

    runner: _Runner
    started_s: float
    end_s: float  # the deadline of the watch
    answers: queue.SimpleQueue[tuple[CheckResult, bool]]  # and whether it is the last one

    def run(self) -> None:
        """In the thread: once, and again while it fails and may be retried before the deadline."""
        for left in range(self.runner.retries, -1, -1):
            began_s = time.monotonic()
            limit_s = min(self.runner.timeout_s, max(0.0, self.end_s - began_s))
            answer = self._attempt(limit_s)
            now_s = time.monotonic()
            given_up = now_s > began_s + limit_s + GRACE_S
            last = answer.ok or not left or given_up or now_s + RETRY_PAUSE_S >= self.end_s
            self.answers.put((answer, last))
            if last:
                return
            time.sleep(RETRY_PAUSE_S)

    def _attempt(self, limit_s: float) -> CheckResult:
        """Only ``ok`` and ``detail`` are believed: a result does not say what is required."""
        try:
            check = self.runner.check
            if isinstance(check, BuiltinCheck):
                # Told what is left, it ends its own processes and sockets at the deadline.
                check = attrs.evolve(check, timeout_s=max(0.01, limit_s))
            found = check.run()
            return self._result(ok=found.ok is True, detail=str(found.detail))
        except BaseException as error:  # noqa: BLE001 - even SystemExit of a foreign check is only a failed check
            return self.failed(describe(error))

    def result(self) -> CheckResult:
        """Wait for the answer that counts, for no run longer than it may take."""
        start_s, pause_s = self.started_s, 0.0
        while True:
            limit_s = min(self.runner.timeout_s, max(0.0, self.end_s - start_s))
            try:
                until_s = start_s + pause_s + limit_s + GRACE_S
                answer, last = self.answers.get(timeout=max(0.0, min(until_s, self.end_s + GRACE_S) - time.monotonic()))
            except queue.Empty:
                return self.failed(f"no answer within {write_duration(limit_s)}")
            if last:
                return answer
            start_s, pause_s = time.monotonic(), RETRY_PAUSE_S

    def failed(self, detail: str) -> CheckResult:
        return self._result(ok=False, detail=detail)

    def _result(self, *, ok: bool, detail: str) -> CheckResult:
        return CheckResult(
            name=self.runner.name,
            ok=ok,
            required=self.runner.required,
            detail=printable(detail[:MAX_DETAIL]),
            duration_s=time.monotonic() - self.started_s,
        )
