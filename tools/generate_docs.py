"""Write the reference pages that follow from tables in the code.

Each entry of PAGES is a file under ``docs/`` and the function that makes its text.  Without arguments the files are
written; ``--check`` only says which of them are out of date (and the suite does the same).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from abboot.config import SECTIONS, Config
from abboot.config_file import render_config
from abboot.core.check_spec import CheckSpec
from abboot.core.settings import settings_of
from abboot.health.checks import ENTRY_POINTS, KINDS
from abboot.image import DiskSpec, PartitionSpec, SelectorSpec, SlotsSpec

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cli_page import cli_reference
from hazards_page import hazards_reference
from states_page import states_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from abboot.core.settings import Setting

DOCS = Path(__file__).resolve().parent.parent / "docs"
GENERATED = "<!-- Made by tools/generate_docs.py from the code: change it there. -->"

CONFIG_INTRO = """\
# The configuration file

abboot reads one TOML file, `/etc/abboot.toml` unless `--config FILE` names another. A missing `/etc/abboot.toml` is no
error: everything has a default. `abboot config show` prints the settings in force, `abboot config check` every error
with its line. A file with an error is not used at all.

A *duration* is a number of seconds, or a text such as `"500ms"`, `"10s"`, `"5min"`, `"1h"`; a day is the longest. A
*size* is a number of bytes, or a text such as `"64KiB"`, `"64MiB"`, `"1GiB"`. Unknown keys are errors, so that a typing
error cannot pass for a default.
"""

CHECKS_INTRO = f"""\
## `[[health.checks]]`

One table for each health check. `abboot confirm` runs them all at once, again and again, until every required one has
passed for `stable_for` without a break, or until `deadline`. Without any check a trial is taken as healthy.

A kind that is not listed here is a plug-in: an entry point of the group `{ENTRY_POINTS}`, called with `name`,
`required`, `timeout_s`, its options and, if it is set, `retries` as keywords. A plug-in that cannot be loaded is a
check that fails. How to write one: [health checks](../how-to/health-checks.md).
"""


def config_reference() -> str:
    """``docs/reference/config.md``."""
    parts = [CONFIG_INTRO.replace("\n", f"\n\n{GENERATED}\n", 1)]
    for name, owner in SECTIONS.items():
        parts.append(f"## `[{name}]`\n\n{_prose(owner)}\n\n{_table(settings_of(owner))}")
        if name == "health":
            parts.append(f"{CHECKS_INTRO}\n{_table(settings_of(CheckSpec))}")
            common = {row.key for row in settings_of(CheckSpec)}
            for kind, check in KINDS.items():
                rows = [row for row in settings_of(check) if row.key not in common]
                parts.append(f"### kind `{kind}`\n\n{check.summary}" + (f"\n\n{_table(rows)}" if rows else "\n"))
    parts.append(f"## All defaults\n\n```toml\n{render_config(Config())}```\n")
    return "\n".join(parts)


def _prose(owner: type) -> str:
    """The docstring of a class of settings, in Markdown."""
    text = " ".join((owner.__doc__ or "").split())
    return re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text).replace("``", "`")


def _table(rows: Iterable[Setting]) -> str:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for row in rows:
        if row.default is attrs.NOTHING:
            default = "must be set" if row.key != "name" else ""
        else:
            default = "not set" if row.default is None else f"`{row.type.write(row.default)}`"
        lines.append(f"| `{row.key}` | {row.type.words} | {default} | {row.help} |")
    return "\n".join(lines) + "\n"


IMAGE_INTRO = """\
# The image specification

`abboot image build SPEC -o IMG` reads one TOML file, such as `images/demo.toml`. Paths in it are relative to it; a
*size* is a number of bytes, or a text such as `"256MiB"`; unknown keys are errors. The image has the selector as
partition 1, the slots as 2 and 3, and what `[[partitions]]` adds behind them. Both slots hold the same tree.
"""

IMAGE_TABLES = {
    "[disk]": DiskSpec,
    "[selector]": SelectorSpec,
    "[slots]": SlotsSpec,
    "[[partitions]]": PartitionSpec,
}


def image_reference() -> str:
    """``docs/reference/image-spec.md``."""
    parts = [IMAGE_INTRO.replace("\n", f"\n\n{GENERATED}\n", 1)]
    for name, owner in IMAGE_TABLES.items():
        parts.append(f"## `{name}`\n\n{_prose(owner)}\n\n{_table(settings_of(owner))}")
    return "\n".join(parts)


PAGES: dict[str, Callable[[], str]] = {
    "reference/cli.md": lambda: cli_reference(GENERATED),
    "reference/config.md": config_reference,
    "reference/hazards.md": lambda: hazards_reference(GENERATED),
    "reference/image-spec.md": image_reference,
    "reference/states.md": states_reference,
}


def main(arguments: list[str]) -> int:
    stale = 0
    for name, make in PAGES.items():
        path, text = DOCS / name, make()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        print(f"docs/{name}: {'out of date' if '--check' in arguments else 'written'}")
        if "--check" not in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
