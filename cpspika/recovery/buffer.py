"""The messages that a recovering connection keeps, since it may have to send them again.

`Buffer` counts the bytes of those that wait for a link or for the broker's decision. `Unwritten` keeps the publishes
that nobody confirms, until the kernel has taken them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from operator import itemgetter
from typing import Any

from ..client.connection import Connection
from ..client.continuations import Request
from ..client.publisher import Content
from ..errors import AMQPError, BufferFull
from .options import Recovery

OVERHEAD = 128  # bytes that a message counts for in the buffer, beside its body and its properties


class Buffer:
    """The room for messages. `size`: bytes taken. `is_full`: from the moment when `size` exceeds `most` until half of
    that is free. on_room: called then."""

    __slots__ = ("_limit", "_on_room", "is_full", "most", "size")

    def __init__(self, options: Recovery, on_room: Callable[[], object]):
        self.most = options.buffer
        self._limit = options.buffer_limit
        self._on_room = on_room
        self.size = 0
        self.is_full = False

    def refusal(self, size: int) -> BufferFull | None:
        """Why a message that waits for a link has no room. Without others there is room for one of any size."""
        if not self.size or self.size + size <= self._limit:
            return None
        return BufferFull(
            f"{self.size} bytes of messages wait for a link, and with this one (of {size}) they would exceed "
            f"buffer_limit={self._limit}; the message is not kept"
        )

    def take(self, size: int) -> bool:
        """A message is kept. Returns whether the program may publish more."""
        self.size += size
        if self.size > self.most:
            self.is_full = True
        return not self.is_full

    def release(self, publish: Any) -> None:
        """The message of a publish is not kept any more. Its `size` is 0 then, so it is not released twice."""
        self.size -= publish.size
        publish.size = 0
        if self.is_full:
            self.ease()

    def ease(self) -> None:
        """Ends `is_full`, if enough is free."""
        if self.size <= self.most // 2:
            self.is_full = False
            self._on_room()


class Unwritten:
    """The publishes on one link that nobody confirms, and that the kernel may not have taken.

    kept: a tuple for each: the position in the stream behind it, its channel, and of its content exchange, routing key,
    properties, body and, if one is set, the flags. The list is the same while the link lives."""

    __slots__ = ("_link", "kept", "transport")

    def __init__(self, link: Connection):
        self._link = link
        self.transport: Any = link._backlog.transport
        self.kept: list[tuple[Any, ...]] = []

    @property
    def position(self) -> int:
        """In the stream, behind all that was sent on the link."""
        position: int = self.transport.queued
        return position

    def add(self, channel: Any, content: Content) -> None:
        """A publish of a channel was sent."""
        if not self.kept:
            self.watch()
        exchange, routing_key, *flags, properties, body = content
        self.kept.append((self.position, channel, exchange, routing_key, properties, body, *flags))

    def watch(self) -> None:
        """Has the publishes that the kernel takes dropped, from the next turn on. Called before the first is added."""
        self._link.reactor.call_soon(self._drop_written)

    def _drop_written(self, _: Any = None) -> None:
        kept, written = self.kept, self.transport.written
        if kept and kept[-1][0] > written:
            del kept[: bisect_right(kept, written, key=itemgetter(0))]
            self._link._backlog.when_written(0, _Written(self._drop_written))
        else:
            kept.clear()

    def lost(self) -> list[tuple[int, Any, Content]]:
        """(position, channel, content) of the publishes that the kernel has not taken whole, of a link that is lost."""
        written = self.transport.written
        lost = []
        for position, channel, exchange, routing_key, properties, body, *flags in self.kept:
            if position > written:
                mandatory, immediate = flags or (False, False)
                lost.append((position, channel, Content(exchange, routing_key, mandatory, immediate, properties, body)))
        return lost


class _Written(Request):
    """Stands in a link's backlog until what was written before it has gone to the kernel."""

    __slots__ = ()

    def __init__(self, call: Callable[[Any], object]):
        super().__init__("basic.publish", None, convert=call)

    def reply(self, reply: Any) -> None:
        assert self.convert is not None
        self.convert(None)

    def fail(self, error: AMQPError) -> None:
        """The link ended first."""
