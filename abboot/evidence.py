"""What is kept of a trial that failed, so that somebody can find out why.

Two moments.  In the trial, before it is left: what the health checks said, and the journal of that boot.  Back on the
primary: how the trial ended, what the firmware says of the reset, what the kernel left in pstore, and the journal of
the trial's boot where the system keeps one.

Rules: it never keeps a trial from being left, nor a boot from being noted: a full disk, a read-only one and a missing
``journalctl`` cost evidence and nothing else.  It is bounded: every file, the number of files, the number of trials.
Only folders with a name of ours are ever removed.
Sources: journalctl(1), ``--boot``; Linux Documentation/ABI/testing/pstore; systemd-pstore.service(8).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from abboot.core.words import TROUBLE
from abboot.errors import AbbootError
from abboot.linux.sysroot import is_live, place_to_write, read_small, under
from abboot.log import EVIDENCE_KEPT, STEP_FAILED, log

if TYPE_CHECKING:
    from abboot.core.health import CheckResult
    from abboot.core.journal import Trial
    from abboot.core.protocols import BootReport

FILE_BYTES = 256 * 1024  # of the journal, and of each file of pstore
PSTORE_FILES = 16
_CHECKS, _JOURNAL, _OUTCOME = "checks.json", "journal.txt", "outcome.json"
_PSTORES = ("sys/fs/pstore", "var/lib/systemd/pstore")
_JOURNALCTL = ("/usr/bin/journalctl", "/bin/journalctl")
_JOURNAL_TIMEOUT_S = 20.0
_NAME = re.compile(r"[ab]-[0-9a-f]{12}-[0-9]+-[0-9a-f]{8}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")


@attrs.frozen(kw_only=True)
class Evidence:
    """Where evidence is kept, and how much.

    Args:
        folder: below ``sysroot``, as ``/var/lib/abboot/evidence``.
        keep: the number of trials.
        sysroot: of the system; the journal of another one than this is not asked for.
    """

    folder: str
    keep: int
    sysroot: str = "/"

    def find(self, trial: Trial) -> str | None:
        """The folder of a trial, if anything was kept of it."""
        place = os.path.join(under(self.sysroot, self.folder), _name(trial))
        return place if os.path.isdir(place) else None

    def keep_checks(self, trial: Trial, *, reason: str, checks: Sequence[CheckResult]) -> None:
        """In the trial: why it is left, and what this boot logged."""
        self._keep(
            trial,
            {
                _CHECKS: lambda: _json({"reason": reason, "checks": [attrs.asdict(check) for check in checks]}),
                _JOURNAL: lambda: self._journal(None),
            },
        )

    def keep_outcome(self, trial: Trial, report: BootReport | None) -> None:
        """Back on the primary: how the trial ended, and what is left of it.  Once for each trial."""
        place = os.path.join(under(self.sysroot, self.folder), _name(trial), _OUTCOME)
        if trial.outcome not in TROUBLE or os.path.lexists(place):
            return
        facts = {
            "slot": str(trial.slot),
            "record_digest": trial.record_digest,
            "attempt": trial.attempt,
            "outcome": str(trial.outcome),
            "reason": trial.reason,
            # 0x20: a reboot or the watchdog, which nobody can tell apart; 0x1000: the power was off (linux#932).
            "reset_status": None if report is None or report.rsts is None else f"{report.rsts:#x}",
        }
        pieces: dict[str, Callable[[], bytes]] = {
            f"pstore-{name}": partial(bytes, content) for name, content in self._pstore().items()
        }
        if trial.started_boot_id is not None:
            pieces[_JOURNAL] = lambda: self._journal(trial.started_boot_id)
        # Last: while it is missing, the next boot tries again.
        self._keep(trial, {**pieces, _OUTCOME: lambda: _json(facts)})

    def _keep(self, trial: Trial, pieces: Mapping[str, Callable[[], bytes]]) -> None:
        if not self.keep:
            return
        try:
            folder = place_to_write(self.sysroot, os.path.join(self.folder, _name(trial)))
            os.makedirs(folder, mode=0o700, exist_ok=True)
            for name, content in pieces.items():
                data = content()
                if data:
                    _write(os.path.join(folder, name), data)
            self._prune()
        except (OSError, AbbootError) as error:
            log.error(STEP_FAILED, step="evidence", error=str(error))
            return
        log.info(EVIDENCE_KEPT, folder=folder)

    def _prune(self) -> None:
        base = under(self.sysroot, self.folder)
        with os.scandir(base) as entries:
            ours = [entry for entry in entries if _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)]
        by_age = sorted(ours, key=lambda entry: entry.stat(follow_symlinks=False).st_mtime_ns, reverse=True)
        for entry in by_age[self.keep :]:
            shutil.rmtree(entry.path, ignore_errors=True)

    def _journal(self, boot_id: str | None) -> bytes:
        """The end of the system's journal of a boot; ``None``: of this one."""
        from abboot.health.process import run_bounded

        program = next((path for path in _JOURNALCTL if os.access(path, os.X_OK)), None)
        if program is None or not is_live(self.sysroot):
            return b""
        boot = "0" if boot_id is None else boot_id.replace("-", "")
        ran = run_bounded(
            [program, f"--boot={boot}", "--no-pager", "--quiet", "--output=short-monotonic", "--lines=5000"],
            timeout_s=_JOURNAL_TIMEOUT_S,
            keep_bytes=FILE_BYTES,
        )
        return ran.output.encode("utf-8", "replace") if ran.status == 0 else b""

    def _pstore(self) -> dict[str, bytes]:
        """What the kernel kept of a panic.  The kernel gives it back at every boot until somebody removes it."""
        found: dict[str, bytes] = {}
        for base in _PSTORES:
            top = under(self.sysroot, base)
            for folder, folders, names in os.walk(top):
                folders[:] = sorted(folders, reverse=True)[:PSTORE_FILES]
                for name in sorted(filter(_FILE.fullmatch, names))[: PSTORE_FILES - len(found)]:
                    content = read_small(os.path.join(folder, name), FILE_BYTES)
                    if content:
                        found.setdefault(name, content)
                if len(found) >= PSTORE_FILES:
                    return found
        return found


def _name(trial: Trial) -> str:
    """One name for each trial: slots, records and attempts come again, a boot never does."""
    boot = re.sub(r"[^0-9a-f]", "", trial.armed_boot_id or "").ljust(8, "0")[:8]
    return f"{trial.slot}-{trial.record_digest[:12]}-{trial.attempt}-{boot}"


def _json(facts: dict[str, Any]) -> bytes:
    return (json.dumps(facts, indent=2) + "\n").encode()


def _write(path: str, data: bytes) -> None:
    temporary = f"{path}.abboot-new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # the reboot follows
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
