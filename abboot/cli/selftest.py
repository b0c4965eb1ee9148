"""``abboot selftest``: start a self-test, or tell what the last one showed."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

import attrs

from abboot.cli.render import Style, facts, table
from abboot.cli.verbs import SCHEMA, Booted, Result, _progress, _target
from abboot.errors import AbbootError, Refused
from abboot.selftest import SelfTest, State, report, run_selftest

REBOOTS = 2  # out of the primary, and back
_MARKS = {True: ("proved", "green"), False: ("failed", "red"), None: ("open", "yellow")}


def selftest(options: argparse.Namespace) -> Result:
    boots: list[Booted] = []
    with _target(options) as target, _progress(options) as progress:
        done = run_selftest(
            target.manager, again=options.again, replace=options.replace, dry_run=options.dry_run, progress=progress
        )
    if target.rebooted is not None:
        boots.append(target.rebooted)
        done = _boot_services(options, done, boots)
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "ok": done.ok,
        "state": str(done.state),
        "slot": None if done.slot is None else str(done.slot),
        "steps": [attrs.asdict(step) for step in done.steps],
        "cost": done.cost,
        "next": done.next,
        "rebooting": done.rebooting and not target.simulated,
    }
    if target.simulated:
        data["boots"] = [boot.to_json() for boot in boots]
    elif target.requests is not None:
        data["requests"] = target.requests

    def text(style: Style) -> str:
        return _text(style, done, boots, rebooting=data["rebooting"]) + ("" if boots else target.tail(style))

    return Result(data=data, text=text, exit_code=1 if done.state is State.FAILED else 0)


def _boot_services(options: argparse.Namespace, done: SelfTest, boots: list[Booted]) -> SelfTest:
    """What the services of a simulated Pi do in the boots that follow."""
    for _ in range(REBOOTS):
        try:
            with _target(options) as target:
                with contextlib.suppress(Refused):  # FOREIGN: the service is red, and the report says why
                    target.manager.confirm()
                done = attrs.evolve(report(target.manager), cost=done.cost)
        except AbbootError:
            break  # nothing booted, so nothing runs any more
        if target.rebooted is None:
            break
        boots.append(target.rebooted)
    return done


def _text(style: Style, done: SelfTest, boots: list[Booted], *, rebooting: bool) -> str:
    colours = {State.PASSED: "green", State.FAILED: "red", State.INTERRUPTED: "yellow"}
    state = style.paint(str(done.state), colours[done.state]) if done.state in colours else str(done.state)
    where = f" (canary on slot {done.slot})" if done.slot else ""
    lines = [boot.text(style, "the simulated Pi rebooted") + "\n" for boot in boots]
    lines.append(f"self-test of this board: {state}{where}")
    if done.steps:
        rows = [[style.paint(*_MARKS[step.ok]), step.id.replace("_", "-"), step.found] for step in done.steps]
        lines += ["", table(style, ["", "step", "found"], rows)]
    lines += ["", facts(style, [("cost", done.cost), ("next", "rebooting" if rebooting else done.next)])]
    return "\n".join(lines)
