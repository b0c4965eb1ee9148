"""``abboot forklift store-changed``, ``apply-result``, ``arm-on-reboot``, which units call; and ``run-hooks``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from abboot.cli.device import until_unlocked
from abboot.cli.forklift import COMMANDS, opened
from abboot.cli.render import Style, item
from abboot.cli.verbs import SCHEMA, Result, _config
from abboot.forklift.events import MEMORY_FILE, Events, Handled
from abboot.forklift.hooks import ASKING, HookRun, check_event, failures, run_hooks
from abboot.linux.sysroot import is_live, under

if TYPE_CHECKING:
    from abboot.config import Config
    from abboot.forklift.adapter import Forklift
    from abboot.manager import BootManager


@contextmanager
def handlers(options: argparse.Namespace) -> Iterator[tuple[Events, Any]]:
    """The handlers for the device that a command line means, and what happened to the board because of them."""
    with opened(options) as (forklift, target):
        yield events_of(options, target.manager, forklift), target


def events_of(options: argparse.Namespace, manager: BootManager, forklift: Forklift) -> Events:
    """The handlers of one device, with the memory and the hooks of the system that a command line means."""
    return Events(
        manager,
        forklift,
        memory=_memory_of(options),
        hooks=lambda event, bundle: _run(options, manager.config, event, forklift.folder, bundle),
    )


def store_changed(options: argparse.Namespace) -> Result:
    with handlers(options) as (events, target):
        done = until_unlocked(events.store_changed)
    # A hook that failed afterwards is told of: it must not look like an update that could not be prepared.
    return _told(done, target, exit_code=1 if set(done.problems) - set(failures(done.hooks)) else 0)


def apply_result(options: argparse.Namespace) -> Result:
    with handlers(options) as (events, target):
        done = events.apply_result(options.result)
    return _told(done, target)


def arm_on_reboot(options: argparse.Namespace) -> Result:
    if is_live(options.sysroot) and options.sim is None:
        from abboot.linux.shutdown import shutting_down_to

        to = shutting_down_to()
        if to != "reboot":
            why = f"the system is going down to {to}, not to a reboot" if to else "the system is not rebooting"
            data = {"schema": SCHEMA, "event": "arm-on-reboot", "need": None, "bundle": None, "why": why}
            data |= {"changed": False, "rebooting": False, "hooks": [], "problems": []}
            return Result(data=data, text=lambda _style: f"nothing to do: {why}")
    with handlers(options) as (events, target):
        done = until_unlocked(events.arm_on_reboot)
    return _told(done, target)


def run_the_hooks(options: argparse.Namespace) -> Result:
    """Needs no disk: a wrapper asks before anything is done."""
    event, config = check_event(options.event), _config(options)
    store = options.store or under(options.sysroot, config.forklift.store)
    bundle = _bundle(store, options.bundle)
    runs = _run(options, config, event, store, bundle)
    failed = failures(runs)
    stop = event.startswith(ASKING) and bool(failed)
    data = {
        "schema": SCHEMA,
        "event": event,
        "bundle": bundle,
        "ok": not failed,
        "abort": stop,
        "hooks": hooks_to_json(runs),
    }

    def text(style: Style) -> str:
        lines = [*_lines(style, runs)] or [f"there are no hooks of {event}"]
        if stop:
            lines.append(style.paint(f"a hook refuses: leave undone what {event} asks for", "red"))
        return "\n".join(lines)

    return Result(data=data, text=text, exit_code=1 if failed else 0)


def hooks_to_json(runs: Sequence[HookRun]) -> list[dict[str, Any]]:
    return [
        {
            "name": run.hook.name,
            "path": run.hook.path,
            "ran": run.ran,
            "failed": run.failed,
            "why": run.why,
            "output": run.output,
        }
        for run in runs
    ]


def _run(
    options: argparse.Namespace, config: Config, event: str, store: str, bundle: int | None
) -> tuple[HookRun, ...]:
    return run_hooks(
        event,
        folders=config.forklift.hooks,
        store=store,
        bundle=bundle,
        timeout_s=config.forklift.hook_timeout_s,
        sysroot=options.sysroot,
        simulated=options.sim is not None,
    )


def _bundle(store: str, bundle: str | None) -> int | None:
    """The index that is meant; ``None`` where nothing is next.  A number need not be there yet."""
    from abboot.forklift.adapter import bundle_index
    from abboot.forklift.store import StageStore
    from abboot.forklift.store_file import read_store

    known = read_store(store).store or StageStore()
    return known.next if bundle is None else bundle_index(known, bundle)


def _memory_of(options: argparse.Namespace) -> str:
    if options.sim is not None:
        from abboot.simulator.pi import state_folder

        return f"{state_folder(options.sim)}/forklift.json"
    return under(options.sysroot, MEMORY_FILE)


def _told(done: Handled, target: Any, *, exit_code: int = 0) -> Result:
    data = {
        "schema": SCHEMA,
        "event": done.event,
        "need": str(done.need),
        "bundle": done.bundle,
        "why": done.why,
        "changed": done.changed,
        "rebooting": done.rebooting,
        "hooks": hooks_to_json(done.hooks),
        "problems": list(done.problems),
        **target.extra(),
    }

    def text(style: Style) -> str:
        lines = [item(style, "" if done.changed else "nothing to do: ", done.why), *_lines(style, done.hooks)]
        lines += [style.remark("problem", problem) for problem in done.problems if problem not in failures(done.hooks)]
        if done.rebooting:
            lines.append("the system reboots")
        elif done.need in COMMANDS:
            lines.append(item(style, "to do: ", COMMANDS[done.need]))
        return "\n".join(lines) + str(target.tail(style))

    return Result(data=data, text=text, exit_code=exit_code)


def _lines(style: Style, runs: Sequence[HookRun]) -> Iterator[str]:
    for run in runs:
        if run.failed:
            yield style.remark("problem", f"hook {run.hook.path}: {run.why}")
        else:
            yield item(style, f"hook {run.hook.path}: ", "done" if run.ran else run.why)


ACTIONS: dict[str, Callable[[argparse.Namespace], Result]] = {
    "store-changed": store_changed,
    "apply-result": apply_result,
    "arm-on-reboot": arm_on_reboot,
    "run-hooks": run_the_hooks,
}
