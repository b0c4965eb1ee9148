"""Hazards of the running system: its kernel, service manager, watchdogs and other disks."""

from __future__ import annotations

import re
from collections.abc import Iterator

from abboot.core.firmware import Family
from abboot.core.hazards import Severity
from abboot.core.tree import keeps_watchdog, shown, watchdog_seconds
from abboot.core.words import Phase
from abboot.doctor.facts import Facts, Tree
from abboot.doctor.probe import Found, Unseen, card_of, known, probe, remarks, some, system_of, trees_of


@probe("H-12")
def _stale_arm(facts: Facts) -> Iterator[Found]:
    system, card = system_of(facts), card_of(facts)
    if known(card.phase, card.problem) is Phase.ARMED:
        return
    if system.argument:
        worst = None if "tryboot" in system.argument else Severity.SERIOUS
        yield Found(
            text=f"nothing is armed, and the next reboot would carry {shown(system.argument)!r}", severity=worst
        )
    if system.flag:
        yield Found(text="nothing is armed, and the firmware's tryboot flag is set")


@probe("H-31")
def _wrong_argument(facts: Facts) -> Iterator[Found]:
    argument = system_of(facts).argument
    if argument and "tryboot" in argument and argument != "0 tryboot":
        yield Found(text=f"the next reboot would carry {shown(argument)!r}")


@probe("H-25")
def _disarmed(facts: Facts) -> Iterator[Found]:
    found = list(remarks(facts, "H-25"))
    yield from found
    system = facts.system
    if found or system is None or facts.folder is not None:
        return
    for tree in facts.trees:
        watched = watchdog_seconds(tree.config or "")
        if watched and not keeps_watchdog(tree.cmdline or "") and known(system.disarms, "the system cannot be read"):
            text = f"{tree.name} has kernel_watchdog_timeout={watched} and no watchdog_disarm=0, and the script rpi_wd"
            yield Found(text=f"{text} of raspberrypi-sys-mods is installed")


@probe("H-26")
def _long_watchdog(facts: Facts) -> Iterator[Found]:
    system = system_of(facts)
    seconds = known(system.runtime_watchdog_s, "the service manager's configuration cannot be read")
    if seconds <= 15:
        return
    version = re.match(r"(\d{1,4})\.(\d{1,4})", known(system.kernel, "the kernel's version cannot be read"))
    old = version is not None and (int(version[1]), int(version[2])) < (6, 8)
    if old and (system.watchdog is None or system.watchdog.state != "active"):
        yield Found(text=f"RuntimeWatchdogSec is {seconds:g} s, and the kernel is {system.kernel}")


@probe("H-28")
def _watchdog_nobody_takes(facts: Facts) -> Iterator[Found]:
    for tree in trees_of(facts):
        watched = watchdog_seconds(tree.config or "")
        if not watched:
            continue
        blind = _blind(facts, tree)
        if blind:
            text = f"{tree.name} has kernel_watchdog_timeout={watched}, and {some(blind)} does not know early-watchdog"
            yield Found(text=text, severity=Severity.ADVICE)
    system, card = facts.system, facts.card
    booted = card.slot(card.booted) if card is not None and card.booted is not None else None
    if system is None or booted is None or booted.tree is None:
        return
    watched = watchdog_seconds(booted.tree.config or "")
    if watched and system.watchdog is not None and system.watchdog.state == "inactive":
        yield Found(
            text=f"{booted.tree.name} has kernel_watchdog_timeout={watched}, and nothing in the running system opened "
            "the watchdog",
            severity=Severity.SERIOUS,  # it runs, so something disarmed it: an update of that may be all it takes
        )


_DTB_OF = {
    Family.PI0_3: re.compile(r"bcm27(08|09|10)"),
    Family.PI4: re.compile("bcm2711"),
    Family.PI5: re.compile("bcm2712"),
}


def _blind(facts: Facts, tree: Tree) -> list[str]:
    board = facts.system.board if facts.system is not None else None
    wanted = _DTB_OF[board.family] if board is not None else re.compile("bcm27")
    return [name for name in tree.blind_device_trees if wanted.match(name.lower())]


@probe("H-29")
def _no_mailbox(facts: Facts) -> Iterator[Found]:
    system = system_of(facts)
    if known(system.mailbox, "the running system cannot be looked at"):
        return
    if system.notifier:
        text = "there is no /dev/vcio; this kernel would pass the reboot argument on"
        yield Found(text=text, severity=Severity.ADVICE, remedy='set trial.reboot = "argument" in the configuration')
    else:
        yield Found(text=f"there is no /dev/vcio (kernel {system.kernel or 'unknown'})")


@probe("H-30")
def _reboot_drops(facts: Facts) -> Iterator[Found]:
    system = system_of(facts)
    program = known(system.reboot_program, "the running system cannot be looked at")
    if program.rpartition("/")[2] == "systemctl" and system.systemd is not False:
        return
    what = f"/sbin/reboot is {shown(program)}" if program else "there is no /sbin/reboot"
    text = f"{what}{'' if system.systemd else ', and systemd does not run'}"
    # The mailbox does not need it; without the mailbox it is the only way.
    yield Found(text=text, severity=Severity.ADVICE if system.mailbox else None)


@probe("H-36")
def _package_hooks(facts: Facts) -> Iterator[Found]:
    hooks = known(system_of(facts).hooks, "the running system cannot be looked at")
    if hooks:
        yield Found(text=f"{some(list(hooks))} write to the boot partition")


@probe("H-38")
def _dropped_unit(facts: Facts) -> Iterator[Found]:
    system = system_of(facts)
    units = known(system.units, "the running system cannot be looked at")
    if not units:
        raise Unseen("abboot's units are not installed: `abboot install-units`")
    for problem in known(system.unit_problems, "systemd was not asked"):
        yield Found(text=problem)


@probe("H-47")
def _under_voltage(facts: Facts) -> Iterator[Found]:
    if known(system_of(facts).under_voltage, "nothing reports the supply voltage"):
        yield Found(text="the supply voltage is too low right now")


@probe("H-52")
def _many_usb_disks(facts: Facts) -> Iterator[Found]:
    system = system_of(facts)
    mode = system.report.boot_mode if system.report is not None else None
    known(mode, "the firmware does not say what it booted from")
    if mode in (2, 3, 7):
        kind = {2: "the network", 3: "rpiboot", 7: "HTTP"}[mode]
        yield Found(text=f"this board was booted from {kind}")
    elif mode in (4, 5) and known(system.usb_disks, "the disks cannot be seen") > 1:
        yield Found(text=f"this board was booted from USB, and has {system.usb_disks} USB disks")


@probe("H-54")
def _missing_tool(facts: Facts) -> Iterator[Found]:
    for tool in known(system_of(facts).missing_tools, "the running system cannot be looked at"):
        yield Found(text=f"the configuration runs {shown(tool)}, which is not there")
