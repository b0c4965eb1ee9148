"""Anything may happen to Forklift's bundles in any order, and the power may go at any moment: it all comes right again.

The model beside it knows what each bundle brings, whether it can be applied and whether it is healthy, what somebody
asked for, and what was finished.  What is on the booted slot is read by the firmware's own reader of FAT.

What is cut: abboot before any write to the card, and before any call that changes a file of the store; Forklift between
its steps.  Forklift syncs nothing, so after a cut its files may be old, empty, all zeros or gone.

``ABBOOT_EXAMPLES=500`` searches longer.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import attrs
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from abboot.core.words import Phase, Slot
from abboot.errors import AbbootError
from abboot.forklift import Action, StageStore, read_store
from abboot.forklift.events import Events, Handled
from abboot.simulator import PowerCut
from tests.crash.test_state_machine import Check
from tests.forklift.device import STORE, SWAP, Device

T = TypeVar("T")
ON_SLOT = "overlays/p.dtbo"
PAYLOADS: dict[str, dict[str, bytes]] = {
    "none": {},
    "one": {ON_SLOT: b"one" * 300},
    "two": {ON_SLOT: b"two" * 400, "config.d/50-two.txt": b"dtparam=spi=on\n"},
}
#: Calls that change a file, in abboot's own code for the store.
CHANGES = {"open", "write", "flush", "rename", "replace", "unlink", "fsync", "fchmod"}


@attrs.frozen(kw_only=True)
class Spec:
    """What a bundle is like, whatever anybody thinks of it."""

    payload: str
    applies: bool
    healthy: bool


@attrs.define
class Cut:
    """The power goes before write ``number`` to the card, or before that call for a file of the store."""

    where: str
    number: int


OFTEN = st.sampled_from([True, True, False])
BRINGS = st.sampled_from(["same", "same", *sorted(PAYLOADS)])


@contextmanager
def cut_before_call(number: int) -> Iterator[None]:
    """Raise PowerCut before call ``number`` that changes a file, in the code of ``abboot.forklift``."""
    left = itertools.count(number, -1)

    def look(frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call" or "/abboot/forklift/" not in frame.f_code.co_filename:
            return
        if getattr(function, "__name__", "") in CHANGES and next(left) == 0:
            raise PowerCut(f"before {function.__name__} in {frame.f_code.co_name}")

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(before)


class Life(RuleBasedStateMachine):
    """One device with all units of abboot and of Forklift; whoever uses it does what they like."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(
            tempfile.mkdtemp(prefix="abboot-forklift-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        )
        self.device = Device(self.place / "stages")
        self.pi, self.folder = self.device.pi, self.device.folder
        self.specs = {self.digest(1): Spec(payload="none", applies=True, healthy=True)}
        self.cuts: list[Cut] = []
        self.finished: str | None = self.digest(1)  # an update that must stay
        self.asked: set[str | None] = set()  # what somebody made next since then
        self.failed: set[str] = set()  # what failed, and nobody asked for again
        self.containers: str | None = self.digest(1)
        self.overlays: str | None = self.digest(1)
        self.durable: bytes | None = self.device.data
        self.unsynced: set[int] = set()
        self.draw: Callable[[st.SearchStrategy[Any]], Any] = lambda _strategy: None

    def teardown(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)

    @initialize()
    def switch_on(self) -> None:
        self.events().boot()

    # -- reading without abboot ---------------------------------------------------------------------------------------

    def digest(self, index: int | None) -> str | None:
        """Which bundle this really is; ``None`` if it is not whole."""
        try:
            data = (self.folder / str(index) / "forklift-bundle.yml").read_bytes()
        except OSError:
            return None
        return hashlib.sha256(data).hexdigest() if data else None

    def spec(self, index: int | None) -> Spec | None:
        digest = self.digest(index)
        return None if digest is None else self.specs[digest]

    @property
    def indexes(self) -> list[int]:
        return sorted(int(name) for name in os.listdir(self.folder) if name.isdigit())

    @property
    def store(self) -> StageStore | None:
        return read_store(str(self.folder)).store

    @property
    def text(self) -> bytes | None:
        path = self.folder / STORE
        return path.read_bytes() if path.exists() else None

    @property
    def payload_that_runs(self) -> str:
        """Of the booted slot, as the firmware reads it."""
        found = self.pi.booted_file(ON_SLOT, 1 << 16)
        return next(name for name, files in PAYLOADS.items() if files.get(ON_SLOT) == found)

    def phase(self) -> Phase:
        return self.pi.manager().status().phase

    # -- what runs on the device --------------------------------------------------------------------------------------

    def events(self) -> Events:
        return Events(
            self.pi.manager(),
            self.device.adapter(),
            memory=str(self.place / "run.json"),
            hooks=lambda *_: (),
            sleep=lambda _: None,
        )

    def run(self, act: Callable[[], T]) -> T | None:
        """One program of abboot; the power may go while it runs."""
        cut = self.cuts.pop(0) if self.cuts else None
        boots = self.pi.state.boot_count
        try:
            if cut is None:
                return act()
            if cut.where == "card":
                self.pi.cut_before_write(cut.number)
                return act()
            with cut_before_call(cut.number):
                return act()
        except AbbootError as error:
            note(f"refused: {error}")
            return None
        finally:
            if self.pi.state.boot_count == boots:
                self.pi.disk._supply.cut_before = None

    def happens(self, act: Callable[[], object]) -> None:
        """Something happens; where the power goes, it comes back, and perhaps goes again."""
        while True:
            try:
                act()
                return
            except PowerCut as cut:
                note(f"power cut {cut}")
                self.lose_power()
                act = self.boots

    def lose_power(self) -> None:
        """What nobody synced may be as it was, empty, all zeros or gone."""
        text = self.text
        if text != self.durable:
            now = self.draw(st.sampled_from(["new", "old", "empty", "zeros"]))
            note(f"of the store is left: {now}")
            if now == "old" and self.durable is not None:
                (self.folder / STORE).write_bytes(self.durable)
            elif now in ("empty", "zeros") and text:
                (self.folder / STORE).write_bytes(b"" if now == "empty" else b"\0" * len(text))
        if self.draw(st.booleans()):
            (self.folder / SWAP).write_bytes(b"forklift-ver")
        for index in sorted(self.unsynced & set(self.indexes)):
            what = self.draw(st.sampled_from(["whole", "no manifest", "empty manifest", "gone"]))
            note(f"of bundle {index} is left: {what}")
            manifest = self.folder / str(index) / "forklift-bundle.yml"
            if what == "no manifest":
                manifest.unlink(missing_ok=True)
            elif what == "empty manifest":
                manifest.write_bytes(b"")
            elif what == "gone":
                shutil.rmtree(self.folder / str(index))
        self.on_the_medium()
        self.pi.power_cut()

    def on_the_medium(self) -> None:
        self.durable, self.unsynced = self.text, set()

    def boots(self) -> None:
        """From the firmware to a system that stays: it may take some reboots of its own, but not many (G7)."""
        for _ in range(4):
            assert self.pi.running, "nothing boots"
            if not self.comes_up():
                return
        raise AssertionError("it reboots again and again")

    def comes_up(self) -> bool:
        """One boot of the system; whether it ended with a reboot of its own."""
        boots = self.pi.state.boot_count
        self.run(lambda: self.pi.manager().note_boot())
        if self.mounts():
            return True
        if self.applies(at_boot=True):
            return True
        self.run(self.confirm)
        return self.pi.state.boot_count != boots

    def confirm(self) -> None:
        trial = self.phase() is Phase.TRIAL
        store = self.store
        spec = self.spec(store.next) if store is not None else None
        healthy = spec is not None and spec.healthy
        digest = self.digest(store.next) if store is not None else None
        done = self.pi.manager().confirm([Check(ok=healthy)])
        if done.action == "committed":
            assert healthy
            if digest is not None and store is not None and store.next == store.current:
                self.finish(digest)
        elif trial and digest is not None and done.action == "reverted":
            self.failed.add(digest)

    def mounts(self) -> bool:
        """abboot-forklift-reconcile.service, then Forklift's overlays.  Whether the trial was left instead."""
        done = self.run(self.device.adapter().reconcile)
        assert done is not None
        note(f"early boot of {done.booted}: {done.action}: {done.why} {done.problems}")
        if done.left_trial:
            return True
        if done.changed:
            self.durable = self.text
        self.run(lambda: self.events().boot())
        store = self.store
        self.overlays = self.digest(store.next) if store is not None else None
        if done.problems:
            return False
        runs = self.payload_that_runs
        if done.action is Action.STUCK:
            bound = self.device.adapter().status().slots[done.booted or Slot.A]
            assert not bound.present, "it says that nothing fits, and there is something"
            return False
        assert store is not None
        if store.next is None:
            return False
        spec = self.spec(store.next)
        assert spec is not None, "the overlays are mounted from a bundle that is not whole"
        assert spec.payload == runs, "1: the overlays are those of other boot files"
        if self.pi.boot.tryboot:
            assert self.overlays not in self.failed, "4: a failed update is tried again, and nobody asked"
        elif self.phase() is Phase.SETTLED and self.finished is not None and self.is_there(self.finished):
            assert self.overlays in {self.finished, *self.asked}, "3: a finished update is undone"
        return False

    def is_there(self, digest: str) -> bool:
        return any(self.digest(index) == digest for index in self.indexes)

    def applies(self, *, at_boot: bool = False) -> bool:
        """forklift-apply.service; whether the system reboots because of it."""
        boots, before = self.pi.state.boot_count, self.text
        ok = self.forklift_applies(at_boot=at_boot)
        handled = self.run(lambda: self.events().apply_result("success" if ok else "exit-code"))
        self.after(handled)
        if self.pi.state.boot_count != boots:
            return True
        store = self.store
        if at_boot and ok and handled is not None and store is not None and not (self.folder / SWAP).exists():
            assert self.containers == self.overlays, "2: containers and overlays are of two bundles"
        if self.text != before:
            self.path_unit()
        if ok and handled is not None and store is not None and store.next == store.current and not store.next_failed:
            spec, digest = self.spec(store.next), self.digest(store.next)
            runs = self.payload_that_runs
            if spec is not None and digest is not None and spec.payload == runs and self.phase() is Phase.SETTLED:
                self.finish(digest)
        return False

    def forklift_applies(self, *, at_boot: bool) -> bool:
        """``forklift stage apply``; whether it ends with 0."""
        store = self.store
        if store is None or store.applies is None:
            return False
        spec, digest = self.spec(store.applies), self.digest(store.applies)
        if spec is None or digest is None:
            return False  # it cannot be loaded, and nothing is noted
        pending = store.applies == store.next != store.current
        if pending:
            assert digest not in self.failed, "4: a failed update is applied again, and nobody asked"
        if spec.applies:
            self.containers = digest
        elif pending:
            self.failed.add(digest)
        if (self.folder / SWAP).exists():
            return False
        self.device.forklift.apply(fails=not spec.applies)
        return spec.applies

    def path_unit(self) -> None:
        """abboot-forklift-store.service, because the store's file is another one."""
        self.after(self.run(lambda: self.events().store_changed()))

    def after(self, handled: Handled | None) -> None:
        if handled is not None:
            note(f"{handled.event}: {handled.need} {handled.bundle}: {handled.why} {handled.problems}")
            if handled.changed:
                self.on_the_medium()

    def finish(self, digest: str) -> None:
        self.finished, self.asked = digest, set()
        self.failed.discard(digest)

    # -- what somebody does with Forklift -----------------------------------------------------------------------------

    def does(self, change: Callable[[StageStore], StageStore]) -> bool:
        """A command of Forklift that writes the store; and the path unit."""
        store = self.store
        if store is None or (self.folder / SWAP).exists():
            return False  # Forklift refuses, or abboot's tests would have to know what it makes of a damaged one
        after = change(store)
        if after.next != store.next or (store.next_failed and not after.next_failed):
            digest = self.digest(after.next)
            self.asked.add(digest)
            self.failed.discard(digest or "")
        self.device.forklift.commit(after)
        self.happens(self.path_unit)
        return True

    @rule(data=st.data(), payload=BRINGS, applies=OFTEN, healthy=OFTEN, whole=OFTEN)
    def plt_stage(self, data: st.DataObject, payload: str, applies: bool, healthy: bool, whole: bool) -> None:
        self.draw = data.draw
        self.stages(payload, applies=applies, healthy=healthy, whole=whole)

    @rule(data=st.data(), payload=BRINGS, applies=OFTEN, healthy=OFTEN, soft=st.booleans(), boots=st.integers(1, 2))
    def update(self, data: st.DataObject, payload: str, applies: bool, healthy: bool, soft: bool, boots: int) -> None:
        """What users are told to do: stage, then reboot."""
        self.draw = data.draw
        self.stages(payload, applies=applies, healthy=healthy)
        for _ in range(boots):
            self.happens(self.restart_softly if soft else self.restart)

    def stages(self, payload: str, *, applies: bool, healthy: bool, whole: bool = True) -> None:
        payload = self.payload_that_runs if payload == "same" else payload
        index = self.device.forklift.build(PAYLOADS[payload], whole=whole)
        self.unsynced.add(index)
        digest = self.digest(index)
        if digest is not None:
            self.specs[digest] = Spec(payload=payload, applies=applies, healthy=healthy)
            self.does(lambda store: store.staged(index))

    @rule(data=st.data())
    def set_next(self, data: st.DataObject) -> None:
        self.draw = data.draw
        there = [index for index in self.indexes if self.digest(index)]
        if there:
            index = data.draw(st.sampled_from(there))
            self.does(lambda store: store.set_next(index))

    @rule(data=st.data(), name=st.sampled_from(["boot-failed", "boot-pending", "boot-slot-a", "boot-slot-b"]))
    def set_next_by_name(self, data: st.DataObject, name: str) -> None:
        self.draw = data.draw
        index = self.store.names.get(name) if self.store is not None else None
        if index is not None and self.digest(index):
            self.does(lambda store: store.set_next(index))

    @rule(data=st.data())
    def unset_next(self, data: st.DataObject) -> None:
        self.draw = data.draw
        self.does(StageStore.unset_next)

    @rule(data=st.data())
    def delete_a_bundle(self, data: st.DataObject) -> None:
        self.draw = data.draw
        if self.store is None or (self.folder / SWAP).exists() or not self.indexes:
            return
        index = data.draw(st.sampled_from(self.indexes))
        shutil.rmtree(self.folder / str(index))
        self.does(lambda store: store.del_bundle(index))

    @rule(data=st.data())
    def prune(self, data: st.DataObject) -> None:
        """``forklift stage prune-bun``: what nothing in the store refers to."""
        self.draw = data.draw
        store = self.store
        if store is not None:
            kept = {store.next, *store.history, *store.names.values()}
            for index in set(self.indexes) - kept:
                shutil.rmtree(self.folder / str(index))

    @rule(data=st.data())
    def applied_in_place(self, data: st.DataObject) -> None:
        self.draw = data.draw

        def act() -> None:
            if self.applies():
                self.boots()

        self.happens(act)

    # -- what somebody does with the device ---------------------------------------------------------------------------

    @rule(data=st.data())
    def reboot(self, data: st.DataObject) -> None:
        self.draw = data.draw
        self.happens(self.restart)

    def restart(self) -> None:
        self.run(lambda: self.events().arm_on_reboot())
        self.on_the_medium()
        self.pi.reboot()
        self.boots()

    @rule(data=st.data())
    def soft_reboot(self, data: st.DataObject) -> None:
        """Userspace only: no firmware, no other slot."""
        self.draw = data.draw
        self.happens(self.restart_softly)

    def restart_softly(self) -> None:
        if self.mounts() or self.applies(at_boot=True):
            self.boots()

    @rule(data=st.data())
    def power_off_and_on(self, data: st.DataObject) -> None:
        """Nothing is armed then."""
        self.draw = data.draw
        self.on_the_medium()
        self.pi.power_cut()
        self.happens(self.boots)

    @rule(data=st.data())
    def the_power_goes(self, data: st.DataObject) -> None:
        self.draw = data.draw
        self.lose_power()
        self.happens(self.boots)

    @rule(where=st.sampled_from(["card", "file"]), number=st.integers(0, 12))
    def the_power_will_go(self, where: str, number: int) -> None:
        if len(self.cuts) < 3:
            self.cuts.append(Cut(where, number))

    @rule(data=st.data(), verb=st.sampled_from(["trial", "revert"]))
    def somebody_uses_abboot_itself(self, data: st.DataObject, verb: str) -> None:
        self.draw = data.draw
        boots = self.pi.state.boot_count
        self.failed.clear()  # who does that has asked for it

        def act() -> None:
            self.run(lambda: getattr(self.pi.manager(), verb)())
            if self.pi.state.boot_count != boots:
                self.boots()

        self.happens(act)

    # -- 5 ------------------------------------------------------------------------------------------------------------

    @rule(data=st.data())
    def it_converges(self, data: st.DataObject) -> None:
        """Two boots, and a third one changes nothing."""
        self.draw = data.draw
        self.cuts.clear()
        for _ in range(2):
            self.happens(self.restart)
        before = self.everything()
        self.happens(self.restart)
        assert self.everything() == before, "5: it goes on changing"

    def everything(self) -> tuple[Any, ...]:
        status = self.pi.manager().status()
        slots = {slot: hashlib.sha256(data).hexdigest() for slot, data in self.device.slot_bytes().items()}
        return status.booted, status.primary, status.phase, self.text, slots, self.device.adapter().pending()


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=int(os.environ.get("ABBOOT_EXAMPLES", "20")),
    stateful_step_count=15,
    deadline=None,
    derandomize="ABBOOT_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
