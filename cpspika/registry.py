"""A registry: the living objects of a kind, which it does not keep alive. For the child of a fork, for an exception of
a signal handler, and for a change that concerns every connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar
from weakref import ref

T = TypeVar("T")


class Registry(Generic[T]):
    """Holds objects weakly, as a `weakref.WeakSet` does. But no Python code runs when an object dies, and less when one
    is added: each connection enters three registries, with its reactor and its transport."""

    __slots__ = ("_refs",)

    def __init__(self) -> None:
        self._refs: set[ref[T]] = set()

    def add(self, thing: T) -> None:
        """Adds an object that is compared by identity. It leaves when it dies."""
        self._refs.add(ref(thing, self._refs.discard))

    def __iter__(self) -> Iterator[T]:
        """The objects that live now. Others may be added meanwhile, in any thread."""
        for each in list(self._refs):
            thing = each()
            if thing is not None:
                yield thing
