"""Events, for whoever configures logging.  abboot configures none, and prints nothing.

An event is ``noun.past_participle`` with its facts in keys.  The logger is a structlog wrapper over the standard
library's ``abboot`` logger: an unconfigured ``structlog.get_logger()`` prints to stdout, which engines that drive a
backend read as its answer.
"""

from __future__ import annotations

import logging

import structlog

AUTOBOOT_REPLACED = "autoboot.replaced"
BOOT_OBSERVED = "boot.observed"
JOURNAL_APPENDED = "journal.appended"
REBOOT_REQUESTED = "reboot.requested"
SLOT_HIDDEN = "slot.hidden"
SLOT_SHOWN = "slot.shown"
SLOT_WRITTEN = "slot.written"
STEP_FAILED = "step.failed"
TRYBOOT_FLAG_SET = "tryboot_flag.set"

log = structlog.wrap_logger(logging.getLogger("abboot"))
