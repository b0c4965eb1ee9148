"""abboot: A/B boot partitions for the Raspberry Pi.

Stage a boot tree onto the inactive slot, try it once, commit it or fall back; safe against a power cut at any write.

    manager = abboot.BootManager.from_system()            # or BootManager.open("card.img")
    staged = manager.stage("new-boot-tree")
    manager.trial(staged.record_digest)                   # arms, sets the one-shot flag, reboots

    report = abboot.health.watch(checks, stable_for=10, deadline=300)
    manager.end_trial(healthy=report.healthy, reason=report.summary)

    abboot.image.build(abboot.image.load_spec("card.toml"), "card.img")

Everything is loaded when it is first used, so that ``abboot status`` is instant on a small board.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from abboot import forklift, health, image, simulator
    from abboot.config import Config
    from abboot.config_file import load_config
    from abboot.core.words import Outcome, Phase, Slot, SlotState
    from abboot.errors import (
        AbbootError,
        ConfigError,
        Damaged,
        DeviceError,
        InvalidTree,
        Locked,
        NewerFormat,
        Refused,
        VerificationFailed,
    )
    from abboot.manager import BootManager
    from abboot.progress import Progress
    from abboot.repair import Repair
    from abboot.results import Change, Confirmation, Staged
    from abboot.status import Status
    from abboot.verify import Verification
    from abboot.version import VERSION as __version__  # noqa: N811

__all__ = [
    # doing
    "BootManager",
    "forklift",
    "health",
    "image",
    "simulator",
    # what verbs return
    "Change",
    "Confirmation",
    "Progress",
    "Repair",
    "Staged",
    "Status",
    "Verification",
    # words
    "Outcome",
    "Phase",
    "Slot",
    "SlotState",
    # configuration
    "Config",
    "load_config",
    # errors
    "AbbootError",
    "ConfigError",
    "Damaged",
    "DeviceError",
    "InvalidTree",
    "Locked",
    "NewerFormat",
    "Refused",
    "VerificationFailed",
    "__version__",
]

_HOMES = {
    "BootManager": "manager",
    "Change": "results",
    "Confirmation": "results",
    "Staged": "results",
    "Progress": "progress",
    "Repair": "repair",
    "Status": "status",
    "Verification": "verify",
    "Config": "config",
    "load_config": "config_file",
    **dict.fromkeys(("Outcome", "Phase", "Slot", "SlotState"), "core.words"),
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module 'abboot' has no attribute {name!r}")
    if name in ("forklift", "health", "image", "simulator"):
        return import_module(f"abboot.{name}")
    if name == "__version__":
        return import_module("abboot.version").VERSION
    return getattr(import_module(f"abboot.{_HOMES.get(name, 'errors')}"), name)
