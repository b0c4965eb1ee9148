"""The words of abboot, one meaning each.  No behaviour here, no I/O.

Every enum value is the lower-case word that ``--json`` prints and the journal stores: renaming one changes a
format (G8).
"""

from __future__ import annotations

import enum


class Slot(enum.StrEnum):
    """One of the two FAT boot partitions; ``a`` is the one with the lower partition number."""

    A = "a"
    B = "b"

    @property
    def other(self) -> Slot:
        return Slot.B if self is Slot.A else Slot.A


class SlotState(enum.StrEnum):
    """What abboot knows about the content of a slot."""

    GOOD = "good"  # built in by the image builder, or committed after a trial
    STAGED = "staged"  # whole and verified, never booted to a verdict
    FAILED = "failed"  # its trial ended badly
    INCOMPLETE = "incomplete"  # a stage was cut short: the slot has no boot sector
    EMPTY = "empty"  # nothing there
    UNKNOWN = "unknown"  # bootable perhaps, but not ours, or its history is lost


class Phase(enum.StrEnum):
    """Where the device stands; what each verb may do follows from it (:mod:`abboot.core.states`)."""

    SETTLED = "settled"
    ARMED = "armed"
    TRIAL = "trial"
    FOREIGN = "foreign"
    OFFLINE = "offline"


class Outcome(enum.StrEnum):
    """How a trial ended."""

    COMMITTED = "committed"
    PASSED_UNCOMMITTED = "passed_uncommitted"  # healthy, but the power went before the switch
    REVERTED = "reverted"
    FELL_BACK = "fell_back"  # it started, and the firmware is back on the primary
    UNBOOTABLE = "unbootable"  # the flag fired, the firmware could not load the slot
    NOT_REACHED = "not_reached"  # a cut before it, or a kernel that never came up: nobody can tell
    DISARMED = "disarmed"  # cancelled before the reboot


#: How a trial ends when something was wrong with it, or nobody can tell.
TROUBLE = frozenset({Outcome.REVERTED, Outcome.FELL_BACK, Outcome.UNBOOTABLE, Outcome.NOT_REACHED})


class TrialProgress(enum.StrEnum):
    """How far a trial got, as the journal knows it."""

    ARMED = "armed"
    STARTED = "started"
    COMMITTING = "committing"
    REVERTING = "reverting"
    ENDED = "ended"  # the trial has an outcome


class Transition(enum.StrEnum):
    """What a journal entry records."""

    BUILT = "built"
    STAGING = "staging"
    STAGED = "staged"
    ARMED = "armed"
    STARTED = "started"
    COMMITTING = "committing"
    COMMITTED = "committed"
    REVERTING = "reverting"
    CONCLUDED = "concluded"  # the outcome of the last trial was noted by the next boot
    DISARMED = "disarmed"
    EDITED = "edited"  # a person edited autoboot.txt; a valid file wins over the journal
    REPAIRED = "repaired"
    ADOPTED = "adopted"
    UNKNOWN = "unknown"  # a word of a newer abboot; the entry keeps it as it was written (G8)


class TableKind(enum.StrEnum):
    """How the disk is partitioned."""

    MBR = "mbr"
    GPT = "gpt"


class FatType(enum.IntEnum):
    """FAT12, FAT16 or FAT32: decided by the number of clusters and nothing else (FAT specification 3.5)."""

    FAT12 = 12
    FAT16 = 16
    FAT32 = 32
