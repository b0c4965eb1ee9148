"""What this system is shutting down to, asked while it is.

Rule: only a running shutdown counts.  systemd is asked for its jobs through ``systemctl``, which for root needs no
message bus.  Sources: systemctl(1), "list-jobs"; systemd.special(7).
"""

from __future__ import annotations

import os

_SYSTEMCTL = ("/usr/bin/systemctl", "/bin/systemctl")
_TIMEOUT_S = 20
_TARGETS = {
    "reboot.target": "reboot",
    "poweroff.target": "poweroff",
    "halt.target": "halt",
    "kexec.target": "kexec",
    "soft-reboot.target": "soft-reboot",
}


def shutting_down_to() -> str | None:
    """``"reboot"``, ``"poweroff"``, ``"halt"``, ``"kexec"`` or ``"soft-reboot"``; ``None``: none, or nobody knows."""
    program = next((path for path in _SYSTEMCTL if os.access(path, os.X_OK)), None)
    if program is None:
        return None
    import subprocess  # here and not above: only a shutdown needs it

    try:
        ran = subprocess.run(
            [program, "list-jobs", "--no-legend", "--no-pager", "--plain", "--full"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_jobs(ran.stdout.decode("utf-8", "replace")) if ran.returncode == 0 else None


def parse_jobs(jobs: str) -> str | None:
    """The same, of what ``systemctl list-jobs`` printed: lines such as ``1234 reboot.target start waiting``."""
    for line in jobs.splitlines():
        match line.split():
            case [number, unit, "start", _] if number.isdigit() and unit in _TARGETS:
                return _TARGETS[unit]
            case _:
                continue
    return None
