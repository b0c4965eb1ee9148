"""A short fuzz run without coverage, the same in every suite: seeds, and a few thousand mutations of each target.

The long one is ``make fuzz``.  What it finds becomes a test beside the code that was wrong.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from abboot.core.journal import read_journal
from abboot.core.partition_table import read_partition_table
from abboot.errors import AbbootError, Damaged
from abboot.fat.read import FatVolume
from tests.fuzz import seeds
from tests.fuzz.mutators import change_bytes
from tests.fuzz.run import main
from tests.fuzz.targets import TARGETS, Target, attempt
from tests.fuzz.window import MAX_INPUT, SECTOR, Window, pack_image, unpack

pytestmark = [pytest.mark.needs("mkfs.vfat", "mcopy", "sfdisk", "sgdisk"), pytest.mark.xdist_group("fuzz")]

MEMORY = 16 << 20  # bytes at most for an input of 64 KiB; a tenth of it in practice
TIME_S = 5.0  # of the processor, for one input; a thousandth of it in practice

every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


def mutations(target: Target, count: int) -> Iterator[tuple[int, bytes]]:
    """The same inputs every time; the number of one is all that it takes to see it again."""
    pool = target.seeds()
    for number in range(count):
        random = Random(f"{target.name}/{number}")
        data = random.choice(pool)
        for _ in range(random.choice([1, 1, 2, 4])):
            data = target.mutate(data, random, lambda piece, random=random: change_bytes(piece, random, target.tokens))
        yield number, data[: target.max_size]


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """End what takes more than this of the processor: a hang becomes a failure."""

    def too_long(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGVTALRM, too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@every_target
def test_mutated_inputs_end_in_an_answer_or_a_refusal(target: Target, tmp_path: Path) -> None:
    for number, data in mutations(target, target.short_runs):
        try:
            with at_most(TIME_S):
                target.run(data)
        except BaseException as error:
            tmp_path.joinpath("input").write_bytes(data)
            error.add_note(f"mutation {number}: python -m tests.fuzz.run --reproduce {tmp_path}/input {target.name}")
            raise


@every_target
def test_memory_is_bounded_whatever_the_input_says(target: Target) -> None:
    inputs = [data for _, data in mutations(target, min(40, target.short_runs // 4))]
    target.run(inputs[0])  # what is imported and cached on first use counts for nobody
    tracemalloc.start()
    try:
        for number, data in enumerate(inputs):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            target.run(data)
            _, peak = tracemalloc.get_traced_memory()
            assert peak - before < MEMORY, number
    finally:
        tracemalloc.stop()


@every_target
def test_every_seed_is_small_and_without_a_finding(target: Target) -> None:
    for seed in target.seeds():
        assert len(seed) <= min(MAX_INPUT, target.max_size)
        target.run(seed)


@every_target
@pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 7, bytes(4096), b"\x01" * 65536], ids=len)
def test_nothing_and_nonsense_are_inputs_too(target: Target, data: bytes) -> None:
    target.run(data)


def test_the_seeds_are_valid() -> None:
    for seed in seeds.volumes():
        held = FatVolume(Window(*unpack(seed))).held()
        assert any(file.path.lower() == "config.txt" for file in held.files)
        assert len(held.directories) > 2
    kinds = set()
    for seed in seeds.disks()[:-1]:
        block_size = 4096 if seed[0] & 4 else SECTOR
        disk = Window(*unpack(seed[seeds.PARTITION_HEAD :]), block_size)
        kinds.add((read_partition_table(disk.read, disk.size_bytes, block_size).kind, block_size))
    assert len(kinds) == 3
    assert len(read_journal(seeds.journals()[0][1:]).entries) == 2


# --- the harness itself: it sees what it is there to see ---


def test_an_input_is_the_image_that_it_was_made_of() -> None:
    image = bytearray(40 * SECTOR)
    image[0], image[5 * SECTOR + 7], image[-1] = 1, 2, 3
    data = pack_image(image)
    window = Window(*unpack(data))

    assert len(data) == 4 + 3 * (4 + SECTOR)
    assert window.read(0, len(image)) == image
    assert window.read(5 * SECTOR + 6, 3) == b"\0\2\0"
    assert window.read(4 * SECTOR + 500, 40 * SECTOR - 4 * SECTOR - 500) == image[4 * SECTOR + 500 :]


@pytest.mark.parametrize(("offset", "length"), [(-1, 2), (0, 9 * SECTOR), (8 * SECTOR, 1), (5, -1)])
def test_a_stray_read_is_noted_even_if_its_refusal_is_swallowed(offset: int, length: int) -> None:
    window = Window(8, {})

    with pytest.raises(ValueError, match="read of"):
        window.read(offset, length)
    assert len(window.strays) == 1


def _forever() -> None:
    while True:
        pass


def test_a_hang_is_a_failure() -> None:
    with pytest.raises(TimeoutError, match="more than"), at_most(0.05):
        _forever()


def test_a_write_outside_or_across_sectors_is_noted() -> None:
    window = Window(8, {})

    window.write(7 * SECTOR, bytes(SECTOR))
    assert window.strays == []
    window.write(1, bytes(SECTOR))
    with pytest.raises(ValueError, match="write of"):
        window.write(7 * SECTOR, bytes(2 * SECTOR))
    assert len(window.strays) == 2


def _raising(error: Exception) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


def test_only_documented_refusals_count_as_an_answer() -> None:
    assert attempt(_raising(Damaged("cannot read x: y")), Damaged) is None

    with pytest.raises(AbbootError, match="something else"):
        attempt(_raising(AbbootError("cannot do: something else")), Damaged)
    with pytest.raises(KeyError):
        attempt(_raising(KeyError("x")), Damaged)


@pytest.mark.parametrize(
    "message", ["it is broken", "cannot read \x1b[2J: y", "cannot read x\ny", "cannot " + "x" * 5000]
)
def test_a_refusal_must_be_one_short_printable_sentence(message: str) -> None:
    with pytest.raises(AssertionError):
        attempt(_raising(Damaged(message)), Damaged)


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("atheris", "coverage"))), reason="atheris is not installed (abboot[fuzz])"
)
def test_the_long_run_counts_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", "--runs", "300", "--folder", str(tmp_path)]) == 0

    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[2].split("|")]
    assert cells[1] == "record"
    assert int(cells[2]) >= 300
    assert json.loads((tmp_path / "record/lines.json").read_text())["reached"] > 100
    assert list((tmp_path / "record/findings").iterdir()) == []
