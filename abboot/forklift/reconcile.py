"""What early boot makes of the stage store: decided here, done by :mod:`abboot.forklift.adapter`.  No I/O here.

The one rule: the booted slot decides the boot payload, and the store decides only among the bundles that have it.

Forklift's overlays are mounted from the store's ``next``; its containers come from ``next`` as well, or from the last
of ``history`` once ``next`` has failed.  So both have to fit the booted slot before the overlays are mounted.

The rules, in this order; the first that applies counts:

=================================================  ===============================================================
found                                              done
=================================================  ===============================================================
the store is missing or damaged                    the text that the slot is bound to is written; if there is none
                                                   any more, an empty one, so that Forklift can go on
``next`` is unset, or does not fit the slot        ``next`` and ``history`` become the slot's; other names stay
``next`` failed, and ``current`` does not fit      likewise: else Forklift would apply ``current``
``next`` failed, and ``current`` fits              ``next`` becomes ``current``: overlays and containers agree
all else                                           nothing
=================================================  ===============================================================

On a slot that is bound to nothing every whole bundle fits, and ``next`` may stay unset.

A bundle that loses its place as ``next`` gets a name, so that neither Forklift's pruning nor the user loses it:
``boot-failed`` if its trial failed or Forklift could not apply it, else ``boot-pending``: an update that waits.  What
simply runs on the other slot is neither.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping

import attrs

from abboot.core.words import Slot, SlotState
from abboot.forklift.binding import Binding
from abboot.forklift.bundle import Bundle
from abboot.forklift.store import StageStore, StoreDamaged

PENDING = "boot-pending"
FAILED = "boot-failed"


def slot_name(slot: Slot) -> str:
    """The name that keeps a slot's bundle from being pruned."""
    return f"boot-slot-{slot}"


class Action(enum.StrEnum):
    """What became of the store."""

    NOTHING = "nothing"  # it fits
    RESTORED = "restored"  # it is the booted slot's again
    FELL_BACK = "fell_back"  # `next` had failed, and is `current` again
    STUCK = "stuck"  # it does not fit, and there is nothing to make it fit


@attrs.frozen(kw_only=True)
class Facts:
    """Everything that a decision is made from.

    Args:
        store: as it is; ``None`` where it is missing or damaged.
        problem: why there is none.
        damaged: there is something in its place, so that Forklift cannot even start a new one.
        bound: what the booted slot is bound to, the newest first; empty where nobody can tell.
        other: what the other slot is bound to.
        other_state: what the other slot is, with the outcome of a trial that nobody noted yet.
        bundle: reads a bundle of the store; asked for as few as possible, since their files are hashed.
    """

    store: StageStore | None
    problem: str = ""
    damaged: bool = False
    bound: tuple[Binding, ...]
    other: Binding | None
    other_state: SlotState
    bundle: Callable[[int], Bundle]


@attrs.frozen(kw_only=True)
class Decision:
    """What to do.  ``data``: what the store's file has to be; ``None`` leaves it as it is."""

    action: Action
    why: str  # one sentence
    data: bytes | None = None


def decide(facts: Facts) -> Decision:
    """The table above.  Deciding again after it was done gives NOTHING or STUCK."""
    store = facts.store
    usable = next((each for each in facts.bound if each.is_of(facts.bundle(each.bundle))), None)
    if store is None:
        return _rewritten(facts, usable)
    if store.next is None:
        found = "no bundle is next"
        if not facts.bound:
            return Decision(action=Action.NOTHING, why=found)
    elif not _fits(facts, store.next):
        found = _what_is_wrong(facts, store.next)
    elif not _falls_to_another(store):
        return Decision(action=Action.NOTHING, why="the store fits the booted slot")
    else:
        assert store.current is not None
        if _fits(facts, store.current):
            return _fallen_back(store, store.current)
        found = f"bundle {store.next} could not be applied, and {_what_is_wrong(facts, store.current)}"
    return _restored(facts, store, usable, found)


def _fits(facts: Facts, index: int) -> bool:
    bundle = facts.bundle(index)
    return any(bound.fits(bundle) for bound in facts.bound) if facts.bound else bundle.whole


def _falls_to_another(store: StageStore) -> bool:
    """Whether containers would come from ``current`` and overlays from ``next``."""
    return store.next_failed and store.current is not None and store.current != store.next


def _rewritten(facts: Facts, usable: Binding | None) -> Decision:
    """The store is missing or damaged: nothing of it can be kept."""
    if usable is None:
        return Decision(
            action=Action.STUCK,
            why=f"{facts.problem}; no bundle is left that the booted slot is bound to",
            data=StageStore().render() if facts.damaged else None,
        )
    copy = _copy_of(usable)
    return Decision(
        action=Action.RESTORED,
        why=f"{facts.problem}; it is that of bundle {usable.bundle} again",
        data=usable.store if copy is not None else _made_up(usable).render(),
    )


def _fallen_back(store: StageStore, current: int) -> Decision:
    assert store.next is not None
    names = _without(store.names, store.next, current)
    after = attrs.evolve(store, next=current, next_failed=False, names={**names, FAILED: store.next})
    return Decision(
        action=Action.FELL_BACK,
        why=f"bundle {store.next} could not be applied: next is bundle {current} again, {FAILED} names the other",
        data=after.render(),
    )


def _restored(facts: Facts, store: StageStore, usable: Binding | None, found: str) -> Decision:
    copy = _newest_copy(facts, store, usable)
    if copy is None or copy.next is None:
        return Decision(
            action=Action.STUCK, why=f"{found}, and no bundle with the boot files of the booted slot is left"
        )
    left, name = store.next, ""
    names = dict(store.names)
    if facts.bound:
        names[slot_name(facts.bound[0].slot)] = copy.next
    other = facts.other
    if other is not None and other.is_of(facts.bundle(other.bundle)):
        names[slot_name(other.slot)] = other.bundle
    names = _without(names, left, copy.next)
    # A name for what is not there would one day name another bundle: Forklift gives its index away again.
    if left is not None and left != copy.next and facts.bundle(left).whole:
        name = _name_for(facts, store, left)
    if left is not None and name:
        names[name] = left
    return Decision(
        action=Action.RESTORED,
        why=f"{found}: next is bundle {copy.next} again" + (f", {name} names the other" if name else ""),
        data=attrs.evolve(store, next=copy.next, next_failed=False, history=copy.history, names=names).render(),
    )


def _newest_copy(facts: Facts, store: StageStore, usable: Binding | None) -> StageStore | None:
    """``next`` and ``history`` of the last store that this slot ran with.

    The slot's own, unless the store itself remembers more of what this slot ran with: an update that was applied, and
    that nobody has bound to the slot yet.
    """
    copy = None if usable is None else _copy_of(usable) or _made_up(usable)
    for length in range(len(store.history), 0, -1):
        if _fits(facts, store.history[length - 1]):
            remembered = attrs.evolve(store, next=store.history[length - 1], history=store.history[:length])
            if copy is None or remembered.history[: len(copy.history)] == copy.history:
                return remembered
            break
    return copy


def _copy_of(bound: Binding) -> StageStore | None:
    try:
        copy = StageStore.parse(bound.store)
    except StoreDamaged:
        return None
    return copy if copy.next == bound.bundle else None


def _made_up(bound: Binding) -> StageStore:
    """Where the text is lost: the least that Forklift can go on with."""
    return StageStore(next=bound.bundle, history=(bound.bundle,))


def _name_for(facts: Facts, store: StageStore, left: int) -> str:
    """What a bundle is called that is no longer next."""
    if store.next_failed:
        return FAILED
    other = facts.other
    if other is not None and other.is_of(facts.bundle(left)):
        if facts.other_state is SlotState.FAILED:
            return FAILED
        if facts.other_state is SlotState.GOOD and store.current == left:
            return ""  # it is what runs on the other slot, and waits for nothing
    return PENDING


def _without(names: Mapping[str, int], *indexes: int | None) -> dict[str, int]:
    """``names`` without what was said of these bundles before."""
    return {name: index for name, index in names.items() if name not in (PENDING, FAILED) or index not in indexes}


def _what_is_wrong(facts: Facts, index: int) -> str:
    bundle = facts.bundle(index)
    if not bundle.whole:
        return f"bundle {index} is not whole ({bundle.problem})"
    return f"bundle {index} has other boot files than the booted slot"
