"""Events, for whoever configures logging.  abboot configures none, and prints nothing.

An event is ``noun.past_participle`` with its facts in keys.  The logger is a structlog wrapper over the standard
library's ``abboot`` logger: an unconfigured ``structlog.get_logger()`` prints to stdout, which engines that drive a
backend read as its answer.
"""

from __future__ import annotations

import sys
from typing import Any

AUTOBOOT_REPLACED = "autoboot.replaced"
BOOT_OBSERVED = "boot.observed"
EVIDENCE_KEPT = "evidence.kept"
JOURNAL_APPENDED = "journal.appended"
REBOOT_INSISTED = "reboot.insisted"
REBOOT_REQUESTED = "reboot.requested"
SLOT_HIDDEN = "slot.hidden"
SLOT_SHOWN = "slot.shown"
SLOT_WRITTEN = "slot.written"
STEP_FAILED = "step.failed"
TRYBOOT_FLAG_SET = "tryboot_flag.set"


class _Log:
    """The logger, made for the first event that somebody may listen to.

    structlog brings asyncio and ssl with it: loading it takes longer than everything else of a short command.
    """

    def __init__(self) -> None:
        self._logger: Any = None

    def info(self, event: str, **facts: Any) -> None:
        # Who listens to such events has configured logging, and for that it was imported.
        if "logging" in sys.modules:
            self._log("info", event, facts)

    def error(self, event: str, **facts: Any) -> None:
        self._log("error", event, facts)

    def _log(self, method: str, event: str, facts: dict[str, Any]) -> None:
        import logging

        standard = logging.getLogger("abboot")
        if not standard.isEnabledFor(logging.getLevelNamesMapping()[method.upper()]):
            return
        if self._logger is None:
            import structlog

            self._logger = structlog.wrap_logger(standard)
        getattr(self._logger, method)(event, **facts)


log = _Log()
