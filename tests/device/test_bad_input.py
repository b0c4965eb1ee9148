"""What a board, a card or an operator may get wrong: one clear error, and the device keeps booting what it booted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from abboot.core.words import Phase, Slot
from abboot.errors import AbbootError, DeviceError, Refused
from abboot.manager import BootManager
from tests.cards import BOARDS, CONFIG, CardDisk, CardPi, card, new_pi, tree
from tests.cli.command import abboot, refused, said
from tests.device.board import FakeBoard
from tests.device.test_trials import Told, on_trial, staged
from tests.linux.sysroots import PI4

# -- the device tree --------------------------------------------------------------------------------------------------

CHANGES: list[Callable[[BootManager], object]] = [
    lambda manager: manager.stage(tree("v2")),
    lambda manager: manager.trial(),
    lambda manager: manager.commit(),
    lambda manager: manager.revert(),
    lambda manager: manager.confirm([Told(ok=True)]),
]


@pytest.mark.parametrize(
    "cell", [None, b"", b"\2", b"2\n", b"\0\0\0\2\0", b"\0\0\0\7", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\1"]
)
def test_a_partition_cell_that_is_missing_or_malformed_stops_every_change(tmp_path: Path, cell: bytes | None) -> None:
    board = FakeBoard(tmp_path, partition=cell)
    before = board.card.read_bytes()

    assert board.manager().status().phase is Phase.FOREIGN
    for change in CHANGES:
        with pytest.raises(Refused, match=r"^cannot [a-z]+: .*(partition|booted)"):
            change(board.manager())
    assert said("--sysroot", board.root, "note-boot")["phase"] == "foreign"
    assert said("--sysroot", board.root, "deadline")["changed"] is False

    assert board.card.read_bytes() == before
    assert board.requests == []


@pytest.mark.parametrize("cell", [None, b"", b"1", b"\1", b"\0\0\0\1\0"])
def test_a_tryboot_cell_that_is_missing_or_malformed_commits_nothing(tmp_path: Path, cell: bytes | None) -> None:
    """G6."""
    board = FakeBoard(tmp_path)
    board.manager().stage(tree("v2"))
    board.manager().trial()
    board.boots(3, tryboot=True)
    node = board.root / "proc/device-tree/chosen/bootloader/tryboot"
    node.unlink()
    if cell is not None:
        node.write_bytes(cell)
    before = board.card.read_bytes()

    with pytest.raises(Refused, match="it was not booted by the tryboot flag"):
        board.manager().confirm([Told(ok=True)])

    assert board.card.read_bytes() == before


@pytest.mark.parametrize(
    ("build", "model"), [(None, PI4), (b"\1\2", PI4), (1, PI4), (1746713597, None), (1746713597, "?")]
)
def test_a_bootloader_that_tells_no_date_or_no_board_is_not_trusted_with_a_trial(
    tmp_path: Path, build: Any, model: str | None
) -> None:
    board = FakeBoard(tmp_path, build=build, model=model)
    board.manager().stage(tree("v2"))
    before = board.card.read_bytes()

    with pytest.raises(Refused, match=r"\(H-01\)"):
        board.manager().trial()

    assert board.card.read_bytes() == before


# -- a card that takes no writes --------------------------------------------------------------------------------------


class Failing(CardDisk):
    """A card whose write number ``at`` fails, and every later one too if it is ``dead`` by then."""

    def __init__(self, path: Path, at: int, *, dead: bool) -> None:
        super().__init__(path)
        self.at, self.dead, self.count = at, dead, 0

    def open_partition(self, number: int, start: int, size: int, *, writable: bool = False) -> Any:
        return _FailingDevice(self, super().open_partition(number, start, size, writable=writable))


class _FailingDevice:
    def __init__(self, disk: Failing, device: Any) -> None:
        self._disk, self._device = disk, device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def write(self, offset: int, data: Any) -> None:
        disk = self._disk
        disk.count += 1
        if disk.count - 1 == disk.at or (disk.dead and disk.count > disk.at):
            raise DeviceError(f"cannot write {self._device.name}: input/output error")
        self._device.write(offset, data)


def armed() -> CardPi:
    pi = staged()
    pi.manager().trial(reboot=False)
    return pi


def fell_back() -> CardPi:
    pi = on_trial()
    pi.manager().note_boot()
    pi.watchdog_reset()
    return pi


VERBS: dict[str, tuple[Callable[[], CardPi], Callable[[BootManager], object], set[int]]] = {
    "stage": (new_pi, lambda manager: manager.stage(tree("v2")), {2}),
    "trial": (staged, lambda manager: manager.trial(reboot=False), {2}),
    "revert an arm": (armed, lambda manager: manager.revert(), {2}),
    "note a start": (on_trial, lambda manager: manager.note_boot(), {2}),
    "note an end": (fell_back, lambda manager: manager.note_boot(), {2}),
    "commit": (on_trial, lambda manager: manager.commit(), {2, 3}),
    "confirm": (on_trial, lambda manager: manager.confirm([Told(ok=True)]), {2, 3}),
}


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("verb", VERBS)
def test_an_error_in_any_write_leaves_a_device_that_boots_what_was_tried_and_good(
    tmp_path: Path, verb: str, *, dead: bool
) -> None:
    begin, act, may_boot = VERBS[verb]
    start = begin()
    image = start.card.save(tmp_path / "before.img")
    at = 0
    while True:
        disk = Failing(image, at, dead=dead)
        pi = CardPi(disk, BOARDS["pi4"], CONFIG)
        pi.change(**{name: getattr(start.state, name) for name in ("boot", "boot_id", "flag", "argument", "request")})
        with suppress(AbbootError):
            act(pi.manager())
        if disk.count <= at:
            break
        assert {boot.partition for boot in pi.would_boot_cold()} <= may_boot
        if verb == "trial":
            assert pi.reboot().partition == 2, "what was refused is not done by the next reboot (H-12)"
        at += 1 if at < 40 else 25
    assert at > 0


def test_a_selector_that_is_mounted_read_only_is_told_and_left_as_it_is(tmp_path: Path) -> None:
    if shutil.which("mcopy") is None:
        pytest.skip("mcopy is not installed (Debian package mtools)")
    board = FakeBoard(tmp_path)
    board.manager().stage(tree("v2"))
    board.mounts(1, "/boot/selector", writable=False)
    before = board.card.read_bytes()

    told = refused("--sysroot", board.root, "trial")

    assert told["message"].startswith("cannot change the selector: it is mounted read-only on ")
    assert "remount,rw" in told["hint"]
    assert (board.card.read_bytes(), board.requests, board.manager().status().flag) == (before, [], False)


# -- the clock --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("now_s", [0.0, -3600.0, 1e11])
def test_a_clock_in_1970_or_elsewhere_orders_nothing(now_s: float) -> None:
    """A Pi has no clock at early boot: the next boot may be before this one."""
    pi = new_pi()
    times = iter([now_s, 1.7e9, now_s])

    def manager() -> BootManager:
        now = next(times)

        class Wrong(type(pi._board)):  # type: ignore[misc]
            def realtime_s(self) -> float:
                return now

        return BootManager(pi.disk, Wrong(pi), CONFIG)

    manager().stage(tree("v2"))
    manager().trial()
    assert manager().confirm([Told(ok=True)]).action == "committed"

    assert pi.power_cut().partition == 3
    told = [str(entry.transition) for entry in pi.manager().log()]
    assert told == ["built", "staging", "staged", "armed", "started", "committing", "committed"]


@pytest.mark.parametrize("now_s", [0.0, -9.9e11, 9.9e11, 2.5e11])
def test_the_log_shows_any_time_that_a_journal_may_hold(tmp_path: Path, now_s: float) -> None:
    pi = new_pi()

    class Wrong(type(pi._board)):  # type: ignore[misc]
        def realtime_s(self) -> float:
            return now_s

    BootManager(pi.disk, Wrong(pi), CONFIG).stage(tree("v2"))
    pi.card.save(tmp_path / "card.img")

    ran = abboot("--disk", tmp_path / "card.img", "log")

    assert (ran.code, ran.err) == (0, "")
    assert ran.out.count("staged") >= 1


# -- the configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["note-boot", "confirm", "deadline", "trial"])
def test_a_typing_error_in_the_configuration_is_told_with_its_line_and_nothing_is_done(
    tmp_path: Path, verb: str
) -> None:
    board = FakeBoard(tmp_path)
    board.manager().stage(tree("v2"))
    board.manager().trial()
    board.boots(3, tryboot=True)
    board.write("etc/abboot.toml", "# abboot.toml\n[health]\nstable_fro = 10\n")
    before = board.card.read_bytes()

    told = refused("--sysroot", board.root, verb)

    assert told["message"] == (
        f"cannot read {board.root}/etc/abboot.toml: line 3: health.stable_fro: unknown key (did you mean 'stable_for'?)"
    )
    assert (board.card.read_bytes(), board.requests) == (before, [])


def test_the_card_that_all_of_this_started_from_is_as_it_was() -> None:
    assert new_pi().card.digest() == CardDisk(card()).digest()
    assert new_pi().manager().status().primary is Slot.A
