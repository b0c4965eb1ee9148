"""``docs/reference/hazards.md``: the table of :mod:`abboot.core.hazards`."""

from __future__ import annotations

from abboot.core.hazards import HAZARDS, Severity

INTRO = """\
What can go wrong with A/B boot on a Raspberry Pi, by the numbers that messages and comments cite. Each is a fact about
firmware, Linux or cards from public sources: release notes of `raspberrypi/rpi-eeprom`, issues (`rpi-eeprom#`,
`firmware#`, `linux#`, `documentation#` of github.com/raspberrypi), the documentation, and third-party measurements.

`abboot doctor` looks for all that can be seen from a running board and its disk. Its severities:
"""

MEANINGS = {
    Severity.CRITICAL: "the device may not boot, or reboots for ever; `abboot doctor` exits with 1",
    Severity.SERIOUS: "the wrong slot boots, or something fails and nobody notices",
    Severity.ADVICE: "it works, with less safety than there could be",
}


def hazards_reference(generated: str) -> str:
    """The page."""
    rows = [
        [f"{row.id}", str(row.severity), row.title, f"{row.effect}. *What helps:* {row.remedy}"]
        for row in HAZARDS.values()
    ]
    seen = [[row.id, row.seen, row.source] for row in HAZARDS.values() if row.detectable]
    unseen = [[row.id, row.unseen, row.source] for row in HAZARDS.values() if not row.detectable]
    return "\n".join(
        [
            "# Hazards",
            "",
            generated,
            "",
            INTRO,
            *(f"- **{severity}**: {meaning}" for severity, meaning in MEANINGS.items()),
            "",
            "A finding may be milder than its hazard at its worst. A build date that cannot be read counts as new",
            "enough, with a note.",
            "",
            *_table(["", "severity", "hazard", "what it does, and what helps"], rows),
            "",
            "## How the doctor sees them",
            "",
            *_table(["", "it looks at", "source"], seen),
            "",
            "## What cannot be seen from a device or its disk",
            "",
            *_table(["", "because", "source"], unseen),
            "",
        ]
    )


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
