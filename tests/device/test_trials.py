"""Around a trial: who is busy, too low a voltage, what undoes an arm, the early unit and the deadline."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import attrs
import pytest

from abboot.cli.device import until_unlocked
from abboot.config import Config
from abboot.core.health import CheckResult
from abboot.core.plan import TRYBOOT_ARGUMENT
from abboot.core.words import Outcome, Phase, Slot, SlotState
from abboot.errors import DeviceError, Locked, Refused
from abboot.manager import BootManager
from tests.cards import CONFIG, CardPi, new_pi, tree
from tests.cli.command import new_card, said
from tests.device.board import FakeBoard

BUSY = ("recorder (process 4321): a recording is running",)


class Told:
    """A health check with a fixed answer."""

    name = "told"
    required = True
    timeout_s = 5.0

    def __init__(self, *, ok: bool) -> None:
        self.ok = ok

    def run(self) -> CheckResult:
        return CheckResult(name=self.name, ok=self.ok, required=True, detail="as told", duration_s=0.0)


def with_trial(**settings: Any) -> Config:
    return attrs.evolve(CONFIG, trial=attrs.evolve(Config().trial, **settings))


def staged(config: Config = CONFIG) -> CardPi:
    pi = new_pi(config=config)
    pi.manager().stage(tree("v2"))
    return pi


def on_trial(config: Config = CONFIG) -> CardPi:
    pi = staged(config)
    pi.manager().trial()
    return pi


def shell(script: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", script)


# -- who is busy ------------------------------------------------------------------------------------------------------


def test_a_trial_waits_for_nobody_and_is_refused_while_somebody_is_busy() -> None:
    pi = staged()
    pi.change(inhibitors=BUSY)
    before, boots = pi.card.digest(), pi.state.boot_count

    with pytest.raises(Refused) as refused:
        pi.manager().trial()

    assert refused.value.message == f"cannot try slot b: a reboot is unwelcome now: {BUSY[0]}"
    assert "--force" in refused.value.hint
    assert (pi.card.digest(), pi.state.boot_count, pi.state.flag) == (before, boots, False)


def test_one_who_insists_reboots_all_the_same() -> None:
    pi = staged()
    pi.change(inhibitors=BUSY)

    assert pi.manager().trial(force=True).rebooting
    assert pi.manager().status().phase is Phase.TRIAL


def test_arming_for_somebody_elses_reboot_asks_nobody() -> None:
    pi = staged()
    pi.change(inhibitors=BUSY)

    assert pi.manager().trial(reboot=False).changed
    with pytest.raises(Refused, match="unwelcome") as refused:
        pi.manager().trial()

    assert refused.value.hint.endswith("slot b stays armed: `abboot revert` cancels that")
    assert pi.manager().status().phase is Phase.ARMED


def test_many_who_are_busy_are_counted() -> None:
    pi = staged()
    pi.change(inhibitors=tuple(f"program{number} (process {number}): busy" for number in range(9)))

    with pytest.raises(Refused, match=r"program0 .*, program1 .*, program2 .* and 6 more$"):
        pi.manager().trial()


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo the centrifuge is turning; exit 1", r"/bin/sh says so: the centrifuge is turning \(exit status 1\)$"),
        ("exit 3", r"/bin/sh says so \(exit status 3\)$"),
        ("sleep 60 & sleep 60", r"/bin/sh gave no answer in 1 s$"),
        ("head -c 10000000 /dev/zero | tr '\\0' x; exit 1", r"/bin/sh says so: x{50,200} \(exit status 1\)$"),
    ],
)
def test_the_users_command_says_that_it_is_a_bad_moment(script: str, why: str) -> None:
    pi = staged(with_trial(busy_hook=shell(script), busy_hook_timeout_s=1.0 if "sleep" in script else 60.0))
    begun = time.monotonic()

    with pytest.raises(Refused, match=why):
        pi.manager().trial()

    assert time.monotonic() - begun < 30
    assert pi.state.flag is False


def test_a_command_that_cannot_be_run_is_told() -> None:
    pi = staged(with_trial(busy_hook=("/no/such/hook",)))

    with pytest.raises(Refused, match="/no/such/hook cannot be run: no such file or directory"):
        pi.manager().trial()


def test_a_command_that_says_no_is_no_obstacle() -> None:
    pi = staged(with_trial(busy_hook=shell("exit 0")))

    assert pi.manager().trial().rebooting


def test_below_a_sysroot_the_users_command_is_not_run(tmp_path: Path) -> None:
    """It would ask this system about that one."""
    hook = ("/bin/sh", "-c", f"touch {tmp_path}/ran; exit 1")
    board = FakeBoard(tmp_path, with_trial(busy_hook=hook))
    board.manager().stage(tree("v2"))

    assert board.manager().trial().rebooting
    assert not (tmp_path / "ran").exists()


def test_a_person_who_leaves_a_trial_is_told_who_is_busy() -> None:
    pi = on_trial()
    pi.change(inhibitors=BUSY)
    before = pi.card.digest()

    with pytest.raises(Refused, match=r"^cannot leave the trial of slot b: a reboot is unwelcome now: recorder"):
        pi.manager().revert()
    assert pi.card.digest() == before
    assert not pi.manager().revert(reboot=False).rebooting
    assert pi.manager().revert(force=True).rebooting

    assert pi.boot.partition == 2


def test_going_back_after_a_commit_asks_too() -> None:
    pi = on_trial()
    pi.manager().commit()
    pi.change(inhibitors=BUSY)

    with pytest.raises(Refused, match=r"^cannot try slot a: a reboot is unwelcome now"):
        pi.manager().revert()

    assert pi.manager().revert(force=True).rebooting


def test_an_unhealthy_trial_is_left_late_and_never_kept() -> None:
    """G11: who is busy postpones the reboot, and cannot prevent it."""
    pi = on_trial(with_trial(busy_limit_s=120.0))
    pi.change(inhibitors=BUSY)
    board = pi._board
    begun = board.boottime_s()

    done = pi.manager().end_trial(healthy=False, reason="the fan is loud")

    assert (done.rebooting, pi.boot.partition) == (True, 2)
    assert 120 <= board.boottime_s() - begun < 130


def test_a_trial_is_left_as_soon_as_nobody_is_busy_any_more() -> None:
    pi = on_trial()
    asked = []

    class Hurried(type(pi._board)):  # type: ignore[misc]
        def inhibitors(self) -> tuple[str, ...]:
            asked.append(self.boottime_s())
            return BUSY if len(asked) < 4 else ()

    manager = BootManager(pi.disk, Hurried(pi), CONFIG)

    assert manager.confirm([Told(ok=False)]).action == "reverted"
    assert len(asked) == 4
    assert asked[3] - asked[0] < 30


# -- too low a voltage ------------------------------------------------------------------------------------------------


def test_nothing_is_committed_during_a_brown_out() -> None:
    pi = on_trial()
    pi.change(under_voltage=True)
    before = pi.card.digest()

    with pytest.raises(Refused, match=r"^cannot commit: the supply voltage is too low to write now \(H-47\)$"):
        pi.manager().commit()
    assert pi.card.digest() == before
    pi.change(under_voltage=False)

    assert pi.manager().commit().changed


def test_a_healthy_trial_waits_for_power() -> None:
    pi = on_trial()
    asked = []

    class Weak(type(pi._board)):  # type: ignore[misc]
        def under_voltage(self) -> bool | None:
            asked.append(self.boottime_s())
            return len(asked) < 6

    done = BootManager(pi.disk, Weak(pi), CONFIG).confirm([Told(ok=True)])

    assert done.action == "committed"
    assert len(asked) == 6


def test_a_brown_out_that_does_not_end_ends_the_trial_at_the_deadline() -> None:
    config = attrs.evolve(CONFIG, health=attrs.evolve(CONFIG.health, deadline_s=60.0))
    pi = on_trial(config)
    pi.change(under_voltage=True)
    board = pi._board
    begun = board.boottime_s()

    done = pi.manager().confirm([Told(ok=True)])

    assert (done.verdict, done.action, pi.boot.partition) == ("healthy", "reverted", 2)
    assert 60 <= board.boottime_s() - begun < 70
    assert pi.manager().confirm().outcome is Outcome.REVERTED
    trial = pi.manager().status().last_trial
    assert trial is not None
    assert trial.reason == "the supply voltage stayed too low to write for 60 s (H-47)"


# -- both ways of telling the firmware, and how an arm is undone (H-12) -----------------------------------------------


def test_both_ways_are_used_and_both_are_undone(tmp_path: Path) -> None:
    board = FakeBoard(tmp_path)
    board.manager().stage(tree("v2"))

    board.manager().trial(reboot=False)
    assert (board.manager().status().flag, board.argument) == (True, TRYBOOT_ARGUMENT)
    board.manager().revert()

    assert (board.manager().status().flag, board.argument) == (False, None)


@pytest.mark.parametrize(
    ("channel", "flag", "argument"), [("mailbox", True, None), ("argument", False, TRYBOOT_ARGUMENT)]
)
def test_one_way_can_be_forced(tmp_path: Path, channel: str, argument: str | None, *, flag: bool) -> None:
    board = FakeBoard(tmp_path, with_trial(reboot=channel))
    board.manager().stage(tree("v2"))

    board.manager().trial(reboot=False)

    assert (board.manager().status().flag, board.argument) == (flag, argument)


class _Rebooter:
    """Of a system that refuses to reboot, or to keep the argument."""

    def __init__(self, board: Any, failing: str) -> None:
        self._board, self._failing = board, failing

    def __getattr__(self, name: str) -> Any:
        if name != self._failing:
            return getattr(self._board, name)

        def fail(*_: object) -> None:
            raise DeviceError(f"cannot {name}: no space left on device", "make room on /run")

        return fail


@pytest.mark.parametrize("failing", ["set_argument", "reboot"])
@pytest.mark.parametrize("armed_before", [False, True])
def test_an_arm_whose_reboot_fails_is_undone(failing: str, *, armed_before: bool) -> None:
    """Else the next ordinary reboot would be the trial after all."""
    pi = staged()
    if armed_before:
        pi.manager().trial(reboot=False)
        pi.change(argument=None)
    board = pi._board

    class Refusing(type(board)):  # type: ignore[misc]
        @property
        def rebooter(self) -> Any:
            return _Rebooter(board, failing)

    with pytest.raises(DeviceError, match="no space left on device") as failed:
        BootManager(pi.disk, Refusing(pi), CONFIG).trial()

    assert failed.value.hint == "make room on /run; the trial is disarmed"
    assert (pi.state.flag, pi.state.argument) == (False, None)
    assert pi.manager().status().phase is Phase.SETTLED
    assert pi.manager().status().slots[Slot.B].state is SlotState.STAGED
    assert pi.reboot().partition == 2


def test_a_flag_that_the_firmware_does_not_take_is_told_and_the_arm_is_undone() -> None:
    pi = staged()

    class Deaf(type(pi._board)):  # type: ignore[misc]
        def set_tryboot_flag(self, value: bool) -> None:
            pass

    with pytest.raises(DeviceError, match="cannot set the tryboot flag: the firmware reads it back as False") as failed:
        BootManager(pi.disk, Deaf(pi), CONFIG).trial()

    assert failed.value.hint.endswith("the trial is disarmed")
    assert pi.manager().status().phase is Phase.SETTLED


# -- a mailbox that is no good ----------------------------------------------------------------------------------------


def deaf(pi: CardPi, config: Config = CONFIG) -> BootManager:
    class Broken(type(pi._board)):  # type: ignore[misc]
        def tryboot_flag(self) -> bool | None:
            raise DeviceError("cannot use the firmware mailbox: status 0x80000001 for tag 0x00030064")

        set_tryboot_flag = tryboot_flag

    return BootManager(pi.disk, Broken(pi), config)


def test_a_mailbox_that_answers_an_error_is_noted_and_nothing_is_armed() -> None:
    pi = staged()
    before = pi.card.digest()

    status = deaf(pi).status()
    with pytest.raises(Refused, match="tryboot flag cannot be read: cannot use the firmware mailbox: status"):
        deaf(pi).trial()

    assert (status.phase, status.flag) == (Phase.SETTLED, None)
    assert any("the tryboot flag cannot be read, so nothing can be armed: " in note for note in status.notes)
    assert pi.card.digest() == before


@pytest.mark.parametrize("healthy", [True, False])
def test_a_trial_ends_without_the_mailbox(*, healthy: bool) -> None:
    pi = on_trial()

    done = deaf(pi).confirm([Told(ok=healthy)])

    assert done.action == ("committed" if healthy else "reverted")
    assert pi.power_cut().partition == (3 if healthy else 2)


# -- the early unit ---------------------------------------------------------------------------------------------------


def test_the_early_unit_stamps_a_trial_before_anything_else(tmp_path: Path) -> None:
    card = new_card(tmp_path)
    said("--sim", card, "stage", tree("v2"))
    said("--sim", card, "trial")

    first, again = said("--sim", card, "note-boot"), said("--sim", card, "note-boot")

    assert (first["phase"], first["outcome"]) == ("trial", None)
    assert again["phase"] == "trial"
    assert [entry["transition"] for entry in said("--sim", card, "log")["entries"]][-2:] == ["armed", "started"]


def test_the_early_unit_notes_how_the_trial_ended_and_disarms(tmp_path: Path) -> None:
    card = new_card(tmp_path)
    said("--sim", card, "stage", tree("v2"))
    said("--sim", card, "trial")
    said("--sim", card, "note-boot")
    said("simulate", "power-cut", card)

    noted = said("--sim", card, "note-boot")

    assert (noted["phase"], noted["outcome"]) == ("settled", "fell_back")
    assert said("--sim", card, "note-boot")["outcome"] is None
    assert said("--sim", card, "status")["slots"]["b"]["state"] == "failed"


def test_below_a_sysroot_the_early_unit_works_on_the_booted_disk(tmp_path: Path) -> None:
    board = FakeBoard(tmp_path)
    board.manager().stage(tree("v2"))
    board.manager().trial()
    board.boots(3, tryboot=True)

    assert said("--sysroot", board.root, "note-boot")["phase"] == "trial"


# -- the deadline -----------------------------------------------------------------------------------------------------


def test_the_deadline_leaves_a_trial_that_nobody_confirmed(tmp_path: Path) -> None:
    card = new_card(tmp_path)
    said("--sim", card, "stage", tree("v2"))
    said("--sim", card, "trial")

    ended = said("--sim", card, "deadline")

    assert (ended["changed"], ended["rebooting"], ended["phase_before"]) == (True, True, "trial")
    assert ended["boot"]["slot"] == "a"
    assert said("--sim", card, "confirm")["outcome"] == "reverted"
    assert said("--sim", card, "status")["last_trial"]["reason"].startswith("nobody confirmed it: ")


@pytest.mark.parametrize("before", [(), ("stage", "trial", "commit"), ("stage", "arm")])
def test_outside_a_trial_the_deadline_does_nothing(tmp_path: Path, before: tuple[str, ...]) -> None:
    """G7."""
    card = new_card(tmp_path)
    acts = {"stage": ("stage", tree("v2")), "trial": ("trial",), "commit": ("commit",), "arm": ("trial", "--no-reboot")}
    for act in before:
        said("--sim", card, *acts[act])
    log = said("--sim", card, "log")

    ended = said("--sim", card, "deadline")

    assert (ended["changed"], ended["rebooting"]) == (False, False)
    assert "boot" not in ended
    assert said("--sim", card, "log") == log


def test_the_deadline_waits_for_nobody() -> None:
    pi = on_trial()
    pi.change(inhibitors=BUSY)
    board = pi._board
    begun = board.boottime_s()

    assert pi.manager().end_trial(healthy=False, overdue=True).rebooting

    assert board.boottime_s() - begun < 10


def test_the_deadline_tries_again_while_another_abboot_has_the_card() -> None:
    tried = []

    def act() -> str:
        tried.append(1)
        if len(tried) < 3:
            raise Locked("cannot lock card.img: another abboot has it")
        return "done"

    assert until_unlocked(act, limit_s=5, pause_s=0.01) == "done"
    assert len(tried) == 3


def test_and_gives_up_in_time_for_the_last_resort() -> None:
    def act() -> None:
        raise Locked("cannot lock card.img: another abboot has it")

    with pytest.raises(Locked):
        until_unlocked(act, limit_s=0.05, pause_s=0.01)
