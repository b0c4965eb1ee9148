"""What the crashlab found, as data: counts of states, the gate, and the table.  No I/O here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from tests.crashlab.idioms import IDIOMS, Idiom
from tests.crashlab.judge import Reading, Verdict

VOLUMES = ("FAT16", "FAT32")
OURS = ("abboot-mounted", "abboot-unmounted")


@attrs.frozen(kw_only=True)
class Count:
    """Different states that a power cut can leave, and how many of them are bad.

    Args:
        bad: at least one reader gets neither the old nor the new file.
        lost: not even the forgiving reader gets it.
    """

    states: int
    bad: int
    lost: int

    @classmethod
    def of(cls, verdicts: Iterable[Verdict]) -> Count:
        found = list(verdicts)
        return cls(
            states=len(found),
            bad=sum(verdict.bad for verdict in found),
            lost=sum(verdict.forgiving.bad for verdict in found),
        )

    def __str__(self) -> str:
        return f"{self.bad} of {self.states}"


@attrs.frozen(kw_only=True)
class Result:
    """One idiom on one volume.

    Args:
        in_order, any_order, no_flushes: as :mod:`tests.crashlab.recording` says.
        returned: what the medium says when the idiom returns; "neither" if the readers disagree or get nothing.
        returned_cached: the same of a device that forgets what was not flushed.
        new_after_s: seconds after its return until the medium says "new" to every reader, for good; ``None``: not in
            the time that was recorded.
    """

    sectors: int
    flushes: int
    in_order: Count
    any_order: Count
    no_flushes: Count
    returned: str
    returned_cached: str
    new_after_s: float | None


@attrs.frozen(kw_only=True)
class Figures:
    """Of one run.  ``results`` by idiom and volume."""

    kernel: str
    mount: str
    watched_s: int
    results: Mapping[str, Mapping[str, Result]]

    def as_json(self) -> dict[str, Any]:
        return attrs.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Figures:
        return cls(
            kernel=data["kernel"],
            mount=data["mount"],
            watched_s=data["watched_s"],
            results={
                name: {volume: _result(found) for volume, found in volumes.items()}
                for name, volumes in data["results"].items()
            },
        )


def _result(data: Mapping[str, Any]) -> Result:
    counts = {name: Count(**data[name]) for name in ("in_order", "any_order", "no_flushes")}
    return Result(**{**data, **counts})


def says(verdict: Verdict) -> str:
    """In one word what is on the medium."""
    readings = {verdict.forgiving, verdict.mtools, verdict.repaired}
    return readings.pop().value if len(readings) == 1 and not verdict.bad else "neither"


def new_after(ticks: Iterable[tuple[float, Verdict]]) -> float | None:
    """From which second on every reader reads the new file."""
    since: float | None = None
    for seconds, verdict in ticks:
        if says(verdict) != Reading.NEW:
            since = None
        elif since is None:
            since = seconds
    return since


def failures(figures: Figures) -> list[str]:
    """Why the run is no proof; nothing: it is one.

    A gate that cannot fail is worth nothing: the idioms that are known to be unsafe must show it, in the same run.
    """
    found = []
    for name, idiom in IDIOMS.items():
        for volume in VOLUMES:
            result = figures.results.get(name, {}).get(volume)
            if result is None:
                found.append(f"{name} on {volume}: there is no result")
                continue
            bad = {key: getattr(result, key) for key in ("in_order", "any_order", "no_flushes")}
            bad = {key: count for key, count in bad.items() if count.bad}
            if idiom.in_place:
                found += [f"{name} on {volume}: {count} states are bad ({key})" for key, count in bad.items()]
                if (result.returned, result.returned_cached) != ("new", "new"):
                    found.append(
                        f"{name} on {volume}: it returned, and the medium says {result.returned}, "
                        f"or after a flush {result.returned_cached}"
                    )
        # Not on each volume: mcopy takes the first free cluster of a FAT16, which is the one that it has just freed.
        if not idiom.in_place and not any(result.any_order.bad for result in figures.results.get(name, {}).values()):
            found.append(f"{name}: no state is bad, but this way is known to be unsafe")
    return found


# -- the table --------------------------------------------------------------------------------------------------------

_HEAD = ("what it does", *VOLUMES, "in order", "no flushes", "when it returns", "says new after")


def table(figures: Figures) -> str:
    """The results in Markdown."""
    rows = [_HEAD, ("---",) * len(_HEAD)]
    group = ""
    for name, idiom in IDIOMS.items():
        if idiom.group != group:
            group = idiom.group
            rows.append((f"**{group}**", *[""] * (len(_HEAD) - 1)))
        rows.append(tuple(_row(idiom, figures.results[name])))
    return "".join(f"| {' | '.join(row)} |\n".replace("|  ", "| ") for row in rows)


def _row(idiom: Idiom, results: Mapping[str, Result]) -> Iterator[str]:
    yield idiom.title
    for volume in VOLUMES:
        yield str(results[volume].any_order)
    for key in ("in_order", "no_flushes"):
        yield ", ".join(str(getattr(results[volume], key)) for volume in VOLUMES)
    yield returned(results.values())
    yield waited(results.values())


def returned(results: Iterable[Result]) -> str:
    """What the medium says when the idiom returns; on two volumes, if they differ."""
    return " or ".join(dict.fromkeys(result.returned for result in results))


def waited(results: Iterable[Result]) -> str:
    """How long a caller who was told "done" is told too early, at worst."""
    seconds = [result.new_after_s for result in results]
    if None in seconds:
        return "longer"
    worst = max(second for second in seconds if second is not None)
    return f"{worst:.0f} s" if worst else "at once"
