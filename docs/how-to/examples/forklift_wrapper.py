#!/usr/bin/env python3
"""Update a device with Forklift, and have its boot files tried: an example of a wrapper.

    forklift_wrapper.py update PALLET@VERSION     stage it, and say what it needs
    forklift_wrapper.py update PALLET@VERSION --now     and do that: a reboot, or a soft reboot
    forklift_wrapper.py back BUNDLE               make an older bundle next, if the hooks agree
    forklift_wrapper.py report                    how the last update ended

It works beside abboot's units and without them.  Run it as root.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import abboot
from abboot import AbbootError, Locked
from abboot.forklift import Forklift, Need, Pending

PATIENCE_S = 600  # abboot's own unit may be staging the same bundle at this moment


def run(*words: str) -> None:
    """A command; what it prints is the user's."""
    subprocess.run(words, check=True)


def prepare(forklift: Forklift) -> Pending:
    """Put the boot files of the next bundle onto the inactive slot, if it needs that; tell what it needs then."""
    if forklift.pending().need is Need.STAGE:
        staged = forklift.stage()
        for warning in staged.warnings:
            print(f"warning: {warning}")
    return forklift.pending()


def patiently(act: Callable[[], Pending]) -> Pending:
    """Again while another abboot has the disk; `stage` is idempotent, so the second one has nothing to write."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return act()
        except Locked:
            if time.monotonic() > end:
                raise
            time.sleep(1)


def update(forklift: Forklift, pallet: str, command: Callable[..., None] = run) -> Pending:
    """Have Forklift build and stage the bundle of a pallet, and prepare it."""
    waiting = forklift.pending()
    if waiting.need in (Need.CONFIRM, Need.RECONCILE):
        raise AbbootError(f"cannot update now: {waiting.why}", "wait for the boot to be confirmed, or reboot")
    command("forklift", "plt", "switch", pallet)
    return patiently(lambda: prepare(forklift))


def back(forklift: Forklift, bundle: str, command: Callable[..., None] = run) -> Pending:
    """Make another bundle next, unless a hook refuses: that command's exit code is not 0 then."""
    command("abboot", "forklift", "run-hooks", "pre-set-next", bundle)
    command("forklift", "stage", "set-next", bundle)
    return patiently(lambda: prepare(forklift))


def activate(manager: abboot.BootManager, pending: Pending, command: Callable[..., None] = run) -> None:
    """What makes the next bundle run, now."""
    match pending.need:
        case Need.TRIAL:
            manager.trial()  # other boot files: the firmware has to boot them, once
        case Need.APPLY:
            command("systemctl", "soft-reboot")  # the same ones: userspace is enough
        case _:
            print("there is nothing to activate")


def report(forklift: Forklift) -> str:
    """One sentence about the last update that brought boot files."""
    last = forklift.last_trial()
    if last is None:
        return "no bundle was tried yet"
    name = f"bundle {last.bundle} ({last.pallet} {last.version})"
    if last.outcome is None:
        return f"{name} is being tried"
    return f"{name}: {last.outcome}{f', {last.reason}' if last.reason else ''}"


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="update a device with Forklift")
    actions = parser.add_subparsers(dest="action", required=True)
    for name, what in (("update", "PALLET@VERSION"), ("back", "BUNDLE")):
        action = actions.add_parser(name)
        action.add_argument("what", metavar=what)
        action.add_argument("--now", action="store_true", help="activate it: a reboot, or a soft reboot")
    actions.add_parser("report")
    options = parser.parse_args(words)
    os.environ.setdefault("FORKLIFT_STAGE_STORE", "/var/lib/forklift/stages")
    try:
        with abboot.BootManager.from_system() as manager:
            forklift = Forklift(manager, os.environ["FORKLIFT_STAGE_STORE"])
            if options.action == "report":
                print(report(forklift))
                return 0
            pending = (update if options.action == "update" else back)(forklift, options.what)
            print(f"{pending.need}: {pending.why}")
            if options.now:
                activate(manager, pending)
    except AbbootError as error:
        print(f"{error.message}\n  hint: {error.hint}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
