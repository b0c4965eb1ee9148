"""The command line: the only place that prints, reads the environment, configures logging or decides an exit code.

Exit codes: 0 done; 1 refused or failed; 2 usage; 70 a bug of abboot; 75 locked, try again.
With ``--json`` stdout holds one object and nothing else: the result, or ``{"error": {"type", "message", "hint"}}``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from abboot.errors import AbbootError, Locked

if TYPE_CHECKING:
    from abboot.cli.verbs import Result

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_BUG = 70
EXIT_LOCKED = 75
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    try:
        return _run(words)
    except BrokenPipeError:
        # The reader went away (`abboot log | head`): not an error, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except KeyboardInterrupt:
        sys.stderr.write("abboot: interrupted; `abboot status` says where that left the device\n")
        return EXIT_INTERRUPTED
    except AbbootError as error:
        _say_error(type(error).__name__, error.message, error.hint, as_json=as_json)
        return EXIT_LOCKED if isinstance(error, Locked) else EXIT_FAILED
    except Exception as error:  # noqa: BLE001 - the last line of defence: a bug is said to be one
        import traceback

        traceback.print_exc()
        _say_error(
            "Bug",
            f"cannot go on: {type(error).__name__}: {error}",
            "this is a bug of abboot: please report it with the lines above; `abboot status` says where things stand",
            as_json=as_json,
        )
        return EXIT_BUG


def _run(words: list[str]) -> int:
    from abboot.cli.parser import UsageError, parse

    try:
        return _perform(parse(words))
    except UsageError as error:
        if "--json" in words:
            _say_error("Usage", error.message, error.hint, as_json=True)
        else:
            sys.stderr.write(f"{error.usage}abboot: {error.message}\n")
        return EXIT_USAGE


def _perform(options: argparse.Namespace) -> int:
    from abboot.cli.render import style_for
    from abboot.cli.verbs import VERBS

    _configure_logging(options.verbose)
    result: Result = VERBS[options.verb](options)
    if options.json:
        sys.stdout.write(json.dumps(result.data, indent=2) + "\n")
    elif not options.quiet:
        text = result.text(style_for(sys.stdout, os.environ))
        sys.stdout.write(text if text.endswith("\n") or not text else text + "\n")
    sys.stdout.flush()
    return result.exit_code


def _configure_logging(verbose: int) -> None:
    if not verbose:
        return
    import logging

    level = logging.INFO if verbose == 1 else logging.DEBUG
    logging.basicConfig(level=level, stream=sys.stderr, format="%(message)s")


def _say_error(kind: str, message: str, hint: str, *, as_json: bool) -> None:
    if as_json:
        error = {"type": kind, "message": message, "hint": hint}
        sys.stdout.write(json.dumps({"error": error}, indent=2) + "\n")
        return
    sys.stderr.write(f"abboot: {message}\n")
    if hint:
        sys.stderr.write(f"  hint: {hint}\n")
