"""What the verbs of :class:`abboot.manager.BootManager` give back.  Apart from it, since ``status`` needs none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from abboot.core.value import Value

if TYPE_CHECKING:
    from abboot.core.health import CheckResult
    from abboot.core.words import Outcome, Phase, Slot


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Staged(Value):
    """What :meth:`BootManager.stage` did."""

    changed: bool  # False: the slot held exactly this already, and nothing was written to it
    slot: Slot
    record_digest: str  # names this staging
    tree_digest: str  # names the tree
    bytes_total: int  # of the tree
    bytes_written: int  # to slot, selector and journal
    files_written: int
    duration_s: float
    warnings: tuple[str, ...]


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Change(Value):
    """What a verb changed.  ``rebooting``: a reboot was asked for, and accepted."""

    changed: bool
    phase_before: Phase
    phase_after: Phase
    slot: Slot | None = None
    rebooting: bool = False
    detail: str = ""  # one sentence


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Confirmation(Value):
    """What :meth:`BootManager.confirm` concluded and did."""

    verdict: str  # "healthy", "unhealthy", or "none" outside a trial and in that of a self-test
    summary: str
    checks: tuple[CheckResult, ...]
    action: str  # "committed", "reverted", "noted", "self_test" or "nothing"
    outcome: Outcome | None  # how the last trial ended, if that was noted now
    change: Change | None
