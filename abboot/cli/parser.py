"""The words of the command line.  One table of verbs; the global options may stand before the verb or behind it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn

import attrs

from abboot.version import VERSION

DEFAULT_CONFIG = "/etc/abboot.toml"


class UsageError(Exception):
    """The command line itself is wrong (exit code 2)."""

    def __init__(self, message: str, usage: str, hint: str = "run `abboot --help`") -> None:
        super().__init__(message)
        self.message = message
        self.usage = usage
        self.hint = hint


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, self.format_usage())


@attrs.frozen
class VerbSpec:
    """One verb: its help, and the function that adds its arguments."""

    help: str
    add: Callable[[argparse.ArgumentParser], None] = lambda _parser: None


def _stage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tree", metavar="TREE", nargs="?", help="the folder that becomes the boot partition")
    parser.add_argument(
        "--base",
        choices=("booted", "none"),
        default="none",
        help="booted: start from the files of the booted slot and lay TREE over them (default: none)",
    )
    parser.add_argument(
        "--overlay", metavar="DIR", action="append", default=[], help="lay DIR over it; may be repeated"
    )
    parser.add_argument(
        "--set-cmdline",
        metavar="K=V",
        action="append",
        default=[],
        help="set a key of cmdline.txt",
    )
    parser.add_argument("--annotate", metavar="K=V", action="append", default=[], help="keep a key in the record")
    parser.add_argument("--label", metavar="TEXT", default="", help="keep a text for people in the record")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written, write nothing")


def _trial(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-reboot", action="store_true", help="arm and set the flag; somebody else reboots")
    parser.add_argument("--retry", action="store_true", help="try a slot again that failed")
    parser.add_argument("--record", metavar="DIGEST", help="refuse if the slot holds another record than this one")


def _revert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", metavar="TEXT", default="requested by the operator", help="kept in the journal")
    parser.add_argument("--no-reboot", action="store_true", help="journal and disarm; somebody else reboots")


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("slot", choices=("a", "b"), nargs="?", help="default: the booted slot, or offline the primary")


def _repair(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")


def _image(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=_Parser)
    build = actions.add_parser("build", help="build a whole-disk image", parents=[_globals()])
    build.add_argument("spec", metavar="SPEC", help="a TOML file, such as images/demo.toml")
    build.add_argument("--tree", metavar="DIR", help="the tree of both slots, in place of the one that SPEC names")
    build.add_argument(
        "-o", "--output", metavar="IMG", required=True, help="the image; replaced when the build is whole"
    )
    inspect = actions.add_parser("inspect", help="say what is on an image", parents=[_globals()])
    inspect.add_argument("image", metavar="IMG")


def _simulate(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=_Parser)
    for name, text in (
        ("boot", "switch it off and on"),
        ("reboot", "an ordinary reboot, with the flag if it is set"),
        ("power-cut", "cut the power: the flag is lost; then a cold boot"),
    ):
        action = actions.add_parser(name, help=text, parents=[_globals()])
        action.add_argument("image", metavar="IMG")
        action.add_argument("--tryboot", action="store_true", help="as if the one-shot flag were set")
        action.add_argument("--model", metavar="M", help="another board: pi3, pi4, pi5, cm4...; it stays")
        action.add_argument("--bootloader", metavar="DATE", help="its build date, such as 2022-12-01; it stays")
        action.add_argument("--dry-run", action="store_true", help="only tell what would boot")


def _config(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=_Parser)
    actions.add_parser("check", help="every error, with its line", parents=[_globals()])
    actions.add_parser("show", help="the settings in force", parents=[_globals()])


SPECS: dict[str, VerbSpec] = {
    "status": VerbSpec("where we are, why, what a power cut now would boot, what next"),
    "stage": VerbSpec("write a tree to the inactive slot, and verify it", _stage),
    "trial": VerbSpec("arm the staged slot, set the one-shot flag, reboot", _trial),
    "confirm": VerbSpec("note how the last trial ended; in a trial: check health, then commit or leave"),
    "commit": VerbSpec("make the booted trial slot the primary"),
    "revert": VerbSpec("cancel an arm, leave a trial, or go back after a commit", _revert),
    "verify": VerbSpec("every file of a slot against its manifest", _verify),
    "log": VerbSpec("the journal, newest last"),
    "repair": VerbSpec("rewrite a damaged autoboot.txt or journal from the other", _repair),
    "image": VerbSpec("build or inspect whole-disk images", _image),
    "simulate": VerbSpec("act on the simulated Pi of an image as the world would", _simulate),
    "config": VerbSpec("check or show the configuration", _config),
}


def _globals(*, top: bool = False) -> _Parser:
    """The global options; behind the verb they have no default, so that they do not undo what stood before it."""
    parser = _Parser(add_help=False)
    default = (lambda value: value) if top else (lambda _value: argparse.SUPPRESS)
    target = parser.add_mutually_exclusive_group()
    target.add_argument(
        "--disk", metavar="DISK", default=default(None), help="a block device or an image (default: the booted disk)"
    )
    target.add_argument("--sim", metavar="IMAGE", default=default(None), help="a simulated Pi whose card is IMAGE")
    parser.add_argument(
        "--sysroot",
        metavar="DIR",
        default=default("/"),
        help="read the kernel's interfaces under DIR; no reboot",
    )
    parser.add_argument(
        "--config", metavar="FILE", default=default(None), help=f"the configuration (default: {DEFAULT_CONFIG})"
    )
    parser.add_argument("--json", action="store_true", default=default(False), help="one JSON object on stdout")
    noise = parser.add_mutually_exclusive_group()
    noise.add_argument("-v", "--verbose", action="count", default=default(0), help="say what is done, on stderr")
    noise.add_argument("-q", "--quiet", action="store_true", default=default(False), help="print errors only")
    return parser


def make_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(
        prog="abboot",
        description="A/B boot partitions for the Raspberry Pi: stage, try once, commit or fall back.",
        parents=[_globals(top=True)],
    )
    parser.add_argument("--version", action="version", version=f"abboot {VERSION}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)
    for name, spec in SPECS.items():
        # `image`, `simulate` and `config` hand the global options on to their actions.
        parents = [] if spec.add in (_image, _simulate, _config) else [_globals()]
        spec.add(verbs.add_parser(name, help=spec.help, description=spec.help, parents=parents))
    return parser


def parse(words: list[str]) -> argparse.Namespace:
    """Raises :class:`UsageError`."""
    options = make_parser().parse_args(words)
    if options.sim is not None and options.disk is not None:
        raise UsageError("--sim and --disk: one disk at a time", "")
    return options


def pairs(words: list[str], option: str) -> dict[str, str]:
    """``K=V`` words as a mapping; raises :class:`UsageError`."""
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"argument {option}: {word!r} is not KEY=VALUE", "")
        found[key] = value
    return found
