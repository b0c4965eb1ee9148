"""Health checks, for abboot's own ``confirm`` and for anybody's health-check service.

This package can be used alone::

    report = abboot.health.watch([abboot.health.TcpCheck(name="ssh", port=22)], stable_for=10, deadline=300)

It reboots nothing and commits nothing (G7); hand the report to ``BootManager.end_trial``.
"""

from __future__ import annotations

from abboot.core.check_spec import CheckSpec
from abboot.core.health import CheckResult, HealthReport
from abboot.health.checks import (
    KINDS,
    BuiltinCheck,
    Check,
    CheckFailed,
    CommandCheck,
    DefaultRouteCheck,
    FileCheck,
    FreeSpaceCheck,
    HttpCheck,
    IpVersion,
    MountWritableCheck,
    NoFailedUnitsCheck,
    TcpCheck,
    UnitCheck,
    UptimeCheck,
    build_checks,
)
from abboot.health.runner import Progress, watch

__all__ = [
    # running
    "watch",
    "HealthReport",
    "CheckResult",
    "Progress",
    # the checks
    "Check",
    "CommandCheck",
    "FileCheck",
    "TcpCheck",
    "HttpCheck",
    "UnitCheck",
    "NoFailedUnitsCheck",
    "MountWritableCheck",
    "FreeSpaceCheck",
    "DefaultRouteCheck",
    "IpVersion",
    "UptimeCheck",
    # from a configuration, and plug-ins
    "KINDS",
    "CheckSpec",
    "build_checks",
    "BuiltinCheck",
    "CheckFailed",
]
