"""What every frozen value has, written once instead of generated for each class.

attrs writes and compiles ``__eq__``, ``__hash__`` and ``__repr__`` anew for each class: half of what a class costs, and
``abboot status`` makes some fifty of them before it can say anything.  On a Pi Zero that is felt
(``benchmarks/startup.py``).  So such a class says ``eq=False, repr=False`` and inherits these, which do the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import attrs


class Value:
    """Equal to another of exactly its class if all fields are; a field may be left out with ``eq=False``."""

    __slots__ = ()
    if TYPE_CHECKING:
        __attrs_attrs__: tuple[attrs.Attribute[Any], ...]

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return self._compared() == other._compared()

    def __hash__(self) -> int:
        return hash(self._compared())

    def __repr__(self) -> str:
        shown = (f"{field.name}={getattr(self, field.name)!r}" for field in self.__attrs_attrs__ if field.repr)
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def _compared(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field.name) for field in self.__attrs_attrs__ if field.eq)
