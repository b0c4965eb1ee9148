"""A health check as an operator configures it.  Apart from its verdicts, so that ``abboot status`` need not load those.

Rules: what every kind of check has stands here; what a kind has of its own is in its ``options``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from abboot.core.settings import BOOLEAN, TEXT, SettingError, duration, integer, setting
from abboot.core.value import Value

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_NAME = 100
MAX_RETRIES = 100


@attrs.frozen(kw_only=True, eq=False, repr=False)
class CheckSpec(Value):
    """A health check as configured: ``[[health.checks]]``."""

    kind: str = setting(TEXT, "What to check: one of the kinds below, or of a plug-in.")
    name: str = setting(TEXT, "How reports call it; each check has its own. Default: the kind and what it checks.")
    required: bool = setting(
        BOOLEAN,
        "true: while it fails, the system is not healthy. false: wanted, its failure is only reported.",
        default=True,
    )
    timeout_s: float = setting(
        duration(at_least_s=0.01),
        "A check without an answer by then has failed.",
        key="timeout",
        default=10.0,
    )
    retries: int = setting(
        integer(0, MAX_RETRIES),
        "How often a check that failed is run again, a second later each time, before the failure counts. Each run has "
        "the whole time-out.",
        default=0,
    )
    options: Mapping[str, Any] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if len(self.name) > MAX_NAME:
            raise SettingError(f"{len(self.name)} characters, {MAX_NAME} are possible", "name")
