"""What ``status`` says: where the device stands, why, what a power cut now would boot, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from abboot.core.journal import Entry, Trial
from abboot.core.record import Record
from abboot.core.states import OUTCOMES, Observation, OutcomeRule, Situation
from abboot.core.value import Value
from abboot.core.words import Outcome, Phase, Slot, SlotState, TrialProgress

if TYPE_CHECKING:
    from abboot.core.protocols import Disk

SCHEMA = 1  # of the JSON form; a new key does not raise it, a changed one does


@attrs.frozen(kw_only=True, eq=False, repr=False)
class SlotStatus(Value):
    """One slot."""

    slot: Slot
    partition: int
    state: SlotState
    label: str
    record: Record | None
    record_digest: str | None
    generation: int | None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class LastTrial(Value):
    """The last trial and how it ended; ``outcome`` is ``None`` while it is open."""

    slot: Slot
    record_digest: str
    attempt: int
    progress: TrialProgress
    outcome: Outcome | None
    noted: bool  # the journal has the outcome; else the next confirm writes it
    meaning: str
    reason: str


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Forecast(Value):
    """What the firmware would boot after a power cut now."""

    partition: int | None
    slot: Slot | None
    certain: bool
    why: tuple[str, ...]


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Status(Value):
    """Everything a person or a program asks first."""

    disk: str
    model: str | None
    phase: Phase
    reason: str
    booted: Slot | None
    booted_partition: int | None
    primary: Slot | None
    armed: Slot | None
    flag: bool | None
    last_trial: LastTrial | None
    slots: Mapping[Slot, SlotStatus]
    power_cut: Forecast | None
    next: str
    notes: tuple[str, ...]
    evidence: str | None = None  # the folder with what was kept of the last trial, if it failed

    def to_json(self) -> dict[str, Any]:
        """The JSON form: lower-case words, no Python types."""
        return {
            "schema": SCHEMA,
            "disk": self.disk,
            "model": self.model,
            "phase": str(self.phase),
            "reason": self.reason,
            "booted": _word(self.booted),
            "booted_partition": self.booted_partition,
            "primary": _word(self.primary),
            "armed": _word(self.armed),
            "tryboot_flag": self.flag,
            "last_trial": None if self.last_trial is None else _plain(self.last_trial),
            "slots": {
                str(slot): {
                    "partition": status.partition,
                    "state": str(status.state),
                    "label": status.label,
                    "record_digest": status.record_digest,
                    "generation": status.generation,
                    "record": None if status.record is None else record_to_json(status.record),
                }
                for slot, status in self.slots.items()
            },
            "power_cut": None if self.power_cut is None else _plain(self.power_cut),
            "next": self.next,
            "notes": list(self.notes),
            "evidence": self.evidence,
        }


def record_to_json(record: Record) -> dict[str, Any]:
    """A record as ``status --json`` shows it."""
    return {
        "slot": str(record.slot),
        "generation": record.generation,
        "abboot_version": record.abboot_version,
        "label": record.label,
        "tree_digest": record.tree_digest,
        "sources": list(record.sources),
        "annotations": dict(record.annotations),
        "forklift": None if record.forklift is None else dict(record.forklift),
    }


def entry_to_json(entry: Entry) -> dict[str, Any]:
    """A journal entry as ``log --json`` shows it."""
    trial = entry.trial
    return {
        "sequence": entry.sequence,
        "transition": str(entry.transition),
        "primary": str(entry.primary),
        "slots": {
            str(slot): {
                "partition": known.partition,
                "state": str(known.state),
                "record_digest": known.record_digest,
                "generation": known.generation,
            }
            for slot, known in entry.slots.items()
        },
        "trial": None
        if trial is None
        else {
            "slot": str(trial.slot),
            "record_digest": trial.record_digest,
            "attempt": trial.attempt,
            "progress": str(trial.progress),
            "outcome": _word(trial.outcome),
            "reason": trial.reason,
        },
        "boot_id": entry.boot_id,
        "autoboot_before": _text(entry.autoboot_before),
        "autoboot_after": _text(entry.autoboot_after),
        "clocks": None
        if entry.clocks is None
        else {"realtime_s": entry.clocks.realtime_s, "boottime_s": entry.clocks.boottime_s},
        "note": entry.note,
        "abboot_version": entry.abboot_version,
    }


def _last_trial(trial: Trial | None, rule: OutcomeRule | None, phase: Phase) -> LastTrial | None:
    """The last trial as status shows it: an outcome that nobody journalled yet is shown all the same."""
    if trial is None:
        return None
    outcome = trial.outcome if trial.outcome is not None else (rule.outcome if rule is not None else None)
    if outcome is None:
        meaning = {Phase.ARMED: "armed: the next reboot with the flag tries it", Phase.TRIAL: "running now"}.get(
            phase, "open"
        )
    else:
        meaning = next(rule.meaning for rule in OUTCOMES if rule.outcome is outcome)
    return LastTrial(
        slot=trial.slot,
        record_digest=trial.record_digest,
        attempt=trial.attempt,
        progress=trial.progress,
        outcome=outcome,
        noted=trial.outcome is not None,
        meaning=meaning,
        reason=trial.reason,
    )


def _next_step(observation: Observation, situation: Situation) -> str:
    """What a person would do next, one sentence."""
    inactive = situation.inactive
    match situation.phase:
        case _ if observation.autoboot is None:
            return "rewrite autoboot.txt: abboot repair"
        case _ if observation.journal.newer:
            return "use the newer abboot that wrote the journal"
        case _ if observation.journal.newest is None or observation.journal_problem:
            return "start a new journal: abboot repair"
        case Phase.ARMED:
            return "reboot into the trial: abboot trial; or cancel it: abboot revert"
        case Phase.TRIAL if situation.trial is not None and situation.trial.progress is TrialProgress.REVERTING:
            return "reboot: this trial is being left, and the primary boots next"
        case Phase.TRIAL if _holds_canary(observation, situation.booted):
            return "go on with the self-test: abboot selftest"
        case Phase.TRIAL:
            return "end the trial: abboot confirm (or commit, revert)"
        case Phase.FOREIGN:
            return "return to the primary: a plain reboot, or abboot repair"
        case Phase.OFFLINE:
            target = situation.primary.other if situation.primary else None
            return f"stage a tree onto slot {target}: abboot stage TREE" if target else "abboot repair"
        case _ if situation.outcome is not None:
            return "note how the trial ended: abboot confirm"
        case _ if inactive is not None and situation.states[inactive] is SlotState.STAGED:
            if _holds_canary(observation, inactive):
                return "go on with the self-test that was interrupted: abboot selftest"
            return f"try slot {inactive}: abboot trial"
        case _:
            return f"stage a tree onto slot {inactive}: abboot stage TREE"


def _holds_canary(observation: Observation, slot: Slot | None) -> bool:
    """It is no update: who tries it ends where he was."""
    record = observation.slots[slot].record if slot is not None else None
    if record is None or not record.annotations:
        return False
    from abboot.selftest import is_canary

    return is_canary(record)


def _word(value: object) -> str | None:
    return None if value is None else str(value)


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("latin-1")


def _plain(value: attrs.AttrsInstance) -> dict[str, Any]:
    """An attrs value with its enums as words and its tuples as lists."""
    plain = attrs.asdict(value)
    return {key: _plain_item(item) for key, item in plain.items()}


def _plain_item(item: Any) -> Any:
    if isinstance(item, str):
        return str(item)
    return list(item) if isinstance(item, tuple) else item


def describe(
    disk: Disk,
    observation: Observation,
    situation: Situation,
    *,
    notes: tuple[str, ...] = (),
    evidence: str | None = None,
) -> Status:
    """The status of ``disk``, from what was observed and concluded; the forecast reads some files of the slots."""
    slots = {}
    for slot in Slot:
        reading = observation.slots[slot]
        slots[slot] = SlotStatus(
            slot=slot,
            partition=reading.partition,
            state=situation.states[slot],
            label=reading.record.label if reading.record else "",
            record=reading.record,
            record_digest=reading.record_digest,
            generation=reading.record.generation if reading.record else None,
        )
    return Status(
        disk=disk.name,
        model=observation.report.model if observation.report else None,
        phase=situation.phase,
        reason=situation.reason,
        booted=situation.booted,
        booted_partition=situation.booted_partition,
        primary=situation.primary,
        armed=situation.armed,
        flag=observation.flag,
        last_trial=_last_trial(situation.trial, situation.outcome, situation.phase),
        slots=slots,
        power_cut=_forecast(disk, observation),
        next=_next_step(observation, situation),
        notes=(*observation.layout.notes, *situation.notes, *notes),
        evidence=evidence,
    )


def _forecast(disk: Disk, observation: Observation) -> Forecast:
    """What a power cut now would boot, by the firmware model."""
    from abboot.card import card_view, likely_board
    from abboot.core.firmware import ResetKind, after_reset, next_boot

    board = likely_board(observation.report)
    card = card_view(disk, observation.layout.table, observation.autoboot_raw, board)
    boots = [
        boot
        for reset in after_reset(board, ResetKind.POWER_CUT, flag=bool(observation.flag))
        for boot in next_boot(board, card, reset)
    ]
    return Forecast(
        partition=boots[0].partition,
        slot=observation.layout.slot_of(boots[0].partition),
        certain=len(boots) == 1,
        why=boots[0].why,
    )
