"""Hundreds of power cuts, drawn by write index, on a real kernel: ``make cuts``.

Each cut begins where a saved machine was, a moment before the verb: so it costs a second instead of a boot.  The verb
is typed, the emulator is killed when the card took the drawn number of writes, and then the card is booted for real:
Linux has to come up, on a slot that may boot; abboot has to say a phase that it can go on from; an acknowledged commit
has to be there; the volumes that are not hidden have to be sound.

The machine is the one with a SCSI disk, because QEMU cannot save a raspi3b's SD card; requests are limited to 4 KiB, so
that there is a cut between any two of them.  Every cut is a line of JSON in ``.cache/e2e/cuts.jsonl``; a run that was
stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from abboot.core.words import Slot
from abboot.simulator.emulator import copy_card
from tests.e2e.bench import Bench, Machine
from tests.e2e.guest import ROOT, Guest, build_guest, make_card

CACHE = ROOT / ".cache" / "e2e"
SMALL_REQUESTS = "echo 4 >/sys/block/sda/queue/max_sectors_kb"
UPDATE = "stage --base booted /overlays/v2"


@attrs.frozen(kw_only=True)
class Plan:
    """A verb, and the state that it starts from."""

    begin: Callable[[Bench], object]  # from a cold boot of slot a
    line: str
    acknowledged: str  # what it prints when it is done


def other_tree_on_b(bench: Bench) -> None:
    """So that the stage has a kernel to write: thousands of writes."""
    bench.abboot("stage --base booted --drop kernel8.img")


def staged(bench: Bench) -> None:
    bench.abboot(UPDATE)


def in_trial(bench: Bench) -> None:
    staged(bench)
    bench.ends_with("abboot trial")
    bench.boot()


PLANS: Mapping[str, Plan] = {
    "stage": Plan(begin=other_tree_on_b, line=f"abboot {UPDATE}", acknowledged="verified"),
    "arm": Plan(begin=staged, line="abboot trial --no-reboot", acknowledged="is armed"),
    "commit": Plan(begin=in_trial, line="abboot commit", acknowledged="is the primary now"),
}


@attrs.frozen(kw_only=True)
class Saved:
    """A machine a moment before the verb."""

    state: Path
    image: Path
    writes: int  # of the verb when nobody cuts it


class Cutter:
    """Everything of one verb."""

    def __init__(self, guest: Guest, name: str, folder: Path) -> None:
        self.plan, self.name, self.folder = PLANS[name], name, folder
        folder.mkdir()
        transcript = CACHE / "transcripts" / f"cuts-{name}.txt"
        self.bench = Bench(guest, make_card(guest, Slot.A), transcript, machine=Machine.VIRT, folder=folder)
        self.saved = self._prepare()

    def _prepare(self) -> Saved:
        bench, state, image = self.bench, self.folder / "state", self.folder / "before.img"
        bench.boot()
        self.plan.begin(bench)
        bench.type(SMALL_REQUESTS)
        bench.abboot("status")  # Python is in the guest's memory from here on
        bench.run.save(state)
        shutil.copy(bench.image, image)
        writes = self._run(state, image, 1 << 30)
        if self.plan.acknowledged not in bench.run.console:
            sys.exit(f"cuts: {self.plan.line} was not done:\n{bench.run.console}")
        return Saved(state=state, image=image, writes=writes)

    def _run(self, state: Path, image: Path, number: int) -> int:
        log = self.folder / "log"
        self.bench.pi.close()
        self.bench.image.unlink()
        copy_card(image, self.bench.image)
        self.bench.restart()
        self.bench.resume(state, record=log)
        return self.bench.cut_at_write(number, self.plan.line, log)

    def cut(self, number: int) -> dict[str, Any]:
        """One cut, and what came of it; ``problem`` is ``None`` or a sentence."""
        written = self._run(self.saved.state, self.saved.image, number)
        acknowledged = self.plan.acknowledged in self.bench.run.console
        result: dict[str, Any] = {
            "verb": self.name,
            "of_writes": self.saved.writes,
            "drawn": number,
            "cut_after": written,
            "acknowledged": acknowledged,
        }
        try:
            self._judge(result)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the result of this cut
            result["problem"] = f"{type(error).__name__}: {str(error)[:2000]}"
        else:
            result["problem"] = None
        return result

    def _judge(self, result: dict[str, Any]) -> None:
        bench = self.bench
        primary = bench.autoboot()["all"]
        result["hidden"] = bench.hidden("b")
        partition = bench.boot()
        result["booted"] = partition
        allowed = {2, 3} if self.name == "commit" else {2}
        assert partition in allowed, f"partition {partition} was booted"
        assert str(partition) == primary
        if self.name == "commit" and result["acknowledged"]:
            assert partition == 3, "an acknowledged commit was lost"
        status = bench.abboot("status")
        result["state_b"] = status["slots"]["b"]["state"]
        assert status["phase"] == "settled", status["reason"]
        bench.cut()
        bench.fsck("selector", "a", *(() if bench.hidden("b") else ("b",)))


def draw(count: int, writes: int, seed: str) -> list[int]:
    """Indexes of writes, each as often as any other; one more than there are cuts after the acknowledgement."""
    random_ = random.Random(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8]))
    every = list(range(1, writes + 1))
    whole, rest = divmod(count, writes)
    return random_.sample(every * whole + random_.sample(every, rest), count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    for name, count in (("stage", 110), ("arm", 50), ("commit", 50)):
        parser.add_argument(f"--{name}", type=int, default=count, metavar="N", help=f"cuts in it (default: {count})")
    parser.add_argument("--results", type=Path, default=CACHE / "cuts.jsonl", help="one line per cut is appended")
    options = parser.parse_args()
    guest = build_guest(CACHE)
    results = (
        [json.loads(line) for line in options.results.read_text().splitlines()] if options.results.exists() else []
    )
    with tempfile.TemporaryDirectory(prefix="abboot-cuts-") as work:
        for name in PLANS:
            done = sum(result["verb"] == name for result in results)
            wanted = getattr(options, name)
            if done >= wanted:
                continue
            cutter = Cutter(guest, name, Path(work) / name)
            for number in draw(wanted, cutter.saved.writes + 1, name)[done:]:
                results.append(cutter.cut(number))
                with options.results.open("a") as file:
                    file.write(json.dumps(results[-1]) + "\n")
                print(json.dumps(results[-1]), flush=True)
            cutter.bench.close()
    sys.exit(tell(results))


def tell(results: list[dict[str, Any]]) -> int:
    """The table; the exit status."""
    print(f"{'verb':8} {'cuts':>5} {'writes':>7} {'places':>7} {'acknowledged':>13} {'problems':>9}")
    for name in PLANS:
        rows = [result for result in results if result["verb"] == name]
        if rows:
            places = len({row["cut_after"] for row in rows})
            told = sum(row["acknowledged"] for row in rows)
            bad = sum(row["problem"] is not None for row in rows)
            print(f"{name:8} {len(rows):5} {rows[0]['of_writes']:7} {places:7} {told:13} {bad:9}")
    return int(any(result["problem"] for result in results))


if __name__ == "__main__":
    main()
