"""A simulated Pi with Forklift on it: its store does what Forklift's would, and nothing is synced.

The store's folder is a plain folder, shared by both slots' systems as the root file system of an image is.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from abboot.core.words import Slot
from abboot.forklift import Forklift, Need, Reconciliation, StageStore, read_store
from tests.cards import CardPi, new_pi, write_tree

A, B = Slot.A, Slot.B
STORE, SWAP = "forklift-stage-store.yml", "forklift-stage-store-swap.yml"
PINS = {"boot-slot-a": 1, "boot-slot-b": 2}
#: What a bundle may bring for the boot partition.
CAN = {"config.d/50-can.txt": b"dtparam=spi=on\ndtoverlay=mcp2515-can0\n", "overlays/can.dtbo": b"can" * 300}
USB = {"config.d/50-usb.txt": b"dtoverlay=dwc2,dr_mode=peripheral\n"}
_count = itertools.count(1)


def manifest(number: int, *, clean: bool = True) -> bytes:
    """A ``forklift-bundle.yml`` as Forklift 0.8.0 writes it; no two are alike."""
    return (
        b"forklift-version: v0.8.0-alpha.6\n"
        b"pallet:\n"
        b"  path: github.com/example/pallet-boot\n"
        b"  version: v2026.%d.0\n"
        b"  clean: %s\n"
        b"  description: Example pallet which exports boot files\n" % (number, b"true" if clean else b"false")
    )


def text(
    next: int | None = None,  # noqa: A002 - Forklift's word
    history: Iterable[int] = (),
    names: Mapping[str, int] | None = None,
    *,
    failed: bool = False,
) -> bytes:
    """The text of a store, written down by the rules of Forklift's format and by no code of abboot's."""
    lines = ["forklift-version: v0.7.0", "staged:"]
    lines += [f"    next: {next}"] if next is not None else []
    lines += ["    next-failed: true"] if failed else []
    lines += ["    history:", *(f"        - {index}" for index in history)] if history else []
    lines += ["    names:", *(f"        {name}: {names[name]}" for name in sorted(names))] if names else []
    if len(lines) == 2:
        lines[1] = "staged: {}"
    return ("\n".join(lines) + "\n").encode()


class ForkliftStore:
    """What the program ``forklift`` does to its store: no lock, no sync."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def path(self) -> Path:
        return self.folder / STORE

    @property
    def data(self) -> bytes:
        return self.path.read_bytes()

    @property
    def store(self) -> StageStore:
        return StageStore.parse(self.data)

    def commit(self, store: StageStore) -> None:
        """``CommitState``: refuses where a swap file is."""
        swap = self.folder / SWAP
        if swap.exists():
            raise FileExistsError(swap)
        swap.write_bytes(store.render())
        swap.rename(self.path)

    def build(self, files: Mapping[str, bytes], *, index: int | None = None, whole: bool = True) -> int:
        """A bundle with these boot files, its manifest written last; returns its index."""
        there = [int(entry) for entry in os.listdir(self.folder) if entry.isdigit()]
        index = index or max(there, default=0) + 1
        tree = {f"exports/boot/{path}": data for path, data in files.items()}
        write_tree(self.folder / str(index), {"pallet/forklift-pallet.yml": b"pallet\n", **tree})
        if whole:
            (self.folder / str(index) / "forklift-bundle.yml").write_bytes(manifest(next(_count)))
        return index

    def plt_stage(self, files: Mapping[str, bytes]) -> int:
        """``forklift plt stage``."""
        index = self.build(files)
        self.commit(self.store.staged(index))
        return index

    def does(self, change: Callable[[StageStore], StageStore]) -> None:
        self.commit(change(self.store))

    def apply(self, *, fails: bool = False) -> None:
        """``forklift stage apply``."""
        self.does(StageStore.apply_failed if fails else StageStore.applied)

    def set_next(self, index: int) -> None:
        self.does(lambda store: store.set_next(index))

    def delete(self, index: int) -> None:
        """``forklift stage del-bun``."""
        shutil.rmtree(self.folder / str(index))
        self.does(lambda store: store.del_bundle(index))


class Device:
    """A Pi whose slots both boot the tree ``v1``, with bundle 1 applied: it brings no boot files."""

    def __init__(self, folder: Path, names: Mapping[str, int] | None = None, pi: CardPi | None = None) -> None:
        self.pi = pi or new_pi()
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.forklift = ForkliftStore(folder)
        self.forklift.path.write_bytes(text(self.forklift.build({}), [1], names))
        self.adapter().rebind()

    def adapter(self) -> Forklift:
        """abboot on this boot."""
        return Forklift(self.pi.manager(), self.folder)

    @property
    def data(self) -> bytes:
        return self.forklift.data

    def need(self) -> Need:
        return self.adapter().pending().need

    def boots(self) -> Reconciliation:
        """Early boot, then the unit that notes the boot."""
        done = self.adapter().reconcile()
        assert done.problems == ()
        self.pi.manager().note_boot()
        return done

    def cut(self) -> Reconciliation:
        """The power goes and comes back."""
        self.pi.power_cut()
        return self.boots()

    def tries(self, *, retry: bool = False) -> Reconciliation:
        """A full reboot into the inactive slot."""
        self.pi.manager().trial(retry=retry)
        return self.boots()

    def commits(self) -> None:
        """Forklift applies, abboot notes it, the health checks pass."""
        self.forklift.apply()
        self.adapter().rebind()
        assert self.pi.manager().confirm().action == "committed"

    def updates(self, files: Mapping[str, bytes]) -> int:
        """A whole update that brings other boot files."""
        index = self.forklift.plt_stage(files)
        assert self.adapter().stage().changed
        self.tries()
        self.commits()
        return index

    def updates_containers(self, files: Mapping[str, bytes]) -> int:
        """A whole update with the boot files that the booted slot has."""
        index = self.forklift.plt_stage(files)
        self.forklift.apply()
        assert self.adapter().rebind().changed
        return index

    @property
    def booted(self) -> Slot | None:
        return self.pi.manager().status().booted

    def slot_bytes(self) -> dict[Slot, bytes]:
        return {slot: self.pi.card.bytes_of(number) for slot, number in ((A, 2), (B, 3))}

    def runs_with(self) -> tuple[int | None, int | None]:
        """The bundle of the overlays, and that of the containers."""
        store = read_store(str(self.folder)).store
        assert store is not None
        return store.next, store.applies
