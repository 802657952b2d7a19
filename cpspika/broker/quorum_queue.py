"""A queue that a program declares as a quorum queue, kept in one copy (`serve(pretend="quorum")`).

A quorum queue counts how often a message returned. A message that is delivered again has the count in its header
x-delivery-count. When the count exceeds the queue's limit, the message is dropped or dead-lettered.
"""

from __future__ import annotations

from ..errors import AMQPError
from ..wire.message import Message
from .queues import Entry, Queue
from .refusal import precondition_failed

COUNT = "x-delivery-count"


class _Returned(Message):
    """A message that returned to its queue `count` times."""

    __slots__ = ("count",)

    count: int


def _returned(message: Message) -> _Returned:
    """The message with one more return, and with the count in its headers."""
    again = _Returned(message.envelope, 0, message.body)
    again.count = 1 + (message.count if isinstance(message, _Returned) else 0)
    try:
        properties = again.properties
        properties.headers = {**(properties.headers or {}), COUNT: again.count}
        again.replace_properties(properties)
    except AMQPError:
        pass  # the properties cannot be written again: the message is passed on as it came
    return again


class QuorumQueue(Queue):
    """A quorum queue in one copy."""

    delivery_limit: int | None = None

    def requeue(self, entries: list[Entry]) -> None:
        kept: list[Entry] = []
        for entry in entries:
            memory = entry.memory
            entry.message = message = _returned(entry.message)
            self._memory.add(entry.memory - memory)
            if self.deleted or self.delivery_limit is None or message.count <= self.delivery_limit:
                kept.append(entry)
            else:
                self.unacknowledged -= 1
                self._drop(entry, "delivery_limit")
        super().requeue(kept)


def check_quorum(described: str, named: bool, durable: bool, exclusive: bool, auto_delete: bool) -> None:
    """Raises PreconditionFailed for a declaration that RabbitMQ refuses for a quorum queue."""
    if not named:
        raise precondition_failed("Cannot declare a server-named queue for type rabbit_quorum_queue")
    for wrong, name in ((auto_delete, "auto-delete"), (exclusive, "exclusive-owner"), (not durable, "non-durable")):
        if wrong:
            raise precondition_failed(f"invalid property '{name}' for {described}")
