"""The broker's model: virtual hosts with their exchanges, queues and bindings. No bytes, no sockets.

A publish walks `route` to the queues that get it; what dies in a queue with a dead-letter exchange is published again
from here, with its history (x-death) in its headers. Refusals are raised as the errors of their reply codes.
"""

from __future__ import annotations

import re
import secrets
from base64 import urlsafe_b64encode
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from ..wire.fields import encode_table
from ..wire.message import Message
from .dead_letters import goes_round, history, with_death
from .queues import Clock, Entry, MemoryGauge, Queue, field_type
from .refusal import not_found, precondition_failed, refusal
from .routing import MATCHERS, X_MATCHES, Matcher

# Bits of the property flags, so that a message without the property isn't decoded to find that out.
HAS_HEADERS = 1 << 13
HAS_EXPIRATION = 1 << 8
HAS_USER_ID = 1 << 4


def flags(message: Message) -> int:
    return int.from_bytes(message.encoded[:2], "big")


def unique_name(prefix: str) -> str:
    """ "amq.gen-..." and its kind."""
    return prefix + urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode()


class Binding(NamedTuple):
    """From exchange `source` to a destination; `kind` of it is "queue" or "exchange"."""

    source: str
    destination: str
    kind: str
    routing_key: str
    arguments: dict[str, Any]


class Exchange:
    """An exchange of a virtual host."""

    def __init__(
        self, name: str, type: str, durable: bool, auto_delete: bool, internal: bool, arguments: Mapping[str, Any]
    ):
        self.name = name
        self.type = type
        self.durable = durable
        self.auto_delete = auto_delete
        self.internal = internal
        self.arguments = dict(arguments)
        self.matcher: Matcher = MATCHERS[type]()
        self._bound: dict[tuple[str, str], dict[tuple[str, bytes], Binding]] = {}

    def __repr__(self) -> str:
        return f"<Exchange {self.name!r}, {self.type}, {len(self.bindings)} bindings>"

    @property
    def bindings(self) -> list[Binding]:
        return [binding for to_one in list(self._bound.values()) for binding in list(to_one.values())]

    @property
    def in_use(self) -> bool:
        return bool(self._bound)

    def bind(self, binding: Binding) -> None:
        """Adds a binding, where the same isn't there already."""
        to_one = self._bound.setdefault((binding.kind, binding.destination), {})
        if to_one.setdefault(_identity(binding), binding) is binding:
            self.matcher.bind(binding.routing_key, binding.arguments, (binding.kind, binding.destination))

    def unbind(self, binding: Binding) -> bool:
        """Takes a binding away; False where it wasn't there."""
        destination = binding.kind, binding.destination
        to_one = self._bound.get(destination, {})
        if to_one.pop(_identity(binding), None) is None:
            return False
        if not to_one:
            del self._bound[destination]
        self.matcher.unbind(binding.routing_key, binding.arguments, destination)
        return True

    def bindings_to(self, kind: str, name: str) -> list[Binding]:
        return list(self._bound.get((kind, name), {}).values())


def _identity(binding: Binding) -> tuple[str, bytes]:
    """What tells two bindings to one destination apart."""
    return binding.routing_key, encode_table("arguments", binding.arguments)


PREDECLARED = {
    "": "direct",
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.topic": "topic",
    "amq.headers": "headers",
    "amq.match": "headers",
}


class VirtualHost:
    """A name space of exchanges and queues: `exchanges` and `queues` by name, `bindings`."""

    def __init__(self, name: str, clock: Clock, load: MemoryGauge):
        self.name = name
        self.clock = clock
        self.load = load
        self.exchanges = {
            exchange: Exchange(exchange, type, True, False, False, {}) for exchange, type in PREDECLARED.items()
        }
        self.exchanges["amq.rabbitmq.trace"] = Exchange("amq.rabbitmq.trace", "topic", True, False, True, {})
        self.queues: dict[str, Queue] = {}
        self.on_deleted: Callable[[Queue], object] | None = None  # hears of every queue's end
        self._deaths: deque[tuple[Entry, str]] = deque()

    def __repr__(self) -> str:
        return f"<VirtualHost {self.name!r}: {len(self.exchanges)} exchanges, {len(self.queues)} queues>"

    @property
    def bindings(self) -> list[Binding]:
        return [binding for exchange in list(self.exchanges.values()) for binding in list(exchange.bindings)]

    # --- exchanges ----------------------------------------------------------------------------------------------------

    def exchange(self, name: str) -> Exchange:
        exchange = self.exchanges.get(name)
        if exchange is None:
            raise not_found("exchange", name, self.name)
        return exchange

    def declare_exchange(
        self,
        name: str,
        type: str,
        passive: bool,
        durable: bool,
        auto_delete: bool,
        internal: bool,
        arguments: Mapping[str, Any],
    ) -> None:
        if not name:
            raise refusal(403, "operation not permitted on the default exchange")
        if passive:
            self.exchange(name)
            return
        if type not in MATCHERS:
            raise refusal(503, f"unknown exchange type '{type}'")
        known = self.exchanges.get(name)
        what = f"exchange '{name}' in vhost '{self.name}'"
        if known is not None:
            fixed = {"type": type, "durable": durable, "auto_delete": auto_delete, "internal": internal}
            _check_same(what, fixed, known, arguments, ("alternate-exchange",))
            return
        if name.startswith("amq."):
            raise refusal(403, f"exchange name '{name}' contains reserved prefix 'amq.*'")
        if not isinstance(arguments.get("alternate-exchange", ""), str):
            raise precondition_failed(f"invalid arg 'alternate-exchange' for {what}: expected a string")
        self.exchanges[name] = Exchange(name, type, durable, auto_delete, internal, arguments)

    def delete_exchange(self, name: str, if_unused: bool) -> None:
        if not name:
            raise refusal(403, "operation not permitted on the default exchange")
        exchange = self.exchanges.get(name)
        if name.startswith("amq.") and exchange is not None:
            raise refusal(403, f"deletion of system exchange '{name}' in vhost '{self.name}' not allowed")
        if exchange is None:
            return  # RabbitMQ: deleting what isn't there is no error
        if if_unused and exchange.in_use:
            raise precondition_failed(f"exchange '{name}' in vhost '{self.name}' in use")
        self._delete_exchanges([name])

    # --- queues -------------------------------------------------------------------------------------------------------

    def queue(self, name: str, owner: Any) -> Queue:
        """The queue, if this owner (a session) may use it."""
        queue = self.queues.get(name)
        if queue is None:
            raise not_found("queue", name, self.name)
        if queue.owner is not None and queue.owner is not owner:
            raise _locked(queue)
        return queue

    def declare_queue(
        self,
        name: str,
        passive: bool,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        arguments: Mapping[str, Any],
        owner: Any,
    ) -> Queue:
        if passive:
            queue = self.queue(name, owner)
            queue.touch()
            return queue
        known = self.queues.get(name) if name else None
        what = f"queue '{name}' in vhost '{self.name}'"
        if known is not None:
            if known.owner is not (owner if exclusive else None):
                raise _locked(known)
            _check_same(what, {"durable": durable, "auto_delete": auto_delete}, known, arguments, _FIXED_ARGUMENTS)
            known.touch()
            return known
        if name.startswith("amq."):
            raise refusal(403, f"queue name '{name}' contains reserved prefix 'amq.*'")
        queue = Queue(
            name or unique_name("amq.gen-"),
            self.name,
            self.clock,
            self.load,
            self._dead,
            self.delete_queue,
            durable,
            auto_delete,
            owner if exclusive else None,
            arguments,
        )
        self.queues[queue.name] = queue
        return queue

    def delete_queue(self, queue: Queue, if_unused: bool = False, if_empty: bool = False) -> int:
        if if_unused and queue.consumer_count:
            raise precondition_failed(f"{queue.described} in use")
        if if_empty and len(queue):
            raise precondition_failed(f"{queue.described} not empty")
        if self.queues.get(queue.name) is queue:
            del self.queues[queue.name]
            self._delete_exchanges(self._forget_destination("queue", queue.name))
        if self.on_deleted is not None:
            self.on_deleted(queue)
        return queue.delete()

    # --- bindings -----------------------------------------------------------------------------------------------------

    def bind(
        self, source: str, kind: str, destination: str, key: str, arguments: Mapping[str, Any], owner: Any
    ) -> None:
        binding = self._binding(source, kind, destination, key, arguments, owner)
        self.exchange(source).bind(binding)

    def unbind(
        self, source: str, kind: str, destination: str, key: str, arguments: Mapping[str, Any], owner: Any
    ) -> None:
        """Takes a binding away. Where it, or either end, isn't there, that is no error, as in RabbitMQ."""
        if not source:
            raise refusal(403, "operation not permitted on the default exchange")
        queue = self.queues.get(destination) if kind == "queue" else None
        if queue is not None:
            self.queue(destination, owner)
        exchange = self.exchanges.get(source)
        if exchange is not None:
            binding = Binding(source, destination, kind, key, dict(arguments))
            self._delete_exchanges(self._unbind(exchange, [binding]))

    def _binding(
        self, source: str, kind: str, destination: str, key: str, arguments: Mapping[str, Any], owner: Any
    ) -> Binding:
        exchange = self.exchange(source)
        if kind == "queue":
            self.queue(destination, owner)
        else:
            self.exchange(destination)
        if not source or (kind == "exchange" and not destination):
            raise refusal(403, "operation not permitted on the default exchange")
        if exchange.type == "headers" and arguments.get("x-match", "all") not in X_MATCHES:
            raise precondition_failed(
                f'Invalid x-match field value <<"{arguments["x-match"]}">>; '
                "expected all, any, all-with-x, or any-with-x"
            )
        return Binding(source, destination, kind, key, dict(arguments))

    def _unbind(self, exchange: Exchange, bindings: list[Binding]) -> list[str]:
        """Takes bindings of an exchange away; returns its name if it goes with the last of them."""
        removed = [exchange.unbind(binding) for binding in bindings]
        gone = any(removed) and exchange.auto_delete and not exchange.in_use
        return [exchange.name] if gone else []

    def _delete_exchanges(self, names: list[str]) -> None:
        """Deletes exchanges, and those that go with their last binding for it, however long the chain."""
        while names:
            name = names.pop()
            if self.exchanges.pop(name, None) is not None:
                names += self._forget_destination("exchange", name)

    def _forget_destination(self, kind: str, name: str) -> list[str]:
        """Takes every binding to a destination away; returns the exchanges that go for it."""
        gone: list[str] = []
        for exchange in list(self.exchanges.values()):
            gone += self._unbind(exchange, exchange.bindings_to(kind, name))
        return gone

    # --- publishing ---------------------------------------------------------------------------------------------------

    def publish(self, message: Message, exchange: Exchange) -> tuple[bool, bool]:
        """Takes a message to the queues it is for. Returns whether there were any, and whether all of them took it."""
        queues = self.route(exchange, message)
        taken = True
        if queues:
            ttl = self._ttl(message)
            for queue in queues:
                taken = queue.push(message, ttl) and taken
        return bool(queues), taken

    def route(self, exchange: Exchange, message: Message) -> list[Queue]:
        keys = [message.routing_key]
        if flags(message) & HAS_HEADERS and b"CC" in message.encoded:
            keys += self._copies(message)
        if not exchange.name and len(keys) == 1:
            queue = self.queues.get(message.routing_key)
            return [queue] if queue is not None else []
        found: dict[str, Queue] = {}
        for key in keys:
            self._walk(exchange, key, message, found)
        return list(found.values())

    def _walk(self, exchange: Exchange, key: str, message: Message, found: dict[str, Queue]) -> None:
        """Follows bindings from an exchange, through others, to queues; each exchange once."""
        todo, seen = [exchange], {exchange.name}
        headers = partial(_headers, message)
        while todo:
            here = todo.pop()
            if here.name:
                reached = list(here.matcher.match(key, headers))
            else:
                reached = [("queue", key)] if key in self.queues else []
            alternate = here.arguments.get("alternate-exchange")
            if not reached and alternate is not None:
                reached = [("exchange", alternate)]
            for kind, name in reached:
                if kind == "queue":
                    found[name] = self.queues[name]
                elif name in self.exchanges and name not in seen:
                    seen.add(name)
                    todo.append(self.exchanges[name])

    def _copies(self, message: Message) -> list[str]:
        """More routing keys, from the headers CC and BCC (RabbitMQ's sender-selected distribution)."""
        headers = _headers(message)
        keys: list[str] = []
        for name in ("CC", "BCC"):
            value = headers.get(name, [])
            if not isinstance(value, list):
                raise precondition_failed(
                    f'invalid message: {{unacceptable_type_in_header,"{name}",{field_type(value)}}}'
                )
            keys += [key for key in value if isinstance(key, str)]
        if "BCC" in headers:
            properties = message.properties
            properties.headers = {name: value for name, value in headers.items() if name != "BCC"}
            message.replace_properties(properties)
        return keys

    @staticmethod
    def _ttl(message: Message) -> float | None:
        return _milliseconds(message.properties.expiration or "") if flags(message) & HAS_EXPIRATION else None

    def check(self, message: Message) -> None:
        """Refuses a message whose properties cannot mean what they say."""
        self._ttl(message)
        if flags(message) & HAS_HEADERS and b"CC" in message.encoded:
            for name, value in ((name, _headers(message).get(name)) for name in ("CC", "BCC")):
                if value is not None and not isinstance(value, list):
                    kind = f'"{name}",{field_type(value)}'
                    raise precondition_failed(f"invalid message: {{unacceptable_type_in_header,{kind}}}")

    # --- dead letters -------------------------------------------------------------------------------------------------

    def _dead(self, entry: Entry, reason: str) -> None:
        """What died in a queue goes to its dead-letter exchange. One death may bring about the next; they are worked
        off here one after another, so that a long chain of queues doesn't exhaust the stack."""
        self._deaths.append((entry, reason))
        if len(self._deaths) > 1:
            return  # whoever began is at it
        while self._deaths:
            self._bury(*self._deaths[0])
            self._deaths.popleft()

    def _bury(self, entry: Entry, reason: str) -> None:
        """Publishes it again, with its history; not to a queue where it would go round for ever."""
        queue = entry.queue
        exchange = self.exchanges.get(queue.arguments["x-dead-letter-exchange"])
        if exchange is None:
            return
        dead = with_death(
            entry.message, exchange.name, queue.arguments.get("x-dead-letter-routing-key"), queue.name, reason
        )
        deaths = history(dead)
        for target in self.route(exchange, dead):
            if not goes_round(deaths, target.name):
                target.push(dead, None)


def _headers(message: Message) -> Mapping[str, Any]:
    return message.properties.headers or {} if flags(message) & HAS_HEADERS else {}


_FIXED_ARGUMENTS = (
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-length-bytes",
    "x-overflow",
    "x-max-priority",
    "x-single-active-consumer",
    "x-queue-type",
)


def _locked(queue: Queue) -> Exception:
    return refusal(
        405,
        f"cannot obtain exclusive access to locked {queue.described}. It could be originally declared on another "
        "connection or the exclusive property value does not match that of the original declaration.",
    )


def _milliseconds(expiration: str) -> float:
    """A message's own time to live; refuses in RabbitMQ's words what is none."""
    number = re.match("[+-]?[0-9]+", expiration)
    if number is None:
        why = "no_integer"
    elif number.end() < len(expiration):
        why = f'{{leftover_string,"{expiration[number.end() :]}"}}'
    elif int(expiration) < 0:
        why = f"{{value_negative,{int(expiration)}}}"
    else:
        return float(int(expiration))
    raise precondition_failed(f"invalid expiration '{expiration}': {why}")


def _check_same(
    what: str, fixed: Mapping[str, Any], known: Any, arguments: Mapping[str, Any], counted: tuple[str, ...]
) -> None:
    """Refuses a declaration that differs from what is there, naming what differs."""
    for name, value in fixed.items():
        current = getattr(known, name)
        if current != value:
            raise precondition_failed(
                f"inequivalent arg '{name}' for {what}: received '{_shown(value)}' but current is '{_shown(current)}'"
            )
    for name in counted:
        received, current = arguments.get(name), known.arguments.get(name)
        if received != current:
            tell = _told if received is None or current is None else _quoted
            raise precondition_failed(
                f"inequivalent arg '{name}' for {what}: received {tell(received)} but current is {tell(current)}"
            )


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _quoted(value: Any) -> str:
    return f"'{_shown(value)}'"


def _told(value: Any) -> str:
    return "none" if value is None else f"the value '{_shown(value)}' of type '{field_type(value)}'"
