"""The decision of early boot, over everything that store, bundles, slots and trials can be."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from random import Random

import attrs
import pytest

from abboot.core.words import Slot, SlotState
from abboot.forklift.binding import Binding
from abboot.forklift.bundle import Bundle
from abboot.forklift.reconcile import FAILED, PENDING, Action, Decision, Facts, decide, slot_name
from abboot.forklift.store import StageStore, StoreDamaged
from tests.forklift.device import text

PAYLOADS = [hashlib.sha256(name).hexdigest() for name in (b"payload 1", b"payload 2")]
INDEXES = range(1, 6)
NAMES = ["factory-reset", "mine", PENDING, FAILED, slot_name(Slot.A), slot_name(Slot.B)]
SITUATIONS = 600


def sha(index: int, edition: int) -> str:
    return hashlib.sha256(b"%d %d" % (index, edition)).hexdigest()


def bundles(chance: Random) -> Mapping[int, Bundle]:
    """Some whole, some not; an index may have been given away again."""
    return {
        index: Bundle(index=index, sha256=sha(index, chance.choice([0, 0, 0, 1])), payload=chance.choice(PAYLOADS))
        if chance.random() < 0.8
        else Bundle(index=index, problem="there is none")
        for index in INDEXES
    }


def some_store(chance: Random) -> StageStore:
    following = chance.choice([None, *INDEXES])
    return StageStore(
        next=following,
        next_failed=following is not None and chance.random() < 0.4,
        history=tuple(chance.choices(INDEXES, k=chance.randrange(5))),
        names={chance.choice(NAMES): chance.choice(INDEXES) for _ in range(chance.randrange(4))},
    )


def some_binding(chance: Random, slot: Slot, payload: str | None, store: StageStore) -> Binding:
    index = chance.choice(INDEXES)
    history = (*store.history[: chance.randrange(4)], *chance.choices(INDEXES, k=chance.randrange(2)), index)
    own = StageStore(next=index, history=history).render()
    return Binding(
        slot=slot,
        record_digest=sha(0, 9),
        bundle=index,
        sha256=sha(index, chance.choice([0, 0, 0, 1])),
        payload=payload,
        store=chance.choice([own, own, b"", own[:20]]),
    )


@functools.cache
def situations() -> tuple[Facts, ...]:
    """The same ones in every run."""
    chance = Random(7)
    found = []
    for _ in range(SITUATIONS):
        store, there = some_store(chance), bundles(chance)
        payload = chance.choice([None, *PAYLOADS, *PAYLOADS])
        facts = Facts(
            store=store if (there_is := chance.random() < 0.9) else None,
            damaged=not there_is and chance.random() < 0.5,
            bound=tuple(some_binding(chance, Slot.A, payload, store) for _ in range(chance.randrange(3))),
            other=None if chance.random() < 0.3 else some_binding(chance, Slot.B, chance.choice(PAYLOADS), store),
            other_state=chance.choice(list(SlotState)),
            bundle=there.__getitem__,
        )
        found.append(facts)
    return tuple(found)


@functools.cache
def decided() -> tuple[tuple[Facts, Decision, StageStore | None], ...]:
    """Each situation, what is decided, and the store afterwards."""
    return tuple((facts, decision, after(facts, decision)) for facts in situations() for decision in [decide(facts)])


Check = Callable[[Facts, Decision, StageStore | None], bool]


def every(check: Check) -> Callable[[], None]:
    """A test that ``check`` holds in every situation that it is about, and that there are enough of these.

    It returns whether it was about a situation.
    """

    @functools.wraps(check)
    def test() -> None:
        about = sum(check(*situation) for situation in decided())

        assert about >= SITUATIONS // 50

    del test.__wrapped__  # type: ignore[attr-defined]  # pytest would take its arguments for fixtures
    return test


def fits(facts: Facts, index: int | None) -> bool:
    """The one rule, said once more: these are the boot files of the booted slot.

    Where nobody knows which these are, it is its very bundle.
    """
    if index is None:
        return False
    bundle = facts.bundle(index)
    whole = not bundle.problem
    if not facts.bound:
        return whole
    return whole and any(
        bundle.payload == bound.payload
        or (bound.payload is None and (bundle.index, bundle.sha256) == (bound.bundle, bound.sha256))
        for bound in facts.bound
    )


def after(facts: Facts, decision: Decision) -> StageStore | None:
    return facts.store if decision.data is None else StageStore.parse(decision.data)


@every
def test_what_overlays_and_containers_get_fits_the_booted_slot_or_nothing_does(
    facts: Facts, decision: Decision, store: StageStore | None
) -> bool:
    if decision.action is Action.STUCK:
        assert decision.data == (text() if facts.damaged else None)
        assert not any(bound.is_of(facts.bundle(bound.bundle)) for bound in facts.bound)
        if facts.store is not None:
            assert not any(fits(facts, index) for index in facts.store.history)
            assert not fits(facts, facts.store.next) or not fits(facts, facts.store.applies)
        return True
    assert store is not None
    if store.next is None:
        assert (decision.action, facts.bound) == (Action.NOTHING, ())
        return True
    assert fits(facts, store.next)
    assert store.applies in (store.next, None)  # one bundle for both
    return True


@every
def test_deciding_again_changes_nothing(facts: Facts, decision: Decision, store: StageStore | None) -> bool:
    again = decide(attrs.evolve(facts, store=store, damaged=False))

    assert again.data is None
    if decision.action is Action.STUCK:
        assert again.action in (Action.STUCK, Action.NOTHING)  # nothing: no bundle is next, and none has to be
    else:
        assert again.action is Action.NOTHING
    return True


@every
def test_a_store_that_fits_is_never_written(facts: Facts, decision: Decision, store: StageStore | None) -> bool:
    before = facts.store
    if before is None or not fits(facts, before.next) or before.next_failed:
        return False
    assert (decision.data, store) == (None, before)
    return True


@every
def test_nobody_elses_name_is_lost_and_no_name_is_given_to_what_is_not_whole(
    facts: Facts, decision: Decision, store: StageStore | None
) -> bool:
    before = facts.store
    if before is None or store is None or decision.data is None:
        return False
    ours = {PENDING, FAILED, slot_name(Slot.A), slot_name(Slot.B)}
    assert {name: at for name, at in before.names.items() if name not in ours} == {
        name: at for name, at in store.names.items() if name not in ours
    }
    for name, at in store.names.items():
        assert facts.bundle(at).whole or before.names.get(name) == at
    assert store.next not in (store.names.get(PENDING), store.names.get(FAILED))
    return True


@every
def test_a_bundle_that_is_no_longer_next_is_named_or_gone_or_runs_on_the_other_slot(
    facts: Facts, decision: Decision, store: StageStore | None
) -> bool:
    before = facts.store
    if before is None or store is None or before.next in (None, store.next):
        return False
    left = before.next
    assert left is not None
    named = {name for name in (PENDING, FAILED) if store.names.get(name) == left}
    other = facts.other
    there = other is not None and other.is_of(facts.bundle(left))
    assert len(named) <= 1
    if not named:
        runs_there = there and facts.other_state is SlotState.GOOD and before.current == left
        assert not facts.bundle(left).whole or runs_there
    if before.next_failed or (there and facts.other_state is SlotState.FAILED):
        assert PENDING not in named  # what failed is not tried again by itself
    return True


@every
def test_an_update_that_was_applied_on_this_slot_is_not_undone(
    facts: Facts, decision: Decision, store: StageStore | None
) -> bool:
    """What the store remembers beyond the slot's own text stays, as far as it fits."""
    before = facts.store
    usable = next((each for each in facts.bound if each.is_of(facts.bundle(each.bundle))), None)
    if before is None or store is None or usable is None:
        return False
    try:
        own = StageStore.parse(usable.store).history
    except StoreDamaged:
        own = (usable.bundle,)
    applied = len(before.history)
    while applied and not fits(facts, before.history[applied - 1]):
        applied -= 1
    if applied < len(own) or before.history[: len(own)] != own:
        return False
    assert store.history[:applied] == before.history[:applied], decision.why
    return True


@every
def test_keys_that_forklift_does_not_know_survive(facts: Facts, decision: Decision, store: StageStore | None) -> bool:
    if facts.store is None or store is None or decision.data is None:
        return False
    extra = b"    mine: {a: 1}\n"
    more = facts.store.render().replace(b"staged: {}\n", b"staged:\n") + extra
    data = decide(attrs.evolve(facts, store=StageStore.parse(more))).data
    assert data is not None
    assert b"    mine:\n        a: 1\n" in data
    return True


@pytest.mark.parametrize("action", list(Action))
def test_every_action_is_among_the_situations(action: Action) -> None:
    assert sum(decision.action is action for _facts, decision, _store in decided()) >= SITUATIONS // 30
