"""Forklift's stage store as data: which bundle is next, which ones were applied, what they are called.  No I/O here.

Rules:

* What :meth:`StageStore.render` writes is what Forklift writes, byte for byte; what Forklift wrote is read back and
  written identically.
* What Forklift never writes, and what says nothing, is :class:`StoreDamaged`, also where Forklift itself would go on:
  an empty file is an empty store to it, and its next write makes that final.
* The transitions are Forklift's own, also where they surprise.  None of them looks at bundles: that is the caller's.
* A key that Forklift does not know is kept, and so is its value; a comment is not.  Both are reported.  Forklift drops
  them all at its next write.

Source: ``staging-models.go``, ``staging.go`` and ``cmd/forklift/stage/`` of Forklift 0.8.0
(github.com/forklift-run/forklift), which writes with gopkg.in/yaml.v3; read 2026-11.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar

import attrs

from abboot.core.tree import shown
from abboot.errors import Damaged, Refused
from abboot.forklift.yaml3 import OLD_BOOLS, Block, Kind, List, Node, Scalar, natural_order, problem_of_key, read, write

MAX_SIZE: Final = 128 * 1024  # bytes; a history of eight thousand updates has 110 KiB
MAX_INDEX: Final = 2**63 - 1  # of a bundle: Forklift's int on a 64-bit board
NEW_STORE_VERSION: Final = "v0.7.0"  # what Forklift 0.8.0 gives a store that it creates
# What Forklift answers to as a name without storing it; it refuses to store these, and whole numbers.
COMPUTED_NAMES: Final = frozenset({"current", "next", "pending", "rollback"})

Result = Literal["success", "failure", "pending"]
T = TypeVar("T")
N = TypeVar("N", Block, List, Scalar)

_HINT = "a snapshot of it is in the record of the booted slot; `abboot forklift reconcile` writes it back"


class StoreDamaged(Damaged):
    """The text is no stage store that anything may be concluded from.  ``data`` is that text, as it was found."""

    def __init__(self, message: str, hint: str = _HINT, *, data: bytes) -> None:
        super().__init__(message, hint)
        self.data = data


def _index(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_INDEX:
        raise ValueError(f"{value!r} is not the number of a bundle")
    return value


def _history(indexes: Iterable[int]) -> tuple[int, ...]:
    return tuple(map(_index, indexes))


def _extra(extra: Mapping[tuple[str, ...], Node]) -> Mapping[tuple[str, ...], Node]:
    return MappingProxyType(dict(extra))


def _names(names: Mapping[str, int]) -> Mapping[str, int]:
    for name, index in names.items():
        problem = problem_of_key(name)
        if problem:
            raise ValueError(f"the name {shown(name)!r} {problem}")
        _index(index)
    return MappingProxyType(dict(names))


@attrs.frozen(kw_only=True)
class StageStore:
    """What ``forklift-stage-store.yml`` says.

    Attributes:
        forklift_version: the least version of Forklift, which Forklift does not check; empty if the text has none.
        next: the bundle to be applied; ``None``: none.
        next_failed: applying it has failed, and :attr:`current` is applied in its stead.
        history: the bundles that were applied, newest last.
        names: what users call bundles.  Bytes that are no UTF-8 are in a name as ``surrogateescape`` has them.
        extra: keys that Forklift does not know, by path, with their values.
        comments: ``line N: # ...`` of each; :meth:`render` does not write them.

    Raises:
        ValueError: a number that no bundle can have, or a name that Forklift could not read back.
    """

    forklift_version: str = NEW_STORE_VERSION
    next: int | None = attrs.field(default=None, converter=attrs.converters.optional(_index))
    next_failed: bool = False
    history: tuple[int, ...] = attrs.field(default=(), converter=_history)
    names: Mapping[str, int] = attrs.field(factory=dict, converter=_names, hash=False)
    extra: Mapping[tuple[str, ...], Node] = attrs.field(factory=dict, converter=_extra, hash=False)
    comments: tuple[str, ...] = attrs.field(default=(), eq=False)

    # --- what Forklift computes ---

    @property
    def current(self) -> int | None:
        """The bundle that was applied last."""
        return self.history[-1] if self.history else None

    @property
    def rollback(self) -> int | None:
        """The bundle that was applied before that."""
        return self.history[-2] if len(self.history) > 1 else None

    @property
    def pending(self) -> int | None:
        """The next bundle, if it is not the one that was applied last."""
        return self.next if self.next != self.current else None

    @property
    def applies(self) -> int | None:
        """The bundle that ``forklift stage apply`` would apply now; ``None``: it would fail."""
        return self.current if self.next is not None and self.next_failed else self.next

    @property
    def unknown(self) -> tuple[str, ...]:
        """What Forklift would drop at its next write: keys by their path, and comments."""
        return (*(".".join(map(shown, path)) for path in self.extra), *self.comments)

    # --- the text ---

    @classmethod
    def parse(cls, data: bytes) -> StageStore:
        """Read the text of a store.

        What yaml.v3 makes of a value counts: ``next: 0x10`` is 16.  Stricter than Forklift: numbers with a point, null
        in a list, anchors, aliases and tags, more than one document, and whatever is missing from a torn text.

        Raises:
            StoreDamaged: it is no store; ``data`` is in the error.
        """
        try:
            return cls(**_read(_text(data)))
        except ValueError as error:
            raise StoreDamaged(f"cannot read the stage store: {error}", data=data) from error

    def render(self) -> bytes:
        """What Forklift would write, and after it in each mapping what it does not know; without the comments."""
        staged: list[tuple[str, Node | None]] = [
            ("next", _number(self.next) if self.next is not None else None),
            ("next-failed", Scalar("true", plain=True) if self.next_failed else None),
            ("history", List(tuple(map(_number, self.history))) if self.history else None),
            ("names", self._names_block() if self.names else None),
            *((path[1], node) for path, node in self.extra.items() if len(path) == 2),
        ]
        whole: list[tuple[str, Node | None]] = [
            ("forklift-version", Scalar(self.forklift_version)),
            ("staged", _block(staged)),
            *((path[0], node) for path, node in self.extra.items() if len(path) == 1),
        ]
        return write(_block(whole))

    def _names_block(self) -> Block:
        return _block([(name, _number(self.names[name])) for name in natural_order(self.names)])

    # --- what Forklift does to it ---

    def staged(self, index: int) -> StageStore:
        """``forklift plt stage`` and its like have built bundle ``index``."""
        return self.set_next(index)

    def set_next(self, index: int) -> StageStore:
        """``forklift stage set-next``; with 0 as :meth:`unset_next`."""
        return attrs.evolve(self, next=index or None, next_failed=False)

    def unset_next(self) -> StageStore:
        """``forklift stage unset-next``."""
        return self.set_next(0)

    def applied(self) -> StageStore:
        """``forklift stage apply`` has succeeded.

        After a failure it applies :attr:`current` in place of :attr:`next`, and that is not noted: the failure stays.
        Where there is nothing to apply it fails, and nothing changes.
        """
        if self.next_failed and self.current != self.next:
            return self
        return self.set_next_result("success")

    def apply_failed(self) -> StageStore:
        """``forklift stage apply`` has failed.  That the fallback failed as well is not noted."""
        return self if self.next_failed else self.set_next_result("failure")

    def set_next_result(self, result: Result) -> StageStore:
        """``forklift stage set-next-result``."""
        match result:
            case "pending":
                return attrs.evolve(self, next_failed=False)
            case "failure":
                return self if self.next is None else attrs.evolve(self, next_failed=True)
            case "success":
                if self.next is None:
                    return self
                history = self.history if self.next == self.current else (*self.history, self.next)
                return attrs.evolve(self, next_failed=False, history=history)

    def del_bundle(self, index: int) -> StageStore:
        """``forklift stage del-bun``: if it was :attr:`next`, that becomes what is then the newest of the history."""
        names = {name: named for name, named in self.names.items() if named != index}
        history = tuple(applied for applied in self.history if applied != index)
        after = attrs.evolve(self, names=names, history=history)
        return after.set_next(after.current or 0) if self.next == index else after

    def with_name(self, name: str, index: int) -> StageStore:
        """``forklift stage add-bun-name``.

        Raises:
            Refused: Forklift does not store such a name, or could not read the store any more.
        """
        problem = problem_of_key(name) or _problem_of_new_name(name)
        if problem:
            raise Refused(f"cannot name bundle {index}: the name {shown(name)!r} {problem}")
        return attrs.evolve(self, names={**self.names, name: index})

    def without_name(self, name: str) -> StageStore:
        """``forklift stage del-bun-name``; a name that is not there is no error."""
        return attrs.evolve(self, names={other: index for other, index in self.names.items() if other != name})


def _problem_of_new_name(name: str) -> str:
    if name in COMPUTED_NAMES:
        return "is one that Forklift computes"
    if re.fullmatch(r"[-+]?[0-9]+", name, re.ASCII) and -MAX_INDEX - 1 <= int(name[:40]) <= MAX_INDEX:
        return "is a number"
    return ""


# --- between text and values ---


def _text(data: bytes) -> str:
    if not data:
        raise ValueError("it is empty")
    if len(data) > MAX_SIZE:
        raise ValueError(f"it has more than {MAX_SIZE} bytes")
    if not data.strip(b"\0"):
        raise ValueError(f"its {len(data)} bytes are all zero")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"the byte at {error.start} is not UTF-8") from error
    if not text.endswith("\n"):
        # Forklift and editors write it: without it `next: 1` may be what is left of `next: 12`.
        raise ValueError("its last line has no end")
    return text


def _read(text: str) -> dict[str, Any]:
    document = read(text)
    whole = _Keys.of(document.root, ())
    version = whole.take("forklift-version", _version)
    staged_node = whole.take("staged", _same)
    if staged_node is None:
        # Forklift always writes it, if only `{}`.  It would go on with a store that has forgotten everything.
        raise ValueError("it has no `staged`")
    staged = _Keys.of(staged_node, ("staged",))
    return {
        "forklift_version": version or "",
        "next": staged.take("next", _next),
        "next_failed": bool(staged.take("next-failed", _truth)),
        "history": staged.take("history", _indexes) or (),
        "names": staged.take("names", _named) or {},
        "extra": {**whole.rest(), **staged.rest()},
        "comments": document.comments,
    }


class _Keys:
    """The keys of one mapping; what nobody takes is unknown."""

    def __init__(self, entries: dict[str, Node], path: tuple[str, ...]) -> None:
        self._entries = entries
        self._path = path

    @classmethod
    def of(cls, node: Node | None, path: tuple[str, ...]) -> _Keys:
        try:
            entries = _expect(Block, node, "a mapping").entries
        except ValueError as error:
            raise ValueError(f"{_at(path)}: {error}") from error
        return cls({key.text: value for key, value in entries}, path)

    def take(self, key: str, convert: Callable[[Node], T]) -> T | None:
        node = self._entries.pop(key, None)
        if node is None or (isinstance(node, Scalar) and node.value is None):
            return None
        try:
            return convert(node)
        except ValueError as error:
            raise ValueError(f"{_at((*self._path, key))}: {error}") from error

    def rest(self) -> dict[tuple[str, ...], Node]:
        return {(*self._path, key): node for key, node in self._entries.items()}


def _at(path: tuple[str, ...]) -> str:
    return f"`{'.'.join(path)}`" if path else "the document"


def _found(node: Node | None) -> str:
    match node:
        case None:
            return "nothing"
        case List():
            return "a list"
        case Block():
            return "a mapping"
        case Scalar():
            return f"the {node.kind.value} {shown(node.text)!r}"


def _expect(shape: type[N], node: Node | None, wanted: str) -> N:
    if isinstance(node, shape):
        return node
    raise ValueError(f"{_found(node)}, not {wanted}")


def _same(node: Node) -> Node:
    return node


def _version(node: Node) -> str:
    return _expect(Scalar, node, "text").text


def _truth(node: Node) -> bool:
    value = node.value if isinstance(node, Scalar) else None
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in OLD_BOOLS:  # yaml.v3 takes it, quoted or not, where it wants a truth value
        return OLD_BOOLS[value]
    raise ValueError(f"{_found(node)}, not true or false")


def _next(node: Node) -> int | None:
    return None if isinstance(node, Scalar) and node.value == 0 else _bundle(node)


def _bundle(node: Node) -> int:
    if not isinstance(node, Scalar) or node.kind is not Kind.INT:
        raise ValueError(f"{_found(node)}, not the number of a bundle")
    return _index(node.value)


def _indexes(node: Node) -> tuple[int, ...]:
    return tuple(map(_bundle, _expect(List, node, "a list").items))


def _named(node: Node) -> dict[str, int]:
    entries = _expect(Block, node, "a mapping").entries
    for key, _ in entries:
        if key.kind is Kind.NULL:
            raise ValueError("a name is missing")  # Forklift passes over it in silence
    return {key.text: _bundle(index) for key, index in entries}


def _number(index: int) -> Scalar:
    return Scalar(str(index), plain=True)


def _block(entries: Iterable[tuple[str, Node | None]]) -> Block:
    return Block(tuple((Scalar(key), node) for key, node in entries if node is not None))
