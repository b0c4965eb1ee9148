"""``docs/reference/states.md``: the tables of :mod:`abboot.core.states`, and the picture that follows from them."""

from __future__ import annotations

from abboot.core.states import OUTCOMES, PERMITS, REFUSALS, Permit, Verb
from abboot.core.words import Phase, SlotState

PHASES = {
    Phase.SETTLED: "the primary is booted, nothing is armed in this boot",
    Phase.ARMED: "the primary is booted; in this boot a trial was journalled, and `[tryboot]` names its slot",
    Phase.TRIAL: "the armed slot is booted, by the flag, and its arm is open",
    Phase.FOREIGN: "the booted slot is neither the primary nor an open trial, or nobody can tell which one is booted",
    Phase.OFFLINE: "an image file, or a disk that this kernel did not boot from",
}

STATES = {
    SlotState.GOOD: "written by the image builder, or committed after a trial",
    SlotState.STAGED: "whole and verified, never booted to a verdict",
    SlotState.FAILED: "its trial ended badly; `trial --retry` insists",
    SlotState.INCOMPLETE: "a stage was cut short: it has no boot sector",
    SlotState.EMPTY: "nothing there",
    SlotState.UNKNOWN: "bootable perhaps, but not ours, or its history is lost",
}

PICTURE = """\
```mermaid
stateDiagram-v2
    [*] --> SETTLED
    SETTLED --> SETTLED: stage
    SETTLED --> ARMED: trial (journal, one sector, flag)
    ARMED --> SETTLED: revert, or a power cut
    ARMED --> TRIAL: reboot with the flag
    TRIAL --> SETTLED: commit (one sector): this slot is the primary
    TRIAL --> SETTLED: revert, any reset, a power cut: the old primary
    SETTLED --> FOREIGN: reboot 3, a partition walk, a torn autoboot.txt
    FOREIGN --> SETTLED: plain reboot, repair
```
"""


def states_reference() -> str:
    """The page."""
    return "\n".join(
        [
            "# States",
            "",
            "<!-- Made by tools/generate_docs.py from the code: change it there. -->",
            "",
            "## Phases",
            "",
            PICTURE,
            *_table(["phase", "means"], [[f"`{phase}`", PHASES[phase]] for phase in Phase]),
            "",
            "What each verb does in it. Every verb may be repeated: the second call finds nothing to do.",
            "",
            *_table(["phase", *Verb], [[f"`{phase}`", *(_permit(phase, verb) for verb in Verb)] for phase in Phase]),
            "",
            "## How the last trial ended",
            "",
            "Noted in the journal by the first `abboot confirm` of the next boot of the primary, which also disarms.",
            "The first row that matches counts. A slot that was `good` before stays so where the table says `staged`;",
            "`not_reached` becomes `failed` when no attempt is left (`trial.attempts` in the configuration).",
            "",
            *_table(
                ["the journal's newest entry", "now", "outcome", "slot becomes", "meaning"],
                [
                    [str(rule.progress), _now(rule), f"`{rule.outcome}`", f"`{rule.slot_becomes}`", rule.meaning]
                    for rule in OUTCOMES
                ],
            ),
            "",
            "## Slot states",
            "",
            *_table(["state", "means"], [[f"`{state}`", STATES[state]] for state in SlotState]),
            "",
        ]
    )


def _permit(phase: Phase, verb: Verb) -> str:
    permit = PERMITS[phase][verb]
    return f"refuse: {REFUSALS[phase, verb][0]}" if permit is Permit.REFUSE else str(permit)


def _now(rule: object) -> str:
    words = {
        ("switched", True): "`[all]` names the slot",
        ("switched", False): "`[all]` unchanged",
        ("tryboot", True): "this boot ran with the flag",
        ("same_boot", True): "still the boot in which it was armed",
    }
    facts = [text for (name, value), text in words.items() if getattr(rule, name) is value]
    return ", ".join(facts) or "the primary is booted"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]
