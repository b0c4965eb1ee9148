"""``abboot doctor``: every hazard of A/B boot that can be seen from here, and what brings a trial back.

Reading (:mod:`abboot.doctor.gather`), judging (:mod:`abboot.doctor.probes`) and mending a tree
(:mod:`abboot.doctor.fix`) are apart; the hazards themselves are the table :mod:`abboot.core.hazards`.  Nothing on the
device is changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from abboot.core.hazards import HAZARDS, Severity
from abboot.core.recovery import Nets, Recovery, what_brings_it_back
from abboot.core.tree import keeps_watchdog, panic_seconds, watchdog_seconds
from abboot.doctor.facts import Card, Facts, System, Tree
from abboot.doctor.probe import Found, Unseen, tree_of_trial
from abboot.doctor.probes import PROBES
from abboot.errors import AbbootError

if TYPE_CHECKING:
    from abboot.config import Config
    from abboot.manager import BootManager

SCHEMA = 1


@attrs.frozen(kw_only=True)
class Finding:
    """A hazard that is there."""

    id: str
    severity: Severity
    title: str
    found: str
    effect: str
    remedy: str
    source: str


@attrs.frozen(kw_only=True)
class Report:
    """What the doctor says.

    Args:
        findings: worst first, then by number.
        clear: the hazards that were looked for and are not there.
        unseen: the other ones, each with the reason.
        recovery: what brings a failed trial back; ``trial`` names the tree whose settings were taken.
        notes: what was taken for granted.
    """

    findings: tuple[Finding, ...]
    clear: tuple[str, ...]
    unseen: dict[str, str]
    recovery: tuple[Recovery, ...]
    trial: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Something could be looked at, and nothing critical was found."""
        return bool(self.findings or self.clear) and all(
            finding.severity is not Severity.CRITICAL for finding in self.findings
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "ok": self.ok,
            "findings": [{**attrs.asdict(finding), "severity": str(finding.severity)} for finding in self.findings],
            "clear": list(self.clear),
            "unseen": [{"id": hazard, "why": why} for hazard, why in self.unseen.items()],
            "recovery": {"tree": self.trial, "failures": [attrs.asdict(row) for row in self.recovery]},
            "notes": list(self.notes),
        }


def examine(manager: BootManager, *, sysroot: str | None = None) -> Report:
    """Look at the disk of ``manager`` and at the system that booted from it.  No lock, no write.

    Args:
        manager: the disk, and the board that booted from it, if one did.
        sysroot: where the interfaces of that board's kernel are; ``None``: look at the disk, and only ask the board
            what the manager asks it too.
    """
    from abboot.doctor.gather import read_card
    from abboot.doctor.gather_system import read_machine, read_system

    card, machine = read_card(manager), manager.machine
    system: System | None = None
    if machine is not None and sysroot is not None:
        system = read_system(machine, sysroot, manager.config, manager.disk.name)
    elif machine is not None:
        system = read_machine(machine)
    return judge(Facts(card=card, system=system))


def examine_disk(manager: BootManager) -> Report:
    """Look at the disk alone, as if it lay on a desk.  No lock, no write."""
    from abboot.doctor.gather import read_card

    card = read_card(manager)
    return judge(Facts(card=attrs.evolve(card, phase=None, reason="", booted=None)))


def examine_tree(folder: str, *, sysroot: str | None = None, config: Config | None = None) -> Report:
    """Look at a tree that is to be staged, and at the board that would boot it.

    Args:
        folder: the tree.
        sysroot: where the interfaces of the board's kernel are; ``None``, or one that is no Pi: only the tree counts.
        config: of that system.

    Raises:
        InvalidTree: it is none.
    """
    from abboot.config import Config
    from abboot.doctor.gather import read_folder
    from abboot.doctor.gather_system import read_system
    from abboot.linux.machine import SystemMachine

    tree, system = read_folder(folder), None
    if sysroot is not None and (machine := SystemMachine(sysroot)).boot_report() is not None:
        system = read_system(machine, sysroot, config or Config(), _booted_disk(sysroot))
    return judge(Facts(folder=tree, system=system))


def _booted_disk(sysroot: str) -> str:
    from abboot.linux.discovery import booted_disk

    try:
        return booted_disk(sysroot) or ""
    except AbbootError:
        return ""  # then every disk is another one


def judge(facts: Facts) -> Report:
    """Ask every probe.  Pure."""
    findings: list[Finding] = []
    clear: list[str] = []
    unseen: dict[str, str] = {}
    for hazard in HAZARDS.values():
        if hazard.id not in PROBES:
            unseen[hazard.id] = hazard.unseen
            continue
        found: list[Found] = []
        try:
            for item in PROBES[hazard.id](facts):
                found.append(item)  # noqa: PERF402 - what was found before a probe could not go on counts
        except Unseen as reason:
            if not found:
                unseen[hazard.id] = str(reason)
                continue
        if not found:
            clear.append(hazard.id)
        findings += [
            Finding(
                id=hazard.id,
                severity=item.severity or hazard.severity,
                title=hazard.title,
                found=item.text,
                effect=hazard.effect,
                remedy=item.remedy or hazard.remedy,
                source=hazard.source,
            )
            for item in found
        ]
    order = list(Severity)
    tree = tree_of_trial(facts)
    return Report(
        findings=tuple(sorted(findings, key=lambda finding: (order.index(finding.severity), finding.id))),
        clear=tuple(clear),
        unseen=unseen,
        recovery=what_brings_it_back(nets_of(facts.system, tree)),
        trial=tree.name if tree is not None else None,
        notes=tuple(_notes(facts)),
    )


def nets_of(system: System | None, tree: Tree | None) -> Nets:
    """The safety nets of a trial of ``tree`` on this system."""
    nets = Nets()
    if tree is not None:
        watched = None if tree.config is None else watchdog_seconds(tree.config)
        if watched is None and not tree.has("config.txt"):
            watched = 0
        nets = attrs.evolve(
            nets,
            kernel_watchdog_s=watched,
            panic_s=None if tree.cmdline is None else panic_seconds(tree.cmdline),
            initramfs_disarms=False if tree.cmdline is not None and keeps_watchdog(tree.cmdline) else None,
        )
    if system is None:
        return nets
    if nets.initramfs_disarms is None and system.disarms is not None:
        nets = attrs.evolve(nets, initramfs_disarms=system.disarms)
    seconds = (system.eeprom or {}).get("BOOT_WATCHDOG_TIMEOUT", "0")
    enabled = system.enabled
    return attrs.evolve(
        nets,
        # Without its date the bootloader may be any, so nothing is said of it.
        board=system.board if system.bootloader is not None else None,
        boot_watchdog_s=None if system.eeprom is None else int(seconds[:9]) if seconds.isdecimal() else 0,
        runtime_watchdog_s=system.runtime_watchdog_s,
        confirms=None if enabled is None else "abboot-confirm.service" in enabled,
        deadline=None if enabled is None else "abboot-deadline.timer" in enabled,
    )


def _notes(facts: Facts) -> list[str]:
    notes = []
    for tree in facts.trees:
        notes += [
            f"{name} of {tree.name} does not tell when it was built: taken as new enough"
            for name, built in tree.builds.items()
            if built is None
        ]
    card: Card | None = facts.card
    if card is not None and card.problem:
        notes.append(card.problem)
    if card is not None and not card.problem:
        for number in card.slots.values():
            there = card.partition(number)
            if there is not None and there.tree is None:
                notes.append(f"partition {number} was not looked into: {there.problem}")
    return notes


__all__ = ["Finding", "Report", "examine", "examine_disk", "examine_tree", "judge"]
