"""What an operator may decide in ``abboot.toml``, as one frozen value.

Rules: every setting is declared once, as a field of the classes below; reading, ``config show``, the checks on
construction and the reference page follow from it.  Reading is in :mod:`abboot.config_file`: without a file everything
has its default, and nobody needs to load that.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

import attrs

from abboot.core.check_spec import CheckSpec
from abboot.core.settings import (
    BOOLEAN,
    COMMAND,
    INNER_PATH,
    INNER_PATHS,
    PATH,
    PATHS,
    SettingError,
    choice,
    duration,
    integer,
    setting,
    shown,
)
from abboot.core.value import Value

if TYPE_CHECKING:
    from collections.abc import Mapping

_PARTITION = integer(1, 128)


class RebootChannel(enum.StrEnum):
    """How the firmware is told to try the armed slot once."""

    AUTO = "auto"
    MAILBOX = "mailbox"
    ARGUMENT = "argument"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class DiskConfig(Value):
    """The disk and its partitions, where they are not to be found by themselves."""

    device: str | None = setting(
        PATH, "The disk that holds selector and slots. Not set: the disk that the firmware booted.", default=None
    )
    selector: int | None = setting(
        _PARTITION, "Partition number of the selector. Not set: it is found by its content.", default=None
    )
    slot_a: int | None = setting(
        _PARTITION, "Partition number of slot a, the lower of the two. Not set: it is found.", default=None
    )
    slot_b: int | None = setting(_PARTITION, "Partition number of slot b. Not set: it is found.", default=None)

    def __attrs_post_init__(self) -> None:
        if (self.slot_a is None) != (self.slot_b is None):
            missing = "slot_a" if self.slot_a is None else "slot_b"
            raise SettingError(f"set both slots or none: {missing} is not set")
        if self.slot_a is not None and self.slot_b is not None and self.slot_a >= self.slot_b:
            raise SettingError(f"{self.slot_b} is not more than slot_a = {self.slot_a}", "slot_b")
        if self.selector is not None and self.selector in (self.slot_a, self.slot_b):
            raise SettingError(f"{self.selector} is the number of a slot", "selector")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class TrialConfig(Value):
    """How an update is tried."""

    attempts: int = setting(
        integer(1, 5),
        "How often a staged slot may be tried when nobody can tell why it did not come up (a power cut, or a kernel "
        "that hung early). After that it counts as failed.",
        default=1,
    )
    reboot: RebootChannel = setting(  # noqa: RUF009 - it makes an attrs field
        choice(RebootChannel),
        "How the one-shot flag is set. auto: all ways that this system has; mailbox: only the firmware's mailbox; "
        "argument: only the reboot argument.",
        default="auto",
    )
    allow_unknown_bootloader: bool = setting(
        BOOLEAN,
        "Arm a trial even where the bootloader does not tell its date. One from before A/B support cold-boots the "
        "armed slot (H-01).",
        default=False,
    )
    busy_hook: tuple[str, ...] | None = setting(
        COMMAND,
        "A command that says whether this is a bad moment for a reboot: with exit status 0 it is not. It is asked, "
        "beside systemd's inhibitor locks, before a trial begins and before one is left.",
        default=None,
    )
    busy_hook_timeout_s: float = setting(
        duration(at_least_s=0.1),
        "A `busy_hook` without an answer by then says that it is busy.",
        key="busy_hook_timeout",
        default=10.0,
    )
    busy_limit_s: float = setting(
        duration(),
        "How long `confirm` waits for whoever is busy before it leaves an unhealthy trial; then it leaves it all the "
        "same. Verbs of a person do not wait: they refuse, or insist with `--force`.",
        key="busy_limit",
        default=300.0,
    )


@attrs.frozen(kw_only=True, eq=False, repr=False)
class HealthConfig(Value):
    """When a trial counts as healthy."""

    stable_for_s: float = setting(
        duration(), "For how long all required checks must pass without a break.", key="stable_for", default=10.0
    )
    deadline_s: float = setting(
        duration(at_least_s=1.0), "A trial that is not healthy by then is left.", key="deadline", default=300.0
    )
    interval_s: float = setting(
        duration(at_least_s=0.1), "The pause between two rounds of checks.", key="interval", default=1.0
    )
    checks: tuple[CheckSpec, ...] = ()

    def __attrs_post_init__(self) -> None:
        if self.stable_for_s >= self.deadline_s:
            raise SettingError("must be less than the deadline", "stable_for")
        names = [check.name for check in self.checks]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise SettingError(f"two checks have the name {shown(twice)}: give one another `name`", "checks")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class VerifyConfig(Value):
    """What may differ from the manifest when the booted slot is checked before a commit (G6)."""

    edited_by_system: tuple[str, ...] = setting(
        INNER_PATHS,
        "Files of a slot that the running system edits by itself: a difference is noted and is no obstacle. Names as "
        "FAT compares them, without regard to case.",
        default=("cmdline.txt", "config.txt", "user-data", "meta-data", "network-config"),
    )


@attrs.frozen(kw_only=True, eq=False, repr=False)
class EvidenceConfig(Value):
    """What is kept of a trial that failed."""

    folder: str = setting(
        PATH,
        "Where it is kept: failed checks, the journal of that boot, the firmware's reset status, what the kernel left "
        "in pstore. It has to be one that both slots' systems share.",
        default="/var/lib/abboot/evidence",
    )
    keep: int = setting(integer(0, 50), "Of how many trials, the newest; 0 keeps nothing.", default=5)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ForkliftConfig(Value):
    """Where Forklift keeps what abboot needs to know."""

    store: str = setting(
        PATH, "The folder of the stage store, with the bundles in it.", default="/var/lib/forklift/stages"
    )
    exports: str = setting(
        INNER_PATH,
        "The folder below a bundle's `exports/` whose files go onto the boot partition. `config.d/*.txt` in it are "
        "merged into config.txt.",
        default="boot",
    )
    hooks: tuple[str, ...] = setting(
        PATHS,
        "Folders that hold one folder of hooks for each event. Of two hooks of the same name the one in the later "
        "folder counts; a link to /dev/null there switches it off.",
        default=("/usr/lib/forklift/hooks.d", "/etc/forklift/hooks.d"),
    )
    hook_timeout_s: float = setting(
        duration(at_least_s=0.1),
        "A hook that runs longer is killed, and counts as failed.",
        key="hook_timeout",
        default=60.0,
    )


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Config(Value):
    """Everything in ``abboot.toml``.  ``Config()`` has the defaults."""

    disk: DiskConfig = attrs.field(factory=DiskConfig)
    trial: TrialConfig = attrs.field(factory=TrialConfig)
    health: HealthConfig = attrs.field(factory=HealthConfig)
    verify: VerifyConfig = attrs.field(factory=VerifyConfig)
    evidence: EvidenceConfig = attrs.field(factory=EvidenceConfig)
    forklift: ForkliftConfig = attrs.field(factory=ForkliftConfig)


SECTIONS: Mapping[str, type[Any]] = {
    "disk": DiskConfig,
    "trial": TrialConfig,
    "health": HealthConfig,
    "verify": VerifyConfig,
    "evidence": EvidenceConfig,
    "forklift": ForkliftConfig,
}
