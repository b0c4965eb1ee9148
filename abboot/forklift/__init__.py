"""Forklift beside abboot: its stage store, and what a bundle brings for the boot partition.

    forklift = abboot.forklift.Forklift(abboot.BootManager.from_system())
    forklift.pending()                                     # what the next bundle waits for
    staged = forklift.stage()                              # its boot files, onto the inactive slot
    manager.trial(staged.record_digest)                    # a full reboot
    forklift.rebind()                                      # once Forklift has applied it
    forklift.last_trial()

Everything is loaded when it is first used: ``import abboot.forklift`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from abboot.forklift.adapter import (
        BoundSlot,
        Forklift,
        ForkliftStatus,
        Need,
        Pending,
        Rebound,
        Reconciliation,
        StagedBundle,
        TrialReport,
    )
    from abboot.forklift.bundle import Bundle
    from abboot.forklift.reconcile import Action
    from abboot.forklift.store import StageStore, StoreDamaged
    from abboot.forklift.store_file import StoreReading, list_bundles, read_store, remove_stale_swap, write_store

__all__ = [
    "Action",
    "BoundSlot",
    "Bundle",
    "Forklift",
    "ForkliftStatus",
    "Need",
    "Pending",
    "Rebound",
    "Reconciliation",
    "StagedBundle",
    "TrialReport",
    "StageStore",
    "StoreDamaged",
    "StoreReading",
    "list_bundles",
    "read_store",
    "remove_stale_swap",
    "write_store",
]

_HOMES = {
    "Action": "reconcile",
    "BoundSlot": "adapter",
    "Bundle": "bundle",
    "Forklift": "adapter",
    "ForkliftStatus": "adapter",
    "Need": "adapter",
    "Pending": "adapter",
    "Rebound": "adapter",
    "Reconciliation": "adapter",
    "StagedBundle": "adapter",
    "TrialReport": "adapter",
    "StageStore": "store",
    "StoreDamaged": "store",
    "StoreReading": "store_file",
    "list_bundles": "store_file",
    "read_store": "store_file",
    "remove_stale_swap": "store_file",
    "write_store": "store_file",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
