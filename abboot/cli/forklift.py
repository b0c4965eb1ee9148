"""``abboot forklift``: the stage store of Forklift beside the slots.  One function an action, one table."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from abboot.cli.render import Style, facts, item, size, table
from abboot.cli.verbs import SCHEMA, Result, _progress, _target
from abboot.errors import AbbootError
from abboot.forklift.adapter import Forklift, Need
from abboot.forklift.reconcile import Action

if TYPE_CHECKING:
    from abboot.forklift.adapter import ForkliftStatus, Pending, Reconciliation, TrialReport


def run(options: argparse.Namespace) -> Result:
    """``abboot forklift ACTION``."""
    if options.action in ACTIONS:
        return ACTIONS[options.action](options)
    from abboot.cli import forklift_events

    return forklift_events.ACTIONS[options.action](options)


@contextmanager
def opened(options: argparse.Namespace) -> Iterator[tuple[Forklift, Any]]:
    """Store and slots that a command line means, and what happened to the board because of the action."""
    from abboot.linux.sysroot import under

    if options.sim is not None and options.store is None and options.config is None:
        # The default is the store of the system that this runs on, which a simulated Pi must not change.
        raise AbbootError(f"cannot tell which stage store belongs to {options.sim}", "name its folder: --store FOLDER")
    with _target(options) as target:
        store = options.store or under(options.sysroot, target.manager.config.forklift.store)
        yield Forklift(target.manager, store), target


def stage(options: argparse.Namespace) -> Result:
    with opened(options) as (forklift, _), _progress(options) as progress:
        done = forklift.stage(options.bundle, dry_run=options.dry_run, progress=progress)
    bundle = done.bundle
    data = {
        "schema": SCHEMA,
        "bundle": bundle.index,
        "pallet": bundle.pallet,
        "version": bundle.version,
        "payload": bundle.payload,
        "needed": done.needed,
        "changed": done.changed,
        "slot": _word(done.slot),
        "record_digest": done.record_digest,
        "bytes_total": done.bytes_total,
        "bytes_written": done.bytes_written,
        "duration_s": done.duration_s,
        "warnings": list(done.warnings),
    }

    def text(style: Style) -> str:
        name = f"bundle {bundle.index}"
        if not done.needed:
            return f"{name} has the boot files of the booted slot: Forklift applies it, nothing was staged"
        record = f"record {(done.record_digest or '')[:12]}"
        if not done.changed:
            lines = [f"slot {done.slot} holds {name} already ({record}): nothing was written"]
        elif options.dry_run:
            lines = [f"would write {size(done.bytes_written)} to slot {done.slot} for {name}"]
        else:
            lines = [
                f"{style.paint('staged', 'green')} {name} on slot {done.slot}, verified: {record}",
                f"wrote {size(done.bytes_written)} in {done.duration_s:.1f} s; the tree has {size(done.bytes_total)}",
                f"it needs a full reboot: {style.bold('abboot trial')}",
            ]
        lines += [style.remark("warning", warning) for warning in done.warnings]
        return "\n".join(lines)

    return Result(data=data, text=text)


def rebind(options: argparse.Namespace) -> Result:
    with opened(options) as (forklift, _):
        done = forklift.rebind()
    data = {
        "schema": SCHEMA,
        "changed": done.changed,
        "slot": _word(done.slot),
        "bundle": done.bundle,
        "detail": done.why,
    }
    return Result(data=data, text=lambda _style: done.why if done.changed else f"nothing to do: {done.why}")


def reconcile(options: argparse.Namespace) -> Result:
    """The boot goes on whatever is found: the exit code is 0, and what could not be done is said."""
    extra: dict[str, Any] = {}
    tail: Callable[[Style], str] = lambda _style: ""
    done: Reconciliation | None = None
    problems: tuple[str, ...] = ()
    try:
        with opened(options) as (forklift, target):
            done = forklift.reconcile(dry_run=options.dry_run)
            if not options.dry_run and not done.left_trial:
                from abboot.cli.forklift_events import events_of

                events_of(options, target.manager, forklift).boot()
        extra, tail, problems = target.extra(), target.tail, done.problems
    except AbbootError as error:  # no disk, no configuration: nothing could even be looked at
        problems = (*(done.problems if done else ()), error.message)
    data = {
        "schema": SCHEMA,
        "ok": done is not None and done.ok,
        "action": str(done.action if done else Action.STUCK),
        "why": done.why if done else problems[0],
        "changed": done is not None and done.changed,
        "swap_removed": done is not None and done.swap_removed,
        "booted": _word(done.booted if done else None),
        "next": done.next if done else None,
        "left_trial": done is not None and done.left_trial,
        "problems": list(problems),
        **extra,
    }

    def text(style: Style) -> str:
        word = str(data["action"])
        colours = {"restored": "yellow", "fell_back": "yellow", "stuck": "red"}
        head = style.paint(word, colours[word]) if word in colours else "nothing to do"
        lines = [item(style, f"{head}: ", str(data["why"]))]
        if data["swap_removed"]:
            lines.append("the swap file of an interrupted write is removed")
        if data["left_trial"]:
            lines.append("the trial is left: the primary boots next")
        lines += [style.remark("problem", problem) for problem in problems if problem != data["why"]]
        return "\n".join(lines) + tail(style)

    return Result(data=data, text=text)


def status(options: argparse.Namespace) -> Result:
    with opened(options) as (forklift, _):
        found = forklift.status()
    return Result(data=status_to_json(found), text=lambda style: status_text(style, found))


def status_to_json(found: ForkliftStatus) -> dict[str, Any]:
    """Store and slots for programs."""
    store = ("folder", "problem", "stale_swap", "next", "next_failed", "current")
    slot = ("bundle", "pallet", "version", "payload", "rebound", "present")
    return {
        "schema": SCHEMA,
        **{name: getattr(found, name) for name in store},
        "history": list(found.history),
        "names": dict(found.names),
        "unknown": list(found.unknown),
        "bundles": list(found.bundles),
        "booted": _word(found.booted),
        "primary": _word(found.primary),
        "slots": {
            str(each): {"state": str(bound.state), **{name: getattr(bound, name) for name in slot}}
            for each, bound in found.slots.items()
        },
        "pending": pending_to_json(found.pending),
        "last_trial": None if found.last_trial is None else _trial_to_json(found.last_trial),
    }


def pending_to_json(pending: Pending) -> dict[str, Any]:
    return {"need": str(pending.need), "bundle": pending.bundle, "why": pending.why}


def _trial_to_json(trial: TrialReport) -> dict[str, Any]:
    return {**attrs.asdict(trial), "slot": str(trial.slot), "outcome": _word(trial.outcome)}


def status_text(style: Style, found: ForkliftStatus) -> str:
    """The page for a tired person."""
    rows = [
        [
            style.bold(str(slot)),
            style.word(bound.state),
            ", ".join(word for word, is_so in (("booted", found.booted), ("primary", found.primary)) if is_so is slot)
            or "-",
            "-" if bound.bundle is None else f"{bound.bundle}{'' if bound.present else ' (gone)'}",
            " ".join(filter(None, (bound.pallet, bound.version))) or "-",
        ]
        for slot, bound in found.slots.items()
    ]
    failed = f" ({style.paint('failed', 'red')})" if found.next_failed else ""
    names = ", ".join(f"{name} = {index}" for name, index in found.names.items())
    more = [
        ("store", found.folder),
        ("problem", style.paint(found.problem, "red")),
        ("next", "none" if found.next is None else f"bundle {found.next}{failed}"),
        ("applied", ", ".join(map(str, found.history)) or "none"),
        ("names", names),
        ("unknown", ", ".join(found.unknown)),
    ]
    trial = found.last_trial
    told = ""
    if trial is not None:
        outcome = style.word(trial.outcome) if trial.outcome else "open"
        told = f"bundle {trial.bundle} on slot {trial.slot}: {outcome}{f', {trial.reason}' if trial.reason else ''}"
    waits = found.pending
    last = [
        ("last trial", told),
        ("pending", f"{style.bold(str(waits.need))}: {waits.why}"),
        ("to do", COMMANDS.get(waits.need, "")),
    ]
    lines = [facts(style, more), "", table(style, ["slot", "state", "role", "bundle", "pallet"], rows), ""]
    lines.append(facts(style, last))
    return "\n".join(lines)


#: What a person types then.
COMMANDS = {
    Need.APPLY: "sudo systemctl soft-reboot, or forklift stage apply",
    Need.REBIND: "abboot forklift rebind",
    Need.STAGE: "abboot forklift stage",
    Need.TRIAL: "abboot trial",
    Need.RETRY: "abboot trial --retry insists; or forklift plt stage something else",
    Need.REBOOT: "reboot (a soft reboot does not do)",
    Need.CONFIRM: "abboot confirm",
    Need.RESUME: "forklift stage set-next boot-pending",
    Need.FAILED: "reboot: the bundle before is applied again; or forklift plt stage something else",
    Need.RECONCILE: "abboot forklift reconcile",
}


def _word(value: object) -> str | None:
    return None if value is None else str(value)


ACTIONS: dict[str, Callable[[argparse.Namespace], Result]] = {
    "status": status,
    "stage": stage,
    "rebind": rebind,
    "reconcile": reconcile,
}
