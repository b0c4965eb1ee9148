"""What each verb does with the library, and what it says about it.  One function a verb, one table."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from abboot.cli.parser import DEFAULT_CONFIG, UsageError, pairs
from abboot.cli.render import Style, facts, item, size, table
from abboot.config import Config
from abboot.core.value import Value
from abboot.core.words import FatType, Slot
from abboot.manager import BootManager

if TYPE_CHECKING:
    from abboot.core.firmware import Board, Boot
    from abboot.results import Change
    from abboot.simulator import SimulatedPi
    from abboot.status import Status

SCHEMA = 1


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Result(Value):
    """What a verb says: to programs, to people, and to the shell."""

    data: dict[str, Any]
    text: Callable[[Style], str]
    exit_code: int = 0


@attrs.define
class _Target:
    """The disk that a command line means, and what runs from it."""

    manager: BootManager
    simulated: bool = False
    rebooted: Booted | None = None  # by the verb, on a simulated Pi
    requests: list[dict[str, Any]] | None = None  # what was only recorded, under a sysroot

    def extra(self) -> dict[str, Any]:
        """What happened to the board because of the verb: a simulated reboot, or a request that was only recorded."""
        if self.rebooted is not None:
            return {"boot": self.rebooted.to_json()}
        return {} if self.requests is None else {"requests": self.requests}

    def tail(self, style: Style) -> str:
        if self.rebooted is not None:
            return "\n\n" + self.rebooted.text(style, "the simulated Pi rebooted")
        lines = [", ".join(f"{key} {value}" for key, value in request.items()) for request in self.requests or ()]
        return "".join(f"\nrecorded, not done (--sysroot): {line}" for line in lines)


@attrs.frozen(eq=False, repr=False)
class Booted(Value):
    """What the firmware of a simulated Pi did, and why."""

    board: Board
    boot: Boot
    slot: Slot | None

    @classmethod
    def of(cls, pi: SimulatedPi, boot: Boot) -> Booted:
        return cls(pi.board, boot, pi.slot_of(boot.partition))

    def to_json(self) -> dict[str, Any]:
        return {
            "model": str(self.board.model),
            "bootloader": self.board.bootloader.isoformat(),
            "partition": self.boot.partition,
            "slot": None if self.slot is None else str(self.slot),
            "tryboot": self.boot.tryboot,
            "config": self.boot.config,
            "certain": self.boot.certain,
            "why": list(self.boot.why),
        }

    def text(self, style: Style, what: str) -> str:
        """The firmware's reasoning, then what it came to."""
        board, boot = self.board, self.boot
        lines = [item(style, "", f"{what}; the firmware of a {board.model.full_name}, {board.bootloader}:")]
        lines += [item(style, style.dim("  | "), why) for why in boot.why]
        if boot.partition is None:
            end = f"{style.paint('nothing boots', 'red')}: its watchdog, or a person, has to cut the power"
        else:
            where = f"slot {self.slot} (partition {boot.partition})" if self.slot else f"partition {boot.partition}"
            end = f"{style.bold(where)}, {'with' if boot.tryboot else 'without'} the tryboot flag"
        return "\n".join([*lines, item(style, "  => ", end)])


@contextmanager
def _target(options: argparse.Namespace) -> Iterator[_Target]:
    config = _config(options)
    if options.sim is not None:
        from abboot.simulator import SimulatedPi

        with SimulatedPi.load(options.sim, config=config) as pi:
            state, target = pi.state, _Target(manager=pi.manager(), simulated=True)
            try:
                yield target
            finally:
                # Also after an error: a flag that was set stays set.  `status` changes nothing, and saves nothing.
                if pi.state is not state:
                    pi.save(options.sim)
            if pi.boot is not state.boot:
                target.rebooted = Booted.of(pi, pi.boot)
        return
    with BootManager.from_system(options.sysroot, disk=options.disk, config=config) as manager:
        target = _Target(manager=manager)
        from abboot.linux.sysroot import is_live, recorded_requests

        if is_live(options.sysroot):
            yield target
            return
        before = len(recorded_requests(options.sysroot))
        yield target
        target.requests = list(recorded_requests(options.sysroot)[before:])


def _config(options: argparse.Namespace) -> Config:
    path = options.config
    if path is None:
        path = os.path.join(options.sysroot, DEFAULT_CONFIG.lstrip("/"))
        if not os.path.lexists(path):
            return Config()
    from abboot.config_file import load_config

    return load_config(path)


# -- reading ----------------------------------------------------------------------------------------------------------


def status(options: argparse.Namespace) -> Result:
    with _target(options) as target:
        found = target.manager.status()
    return Result(data=found.to_json(), text=lambda style: status_text(style, found))


def status_text(style: Style, found: Status) -> str:
    """The page for a tired person."""
    rows = []
    for slot, info in found.slots.items():
        marks = [
            word
            for word, there in (
                ("booted", found.booted is slot),
                ("primary", found.primary is slot),
                ("armed", found.armed is slot),
            )
            if there
        ]
        rows.append(
            [
                style.bold(str(slot)),
                str(info.partition),
                style.word(info.state),
                ", ".join(marks) or "-",
                str(info.generation) if info.generation is not None else "-",
                info.record_digest[:12] if info.record_digest else "-",
                info.label or _annotated(info.record) or "-",
            ]
        )
    lines = [
        facts(
            style,
            [
                ("disk", f"{found.disk}{f' in a {found.model}' if found.model else ''}"),
                ("phase", f"{style.word(found.phase)}: {found.reason}"),
            ],
        ),
        "",
        table(style, ["slot", "partition", "state", "role", "generation", "record", "label"], rows),
        "",
    ]
    more = []
    trial = found.last_trial
    if trial is not None:
        how = f"{style.word(trial.outcome)}: " if trial.outcome else ""
        why = f" ({trial.reason})" if trial.reason else ""
        noted = "" if trial.noted or trial.outcome is None else " (not noted yet)"
        attempt = f", attempt {trial.attempt}" if trial.attempt > 1 else ""
        more.append(("last trial", f"slot {trial.slot}{attempt}: {how}{trial.meaning}{why}{noted}"))
    more.append(("evidence", found.evidence or ""))
    cut = found.power_cut
    if cut is not None:
        where = f"slot {cut.slot}, partition {cut.partition}" if cut.slot else f"partition {cut.partition}"
        sure = "" if cut.certain else " (most likely: the firmware is not known well enough to be sure)"
        more.append(("a power cut now", f"boots {where}{sure}" if cut.partition else f"boots nothing: {cut.why[-1]}"))
    more.append(("next", found.next))
    lines.append(facts(style, more))
    lines += [style.remark("note", note) for note in found.notes]
    return "\n".join(lines)


def _annotated(record: Any) -> str:
    return ", ".join(f"{key}={value}" for key, value in record.annotations.items())[:40] if record is not None else ""


def log(options: argparse.Namespace) -> Result:
    from abboot.status import entry_to_json

    with _target(options) as target:
        entries = target.manager.log()

    def text(style: Style) -> str:
        if not entries:
            return "the journal is empty"
        rows = []
        for entry in entries:
            trial = entry.trial
            about = ""
            if trial is not None and str(entry.transition) not in ("staging", "staged", "built", "edited", "repaired"):
                about = f"slot {trial.slot}, record {trial.record_digest[:12]}"
                about += f": {trial.outcome}" if trial.outcome else ""
                about += f" ({trial.reason})" if trial.reason else ""
            rows.append(
                [
                    str(entry.sequence),
                    _when(entry),
                    style.bold(str(entry.transition)),
                    str(entry.primary),
                    style.word(entry.slots[Slot.A].state),
                    style.word(entry.slots[Slot.B].state),
                    about or entry.note,
                ]
            )
        return table(style, ["#", "time", "what", "primary", "a", "b", "about"], rows)

    return Result(data={"schema": SCHEMA, "entries": [entry_to_json(entry) for entry in entries]}, text=text)


def _when(entry: Any) -> str:
    if entry.clocks is None:
        return "-"
    from datetime import UTC, datetime

    try:
        return datetime.fromtimestamp(entry.clocks.realtime_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # a year that no calendar has
        return f"{entry.clocks.realtime_s:.0f} s"


def verify(options: argparse.Namespace) -> Result:
    with _target(options) as target, _progress(options) as progress:
        found = target.manager.verify(Slot(options.slot) if options.slot else None, progress=progress)

    def text(style: Style) -> str:
        if found.ok:
            return f"slot {found.slot}: every file is as it was staged (record {found.record_digest[:12]})"
        lines = [f"slot {found.slot}: {style.paint(found.summary(), 'red')}"]
        for word, paths in (("changed", found.changed), ("missing", found.missing), ("extra", found.extra)):
            lines += [f"  {word}: {path}" for path in paths]
        return "\n".join(lines)

    data = {
        "schema": SCHEMA,
        "ok": found.ok,
        "slot": str(found.slot),
        "record_digest": found.record_digest,
        "missing": list(found.missing),
        "changed": list(found.changed),
        "extra": list(found.extra),
    }
    return Result(data=data, text=text, exit_code=0 if found.ok else 1)


# -- changing ---------------------------------------------------------------------------------------------------------


def stage(options: argparse.Namespace) -> Result:
    if options.tree is None and options.base == "none":
        raise UsageError("the following arguments are required: TREE (or --base booted)", "usage: abboot stage TREE\n")
    cmdline, annotations = pairs(options.set_cmdline, "--set-cmdline"), pairs(options.annotate, "--annotate")
    with _target(options) as target, _progress(options) as progress:
        done = target.manager.stage(
            options.tree,
            base=options.base,
            overlays=options.overlay,
            drop=options.drop,
            carry=options.carry,
            cmdline=cmdline,
            fat_type=None if options.format is None else FatType(int(options.format.removeprefix("fat"))),
            annotations=annotations,
            label=options.label,
            dry_run=options.dry_run,
            progress=progress,
        )
    data = {"schema": SCHEMA, **attrs.asdict(done), "slot": str(done.slot), "warnings": list(done.warnings)}

    def text(style: Style) -> str:
        record = f"record {done.record_digest[:12]}"
        if not done.changed:
            lines = [f"slot {done.slot} holds this tree already ({record}): nothing was written"]
        elif options.dry_run:
            lines = [
                f"would write {size(done.bytes_written)} to slot {done.slot}; the tree has {size(done.bytes_total)}"
            ]
        else:
            wrote = f"wrote {size(done.bytes_written)} in {done.duration_s:.1f} s"
            lines = [
                f"{style.paint('staged', 'green')} on slot {done.slot}, verified: {record}",
                f"{wrote}; the tree has {size(done.bytes_total)}",
                style.paint("no way back until commit:", "yellow") + " the primary is the only good slot now",
            ]
        lines += [style.remark("warning", warning) for warning in done.warnings]
        return "\n".join(lines)

    return Result(data=data, text=text)


def trial(options: argparse.Namespace) -> Result:
    with _target(options) as target:
        change = target.manager.trial(
            options.record, retry=options.retry, reboot=not options.no_reboot, force=options.force
        )
    return _changed(target, change)


def commit(options: argparse.Namespace) -> Result:
    with _target(options) as target:
        change = target.manager.commit()
    return _changed(target, change)


def revert(options: argparse.Namespace) -> Result:
    with _target(options) as target:
        change = target.manager.revert(reason=options.reason, reboot=not options.no_reboot, force=options.force)
    return _changed(target, change)


def _changed(target: _Target, change: Change) -> Result:
    data = {
        "schema": SCHEMA,
        "changed": change.changed,
        "slot": None if change.slot is None else str(change.slot),
        "phase_before": str(change.phase_before),
        "phase_after": str(change.phase_after),
        "rebooting": change.rebooting,
        "detail": change.detail,
        **target.extra(),
    }

    def text(style: Style) -> str:
        what = change.detail or ("done" if change.changed else "nothing to do")
        if change.rebooting and not target.simulated:
            what += "; rebooting"
        before, after = style.word(change.phase_before), style.word(change.phase_after)
        return item(style, f"{before} -> {after}: " if change.changed else f"{after}: ", what) + target.tail(style)

    return Result(data=data, text=text)


def confirm(options: argparse.Namespace) -> Result:
    with _target(options) as target:
        done = target.manager.confirm()
    data = {
        "schema": SCHEMA,
        "verdict": done.verdict,
        "summary": done.summary,
        "checks": [attrs.asdict(check) for check in done.checks],
        "action": done.action,
        "outcome": None if done.outcome is None else str(done.outcome),
        **target.extra(),
    }

    def text(style: Style) -> str:
        lines = []
        if done.checks:
            rows = [
                [
                    style.paint("passed", "green") if check.ok else style.paint("failed", "red"),
                    check.name,
                    "required" if check.required else "wanted",
                    check.detail.splitlines()[0] if check.detail else "",
                ]
                for check in done.checks
            ]
            lines.append(table(style, ["", "check", "", "detail"], rows))
        if done.outcome is not None:
            lines.append(f"the last trial is noted: {style.word(done.outcome)}")
        if done.action == "self_test":
            lines.append(done.summary)
        elif done.verdict == "none":
            lines.append(item(style, "no trial is running: ", done.summary))
        else:
            verdict = style.paint(done.verdict, "green" if done.verdict == "healthy" else "red")
            lines.append(item(style, f"{verdict}: ", done.summary))
            lines.append(item(style, f"{style.word(done.action)}: ", done.change.detail if done.change else ""))
        return "\n".join(lines) + target.tail(style)

    return Result(data=data, text=text, exit_code=1 if done.verdict == "unhealthy" or done.action == "reverted" else 0)


def repair(options: argparse.Namespace) -> Result:
    with _target(options) as target:
        done = target.manager.repair(dry_run=options.dry_run)
    data = {
        "schema": SCHEMA,
        "changed": done.changed,
        "steps": list(done.steps),
        "rebooting": done.rebooting,
        **target.extra(),
    }

    def text(style: Style) -> str:
        if not done.steps:
            return "nothing to repair"
        head = "would be done:" if options.dry_run else "done:"
        return "\n".join([head, *(item(style, "  - ", step) for step in done.steps)]) + target.tail(style)

    return Result(data=data, text=text)


def selftest(options: argparse.Namespace) -> Result:
    from abboot.cli.selftest import selftest

    return selftest(options)


def doctor(options: argparse.Namespace) -> Result:
    from abboot.cli.doctor import doctor

    return doctor(options)


def note_boot(options: argparse.Namespace) -> Result:
    with _target(options) as target:
        situation, outcome = target.manager.note_boot()
    data = {
        "schema": SCHEMA,
        "phase": str(situation.phase),
        "reason": situation.reason,
        "outcome": None if outcome is None else str(outcome),
        **target.extra(),
    }

    def text(style: Style) -> str:
        noted = f"\nthe last trial is noted: {style.word(outcome)}" if outcome is not None else ""
        return item(style, f"{style.word(situation.phase)}: ", situation.reason) + noted

    return Result(data=data, text=text)


def deadline(options: argparse.Namespace) -> Result:
    from abboot.cli.device import until_unlocked

    with _target(options) as target:
        reason = "nobody confirmed it: abboot-confirm.service failed, did not start, or took too long"
        change = until_unlocked(lambda: target.manager.end_trial(healthy=False, reason=reason, overdue=True))
    return _changed(target, change)


def install_units(options: argparse.Namespace) -> Result:
    from abboot.cli.device import install_units

    return install_units(options)


# -- images -----------------------------------------------------------------------------------------------------------


def image(options: argparse.Namespace) -> Result:
    return {"build": _image_build, "inspect": _image_inspect}[options.action](options)


def _image_build(options: argparse.Namespace) -> Result:
    from abboot import image as images

    with _progress(options) as progress:
        done = images.build(images.load_spec(options.spec), options.output, tree=options.tree, progress=progress)
    seen = images.inspect(options.output)
    data = {**_inspection_to_json(seen), "changed": True, "bytes_written": done.bytes_written}
    data |= {"tree_digest": done.tree_digest, "warnings": list(done.warnings), "duration_s": done.duration_s}

    def text(style: Style) -> str:
        lines = [
            f"{style.paint('built', 'green')} {options.output}: {size(done.size_bytes)} in {done.duration_s:.1f} s",
            "",
            _inspection_text(style, seen),
        ]
        lines += [style.remark("warning", warning) for warning in done.warnings]
        return "\n".join(lines)

    return Result(data=data, text=text)


def _image_inspect(options: argparse.Namespace) -> Result:
    from abboot import image as images

    seen = images.inspect(options.image)
    return Result(data=_inspection_to_json(seen), text=lambda style: _inspection_text(style, seen))


def _inspection_to_json(seen: Any) -> dict[str, Any]:
    from abboot.status import record_to_json

    def known(value: Any) -> Any:
        return None if value is None else str(value)

    return {
        "schema": SCHEMA,
        "path": seen.path,
        "size_bytes": seen.size_bytes,
        "table": str(seen.table),
        "disk_id": seen.disk_id,
        "primary": known(seen.primary),
        "partitions": [
            {**attrs.asdict(part), "fat_type": None if part.fat_type is None else int(part.fat_type)}
            for part in seen.partitions
        ],
        "slots": {
            str(slot): {
                "partition": info.partition,
                "label": info.label,
                "state": known(info.state),
                "record": None if info.record is None else record_to_json(info.record),
                "record_digest": info.record_digest,
                "problem": info.problem,
            }
            for slot, info in seen.slots.items()
        },
        "autoboot": seen.autoboot,
        "autoboot_problem": seen.autoboot_problem,
        "journal": None
        if seen.journal is None
        else {**attrs.asdict(seen.journal), "newest": known(seen.journal.newest)},
        "notes": list(seen.notes),
    }


def _inspection_text(style: Style, seen: Any) -> str:
    rows = [
        [
            str(part.number),
            part.role or "-",
            part.type_id,
            size(part.start),
            size(part.size),
            f"FAT{int(part.fat_type)}" if part.fat_type else "-",
            part.label or part.name or "-",
            size(part.free_bytes) if part.free_bytes is not None else (part.problem or "-"),
        ]
        for part in seen.partitions
    ]
    lines = [
        facts(
            style,
            [
                ("image", f"{seen.path}, {size(seen.size_bytes)}, {seen.table}, disk id {seen.disk_id}"),
                ("primary", f"slot {seen.primary}" if seen.primary else "nobody can tell"),
                (
                    "autoboot.txt",
                    style.paint(f"damaged: {seen.autoboot_problem}", "red") if seen.autoboot_problem else "",
                ),
                ("journal", style.paint(seen.journal.problem, "red") if seen.journal and seen.journal.problem else ""),
            ],
        ),
        "",
        table(style, ["#", "role", "type", "start", "size", "file system", "label", "free"], rows),
    ]
    slots = [
        [
            str(slot),
            str(info.partition),
            style.word(info.state or "unknown"),
            info.record_digest[:12] if info.record_digest else info.problem or "-",
        ]
        for slot, info in seen.slots.items()
    ]
    if slots:
        lines += ["", table(style, ["slot", "partition", "state", "record"], slots)]
    lines += [style.remark("note", note) for note in seen.notes]
    return "\n".join(lines)


# -- the simulated Pi -------------------------------------------------------------------------------------------------


def simulate(options: argparse.Namespace) -> Result:
    if options.action == "run":
        from abboot.cli.emulate import run

        return run(options)
    from abboot.core.firmware import ResetKind
    from abboot.simulator import SimulatedPi
    from abboot.simulator.pi import parse_board

    with SimulatedPi.load(options.image) as pi:
        pi.set_board(parse_board(pi.board, options.model, options.bootloader))
        pending = pi.state.argument
        if options.tryboot and options.action == "reboot":
            pending = "0 tryboot"
        if options.dry_run:
            kind = ResetKind.REBOOT if options.action == "reboot" else ResetKind.POWER_CUT
            boots = pi.would_boot(kind, argument=pending, flag=True if options.tryboot else None)
            what = "nothing is done; this would happen"
        else:
            match options.action:
                case "reboot":
                    boots = (pi.reboot(pending),)
                case _ if options.tryboot:
                    boots = (pi.cold_boot(tryboot=True),)
                case _:
                    boots = (pi.power_cut(),)
            pi.save(options.image)
            told = {"reboot": "rebooted", "boot": "was switched off and on", "power-cut": "lost power and came back"}
            what = f"the simulated Pi {told[options.action]}"
        booted, *others = [Booted.of(pi, boot) for boot in boots]

    def text(style: Style) -> str:
        unsure = "the firmware is not known well enough; this could happen as well"
        return "\n\n".join([booted.text(style, what), *(other.text(style, unsure) for other in others)])

    alternatives = [other.to_json() for other in others]
    return Result(data={"schema": SCHEMA, **booted.to_json(), "alternatives": alternatives}, text=text)


def forklift(options: argparse.Namespace) -> Result:
    from abboot.cli.forklift import run

    return run(options)


# -- configuration ----------------------------------------------------------------------------------------------------


def config(options: argparse.Namespace) -> Result:
    return {"check": _config_check, "show": _config_show}[options.action](options)


def _config_check(options: argparse.Namespace) -> Result:
    from abboot.config_file import ConfigProblem, InvalidConfig

    name = options.config or DEFAULT_CONFIG
    errors: tuple[ConfigProblem, ...] = ()
    try:
        _config(options)
    except InvalidConfig as invalid:
        errors = invalid.errors

    def text(style: Style) -> str:
        if not errors:
            return f"{name}: no errors"
        return "\n".join(item(style, f"{name}: ", str(error)) for error in errors)

    found = [{"line": error.line, "key": error.key, "message": error.message} for error in errors]
    data = {"schema": SCHEMA, "ok": not errors, "file": name, "errors": found}
    return Result(data=data, text=text, exit_code=1 if errors else 0)


def _config_show(options: argparse.Namespace) -> Result:
    from abboot.config_file import render_config

    text = render_config(_config(options))
    return Result(data={"schema": SCHEMA, "config": text}, text=lambda _style: text)


@contextmanager
def _progress(options: argparse.Namespace) -> Iterator[Any]:
    from abboot.cli.progress import progress_bar

    bar = progress_bar(wanted=not options.json and not options.quiet)
    try:
        yield bar
    finally:
        if bar is not None:
            bar.clear()


VERBS: dict[str, Callable[[argparse.Namespace], Result]] = {
    "status": status,
    "stage": stage,
    "trial": trial,
    "confirm": confirm,
    "commit": commit,
    "revert": revert,
    "verify": verify,
    "log": log,
    "repair": repair,
    "selftest": selftest,
    "doctor": doctor,
    "note-boot": note_boot,
    "deadline": deadline,
    "install-units": install_units,
    "image": image,
    "simulate": simulate,
    "forklift": forklift,
    "config": config,
}
