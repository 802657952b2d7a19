"""A queue that a program declares as a quorum queue, kept in one copy (`serve(pretend="quorum")`).

A quorum queue counts how often a message returned. A message that is delivered again has the count in its header
x-delivery-count. When the count exceeds the queue's limit, the message is dropped or dead-lettered. Like RabbitMQ 4.3,
x-acquired-count counts all returns, and x-delivery-count only those after a failure.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import AMQPError
from ..wire.message import Message
from .queues import Entry, Queue
from .refusal import precondition_failed

COUNT = "x-delivery-count"
ACQUIRED = "x-acquired-count"


class _Returned(Message):
    """A message that returned to its queue.

    `count`: the number of returns that are limited. `acquired`: of all returns.
    """

    __slots__ = ("acquired", "count")

    acquired: int
    count: int


def _returned(message: Message, failed: bool, counts_acquired: bool) -> _Returned:
    """The message with one more return, and with the counts in its headers."""
    again = _Returned(message.envelope, 0, message.body)
    count, acquired = (message.count, message.acquired) if isinstance(message, _Returned) else (0, 0)
    again.acquired = acquired + 1
    again.count = count + (failed or not counts_acquired)
    counts = {ACQUIRED: again.acquired} if counts_acquired else {}
    if again.count:
        counts[COUNT] = again.count
    _add_headers(again, counts)
    return again


def _add_headers(message: Message, headers: Mapping[str, int]) -> None:
    try:
        properties = message.properties
        properties.headers = {**(properties.headers or {}), **headers}
        message.replace_properties(properties)
    except AMQPError:
        pass  # the properties cannot be written again: the message is passed on as it came


class QuorumQueue(Queue):
    """A quorum queue in one copy."""

    def requeue(self, entries: list[Entry], failed: bool = True) -> None:
        limit = self._rules.delivery_limit if self.limits.delivery_limit is None else self.limits.delivery_limit
        kept: list[Entry] = []
        for entry in entries:
            memory = entry.memory
            entry.message = message = _returned(entry.message, failed, self._rules.counts_acquired)
            self._memory.add(entry.memory - memory)
            if self.deleted or limit is None or message.count <= limit:
                kept.append(entry)
            else:
                self.unacknowledged -= 1
                self._drop(entry, "delivery_limit")
        super().requeue(kept, failed)

    def shown(self, entry: Entry) -> Message:
        """With a count of 0 on a message that never returned, as RabbitMQ 3.10 does for basic.get alone."""
        if self._rules.counts_acquired or isinstance(entry.message, _Returned):
            return entry.message
        first = Message(entry.message.envelope, 0, entry.message.body)
        _add_headers(first, {COUNT: 0})
        return first


def check_quorum(described: str, named: bool, durable: bool, exclusive: bool, auto_delete: bool) -> None:
    """Raises PreconditionFailed for a declaration that RabbitMQ refuses for a quorum queue."""
    if not named:
        raise precondition_failed("Cannot declare a server-named queue for type rabbit_quorum_queue")
    for wrong, name in ((auto_delete, "auto-delete"), (exclusive, "exclusive-owner"), (not durable, "non-durable")):
        if wrong:
            raise precondition_failed(f"invalid property '{name}' for {described}")
