"""Handlers of a channel or connection, by kind ("state", "flow", ...)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..errors import InvalidArgumentType
from ..reactor import once
from .continuations import Call

Remove = Callable[[], None]


class Waiting:
    """A handler of something that waits for an event. `abandoned`: nothing waits any more, and the handler may go."""

    __slots__ = ()

    abandoned: bool


class Handlers(dict[str, list[Callable[..., object]]]):
    """The handlers, in the order of their registration. An idle channel has none, so this is one empty dict."""

    __slots__ = ()

    def add(self, kind: str, handler: Callable[..., object]) -> Remove:
        """Adds a handler; returns a function that removes it, once."""
        if not callable(handler):
            raise InvalidArgumentType(f"handler takes a callable, not {type(handler).__name__}")
        handlers = self.setdefault(kind, [])
        handlers[:] = [known for known in handlers if not _is_abandoned(known)]
        handlers.append(handler)
        return once(lambda: handlers.remove(handler) if handler in handlers else None)

    def has(self, kind: str) -> bool:
        """Whether a handler of a kind is of use to anybody."""
        return not all(map(_is_abandoned, self.get(kind, ())))

    def calls(self, kind: str, *details: Any) -> list[Call]:
        """The calls that tell every handler of a kind."""
        return [partial(handler, *details) for handler in self.get(kind, ())]


def _is_abandoned(handler: object) -> bool:
    return isinstance(handler, Waiting) and handler.abandoned
