"""The self-test: prove the flag, the partition and the fall-back on this very board, before an update trusts them.

A *canary*, which is a copy of the booted tree, is staged onto the inactive slot and tried.  In its boot nothing is
committed; abboot asks for a plain reboot, and it is the firmware that has to return to the primary.  What a release
note or a model says of a board is not asked: this is the board.

Rules:

* Nothing is remembered but in the journal, and the canary is known by an annotation in its record.  So a power cut
  anywhere is harmless: the next boot is one of the primary, and what is missing is told as missing.
* Only a person starts a self-test.  Health code goes on with one that runs (:func:`advance`), and that is one reboot
  out of a trial, in the journal before it is asked for: never a loop (G7).
* The primary is never written (G4), and the canary is never committed.

Limits.  A cut between the entry that announces the reboot and that reboot cannot be told from it.  The journal is a
ring: after some ten updates the result is gone, and the test has to be made again.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import attrs

from abboot.core.words import Outcome, Phase, Slot, SlotState, Transition, TrialProgress
from abboot.errors import Refused

if TYPE_CHECKING:
    from abboot.core.journal import Entry
    from abboot.core.record import Record
    from abboot.manager import BootManager
    from abboot.progress import Progress
    from abboot.results import Change
    from abboot.status import SlotStatus, Status

LABEL = "abboot self-test"  # of the canary's record, and the note of its journal entries
ANNOTATION = "abboot.selftest"
#: What would update the EEPROM and reset the board in the middle of the test (H-11).
LEFT_OUT = ("pieeprom.upd", "pieeprom.sig", "recovery.bin", "vl805.bin", "vl805.sig")
LEAVING = f"{LABEL}: the flag and the partition arrived, rebooting without commit"
STICKY = f"{LABEL}: the firmware used the flag and did not clear it"


class State(enum.StrEnum):
    """How far a self-test is."""

    NONE = "none"  # there was none, or the journal has forgotten it
    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # a power cut, or a person: nothing is wrong with the board, as far as it got


@attrs.frozen(kw_only=True)
class Step:
    """One thing that is to be proved."""

    id: str  # "board", "stage", "arm", "flag", "partition" or "fall_back"
    ok: bool | None  # None: not proved, neither way
    found: str


@attrs.frozen(kw_only=True)
class SelfTest:
    """What the last self-test of this board showed."""

    state: State
    slot: Slot | None
    steps: tuple[Step, ...]
    next: str  # what to do now
    cost: str = ""  # what the slot held before, where that was given up or would be
    rebooting: bool = False

    @property
    def ok(self) -> bool:
        return self.state is State.PASSED


@attrs.frozen(kw_only=True)
class _Run:
    """The last self-test, as the journal has it."""

    slot: Slot | None = None
    digest: str | None = None  # of the canary's record; None: its staging did not end
    armed: bool = False
    started: bool = False
    left: bool = False
    outcome: Outcome | None = None
    reason: str = ""

    def seen(self, entry: Entry) -> _Run:
        """With one more entry about its trial."""
        trial = entry.trial
        if not self.armed or self.outcome is not None or trial is None or trial.record_digest != self.digest:
            return self
        return attrs.evolve(
            self,
            started=self.started or trial.started_boot_id is not None,
            left=self.left or trial.reason == LEAVING,
            outcome=trial.outcome,
            reason=trial.reason,
        )


def last_run(entries: Iterable[Entry]) -> _Run | None:
    """The last self-test in these entries, oldest first; ``None`` if there is none."""
    run: _Run | None = None
    over = False  # something else was staged or tried since
    for entry in entries:
        ours = entry.note == LABEL
        match entry.transition:
            case Transition.STAGING:
                over = not ours
                run = _Run() if ours else run
            case Transition.STAGED if ours:
                (slot,) = [slot for slot in Slot if slot is not entry.primary]
                run, over = _Run(slot=slot, digest=entry.slots[slot].record_digest), False
            case Transition.ARMED if entry.trial is not None:
                over = not ours
                if ours:
                    run = _Run(slot=entry.trial.slot, digest=entry.trial.record_digest, armed=True)
            case _ if run is not None and not over:
                run = run.seen(entry)
    return run


def is_canary(record: Record | None) -> bool:
    """Whether this is the record of what a self-test staged."""
    return record is not None and ANNOTATION in record.annotations


def advance(manager: BootManager) -> Change | None:
    """In the boot of a canary: journal that it came, and reboot without commit.  Anywhere else: nothing.

    :meth:`BootManager.confirm` and :meth:`BootManager.end_trial` call it; after :meth:`BootManager.note_boot`, so may
    anybody who ends trials by other means.

    Raises:
        AbbootError: the journal could not be written; nothing was asked for then (G7), and the deadline of the trial
            ends it (G11).
    """
    status = manager.status()
    trial = status.last_trial
    if status.phase is not Phase.TRIAL or status.booted is None or trial is None:
        return None
    if trial.progress not in (TrialProgress.ARMED, TrialProgress.STARTED):
        return None  # somebody leaves it already
    if not is_canary(status.slots[status.booted].record):
        return None
    if status.flag:
        # It would bring back the canary: leave as from any other trial, which clears it.
        return manager.end_trial(healthy=False, reason=STICKY)
    return manager.fall_back(reason=LEAVING)


def report(manager: BootManager) -> SelfTest:
    """What the last self-test showed.  No lock, no write."""
    status = manager.status()
    run = last_run(manager.log())
    if run is None:
        return SelfTest(state=State.NONE, slot=None, steps=(), next="prove this board: abboot selftest")
    last = status.last_trial
    if run.armed and run.outcome is None and last is not None and last.record_digest == run.digest:
        run = attrs.evolve(run, outcome=last.outcome)  # also one that nobody noted yet
    state, steps = _judge(run, status)
    return SelfTest(state=state, slot=run.slot, steps=steps, next=_NEXT[state])


def run_selftest(
    manager: BootManager,
    *,
    again: bool = False,
    replace: bool = False,
    dry_run: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> SelfTest:
    """Start a self-test, go on with one that runs, or tell what the last one showed.

    It takes two reboots; the service that confirms trials does the second one.  Afterwards ask :func:`report`.

    Args:
        again: make a new one, whatever the last one showed.
        replace: the inactive slot may hold a tree that was staged or is good, and is given up.
        dry_run: say what it would cost; write nothing.
        progress: of the staging.

    Raises:
        Refused: this is no settled board, somebody is busy, or the inactive slot holds something that nobody gave up.
        AbbootError: what :meth:`BootManager.stage` and :meth:`BootManager.trial` raise.
    """
    if not dry_run:
        manager.note_boot()
        if (change := advance(manager)) is not None:
            return attrs.evolve(report(manager), rebooting=change.rebooting)
    found = report(manager)
    if found.state in (State.PASSED, State.FAILED) and not again and not dry_run:
        return found
    status = manager.status()
    if found.state is State.RUNNING and status.phase is Phase.ARMED and not dry_run:
        _check_idle(manager)
        return attrs.evolve(report(manager), rebooting=manager.trial(reason=LABEL).rebooting)
    slot = _slot_for_canary(status)
    held = _held(status.slots[slot], status.slots[slot.other])
    cost = f"slot {slot} loses what it holds: {held}" if held else f"nothing: slot {slot} holds nothing that is missed"
    try:
        manager.check_board()
    except Refused as refused:
        step = Step(id="board", ok=False, found=refused.message)
        return SelfTest(state=State.FAILED, slot=None, steps=(step,), next=refused.hint, cost=cost)
    if dry_run:
        return attrs.evolve(found, cost=cost)
    if held and not replace:
        raise Refused(
            f"cannot self-test: slot {slot} holds {held}, and the test needs that slot",
            "give it up with `abboot selftest --replace`, and stage it again after the test",
        )
    _check_idle(manager)
    staged = manager.stage(
        None, base="booted", drop=LEFT_OUT, annotations={ANNOTATION: "canary"}, label=LABEL, progress=progress
    )
    change = manager.trial(staged.record_digest, retry=True, reason=LABEL)
    return attrs.evolve(report(manager), cost=cost, rebooting=change.rebooting)


def _check_idle(manager: BootManager) -> None:
    """Before the slot is given up.  It says nothing about the board, so it is no result of the test."""
    try:
        manager.check_idle("self-test")
    except Refused as busy:
        raise Refused(busy.message, "try again later") from None


def _slot_for_canary(status: Status) -> Slot:
    if status.phase is not Phase.SETTLED or status.primary is None:
        hint = "end the trial first: `abboot confirm`, or `abboot revert`"
        if status.phase is Phase.OFFLINE:
            hint = "run it on the device itself, or with --sim for a simulated Pi"
        elif status.phase is Phase.FOREIGN:
            hint = "return to the primary first: a plain reboot, or `abboot repair`"
        raise Refused(f"cannot self-test: {status.reason}", hint)
    return status.primary.other


def _held(slot: SlotStatus, booted: SlotStatus) -> str:
    """What would be lost with a slot's content; empty for what nobody misses."""
    if slot.state in (SlotState.EMPTY, SlotState.INCOMPLETE, SlotState.FAILED) or is_canary(slot.record):
        return ""
    if slot.record is not None and booted.record is not None and slot.record.tree_digest == booted.record.tree_digest:
        return ""  # a card as it was built: both slots hold one tree, and the canary is that tree again
    what = {
        SlotState.GOOD: "a good tree, the one that `abboot revert` goes back to",
        SlotState.STAGED: "a staged tree that was not tried yet",
    }.get(slot.state, "something that abboot does not know")
    names = [
        f"label {slot.label}" if slot.label else "",
        f"record {slot.record_digest[:12]}" if slot.record_digest else "",
    ]
    return ", ".join([what, *filter(None, names)])


# -- the verdict -----------------------------------------------------------------------------------------------------

_NEXT = {
    State.NONE: "prove this board: abboot selftest",
    State.RUNNING: "wait for the reboots; then ask again: abboot selftest",
    State.PASSED: "this board can be trusted with a trial: stage an update",
    State.FAILED: "do not trust a trial on this board before the failed step is understood; abboot selftest --again",
    State.INTERRUPTED: "nothing is wrong as far as it got; start it again: abboot selftest",
}

_NOTHING_CAME = "a power cut, or a canary that never came up: nobody can tell which"


def _judge(run: _Run, status: Status) -> tuple[State, tuple[Step, ...]]:
    """The verdict over a run, and where the board stands now.  Pure."""
    staged, armed = run.digest is not None, run.armed
    steps = [
        Step(id="board", ok=True, found="bootloader and kernel let a trial be armed here"),
        Step(id="stage", ok=staged or None, found=f"the canary is on slot {run.slot}" if staged else "cut short"),
    ]
    if not staged or not armed:
        why = "interrupted before the canary was armed" if staged else "the staging was cut short"
        return State.INTERRUPTED, (*steps, Step(id="arm", ok=None, found=why))
    steps.append(Step(id="arm", ok=True, found=f"slot {run.slot} was armed for one boot"))
    if run.outcome is None:
        return _judge_open(run, status, steps)
    state, flag, partition, fall_back = _ended(run)
    steps += [
        Step(id=name, ok=ok, found=found)
        for name, (ok, found) in (("flag", flag), ("partition", partition), ("fall_back", fall_back))
    ]
    return state, tuple(steps)


def _judge_open(run: _Run, status: Status, steps: list[Step]) -> tuple[State, tuple[Step, ...]]:
    if status.phase is Phase.FOREIGN:
        # Something runs that abboot did not arm: before the canary came, or after it was left.
        what = "fall_back" if run.left else "flag"
        proved = [Step(id=name, ok=True, found=text) for name, text in _ARRIVED] if run.left else []
        return State.FAILED, (*steps, *proved, Step(id=what, ok=False, found=status.reason))
    proved = [Step(id=name, ok=True, found=text) for name, text in _ARRIVED] if run.started else []
    waiting = "waiting for the reboot"
    if run.started:
        waiting = "rebooting without commit" if run.left else "waiting for `abboot confirm` to reboot without commit"
    waits = Step(id="fall_back" if run.started else "flag", ok=None, found=waiting)
    return State.RUNNING, (*steps, *proved, waits)


_ARRIVED = (
    ("flag", "the firmware used it: the boot of the canary reported tryboot"),
    ("partition", "the canary was booted from its own partition"),
)

_Finding = tuple[bool | None, str]


def _ended(run: _Run) -> tuple[State, _Finding, _Finding, _Finding]:
    """State, and what is known of flag, partition and fall-back, from how the trial ended."""
    (_, flag), (_, partition) = _ARRIVED
    not_asked: _Finding = (None, "not proved")
    arrived: tuple[_Finding, _Finding] = ((True, flag), (True, partition))
    match run.outcome:
        case Outcome.FELL_BACK if run.left:
            return State.PASSED, *arrived, (True, "a plain reboot without commit returned to the primary")
        case Outcome.FELL_BACK:
            cut = "another reset came before the one of the test: a power cut, or a watchdog"
            return State.INTERRUPTED, *arrived, (None, f"it returned to the primary, but {cut}")
        case Outcome.UNBOOTABLE:
            failed = "the firmware could not load the canary, a copy of what it boots every day"
            return State.FAILED, (True, "the firmware used it"), (False, failed), (True, "it went on to the primary")
        case Outcome.NOT_REACHED:
            return State.FAILED, (None, _NOTHING_CAME), (None, _NOTHING_CAME), not_asked
        case Outcome.REVERTED if run.reason == STICKY:
            return State.FAILED, *arrived, (False, "the firmware does not clear the flag after it used it")
        case Outcome.DISARMED:
            cancelled: _Finding = (None, "cancelled before the reboot")
            return State.INTERRUPTED, cancelled, cancelled, not_asked
        case _:
            ended = f"somebody ended the trial of the canary ({run.outcome})"
            return State.INTERRUPTED, *arrived, (None, f"{ended}: {run.reason}" if run.reason else ended)
