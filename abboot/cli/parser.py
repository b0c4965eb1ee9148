"""The words of the command line.  One table of verbs; the global options may stand before the verb or behind it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import attrs

from abboot.cli.terminal import terminal_width
from abboot.core.value import Value
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
    def __init__(self, **options: Any) -> None:
        # No abbreviations: `--dry` in somebody's script would change its meaning with the next option of that name.
        super().__init__(**{"allow_abbrev": False, "formatter_class": _HelpFormatter, **options})

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, self.format_usage(), f"run `{self.prog} --help`")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Texts keep their paragraphs, and are wrapped to the terminal."""

    def __init__(self, prog: str, width: int | None = None) -> None:
        # argparse would import shutil to ask, also where no help is printed.
        super().__init__(prog, width=terminal_width() - 2 if width is None else width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        import textwrap

        return "\n".join(
            line
            if line.startswith("  ")
            else textwrap.fill(line, width, initial_indent=indent, subsequent_indent=indent)
            for line in text.splitlines()
        )


@attrs.frozen(eq=False, repr=False)
class VerbSpec(Value):
    """One verb: its help in a line, what more there is to say, and the function that adds its arguments."""

    help: str
    about: str
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
    parser.add_argument(
        "--drop",
        metavar="PATH",
        action="append",
        default=[],
        help="with --base booted: leave this file or folder of the booted slot out",
    )
    parser.add_argument(
        "--carry",
        metavar="PATH",
        action="append",
        default=[],
        help="take this file or folder from the booted slot, whatever TREE has (such as cloud-init's user-data)",
    )
    parser.add_argument(
        "--format", choices=("fat12", "fat16", "fat32"), help="format the slot anew (default: as it is formatted)"
    )
    parser.add_argument("--annotate", metavar="K=V", action="append", default=[], help="keep a key in the record")
    parser.add_argument("--label", metavar="TEXT", default="", help="keep a text for people in the record")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written, write nothing")


def _trial(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-reboot", action="store_true", help="arm and set the flag; somebody else reboots")
    parser.add_argument("--retry", action="store_true", help="try a slot again that failed")
    _force(parser)
    parser.add_argument("--record", metavar="DIGEST", help="refuse if the slot holds another record than this one")


def _revert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", metavar="TEXT", default="requested by the operator", help="kept in the journal")
    parser.add_argument("--no-reboot", action="store_true", help="journal and disarm; somebody else reboots")
    _force(parser)


def _force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--force", action="store_true", help="reboot even if an inhibitor lock or the configured busy_hook forbids it"
    )


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("slot", choices=("a", "b"), nargs="?", help="default: the booted slot, or offline the primary")


def _repair(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")


def _selftest(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--again", action="store_true", help="make a new one, whatever the last one showed")
    parser.add_argument(
        "--replace", action="store_true", help="give up what the inactive slot holds: a staged or a good tree"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what it would cost, do nothing")


def _image(parser: argparse.ArgumentParser) -> None:
    actions = _actions(parser)
    build = _action(actions, "build", "build a whole-disk image")
    build.add_argument("spec", metavar="SPEC", help="a TOML file, such as images/demo.toml")
    build.add_argument("--tree", metavar="DIR", help="the tree of both slots, in place of the one that SPEC names")
    build.add_argument(
        "-o", "--output", metavar="IMG", required=True, help="the image; replaced when the build is whole"
    )
    inspect = _action(actions, "inspect", "say what is on an image")
    inspect.add_argument("image", metavar="IMG", help="an image file or a block device")
    for action in (build, inspect):
        _add_globals(action)


def _simulate(parser: argparse.ArgumentParser) -> None:
    actions = _actions(parser)
    for name, text in (
        ("boot", "switch it off and on"),
        ("reboot", "an ordinary reboot, with the flag if it is set"),
        ("power-cut", "cut the power: the flag is lost; then a cold boot"),
    ):
        action = _action(actions, name, text)
        action.add_argument("image", metavar="IMG", help="the card of the simulated Pi")
        action.add_argument("--tryboot", action="store_true", help="as if the one-shot flag were set")
        action.add_argument("--model", metavar="M", help="another board: pi3, pi4, pi5, cm4...; it stays")
        action.add_argument("--bootloader", metavar="DATE", help="its build date, such as 2022-12-01; it stays")
        action.add_argument("--dry-run", action="store_true", help="only tell what would boot")
        _add_globals(action)
    run = _action(actions, "run", "boot a copy of it for real in QEMU, with the console here")
    run.add_argument("image", metavar="IMG", help="a whole-disk image with a kernel that the machine can boot")
    run.add_argument("-o", "--output", metavar="FILE", help="keep the copy that was booted (default: a temporary one)")
    run.add_argument("--machine", choices=("raspi3b", "virt"), default="raspi3b", help="what QEMU emulates")
    run.add_argument("--model", metavar="M", help="what the firmware model takes the board for (default: pi4)")
    run.add_argument("--bootloader", metavar="DATE", help="its build date, such as 2022-12-01")
    run.add_argument("--append", metavar="WORDS", default="", help="more words for the kernel's command line")
    run.add_argument("--boots", metavar="N", type=int, default=20, help="stop after so many boots (default: 20)")
    run.add_argument(
        "--timeout", metavar="S", type=float, default=1800.0, help="reset a boot that lasts longer (default: 1800 s)"
    )
    run.add_argument("--transcript", metavar="FILE", help="append what firmware and console say to FILE")
    _add_globals(run)


def _forklift(parser: argparse.ArgumentParser) -> None:
    actions = _actions(parser)
    status = _action(actions, "status", "what the slots run with, what is next, what waits")
    stage = _action(actions, "stage", "put the boot files of a bundle onto the inactive slot, if it needs that")
    stage.add_argument(
        "bundle", metavar="BUNDLE", nargs="?", default="next", help="an index or a name of the store (default: next)"
    )
    rebind = _action(actions, "rebind", "note that the booted slot runs with the bundle that Forklift applied")
    reconcile = _action(
        actions, "reconcile", "at early boot: make the store fit the booted slot; the exit code is 0 whatever is found"
    )
    changed = _action(
        actions, "store-changed", "for a unit, when the store's file changed: stage or rebind what is next; no reboot"
    )
    result = _action(
        actions,
        "apply-result",
        "for a unit, when `forklift stage apply` has ended: rebind, or leave a trial, or reboot once to fall back",
    )
    result.add_argument("result", metavar="RESULT", help="$SERVICE_RESULT of its unit: success, exit-code...")
    arm = _action(
        actions, "arm-on-reboot", "for a unit that stops: if the system is rebooting, arm the bundle that waits for it"
    )
    hooks = _action(
        actions,
        "run-hooks",
        "run the hooks of an event; the exit code is 1 if one fails, and of a pre- event it refuses",
    )
    hooks.add_argument("event", metavar="EVENT", help="pre-set-next, post-set-next, post-apply or apply-failed")
    hooks.add_argument("bundle", metavar="BUNDLE", nargs="?", help="an index or a name of the store (default: next)")
    for action in (stage, reconcile):
        action.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
    for action in (status, stage, rebind, reconcile, changed, result, arm, hooks):
        action.add_argument("--store", metavar="DIR", help="the stage store (default: as configured)")
        _add_globals(action)


def _config(parser: argparse.ArgumentParser) -> None:
    actions = _actions(parser)
    for name, text in (("check", "every error, with its line"), ("show", "the settings in force")):
        _add_globals(_action(actions, name, text))


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--offline", action="store_true", help="look at the disk only, ask nothing of this system")
    parser.add_argument(
        "--fix",
        metavar="TREE",
        help="look at a tree that is to be staged, and add what brings a hung trial back: panic=10, "
        "kernel_watchdog_timeout=120, watchdog_disarm=0",
    )


def _install_units(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", metavar="DIR", required=True, help="/, or the root of an image")
    parser.add_argument("--exec", metavar="PATH", help="where the command abboot is there (default: /usr/bin/abboot)")
    parser.add_argument(
        "--with",
        dest="sets",
        metavar="SET",
        choices=("forklift",),
        action="append",
        default=[],
        help="more than what every device needs: forklift",
    )


def _actions(parser: argparse.ArgumentParser) -> Any:
    return parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=_Parser)


def _action(actions: Any, name: str, text: str) -> argparse.ArgumentParser:
    action: argparse.ArgumentParser = actions.add_parser(name, help=text, description=_sentence(text))
    return action


SPECS: dict[str, VerbSpec] = {
    "status": VerbSpec(
        "where we are, why, what a power cut now would boot, what next",
        "Takes no lock and writes nothing. The exit code is 0 also when things are odd: the notes say what is.",
    ),
    "stage": VerbSpec(
        "write a tree to the inactive slot, and verify it",
        "The slot has no boot sector until everything was read back from the medium, so nothing boots half a tree. "
        "Staging what the slot holds already writes nothing. From here until the next commit the primary is the only "
        "good slot.",
        _stage,
    ),
    "trial": VerbSpec(
        "arm the staged slot, set the one-shot flag, reboot",
        "The firmware tries the slot once. If nothing is committed, the next reset returns to the primary.",
        _trial,
    ),
    "confirm": VerbSpec(
        "note how the last trial ended; in a trial: check health, then commit or leave",
        "For every boot, by a service. Outside a trial it never reboots. With no check configured a trial counts as "
        "healthy. The exit code is 1 if the trial is left.",
    ),
    "commit": VerbSpec(
        "make the booted trial slot the primary",
        "One sector is written, and read back. Only a running trial of the very tree that was armed is committed.",
    ),
    "revert": VerbSpec(
        "cancel an arm, leave a trial, or go back after a commit",
        "Armed: the trial is cancelled. In a trial: it is given up, and the primary boots. Settled: the other slot is "
        "tried if it is good, since going back is a trial too.",
        _revert,
    ),
    "verify": VerbSpec(
        "every file of a slot against its manifest",
        "Reads the medium; takes no lock and writes nothing. The exit code is 1 if anything differs.",
        _verify,
    ),
    "log": VerbSpec("the journal, newest last", "Takes no lock and writes nothing."),
    "repair": VerbSpec(
        "rewrite a damaged autoboot.txt or journal from the other",
        "Nothing is ever committed by it. Where the wrong slot is booted it reboots once, and counts that.",
        _repair,
    ),
    "selftest": VerbSpec(
        "prove flag, partition and fall-back on this very board, with a canary",
        "A copy of the booted tree is staged onto the inactive slot and tried once; nothing is committed, and the "
        "firmware has to return to the primary by itself. It takes two reboots, and the content of the inactive slot. "
        "Afterwards the same command tells what it showed. The exit code is 1 if it failed.",
        _selftest,
    ),
    "doctor": VerbSpec(
        "what may go wrong with A/B boot on this board, and what brings a failed trial back",
        "Looks for every hazard that can be seen from here: each with what was found and what helps. With --disk or "
        "--offline only the disk is looked at; -v lists what cannot be seen. Takes no lock and changes nothing, except "
        "the folder of --fix. The exit code is 1 if something critical is found, or nothing can be "
        "seen.",
        _doctor,
    ),
    "note-boot": VerbSpec(
        "note how the last trial ended, disarm; in a trial: note that it started",
        "For an early service: before anything of a new system can fail. `confirm` does the same first, so that "
        "nothing is lost where this did not run. It never reboots.",
    ),
    "deadline": VerbSpec(
        "leave a trial that is still open: nobody confirmed it in time",
        "For a timer that depends on nothing else. Asks neither health checks nor who is busy. Outside a trial it does "
        "nothing.",
    ),
    "install-units": VerbSpec(
        "install the systemd units of a device",
        "Writes plain files below the root of this system or of an image, enables them, and leaves a default "
        "/etc/abboot.toml if there is none. Installing again changes nothing. Where systemd-analyze is installed it "
        "looks at the result; the exit code is 1 if it finds an ordering cycle.",
        _install_units,
    ),
    "image": VerbSpec(
        "build or inspect whole-disk images",
        "Works on plain files: no root, no mount, no loop device.",
        _image,
    ),
    "simulate": VerbSpec(
        "act on the simulated Pi of an image as the world would",
        "What the Pi keeps between two commands lies in the folder IMG.pi beside the image, tied to the disk's id; "
        "without it the Pi was just switched on: a Pi 4 with the newest bootloader.",
        _simulate,
    ),
    "forklift": VerbSpec(
        "Forklift's bundles and their boot files",
        "The booted slot decides the boot files, the stage store decides only among the bundles that have them. A "
        "bundle with other boot files goes onto the inactive slot and is tried by a full reboot.",
        _forklift,
    ),
    "config": VerbSpec(
        "check or show the configuration",
        "The exit code of `check` is 1 if there is an error. A file with an error is not used at all.",
        _config,
    ),
}

EXIT_CODES = {
    0: "done",
    1: "refused or failed",
    2: "the command line is wrong",
    70: "a bug of abboot",
    75: "another abboot holds the disk: try again",
}

EPILOG = f"""\
exit codes:
{chr(10).join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())}

examples:
  abboot status
  abboot stage /path/to/tree && abboot trial
  abboot --sim card.img confirm

`abboot VERB --help` says more about one verb."""


def _add_globals(parser: argparse.ArgumentParser, *, top: bool = False) -> None:
    """The global options; behind the verb they have no default, so that they do not undo what stood before it."""

    def default(value: object) -> Any:
        return value if top else argparse.SUPPRESS

    target = parser.add_mutually_exclusive_group()
    target.add_argument(
        "--disk", metavar="DISK", default=default(None), help="a block device or an image (default: the booted disk)"
    )
    target.add_argument("--sim", metavar="IMAGE", default=default(None), help="a simulated Pi whose card is IMAGE")
    parser.add_argument(
        "--sysroot",
        metavar="DIR",
        default=default("/"),
        help="read the kernel's interfaces under DIR; reboots are recorded there, not done",
    )
    parser.add_argument(
        "--config", metavar="FILE", default=default(None), help=f"the configuration (default: {DEFAULT_CONFIG})"
    )
    parser.add_argument("--json", action="store_true", default=default(False), help="one JSON object on stdout")
    noise = parser.add_mutually_exclusive_group()
    noise.add_argument("-v", "--verbose", action="count", default=default(0), help="say what is done, on stderr")
    noise.add_argument("-q", "--quiet", action="store_true", default=default(False), help="print errors only")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def make_parser(names: Iterable[str] = tuple(SPECS)) -> argparse.ArgumentParser:
    """The command line with the verbs ``names``: on a small board all of them would be half of the time of `status`."""
    parser = _Parser(
        prog="abboot",
        description="A/B boot partitions for the Raspberry Pi: stage, try once, commit or fall back.",
        epilog=EPILOG,
    )
    _add_globals(parser, top=True)
    parser.add_argument("--version", action="version", version=f"abboot {VERSION}", help="print the version")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)
    for name in names:
        spec = SPECS[name]
        verb = verbs.add_parser(name, help=spec.help, description=f"{_sentence(spec.help)} {spec.about}")
        spec.add(verb)
        _add_globals(verb)
    return parser


def parse(words: list[str]) -> argparse.Namespace:
    """Raises :class:`UsageError`."""
    # The word that is the verb is among those that are the name of one, so the others need not be known; but for a help
    # and for a mistake, which list them.
    named = [name for name in SPECS if name in words]
    try:
        options = make_parser(SPECS if {"-h", "--help"} & set(words) else named).parse_args(words)
    except UsageError:
        options = make_parser().parse_args(words)
    if options.sim is not None and options.disk is not None:
        raise UsageError("argument --sim: not allowed with argument --disk", "")
    return options


def pairs(words: list[str], option: str) -> dict[str, str]:
    """``K=V`` words as a mapping; raises :class:`UsageError`."""
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"argument {option}: {word!r} is not KEY=VALUE", "", f"write {option} KEY=VALUE")
        found[key] = value
    return found
