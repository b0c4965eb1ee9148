"""When a system counts as healthy: the verdict over rounds of health checks.  No I/O here.

Rules: only required checks decide, wanted ones are reported (as greenboot's ``required.d`` and ``wanted.d``).  Healthy
means that every required check passed in every round for the whole of ``stable_for``; one failure starts the count
again.  Nothing here asks for a reboot: a verdict can only end a trial (G7).
"""

from __future__ import annotations

import enum

import attrs

from abboot.core.settings import write_duration

NO_CHECKS = "no health check is configured: the trial is taken as healthy"
MAX_SUMMARY = 400  # characters: a summary becomes the reason in a journal entry of one block
MAX_DETAIL = 80  # characters of one check in a summary


class Verdict(enum.StrEnum):
    """What a history of rounds says now."""

    WAITING = "waiting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@attrs.frozen(kw_only=True)
class CheckResult:
    """What one run of one check found."""

    name: str
    ok: bool
    required: bool
    detail: str  # for people; may have several lines, never terminal controls
    duration_s: float


@attrs.frozen(kw_only=True)
class Round:
    """Every check run once, side by side; times are seconds of one clock that never goes back."""

    started_s: float
    finished_s: float
    results: tuple[CheckResult, ...]

    @property
    def failing(self) -> tuple[CheckResult, ...]:
        """The required checks that failed."""
        return tuple(result for result in self.results if result.required and not result.ok)


@attrs.frozen(kw_only=True)
class History:
    """All that the verdict needs to know of the rounds so far: of constant size, however long the watch."""

    passing_since_s: float | None = None  # when the first round of the unbroken run of passing ones was over
    latest: Round | None = None
    latest_failing: Round | None = None

    def add(self, round_: Round) -> History:
        """The history with one more round."""
        if round_.failing:
            return History(passing_since_s=None, latest=round_, latest_failing=round_)
        since = round_.finished_s if self.passing_since_s is None else self.passing_since_s
        return attrs.evolve(self, passing_since_s=since, latest=round_)

    @property
    def stable_s(self) -> float:
        """For how long everything required is known to have passed.

        From the end of the first passing round to the start of the latest: a round proves nothing about the time
        while it runs, because a check may look at its beginning or at its end.
        """
        if self.latest is None or self.passing_since_s is None:
            return 0.0
        return max(0.0, self.latest.started_s - self.passing_since_s)


def verdict(history: History, *, stable_for_s: float, deadline_s: float, now_s: float) -> Verdict:
    """What ``history`` says at ``now_s``; ``deadline_s`` is a moment of the same clock, not a length."""
    if history.passing_since_s is not None and history.stable_s >= stable_for_s:
        return Verdict.HEALTHY
    return Verdict.UNHEALTHY if now_s >= deadline_s else Verdict.WAITING


@attrs.frozen(kw_only=True)
class HealthReport:
    """How a watch ended."""

    healthy: bool
    checks: tuple[CheckResult, ...]  # of the last round, in the order given
    summary: str  # one line
    duration_s: float


def report(history: History, *, healthy: bool, stable_for_s: float, duration_s: float) -> HealthReport:
    """The history of a watch that is over, as a report."""
    results = history.latest.results if history.latest is not None else ()
    return HealthReport(
        healthy=healthy,
        checks=results,
        summary=_one_line(_summary(history, results, healthy, stable_for_s, duration_s), MAX_SUMMARY),
        duration_s=duration_s,
    )


def _summary(
    history: History, results: tuple[CheckResult, ...], healthy: bool, stable_for_s: float, duration_s: float
) -> str:
    if not results:
        return NO_CHECKS
    wanted = _names(tuple(result for result in results if not result.required and not result.ok))
    also = f"; wanted only: {wanted}" if wanted else ""
    if healthy:
        passed = sum(result.ok for result in results)
        stable = f", stable for {write_duration(stable_for_s)}" if stable_for_s else ""
        return f"{passed} of {len(results)} health checks passed{stable}{also}"
    if history.latest is not None and history.latest.failing:
        return f"failing after {write_duration(duration_s)}: {_names(history.latest.failing)}{also}"
    unstable = f"not stable for {write_duration(stable_for_s)} within {write_duration(duration_s)}"
    if history.latest_failing is None:
        return f"{unstable}: only {write_duration(history.stable_s)} of passing were seen{also}"
    return f"{unstable}: failed last: {_names(history.latest_failing.failing)}{also}"


def _names(results: tuple[CheckResult, ...]) -> str:
    return ", ".join(f"{result.name} ({_last_line(result.detail)})" for result in results)


def _last_line(detail: str) -> str:
    # A command's first line says how it ended and its last one says why, as a rule.
    lines = [line.strip() for line in detail.splitlines() if line.strip()]
    text = f"{lines[0]} {lines[-1]}" if len(lines) > 1 else "".join(lines)
    return _one_line(text, MAX_DETAIL)


def _one_line(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def printable(text: str) -> str:
    """``text`` without what could steer a terminal or break a line of a log; lines stay lines."""
    return "".join(c if c == "\n" or c.isprintable() else " " if c in "\t\r" else "?" for c in text).strip()
