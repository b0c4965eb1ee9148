"""Fixtures of `make e2e`: the guest is built once, every test has a card and a transcript of its own."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

from abboot.core.words import Slot
from abboot.simulator.emulator import Machine
from tests.e2e.bench import Bench
from tests.e2e.guest import ROOT, Guest, build_guest, make_card

CACHE = ROOT / ".cache" / "e2e"
TRANSCRIPTS = CACHE / "transcripts"

MakeBench = Callable[..., Bench]

# Linux 6.1's driver of the SD host gives a request up after ten seconds and then trips over it when it completes
# (bcm2835.c: bcm2835_timeout, bcm2835_dma_complete_work).  That happens when the host of the emulator stood still for
# so long; it says nothing about a card, so such a test is run once more, and `run-again.txt` names it.
HOST_STOOD_STILL = "bcm2835_dma_complete_work"


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if any(report.failed and HOST_STOOD_STILL in report.longreprtext for report in reports):
        with (TRANSCRIPTS / "run-again.txt").open("a") as file:
            file.write(f"{item.nodeid}\n")
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.fixture(scope="session")
def guest() -> Guest:
    CACHE.mkdir(parents=True, exist_ok=True)
    # Two workers start at once; one of them builds.
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return build_guest(CACHE)


@pytest.fixture
def make_bench(guest: Guest, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakeBench]:
    """Makes a bench: ``make_bench(primary=Slot.B, machine=Machine.VIRT)``."""
    made: list[Bench] = []

    def make(*, primary: Slot = Slot.A, machine: Machine = Machine.RASPI3B, append: str = "") -> Bench:
        folder = tmp_path / f"bench-{len(made)}"
        folder.mkdir()
        name = re.sub(r"\W+", "-", request.node.name.removeprefix("test_")).strip("-") + f"-{len(made)}" * bool(made)
        transcript = TRANSCRIPTS / f"{name}.txt"
        print(f"transcript: {transcript}")
        bench = Bench(guest, make_card(guest, primary), transcript, machine=machine, folder=folder, append=append)
        made.append(bench)
        return bench

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    return make_bench()
