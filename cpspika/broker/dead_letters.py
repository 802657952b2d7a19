"""Dead letters: the header x-death, and the test for cycles (RabbitMQ's dead-letter exchanges).

The header x-death is an array of tables, the newest first. There is one table, a "death", for each queue and reason for
which the message was dead-lettered, with a count. A publisher may have written this header itself, so its form is
checked wherever it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from ..wire.message import BasicProperties, Envelope, Message

Death = Mapping[str, Any]

MAX_COUNT = 2**63 - 1  # the largest integer of a table; a publisher may have written it

_KEPT = [name for name in BasicProperties.__slots__ if name not in ("_encoded", "headers", "expiration")]


def deaths_of(message: Message) -> list[Death]:
    """The deaths in a message's header x-death."""
    header = (message.properties.headers or {}).get("x-death")
    return [death for death in header if isinstance(death, Mapping)] if isinstance(header, list) else []


def is_cycle(deaths: list[Death], queue: str) -> bool:
    """Whether a message with these deaths must not go to a queue, since it would cycle for ever.

    This is so if it was dead-lettered in the queue before, and no consumer has rejected it since.
    """
    for death in deaths:
        if death.get("reason") == "rejected":
            return False
        if death.get("queue") == queue:
            return True
    return False


def with_death(
    message: Message, exchange: str, key: str | None, queue: str, reason: str
) -> tuple[Message, list[Death]]:
    """A copy of a message for a dead-letter exchange, with one more death and without expiration; and its deaths.

    exchange: the dead-letter exchange. key: the new routing key; None keeps the message's own. queue, reason: of the
    death.
    """
    old = message.properties
    headers = dict(old.headers or {})
    copies = headers.get("CC")
    # A copy that is no text is not kept: a nested table would be too deep inside x-death.
    keys = [message.routing_key, *(copy for copy in (copies if isinstance(copies, list) else []) if _is_text(copy))]
    deaths = deaths_of(message)
    known = next((death for death in deaths if (death.get("queue"), death.get("reason")) == (queue, reason)), None)
    if known is not None:
        deaths.remove(known)
        count = known.get("count")
        death: Death = {**known, "count": min((count if isinstance(count, int) else 0) + 1, MAX_COUNT)}
    else:
        death = _first(message, queue, reason, keys)
    if key is not None:
        headers.pop("CC", None)  # these keys belong to the old routing
    deaths.insert(0, death)
    headers["x-death"] = deaths
    for name, value in (("exchange", message.exchange), ("queue", queue), ("reason", reason)):
        headers.setdefault(f"x-first-death-{name}", value)
    properties = BasicProperties(headers=headers, **{name: getattr(old, name) for name in _KEPT})
    key = message.routing_key if key is None else key
    envelope = Envelope("basic.publish", exchange=exchange, routing_key=key, encoded=properties.encode())
    return Message(envelope, 0, message.body), deaths


def _is_text(value: Any) -> bool:
    return isinstance(value, (str, bytes))


def _first(message: Message, queue: str, reason: str, keys: list[Any]) -> Death:
    """A message's first death for a queue and reason. keys: the routing keys that it had."""
    death = {
        "count": 1,
        "reason": reason,
        "queue": queue,
        "time": datetime.now(timezone.utc),
        "exchange": message.exchange,
        "routing-keys": keys,
    }
    if message.properties.expiration is not None:
        death["original-expiration"] = message.properties.expiration
    return death
