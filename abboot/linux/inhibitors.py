"""Who asks the system not to shut down now: the inhibitor locks of systemd-logind.

Rules: only locks that block count; those that merely delay are waited for by systemd itself.  logind is asked through
``busctl``, whose JSON is stable and which every system with logind has; where there is no logind, nobody asks.
Source: https://systemd.io/INHIBITOR_LOCKS/; org.freedesktop.login1(5), ``ListInhibitors``; busctl(1), ``--json``.
"""

from __future__ import annotations

import json
import os

import attrs

from abboot.core.canonical import one_line
from abboot.linux.sysroot import is_live

_BUSCTL = ("/usr/bin/busctl", "/bin/busctl")
_SOCKET = "/run/dbus/system_bus_socket"
_CALL = (
    "--json=short",
    "--timeout=5",
    "call",
    "org.freedesktop.login1",
    "/org/freedesktop/login1",
    "org.freedesktop.login1.Manager",
    "ListInhibitors",
)
_TIMEOUT_S = 10
_MAX_TEXT = 120  # bytes of what a program calls itself, and of its reason
_BLOCKING = ("block", "block-weak")  # the latter since systemd 257


@attrs.frozen(kw_only=True)
class Inhibitor:
    """One lock against shutting down."""

    who: str
    why: str
    pid: int

    def __str__(self) -> str:
        return f"{self.who} (process {self.pid}): {self.why}"


def shutdown_inhibitors(sysroot: str = "/") -> tuple[Inhibitor, ...]:
    """Who blocks a shutdown now; empty where nobody does, where there is no logind, and below a sysroot.

    A logind that gives no answer in time blocks nothing: a hung bus must not keep a device from leaving a bad system.
    """
    program = next((path for path in _BUSCTL if os.access(path, os.X_OK)), None)
    if not is_live(sysroot) or program is None or not os.path.exists(_SOCKET):
        return ()
    import subprocess  # here and not above: only a reboot needs it

    try:
        ran = subprocess.run(
            [program, *_CALL], stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse_inhibitors(ran.stdout)


def parse_inhibitors(answer: bytes) -> tuple[Inhibitor, ...]:
    """The blocking locks in an answer of ``busctl``; what is no answer holds none."""
    try:
        rows = json.loads(answer)["data"][0]
    except (ValueError, RecursionError, LookupError, TypeError):
        return ()
    found = []
    for row in rows if isinstance(rows, list) else ():
        match row:
            case [str(what), str(who), str(why), str(mode), int(), int(pid)]:
                if "shutdown" in what.split(":") and mode in _BLOCKING:
                    found.append(Inhibitor(who=_told(who), why=_told(why), pid=pid))
            case _:
                continue
    return tuple(found)


def _told(text: str) -> str:
    return one_line(text, _MAX_TEXT) or "it does not say"
