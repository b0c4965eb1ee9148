"""The self-test on simulated Pis: what it proves on a good board, what it says of a bad one, and cuts everywhere."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abboot.config import Config, TrialConfig
from abboot.core.firmware import Board, Eeprom, Family, Kernel, Model
from abboot.core.health import CheckResult
from abboot.core.journal import Entry, SlotEntry, Trial
from abboot.core.protocols import Buffer
from abboot.core.words import Outcome, Phase, Slot, SlotState, Transition, TrialProgress
from abboot.errors import AbbootError, DeviceError, Refused
from abboot.manager import BootManager
from abboot.selftest import ANNOTATION, LABEL, SelfTest, State, last_run, report, run_selftest
from abboot.simulator import PowerCut
from tests.cards import (
    CONFIG,
    NUMBERS,
    CardDisk,
    CardPi,
    _Window,
    card,
    make_card,
    new_pi,
    tree,
    tree_files,
    write_tree,
)
from tests.cli.command import new_card, refused, said

A, B = Slot.A, Slot.B
PROVED = {"board": True, "stage": True, "arm": True, "flag": True, "partition": True, "fall_back": True}


def proved(found: SelfTest) -> dict[str, bool | None]:
    return {step.id: step.ok for step in found.steps}


def boot_services(pi: CardPi, at_most: int = 4) -> None:
    """What a device does in every boot, until a boot does not end in another one."""
    for _ in range(at_most):
        boots = pi.state.boot_count
        with suppress(AbbootError):
            pi.manager().confirm()
        if pi.state.boot_count == boots:
            return
    raise AssertionError(f"G7: more than {at_most} reboots")


def whole_test(pi: CardPi, **options: Any) -> SelfTest:
    """A whole self-test: the command, and the services of the boots that follow."""
    run_selftest(pi.manager(), **options)
    boot_services(pi)
    return report(pi.manager())


class DeafPi(CardPi):
    """Its firmware forgets the flag, however it was asked."""

    def reboot(self, argument: str | None = None) -> Any:
        self.change(flag=False)
        return super().reboot(None)


#: Boards whose ROM reads bootcode.bin from the first partition, and start.elf from the slot.
OLD_MODELS = tuple(model for model in Model if model.family is Family.PI0_3)
OLD_FILES = ("start.elf", "fixup.dat", "kernel.img", "kernel7.img", "bcm2708-rpi-zero.dtb", "bcm2709-rpi-2-b.dtb")


@pytest.fixture(scope="module")
def old_card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card that a Pi 0 to 3 boots."""
    folder = tmp_path_factory.mktemp("old")
    files = {**tree_files("v1"), **dict.fromkeys((*OLD_FILES, "bcm2710-rpi-3-b.dtb"), b"for a Pi 0 to 3")}
    image = make_card(folder / "card.img", write_tree(folder / "tree", files))
    start, _size = CardDisk(image).place(1)
    write_tree(folder, {"bootcode.bin": b"for the ROM"})
    subprocess.run(["mcopy", "-i", f"{image}@@{start}", folder / "bootcode.bin", "::"], check=True, timeout=30)
    return image


# -- a good board -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("primary", list(Slot))
@pytest.mark.parametrize("model", [model for model in Model if model.family is not Family.PI0_3])
def test_a_good_board_proves_flag_partition_and_fall_back(model: Model, primary: Slot) -> None:
    pi = new_pi(board=Board(model=model), primary=primary)
    before = pi.card.bytes_of(NUMBERS[primary])

    started = run_selftest(pi.manager())
    assert (started.rebooting, pi.boot.partition, pi.boot.tryboot) == (True, NUMBERS[primary.other], True)
    boot_services(pi)
    found = report(pi.manager())

    assert (found.state, found.ok, found.slot) == (State.PASSED, True, primary.other)
    assert proved(found) == PROVED
    assert pi.state.boot_count == 2
    assert pi.card.bytes_of(NUMBERS[primary]) == before  # G4
    status = pi.manager().status()
    assert (status.phase, status.booted, status.primary, status.flag) == (Phase.SETTLED, primary, primary, False)
    assert status.slots[primary.other].state is SlotState.FAILED  # no trial takes the canary for an update
    assert status.slots[primary.other].label == LABEL


def test_no_health_check_is_asked_about_a_canary() -> None:
    class Never:
        name, required, timeout_s = "never", True, 5.0

        def run(self) -> CheckResult:
            raise AssertionError("it was run")

    pi = new_pi()
    run_selftest(pi.manager())

    done = pi.manager().confirm([Never()])

    assert (done.verdict, done.action, done.checks) == ("none", "self_test", ())


def test_the_canary_is_the_booted_tree_as_it_is_now_without_what_would_update_the_eeprom(tmp_path: Path) -> None:
    pi = new_pi()
    pi.manager().stage(
        write_tree(tmp_path, {**tree_files("v2"), "recovery.bin": b"r", "pieeprom.upd": b"p", "pieeprom.sig": b"s"})
    )
    pi.manager().trial()
    pi.manager().commit()

    run_selftest(pi.manager(), replace=True)

    assert pi.boot.partition == NUMBERS[A]
    verified = pi.manager().verify(A)
    assert verified.ok
    record = pi.manager().status().slots[A].record
    assert record is not None
    assert record.annotations == {ANNOTATION: "canary"}
    assert f"{len(tree_files('v2'))} files" in record.sources[0]


def test_asking_again_tells_the_result_and_does_nothing() -> None:
    pi = new_pi()
    first = whole_test(pi)
    before, boots = pi.card.digest(), pi.state.boot_count

    again = run_selftest(pi.manager())

    assert again == first
    assert (pi.card.digest(), pi.state.boot_count) == (before, boots)


def test_another_one_writes_the_same_canary_only_once() -> None:
    pi = new_pi()
    whole_test(pi)
    canary = pi.card.bytes_of(NUMBERS[B])

    found = whole_test(pi, again=True)

    assert proved(found) == PROVED
    assert pi.state.boot_count == 4
    assert pi.card.bytes_of(NUMBERS[B]) == canary


def test_the_result_is_kept_when_updates_come_after_it() -> None:
    pi = new_pi()
    whole_test(pi)
    pi.manager().stage(tree("v2"))
    pi.manager().trial()

    pi.manager().confirm()

    assert pi.manager().status().primary is B
    assert report(pi.manager()).state is State.PASSED


def test_a_dry_run_says_what_it_would_cost_and_writes_nothing() -> None:
    pi = new_pi()
    pi.manager().stage(tree("v2"), label="update 7")
    before = pi.card.digest()

    found = run_selftest(pi.manager(), dry_run=True)

    assert "slot b loses what it holds: a staged tree that was not tried yet, label update 7" in found.cost
    assert (pi.card.digest(), pi.state.boot_count) == (before, 0)


# -- what it refuses --------------------------------------------------------------------------------------------------


def staged_update(pi: CardPi) -> None:
    pi.manager().stage(tree("v2"), label="update 7")


def way_back(pi: CardPi) -> None:
    staged_update(pi)
    pi.manager().trial()
    pi.manager().commit()


@pytest.mark.parametrize(("begin", "held"), [(staged_update, "label update 7"), (way_back, "goes back to")])
def test_a_staged_update_and_the_way_back_are_not_given_up_silently(begin: Callable[[CardPi], None], held: str) -> None:
    pi = new_pi()
    begin(pi)
    before, boots = pi.card.digest(), pi.state.boot_count

    with pytest.raises(Refused, match=f"^cannot self-test: slot . holds .*{held}") as refusal:
        run_selftest(pi.manager())

    assert "--replace" in refusal.value.hint
    assert (pi.card.digest(), pi.state.boot_count) == (before, boots)
    assert whole_test(pi, replace=True).ok


def test_a_slot_with_a_failed_update_needs_nobody_to_give_it_up() -> None:
    pi = new_pi()
    staged_update(pi)
    pi.manager().trial()
    pi.manager().revert()
    pi.manager().confirm()

    assert pi.manager().status().slots[B].state is SlotState.FAILED
    assert whole_test(pi).ok


def test_in_a_trial_and_after_a_stray_boot_it_is_refused() -> None:
    trial, stray = new_pi(), new_pi()
    staged_update(trial)
    trial.manager().trial()
    stray.reboot(str(NUMBERS[B]))

    for pi in (trial, stray):
        before = pi.card.digest() if pi is stray else None
        with pytest.raises(Refused, match=r"^cannot self-test: ") as refusal:
            run_selftest(pi.manager(), replace=True)
        assert refusal.value.hint
        assert before in (None, pi.card.digest())
    assert trial.manager().status().phase is Phase.TRIAL


def test_while_somebody_is_busy_it_is_refused_and_no_verdict_on_the_board() -> None:
    pi = new_pi()
    staged_update(pi)
    pi.change(inhibitors=("apt (upgrading)",))
    before = pi.card.digest()

    with pytest.raises(Refused, match=r"^cannot self-test: a reboot is unwelcome now: apt \(upgrading\)$") as refusal:
        run_selftest(pi.manager(), replace=True)

    assert "--force" not in refusal.value.hint  # which it does not have
    assert (pi.card.digest(), pi.state.boot_count) == (before, 0)
    assert report(pi.manager()).state is State.NONE


@pytest.mark.parametrize("flag", [False, True], ids=["falls back", "leaves with a sticky flag"])
def test_the_canary_waits_for_whoever_is_busy_before_it_reboots(flag: bool) -> None:
    pi = new_pi()
    run_selftest(pi.manager())
    pi.change(inhibitors=("apt (upgrading)",), flag=flag)
    manager = pi.manager()
    machine = manager.machine
    assert machine is not None
    began = machine.clock.boottime_s()

    assert manager.confirm().action == "self_test"

    assert machine.clock.boottime_s() - began >= CONFIG.trial.busy_limit_s
    boot_services(pi)
    assert report(pi.manager()).state is (State.FAILED if flag else State.PASSED)


def test_on_an_image_it_is_refused() -> None:
    with pytest.raises(Refused, match=r"^cannot self-test: this disk is an image"):
        run_selftest(BootManager(new_pi().card, None, CONFIG))


@pytest.mark.parametrize(
    ("board", "words"),
    [
        (
            Board(model=Model.PI_4, bootloader=date(2022, 1, 25)),
            "bootloader of 2022-01-25 does not know A/B boot (H-01)",
        ),
        (
            Board(model=Model.CM4, bootloader=date(2021, 4, 29)),
            "bootloader of 2021-04-29 does not know A/B boot (H-01)",
        ),
        (Board(model=Model.PI_4, kernel=Kernel.MAINLINE), "no /dev/vcio (H-29)"),
        *((Board(model=model), "H-40") for model in OLD_MODELS),
    ],
    ids=lambda value: f"{value.model}-{value.bootloader}-{value.kernel}" if isinstance(value, Board) else "",
)
def test_a_board_that_cannot_try_a_slot_is_told_so_before_anything_is_written(
    board: Board, words: str, old_card: Path
) -> None:
    pi = new_pi(old_card if board.family is Family.PI0_3 else None, board=board)
    before = pi.card.bytes_of(NUMBERS[B])

    found = run_selftest(pi.manager())

    assert (found.state, proved(found)) == (State.FAILED, {"board": False})
    assert words in found.steps[0].found
    assert found.next
    assert pi.card.bytes_of(NUMBERS[B]) == before
    assert pi.state.boot_count == 0


@pytest.mark.parametrize("model", OLD_MODELS)
def test_a_board_that_nothing_is_known_of_can_be_tried_where_the_operator_says_so(model: Model, old_card: Path) -> None:
    """That is what a self-test is for: on a Pi 3 the flag works or not, and nobody can look it up (H-40)."""
    config = attrs.evolve(CONFIG, trial=TrialConfig(allow_unknown_bootloader=True))

    assert whole_test(new_pi(old_card, board=Board(model=model), config=config)).ok


# -- a bad board ------------------------------------------------------------------------------------------------------


class OddPi(CardPi):
    """Its firmware does something else at the second reboot, the one out of the canary, or at the first."""

    def __init__(self, reset: Callable[[OddPi, int], None], config: Config = CONFIG) -> None:
        self.odd: Callable[[OddPi, int], None] | None = None
        self.resets = 0
        super().__init__(CardDisk(card()), Board(model=Model.PI_4, eeprom=Eeprom(partition_walk=True)), config)
        self.odd = reset

    def reboot(self, argument: str | None = None) -> Any:
        self.resets += 1
        if self.odd is not None:
            self.odd(self, self.resets)
        return super().reboot(argument)


def test_a_flag_that_survives_its_boot_is_found_and_cleared() -> None:
    pi = new_pi()
    run_selftest(pi.manager())
    pi.change(flag=True)  # the firmware used it, and it reads as set

    boot_services(pi)
    found = report(pi.manager())

    assert (found.state, proved(found)["fall_back"]) == (State.FAILED, False)
    assert "does not clear the flag" in found.steps[-1].found
    status = pi.manager().status()
    assert (status.phase, status.booted, status.flag) == (Phase.SETTLED, A, False)


def test_a_board_that_comes_back_to_the_canary_is_told_and_makes_no_loop() -> None:
    pi = OddPi(lambda pi, _count: pi.change(flag=True))  # no reset ever clears it

    found = whole_test(pi)

    assert pi.state.boot_count == 2
    assert pi.manager().status().phase is Phase.FOREIGN
    assert (found.state, found.steps[-1].id, found.steps[-1].ok) == (State.FAILED, "fall_back", False)
    assert "earlier boot" in found.steps[-1].found


def test_a_canary_that_the_firmware_cannot_load_is_told() -> None:
    def unreadable(pi: OddPi, count: int) -> None:
        if count == 1:
            start, _size = pi.card.place(NUMBERS[B])
            pi.card.image[start : start + 512] = bytes(512)

    found = whole_test(OddPi(unreadable))

    assert (found.state, proved(found)["flag"], proved(found)["partition"]) == (State.FAILED, True, False)


def test_a_board_that_forgets_the_flag_is_told(old_card: Path) -> None:
    found = whole_test(OddPi(lambda pi, _count: pi.change(flag=False, argument=None)))

    # The reboot argument "0 tryboot" still asks for it: only with both gone does the canary not come.
    assert found.state is State.PASSED

    found = whole_test(DeafPi(CardDisk(card()), Board(model=Model.PI_4), CONFIG))

    assert (found.state, proved(found)["flag"]) == (State.FAILED, None)
    assert "nobody can tell which" in found.steps[-2].found

    config = attrs.evolve(CONFIG, trial=TrialConfig(allow_unknown_bootloader=True))
    found = whole_test(DeafPi(CardDisk(old_card), Board(model=Model.PI_3), config))

    assert (found.state, proved(found)["flag"]) == (State.FAILED, None)  # H-40


# -- interrupted ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", [lambda _pi: None, staged_update], ids=["as built", "over an update"])
def test_a_power_cut_before_every_write_is_harmless_and_told(begin: Callable[[CardPi], None]) -> None:
    seen: set[State] = set()
    for writes in range(1000):
        pi = new_pi()
        begin(pi)
        boot_sector = pi.card.bytes_of(NUMBERS[A])
        pi.cut_before_write(writes)
        try:
            run_selftest(pi.manager(), replace=True)
            boot_services(pi)
        except PowerCut:
            pi.cut_before_write(None)
            pi.power_cut()
        else:
            break
        assert pi.boot.partition == NUMBERS[A], writes
        assert pi.card.bytes_of(NUMBERS[A]) == boot_sector  # G4
        boot_services(pi)
        found = report(pi.manager())
        seen.add(found.state)
        assert found.state is not State.RUNNING, writes
        # Only a cut behind the entry that announces the reboot ends as a proof: it cannot be told from that reboot.
        assert found.ok == (proved(found).get("fall_back") is True)
        assert whole_test(pi, again=True, replace=True).ok, writes
    assert report(pi.manager()).ok
    assert {State.NONE, State.INTERRUPTED, State.FAILED} <= seen
    assert writes >= 8


def test_a_cut_in_the_canary_proves_no_fall_back() -> None:
    pi = new_pi()
    run_selftest(pi.manager())
    pi.manager().note_boot()
    pi.power_cut()

    boot_services(pi)
    found = report(pi.manager())

    assert (found.state, found.ok) == (State.INTERRUPTED, False)
    assert proved(found) == {**PROVED, "fall_back": None}
    assert whole_test(pi).ok  # asked again, it starts again


def test_what_happened_is_told_before_anybody_noted_it() -> None:
    pi = new_pi()
    run_selftest(pi.manager())
    assert (report(pi.manager()).state, proved(report(pi.manager()))["flag"]) == (State.RUNNING, None)
    pi.manager().note_boot()
    assert proved(report(pi.manager()))["partition"] is True
    pi.manager().confirm()
    before = pi.card.digest()

    found = report(pi.manager())

    assert found.ok
    assert pi.card.digest() == before


def test_what_it_waits_for_is_told() -> None:
    pi = new_pi()
    staged = pi.manager().stage(None, base="booted", annotations={ANNOTATION: "canary"}, label=LABEL)
    pi.manager().trial(staged.record_digest, reboot=False, reason=LABEL)
    told = [(report(pi.manager()).steps[-1].id, report(pi.manager()).steps[-1].found)]
    pi.reboot()
    pi.manager().note_boot()
    told.append((report(pi.manager()).steps[-1].id, report(pi.manager()).steps[-1].found))

    assert told == [
        ("flag", "waiting for the reboot"),
        ("fall_back", "waiting for `abboot confirm` to reboot without commit"),
    ]


def test_status_never_takes_a_canary_for_an_update() -> None:
    pi = new_pi()
    pi.manager().stage(None, base="booted", annotations={ANNOTATION: "canary"}, label=LABEL)  # and the power goes
    pi.power_cut()
    boot_services(pi)
    assert pi.manager().status().slots[B].state is SlotState.STAGED
    assert pi.manager().status().next == "go on with the self-test that was interrupted: abboot selftest"

    run_selftest(pi.manager())

    assert pi.manager().status().next == "go on with the self-test: abboot selftest"


def test_the_command_in_the_canary_goes_on_with_the_test() -> None:
    pi = new_pi()
    run_selftest(pi.manager())

    leaving = run_selftest(pi.manager())

    assert leaving.rebooting
    assert run_selftest(pi.manager()).state is State.PASSED
    assert pi.state.boot_count == 2


def test_somebody_who_leaves_the_canary_is_named() -> None:
    pi = new_pi()
    run_selftest(pi.manager())
    pi.manager().revert(reason="I wanted to")
    boot_services(pi)

    found = report(pi.manager())

    assert found.state is State.INTERRUPTED
    assert "(reverted): I wanted to" in found.steps[-1].found


def test_a_canary_is_never_committed() -> None:
    """An engine that calls every boot a good one must not end the proof."""
    pi = new_pi()
    run_selftest(pi.manager())

    with pytest.raises(Refused, match="holds the canary of a self-test"):
        pi.manager().commit()

    assert pi.manager().status().primary is A
    boot_services(pi)
    assert report(pi.manager()).ok


def test_a_health_service_of_somebody_else_goes_on_with_the_test_too() -> None:
    pi = new_pi()
    run_selftest(pi.manager())

    change = pi.manager().end_trial(healthy=True, reason="all is well")
    boot_services(pi)

    assert change.rebooting
    assert report(pi.manager()).ok


def test_a_canary_that_was_armed_and_cancelled_is_interrupted() -> None:
    pi = new_pi()
    staged = pi.manager().stage(None, base="booted", annotations={ANNOTATION: "canary"}, label=LABEL)
    pi.manager().trial(staged.record_digest, reboot=False, reason=LABEL)
    pi.manager().revert()

    found = report(pi.manager())

    assert (found.state, proved(found)["flag"]) == (State.INTERRUPTED, None)


def test_an_update_that_is_staged_over_an_interrupted_test_leaves_it_interrupted() -> None:
    pi = new_pi()
    run_selftest(pi.manager())
    pi.power_cut()
    pi.manager().confirm()
    pi.manager().stage(tree("v2"))
    pi.manager().trial()

    assert pi.manager().confirm().action == "committed"
    assert report(pi.manager()).state is State.FAILED  # not reached: a cut, or a canary that never came up


class BrokenCard(CardDisk):
    """From a moment on it takes no more writes."""

    broken = False

    def open_partition(self, number: int, start: int, size: int, *, writable: bool = False) -> Any:
        return _BrokenWindow(self, number, start, size, writable=writable)


class _BrokenWindow(_Window):
    _disk: BrokenCard

    def write(self, offset: int, data: Buffer) -> None:
        if self._disk.broken:
            raise DeviceError(f"cannot write {self.name}: input/output error")
        super().write(offset, data)


def test_without_a_journal_the_canary_asks_for_no_reboot() -> None:
    """G7: a reboot that nobody can count is not asked for; the deadline of the trial ends it."""
    broken = BrokenCard(card())
    pi = CardPi(broken, Board(model=Model.PI_4), CONFIG)
    run_selftest(pi.manager())
    broken.broken = True
    boots = pi.state.boot_count

    with pytest.raises(DeviceError):
        pi.manager().confirm()

    assert pi.state.boot_count == boots


# -- the journal may hold anything ------------------------------------------------------------------------------------

DIGESTS = st.sampled_from(["0" * 64, "1" * 64])


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    ended = draw(st.booleans())
    trial = Trial(
        slot=draw(st.sampled_from(Slot)),
        record_digest=draw(DIGESTS),
        progress=TrialProgress.ENDED if ended else TrialProgress.STARTED,
        outcome=draw(st.sampled_from(Outcome)) if ended else None,
    )
    return Entry(
        sequence=draw(st.integers(0, 9)),
        transition=draw(st.sampled_from(Transition)),
        primary=draw(st.sampled_from(Slot)),
        slots={
            slot: SlotEntry(partition=NUMBERS[slot], state=SlotState.GOOD, record_digest=draw(st.none() | DIGESTS))
            for slot in Slot
        },
        trial=draw(st.none() | st.just(trial)),
        note=draw(st.sampled_from(["", LABEL])),
    )


@settings(max_examples=50)
@given(st.lists(entries(), max_size=12))
def test_a_test_needs_an_entry_of_its_own_and_an_outcome_needs_an_arm(history: list[Entry]) -> None:
    run = last_run(history)

    assert run is None or any(entry.note == LABEL for entry in history)
    assert run is None or run.outcome is None or run.armed


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_makes_the_whole_test_on_a_simulated_pi(tmp_path: Path) -> None:
    image = new_card(tmp_path)

    done = said("--sim", image, "selftest")

    assert (done["ok"], done["state"], done["rebooting"]) == (True, "passed", False)
    assert [(boot["partition"], boot["tryboot"]) for boot in done["boots"]] == [(3, True), (2, False)]
    assert said("--sim", image, "selftest")["boots"] == []
    assert said("--sim", image, "status")["booted"] == "a"


def test_the_command_says_that_a_bootloader_is_too_old_and_exits_with_1(tmp_path: Path) -> None:
    image = new_card(tmp_path)
    said("simulate", "boot", image, "--model", "pi4", "--bootloader", "2022-01-25")

    done = said("--sim", image, "selftest", code=1)

    assert (done["ok"], done["steps"][0]["ok"]) == (False, False)
    assert "rpi-eeprom-update" in done["next"]


def test_the_command_refuses_what_it_would_destroy(tmp_path: Path) -> None:
    image = new_card(tmp_path)
    said("--sim", image, "stage", tree("v2"))

    assert "--replace" in refused("--sim", image, "selftest")["hint"]
    assert said("--sim", image, "selftest", "--replace")["ok"]
