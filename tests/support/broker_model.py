"""The broker's model alone: a virtual host with a clock that the test turns, and consumers that remember.

model = BrokerServices()
model.queue("q", {"x-message-ttl": 100})
model.publish("", "q", "body")
model.turn(0.1)
assert model.bodies("q") == []
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cpspika import BasicProperties, Message
from cpspika.adapters import MemoryReactor
from cpspika.broker.queues import Entry, MemoryGauge, Queue
from cpspika.broker.virtual_host import VirtualHost
from cpspika.wire.message import Envelope


def message(exchange: str, key: str, body: str | bytes = b"", **properties: Any) -> Message:
    """A message as the link makes it of a client's publish."""
    octets = body.encode() if isinstance(body, str) else body
    encoded = BasicProperties(**properties).encode()
    return Message(Envelope("basic.publish", exchange=exchange, routing_key=key, encoded=encoded), 0, octets)


class QueueConsumer:
    """A consumer with a prefetch (0: none). `held`: what it has and hasn't settled; `got`: all the bodies it was ever
    given."""

    exclusive = False

    def __init__(self, queue: Queue, prefetch: int = 0, priority: int = 0, no_ack: bool = False):
        self.queue = queue
        self.prefetch = prefetch
        self.priority = priority
        self.no_ack = no_ack
        self.held: list[Entry] = []
        self.got: list[str] = []
        self.asked = 0
        self.was_cancelled = False
        queue.add_consumer(self)
        queue.dispatch()

    def wants(self) -> bool:
        self.asked += 1
        return not self.prefetch or len(self.held) < self.prefetch

    def deliver(self, entry: Entry) -> None:
        self.got.append(entry.message.body.decode())
        if not self.no_ack:
            self.held.append(entry)

    def cancelled(self) -> None:
        self.was_cancelled = True

    def ack(self, index: int = 0) -> None:
        self.queue.ack(self.held.pop(index))
        self.queue.resume(self)

    def reject(self) -> None:
        self.queue.reject(self.held.pop(0))
        self.queue.resume(self)

    def requeue(self) -> None:
        """Gives back everything it holds."""
        held, self.held = self.held, []
        self.queue.requeue(held)
        self.queue.resume(self)

    def leave(self) -> None:
        """As at the end of its channel."""
        self.queue.remove_consumer(self)
        held, self.held = self.held, []
        self.queue.requeue(held)


class BrokerServices:
    """A virtual host, its clock and its load."""

    def __init__(self) -> None:
        self.clock = MemoryReactor()
        self.load = MemoryGauge()
        self.vhost = VirtualHost("/", self.clock, self.load)
        self.owner = object()

    def turn(self, seconds: float) -> None:
        """Turns the clock; what comes due on the way happens."""
        self.clock.advance(seconds)

    def queue(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        auto_delete: bool = False,
        exclusive: bool = False,
    ) -> Queue:
        return self.vhost.declare_queue(name, False, False, exclusive, auto_delete, arguments or {}, self.owner)

    def exchange(
        self, name: str, type: str = "fanout", arguments: Mapping[str, Any] | None = None, auto_delete: bool = False
    ) -> None:
        self.vhost.declare_exchange(name, type, False, False, auto_delete, False, arguments or {})

    def bind(self, source: str, queue: str, key: str = "", arguments: Mapping[str, Any] | None = None) -> None:
        self.vhost.bind(source, "queue", queue, key, arguments or {}, self.owner)

    def unbind(self, source: str, queue: str, key: str = "", arguments: Mapping[str, Any] | None = None) -> None:
        self.vhost.unbind(source, "queue", queue, key, arguments or {}, self.owner)

    def join(self, source: str, destination: str, key: str = "") -> None:
        """Binds an exchange to an exchange."""
        self.vhost.bind(source, "exchange", destination, key, {}, self.owner)

    def part(self, source: str, destination: str, key: str = "") -> None:
        self.vhost.unbind(source, "exchange", destination, key, {}, self.owner)

    def publish(self, exchange: str, key: str, body: str | bytes = "", **properties: Any) -> tuple[bool, bool]:
        """(was it routed, was it taken)."""
        said = message(exchange, key, body, **properties)
        queues = self.vhost.route(self.vhost.exchange(exchange), said)
        return bool(queues), self.vhost.push(said, queues)

    def reached(self, exchange: str, key: str, **properties: Any) -> list[str]:
        """The names of the queues that a message would go to, sorted."""
        there = self.vhost.exchange(exchange)
        return sorted(queue.name for queue in self.vhost.route(there, message(exchange, key, **properties)))

    def bodies(self, name: str) -> list[str]:
        """What is ready in a queue."""
        return [ready.body.decode() for ready in self.vhost.queues[name].messages]

    def deaths(self, name: str) -> list[list[tuple[str, str, int]]]:
        """The x-death of each message of a queue, newest death first, as (queue, reason, count)."""
        return [
            [(death["queue"], death["reason"], death["count"]) for death in ready.properties.headers["x-death"]]
            for ready in self.vhost.queues[name].messages
        ]
