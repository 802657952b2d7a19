"""Where a broker keeps what shall survive its end: the seam, and the store that keeps nothing.

A store is a log. Definitions (durable exchanges, queues and bindings) and persistent messages in durable queues are
written to it. `flush` tells when all that was written is safe; a confirm of a stored message waits for it. After a
restart `load` gives back what is left.

A broker with the null store has no queue of `stored_queue`, so its messages never pass through here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from ..wire.message import Envelope, Message

Change = tuple[str, tuple[Any, ...], tuple[Any, ...] | None]
"""A change of the definitions: the kind ("exchange", "queue" or "binding"), its identity, and its properties; None
instead of the properties: it was deleted.

    ("exchange", (name,), (type, auto_delete, internal, arguments))
    ("queue", (name,), (auto_delete, arguments))
    ("binding", (source, kind of destination, destination, routing_key, arguments), ())
"""


class StoredMessage(NamedTuple):
    """A message in a durable queue. position: its number in the queue."""

    vhost: str
    queue: str
    position: int
    exchange: str
    routing_key: str
    encoded: bytes
    body: bytes

    def message(self) -> Message:
        return Message(
            Envelope("basic.publish", None, False, self.exchange, self.routing_key, self.encoded, {}), 0, self.body
        )


class Contents(NamedTuple):
    """The content of a store. definitions: by virtual host, changes that make what was there, the exchanges first,
    then the queues, then the bindings. messages: in the order of their positions in each queue."""

    definitions: dict[str, list[Change]]
    messages: list[StoredMessage]


class Store(Protocol):
    """Keeps definitions and messages beyond the broker's end.

    taken: a message was written since this was last set to False.
    """

    taken: bool

    def message_in(self, message: StoredMessage) -> None:
        """A durable queue took a persistent message."""

    def message_out(self, vhost: str, queue: str, position: int) -> None:
        """The queue needs the message no more."""

    def definitions(self, vhost: str, change: Change) -> None:
        """A durable definition was made or deleted. It is safe when the call returns."""

    def flush(self, then: Callable[[], object]) -> None:
        """Calls `then` when all that was written before is safe, never inside the call; not at all if the broker
        crashes before."""

    def sync(self) -> None:
        """Makes all that was written safe before it returns."""

    def crash(self) -> None:
        """The broker's process has died: what isn't safe may be lost, and no `then` is called any more."""

    def load(self) -> Contents:
        """The content that is left after a restart."""


class NullStore:
    """Keeps nothing, at no cost."""

    taken = False

    def message_in(self, message: StoredMessage) -> None:
        pass

    def message_out(self, vhost: str, queue: str, position: int) -> None:
        pass

    def definitions(self, vhost: str, change: Change) -> None:
        pass

    def flush(self, then: Callable[[], object]) -> None:
        raise NotImplementedError("nothing is stored, so nothing waits to be safe")

    def sync(self) -> None:
        pass

    def crash(self) -> None:
        pass

    def load(self) -> Contents:
        return Contents({}, [])


NULL_STORE = NullStore()


def _joins(binding: tuple[Any, ...], kind: str, name: str) -> bool:
    """Whether a binding begins or ends at an exchange or queue."""
    source, of, destination = binding[:3]
    return (of, destination) == (kind, name) or (kind == "exchange" and source == name)


def contents(changes: Iterable[tuple[str, Change]], messages: Iterable[StoredMessage]) -> Contents:
    """The definitions that remain after changes, each with its virtual host, in the order in which they were made."""
    found: dict[str, dict[tuple[str, str], Change]] = {}
    for vhost, change in changes:
        known = found.setdefault(vhost, {})
        kind, identity, properties = change
        key = kind, repr(identity)
        known.pop(key, None)
        if properties is not None:
            known[key] = change
        elif kind != "binding":  # with an exchange or a queue go its bindings
            for bound in [
                each for each, (what, ends, _) in known.items() if what == "binding" and _joins(ends, kind, identity[0])
            ]:
                del known[bound]
    rank = {"exchange": 0, "queue": 1, "binding": 2}
    definitions = {vhost: sorted(known.values(), key=lambda change: rank[change[0]]) for vhost, known in found.items()}
    return Contents(definitions, sorted(messages, key=lambda message: message[:3]))
