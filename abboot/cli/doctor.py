"""``abboot doctor``: what may go wrong on this board with this disk, worst first, and what brings it back."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from abboot.cli.render import Style, facts, item, table
from abboot.cli.verbs import Result, _config, _target
from abboot.core.hazards import HAZARDS, Severity

if TYPE_CHECKING:
    from abboot.doctor import Finding, Report
    from abboot.doctor.fix import Fixed

_COLOURS = {Severity.CRITICAL: "red", Severity.SERIOUS: "yellow", Severity.ADVICE: "blue"}
_MEANINGS = {
    Severity.CRITICAL: "the device may not boot, or reboots for ever",
    Severity.SERIOUS: "the wrong slot boots, or something fails silently",
    Severity.ADVICE: "it works, with less safety than there could be",
}
_ANSWERS = {True: ("yes", "green"), False: ("no", "red"), None: ("unknown", "yellow")}


def doctor(options: argparse.Namespace) -> Result:
    fixed: Fixed | None = None
    if options.fix is not None:
        from abboot.doctor import examine_tree
        from abboot.doctor.fix import fix_tree

        config = _config(options)  # before anything is changed: it may be wrong
        fixed = fix_tree(options.fix, sysroot=options.sysroot)
        asks = not options.offline and options.sim is None and options.disk is None
        found = examine_tree(options.fix, sysroot=options.sysroot if asks else None, config=config)
    else:
        from abboot.doctor import examine, examine_disk

        with _target(options) as target:
            if options.offline:
                found = examine_disk(target.manager)
            else:
                found = examine(target.manager, sysroot=None if target.simulated else options.sysroot)
    data = {**found.to_json(), "fixed": None if fixed is None else _fixed_json(fixed)}
    return Result(
        data=data,
        text=lambda style: _text(style, found, fixed, verbose=bool(options.verbose)),
        exit_code=0 if found.ok else 1,
    )


def _fixed_json(fixed: Fixed) -> dict[str, object]:
    return {
        "tree": fixed.tree,
        "changed": list(fixed.changed),
        "diff": fixed.diff,
        "hints": list(fixed.hints),
    }


def _text(style: Style, found: Report, fixed: Fixed | None, *, verbose: bool) -> str:
    blocks = [] if fixed is None else [_fixed_text(style, fixed)]
    for severity in Severity:
        group = [finding for finding in found.findings if finding.severity is severity]
        if group:
            head = style.paint(str(severity), "bold", _COLOURS[severity])
            blocks.append("\n".join([f"{head}: {_MEANINGS[severity]}", *_group(style, group)]))
    if not found.findings:
        seen = style.paint("nothing found", "green") if found.clear else style.paint("nothing can be seen", "red")
        blocks.append(seen)
    blocks.append(_recovery_text(style, found))
    if verbose:
        rows = [f"{hazard} {HAZARDS[hazard].title}: {why}" for hazard, why in found.unseen.items()]
        blocks.append("\n".join(["not seen:", *(item(style, "  ", row) for row in rows)]))
    blocks += ["\n".join(style.remark("note", note) for note in found.notes)] if found.notes else []
    blocks.append(_summary(style, found, verbose=verbose))
    return "\n\n".join(blocks)


def _group(style: Style, findings: list[Finding]) -> list[str]:
    """One block for each hazard, also where it was found in both slots."""
    lines: list[str] = []
    for hazard in dict.fromkeys(finding.id for finding in findings):
        same = [finding for finding in findings if finding.id == hazard]
        lines += ["", item(style, f"  {style.bold(hazard)} ", style.bold(same[0].title))]
        rows = [("found", finding.found) for finding in same] + [("means", same[0].effect)]
        rows += [("remedy", remedy) for remedy in dict.fromkeys(finding.remedy for finding in same)]
        lines += [f"       {line}" for line in facts(_narrower(style, 7), rows).splitlines()]
    return lines


def _narrower(style: Style, columns: int) -> Style:
    return style if style.width is None else Style(colour=style.colour, width=style.width - columns)


def _recovery_text(style: Style, found: Report) -> str:
    rows = []
    for row in found.recovery:
        word, colour = _ANSWERS[row.comes_back]
        rows.append([style.paint(word, colour), f"{row.failure}: {row.by}"])
    tree = f", in a trial of {found.trial}" if found.trial is not None else ""
    return f"what brings it back{tree}:\n" + table(style, ["by itself", "when: what does"], rows)


def _fixed_text(style: Style, fixed: Fixed) -> str:
    if not fixed.changed:
        lines = [f"{fixed.tree} has the safety nets already: nothing was changed"]
    else:
        lines = [f"changed in {fixed.tree}:"]
        colours = {"+": "green", "-": "red", "@": "cyan"}
        for line in fixed.diff.splitlines():
            colour = colours.get(line[:1])
            lines.append(style.paint(line, colour) if colour else line)
    return "\n".join([*lines, *(style.remark("note", hint) for hint in fixed.hints)])


def _summary(style: Style, found: Report, *, verbose: bool) -> str:
    counts = dict.fromkeys(Severity, 0)
    for finding in found.findings:
        counts[finding.severity] += 1
    told = ", ".join(f"{count} {severity}" for severity, count in counts.items() if count) or "no findings"
    more = "" if verbose else " (-v lists them)"
    return item(
        style,
        "",
        f"{told}; {len(found.clear)} hazards are not there, {len(found.unseen)} cannot be seen from here{more}",
    )
