"""Every order in which things can happen to a Pi, on the pure core: breadth first, equal states merged.

``python -m tests.crash.search --depth 8`` prints how many states there are, and the shortest way to each violation.

A state is a small value: what ``autoboot.txt`` says, what the newest journal entry says, what each slot holds, and what
this boot knows.  From each state the search runs every verb, through the real :func:`classify` and the real plans, cut
before every step (a stage before each of its epochs, a switch also in the middle of its sector), and then lets the
process die, the power go, or the watchdog fire.  Who resets, and what the firmware then boots, is asked of the firmware
model: a Pi 4 and a Pi 5, the walk on and off, the first bootloader after A/B support, every answer that nobody knows.

Rules:
    1. States are equal modulo sequence numbers, clocks, the names of records, and boot ids other than this boot's.
    2. What the verbs decide before they plan is written here a second time, short, as the documentation has it.
    3. ``proven`` is the search's own book: nothing that abboot reads, so no mistake of abboot's can hide in it.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from abboot.core import plan as steps
from abboot.core.autoboot import Autoboot
from abboot.core.firmware import Board, CardView, PartitionView, Reset, ResetKind, after_reset, next_boot
from abboot.core.journal import Clocks, Entry, Journal, SlotEntry, Trial
from abboot.core.plan import TRYBOOT_ARGUMENT, Plan, Stamp
from abboot.core.protocols import BootReport, Mount
from abboot.core.states import OPEN, Observation, Permit, Situation, SlotReading, Verb, classify, slot_after
from abboot.core.words import Outcome, Phase, Slot, SlotState, TableKind, Transition, TrialProgress
from abboot.errors import AbbootError, Refused, VerificationFailed
from abboot.repair import repair as repair_selector
from tests.cards import BOARDS, HANGING, NUMBERS, UNBOOTABLE, tree_files
from tests.core.test_states import LAYOUT

A, B = Slot.A, Slot.B
SLOTS = {number: slot for slot, number in NUMBERS.items()}
THIS, OTHER = "this", "other"  # boot ids
ATTEMPTS = 2  # one more than the default, so that the attempts are counted at all
CLOCKS = Clocks(realtime_s=0.0, boottime_s=100.0)
SHAPE = {"sector_size": 512}
NEW = 99  # the name of a record that is being staged, until the action is over
TREES = {"works": tree_files("v1"), "skipped": UNBOOTABLE, "hangs": HANGING}
WHOLE = {SlotState.GOOD, SlotState.STAGED, SlotState.FAILED, SlotState.UNKNOWN}
KEPT = {SlotState.GOOD, SlotState.STAGED, SlotState.FAILED}


# -- a state of the world ---------------------------------------------------------------------------------------------


class Held(NamedTuple):
    """What is on a slot."""

    digest: int  # names the record; 0: none
    tree: str  # what the firmware makes of it: `TREES`
    whole: bool  # False while a stage writes it
    shown: bool  # it has its boot sector
    proven: bool  # built in, or committed out of a trial
    rotten: bool = False  # it lost a file that the firmware needs, after it was written


class Known(NamedTuple):
    """What the journal says of a slot."""

    state: SlotState
    digest: int
    shape: bool  # how to give it back its boot sector


class Tried(NamedTuple):
    """The journal's last trial."""

    slot: Slot
    digest: int
    attempt: int
    armed: str | None
    started: str | None
    progress: TrialProgress
    outcome: Outcome | None


class Memory(NamedTuple):
    """The journal's newest entry, and what older ones are still asked for."""

    primary: Slot
    a: Known
    b: Known
    trial: Tried | None
    counted: str | None  # boot id of the first entry of those that count a repair's reboot
    switched: bool  # in this boot


Text = tuple[int, int]  # boot_partition of [all] and of [tryboot]


class World(NamedTuple):
    text: Text | None  # None: garbage
    memory: Memory | None  # None: lost
    a: Held
    b: Held
    flag: bool
    argument: bool  # a pending "0 tryboot"
    booted: int | None  # partition; None: nothing runs
    told: int | None  # what the device tree says
    tryboot: bool
    request: int
    unsettled: tuple[Text | None, Memory | None] | None  # what a card that loses a commit of the last 5 s has (H-47)
    faults: int  # that may still happen

    def held(self, slot: Slot) -> Held:
        return self.a if slot is A else self.b

    def known(self, slot: Slot) -> Known | None:
        return self.memory and (self.memory.a if slot is A else self.memory.b)

    def with_slot(self, slot: Slot, **changes: Any) -> World:
        held = self.held(slot)._replace(**changes)
        return self._replace(a=held) if slot is A else self._replace(b=held)

    def bootable(self, slot: Slot) -> str:
        """What the firmware finds there: a tree, or nothing."""
        held = self.held(slot)
        return "" if not held.shown else "skipped" if held.rotten else held.tree

    @property
    def primary(self) -> Slot | None:
        if self.text is not None:
            return SLOTS[self.text[0]]
        return self.memory.primary if self.memory else None


def fresh(primary: Slot, *, faults: int = 0) -> World:
    """A card as the image builder leaves it, just switched on."""
    number = NUMBERS[primary]
    return World(
        text=(number, number),
        memory=Memory(
            primary, Known(SlotState.GOOD, 1, True), Known(SlotState.GOOD, 2, True), None, counted=None, switched=False
        ),
        a=Held(1, "works", whole=True, shown=True, proven=True),
        b=Held(2, "works", whole=True, shown=True, proven=True),
        flag=False,
        argument=False,
        booted=number,
        told=number,
        tryboot=False,
        request=0,
        unsettled=None,
        faults=faults,
    )


def canonical(world: World) -> World:
    """With the records named in the order of their first appearance."""
    names, same = {0: 0}, True
    for digest in _names(world):
        if digest not in names:
            same = same and digest == len(names)
            names[digest] = len(names)
    if same:
        return world

    def memory(found: Memory | None) -> Memory | None:
        if found is None:
            return None
        a, b, trial = found.a, found.b, found.trial
        a, b = a._replace(digest=names[a.digest]), b._replace(digest=names[b.digest])
        return found._replace(a=a, b=b, trial=trial and trial._replace(digest=names[trial.digest]))

    a, b, unsettled = world.a, world.b, world.unsettled
    return world._replace(
        a=a._replace(digest=names[a.digest]),
        b=b._replace(digest=names[b.digest]),
        memory=memory(world.memory),
        unsettled=unsettled and (unsettled[0], memory(unsettled[1])),
    )


def _names(world: World) -> list[int]:
    found = [world.a.digest, world.b.digest]
    for memory in (world.memory, world.unsettled[1] if world.unsettled else None):
        if memory is not None:
            found += [memory.a.digest, memory.b.digest]
            found += [memory.trial.digest] if memory.trial else []
    return found


# -- what abboot sees of it -------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """The part of a world that abboot can read."""

    text: Text | None
    memory: Memory | None
    a: Held  # without what only the search knows
    b: Held
    flag: bool
    argument: bool
    told: int | None
    tryboot: bool
    here: bool  # abboot runs on that Pi; else its card is in a reader


def seen(world: World) -> Seen:
    a, b = (held._replace(tree="", proven=False) for held in (world.a, world.b))
    here = world.booted is not None
    return Seen(world.text, world.memory, a, b, world.flag, world.argument, world.told, world.tryboot, here)


def _digest(number: int) -> str | None:
    return f"{number:064x}" if number else None


@functools.cache
def _bytes(text: Text | None) -> bytes:
    return b"?" * 64 if text is None else Autoboot(primary=text[0], trial=text[1]).render()


@functools.cache
def _entries(memory: Memory | None) -> tuple[Entry, ...]:
    if memory is None:
        return ()
    trial = memory.trial
    slots = {
        slot: SlotEntry(
            partition=NUMBERS[slot],
            state=known.state,
            record_digest=_digest(known.digest),
            geometry=SHAPE if known.shape else None,
        )
        for slot, known in ((A, memory.a), (B, memory.b))
    }
    newest = Entry(
        sequence=10,
        transition=Transition.CONCLUDED,
        primary=memory.primary,
        slots=slots,
        trial=trial
        and Trial(
            slot=trial.slot,
            record_digest=_digest(trial.digest) or "",
            attempt=trial.attempt,
            armed_boot_id=trial.armed,
            started_boot_id=trial.started,
            progress=trial.progress,
            outcome=trial.outcome,
        ),
        boot_id=OTHER,
        repair_reboots=1 if memory.counted else 0,
    )
    older = []
    if memory.switched:
        older.append(
            Entry(
                sequence=8,
                transition=Transition.COMMITTED,
                primary=memory.primary,
                slots=slots,
                boot_id=THIS,
                clocks=CLOCKS,
            )
        )
    if memory.counted:
        older.append(
            Entry(
                sequence=9,
                transition=Transition.REPAIRED,
                primary=memory.primary,
                slots=slots,
                boot_id=memory.counted,
                repair_reboots=1,
            )
        )
    return (*older, newest)


def _memory(entry: Entry, before: Memory | None) -> Memory:
    """What is left of an entry that was appended."""
    trial, first = entry.trial, None
    if entry.repair_reboots:
        first = before.counted if before is not None and before.counted else entry.boot_id
    a, b = (
        Known(known.state, int(known.record_digest or "0", 16), known.geometry is not None)
        for known in (entry.slots[A], entry.slots[B])
    )
    switched = entry.transition in (Transition.COMMITTED, Transition.COMMITTING)
    return Memory(
        primary=entry.primary,
        a=a,
        b=b,
        trial=None if trial is None else _tried(trial),
        counted=first,
        switched=switched or (before is not None and before.switched),
    )


def _tried(trial: Trial) -> Tried:
    return Tried(
        trial.slot,
        int(trial.record_digest, 16),
        min(trial.attempt, ATTEMPTS),
        trial.armed_boot_id,
        trial.started_boot_id,
        trial.progress,
        trial.outcome,
    )


def _reading(slot: Slot, held: Held, known: Known | None) -> SlotReading:
    hidden = not held.shown and held.whole and known is not None and known.state in WHOLE and known.shape
    visible = held.shown or hidden
    return SlotReading(
        partition=NUMBERS[slot],
        readable=held.shown,
        hidden=hidden,
        record_digest=_digest(held.digest) if visible else None,
        geometry=SHAPE if visible else None,
        problem="a file is missing" if held.rotten else "",
    )


@functools.cache
def observed(found: Seen) -> tuple[Observation, Situation]:
    """The observation that a disk and a board of this kind give, and what follows from it."""
    text, memory, here = found.text, found.memory, found.here
    observation = Observation(
        layout=LAYOUT,
        booted_here=here,
        report=BootReport(partition=found.told, tryboot=found.tryboot) if here else None,
        boot_id=THIS if here else None,
        flag=found.flag if here else None,
        pending_argument=TRYBOOT_ARGUMENT if found.argument else None,
        autoboot_raw=_bytes(text),
        autoboot=None if text is None else Autoboot(primary=text[0], trial=text[1]),
        autoboot_problem="garbage" if text is None else "",
        journal=Journal(entries=_entries(memory), blocks=64),
        journal_problem="no entry can be read" if memory is None else "",
        slots={
            A: _reading(A, found.a, memory.a if memory else None),
            B: _reading(B, found.b, memory.b if memory else None),
        },
    )
    return observation, classify(observation)


# -- what the verbs decide before they plan ---------------------------------------------------------------------------

Planner = Callable[[Observation, Situation], Plan]


def _permit(situation: Situation, verb: Verb) -> Permit:
    permit = situation.permit(verb)
    if permit is Permit.REFUSE:
        raise Refused(f"cannot {verb}: {situation.reason}")
    return permit


def _stamp(observation: Observation) -> Stamp:
    return Stamp(boot_id=observation.boot_id, clocks=CLOCKS if observation.booted_here else None, version="1")


def _not_damaged(observation: Observation) -> None:
    if observation.autoboot is None:
        raise Refused("autoboot.txt is damaged")


def _stage(observation: Observation, situation: Situation, *, again: bool) -> Plan:
    _not_damaged(observation)
    permit = _permit(situation, Verb.STAGE)
    slot, primary = situation.inactive, situation.primary
    way_back = observation.slots[primary] if primary is not None else None
    if slot is None or way_back is None or not way_back.readable or way_back.problem:
        raise Refused("nowhere to stage to, or no way back")
    reading = observation.slots[slot]
    digest = _digest(NEW)
    if again:
        # The tree that is there already: its record stays, and nothing is written unless the boot sector is away.
        digest = reading.record_digest
        if digest is None or situation.states[slot] not in KEPT:
            raise Refused("nothing to stage again")
        if reading.readable and not reading.problem:
            if permit is Permit.DISARM_FIRST:
                return steps.plan_rest(observation, situation, _stamp(observation), attempts=ATTEMPTS)
            return Plan()
    return steps.plan_stage(
        observation,
        situation,
        _stamp(observation),
        slot=slot,
        attempts=ATTEMPTS,
        record_digest=digest or "",
        generation=1,
        volume_id=1,
        label="BOOT",
        geometry=SHAPE,
    )


def _state(situation: Situation, slot: Slot) -> SlotState:
    """With the outcome that nobody noted yet."""
    state, rule, trial = situation.states[slot], situation.outcome, situation.trial
    return slot_after(rule, trial, ATTEMPTS, state) if rule and trial and trial.slot is slot else state


def _trial(observation: Observation, situation: Situation, *, retry: bool, reboot: bool) -> Plan:
    _not_damaged(observation)
    if _permit(situation, Verb.TRIAL) is Permit.FINISH:
        return steps.plan_fire(observation, situation, _stamp(observation), reboot=reboot)
    slot = situation.inactive
    if slot is None:
        raise Refused("there is no inactive slot")
    state = _state(situation, slot)
    if state not in (SlotState.STAGED, SlotState.GOOD) and not (state is SlotState.FAILED and retry):
        raise Refused(f"it is {state}")
    return steps.plan_trial(observation, situation, _stamp(observation), slot=slot, attempts=ATTEMPTS, reboot=reboot)


def _note(observation: Observation, situation: Situation) -> Plan:
    if situation.phase is Phase.TRIAL:
        return steps.plan_started(observation, situation, _stamp(observation))
    if situation.phase is Phase.SETTLED and observation.autoboot is not None:
        return steps.plan_rest(observation, situation, _stamp(observation), attempts=ATTEMPTS)
    return Plan()


def _commit(observation: Observation, situation: Situation) -> Plan:
    _not_damaged(observation)
    if _permit(situation, Verb.COMMIT) is Permit.NOTHING:
        return Plan()
    return steps.plan_commit(observation, situation, _stamp(observation))


def _leave(observation: Observation, situation: Situation, *, reboot: bool = True) -> Plan:
    if situation.phase is not Phase.TRIAL:
        return Plan()
    return steps.plan_leave(observation, situation, _stamp(observation), reason="", reboot=reboot)


def _revert(observation: Observation, situation: Situation, *, reboot: bool) -> Plan:
    permit = _permit(situation, Verb.REVERT)
    if permit is Permit.LEAVE:
        return _leave(observation, situation, reboot=reboot)
    if permit is Permit.DISARM:
        return steps.plan_disarm(observation, situation, _stamp(observation), attempts=ATTEMPTS)
    slot = situation.inactive
    if slot is None or _state(situation, slot) is not SlotState.GOOD:
        raise Refused("only a good slot is gone back to")
    _not_damaged(observation)
    return steps.plan_trial(observation, situation, _stamp(observation), slot=slot, attempts=ATTEMPTS, reboot=reboot)


class _Selector:
    """A disk whose selector holds both files whole: damage here is garbage in the one sector, never a lost file."""

    name = "card"

    def mounts_of(self, _number: int) -> tuple[Mount, ...]:
        return (Mount(path=_selector_folder(), writable=True),)


@functools.cache
def _selector_folder() -> str:
    folder = tempfile.TemporaryDirectory(prefix="abboot-search-")
    _KEEP.append(folder)
    Path(folder.name, "autoboot.txt").write_bytes(b"?" * 64)
    Path(folder.name, "ABBOOT.JNL").write_bytes(bytes(64 * 4096))
    return folder.name


_KEEP: list[tempfile.TemporaryDirectory[str]] = []


class _Caught:
    """Takes the plan that a repair would execute."""

    def __init__(self) -> None:
        self.plan = Plan()

    def run(self, plan: Plan) -> None:
        self.plan = plan


def _repair(observation: Observation, situation: Situation) -> Plan:
    caught: Any = _Caught()
    disk: Any = _Selector()
    repair_selector(disk, observation, situation, _stamp(observation), caught, attempts=ATTEMPTS, dry_run=False)
    return caught.plan  # type: ignore[no-any-return]


PLANNERS: dict[str, Planner] = {
    "stage": functools.partial(_stage, again=False),
    "stage again": functools.partial(_stage, again=True),
    "trial": functools.partial(_trial, retry=False, reboot=True),
    "retry": functools.partial(_trial, retry=True, reboot=True),
    "arm": functools.partial(_trial, retry=False, reboot=False),
    "note": _note,
    "commit": _commit,
    "leave": _leave,
    "revert": functools.partial(_revert, reboot=True),
    "revert later": functools.partial(_revert, reboot=False),
    "repair": _repair,
}

Planned = tuple[tuple[steps.Step, Memory | None], ...]


@functools.cache
def planned(name: str, found: Seen) -> Planned | AbbootError:
    """The steps of a plan, each with the journal as it is after it; or why there is none."""
    try:
        plan = PLANNERS[name](*observed(found))
    except AbbootError as error:
        return error
    except Exception as error:
        raise Violation(f"G10: {name} raises {type(error).__name__}; {error}") from error
    memory, done = found.memory, []
    for step in plan.steps:
        if isinstance(step, steps.Append):
            memory = _memory(step.entry, memory)
        done.append((step, memory))
    return tuple(done)


# -- what the firmware does -------------------------------------------------------------------------------------------


class Booted(NamedTuple):
    """What a reset leads to, in the order of the fields of a :class:`World`."""

    partition: int | None
    told: int | None
    tryboot: bool
    request: int


@functools.cache
def boots(board: Board, text: Text | None, a: str, b: str, reset: Reset) -> tuple[Booted, ...]:
    """``a`` and ``b``: the trees of the slots, empty where there is no boot sector."""
    parts = [PartitionView(number=1, readable=True, files=frozenset({"autoboot.txt", "abboot.jnl"}))]
    for number, held in ((2, a), (3, b)):
        files = frozenset(name.lower() for name in TREES[held]) if held else frozenset()
        parts.append(PartitionView(number=number, readable=bool(held), files=files))
    card = CardView(table=TableKind.MBR, partitions=tuple(parts), autoboot=_bytes(text))
    found = (
        Booted(boot.partition, boot.reported_partition, boot.tryboot, reset.request)
        if boot.partition
        else Booted(None, None, tryboot=False, request=0)
        for boot in next_boot(board, card, reset)
    )
    return tuple(dict.fromkeys(found))


@functools.cache
def _after(
    text: Text | None, a: str, b: str, kind: ResetKind, flag: bool, argument: str | None, request: int
) -> tuple[Booted, ...]:
    """On every board."""
    return tuple(
        dict.fromkeys(
            boot
            for board in BOARDS.values()
            for reset in after_reset(board, kind, flag=flag, argument=argument, request=request)
            for boot in boots(board, text, a, b, reset)
        )
    )


def after(world: World, kind: ResetKind, argument: str | None = None) -> list[World]:
    """Every world that this reset may end in; the card may be in any of the boards."""
    memory = _aged(world.memory) if world.memory is not None else None
    return [
        World(world.text, memory, world.a, world.b, False, False, *boot, None, world.faults)
        for boot in _after(world.text, world.bootable(A), world.bootable(B), kind, world.flag, argument, world.request)
    ]


@functools.cache
def _aged(memory: Memory) -> Memory:
    """The ids of this boot are those of an earlier one now."""
    trial = memory.trial
    if trial is not None:
        trial = trial._replace(armed=trial.armed and OTHER, started=trial.started and OTHER)
    return memory._replace(trial=trial, counted=memory.counted and OTHER, switched=False)


# -- running a verb ---------------------------------------------------------------------------------------------------


def _is_open(memory: Memory | None) -> bool:
    return memory is not None and memory.trial is not None and memory.trial.progress in OPEN


class Violation(Exception):
    """A guarantee does not hold."""


def demand(holds: bool, guarantee: str, what: str) -> None:
    if not holds:
        raise Violation(f"{guarantee}: {what}")


class Run:
    """One verb from one world: every world in between, and those that it may end in."""

    def __init__(self, world: World, verb: str = "", tree: str = "works", *, dead_card: int | None = None) -> None:
        self.world = world
        self.verb = verb
        self.tree = tree
        self.between: list[tuple[str, World]] = []
        self.torn: list[tuple[str, World]] = []
        self.rebooted: list[World] | None = None
        self.refused: AbbootError | None = None
        self.changes = 0
        self._dead_card = dead_card  # from this step on the card takes no writes

    def see(self) -> Situation:
        return observed(seen(self.world))[1]

    def do(self, name: str, *, committing: bool = False) -> bool:
        """Plan and execute; False if it was refused."""
        plan = planned(name, seen(self.world))
        if isinstance(plan, AbbootError):
            self.refused = plan
            return False
        try:
            self.execute(name, plan, committing=committing)
        except AbbootError as error:
            self.refused = error
            return False
        return True

    def execute(self, name: str, plan: Planned, *, committing: bool = False) -> None:
        """Every step, each with the journal as it is after it."""
        for step, memory in plan:
            label = f"{name}, {self.changes}: {type(step).__name__}"
            if self.changes:
                self.between.append((label, self.world))
            self.changes += 1
            self._step(label, step, memory, committing=committing)

    def ends(self) -> list[World]:
        return self.rebooted if self.rebooted is not None else [self.world]

    def _step(self, label: str, step: steps.Step, memory: Memory | None, *, committing: bool) -> None:
        world = self.world
        if self._dead_card is not None and self.changes > self._dead_card and isinstance(step, _WRITES):
            return
        match step:
            case steps.Append(entry):
                trial = memory.trial if memory else None
                if trial is not None and trial.progress is TrialProgress.ENDED and (world.flag or world.argument):
                    at_home = world.text is not None and world.text[0] == world.text[1]
                    demand(at_home, "disarm order", "the trial ends while the flag is set")
                if trial is not None and trial.outcome is Outcome.NOT_REACHED and _is_open(world.memory):
                    again = entry.slots[trial.slot].state is SlotState.STAGED and trial.attempt >= ATTEMPTS
                    demand(not again, "G7", "a slot that never comes up stays staged for ever")
                if entry.transition is Transition.COMMITTING:
                    self._may_commit(memory)
                if entry.transition is Transition.ARMED:
                    self._may_arm(entry)
                self.world = world._replace(memory=memory)
            case steps.SetFlag(value):
                self.world = world._replace(flag=value)
            case steps.SetArgument():
                self.world = world._replace(argument=True)
            case steps.ClearArgument():
                self.world = world._replace(argument=False)
            case steps.Hide(slot):
                self._may_write(slot)
                self.world = world.with_slot(slot, shown=False)
            case steps.Show(slot):
                self._may_write(slot)
                if world.held(slot).shown or self._can_show(slot):
                    demand(world.held(slot).whole, "G2", f"slot {slot} is shown, and is not whole")
                    self.world = world.with_slot(slot, shown=True)
            case steps.Switch(before, after_):
                self._switch(label, before, after_, committing=committing)
            case steps.WriteSlot(slot):
                self._write_slot(label, slot)
            case steps.CheckFiles(_verb, slot, digest, _edited):
                held = world.held(slot)
                demand(held.whole and _digest(held.digest) == digest, "G6", f"slot {slot} is not what is checked")
                if held.rotten:
                    raise VerificationFailed(f"cannot use slot {slot}: a file is missing")
            case steps.Wait():
                self.world = world._replace(unsettled=None)
            case steps.Reboot(argument):
                if argument is None and world.argument:
                    argument = TRYBOOT_ARGUMENT  # systemd takes what is pending
                self.rebooted = after(world, ResetKind.REBOOT, argument)
            case _:
                raise AssertionError(f"the search does not know {step}")

    def _can_show(self, slot: Slot) -> bool:
        known = self.world.known(slot)
        return known is not None and known.shape

    def _may_write(self, slot: Slot) -> None:
        world = self.world
        demand(world.booted != NUMBERS[slot], "G4", f"slot {slot} is written, and it is booted")
        demand(world.primary is not slot, "G4", f"slot {slot} is written, and it is the primary")

    def _may_commit(self, memory: Memory | None) -> None:
        """G6, from the journal before the intent and from what the firmware did."""
        world = self.world
        trial = world.memory.trial if world.memory else None
        demand(trial is not None, "G6", "a commit without a trial")
        assert trial is not None
        demand(trial.progress in OPEN, "G6", "a commit of a trial that is over")
        demand(trial.progress is not TrialProgress.REVERTING, "G6", "a commit of a trial that is being left")
        demand(not world.held(trial.slot).rotten, "G6", "a commit of a slot that lost a file")
        demand(world.booted == NUMBERS[trial.slot] and world.tryboot, "G6", "a commit of what is not on trial")
        demand(world.held(trial.slot).digest == trial.digest, "G6", "a commit of another record")
        demand(trial.started in (None, THIS), "G6", "a commit of an earlier boot's trial")
        demand(memory is not None and memory.primary is world.primary, "G1", "the intent names the new primary")

    def _may_arm(self, entry: Entry) -> None:
        """G7: what failed is tried again only where somebody insists."""
        world, trial = self.world, entry.trial
        demand(trial is not None and world.memory is not None, "G7", "an arm without a journal")
        assert trial is not None
        assert world.memory is not None
        known = world.known(trial.slot)
        demand(_digest(world.held(trial.slot).digest) == trial.record_digest, "G6", "an arm of another record")
        if self.verb != "retry":
            state = known.state if known else None
            demand(state in (SlotState.STAGED, SlotState.GOOD), "G7", f"slot {trial.slot} is armed, and is {state}")

    def _switch(self, label: str, before: bytes, after_: bytes, *, committing: bool) -> None:
        world = self.world
        demand(before == _bytes(world.text), "G3", "autoboot.txt is not what it was decided upon")
        text = _TEXTS[after_]
        if not committing:
            demand(SLOTS[text[0]] is world.primary, "G6", "another primary without a commit")
        else:
            trial = world.memory.trial if world.memory else None
            demand(trial is not None and trial.progress is TrialProgress.COMMITTING, "G5", "a switch without intent")
            assert trial is not None
            self.world = world = world.with_slot(trial.slot, proven=True)
            world = world._replace(unsettled=(world.text, world.memory))
        self.torn.append((f"the end of {label}", self.world._replace(text=None)))
        self.world = world._replace(text=text)

    def _write_slot(self, label: str, slot: Slot) -> None:
        self._may_write(slot)
        world = self.world
        demand(world.unsettled is None, "G5", "a stage within 5 s of a switch")
        known = world.known(slot)
        demand(known is not None and known.state is SlotState.INCOMPLETE, "G2", "a stage that the journal hides")
        demand(world.text is not None and NUMBERS[slot] not in world.text, "G2", f"autoboot.txt names slot {slot}")
        demand(not (world.flag or world.argument), "G2", "a stage with the flag set")
        held = world.held(slot)
        digest, tree = (held.digest, held.tree) if self.tree == "again" else (NEW, self.tree)
        epochs: tuple[tuple[str, dict[str, Any]], ...] = (
            ("invalidated", {"shown": False, "proven": False, "rotten": False}),
            ("half written", {"whole": False, "digest": 0}),
            ("written", {"whole": True, "digest": digest, "tree": tree}),
            ("shown", {"shown": True}),
        )
        for name, changes in epochs:
            self.world = self.world.with_slot(slot, **changes)
            self.between.append((f"the end of {label}, {name}", self.world))


_WRITES = (steps.Append, steps.Switch, steps.Hide, steps.Show, steps.WriteSlot)
_TEXTS = {_bytes((primary, trial)): (primary, trial) for primary in (2, 3) for trial in (2, 3)}

Verbs = Callable[[Run], object]


def one(name: str) -> Verbs:
    def act(run: Run) -> None:
        run.do(name)

    return act


def _committing(run: Run) -> bool:
    trial = run.see().phase is Phase.TRIAL
    done = run.do("commit", committing=True)
    if trial and done:
        situation = run.see()
        settled = situation.phase is Phase.SETTLED and not situation.edited and _at_rest(run.world)
        demand(settled, "G5", f"a commit leaves something to do; {situation}")
    return done


def _end(run: Run, *, healthy: bool) -> None:
    """A health service: never reboots outside a trial (G7)."""
    trial = run.see().phase is Phase.TRIAL
    if not (healthy and trial and _committing(run)):
        run.do("leave")
    demand(trial or run.rebooted is None, "G7", "health code reboots outside a trial")


def _confirm(run: Run, *, healthy: bool) -> None:
    run.do("note")
    situation = run.see()
    if situation.phase is not Phase.TRIAL:
        demand(run.rebooted is None, "G7", "confirm reboots outside a trial")
        if situation.phase is Phase.SETTLED and run.world.text is not None:
            rests = _at_rest(run.world) and not situation.edited
            demand(rests, "disarm", f"confirm leaves it armed, or a slot hidden; {run.world}")
        return
    trial = situation.trial
    _end(run, healthy=healthy and (trial is None or trial.progress is not TrialProgress.REVERTING))


def _at_rest(world: World) -> bool:
    observation, _situation = observed(seen(world))
    hidden = any(reading.hidden for reading in observation.slots.values())
    return (
        world.text is not None
        and world.text[0] == world.text[1]
        and not (world.flag or world.argument or hidden)
        and not _is_open(world.memory)
    )


VERBS: dict[str, tuple[Verbs, str]] = {
    "stage": (one("stage"), "works"),
    "stage what the firmware passes by": (one("stage"), "skipped"),
    "stage what hangs": (one("stage"), "hangs"),
    "stage again": (one("stage again"), "again"),
    "trial": (one("trial"), ""),
    "retry": (one("retry"), ""),
    "arm": (one("arm"), ""),
    "note": (one("note"), ""),
    "confirm healthy": (functools.partial(_confirm, healthy=True), ""),
    "confirm unhealthy": (functools.partial(_confirm, healthy=False), ""),
    "commit": (_committing, ""),
    "end unhealthy": (functools.partial(_end, healthy=False), ""),
    "revert": (one("revert"), ""),
    "revert later": (one("revert later"), ""),
    "repair": (one("repair"), ""),
}
#: What can be done to the card in a reader, while no Pi runs from it.
OFFLINE = ("stage", "stage what the firmware passes by", "stage what hangs", "stage again", "repair")
#: What a system may run by itself on every boot.
HEALTH = ("note", "confirm healthy", "confirm unhealthy", "end unhealthy")
BY_ITSELF = (*HEALTH, "repair")


def run(world: World, verb: str, *, dead_card: int | None = None) -> Run:
    act, tree = VERBS[verb]
    done = Run(world, verb, tree, dead_card=dead_card)
    act(done)
    return done


# -- what the world does ----------------------------------------------------------------------------------------------

RESETS: dict[str, tuple[ResetKind, str | None]] = {
    "power cut": (ResetKind.POWER_CUT, None),
    "watchdog": (ResetKind.WATCHDOG, None),
    "panic": (ResetKind.PANIC, None),
    "reboot": (ResetKind.REBOOT, None),
    "reboot 0 tryboot": (ResetKind.REBOOT, TRYBOOT_ARGUMENT),
    "reboot 2": (ResetKind.REBOOT, "2"),
    "reboot 3": (ResetKind.REBOOT, "3"),
}
#: What follows a cut at once; everything else follows a killed abboot one action later.
AT_THE_CUT = ("power cut", "watchdog")


def happenings(world: World) -> Iterator[tuple[str, list[World]]]:
    for name, (kind, argument) in RESETS.items():
        if world.booted is not None or kind is ResetKind.POWER_CUT or kind is ResetKind.WATCHDOG:
            yield name, after(world, kind, argument)
    if world.booted is not None:
        memory = _aged(world.memory) if world.memory is not None else None
        dark = World(world.text, memory, world.a, world.b, False, False, None, None, False, 0, None, world.faults)
        yield "power off", [dark]
    if world.booted is not None and world.argument:
        yield "reboot as pending", after(world, ResetKind.REBOOT, TRYBOOT_ARGUMENT)
    if world.unsettled is not None:
        text, memory = world.unsettled
        yield "five seconds pass", [world._replace(unsettled=None)]
        # H-47: what was acknowledged is gone; of the journal's entries all, or those before the switch, are there.
        yield "the card loses the switch", after(world._replace(text=text), ResetKind.POWER_CUT)
        yield "the card loses it all", after(world._replace(text=text, memory=memory), ResetKind.POWER_CUT)
    if world.faults and world.text is not None:
        left = world._replace(faults=world.faults - 1)
        for slot in Slot:
            held, known = world.held(slot), world.known(slot)
            if held.proven and held.whole and held.shown and (known is None or known.state in WHOLE):
                number = NUMBERS[slot]
                yield f"somebody edits autoboot.txt: {slot}", [left._replace(text=(number, number))]
            if held.whole and held.shown and not held.rotten:
                yield f"slot {slot} loses a file", [left.with_slot(slot, rotten=True)]
        if world.memory is not None:
            yield "the journal is lost", [left._replace(memory=None, unsettled=None)]


def successors(world: World) -> Iterator[tuple[str, list[World]]]:
    """Everything that can happen next.  Raises :class:`Violation`."""
    yield from happenings(world)
    left: set[tuple[World, bool]] = set()  # what verbs have in common is cut once
    for verb in VERBS if world.booted is not None else OFFLINE:
        done = run(world, verb)
        if done.changes == 0:
            continue
        yield verb, done.ends()
        for torn, cuts in ((False, done.between), (True, done.torn)):
            for label, at in cuts:
                if (at, torn) in left:
                    continue
                left.add((at, torn))
                if not torn:
                    yield f"{verb}, killed before {label}", [at]
                for name in AT_THE_CUT:
                    yield f"{verb}, {name} before {label}", after(at, *RESETS[name])
        if done.rebooted is not None and verb in HEALTH:
            # A trial must end on a card that takes no more writes (G11).
            for step in range(done.changes):
                yield f"{verb}, no writes from step {step}", run(world, verb, dead_card=step).ends()


# -- what holds in every state ----------------------------------------------------------------------------------------


@functools.cache
def _cold(text: Text | None, a: str, b: str) -> frozenset[tuple[int | None, bool]]:
    return frozenset(
        (boot.partition, bool(board.resolve_zero))
        for board in BOARDS.values()
        for boot in boots(board, text, a, b, Reset())
    )


@functools.cache
def _by_flag(text: Text | None, a: str, b: str) -> frozenset[int | None]:
    return frozenset(
        boot.partition for board in BOARDS.values() for boot in boots(board, text, a, b, Reset(tryboot=True))
    )


def check(world: World) -> None:
    """Raises :class:`Violation`."""
    a, b = world.bootable(A), world.bootable(B)
    dead = any(held.rotten for held in (world.a, world.b))  # then the walk may reach any slot that is whole (H-19)
    for partition, tells in _cold(world.text, a, b):
        if partition is None:
            # Of garbage a bootloader from before 2025-02 may make nothing at all; nobody measured it (H-15).
            demand(dead or (world.text is None and not tells), "G1", "a cold boot reaches nothing")
            continue
        held = world.held(SLOTS[partition]) if partition in SLOTS else None
        reached = held is not None and held.whole and (held.proven or dead)
        demand(reached, "G1", f"a cold boot reaches partition {partition}")
    for slot in Slot:
        held = world.held(slot)
        demand(held.whole or not held.shown, "G2", f"slot {slot} is not whole, and has its boot sector")
        known = world.known(slot)
        if known is not None and known.state is SlotState.INCOMPLETE and world.text is not None:
            demand(NUMBERS[slot] not in world.text, "G2", f"autoboot.txt names slot {slot}, which is incomplete")
    if (world.flag or world.argument) and world.memory is not None:
        for partition in _by_flag(world.text, a, b):
            if partition in SLOTS:
                demand(_armed_or_proven(world, SLOTS[partition]), "disarm order", f"the flag reaches {partition}")


def _armed_or_proven(world: World, slot: Slot) -> bool:
    """abboot set the flag: what it reaches is the armed record, or a slot that may boot anyway."""
    held, trial = world.held(slot), world.memory.trial if world.memory else None
    armed = trial is not None and trial.progress in OPEN and trial.slot is slot and trial.digest == held.digest
    return held.whole and (held.proven or armed or world.a.rotten or world.b.rotten)


# -- the way on from every state --------------------------------------------------------------------------------------


def _then(worlds: Iterable[World], verb: str) -> set[World]:
    return {canonical(end) for world in worlds for end in run(world, verb).ends()}


@functools.cache
def converges(world: World) -> str:
    """Whether an operator who knows nothing of what happened ends with a new slot as primary; else what is wrong.

    ``world`` was just switched on.  Power cut, what ``abboot status`` says to do where something is damaged, confirm,
    stage, trial, confirm.
    """
    if world.booted is None:
        return "nothing boots"
    worlds = {world}
    for _attempt in range(2):
        odd = {one for one in worlds if _is_odd(one)}
        repaired = _then(odd, "repair")
        still = {one for one in repaired if _is_odd(one)}
        worlds = (worlds - odd) | (repaired - still)
        worlds |= {canonical(end) for one in still for end in after(one, ResetKind.REBOOT)}
    worlds = _then(worlds, "confirm healthy")
    for one in worlds:
        situation = observed(seen(one))[1]
        if situation.phase is not Phase.SETTLED or not _at_rest(one):
            return f"after confirm it is {situation.phase}: {situation.reason}; {one}"
    for start in worlds:
        target = observed(seen(start))[1].inactive
        for staged in _then({start}, "stage"):
            if target is None or observed(seen(staged))[1].states[target] is not SlotState.STAGED:
                return f"nothing is staged; {staged}"
            for tried in _then({staged}, "trial"):
                if tried.booted != NUMBERS[target]:
                    return f"the trial boots partition {tried.booted}; {tried}"
                for end in _then({tried}, "confirm healthy"):
                    situation = observed(seen(end))[1]
                    if situation.phase is not Phase.SETTLED or situation.primary is not target or not _at_rest(end):
                        return f"it ends {situation.phase}, primary {situation.primary}; {end}"
    return ""


def _is_odd(world: World) -> bool:
    if world.booted is None:
        return False
    situation = observed(seen(world))[1]
    return world.text is None or world.memory is None or situation.phase is Phase.FOREIGN


# -- the search -------------------------------------------------------------------------------------------------------


class Search:
    """Breadth first, so that the first way to a state is a shortest one."""

    def __init__(self, *, faults: int = 0, converge: bool = True, stop_after: int = 20) -> None:
        self.came: dict[World, tuple[World | None, str]] = {}
        self.violations: dict[str, tuple[str, list[str]]] = {}  # by kind: one in full, and the shortest way there
        self.counts: list[int] = []  # new states at each depth
        self.actions = 0
        self.phases: Counter[str] = Counter()
        self._own: dict[World, set[World]] = {}  # what a system does by itself, and what that leads to
        self._frontier: list[World] = []
        self._converge = converge
        self._stop_after = stop_after
        for primary in Slot:
            self._reach(canonical(fresh(primary, faults=faults)), None, f"a card with primary {primary}")
        self.counts.append(len(self.came))

    def deepen(self) -> bool:
        """One action more from every state of the last depth; False if there is nothing new, or enough is wrong."""
        frontier, self._frontier = self._frontier, []
        for world in frontier:
            try:
                for label, ends in successors(world):
                    self.actions += 1
                    found = {end if end in self.came else canonical(end) for end in ends}
                    for end in found:
                        self._reach(end, world, label)
                    if label in BY_ITSELF:
                        self._own.setdefault(world, set()).update(found)
            except Violation as violation:
                self._violated(world, str(violation))
            if len(self.violations) >= self._stop_after:
                return False
        self.counts.append(len(self._frontier))
        return bool(self._frontier)

    def _reach(self, world: World, parent: World | None, label: str) -> None:
        if world in self.came:
            return
        self.came[world] = (parent, label)
        self._frontier.append(world)
        self.phases[observed(seen(world))[1].phase] += 1
        try:
            check(world)
            if self._converge and not (world.a.rotten or world.b.rotten):
                for cold in after(world, ResetKind.POWER_CUT):
                    problem = converges(canonical(cold))
                    demand(not problem or (cold.booted is None and world.text is None), "convergence", problem)
        except Violation as violation:
            self._violated(world, str(violation))

    def _violated(self, world: World, sentence: str) -> None:
        self.violations.setdefault(sentence.partition(";")[0], (sentence, self.trace(world)))

    def trace(self, world: World) -> list[str]:
        way: list[str] = []
        at: World | None = world
        while at is not None:
            at, label = self.came[at]
            way.append(label)
        return way[::-1]

    def loops(self) -> list[list[str]]:
        """The ways to where what runs by itself on every boot never comes to rest, however its checks end (G7)."""
        component = components(self._own)
        return [
            self.trace(start)
            for start, ends in self._own.items()
            if any(component[start] == component.get(end) for end in ends)
        ]


def components(edges: Mapping[World, set[World]]) -> dict[World, int]:
    """Strongly connected ones (Tarjan's, without recursion): two nodes in one reach each other."""
    index: dict[World, int] = {}
    low: dict[World, int] = {}
    found: dict[World, int] = {}
    stack: list[World] = []
    for root in edges:
        if root in index:
            continue
        work: list[tuple[World, Iterator[World]]] = [(root, iter(edges.get(root, ())))]
        index[root] = low[root] = len(index)
        stack.append(root)
        while work:
            node, rest = work[-1]
            child = next(rest, None)
            if child is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    while True:
                        member = stack.pop()
                        found[member] = index[node]
                        if member == node:
                            break
            elif child not in index:
                index[child] = low[child] = len(index)
                stack.append(child)
                work.append((child, iter(edges.get(child, ()))))
            elif child not in found:
                low[node] = min(low[node], index[child])
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.search", description=__doc__.split("\n")[0])
    parser.add_argument("--depth", type=int, default=8, help="actions after one another (default: 8)")
    parser.add_argument("--faults", type=int, default=0, help="hand edits and lost journals among them (default: none)")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    search = Search(faults=options.faults)
    for depth in range(1, options.depth + 1):
        more = search.deepen()
        print(
            f"depth {depth}: {len(search.came)} states ({search.counts[-1]} new), {search.actions} actions, "
            f"{len(search.violations)} violations, {time.monotonic() - began:.0f} s",
            flush=True,
        )
        if not more:
            break
    print("phases:", ", ".join(f"{phase} {count}" for phase, count in search.phases.most_common()))
    loops = search.loops()
    for sentence, way in search.violations.values():
        print(f"\nVIOLATED {sentence}")
        print("".join(f"    {line}\n" for line in way), end="")
    for way in loops[:5]:
        print("\nVIOLATED G7: what a system does by itself never comes to rest from here")
        print("".join(f"    {line}\n" for line in way), end="")
    return 1 if search.violations or loops else 0


if __name__ == "__main__":
    sys.exit(main())
