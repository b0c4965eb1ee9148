"""The verbs that the units of a device run, and the one that installs those units."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from abboot.cli.render import Style, item
from abboot.errors import Locked

if TYPE_CHECKING:
    from abboot.cli.verbs import Result


_T = TypeVar("_T")
_LOCKED_S = 60.0
_PAUSE_S = 1.0


def until_unlocked(act: Callable[[], _T], *, limit_s: float = _LOCKED_S, pause_s: float = _PAUSE_S) -> _T:
    """What ``act`` gives once no other abboot has the disk.

    Raises:
        Locked: another one still has it after ``limit_s``.
    """
    end_s = time.monotonic() + limit_s
    while True:
        try:
            return act()
        except Locked:
            if time.monotonic() >= end_s:
                raise
            time.sleep(pause_s)


def install_units(options: argparse.Namespace) -> Result:
    from abboot.cli.verbs import SCHEMA, Result
    from abboot.linux.sysroot import is_live
    from abboot.units import SETS, install_units, is_cycle

    live = is_live(options.root)
    sets = [name for name in SETS if name in ("device", *options.sets)]
    done = install_units(options.root, sets=sets, executable=options.exec or _own_path(live=live))
    cycles = [problem for problem in done.problems if is_cycle(problem)]
    data = {
        "schema": SCHEMA,
        "changed": bool(done.changed),
        "root": options.root,
        "sets": sets,
        "written": list(done.changed),
        "kept": list(done.unchanged),
        "verified": done.verified,
        "problems": list(done.problems),
        "ok": not cycles,
    }

    def text(style: Style) -> str:
        lines = [item(style, "  wrote ", path) for path in done.changed]
        head = f"the units are in {options.root}" if done.changed else f"the units are in {options.root} already"
        lines.insert(0, head)
        lines += [style.remark("problem", problem) for problem in done.problems]
        if cycles:
            lines.append(style.paint("systemd will drop a unit from the boot to break the cycle (H-38)", "red"))
        if not done.verified:
            lines.append(style.remark("note", "not verified: there is no systemd-analyze that can look at this root"))
        if live and done.changed:
            lines.append("next: systemctl daemon-reload; they start with the next boot")
        return "\n".join(lines)

    return Result(data=data, text=text, exit_code=1 if cycles else 0)


def _own_path(*, live: bool) -> str:
    """Where this very command is, on the system that it is installed into; an image has it in the usual place."""
    from abboot.units import DEFAULT_EXEC

    if not live:
        return DEFAULT_EXEC
    # A virtual environment's command is beside its Python, and need not be in the PATH.
    beside = os.path.join(os.path.dirname(sys.executable), "abboot")
    return beside if os.access(beside, os.X_OK) else shutil.which("abboot") or DEFAULT_EXEC
