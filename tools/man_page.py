"""The manual page abboot(1), from the parser: the same tables as the reference page of the command line.

Source of the format: man(7) and groff_man(7).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from abboot.cli.parser import DEFAULT_CONFIG, EXIT_CODES, SPECS, make_parser
from abboot.version import VERSION

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cli_page import actions_of, own_actions, usage_of, value_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ABOUT = """\
abboot manages the two FAT boot partitions of a Raspberry Pi and the autoboot.txt that selects between them. It writes
a new boot tree onto the slot that is not in use, tries it once with the firmware's one-shot flag, and commits it or
falls back after the boot. A power cut at any write leaves a card that boots.

The options below may stand before the verb or behind it. Options are never abbreviated."""

FILES = {
    DEFAULT_CONFIG: "The configuration. Everything has a default: it may be empty or missing.",
    "autoboot.txt, ABBOOT.JNL": "On the first partition: which slot boots, and the last transitions.",
    "abboot/record.json, abboot/manifest.sha256": "On each slot: what was staged there.",
    "/run/systemd/reboot-param": "The argument of the next reboot; removed when a trial is cancelled.",
    "/var/lib/abboot": "What failed trials left behind.",
}

EXAMPLES = {
    "abboot status": "Where the device stands, and what a power cut now would boot.",
    "abboot stage new-tree && abboot trial": "Write an update onto the other slot, and reboot into it once.",
    "abboot --sim card.img confirm": "The same on a simulated Pi whose card is an image.",
}


def man_page(date: float) -> str:
    """The page in roff; ``date`` in seconds since 1970 is that of the sources."""
    parser = make_parser()
    verbs = actions_of(parser)
    everywhere = {option for action in own_actions(parser) for option in action.option_strings}
    day = time.strftime("%Y-%m-%d", time.gmtime(date))
    lines = [
        f'.TH ABBOOT 1 {day} "abboot {VERSION}" "User Commands"',
        ".SH NAME",
        r"abboot \- A/B boot partitions for the Raspberry Pi",
        ".SH SYNOPSIS",
        r"\fBabboot\fR [\fIoptions\fR] \fIVERB\fR ...",
        ".SH DESCRIPTION",
        *_paragraphs(ABOUT.split("\n\n")),
        ".SH OPTIONS",
        *_options(own_actions(parser)),
        ".SH VERBS",
    ]
    for name in SPECS:
        found = actions_of(verbs[name]) or {"": verbs[name]}
        lines.append(f".SS {_plain(name)}")
        if "" not in found:
            lines += _paragraphs([verbs[name].description or ""])
        for action, inner in found.items():
            lines += _verb(f"{name} {action}".strip(), inner, everywhere)
    lines += [".SH EXIT STATUS", *_terms({str(code): meaning for code, meaning in EXIT_CODES.items()})]
    lines += [".SH FILES", *_terms(FILES), ".SH EXAMPLES", *_terms(EXAMPLES)]
    lines += [".SH SEE ALSO", r"\fBsha256sum\fR(1), \fBsystemctl\fR(1), \fBsystemd\-analyze\fR(1)"]
    return "\n".join(lines) + "\n"


def _verb(name: str, parser: argparse.ArgumentParser, everywhere: set[str]) -> Iterator[str]:
    own = [action for action in own_actions(parser) if not everywhere & set(action.option_strings)]
    yield ".PP"
    yield rf"\fBabboot {_plain(name)}\fR {_plain(' '.join(map(usage_of, own)))}".rstrip()
    yield from _paragraphs([parser.description or ""])
    yield from _options(own)


def _options(actions: Iterable[argparse.Action]) -> Iterator[str]:
    for action in actions:
        words = [", ".join(rf"\fB{_plain(name)}\fR" for name in action.option_strings)]
        if value := value_of(action):
            words.append(rf"\fI{_plain(value)}\fR")
        yield ".TP"
        yield " ".join(filter(None, words))
        yield _text(action.help or "")


def _terms(terms: dict[str, str]) -> Iterator[str]:
    for term, meaning in terms.items():
        yield ".TP"
        yield rf"\fB{_plain(term)}\fR"
        yield _text(meaning)


def _paragraphs(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield ".PP"
        yield _text(text)


def _text(text: str) -> str:
    """Text that begins a line: a dot or an apostrophe there would be a request."""
    text = _plain(" ".join(text.split()))
    return rf"\&{text}" if text.startswith((".", "'")) else text


def _plain(text: str) -> str:
    return text.replace("\\", r"\e").replace("-", r"\-").replace("`", r"\(ga").replace("'", r"\(aq")


if __name__ == "__main__":
    print(man_page(time.time()), end="")
