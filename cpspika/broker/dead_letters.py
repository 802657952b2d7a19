"""What a message has died of: the header x-death, and whether it would go round (RabbitMQ's dead-letter exchanges).

The header is an array of tables, the newest death first, one for each queue and reason, counted. It may as well be of
the publisher's own making, so nothing in it is taken for granted.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from ..wire.message import BasicProperties, Envelope, Message

Death = Mapping[str, Any]

_KEPT = [name for name in BasicProperties.__slots__ if name not in ("_encoded", "headers", "expiration")]


def history(message: Message) -> list[Death]:
    """The deaths that a message's headers tell of."""
    told = (message.properties.headers or {}).get("x-death")
    return [death for death in told if isinstance(death, Mapping)] if isinstance(told, list) else []


def goes_round(deaths: list[Death], queue: str) -> bool:
    """Whether a message that has died of this would come to a queue where it died before, and nobody rejected it on the
    way: it would go round for ever."""
    for death in deaths:
        if death.get("reason") == "rejected":
            return False
        if death.get("queue") == queue:
            return True
    return False


def with_death(message: Message, exchange: str, key: str | None, queue: str, reason: str) -> Message:
    """The message as it goes to a dead-letter exchange, under its own routing key where `key` is None."""
    old = message.properties
    headers = dict(old.headers or {})
    copies = headers.get("CC")
    keys = [message.routing_key, *(copies if isinstance(copies, list) else [])]
    deaths = history(message)
    known = next((death for death in deaths if (death.get("queue"), death.get("reason")) == (queue, reason)), None)
    if known is not None:
        deaths.remove(known)
        count = known.get("count")
        death: Death = {**known, "count": (count if isinstance(count, int) else 0) + 1}
    else:
        death = _first(message, queue, reason, keys)
    if key is not None:
        headers.pop("CC", None)  # they were for the routing that it had
    headers["x-death"] = [death, *deaths]
    for name, value in (("exchange", message.exchange), ("queue", queue), ("reason", reason)):
        headers.setdefault(f"x-first-death-{name}", value)
    properties = BasicProperties(headers=headers, **{name: getattr(old, name) for name in _KEPT})
    key = message.routing_key if key is None else key
    envelope = Envelope("basic.publish", exchange=exchange, routing_key=key, encoded=properties.encode())
    return Message(envelope, 0, message.body)


def _first(message: Message, queue: str, reason: str, keys: list[Any]) -> Death:
    """A queue's and reason's first death of a message."""
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
