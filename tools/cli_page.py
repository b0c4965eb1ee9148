"""The reference page of the command line, from the parser and the JSON schemas."""

from __future__ import annotations

import argparse
import json
from importlib import resources
from typing import TYPE_CHECKING, Any

from abboot.cli.parser import EXIT_CODES, SPECS, make_parser

if TYPE_CHECKING:
    from collections.abc import Iterable

INTRO = """\
# The command line

{generated}

`abboot [options] VERB ...`

The options below may stand before the verb or behind it. Options are never abbreviated.
"""

STREAMS = """\
## What it prints

Answers go to stdout, errors, progress and events to stderr. On a terminal there are colours (unless `NO_COLOR` is set)
and a bar while something takes long; in a pipe there is neither, and no line is broken. `-v` tells what is done, event
by event: lines on a terminal, JSON lines in a pipe; `-vv` tells more.

An error is one line, and one for what to do:

    abboot: cannot stage con.txt: it and CON.TXT have the same name on FAT
      hint: rename or remove it in the tree; nothing was written

## `--json`

Stdout holds one JSON object and nothing else: the result, or `{"error": {"type", "message", "hint"}}`. Words of states,
phases and outcomes are lower-case. `schema` is 1: a new key does not raise it, a changed one does. The schemas (JSON
Schema 2020-12) are installed with the package, in `abboot/data/schemas/`; below are the keys on top of each.
"""


def cli_reference(generated: str) -> str:
    """``docs/reference/cli.md``."""
    parser = make_parser()
    verbs = actions_of(parser)
    everywhere = {option for action in own_actions(parser) for option in action.option_strings}
    parts = [INTRO.format(generated=generated), _table(own_actions(parser)), "## Exit codes\n", _exit_codes(), STREAMS]
    for name in SPECS:
        verb = verbs[name]
        parts.append(f"## `{name}`\n\n{verb.description}\n")
        actions = actions_of(verb)
        if not actions:
            parts += _verb(f"abboot {name}", verb, everywhere, _schema(name))
        for action, inner in actions.items():
            parts.append(f"### `{name} {action}`\n\n{inner.description}\n")
            schema = _schema(f"{name}-{action}") or _schema(name)
            parts += _verb(f"abboot {name} {action}", inner, everywhere, schema)
    return "\n".join(parts)


def _verb(prog: str, parser: argparse.ArgumentParser, everywhere: set[str], schema: dict[str, Any]) -> list[str]:
    own = [action for action in own_actions(parser) if not everywhere & set(action.option_strings)]
    words = " ".join([prog, *(usage_of(action) for action in own)])
    parts = [f"    {words}\n"]
    if own:
        parts.append(_table(own))
    keys = ", ".join(f"`{key}`" + ("" if key in schema["required"] else " (if any)") for key in schema["properties"])
    return [*parts, f"`--json`: {keys}\n"]


def actions_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def own_actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if not isinstance(action, argparse._SubParsersAction)]


def value_of(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    return str(action.metavar or ("|".join(action.choices) if action.choices else action.dest.upper()))


def _name(action: argparse.Action) -> str:
    return f"{', '.join(action.option_strings)} {value_of(action)}".strip()


def usage_of(action: argparse.Action) -> str:
    words = " ".join(word for word in [*action.option_strings[-1:], value_of(action)] if word)
    more = "..." if isinstance(action, argparse._AppendAction) else ""
    return words if action.required and action.nargs != "?" else f"[{words}]{more}"


def _table(actions: Iterable[argparse.Action]) -> str:
    return _rows((f"`{_name(action)}`", action.help or "") for action in actions)


def _exit_codes() -> str:
    return _rows((str(code), meaning) for code, meaning in EXIT_CODES.items())


def _rows(rows: Iterable[tuple[str, str]]) -> str:
    lines = ["| | |", "|---|---|"]
    for name, meaning in rows:
        # Also in code a bar ends the cell.
        lines.append("| {} | {} |".format(*(cell.replace("|", "\\|") for cell in (name, meaning))))
    return "\n".join(lines) + "\n"


def _schema(name: str) -> dict[str, Any]:
    path = resources.files("abboot").joinpath("data", "schemas", f"{name}.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found
