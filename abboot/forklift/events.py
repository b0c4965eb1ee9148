"""What abboot does when something happens to Forklift's bundles: each function is what one systemd unit calls.

Rules:

* All are idempotent, and say what they did; where there is nothing to do they say why.
* Nothing reboots by itself, with two exceptions: a trial in which Forklift could not apply its bundle is left, and
  after a failed update a settled system reboots once (:meth:`Events.apply_result`).
* What is tried at a reboot is what somebody asked for: a bundle that was made ``next``.  One that failed is tried again
  only if somebody made it ``next`` again since this boot.
* Nothing is asked of the program ``forklift``, and nothing in it has to change.

What is known of this boot only, which bundle was ``next`` at its beginning, is in a small file of ``/run``.  Which
update a reboot was already made for is beside the store, in ``abboot-fallback.json``, durably.

Source: ``stage apply`` of Forklift 0.8.0, https://github.com/forklift-run/forklift, ``internal/app/forklift/cli``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from abboot.core.canonical import dump_json, load_json
from abboot.core.words import Phase
from abboot.errors import AbbootError, Damaged, Locked, Refused
from abboot.forklift.adapter import Forklift, Need, Pending
from abboot.forklift.bundle import manifest_digest
from abboot.forklift.hooks import HookRun, failures
from abboot.forklift.reconcile import Action
from abboot.forklift.store import StageStore
from abboot.forklift.store_file import StoreReading, read_store, write_store
from abboot.linux.sysroot import device_error, read_small

if TYPE_CHECKING:
    from abboot.manager import BootManager
    from abboot.results import Change

FALLBACK_FILE = "abboot-fallback.json"
MEMORY_FILE = "run/abboot/forklift.json"
_FORMAT = 1
_MAX_SMALL = 4096  # bytes
_ROUNDS = 5  # of store_changed: somebody may go on changing the store while it stages
_WRITING_S = 10.0  # after that a swap file was left there, and nobody is writing
_POLL_S = 0.1
_LOCKED_S = 300.0  # how long another abboot may have the disk when a failure has to be dealt with: it may be staging
_LOCKED_POLL_S = 1.0

#: ``$SERVICE_RESULT`` of forklift-apply.service: whether it was applied.  What is not here is a failure.
#: Source: systemd.exec(5).
RESULTS: Mapping[str, bool | None] = {
    "success": True,
    "signal": None,  # stopped by somebody, or by a shutdown: nobody can tell
    "exec-condition": None,  # it was not started
}


@attrs.frozen(kw_only=True)
class Handled:
    """What was done about an event."""

    event: str
    need: Need  # what the next bundle waits for now
    bundle: int | None
    why: str  # one sentence
    changed: bool = False  # something was written, or is armed
    rebooting: bool = False
    hooks: tuple[HookRun, ...] = ()
    problems: tuple[str, ...] = ()  # what could not be done


@attrs.frozen(kw_only=True)
class _Memory:
    """Of this boot: what was next when it was last looked at, and whether that changed since the boot."""

    next: int | None
    sha256: str | None
    asked: bool = False


class Events:
    """The handlers of one device.

    Args:
        manager: of the disk.
        forklift: of the store.
        memory: a file that does not outlive this boot, in ``/run``.
        hooks: runs the hooks of an event, about a bundle (:func:`abboot.forklift.hooks.run_hooks`).
        sleep: waits, while Forklift is writing.
    """

    def __init__(
        self,
        manager: BootManager,
        forklift: Forklift,
        *,
        memory: str,
        hooks: Callable[[str, int | None], tuple[HookRun, ...]],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._manager = manager
        self._forklift = forklift
        self._memory = memory
        self._hooks = hooks
        self._sleep = sleep

    def boot(self) -> None:
        """At early boot, after the store was reconciled: what is next now, nobody has asked for in this boot.

        Raises:
            DeviceError: it could not be noted: then a failed update is not tried again in this boot.
        """
        self._remember(self._seen(read_store(self._forklift.folder).store))

    def store_changed(self) -> Handled:
        """The store's file changed: put the boot files of its next bundle onto the inactive slot, if it needs that.

        Or note that the booted slot runs with it, if Forklift has applied it already.  The store is left as it is, but
        for the names of the slots' bundles.  Where staging fails, the next early boot makes the store fit again.

        Raises:
            Locked: another abboot has the disk.
            Damaged: as of :meth:`Forklift.status`.
        """
        problems: list[str] = []
        changed, is_new, done = False, False, ""
        reading = self._when_written()
        for _ in range(_ROUNDS):
            before = _what_counts(reading)
            is_new = self._notice(reading.store) or is_new
            pending = self._forklift.pending()
            try:
                wrote, done = self._prepare(pending, reading)
                changed = changed or wrote
            except Locked:
                raise
            except AbbootError as error:
                problems.append(error.message)
                break
            reading = self._when_written()
            if _what_counts(reading) == before:
                break  # what follows from it was done; our own names in it do not count
        hooks = self._hooks("post-set-next", None if reading.store is None else reading.store.next) if is_new else ()
        pending = self._forklift.pending()
        return Handled(
            event="store-changed",
            need=pending.need,
            bundle=pending.bundle,
            why=done or pending.why,
            changed=changed,
            hooks=hooks,
            problems=(*problems, *failures(hooks)),
        )

    def apply_result(self, result: str) -> Handled:
        """``forklift stage apply`` has ended.

        Succeeded: note that the booted slot runs with this bundle.  Failed, whatever the store says of it: a trial is
        left; a settled system reboots once if that makes overlays, containers and boot files one bundle's again.

        Args:
            result: ``$SERVICE_RESULT`` of its unit: ``success``, ``exit-code``, ``timeout``...

        Raises:
            Locked: another abboot had the disk for minutes.
            Damaged: as of :meth:`Forklift.status`.
        """
        applied = RESULTS.get(result, False)
        if applied is None:
            return self._handled("apply-result", why=f"it ended with {result}, which says nothing about the bundle")
        return self._applied() if applied else self._failed(result)

    def arm_on_reboot(self) -> Handled:
        """The system is going down for a reboot: have the firmware try the staged bundle once, if ``next`` is one.

        Nothing is armed where somebody else left an argument for the firmware, and a bundle that failed only if
        somebody made it next again since this boot.

        Raises:
            AbbootError: it could not be armed: the reboot is an ordinary one.
        """
        observation, situation = self._manager.survey()
        reading = read_store(self._forklift.folder)
        pending = self._forklift.pending()
        why = ""
        if pending.need not in (Need.TRIAL, Need.RETRY):
            why = pending.why
        elif reading.store is not None and reading.store.next_failed:
            why = f"Forklift could not apply bundle {pending.bundle}"
        elif pending.need is Need.RETRY and not self._is_asked_for():
            why = f"{pending.why}, and nobody asked for another try"
        elif observation.pending_argument:
            why = f"this reboot has an argument already: {observation.pending_argument}"
        slot = situation.inactive
        if why or slot is None:
            return self._handled("arm-on-reboot", why=why or pending.why)
        change = self._manager.trial(
            observation.slots[slot].record_digest,
            retry=pending.need is Need.RETRY,
            reboot=False,
            reason=f"forklift bundle {pending.bundle}",
        )
        return self._handled("arm-on-reboot", why=change.detail, changed=change.changed)

    # -- pieces -------------------------------------------------------------------------------------------------

    def _prepare(self, pending: Pending, reading: StoreReading) -> tuple[bool, str]:
        """What the next bundle needs that needs no reboot: whether anything was written, and what was done."""
        if reading.store is not None and reading.store.next_failed:
            return False, f"Forklift could not apply bundle {reading.store.next}"
        # Staged already, and asked for once more: only the name for what failed goes.
        if pending.need is Need.STAGE or (pending.need is Need.RETRY and self._is_asked_for()):
            staged = self._forklift.stage()
            return staged.changed, f"bundle {staged.bundle.index} is on slot {staged.slot}: it needs a full reboot"
        if pending.need is Need.REBIND:
            rebound = self._forklift.rebind()
            return rebound.changed, rebound.why
        return False, ""

    def _notice(self, store: StageStore | None) -> bool:
        """Whether another bundle is next than when it was last looked at."""
        memory, seen = self._recall(), self._seen(store)
        if memory is not None and (memory.next, memory.sha256) == (seen.next, seen.sha256):
            return False
        # Where nobody looked at the beginning of this boot, nobody can tell whether it is new: the hooks run, and that
        # somebody asked for another try is not taken from it.
        self._remember(attrs.evolve(seen, asked=memory is not None))
        return True

    def _is_asked_for(self) -> bool:
        """Whether somebody made the next bundle next in this boot."""
        memory = self._recall()
        return memory is not None and memory.asked

    def _applied(self) -> Handled:
        rebound = self._forklift.rebind()
        store = read_store(self._forklift.folder).store
        if store is not None and store.next == store.current and not store.next_failed:
            self._forget_fallback()
        hooks = self._hooks("post-apply", None if store is None else store.current)
        return self._handled("apply-result", why=rebound.why, changed=rebound.changed, hooks=hooks)

    def _failed(self, result: str) -> Handled:
        reading = self._when_written()
        store = reading.store
        bundle = None if store is None else store.next
        why = f"forklift could not apply bundle {bundle} ({result})"
        hooks = self._hooks("apply-failed", bundle)
        _, situation = self._manager.survey()
        if situation.phase is Phase.TRIAL:
            pending = self._forklift.pending()
            change = self._once_unlocked(lambda: self._manager.end_trial(healthy=False, reason=why))
            return self._handled(
                "apply-result",
                why=change.detail,
                changed=change.changed,
                rebooting=change.rebooting,
                hooks=hooks,
                pending=pending if change.rebooting else None,
            )
        now = self._when_written()
        # A hook may take long, and may have made another bundle next itself: that is not undone.
        stays = "the store was changed since" if _what_counts(now) != _what_counts(reading) else ""
        stays = stays or self._why_no_reboot(now)
        if stays:
            return self._handled("apply-result", why=f"{why}; {stays}", hooks=hooks)
        store = now.store
        assert store is not None
        changed = False
        if not store.next_failed:
            # Forklift notes no failure of a bundle that it cannot even load.  Without it early boot would see nothing
            # to set right.
            failed = store.set_next_result("failure").render()
            changed = write_store(self._forklift.folder, failed, instead_of=now.data)
        planned = self._forklift.reconcile(dry_run=True)
        if planned.action not in (Action.FELL_BACK, Action.RESTORED):
            stays = f"a reboot would not help: {planned.why}"
        elif situation.phase is not Phase.SETTLED:
            stays = f"no reboot: {situation.reason}"
        elif not self._count_fallback(store.next):
            stays = "it was rebooted for that once already"
        if stays:
            return self._handled("apply-result", why=f"{why}; {stays}", changed=changed, hooks=hooks)
        pending = self._forklift.pending()  # after the reboot was asked for there is nothing to ask
        try:
            self._once_unlocked(lambda: self._manager.reboot(reason=why))
        except (Locked, Refused):
            self._forget_fallback()  # it was not made
            raise
        return self._handled(
            "apply-result", why=f"{why}: {planned.why}", changed=True, rebooting=True, hooks=hooks, pending=pending
        )

    def _once_unlocked(self, act: Callable[[], Change]) -> Change:
        """What happened is not told again: it has to be dealt with now, and not from the beginning."""
        waited_s = 0.0
        while True:
            try:
                return act()
            except Locked:
                if waited_s >= _LOCKED_S:
                    raise
            self._sleep(_LOCKED_POLL_S)
            waited_s += _LOCKED_POLL_S

    def _why_no_reboot(self, reading: StoreReading) -> str:
        """Why early boot would change nothing about a failure; empty if it would."""
        store = reading.store
        if store is None:
            return reading.problem
        if reading.swap is not None:
            return "a swap file was left, so Forklift could note nothing: `abboot forklift reconcile`"
        if store.next is None or store.current is None:
            return "there is no bundle to fall back to"
        if store.next == store.current:
            return "it was applied before, and Forklift tries it again at the next boot"
        return ""

    def _handled(
        self,
        event: str,
        *,
        why: str,
        changed: bool = False,
        rebooting: bool = False,
        hooks: tuple[HookRun, ...] = (),
        pending: Pending | None = None,
    ) -> Handled:
        pending = pending or self._forklift.pending()
        return Handled(
            event=event,
            need=pending.need,
            bundle=pending.bundle,
            why=why,
            changed=changed,
            rebooting=rebooting,
            hooks=hooks,
            problems=failures(hooks),
        )

    def _when_written(self) -> StoreReading:
        """The store once nobody is writing it: Forklift's swap file is there for a moment only."""
        waited_s = 0.0
        while True:
            reading = read_store(self._forklift.folder)
            if reading.swap is None or waited_s >= _WRITING_S:
                return reading
            self._sleep(_POLL_S)
            waited_s += _POLL_S

    # -- what is remembered ---------------------------------------------------------------------------------------

    def _seen(self, store: StageStore | None) -> _Memory:
        index = None if store is None else store.next
        return _Memory(next=index, sha256=self._digest(index))

    def _digest(self, index: int | None) -> str | None:
        return None if index is None else manifest_digest(self._forklift.folder, index)

    def _boot_id(self) -> str | None:
        machine = self._manager.machine
        return None if machine is None else machine.boot_id()

    def _recall(self) -> _Memory | None:
        found = _read_json(self._memory)
        if found is None or found.get("boot_id") != self._boot_id():
            return None
        index, sha256 = found.get("next"), found.get("sha256")
        return _Memory(
            next=index if type(index) is int else None,
            sha256=sha256 if isinstance(sha256, str) else None,
            asked=found.get("asked") is True,
        )

    def _remember(self, memory: _Memory) -> None:
        _write_json(self._memory, {"boot_id": self._boot_id(), **attrs.asdict(memory)}, durable=False)

    @property
    def _fallback_path(self) -> str:
        return os.path.join(self._forklift.folder, FALLBACK_FILE)

    def _count_fallback(self, bundle: int | None) -> bool:
        """Note durably that a reboot is made for this bundle; ``False``: one was, or it cannot be noted (G7)."""
        fields = {
            "format": _FORMAT,
            "readable_from": _FORMAT,
            "bundle": bundle,
            "sha256": self._digest(bundle),
        }
        if os.path.lexists(self._fallback_path):
            found = _read_json(self._fallback_path)
            # What cannot be read may say anything: no reboot rather than a loop (G7).
            if found is None or all(found.get(key) == fields[key] for key in ("bundle", "sha256")):
                return False
        try:
            _write_json(self._fallback_path, fields, durable=True)
        except AbbootError:
            return False
        return _read_json(self._fallback_path) == fields

    def _forget_fallback(self) -> None:
        if not os.path.lexists(self._fallback_path):
            return
        try:
            os.unlink(self._fallback_path)
        except OSError as error:
            raise device_error("remove", self._fallback_path, error, "run as root") from error


def _what_counts(reading: StoreReading) -> tuple[Any, ...]:
    """Of a store, what decides which bundle needs what; its names do not."""
    store = reading.store
    return (reading.problem,) if store is None else (store.next, store.next_failed, store.history)


def _read_json(path: str) -> dict[str, Any] | None:
    data = read_small(path, _MAX_SMALL + 1)
    if data is None or len(data) > _MAX_SMALL:
        return None
    try:
        return load_json(data, path)
    except Damaged:
        return None


def _write_json(path: str, fields: Mapping[str, Any], *, durable: bool) -> None:
    temporary = f"{path}.new"
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, exist_ok=True)
        # The folder may belong to a user: never through a link that lies there.
        if os.path.lexists(temporary):
            os.unlink(temporary)  # left by a cut before the rename
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with open(fd, "wb") as file:
            file.write(dump_json(fields) + b"\n")
            file.flush()
            if durable:
                os.fsync(fd)
        os.replace(temporary, path)
        if durable:
            directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
    except OSError as error:
        raise device_error("write", path, error, "run as root; the disk may be full") from error
