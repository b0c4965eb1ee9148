"""Write the figures of the last ``make crash`` and ``make mutants`` into ``docs/explanation/crash-safety.md``.

    python -m tests.crash.publish

What is between the two markers there is replaced; nobody writes it by hand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.crash.run import table

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/explanation/crash-safety.md"
CRASH, MUTANTS = ROOT / ".cache/crash.json", ROOT / ".cache/mutants.json"
BEGIN = "<!-- figures of make crash and make mutants: begin -->"
END = "<!-- figures of make crash and make mutants: end -->"

LEGEND = """\
The columns: writes of the command in this case; the most of them between two flushes; cards that a medium may leave
(all subsets of up to twelve writes, drawn ones of more, large writes torn at every 512 bytes); how many of those are
different; partitions that `fsck.vfat -n` and mtools judged besides; cards from which abboot went on, and its log had to
say what happened; runs that were cut before a write by a power cut, a reset, or the end of the process."""


def section(crash: dict[str, Any] | None, mutants: dict[str, Any] | None) -> str:
    """What stands between the markers."""
    parts = []
    if crash is not None:
        parts += ["What `make crash` looked at:", table(crash), LEGEND]
    if mutants is not None:
        kinds = ", ".join(f"{count} of {name}" for name, count in mutants["guarantees"].items())
        parts.append(f"`make mutants`: {mutants['killed']} of {mutants['mutants']} were noticed ({kinds}).")
    return "\n\n".join(parts)


def publish(page: str, text: str) -> str:
    """The page with another text between the markers."""
    before, found, rest = page.partition(BEGIN)
    _old, also, after = rest.partition(END)
    if not found or not also:
        raise ValueError(f"the page has no {END if found else BEGIN}")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def main() -> int:
    found = [json.loads(path.read_text(encoding="utf-8")) if path.exists() else None for path in (CRASH, MUTANTS)]
    if found == [None, None]:
        print("publish: run `make crash` and `make mutants` first", file=sys.stderr)
        return 1
    PAGE.write_text(publish(PAGE.read_text(encoding="utf-8"), section(*found)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
