"""Whether this is a bad moment for a reboot: somebody holds an inhibitor lock, or a command of the user says so.

Asked before a trial is armed for a reboot at once, and before a trial is left.  A person who asks for one of these is
told who is busy, and may insist.  A service that leaves an unhealthy trial waits, and not for ever (G11).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from abboot.core.canonical import one_line

if TYPE_CHECKING:
    from abboot.config import TrialConfig
    from abboot.core.protocols import Machine

POLL_S = 2.0
_OUTPUT_BYTES = 4096
_REASON_BYTES = 200


def who_is_busy(machine: Machine, settings: TrialConfig, *, run_hook: bool) -> str:
    """Who asks for no reboot now, one sentence; empty if nobody does.

    Args:
        machine: the board.
        settings: with the user's command.
        run_hook: run that command here; below a sysroot it would ask this system about another one.
    """
    held = machine.rebooter.inhibitors()
    if held:
        return f"{', '.join(held[:3])}{f' and {len(held) - 3} more' if len(held) > 3 else ''}"
    if settings.busy_hook is None or not run_hook:
        return ""
    from abboot.health.process import run_bounded

    name = settings.busy_hook[0]
    try:
        ran = run_bounded(settings.busy_hook, timeout_s=settings.busy_hook_timeout_s, keep_bytes=_OUTPUT_BYTES)
    except OSError as error:
        return f"{name} cannot be run: {(error.strerror or str(error)).lower()}"
    if ran.timed_out:
        return f"{name} gave no answer in {settings.busy_hook_timeout_s:g} s"
    if ran.status == 0:
        return ""
    said = one_line(ran.output.strip(), _REASON_BYTES)
    return f"{name} says so{f': {said}' if said else ''} (exit status {ran.status})"


def wait_until_idle(machine: Machine, settings: TrialConfig, *, run_hook: bool) -> str:
    """Wait until nobody is busy, for ``busy_limit`` at most; returns who is busy then."""
    clock = machine.clock
    end_s = clock.boottime_s() + settings.busy_limit_s
    while busy := who_is_busy(machine, settings, run_hook=run_hook):
        left_s = end_s - clock.boottime_s()
        if left_s <= 0:
            return busy
        clock.sleep(min(POLL_S, left_s))
    return ""


def wait_for_power(machine: Machine, *, limit_s: float) -> bool:
    """Wait while the supply voltage is too low to write (H-47), for ``limit_s`` at most; whether it is high enough."""
    clock = machine.clock
    end_s = clock.boottime_s() + limit_s
    while machine.under_voltage():
        left_s = end_s - clock.boottime_s()
        if left_s <= 0:
            return False
        clock.sleep(min(POLL_S, left_s))
    return True
