"""The journal: the exchanges, queues and bindings that a connection has declared, and that exist as far as it knows.

An operation is recorded when the broker has carried it out. A deletion removes what it deletes, whichever channel asks
for it. Passive declares are not recorded: they make nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Entity = tuple[str, ...]
"""("exchange", name), ("queue", name), or ("binding", source, destination, routing key, arguments as text)."""


class Declared:
    """An entity of the journal: the method that declares it, with its arguments, and the channel that asked for it."""

    __slots__ = ("arguments", "channel", "entity", "method")

    def __init__(self, entity: Entity, method: str, arguments: dict[str, Any], channel: Any):
        self.entity = entity
        self.method = method
        self.arguments = arguments
        self.channel = channel


class Journal:
    """Declared entities, in the order in which they were declared first."""

    def __init__(self) -> None:
        self._declared: dict[Entity, Declared] = {}
        self._ends: dict[Entity, set[Entity]] = {}  # an exchange or queue -> the bindings that begin or end there

    def __len__(self) -> int:
        return len(self._declared)

    def __iter__(self) -> Iterator[Declared]:
        return iter(list(self._declared.values()))

    def record(self, method: str, arguments: dict[str, Any], channel: Any) -> None:
        """Notes what an answered method has done. Other methods than those of _RECORDED do nothing here."""
        handler = _RECORDED.get(method)
        if handler is not None:
            handler(self, method, arguments, channel)

    def _declare(self, method: str, arguments: dict[str, Any], channel: Any) -> None:
        if arguments["passive"]:
            return
        kind = method.partition(".")[0]
        self._add(Declared((kind, arguments[kind]), method, arguments, channel))

    def _delete(self, method: str, arguments: dict[str, Any], channel: Any) -> None:
        kind = method.partition(".")[0]
        self.forget((kind, arguments[kind]))

    def _bind(self, method: str, arguments: dict[str, Any], channel: Any) -> None:
        self._add(Declared(binding(method, arguments), method, arguments, channel))

    def _unbind(self, method: str, arguments: dict[str, Any], channel: Any) -> None:
        self.forget(binding(method, arguments))

    def _add(self, declared: Declared) -> None:
        self._declared[declared.entity] = declared  # as it is now: another client may have deleted the one before
        for end in ends(declared):
            self._ends.setdefault(end, set()).add(declared.entity)

    def drop(self, entity: Entity) -> None:
        """Removes an entity alone: it exists, but not as this connection has declared it."""
        declared = self._declared.pop(entity, None)
        if declared is not None:
            for end in ends(declared):
                bindings = self._ends.get(end)
                if bindings is not None:
                    bindings.discard(entity)
                    if not bindings:
                        del self._ends[end]

    def forget(self, entity: Entity) -> None:
        """Removes an entity; with an exchange or queue, its bindings."""
        self.drop(entity)
        for each in list(self._ends.get(entity, ())):
            self.forget(each)

    def queue(self, name: str) -> Declared | None:
        """The queue of this name, if the journal has it."""
        return self._declared.get(("queue", name))

    def consumer_ended(self, queue: str) -> None:
        """The last consumer that this connection knows of has ended: an auto-delete queue is gone with it."""
        declared = self.queue(queue)
        if declared is not None and declared.arguments["auto_delete"]:
            self.forget(declared.entity)


def binding(method: str, arguments: dict[str, Any]) -> Entity:
    """The entity of a bind or unbind. Tables with the same arguments in another order are the same."""
    table = arguments.get("arguments") or {}
    options = repr(sorted(table.items(), key=lambda item: item[0])) if table else ""
    to_queue = method.startswith("queue.")
    source = arguments["exchange"] if to_queue else arguments["source"]
    destination = arguments["queue"] if to_queue else arguments["destination"]
    return "binding", source, ("queue " if to_queue else "exchange ") + destination, arguments["routing_key"], options


def ends(declared: Declared) -> tuple[Entity, ...]:
    """The exchange and the exchange or queue that a binding joins; () for another entity."""
    if declared.entity[0] != "binding":
        return ()
    kind, _, name = declared.entity[2].partition(" ")
    return ("exchange", declared.entity[1]), (kind, name)


_RECORDED = {
    "exchange.declare": Journal._declare,
    "queue.declare": Journal._declare,
    "exchange.delete": Journal._delete,
    "queue.delete": Journal._delete,
    "exchange.bind": Journal._bind,
    "queue.bind": Journal._bind,
    "exchange.unbind": Journal._unbind,
    "queue.unbind": Journal._unbind,
}
