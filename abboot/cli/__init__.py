"""The command line: the only place that prints, reads the environment, configures logging or decides an exit code.

Exit codes: 0 done; 1 refused or failed; 2 usage; 70 a bug of abboot; 75 locked, try again.
With ``--json`` stdout holds one object and nothing else: the result, or ``{"error": {"type", "message", "hint"}}``.
Their schemas are in ``abboot/data/schemas``.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

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
    # Making modules and classes leaves no garbage in cycles, and looking for it is a twelfth of the start.
    gc.set_threshold(50_000)
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    _open_missing_streams()
    try:
        return _run(words)
    except KeyboardInterrupt:
        _write(sys.stderr, "abboot: interrupted; `abboot status` says where that left the device\n")
        return EXIT_INTERRUPTED
    except AbbootError as error:
        _say_error(type(error).__name__, error.message, error.hint, as_json=as_json)
        return EXIT_LOCKED if isinstance(error, Locked) else EXIT_FAILED
    except Exception as error:  # noqa: BLE001 - the last line of defence: a bug is said to be one
        import traceback

        _write(sys.stderr, traceback.format_exc())
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
        if "--json" not in words:
            _write(sys.stderr, error.usage)
        _say_error("Usage", error.message, error.hint, as_json="--json" in words)
        return EXIT_USAGE
    except SystemExit as end:  # argparse, after --help and --version
        return int(end.code or 0)


def _perform(options: argparse.Namespace) -> int:
    from abboot.cli.render import printable, style_for
    from abboot.cli.verbs import VERBS

    _configure_logging(options.verbose)
    result: Result = VERBS[options.verb](options)
    if options.json:
        _write(sys.stdout, json.dumps(result.data, indent=2) + "\n")
    elif not options.quiet:
        text = printable(result.text(style_for(sys.stdout, os.environ)))
        _write(sys.stdout, text if text.endswith("\n") or not text else text + "\n")
    return result.exit_code


def _configure_logging(verbose: int) -> None:
    """Events on stderr: lines for a person on a terminal, else JSON lines.  Without ``-v`` only errors are seen."""
    if not verbose:
        return
    import logging

    import structlog

    from abboot.cli.render import style_for

    processors: list[structlog.typing.Processor] = [structlog.stdlib.add_log_level]
    if sys.stderr.isatty():
        colours = style_for(sys.stderr, os.environ).colour
        processors += [structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)]
        processors += [structlog.dev.ConsoleRenderer(colors=colours, pad_event=0)]
    else:
        processors += [structlog.processors.TimeStamper(fmt="iso"), structlog.processors.JSONRenderer()]
    structlog.configure(processors=processors)
    level = logging.INFO if verbose == 1 else logging.DEBUG
    logging.basicConfig(level=level, stream=sys.stderr, format="%(message)s")


def _say_error(kind: str, message: str, hint: str, *, as_json: bool) -> None:
    from abboot.cli.render import one_line

    with contextlib.suppress(AbbootError):  # a full disk: the exit code has to say it
        if as_json:
            error = {"type": kind, "message": message, "hint": hint}
            _write(sys.stdout, json.dumps({"error": error}, indent=2) + "\n")
        else:
            _write(sys.stderr, f"abboot: {one_line(message)}\n" + (f"  hint: {one_line(hint)}\n" if hint else ""))


def _write(stream: TextIO, text: str) -> None:
    """All of ``text``.  A reader that went away (``abboot log | head``) is no error: nothing more can be said to it.

    Raises:
        AbbootError: it cannot be written: a full disk.
    """
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # a file name may be anything
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        # What is left in the buffer would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not isinstance(error, BrokenPipeError):
            raise AbbootError(
                f"cannot write the answer: {(error.strerror or str(error)).lower()}",
                "the verb itself was done: `abboot status` says where things stand",
            ) from error


def _open_missing_streams() -> None:
    """A service may start us without stdin, stdout or stderr (``2>&-``).

    The next file that is opened would take that number: a card, and a library that complains on stderr would write
    into it.
    """
    while True:
        fd = os.open(os.devnull, os.O_RDWR)
        if fd > 2:
            os.close(fd)
            break
        os.set_inheritable(fd, True)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for the life of the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
